//! A provider that answers late, wrongly or never, and a service that is stopped at the worst instants.
//!
//! Never here: the built-in provider's own behaviour (`tests/provider.rs`) or HTTP (`tests/api.rs`).

// Each test binary uses its own part of it.
#[allow(dead_code, reason = "each test binary uses its part")]
mod common;

use std::sync::atomic::Ordering;

use common::{AMOUNT, House, Scripted, TRACEPARENT, authorize, capture, order, quick, void};
use contract::{Currency, Money, Trace, payment::Command};
use eventlog::on;
use skald_payment::{
    Config,
    domain::Payment,
    provider::{Answer, Provider, Verdict},
};

fn unknown() -> Option<Answer> {
    Some(Answer::Unknown("503".into()))
}

fn certain(verdict: Verdict) -> Option<Answer> {
    Some(Answer::Definitive(verdict))
}

#[tokio::test]
async fn an_unknown_outcome_is_asked_again_under_the_same_key() {
    let provider = Scripted::new([unknown(), None, unknown()]);
    let house = House::open(provider.provider(), quick()).await;
    house.deliver([authorize(1, "t")]).await;
    house.tells(order(1), "authorize? authorized").await;
    assert_eq!(provider.asked(), vec![format!("{}:authorize", order(1)); 4]);
}

#[tokio::test]
async fn an_answer_to_another_question_counts_as_unknown() {
    let provider = Scripted::new([certain(Verdict::Captured), certain(Verdict::Declined("late".into()))]);
    let house = House::open(provider.provider(), quick()).await;
    house.deliver([authorize(1, "t")]).await;
    house.tells(order(1), "authorize? declined:late").await;
}

#[tokio::test]
async fn a_crash_between_intent_and_answer_asks_again_under_the_same_key() {
    let provider = Scripted::new([None]);
    let mut house = House::open(provider.provider(), Config { timeout_ms: 500, ..quick() }).await;
    house.deliver([authorize(1, "t")]).await;
    house.stop().await;
    house.start(provider.provider(), quick()).await;
    house.tells(order(1), "authorize? authorized").await;
    let asked = provider.asked();
    assert!(asked.iter().all(|key| *key == format!("{}:authorize", order(1))), "{asked:?}");
}

#[tokio::test]
async fn a_crash_at_every_step_still_captures_once_and_ends_what_is_voided() {
    let mut house = House::open(Provider::BuiltIn, quick()).await;
    let steps = [
        (authorize(1, "tok_lost"), "SELECT COUNT(*) FROM payments WHERE status = 'authorized'"),
        (capture(1), "SELECT COUNT(*) FROM payments WHERE status = 'captured'"),
        (void(1), "SELECT COUNT(*) FROM payments WHERE status = 'voided'"),
    ];
    for (command, ended) in steps {
        house.deliver([command]).await;
        house.stop().await;
        house.start(Provider::BuiltIn, quick()).await;
        house.counts(ended, 1).await;
    }
    let taken = AMOUNT.amount_minor;
    assert_eq!(house.charge(order(1)).await, (0, taken, taken, 1));
}

#[tokio::test]
async fn a_repeated_command_makes_one_call_however_often_it_comes() {
    let provider = Scripted::new([]);
    let house = House::open(provider.provider(), quick()).await;
    house.deliver([authorize(1, "t"), authorize(1, "t"), authorize(1, "t")]).await;
    house.tells(order(1), "authorize? authorized").await;
    house.deliver([authorize(1, "t"), capture(1), capture(1)]).await;
    house.tells(order(1), "authorize? authorized authorized+ capture? captured").await;
    house.deliver([capture(1)]).await;
    house.tells(order(1), "authorize? authorized authorized+ capture? captured captured+").await;
    assert_eq!(provider.tally().values().copied().collect::<Vec<_>>(), [1, 1]);
}

