//! Rate, errors and duration of what a service is asked, over HTTP and gRPC.

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use contract::Trace;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, exemplar::HistogramWithExemplars, family::Family, histogram::Histogram},
};

use super::{Exemplar, Metrics};

/// Whose request it is and which handler's, as labels.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    job: &'static str,
    handler: Arc<str>,
}

/// The `job` of paths that are no service's.
const OWN: &str = "skald";

impl Route {
    pub(crate) fn new(job: &'static str, handler: &str) -> Self {
        Self { job, handler: handler.into() }
    }

    /// Of probes and the like, and of paths that nobody serves.
    pub(crate) fn own(handler: &str) -> Self {
        Self::new(OWN, handler)
    }

    pub(crate) fn is_of_a_service(&self) -> bool {
        self.job != OWN
    }

    pub(crate) fn job(&self) -> &'static str {
        self.job
    }

    pub(crate) fn handler(&self) -> &str {
        &self.handler
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Requests {
    job: &'static str,
    handler: Arc<str>,
    method: &'static str,
    status_class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Seconds {
    job: &'static str,
    handler: Arc<str>,
    method: &'static str,
}

/// Seconds. From an order at full speed to the deadline of a handler.
const BUCKETS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

#[derive(Clone)]
pub(crate) struct HttpMetrics {
    requests: Family<Requests, Counter>,
    seconds: Family<Seconds, HistogramWithExemplars<Exemplar>>,
}

impl Default for HttpMetrics {
    fn default() -> Self {
        let seconds = || HistogramWithExemplars::new(BUCKETS.into_iter());
        Self { requests: Family::default(), seconds: Family::new_with_constructor(seconds) }
    }
}

impl HttpMetrics {
    pub(super) fn register(&self, metrics: &Metrics) {
        // The encoder adds `_total` to the name of a counter.
        metrics.register("http_requests", "Requests answered", self.requests.clone());
        metrics.register("http_request_duration_seconds", "Time until an answer's head", self.seconds.clone());
    }

    pub(crate) fn answered(&self, route: &Route, method: &'static str, status: StatusCode, took: Duration, trace: &Trace) {
        let status_class = match status.as_u16() {
            100..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        let (job, handler) = (route.job, route.handler.clone());
        self.requests.get_or_create(&Requests { job, handler: handler.clone(), method, status_class }).inc();
        // Probes and the like are not told of, whatever their trace says.
        let recorded = trace.recorded_id().filter(|_| route.is_of_a_service());
        let exemplar = recorded.map(|id| [("trace_id", id.to_owned())]);
        self.seconds.get_or_create(&Seconds { job, handler, method }).observe(took.as_secs_f64(), exemplar, None);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Calls {
    job: &'static str,
    method: &'static str,
    /// As gRPC writes it, such as `Ok` or `Unavailable`.
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallSeconds {
    job: &'static str,
    method: &'static str,
}

/// gRPC calls that a service answers.
#[derive(Clone)]
pub struct RpcMetrics {
    requests: Family<Calls, Counter>,
    seconds: Family<CallSeconds, Histogram, fn() -> Histogram>,
}

impl Default for RpcMetrics {
    fn default() -> Self {
        Self { requests: Family::default(), seconds: Family::new_with_constructor(|| Histogram::new(BUCKETS)) }
    }
}

impl RpcMetrics {
    pub(super) fn register(&self, metrics: &Metrics) {
        metrics.register("rpc_requests", "gRPC calls answered", self.requests.clone());
        metrics.register("rpc_request_duration_seconds", "Time until a gRPC call was answered", self.seconds.clone());
    }

    pub fn answered(&self, job: &'static str, method: &'static str, code: tonic::Code, took: Duration) {
        self.requests.get_or_create(&Calls { job, method, code: format!("{code:?}") }).inc();
        self.seconds.get_or_create(&CallSeconds { job, method }).observe(took.as_secs_f64());
    }
}
