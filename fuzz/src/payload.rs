//! What must hold of any payload, whoever wrote it.

use contract::{DeadLetter, DecodeError, Encoded, notification, order, payment, product, saga, user};

/// Reads it as each service would: at most one enum knows the type; what is read is written and read again as the same; what is
/// refused is refused by name.
pub fn check(kind: &str, schema: i64, data: &str) {
    let mut readers = 0;
    macro_rules! read {
        ($($name:ty),*) => {$(
            let newest = <$name>::KINDS.iter().find(|(known, _)| *known == kind).map(|(_, newest)| *newest);
            match <$name>::decode(kind, schema, data) {
                Ok(payload) => {
                    readers += 1;
                    let Encoded { kind: written, schema: newest, data: again } = payload.encode();
                    assert_eq!(written, kind);
                    // A fraction may be read as its neighbour; nothing of ours has one.
                    assert!(schema <= newest && (has_fraction(data) || <$name>::decode(kind, newest, &again).unwrap() == payload));
                }
                Err(DecodeError::UnknownType(named)) => assert!(named == kind && newest.is_none()),
                Err(DecodeError::UnknownSchema { kind: named, schema: found, newest: known }) => {
                    assert!(named == kind && found == schema && newest == Some(known) && !(1..=known).contains(&schema));
                }
                Err(DecodeError::Malformed { kind: named, .. }) => assert!(named == kind && newest.is_some()),
            }
        )*};
    }
    read!(
        order::Event,
        product::Command,
        product::Event,
        payment::Command,
        payment::Event,
        user::Event,
        notification::Event,
        saga::Event
    );
    assert!(readers <= 1, "{kind} is known twice");
    if kind == DeadLetter::KIND
        && let Ok(letter) = DeadLetter::decode(data)
    {
        let kept = DeadLetter::decode(&letter.encode().data).unwrap();
        assert!(kept == letter || letter.error.len() > 4_096, "{letter:?} was kept as {kept:?}");
    }
}

fn has_fraction(data: &str) -> bool {
    fn within(value: &serde_json::Value) -> bool {
        match value {
            serde_json::Value::Number(number) => number.is_f64(),
            serde_json::Value::Array(items) => items.iter().any(within),
            serde_json::Value::Object(members) => members.values().any(within),
            _ => false,
        }
    }
    serde_json::from_str(data).is_ok_and(|value| within(&value))
}
