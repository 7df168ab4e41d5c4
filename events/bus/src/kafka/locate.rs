//! Where messages stand on their topics: looked up when somebody reads a history, never on the way of a message.
//!
//! A record is stamped by its broker when it comes there, which is after its row was written: so Kafka's own index of times leads to where
//! to begin, if the two clocks agree. Never here: writing; the group that this client
//! names has no members and no offsets.

use std::{collections::HashMap, sync::Arc, time::Duration};

use contract::{Link, Message, MessageId, record, topics};
use eventlog::Env;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    message::Message as _,
};
use tokio::sync::Semaphore;

use super::{Kafka, Quiet, bound, group};

/// The bound of the whole look: somebody waits for it.
const PATIENCE: Duration = Duration::from_secs(3);
/// Records that are read for one message: those of its partition that came while it was on its way.
const READ_MAX: usize = 5_000;
/// What the broker's clock may be behind that of the service.
const BEFORE: Duration = Duration::from_secs(2);

/// Looks at a time: each is a client of its own, with threads and buffers.
const LOOKS_MAX: usize = 2;

/// A partition and an offset in it.
pub type Place = (i32, i64);

/// Finds published rows by their ids. Cheap to clone.
#[derive(Clone)]
pub struct Locator {
    kafka: Kafka,
    env: Env,
    looks: Arc<Semaphore>,
}

impl Locator {
    pub fn new(kafka: Kafka, env: Env) -> Self {
        Self { kafka, env, looks: Arc::new(Semaphore::new(LOOKS_MAX)) }
    }

    /// Where the rows are. One that is not on its topic, not yet or no longer, is not in the answer; nor is one that was not found in three
    /// seconds.
    ///
    /// # Errors
    /// What Kafka's client said.
    #[expect(
        clippy::disallowed_methods,
        reason = "so many at once: the permit goes in, as the look goes on when its reader has gone"
    )]
    pub async fn locate(&self, rows: Vec<Arc<Message>>) -> Result<HashMap<MessageId, Place>, String> {
        let permit = self.looks.clone().acquire_owned().await.map_err(|error| error.to_string())?;
        let (kafka, env) = (self.kafka.clone(), self.env.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let found = look(&kafka, &rows, &env);
            drop(permit);
            found
        });
        looked.await.unwrap_or_else(|error| Err(error.to_string()))
    }
}

fn look(kafka: &Kafka, rows: &[Arc<Message>], env: &Env) -> Result<HashMap<MessageId, Place>, String> {
    let mut config = kafka.client("skald-locate");
    config.set("group.id", "skald-locate").set("enable.auto.commit", "false").set("auto.offset.reset", "error");
    config.set("fetch.wait.max.ms", "100");
    bound(&mut config, env.memory());
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
        at.add_partition_offset(topic, partition, Offset::Offset(row.time.minus(BEFORE).0 / 1_000))
            .map_err(|error| error.to_string())?;
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

#[cfg(test)]
mod tests {
    use contract::Meta;
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_look_counts_until_it_has_ended_whoever_has_gone() {
        let nobody = Kafka::new(vec![("bootstrap.servers".to_owned(), "127.0.0.1:1".to_owned())]);
        let (env, topic) = (Env::system(), topics::ORDER_EVENTS.to_owned());
        let locator = Locator::new(nobody, env.clone());
        let row = Arc::new(Message {
            position: 1,
            id: env.id().into(),
            stream: "order-1".to_owned(),
            version: 1,
            topic: Some(topic),
            key: Some("1".to_owned()),
            kind: "order.OrderPlaced".to_owned(),
            schema: 1,
            data: "{}".to_owned(),
            time: env.now(),
            meta: Meta::default(),
        });
        for _ in 0..LOOKS_MAX {
            assert!(locator.locate(vec![row.clone()]).now_or_never().is_none());
        }
        assert_eq!(locator.looks.available_permits(), 0, "their readers have gone, and they go on");
        let ended = tokio::time::timeout(PATIENCE * 20, locator.looks.acquire_many(LOOKS_MAX as u32)).await;
        assert!(ended.expect("they end").is_ok());
    }
}
