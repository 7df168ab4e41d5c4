//! The order database: orders, their sagas, the answers kept under idempotency keys. Read first, as everything else follows from it.
//!
//! Never here: the order service's own code. From here the flow goes to `across.rs`, which holds the other services against these
//! orders.

use std::collections::HashMap;

use contract::order::CancelReason;
use saga::{Word, order::State};
use serde_json::Value;
use uuid::Uuid;

use super::{
    laws::{Id, Laws},
    report::{Counts, Waiver},
    saga::Saga,
    snapshot::{Entry, Snapshot, pages},
    trail::Trails,
    value::{Lines, Money, digest, hashed, id, int, money, parsed, shown, text},
};

/// Everything about one order that other laws ask for; small, as there are many.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    pub customer: u128,
    pub total: Money,
    /// Digest of the pieces by product.
    pub lines: u64,
    pub outcome: Option<Outcome>,
    /// An operator ended a step by their word.
    pub waived: bool,
    placed_us: i64,
    /// Digest of what the row must hold.
    row: u64,
    reason: Option<CancelReason>,
    saga: Saga,
    /// When somebody's verb took effect: each may have an idempotency key.
    verbs_us: Vec<i64>,
    has_key: bool,
    has_row: bool,
    has_saga_row: bool,
}

/// How an order ended, by its own stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Confirmed,
    Cancelled,
}

