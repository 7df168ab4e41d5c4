//! What holds of the contract as a whole: every message type has a schema and a golden pair, both committed, and neither ever
//! changes its meaning; AsyncAPI tells the same. `SKALD_GENERATE=1 cargo test -p skald-contract` writes what is missing or stale.

use std::{
    fs,
    path::{Path, PathBuf},
};

use schemars::{Schema, SchemaGenerator, generate::SchemaSettings};
use serde::Serialize;
use serde_json::Value;

use crate::{DeadLetter, DecodeError, notification, order, payment, product, record, saga, topics, user};

mod any;
mod asyncapi;
mod compatible;
mod golden;
mod payloads;
mod records;
mod schemas;
mod signatures;

/// One message type, from the table that declares it.
#[derive(Clone, Copy)]
pub(crate) struct Type {
    pub kind: &'static str,
    /// The newest version of its schema.
    pub schema: i64,
    /// `None` for what stays in the log, and for dead letters, which have a topic for each that is read.
    pub topic: Option<&'static str>,
    pub json_schema: fn(&mut SchemaGenerator) -> Schema,
    /// Reads data of some schema version and writes it as this build does.
    pub recode: fn(i64, &str) -> Result<String, DecodeError>,
}

/// Every type that a log can hold.
fn types() -> Vec<Type> {
    let dead_letter = Type {
        kind: DeadLetter::KIND,
        schema: DeadLetter::SCHEMA,
        topic: None,
        json_schema: |generator| generator.root_schema_for::<DeadLetter>(),
        recode: |_, data| Ok(DeadLetter::decode(data)?.encode().data),
    };
    let tables = [
        order::Event::TYPES,
        product::Command::TYPES,
        product::Event::TYPES,
        payment::Command::TYPES,
        payment::Event::TYPES,
        user::Event::TYPES,
        notification::Event::TYPES,
        saga::Event::TYPES,
        &[dead_letter],
    ];
    tables.concat()
}

impl Type {
    /// What its schema and its golden pair are called, in one version.
    fn file(&self, schema: i64) -> String {
        format!("{}.v{schema}.json", self.kind)
    }

    /// Every topic that carries it.
    fn topics(&self) -> Vec<String> {
        match self.topic {
            Some(topic) => vec![topic.to_owned()],
            None if self.kind == DeadLetter::KIND => {
                topics::all().map(|(name, _)| name).filter(|name| name.ends_with(".dlq")).collect()
            }
            None => Vec::new(),
        }
    }

    fn urn(&self) -> String {
        format!("{}{}:{}", record::DATASCHEMA, self.kind, self.schema)
    }

    fn schema(&self, settings: SchemaSettings) -> Value {
        (self.json_schema)(&mut settings.into_generator()).into()
    }
}

/// A directory of the repository.
fn directory(from_here: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(from_here)
}

fn generating() -> bool {
    std::env::var_os("SKALD_GENERATE").is_some()
}

fn pretty(document: &impl Serialize) -> String {
    serde_json::to_string_pretty(document).unwrap() + "\n"
}

/// A directory holds nothing but one file a type and version: none without a type, none of a version that is yet to come.
fn assert_no_strays(directory: &Path) {
    let known: Vec<String> = types().iter().flat_map(|kind| (1..=kind.schema).map(|schema| kind.file(schema))).collect();
    for entry in fs::read_dir(directory).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(known.contains(&name), "{name} belongs to no type of the contract: a type that was published is never dropped");
    }
}
