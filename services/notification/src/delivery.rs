//! Letters on their way: handed to the channel after the commit, bounded, timed, and again until they end.
//!
//! Never here: transactions around a delivery, or rules. From here the flow goes back to `handler.rs` with the result.
//! Everything here may be lost at any instant: what is queued stands in the database, and the due loop finds it.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use contract::{Meta, NotificationId, Timestamp};
use eventlog::{Database, Env, Error, Job, Writer, backoff};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    channel::{Channel, Letter},
    handler::{Done, Handler, Kind, Outcome, Work},
    store,
};

/// Letters that wait for their turn. What does not fit is left to the due loop.
const QUEUE_MAX: usize = 16_384;
/// Letters claimed in one transaction.
const CLAIM_MAX: i64 = 256;
/// How often to look for what other processes left behind. What this one leaves wakes the loop by itself.
const POLL: Duration = Duration::from_secs(1);
/// The shortest pause between two looks, so that an outage of the channel is no storm on the database.
const POLL_MIN: Duration = Duration::from_millis(5);

/// A letter with what its result is appended under.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub letter: Letter,
    pub meta: Meta,
    pub attempts: u32,
}

/// Where letters are handed in. Never blocks.
#[derive(Clone)]
pub(crate) struct Desk {
    queue: mpsc::Sender<Outgoing>,
    /// Letters queued or under way here: none is delivered twice at the same time.
    busy: Arc<Mutex<HashSet<NotificationId>>>,
}

impl Desk {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Outgoing>) {
        let (queue, letters) = mpsc::channel(QUEUE_MAX);
        (Self { queue, busy: Arc::default() }, letters)
    }

    /// Takes a committed letter; drops what is under way already or does not fit, for the due loop to find.
    pub(crate) fn send(&self, outgoing: Outgoing) {
        let id = outgoing.letter.notification_id;
        if self.busy().insert(id) && self.queue.try_send(outgoing).is_err() {
            self.release(id);
        }
    }

    fn release(&self, id: NotificationId) {
        self.busy().remove(&id);
    }

    fn busy(&self) -> std::sync::MutexGuard<'_, HashSet<NotificationId>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What carries the letters.
pub(crate) struct Delivery {
    pub desk: Desk,
    pub channel: Arc<dyn Channel>,
    pub writer: Writer<Handler>,
    pub config: Config,
    /// Something is due at another time than the due loop knows.
    pub postponed: Notify,
}

impl Delivery {
    fn env(&self) -> &Env {
        self.writer.log().env()
    }

    /// Delivers the queued letters, so many at a time, until `stop`; what is under way then is dropped.
    pub(crate) async fn run(self: Arc<Self>, mut queue: mpsc::Receiver<Outgoing>, stop: CancellationToken) {
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(()) = running.next(), if !running.is_empty() => {}
                Some(outgoing) = queue.recv(), if running.len() < self.config.concurrency as usize => {
                    running.push(self.deliver(outgoing));
                }
            }
        }
    }

    async fn deliver(&self, outgoing: Outgoing) {
        let Outgoing { letter, meta, attempts } = outgoing;
        let result = tokio::select! {
            biased;
            result = self.channel.deliver(&letter) => result,
            () = self.env().sleep(self.config.timeout()) => Err("the channel did not answer in time".to_owned()),
        };
        let (order_id, notification_id) = (letter.order_id, letter.notification_id);
        if let Err(reason) = &result {
            tracing::warn!(notification.id = %notification_id, order.id = %order_id, attempts, reason, "a notification was not delivered");
        }
        let work = Work(Kind::Tried { order_id, notification_id, attempts, result });
        let done = self.writer.submit(Job { work, meta }).await;
        self.desk.release(notification_id);
        match done {
            Ok(Done(Outcome::Postponed)) => self.postponed.notify_one(),
            Ok(_) => {}
            // It is still queued in the database, and due when the claim ends.
            Err(error) => tracing::warn!(notification.id = %notification_id, %error, "can't record a delivery yet"),
        }
    }

    /// Claims notifications that are due, at the start and whenever one is, until `stop`.
    pub(crate) async fn run_due(self: Arc<Self>, stop: CancellationToken) {
        let started = self.env().now();
        // One process at a time has a SQLite database: whatever is queued at its start, nobody is delivering.
        let mut orphans = matches!(self.writer.log().database(), Database::Sqlite(_)).then(|| started.plus(self.config.lease()));
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
                    tracing::warn!(%error, attempt = failures, "can't look for due notifications");
                    backoff(self.env(), failures, POLL_MIN, POLL)
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.env().sleep(POLL_MIN.min(wait)) => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.postponed.notified() => {}
                () = self.env().sleep(wait.saturating_sub(POLL_MIN)) => {}
            }
        }
    }

    /// Claims a batch; tells how long nothing more is due, or nothing if there may be more.
    async fn claim(&self, orphans: Option<Timestamp>) -> Result<Option<Duration>, Error> {
        let now = self.env().now();
        let before = orphans.unwrap_or(Timestamp(now.0 + 1));
        let Some(next) = store::next_due(self.writer.log()).await? else { return Ok(Some(POLL)) };
        // Letters that wait here already would only be claimed again and again.
        if next >= before || self.desk.queue.capacity() < QUEUE_MAX / 2 {
            return Ok(Some(next.since(now).clamp(POLL_MIN, POLL)));
        }
        let work = Work(Kind::ClaimDue { before, limit: CLAIM_MAX });
        let Done(Outcome::Claimed(claimed)) = self.writer.submit(Job { work, meta: Meta::default() }).await? else {
            unreachable!("a claim answers with letters")
        };
        claimed.into_iter().for_each(|outgoing| self.desk.send(outgoing));
        Ok(None)
    }
}
