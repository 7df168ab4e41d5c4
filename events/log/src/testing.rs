//! Fresh databases for test suites: the same suite runs on SQLite in `cargo test` and on PostgreSQL by `ci/postgres.sh`.
//!
//! Never in production code: the feature `testing` is for dev-dependencies.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use contract::Timestamp;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{Clock, Database};

/// A database of its own, empty. The SQLite file goes when this is dropped.
pub struct TestDatabase {
    pub database: Database,
    _directory: Option<TempDir>,
}

impl TestDatabase {
    /// SQLite in a temporary directory; or, where `SKALD_TEST_POSTGRES` has a URL whose role may create databases, PostgreSQL.
    ///
    /// # Panics
    /// When neither can be made: a test has nothing to go on with.
    pub async fn fresh() -> Self {
        match std::env::var("SKALD_TEST_POSTGRES") {
            Ok(url) => Self { database: postgres(&url).await, _directory: None },
            Err(_) => {
                let directory = TempDir::new().expect("a temporary directory");
                Self { database: Database::Sqlite(directory.path().join("test.db")), _directory: Some(directory) }
            }
        }
    }
}

/// A PostgreSQL database of a role that is no superuser, as in production; and whoever may take things from it.
pub struct Guest {
    /// As the role reaches it.
    pub database: Database,
    pub role: String,
    pub name: String,
    /// The superuser's URL of the server, without a database.
    server: String,
}

impl Guest {
    /// None where there is no PostgreSQL.
    ///
    /// # Panics
    /// When it can't be made: a test has nothing to go on with.
    pub async fn fresh() -> Option<Self> {
        let url = std::env::var("SKALD_TEST_POSTGRES").ok()?;
        let Database::Postgres(made) = postgres(&url).await else { unreachable!("made just now") };
        let (server, name) = made.rsplit_once('/').expect("a URL ends with the database's name");
        let (_, place) = server.rsplit_once('@').expect("a URL with a login");
        let role = name.replace("test_", "guest_");
        let database = Database::Postgres(format!("postgres://{role}:first@{place}/{name}"));
        let guest = Self { database, name: name.to_owned(), server: server.to_owned(), role };
        guest.beside("CREATE ROLE {role} LOGIN PASSWORD 'first'; ALTER DATABASE {name} OWNER TO {role}").await;
        Some(guest)
    }

    /// Runs statements as a superuser in this database; `{role}` and `{name}` stand for what it is called.
    ///
    /// # Panics
    /// When they fail.
    pub async fn within(&self, sql: &str) {
        self.run(&self.name, sql).await;
    }

    /// The same in another database of the server: this one is not to be in use, or its role not to be asked.
    ///
    /// # Panics
    /// When they fail.
    pub async fn beside(&self, sql: &str) {
        self.run("postgres", sql).await;
    }

    async fn run(&self, database: &str, sql: &str) {
        let url = format!("{}/{database}", self.server);
        let mut connection = PgConnection::connect(&url).await.expect("a superuser may connect");
        let sql = sql.replace("{role}", &self.role).replace("{name}", &self.name);
        // Each by itself: some must not be in a transaction.
        for statement in sql.split("; ") {
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.expect("a superuser may do it");
        }
    }
}

async fn postgres(url: &str) -> Database {
    let name = format!("test_{}", crate::Env::system().id().simple());
    let mut connection = PgConnection::connect(url).await.expect("SKALD_TEST_POSTGRES is the URL of a running server");
    let create = AssertSqlSafe(format!("CREATE DATABASE {name}"));
    sqlx::raw_sql(create).execute(&mut connection).await.expect("the role may create databases");
    let (server, _) = url.rsplit_once('/').expect("a URL ends with the database's name");
    Database::Postgres(format!("{server}/{name}"))
}

/// Passes bytes on between a client and the PostgreSQL at `server`, until one of them ends. Asked at the server's answer to a
/// COMMIT, `cuts` may end it there: the client never hears that it committed.
pub async fn pass_on(mut client: TcpStream, server: String, mut cuts: impl FnMut() -> bool) {
    /// How the answer to a COMMIT ends.
    const COMMITTED: &[u8] = b"COMMIT\0";
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    // Small answers that somebody waits for; without it, it is only slower.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut asked, mut answered) = ([0; 16_384], [0; 16_384]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => match read {
                Ok(n) if n > 0 && server.write_all(&asked[..n]).await.is_ok() => {}
                _ => return,
            },
            read = server.read(&mut answered) => {
                let Ok(n) = read else { return };
                let is_commit = answered[..n].windows(COMMITTED.len()).any(|window| window == COMMITTED);
                if is_commit && cuts() || n == 0 || client.write_all(&answered[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// A clock that a test moves by hand. Whoever sleeps wakes when it is moved past their time.
pub struct TestClock {
    now: tokio::sync::watch::Sender<Timestamp>,
}

impl TestClock {
    /// Starts at some instant in 2023; ids made with it are good UUIDv7.
    pub fn start() -> Arc<Self> {
        Arc::new(Self { now: tokio::sync::watch::Sender::new(Timestamp(1_700_000_000_000_000)) })
    }

    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        self.now.send_modify(|now| *now = now.plus(by));
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        *self.now.borrow()
    }

    fn sleep(&self, wait: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let mut now = self.now.subscribe();
        let until = now.borrow().plus(wait);
        Box::pin(async move {
            // The clock is gone: so is the test.
            let _ = now.wait_for(|now| *now >= until).await;
        })
    }
}
