//! The two forms of one Event. `events.k8s.io/v1` is what recorders write (kube's among them), core/v1
//! what `kubectl describe` reads; both are the same stored object, kept in the core form.

use serde_json::{Map, Value, json};

use super::json::{default, object, set_or_remove};

/// Fields that have another name in each form: core/v1, `events.k8s.io/v1`.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];
/// Fields that both forms have.
const COMMON: [&str; 8] =
    ["metadata", "reason", "type", "action", "eventTime", "series", "related", "reportingInstance"];

/// Core/v1 to `events.k8s.io/v1`.
pub(super) fn to_v1(core: &Value) -> Value {
    let mut event = Map::new();
    event.insert("apiVersion".into(), json!("events.k8s.io/v1"));
    event.insert("kind".into(), json!("Event"));
    for field in COMMON {
        set_or_remove(&mut event, field, core.get(field).cloned());
    }
    for (old, new) in RENAMED {
        set_or_remove(&mut event, new, core.get(old).cloned());
    }
    // This form leaves them out where they say nothing.
    for empty in ["reportingController", "reportingInstance"] {
        if event.get(empty).and_then(Value::as_str) == Some("") {
            event.shift_remove(empty);
        }
    }
    Value::Object(event)
}

/// `events.k8s.io/v1` to core/v1.
pub(super) fn to_core(v1: Value) -> Value {
    let mut event = Map::new();
    event.insert("apiVersion".into(), json!("v1"));
    event.insert("kind".into(), json!("Event"));
    for field in COMMON {
        set_or_remove(&mut event, field, v1.get(field).cloned());
    }
    for (old, new) in RENAMED {
        set_or_remove(&mut event, old, v1.get(new).cloned());
    }
    complete(Value::Object(event))
}

/// Fills in what a core/v1 Event always has, be it empty.
pub(super) fn complete(mut core: Value) -> Value {
    let event = object(&mut core);
    default(event, "involvedObject", json!({}));
    default(event, "source", json!({}));
    for text in ["reportingComponent", "reportingInstance"] {
        default(event, text, "");
    }
    for time in ["eventTime", "firstTimestamp", "lastTimestamp"] {
        event.entry(time).or_insert(Value::Null);
    }
    core
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_tell_the_same() {
        let v1 = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e", "namespace": "n"},
            "regarding": {"kind": "Pod", "name": "p"}, "reason": "Started", "note": "started it",
            "type": "Normal", "action": "Start", "eventTime": "2026-01-01T00:00:00.000000Z",
            "reportingController": "gateway", "reportingInstance": "gateway-0",
            "series": {"count": 3, "lastObservedTime": "2026-01-01T00:00:05.000000Z"},
        });
        let core = to_core(v1.clone());
        assert_eq!(core["apiVersion"], "v1");
        assert_eq!(core["involvedObject"]["name"], "p");
        assert_eq!(core["message"], "started it");
        assert_eq!(core["reportingComponent"], "gateway");
        assert_eq!((&core["source"], &core["firstTimestamp"]), (&json!({}), &Value::Null));
        let back = to_v1(&core);
        for (key, value) in v1.as_object().unwrap() {
            assert_eq!(&back[key], value, "{key}");
        }
    }

    #[test]
    fn the_old_fields_are_kept_as_deprecated() {
        let core = json!({"metadata": {"name": "e"}, "message": "m", "count": 2,
                          "source": {"component": "kubelet"}, "lastTimestamp": "2026-01-01T00:00:00Z"});
        let v1 = to_v1(&complete(core));
        assert_eq!(v1["deprecatedCount"], 2);
        assert_eq!(v1["deprecatedSource"]["component"], "kubelet");
        assert_eq!(v1["deprecatedLastTimestamp"], "2026-01-01T00:00:00Z");
        assert_eq!(v1["note"], "m");
    }
}
