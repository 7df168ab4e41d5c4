//! A service's consumer group: one thread that polls, and a consumer for each partition that it is assigned.
//!
//! The thread never waits for a handler: a partition whose buffer is full is paused. Offsets come from the service's database and
//! are told to the group only so that its lag shows in Kafka's tools. Whatever goes wrong here ends the client and begins a new one.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use contract::{
    MessageKeys,
    record::Record,
    topics::{TOPICS, Topic},
};
use eventlog::{Error, Log, Writer, backoff};
use futures_util::future::BoxFuture;
use rdkafka::{
    ClientContext, Offset, Statistics, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers as _, Message as _},
    types::RDKafkaRespErr,
};
use tokio::{runtime::Handle, sync::oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    Health, Kafka, global_error, is_up,
    partition::{BUFFER_MAX, Buffer, Partition, Places, begin_at, incoming_with},
};
use crate::{Consumer, consume};

/// How the process starts a task that it waits for at its end.
pub type Spawn = Arc<dyn Fn(BoxFuture<'static, ()>) + Send + Sync>;

/// How long a poll waits; a message ends the wait. Also how late a paused partition goes on.
const POLL: Duration = Duration::from_millis(50);
/// How often the group is told of the progress.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// The bound of one question to Kafka or to the database during an assignment.
const ASK: Duration = Duration::from_secs(10);
/// How often a question to Kafka is put again meanwhile: whoever is told to stop waits for no more than one answer.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// How long leaving the group may take.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);
/// A partition of which nothing was received for so many statistics, two seconds each, although there is something, has stalled.
const STALLED_AFTER: u32 = 5;
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_CAP: Duration = Duration::from_secs(5);

/// What a service consumes, as a member of the group `skald-<consumer>`.
pub struct Group {
    pub consumer: &'static str,
    /// Topics of the contract's table.
    pub topics: Vec<&'static str>,
    pub kafka: Kafka,
    pub health: Health,
    pub spawn: Spawn,
    pub stop: CancellationToken,
}

impl Group {
    /// Handles what comes, until `stop`.
    pub async fn consume<H: Consumer>(self, handler: Arc<H>, writer: Writer<H>) {
        let Self { consumer, topics, kafka, health, spawn, stop } = self;
        let log = writer.log().clone();
        let until = stop.clone();
        let start = move |partition: Partition| {
            spawn(Box::pin(consume(consumer, partition, handler.clone(), writer.clone(), until.clone())));
        };
        let (start, made_anew, runtime) = (Arc::new(start), Places::default(), Handle::current());
        let member = Member { consumer, topics, kafka, log, health, start, made_anew, stop, runtime };
        let (ended, end) = oneshot::channel();
        let thread = std::thread::Builder::new().name(format!("{consumer} poll"));
        let spawned = thread.spawn(move || {
            member.run();
            // Nobody waits for it any more when the process ends in a hurry.
            let _ = ended.send(());
        });
        match spawned {
            // A service that no longer hears anything must not go on as if nothing had happened.
            Ok(_) => end.await.expect("the thread that polls Kafka panicked"),
            Err(error) => tracing::error!(consumer, %error, "can't start the thread that polls Kafka"),
        }
    }
}

struct Member {
    consumer: &'static str,
    topics: Vec<&'static str>,
    kafka: Kafka,
    log: Log,
    health: Health,
    start: Arc<dyn Fn(Partition) + Send + Sync>,
    made_anew: Places,
    stop: CancellationToken,
    runtime: Handle,
}

impl Member {
    fn run(self) {
        // Consumers of partitions are started from this thread.
        let runtime = self.runtime.clone();
        let _entered = runtime.enter();
        let mut failures = 0;
        while !self.stop.is_cancelled() {
            let began = self.log.env().now();
            let Err(why) = self.session() else { return };
            self.health.tell("consumer", Some(why));
            failures = if self.log.env().now().since(began) > RETRY_CAP * 2 { 1 } else { failures + 1 };
            let pause = self.log.env().sleep(backoff(self.log.env(), failures, RETRY_FIRST, RETRY_CAP));
            self.runtime.block_on(self.stop.run_until_cancelled(pause));
        }
    }

    /// One client from its making to its end; why it ended, unless by `stop`.
    fn session(&self) -> Result<(), String> {
        self.health.begin("consumer", "joining the consumer group");
        // Who can't read where to begin has no business in the group.
        wait_for(&self.runtime, &self.stop, self.log.progress_of(self.consumer))
            .map_err(|error| format!("can't read the progress: {error}"))?;
        let session = Session {
            consumer: self.consumer,
            keys: self.kafka.keys.clone(),
            log: self.log.clone(),
            health: self.health.clone(),
            start: self.start.clone(),
            runtime: self.runtime.clone(),
            lost: CancellationToken::new(),
            stop: self.stop.clone(),
            made_anew: self.made_anew.clone(),
            is_ending: AtomicBool::new(false),
            state: Mutex::default(),
        };
        let mut config = self.kafka.client(&format!("skald-{}", self.consumer));
        config
            .set("group.id", group(self.consumer))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", "6000")
            .set("heartbeat.interval.ms", "2000")
            .set("isolation.level", "read_uncommitted")
            .set("fetch.wait.max.ms", "500")
            .set("fetch.error.backoff.ms", "100")
            .set("fetch.queue.backoff.ms", "10")
            .set("queued.min.messages", "1000")
            .set("queued.max.messages.kbytes", "4096");
        let client: BaseConsumer<Session> =
            config.create_with_context(session).map_err(|error| format!("can't make a Kafka consumer: {error}"))?;
        client.subscribe(&self.topics).map_err(|error| format!("can't subscribe: {error}"))?;
        let ended = self.poll(&client);
        client.context().end();
        leave(client);
        ended
    }

    fn poll(&self, client: &BaseConsumer<Session>) -> Result<(), String> {
        let session = client.context();
        let (mut told, mut last_told) = (HashMap::new(), self.log.env().now());
        while !self.stop.is_cancelled() {
            match client.poll(POLL) {
                Some(Ok(message)) => session.take(client, &message)?,
                Some(Err(error)) => session.hear(&error)?,
                None => {}
            }
            if session.lost.is_cancelled() {
                return Err("the progress is not where it was; joining the group again".to_owned());
            }
            session.resume(client)?;
            let now = self.log.env().now();
            if now.since(last_told) > TELL_EVERY {
                last_told = now;
                session.tell_group(client, &mut told);
            }
        }
        Ok(())
    }
}

/// Leaves the group, so that others take over at once. That waits for the broker, but not longer than anybody else should: what
/// is left of it goes on in a thread of its own, and ends with the process.
fn leave(client: BaseConsumer<Session>) {
    let (left, has_left) = std::sync::mpsc::sync_channel(1);
    let leaving = std::thread::Builder::new().name("leaving a group".to_owned()).spawn(move || {
        drop(client);
        // Nobody may be waiting any more.
        let _ = left.send(());
    });
    if leaving.is_ok() {
        // Either way it is time to go on.
        let _ = has_left.recv_timeout(LEAVE_WITHIN);
    }
}

/// The consumer group of a service.
pub(super) fn group(consumer: &str) -> String {
    format!("skald-{consumer}")
}

/// Waits for the database, but neither for ever nor past the end of the process.
fn wait_for<T>(runtime: &Handle, stop: &CancellationToken, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match runtime.block_on(async { tokio::time::timeout(ASK, stop.run_until_cancelled(answer)).await }) {
        Ok(Some(answered)) => answered,
        Ok(None) => Err(Error::Closed),
        Err(_) => Err(Error::Overloaded),
    }
}

/// What belongs to one client: its assignment.
struct Session {
    consumer: &'static str,
    keys: MessageKeys,
    log: Log,
    health: Health,
    start: Arc<dyn Fn(Partition) + Send + Sync>,
    runtime: Handle,
    /// A partition's buffer no longer joins its progress.
    lost: CancellationToken,
    stop: CancellationToken,
    made_anew: Places,
    is_ending: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    assigned: HashMap<(String, i32), Assigned>,
    /// Whether any of them may be paused: most messages come while none is.
    may_be_paused: bool,
    failed: Option<String>,
}

struct Assigned {
    topic: &'static Topic,
    buffer: Arc<Buffer>,
    is_paused: bool,
    /// The newest offset received, and for how many statistics nothing came although there was something.
    received: i64,
    stalled: u32,
}

impl Session {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, why: String) {
        self.state().failed.get_or_insert(why);
    }

    /// Hands a message on to the consumer of its partition.
    fn take(&self, client: &BaseConsumer<Self>, message: &BorrowedMessage<'_>) -> Result<(), String> {
        let mut state = self.state();
        let place = (message.topic().to_owned(), message.partition());
        // Revoked while it was on its way.
        let Some(assigned) = state.assigned.get_mut(&place) else { return Ok(()) };
        assigned.received = message.offset();
        let at = (message.partition(), message.offset());
        assigned.buffer.push(incoming_with(&self.keys, assigned.topic, at.0, at.1, record(message)));
        if assigned.buffer.waiting() >= BUFFER_MAX && !assigned.is_paused {
            assigned.is_paused = true;
            state.may_be_paused = true;
            client.pause(&list([&place])).map_err(|error| format!("can't pause a partition: {error}"))?;
        }
        Ok(())
    }

    /// Lets partitions go on that have room again, and tells what went wrong meanwhile.
    fn resume(&self, client: &BaseConsumer<Self>) -> Result<(), String> {
        let mut state = self.state();
        if let Some(why) = state.failed.take() {
            return Err(why);
        }
        if !state.may_be_paused {
            return Ok(());
        }
        let mut ready = Vec::new();
        let State { assigned, may_be_paused, .. } = &mut *state;
        *may_be_paused = false;
        for (place, assigned) in assigned {
            if assigned.is_paused && assigned.buffer.waiting() < BUFFER_MAX / 4 {
                assigned.is_paused = false;
                ready.push(place);
            }
            *may_be_paused |= assigned.is_paused;
        }
        if ready.is_empty() {
            return Ok(());
        }
        client.resume(&list(ready)).map_err(|error| format!("can't resume a partition: {error}"))
    }

    fn hear(&self, error: &KafkaError) -> Result<(), String> {
        match error {
            KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                Err("the progress is out of the topic's range; joining the group again".to_owned())
            }
            KafkaError::MessageConsumption(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                let problem = "a topic is missing; make it with: skald topics apply".to_owned();
                self.health.tell("topics", Some(problem));
                Ok(())
            }
            KafkaError::MessageConsumption(
                RDKafkaErrorCode::GroupAuthorizationFailed | RDKafkaErrorCode::TopicAuthorizationFailed,
            ) => {
                self.health.tell("topics", Some(format!("Kafka refuses: {error}")));
                Ok(())
            }
            KafkaError::MessageConsumptionFatal(_) => Err(format!("the Kafka consumer gave up: {error}")),
            error => {
                // librdkafka tries again by itself.
                tracing::debug!(consumer = self.consumer, %error, "Kafka consumer");
                Ok(())
            }
        }
    }

    /// Tells the group how far its service is, for the tools that show lag.
    fn tell_group(&self, client: &BaseConsumer<Self>, told: &mut HashMap<(String, i32), i64>) {
        let mut offsets = TopicPartitionList::new();
        for (place, assigned) in &self.state().assigned {
            let stored = assigned.buffer.stored();
            if stored > 0 && told.insert(place.clone(), stored) != Some(stored) {
                // An offset that is a number can't be refused.
                let _ = offsets.add_partition_offset(&place.0, place.1, Offset::Offset(stored));
            }
        }
        if offsets.count() > 0
            && let Err(error) = client.commit(&offsets, CommitMode::Async)
        {
            tracing::debug!(consumer = self.consumer, %error, "can't tell the group of its progress");
        }
    }

    /// Begins where the database says; the group's own offsets are never asked.
    fn assign(&self, client: &BaseConsumer<Self>, partitions: &mut TopicPartitionList) -> Result<(), String> {
        let progress = wait_for(&self.runtime, &self.stop, self.log.progress_of(self.consumer))
            .map_err(|error| format!("can't read the progress: {error}"))?;
        let progress: HashMap<_, _> = progress.into_iter().map(|(topic, partition, next)| ((topic, partition), next)).collect();
        wait_for(&self.runtime, &self.stop, self.log.count_parked())
            .map_err(|error| format!("can't read what is parked: {error}"))?;
        let mut begun = Vec::new();
        for mut element in partitions.elements() {
            let place = (element.topic().to_owned(), element.partition());
            let topic = TOPICS.iter().find(|topic| topic.name == place.0).ok_or_else(|| format!("unknown topic {}", place.0))?;
            let stored = progress.get(&(place.0.clone(), i64::from(place.1))).copied().unwrap_or(0);
            let (low, high) = self
                .watermarks(client, &place)
                .map_err(|error| format!("can't ask for the offsets of {} partition {}: {error}", place.0, place.1))?;
            let is_new = self.made_anew.contains(&(place.0.clone(), i64::from(place.1)));
            let (from, joined) = begin_at(stored, low, high, is_new);
            if !joined && stored > 0 && !is_new {
                tracing::error!(
                    consumer = self.consumer,
                    topic = place.0,
                    partition = place.1,
                    stored,
                    low,
                    high,
                    "offset out of range: {} partition {} holds {low} to {high}, the next to handle would be {stored}. The topic was made \
                     anew, or has lost or dropped records. Reading it from its beginning, where repeats are skipped; what is missing is \
                     told below",
                    place.0,
                    place.1
                );
            }
            element.set_offset(Offset::Offset(from)).map_err(|error| format!("can't set an offset: {error}"))?;
            begun.push((place, topic, stored, from, joined));
        }
        client.incremental_assign(partitions).map_err(|error| format!("can't take an assignment: {error}"))?;
        for (place, topic, stored, from, joined) in begun {
            tracing::debug!(consumer = self.consumer, topic = place.0, partition = place.1, stored, "partition assigned");
            let buffer = Buffer::new(stored);
            let at = (place.0.clone(), i64::from(place.1));
            // A progress of 0 is where every topic begins, also one that has dropped its first records.
            let joined = joined || stored == 0;
            let (log, lost, made_anew) = (self.log.clone(), self.lost.clone(), self.made_anew.clone());
            let partition = Partition::new(self.consumer, at, buffer.clone(), log, lost, made_anew, joined);
            (self.start)(partition.with_keys(self.keys.clone()));
            let assigned = Assigned { topic, buffer, is_paused: false, received: from - 1, stalled: 0 };
            self.state().assigned.insert(place, assigned);
        }
        let partitions = self.state().assigned.len();
        tracing::info!(consumer = self.consumer, partitions, "consuming");
        self.health.tell("topics", None);
        self.health.tell("consumer", None);
        Ok(())
    }

    /// The first offset that a partition holds, and the next that it will.
    fn watermarks(&self, client: &BaseConsumer<Self>, (topic, partition): &(String, i32)) -> Result<(i64, i64), KafkaError> {
        let until = self.log.env().now().plus(ASK);
        loop {
            match client.fetch_watermarks(topic, *partition, ASK_AGAIN) {
                Err(KafkaError::MetadataFetch(RDKafkaErrorCode::OperationTimedOut))
                    if !self.stop.is_cancelled() && self.log.env().now() < until => {}
                answered => return answered,
            }
        }
    }

    fn revoke(&self, client: &BaseConsumer<Self>, partitions: &TopicPartitionList) -> Result<(), String> {
        for element in partitions.elements() {
            let place = (element.topic().to_owned(), element.partition());
            if let Some(assigned) = self.state().assigned.remove(&place) {
                assigned.buffer.close();
            }
            self.health.state().lag.remove(&place);
            tracing::debug!(consumer = self.consumer, topic = place.0, partition = place.1, "partition revoked");
            if !self.is_ending.load(Ordering::Relaxed) {
                // Whoever gets it finds out by itself.
                self.made_anew.forget(&(place.0, i64::from(place.1)));
            }
        }
        client.incremental_unassign(partitions).map_err(|error| format!("can't give up an assignment: {error}"))
    }

    fn end(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
        for (place, assigned) in self.state().assigned.drain() {
            assigned.buffer.close();
            self.health.state().lag.remove(&place);
        }
    }
}

