//! Answers that do not come: asking again, giving up where the table allows it, and being stuck where it does not.
//!
//! Time passes only where a test says so.

use std::time::Duration;

use contract::topics;
use serde_json::Value;

use crate::shop::{OPERATOR, Shop, authorized, captured, committed, released, reserved, voided};

const STEP: Duration = Duration::from_secs(5);
/// Twice the longest wait between two askings: jitter may double it.
const LONG: Duration = Duration::from_secs(120);

fn state(wanted: &'static str) -> impl Fn(&Value) -> bool {
    move |order| order["saga"]["state"] == wanted
}

#[tokio::test]
async fn stock_that_is_not_answered_for_is_released() {
    let shop = Shop::open().await;
    let id = shop.place_until("ReservingStock").await;
    for tries in [2, 3] {
        shop.clock.advance(STEP / 2);
        assert_eq!(shop.asked(id).await.len(), tries - 1, "not before its time");
        shop.asks_again(STEP / 2, id).await;
        assert_eq!(shop.asked(id).await.len(), tries);
    }
    let order = shop.passes(STEP * 2, id, state("ReleasingStock")).await;
    assert_eq!((&order["status"], &order["reason"]), (&"pending".into(), &"stock_timeout".into()));
    let mut asked = vec!["product.ReserveStock"; 3];
    asked.push("product.ReleaseStock");
    assert_eq!(shop.asked(id).await, asked);
    // It was reserved after all: too late, and no harm, as it is released.
    shop.say(reserved(id)).await;
    assert_eq!(shop.order(id).await, order);
    shop.say(released(id)).await;
    let order = shop.order(id).await;
    assert_eq!((&order["status"], &order["reason"]), (&"cancelled".into(), &"stock_timeout".into()));
}

#[tokio::test]
async fn a_payment_that_is_not_answered_for_is_voided() {
    let shop = Shop::open().await;
    let id = shop.place_until("AuthorizingPayment").await;
    let order = shop.passes(LONG, id, state("VoidingPayment")).await;
    assert_eq!(order["reason"], "payment_timeout");
    assert_eq!(shop.asked(id).await.iter().filter(|kind| *kind == "payment.AuthorizePayment").count(), 3);
    shop.say(authorized(id)).await;
    assert_eq!(shop.order(id).await, order, "late");
    shop.say(voided(id)).await;
    shop.say(released(id)).await;
    let order = shop.order(id).await;
    assert_eq!((&order["status"], &order["reason"]), (&"cancelled".into(), &"payment_timeout".into()));
}

#[tokio::test]
async fn past_the_pivot_it_is_asked_for_ever_and_flagged_as_stuck_once() {
    let shop = Shop::open().await;
    for (from, next) in [("CapturingPayment", "CommittingStock"), ("CommittingStock", "Confirmed")] {
        let id = shop.place_until(from).await;
        let order = shop.passes(LONG, id, |order| order["saga"]["stuck"] == true).await;
        assert_eq!((&order["status"], &order["saga"]["state"]), (&"pending".into(), &from.into()));
        let command = if from == "CapturingPayment" { "payment.CapturePayment" } else { "product.CommitStock" };
        let tries = async || shop.asked(id).await.iter().filter(|kind| *kind == command).count();
        assert_eq!(tries().await, 5, "the first, and as many as the bound");
        let stuck = shop.get("/v1/sagas?state=stuck").by(OPERATOR).empty().await;
        assert_eq!((stuck.ids(), &stuck.body["items"][0]["attempt"]), (vec![id], &5.into()));
        shop.asks_again(LONG, id).await;
        assert_eq!(tries().await, 6, "it goes on asking");
        let flags = shop.published(topics::SAGA_EVENTS).await;
        let flags = flags.iter().filter(|row| row.kind == "saga.SagaStuck" && row.key == Some(id.to_string()));
        assert_eq!(flags.count(), 1);
        // The answer comes at last.
        shop.say(if from == "CapturingPayment" { captured(id) } else { committed(id) }).await;
        let order = shop.order(id).await;
        assert_eq!((&order["saga"]["state"], &order["saga"]["stuck"]), (&next.into(), &false.into()));
        assert_eq!(shop.get("/v1/sagas?state=stuck").by(OPERATOR).empty().await.ids(), []);
        if next != "Confirmed" {
            shop.say(committed(id)).await;
        }
    }
}

#[tokio::test]
async fn compensations_are_never_given_up() {
    let shop = Shop::open().await;
    for from in ["VoidingPayment", "ReleasingStock"] {
        let id = shop.place_until(from).await;
        let order = shop.passes(LONG, id, |order| order["saga"]["stuck"] == true).await;
        assert_eq!((&order["status"], &order["saga"]["state"]), (&"pending".into(), &from.into()));
        if from == "VoidingPayment" {
            shop.say(voided(id)).await;
            let saga = &shop.order(id).await["saga"];
            assert_eq!((&saga["state"], &saga["stuck"]), (&"ReleasingStock".into(), &false.into()));
        }
        shop.say(released(id)).await;
        assert_eq!(shop.order(id).await["status"], "cancelled");
    }
}

#[tokio::test]
async fn a_deadline_outlives_the_process() {
    let mut shop = Shop::open().await;
    let id = shop.place_until("ReservingStock").await;
    shop.restart().await;
    shop.passes(LONG, id, state("ReleasingStock")).await;
}
