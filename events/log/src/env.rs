//! Time, chance and what becomes of commits as parameters: production asks the machine, a simulation hands out its own.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use contract::Timestamp;
use rand::{RngCore, SeedableRng, rngs::StdRng};
use uuid::Uuid;

use crate::{Memory, Observer, Stand, SystemClock};

/// A source of time. Instants are truncated to microseconds, which both databases keep.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Timestamp;
    fn sleep(&self, wait: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;

    /// Hears what the time is for whoever shares a database, asked and answered within `took`. A simulated clock is told otherwise.
    fn agree(&self, _time: Timestamp, _took: Duration) {}

    /// How it stands to the machine's clock.
    fn stand(&self) -> Stand {
        Stand::default()
    }
}

/// A commit under way, to be awaited or not.
pub type Commit<'a> = Pin<Box<dyn Future<Output = Result<(), sqlx::Error>> + Send + 'a>>;

/// Stands between the writer and its commits. Production has none; a simulation loses a commit or only its answer, or never
/// returns, which is a crash.
pub trait Disk: Send + Sync + 'static {
    fn commit<'a>(&'a self, commit: Commit<'a>) -> Commit<'a>;
}

/// Clock, randomness and memory of one process (or of one simulated one).
#[derive(Clone)]
pub struct Env {
    clock: Arc<dyn Clock>,
    random: Arc<Mutex<StdRng>>,
    disk: Option<Arc<dyn Disk>>,
    observer: Option<Arc<dyn Observer>>,
    memory: Memory,
}

impl Env {
    /// The machine's clock, made steady, and randomness from the operating system.
    pub fn system() -> Self {
        Self::with(Arc::new(SystemClock::start()), StdRng::from_os_rng())
    }

    /// A given clock, and ids and jitter that follow from a seed.
    pub fn seeded(clock: Arc<dyn Clock>, seed: u64) -> Self {
        Self::with(clock, StdRng::seed_from_u64(seed))
    }

    fn with(clock: Arc<dyn Clock>, random: StdRng) -> Self {
        let (random, memory) = (Arc::new(Mutex::new(random)), Memory::default());
        Self { clock, random, disk: None, observer: None, memory }
    }

    /// The same, with commits that go through `disk`.
    pub fn with_disk(self, disk: Arc<dyn Disk>) -> Self {
        Self { disk: Some(disk), ..self }
    }

    /// The same, with somebody who hears what is done.
    pub fn with_observer(self, observer: Arc<dyn Observer>) -> Self {
        Self { observer: Some(observer), ..self }
    }

    /// The same, with so much memory for messages and requests on their way.
    pub fn with_memory(self, memory: Memory) -> Self {
        Self { memory, ..self }
    }

    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// Who hears what is done. Without one nothing is made ready to be told.
    pub fn observer(&self) -> Option<&dyn Observer> {
        self.observer.as_deref()
    }

    pub(crate) fn disk(&self) -> Option<&dyn Disk> {
        self.disk.as_deref()
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Takes up the time of a database, asked and answered within `took`.
    pub(crate) fn agree(&self, time: Timestamp, took: Duration) {
        self.clock.agree(time, took);
    }

    /// How the clock by which this process goes stands to the machine's.
    pub fn clock(&self) -> Stand {
        self.clock.stand()
    }

    pub async fn sleep(&self, wait: Duration) {
        self.clock.sleep(wait).await;
    }

    /// A fresh UUIDv7: 48 bits of time in milliseconds, 74 random bits.
    pub fn id(&self) -> Uuid {
        let millis = u64::try_from(self.now().0 / 1_000).unwrap_or(0);
        let mut bytes = [0; 10];
        self.lock().fill_bytes(&mut bytes);
        uuid::Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid()
    }

    /// 64 random bits, for jitter. Never for secrets.
    pub fn random(&self) -> u64 {
        self.lock().next_u64()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, StdRng> {
        // A generator can't be left half-changed: a panic elsewhere does not spoil it.
        self.random.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
