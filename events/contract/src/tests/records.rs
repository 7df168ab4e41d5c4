//! Records: what is written is read, and whatever else stands on a topic is refused by name.

use proptest::{collection::vec, option, prelude::*};
use uuid::Uuid;

use crate::{
    Cause, DeadLetter, Link, Malformed, Message, MessageId, Meta, Record, Seal, Source, Timestamp, Trace,
    record::{decode, encode},
};

pub(super) const TOPIC: &str = "order.events.v1";
/// The first instant of year 1 and the last whole second that can be written, late in the year 9999; in microseconds.
const TIMES: std::ops::RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_207_200_000_000;

fn source() -> Source {
    Source { service: "order".into(), log: Uuid::from_u128(7), epoch: 1 }
}

fn message() -> Message {
    Message {
        position: 5,
        id: MessageId(Uuid::from_u128(1)),
        stream: "order-1".into(),
        version: 0,
        topic: Some(TOPIC.into()),
        key: Some("k".into()),
        kind: "order.OrderPlaced".into(),
        schema: 1,
        data: r#"{"a":1}"#.into(),
        time: Timestamp(1_700_000_000_123_456),
        meta: Meta::default(),
    }
}

fn record() -> Record {
    encode(&message(), &source(), 4)
}

/// The good record with one header set, or taken away.
fn with(name: &str, value: Option<&str>) -> Record {
    let mut record = record();
    record.headers.retain(|(found, _)| found != name);
    record.headers.extend(value.map(|value| (name.to_owned(), value.into())));
    record
}

fn why(record: &Record) -> String {
    decode(TOPIC, record).expect_err("a malformed record").to_string()
}

#[test]
fn whatever_is_wrong_with_an_envelope_is_said() {
    for (name, value, said) in [
        ("content-type", None, "header content-type is missing or empty"),
        ("content-type", Some("text/plain"), "content-type is \"text/plain\", not application/json"),
        ("ce_specversion", Some("0.3"), "ce_specversion is \"0.3\", not 1.0"),
        ("ce_id", Some(""), "header ce_id is missing or empty"),
        (
            "ce_id",
            Some("00000000-0000-0000-0000-00000000000A"),
            "header ce_id is not a UUID: \"00000000-0000-0000-0000-00000000000A\"",
        ),
        ("ce_id", Some("1\u{0}"), "header ce_id is not text: UTF-8 without control characters"),
        (
            "ce_source",
            Some("/skald/order/x/1"),
            "ce_source: a source is /skald/<service>/<log id>/<epoch>, not \"/skald/order/x/1\"",
        ),
        ("ce_type", None, "header ce_type is missing or empty"),
        (
            "ce_type",
            Some("order.OrderGone"),
            "ce_dataschema is \"urn:skald:schema:order.OrderPlaced:1\", not urn:skald:schema:\"order.OrderGone\":<version>",
        ),
        ("ce_time", Some("yesterday"), "ce_time is not RFC 3339: \"yesterday\""),
        ("ce_subject", None, "header ce_subject is missing or empty"),
        ("ce_dataschema", Some("urn:skald:schema:order.OrderPlaced:0"), "not urn:skald:schema:\"order.OrderPlaced\":<version>"),
        ("ce_sequence", Some("05"), "header ce_sequence is not a count: \"05\""),
        ("ce_sequence", Some("4"), "ce_sequence 4 does not come after ce_previous 4"),
        ("ce_previous", Some("-1"), "header ce_previous is not a count: \"-1\""),
        ("ce_previous", None, "header ce_previous is missing or empty"),
        ("ce_correlationid", Some("x"), "header ce_correlationid is not a UUID: \"x\""),
        ("ce_causationid", Some("x"), "header ce_causationid is not a UUID: \"x\""),
        ("ce_partitionkey", Some("other"), "the key is not ce_partitionkey"),
    ] {
        let found = why(&with(name, value));
        assert!(found.ends_with(said), "{name} {value:?}: {found}");
    }
    let mut twice = record();
    twice.add("ce_type", "order.OrderPlaced");
    assert_eq!(why(&twice), "header ce_type is there more than once");
    assert_eq!(why(&with("ce_subject", Some(&"x".repeat(1025)))), "header ce_subject is longer than 1024 bytes");
    let mut many = record();
    many.headers.resize(65, ("x".into(), Vec::new()));
    assert_eq!(why(&many), "65 headers, more than 64");
    assert_eq!(why(&Record { key: None, ..record() }), "the key is missing");
    assert_eq!(why(&Record { value: None, ..record() }), "the value is missing");
    assert_eq!(why(&Record { value: Some(b"\"\xff\"".into()), ..record() }), "the value is not UTF-8");
    for value in ["", "{", "{} {}", "nul", "\u{0}"] {
        let refused = decode(TOPIC, &Record { value: Some(value.into()), ..record() });
        assert!(matches!(refused, Err(Malformed::ValueNotJson(_))), "{value:?}");
    }
}

