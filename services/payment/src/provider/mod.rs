//! The port to whoever moves the money, and what may be asked there.
//!
//! Never here: what an answer means for the order. From here the flow goes to `domain.rs`, which decides on verdicts, or to
//! `simulator.rs`, the provider that is built in.

pub(crate) mod ledger;
pub(crate) mod simulator;

use std::{future::Future, pin::Pin, sync::Arc};

use contract::{Money, OrderId, payment::Operation};

pub use crate::domain::Verdict;

/// A future that a trait object can give.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One call to the provider: the same each time it is made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub operation: Operation,
    pub order_id: OrderId,
    pub amount: Money,
    /// What the customer pays with; no card data.
    pub token: String,
    /// The provider's idempotency key, `<order id>:<operation>`: never the attempt.
    pub key: String,
}

pub(crate) fn key(order_id: OrderId, operation: Operation) -> String {
    format!("{order_id}:{}", operation.as_str())
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The provider's own and last word on this key.
    Definitive(Verdict),
    /// It may have taken effect or not, with why that isn't known: a timeout, a 5xx, a 429, anything unreadable.
    Unknown(String),
}

/// Whoever moves the money.
pub trait PaymentProvider: Send + Sync + 'static {
    /// Asks for one operation. The same key must take effect at most once and get the same answer, for the key's lifetime.
    /// The caller bounds the time; an operation that ends what has ended (a void of an expired hold) is done, not refused.
    fn call<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Answer>;

    /// What is recorded of an order, for calls whose key has expired. It proves presence, never absence.
    fn lookup(&self, order_id: OrderId) -> BoxFuture<'_, Result<Vec<Verdict>, String>>;
}

/// Which provider a service is built with.
#[derive(Clone)]
pub enum Provider {
    /// The simulator with its own durable books, in the payment database.
    BuiltIn,
    Given(Arc<dyn PaymentProvider>),
}
