//! The process' metrics: one registry, and those that every service has.
//!
//! Never here: metrics of one service; each registers its own. Prometheus reads them at `/metrics`. Never an id as a label.

mod log;
mod process;
mod requests;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eventlog::Log;
use futures_util::future::{BoxFuture, join_all};
use prometheus_client::{
    encoding::text,
    registry::{Metric, Registry},
};

pub use requests::RpcMetrics;
pub(crate) use requests::{HttpMetrics, Route};

/// How long whoever reads the metrics waits for what has to be looked up.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

type Look = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// The label of an exemplar: the trace of one observation.
type Exemplar = [(&'static str, String); 1];

/// The registry of one process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    looks: Arc<Mutex<Vec<Look>>>,
    http: HttpMetrics,
    rpc: RpcMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub const CONTENT_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    pub fn new() -> Self {
        let metrics =
            Self { registry: Arc::default(), looks: Arc::default(), http: HttpMetrics::default(), rpc: RpcMetrics::default() };
        metrics.http.register(&metrics);
        metrics.rpc.register(&metrics);
        metrics.with_registry(|registry| registry.register_collector(Box::new(process::Process)));
        metrics
    }

    /// Adds a metric; keep a clone of it to change it. The name of a counter is without `_total`.
    pub fn register(&self, name: impl Into<String>, help: impl Into<String>, metric: impl Metric) {
        self.with_registry(|registry| registry.register(name, help, metric));
    }

    /// Adds the metrics of a part that knows its own, such as the saga engine.
    pub fn with_registry(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut locked(&self.registry));
    }

    /// Has `look` bring metrics up to date whenever they are read: what stands in a database is asked of it then, not counted along.
    pub fn look_before_reading<F>(&self, look: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        locked(&self.looks).push(Arc::new(move || Box::pin(look())));
    }

    /// Adds what the services' event logs count, and what stands in them.
    pub fn watch_logs(&self, logs: Vec<Log>) {
        let logs: Vec<log::Watched> = logs.into_iter().map(log::Watched::new).collect();
        for watched in logs.clone() {
            self.look_before_reading(move || watched.clone().look());
        }
        self.with_registry(|registry| registry.register_collector(Box::new(log::LogCollector(logs))));
    }

    /// All metrics as OpenMetrics text, once everything that has to be looked up has been.
    pub async fn read(&self) -> String {
        let looks: Vec<Look> = locked(&self.looks).clone();
        join_all(looks.iter().map(|look| look())).await;
        let mut text = String::new();
        text::encode(&mut text, &locked(&self.registry)).expect("writing to a string does not fail");
        text
    }

    pub(crate) fn http(&self) -> HttpMetrics {
        self.http.clone()
    }

    /// Those of the gRPC calls that a service answers.
    pub fn rpc(&self) -> RpcMetrics {
        self.rpc.clone()
    }
}

/// What is looked up, if it is there in time.
pub async fn in_time<T, E>(look: impl Future<Output = Result<T, E>>) -> Option<T> {
    tokio::time::timeout(LOOK_TIMEOUT, look).await.ok()?.ok()
}

/// A registry can't be left half-changed: a panic elsewhere does not spoil it.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
