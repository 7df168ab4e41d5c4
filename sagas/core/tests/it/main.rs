//! Tests of the saga tables: every cell, and whole conversations.

mod cells;
mod dialogue;
