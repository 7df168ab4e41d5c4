//! What holds between services: every order that has ended, against its payment, its reservation and its notification.
//!
//! Never here: SQL. The participants were read after the orders, so that they may be ahead of them and never behind: an order that
//! had ended then was done everywhere, and what belongs to newer orders is settled last, by the rows that the order log had since.

use std::collections::HashMap;

use super::{
    laws::{Id, Laws},
    notification::Notifications,
    order::{Order, Orders, Outcome},
    payment::{self, Charge, Payment, Payments},
    product::{Products, Status},
    snapshot::Entry,
    value::shown,
};

/// The orders, against which each participant is held as soon as it is read: none is kept in memory longer than that.
pub(super) struct Across<'o> {
    orders: &'o HashMap<u128, Order>,
    /// Laws that ask for orders which were not there yet.
    unplaced: Vec<(Id, u128)>,
    /// Notifications of orders that had not ended yet.
    untold: Vec<(u128, Told)>,
}

/// A notification: of which order, of which end, and which one of the order it is.
#[derive(Clone, Copy)]
struct Told {
    order: u128,
    outcome: Option<Outcome>,
    number: u32,
    /// Whether it is to the order's own customer.
    is_own: bool,
}

/// What the order log has had appended since it was read: orders, and how they ended.
#[derive(Default)]
pub(super) struct Newer(HashMap<u128, Option<Outcome>>);

impl Newer {
    pub(super) fn take(&mut self, entry: &Entry) {
        if let Some(("order", order_id)) = entry.subject() {
            self.0.insert(order_id, Outcome::told_by(&entry.kind));
        }
    }
}

impl<'o> Across<'o> {
    pub(super) fn new(orders: &'o Orders) -> Self {
        Self { orders: &orders.orders, unplaced: Vec::new(), untold: Vec::new() }
    }

