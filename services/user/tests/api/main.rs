//! The user service from outside: the real router on a fresh database.

mod house;
mod roles;
mod sessions;
mod text;

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use contract::{CustomerId, topics};
use eventlog::testing::{TestClock, TestDatabase};
use kit::{Secret, auth::Role};
use serde_json::{Value, json};
use skald_user as user;
use user::{Config, FirstAdmin};

use crate::house::{EMAIL, House, PASSWORD, SOON, cheap, futures, house, house_in, house_of, house_seeded};

#[tokio::test]
async fn a_customer_registers_logs_in_and_reads_their_profile() {
    let house = house().await;
    let registered = house.register("Ann@Example.com").await;
    assert_eq!(registered.status, StatusCode::CREATED, "{}", registered.body);
    assert_eq!((registered.text("email").as_str(), registered.text("role").as_str()), (EMAIL, "customer"));
    assert!(!registered.body.contains("argon2"));

    let tokens = house.login("ANN@example.COM", PASSWORD).await;
    assert_eq!(tokens.status, StatusCode::OK);
    assert_eq!((tokens.text("token_type").as_str(), tokens.json()["expires_in"].as_i64()), ("Bearer", Some(900)));
    assert_eq!(tokens.headers["cache-control"], "no-store");
    let caller = house.verifier.verify(&tokens.text("access_token")).unwrap();
    assert_eq!((caller.id.to_string(), caller.role), (registered.text("id"), Role::Customer));

    let profile = house.call("GET", "/v1/profile", Some(&tokens.text("access_token")), None).await;
    assert_eq!(profile.json(), registered.json());
    house.call("GET", "/v1/profile", None, None).await.is_problem(401, "unauthorized");
}

#[tokio::test]
async fn an_address_has_one_account_however_it_is_written() {
    let house = house().await;
    house.register(EMAIL).await;
    house.register(EMAIL).await.is_problem(409, "email_taken");
    house.register("ANN@EXAMPLE.COM").await.is_problem(409, "email_taken");
}

#[tokio::test]
async fn of_many_registrations_of_one_address_at_once_one_wins() {
    let house = house().await;
    let answers = futures(20, |_| house.register(EMAIL)).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == StatusCode::CREATED).count(), 1);
    assert_eq!(answers.iter().filter(|answer| answer.status == StatusCode::CONFLICT).count(), 19);
}

#[tokio::test]
async fn what_is_wrong_with_a_registration_is_told_field_by_field() {
    let house = house().await;
    let answer = house.post("/v1/register", json!({"email": "x", "password": "short", "name": ""})).await;
    assert_eq!(answer.wrong_fields(), ["email", "password", "name"]);
    let long = "x".repeat(129);
    let answer = house.post("/v1/register", json!({"email": EMAIL, "password": long, "name": "A"})).await;
    assert_eq!(answer.wrong_fields(), ["password"]);
    let answer = house.post("/v1/register", json!({"email": EMAIL, "password": PASSWORD, "name": "A", "role": "admin"})).await;
    assert_eq!(answer.wrong_fields(), ["role"]);
    let answer = house.post("/v1/register", json!({"email": EMAIL, "password": PASSWORD, "name": "A\0"})).await;
    answer.is_problem(422, "invalid");
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_account_look_the_same() {
    let house = house().await;
    house.register(EMAIL).await;
    let (wrong, unknown) = (house.login(EMAIL, "not the password").await, house.login("bob@example.com", PASSWORD).await);
    wrong.is_problem(401, "invalid_credentials");
    unknown.is_problem(401, "invalid_credentials");
    assert_eq!(wrong.text("detail"), unknown.text("detail"));
}

#[tokio::test]
async fn ten_failed_logins_of_an_account_make_it_wait_and_an_unknown_one_too() {
    let house = house().await;
    house.register(EMAIL).await;
    for email in [EMAIL, "nobody@example.com"] {
        for _ in 0..10 {
            house.login(email, "not the password").await.is_problem(401, "invalid_credentials");
        }
        let limited = house.login(email, PASSWORD).await;
        limited.is_problem(429, "too_many_logins");
        assert_eq!(limited.headers["retry-after"], "900");
    }
    house.forward(Duration::from_secs(900));
    assert_eq!(house.login(EMAIL, PASSWORD).await.status, StatusCode::OK);
}

#[tokio::test]
async fn failed_logins_at_once_are_no_way_round_the_limit() {
    let house = house().await;
    house.register(EMAIL).await;
    let answers = futures(40, |_| house.login(EMAIL, "not the password")).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == StatusCode::UNAUTHORIZED).count(), 10);
}

