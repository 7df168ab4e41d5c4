//! Laws that every saga keeps, whatever it is about: `laws::hold::<MySaga>()` in a test is all that a new table needs.
//!
//! The participants are made from the table's own rows, and each run puts one trouble and one way of delivering messages together.
//! Never here: what a saga's words mean, engines, logs. From here the flow goes to `laws/run.rs`, which runs one of them.

mod run;

use crate::{Decision, Invariant, Kind, Patience, Saga, Word};
use run::Run;

/// What goes wrong with the business of a run; steps by their row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    None,
    /// The participant refuses.
    Refused(usize),
    /// The participant acts, and its answer comes after the saga has given up waiting.
    Unheard(usize),
    /// The command comes after the saga has given up waiting.
    Late(usize),
}

/// What goes wrong with the messages of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery<Input> {
    Once,
    /// Each command and each reply comes twice.
    Twice,
    /// Each compensation is asked twice, and answers twice.
    CompensationTwice,
    /// After so many recorded events the instance is read again from its history, and what was sent last is sent again.
    CrashAfter(usize),
    /// After each move every older reply comes once more, the newest first.
    Reordered,
    /// The deadline passes, the step is asked again, and both answers come.
    DeadlineBefore,
    /// The last deadline of the step in this row passes while the answer comes in.
    DeadlineWith(usize),
    /// The deadline passes when the answer has been heard.
    DeadlineAfter,
    /// Before the round of that number a person asks for something. Such a run must end; how, is the person's choice.
    Asked(usize, Input),
}

/// A law that a table breaks.
#[derive(Clone, Debug)]
pub struct Broken {
    pub invariant: Invariant,
    /// What happened, a line each.
    pub dialogue: String,
}

/// What was found of a table.
#[derive(Debug)]
pub struct Report {
    pub runs: usize,
    pub broken: Vec<Broken>,
}

/// The longest history that a crash is put into, and the latest round for a person.
const EVENTS_MAX: usize = 16;

/// Holds a table against every law.
pub fn check<S: Saga>() -> Report {
    let mut broken = sound::<S>();
    let mut runs = 0;
    // A table whose rows contradict its match has no run that says anything.
    if broken.is_empty() {
        for trouble in troubles::<S>() {
            for delivery in deliveries::<S>() {
                runs += 1;
                broken.extend(tell::<S>(trouble, delivery).err());
            }
        }
    }
    Report { runs, broken }
}

/// Holds a table against every law; tells how many runs there were.
///
/// # Panics
/// When a law is broken, with the first run that breaks it.
pub fn hold<S: Saga>() -> usize {
    let report = check::<S>();
    let first = report.broken.first().map(|broken| broken.dialogue.as_str()).unwrap_or_default();
    assert!(
        report.broken.is_empty(),
        "{} of {} runs of the saga {} break a law:\n{first}",
        report.broken.len(),
        report.runs,
        S::NAME
    );
    report.runs
}

/// One run in words.
///
/// # Errors
/// The law that it breaks.
pub fn tell<S: Saga>(trouble: Trouble, delivery: Delivery<S::Input>) -> Result<String, Broken> {
    Run::<S>::new(trouble, delivery).play()
}

fn troubles<S: Saga>() -> Vec<Trouble> {
    let mut troubles = vec![Trouble::None];
    for (row, step) in S::STEPS.iter().enumerate() {
        if step.refused.is_some() {
            troubles.push(Trouble::Refused(row));
        }
        troubles.extend([Trouble::Unheard(row), Trouble::Late(row)]);
    }
    troubles
}

fn deliveries<S: Saga>() -> Vec<Delivery<S::Input>> {
    let mut deliveries = vec![
        Delivery::Once,
        Delivery::Twice,
        Delivery::CompensationTwice,
        Delivery::Reordered,
        Delivery::DeadlineBefore,
        Delivery::DeadlineAfter,
    ];
    deliveries.extend((0..S::STEPS.len()).map(Delivery::DeadlineWith));
    deliveries.extend((1..EVENTS_MAX).map(Delivery::CrashAfter));
    let is_reply = |input| S::STEPS.iter().any(|step| input == step.done || Some(input) == step.refused);
    let is_deadline = |input| input == S::DEADLINE_PASSED || input == S::LAST_DEADLINE_PASSED;
    let asked = S::Input::ALL.iter().copied().filter(|input| !is_reply(*input) && !is_deadline(*input));
    deliveries.extend(asked.flat_map(|input| (0..EVENTS_MAX).map(move |round| Delivery::Asked(round, input))));
    deliveries
}

/// Whether the rows of a table fit each other and its match.
fn sound<S: Saga>() -> Vec<Broken> {
    let mut broken = Vec::new();
    let mut demand = |holds: bool, what: String| {
        if !holds {
            broken.push(Broken { invariant: Invariant::TableSound, dialogue: format!("{}: {what}\n", S::NAME) });
        }
    };
    demand(S::step(S::START).is_some(), "nothing is asked in the state where it starts".to_owned());
    demand(S::STEPS.iter().filter(|step| step.kind == Kind::Pivot).count() <= 1, "there is more than one pivot".to_owned());
    let mut is_past_pivot = false;
    for (row, step) in S::STEPS.iter().enumerate() {
        let name = step.name;
        let goes = |input| match S::decide(step.state, input) {
            Decision::Moved { to, .. } => Some(to),
            Decision::Ignored(_) | Decision::Illegal => None,
        };
        let leaves = |input| goes(input).is_some_and(|to| to != step.state);
        is_past_pivot |= step.kind == Kind::Pivot;
        let others = || S::STEPS[..row].iter();
        demand(others().all(|other| other.name != name && other.state != step.state), format!("{name} has two rows"));
        demand(leaves(step.done), format!("{name}: {} does not move it on", step.done.as_str()));
        demand(goes(S::DEADLINE_PASSED) == Some(step.state), format!("{name} is not asked again"));
        demand(
            leaves(S::LAST_DEADLINE_PASSED) == (step.unanswered == Patience::AskThenCompensate),
            format!("{name}: its row says {:?}, and the match does not", step.unanswered),
        );
        demand(
            step.kind != Kind::Compensation || step.unanswered == Patience::AskForEver,
            format!("{name} is a compensation that is given up"),
        );
        if let Some(refused) = step.refused {
            demand(leaves(refused) && goes(refused) != goes(step.done), format!("{name}: refused and done are one"));
        }
        if let Some(compensation) = step.compensation {
            let found = S::STEPS.iter().find(|step| step.name == compensation);
            demand(
                found.is_some_and(|step| step.kind == Kind::Compensation),
                format!("{name}: {compensation} is no compensation"),
            );
            demand(!is_past_pivot, format!("{name} can be compensated, past the pivot"));
        }
    }
    broken
}
