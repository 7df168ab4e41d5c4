//! What a service sends after the commit that recorded it: so much at a time, and again until it has ended.
//!
//! Never here: what is sent, where to, or SQL. From here the flow goes to the service's [`Courier`], which hands the result to its
//! writer. Everything here may be lost at any instant: what is open stands in the database, and the due loop finds it.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use contract::Timestamp;
use eventlog::{Database, Env, Error, Log, backoff};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
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

/// One thing to send, with what its result is appended under.
pub trait Outgoing: Send + 'static {
    /// The same whenever it is claimed: it is not sent twice at the same time.
    fn id(&self) -> Uuid;
}

/// What came of sending one thing.
#[derive(Debug)]
pub enum Sent<T> {
    /// It is not to be sent again.
    Ended,
    /// It is due again after a pause.
    Postponed,
    /// The next one follows from it.
    Next(T),
}

/// Sends what one service has to send, and records what came of it.
pub trait Courier: Send + Sync + 'static {
    type Item: Outgoing;
    /// What is sent, as the name of the tasks and for the log.
    const WHAT: &'static str;

    /// Sends one item, in bounded time, and hands the result to the writer. After an error it is due when its claim ends.
    fn send(&self, item: Self::Item) -> impl Future<Output = Result<Sent<Self::Item>, Error>> + Send;

    /// When the next item is due, as far as is committed.
    fn next_due(&self) -> impl Future<Output = Result<Option<Timestamp>, Error>> + Send;

    /// Takes items that were due before an instant, for this process.
    fn claim(&self, before: Timestamp, limit: i64) -> impl Future<Output = Result<Vec<Self::Item>, Error>> + Send;
}

/// The door to what this process sends. Cheap to clone.
pub struct Queue<T> {
    waiting: mpsc::Sender<T>,
    /// Items queued or under way here.
    busy: Arc<Mutex<HashSet<Uuid>>>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { waiting: self.waiting.clone(), busy: self.busy.clone() }
    }
}

impl<T: Outgoing> Queue<T> {
    /// The door, and what comes in there, for [`start`].
    pub fn new() -> (Self, mpsc::Receiver<T>) {
        let (waiting, items) = mpsc::channel(QUEUE_MAX);
        (Self { waiting, busy: Arc::default() }, items)
    }

    /// Takes a committed item; drops what is under way already or does not fit, for the due loop to find. Never blocks.
    pub fn send(&self, item: T) {
        let id = item.id();
        if self.busy().insert(id) && self.waiting.try_send(item).is_err() {
            self.busy().remove(&id);
        }
    }

    fn busy(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much at a time, and how long a claimed item is left to the process that claimed it.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub concurrency: u32,
    pub lease: Duration,
}

/// Starts to send what comes into `queue` and what is due in the database of `log`.
pub fn start<C: Courier>(
    courier: C,
    (queue, items): (Queue<C::Item>, mpsc::Receiver<C::Item>),
    bounds: Bounds,
    log: Log,
    tasks: &Tasks,
) {
    let office = Arc::new(Office { courier, queue, bounds, log, postponed: Notify::new() });
    tasks.spawn(C::WHAT, office.clone().run(items, tasks.stopping()));
    tasks.spawn(C::WHAT, office.run_due(tasks.stopping()));
}

/// What `future` gives within a time; `None` if it takes longer, and then it is dropped.
pub async fn within<T>(env: &Env, time: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = env.sleep(time) => None,
    }
}

struct Office<C: Courier> {
    courier: C,
    queue: Queue<C::Item>,
    bounds: Bounds,
    log: Log,
    /// Something is due at another time than the due loop knows.
    postponed: Notify,
}

impl<C: Courier> Office<C> {
    /// Sends what is queued until `stop`; what is under way then is dropped.
    async fn run(self: Arc<Self>, mut items: mpsc::Receiver<C::Item>, stop: CancellationToken) {
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(()) = running.next(), if !running.is_empty() => {}
                Some(item) = items.recv(), if running.len() < self.bounds.concurrency as usize => running.push(self.send(item)),
            }
        }
    }

    async fn send(&self, item: C::Item) {
        let id = item.id();
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

    /// Claims what is due, at the start and whenever something is, until `stop`.
    async fn run_due(self: Arc<Self>, stop: CancellationToken) {
        let env = self.log.env();
        // One process at a time has a SQLite database: whatever is open at its start, nobody is sending.
        let mut orphans = matches!(self.log.database(), Database::Sqlite(_)).then(|| env.now().plus(self.bounds.lease));
        let mut failures = 0;
        loop {
            let wait = match self.claim(orphans).await {
                Ok(Some(wait)) => {
                    (orphans, failures) = (None, 0);
                    wait
                }
                Ok(None) => POLL_MIN,
                Err(error) => {
                    failures += 1;
                    tracing::warn!(what = C::WHAT, %error, attempt = failures, "can't look for what is due");
                    backoff(env, failures, POLL_MIN, POLL)
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = env.sleep(POLL_MIN.min(wait)) => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.postponed.notified() => {}
                () = env.sleep(wait.saturating_sub(POLL_MIN)) => {}
            }
        }
    }

    /// Claims a batch; tells how long nothing more is due, or nothing if there may be more.
    async fn claim(&self, orphans: Option<Timestamp>) -> Result<Option<Duration>, Error> {
        let now = self.log.env().now();
        let before = orphans.unwrap_or(Timestamp(now.0 + 1));
        let Some(next) = self.courier.next_due().await? else { return Ok(Some(POLL)) };
        // What waits here already would only be claimed again and again.
        if next >= before || self.queue.waiting.capacity() < QUEUE_MAX / 2 {
            return Ok(Some(next.since(now).clamp(POLL_MIN, POLL)));
        }
        self.courier.claim(before, CLAIM_MAX).await?.into_iter().for_each(|item| self.queue.send(item));
        Ok(None)
    }
}
