//! The topics, one table. Names are `<domain>.<kind>.v<major>`; the key of whatever a saga touches is the order id.

pub const ORDER_EVENTS: &str = "order.events.v1";
pub const PRODUCT_COMMANDS: &str = "product.commands.v1";
pub const PRODUCT_EVENTS: &str = "product.events.v1";
pub const PAYMENT_COMMANDS: &str = "payment.commands.v1";
pub const PAYMENT_EVENTS: &str = "payment.events.v1";
pub const USER_EVENTS: &str = "user.events.v1";
pub const NOTIFICATION_EVENTS: &str = "notification.events.v1";
pub const SAGA_EVENTS: &str = "saga.events.v1";

/// What a topic carries and who writes it.
#[derive(Clone, Copy, Debug)]
pub struct Topic {
    pub name: &'static str,
    /// The one service whose log publishes to it.
    pub owner: &'static str,
    /// The services that consume it.
    pub readers: &'static [&'static str],
}

/// Every topic but the dead letters, which are `<name>.dlq` each.
pub const TOPICS: [Topic; 8] = [
    Topic { name: ORDER_EVENTS, owner: "order", readers: &["notification"] },
    Topic { name: PRODUCT_COMMANDS, owner: "order", readers: &["product"] },
    Topic { name: PRODUCT_EVENTS, owner: "product", readers: &["order"] },
    Topic { name: PAYMENT_COMMANDS, owner: "order", readers: &["payment"] },
    Topic { name: PAYMENT_EVENTS, owner: "payment", readers: &["order"] },
    Topic { name: USER_EVENTS, owner: "user", readers: &[] },
    Topic { name: NOTIFICATION_EVENTS, owner: "notification", readers: &[] },
    Topic { name: SAGA_EVENTS, owner: "order", readers: &[] },
];

/// Where a message of `topic` goes that a consumer can't handle.
pub fn dead_letters(topic: &str) -> String {
    format!("{topic}.dlq")
}
