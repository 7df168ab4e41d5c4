//! Trace contexts, and the ids of spans, which follow from what they are about: a message sent is the span that its own id ends
//! with, a message handled follows from who handled it. So whoever does it twice tells of one span, and nobody has to draw.
//!
//! Never here: spans themselves. They are told after the commit: `events/log` knows what was done, `services/kit` says it.

use std::time::Duration;

use uuid::Uuid;

use crate::{MessageId, Timestamp};

/// What is handled so long after it was appended begins a trace of its own, linked to the old one, which nobody looks at any more.
pub const LATE: Duration = Duration::from_secs(15 * 60);

/// A W3C trace context, recorded when a message is appended and never replaced by a carrier's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Trace {
    /// `traceparent`, as `00-<32 hex>-<16 hex>-<2 hex>`.
    pub parent: Option<String>,
    /// `tracestate`, unparsed.
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
