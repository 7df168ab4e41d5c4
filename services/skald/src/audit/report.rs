//! What the audit tells: a table for people, JSON for tools.
//!
//! Never here: checking. From here the flow goes to whoever asked: the command line, the demo, a test.

use std::fmt::Write;

use serde_json::{Value, json};

use super::laws::Law;

/// What was found.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// Whether the laws of a system at rest were asked too.
    pub settled: bool,
    pub orders: Counts,
    /// Rows read from all logs.
    pub messages: u64,
    pub laws: Vec<Law>,
    pub waivers: Vec<Waiver>,
    pub verdict: Verdict,
}

/// How the orders stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub confirmed: u64,
    pub cancelled: u64,
    pub open: u64,
}

/// An operator ended a step by their word. It excuses the order from the laws about ended orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiver {
    pub order_id: String,
    /// `StepSkipped` or `CompletionForced`.
    pub verb: String,
    /// The state in which it was said.
    pub state: String,
    pub actor: Option<String>,
    pub note: Option<String>,
}

/// Whether every law holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Holds,
    Broken,
}

impl Counts {
    pub(crate) fn total(self) -> u64 {
        self.confirmed + self.cancelled + self.open
    }
}

impl Report {
    pub(super) fn new(settled: bool, orders: Counts, messages: u64, laws: Vec<Law>, waivers: Vec<Waiver>) -> Self {
        let verdict = if laws.iter().all(|law| law.broken == 0) { Verdict::Holds } else { Verdict::Broken };
        Self { settled, orders, messages, laws, waivers, verdict }
    }

    pub(crate) fn is_good(&self) -> bool {
        self.verdict == Verdict::Holds
    }

    /// The report as people read it.
    pub(crate) fn print_table(&self) -> String {
        let mut text = String::new();
        let orders = self.orders;
        let _ = writeln!(
            text,
            "{} orders ({} confirmed, {} cancelled, {} open), {} messages\n",
            grouped(orders.total()),
            grouped(orders.confirmed),
            grouped(orders.cancelled),
            grouped(orders.open),
            grouped(self.messages)
        );
        let width = self.laws.iter().map(|law| law.id.len()).max().unwrap_or(0);
        for law in &self.laws {
            let mark = if law.broken == 0 { "ok    " } else { "BROKEN" };
            let _ = writeln!(text, "{mark}  {:<width$}  {:>11}  {}", law.id, grouped(law.checked), law.statement);
            for offender in &law.offenders {
                let _ = writeln!(text, "        - {offender}");
            }
            let more = law.broken - law.offenders.len() as u64;
            if more > 0 {
                let _ = writeln!(text, "        - and {} more", grouped(more));
            }
        }
        for waiver in &self.waivers {
            let by = waiver.actor.as_deref().unwrap_or("somebody");
            let why = waiver.note.as_deref().map_or(String::new(), |note| format!(": {note}"));
            let _ = writeln!(text, "waiver  order {}: {} in {} by {by}{why}", waiver.order_id, waiver.verb, waiver.state);
        }
        let broken = self.laws.iter().filter(|law| law.broken > 0).count();
        let when = if self.settled { " of a system at rest" } else { "" };
        let _ = match self.verdict {
            Verdict::Holds => writeln!(text, "\nall {} laws{when} hold", self.laws.len()),
            Verdict::Broken => writeln!(text, "\n{broken} of {} laws{when} are BROKEN", self.laws.len()),
        };
        text
    }

    /// The report as one JSON object.
    pub(crate) fn to_json(&self) -> Value {
        let orders = self.orders;
        let law = |law: &Law| json!({ "id": law.id, "statement": law.statement, "checked": law.checked, "broken": law.broken, "offenders": law.offenders });
        let waiver = |waiver: &Waiver| json!({ "order_id": waiver.order_id, "verb": waiver.verb, "state": waiver.state, "actor": waiver.actor, "note": waiver.note });
        json!({
            "verdict": match self.verdict { Verdict::Holds => "holds", Verdict::Broken => "broken" },
            "settled": self.settled,
            "orders": { "total": orders.total(), "confirmed": orders.confirmed, "cancelled": orders.cancelled, "open": orders.open },
            "messages": self.messages,
            "laws": self.laws.iter().map(law).collect::<Vec<_>>(),
            "waivers": self.waivers.iter().map(waiver).collect::<Vec<_>>(),
        })
    }
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
