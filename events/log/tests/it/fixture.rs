//! A log with a handler that does as it is told.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use contract::{Encoded, Message, Meta};
use skald_log::{
    Database, Env, Error, Handler, IdempotencyKey, Job, Log, Migration, New, OpenError, Opened, Stored, Unit, Writer,
    WriterLimits, on, testing::TestDatabase,
};
use tokio::task::JoinHandle;

/// What a job does.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// Appends to a stream at a version; a taken one loses.
    Append { stream: String, version: i64 },
    /// Appends and counts in one row a stream, as an aggregate does.
    Count { stream: String },
    /// Appends a payload of so many bytes, to be published.
    Publish { stream: String, bytes: usize },
    /// Does what the database refuses for good.
    Break,
    /// Is refused as a message.
    Refuse,
    /// Does nothing until it is let go.
    Wait(Arc<tokio::sync::Semaphore>),
}

#[derive(Default)]
pub(crate) struct Told {
    pub batches: AtomicUsize,
    /// Rows, counted once they are committed.
    pub appended: Arc<AtomicUsize>,
}

const MIGRATION: Migration = Migration {
    version: 100,
    name: "counts",
    sqlite: "CREATE TABLE counts (stream TEXT PRIMARY KEY, n INTEGER NOT NULL CHECK (n < 1000000)) STRICT;",
    postgres: "CREATE TABLE counts (stream TEXT PRIMARY KEY, n BIGINT NOT NULL CHECK (n < 1000000));",
};

impl Handler for Told {
    type Work = Work;
    type Done = i64;

    async fn handle(&self, unit: &mut Unit<'_>, jobs: &[&Job<Work>]) -> Result<Vec<i64>, Error> {
        self.batches.fetch_add(1, Ordering::Relaxed);
        let mut done = Vec::new();
        for (index, job) in jobs.iter().enumerate() {
            done.push(match &job.work {
                Work::Append { stream, version } => {
                    let appended = self.appended.clone();
                    unit.once_committed(move || {
                        appended.fetch_add(1, Ordering::Relaxed);
                    });
                    append(unit, &job.meta, stream, *version)
                }
                Work::Count { stream } => {
                    let n: i64 = on!(unit.conn(), |c| sqlx::query_scalar::<DB, i64>(
                        "INSERT INTO counts (stream, n) VALUES ($1, 1) ON CONFLICT (stream) DO UPDATE SET n = counts.n + 1 RETURNING n"
                    )
                    .bind(stream.as_str())
                    .fetch_one(c)
                    .await)?;
                    append(unit, &job.meta, stream, n)
                }
                Work::Publish { stream, bytes } => {
                    let payload = Encoded { kind: "test.Large", schema: 1, data: format!("\"{}\"", "x".repeat(*bytes - 2)) };
                    let to = Some((contract::topics::ORDER_EVENTS, stream.clone()));
                    unit.append(&job.meta, New { stream: stream.clone(), version: 1, to, payload });
                    1
                }
                Work::Break => {
                    on!(unit.conn(), |c| sqlx::query::<DB>("INSERT INTO counts (stream, n) VALUES ('broken', 1000000)")
                        .execute(c)
                        .await
                        .map(drop))?;
                    0
                }
                Work::Refuse => {
                    unit.refuse(index, "told to");
                    0
                }
                Work::Wait(gate) => {
                    drop(gate.acquire().await);
                    0
                }
            });
        }
        Ok(done)
    }

    fn answer(&self, done: &i64) -> Option<Stored> {
        Some(Stored { fingerprint: [0; 32], status: 202, location: Some(format!("/{done}")), body: "{}".into() })
    }

    fn committed(&self, _: Vec<i64>) {}
}

fn append(unit: &mut Unit<'_>, meta: &Meta, stream: &str, version: i64) -> i64 {
    let payload = Encoded { kind: "test.Appended", schema: 1, data: format!("{{\"version\":{version}}}") };
    let to = Some(("test.events.v1", stream.to_owned()));
    unit.append(meta, New { stream: stream.to_owned(), version, to, payload });
    version
}

/// A running log.
pub(crate) struct Running {
    pub writer: Writer<Told>,
    pub handler: Arc<Told>,
    task: JoinHandle<()>,
}

pub(crate) async fn open(database: &TestDatabase) -> Result<Opened, OpenError> {
    open_at(database.database.clone(), Env::system()).await
}

pub(crate) async fn open_at(database: Database, env: Env) -> Result<Opened, OpenError> {
    Log::open(database, "test", &[MIGRATION], env).await
}

/// A log of a service that the contract's table of topics knows.
pub(crate) async fn start_named(service: &'static str, database: &TestDatabase) -> Running {
    let opened = Log::open(database.database.clone(), service, &[MIGRATION], Env::system()).await.unwrap();
    run(opened, WriterLimits::default())
}

/// A log that is reached another way than its database is.
pub(crate) async fn start_on(database: Database) -> Running {
    run(open_at(database, Env::system()).await.unwrap(), WriterLimits::default())
}

pub(crate) async fn start(database: &TestDatabase) -> Running {
    start_with(database, WriterLimits::default()).await
}

pub(crate) async fn start_with(database: &TestDatabase, limits: WriterLimits) -> Running {
    start_as(database, Env::system(), limits).await
}

pub(crate) async fn start_as(database: &TestDatabase, env: Env, limits: WriterLimits) -> Running {
    run(open_at(database.database.clone(), env).await.unwrap(), limits)
}

fn run(opened: Opened, limits: WriterLimits) -> Running {
    let handler = Arc::new(Told::default());
    let (writer, task) = Writer::new(opened, handler.clone(), limits);
    #[expect(clippy::disallowed_methods, reason = "a test has no tasks of a process")]
    let task = tokio::spawn(task);
    Running { writer, handler, task }
}

impl Running {
    pub(crate) fn log(&self) -> &Log {
        self.writer.log()
    }

    pub(crate) async fn submit(&self, work: Work) -> Result<i64, Error> {
        self.writer.submit(job(work)).await
    }

    pub(crate) async fn rows(&self) -> Vec<Arc<Message>> {
        self.log().refresh().await.unwrap();
        let mut rows: Vec<Arc<Message>> = Vec::new();
        loop {
            let more = self.log().after(rows.last().map_or(0, |row| row.position), 1_000).await.unwrap();
            if more.is_empty() {
                return rows;
            }
            rows.extend(more);
        }
    }

    pub(crate) async fn stop(self) {
        drop(self.writer);
        self.task.await.unwrap();
    }
}

pub(crate) fn job(work: Work) -> Job<Work> {
    Job { work, meta: Meta::default() }
}

pub(crate) fn at(stream: &str, version: i64) -> Work {
    Work::Append { stream: stream.to_owned(), version }
}

pub(crate) fn count(stream: &str) -> Work {
    Work::Count { stream: stream.to_owned() }
}

pub(crate) fn key(key: u8, body: u8) -> IdempotencyKey {
    IdempotencyKey { key: [key; 32], fingerprint: [body; 32] }
}

/// Positions 1, 2, 3 …, and each stream's versions 1, 2, 3 …: the log's first law.
pub(crate) fn assert_without_gaps(rows: &[Arc<Message>]) {
    let mut versions = std::collections::HashMap::new();
    for (position, row) in (1..).zip(rows) {
        assert_eq!(row.position, position);
        let version = versions.entry(&row.stream).or_insert(0);
        *version += 1;
        assert_eq!(row.version, *version, "{}", row.stream);
    }
}
