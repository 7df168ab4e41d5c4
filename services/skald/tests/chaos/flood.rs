//! A flood of records as large as a topic takes, while orders stream in: what a process has for them is bounded, and nothing waits
//! for a person.
//!
//! `SKALD_FLOOD_RECORDS` says how many there are. The bound of the buffers shows with a few dozen of them already: what comes after
//! those only shows that nothing grows.

use std::time::Duration;

use eventlog::Env;
use rdkafka::{
    ClientConfig,
    error::RDKafkaErrorCode,
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _},
};

use super::{Cluster, KNOBS, Stream, eventually, home, kafka, number};

/// Just below what a topic takes with the record's frame around it.
const RECORD_BYTES: usize = 1_000_000;
/// Ten to a partition.
const RECORDS: usize = 300;
/// What no process may ever have taken, in KiB.
const HIGH_MAX: u64 = 150 * 1_000_000 / 1024;
const CONSUMERS: [&str; 4] = ["order", "product", "payment", "notification"];

/// Writes junk to every partition that somebody reads: noise, which is text, quotes, which its JSON doubles, and an envelope as good as
/// any, but of a log that nobody knows.
fn flood(records: usize) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka())
        .set("message.max.bytes", "2000000")
        .set("queue.buffering.max.kbytes", "20000")
        .set("linger.ms", "0")
        .create()
        .unwrap();
    let read = contract::topics::TOPICS.iter().filter(|topic| !topic.readers.is_empty());
    let places: Vec<_> = read.flat_map(|topic| (0..topic.settings.partitions).map(move |number| (topic, number))).collect();
    let (noise, quotes) = ("lorem ipsum ".repeat(RECORD_BYTES / 12), "\"".repeat(RECORD_BYTES));
    let json = format!("{{\"noise\":\"{}\"}}", &noise[..RECORD_BYTES - 100]);
    for number in 0..records {
        let (topic, partition) = places[number % places.len()];
        let sequence = (number + 1).to_string();
        let envelope = [
            ("content-type", "application/json"),
            ("ce_specversion", "1.0"),
            ("ce_id", "019e8a5c-0000-7000-8000-000000000001"),
            ("ce_source", "/skald/nobody/019e8a5c-0000-7000-8000-000000000002/1"),
            ("ce_type", "nobody.Shouted"),
            ("ce_time", "2026-11-01T00:00:00Z"),
            ("ce_subject", "noise-1"),
            ("ce_dataschema", "urn:skald:schema:nobody.Shouted:1"),
            ("ce_sequence", sequence.as_str()),
            ("ce_previous", "0"),
            ("ce_partitionkey", "noise"),
        ];
        let mut headers = OwnedHeaders::new();
        // Each partition gets all three, as there are not as many kinds as partitions divide by.
        let value = match (number + number / places.len()) % 3 {
            0 => &noise,
            1 => &quotes,
            _ => {
                for (key, value) in envelope {
                    headers = headers.insert(Header { key, value: Some(value) });
                }
                &json
            }
        };
        let mut record = BaseRecord::to(topic.name).partition(partition).key("noise").payload(value.as_str()).headers(headers);
        while let Err((error, again)) = producer.send(record) {
            assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{error}");
            producer.poll(Duration::from_millis(10));
            record = again;
        }
        producer.poll(Duration::ZERO);
    }
    producer.flush(Duration::from_secs(60)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka and PostgreSQL: ci/e2e.sh"]
async fn a_flood_of_large_records_passes_through_bounded_memory_while_orders_end() {
    let records = number("SKALD_FLOOD_RECORDS").map_or(RECORDS, |records| records as usize);
    let home = home();
    let cluster = Cluster::start(home.path(), KNOBS, &[]).await;
    let stream = Stream::start(&cluster, 5).await;
    stream.more(20).await;
    let (env, began) = (Env::system(), Env::system().now());
    let writer = std::thread::spawn(move || flood(records));
    let letters = async || {
        let mut found = 0;
        for service in CONSUMERS {
            found += cluster.count(service, "SELECT COUNT(*) FROM dead_letters").await;
        }
        found
    };
    // As long as some are set aside, it has not come to a standstill.
    let mut before = 0;
    while before < records as i64 {
        before = eventually("more is set aside", async || match letters().await {
            found if found > before => Ok(found),
            found => Err(format!("{found} of {records}; {:?} KiB", cluster.memory_high())),
        })
        .await;
        println!("{before} of {records} set aside; at most {:?} KiB", cluster.memory_high());
    }
    writer.join().unwrap();
    println!("{records} records took {:?}", env.now().since(began));
    stream.more(20).await;
    // The dead letters are published too, each as large as its record.
    let unpublished = "SELECT COUNT(*) FROM log, relay WHERE log.kind = 'skald.DeadLetter' AND log.position > relay.position";
    for service in CONSUMERS {
        eventually(&format!("the dead letters of {service} are published"), async || {
            match cluster.count(service, unpublished).await {
                0 => Ok(()),
                left => Err(format!("{left} are left")),
            }
        })
        .await;
    }
    // All that junk is put down for good, as an operator does it one by one.
    for service in CONSUMERS {
        cluster
            .count(service, "WITH put_down AS (UPDATE dead_letters SET solved_us = 1 RETURNING 1) SELECT COUNT(*) FROM put_down")
            .await;
    }
    let high = cluster.memory_high();
    stream.ends_well(&cluster).await;
    println!("the most memory that a process ever took, in KiB: {high:?}");
    assert!(high.iter().all(|(_, kib)| *kib < HIGH_MAX), "a process took more than {HIGH_MAX} KiB: {high:?}");
}
