//! Validation: what a real API server answers 422 to, as far as what the gateway and kubectl write can
//! run into it. [`super::write`] calls it on objects whose types are right already ([`super::decode`])
//! and whose defaults are filled in ([`super::defaults`]).

mod pods;

use serde_json::Value;

use super::json::{at, is_empty, list, map, text};
use super::resources::Kind;
use super::status::FieldError;
use crate::kubernetes::names;

/// Longest sum of keys and values of an object's annotations, in bytes.
const ANNOTATIONS: usize = 256 << 10;

/// What is wrong with an object that is to be created.
pub(super) fn create(kind: Kind, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    name(kind, object, &mut errors);
    metadata(object, &mut errors);
    match kind {
        Kind::Pod => pods::spec(&object["spec"], "spec", &mut errors),
        Kind::Job => job(object, &mut errors),
        Kind::Lease => lease(object, &mut errors),
        Kind::ConfigMap => data(object, &["data", "binaryData"], &mut errors),
        Kind::Secret => data(object, &["data"], &mut errors),
        Kind::Event => event(kind, object, &mut errors),
        Kind::EventV1 => {
            event(kind, object, &mut errors);
            for field in ["firstTimestamp", "lastTimestamp", "count", "source"] {
                if !is_empty(&object[field]) {
                    errors.push(FieldError::invalid(field, "", "needs to be unset"));
                }
            }
        }
        Kind::Namespace | Kind::Node => {}
    }
    errors
}

/// What is wrong with a change of an object.
pub(super) fn update(kind: Kind, old: &Value, new: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata(new, &mut errors);
    unchanged_metadata(old, new, &mut errors);
    match kind {
        Kind::Pod => pods::update(old, new, &mut errors),
        Kind::Job => {
            job(new, &mut errors);
            if old["spec"]["template"] != new["spec"]["template"] {
                errors.push(FieldError::immutable("spec.template", new["spec"]["template"].clone()));
            }
            for field in ["selector", "completionMode"] {
                if old["spec"][field] != new["spec"][field] {
                    let name = format!("spec.{field}");
                    errors.push(FieldError::immutable(name, new["spec"][field].clone()));
                }
            }
        }
        Kind::Lease => lease(new, &mut errors),
        Kind::ConfigMap => {
            data(new, &["data", "binaryData"], &mut errors);
            immutable(old, new, &["data", "binaryData"], &mut errors);
        }
        Kind::Secret => {
            data(new, &["data"], &mut errors);
            if old["type"] != new["type"] {
                errors.push(FieldError::immutable("type", new["type"].clone()));
            }
            immutable(old, new, &["data"], &mut errors);
        }
        Kind::Event => event(kind, new, &mut errors),
        Kind::EventV1 => {
            event(kind, new, &mut errors);
            event_unchanged(old, new, &mut errors);
        }
        Kind::Namespace | Kind::Node => {}
    }
    errors
}

fn name(kind: Kind, object: &Value, errors: &mut Vec<FieldError>) {
    let check =
        |name: &str| if kind == Kind::Namespace { names::label(name) } else { names::subdomain(name) };
    let prefix = text(object, &["metadata", "generateName"]);
    // A generated name goes on after the dash, so that a trailing one is well formed.
    if !prefix.is_empty()
        && let Some(why) = check(&format!("{}a", prefix.strip_suffix('-').unwrap_or(prefix)))
    {
        errors.push(FieldError::invalid("metadata.generateName", prefix, &why));
    }
    let name = text(object, &["metadata", "name"]);
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else if let Some(why) = check(name) {
        errors.push(FieldError::invalid("metadata.name", name, &why));
    }
}

