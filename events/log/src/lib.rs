//! The event log on PostgreSQL and SQLite: the one place where a message becomes durable and gets its position.
//!
//! Lives here: group commit, positions, progress, idempotency keys, the tail in memory, the dialects. Never here: what a
//! message means. From here the flow goes to `events/bus`, which carries committed rows to the services that wait for them.

mod agree;
mod append;
mod arrivals;
mod backoff;
mod bounds;
mod chain;
mod db;
mod dead_letter;
mod due;
mod env;
mod error;
mod group;
mod memory;
mod migrate;
mod observe;
mod operate;
mod read;
mod redrive;
mod relay;
mod rows;
mod sql;
mod start;
mod steady;
mod survey;
mod tail;
#[cfg(feature = "testing")]
pub mod testing;
mod trouble;
mod unit;
mod wake;
mod writer;

pub use backoff::backoff;
pub use chain::{Chain, Place};
pub use db::{Conn, Database, Owned, Reader, Readers};
pub use due::{Due, Reader as DueReader, is_set_aside};
pub use env::{Clock, Commit, Disk, Env};
pub use error::{Error, OpenError, Verdict};
pub use memory::{Memory, weight};
pub use migrate::Migration;
pub use observe::{Carried, Committed, Handled, Observer, Span, SpanKind, Value, Way, carry};
pub use operate::{Desk, Moved, Refused, readers_of};
pub use read::{Log, Opened};
pub use redrive::{Listed, Redriven, Waiting, dead_letter, dead_letters, discard, discard_parked, parked, redrive};
pub use relay::{Candidate, Checkpoint, Epoch, Saved};
pub use sql::{for_update, run_length};
pub use steady::{Stand, SystemClock};
pub use survey::Survey;
pub use unit::{Job, New, Unit};
pub use writer::{
    Answer, Arrived, Claim, Delivered, Handler, IdempotencyKey, Item, KEYS_KEPT, Poison, Stored, Todo, Writer, WriterLimits,
};

/// What the macros of this crate expand to; services name no database driver.
#[doc(hidden)]
pub use sqlx as __sqlx;
