//! Reads JSON as the schemas say it: an object where an object is declared, and a whole number however it is written.
//!
//! serde's derived readers also take an array for a struct, its fields in order: `["ann@example.com", "..."]` would log in. And they refuse
//! `1823.0` for an integer, which JSON Schema counts as one. Never here: bounds of values. From here values go to the extractors.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor};

/// How the value that comes is declared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Declared {
    /// As an object: an array is none.
    Object,
    /// As a whole number: `2.0` is one.
    Whole,
    Other,
}

/// Whatever is read through it, at any depth, is read strictly.
pub(super) struct Strict<T>(pub T);

/// The same for what only sees a value: who asked for it knows how it was declared.
struct Seen<V>(V, Declared);

macro_rules! passed_on {
    ($declared:expr; $($name:ident($($arg:ident: $kind:ty),*);)*) => {
        $(fn $name<V: Visitor<'de>>(self, $($arg: $kind,)* visitor: V) -> Result<V::Value, D::Error> {
            self.0.$name($($arg,)* Seen(visitor, $declared))
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<D> {
    type Error = D::Error;

    passed_on! { Declared::Object;
        deserialize_struct(name: &'static str, fields: &'static [&'static str]);
    }
    passed_on! { Declared::Whole;
        deserialize_i8(); deserialize_i16(); deserialize_i32(); deserialize_i64();
        deserialize_u8(); deserialize_u16(); deserialize_u32(); deserialize_u64();
    }
    passed_on! { Declared::Other;
        deserialize_any(); deserialize_bool(); deserialize_i128(); deserialize_u128(); deserialize_f32(); deserialize_f64();
        deserialize_char(); deserialize_str(); deserialize_string(); deserialize_bytes(); deserialize_byte_buf();
        deserialize_option(); deserialize_unit(); deserialize_unit_struct(name: &'static str);
        deserialize_newtype_struct(name: &'static str); deserialize_seq(); deserialize_tuple(length: usize);
        deserialize_tuple_struct(name: &'static str, length: usize); deserialize_map();
        deserialize_enum(name: &'static str, variants: &'static [&'static str]);
        deserialize_identifier(); deserialize_ignored_any();
    }
}

macro_rules! seen {
    ($($name:ident($kind:ty);)*) => {
        $(fn $name<E: Error>(self, value: $kind) -> Result<V::Value, E> {
            self.0.$name(value)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Seen<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Declared::Object => f.write_str("an object"),
            Declared::Whole | Declared::Other => self.0.expecting(f),
        }
    }

    seen! {
        visit_bool(bool); visit_i64(i64); visit_u64(u64); visit_str(&str); visit_borrowed_str(&'de str); visit_string(String);
        visit_bytes(&[u8]); visit_borrowed_bytes(&'de [u8]); visit_byte_buf(Vec<u8>);
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<V::Value, E> {
        // Up to here every whole number is a float of its own; past it two integers would be read as one.
        const EXACT: f64 = (1_u64 << f64::MANTISSA_DIGITS) as f64;
        if self.1 == Declared::Whole && value.fract() == 0.0 && value.abs() < EXACT {
            return self.0.visit_i64(value as i64);
        }
        self.0.visit_f64(value)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Strict(value))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, value: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(Strict(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<V::Value, A::Error> {
        match self.1 {
            Declared::Object => Err(A::Error::invalid_type(Unexpected::Seq, &self)),
            Declared::Whole | Declared::Other => self.0.visit_seq(Strict(items)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Strict(members))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, value: A) -> Result<V::Value, A::Error> {
        self.0.visit_enum(Strict(value))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Strict<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Strict(deserializer))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Strict(seed))
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_key_seed(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(Strict(seed))
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Strict<A> {
    type Error = A::Error;
    type Variant = Strict<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), A::Error> {
        let (value, variant) = self.0.variant_seed(seed)?;
        Ok((value, Strict(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.0.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.0.newtype_variant_seed(Strict(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.0.tuple_variant(length, Seen(visitor, Declared::Other))
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, A::Error> {
        self.0.struct_variant(fields, Seen(visitor, Declared::Object))
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, de::DeserializeOwned};
    use serde_json::{Value, json};

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Line {
        pieces: u32,
        change: Option<i64>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    enum Way {
        Home,
        By { line: Line },
        Of(Line),
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Whole {
        lines: Vec<Line>,
        way: Option<Way>,
    }

    fn read<T: DeserializeOwned>(value: &Value) -> Result<T, serde_json::Error> {
        T::deserialize(Strict(&mut serde_json::Deserializer::from_str(&value.to_string())))
    }

    #[test]
    fn an_array_is_an_object_nowhere() {
        let line = json!({"pieces": 1, "change": null});
        for good in [
            json!({"lines": []}),
            json!({"lines": [line], "way": "Home"}),
            json!({"lines": [line], "way": {"By": {"line": line}}}),
        ] {
            assert!(read::<Whole>(&good).is_ok(), "{good}");
        }
        for bad in [
            json!([[], null]),
            json!([]),
            json!({"lines": [[1, null]]}),
            json!({"lines": [], "way": {"By": [line]}}),
            json!({"lines": [], "way": {"By": {"line": [1, 2]}}}),
            json!({"lines": [], "way": {"Of": [1, 2]}}),
        ] {
            let error = read::<Whole>(&bad).unwrap_err().to_string();
            assert!(error.starts_with("invalid type: sequence, expected an object"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_whole_number_is_one_however_it_is_written() {
        let pieces =
            |text: &str| read::<Line>(&serde_json::from_str(&format!(r#"{{"pieces":{text},"change":-{text}}}"#)).unwrap());
        for (text, number) in [("3", 3), ("3.0", 3), ("3e2", 300), ("0.0", 0), ("4294967295.0", u32::MAX)] {
            assert_eq!(pieces(text).unwrap(), Line { pieces: number, change: Some(-i64::from(number)) }, "{text}");
        }
        for bad in ["3.5", "4294967296.0", "1e300", "9007199254740993.0"] {
            assert!(pieces(bad).is_err(), "{bad}");
        }
    }
}
