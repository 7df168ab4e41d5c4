//! Why nothing comes of a partition that has more: asked by a client of its own, which reads this one offset and nothing else, so that
//! whatever Kafka answers is about that.
//!
//! Never here: what is done about it. `group` passes over what is found to be unreadable here, and nothing else.

use std::time::Duration;

use contract::{dead_letter::Cause, record::Record};
use eventlog::{Arrived, Env, Poison};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    message::Message as _,
};

use super::{Kafka, Quiet};
use crate::Incoming;

/// How long Kafka is asked.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(100);
/// How often an offset has to be unreadable for this client, to which nothing else is told.
const TRIES: u32 = 2;

/// Why nothing comes.
#[derive(Debug)]
pub(super) enum Why {
    /// It can be read, or there is nothing: whoever reads it has stopped by itself.
    Readable,
    /// What Kafka holds between the offset and this one can't be read by any client: it is broken, or written in a way that this build
    /// does not know.
    Unreadable { until: i64, code: RDKafkaErrorCode },
    /// Kafka does not hold the offset.
    OutOfRange,
    /// Kafka refuses, is away, or does not answer. Never a reason to pass anything over.
    Refused(String),
}

/// Whether the error says that a record was received and nothing can be made of it. What says less than that is an outage.
pub(super) fn is_unreadable(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::MessageConsumption(
            code @ (RDKafkaErrorCode::BadMessage
            | RDKafkaErrorCode::BadCompression
            | RDKafkaErrorCode::NotImplemented
            | RDKafkaErrorCode::InvalidMessage),
        ) => Some(*code),
        _ => None,
    }
}

/// Whether the error says that Kafka does not hold the offset that was asked for.
pub(super) fn is_out_of_range(error: &KafkaError) -> bool {
    let KafkaError::MessageConsumption(code) = error else { return false };
    matches!(code, RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange)
}

/// What stands for records that can't be read: a dead letter by the first of their offsets, without their bytes.
pub(super) fn in_place_of(first: i64, until: i64, code: RDKafkaErrorCode) -> Incoming {
    let last = until - 1;
    let error = format!("Kafka holds nothing that can be read at the offsets {first} to {last}: {code}");
    let record = Record { key: None, headers: Vec::new(), value: None };
    Incoming { offset: first, message: Arrived::Raw(record.into()), poison: Some(Poison::new(Cause::Undecodable, error)) }
}

/// A client that asks for one offset of one partition at a time.
pub(super) struct Asking {
    client: BaseConsumer<Quiet>,
    env: Env,
}

impl Asking {
    pub(super) fn begin(kafka: &Kafka, env: &Env) -> Result<Self, KafkaError> {
        let mut config = kafka.client("skald-why");
        config
            .set("group.id", "skald-why")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("check.crcs", "true")
            .set("fetch.wait.max.ms", "100")
            .set("fetch.error.backoff.ms", "10");
        Ok(Self { client: config.create_with_context(Quiet)?, env: env.clone() })
    }

    /// Asks for an offset, and where it is unreadable for the first one behind it that is not. Blocks.
    pub(super) fn ask(&self, place: &(String, i32), offset: i64) -> Why {
        self.look(place, offset).unwrap_or_else(|error| Why::Refused(error.to_string()))
    }

    fn look(&self, (topic, partition): &(String, i32), offset: i64) -> Result<Why, KafkaError> {
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, *partition, Offset::Offset(offset))?;
        self.client.assign(&assignment)?;
        let until = self.env.now().plus(PATIENCE);
        let (mut at, mut tries, mut found) = (offset, 0, None);
        let readable_at = |at: i64, found: Option<RDKafkaErrorCode>| match found {
            Some(code) if at > offset => Why::Unreadable { until: at, code },
            _ => Why::Readable,
        };
        while self.env.now() < until {
            match self.client.poll(POLL) {
                None => {}
                Some(Ok(message)) => return Ok(readable_at(message.offset(), found)),
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(readable_at(at, found)),
                Some(Err(error)) => {
                    if is_out_of_range(&error) {
                        return Ok(Why::OutOfRange);
                    }
                    let Some(code) = is_unreadable(&error) else { return Err(error) };
                    tries += 1;
                    if tries >= TRIES {
                        // Where it ends is told nowhere: the next offset may be in the same batch.
                        (at, tries, found) = (at + 1, 0, Some(code));
                    }
                    // Behind a checksum that is wrong librdkafka loses its place: only the first that it says of an offset counts.
                    self.client.seek(topic, *partition, Offset::Offset(at), PATIENCE)?;
                }
            }
        }
        Ok(match found {
            Some(code) => Why::Unreadable { until: at, code },
            None => Why::Refused("it does not answer in time".to_owned()),
        })
    }
}
