//! One trace as a tree, held against the conventions: names, kinds, attributes, parents and links.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use contract::Timestamp;

use super::{
    eventually,
    otlp::{Receiver, Span},
};

/// All spans of one trace.
pub(crate) struct Trace {
    pub(crate) id: String,
    pub(crate) spans: Vec<Span>,
}

impl Trace {
    pub(crate) fn of(receiver: &Receiver, id: &str) -> Self {
        Self { id: id.to_owned(), spans: receiver.spans().into_iter().filter(|span| span.trace == id).collect() }
    }

    /// Waits until a trace has these hops.
    pub(crate) async fn whole(receiver: &Receiver, id: &str, hops: &str) -> Self {
        eventually("the trace is whole", async || {
            let trace = Self::of(receiver, id);
            let drawing = trace.drawing(false);
            if drawing.trim() == hops.trim() { Ok(trace) } else { Err(format!("it is\n{drawing}")) }
        })
        .await
    }

    /// Waits for the trace of an order, until it has these hops; nothing else may have begun a trace since it was placed.
    pub(crate) async fn of_order(receiver: &Receiver, placed: Timestamp, order: &str, hops: &str) -> Self {
        let id = eventually("the order has a trace", async || {
            let spans = receiver.spans();
            let found = spans.iter().find(|span| span.attribute("order.id") == order);
            found.map(|span| span.trace.clone()).ok_or_else(|| format!("{} spans of others", spans.len()))
        })
        .await;
        let trace = Self::whole(receiver, &id, hops).await;
        assert_eq!(begun_since(receiver, placed), [trace.id.as_str()], "another trace began");
        trace
    }

    /// The tree, a span a line: service, kind, name, what it is about. Batches on their way are left out if they are not wanted.
    pub(crate) fn drawing(&self, with_batches: bool) -> String {
        let ids: BTreeSet<&str> = self.spans.iter().map(|span| span.id.as_str()).collect();
        let mut drawing = String::new();
        let roots: Vec<&Span> = self.spans.iter().filter(|span| !ids.contains(span.parent.as_str())).collect();
        for root in roots {
            self.draw(root, 0, with_batches, &mut drawing);
        }
        drawing
    }

    fn draw(&self, span: &Span, depth: usize, with_batches: bool, drawing: &mut String) {
        let about = ["cloudevents.event_type", "error.type"].map(|key| span.attribute(key)).join(" ");
        let line = format!("{:<12} {:<8} {:indent$}{} {about}", span.service, span.kind, "", span.name, indent = depth * 2);
        let _ = writeln!(drawing, "{}", line.trim_end());
        let mut children: Vec<&Span> = self.spans.iter().filter(|child| child.parent == span.id).collect();
        children.sort_by_key(|child| (&child.name, child.attribute("cloudevents.event_type"), child.begun));
        for child in children.into_iter().filter(|child| with_batches || !is_batch(child)) {
            self.draw(child, depth + 1, with_batches, drawing);
        }
    }

    /// Each span is as the conventions say, under a parent that is there, and told once; the root is under `caller`.
    pub(crate) fn is_sound(&self, system: &str, caller: &str) {
        let spans: BTreeMap<&str, &Span> = self.spans.iter().map(|span| (span.id.as_str(), span)).collect();
        assert_eq!(spans.len(), self.spans.len(), "a span was told twice:\n{}", self.drawing(true));
        let roots: Vec<&Span> = self.spans.iter().filter(|span| !spans.contains_key(span.parent.as_str())).collect();
        let [root] = roots[..] else { panic!("{} roots:\n{}", roots.len(), self.drawing(true)) };
        assert_eq!(root.parent, caller, "{root:?}");
        for span in &self.spans {
            assert!(span.begun < span.ended, "{span:?}");
            let is_parent = |link: &&(String, String)| link.0 == span.trace && link.1 == span.parent;
            assert_eq!(span.links.iter().find(is_parent), None, "it links its own parent: {span:?}");
            if let Some(parent) = spans.get(span.parent.as_str()) {
                assert!(parent.begun <= span.begun, "{span:?} began before its parent {parent:?}");
            }
            if let Err(why) = is_conventional(span, system) {
                panic!("{}, {}: {why}: {span:#?}", span.name, span.kind);
            }
        }
    }

