//! The order saga: from a placed order to a confirmed or a cancelled one.
//!
//! Read the table, then the match under it: each line says what happens in a state when something comes in. Nothing is decided
//! anywhere else. The engine (`sagas/engine`) sends what is asked; the participants are `services/product` and `services/payment`.

use contract::{
    CustomerId, Money, OrderId,
    order::CancelReason,
    payment::{self, AuthorizePayment, CapturePayment, VoidPayment},
    product::{self, CommitStock, ReleaseStock, ReserveStock, StockLine},
    topics,
};
use serde::{Deserialize, Serialize};

use crate::{Decision, Kind, Outbound, Patience, Saga, Step, Why, words::words};
use CancelReason::{CancelledByCustomer, CancelledByOperator, OutOfStock, PaymentTimeout, StockTimeout};
use Input::*;
use Kind::*;
use Patience::{AskForEver, AskThenCompensate};
use State::*;

// ---------------------------------------------------------------- The table

/// One row a step, in order; under them the two compensations. Unanswered: a reply that does not come in time leaves the
/// outcome unknown, and unknown is compensated too.
#[rustfmt::skip]
pub const STEPS: [Step<State, Input>; 6] = [
    //   step                 waits in            asks                        done               refused                 unanswered         compensation           kind
    step("reserve_stock",     ReservingStock,     "product.ReserveStock",     StockReserved,     Some(StockRefused),     AskThenCompensate, Some("release_stock"), Compensable),
    step("authorize_payment", AuthorizingPayment, "payment.AuthorizePayment", PaymentAuthorized, Some(PaymentDeclined),  AskThenCompensate, Some("void_payment"),  Compensable),
    step("capture_payment",   CapturingPayment,   "payment.CapturePayment",   PaymentCaptured,   Some(CaptureRefused),   AskForEver,        None,                  Pivot),
    step("commit_stock",      CommittingStock,    "product.CommitStock",      StockCommitted,    None,                   AskForEver,        None,                  Retriable),
    step("void_payment",      VoidingPayment,     "payment.VoidPayment",      PaymentVoided,     None,                   AskForEver,        None,                  Compensation),
    step("release_stock",     ReleasingStock,     "product.ReleaseStock",     StockReleased,     None,                   AskForEver,        None,                  Compensation),
];

words! {
    /// Where an order's saga is. The first four wait for a step, the next two for a compensation; the last two are its ends.
    pub enum State {
        ReservingStock,
        AuthorizingPayment,
        CapturingPayment,
        CommittingStock,
        VoidingPayment,
        ReleasingStock,
        Confirmed,
        Cancelled,
    }
}

words! {
    /// What can come in: replies of product and payment, deadlines, a customer's cancel, an operator's verbs.
    pub enum Input {
        StockReserved,
        StockRefused,
        PaymentAuthorized,
        PaymentDeclined,
        PaymentCaptured,
        CaptureRefused,
        StockCommitted,
        PaymentVoided,
        StockReleased,
        /// No answer in time; tries are left.
        DeadlinePassed,
        /// No answer in time, and that was the last try.
        LastDeadlinePassed,
        /// The customer wants out.
        CancelAsked,
        /// An operator: ask once more, now.
        RetryAsked,
        /// An operator: end it with nothing held and nothing taken.
        CompensationForced,
        /// An operator: go on as if this step had been answered. A waiver.
        StepSkipped,
        /// An operator: end it on the way it is going. A waiver.
        CompletionForced,
    }
}

