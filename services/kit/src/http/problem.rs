//! What a caller is told when something is wrong: RFC 9457, `application/problem+json`.
//!
//! Never here: which refusal has which status; each service has its own table of that. [`super::layer`] adds what only the
//! request knows (`instance`, `trace_id`) when the answer goes out.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value};

/// The result of a handler.
pub type ApiResult<T> = Result<T, Problem>;

/// One field of a request that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Where, such as `items[0].quantity`.
    pub field: String,
    pub detail: String,
}

/// A request that was not served, and why. `code` is for programs, `detail` for people.
#[derive(Clone, Debug)]
pub struct Problem {
    pub status: StatusCode,
    pub code: &'static str,
    /// The status' own words where it is none.
    pub title: Option<String>,
    pub detail: String,
    pub errors: Vec<FieldError>,
    /// Whole seconds go out as `Retry-After`, at least one.
    pub retry_after: Option<Duration>,
    /// Members of its own, such as the lines that are out of stock. Boxed, as few problems have any.
    extra: Option<Box<Map<String, Value>>>,
}

/// How long to wait after an outage, if nothing better is known.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, title: None, detail: detail.into(), errors: Vec::new(), retry_after: None, extra: None }
    }

    /// 404: it does not exist, or it is somebody else's.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "there is no such thing, or it is not yours")
    }

    /// 401: no token, or not a valid one.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "a valid access token is needed: Authorization: Bearer <token>")
    }

    /// 403: a valid token of somebody who may not do this.
    pub fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "your role does not allow this")
    }

    /// 409: the state of things forbids it.
    pub fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    /// 422: one field is wrong.
    pub fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::unprocessable(vec![FieldError { field: field.into(), detail: detail.into() }])
    }

    /// 422: these fields are wrong.
    pub fn unprocessable(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [only] if !only.field.is_empty() => format!("{}: {}", only.field, only.detail),
            [only] => only.detail.clone(),
            _ => format!("{} fields are wrong", errors.len()),
        };
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail).with_errors(errors)
    }

    /// 503: something that this needs is away; the same request may be served soon.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail).retry_after(RETRY_AFTER)
    }

    /// 429: too many; come back after `wait`.
    pub fn too_many(code: &'static str, detail: impl Into<String>, wait: Duration) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, code, detail).retry_after(wait)
    }

    /// 500: our own fault. What it was goes to the log, never to the caller.
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "something went wrong here; the trace id finds it in the log")
    }

    /// The same under another code.
    #[must_use]
    pub fn coded(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    #[must_use]
    pub fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors;
        self
    }

    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Adds a member of its own to the body.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.extra.get_or_insert_default().insert(key.to_owned(), value.into());
        self
    }

    /// A member added by [`Problem::with`].
    pub fn extra(&self, key: &str) -> Option<&Value> {
        self.extra.as_ref()?.get(key)
    }

    /// What a bare status says when nobody said more: axum's own 404 and 405, and the like.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        let (code, detail) = match status {
            StatusCode::BAD_REQUEST => ("malformed", "the request can't be read"),
            StatusCode::NOT_FOUND => ("not_found", "there is nothing at this path"),
            StatusCode::METHOD_NOT_ALLOWED => ("method_not_allowed", "this path has other methods: see Allow"),
            StatusCode::PAYLOAD_TOO_LARGE => ("too_large", "the body is larger than 64 KiB"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => ("unsupported_media_type", "the body must be application/json"),
            status if status.is_server_error() => return Self { status, ..Self::internal() },
            _ => ("refused", "the request can't be served"),
        };
        Self::new(status, code, detail)
    }

    /// The answer, with what the request knows.
    pub(crate) fn render(&self, instance: Option<&str>, trace_id: Option<&str>) -> Response {
        let body = Rendered {
            kind: format!("/docs/errors/{}", self.code),
            title: self.title.as_deref().or(self.status.canonical_reason()).unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            instance,
            code: self.code,
            trace_id,
            errors: &self.errors,
            extra: self.extra.as_deref(),
        };
        let body = serde_json::to_vec(&body).expect("a problem has string keys only");
        let mut response = (self.status, Body::from(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Rounded up, as a caller that comes back too early is refused again.
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[derive(Serialize)]
struct Rendered<'a> {
    /// Where the code is explained; relative to the server.
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'a str>,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    extra: Option<&'a Map<String, Value>>,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.render(None, None);
        // The layer around all requests renders it again, with the request's path and trace.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<eventlog::Error> for Problem {
    fn from(error: eventlog::Error) -> Self {
        use eventlog::Error;
        let unavailable = |code, detail: &str| Self::unavailable(detail).coded(code);
        match &error {
            Error::Unavailable(_) | Error::Conflict(_) => {
                tracing::warn!(%error, "a request met a database that is away");
                Self::unavailable("the database is away or busy; nothing was changed")
            }
            Error::Overloaded => unavailable("overloaded", "too many requests are waiting; nothing was changed"),
            Error::Backlogged => unavailable("backlogged", "too many messages are waiting for Kafka; nothing was changed"),
            Error::OutcomeUnknown => {
                unavailable("outcome_unknown", "whether it was done is not known; repeat it with the same Idempotency-Key")
            }
            Error::Closed => unavailable("shutting_down", "the service is shutting down; nothing was changed"),
            // The process ends; whoever serves next has a database that is whole.
            Error::Damaged(_) => {
                tracing::error!(%error, "a request met a database that is damaged");
                Self::unavailable("the database is away; nothing was changed")
            }
            Error::Refused(_) | Error::Corrupt(_) | Error::TooLarge { .. } | Error::Missing { .. } => {
                tracing::error!(%error, "a request failed");
                Self::internal()
            }
        }
    }
}