#[tokio::test]
async fn a_hundred_failed_logins_from_an_address_make_it_wait_and_no_other() {
    let house = house().await;
    house.register(EMAIL).await;
    let answers = futures(100, |number| house.login_from_owned(format!("{number}@example.com"), [10, 0, 0, 1])).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::UNAUTHORIZED));
    house.login_from(EMAIL, PASSWORD, [10, 0, 0, 1]).await.is_problem(429, "too_many_logins");
    assert_eq!(house.login_from(EMAIL, PASSWORD, [10, 0, 0, 2]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_address_registers_so_often_and_then_waits_and_no_other_does() {
    let house = house_of(Config { registrations_per_address: 3, ..cheap() }).await;
    let register = |number: usize, address| {
        let account = json!({"email": format!("ann{number}@example.com"), "password": PASSWORD, "name": "Ann"}).to_string();
        let request = Request::post("/v1/register").header("content-type", "application/json").body(Body::from(account)).unwrap();
        house.send(request, address)
    };
    for number in 0..3 {
        assert_eq!(register(number, [1, 2, 3, 4]).await.status, StatusCode::CREATED);
    }
    let limited = register(3, [1, 2, 3, 4]).await;
    limited.is_problem(429, "too_many_registrations");
    assert_eq!(limited.headers["retry-after"], "900");
    assert_eq!(register(3, [1, 2, 3, 5]).await.status, StatusCode::CREATED);
    assert_eq!(house.login_from("ann0@example.com", PASSWORD, [1, 2, 3, 4]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn logins_that_succeed_are_not_limited() {
    let house = house().await;
    house.register(EMAIL).await;
    let answers = futures(150, |_| house.login(EMAIL, PASSWORD)).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK));
}

#[tokio::test]
async fn a_profile_changes_its_name_freely_and_its_address_and_password_by_password() {
    let house = house().await;
    house.register(EMAIL).await;
    house.register("bob@example.com").await;
    let login = house.login(EMAIL, PASSWORD).await;
    let token = login.text("access_token");
    let patch = async |body: Value| house.call("PATCH", "/v1/profile", Some(&token), Some(body)).await;

    assert_eq!(patch(json!({"name": " Anna "})).await.text("name"), "Anna");
    assert_eq!(patch(json!({})).await.text("name"), "Anna");
    assert_eq!(patch(json!({"email": "anna@example.com"})).await.wrong_fields(), ["current_password"]);
    let wrong = json!({"email": "anna@example.com", "current_password": "not the password"});
    assert_eq!(patch(wrong).await.wrong_fields(), ["current_password"]);
    patch(json!({"email": "bob@example.com", "current_password": PASSWORD})).await.is_problem(409, "email_taken");
    let moved = patch(json!({"email": "Anna@example.com", "current_password": PASSWORD})).await;
    assert_eq!(moved.text("email"), "anna@example.com");
    assert_eq!(house.register(EMAIL).await.status, StatusCode::CREATED, "the old address is free");

    let changed = patch(json!({"password": "another horse battery", "current_password": PASSWORD})).await;
    assert_eq!(changed.status, StatusCode::OK);
    house.refresh(&login.text("refresh_token")).await.is_problem(401, "invalid_refresh_token");
    house.login("anna@example.com", PASSWORD).await.is_problem(401, "invalid_credentials");
    assert_eq!(house.login("anna@example.com", "another horse battery").await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_log_tells_who_and_never_a_person() {
    let house = house().await;
    let id = house.register(EMAIL).await.text("id");
    let token = house.login(EMAIL, PASSWORD).await.text("access_token");
    house.call("PATCH", "/v1/profile", Some(&token), Some(json!({"name": "Ann Example"}))).await;
    let rows = house.log.stream(&format!("user-{id}"), 1).await.unwrap();
    let kinds: Vec<&str> = rows.iter().map(|row| row.kind.as_str()).collect();
    assert_eq!(kinds, ["user.UserRegistered", "user.ProfileChanged"]);
    for row in rows {
        assert_eq!((row.topic.as_deref(), row.key.as_deref()), (Some(topics::USER_EVENTS), Some(id.as_str())));
        assert_eq!(row.meta.actor, Some(format!("customer:{id}")));
        assert_eq!(row.meta.trace.id().map(str::len), Some(32));
        assert!(!row.data.contains("nn"), "{}", row.data);
    }
}

#[tokio::test]
async fn tokens_and_accounts_outlive_a_restart() {
    let house = house().await;
    house.register(EMAIL).await;
    let tokens = house.login(EMAIL, PASSWORD).await;
    let keys = house.call("GET", "/.well-known/jwks.json", None, None).await.json();
    let house = house.restarted(cheap()).await;
    assert!(house.first_admin.is_none(), "there is one from before");
    assert!(house.verifier.verify(&tokens.text("access_token")).is_ok());
    assert_eq!(house.refresh(&tokens.text("refresh_token")).await.status, StatusCode::OK);
    assert_eq!(house.call("GET", "/.well-known/jwks.json", None, None).await.json(), keys);
}

#[tokio::test]
async fn keys_rotate_to_the_one_that_was_published_ahead_also_while_serving() {
    let house = house().await;
    let kids = async || {
        let keys = house.call("GET", "/.well-known/jwks.json", None, None).await.json();
        keys["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let before = kids().await;
    assert_eq!(before.len(), 2);
    house.register(EMAIL).await;
    house.forward(Duration::from_secs(30 * 86_400 - 60));
    let token = house.login(EMAIL, PASSWORD).await.text("access_token");
    let rotated = tokio::time::timeout(SOON, async {
        while kids().await.len() < 3 {
            house.forward(Duration::from_secs(60));
            tokio::task::yield_now().await;
        }
    });
    rotated.await.expect("housekeeping rotates the keys");
    let after = kids().await;
    assert_eq!(after[0], before[1]);
    assert!(after.contains(&before[0]), "what the retired key signed holds until it expires");
    let by_new = house.login(EMAIL, PASSWORD).await.text("access_token");
    assert!(house.verifier.verify(&by_new).is_ok());
    house.forward(Duration::from_secs(900));
    assert!(house.verifier.verify(&token).is_err(), "it expired meanwhile");
}

/// SQLite has one process a database; PostgreSQL many replicas.
#[tokio::test]
async fn replicas_that_start_together_have_one_admin_and_the_same_keys_also_after_these_rotate() {
    for seed in 0..8_u64 {
        let (database, clock) = (Arc::new(TestDatabase::fresh().await), TestClock::start());
        if matches!(database.database, eventlog::Database::Sqlite(_)) {
            return;
        }
        let config = |replica: bool| Config { admin_email: format!("admin-{}@example.com", u8::from(replica)), ..cheap() };
        let start = |replica: bool| house_seeded(database.clone(), clock.clone(), config(replica), seed * 2 + u64::from(replica));
        let (one, two) = tokio::join!(start(false), start(true));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_ne!(one.first_admin.is_some(), two.first_admin.is_some(), "one of them made an admin");
        let keys = async |house: &House| house.call("GET", "/.well-known/jwks.json", None, None).await.json();
        let before = keys(&one).await;
        assert_eq!(before, keys(&two).await);
        assert_eq!(before["keys"].as_array().unwrap().len(), 2);
        one.register(EMAIL).await;
        for (signs, verifies) in [(&one, &two), (&two, &one)] {
            assert!(verifies.verifier.verify(&signs.login(EMAIL, PASSWORD).await.text("access_token")).is_ok());
        }

        let token = one.login(EMAIL, PASSWORD).await.text("refresh_token");
        let (first, second) = tokio::join!(one.refresh(&token), two.refresh(&token));
        assert_eq!((first.status, second.status), (StatusCode::OK, StatusCode::OK), "two tabs of one person");
        assert_eq!(first.text("refresh_token"), second.text("refresh_token"), "one token has one successor");

        clock.advance(Duration::from_secs(30 * 86_400));
        let rotated = tokio::time::timeout(SOON, async {
            while keys(&one).await == before || keys(&one).await != keys(&two).await {
                clock.advance(Duration::from_secs(1));
                tokio::task::yield_now().await;
            }
        });
        rotated.await.expect("both go over to the same keys");
        for (signs, verifies) in [(&one, &two), (&two, &one)] {
            assert!(verifies.verifier.verify(&signs.login(EMAIL, PASSWORD).await.text("access_token")).is_ok());
        }
    }
}

#[tokio::test]
async fn the_first_admin_is_made_once_with_a_password_of_its_own() {
    let house = house().await;
    let FirstAdmin { email, password } = house.first_admin.as_ref().unwrap();
    let login = house.login(email, password).await;
    let caller = house.verifier.verify(&login.text("access_token")).unwrap();
    assert_eq!((caller.role, email.as_str()), (Role::Admin, "admin@localhost"));
}

#[tokio::test]
async fn the_first_admin_may_come_from_the_configuration() {
    let config = |password: &str| Config {
        admin_email: "Boss@Example.com".into(),
        admin_password: Some(Secret(password.into())),
        ..cheap()
    };
    let house = house_of(config(PASSWORD)).await;
    assert!(house.first_admin.is_none(), "whoever set the password knows it");
    assert_eq!(house.login("boss@example.com", PASSWORD).await.status, StatusCode::OK);
    let house = house.restarted(config("some other password")).await;
    assert_eq!(house.login("boss@example.com", PASSWORD).await.status, StatusCode::OK, "only the first one is");

    let clock = TestClock::start();
    let refused = house_in(TestDatabase::fresh().await, clock, config("short")).await;
    assert!(matches!(refused, Err(user::Error::Admin(why)) if why.contains("12 to 128")));
}

#[tokio::test]
async fn signing_keys_that_lay_open_are_encrypted_once_there_is_a_key_file_and_need_it_from_then_on() {
    let clock = TestClock::start();
    let with = |text: Option<&str>| Config { signing_key_file: text.map(|text| Secret(text.to_owned())), ..cheap() };
    let house = house_in(TestDatabase::fresh().await, clock.clone(), with(None)).await.unwrap();
    house.register(EMAIL).await;
    let token = house.login(EMAIL, PASSWORD).await.text("access_token");
    let database = house.database.clone();
    house.stop().await;
    for (seed, file) in [(2, "one key file"), (3, "one key file")] {
        let again = house_seeded(database.clone(), clock.clone(), with(Some(file)), seed).await.unwrap();
        assert_eq!(again.call("GET", "/v1/profile", Some(&token), None).await.status, StatusCode::OK, "the same keys");
        again.stop().await;
    }
    for (seed, file, said) in [(4, None, "--signing-key-file"), (5, Some("another key file"), "another file")] {
        let refused = house_seeded(database.clone(), clock.clone(), with(file), seed).await;
        assert!(matches!(refused, Err(user::Error::Seeds(why)) if why.contains(said)), "{said}");
    }
}

#[tokio::test]
async fn an_account_that_is_gone_has_no_profile() {
    let house = house().await;
    let other = house_of(cheap()).await;
    let id = other.register(EMAIL).await.text("id");
    assert!(id.parse::<CustomerId>().is_ok());
    let foreign = other.login(EMAIL, PASSWORD).await.text("access_token");
    house.call("GET", "/v1/profile", Some(&foreign), None).await.is_problem(401, "unauthorized");
}

#[tokio::test]
async fn the_service_is_healthy_counts_logins_and_documents_every_route() {
    let house = house().await;
    house.register(EMAIL).await;
    house.login(EMAIL, PASSWORD).await;
    house.login(EMAIL, "not the password").await;
    let health = house.call("GET", "/health", None, None).await;
    assert_eq!(health.json()["checks"], json!([{"name": "user", "status": "ok"}]));
    let metrics = house.call("GET", "/metrics", None, None).await.body;
    for line in [r#"user_logins_total{outcome="succeeded"} 1"#, r#"user_logins_total{outcome="failed"} 1"#] {
        assert!(metrics.contains(line), "{metrics}");
    }
    let document = house.call("GET", "/openapi.json", None, None).await.json();
    for (path, method) in [
        ("/v1/register", "post"),
        ("/v1/login", "post"),
        ("/v1/refresh", "post"),
        ("/v1/logout", "post"),
        ("/v1/profile", "get"),
        ("/v1/profile", "patch"),
        ("/.well-known/jwks.json", "get"),
        ("/v1/users", "get"),
        ("/v1/users/{id}/role", "patch"),
    ] {
        assert!(document["paths"][path][method]["summary"].is_string(), "{method} {path}");
    }
}
