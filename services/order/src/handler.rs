//! Requests, replies and deadlines, decided in one transaction a batch: load the sagas, ask the table, append, save.
//!
//! Never here: SQL text (`store.rs`, the engine), rules (`domain.rs`, the saga's table). What is appended goes over the bus to
//! product, payment and notification.

use std::collections::HashMap;

use contract::{
    Cause, CustomerId, Message, Meta, Money, OrderId, Timestamp,
    order::{self, Line, OrderCancelled, OrderConfirmed, OrderPlaced},
    payment, product, topics,
};
use engine::{Applied, Engine, Instance, Loaded};
use eventlog::{Error, Job, Log, New, Poison, Stored, Unit};
use saga::{
    Why,
    order::{Context, Input, OrderSaga, State, payment_reply, product_reply},
};
use uuid::Uuid;

use crate::store::{self, Placed};

/// Due sagas decided in one transaction.
const DUE_MAX: i64 = 256;

/// Something to decide.
#[derive(Clone, Debug)]
pub enum Work {
    Place(Place),
    /// A participant's reply.
    Reply {
        order_id: OrderId,
        input: Input,
    },
    /// A customer's cancel, or an operator's for them.
    Cancel {
        order_id: OrderId,
        by: By,
    },
    /// An operator's verb.
    Steer {
        order_id: OrderId,
        verb: Input,
        note: Option<String>,
    },
    /// Deadlines may have passed.
    Due,
}

/// An order that was checked and priced.
#[derive(Clone, Debug)]
pub struct Place {
    pub order_id: OrderId,
    pub customer_id: CustomerId,
    pub lines: Vec<Line>,
    pub total: Money,
    pub payment_token: String,
}

/// Who asks for a cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct By {
    pub id: CustomerId,
    /// May cancel for others; one's own order is cancelled as any customer's is.
    pub is_operator: bool,
}

impl By {
    fn may_cancel_for(self, customer: CustomerId) -> bool {
        self.is_operator || self.id == customer
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// Since when it stands in the log.
    Placed(OrderId, Timestamp),
    /// A reply or a deadline was handled.
    Handled,
    /// The verb took effect; the saga goes on from there.
    Accepted(OrderId),
    /// The verb had no effect, in this state.
    Ignored(Why, State),
    /// There is no such order, or it is somebody else's.
    Unknown,
    /// The order is there, in a form that this build can't read.
    Unreadable,
}

/// The order service's handler.
pub struct Handler {
    pub(crate) engine: Engine<OrderSaga>,
}

impl Handler {
    /// One look at deadlines; `fire` decides what is due.
    ///
    /// # Errors
    /// What the database said, or `fire`.
    pub async fn look<F: Future<Output = Result<(), Error>>>(&self, log: &Log, fire: &impl Fn() -> F) -> Result<(), Error> {
        engine::look(log, self.engine.due(), fire).await
    }
}

type Sagas = HashMap<Uuid, Instance<OrderSaga>>;

impl eventlog::Handler for Handler {
    type Work = Work;
    type Done = Done;

    async fn handle(&self, unit: &mut Unit<'_>, jobs: &[&Job<Work>]) -> Result<Vec<Done>, Error> {
        let mut due = Vec::new();
        if jobs.iter().any(|job| matches!(job.work, Work::Due)) {
            let passed = Timestamp(unit.now().0 + 1);
            due = self.engine.due().claim(unit, passed, DUE_MAX).await?;
        }
        let wanted = jobs.iter().filter_map(|job| match &job.work {
            Work::Reply { order_id, .. } | Work::Cancel { order_id, .. } | Work::Steer { order_id, .. } => Some(order_id.0),
            Work::Place(_) | Work::Due => None,
        });
        let wanted: Vec<Uuid> = wanted.chain(due.iter().copied()).collect();
        let Loaded { instances: mut sagas, unreadable } = engine::load::<OrderSaga>(unit.conn(), &wanted).await?;
        let aside = due.iter().filter_map(|id| Some((*id, unreadable.get(id)?.clone()))).collect::<Vec<_>>();
        self.engine.due().set_aside(unit, &aside).await?;

        let mut batch = Batch { engine: &self.engine, unreadable, placed: Vec::new(), changed: Vec::new() };
        let done = jobs.iter().enumerate().map(|(index, job)| batch.decide(unit, &mut sagas, index, job, &due)).collect();

        batch.changed.sort_unstable();
        batch.changed.dedup();
        let changed: Vec<&Instance<OrderSaga>> = batch.changed.iter().filter_map(|id| sagas.get(id)).collect();
        let now = unit.now();
        store::insert(unit, &batch.placed, now).await?;
        engine::save(unit, &changed).await?;
        Ok(done)
    }

