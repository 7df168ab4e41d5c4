//! A message as Kafka holds it: the CloudEvents 1.0 Kafka binding in binary mode. The payload is the value, the envelope is
//! headers, so that Kafdrop and kcat show both without a registry.
//!
//! Never here: a client, offsets, what a topic's reader has seen. From here a record goes to `events/bus`, which moves it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{DeadLetter, Message, MessageId, Meta, Trace, signature};

mod form;

/// Other producers and proxies may add headers; a record with more than this is not one of ours.
const HEADERS_MAX: usize = 64;
/// The longest header that is read, in bytes: ids, names and keys are far shorter.
const HEADER_BYTES_MAX: usize = 1024;
/// What the type and schema version of a payload are called; also the `$id` of its JSON Schema.
pub const DATASCHEMA: &str = "urn:skald:schema:";

/// A record as Kafka holds it: bytes, unchecked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Record {
    /// Bytes are a JSON string where they are text, `{"base64": "…"}` where they are not.
    #[serde(default, with = "form::bytes", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<form::Form>"))]
    pub key: Option<Vec<u8>>,
    /// In order, as Kafka allows repeated names.
    #[serde(default, with = "form::headers")]
    #[cfg_attr(test, schemars(with = "Vec<(String, form::Form)>"))]
    pub headers: Vec<(String, Vec<u8>)>,
    /// `None` is Kafka's tombstone.
    #[serde(default, with = "form::bytes", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<form::Form>"))]
    pub value: Option<Vec<u8>>,
}

impl Record {
    /// The first header of this name, if it is text. For showing a record; [`decode`] is what checks one.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(found, _)| found == name)?;
        std::str::from_utf8(value).ok()
    }

    /// At least half its length as JSON, in bytes: escaping doubles a quote and makes six of a control character (which only
    /// names may have), and a short header needs its brackets.
    pub(crate) fn size(&self) -> usize {
        let header = |(name, value): &(String, Vec<u8>)| 3 * name.len() + value.len() + 16;
        let ends = [&self.key, &self.value].into_iter().flatten().map(|bytes| bytes.len() + 16);
        ends.chain(self.headers.iter().map(header)).sum()
    }

    pub(crate) fn add(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        self.headers.push((name.to_owned(), value.into()));
    }
}

/// Which log published a message, `ce_source`: `/skald/<service>/<log id>/<epoch>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    /// Lower-case letters, digits and hyphens.
    pub service: String,
    pub log: Uuid,
    /// From 1; a log that was restored from a backup goes on under a new one.
    pub epoch: i64,
}

/// The text is not a [`Source`] as `Display` writes it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a source is /skald/<service>/<log id>/<epoch>, not {0}")]
pub struct BadSource(String);

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/skald/{}/{}/{}", self.service, self.log.hyphenated(), self.epoch)
    }
}

impl FromStr for Source {
    type Err = BadSource;

    fn from_str(text: &str) -> Result<Self, BadSource> {
        let read = || {
            let (service, rest) = text.strip_prefix("/skald/")?.split_once('/')?;
            let (log, epoch) = rest.split_once('/')?;
            let named = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            let epoch = number(epoch).filter(|epoch| *epoch > 0)?;
            (!service.is_empty() && service.bytes().all(named)).then_some(())?;
            Some(Self { service: service.to_owned(), log: uuid(log)?, epoch })
        };
        read().ok_or_else(|| BadSource(shown(text)))
    }
}

/// The place of a message in what its log publishes to one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub source: Source,
    /// The message's position in its log, from 1.
    pub sequence: i64,
    /// The sequence that its source published to this partition before this one; 0: none.
    pub previous: i64,
    pub seal: Seal,
}

/// What is known of who wrote a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seal {
    /// It is not signed.
    #[default]
    None,
    /// Its signature, which nobody has held against it.
    Unchecked(String),
    /// Its signature, made with one of our keys.
    Good(String),
}

impl Seal {
    /// The signature, good or not.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Unchecked(text) | Self::Good(text) => Some(text),
        }
    }

    /// Only a service can have written it.
    pub fn is_good(&self) -> bool {
        matches!(self, Self::Good(_))
    }
}