    /// Orders that have ended, with their end; without those that an operator ended by their word.
    fn ended(&self) -> impl Iterator<Item = (u128, &'o Order, Outcome)> + use<'o> {
        let bound = self.orders.iter().filter(|(_, order)| !order.waived);
        bound.filter_map(|(order_id, order)| Some((*order_id, order, order.outcome?)))
    }

    pub(super) fn products(&mut self, products: &Products, laws: &mut Laws) {
        for (order_id, order, outcome) in self.ended() {
            let reservation = products.reservations.get(&order_id);
            let status = reservation.map_or(Status::None, |known| known.status);
            let told = || format!("order {}: its reservation is {status:?}", shown(order_id));
            match outcome {
                Outcome::Confirmed => {
                    let own = reservation.is_some_and(|known| known.commits == 1 && known.lines == order.lines);
                    laws.check(Id::ConfirmedStockCommitted, own && status == Status::Committed, told);
                }
                Outcome::Cancelled => {
                    let holds = matches!(status, Status::Reserved | Status::Committed);
                    laws.check(Id::CancelledNothingReserved, !holds, told);
                }
            }
        }
        for order_id in products.reservations.keys() {
            match self.orders.contains_key(order_id) {
                true => laws.check(Id::ReservationsHaveOrder, true, String::new),
                false => self.unplaced.push((Id::ReservationsHaveOrder, *order_id)),
            }
        }
    }

    pub(super) fn payments(&mut self, payments: &Payments, laws: &mut Laws) {
        for (order_id, order, outcome) in self.ended() {
            let payment = payments.payments.get(&order_id);
            let told = || {
                let (status, charged) = payment.map_or_else(Default::default, |payment| (payment.status, payment.charged()));
                format!("order {} of {}: its payment is {status:?}; {charged}", shown(order_id), order.total)
            };
            match outcome {
                Outcome::Confirmed => {
                    let once = payment.is_some_and(|payment| is_captured_once(payment, order));
                    laws.check(Id::ConfirmedCapturedOnce, once, told);
                }
                Outcome::Cancelled => laws.check(Id::CancelledNothingTaken, payment.is_none_or(is_nothing), told),
            }
        }
        for (order_id, payment) in &payments.payments {
            let Some(order) = self.orders.get(order_id) else {
                self.unplaced.push((Id::PaymentsHaveOrder, *order_id));
                continue;
            };
            let own = payment.customer.is_none_or(|customer| customer == order.customer);
            let total = payment.amount.is_none_or(|amount| amount == order.total) && !payment.has_other_amount;
            laws.check(Id::PaymentsHaveOrder, own && total, || {
                let asked = payment.amount.unwrap_or_default();
                format!("the payment of order {} of {} is over {asked}, or another customer's", shown(*order_id), order.total)
            });
        }
    }

    pub(super) fn notifications(&mut self, notifications: &Notifications, laws: &mut Laws) {
        let mut numbers: HashMap<u128, u32> = HashMap::with_capacity(notifications.notifications.len());
        for (notification_id, notification) in &notifications.notifications {
            let number = numbers.entry(notification.order).or_insert(0);
            *number += 1;
            let order = self.orders.get(&notification.order);
            let is_own = order.is_none_or(|order| order.customer == notification.customer);
            let told = Told { order: notification.order, outcome: notification.outcome, number: *number, is_own };
            match order.and_then(|order| order.outcome) {
                Some(ended) => told.check(laws, *notification_id, Some(ended)),
                None => self.untold.push((*notification_id, told)),
            }
        }
        for (order_id, _) in self.orders.iter().filter(|(_, order)| order.outcome.is_some()) {
            laws.check(Id::AllNotified, numbers.contains_key(order_id), || format!("order {}", shown(*order_id)));
        }
    }

    /// Settles what belongs to orders that are newer than the first look at them.
    pub(super) fn finish(self, newer: &Newer, laws: &mut Laws) {
        for (law, order_id) in self.unplaced {
            laws.check(law, newer.0.contains_key(&order_id), || format!("there is no order {}", shown(order_id)));
        }
        for (notification_id, told) in self.untold {
            told.check(laws, notification_id, newer.0.get(&told.order).copied().flatten());
        }
    }
}

impl Told {
    fn check(self, laws: &mut Laws, notification_id: u128, ended: Option<Outcome>) {
        let Self { order, outcome, number, is_own } = self;
        laws.check(Id::NotifiedOnce, number == 1 && is_own && ended.is_some() && ended == outcome, || {
            let (of, told) = (shown(order), outcome.map_or("nothing", Outcome::as_str));
            let ended = ended.map_or("open", Outcome::as_str);
            format!("notification {} of order {of}, number {number}, tells {told}; it is {ended}", shown(notification_id))
        });
    }
}

/// One capture of the order's total, in the payment log and at the provider, and nothing else held or given back. What costs nothing
/// is captured in the log alone.
fn is_captured_once(payment: &Payment, order: &Order) -> bool {
    if order.total.minor == 0 {
        let Charge { held_minor, captured_minor, refunded_minor, .. } = payment.charge.unwrap_or_default();
        return payment.captures == 1 && (held_minor, captured_minor, refunded_minor) == (0, 0, 0);
    }
    let Some(charge) = payment.charge else { return false };
    let Charge { currency, held_minor, captured_minor, refunded_minor, captures, .. } = charge;
    (captures, captured_minor, currency) == (1, order.total.minor, order.total.currency)
        && (held_minor, refunded_minor, payment.captures) == (0, 0, 1)
}

/// Nothing is held and nothing is taken, nor can it be any more.
fn is_nothing(payment: &Payment) -> bool {
    let charge = payment.charge.unwrap_or_default();
    let ended = [payment::Status::Nothing, payment::Status::Declined, payment::Status::Voided].contains(&payment.status);
    charge.captured_minor == charge.refunded_minor && charge.held_minor == 0 && payment.open.is_none() && ended
}
