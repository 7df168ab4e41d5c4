//! `GET /v1/payments/{order_id}` through the real door: who may look, and what they see.
//!
//! Never here: what ends how (`tests/provider.rs`, `tests/faults.rs`).

// Each test binary uses its own part of it.
#[allow(dead_code, reason = "each test binary uses its part")]
mod common;

use std::time::Duration;

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode, header},
};
use common::{House, Scripted, authorize, capture, customer, order, quick, void};
use contract::CustomerId;
use eventlog::Env;
use http_body_util::BodyExt;
use kit::auth::{Role, Signer, Verifier};
use serde_json::{Value, json};
use tower::ServiceExt;

struct Door {
    app: Router,
    signer: Signer,
}

impl Door {
    fn of(house: &House) -> Self {
        let env = Env::system();
        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
        let signer = Signer::new("k1", &key, "skald", "skald", env.clone());
        let verifier = Verifier::new(vec![signer.public()], "skald", "skald", env.clone());
        let services = vec![("payment", house.service().routes.clone())];
        let (metrics, health) = (kit::Metrics::new(), Vec::new());
        let config = kit::http::AppConfig { title: "payment", services, verifier, metrics, health, env };
        Self { app: kit::http::app(config), signer }
    }

    async fn get(&self, path: &str, caller: Option<(CustomerId, Role)>) -> (StatusCode, Value) {
        let mut request = Request::get(path);
        if let Some((id, role)) = caller {
            let token = self.signer.sign(id, role, Duration::from_secs(60));
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = self.app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }
}

fn path(number: u128) -> String {
    format!("/v1/payments/{}", order(number))
}

#[tokio::test]
async fn a_payment_shows_what_was_asked_of_the_provider_and_what_came_of_it() {
    let house = House::open(Scripted::new([]).provider(), quick()).await;
    house.deliver([authorize(1, "t")]).await;
    house.tells(order(1), "authorize? authorized").await;
    house.deliver([capture(1), authorize(1, "t")]).await;
    house.tells(order(1), "authorize? authorized capture? captured").await;
    let (status, mut body) = Door::of(&house).get(&path(1), Some((customer(1), Role::Customer))).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    for operation in body["operations"].as_array_mut().unwrap() {
        for time in ["asked_at", "answered_at"] {
            assert!(operation[time].take().as_str().unwrap().ends_with('Z'));
        }
    }
    let wanted = json!({
        "order_id": order(1).to_string(),
        "status": "captured",
        "amount": {"amount_minor": 1999, "currency": "EUR"},
        "captured": {"amount_minor": 1999, "currency": "EUR"},
        "refunded": {"amount_minor": 0, "currency": "EUR"},
        "operations": [
            {"operation": "authorize", "outcome": "done", "code": null, "asked_at": null, "answered_at": null},
            {"operation": "capture", "outcome": "done", "code": null, "asked_at": null, "answered_at": null},
        ],
    });
    assert_eq!(body, wanted);
}

#[tokio::test]
async fn an_open_call_and_a_refused_one_are_told_apart() {
    let provider = Scripted::new([None]);
    let house = House::open(provider.provider(), skald_payment::Config { timeout_ms: 60_000, ..quick() }).await;
    house.deliver([authorize(1, "t")]).await;
    let (_, body) = Door::of(&house).get(&path(1), Some((customer(1), Role::Customer))).await;
    assert_eq!(body["status"], "pending");
    assert_eq!(body["operations"][0]["outcome"], "open");
    assert_eq!(body["operations"][0]["answered_at"], Value::Null);

    let house = House::open(skald_payment::provider::Provider::BuiltIn, quick()).await;
    house.deliver([authorize(1, "tok_declined")]).await;
    house.tells(order(1), "authorize? declined:card_declined").await;
    let (_, body) = Door::of(&house).get(&path(1), Some((customer(1), Role::Customer))).await;
    assert_eq!(body["status"], "declined");
    assert_eq!(body["operations"][0]["outcome"], "refused");
    assert_eq!(body["operations"][0]["code"], "card_declined");
}

#[tokio::test]
async fn only_the_customer_and_operators_see_a_payment() {
    let house = House::open(Scripted::new([]).provider(), quick()).await;
    house.deliver([authorize(1, "t"), void(2)]).await;
    let door = Door::of(&house);
    assert_eq!(door.get(&path(1), None).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(door.get(&path(1), Some((customer(1), Role::Customer))).await.0, StatusCode::OK);
    let (status, body) = door.get(&path(1), Some((customer(9), Role::Customer))).await;
    assert_eq!((status, &body["code"]), (StatusCode::NOT_FOUND, &json!("not_found")));
    for role in [Role::Operator, Role::Admin] {
        assert_eq!(door.get(&path(1), Some((customer(9), role))).await.0, StatusCode::OK);
    }
    // A tombstone is nobody's.
    assert_eq!(door.get(&path(2), Some((customer(2), Role::Customer))).await.0, StatusCode::NOT_FOUND);
    let (status, body) = door.get(&path(2), Some((customer(2), Role::Operator))).await;
    assert_eq!((status, &body["status"], &body["amount"]), (StatusCode::OK, &json!("voided"), &Value::Null));
}

#[tokio::test]
async fn what_is_not_there_or_no_id_is_not_found() {
    let house = House::open(Scripted::new([]).provider(), quick()).await;
    let door = Door::of(&house);
    for path in [path(77), "/v1/payments/nonsense".to_owned()] {
        assert_eq!(door.get(&path, Some((customer(1), Role::Operator))).await.0, StatusCode::NOT_FOUND, "{path}");
    }
}
