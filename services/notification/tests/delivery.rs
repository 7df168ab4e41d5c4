//! Outcomes of orders through the real writer: what is queued, delivered, tried again and given up, also across a crash.
//!
//! Never here: rules one by one (`src/domain.rs` has them) or HTTP (`tests/api.rs`).

// Each test binary uses its own part of it.
#[allow(dead_code, reason = "each test binary uses its part")]
mod common;

use std::sync::Arc;

use common::{House, Scripted, TRACEPARENT, cancelled, confirmed, customer, order, quick, total};
use contract::{
    CustomerId, Trace,
    notification::Event,
    order::{CancelReason, OrderPlaced},
};
use eventlog::on;
use skald_notification::{Config, channel::Console};

const DELIVERED: &str = "SELECT COUNT(*) FROM notifications WHERE status = 'delivered' AND due_us IS NULL";

fn refused() -> Option<Result<(), String>> {
    Some(Err("mailbox full".to_owned()))
}

async fn events(house: &House) -> Vec<Event> {
    house.rows(2).await.iter().map(|row| Event::decode(&row.kind, row.schema, &row.data).unwrap()).collect()
}

#[tokio::test]
async fn each_outcome_is_told_once_in_its_own_words() {
    let channel = Scripted::new([]);
    let house = House::open(channel.clone(), quick()).await;
    let outcomes = || [confirmed(1), cancelled(2, CancelReason::OutOfStock), cancelled(3, CancelReason::PaymentDeclined)];
    house.deliver(outcomes().into_iter().chain(outcomes())).await;
    house.deliver(outcomes()).await;
    house.counts(DELIVERED, 3).await;
    // Queued and delivered, once each.
    house.rows(6).await;
    let mut letters = channel.handed();
    letters.sort_by_key(|letter| letter.order_id);
    let told: Vec<_> = letters.iter().map(|letter| (letter.customer_id, letter.subject.as_str())).collect();
    let (confirmed, cancelled) = ("Your order is confirmed", "Your order was cancelled");
    assert_eq!(told, [(customer(1), confirmed), (customer(2), cancelled), (customer(3), cancelled)]);
    assert!(letters[0].body.contains("19.99 EUR"), "{}", letters[0].body);
    assert!(letters[1].body.contains("sold out"), "{}", letters[1].body);
    assert!(letters[2].body.contains("declined"), "{}", letters[2].body);
}

#[tokio::test]
async fn a_placed_order_is_of_no_interest() {
    let channel = Scripted::new([]);
    let house = House::open(channel.clone(), quick()).await;
    let (order_id, customer_id) = (order(1), customer(1));
    house.deliver([OrderPlaced { order_id, customer_id, lines: Vec::new(), total: total() }.into(), confirmed(2)]).await;
    house.counts(DELIVERED, 1).await;
    assert_eq!(channel.handed()[0].order_id, order(2));
}

#[tokio::test]
async fn a_failed_delivery_is_tried_again_with_the_same_letter() {
    let channel = Scripted::new([refused(), refused()]);
    let house = House::open(channel.clone(), quick()).await;
    house.deliver([confirmed(1)]).await;
    house.counts(DELIVERED, 1).await;
    let letters = channel.handed();
    assert_eq!(letters.len(), 3);
    assert!(letters.iter().all(|letter| *letter == letters[0]));
    let events = events(&house).await;
    assert!(matches!(&events[..], [Event::NotificationQueued(_), Event::NotificationDelivered(end)] if end.attempts == 3));
}

