//! The proofs proven: this program again, with each planted fault by name, and what finds it.
//!
//! Never here: the faults, which `contract::planted` lists and the rooms that they are about consult.

use std::process::{Command, ExitCode};

use contract::Fault;
use skald_saga::{laws, order::OrderSaga};

use crate::{PAGE, first_finding};

/// The faults that a model or a law must find. The others are about code that the models don't have: the simulation's and the suites'.
const FOUND_HERE: [Fault; 21] = [
    Fault::UnknownIsRefused,
    Fault::CancelPastThePivot,
    Fault::CompensationGivenUp,
    Fault::CaptureGivenUp,
    Fault::DeclineKeepsTheStock,
    Fault::LateReplyRevives,
    Fault::StuckAtOnce,
    Fault::ProgressBeforeEffects,
    Fault::RepeatsAreHandled,
    Fault::GapsAreSkipped,
    Fault::CheckpointBeforeReport,
    Fault::ZombieUnfenced,
    Fault::DeadlineLost,
    Fault::StaleDeadline,
    Fault::ReplyForgotten,
    Fault::StockTombstoneForgotten,
    Fault::PaymentTombstoneForgotten,
    Fault::ReleaseTwice,
    Fault::StockFromMemory,
    Fault::KeyWithAttempt,
    Fault::TimeoutIsDeclined,
];

/// The one whose dialogue the page shows.
const SHOWN: Fault = Fault::PaymentTombstoneForgotten;

/// In a process with a planted fault: what finds it.
pub(crate) fn find() -> ExitCode {
    let law = laws::check::<OrderSaga>().broken.into_iter().next();
    let law_id = law.as_ref().map_or("-", |broken| broken.invariant.id());
    match (first_finding(), law) {
        (Some((model, finding)), _) => {
            println!("{} | model {} | {law_id}\n{}", finding.invariant.id(), &model[..1], finding.dialogue)
        }
        (None, Some(broken)) => println!("- | - | {law_id}\n{}", broken.dialogue),
        (None, None) => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
}

/// Starts this program with each fault; fails if one is not found, or if something is found without any.
pub(crate) fn find_each() -> ExitCode {
    if !cfg!(feature = "planted") {
        println!("build it with the feature `planted`");
        return ExitCode::FAILURE;
    }
    let mut is_right = true;
    let (is_found, what) = with("");
    if is_found {
        println!("something is found without any fault:\n{what}");
        is_right = false;
    }
    println!("| fault | broken | by | law |\n|---|---|---|---|");
    for fault in Fault::ALL {
        let (is_found, what) = with(fault.name());
        let (first, dialogue) = what.split_once('\n').unwrap_or((&what, ""));
        println!("| {} | {} |", fault.name(), if is_found { first } else { "- | - | -" });
        if is_found != FOUND_HERE.contains(fault) {
            println!("{}: found is {is_found}, and it should be {}", fault.name(), !is_found);
            is_right = false;
        }
        let page = || std::fs::read_to_string(PAGE).unwrap_or_default();
        if *fault == SHOWN && !page().contains(dialogue.trim_end()) {
            println!("docs/model-check.md does not show this dialogue:\n{dialogue}");
            is_right = false;
        }
    }
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether anything is found with a fault, and what.
fn with(name: &str) -> (bool, String) {
    let own = std::env::current_exe().expect("this program has a path");
    let output = Command::new(own).arg("--find").env("SKALD_PLANTED", name).output().expect("this program starts again");
    let what = String::from_utf8_lossy(&output.stdout).into_owned();
    // 0: found; 1: nothing found. Anything else is a crash.
    match output.status.code() {
        Some(0) => (true, what),
        Some(1) => (false, what),
        code => panic!("with {name:?} it ends with {code:?}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}
