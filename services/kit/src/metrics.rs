//! The process' metrics: one registry, and those of HTTP, which every service has.
//!
//! Never here: metrics of one service; each registers its own. Prometheus reads them at `/metrics`. Never an id as a label.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::http::StatusCode;
use eventlog::Log;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet, text},
    metrics::{MetricType, counter::Counter, family::Family, histogram::Histogram},
    registry::{Metric, Registry},
};

/// The registry of one process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    http: HttpMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub const CONTENT_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    pub fn new() -> Self {
        let metrics = Self { registry: Arc::default(), http: HttpMetrics::default() };
        // The encoder adds `_total` to the name of a counter.
        metrics.register("http_requests", "Requests answered", metrics.http.requests.clone());
        metrics.register("http_request_duration_seconds", "Time until an answer's head", metrics.http.seconds.clone());
        metrics
    }

    /// Adds a metric; keep a clone of it to change it. The name of a counter is without `_total`.
    pub fn register(&self, name: impl Into<String>, help: impl Into<String>, metric: impl Metric) {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner).register(name, help, metric);
    }

    /// Adds the metrics of a part that knows its own, such as the saga engine.
    pub fn with_registry(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Adds what the services' event logs count.
    pub fn watch_logs(&self, logs: Vec<Log>) {
        self.with_registry(|registry| registry.register_collector(Box::new(LogCollector(logs))));
    }

    /// All metrics as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        text::encode(&mut text, &registry).expect("writing to a string does not fail");
        text
    }

    pub(crate) fn http(&self) -> HttpMetrics {
        self.http.clone()
    }
}

/// Reads the logs when it is scraped.
#[derive(Debug)]
struct LogCollector(Vec<Log>);

impl Collector for LogCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut position = encoder.encode_descriptor("log_position", "Position of the newest row", None, MetricType::Gauge)?;
        for log in &self.0 {
            position.encode_family(&[("service", log.service())])?.encode_gauge(&*log.head().borrow())?;
        }
        let mut commits = encoder.encode_descriptor("log_commits", "Transactions committed", None, MetricType::Counter)?;
        for log in &self.0 {
            commits.encode_family(&[("service", log.service())])?.encode_counter::<NoLabelSet, _, f64>(&log.commits(), None)?;
        }
        let mut lag = encoder.encode_descriptor(
            "relay_lag_messages",
            "Rows that are not known to be published",
            None,
            MetricType::Gauge,
        )?;
        for log in self.0.iter().filter(|log| log.is_published()) {
            lag.encode_family(&[("service", log.service())])?.encode_gauge(&log.unpublished())?;
        }
        let help = "Messages that wait for a missing one";
        let mut parked = encoder.encode_descriptor("consumer_parked_messages", help, None, MetricType::Gauge)?;
        for log in &self.0 {
            parked.encode_family(&[("service", log.service())])?.encode_gauge(&log.parked())?;
        }
        let help = "Messages that came again and were skipped";
        let mut repeats = encoder.encode_descriptor("consumer_repeats", help, None, MetricType::Counter)?;
        for log in &self.0 {
            repeats.encode_family(&[("service", log.service())])?.encode_counter::<NoLabelSet, _, f64>(&log.repeats(), None)?;
        }
        let mut letters = encoder.encode_descriptor("dlq_messages", "Messages made dead letters", None, MetricType::Counter)?;
        for log in &self.0 {
            letters
                .encode_family(&[("service", log.service())])?
                .encode_counter::<NoLabelSet, _, f64>(&log.dead_letters(), None)?;
        }
        Ok(())
    }
}

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
    seconds: Family<Seconds, Histogram>,
}

impl Default for HttpMetrics {
    fn default() -> Self {
        Self { requests: Family::default(), seconds: Family::new_with_constructor(|| Histogram::new(BUCKETS)) }
    }
}

impl HttpMetrics {
    pub(crate) fn answered(&self, route: &Route, method: &'static str, status: StatusCode, took: Duration) {
        let status_class = match status.as_u16() {
            100..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        let (job, handler) = (route.job, route.handler.clone());
        self.requests.get_or_create(&Requests { job, handler: handler.clone(), method, status_class }).inc();
        self.seconds.get_or_create(&Seconds { job, handler, method }).observe(took.as_secs_f64());
    }
}