/// Why a record is not a message. No retry makes it one.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    #[error("{0} headers, more than {HEADERS_MAX}")]
    TooManyHeaders(usize),
    #[error("header {0} is missing or empty")]
    MissingHeader(&'static str),
    #[error("header {0} is there more than once")]
    DuplicateHeader(&'static str),
    #[error("header {0} is longer than {HEADER_BYTES_MAX} bytes")]
    LongHeader(&'static str),
    #[error("header {0} is not text: UTF-8 without control characters")]
    NotText(&'static str),
    #[error("content-type is {0}, not application/json")]
    ContentType(String),
    #[error("ce_specversion is {0}, not 1.0")]
    SpecVersion(String),
    #[error("header {name} is not a UUID: {found}")]
    NotAUuid { name: &'static str, found: String },
    #[error("ce_time is not RFC 3339: {0}")]
    BadTime(String),
    #[error("ce_source: {0}")]
    BadSource(BadSource),
    #[error("ce_dataschema is {found}, not {DATASCHEMA}{kind}:<version>")]
    BadSchema { kind: String, found: String },
    #[error("header {name} is not a count: {found}")]
    NotACount { name: &'static str, found: String },
    #[error("ce_sequence {sequence} does not come after ce_previous {previous}")]
    OutOfSequence { sequence: i64, previous: i64 },
    #[error("the key is missing")]
    MissingKey,
    #[error("the key is not ce_partitionkey")]
    KeyMismatch,
    #[error("the value is missing")]
    MissingValue,
    #[error("the value is not UTF-8")]
    ValueNotText,
    #[error("the value is not JSON")]
    ValueNotJson(#[source] serde_json::Error),
}

/// Writes a message of `source`'s log that has a topic and a key, `previous` being what [`Link::previous`] says.
///
/// A message without a key gets an empty one, which [`decode`] refuses. Neither the version in its stream nor the actor goes
/// over the wire.
pub fn encode(message: &Message, source: &Source, previous: i64) -> Record {
    let key = message.key.as_deref().unwrap_or_default();
    let mut record = Record {
        key: Some(key.into()),
        headers: Vec::with_capacity(if message.kind == DeadLetter::KIND { 24 } else { 16 }),
        value: Some(message.data.as_str().into()),
    };
    record.add("content-type", "application/json");
    record.add("ce_specversion", "1.0");
    record.add("ce_id", message.id.to_string());
    record.add("ce_source", source.to_string());
    record.add("ce_type", message.kind.as_str());
    record.add("ce_time", message.time.to_string());
    record.add("ce_subject", message.stream.as_str());
    record.add("ce_dataschema", format!("{DATASCHEMA}{}:{}", message.kind, message.schema));
    record.add("ce_sequence", message.position.to_string());
    record.add("ce_previous", previous.to_string());
    if let Some(correlation) = message.meta.correlation {
        record.add("ce_correlationid", correlation.to_string());
    }
    if let Some(cause) = message.meta.cause {
        record.add("ce_causationid", cause.to_string());
    }
    record.add("ce_partitionkey", key);
    if let Some(parent) = message.meta.trace.parent.as_deref() {
        record.add("traceparent", parent);
    }
    if let Some(state) = message.meta.trace.state.as_deref() {
        record.add("tracestate", state);
    }
    if message.kind == DeadLetter::KIND
        && let Ok(letter) = DeadLetter::decode(&message.data)
    {
        letter.headers(|name, value| record.add(name, value));
    }
    record
}

/// Reads what [`encode`] wrote and found in `topic`. Headers that it does not know are passed over; so is a trace context
/// that is not well formed, as W3C asks: nothing that a message says depends on it.
///
/// The message's version is 0 and its actor `None`, as neither is on the wire.
///
/// # Errors
/// [`Malformed`] means poison: dead-letter the record by its offset, and move nothing else.
pub fn decode(topic: &str, record: &Record) -> Result<(Message, Link), Malformed> {
    if record.headers.len() > HEADERS_MAX {
        return Err(Malformed::TooManyHeaders(record.headers.len()));
    }
    let headers = Headers(&record.headers);
    match headers.required("content-type")? {
        "application/json" => {}
        other => return Err(Malformed::ContentType(shown(other))),
    }
    match headers.required("ce_specversion")? {
        "1.0" => {}
        other => return Err(Malformed::SpecVersion(shown(other))),
    }
    let id = headers.required("ce_id").and_then(|text| headers.uuid("ce_id", text))?;
    let source = headers.required("ce_source")?.parse().map_err(Malformed::BadSource)?;
    let kind = headers.required("ce_type")?;
    let time = headers.required("ce_time")?;
    let time = time.parse().map_err(|_| Malformed::BadTime(shown(time)))?;
    let stream = headers.required("ce_subject")?;
    let schema = headers.schema(kind)?;
    let (sequence, previous) = (headers.count("ce_sequence")?, headers.count("ce_previous")?);
    if sequence <= previous {
        return Err(Malformed::OutOfSequence { sequence, previous });
    }
    let correlation = headers.optional_uuid("ce_correlationid")?;
    let cause = headers.optional_uuid("ce_causationid")?.map(MessageId);
    let seal = headers.optional(signature::HEADER)?.map_or(Seal::None, |text| Seal::Unchecked(text.to_owned()));
    let key = headers.required("ce_partitionkey")?;
    match record.key.as_deref() {
        None => return Err(Malformed::MissingKey),
        Some(found) if found != key.as_bytes() => return Err(Malformed::KeyMismatch),
        Some(_) => {}
    }
    let value = record.value.as_deref().ok_or(Malformed::MissingValue)?;
    let data = std::str::from_utf8(value).map_err(|_| Malformed::ValueNotText)?;
    serde_json::from_str::<serde::de::IgnoredAny>(data).map_err(Malformed::ValueNotJson)?;
    let message = Message {
        position: sequence,
        id: MessageId(id),
        stream: stream.to_owned(),
        version: 0,
        topic: Some(topic.to_owned()),
        key: Some(key.to_owned()),
        kind: kind.to_owned(),
        schema,
        data: data.to_owned(),
        time,
        meta: Meta { cause, correlation, trace: headers.trace(), actor: None },
    };
    Ok((message, Link { source, sequence, previous, seal }))
}

/// The record of a message that came as one, as far as it is believed: [`encode`], and the signature that it came with.
pub fn encode_again(message: &Message, link: &Link) -> Record {
    let mut record = encode(message, &link.source, link.previous);
    if let Some(text) = link.seal.text() {
        record.add(signature::HEADER, text);
    }
    record
}

/// The headers of one record. Names are looked up one by one: for fifteen of them that is quicker than a map.
struct Headers<'r>(&'r [(String, Vec<u8>)]);

impl<'r> Headers<'r> {
    fn optional(&self, name: &'static str) -> Result<Option<&'r str>, Malformed> {
        let mut named = self.0.iter().filter(|(found, _)| found == name);
        let Some((_, value)) = named.next() else { return Ok(None) };
        if named.next().is_some() {
            return Err(Malformed::DuplicateHeader(name));
        }
        if value.len() > HEADER_BYTES_MAX {
            return Err(Malformed::LongHeader(name));
        }
        match std::str::from_utf8(value) {
            Ok(text) if !text.contains(char::is_control) => Ok(Some(text)),
            _ => Err(Malformed::NotText(name)),
        }
    }

    fn required(&self, name: &'static str) -> Result<&'r str, Malformed> {
        self.optional(name)?.filter(|text| !text.is_empty()).ok_or(Malformed::MissingHeader(name))
    }

    fn uuid(&self, name: &'static str, text: &str) -> Result<Uuid, Malformed> {
        uuid(text).ok_or_else(|| Malformed::NotAUuid { name, found: shown(text) })
    }

    fn optional_uuid(&self, name: &'static str) -> Result<Option<Uuid>, Malformed> {
        self.optional(name)?.map(|text| self.uuid(name, text)).transpose()
    }

    fn count(&self, name: &'static str) -> Result<i64, Malformed> {
        let text = self.required(name)?;
        number(text).ok_or_else(|| Malformed::NotACount { name, found: shown(text) })
    }

    fn schema(&self, kind: &str) -> Result<i64, Malformed> {
        let found = self.required("ce_dataschema")?;
        let version = found.strip_prefix(DATASCHEMA).and_then(|rest| rest.strip_prefix(kind)?.strip_prefix(':'));
        let version = version.and_then(number).filter(|version| *version > 0);
        version.ok_or_else(|| Malformed::BadSchema { kind: shown(kind), found: shown(found) })
    }

    fn trace(&self) -> Trace {
        let text = |name| self.optional(name).ok().flatten();
        match text("traceparent").filter(|parent| Trace::is_parent(parent)) {
            Some(parent) => {
                let state = text("tracestate").filter(|state| !state.is_empty());
                Trace { parent: Some(parent.to_owned()), state: state.map(str::to_owned) }
            }
            None => Trace::default(),
        }
    }
}

/// Hyphenated and in lower case, as it is written: one id has one text.
fn uuid(text: &str) -> Option<Uuid> {
    let written = text.len() == 36 && !text.bytes().any(|byte| byte.is_ascii_uppercase());
    written.then(|| Uuid::parse_str(text).ok()).flatten()
}

/// Decimal digits, without a sign or leading zeros.
fn number(text: &str) -> Option<i64> {
    let written = text == "0" || matches!(text.as_bytes().first(), Some(b'1'..=b'9'));
    written.then(|| text.parse().ok()).flatten()
}

/// What was found, quoted and short enough for an error.
pub(crate) fn shown(text: &str) -> String {
    match text.char_indices().nth(80) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}
