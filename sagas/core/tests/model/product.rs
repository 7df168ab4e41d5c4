//! The product service's reservation of one order, after `services/product/src/domain/reservation.rs`: one line of one piece.
//!
//! Never here: messages, which the models carry. What the service does with real lines the simulation runs.

use contract::Fault;
use skald_saga::order::{Input, State};

/// Where the reservation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Reservation {
    New,
    Reserved,
    Refused,
    Committed,
    /// Nothing was held: a tombstone.
    ReleasedNothing,
    /// What was held or sold went back.
    ReleasedBack,
}

/// What a command leads to: the state after it, how many pieces go back to the shelf, and the reply.
pub(crate) type Answer = (Reservation, i8, Option<Input>);

impl Reservation {
    /// The pieces that are held or sold.
    pub(crate) fn pieces(self) -> i8 {
        i8::from(matches!(self, Self::Reserved | Self::Committed))
    }

    /// Answers the command that the saga sends in `asked`; `None` for one that can never be right.
    pub(crate) fn answer(self, asked: State, is_free: bool) -> Option<Answer> {
        match asked {
            State::ReservingStock => Some(self.reserve(is_free)),
            State::ReleasingStock => Some(self.release()),
            State::CommittingStock => self.commit(),
            other => unreachable!("{other:?} asks nothing of product"),
        }
    }

    fn reserve(self, is_free: bool) -> Answer {
        match self {
            Self::New if is_free => (Self::Reserved, -1, Some(Input::StockReserved)),
            Self::New => (Self::Refused, 0, Some(Input::StockRefused)),
            Self::Reserved | Self::Committed => (self, 0, again(Input::StockReserved)),
            Self::Refused => (self, 0, again(Input::StockRefused)),
            Self::ReleasedNothing | Self::ReleasedBack => (self, 0, Some(Input::StockRefused)),
        }
    }

    fn release(self) -> Answer {
        let released = Some(Input::StockReleased);
        match self {
            Self::New if Fault::StockTombstoneForgotten.is_planted() => (Self::New, 0, released),
            Self::New | Self::Refused => (Self::ReleasedNothing, 0, released),
            Self::Reserved | Self::Committed => (Self::ReleasedBack, 1, released),
            Self::ReleasedNothing => (self, 0, again(Input::StockReleased)),
            Self::ReleasedBack => (self, i8::from(Fault::ReleaseTwice.is_planted()), again(Input::StockReleased)),
        }
    }

    fn commit(self) -> Option<Answer> {
        match self {
            Self::Reserved => Some((Self::Committed, 0, Some(Input::StockCommitted))),
            Self::Committed => Some((self, 0, again(Input::StockCommitted))),
            Self::New | Self::Refused | Self::ReleasedNothing | Self::ReleasedBack => None,
        }
    }
}

/// The recorded reply, given again.
pub(crate) fn again(reply: Input) -> Option<Input> {
    (!Fault::ReplyForgotten.is_planted()).then_some(reply)
}
