//! What the fuzz targets share: inputs as lines of text, so that a mutation changes one thing, and services to send them to.
//!
//! Never here: what must hold; that stands in each target. Flags, corpora and replay: ../docs/fuzzing.md.

pub mod house;
pub mod lines;
pub mod payload;
