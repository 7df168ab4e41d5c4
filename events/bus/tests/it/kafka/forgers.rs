//! Somebody who may write to the topics and reads every header, over a real Kafka: with a message key nothing of it is believed, without
//! one no log and no epoch that is made up.

use std::collections::BTreeMap;

use contract::Cause;
use eventlog::{Desk, Env, testing::TestDatabase};
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders, OwnedMessage};

use super::{COMMANDS, Running, TURN, again, clean, header, read, until, write};

fn number(message: &OwnedMessage, name: &str) -> i64 {
    header(message, name).unwrap().parse().unwrap()
}

fn id() -> String {
    Env::system().id().to_string()
}

/// The newest record of each partition.
fn newest() -> Vec<OwnedMessage> {
    let mut newest: BTreeMap<i32, OwnedMessage> = BTreeMap::new();
    for message in read(COMMANDS) {
        newest.insert(message.partition(), message);
    }
    newest.into_values().collect()
}

/// What its partition would go on with, had the log written it.
fn next(message: &OwnedMessage) -> [(&'static str, String); 3] {
    let sequence = number(message, "ce_sequence");
    [("ce_id", id()), ("ce_sequence", (sequence + 1).to_string()), ("ce_previous", sequence.to_string())]
}

/// The first of an epoch that nobody has opened.
fn of_epoch(message: &OwnedMessage, epoch: i64) -> [(&'static str, String); 3] {
    let source = header(message, "ce_source").unwrap();
    let (log, _) = source.rsplit_once('/').unwrap();
    [("ce_id", id()), ("ce_source", format!("{log}/{epoch}")), ("ce_previous", "0".to_owned())]
}

fn unsigned((partition, key, headers, value): (i32, Vec<u8>, OwnedHeaders, Vec<u8>)) -> (i32, Vec<u8>, OwnedHeaders, Vec<u8>) {
    let mut left = OwnedHeaders::new();
    for Header { key, value } in headers.iter().filter(|header| header.key != "ce_signature") {
        left = left.insert(Header { key, value });
    }
    (partition, key, left, value)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka: ci/kafka.sh test"]
async fn with_a_message_key_a_forger_who_knows_every_header_moves_nothing_and_bars_nobody() {
    let _turn = TURN.lock().await;
    clean().await;
    let (source_db, sink_db) = (TestDatabase::fresh().await, TestDatabase::fresh().await);
    let source = Running::start("order", &source_db.database).await.signed();
    source.relay();
    let sink = Running::start("product", &sink_db.database).await.signed();
    sink.consume();
    source.append_many(200).await;
    sink.until_effects(200).await;
    source.until_published().await;
    let mut forged = Vec::new();
    for message in newest() {
        let good = header(&message, "ce_signature").unwrap();
        forged.push(again(&message, &next(&message)));
        forged.push(unsigned(again(&message, &next(&message))));
        forged.push(again(&message, &of_epoch(&message, 2)));
        forged.push(unsigned(again(&message, &of_epoch(&message, 4_000_000_000))));
        forged.push(unsigned(again(&message, &[])));
        forged.push(again(&message, &[("ce_signature", good.replace("test:", "other:"))]));
        let (partition, key, headers, _) = again(&message, &[]);
        forged.push((partition, key, headers, b"{\"word\":\"another\"}".to_vec()));
    }
    let count = forged.len() as u64;
    write(forged);
    source.append_many(100).await;
    sink.until_effects(300).await;
    until("what was forged is set aside", async || sink.log().dead_letters() == count).await;
    assert_eq!(sink.log().dead_letters_of(Cause::Forged), count);
    assert_eq!((sink.log().parked(), sink.log().repeats()), (0, 0));

    // The leader who comes next finds them at the end of the topics.
    let forged: Vec<_> = newest().iter().map(|message| again(message, &next(message))).collect();
    let (more, again_unsigned) =
        (forged.len() as i64, newest().into_iter().map(|message| unsigned(again(&message, &next(&message)))));
    source.stop().await;
    write(forged.into_iter().chain(again_unsigned));
    let source = Running::start("order", &source_db.database).await.signed();
    source.relay();
    source.append_many(50).await;
    sink.until_effects(350).await;
    assert_eq!(source.health.problem(), None);
    until("these as well", async || sink.log().dead_letters() == count + 2 * more.unsigned_abs()).await;
    source.stop().await;
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka: ci/kafka.sh test"]
async fn epochs_that_nobody_has_opened_move_nothing_and_take_no_room() {
    let _turn = TURN.lock().await;
    clean().await;
    let (source_db, sink_db) = (TestDatabase::fresh().await, TestDatabase::fresh().await);
    let source = Running::start("order", &source_db.database).await;
    source.relay();
    let sink = Running::start("product", &sink_db.database).await;
    sink.consume();
    source.append_many(100).await;
    sink.until_effects(100).await;
    source.until_published().await;
    let newest = newest();
    let forged = (2..1_002).map(|epoch| {
        let message = &newest[epoch as usize % newest.len()];
        again(message, &of_epoch(message, epoch))
    });
    write(forged);
    source.append_many(100).await;
    sink.until_effects(200).await;
    until("they are set aside", async || sink.log().dead_letters_of(Cause::Forged) == 1_000).await;
    assert_eq!((sink.log().parked(), sink.log().dead_letters()), (0, 1_000));
    let longest = sink.count("SELECT CAST(MAX(LENGTH(seen)) AS BIGINT) FROM progress").await;
    assert!(longest < 200, "{longest} characters of what was seen");
    source.stop().await;
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka: ci/kafka.sh test"]
async fn without_a_message_key_a_new_epoch_is_believed_once_a_person_says_so() {
    let _turn = TURN.lock().await;
    clean().await;
    let (source_db, sink_db) = (TestDatabase::fresh().await, TestDatabase::fresh().await);
    let source = Running::start("order", &source_db.database).await;
    source.relay();
    let sink = Running::start("product", &sink_db.database).await;
    sink.consume();
    source.append_many(100).await;
    sink.until_effects(100).await;
    source.until_published().await;
    source.stop().await;
    let mut desk = Desk::open(&source_db.database).await.unwrap();
    let epoch = desk.new_epoch(101, Env::system().now()).await.unwrap().epoch;
    let source = Running::start("order", &source_db.database).await;
    source.relay();
    source.append_many(50).await;
    until("it is set aside", async || sink.log().dead_letters_of(Cause::Forged) == 50).await;
    assert_eq!(sink.effects().await, 100);
    let told = Desk::open(&sink_db.database).await.unwrap().trust(&desk.source(epoch).await.unwrap()).await.unwrap();
    assert_eq!(told, 6);
    source.until_published().await;
    desk.rewind(100).await.unwrap();
    sink.until_effects(150).await;
    source.append_many(50).await;
    sink.until_effects(200).await;
    assert_eq!((sink.log().dead_letters(), sink.log().parked()), (50, 0));
    source.stop().await;
    sink.stop().await;
}
