//! Trace contexts, and the ids of spans, which follow from what they are about: a message sent is the span that its own id ends
//! with, a message handled follows from who handled it. So whoever does it twice tells of one span, and nobody has to draw.
//!
//! Never here: spans themselves. They are told after the commit: `events/log` knows what was done, `services/kit` says it.

use std::time::Duration;

use uuid::Uuid;

use crate::{MessageId, Timestamp};

/// What is handled so long after it was appended begins a trace of its own, linked to the old one, which nobody looks at any more.
pub const LATE: Duration = Duration::from_secs(15 * 60);

/// The longest `tracestate` that is carried on; the standard asks for at least this.
const STATE_BYTES_MAX: usize = 512;
/// The most members that a `tracestate` has.
const STATE_MEMBERS_MAX: usize = 32;

/// A W3C trace context, recorded when a message is appended and never replaced by a carrier's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Trace {
    /// `traceparent`, as `00-<32 hex>-<16 hex>-<2 hex>`.
    pub parent: Option<String>,
    /// `tracestate` as it came: well-formed, but nobody's here to read.
    pub state: Option<String>,
}

impl Trace {
    /// The context of a span; neither id is zero.
    pub fn of(trace: u128, span: u64, is_sampled: bool) -> Self {
        Self { parent: Some(format!("00-{trace:032x}-{span:016x}-{:02x}", u8::from(is_sampled))), state: None }
    }

    /// The 32 hexadecimal digits of the trace id, if there is a well-formed `traceparent`.
    pub fn id(&self) -> Option<&str> {
        self.parent.as_deref()?.split('-').nth(1)
    }

    /// The 16 hexadecimal digits of the span id.
    pub fn span(&self) -> Option<&str> {
        self.parent.as_deref()?.split('-').nth(2)
    }

    /// Whether somebody wants to see it.
    pub fn is_sampled(&self) -> bool {
        let flags = self.parent.as_deref().and_then(|parent| parent.get(53..55));
        flags.and_then(|flags| u8::from_str_radix(flags, 16).ok()).is_some_and(|flags| flags & 1 == 1)
    }

    /// The trace id, if the trace is recorded: where it can be looked up.
    pub fn recorded_id(&self) -> Option<&str> {
        self.id().filter(|_| self.is_sampled())
    }

    /// The context of another span of the same trace; none where there is none.
    pub fn child(&self, span: u64) -> Self {
        let parent = self.parent.as_deref().and_then(|parent| Some((parent.get(..36)?, parent.get(52..)?)));
        Self { parent: parent.map(|(trace, flags)| format!("{trace}{span:016x}{flags}")), state: self.state.clone() }
    }

    /// The context of the first span of another trace, which is recorded if this one is; none where there is none.
    pub fn apart(&self, trace: u128, span: u64) -> Self {
        if self.parent.is_some() { Self::of(trace, span, self.is_sampled()) } else { Self::default() }
    }

    /// Whether `text` is a `traceparent` of version 00: lower-case hexadecimal digits, and neither id zero.
    pub fn is_parent(text: &str) -> bool {
        let hex = |part: &str, digits| part.len() == digits && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let id = |part, digits| hex(part, digits) && part.bytes().any(|b| b != b'0');
        let mut parts = text.split('-');
        let mut next = || parts.next().unwrap_or_default();
        next() == "00" && id(next(), 32) && id(next(), 16) && hex(next(), 2) && parts.next().is_none()
    }

    /// Whether `text` is a `tracestate`: members `key=value` between commas, blank ones passed over. What is not is dropped whole, as
    /// nobody knows where in it the mistake is. Source: <https://www.w3.org/TR/trace-context-1/#tracestate-header>.
    pub fn is_state(text: &str) -> bool {
        let members = || text.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|member| !member.is_empty());
        let is_member = |member: &str| member.split_once('=').is_some_and(|(key, value)| is_key(key) && is_value(value));
        text.len() <= STATE_BYTES_MAX && (1..=STATE_MEMBERS_MAX).contains(&members().count()) && members().all(is_member)
    }
}

/// `vendor`, or `tenant@vendor`, in lower case.
fn is_key(key: &str) -> bool {
    let is_lower = |byte: &u8| byte.is_ascii_lowercase();
    let is_part = |part: &str, most, begins: &dyn Fn(&u8) -> bool| {
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'*' | b'/');
        (1..=most).contains(&part.len()) && part.as_bytes().first().is_some_and(begins) && part.bytes().all(good)
    };
    match key.split_once('@') {
        None => is_part(key, 256, &is_lower),
        Some((tenant, vendor)) => {
            is_part(tenant, 241, &|byte| is_lower(byte) || byte.is_ascii_digit()) && is_part(vendor, 14, &is_lower)
        }
    }
}

/// 1 to 256 visible characters and blanks, without a comma or an equals sign.
fn is_value(value: &str) -> bool {
    (1..=256).contains(&value.len()) && value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b',' && byte != b'=')
}

