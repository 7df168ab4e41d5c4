//! A few seeds in every `cargo test`: the run is good, and the same seed is the same run. `ci/sim.sh` runs hundreds.

use skald_sim::{Ended, Plan, Summary, simulate};

fn run(plan: Plan) -> Summary {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(simulate(plan, directory.path())).expect("the machine has room for four databases")
}

#[test]
fn without_a_fault_every_order_ends_and_some_are_confirmed() {
    let summary = run(Plan { faulty_steps: 0, ..Plan::new(1, 15) });
    assert_eq!(summary.ended, Ended::Well);
    assert!(summary.confirmed > 0, "{summary:?}");
}

#[test]
fn with_faults_every_promise_holds() {
    for seed in 1..=3 {
        let summary = run(Plan::new(seed, 12));
        assert_eq!(summary.ended, Ended::Well, "replay with: just sim {seed} --orders 12\n{}", summary.last_lines.join("\n"));
    }
}

#[test]
fn the_same_seed_is_the_same_run_and_another_one_is_another() {
    let (first, second) = (run(Plan::new(5, 10)), run(Plan::new(5, 10)));
    assert_eq!((first.hash, first.steps), (second.hash, second.steps));
    assert_ne!(first.hash, run(Plan::new(6, 10)).hash);
}