/// What follows when `input` comes while the order is in `state`.
#[rustfmt::skip]
pub fn decide(state: State, input: Input) -> Decision<State, CancelReason> {
    match (state, input) {
        // Stock is asked for. Until the answer comes it may or may not be held.
        (ReservingStock, StockReserved)                           => go(AuthorizingPayment),
        (ReservingStock, StockRefused)                            => compensate(Cancelled, OutOfStock),
        (ReservingStock, DeadlinePassed | RetryAsked)             => go(ReservingStock),
        (ReservingStock, LastDeadlinePassed)                      => compensate(ReleasingStock, StockTimeout),
        (ReservingStock, CancelAsked)                             => compensate(ReleasingStock, CancelledByCustomer),
        (ReservingStock, CompensationForced)                      => compensate(ReleasingStock, CancelledByOperator),
        (ReservingStock, StepSkipped | CompletionForced)          => ignore(Why::NotAllowed),
        (ReservingStock, PaymentAuthorized | PaymentDeclined | PaymentCaptured | CaptureRefused
            | StockCommitted | PaymentVoided | StockReleased)     => Decision::Illegal,

        // Stock is held; the money is asked for.
        (AuthorizingPayment, PaymentAuthorized)                   => go(CapturingPayment),
        (AuthorizingPayment, PaymentDeclined)                     => compensate(ReleasingStock, CancelReason::PaymentDeclined),
        (AuthorizingPayment, DeadlinePassed | RetryAsked)         => go(AuthorizingPayment),
        (AuthorizingPayment, LastDeadlinePassed)                  => compensate(VoidingPayment, PaymentTimeout),
        (AuthorizingPayment, CancelAsked)                         => compensate(VoidingPayment, CancelledByCustomer),
        (AuthorizingPayment, CompensationForced)                  => compensate(VoidingPayment, CancelledByOperator),
        (AuthorizingPayment, StepSkipped | CompletionForced)      => ignore(Why::NotAllowed),
        (AuthorizingPayment, StockReserved)                       => ignore(Why::Repeated),
        (AuthorizingPayment, StockRefused | PaymentCaptured | CaptureRefused
            | StockCommitted | PaymentVoided | StockReleased)     => Decision::Illegal,

        // The pivot: once captured, the order will be confirmed. A customer's cancel comes too late from here on.
        (CapturingPayment, PaymentCaptured)                       => go(CommittingStock),
        (CapturingPayment, CaptureRefused)                        => compensate(VoidingPayment, CancelReason::CaptureRefused),
        (CapturingPayment, DeadlinePassed | LastDeadlinePassed
            | RetryAsked)                                         => go(CapturingPayment),
        (CapturingPayment, CancelAsked)                           => ignore(Why::TooLate),
        (CapturingPayment, CompensationForced)                    => compensate(VoidingPayment, CancelledByOperator),
        (CapturingPayment, StepSkipped | CompletionForced)        => ignore(Why::NotAllowed),
        (CapturingPayment, StockReserved | PaymentAuthorized)     => ignore(Why::Repeated),
        (CapturingPayment, StockRefused | PaymentDeclined
            | StockCommitted | PaymentVoided | StockReleased)     => Decision::Illegal,

        // Paid. What is left can only succeed.
        (CommittingStock, StockCommitted)                         => go(Confirmed),
        (CommittingStock, DeadlinePassed | LastDeadlinePassed
            | RetryAsked)                                         => go(CommittingStock),
        (CommittingStock, CancelAsked)                            => ignore(Why::TooLate),
        (CommittingStock, CompensationForced)                     => compensate(VoidingPayment, CancelledByOperator),
        (CommittingStock, StepSkipped | CompletionForced)         => go(Confirmed),
        (CommittingStock, StockReserved | PaymentAuthorized
            | PaymentCaptured)                                    => ignore(Why::Repeated),
        (CommittingStock, StockRefused | PaymentDeclined | CaptureRefused
            | PaymentVoided | StockReleased)                      => Decision::Illegal,

        // Compensating: the payment ends with nothing held and nothing taken, whatever happened to it.
        (VoidingPayment, PaymentVoided)                           => go(ReleasingStock),
        (VoidingPayment, DeadlinePassed | LastDeadlinePassed
            | RetryAsked)                                         => go(VoidingPayment),
        (VoidingPayment, CancelAsked | CompensationForced)        => ignore(Why::Compensating),
        (VoidingPayment, StepSkipped)                             => go(ReleasingStock),
        (VoidingPayment, CompletionForced)                        => go(Cancelled),
        (VoidingPayment, StockReserved)                           => ignore(Why::Repeated),
        (VoidingPayment, PaymentAuthorized | PaymentDeclined | PaymentCaptured
            | CaptureRefused | StockCommitted)                    => ignore(Why::Late),
        (VoidingPayment, StockRefused | StockReleased)            => Decision::Illegal,

        // Compensating: the stock ends with nothing held. A late reply to anything that was asked changes nothing.
        (ReleasingStock, StockReleased)                           => go(Cancelled),
        (ReleasingStock, DeadlinePassed | LastDeadlinePassed
            | RetryAsked)                                         => go(ReleasingStock),
        (ReleasingStock, CancelAsked | CompensationForced)        => ignore(Why::Compensating),
        (ReleasingStock, StepSkipped | CompletionForced)          => go(Cancelled),
        (ReleasingStock, StockReserved | StockRefused | PaymentAuthorized | PaymentDeclined | PaymentCaptured
            | CaptureRefused | StockCommitted | PaymentVoided)    => ignore(Why::Late),

        // The good end.
        (Confirmed, CancelAsked)                                  => ignore(Why::TooLate),
        (Confirmed, DeadlinePassed | LastDeadlinePassed)          => ignore(Why::Stale),
        (Confirmed, RetryAsked | CompensationForced | StepSkipped
            | CompletionForced)                                   => ignore(Why::Ended),
        (Confirmed, StockReserved | PaymentAuthorized | PaymentCaptured
            | StockCommitted)                                     => ignore(Why::Repeated),
        (Confirmed, StockRefused | PaymentDeclined | CaptureRefused
            | PaymentVoided | StockReleased)                      => Decision::Illegal,

        // The other end: nothing held, nothing taken.
        (Cancelled, DeadlinePassed | LastDeadlinePassed)          => ignore(Why::Stale),
        (Cancelled, CancelAsked | RetryAsked | CompensationForced | StepSkipped
            | CompletionForced)                                   => ignore(Why::Ended),
        (Cancelled, StockReserved | StockRefused | PaymentAuthorized | PaymentDeclined | PaymentCaptured
            | CaptureRefused | StockCommitted | PaymentVoided | StockReleased) => ignore(Why::Late),
    }
}

