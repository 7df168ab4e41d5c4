//! The envelope: what is known of a message apart from its payload. Its fields become columns of the log and CloudEvents
//! headers on Kafka.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{MessageId, Timestamp, Trace, trace};

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
    /// The metadata of what `consumer` appends by handling this message now: caused by it, in the same saga, and under the span of
    /// its handling, which is in the same trace unless it comes late.
    pub fn effect(&self, consumer: &str, now: Timestamp) -> Meta {
        self.handled(trace::handling(&self.meta.trace, consumer, self.id, trace::is_late(self.time, now).then_some("late")))
    }

    /// The same for a dead letter that was redriven so often before, and the context of the redrive itself, which is an act of its own
    /// and begins a trace: the handling goes on in the message's trace, or in that of the redrive if it comes late.
    pub fn redriven(&self, consumer: &str, replays: i64, now: Timestamp) -> (Meta, Trace) {
        let (act, handling) = trace::redriving(&self.meta.trace, consumer, self.id, replays, trace::is_late(self.time, now));
        (self.handled(handling), act)
    }

    fn handled(&self, trace: Trace) -> Meta {
        Meta { cause: Some(self.id), correlation: self.meta.correlation, trace, actor: None }
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
