//! Payloads: whatever is written is read, by this build and by others that know a little less or a little more; what can't be read
//! says why, and stays whole.

use proptest::{collection::hash_set, prelude::*, strategy::Union, test_runner::TestRunner};
use serde_json::Map;
use uuid::Uuid;

use super::{
    any::{Case, cases, id, json, text},
    *,
};
use crate::{Cause, Encoded, Message, MessageId, Meta, Record, Source, Timestamp, payload::messages};

fn any_case() -> Union<BoxedStrategy<Case>> {
    Union::new(cases())
}

fn kind_of(case: &Case) -> Type {
    types().into_iter().find(|kind| kind.kind == case.encoded.kind).expect("a type of the contract")
}

fn source() -> Source {
    Source { service: "order".into(), log: Uuid::from_u128(7), epoch: 1 }
}

/// The payload as a row of a log, under an id of its own.
fn message(case: &Case, id: MessageId) -> Message {
    let Encoded { kind, schema, data } = case.encoded.clone();
    Message {
        position: 1,
        id,
        stream: "stream-1".into(),
        version: 0,
        topic: Some("topic".into()),
        key: Some("key".into()),
        kind: kind.into(),
        schema,
        data,
        time: Timestamp(0),
        meta: Meta::default(),
    }
}

/// Objects that take no field that they don't know: a fourth word beside amount and currency would change what both mean.
fn is_closed(object: &Map<String, Value>) -> bool {
    object.contains_key("amount_minor") || object.contains_key("base64")
}

/// Adds a field to every object of a payload but the closed ones. What a saga's crate says in its own words is not of the payload.
fn add_everywhere(value: &mut Value, name: &str, more: &Value) {
    match value {
        Value::Object(object) if !is_closed(object) => {
            let own = object.iter_mut().filter(|(name, _)| !matches!(name.as_str(), "input" | "context"));
            own.for_each(|(_, value)| add_everywhere(value, name, more));
            object.entry(name).or_insert(more.clone());
        }
        Value::Array(items) => items.iter_mut().for_each(|item| add_everywhere(item, name, more)),
        _ => {}
    }
}

/// Adds a field to the first closed object, if there is one.
fn add_to_closed(value: &mut Value) -> bool {
    match value {
        Value::Object(object) if is_closed(object) => object.insert("unknown".into(), Value::Null).is_none(),
        Value::Object(object) => object.values_mut().any(add_to_closed),
        Value::Array(items) => items.iter_mut().any(add_to_closed),
        _ => false,
    }
}

fn value(case: &Case) -> Value {
    serde_json::from_str(&case.encoded.data).expect("what is written is JSON")
}

#[test]
fn every_type_of_the_contract_has_a_strategy() {
    let mut runner = TestRunner::deterministic();
    let made = |strategy: BoxedStrategy<Case>| strategy.new_tree(&mut runner).expect("a payload").current().encoded.kind;
    let made: Vec<&str> = cases().into_iter().map(made).collect();
    let known: Vec<&str> = types().iter().map(|kind| kind.kind).collect();
    for kind in &known {
        assert_eq!(made.iter().filter(|made| *made == kind).count(), 1, "{kind} in `any::cases`");
    }
    assert_eq!(made.len(), known.len());
}

#[test]
fn one_type_s_data_are_no_message_of_an_unknown_type() {
    for kind in types() {
        for name in [format!("{} ", kind.kind), kind.kind.to_lowercase(), format!("x{}", kind.kind), String::new()] {
            let unknown = |error: DecodeError| matches!(error, DecodeError::UnknownType(found) if found == name);
            assert!(order::Event::decode(&name, 1, "{}").is_err_and(unknown), "{name}");
            assert!(payment::Command::decode(&name, 1, "{}").is_err_and(unknown), "{name}");
        }
    }
}

/// A type that has come to its second version.
#[allow(unreachable_pub, reason = "the macro writes what is published, and nobody else needs this one")]
mod grown {
    use super::{super::*, messages};

    #[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize, schemars::JsonSchema)]
    pub struct Grown {
        pub name: String,
        /// Since version 2.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub nickname: Option<String>,
    }

    messages! {
        pub enum Growing on ORDER_EVENTS {
            Grown = "test.Grown" v 2,
        }
    }
}