#[test]
fn headers_of_others_are_passed_over_and_so_is_a_trace_that_is_none() {
    let (read, _) = decode(TOPIC, &with("x-proxy", Some("\u{0}"))).unwrap();
    assert_eq!(read, message());
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for bad in [
        "",
        "00",
        &good.to_uppercase(),
        &good.replace("00-", "01-"),
        &format!("{good}-1"),
        &good.replace("b7ad6b7169203331", "0000000000000000"),
    ] {
        let mut record = with("traceparent", Some(bad));
        record.add("tracestate", "a=1");
        assert_eq!(decode(TOPIC, &record).unwrap().0.meta.trace, Trace::default(), "{bad}");
    }
    let mut record = with("traceparent", Some(good));
    record.add("tracestate", "a=1");
    let trace = Trace { parent: Some(good.into()), state: Some("a=1".into()) };
    assert_eq!(decode(TOPIC, &record).unwrap().0.meta.trace, trace);
    let mut record = with("traceparent", Some(good));
    record.add("tracestate", "A=1");
    assert_eq!(decode(TOPIC, &record).unwrap().0.meta.trace, Trace { state: None, ..trace }, "a state that is none");
}

#[test]
fn a_source_is_read_only_as_it_is_written() {
    let text = "/skald/order/00000000-0000-0000-0000-000000000007/1";
    assert_eq!(text.parse(), Ok(source()));
    assert_eq!(source().to_string(), text);
    for bad in [
        "",
        "skald/order/00000000-0000-0000-0000-000000000007/1",
        "/skald//00000000-0000-0000-0000-000000000007/1",
        "/skald/Order/00000000-0000-0000-0000-000000000007/1",
        "/skald/order/00000000000000000000000000000007/1",
        "/skald/order/00000000-0000-0000-0000-000000000007/0",
        "/skald/order/00000000-0000-0000-0000-000000000007/+1",
        "/skald/order/00000000-0000-0000-0000-000000000007/1/",
        "/skald/order/00000000-0000-0000-0000-000000000007",
    ] {
        assert!(bad.parse::<Source>().is_err(), "{bad}");
    }
}

fn dead_letter(record: Record, error: String) -> DeadLetter {
    DeadLetter {
        consumer: "order".into(),
        topic: TOPIC.into(),
        partition: 3,
        offset: 42,
        cause: Cause::Undecodable,
        error,
        attempts: 1,
        replays: 2,
        record,
    }
}

/// A dead letter as its consumer's log publishes it.
fn published(letter: &DeadLetter) -> Record {
    encode(&Message { kind: DeadLetter::KIND.into(), data: letter.encode().data, ..message() }, &source(), 0)
}

#[test]
fn a_dead_letter_says_in_its_headers_what_its_data_says() {
    let letter = dead_letter(Record { value: Some(b"\xff\xfe".into()), ..record() }, "the value is not UTF-8".into());
    let record = published(&letter);
    let added = record.headers.iter().filter(|(name, _)| name.starts_with("dlq_"));
    let found: Vec<String> = added.map(|(name, value)| format!("{name}: {}", str::from_utf8(value).unwrap())).collect();
    let said = "dlq_original_topic: order.events.v1, dlq_original_partition: 3, dlq_original_offset: 42, dlq_consumer_group: skald-order, \
                dlq_error_type: undecodable, dlq_error_message: the value is not UTF-8, dlq_attempts: 1, dlq_replay_count: 2";
    assert_eq!(found.join(", "), said);
    let (read, _) = decode("order.events.v1.dlq", &record).unwrap();
    assert_eq!(DeadLetter::decode(&read.data).unwrap(), letter);
    for cause in Cause::ALL {
        assert_eq!(Cause::parse(cause.as_str()), Some(cause));
        assert_eq!(serde_json::to_value(cause).unwrap(), cause.as_str());
    }
}

