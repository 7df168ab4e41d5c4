//! The API's documentation: `/openapi.json`, a page that renders it, and a page for each error code.
//!
//! Never here: what an operation means; that stands at its handler. All assets are in the binary, and nothing is inline, so
//! that the page works offline and under a strict content security policy.

mod shape;

use axum::{
    Router,
    extract::Path,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use serde_json::{Value, json};
use utoipa::openapi::OpenApi;

const PAGE: &str = include_str!("docs/docs.html");
const SCRIPT: &str = include_str!("docs/docs.js");
const STYLE: &str = include_str!("docs/docs.css");
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

pub(crate) fn routes(title: &str, documents: Vec<(&'static str, OpenApi)>) -> Router {
    let document = serde_json::to_vec(&whole(title, documents)).expect("a document has string keys only");
    let document = Bytes::from(document);
    Router::new()
        .route("/openapi.json", get(async move || asset("application/json", document)))
        .route("/docs", get(async || asset("text/html; charset=utf-8", PAGE)))
        .route("/docs/docs.js", get(async || asset("text/javascript; charset=utf-8", SCRIPT)))
        .route("/docs/docs.css", get(async || asset("text/css; charset=utf-8", STYLE)))
        .route("/docs/errors/{code}", get(error_page))
}

fn asset(kind: &'static str, body: impl IntoResponse) -> Response {
    let headers: [(HeaderName, HeaderValue); 3] = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, body).into_response()
}

fn tag(service: &str) -> Value {
    json!({ "name": service, "description": format!("What the {service} service answers") })
}

/// One document of all services: operations tagged by service, every error a problem, tokens described.
fn whole(title: &str, documents: Vec<(&'static str, OpenApi)>) -> Value {
    let mut whole = json!({
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Errors are application/problem+json (RFC 9457). Money is integer minor units. Times are RFC 3339 in UTC.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/", "description": "Where this document came from" }],
        "tags": documents.iter().map(|(service, _)| tag(service)).collect::<Vec<_>>(),
        "paths": {},
        "components": {
            "schemas": { "Problem": shape::problem_schema() },
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" } },
        },
    });
    for (service, document) in documents {
        let mut document = serde_json::to_value(document).expect("a document is JSON");
        for (path, mut item) in members(document["paths"].take()) {
            let operations =
                item.as_object_mut().into_iter().flat_map(|item| item.values_mut()).filter(|value| value.is_object());
            operations.for_each(|operation| shape::operation(operation, service));
            whole["paths"][path] = item;
        }
        for (name, schema) in members(document["components"]["schemas"].take()) {
            whole["components"]["schemas"][name] = schema;
        }
    }
    shape::drop_unused(&mut whole);
    whole
}

fn members(value: Value) -> serde_json::Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => serde_json::Map::new(),
    }
}

/// Every code of the API, with its status and what to do about it.
const CODES: &[(&str, u16, &str)] = &[
    ("admin_exists", 409, "There is an admin already; the first one is made once."),
    ("body_timeout", 408, "The body did not come in time. Nothing was done; send it again."),
    ("deadline_exceeded", 503, "No answer in time. Repeat the request with the same Idempotency-Key: it is done once."),
    ("email_taken", 409, "Somebody registered this address before. Log in."),
    ("forbidden", 403, "The token is valid, but its role may not do this."),
    ("idempotency_key_invalid", 400, "The key is 1 to 255 visible ASCII characters, bare or in double quotes."),
    ("idempotency_key_missing", 400, "This request needs an Idempotency-Key header, so that repeating it is safe."),
    ("idempotency_key_reused", 422, "The key was used with another body. Use a new key for a new request."),
    ("internal", 500, "A fault of the server. The trace id finds it in its log."),
    ("invalid", 422, "The request can be read, but some of its fields are wrong: see errors."),
    ("invalid_credentials", 401, "No account has this address and password."),
    ("invalid_refresh_token", 401, "The refresh token is unknown, expired, revoked or was used before. Log in again."),
    ("keys_unavailable", 503, "Tokens can't be checked yet. Nothing was changed; repeat it after Retry-After."),
    ("last_admin", 409, "Nobody else could give roles any more. Make somebody else an admin first."),
    ("malformed", 400, "The request can't be read, for example its body is not JSON or begins with a byte order mark."),
    ("method_not_allowed", 405, "The path has other methods: see the Allow header."),
    ("not_enough_stock", 409, "Fewer pieces are on hand than are to be taken off."),
    ("not_found", 404, "It does not exist, or it is somebody else's."),
    ("not_in_this_state", 409, "The saga is in a state in which this can't be done to it. Read it."),
    ("out_of_stock", 409, "Fewer pieces are left than asked for; the lines are named. No order was made."),
    (
        "outcome_unknown",
        503,
        "Whether it was done is not known. Repeat the request with the same Idempotency-Key: it is done once.",
    ),
    ("backlogged", 503, "Kafka is away, and too many messages wait for it. Nothing was changed; repeat it after Retry-After."),
    ("overloaded", 503, "Too many requests are waiting. Nothing was changed; repeat it after Retry-After."),
    ("price_changed", 409, "The total is not the expected one. Read the prices again."),
    ("request_in_flight", 409, "A request with this key is being served. Repeat it in a moment."),
    ("sessions_ended", 409, "The password was changed, or all sessions were ended, meanwhile. Nothing was done; log in again."),
    ("shutting_down", 503, "The server is stopping. Nothing was changed; repeat it after Retry-After."),
    ("sku_taken", 409, "Another product has this article number."),
    ("stock_check_unavailable", 503, "Stock can't be checked now. No order was made; repeat it after Retry-After."),
    ("too_large", 413, "A body has at most 64 KiB."),
    ("too_late_to_cancel", 409, "The payment is being captured or was; the order can't be cancelled any more."),
    ("too_many_logins", 429, "Too many failed logins. Come back after Retry-After."),
    ("too_many_registrations", 429, "Too many registrations from this address. Come back after Retry-After."),
    ("too_much_stock", 409, "More pieces than can be counted."),
    ("unauthorized", 401, "The access token is missing, malformed or expired."),
    ("unavailable", 503, "Something that the request needs is away. Nothing was changed; repeat it after Retry-After."),
    ("unknown_product", 422, "A product does not exist or was removed."),
    (
        "unreadable",
        503,
        "A newer build has written the order's saga; this one can't read it. Nothing was changed; repeat it later.",
    ),
    ("unsupported_media_type", 415, "A body must be application/json, and not compressed (no Content-Encoding)."),
    ("version_changed", 412, "It is not the version that If-Match names. Read it again."),
];

async fn error_page(Path(code): Path<String>) -> Response {
    let Some((code, status, text)) = CODES.iter().find(|(known, ..)| *known == code) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>{code}</title><link rel=stylesheet href=/docs/docs.css>\
         <main><h1>{code}</h1><p>Status {status}. {text}</p><p><a href=/docs>The whole API</a></p></main>"
    );
    asset("text/html; charset=utf-8", page)
}
