//! One Kafka partition as a source, without Kafka: what it has handed out, and what becomes of that when another was faster.

use std::{sync::Arc, time::Duration};

use contract::{
    Message, Meta, Timestamp, record,
    topics::{self, TOPICS, Topic},
};
use eventlog::{Arrived, Env, Log, Memory, testing::TestDatabase};
use skald_bus::{
    Source,
    kafka::{Buffer, Partition, Places, Room, incoming},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The record that the order service publishes at a position, behind the one before it.
fn published(position: i64) -> record::Record {
    let message = Message {
        position,
        id: Uuid::from_u128(position as u128).into(),
        stream: "order-1".into(),
        version: 1,
        topic: Some(topics::ORDER_EVENTS.into()),
        key: Some("key".into()),
        kind: "order.OrderPlaced".into(),
        schema: 1,
        data: "{}".into(),
        time: Timestamp(0),
        meta: Meta::default(),
    };
    let source = record::Source { service: "order".into(), log: Uuid::from_u128(1), epoch: 1 };
    record::encode(&message, &source, position - 1)
}

/// The topic and partition that these records are for, and the log of who reads it.
async fn sink() -> (&'static Topic, i32, TestDatabase, Log) {
    let topic = TOPICS.iter().find(|topic| topic.name == topics::ORDER_EVENTS).unwrap();
    let number = topics::partition_of(b"key", topic.settings.partitions);
    let database = TestDatabase::fresh().await;
    let log = Log::open(database.database.clone(), "sink", &[], Env::system()).await.unwrap().log;
    (topic, number, database, log)
}

/// A record that is no message, of so many bytes.
fn junk(bytes: usize) -> record::Record {
    record::Record { key: None, headers: Vec::new(), value: Some(vec![b'x'; bytes]) }
}

/// Offsets 10, 11 and 12 are handed out; then the progress is found at `next`. Whether the partition goes on with what it has buffered.
async fn goes_on_after(next: i64) -> bool {
    let (topic, number, _database, log) = sink().await;
    let (buffer, lost) = (Buffer::new(10, &Room::new(Memory::default())), CancellationToken::new());
    let at = (topic.name.to_owned(), i64::from(number));
    let mut partition = Partition::new("sink", at, buffer.clone(), log, lost.clone(), Places::default(), true);
    for offset in 10..13 {
        buffer.push(incoming(topic, number, offset, published(offset)));
    }
    let batch = tokio::time::timeout(Duration::from_secs(10), partition.next()).await.unwrap().unwrap().unwrap();
    assert_eq!((batch.from, batch.next, batch.messages.len()), (10, 13, 3));
    buffer.push(incoming(topic, number, 13, published(13)));
    partition.seek(topic.name, i64::from(number), next);
    !lost.is_cancelled()
}

#[tokio::test]
async fn a_reader_goes_on_with_its_buffer_only_where_that_begins_at_the_progress() {
    assert!(goes_on_after(13).await, "its own batch was committed");
    assert!(goes_on_after(14).await, "another handled more: the buffer leads there");
    // Another came as far as 11: 11 and 12 were taken out of the buffer, and going on with 13 would pass them over.
    assert!(!goes_on_after(11).await);
    assert!(!goes_on_after(9).await, "rewound");
}

#[tokio::test]
async fn a_topic_that_was_made_anew_is_remembered_until_reading_it_from_its_beginning_has_begun() {
    let (topic, number, _database, log) = sink().await;
    let at = (topic.name.to_owned(), i64::from(number));
    let made_anew = Places::default();
    let is_remembered = || made_anew.contains(&at);
    let partition = |buffer: &Arc<Buffer>, is_new: bool| {
        let (log, lost) = (log.clone(), CancellationToken::new());
        Partition::new("sink", at.clone(), buffer.clone(), log, lost, made_anew.clone(), !is_new)
    };
    let within = Duration::from_secs(10);

    // The message before the progress is not the one that was handled.
    let buffer = Buffer::new(10, &Room::new(Memory::default()));
    buffer.push(incoming(topic, number, 9, published(9)));
    let mut old = partition(&buffer, false);
    assert!(tokio::time::timeout(within, old.next()).await.unwrap().unwrap().is_none(), "it is not read on");
    assert!(is_remembered());

    // Ten messages again, so that the last ends where the progress is.
    let buffer = Buffer::new(10, &Room::new(Memory::default()));
    for offset in 0..10 {
        buffer.push(incoming(topic, number, offset, published(offset + 1)));
    }
    let mut new = partition(&buffer, true);
    let mut next = async || {
        let batch = tokio::time::timeout(within, new.next()).await.unwrap().unwrap().unwrap();
        let found = (batch.from, batch.next, batch.messages.len(), is_remembered());
        new.seek(topic.name, i64::from(number), batch.next);
        found
    };
    assert_eq!(next().await, (10, 0, 0, true), "an assignment that ended here would begin at the beginning again");
    assert_eq!(next().await, (0, 10, 10, false));
}

#[tokio::test]
async fn a_partition_is_full_by_bytes_and_what_is_larger_than_all_of_its_room_is_handled_alone() {
    let (topic, number, _database, log) = sink().await;
    let memory = Memory::of(64 * 10_000);
    let log = {
        let env = Env::system().with_memory(memory);
        let at = log.database().clone();
        drop(log);
        Log::open(at, "sink", &[], env).await.unwrap().log
    };
    let room = Room::new(memory);
    let (buffer, other) = (Buffer::new(0, &room), Buffer::new(0, &room));
    let at = (topic.name.to_owned(), i64::from(number));
    let mut partition = Partition::new("sink", at, buffer.clone(), log, CancellationToken::new(), Places::default(), true);
    assert!(!buffer.is_full() && buffer.has_room());
    // Batches of 10,000 bytes; each of the two partitions may hold 40,000.
    for (offset, bytes) in [(0, 3_000), (1, 3_000), (2, 3_000), (3, 100_000), (4, 3_000)] {
        buffer.push(incoming(topic, number, offset, junk(bytes)));
    }
    assert!(buffer.is_full(), "whatever came is held all the same");
    assert!(!other.is_full(), "and takes nothing from the other");
    for (next, is_full, has_room) in [(2, true, false), (3, true, false), (4, true, false), (5, false, true)] {
        let batch = partition.next().await.unwrap().unwrap();
        assert_eq!(batch.next, next);
        assert_eq!((buffer.is_full(), buffer.has_room()), (is_full, has_room), "what is being handled counts, before {next}");
        partition.seek(topic.name, i64::from(number), next);
    }
    assert!(buffer.has_room());
    drop((other, partition));
    // Alone it has all the room.
    for offset in 5..12 {
        buffer.push(incoming(topic, number, offset, junk(10_000)));
    }
    assert!(!buffer.is_full());
    buffer.push(incoming(topic, number, 12, junk(10_000)));
    assert!(buffer.is_full());
}

#[test]
fn what_is_too_large_for_a_dead_letter_is_not_held_until_it_is_one() {
    let topic = TOPICS.iter().find(|topic| topic.name == topics::ORDER_EVENTS).unwrap();
    let found = incoming(topic, 0, 1, junk(50_000_000));
    assert!(found.message.weight() < 1_000);
    let Arrived::Raw(record) = found.message else { panic!("it is no message") };
    assert_eq!(*record, record::Record::default());
    assert!(found.poison.unwrap().error.starts_with("the record, about 500000"));
}
