//! Roles that are given and taken: who may, what is recorded, and when tokens of the old one are refused.

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use contract::CustomerId;
use eventlog::testing::{TestClock, TestDatabase};
use kit::{Secret, auth::Role};
use serde_json::json;
use skald_user::Config;

use crate::house::{EMAIL, PASSWORD, cheap, house_of, house_seeded};

#[tokio::test]
async fn an_admin_gives_and_takes_roles_and_tokens_of_the_old_one_are_refused() {
    let house = house_of(Config { admin_password: Some(Secret(PASSWORD.to_owned())), ..cheap() }).await;
    let admin = house.login("admin@localhost", PASSWORD).await.text("access_token");
    let ann = house.register(EMAIL).await.text("id");
    let of_ann = house.login(EMAIL, PASSWORD).await;
    let path = format!("/v1/users/{ann}/role");
    let give = async |token: &str, path: &str, role: &str, reason: &str| {
        house.call("PATCH", path, Some(token), Some(json!({"role": role, "reason": reason}))).await
    };
    give(&of_ann.text("access_token"), &path, "admin", "I want to").await.is_problem(403, "forbidden");
    assert_eq!(house.call("GET", "/v1/users?email=ANN@example.com", Some(&admin), None).await.text("id"), ann);
    for (role, reason) in [("operator", " "), ("operator", "\u{200b}"), ("king", "why not")] {
        assert_eq!(give(&admin, &path, role, reason).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    }
    give(&admin, &format!("/v1/users/{}/role", CustomerId(uuid::Uuid::nil())), "operator", "helps")
        .await
        .is_problem(404, "not_found");

    assert_eq!(give(&admin, &path, "operator", "joins the support team").await.text("role"), "operator");
    house.call("GET", "/v1/profile", Some(&of_ann.text("access_token")), None).await.is_problem(401, "unauthorized");
    let fresh = house.refresh(&of_ann.text("refresh_token")).await.text("access_token");
    assert_eq!(house.verifier.verify(&fresh).unwrap().role, Role::Operator);
    let newest = house.log.stream(&format!("user-{ann}"), 1).await.unwrap().last().cloned().unwrap();
    assert_eq!(newest.kind, "user.RoleChanged");
    assert!(newest.data.contains(r#""from":"customer","to":"operator","reason":"joins the support team""#), "{}", newest.data);
    assert!(newest.meta.actor.as_deref().is_some_and(|actor| actor.starts_with("admin:")));
    assert_eq!(house.call("GET", "/.well-known/jwks.json", None, None).await.json()["roles"][&ann], "operator");

    assert_eq!(give(&admin, &path, "customer", "left us").await.text("role"), "customer");
    house.call("GET", "/v1/profile", Some(&fresh), None).await.is_problem(401, "unauthorized");
}

#[tokio::test]
async fn the_last_admin_can_t_lose_it_also_when_two_are_taken_away_at_once() {
    let house = house_of(Config { admin_password: Some(Secret(PASSWORD.to_owned())), ..cheap() }).await;
    let admin = house.login("admin@localhost", PASSWORD).await.text("access_token");
    let me = house.call("GET", "/v1/profile", Some(&admin), None).await.text("id");
    let take = |id: String| {
        let (house, admin) = (&house, &admin);
        async move {
            let body = json!({"role": "customer", "reason": "left us"});
            house.call("PATCH", &format!("/v1/users/{id}/role"), Some(admin), Some(body)).await
        }
    };
    take(me.clone()).await.is_problem(409, "last_admin");
    let ann = house.register(EMAIL).await.text("id");
    let body = json!({"role": "admin", "reason": "takes over"});
    assert_eq!(house.call("PATCH", &format!("/v1/users/{ann}/role"), Some(&admin), Some(body)).await.status, StatusCode::OK);
    let (one, other) = futures_util::future::join(take(me), take(ann)).await;
    let codes = [one.status.as_u16(), other.status.as_u16()];
    assert!(codes == [200, 409] || codes == [409, 200] || codes == [200, 401], "{codes:?}");
}

/// Another replica learns of it from the database.
#[tokio::test]
async fn a_role_that_was_taken_away_is_known_to_other_replicas_within_a_minute() {
    let (clock, database) = (TestClock::start(), Arc::new(TestDatabase::fresh().await));
    let config = || Config { admin_password: Some(Secret(PASSWORD.to_owned())), ..cheap() };
    let one = house_seeded(database.clone(), clock.clone(), config(), 2).await.unwrap();
    let other = house_seeded(database.clone(), clock.clone(), config(), 3).await.unwrap();
    let admin = one.login("admin@localhost", PASSWORD).await.text("access_token");
    let ann = one.register(EMAIL).await.text("id");
    let of_ann = one.login(EMAIL, PASSWORD).await.text("access_token");
    assert_eq!(other.call("GET", "/v1/profile", Some(&of_ann), None).await.status, StatusCode::OK);
    let body = json!({"role": "operator", "reason": "helps"});
    assert_eq!(one.call("PATCH", &format!("/v1/users/{ann}/role"), Some(&admin), Some(body)).await.status, StatusCode::OK);
    let mut is_refused = false;
    for _ in 0..59 {
        clock.advance(Duration::from_secs(1));
        // Each look takes its time, in which the other one reads.
        for _ in 0..50 {
            let answer = other.call("GET", "/v1/profile", Some(&of_ann), None).await;
            is_refused = is_refused || answer.status == StatusCode::UNAUTHORIZED;
        }
        if is_refused {
            break;
        }
    }
    assert!(is_refused, "within a minute");
    one.stop().await;
    other.stop().await;
}
