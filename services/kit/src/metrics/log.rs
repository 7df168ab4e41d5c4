//! What is measured of the services' event logs: what this process counts, and what stands in the database for all replicas.
//!
//! Never here: looking it up, which is the log's own.

use std::sync::{Arc, Mutex};

use contract::Cause;
use eventlog::{Due, Log, Survey};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, NoLabelSet},
    metrics::MetricType,
};

use super::{in_time, locked};

/// A log, and what it last looked like; nothing while its database is away.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    log: Log,
    survey: Arc<Mutex<Option<Survey>>>,
}

impl Watched {
    pub(super) fn new(log: Log) -> Self {
        Self { log, survey: Arc::default() }
    }

    pub(super) async fn look(self) {
        // Changed at once, because two may read the metrics at the same time. That the database is away is told by `/health`.
        let survey = in_time(self.log.survey()).await;
        *locked(&self.survey) = survey;
    }

    /// Seconds; 0 if nothing waits.
    fn oldest_age(&self, survey: &Survey) -> f64 {
        survey.oldest_unpublished.map_or(0.0, |oldest| self.log.env().now().since(oldest).as_secs_f64())
    }
}

/// Writes them when they are read.
#[derive(Debug)]
pub(super) struct LogCollector(pub(super) Vec<Watched>);

impl Collector for LogCollector {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.counter(&mut to, "log_commits", "Transactions committed", Log::commits)?;
        self.counter(&mut to, "consumer_repeats", "Messages that came again and were skipped", Log::repeats)?;
        self.dead_letters(&mut to)?;
        self.gauge(&mut to, "log_position", "Position of the newest row", |watched| Some(*watched.log.head().borrow()))?;
        self.gauge(&mut to, "relay_lag_messages", "Rows that are not known to be published", |watched| {
            watched.log.is_published().then(|| watched.log.unpublished())
        })?;
        self.gauge(&mut to, "relay_oldest_age_seconds", "Age of the oldest row that is not published", |watched| {
            let survey = (*locked(&watched.survey))?;
            watched.log.is_published().then(|| watched.oldest_age(&survey))
        })?;
        self.gauge(&mut to, "consumer_parked_messages", "Messages that wait for a missing one", |watched| {
            (*locked(&watched.survey)).map(|survey| survey.parked)
        })?;
        self.gauge(&mut to, "rows_unreadable", "Rows that wait for a build which can read them", |watched| {
            (*locked(&watched.survey)).map(|survey| survey.unreadable)
        })?;
        let pulled_in = |log: &Log| log.due().map_or(0, Due::pulled_in);
        self.counter(&mut to, "clock_instants_pulled_in", "Instants that lay further ahead than they can", pulled_in)?;
        self.clock(&mut to)?;
        self.gauge(&mut to, "dlq_messages", "Dead letters that nobody has redriven or discarded", |watched| {
            (*locked(&watched.survey)).map(|survey| survey.dead_letters)
        })
    }
}

impl LogCollector {
    fn counter(&self, to: &mut DescriptorEncoder<'_>, name: &str, help: &str, count: fn(&Log) -> u64) -> std::fmt::Result {
        let mut family = to.encode_descriptor(name, help, None, MetricType::Counter)?;
        for Watched { log, .. } in &self.0 {
            let labels = [("service", log.service())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&count(log), None)?;
        }
        Ok(())
    }

    /// All logs of a process go by one clock.
    fn clock(&self, to: &mut DescriptorEncoder<'_>) -> std::fmt::Result {
        let Some(stand) = self.0.first().map(|watched| watched.log.env().clock()) else { return Ok(()) };
        let help = "How far the machine's clock is ahead of the time by which the process goes";
        to.encode_descriptor("clock_ahead_seconds", help, None, MetricType::Gauge)?.encode_gauge(&(stand.ahead as f64 / 1e6))?;
        let help = "How often the machine's clock has left the time by which the process goes";
        let mut leaps = to.encode_descriptor("clock_leaps", help, None, MetricType::Counter)?;
        leaps.encode_counter::<NoLabelSet, _, f64>(&stand.leaps, None)
    }

    /// By their causes: one that is forged is for whoever looks after who may write, the others are for whoever looks after a service.
    fn dead_letters(&self, to: &mut DescriptorEncoder<'_>) -> std::fmt::Result {
        let mut family = to.encode_descriptor("dlq_made", "Messages made dead letters", None, MetricType::Counter)?;
        for Watched { log, .. } in &self.0 {
            for cause in Cause::ALL {
                let labels = [("service", log.service()), ("cause", cause.as_str())];
                let made = log.dead_letters_of(cause);
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&made, None)?;
            }
        }
        Ok(())
    }

    fn gauge<V: EncodeGaugeValue>(
        &self,
        to: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        value: impl Fn(&Watched) -> Option<V>,
    ) -> std::fmt::Result {
        let mut family = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for watched in &self.0 {
            if let Some(value) = value(watched) {
                family.encode_family(&[("service", watched.log.service())])?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }
}
