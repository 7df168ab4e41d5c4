//! The order service from outside: its whole router on a fresh database; product and payment are played by the tests.
//!
//! Never here: the service's own types, but for what builds it and the quotes of its stock check. The same suite runs on SQLite
//! in `cargo test` and on PostgreSQL by `ci/postgres.sh`.

mod basket;
mod cancelling;
mod deadlines;
mod document;
mod events;
mod placing;
mod reading;
mod repeating;
mod replies;
mod shop;
mod steering;
