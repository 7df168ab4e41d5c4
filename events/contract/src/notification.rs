//! What the notification service says. Texts and addresses stay out of the log.

use serde::{Deserialize, Serialize};

use crate::{CustomerId, NotificationId, OrderId, payload::messages};

/// A notification is to be sent. First row of the stream `notification-<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NotificationQueued {
    pub notification_id: NotificationId,
    pub order_id: OrderId,
    pub customer_id: CustomerId,
    /// `order_confirmed` or `order_cancelled`.
    pub template: String,
}

/// The channel took it, at least once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NotificationDelivered {
    pub notification_id: NotificationId,
    pub order_id: OrderId,
    pub attempts: u32,
}

/// The channel refused it until the bound was reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NotificationGivenUp {
    pub notification_id: NotificationId,
    pub order_id: OrderId,
    pub attempts: u32,
    pub reason: String,
}

messages! {
    /// `notification.events.v1`.
    pub enum Event on NOTIFICATION_EVENTS {
        NotificationQueued = "notification.NotificationQueued" v 1,
        NotificationDelivered = "notification.NotificationDelivered" v 1,
        NotificationGivenUp = "notification.NotificationGivenUp" v 1,
    }
}
