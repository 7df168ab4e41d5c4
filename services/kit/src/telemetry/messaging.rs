//! What a transaction or a batch of messages is called as spans: names, kinds and attributes of OpenTelemetry's conventions.
//!
//! Never here: an exporter. From here spans go to [`super::Telemetry`].
//! Source: <https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/>.

use contract::{
    Message, Trace,
    topics::{self, TOPICS},
    trace::span_of,
};
use eventlog::{Carried, Committed, Handled, Span, SpanKind, Value, Way};
use uuid::Uuid;

/// Links of one span; more say nothing that these don't, and receivers drop them.
const LINKS_MAX: usize = 128;

type Attributes = Vec<(&'static str, Value)>;

/// The spans of a transaction: itself, what it handled, what it sent.
pub(super) fn committed(commit: &Committed<'_>) -> Vec<Span> {
    let mut spans: Vec<Span> = commit.handled.iter().map(|handled| process(commit, handled)).collect();
    let sent = commit.rows.iter().filter(|(row, _)| row.topic.is_some());
    spans.extend(sent.map(|(row, parent)| send(commit, row, parent)));
    spans.extend(commit.spans.iter().cloned());
    spans.extend(transaction(commit));
    spans
}

/// The transaction as a part of its first member's trace, linked to all others.
fn transaction(commit: &Committed<'_>) -> Option<Span> {
    let handled = commit.handled.iter().map(|handled| &handled.trace);
    let told = commit.spans.iter().map(|span| &span.trace);
    let mut members = commit.requests.iter().chain(handled).chain(told);
    let parent = members.next()?.clone();
    let links: Vec<Trace> = members.filter(|member| **member != parent).take(LINKS_MAX).cloned().collect();
    let mut attributes: Attributes = vec![
        ("db.system.name", commit.database.system().into()),
        ("db.namespace", commit.database.name().into()),
        ("db.operation.name", "COMMIT".into()),
        ("log.rows", (commit.appended as i64).into()),
    ];
    if let Some((host, port)) = commit.database.server() {
        attributes.push(("server.address", host.into()));
        attributes.extend(port.map(|port| ("server.port", i64::from(port).into())));
    }
    if !links.is_empty() {
        attributes.push(("db.operation.batch.size", (links.len() as i64 + 1).into()));
    }
    let words = ["commit", commit.service, parent.parent.as_deref().unwrap_or_default(), &commit.begun.0.to_string()];
    Some(Span {
        name: format!("commit {}", commit.service),
        kind: SpanKind::Client,
        trace: parent.child(span_of(&words, Uuid::nil())),
        parent: Some(parent),
        links,
        begun: commit.begun,
        ended: commit.ended,
        attributes,
        error: None,
    })
}

fn process(commit: &Committed<'_>, handled: &Handled<'_>) -> Span {
    let Handled { consumer, partition, offset, message, is_linked, trace, error, redrive } = handled;
    let topic = message.topic.as_deref().unwrap_or_default();
    let mut attributes = messaging(*is_linked, "process", "process", topic);
    attributes.push(("messaging.consumer.group.name", format!("skald-{consumer}").into()));
    attributes.push(("messaging.destination.partition.id", partition.to_string().into()));
    if *is_linked {
        attributes.push(("messaging.kafka.offset", (*offset).into()));
    }
    about(message, *is_linked, &mut attributes);
    let (of, redrive) = (Some(message.meta.trace.clone()), redrive.clone());
    // What comes late is a trace of its own, or a part of that of its redrive.
    let (parent, link) = if trace.id() == message.meta.trace.id() { (of, redrive) } else { (redrive, of) };
    Span {
        name: format!("process {topic}"),
        kind: SpanKind::Consumer,
        trace: trace.clone(),
        parent,
        links: link.into_iter().collect(),
        begun: commit.begun,
        ended: commit.ended,
        attributes,
        error: error.map(str::to_owned),
    }
}

fn send(commit: &Committed<'_>, row: &Message, parent: &Trace) -> Span {
    let topic = row.topic.as_deref().unwrap_or_default();
    let mut attributes = messaging(commit.is_published, "send", "send", topic);
    let of = topic.strip_suffix(".dlq").unwrap_or(topic);
    if commit.is_published
        && let Some(found) = TOPICS.iter().find(|topic| topic.name == of)
    {
        let key = row.key.as_deref().unwrap_or_default();
        let partition = topics::partition_of(key.as_bytes(), found.settings.partitions);
        attributes.push(("messaging.destination.partition.id", partition.to_string().into()));
    }
    about(row, commit.is_published, &mut attributes);
    Span {
        name: format!("send {topic}"),
        kind: SpanKind::Producer,
        trace: row.meta.trace.clone(),
        parent: Some(parent.clone()),
        links: Vec::new(),
        begun: commit.begun,
        ended: commit.ended,
        attributes,
        error: None,
    }
}

/// Messages that went to a broker or came, as a part of the first one's trace.
pub(super) fn carried(carried: &Carried<'_>) -> Span {
    let Carried { way, begun, ended, topic, traces, count, is_linked, .. } = carried;
    let (name, kind_of) = match way {
        Way::Sent => ("send", "send"),
        Way::Polled => ("poll", "receive"),
    };
    let mut attributes = messaging(*is_linked, name, kind_of, topic);
    attributes.push(("messaging.batch.message_count", (*count as i64).into()));
    let parent = traces.first().cloned().unwrap_or_default();
    let words = [name, carried.service, topic, parent.parent.as_deref().unwrap_or_default(), &begun.0.to_string()];
    Span {
        name: format!("{name} {topic}"),
        kind: SpanKind::Client,
        trace: parent.child(span_of(&words, Uuid::nil())),
        parent: Some(parent),
        links: traces.iter().skip(1).take(LINKS_MAX).cloned().collect(),
        begun: *begun,
        ended: *ended,
        attributes,
        error: None,
    }
}

/// In one process messages do not pass a broker.
fn messaging(is_kafka: bool, operation: &'static str, kind_of: &'static str, topic: &str) -> Attributes {
    vec![
        ("messaging.system", if is_kafka { "kafka" } else { "skald" }.into()),
        ("messaging.operation.name", operation.into()),
        ("messaging.operation.type", kind_of.into()),
        ("messaging.destination.name", topic.into()),
    ]
}

/// What a message is, and for which saga.
fn about(message: &Message, is_kafka: bool, attributes: &mut Attributes) {
    attributes.push(("messaging.message.id", message.id.to_string().into()));
    attributes.push(("cloudevents.event_type", message.kind.as_str().into()));
    if let Some(key) = message.key.as_deref().filter(|_| is_kafka) {
        attributes.push(("messaging.kafka.message.key", key.into()));
    }
    let Some(saga) = message.meta.correlation else { return };
    let saga = saga.to_string();
    attributes.push(("messaging.message.conversation_id", saga.clone().into()));
    attributes.push(("saga.id", saga.clone().into()));
    attributes.push(("order.id", saga.into()));
    outcome(message, attributes);
    // Only sagas send commands, each in the step of its name.
    if message.topic.as_deref().is_some_and(|topic| topic.contains(".commands.")) {
        attributes.push(("saga.step", step(&message.kind).into()));
    }
}

/// How something ended and why, where the message tells: so that orders of a kind can be found.
fn outcome(message: &Message, attributes: &mut Attributes) {
    let Some((domain, what)) = message.kind.split_once('.') else { return };
    let (key, reason, outcome) = match (domain, what) {
        // What a saga says of itself begins with its name.
        ("saga", _) => ("saga.outcome", "saga.reason", None),
        ("order", "OrderConfirmed") => ("order.outcome", "order.reason", Some("confirmed")),
        ("order", "OrderCancelled") => ("order.outcome", "order.reason", Some("cancelled")),
        ("product", "StockRefused") => ("stock.outcome", "stock.reason", Some("refused")),
        ("payment", "PaymentDeclined") => ("payment.outcome", "payment.reason", Some("declined")),
        ("payment", "CaptureRefused") => ("payment.outcome", "payment.reason", Some("capture_refused")),
        _ => return,
    };
    let Ok(said) = serde_json::from_str::<Said>(&message.data) else { return };
    let pairs = [("saga.name", said.saga), (key, said.outcome.or(outcome.map(str::to_owned))), (reason, said.reason)];
    attributes.extend(pairs.into_iter().filter_map(|(key, value)| Some((key, value?.into()))));
}

/// What events say of an end.
#[derive(serde::Deserialize)]
struct Said {
    saga: Option<String>,
    outcome: Option<String>,
    #[serde(alias = "code")]
    reason: Option<String>,
}

/// `product.ReserveStock` asks for the step `reserve_stock`.
fn step(kind: &str) -> String {
    let mut step = String::new();
    for letter in kind.rsplit('.').next().unwrap_or_default().chars() {
        if letter.is_ascii_uppercase() && !step.is_empty() {
            step.push('_');
        }
        step.push(letter.to_ascii_lowercase());
    }
    step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_named_like_its_step() {
        assert_eq!(step("product.ReserveStock"), "reserve_stock");
        assert_eq!(step("payment.AuthorizePayment"), "authorize_payment");
    }
}
