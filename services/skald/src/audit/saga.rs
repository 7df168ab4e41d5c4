//! One saga's stream, replayed: each row must be what the table says to the row before it.
//!
//! Never here: SQL, other services. Only `decide` is borrowed from the table; what its states ask is written down once more. From
//! here the flow goes back to `order.rs`, which compares the end of the replay with the saga's row.

use contract::order::CancelReason;
use saga::{
    Decision, Word,
    order::{Input, State, decide},
};
use serde_json::Value;

use super::{
    snapshot::Entry,
    value::{digest, id, int, text},
};

/// The fold of one saga's stream.
#[derive(Clone, Debug)]
pub(super) struct Saga {
    pub definition: i64,
    pub state: State,
    pub reason: Option<CancelReason>,
    pub attempt: i64,
    pub stuck: bool,
    pub version: i64,
    pub started_us: i64,
    pub ended_us: Option<i64>,
    /// What the commands are made from, as the first move recorded it.
    pub context: u64,
    next: Next,
}

/// What the stream must go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Started,
    FirstMove,
    /// The command of the state.
    Command,
    /// Right after the command: a move, or the flag of being stuck.
    MoveOrStuck,
    Move,
    Ended,
    Nothing,
}

/// The step that waits in a state, and the type of its command; none where a saga has ended.
fn asked(state: State) -> Option<(&'static str, &'static str)> {
    match state {
        State::ReservingStock => Some(("reserve_stock", "product.ReserveStock")),
        State::AuthorizingPayment => Some(("authorize_payment", "payment.AuthorizePayment")),
        State::CapturingPayment => Some(("capture_payment", "payment.CapturePayment")),
        State::CommittingStock => Some(("commit_stock", "product.CommitStock")),
        State::VoidingPayment => Some(("void_payment", "payment.VoidPayment")),
        State::ReleasingStock => Some(("release_stock", "product.ReleaseStock")),
        State::Confirmed | State::Cancelled => None,
    }
}

impl Default for Saga {
    fn default() -> Self {
        Self {
            definition: 0,
            state: State::ReservingStock,
            reason: None,
            attempt: 0,
            stuck: false,
            version: 0,
            started_us: 0,
            ended_us: None,
            context: 0,
            next: Next::Started,
        }
    }
}

impl Saga {
    /// Takes the next row of the stream of the saga `saga_id`.
    pub(super) fn take(&mut self, saga_id: u128, entry: &Entry) -> Result<(), String> {
        self.version = entry.version;
        let data = &entry.data;
        match (self.next, entry.kind.as_str()) {
            (Next::Started, "saga.SagaStarted") => self.start(saga_id, entry),
            (Next::FirstMove, "saga.SagaMoved") => self.first_move(data),
            (Next::MoveOrStuck | Next::Move, "saga.SagaMoved") => self.moved(data),
            (Next::Command, kind) if asked(self.state).is_some_and(|(_, command)| command == kind) => {
                self.next = Next::MoveOrStuck;
                (id(data, "order_id") == saga_id).then_some(()).ok_or_else(|| format!("{kind} is about another order"))
            }
            (Next::MoveOrStuck, "saga.SagaStuck") => {
                (self.next, self.stuck) = (Next::Move, true);
                Ok(())
            }
            (Next::Ended, "saga.SagaEnded") => self.end(entry),
            (next, kind) => Err(format!("{kind} where the stream must go on with {next:?}")),
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.next == Next::Nothing
    }

    /// Whether the rows of its last move are all there: they come in one transaction.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.next, Next::MoveOrStuck | Next::Move | Next::Nothing)
    }

    /// What the row must hold: definition, state, reason, attempt, stuck, version, start and end.
    pub(super) fn columns(&self) -> (i64, &'static str, Option<&'static str>, i64, i64, i64, i64, Option<i64>) {
        let reason = self.reason.map(CancelReason::as_str);
        let (state, stuck) = (self.state.as_str(), i64::from(self.stuck));
        (self.definition, state, reason, self.attempt, stuck, self.version, self.started_us, self.ended_us)
    }

    fn start(&mut self, saga_id: u128, entry: &Entry) -> Result<(), String> {
        (self.definition, self.started_us) = (int(&entry.data, "definition"), entry.time_us);
        self.next = Next::FirstMove;
        if text(&entry.data, "saga") != "order" || id(&entry.data, "saga_id") != saga_id {
            return Err("SagaStarted names another saga".to_owned());
        }
        Ok(())
    }

    fn first_move(&mut self, data: &Value) -> Result<(), String> {
        (self.attempt, self.context) = (1, digest(&data["context"]));
        self.next = Next::Command;
        if data["input"] != "Started" || !data["from"].is_null() || text(data, "to") != self.state.as_str() {
            return Err("the first move is not the start".to_owned());
        }
        self.recorded(data)
    }

    fn moved(&mut self, data: &Value) -> Result<(), String> {
        let (from, to, word) = (text(data, "from"), text(data, "to"), data["input"].as_str().unwrap_or_default());
        let input = Input::parse(word).ok_or_else(|| format!("unknown input {word:?}"))?;
        let told = State::parse(to).ok_or_else(|| format!("unknown state {to:?}"))?;
        let before = std::mem::replace(&mut self.state, told);
        // What is wrong here is told once: the replay goes on from what the row says.
        self.attempt = if told == before { self.attempt + 1 } else { 1 };
        self.stuck &= told == before;
        self.next = if asked(told).is_some() { Next::Command } else { Next::Ended };
        if from != before.as_str() {
            return Err(format!("{word} from {from}, where the saga was in {}", before.as_str()));
        }
        let Decision::Moved { to: decided, reason } = decide(before, input) else {
            return Err(format!("{word} in {from} moved to {to}, where the table does not move"));
        };
        self.reason = self.reason.or(reason);
        if decided != told {
            return Err(format!("{word} in {from} moved to {to}, where the table moves to {}", decided.as_str()));
        }
        self.recorded(data)
    }

    /// Whether the row says of step, attempt and reason what the replay says.
    fn recorded(&self, data: &Value) -> Result<(), String> {
        let step = asked(self.state).map(|(step, _)| step);
        let reason = self.reason.map(CancelReason::as_str);
        if data["asked"].as_str() != step || int(data, "attempt") != self.attempt || data["reason"].as_str() != reason {
            return Err(format!("the move to {} tells of another step, attempt or reason", self.state.as_str()));
        }
        Ok(())
    }

    fn end(&mut self, entry: &Entry) -> Result<(), String> {
        (self.next, self.ended_us) = (Next::Nothing, Some(entry.time_us));
        let reason = self.reason.map(CancelReason::as_str);
        if text(&entry.data, "outcome") != self.state.as_str() || entry.data["reason"].as_str() != reason {
            return Err("SagaEnded tells of another end or reason".to_owned());
        }
        Ok(())
    }
}
