//! Holds the end of what Kafka has of a log against the log, before anything more is published.
//!
//! A log that was restored from a backup, or that lost commits in a failover, is behind its own topics: what it appends next would
//! take the places of messages that consumers have handled. The other way round, a broker may have lost what it acknowledged.

use std::{collections::HashMap, time::Duration};

use super::{Kafka, Quiet, bound, group::record, relay::source_of, unreadable::is_unreadable};
use contract::{
    MessageId,
    record::{self, Link},
};
use eventlog::{Epoch, Error, Log};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    message::Message as _,
};

/// Records of each partition that are looked at; the next number where one of them has none that the log knows, in the end all.
const LOOKED_AT: [i64; 3] = [100, 10_000, i64::MAX];
/// The bound of the whole look.
const PATIENCE: Duration = Duration::from_secs(30);

/// After so many records that can't be read, and nothing else, nothing else will come.
const UNREADABLE_MAX: u32 = 5;

/// What Kafka holds at the end of one partition, as far as it is this log's.
pub(super) struct Tail {
    pub topic: String,
    pub partition: i32,
    /// No record was ever written to it, or all were dropped with the topic.
    pub is_new: bool,
    /// It was read from its very first record on.
    pub is_whole: bool,
    pub records: Vec<Found>,
}

pub(super) struct Found {
    link: Link,
    id: MessageId,
    /// It has come through the check of the message keys. What has not says something only where the log knows it, as when it was
    /// written before there was a key.
    is_vouched: bool,
}

/// The last position that the checkpoint has for a topic's partition.
type Published<'p> = &'p (dyn Fn(&str, i32) -> i64 + Sync);

/// What a comparison found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Compared {
    /// The first position at which Kafka has another message than the log, or one that the log no longer has.
    pub diverged: Option<i64>,
    /// Everything after this position has to be published again: Kafka has less than was published.
    pub lost: Option<i64>,
    /// The first position of messages that may be this log's, none of which it knows.
    unknown: Option<i64>,
}

/// Reads the ends of these topics. Blocks.
pub(super) fn read(kafka: &Kafka, log: &Log, topics: &[(String, i32)], looked_at: i64) -> Result<Vec<Tail>, String> {
    let mut config = kafka.client(&format!("skald-{}-tails", log.service()));
    config.set("group.id", "skald-tails").set("enable.auto.commit", "false").set("enable.partition.eof", "true");
    config.set("auto.offset.reset", "error").set("fetch.wait.max.ms", "100");
    bound(&mut config, log.env().memory());
    let client: BaseConsumer<Quiet> =
        config.create_with_context(Quiet).map_err(|error| format!("can't make a Kafka consumer: {error}"))?;
    let env = log.env();
    let until = env.now().plus(PATIENCE);
    let (mut tails, mut ends) = (Vec::new(), HashMap::new());
    let mut assignment = TopicPartitionList::new();
    for (topic, partitions) in topics {
        for partition in 0..*partitions {
            let left = until.since(env.now());
            let (low, high) = client
                .fetch_watermarks(topic, partition, left)
                .map_err(|error| format!("can't ask for the offsets of {topic} partition {partition}: {error}"))?;
            let from = low.max(high.saturating_sub(looked_at));
            if from < high {
                let offset = Offset::Offset(from);
                assignment.add_partition_offset(topic, partition, offset).map_err(|error| error.to_string())?;
                ends.insert((topic.clone(), partition), (tails.len(), high));
            }
            let (is_new, is_whole) = (high == 0, from == 0);
            tails.push(Tail { topic: topic.clone(), partition, is_new, is_whole, records: Vec::new() });
        }
    }
    client.assign(&assignment).map_err(|error| format!("can't read the topics: {error}"))?;
    let (mut ended, mut unreadable) = (0, 0);
    while !ends.is_empty() {
        if env.now() > until {
            return Err("can't read the ends of the topics in time".to_owned());
        }
        match client.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                let place = (message.topic().to_owned(), message.partition());
                let Some(&(index, high)) = ends.get(&place) else { continue };
                if let Ok((found, mut link)) = record::decode(&place.0, &record(&message)) {
                    let is_vouched = kafka.keys.check(&found, &mut link).is_ok();
                    tails[index].records.push(Found { link, id: found.id, is_vouched });
                }
                if message.offset() + 1 >= high {
                    ends.remove(&place);
                }
            }
            // Each partition says so once; where the last record is not for us to see, that is all that comes.
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            // Nobody can read what is there, the consumers neither, who tell it: this looks no further in that partition.
            Some(Err(error)) if is_unreadable(&error).is_some() => unreadable += 1,
            Some(Err(error)) => return Err(format!("can't read the topics: {error}")),
            None if ended >= assignment.count() || unreadable > UNREADABLE_MAX => break,
            None => {}
        }
    }
    Ok(tails)
}

