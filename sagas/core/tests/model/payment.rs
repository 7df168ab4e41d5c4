//! The payment service's payment of one order, after `services/payment/src/domain.rs`, and a provider whose calls may take effect at any
//! time after they went out and whose answers may never come.
//!
//! Never here: messages, which the models carry; amounts, which are all one. What the service does with money the simulation runs.

use contract::Fault;
use skald_saga::order::{Input, State};

use crate::product::again;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Status {
    Nothing,
    Pending,
    Authorized,
    Declined,
    Captured,
    CaptureRefused,
    Voided,
}

/// A call to the provider. Its key holds the order and this, never the try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Operation {
    Authorize,
    Capture,
    Void,
    Refund,
}

pub(crate) const OPERATIONS: [Operation; 4] = [Operation::Authorize, Operation::Capture, Operation::Void, Operation::Refund];

/// What the service has recorded, and what happened at the provider, whether the service knows it or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Payment {
    pub status: Status,
    /// The call whose answer is waited for.
    pub open: Option<Operation>,
    pub void_requested: bool,
    /// By operation: whether a call went out; it may come to the provider, and come again, whenever it likes.
    pub called: [bool; 4],
    /// By operation: the provider's last word on the key.
    pub verdicts: [Option<bool>; 4],
    /// At the provider. More than one only where something is wrong.
    pub holds: u8,
    pub captures: u8,
    pub refunds: u8,
}

/// Up to two replies follow one step.
pub(crate) type Replies = [Option<Input>; 2];

const SILENT: Replies = [None, None];

impl Payment {
    pub(crate) const NEW: Self = Self {
        status: Status::Nothing,
        open: None,
        void_requested: false,
        called: [false; 4],
        verdicts: [None; 4],
        holds: 0,
        captures: 0,
        refunds: 0,
    };

    /// Answers the command that the saga sends in `asked`; `None` for one that can never be right.
    pub(crate) fn answer(&mut self, asked: State) -> Option<Replies> {
        match asked {
            State::AuthorizingPayment => Some(self.authorize()),
            State::CapturingPayment => self.capture(),
            State::VoidingPayment => Some(self.void()),
            other => unreachable!("{other:?} asks nothing of payment"),
        }
    }

    fn authorize(&mut self) -> Replies {
        if self.open.is_some() {
            return SILENT;
        }
        match self.status {
            Status::Nothing | Status::Pending => self.intend(Operation::Authorize),
            Status::Authorized | Status::Captured | Status::CaptureRefused => [again(Input::PaymentAuthorized), None],
            Status::Declined => [again(Input::PaymentDeclined), None],
            Status::Voided => [Some(Input::PaymentDeclined), None],
        }
    }

    fn capture(&mut self) -> Option<Replies> {
        if self.open == Some(Operation::Capture) {
            return Some(SILENT);
        }
        if self.void_requested {
            return Some([Some(Input::CaptureRefused), None]);
        }
        match self.status {
            Status::Authorized => Some(self.intend(Operation::Capture)),
            Status::Captured => Some([again(Input::PaymentCaptured), None]),
            Status::CaptureRefused => Some([again(Input::CaptureRefused), None]),
            Status::Nothing | Status::Pending | Status::Declined | Status::Voided => None,
        }
    }

    fn void(&mut self) -> Replies {
        if self.open.is_some() {
            self.void_requested = true;
            return SILENT;
        }
        match self.status {
            Status::Authorized | Status::CaptureRefused => self.intend(Operation::Void),
            Status::Captured => self.intend(Operation::Refund),
            Status::Voided => [again(Input::PaymentVoided), None],
            Status::Nothing if Fault::PaymentTombstoneForgotten.is_planted() => [Some(Input::PaymentVoided), None],
            Status::Nothing | Status::Pending | Status::Declined => [Some(self.voided()), None],
        }
    }

    fn intend(&mut self, operation: Operation) -> Replies {
        self.open = Some(operation);
        self.called[operation as usize] = true;
        match operation {
            Operation::Authorize => self.status = Status::Pending,
            Operation::Capture => {}
            Operation::Void | Operation::Refund => self.void_requested = true,
        }
        SILENT
    }

    fn voided(&mut self) -> Input {
        (self.status, self.open, self.void_requested) = (Status::Voided, None, true);
        Input::PaymentVoided
    }

    /// Whether a call of this operation, arriving now, has an effect.
    pub(crate) fn would_take_effect(&self, operation: Operation) -> bool {
        let index = operation as usize;
        self.called[index] && (self.verdicts[index].is_none() || Fault::KeyWithAttempt.is_planted())
    }

    /// A call comes to the provider, which says yes or no: to its key, once and for all.
    pub(crate) fn arrive(&mut self, operation: Operation, says_yes: bool) {
        let first = self.verdicts[operation as usize].is_none();
        if first {
            self.verdicts[operation as usize] = Some(says_yes);
        }
        if !says_yes || (!first && !Fault::KeyWithAttempt.is_planted()) {
            return;
        }
        let up = |count: u8| (count + 1).min(2);
        match operation {
            Operation::Authorize => self.holds = up(self.holds),
            Operation::Capture => (self.holds, self.captures) = (self.holds.saturating_sub(1), up(self.captures)),
            Operation::Void => self.holds = self.holds.saturating_sub(1),
            Operation::Refund => self.refunds = up(self.refunds),
        }
    }

    /// The provider's answer to the open call, if it has one.
    pub(crate) fn verdict(&self) -> Option<(Operation, bool)> {
        let operation = self.open?;
        Some((operation, self.verdicts[operation as usize]?))
    }

    /// The open call is answered.
    pub(crate) fn settle(&mut self, operation: Operation, says_yes: bool) -> Replies {
        self.open = None;
        let (status, reply) = match (operation, says_yes) {
            (Operation::Authorize, true) => (Status::Authorized, Input::PaymentAuthorized),
            (Operation::Authorize, false) => (Status::Declined, Input::PaymentDeclined),
            (Operation::Capture, true) => (Status::Captured, Input::PaymentCaptured),
            (Operation::Capture, false) => (Status::CaptureRefused, Input::CaptureRefused),
            (Operation::Void | Operation::Refund, _) => return [Some(self.voided()), None],
        };
        self.status = status;
        if !self.void_requested {
            return [Some(reply), None];
        }
        match status {
            Status::Declined => return [Some(reply), Some(self.voided())],
            Status::Captured => self.intend(Operation::Refund),
            _ => self.intend(Operation::Void),
        };
        [Some(reply), None]
    }
}
