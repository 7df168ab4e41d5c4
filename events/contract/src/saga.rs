//! What any saga says of itself. Only start, end and stuck are published; transitions stay in the log.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::payload::messages;

/// An instance began. First row of the stream `saga-<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SagaStarted {
    pub saga: String,
    pub saga_id: Uuid,
    /// The version of the table that the instance runs by.
    pub definition: u16,
}

/// One step of an instance: what came in, where it was, where it is. Private. The saga's crate owns the words of
/// `input`, `from`, `to` and `reason`; replaying these rows through `decide` must give the same instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SagaMoved {
    pub input: serde_json::Value,
    pub from: Option<String>,
    pub to: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The command that was asked with this step, such as `reserve_stock`; none when the instance has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
    /// How often that command was asked, from 1.
    pub attempt: u32,
    /// What the commands are made from; on the first row only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<serde_json::Value>,
    /// An operator's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// An instance reached its end. Published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SagaEnded {
    pub saga: String,
    pub saga_id: Uuid,
    /// The final state, such as `Confirmed`.
    pub outcome: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// An instance has waited past its bound. It goes on asking; an operator should look. Published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SagaStuck {
    pub saga: String,
    pub saga_id: Uuid,
    pub step: String,
    pub attempts: u32,
}

messages! {
    /// `saga.events.v1` and the private rows of the stream `saga-<id>`.
    pub enum Event on SAGA_EVENTS {
        SagaStarted = "saga.SagaStarted" v 1,
        SagaMoved = "saga.SagaMoved" v 1 private,
        SagaEnded = "saga.SagaEnded" v 1,
        SagaStuck = "saga.SagaStuck" v 1,
    }
}
