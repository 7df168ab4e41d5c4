//! Opening: what is refused, in words for the person at the keyboard.

use skald_log::{Database, Env, Log, OpenError, on, testing::TestDatabase};

use crate::fixture::{count, open, start};

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_a_newer_version_is_refused_and_left_alone() {
    let database = TestDatabase::fresh().await;
    let mut opened = open(&database).await.unwrap();
    on!(&mut opened.connection.conn(), |c| sqlx::query::<DB>(
        "INSERT INTO _sqlx_migrations (version, description, installed_on, success, checksum, execution_time) \
         SELECT 9999, 'from the future', installed_on, success, checksum, execution_time FROM _sqlx_migrations WHERE version = 1"
    )
    .execute(c)
    .await
    .map(drop))
    .unwrap();
    drop(opened);
    let Err(error) = open(&database).await else { panic!("opened") };
    assert!(matches!(error, OpenError::NewerSchema { found: 9999, .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_another_service_is_refused() {
    let database = TestDatabase::fresh().await;
    drop(open(&database).await.unwrap());
    let Err(error) = Log::open(database.database.clone(), "other", &[], Env::system()).await else { panic!("opened") };
    // Without the first service's own migrations it looks newer; with them it is another service's.
    assert!(matches!(error, OpenError::NewerSchema { .. } | OpenError::OtherService { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_database_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.db");
    std::fs::write(&path, "this is not a database, but long enough to be looked at as if it were one".repeat(20)).unwrap();
    let opened = Log::open(Database::Sqlite(path), "test", &[], Env::system()).await;
    assert!(opened.is_err_and(|error| error.to_string().contains("test.db")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_keeps_its_id_and_its_secret() {
    let database = TestDatabase::fresh().await;
    let first = open(&database).await.unwrap().log;
    let again = open(&database).await.unwrap().log;
    assert_eq!((first.source(1), first.secret()), (again.source(1), again.secret()));
    assert!(first.source(1).to_string().starts_with("/skald/test/"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_wakes_whoever_waits() {
    let database = TestDatabase::fresh().await;
    let log = start(&database).await;
    let mut head = log.log().head();
    head.mark_unchanged();
    let (waited, done) = tokio::join!(head.changed(), log.submit(count("a")));
    waited.unwrap();
    done.unwrap();
    assert_eq!(*head.borrow(), 1);
    log.stop().await;
}