// ---------------------------------------------------------------- The commands

/// What the saga's commands are made from: the order as it was placed, and what pays for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    pub order_id: OrderId,
    pub customer_id: CustomerId,
    pub lines: Vec<StockLine>,
    pub total: Money,
    /// A single-use token of the payment provider.
    pub payment_token: String,
}

/// The order saga, as the engine runs it.
#[derive(Debug)]
pub struct OrderSaga;

impl Saga for OrderSaga {
    const NAME: &'static str = "order";
    const DEFINITION: u16 = 1;
    const START: State = ReservingStock;
    const STEPS: &'static [Step<State, Input>] = &STEPS;
    const DEADLINE_PASSED: Input = DeadlinePassed;
    const LAST_DEADLINE_PASSED: Input = LastDeadlinePassed;

    type State = State;
    type Input = Input;
    type Reason = CancelReason;
    type Context = Context;

    fn decide(state: State, input: Input) -> Decision<State, CancelReason> {
        #[cfg(feature = "planted")]
        if let Some(planted) = crate::planted::decide(state, input) {
            return planted;
        }
        decide(state, input)
    }

    fn command(state: State, context: &Context) -> Option<Outbound> {
        let Context { order_id, customer_id, total: amount, .. } = *context;
        let to_product = |command: product::Command| (topics::PRODUCT_COMMANDS, command.encode());
        let to_payment = |command: payment::Command| (topics::PAYMENT_COMMANDS, command.encode());
        let (topic, payload) = match state {
            ReservingStock => to_product(ReserveStock { order_id, lines: context.lines.clone() }.into()),
            AuthorizingPayment => {
                to_payment(AuthorizePayment { order_id, customer_id, amount, token: context.payment_token.clone() }.into())
            }
            CapturingPayment => to_payment(CapturePayment { order_id }.into()),
            CommittingStock => to_product(CommitStock { order_id }.into()),
            VoidingPayment => to_payment(VoidPayment { order_id }.into()),
            ReleasingStock => to_product(ReleaseStock { order_id }.into()),
            Confirmed | Cancelled => return None,
        };
        Some(Outbound { topic, key: order_id.to_string(), payload })
    }
}

/// The input that an event of the product service is; `None` for those about the catalogue.
pub fn product_reply(event: &product::Event) -> Option<(OrderId, Input)> {
    match event {
        product::Event::StockReserved(reply) => Some((reply.order_id, StockReserved)),
        product::Event::StockRefused(reply) => Some((reply.order_id, StockRefused)),
        product::Event::StockReleased(reply) => Some((reply.order_id, StockReleased)),
        product::Event::StockCommitted(reply) => Some((reply.order_id, StockCommitted)),
        product::Event::ProductAdded(_)
        | product::Event::ProductChanged(_)
        | product::Event::ProductRemoved(_)
        | product::Event::StockChanged(_) => None,
    }
}

/// The input that an event of the payment service is; `None` for those that stay in its log.
pub fn payment_reply(event: &payment::Event) -> Option<(OrderId, Input)> {
    match event {
        payment::Event::PaymentAuthorized(reply) => Some((reply.order_id, PaymentAuthorized)),
        payment::Event::PaymentDeclined(reply) => Some((reply.order_id, PaymentDeclined)),
        payment::Event::PaymentCaptured(reply) => Some((reply.order_id, PaymentCaptured)),
        payment::Event::CaptureRefused(reply) => Some((reply.order_id, CaptureRefused)),
        payment::Event::PaymentVoided(reply) => Some((reply.order_id, PaymentVoided)),
        payment::Event::CallIntended(_) | payment::Event::VoidRequested(_) => None,
    }
}

// ---------------------------------------------------------------- Small words for the table

#[allow(clippy::too_many_arguments, reason = "a row of the table has eight columns")]
const fn step(
    name: &'static str,
    state: State,
    asks: &'static str,
    done: Input,
    refused: Option<Input>,
    unanswered: Patience,
    compensation: Option<&'static str>,
    kind: Kind,
) -> Step<State, Input> {
    Step { name, state, asks, done, refused, unanswered, compensation, kind }
}

fn go(to: State) -> Decision<State, CancelReason> {
    Decision::Moved { to, reason: None }
}

fn compensate(to: State, reason: CancelReason) -> Decision<State, CancelReason> {
    Decision::Moved { to, reason: Some(reason) }
}

fn ignore(why: Why) -> Decision<State, CancelReason> {
    Decision::Ignored(why)
}

/// At most one pivot, and nothing from the pivot on has a compensation.
const _: () = {
    let (mut row, mut pivots) = (0, 0);
    while row < STEPS.len() {
        if matches!(STEPS[row].kind, Pivot) {
            pivots += 1;
        }
        assert!(pivots == 0 || STEPS[row].compensation.is_none(), "a step past the pivot can't be compensated");
        row += 1;
    }
    assert!(pivots <= 1, "a saga has at most one pivot");
};
