//! Whole conversations: what comes in, what is asked, how it ends. No async, no log.

use contract::{Currency, Money, order::CancelReason};
use skald_saga::{
    Decision, Saga, Why,
    order::{Context, Input, OrderSaga, State},
};

/// A saga in conversation; each call is one exchange.
struct Dialogue {
    state: State,
    reason: Option<CancelReason>,
}

fn order_placed() -> Dialogue {
    Dialogue { state: OrderSaga::START, reason: None }.asks("product.ReserveStock")
}

fn context() -> Context {
    Context {
        order_id: uuid::Uuid::from_u128(1).into(),
        customer_id: uuid::Uuid::from_u128(2).into(),
        lines: Vec::new(),
        total: Money::new(1999, Currency::EUR),
        payment_token: "tok_ok".into(),
    }
}

impl Dialogue {
    #[track_caller]
    fn hears(mut self, input: Input) -> Self {
        match OrderSaga::decide(self.state, input) {
            Decision::Moved { to, reason } => {
                self.state = to;
                self.reason = self.reason.or(reason);
                self
            }
            other => panic!("{input:?} in {:?}: {other:?}", self.state),
        }
    }

    #[track_caller]
    fn ignores(self, input: Input, why: Why) -> Self {
        assert_eq!(OrderSaga::decide(self.state, input), Decision::Ignored(why), "{input:?} in {:?}", self.state);
        self
    }

    #[track_caller]
    fn asks(self, command: &str) -> Self {
        let asked = OrderSaga::command(self.state, &context()).map(|command| command.payload.kind);
        assert_eq!(asked, Some(command));
        self
    }

    #[track_caller]
    fn ends_confirmed(self) {
        assert_eq!((self.state, self.reason), (State::Confirmed, None));
    }

    #[track_caller]
    fn ends_cancelled(self, reason: CancelReason) {
        assert_eq!((self.state, self.reason), (State::Cancelled, Some(reason)));
    }
}

#[test]
fn a_good_order_is_confirmed() {
    order_placed()
        .hears(Input::StockReserved)
        .asks("payment.AuthorizePayment")
        .hears(Input::PaymentAuthorized)
        .asks("payment.CapturePayment")
        .hears(Input::PaymentCaptured)
        .asks("product.CommitStock")
        .hears(Input::StockCommitted)
        .ends_confirmed();
}

#[test]
fn refused_stock_needs_no_compensation() {
    order_placed().hears(Input::StockRefused).ends_cancelled(CancelReason::OutOfStock);
}

#[test]
fn stock_that_never_answers_is_asked_again_and_then_released() {
    order_placed()
        .hears(Input::DeadlinePassed)
        .asks("product.ReserveStock")
        .hears(Input::LastDeadlinePassed)
        .asks("product.ReleaseStock")
        .ignores(Input::StockReserved, Why::Late)
        .hears(Input::LastDeadlinePassed)
        .asks("product.ReleaseStock")
        .hears(Input::StockReleased)
        .ends_cancelled(CancelReason::StockTimeout);
}

#[test]
fn a_declined_payment_releases_the_stock() {
    order_placed()
        .hears(Input::StockReserved)
        .hears(Input::PaymentDeclined)
        .asks("product.ReleaseStock")
        .hears(Input::StockReleased)
        .ends_cancelled(CancelReason::PaymentDeclined);
}

#[test]
fn an_authorization_without_an_answer_may_have_happened_so_it_is_voided() {
    order_placed()
        .hears(Input::StockReserved)
        .hears(Input::DeadlinePassed)
        .asks("payment.AuthorizePayment")
        .hears(Input::LastDeadlinePassed)
        .asks("payment.VoidPayment")
        .ignores(Input::PaymentAuthorized, Why::Late)
        .hears(Input::PaymentVoided)
        .asks("product.ReleaseStock")
        .hears(Input::StockReleased)
        .ends_cancelled(CancelReason::PaymentTimeout);
}

#[test]
fn a_refused_capture_voids_and_releases() {
    order_placed()
        .hears(Input::StockReserved)
        .hears(Input::PaymentAuthorized)
        .hears(Input::CaptureRefused)
        .asks("payment.VoidPayment")
        .hears(Input::PaymentVoided)
        .hears(Input::StockReleased)
        .ends_cancelled(CancelReason::CaptureRefused);
}

#[test]
fn capture_and_commit_are_asked_for_ever() {
    let mut dialogue = order_placed().hears(Input::StockReserved).hears(Input::PaymentAuthorized);
    for _ in 0..100 {
        dialogue = dialogue.hears(Input::LastDeadlinePassed).asks("payment.CapturePayment");
    }
    dialogue = dialogue.hears(Input::PaymentCaptured);
    for _ in 0..100 {
        dialogue = dialogue.hears(Input::LastDeadlinePassed).asks("product.CommitStock");
    }
    dialogue.hears(Input::StockCommitted).ends_confirmed();
}

#[test]
fn a_customer_can_cancel_until_the_money_is_captured() {
    order_placed().hears(Input::CancelAsked).hears(Input::StockReleased).ends_cancelled(CancelReason::CancelledByCustomer);
    order_placed()
        .hears(Input::StockReserved)
        .hears(Input::CancelAsked)
        .ignores(Input::CancelAsked, Why::Compensating)
        .hears(Input::PaymentVoided)
        .hears(Input::StockReleased)
        .ignores(Input::CancelAsked, Why::Ended)
        .ends_cancelled(CancelReason::CancelledByCustomer);
    order_placed()
        .hears(Input::StockReserved)
        .hears(Input::PaymentAuthorized)
        .ignores(Input::CancelAsked, Why::TooLate)
        .hears(Input::PaymentCaptured)
        .ignores(Input::CancelAsked, Why::TooLate)
        .hears(Input::StockCommitted)
        .ignores(Input::CancelAsked, Why::TooLate)
        .ends_confirmed();
}

#[test]
fn an_operator_compensates_even_what_is_paid() {
    order_placed()
        .hears(Input::StockReserved)
        .hears(Input::PaymentAuthorized)
        .hears(Input::PaymentCaptured)
        .hears(Input::CompensationForced)
        .asks("payment.VoidPayment")
        .ignores(Input::StockCommitted, Why::Late)
        .hears(Input::PaymentVoided)
        .asks("product.ReleaseStock")
        .hears(Input::StockReleased)
        .ends_cancelled(CancelReason::CancelledByOperator);
}

#[test]
fn an_operator_skips_only_past_capture_or_while_compensating() {
    order_placed()
        .ignores(Input::StepSkipped, Why::NotAllowed)
        .hears(Input::StockReserved)
        .ignores(Input::CompletionForced, Why::NotAllowed)
        .hears(Input::PaymentAuthorized)
        .ignores(Input::StepSkipped, Why::NotAllowed)
        .hears(Input::PaymentCaptured)
        .hears(Input::StepSkipped)
        .ignores(Input::StockCommitted, Why::Repeated)
        .ends_confirmed();
    order_placed()
        .hears(Input::StockReserved)
        .hears(Input::LastDeadlinePassed)
        .hears(Input::StepSkipped)
        .asks("product.ReleaseStock")
        .hears(Input::CompletionForced)
        .ignores(Input::StockReleased, Why::Late)
        .ends_cancelled(CancelReason::PaymentTimeout);
}
