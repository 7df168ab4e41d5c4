//! One Kafka partition as a source, without Kafka: what it has handed out, and what becomes of that when another was faster.

use std::{sync::Arc, time::Duration};

use contract::{
    Message, Meta, Timestamp, record,
    topics::{self, TOPICS, Topic},
};
use eventlog::{Arrived, Env, Log, Memory, on, testing::TestDatabase};
use skald_bus::{
    Source, consume,
    kafka::{Buffer, Partition, Places, Room, begin_at, incoming},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Running, spawn, until};

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

/// A partition with what it is told by: where it is, its buffer, the token by which it asks for another assignment.
struct Reading {
    partition: Partition,
    at: (String, i64),
    buffer: Arc<Buffer>,
    lost: CancellationToken,
}

impl Reading {
    fn begin(topic: &Topic, number: i32, log: &Log, stored: i64) -> Self {
        let (buffer, lost, at) = (
            Buffer::new(stored, &Room::new(Memory::default())),
            CancellationToken::new(),
            (topic.name.to_owned(), i64::from(number)),
        );
        let partition = Partition::new("sink", at.clone(), buffer.clone(), log.clone(), lost.clone(), Places::default(), true);
        Self { partition, at, buffer, lost }
    }

    /// Records with these offsets are polled.
    fn poll(&self, topic: &'static Topic, number: i32, offsets: impl IntoIterator<Item = i64>) {
        offsets.into_iter().for_each(|offset| self.buffer.push(incoming(topic, number, offset, published(offset))));
    }

    /// The next batch: where it claims to begin and end, and the offsets of its messages. `None` when it is over.
    async fn next(&mut self) -> Option<(i64, i64, Vec<i64>)> {
        let next = tokio::time::timeout(Duration::from_secs(10), self.partition.next()).await;
        let batch = next.expect("something has come, or it is over").unwrap()?;
        Some((batch.from, batch.next, batch.messages.iter().map(|incoming| incoming.offset).collect()))
    }

    fn seek(&mut self, next: i64) {
        self.partition.seek(&self.at.0, self.at.1, next);
    }
}

/// Offsets 10, 11 and 12 are handed out, and 13 to 15 are polled meanwhile; then the progress is found at `next`. What is handled then.
async fn handled_after(next: i64) -> Option<(i64, i64, Vec<i64>)> {
    let (topic, number, _database, log) = sink().await;
    let mut reading = Reading::begin(topic, number, &log, 10);
    reading.poll(topic, number, 10..13);
    assert_eq!(reading.next().await, Some((10, 13, vec![10, 11, 12])));
    reading.poll(topic, number, 13..16);
    reading.seek(next);
    let handled = reading.next().await;
    assert_eq!(reading.lost.is_cancelled(), handled.is_none(), "who ends is assigned again");
    handled
}

#[tokio::test]
async fn a_reader_goes_on_with_its_buffer_only_where_that_begins_at_the_progress() {
    assert_eq!(handled_after(13).await, Some((13, 16, vec![13, 14, 15])), "its own batch was committed");
    assert_eq!(handled_after(10).await, None, "nothing of it was, as a message is missing: Kafka is asked again");
    // Another came as far as 11: 11 and 12 were taken out of the buffer, and going on with 13 would pass them over. Not in an instant
    // from now, when whoever polls has noticed: not at all.
    assert_eq!(handled_after(11).await, None);
    assert_eq!(handled_after(9).await, None, "rewound");
}

