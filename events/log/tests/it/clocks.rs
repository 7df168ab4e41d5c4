//! Instants of clocks that were wrong: leases, idempotency keys.

use std::{sync::Arc, time::Duration};

use skald_log::{
    Answer, Candidate, Env, Error, Handler, Job, Stored, Unit, Writer, WriterLimits,
    testing::{TestClock, TestDatabase},
};
use tokio::task::JoinHandle;

use crate::fixture::{at, key, open, start, start_as};

const LEASE: Duration = Duration::from_secs(3);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const SOON: Duration = Duration::from_secs(30);

fn ahead(by: Duration) -> Env {
    let clock = TestClock::start();
    clock.advance(by);
    Env::seeded(clock, 7)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_was_taken_with_a_clock_half_an_hour_ahead_is_over_in_seconds() {
    let database = TestDatabase::fresh().await;
    let wrong = start_as(&database, ahead(MINUTE * 30), WriterLimits::default()).await;
    let mut first = Candidate::new(wrong.log().clone());
    assert!(first.lead(LEASE).await.unwrap().is_some());
    drop(first);
    wrong.stop().await;

    // It goes by the database's clock; where that is the process' own, such a lease can't be.
    let right = start_as(&database, ahead(Duration::ZERO), WriterLimits::default()).await;
    let mut second = Candidate::new(right.log().clone());
    let led = async {
        while second.lead(LEASE).await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(SOON, led).await.is_ok(), "nobody publishes");
    assert_eq!(second.save(&Default::default(), LEASE).await.unwrap(), skald_log::Saved::Yes);
    drop(second);
    right.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_good_is_waited_for() {
    let database = TestDatabase::fresh().await;
    let running = start(&database).await;
    let (mut first, mut second) = (Candidate::new(running.log().clone()), Candidate::new(running.log().clone()));
    let long = Duration::from_secs(3_600);
    assert!(first.lead(long).await.unwrap().is_some());
    assert!(second.lead(long).await.unwrap().is_none());
    assert!(first.lead(long).await.unwrap().is_some(), "its own");
    drop((first, second));
    running.stop().await;
}

/// Keeps an answer under every key.
struct Answers;

impl Handler for Answers {
    type Work = &'static str;
    type Done = &'static str;

    async fn handle(&self, _: &mut Unit<'_>, jobs: &[&Job<&'static str>]) -> Result<Vec<&'static str>, Error> {
        Ok(jobs.iter().map(|job| job.work).collect())
    }

    fn answer(&self, done: &&'static str) -> Option<Stored> {
        Some(Stored { fingerprint: [0; 32], status: 202, location: Some((*done).to_owned()), body: String::new() })
    }

    fn committed(&self, _: Vec<&'static str>) {}
}

/// A process whose clock shows so much more than it should.
async fn process(database: &TestDatabase, by: Duration) -> (Writer<Answers>, JoinHandle<()>) {
    let opened = skald_log::Log::open(database.database.clone(), "test", &[], ahead(by)).await.unwrap();
    let (writer, task) = Writer::new(opened, Arc::new(Answers), WriterLimits::default());
    #[expect(clippy::disallowed_methods, reason = "a test has no tasks of a process")]
    let task = tokio::spawn(task);
    (writer, task)
}

/// Whether a key was used before.
async fn is_known(writer: &Writer<Answers>, number: u8) -> bool {
    let answer = writer.request(Job { work: "order", meta: Default::default() }, Some(key(number, 1))).await.unwrap();
    matches!(answer, Answer::Repeated(_) | Answer::KeyReused)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_as_old_as_it_is_whatever_the_clock_says() {
    let database = TestDatabase::fresh().await;
    let (writer, task) = process(&database, DAY * 9).await;
    assert!(!is_known(&writer, 1).await);
    drop(writer);
    task.await.unwrap();

    // Two days ahead, again and again: an hour of being up in all.
    for _ in 0..6 {
        let (writer, task) = process(&database, DAY * 11).await;
        for _ in 0..10 {
            writer.forget_old_keys(MINUTE).await.unwrap();
        }
        assert!(is_known(&writer, 1).await);
        drop(writer);
        task.await.unwrap();
    }

    // Time has really passed: it goes.
    let (writer, task) = process(&database, DAY * 11).await;
    for _ in 0..48 {
        writer.forget_old_keys(MINUTE * 60).await.unwrap();
    }
    assert!(!is_known(&writer, 1).await, "it is used anew");
    drop(writer);
    task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_clock_that_was_behind_stay() {
    let database = TestDatabase::fresh().await;
    let (writer, task) = process(&database, DAY * 9).await;
    assert!(!is_known(&writer, 1).await);
    writer.forget_old_keys(MINUTE).await.unwrap();
    drop(writer);
    task.await.unwrap();
    let (writer, task) = process(&database, DAY * 7).await;
    assert!(!is_known(&writer, 2).await);
    drop(writer);
    task.await.unwrap();
    let (writer, task) = process(&database, DAY * 9).await;
    for _ in 0..10 {
        writer.forget_old_keys(MINUTE).await.unwrap();
    }
    assert!(is_known(&writer, 2).await);
    drop(writer);
    task.await.unwrap();
}

/// PostgreSQL only: a process that starts goes by its database's time from the first row on.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_goes_by_the_time_of_its_database() {
    let database = TestDatabase::fresh().await;
    let running = start(&database).await;
    running.submit(at("a", 1)).await.unwrap();
    let stand = running.log().env().clock();
    let is_postgres = matches!(database.database, skald_log::Database::Postgres(_));
    assert_eq!((stand.is_agreed, stand.is_apart()), (is_postgres, false));
    running.stop().await;
    assert!(open(&database).await.is_ok());
}
