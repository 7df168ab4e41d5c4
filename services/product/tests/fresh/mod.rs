//! A fresh database for one test: a new one on the PostgreSQL of `SKALD_TEST_POSTGRES` if that is set, else an SQLite file.
//!
//! Never here: a schema; the log makes it when it opens.

use eventlog::{Database, Env};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

/// A database that nobody else uses. The file goes with the directory; the server of `ci/postgres.sh` goes with its databases.
pub(crate) async fn database(directory: &TempDir) -> Database {
    let name = format!("product_{}", Env::system().id().simple());
    let Ok(url) = std::env::var("SKALD_TEST_POSTGRES") else {
        return Database::Sqlite(directory.path().join(name).with_extension("db"));
    };
    let mut connection = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await.unwrap();
    let (server, _) = url.rsplit_once('/').unwrap();
    Database::Postgres(format!("{server}/{name}"))
}
