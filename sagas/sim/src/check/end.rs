//! The end: every order has ended, every command its reply, every customer the truth, and nothing is left lying.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::View;
use crate::{replica::Name, shop::Ended};

pub(super) fn check(view: &View, wrong: &mut Vec<String>, missing: &mut Vec<String>) {
    let rows = view.log(Name::Order);
    let of =
        |kind: &str| -> BTreeSet<Uuid> { rows.iter().filter(|row| row.kind == kind).filter_map(|row| row.order()).collect() };
    let (placed, confirmed, cancelled) = (of("order.OrderPlaced"), of("order.OrderConfirmed"), of("order.OrderCancelled"));
    for order in &placed {
        if !confirmed.contains(order) && !cancelled.contains(order) {
            missing.push(format!("saga-ends: order {order} has not ended"));
        }
    }
    for order in &view.cancelled {
        if confirmed.contains(order) {
            wrong.push(format!("answers-are-true: the cancel of {order} was accepted, and it is confirmed"));
        }
    }
    let mut told = BTreeSet::new();
    for (ids, ended) in &view.asks {
        told.extend(ids.iter().copied());
        match ended {
            None => missing.push("a customer was never answered".to_owned()),
            Some(Ended::Accepted) if !ids.iter().all(|id| placed.contains(id)) => {
                wrong.push(format!("answers-are-true: {ids:?} was accepted, and does not exist"));
            }
            Some(Ended::Accepted | Ended::Refused) => {}
        }
    }
    if told != placed {
        wrong.push(format!("answers-are-true: {} orders exist that no customer has", placed.difference(&told).count()));
    }
    let answered: BTreeSet<Uuid> = view.log(Name::Product).iter().filter_map(|row| row.cause).collect();
    for row in rows.iter().filter(|row| row.topic.as_deref() == Some("product.commands.v1")) {
        if !answered.contains(&row.id) {
            missing.push(format!("consume-once: {} of {:?} was never handled", row.kind, row.order()));
        }
    }
    letters(view, &confirmed, &cancelled, wrong, missing);
    for (name, books) in &view.services {
        if books.parked > 0 {
            missing.push(format!("{} messages wait for a gap to close in {}", books.parked, name.as_str()));
        }
    }
    if view.open_calls > 0 {
        missing.push(format!("{} calls to the payment provider are open", view.open_calls));
    }
}

/// Every outcome was told at least once, and no other.
fn letters(
    view: &View,
    confirmed: &BTreeSet<Uuid>,
    cancelled: &BTreeSet<Uuid>,
    wrong: &mut Vec<String>,
    missing: &mut Vec<String>,
) {
    let arrived: BTreeMap<Uuid, &str> = view.letters.iter().map(|(order, template, _)| (*order, template.as_str())).collect();
    for (orders, template) in [(confirmed, "order_confirmed"), (cancelled, "order_cancelled")] {
        for order in orders {
            match arrived.get(order) {
                None => missing.push(format!("letter-arrives: nobody was told that {order} is {template}")),
                Some(found) if *found != template => {
                    wrong.push(format!("letter-arrives: {order} is {template}, its customer has {found}"))
                }
                Some(_) => {}
            }
        }
    }
    if view.letters.len() > confirmed.len() + cancelled.len() {
        wrong.push("letter-arrives: more outcomes were told than there are".to_owned());
    }
}
