//! Trace contexts as they travel in headers, of HTTP and of gRPC: W3C's, else Jaeger's `uber-trace-id`; and baggage beside them.
//!
//! Never here: spans. [`crate::http`] puts the context into the request; services store it with every row.
//! Source: <https://www.w3.org/TR/trace-context/>, <https://www.w3.org/TR/baggage/>,
//! <https://www.jaegertracing.io/sdk-migration/#propagation-format>.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use contract::Trace;
use eventlog::Env;

/// The longest `baggage` that is carried on; the standard lets a carrier drop what is longer than this.
const BAGGAGE_BYTES_MAX: usize = 8_192;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
const JAEGER: HeaderName = HeaderName::from_static("uber-trace-id");

/// The context of a request that came in.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The caller's, if there was one.
    pub caller: Option<Trace>,
    /// Of its being answered here.
    pub own: Trace,
}

/// Takes the caller's context out of the headers, or begins a trace.
pub fn arrive(headers: &HeaderMap, env: &Env) -> Arrival {
    let caller = caller(headers);
    // All zeros would mean "none": one bit is always set.
    let own = match (&caller, env.observer()) {
        (Some(caller), Some(_)) => caller.child(env.random() | 1),
        // Nobody would hear of a span between the caller's and those of whom is called from here.
        (Some(caller), None) => caller.clone(),
        (None, observer) => {
            let (high, low, span) = (env.random(), env.random() | 1, env.random() | 1);
            let trace = u128::from(high) << 64 | u128::from(low);
            Trace::of(trace, span, observer.is_some_and(|observer| observer.samples(trace)))
        }
    };
    Arrival { caller, own }
}

fn caller(headers: &HeaderMap) -> Option<Trace> {
    // Two that differ are of two callers, or somebody tampered with them: nobody knows whose trace this is.
    let one = |name| {
        let mut values = headers.get_all(name).iter();
        let first = values.next();
        if values.all(|value| Some(value) == first) { Ok(first) } else { Err(()) }
    };
    let (w3c, jaegers) = (one(TRACEPARENT).ok()?, one(JAEGER).ok()?);
    match w3c.and_then(|value| parent(value.to_str().ok()?)) {
        Some(parent) => Some(Trace { parent: Some(parent), state: state(headers) }),
        None => jaeger(jaegers?.to_str().ok()?),
    }
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
    // What is no text is no state, and neither is what is beside it.
    let parts: Vec<&str> = headers.get_all(TRACESTATE).iter().map(|value| value.to_str().ok()).collect::<Option<_>>()?;
    // White space around a member may be a tab, which is none of a Kafka header's characters here: the state would end at the relay.
    let state = parts.join(",").replace('\t', " ");
    Trace::is_state(&state).then_some(state)
}

/// The context as Jaeger's own clients send it: `<trace>:<span>:<parent, unused>:<flags>`, hexadecimal, zeros in front left out, and
/// its colons perhaps written as in a URL.
fn jaeger(text: &str) -> Option<Trace> {
    let text = text.replace("%3A", ":");
    let number = |text: &str, digits: usize| {
        let is_hex = (1..=digits).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        is_hex.then(|| u128::from_str_radix(text, 16).ok()).flatten()
    };
    let mut parts = text.split(':');
    let (trace, span) = (number(parts.next()?, 32)?, number(parts.next()?, 16)?);
    let (_, flags) = (parts.next()?, number(parts.next()?, 2)?);
    let is_good = trace != 0 && span != 0 && parts.next().is_none();
    is_good.then(|| Trace::of(trace, span as u64, flags & 1 == 1))
}

/// What the caller wants carried along, as it came; nothing where it is too long. It is not kept: it ends at the log.
pub fn baggage(headers: &HeaderMap) -> Option<String> {
    let parts: Vec<&str> = headers.get_all(BAGGAGE).iter().filter_map(|value| value.to_str().ok()).collect();
    let baggage = parts.join(",");
    (!baggage.is_empty() && baggage.len() <= BAGGAGE_BYTES_MAX).then_some(baggage)
}

