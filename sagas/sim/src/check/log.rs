//! Logs: positions and versions without a gap, every effect with its one cause, no dead letter but garbage.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use uuid::Uuid;

use super::{Row, View};
use crate::replica::Name;

pub(super) fn check(view: &View, wrong: &mut Vec<String>) {
    let written: BTreeSet<Uuid> = view.services.values().flat_map(|books| books.rows.iter().map(|row| row.id)).collect();
    for (name, books) in &view.services {
        let name = name.as_str();
        let mut versions: BTreeMap<&str, i64> = BTreeMap::new();
        for (index, row) in books.rows.iter().enumerate() {
            if row.position != index as i64 + 1 {
                wrong.push(format!("log-gapless: the log of {name} has {} where {} should be", row.position, index + 1));
                break;
            }
            let last = versions.entry(&row.stream).or_insert(0);
            *last += 1;
            if row.version != *last {
                wrong.push(format!("log-gapless: {} has version {} after {}", row.stream, row.version, *last - 1));
            }
            dead_letter(name, row, &written, wrong);
        }
        if books.head != books.rows.len() as i64 {
            wrong.push(format!("log-gapless: the head of {name} is {}, its log has {} rows", books.head, books.rows.len()));
        }
    }
    causes(view, wrong);
}

/// A dead letter whose record the topic's owner wrote is a message lost.
fn dead_letter(service: &str, row: &Row, written: &BTreeSet<Uuid>, wrong: &mut Vec<String>) {
    if !row.topic.as_deref().is_some_and(|topic| topic.ends_with(".dlq")) {
        return;
    }
    let headers = row.data.get("record").and_then(|record| record.get("headers")).and_then(Value::as_array);
    let header = |name: &str| {
        let found = headers.into_iter().flatten().find(|header| header.get(0).and_then(Value::as_str) == Some(name));
        found.and_then(|header| header.get(1)?.as_str()).unwrap_or_default()
    };
    // Whoever forges makes up an id, or claims to be a service that publishes nothing here.
    let is_written = header("ce_id").parse().is_ok_and(|id| written.contains(&id));
    if is_written && !header("ce_source").starts_with("/skald/user/") {
        wrong.push(format!("poison-aside: {service} has made a dead letter of a good message: {}", row.data));
    }
}

/// Every reply answers one command, and every move of a saga that a reply caused is the only one it caused.
fn causes(view: &View, wrong: &mut Vec<String>) {
    let ids = |name: Name| -> BTreeMap<Uuid, &Row> { view.log(name).iter().map(|row| (row.id, row)).collect() };
    let (orders, products, payments) = (ids(Name::Order), ids(Name::Product), ids(Name::Payment));
    once(view.log(Name::Product), |row| row.stream.starts_with("reservation-"), "consume-once", wrong);
    once(view.log(Name::Order), |row| row.kind == "saga.SagaMoved" && row.cause.is_some(), "consume-once", wrong);
    once(view.log(Name::Payment), |row| row.kind == "payment.CallIntended" && is_in(&orders, row), "consume-once", wrong);
    once(view.log(Name::Notification), |row| row.kind == "notification.NotificationQueued", "consume-once", wrong);
    for row in view.log(Name::Product).iter().filter(|row| row.stream.starts_with("reservation-")) {
        let asked = match row.kind.as_str() {
            "product.StockReserved" | "product.StockRefused" => "product.ReserveStock",
            "product.StockReleased" => "product.ReleaseStock",
            _ => "product.CommitStock",
        };
        let cause = row.cause.and_then(|cause| orders.get(&cause));
        if !cause.is_some_and(|cause| cause.kind == asked && cause.order() == row.order()) {
            wrong.push(format!("no-effect-without-cause: {} of {:?} answers no {asked}", row.kind, row.order()));
        }
    }
    for row in view.log(Name::Order).iter().filter(|row| row.kind == "saga.SagaMoved") {
        let Some(cause) = row.cause else { continue };
        let found = products.get(&cause).or_else(|| payments.get(&cause));
        let input = row.text("input");
        if !found.is_some_and(|found| found.kind.ends_with(&format!(".{input}"))) {
            wrong.push(format!("no-effect-without-cause: {} moved by {input}, which nobody said", row.stream));
        }
    }
}

fn is_in(known: &BTreeMap<Uuid, &Row>, row: &Row) -> bool {
    row.cause.is_some_and(|cause| known.contains_key(&cause))
}

fn once(rows: &[Row], counts: impl Fn(&Row) -> bool, law: &str, wrong: &mut Vec<String>) {
    let mut causes = BTreeSet::new();
    for row in rows.iter().filter(|row| counts(row)) {
        if let Some(cause) = row.cause
            && !causes.insert(cause)
        {
            wrong.push(format!("{law}: {} in {} is the second effect of message {cause}", row.kind, row.stream));
        }
    }
}
