//! The engine: what to append when something comes in. Decides nothing itself; the table does.

use std::{marker::PhantomData, sync::Arc, time::Duration};

use contract::{
    Fault, Meta, Trace,
    saga::{Event, SagaEnded, SagaMoved, SagaStarted, SagaStuck},
    topics, trace,
};
use eventlog::{Due, New, Span, SpanKind, Unit, backoff};
use saga::{Decision, Saga, Why, Word};
use uuid::Uuid;

use crate::{Instance, Metrics, store};

/// How long and how often to ask.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long to wait for an answer before asking again.
    pub step_deadline: Duration,
    /// How often a step that can still be compensated is asked, from 1.
    pub tries_max: u32,
    /// The longest wait between two askings of a step that is never given up.
    pub backoff_max: Duration,
    /// After so many askings without an answer the instance is flagged as stuck.
    pub stuck_after: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { step_deadline: Duration::from_secs(5), tries_max: 3, backoff_max: Duration::from_secs(60), stuck_after: 10 }
    }
}

/// What came of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The instance moved or asked again; `ended` if it reached an end with this.
    Moved {
        ended: bool,
    },
    Ignored(Why),
    Illegal,
}

/// Runs the saga `S`.
pub struct Engine<S: Saga> {
    patience: Patience,
    metrics: Metrics,
    due: Arc<Due>,
    saga: PhantomData<S>,
}

impl<S: Saga> Engine<S> {
    pub fn new(patience: Patience, metrics: Metrics) -> Self {
        Self { due: store::waiting::<S>(&patience), patience, metrics, saga: PhantomData }
    }

    /// The instances that wait, as rows that are due.
    pub fn due(&self) -> &Arc<Due> {
        &self.due
    }

    /// Starts an instance: appends its first rows and its first command.
    pub fn start(&self, unit: &mut Unit<'_>, meta: &Meta, id: Uuid, context: S::Context) -> Instance<S> {
        let mut instance = Instance::<S> {
            id,
            definition: S::DEFINITION,
            state: S::START,
            reason: None,
            attempt: 1,
            stuck: false,
            version: 0,
            due: None,
            started: unit.now(),
            ended: None,
            context,
            trace: meta.trace.clone(),
        };
        let started = SagaStarted { saga: S::NAME.to_owned(), saga_id: id, definition: S::DEFINITION };
        append(unit, meta, &mut instance, Some((topics::SAGA_EVENTS, id.to_string())), started.into());
        let context = serde_json::to_value(&instance.context).expect("a saga's context has string keys only");
        let moved = SagaMoved {
            input: "Started".into(),
            from: None,
            to: S::START.as_str().to_owned(),
            reason: None,
            asked: instance.step().map(str::to_owned),
            attempt: 1,
            context: Some(context),
            note: None,
        };
        append(unit, meta, &mut instance, None, moved.into());
        self.ask(unit, meta, &mut instance);
        let trace_id = instance.trace.id().unwrap_or_default();
        tracing::debug!(saga.id = %id, trace.id = trace_id, saga.name = S::NAME, "saga starts");
        self.metrics.started(unit, S::NAME);
        instance
    }

    /// Gives the instance an input, and appends what follows. `note` is an operator's own words.
    pub fn apply(
        &self,
        unit: &mut Unit<'_>,
        meta: &Meta,
        instance: &mut Instance<S>,
        input: S::Input,
        note: Option<String>,
    ) -> Applied {
        let (to, reason) = match S::decide(instance.state, input) {
            Decision::Moved { to, reason } => (to, reason),
            Decision::Ignored(why) => {
                self.metrics.ignored(unit, S::NAME, why);
                return Applied::Ignored(why);
            }
            Decision::Illegal => return Applied::Illegal,
        };
        let from = instance.state;
        instance.attempt = if to == from { instance.attempt + 1 } else { 1 };
        instance.state = to;
        instance.reason = instance.reason.or(reason);
        let moved = SagaMoved {
            input: input.as_str().into(),
            from: Some(from.as_str().to_owned()),
            to: to.as_str().to_owned(),
            reason: instance.reason.map(|reason| reason.as_str().to_owned()),
            asked: instance.step().map(str::to_owned),
            attempt: instance.attempt,
            context: None,
            note,
        };
        append(unit, meta, instance, None, moved.into());
        match S::step(to) {
            Some(step) => {
                self.ask(unit, meta, instance);
                // A flag stays for as long as the wait does, also if the bound was raised meanwhile.
                instance.stuck = (to == from && instance.stuck) || self.flag_if_stuck(unit, meta, instance, step.name);
                Applied::Moved { ended: false }
            }
            None => {
                self.end(unit, meta, instance);
                Applied::Moved { ended: true }
            }
        }
    }