fn metadata(object: &Value, errors: &mut Vec<FieldError>) {
    for (key, value) in map(object, &["metadata", "labels"]).into_iter().flatten() {
        if let Some(why) = names::qualified(key) {
            errors.push(FieldError::invalid("metadata.labels", key.as_str(), &why));
        }
        let value = value.as_str().unwrap_or_default();
        if let Some(why) = names::label_value(value) {
            errors.push(FieldError::invalid("metadata.labels", value, &why));
        }
    }
    let mut size = 0;
    for (key, value) in map(object, &["metadata", "annotations"]).into_iter().flatten() {
        // Upper case is allowed in annotations' keys, for old times' sake.
        if let Some(why) = names::qualified(&key.to_ascii_lowercase()) {
            errors.push(FieldError::invalid("metadata.annotations", key.as_str(), &why));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS {
        errors.push(FieldError::invalid(
            "metadata.annotations",
            "",
            &format!("Too long: may not be more than {ANNOTATIONS} bytes"),
        ));
    }
    for owner in list(object, &["metadata", "ownerReferences"]) {
        for (field, why) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if text(owner, &[field]).is_empty() {
                errors.push(FieldError::invalid(format!("metadata.ownerReferences.{field}"), "", why));
            }
        }
    }
    for finalizer in list(object, &["metadata", "finalizers"]) {
        let finalizer = finalizer.as_str().unwrap_or_default();
        if let Some(why) = names::qualified(finalizer) {
            errors.push(FieldError::invalid("metadata.finalizers", finalizer, &why));
        }
    }
}

fn unchanged_metadata(old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
    for field in ["uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (old, new) = (&old["metadata"][field], &new["metadata"][field]);
        if old != new {
            // The real one finds it twice and tells it once, with two causes.
            let error = FieldError::immutable(format!("metadata.{field}"), new.clone());
            errors.extend([error.clone(), error]);
        }
    }
    if at(old, &["metadata", "deletionTimestamp"]).is_some() {
        let before = list(old, &["metadata", "finalizers"]);
        let added: Vec<String> = list(new, &["metadata", "finalizers"])
            .iter()
            .filter(|finalizer| !before.contains(finalizer))
            .map(ToString::to_string)
            .collect();
        if !added.is_empty() {
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers \
                 []string{{{}}}",
                added.join(", ")
            );
            errors.push(FieldError::forbidden("metadata.finalizers", &why));
        }
    }
}

