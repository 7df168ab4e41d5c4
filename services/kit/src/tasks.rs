//! The tasks of the process: started here only, so that all of them are known by name and end together.
//!
//! Never here: what a task does. Whoever loops selects on [`Tasks::stopping`]; `services/skald` calls [`Tasks::stop`] last.

use std::{
    any::Any,
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The running tasks of one process (or of one simulated one). Cheap to clone.
#[derive(Clone, Default)]
pub struct Tasks {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    stopping: CancellationToken,
    running: Mutex<Running>,
    ended: Notify,
    panicked: OnceLock<&'static str>,
}

#[derive(Default)]
struct Running {
    next: u64,
    names: BTreeMap<u64, &'static str>,
}

impl Inner {
    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Strikes a task off the list, however it ended.
struct Listed {
    inner: Arc<Inner>,
    number: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.inner.running().names.remove(&self.number);
        self.inner.ended.notify_waiters();
    }
}

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a future by itself. One that panics is logged with its name and stops all others: nothing runs on half alive.
    #[allow(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let number = {
            let mut running = self.inner.running();
            running.next += 1;
            let number = running.next;
            running.names.insert(number, name);
            number
        };
        let listed = Listed { inner: self.inner.clone(), number };
        tokio::spawn(async move {
            if let Err(panic) = AssertUnwindSafe(future).catch_unwind().await {
                tracing::error!(task = name, panic = panic_text(&*panic), "a task panicked; stopping");
                // Only the first is kept: it is the one to blame.
                let _ = listed.inner.panicked.set(name);
                listed.inner.stopping.cancel();
            }
        });
    }

    /// Cancelled once the process is to end; loops select on it.
    pub fn stopping(&self) -> CancellationToken {
        self.inner.stopping.clone()
    }

    /// The first task that panicked, if one did: the process should not end as if all had gone well.
    pub fn panicked(&self) -> Option<&'static str> {
        self.inner.panicked.get().copied()
    }

    /// Asks every task to end and waits for them; tells whether all ended in time.
    pub async fn stop(&self, within: Duration) -> bool {
        self.inner.stopping.cancel();
        let in_time = tokio::time::timeout(within, self.all_ended()).await.is_ok();
        if !in_time {
            let names: Vec<&str> = self.inner.running().names.values().copied().collect();
            tracing::warn!(tasks = ?names, "tasks did not end in time");
        }
        in_time
    }

    async fn all_ended(&self) {
        loop {
            let mut ended = std::pin::pin!(self.inner.ended.notified());
            // Registered before the look, so that an end in between is not missed.
            ended.as_mut().enable();
            if self.inner.running().names.is_empty() {
                return;
            }
            ended.await;
        }
    }
}

/// What a panic said, where it said anything.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn stop_waits_for_every_task() {
        let tasks = Tasks::new();
        for _ in 0..3 {
            let stopping = tasks.stopping();
            tasks.spawn("waits", async move { stopping.cancelled().await });
        }
        assert!(tasks.stop(SOON).await);
        assert_eq!(tasks.panicked(), None);
    }

    #[tokio::test]
    async fn a_task_that_panics_stops_the_others_and_is_named() {
        let tasks = Tasks::new();
        let stopping = tasks.stopping();
        tasks.spawn("good", async move { stopping.cancelled().await });
        tasks.spawn("bad", async { panic!("broken") });
        tasks.stopping().cancelled().await;
        assert!(tasks.stop(SOON).await);
        assert_eq!(tasks.panicked(), Some("bad"));
    }

    #[tokio::test]
    async fn a_task_that_does_not_end_is_told() {
        let tasks = Tasks::new();
        tasks.spawn("deaf", std::future::pending());
        assert!(!tasks.stop(Duration::from_millis(10)).await);
    }
}
