//! The simulated clock: it moves only when the simulation moves it.
//!
//! Never here: a waker. Who sleeps is asked again by `drive.rs` once the clock has moved.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use contract::Timestamp;

/// Somewhen in 2023: ids made with it are good UUIDv7.
const START: i64 = 1_700_000_000_000_000;
const NOBODY: i64 = i64::MAX;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    now: AtomicI64,
    /// The first instant that somebody who was polled since [`Clock::listen`] waits for.
    asleep: AtomicI64,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Arc::new(Inner { now: AtomicI64::new(START), asleep: AtomicI64::new(NOBODY) }))
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(self.0.now.load(Relaxed))
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.0.now.store(self.now().plus(by).0, Relaxed);
    }

    pub(crate) fn advance_to(&self, instant: Timestamp) {
        self.0.now.fetch_max(instant.0, Relaxed);
    }

    /// Forgets who was asleep.
    pub(crate) fn listen(&self) {
        self.0.asleep.store(NOBODY, Relaxed);
    }

    /// Until when somebody sleeps who was polled since.
    pub(crate) fn asleep(&self) -> Option<Timestamp> {
        let until = self.0.asleep.load(Relaxed);
        (until != NOBODY).then_some(Timestamp(until))
    }
}

impl eventlog::Clock for Clock {
    fn now(&self) -> Timestamp {
        Self::now(self)
    }

    fn sleep(&self, wait: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (clock, until) = (self.clone(), self.now().plus(wait));
        Box::pin(poll_fn(move |_| {
            if clock.now() >= until {
                return Poll::Ready(());
            }
            clock.0.asleep.fetch_min(until.0, Relaxed);
            Poll::Pending
        }))
    }
}
