//! What a saga is: the trait that a table implements, and the words in which it decides.

use contract::Encoded;
use serde::{Serialize, de::DeserializeOwned};

use crate::{Word, words::words};

/// A saga: an explicit state machine whose every cell is decided.
pub trait Saga: Send + Sync + 'static {
    /// The name in streams, metrics and the console.
    const NAME: &'static str;
    /// The version of the table. Stored instances carry theirs; a changed table is a new version.
    const DEFINITION: u16;
    /// Where an instance begins.
    const START: Self::State;
    /// Every step and compensation of the table.
    const STEPS: &'static [Step<Self::State, Self::Input>];
    /// The input for a deadline that passed while tries are left …
    const DEADLINE_PASSED: Self::Input;
    /// … and for the last one.
    const LAST_DEADLINE_PASSED: Self::Input;

    type State: Word;
    type Input: Word;
    type Reason: Word;
    /// What the commands are made from; recorded once, when an instance starts.
    type Context: Serialize + DeserializeOwned + Clone + Send + Sync + 'static;

    /// Decides one cell. Total: every pair has an answer.
    fn decide(state: Self::State, input: Self::Input) -> Decision<Self::State, Self::Reason>;

    /// The command that is asked in a state; `None` where an instance has ended.
    fn command(state: Self::State, context: &Self::Context) -> Option<Outbound>;

    /// The step that waits in a state; `None` where an instance has ended.
    fn step(state: Self::State) -> Option<&'static Step<Self::State, Self::Input>> {
        Self::STEPS.iter().find(|step| step.state == state)
    }
}

/// What a table says to an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision<State, Reason> {
    /// Go to `to` and ask what is asked there; staying means to ask again. The first `reason` of an instance is kept.
    Moved { to: State, reason: Option<Reason> },
    /// Nothing follows, and that is right.
    Ignored(Why),
    /// Nobody asked for this: the sender is wrong. The message becomes a dead letter.
    Illegal,
}

words! {
    /// Why an input has no effect. A metric label.
    pub enum Why {
        /// It was acted upon before.
        Repeated,
        /// The instance went another way before it came.
        Late,
        /// The deadline belongs to a wait that is over.
        Stale,
        /// The pivot is passed: there is no way back.
        TooLate,
        /// It is being compensated already.
        Compensating,
        /// The instance has ended.
        Ended,
        /// The verb is not for this state.
        NotAllowed,
    }
}

/// One row of a table.
#[derive(Clone, Copy, Debug)]
pub struct Step<State, Input> {
    /// Such as `reserve_stock`: log key, metric label, what an operator reads.
    pub name: &'static str,
    /// The state that waits for the reply.
    pub state: State,
    /// The type name of the command.
    pub asks: &'static str,
    pub done: Input,
    pub refused: Option<Input>,
    pub unanswered: Patience,
    /// The step that takes it back.
    pub compensation: Option<&'static str>,
    pub kind: Kind,
}

/// What happens when no answer comes in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Ask again a bounded number of times, then compensate: an unknown outcome may have happened.
    AskThenCompensate,
    /// Ask again with a growing wait, never give up, flag as stuck after a bound.
    AskForEver,
}

/// A step's place in the saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Compensable,
    /// The point of no return; at most one.
    Pivot,
    Retriable,
    Compensation,
}

/// A command on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    pub topic: &'static str,
    pub key: String,
    pub payload: Encoded,
}
