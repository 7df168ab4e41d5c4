//! What a service sends after the commit that recorded it: so much at a time, and again until it has ended.
//!
//! Never here: what is sent, where to, or SQL. From here the flow goes to the service's [`Courier`], which hands the result to its
//! writer. Everything here may be lost at any instant: what is open stands in the database, and the due loop finds it.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use contract::{Fault, Timestamp};
use eventlog::{Database, Env, Error, Log, backoff};
use futures_util::{StreamExt, future::BoxFuture, stream};
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use crate::Tasks;

/// Items that wait for their turn. What does not fit is left to the due loop.
const QUEUE_MAX: usize = 16_384;
/// Items claimed in one transaction.
const CLAIM_MAX: i64 = 256;
/// How often to look for what other processes left behind. What this one leaves wakes the loop by itself.
const POLL: Duration = Duration::from_secs(1);
/// The shortest pause between two looks, so that an outage of the other side is no storm on the database.
const POLL_MIN: Duration = Duration::from_millis(5);

/// Sends what one service has to send, and records what came of it.
pub trait Courier: Send + Sync + 'static {
    /// One thing to send, with what its result is appended under.
    type Item: Send + 'static;
    /// What is sent, as the name of the tasks and for the log.
    const WHAT: &'static str;

    /// The same whenever the item is claimed: what has one id is not sent twice at the same time.
    fn id(item: &Self::Item) -> Uuid;

    fn log(&self) -> &Log;

    /// Sends one item, in bounded time, and hands the result to the writer. After an error it is due when its claim ends.
    fn send(&self, item: Self::Item) -> impl Future<Output = Result<Sent<Self::Item>, Error>> + Send;

    /// When the next item is due, as far as is committed.
    fn next_due(&self) -> impl Future<Output = Result<Option<Timestamp>, Error>> + Send;

    /// Takes items that were due before an instant, for this process.
    fn claim(&self, before: Timestamp, limit: i64) -> impl Future<Output = Result<Vec<Self::Item>, Error>> + Send;
}

/// What came of sending one item.
pub enum Sent<T> {
    /// It is not to be sent again.
    Ended,
    /// It is due again after a pause.
    Postponed,
    /// This follows from it, and is committed.
    Next(T),
}

/// The door to what a process sends. Cheap to clone.
pub struct Queue<C: Courier> {
    waiting: mpsc::Sender<C::Item>,
    /// Items queued or under way here.
    busy: Arc<Mutex<HashSet<Uuid>>>,
}

impl<C: Courier> Clone for Queue<C> {
    fn clone(&self) -> Self {
        Self { waiting: self.waiting.clone(), busy: self.busy.clone() }
    }
}

impl<C: Courier> Queue<C> {
    /// The door and what comes in there, for [`start`].
    pub fn new() -> (Self, mpsc::Receiver<C::Item>) {
        let (waiting, items) = mpsc::channel(QUEUE_MAX);
        (Self { waiting, busy: Arc::default() }, items)
    }

    /// Takes a committed item; drops what is under way already or does not fit, for the due loop to find. Never blocks.
    pub fn send(&self, item: C::Item) {
        let id = C::id(&item);
        if self.busy().insert(id) && self.waiting.try_send(item).is_err() {
            self.busy().remove(&id);
        }
    }

    fn busy(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends what comes in and what is due, `concurrency` at a time, until the tasks are to end; what is under way then is
/// dropped. A claimed item is left for a `lease` to whoever claimed it.
pub fn start<C: Courier>(
    courier: C,
    queue: Queue<C>,
    items: mpsc::Receiver<C::Item>,
    concurrency: u32,
    lease: Duration,
    tasks: &Tasks,
) {
    let office = Office::open(courier, queue, lease);
    let (stopping, due) = (tasks.stopping(), office.clone());
    tasks.spawn(C::WHAT, async move { _ = stopping.run_until_cancelled(due.run_due()).await });
    let stopping = tasks.stopping();
    tasks.spawn(C::WHAT, async move { _ = stopping.run_until_cancelled(office.run(items, concurrency as usize)).await });
}

/// What `future` gives within a time; `None` if it takes longer, and then it is dropped.
pub async fn within<T>(env: &Env, time: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = env.sleep(time) => None,
    }
}

/// The same one step at a time, for who decides what happens next.
pub trait Steps: Send {
    /// The next item that came in, being sent.
    fn send(&mut self) -> Option<BoxFuture<'static, ()>>;

