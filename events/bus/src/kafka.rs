//! The bus over Kafka: a relay that publishes one log, a consumer group a service, the topics.
//!
//! `relay` and `tails` write and look at what is written, `group` and `partition` read, `topics` makes and checks. Never here: what a
//! message means, SQL. What a crash leaves half done is told from the database, never from Kafka.

mod flow;
mod group;
mod locate;
mod partition;
mod relay;
mod tails;
mod topics;
mod unreadable;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use contract::MessageKeys;
use eventlog::Memory;
use rdkafka::{
    ClientConfig, ClientContext, Statistics,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
};

pub use flow::{Flow, Publish, Report};
pub use group::{Group, Spawn};
pub use locate::{Locator, Place};
pub use partition::{Buffer, Look, Partition, Places, Room, begin_at, incoming, incoming_with};
pub use relay::{Ended, LEASE, published_by, relay, whole};
pub use topics::{Difference, TopicsError, apply, check};

/// The largest batch of our topics but dead letters, in bytes: what is asked of one partition at a time.
const FETCH_LEAST: usize = 1024 * 1024;

/// How to reach a cluster: settings of librdkafka, such as `bootstrap.servers`; and by what its records are believed. Cheap to clone.
#[derive(Clone)]
pub struct Kafka {
    settings: Arc<Vec<(String, String)>>,
    keys: MessageKeys,
}

impl Kafka {
    /// The settings of the connection; those of the protocol below are not to be changed.
    pub fn new(settings: Vec<(String, String)>) -> Self {
        Self { settings: Arc::new(settings), keys: MessageKeys::default() }
    }

    /// With message keys every record is signed, and what does not verify is forged.
    #[must_use]
    pub fn with_keys(self, keys: MessageKeys) -> Self {
        Self { keys, ..self }
    }

    /// What every client here has in common.
    fn client(&self, name: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (key, value) in self.settings.iter() {
            config.set(key, value);
        }
        config
            .set("client.id", name)
            // Small messages that somebody waits for.
            .set("socket.nagle.disable", "true")
            .set("socket.keepalive.enable", "true")
            // A broker that is back is found within a second.
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "1000")
            .set("topic.metadata.refresh.interval.ms", "10000")
            .set("topic.metadata.propagation.max.ms", "5000")
            .set("allow.auto.create.topics", "false")
            .set("statistics.interval.ms", "2000");
        config
    }
}

/// Bounds what a client that reads has fetched ahead of whoever takes it: librdkafka's own bounds are 64 MiB and 50 MiB.
fn bound(config: &mut ClientConfig, memory: Memory) {
    // An answer holds one batch at least, however small the bound; that is librdkafka's own least one.
    let fetch = memory.fetch().max(FETCH_LEAST);
    config
        .set("queued.max.messages.kbytes", (memory.fetched() / 1024).max(1).to_string())
        .set("fetch.max.bytes", fetch.to_string())
        .set("fetch.message.max.bytes", FETCH_LEAST.to_string());
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Health").field(&self.problem()).finish()
    }
}

/// What is wrong with the way to Kafka and back, for `/health` and the metrics. Cheap to clone.
#[derive(Clone, Default)]
pub struct Health {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    problems: BTreeMap<&'static str, String>,
    lag: BTreeMap<(String, i32), i64>,
}

impl Health {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One sentence for each part that does not work now.
    pub fn problem(&self) -> Option<String> {
        let state = self.state();
        let mut told: Vec<&str> = state.problems.values().map(String::as_str).collect();
        told.sort_unstable();
        told.dedup();
        (!told.is_empty()).then(|| told.join("; "))
    }

    /// How many messages of each assigned topic and partition have not been handled.
    pub fn lag(&self) -> Vec<(String, i32, i64)> {
        self.state().lag.iter().map(|((topic, partition), lag)| (topic.clone(), *partition, *lag)).collect()
    }

    /// What is no more than not done yet.
    fn begin(&self, part: &'static str, what: &str) {
        self.state().problems.entry(part).or_insert_with(|| what.to_owned());
    }

    fn tell(&self, part: &'static str, problem: Option<String>) {
        let mut state = self.state();
        match problem {
            Some(problem) => {
                if state.problems.get(part) != Some(&problem) {
                    tracing::warn!(part, "{problem}");
                    state.problems.insert(part, problem);
                }
            }
            None => {
                if state.problems.remove(part).is_some() {
                    tracing::info!(part, "works again");
                }
            }
        }
    }
}

/// What librdkafka tells about itself, on its way to the log.
fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        // A broker that is away is told once, by `Health`; librdkafka says it at every attempt.
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error
            if facility != "FAIL" && facility != "ERROR" =>
        {
            tracing::warn!(facility, "librdkafka: {message}");
        }
        _ => tracing::debug!(facility, "librdkafka: {message}"),
    }
}

/// Whether any broker can be talked to.
fn is_up(statistics: &Statistics) -> bool {
    statistics.brokers.values().any(|broker| broker.state == "UP" && broker.nodeid >= 0)
}

/// A global error: only the loss of all brokers is a state of its own; what else there is comes back where it happened.
fn global_error(health: &Health, part: &'static str, error: &KafkaError, reason: &str) {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::AllBrokersDown) => health.tell(part, Some("Kafka is away".to_owned())),
        Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL | RDKafkaErrorCode::SaslAuthenticationFailed) => {
            tracing::debug!(part, %error, "librdkafka: {reason}");
            health.tell(part, Some(format!("Kafka refuses the connection: {error}; see its user, password and certificate")));
        }
        _ => tracing::debug!(part, %error, "librdkafka: {reason}"),
    }
}

/// The context of clients that are short-lived and answer for themselves.
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, "librdkafka: {reason}");
    }

    fn stats_raw(&self, _statistics: &[u8]) {}
}

impl ConsumerContext for Quiet {}
