//! The payload of a message: `<type> <schema version>`, a line end, the data.

#![no_main]

use skald_fuzz::{lines, payload};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (Ok(text), (_, Some(_))) = (std::str::from_utf8(bytes), lines::first(bytes)) else { return };
    let (what, data) = text.split_once('\n').unwrap_or_default();
    let (kind, schema) = what.rsplit_once(' ').unwrap_or((what, "1"));
    payload::check(kind, schema.parse().unwrap_or(1), data);
});
