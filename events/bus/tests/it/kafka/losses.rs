//! What Kafka loses, and what a log loses, over a real Kafka: each is found, told with the command that mends it, and mended.

use std::path::{Path, PathBuf};

use eventlog::{Database, Desk, on, testing::TestDatabase};

use super::{COMMANDS, PARTITIONS, Running, TURN, clean, delete, header, make_topics, read, until};

/// A SQLite database that can be copied, or a PostgreSQL one that can be used as a template.
async fn copy(of: &Database, directory: &Path) -> Database {
    match of {
        Database::Sqlite(path) => {
            let to: PathBuf = directory.join("copy.db");
            let mut connection = of.connect().await.unwrap();
            let sql = sqlx::AssertSqlSafe(format!("VACUUM INTO '{}'", to.display()));
            on!(&mut connection.conn(), |c| sqlx::query::<DB>(sql).execute(c).await.map(drop)).unwrap();
            assert!(path.exists());
            Database::Sqlite(to)
        }
        Database::Postgres(url) => {
            let (server, name) = url.rsplit_once('/').unwrap();
            let copy = format!("{name}_copy");
            let mut connection = Database::Postgres(format!("{server}/postgres")).connect().await.unwrap();
            let sql = sqlx::AssertSqlSafe(format!("CREATE DATABASE {copy} TEMPLATE {name}"));
            on!(&mut connection.conn(), |c| sqlx::query::<DB>(sql).execute(c).await.map(drop)).unwrap();
            Database::Postgres(format!("{server}/{copy}"))
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka: ci/kafka.sh test"]
async fn what_kafka_has_lost_is_found_missing_and_published_again() {
    let _turn = TURN.lock().await;
    clean().await;
    let (source_db, sink_db) = (TestDatabase::fresh().await, TestDatabase::fresh().await);
    let source = Running::start("order", &source_db.database).await;
    source.relay();
    let sink = Running::start("product", &sink_db.database).await;
    sink.consume();
    source.append_many(100).await;
    sink.until_effects(100).await;
    sink.stop().await;

    // Published and lost before anybody read it.
    source.append_many(100).await;
    source.until_published().await;
    delete(&[COMMANDS]).await;
    make_topics().await;
    source.append_many(100).await;
    until("the topic is published to again", async || source.log().unpublished() == 0).await;
    let sink = Running::start("product", &sink_db.database).await;
    sink.consume();
    until("later messages wait", async || {
        sink.log().count_parked().await.unwrap();
        sink.log().parked() > 0
    })
    .await;
    let mut desk = Desk::open(&source_db.database).await.unwrap();
    let moved = desk.rewind(100).await.unwrap();
    assert_eq!((moved.position_before, moved.position, moved.head), (300, 100, 300));
    sink.until_effects(300).await;
    until("nothing waits", async || sink.count("SELECT COUNT(*) FROM parked").await == 0).await;
    assert_eq!(sink.log().dead_letters(), 0);
    source.stop().await;
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka: ci/kafka.sh test"]
async fn a_topic_that_was_made_anew_is_told_by_the_relay_that_starts() {
    let _turn = TURN.lock().await;
    clean().await;
    let source_db = TestDatabase::fresh().await;
    let source = Running::start("order", &source_db.database).await;
    source.relay();
    source.append_many(50).await;
    source.until_published().await;
    source.stop().await;
    delete(&[COMMANDS]).await;
    make_topics().await;
    let heard = crate::heard::capture();
    let source = Running::start("order", &source_db.database).await;
    source.relay();
    until("the relay tells", async || heard.has("skald relay rewind --to 0")).await;
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka: ci/kafka.sh test"]
async fn a_log_that_has_lost_commits_publishes_nothing_until_it_goes_on_in_a_new_epoch() {
    let _turn = TURN.lock().await;
    clean().await;
    let (source_db, sink_db) = (TestDatabase::fresh().await, TestDatabase::fresh().await);
    // With a message key nobody has to be told of the new epoch.
    let sink = Running::start("product", &sink_db.database).await.signed();
    sink.consume();
    let source = Running::start("order", &source_db.database).await.signed();
    source.relay();
    source.append_many(100).await;
    sink.until_effects(100).await;
    source.stop().await;
    let directory = tempfile::tempdir().unwrap();
    let backup = copy(&source_db.database, directory.path()).await;
    // More than the first look reaches back.
    let source = Running::start("order", &source_db.database).await.signed();
    source.relay();
    source.append_many(1_500).await;
    sink.until_effects(1_600).await;
    source.stop().await;

    // From the backup: rows 101 and later are others now.
    let source = Running::start("order", &backup).await.signed();
    source.append_many(50).await;
    source.relay();
    until("the relay refuses", async || {
        source.health.problem().is_some_and(|told| told.contains("skald log new-epoch --from 101"))
    })
    .await;
    assert_eq!(source.log().unpublished(), 50);
    let mut desk = Desk::open(&backup).await.unwrap();
    let moved = desk.new_epoch(101, source.log().env().now()).await.unwrap();
    assert_eq!((moved.position, moved.head), (100, 150));
    until("the new epoch is published", async || source.log().unpublished() == 0).await;
    assert_eq!(source.health.problem(), None);
    sink.until_effects(1_650).await;
    until("the new epoch is seen", async || sink.count("SELECT COUNT(*) FROM seen").await == 2 * i64::from(PARTITIONS)).await;
    assert_eq!(sink.log().dead_letters(), 0);
    source.stop().await;
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka: ci/kafka.sh test"]
async fn a_leader_under_which_the_log_loses_commits_stops_publishing() {
    let _turn = TURN.lock().await;
    clean().await;
    let source_db = TestDatabase::fresh().await;
    let source = Running::start("order", &source_db.database).await;
    source.relay();
    stops_when_commits_are_lost(&source_db.database, &source, &source).await;
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka: ci/kafka.sh test"]
async fn a_leader_stops_publishing_where_another_replica_has_taken_the_places_of_lost_commits() {
    let _turn = TURN.lock().await;
    clean().await;
    let source_db = TestDatabase::fresh().await;
    let leader = Running::start("order", &source_db.database).await;
    let other = Running::start("order", &source_db.database).await;
    leader.relay();
    stops_when_commits_are_lost(&source_db.database, &leader, &other).await;
    leader.stop().await;
    other.stop().await;
}

/// `leader` publishes what `writer` appends, until the log loses some of that and its positions are given out again.
async fn stops_when_commits_are_lost(database: &Database, leader: &Running, writer: &Running) {
    writer.append_many(60).await;
    until("all is published", async || leader.count("SELECT position FROM relay").await == 60).await;
    // What a failover to a replica that had not received them leaves behind.
    let mut connection = database.connect().await.unwrap();
    for sql in ["DELETE FROM log WHERE position > 40", "UPDATE head SET position = 40", "UPDATE relay SET position = 40"] {
        on!(&mut connection.conn(), |c| sqlx::query::<DB>(sql).execute(c).await.map(drop)).unwrap();
    }
    writer.append_many(100).await;
    until("the relay stops", async || leader.health.problem().is_some_and(|told| told.contains("skald log new-epoch --from 41")))
        .await;
    let newest = read(COMMANDS).iter().map(|message| header(message, "ce_sequence").unwrap().parse::<i64>().unwrap()).max();
    assert_eq!(newest, Some(60), "nothing of what took their places was published");
}