    /// Kept under the idempotency key: the order's id. The body is the order as it is when it is asked again.
    fn answer(&self, done: &Done) -> Option<Stored> {
        match done {
            Done::Placed(id, _) | Done::Accepted(id) => Some(Stored {
                fingerprint: [0; 32],
                status: 202,
                location: Some(format!("/v1/orders/{id}")),
                body: String::new(),
            }),
            Done::Handled | Done::Ignored(..) | Done::Unknown | Done::Unreadable => None,
        }
    }

    fn committed(&self, _done: Vec<Done>) {}
}

impl bus::Consumer for Handler {
    fn accept(&self, message: &Message) -> Result<Option<Work>, Poison> {
        let (kind, schema, data) = (&message.kind, message.schema, &message.data);
        let reply = match message.topic.as_deref() {
            Some(topics::PRODUCT_EVENTS) => product::Event::decode(kind, schema, data).map(|event| product_reply(&event)),
            Some(topics::PAYMENT_EVENTS) => payment::Event::decode(kind, schema, data).map(|event| payment_reply(&event)),
            _ => {
                let why = format!("the order service does not consume {:?}", message.topic);
                return Err(Poison::new(Cause::Refused, why));
            }
        };
        Ok(reply?.map(|(order_id, input)| Work::Reply { order_id, input }))
    }
}

/// A batch being decided.
struct Batch<'e> {
    engine: &'e Engine<OrderSaga>,
    /// Sagas that are there, in a form that only another build knows.
    unreadable: HashMap<Uuid, String>,
    placed: Vec<Placed>,
    changed: Vec<Uuid>,
}