impl Outcome {
    /// The end that an event of the order's stream tells of.
    pub(super) fn told_by(kind: &str) -> Option<Self> {
        match kind {
            "order.OrderConfirmed" => Some(Self::Confirmed),
            "order.OrderCancelled" => Some(Self::Cancelled),
            _ => None,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The orders by id.
#[derive(Default)]
pub(super) struct Orders {
    pub orders: HashMap<u128, Order>,
    pub waivers: Vec<Waiver>,
}

/// The inputs that a person's request makes.
const VERBS: [&str; 5] = ["CancelAsked", "RetryAsked", "CompensationForced", "StepSkipped", "CompletionForced"];
/// The verbs after which an end is an operator's word.
const WAIVERS: [&str; 2] = ["StepSkipped", "CompletionForced"];

impl Orders {
    pub(super) async fn read(snapshot: &mut Snapshot, trails: &mut Trails, laws: &mut Laws) -> Result<Self, sqlx::Error> {
        let mut orders = Self::default();
        trails.walk(snapshot, laws, |laws, entry| orders.take(laws, entry)).await?;
        orders.tell_one_story(laws);
        orders.read_orders(snapshot, laws).await?;
        orders.read_sagas(snapshot, laws).await?;
        orders.read_keys(snapshot, laws).await?;
        Ok(orders)
    }

    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for order in self.orders.values() {
            match order.outcome {
                Some(Outcome::Confirmed) => counts.confirmed += 1,
                Some(Outcome::Cancelled) => counts.cancelled += 1,
                None => counts.open += 1,
            }
        }
        counts
    }

    fn take(&mut self, laws: &mut Laws, entry: &Entry) {
        match (entry.subject(), entry.kind.as_str()) {
            (Some(("saga", order_id)), _) => self.saga(laws, order_id, entry),
            (Some(("order", order_id)), "order.OrderPlaced") => self.placed(laws, order_id, entry),
            (Some(("order", order_id)), "order.OrderConfirmed" | "order.OrderCancelled") => self.ended(laws, order_id, entry),
            _ => laws.check(Id::PayloadsReadable, false, || format!("order: {} in the stream {}", entry.kind, entry.stream)),
        }
    }

    fn placed(&mut self, laws: &mut Laws, order_id: u128, entry: &Entry) {
        let data = &entry.data;
        let order = self.orders.entry(order_id).or_default();
        (order.customer, order.total, order.placed_us) = (id(data, "customer_id"), money(data, "total"), entry.time_us);
        order.lines = Lines::of(&data["lines"]).digest();
        order.row = row(order.customer, digest(&data["lines"]), order.total, order.placed_us);
        let sum = data["lines"].as_array().into_iter().flatten().try_fold(0_i64, |sum, line| {
            let price = money(line, "unit_price");
            let fits = price.currency == order.total.currency;
            price.minor.checked_mul(int(line, "quantity")).filter(|_| fits).and_then(|line| sum.checked_add(line))
        });
        let right = sum == Some(order.total.minor) && id(data, "order_id") == order_id;
        laws.check(Id::OrdersMatchSagas, right, || format!("order {}: its lines do not make its total", shown(order_id)));
    }

    fn saga(&mut self, laws: &mut Laws, order_id: u128, entry: &Entry) {
        let order = self.orders.entry(order_id).or_default();
        let replayed = order.saga.take(order_id, entry);
        let wrong = replayed.err();
        laws.check(Id::SagasReplay, wrong.is_none(), || {
            format!("saga {}, version {}: {}", shown(order_id), entry.version, wrong.unwrap_or_default())
        });
        if entry.kind != "saga.SagaMoved" {
            return;
        }
        let context = &entry.data["context"];
        if !context.is_null() {
            let same = Lines::of(&context["lines"]).digest() == order.lines
                && money(context, "total") == order.total
                && id(context, "customer_id") == order.customer;
            laws.check(Id::OrdersMatchSagas, same, || format!("saga {}: its context is not the order", shown(order_id)));
        }
        let verb = entry.data["input"].as_str().unwrap_or_default();
        if VERBS.contains(&verb) {
            order.verbs_us.push(entry.time_us);
        }
        if WAIVERS.contains(&verb) {
            order.waived = true;
            self.waivers.push(Waiver {
                order_id: shown(order_id).to_string(),
                verb: verb.to_owned(),
                state: text(&entry.data, "from").to_owned(),
                actor: entry.actor.clone(),
                note: entry.data["note"].as_str().map(str::to_owned),
            });
        }
    }

    fn ended(&mut self, laws: &mut Laws, order_id: u128, entry: &Entry) {
        let order = self.orders.entry(order_id).or_default();
        let (data, first) = (&entry.data, order.outcome.is_none());
        order.outcome = Outcome::told_by(&entry.kind);
        order.reason = CancelReason::parse(text(data, "reason"));
        let same =
            id(data, "order_id") == order_id && id(data, "customer_id") == order.customer && money(data, "total") == order.total;
        laws.check(Id::OrdersMatchSagas, first && same, || format!("order {}: its end is not its own", shown(order_id)));
    }

    /// What two streams say of the same order.
    fn tell_one_story(&self, laws: &mut Laws) {
        for (order_id, order) in &self.orders {
            let end = match order.saga.state {
                _ if !order.saga.has_ended() => None,
                State::Confirmed => Some(Outcome::Confirmed),
                _ => Some(Outcome::Cancelled),
            };
            let reason = order.reason == order.saga.reason || order.outcome != Some(Outcome::Cancelled);
            laws.check(Id::OrdersMatchSagas, order.placed_us > 0 && end == order.outcome && reason, || {
                let words = |reason: Option<CancelReason>| reason.map_or("no reason", CancelReason::as_str);
                let (ended, state) = (order.outcome.map_or("open", Outcome::as_str), order.saga.state.as_str());
                let (told, own) = (words(order.reason), words(order.saga.reason));
                format!("order {} is {ended} ({told}), its saga {state} ({own})", shown(*order_id))
            });
            laws.check(Id::SagasReplay, order.saga.is_whole(), || format!("saga {}: a move is not whole", shown(*order_id)));
            laws.check(Id::AllEnded, order.outcome.is_some(), || {
                format!("order {} is in {}", shown(*order_id), order.saga.state.as_str())
            });
        }
    }

    async fn read_orders(&mut self, snapshot: &mut Snapshot, laws: &mut Laws) -> Result<(), sqlx::Error> {
        pages!(
            snapshot,
            (Uuid, Uuid, String, i64, String, i64),
            "SELECT order_id, customer_id, lines, total_minor, currency, placed_us FROM orders \
             WHERE order_id > $1 ORDER BY order_id LIMIT $2",
            Uuid::nil(),
            |(order_id, customer, lines, total_minor, currency, placed_us)| {
                let lines: Value = serde_json::from_str(&lines).unwrap_or_default();
                let found = row(customer.as_u128(), digest(&lines), Money::new(total_minor, &currency), placed_us);
                let order = self.orders.get_mut(&order_id.as_u128());
                let same = order.is_some_and(|order| {
                    order.has_row = true;
                    order.row == found
                });
                laws.check(Id::OrdersMatchLog, same, || format!("order {order_id}"));
            }
        );
        for (order_id, _) in self.orders.iter().filter(|(_, order)| !order.has_row) {
            laws.check(Id::OrdersMatchLog, false, || format!("order {} has no row", shown(*order_id)));
        }
        Ok(())
    }

    async fn read_sagas(&mut self, snapshot: &mut Snapshot, laws: &mut Laws) -> Result<(), sqlx::Error> {
        type Row = (Uuid, String, i64, String, Option<String>, i64, i64, i64, Option<i64>, i64, Option<i64>, String);
        pages!(
            snapshot,
            Row,
            "SELECT id, saga, definition, state, reason, attempt, stuck, version, due_us, started_us, ended_us, context \
             FROM sagas WHERE id > $1 ORDER BY id LIMIT $2",
            Uuid::nil(),
            |(saga_id, name, definition, state, reason, attempt, stuck, version, due, started_us, ended_us, context)| {
                let context: Value = serde_json::from_str(&context).unwrap_or_default();
                let found = (definition, state.as_str(), reason.as_deref(), attempt, stuck, version, started_us, ended_us);
                let order = self.orders.get_mut(&saga_id.as_u128());
                let same = order.is_some_and(|order| {
                    order.has_saga_row = true;
                    order.saga.columns() == found && order.saga.context == digest(&context) && name == "order"
                });
                laws.check(Id::SagasMatchLog, same, || format!("saga {saga_id}"));
                laws.check(Id::OpenHasDeadline, due.is_some() != ended_us.is_some(), || {
                    format!("saga {saga_id} is in {state} with {}", if due.is_some() { "a deadline" } else { "no deadline" })
                });
                laws.check(Id::NoneStuck, stuck == 0, || format!("saga {saga_id} is stuck in {state}"));
            }
        );
        for (order_id, _) in self.orders.iter().filter(|(_, order)| !order.has_saga_row) {
            laws.check(Id::SagasMatchLog, false, || format!("saga {} has no row", shown(*order_id)));
        }
        Ok(())
    }

    /// A key is kept with the order that was placed under it, or with the verb that took effect under it, at the same instant.
    /// Old keys are forgotten, so that one may be missing; the row without a status says how far, and is none.
    async fn read_keys(&mut self, snapshot: &mut Snapshot, laws: &mut Laws) -> Result<(), sqlx::Error> {
        pages!(
            snapshot,
            (Vec<u8>, Option<String>, i64),
            "SELECT key, location, time_us FROM idempotency WHERE key > $1 AND status <> 0 ORDER BY key LIMIT $2",
            Vec::new(),
            |(_, location, time_us)| {
                let location = location.unwrap_or_default();
                let named = location.strip_prefix("/v1/orders/").and_then(parsed);
                let order = named.and_then(|order_id| self.orders.get_mut(&order_id));
                let one = order.is_some_and(|order| {
                    if time_us == order.placed_us && !order.has_key {
                        order.has_key = true;
                        return true;
                    }
                    let verb = order.verbs_us.iter().position(|verb_us| *verb_us == time_us);
                    verb.map(|verb| order.verbs_us.swap_remove(verb)).is_some()
                });
                laws.check(Id::KeysNameOneOrder, one, || format!("a key of {time_us} us names {location:?}"));
            }
        );
        Ok(())
    }
}

/// What the row of an order must hold.
fn row(customer: u128, lines: u64, total: Money, placed_us: i64) -> u64 {
    hashed(&(customer, lines, total, placed_us))
}
