//! A process whose machine's clock is wrong, by libfaketime: what it leaves behind, and what it does while it runs.
//!
//! Never here: the clock itself (`events/log/src/steady.rs` has its tests). `ci/crash.sh` says where the library is, in
//! `SKALD_TEST_FAKETIME`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::support::{System, eventually, home, order};

const HOUR: i64 = 3_600;

/// The clock of a machine, which a test sets.
struct Machine {
    file: PathBuf,
    library: String,
}

impl Machine {
    fn new(home: &Path) -> Self {
        let library = std::env::var("SKALD_TEST_FAKETIME").expect("SKALD_TEST_FAKETIME names libfaketimeMT.so.1: ci/crash.sh");
        let machine = Self { file: home.join("clock"), library };
        machine.is_ahead(0);
        machine
    }

    fn is_ahead(&self, seconds: i64) {
        // Written aside and put in its place: it is read at any time.
        let aside = self.file.with_extension("new");
        fs::write(&aside, format!("{seconds:+}\n")).unwrap();
        fs::rename(aside, &self.file).unwrap();
    }

    fn start(&self, home: &Path) -> System {
        let faked = [
            ("LD_PRELOAD", self.library.as_str()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        let knobs: Vec<(&str, &str)> = super::KNOBS.iter().copied().chain(faked).collect();
        System::start(home, &knobs)
    }
}

/// What `/health` says of the clock; nothing while all is well.
async fn told(system: &System) -> Option<String> {
    let health = system.anybody().get("/health").await;
    let checks = health.body["checks"].as_array().unwrap_or_else(|| panic!("{health:?}")).clone();
    let clock = checks.into_iter().find(|check| check["name"] == "clock").unwrap_or_else(|| panic!("{health:?}"));
    (clock["status"] != "ok").then(|| clock["error"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs libfaketime: ci/crash.sh"]
async fn what_a_process_with_a_clock_an_hour_ahead_left_behind_goes_on_at_once() {
    let home = home();
    let machine = Machine::new(home.path());
    machine.is_ahead(HOUR);
    let system = machine.start(home.path());
    let mut admin = system.admin().await;
    let product = admin.product("TEA-1", 100).await;
    // Killed while their payments are being made.
    for number in 0..20 {
        let placed = admin.place(&format!("key-{number}"), &order(&product, 1, "tok_slow"), 0).await;
        assert_eq!(placed.status, 202, "{placed:?}");
    }
    system.kill();

    machine.is_ahead(0);
    let system = machine.start(home.path());
    assert_eq!(told(&system).await, None);
    let mut admin = system.admin().await;
    for number in 0..20 {
        let ended = admin.ended(&format!("key-{number}"), &order(&product, 1, "tok_slow")).await;
        assert_ne!(ended.body["status"], Value::Null, "{ended:?}");
    }
    system.settles().await;
    assert!(system.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs libfaketime: ci/crash.sh"]
async fn a_clock_that_is_set_under_a_running_process_changes_nothing_and_is_told() {
    let home = home();
    let machine = Machine::new(home.path());
    let system = machine.start(home.path());
    let mut admin = system.admin().await;
    let product = admin.product("TEA-1", 100).await;
    for (number, ahead) in [-HOUR, 3 * HOUR, 48 * HOUR].into_iter().enumerate() {
        machine.is_ahead(ahead);
        eventually("the leap is told", async || told(&system).await.map(drop).ok_or_else(|| "all is well".to_owned())).await;
        let says = told(&system).await.unwrap();
        assert!(says.contains(if ahead > 0 { "ahead of" } else { "behind" }), "{says}");
        assert_eq!(system.anybody().get("/readyz").await.status, 200, "requests are taken");
        // Its token is as good as it was, and an answer that never comes is asked for at its time.
        let (key, wanted) = (format!("key-{number}"), order(&product, 1, "tok_lost"));
        assert_eq!(admin.ended(&key, &wanted).await.told(), (202, "confirmed", ""));
    }
    machine.is_ahead(0);
    eventually("all is well again", async || told(&system).await.map_or(Ok(()), Err)).await;
    assert!(admin.text("/metrics").await.contains("clock_leaps_total"));
    system.settles().await;
    assert!(system.stop().success());
}
