//! Reading orders: whose they are, lists in pages, and the history of one.

use contract::OrderId;
use eventlog::on;
use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::shop::{ADMIN, ALICE, Answer, BOB, OPERATOR, Shop, TEA, basket, declined, released, reserved};

#[tokio::test]
async fn an_order_is_its_customers_and_operators_read_all() {
    let shop = Shop::open().await;
    let id = shop.place().await;
    for what in ["", "/history"] {
        let path = format!("/v1/orders/{id}{what}");
        let own = shop.get(&path).empty().await;
        for who in [OPERATOR, ADMIN] {
            assert_eq!(shop.get(&path).by(who).empty().await.is(200).body, own.is(200).body);
        }
        shop.get(&path).by(BOB).empty().await.refused(404, "not_found");
        let nobody = shop.get(&path).by(None).empty().await;
        assert_eq!(nobody.refused(401, "unauthorized").header("www-authenticate"), "Bearer");
        shop.get(&path).by(None).header("authorization", "Bearer nonsense").empty().await.refused(401, "unauthorized");
    }
    shop.get(format!("/v1/orders/{id}/events")).by(BOB).empty().await.refused(404, "not_found");
    shop.get(format!("/v1/orders/{id}/events")).by(None).empty().await.refused(401, "unauthorized");
    shop.get("/v1/orders").by(None).empty().await.refused(401, "unauthorized");
    shop.placing().by(None).json(basket(&[(TEA, 1)])).await.refused(401, "unauthorized");
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let shop = Shop::open().await;
    for id in ["00000000-0000-0000-0000-000000000001", "no-uuid", "1", "%00"] {
        for what in ["", "/history", "/events"] {
            for who in [ALICE, OPERATOR] {
                shop.get(format!("/v1/orders/{id}{what}")).by(who).empty().await.refused(404, "not_found");
            }
        }
    }
    shop.get("/v1/order").empty().await.refused(404, "not_found");
    let wrong_method = shop.post("/v1/orders/00000000-0000-0000-0000-000000000001").empty().await;
    assert_eq!(wrong_method.refused(405, "method_not_allowed").header("allow"), "GET,HEAD");
}

#[tokio::test]
async fn a_list_has_ones_own_orders_newest_first_and_operators_see_all() {
    let shop = Shop::open().await;
    let (first, foreign, second) = (shop.place().await, shop.place_for(BOB).await, shop.place().await);
    let list = shop.get("/v1/orders").empty().await;
    assert_eq!((list.ids(), &list.body["next"]), (vec![second, first], &Value::Null));
    assert_eq!(list.body["items"][0], shop.order(second).await, "an item is what GET shows");
    assert_eq!(shop.get("/v1/orders").by(BOB).empty().await.ids(), [foreign]);
    for who in [OPERATOR, ADMIN] {
        assert_eq!(shop.get("/v1/orders").by(who).empty().await.ids(), [second, foreign, first]);
    }
}

#[tokio::test]
async fn a_list_can_be_of_one_status() {
    let shop = Shop::open().await;
    let cancelled = shop.place_until("Cancelled").await;
    let confirmed = shop.place_until("Confirmed").await;
    let compensating = shop.place_until("VoidingPayment").await;
    let committing = shop.place_until("CommittingStock").await;
    for who in [ALICE, OPERATOR] {
        let list = async |status: &str| shop.get(format!("/v1/orders?status={status}")).by(who).empty().await;
        assert_eq!(list("pending").await.ids(), [committing, compensating]);
        assert_eq!(list("confirmed").await.ids(), [confirmed]);
        assert_eq!(list("cancelled").await.ids(), [cancelled]);
    }
    shop.get("/v1/orders?status=lost").empty().await.names("status");
    shop.get("/v1/orders?status=").empty().await.names("status");
}

#[tokio::test]
async fn pages_follow_each_other_without_a_gap() {
    let shop = Shop::open().await;
    let mut placed = Vec::new();
    for _ in 0..5 {
        shop.place_for(BOB).await;
        placed.insert(0, shop.place().await);
    }
    let walk = async |first: &str| -> Vec<Vec<OrderId>> {
        let (mut pages, mut path) = (Vec::new(), first.to_owned());
        loop {
            let page = shop.get(&path).empty().await;
            pages.push(page.ids());
            let Some(next) = page.body["next"].as_str() else { return pages };
            path = format!("{first}&cursor={next}");
            // What comes meanwhile is newer than all that is still to come.
            shop.place().await;
        }
    };
    assert_eq!(walk("/v1/orders?limit=2&status=pending").await, [&placed[..2], &placed[2..4], &placed[4..]]);
    assert_eq!(shop.get("/v1/orders?limit=1").empty().await.ids().len(), 1);
    assert_eq!(shop.get("/v1/orders?limit=100").empty().await.ids().len(), 7);
}

#[tokio::test]
async fn a_page_is_of_twenty_unless_it_says_otherwise() {
    let shop = Shop::open().await;
    for _ in 0..21 {
        shop.place().await;
    }
    let page = shop.get("/v1/orders").empty().await;
    assert_eq!(page.ids().len(), 20);
    let last = shop.get(format!("/v1/orders?cursor={}", page.body["next"].as_str().unwrap())).empty().await;
    assert_eq!((last.ids().len(), &last.body["next"]), (1, &Value::Null));
}

