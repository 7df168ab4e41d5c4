//! Two replicas on one database: what one of them calls the other leaves alone.
//!
//! SQLite has one process a database, so that this asks for PostgreSQL (`ci/postgres.sh test`).

// Each test binary uses its own part of it.
#[allow(dead_code, reason = "each test binary uses its part")]
mod common;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{House, authorize, quick};
use contract::OrderId;
use skald_payment::{
    Config,
    provider::{Answer, BoxFuture, Call, PaymentProvider, Provider, Verdict},
};

const ORDERS: u128 = 200;
/// How often a call stays without an answer before it gets one.
const UNKNOWN: usize = 3;

/// Calls under way and made, by key, at one provider that two replicas ask.
#[derive(Default)]
struct Desk {
    calls: Mutex<HashMap<String, (usize, usize)>>,
    /// Keys that were asked while they were being asked.
    overlapping: Mutex<Vec<String>>,
}

/// One replica's way to the desk.
struct Way {
    desk: Arc<Desk>,
    calls: Mutex<usize>,
}

impl PaymentProvider for Way {
    fn call<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Answer> {
        *self.calls.lock().unwrap() += 1;
        let made = {
            let mut calls = self.desk.calls.lock().unwrap();
            let (together, made) = calls.entry(call.key.clone()).or_default();
            (*together, *made) = (*together + 1, *made + 1);
            if *together > 1 {
                self.desk.overlapping.lock().unwrap().push(call.key.clone());
            }
            *made
        };
        Box::pin(async move {
            // Long enough for the other replica to look for what is due meanwhile.
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.desk.calls.lock().unwrap().get_mut(&call.key).unwrap().0 -= 1;
            if made <= UNKNOWN { Answer::Unknown("503".into()) } else { Answer::Definitive(Verdict::Authorized) }
        })
    }

    fn lookup(&self, _: OrderId) -> BoxFuture<'_, Result<Vec<Verdict>, String>> {
        unreachable!("no key expires here")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_what_is_due_and_never_make_one_call_at_the_same_time() {
    let desk = Arc::new(Desk::default());
    let way = || Arc::new(Way { desk: desk.clone(), calls: Mutex::default() });
    let (one, two) = (way(), way());
    // A claim holds for longer than this test takes, and a pause until the other replica has looked for what is due.
    let config = Config { timeout_ms: 60_000, retry_first_ms: 300, retry_cap_ms: 600, ..quick() };
    let house = House::open(Provider::Given(one.clone()), config.clone()).await;
    if !house.has_replicas() {
        return;
    }
    let (service, tasks) = house.replica(Provider::Given(two.clone()), config).await;
    house.deliver((1..=ORDERS).map(|number| authorize(number, "t"))).await;
    house.counts("SELECT COUNT(*) FROM payments WHERE status = 'authorized'", ORDERS as i64).await;
    assert_eq!(*desk.overlapping.lock().unwrap(), [""; 0]);
    let made: Vec<usize> = desk.calls.lock().unwrap().values().map(|(_, made)| *made).collect();
    assert!(made.iter().all(|made| *made == UNKNOWN + 1), "{made:?}");
    for way in [one, two] {
        assert!(*way.calls.lock().unwrap() > 0, "each made its part of them");
    }
    drop(service);
    assert!(tasks.stop(Duration::from_secs(20)).await);
}