/// Holds the tails against the log. `published` is the chain that the checkpoint has.
pub(super) async fn compare(log: &Log, epochs: &[Epoch], tails: &[Tail], published: Published<'_>) -> Result<Compared, Error> {
    // What an epoch published after the next one's beginning was lost, and is known to be.
    let is_lost =
        |link: &Link| epochs.iter().any(|epoch| epoch.number > link.source.epoch && epoch.first_position <= link.sequence);
    let ours = |link: &Link| link.source == log.source(link.source.epoch) && !is_lost(link);
    let of_ours = |tail: &Tail| tail.records.iter().filter(|found| ours(&found.link)).map(|found| found.link.sequence).collect();
    let positions: Vec<i64> = tails.iter().flat_map::<Vec<i64>, _>(of_ours).collect();
    let ids = log.ids_at(&positions).await?;
    let known = |link: &Link, id: MessageId| {
        ids.get(&link.sequence) == Some(&id.0) && source_of(log, epochs, link.sequence) == link.source
    };
    let mut compared = Compared::default();
    for tail in tails {
        // A forger bars no leader: what only looks like a message of this log is passed over.
        let is_told = |found: &&Found| ours(&found.link) && (found.is_vouched || known(&found.link, found.id));
        let records = || tail.records.iter().filter(is_told).map(|found| (&found.link, found.id));
        let newest = walk(records(), tail.is_whole, &known);
        let expected = published(&tail.topic, tail.partition);
        match newest {
            Newest::Diverged(at) => compared.diverged = Some(compared.diverged.map_or(at, |first| first.min(at))),
            Newest::Known(last) if last < expected => compared.lost = Some(compared.lost.map_or(last, |first| first.min(last))),
            Newest::Known(_) => {}
            Newest::None if expected > 0 && (tail.is_new || tail.is_whole) => compared.lost = Some(0),
            Newest::None => {}
        }
        if matches!(newest, Newest::None) {
            // A run of them is no forgery: all that Kafka has left may be what the log has lost.
            let in_a_run =
                |link: &Link| records().any(|(other, _)| other.sequence == link.previous && other.source == link.source);
            let first = records().map(|(link, _)| link).filter(|link| in_a_run(link)).map(|link| link.sequence).min();
            compared.unknown = compared.unknown.into_iter().chain(first).min();
        }
    }
    Ok(compared)
}

enum Newest {
    /// Nothing of this log, or nothing that can be told.
    None,
    Known(i64),
    /// The chain leads to a message that the log does not have.
    Diverged(i64),
}

