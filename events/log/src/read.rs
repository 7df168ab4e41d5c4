//! The log as its readers see it: opening, the head, rows after a position, a stream, progress, stored answers.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use contract::{Message, Meta, Timestamp, Trace};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    Conn, Database, Env, Error, IdempotencyKey, Migration, OpenError, Readers, Stored,
    db::{Owned, Reader},
    migrate, on,
    tail::Tail,
};

/// One service's event log. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

struct Inner {
    service: &'static str,
    id: Uuid,
    epoch: i64,
    secret: [u8; 32],
    database: Database,
    readers: Readers,
    env: Env,
    head: watch::Sender<i64>,
    tail: Mutex<Tail>,
    commits: AtomicU64,
    dead_letters: AtomicU64,
}

/// A log and the connection that will write it, for [`Writer::new`](crate::Writer::new).
pub struct Opened {
    pub log: Log,
    pub connection: Owned,
}

/// The columns of the log in the order of [`StoredRow`].
macro_rules! row_columns {
    () => {
        "position, id, stream, version, topic, key, kind, schema, data, cause, correlation, traceparent, tracestate, time_us, actor"
    };
}

type StoredRow = (
    i64,
    Uuid,
    String,
    i64,
    Option<String>,
    Option<String>,
    String,
    i64,
    String,
    Option<Uuid>,
    Option<Uuid>,
    Option<String>,
    Option<String>,
    i64,
    Option<String>,
);

fn message(row: StoredRow) -> Arc<Message> {
    let (position, id, stream, version, topic, key, kind, schema, data, cause, correlation, parent, state, time_us, actor) = row;
    let meta = Meta { cause: cause.map(Into::into), correlation, trace: Trace { parent, state }, actor };
    let (id, time) = (id.into(), Timestamp(time_us));
    Arc::new(Message { position, id, stream, version, topic, key, kind, schema, data, time, meta })
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Log").field(&self.inner.service).finish()
    }
}

