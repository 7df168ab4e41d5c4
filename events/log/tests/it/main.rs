//! The log's conformance suite: on SQLite in `cargo test`, on PostgreSQL by `ci/postgres.sh`.

mod answer_lost;
mod append;
mod clocks;
mod consume;
mod fixture;
mod many;
mod memory;
mod observe;
mod open;
mod verdicts;
mod wake;
