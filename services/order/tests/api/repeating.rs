//! One key, one order: repeats, other bodies, requests under way, restarts, and two processes at once.
//!
//! Never here: what the key's hash is made of (kit's own suite).

use std::sync::Arc;

use contract::topics;
use kit::Tasks;
use tokio::sync::mpsc;

use crate::shop::{
    ADMIN, ALICE, BOB, DEADLINE, MUG, Mood, Shop, TEA, authorized, basket, captured, committed, declined, released, reserved,
};

#[tokio::test]
async fn placing_needs_a_key() {
    let shop = Shop::open().await;
    shop.post("/v1/orders").json(basket(&[(TEA, 1)])).await.refused(400, "idempotency_key_missing");
    for malformed in ["", "\"\"", "two words", "ümlaut", &"k".repeat(256)] {
        let refused = shop.post("/v1/orders").key(malformed).json(basket(&[(TEA, 1)])).await;
        refused.refused(400, "idempotency_key_invalid");
    }
    let twice = shop.post("/v1/orders").key("one").key("two").json(basket(&[(TEA, 1)])).await;
    twice.refused(400, "idempotency_key_invalid");
    assert_eq!(shop.rows().await.len(), 0);
    shop.post("/v1/orders").key(&"k".repeat(255)).json(basket(&[(TEA, 1)])).await.accepted();
}

#[tokio::test]
async fn a_repeat_gets_the_same_order_as_it_is_now() {
    let shop = Shop::open().await;
    let place = |key| shop.post("/v1/orders").key(key).json(basket(&[(TEA, 1)]));
    let first = place("key").await;
    let id = first.accepted();
    let second = place("\"key\"").await;
    assert_eq!((second.accepted(), &second.body), (id, &first.body));
    shop.say(reserved(id)).await;
    let third = place("key").await;
    assert_eq!((third.accepted(), &third.body["saga"]["state"]), (id, &"AuthorizingPayment".into()));
    for reply in [authorized(id), captured(id), committed(id)] {
        shop.say(reply).await;
    }
    // The basket could not be had any more: it is not looked at again.
    shop.shelf.put(TEA, crate::shop::euro(1), 0);
    let last = place("key").await;
    assert_eq!((last.accepted(), &last.body["status"]), (id, &"confirmed".into()));
    assert_eq!(last.body, shop.order(id).await);
    assert_eq!(shop.published(topics::ORDER_EVENTS).await.len(), 2, "placed and confirmed once");
}

#[tokio::test]
async fn a_repeat_may_prefer_to_wait() {
    let shop = Shop::open().await;
    let id = shop.post("/v1/orders").key("key").json(basket(&[(TEA, 1)])).await.accepted();
    let repeat = || shop.post("/v1/orders").key("key").header("prefer", "wait=20").json(basket(&[(TEA, 1)]));
    let participants = async {
        for reply in [reserved(id), declined(id), released(id)] {
            shop.say(reply).await;
        }
    };
    let (repeated, ()) = tokio::join!(repeat(), participants);
    assert_eq!((repeated.accepted(), &repeated.body["status"]), (id, &"cancelled".into()));
    assert_eq!(repeated.header("preference-applied"), "wait=20");
    let ended = repeat().await;
    assert_eq!((ended.accepted(), &ended.body), (id, &repeated.body), "there is nothing to wait for any more");
}

#[tokio::test]
async fn a_key_holds_for_one_body_of_one_caller() {
    let shop = Shop::open().await;
    let place = |who, body| shop.post("/v1/orders").by(who).key("key").json(body);
    let id = place(ALICE, basket(&[(TEA, 1)])).await.accepted();
    place(ALICE, basket(&[(TEA, 2)])).await.refused(422, "idempotency_key_reused");
    place(ALICE, basket(&[(MUG, 1)])).await.refused(422, "idempotency_key_reused");
    let others = [place(BOB, basket(&[(TEA, 1)])).await.accepted(), place(ADMIN, basket(&[(TEA, 1)])).await.accepted()];
    assert!(others[0] != id && others[1] != id && others[0] != others[1]);
    assert_eq!(place(ALICE, basket(&[(TEA, 1)])).await.accepted(), id);
}

