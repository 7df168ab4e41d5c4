//! Scenarios of reservations: what was, what comes, what is said; and a random walk over many orders and products.
//!
//! Never here: a database. From here the flow goes to `tests/handler.rs`, which asks the same through the log.

use std::collections::HashMap;

use contract::product::{CommitStock, ReleaseStock, ReserveStock};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use uuid::Uuid;

use super::*;
use crate::domain::stock::{Stock, movements};

const ORDER: OrderId = OrderId(Uuid::from_u128(1));

fn product(number: u128) -> ProductId {
    ProductId(Uuid::from_u128(number))
}

fn line(number: u128, quantity: u32) -> StockLine {
    StockLine { product_id: product(number), quantity }
}

fn reserve(lines: &[StockLine]) -> Command {
    ReserveStock { order_id: ORDER, lines: lines.to_vec() }.into()
}

fn release() -> Command {
    ReleaseStock { order_id: ORDER }.into()
}

fn commit() -> Command {
    CommitStock { order_id: ORDER }.into()
}

/// Products 7 and 8 exist, with five and nothing left.
struct Scenario {
    state: Reservation,
}

fn given(commands: &[Command]) -> Scenario {
    let state = commands.iter().fold(Reservation::New, |state, command| {
        let event = decide(&state, free, command).expect("what is given is right");
        evolve(state, &event)
    });
    Scenario { state }
}

fn free(product_id: ProductId) -> Option<i64> {
    HashMap::from([(product(7), 5), (product(8), 0)]).get(&product_id).copied()
}

impl Scenario {
    fn when(self, command: Command) -> Outcome {
        let said = decide(&self.state, free, &command);
        let after = said.iter().fold(self.state, evolve);
        Outcome { said, after }
    }
}

struct Outcome {
    said: Result<Event, Wrong>,
    after: Reservation,
}

impl Outcome {
    fn then(self, event: impl Into<Event>) -> Reservation {
        assert_eq!(self.said, Ok(event.into()));
        self.after
    }

    fn then_refused(self, reason: StockRefusal, products: &[u128], repeated: bool) -> Reservation {
        let products = products.iter().copied().map(product).collect();
        self.then(StockRefused { order_id: ORDER, reason, products, repeated: Repeated(repeated) })
    }

    fn then_wrong(self, state: &'static str) {
        assert_eq!(self.said, Err(Wrong(state)));
    }
}

fn reserved(lines: &[StockLine], repeated: bool) -> StockReserved {
    StockReserved { order_id: ORDER, lines: lines.to_vec(), repeated: Repeated(repeated) }
}

fn released(lines: &[StockLine], restocked: bool, repeated: bool) -> StockReleased {
    StockReleased { order_id: ORDER, lines: lines.to_vec(), restocked, repeated: Repeated(repeated) }
}

fn committed(lines: &[StockLine], repeated: bool) -> StockCommitted {
    StockCommitted { order_id: ORDER, lines: lines.to_vec(), repeated: Repeated(repeated) }
}

#[test]
fn a_reply_that_is_given_again_changes_nothing_in_any_state() {
    let twice = Repeated(true);
    let (order_id, lines, products) = (ORDER, vec![line(7, 1)], vec![product(7)]);
    let again: [Event; 4] = [
        StockReserved { order_id, lines: lines.clone(), repeated: twice }.into(),
        StockRefused { order_id, reason: StockRefusal::NotEnough, products, repeated: twice }.into(),
        StockReleased { order_id, lines: lines.clone(), restocked: true, repeated: twice }.into(),
        StockCommitted { order_id, lines: lines.clone(), repeated: twice }.into(),
    ];
    let reserved = reserve(&[line(7, 2)]);
    for history in [
        vec![],
        vec![reserved.clone()],
        vec![reserve(&[line(8, 1)])],
        vec![reserved.clone(), commit()],
        vec![reserved, release()],
        vec![reserve(&[line(8, 1)]), release()],
    ] {
        let state = given(&history).state;
        for event in &again {
            assert_eq!(evolve(state.clone(), event), state, "{event:?}");
        }
    }
}

#[test]
fn what_is_there_is_reserved() {
    given(&[]).when(reserve(&[line(7, 5)])).then(reserved(&[line(7, 5)], false));
}

#[test]
fn equal_products_are_one_line() {
    given(&[]).when(reserve(&[line(7, 2), line(7, 3)])).then(reserved(&[line(7, 5)], false));
    given(&[]).when(reserve(&[line(7, 3), line(7, 3)])).then_refused(StockRefusal::NotEnough, &[7], false);
    given(&[]).when(reserve(&[line(7, u32::MAX), line(7, 1)])).then_refused(StockRefusal::NotEnough, &[7], false);
}

#[test]
fn one_short_line_refuses_all_and_is_named() {
    given(&[]).when(reserve(&[line(7, 1), line(8, 1)])).then_refused(StockRefusal::NotEnough, &[8], false);
}

#[test]
fn an_unknown_product_refuses_all_and_is_named() {
    given(&[]).when(reserve(&[line(8, 1), line(9, 1)])).then_refused(StockRefusal::UnknownProduct, &[9], false);
}

#[test]
fn a_repeated_reservation_gets_its_recorded_reply() {
    given(&[reserve(&[line(7, 2)])]).when(reserve(&[line(7, 2)])).then(reserved(&[line(7, 2)], true));
    given(&[reserve(&[line(8, 2)])]).when(reserve(&[line(8, 2)])).then_refused(StockRefusal::NotEnough, &[8], true);
    given(&[reserve(&[line(7, 2)]), commit()]).when(reserve(&[line(7, 2)])).then(reserved(&[line(7, 2)], true));
}

