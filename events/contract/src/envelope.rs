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
}

/// Why something is appended: what caused it, for which saga, in which trace, by whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The message whose handling appends; `None` for what a person or a clock started.
    pub cause: Option<MessageId>,
    /// The saga that all of it belongs to (the order id).
    pub correlation: Option<Uuid>,
    pub trace: Trace,
    /// Who asked: `customer:<id>`, `operator:<id>`; `None` for the system itself.
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
    /// The stream's own count, from 1.
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

/// The order lines, stock lines and reasons below are `Serialize` both ways; this marks a reply given a second time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Repeated(pub bool);

impl Repeated {
    /// For `skip_serializing_if`: the usual reply does not carry the mark.
    pub fn is_first(&self) -> bool {
        !self.0
    }
}
