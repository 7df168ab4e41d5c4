//! Commands, answers and due calls as the group-commit writer decides them: load, decide, append, write back.
//!
//! Never here: calls to the provider, which go out only after the commit. From here the flow goes to `caller.rs` with every
//! intent that was committed, and over the log to whoever reads `payment.events.v1`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use contract::{
    Fault, Message, Meta, OrderId, Timestamp,
    payment::{Command, Event, Operation},
    topics,
};
use eventlog::{Due, Error, Job, New, Poison, Stored, Unit};
use kit::outgoing::Queue;
use uuid::Uuid;

use crate::{
    Config,
    caller::{Calls, Outgoing},
    domain::{Input, Verdict},
    provider::{
        self, Call,
        ledger::{Books, Reply, Rules},
    },
    store::{self, OpenCall, Row},
};

/// One thing for the writer to decide.
#[derive(Clone, Debug)]
pub struct Work(pub(crate) Kind);

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Command(Command),
    /// The provider's definitive answer.
    Settled {
        order_id: OrderId,
        verdict: Verdict,
    },
    /// The outcome of a call is unknown: it is due again after a pause. `tries` as the caller knew them.
    Postponed {
        order_id: OrderId,
        operation: Operation,
        tries: i64,
        wait: Duration,
        stuck: bool,
    },
    /// Takes calls that were due before an instant, for this process.
    ClaimDue {
        before: Timestamp,
        limit: i64,
    },
    /// A call to the built-in provider: its own books, not the payment's.
    Ledger {
        call: Call,
        rules: Rules,
    },
}

/// What came of it.
#[derive(Debug)]
pub struct Done(pub(crate) Outcome);

#[derive(Debug)]
pub(crate) enum Outcome {
    Nothing,
    /// An intent was recorded: now call.
    Call(Box<Outgoing>),
    Claimed(Vec<Outgoing>),
    Ledger(Reply),
}

/// What a batch is about.
struct Batch {
    rows: BTreeMap<OrderId, Row>,
    /// Payments that are there, in a form that only another build knows.
    unreadable: BTreeMap<OrderId, String>,
    due: Vec<OrderId>,
}

/// Decides the payment service's work.
pub struct Handler {
    calls: Queue<Calls>,
    pub(crate) due: Arc<Due>,
    /// How long a recorded or claimed intent is left to this process.
    lease: Duration,
}

impl Handler {
    pub(crate) fn new(calls: Queue<Calls>, config: &Config) -> Self {
        Self { calls, due: store::open_calls(config), lease: config.lease() }
    }

    /// Everything of the batch that is about payments, in memory.
    async fn load(&self, unit: &mut Unit<'_>, jobs: &[&Job<Work>]) -> Result<Batch, Error> {
        let mut orders = BTreeSet::<Uuid>::new();
        let mut due = Vec::new();
        for job in jobs {
            match &job.work.0 {
                Kind::Command(command) => drop(orders.insert(order_of(command).0)),
                Kind::Settled { order_id, .. } | Kind::Postponed { order_id, .. } => drop(orders.insert(order_id.0)),
                Kind::ClaimDue { before, limit } => due.extend(self.due.claim(unit, *before, *limit).await?),
                Kind::Ledger { .. } => {}
            }
        }
        orders.extend(&due);
        let orders: Vec<Uuid> = orders.into_iter().collect();
        let (mut rows, unreadable) = store::load(unit.conn(), &orders).await?;
        let due: Vec<OrderId> = due.into_iter().map(Into::into).collect();
        let aside = due.iter().filter_map(|order| Some((order.0, unreadable.get(order)?.clone()))).collect::<Vec<_>>();
        self.due.set_aside(unit, &aside).await?;
        for order in orders.into_iter().map(OrderId).filter(|order| !unreadable.contains_key(order)) {
            rows.entry(order).or_insert_with(|| Row::new(order));
        }
        Ok(Batch { rows, unreadable, due })
    }

    fn command(&self, unit: &mut Unit<'_>, index: usize, meta: &Meta, command: &Command, row: &mut Row) -> Outcome {
        let input = match command {
            Command::AuthorizePayment(command) => Input::Authorize(command.amount),
            Command::CapturePayment(_) => Input::Capture,
            Command::VoidPayment(_) => Input::Void,
        };
        let events = match row.payment.decide(input) {
            Ok(events) => events,
            Err(refusal) => {
                unit.refuse(index, refusal.as_str());
                return Outcome::Nothing;
            }
        };
        if let Command::AuthorizePayment(command) = command {
            row.customer_id.get_or_insert(command.customer_id);
            row.token.get_or_insert_with(|| command.token.clone());
        }
        self.record(unit, meta, row, events)
    }

    fn settle(&self, unit: &mut Unit<'_>, meta: &Meta, verdict: &Verdict, row: &mut Row) -> Outcome {
        match row.payment.decide(Input::Settle(verdict.clone())) {
            Ok(events) => self.record(unit, meta, row, events),
            Err(refusal) => unreachable!("only commands are refused, not answers: {}", refusal.as_str()),
        }
    }

    /// Appends what was decided, and tells of the call that is to be made after the commit.
    fn record(&self, unit: &mut Unit<'_>, meta: &Meta, row: &mut Row, events: Vec<Event>) -> Outcome {
        row.changed |= !events.is_empty();
        let order_id = row.payment.order_id;
        let mut outcome = Outcome::Nothing;
        for event in events {
            row.payment.evolve(&event);
            let to = match event {
                Event::CallIntended(_) | Event::VoidRequested(_) => None,
                _ => Some((topics::PAYMENT_EVENTS, order_id.to_string())),
            };
            let new = New { stream: stream(order_id), version: row.payment.version, to, payload: event.encode() };
            let id = unit.append(meta, new);
            match event {
                Event::CallIntended(_) => {
                    let (opened, trace) = (unit.now(), meta.trace.clone());
                    let due = opened.plus(self.lease);
                    row.open_call = Some(OpenCall { due, opened, intent: id, trace, tries: 0, stuck: false });
                    outcome = outgoing(row).map_or(Outcome::Nothing, |call| Outcome::Call(Box::new(call)));
                }
                _ if row.payment.open.is_none() => row.open_call = None,
                _ => {}
            }
        }
        outcome
    }