    /// What was sent was polled, as far as anybody reads it, and over Kafka published. Who publishes says so a moment later.
    pub(crate) async fn is_carried(&self, receiver: &Receiver, system: &str) {
        eventually("every message is told of on its way", async || Self::of(receiver, &self.id).carried(system)).await;
    }

    fn carried(&self, system: &str) -> Result<(), String> {
        let linked = |name: &str, to: &Span| {
            let link = (to.trace.clone(), to.id.clone());
            let mut named = self.spans.iter().filter(|span| span.name == name && span.kind == "CLIENT");
            named.any(|span| span.parent == to.id || span.links.contains(&link))
        };
        for sent in self.spans.iter().filter(|span| span.kind == "PRODUCER") {
            let topic = sent.attribute("messaging.destination.name");
            let read = contract::topics::TOPICS.iter().any(|found| found.name == topic && !found.readers.is_empty());
            if read && !linked(&format!("poll {topic}"), sent) {
                return Err(format!("never polled: {sent:?}"));
            }
            if system == "kafka" && !linked(&format!("send {topic}"), sent) {
                return Err(format!("never published: {sent:?}"));
            }
        }
        Ok(())
    }
}

/// The traces that began after an instant, but for those of somebody who only asked.
pub(crate) fn begun_since(receiver: &Receiver, since: Timestamp) -> Vec<String> {
    let mut begun: BTreeMap<String, (u64, bool)> = BTreeMap::new();
    for span in receiver.spans() {
        let is_question = span.kind == "SERVER" && span.name.starts_with("GET ");
        let (first, only_asked) = begun.entry(span.trace).or_insert((u64::MAX, true));
        (*first, *only_asked) = (span.begun.min(*first), *only_asked && is_question);
    }
    let since = u64::try_from(since.0).unwrap() * 1_000;
    let wanted = begun.into_iter().filter(|(_, (first, only_asked))| *first >= since && !only_asked);
    wanted.map(|(trace, _)| trace).collect()
}

/// Messages on their way together: which of them travel so is chance.
fn is_batch(span: &Span) -> bool {
    span.kind == "CLIENT" && ["send ", "poll "].iter().any(|verb| span.name.starts_with(verb))
}

