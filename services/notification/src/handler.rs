//! Outcomes of orders, results of deliveries and due rows, as the group-commit writer decides them.
//!
//! Never here: deliveries, which go out only after the commit. From here the flow goes to `delivery.rs` with every
//! notification that was committed, and over the log to whoever reads `notification.events.v1`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use contract::{CustomerId, Message, Meta, NotificationId, OrderId, Timestamp, notification::Event, order, topics};
use eventlog::{Due, Error, Job, New, Poison, Unit, backoff};
use kit::outgoing::Queue;
use uuid::Uuid;

use crate::{
    Config,
    channel::Letter,
    delivery::{Delivery, Outgoing},
    domain::{Decision, Input, Notification},
    store::{self, Row},
    template::{self, Text},
};

/// One thing for the writer to decide.
#[derive(Clone, Debug)]
pub struct Work(pub(crate) Kind);

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// An order came to an outcome.
    Queue { order_id: OrderId, customer_id: CustomerId, text: Text },
    /// What came of a delivery; `attempts` as the one who delivered knew them.
    Tried { order_id: OrderId, notification_id: NotificationId, attempts: u32, result: Result<(), String> },
    /// Takes notifications that were due before an instant, for this process.
    ClaimDue { before: Timestamp, limit: i64 },
}

/// What came of it.
#[derive(Debug)]
pub struct Done(pub(crate) Outcome);

#[derive(Debug)]
pub(crate) enum Outcome {
    Nothing,
    Deliver(Box<Outgoing>),
    Claimed(Vec<Outgoing>),
    /// To be delivered again after a pause.
    Postponed,
}

/// Decides the notification service's work.
pub struct Handler {
    letters: Queue<Delivery>,
    pub(crate) due: Arc<Due>,
    config: Config,
}

type Rows = BTreeMap<OrderId, Vec<Row>>;

impl Handler {
    pub(crate) fn new(letters: Queue<Delivery>, config: Config) -> Self {
        Self { letters, due: store::on_their_way(&config), config }
    }

    /// Everything that the batch is about, in memory; and which orders are due.
    async fn load(
        &self,
        unit: &mut Unit<'_>,
        jobs: &[&Job<Work>],
    ) -> Result<(Rows, BTreeMap<OrderId, String>, Vec<OrderId>), Error> {
        let (mut orders, mut due) = (BTreeSet::<Uuid>::new(), Vec::new());
        for job in jobs {
            match &job.work.0 {
                Kind::Queue { order_id, .. } | Kind::Tried { order_id, .. } => drop(orders.insert(order_id.0)),
                Kind::ClaimDue { before, limit } => due.extend(self.due.claim(unit, *before, *limit).await?),
            }
        }
        orders.extend(&due);
        let orders: Vec<Uuid> = orders.into_iter().collect();
        let mut rows: Rows = orders.iter().map(|order| (OrderId(*order), Vec::new())).collect();
        let mut unreadable = BTreeMap::new();
        for (order, row) in store::load(unit.conn(), &orders).await? {
            match row {
                Ok(row) => rows.entry(order).or_default().push(row),
                Err(why) => drop(unreadable.insert(order, why)),
            }
        }
        let due: Vec<OrderId> = due.into_iter().map(Into::into).collect();
        let aside = due.iter().filter_map(|order| Some((order.0, unreadable.get(order)?.clone()))).collect::<Vec<_>>();
        self.due.set_aside(unit, &aside).await?;
        Ok((rows, unreadable, due))
    }

    fn queue(
        &self,
        unit: &mut Unit<'_>,
        meta: &Meta,
        order_id: OrderId,
        customer_id: CustomerId,
        text: &Text,
        rows: &mut Rows,
    ) -> Outcome {
        let rows = rows.entry(order_id).or_default();
        if rows.iter().any(|row| row.notification.template == text.template) {
            return Outcome::Nothing;
        }
        let mut notification = Notification::new(unit.id().into(), order_id, customer_id, text.template);
        let Decision::Record(event) = notification.decide(Input::Queue) else { return Outcome::Nothing };
        notification.evolve(&event);
        let queued = append(unit, meta, &notification, &event);
        let (trace, created) = (meta.trace.clone(), unit.now());
        let (subject, body, due) = (text.subject.to_owned(), text.body.clone(), Some(created.plus(self.config.lease())));
        rows.push(Row { notification, subject, body, due, queued, trace, created, changed: true });
        rows.last().map_or(Outcome::Nothing, |row| Outcome::Deliver(Box::new(outgoing(row))))
    }

