//! What one order costs, counted on the running binary: the table in ARCHITECTURE.md is this one.

use std::{collections::BTreeMap, fmt::Write};

use eventlog::{Database, on};

use crate::support::{System, eventually, home, order};

const SERVICES: [&str; 4] = ["order", "product", "payment", "notification"];
const ORDERS: u64 = 5;
const BEGIN: &str = "<!-- costs: kept true by services/skald/tests/it/costs.rs -->\n";
const END: &str = "<!-- /costs -->";

#[tokio::test]
async fn an_order_alone_costs_what_the_architecture_says() {
    let home = home();
    let system = System::start(home.path(), &[]);
    let product = system.admin().await.product("TEA-1", 100).await;
    let mut customer = system.customer("ann").await;
    // The first one makes what every later one finds: the row of a consumer's progress.
    customer.ended("warm", &order(&product, 1, "tok_ok")).await;
    system.settles().await;
    let before = counted(&mut system.anybody()).await;
    for n in 0..ORDERS {
        customer.ended(&format!("order-{n}"), &order(&product, 1, "tok_ok")).await;
        system.settles().await;
    }
    let after = counted(&mut system.anybody()).await;
    let messages = published(&system.data).await;

    let mut table =
        String::from("| one good order alone | rows | of them messages | transactions = fsyncs |\n|---|---|---|---|\n");
    let mut sum = [0; 3];
    for service in SERVICES {
        let spent = |name: &str| {
            let key = format!("{name}{{service=\"{service}\"}}");
            let spent = after[&key] - before[&key];
            assert_eq!(spent % ORDERS, 0, "{key}: every order alone costs the same");
            spent / ORDERS
        };
        let costs = [spent("log_position"), messages[service], spent("log_commits_total")];
        let _ = writeln!(table, "| {service} | {} | {} | {} |", costs[0], costs[1], costs[2]);
        for (sum, cost) in sum.iter_mut().zip(costs) {
            *sum += cost;
        }
    }
    let _ = writeln!(table, "| together | {} | {} | {} |", sum[0], sum[1], sum[2]);

    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../ARCHITECTURE.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (head, rest) = page.split_once(BEGIN).expect("the table's place");
    let (written, tail) = rest.split_once(END).expect("the table's end");
    if std::env::var_os("SKALD_GENERATE").is_some() {
        std::fs::write(path, format!("{head}{BEGIN}{table}{END}{tail}")).unwrap();
        return;
    }
    assert_eq!(written, table, "ARCHITECTURE.md is stale; SKALD_GENERATE=1 writes it anew");
}

/// The logs' counters at /metrics.
async fn counted(anybody: &mut crate::support::Person) -> BTreeMap<String, u64> {
    eventually("metrics are served", async || {
        let text = anybody.text("/metrics").await;
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        let found: BTreeMap<String, u64> = lines
            .filter(|(name, _)| name.starts_with("log_"))
            .filter_map(|(name, n)| Some((name.to_owned(), n.parse().ok()?)))
            .collect();
        if found.is_empty() { Err(text.clone()) } else { Ok(found) }
    })
    .await
}

/// Messages of one order that leave each service: the rows that have a topic.
async fn published(data: &std::path::Path) -> BTreeMap<&'static str, u64> {
    let mut published = BTreeMap::new();
    for service in SERVICES {
        let readers = Database::Sqlite(data.join(format!("{service}.db"))).readers().unwrap();
        let mut reader = readers.acquire().await.unwrap();
        let messages: i64 = on!(&mut reader.conn(), |c| sqlx::query_scalar::<DB, i64>(
            "SELECT COUNT(*) FROM log WHERE topic IS NOT NULL AND correlation = (SELECT MAX(correlation) FROM log)"
        )
        .fetch_one(c)
        .await)
        .unwrap();
        published.insert(service, u64::try_from(messages).unwrap());
    }
    published
}