/// Whether a span of this name has the kind and the attributes that it must have.
fn is_conventional(span: &Span, system: &str) -> Result<(), String> {
    let has = |key: &str, value: &str| {
        let found = span.attribute(key);
        if found == value { Ok(()) } else { Err(format!("{key} is {found:?}, not {value:?}")) }
    };
    let some = |key: &str| if span.attribute(key).is_empty() { Err(format!("{key} is missing")) } else { Ok(()) };
    if span.is_error == span.attribute("error.type").is_empty() {
        return Err("what failed says so by its status and error.type".to_owned());
    }
    let (verb, rest) = span.name.split_once(' ').unwrap_or((&span.name, ""));
    match (span.kind, verb) {
        ("SERVER", "POST" | "GET") => {
            has("http.request.method", verb)?;
            has("http.route", rest)?;
            has("url.scheme", "http")?;
            some("url.path")?;
            some("server.address")?;
            some("http.response.status_code")
        }
        ("CLIENT" | "SERVER", "skald.stock.v1.Stock/CheckStock") => {
            has("rpc.system.name", "grpc")?;
            has("rpc.method", verb)?;
            if span.kind == "CLIENT" {
                has("server.address", "127.0.0.1")?;
            }
            has("rpc.response.status_code", "OK")
        }
        ("PRODUCER", "send") => {
            messaging(span, system, rest, ("send", "send"))?;
            message(span, system)?;
            let id = span.attribute("messaging.message.id").replace('-', "");
            if id.get(16..) != Some(span.id.as_str()) {
                return Err("its id is not that of its message".to_owned());
            }
            match rest {
                "saga.events.v1" => {
                    has("saga.name", "order")?;
                    if span.attribute("cloudevents.event_type") == "saga.SagaEnded" { some("saga.outcome") } else { Ok(()) }
                }
                _ if rest.contains(".commands.") => some("saga.step"),
                _ => Ok(()),
            }
        }
        ("CONSUMER", "process") => {
            messaging(span, system, rest, ("process", "process"))?;
            message(span, system)?;
            has("messaging.consumer.group.name", &format!("skald-{}", span.service))?;
            some("messaging.destination.partition.id")?;
            if system == "kafka" && !span.attribute("messaging.kafka.offset").starts_with('#') {
                return Err("its offset is missing".to_owned());
            }
            // What is handled late or by a redrive is between two traces.
            let is_between = span.parent.is_empty() || span.links.iter().any(|(trace, _)| *trace != span.trace);
            if is_between || span.links.is_empty() {
                Ok(())
            } else {
                Err("it has its message for a parent, and no link".to_owned())
            }
        }
        ("CLIENT", "send" | "poll") => {
            let kind_of = if verb == "send" { "send" } else { "receive" };
            messaging(span, system, rest, (verb, kind_of))?;
            some("messaging.batch.message_count")
        }
        ("CLIENT", "commit") => {
            has("db.operation.name", "COMMIT")?;
            has("db.system.name", if system == "kafka" { "postgresql" } else { "sqlite" })?;
            some("db.namespace")?;
            if system == "kafka" {
                some("server.address")?;
            }
            if rest == span.service { Ok(()) } else { Err(format!("it is of {}", span.service)) }
        }
        ("CLIENT", "authorize" | "capture" | "void" | "refund") => {
            has("payment.operation", verb)?;
            some("payment.outcome")?;
            some("order.id")
        }
        ("INTERNAL", "deadline") => has("error.type", "timeout"),
        ("INTERNAL", "asked" | "redrive") if span.links.is_empty() => Err("it is not linked to the other trace".to_owned()),
        ("CLIENT", "deliver") | ("INTERNAL", "asked" | "redrive") => Ok(()),
        (kind, _) => Err(format!("nothing of this name is a {kind}")),
    }
}

fn messaging(span: &Span, system: &str, topic: &str, (name, kind_of): (&str, &str)) -> Result<(), String> {
    let pairs = [
        ("messaging.system", system),
        ("messaging.destination.name", topic),
        ("messaging.operation.name", name),
        ("messaging.operation.type", kind_of),
    ];
    match pairs.iter().find(|(key, value)| span.attribute(key) != *value) {
        Some((key, value)) => Err(format!("{key} is not {value:?}")),
        None => Ok(()),
    }
}

fn message(span: &Span, system: &str) -> Result<(), String> {
    let mut keys =
        vec!["messaging.message.id", "messaging.message.conversation_id", "saga.id", "order.id", "cloudevents.event_type"];
    if system == "kafka" {
        keys.extend(["messaging.destination.partition.id", "messaging.kafka.message.key"]);
    }
    match keys.iter().find(|key| span.attribute(key).is_empty()) {
        Some(key) => Err(format!("{key} is missing")),
        None => Ok(()),
    }
}

