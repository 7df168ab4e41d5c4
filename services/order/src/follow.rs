//! Follows the service's own log, and wakes whoever waits for an order: `Prefer: wait`, and SSE.
//!
//! It reads committed rows and nothing else, so that it does not matter which replica moved the saga. Never here: decisions.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use contract::{Message, OrderId, Timestamp, order::Event};
use eventlog::{Error, Log};
use saga::order::State;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const ROWS_READ_MAX: usize = 1_024;
const POLL: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(200);

/// How an order ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub state: State,
    pub reason: Option<&'static str>,
    pub at: Timestamp,
}

/// What is known of an order since somebody began to watch it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The newest position that concerns it.
    pub position: i64,
    pub end: Option<End>,
}

type Watched = Arc<Mutex<HashMap<Uuid, watch::Sender<Seen>>>>;

/// The orders that somebody watches. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Watchers {
    watched: Watched,
}

/// One who watches an order. Begin to watch, then look: so nothing is missed in between.
pub(crate) struct Watcher {
    seen: watch::Receiver<Seen>,
    id: Uuid,
    watched: Watched,
}

fn lock(watched: &Watched) -> MutexGuard<'_, HashMap<Uuid, watch::Sender<Seen>>> {
    watched.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watchers {
    pub(crate) fn watch(&self, id: OrderId) -> Watcher {
        let seen = lock(&self.watched).entry(id.0).or_default().subscribe();
        Watcher { seen, id: id.0, watched: self.watched.clone() }
    }

    fn tell(&self, rows: &[Arc<Message>]) {
        let watched = lock(&self.watched);
        if watched.is_empty() {
            return;
        }
        for row in rows {
            if let Some(sender) = row.meta.correlation.and_then(|id| watched.get(&id)) {
                let end = end(row);
                sender.send_modify(|seen| *seen = Seen { position: row.position, end: end.or(seen.end) });
            }
        }
    }
}

impl Watcher {
    /// Waits until the order has ended, at most `wait`, and not longer than the service lives.
    pub(crate) async fn end(&mut self, wait: Duration, stopping: &CancellationToken) -> Option<End> {
        let ended = stopping.run_until_cancelled(self.seen.wait_for(|seen| seen.end.is_some()));
        tokio::time::timeout(wait, ended).await.ok()??.ok().and_then(|seen| seen.end)
    }

    /// Waits until something happened to the order since the last call.
    pub(crate) async fn changed(&mut self) {
        // The sender lives as long as this watcher does.
        let _ = self.seen.changed().await;
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut watched = lock(&self.watched);
        // Let go under the lock: of two that leave at once the second must see that nobody is left.
        self.seen = watch::Sender::default().subscribe();
        if watched.get(&self.id).is_some_and(|sender| sender.receiver_count() == 0) {
            watched.remove(&self.id);
        }
    }
}

fn end(row: &Message) -> Option<End> {
    if row.topic.as_deref() != Some(contract::topics::ORDER_EVENTS) {
        return None;
    }
    match Event::decode(&row.kind, row.schema, &row.data).ok()? {
        Event::OrderPlaced(_) => None,
        Event::OrderConfirmed(_) => Some(End { state: State::Confirmed, reason: None, at: row.time }),
        Event::OrderCancelled(order) => Some(End { state: State::Cancelled, reason: Some(order.reason.as_str()), at: row.time }),
    }
}

/// Reads the log from its present head on, until `stop`.
pub(crate) fn follow(log: Log, watchers: Watchers, stop: CancellationToken) -> impl Future<Output = ()> {
    // Here, and not when the task first runs: orders may be placed before that.
    let position = *log.head().borrow();
    follow_from(position, log, watchers, stop)
}

async fn follow_from(mut position: i64, log: Log, watchers: Watchers, stop: CancellationToken) {
    let mut head = log.head();
    loop {
        head.mark_unchanged();
        let pause = match log.after(position, ROWS_READ_MAX).await {
            Ok(rows) => {
                watchers.tell(&rows);
                if let Some(newest) = rows.last() {
                    position = newest.position;
                    continue;
                }
                POLL
            }
            Err(Error::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "can't follow the log; trying again");
                head.mark_unchanged();
                PAUSE
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = head.changed() => if changed.is_err() { return },
            () = log.env().sleep(pause) => {
                if let Err(error) = log.refresh().await {
                    tracing::debug!(%error, "can't look up the head");
                }
            }
        }
    }
}
