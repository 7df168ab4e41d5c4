//! The unit of work: one transaction in the making, as a service's handler sees it.

use contract::{Encoded, Message, MessageId, Meta, Timestamp};
use uuid::Uuid;

use crate::{Conn, Env};

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
    pub(crate) refused: Vec<(usize, String)>,
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
}

impl Row {
    /// The row at its place in the log.
    pub(crate) fn at(self, position: i64, time: Timestamp) -> Message {
        let Self { id, stream, version, topic, key, payload, meta } = self;
        let (kind, schema, data) = (payload.kind.to_owned(), payload.schema, payload.data);
        Message { position, id, stream, version, topic, key, kind, schema, data, time, meta }
    }
}

impl<'t> Unit<'t> {
    pub(crate) fn new(conn: Conn<'t>, env: &'t Env) -> Self {
        Self { conn, env, now: env.now(), rows: Vec::new(), refused: Vec::new(), once_committed: Vec::new() }
    }

    /// The transaction's connection. Lock rows in key order, and before anything is appended.
    pub fn conn(&mut self) -> &mut Conn<'t> {
        &mut self.conn
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
        let (topic, key) = new.to.map(|(topic, key)| (topic.to_owned(), key)).unzip();
        let id = self.id().into();
        let (stream, version, payload) = (new.stream, new.version, new.payload);
        self.rows.push(Row { id, stream, version, topic, key, payload, meta: meta.clone() });
        id
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
