//! Hints between replicas: they hear of each other's commits, and one that is alone keeps quiet.

use std::time::Duration;

use skald_log::Database;
use skald_log::testing::TestDatabase;
use sqlx::postgres::PgListener;
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::fixture::{count, start};

/// A commit is heard of at once; this only bounds a test that fails.
const SOON: Duration = Duration::from_secs(20);

#[expect(clippy::disallowed_methods, reason = "a test has no tasks of a process")]
fn spawn(future: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(future)
}

async fn reaches(head: &mut watch::Receiver<i64>, position: i64) {
    timeout(SOON, head.wait_for(|head| *head >= position)).await.expect("nobody told of a commit").unwrap();
}

async fn ear(url: &str) -> PgListener {
    let mut ear = PgListener::connect(url).await.unwrap();
    ear.listen("skald_head").await.unwrap();
    ear
}

/// Hints that come before the one that tells of `position`, the last of all commits: the next sign of life does, if nothing else.
async fn hints_before(ear: &mut PgListener, position: i64) -> usize {
    let (mut hints, last) = (0, format!(" {position}"));
    while !timeout(SOON, ear.recv()).await.expect("no sign of life").unwrap().payload().ends_with(&last) {
        hints += 1;
    }
    hints
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_hear_of_each_others_commits() {
    let database = TestDatabase::fresh().await;
    let (one, two, stop) = (start(&database).await, start(&database).await, CancellationToken::new());
    let mut exchanges = Vec::new();
    for replica in [&one, &two] {
        exchanges.push(spawn(replica.log().clone().exchange_wake_ups(stop.clone())));
    }
    if let Database::Postgres(_) = database.database {
        // Whoever begins to listen looks up the head once; what comes later is told, or never known.
        let (mut at_one, mut at_two) = (one.log().head(), two.log().head());
        for round in 0..3 {
            one.submit(count("a")).await.unwrap();
            reaches(&mut at_two, 2 * round + 1).await;
            two.submit(count("a")).await.unwrap();
            reaches(&mut at_one, 2 * round + 2).await;
        }
        stop.cancel();
    }
    // On SQLite there is one process, and nothing to exchange: these have ended by themselves.
    for exchange in exchanges {
        timeout(SOON, exchange).await.expect("it ends when it is told to").unwrap();
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_replica_that_waits_is_told_of_each_commit() {
    let database = TestDatabase::fresh().await;
    let (leader, other, stop) = (start(&database).await, start(&database).await, CancellationToken::new());
    let mut head = leader.log().head();
    let exchanges = [&leader, &other].map(|replica| spawn(replica.log().clone().exchange_wake_ups(stop.clone())));
    if let Database::Postgres(url) = &database.database {
        other.submit(count("a")).await.unwrap();
        reaches(&mut head, 1).await;
        let mut ear = ear(url).await;
        for _ in 0..50 {
            leader.submit(count("a")).await.unwrap();
        }
        let hints = hints_before(&mut ear, 51).await;
        assert!(hints < 25, "{hints} hints of 50 commits that nobody waits for");
        stop.cancel();
    }
    for exchange in exchanges {
        timeout(SOON, exchange).await.expect("it ends when it is told to").unwrap();
    }
    leader.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_alone_tells_nobody_of_each_commit() {
    let database = TestDatabase::fresh().await;
    let (alone, stop) = (start(&database).await, CancellationToken::new());
    let exchange = spawn(alone.log().clone().exchange_wake_ups(stop.clone()));
    if let Database::Postgres(url) = &database.database {
        let mut ear = ear(url).await;
        let sign_of_life = timeout(SOON, ear.recv()).await.expect("no sign of life").unwrap();
        assert!(sign_of_life.payload().ends_with(" 0"), "{}", sign_of_life.payload());
        for _ in 0..50 {
            alone.submit(count("a")).await.unwrap();
        }
        let hints = hints_before(&mut ear, 50).await;
        assert!(hints < 25, "{hints} hints of 50 commits");
        stop.cancel();
    }
    timeout(SOON, exchange).await.expect("it ends when it is told to").unwrap();
    alone.stop().await;
}