    /// The deadline of an instance that is due: asks again, or gives the step up where the table allows it. Tells also what more of
    /// it is appended under.
    pub fn deadline(&self, unit: &mut Unit<'_>, instance: &mut Instance<S>) -> (Meta, Applied) {
        let overdue = |due| unit.now().since(due) > Duration::from_secs(1);
        // Another replica, or an answer in this very batch, came first.
        if instance.due.is_none_or(|due| due > unit.now()) && !Fault::StaleDeadline.is_planted()
            || instance.due.is_some_and(overdue) && Fault::DeadlineLost.is_planted()
        {
            self.metrics.ignored(unit, S::NAME, Why::Stale);
            return (Meta::default(), Applied::Ignored(Why::Stale));
        }
        let last = instance.attempt >= self.patience.tries_max;
        let input = if last { S::LAST_DEADLINE_PASSED } else { S::DEADLINE_PASSED };
        let meta = Meta { correlation: Some(instance.id), trace: woken(unit, instance), ..Meta::default() };
        let applied = self.apply(unit, &meta, instance, input, None);
        (meta, applied)
    }

    /// Appends the command of the present state and arms its deadline.
    fn ask(&self, unit: &mut Unit<'_>, meta: &Meta, instance: &mut Instance<S>) {
        let command = S::command(instance.state, &instance.context).expect("a state that waits has a command");
        instance.version += 1;
        let stream = Instance::<S>::stream(instance.id);
        let meta = Meta { correlation: Some(instance.id), ..meta.clone() };
        let new = New { stream, version: instance.version, to: Some((command.topic, command.key)), payload: command.payload };
        unit.append(&meta, new);
        // The first askings come at the deadline's own pace; after that the wait grows, with jitter.
        let beyond = instance.attempt.saturating_sub(self.patience.tries_max.saturating_sub(1));
        let wait = match beyond {
            0 => self.patience.step_deadline,
            tries => backoff(unit.env(), tries, self.patience.step_deadline, self.patience.backoff_max),
        };
        instance.due = Some(unit.now().plus(wait));
        if let Some(step) = instance.step() {
            self.metrics.asked(unit, S::NAME, step);
        }
    }

    /// Whether the instance is stuck from now on; says so.
    fn flag_if_stuck(&self, unit: &mut Unit<'_>, meta: &Meta, instance: &mut Instance<S>, step: &'static str) -> bool {
        let stuck = instance.attempt > self.patience.stuck_after;
        if stuck {
            let event =
                SagaStuck { saga: S::NAME.to_owned(), saga_id: instance.id, step: step.to_owned(), attempts: instance.attempt };
            append(unit, meta, instance, Some((topics::SAGA_EVENTS, instance.id.to_string())), event.into());
            self.metrics.flagged(unit, S::NAME, step);
            let trace_id = instance.trace.id().unwrap_or_default();
            tracing::error!(saga.id = %instance.id, trace.id = trace_id, saga.step = step, attempts = instance.attempt,
                "saga is stuck; it goes on asking");
        }
        stuck
    }

    fn end(&self, unit: &mut Unit<'_>, meta: &Meta, instance: &mut Instance<S>) {
        instance.due = None;
        instance.stuck = false;
        instance.ended = Some(unit.now());
        let reason = instance.reason.map(Word::as_str);
        let outcome = instance.state.as_str();
        let event = SagaEnded {
            saga: S::NAME.to_owned(),
            saga_id: instance.id,
            outcome: outcome.to_owned(),
            reason: reason.map(str::to_owned),
        };
        append(unit, meta, instance, Some((topics::SAGA_EVENTS, instance.id.to_string())), event.into());
        let trace_id = instance.trace.id().unwrap_or_default();
        tracing::debug!(saga.id = %instance.id, trace.id = trace_id, saga.name = S::NAME, outcome, reason, "saga ends");
        let took = unit.now().since(instance.started);
        self.metrics.finished(unit, S::NAME, outcome, took, &instance.trace);
    }
}

/// The context of a deadline: a span of the saga's trace, or of one of its own if the saga began long ago.
fn woken<S: Saga>(unit: &mut Unit<'_>, instance: &Instance<S>) -> Trace {
    let (now, version) = (unit.now(), instance.version.to_string());
    let (of, words) = (&instance.trace, ["deadline", &version]);
    let span = trace::span_of(&words, instance.id);
    let own = match trace::is_late(instance.started, now) {
        true => of.apart(trace::trace_of(&words, instance.id), span),
        false => of.child(span),
    };
    if own.is_sampled() {
        let step = instance.step().unwrap_or_default();
        unit.tell(|| Span {
            name: format!("deadline {}", S::NAME),
            kind: SpanKind::Internal,
            parent: (own.id() == of.id()).then(|| of.clone()),
            links: if own.id() == of.id() { Vec::new() } else { vec![of.clone()] },
            trace: own.clone(),
            begun: now,
            ended: now,
            attributes: vec![
                ("saga.name", S::NAME.into()),
                ("saga.id", instance.id.to_string().into()),
                ("saga.step", step.into()),
                ("saga.attempt", i64::from(instance.attempt).into()),
            ],
            error: None,
        });
    }
    own
}

/// Appends a row to the instance's stream.
fn append<S: Saga>(
    unit: &mut Unit<'_>,
    meta: &Meta,
    instance: &mut Instance<S>,
    to: Option<(&'static str, String)>,
    event: Event,
) {
    instance.version += 1;
    let meta = Meta { correlation: Some(instance.id), ..meta.clone() };
    let (stream, version, payload) = (Instance::<S>::stream(instance.id), instance.version, event.encode());
    unit.append(&meta, New { stream, version, to, payload });
}