#[test]
fn a_dead_letter_fits_its_topic_however_large_what_it_is_about() {
    const MIB: usize = 1024 * 1024;
    let value = |length| Record { value: Some(vec![b'"'; length]), ..Record::default() };
    let read = |letter: DeadLetter| {
        let record = published(&letter);
        let bytes = record.headers.iter().map(|(name, value)| name.len() + value.len() + 10).sum::<usize>();
        assert!(bytes + record.value.as_ref().unwrap().len() < 4 * MIB);
        DeadLetter::decode(str::from_utf8(record.value.as_ref().unwrap()).unwrap()).unwrap()
    };
    // As large as a topic takes: whole.
    let whole = dead_letter(value(MIB), "é".repeat(MIB));
    assert_eq!(read(whole.clone()), DeadLetter { error: "é".repeat(2048), ..whole });
    // Larger, as it was compressed: its coordinates.
    let unpacked = dead_letter(value(9 * MIB), "not JSON".into());
    let error = "the record, about 9437200 bytes, is too large to be kept: not JSON".to_owned();
    assert_eq!(read(unpacked.clone()), DeadLetter { error, record: Record::default(), ..unpacked });
    let named = Record { headers: vec![("\u{1}".repeat(MIB / 2 - 8), Vec::new())], ..Record::default() };
    assert_eq!(read(dead_letter(named.clone(), String::new())).record, named);
    let headers = Record { headers: vec![(String::new(), b"\0".into()); 100_000], ..Record::default() };
    assert_eq!(read(dead_letter(headers, String::new())).record, Record::default());
}

#[test]
fn bytes_are_text_in_json_where_they_are_text() {
    let record = Record {
        key: Some(b"a\tb\r\n".into()),
        headers: vec![("one".into(), "\u{e9}".into()), ("one".into(), b"\0".into())],
        value: Some(b"\xff".into()),
    };
    let json = r#"{"key":"a\tb\r\n","headers":[["one","é"],["one",{"base64":"AA=="}]],"value":{"base64":"/w=="}}"#;
    assert_eq!(serde_json::to_string(&record).unwrap(), json);
    assert_eq!(serde_json::to_string(&Record::default()).unwrap(), r#"{"headers":[]}"#);
    for bad in [r#"{"value":{"base64":"?"}}"#, r#"{"value":{"base64":"","x":1}}"#, r#"{"value":1}"#] {
        assert!(serde_json::from_str::<Record>(bad).is_err(), "{bad}");
    }
}

/// What may stand in a header: text, of which nothing is a control character.
fn text() -> impl Strategy<Value = String> {
    "[^\\p{Cc}]{1,40}"
}

fn id() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

fn trace() -> impl Strategy<Value = Trace> {
    let ids = (1..=u128::MAX, 1..=u64::MAX, any::<u8>(), option::of("[a-z]{1,9}=[ -+\\--<>-~]{0,40}[!-+\\--<>-~]"));
    let some = ids.prop_map(|(trace, span, flags, state)| Trace {
        parent: Some(format!("00-{trace:032x}-{span:016x}-{flags:02x}")),
        state,
    });
    prop_oneof![Just(Trace::default()), some]
}

prop_compose! {
    pub(super) fn any_message()(
        previous in 0..i64::MAX,
        (id, stream, key, kind) in (id(), text(), text(), text()),
        schema in 1..=i64::MAX,
        data in any::<String>(),
        time in prop_oneof![Just(*TIMES.start()), Just(-1), Just(*TIMES.end()), TIMES],
        (cause, correlation, trace) in (option::of(id()), option::of(id()), trace()),
    )(
        position in previous + 1..=i64::MAX,
        message in Just(Message {
            position: 0,
            id: MessageId(id),
            stream,
            version: 0,
            topic: Some(TOPIC.into()),
            key: Some(key),
            kind,
            schema,
            data: serde_json::to_string(&data).unwrap(),
            time: Timestamp(time),
            meta: Meta { cause: cause.map(MessageId), correlation, trace, actor: None },
        }),
        previous in Just(previous),
    ) -> (Message, i64) {
        (Message { position, ..message }, previous)
    }
}

prop_compose! {
    pub(super) fn any_source()(service in "[a-z0-9-]{1,20}", log in id(), epoch in 1..=i64::MAX) -> Source {
        Source { service, log, epoch }
    }
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..40), any::<String>().prop_map(String::into_bytes)]
}

