//! Small helpers on `serde_json` values, used by every part of the API server: objects are kept as
//! JSON, since most of them are only stored, compared, selected and sent again.

use serde_json::{Map, Value};

/// The value at `path`, if every step of it is there.
pub(super) fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| value.get(key))
}

/// The text at `path`; empty when it is missing or no text, as Go's zero value is.
pub(super) fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or_default()
}

/// The list at `path`; empty when it is missing or no list.
pub(super) fn list<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    at(value, path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The map at `path`, if it is one.
pub(super) fn map<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Map<String, Value>> {
    at(value, path).and_then(Value::as_object)
}

/// `value` as a map to write to; anything else that it was is replaced by an empty one.
pub(super) fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        // Replaced above.
        other => unreachable!("not an object: {other}"),
    }
}

/// The map under `key`, made when missing.
pub(super) fn child<'a>(value: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    object(object(value).entry(key).or_insert(Value::Null))
}

/// `value.metadata` as a map to write to.
pub(super) fn metadata(value: &mut Value) -> &mut Map<String, Value> {
    child(value, "metadata")
}

/// Sets `key` unless it is there and not null: how the API server fills in defaults.
pub(super) fn default(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    let slot = map.entry(key).or_insert(Value::Null);
    if slot.is_null() {
        *slot = value.into();
    }
}

/// Puts `value` at `key`, or removes the key when there is none.
pub(super) fn set_or_remove(map: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    match value {
        Some(value) => {
            map.insert(key.to_owned(), value);
        }
        None => {
            map.shift_remove(key);
        }
    }
}

/// Whether a value is one that Go's `omitempty` would leave out.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_by_path() {
        let value = json!({"a": {"b": "x", "c": [1]}});
        assert_eq!(text(&value, &["a", "b"]), "x");
        assert_eq!(text(&value, &["a", "z"]), "");
        assert_eq!(list(&value, &["a", "c"]).len(), 1);
        assert!(list(&value, &["a", "b"]).is_empty());
        assert!(at(&value, &["a", "b", "c"]).is_none());
    }

    #[test]
    fn writes_make_what_is_missing() {
        let mut value = json!({"metadata": null});
        metadata(&mut value).insert("name".into(), json!("n"));
        default(metadata(&mut value), "name", "other");
        default(metadata(&mut value), "uid", "u");
        assert_eq!(value, json!({"metadata": {"name": "n", "uid": "u"}}));
    }
}