fn lease(lease: &Value, errors: &mut Vec<FieldError>) {
    let number = |field: &str| lease["spec"][field].as_i64();
    if let Some(seconds) = number("leaseDurationSeconds")
        && seconds <= 0
    {
        errors.push(FieldError::invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0"));
    }
    if let Some(transitions) = number("leaseTransitions")
        && transitions < 0
    {
        let why = "must be greater than or equal to 0";
        errors.push(FieldError::invalid("spec.leaseTransitions", transitions, why));
    }
}

fn job(job: &Value, errors: &mut Vec<FieldError>) {
    let spec = &job["spec"];
    for field in
        ["parallelism", "completions", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"]
    {
        if let Some(number) = spec[field].as_i64()
            && number < 0
        {
            let why = "must be greater than or equal to 0";
            errors.push(FieldError::invalid(format!("spec.{field}"), number, why));
        }
    }
    let policy = text(spec, &["template", "spec", "restartPolicy"]);
    let valid = ["OnFailure", "Never"];
    match policy {
        "" | "Always" => errors.push(FieldError::required(
            "spec.template.spec.restartPolicy",
            "valid values: \"OnFailure\", \"Never\"",
        )),
        "OnFailure" | "Never" => {}
        other => errors.push(FieldError::unsupported("spec.template.spec.restartPolicy", other, &valid)),
    }
    pods::spec(&spec["template"]["spec"], "spec.template.spec", errors);
}

fn data(object: &Value, fields: &[&str], errors: &mut Vec<FieldError>) {
    for field in fields {
        for key in map(object, &[field]).into_iter().flatten().map(|(key, _)| key) {
            if let Some(why) = names::config_key(key) {
                errors.push(FieldError::invalid(format!("{field}[{key}]"), key.as_str(), &why));
            }
        }
    }
}

fn immutable(old: &Value, new: &Value, fields: &[&str], errors: &mut Vec<FieldError>) {
    if old["immutable"] != Value::Bool(true) {
        return;
    }
    let why = "field is immutable when `immutable` is set";
    for field in ["immutable"].iter().chain(fields) {
        if old[*field] != new[*field] {
            errors.push(FieldError::forbidden(*field, why));
        }
    }
}

fn event(kind: Kind, event: &Value, errors: &mut Vec<FieldError>) {
    let about = text(event, &["involvedObject", "namespace"]);
    let namespace = text(event, &["metadata", "namespace"]);
    // Events about cluster-scoped objects live in `default`.
    if about != namespace && !(about.is_empty() && namespace == "default") {
        errors.push(FieldError::invalid("involvedObject.namespace", about, "does not match event.namespace"));
    }
    let timed = !event["eventTime"].is_null();
    if timed {
        for (stored, shown) in EVENT_REQUIRED {
            if text(event, &[stored]).is_empty() {
                errors.push(FieldError::required(shown, ""));
            }
        }
        let note = text(event, &["message"]);
        if note.len() > EVENT_NOTE {
            errors.push(FieldError::invalid("note", "", "can have at most 1024 characters"));
        }
    }
    if kind == Kind::EventV1 {
        if !timed {
            errors.push(FieldError::required("eventTime", ""));
        }
        let given = text(event, &["type"]);
        if !matches!(given, "Normal" | "Warning") {
            errors.push(FieldError::invalid("type", "", &format!("has invalid value: {given}")));
        }
    }
}

/// Fields that an event with an `eventTime` must have: as stored, and as `events.k8s.io` names them.
const EVENT_REQUIRED: [(&str, &str); 4] = [
    ("reportingComponent", "reportingController"),
    ("reportingInstance", "reportingInstance"),
    ("reason", "reason"),
    ("action", "action"),
];
/// Longest text of an event with an `eventTime`, in bytes.
const EVENT_NOTE: usize = 1024;

/// What an `events.k8s.io` event may not change once it is told: everything but its series.
fn event_unchanged(old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
    let fixed = [
        "involvedObject",
        "reason",
        "message",
        "type",
        "action",
        "eventTime",
        "related",
        "reportingComponent",
    ];
    for field in fixed {
        if old[field] != new[field] {
            errors.push(FieldError::immutable(field, new[field].clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(errors: &[FieldError]) -> String {
        format!("{errors:?}")
    }

    #[test]
    fn names_are_required_and_well_formed() {
        let lease = |metadata: Value| json!({"metadata": metadata, "spec": {}});
        assert!(create(Kind::Lease, &lease(json!({"name": "gw-a"}))).is_empty());
        assert!(texts(&create(Kind::Lease, &lease(json!({})))).contains("name or generateName is required"));
        assert!(create(Kind::Lease, &lease(json!({"name": "x-1", "generateName": "x-"}))).is_empty());
        let errors = texts(&create(Kind::Lease, &lease(json!({"name": "A_1", "generateName": "A_"}))));
        assert!(errors.contains("metadata.generateName") && errors.contains("metadata.name"));
        assert!(!create(Kind::Namespace, &json!({"metadata": {"name": "a.b"}})).is_empty());
    }

    #[test]
    fn leases_want_positive_durations() {
        let spec = |spec: Value| create(Kind::Lease, &json!({"metadata": {"name": "l"}, "spec": spec}));
        assert!(spec(json!({"leaseDurationSeconds": 15, "leaseTransitions": 0})).is_empty());
        let errors = texts(&spec(json!({"leaseDurationSeconds": 0, "leaseTransitions": -1})));
        assert!(errors.contains("Invalid value: 0: must be greater than 0"));
        assert!(errors.contains("Invalid value: -1: must be greater than or equal to 0"));
    }

    #[test]
    fn identity_and_deletion_cannot_be_changed() {
        let old = json!({"metadata": {"name": "l", "uid": "u"}});
        let mut new = old.clone();
        new["metadata"]["uid"] = json!("v");
        assert_eq!(update(Kind::Lease, &old, &new).len(), 2);
        let deleting = json!({"metadata": {"name": "l", "deletionTimestamp": "2026-01-01T00:00:00Z",
                              "finalizers": ["a/b"]}});
        let mut new = deleting.clone();
        new["metadata"]["finalizers"] = json!(["a/b", "c/d"]);
        assert!(texts(&update(Kind::Lease, &deleting, &new)).contains("[]string{\\\"c/d\\\"}"));
        new["metadata"]["finalizers"] = json!([]);
        assert!(update(Kind::Lease, &deleting, &new).is_empty());
    }

    #[test]
    fn owners_labels_and_annotations_are_checked() {
        let errors = create(
            Kind::ConfigMap,
            &json!({"metadata": {"name": "c", "ownerReferences": [{"kind": "Pod"}],
                    "labels": {"a b/c": "-x"}, "annotations": {"bad key": "x", "Upper.io/Key": "fine"},
                    "finalizers": ["no good"]}, "data": {"a b": ""}}),
        );
        let texts = texts(&errors);
        for part in [
            "version must not be empty",
            "ownerReferences.uid",
            "prefix part",
            "a valid label must be",
            "metadata.annotations",
            "metadata.finalizers",
            "data[a b]",
        ] {
            assert!(texts.contains(part), "{part}: {texts}");
        }
        assert_eq!(errors.len(), 8, "{texts}");
        let long = json!({"metadata": {"name": "c", "annotations": {"a": "x".repeat(ANNOTATIONS)}}});
        assert_eq!(create(Kind::ConfigMap, &long).len(), 1);
    }

    #[test]
    fn what_is_immutable_stays() {
        let old = json!({"metadata": {"name": "c"}, "immutable": true, "data": {"a": "b"}});
        let mut new = old.clone();
        new["data"]["a"] = json!("c");
        assert!(texts(&update(Kind::ConfigMap, &old, &new)).contains("field is immutable when"));
        new = old.clone();
        new["immutable"] = json!(false);
        assert_eq!(update(Kind::ConfigMap, &old, &new).len(), 1);
        let secret = json!({"metadata": {"name": "s"}, "type": "Opaque"});
        let mut new = secret.clone();
        new["type"] = json!("other");
        assert_eq!(update(Kind::Secret, &secret, &new).len(), 1);
    }

    #[test]
    fn events_must_be_complete_in_the_new_form() {
        let mut event = json!({"metadata": {"name": "e", "namespace": "ns"},
                               "involvedObject": {"name": "p", "namespace": "ns"}, "type": "Zz"});
        assert!(create(Kind::Event, &event).is_empty());
        let untimed = texts(&create(Kind::EventV1, &event));
        assert!(untimed.contains("eventTime") && untimed.contains("has invalid value: Zz"));
        event["eventTime"] = json!("2026-01-01T00:00:00.000000Z");
        event["message"] = json!("x".repeat(EVENT_NOTE + 1));
        let timed = texts(&create(Kind::Event, &event));
        for part in ["reportingController", "reportingInstance", "reason", "action", "1024"] {
            assert!(timed.contains(part), "{part}");
        }
        event["count"] = json!(3);
        assert!(texts(&create(Kind::EventV1, &event)).contains("needs to be unset"));
        let foreign = json!({"metadata": {"name": "e", "namespace": "ns"},
                             "involvedObject": {"name": "p", "namespace": "zz"}});
        assert_eq!(create(Kind::Event, &foreign).len(), 1);
    }

    #[test]
    fn events_are_told_once() {
        let old = json!({"metadata": {"name": "e", "namespace": "ns"}, "reason": "R", "type": "Normal",
                         "involvedObject": {"namespace": "ns"}, "eventTime": "t", "action": "A",
                         "reportingComponent": "c", "reportingInstance": "i"});
        let mut new = old.clone();
        new["series"] = json!({"count": 2});
        assert!(update(Kind::EventV1, &old, &new).is_empty());
        new["message"] = json!("other");
        assert_eq!(update(Kind::EventV1, &old, &new).len(), 1);
    }
}
