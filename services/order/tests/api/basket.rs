//! Baskets and bodies that do not become an order, and those at the bound that do.
//!
//! Every refusal here leaves nothing behind: [`nothing_was_made`] looks.

use contract::Money;
use serde_json::{Value, json};

use crate::shop::{MUG, Shop, TEA, TOKEN, basket, euro, product_id};

async fn nothing_was_made(shop: &Shop) {
    assert_eq!(shop.rows().await.len(), 0);
}

#[tokio::test]
async fn too_little_stock_is_refused_and_the_products_are_named() {
    let shop = Shop::open().await;
    shop.shelf.put(3, euro(100), 4);
    shop.shelf.put(4, euro(100), 0);
    let refused = shop.placing().json(basket(&[(TEA, 1), (3, 5), (4, 1)])).await;
    refused.refused(409, "out_of_stock");
    assert_eq!(refused.body["products"], json!([product_id(3), product_id(4)]));
    nothing_was_made(&shop).await;
    shop.placing().json(basket(&[(3, 4)])).await.accepted();
}

#[tokio::test]
async fn an_unknown_product_is_refused_and_named() {
    let shop = Shop::open().await;
    let refused = shop.placing().json(basket(&[(TEA, 1), (99, 1)])).await;
    refused.refused(422, "unknown_product");
    assert_eq!(refused.body["products"], json!([product_id(99)]));
    nothing_was_made(&shop).await;
}

#[tokio::test]
async fn an_expected_total_is_the_only_one_that_is_taken() {
    let shop = Shop::open().await;
    let expecting = |total: Value| {
        let mut body = basket(&[(TEA, 2), (MUG, 1)]);
        body["expected_total"] = total;
        shop.placing().json(body)
    };
    for wrong in [json!({ "amount_minor": 2_247, "currency": "EUR" }), json!({ "amount_minor": 2_248, "currency": "USD" })] {
        let refused = expecting(wrong).await;
        refused.refused(409, "price_changed");
        assert_eq!(refused.body["total"], json!({ "amount_minor": 2_248, "currency": "EUR" }));
    }
    nothing_was_made(&shop).await;
    expecting(json!({ "amount_minor": 2_248, "currency": "EUR" })).await.accepted();
    expecting(Value::Null).await.accepted();
}

#[tokio::test]
async fn fifty_lines_are_the_most() {
    let shop = Shop::open().await;
    let lines: Vec<(u128, i64)> = (1..=51).map(|number| (number, 1)).collect();
    for (number, _) in &lines {
        shop.shelf.put(*number, euro(1), 1);
    }
    shop.placing().json(basket(&lines)).await.names("items");
    shop.placing().json(basket(&[])).await.names("items");
    nothing_was_made(&shop).await;
    let placed = shop.placing().json(basket(&lines[..50])).await;
    placed.accepted();
    assert_eq!(placed.body["items"].as_array().unwrap().len(), 50);
}

#[tokio::test]
async fn a_quantity_is_from_one_to_a_thousand() {
    let shop = Shop::open().await;
    for quantity in [0, 1_001, i64::from(u32::MAX)] {
        shop.placing().json(basket(&[(TEA, quantity)])).await.names("items");
    }
    for quantity in [-1, i64::from(u32::MAX) + 1] {
        shop.placing().json(basket(&[(TEA, quantity)])).await.names("items[0].quantity");
    }
    nothing_was_made(&shop).await;
    for quantity in [1, 1_000] {
        shop.placing().json(basket(&[(TEA, quantity)])).await.accepted();
    }
}

#[tokio::test]
async fn equal_products_are_merged_before_they_are_counted() {
    let shop = Shop::open().await;
    let mut lines = vec![(TEA, 10); 60];
    lines.push((MUG, 1));
    let placed = shop.placing().json(basket(&lines)).await;
    placed.accepted();
    let quantities: Vec<&Value> = placed.body["items"].as_array().unwrap().iter().map(|item| &item["quantity"]).collect();
    assert_eq!(quantities, [&json!(600), &json!(1)]);
    shop.placing().json(basket(&[(TEA, 600), (MUG, 1), (TEA, 401)])).await.names("items");
    shop.shelf.put(3, euro(1), 5);
    shop.placing().json(basket(&[(3, 3), (3, 3)])).await.refused(409, "out_of_stock");
}