impl Log {
    /// Opens the log of `service`, makes or updates its schema and reads its head.
    ///
    /// # Errors
    /// [`OpenError`]: every variant is for the person at the keyboard.
    pub async fn open(
        database: Database,
        service: &'static str,
        migrations: &[Migration],
        env: Env,
    ) -> Result<Opened, OpenError> {
        if let Database::Sqlite(path) = &database
            && let Some(directory) = path.parent()
        {
            std::fs::create_dir_all(directory).map_err(|source| OpenError::Directory { path: directory.to_owned(), source })?;
        }
        let failed = |source| OpenError::Connect { database: database.to_string(), source };
        let mut connection = database.connect().await.map_err(failed)?;
        durable(&database, &mut connection).await?;
        migrate::run(&database, &mut connection, migrations).await?;
        let unreadable = |source| OpenError::Read { database: database.to_string(), source };
        let Head { position, service: found, id, epoch, secret } =
            first_head(&mut connection, service, &env).await.map_err(unreadable)?;
        if found != service {
            return Err(OpenError::OtherService { database: database.to_string(), found, wanted: service.to_owned() });
        }
        let readers = database.readers()?;
        // One is opened now: the first request should not wait for it, nor be the one to learn that it can't be had.
        drop(readers.acquire().await.map_err(unreadable)?);
        let (head, tail) = (watch::Sender::new(position), Mutex::default());
        let (commits, dead_letters) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Opened {
            log: Self {
                inner: Arc::new(Inner { service, id, epoch, secret, database, readers, env, head, tail, commits, dead_letters }),
            },
            connection,
        })
    }

    pub fn service(&self) -> &'static str {
        self.inner.service
    }

    /// `ce_source`: the service, the log's own id and its epoch.
    pub fn source(&self) -> String {
        format!("/skald/{}/{}/{}", self.inner.service, self.inner.id, self.inner.epoch)
    }

    /// A random secret made with the log, for keyed hashes. The same for every replica and after every restart.
    pub fn secret(&self) -> [u8; 32] {
        self.inner.secret
    }

    pub fn env(&self) -> &Env {
        &self.inner.env
    }

    pub fn database(&self) -> &Database {
        &self.inner.database
    }

    /// The position of the newest committed row, and a level to wait on: it never misses a commit of this process.
    pub fn head(&self) -> watch::Receiver<i64> {
        self.inner.head.subscribe()
    }

    /// A connection that only reads.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn reader(&self) -> Result<Reader, Error> {
        self.inner.readers.acquire().await
    }

    /// The next rows after a position, in order, at most `limit`: from memory where they are there, else from the database.
    /// There may be more than what comes; there is nothing more only when nothing comes.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn after(&self, after: i64, limit: usize) -> Result<Vec<Arc<Message>>, Error> {
        if let Some(rows) = self.tail().after(after, limit) {
            return Ok(rows);
        }
        if after >= *self.inner.head.borrow() {
            return Ok(Vec::new());
        }
        let mut reader = self.reader().await?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows: Vec<StoredRow> = on!(&mut reader.conn(), |c| sqlx::query_as::<DB, StoredRow>(concat!(
            "SELECT ",
            row_columns!(),
            " FROM log WHERE position > $1 ORDER BY position LIMIT $2"
        ))
        .bind(after)
        .bind(limit)
        .fetch_all(c)
        .await)?;
        Ok(rows.into_iter().map(message).collect())
    }

    /// Looks up the head in the database: the net under the wake-up, for rows that another process committed.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn refresh(&self) -> Result<(), Error> {
        let mut reader = self.reader().await?;
        let found: i64 =
            on!(&mut reader.conn(), |c| sqlx::query_scalar::<DB, i64>("SELECT position FROM head").fetch_one(c).await)?;
        self.inner.head.send_if_modified(|head| {
            let newer = found > *head;
            *head = found.max(*head);
            newer
        });
        Ok(())
    }

    /// One stream from a version on, in order.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn stream(&self, stream: &str, from_version: i64) -> Result<Vec<Arc<Message>>, Error> {
        let mut reader = self.reader().await?;
        let rows: Vec<StoredRow> = on!(&mut reader.conn(), |c| sqlx::query_as::<DB, StoredRow>(concat!(
            "SELECT ",
            row_columns!(),
            " FROM log WHERE stream = $1 AND version >= $2 ORDER BY version"
        ))
        .bind(stream)
        .bind(from_version)
        .fetch_all(c)
        .await)?;
        Ok(rows.into_iter().map(message).collect())
    }

    /// The next offset that `consumer` has not handled yet; 0 before its first message.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn progress(&self, consumer: &str, topic: &str, partition: i64) -> Result<i64, Error> {
        let mut reader = self.reader().await?;
        let next: Option<i64> = on!(&mut reader.conn(), |c| sqlx::query_scalar::<DB, i64>(
            "SELECT next_offset FROM progress WHERE consumer = $1 AND topic = $2 AND partition = $3"
        )
        .bind(consumer)
        .bind(topic)
        .bind(partition)
        .fetch_optional(c)
        .await)?;
        Ok(next.unwrap_or(0))
    }

    /// The committed answer to an earlier request with this key, if there is one.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn stored(&self, key: &IdempotencyKey) -> Result<Option<Stored>, Error> {
        Ok(self.stored_many(std::slice::from_ref(key)).await?.pop().map(|(_, stored)| stored))
    }

    /// The same for many keys in one read, each answer with its key; a key that was never used is not among them.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn stored_many(&self, keys: &[IdempotencyKey]) -> Result<Vec<([u8; 32], Stored)>, Error> {
        let mut reader = self.reader().await?;
        let keys: Vec<Vec<u8>> = keys.iter().map(|key| key.key.to_vec()).collect();
        let found = stored(&mut reader.conn(), &keys).await?;
        Ok(found.into_iter().filter_map(|(key, stored)| Some((key.try_into().ok()?, stored))).collect())
    }

    /// Transactions that this process has committed here.
    pub fn commits(&self) -> u64 {
        self.inner.commits.load(Ordering::Relaxed)
    }

    /// Messages that this process has made dead letters of.
    pub fn dead_letters(&self) -> u64 {
        self.inner.dead_letters.load(Ordering::Relaxed)
    }

    pub(crate) fn committed(&self, rows: Vec<Arc<Message>>, dead_letters: u64) {
        self.inner.commits.fetch_add(1, Ordering::Relaxed);
        self.inner.dead_letters.fetch_add(dead_letters, Ordering::Relaxed);
        if let Some(newest) = rows.last().map(|row| row.position) {
            self.tail().extend(rows);
            self.inner.head.send_modify(|head| *head = newest.max(*head));
        }
    }

    fn tail(&self) -> std::sync::MutexGuard<'_, Tail> {
        self.inner.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the readers, once the writer's task has ended; a SQLite database is then one file, without its `-wal` beside it.
    pub async fn close(&self) {
        self.inner.readers.close().await;
        // The last connection to close folds the write-ahead log into the file, if it may write.
        if let Database::Sqlite(path) = &self.inner.database
            && let Err(error) = async { self.inner.database.connect().await?.close().await }.await
        {
            tracing::warn!(database = %path.display(), %error, "the write-ahead log stays beside its database; the next start reads it");
        }
    }
}

