//! One scenario a row of the payment's table: given a history, when a command or an answer comes, then this is recorded.
//!
//! Never here: databases or tasks. The same rules under crashes are told in `tests/payment.rs`.

use contract::Currency;

use super::*;

const AMOUNT: Money = Money { amount_minor: 1_999, currency: Currency::EUR };
const ALL_VERDICTS: fn() -> Vec<Verdict> = || {
    vec![
        Verdict::Authorized,
        Verdict::Declined("card_declined".into()),
        Verdict::Captured,
        Verdict::CaptureRefused("expired".into()),
        Verdict::Voided,
        Verdict::Refunded,
    ]
};

fn order() -> OrderId {
    OrderId(uuid::Uuid::from_u128(7))
}

/// A payment that took these inputs, each of which was accepted.
fn given(inputs: impl IntoIterator<Item = Input>) -> Payment {
    let mut payment = Payment::new(order());
    for input in inputs {
        for event in payment.decide(input).expect("a history holds no refusals") {
            payment.evolve(&event);
        }
    }
    payment
}

struct When(Result<Vec<Event>, Refusal>);

impl Payment {
    fn when(&self, input: Input) -> When {
        When(self.decide(input))
    }
}

impl When {
    #[track_caller]
    fn then(self, events: impl IntoIterator<Item = Event>) {
        assert_eq!(self.0, Ok(events.into_iter().collect()));
    }

    #[track_caller]
    fn then_nothing(self) {
        self.then([]);
    }

    #[track_caller]
    fn then_refused(self, refusal: Refusal) {
        assert_eq!(self.0, Err(refusal));
    }
}

fn authorize() -> Input {
    Input::Authorize(AMOUNT)
}

fn settle(verdict: Verdict) -> Input {
    Input::Settle(verdict)
}

fn declined_answer() -> Input {
    settle(Verdict::Declined("card_declined".into()))
}

fn refused_answer() -> Input {
    settle(Verdict::CaptureRefused("expired".into()))
}

fn nothing() -> Payment {
    given([])
}

fn authorizing() -> Payment {
    given([authorize()])
}

fn authorized() -> Payment {
    given([authorize(), settle(Verdict::Authorized)])
}

fn declined() -> Payment {
    given([authorize(), declined_answer()])
}

fn capturing() -> Payment {
    given([authorize(), settle(Verdict::Authorized), Input::Capture])
}

fn captured() -> Payment {
    given([authorize(), settle(Verdict::Authorized), Input::Capture, settle(Verdict::Captured)])
}

fn capture_refused() -> Payment {
    given([authorize(), settle(Verdict::Authorized), Input::Capture, refused_answer()])
}

fn tombstone() -> Payment {
    given([Input::Void])
}

fn intended(operation: Operation) -> Event {
    CallIntended { order_id: order(), operation, amount: AMOUNT }.into()
}

fn was_authorized(repeated: bool) -> Event {
    PaymentAuthorized { order_id: order(), amount: AMOUNT, repeated: Repeated(repeated) }.into()
}

fn was_declined(code: &str, repeated: bool) -> Event {
    PaymentDeclined { order_id: order(), code: code.into(), repeated: Repeated(repeated) }.into()
}

fn was_captured(repeated: bool) -> Event {
    PaymentCaptured { order_id: order(), amount: AMOUNT, repeated: Repeated(repeated) }.into()
}

fn was_refused(code: &str, repeated: bool) -> Event {
    CaptureRefused { order_id: order(), code: code.into(), repeated: Repeated(repeated) }.into()
}

fn was_voided(refunded: Option<Money>, repeated: bool) -> Event {
    PaymentVoided { order_id: order(), refunded, repeated: Repeated(repeated) }.into()
}

#[test]
fn an_authorization_is_intended_before_it_is_asked() {
    nothing().when(authorize()).then([intended(Operation::Authorize)]);
}

#[test]
fn an_authorization_ends_as_the_provider_says() {
    authorizing().when(settle(Verdict::Authorized)).then([was_authorized(false)]);
    authorizing().when(declined_answer()).then([was_declined("card_declined", false)]);
}

#[test]
fn a_repeated_authorization_gets_its_recorded_reply_again_or_nothing_while_it_is_open() {
    authorizing().when(authorize()).then_nothing();
    authorized().when(authorize()).then([was_authorized(true)]);
    capturing().when(authorize()).then_nothing();
    captured().when(authorize()).then([was_authorized(true)]);
    capture_refused().when(authorize()).then([was_authorized(true)]);
    declined().when(authorize()).then([was_declined("card_declined", true)]);
}

