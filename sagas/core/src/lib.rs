//! Sagas as pure tables: a state, an input, a decision. Open `order.rs` first.
//!
//! Never here: I/O, async, clocks, randomness. From here the flow goes to `sagas/engine`, which loads an instance, asks the
//! table and appends what follows.

pub mod drawing;
pub mod invariants;
pub mod laws;
pub mod machine;
pub mod order;
#[cfg(feature = "planted")]
mod planted;
mod words;

pub use invariants::Invariant;
pub use machine::{Decision, Kind, Outbound, Patience, Saga, Step, Why};
pub use words::Word;
