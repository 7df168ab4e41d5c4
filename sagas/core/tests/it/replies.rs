//! Which input an event of a participant is, and where each command goes.

use contract::{
    Currency, Money, OrderId,
    envelope::Repeated,
    payment::{self, CaptureRefused, Operation, PaymentAuthorized, PaymentCaptured, PaymentDeclined, PaymentVoided},
    product::{self, StockCommitted, StockRefusal, StockRefused, StockReleased, StockReserved},
    topics,
};
use skald_saga::{
    Saga, Word,
    order::{Context, Input, OrderSaga, State, payment_reply, product_reply},
};

const FIRST: Repeated = Repeated(false);

fn order_id() -> OrderId {
    uuid::Uuid::from_u128(7).into()
}

#[test]
fn an_event_of_product_about_a_reservation_is_an_input() {
    let (order_id, lines) = (order_id(), Vec::new());
    let refused = StockRefused { order_id, reason: StockRefusal::NotEnough, products: Vec::new(), repeated: FIRST };
    let events: [(product::Event, Input); 4] = [
        (StockReserved { order_id, lines: lines.clone(), repeated: FIRST }.into(), Input::StockReserved),
        (refused.into(), Input::StockRefused),
        (StockReleased { order_id, lines: lines.clone(), restocked: false, repeated: FIRST }.into(), Input::StockReleased),
        (StockCommitted { order_id, lines, repeated: FIRST }.into(), Input::StockCommitted),
    ];
    for (event, input) in events {
        assert_eq!(product_reply(&event), Some((order_id, input)));
    }
}

#[test]
fn an_event_of_payment_is_an_input_unless_it_stays_in_its_log() {
    let (order_id, amount, code) = (order_id(), Money::new(1999, Currency::EUR), String::new());
    let events: [(payment::Event, Input); 5] = [
        (PaymentAuthorized { order_id, amount, repeated: FIRST }.into(), Input::PaymentAuthorized),
        (PaymentDeclined { order_id, code: code.clone(), repeated: FIRST }.into(), Input::PaymentDeclined),
        (PaymentCaptured { order_id, amount, repeated: FIRST }.into(), Input::PaymentCaptured),
        (CaptureRefused { order_id, code, repeated: FIRST }.into(), Input::CaptureRefused),
        (PaymentVoided { order_id, refunded: None, repeated: FIRST }.into(), Input::PaymentVoided),
    ];
    for (event, input) in events {
        assert_eq!(payment_reply(&event), Some((order_id, input)));
    }
    let private: payment::Event = payment::CallIntended { order_id, operation: Operation::Capture, amount }.into();
    assert_eq!(payment_reply(&private), None);
}

#[test]
fn a_command_goes_to_the_service_of_its_name_under_the_orders_key() {
    let context = Context {
        order_id: order_id(),
        customer_id: uuid::Uuid::from_u128(8).into(),
        lines: Vec::new(),
        total: Money::new(1999, Currency::EUR),
        payment_token: "tok_ok".into(),
    };
    for state in State::ALL {
        let asked = OrderSaga::step(*state).map(|step| step.asks);
        let command = OrderSaga::command(*state, &context);
        assert_eq!(command.as_ref().map(|command| command.payload.kind), asked, "{state:?}");
        let Some(command) = command else { continue };
        let topic =
            if command.payload.kind.starts_with("product.") { topics::PRODUCT_COMMANDS } else { topics::PAYMENT_COMMANDS };
        assert_eq!((command.topic, command.key), (topic, order_id().to_string()));
    }
}
