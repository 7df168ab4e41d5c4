//! What surrounds every request: trace and span, body bound, deadline, panic, problem, metrics, one log line.
//!
//! Never here: anything of one route. One function and no tower of layers, as the hot path is 2,000 orders a second.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{
    body::{Body, HttpBody},
    extract::{MatchedPath, Request, State},
    http::{Method, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use contract::Timestamp;
use eventlog::{Env, Span, SpanKind};
use futures_util::{FutureExt, StreamExt};
use tracing::Instrument;

use super::{
    Problem, Stopping, extract,
    room::{Room, is_stream},
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
    let response = streamed(in_our_words(response, &path, &trace_id), stopping);

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
    let is_too_large = request.body().size_hint().lower() > extract::BODY_BYTES_MAX as u64;
    if is_too_large {
        let Err(problem) = extract::read(request.into_body()).await else {
            return Problem::of_status(StatusCode::PAYLOAD_TOO_LARGE).into_response();
        };
        return problem.into_response();
    }
    tokio::select! {
        biased;
        response = next.run(request) => response,
        () = env.sleep(HANDLER_DEADLINE) => {
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
    if let Some(allow) = response.headers_mut().remove(header::ALLOW) {
        rendered.headers_mut().insert(header::ALLOW, allow);
    }
    rendered
}

/// No body, or a plain sentence of axum's.
fn is_bare(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_none_or(|kind| kind.starts_with("text/plain"))
}

/// An event stream never ends by itself: it ends when the process stops.
fn streamed(response: Response, stopping: Option<Stopping>) -> Response {
    let Some(Stopping(token)) = stopping else { return response };
    if !is_stream(&response) {
        return response;
    }
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
