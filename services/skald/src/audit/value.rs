//! Words out of JSON: ids, amounts, lines, and digests that two tellings of the same thing share.
//!
//! Never here: the services' own types; the audit reads what they wrote with eyes of its own. What is missing or malformed reads
//! as nothing, which no law takes for something.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
};

use serde_json::Value;
use uuid::Uuid;

/// An amount in minor units, with its currency's letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Money {
    pub minor: i64,
    pub currency: [u8; 3],
}

impl Money {
    pub(super) fn new(minor: i64, currency: &str) -> Self {
        Self { minor, currency: currency.as_bytes().try_into().unwrap_or_default() }
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.minor, self.currency.escape_ascii())
    }
}

pub(super) fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

pub(super) fn int(value: &Value, key: &str) -> i64 {
    value[key].as_i64().unwrap_or(i64::MIN)
}

pub(super) fn flag(value: &Value, key: &str) -> bool {
    value[key].as_bool().unwrap_or(false)
}

/// The id under a key; 0 for none.
pub(super) fn id(value: &Value, key: &str) -> u128 {
    parsed(text(value, key)).unwrap_or(0)
}

pub(super) fn parsed(text: &str) -> Option<u128> {
    Uuid::try_parse(text).ok().map(|id| id.as_u128())
}

pub(super) fn shown(id: u128) -> Uuid {
    Uuid::from_u128(id)
}

pub(super) fn money(value: &Value, key: &str) -> Money {
    let money = &value[key];
    Money::new(int(money, "amount_minor"), text(money, "currency"))
}

/// Pieces by product, of `{product_id, quantity}` in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Lines(pub BTreeMap<u128, i64>);

impl Lines {
    pub(super) fn of(value: &Value) -> Self {
        let mut lines = BTreeMap::new();
        for line in value.as_array().into_iter().flatten() {
            *lines.entry(id(line, "product_id")).or_insert(0) += int(line, "quantity").max(0);
        }
        Self(lines)
    }

    pub(super) fn parse(text: &str) -> Self {
        Self::of(&serde_json::from_str(text).unwrap_or_default())
    }

    /// The same for the same pieces; what is kept of 100,000 orders' lines.
    pub(super) fn digest(&self) -> u64 {
        hashed(self)
    }
}

pub(super) fn hashed(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The same for the same JSON, whatever the order of its keys.
pub(super) fn digest(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    feed(value, &mut hasher);
    hasher.finish()
}

fn feed(value: &Value, hasher: &mut DefaultHasher) {
    match value {
        Value::Object(members) => {
            let mut members: Vec<(&String, &Value)> = members.iter().collect();
            members.sort_unstable_by_key(|(key, _)| *key);
            members.len().hash(hasher);
            for (key, member) in members {
                key.hash(hasher);
                feed(member, hasher);
            }
        }
        Value::Array(items) => {
            items.len().hash(hasher);
            items.iter().for_each(|item| feed(item, hasher));
        }
        leaf => (leaf.is_string(), leaf.as_str(), leaf.as_i64(), leaf.as_bool()).hash(hasher),
    }
}
