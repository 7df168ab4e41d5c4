//! The bus over a real Kafka: `ci/kafka.sh test` starts one and runs these; `cargo test` leaves them out.
//!
//! Topics are those of the contract, so the tests take turns, and each begins with new ones.

mod clocks;
mod forgers;
mod losses;
mod unreadable;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use contract::{Cause, Encoded, Message, MessageKeys, Meta, topics};
use eventlog::{
    Candidate, Database, Env, Error, Handler, Job, Log, New, Poison, Stored, Unit, Writer, WriterLimits, on,
    testing::TestDatabase,
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    message::{Header, Headers as _, Message as _, OwnedHeaders, OwnedMessage},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use skald_bus::{
    Consumer,
    kafka::{self, Group, Health, Kafka, Spawn},
};
use tokio::{sync::Semaphore, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::spawn;

const COMMANDS: &str = topics::PRODUCT_COMMANDS;
const PARTITIONS: i32 = 6;
/// Kafka's own part in a test may take a while on a busy machine.
const PATIENCE: Duration = Duration::from_secs(25);

/// One test at a time.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn address() -> String {
    std::env::var("SKALD_TEST_KAFKA").expect("SKALD_TEST_KAFKA is the address of a running Kafka: see ci/kafka.sh")
}

fn cluster() -> Kafka {
    Kafka::new(vec![("bootstrap.servers".to_owned(), address())])
}

fn admin() -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", address()).create().unwrap()
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
        panic!("waited in vain: {what}\n{}", crate::heard::all());
    }
}

/// Deletes these topics and waits until they are gone.
async fn delete(names: &[&str]) {
    let admin = admin();
    // Those that are not there are no loss.
    let _ = admin.delete_topics(names, &AdminOptions::new()).await;
    until("topics are gone", async || {
        let metadata = admin.inner().fetch_metadata(None, PATIENCE).unwrap();
        metadata.topics().iter().all(|topic| !names.contains(&topic.name()))
    })
    .await;
}

async fn make_topics() {
    until("topics are made", async || kafka::apply(&cluster(), 1).await.is_ok()).await;
    until("topics are known", async || kafka::check(&cluster(), Some(1)).await.unwrap().is_empty()).await;
}

