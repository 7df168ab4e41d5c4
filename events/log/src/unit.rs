//! The unit of work: one transaction in the making, as a service's handler sees it.

use contract::{Encoded, Message, MessageId, Meta, Timestamp, Trace};
use sqlx::{Postgres, QueryBuilder};
use uuid::Uuid;

use crate::{Conn, Env, Span};

/// One thing to decide, with why it came.
#[derive(Clone, Debug)]
pub struct Job<W> {
    pub work: W,
    pub meta: Meta,
}

/// A row to append. Its position is given when the whole batch has been decided.
#[derive(Clone, Debug)]
pub struct New {
    pub stream: String,
    /// The version this row takes; a taken one makes the job a loser, never its neighbours.
    pub version: i64,
    /// Topic and key, for what is published.
    pub to: Option<(&'static str, String)>,
    pub payload: Encoded,
}

/// A transaction in which a batch of jobs is decided. Dropped without a commit, it leaves nothing.
pub struct Unit<'t> {
    conn: Conn<'t>,
    env: &'t Env,
    now: Timestamp,
    pub(crate) rows: Vec<Row>,
    /// What PostgreSQL writes when the unit appends: the beginning of one statement.
    pub(crate) writes: Option<QueryBuilder<Postgres>>,
    writes_count: usize,
    pub(crate) refused: Vec<(usize, String)>,
    pub(crate) spans: Vec<Span>,
    pub(crate) once_committed: Vec<Told>,
}

/// What is said of a transaction when it has committed, such as to a counter.
pub(crate) type Told = Box<dyn FnOnce() + Send>;

pub(crate) struct Row {
    pub id: MessageId,
    pub stream: String,
    pub version: i64,
    pub topic: Option<String>,
    pub key: Option<String>,
    pub payload: Encoded,
    pub meta: Meta,
    /// The context under which it is appended; its own, in `meta`, is that of its being sent.
    pub parent: Trace,
}

impl Row {
    /// A row for a topic and key, or for this log alone.
    pub(crate) fn new(
        id: MessageId,
        stream: String,
        version: i64,
        to: Option<(String, String)>,
        payload: Encoded,
        mut meta: Meta,
    ) -> Self {
        let (topic, key) = to.unzip();
        let parent = meta.trace.clone();
        // What is not sent has no span of its own.
        if topic.is_some() {
            meta.trace = parent.child(id.span());
        }
        Self { id, stream, version, topic, key, payload, meta, parent }
    }

    /// The row at its place in the log.
    pub(crate) fn at(self, position: i64, time: Timestamp) -> Message {
        let Self { id, stream, version, topic, key, payload, meta, .. } = self;
        let (kind, schema, data) = (payload.kind.to_owned(), payload.schema, payload.data);
        Message { position, id, stream, version, topic, key, kind, schema, data, time, meta }
    }
}

impl<'t> Unit<'t> {
    pub(crate) fn new(conn: Conn<'t>, env: &'t Env) -> Self {
        let (rows, refused, spans, once_committed) = Default::default();
        Self { conn, env, now: env.now(), rows, writes: None, writes_count: 0, refused, spans, once_committed }
    }

    /// The transaction's connection. Lock rows in key order, and before anything is appended.
    pub fn conn(&mut self) -> &mut Conn<'t> {
        &mut self.conn
    }

    /// Where `write_many!` puts an INSERT on PostgreSQL; the database does it when the unit appends.
    #[doc(hidden)]
    pub fn write_later(&mut self) -> Option<&mut QueryBuilder<Postgres>> {
        let Conn::Postgres(_) = self.conn else { return None };
        self.writes_count += 1;
        let query = one_more(self.writes.take());
        let query = self.writes.insert(query);
        query.push(format_args!("w{} AS (", self.writes_count));
        Some(query)
    }

    /// The one instant of this batch.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    pub fn env(&self) -> &'t Env {
        self.env
    }

    /// A fresh UUIDv7.
    pub fn id(&self) -> Uuid {
        self.env.id()
    }

    /// Adds a row to what this transaction appends, and tells its id.
    pub fn append(&mut self, meta: &Meta, new: New) -> MessageId {
        let id = self.id().into();
        let New { stream, version, to, payload } = new;
        let to = to.map(|(topic, key)| (topic.to_owned(), key));
        self.rows.push(Row::new(id, stream, version, to, payload, meta.clone()));
        id
    }

    /// Has something told once this transaction has committed; it ends with it.
    pub fn tell(&mut self, span: impl FnOnce() -> Span) {
        if self.env.observer().is_some() {
            self.spans.push(span());
        }
    }

    /// Calls `tell` once this transaction has committed, and never if it does not: a batch may be decided more than once. For what is
    /// counted; nothing may depend on it, as a crash comes between.
    pub fn once_committed(&mut self, tell: impl FnOnce() + Send + 'static) {
        self.once_committed.push(Box::new(tell));
    }

    /// Refuses the job at `index` of the batch for good: it came as a message that must not have come. It becomes a dead
    /// letter in this same transaction.
    pub fn refuse(&mut self, index: usize, why: impl Into<String>) {
        self.refused.push((index, why.into()));
    }
}

/// The statement that `write_many!` begins, ready for one more part of its `WITH`.
pub(crate) fn one_more(writes: Option<QueryBuilder<Postgres>>) -> QueryBuilder<Postgres> {
    match writes {
        Some(mut query) => {
            query.push(", ");
            query
        }
        None => QueryBuilder::new("WITH "),
    }
}
