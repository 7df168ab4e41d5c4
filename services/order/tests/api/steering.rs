//! Operators: the list of sagas, and the verbs that steer one.

use contract::OrderId;
use serde_json::{Value, json};

use crate::shop::{ADMIN, ALICE, Asked, OPERATOR, Shop};

const STATES: [&str; 8] = [
    "ReservingStock",
    "AuthorizingPayment",
    "CapturingPayment",
    "CommittingStock",
    "VoidingPayment",
    "ReleasingStock",
    "Confirmed",
    "Cancelled",
];

fn steer<'s>(shop: &'s Shop, id: OrderId, verb: &str) -> Asked<'s> {
    shop.post(format!("/v1/sagas/{id}/{verb}")).by(OPERATOR)
}

fn why() -> Value {
    json!({ "reason": "the customer called" })
}

#[tokio::test]
async fn the_list_of_sagas_is_for_operators() {
    let shop = Shop::open().await;
    let ended = shop.place_until("Cancelled").await;
    let open = shop.place_until("CapturingPayment").await;
    for query in ["", "?state=open", "?state=ended", "?state=stuck"] {
        shop.get(format!("/v1/sagas{query}")).empty().await.refused(403, "forbidden");
        shop.get(format!("/v1/sagas{query}")).by(None).empty().await.refused(401, "unauthorized");
    }
    for who in [OPERATOR, ADMIN] {
        let list = async |query: &str| shop.get(format!("/v1/sagas{query}")).by(who).empty().await;
        assert_eq!(list("").await.ids(), [open, ended]);
        assert_eq!(list("?state=open").await.ids(), [open]);
        assert_eq!(list("?state=ended").await.ids(), [ended]);
        assert_eq!(list("?state=stuck").await.ids(), []);
        let first = list("?limit=1").await;
        assert_eq!(first.ids(), [open]);
        let next = first.body["next"].as_str().unwrap();
        assert_eq!(list(&format!("?limit=1&cursor={next}")).await.ids(), [ended]);
        list("?state=lost").await.names("state");
    }
    let listed = &shop.get("/v1/sagas").by(OPERATOR).empty().await.body["items"];
    let times = ["due_at", "started_at", "ended_at"].map(|name| [&listed[0][name], &listed[1][name]]);
    assert!(times[0][0].is_string() && times[1].iter().all(|time| time.is_string()) && times[2][1].is_string());
    let saga = |id: OrderId, state: &str, step: Value, reason: Value, times: [&Value; 3]| {
        json!({ "id": id, "saga": "order", "definition": 1, "state": state, "step": step, "reason": reason, "attempt": 1,
                "stuck": false, "unreadable": false, "due_at": times[0], "started_at": times[1], "ended_at": times[2] })
    };
    let open = saga(open, "CapturingPayment", json!("capture_payment"), Value::Null, [times[0][0], times[1][0], &Value::Null]);
    let ended = saga(ended, "Cancelled", Value::Null, json!("payment_declined"), [&Value::Null, times[1][1], times[2][1]]);
    assert_eq!(*listed, json!([open, ended]));
}

#[tokio::test]
async fn every_verb_has_its_answer_in_every_state() {
    let shop = Shop::open().await;
    let mut cells = String::new();
    for verb in ["retry", "compensate", "skip", "complete"] {
        for from in STATES {
            let id = shop.place_until(from).await;
            let (before, asked) = (shop.order(id).await, shop.asked(id).await.len());
            let answer = steer(&shop, id, verb).json(why()).await;
            let (after, asked) = (shop.order(id).await, &shop.asked(id).await[asked..]);
            if answer.status == 409 {
                assert_eq!((answer.refused(409, "not_in_this_state"), &after).1, &before);
            } else {
                assert_eq!(answer.is(202).body, after);
            }
            let (state, asked) = (after["saga"]["state"].as_str().unwrap(), asked.join(" "));
            cells += format!("{verb:<10} in {from:<18} {} {state:<18} {asked}", answer.status).trim_end();
            cells += "\n";
        }
    }
    insta::assert_snapshot!("verbs", cells);
}

#[tokio::test]
async fn a_verb_is_recorded_with_who_and_why() {
    let shop = Shop::open().await;
    let id = shop.place_until("CapturingPayment").await;
    let answer = shop.post(format!("/v1/sagas/{id}/compensate")).by(ADMIN).json(why()).await;
    let saga = json!({ "state": "VoidingPayment", "step": "void_payment", "stuck": false });
    assert_eq!((&answer.is(202).body["saga"], &answer.body["reason"]), (&saga, &json!("cancelled_by_operator")));
    let history = shop.get(format!("/v1/orders/{id}/history")).empty().await;
    let moved = history.body["items"].as_array().unwrap().iter().rfind(|entry| entry["message"] == "saga.SagaMoved").unwrap();
    let (data, actor) = (&moved["data"], &moved["actor"]);
    assert_eq!((&data["input"], &data["note"], actor), (&json!("CompensationForced"), &why()["reason"], &json!(ADMIN.actor())));
}

#[tokio::test]
async fn a_verb_needs_an_operator_a_reason_and_an_order() {
    let shop = Shop::open().await;
    let id = shop.place().await;
    steer(&shop, id, "retry").by(ALICE).json(why()).await.refused(403, "forbidden");
    steer(&shop, id, "retry").by(None).json(why()).await.refused(401, "unauthorized");
    for reason in ["".to_owned(), "x".repeat(501)] {
        steer(&shop, id, "retry").json(json!({ "reason": reason })).await.names("reason");
    }
    steer(&shop, id, "retry").json(json!({})).await.refused(422, "invalid");
    steer(&shop, id, "retry").json(json!({ "reason": "a\u{0}b" })).await.refused(422, "invalid");
    steer(&shop, id, "retry").empty().await.refused(415, "unsupported_media_type");
    steer(&shop, id, "explode").json(why()).await.refused(404, "not_found");
    for unknown in ["00000000-0000-0000-0000-000000000001", "no-uuid"] {
        shop.post(format!("/v1/sagas/{unknown}/retry")).by(OPERATOR).json(why()).await.refused(404, "not_found");
    }
    assert_eq!(shop.asked(id).await, ["product.ReserveStock"], "nothing happened");
    steer(&shop, id, "retry").json(json!({ "reason": "ß".repeat(500) })).await.is(202);
    assert_eq!(shop.asked(id).await.len(), 2);
}