/// New topics, and a consumer group that has forgotten everything.
async fn clean() {
    crate::heard::capture();
    let names: Vec<String> = topics::all().map(|(name, _)| name).collect();
    delete(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    make_topics().await;
}

/// Appends commands; as a consumer, one row a message.
#[derive(Default)]
struct Service {
    /// Messages with this word wait until somebody lets them go.
    gate: Option<Arc<Semaphore>>,
    waits: AtomicBool,
    /// What was handled, by key, in the order in which it was handled.
    handled: Mutex<BTreeMap<String, Vec<i64>>>,
}

#[derive(Clone, Debug)]
enum Work {
    Append { key: String, word: String },
    Effect { key: String, of: i64, id: uuid::Uuid, waits: bool },
}

impl Handler for Service {
    type Work = Work;
    type Done = Option<(String, i64)>;

    async fn handle(&self, unit: &mut Unit<'_>, jobs: &[&Job<Work>]) -> Result<Vec<Self::Done>, Error> {
        let mut done = Vec::new();
        for job in jobs {
            let (stream, version, to, data) = match &job.work {
                Work::Append { key, word } => {
                    let stream = format!("command-{}", unit.id());
                    (stream, 1, Some((COMMANDS, key.clone())), format!("\"{word}\""))
                }
                Work::Effect { key, of, id, waits } => {
                    if *waits && let Some(gate) = &self.gate {
                        self.waits.store(true, Ordering::SeqCst);
                        gate.acquire().await.unwrap().forget();
                    }
                    done.push(Some((key.clone(), *of)));
                    // Unique: the same message handled twice would be refused for good.
                    unit.append(
                        &job.meta,
                        New { stream: format!("effect-{id}"), version: 1, to: None, payload: row("{}".to_owned()) },
                    );
                    continue;
                }
            };
            done.push(None);
            unit.append(&job.meta, New { stream, version, to, payload: row(data) });
        }
        Ok(done)
    }

    fn answer(&self, _: &Self::Done) -> Option<Stored> {
        None
    }

    fn committed(&self, done: Vec<Self::Done>) {
        let mut handled = self.handled.lock().unwrap();
        for (key, of) in done.into_iter().flatten() {
            handled.entry(key).or_default().push(of);
        }
    }
}

fn row(data: String) -> Encoded {
    Encoded { kind: "test.Row", schema: 1, data }
}

impl Consumer for Service {
    fn accept(&self, message: &Message) -> Result<Option<Work>, Poison> {
        let key = message.key.clone().unwrap_or_default();
        match message.data.as_str() {
            "\"dull\"" => Ok(None),
            "\"poison\"" => Err(Poison::new(Cause::Refused, "it is poison")),
            data => Ok(Some(Work::Effect { key, of: message.position, id: message.id.0, waits: data == "\"slow\"" })),
        }
    }
}

/// A service with its log, and whatever of the bus a test starts for it.
struct Running {
    service: Arc<Service>,
    kafka: Kafka,
    writer: Writer<Service>,
    health: Health,
    stop: CancellationToken,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Running {
    async fn start(name: &'static str, database: &Database) -> Self {
        Self::start_with(name, database, Service::default()).await
    }

    async fn start_with(name: &'static str, database: &Database, service: Service) -> Self {
        let opened = Log::open(database.clone(), name, &[], Env::system()).await.unwrap();
        let service = Arc::new(service);
        let (writer, task) = Writer::new(opened, service.clone(), WriterLimits::default());
        let (health, stop, tasks, kafka) = (Health::default(), CancellationToken::new(), Arc::default(), cluster());
        let running = Self { service, kafka, writer, health, stop, tasks };
        running.run(task);
        running.run(running.log().clone().exchange_wake_ups(running.stop.clone()));
        running
    }

    /// With the message key that the others have.
    fn signed(self) -> Self {
        let keys = MessageKeys::parse("test:what a forger in a test does not know").unwrap();
        Self { kafka: self.kafka.clone().with_keys(keys), ..self }
    }

    fn log(&self) -> &Log {
        self.writer.log()
    }

    fn run(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap().push(spawn(future));
    }

    fn relay(&self) {
        self.run(kafka::relay(self.log().clone(), self.kafka.clone(), self.health.clone(), self.stop.clone()));
    }

    fn consume(&self) {
        let tasks = self.tasks.clone();
        let spawn: Spawn = Arc::new(move |future| tasks.lock().unwrap().push(spawn(future)));
        let (kafka, health, stop) = (self.kafka.clone(), self.health.clone(), self.stop.clone());
        let group = Group { consumer: "product", topics: vec![COMMANDS], kafka, health, spawn, stop };
        self.run(group.consume(self.service.clone(), self.writer.clone()));
    }

    async fn append(&self, key: &str, word: &str) {
        let work = Work::Append { key: key.to_owned(), word: word.to_owned() };
        self.writer.submit(Job { work, meta: Meta::default() }).await.unwrap();
    }

    /// Appends `count` commands over 20 keys.
    async fn append_many(&self, count: usize) {
        let all = (0..count).map(|number| {
            let work = Work::Append { key: format!("key-{}", number % 20), word: "good".to_owned() };
            self.writer.submit(Job { work, meta: Meta::default() })
        });
        for done in futures_util::future::join_all(all).await {
            done.unwrap();
        }
    }

    async fn count(&self, sql: &'static str) -> i64 {
        let mut reader = self.log().reader().await.unwrap();
        on!(&mut reader.conn(), |c| sqlx::query_scalar::<DB, i64>(sql).fetch_one(c).await).unwrap()
    }

    async fn effects(&self) -> i64 {
        self.count("SELECT COUNT(*) FROM log WHERE stream LIKE 'effect-%'").await
    }

    async fn until_effects(&self, wanted: i64) {
        let told = format!("{wanted} effects");
        until(&told, async || self.effects().await >= wanted).await;
        assert_eq!(self.effects().await, wanted);
    }

    async fn until_published(&self) {
        until("all is published", async || self.log().unpublished() == 0).await;
    }

    async fn stop(self) {
        self.stop.cancel();
        let Self { writer, tasks, .. } = self;
        drop(writer);
        loop {
            let Some(task) = tasks.lock().unwrap().pop() else { return };
            task.await.unwrap();
        }
    }
}

/// Everything of a topic, read by a consumer of the test's own.
fn read(topic: &str) -> Vec<OwnedMessage> {
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", address())
        .set("group.id", "test")
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let mut assignment = rdkafka::TopicPartitionList::new();
    let mut left: BTreeMap<i32, i64> = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let (low, high) = client.fetch_watermarks(topic, partition, PATIENCE).unwrap();
        if low < high {
            assignment.add_partition_offset(topic, partition, rdkafka::Offset::Beginning).unwrap();
            left.insert(partition, high);
        }
    }
    client.assign(&assignment).unwrap();
    let mut found = Vec::new();
    while !left.is_empty() {
        let message = client.poll(PATIENCE).expect("the topic has more").unwrap();
        if message.offset() + 1 >= left.get(&message.partition()).copied().unwrap_or(i64::MAX) {
            left.remove(&message.partition());
        }
        found.push(message.detach());
    }
    found
}

fn header(message: &OwnedMessage, name: &str) -> Option<String> {
    let found = message.headers()?.iter().find(|header| header.key == name)?;
    Some(String::from_utf8(found.value?.to_vec()).unwrap())
}

/// Writes records as somebody who is not the relay.
fn write(records: impl IntoIterator<Item = (i32, Vec<u8>, OwnedHeaders, Vec<u8>)>) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", address()).create().unwrap();
    write_by(&producer, records);
    producer.flush(PATIENCE).unwrap();
}

