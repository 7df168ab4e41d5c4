//! Traces on their way out: what was done becomes spans, and spans go to an OTLP receiver in batches.
//!
//! Never in the way: a span is put into a bounded queue or dropped, a thread of its own sends what is in it, and a receiver that is
//! away, slow or silent costs spans and nothing else. Never here: what is worth a span; see [`eventlog::Observer`].

mod messaging;

use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use contract::{Timestamp, Trace};
use eventlog::{Carried, Committed, Env, Observer, Span, SpanKind as Own, Value};
use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{Link, SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_otlp::{SpanExporter as Otlp, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanEvents, SpanExporter, SpanLinks, SpanProcessor},
};
use tonic::transport::Endpoint;

/// Spans of one service that wait: about a second of full load, and at most some 16 MiB.
const QUEUE_MAX: usize = 16_384;
/// Spans in one request.
const BATCH_MAX: usize = 2_048;
/// How long spans wait for company.
const EVERY: Duration = Duration::from_millis(500);
/// How long one request may take, and its connection.
const SEND_WITHIN: Duration = Duration::from_secs(3);
/// How long the last spans may take at the end of the process.
const STOP_WITHIN: Duration = Duration::from_secs(3);
/// How often it is said that spans are lost.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Where an OTLP receiver listens for gRPC: `http://HOST:PORT`.
#[derive(Clone, Debug)]
pub struct Receiver(Box<Endpoint>);

impl FromStr for Receiver {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_plain = text.strip_prefix("http://").is_some_and(|rest| !rest.is_empty());
        let endpoint = is_plain.then(|| Endpoint::from_shared(text.to_owned()).ok()).flatten();
        endpoint
            .map(Box::new)
            .map(Self)
            .ok_or_else(|| "it is of the form http://HOST:PORT, and speaks OTLP over gRPC without TLS".to_owned())
    }
}

/// The share of traces that are recorded, of those that begin here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(f64);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
        share.map(Self).ok_or_else(|| "it is a number from 0 to 1".to_owned())
    }
}

impl Share {
    /// By the trace's id, so that whoever is asked says the same.
    fn takes(self, trace: u128) -> bool {
        // All numbers of 53 bits are floating-point numbers of their own.
        let place = ((trace as u64) >> 11) as f64 / (1_u64 << 53) as f64;
        place < self.0
    }
}

/// What hears of work and exports it. One a process.
pub struct Telemetry {
    share: Share,
    services: Vec<(&'static str, BatchSpanProcessor)>,
    scope: InstrumentationScope,
    tally: Arc<Tally>,
}

impl Telemetry {
    /// Begins to export the spans of these services. Connects when there is something to send; must be called in the runtime.
    pub fn start(receiver: &Receiver, share: Share, services: &[&'static str], version: &'static str, env: &Env) -> Arc<Self> {
        let tally = Arc::new(Tally::new(env.clone()));
        let instance = env.id().to_string();
        // One connection for all.
        let channel = Endpoint::clone(&receiver.0).connect_timeout(SEND_WITHIN).timeout(SEND_WITHIN).connect_lazy();
        let exporting = |service: &&'static str| {
            let otlp = Otlp::builder().with_tonic().with_channel(channel.clone()).with_timeout(SEND_WITHIN).build();
            let otlp = otlp.expect("a channel that is there already can't be wrong");
            let config = BatchConfigBuilder::default()
                .with_max_queue_size(QUEUE_MAX)
                .with_max_export_batch_size(BATCH_MAX)
                .with_scheduled_delay(EVERY)
                .build();
            let mut processor = BatchSpanProcessor::new(Watched { otlp, tally: tally.clone() }, config);
            let resource = Resource::builder_empty().with_service_name(*service).with_attributes([
                KeyValue::new("service.namespace", "skald"),
                KeyValue::new("service.version", version),
                KeyValue::new("service.instance.id", instance.clone()),
            ]);
            processor.set_resource(&resource.build());
            (*service, processor)
        };
        let services = services.iter().map(exporting).collect();
        let scope = InstrumentationScope::builder("skald").with_version(version).build();
        Arc::new(Self { share, services, scope, tally })
    }

    fn export(&self, service: &str, span: Span) {
        let Some((_, processor)) = self.services.iter().find(|(name, _)| *name == service) else { return };
        if let Some(data) = data(span, &self.scope) {
            self.tally.told.fetch_add(1, Ordering::Relaxed);
            processor.on_end(data);
        }
    }

    /// Sends what is left, for some seconds at most; the last thing that a process does.
    #[expect(clippy::disallowed_methods, reason = "once a service, at the end of the process")]
    pub async fn stop(self: Arc<Self>) {
        let stopping: Vec<_> = (0..self.services.len())
            .map(|index| {
                let telemetry = self.clone();
                // It waits for its thread, which may wait for the receiver.
                tokio::task::spawn_blocking(move || telemetry.services[index].1.shutdown_with_timeout(STOP_WITHIN).is_ok())
            })
            .collect();
        for stopped in stopping {
            // What it could not send is counted below.
            let _ = stopped.await;
        }
        let lost = self.tally.told() - self.tally.exported.load(Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(lost, "spans were not exported; nothing else was lost");
        }
    }
}

impl Observer for Telemetry {
    fn samples(&self, trace: u128) -> bool {
        self.share.takes(trace)
    }

