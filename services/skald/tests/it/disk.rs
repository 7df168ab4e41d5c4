//! A disk that fills up while orders stream in: refused in words, nothing damaged, and on from there once there is room.

use crate::support::{System, eventually, home, order};

#[tokio::test]
async fn a_full_disk_refuses_orders_and_damages_nothing() {
    let home = home();
    let system = System::start_on_a_small_disk(home.path(), 2_000);
    let product = system.admin().await.product("TEA-1", 100_000).await;
    let token = system.token("ann").await;
    let mut customer = crate::support::Person::with(system.address, &token);
    let tea = order(&product, 1, "tok_ok");
    let mut accepted = Vec::new();
    // The files fill with what is accepted: some ten thousand orders would never fit.
    let refused = loop {
        assert!(accepted.len() < 10_000, "the disk never filled");
        let key = format!("order-{}", accepted.len());
        let answer = customer.place(&key, &tea, 0).await;
        match answer.status {
            202 => accepted.push((key, answer.id())),
            _ => break answer,
        }
    };
    assert_eq!(refused.told(), (503, "unavailable", ""), "{refused:?}");
    assert!(!accepted.is_empty());
    eventually("it says that it can't take orders", async || {
        let ready = customer.get("/readyz").await;
        if ready.status == 503 && ready.body["status"] == "failing" { Ok(()) } else { Err(format!("{ready:?}")) }
    })
    .await;
    system.kill();

    let system = System::start(home.path(), &[]);
    let mut customer = crate::support::Person::with(system.address, &token);
    for (key, id) in &accepted {
        let again = customer.ended(key, &tea).await;
        assert_eq!((&again.id(), again.body["status"].as_str()), (id, Some("confirmed")), "{again:?}");
    }
    system.settles().await;
}
