//! How committed messages reach the services that wait for them, and how those handle each one once.
//!
//! Lives here: sources of messages, and the consumer that turns them into work for a service's writer. Never here: what a
//! message means. From here the flow goes to the service's `Handler`, in one transaction with the consumer's progress.

mod consumer;
mod embedded;
pub mod kafka;

pub use consumer::{Batch, Consumer, Incoming, Source, consume};
pub use embedded::{Ahead, Embedded};
