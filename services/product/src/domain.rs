//! What the product service decides: the catalogue, the stock, the reservations. Pure functions on plain values.
//!
//! Never here: async, clock, randomness, I/O, SQL. Time and ids come with the commands.
//! From here the flow goes to `handler.rs`, which loads the states, asks these deciders and appends what they say.

pub mod catalogue;
pub mod reservation;
pub mod stock;
