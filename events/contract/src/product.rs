//! What the product service is asked and says: the catalogue, and the stock that orders reserve.

use serde::{Deserialize, Serialize};

use crate::{Money, OrderId, ProductId, envelope::Repeated, payload::messages};

/// So many pieces of one product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StockLine {
    pub product_id: ProductId,
    pub quantity: u32,
}

/// Asks to hold stock for an order: all lines or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ReserveStock {
    pub order_id: OrderId,
    pub lines: Vec<StockLine>,
}

/// Asks that the order ends with nothing held, whatever happened before: also when nothing did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ReleaseStock {
    pub order_id: OrderId,
}

/// Asks that the held stock is sold. Sent only after the payment was captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CommitStock {
    pub order_id: OrderId,
}

messages! {
    /// `product.commands.v1`: from the order saga, keyed by order id.
    pub enum Command on PRODUCT_COMMANDS {
        ReserveStock = "product.ReserveStock" v 1,
        ReleaseStock = "product.ReleaseStock" v 1,
        CommitStock = "product.CommitStock" v 1,
    }
}

/// Why stock was not reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum StockRefusal {
    /// Fewer pieces are left than asked for.
    NotEnough,
    /// A product is unknown or was removed.
    UnknownProduct,
    /// The order was released before the reservation came (a tombstone stands).
    AlreadyReleased,
}

/// A product entered the catalogue with its first stock. Emitted on POST /v1/products; starts the stream `product-<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ProductAdded {
    pub product_id: ProductId,
    pub sku: String,
    pub title: String,
    pub category: String,
    pub price: Money,
    pub stock: i64,
}

/// Title, category or price changed; carries all three as they are now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ProductChanged {
    pub product_id: ProductId,
    pub title: String,
    pub category: String,
    pub price: Money,
}

/// The product can't be ordered any more. Reservations that it has go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ProductRemoved {
    pub product_id: ProductId,
}

/// Somebody delivered or wrote off stock: `change` pieces, never zero.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StockChanged {
    pub product_id: ProductId,
    pub change: i64,
    pub reason: String,
}

/// The order's lines are held. Reply to `ReserveStock`; starts the stream `reservation-<order id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StockReserved {
    pub order_id: OrderId,
    pub lines: Vec<StockLine>,
    #[serde(default, skip_serializing_if = "Repeated::is_first")]
    pub repeated: Repeated,
}

/// Nothing is held and nothing will be. Reply to `ReserveStock`; final.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StockRefused {
    pub order_id: OrderId,
    pub reason: StockRefusal,
    /// The products that fell short.
    pub products: Vec<ProductId>,
    #[serde(default, skip_serializing_if = "Repeated::is_first")]
    pub repeated: Repeated,
}

/// Nothing is held. Reply to `ReleaseStock`; `lines` is what went back, empty if there was nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StockReleased {
    pub order_id: OrderId,
    pub lines: Vec<StockLine>,
    /// The stock had been committed already, so it came back from what was sold.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restocked: bool,
    #[serde(default, skip_serializing_if = "Repeated::is_first")]
    pub repeated: Repeated,
}

/// The held stock is sold. Reply to `CommitStock`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StockCommitted {
    pub order_id: OrderId,
    pub lines: Vec<StockLine>,
    #[serde(default, skip_serializing_if = "Repeated::is_first")]
    pub repeated: Repeated,
}

messages! {
    /// `product.events.v1`: the catalogue's events keyed by product id, the replies to the saga keyed by order id.
    pub enum Event on PRODUCT_EVENTS {
        ProductAdded = "product.ProductAdded" v 1,
        ProductChanged = "product.ProductChanged" v 1,
        ProductRemoved = "product.ProductRemoved" v 1,
        StockChanged = "product.StockChanged" v 1,
        StockReserved = "product.StockReserved" v 1,
        StockRefused = "product.StockRefused" v 1,
        StockReleased = "product.StockReleased" v 1,
        StockCommitted = "product.StockCommitted" v 1,
    }
}
