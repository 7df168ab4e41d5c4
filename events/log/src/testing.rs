//! Fresh databases for test suites: the same suite runs on SQLite in `cargo test` and on PostgreSQL by `ci/postgres.sh`.
//!
//! Never in production code: the feature `testing` is for dev-dependencies.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use contract::Timestamp;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

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

async fn postgres(url: &str) -> Database {
    let name = format!("test_{}", crate::Env::system().id().simple());
    let mut connection = PgConnection::connect(url).await.expect("SKALD_TEST_POSTGRES is the URL of a running server");
    let create = AssertSqlSafe(format!("CREATE DATABASE {name}"));
    sqlx::raw_sql(create).execute(&mut connection).await.expect("the role may create databases");
    let (server, _) = url.rsplit_once('/').expect("a URL ends with the database's name");
    Database::Postgres(format!("{server}/{name}"))
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
