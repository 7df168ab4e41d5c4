//! docs/asyncapi.json: topics, who sends and receives what, and what each message looks like on Kafka.

use serde_json::{Map, json};

use super::*;
use crate::{Record, topics::TOPICS};

const BINDING: &str = "0.5.0";

/// The headers of every message, in order: name, whether it is always there, pattern, meaning.
const HEADERS: [(&str, bool, &str, &str); 16] = [
    ("content-type", true, "^application/json$", "Of the value"),
    ("ce_specversion", true, "^1\\.0$", "CloudEvents' version"),
    ("ce_id", true, UUID, "The message's own id, a UUIDv7"),
    (
        "ce_source",
        true,
        "^/skald/[a-z0-9-]+/[0-9a-f-]{36}/[1-9][0-9]*$",
        "The log it is a row of: /skald/<service>/<log id>/<epoch>",
    ),
    ("ce_type", true, "", "The payload's type"),
    ("ce_time", true, "^[0-9]{4}-.*Z$", "When it was committed; RFC 3339 in UTC, with microseconds"),
    ("ce_subject", true, "", "The stream: the aggregate or saga instance"),
    ("ce_dataschema", true, "^urn:skald:schema:.+:[1-9][0-9]*$", "The payload's schema: its type and version"),
    ("ce_sequence", true, "^[1-9][0-9]*$", "The message's position in its log"),
    (
        "ce_previous",
        true,
        "^(0|[1-9][0-9]*)$",
        "The sequence that its source published to this partition before it; 0 for the first",
    ),
    ("ce_correlationid", false, UUID, "The saga that it belongs to"),
    ("ce_causationid", false, UUID, "The message whose handling caused it"),
    ("ce_partitionkey", true, "", "The record's key; its murmur2 chooses the partition"),
    ("traceparent", false, "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$", "W3C trace context as it was at the append"),
    ("tracestate", false, "", "W3C trace state as it was at the append"),
    (
        "ce_signature",
        false,
        "^[a-z0-9-]{1,32}:[A-Za-z0-9+/]{43}=$",
        "With a message key: <key id>:<base64 HMAC-SHA256> over topic, envelope and value (docs/signatures.md)",
    ),
];
/// The headers that a dead letter has besides.
const DEAD_LETTER_HEADERS: [(&str, bool, &str, &str); 8] = [
    ("dlq_original_topic", true, "", "Where the record was found"),
    ("dlq_original_partition", true, "^[0-9]+$", "Where the record was found"),
    ("dlq_original_offset", true, "^[0-9]+$", "Where the record was found"),
    ("dlq_consumer_group", true, "", "Whose consumer group could not handle it"),
    ("dlq_error_type", true, "^(undecodable|unknown_type|refused|forged)$", "What is wrong with it"),
    ("dlq_error_message", true, "", "What is wrong with it, in words"),
    ("dlq_attempts", true, "^[0-9]+$", "How often it was tried"),
    ("dlq_replay_count", true, "^[0-9]+$", "How often it was redriven"),
];
const UUID: &str = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$";

/// The schema of these headers; an empty pattern is any text.
fn headers(headers: &[(&str, bool, &str, &str)]) -> Value {
    let schema = |pattern: &str, meaning: &str| match pattern {
        "" => json!({"type": "string", "description": meaning}),
        _ => json!({"type": "string", "pattern": pattern, "description": meaning}),
    };
    let properties: Map<_, _> =
        headers.iter().map(|(name, _, pattern, meaning)| ((*name).to_owned(), schema(pattern, meaning))).collect();
    let required: Vec<&str> = headers.iter().filter(|(_, required, ..)| *required).map(|(name, ..)| *name).collect();
    json!({"type": "object", "required": required, "properties": properties})
}

fn message(kind: &Type, record: &Record) -> Value {
    let mut payload = kind.schema(SchemaSettings::draft07().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    }));
    let words = payload.as_object_mut().unwrap();
    let (title, summary) = (words.remove("title"), words.remove("description"));
    let mut headers = vec![json!({"$ref": "#/components/schemas/envelope"})];
    if kind.kind == DeadLetter::KIND {
        headers.push(json!({"$ref": "#/components/schemas/deadLetter"}));
    }
    let own = json!({"ce_type": {"const": kind.kind}, "ce_dataschema": {"const": kind.urn()}});
    let found: Map<_, _> = record.headers.iter().map(|(name, _)| (name.clone(), record.header(name).into())).collect();
    let value: Value = serde_json::from_slice(record.value.as_ref().unwrap()).unwrap();
    json!({
        "name": kind.kind,
        "title": title,
        "summary": summary,
        "headers": {"type": "object", "allOf": headers, "properties": own},
        "payload": payload,
        "bindings": {"$ref": "#/components/messageBindings/key"},
        "examples": [{"headers": found, "payload": value}],
    })
}

