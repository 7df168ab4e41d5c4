//! `Idempotency-Key`, one header a line.

#![no_main]

use std::{cell::LazyCell, thread_local};

use axum::http::{HeaderMap, HeaderValue};
use eventlog::{Log, Opened};
use kit::{
    Idempotency,
    idempotency::{Begun, InFlight},
};
use skald_fuzz::house::Desk;

struct Keys {
    desk: Desk,
    opened: Opened,
    idempotency: Idempotency,
}

thread_local! {
    static KEYS: LazyCell<Keys> = LazyCell::new(|| {
        let desk = Desk::default();
        let opened = desk.run(desk.open("keys", &[]));
        Keys { desk, opened, idempotency: Idempotency::new([1; 32]) }
    });
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some(values) = bytes.split(|byte| *byte == b'\n').map(|value| HeaderValue::from_bytes(value).ok()).collect() else {
        return;
    };
    KEYS.with(|keys| keys.check(values));
});

/// One value of 1 to 255 visible ASCII characters, in quotes or not, with blanks around it.
fn meant(values: &[HeaderValue]) -> Option<String> {
    let [value] = values else { return None };
    let text = std::str::from_utf8(value.as_bytes()).ok()?.trim_matches([' ', '\t']);
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let is_good = !inner.is_empty() && inner.len() <= 255 && inner.chars().all(|letter| ('!'..='~').contains(&letter));
    is_good.then(|| inner.to_owned())
}

impl Keys {
    fn begin(&self, values: &[HeaderValue], scope: &str, route: &'static str, body: &[u8]) -> Result<InFlight, u16> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("idempotency-key", value.clone());
        }
        let log: &Log = &self.opened.log;
        match self.desk.run(self.idempotency.begin(&headers, true, scope, route, body, log)) {
            Ok(Begun::Fresh(in_flight)) => Ok(in_flight.expect("a key is required")),
            Ok(Begun::Repeated(_)) => panic!("nothing was ever done here"),
            Err(problem) => Err(problem.status.as_u16()),
        }
    }

    fn check(&self, values: Vec<HeaderValue>) {
        let first = match (self.begin(&values, "somebody", "POST /", b"body"), meant(&values)) {
            (Ok(first), Some(_)) => first,
            (Err(400), None) => return,
            (begun, meant) => panic!("{values:?} is {:?}, and was taken for {meant:?}", begun.err()),
        };
        // The same key: whatever the quotes and the body, while the first is under way.
        let key = meant(&values).unwrap_or_default();
        let own = |key: &str| HeaderValue::try_from(format!(" \"{key}\" ")).expect("visible ASCII");
        assert_eq!(self.begin(&[own(&key)], "somebody", "POST /", b"another").err(), Some(409));
        // Another one: of somebody else, and of a route that runs into its key.
        let mut others = vec![(key.as_str(), "nobody", "POST /")];
        if let Some(rest) = key.strip_prefix('a').filter(|rest| !rest.is_empty()) {
            others.push((rest, "somebody", "POST /a"));
        }
        for (other, scope, route) in others {
            let other = self.begin(&[own(other)], scope, route, b"body").unwrap_or_else(|status| panic!("{status} for {route}"));
            assert_ne!(other.key.key, first.key.key);
        }
    }
}
