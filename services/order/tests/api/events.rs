//! An order as it happens: order, ids, resuming, and the end of the stream.

use contract::OrderId;
use serde_json::Value;

use crate::shop::{OPERATOR, Shop, authorized, captured, committed, reserved};

/// The ids of a stream's events, which are the versions of the saga's rows.
fn ids(from: i64, to: i64) -> Vec<String> {
    (from..=to).map(|version| version.to_string()).collect()
}

/// Oldest first, as a stream tells it.
async fn history(shop: &Shop, id: OrderId) -> Vec<Value> {
    let history = shop.get(format!("/v1/orders/{id}/history?limit=100")).empty().await;
    history.is(200).body["items"].as_array().unwrap().iter().rev().cloned().collect()
}

#[tokio::test]
async fn a_stream_tells_an_order_as_it_happens_and_ends_with_it() {
    let shop = Shop::open().await;
    let id = shop.place().await;
    let mut stream = shop.get(format!("/v1/orders/{id}/events")).events().await;
    let mut told = stream.take(3).await;
    // Another client, and another order: neither disturbs.
    let other = shop.get(format!("/v1/orders/{id}/events")).by(OPERATOR).events().await;
    shop.place().await;
    for (reply, rows) in [(reserved(id), 2), (authorized(id), 2), (captured(id), 2)] {
        shop.say(reply).await;
        told.extend(stream.take(rows).await);
    }
    shop.say(committed(id)).await;
    told.extend(stream.rest().await);
    assert_eq!(told.iter().map(|event| event.id.clone()).collect::<Vec<_>>(), ids(1, 11));
    let history = history(&shop, id).await;
    assert_eq!(told.iter().map(|event| event.data.clone()).collect::<Vec<_>>(), history);
    assert!(told.iter().all(|event| event.data["message"] == event.name.as_str()));
    assert_eq!(told.last().unwrap().name, "saga.SagaEnded");
    assert_eq!(other.rest().await, told);
}

#[tokio::test]
async fn an_order_that_has_ended_is_told_to_its_end() {
    let shop = Shop::open().await;
    let id = shop.place_until("Cancelled").await;
    let told = shop.get(format!("/v1/orders/{id}/events")).events().await.rest().await;
    let history = history(&shop, id).await;
    assert_eq!(told.into_iter().map(|event| event.data).collect::<Vec<_>>(), history);
}

#[tokio::test]
async fn who_comes_back_goes_on_after_the_last_event() {
    let shop = Shop::open().await;
    let id = shop.place_until("Confirmed").await;
    let path = format!("/v1/orders/{id}/events");
    let whole = shop.get(&path).events().await.rest().await;
    let (end, before) = whole.split_last().unwrap();
    // Who comes back after the end is told not to come back again.
    assert_eq!(shop.get(&path).header("last-event-id", &end.id).empty().await.status, 204);
    for (seen, last) in before.iter().enumerate() {
        let rest = shop.get(&path).header("last-event-id", &last.id).events().await.rest().await;
        assert_eq!(rest, whole[seen + 1..], "after event {}", last.id);
    }
    for none in ["0", ""] {
        let rest = shop.get(&path).header("last-event-id", none).events().await.rest().await;
        assert_eq!(rest, whole, "{none:?}");
    }
}

#[tokio::test]
async fn who_comes_back_to_an_open_order_hears_what_comes() {
    let shop = Shop::open().await;
    let id = shop.place_until("CommittingStock").await;
    let path = format!("/v1/orders/{id}/events");
    let newest = history(&shop, id).await.len();
    let stream = shop.get(&path).header("last-event-id", &newest.to_string()).events().await;
    shop.say(committed(id)).await;
    let rest = stream.rest().await;
    assert_eq!(rest.iter().map(|event| event.name.as_str()).collect::<Vec<_>>(), ["saga.SagaMoved", "saga.SagaEnded"]);
}

#[tokio::test]
async fn an_event_that_was_never_told_is_refused() {
    let shop = Shop::open().await;
    for id in [shop.place().await, shop.place_until("Confirmed").await] {
        for last in ["x", "-1", "1.5", "12", "9223372036854775807", "9223372036854775808", "ü"] {
            let refused = shop.get(format!("/v1/orders/{id}/events")).header("last-event-id", last).empty().await;
            refused.names("Last-Event-ID");
        }
    }
}

#[tokio::test]
async fn of_a_long_past_the_newest_is_told_and_in_which_state_it_was() {
    let shop = Shop::open().await;
    let id = shop.place_until("VoidingPayment").await;
    for _ in 0..110 {
        shop.post(format!("/v1/sagas/{id}/retry")).by(OPERATOR).json(serde_json::json!({ "reason": "again" })).await.is(202);
    }
    let newest = history(&shop, id).await.pop().unwrap()["version"].as_i64().unwrap();
    assert!(newest > 220, "{newest}");
    let path = format!("/v1/orders/{id}/events");
    for last in [None, Some("1"), Some("10")] {
        let asked = shop.get(&path);
        let mut stream = match last {
            None => asked.events().await,
            Some(last) => asked.header("last-event-id", last).events().await,
        };
        let told = stream.take(200).await;
        assert_eq!(told.iter().map(|event| event.id.clone()).collect::<Vec<_>>(), ids(newest - 199, newest));
        assert!(told.iter().all(|event| event.data["state"] == "VoidingPayment"));
    }
}

#[tokio::test]
async fn a_stream_ends_when_the_service_stops() {
    let shop = Shop::open().await;
    let id = shop.place().await;
    let mut stream = shop.get(format!("/v1/orders/{id}/events")).events().await;
    stream.take(3).await;
    shop.tasks().stop(std::time::Duration::from_millis(1)).await;
    assert_eq!(stream.next().await, None);
}
