//! Orders: placed once, ended once, and each end as good as its word; sagas as their streams tell them.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Row, View};
use crate::replica::Name;

/// A step's deadline: nothing is given up earlier.
const STEP_DEADLINE_US: i64 = 5_000_000;

pub(super) fn check(view: &View, wrong: &mut Vec<String>) {
    let rows = view.log(Name::Order);
    let (mut placed, mut ended) = (BTreeMap::new(), BTreeMap::<Uuid, &Row>::new());
    for row in rows.iter().filter(|row| row.stream.starts_with("order-")) {
        let Some(order) = row.order() else { continue };
        match (row.version, row.kind.as_str()) {
            (1, "order.OrderPlaced") => drop(placed.insert(order, row)),
            (2, "order.OrderConfirmed" | "order.OrderCancelled") => drop(ended.insert(order, row)),
            (version, kind) => wrong.push(format!("order-ends-once: {kind} is row {version} of order {order}")),
        }
    }
    keys(view, placed.len(), wrong);
    let reservations = reservations(view);
    for (order, end) in &ended {
        let Some(placed) = placed.get(order) else {
            wrong.push(format!("no-effect-without-cause: order {order} ended and was never placed"));
            continue;
        };
        let (account, held) = (view.account(*order), reservations.get(order));
        let total = placed.data["total"]["amount_minor"].as_i64().unwrap_or(-1);
        let stock = held.map_or("", |held| held.kind.as_str());
        if end.kind == "order.OrderConfirmed" {
            if (account.held_minor, account.captured_minor, account.refunded_minor) != (0, total, 0) {
                wrong.push(format!("confirmed-is-paid: order {order} of {total} is confirmed, the provider has {account:?}"));
            }
            if stock != "product.StockCommitted" || held.is_some_and(|held| held.lines() != placed.lines()) {
                wrong.push(format!("confirmed-is-paid: order {order} is confirmed, its stock is {held:?}"));
            }
        } else {
            if account.held_minor != 0 || account.captured_minor != account.refunded_minor {
                wrong.push(format!("confirmed-is-paid: order {order} is cancelled, the provider has {account:?}"));
            }
            if matches!(stock, "product.StockReserved" | "product.StockCommitted") {
                wrong.push(format!("confirmed-is-paid: order {order} is cancelled, its stock is {stock}"));
            }
        }
    }
    sagas(view, rows, wrong);
}

/// The last reply of each reservation that changed it.
pub(super) fn reservations(view: &View) -> BTreeMap<Uuid, &Row> {
    let rows = view.log(Name::Product).iter().filter(|row| row.stream.starts_with("reservation-") && !row.is_repeated());
    rows.filter_map(|row| Some((row.order()?, row))).collect()
}

/// One key, one order.
fn keys(view: &View, placed: usize, wrong: &mut Vec<String>) {
    for (told, _) in &view.asks {
        if told.len() > 1 {
            wrong.push(format!("key-once: one key was answered with {told:?}"));
        }
    }
    if placed > view.asks.len() {
        wrong.push(format!("key-once: {placed} orders out of {} asks", view.asks.len()));
    }
}

fn sagas(view: &View, rows: &[Row], wrong: &mut Vec<String>) {
    let mut moves: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.stream.starts_with("saga-")) {
        moves.entry(&row.stream).or_default().push(row);
    }
    for (id, state, due, version) in &view.sagas {
        let stream = format!("saga-{id}");
        let rows = moves.get(stream.as_str()).map_or(&[][..], Vec::as_slice);
        let last = rows.iter().rev().find(|row| row.kind == "saga.SagaMoved");
        if last.is_none_or(|last| last.text("to") != state) || rows.last().is_some_and(|row| row.version != *version) {
            wrong.push(format!("saga-replays: {stream} stands in {state} at version {version}, its stream does not"));
        }
        let has_ended = matches!(state.as_str(), "Confirmed" | "Cancelled");
        if has_ended != due.is_none() {
            wrong.push(format!("saga-ends: {stream} is {state} with the deadline {due:?}"));
        }
        let mut asked = i64::MIN;
        for row in rows {
            let is_deadline = matches!(row.text("input"), "DeadlinePassed" | "LastDeadlinePassed");
            if view.has_one_time
                && row.kind == "saga.SagaMoved"
                && is_deadline
                && row.time_us < asked.saturating_add(STEP_DEADLINE_US)
            {
                wrong.push(format!(
                    "no-effect-without-cause: a deadline of {stream} passed {} us early",
                    asked + STEP_DEADLINE_US - row.time_us
                ));
            }
            if row.topic.as_deref().is_some_and(|topic| topic.ends_with(".commands.v1")) {
                asked = row.time_us;
                before_the_pivot(view, *id, row, wrong);
            }
        }
    }
}

/// Stock is sold only for money that was taken.
fn before_the_pivot(view: &View, order: Uuid, command: &Row, wrong: &mut Vec<String>) {
    if command.kind == "product.CommitStock" && view.account(order).captured_minor == 0 {
        wrong.push(format!("charge-before-goods: the stock of {order} is to be sold, and nothing was captured"));
    }
}
