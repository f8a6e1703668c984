//! Strategic merge patch: a merge patch that knows which lists are sets or are keyed by a field. The
//! keys are those of the `x-kubernetes-patch-merge-key` marks in the API's OpenAPI description, for the
//! resources that this server has.

use serde_json::{Map, Value};

use super::json::object;

/// How a list is merged.
enum Strategy {
    /// By the value of a field.
    Key(&'static str),
    /// As a set of plain values.
    Set,
    /// Replaced as a whole.
    Replace,
}

fn strategy(field: &str, parent: &str) -> Strategy {
    match field {
        "containers" | "initContainers" | "ephemeralContainers" | "volumes" | "imagePullSecrets" | "env" => {
            Strategy::Key("name")
        }
        "ports" => Strategy::Key("containerPort"),
        "volumeMounts" => Strategy::Key("mountPath"),
        "volumeDevices" => Strategy::Key("devicePath"),
        "topologySpreadConstraints" => Strategy::Key("topologyKey"),
        "hostAliases" | "podIPs" | "hostIPs" => Strategy::Key("ip"),
        "ownerReferences" => Strategy::Key("uid"),
        "conditions" => Strategy::Key("type"),
        "addresses" if parent == "status" => Strategy::Key("type"),
        "finalizers" => Strategy::Set,
        _ => Strategy::Replace,
    }
}

/// Merges `patch` into `target`.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    merge_value(target, patch, "");
}

fn merge_value(target: &mut Value, patch: &Value, parent: &str) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if patch.get("$patch").and_then(Value::as_str) == Some("replace") {
        *target = Value::Object(without_directives(patch));
        return;
    }
    let target = object(target);
    if let Some(Value::Array(kept)) = patch.get("$retainKeys") {
        target.retain(|key, _| kept.iter().any(|kept| kept == key));
    }
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(items)), Value::Array(gone)) = (target.get_mut(list), value) {
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if key.starts_with('$') {
            continue;
        }
        match value {
            Value::Null => {
                target.shift_remove(key);
            }
            Value::Array(items) => {
                let list = target.entry(key.as_str()).or_insert_with(|| Value::Array(Vec::new()));
                let before = list.as_array().cloned().unwrap_or_default();
                let strategy = strategy(key, parent);
                merge_list(list, items, &strategy, key);
                let order = patch.get(&format!("$setElementOrder/{key}")).and_then(Value::as_array);
                reorder(list, order.unwrap_or(items), &before, &strategy);
            }
            Value::Object(inner) if inner.get("$patch").and_then(Value::as_str) == Some("delete") => {
                target.shift_remove(key);
            }
            value => merge_value(target.entry(key.as_str()).or_insert(Value::Null), value, key),
        }
    }
}

fn without_directives(map: &Map<String, Value>) -> Map<String, Value> {
    map.iter().filter(|(key, _)| !key.starts_with('$')).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn merge_list(list: &mut Value, patch: &[Value], strategy: &Strategy, field: &str) {
    let replaces = patch.iter().any(|item| item.get("$patch").and_then(Value::as_str) == Some("replace"));
    let existing = match list {
        Value::Array(existing) if !replaces => existing,
        other => {
            *other = Value::Array(Vec::new());
            match other {
                Value::Array(existing) => existing,
                _ => return,
            }
        }
    };
    match strategy {
        Strategy::Replace => *existing = patch.iter().map(stripped).collect(),
        Strategy::Set => {
            for item in patch {
                if !existing.contains(item) {
                    existing.push(item.clone());
                }
            }
        }
        Strategy::Key(key) => {
            for item in patch {
                let Some(id) = item.get(key) else { continue };
                let found = existing.iter().position(|existing| existing.get(key) == Some(id));
                match (item.get("$patch").and_then(Value::as_str), found) {
                    (Some("delete"), Some(index)) => {
                        existing.remove(index);
                    }
                    (Some("delete"), None) => {}
                    (_, Some(index)) => merge_value(&mut existing[index], item, field),
                    (_, None) => {
                        let mut fresh = Value::Object(Map::new());
                        merge_value(&mut fresh, item, field);
                        existing.push(fresh);
                    }
                }
            }
        }
    }
}

fn stripped(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(without_directives(map)),
        other => other.clone(),
    }
}