fn write_by(producer: &BaseProducer, records: impl IntoIterator<Item = (i32, Vec<u8>, OwnedHeaders, Vec<u8>)>) {
    for (partition, key, headers, value) in records {
        let record = BaseRecord::to(COMMANDS).partition(partition).key(&key).payload(&value).headers(headers);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
}

/// The same record again, with headers changed.
fn again(message: &OwnedMessage, change: &[(&str, String)]) -> (i32, Vec<u8>, OwnedHeaders, Vec<u8>) {
    let mut headers = OwnedHeaders::new();
    for header in message.headers().unwrap().iter() {
        let changed = change.iter().find(|(name, _)| *name == header.key).map(|(_, value)| value.as_bytes());
        headers = headers.insert(Header { key: header.key, value: changed.or(header.value) });
    }
    (message.partition(), message.key().unwrap().to_vec(), headers, message.payload().unwrap().to_vec())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka: ci/kafka.sh test"]
async fn what_is_appended_is_published_in_an_unbroken_run_and_handled_once_across_restarts_and_replicas() {
    let _turn = TURN.lock().await;
    clean().await;
    let (source_db, sink_db) = (TestDatabase::fresh().await, TestDatabase::fresh().await);
    for round in 1..=3 {
        let sources = [Running::start("order", &source_db.database).await, Running::start("order", &source_db.database).await];
        let sinks = [Running::start("product", &sink_db.database).await, Running::start("product", &sink_db.database).await];
        sources.iter().for_each(Running::relay);
        sinks.iter().for_each(Running::consume);
        tokio::join!(sources[0].append_many(500), sources[1].append_many(500));
        sinks[0].until_effects(round * 1_000).await;
        for sink in &sinks {
            for (key, handled) in &*sink.service.handled.lock().unwrap() {
                assert!(handled.is_sorted(), "{key} out of order");
            }
            assert_eq!((sink.log().parked(), sink.log().dead_letters()), (0, 0));
        }
        for running in sources.into_iter().chain(sinks) {
            running.stop().await;
        }
    }
    let mut last: BTreeMap<i32, i64> = BTreeMap::new();
    for message in read(COMMANDS) {
        let number = |name| header(&message, name).unwrap().parse::<i64>().unwrap();
        let last = last.entry(message.partition()).or_insert(0);
        assert!(number("ce_previous") <= *last, "nothing is missing before {}", number("ce_sequence"));
        *last = number("ce_sequence").max(*last);
        assert_eq!(topics::partition_of(message.key().unwrap(), PARTITIONS), message.partition());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka: ci/kafka.sh test"]
async fn a_published_row_is_found_on_its_topic() {
    let _turn = TURN.lock().await;
    clean().await;
    let database = TestDatabase::fresh().await;
    let source = Running::start("order", &database.database).await;
    source.relay();
    source.append_many(300).await;
    source.until_published().await;
    let mut rows: Vec<Arc<Message>> = source.log().after(0, 1_000).await.unwrap().into_iter().step_by(37).collect();
    let never_published = Message { id: Env::system().id().into(), ..(*rows[0]).clone() };
    rows.push(Arc::new(never_published));
    let found = kafka::Locator::new(cluster(), Env::system()).locate(rows.clone()).await.unwrap();
    let published = read(COMMANDS);
    for row in &rows {
        let is_it = |message: &&OwnedMessage| header(message, "ce_id").unwrap() == row.id.to_string();
        let place = published.iter().find(is_it).map(|message| (message.partition(), message.offset()));
        assert_eq!(found.get(&row.id), place.as_ref(), "row {}", row.position);
    }
    assert_eq!(found.len(), rows.len() - 1);
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka: ci/kafka.sh test"]
async fn repeats_garbage_and_forgeries_change_nothing() {
    let _turn = TURN.lock().await;
    clean().await;
    let (source_db, sink_db) = (TestDatabase::fresh().await, TestDatabase::fresh().await);
    let source = Running::start("order", &source_db.database).await;
    source.relay();
    source.append_many(200).await;
    source.append("key-1", "poison").await;
    source.append("key-1", "dull").await;
    source.until_published().await;
    let published = read(COMMANDS);
    let number = |message: &OwnedMessage, name| header(message, name).unwrap().parse::<i64>().unwrap();
    let real = &published[published.len() / 2];
    let forged = [
        again(real, &[("ce_sequence", "1000000".into())]),
        again(real, &[("ce_sequence", "1000000".into()), ("ce_previous", "999999".into())]),
        again(real, &[("ce_source", "/skald/order/00000000-0000-0000-0000-000000000000/1".into())]),
        again(real, &[("ce_source", "/skald/payment/00000000-0000-0000-0000-000000000000/1".into())]),
        ((real.partition() + 1) % PARTITIONS, real.key().unwrap().to_vec(), OwnedHeaders::new(), b"{}".to_vec()),
        (real.partition(), b"key".to_vec(), OwnedHeaders::new(), vec![0xff, 0x00, 0x80]),
        {
            let (partition, key, headers, value) = again(real, &[]);
            ((partition + 1) % PARTITIONS, key, headers, value)
        },
    ];
    write(published.iter().map(|message| again(message, &[])).chain(forged));
    let sink = Running::start("product", &sink_db.database).await;
    sink.consume();
    sink.until_effects(200).await;
    source.append_many(100).await;
    sink.until_effects(300).await;
    until("all is read", async || {
        sink.health.lag().iter().map(|(.., lag)| lag).sum::<i64>() == 0 && sink.health.lag().len() == 6
    })
    .await;
    assert_eq!(sink.log().dead_letters(), 7, "one is poison, six are forged");
    assert_eq!(sink.count("SELECT COUNT(*) FROM dead_letters WHERE cause = 'forged'").await, 4);
    assert_eq!(sink.count("SELECT COUNT(*) FROM parked").await, 1, "nothing leads to it");
    assert_eq!(sink.log().repeats(), 202);
    assert!(number(real, "ce_sequence") < 1_000);

    // The leader who comes next does not believe them either.
    source.stop().await;
    let source = Running::start("order", &source_db.database).await;
    source.relay();
    source.append_many(50).await;
    sink.until_effects(350).await;
    assert_eq!(source.health.problem(), None);
    source.stop().await;
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka: ci/kafka.sh test"]
async fn a_slow_message_holds_up_only_its_partition_and_a_flood_waits_in_kafka() {
    let _turn = TURN.lock().await;
    clean().await;
    let (source_db, sink_db) = (TestDatabase::fresh().await, TestDatabase::fresh().await);
    let source = Running::start("order", &source_db.database).await;
    source.relay();
    let gate = Arc::new(Semaphore::new(0));
    let sink =
        Running::start_with("product", &sink_db.database, Service { gate: Some(gate.clone()), ..Service::default() }).await;
    // The transaction of the slow message holds up those that are batched with it, so the flood comes while it waits.
    source.append("key-1", "slow").await;
    sink.consume();
    until("it waits", async || sink.service.waits.load(Ordering::SeqCst)).await;
    for _ in 0..10 {
        source.append_many(2_000).await;
    }
    source.until_published().await;
    gate.add_permits(1);
    sink.until_effects(20_001).await;
    assert_eq!(sink.log().repeats(), 0);
    source.stop().await;
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka: ci/kafka.sh test"]
async fn an_old_leader_that_does_not_know_yet_only_repeats() {
    let _turn = TURN.lock().await;
    clean().await;
    let (source_db, sink_db) = (TestDatabase::fresh().await, TestDatabase::fresh().await);
    let (one, two) = (Running::start("order", &source_db.database).await, Running::start("order", &source_db.database).await);
    let sink = Running::start("product", &sink_db.database).await;
    sink.consume();
    one.relay();
    one.append_many(100).await;
    sink.until_effects(100).await;
    // Another one takes the lease by force, as if it had run out while the first was stopped: which may renew it in between.
    let mut connection = source_db.database.connect().await.unwrap();
    let mut usurper = Candidate::new(two.log().clone());
    until("another one leads", async || {
        let sql = "UPDATE relay SET lease_until_us = 0, position = 0, chain = '{}'";
        on!(&mut connection.conn(), |c| sqlx::query::<DB>(sql).execute(c).await.map(drop)).unwrap();
        usurper.lead(Duration::from_secs(1)).await.unwrap().is_some()
    })
    .await;
    usurper.resign().await.unwrap();
    two.relay();
    tokio::join!(one.append_many(100), two.append_many(100));
    sink.until_effects(300).await;
    until("all is read", async || sink.log().repeats() >= 100).await;
    assert_eq!((sink.log().parked(), sink.log().dead_letters()), (0, 0));
    for running in [one, two, sink] {
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka: ci/kafka.sh test"]
async fn a_topic_that_differs_is_told_and_left_as_it_is() {
    let _turn = TURN.lock().await;
    clean().await;
    delete(&[topics::USER_EVENTS, topics::SAGA_EVENTS]).await;
    let other = rdkafka::admin::NewTopic::new(topics::USER_EVENTS, 3, rdkafka::admin::TopicReplication::Fixed(1))
        .set("retention.ms", "1000")
        .set("unclean.leader.election.enable", "true")
        .set("compression.type", "zstd");
    admin().create_topics([&other], &AdminOptions::new()).await.unwrap();
    until("it is known", async || kafka::check(&cluster(), None).await.unwrap().len() > 2).await;
    let (made, differs) = kafka::apply(&cluster(), 1).await.unwrap();
    assert_eq!(made, [topics::SAGA_EVENTS]);
    let told: Vec<String> = differs.iter().map(ToString::to_string).collect();
    assert!(told.contains(&"user.events.v1: partitions is 3, not 6".to_owned()), "{told:?}");
    assert!(told.contains(&"user.events.v1: retention.ms is 1000, not 604800000".to_owned()), "{told:?}");
    assert!(told.contains(&"user.events.v1: unclean.leader.election.enable is true, not false".to_owned()), "{told:?}");
    assert!(told.contains(&"user.events.v1: compression.type is zstd, not producer".to_owned()), "{told:?}");
    until("it is still so", async || kafka::check(&cluster(), Some(1)).await.unwrap() == differs).await;
    clean().await;
}
