//! Any saga as a table and as a Mermaid drawing, made from its `decide`: documentation that can't be wrong.

use std::{collections::BTreeMap, fmt::Write};

use crate::{Decision, Saga, Word};

/// A Mermaid state diagram of every move.
pub fn mermaid<S: Saga>() -> String {
    let mut arrows: BTreeMap<(S::State, S::State), Vec<&'static str>> = BTreeMap::new();
    for (state, input) in cells::<S>() {
        if let Decision::Moved { to, .. } = S::decide(state, input)
            && to != state
        {
            arrows.entry((state, to)).or_default().push(input.as_str());
        }
    }
    let mut drawing = format!("stateDiagram-v2\n    [*] --> {}\n", S::START.as_str());
    for ((from, to), inputs) in arrows {
        let _ = writeln!(drawing, "    {} --> {}: {}", from.as_str(), to.as_str(), inputs.join(", "));
    }
    for state in S::State::ALL.iter().filter(|state| S::step(**state).is_none()) {
        let _ = writeln!(drawing, "    {} --> [*]", state.as_str());
    }
    drawing
}

/// The steps as a Markdown table.
pub fn table<S: Saga>() -> String {
    let mut table = String::from(
        "| step | waits in | asks | done | refused | no answer in time | compensation | kind |\n|---|---|---|---|---|---|---|---|\n",
    );
    for step in S::STEPS {
        let _ = writeln!(
            table,
            "| {} | {} | {} | {} | {} | {} | {} | {:?} |",
            step.name,
            step.state.as_str(),
            step.asks,
            step.done.as_str(),
            step.refused.map_or("-", Word::as_str),
            match step.unanswered {
                crate::Patience::AskThenCompensate => "ask again; then compensate",
                crate::Patience::AskForEver => "ask again, for ever",
            },
            step.compensation.unwrap_or("-"),
            step.kind,
        );
    }
    table
}

/// Every cell, one a line: what the exhaustive test compares with its snapshot.
pub fn cells_in_words<S: Saga>() -> String {
    let mut text = String::new();
    for (state, input) in cells::<S>() {
        let decision = match S::decide(state, input) {
            Decision::Moved { to, reason: Some(reason) } => format!("-> {} because {}", to.as_str(), reason.as_str()),
            Decision::Moved { to, reason: None } if to == state => "asks again".to_owned(),
            Decision::Moved { to, reason: None } => format!("-> {}", to.as_str()),
            Decision::Ignored(why) => format!("ignored: {}", why.as_str()),
            Decision::Illegal => "ILLEGAL".to_owned(),
        };
        let _ = writeln!(text, "{:<18} + {:<18} {decision}", state.as_str(), input.as_str());
    }
    text
}

fn cells<S: Saga>() -> impl Iterator<Item = (S::State, S::Input)> {
    S::State::ALL.iter().flat_map(|state| S::Input::ALL.iter().map(|input| (*state, *input)))
}
