//! Placing an order: what is answered, what is written, what is asked; waiting for its end; the stock check being away.
//!
//! Never here: refused baskets (`basket.rs`), repeated requests (`repeating.rs`).

use std::time::Duration;

use contract::{Trace, topics};
use serde_json::{Value, json};

use crate::shop::{
    ALICE, MUG, Mood, Shop, TEA, TOKEN, authorized, basket, captured, committed, declined, product_id, released, reserved,
};

#[tokio::test]
async fn an_order_is_taken_and_its_saga_begins() {
    let shop = Shop::open_in_real_time().await;
    let placed = shop.placing().json(basket(&[(TEA, 2), (MUG, 1)])).await;
    let id = placed.accepted();
    let expected = json!({
        "id": id, "status": "pending", "reason": null, "ended_at": null, "placed_at": placed.body["placed_at"],
        "items": [
            { "product_id": product_id(TEA), "title": "Product 1", "quantity": 2, "unit_price": { "amount_minor": 499, "currency": "EUR" } },
            { "product_id": product_id(MUG), "title": "Product 2", "quantity": 1, "unit_price": { "amount_minor": 1_250, "currency": "EUR" } },
        ],
        "total": { "amount_minor": 2_248, "currency": "EUR" },
        "saga": { "state": "ReservingStock", "step": "reserve_stock", "stuck": false },
    });
    assert_eq!(placed.body, expected);
    assert_eq!(placed.header("content-type"), "application/json");
    assert_eq!(placed.header("preference-applied"), "");
    // To the microsecond: what was answered is what was written.
    assert_eq!(shop.get(placed.header("location")).empty().await.is(200).body, placed.body);
    assert_eq!(shop.asked(id).await, ["product.ReserveStock"]);
    let asked = &shop.published(topics::PRODUCT_COMMANDS).await[0];
    let lines = json!([{ "product_id": product_id(TEA), "quantity": 2 }, { "product_id": product_id(MUG), "quantity": 1 }]);
    assert_eq!(serde_json::from_str::<Value>(&asked.data).unwrap(), json!({ "order_id": id, "lines": lines }));
    let told = &shop.published(topics::ORDER_EVENTS).await;
    assert_eq!((told.len(), told[0].kind.as_str(), told[0].key.clone()), (1, "order.OrderPlaced", Some(id.to_string())));
}

#[tokio::test]
async fn the_trace_of_a_request_is_in_every_row_that_follows() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    let shop = Shop::open().await;
    let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
    let id = shop.placing().header("traceparent", &parent).json(basket(&[(TEA, 1)])).await.accepted();
    for row in shop.rows().await {
        let of = Trace { parent: Some(parent.clone()), state: None };
        let trace = if row.topic.is_some() { of.child(row.id.span()) } else { of };
        assert_eq!(row.meta.trace, trace, "{}", row.kind);
        assert_eq!((row.meta.correlation, row.meta.actor.clone()), (Some(id.0), Some(ALICE.actor())), "{}", row.kind);
    }
    // What a deadline asks belongs to the same trace, and nobody asked for it.
    shop.asks_again(Duration::from_secs(5), id).await;
    let last = shop.rows().await.pop().unwrap();
    assert_eq!((last.meta.trace.id(), last.meta.actor.as_ref()), (Some(TRACE), None));
}

#[tokio::test]
async fn the_token_goes_to_payment_and_nowhere_else() {
    let shop = Shop::open().await;
    let id = shop.place_until("Cancelled").await;
    let carries = |row: &&std::sync::Arc<contract::Message>| row.topic.is_some() && row.data.contains(TOKEN);
    let carriers: Vec<String> = shop.rows().await.iter().filter(carries).map(|row| row.kind.clone()).collect();
    assert_eq!(carriers, ["payment.AuthorizePayment"]);
    for path in [format!("/v1/orders/{id}"), "/v1/orders".to_owned(), format!("/v1/orders/{id}/history")] {
        let shown = shop.get(&path).empty().await;
        assert!(!shown.is(200).body.to_string().contains(TOKEN), "{path}");
    }
    for event in shop.get(format!("/v1/orders/{id}/events")).events().await.rest().await {
        assert!(!event.data.to_string().contains(TOKEN), "{event:?}");
    }
}

