//! What participants say: how each order ends, what a repeated reply does, and what nobody asked for.

use contract::{DeadLetter, Message, OrderId, envelope::Repeated, payment, product, topics};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::shop::{
    Reply, Shop, TEA, authorized, basket, capture_refused, captured, committed, declined, euro, product_id, refused, released,
    reserved, voided,
};

#[tokio::test]
async fn every_way_ends_as_the_table_says() {
    let shop = Shop::open().await;
    type Way<'w> = (&'w [fn(OrderId) -> Reply], &'w str, Value, &'w [&'w str]);
    let ways: [Way<'_>; 4] = [
        (
            &[reserved, authorized, captured, committed],
            "confirmed",
            Value::Null,
            &["product.ReserveStock", "payment.AuthorizePayment", "payment.CapturePayment", "product.CommitStock"],
        ),
        (&[refused], "cancelled", json!("out_of_stock"), &["product.ReserveStock"]),
        (
            &[reserved, declined, released],
            "cancelled",
            json!("payment_declined"),
            &["product.ReserveStock", "payment.AuthorizePayment", "product.ReleaseStock"],
        ),
        (
            &[reserved, authorized, capture_refused, voided, released],
            "cancelled",
            json!("capture_refused"),
            &[
                "product.ReserveStock",
                "payment.AuthorizePayment",
                "payment.CapturePayment",
                "payment.VoidPayment",
                "product.ReleaseStock",
            ],
        ),
    ];
    for (way, status, reason, asked) in ways {
        let id = shop.place().await;
        for reply in way {
            assert_eq!(shop.order(id).await["status"], "pending");
            shop.say(reply(id)).await;
        }
        let order = shop.order(id).await;
        assert_eq!((&order["status"], &order["reason"]), (&json!(status), &reason));
        assert_eq!((&order["saga"]["step"], order["ended_at"].is_string()), (&Value::Null, true));
        assert_eq!(shop.asked(id).await, asked);
        let ends: Vec<_> = shop.published(topics::ORDER_EVENTS).await.into_iter().filter(|row| row.version == 2).collect();
        let end = ends.last().unwrap();
        assert_eq!((end.key.clone(), end.stream.clone()), (Some(id.to_string()), format!("order-{id}")));
        assert_eq!(end.kind, if status == "confirmed" { "order.OrderConfirmed" } else { "order.OrderCancelled" });
        let data: Value = serde_json::from_str(&end.data).unwrap();
        assert_eq!((&data["reason"], &data["total"]), (&reason, &json!(euro(499))));
    }
    assert_eq!(shop.log().dead_letters(), 0);
}

#[tokio::test]
async fn the_commands_carry_what_was_ordered() {
    let shop = Shop::open().await;
    let placed = shop.placing().json(basket(&[(TEA, 2)])).await;
    let id = placed.accepted();
    for reply in [reserved(id), authorized(id), captured(id)] {
        shop.say(reply).await;
    }
    let rows = shop.published(topics::PAYMENT_COMMANDS).await;
    let asked: Vec<payment::Command> =
        rows.iter().map(|row| payment::Command::decode(&row.kind, row.schema, &row.data).unwrap()).collect();
    let (customer_id, amount, token) = (crate::shop::ALICE.id(), euro(998), crate::shop::TOKEN.to_owned());
    let authorize = payment::AuthorizePayment { order_id: id, customer_id, amount, token };
    assert_eq!(asked, [authorize.into(), payment::CapturePayment { order_id: id }.into()]);
    assert!(rows.iter().all(|row| row.key == Some(id.to_string()) && row.stream == format!("saga-{id}")));
}

#[tokio::test]
async fn replies_that_come_together_are_decided_one_after_the_other() {
    let shop = Shop::open().await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(shop.place().await);
    }
    shop.say_all(ids.iter().map(|id| reserved(*id))).await;
    // The same batch has both answers of each, and each of them twice.
    shop.say_all(ids.iter().flat_map(|id| [authorized(*id), authorized(*id), captured(*id), captured(*id)])).await;
    shop.say_all(ids.iter().map(|id| committed(*id))).await;
    for id in ids {
        assert_eq!(shop.order(id).await["status"], "confirmed");
        assert_eq!(shop.asked(id).await.len(), 4);
    }
    assert_eq!(shop.log().dead_letters(), 0);
}

