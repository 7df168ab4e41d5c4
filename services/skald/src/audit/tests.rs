//! The audit, tried on a shop that the real services ran: it holds as they leave it, and each law notices one planted violation.

mod shop;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use contract::topics::{TOPICS, partition_of};
use eventlog::{Database, Owned, on};
use tempfile::TempDir;
use uuid::Uuid;

use super::{Error, Options, Report, run};
use shop::Shop;

async fn audited(settled: bool, services: Vec<(&'static str, Database)>) -> Report {
    run(&Options { settled, services }).await.unwrap()
}

/// A shop at rest.
async fn traded() -> Shop {
    let shop = Shop::fresh().await;
    let running = shop.start().await;
    running.trade().await;
    let began = running.orders.log().env().now();
    loop {
        let report = audited(true, shop.services()).await;
        if report.is_good() {
            break;
        }
        running.pause(began, &report.print_table()).await;
    }
    running.stop().await;
    shop
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_services_leave_behind_holds_at_rest_and_is_told_both_ways() {
    let shop = traded().await;
    let report = audited(true, shop.services()).await;
    assert!(report.is_good(), "{}", report.print_table());
    assert_eq!((report.orders.confirmed, report.orders.cancelled, report.orders.open), (3, 5, 0));
    let [waiver] = &report.waivers[..] else { panic!("{:?}", report.waivers) };
    assert_eq!((waiver.verb.as_str(), waiver.state.as_str()), ("CompletionForced", "VoidingPayment"));
    assert_eq!(waiver.note.as_deref(), Some("the customer was paid in cash"));
    assert_eq!(waiver.actor.as_deref(), Some("operator:somebody"));
    let unchecked: Vec<&str> = report.laws.iter().filter(|law| law.checked == 0).map(|law| law.id).collect();
    assert_eq!(unchecked, ["dead-letters-match-log", "no-dead-letter", "none-parked"], "no dead letter, and no broker");

    let json = report.to_json();
    assert_eq!((&json["verdict"], &json["orders"]["total"], &json["settled"]), (&"holds".into(), &8.into(), &true.into()));
    let table = report.print_table();
    assert!(
        table.contains("8 orders (3 confirmed, 5 cancelled, 0 open)") && table.contains("laws of a system at rest hold"),
        "{table}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_that_is_serving_holds_too() {
    let shop = Shop::fresh().await;
    let running = shop.start().await;
    let placing = async {
        running.trade().await;
        for key in 0..90 {
            running.place(110 + key, ["tok_ok", "tok_declined"][usize::from(key % 2)], &[(1, 1)]).await;
        }
    };
    let mut audits = 0;
    let auditing = async {
        loop {
            let report = audited(false, shop.services()).await;
            assert!(report.is_good(), "{}", report.print_table());
            audits += 1;
        }
    };
    tokio::select! {
        () = placing => {}
        () = auditing => {}
    }
    assert!(audits > 0);
    running.stop().await;
}

#[tokio::test]
async fn a_database_that_is_missing_or_anothers_is_told_by_name() {
    let directory = TempDir::new().unwrap();
    let database = Database::Sqlite(directory.path().join("order.db"));
    let missing = run(&Options { settled: false, services: vec![("order", database.clone())] }).await;
    assert!(matches!(missing, Err(Error::Missing { service: "order", .. })), "{missing:?}");
    assert!(!directory.path().join("order.db").exists(), "an audit makes nothing");

    eventlog::Log::open(database.clone(), "payment", &[], eventlog::Env::system()).await.unwrap();
    let others = run(&Options { settled: false, services: vec![("order", database)] }).await;
    assert!(matches!(others, Err(Error::OtherService { .. })), "{others:?}");
    let none = run(&Options { settled: false, services: vec![] }).await;
    assert!(matches!(none, Err(Error::Unnamed("order"))), "{none:?}");
}

/// A law, the service in whose database it is broken, and how.
type Planted = (&'static str, &'static str, &'static str);

#[rustfmt::skip]
const PLANTED: &[Planted] = &[
    ("positions-gapless", "order", "UPDATE log SET position = position + 1 WHERE position = (SELECT position FROM head)"),
    ("positions-gapless", "payment", "UPDATE head SET position = position + 1"),
    ("versions-gapless", "product", "UPDATE log SET version = 99 WHERE kind = 'product.StockCommitted'"),
    ("ids-unique", "product", "UPDATE log SET id = (SELECT id FROM log WHERE position = 1) WHERE position = 2"),
    ("payloads-readable", "product", "UPDATE log SET kind = 'product.Nonsense' WHERE position = 1"),
    ("payloads-readable", "notification", "UPDATE log SET data = '{' WHERE position = 1"),
    ("causes-exist", "product", "UPDATE log SET cause = randomblob(16) WHERE kind = 'product.StockCommitted'"),
    ("causes-exist", "order", "UPDATE log SET cause = randomblob(16) WHERE kind = 'order.OrderConfirmed'"),
    ("effects-once", "product", "UPDATE log SET cause = (SELECT min(cause) FROM log WHERE kind = 'product.StockReserved') WHERE kind = 'product.StockReserved'"),
    ("effects-once", "order", "UPDATE log SET kind = 'saga.SagaMoved' WHERE kind = 'saga.SagaEnded'"),
    ("progress-within-source", "product", "UPDATE progress SET next_offset = 1000000"),

    ("sagas-replay", "order", "UPDATE log SET data = replace(data, '\"input\":\"StockReserved\"', '\"input\":\"StockRefused\"')"),
    ("sagas-replay", "order", "UPDATE log SET data = replace(data, '\"attempt\":1', '\"attempt\":2') WHERE kind = 'saga.SagaMoved'"),
    ("sagas-replay", "order", "UPDATE log SET data = replace(data, 'Confirmed', 'Cancelled') WHERE kind = 'saga.SagaEnded'"),
    ("sagas-replay", "order", "UPDATE log SET kind = 'product.ReleaseStock' WHERE kind = 'product.CommitStock'"),
    ("orders-match-sagas", "order", "UPDATE log SET data = replace(data, 'out_of_stock', 'payment_declined') WHERE kind = 'order.OrderCancelled'"),
    ("orders-match-sagas", "order", "UPDATE log SET kind = 'order.OrderCancelled' WHERE kind = 'order.OrderConfirmed'"),
    ("orders-match-sagas", "order", "UPDATE log SET data = replace(data, '\"amount_minor\":3750', '\"amount_minor\":3751') WHERE kind = 'order.OrderPlaced'"),
    ("open-has-deadline", "order", "UPDATE sagas SET ended_us = NULL"),
    ("open-has-deadline", "payment", "UPDATE payments SET operation = 'capture'"),
    ("open-has-deadline", "notification", "UPDATE notifications SET status = 'queued'"),

    ("orders-match-log", "order", "UPDATE orders SET total_minor = total_minor + 1"),
    ("orders-match-log", "order", "DELETE FROM orders WHERE order_id = (SELECT min(order_id) FROM orders)"),
    ("sagas-match-log", "order", "UPDATE sagas SET attempt = attempt + 1"),
    ("sagas-match-log", "order", "UPDATE sagas SET context = replace(context, 'tok_ok', 'tok_no')"),
    ("sagas-match-log", "order", "DELETE FROM sagas WHERE id = (SELECT min(id) FROM sagas)"),
    ("products-match-log", "product", "UPDATE products SET price_minor = price_minor + 1"),
    ("stock-matches-log", "product", "UPDATE stock SET on_hand = on_hand - 1, sold = sold + 1"),
    ("reservations-match-log", "product", "UPDATE reservations SET status = 'released' WHERE status = 'committed'"),
    ("reservations-match-log", "product", "UPDATE reservations SET refusal = replace(refusal, 'not_enough', 'unknown_product')"),
    ("payments-match-log", "payment", "UPDATE payments SET captured_minor = captured_minor + 1"),
    ("payments-match-log", "payment", "UPDATE payments SET declined_code = 'why_not' WHERE status = 'declined'"),
    ("notifications-match-log", "notification", "UPDATE notifications SET status = 'given_up'"),
    ("users-match-log", "user", "UPDATE users SET role = 'operator'"),
    ("dead-letters-match-log", "order", DEAD_LETTER),

    ("confirmed-captured-once", "payment", "UPDATE provider_charges SET captured_minor = captured_minor - 1 WHERE captures = 1"),
    ("confirmed-captured-once", "payment", "DELETE FROM provider_charges WHERE captures = 1"),
    ("confirmed-stock-committed", "product", "UPDATE log SET kind = 'product.StockReleased' WHERE kind = 'product.StockCommitted'"),
    ("confirmed-stock-committed", "product", "UPDATE log SET data = replace(data, '\"quantity\":2', '\"quantity\":3') WHERE stream LIKE 'reservation-%'"),
    ("cancelled-nothing-taken", "payment", "UPDATE provider_charges SET held_minor = 5"),
    ("cancelled-nothing-taken", "payment", "DELETE FROM log WHERE kind = 'payment.PaymentVoided'"),
    ("cancelled-nothing-reserved", "product", "DELETE FROM log WHERE kind = 'product.StockReleased'"),
    // Without the operator's word, the stock that the order still holds is nobody's waiver.
    ("cancelled-nothing-reserved", "order", "UPDATE log SET data = replace(data, 'CompletionForced', 'PaymentVoided')"),

    ("reservations-have-order", "order", "DELETE FROM log WHERE correlation = (SELECT min(correlation) FROM log)"),
    ("reserved-is-open", "product", "UPDATE stock SET on_hand = on_hand - 1, reserved = reserved + 1"),
    ("stock-conserved", "product", "UPDATE stock SET on_hand = on_hand + 5, added = added + 5"),
    ("stock-conserved", "product", "UPDATE log SET data = replace(data, '\"change\":25', '\"change\":-500')"),

    ("payments-have-order", "order", "DELETE FROM log WHERE correlation = (SELECT min(correlation) FROM log)"),
    ("payments-have-order", "payment", "UPDATE payments SET customer_id = randomblob(16)"),
    ("payments-at-provider", "payment", "DELETE FROM provider_calls WHERE operation = 'capture'"),
    ("payments-at-provider", "payment", "UPDATE provider_calls SET code = 'why_not' WHERE answer = 'declined'"),
    ("provider-in-payments", "payment", "UPDATE provider_calls SET amount_minor = amount_minor + 1"),
    ("provider-in-payments", "payment", "UPDATE provider_calls SET currency = 'USD'"),
    ("provider-in-payments", "payment", "INSERT INTO provider_calls SELECT 'other:' || key, order_id, operation, amount_minor, currency, answer, code, effective_at_us, time_us FROM provider_calls"),
    ("provider-in-payments", "payment", "INSERT INTO provider_calls VALUES ('ghost', randomblob(16), 'capture', 1, 'EUR', 'captured', NULL, 1, 1)"),
    ("charges-match-calls", "payment", "UPDATE provider_charges SET refunded_minor = 1"),
    ("captured-at-most-once", "payment", "UPDATE provider_charges SET captures = 2 WHERE captures = 1"),

    ("keys-name-one-order", "order", "INSERT INTO idempotency SELECT randomblob(32), fingerprint, status, location, body, time_us FROM idempotency"),
    ("keys-name-one-order", "order", "UPDATE idempotency SET location = '/v1/orders/01900000-0000-7000-8000-000000000000'"),
    ("keys-name-one-order", "order", "UPDATE idempotency SET location = 'orders'"),
    ("notified-once", "notification", "UPDATE log SET data = json_set(data, '$.template', 'order_confirmed')"),
    ("notified-once", "notification", "UPDATE log SET data = json_set(data, '$.order_id', (SELECT json_extract(data, '$.order_id') FROM log WHERE position = 1))"),

    ("all-ended", "order", "DELETE FROM log WHERE kind = 'order.OrderConfirmed'"),
    ("none-stuck", "order", "UPDATE sagas SET stuck = 1"),
    ("none-stuck", "payment", "UPDATE payments SET stuck = 1"),
    ("no-open-call", "payment", "UPDATE payments SET operation = 'void', due_us = 1"),
    ("no-dead-letter", "order", DEAD_LETTER),
    ("no-queued-notification", "notification", "UPDATE notifications SET status = 'queued', due_us = 1"),
    ("consumers-at-head", "product", "UPDATE progress SET next_offset = 2"),
    ("consumers-at-head", "notification", "DELETE FROM progress"),
    ("none-parked", "payment", PARKED),
    ("all-notified", "notification", "DELETE FROM log"),
];

const DEAD_LETTER: &str = "INSERT INTO dead_letters (stream, consumer, topic, partition, message_offset, kind, error, message, replays, time_us, solved_us) VALUES ('dead-letter-1', 'order', 'product.events.v1', 0, 1, 'product.StockReserved', 'why', '{}', 0, 1, NULL)";
const PARKED: &str = "INSERT INTO parked VALUES ('payment', 'payment.commands.v1', 3, '/skald/order/x/1', 99, 98, 7, '{}', 1)";

/// The same where Kafka is between the services.
#[rustfmt::skip]
const PLANTED_WITH_KAFKA: &[Planted] = &[
    ("consumers-at-head", "product", "UPDATE progress SET seen = (SELECT json_group_object(key, value - 1) FROM json_each(progress.seen)) WHERE partition = (SELECT min(partition) FROM seen)"),
    ("consumers-at-head", "order", "UPDATE progress SET seen = '{}' WHERE topic = 'payment.events.v1'"),
    ("consumers-at-head", "notification", "UPDATE progress SET seen = '{}' WHERE partition = (SELECT max(partition) FROM seen)"),
    ("consumers-at-head", "payment", "UPDATE progress SET seen = (SELECT json_group_object('/skald/order/00000000-0000-0000-0000-000000000000/1', value) FROM json_each(progress.seen))"),
    ("progress-within-source", "payment", "UPDATE progress SET seen = (SELECT json_group_object('/skald/order/00000000-0000-0000-0000-000000000000/1', value) FROM json_each(progress.seen))"),
    ("progress-within-source", "product", "UPDATE progress SET seen = replace(seen, '/1\"', '/2\"')"),
    ("progress-within-source", "notification", "UPDATE progress SET seen = (SELECT json_group_object(key, value + 1) FROM json_each(progress.seen))"),
    ("progress-within-source", "order", "UPDATE progress SET topic = 'order.events.v1' WHERE topic = 'product.events.v1'"),
    ("progress-within-source", "product", "UPDATE progress SET partition = 6 WHERE partition = (SELECT max(partition) FROM seen)"),
    ("none-parked", "payment", PARKED),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_law_notices_what_breaks_it() {
    let shop = traded().await;
    let services = shop.services();
    if services.iter().any(|(_, database)| matches!(database, Database::Postgres(_))) {
        // The violations are planted in the words of SQLite, in copies of its files.
        return;
    }
    let laws: BTreeSet<&str> = audited(true, services.clone()).await.laws.iter().map(|law| law.id).collect();
    let planted: BTreeSet<&str> = PLANTED.iter().map(|(law, ..)| *law).collect();
    assert_eq!(laws, planted, "every law has its violation");

    let mut unnoticed = unnoticed(&services, PLANTED).await;
    let directory = TempDir::new().unwrap();
    let services = copy(&services, directory.path());
    put_kafka_between(&services).await;
    let report = audited(true, services.clone()).await;
    assert!(report.is_good(), "{}", report.print_table());
    unnoticed.extend(self::unnoticed(&services, PLANTED_WITH_KAFKA).await);
    assert!(unnoticed.is_empty(), "{unnoticed:#?}");

    // The log goes on in a new epoch, because it has lost what some had seen of the old one.
    let next = "INSERT INTO epochs (epoch, first_position) SELECT 2, position + 1 FROM head";
    plant(&services, "order", next).await;
    plant(
        &services,
        "product",
        "UPDATE progress SET seen = (SELECT json_group_object(key, value + 100) FROM json_each(progress.seen))",
    )
    .await;
    let report = audited(true, services).await;
    assert!(report.is_good(), "{}", report.print_table());
}

/// The violations that their law does not notice, each planted in a copy.
async fn unnoticed(services: &[(&'static str, Database)], planted: &'static [Planted]) -> Vec<&'static Planted> {
    let mut unnoticed = Vec::new();
    for violation @ (law, service, sql) in planted {
        let directory = TempDir::new().unwrap();
        let copies = copy(services, directory.path());
        plant(&copies, service, sql).await;
        let report = audited(true, copies).await;
        let found = report.laws.iter().find(|found| found.id == *law).expect("it is a law");
        if found.broken == 0 || found.offenders.is_empty() || report.is_good() {
            unnoticed.push(violation);
        }
    }
    unnoticed
}

/// Leaves the progress of all consumers as it is when they read the same through Kafka.
async fn put_kafka_between(services: &[(&'static str, Database)]) {
    for topic in TOPICS.iter().filter(|topic| !topic.readers.is_empty()) {
        let mut log = connection(services, topic.owner).await;
        let (log_id, rows) = on!(&mut log.conn(), |c| {
            let log_id = sqlx::query_scalar::<DB, Uuid>("SELECT log_id FROM head").fetch_one(&mut *c).await.unwrap();
            let rows = sqlx::query_as::<DB, (i64, String)>("SELECT position, key FROM log WHERE topic = $1 ORDER BY position");
            (log_id, rows.bind(topic.name).fetch_all(c).await.unwrap())
        });
        let newest: BTreeMap<i32, i64> =
            rows.iter().map(|(position, key)| (partition_of(key.as_bytes(), 6), *position)).collect();
        for reader in topic.readers {
            let mut database = connection(services, reader).await;
            on!(&mut database.conn(), |c| {
                sqlx::query::<DB>("DELETE FROM progress WHERE topic LIKE 'log:%'").execute(&mut *c).await.unwrap();
                for (partition, position) in &newest {
                    let seen = serde_json::json!({ format!("/skald/{}/{log_id}/1", topic.owner): position }).to_string();
                    let progress = sqlx::query::<DB>("INSERT INTO progress VALUES ($1, $2, $3, 1, $4)").bind(*reader);
                    progress.bind(topic.name).bind(*partition).bind(seen).execute(&mut *c).await.unwrap();
                }
            });
        }
    }
}

async fn connection(services: &[(&'static str, Database)], service: &str) -> Owned {
    let (_, database) = services.iter().find(|(name, _)| *name == service).unwrap();
    database.connect().await.unwrap()
}

fn copy(services: &[(&'static str, Database)], to: &Path) -> Vec<(&'static str, Database)> {
    let copy = |(service, database): &(&'static str, Database)| {
        let Database::Sqlite(from) = database else { panic!("only files are copied") };
        let path = to.join(format!("{service}.db"));
        std::fs::copy(from, &path).unwrap();
        // What is not yet in the file itself: whoever closed it last may only have read.
        let wal = |path: &Path| path.with_extension("db-wal");
        if wal(from).exists() {
            std::fs::copy(wal(from), wal(&path)).unwrap();
        }
        (*service, Database::Sqlite(path))
    };
    services.iter().map(copy).collect()
}

async fn plant(services: &[(&'static str, Database)], service: &str, sql: &'static str) {
    let mut connection = connection(services, service).await;
    on!(&mut connection.conn(), |c| {
        sqlx::query::<DB>("PRAGMA ignore_check_constraints = ON").execute(&mut *c).await.unwrap();
        let changed = sqlx::query::<DB>(sql).execute(c).await.unwrap().rows_affected();
        assert!(changed > 0, "{sql} changes nothing");
    });
}
