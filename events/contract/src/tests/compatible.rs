//! What may change from one version of a schema to the next: optional fields may come, and words about it may change.

use serde_json::{Map, Value, json};

/// Says nothing about which JSON is valid.
const WORDS: [&str; 5] = ["$id", "$schema", "title", "description", "examples"];

/// The schema without words and names of its own, and with whatever has no order in one order.
fn meaning(schema: &Value, defs: &Value) -> Value {
    let Value::Object(keywords) = schema else { return schema.clone() };
    let mut meant = Map::new();
    for (name, value) in keywords {
        match (name.as_str(), value) {
            (word, _) if word == "$defs" || WORDS.contains(&word) => {}
            // No type of the contract contains itself.
            ("$ref", Value::String(to)) => {
                let found = defs.get(to.trim_start_matches("#/$defs/")).unwrap_or_else(|| panic!("{to} leads nowhere"));
                meant.extend(meaning(found, defs).as_object().cloned().unwrap_or_default());
            }
            // Schemas by name: a field may be called `title`.
            ("properties", Value::Object(fields)) => {
                let fields: Value = fields.iter().map(|(name, schema)| (name.clone(), meaning(schema, defs))).collect();
                meant.insert(name.clone(), fields);
            }
            ("required" | "enum" | "type", Value::Array(values)) => drop(meant.insert(name.clone(), sorted(values))),
            (_, Value::Array(schemas)) => {
                meant.insert(name.clone(), schemas.iter().map(|schema| meaning(schema, defs)).collect());
            }
            _ => drop(meant.insert(name.clone(), meaning(value, defs))),
        }
    }
    // An enum whose variants have words of their own is written as a choice of constants.
    if let Some(values) = meant.get("oneOf").and_then(constants) {
        meant.remove("oneOf");
        meant.extend([("type".to_owned(), "string".into()), ("enum".to_owned(), sorted(&values))]);
    }
    meant.into()
}

fn sorted(values: &[Value]) -> Value {
    let mut values = values.to_vec();
    values.sort_by_key(Value::to_string);
    values.into()
}

/// The values of a choice that is between strings only.
fn constants(choice: &Value) -> Option<Vec<Value>> {
    let mut values = Vec::new();
    for option in choice.as_array()? {
        match (option.get("type")?.as_str()?, option.get("const"), option.get("enum")) {
            ("string", Some(value), None) => values.push(value.clone()),
            ("string", None, Some(Value::Array(some))) => values.extend(some.iter().cloned()),
            _ => return None,
        }
    }
    Some(values)
}

/// Whether `new` only adds optional fields to `old`, so that each reads what was written by the other.
///
/// # Errors
/// Where they differ in anything else.
pub(super) fn extends(old: &Value, new: &Value) -> Result<(), String> {
    compare(&meaning(old, &old["$defs"]), &meaning(new, &new["$defs"]), "")
}

fn compare(old: &Value, new: &Value, at: &str) -> Result<(), String> {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let closed = old.get("additionalProperties") == Some(&json!(false));
            for name in old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))) {
                let at = format!("{at}/{name}");
                match (name.as_str(), old.get(name), new.get(name)) {
                    ("properties", before, Some(Value::Object(after))) => {
                        let before = before.and_then(Value::as_object).cloned().unwrap_or_default();
                        added(&before, after, closed, &at)?;
                    }
                    (_, Some(before), Some(after)) => compare(before, after, &at)?,
                    (_, before, _) => return Err(format!("{at} {}", if before.is_some() { "is gone" } else { "is new" })),
                }
            }
            Ok(())
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            before.iter().zip(after).try_for_each(|(before, after)| compare(before, after, at))
        }
        _ if old == new => Ok(()),
        _ => Err(format!("{at} was {old} and is {new}")),
    }
}

/// Everything that was there is there still; what came is no harm, unless old readers refuse fields that they don't know.
fn added(old: &Map<String, Value>, new: &Map<String, Value>, closed: bool, at: &str) -> Result<(), String> {
    for (name, before) in old {
        compare(before, new.get(name).ok_or_else(|| format!("{at}/{name} is gone"))?, &format!("{at}/{name}"))?;
    }
    match new.keys().find(|name| closed && !old.contains_key(*name)) {
        Some(name) => Err(format!("{at}/{name} is new, and old readers refuse it")),
        None => Ok(()),
    }
}

#[test]
fn optional_fields_may_come_and_nothing_else() {
    let old = json!({
        "title": "Paid", "description": "Old words.", "type": "object", "required": ["amount"],
        "properties": {"amount": {"$ref": "#/$defs/Money"}, "title": {"type": "string"}, "why": {"type": "string", "enum": ["a", "b"]}},
        "$defs": {"Money": {"type": "object", "properties": {"minor": {"type": "integer"}}, "additionalProperties": false}},
    });
    let changed = |path: &str, to: Value| {
        let mut new = old.clone();
        let (parent, name) = path.rsplit_once('/').unwrap();
        let parent = new.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        if to.is_null() {
            parent.remove(name)
        } else {
            parent.insert(name.to_owned(), to)
        };
        extends(&old, &new)
    };
    assert_eq!(changed("/description", json!("New words.")), Ok(()));
    assert_eq!(changed("/properties/tip", json!({"type": "integer"})), Ok(()));
    assert_eq!(changed("/$defs/Card", json!({"type": "object"})), Ok(()));
    let told = json!({"oneOf": [{"type": "string", "const": "b", "description": "New."}, {"type": "string", "enum": ["a"]}]});
    assert_eq!(changed("/properties/why", told), Ok(()));
    for (path, to) in [
        ("/required", json!(["amount", "tip"])),
        ("/required", json!([])),
        ("/required", Value::Null),
        ("/properties/amount", Value::Null),
        ("/properties/title", Value::Null),
        ("/properties/title", json!({"type": "integer"})),
        ("/properties/title", json!({"type": "string", "maxLength": 3})),
        ("/properties/title", json!({"type": "string", "default": ""})),
        ("/properties/why", json!({"type": "string", "enum": ["a", "b", "c"]})),
        ("/properties/why", json!({"type": "string", "enum": ["a"]})),
        ("/$defs/Money/properties/currency", json!({"type": "string"})),
        ("/$defs/Money/properties/minor", json!({"type": "string"})),
        ("/additionalProperties", json!(false)),
    ] {
        assert!(changed(path, to.clone()).is_err(), "{path} {to}");
    }
}
