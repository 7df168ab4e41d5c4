//! The relay: publishes the rows of one log to their topics, in order, by one replica at a time.
//!
//! It sets partitions itself and gives each message the sequence before it, so that every leader publishes the same unbroken run: a
//! new one, or an old one that does not know yet, only repeats. Never here: deciding what is published; that was done at append.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use contract::{
    Message,
    record::{Record, Source},
    topics::{self, TOPICS},
};
use eventlog::{Candidate, Checkpoint, Env, Epoch, Error, Log, backoff};
use rdkafka::{
    ClientContext, Statistics,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext, PurgeConfig},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Health, Kafka,
    flow::{Flow, IN_FLIGHT_MAX, Publish, RENEW, Report},
    global_error, is_up, tails,
};

/// How long a leader leads without saying so again; after a crash another one begins that much later.
pub const LEASE: Duration = Duration::from_secs(3);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_CAP: Duration = Duration::from_secs(5);
/// How long a leader that must not publish waits before it looks again.
const BARRED: Duration = Duration::from_secs(5);
const ASK: Duration = Duration::from_secs(10);
/// What the producer's troubles are told under.
const PUBLISHING: &str = "kafka (publishing)";
/// How often a producer is asked what went wrong, before it has anything to publish.
const HEAR: Duration = Duration::from_millis(100);
/// Things that a producer is asked for at once: reports come a request each, so these are those of many thousand messages.
const HEARD_MAX: usize = 1_024;
/// 4 MiB, as the topics of dead letters take.
const MESSAGE_BYTES_MAX: &str = "4194304";

/// Publishes a log whenever this replica is its leader, until `stop`.
pub async fn relay(log: Log, kafka: Kafka, health: Health, stop: CancellationToken) {
    let env = log.env().clone();
    let relay = Relay { kafka, health, stop: stop.clone() };
    let mut candidate = Candidate::new(log);
    let mut failures = 0;
    loop {
        let pause = match candidate.lead(LEASE).await {
            Ok(None) => {
                // Whoever does not publish has no trouble with it: what the last producer told must not outlive it.
                relay.health.tell("relay", None);
                relay.health.tell(PUBLISHING, None);
                failures = 0;
                RENEW
            }
            Ok(Some(checkpoint)) => {
                let ended = relay.publish(&mut candidate, checkpoint).await;
                // Whoever leads next begins from the checkpoint; what is not in it yet is only published again.
                if !matches!(ended, Ended::Deposed)
                    && let Err(error) = candidate.resign().await
                {
                    tracing::debug!(%error, "can't resign; the lease ends by itself");
                }
                match ended {
                    Ended::Stopped => return,
                    Ended::Deposed => Duration::ZERO,
                    Ended::Barred(why) => {
                        relay.health.tell("relay", Some(why));
                        BARRED
                    }
                    Ended::Failed(why) => {
                        failures += 1;
                        relay.health.tell("relay", Some(why));
                        backoff(&env, failures, RETRY_FIRST, RETRY_CAP)
                    }
                }
            }
            Err(error) => {
                failures += 1;
                relay.health.tell("relay", Some(format!("can't ask who publishes: {error}")));
                backoff(&env, failures, RETRY_FIRST, RETRY_CAP)
            }
        };
        if stop.run_until_cancelled(env.sleep(pause)).await.is_none() {
            return;
        }
    }
}

/// The source of the row at a position.
pub(super) fn source_of(log: &Log, epochs: &[Epoch], position: i64) -> Source {
    let epoch = epochs.iter().rev().find(|epoch| epoch.first_position <= position);
    log.source(epoch.map_or(1, |epoch| epoch.number))
}

/// Why somebody stopped leading.
#[derive(Debug)]
pub enum Ended {
    Stopped,
    /// Another one leads, or an operator has moved the checkpoint.
    Deposed,
    /// It must not publish until somebody has looked at it.
    Barred(String),
    Failed(String),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Failed(format!("can't read or keep the relay's state: {error}"))
    }
}

struct Relay {
    kafka: Kafka,
    health: Health,
    stop: CancellationToken,
}

