//! The relay: publishes the rows of one log to their topics, in order, by one replica at a time.
//!
//! It sets partitions itself and gives each message the sequence before it, so that every leader publishes the same unbroken run: a
//! new one, or an old one that does not know yet, only repeats. Never here: deciding what is published; that was done at append.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use contract::{
    Fault, Message,
    record::{self, Record, Source},
    topics::{self, TOPICS},
};
use eventlog::{Candidate, Checkpoint, Epoch, Error, Log, Saved, backoff};
use rdkafka::{
    ClientContext, Statistics,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseRecord, Producer as _, ProducerContext, PurgeConfig, ThreadedProducer},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Health, Kafka, global_error, is_up, tails};

/// How long a leader leads without saying so again; after a crash another one begins that much later.
pub const LEASE: Duration = Duration::from_secs(3);
/// How often it says so.
const RENEW: Duration = Duration::from_millis(500);
/// How long the checkpoint may lag behind: what a new leader repeats.
const SAVE: Duration = Duration::from_millis(100);
/// Messages on their way to Kafka.
const IN_FLIGHT_MAX: usize = 8_192;
/// Rows read at a time.
const ROWS_MAX: usize = 1_024;
/// Under load a pause between rounds makes few requests of many; a round of fewer rows than one order's is not load.
const PACE: Duration = Duration::from_millis(2);
const PACED_FROM: usize = 12;
/// How long a leader that stops waits for what is on its way.
const FLUSH: Duration = Duration::from_secs(2);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_CAP: Duration = Duration::from_secs(5);
/// How long a leader that must not publish waits before it looks again.
const BARRED: Duration = Duration::from_secs(5);
const ASK: Duration = Duration::from_secs(10);
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
                relay.health.tell("relay", None);
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
            match self.stop.run_until_cancelled(look).await {
                Some(looked) => looked?,
                None => return Ok(Ended::Stopped),
            }
            self.health.tell("relay", None);
            tracing::info!(service = log.service(), position = checkpoint.position, "publishing");
            let flow = Flow::begin(log, checkpoint, producer.clone()).await?;
            flow.run(reports, candidate, &self.stop).await
        }
        .await;
        // Dropping it waits for its thread, and nobody has to wait for that.
        drop(tokio::task::spawn_blocking(move || {
            producer.purge(PurgeConfig::default().queue().inflight());
            drop(producer);
        }));
        ended
    }

    fn producer(&self, log: &Log) -> Result<(Arc<ThreadedProducer<Reports>>, mpsc::UnboundedReceiver<Report>), Ended> {
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
        let context = Reports { sender, health: self.health.clone() };
        let producer: ThreadedProducer<Reports> = config
            .create_with_context(context)
            .map_err(|error| Ended::Failed(format!("can't make a Kafka producer: {error}")))?;
        Ok((Arc::new(producer), reports))
    }

    /// Whether the topics are as they have to be.
    async fn look_at(&self, producer: &Arc<ThreadedProducer<Reports>>, topics: &[(String, i32)]) -> Result<(), Ended> {
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
                 skald log new-epoch --from {first} --database <that of the {service} service>"
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

/// What the broker says of a message: its position, and what went wrong.
pub type Report = (i64, Option<String>);

/// Takes messages on their way to the broker; each gets a [`Report`] later.
pub trait Publish {
    /// # Errors
    /// Why it was not taken.
    fn publish(&self, topic: &str, partition: i32, row: &Message, record: &Record) -> Result<(), String>;
}

impl Publish for Arc<ThreadedProducer<Reports>> {
    fn publish(&self, topic: &str, partition: i32, row: &Message, record: &Record) -> Result<(), String> {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (key, value) in &record.headers {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let mut message = BaseRecord::with_opaque_to(topic, row.position as usize)
            .partition(partition)
            .key(row.key.as_deref().unwrap_or_default())
            .payload(row.data.as_str())
            .timestamp(row.time.0 / 1_000)
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
}

pub struct Reports {
    sender: mpsc::UnboundedSender<Report>,
    health: Health,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        global_error(&self.health, "kafka (publishing)", &error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        if is_up(&statistics) {
            self.health.tell("kafka (publishing)", None);
        }
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, position: usize) {
        let error = result.as_ref().err().map(|(error, _)| error.to_string());
        // Nobody hears it any more once the leader has gone.
        let _ = self.sender.send((position as i64, error));
    }
}

/// A leader's messages on their way.
pub struct Flow<P> {
    log: Log,
    epochs: Vec<Epoch>,
    producer: P,
    /// Rows up to here have been given to the producer; the id of that row, and the chain with it.
    sent: i64,
    last: Option<Uuid>,
    chain: BTreeMap<String, Vec<i64>>,
    /// Rows that are not known to have arrived, in order.
    window: VecDeque<Sent>,
    saved: Checkpoint,
}

struct Sent {
    position: i64,
    to: Option<(String, usize)>,
    has_arrived: bool,
}

impl<P: Publish> Flow<P> {
    /// Goes on from a [`whole`] checkpoint.
    ///
    /// # Errors
    /// [`Ended::Failed`]: what the database said.
    pub async fn begin(log: Log, checkpoint: Checkpoint, producer: P) -> Result<Self, Ended> {
        let last = log.ids_at(&[checkpoint.position]).await?.remove(&checkpoint.position);
        let (epochs, sent, chain) = (log.epochs().await?, checkpoint.position, checkpoint.chain.clone());
        Ok(Self { log, epochs, producer, sent, last, chain, window: VecDeque::new(), saved: checkpoint })
    }

    /// Rows up to here have been given to the producer.
    pub fn sent(&self) -> i64 {
        self.sent
    }

    async fn run(
        mut self,
        mut reports: mpsc::UnboundedReceiver<Report>,
        candidate: &mut Candidate,
        stop: &CancellationToken,
    ) -> Result<Ended, Ended> {
        let env = self.log.env().clone();
        let mut head = self.log.head();
        let (mut renewed, mut is_dirty) = (env.now(), false);
        loop {
            head.mark_unchanged();
            let sent = self.send_more().await?;
            while let Ok(report) = reports.try_recv() {
                self.report(report, &mut is_dirty)?;
            }
            self.settle(&mut is_dirty);
            let age = env.now().since(renewed);
            if age >= RENEW || (is_dirty && age >= SAVE) {
                if let Some(ended) = self.save(candidate).await? {
                    return Ok(ended);
                }
                (renewed, is_dirty) = (env.now(), false);
            }
            if sent > 0 && self.window.len() < IN_FLIGHT_MAX {
                if sent >= PACED_FROM {
                    env.sleep(PACE).await;
                }
                continue;
            }
            let until = if is_dirty { SAVE } else { RENEW }.saturating_sub(age);
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.stop(reports, candidate).await,
                Some(report) = reports.recv() => self.report(report, &mut is_dirty)?,
                changed = head.changed(), if self.window.len() < IN_FLIGHT_MAX => {
                    if changed.is_err() {
                        return self.stop(reports, candidate).await;
                    }
                }
                () = env.sleep(until) => {
                    if !is_dirty {
                        // The net under the wake-up, for rows of other replicas.
                        self.log.refresh().await?;
                    }
                }
            }
        }
    }

    /// Gives the next rows to the producer, and tells how many; none when there are none now, or no room.
    ///
    /// # Errors
    /// Why it must end.
    pub async fn send_more(&mut self) -> Result<usize, Ended> {
        if self.window.len() >= IN_FLIGHT_MAX || *self.log.head().borrow() <= self.sent {
            return Ok(0);
        }
        // The last one comes again: if it is another one now, the log has lost commits and reused their positions.
        let rows = self.log.after((self.sent - 1).max(0), ROWS_MAX).await?;
        let mut rows = rows.into_iter();
        if self.sent > 0 {
            match rows.next() {
                Some(row) if row.position == self.sent && self.last.is_none_or(|last| row.id.0 == last) => {}
                _ => return Err(Ended::Failed("the log has lost rows that were published; looking at Kafka".to_owned())),
            }
        }
        // It may be the newest that is in memory, where other replicas' rows are not.
        if rows.len() == 0 {
            rows = self.log.after(self.sent, ROWS_MAX).await?.into_iter();
        }
        let count = rows.len();
        for row in rows {
            self.send(&row)?;
            (self.sent, self.last) = (row.position, Some(row.id.0));
        }
        Ok(count)
    }

    fn send(&mut self, row: &Message) -> Result<(), Ended> {
        let (Some(topic), Some(key)) = (row.topic.as_deref(), row.key.as_deref()) else {
            self.window.push_back(Sent { position: row.position, to: None, has_arrived: true });
            return Ok(());
        };
        let chain = self.chain.get_mut(topic).ok_or_else(|| {
            Ended::Barred(format!("row {} is for the topic {topic}, which this service does not publish to", row.position))
        })?;
        let partitions = chain.len() as i32;
        let partition = topics::partition_of(key.as_bytes(), partitions);
        let last = &mut chain[partition as usize];
        let source = source_of(&self.log, &self.epochs, row.position);
        // An epoch begins a chain of its own.
        let first =
            self.epochs.iter().rev().find(|epoch| epoch.first_position <= row.position).map_or(1, |epoch| epoch.first_position);
        let previous = if *last >= first { *last } else { 0 };
        let record = record::encode(row, &source, previous);
        let failed = |error| Ended::Failed(format!("can't publish row {} to {topic}: {error}", row.position));
        self.producer.publish(topic, partition, row, &record).map_err(failed)?;
        *last = row.position;
        self.window.push_back(Sent {
            position: row.position,
            to: Some((topic.to_owned(), partition as usize)),
            has_arrived: false,
        });
        Ok(())
    }

    /// Takes one report; `is_dirty` tells that the checkpoint has moved.
    ///
    /// # Errors
    /// [`Ended::Failed`]: throw the producer away.
    pub fn report(&mut self, (position, error): Report, is_dirty: &mut bool) -> Result<(), Ended> {
        if let Some(error) = error {
            // Later ones may have arrived; they are published again behind this one.
            return Err(Ended::Failed(format!("Kafka did not take row {position}: {error}")));
        }
        if let Some(first) = self.window.front()
            && let Ok(index) = usize::try_from(position - first.position)
            && let Some(sent) = self.window.get_mut(index)
        {
            sent.has_arrived = true;
        }
        self.settle(is_dirty);
        Ok(())
    }

    /// Moves the checkpoint over what has arrived without a gap.
    pub fn settle(&mut self, is_dirty: &mut bool) {
        while self.window.front().is_some_and(|first| first.has_arrived || Fault::CheckpointBeforeReport.is_planted()) {
            let Some(Sent { position, to, .. }) = self.window.pop_front() else { return };
            self.saved.position = position;
            if let Some((topic, partition)) = to
                && let Some(last) = self.saved.chain.get_mut(&topic).and_then(|chain| chain.get_mut(partition))
            {
                *last = position;
            }
            *is_dirty = true;
        }
    }

    /// Saves the checkpoint; tells why it must end, if it must.
    ///
    /// # Errors
    /// [`Ended::Failed`]: what the database said.
    pub async fn save(&mut self, candidate: &mut Candidate) -> Result<Option<Ended>, Ended> {
        Ok(match candidate.save(&self.saved, LEASE).await? {
            Saved::Yes => None,
            Saved::Deposed => Some(Ended::Deposed),
            Saved::Behind { head } => Some(Ended::Failed(format!(
                "the log ends at {head}, before {}, which was published; looking at Kafka",
                self.saved.position
            ))),
        })
    }

    /// Waits for what is on its way, not for long, and keeps how far it came.
    async fn stop(mut self, mut reports: mpsc::UnboundedReceiver<Report>, candidate: &mut Candidate) -> Result<Ended, Ended> {
        let env = self.log.env().clone();
        let mut is_dirty = false;
        let flush = async {
            while !self.window.is_empty() {
                let Some(report) = reports.recv().await else { break };
                self.report(report, &mut is_dirty)?;
            }
            Ok::<(), Ended>(())
        };
        tokio::select! {
            flushed = flush => flushed?,
            () = env.sleep(FLUSH) => {}
        }
        self.save(candidate).await?;
        Ok(Ended::Stopped)
    }
}
