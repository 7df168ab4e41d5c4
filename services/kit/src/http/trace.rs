//! The W3C trace context of a request: taken from its headers, or made.
//!
//! Never here: spans and their export. [`super::layer`] puts the context into the request; services store it with every row.
//! Source: <https://www.w3.org/TR/trace-context/>.

use axum::http::HeaderMap;
use contract::Trace;
use eventlog::Env;

/// The longest `tracestate` that is carried on; the standard asks for at least this.
const TRACESTATE_BYTES_MAX: usize = 512;

/// The request's context, or a new one that is marked as sampled.
pub(crate) fn of(headers: &HeaderMap, env: &Env) -> Trace {
    match headers.get("traceparent").and_then(|value| parent(value.to_str().ok()?)) {
        Some(parent) => Trace { parent: Some(parent), state: state(headers) },
        None => made(env),
    }
}

fn made(env: &Env) -> Trace {
    // All zeros would mean "no trace": one bit is always set.
    let (high, low, span) = (env.random(), env.random() | 1, env.random() | 1);
    Trace { parent: Some(format!("00-{high:016x}{low:016x}-{span:016x}-01")), state: None }
}

/// A well-formed `traceparent`, as version 00: of a later version only the fields of this one are known.
fn parent(text: &str) -> Option<String> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_whole = version != "00" || parts.next().is_none();
    let is_good = hex(version, 2) && version != "ff" && hex(trace, 32) && hex(span, 16) && hex(flags, 2);
    let is_zero = |id: &str| id.bytes().all(|digit| digit == b'0');
    if !is_good || !is_whole || is_zero(trace) || is_zero(span) {
        return None;
    }
    Some(format!("00-{trace}-{span}-{flags}"))
}

fn hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

fn state(headers: &HeaderMap) -> Option<String> {
    let parts: Vec<&str> = headers.get_all("tracestate").iter().filter_map(|value| value.to_str().ok()).collect();
    // White space around a member may be a tab, which is none of a Kafka header's characters here: the state would end at the relay.
    let state = parts.join(",").replace('\t', " ");
    (!state.is_empty() && state.len() <= TRACESTATE_BYTES_MAX).then_some(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(parent: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", parent.parse().unwrap());
        headers.insert("tracestate", "vendor=1".parse().unwrap());
        headers
    }

    #[test]
    fn a_good_context_is_taken() {
        let trace = of(&headers(GOOD), &Env::system());
        assert_eq!(trace, Trace { parent: Some(GOOD.into()), state: Some("vendor=1".into()) });
    }

    #[test]
    fn white_space_in_a_state_is_blanks() {
        let mut headers = headers(GOOD);
        headers.append("tracestate", "a=1\t,\tb=2".parse().unwrap());
        assert_eq!(of(&headers, &Env::system()).state.as_deref(), Some("vendor=1,a=1 , b=2"));
    }

    #[test]
    fn a_later_version_is_read_as_this_one() {
        let trace = of(&headers(&format!("cc{}-what-is-new", &GOOD[2..])), &Env::system());
        assert_eq!(trace.parent.as_deref(), Some(GOOD));
    }

    #[test]
    fn a_bad_context_is_replaced_and_its_state_dropped() {
        let zero_trace = format!("00-{}-b7ad6b7169203331-01", "0".repeat(32));
        let zero_span = format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", "0".repeat(16));
        let bad =
            ["", "00", "ff-1", &GOOD.to_uppercase(), &format!("{GOOD}-x"), &format!("ff{}", &GOOD[2..]), &zero_trace, &zero_span];
        for bad in bad {
            let trace = of(&headers(bad), &Env::system());
            assert_ne!(trace.id(), Some("0af7651916cd43dd8448eb211c80319c"), "{bad}");
            assert_eq!(trace.id().map(str::len), Some(32), "{bad}");
            assert_eq!(trace.state, None, "{bad}");
        }
    }
}