#[tokio::test]
async fn a_wrong_query_is_refused() {
    let shop = Shop::open().await;
    for list in ["/v1/orders", "/v1/sagas"] {
        let asked = async |query: &str| -> Answer { shop.get(format!("{list}?{query}")).by(OPERATOR).empty().await };
        for limit in ["0", "101", "-1", "many", "1.5", ""] {
            asked(&format!("limit={limit}")).await.names("limit");
        }
        for cursor in ["", "!", "AAAA", "%00"] {
            asked(&format!("cursor={cursor}")).await.refused(422, "invalid");
        }
    }
}

#[tokio::test]
async fn a_history_tells_the_saga_row_by_row() {
    let shop = Shop::open().await;
    let id = shop.place_until("Confirmed").await;
    let history = shop.get(format!("/v1/orders/{id}/history")).empty().await;
    assert_snapshot!("confirmed", told(&history));
    let items = history.body["items"].as_array().unwrap();
    for (number, entry) in items.iter().enumerate() {
        assert_eq!(entry["version"], json!(number + 1));
        assert_eq!(
            entry["trace_id"].as_str().map(str::len),
            if number < 3 { Some(32) } else { None },
            "replies came without one"
        );
        assert!(entry["time"].as_str().unwrap().ends_with('Z'));
        let (by_alice, by_reply) = (entry["actor"] == json!(ALICE.actor()), entry["cause"].is_string());
        assert_eq!((by_alice, by_reply), if number < 3 { (true, false) } else { (false, true) }, "{entry}");
    }
    assert_eq!(items[1]["data"]["context"]["payment_token"], "***");

    let id = shop.place().await;
    shop.post(format!("/v1/orders/{id}/cancel")).by(OPERATOR).empty().await.is(202);
    shop.say(released(id)).await;
    shop.say(reserved(id)).await;
    assert_snapshot!("cancelled", told(&shop.get(format!("/v1/orders/{id}/history")).empty().await));

    let id = shop.place().await;
    for reply in [reserved(id), declined(id), released(id)] {
        shop.say(reply).await;
    }
    assert_snapshot!("declined", told(&shop.get(format!("/v1/orders/{id}/history")).empty().await));
}

/// A history in one line a row: message, topic, state, and whose doing.
fn told(history: &Answer) -> String {
    let line = |entry: &Value| {
        let word = |name: &str| entry[name].as_str().unwrap_or("-").to_owned();
        let actor = word("actor").split(':').next().map(str::to_owned).unwrap_or_default();
        let input = entry["data"]["input"].as_str().unwrap_or_default();
        format!("{:<25} {:<20} {:<19} {actor:<9} {input}", word("message"), word("topic"), word("state"))
    };
    history.is(200).body["items"].as_array().unwrap().iter().map(|entry| line(entry).trim_end().to_owned() + "\n").collect()
}

#[tokio::test]
async fn operators_are_led_from_a_step_to_its_trace_and_its_message() {
    let mut shop = Shop::open().await;
    let id = shop.place().await;
    let path = format!("/v1/orders/{id}/history");
    let plain = shop.get(&path).by(OPERATOR).empty().await.is(200).body.clone();
    assert!(!plain.to_string().contains("_url") && !plain.to_string().contains("published"), "{plain}");
    (shop.config.jaeger_url, shop.config.kafdrop_url) =
        ("http://jaeger:16686/".parse().ok(), "https://ops.example/kafdrop".parse().ok());
    shop.restart().await;
    let linked = shop.get(&path).by(OPERATOR).empty().await.is(200).body.clone();
    for (entry, plain) in linked["items"].as_array().unwrap().iter().zip(plain["items"].as_array().unwrap()) {
        assert_eq!(entry["trace_url"], format!("http://jaeger:16686/trace/{}", plain["trace_id"].as_str().unwrap()));
        let (published, topic) = (&entry["published"], &entry["topic"]);
        assert_eq!(published.is_null(), topic.is_null(), "{entry}");
        if let Some(topic) = topic.as_str() {
            let offset = published["offset"].as_i64().unwrap();
            let url = format!("https://ops.example/kafdrop/topic/{topic}/messages?partition=3&offset={offset}&count=1");
            assert!(published["url"].as_str().unwrap().starts_with(&url), "{published}");
        }
    }
    assert_eq!(shop.get(&path).empty().await.is(200).body, plain, "the addresses are no customer's business");
}

#[tokio::test]
async fn an_order_of_a_newer_build_is_shown_as_far_as_it_is_known_and_hides_no_other() {
    let shop = Shop::open().await;
    let (first, second, third) = (shop.place().await, shop.place().await, shop.place().await);
    let mut connection = shop.log().database().connect().await.unwrap();
    for (id, sql) in [
        (first, "UPDATE sagas SET state = 'Teleporting' WHERE id = $1"),
        (second, "UPDATE orders SET lines = 'x' WHERE order_id = $1"),
    ] {
        on!(&mut connection.conn(), |c| sqlx::query::<DB>(sql).bind(id.0).execute(c).await.map(drop)).unwrap();
    }
    assert_eq!(shop.get("/v1/orders").empty().await.ids(), [third, first]);
    let shown = shop.order(first).await;
    assert_eq!((&shown["status"], &shown["saga"]["state"]), (&json!("pending"), &json!("Teleporting")));
    shop.post(format!("/v1/orders/{first}/cancel")).empty().await.refused(503, "unreadable");
    let reason = json!({ "reason": "why" });
    shop.post(format!("/v1/sagas/{first}/retry")).by(OPERATOR).json(reason).await.refused(503, "unreadable");
    shop.post(format!("/v1/orders/{third}/cancel")).empty().await.is(202);
}
