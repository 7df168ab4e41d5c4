//! Golden pairs, one file a message type and schema version, in golden/: the message, and the record that it is on the wire. The
//! message is written by hand, the record once by `SKALD_GENERATE=1`; neither is changed afterwards, as logs and topics hold them.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::*;
use crate::{Message, MessageId, MessageKeys, Meta, Record, Timestamp, Trace};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Golden {
    message: Form,
    /// What the relay adds; nothing for a message that stays in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    link: Option<Link>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    record: Option<Record>,
    /// The record's `ce_signature` with [`KEY`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
}

/// For these tests and for whoever writes signatures in another language (docs/signatures.md).
const KEY: &str = "golden:a secret of thirty-two bytes or more";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    source: String,
    previous: i64,
}

/// The message, as it reads best.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    position: i64,
    id: MessageId,
    stream: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    kind: String,
    schema: i64,
    time: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    correlation: Option<MessageId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cause: Option<MessageId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tracestate: Option<String>,
    data: Box<RawValue>,
}

impl Golden {
    pub(super) fn of(kind: &Type, schema: i64) -> Self {
        let file = directory("golden").join(kind.file(schema));
        let text = fs::read_to_string(&file).unwrap_or_else(|_| {
            panic!("golden/{} is missing: write its `message` (and `link`), SKALD_GENERATE=1 adds the record", kind.file(schema))
        });
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    }

    /// The record that this build writes, if it is published, and its place.
    pub(super) fn published(&self) -> Option<(Record, crate::Link)> {
        let (message, link) = (self.message(), self.link.as_ref()?);
        let source = link.source.parse().unwrap();
        let record = record::encode(&message, &source, link.previous);
        Some((record, crate::Link { source, sequence: message.position, previous: link.previous, seal: crate::Seal::None }))
    }

    /// The payload, as it stands in the file.
    pub(super) fn data(&self) -> String {
        self.message.data.get().to_owned()
    }

    /// As it was when it was appended, but for what is not on the wire.
    fn message(&self) -> Message {
        let Form { position, id, stream, topic, key, kind, schema, time, correlation, cause, traceparent, tracestate, data } =
            &self.message;
        let trace = Trace { parent: traceparent.clone(), state: tracestate.clone() };
        Message {
            position: *position,
            id: *id,
            stream: stream.clone(),
            version: 0,
            topic: topic.clone(),
            key: key.clone(),
            kind: kind.clone(),
            schema: *schema,
            data: data.get().to_owned(),
            time: *time,
            meta: Meta { cause: *cause, correlation: correlation.map(|id| id.0), trace, actor: None },
        }
    }
}

#[test]
fn every_type_in_every_version_has_its_golden_pair_and_both_ways_lead_to_it() {
    for kind in types() {
        for schema in 1..=kind.schema {
            let (mut golden, file) = (Golden::of(&kind, schema), kind.file(schema));
            let message = golden.message();
            assert_eq!((message.kind.as_str(), message.schema), (kind.kind, schema), "{file}");
            let recoded = (kind.recode)(schema, &message.data).unwrap_or_else(|error| panic!("{file}: {error:?}"));
            assert!(schema < kind.schema || recoded == message.data, "{file}: this build writes {recoded}");

            let Some((record, link)) = golden.published() else {
                assert!(kind.topics().is_empty() && golden.record.is_none(), "{file} is published, so it has a topic and a link");
                continue;
            };
            let topic = message.topic.as_deref().unwrap();
            assert!(kind.topics().iter().any(|name| name == topic), "{file} is not published to {topic}");
            let (keys, mut signed) = (MessageKeys::parse(KEY).unwrap(), record.clone());
            keys.sign(&mut signed, &message, &link.source, link.previous);
            let signature = signed.header("ce_signature").map(str::to_owned);
            if (golden.record.is_none() || golden.signature.is_none()) && generating() {
                golden.record.get_or_insert_with(|| record.clone());
                golden.signature.clone_from(&signature);
                fs::write(directory("golden").join(&file), pretty(&golden)).unwrap();
            }
            assert_eq!(golden.record.as_ref(), Some(&record), "{file}: what is on the wire has changed");
            assert_eq!(golden.signature, signature, "{file}: what is signed has changed");
            assert_eq!(record::decode(topic, &record).unwrap(), (message.clone(), link), "{file}");
            let (message, mut link) = record::decode(topic, &signed).unwrap();
            assert_eq!(keys.check(&message, &mut link), Ok(()), "{file}");
            assert_eq!(record::encode_again(&message, &link), signed, "{file}");
        }
    }
    assert_no_strays(&directory("golden"));
}
