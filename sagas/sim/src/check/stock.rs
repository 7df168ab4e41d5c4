//! Stock: every piece that was delivered is on hand, held or sold, as the product log tells it; none is below zero.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::View;
use crate::replica::Name;

pub(super) fn check(view: &View, wrong: &mut Vec<String>) {
    let mut told: BTreeMap<Uuid, (i64, i64, i64)> = BTreeMap::new();
    for row in view.log(Name::Product) {
        if row.kind == "product.ProductAdded"
            && let (Ok(product), Some(pieces)) = (row.text("product_id").parse(), row.data["stock"].as_i64())
        {
            told.insert(product, (pieces, 0, 0));
        }
        if row.is_repeated() {
            continue;
        }
        let restocked = row.data["restocked"].as_bool() == Some(true);
        for (product, pieces) in row.lines() {
            let (on_hand, reserved, sold) = told.entry(product).or_default();
            let (from, to) = match row.kind.as_str() {
                "product.StockReserved" => (on_hand, reserved),
                "product.StockReleased" if restocked => (sold, on_hand),
                "product.StockReleased" => (reserved, on_hand),
                "product.StockCommitted" => (reserved, sold),
                _ => continue,
            };
            *from -= pieces;
            *to += pieces;
        }
        if told.values().any(|(on_hand, reserved, sold)| (*on_hand).min(*reserved).min(*sold) < 0) {
            wrong.push(format!("stock-conserved: row {} of the product log takes what is not there", row.position));
            return;
        }
    }
    for (product, (on_hand, reserved, sold)) in &view.stock {
        if told.get(product) != Some(&(*on_hand, *reserved, *sold)) {
            let told = told.get(product);
            wrong.push(format!("stock-conserved: {product} has {on_hand} + {reserved} + {sold}, its log says {told:?}"));
        }
        if view.delivered.get(product) != Some(&(on_hand + reserved + sold)) {
            wrong.push(format!("stock-conserved: {product} began with other than {on_hand} + {reserved} + {sold}"));
        }
    }
}
