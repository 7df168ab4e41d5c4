//! `traceparent` and `tracestate` of a request, in two lines: what the door makes of them, and whether it survives Kafka.

#![no_main]

use std::{cell::LazyCell, thread_local};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Request, StatusCode},
};
use contract::{Message, MessageId, Meta, Source, Timestamp, Trace, record};
use kit::{
    Metrics,
    http::{Json, Routes, Traced},
};
use skald_fuzz::{house::Desk, lines};
use utoipa_axum::routes;
use uuid::Uuid;

#[utoipa::path(get, path = "/trace", responses((status = 200)))]
async fn traced(Traced(trace): Traced) -> Json<(Option<String>, Option<String>)> {
    Json((trace.parent, trace.state))
}

thread_local! {
    static DOOR: LazyCell<(Desk, Router)> = LazyCell::new(|| {
        let desk = Desk::default();
        let router = desk.door(vec![("trace", Routes::default().routes(routes!(traced)))], Metrics::new());
        (desk, router)
    });
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (parent, state) = lines::first(bytes);
    let mut request = Request::get("/trace");
    for (name, value) in [("traceparent", Some(parent)), ("tracestate", state)] {
        let Some(value) = value else { continue };
        let Ok(value) = HeaderValue::from_bytes(value) else { return };
        request = request.header(name, value);
    }
    let request = request.body(Body::empty()).unwrap();
    let answered = DOOR.with(|door| door.0.send(&door.1, request));
    assert_eq!(answered.status, StatusCode::OK);
    let (made, kept): (Option<String>, Option<String>) = serde_json::from_slice(&answered.body).unwrap();
    let made = made.expect("every request has a trace");
    assert!(Trace::is_parent(&made), "{made}");
    match std::str::from_utf8(parent).ok().filter(|parent| Trace::is_parent(parent)) {
        // Nobody hears of a span here, so that the caller's own is passed on.
        Some(parent) => assert_eq!(made, parent),
        // Of a later version, or made here.
        None => assert!(kept.is_none() || parent.get(3..55) == made.as_bytes().get(3..55), "{kept:?} of nobody's trace"),
    }
    over_kafka(Trace { parent: Some(made), state: kept });
});

fn over_kafka(trace: Trace) {
    let message = Message {
        position: 1,
        id: MessageId(Uuid::nil()),
        stream: "stream".into(),
        version: 0,
        topic: Some("topic".into()),
        key: Some("key".into()),
        kind: "kind".into(),
        schema: 1,
        data: "{}".into(),
        time: Timestamp(0),
        meta: Meta { trace: trace.clone(), ..Meta::default() },
    };
    let source = Source { service: "order".into(), log: Uuid::nil(), epoch: 1 };
    let (read, _) = record::decode("topic", &record::encode(&message, &source, 0)).unwrap();
    assert_eq!(read.meta.trace, trace);
}