/// The stored answers under these keys.
pub(crate) async fn stored(conn: &mut Conn<'_>, keys: &[Vec<u8>]) -> Result<Vec<(Vec<u8>, Stored)>, Error> {
    type Row = (Vec<u8>, Vec<u8>, i64, Option<String>, String);
    let rows =
        crate::select_in!(conn, Row, "SELECT key, fingerprint, status, location, body FROM idempotency WHERE key IN", keys, "")?;
    rows.into_iter()
        .map(|(key, fingerprint, status, location, body)| {
            let fingerprint = fingerprint.try_into().map_err(|_| Error::Corrupt("a fingerprint is 32 bytes".into()))?;
            let status = u16::try_from(status).map_err(|_| Error::Corrupt(format!("status {status}")))?;
            Ok((key, Stored { fingerprint, status, location, body }))
        })
        .collect()
}

/// The one row that says what a database is.
struct Head {
    position: i64,
    service: String,
    id: Uuid,
    epoch: i64,
    secret: [u8; 32],
}

/// Reads the head row, or makes it for a new database.
async fn first_head(connection: &mut Owned, service: &str, env: &Env) -> Result<Head, Error> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| Error::Corrupt(format!("no randomness from the operating system: {error}")))?;
    on!(&mut connection.conn(), |c| {
        sqlx::query::<DB>(
        "INSERT INTO head (one, position, service, log_id, epoch, secret) VALUES (1, 0, $1, $2, 1, $3) ON CONFLICT (one) DO NOTHING"
    )
    .bind(service)
    .bind(env.id())
    .bind(secret.to_vec())
    .execute(c)
    .await
    .map(drop)
    })?;
    type Row = (i64, String, Uuid, i64, Vec<u8>);
    let row: Row = on!(&mut connection.conn(), |c| {
        sqlx::query_as::<DB, Row>("SELECT position, service, log_id, epoch, secret FROM head").fetch_one(c).await
    })?;
    let (position, service, id, epoch, secret) = row;
    let secret = secret.try_into().map_err(|_| Error::Corrupt("the log's secret is 32 bytes".into()))?;
    Ok(Head { position, service, id, epoch, secret })
}

/// PostgreSQL must sync what it acknowledges; SQLite is told to, when the connection opens.
async fn durable(database: &Database, connection: &mut Owned) -> Result<(), OpenError> {
    let Owned::Postgres(connection) = connection else { return Ok(()) };
    for (setting, sql) in [("fsync", "SHOW fsync"), ("synchronous_commit", "SHOW synchronous_commit")] {
        let value: String = sqlx::query_scalar(sql)
            .fetch_one(&mut **connection)
            .await
            .map_err(|source| OpenError::Connect { database: database.to_string(), source })?;
        if ["off", "local"].contains(&value.as_str()) {
            return Err(OpenError::NotDurable { database: database.to_string(), setting, value });
        }
    }
    Ok(())
}
