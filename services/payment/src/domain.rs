//! The rules of one payment: what a command, or the provider's answer, leads to.
//!
//! Never here: I/O, clocks, randomness, SQL. From here the flow goes to `handler.rs`, which appends what was decided, and to
//! `caller.rs`, which makes the calls that were intended.

use contract::{
    Fault, Money, OrderId,
    envelope::Repeated,
    payment::{
        CallIntended, CaptureRefused, Event, Operation, PaymentAuthorized, PaymentCaptured, PaymentDeclined, PaymentVoided,
        VoidRequested,
    },
};

/// The code of a declined authorization where the void came first.
pub const ALREADY_VOIDED: &str = "already_voided";
/// The code of a refused capture where the void came first.
pub const VOIDED: &str = "voided";

/// What is settled about a payment. An open call is told apart by [`Payment::open`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// Nothing was ever asked.
    #[default]
    Nothing,
    /// The authorization was asked and not answered.
    Pending,
    Authorized,
    Declined,
    Captured,
    /// The hold may stand, but will never be captured.
    CaptureRefused,
    /// The end: nothing held, nothing taken. Also the tombstone of a payment that never was.
    Voided,
}

impl Status {
    pub const ALL: [Self; 7] =
        [Self::Nothing, Self::Pending, Self::Authorized, Self::Declined, Self::Captured, Self::CaptureRefused, Self::Voided];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Pending => "pending",
            Self::Authorized => "authorized",
            Self::Declined => "declined",
            Self::Captured => "captured",
            Self::CaptureRefused => "capture_refused",
            Self::Voided => "voided",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

/// One payment, as its stream tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    pub order_id: OrderId,
    pub status: Status,
    /// The call whose answer is waited for; at most one at a time.
    pub open: Option<Operation>,
    /// The payment is to end with nothing held and nothing taken.
    pub void_requested: bool,
    /// What the authorization was asked for; none where only a tombstone stands.
    pub amount: Option<Money>,
    pub declined_code: Option<String>,
    pub refused_code: Option<String>,
    pub captured_minor: i64,
    pub refunded_minor: i64,
    /// Of the stream's newest row.
    pub version: i64,
}

/// A definitive answer of the provider. Each settles one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Authorized,
    Declined(String),
    Captured,
    CaptureRefused(String),
    Voided,
    Refunded,
}

impl Verdict {
    /// The operation that this is an answer to.
    pub fn operation(&self) -> Operation {
        match self {
            Self::Authorized | Self::Declined(_) => Operation::Authorize,
            Self::Captured | Self::CaptureRefused(_) => Operation::Capture,
            Self::Voided => Operation::Void,
            Self::Refunded => Operation::Refund,
        }
    }

    /// What came of it in one word, and the provider's reason where it refused.
    pub fn outcome(&self) -> (&'static str, Option<&str>) {
        match self {
            Self::Authorized => ("authorized", None),
            Self::Declined(why) => ("declined", Some(why)),
            Self::Captured => ("captured", None),
            Self::CaptureRefused(why) => ("capture_refused", Some(why)),
            Self::Voided => ("voided", None),
            Self::Refunded => ("refunded", None),
        }
    }
}

/// What a payment reacts to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    Authorize(Money),
    Capture,
    Void,
    Settle(Verdict),
}

/// A command that can't be right in this state, however often it is repeated. Its message becomes a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The capture was asked, but no authorization stands.
    NeverAuthorized,
    /// A second authorization of the same order, over another amount.
    OtherAmount,
    /// Nobody pays less than nothing: it could neither be captured nor given back.
    Negative,
}

impl Refusal {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NeverAuthorized => "the payment was never authorized",
            Self::OtherAmount => "the payment was asked for with another amount before",
            Self::Negative => "the payment was asked for with an amount below zero",
        }
    }
}

/// Nothing is asked of the provider for nothing: most refuse an amount of zero, and there is nothing to hold, to take or to give back.
fn is_free(amount: Money) -> bool {
    amount.amount_minor == 0
}