#[test]
fn every_type_has_one_version_and_an_older_one_is_read_through_its_defaults() {
    use grown::{Growing, Grown};

    // The day that this fails there is a real older version, with a golden pair of its own that shows the same.
    assert!(types().iter().all(|kind| kind.schema == 1));

    let old = Grown { name: "a".into(), nickname: None };
    assert_eq!(Growing::decode("test.Grown", 1, r#"{"name":"a"}"#).unwrap(), old.into());
    let new = Growing::from(Grown { name: "a".into(), nickname: Some("b".into()) });
    let Encoded { kind, schema, data } = new.encode();
    assert_eq!((kind, schema), (new.kind(), 2));
    assert_eq!(Growing::KINDS, [(kind, schema)]);
    assert_eq!(Growing::decode(kind, schema, &data).unwrap(), new);
    let [known] = Growing::TYPES else { panic!("one type") };
    assert_eq!((known.recode)(2, &data).unwrap(), data);
    for unknown in [i64::MIN, -1, 0, 3, i64::MAX] {
        let error = Growing::decode(kind, unknown, &data).unwrap_err().to_string();
        assert_eq!(error, format!("unknown schema version {unknown} of test.Grown; this build reads up to 2"));
    }
}

proptest! {
    #[test]
    fn a_payload_is_read_as_it_was_written(case in any_case()) {
        let Encoded { kind, schema, data } = &case.encoded;
        prop_assert!(case.is_read_from(*schema, data).unwrap());
        let known = kind_of(&case);
        prop_assert_eq!((known.kind, known.schema), (*kind, *schema));
        prop_assert_eq!(&(known.recode)(*schema, data).unwrap(), data);
    }

    #[test]
    fn a_payload_goes_over_kafka_unchanged(case in any_case(), id in id()) {
        let message = message(&case, id);
        let record = record::encode(&message, &source(), 0);
        let (read, link) = record::decode("topic", &record).unwrap();
        prop_assert_eq!((&read, link.source), (&message, source()));
        prop_assert!(case.is_read_from(read.schema, &read.data).unwrap());
    }

    #[test]
    fn fields_of_a_newer_build_are_passed_over(case in any_case(), name in "new_[a-z]{1,9}|\\PC{20,30}", more in json()) {
        let mut newer = value(&case);
        add_everywhere(&mut newer, &name, &more);
        prop_assert!(case.is_read_from(case.encoded.schema, &newer.to_string()).unwrap());
    }

    #[test]
    fn money_and_bytes_take_no_field_that_they_do_not_know(case in any_case()) {
        let mut newer = value(&case);
        if add_to_closed(&mut newer) {
            let refused = case.is_read_from(case.encoded.schema, &newer.to_string());
            let Err(DecodeError::Malformed { kind, .. }) = refused else { panic!("{refused:?}") };
            prop_assert_eq!(kind, case.encoded.kind);
        }
    }

    #[test]
    fn what_the_schema_requires_is_needed_and_nothing_else(case in any_case()) {
        let known = kind_of(&case);
        let schema = known.schema(SchemaSettings::draft2020_12());
        let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let whole = value(&case);
        for name in whole.as_object().unwrap().keys() {
            let mut part = whole.clone();
            part.as_object_mut().unwrap().remove(name);
            let read = case.is_read_from(known.schema, &part.to_string());
            prop_assert_eq!(read.is_err(), required.contains(&name.as_str()), "{} without {}", known.kind, name);
        }
        for name in required {
            prop_assert!(whole.get(name).is_some(), "{} is always written", name);
        }
    }

    #[test]
    fn a_type_or_version_of_a_newer_build_is_named_and_kept_whole(case in any_case(), id in id(), version in any::<i64>(), offset in any::<i64>()) {
        let newest = case.encoded.schema;
        if case.encoded.kind != DeadLetter::KIND && !(1..=newest).contains(&version) {
            let refused = case.is_read_from(version, &case.encoded.data).unwrap_err();
            let DecodeError::UnknownSchema { kind, schema, newest: known } = refused else { panic!("{refused}") };
            prop_assert_eq!((kind.as_str(), schema, known), (case.encoded.kind, version, newest));
        }

        // Whoever can't read it sets it aside; a newer build reads it from there.
        let unknown = format!("{}Gone", case.encoded.kind);
        let error = order::Event::decode(&unknown, newest, &case.encoded.data).unwrap_err().to_string();
        prop_assert_eq!(&error, &format!("unknown message type {unknown}"));
        let record = record::encode(&Message { kind: unknown.clone(), ..message(&case, id) }, &source(), 0);
        let (consumer, topic) = ("order".to_owned(), "topic".to_owned());
        let cause = Cause::UnknownType;
        let letter = DeadLetter { consumer, topic, partition: 0, offset, cause, error, attempts: 1, replays: 0, record };
        let kept = DeadLetter::decode(&letter.encode().data).unwrap();
        let (read, _) = record::decode("topic", &kept.record).unwrap();
        prop_assert_eq!((read.kind.as_str(), &read.data), (unknown.as_str(), &case.encoded.data));
        prop_assert!(case.is_read_from(newest, &read.data).unwrap());
        prop_assert_eq!(kept, letter);
    }

    #[test]
    fn whatever_stands_in_a_message_is_read_or_refused_by_name(text in text(), json in json(), fields in hash_set(0..9usize, 0..4)) {
        let mut data = vec![text, json.to_string()];
        for kind in types() {
            // A good one with some of its fields replaced.
            let golden = golden::Golden::of(&kind, kind.schema).data();
            let mut harmed: Value = serde_json::from_str(&golden).unwrap();
            let object = harmed.as_object_mut().unwrap().iter_mut().enumerate();
            object.filter(|(n, _)| fields.contains(n)).for_each(|(_, (_, value))| *value = json.clone());
            data.push(harmed.to_string());
            for data in &data {
                match (kind.recode)(kind.schema, data) {
                    Ok(read) => prop_assert_eq!((kind.recode)(kind.schema, &read).unwrap(), read),
                    Err(DecodeError::Malformed { kind: named, .. }) => prop_assert_eq!(named, kind.kind),
                    Err(other) => panic!("{other}"),
                }
            }
            data.pop();
        }
    }

    #[test]
    fn a_record_in_a_dead_letter_is_the_record_that_was_found(case in any_case(), id in id(), cut in 0..200usize) {
        let mut record = record::encode(&message(&case, id), &source(), 0);
        record.value.iter_mut().for_each(|value| value.truncate(cut));
        let again: Record = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
        prop_assert_eq!(again, record);
    }
}
