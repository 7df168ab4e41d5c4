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

use contract::{MessageKeys, record::Record, topics::Topic};
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

mod assign;
mod stalled;

use super::{
    Health, Kafka, bound, global_error, is_up,
    partition::{Buffer, Partition, Places, Room, incoming_with},
    unreadable::{is_out_of_range, is_unreadable},
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
/// A partition of which nothing was received for so many statistics, two seconds each, although there is something, has stalled: it is
/// asked why.
const STALLED_AFTER: u32 = 5;
const OUT_OF_RANGE: &str = "the progress is out of the topic's range; joining the group again";
/// What `Health` calls that.
const STALLED: &str = "partition";
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
        let room = Room::new(log.env().memory());
        let member = Member { consumer, topics, kafka, log, health, start, made_anew, room, stop, runtime };
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
    room: Room,
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
            stop: self.stop.clone(),
            made_anew: self.made_anew.clone(),
            room: self.room.clone(),
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
            // What a disk has changed is never handled.
            .set("check.crcs", "true")
            .set("fetch.wait.max.ms", "500")
            .set("fetch.error.backoff.ms", "100")
            .set("fetch.queue.backoff.ms", "10")
            .set("queued.min.messages", "1000");
        bound(&mut config, self.log.env().memory());
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
        let (mut last_looked, mut asked_in_vain) = (last_told, None);
        while !self.stop.is_cancelled() {
            match client.poll(POLL) {
                Some(Ok(message)) => session.take(client, &message)?,
                Some(Err(error)) => session.hear(&error)?,
                None => {}
            }
            if session.has_met_unreadable() {
                self.find_unreadable(client, &mut asked_in_vain)?;
            }
            session.resume(client)?;
            let now = self.log.env().now();
            if now.since(last_looked) >= POLL {
                last_looked = now;
                session.begin_again(client)?;
                self.ask_why(client)?;
            }
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
    stop: CancellationToken,
    made_anew: Places,
    room: Room,
    is_ending: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    assigned: HashMap<(String, i32), Assigned>,
    /// Whether any of them may be paused: most messages come while none is.
    may_be_paused: bool,
    failed: Option<String>,
    /// Something came that can't be read. In which partition is not said.
    has_met_unreadable: bool,
    /// It has, before: the client may lose its place behind that.
    loses_its_place: bool,
}

struct Assigned {
    topic: &'static Topic,
    buffer: Arc<Buffer>,
    /// The buffer no longer joins the progress, and is closed.
    lost: CancellationToken,
    is_paused: bool,
    /// The newest offset received, and what it was at the last statistics.
    received: i64,
    received_before: i64,
    /// The offset that comes next, for how many statistics it has not come although it is there, and whether it is time to ask why.
    awaited: i64,
    stalled: u32,
    is_asked: bool,
    /// Kafka held more at the last statistics.
    has_more: bool,
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
        if assigned.buffer.is_full() && !assigned.is_paused {
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
            if assigned.is_paused && assigned.buffer.has_room() {
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
        if is_unreadable(error).is_some() {
            let mut state = self.state();
            (state.has_met_unreadable, state.loses_its_place) = (true, true);
        }
        match error {
            error if is_out_of_range(error) => {
                // Behind what it can't read librdkafka goes on anywhere. If it is not that, the partition stalls, and is asked why.
                if self.state().loses_its_place { Ok(()) } else { Err(OUT_OF_RANGE.to_owned()) }
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
                self.made_anew.leave(&(place.0, i64::from(place.1)));
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
        let mut none_stalls = true;
        for (place, assigned) in &mut state.assigned {
            let Some(found) = statistics.topics.get(&place.0).and_then(|topic| topic.partitions.get(&place.1)) else { continue };
            let newest = (found.hi_offset >= 0).then_some(found.hi_offset);
            // Kafka's own markers have offsets, but are no messages: what counts is how far it was fetched.
            let next = assigned.received + 1;
            let is_sound = found.next_offset > next && newest.is_some_and(|newest| found.next_offset <= newest);
            assigned.awaited = if is_sound { found.next_offset } else { next };
            if let Some(newest) = newest {
                let handled = assigned.buffer.stored();
                let handled = if handled > assigned.received { handled.max(assigned.awaited) } else { handled };
                self.health.state().lag.insert(place.clone(), (newest - handled).max(0));
            }
            // librdkafka has stopped fetching for good before (rust-rdkafka#638); or it never begins, and knows no newest offset.
            let has_more = newest.map_or(is_up(&statistics), |newest| newest > assigned.awaited);
            assigned.has_more = has_more;
            let has_come = std::mem::replace(&mut assigned.received_before, assigned.received) != assigned.received;
            let is_stalled = has_more && !has_come && !assigned.is_paused && assigned.buffer.waiting() == 0;
            assigned.stalled = if is_stalled { assigned.stalled + 1 } else { 0 };
            assigned.is_asked = assigned.stalled > 0 && assigned.stalled % STALLED_AFTER == 0;
            none_stalls &= assigned.stalled < STALLED_AFTER;
        }
        drop(state);
        if none_stalls {
            self.health.tell(STALLED, None);
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