#[test]
fn an_authorization_over_another_amount_is_never_right() {
    let other = Input::Authorize(Money::new(1, Currency::EUR));
    for payment in [authorizing(), authorized(), declined(), captured()] {
        payment.when(other.clone()).then_refused(Refusal::OtherAmount);
    }
}

#[test]
fn a_capture_is_intended_from_authorized_and_ends_as_the_provider_says() {
    authorized().when(Input::Capture).then([intended(Operation::Capture)]);
    capturing().when(settle(Verdict::Captured)).then([was_captured(false)]);
    capturing().when(refused_answer()).then([was_refused("expired", false)]);
}

#[test]
fn a_repeated_capture_gets_its_recorded_reply_again_or_nothing_while_it_is_open() {
    capturing().when(Input::Capture).then_nothing();
    captured().when(Input::Capture).then([was_captured(true)]);
    capture_refused().when(Input::Capture).then([was_refused("expired", true)]);
}

#[test]
fn a_capture_of_what_was_never_authorized_is_never_right() {
    for payment in [nothing(), authorizing(), declined()] {
        payment.when(Input::Capture).then_refused(Refusal::NeverAuthorized);
    }
}

#[test]
fn a_void_of_what_never_happened_leaves_a_tombstone() {
    nothing().when(Input::Void).then([was_voided(None, false)]);
    tombstone().when(authorize()).then([was_declined(ALREADY_VOIDED, false)]);
    given([Input::Void, authorize()]).when(authorize()).then([was_declined(ALREADY_VOIDED, true)]);
    assert_eq!(given([Input::Void, authorize()]).status, Status::Voided);
}

#[test]
fn a_void_waits_for_the_open_authorization_and_then_ends_it() {
    authorizing().when(Input::Void).then([VoidRequested { order_id: order() }.into()]);
    let voiding = given([authorize(), Input::Void]);
    voiding.when(Input::Void).then_nothing();
    voiding.when(authorize()).then_nothing();
    voiding.when(Input::Capture).then([was_refused(VOIDED, false)]);
    voiding.when(settle(Verdict::Authorized)).then([was_authorized(false), intended(Operation::Void)]);
    voiding.when(declined_answer()).then([was_declined("card_declined", false), was_voided(None, false)]);
}

#[test]
fn a_void_waits_for_the_open_capture_and_then_ends_it() {
    capturing().when(Input::Void).then([VoidRequested { order_id: order() }.into()]);
    let voiding = given([authorize(), settle(Verdict::Authorized), Input::Capture, Input::Void]);
    voiding.when(Input::Void).then_nothing();
    voiding.when(Input::Capture).then_nothing();
    voiding.when(settle(Verdict::Captured)).then([was_captured(false), intended(Operation::Refund)]);
    voiding.when(refused_answer()).then([was_refused("expired", false), intended(Operation::Void)]);
}

#[test]
fn a_void_ends_what_is_settled_by_its_own_call() {
    authorized().when(Input::Void).then([intended(Operation::Void)]);
    capture_refused().when(Input::Void).then([intended(Operation::Void)]);
    captured().when(Input::Void).then([intended(Operation::Refund)]);
    declined().when(Input::Void).then([was_voided(None, false)]);
}

#[test]
fn a_hold_is_voided_and_a_capture_is_refunded() {
    let voiding = given([authorize(), settle(Verdict::Authorized), Input::Void]);
    voiding.when(Input::Void).then_nothing();
    voiding.when(settle(Verdict::Voided)).then([was_voided(None, false)]);
    let history = [authorize(), settle(Verdict::Authorized), Input::Capture, settle(Verdict::Captured), Input::Void];
    let refunding = given(history);
    refunding.when(Input::Void).then_nothing();
    refunding.when(settle(Verdict::Refunded)).then([was_voided(Some(AMOUNT), false)]);
}

#[test]
fn a_repeated_void_gets_its_recorded_reply_again() {
    tombstone().when(Input::Void).then([was_voided(None, true)]);
    let history = [authorize(), settle(Verdict::Authorized), Input::Capture, settle(Verdict::Captured), Input::Void];
    let refunded = given(history.into_iter().chain([settle(Verdict::Refunded)]));
    refunded.when(Input::Void).then([was_voided(Some(AMOUNT), true)]);
    assert_eq!((refunded.captured_minor, refunded.refunded_minor), (1_999, 1_999));
}

#[test]
fn nothing_is_authorized_or_captured_after_the_void() {
    let voided = given([authorize(), settle(Verdict::Authorized), Input::Void, settle(Verdict::Voided)]);
    voided.when(authorize()).then([was_declined(ALREADY_VOIDED, false)]);
    voided.when(Input::Capture).then([was_refused(VOIDED, false)]);
    tombstone().when(Input::Capture).then([was_refused(VOIDED, false)]);
    given([Input::Void, Input::Capture]).when(Input::Capture).then([was_refused(VOIDED, true)]);
    given([authorize(), declined_answer(), Input::Void]).when(authorize()).then([was_declined("card_declined", true)]);
}

