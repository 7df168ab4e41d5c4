//! One running (or ended) saga, as its row keeps it.

use contract::{Timestamp, Trace};
use saga::Saga;
use uuid::Uuid;

/// The fold of one saga's stream.
#[derive(Clone, Debug)]
pub struct Instance<S: Saga> {
    pub id: Uuid,
    /// The version of the table it runs by.
    pub definition: u16,
    pub state: S::State,
    /// Why it is being or was compensated.
    pub reason: Option<S::Reason>,
    /// How often the present step was asked, from 1.
    pub attempt: u32,
    /// It has waited past its bound; it goes on asking.
    pub stuck: bool,
    /// The version of its stream's newest row.
    pub version: i64,
    /// When it acts by itself if nothing comes in; `None` once it has ended.
    pub due: Option<Timestamp>,
    pub started: Timestamp,
    pub ended: Option<Timestamp>,
    pub context: S::Context,
    /// The trace it began in: what a deadline appends belongs there too.
    pub trace: Trace,
}

impl<S: Saga> Instance<S> {
    /// Its stream in the log.
    pub fn stream(id: Uuid) -> String {
        format!("saga-{id}")
    }

    /// The step it waits for, such as `reserve_stock`; `None` once it has ended.
    pub fn step(&self) -> Option<&'static str> {
        S::step(self.state).map(|step| step.name)
    }
}