/// Follows the chain from the first record that the log knows. What does not join it is a repeat or a forgery, and says nothing.
fn walk<'r>(
    records: impl Iterator<Item = (&'r Link, MessageId)>,
    is_whole: bool,
    known: &dyn Fn(&Link, MessageId) -> bool,
) -> Newest {
    let mut last: HashMap<i64, i64> = HashMap::new();
    let mut newest = Newest::None;
    for (link, id) in records {
        let epoch = link.source.epoch;
        let is_known = known(link, id);
        let joins = match last.get(&epoch) {
            Some(last) => link.sequence > *last && link.previous == *last,
            // The first of an epoch says so itself, if it is sure that nothing came before it.
            None => is_known || (link.previous == 0 && (is_whole || !last.is_empty())),
        };
        if !joins {
            continue;
        }
        last.insert(epoch, link.sequence);
        newest = match newest {
            Newest::Diverged(at) => Newest::Diverged(at),
            _ if !is_known => Newest::Diverged(link.sequence),
            _ => Newest::Known(link.sequence),
        };
    }
    newest
}

/// Reads and compares; looks further back where the first look found nothing that the log knows.
#[expect(
    clippy::disallowed_methods,
    reason = "one relay a process, which waits for it unless the process stops; what is read has a bound"
)]
pub(super) async fn check(
    kafka: &Kafka,
    log: &Log,
    epochs: &[Epoch],
    topics: Vec<(String, i32)>,
    published: Published<'_>,
) -> Result<Compared, String> {
    let mut compared = Compared::default();
    for looked_at in LOOKED_AT {
        let (kafka, reader, wanted) = (kafka.clone(), log.clone(), topics.clone());
        let tails = tokio::task::spawn_blocking(move || read(&kafka, &reader, &wanted, looked_at));
        let tails = tails.await.map_err(|error| error.to_string())??;
        compared = compare(log, epochs, &tails, published).await.map_err(|error| error.to_string())?;
        if compared.unknown.is_none() {
            break;
        }
    }
    // What follows the head is all that can be given to another epoch.
    let next = *log.head().borrow() + 1;
    compared.diverged = compared.diverged.into_iter().chain(compared.unknown).min().map(|first| first.min(next));
    Ok(compared)
}

#[cfg(test)]
mod tests {
    use contract::record::Source;
    use uuid::Uuid;

    use super::*;

    fn at(epoch: i64, previous: i64, sequence: i64) -> (Link, MessageId) {
        let source = Source { service: "order".into(), log: Uuid::nil(), epoch };
        (Link { source, sequence, previous, seal: contract::Seal::None }, Uuid::from_u128(sequence.unsigned_abs().into()).into())
    }

    /// A log that has the rows up to `head`, each with its position for an id.
    fn walked(records: &[(Link, MessageId)], head: i64, is_whole: bool) -> Option<Result<i64, i64>> {
        let known = |link: &Link, id: MessageId| link.sequence <= head && id.0.as_u128() == link.sequence as u128;
        match walk(records.iter().map(|(link, id)| (link, *id)), is_whole, &known) {
            Newest::None => None,
            Newest::Known(last) => Some(Ok(last)),
            Newest::Diverged(first) => Some(Err(first)),
        }
    }

    #[test]
    fn a_log_that_lost_commits_is_found_out_and_forgeries_are_not_believed() {
        let records = [at(1, 3, 5), at(1, 5, 9), at(1, 9, 12)];
        assert_eq!(walked(&records, 20, false), Some(Ok(12)));
        assert_eq!(walked(&records, 9, false), Some(Err(12)));
        assert_eq!(walked(&records, 4, false), None, "nothing here is known");
        assert_eq!(walked(&[at(1, 0, 2), at(1, 2, 5)], 1, true), Some(Err(2)), "a log that was made anew under the same id");
        let forged = [at(1, 3, 5), at(1, 3, 700), at(1, 600, 700), at(1, 5, 9), at(1, 3, 5)];
        assert_eq!(walked(&forged, 20, false), Some(Ok(9)));
        let mut other = at(1, 9, 12);
        other.1 = Uuid::from_u128(77).into();
        assert_eq!(walked(&[at(1, 5, 9), other], 20, false), Some(Err(12)), "the place was taken by another message since");
    }
}
