//! The built-in provider's test tokens, from command to books: what each ends as, and that nothing is taken twice.
//!
//! Never here: scripted faults (`tests/faults.rs`) or HTTP (`tests/api.rs`).

// Each test binary uses its own part of it.
#[allow(dead_code, reason = "each test binary uses its part")]
mod common;

use common::{AMOUNT, House, authorize, capture, order, quick, void};
use skald_payment::{Config, provider::Provider};

const TAKEN: i64 = AMOUNT.amount_minor;
/// Orders whose money was taken more than once, by key or by amount.
const DOUBLE_CHARGES: &str = "SELECT COUNT(*) FROM provider_charges WHERE captures > 1 OR captured_minor > 1999";

#[tokio::test]
async fn a_good_token_is_authorized_captured_and_refunded_by_a_void() {
    let house = House::open(Provider::BuiltIn, quick()).await;
    house.deliver([authorize(1, "tok_ok")]).await;
    house.tells(order(1), "authorize? authorized").await;
    assert_eq!(house.charge(order(1)).await, (TAKEN, 0, 0, 0));
    house.deliver([capture(1)]).await;
    house.tells(order(1), "authorize? authorized capture? captured").await;
    assert_eq!(house.charge(order(1)).await, (0, TAKEN, 0, 1));
    house.deliver([void(1)]).await;
    house.tells(order(1), "authorize? authorized capture? captured refund? refunded").await;
    assert_eq!(house.charge(order(1)).await, (0, TAKEN, TAKEN, 1));
}

#[tokio::test]
async fn a_declined_and_an_unknown_token_hold_nothing() {
    let house = House::open(Provider::BuiltIn, quick()).await;
    house.deliver([authorize(1, "tok_declined"), authorize(2, "nonsense")]).await;
    house.tells(order(1), "authorize? declined:card_declined").await;
    house.tells(order(2), "authorize? declined:invalid_token").await;
    house.deliver([void(1)]).await;
    house.tells(order(1), "authorize? declined:card_declined voided").await;
    assert_eq!(house.charge(order(1)).await, (0, 0, 0, 0));
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_and_nothing_is_taken_twice() {
    let house = House::open(Provider::BuiltIn, quick()).await;
    house.deliver([authorize(1, "tok_lost")]).await;
    house.tells(order(1), "authorize? authorized").await;
    house.deliver([capture(1)]).await;
    house.tells(order(1), "authorize? authorized capture? captured").await;
    assert_eq!(house.charge(order(1)).await, (0, TAKEN, 0, 1));
    assert_eq!(house.number("SELECT COUNT(*) FROM provider_calls").await, 2, "one a key");
    house.deliver([void(1)]).await;
    house.tells(order(1), "authorize? authorized capture? captured refund? refunded").await;
    assert_eq!(house.charge(order(1)).await, (0, TAKEN, TAKEN, 1));
}

#[tokio::test]
async fn a_refused_capture_is_final_and_its_hold_is_voided() {
    let house = House::open(Provider::BuiltIn, quick()).await;
    house.deliver([authorize(1, "tok_capture_refused")]).await;
    house.tells(order(1), "authorize? authorized").await;
    house.deliver([capture(1)]).await;
    house.tells(order(1), "authorize? authorized capture? refused:capture_refused").await;
    house.deliver([capture(1), void(1)]).await;
    let told = "authorize? authorized capture? refused:capture_refused refused:capture_refused+ void? voided";
    house.tells(order(1), told).await;
    assert_eq!(house.charge(order(1)).await, (0, 0, 0, 0));
}

#[tokio::test]
async fn a_slow_authorization_is_settled_before_it_is_voided() {
    let house = House::open(Provider::BuiltIn, quick()).await;
    house.deliver([authorize(1, "tok_slow"), void(1)]).await;
    house.tells(order(1), "authorize? void-requested authorized void? voided").await;
    assert_eq!(house.charge(order(1)).await, (0, 0, 0, 0));
}

#[tokio::test]
async fn a_slow_authorization_takes_effect_after_a_restart_when_it_would_have_without() {
    let mut house = House::open(Provider::BuiltIn, Config { slow_ms: 400, ..quick() }).await;
    house.deliver([authorize(1, "tok_slow")]).await;
    house.counts("SELECT COUNT(*) FROM provider_calls WHERE answer IS NULL", 1).await;
    house.stop().await;
    // The delay stands in the books: it neither begins anew nor follows the new configuration.
    house.start(Provider::BuiltIn, Config { slow_ms: 600_000, ..quick() }).await;
    house.tells(order(1), "authorize? authorized").await;
    let sql = "SELECT COUNT(*) FROM provider_calls, log WHERE effective_at_us = provider_calls.time_us + 400000 \
               AND kind = 'payment.PaymentAuthorized' AND log.time_us >= effective_at_us";
    assert_eq!(house.number(sql).await, 1, "not before its time");
}

#[tokio::test]
async fn the_success_rate_decides_about_good_tokens() {
    let house = House::open(Provider::BuiltIn, Config { success_rate: 0.0, ..quick() }).await;
    house.deliver((1..=20).map(|number| authorize(number, "tok_ok"))).await;
    for number in 1..=20 {
        house.tells(order(number), "authorize? declined:processing_error").await;
    }
}

#[tokio::test]
async fn hundreds_of_payments_at_once_are_each_captured_once_whatever_their_token_loses() {
    let house = House::open(Provider::BuiltIn, Config { latency_ms: 1, timeout_ms: 200, ..quick() }).await;
    let token = |number: u128| if number.is_multiple_of(10) { "tok_lost" } else { "tok_ok" };
    for part in 0..4 {
        house.deliver((1..=100).map(|number| part * 100 + number).map(|number| authorize(number, token(number)))).await;
    }
    house.counts("SELECT COUNT(*) FROM payments WHERE status = 'authorized'", 400).await;
    // Each command twice: the second one finds the call open, or its answer recorded.
    house.deliver((1..=400).flat_map(|number| [capture(number), capture(number)])).await;
    house.counts("SELECT COUNT(*) FROM payments WHERE status = 'captured' AND operation IS NULL", 400).await;
    assert_eq!(house.number("SELECT COUNT(*) FROM provider_calls WHERE operation = 'capture'").await, 400);
    assert_eq!(house.number(DOUBLE_CHARGES).await, 0);
    assert_eq!(house.number("SELECT COUNT(*) FROM payments WHERE due_us IS NOT NULL").await, 0);
}