#[test]
fn of_nothing_all_is_done_without_a_call() {
    let free = Money::new(0, AMOUNT.currency);
    let (order_id, repeated) = (order(), Repeated(false));
    let authorized = || given([Input::Authorize(free)]);
    given([]).when(Input::Authorize(free)).then([PaymentAuthorized { order_id, amount: free, repeated }.into()]);
    assert_eq!((authorized().status, authorized().amount, authorized().open), (Status::Authorized, Some(free), None));
    authorized().when(Input::Capture).then([PaymentCaptured { order_id, amount: free, repeated }.into()]);
    authorized().when(Input::Void).then([was_voided(None, false)]);
    let captured = || given([Input::Authorize(free), Input::Capture]);
    captured().when(Input::Void).then([was_voided(None, false)]);
    captured().when(Input::Capture).then([PaymentCaptured { order_id, amount: free, repeated: Repeated(true) }.into()]);
    given([Input::Authorize(free), Input::Void]).when(Input::Capture).then([was_refused(VOIDED, false)]);
}

#[test]
fn less_than_nothing_is_never_right() {
    given([]).when(Input::Authorize(Money::new(-1, AMOUNT.currency))).then_refused(Refusal::Negative);
}

#[test]
fn an_answer_that_nobody_waits_for_changes_nothing() {
    for payment in [nothing(), authorizing(), authorized(), declined(), capturing(), captured(), capture_refused(), tombstone()] {
        for verdict in ALL_VERDICTS().into_iter().filter(|verdict| payment.open != Some(verdict.operation())) {
            payment.when(settle(verdict)).then_nothing();
        }
    }
}

#[test]
fn a_repeated_reply_only_moves_the_version() {
    for payment in [authorized(), declined(), captured(), capture_refused(), tombstone()] {
        for input in [authorize(), Input::Capture, Input::Void] {
            let events = payment.decide(input).unwrap_or_default();
            let again: Vec<_> = events.into_iter().filter(|event| event.encode().data.contains("\"repeated\":true")).collect();
            let mut after = payment.clone();
            again.iter().for_each(|event| after.evolve(event));
            assert_eq!(after, Payment { version: payment.version + again.len() as i64, ..payment.clone() });
        }
    }
}

#[test]
fn a_reply_that_is_given_again_changes_nothing_but_the_version() {
    let (order_id, amount, repeated) = (order(), AMOUNT, Repeated(true));
    let code = "again".to_owned();
    let again: [Event; 5] = [
        PaymentAuthorized { order_id, amount, repeated }.into(),
        PaymentDeclined { order_id, code: code.clone(), repeated }.into(),
        PaymentCaptured { order_id, amount, repeated }.into(),
        CaptureRefused { order_id, code, repeated }.into(),
        PaymentVoided { order_id, refunded: Some(amount), repeated }.into(),
    ];
    let captured = || vec![authorize(), settle(Verdict::Authorized), Input::Capture, settle(Verdict::Captured)];
    let mut histories = vec![vec![], vec![authorize()], vec![authorize(), declined_answer()], vec![Input::Void], captured()];
    histories.push([captured(), vec![Input::Void, settle(Verdict::Refunded)]].concat());
    for history in histories {
        let before = given(history);
        for event in &again {
            let mut after = before.clone();
            after.evolve(event);
            assert_eq!(after, Payment { version: before.version + 1, ..before.clone() }, "{event:?}");
        }
    }
}

#[test]
fn what_went_back_is_told_only_where_something_did() {
    assert_eq!(given([authorize(), settle(Verdict::Authorized), Input::Void, settle(Verdict::Voided)]).refunded(), None);
    let captured = [authorize(), settle(Verdict::Authorized), Input::Capture, settle(Verdict::Captured)];
    let refunded = given(captured.into_iter().chain([Input::Void, settle(Verdict::Refunded)]));
    assert_eq!(refunded.refunded(), Some(AMOUNT));
}

#[test]
fn the_words_of_a_status_read_back() {
    let words = ["nothing", "pending", "authorized", "declined", "captured", "capture_refused", "voided"];
    assert_eq!(Status::ALL.map(Status::as_str), words, "as they stand in databases");
    assert_eq!(words.map(Status::parse), Status::ALL.map(Some));
    assert_eq!(Status::parse(""), None);
    assert!(
        [Refusal::NeverAuthorized, Refusal::OtherAmount].iter().all(|refusal| refusal.as_str().starts_with("the payment was "))
    );
}