    fn tried(&self, unit: &mut Unit<'_>, meta: &Meta, attempts: u32, result: &Result<(), String>, row: &mut Row) -> Outcome {
        let input = match result {
            Ok(()) => Input::Delivered,
            // The same attempt under two claims is one attempt.
            Err(_) if row.notification.attempts != attempts => return Outcome::Nothing,
            Err(reason) => Input::Failed { reason: reason.clone(), attempts_max: self.config.attempts_max },
        };
        match row.notification.decide(input) {
            Decision::Record(event) => {
                row.notification.evolve(&event);
                append(unit, meta, &row.notification, &event);
                (row.due, row.changed) = (None, true);
                Outcome::Nothing
            }
            Decision::TryAgain { attempts, reason } => {
                let wait = backoff(unit.env(), attempts, self.config.retry_first(), self.config.retry_cap());
                (row.notification.attempts, row.notification.reason) = (attempts, Some(reason));
                (row.due, row.changed) = (Some(unit.now().plus(wait)), true);
                Outcome::Postponed
            }
            Decision::Nothing => Outcome::Nothing,
        }
    }

    fn claim(&self, unit: &Unit<'_>, before: Timestamp, due: &[OrderId], rows: &mut Rows) -> Outcome {
        let mut claimed = Vec::with_capacity(due.len());
        for order_id in due {
            // Another replica may have claimed it before the row was locked, or an earlier job may have ended it.
            for row in rows.get_mut(order_id).into_iter().flatten().filter(|row| row.due.is_some_and(|due| due < before)) {
                (row.due, row.changed) = (Some(unit.now().plus(self.config.lease())), true);
                claimed.push(outgoing(row));
            }
        }
        Outcome::Claimed(claimed)
    }
}

impl eventlog::Handler for Handler {
    type Work = Work;
    type Done = Done;

    async fn handle(&self, unit: &mut Unit<'_>, jobs: &[&Job<Work>]) -> Result<Vec<Done>, Error> {
        let (mut rows, unreadable, due) = self.load(unit, jobs).await?;
        let mut done = Vec::with_capacity(jobs.len());
        for (index, job) in jobs.iter().enumerate() {
            if let Kind::Queue { order_id, .. } = &job.work.0
                && let Some(why) = unreadable.get(order_id)
            {
                // It may be this very outcome's.
                unit.refuse(index, format!("this build can't read a notification of order {order_id}: {why}"));
                done.push(Done(Outcome::Nothing));
                continue;
            }
            done.push(Done(match &job.work.0 {
                Kind::Queue { order_id, customer_id, text } => {
                    self.queue(unit, &job.meta, *order_id, *customer_id, text, &mut rows)
                }
                Kind::Tried { order_id, notification_id, attempts, result } => {
                    let row = rows
                        .get_mut(order_id)
                        .and_then(|rows| rows.iter_mut().find(|row| row.notification.notification_id == *notification_id));
                    row.map_or(Outcome::Nothing, |row| self.tried(unit, &job.meta, *attempts, result, row))
                }
                Kind::ClaimDue { before, .. } => self.claim(unit, *before, &due, &mut rows),
            }));
        }
        let changed: Vec<&Row> = rows.values().flatten().filter(|row| row.changed).collect();
        store::save(unit, &changed).await?;
        Ok(done)
    }

    fn answer(&self, _: &Done) -> Option<eventlog::Stored> {
        None
    }

    fn committed(&self, done: Vec<Done>) {
        for done in done {
            if let Outcome::Deliver(outgoing) = done.0 {
                self.letters.send(*outgoing);
            }
        }
    }
}

impl bus::Consumer for Handler {
    fn accept(&self, message: &Message) -> Result<Option<Work>, Poison> {
        if message.topic.as_deref() != Some(topics::ORDER_EVENTS) {
            return Ok(None);
        }
        let event = order::Event::decode(&message.kind, message.schema, &message.data)?;
        let (order_id, customer_id, text) = match &event {
            order::Event::OrderPlaced(_) => return Ok(None),
            order::Event::OrderConfirmed(event) => (event.order_id, event.customer_id, template::confirmed(event)),
            order::Event::OrderCancelled(event) => (event.order_id, event.customer_id, template::cancelled(event)),
        };
        Ok(Some(Work(Kind::Queue { order_id, customer_id, text })))
    }
}

fn append(unit: &mut Unit<'_>, meta: &Meta, notification: &Notification, event: &Event) -> contract::MessageId {
    let to = Some((topics::NOTIFICATION_EVENTS, notification.order_id.to_string()));
    let stream = format!("notification-{}", notification.notification_id);
    unit.append(meta, New { stream, version: notification.version, to, payload: event.encode() })
}

/// A notification, ready to go out.
fn outgoing(row: &Row) -> Outgoing {
    let Notification { notification_id, order_id, customer_id, ref template, attempts, .. } = row.notification;
    let (template, subject, body) = (template.clone(), row.subject.clone(), row.body.clone());
    let letter = Letter { notification_id, order_id, customer_id, template, subject, body };
    Outgoing { letter, meta: row.meta(), attempts }
}