#[tokio::test]
async fn an_order_has_one_currency_and_a_total_that_fits() {
    let shop = Shop::open().await;
    shop.shelf.put(3, Money::new(5, "USD".parse().unwrap()), 9);
    shop.shelf.put(4, euro(i64::MAX), 9);
    shop.placing().json(basket(&[(TEA, 1), (3, 1)])).await.names("items");
    shop.placing().json(basket(&[(4, 2)])).await.names("items");
    shop.placing().json(basket(&[(TEA, 1), (4, 1)])).await.names("items");
    nothing_was_made(&shop).await;
    shop.placing().json(basket(&[(3, 1)])).await.accepted();
}

#[tokio::test]
async fn a_body_that_is_no_json_is_told_from_one_that_is_wrong() {
    let shop = Shop::open().await;
    let good = basket(&[(TEA, 1)]).to_string();
    for malformed in ["", "{", "[1,", "nonsense", "\u{0}", &good[1..], &format!("{good}x")] {
        shop.placing().header("content-type", "application/json").send(malformed.to_owned()).await.refused(400, "malformed");
    }
    shop.placing().send(good.clone()).await.refused(415, "unsupported_media_type");
    shop.placing().header("content-type", "text/plain").send(good.clone()).await.refused(415, "unsupported_media_type");
    let long = basket(&[(TEA, 1)]).to_string().replace('{', &format!("{}{{", " ".repeat(64 * 1024)));
    shop.placing().header("content-type", "application/json").send(long).await.refused(413, "too_large");
    nothing_was_made(&shop).await;
    let charset = shop.placing().header("content-type", "application/json; charset=utf-8").send(good).await;
    charset.accepted();
}

#[tokio::test]
async fn a_wrong_field_is_named() {
    let shop = Shop::open().await;
    for (pointer, value, field) in [
        ("/items/0/product_id", json!("no-uuid"), "items[0].product_id"),
        ("/items/0/product_id", json!(7), "items[0].product_id"),
        ("/items/0/quantity", json!("1"), "items[0].quantity"),
        ("/items/0/quantity", json!(1.5), "items[0].quantity"),
        ("/items/0", json!({ "quantity": 1 }), "items[0]"),
        ("/items/0", json!({ "product_id": product_id(TEA), "quantity": 1, "colour": "red" }), "items[0].colour"),
        ("/items", json!({}), "items"),
        ("/payment", json!(TOKEN), "payment"),
        ("/payment", json!({}), "payment"),
        ("/payment/token", Value::Null, "payment.token"),
        ("/payment/token", json!(""), "payment.token"),
        ("/payment/token", json!("x".repeat(256)), "payment.token"),
        ("/expected_total", json!({ "amount_minor": 1, "currency": "euro" }), "expected_total.currency"),
        ("/expected_total", json!({ "amount_minor": 1.5, "currency": "EUR" }), "expected_total.amount_minor"),
    ] {
        let mut body = basket(&[(TEA, 1)]);
        body["expected_total"] = Value::Null;
        *body.pointer_mut(pointer).unwrap() = value;
        shop.placing().json(body).await.names(field);
    }
    let mut body = basket(&[(TEA, 1)]);
    body["coupon"] = "SUMMER".into();
    shop.placing().json(body).await.names("coupon");
    shop.placing().json(json!([])).await.refused(422, "invalid");
    shop.placing().json(json!({ "items": [] })).await.refused(422, "invalid");
    nothing_was_made(&shop).await;
}

#[tokio::test]
async fn text_with_a_nul_is_refused() {
    let shop = Shop::open().await;
    let mut body = basket(&[(TEA, 1)]);
    body["payment"]["token"] = "tok\u{0}ok".into();
    shop.placing().json(body).await.refused(422, "invalid");
    nothing_was_made(&shop).await;
}

#[tokio::test]
async fn a_token_of_255_characters_is_taken_whatever_they_are() {
    let shop = Shop::open().await;
    let mut body = basket(&[(TEA, 1)]);
    body["payment"]["token"] = "ß".repeat(255).into();
    shop.placing().json(body).await.accepted();
}
