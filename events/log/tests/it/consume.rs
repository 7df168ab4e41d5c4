//! Deliveries: progress and effects commit together; poison becomes a dead letter in the same transaction.

use std::sync::Arc;

use contract::{Message, Meta, Timestamp};
use skald_log::{Claim, Delivered, Item, on, testing::TestDatabase};

use crate::fixture::{Running, Work, assert_without_gaps, count, job, start};

fn message(position: i64) -> Arc<Message> {
    Arc::new(Message {
        position,
        id: uuid::Uuid::from_u128(position.unsigned_abs().into()).into(),
        stream: "s".into(),
        version: position,
        topic: Some("other.events.v1".into()),
        key: Some("k".into()),
        kind: "other.Happened".into(),
        schema: 1,
        data: "{}".into(),
        time: Timestamp(0),
        meta: Meta::default(),
    })
}

fn claim(from: i64, next: i64) -> Claim {
    Claim { consumer: "test".into(), topic: "log:other".into(), partition: 0, from, next }
}

fn good(offset: i64) -> Item<Work> {
    Item { message: message(offset), offset, work: Ok(job(count("effects"))) }
}

async fn dead_letters(log: &Running) -> Vec<(String, i64, String)> {
    let mut reader = log.log().reader().await.unwrap();
    on!(&mut reader.conn(), |c| sqlx::query_as::<DB, (String, i64, String)>(
        "SELECT topic, message_offset, error FROM dead_letters ORDER BY message_offset"
    )
    .fetch_all(c)
    .await)
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_has_its_effects_once_however_often_it_is_delivered() {
    let database = TestDatabase::fresh().await;
    let log = start(&database).await;
    assert_eq!(log.writer.deliver(claim(0, 3), vec![good(1), good(2)]).await.unwrap(), Delivered::Committed);
    assert_eq!(log.writer.deliver(claim(0, 3), vec![good(1), good(2)]).await.unwrap(), Delivered::Lost);
    assert_eq!(log.writer.deliver(claim(2, 4), vec![good(3)]).await.unwrap(), Delivered::Lost, "not where it was");
    assert_eq!(log.log().progress("test", "log:other", 0).await.unwrap(), 3);
    assert_eq!(log.writer.deliver(claim(3, 4), vec![good(3)]).await.unwrap(), Delivered::Committed);
    assert_eq!(log.rows().await.len(), 3);
    log.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_that_get_the_same_messages_do_them_once() {
    let database = TestDatabase::fresh().await;
    let (one, two) = (start(&database).await, start(&database).await);
    for offset in 1..=20 {
        let from = if offset == 1 { 0 } else { offset };
        let (a, b) = tokio::join!(
            one.writer.deliver(claim(from, offset + 1), vec![good(offset)]),
            two.writer.deliver(claim(from, offset + 1), vec![good(offset)])
        );
        let committed = [a.unwrap(), b.unwrap()].iter().filter(|delivered| **delivered == Delivered::Committed).count();
        assert_eq!(committed, 1);
    }
    assert_eq!(one.rows().await.len(), 20);
    assert_without_gaps(&one.rows().await);
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_becomes_a_dead_letter_and_the_messages_around_it_go_on() {
    let database = TestDatabase::fresh().await;
    let log = start(&database).await;
    let unreadable = Item { work: Err("not JSON".into()), ..good(2) };
    let refused = Item { work: Ok(job(Work::Refuse)), ..good(3) };
    let delivered = log.writer.deliver(claim(0, 5), vec![good(1), unreadable, refused, good(4)]).await.unwrap();
    assert_eq!(delivered, Delivered::Committed);
    let expected = |offset, error: &str| ("other.events.v1".to_owned(), offset, error.to_owned());
    assert_eq!(dead_letters(&log).await, [expected(2, "not JSON"), expected(3, "told to")]);
    let rows = log.rows().await;
    assert_without_gaps(&rows);
    let published: Vec<_> = rows.iter().filter(|row| row.topic.as_deref() == Some("other.events.v1.dlq")).collect();
    assert_eq!(published.len(), 2, "a dead letter is a row like any other");
    assert_eq!(published[0].key.as_deref(), Some("k"));
    assert_eq!(rows.len(), 4);
    log.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_refuses_leaves_the_progress_where_it_was() {
    let database = TestDatabase::fresh().await;
    let log = start(&database).await;
    let broken = Item { work: Ok(job(Work::Break)), ..good(2) };
    log.writer.deliver(claim(0, 3), vec![good(1), broken]).await.unwrap_err();
    assert_eq!(log.log().progress("test", "log:other", 0).await.unwrap(), 0);
    assert!(log.rows().await.is_empty());
    log.stop().await;
}
