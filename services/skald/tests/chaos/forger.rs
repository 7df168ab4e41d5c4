//! Somebody who may write to every topic, reads every header, and does not have the message key.

use std::{collections::BTreeMap, time::Duration};

use contract::topics::{self, PAYMENT_COMMANDS, PAYMENT_EVENTS, PRODUCT_COMMANDS, PRODUCT_EVENTS};
use eventlog::Env;
use rdkafka::{
    ClientConfig, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    message::{Header, Headers as _, Message as _, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _},
};

use super::{
    KNOBS,
    support::{self, Person, Shop, cluster::Cluster, cluster::kafka, eventually, home, order},
};

const SOON: Duration = Duration::from_secs(20);
const WAITING: usize = 6;

type Headers = BTreeMap<String, String>;

/// The place that a forged record claims, in the words of the newest one of its partition.
type Place = fn(&Headers) -> [(&'static str, String); 2];

/// What its log would have written next.
fn next(newest: &Headers) -> [(&'static str, String); 2] {
    let sequence: i64 = newest["ce_sequence"].parse().unwrap();
    [("ce_previous", sequence.to_string()), ("ce_sequence", (sequence + 1).to_string())]
}

/// The first message of an epoch that nobody has opened.
fn epoch(newest: &Headers) -> [(&'static str, String); 2] {
    let (log, _) = newest["ce_source"].rsplit_once('/').unwrap();
    [("ce_previous", "0".to_owned()), ("ce_source", format!("{log}/77"))]
}

/// Writes a message about each of these orders, signed as the newest of its partition was.
fn forge(topic: &str, orders: &[String], kind: &str, value: &str, place: Place) {
    let client = || ClientConfig::new().set("bootstrap.servers", kafka()).set("group.id", "forger").clone();
    let consumer: BaseConsumer = client().set("enable.auto.commit", "false").create().unwrap();
    let producer: BaseProducer = client().create().unwrap();
    for id in orders {
        let partition = topics::partition_of(id.as_bytes(), 6);
        let (low, high) = consumer.fetch_watermarks(topic, partition, SOON).unwrap();
        assert!(low < high, "nothing on {topic} partition {partition}, where order {id} belongs");
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, partition, rdkafka::Offset::Offset(high - 1)).unwrap();
        consumer.assign(&assignment).unwrap();
        let newest = consumer.poll(SOON).expect("it has a newest record").unwrap();
        let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        let headers = newest.headers().unwrap().iter();
        let mut headers: Headers = headers.map(|header| (header.key.to_owned(), text(header.value))).collect();
        let claimed = place(&headers);
        let said = [
            ("ce_id", Env::system().id().to_string()),
            ("ce_type", kind.to_owned()),
            ("ce_dataschema", format!("urn:skald:schema:{kind}:1")),
            ("ce_partitionkey", id.clone()),
            ("ce_correlationid", id.clone()),
        ];
        headers.extend(claimed.into_iter().chain(said).map(|(name, value)| (name.to_owned(), value)));
        let mut written = OwnedHeaders::new();
        for (key, value) in &headers {
            written = written.insert(Header { key, value: Some(value) });
        }
        let value = value.replace("ORDER", id);
        let record = BaseRecord::to(topic).partition(partition).key(id).payload(&value).headers(written);
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.flush(SOON).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka and PostgreSQL: ci/e2e.sh"]
async fn a_forger_who_knows_every_header_confirms_no_order_bars_no_relay_and_is_never_redriven() {
    let home = home();
    // The saga has more patience than the test: only a reply moves it.
    let knobs = [KNOBS, &[("SKALD_STEP_DEADLINE_MS", "600000")]].concat();
    let mut cluster = Cluster::start(home.path(), &knobs, &[]).await;
    let shop = Shop { doors: cluster.doors() };
    let product = shop.admin().await.product("TEA-1", 1_000).await;
    let token = shop.token("ann").await;
    // Connections end while nobody asks.
    let ann = || Person::with(shop.doors.clone(), &token);
    let mut placing = ann();
    let wanted = order(&product, 1, "tok_ok");
    // Every partition gets something to copy.
    for number in 0..80 {
        assert_eq!(placing.ended(&format!("before-{number}"), &wanted).await.told(), (202, "confirmed", ""));
    }
    // Payment is away: what these orders wait for, only a forger says.
    let of = |cluster: &Cluster, name: &str| cluster.replicas.iter().position(|replica| replica.service == name).unwrap();
    let (order_at, payment_at) = (of(&cluster, "order"), of(&cluster, "payment"));
    cluster.signal(payment_at, "TERM");
    let mut waiting = Vec::new();
    for number in 0..WAITING {
        let placed = placing.place(&format!("waits-{number}"), &wanted, 0).await;
        assert_eq!(placed.told().0, 202, "{placed:?}");
        waiting.push(placed.id());
    }
    let paid = r#"{"order_id":"ORDER","amount":{"amount_minor":1999,"currency":"EUR"}}"#;
    let sold = r#"{"order_id":"ORDER","lines":[{"product_id":"PRODUCT","quantity":1}]}"#.replace("PRODUCT", &product);
    let replies = [
        (PAYMENT_EVENTS, "payment.PaymentAuthorized", paid),
        (PAYMENT_EVENTS, "payment.PaymentCaptured", paid),
        (PRODUCT_EVENTS, "product.StockCommitted", &sold),
    ];
    for (topic, kind, value) in replies {
        for place in [next, epoch] {
            forge(topic, &waiting, kind, value, place);
        }
    }
    let forged = replies.len() * 2 * WAITING;
    let (database, key) = (cluster.database("order"), cluster.message_key.clone());
    let letters = |arguments: &[&str]| {
        let variables = [("SKALD_DATABASE", database.as_str()), ("SKALD_MESSAGE_KEY_FILE", key.to_str().unwrap())];
        let output = support::run_with(&[&["dead-letters"][..], arguments].concat(), &variables);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    eventually("all of it is set aside", async || {
        let (_, listed) = letters(&["list"]);
        let found = listed.lines().filter(|line| line.contains("  forged, ")).count();
        if found == forged { Ok(()) } else { Err(format!("{found} of {forged}")) }
    })
    .await;
    for arguments in [&["redrive", "--dry-run"][..], &["redrive"]] {
        let (code, told) = letters(arguments);
        assert_eq!(code, Some(1), "{told}");
        assert_eq!(told.lines().filter(|line| line.contains(", forged): never handled")).count(), forged, "{told}");
    }
    let mut reading = ann();
    for id in &waiting {
        let found = reading.get(&format!("/v1/orders/{id}")).await.body;
        assert_eq!(found["status"], "pending", "{found}");
    }
    let (code, told) = letters(&["discard", "--forged", "--reason", "forged by a test"]);
    assert!(code == Some(0) && told.contains(&format!("{forged} forged dead letters put down")), "{told}");

    // The leaders who come next find forged records at the end of the topics.
    for (topic, kind) in [(PRODUCT_COMMANDS, "product.CommitStock"), (PAYMENT_COMMANDS, "payment.CapturePayment")] {
        forge(topic, &waiting, kind, r#"{"order_id":"ORDER"}"#, next);
    }
    cluster.signal(order_at, "TERM");
    cluster.spawn(order_at);
    cluster.spawn(payment_at);
    cluster.is_ready().await;
    let mut waits = ann();
    for number in 0..WAITING {
        assert_eq!(waits.ended(&format!("waits-{number}"), &wanted).await.told(), (202, "confirmed", ""));
    }
    let put_down = || {
        for service in ["product", "payment"] {
            let flags = ["dead-letters", "discard", "--forged", "--reason", "forged by a test"];
            let done = support::run_with(&flags, &[("SKALD_DATABASE", &cluster.database(service))]);
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
    };
    cluster.settles_while(put_down).await;
}