impl ClientContext for Session {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        global_error(&self.health, "kafka", &error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        if is_up(&statistics) {
            self.health.tell("kafka", None);
        }
        let mut state = self.state();
        let mut stalled = None;
        for (place, assigned) in &mut state.assigned {
            let found = statistics.topics.get(&place.0).and_then(|topic| topic.partitions.get(&place.1));
            let newest = found.map(|partition| partition.hi_offset).filter(|offset| *offset >= 0);
            if let Some(newest) = newest {
                let lag = (newest - assigned.buffer.stored()).max(0);
                self.health.state().lag.insert(place.clone(), lag);
            }
            // librdkafka has stopped fetching for good before (rust-rdkafka#638); or it never begins, and knows no newest offset.
            let has_more = newest.map_or(is_up(&statistics), |newest| newest > assigned.received + 1);
            let is_stalled = has_more && !assigned.is_paused && assigned.buffer.waiting() == 0;
            assigned.stalled = if is_stalled { assigned.stalled + 1 } else { 0 };
            if assigned.stalled > STALLED_AFTER {
                stalled = Some(format!("nothing is received of {} partition {}; joining the group again", place.0, place.1));
            }
        }
        drop(state);
        if let Some(why) = stalled {
            self.fail(why);
        }
    }
}

impl ConsumerContext for Session {
    fn rebalance(&self, client: &BaseConsumer<Self>, event: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let done = match event {
            // Leaving: whoever gets them next will handle them.
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS if self.is_ending.load(Ordering::Relaxed) => {
                client.incremental_assign(partitions).map_err(|error| error.to_string())
            }
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(client, partitions),
            _ => self.revoke(client, partitions),
        };
        if let Err(why) = done {
            self.fail(why);
        }
    }
}

fn list<'p>(places: impl IntoIterator<Item = &'p (String, i32)>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in places {
        list.add_partition(topic, *partition);
    }
    list
}

/// A record as its bytes.
pub(super) fn record(message: &BorrowedMessage<'_>) -> Record {
    let read = || {
        let headers = message.headers()?;
        Some(headers.iter().map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec())).collect())
    };
    // rdkafka panics where a header's name is not UTF-8. Without headers the record is garbage like any other.
    let headers = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)).ok().flatten().unwrap_or_default();
    Record { key: message.key().map(<[u8]>::to_vec), headers, value: message.payload().map(<[u8]>::to_vec) }
}
