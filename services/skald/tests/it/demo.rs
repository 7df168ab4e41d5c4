//! `skald demo` as a user starts it.

use serde_json::Value;

use crate::support::{home, run};

#[test]
fn a_small_demo_ends_every_order_and_its_audit_holds() {
    let output = run(&["demo", "--orders", "120", "--concurrency", "16", "--json"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stdout));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let counted: u64 = report["outcomes"].as_array().unwrap().iter().map(|outcome| outcome["orders"].as_u64().unwrap()).sum();
    assert_eq!(counted, 120);
    assert_eq!(report["held"], true);
    assert_eq!(report["audit"]["verdict"], "holds");
    assert_eq!(report["stories"].as_array().unwrap().len(), 2);
    assert!(report["latency_ms"]["p50"].as_f64().unwrap() > 0.0);
}

#[test]
fn one_happy_client_is_told_in_tables_and_its_data_stays_where_it_was_asked_for() {
    let home = home();
    let data = home.path().join("data");
    let output = run(&["demo", "--orders", "20", "--concurrency", "1", "--mix", "happy", "--data", data.to_str().unwrap()]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{told}{}", String::from_utf8_lossy(&output.stderr));
    for words in ["20 orders (clients: 1, customers: 1, mix: happy", "confirmed", "p50", "saga.SagaEnded", "audit"] {
        assert!(told.contains(words), "{words:?} is missing: {told}");
    }
    assert_eq!(run(&["audit", "--settled", "--data", data.to_str().unwrap()]).status.code(), Some(0));
    // Its admin's password was printed once, elsewhere.
    let again = run(&["demo", "--data", data.to_str().unwrap()]);
    assert_eq!(again.status.code(), Some(3), "{}", String::from_utf8_lossy(&again.stderr));
}
