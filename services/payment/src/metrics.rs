//! What is measured of the payment provider.
//!
//! Never here: ids as labels. From here Prometheus reads `payment_provider_seconds`.

use std::time::Duration;

use contract::payment::Operation;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, histogram::Histogram},
};

use crate::provider::Answer;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    operation: &'static str,
    /// `definitive` or `unknown`.
    outcome: &'static str,
}

/// Seconds, up to the default timeout of a call and past it.
const BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 2.5, 5.0];

/// The provider's answers, by operation and outcome.
#[derive(Clone)]
pub(crate) struct Metrics(Family<Asked, Histogram>);

impl Metrics {
    pub(crate) fn new(metrics: &kit::Metrics) -> Self {
        let seconds = Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram);
        metrics.register("payment_provider_seconds", "Time until the payment provider answered, or did not", seconds.clone());
        Self(seconds)
    }

    pub(crate) fn answered(&self, operation: Operation, answer: &Answer, took: Duration) {
        let outcome = match answer {
            Answer::Definitive(_) => "definitive",
            Answer::Unknown(_) => "unknown",
        };
        self.0.get_or_create(&Asked { operation: operation.as_str(), outcome }).observe(took.as_secs_f64());
    }
}
