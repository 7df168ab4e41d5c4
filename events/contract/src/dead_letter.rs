//! A dead letter: a record that its consumer could not handle, with where it was found and why. It is a message itself, a row
//! of the consumer's log; `events/log` keeps it there and lists it for operators.

use serde::{Deserialize, Serialize};

use crate::{DecodeError, Encoded, payload, record::Record};

/// The largest record that is kept, in bytes: JSON may double it, and 4 MiB is what a topic of dead letters takes. A broker bounds
/// what it takes before it is unpacked, so a garbage record may be any size; ours stay far below.
const RECORD_BYTES_MAX: usize = 3 * 512 * 1024;
/// The longest `error` that is kept, in bytes: some quote what they found.
const ERROR_BYTES_MAX: usize = 4096;

/// A record that could not be handled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DeadLetter {
    /// The consumer group.
    pub consumer: String,
    pub topic: String,
    pub partition: i64,
    pub offset: i64,
    pub cause: Cause,
    /// What the cause was, in words.
    pub error: String,
    /// How often it was tried.
    pub attempts: u32,
    /// How often it was redriven.
    pub replays: u32,
    /// As it was found.
    pub record: Record,
}

/// What is wrong with a dead letter's record; `dlq_error_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The envelope or the payload can't be read.
    Undecodable,
    /// This build does not know the type, or not this schema version of it.
    UnknownType,
    /// The consumer's rules refuse it for good.
    Refused,
    /// It claims a source, partition or place in the chain that is not its own. It has moved nothing.
    Forged,
}

impl Cause {
    pub const ALL: [Self; 4] = [Self::Undecodable, Self::UnknownType, Self::Refused, Self::Forged];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Undecodable => "undecodable",
            Self::UnknownType => "unknown_type",
            Self::Refused => "refused",
            Self::Forged => "forged",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == text)
    }
}

impl DeadLetter {
    /// The type of its row.
    pub const KIND: &str = "skald.DeadLetter";
    pub const SCHEMA: i64 = 1;

    /// What would be kept of a record, and what is noted of the rest.
    pub fn kept(record: Record) -> (Record, String) {
        match record.size() {
            size if size > RECORD_BYTES_MAX => {
                (Record::default(), format!("the record, about {size} bytes, is too large to be kept: "))
            }
            _ => (record, String::new()),
        }
    }

    /// What is too large to be published is left out: of an error its end, of a record all but its coordinates.
    pub fn encode(&self) -> Encoded {
        let error = &self.error[..self.error.floor_char_boundary(ERROR_BYTES_MAX)];
        if self.record.size() <= RECORD_BYTES_MAX && error.len() == self.error.len() {
            return payload::encode(Self::KIND, Self::SCHEMA, self);
        }
        let (record, note) = Self::kept(self.record.clone());
        let (consumer, topic, error) = (self.consumer.clone(), self.topic.clone(), format!("{note}{error}"));
        payload::encode(Self::KIND, Self::SCHEMA, &Self { consumer, topic, error, record, ..*self })
    }

    /// Reads the data of a message of type [`KIND`](Self::KIND).
    ///
    /// # Errors
    /// [`DecodeError::Malformed`] if `data` is not a dead letter's.
    pub fn decode(data: &str) -> Result<Self, DecodeError> {
        serde_json::from_str(data).map_err(|source| DecodeError::Malformed { kind: Self::KIND.to_owned(), source })
    }

    /// The headers that a dead letter has besides those of every message, for Kafka's tools: the same that its data says, with the
    /// consumer by the name that its group has there.
    pub(crate) fn headers(self, mut add: impl FnMut(&str, String)) {
        add("dlq_original_topic", self.topic);
        add("dlq_original_partition", self.partition.to_string());
        add("dlq_original_offset", self.offset.to_string());
        add("dlq_consumer_group", format!("skald-{}", self.consumer));
        add("dlq_error_type", self.cause.as_str().to_owned());
        add("dlq_error_message", self.error);
        add("dlq_attempts", self.attempts.to_string());
        add("dlq_replay_count", self.replays.to_string());
    }
}