/// Puts a merged list in order: the items that the patch names as it names them (or as its
/// `$setElementOrder` does), the others as they were, each of these before the first of those that it
/// stood before.
fn reorder(list: &mut Value, order: &[Value], before: &[Value], strategy: &Strategy) {
    let Value::Array(items) = list else { return };
    let same = |a: &Value, b: &Value| match strategy {
        Strategy::Key(key) => a.get(key).is_some() && a.get(key) == b.get(key),
        Strategy::Set | Strategy::Replace => a == b,
    };
    if matches!(strategy, Strategy::Replace) {
        return;
    }
    let place = |within: &[Value], item: &Value| within.iter().position(|other| same(other, item));
    let (mut named, others): (Vec<Value>, Vec<Value>) =
        std::mem::take(items).into_iter().partition(|item| place(order, item).is_some());
    named.sort_by_key(|item| place(order, item));
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let next = match (named.peek(), others.peek()) {
            (Some(new), Some(old)) => match (place(before, old), place(before, new)) {
                (Some(old), Some(new)) if old < new => others.next(),
                _ => named.next(),
            },
            (Some(_), None) => named.next(),
            (None, _) => others.next(),
        };
        match next {
            Some(item) => items.push(item),
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(target: Value, patch: &Value) -> Value {
        let mut target = target;
        merge(&mut target, patch);
        target
    }

    #[test]
    fn conditions_are_merged_by_type() {
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "x"}],
                            "podIPs": [{"ip": "1"}]}});
        let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": null},
                           {"type": "PodScheduled", "status": "True"}], "podIPs": [{"ip": "2"}]}});
        assert_eq!(
            merged(status, &patch),
            json!({"status": {"conditions": [{"type": "Ready", "status": "True"},
                   {"type": "PodScheduled", "status": "True"}], "podIPs": [{"ip": "2"}, {"ip": "1"}]}})
        );
    }

    #[test]
    fn items_and_maps_are_deleted_and_replaced_by_directive() {
        let pod = json!({"spec": {"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}]},
                         {"name": "b"}], "nodeSelector": {"x": "y"}}, "metadata": {"finalizers": ["f/1"]}});
        let patch = json!({"spec": {"containers": [
                {"name": "b", "$patch": "delete"},
                {"name": "a", "env": [{"name": "Y", "value": "2"}]}],
                "nodeSelector": {"$patch": "replace", "z": "1"}},
            "metadata": {"finalizers": ["f/2"], "$deleteFromPrimitiveList/finalizers": ["f/1"]}});
        assert_eq!(
            merged(pod, &patch),
            json!({"spec": {"containers": [{"name": "a", "env": [{"name": "Y", "value": "2"},
                   {"name": "X", "value": "1"}]}], "nodeSelector": {"z": "1"}},
                   "metadata": {"finalizers": ["f/2"]}})
        );
    }

    #[test]
    fn order_follows_the_directive() {
        let target = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        let patch = json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}],
                           "containers": [{"name": "c"}]});
        assert_eq!(
            merged(target, &patch),
            json!({"containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}]})
        );
        // Without it the items of the patch come first, but behind those they stood behind before.
        let target = json!({"conditions": [{"type": "A"}, {"type": "B"}, {"type": "C"}]});
        let patch = json!({"conditions": [{"type": "New"}, {"type": "B", "x": 1}]});
        assert_eq!(
            merged(target, &patch),
            json!({"conditions": [{"type": "New"}, {"type": "A"}, {"type": "B", "x": 1}, {"type": "C"}]})
        );
    }

    #[test]
    fn plain_lists_are_replaced_and_null_removes() {
        let target = json!({"args": ["a", "b"], "labels": {"x": "1", "y": "2"}, "volumes": [{"name": "v"}]});
        let patch = json!({"args": ["c"], "labels": {"x": null}, "volumes": [{"$patch": "replace"}]});
        assert_eq!(merged(target, &patch), json!({"args": ["c"], "labels": {"y": "2"}, "volumes": []}));
    }
}