#[tokio::test]
async fn a_repeated_or_late_reply_changes_nothing() {
    let shop = Shop::open().await;
    let confirmed = shop.place_until("Confirmed").await;
    let cancelled = shop.place_until("Cancelled").await;
    let rows = shop.rows().await.len();
    for id in [confirmed, cancelled] {
        let lines = vec![product::StockLine { product_id: product_id(TEA), quantity: 1 }];
        let again = product::StockReserved { order_id: id, lines, repeated: Repeated(true) };
        shop.say(Reply::Product(id, again.into())).await;
        for reply in [authorized(id), captured(id), committed(id)] {
            shop.say(reply).await;
        }
    }
    for reply in [released(cancelled), voided(cancelled), declined(cancelled), refused(cancelled), capture_refused(cancelled)] {
        shop.say(reply).await;
    }
    assert_eq!((shop.rows().await.len(), shop.log().dead_letters()), (rows, 0));
}

#[tokio::test]
async fn what_concerns_no_saga_is_passed_over() {
    let shop = Shop::open().await;
    let (id, rows) = (shop.place().await, shop.rows().await.len());
    let removed = product::ProductRemoved { product_id: product_id(TEA) };
    shop.say(Reply::Product(id, removed.into())).await;
    assert_eq!((shop.rows().await.len(), shop.log().dead_letters()), (rows, 0));
}

/// The one dead letter of this message, with the words that say why.
async fn dead_letter(shop: &Shop, message: Message, why: &str) {
    let (before, topic) = (shop.log().dead_letters(), message.topic.clone().unwrap());
    let (id, kind, data) = (message.id, message.kind.clone(), message.data.clone());
    shop.deliver(vec![message]).await;
    assert_eq!(shop.log().dead_letters(), before + 1);
    let letters = shop.published(&topics::dead_letters(&topic)).await;
    let letter = DeadLetter::decode(&letters.last().unwrap().data).unwrap();
    let (found_id, found_kind) = (letter.record.header("ce_id"), letter.record.header("ce_type"));
    assert_eq!((found_id, found_kind), (Some(id.to_string().as_str()), Some(kind.as_str())));
    assert_eq!((&letter.topic, letter.record.value.as_deref()), (&topic, Some(data.as_bytes())));
    assert!(letter.error.contains(why), "{letter:?}");
}

#[tokio::test]
async fn a_reply_that_nobody_asked_for_becomes_a_dead_letter() {
    let shop = Shop::open().await;
    for (state, reply) in [
        ("ReservingStock", authorized as fn(OrderId) -> Reply),
        ("ReservingStock", released),
        ("AuthorizingPayment", captured),
        ("CapturingPayment", committed),
        ("CommittingStock", declined),
        ("Confirmed", voided),
    ] {
        let id = shop.place_until(state).await;
        let before = shop.order(id).await;
        dead_letter(&shop, shop.message(&reply(id)), "nobody asked").await;
        assert_eq!(shop.order(id).await, before);
    }
}

#[tokio::test]
async fn a_reply_to_an_order_that_was_never_placed_becomes_a_dead_letter() {
    let shop = Shop::open().await;
    let unknown = OrderId(Uuid::from_u128(99));
    dead_letter(&shop, shop.message(&reserved(unknown)), "never placed").await;
    dead_letter(&shop, shop.message(&captured(unknown)), "never placed").await;
}

#[tokio::test]
async fn what_cannot_be_read_becomes_a_dead_letter_and_its_neighbours_go_on() {
    let shop = Shop::open().await;
    let (first, second) = (shop.place().await, shop.place().await);
    let good = shop.message(&reserved(first));
    dead_letter(&shop, Message { kind: "product.StockVanished".into(), ..good.clone() }, "unknown message type").await;
    dead_letter(&shop, Message { schema: 2, ..good.clone() }, "unknown schema version").await;
    dead_letter(&shop, Message { data: "{}".into(), ..good.clone() }, "malformed").await;
    let broken = Message { data: "{".into(), ..good.clone() };
    let unasked = shop.message(&committed(first));
    shop.deliver(vec![broken, good, unasked, shop.message(&reserved(second))]).await;
    for id in [first, second] {
        assert_eq!(shop.order(id).await["saga"]["state"], "AuthorizingPayment");
    }
    assert_eq!(shop.log().dead_letters(), 5);
}
