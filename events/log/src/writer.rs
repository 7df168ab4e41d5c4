//! The door to a service's writer: what can be asked of it, and the handler that a service brings along.
//!
//! Never here: transactions; `group.rs` takes what has gathered behind this door and commits it together.

use std::{error::Error as _, future::Future, sync::Arc, time::Duration};

use contract::{
    DecodeError, Message, Timestamp,
    dead_letter::Cause,
    record::{Link, Record},
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    Error, Job, Log, Opened, Unit,
    group::Task,
    memory::{weight, weight_of_record},
};

/// Decides a service's work. What it decides on is loaded through the unit, in the same transaction.
pub trait Handler: Send + Sync + 'static {
    /// A request, a message or a due row, as something to decide.
    type Work: Send + Sync + 'static;
    /// What came of it.
    type Done: Send + 'static;

    /// Decides a batch, in its order: one `Done` a job. A later job sees what an earlier one did.
    ///
    /// An error fails the transaction; the writer then tries each entry by itself to find the one to blame.
    fn handle(
        &self,
        unit: &mut Unit<'_>,
        jobs: &[&Job<Self::Work>],
    ) -> impl Future<Output = Result<Vec<Self::Done>, Error>> + Send;

    /// What to keep as the answer to an idempotency key; `None` for what must be decided anew each time.
    fn answer(&self, done: &Self::Done) -> Option<Stored>;

    /// Hears what became of messages, after the commit. Must not block.
    fn committed(&self, done: Vec<Self::Done>);
}

/// The key under which a request is done once. Both parts are keyed hashes of 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey {
    /// Caller, route and the header's value.
    pub key: [u8; 32],
    /// The body.
    pub fingerprint: [u8; 32],
}

/// A committed answer, given again to whoever repeats the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub fingerprint: [u8; 32],
    pub status: u16,
    pub location: Option<String>,
    pub body: String,
}

/// What a request got.
#[derive(Debug)]
pub enum Answer<D> {
    Done(D),
    /// The key was used before, with the same body: this was the answer.
    Repeated(Stored),
    /// The key was used before, with another body.
    KeyReused,
}

/// Which messages a delivery takes, by compare-and-set on the consumer's progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub consumer: String,
    pub topic: String,
    pub partition: i64,
    /// What the progress must be …
    pub from: i64,
    /// … and what it will be.
    pub next: i64,
}

impl Claim {
    /// Whether both move the same row of `progress`.
    pub(crate) fn is_of_row(&self, other: &Self) -> bool {
        (&self.consumer, &self.topic, self.partition) == (&other.consumer, &other.topic, other.partition)
    }

    /// Whether it moves no progress: its messages were parked before.
    pub(crate) fn is_drain(&self) -> bool {
        self.from == self.next
    }
}

/// One message of a delivery, and what to do about it.
#[derive(Clone, Debug)]
pub struct Item<W> {
    pub offset: i64,
    pub message: Arrived,
    pub todo: Todo<W>,
}

impl<W> Item<W> {
    /// A row of another log, with what `consumer` made of it at once.
    pub fn row(consumer: &str, offset: i64, message: Arc<Message>, work: Result<Option<W>, Poison>) -> Self {
        let todo = match work {
            Ok(Some(work)) => Todo::Handle(Job { work, meta: message.effect(consumer, message.time) }),
            Ok(None) => Todo::Nothing,
            Err(poison) => Todo::SetAside(poison),
        };
        Self { offset, message: Arrived::Row(message), todo }
    }
}

/// A message as it came.
#[derive(Clone, Debug)]
pub enum Arrived {
    /// Out of the log itself, where nothing is missing.
    Row(Arc<Message>),
    /// Over a broker, with its place among what its log publishes.
    Linked(Arc<Message>, Link),
    /// Over a broker, and unreadable.
    Raw(Arc<Record>),
}

impl Arrived {
    /// What it takes in memory, about.
    pub fn weight(&self) -> usize {
        match self {
            Self::Row(message) | Self::Linked(message, _) => weight(message),
            Self::Raw(record) => weight_of_record(record),
        }
    }
}

/// What a consumer makes of a message.
#[derive(Clone, Debug)]
pub enum Todo<W> {
    Handle(Job<W>),
    /// It is of no interest.
    Nothing,
    /// It can never be handled.
    SetAside(Poison),
}

/// Why a message can never be handled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poison {
    pub cause: Cause,
    pub error: String,
}

impl Poison {
    pub fn new(cause: Cause, error: impl Into<String>) -> Self {
        Self { cause, error: error.into() }
    }
}

impl From<DecodeError> for Poison {
    fn from(error: DecodeError) -> Self {
        let cause = match error {
            DecodeError::UnknownType(_) | DecodeError::UnknownSchema { .. } => Cause::UnknownType,
            DecodeError::Malformed { .. } => Cause::Undecodable,
        };
        let text = match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        Self::new(cause, text)
    }
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    Committed,
    /// The progress was not what the claim said: somebody else handled these messages. Read it again.
    Lost,
}

