//! What is told of work that is done: a transaction after its commit, a batch on its way, a span of a service's own.
//!
//! Never here: names and attributes of spans, or where they go; `services/kit` knows both. Nothing is told of what was rolled back,
//! so that a batch which is done again is told once; what a crash keeps from being told is lost, and nothing else with it.

use std::sync::Arc;

use contract::{Cause, Message, Timestamp, Trace};

use crate::{Arrived, Claim, Database, Handler, Log, unit::Row, writer::Entry};

/// Hears of work that is done. Called in the midst of it: must not block, and must not fail.
pub trait Observer: Send + Sync + 'static {
    /// Whether a trace that begins here is to be recorded.
    fn samples(&self, trace: u128) -> bool;

    /// A transaction has committed.
    fn committed(&self, commit: &Committed<'_>);

    /// Messages went to a broker, or came.
    fn carried(&self, carried: &Carried<'_>);

    /// A service did something that has its own words.
    fn told(&self, service: &'static str, span: Span);
}

/// One transaction.
pub struct Committed<'a> {
    pub service: &'static str,
    pub database: &'a Database,
    pub begun: Timestamp,
    pub ended: Timestamp,
    /// Rows that it appended.
    pub appended: usize,
    /// Those whose trace is recorded, each with the context under which it was appended: a request's, or that of the handling of its
    /// cause.
    pub rows: Vec<(Arc<Message>, Trace)>,
    pub handled: Vec<Handled<'a>>,
    /// The contexts of what came from people, clocks and providers.
    pub requests: Vec<Trace>,
    /// What the handler said by [`Unit::tell`](crate::Unit::tell).
    pub spans: Vec<Span>,
    /// Whether the rows go to Kafka.
    pub is_published: bool,
}

/// A message that a transaction has handled, or set aside.
pub struct Handled<'a> {
    pub consumer: &'a str,
    pub partition: i64,
    pub offset: i64,
    pub message: &'a Message,
    /// Whether it came over a broker.
    pub is_linked: bool,
    /// The context of its handling.
    pub trace: Trace,
    /// Why it was set aside.
    pub error: Option<&'static str>,
    /// The context of the redrive that it is handled by.
    pub redrive: Option<Trace>,
}

/// Messages of one topic on their way together.
pub struct Carried<'a> {
    pub service: &'static str,
    pub way: Way,
    pub begun: Timestamp,
    pub ended: Timestamp,
    pub topic: &'a str,
    /// The contexts of those that are recorded; at least one.
    pub traces: Vec<Trace>,
    /// How many there are, recorded or not.
    pub count: usize,
    /// Whether it was over a broker.
    pub is_linked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Sent,
    Polled,
}

/// Something that was done, in its own words.
#[derive(Clone, Debug)]
pub struct Span {
    pub name: String,
    pub kind: SpanKind,
    /// Its own context.
    pub trace: Trace,
    /// What it is a part of.
    pub parent: Option<Trace>,
    pub links: Vec<Trace>,
    pub begun: Timestamp,
    pub ended: Timestamp,
    pub attributes: Vec<(&'static str, Value)>,
    /// `error.type`, where it failed.
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    Internal,
    Server,
    Client,
    Producer,
    Consumer,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

/// What will be told of a transaction once it has committed.
pub(crate) struct Story<'a> {
    begun: Timestamp,
    /// Of each row, if its trace is recorded.
    parents: Vec<Option<Trace>>,
    handled: Vec<Handled<'a>>,
    requests: Vec<Trace>,
    spans: Vec<Span>,
}

impl<'a> Story<'a> {
    /// Takes note of what the transaction is about, when all has been decided and nothing has its position yet.
    pub(crate) fn new(begun: Timestamp, rows: &[Row], handled: Vec<Handled<'a>>, requests: Vec<Trace>, spans: Vec<Span>) -> Self {
        let parents = rows.iter().map(|row| row.parent.is_sampled().then(|| row.parent.clone()));
        Self { begun, parents: parents.collect(), handled, requests, spans }
    }

