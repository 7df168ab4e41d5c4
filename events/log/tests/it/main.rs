//! The log's conformance suite: on SQLite in `cargo test`, on PostgreSQL by `ci/postgres.sh`.

mod answer_lost;
mod append;
mod consume;
mod fixture;
mod many;
mod observe;
mod open;
mod verdicts;
mod wake;
