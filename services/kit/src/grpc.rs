//! The stock check over gRPC: code made from `proto/stock.proto`, committed so that building needs no protobuf compiler.
//!
//! Never here: edits by hand; `tests/proto.rs` makes the code anew and compares. Product serves it, order calls it.

#[allow(clippy::all, clippy::pedantic, missing_docs, unreachable_pub, reason = "generated")]
#[rustfmt::skip]
pub mod stock;
