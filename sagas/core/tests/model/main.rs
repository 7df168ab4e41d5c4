//! The model check: explores every state of each model within its bounds, and says what it found.
//!
//! `cargo test -p skald-saga --test model` explores the small bounds twice, here and by stateright's own checker; `-- --full` the large
//! ones of docs/model-check.md, `-- --larger` larger ones still; `-- --planted`, with the feature `planted`, starts this program again
//! with each planted fault by name. Numbers of states are compared with what that page says.

mod bus;
mod engine;
mod explorer;
mod one_order;
mod one_piece;
mod payment;
mod planted;
mod product;

use std::process::ExitCode;

use bus::Bus;
use engine::Patience;
use explorer::{Explored, Finding, explore, second_opinion};
use one_order::OneOrder;
use one_piece::OnePiece;
use skald_saga::{laws, order::OrderSaga};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/model-check.md");

/// What to explore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Bounds {
    Small,
    Full,
    Larger,
}

fn main() -> ExitCode {
    let argument = std::env::args().nth(1).unwrap_or_default();
    match argument.as_str() {
        "--planted" => planted::find_each(),
        "--find" => planted::find(),
        "--full" => prove(Bounds::Full),
        "--larger" => prove(Bounds::Larger),
        // Whatever the test runner says to its own kind.
        _ => prove(Bounds::Small),
    }
}

/// A model in its bounds.
enum Case {
    OneOrder(OneOrder),
    TwoOrders(OnePiece<2>),
    ThreeOrders(OnePiece<3>),
    Bus(Bus),
}

fn cases(bounds: Bounds) -> Vec<(&'static str, Case)> {
    let one =
        |tries_max, stuck_after, operator| Case::OneOrder(OneOrder { patience: Patience { tries_max, stuck_after }, operator });
    let bus = |rows, broker_loses| Case::Bus(Bus { rows, waiting: 3, broker_loses });
    match bounds {
        Bounds::Small => vec![
            ("1: one order, 1 try, stuck after 1, no operator", one(1, 1, false)),
            ("2: 2 orders, 1 piece", Case::TwoOrders(OnePiece { pieces: 1 })),
            ("3: 2 rows, 3 records waiting", bus(2, false)),
        ],
        Bounds::Full => vec![
            ("1: one order, 2 tries, stuck after 3, operator", one(2, 3, true)),
            ("2: 3 orders, 1 piece", Case::ThreeOrders(OnePiece { pieces: 1 })),
            ("2: 3 orders, 2 pieces", Case::ThreeOrders(OnePiece { pieces: 2 })),
            ("3: 3 rows, 3 records waiting", bus(3, false)),
            ("3: 2 rows, 3 records waiting, broker loses one", bus(2, true)),
        ],
        Bounds::Larger => vec![
            ("1: one order, 3 tries, stuck after 6, operator", one(3, 6, true)),
            ("3: 3 rows, 3 records waiting, broker loses one", bus(3, true)),
        ],
    }
}

fn explored(case: &Case) -> Explored {
    match case {
        Case::OneOrder(model) => explore(model),
        Case::TwoOrders(model) => explore(model),
        Case::ThreeOrders(model) => explore(model),
        Case::Bus(model) => explore(model),
    }
}

/// The first finding in the small bounds, and in which model.
fn first_finding() -> Option<(&'static str, Finding)> {
    let mut wanted = cases(Bounds::Small);
    // Gaps come only where the broker loses something.
    wanted.extend(cases(Bounds::Full).pop());
    wanted.iter().find_map(|(name, case)| Some((*name, explored(case).finding?)))
}

/// Explores; fails where an invariant breaks or the page says something else.
fn prove(bounds: Bounds) -> ExitCode {
    let page = std::fs::read_to_string(PAGE).unwrap_or_default();
    let mut is_proven = true;
    println!("| model | states | moves | longest way | seconds |\n|---|---|---|---|---|");
    for (name, case) in cases(bounds) {
        let began = now();
        let Explored { states, moves, depth, finding } = explored(&case);
        let row = format!("| {name} | {} | {} | {depth} |", grouped(states as u64), grouped(moves));
        println!("{row} {:.1} |", began.elapsed().as_secs_f32());
        if let Some(finding) = finding {
            println!("{}", finding.dialogue);
            is_proven = false;
        } else if !page.contains(&row) {
            println!("docs/model-check.md does not have this row: {row}");
            is_proven = false;
        }
        if bounds == Bounds::Small && agrees(case) != Some(states) {
            println!("stateright's checker does not agree");
            is_proven = false;
        }
    }
    let report = laws::check::<OrderSaga>();
    println!("\nlaws: {} runs of the order saga, {} broken", report.runs, report.broken.len());
    if is_proven && report.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How many states stateright finds, if it finds none that is broken.
fn agrees(case: Case) -> Option<usize> {
    let (states, is_whole) = match case {
        Case::OneOrder(model) => second_opinion(model),
        Case::TwoOrders(model) => second_opinion(model),
        Case::ThreeOrders(model) => second_opinion(model),
        Case::Bus(model) => second_opinion(model),
    };
    is_whole.then_some(states)
}

#[expect(clippy::disallowed_methods, reason = "how long the exploration took, for people only")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
