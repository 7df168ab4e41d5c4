//! What customers read: one text an outcome.
//!
//! Never here: names or addresses; the channel looks those up where it needs them. From here the text goes into the row.

use contract::order::{CancelReason, OrderCancelled, OrderConfirmed};

/// A text and the name of what it was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Text {
    pub template: &'static str,
    pub subject: &'static str,
    pub body: String,
}

pub(crate) fn confirmed(event: &OrderConfirmed) -> Text {
    let body = format!("Thank you. Your order {} is confirmed; we took {}.", event.order_id, event.total);
    Text { template: "order_confirmed", subject: "Your order is confirmed", body }
}

pub(crate) fn cancelled(event: &OrderCancelled) -> Text {
    let because = match event.reason {
        CancelReason::OutOfStock => "a product sold out before we could set it aside for you",
        CancelReason::StockTimeout => "our warehouse did not answer in time",
        CancelReason::PaymentDeclined => "your payment was declined",
        CancelReason::PaymentTimeout => "your payment was not confirmed in time",
        CancelReason::CaptureRefused => "your payment could not be collected",
        CancelReason::CancelledByCustomer => "you asked us to",
        CancelReason::CancelledByOperator => "our staff cancelled it",
    };
    let body = format!("Your order {} was cancelled: {because}. We keep none of your money.", event.order_id);
    Text { template: "order_cancelled", subject: "Your order was cancelled", body }
}
