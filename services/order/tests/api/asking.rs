//! A request in the making, its answer, and a stream of events.
//!
//! Here too what every error must be: a problem with a trace.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, Request},
};
use contract::OrderId;
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use super::{ALICE, DEADLINE, Shop, Who};

const TOKEN_LIVES: Duration = Duration::from_secs(3_600);

/// What came back.
pub(crate) struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[track_caller]
    pub(crate) fn is(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }

    #[track_caller]
    pub(crate) fn refused(&self, status: u16, code: &str) -> &Self {
        assert_eq!((self.status, self.body["code"].as_str().unwrap_or_default()), (status, code), "{}", self.body);
        self
    }

    /// A 422 that names this field.
    #[track_caller]
    pub(crate) fn names(&self, field: &str) -> &Self {
        self.refused(422, "invalid");
        assert_eq!(self.body["errors"][0]["field"], field, "{}", self.body);
        self
    }

    pub(crate) fn id(&self) -> OrderId {
        self.body["id"].as_str().unwrap().parse().unwrap()
    }

    /// A 202 whose Location is its order.
    #[track_caller]
    pub(crate) fn accepted(&self) -> OrderId {
        self.is(202);
        assert_eq!(self.header("location"), format!("/v1/orders/{}", self.id()));
        self.id()
    }

    /// The ids of a list.
    #[track_caller]
    pub(crate) fn ids(&self) -> Vec<OrderId> {
        self.is(200);
        self.body["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().parse().unwrap()).collect()
    }
}

/// A request in the making.
pub(crate) struct Asked<'s> {
    shop: &'s Shop,
    who: Option<Who>,
    request: axum::http::request::Builder,
}

impl<'s> Asked<'s> {
    pub(crate) fn new(shop: &'s Shop, method: &str, path: &str) -> Self {
        Self { shop, who: Some(ALICE), request: Request::builder().method(method).uri(path) }
    }

    pub(crate) fn by(mut self, who: impl Into<Option<Who>>) -> Self {
        self.who = who.into();
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub(crate) fn key(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    pub(crate) async fn json(self, body: Value) -> Answer {
        self.header("content-type", "application/json").send(body.to_string()).await
    }

    pub(crate) async fn empty(self) -> Answer {
        self.send(Body::empty()).await
    }

    pub(crate) async fn send(self, body: impl Into<Body>) -> Answer {
        let (path, response) = self.respond(body.into()).await;
        let (head, body) = response.into_parts();
        let bytes = tokio::time::timeout(DEADLINE, body.collect()).await.expect("a body ends").unwrap().to_bytes();
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        let answer = Answer { status: head.status.as_u16(), headers: head.headers, body };
        if answer.status >= 400 {
            assert_eq!(answer.header("content-type"), "application/problem+json");
            assert_eq!((&answer.body["status"], &answer.body["instance"]), (&answer.status.into(), &path.into()));
            assert_eq!(answer.body["trace_id"].as_str().map(str::len), Some(32), "{}", answer.body);
        }
        answer
    }

    pub(crate) async fn text(self) -> String {
        let (_, response) = self.respond(Body::empty()).await;
        assert_eq!(response.status().as_u16(), 200);
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    /// Opens a stream of events.
    pub(crate) async fn events(self) -> Events {
        let (_, response) = self.respond(Body::empty()).await;
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Events { body: response.into_body(), text: String::new() }
    }

    async fn respond(self, body: Body) -> (String, axum::response::Response) {
        let Self { shop, who, mut request } = self;
        if let Some(who) = who {
            let token = shop.signer.sign(who.id(), who.role, TOKEN_LIVES);
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(body).unwrap();
        let path = request.uri().path().to_owned();
        let answered = tokio::time::timeout(DEADLINE, shop.running().router.clone().oneshot(request)).await;
        (path, answered.expect("an answer comes").unwrap())
    }
}

/// One Server-Sent Event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub id: String,
    pub name: String,
    pub data: Value,
}

/// A stream of events being read.
pub(crate) struct Events {
    body: Body,
    text: String,
}

impl Events {
    /// The next event; `None` when the stream has ended.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let read = read(event);
                self.text = rest.to_owned();
                match read {
                    Some(event) => return Some(event),
                    None => continue,
                }
            }
            let frame = tokio::time::timeout(DEADLINE, self.body.frame()).await.expect("the stream goes on or ends");
            let data = frame?.unwrap().into_data().unwrap();
            self.text.push_str(std::str::from_utf8(&data).unwrap());
        }
    }

    /// So many more events.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            events.push(self.next().await.expect("the stream goes on"));
        }
        events
    }

    /// Everything until the stream ends.
    pub(crate) async fn rest(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

/// `None` for a comment that only keeps the connection alive.
fn read(text: &str) -> Option<Event> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned);
    let data = serde_json::from_str(&field("data")?).unwrap();
    Some(Event { id: field("id").unwrap(), name: field("event").unwrap(), data })
}
