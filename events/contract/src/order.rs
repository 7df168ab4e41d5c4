//! What the order service says.

use serde::{Deserialize, Serialize};

use crate::{CustomerId, Money, OrderId, ProductId, payload::messages};

/// One line of an order with what it was sold at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Line {
    pub product_id: ProductId,
    pub title: String,
    /// Pieces, 1 to 1,000.
    pub quantity: u32,
    pub unit_price: Money,
}

/// Why an order was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum CancelReason {
    OutOfStock,
    StockTimeout,
    PaymentDeclined,
    PaymentTimeout,
    CaptureRefused,
    CancelledByCustomer,
    CancelledByOperator,
}

impl CancelReason {
    pub const ALL: [Self; 7] = [
        Self::OutOfStock,
        Self::StockTimeout,
        Self::PaymentDeclined,
        Self::PaymentTimeout,
        Self::CaptureRefused,
        Self::CancelledByCustomer,
        Self::CancelledByOperator,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::OutOfStock => "out_of_stock",
            Self::StockTimeout => "stock_timeout",
            Self::PaymentDeclined => "payment_declined",
            Self::PaymentTimeout => "payment_timeout",
            Self::CaptureRefused => "capture_refused",
            Self::CancelledByCustomer => "cancelled_by_customer",
            Self::CancelledByOperator => "cancelled_by_operator",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// A customer placed an order and its saga began. Emitted by the order service; nobody has to act on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OrderPlaced {
    pub order_id: OrderId,
    pub customer_id: CustomerId,
    pub lines: Vec<Line>,
    pub total: Money,
}

/// The saga ended well: paid, stock committed. Consumed by notification. Never follows `OrderCancelled`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OrderConfirmed {
    pub order_id: OrderId,
    pub customer_id: CustomerId,
    pub total: Money,
}

/// The saga ended with nothing held and nothing taken. Consumed by notification. Never follows `OrderConfirmed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OrderCancelled {
    pub order_id: OrderId,
    pub customer_id: CustomerId,
    pub total: Money,
    pub reason: CancelReason,
}

messages! {
    /// `order.events.v1`, stream `order-<id>`.
    pub enum Event on ORDER_EVENTS {
        OrderPlaced = "order.OrderPlaced" v 1,
        OrderConfirmed = "order.OrderConfirmed" v 1,
        OrderCancelled = "order.OrderCancelled" v 1,
    }
}
