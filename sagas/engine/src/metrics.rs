//! What the engine counts. Registered by the hosting service, scraped at its `/metrics`.

use std::time::Duration;

use prometheus_client::{
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use saga::{Why, Word};

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// Counters of all sagas of one process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    started: Family<Labels<1>, Counter>,
    finished: Family<Labels<2>, Counter>,
    ignored: Family<Labels<2>, Counter>,
    asked: Family<Labels<2>, Counter>,
    stuck: Family<Labels<2>, Counter>,
    duration: Family<Labels<1>, Histogram, fn() -> Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        // From one hop of the bus to a step that was asked three times.
        let duration: fn() -> Histogram =
            || Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0]);
        Self {
            started: Family::default(),
            finished: Family::default(),
            ignored: Family::default(),
            asked: Family::default(),
            stuck: Family::default(),
            duration: Family::new_with_constructor(duration),
        }
    }
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register("saga_started", "Sagas that began", self.started.clone());
        registry.register("saga_finished", "Sagas that ended, by outcome", self.finished.clone());
        registry.register("saga_ignored", "Inputs without an effect, by reason", self.ignored.clone());
        registry.register("saga_step_attempts", "Commands asked, by step", self.asked.clone());
        registry.register("saga_flagged_stuck", "Sagas that were flagged as stuck, by step", self.stuck.clone());
        registry.register("saga_duration_seconds", "From start to end", self.duration.clone());
    }

    pub(crate) fn started(&self, saga: &'static str) {
        self.started.get_or_create(&[("saga", saga)]).inc();
    }

    pub(crate) fn finished(&self, saga: &'static str, outcome: &'static str, took: Duration) {
        self.finished.get_or_create(&[("saga", saga), ("outcome", outcome)]).inc();
        self.duration.get_or_create(&[("saga", saga)]).observe(took.as_secs_f64());
    }

    pub(crate) fn ignored(&self, saga: &'static str, why: Why) {
        self.ignored.get_or_create(&[("saga", saga), ("reason", why.as_str())]).inc();
    }

    pub(crate) fn asked(&self, saga: &'static str, step: &'static str) {
        self.asked.get_or_create(&[("saga", saga), ("step", step)]).inc();
    }

    pub(crate) fn stuck(&self, saga: &'static str, step: &'static str) {
        self.stuck.get_or_create(&[("saga", saga), ("step", step)]).inc();
    }
}
