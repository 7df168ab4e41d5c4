//! What surrounds every request: trace and span, body bound, deadline, panic, problem, metrics, one log line.
//!
//! Never here: anything of one route. One function and no tower of layers, as the hot path is 2,000 orders a second.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{
    body::{Body, HttpBody},
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use contract::Timestamp;
use eventlog::{Env, Span, SpanKind};
use futures_util::{FutureExt, StreamExt};
use tracing::Instrument;

use super::{
    Problem, Stopping,
    arriving::Awaited,
    extract,
    room::{Room, is_stream},
    serve::OverWire,
};
use crate::{
    auth::Verifier,
    metrics::{HttpMetrics, Route},
    propagation::{self, Arrival},
    tasks::panic_text,
};

/// How long a handler may take until its answer's head; what it streams after that takes as long as it takes.
const HANDLER_DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Around {
    pub room: Room,
    pub env: Env,
    pub verifier: Verifier,
    pub metrics: HttpMetrics,
    /// Paths as routed, such as `/v1/orders/{id}`, and whose they are.
    pub routes: HashMap<String, Route>,
    /// What has no path here: unknown ones.
    pub unknown: Route,
}

pub(crate) async fn around(State(around): State<Arc<Around>>, mut request: Request, next: Next) -> Response {
    let started = around.env.now();
    let arrival = propagation::arrive(request.headers(), &around.env);
    let trace_id = arrival.own.id().unwrap_or_default().to_owned();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let route = request.extensions().get::<MatchedPath>().and_then(|path| around.routes.get(path.as_str()));
    let route = route.unwrap_or(&around.unknown).clone();
    let is_personal = request.headers().contains_key(header::AUTHORIZATION) || !matches!(method, Method::GET | Method::HEAD);
    let stopping = request.extensions().get::<Stopping>().cloned();
    request.extensions_mut().insert(arrival.own.clone());
    request.extensions_mut().insert(around.verifier.clone());

    let is_told = around.env.observer().is_some() && arrival.own.is_sampled() && route.is_of_a_service();
    let host =
        request.headers().get(header::HOST).filter(|_| is_told).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    let span = tracing::info_span!("request", trace.id = %trace_id, http.method = %method, http.path = %path);
    // Probes are answered however much is under way.
    let entered = if route.is_of_a_service() { around.room.enter(&request).map(Some) } else { Ok(None) };
    let response = match entered {
        Err(problem) => problem.into_response(),
        Ok(entered) => {
            let handled = AssertUnwindSafe(handle(&around.env, request, next)).catch_unwind().instrument(span.clone());
            let response = handled.await.unwrap_or_else(|panic| {
                span.in_scope(|| tracing::error!(panic = panic_text(&*panic), "a handler panicked"));
                Problem::internal().into_response()
            });
            match entered {
                None => response,
                Some(entered) => around.room.leave(response, &method, entered).unwrap_or_else(IntoResponse::into_response),
            }
        }
    };
    let problem = response.extensions().get::<Problem>().map(|problem| problem.code);
    let response = guarded(streamed(in_our_words(response, &path, &trace_id), stopping), is_personal);

    let took = around.env.now().since(started);
    let status = response.status();
    around.metrics.answered(&route, method_label(&method), status, took, &arrival.own);
    if let Some(observer) = around.env.observer().filter(|_| is_told) {
        let mut told = told(&route, &method, &path, status, arrival, started, took);
        told.attributes.extend(problem.map(|code| ("problem.code", code.into())));
        if let Some(host) = host {
            told.attributes.push(("server.address", host.host().into()));
            told.attributes.extend(host.port_u16().map(|port| ("server.port", i64::from(port).into())));
        }
        observer.told(route.job(), told);
    }
    span.in_scope(|| {
        if status.is_server_error() {
            tracing::info!(http.status = status.as_u16(), took_us = took.as_micros() as u64, "answered");
        } else {
            tracing::debug!(http.status = status.as_u16(), took_us = took.as_micros() as u64, "answered");
        }
    });
    response
}

