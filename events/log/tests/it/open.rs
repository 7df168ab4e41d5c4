//! Opening: what is refused, in words for the person at the keyboard.

use skald_log::{
    Database, Env, Log, OpenError, on,
    testing::{Guest, TestDatabase},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::{count, open, open_at, start};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_a_right_is_told_which_and_on_which_table() {
    let Some(guest) = Guest::fresh().await else { return };
    drop(open_at(guest.database.clone(), Env::system()).await.unwrap());
    guest.within("REVOKE UPDATE, INSERT ON counts FROM {role}; REVOKE DELETE ON parked FROM {role}").await;
    let Err(error) = open_at(guest.database.clone(), Env::system()).await else { panic!("opened") };
    let told = error.to_string();
    let role = &guest.role;
    for grant in [format!("GRANT DELETE ON parked TO {role}"), format!("GRANT INSERT, UPDATE ON counts TO {role}")] {
        assert!(told.contains(&grant), "{told}");
    }
    guest.within("GRANT UPDATE, INSERT ON counts TO {role}; GRANT DELETE ON parked TO {role}").await;
    drop(open_at(guest.database.clone(), Env::system()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_the_letters_of_every_script_is_refused() {
    let Some(guest) = Guest::fresh().await else { return };
    guest.beside("CREATE DATABASE {name}_latin OWNER {role} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0").await;
    let Database::Postgres(url) = &guest.database else { panic!("it is PostgreSQL") };
    let Err(error) = open_at(Database::Postgres(format!("{url}_latin")), Env::system()).await else { panic!("opened") };
    assert!(error.to_string().contains("ENCODING 'UTF8'"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_refuses_the_settings_of_a_session_is_told_from_a_server() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // As PgBouncer says it.
    let refuses = async {
        let (mut client, _) = listener.accept().await.unwrap();
        let _ = client.read(&mut [0; 4_096]).await.unwrap();
        let fields = b"SFATAL\0C08P01\0Munsupported startup parameter: options\0\0";
        let length = u32::try_from(fields.len() + 4).unwrap().to_be_bytes();
        client.write_all(&[b"E", &length[..], fields].concat()).await.unwrap();
        let _ = client.read(&mut [0; 1]).await;
    };
    let database = Database::Postgres(format!("postgres://u:p@{address}/d?sslmode=disable"));
    let (opened, ()) = tokio::join!(open_at(database, Env::system()), refuses);
    let Err(error) = opened else { panic!("opened") };
    assert!(matches!(error, OpenError::Pooler { .. }), "{error}");
}
