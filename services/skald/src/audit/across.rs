//! What holds between services: every order that has ended, against its payment, its reservation and its notification.
//!
//! Never here: SQL. The participants were read after the orders, so that they may be ahead of them and never behind: an order that
//! had ended then was done everywhere, and what belongs to newer orders is known from the rows that came after.

use std::collections::HashMap;

use super::{
    laws::{Id, Laws},
    notification::Notifications,
    order::{Order, Orders, Outcome},
    payment::{Charge, Payment, Payments},
    product::{Products, Status},
    snapshot::Entry,
    value::shown,
};

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

pub(super) struct Across<'a> {
    pub orders: &'a Orders,
    pub newer: &'a Newer,
    pub products: &'a Products,
    pub payments: &'a Payments,
    pub notifications: &'a Notifications,
}

impl Across<'_> {
    pub(super) fn check(&self, laws: &mut Laws) {
        for (order_id, order) in &self.orders.orders {
            match order.outcome {
                _ if order.waived => {}
                Some(Outcome::Confirmed) => self.confirmed(laws, *order_id, order),
                Some(Outcome::Cancelled) => self.cancelled(laws, *order_id, order),
                None => {}
            }
        }
        self.nothing_without_an_order(laws);
        self.notified(laws);
    }

    fn confirmed(&self, laws: &mut Laws, order_id: u128, order: &Order) {
        let payment = self.payments.payments.get(&order_id);
        let charge = payment.and_then(|payment| payment.charge);
        let once = charge.is_some_and(|charge| {
            let Charge { currency, held_minor, captured_minor, refunded_minor, captures, .. } = charge;
            (captures, captured_minor, currency) == (1, order.total.minor, order.total.currency)
                && (held_minor, refunded_minor) == (0, 0)
        });
        laws.check(Id::ConfirmedCapturedOnce, once && payment.is_some_and(|payment| payment.captures == 1), || {
            format!("order {} of {}: {charge:?}", shown(order_id), order.total)
        });
        let reservation = self.products.reservations.get(&order_id);
        let committed = reservation
            .is_some_and(|known| known.status == Status::Committed && known.commits == 1 && known.lines == order.lines);
        laws.check(Id::ConfirmedStockCommitted, committed, || {
            format!("order {}: its reservation is {:?}", shown(order_id), reservation.map(|known| known.status))
        });
    }

    fn cancelled(&self, laws: &mut Laws, order_id: u128, order: &Order) {
        let payment = self.payments.payments.get(&order_id);
        let nothing = |payment: &Payment| {
            let charge = payment.charge.unwrap_or_default();
            charge.captured_minor == charge.refunded_minor
                && charge.held_minor == 0
                && payment.open.is_none()
                && ["", "nothing", "declined", "voided"].contains(&payment.status)
        };
        laws.check(Id::CancelledNothingTaken, payment.is_none_or(nothing), || {
            let (status, charge) = payment.map(|payment| (payment.status, payment.charge)).unzip();
            format!("order {} of {}: its payment is {status:?}, {charge:?}", shown(order_id), order.total)
        });
        let status = self.products.reservations.get(&order_id).map_or(Status::None, |known| known.status);
        laws.check(Id::CancelledNothingReserved, !matches!(status, Status::Reserved | Status::Committed), || {
            format!("order {}: its reservation is {status:?}", shown(order_id))
        });
    }

    fn nothing_without_an_order(&self, laws: &mut Laws) {
        for order_id in self.products.reservations.keys() {
            let exists = self.is_placed(*order_id);
            laws.check(Id::ReservationsHaveOrder, exists, || format!("reservation of order {}", shown(*order_id)));
        }
        for (order_id, payment) in &self.payments.payments {
            let of_order = match self.orders.orders.get(order_id) {
                Some(order) => {
                    payment.amount.is_none_or(|amount| amount == order.total)
                        && payment.customer.is_none_or(|customer| customer == order.customer)
                }
                None => self.is_placed(*order_id),
            };
            laws.check(Id::PaymentsHaveOrder, of_order, || format!("payment of order {}", shown(*order_id)));
        }
    }

    fn is_placed(&self, order_id: u128) -> bool {
        self.orders.orders.contains_key(&order_id) || self.newer.0.contains_key(&order_id)
    }

    fn notified(&self, laws: &mut Laws) {
        let mut told: HashMap<u128, u32> = HashMap::with_capacity(self.notifications.notifications.len());
        for (notification_id, notification) in &self.notifications.notifications {
            let times = told.entry(notification.order).or_insert(0);
            *times += 1;
            let order = self.orders.orders.get(&notification.order);
            let newer = || self.newer.0.get(&notification.order).copied().flatten();
            let ended = order.and_then(|order| order.outcome).or_else(newer);
            let own = order.is_none_or(|order| order.customer == notification.customer);
            laws.check(Id::NotifiedOnce, *times == 1 && ended.is_some() && ended == notification.outcome && own, || {
                let (of, told) = (shown(notification.order), notification.outcome);
                format!("notification {} tells order {of} of {told:?}, which is {ended:?}; number {times}", shown(*notification_id))
            });
        }
        for (order_id, _) in self.orders.orders.iter().filter(|(_, order)| order.outcome.is_some()) {
            laws.check(Id::AllNotified, told.contains_key(order_id), || format!("order {}", shown(*order_id)));
        }
    }
}
