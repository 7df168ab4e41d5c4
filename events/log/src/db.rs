//! Connections: one that writes, a few that read, for either database.

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sqlx::{
    Connection, PgConnection, Postgres, Sqlite, SqliteConnection,
    pool::{PoolConnection, PoolOptions},
    postgres::PgConnectOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use crate::{Error, OpenError, bounds};

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

    /// Options of any session with PostgreSQL.
    fn postgres(url: &str) -> Result<PgConnectOptions, sqlx::Error> {
        // Every statement goes by keys. A plan made while a table was empty is kept, and must not read all of the table later. Left to
        // itself the server plans most statements anew every time: it knows the values then, and expects fewer rows than without.
        let plans = [("enable_seqscan", "off"), ("jit", "off"), PLANS];
        let options = url.parse::<PgConnectOptions>()?.statement_cache_capacity(STATEMENTS_CACHED);
        Ok(options.options(plans).options(bounds::of_any_session()))
    }

    /// Options of a session that somebody waits for.
    pub(crate) fn postgres_in_time(url: &str) -> Result<PgConnectOptions, sqlx::Error> {
        Ok(Self::postgres(url)?.options(bounds::of_a_short_session()))
    }

    /// A connection that may take its time: to migrate, to list, to check.
    ///
    /// # Errors
    /// The database's own.
    pub async fn connect(&self) -> Result<Owned, sqlx::Error> {
        match self {
            Self::Sqlite(path) => {
                let options = Self::sqlite(path).create_if_missing(true);
                Ok(Owned::Sqlite(Box::new(SqliteConnection::connect_with(&options).await?)))
            }
            Self::Postgres(url) => connect(Self::postgres(url)?).await,
        }
    }

    /// A connection that writes: what it has locked, it never keeps for long (`bounds.rs`).
    ///
    /// # Errors
    /// The database's own; also when it is a standby, which another name may lead past.
    pub async fn connect_to_write(&self) -> Result<Owned, sqlx::Error> {
        let Self::Postgres(url) = self else { return self.connect().await };
        let mut connection = connect(Self::postgres_in_time(url)?).await?;
        if let Owned::Postgres(connection) = &mut connection {
            in_time(bounds::CONNECT, must_be_primary(connection)).await?;
        }
        Ok(connection)
    }

    /// Connections that only read, and may take their time.
    ///
    /// # Errors
    /// The database's own.
    pub fn readers(&self) -> Result<Readers, OpenError> {
        self.readers_with(Self::postgres, false)
    }

    /// The same for a service, where somebody waits for each answer.
    pub(crate) fn readers_in_time(&self) -> Result<Readers, OpenError> {
        self.readers_with(Self::postgres_in_time, true)
    }

    fn readers_with(
        &self,
        postgres: fn(&str) -> Result<PgConnectOptions, sqlx::Error>,
        of_primary: bool,
    ) -> Result<Readers, OpenError> {
        let failed = |source| OpenError::Connect { database: self.to_string(), source };
        Ok(match self {
            Self::Sqlite(path) => {
                Readers::Sqlite(options().connect_lazy_with(Self::sqlite(path).read_only(true).pragma("query_only", "on")))
            }
            Self::Postgres(url) => Readers::Postgres(Renewed::new(postgres(url).map_err(failed)?, of_primary)),
        })
    }
}

/// The setting by which is told at the start whether settings arrive at all.
pub(crate) const PLANS: (&str, &str) = ("plan_cache_mode", "force_generic_plan");

async fn connect(options: PgConnectOptions) -> Result<Owned, sqlx::Error> {
    Ok(Owned::Postgres(Box::new(in_time(bounds::CONNECT, PgConnection::connect_with(&options)).await?)))
}

/// What a PostgreSQL answers within a time: one that has vanished never says so. In real time, as the wait is for another machine.
pub(crate) async fn in_time<T, E: From<sqlx::Error>>(time: Duration, answer: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let late = |_| Err(sqlx::Error::from(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time")).into());
    tokio::time::timeout(time, answer).await.unwrap_or_else(late)
}

/// A standby takes no writes, and what is read there may be of yesterday. After a failover the same name may lead elsewhere.
async fn must_be_primary(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let is_standby: bool = sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(connection).await?;
    if is_standby {
        return Err(std::io::Error::other("the server is a standby, which takes no writes").into());
    }
    Ok(())
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
    Postgres(Renewed),
}

/// A pool that is made anew where its connections are no good any more: their plans are for other tables, they wait for a server that
/// has vanished, or they lead to one that is not the primary any more.
#[derive(Clone)]
pub struct Renewed {
    options: Arc<PgConnectOptions>,
    /// A standby is no good. An audit may read one.
    of_primary: bool,
    /// With the number of stale plans that were known when it was made.
    pool: Arc<Mutex<(u64, sqlx::Pool<Postgres>)>>,
}

/// Stale plans that this process has met. Who meets one may not have the connection at hand, nor know the others with the same plan.
static STALE_PLANS: AtomicU64 = AtomicU64::new(0);

/// Notes that a plan does not fit its table any more. Readers from before go, and with them their plans.
pub(crate) fn plans_are_stale() {
    STALE_PLANS.fetch_add(1, Ordering::Relaxed);
}

impl Renewed {
    fn new(options: PgConnectOptions, of_primary: bool) -> Self {
        let pool = (STALE_PLANS.load(Ordering::Relaxed), Self::pool_of(&options, of_primary));
        Self { options: Arc::new(options), of_primary, pool: Arc::new(Mutex::new(pool)) }
    }

    fn pool_of(options: &PgConnectOptions, of_primary: bool) -> sqlx::Pool<Postgres> {
        let pool = self::options().after_connect(move |connection, _| {
            Box::pin(async move { if of_primary { must_be_primary(connection).await } else { Ok(()) } })
        });
        pool.connect_lazy_with(options.clone())
    }

    fn pool(&self) -> sqlx::Pool<Postgres> {
        let stale = STALE_PLANS.load(Ordering::Relaxed);
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.0 != stale {
            *pool = (stale, Self::pool_of(&self.options, self.of_primary));
        }
        pool.1.clone()
    }

    fn renew(&self) {
        let stale = STALE_PLANS.load(Ordering::Relaxed);
        *self.pool.lock().unwrap_or_else(PoisonError::into_inner) = (stale, Self::pool_of(&self.options, self.of_primary));
    }
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
            Self::Postgres(pool) => match pool.pool().acquire().await {
                Ok(connection) => Ok(Reader::Postgres(connection)),
                Err(error) => {
                    // Reads are short: whoever has had all connections for so long waits for a server that has vanished.
                    if matches!(error, sqlx::Error::PoolTimedOut) {
                        pool.renew();
                    }
                    Err(error.into())
                }
            },
        }
    }

    /// Takes other connections from now on: the writer had to connect again, so the server may be another.
    pub(crate) fn renew(&self) {
        if let Self::Postgres(pool) = self {
            pool.renew();
        }
    }

    pub async fn close(&self) {
        match self {
            Self::Sqlite(pool) => pool.close().await,
            Self::Postgres(pool) => pool.pool().close().await,
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
