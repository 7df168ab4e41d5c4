//! How bytes stand in JSON: as a string where they are text, else as `{"base64": "…"}`.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Bytes that are to be written.
struct Bytes<'b>(&'b [u8]);

/// Text that is shown as it is: UTF-8, whose only control characters are tabs and line ends.
fn text(bytes: &[u8]) -> Option<&str> {
    let unreadable = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r');
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains(unreadable))
}

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match text(self.0) {
            Some(text) => serializer.serialize_str(text),
            None => Form::Base64 { base64: STANDARD.encode(self.0) }.serialize(serializer),
        }
    }
}

/// Bytes: a string where they are text, else in Base64.
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Bytes"))]
#[serde(untagged, deny_unknown_fields)]
pub(super) enum Form {
    Text(String),
    Base64 { base64: String },
}

impl Form {
    fn bytes<E: Error>(self) -> Result<Vec<u8>, E> {
        match self {
            Self::Text(text) => Ok(text.into_bytes()),
            Self::Base64 { base64 } => STANDARD.decode(base64).map_err(E::custom),
        }
    }
}

pub(super) mod bytes {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
        bytes.as_deref().map(Bytes).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
        Option::<Form>::deserialize(deserializer)?.map(Form::bytes).transpose()
    }
}

pub(super) mod headers {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(headers: &[(String, Vec<u8>)], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(headers.iter().map(|(name, value)| (name, Bytes(value))))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, Vec<u8>)>, D::Error> {
        let headers = Vec::<(String, Form)>::deserialize(deserializer)?;
        headers.into_iter().map(|(name, value)| Ok((name, value.bytes()?))).collect()
    }
}
