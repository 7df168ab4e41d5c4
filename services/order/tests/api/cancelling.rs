//! Cancelling in every state, by customers and operators, with and without a key.

use axum::body::Body;
use contract::OrderId;
use futures_util::stream;
use serde_json::{Value, json};

use crate::shop::{ADMIN, ALICE, Answer, Asked, BOB, OPERATOR, Shop, TEA, basket, refused, released, voided};

fn cancel(shop: &Shop, id: OrderId) -> Asked<'_> {
    shop.post(format!("/v1/orders/{id}/cancel"))
}

fn stands(answer: &Answer) -> (u16, &Value, &Value, &Value) {
    (answer.status, &answer.body["status"], &answer.body["reason"], &answer.body["saga"]["state"])
}

#[tokio::test]
async fn while_stock_is_asked_for_it_is_released_whether_held_or_not() {
    let shop = Shop::open().await;
    let id = shop.place_until("ReservingStock").await;
    let (pending, reason) = (json!("pending"), json!("cancelled_by_customer"));
    for _ in 0..2 {
        let answer = cancel(&shop, id).empty().await;
        assert_eq!(stands(&answer), (202, &pending, &reason, &json!("ReleasingStock")));
        assert_eq!((answer.accepted(), &answer.body), (id, &shop.order(id).await));
        assert_eq!(shop.asked(id).await, ["product.ReserveStock", "product.ReleaseStock"], "asked once");
    }
    shop.say(released(id)).await;
    for _ in 0..2 {
        assert_eq!(stands(&cancel(&shop, id).empty().await), (200, &json!("cancelled"), &reason, &json!("Cancelled")));
    }
}

#[tokio::test]
async fn while_the_payment_is_authorized_it_is_voided_and_then_the_stock_released() {
    let shop = Shop::open().await;
    let id = shop.place_until("AuthorizingPayment").await;
    let (pending, reason) = (json!("pending"), json!("cancelled_by_customer"));
    for _ in 0..2 {
        assert_eq!(stands(&cancel(&shop, id).empty().await), (202, &pending, &reason, &json!("VoidingPayment")));
    }
    shop.say(voided(id)).await;
    assert_eq!(stands(&cancel(&shop, id).empty().await), (202, &pending, &reason, &json!("ReleasingStock")));
    shop.say(released(id)).await;
    assert_eq!(stands(&cancel(&shop, id).empty().await), (200, &json!("cancelled"), &reason, &json!("Cancelled")));
    assert_eq!(shop.asked(id).await[2..], ["payment.VoidPayment", "product.ReleaseStock"]);
}

#[tokio::test]
async fn from_the_capture_on_it_is_too_late() {
    let shop = Shop::open().await;
    for state in ["CapturingPayment", "CommittingStock", "Confirmed"] {
        let id = shop.place_until(state).await;
        let before = shop.order(id).await;
        for who in [ALICE, OPERATOR] {
            for _ in 0..2 {
                cancel(&shop, id).by(who).empty().await.refused(409, "too_late_to_cancel");
            }
        }
        assert_eq!(shop.order(id).await, before, "nothing happened");
    }
}

#[tokio::test]
async fn what_is_being_cancelled_for_another_reason_keeps_it() {
    let shop = Shop::open().await;
    for (state, why) in [("ReleasingStock", "payment_declined"), ("VoidingPayment", "capture_refused")] {
        let id = shop.place_until(state).await;
        assert_eq!(stands(&cancel(&shop, id).empty().await), (202, &json!("pending"), &json!(why), &json!(state)));
    }
    let id = shop.place().await;
    shop.say(refused(id)).await;
    let answer = cancel(&shop, id).empty().await;
    assert_eq!(stands(&answer), (200, &json!("cancelled"), &json!("out_of_stock"), &json!("Cancelled")));
}

#[tokio::test]
async fn an_admin_who_cancels_an_order_of_their_own_is_its_customer() {
    let shop = Shop::open().await;
    let id = shop.place_for(ADMIN).await;
    assert_eq!(cancel(&shop, id).by(ADMIN).empty().await.is(202).body["reason"], "cancelled_by_customer");
}

#[tokio::test]
async fn an_operators_cancel_says_so() {
    let shop = Shop::open().await;
    for (who, state, next) in [(OPERATOR, "ReservingStock", "ReleasingStock"), (ADMIN, "AuthorizingPayment", "VoidingPayment")] {
        let id = shop.place_until(state).await;
        let answer = cancel(&shop, id).by(who).empty().await;
        assert_eq!(stands(&answer), (202, &json!("pending"), &json!("cancelled_by_operator"), &json!(next)));
        let history = shop.get(format!("/v1/orders/{id}/history")).empty().await;
        let moved = history.body["items"].as_array().unwrap().iter().find(|entry| entry["message"] == "saga.SagaMoved");
        assert_eq!(moved.unwrap()["actor"], who.actor());
        // The customer's comes second, and changes nothing.
        assert_eq!(cancel(&shop, id).empty().await.is(202).body["reason"], "cancelled_by_operator");
    }
}

#[tokio::test]
async fn somebody_elses_order_is_not_found() {
    let shop = Shop::open().await;
    let id = shop.place().await;
    cancel(&shop, id).by(BOB).empty().await.refused(404, "not_found");
    cancel(&shop, id).by(BOB).key("key").empty().await.refused(404, "not_found");
    cancel(&shop, id).by(None).empty().await.refused(401, "unauthorized");
    for unknown in ["00000000-0000-0000-0000-000000000001", "no-uuid"] {
        for who in [ALICE, OPERATOR] {
            shop.post(format!("/v1/orders/{unknown}/cancel")).by(who).empty().await.refused(404, "not_found");
        }
    }
    assert_eq!(shop.order(id).await["saga"]["state"], "ReservingStock");
}

#[tokio::test]
async fn a_key_is_honoured() {
    let shop = Shop::open().await;
    let (id, other) = (shop.place().await, shop.place().await);
    cancel(&shop, id).key("two words").empty().await.refused(400, "idempotency_key_invalid");
    assert_eq!(cancel(&shop, id).key("key").empty().await.accepted(), id);
    shop.say(released(id)).await;
    let repeated = cancel(&shop, id).key("key").empty().await;
    assert_eq!((repeated.accepted(), &repeated.body["status"]), (id, &json!("cancelled")), "the same code, the order as it is");
    cancel(&shop, other).key("key").empty().await.refused(422, "idempotency_key_reused");
    assert_eq!(shop.order(other).await["reason"], Value::Null);
    // A key of another route is another key.
    shop.post("/v1/orders").key("key").json(basket(&[(TEA, 1)])).await.accepted();
}

#[tokio::test]
async fn a_cancel_needs_no_body_and_takes_no_large_one() {
    let shop = Shop::open().await;
    let id = shop.place().await;
    cancel(&shop, id).send("x".repeat(64 * 1024 + 1)).await.refused(413, "too_large");
    let parts = ["x".repeat(64 * 1024), "x".to_owned()].map(Ok::<_, std::io::Error>);
    cancel(&shop, id).send(Body::from_stream(stream::iter(parts))).await.refused(413, "too_large");
    cancel(&shop, id).json(json!({})).await.accepted();
}
