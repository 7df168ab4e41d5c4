//! `GET /v1/notifications` through the real door: whose notifications one sees, and in which pages.
//!
//! Never here: how they come to be (`tests/delivery.rs`).

// Each test binary uses its own part of it.
#[allow(dead_code, reason = "each test binary uses its part")]
mod common;

use std::time::Duration;

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode, header},
};
use common::{House, Scripted, confirmed, confirmed_for, customer, order, quick};
use contract::CustomerId;
use eventlog::Env;
use http_body_util::BodyExt;
use kit::auth::{Role, Signer, Verifier};
use serde_json::{Value, json};
use tower::ServiceExt;

const DELIVERED: &str = "SELECT COUNT(*) FROM notifications WHERE status = 'delivered'";

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
        let services = vec![("notification", house.service().routes.clone())];
        let (metrics, health) = (kit::Metrics::new(), Vec::new());
        let config = kit::http::AppConfig { title: "notification", services, verifier, metrics, health, env };
        Self { app: kit::http::app(config), signer }
    }

    async fn get(&self, query: &str, caller: Option<(CustomerId, Role)>) -> (StatusCode, Value) {
        let mut request = Request::get(format!("/v1/notifications{query}"));
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

fn orders(body: &Value) -> Vec<String> {
    let items = body["items"].as_array().unwrap();
    items.iter().map(|item| item["order_id"].as_str().unwrap().to_owned()).collect()
}

fn names(numbers: impl IntoIterator<Item = u128>) -> Vec<String> {
    numbers.into_iter().map(|number| order(number).to_string()).collect()
}

#[tokio::test]
async fn customers_see_their_own_and_operators_see_all() {
    let house = House::open(Scripted::new([]), quick()).await;
    house.deliver([confirmed(1), confirmed(2)]).await;
    house.counts(DELIVERED, 2).await;
    let door = Door::of(&house);
    assert_eq!(door.get("", None).await.0, StatusCode::UNAUTHORIZED);
    let (status, mut body) = door.get("", Some((customer(1), Role::Customer))).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert!(body["items"][0]["id"].take().is_string());
    assert!(body["items"][0]["created_at"].take().as_str().unwrap().ends_with('Z'));
    let item = json!({
        "id": null,
        "order_id": order(1).to_string(),
        "template": "order_confirmed",
        "subject": "Your order is confirmed",
        "body": format!("Thank you. Your order {} is confirmed; we took 19.99 EUR.", order(1)),
        "status": "delivered",
        "attempts": 1,
        "reason": null,
        "created_at": null,
    });
    assert_eq!(body, json!({"items": [item], "next": null}));
    for role in [Role::Operator, Role::Admin] {
        assert_eq!(orders(&door.get("", Some((customer(9), role))).await.1).len(), 2);
    }
    assert_eq!(orders(&door.get("", Some((customer(9), Role::Customer))).await.1), [""; 0]);
}

#[tokio::test]
async fn pages_are_newest_first_and_lead_to_each_other() {
    let house = House::open(Scripted::new([]), quick()).await;
    // One transaction each, a millisecond apart, so that their ids have an order.
    for number in 1..=5 {
        let began = house.log().env().now();
        house.deliver([confirmed_for(number, 1), confirmed_for(100 + number, 2)]).await;
        while house.log().env().now().since(began) < Duration::from_millis(2) {
            tokio::task::yield_now().await;
        }
    }
    house.counts(DELIVERED, 10).await;
    let door = Door::of(&house);
    let caller = Some((customer(1), Role::Customer));
    let (_, first) = door.get("?limit=2", caller).await;
    assert_eq!(orders(&first), names([5, 4]));
    let (_, second) = door.get(&format!("?limit=2&cursor={}", first["next"].as_str().unwrap()), caller).await;
    assert_eq!(orders(&second), names([3, 2]));
    let (_, last) = door.get(&format!("?limit=2&cursor={}", second["next"].as_str().unwrap()), caller).await;
    assert_eq!((orders(&last), &last["next"]), (names([1]), &Value::Null));
    let (_, all) = door.get("?limit=100", Some((customer(9), Role::Operator))).await;
    assert_eq!(orders(&all).len(), 10);
}

#[tokio::test]
async fn a_wrong_limit_and_an_unreadable_cursor_are_refused() {
    let house = House::open(Scripted::new([]), quick()).await;
    let door = Door::of(&house);
    for query in ["?limit=0", "?limit=101", "?limit=x", "?cursor=x"] {
        let (status, body) = door.get(query, Some((customer(1), Role::Customer))).await;
        assert_eq!((status, &body["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("invalid")), "{query}");
    }
}
