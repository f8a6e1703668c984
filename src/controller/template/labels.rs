//! Keys and values of labels, and keys of annotations, as the API server takes them. Called by [`super::rules`].

use serde_json::Value;

use super::TemplateError;
use super::rules::{element, join};
use crate::kubernetes::names;

/// Labels: keys and values.
pub(super) fn check(values: &Value, path: &str, mistakes: &mut Vec<TemplateError>) {
    qualified(values, path, &str::to_owned, mistakes);
    for (name, value) in values.as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        if names::label_value(value).is_some() {
            mistakes.push(TemplateError::new(
                format!("{path}[{name}]"),
                format!("'{value}' is no label's value"),
                "write up to 63 letters, digits, '-', '_' and '.', a letter or a digit at both ends; other texts \
                 fit into annotations",
            ));
        }
    }
}

/// Keys of annotations, whose prefix may have capitals.
pub(super) fn keys(values: &Value, path: &str, mistakes: &mut Vec<TemplateError>) {
    qualified(values, path, &str::to_ascii_lowercase, mistakes);
}

fn qualified(values: &Value, path: &str, spelt: &dyn Fn(&str) -> String, mistakes: &mut Vec<TemplateError>) {
    for (name, _) in values.as_object().into_iter().flatten() {
        if names::qualified(&spelt(name)).is_some() {
            mistakes.push(TemplateError::new(
                format!("{path}[{name}]"),
                "it is no key of a label or annotation",
                "write a name such as team or example.com/team: up to 63 letters, digits, '-', '_' and '.'",
            ));
        }
    }
}

/// Every `matchLabels` below `value`.
pub(super) fn selectors(value: &Value, path: &str, mistakes: &mut Vec<TemplateError>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = join(path, name);
                match name.as_str() {
                    "matchLabels" => check(value, &path, mistakes),
                    _ => selectors(value, &path, mistakes),
                }
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                selectors(value, &element(path, value, index), mistakes);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
