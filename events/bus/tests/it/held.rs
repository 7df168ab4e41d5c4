//! What no saga waits for is held by the relay's flow, and goes together: without a broker, on a clock that the test moves.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use contract::{Message, Meta, Timestamp, Trace, record::Record, topics};
use eventlog::{
    Candidate, Carried, Committed, Env, Job, Memory, Observer, Span,
    testing::{TestClock, TestDatabase},
};
use skald_bus::kafka::{Flow, LEASE, Publish, published_by, whole};

use super::{Running, Work};

/// Takes everything, and keeps of each message where it went and its position.
#[derive(Clone, Default)]
struct Taken(Arc<Mutex<Vec<(String, i64)>>>);

impl Taken {
    fn all(&self) -> Vec<(String, i64)> {
        self.0.lock().unwrap().clone()
    }
}

impl Publish for Taken {
    fn publish(&self, topic: &str, _partition: i32, row: &Message, _record: &Record) -> Result<(), String> {
        self.0.lock().unwrap().push((topic.to_owned(), row.position));
        Ok(())
    }

    fn hear(&self) {}
}

/// Hears what was sent: the topic, and how long it took.
#[derive(Default)]
struct Ear(Mutex<Vec<(String, Duration)>>);

impl Observer for Ear {
    fn samples(&self, _: u128) -> bool {
        true
    }

    fn committed(&self, _: &Committed<'_>) {}

    fn carried(&self, carried: &Carried<'_>) {
        self.0.lock().unwrap().push((carried.topic.to_owned(), carried.ended.since(carried.begun)));
    }

    fn told(&self, _: &'static str, _: Span) {}
}

/// The order service's flow, with what it gave its producer and what was told of that.
struct Sending {
    source: Running,
    clock: Arc<TestClock>,
    flow: Flow<Taken>,
    taken: Taken,
    ear: Arc<Ear>,
}

impl Sending {
    async fn begin(database: &TestDatabase) -> Self {
        // Room for more bytes than there may be rows.
        Self::begin_with(database, Memory::mib(256)).await
    }

    async fn begin_with(database: &TestDatabase, memory: Memory) -> Self {
        let (clock, ear, taken) = (TestClock::start(), Arc::new(Ear::default()), Taken::default());
        let env = Env::seeded(clock.clone(), 1).with_observer(ear.clone()).with_memory(memory);
        let source = Running::start_with("order", database, env).await;
        let log = source.writer.log().clone();
        let mut checkpoint = Candidate::new(log.clone()).lead(LEASE).await.unwrap().unwrap();
        whole(&mut checkpoint, &published_by("order")).unwrap();
        let flow = Flow::begin(log, checkpoint, taken.clone()).await.unwrap();
        Self { source, clock, flow, taken, ear }
    }

    /// Appends a row to each topic, in traces that are recorded.
    async fn append(&self, first_version: i64, topics: &[&'static str]) {
        let appended = (first_version..).zip(topics).map(|(version, topic)| {
            let work = Work::Append { topic, data: "{}".to_owned(), version };
            let meta = Meta { trace: Trace::of(1, version as u64, true), ..Meta::default() };
            self.source.writer.submit(Job { work, meta })
        });
        for appended in futures_util::future::join_all(appended).await {
            appended.unwrap();
        }
    }

    /// The broker has these rows; tells whether the checkpoint has moved.
    fn arrived(&mut self, positions: impl IntoIterator<Item = i64>) -> bool {
        let mut has_moved = false;
        positions.into_iter().for_each(|position| self.flow.report((position, None)).unwrap());
        self.flow.settle(&mut has_moved);
        has_moved
    }

    fn now(&self) -> Timestamp {
        self.source.writer.log().env().now()
    }
}

const TENTH: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread")]
async fn what_a_saga_waits_for_goes_at_once_and_the_rest_together_a_tenth_of_a_second_later() {
    let database = TestDatabase::fresh().await;
    let mut sending = Sending::begin(&database).await;
    let took = Duration::from_millis(3);

    sending.append(1, &[topics::ORDER_EVENTS, topics::PRODUCT_COMMANDS, topics::SAGA_EVENTS]).await;
    assert_eq!(sending.flow.send_more().await.unwrap(), 3);
    assert_eq!(sending.taken.all(), [(topics::PRODUCT_COMMANDS.to_owned(), 2)]);
    assert_eq!((sending.flow.sent(), sending.flow.held_until()), (3, Some(sending.now().plus(TENTH))));
    // What is held has not arrived, so the checkpoint stays before it: after a crash it is read again. What has arrived is told at once.
    sending.clock.advance(took);
    assert!(!sending.arrived([2]), "row 1 is held");
    assert_eq!(*sending.ear.0.lock().unwrap(), [(topics::PRODUCT_COMMANDS.to_owned(), took)]);

    sending.clock.advance(TENTH - took - Duration::from_micros(1));
    sending.append(4, &[topics::ORDER_EVENTS]).await;
    assert_eq!(sending.flow.send_more().await.unwrap(), 1);
    assert_eq!(sending.taken.all().len(), 1, "not yet");
    sending.clock.advance(Duration::from_micros(1));
    assert_eq!(sending.flow.send_more().await.unwrap(), 0);
    let late = [(topics::ORDER_EVENTS, 1), (topics::SAGA_EVENTS, 3), (topics::ORDER_EVENTS, 4)];
    assert_eq!(sending.taken.all()[1..], late.map(|(topic, position)| (topic.to_owned(), position)));
    assert_eq!(sending.flow.held_until(), None);
    sending.clock.advance(took);
    assert!(sending.arrived([4, 1]), "row 1 has arrived, and row 2 before it");
    assert_eq!(sending.ear.0.lock().unwrap().len(), 1, "row 3 has not arrived");
    assert!(sending.arrived([3]));
    let told = [topics::ORDER_EVENTS, topics::SAGA_EVENTS].map(|topic| (topic.to_owned(), took));
    assert_eq!(sending.ear.0.lock().unwrap()[1..], told, "told from when the producer got them");
    sending.source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_goes_at_once_when_no_more_has_room() {
    const ROOM: usize = 8_192;
    let database = TestDatabase::fresh().await;
    let mut sending = Sending::begin(&database).await;
    sending.append(1, &[topics::SAGA_EVENTS; ROOM]).await;
    while sending.flow.sent() < ROOM as i64 {
        assert_eq!(sending.taken.all().len(), 0, "there is room after row {}", sending.flow.sent());
        assert!(sending.flow.send_more().await.unwrap() > 0);
    }
    assert_eq!(sending.taken.all().len(), ROOM);
    assert_eq!(sending.flow.held_until(), None);
    sending.source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_its_way_is_bounded_in_bytes_and_a_row_that_is_larger_than_that_goes_alone() {
    let database = TestDatabase::fresh().await;
    // Less than a row.
    let mut sending = Sending::begin_with(&database, Memory::of(32 * 100)).await;
    sending.append(1, &[topics::PRODUCT_COMMANDS, topics::SAGA_EVENTS, topics::PRODUCT_COMMANDS]).await;
    for position in 1..=3 {
        assert_eq!(sending.flow.send_more().await.unwrap(), 1);
        assert_eq!(sending.flow.send_more().await.unwrap(), 0, "row {position} has not arrived");
        assert_eq!(sending.taken.all().len(), position, "what is held goes where there is no more room");
        assert!(sending.arrived([position as i64]));
    }
    sending.source.stop().await;
}
