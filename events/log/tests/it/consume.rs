//! Deliveries: progress and effects commit together; poison becomes a dead letter in the same transaction.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use contract::{
    Cause, Message, Meta, Seal, Timestamp,
    record::{Link, Record, Source},
};
use skald_log::{
    Arrived, Claim, Database, Delivered, Desk, Error, Item, Listed, Owned, Poison, Redriven, Todo, on, testing::TestDatabase,
};

use crate::fixture::{Running, Work, assert_without_gaps, count, job, start, start_named};

/// This only bounds a test that fails.
const SOON: Duration = Duration::from_secs(20);

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
    Item { offset, message: Arrived::Row(message(offset)), todo: Todo::Handle(job(count("effects"))) }
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
async fn of_claims_that_share_a_transaction_each_is_judged_by_itself() {
    let database = TestDatabase::fresh().await;
    let log = start(&database).await;
    assert_eq!(log.writer.deliver(claim(0, 3), vec![good(1)]).await.unwrap(), Delivered::Committed);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let held = tokio::time::timeout(std::time::Duration::from_secs(10), async {
        // What comes while this one waits is in one transaction.
        let wait = log.submit(Work::Wait(gate.clone()));
        let other = Claim { partition: 1, ..claim(0, 2) };
        let claims = [claim(3, 5), claim(3, 5), claim(5, 7), claim(9, 12), other];
        let deliveries = claims.map(|claim| log.writer.deliver(claim, vec![good(4)]));
        let ((), waited, delivered) =
            tokio::join!(async { gate.add_permits(1) }, wait, futures_util::future::join_all(deliveries));
        waited.unwrap();
        delivered.into_iter().map(Result::unwrap).collect::<Vec<_>>()
    });
    let (committed, lost) = (Delivered::Committed, Delivered::Lost);
    assert_eq!(held.await.unwrap(), [committed, lost, committed, lost, committed]);
    assert_eq!(log.log().progress("test", "log:other", 0).await.unwrap(), 7);
    assert_eq!(log.rows().await.iter().filter(|row| row.kind == "test.Appended").count(), 4);
    log.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_becomes_a_dead_letter_and_the_messages_around_it_go_on() {
    let database = TestDatabase::fresh().await;
    let log = start(&database).await;
    let unreadable = Item { todo: Todo::SetAside(Poison::new(Cause::Undecodable, "not JSON")), ..good(2) };
    let refused = Item { todo: Todo::Handle(job(Work::Refuse)), ..good(3) };
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
    let survey = log.log().survey().await.unwrap();
    assert_eq!((survey.dead_letters, survey.oldest_unpublished), (2, Some(rows[0].time)));
    log.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_refuses_leaves_the_progress_where_it_was() {
    let database = TestDatabase::fresh().await;
    let log = start(&database).await;
    let broken = Item { todo: Todo::Handle(job(Work::Break)), ..good(2) };
    log.writer.deliver(claim(0, 3), vec![good(1), broken]).await.unwrap_err();
    assert_eq!(log.log().progress("test", "log:other", 0).await.unwrap(), 0);
    assert!(log.rows().await.is_empty());
    log.stop().await;
}

/// Message `sequence` of epoch 1 of a log, published after `previous`, at an offset of a topic.
fn linked(offset: i64, previous: i64, sequence: i64) -> Item<Work> {
    let source = Source { service: "other".into(), log: uuid::Uuid::from_u128(1), epoch: 1 };
    let message = Arrived::Linked(message(sequence), Link { source, sequence, previous, seal: Seal::None });
    Item { offset, message, todo: Todo::Handle(job(count("effects"))) }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_over_a_broker_is_handled_once_and_in_its_order_whatever_the_broker_does_to_it() {
    let database = TestDatabase::fresh().await;
    let log = start(&database).await;
    let deliver = async |claim: Claim, items: Vec<Item<Work>>| {
        assert_eq!(log.writer.deliver(claim, items).await.unwrap(), Delivered::Committed);
        (log.rows().await.iter().filter(|row| row.kind == "test.Appended").count(), log.log().repeats(), log.log().parked())
    };
    let released = async || log.log().released("test", "log:other", 0, 9).await.unwrap();

    assert_eq!(deliver(claim(0, 3), vec![linked(0, 0, 4), linked(1, 4, 6), linked(2, 0, 4)]).await, (2, 1, 0));
    assert_eq!(deliver(claim(3, 4), vec![linked(3, 4, 6)]).await, (2, 2, 0), "published again by another leader");
    // 9 is missing; a dull message takes its place in the chain as any other does.
    let dull = Item { todo: Todo::Nothing, ..linked(6, 12, 15) };
    let behind = vec![linked(4, 9, 11), linked(5, 11, 12), dull];
    for _ in 0..2 {
        let missing = log.writer.deliver(claim(4, 7), behind.clone()).await.unwrap_err();
        assert!(matches!(missing, Error::Missing { previous: 9, last: 6 }) && !missing.is_transient(), "{missing:?}");
        assert_eq!(
            (log.log().progress("test", "log:other", 0).await.unwrap(), log.log().parked()),
            (4, 0),
            "nothing is kept of it"
        );
    }
    // It was read once more, and 9 is still missing.
    log.log().asked_again("log:other", 0, 4);
    assert_eq!(deliver(claim(4, 7), behind).await, (2, 2, 3));
    assert_eq!(released().await, [], "its predecessor has not come");
    log.log().asked_again("log:other", 0, 7);
    assert_eq!(deliver(claim(7, 8), vec![linked(7, 9, 11)]).await.0, 2, "parked once, however often it comes");
    assert_eq!(log.log().first_parked("test").await.unwrap(), [("log:other".to_owned(), 0, 4)]);
    log.log().count_parked().await.unwrap();
    assert_eq!(log.log().parked(), 3);
    assert_eq!(log.log().survey().await.unwrap().parked, 3);
    assert_eq!(deliver(claim(8, 9), vec![linked(8, 6, 9)]).await, (3, 2, 3), "the gap has closed");
    let [(offset, record)] = &released().await[..] else { panic!("11 follows 9, and 12 follows what was not handled yet") };
    assert_eq!((*offset, record.header("ce_sequence")), (4, Some("11")));
    assert_eq!(deliver(claim(9, 9), vec![linked(4, 9, 11)]).await, (4, 2, 2), "a drain moves no progress");
    assert_eq!(deliver(claim(9, 9), vec![linked(4, 9, 11)]).await, (4, 3, 2), "by another reader too: counted off once");
    assert_eq!(deliver(claim(9, 9), vec![linked(5, 11, 12), linked(6, 12, 15)]).await, (6, 3, 0));
    assert_eq!(deliver(claim(9, 10), vec![linked(9, 15, 16)]).await, (7, 3, 0));
    assert_eq!(log.log().progress("test", "log:other", 0).await.unwrap(), 10);
    log.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_replica_has_seen_while_a_claim_waited_for_its_lock_is_known_to_it() {
    let database = TestDatabase::fresh().await;
    let (one, two) = (start(&database).await, start(&database).await);
    let items = vec![linked(0, 0, 4), linked(1, 6, 9), linked(2, 4, 6)];
    one.log().asked_again("log:other", 0, 0);
    assert_eq!(one.writer.deliver(claim(0, 3), items).await.unwrap(), Delivered::Committed);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let drain = Item { todo: Todo::Handle(job(Work::Wait(gate.clone()))), ..linked(1, 6, 9) };
    let begun = one.handler.batches.load(Ordering::Relaxed);
    let drained = one.writer.deliver(claim(3, 3), vec![drain]);
    // Message 9 again, from a leader that had published it before.
    let again = async {
        while one.handler.batches.load(Ordering::Relaxed) == begun {
            tokio::task::yield_now().await;
        }
        let delivered = two.writer.deliver(claim(3, 4), vec![linked(3, 6, 9)]);
        let opened = async {
            waits_for_a_lock(&database.database).await;
            gate.add_permits(1);
        };
        tokio::join!(delivered, opened).0
    };
    let both = async { tokio::join!(drained, again) };
    let (drained, again) = tokio::time::timeout(SOON, both).await.expect("one of them waits for ever");
    assert_eq!((drained.unwrap(), again.unwrap()), (Delivered::Committed, Delivered::Committed));
    assert_eq!((two.rows().await.len(), two.log().repeats()), (2, 1), "9 was drained meanwhile");
    one.stop().await;
    two.stop().await;
}

/// Waits until a statement waits for a row's lock, where that can be seen. SQLite has one lock, and whoever has not got it has read nothing.
async fn waits_for_a_lock(database: &Database) {
    let Owned::Postgres(mut connection) = database.connect().await.unwrap() else { return };
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    while sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut *connection).await.unwrap() == 0 {}
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forged_is_set_aside_by_its_offset_and_moves_nothing() {
    let database = TestDatabase::fresh().await;
    let log = start(&database).await;
    let mut stranger = linked(2, 0, 1);
    let Arrived::Linked(_, link) = &mut stranger.message else { unreachable!() };
    link.source.log = uuid::Uuid::from_u128(2);
    let raw = Record { key: None, headers: vec![("ce_type".into(), b"what\0ever".to_vec())], value: Some(vec![0xff, 0]) };
    let poison = Todo::SetAside(Poison::new(Cause::Undecodable, "no envelope"));
    let garbage = Item { offset: 3, message: Arrived::Raw(Arc::new(raw)), todo: poison };
    let unsigned = Item { todo: Todo::SetAside(Poison::new(Cause::Forged, "not signed")), ..linked(5, 4, 7) };
    let items = vec![linked(0, 0, 4), linked(1, 2, 9), stranger, garbage, linked(4, 4, 6), unsigned, of_epoch(77, 6, 0, 7)];
    assert_eq!(log.writer.deliver(claim(0, 7), items).await.unwrap(), Delivered::Committed);
    let mut reader = log.log().reader().await.unwrap();
    let letters = on!(&mut reader.conn(), |c| sqlx::query_as::<DB, (i64, String, String)>(
        "SELECT message_offset, cause, message FROM dead_letters ORDER BY message_offset"
    )
    .fetch_all(c)
    .await)
    .unwrap();
    drop(reader);
    let causes: Vec<(i64, &str)> = letters.iter().map(|(offset, cause, _)| (*offset, cause.as_str())).collect();
    assert_eq!(causes, [(1, "forged"), (2, "forged"), (3, "undecodable"), (5, "forged"), (6, "forged")]);
    assert_eq!((log.log().dead_letters(), log.log().dead_letters_of(Cause::Forged)), (5, 4));
    let kept = contract::DeadLetter::decode(&letters[2].2).unwrap();
    assert_eq!(kept.record.value, Some(vec![0xff, 0]), "every byte is kept");
    let rows = log.rows().await;
    assert_eq!(rows.iter().filter(|row| row.kind == "test.Appended").count(), 2, "the real ones around it are handled");
    assert_without_gaps(&rows);
    for listed in dead_letters_of(&database).await.iter().filter(|listed| listed.letter.cause == Cause::Forged) {
        for dry_run in [true, false] {
            let work = Ok(job(count("effects")));
            let told = skald_log::redrive(log.log(), &*log.handler, listed, work, "operator:test", dry_run).await.unwrap();
            assert!(matches!(told, Redriven::Never(_)), "{told:?}");
        }
    }
    assert_eq!(log.rows().await.len(), rows.len(), "nobody has handled them");
    assert!(dead_letters_of(&database).await.iter().all(|listed| listed.replays == 0));
    log.stop().await;
}

/// The same of another epoch.
fn of_epoch(epoch: i64, offset: i64, previous: i64, sequence: i64) -> Item<Work> {
    let mut item = linked(offset, previous, sequence);
    let Arrived::Linked(_, link) = &mut item.message else { unreachable!() };
    link.source.epoch = epoch;
    item
}

/// The same in another partition.
fn claim_of(partition: i64, from: i64, next: i64) -> Claim {
    Claim { consumer: "product".into(), topic: "product.commands.v1".into(), partition, from, next }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_s_log_and_epochs_are_known_in_all_of_its_partitions_and_a_person_adds_to_them() {
    let database = TestDatabase::fresh().await;
    let log = start_named("product", &database).await;
    let deliver = async |claim: Claim, items: Vec<Item<Work>>| {
        assert_eq!(log.writer.deliver(claim, items).await.unwrap(), Delivered::Committed);
        let handled = log.rows().await.iter().filter(|row| row.kind == "test.Appended").count();
        (handled, log.log().dead_letters_of(Cause::Forged))
    };
    assert_eq!(deliver(claim_of(0, 0, 1), vec![linked(0, 0, 4)]).await, (1, 0), "the very first is believed");
    // Nothing has been seen of this partition; the topic has.
    let mut stranger = linked(1, 0, 5);
    let Arrived::Linked(_, link) = &mut stranger.message else { unreachable!() };
    link.source.log = uuid::Uuid::from_u128(2);
    let made_up = (2..300).map(|epoch| of_epoch(epoch, epoch, 0, 5));
    let items = std::iter::once(stranger).chain(made_up).chain([linked(300, 0, 5)]).collect();
    assert_eq!(deliver(claim_of(1, 0, 301), items).await, (2, 299));
    let mut reader = log.log().reader().await.unwrap();
    let longest: i64 =
        on!(&mut reader.conn(), |c| sqlx::query_scalar::<DB, i64>("SELECT CAST(MAX(LENGTH(seen)) AS BIGINT) FROM progress")
            .fetch_one(c)
            .await)
        .unwrap();
    drop(reader);
    assert!(longest < 100, "{longest} characters");

    let mut desk = Desk::open(&database.database).await.unwrap();
    let source = Source { service: "order".into(), log: uuid::Uuid::from_u128(1), epoch: 7 };
    let nobody = Source { service: "notification".into(), ..source.clone() };
    assert!(desk.trust(&nobody).await.unwrap_err().to_string().contains("reads nothing of notification"));
    let other = Source { service: "other".into(), ..source.clone() };
    assert!(desk.trust(&other).await.is_err());
    assert_eq!(desk.trust(&source).await.unwrap(), 6, "in every partition, begun or not");
    assert_eq!(desk.trust(&source).await.unwrap(), 0);
    let of_order = |mut item: Item<Work>| {
        let Arrived::Linked(_, link) = &mut item.message else { unreachable!() };
        link.source.service = "order".into();
        item
    };
    assert_eq!(deliver(claim_of(0, 1, 2), vec![of_order(of_epoch(7, 1, 0, 5))]).await, (3, 299));
    assert_eq!(deliver(claim_of(2, 0, 1), vec![of_order(of_epoch(7, 0, 0, 6))]).await, (4, 299));
    assert_eq!(deliver(claim_of(3, 0, 1), vec![linked(0, 0, 7)]).await, (5, 299), "the epoch before has not ended here");
    assert_eq!(deliver(claim_of(0, 2, 3), vec![of_order(of_epoch(8, 2, 0, 9))]).await, (5, 300));
    log.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_redriven_once_by_whoever_comes_first() {
    let database = TestDatabase::fresh().await;
    let log = start(&database).await;
    let refused = |offset| Item { todo: Todo::Handle(job(Work::Refuse)), ..good(offset) };
    log.writer.deliver(claim(0, 3), vec![refused(1), refused(2)]).await.unwrap();
    let listed = dead_letters_of(&database).await;
    assert_eq!(listed.len(), 2);
    let redrive = async |listed: &Listed, work, dry_run| {
        skald_log::redrive(log.log(), &*log.handler, listed, Ok(job(work)), "operator:test", dry_run).await.unwrap()
    };

    let told = redrive(&listed[0], count("effects"), true).await;
    assert_eq!(told, Redriven::Handled(vec!["test.Appended".to_owned()]));
    assert_eq!(dead_letters_of(&database).await.len(), 2, "a dry run changes nothing");
    let Redriven::Still(poison) = redrive(&listed[0], Work::Refuse, false).await else { panic!("it was refused again") };
    assert_eq!(poison.error, "told to");
    assert_eq!(redrive(&listed[0], count("effects"), false).await, Redriven::Taken, "the list was read before");
    let listed = dead_letters_of(&database).await;
    assert_eq!((listed[0].replays, listed[1].replays), (1, 0));
    let (a, b) = tokio::join!(redrive(&listed[0], count("effects"), false), redrive(&listed[0], count("effects"), false));
    assert_eq!([&a, &b].iter().filter(|told| matches!(told, Redriven::Handled(_))).count(), 1, "{a:?} {b:?}");
    assert!(skald_log::discard(log.log(), &listed[1], "operator:test", "not needed").await.unwrap());
    assert!(!skald_log::discard(log.log(), &listed[1], "operator:test", "not needed").await.unwrap());
    assert!(dead_letters_of(&database).await.is_empty());

    let rows = log.rows().await;
    assert_without_gaps(&rows);
    assert_eq!(rows.iter().filter(|row| row.kind == "test.Appended").count(), 1, "handled once");
    let noted = rows.iter().filter(|row| row.kind == "skald.DeadLetterWorkedOn");
    assert!(noted.clone().all(|row| row.meta.actor.as_deref() == Some("operator:test")));
    assert_eq!(noted.count(), 3, "refused again, handled, put down");
    log.stop().await;
}

async fn dead_letters_of(database: &TestDatabase) -> Vec<Listed> {
    skald_log::dead_letters(&database.database, false, None, 9).await.unwrap()
}