/// Bounds of the writer.
#[derive(Clone, Copy, Debug)]
pub struct WriterLimits {
    /// Entries waiting; one more request is refused.
    pub queue_max: usize,
    /// Jobs in one transaction: enough to make the commit cheap, few enough to keep it short. What messages take bounds it too; they
    /// are counted where they come from, as are requests.
    pub batch_max: usize,
}

impl Default for WriterLimits {
    fn default() -> Self {
        Self { queue_max: 4_096, batch_max: 512 }
    }
}

/// How long an idempotency key is kept.
pub const KEYS_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

type Reply<T> = oneshot::Sender<Result<T, Error>>;

pub(crate) enum Entry<H: Handler> {
    Request {
        job: Job<H::Work>,
        key: Option<IdempotencyKey>,
        reply: Reply<Answer<H::Done>>,
    },
    Delivery {
        claim: Claim,
        items: Vec<Item<H::Work>>,
        reply: Reply<Delivered>,
    },
    /// Forgets idempotency keys from before an instant, but none faster than time has passed.
    Forget {
        before: Timestamp,
        passed: Duration,
        reply: Reply<Delivered>,
    },
}

impl<H: Handler> Entry<H> {
    /// How many jobs it is, and what its messages take.
    pub(crate) fn weight(&self) -> (usize, usize) {
        match self {
            Self::Request { .. } | Self::Forget { .. } => (1, 0),
            Self::Delivery { items, .. } => (items.len().max(1), items.iter().map(|item| item.message.weight()).sum()),
        }
    }

    pub(crate) fn fail(self, error: Error) {
        // A reply that nobody waits for any more is no loss: the caller gave up.
        match self {
            Self::Request { reply, .. } => drop(reply.send(Err(error))),
            Self::Delivery { reply, .. } | Self::Forget { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}

/// What an entry got out of a committed transaction.
pub(crate) enum Outcome<D> {
    Answer(Answer<D>),
    Committed(Vec<D>),
    Lost,
}

/// The door to a service's writer. Cheap to clone.
pub struct Writer<H: Handler> {
    queue: mpsc::Sender<Entry<H>>,
    log: Log,
}

impl<H: Handler> Clone for Writer<H> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), log: self.log.clone() }
    }
}

impl<H: Handler> Writer<H> {
    /// The writer and its task, which the caller runs until every clone of the writer is gone.
    pub fn new(opened: Opened, handler: Arc<H>, limits: WriterLimits) -> (Self, impl Future<Output = ()> + Send + use<H>) {
        let (queue, entries) = mpsc::channel(limits.queue_max);
        let Opened { log, connection } = opened;
        let writer = Self { queue, log: log.clone() };
        let task = Task { log, connection: Some(connection), handler, entries, batch_max: limits.batch_max };
        (writer, task.run())
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Decides one request of a person, under an idempotency key if there is one.
    ///
    /// # Errors
    /// [`Error::Overloaded`] at once when the queue is full, [`Error::Backlogged`] when too much waits to be published; else what
    /// the database said.
    pub async fn request(&self, job: Job<H::Work>, key: Option<IdempotencyKey>) -> Result<Answer<H::Done>, Error> {
        if self.log.is_backlogged() {
            return Err(Error::Backlogged);
        }
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Entry::Request { job, key, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::Overloaded,
            mpsc::error::TrySendError::Closed(_) => Error::Closed,
        })?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// Decides one job of the service's own; waits for room in the queue.
    ///
    /// # Errors
    /// What the database said.
    pub async fn submit(&self, job: Job<H::Work>) -> Result<H::Done, Error> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(Entry::Request { job, key: None, reply }).await.map_err(|_| Error::Closed)?;
        match answer.await.map_err(|_| Error::Closed)?? {
            Answer::Done(done) => Ok(done),
            Answer::Repeated(_) | Answer::KeyReused => unreachable!("a job without a key has no stored answer"),
        }
    }

    /// Forgets idempotency keys older than [`KEYS_KEPT`], a bounded number at a time. `passed` is how long it has been since the last
    /// time, or since the start: a clock that leapt makes no key older than that.
    ///
    /// # Errors
    /// What the database said.
    pub async fn forget_old_keys(&self, passed: Duration) -> Result<(), Error> {
        let before = self.log.env().now().minus(KEYS_KEPT);
        let (reply, answer) = oneshot::channel();
        self.queue.send(Entry::Forget { before, passed, reply }).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?.map(drop)
    }

    /// Handles messages and moves the consumer's progress, in one transaction; waits for room in the queue.
    ///
    /// # Errors
    /// What the database said; nothing was handled then.
    pub async fn deliver(&self, claim: Claim, items: Vec<Item<H::Work>>) -> Result<Delivered, Error> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(Entry::Delivery { claim, items, reply }).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}
