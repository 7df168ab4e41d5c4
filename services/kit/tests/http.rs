//! The door: every extractor, every way to be refused, probes, metrics, documentation.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Extension,
    body::Body,
    http::{Request, StatusCode},
};
use common::{house, house_with, send};
use eventlog::testing::TestClock;
use skald_kit::{
    auth::Role,
    http::{Check, Stopping},
};
use tokio_util::sync::CancellationToken;

const LINE: &str = r#"{"product_id":"00000000-0000-0000-0000-000000000001","quantity":1}"#;

#[tokio::test]
async fn a_good_body_is_read() {
    let answer = house().post(format!(r#"{{"lines":[{LINE}]}}"#)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert_eq!(answer.json()["lines"][0]["quantity"], 1);
}

#[tokio::test]
async fn another_content_type_is_refused() {
    let house = house();
    for kind in ["", "text/plain", "application/x-www-form-urlencoded", "application/merge-patch+json"] {
        let answer = house.send(Request::post("/v1/things").header("content-type", kind).body(Body::from("{}")).unwrap()).await;
        assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"));
    }
    let body = Body::from(r#"{"lines":[]}"#);
    let charset = Request::post("/v1/things").header("content-type", "Application/JSON; charset=utf-8").body(body).unwrap();
    assert_eq!(house.send(charset).await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_does_not_parse_is_400() {
    let house = house();
    for body in ["", "{", "{\"lines\":[]} x", "{\"lines\":1", "nonsense", "{\"note\":\"\u{1}\"}"] {
        let answer = house.post(body).await;
        assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::BAD_REQUEST, "malformed"), "{body}");
    }
    let answer = house.post(vec![b'"', 0xff, b'"']).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn what_parses_but_is_wrong_is_422_and_names_the_field() {
    let house = house();
    let line = |text: &str| format!(r#"{{"lines":[{LINE},{text}]}}"#);
    let id = "00000000-0000-0000-0000-000000000001";
    for (body, field) in [
        (line(r#"{"product_id":"no uuid","quantity":1}"#), "lines[1].product_id"),
        (line(&format!(r#"{{"product_id":"{id}","quantity":-1}}"#)), "lines[1].quantity"),
        (line(&format!(r#"{{"product_id":"{id}","quantity":"1"}}"#)), "lines[1].quantity"),
        (line(&format!(r#"{{"product_id":"{id}"}}"#)), "lines[1]"),
        (r#"{"lines":[],"more":1}"#.into(), "more"),
        (r#"{"lines":[],"note":"a\u0000b"}"#.into(), ""),
        (r#"{"lines":1e999}"#.into(), "lines"),
        ("[]".into(), ""),
        ("null".into(), ""),
    ] {
        let answer = house.post(body.clone()).await;
        assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "invalid"), "{body}");
        assert_eq!(answer.json()["errors"][0]["field"], field, "{body}: {}", answer.body);
    }
    let escaped_backslash = house.post(r#"{"lines":[],"note":"\\u0000"}"#).await;
    assert_eq!(escaped_backslash.status, StatusCode::OK, "that is a backslash and five characters");
}

#[tokio::test]
async fn an_array_is_no_object_and_a_whole_number_is_one_however_it_is_written() {
    let house = house();
    let id = "00000000-0000-0000-0000-000000000001";
    for (body, field) in [
        (r#"[[],"a note"]"#.to_owned(), ""),
        ("[]".to_owned(), ""),
        (format!(r#"{{"lines":[["{id}",1]]}}"#), "lines[0]"),
        (format!(r#"{{"lines":[{LINE},["{id}",1]]}}"#), "lines[1]"),
    ] {
        let answer = house.post(body.clone()).await;
        assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "invalid"), "{body}");
        assert_eq!(answer.json()["errors"][0]["field"], field, "{body}: {}", answer.body);
        assert!(answer.body.contains("expected an object"), "{}", answer.body);
    }
    for (quantity, status) in [("2.0", 200), ("2e0", 200), ("2.5", 422), ("1e300", 422)] {
        let answer = house.post(format!(r#"{{"lines":[{{"product_id":"{id}","quantity":{quantity}}}]}}"#)).await;
        assert_eq!(answer.status.as_u16(), status, "{quantity}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_byte_order_mark_and_a_compressed_body_are_named_as_such() {
    let house = house();
    let marked = house.post("\u{feff}{\"lines\":[]}").await;
    assert_eq!((marked.status, marked.problem().as_str()), (StatusCode::BAD_REQUEST, "malformed"));
    assert!(marked.body.contains("byte order mark"), "{}", marked.body);
    let encoded = |coding: &str| {
        let request = Request::post("/v1/things").header("content-type", "application/json").header("content-encoding", coding);
        house.send(request.body(Body::from(r#"{"lines":[]}"#)).unwrap())
    };
    for coding in ["gzip", "br, identity", "x"] {
        let answer = encoded(coding).await;
        assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"));
        assert!(answer.body.contains("Content-Encoding") && answer.headers["accept-encoding"] == "identity", "{}", answer.body);
    }
    assert_eq!(encoded("Identity").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_the_sender_s_fault() {
    let house = house();
    let begun = futures_util::stream::iter([Ok::<_, std::io::Error>("{\"lines\":")]);
    let slow = Body::from_stream(futures_util::StreamExt::chain(begun, futures_util::stream::pending()));
    let (answer, ()) = tokio::join!(house.post(slow), async {
        tokio::task::yield_now().await;
        house.clock.advance(Duration::from_secs(31));
    });
    assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::REQUEST_TIMEOUT, "body_timeout"));
    assert_eq!(answer.header("connection"), "close");
}

#[tokio::test]
async fn no_answer_is_guessed_at_and_none_about_somebody_is_kept() {
    let house = house();
    let of_somebody = house.get_as("/v1/me", &house.token(Role::Customer)).await;
    let changed = house.post(r#"{"lines":[]}"#).await;
    let (wrong, public, page) = (house.get("/v1/nothing").await, house.get("/v1/things").await, house.get("/docs").await);
    for (answer, kept) in [(of_somebody, "no-store"), (changed, "no-store"), (wrong, "no-store"), (public, ""), (page, "")] {
        assert_eq!(
            (answer.header("x-content-type-options"), answer.header("cache-control")),
            ("nosniff", kept),
            "{}",
            answer.body
        );
    }
}

#[tokio::test]
async fn a_body_over_64_kib_is_413_with_and_without_a_declared_length() {
    let house = house();
    let body_of = |length: usize| format!(r#"{{"lines":[],"note":"{}"}}"#, "x".repeat(length - 22));
    assert_eq!(house.post(body_of(64 * 1024)).await.status, StatusCode::OK);
    for length in [64 * 1024 + 1, 3 * 1024 * 1024] {
        let answer = house.post(body_of(length)).await;
        assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::PAYLOAD_TOO_LARGE, "too_large"));
        let parts: Vec<Result<String, std::io::Error>> =
            body_of(length).as_bytes().chunks(1024).map(|part| Ok(String::from_utf8_lossy(part).into_owned())).collect();
        let answer = house.post(Body::from_stream(futures_util::stream::iter(parts))).await;
        assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::PAYLOAD_TOO_LARGE, "too_large"));
    }
}

#[tokio::test]
async fn an_id_in_the_path_that_is_no_uuid_is_404() {
    let house = house();
    assert_eq!(house.get("/v1/things/00000000-0000-0000-0000-000000000001").await.body, "00000000-0000-0000-0000-000000000001");
    for id in ["1", "x", "%00", "00000000-0000-0000-0000-00000000000g", "%ff"] {
        let answer = house.get(&format!("/v1/things/{id}")).await;
        assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::NOT_FOUND, "not_found"), "{id}");
    }
}

#[tokio::test]
async fn a_list_is_read_page_by_page() {
    let house = house();
    let (mut seen, mut path) = (Vec::new(), "/v1/things?limit=2".to_owned());
    loop {
        let page = house.get(&path).await.json();
        seen.extend(page["items"].as_array().unwrap().iter().cloned());
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/things?limit=2&cursor={next}");
    }
    assert_eq!(seen.len(), 5);
    for query in ["limit=0", "limit=101", "limit=x", "cursor=x", "q=%00", "limit=1&limit=2"] {
        let answer = house.get(&format!("/v1/things?{query}")).await;
        assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "invalid"), "{query}");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_too() {
    let house = house();
    for path in ["/", "/v1/nothing", "/docs/errors/nothing"] {
        let answer = house.get(path).await;
        assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::NOT_FOUND, "not_found"), "{path}");
        assert_eq!(answer.json()["instance"], path);
    }
    let answer = house.send(Request::delete("/v1/things").body(Body::empty()).unwrap()).await;
    assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"));
    let mut allowed: Vec<&str> = answer.header("allow").split(',').collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "POST"]);
}

#[tokio::test]
async fn a_problem_carries_its_own_members_and_retry_after_in_whole_seconds() {
    let answer = house().get("/v1/short").await;
    assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::CONFLICT, "out_of_stock"));
    assert_eq!(answer.json()["lines"], serde_json::json!([1, 2]));
    assert_eq!(answer.header("retry-after"), "2");
}

#[tokio::test]
async fn a_handler_that_panics_answers_500() {
    let answer = house().get("/v1/panic").await;
    assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::INTERNAL_SERVER_ERROR, "internal"));
    assert!(!answer.body.contains("on purpose"));
}

#[tokio::test]
async fn a_handler_that_takes_too_long_answers_503() {
    let house = house();
    let (answer, ()) = tokio::join!(house.get("/v1/never"), async { house.clock.advance(Duration::from_secs(30)) });
    assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "deadline_exceeded"));
    assert_eq!(answer.header("retry-after"), "1");
}

#[tokio::test]
async fn the_trace_context_is_taken_or_made_and_told_in_problems() {
    let house = house();
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request =
        |path: &str| Request::get(path).header("traceparent", parent).header("tracestate", "a=1").body(Body::empty()).unwrap();
    assert_eq!(house.send(request("/v1/trace")).await.body, format!("{parent} a=1"));
    assert_eq!(house.send(request("/nothing")).await.json()["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    let (one, other) = (house.get("/v1/trace").await.body, house.get("/v1/trace").await.body);
    assert_eq!(one.trim().len(), 55);
    assert_ne!(one, other);
}

#[tokio::test]
async fn probes_tell_the_state_of_each_check() {
    let is_well = Arc::new(AtomicBool::new(true));
    let probed = is_well.clone();
    let database = Check::new("database", move || {
        let is_well = probed.load(Ordering::SeqCst);
        async move { if is_well { Ok(()) } else { Err("away".to_owned()) } }
    });
    let house = house_with(TestClock::start(), vec![database]);
    for path in ["/livez", "/readyz", "/health"] {
        assert_eq!(house.get(path).await.status, StatusCode::OK, "{path}");
    }
    assert_eq!(
        house.get("/health").await.json(),
        serde_json::json!({"status": "ok", "checks": [{"name": "database", "status": "ok"}]})
    );

    is_well.store(false, Ordering::SeqCst);
    assert_eq!(house.get("/livez").await.status, StatusCode::OK);
    assert_eq!(house.get("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
    let health = house.get("/health").await;
    assert_eq!(health.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(health.json()["checks"][0], serde_json::json!({"name": "database", "status": "failing", "error": "away"}));
}

#[tokio::test]
async fn a_stopping_process_is_alive_but_not_ready() {
    let token = CancellationToken::new();
    let app = house().app.layer(Extension(Stopping(token.clone())));
    let get = |path: &str| Request::get(path).body(Body::empty()).unwrap();
    assert_eq!(send(&app, get("/readyz")).await.status, StatusCode::OK);
    token.cancel();
    let answer = send(&app, get("/readyz")).await;
    assert_eq!((answer.status, answer.json()["status"].as_str()), (StatusCode::SERVICE_UNAVAILABLE, Some("stopping")));
    assert_eq!(send(&app, get("/livez")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn requests_are_counted_by_route_and_never_by_id() {
    let house = house();
    house.get("/v1/things/00000000-0000-0000-0000-000000000001").await;
    house.get("/v1/things/1").await;
    house.get("/v1/nothing").await;
    let metrics = house.get("/metrics").await;
    assert!(metrics.header("content-type").starts_with("application/openmetrics-text"));
    for line in [
        r#"http_requests_total{job="order",handler="/v1/things/{id}",method="GET",status_class="2xx"} 1"#,
        r#"http_requests_total{job="order",handler="/v1/things/{id}",method="GET",status_class="4xx"} 1"#,
        r#"http_requests_total{job="skald",handler="unknown",method="GET",status_class="4xx"} 1"#,
        r#"http_request_duration_seconds_count{job="order",handler="/v1/things/{id}",method="GET"} 2"#,
    ] {
        assert!(metrics.body.lines().any(|found| found == line), "{line}\n{}", metrics.body);
    }
}

#[tokio::test]
async fn the_document_names_every_operation_its_service_and_the_problem() {
    let document = house().get("/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    let place = &document["paths"]["/v1/things"]["post"];
    assert_eq!((place["tags"][0].as_str(), place["summary"].as_str()), (Some("order"), Some("Places an order.")));
    let problem = &place["responses"]["default"]["content"]["application/problem+json"]["schema"]["$ref"];
    assert_eq!(problem, "#/components/schemas/Problem");
    let list = &document["paths"]["/v1/things"]["get"];
    assert_eq!(list["parameters"][0]["name"], "limit");
    for schema in ["Order", "Line", "Problem"] {
        assert!(document["components"]["schemas"][schema].is_object(), "{schema}");
    }
}

#[tokio::test]
async fn the_documentation_is_one_page_from_the_binary_under_a_strict_policy() {
    let house = house();
    for (path, kind) in [("/docs", "text/html"), ("/docs/docs.js", "text/javascript"), ("/docs/docs.css", "text/css")] {
        let answer = house.get(path).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert!(answer.header("content-type").starts_with(kind));
        assert!(answer.header("content-security-policy").starts_with("default-src 'none'; script-src 'self'"));
        assert!(!answer.body.contains("https://") && !answer.body.contains("innerHTML"), "{path}");
    }
    let page = house.get("/docs/errors/out_of_stock").await;
    assert!(page.status == StatusCode::OK && page.body.contains("Status 409"));
}