fn channel(topic: &str, writers: &[&str], readers: &[&str], settings: &topics::Settings, kinds: &[Type]) -> Value {
    let messages: Map<_, _> = kinds
        .iter()
        .filter(|kind| kind.topics().iter().any(|name| name == topic))
        .map(|kind| (kind.kind.to_owned(), json!({"$ref": format!("#/components/messages/{}", kind.kind)})))
        .collect();
    assert!(!messages.is_empty(), "{topic} carries something");
    let read = if readers.is_empty() { String::new() } else { format!(", read by {}", readers.join(", ")) };
    json!({
        "address": topic,
        "summary": format!("Written by {}{read}", writers.join(", ")),
        "messages": messages,
        "bindings": {"kafka": {
            "topic": topic,
            "partitions": settings.partitions,
            "topicConfiguration": {
                "cleanup.policy": ["delete"],
                "retention.ms": settings.retention.as_millis() as u64,
                "max.message.bytes": settings.max_message_bytes,
            },
            "bindingVersion": BINDING,
        }},
    })
}

fn document() -> Value {
    let published: Vec<Type> = types().into_iter().filter(|kind| !kind.topics().is_empty()).collect();
    let (mut channels, mut operations) = (Map::new(), Map::new());
    for (name, settings) in topics::all() {
        let about = TOPICS.iter().find(|topic| name == topic.name);
        let of_dead_letters = || TOPICS.iter().find(|topic| name == topics::dead_letters(topic.name)).unwrap().readers;
        let (writers, readers) =
            about.map_or_else(|| (of_dead_letters(), &[][..]), |topic| (std::slice::from_ref(&topic.owner), topic.readers));
        for (action, services) in [("send", writers), ("receive", readers)] {
            for service in services {
                let channel = json!({"$ref": format!("#/channels/{name}")});
                operations.insert(format!("{service}.{action}.{name}"), json!({"action": action, "channel": channel}));
            }
        }
        channels.insert(name.clone(), channel(&name, writers, readers, &settings, &published));
    }
    let goldens = published.iter().map(|kind| (kind, golden::Golden::of(kind, kind.schema).published().expect("a link").0));
    let messages: Map<_, _> = goldens.map(|(kind, record)| (kind.kind.to_owned(), message(kind, &record))).collect();
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Skald",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The messages of Skald's services on Kafka: CloudEvents 1.0, Kafka binding, binary mode, JSON.",
            "license": {"name": env!("CARGO_PKG_LICENSE")},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": {"envelope": headers(&HEADERS), "deadLetter": headers(&DEAD_LETTER_HEADERS)},
            "messageBindings": {"key": {"kafka": {
                "key": {"type": "string", "description": "The order's id for whatever a saga touches, else the aggregate's"},
                "bindingVersion": BINDING,
            }}},
        },
    })
}

#[test]
fn the_committed_document_is_the_crate_s() {
    let (path, fresh) = (directory("../../docs/asyncapi.json"), pretty(&document()));
    if generating() {
        fs::write(&path, &fresh).unwrap();
    }
    let committed = fs::read_to_string(path).unwrap_or_default();
    assert!(committed == fresh, "docs/asyncapi.json is stale; SKALD_GENERATE=1 cargo test -p skald-contract writes it anew");
}

#[test]
fn the_document_knows_every_header_that_is_written() {
    for kind in types() {
        let Some((record, _)) = golden::Golden::of(&kind, kind.schema).published() else { continue };
        let own = if kind.kind == DeadLetter::KIND { &DEAD_LETTER_HEADERS[..] } else { &[] };
        let written: Vec<&str> = record.headers.iter().map(|(name, _)| name.as_str()).collect();
        let known = HEADERS.iter().chain(own).filter(|(name, required, ..)| *required || written.contains(name));
        assert_eq!(written, known.map(|(name, ..)| *name).collect::<Vec<_>>(), "{}", kind.kind);
    }
}