impl MessageId {
    /// The span in which the message was sent. A UUIDv7 has a bit in its last half that is always set, so it is not zero.
    pub fn span(self) -> u64 {
        self.0.as_u64_pair().1
    }
}

/// The id of a span that is about these words and this thing; always the same, and never zero.
pub fn span_of(words: &[&str], about: Uuid) -> u64 {
    // FNV-1a, and MurmurHash3's last step to spread it over all bits.
    let bytes = words.iter().flat_map(|word| word.bytes().chain([0xff])).chain(about.into_bytes());
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    for factor in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ hash >> 33).wrapping_mul(factor);
    }
    (hash ^ hash >> 33).max(1)
}

/// The id of a trace that begins in such a span.
pub fn trace_of(words: &[&str], about: Uuid) -> u128 {
    let half = |name| u128::from(span_of(&[&[name], words].concat(), about));
    half("trace, first half") << 64 | half("trace, second half")
}

/// The context of `consumer` handling a message: a span of the message's trace, or the first of a new one if it comes `late`, with
/// what makes this time different from others.
pub(crate) fn handling(of: &Trace, consumer: &str, id: MessageId, apart: Option<&str>) -> Trace {
    match apart {
        None => of.child(span_of(&["process", consumer], id.0)),
        Some(why) => {
            let words = ["process", consumer, why];
            of.apart(trace_of(&words, id.0), span_of(&words, id.0))
        }
    }
}

/// The context of redriving a message, the first span of a trace, and that of handling it then.
pub(crate) fn redriving(of: &Trace, consumer: &str, id: MessageId, replays: i64, is_late: bool) -> (Trace, Trace) {
    let which = format!("redriven {replays}");
    let words = |verb| [verb, consumer, which.as_str()];
    let act = of.apart(trace_of(&words("redrive"), id.0), span_of(&words("redrive"), id.0));
    let handling = if is_late { &act } else { of }.child(span_of(&words("process"), id.0));
    (act, handling)
}

/// Whether what was appended then is handled late now.
pub fn is_late(appended: Timestamp, now: Timestamp) -> bool {
    now.since(appended) > LATE
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn trace() -> Trace {
        Trace { parent: Some(PARENT.into()), state: Some("a=1".into()) }
    }

    #[test]
    fn a_child_keeps_all_but_the_span_and_another_trace_keeps_only_whether_it_is_seen() {
        let child = trace().child(7);
        assert_eq!(child.parent.as_deref(), Some("00-0af7651916cd43dd8448eb211c80319c-0000000000000007-01"));
        assert_eq!((child.state.as_deref(), child.span(), child.is_sampled()), (Some("a=1"), Some("0000000000000007"), true));
        let apart = trace().apart(1, 2);
        assert_eq!(apart, Trace::of(1, 2, true));
        assert!(Trace::is_parent(apart.parent.as_deref().unwrap()));
        assert!(!Trace::of(1, 2, false).child(3).is_sampled());
        assert_eq!((Trace::default().child(1), Trace::default().apart(1, 2)), (Trace::default(), Trace::default()));
    }

    #[test]
    fn a_state_keeps_to_the_grammar() {
        let long = |letter: &str, times: usize| letter.repeat(times);
        let members = |count: usize| (0..count).map(|number| format!("m{number}=1")).collect::<Vec<_>>().join(",");
        let keys = [long("z", 256), format!("{}@{}", long("t", 241), long("v", 14)), "0a@b".into(), "a_-*/1".into()];
        let good = ["a=1".into(), "a=1, ,\tb= 2 ".into(), members(32), format!("a={}", long("x", 256)), "a=!~ \"".into()];
        for good in keys.iter().map(|key| format!("{key}=1")).chain(good) {
            assert!(Trace::is_state(&good), "{good}");
        }
        let keys = [
            long("z", 257),
            format!("{}@v", long("t", 242)),
            format!("t@{}", long("v", 15)),
            "A".into(),
            "a b".into(),
            "a ".into(),
            "a.b".into(),
            "0a".into(),
            "@a".into(),
            "a@".into(),
            "a@b@c".into(),
            "a@0".into(),
            String::new(),
        ];
        let bad = ["", " ,", "a", "a=", "a=1=2", "a=1,b", "a=\u{e9}", "a=\u{0}"].map(str::to_owned);
        let long = [members(33), format!("a={}", long("x", 257)), format!("a={},b={}", long("x", 256), long("y", 252))];
        for bad in keys.iter().map(|key| format!("{key}=1")).chain(bad).chain(long) {
            assert!(!Trace::is_state(&bad), "{bad}");
        }
    }

    #[test]
    fn ids_follow_from_what_they_are_about() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(span_of(&["process", "order"], one), span_of(&["process", "order"], one));
        let all = [
            span_of(&["process", "order"], one),
            span_of(&["process", "order"], other),
            span_of(&["process", "payment"], one),
            span_of(&["processorder"], one),
            span_of(&["trace", "first half"], one),
        ];
        let distinct: std::collections::BTreeSet<u64> = all.into_iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!(span_of(&["process", "order"], one), 7_572_429_638_966_908_023, "in every release: rows that wait name it");
    }
}
