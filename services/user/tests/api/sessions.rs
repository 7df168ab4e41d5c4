//! Sessions: how they are carried on, and that what ends them ends also what is under way.

use std::{
    num::NonZeroU32,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use eventlog::testing::{TestClock, TestDatabase};
use futures_util::FutureExt;
use kit::Secret;
use serde_json::json;
use skald_user::Config;

use crate::house::{Answered, EMAIL, House, PASSWORD, SOON, cheap, futures, house, house_of, house_seeded};

#[tokio::test]
async fn a_refresh_token_is_good_once_and_its_reuse_ends_the_family() {
    let house = house().await;
    house.register(EMAIL).await;
    let other_login = house.login(EMAIL, PASSWORD).await.text("refresh_token");
    let first = house.login(EMAIL, PASSWORD).await.text("refresh_token");
    let refreshed = house.refresh(&first).await;
    assert_eq!(refreshed.status, StatusCode::OK, "{}", refreshed.body);
    assert!(house.verifier.verify(&refreshed.text("access_token")).is_ok());
    let second = refreshed.text("refresh_token");
    assert_ne!(first, second);

    // Its answer was lost, or another tab came at the same time.
    house.forward(Duration::from_secs(9));
    assert_eq!(house.refresh(&first).await.text("refresh_token"), second);
    house.forward(Duration::from_secs(1));
    house.refresh(&first).await.is_problem(401, "invalid_refresh_token");
    house.refresh(&second).await.is_problem(401, "invalid_refresh_token");
    assert_eq!(house.refresh(&other_login).await.status, StatusCode::OK, "another login is another family");
}

#[tokio::test]
async fn of_many_refreshes_at_once_with_one_token_all_get_the_same_and_nobody_is_logged_out() {
    let house = house().await;
    house.register(EMAIL).await;
    let token = house.login(EMAIL, PASSWORD).await.text("refresh_token");
    let answers = futures(20, |_| house.refresh(&token)).await;
    let next = answers[0].text("refresh_token");
    assert!(answers.iter().all(|answer| answer.text("refresh_token") == next));
    assert_eq!(house.refresh(&next).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_refresh_token_ends_after_thirty_days_and_nonsense_is_none() {
    let house = house().await;
    house.register(EMAIL).await;
    let token = house.login(EMAIL, PASSWORD).await.text("refresh_token");
    house.forward(Duration::from_secs(30 * 86_400));
    for token in [token.as_str(), "", "nonsense"] {
        house.refresh(token).await.is_problem(401, "invalid_refresh_token");
    }
}

#[tokio::test]
async fn a_logout_ends_one_session_by_its_token_or_all_by_the_caller() {
    let house = house().await;
    house.register(EMAIL).await;
    let (one, two, three) =
        (house.login(EMAIL, PASSWORD).await, house.login(EMAIL, PASSWORD).await, house.login(EMAIL, PASSWORD).await);
    for _ in 0..2 {
        let body = json!({"refresh_token": one.text("refresh_token")});
        assert_eq!(house.post("/v1/logout", body).await.status, StatusCode::NO_CONTENT, "also again");
    }
    house.refresh(&one.text("refresh_token")).await.is_problem(401, "invalid_refresh_token");
    let two = house.refresh(&two.text("refresh_token")).await;
    assert_eq!(two.status, StatusCode::OK);

    house.call("POST", "/v1/logout", None, None).await.is_problem(401, "unauthorized");
    let all = house.call("POST", "/v1/logout", Some(&two.text("access_token")), None).await;
    assert_eq!(all.status, StatusCode::NO_CONTENT);
    for token in [two.text("refresh_token"), three.text("refresh_token")] {
        house.refresh(&token).await.is_problem(401, "invalid_refresh_token");
    }
}

/// An address that nothing else comes from.
const ELSEWHERE: [u8; 4] = [10, 0, 0, 9];

/// Polls a request from [`ELSEWHERE`] until its password is being checked: what it has read of the account it has read. For a house
/// where one attempt is all that an address has, so that an attempt under way shows by the next one being refused.
async fn until_checked(house: &House, request: &mut Pin<Box<dyn Future<Output = Answered> + '_>>) {
    house.register("probe@example.com").await;
    let deadline = tokio::time::timeout(SOON, async {
        loop {
            if let Some(answer) = request.as_mut().now_or_never() {
                panic!("it is stopped on its way, and was answered {} {}", answer.status, answer.body);
            }
            // Nothing of the request moves meanwhile, and a login that succeeds is not counted.
            let probe = house.login_from("probe@example.com", PASSWORD, ELSEWHERE).await;
            if probe.status == StatusCode::TOO_MANY_REQUESTS {
                return;
            }
        }
    });
    deadline.await.expect("its password is checked some time");
}

/// And a password takes a while to check, as it does outside of tests.
fn one_attempt_an_address() -> Config {
    Config { login_failures_per_address: 1, password_memory_kib: 8_192, password_passes: 2, ..Config::default() }
}

#[tokio::test]
async fn what_ends_all_sessions_ends_a_login_that_is_under_way() {
    let password = json!({"password": "another horse battery", "current_password": PASSWORD});
    for (method, path, body) in [("PATCH", "/v1/profile", Some(password)), ("POST", "/v1/logout", None)] {
        let house = house_of(one_attempt_an_address()).await;
        house.register(EMAIL).await;
        let token = house.login(EMAIL, PASSWORD).await.text("access_token");

        let mut login: Pin<Box<dyn Future<Output = Answered>>> = Box::pin(house.login_from(EMAIL, PASSWORD, ELSEWHERE));
        until_checked(&house, &mut login).await;
        let ended = house.call(method, path, Some(&token), body).await;
        assert!(ended.status.is_success(), "{}", ended.body);
        let login = login.await;
        if login.status == StatusCode::OK {
            // It came before, after all.
            house.refresh(&login.text("refresh_token")).await.is_problem(401, "invalid_refresh_token");
        } else {
            login.is_problem(409, "sessions_ended");
        }
    }
}

#[tokio::test]
async fn a_password_that_was_changed_changes_nothing_any_more() {
    for change in [json!({"password": "a third horse battery"}), json!({"email": "eve@example.com"})] {
        let house = house_of(one_attempt_an_address()).await;
        house.register(EMAIL).await;
        let token = house.login(EMAIL, PASSWORD).await.text("access_token");

        let mut change = change;
        change["current_password"] = json!(PASSWORD);
        let request = Request::patch("/v1/profile").header("content-type", "application/json");
        let request = request.header("authorization", format!("Bearer {token}")).body(Body::from(change.to_string())).unwrap();
        let mut late: Pin<Box<dyn Future<Output = Answered>>> = Box::pin(house.send(request, ELSEWHERE));
        until_checked(&house, &mut late).await;
        let first = json!({"password": "another horse battery", "current_password": PASSWORD});
        let first = house.call("PATCH", "/v1/profile", Some(&token), Some(first)).await;
        assert_eq!(first.status, StatusCode::OK, "{}", first.body);
        late.await.is_problem(409, "sessions_ended");
        assert_eq!(house.login(EMAIL, "another horse battery").await.status, StatusCode::OK);
    }
}

/// SQLite has one process a database; PostgreSQL many replicas.
#[tokio::test]
async fn a_session_that_one_replica_ends_is_not_carried_on_by_another() {
    let (database, clock) = (Arc::new(TestDatabase::fresh().await), TestClock::start());
    if matches!(database.database, eventlog::Database::Sqlite(_)) {
        return;
    }
    let one = house_seeded(database.clone(), clock.clone(), cheap(), 1).await.unwrap();
    let two = house_seeded(database, clock.clone(), cheap(), 2).await.unwrap();
    one.register(EMAIL).await;
    for round in 0..60 {
        let login = one.login(EMAIL, PASSWORD).await;
        let first = login.text("refresh_token");
        let second = one.refresh(&first).await.text("refresh_token");
        // Whoever shows it again sooner has lost the answer.
        clock.advance(Duration::from_secs(11));
        let ends = async {
            match round % 3 {
                0 => drop(two.call("POST", "/v1/logout", Some(&login.text("access_token")), None).await),
                1 => drop(two.post("/v1/logout", json!({"refresh_token": first})).await),
                // Shown for the second time: whoever has it stole it.
                _ => two.refresh(&first).await.is_problem(401, "invalid_refresh_token"),
            }
        };
        let (refreshed, ()) = tokio::join!(one.refresh(&second), ends);
        if refreshed.status == StatusCode::OK {
            let third = refreshed.text("refresh_token");
            one.refresh(&third).await.is_problem(401, "invalid_refresh_token");
        }
    }
}

#[test]
fn clients_that_hang_up_make_no_more_passwords_hashed_at_once() {
    let threads = Arc::new(AtomicUsize::new(0));
    let started = threads.clone();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().on_thread_start(move || _ = started.fetch_add(1, Ordering::SeqCst)).build().unwrap();
    runtime.block_on(async {
        // Costly enough that none has ended before all have begun.
        let config = Config { password_passes: 60, password_hashers: NonZeroU32::new(1), ..Config::default() };
        let config = Config { admin_password: Some(Secret(PASSWORD.into())), password_memory_kib: 8_192, ..config };
        let house = house_of(config).await;
        let before = threads.load(Ordering::SeqCst);
        for number in 0..16 {
            let email = format!("{number}@example.com");
            let mut request = Box::pin(house.register(&email));
            for _ in 0..8 {
                assert!(request.as_mut().now_or_never().is_none());
                tokio::task::yield_now().await;
            }
        }
        let more = threads.load(Ordering::SeqCst) - before;
        assert!(more <= 2, "one hasher, and {more} threads were started for 16 clients that hung up");
        assert_eq!(house.register(EMAIL).await.status, StatusCode::CREATED, "the hasher is free again");
    });
}
