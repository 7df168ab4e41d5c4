//! What no saga waits for is held by the relay's flow, and goes together: without a broker, on a clock that the test moves.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use contract::{Message, record::Record, topics};
use eventlog::{
    Candidate, Env,
    testing::{TestClock, TestDatabase},
};
use skald_bus::kafka::{Flow, LEASE, Publish, published_by, whole};

use super::Running;

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

#[tokio::test(flavor = "multi_thread")]
async fn what_a_saga_waits_for_goes_at_once_and_the_rest_together_a_tenth_of_a_second_later() {
    const TENTH: Duration = Duration::from_millis(100);
    let (database, clock) = (TestDatabase::fresh().await, TestClock::start());
    let source = Running::start_with("order", &database, Env::seeded(clock.clone(), 1)).await;
    let log = source.writer.log().clone();
    let mut checkpoint = Candidate::new(log.clone()).lead(LEASE).await.unwrap().unwrap();
    whole(&mut checkpoint, &published_by("order")).unwrap();
    let taken = Taken::default();
    let mut flow = Flow::begin(log.clone(), checkpoint, taken.clone()).await.unwrap();

    source
        .append(1, &[(topics::ORDER_EVENTS, "placed"), (topics::PRODUCT_COMMANDS, "reserve"), (topics::SAGA_EVENTS, "started")])
        .await;
    assert_eq!(flow.send_more().await.unwrap(), 3);
    assert_eq!(taken.all(), [(topics::PRODUCT_COMMANDS.to_owned(), 2)]);
    assert_eq!((flow.sent(), flow.held_until()), (3, Some(log.env().now().plus(TENTH))));
    // What is held has not arrived, so the checkpoint stays before it: after a crash it is read again.
    let mut is_dirty = false;
    flow.report((2, None), &mut is_dirty).unwrap();
    assert!(!is_dirty, "row 1 is held");

    clock.advance(TENTH - Duration::from_micros(1));
    source.append(4, &[(topics::ORDER_EVENTS, "confirmed")]).await;
    assert_eq!(flow.send_more().await.unwrap(), 1);
    assert_eq!(taken.all().len(), 1, "not yet");
    clock.advance(Duration::from_micros(1));
    assert_eq!(flow.send_more().await.unwrap(), 0);
    let late = [(topics::ORDER_EVENTS, 1), (topics::SAGA_EVENTS, 3), (topics::ORDER_EVENTS, 4)];
    assert_eq!(taken.all()[1..], late.map(|(topic, position)| (topic.to_owned(), position)));
    assert_eq!(flow.held_until(), None);
    for position in [1, 3, 4] {
        flow.report((position, None), &mut is_dirty).unwrap();
    }
    assert!(is_dirty, "everything has arrived");
    source.stop().await;
}