#[tokio::test]
async fn what_another_has_handled_meanwhile_is_left_out_and_what_was_left_out_is_taken() {
    let (topic, number, _database, log) = sink().await;
    let source = record::Source { service: "order".into(), log: Uuid::from_u128(1), epoch: 1 };
    let mut connection = log.database().connect().await.unwrap();
    let sql = "INSERT INTO progress (consumer, topic, partition, next_offset, seen) VALUES ('sink', $1, $2, 15, $3)";
    let seen = format!("{{\"{source}\":14}}");
    let at = (topic.name, i64::from(number));
    let insert = on!(&mut connection.conn(), |c| {
        sqlx::query::<DB>(sql).bind(at.0).bind(at.1).bind(seen.as_str()).execute(c).await.map(drop)
    });
    insert.unwrap();
    let mut reading = Reading::begin(topic, number, &log, 10);
    reading.poll(topic, number, 10..13);
    assert_eq!(reading.next().await, Some((10, 13, vec![10, 11, 12])));
    // Kafka holds no record 16: a marker of its own is there.
    reading.poll(topic, number, [13, 14, 15, 17]);
    reading.seek(15);
    assert_eq!(reading.next().await, Some((15, 18, vec![15, 17])));
    assert!(!reading.lost.is_cancelled());
    // 13 and 14 were passed over, not handed out; they are gone from the buffer all the same.
    reading.seek(14);
    reading.poll(topic, number, [18]);
    assert_eq!(reading.next().await, None);
    assert!(reading.lost.is_cancelled());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_did_not_hand_out_is_asked_for_once_more_before_it_is_told_missing() {
    let heard = crate::heard::capture();
    let (topic, number, database, _) = sink().await;
    let sink = Running::start("sink", &database).await;
    let progress = async || sink.writer.log().progress("sink", topic.name, i64::from(number)).await.unwrap();
    // One assignment with what it is handed, until all of that is handled; or until it asks for another one.
    let begins_again_after = async |offsets: &[i64]| {
        let Reading { partition, buffer, lost, .. } = Reading::begin(topic, number, sink.writer.log(), progress().await);
        for offset in offsets {
            buffer.push(incoming(topic, number, *offset, published(offset + 1)));
        }
        let (stop, next) = (CancellationToken::new(), offsets.last().unwrap() + 1);
        let consumer = spawn(consume("sink", partition, sink.service.clone(), sink.writer.clone(), stop.clone()));
        until("it is handled, or begins again", async || lost.is_cancelled() || progress().await == next).await;
        stop.cancel();
        consumer.await.unwrap();
        lost.is_cancelled()
    };
    let parked = || sink.writer.log().parked();

    assert!(begins_again_after(&[0, 2]).await);
    assert_eq!((progress().await, parked()), (0, 0), "nothing is kept of it");
    assert!(!begins_again_after(&[0, 1, 2]).await);
    assert_eq!(*sink.service.seen.lock().unwrap(), [1, 2, 3]);
    assert!(!heard.has("messages are missing"), "{}", crate::heard::all());

    // Now Kafka has lost one.
    assert!(begins_again_after(&[4]).await);
    assert!(!begins_again_after(&[4]).await, "asked once, and not for ever");
    assert_eq!((progress().await, parked()), (5, 1));
    assert!(heard.has("skald relay rewind --to 3"), "{}", crate::heard::all());
    assert!(!begins_again_after(&[5]).await, "what comes behind a gap that is known is no other gap");
    assert_eq!((progress().await, parked(), sink.service.seen.lock().unwrap().len()), (6, 2, 3));
    sink.stop().await;
}

#[tokio::test]
async fn what_waits_behind_a_gap_is_looked_before_once() {
    let (places, at) = (Places::default(), ("topic".to_owned(), 1));
    assert_eq!(begin_at(5_000, 0, 9_000, places.from(&at)), (4_999, true));
    places.look_back(&at, 4_900);
    assert_eq!(begin_at(5_000, 0, 9_000, places.from(&at)), (2_851, false), "as far as anything was ever taken out of a buffer");
    assert_eq!(begin_at(5_000, 4_000, 9_000, places.from(&at)), (4_000, false), "Kafka holds no more");
    assert_eq!(begin_at(5_000, 0, 4_000, places.from(&at)), (0, false), "made anew meanwhile");
}

#[tokio::test]
async fn a_topic_that_was_made_anew_is_remembered_until_reading_it_from_its_beginning_has_begun() {
    let (topic, number, _database, log) = sink().await;
    let at = (topic.name.to_owned(), i64::from(number));
    let made_anew = Places::default();
    let is_remembered = || made_anew.from(&at).is_some();
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
