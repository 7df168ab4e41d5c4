//! Requests to all five services, through the door that they have in production: every body, query, path and header.

#![no_main]

use axum::http::{StatusCode, header};
use kit::http::PageQuery;
use serde_json::Value;
use skald_fuzz::house::{Answered, HOUSE};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let house = HOUSE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let Some(request) = house.request(bytes) else { return };
    let (is_head, path) = (request.method() == "HEAD", request.uri().path().to_owned());
    let answered = house.desk.send(&house.app, request);
    assert_eq!(house.desk.tasks.panicked(), None);
    // Away or overloaded is no fault of the request; whatever else is ours is a fault of ours.
    let is_away = answered.status == StatusCode::SERVICE_UNAVAILABLE && answered.headers.contains_key(header::RETRY_AFTER);
    assert!(!answered.status.is_server_error() || is_away, "{}: {}", answered.status, text(&answered));
    match (answered.status.is_client_error() || is_away, is_head) {
        (_, true) => {}
        (true, false) => problem(&answered, &path),
        (false, false) => answer(&answered),
    }
});

fn text(answered: &Answered) -> String {
    String::from_utf8_lossy(&answered.body).into_owned()
}

/// RFC 9457, as the documentation has it.
fn problem(answered: &Answered, path: &str) {
    assert_eq!(answered.headers[header::CONTENT_TYPE], "application/problem+json", "{}", text(answered));
    let body: Value = serde_json::from_slice(&answered.body).unwrap();
    assert_eq!(body["status"], answered.status.as_u16(), "{body}");
    assert_eq!(body["type"], format!("/docs/errors/{}", body["code"].as_str().unwrap()), "{body}");
    assert_eq!((body["instance"].as_str(), body["trace_id"].as_str().map(str::len)), (Some(path), Some(32)), "{body}");
    assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
    for error in body["errors"].as_array().into_iter().flatten() {
        assert!(error["field"].is_string() && error["detail"].is_string(), "{body}");
    }
}

/// JSON where it says so, without a NUL, which PostgreSQL could not have kept; a list goes on where it says so.
fn answer(answered: &Answered) {
    assert!(!text(answered).contains("\\u0000"), "{}", text(answered));
    if answered.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json") {
        let body: Value = serde_json::from_slice(&answered.body).unwrap();
        if let Some(next) = body["next"].as_str() {
            let query = PageQuery { limit: None, cursor: Some(next.to_owned()) };
            assert!(query.page().is_ok_and(|page| page.after.is_some()), "{next}");
        }
    }
}
