//! What every operation and schema of the document promises, beyond what stands at its handler.
//!
//! Never here: what one service's operation means. Headers that several services read have their grammar here, once.

use axum::http::StatusCode;
use serde_json::{Value, json};

/// The grammar of headers that mean the same at every operation. What does not keep to it is refused or matches nothing.
fn header(name: &str) -> Option<Value> {
    match name {
        "Idempotency-Key" => Some(json!({
            "type": "string", "minLength": 1, "maxLength": 257, "pattern": r#"^(?!""$)("[\x21-\x7e]{1,255}"|[\x21-\x7e]{1,255})$"#,
        })),
        "If-Match" => Some(json!({
            "type": "string", "maxLength": 255, "pattern": r#"^(\*|"[0-9]{1,19}"( ?, ?"[0-9]{1,19}")*)$"#, "example": "\"1\"",
        })),
        _ => None,
    }
}

/// An operation as it goes into the document: whose it is, who may call it, what may go wrong.
pub(super) fn operation(operation: &mut Value, service: &str) {
    operation["tags"] = json!([service]);
    if operation["security"].is_null() {
        // Said, not left out: nobody needs a token.
        operation["security"] = json!([]);
    }
    let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten() {
        if let Some(schema) = parameter["name"].as_str().and_then(header) {
            parameter["schema"] = schema;
        }
        not_null(&mut parameter["schema"]);
    }
    if let Some(schema) = operation.pointer_mut("/requestBody/content/application~1json/schema")
        && let Some(object) = schema["oneOf"].as_array().and_then(|one_of| one_of.iter().find(|schema| schema["type"] != "null"))
    {
        // It may be left out; if it is there, it is an object.
        *schema = object.clone();
        operation["requestBody"]["required"] = false.into();
    }
    responses(&mut operation["responses"]);
}

/// A parameter is there or not; text on the wire is never null.
fn not_null(schema: &mut Value) {
    let named = schema["type"].as_array().and_then(|types| types.iter().find(|name| *name != "null")).cloned();
    if let Some(named) = named {
        schema["type"] = named;
    }
}

fn responses(responses: &mut Value) {
    // Every response must have a description; the status' own words where a handler has none.
    for (status, response) in responses.as_object_mut().into_iter().flatten() {
        if response["description"].is_null() {
            let status = status.parse::<StatusCode>().ok();
            response["description"] = status.and_then(|status| status.canonical_reason()).into();
        }
        if status.starts_with(['4', '5']) && response["content"].is_null() {
            response["content"] = problem()["content"].clone();
        }
    }
    if !responses.as_object().is_some_and(|responses| responses.keys().any(|status| status.starts_with('4'))) {
        responses["4XX"] = problem();
    }
    if responses["default"].is_null() {
        responses["default"] = problem();
    }
}

fn problem() -> Value {
    let schema = json!({ "$ref": "#/components/schemas/Problem" });
    json!({ "description": "What is wrong", "content": { "application/problem+json": { "schema": schema } } })
}

pub(super) fn problem_schema() -> Value {
    let text = json!({ "type": "string" });
    let field = json!({ "type": "object", "properties": { "field": text, "detail": text }, "required": ["field", "detail"] });
    json!({
        "type": "object",
        "description": "RFC 9457; `code` is for programs.",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": text, "title": text, "status": { "type": "integer" }, "detail": text, "instance": text, "code": text,
            "trace_id": text, "errors": { "type": "array", "items": field },
        },
    })
}

/// Leaves out schemas that nothing refers to, until all are referred to.
pub(super) fn drop_unused(document: &mut Value) {
    loop {
        let text = document.to_string();
        let Some(schemas) = document["components"]["schemas"].as_object_mut() else { return };
        let before = schemas.len();
        schemas.retain(|name, _| text.contains(&format!("\"#/components/schemas/{name}\"")));
        if schemas.len() == before {
            return;
        }
    }
}
