//! The catalogue: the stream `product-<id>`, and what an admin may do to a product and its stock.
//!
//! Never here: async, clock, randomness, I/O, HTTP codes. Whether a sku is taken is told by the caller, who can look.
//! From here the flow goes to `handler.rs`, which appends the event and writes the rows.

use contract::{
    Money, ProductId, Timestamp,
    product::{Event, ProductAdded, ProductChanged, ProductRemoved, StockChanged},
};

use super::stock::{ON_HAND_MAX, Stock};

/// A product and its stock: what the catalogue's commands are decided on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub product_id: ProductId,
    pub sku: String,
    pub title: String,
    pub category: String,
    pub price: Money,
    pub removed: bool,
    /// Of the newest event of `product-<id>`.
    pub version: i64,
    pub added: Timestamp,
    pub stock: Stock,
}

/// What an admin asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Add(ProductAdded),
    Change(ChangeProduct),
    Remove { product_id: ProductId, expected: Expected },
    ChangeStock(StockChanged),
}

/// What to change; `None` keeps what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeProduct {
    pub product_id: ProductId,
    /// A sku never changes: if it is told, it must be the product's own.
    pub sku: Option<String>,
    pub title: Option<String>,
    pub category: Option<String>,
    pub price: Option<Money>,
    pub expected: Expected,
}

/// The versions of which the product must have one; `None` for any.
pub type Expected = Option<Vec<i64>>;

/// Why an admin's command is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such product")]
    UnknownProduct,
    #[error("another product has this sku")]
    SkuTaken,
    #[error("the sku of a product never changes")]
    SkuFixed,
    #[error("the product has changed: its version is {version}")]
    VersionChanged { version: i64 },
    #[error("only {on_hand} free pieces are left")]
    NotEnoughStock { on_hand: i64 },
    #[error("a product has at most {ON_HAND_MAX} free pieces")]
    TooMuchStock,
}

impl Command {
    pub fn product_id(&self) -> ProductId {
        match self {
            Self::Add(ProductAdded { product_id, .. })
            | Self::Change(ChangeProduct { product_id, .. })
            | Self::Remove { product_id, .. }
            | Self::ChangeStock(StockChanged { product_id, .. }) => *product_id,
        }
    }
}

/// Decides one command; `None` where everything is already as asked.
///
/// # Errors
/// The [`Refusal`], for the admin.
pub fn decide(item: Option<&Item>, sku_taken: bool, command: &Command) -> Result<Option<Event>, Refusal> {
    match command {
        Command::Add(_) if sku_taken => Err(Refusal::SkuTaken),
        Command::Add(added) if added.stock > ON_HAND_MAX => Err(Refusal::TooMuchStock),
        Command::Add(added) => Ok(Some(added.clone().into())),
        Command::Change(change) => decide_change(standing(item)?, change),
        Command::Remove { product_id, expected } => match item {
            // The first answer may have been lost: to remove it again is no mistake.
            Some(item) if item.removed => Ok(None),
            item => {
                check_version(standing(item)?, expected)?;
                Ok(Some(ProductRemoved { product_id: *product_id }.into()))
            }
        },
        Command::ChangeStock(change) => decide_stock(standing(item)?, change),
    }
}

fn standing(item: Option<&Item>) -> Result<&Item, Refusal> {
    item.filter(|item| !item.removed).ok_or(Refusal::UnknownProduct)
}

fn decide_change(item: &Item, change: &ChangeProduct) -> Result<Option<Event>, Refusal> {
    check_version(item, &change.expected)?;
    if change.sku.as_ref().is_some_and(|sku| !kit::text::is_same(sku, &item.sku)) {
        return Err(Refusal::SkuFixed);
    }
    let changed = ProductChanged {
        product_id: item.product_id,
        title: change.title.clone().unwrap_or_else(|| item.title.clone()),
        category: change.category.clone().unwrap_or_else(|| item.category.clone()),
        price: change.price.unwrap_or(item.price),
    };
    let same = changed.title == item.title && changed.category == item.category && changed.price == item.price;
    Ok((!same).then_some(changed.into()))
}

fn decide_stock(item: &Item, change: &StockChanged) -> Result<Option<Event>, Refusal> {
    let on_hand = item.stock.on_hand.saturating_add(change.change);
    if on_hand < 0 {
        return Err(Refusal::NotEnoughStock { on_hand: item.stock.on_hand });
    }
    if on_hand > ON_HAND_MAX {
        return Err(Refusal::TooMuchStock);
    }
    Ok((change.change != 0).then(|| change.clone().into()))
}

fn check_version(item: &Item, expected: &Expected) -> Result<(), Refusal> {
    match expected {
        Some(versions) if !versions.contains(&item.version) => Err(Refusal::VersionChanged { version: item.version }),
        _ => Ok(()),
    }
}

/// The product after an event of its stream, appended at `time`.
pub fn evolve(item: Option<Item>, event: &Event, time: Timestamp) -> Option<Item> {
    let next = |item: Item| Item { version: item.version + 1, ..item };
    match event {
        Event::ProductAdded(added) => {
            let ProductAdded { product_id, sku, title, category, price, stock } = added.clone();
            let stock = Stock::default().changed(stock);
            Some(Item { product_id, sku, title, category, price, removed: false, version: 1, added: time, stock })
        }
        Event::ProductChanged(changed) => {
            let ProductChanged { title, category, price, .. } = changed.clone();
            item.map(|item| next(Item { title, category, price, ..item }))
        }
        Event::ProductRemoved(_) => item.map(|item| next(Item { removed: true, ..item })),
        Event::StockChanged(changed) => item.map(|item| next(Item { stock: item.stock.changed(changed.change), ..item })),
        // Rows of `reservation-<order id>`: they move pieces (`stock::movements`) and leave the product's version alone.
        Event::StockReserved(_) | Event::StockRefused(_) | Event::StockReleased(_) | Event::StockCommitted(_) => item,
    }
}

#[cfg(test)]
mod tests;
