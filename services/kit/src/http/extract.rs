//! What handlers take out of a request. Each rejection is a [`Problem`], so that nothing answers in axum's own words.
//!
//! Never here: rules about values; a DTO's own checks are the service's. From here the value goes to the handler.

use std::{convert::Infallible, net::IpAddr, net::SocketAddr};

use axum::{
    extract::{ConnectInfo, FromRequest, FromRequestParts, OptionalFromRequest, Request},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use contract::Trace;
use http_body_util::BodyExt;
use serde::{
    Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::Value;

use super::{FieldError, Problem, strict::Strict};

/// The largest body that is read, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// How much of a body that is too large is still taken off the wire, so that its sender gets to read the answer.
const DISCARDED_BYTES_MAX: usize = 1024 * 1024;

/// A JSON body: 415 for another content type, 413 over 64 KiB, 400 where it does not parse, 422 where it parses but is wrong. An array
/// is never taken for an object.
#[derive(Clone, Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        Ok(Self(Body::from_request(request, state).await?.value))
    }
}

/// `None` where there is no body at all, which a request without a content type says.
impl<T: DeserializeOwned, S: Send + Sync> OptionalFromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, Problem> {
        if !request.headers().contains_key(header::CONTENT_TYPE) {
            return Ok(None);
        }
        <Self as FromRequest<S>>::from_request(request, state).await.map(Some)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response(),
            Err(error) => {
                tracing::error!(%error, "an answer can't be written as JSON");
                Problem::internal().into_response()
            }
        }
    }
}

/// A JSON body like [`Json`], with its bytes: the fingerprint of a request with an `Idempotency-Key`.
#[derive(Clone, Debug)]
pub struct Body<T> {
    pub value: T,
    pub raw: Bytes,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::of_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        let raw = read(request.into_body()).await?;
        let value = parse(&raw)?;
        Ok(Self { value, raw })
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

/// Reads a whole body within its bound.
pub(crate) async fn read(mut body: axum::body::Body) -> Result<Bytes, Problem> {
    let mut parts: Vec<Bytes> = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "malformed", "the body broke off"))?;
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        if length > DISCARDED_BYTES_MAX {
            break;
        }
        if length <= BODY_BYTES_MAX {
            parts.push(data);
        }
    }
    match parts.len() {
        _ if length > BODY_BYTES_MAX => Err(Problem::of_status(StatusCode::PAYLOAD_TOO_LARGE)),
        1 => Ok(parts.remove(0)),
        _ => Ok(parts.concat().into()),
    }
}

/// U+FEFF in UTF-8. Some editors put it before a text; RFC 8259 forbids it before JSON, and parsers only say that no value is there.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

fn parse<T: DeserializeOwned>(raw: &[u8]) -> Result<T, Problem> {
    if raw.starts_with(BYTE_ORDER_MARK) {
        let detail = "the body begins with a byte order mark (U+FEFF), which JSON must not: send it without";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "malformed", detail));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(raw);
    let read = T::deserialize(Strict(&mut deserializer)).and_then(|value| deserializer.end().map(|()| value));
    let value = read.map_err(|error| wrong::<T>(raw, &error))?;
    // An escaped NUL is good JSON and good UTF-8, but PostgreSQL can't store it. A plain search first: almost no body has one. Where
    // only fields that nobody asked for keep the rest from being read (a number out of range, a hundred brackets), it counts as one.
    if raw.windows(6).any(|window| window == b"\\u0000") && serde_json::from_slice(raw).map_or(true, |value| has_nul(&value)) {
        return Err(Problem::invalid("", "text must not contain NUL"));
    }
    Ok(value)
}

fn wrong<T: DeserializeOwned>(raw: &[u8], error: &serde_json::Error) -> Problem {
    // Out of range is of the category syntax there, but such a number is good JSON.
    let is_wrong = error.is_data() || error.to_string().starts_with("number out of range");
    // What is wrong may come before the place where the rest does not parse.
    let broken = serde_json::from_slice::<IgnoredAny>(raw).err();
    if let Some(error) = broken.as_ref().or_else(|| (!is_wrong).then_some(error)) {
        return Problem::new(StatusCode::BAD_REQUEST, "malformed", format!("the body is not JSON: {error}"));
    }
    // Read once more, now keeping track of where: the good case does not pay for it.
    let mut deserializer = serde_json::Deserializer::from_slice(raw);
    match serde_path_to_error::deserialize::<_, T>(Strict(&mut deserializer)) {
        Err(error) => {
            let path = error.path().to_string();
            let field = if path == "." { String::new() } else { path };
            Problem::unprocessable(vec![FieldError { field, detail: without_place(&error.inner().to_string()) }])
        }
        Ok(_) => Problem::invalid("", without_place(&error.to_string())),
    }
}

/// Without "at line 1 column 7", which says nothing where the field is named.
fn without_place(text: &str) -> String {
    text.rsplit_once(" at line ").map_or(text, |(what, _)| what).to_owned()
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(members) => members.iter().any(|(key, value)| key.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// An id from the path: 404 where it is not one, as nothing can be there.
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(id)) => Ok(Self(id)),
            Err(_) => Err(Problem::not_found()),
        }
    }
}

/// The query: 422 for anything wrong in it.
#[derive(Clone, Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        if parts.uri.query().is_some_and(|query| query.contains("%00")) {
            return Err(Problem::invalid("", "text must not contain NUL"));
        }
        match axum::extract::Query::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => {
                let text = rejection.body_text();
                let detail = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
                Err(Problem::invalid("", detail))
            }
        }
    }
}

/// The request's trace context, taken from its headers or made for it.
#[derive(Clone, Debug)]
pub struct Traced(pub Trace);

impl<S: Send + Sync> FromRequestParts<S> for Traced {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.extensions.get::<Trace>().cloned().unwrap_or_default()))
    }
}

/// The address that the request came from; `None` where there is no connection, as in a test.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub Option<IpAddr>);

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip().to_canonical())))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// Passes over what it does not know, unlike the bodies of our services.
    #[derive(Debug, Deserialize)]
    struct Lenient {
        name: String,
    }

    #[test]
    fn a_nul_is_found_whatever_else_the_body_says() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        for more in ["1", "1e999", r#""\ud800""#, &deep] {
            let with = |name: &str| parse::<Lenient>(format!(r#"{{"name":"{name}","more":{more}}}"#).as_bytes());
            assert_eq!(with("a").unwrap().name, "a", "{more}");
            assert_eq!(with("a\\u0000").unwrap_err().code, "invalid", "{more}");
        }
        assert_eq!(parse::<Lenient>(br#"{"name":"\\u0000"}"#).unwrap().name, r"\u0000");
    }
}
