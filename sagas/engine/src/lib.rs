//! Runs any saga on the log: loads instances, asks the table, appends what follows, watches deadlines.
//!
//! Never here: what a particular saga decides (`sagas/core`), nor which messages are its inputs (the service that hosts it). From
//! here the flow goes into the hosting service's transaction, and with it to the log.

mod engine;
mod instance;
mod metrics;
mod store;
mod timer;

pub use engine::{Applied, Engine, Patience};
pub use instance::Instance;
pub use metrics::Metrics;
pub use store::{Listed, Loaded, MIGRATION, Open, Selection, list, load, open, save};
pub use timer::{look, watch_deadlines};
