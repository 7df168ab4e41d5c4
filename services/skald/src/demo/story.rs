//! One order told step by step: the rows of its saga's stream as people read them.
//!
//! Never here: which order is told. Read from `GET /v1/orders/{id}/history`; from here it goes into the report.

use std::fmt::{self, Display, Formatter};

use contract::{OrderId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One order's way to its end.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Story {
    pub(crate) order: OrderId,
    /// Such as `confirmed` or `cancelled: payment_timeout`.
    pub(crate) end: String,
    pub(crate) steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Step {
    /// Since the first row.
    pub(crate) at_ms: f64,
    pub(crate) state: String,
    pub(crate) message: String,
    /// Where it was published; none for what stays in the log.
    pub(crate) topic: Option<String>,
}

#[derive(Deserialize)]
struct History {
    items: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    time: Timestamp,
    message: String,
    topic: Option<String>,
    state: Option<String>,
    data: Value,
}

impl Story {
    /// Reads a history; none where it is no history.
    pub(crate) fn read(order: OrderId, end: String, history: Value) -> Option<Self> {
        let History { mut items } = serde_json::from_value(history).ok()?;
        // It comes newest first.
        items.reverse();
        let began = items.first()?.time;
        let steps = items.into_iter().map(|entry| Step {
            at_ms: super::report::millis(entry.time.since(began)),
            message: words(&entry),
            state: entry.state.unwrap_or_default(),
            topic: entry.topic,
        });
        Some(Self { order, end, steps: steps.collect() })
    }
}

/// What the row says: a step by what came in, anything else by its type.
fn words(entry: &Entry) -> String {
    let text = |key: &str| entry.data.get(key).and_then(Value::as_str);
    match entry.message.as_str() {
        "saga.SagaMoved" => match (text("input"), entry.data.get("attempt").and_then(Value::as_u64)) {
            (Some(input), Some(attempt)) if attempt > 1 => format!("on {input}, try {attempt}"),
            (Some(input), _) => format!("on {input}"),
            (None, _) => entry.message.clone(),
        },
        "saga.SagaEnded" => match text("reason") {
            Some(reason) => format!("{}, {reason}", entry.message),
            None => entry.message.clone(),
        },
        other => other.to_owned(),
    }
}

impl Display for Story {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { order, end, steps } = self;
        writeln!(f, "order {order}, {end}")?;
        writeln!(f, "  {:>9}  {:<18}  {:<36}  topic", "ms", "state", "message")?;
        for Step { at_ms, state, message, topic } in steps {
            let line = format!("  {at_ms:>9.1}  {state:<18}  {message:<36}  {}", topic.as_deref().unwrap_or_default());
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_history_reads_as_steps_with_their_offsets() {
        let row = |time: &str, message: &str, topic: Option<&str>, data: Value| json!({"version": 1, "time": time, "message": message, "topic": topic, "state": "AuthorizingPayment", "data": data});
        let history = json!({"items": [
            row("2026-11-20T10:00:02Z", "saga.SagaEnded", None, json!({"outcome": "Cancelled", "reason": "payment_timeout"})),
            row("2026-11-20T10:00:00.500400Z", "saga.SagaMoved", None, json!({"input": "DeadlinePassed", "attempt": 2})),
            row("2026-11-20T10:00:00.000000Z", "payment.AuthorizePayment", Some("payment.commands.v1"), json!({})),
            row("2026-11-20T10:00:00.000000Z", "saga.SagaMoved", None, json!({"input": "StockReserved", "attempt": 1})),
        ]});
        let order = "01939f3c-0000-7000-8000-000000000000".parse().unwrap();
        let story = Story::read(order, "cancelled: payment_timeout".to_owned(), history).unwrap();
        let said: Vec<_> = story.steps.iter().map(|step| (step.at_ms, step.message.as_str())).collect();
        let wanted = [
            (0.0, "on StockReserved"),
            (0.0, "payment.AuthorizePayment"),
            (500.4, "on DeadlinePassed, try 2"),
            (2000.0, "saga.SagaEnded, payment_timeout"),
        ];
        assert_eq!(said, wanted);
        assert!(story.to_string().contains("  500.4  AuthorizingPayment"), "{story}");
    }
}