    /// A look for what is due; fails with what the database said.
    fn look(&self) -> BoxFuture<'static, Result<(), Error>>;
}

/// Sends nothing by itself.
pub fn steps<C: Courier>(courier: C, queue: Queue<C>, items: mpsc::Receiver<C::Item>, lease: Duration) -> Box<dyn Steps> {
    Box::new(Stepwise { office: Office::open(courier, queue, lease), items })
}

struct Stepwise<C: Courier> {
    office: Arc<Office<C>>,
    items: mpsc::Receiver<C::Item>,
}

impl<C: Courier> Steps for Stepwise<C> {
    fn send(&mut self) -> Option<BoxFuture<'static, ()>> {
        let (item, office) = (self.items.try_recv().ok()?, self.office.clone());
        Some(Box::pin(async move { office.send(item).await }))
    }

    fn look(&self) -> BoxFuture<'static, Result<(), Error>> {
        let office = self.office.clone();
        Box::pin(async move { office.claim().await.map(drop) })
    }
}

struct Office<C: Courier> {
    courier: C,
    queue: Queue<C>,
    /// One process at a time has a SQLite database: whatever is open at its start and was due before this, nobody is sending.
    orphans: Mutex<Option<Timestamp>>,
    /// Something is due at another time than the due loop knows.
    postponed: Notify,
}

impl<C: Courier> Office<C> {
    fn open(courier: C, queue: Queue<C>, lease: Duration) -> Arc<Self> {
        let log = courier.log();
        let orphans = matches!(log.database(), Database::Sqlite(_)).then(|| log.env().now().plus(lease));
        Arc::new(Self { courier, queue, orphans: Mutex::new(orphans), postponed: Notify::new() })
    }

    async fn run(&self, mut items: mpsc::Receiver<C::Item>, concurrency: usize) {
        stream::poll_fn(|context| items.poll_recv(context)).for_each_concurrent(concurrency, |item| self.send(item)).await;
    }

    async fn send(&self, item: C::Item) {
        let id = C::id(&item);
        let sent = self.courier.send(item).await;
        self.queue.busy().remove(&id);
        match sent {
            Ok(Sent::Ended) => {}
            Ok(Sent::Postponed) => self.postponed.notify_one(),
            Ok(Sent::Next(item)) => self.queue.send(item),
            // It is still open in the database, and due when the claim ends.
            Err(error) => tracing::warn!(what = C::WHAT, item.id = %id, %error, "can't record yet what came of sending"),
        }
    }

    /// Claims what is due, at the start and whenever something is.
    async fn run_due(&self) {
        let (log, mut failures) = (self.courier.log(), 0);
        loop {
            let wait = match self.claim().await {
                Ok(Some(wait)) => {
                    failures = 0;
                    wait
                }
                Ok(None) => POLL_MIN,
                Err(error) => {
                    failures += 1;
                    tracing::warn!(what = C::WHAT, %error, attempt = failures, "can't look for what is due");
                    backoff(log.env(), failures, POLL_MIN, POLL)
                }
            };
            log.env().sleep(POLL_MIN).await;
            within(log.env(), wait.saturating_sub(POLL_MIN), self.postponed.notified()).await;
        }
    }

    /// Claims a batch; tells how long nothing more is due, or nothing if there may be more.
    async fn claim(&self) -> Result<Option<Duration>, Error> {
        let orphans = || self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.courier.log().env().now();
        let before = orphans().unwrap_or(Timestamp(now.0 + 1));
        let next = self.courier.next_due().await?;
        let Some(next) = next.filter(|next| *next < before && !Fault::CallsForgotten.is_planted()) else {
            *orphans() = None;
            return Ok(Some(next.map_or(POLL, |next| next.since(now).clamp(POLL_MIN, POLL))));
        };
        // What waits here already would only be claimed again and again.
        if self.queue.waiting.capacity() < QUEUE_MAX / 2 {
            return Ok(Some(next.since(now).clamp(POLL_MIN, POLL)));
        }
        self.courier.claim(before, CLAIM_MAX).await?.into_iter().for_each(|item| self.queue.send(item));
        Ok(None)
    }
}
