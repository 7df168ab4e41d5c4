//! Where messages stand on their topics: looked up when somebody reads a history, never on the way of a message.
//!
//! A record carries the time of its row, so Kafka's own index of times leads to it. Never here: writing; the group that this client
//! names has no members and no offsets.

use std::{collections::HashMap, sync::Arc, time::Duration};

use contract::{Link, Message, MessageId, record, topics};
use eventlog::Env;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    message::Message as _,
};

use super::{Kafka, Quiet, group};

/// The bound of the whole look: somebody waits for it.
const PATIENCE: Duration = Duration::from_secs(3);
/// Records that are read for one message: those of its partition from the same millisecond, and what was published out of time before.
const READ_MAX: usize = 500;

/// A partition and an offset in it.
pub type Place = (i32, i64);

/// Finds published rows by their ids. One that is not on its topic, not yet or no longer, is not in the answer; nor is one that was not
/// found in three seconds.
///
/// # Errors
/// What Kafka's client said.
pub async fn locate(kafka: Kafka, rows: Vec<Arc<Message>>, env: Env) -> Result<HashMap<MessageId, Place>, String> {
    let looked = tokio::task::spawn_blocking(move || look(&kafka, &rows, &env));
    looked.await.unwrap_or_else(|error| Err(error.to_string()))
}

fn look(kafka: &Kafka, rows: &[Arc<Message>], env: &Env) -> Result<HashMap<MessageId, Place>, String> {
    let mut config = kafka.client("skald-locate");
    config.set("group.id", "skald-locate").set("enable.auto.commit", "false").set("auto.offset.reset", "error");
    config.set("fetch.wait.max.ms", "100");
    let client: BaseConsumer<Quiet> = config.create_with_context(Quiet).map_err(|error| error.to_string())?;
    let until = env.now().plus(PATIENCE);
    let mut found = HashMap::new();
    for row in rows {
        let (Some(topic), Some(key)) = (row.topic.as_deref(), row.key.as_deref()) else { continue };
        let Some((_, settings)) = topics::all().find(|(name, _)| name == topic) else { continue };
        let partition = topics::partition_of(key.as_bytes(), settings.partitions);
        let left = until.since(env.now());
        if left.is_zero() {
            break;
        }
        let mut at = TopicPartitionList::new();
        at.add_partition_offset(topic, partition, Offset::Offset(row.time.0 / 1_000)).map_err(|error| error.to_string())?;
        let from = client.offsets_for_times(at, left).map_err(|error| error.to_string())?;
        if !from.elements().iter().all(|element| matches!(element.offset(), Offset::Offset(_))) {
            continue;
        }
        client.assign(&from).map_err(|error| error.to_string())?;
        for _ in 0..READ_MAX {
            match client.poll(until.since(env.now())) {
                None => break,
                Some(Err(error)) => return Err(error.to_string()),
                Some(Ok(message)) => {
                    let is_it = |(message, mut link): (Message, Link)| {
                        message.id == row.id && kafka.keys.check(&message, &mut link).is_ok()
                    };
                    if record::decode(topic, &group::record(&message)).is_ok_and(is_it) {
                        found.insert(row.id, (partition, message.offset()));
                        break;
                    }
                }
            }
        }
    }
    Ok(found)
}
