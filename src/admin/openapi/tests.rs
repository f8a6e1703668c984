//! What the document must have, so that people and generators can rely on it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

fn parsed() -> Value {
    serde_json::from_str(&document()).unwrap()
}

/// Each operation with its method and path.
fn all(document: &Value) -> Vec<(String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            let operations = item.as_object().unwrap().iter();
            operations.map(move |(method, operation)| (format!("{method} {path}"), operation))
        })
        .collect()
}

#[test]
fn the_copy_in_docs_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, document()).unwrap();
    }
    let copy = std::fs::read_to_string(path).unwrap_or_default();
    assert!(copy == document(), "docs/openapi.json is stale: UPDATE_DOCS=1 cargo test --lib openapi");
}

#[test]
fn it_is_openapi_3_1_with_a_name_and_relative_servers() {
    let document = parsed();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(document["servers"][0]["url"], "/");
    assert_eq!(document["components"]["securitySchemes"]["token"]["scheme"], "bearer");
}

#[test]
fn every_operation_says_all_that_a_reader_needs() {
    let document = parsed();
    let tags: BTreeSet<&str> =
        document["tags"].as_array().unwrap().iter().map(|tag| tag["name"].as_str().unwrap()).collect();
    let mut ids = BTreeSet::new();
    for (name, operation) in all(&document) {
        assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{name}: id used twice");
        assert!(!operation["summary"].as_str().unwrap().is_empty(), "{name}");
        for tag in operation["tags"].as_array().unwrap() {
            assert!(tags.contains(tag.as_str().unwrap()), "{name}: tag {tag} is not explained");
        }
        for (status, response) in operation["responses"].as_object().unwrap() {
            assert!(response["headers"]["X-Request-Id"].is_object(), "{name} {status}");
            assert!(!response["description"].as_str().unwrap().is_empty(), "{name} {status}");
            for (kind, media) in response["content"].as_object().into_iter().flatten() {
                let shown = media.get("example").or_else(|| media.get("examples"));
                assert!(shown.is_some_and(|e| !e.is_null()), "{name} {status} {kind}: no example");
            }
        }
        if operation.get("security").is_some() {
            assert!(operation["responses"]["401"].is_object(), "{name}: guarded without a 401");
        }
        for (kind, media) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
            assert!(media.get("example").or_else(|| media.get("examples")).is_some(), "{name} {kind}");
        }
    }
}

#[test]
fn references_lead_somewhere() {
    fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let document = parsed();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
    }
}
