//! What other tools and disks make of records, over a real Kafka: all that can be read is read, and what nobody can read is passed over
//! and told.

use std::{collections::BTreeMap, path::Path, process::Command, time::Duration};

use contract::topics::partition_of;
use eventlog::{Desk, testing::TestDatabase};
use rdkafka::{
    ClientConfig,
    admin::{AdminOptions, NewTopic, TopicReplication},
    producer::{BaseProducer, Producer as _},
};
use skald_bus::kafka;

use super::{
    COMMANDS, PARTITIONS, PATIENCE, Running, TURN, address, admin, again, clean, cluster, delete, make_topics, read, until,
    write_by,
};

/// Until a partition that does not move has been asked why, on a slow machine.
const LONG: Duration = Duration::from_secs(90);

async fn within(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if tokio::time::timeout(LONG, waiting).await.is_err() {
        panic!("waited in vain: {what}\n{}", crate::heard::all());
    }
}

/// Runs `ci/kafka.sh`, which knows the broker that it has started.
fn broker(command: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ci/kafka.sh");
    let output = Command::new(script).arg(command).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka: ci/kafka.sh test"]
async fn what_any_tool_has_compressed_is_read() {
    let _turn = TURN.lock().await;
    clean().await;
    let (source_db, sink_db) = (TestDatabase::fresh().await, TestDatabase::fresh().await);
    let source = Running::start("order", &source_db.database).await;
    source.relay();
    source.append_many(200).await;
    source.until_published().await;
    source.stop().await;
    let published = read(COMMANDS);
    assert_eq!(published.len(), 200);
    // The same once more, by a tool that compresses, to a topic that holds nothing else.
    delete(&[COMMANDS]).await;
    make_topics().await;
    for (codec, some) in ["gzip", "snappy", "lz4", "zstd"].into_iter().zip(published.chunks(50)) {
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", address()).set("compression.type", codec).create().unwrap();
        write_by(&producer, some.iter().map(|message| again(message, &[])));
        producer.flush(PATIENCE).unwrap();
    }
    let sink = Running::start("product", &sink_db.database).await;
    sink.consume();
    sink.until_effects(200).await;
    assert_eq!(sink.log().dead_letters(), 0);
    sink.stop().await;

    // The broker itself compresses what the relay has not.
    delete(&[COMMANDS]).await;
    let compressed = NewTopic::new(COMMANDS, PARTITIONS, TopicReplication::Fixed(1)).set("compression.type", "zstd");
    admin().create_topics([&compressed], &AdminOptions::new()).await.unwrap();
    until("topics are known", async || {
        let differs = kafka::check(&cluster(), Some(1)).await.unwrap();
        differs.iter().any(|differs| differs.setting == Some("compression.type"))
    })
    .await;
    let (source_db, sink_db) = (TestDatabase::fresh().await, TestDatabase::fresh().await);
    let (source, sink) = (Running::start("order", &source_db.database).await, Running::start("product", &sink_db.database).await);
    source.relay();
    sink.consume();
    source.append_many(100).await;
    sink.until_effects(100).await;
    source.stop().await;
    sink.stop().await;
    clean().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka: ci/kafka.sh test"]
async fn a_marker_of_kafkas_own_at_the_end_of_a_partition_is_nothing_to_wait_for() {
    let _turn = TURN.lock().await;
    clean().await;
    let (source_db, sink_db) = (TestDatabase::fresh().await, TestDatabase::fresh().await);
    let source = Running::start("order", &source_db.database).await;
    source.relay();
    source.append_many(60).await;
    source.until_published().await;
    let published = read(COMMANDS);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", address())
        .set("transactional.id", format!("tool-{}", source_db.database))
        .create()
        .unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    for commits in [true, false] {
        producer.begin_transaction().unwrap();
        write_by(&producer, published.iter().map(|message| again(message, &[])));
        producer.flush(PATIENCE).unwrap();
        if commits { producer.commit_transaction(PATIENCE) } else { producer.abort_transaction(PATIENCE) }.unwrap();
    }
    let heard = crate::heard::capture();
    let sink = Running::start("product", &sink_db.database).await;
    sink.consume();
    sink.until_effects(60).await;
    within("nothing is left to be read", async || {
        let lag = sink.health.lag();
        lag.len() == PARTITIONS as usize && lag.iter().all(|(.., lag)| *lag == 0)
    })
    .await;
    // What comes behind the marker is read, and its offset joins for all that.
    source.append_many(60).await;
    sink.until_effects(120).await;
    assert!(!heard.has("joining the group again"), "{}", crate::heard::all());
    assert_eq!((sink.health.problem(), sink.log().parked(), sink.log().dead_letters()), (None, 0, 0));
    source.stop().await;
    sink.stop().await;
}

/// CRC-32C, as Kafka writes it over a batch.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

/// Changes the batch that begins at an offset, in the only segment of a partition, while no broker runs.
fn spoil(partition: i32, offset: i64, how: impl Fn(&mut [u8])) {
    let state = std::env::var("SKALD_KAFKA_STATE").expect("ci/kafka.sh says where its broker keeps what it has");
    let segment = Path::new(&state).join(format!("kafka/data/{COMMANDS}-{partition}/00000000000000000000.log"));
    let mut bytes = std::fs::read(&segment).unwrap();
    let mut at = 0;
    // Eight bytes of the base offset, four of the length of what follows.
    while i64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) != offset {
        at += 12 + u32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
    }
    let length = 12 + u32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
    how(&mut bytes[at..at + length]);
    std::fs::write(&segment, bytes).unwrap();
}

/// A bit of its last record is another, as on a disk that is dying.
fn flip(batch: &mut [u8]) {
    let last = batch.len() - 6;
    batch[last] ^= 1;
}

/// It says that it is compressed in a way that nobody knows, and its checksum is right.
fn unknown_codec(batch: &mut [u8]) {
    batch[22] |= 5;
    let crc = crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka: ci/kafka.sh test"]
async fn what_nobody_can_read_is_passed_over_by_its_offset_and_told_and_what_was_in_it_is_published_again() {
    let _turn = TURN.lock().await;
    clean().await;
    let (source_db, sink_db) = (TestDatabase::fresh().await, TestDatabase::fresh().await);
    let source = Running::start("order", &source_db.database).await;
    source.relay();
    // A key for each of three partitions.
    let mut keys: BTreeMap<i32, String> = BTreeMap::new();
    for number in 0.. {
        let key = format!("key-{number}");
        keys.entry(partition_of(key.as_bytes(), PARTITIONS)).or_insert(key);
        if keys.len() == 3 {
            break;
        }
    }
    // Each message is a batch of its own.
    for key in keys.values() {
        for _ in 0..4 {
            source.append(key, "good").await;
            source.until_published().await;
        }
    }
    source.stop().await;
    let [broken, unknown, at_the_end] = keys.keys().copied().collect::<Vec<_>>()[..] else { unreachable!("three keys") };
    broker("stop");
    spoil(broken, 1, flip);
    spoil(unknown, 2, unknown_codec);
    spoil(at_the_end, 3, flip);
    broker("start");

    let heard = crate::heard::capture();
    let sink = Running::start("product", &sink_db.database).await;
    sink.consume();
    within("all is read that can be", async || sink.effects().await == 1 + 2 + 3).await;
    within("what can't be read is passed over", async || sink.log().dead_letters() == 3).await;
    let letters =
        "SELECT COUNT(*) FROM dead_letters WHERE cause = 'undecodable' AND error LIKE 'Kafka holds nothing that can be read%'";
    assert_eq!(sink.count(letters).await, 3);
    let offsets = "SELECT SUM(message_offset) FROM dead_letters";
    assert_eq!(sink.count(offsets).await, 1 + 2 + 3);
    for (partition, offset) in [(broken, 1), (unknown, 2), (at_the_end, 3)] {
        let told = format!("{COMMANDS} partition {partition} can't be read from offset {offset} up to {}", offset + 1);
        assert!(heard.has(&told), "{told}\n{}", crate::heard::all());
    }
    within("what lies behind it waits", async || sink.count("SELECT COUNT(*) FROM parked").await == 2 + 1).await;
    assert!(heard.has("skald relay rewind --to"), "{}", crate::heard::all());

    let source = Running::start("order", &source_db.database).await;
    Desk::open(&source_db.database).await.unwrap().rewind(0).await.unwrap();
    source.relay();
    sink.until_effects(12).await;
    within("nothing waits", async || sink.count("SELECT COUNT(*) FROM parked").await == 0).await;
    within("it is well", async || sink.health.problem().is_none()).await;
    source.stop().await;
    sink.stop().await;
    clean().await;
}
