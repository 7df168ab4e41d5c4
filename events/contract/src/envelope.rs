//! The envelope: what is known of a message apart from its payload. Its fields become columns of the log and CloudEvents
//! headers on Kafka.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{MessageId, Timestamp};

/// A W3C trace context, recorded when a message is appended and never replaced by a carrier's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// `traceparent`, as `00-<32 hex>-<16 hex>-<2 hex>`.
    pub parent: Option<String>,
    /// `tracestate`, unparsed.
    pub state: Option<String>,
}

impl Trace {
    /// The 32 hexadecimal digits of the trace id, if there is a well-formed `traceparent`.
    pub fn id(&self) -> Option<&str> {
        self.parent.as_deref()?.split('-').nth(1)
    }

    /// Whether whoever began the trace wants it exported.
    pub fn is_sampled(&self) -> bool {
        let flags = self.parent.as_deref().and_then(|parent| parent.get(53..55));
        flags.and_then(|flags| u8::from_str_radix(flags, 16).ok()).is_some_and(|flags| flags & 1 == 1)
    }

    /// Whether `text` is a `traceparent` of version 00: lower-case hexadecimal digits, and neither id zero.
    pub fn is_parent(text: &str) -> bool {
        let hex = |part: &str, digits| part.len() == digits && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let id = |part, digits| hex(part, digits) && part.bytes().any(|b| b != b'0');
        let mut parts = text.split('-');
        let mut next = || parts.next().unwrap_or_default();
        next() == "00" && id(next(), 32) && id(next(), 16) && hex(next(), 2) && parts.next().is_none()
    }
}

/// Why something is appended: what caused it, for which saga, in which trace, by whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The message whose handling appends; `None` for what a person or a clock started.
    pub cause: Option<MessageId>,
    /// The saga that all of it belongs to (the order id).
    pub correlation: Option<Uuid>,
    pub trace: Trace,
    /// Who asked: `customer:<id>`, `operator:<id>`; `None` for the system itself, and for what came over the wire.
    pub actor: Option<String>,
}

/// One committed row of one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// 1, 2, 3 … without a gap, in the order of commit. `ce_sequence`.
    pub position: i64,
    pub id: MessageId,
    /// The aggregate or saga instance, such as `order-<id>`. `ce_subject`.
    pub stream: String,
    /// The stream's own count, from 1; 0 where the message came over the wire, which does not carry it.
    pub version: i64,
    /// Where it is published; `None` for what stays in the log.
    pub topic: Option<String>,
    /// The partition key; present whenever `topic` is.
    pub key: Option<String>,
    /// The payload's type, such as `order.OrderPlaced`. `ce_type`.
    pub kind: String,
    /// The version of the payload's schema, from 1.
    pub schema: i64,
    /// The payload, JSON.
    pub data: String,
    pub time: Timestamp,
    pub meta: Meta,
}

impl Message {
    /// The metadata of what handling this message appends: caused by it, in the same saga and trace.
    pub fn effect(&self) -> Meta {
        Meta { cause: Some(self.id), actor: None, ..self.meta.clone() }
    }
}

/// Marks a reply that is given a second time, to a command that came again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Repeated(pub bool);

impl Repeated {
    /// For `skip_serializing_if`: the usual reply does not carry the mark.
    pub fn is_first(&self) -> bool {
        !self.0
    }
}