    fn postpone(unit: &Unit<'_>, work: &Kind, row: &mut Row) -> Outcome {
        let Kind::Postponed { operation, tries, wait, stuck, .. } = work else { unreachable!("asked for this kind only") };
        if let Some(call) = &mut row.open_call
            && row.payment.open == Some(*operation)
            && call.tries == *tries
        {
            (call.tries, call.due, call.stuck) = (tries + 1, unit.now().plus(*wait), *stuck);
            row.changed = true;
        }
        Outcome::Nothing
    }

    fn claim(&self, unit: &Unit<'_>, before: Timestamp, due: &[OrderId], rows: &mut BTreeMap<OrderId, Row>) -> Outcome {
        let mut claimed = Vec::with_capacity(due.len());
        for order_id in due {
            let Some(row) = rows.get_mut(order_id) else { continue };
            // Another replica may have claimed it before the row was locked, or an earlier job may have settled it.
            if let Some(call) = &mut row.open_call
                && call.due < before
            {
                call.due = unit.now().plus(self.lease);
                row.changed = true;
                claimed.extend(outgoing(row));
            }
        }
        Outcome::Claimed(claimed)
    }
}

impl eventlog::Handler for Handler {
    type Work = Work;
    type Done = Done;

    async fn handle(&self, unit: &mut Unit<'_>, jobs: &[&Job<Work>]) -> Result<Vec<Done>, Error> {
        let Batch { mut rows, unreadable, due } = self.load(unit, jobs).await?;
        let calls: Vec<&Call> = jobs
            .iter()
            .filter_map(|job| match &job.work.0 {
                Kind::Ledger { call, .. } => Some(call),
                _ => None,
            })
            .collect();
        let mut books = Books::load(unit, &calls).await?;
        let mut done = Vec::with_capacity(jobs.len());
        for (index, job) in jobs.iter().enumerate() {
            let loaded = "every order of the batch was loaded";
            if let Some((order, why)) = of_order(&job.work.0).and_then(|order| unreadable.get_key_value(&order)) {
                // An answer finds the call open when another build looks; a command is asked again.
                if let Kind::Command(_) = &job.work.0 {
                    unit.refuse(index, format!("this build can't read the payment of order {order}: {why}"));
                }
                done.push(Done(Outcome::Nothing));
                continue;
            }
            done.push(Done(match &job.work.0 {
                Kind::Command(command) => {
                    let row = rows.get_mut(&order_of(command)).expect(loaded);
                    self.command(unit, index, &job.meta, command, row)
                }
                Kind::Settled { order_id, verdict } => {
                    self.settle(unit, &job.meta, verdict, rows.get_mut(order_id).expect(loaded))
                }
                work @ Kind::Postponed { order_id, .. } => Self::postpone(unit, work, rows.get_mut(order_id).expect(loaded)),
                Kind::ClaimDue { before, .. } => self.claim(unit, *before, &due, &mut rows),
                Kind::Ledger { call, rules } => Outcome::Ledger(books.answer(call, *rules, unit.now(), unit.env().random())),
            }));
        }
        let now_us = unit.now().0;
        let changed: Vec<&Row> = rows.values().filter(|row| row.changed).collect();
        store::save(unit, &changed, now_us).await?;
        books.save(unit).await?;
        Ok(done)
    }

    fn answer(&self, _: &Done) -> Option<Stored> {
        None
    }

    fn committed(&self, done: Vec<Done>) {
        for done in done {
            if let Outcome::Call(call) = done.0 {
                self.calls.send(*call);
            }
        }
    }
}

impl bus::Consumer for Handler {
    fn accept(&self, message: &Message) -> Result<Option<Work>, Poison> {
        if message.topic.as_deref() != Some(topics::PAYMENT_COMMANDS) {
            return Ok(None);
        }
        Ok(Some(Work(Kind::Command(Command::decode(&message.kind, message.schema, &message.data)?))))
    }
}

pub(crate) fn stream(order_id: OrderId) -> String {
    format!("payment-{order_id}")
}

fn order_of(command: &Command) -> OrderId {
    match command {
        Command::AuthorizePayment(command) => command.order_id,
        Command::CapturePayment(command) => command.order_id,
        Command::VoidPayment(command) => command.order_id,
    }
}

/// The one order that it is about.
fn of_order(work: &Kind) -> Option<OrderId> {
    match work {
        Kind::Command(command) => Some(order_of(command)),
        Kind::Settled { order_id, .. } | Kind::Postponed { order_id, .. } => Some(*order_id),
        Kind::ClaimDue { .. } | Kind::Ledger { .. } => None,
    }
}

/// The open call of a row, ready to go out.
fn outgoing(row: &Row) -> Option<Outgoing> {
    let (order_id, open) = (row.payment.order_id, row.open_call.clone()?);
    let (operation, amount, token) = (row.payment.open?, row.payment.amount?, row.token.clone()?);
    let call = Call { operation, order_id, amount, token, key: provider::key(order_id, operation) };
    let call =
        if Fault::KeyWithAttempt.is_planted() { Call { key: format!("{}:{}", call.key, open.tries), ..call } } else { call };
    Some(Outgoing { call, open })
}