/// The span of a request, without its query: that may say who asks.
fn told(
    route: &Route,
    method: &Method,
    path: &str,
    status: StatusCode,
    Arrival { caller, own }: Arrival,
    begun: Timestamp,
    took: Duration,
) -> Span {
    let method = Some(method_label(method)).filter(|label| *label != "other");
    let attributes = vec![
        ("http.request.method", method.unwrap_or("_OTHER").into()),
        ("http.route", route.handler().into()),
        ("url.path", path.into()),
        ("url.scheme", "http".into()),
        ("http.response.status_code", i64::from(status.as_u16()).into()),
    ];
    Span {
        name: format!("{} {}", method.unwrap_or("HTTP"), route.handler()),
        kind: SpanKind::Server,
        trace: own,
        parent: caller,
        links: Vec::new(),
        begun,
        ended: begun.plus(took),
        attributes,
        error: status.is_server_error().then(|| status.as_u16().to_string()),
    }
}

async fn handle(env: &Env, request: Request, next: Next) -> Response {
    if let Some(problem) = misaddressed(&request) {
        return problem.into_response();
    }
    if is_encoded(request.headers()) {
        let detail = "a body is taken as it is, not compressed: send it without Content-Encoding";
        let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail);
        // RFC 9110: what would have been taken.
        return ([(header::ACCEPT_ENCODING, "identity")], problem).into_response();
    }
    let is_too_large = request.body().size_hint().lower() > extract::BODY_BYTES_MAX as u64;
    if is_too_large {
        let Err(problem) = extract::read(request.into_body()).await else {
            return Problem::of_status(StatusCode::PAYLOAD_TOO_LARGE).into_response();
        };
        return problem.into_response();
    }
    let body = Awaited::default();
    let request = request.map(|arriving| body.watch(arriving));
    let mut handling = std::pin::pin!(next.run(request));
    tokio::select! {
        biased;
        response = &mut handling => response,
        () = env.sleep(HANDLER_DEADLINE) => {
            if body.is_awaited() {
                let detail = "the body did not come in time; nothing was done";
                let problem = Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", detail);
                // What is left of the body would be taken for the next request.
                return ([(header::CONNECTION, "close")], problem).into_response();
            }
            let detail = "no answer in time; whether it was done is not known: repeat it with the same Idempotency-Key";
            Problem::unavailable(detail).coded("deadline_exceeded").into_response()
        }
    }
}

/// Every error as a problem with its trace: ours rendered again, axum's bare ones for the first time.
fn in_our_words(mut response: Response, path: &str, trace_id: &str) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let problem = match response.extensions_mut().remove::<Problem>() {
        Some(problem) => problem,
        None if is_bare(&response) => Problem::of_status(status),
        None => return response,
    };
    let mut rendered = problem.render(Some(path), Some(trace_id));
    for name in [header::ALLOW, header::ACCEPT_ENCODING, header::CONNECTION] {
        if let Some(value) = response.headers_mut().remove(&name) {
            rendered.headers_mut().insert(name, value);
        }
    }
    rendered
}

/// RFC 9112: a request of HTTP/1.1 names one host. With two, what stands between might have gone by the other one. Held against what
/// came over a connection: nobody misleads a call from within.
fn misaddressed(request: &Request) -> Option<Problem> {
    request.extensions().get::<OverWire>()?;
    let hosts = request.headers().get_all(header::HOST).iter().count();
    let is_good = hosts == 1 || (hosts == 0 && request.version() < Version::HTTP_11);
    let detail = format!("a request has one Host header, this one has {hosts}");
    (!is_good).then(|| Problem::new(StatusCode::BAD_REQUEST, "malformed", detail))
}

/// No browser guesses what an answer is; and none keeps an answer that is about somebody, which is every answer to a token, to what
/// changes something and to what went wrong. What an answer says itself of being kept holds.
fn guarded(mut response: Response, is_personal: bool) -> Response {
    let is_wrong = response.status().is_client_error() || response.status().is_server_error();
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if (is_personal || is_wrong) && !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

/// Whether the body is said to be compressed or the like, of which we undo nothing.
fn is_encoded(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(header::CONTENT_ENCODING).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    codings.map(<[u8]>::trim_ascii).any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))
}

/// No body, or a plain sentence of axum's.
fn is_bare(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_none_or(|kind| kind.starts_with("text/plain"))
}

/// An event stream never ends by itself: it ends when the process stops.
fn streamed(mut response: Response, stopping: Option<Stopping>) -> Response {
    if !is_stream(&response) {
        return response;
    }
    // A proxy that gathers an answer before it passes it on would hold each event back: nginx does, unless it is told.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    let Some(Stopping(token)) = stopping else { return response };
    response.map(|body| Body::from_stream(body.into_data_stream().take_until(token.cancelled_owned())))
}

/// Methods are free text on the wire; labels are not.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
