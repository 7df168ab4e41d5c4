//! The log as its readers see it: opening, the head, progress, stored answers. Its rows are read in `rows.rs`.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use contract::{
    Cause, Fault, Message,
    record::{Link, Record, Source},
};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    Claim, Conn, Database, Due, Env, Error, IdempotencyKey, Migration, OpenError, Readers, Stored, agree, bounds, chain,
    db::{self, Owned, Reader},
    migrate, on, start,
    tail::Tail,
    trouble::Writing,
    wake::Peers,
};

/// One service's event log. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

struct Inner {
    service: &'static str,
    id: Uuid,
    secret: [u8; 32],
    database: Database,
    readers: Readers,
    env: Env,
    head: watch::Sender<i64>,
    /// The newest row that this process committed.
    own: watch::Sender<i64>,
    /// When another replica was last heard of, and when one that waits for rows.
    peers: watch::Sender<Peers>,
    tail: Mutex<Tail>,
    /// Whoever reads what is missing there.
    reading: tokio::sync::Mutex<()>,
    /// How far the log is known to be published, and how much may wait for that; without a broker nothing does.
    published: AtomicI64,
    backlog_max: AtomicI64,
    counts: Counts,
    /// The service's table of rows that are due, if it has one.
    due: OnceLock<Arc<Due>>,
    writing: Writing,
}

/// What this process has done to a log, since it started.
#[derive(Default)]
pub(crate) struct Counts {
    pub commits: AtomicU64,
    /// By their causes, in the order of `Cause::ALL`.
    pub dead_letters: [AtomicU64; Cause::ALL.len()],
    pub repeats: AtomicU64,
    /// Messages that wait for a gap to close, in the whole database as far as is known.
    pub parked: AtomicI64,
    /// The newest message behind each gap that this process has told of.
    gaps: Mutex<HashMap<Gap, i64>>,
    /// Where the broker was asked once more for what is missing behind a progress: topic, partition and that progress.
    asked_again: Mutex<HashMap<(String, i64), i64>>,
}

/// Topic, partition and source.
type Gap = (String, i64, String);