/// The hops of an order that is confirmed.
pub(crate) const CONFIRMED: &str = "\
order        SERVER   POST /v1/orders
order        CLIENT     commit order
order        PRODUCER   send order.events.v1 order.OrderPlaced
order        PRODUCER   send product.commands.v1 product.ReserveStock
product      CONSUMER     process product.commands.v1 product.ReserveStock
product      CLIENT         commit product
product      PRODUCER       send product.events.v1 product.StockReserved
order        CONSUMER         process product.events.v1 product.StockReserved
order        CLIENT             commit order
order        PRODUCER           send payment.commands.v1 payment.AuthorizePayment
payment      CONSUMER             process payment.commands.v1 payment.AuthorizePayment
payment      CLIENT                 authorize payment provider
payment      CLIENT                 commit payment
payment      CLIENT                 commit payment
payment      PRODUCER               send payment.events.v1 payment.PaymentAuthorized
order        CONSUMER                 process payment.events.v1 payment.PaymentAuthorized
order        CLIENT                     commit order
order        PRODUCER                   send payment.commands.v1 payment.CapturePayment
payment      CONSUMER                     process payment.commands.v1 payment.CapturePayment
payment      CLIENT                         capture payment provider
payment      CLIENT                         commit payment
payment      CLIENT                         commit payment
payment      PRODUCER                       send payment.events.v1 payment.PaymentCaptured
order        CONSUMER                         process payment.events.v1 payment.PaymentCaptured
order        CLIENT                             commit order
order        PRODUCER                           send product.commands.v1 product.CommitStock
product      CONSUMER                             process product.commands.v1 product.CommitStock
product      CLIENT                                 commit product
product      PRODUCER                               send product.events.v1 product.StockCommitted
order        CONSUMER                                 process product.events.v1 product.StockCommitted
order        CLIENT                                     commit order
order        PRODUCER                                   send order.events.v1 order.OrderConfirmed
notification CONSUMER                                     process order.events.v1 order.OrderConfirmed
notification CLIENT                                         commit notification
notification CLIENT                                         commit notification
notification CLIENT                                         deliver notification
notification PRODUCER                                       send notification.events.v1 notification.NotificationDelivered
notification PRODUCER                                       send notification.events.v1 notification.NotificationQueued
order        PRODUCER                                   send saga.events.v1 saga.SagaEnded
order        PRODUCER   send saga.events.v1 saga.SagaStarted
order        CLIENT     skald.stock.v1.Stock/CheckStock
product      SERVER       skald.stock.v1.Stock/CheckStock
";

/// Of one whose card is declined: its stock is given back.
pub(crate) const COMPENSATED: &str = "\
order        SERVER   POST /v1/orders
order        CLIENT     commit order
order        PRODUCER   send order.events.v1 order.OrderPlaced
order        PRODUCER   send product.commands.v1 product.ReserveStock
product      CONSUMER     process product.commands.v1 product.ReserveStock
product      CLIENT         commit product
product      PRODUCER       send product.events.v1 product.StockReserved
order        CONSUMER         process product.events.v1 product.StockReserved
order        CLIENT             commit order
order        PRODUCER           send payment.commands.v1 payment.AuthorizePayment
payment      CONSUMER             process payment.commands.v1 payment.AuthorizePayment
payment      CLIENT                 authorize payment provider
payment      CLIENT                 commit payment
payment      CLIENT                 commit payment
payment      PRODUCER               send payment.events.v1 payment.PaymentDeclined
order        CONSUMER                 process payment.events.v1 payment.PaymentDeclined
order        CLIENT                     commit order
order        PRODUCER                   send product.commands.v1 product.ReleaseStock
product      CONSUMER                     process product.commands.v1 product.ReleaseStock
product      CLIENT                         commit product
product      PRODUCER                       send product.events.v1 product.StockReleased
order        CONSUMER                         process product.events.v1 product.StockReleased
order        CLIENT                             commit order
order        PRODUCER                           send order.events.v1 order.OrderCancelled
notification CONSUMER                             process order.events.v1 order.OrderCancelled
notification CLIENT                                 commit notification
notification CLIENT                                 commit notification
notification CLIENT                                 deliver notification
notification PRODUCER                               send notification.events.v1 notification.NotificationDelivered
notification PRODUCER                               send notification.events.v1 notification.NotificationQueued
order        PRODUCER                           send saga.events.v1 saga.SagaEnded
order        PRODUCER   send saga.events.v1 saga.SagaStarted
order        CLIENT     skald.stock.v1.Stock/CheckStock
product      SERVER       skald.stock.v1.Stock/CheckStock
";

/// Of one that is refused at the door.
pub(crate) const REFUSED: &str = "\
order        SERVER   POST /v1/orders
order        CLIENT     skald.stock.v1.Stock/CheckStock
product      SERVER       skald.stock.v1.Stock/CheckStock
";
