//! Every word on the wire: ids, money, time, the message envelope, commands, events, refusals and topics.
//!
//! Never here: I/O, clocks, randomness, SQL, Kafka. Everything is a plain value that can be encoded and decoded.
//! From here the flow goes to `events/log` (a [`Message`] is a row of it) and to `sagas/core` (which decides on the payloads).

pub mod dead_letter;
pub mod envelope;
pub mod ids;
pub mod money;
pub mod notification;
pub mod order;
pub mod payload;
pub mod payment;
pub mod planted;
pub mod product;
pub mod record;
pub mod saga;
pub mod signature;
pub mod time;
pub mod topics;
pub mod trace;
pub mod user;

pub use dead_letter::{Cause, DeadLetter};
pub use envelope::{Message, Meta};
pub use ids::{CustomerId, MessageId, NotificationId, OrderId, ProductId};
pub use money::{Currency, Money};
pub use payload::{DecodeError, Encoded};
pub use planted::Fault;
pub use record::{Link, Malformed, Record, Seal, Source};
pub use signature::MessageKeys;
pub use time::Timestamp;
pub use trace::Trace;

#[cfg(test)]
mod tests;
