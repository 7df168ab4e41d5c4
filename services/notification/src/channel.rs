//! The port to whatever carries a notification to a customer.
//!
//! Never here: when to try again, which is `delivery.rs`. From here a letter leaves the system.

use std::{future::Future, pin::Pin};

use contract::{CustomerId, NotificationId, OrderId};

/// A future that a trait object can give.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One notification, as a channel gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Stable over all attempts: whoever receives a letter twice can tell.
    pub notification_id: NotificationId,
    pub order_id: OrderId,
    pub customer_id: CustomerId,
    pub template: String,
    pub subject: String,
    pub body: String,
}

/// Carries letters. A letter arrives at least once: after a crash it may be handed over again.
pub trait Channel: Send + Sync + 'static {
    /// # Errors
    /// Why the letter was not taken; it is tried again. The caller bounds the time.
    fn deliver<'a>(&'a self, letter: &'a Letter) -> BoxFuture<'a, Result<(), String>>;
}

/// The channel that is built in: a line in the log at level debug, without the text. `--log debug` shows it.
#[derive(Debug, Default)]
pub struct Console;

impl Channel for Console {
    fn deliver<'a>(&'a self, letter: &'a Letter) -> BoxFuture<'a, Result<(), String>> {
        let Letter { notification_id, order_id, template, .. } = letter;
        tracing::debug!(notification.id = %notification_id, order.id = %order_id, template, "notified");
        Box::pin(std::future::ready(Ok(())))
    }
}