/// Writes a context into the headers of a call, in the words of both.
pub fn depart(trace: &Trace, baggage: Option<&str>, headers: &mut HeaderMap) {
    let jaeger = trace.id().zip(trace.span()).map(|(id, span)| format!("{id}:{span}:0:{}", u8::from(trace.is_sampled())));
    let pairs = [
        (TRACEPARENT, trace.parent.as_deref()),
        (TRACESTATE, trace.state.as_deref()),
        (BAGGAGE, baggage),
        (JAEGER, jaeger.as_deref()),
    ];
    for (name, value) in pairs {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// Wants to hear everything, and keeps nothing.
    struct Eager;

    impl eventlog::Observer for Eager {
        fn samples(&self, _: u128) -> bool {
            true
        }
        fn committed(&self, _: &eventlog::Committed<'_>) {}
        fn carried(&self, _: &eventlog::Carried<'_>) {}
        fn told(&self, _: &'static str, _: eventlog::Span) {}
    }

    fn heard() -> Env {
        Env::system().with_observer(std::sync::Arc::new(Eager))
    }

    fn headers(parent: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", parent.parse().unwrap());
        headers.insert("tracestate", "vendor=1".parse().unwrap());
        headers
    }

    #[test]
    fn a_good_context_is_taken_and_what_is_done_here_is_a_child_of_it() {
        let Arrival { caller, own } = arrive(&headers(GOOD), &heard());
        assert_eq!(caller, Some(Trace { parent: Some(GOOD.into()), state: Some("vendor=1".into()) }));
        assert_eq!((own.id(), own.state.as_deref()), (Some("0af7651916cd43dd8448eb211c80319c"), Some("vendor=1")));
        assert_ne!(own.span(), Some("b7ad6b7169203331"));
        assert!(own.is_sampled());
        let unseen = arrive(&headers(&GOOD.replace("-01", "-00")), &heard());
        assert!(!unseen.own.is_sampled(), "what the caller decided holds");
        assert!(arrive(&HeaderMap::new(), &heard()).own.is_sampled());
        assert!(!arrive(&HeaderMap::new(), &Env::system()).own.is_sampled(), "nobody hears it");
        let passed_on = arrive(&headers(GOOD), &Env::system());
        assert_eq!(passed_on.caller, Some(passed_on.own));
    }

    #[test]
    fn white_space_in_a_state_is_blanks() {
        let mut headers = headers(GOOD);
        headers.append("tracestate", "a=1\t,\tb=2".parse().unwrap());
        assert_eq!(arrive(&headers, &Env::system()).own.state.as_deref(), Some("vendor=1,a=1 , b=2"));
    }

    #[test]
    fn callers_that_contradict_each_other_are_none_and_so_is_a_state_that_breaks_the_grammar() {
        let mut twice = headers(GOOD);
        twice.append("traceparent", GOOD.parse().unwrap());
        assert!(arrive(&twice, &Env::system()).caller.is_some(), "the same one, twice");
        twice.append("traceparent", GOOD.replace('b', "c").parse().unwrap());
        twice.insert("uber-trace-id", "4d00000000000016:17c29:0:1".parse().unwrap());
        let Arrival { caller, own } = arrive(&twice, &Env::system());
        assert_eq!((caller, own.state.as_deref()), (None, None));
        assert_ne!(own.id(), Some("0af7651916cd43dd8448eb211c80319c"));
        let mut jaegers = HeaderMap::new();
        jaegers.append("uber-trace-id", "4d00000000000016:17c29:0:1".parse().unwrap());
        jaegers.append("uber-trace-id", "4d00000000000017:17c29:0:1".parse().unwrap());
        assert_eq!(arrive(&jaegers, &Env::system()).caller, None);

        for bad in ["A=1", "a=", "a", &format!("{}=1", "k".repeat(257)), &vec!["a=1"; 32].join(",")] {
            let mut headers = headers(GOOD);
            headers.append("tracestate", bad.parse().unwrap());
            let caller = arrive(&headers, &Env::system()).caller.unwrap();
            assert_eq!((caller.parent.as_deref(), caller.state), (Some(GOOD), None), "{bad}");
        }
        let mut unreadable = headers(GOOD);
        unreadable.append("tracestate", HeaderValue::from_bytes(b"a=\xff").unwrap());
        assert_eq!(arrive(&unreadable, &Env::system()).own.state, None);
    }

    #[test]
    fn a_later_version_is_read_as_this_one() {
        let arrival = arrive(&headers(&format!("cc{}-what-is-new", &GOOD[2..])), &Env::system());
        assert_eq!(arrival.caller.unwrap().parent.as_deref(), Some(GOOD));
    }

    #[test]
    fn a_bad_context_is_replaced_and_its_state_dropped() {
        let zero_trace = format!("00-{}-b7ad6b7169203331-01", "0".repeat(32));
        let zero_span = format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", "0".repeat(16));
        let bad =
            ["", "00", "ff-1", &GOOD.to_uppercase(), &format!("{GOOD}-x"), &format!("ff{}", &GOOD[2..]), &zero_trace, &zero_span];
        for bad in bad {
            let Arrival { caller, own } = arrive(&headers(bad), &Env::system());
            assert_eq!(caller, None, "{bad}");
            assert_ne!(own.id(), Some("0af7651916cd43dd8448eb211c80319c"), "{bad}");
            assert!(Trace::is_parent(own.parent.as_deref().unwrap()), "{bad}");
            assert_eq!(own.state, None, "{bad}");
        }
    }

    #[test]
    fn jaeger_s_header_is_taken_where_there_is_none_of_w3c() {
        let jaeger = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("uber-trace-id", value.parse().unwrap());
            headers
        };
        let taken = |headers: &HeaderMap| arrive(headers, &Env::system()).caller.and_then(|caller| caller.parent);
        assert_eq!(taken(&jaeger("0af7651916cd43dd8448eb211c80319c:b7ad6b7169203331:0:1")).as_deref(), Some(GOOD));
        let short = "00-00000000000000004d00000000000016-0000000000017c29-00";
        assert_eq!(taken(&jaeger("4d00000000000016:17c29:0:0")).as_deref(), Some(short));
        assert_eq!(taken(&jaeger("4d00000000000016%3A17c29%3A0%3A0")).as_deref(), Some(short));
        for bad in ["", "1:2", "x:y:0:1", "0:17c29:0:1", "4d00000000000016:0:0:1", "1:2:3:4:5", "1:+2:0:1"] {
            assert_eq!(taken(&jaeger(bad)), None, "{bad}");
        }
        let mut both = jaeger("4d00000000000016:17c29:0:0");
        both.insert("traceparent", GOOD.parse().unwrap());
        assert_eq!(taken(&both).as_deref(), Some(GOOD));
    }

    #[test]
    fn what_departs_arrives_by_either_header() {
        let (mut sent, trace) = (HeaderMap::new(), Trace { parent: Some(GOOD.into()), state: Some("vendor=1".into()) });
        depart(&trace, Some("tenant=7"), &mut sent);
        assert_eq!(baggage(&sent).as_deref(), Some("tenant=7"));
        assert_eq!(arrive(&sent, &Env::system()).caller, Some(trace));
        sent.remove("traceparent");
        assert_eq!(arrive(&sent, &Env::system()).caller.unwrap().parent.as_deref(), Some(GOOD));
        sent.insert("baggage", "x".repeat(BAGGAGE_BYTES_MAX + 1).parse().unwrap());
        assert_eq!(baggage(&sent), None);
    }
}
