//! Connections: one that writes, a few that read, for either database.

use std::{fmt, path::PathBuf, time::Duration};

use sqlx::{
    Connection, PgConnection, Postgres, Sqlite, SqliteConnection,
    pool::{PoolConnection, PoolOptions},
    postgres::PgConnectOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use crate::{Error, OpenError};

/// Where a service keeps its data.
#[derive(Clone, Debug)]
pub enum Database {
    /// A file; made if it is missing.
    Sqlite(PathBuf),
    /// A `postgres://` URL of a database of the service's own.
    Postgres(String),
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            // Never with the password.
            Self::Postgres(url) => match url.rsplit_once('@') {
                Some((_, host)) => write!(f, "postgres://***@{host}"),
                None => f.write_str(url),
            },
        }
    }
}

/// SQL texts are few but come in sizes (see `insert_many!`), so that the default of 100 would prepare again and again.
const STATEMENTS_CACHED: usize = 512;
/// Rows that SQLite's thread may be ahead of their reader: with the default of 50 the two wait for each other in every longer read.
const ROWS_BUFFERED: usize = 1_024;
/// Reads are short; more connections than this only cost memory and threads.
const READERS_MAX: u32 = 2;
/// Page cache of a connection, in KiB (the minus says so). The system's own cache is behind it.
const CACHE: &str = "-1024";
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl Database {
    /// What others call this kind of database.
    pub fn system(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgresql",
        }
    }

    /// Its name on its server, or its file's.
    pub fn name(&self) -> &str {
        match self {
            Self::Sqlite(path) => path.file_name().and_then(|name| name.to_str()).unwrap_or_default(),
            Self::Postgres(url) => url.rsplit('/').next().and_then(|rest| rest.split('?').next()).unwrap_or_default(),
        }
    }

    /// Host and port of its server, as its URL has them; none of a file.
    pub fn server(&self) -> Option<(&str, Option<u16>)> {
        let Self::Postgres(url) = self else { return None };
        let authority = url.split_once("://")?.1.split(['/', '?']).next()?;
        let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
        let (host, port) = match place.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
            Some((host, Ok(port))) => (host, Some(port)),
            _ => (place, None),
        };
        Some((host.trim_start_matches('[').trim_end_matches(']'), port)).filter(|(host, _)| !host.is_empty())
    }

    fn sqlite(path: &std::path::Path) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(false)
            .pragma("cache_size", CACHE)
            .statement_cache_capacity(STATEMENTS_CACHED)
            .row_buffer_size(ROWS_BUFFERED)
            // A checkpoint syncs the database file: every 4,000 pages (16 MiB) instead of 1,000 is a quarter of them.
            .pragma("wal_autocheckpoint", "4000")
    }

    pub(crate) fn postgres(url: &str) -> Result<PgConnectOptions, sqlx::Error> {
        // Every statement goes by keys. A plan made while a table was empty is kept, and must not read all of the table later. Left to
        // itself the server plans most statements anew every time: it knows the values then, and expects fewer rows than without.
        let plans = [("enable_seqscan", "off"), ("jit", "off"), ("plan_cache_mode", "force_generic_plan")];
        Ok(url.parse::<PgConnectOptions>()?.statement_cache_capacity(STATEMENTS_CACHED).options(plans))
    }

    /// The connection that writes.
    ///
    /// # Errors
    /// The database's own.
    pub async fn connect(&self) -> Result<Owned, sqlx::Error> {
        match self {
            Self::Sqlite(path) => {
                let options = Self::sqlite(path).create_if_missing(true);
                Ok(Owned::Sqlite(Box::new(SqliteConnection::connect_with(&options).await?)))
            }
            Self::Postgres(url) => Ok(Owned::Postgres(Box::new(PgConnection::connect_with(&Self::postgres(url)?).await?))),
        }
    }

    /// Connections that only read.
    ///
    /// # Errors
    /// The database's own.
    pub fn readers(&self) -> Result<Readers, OpenError> {
        let failed = |source| OpenError::Connect { database: self.to_string(), source };
        Ok(match self {
            Self::Sqlite(path) => {
                Readers::Sqlite(options().connect_lazy_with(Self::sqlite(path).read_only(true).pragma("query_only", "on")))
            }
            Self::Postgres(url) => Readers::Postgres(options().connect_lazy_with(Self::postgres(url).map_err(failed)?)),
        })
    }
}

fn options<DB: sqlx::Database>() -> PoolOptions<DB> {
    PoolOptions::new().max_connections(READERS_MAX).test_before_acquire(false).acquire_timeout(CONNECT_TIMEOUT)
}

/// A borrowed connection to either database: what every function with SQL takes.
pub enum Conn<'c> {
    Sqlite(&'c mut SqliteConnection),
    Postgres(&'c mut PgConnection),
}

/// The writer's connection.
pub enum Owned {
    Sqlite(Box<SqliteConnection>),
    Postgres(Box<PgConnection>),
}

impl Owned {
    pub fn conn(&mut self) -> Conn<'_> {
        match self {
            Self::Sqlite(connection) => Conn::Sqlite(connection),
            Self::Postgres(connection) => Conn::Postgres(connection),
        }
    }

    /// Opens a transaction. SQLite takes its write lock at once: upgrading later would fail with BUSY, without waiting.
    pub(crate) async fn begin(&mut self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(connection) => sqlx::query("BEGIN IMMEDIATE").execute(&mut **connection).await.map(drop),
            Self::Postgres(connection) => {
                sqlx::query("BEGIN ISOLATION LEVEL READ COMMITTED").execute(&mut **connection).await.map(drop)
            }
        }
    }

    pub(crate) async fn end(&mut self, sql: &'static str) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(connection) => sqlx::query(sql).execute(&mut **connection).await.map(drop),
            Self::Postgres(connection) => sqlx::query(sql).execute(&mut **connection).await.map(drop),
        }
    }

    pub(crate) async fn close(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(connection) => connection.close().await,
            Self::Postgres(connection) => connection.close().await,
        }
    }
}

/// A small pool of connections that only read.
#[derive(Clone)]
pub enum Readers {
    Sqlite(sqlx::Pool<Sqlite>),
    Postgres(sqlx::Pool<Postgres>),
}

/// A connection out of [`Readers`].
pub enum Reader {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

impl Readers {
    /// # Errors
    /// [`Error::Unavailable`] when no connection is to be had in time.
    pub async fn acquire(&self) -> Result<Reader, Error> {
        match self {
            Self::Sqlite(pool) => Ok(Reader::Sqlite(pool.acquire().await?)),
            Self::Postgres(pool) => Ok(Reader::Postgres(pool.acquire().await?)),
        }
    }

    pub async fn close(&self) {
        match self {
            Self::Sqlite(pool) => pool.close().await,
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

impl Reader {
    pub fn conn(&mut self) -> Conn<'_> {
        match self {
            Self::Sqlite(connection) => Conn::Sqlite(connection),
            Self::Postgres(connection) => Conn::Postgres(connection),
        }
    }
}
