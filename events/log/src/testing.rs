//! Fresh databases for test suites: the same suite runs on SQLite in `cargo test` and on PostgreSQL by `ci/postgres.sh`.
//!
//! Never in production code: the feature `testing` is for dev-dependencies.

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

use crate::Database;

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