const FIRST: Repeated = Repeated(false);
const AGAIN: Repeated = Repeated(true);

impl Payment {
    pub fn new(order_id: OrderId) -> Self {
        Self {
            order_id,
            status: Status::Nothing,
            open: None,
            void_requested: false,
            amount: None,
            declined_code: None,
            refused_code: None,
            captured_minor: 0,
            refunded_minor: 0,
            version: 0,
        }
    }

    /// Decides one input. No event: there is nothing to say, now or ever.
    ///
    /// # Errors
    /// A [`Refusal`] means that the sender is wrong; nothing changes.
    pub fn decide(&self, input: Input) -> Result<Vec<Event>, Refusal> {
        match input {
            Input::Authorize(amount) => self.authorize(amount),
            Input::Capture => self.capture(),
            Input::Void => Ok(self.void()),
            Input::Settle(verdict) if self.open == Some(verdict.operation()) => Ok(self.settle(verdict)),
            // The answer to a call that was settled before: asked twice, under one key.
            Input::Settle(_) => Ok(Vec::new()),
        }
    }

    fn authorize(&self, amount: Money) -> Result<Vec<Event>, Refusal> {
        if amount.amount_minor < 0 {
            return Err(Refusal::Negative);
        }
        if self.amount.is_some_and(|asked| asked != amount) {
            return Err(Refusal::OtherAmount);
        }
        if self.open.is_some() {
            return Ok(Vec::new());
        }
        Ok(match self.status {
            Status::Nothing if is_free(amount) => vec![self.authorized(amount, FIRST)],
            Status::Nothing | Status::Pending => vec![self.intend(Operation::Authorize, amount)],
            Status::Authorized | Status::Captured | Status::CaptureRefused => vec![self.authorized(amount, AGAIN)],
            Status::Declined | Status::Voided => {
                let code = self.declined_code.as_deref();
                vec![self.declined(code.unwrap_or(ALREADY_VOIDED), Repeated(code.is_some()))]
            }
        })
    }

    fn capture(&self) -> Result<Vec<Event>, Refusal> {
        if self.open == Some(Operation::Capture) {
            return Ok(Vec::new());
        }
        // Also where it was captured and then refunded: whoever asks now must not take the money for taken.
        if self.void_requested {
            let code = self.refused_code.as_deref();
            return Ok(vec![self.refused(code.unwrap_or(VOIDED), Repeated(code.is_some()))]);
        }
        match (self.status, self.amount) {
            (Status::Authorized, Some(amount)) if is_free(amount) => Ok(vec![self.captured(amount, FIRST)]),
            (Status::Authorized, Some(amount)) => Ok(vec![self.intend(Operation::Capture, amount)]),
            (Status::Captured, Some(amount)) => Ok(vec![self.captured(amount, AGAIN)]),
            (Status::CaptureRefused, _) => Ok(vec![self.refused(self.refused_code.as_deref().unwrap_or_default(), AGAIN)]),
            _ => Err(Refusal::NeverAuthorized),
        }
    }

    fn void(&self) -> Vec<Event> {
        if self.open.is_some() {
            // What is open is settled first; its answer decides how to end.
            return if self.void_requested { Vec::new() } else { vec![VoidRequested { order_id: self.order_id }.into()] };
        }
        match (self.status, self.amount) {
            (Status::Authorized | Status::CaptureRefused | Status::Captured, Some(amount)) if is_free(amount) => {
                vec![self.voided(FIRST, None)]
            }
            (Status::Authorized | Status::CaptureRefused, Some(amount)) => vec![self.intend(Operation::Void, amount)],
            (Status::Captured, Some(amount)) if !Fault::RefundForgotten.is_planted() => {
                vec![self.intend(Operation::Refund, amount)]
            }
            (Status::Voided, _) => vec![self.voided(AGAIN, self.refunded())],
            // It never happened, or the provider said no.
            _ => vec![self.voided(FIRST, None)],
        }
    }

