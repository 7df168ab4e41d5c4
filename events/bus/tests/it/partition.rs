//! One Kafka partition as a source, without Kafka: what it has handed out, and what becomes of that when another was faster.

use std::{sync::Arc, time::Duration};

use contract::{
    Message, Meta, Timestamp, record,
    topics::{self, TOPICS, Topic},
};
use eventlog::{Env, Log, testing::TestDatabase};
use skald_bus::{
    Source,
    kafka::{Buffer, Partition, Places, incoming},
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

/// Offsets 10, 11 and 12 are handed out; then the progress is found at `next`. Whether the partition goes on with what it has buffered.
async fn goes_on_after(next: i64) -> bool {
    let (topic, number, _database, log) = sink().await;
    let (buffer, lost) = (Buffer::new(10), CancellationToken::new());
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
    let buffer = Buffer::new(10);
    buffer.push(incoming(topic, number, 9, published(9)));
    let mut old = partition(&buffer, false);
    assert!(tokio::time::timeout(within, old.next()).await.unwrap().unwrap().is_none(), "it is not read on");
    assert!(is_remembered());

    // Ten messages again, so that the last ends where the progress is.
    let buffer = Buffer::new(10);
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
