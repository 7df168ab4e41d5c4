//! Histories that real orders have left, by the definition of the table that they ran under: the table still takes each of them.
//!
//! `tests/histories/order-v1.json` is what orders of `skald demo` left in the order service's log, each course once. When a change of the
//! table fails here, sagas that are open on somebody's machine would fail too: it is a new definition, beside the old one.

use serde::Deserialize;
use skald_saga::{
    Decision, Saga, Word,
    order::{Input, OrderSaga, State},
};

/// As a row `saga.SagaMoved` has it.
#[derive(Debug, Deserialize)]
struct Moved {
    input: String,
    from: Option<String>,
    to: String,
    /// That of the whole saga, from the move on that gave it.
    reason: Option<String>,
}

/// Where the table leads by the recorded inputs.
fn replay(history: &[Moved]) -> State {
    let (start, later) = history.split_first().expect("a saga begins");
    assert_eq!((start.input.as_str(), start.from.as_deref(), start.to.as_str()), ("Started", None, OrderSaga::START.as_str()));
    let (mut state, mut reason): (State, Option<<OrderSaga as Saga>::Reason>) = (OrderSaga::START, None);
    for moved in later {
        assert_eq!(moved.from.as_deref(), Some(state.as_str()), "{moved:?}");
        let input = Input::parse(&moved.input).unwrap_or_else(|| panic!("the table no longer knows {moved:?}"));
        let Decision::Moved { to, reason: why } = OrderSaga::decide(state, input) else { panic!("{moved:?} no longer moves") };
        reason = reason.or(why);
        assert_eq!((to.as_str(), reason.map(Word::as_str)), (moved.to.as_str(), moved.reason.as_deref()), "{moved:?}");
        state = to;
    }
    state
}

#[test]
fn what_was_recorded_under_definition_1_still_replays() {
    assert_eq!(OrderSaga::DEFINITION, 1, "keep the old definition, and record histories of the new one");
    let histories: Vec<Vec<Moved>> = serde_json::from_str(include_str!("../histories/order-v1.json")).unwrap();
    let ends: Vec<State> = histories.iter().map(|history| replay(history)).collect();
    assert!(ends.iter().all(|state| OrderSaga::step(*state).is_none()), "each of them had ended: {ends:?}");
    assert_eq!((ends.iter().filter(|state| **state == State::Confirmed).count(), ends.len()), (1, 9));
}
