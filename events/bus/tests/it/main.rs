//! The embedded bus: what one log commits, another service handles once, whatever stops in between. Over Kafka: `kafka`.

mod heard;
mod held;
mod kafka;
mod outages;
mod partition;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use contract::{Cause, Encoded, Message, Meta};
use eventlog::{
    Candidate, Database, Env, Error, Handler, Job, Log, New, Poison, Stored, Unit, Writer, WriterLimits, on,
    testing::TestDatabase,
};
use skald_bus::{
    Consumer, Embedded, consume,
    kafka::{Health, Kafka, LEASE, relay},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const EVENTS: &str = "source.events.v1";
const OTHER: &str = "source.other.v1";

/// Appends what it is told; as a consumer, one row a message.
#[derive(Default)]
struct Service {
    handled: AtomicUsize,
    /// The next so many transactions fail as if the database were away.
    outages: AtomicUsize,
    seen: Mutex<Vec<i64>>,
}

#[derive(Clone, Debug)]
enum Work {
    Append {
        topic: &'static str,
        data: String,
        version: i64,
    },
    /// The effect of a message.
    Effect {
        of: i64,
        breaks: bool,
    },
}

impl Handler for Service {
    type Work = Work;
    type Done = ();

    async fn handle(&self, unit: &mut Unit<'_>, jobs: &[&Job<Work>]) -> Result<Vec<()>, Error> {
        let away = self.outages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if away.is_ok() {
            return Err(Error::Unavailable(Arc::new(sqlx::Error::PoolTimedOut)));
        }
        for job in jobs {
            let (stream, version, to, data) = match &job.work {
                Work::Append { topic, data, version } => {
                    ("source".to_owned(), *version, Some((*topic, "key".to_owned())), data.clone())
                }
                Work::Effect { breaks: true, .. } => return Err(Error::Corrupt("told to break".into())),
                Work::Effect { of, .. } => {
                    self.handled.fetch_add(1, Ordering::Relaxed);
                    self.seen.lock().unwrap().push(*of);
                    (format!("effect-{of}"), 1, None, "{}".to_owned())
                }
            };
            unit.append(&job.meta, New { stream, version, to, payload: Encoded { kind: "test.Row", schema: 1, data } });
        }
        Ok(jobs.iter().map(|_| ()).collect())
    }

    fn answer(&self, (): &()) -> Option<Stored> {
        None
    }

    fn committed(&self, _: Vec<()>) {}
}

impl Consumer for Service {
    fn accept(&self, message: &Message) -> Result<Option<Work>, Poison> {
        match message.data.as_str() {
            "\"dull\"" => Ok(None),
            "\"poison\"" => Err(Poison::new(Cause::Refused, "it is poison")),
            data => Ok(Some(Work::Effect { of: message.position, breaks: data == "\"breaks\"" })),
        }
    }
}

struct Running {
    service: Arc<Service>,
    writer: Writer<Service>,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(name: &'static str, database: &TestDatabase) -> Self {
        Self::start_with(name, database, Env::system()).await
    }

    async fn start_with(name: &'static str, database: &TestDatabase, env: Env) -> Self {
        Self::start_at(name, database.database.clone(), env).await
    }

    async fn start_at(name: &'static str, database: Database, env: Env) -> Self {
        let opened = Log::open(database, name, &[], env).await.unwrap();
        let service = Arc::new(Service::default());
        let (writer, task) = Writer::new(opened, service.clone(), WriterLimits::default());
        Self { service, writer, task: spawn(task) }
    }

    async fn append(&self, first_version: i64, rows: &[(&'static str, &str)]) {
        for (version, (topic, word)) in (first_version..).zip(rows) {
            let work = Work::Append { topic, data: format!("\"{word}\""), version };
            self.writer.submit(Job { work, meta: Meta::default() }).await.unwrap();
        }
    }

    async fn consume(&self, source: &Log, stop: &CancellationToken) -> JoinHandle<()> {
        let progress = self.writer.log().progress("sink", &Embedded::topic(source), 0).await.unwrap();
        let source = Embedded::new("sink", source.clone(), &[EVENTS], progress).unwrap();
        spawn(consume("sink", source, self.service.clone(), self.writer.clone(), stop.clone()))
    }

    async fn progress(&self, source: &Log) -> i64 {
        self.writer.log().progress("sink", &Embedded::topic(source), 0).await.unwrap()
    }

    async fn stop(self) {
        drop(self.writer);
        self.task.await.unwrap();
    }
}

#[expect(clippy::disallowed_methods, reason = "a test has no tasks of a process")]
fn spawn(future: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(future)
}

/// Waits for a condition, at most ten seconds.
async fn until(what: &str, condition: impl AsyncFnMut() -> bool) {
    within(Duration::from_secs(10), what, condition).await;
}

async fn within(bound: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(bound, waiting).await.is_ok(), "waited in vain: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_is_handled_once_and_in_order_across_restarts() {
    let (source_db, sink_db) = (TestDatabase::fresh().await, TestDatabase::fresh().await);
    let source = Running::start("source", &source_db).await;
    for round in 0..3 {
        let sink = Running::start("sink", &sink_db).await;
        let stop = CancellationToken::new();
        let consumer = sink.consume(source.writer.log(), &stop).await;
        source.append(round * 100 + 1, &[(EVENTS, "good"); 100]).await;
        let after = (round + 1) * 100 + 1;
        until("all handled", async || sink.progress(source.writer.log()).await == after).await;
        stop.cancel();
        consumer.await.unwrap();
        let expected: Vec<i64> = (round * 100 + 1..after).collect();
        assert_eq!(*sink.service.seen.lock().unwrap(), expected);
        sink.stop().await;
    }
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_topics_dull_messages_and_poison_do_not_stop_the_others() {
    let (source_db, sink_db) = (TestDatabase::fresh().await, TestDatabase::fresh().await);
    let (source, sink) = (Running::start("source", &source_db).await, Running::start("sink", &sink_db).await);
    let rows = [(EVENTS, "good"), (OTHER, "good"), (EVENTS, "poison"), (EVENTS, "dull"), (EVENTS, "breaks"), (EVENTS, "good")];
    source.append(1, &rows).await;
    let stop = CancellationToken::new();
    let consumer = sink.consume(source.writer.log(), &stop).await;
    until("all handled", async || sink.progress(source.writer.log()).await == 7).await;
    // The database shows a commit a moment before the log's readers do; once the consumer has ended, both do.
    stop.cancel();
    consumer.await.unwrap();
    let effects: Vec<String> = sink.writer.log().after(0, 100).await.unwrap().iter().map(|row| row.stream.clone()).collect();
    assert_eq!(effects.iter().filter(|stream| stream.starts_with("effect")).collect::<Vec<_>>(), ["effect-1", "effect-6"]);
    let mut reader = sink.writer.log().reader().await.unwrap();
    let letters: Vec<(i64, String)> = on!(&mut reader.conn(), |c| sqlx::query_as::<DB, (i64, String)>(
        "SELECT message_offset, error FROM dead_letters ORDER BY message_offset"
    )
    .fetch_all(c)
    .await)
    .unwrap();
    assert_eq!(letters[0], (3, "it is poison".to_owned()));
    assert_eq!(letters[1].0, 5);
    assert!(letters[1].1.contains("told to break"), "{letters:?}");
    drop(reader);
    sink.stop().await;
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_without_interest_cost_no_transaction_each_but_are_not_looked_at_for_ever() {
    let (source_db, sink_db) = (TestDatabase::fresh().await, TestDatabase::fresh().await);
    let (source, sink) = (Running::start("source", &source_db).await, Running::start("sink", &sink_db).await);
    source.append(1, &[(EVENTS, "dull"); 50]).await;
    let stop = CancellationToken::new();
    let consumer = sink.consume(source.writer.log(), &stop).await;
    until("the progress is stored once there is time", async || sink.progress(source.writer.log()).await == 51).await;
    stop.cancel();
    consumer.await.unwrap();
    assert_eq!(sink.writer.log().commits(), 1);
    sink.stop().await;
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_never_poison() {
    let (source_db, sink_db) = (TestDatabase::fresh().await, TestDatabase::fresh().await);
    let (source, sink) = (Running::start("source", &source_db).await, Running::start("sink", &sink_db).await);
    source.append(1, &[(EVENTS, "good"); 5]).await;
    sink.service.outages.store(3, Ordering::Relaxed);
    let stop = CancellationToken::new();
    let consumer = sink.consume(source.writer.log(), &stop).await;
    until("all handled", async || sink.progress(source.writer.log()).await == 6).await;
    assert_eq!(*sink.service.seen.lock().unwrap(), [1, 2, 3, 4, 5]);
    stop.cancel();
    consumer.await.unwrap();
    sink.stop().await;
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_of_a_consumer_share_the_work_without_repeating_any() {
    let (source_db, sink_db) = (TestDatabase::fresh().await, TestDatabase::fresh().await);
    let source = Running::start("source", &source_db).await;
    let (one, two) = (Running::start("sink", &sink_db).await, Running::start("sink", &sink_db).await);
    let stop = CancellationToken::new();
    let consumers = [one.consume(source.writer.log(), &stop).await, two.consume(source.writer.log(), &stop).await];
    source.append(1, &[(EVENTS, "good"); 200]).await;
    until("all handled", async || one.progress(source.writer.log()).await == 201).await;
    stop.cancel();
    for consumer in consumers {
        consumer.await.unwrap();
    }
    one.writer.log().refresh().await.unwrap();
    assert_eq!(*one.writer.log().head().borrow(), 200, "one effect a message");
    one.stop().await;
    two.stop().await;
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_behind_its_consumer_is_refused() {
    let source_db = TestDatabase::fresh().await;
    let source = Running::start("source", &source_db).await;
    source.append(1, &[(EVENTS, "good"); 3]).await;
    assert!(Embedded::new("sink", source.writer.log().clone(), &[EVENTS], 4).is_ok(), "at its head");
    let ahead = Embedded::new("sink", source.writer.log().clone(), &[EVENTS], 5).err().unwrap();
    assert_eq!((ahead.progress, ahead.head), (4, 3));
    assert!(ahead.to_string().contains("Restore all databases from the same backup"), "{ahead}");
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_that_is_away_is_no_trouble_of_a_replica_that_leads_no_more() {
    let test = TestDatabase::fresh().await;
    let source = Running::start("source", &test).await;
    let log = source.writer.log().clone();
    // Nobody listens on port 1.
    let kafka = Kafka::new(vec![("bootstrap.servers".to_owned(), "127.0.0.1:1".to_owned())]);
    let (health, stop) = (Health::default(), CancellationToken::new());
    let relay = spawn(relay(log.clone(), kafka, health.clone(), stop.clone()));
    until("the leader tells that Kafka is away", async || health.problem().is_some_and(|told| told.contains("away"))).await;
    // It is stuck in its question to Kafka, and its lease ends: another replica leads from then on.
    let mut other = Candidate::new(log.clone());
    until("another one leads", async || other.lead(LEASE * 100).await.unwrap().is_some()).await;
    // Its question alone may take ten seconds.
    within(Duration::from_secs(30), "the old leader has nothing to tell", async || health.problem().is_none()).await;
    stop.cancel();
    relay.await.unwrap();
    drop(log);
    source.stop().await;
}
