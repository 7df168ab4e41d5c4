//! Taking an order: what makes a basket an order, at which price, and why it is refused.
//!
//! Never here: async, clocks, SQL, HTTP. What happens to an order afterwards is the saga's (`sagas/core/src/order.rs`).

use std::collections::BTreeMap;

use contract::{Money, ProductId, order::Line};

/// Lines of one order, after equal products were merged.
pub const LINES_MAX: usize = 50;
/// Pieces of one product in one order.
pub const QUANTITY_MAX: u32 = 1_000;

/// So many pieces of a product, as asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub product_id: ProductId,
    pub quantity: u32,
}

/// What the product service says of one product; the price quoted here is the contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    pub product_id: ProductId,
    /// `None` for a product that is unknown or was removed.
    pub offer: Option<Offer>,
}

/// A product that can be ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub title: String,
    pub price: Money,
    /// Free pieces when it was asked. Advisory: the reservation decides.
    pub available: i64,
}

/// Why a basket does not become an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    NoLines,
    TooManyLines,
    /// A quantity of zero, or more than [`QUANTITY_MAX`] together with its equals.
    BadQuantity(ProductId),
    UnknownProduct(Vec<ProductId>),
    OutOfStock(Vec<ProductId>),
    MixedCurrencies,
    TotalTooLarge,
    PriceChanged {
        total: Money,
    },
}

/// A basket with its prices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Priced {
    pub lines: Vec<Line>,
    pub total: Money,
}

/// Merges equal products and checks the basket's bounds.
///
/// # Errors
/// The first [`Refusal`] of the basket itself, before any price is asked.
pub fn basket(wanted: &[Wanted]) -> Result<Vec<Wanted>, Refusal> {
    let mut merged: Vec<Wanted> = Vec::with_capacity(wanted.len().min(LINES_MAX));
    let mut places = BTreeMap::new();
    for line in wanted {
        let place = *places.entry(line.product_id).or_insert(merged.len());
        if place == merged.len() {
            merged.push(Wanted { quantity: 0, ..*line });
        }
        let quantity = merged[place].quantity.saturating_add(line.quantity);
        if line.quantity == 0 || quantity > QUANTITY_MAX {
            return Err(Refusal::BadQuantity(line.product_id));
        }
        merged[place].quantity = quantity;
        if merged.len() > LINES_MAX {
            return Err(Refusal::TooManyLines);
        }
    }
    if merged.is_empty() { Err(Refusal::NoLines) } else { Ok(merged) }
}

/// Prices a basket by its quotes, which come in the basket's order.
///
/// # Errors
/// Why it can't be sold as it is.
pub fn price(basket: &[Wanted], quotes: &[Quote], expected_total: Option<Money>) -> Result<Priced, Refusal> {
    let mut lines: Vec<Line> = Vec::with_capacity(basket.len());
    let (mut unknown, mut short) = (Vec::new(), Vec::new());
    for (wanted, quote) in basket.iter().zip(quotes) {
        let Wanted { product_id, quantity } = *wanted;
        let Some(offer) = &quote.offer else {
            unknown.push(product_id);
            continue;
        };
        if offer.available < i64::from(quantity) {
            short.push(product_id);
        }
        lines.push(Line { product_id, title: offer.title.clone(), quantity, unit_price: offer.price });
    }
    if !unknown.is_empty() {
        return Err(Refusal::UnknownProduct(unknown));
    }
    if !short.is_empty() {
        return Err(Refusal::OutOfStock(short));
    }
    let currency = lines.first().ok_or(Refusal::NoLines)?.unit_price.currency;
    if lines.iter().any(|line| line.unit_price.currency != currency) {
        return Err(Refusal::MixedCurrencies);
    }
    let total = lines
        .iter()
        .try_fold(Money::new(0, currency), |sum, line| sum.plus(line.unit_price.times(line.quantity)?))
        .ok_or(Refusal::TotalTooLarge)?;
    if expected_total.is_some_and(|expected| expected != total) {
        return Err(Refusal::PriceChanged { total });
    }
    Ok(Priced { lines, total })
}

#[cfg(test)]
mod tests {
    use contract::Currency;

    use super::*;

    fn product(n: u128) -> ProductId {
        uuid(n).into()
    }

    fn uuid(n: u128) -> uuid::Uuid {
        uuid::Uuid::from_u128(n)
    }

    fn wanted(n: u128, quantity: u32) -> Wanted {
        Wanted { product_id: product(n), quantity }
    }

    fn quote(n: u128, price_minor: i64, available: i64) -> Quote {
        let offer = Offer { title: format!("product {n}"), price: euro(price_minor), available };
        Quote { product_id: product(n), offer: Some(offer) }
    }

    fn euro(amount_minor: i64) -> Money {
        Money::new(amount_minor, Currency::EUR)
    }

    #[test]
    fn equal_products_are_merged_and_bounds_hold_for_the_sum() {
        assert_eq!(basket(&[wanted(1, 2), wanted(2, 1), wanted(1, 3)]), Ok(vec![wanted(1, 5), wanted(2, 1)]));
        assert_eq!(basket(&[wanted(1, 600), wanted(1, 400)]), Ok(vec![wanted(1, 1_000)]));
        assert_eq!(basket(&[wanted(1, 600), wanted(1, 401)]), Err(Refusal::BadQuantity(product(1))));
        assert_eq!(basket(&[wanted(1, 0)]), Err(Refusal::BadQuantity(product(1))));
        assert_eq!(basket(&[]), Err(Refusal::NoLines));
        let many: Vec<_> = (0..51).map(|n| wanted(n, 1)).collect();
        assert_eq!(basket(&many), Err(Refusal::TooManyLines));
        assert!(basket(&many[..50]).is_ok());
    }

    #[test]
    fn the_total_is_the_sum_of_the_quoted_prices() {
        let priced = price(&[wanted(1, 2), wanted(2, 1)], &[quote(1, 250, 9), quote(2, 100, 1)], Some(euro(600))).unwrap();
        assert_eq!(priced.total, euro(600));
        assert_eq!(priced.lines[0].title, "product 1");
    }

    #[test]
    fn unknown_products_are_named_before_those_that_fall_short() {
        let basket = [wanted(1, 2), wanted(2, 1), wanted(3, 5)];
        let gone = Quote { product_id: product(2), offer: None };
        let quotes = [quote(1, 1, 1), gone, quote(3, 1, 4)];
        assert_eq!(price(&basket, &quotes, None), Err(Refusal::UnknownProduct(vec![product(2)])));
        let quotes = [quote(1, 1, 1), quote(2, 1, 1), quote(3, 1, 4)];
        assert_eq!(price(&basket, &quotes, None), Err(Refusal::OutOfStock(vec![product(1), product(3)])));
    }

    #[test]
    fn a_changed_price_a_second_currency_and_an_overflow_are_refused() {
        let one = [wanted(1, 2)];
        assert_eq!(price(&one, &[quote(1, 5, 9)], Some(euro(9))), Err(Refusal::PriceChanged { total: euro(10) }));
        assert_eq!(price(&one, &[quote(1, i64::MAX, 9)], None), Err(Refusal::TotalTooLarge));
        let mut dollars = quote(2, 5, 9);
        dollars.offer.as_mut().unwrap().price.currency = "USD".parse().unwrap();
        assert_eq!(price(&[wanted(1, 1), wanted(2, 1)], &[quote(1, 5, 9), dollars], None), Err(Refusal::MixedCurrencies));
    }
}
