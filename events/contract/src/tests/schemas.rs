//! JSON Schemas, one file a message type and schema version, in docs/schemas.

use super::*;

#[test]
fn the_committed_schemas_are_the_crate_s_and_never_change_their_meaning() {
    let directory = directory("../../docs/schemas");
    let read = |file: String| fs::read_to_string(directory.join(file)).ok();
    let parsed = |text: &str| -> Value { serde_json::from_str(text).unwrap() };
    for kind in types() {
        let mut fresh = kind.schema(SchemaSettings::draft2020_12());
        fresh["$id"] = kind.urn().into();
        let (file, text) = (kind.file(kind.schema), pretty(&fresh));
        let committed = read(kind.file(kind.schema));
        if let Some(committed) = committed.as_deref().map(parsed) {
            let changed = compatible::extends(&committed, &fresh);
            let changed = changed.and_then(|()| compatible::extends(&fresh, &committed).map_err(|_| "a field is new".to_owned()));
            assert_eq!(changed, Ok(()), "{file} is committed and keeps its meaning: give {} a new schema version", kind.kind);
        }
        for older in 1..kind.schema {
            let text = read(kind.file(older)).unwrap_or_else(|| panic!("{} is gone: logs still hold it", kind.file(older)));
            let compared = compatible::extends(&parsed(&text), &fresh);
            assert_eq!(compared, Ok(()), "{file} does more to {} than add optional fields: make it a new type", kind.file(older));
        }
        if committed.as_ref() != Some(&text) {
            assert!(generating(), "{file} is stale; SKALD_GENERATE=1 writes it anew");
            fs::write(directory.join(file), text).unwrap();
        }
    }
    assert_no_strays(&directory);
}
