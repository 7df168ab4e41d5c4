//! Tests of the saga tables: every cell, whole conversations, and the laws.

mod cells;
mod dialogue;
mod histories;
mod laws;
mod replies;
