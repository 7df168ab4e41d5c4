//! The topics, one table. Names are `<domain>.<kind>.v<major>`; the key of whatever a saga touches is the order id.

use std::time::Duration;

pub const ORDER_EVENTS: &str = "order.events.v1";
pub const PRODUCT_COMMANDS: &str = "product.commands.v1";
pub const PRODUCT_EVENTS: &str = "product.events.v1";
pub const PAYMENT_COMMANDS: &str = "payment.commands.v1";
pub const PAYMENT_EVENTS: &str = "payment.events.v1";
pub const USER_EVENTS: &str = "user.events.v1";
pub const NOTIFICATION_EVENTS: &str = "notification.events.v1";
pub const SAGA_EVENTS: &str = "saga.events.v1";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MIB: u32 = 1024 * 1024;

/// What a topic carries and who writes it.
#[derive(Clone, Copy, Debug)]
pub struct Topic {
    pub name: &'static str,
    /// The one service whose log publishes to it.
    pub owner: &'static str,
    /// The services that consume it.
    pub readers: &'static [&'static str],
    /// Whether a saga stands still until its messages have come. The others may be published a little later, together.
    pub is_awaited: bool,
    pub settings: Settings,
}

/// What Kafka is told of a topic. Replication belongs to the cluster and is not said here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Never changes under one name, as the key decides the partition: more of them is a new version of the topic.
    pub partitions: i32,
    /// `retention.ms`: for how long a record is kept. Not a promise to consumers: what Kafka has dropped, `skald relay rewind`
    /// publishes again from the log.
    pub retention: Duration,
    /// `max.message.bytes`: the largest batch, which may be one record.
    pub max_message_bytes: u32,
}

/// A consumer may be away for a week, which is a long weekend and the days to notice, before somebody has to rewind.
const MESSAGES: Settings = Settings { partitions: 6, retention: DAY.saturating_mul(7), max_message_bytes: MIB };

/// Looked at by people, and few. Four times the size: each holds a whole record as a JSON string, which escaping may double,
/// and again its headers.
const DEAD_LETTERS: Settings = Settings { partitions: 6, retention: DAY.saturating_mul(30), max_message_bytes: 4 * MIB };

/// One that tells what has happened.
const fn news(name: &'static str, owner: &'static str, readers: &'static [&'static str]) -> Topic {
    Topic { name, owner, readers, is_awaited: false, settings: MESSAGES }
}

/// One that carries what a saga asks, or what it is answered.
const fn talk(name: &'static str, owner: &'static str, reader: &'static [&'static str]) -> Topic {
    Topic { is_awaited: true, ..news(name, owner, reader) }
}

/// Every topic but the dead letters, which are `<name>.dlq` each.
pub const TOPICS: [Topic; 8] = [
    news(ORDER_EVENTS, "order", &["notification"]),
    talk(PRODUCT_COMMANDS, "order", &["product"]),
    talk(PRODUCT_EVENTS, "product", &["order"]),
    talk(PAYMENT_COMMANDS, "order", &["payment"]),
    talk(PAYMENT_EVENTS, "payment", &["order"]),
    news(USER_EVENTS, "user", &[]),
    news(NOTIFICATION_EVENTS, "notification", &[]),
    news(SAGA_EVENTS, "order", &[]),
];

/// Whether a saga stands still until messages of `topic` have come.
pub fn is_awaited(topic: &str) -> bool {
    TOPICS.iter().any(|found| found.is_awaited && found.name == topic)
}

/// Where a message of `topic` goes that a consumer can't handle.
pub fn dead_letters(topic: &str) -> String {
    format!("{topic}.dlq")
}

/// Every topic that a cluster must have: those of the table, and the dead letters of those that somebody reads. The readers'
/// logs publish the dead letters; nobody reads them but people.
pub fn all() -> impl Iterator<Item = (String, Settings)> {
    let messages = TOPICS.iter().map(|topic| (topic.name.to_owned(), topic.settings));
    let read = TOPICS.iter().filter(|topic| !topic.readers.is_empty());
    messages.chain(read.map(|topic| (dead_letters(topic.name), DEAD_LETTERS)))
}

/// What the envelope and Kafka's own framing take beside a record's value: fifteen headers, one of which may be long.
const ENVELOPE_BYTES: u32 = 16 * 1024;

/// The largest value of a record of `topic`, in bytes; `None` for what is no topic of the table.
pub fn value_bytes_max(topic: &str) -> Option<usize> {
    let (name, dead) = topic.strip_suffix(".dlq").map_or((topic, false), |name| (name, true));
    let found = TOPICS.iter().find(|topic| topic.name == name)?;
    let settings = if dead { DEAD_LETTERS } else { found.settings };
    Some((settings.max_message_bytes - ENVELOPE_BYTES) as usize)
}

/// The partition of `key` among `partitions` (at least one): what Kafka's own producers choose, `murmur2(key)` without its sign.
pub fn partition_of(key: &[u8], partitions: i32) -> i32 {
    (murmur2(key) & i32::MAX) % partitions
}

/// Austin Appleby's MurmurHash2, with the seed that Kafka took.
fn murmur2(data: &[u8]) -> i32 {
    const MIX: u32 = 0x5bd1_e995;
    let (words, rest) = data.as_chunks::<4>();
    // Java's length is an i32; a key is never that long.
    let mut hash = 0x9747_b28c ^ data.len() as u32;
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(MIX);
        word ^= word >> 24;
        hash = hash.wrapping_mul(MIX) ^ word.wrapping_mul(MIX);
    }
    if !rest.is_empty() {
        let rest = rest.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
        hash = (hash ^ rest).wrapping_mul(MIX);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(MIX);
    (hash ^ hash >> 15).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_to_the_partition_that_kafka_s_own_producers_choose() {
        // Source: Kafka's UtilsTest.testMurmur2.
        let published = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, hash) in published {
            assert_eq!(murmur2(key.as_bytes()), hash, "{key}");
            assert_eq!(partition_of(key.as_bytes(), 6), (hash & 0x7fff_ffff) % 6, "{key}");
        }
    }

    #[test]
    fn a_cluster_has_dead_letters_for_each_topic_that_is_read() {
        let names: Vec<String> = all().map(|(name, _)| name).collect();
        assert_eq!(names.len(), 8 + 5);
        assert!(names.contains(&"payment.commands.v1.dlq".to_owned()));
        assert!(!names.contains(&"user.events.v1.dlq".to_owned()));
    }
}
