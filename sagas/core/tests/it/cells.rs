//! Every cell of the order saga's table, as a snapshot that a person must look at.

use skald_saga::{Decision, Kind, Patience, Saga, Word, drawing, order::OrderSaga};

#[test]
fn every_cell_is_as_it_was_looked_at() {
    insta::assert_snapshot!(drawing::cells_in_words::<OrderSaga>());
}

#[test]
fn the_table_is_as_it_was_looked_at() {
    insta::assert_snapshot!(drawing::table::<OrderSaga>());
}

#[test]
fn the_drawing_is_as_it_was_looked_at() {
    insta::assert_snapshot!(drawing::mermaid::<OrderSaga>());
}

#[test]
fn the_readme_shows_this_table_and_this_drawing() {
    let readme =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).expect("README.md is at the root");
    assert!(readme.contains(&drawing::table::<OrderSaga>()), "the table in README.md is stale");
    assert!(readme.contains(&drawing::mermaid::<OrderSaga>()), "the drawing in README.md is stale");
}

#[test]
fn the_match_agrees_with_the_table_above_it() {
    for step in OrderSaga::STEPS {
        let moved = |input| match OrderSaga::decide(step.state, input) {
            Decision::Moved { to, .. } => to,
            other => panic!("{}: {} gives {other:?}", step.name, input.as_str()),
        };
        assert_ne!(moved(step.done), step.state, "{}: done moves on", step.name);
        if let Some(refused) = step.refused {
            assert_ne!(moved(refused), moved(step.done), "{}: refused goes another way", step.name);
        }
        assert_eq!(moved(OrderSaga::DEADLINE_PASSED), step.state, "{}: asks again", step.name);
        let gives_up = moved(OrderSaga::LAST_DEADLINE_PASSED) != step.state;
        assert_eq!(gives_up, step.unanswered == Patience::AskThenCompensate, "{}", step.name);
        if let Some(name) = step.compensation {
            let compensation = OrderSaga::STEPS.iter().find(|step| step.name == name).expect("a compensation is a row too");
            assert_eq!(compensation.kind, Kind::Compensation);
            assert_eq!(moved(OrderSaga::LAST_DEADLINE_PASSED), compensation.state, "{}: unknown is compensated", step.name);
        }
    }
}

#[test]
fn words_read_back_as_they_are_written() {
    for state in <OrderSaga as Saga>::State::ALL {
        assert_eq!(Word::parse(state.as_str()), Some(*state));
    }
    for input in <OrderSaga as Saga>::Input::ALL {
        assert_eq!(Word::parse(input.as_str()), Some(*input));
    }
}