#[tokio::test]
async fn who_prefers_to_wait_is_answered_when_the_saga_has_ended() {
    let shop = Shop::open().await;
    for (ends_with, status) in [("confirmed", "confirmed"), ("payment_declined", "cancelled")] {
        let count = if status == "confirmed" { 1 } else { 2 };
        let placing = shop.placing().header("prefer", "respond-async, wait=20").json(basket(&[(TEA, 1)]));
        let participants = async {
            let id = shop.logged("order.OrderPlaced", count).await;
            shop.say(reserved(id)).await;
            if status == "confirmed" {
                shop.say(authorized(id)).await;
                shop.say(captured(id)).await;
                shop.say(committed(id)).await;
            } else {
                shop.say(declined(id)).await;
                shop.say(released(id)).await;
            }
            id
        };
        let (placed, id) = tokio::join!(placing, participants);
        assert_eq!((placed.accepted(), placed.header("preference-applied")), (id, "wait=20"));
        assert_eq!(placed.body["status"], status);
        let reason = if status == "confirmed" { Value::Null } else { ends_with.into() };
        assert_eq!(placed.body["reason"], reason);
        assert_eq!(placed.body, shop.order(id).await, "the answer is the order as it is");
    }
}

#[tokio::test]
async fn who_waits_in_vain_gets_the_order_as_it_is_by_then() {
    let shop = Shop::open().await;
    let placing = shop.placing().header("prefer", "wait=1").json(basket(&[(TEA, 1)]));
    let participants = async {
        let id = shop.logged("order.OrderPlaced", 1).await;
        shop.say(reserved(id)).await;
    };
    let (placed, ()) = tokio::join!(placing, participants);
    placed.accepted();
    assert_eq!(placed.header("preference-applied"), "wait=1");
    assert_eq!((&placed.body["status"], &placed.body["saga"]["state"]), (&"pending".into(), &"AuthorizingPayment".into()));
}

#[tokio::test]
async fn a_preference_that_says_nothing_is_no_reason_to_wait_or_to_refuse() {
    let shop = Shop::open().await;
    for preference in ["wait=0", "wait", "wait=soon", "wait=-1", "return=minimal"] {
        let placed = shop.placing().header("prefer", preference).json(basket(&[(TEA, 1)])).await;
        placed.accepted();
        assert_eq!(placed.header("preference-applied"), "", "{preference}");
    }
}

#[tokio::test]
async fn who_waits_is_answered_when_the_service_stops() {
    let shop = Shop::open().await;
    let placing = shop.placing().header("prefer", "wait=25").json(basket(&[(TEA, 1)]));
    let stopping = async {
        shop.logged("order.OrderPlaced", 1).await;
        // The writer goes on until its last client is gone, so this is not the end yet.
        shop.tasks().stop(Duration::from_millis(1)).await;
    };
    let began = eventlog::Env::system();
    let at = began.now();
    let (placed, ()) = tokio::join!(placing, stopping);
    placed.accepted();
    assert_eq!(placed.body["status"], "pending");
    assert!(began.now().since(at) < Duration::from_secs(20), "it did not wait to the end");
}

#[tokio::test]
async fn without_a_stock_check_no_order_is_taken() {
    let shop = Shop::open().await;
    let done = shop.post("/v1/orders").key("done").json(basket(&[(TEA, 1)])).await.accepted();
    shop.shelf.is(Mood::Away);
    let refused = shop.post("/v1/orders").key("later").json(basket(&[(TEA, 1)])).await;
    refused.refused(503, "stock_check_unavailable");
    assert_eq!(refused.header("retry-after"), "1");
    // What was done is not checked again.
    assert_eq!(shop.post("/v1/orders").key("done").json(basket(&[(TEA, 1)])).await.accepted(), done);
    assert_eq!(shop.published(topics::ORDER_EVENTS).await.len(), 1);
    shop.shelf.is(Mood::Answering);
    assert_ne!(shop.post("/v1/orders").key("later").json(basket(&[(TEA, 1)])).await.accepted(), done);
}

#[tokio::test]
async fn a_stock_check_that_hangs_counts_as_away() {
    let mut shop = Shop::open().await;
    shop.config.stock_check_timeout_ms = 20;
    shop.restart().await;
    shop.shelf.is(Mood::Silent);
    shop.placing().json(basket(&[(TEA, 1)])).await.refused(503, "stock_check_unavailable");
}

#[tokio::test]
async fn a_product_service_that_stays_away_is_left_alone_for_a_while() {
    let shop = Shop::open().await;
    shop.shelf.is(Mood::Away);
    for _ in 0..8 {
        shop.placing().json(basket(&[(TEA, 1)])).await.refused(503, "stock_check_unavailable");
    }
    assert_eq!(shop.shelf.calls(), 5, "then it is answered for");
    shop.shelf.is(Mood::Answering);
    shop.placing().json(basket(&[(TEA, 1)])).await.refused(503, "stock_check_unavailable");
    shop.clock.advance(Duration::from_secs(1));
    shop.placing().json(basket(&[(TEA, 1)])).await.accepted();
}