#[test]
fn what_is_held_goes_back() {
    given(&[reserve(&[line(7, 2)])]).when(release()).then(released(&[line(7, 2)], false, false));
}

#[test]
fn what_was_sold_is_restocked() {
    given(&[reserve(&[line(7, 2)]), commit()]).when(release()).then(released(&[line(7, 2)], true, false));
}

#[test]
fn a_release_of_nothing_is_a_tombstone_that_refuses_the_late_reservation() {
    given(&[]).when(release()).then(released(&[], false, false));
    given(&[release()]).when(reserve(&[line(7, 1)])).then_refused(StockRefusal::AlreadyReleased, &[], false);
    given(&[release(), reserve(&[line(7, 1)])]).when(reserve(&[line(7, 1)])).then_refused(
        StockRefusal::AlreadyReleased,
        &[],
        true,
    );
}

#[test]
fn a_refused_reservation_is_released_with_nothing_and_stays_refused() {
    given(&[reserve(&[line(8, 1)])]).when(release()).then(released(&[], false, false));
    given(&[reserve(&[line(8, 1)]), release()]).when(reserve(&[line(8, 1)])).then_refused(StockRefusal::NotEnough, &[8], true);
}

#[test]
fn what_was_released_is_never_reserved_again() {
    let after = given(&[reserve(&[line(7, 2)]), release()]).when(reserve(&[line(7, 2)])).then_refused(
        StockRefusal::AlreadyReleased,
        &[],
        false,
    );
    let refusal = Some(Refusal { reason: StockRefusal::AlreadyReleased, products: Vec::new() });
    assert_eq!(after, Reservation::Released { lines: vec![line(7, 2)], restocked: false, refusal });
}

#[test]
fn a_repeated_release_gets_its_recorded_reply() {
    given(&[release()]).when(release()).then(released(&[], false, true));
    given(&[reserve(&[line(7, 2)]), release()]).when(release()).then(released(&[line(7, 2)], false, true));
    given(&[reserve(&[line(7, 2)]), commit(), release()]).when(release()).then(released(&[line(7, 2)], true, true));
}

#[test]
fn what_is_held_is_sold() {
    let after = given(&[reserve(&[line(7, 2)])]).when(commit()).then(committed(&[line(7, 2)], false));
    assert_eq!(after, Reservation::Committed { lines: vec![line(7, 2)] });
}

#[test]
fn a_repeated_commit_gets_its_recorded_reply() {
    given(&[reserve(&[line(7, 2)]), commit()]).when(commit()).then(committed(&[line(7, 2)], true));
}

#[test]
fn a_commit_of_what_is_not_held_is_wrong_for_good() {
    given(&[]).when(commit()).then_wrong("not reserved");
    given(&[reserve(&[line(8, 1)])]).when(commit()).then_wrong("refused");
    given(&[release()]).when(commit()).then_wrong("released");
    given(&[reserve(&[line(7, 1)]), commit(), release()]).when(commit()).then_wrong("released");
}

/// Orders in any order, commands repeated and out of order: pieces are never lost, made up or promised twice.
#[test]
fn whatever_comes_the_stock_adds_up() {
    for seed in 0..200 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut stock: HashMap<_, _> =
            (0..3).map(|number| (product(number), Stock::default().changed(random.random_range(0..20)))).collect();
        let mut orders: HashMap<OrderId, Reservation> = HashMap::new();
        for _ in 0..200 {
            let order_id = OrderId(Uuid::from_u128(random.random_range(0..12)));
            let lines = (0..random.random_range(0..4)).map(|_| line(random.random_range(0..4), random.random_range(0..5)));
            let command = [
                ReserveStock { order_id, lines: lines.collect() }.into(),
                ReleaseStock { order_id }.into(),
                CommitStock { order_id }.into(),
            ];
            let command = command.choose(&mut random).expect("three commands");
            let state = orders.entry(order_id).or_default();
            let Ok(event) = decide(state, |id| stock.get(&id).map(|stock| stock.on_hand), command) else { continue };
            for (movement, line) in movements(&event) {
                let stock = stock.get_mut(&line.product_id).expect("only known products are reserved");
                *stock = stock.moved(movement, line.quantity);
            }
            *state = evolve(std::mem::take(state), &event);
            adds_up(seed, &stock, &orders);
        }
    }
}

fn adds_up(seed: u64, stock: &HashMap<ProductId, Stock>, orders: &HashMap<OrderId, Reservation>) {
    let pieces = |product_id, of: fn(&Reservation) -> &[StockLine]| -> i64 {
        let lines = orders.values().flat_map(of).filter(|line| line.product_id == product_id);
        lines.map(|line| i64::from(line.quantity)).sum()
    };
    for (product_id, stock) in stock {
        let reserved = pieces(*product_id, |state| if let Reservation::Reserved { lines } = state { lines } else { &[] });
        let sold = pieces(*product_id, |state| if let Reservation::Committed { lines } = state { lines } else { &[] });
        assert!(stock.on_hand >= 0 && stock.reserved == reserved && stock.sold == sold, "seed {seed}: {stock:?}");
        assert_eq!(stock.on_hand + stock.reserved + stock.sold, stock.added, "seed {seed}: {stock:?}");
    }
}