/// A log and the connection that will write it, for [`Writer::new`](crate::Writer::new).
pub struct Opened {
    pub log: Log,
    pub connection: Owned,
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
        let mut connection = database.connect().await.map_err(|source| start::told(&database, source))?;
        start::server(&database, &mut connection).await?;
        agree::first(&mut connection, &env).await.map_err(failed)?;
        migrate::run(&database, &mut connection, migrations).await?;
        start::rights(&database, &mut connection, migrations).await?;
        if let Database::Postgres(_) = &database {
            // A migration may take its time, whoever writes from now on may not.
            connection.close().await.map_err(failed)?;
            connection = database.connect_to_write().await.map_err(failed)?;
        }
        let unreadable = |source| OpenError::Read { database: database.to_string(), source };
        let Head { position, service: found, id, secret } =
            first_head(&mut connection, service, &env).await.map_err(unreadable)?;
        if found != service {
            return Err(OpenError::OtherService { database: database.to_string(), found, wanted: service.to_owned() });
        }
        let readers = database.readers_in_time()?;
        // One is opened now: the first request should not wait for it, nor be the one to learn that it can't be had.
        drop(readers.acquire().await.map_err(unreadable)?);
        let (head, own) = (watch::Sender::new(position), watch::Sender::new(position));
        let (peers, reading) = Default::default();
        let tail = Mutex::new(Tail::new(env.memory().tail()));
        let (published, backlog_max, counts) = (AtomicI64::new(0), AtomicI64::new(i64::MAX), Counts::default());
        let inner = Inner {
            service,
            id,
            secret,
            database,
            readers,
            env,
            head,
            own,
            peers,
            tail,
            reading,
            published,
            backlog_max,
            counts,
            due: OnceLock::new(),
            writing: Writing::default(),
        };
        let log = Self { inner: Arc::new(inner) };
        log.count_parked().await.map_err(|source| OpenError::Read { database: log.inner.database.to_string(), source })?;
        Ok(Opened { log, connection })
    }

    pub fn service(&self) -> &'static str {
        self.inner.service
    }

    /// The `ce_source` of the rows of one epoch.
    pub fn source(&self, epoch: i64) -> Source {
        Source { service: self.inner.service.to_owned(), log: self.inner.id, epoch }
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

    /// The same, as it is now.
    pub(crate) fn newest(&self) -> i64 {
        *self.inner.head.borrow()
    }

    /// A connection that only reads.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn reader(&self) -> Result<Reader, Error> {
        self.inner.readers.acquire().await
    }

    /// Looks up the head in the database: the net under the wake-up, for rows that another process committed.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn refresh(&self) -> Result<(), Error> {
        let mut reader = self.reader().await?;
        let found: i64 =
            on!(&mut reader.conn(), |c| sqlx::query_scalar::<DB, i64>("SELECT position FROM head").fetch_one(c).await)?;
        self.heard(found);
        Ok(())
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

    /// The same for everything that `consumer` has begun: topic, partition, next offset.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn progress_of(&self, consumer: &str) -> Result<Vec<(String, i64, i64)>, Error> {
        let mut reader = self.reader().await?;
        Ok(on!(&mut reader.conn(), |c| sqlx::query_as::<DB, (String, i64, i64)>(
            "SELECT topic, partition, next_offset FROM progress WHERE consumer = $1"
        )
        .bind(consumer)
        .fetch_all(c)
        .await)?)
    }

    /// Whether `consumer` has seen, parked or set aside this very message of a partition.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn has_met(
        &self,
        consumer: &str,
        topic: &str,
        partition: i64,
        offset: i64,
        Link { source, sequence, .. }: &Link,
    ) -> Result<bool, Error> {
        let (mut reader, source) = (self.reader().await?, source.to_string());
        let met: Option<i64> = on!(&mut reader.conn(), |c| {
            sqlx::query_scalar::<DB, i64>(
            "SELECT last_sequence FROM seen WHERE consumer = $1 AND topic = $2 AND partition = $3 AND source = $4 AND last_sequence >= $5 \
             UNION ALL SELECT sequence FROM parked \
             WHERE consumer = $1 AND topic = $2 AND partition = $3 AND source = $4 AND sequence = $5 \
             UNION ALL SELECT message_offset FROM dead_letters \
             WHERE consumer = $1 AND topic = $2 AND partition = $3 AND message_offset = $6 LIMIT 1"
        )
        .bind(consumer)
        .bind(topic)
        .bind(partition)
        .bind(source.as_str())
        .bind(*sequence)
        .bind(offset)
        .fetch_optional(c)
        .await
        })?;
        Ok(met.is_some())
    }

    /// Whether `consumer` has handled, or set aside, a message at this place of a partition's chain.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn has_seen(&self, consumer: &str, topic: &str, partition: i64, link: &Link) -> Result<bool, Error> {
        let (mut reader, source) = (self.reader().await?, link.source.to_string());
        let last: Option<i64> = on!(&mut reader.conn(), |c| sqlx::query_scalar::<DB, i64>(
            "SELECT last_sequence FROM seen WHERE consumer = $1 AND topic = $2 AND partition = $3 AND source = $4"
        )
        .bind(consumer)
        .bind(topic)
        .bind(partition)
        .bind(source.as_str())
        .fetch_optional(c)
        .await)?;
        Ok(last.is_some_and(|last| link.sequence <= last))
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
        self.inner.counts.commits.load(Ordering::Relaxed)
    }

    /// Tells the log which rows of its service become due, for who asks after those that can't be read.
    pub fn watch_due(&self, due: Arc<Due>) {
        // A service has one such table, and is built once.
        let _ = self.inner.due.set(due);
    }

    /// The service's rows that are due, if it has such.
    pub fn due(&self) -> Option<&Due> {
        self.inner.due.get().map(Arc::as_ref)
    }

    /// Messages that this process has made dead letters of.
    pub fn dead_letters(&self) -> u64 {
        Cause::ALL.into_iter().map(|cause| self.dead_letters_of(cause)).sum()
    }

    /// The same, for one cause.
    pub fn dead_letters_of(&self, cause: Cause) -> u64 {
        let place = Cause::ALL.iter().position(|known| *known == cause).expect("all of them");
        self.inner.counts.dead_letters[place].load(Ordering::Relaxed)
    }

    /// Messages that came again and were skipped.
    pub fn repeats(&self) -> u64 {
        self.inner.counts.repeats.load(Ordering::Relaxed)
    }

    /// Messages that wait for a gap to close, as far as this process knows.
    pub fn parked(&self) -> i64 {
        self.inner.counts.parked.load(Ordering::Relaxed)
    }

    /// Rows that are not known to be published yet.
    pub fn unpublished(&self) -> i64 {
        self.newest() - self.inner.published.load(Ordering::Relaxed)
    }

    /// Whether there is a broker that it is published to.
    pub fn is_published(&self) -> bool {
        self.inner.backlog_max.load(Ordering::Relaxed) != i64::MAX
    }

    /// From how many unpublished rows on requests are refused.
    pub fn limit_backlog(&self, rows: i64) {
        self.inner.backlog_max.store(rows, Ordering::Relaxed);
    }

    /// Whether requests are refused because too much waits to be published.
    pub fn is_backlogged(&self) -> bool {
        self.is_published() && self.unpublished() > self.inner.backlog_max.load(Ordering::Relaxed)
    }

    /// Takes note of how far the log is published.
    pub(crate) fn published(&self, position: i64) {
        self.inner.published.store(position, Ordering::Relaxed);
    }

    /// Takes note of a commit of another process.
    pub(crate) fn heard(&self, position: i64) {
        self.inner.head.send_if_modified(|head| {
            let newer = position > *head;
            *head = position.max(*head);
            newer
        });
    }

    pub(crate) fn own_commits(&self) -> watch::Receiver<i64> {
        self.inner.own.subscribe()
    }

    /// Whether anything of this process waits for rows.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.inner.head.receiver_count() > 0
    }

    pub(crate) fn peers(&self) -> &watch::Sender<Peers> {
        &self.inner.peers
    }

    pub(crate) fn reading(&self) -> &tokio::sync::Mutex<()> {
        &self.inner.reading
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.inner.counts
    }

    /// Up to `limit` parked messages of a partition whose gap has closed, in their order: offset and record.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn released(&self, consumer: &str, topic: &str, partition: i64, limit: i64) -> Result<Vec<(i64, Record)>, Error> {
        let mut reader = self.reader().await?;
        let bytes_max = i64::try_from(self.env().memory().batch()).unwrap_or(i64::MAX);
        chain::released(&mut reader.conn(), consumer, topic, partition, limit, bytes_max).await
    }

    /// Looks up how many messages wait for a gap to close.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn count_parked(&self) -> Result<(), Error> {
        let mut reader = self.reader().await?;
        let parked: i64 =
            on!(&mut reader.conn(), |c| sqlx::query_scalar::<DB, i64>("SELECT COUNT(*) FROM parked").fetch_one(c).await)?;
        self.inner.counts.parked.store(parked, Ordering::Relaxed);
        Ok(())
    }

    /// The first message of each partition that waits for a gap to close: topic, partition, offset.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn first_parked(&self, consumer: &str) -> Result<Vec<(String, i64, i64)>, Error> {
        let mut reader = self.reader().await?;
        Ok(on!(&mut reader.conn(), |c| sqlx::query_as::<DB, (String, i64, i64)>(
            "SELECT topic, partition, MIN(message_offset) FROM parked WHERE consumer = $1 GROUP BY topic, partition"
        )
        .bind(consumer)
        .fetch_all(c)
        .await)?)
    }

    /// Says that what was read from this progress on is forgotten, and read once more. Whoever delivers from there again and still
    /// misses a message is believed.
    pub fn asked_again(&self, topic: &str, partition: i64, from: i64) {
        let mut asked = self.inner.counts.asked_again.lock().unwrap_or_else(PoisonError::into_inner);
        asked.insert((topic.to_owned(), partition), from);
    }

    /// Whether the message is behind a gap for sure: one that has been told of, or that is there each time one looks.
    pub(crate) fn believes(&self, claim: &Claim, behind: &Link) -> bool {
        let place = (claim.topic.clone(), claim.partition);
        let asked = self.inner.counts.asked_again.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.get(&place) == Some(&claim.from) || Fault::BufferGoesOn.is_planted() {
            return true;
        }
        let gap = (place.0, place.1, behind.source.to_string());
        self.inner.counts.gaps.lock().unwrap_or_else(PoisonError::into_inner).get(&gap) == Some(&behind.previous)
    }

    /// Notes the newest message behind a gap; tells the one before, if there was any.
    pub(crate) fn tell_gap(&self, gap: Gap, newest: i64) -> Option<i64> {
        self.inner.counts.gaps.lock().unwrap_or_else(PoisonError::into_inner).insert(gap, newest)
    }

    pub(crate) fn committed(&self, rows: Vec<Arc<Message>>) {
        self.inner.counts.commits.fetch_add(1, Ordering::Relaxed);
        if let Some(newest) = rows.last().map(|row| row.position) {
            self.tail().take_up(&rows);
            self.heard(newest);
            self.inner.own.send_replace(newest);
        }
    }

    /// Takes nothing of the old connections along to a new one: a database that had to be connected to again may have lost rows that
    /// are in memory, and may be another server than the one that readers are connected to.
    pub(crate) fn forget(&self) {
        self.tail().clear();
        self.inner.readers.renew();
    }

    /// What the database answers in time. SQLite is in the process, and has its own time for who waits for its lock.
    pub(crate) async fn in_time<T>(&self, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match self.inner.database {
            Database::Sqlite(_) => answer.await,
            Database::Postgres(_) => db::in_time(bounds::TRANSACTION, answer).await,
        }
    }

    pub(crate) fn writing(&self) -> &Writing {
        &self.inner.writing
    }

    pub(crate) fn tail(&self) -> std::sync::MutexGuard<'_, Tail> {
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
        crate::select_in!(conn, Row, "SELECT key, fingerprint, status, location, body FROM idempotency WHERE key", keys, "")?;
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
    type Row = (i64, String, Uuid, Vec<u8>);
    let row: Row = on!(&mut connection.conn(), |c| {
        sqlx::query_as::<DB, Row>("SELECT position, service, log_id, secret FROM head").fetch_one(c).await
    })?;
    let (position, service, id, secret) = row;
    let secret = secret.try_into().map_err(|_| Error::Corrupt("the log's secret is 32 bytes".into()))?;
    Ok(Head { position, service, id, secret })
}