/// The topics that a service's log publishes to, each with its partitions.
pub fn published_by(service: &str) -> Vec<(String, i32)> {
    let own = TOPICS.iter().filter(|topic| topic.owner == service).map(|topic| topic.name.to_owned());
    let read = TOPICS.iter().filter(|topic| topic.readers.contains(&service)).map(|topic| topics::dead_letters(topic.name));
    let names: Vec<String> = own.chain(read).collect();
    topics::all().filter(|(name, _)| names.contains(name)).map(|(name, settings)| (name, settings.partitions)).collect()
}

/// Gives a checkpoint a place for every partition that its log publishes to.
///
/// # Errors
/// [`Ended::Barred`] where a topic has changed its partitions.
pub fn whole(checkpoint: &mut Checkpoint, topics: &[(String, i32)]) -> Result<(), Ended> {
    for (topic, partitions) in topics {
        let chain = checkpoint.chain.entry(topic.clone()).or_default();
        if !chain.is_empty() && chain.len() != *partitions as usize {
            let (had, has) = (chain.len(), partitions);
            return Err(Ended::Barred(format!(
                "{topic} was published with {had} partitions and is to have {has} now: make a v2"
            )));
        }
        chain.resize(*partitions as usize, 0);
    }
    Ok(())
}

impl Relay {
    async fn publish(&self, candidate: &mut Candidate, checkpoint: Checkpoint) -> Ended {
        match self.lead(candidate, checkpoint).await {
            Ok(ended) | Err(ended) => ended,
        }
    }

    async fn lead(&self, candidate: &mut Candidate, mut checkpoint: Checkpoint) -> Result<Ended, Ended> {
        let log = candidate.log().clone();
        let topics = published_by(log.service());
        whole(&mut checkpoint, &topics)?;
        let epochs = log.epochs().await?;
        let (producer, reports) = self.producer(&log)?;
        let ended = async {
            // Asking a Kafka that is away takes its time; whoever is told to stop does not wait for it.
            let look = async {
                self.look_at(&producer, &topics).await?;
                self.hold_against_kafka(&log, &epochs, &topics, &checkpoint).await
            };
            let hear = async {
                loop {
                    producer.hear();
                    log.env().sleep(HEAR).await;
                }
            };
            let looked = tokio::select! {
                looked = self.stop.run_until_cancelled(look) => looked,
                never = hear => never,
            };
            match looked {
                Some(looked) => looked?,
                None => return Ok(Ended::Stopped),
            }
            self.health.tell("relay", None);
            tracing::info!(service = log.service(), position = checkpoint.position, "publishing");
            let flow = Flow::begin(log, checkpoint, producer.clone()).await?.with_keys(self.kafka.keys.clone());
            flow.run(reports, candidate, &self.stop).await
        }
        .await;
        // Dropping it waits for its thread, and nobody has to wait for that.
        #[expect(
            clippy::disallowed_methods,
            reason = "one for each time that a leader begins again, which is paced; a purge ends it"
        )]
        drop(tokio::task::spawn_blocking(move || {
            producer.purge(PurgeConfig::default().queue().inflight());
            drop(producer);
        }));
        ended
    }

    fn producer(&self, log: &Log) -> Result<(Arc<BaseProducer<Reports>>, mpsc::UnboundedReceiver<Report>), Ended> {
        // Bounded by what is in flight.
        let (sender, reports) = mpsc::unbounded_channel();
        let mut config = self.kafka.client(&format!("skald-{}-relay", log.service()));
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", "0")
            .set("linger.ms", "0")
            .set("compression.type", "lz4")
            .set("message.max.bytes", MESSAGE_BYTES_MAX)
            .set("queue.buffering.max.messages", (IN_FLIGHT_MAX * 2).to_string());
        let (health, env) = (self.health.clone(), log.env().clone());
        let context = Reports { sender, health, env, heard: AtomicU64::new(0) };
        let producer: BaseProducer<Reports> = config
            .create_with_context(context)
            .map_err(|error| Ended::Failed(format!("can't make a Kafka producer: {error}")))?;
        Ok((Arc::new(producer), reports))
    }

    /// Whether the topics are as they have to be.
    #[expect(
        clippy::disallowed_methods,
        reason = "one relay a process, which waits for it unless the process stops; the question has a bound"
    )]
    async fn look_at(&self, producer: &Arc<BaseProducer<Reports>>, topics: &[(String, i32)]) -> Result<(), Ended> {
        let (client, wanted) = (producer.clone(), topics.to_vec());
        let looked = tokio::task::spawn_blocking(move || {
            let metadata =
                client.client().fetch_metadata(None, ASK).map_err(|error| Ended::Failed(format!("Kafka is away: {error}")))?;
            for (topic, partitions) in wanted {
                let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
                match found.map(|found| found.partitions().len()) {
                    None | Some(0) => {
                        let how = "make it with: skald topics apply";
                        return Err(Ended::Failed(format!("the topic {topic} is missing; {how}")));
                    }
                    Some(found) if found != partitions as usize => {
                        let why = "a key's partition never changes";
                        return Err(Ended::Barred(format!("{topic} has {found} partitions instead of {partitions}; {why}")));
                    }
                    Some(_) => {}
                }
            }
            Ok(())
        });
        looked.await.unwrap_or_else(|error| Err(Ended::Failed(error.to_string())))
    }

    /// Refuses to publish from a log that Kafka is ahead of; tells what Kafka has lost.
    async fn hold_against_kafka(
        &self,
        log: &Log,
        epochs: &[Epoch],
        topics: &[(String, i32)],
        checkpoint: &Checkpoint,
    ) -> Result<(), Ended> {
        let chain = &checkpoint.chain;
        let published =
            |topic: &str, partition: i32| chain.get(topic).and_then(|of| of.get(partition as usize)).copied().unwrap_or(0);
        let checked = tails::check(&self.kafka, log, epochs, topics.to_vec(), &published).await.map_err(Ended::Failed)?;
        let service = log.service();
        if let Some(first) = checked.diverged {
            return Err(Ended::Barred(format!(
                "the log of {service} has lost messages that Kafka holds, from position {first} on: it was restored from a backup, or a \
                 failover lost commits. Nothing is published. To go on with what the log has: \
                 skald log new-epoch --from {first} --database <that of the {service} service>. If the log has lost nothing, somebody else \
                 has written to its topics: with a message key that is passed over (SECURITY.md)"
            )));
        }
        if let Some(last) = checked.lost {
            tracing::error!(
                service,
                "Kafka has lost messages of the {service} service that were published after position {last}: a topic was made anew, or a \
                 broker has lost its disk. To publish them again: skald relay rewind --to {last} --database <that of the {service} service>"
            );
        }
        Ok(())
    }
}

