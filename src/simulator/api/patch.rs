//! The patch formats: JSON merge patch (RFC 7386), JSON patch (RFC 6902), and the way to the strategic
//! merge patch. Pure functions from an object and a patch to an object.

use serde_json::{Map, Value};

use super::status::Failure;
use super::strategic;

/// A format, by its content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Merge,
    Strategic,
    Json,
    /// Server-side apply. Field ownership is not kept: what a manager applied before and has left out
    /// now stays, and there are no conflicts.
    Apply,
}

impl Format {
    /// The format that a content type names.
    pub(super) fn of(content_type: &str) -> Result<Self, Failure> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic),
            "application/json-patch+json" => Ok(Self::Json),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            _ => Err(Failure::unsupported_patch()),
        }
    }
}

/// Reads a patch's body.
pub(super) fn parse(format: Format, body: &[u8]) -> Result<Value, Failure> {
    let patch: Value = serde_json::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("error decoding patch: {error}")))?;
    let fits = match format {
        Format::Json => patch.is_array(),
        Format::Merge | Format::Strategic | Format::Apply => patch.is_object(),
    };
    if !fits {
        let expected =
            if format == Format::Json { "[]jsonpatch.Operation" } else { "map[string]interface {}" };
        let message =
            format!("error decoding patch: json: cannot unmarshal into Go value of type {expected}");
        return Err(Failure::bad_request(message));
    }
    Ok(patch)
}

/// Applies a patch.
pub(super) fn apply(format: Format, object: &Value, patch: &Value) -> Result<Value, Failure> {
    match format {
        Format::Merge => {
            let mut patched = object.clone();
            merge(&mut patched, patch);
            Ok(patched)
        }
        Format::Strategic | Format::Apply => {
            let mut patched = object.clone();
            strategic::merge(&mut patched, patch);
            Ok(patched)
        }
        Format::Json => json_patch(object, patch).ok_or_else(Failure::unprocessable_patch),
    }
}

/// RFC 7386: maps are merged, null removes, everything else replaces.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    let target = super::json::object(target);
    for (key, value) in patch {
        if value.is_null() {
            target.shift_remove(key);
        } else {
            merge(target.entry(key.as_str()).or_insert(Value::Null), value);
        }
    }
}

/// RFC 6902; nothing if an operation is malformed or does not apply.
fn json_patch(object: &Value, patch: &Value) -> Option<Value> {
    let mut patched = object.clone();
    for operation in patch.as_array()? {
        let text = |field: &str| operation.get(field).and_then(Value::as_str);
        let path = text("path")?;
        match text("op")? {
            "add" => insert(&mut patched, path, operation.get("value")?.clone())?,
            "remove" => {
                remove(&mut patched, path)?;
            }
            "replace" => {
                remove(&mut patched, path)?;
                insert(&mut patched, path, operation.get("value")?.clone())?;
            }
            "move" => {
                let value = remove(&mut patched, text("from")?)?;
                insert(&mut patched, path, value)?;
            }
            "copy" => {
                let value = patched.pointer(text("from")?)?.clone();
                insert(&mut patched, path, value)?;
            }
            "test" => {
                if patched.pointer(path)? != operation.get("value")? {
                    return None;
                }
            }
            _ => return None,
        }
    }
    Some(patched)
}

fn split(pointer: &str) -> Option<(&str, String)> {
    let (parent, last) = pointer.rsplit_once('/')?;
    Some((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn insert(root: &mut Value, pointer: &str, value: Value) -> Option<()> {
    if pointer.is_empty() {
        *root = value;
        return Some(());
    }
    let (parent, key) = split(pointer)?;
    match root.pointer_mut(parent)? {
        Value::Object(map) => {
            map.insert(key, value);
        }
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => {
            let index: usize = key.parse().ok()?;
            if index > items.len() {
                return None;
            }
            items.insert(index, value);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return None,
    }
    Some(())
}

fn remove(root: &mut Value, pointer: &str) -> Option<Value> {
    if pointer.is_empty() {
        return Some(std::mem::replace(root, Value::Object(Map::new())));
    }
    let (parent, key) = split(pointer)?;
    match root.pointer_mut(parent)? {
        Value::Object(map) => map.shift_remove(&key),
        Value::Array(items) => {
            let index: usize = key.parse().ok()?;
            (index < items.len()).then(|| items.remove(index))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // The table of RFC 7386, appendix A.
    #[test]
    fn merge_patch_as_in_the_rfc() {
        for (target, patch, result) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ] {
            assert_eq!(apply(Format::Merge, &target, &patch).unwrap(), result);
        }
    }

    #[test]
    fn json_patch_operations() {
        let object = json!({"metadata": {"labels": {"a/b": "1"}}, "list": [1, 2]});
        let patch = json!([
            {"op": "test", "path": "/metadata/labels/a~1b", "value": "1"},
            {"op": "replace", "path": "/metadata/labels/a~1b", "value": "2"},
            {"op": "add", "path": "/list/1", "value": 9},
            {"op": "add", "path": "/list/-", "value": 3},
            {"op": "copy", "from": "/list/0", "path": "/first"},
            {"op": "move", "from": "/first", "path": "/moved"},
            {"op": "remove", "path": "/list/0"},
        ]);
        assert_eq!(
            apply(Format::Json, &object, &patch).unwrap(),
            json!({"metadata": {"labels": {"a/b": "2"}}, "list": [9, 2, 3], "moved": 1})
        );
        for bad in [
            json!([{"op": "remove", "path": "/nope"}]),
            json!([{"op": "test", "path": "/list/0", "value": 7}]),
            json!([{"op": "add", "path": "/list/7", "value": 7}]),
            json!([{"op": "add", "path": "/a/b", "value": 7}]),
            json!([{"op": "zz", "path": "/a"}]),
            json!([{"path": "/a"}]),
        ] {
            assert_eq!(apply(Format::Json, &object, &bad).unwrap_err().code, 422, "{bad}");
        }
    }

    #[test]
    fn bodies_and_content_types() {
        assert_eq!(Format::of("application/merge-patch+json; charset=utf-8").unwrap(), Format::Merge);
        assert_eq!(Format::of("application/json").unwrap_err().code, 415);
        assert_eq!(parse(Format::Merge, b"{x").unwrap_err().code, 400);
        assert_eq!(parse(Format::Merge, b"[]").unwrap_err().code, 400);
        assert_eq!(parse(Format::Json, b"{}").unwrap_err().code, 400);
        assert!(parse(Format::Json, b"[]").is_ok());
    }
}