    fn committed(&self, commit: &Committed<'_>) {
        for span in messaging::committed(commit) {
            self.export(commit.service, span);
        }
    }

    fn carried(&self, carried: &Carried<'_>) {
        self.export(carried.service, messaging::carried(carried));
    }

    fn told(&self, service: &'static str, span: Span) {
        self.export(service, span);
    }
}

/// Counts what was told and what came of it.
struct Tally {
    told: AtomicU64,
    exported: AtomicU64,
    failed: AtomicU64,
    /// When it was last said that spans are lost.
    said: AtomicI64,
    env: Env,
}

impl Tally {
    fn new(env: Env) -> Self {
        Self { told: AtomicU64::new(0), exported: AtomicU64::new(0), failed: AtomicU64::new(0), said: AtomicI64::new(0), env }
    }

    fn told(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }

    fn heard(&self, spans: usize, result: &OTelSdkResult) {
        let Err(error) = result else {
            self.exported.fetch_add(spans as u64, Ordering::Relaxed);
            return;
        };
        let failed = self.failed.fetch_add(spans as u64, Ordering::Relaxed) + spans as u64;
        let (now, said) = (self.env.now(), Timestamp(self.said.load(Ordering::Relaxed)));
        if now.since(said) >= SAY_EVERY && self.said.compare_exchange(said.0, now.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            // Neither exported nor failed: in the queue, or dropped because that was full.
            let waiting = self.told().saturating_sub(failed + self.exported.load(Ordering::Relaxed));
            tracing::warn!(%error, failed, waiting, "spans can't be exported and are lost; nothing waits for them");
        }
    }
}

/// Tells the tally what became of each batch.
struct Watched {
    otlp: Otlp,
    tally: Arc<Tally>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.otlp.fmt(f)
    }
}

impl SpanExporter for Watched {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.otlp.export(batch).await;
        self.tally.heard(spans, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.otlp.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.otlp.set_resource(resource);
    }
}

/// A span in the words of OpenTelemetry; none without a context of its own.
fn data(span: Span, scope: &InstrumentationScope) -> Option<SpanData> {
    let own = context(&span.trace)?;
    let parent = span.parent.as_ref().and_then(context);
    let mut attributes: Vec<KeyValue> = span.attributes.into_iter().map(attribute).collect();
    let status = match span.error {
        None => Status::Unset,
        Some(error) => {
            attributes.push(KeyValue::new("error.type", error.clone()));
            Status::error(error)
        }
    };
    let mut links = SpanLinks::default();
    links.links = span.links.iter().filter_map(context).map(Link::with_context).collect();
    Some(SpanData {
        span_context: own,
        parent_span_id: parent.as_ref().map_or(SpanId::INVALID, SpanContext::span_id),
        // Callers and those who sent a message are elsewhere.
        parent_span_is_remote: parent.is_some() && matches!(span.kind, Own::Server | Own::Consumer),
        span_kind: match span.kind {
            Own::Internal => SpanKind::Internal,
            Own::Server => SpanKind::Server,
            Own::Client => SpanKind::Client,
            Own::Producer => SpanKind::Producer,
            Own::Consumer => SpanKind::Consumer,
        },
        name: span.name.into(),
        start_time: instant(span.begun),
        end_time: instant(span.ended),
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links,
        status,
        instrumentation_scope: scope.clone(),
    })
}

fn attribute((key, value): (&'static str, Value)) -> KeyValue {
    match value {
        Value::Text(text) => KeyValue::new(key, text),
        Value::Number(number) => KeyValue::new(key, number),
    }
}

fn context(trace: &Trace) -> Option<SpanContext> {
    let (id, span) = (TraceId::from_hex(trace.id()?).ok()?, SpanId::from_hex(trace.span()?).ok()?);
    let flags = TraceFlags::default().with_sampled(trace.is_sampled());
    let state = trace.state.as_deref().and_then(|state| TraceState::from_str(state).ok()).unwrap_or_default();
    Some(SpanContext::new(id, span, flags, false, state))
}

fn instant(Timestamp(micros): Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_traces_is_taken_by_their_ids() {
        let share = |text: &str| text.parse::<Share>().unwrap();
        let env = Env::system();
        let traces: Vec<u128> = (0..10_000).map(|_| u128::from(env.random())).collect();
        let taken = |share: Share| traces.iter().filter(|trace| share.takes(**trace)).count();
        assert_eq!((taken(share("0")), taken(share("1"))), (0, traces.len()));
        assert!((2_000..3_000).contains(&taken(share("0.25"))), "{}", taken(share("0.25")));
        assert!(traces.iter().all(|trace| !share("0.1").takes(*trace) || share("0.2").takes(*trace)));
        for bad in ["", "-0.1", "1.1", "NaN", "all"] {
            assert!(bad.parse::<Share>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_receiver_is_plain_http() {
        assert!("http://127.0.0.1:4317".parse::<Receiver>().is_ok());
        for bad in ["https://collector:4317", "collector:4317", "http://", ""] {
            assert!(bad.parse::<Receiver>().is_err(), "{bad}");
        }
    }
}
