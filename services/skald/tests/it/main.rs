//! `skald` from outside: the real binary, its exit codes, and every outcome of an order through REST.

#[path = "../support/mod.rs"]
mod support;

mod costs;
mod demo;
mod disk;
mod orders;
mod serve;
mod start;
mod stock;
mod traces;
