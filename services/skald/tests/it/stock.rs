//! Products that sell out: refused at the check, lost in the race, and never sold twice.

use std::collections::BTreeMap;

use kit::Tasks;
use tokio::sync::mpsc;

use crate::support::{Person, System, eventually, home, order};

#[tokio::test]
async fn too_little_stock_at_the_check_makes_no_order_and_names_the_product() {
    let home = home();
    let system = System::start(home.path(), &[]);
    let product = system.admin().await.product("RARE-1", 3).await;
    let mut ann = system.customer("ann").await;
    let refused = ann.place("k1", &order(&product, 4, "tok_ok"), 20).await;
    assert_eq!(refused.told(), (409, "out_of_stock", ""));
    assert!(refused.body.to_string().contains(&product), "{refused:?}");
    assert_eq!(ann.get("/v1/orders").await.body["items"], serde_json::json!([]));
    // Nothing was kept under the key: with less it is an order.
    assert_eq!(ann.place("k1", &order(&product, 3, "tok_ok"), 20).await.told(), (202, "confirmed", ""));
    system.settles().await;
}

/// So many orders of one piece each, `clients` at a time; how many came out in which way.
async fn race(system: &System, token: &str, product: &str, orders: usize, clients: usize) -> BTreeMap<String, usize> {
    let tasks = Tasks::new();
    let (sender, mut outcomes) = mpsc::channel(orders);
    for client in 0..clients {
        let (mut person, sender) = (Person::with(system.address, token), sender.clone());
        let order = order(product, 1, "tok_ok");
        let product = product.to_owned();
        tasks.spawn("client", async move {
            // All of a client's orders are placed before the first one is waited for.
            let keys: Vec<String> = (client..orders).step_by(clients).map(|number| format!("{product}-{number}")).collect();
            let mut taken = Vec::new();
            for key in keys {
                let answer = person.place(&key, &order, 0).await;
                match answer.told() {
                    (202, ..) => taken.push(key),
                    told => drop(sender.send(format!("{told:?}")).await),
                }
            }
            for key in taken {
                let ended = person.ended(&key, &order).await;
                let _ = sender.send(format!("{:?}", ended.told())).await;
            }
        });
    }
    drop(sender);
    let mut counts = BTreeMap::new();
    while let Some(outcome) = outcomes.recv().await {
        *counts.entry(outcome).or_default() += 1;
    }
    counts
}

const CONFIRMED: &str = r#"(202, "confirmed", "")"#;
const LOST_THE_RACE: &str = r#"(202, "cancelled", "out_of_stock")"#;
const REFUSED: &str = r#"(409, "out_of_stock", "")"#;

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_orders_for_a_hundred_pieces_confirm_exactly_a_hundred() {
    let home = home();
    let system = System::start(home.path(), &[]);
    let product = system.admin().await.product("RARE-1", 100).await;
    let token = system.token("ann").await;
    let counts = race(&system, &token, &product, 2_000, 250).await;
    assert_eq!(counts.get(CONFIRMED), Some(&100), "{counts:?}");
    assert_eq!(counts.values().sum::<usize>(), 2_000, "{counts:?}");
    assert!(counts.keys().all(|outcome| [CONFIRMED, LOST_THE_RACE, REFUSED].contains(&outcome.as_str())), "{counts:?}");
    system.settles().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_passed_the_check_and_lost_the_race_is_cancelled() {
    let home = home();
    let system = System::start(home.path(), &[]);
    let mut admin = system.admin().await;
    let token = system.token("ann").await;
    // The check is advice: who passes it together races for the last piece.
    let mut number = 0;
    eventually("somebody lost a race", async || {
        number += 1;
        let product = admin.product(&format!("RARE-{number}"), 1).await;
        let counts = race(&system, &token, &product, 16, 16).await;
        assert_eq!(counts.get(CONFIRMED), Some(&1), "{counts:?}");
        counts.get(LOST_THE_RACE).copied().ok_or_else(|| format!("{counts:?}"))
    })
    .await;
    system.settles().await;
}
