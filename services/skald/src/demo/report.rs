//! The numbers over all orders, and how they are printed: as text, or as one JSON object.
//!
//! Never here: I/O. The verdict is made here of three things: every order came to an end, each end was one that its plan allows,
//! and the audit holds.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
    time::Duration,
};

use contract::OrderId;
use serde::{Serialize, Serializer};

use super::{
    Args,
    load::{Ended, Outcome, Tally},
    story::Story,
};
use crate::audit;

/// As many failures as are worth reading.
const FAILURES_SHOWN: usize = 10;

/// What the demo found out.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    orders: u32,
    clients: u32,
    customers: u32,
    seed: u64,
    mix: &'static str,
    outcomes: Vec<Share>,
    /// Of confirmed orders, placed to end; none if there are none.
    latency_ms: Option<Latency>,
    /// Orders that were taken and came to an end.
    ended: usize,
    /// From the first order placed to the last one ended.
    seconds: f64,
    orders_per_second: f64,
    /// Requests that were sent again with the same key: the system was busy, or an answer was lost.
    repeats: u64,
    stories: Vec<Story>,
    /// What must not happen, and did; the first ones.
    failures: Vec<String>,
    failed: usize,
    #[serde(serialize_with = "as_json")]
    audit: audit::Report,
    pub(crate) held: bool,
}

/// How many orders came out in one way.
#[derive(Debug, PartialEq, Serialize)]
struct Share {
    /// `confirmed`, `cancelled` or `refused`.
    outcome: &'static str,
    reason: Option<&'static str>,
    orders: usize,
    /// Of all orders, 0 to 1.
    share: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Latency {
    p50: f64,
    p95: f64,
    p99: f64,
}

/// Milliseconds with three decimals.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1_000.0
}

impl Outcome {
    pub(crate) fn words(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Confirmed => ("confirmed", None),
            Self::Cancelled(reason) => ("cancelled", Some(reason.as_str())),
            Self::Refused => ("refused", Some("out_of_stock")),
        }
    }
}

/// What the report is made of.
pub(crate) struct Found {
    pub(crate) customers: u32,
    pub(crate) tally: Tally,
    /// From the first order placed to the last one ended.
    pub(crate) took: Duration,
    pub(crate) stories: Vec<Story>,
    pub(crate) audit: audit::Report,
}

fn as_json<S: Serializer>(audit: &audit::Report, serializer: S) -> Result<S::Ok, S::Error> {
    audit.to_json().serialize(serializer)
}

impl Report {
    pub(crate) fn new(args: &Args, found: Found) -> Self {
        let Found { customers, tally, took, stories, audit } = found;
        let Tally { ended, repeats, mut failures } = tally;
        // An order that failed is told with its failure; one that ended in a wrong way is in both.
        let missing = (args.orders as usize).saturating_sub(ended.len() + failures.len());
        if missing > 0 {
            failures.push(format!("{missing} orders were not seen to an end"));
        }
        let failed = failures.len();
        failures.truncate(FAILURES_SHOWN);
        let taken = ended.iter().filter(|order| order.outcome != Outcome::Refused).count();
        let seconds = millis(took) / 1_000.0;
        Self {
            orders: args.orders,
            clients: args.concurrency,
            customers,
            seed: args.seed,
            mix: args.mix.as_str(),
            outcomes: shares(&ended, args.orders),
            latency_ms: latency(&ended),
            ended: taken,
            seconds,
            orders_per_second: (taken as f64 / seconds.max(0.001)).round(),
            repeats,
            stories,
            failures,
            failed,
            held: failed == 0 && audit.is_good(),
            audit,
        }
    }
}

fn shares(ended: &[Ended], orders: u32) -> Vec<Share> {
    let mut counts = BTreeMap::<Outcome, usize>::new();
    for order in ended {
        *counts.entry(order.outcome).or_default() += 1;
    }
    let share = |(outcome, orders_of_it): (Outcome, usize)| {
        let (outcome, reason) = outcome.words();
        Share { outcome, reason, orders: orders_of_it, share: orders_of_it as f64 / f64::from(orders) }
    };
    counts.into_iter().map(share).collect()
}

fn latency(ended: &[Ended]) -> Option<Latency> {
    let confirmed = ended.iter().filter(|order| order.outcome == Outcome::Confirmed);
    let mut latencies: Vec<Duration> = confirmed.map(|order| order.latency).collect();
    latencies.sort_unstable();
    let at = |percent: usize| Some(millis(latencies[rank(latencies.len(), percent)?]));
    Some(Latency { p50: at(50)?, p95: at(95)?, p99: at(99)? })
}

/// The nearest rank: the smallest value that so many percent of all do not exceed.
fn rank(count: usize, percent: usize) -> Option<usize> {
    (count * percent).div_ceil(100).max(1).checked_sub(1).filter(|rank| *rank < count)
}