#[tokio::test]
async fn a_void_in_every_state_ends_with_nothing_held_and_nothing_taken() {
    let provider = Scripted::new([]);
    let house = House::open(provider.provider(), quick()).await;
    // Never happened: a tombstone, which refuses what comes late.
    house.deliver([void(1), authorize(1, "t"), capture(1), void(1)]).await;
    house.tells(order(1), "voided declined:already_voided refused:voided voided+").await;
    // While authorizing, in one batch.
    house.deliver([authorize(2, "t"), void(2)]).await;
    house.tells(order(2), "authorize? void-requested authorized void? voided").await;
    // Authorized.
    house.deliver([authorize(3, "t")]).await;
    house.tells(order(3), "authorize? authorized").await;
    house.deliver([void(3), capture(3)]).await;
    house.tells(order(3), "authorize? authorized void? refused:voided voided").await;
    // While capturing.
    house.deliver([authorize(4, "t")]).await;
    house.tells(order(4), "authorize? authorized").await;
    house.deliver([capture(4), void(4), void(4)]).await;
    house.tells(order(4), "authorize? authorized capture? void-requested captured refund? refunded").await;
    assert_eq!(house.number("SELECT COUNT(*) FROM payments WHERE status <> 'voided' OR due_us IS NOT NULL").await, 0);
}

#[tokio::test]
async fn a_void_whose_answer_is_lost_is_asked_until_it_is_done() {
    let provider = Scripted::new([certain(Verdict::Authorized), unknown(), None]);
    let house = House::open(provider.provider(), quick()).await;
    house.deliver([authorize(1, "t")]).await;
    house.tells(order(1), "authorize? authorized").await;
    house.deliver([void(1)]).await;
    house.tells(order(1), "authorize? authorized void? voided").await;
    assert_eq!(provider.tally()[&format!("{}:void", order(1))], 3);
}

#[tokio::test]
async fn a_command_that_can_never_be_right_is_a_dead_letter() {
    let house = House::open(Scripted::new([]).provider(), quick()).await;
    house.deliver([capture(1), authorize(2, "t")]).await;
    house.tells(order(2), "authorize? authorized").await;
    let Command::AuthorizePayment(mut other) = authorize(2, "t") else { unreachable!() };
    other.amount = Money::new(1, Currency::EUR);
    house.deliver([other.into()]).await;
    assert_eq!(house.history(order(1)).await, []);
    assert_eq!(house.number("SELECT COUNT(*) FROM dead_letters").await, 2);
    assert_eq!(house.number("SELECT COUNT(*) FROM payments").await, 1);
}