#[tokio::test]
async fn a_refused_request_leaves_its_key_unused() {
    let shop = Shop::open().await;
    let place = |quantity| shop.post("/v1/orders").key("key").json(basket(&[(TEA, quantity)]));
    place(1_001).await.names("items");
    shop.shelf.put(TEA, crate::shop::euro(499), 0);
    place(1).await.refused(409, "out_of_stock");
    shop.shelf.put(TEA, crate::shop::euro(499), 9);
    place(2).await.accepted();
}

#[tokio::test]
async fn a_request_that_is_under_way_is_not_served_twice() {
    let shop = Shop::open().await;
    shop.shelf.is(Mood::Silent);
    let place = || shop.post("/v1/orders").key("key").json(basket(&[(TEA, 1)]));
    let meanwhile = async {
        shop.shelf.was_asked(1).await;
        let refused = place().await;
        refused.refused(409, "request_in_flight");
        assert_eq!(refused.header("retry-after"), "1");
        shop.shelf.is(Mood::Answering);
    };
    let (first, ()) = tokio::join!(place(), meanwhile);
    assert_eq!(place().await.accepted(), first.accepted());
    assert_eq!(shop.shelf.calls(), 1);
}

#[tokio::test]
async fn a_request_that_only_waits_for_the_end_is_done_already() {
    let shop = Shop::open().await;
    let waiting = shop.post("/v1/orders").key("key").header("prefer", "wait=20").json(basket(&[(TEA, 1)]));
    let meanwhile = async {
        let id = shop.logged("order.OrderPlaced", 1).await;
        let repeated = loop {
            let answer = shop.post("/v1/orders").key("key").json(basket(&[(TEA, 1)])).await;
            // It is in the log an instant before the first request hears of it.
            if answer.status != 409 {
                break answer;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!((repeated.accepted(), &repeated.body["status"]), (id, &"pending".into()));
        for reply in [reserved(id), declined(id), released(id)] {
            shop.say(reply).await;
        }
        id
    };
    let (first, id) = tokio::join!(waiting, meanwhile);
    assert_eq!((first.accepted(), &first.body["status"]), (id, &"cancelled".into()));
}

#[tokio::test]
async fn a_key_outlives_the_process_and_so_does_the_saga() {
    let mut shop = Shop::open().await;
    let first = shop.post("/v1/orders").key("key").json(basket(&[(TEA, 1)])).await;
    let id = first.accepted();
    shop.restart().await;
    let again = shop.post("/v1/orders").key("key").json(basket(&[(TEA, 1)])).await;
    assert_eq!((again.accepted(), &again.body), (id, &first.body));
    shop.post("/v1/orders").key("key").json(basket(&[(TEA, 2)])).await.refused(422, "idempotency_key_reused");
    for reply in [reserved(id), authorized(id), captured(id), committed(id)] {
        shop.say(reply).await;
    }
    assert_eq!(shop.order(id).await["status"], "confirmed");
}

/// Sends the same placement 300 times at once, spread over these processes; who is told to come back does so, until all are served.
async fn stampede(shops: Vec<Arc<Shop>>) {
    let (tasks, mut waiting, mut ids) = (Tasks::new(), 300, Vec::new());
    while waiting > 0 {
        let (sender, mut answers) = mpsc::unbounded_channel();
        for number in 0..waiting {
            let (shop, sender) = (shops[number % shops.len()].clone(), sender.clone());
            tasks.spawn("customer", async move {
                let answer = shop.post("/v1/orders").key("the-one-key").json(basket(&[(TEA, 1)])).await;
                drop(sender.send(answer));
            });
        }
        drop(sender);
        while let Some(answer) = answers.recv().await {
            match answer.status {
                202 => ids.push(answer.accepted()),
                // Another of the three hundred is being served there.
                _ => drop(answer.refused(409, "request_in_flight")),
            }
        }
        waiting = 300 - ids.len();
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "one order");
    for shop in shops {
        let rows: Vec<_> = shop.rows().await.iter().map(|row| row.kind.clone()).collect();
        assert_eq!(rows, ["order.OrderPlaced", "saga.SagaStarted", "saga.SagaMoved", "product.ReserveStock"]);
    }
    assert!(tasks.stop(DEADLINE).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_hundred_requests_at_once_make_one_order() {
    stampede(vec![Arc::new(Shop::open().await)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_hundred_requests_at_two_processes_make_one_order() {
    let shop = Shop::open().await;
    let replica = shop.replica().await;
    stampede(vec![Arc::new(shop), Arc::new(replica)]).await;
}
