//! What the engine counts. Registered by the hosting service, scraped at its `/metrics`.

use std::time::Duration;

use contract::Trace;
use eventlog::Unit;
use prometheus_client::{
    metrics::{counter::Counter, exemplar::HistogramWithExemplars, family::Family, gauge::Gauge},
    registry::Registry,
};
use saga::{Saga, Why, Word};

use crate::Open;

type Labels<const N: usize> = [(&'static str, &'static str); N];
/// The trace of one observation.
type Exemplar = [(&'static str, String); 1];
type Durations = HistogramWithExemplars<Exemplar>;

/// Counters of all sagas of one process, and what stands in its database. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    started: Family<Labels<1>, Counter>,
    finished: Family<Labels<2>, Counter>,
    ignored: Family<Labels<2>, Counter>,
    asked: Family<Labels<2>, Counter>,
    flagged: Family<Labels<2>, Counter>,
    duration: Family<Labels<1>, Durations, fn() -> Durations>,
    in_state: Family<Labels<2>, Gauge>,
    stuck: Family<Labels<2>, Gauge>,
}

/// Seconds: from one hop of the bus to a step that was asked three times.
const BUCKETS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

impl Default for Metrics {
    fn default() -> Self {
        Self {
            started: Family::default(),
            finished: Family::default(),
            ignored: Family::default(),
            asked: Family::default(),
            flagged: Family::default(),
            duration: Family::new_with_constructor(|| HistogramWithExemplars::new(BUCKETS.into_iter())),
            in_state: Family::default(),
            stuck: Family::default(),
        }
    }
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register("saga_started", "Sagas that began", self.started.clone());
        registry.register("saga_finished", "Sagas that ended, by outcome", self.finished.clone());
        registry.register("saga_ignored", "Inputs without an effect, by reason", self.ignored.clone());
        registry.register("saga_step_attempts", "Commands asked, by step", self.asked.clone());
        registry.register("saga_flagged_stuck", "Sagas that were flagged as stuck, by step", self.flagged.clone());
        registry.register("saga_duration_seconds", "From start to end", self.duration.clone());
        registry.register("saga_in_state", "Sagas that have not ended, by state, of all replicas", self.in_state.clone());
        registry.register("saga_stuck", "Sagas that are stuck now, by step, of all replicas", self.stuck.clone());
    }

    /// Shows how many instances are where, as [`open`](crate::open) tells it; nothing while nobody knows.
    pub fn show<S: Saga>(&self, open: Option<&[Open]>) {
        let Some(open) = open else {
            self.in_state.clear();
            self.stuck.clear();
            return;
        };
        // Also where there is none: a series that comes and goes can't be told from one that was never there.
        let step = |state: &str| S::State::parse(state).and_then(S::step).map(|step| step.name);
        for (state, its_step) in S::State::ALL.iter().filter_map(|state| Some((state.as_str(), step(state.as_str())?))) {
            let in_state = open.iter().filter(|(found, ..)| found == state).map(|row| row.2).sum();
            self.in_state.get_or_create(&[("saga", S::NAME), ("state", state)]).set(in_state);
            let stuck = open.iter().filter(|row| row.1 != 0 && step(&row.0) == Some(its_step)).map(|row| row.2).sum();
            self.stuck.get_or_create(&[("saga", S::NAME), ("step", its_step)]).set(stuck);
        }
    }

    /// Counts once the transaction has committed: a batch may be decided more than once.
    fn count<R>(&self, unit: &mut Unit<'_>, tell: impl FnOnce(&Self) -> R + Send + 'static) {
        let metrics = self.clone();
        unit.once_committed(move || drop(tell(&metrics)));
    }

    pub(crate) fn started(&self, unit: &mut Unit<'_>, saga: &'static str) {
        self.count(unit, move |counted| counted.started.get_or_create(&[("saga", saga)]).inc());
    }

    pub(crate) fn finished(&self, unit: &mut Unit<'_>, saga: &'static str, outcome: &'static str, took: Duration, trace: &Trace) {
        let exemplar = trace.recorded_id().map(|id| [("trace_id", id.to_owned())]);
        self.count(unit, move |counted| {
            counted.finished.get_or_create(&[("saga", saga), ("outcome", outcome)]).inc();
            counted.duration.get_or_create(&[("saga", saga)]).observe(took.as_secs_f64(), exemplar, None);
        });
    }

    pub(crate) fn ignored(&self, unit: &mut Unit<'_>, saga: &'static str, why: Why) {
        let labels = [("saga", saga), ("reason", why.as_str())];
        self.count(unit, move |counted| counted.ignored.get_or_create(&labels).inc());
    }

    pub(crate) fn asked(&self, unit: &mut Unit<'_>, saga: &'static str, step: &'static str) {
        self.count(unit, move |counted| counted.asked.get_or_create(&[("saga", saga), ("step", step)]).inc());
    }

    pub(crate) fn flagged(&self, unit: &mut Unit<'_>, saga: &'static str, step: &'static str) {
        self.count(unit, move |counted| counted.flagged.get_or_create(&[("saga", saga), ("step", step)]).inc());
    }
}