impl Publish for Arc<BaseProducer<Reports>> {
    fn publish(&self, topic: &str, partition: i32, row: &Message, record: &Record) -> Result<(), String> {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (key, value) in &record.headers {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        // The broker stamps it anew (`topics.rs`). Where a topic does not have that setting, a row of a clock that ran ahead would be
        // refused until its time has come, and everything behind it would wait.
        let mut message = BaseRecord::with_opaque_to(topic, row.position as usize)
            .partition(partition)
            .key(row.key.as_deref().unwrap_or_default())
            .payload(row.data.as_str())
            .timestamp(row.time.min(self.context().env.now()).0 / 1_000)
            .headers(headers);
        while let Err((error, again)) = self.send(message) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(error.to_string());
            }
            // More is allowed in flight than is ever sent, so this only waits for reports that are on their way here.
            self.poll(Duration::from_millis(1));
            message = again;
        }
        Ok(())
    }

    fn hear(&self) {
        let heard = &self.context().heard;
        for _ in 0..HEARD_MAX {
            let before = heard.load(Ordering::Relaxed);
            self.poll(Duration::ZERO);
            if heard.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }
}

pub struct Reports {
    sender: mpsc::UnboundedSender<Report>,
    health: Health,
    env: Env,
    /// Whatever librdkafka has told, counted: it tells one thing a poll, and not whether there is more.
    heard: AtomicU64,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::log(level, facility, message);
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.heard.fetch_add(1, Ordering::Relaxed);
        global_error(&self.health, PUBLISHING, &error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.heard.fetch_add(1, Ordering::Relaxed);
        if is_up(&statistics) {
            self.health.tell(PUBLISHING, None);
        }
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, position: usize) {
        self.heard.fetch_add(1, Ordering::Relaxed);
        let error = result.as_ref().err().map(|(error, _)| error.to_string());
        // Nobody hears it any more once the leader has gone.
        let _ = self.sender.send((position as i64, error));
    }
}