    fn settle(&self, verdict: Verdict) -> Vec<Event> {
        let amount = self.amount.expect("a call was intended with an amount");
        let (settled, to_end) = match verdict {
            Verdict::Authorized => (self.authorized(amount, FIRST), self.intend(Operation::Void, amount)),
            Verdict::Declined(code) => (self.declined(&code, FIRST), self.voided(FIRST, None)),
            Verdict::Captured => (self.captured(amount, FIRST), self.intend(Operation::Refund, amount)),
            Verdict::CaptureRefused(code) => (self.refused(&code, FIRST), self.intend(Operation::Void, amount)),
            Verdict::Voided => return vec![self.voided(FIRST, None)],
            Verdict::Refunded => return vec![self.voided(FIRST, Some(amount))],
        };
        if self.void_requested { vec![settled, to_end] } else { vec![settled] }
    }

    /// What one recorded event makes of the payment.
    pub fn evolve(&mut self, event: &Event) {
        self.version += 1;
        match event {
            Event::CallIntended(call) => {
                self.open = Some(call.operation);
                match call.operation {
                    Operation::Authorize => (self.status, self.amount) = (Status::Pending, Some(call.amount)),
                    Operation::Capture => {}
                    Operation::Void | Operation::Refund => self.void_requested = true,
                }
            }
            Event::VoidRequested(_) => self.void_requested = true,
            Event::PaymentAuthorized(reply) if reply.repeated.is_first() => {
                // Of nothing it was authorized without a call.
                self.amount.get_or_insert(reply.amount);
                self.close(Status::Authorized);
            }
            Event::PaymentDeclined(reply) if reply.repeated.is_first() => {
                self.declined_code = Some(reply.code.clone());
                // Else a tombstone refused a late command, and still stands.
                if self.open == Some(Operation::Authorize) {
                    self.close(Status::Declined);
                }
            }
            Event::PaymentCaptured(reply) if reply.repeated.is_first() => {
                self.captured_minor += reply.amount.amount_minor;
                self.close(Status::Captured);
            }
            Event::CaptureRefused(reply) if reply.repeated.is_first() => {
                self.refused_code = Some(reply.code.clone());
                if self.open == Some(Operation::Capture) {
                    self.close(Status::CaptureRefused);
                }
            }
            Event::PaymentVoided(reply) if reply.repeated.is_first() => {
                self.refunded_minor += reply.refunded.map_or(0, |refunded| refunded.amount_minor);
                self.void_requested = true;
                self.close(Status::Voided);
            }
            Event::PaymentAuthorized(_)
            | Event::PaymentDeclined(_)
            | Event::PaymentCaptured(_)
            | Event::CaptureRefused(_)
            | Event::PaymentVoided(_) => {}
        }
    }

    fn close(&mut self, status: Status) {
        (self.status, self.open) = (status, None);
    }

    /// What went back; none where nothing had been taken.
    pub fn refunded(&self) -> Option<Money> {
        self.amount.filter(|_| self.refunded_minor > 0).map(|amount| Money::new(self.refunded_minor, amount.currency))
    }

    fn intend(&self, operation: Operation, amount: Money) -> Event {
        CallIntended { order_id: self.order_id, operation, amount }.into()
    }

    fn authorized(&self, amount: Money, repeated: Repeated) -> Event {
        PaymentAuthorized { order_id: self.order_id, amount, repeated }.into()
    }

    fn declined(&self, code: &str, repeated: Repeated) -> Event {
        PaymentDeclined { order_id: self.order_id, code: code.to_owned(), repeated }.into()
    }

    fn captured(&self, amount: Money, repeated: Repeated) -> Event {
        PaymentCaptured { order_id: self.order_id, amount, repeated }.into()
    }

    fn refused(&self, code: &str, repeated: Repeated) -> Event {
        CaptureRefused { order_id: self.order_id, code: code.to_owned(), repeated }.into()
    }

    fn voided(&self, repeated: Repeated, refunded: Option<Money>) -> Event {
        PaymentVoided { order_id: self.order_id, refunded, repeated }.into()
    }
}

#[cfg(test)]
#[path = "domain_tests.rs"]
mod tests;
