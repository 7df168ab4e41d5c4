//! Scenarios of the catalogue: what was, what an admin asks, what is said.
//!
//! Never here: a database or HTTP. From here the flow goes to `tests/api.rs`, which asks the same through the REST door.

use contract::Currency;
use uuid::Uuid;

use super::*;

const PRODUCT: ProductId = ProductId(Uuid::from_u128(7));

fn price(amount_minor: i64) -> Money {
    Money::new(amount_minor, Currency::EUR)
}

fn add(stock: i64) -> Command {
    let (sku, title, category) = ("TEA-1".into(), "Tea".into(), "drinks".into());
    Command::Add(ProductAdded { product_id: PRODUCT, sku, title, category, price: price(499), stock })
}

fn change() -> ChangeProduct {
    ChangeProduct { product_id: PRODUCT, sku: None, title: None, category: None, price: None, expected: None }
}

fn remove(expected: Expected) -> Command {
    Command::Remove { product_id: PRODUCT, expected }
}

fn deliver(change: i64) -> Command {
    Command::ChangeStock(StockChanged { product_id: PRODUCT, change, reason: "delivery".into() })
}

struct Scenario {
    item: Option<Item>,
}

fn given(commands: &[Command]) -> Scenario {
    let item = commands.iter().fold(None, |item: Option<Item>, command| {
        let event = decide(item.as_ref(), false, command).expect("what is given is right");
        event.iter().fold(item, |item, event| evolve(item, event, Timestamp(1)))
    });
    Scenario { item }
}

impl Scenario {
    fn when(self, command: Command) -> Outcome {
        let said = decide(self.item.as_ref(), false, &command);
        let event = said.as_ref().ok().and_then(Option::as_ref);
        let after = event.into_iter().fold(self.item, |item, event| evolve(item, event, Timestamp(2)));
        Outcome { said, after }
    }
}

struct Outcome {
    said: Result<Option<Event>, Refusal>,
    after: Option<Item>,
}

impl Outcome {
    fn then(self, event: impl Into<Event>) -> Item {
        assert_eq!(self.said, Ok(Some(event.into())));
        self.after.expect("an event leaves a product")
    }

    fn then_nothing(self) {
        assert_eq!(self.said, Ok(None));
    }

    fn then_refused(self, refusal: Refusal) {
        assert_eq!(self.said, Err(refusal));
    }
}

#[test]
fn a_product_enters_with_its_first_stock() {
    let Command::Add(added) = add(5) else { unreachable!() };
    let item = given(&[]).when(add(5)).then(added);
    assert_eq!((item.version, item.stock), (1, Stock { on_hand: 5, reserved: 0, sold: 0, added: 5 }));
}

#[test]
fn a_sku_names_one_product() {
    assert_eq!(decide(None, true, &add(5)), Err(Refusal::SkuTaken));
}

#[test]
fn a_change_keeps_what_it_does_not_name() {
    let changed = ProductChanged { product_id: PRODUCT, title: "Green tea".into(), category: "drinks".into(), price: price(499) };
    let item =
        given(&[add(5)]).when(Command::Change(ChangeProduct { title: Some("Green tea".into()), ..change() })).then(changed);
    assert_eq!((item.version, item.title.as_str()), (2, "Green tea"));
    let (category, price) = (Some("food".into()), Some(price(99)));
    let changed = given(&[add(5), Command::Change(ChangeProduct { category, price, ..change() })]).item.unwrap();
    assert_eq!((changed.title.as_str(), changed.category.as_str(), changed.price.amount_minor), ("Tea", "food", 99));
}

#[test]
fn a_change_to_what_is_there_is_nothing() {
    given(&[add(5)]).when(Command::Change(ChangeProduct { price: Some(price(499)), ..change() })).then_nothing();
    given(&[add(5)]).when(deliver(0)).then_nothing();
}

#[test]
fn a_sku_never_changes() {
    given(&[add(5)])
        .when(Command::Change(ChangeProduct { sku: Some("TEA-2".into()), ..change() }))
        .then_refused(Refusal::SkuFixed);
    given(&[add(5)]).when(Command::Change(ChangeProduct { sku: Some("TEA-1".into()), ..change() })).then_nothing();
}

#[test]
fn a_stale_version_is_refused() {
    let stale = Refusal::VersionChanged { version: 2 };
    given(&[add(5), deliver(1)]).when(remove(Some(vec![1]))).then_refused(stale);
    given(&[add(5), deliver(1)])
        .when(Command::Change(ChangeProduct { title: Some("Mate".into()), expected: Some(vec![]), ..change() }))
        .then_refused(stale);
    given(&[add(5), deliver(1)]).when(remove(Some(vec![1, 2]))).then(ProductRemoved { product_id: PRODUCT });
}

#[test]
fn a_removed_product_is_unknown_but_may_be_removed_again() {
    given(&[add(5), remove(None)]).when(remove(Some(vec![1]))).then_nothing();
    given(&[add(5), remove(None)]).when(deliver(1)).then_refused(Refusal::UnknownProduct);
    given(&[add(5), remove(None)]).when(Command::Change(change())).then_refused(Refusal::UnknownProduct);
}

#[test]
fn a_product_that_never_was_is_unknown() {
    given(&[]).when(remove(None)).then_refused(Refusal::UnknownProduct);
    given(&[]).when(deliver(1)).then_refused(Refusal::UnknownProduct);
    given(&[]).when(Command::Change(change())).then_refused(Refusal::UnknownProduct);
}

#[test]
fn no_more_is_written_off_than_is_free() {
    given(&[add(5)]).when(deliver(-6)).then_refused(Refusal::NotEnoughStock { on_hand: 5 });
    let item =
        given(&[add(5)]).when(deliver(-5)).then(StockChanged { product_id: PRODUCT, change: -5, reason: "delivery".into() });
    assert_eq!(item.stock, Stock::default());
}

#[test]
fn stock_has_a_bound() {
    given(&[add(5)]).when(deliver(i64::MAX)).then_refused(Refusal::TooMuchStock);
    given(&[add(5)]).when(deliver(ON_HAND_MAX - 4)).then_refused(Refusal::TooMuchStock);
    assert_eq!(given(&[add(5), deliver(ON_HAND_MAX - 5)]).item.unwrap().stock.on_hand, ON_HAND_MAX);
    given(&[]).when(add(ON_HAND_MAX + 1)).then_refused(Refusal::TooMuchStock);
    given(&[]).when(add(ON_HAND_MAX)).then(match add(ON_HAND_MAX) {
        Command::Add(added) => added,
        _ => unreachable!(),
    });
}
