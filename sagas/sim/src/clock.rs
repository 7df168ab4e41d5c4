//! The simulated clock: it moves only when the simulation moves it. A process may have one that shows another time.
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
pub(crate) struct Clock {
    world: Arc<Inner>,
    /// What it shows more than the world's, in microseconds.
    wrong_by: i64,
}

#[derive(Debug)]
struct Inner {
    now: AtomicI64,
    /// The first instant that somebody who was polled since [`Clock::listen`] waits for.
    asleep: AtomicI64,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { world: Arc::new(Inner { now: AtomicI64::new(START), asleep: AtomicI64::new(NOBODY) }), wrong_by: 0 }
    }

    /// The clock of a process, which is wrong by so many microseconds for as long as it runs.
    pub(crate) fn wrong_by(&self, wrong_by: i64) -> Self {
        Self { wrong_by, ..self.clone() }
    }

    pub(crate) fn is_right(&self) -> bool {
        self.wrong_by == 0
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(self.even().0 + self.wrong_by)
    }

    /// When the world's clock shows what this one shows at an instant.
    pub(crate) fn in_the_world(&self, instant: Timestamp) -> Timestamp {
        Timestamp(instant.0.saturating_sub(self.wrong_by))
    }

    fn even(&self) -> Timestamp {
        Timestamp(self.world.now.load(Relaxed))
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.world.now.store(self.even().plus(by).0, Relaxed);
    }

    pub(crate) fn advance_to(&self, instant: Timestamp) {
        self.world.now.fetch_max(instant.0, Relaxed);
    }

    /// Forgets who was asleep.
    pub(crate) fn listen(&self) {
        self.world.asleep.store(NOBODY, Relaxed);
    }

    /// Until when somebody sleeps who was polled since.
    pub(crate) fn asleep(&self) -> Option<Timestamp> {
        let until = self.world.asleep.load(Relaxed);
        (until != NOBODY).then_some(Timestamp(until))
    }
}

impl eventlog::Clock for Clock {
    fn now(&self) -> Timestamp {
        Self::now(self)
    }

    fn sleep(&self, wait: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        // Whoever waits does so in even steps, whatever the time is.
        let (clock, until) = (self.clone(), self.even().plus(wait));
        Box::pin(poll_fn(move |_| {
            if clock.even() >= until {
                return Poll::Ready(());
            }
            clock.world.asleep.fetch_min(until.0, Relaxed);
            Poll::Pending
        }))
    }
}