impl Batch<'_> {
    fn decide(&mut self, unit: &mut Unit<'_>, sagas: &mut Sagas, index: usize, job: &Job<Work>, due: &[Uuid]) -> Done {
        match &job.work {
            Work::Place(place) => {
                let instance = self.place(unit, &job.meta, place);
                sagas.insert(instance.id, instance);
                Done::Placed(place.order_id, unit.now())
            }
            Work::Reply { order_id, input } => {
                if let Some(why) = self.unreadable.get(&order_id.0) {
                    unit.refuse(index, format!("a reply to order {order_id}, whose saga this build can't read: {why}"));
                    return Done::Handled;
                }
                let Some(instance) = sagas.get_mut(&order_id.0) else {
                    unit.refuse(index, format!("a reply to order {order_id}, which this service never placed"));
                    return Done::Handled;
                };
                if self.apply(unit, &job.meta, instance, *input, None) == Applied::Illegal {
                    unit.refuse(index, format!("{input:?} in state {:?}, where nobody asked for it", instance.state));
                }
                Done::Handled
            }
            Work::Cancel { order_id, .. } | Work::Steer { order_id, .. } if self.unreadable.contains_key(&order_id.0) => {
                Done::Unreadable
            }
            Work::Cancel { order_id, by } => match sagas.get_mut(&order_id.0) {
                Some(instance) if by.may_cancel_for(instance.context.customer_id) => self.cancel(unit, &job.meta, instance, *by),
                _ => Done::Unknown,
            },
            Work::Steer { order_id, verb, note } => match sagas.get_mut(&order_id.0) {
                Some(instance) => {
                    let applied = self.apply(unit, &job.meta, instance, *verb, note.clone());
                    verdict(applied, instance)
                }
                None => Done::Unknown,
            },
            Work::Due => {
                for id in due {
                    if let Some(instance) = sagas.get_mut(id) {
                        let (meta, applied) = self.engine.deadline(unit, instance);
                        self.follow(unit, &meta, instance, applied);
                    }
                }
                Done::Handled
            }
        }
    }

    fn place(&mut self, unit: &mut Unit<'_>, meta: &Meta, place: &Place) -> Instance<OrderSaga> {
        let Place { order_id, customer_id, lines, total, payment_token } = place.clone();
        let meta = Meta { correlation: Some(order_id.0), ..meta.clone() };
        let placed = OrderPlaced { order_id, customer_id, lines: lines.clone(), total };
        append(unit, &meta, order_id, 1, placed.into());
        let stock_lines = lines.iter().map(|line| product::StockLine { product_id: line.product_id, quantity: line.quantity });
        let context = Context { order_id, customer_id, lines: stock_lines.collect(), total, payment_token };
        let instance = self.engine.start(unit, &meta, order_id.0, context);
        self.placed.push(Placed { order_id, customer_id, lines, total });
        self.changed.push(instance.id);
        instance
    }

    fn cancel(&mut self, unit: &mut Unit<'_>, meta: &Meta, instance: &mut Instance<OrderSaga>, by: By) -> Done {
        // Past the pivot an operator's cancel is refused like the customer's; forcing it is a verb of its own.
        let may_cancel = matches!(instance.state, State::ReservingStock | State::AuthorizingPayment);
        let own = by.id == instance.context.customer_id;
        let input = if !own && may_cancel { Input::CompensationForced } else { Input::CancelAsked };
        let applied = self.apply(unit, meta, instance, input, None);
        verdict(applied, instance)
    }

    fn apply(
        &mut self,
        unit: &mut Unit<'_>,
        meta: &Meta,
        instance: &mut Instance<OrderSaga>,
        input: Input,
        note: Option<String>,
    ) -> Applied {
        let applied = self.engine.apply(unit, meta, instance, input, note);
        self.follow(unit, meta, instance, applied);
        applied
    }

    /// Marks what changed, and says so in the order's own stream when its saga has ended.
    fn follow(&mut self, unit: &mut Unit<'_>, meta: &Meta, instance: &Instance<OrderSaga>, applied: Applied) {
        let Applied::Moved { ended } = applied else { return };
        self.changed.push(instance.id);
        if !ended {
            return;
        }
        let Context { order_id, customer_id, total, .. } = instance.context;
        let event = match (instance.state, instance.reason) {
            (State::Confirmed, _) => OrderConfirmed { order_id, customer_id, total }.into(),
            (_, reason) => {
                let reason = reason.expect("the table cancels with a reason only");
                OrderCancelled { order_id, customer_id, total, reason }.into()
            }
        };
        let trace = if meta.trace.parent.is_some() { meta.trace.clone() } else { instance.trace.clone() };
        append(unit, &Meta { correlation: Some(order_id.0), trace, ..meta.clone() }, order_id, 2, event);
    }
}

fn verdict(applied: Applied, instance: &Instance<OrderSaga>) -> Done {
    match applied {
        Applied::Moved { .. } => Done::Accepted(instance.context.order_id),
        Applied::Ignored(why) => Done::Ignored(why, instance.state),
        Applied::Illegal => unreachable!("the table has an answer to every verb of a person"),
    }
}

/// Appends to the order's own stream: version 1 when it is placed, version 2 when it ends.
fn append(unit: &mut Unit<'_>, meta: &Meta, id: OrderId, version: i64, event: order::Event) {
    let new =
        New { stream: format!("order-{id}"), version, to: Some((topics::ORDER_EVENTS, id.to_string())), payload: event.encode() };
    unit.append(meta, new);
}
