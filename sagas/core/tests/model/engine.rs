//! One running saga as `sagas/engine` runs it, around the production table: tries, the armed deadline, the flag for stuck.
//!
//! Never here: the table. From here the flow goes to the models, which send what is asked.

use contract::Fault;
use skald_saga::{
    Decision, Invariant, Kind, Saga,
    order::{Input, OrderSaga, State},
};

/// How often to ask; waits have no length here, because a deadline may pass at any time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub tries_max: u8,
    pub stuck_after: u8,
}

/// A deadline that a replica has found due and is about to act upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Timer {
    Quiet,
    /// It belongs to the present wait.
    Due,
    /// Something else moved the saga since.
    Stale,
}

/// One instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Instance {
    pub state: State,
    /// How often the present step was asked; counted up to one past the bound for stuck.
    pub attempt: u8,
    pub stuck: bool,
    pub armed: bool,
    pub timer: Timer,
}

/// What came of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    /// The command of the present state goes out, if it has one.
    Moved,
    Nothing,
    Broken(Invariant),
}

impl Instance {
    pub(crate) const STARTED: Self = Self { state: OrderSaga::START, attempt: 1, stuck: false, armed: true, timer: Timer::Quiet };

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state, State::Confirmed | State::Cancelled)
    }

    /// An input of a participant, a person or the deadline.
    pub(crate) fn apply(&mut self, patience: Patience, input: Input) -> Applied {
        let is_answer = OrderSaga::step(self.state).is_some_and(|step| input == step.done || Some(input) == step.refused);
        let decision = match Fault::StuckAtOnce.is_planted() && self.stuck {
            true => Decision::Ignored(skald_saga::Why::Late),
            false => OrderSaga::decide(self.state, input),
        };
        let to = match decision {
            Decision::Moved { to, .. } => to,
            Decision::Ignored(_) if self.stuck && is_answer => return Applied::Broken(Invariant::StuckGoesOn),
            Decision::Ignored(_) => return Applied::Nothing,
            Decision::Illegal => return Applied::Broken(Invariant::NoneIllegal),
        };
        if turns_back(self.state, input, to) {
            return Applied::Broken(Invariant::PivotOneWay);
        }
        let stays = to == self.state;
        self.attempt = if stays { (self.attempt + 1).min(patience.stuck_after + 1) } else { 1 };
        self.state = to;
        if self.timer == Timer::Due {
            self.timer = Timer::Stale;
        }
        if self.has_ended() {
            (self.armed, self.stuck, self.attempt) = (false, false, 0);
        } else {
            self.armed = true;
            self.stuck = (stays && self.stuck) || self.attempt > patience.stuck_after;
        }
        Applied::Moved
    }

    /// A replica looks for what is due, and finds it.
    pub(crate) fn look(&mut self) {
        if self.armed && self.timer == Timer::Quiet {
            self.timer = Timer::Due;
        }
    }

    /// That replica acts.
    pub(crate) fn deadline(&mut self, patience: Patience) -> Applied {
        let was = std::mem::replace(&mut self.timer, Timer::Quiet);
        let last = self.attempt >= patience.tries_max;
        let input = if last { OrderSaga::LAST_DEADLINE_PASSED } else { OrderSaga::DEADLINE_PASSED };
        match was {
            Timer::Quiet => Applied::Nothing,
            Timer::Stale if !Fault::StaleDeadline.is_planted() => Applied::Nothing,
            Timer::Stale => match self.apply(patience, input) {
                Applied::Moved => Applied::Broken(Invariant::DeadlineInItsWait),
                applied => applied,
            },
            Timer::Due => self.apply(patience, input),
        }
    }

    /// The order service dies and starts again: what its memory held is gone, what it had committed is not.
    pub(crate) fn crash(&mut self) {
        self.timer = Timer::Quiet;
        self.armed &= !Fault::DeadlineLost.is_planted();
    }

    /// What no state of an instance may break.
    pub(crate) fn broken(&self, patience: Patience) -> Option<Invariant> {
        let checks = [
            (Invariant::OpenHasDeadline, self.armed != self.has_ended()),
            (Invariant::StuckAfterBound, !self.stuck || self.attempt > patience.stuck_after),
        ];
        checks.into_iter().find(|(_, holds)| !holds).map(|(invariant, _)| invariant)
    }
}

/// Whether a saga leaves the pivot, or what follows it, for a compensation, and neither a final refusal nor an operator says so.
fn turns_back(from: State, input: Input, to: State) -> bool {
    let kind = |state| OrderSaga::step(state).map(|step| step.kind);
    let refused = OrderSaga::step(from).and_then(|step| step.refused);
    matches!(kind(from), Some(Kind::Pivot | Kind::Retriable))
        && (kind(to) == Some(Kind::Compensation) || to == State::Cancelled)
        && Some(input) != refused
        && input != Input::CompensationForced
}