    /// The contexts of the requests of a batch that are recorded.
    pub(crate) fn requests<H: Handler>(batch: &[Entry<H>]) -> Vec<Trace> {
        let requests = batch.iter().filter_map(|entry| match entry {
            Entry::Request { job, .. } if job.meta.trace.is_sampled() => Some(job.meta.trace.clone()),
            _ => None,
        });
        requests.collect()
    }

    /// Tells it, once the transaction has committed these rows.
    pub(crate) fn tell(self, log: &Log, rows: &[Arc<Message>]) {
        let Some(observer) = log.env().observer() else { return };
        let Self { begun, parents, handled, requests, mut spans } = self;
        let appended = rows.len();
        let rows: Vec<_> = rows.iter().zip(parents).filter_map(|(row, parent)| Some((row.clone(), parent?))).collect();
        if rows.is_empty() && handled.is_empty() && spans.is_empty() {
            return;
        }
        let (service, ended) = (log.service(), log.env().now());
        // What was done in the transaction ends with it.
        spans.iter_mut().for_each(|span| span.ended = ended);
        // An operator's process does not know whether somebody publishes this log, but the message that it redrives says so.
        let is_published = log.is_published() || handled.iter().any(|handled| handled.is_linked);
        let database = log.database();
        observer.committed(&Committed {
            service,
            database,
            begun,
            ended,
            appended,
            rows,
            handled,
            requests,
            spans,
            is_published,
        });
    }
}

impl<'a> Handled<'a> {
    /// A message of a batch, if it can be read and its trace is recorded.
    pub(crate) fn of(
        claim: &'a Claim,
        offset: i64,
        arrived: &'a Arrived,
        trace: Trace,
        error: Option<&'static str>,
    ) -> Option<Self> {
        let (message, is_linked) = match arrived {
            Arrived::Row(message) => (message, false),
            Arrived::Linked(message, _) => (message, true),
            Arrived::Raw(_) => return None,
        };
        let (consumer, partition) = (claim.consumer.as_str(), claim.partition);
        let redrive = None;
        trace.is_sampled().then_some(Self { consumer, partition, offset, message, is_linked, trace, error, redrive })
    }

    /// The same for one that is set aside. What a forged message says of its trace is nobody's word.
    pub(crate) fn set_aside(claim: &'a Claim, offset: i64, arrived: &'a Arrived, cause: Cause, now: Timestamp) -> Option<Self> {
        let (Arrived::Row(message) | Arrived::Linked(message, _)) = arrived else { return None };
        let trace = if cause == Cause::Forged { Trace::default() } else { message.effect(&claim.consumer, now).trace };
        Self::of(claim, offset, arrived, trace, Some(cause.as_str()))
    }
}

/// Tells of messages that travel together, a topic at a time. They are on their way since `begun`, and none since before it was appended.
pub fn carry(log: &Log, way: Way, begun: Timestamp, messages: &[&Message], is_linked: bool) {
    let Some(observer) = log.env().observer() else { return };
    let mut topics: Vec<&str> = messages.iter().filter_map(|message| message.topic.as_deref()).collect();
    topics.sort_unstable();
    topics.dedup();
    for topic in topics {
        let of = || messages.iter().filter(|message| message.topic.as_deref() == Some(topic));
        let mut seen = of().filter(|message| message.meta.trace.is_sampled());
        if let Some(first) = seen.next() {
            let traces = [*first].into_iter().chain(seen.copied()).map(|message| message.meta.trace.clone()).collect();
            let (service, ended, count) = (log.service(), log.env().now(), of().count());
            // Who was there first has waited for it; and another machine's clock may be ahead.
            let begun = begun.max(first.time).min(ended);
            observer.carried(&Carried { service, way, begun, ended, topic, traces, count, is_linked });
        }
    }
}
