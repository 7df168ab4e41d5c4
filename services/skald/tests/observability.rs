//! Traces of the five services as processes on Kafka and PostgreSQL, where something goes wrong: `ci/observability.sh` starts those
//! and this. What a trace is when all is well is in `it/traces.rs`, which the same script runs on the same servers.

mod support;

use std::time::Duration;

use contract::{Record, topics};
use eventlog::{Database, Env, on};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    message::{Headers as _, Message as _},
};

use support::{
    Person, Shop,
    cluster::{Cluster, kafka},
    eventually, home, order,
    otlp::{Receiver, hole},
    prometheus::Prometheus,
    trace::{CONFIRMED, Trace, begun_since},
};

/// No deadline passes while somebody is being started again.
const PATIENT: (&str, &str) = ("SKALD_STEP_DEADLINE_MS", "60000");

fn place_of(cluster: &Cluster, service: &str) -> usize {
    cluster.replicas.iter().position(|replica| replica.service == service).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka and PostgreSQL: ci/observability.sh"]
async fn a_trace_goes_on_across_the_death_of_its_services_between_two_hops() {
    let (home, receiver) = (home(), Receiver::start());
    let mut cluster = Cluster::start(home.path(), &[("SKALD_OTLP", &receiver.url()), PATIENT], &[]).await;
    let shop = Shop { doors: cluster.doors() };
    let product = shop.admin().await.product("TEA-1", 10).await;
    let mut ann = shop.customer("ann").await;
    cluster.settles().await;
    let now = Env::system().now();
    let (asks, pays) = (place_of(&cluster, "order"), place_of(&cluster, "payment"));

    // Nobody is there to take the command, and who has sent it dies before the answer comes.
    cluster.signal(pays, "KILL");
    let placed = ann.place("k1", &order(&product, 1, "tok_ok"), 0).await;
    assert_eq!(placed.told(), (202, "pending", ""));
    eventually("the command is published and told of", async || {
        let spans = receiver.spans();
        let told = spans.iter().filter(|span| span.name == "send payment.commands.v1").count();
        if told == 2 { Ok(()) } else { Err(format!("{told} spans")) }
    })
    .await;
    cluster.signal(asks, "KILL");
    cluster.spawn(asks);
    cluster.spawn(pays);

    let trace = Trace::of_order(&receiver, now, &placed.id(), CONFIRMED).await;
    trace.is_sound("kafka", "");
    trace.is_carried(&receiver, "kafka").await;
    cluster.settles().await;
}

/// What a message is called on its topic.
struct Called {
    trace: String,
    span: String,
}

/// The command of an order, as Kafka holds it.
fn command_of(order: &str) -> Called {
    let topic = topics::PRODUCT_COMMANDS;
    let partition = topics::partition_of(order.as_bytes(), 6);
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", kafka()).set("group.id", "stranger").create().unwrap();
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    consumer.assign(&from).unwrap();
    loop {
        let message = consumer.poll(Duration::from_secs(30)).expect("the command is there").unwrap();
        let headers = message.headers().unwrap().iter();
        let headers = headers.map(|header| (header.key.to_owned(), header.value.unwrap().to_vec())).collect();
        let record = Record { key: None, headers, value: None };
        if record.header("ce_type") == Some("product.ReserveStock") && record.header("ce_partitionkey") == Some(order) {
            let mut parts = record.header("traceparent").unwrap().split('-').skip(1).map(str::to_owned);
            return Called { trace: parts.next().unwrap(), span: parts.next().unwrap() };
        }
    }
}

/// The act; what follows is in the trace of the message.
const REDRIVEN: &str = "product      INTERNAL redrive product.commands.v1";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka and PostgreSQL: ci/observability.sh"]
async fn a_redrive_goes_on_in_the_trace_of_its_message_and_the_two_lead_to_each_other() {
    let (home, receiver) = (home(), Receiver::start());
    let url = receiver.url();
    let cluster = Cluster::start(home.path(), &[("SKALD_OTLP", &url), PATIENT], &[]).await;
    let shop = Shop { doors: cluster.doors() };
    let product = shop.admin().await.product("TEA-1", 10).await;
    let database = cluster.database("product");
    let mut tables = Database::Postgres(database.clone()).connect().await.unwrap();
    let mut alter =
        async |sql: &'static str| on!(&mut tables.conn(), |c| sqlx::query::<DB>(sql).execute(c).await.map(drop)).unwrap();
    // A table that takes no reservation, as somebody has altered it: the command is set aside, and can be handled later.
    alter("ALTER TABLE reservations ADD CONSTRAINT none CHECK (status = '') NOT VALID").await;
    let mut ann = shop.customer("ann").await;
    let wanted = order(&product, 1, "tok_ok");
    let placed = ann.place("k1", &wanted, 0).await;
    assert_eq!(placed.told(), (202, "pending", ""));

    let letters = |arguments: &[&str]| {
        let key = cluster.message_key.to_str().unwrap();
        let variables = [("SKALD_DATABASE", database.as_str()), ("SKALD_OTLP", &url), ("SKALD_MESSAGE_KEY_FILE", key)];
        let output = support::run_with(&[&["dead-letters"][..], arguments].concat(), &variables);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    eventually("it is set aside", async || {
        let (_, listed) = letters(&["list"]);
        if listed.contains("23514 on constraint none") { Ok(()) } else { Err(listed) }
    })
    .await;
    let command = command_of(&placed.id());
    alter("ALTER TABLE reservations DROP CONSTRAINT none").await;
    let now = Env::system().now();
    let rehearsed = letters(&["redrive", "--dry-run"]);
    assert!(rehearsed.0 == Some(0) && rehearsed.1.contains("would be handled"), "{rehearsed:?}");
    assert!(begun_since(&receiver, now).is_empty(), "nothing has happened yet");
    let redriven = letters(&["redrive"]);
    assert!(redriven.0 == Some(0) && redriven.1.contains("product.StockReserved"), "{redriven:?}");

    let id = eventually("a trace begins", async || begun_since(&receiver, now).pop().ok_or_else(|| "none".to_owned())).await;
    let trace = Trace::whole(&receiver, &id, REDRIVEN).await;
    trace.is_sound("kafka", "");
    let root = &trace.spans[0];
    let handled = eventually("it was handled", async || {
        let spans = receiver.spans();
        let link = (root.trace.clone(), root.id.clone());
        let handled = spans.iter().find(|span| span.name == "process product.commands.v1" && span.links == [link.clone()]);
        let answered = |by: &str| spans.iter().filter(|span| span.parent == by && span.name == "send product.events.v1").count();
        match handled {
            Some(handled) if answered(&handled.id) == 1 => Ok(handled.clone()),
            _ => Err(format!("{handled:?}")),
        }
    })
    .await;
    assert_eq!((&handled.trace, &handled.parent), (&command.trace, &command.span));
    assert_eq!(root.links, [(handled.trace, handled.id)]);
    assert_eq!(ann.ended("k1", &wanted).await.told(), (202, "confirmed", ""));
}

/// Orders of every kind: one that ends well, one that is declined, one that is too many, and one whose customer cancels.
async fn shop_a_little(zaphod: &mut Person, product: &str, round: usize) {
    let key = |what: &str| format!("{what}-{round}");
    assert_eq!(zaphod.place(&key("good"), &order(product, 1, "tok_ok"), 20).await.told(), (202, "confirmed", ""));
    assert_eq!(zaphod.place(&key("declined"), &order(product, 1, "tok_declined"), 20).await.told().1, "cancelled");
    assert_eq!(zaphod.place(&key("many"), &order(product, 1_000, "tok_ok"), 20).await.status, 409);
    let placed = zaphod.place(&key("cancelled"), &order(product, 1, "tok_ok"), 0).await;
    zaphod.cancel(&placed.id(), &key("cancel")).await;
}

/// The lines of a list that `ci/observability.sh` has written.
fn list(variable: &str) -> Vec<String> {
    let path = std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is set by ci/observability.sh"));
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka, PostgreSQL and Prometheus: ci/observability.sh"]
async fn whatever_dashboards_and_alerts_ask_for_has_data_and_exemplars_lead_to_traces() {
    let (home, receiver) = (home(), Receiver::start());
    let cluster = Cluster::start(home.path(), &[("SKALD_OTLP", &receiver.url()), PATIENT], &[]).await;
    let prometheus = Prometheus::start(home.path(), &cluster).await;
    let shop = Shop { doors: cluster.doors() };
    let product = shop.admin().await.product("TEA-1", 900).await;
    let metrics = list("SKALD_TEST_METRICS");
    // A panel with several queries shows something if one of them does.
    let queries: Vec<(String, String)> =
        list("SKALD_TEST_QUERIES").iter().filter_map(|line| line.split_once('\t')).map(|(a, b)| (a.into(), b.into())).collect();
    assert!(metrics.len() > 20 && queries.len() > 60, "{} metrics, {} queries", metrics.len(), queries.len());
    let (mut zaphod, mut round) = (shop.customer("zaphod").await, 0);
    eventually("everything has data", async || {
        round += 1;
        shop_a_little(&mut zaphod, &product, round).await;
        let (mut missing, mut shown) = (Vec::new(), Vec::new());
        for metric in &metrics {
            if !prometheus.shows(metric).await? {
                missing.push(metric.clone());
            }
        }
        for (panel, query) in &queries {
            if prometheus.shows(query).await? {
                shown.push(panel);
            }
        }
        // What an alert asks for is there only while it fires; that it can be asked is all that is known here.
        let panels = queries.iter().map(|(panel, _)| panel).filter(|panel| !panel.starts_with("alert/"));
        missing.extend(panels.filter(|panel| !shown.contains(panel)).cloned());
        missing.dedup();
        if missing.is_empty() { Ok(()) } else { Err(format!("nothing is shown by {missing:?}")) }
    })
    .await;
    for (alert, health) in prometheus.alerts().await.unwrap() {
        assert_eq!(health, "ok", "{alert}");
    }
    for metric in ["saga_duration_seconds_bucket", "http_request_duration_seconds_bucket"] {
        let traces = prometheus.exemplars(metric).await.unwrap();
        assert!(!traces.is_empty(), "{metric}");
        eventually("the trace of each exemplar is there", async || {
            let spans = receiver.spans();
            let unknown: Vec<&String> = traces.iter().filter(|trace| spans.iter().all(|span| span.trace != **trace)).collect();
            if unknown.is_empty() { Ok(()) } else { Err(format!("{metric}: {unknown:?}")) }
        })
        .await;
    }
    cluster.settles().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka and PostgreSQL: ci/observability.sh"]
async fn logs_lead_to_traces_and_hold_no_secret_and_nobodys_name() {
    let home = home();
    let knobs = [("SKALD_LOG", "debug"), ("SKALD_LOG_JSON", "true"), ("SKALD_TRACE_SAMPLE", "0"), PATIENT];
    let cluster = Cluster::start(home.path(), &knobs, &[]).await;
    let shop = Shop { doors: cluster.doors() };
    let product = shop.admin().await.product("TEA-1", 900).await;
    let token = shop.token("zaphod").await;
    let mut zaphod = Person::with(cluster.doors(), &token);
    shop_a_little(&mut zaphod, &product, 1).await;
    let id = zaphod.place("traced", &order(&product, 1, "tok_ok"), 20).await.id();
    cluster.settles().await;

    let logs: Vec<String> = cluster.replicas.iter().map(|replica| std::fs::read_to_string(&replica.log).unwrap()).collect();
    let lines: Vec<serde_json::Value> = logs
        .iter()
        .flat_map(|log| log.lines())
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let of_it: Vec<&serde_json::Value> = lines.iter().filter(|line| line["saga.id"] == id).collect();
    let traces: Vec<&str> = of_it.iter().filter_map(|line| line["trace.id"].as_str()).collect();
    assert!(of_it.len() >= 2 && traces.len() == of_it.len(), "{of_it:?}");
    assert!(traces.iter().all(|trace| trace.len() == 32 && trace == &traces[0]), "{traces:?}");
    let history = zaphod.get(&format!("/v1/orders/{id}/history")).await;
    assert_eq!(history.body["items"][0]["trace_id"], traces[0], "the trace that its history names");

    let password = support::ADMIN.1;
    for secret in [password, "zaphod", "tok_", "password", "eyJ", &token, "postgres://skald:"] {
        for line in logs.iter().flat_map(|log| log.lines()) {
            assert!(!line.contains(secret), "{secret:?} is in a log: {line}");
        }
    }
}

/// Not a proof: it prints how fast the shop is in one process without traces, with one in a hundred and with all of them.
#[test]
#[ignore = "a measurement: ci/observability.sh cost"]
fn what_tracing_costs() {
    let orders = std::env::var("SKALD_COST_ORDERS").unwrap_or_else(|_| "20000".to_owned());
    let shop = ["demo", "--mix", "happy", "--concurrency", "256", "--json", "--orders", &orders];
    println!("{:<10} {:>16} {:>8} {:>8} {:>10}", "recorded", "orders a second", "p50 ms", "p99 ms", "spans lost");
    for share in [None, Some("0.01"), Some("1"), None, Some("0.01"), Some("1")] {
        let url = hole();
        let traced = ["--otlp", &url, "--trace-sample", share.unwrap_or_default()];
        let output = support::run(&[&shop[..], if share.is_some() { &traced } else { &[] }].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
        assert_eq!(report["held"], true, "{said}");
        let number = |value: &serde_json::Value| value.as_f64().unwrap_or_default();
        let lost = said.split("lost=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap_or("0").to_owned();
        println!(
            "{:<10} {:>16.0} {:>8.1} {:>8.1} {lost:>10}",
            share.unwrap_or("off"),
            number(&report["orders_per_second"]),
            number(&report["latency_ms"]["p50"]),
            number(&report["latency_ms"]["p99"]),
        );
    }
}
