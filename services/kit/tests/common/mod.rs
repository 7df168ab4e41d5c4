//! A small service behind the real door, and a way to call it.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode},
};
use contract::CustomerId;
use ed25519_dalek::SigningKey;
use eventlog::{Env, testing::TestClock};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use skald_kit::{
    Metrics,
    auth::{Caller, Role, Signer, Verifier},
    http::{ApiResult, AppConfig, Check, Json, List, PageQuery, Path, Problem, Query, Routes, Traced},
};
use tower::ServiceExt;
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Order {
    pub lines: Vec<Line>,
    #[serde(default)]
    pub note: String,
}

#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Line {
    pub product_id: Uuid,
    pub quantity: u32,
}

#[derive(Debug, Deserialize)]
struct Filter {
    #[serde(flatten)]
    page: PageQuery,
    q: Option<String>,
}

/// Places an order.
#[utoipa::path(post, path = "/v1/things", request_body = Order, responses((status = 200, body = Order)))]
async fn place(Json(order): Json<Order>) -> Json<Order> {
    Json(order)
}

#[utoipa::path(get, path = "/v1/things", params(PageQuery), responses((status = 200, body = List<Uuid>)))]
async fn list(Query(filter): Query<Filter>) -> ApiResult<Json<List<Uuid>>> {
    let page = filter.page.page()?;
    let first = page.after.map_or(1, |id| id.as_u128() + 1);
    let ids = (first..=5).map(Uuid::from_u128).take(page.limit as usize + 1).collect();
    assert!(filter.q.is_none_or(|q| !q.contains('\0')));
    Ok(Json(List::of(ids, page.limit, |id| *id)))
}

#[utoipa::path(get, path = "/v1/things/{id}", params(("id" = Uuid, Path)), responses((status = 200)))]
async fn read(Path(id): Path<CustomerId>) -> String {
    id.to_string()
}

#[utoipa::path(get, path = "/v1/me", responses((status = 200)))]
async fn me(caller: Caller) -> String {
    caller.actor()
}

#[utoipa::path(get, path = "/v1/admin", responses((status = 200)))]
async fn admin(caller: Caller) -> ApiResult<&'static str> {
    caller.require(Role::Admin)?;
    Ok("yes")
}

#[utoipa::path(get, path = "/v1/trace", responses((status = 200)))]
async fn traced(Traced(trace): Traced) -> String {
    format!("{} {}", trace.parent.unwrap_or_default(), trace.state.unwrap_or_default())
}

#[utoipa::path(get, path = "/v1/panic", responses((status = 200)))]
async fn panics() {
    panic!("on purpose");
}

#[utoipa::path(get, path = "/v1/never", responses((status = 200)))]
async fn never() {
    std::future::pending::<()>().await;
}

#[utoipa::path(get, path = "/v1/short", responses((status = 200)))]
async fn short() -> Problem {
    Problem::conflict("out_of_stock", "too few").with("lines", vec![1, 2]).retry_after(Duration::from_millis(1_200))
}

pub fn small_service() -> Routes {
    Routes::default()
        .routes(routes!(place, list))
        .routes(routes!(read))
        .routes(routes!(me))
        .routes(routes!(admin))
        .routes(routes!(traced))
        .routes(routes!(panics))
        .routes(routes!(never))
        .routes(routes!(short))
}

pub struct House {
    pub app: Router,
    pub signer: Signer,
    pub clock: Arc<TestClock>,
}

pub fn house() -> House {
    house_with(TestClock::start(), Vec::new())
}

pub fn house_with(clock: Arc<TestClock>, health: Vec<Check>) -> House {
    let env = Env::seeded(clock.clone(), 1);
    let signer = signer("k1", 7, env.clone());
    let verifier = Verifier::new(vec![signer.public()], "skald", "skald-api", env.clone());
    let services = vec![("order", small_service())];
    let app = skald_kit::http::app(AppConfig { title: "Skald", services, verifier, metrics: Metrics::new(), health, env });
    House { app, signer, clock }
}

pub fn signer(kid: &str, seed: u8, env: Env) -> Signer {
    Signer::new(kid, &SigningKey::from_bytes(&[seed; 32]), "skald", "skald-api", env)
}

pub struct Answered {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answered {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Its code, having looked that it is a whole problem.
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.body);
        let json = self.json();
        assert_eq!(json["status"], self.status.as_u16());
        assert_eq!(json["trace_id"].as_str().map(str::len), Some(32), "{json}");
        assert!(json["instance"].as_str().is_some_and(|path| path.starts_with('/')), "{json}");
        assert!(json["title"].is_string() && json["detail"].is_string(), "{json}");
        let code = json["code"].as_str().unwrap().to_owned();
        assert_eq!(json["type"], format!("/docs/errors/{code}"));
        code
    }
}

impl House {
    pub async fn send(&self, request: Request<Body>) -> Answered {
        send(&self.app, request).await
    }

    pub async fn get(&self, path: &str) -> Answered {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub async fn get_as(&self, path: &str, token: &str) -> Answered {
        self.send(Request::get(path).header("authorization", format!("Bearer {token}")).body(Body::empty()).unwrap()).await
    }

    pub async fn post(&self, body: impl Into<Body>) -> Answered {
        self.send(Request::post("/v1/things").header("content-type", "application/json").body(body.into()).unwrap()).await
    }

    pub fn token(&self, role: Role) -> String {
        self.signer.sign(CustomerId(Uuid::from_u128(1)), role, Duration::from_secs(900))
    }
}

pub async fn send(app: &Router, request: Request<Body>) -> Answered {
    let response = app.clone().oneshot(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Answered { status, headers, body: String::from_utf8(body.to_vec()).unwrap() }
}