fn any_record() -> impl Strategy<Value = Record> {
    let ours: Vec<String> = record().headers.into_iter().map(|(name, _)| name).collect();
    let name = prop_oneof![proptest::sample::select(ours), any::<String>()];
    (option::of(any_bytes()), vec((name, any_bytes()), 0..20), option::of(any_bytes())).prop_map(|(key, headers, value)| Record {
        key,
        headers,
        value,
    })
}

/// One thing that may befall a record on its way.
#[derive(Clone, Debug)]
enum Harm {
    Drop(usize),
    Repeat(usize),
    Swap(usize, usize),
    Header(usize, Vec<u8>),
    Flip(usize, usize, u8),
    Key(Option<Vec<u8>>),
    Value(Option<Vec<u8>>),
    Cut(usize),
}

fn any_harm() -> impl Strategy<Value = Harm> {
    let at = || 0..15usize;
    prop_oneof![
        at().prop_map(Harm::Drop),
        at().prop_map(Harm::Repeat),
        (at(), at()).prop_map(|(a, b)| Harm::Swap(a, b)),
        (at(), any_bytes()).prop_map(|(n, bytes)| Harm::Header(n, bytes)),
        (at(), 0..40usize, any::<u8>()).prop_map(|(n, at, bits)| Harm::Flip(n, at, bits)),
        option::of(any_bytes()).prop_map(Harm::Key),
        option::of(any_bytes()).prop_map(Harm::Value),
        (0..40usize).prop_map(Harm::Cut),
    ]
}

impl Harm {
    fn befall(self, record: &mut Record) {
        let count = record.headers.len().max(1);
        match self {
            Self::Drop(n) if !record.headers.is_empty() => drop(record.headers.remove(n % count)),
            Self::Repeat(n) => record.headers.extend(record.headers.get(n).cloned()),
            Self::Swap(a, b) => {
                let values = [a, b].map(|n| record.headers.get(n % count).map(|(_, value)| value.clone()));
                for (n, value) in [b, a].into_iter().zip(values) {
                    record.headers.get_mut(n % count).into_iter().zip(value).for_each(|((_, found), value)| *found = value);
                }
            }
            Self::Header(n, bytes) => record.headers.get_mut(n).into_iter().for_each(|(_, value)| *value = bytes.clone()),
            Self::Flip(n, at, bits) => {
                let byte = record.headers.get_mut(n).and_then(|(_, value)| value.get_mut(at));
                byte.into_iter().for_each(|byte| *byte ^= bits);
            }
            Self::Key(key) => record.key = key,
            Self::Value(value) => record.value = value,
            Self::Cut(length) => record.value.iter_mut().for_each(|value| value.truncate(length)),
            Self::Drop(_) => {}
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read((message, previous) in any_message(), source in any_source(), version in 0..9i64, actor in option::of(text())) {
        let appended = Message { version, meta: Meta { actor, ..message.meta.clone() }, ..message.clone() };
        let link = Link { source: source.clone(), sequence: message.position, previous, seal: Seal::None };
        prop_assert_eq!(decode(TOPIC, &encode(&appended, &source, previous)).unwrap(), (message, link));
        prop_assert_eq!(source.to_string().parse(), Ok(source));
    }

    #[test]
    fn whatever_a_record_is_it_is_read_or_refused_and_kept(record in any_record()) {
        let _ = decode(TOPIC, &record);
        let letter = dead_letter(record, "why".into());
        prop_assert_eq!(DeadLetter::decode(&letter.encode().data).unwrap(), letter);
    }

    #[test]
    fn a_harmed_record_is_refused_or_another_message((message, previous) in any_message(), source in any_source(), harms in vec(any_harm(), 1..4)) {
        let mut record = encode(&message, &source, previous);
        harms.into_iter().for_each(|harm| harm.befall(&mut record));
        if let Ok((message, link)) = decode(TOPIC, &record) {
            let again = decode(TOPIC, &encode(&message, &link.source, link.previous)).unwrap();
            prop_assert_eq!(again, (message, link));
        }
    }
}
