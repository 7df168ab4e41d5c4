//! The whole shop on one seed: production code, one step at a time, with faults and then calm.
//!
//! `world` is what there is, `choose` what can happen, `act` what does; `check` judges, apart from the code under test. The same
//! seed gives the same run to the last byte. docs/simulation.md says what is simulated and what is not.

mod act;
mod broker;
mod chance;
mod check;
mod choose;
mod clock;
mod disk;
mod drive;
mod fault;
mod provider;
mod relay;
mod replica;
mod run;
mod shop;
mod trace;
mod world;

pub use run::{Ended, Summary, simulate};
pub use world::{Counts, Plan};