#[tokio::test]
async fn what_can_not_be_delivered_is_given_up_at_the_bound_with_its_reason() {
    let channel = Scripted::broken();
    let house = House::open(channel.clone(), quick()).await;
    house.deliver([confirmed(1)]).await;
    house.counts("SELECT COUNT(*) FROM notifications WHERE status = 'given_up' AND due_us IS NULL AND attempts = 4", 1).await;
    assert_eq!(channel.handed().len(), 4);
    let events = events(&house).await;
    let [Event::NotificationQueued(_), Event::NotificationGivenUp(end)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((end.attempts, end.reason.as_str()), (4, "mailbox full"));
}

#[tokio::test]
async fn a_channel_that_never_answers_counts_as_failed() {
    let channel = Scripted::new([None]);
    let house = House::open(channel.clone(), Config { timeout_ms: 30, ..quick() }).await;
    house.deliver([confirmed(1)]).await;
    house.counts("SELECT COUNT(*) FROM notifications WHERE status = 'delivered' AND attempts = 2", 1).await;
}

#[tokio::test]
async fn what_was_under_way_at_a_crash_is_delivered_after_it() {
    let channel = Scripted::new([None, None, None]);
    let mut house = House::open(channel.clone(), quick()).await;
    house.deliver([confirmed(1), confirmed(2), confirmed(3)]).await;
    house.stop().await;
    house.start(Scripted::new([]), quick()).await;
    house.counts(DELIVERED, 3).await;
    house.rows(6).await;
}

#[tokio::test]
async fn hundreds_of_outcomes_at_once_are_each_delivered_once() {
    let channel = Scripted::new([refused(), refused(), refused()]);
    let house = House::open(channel.clone(), Config { concurrency: 16, ..quick() }).await;
    for part in 0..3 {
        house.deliver((1..=150).map(|number| confirmed(part * 150 + number))).await;
    }
    house.counts(DELIVERED, 450).await;
    assert_eq!(channel.handed().len(), 453);
    house.rows(900).await;
}

#[tokio::test]
async fn the_end_is_published_under_the_order_and_its_trace_and_caused_by_the_queuing() {
    let house = House::open(Arc::new(Console), quick()).await;
    house.deliver([confirmed(1)]).await;
    house.counts(DELIVERED, 1).await;
    let rows = house.rows(2).await;
    assert_eq!(rows[1].meta.cause, Some(rows[0].id));
    for row in rows {
        assert_eq!(row.topic.as_deref(), Some("notification.events.v1"));
        assert_eq!(row.key, Some(order(1).to_string()));
        assert_eq!(row.meta.correlation, Some(order(1).0));
        let sent = Trace { parent: Some(TRACEPARENT.into()), state: None }.child(row.id.span());
        assert_eq!(row.meta.trace, sent);
        let CustomerId(customer) = customer(1);
        assert!(!row.data.contains("Thank you") && (row.version == 2 || row.data.contains(&customer.to_string())));
    }
}

/// What somebody else has written.
async fn change(house: &House, sql: &'static str) {
    let mut connection = house.log().database().connect().await.unwrap();
    on!(&mut connection.conn(), |c| sqlx::query::<DB>(sql).execute(c).await.map(drop)).unwrap();
}

#[tokio::test]
async fn letters_of_a_newer_build_stand_in_nobody_s_way_and_those_of_a_wrong_clock_go_out() {
    let mut house = House::open(Scripted::new([None, None]), Config { timeout_ms: 60_000, ..quick() }).await;
    house.deliver([confirmed(1), confirmed(2)]).await;
    change(
        &house,
        "UPDATE notifications SET status = 'sung', due_us = 1 WHERE order_id = (SELECT order_id FROM notifications LIMIT 1)",
    )
    .await;
    change(&house, "UPDATE notifications SET due_us = due_us + 3600000000 WHERE status = 'queued'").await;
    house.stop().await;
    house.start(Scripted::new([]), quick()).await;
    house.counts(DELIVERED, 1).await;
    house.counts("SELECT COUNT(*) FROM notifications WHERE due_us > 9000000000000000000", 1).await;
    assert_eq!(house.log().survey().await.unwrap().unreadable, 1);
    assert_eq!(house.log().due().unwrap().pulled_in(), 1);
    change(&house, "UPDATE notifications SET status = 'queued' WHERE status = 'sung'").await;
    house.stop().await;
    house.start(Scripted::new([]), quick()).await;
    house.counts(DELIVERED, 2).await;
}