#[tokio::test]
async fn an_expired_key_is_looked_up_and_never_called() {
    let provider = Scripted::new([]);
    let house = House::open(provider.provider(), Config { key_lifetime_s: 0, ..quick() }).await;
    house.deliver([authorize(1, "t")]).await;
    // Nothing is recorded there, which proves nothing.
    house.counts("SELECT COUNT(*) FROM payments WHERE stuck = 1 AND operation = 'authorize'", 1).await;
    *provider.found.lock().unwrap() = vec![Verdict::Authorized];
    house.deliver([authorize(2, "t")]).await;
    house.tells(order(2), "authorize? authorized").await;
    assert_eq!(provider.asked(), [""; 0]);
    assert_eq!(provider.looked_up.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn calls_past_the_bound_wait_their_turn() {
    let provider = Scripted::new([]);
    let house = House::open(provider.provider(), Config { concurrency: 4, ..quick() }).await;
    house.deliver((1..=200).map(|number| authorize(number, "t"))).await;
    house.counts("SELECT COUNT(*) FROM payments WHERE status = 'authorized'", 200).await;
    assert!(provider.together_max.load(Ordering::SeqCst) <= 4);
    assert_eq!(provider.asked().len(), 200);
}

#[tokio::test]
async fn replies_are_published_under_the_order_and_the_trace_and_intents_are_not() {
    let house = House::open(Scripted::new([unknown()]).provider(), quick()).await;
    house.deliver([authorize(1, "t")]).await;
    house.tells(order(1), "authorize? authorized").await;
    let rows = house.rows(order(1)).await;
    assert_eq!((&rows[0].topic, &rows[0].key), (&None, &None));
    assert_eq!(rows[1].topic.as_deref(), Some("payment.events.v1"));
    assert_eq!(rows[1].key, Some(order(1).to_string()));
    assert_eq!(rows[1].meta.cause, Some(rows[0].id), "the answer is caused by the intent");
    assert_eq!(rows[1].meta.correlation, Some(order(1).0));
    let trace = Trace { parent: Some(TRACEPARENT.into()), state: None };
    assert_eq!(rows[0].meta.trace.id(), trace.id());
    assert_eq!(rows[1].meta.trace, trace.child(rows[1].id.span()));
}

#[tokio::test]
async fn the_rows_are_what_the_log_tells() {
    let house = House::open(Scripted::new([]).provider(), quick()).await;
    house.deliver((1..=5).map(|number| authorize(number, "t"))).await;
    house.counts("SELECT COUNT(*) FROM payments WHERE status = 'authorized'", 5).await;
    house.deliver([capture(1), capture(2), void(3), void(6), authorize(6, "t"), capture(4)]).await;
    house.counts("SELECT COUNT(*) FROM payments WHERE operation IS NULL AND status <> 'authorized'", 5).await;
    house.deliver([void(1), capture(2), capture(6)]).await;
    house.counts("SELECT COUNT(*) FROM payments WHERE refunded_minor > 0", 1).await;
    for number in 1..=6 {
        let mut fold = Payment::new(order(number));
        house.history(order(number)).await.iter().for_each(|event| fold.evolve(event));
        let row = row(&house, number).await;
        let amount = fold.amount.map(|amount| amount.amount_minor);
        let told = (fold.status.as_str().to_owned(), amount, fold.captured_minor, fold.refunded_minor, fold.version);
        assert_eq!(row, told, "order {number}");
    }
}

async fn row(house: &House, number: u128) -> (String, Option<i64>, i64, i64, i64) {
    let mut reader = house.log().reader().await.unwrap();
    eventlog::on!(&mut reader.conn(), |c| sqlx::query_as::<DB, (String, Option<i64>, i64, i64, i64)>(
        "SELECT status, amount_minor, captured_minor, refunded_minor, version FROM payments WHERE order_id = $1"
    )
    .bind(order(number).0)
    .fetch_one(c)
    .await)
    .unwrap()
}

/// What somebody else has written.
async fn change(house: &House, sql: &'static str) {
    let mut connection = house.log().database().connect().await.unwrap();
    on!(&mut connection.conn(), |c| sqlx::query::<DB>(sql).execute(c).await.map(drop)).unwrap();
}

#[tokio::test]
async fn payments_of_a_newer_build_stand_in_nobody_s_way_until_one_comes_that_can_read_them() {
    // More than are claimed at once.
    const NEWER: u128 = 300;
    let provider = Scripted::new((0..NEWER).map(|_| None));
    let mut house = House::open(provider.provider(), quick()).await;
    house.deliver((1..=NEWER).map(|number| authorize(number, "t"))).await;
    house.stop().await;
    let idle = Config { timeout_ms: 60_000, ..quick() };
    house.start(Scripted::new((0..1_000).map(|_| None)).provider(), idle).await;
    change(&house, "UPDATE payments SET status = 'teleported', due_us = 1").await;
    house.stop().await;

    house.start(provider.provider(), quick()).await;
    house.counts("SELECT COUNT(*) FROM payments WHERE due_us > 9000000000000000000", NEWER as i64).await;
    house.deliver([authorize(NEWER + 1, "t"), capture(1)]).await;
    house.tells(order(NEWER + 1), "authorize? authorized").await;
    assert_eq!(house.log().survey().await.unwrap().unreadable, NEWER as i64);
    assert_eq!(house.number("SELECT COUNT(*) FROM dead_letters").await, 1, "a command that can't be handled here");
    assert_eq!(house.number("SELECT COUNT(*) FROM payments WHERE status = 'teleported'").await, NEWER as i64, "none is touched");

    // The build that knows the status starts.
    change(&house, "UPDATE payments SET status = 'pending' WHERE status = 'teleported'").await;
    house.stop().await;
    house.start(provider.provider(), quick()).await;
    house.counts("SELECT COUNT(*) FROM payments WHERE status = 'authorized'", NEWER as i64 + 1).await;
}

#[tokio::test]
async fn a_claim_of_a_clock_that_was_ahead_is_void() {
    let provider = Scripted::new([None]);
    let mut house = House::open(provider.provider(), Config { timeout_ms: 60_000, ..quick() }).await;
    house.deliver([authorize(1, "t")]).await;
    change(&house, "UPDATE payments SET due_us = due_us + 3600000000").await;
    house.stop().await;
    house.start(provider.provider(), quick()).await;
    house.tells(order(1), "authorize? authorized").await;
    assert_eq!(house.log().due().unwrap().pulled_in(), 1);
}