/// Two orders worth telling: a confirmed one that took as long as most do, and one that had the most to compensate.
pub(crate) fn worth_telling(ended: &[Ended]) -> Vec<(OrderId, String)> {
    use contract::order::CancelReason::{CancelledByCustomer, CaptureRefused, OutOfStock, PaymentDeclined, PaymentTimeout};
    let mut confirmed: Vec<&Ended> = ended.iter().filter(|order| order.outcome == Outcome::Confirmed).collect();
    confirmed.sort_unstable_by_key(|order| order.latency);
    let typical = rank(confirmed.len(), 50).map(|rank| confirmed[rank]);
    let of = |reason| ended.iter().filter(|order| order.outcome == Outcome::Cancelled(reason)).min_by_key(|order| order.latency);
    let compensated = [PaymentTimeout, CaptureRefused, CancelledByCustomer, PaymentDeclined, OutOfStock].into_iter().find_map(of);
    let told = |order: &Ended| {
        let end = match order.outcome.words() {
            (outcome, Some(reason)) => format!("{outcome}: {reason}"),
            (outcome, None) => outcome.to_owned(),
        };
        Some((order.id?, end))
    };
    [typical, compensated].into_iter().flatten().filter_map(told).collect()
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { orders, clients, customers, seed, mix, .. } = self;
        writeln!(f, "{orders} orders (clients: {clients}, customers: {customers}, mix: {mix}, seed: {seed})\n")?;
        writeln!(f, "  {:<10} {:<22} {:>8} {:>8}", "outcome", "reason", "orders", "share")?;
        for Share { outcome, reason, orders, share } in &self.outcomes {
            let note = if *outcome == "refused" { "   at the check: no order was made" } else { "" };
            let reason = reason.unwrap_or_default();
            writeln!(f, "  {outcome:<10} {reason:<22} {orders:>8} {:>6.1} %{note}", share * 100.0)?;
        }
        if let Some(Latency { p50, p95, p99 }) = self.latency_ms {
            writeln!(f, "\nlatency of confirmed orders, placed to end: p50 {p50:.1} ms, p95 {p95:.1} ms, p99 {p99:.1} ms")?;
        }
        writeln!(f, "{} orders ended in {:.1} s: {:.0} orders per second", self.ended, self.seconds, self.orders_per_second)?;
        if self.repeats > 0 {
            writeln!(f, "{} requests were sent again with the same Idempotency-Key", self.repeats)?;
        }
        for story in &self.stories {
            write!(f, "\n{story}")?;
        }
        writeln!(f, "\naudit: {}", self.audit.print_table())?;
        for failure in &self.failures {
            writeln!(f, "failed: {failure}")?;
        }
        if self.failed > self.failures.len() {
            writeln!(f, "failed: {} more", self.failed - self.failures.len())?;
        }
        let verdict = if self.held { "held: nothing was lost, nothing happened twice" } else { "FAILED: see above" };
        writeln!(f, "{verdict}")
    }
}

#[cfg(test)]
mod tests {
    use contract::order::CancelReason;

    use super::*;

    fn ended(outcome: Outcome, millis: u64) -> Ended {
        let id = (outcome != Outcome::Refused).then(|| OrderId(uuid::Uuid::from_u128(u128::from(millis))));
        Ended { id, outcome, latency: Duration::from_millis(millis) }
    }

    #[test]
    fn percentiles_are_nearest_ranks_of_confirmed_orders() {
        let mut orders: Vec<Ended> = (1..=200).rev().map(|millis| ended(Outcome::Confirmed, millis)).collect();
        orders.push(ended(Outcome::Cancelled(CancelReason::PaymentTimeout), 2_000));
        assert_eq!(latency(&orders), Some(Latency { p50: 100.0, p95: 190.0, p99: 198.0 }));
        assert_eq!(latency(&orders[200..]), None);
        assert_eq!(latency(&orders[..1]), Some(Latency { p50: 200.0, p95: 200.0, p99: 200.0 }));
    }

    #[test]
    fn a_typical_confirmed_order_and_the_longest_compensation_are_told() {
        let orders = [
            ended(Outcome::Refused, 1),
            ended(Outcome::Cancelled(CancelReason::PaymentDeclined), 5),
            ended(Outcome::Cancelled(CancelReason::CaptureRefused), 6),
            ended(Outcome::Confirmed, 9),
            ended(Outcome::Confirmed, 7),
            ended(Outcome::Confirmed, 8),
        ];
        let told: Vec<String> = worth_telling(&orders).into_iter().map(|(id, end)| format!("{} {end}", id.0.as_u128())).collect();
        assert_eq!(told, ["8 confirmed", "6 cancelled: capture_refused"]);
        assert_eq!(worth_telling(&orders[..1]), []);
    }
}
