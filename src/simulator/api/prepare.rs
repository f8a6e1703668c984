//! What the server makes of an object before it stores it: the part of `metadata` that is its own,
//! which half of the object a request may touch, and whether anything changes at all. The strategies
//! of the real one (`PrepareForCreate`, `PrepareForUpdate`).

use serde_json::{Map, Value, json};

use super::json::{at, child, default, metadata, object, set_or_remove, text};
use super::resources::{Kind, Subresource};
use super::{age, defaults};

/// Longest prefix of a generated name: 63 less the five letters that follow.
const GENERATED_PREFIX: usize = 58;
/// The alphabet of generated names: no vowels and nothing that looks like another letter.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Gives an object that has a `generateName` and no name one.
pub(super) fn generate_name(value: &mut Value) {
    let prefix = text(value, &["metadata", "generateName"]);
    if prefix.is_empty() || !text(value, &["metadata", "name"]).is_empty() {
        return;
    }
    let end = (0..=prefix.len().min(GENERATED_PREFIX)).rev().find(|end| prefix.is_char_boundary(*end));
    let prefix = &prefix[..end.unwrap_or(0)];
    let letters = (0..5).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())]));
    let name: String = prefix.chars().chain(letters).collect();
    metadata(value).insert("name".into(), json!(name));
}

/// Fills in what the server decides about a new object, defaults included.
pub(super) fn create(kind: Kind, namespace: Option<&str>, value: &mut Value) {
    let meta = metadata(value);
    let name = meta.shift_remove("name");
    let mut fresh = Map::new();
    set_or_remove(&mut fresh, "name", name);
    set_or_remove(&mut fresh, "generateName", meta.shift_remove("generateName"));
    set_or_remove(&mut fresh, "namespace", namespace.map(|namespace| json!(namespace)));
    fresh.insert("uid".into(), json!(uuid::Uuid::new_v4().to_string()));
    fresh.insert("creationTimestamp".into(), json!(age::now()));
    if generations(kind) {
        fresh.insert("generation".into(), json!(1));
    }
    for kept in ["labels", "annotations", "ownerReferences", "finalizers"] {
        set_or_remove(&mut fresh, kept, meta.shift_remove(kept));
    }
    *meta = fresh;
    defaults::apply(kind, value);
}

/// Whether objects count the versions of their spec.
fn generations(kind: Kind) -> bool {
    matches!(kind, Kind::Pod | Kind::Job)
}

/// Lays a changed object over the stored one: keeps what the request may not touch (status, or all but
/// status; identity; deletion), and counts the generation.
pub(super) fn update(kind: Kind, old: &Value, mut new: Value, part: Option<Subresource>) -> Value {
    if part.is_none() {
        defaults::apply_to_update(kind, &mut new);
    }
    keep_metadata(old, &mut new);
    let old_part = |name: &str| old.get(name).cloned();
    if kind.has_status() {
        if part == Some(Subresource::Status) {
            set_or_remove(object(&mut new), "spec", old_part("spec"));
            let owners = at(old, &["metadata", "ownerReferences"]).cloned();
            set_or_remove(metadata(&mut new), "ownerReferences", owners);
            if let Some(qos) = at(old, &["status", "qosClass"]).filter(|_| kind == Kind::Pod) {
                default(child(&mut new, "status"), "qosClass", qos.clone());
            }
        } else {
            set_or_remove(object(&mut new), "status", old_part("status"));
        }
    }
    if kind == Kind::Namespace {
        set_or_remove(object(&mut new), "spec", old_part("spec"));
    }
    if generations(kind) && old.get("spec") != new.get("spec") {
        bump_generation(&mut new);
    }
    new
}

/// The part of `metadata` that a request cannot change, or need not repeat.
fn keep_metadata(old: &Value, new: &mut Value) {
    let kept = |field: &str| at(old, &["metadata", field]).cloned();
    let meta = metadata(new);
    for field in ["name", "namespace", "creationTimestamp", "generation", "resourceVersion"] {
        set_or_remove(meta, field, kept(field));
    }
    // A request that names these must name the right ones: validation compares.
    for field in ["uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if meta.get(field).is_none_or(|value| super::json::is_empty(value) && value != 0) {
            set_or_remove(meta, field, kept(field));
        }
    }
}

/// Counts a change of the spec, or the beginning of a deletion.
pub(super) fn bump_generation(value: &mut Value) {
    let meta = metadata(value);
    if let Some(generation) = meta.get("generation").and_then(Value::as_i64).filter(|number| *number > 0) {
        meta.insert("generation".into(), json!(generation + 1));
    }
}

/// Whether an object that is being deleted waits for nothing any more.
pub(super) fn is_finished(value: &Value) -> bool {
    let meta = &value["metadata"];
    let grace = meta["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    !meta["deletionTimestamp"].is_null() && grace == 0 && !has_finalizers(value)
}

/// Whether something wants to be asked before the object goes.
pub(super) fn has_finalizers(value: &Value) -> bool {
    !super::json::list(value, &["metadata", "finalizers"]).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_decides_about_identity() {
        let mut pod = json!({"metadata": {"name": "p", "uid": "mine", "generation": 7, "labels": {"a": "b"},
                             "deletionTimestamp": "2026-01-01T00:00:00Z", "zz": 1},
                             "spec": {"containers": []}, "status": {"phase": "Running"}});
        create(Kind::Pod, Some("ns"), &mut pod);
        let meta = &pod["metadata"];
        assert_ne!(meta["uid"], "mine");
        assert_eq!((&meta["generation"], &meta["namespace"]), (&json!(1), &json!("ns")));
        assert!(meta.get("deletionTimestamp").is_none() && meta.get("zz").is_none());
        assert_eq!((&meta["labels"]["a"], &pod["status"]["phase"]), (&json!("b"), &json!("Pending")));
        let mut lease = json!({"metadata": {"name": "l"}});
        create(Kind::Lease, Some("ns"), &mut lease);
        assert!(lease["metadata"].get("generation").is_none());
    }

    #[test]
    fn names_are_generated() {
        let mut pod = json!({"metadata": {"generateName": "x".repeat(80)}});
        generate_name(&mut pod);
        let name = text(&pod, &["metadata", "name"]);
        assert_eq!((name.len(), name.is_char_boundary(58)), (63, true));
        let mut named = json!({"metadata": {"generateName": "x-", "name": "n"}});
        generate_name(&mut named);
        assert_eq!(named["metadata"]["name"], "n");
        let mut odd = json!({"metadata": {"generateName": "ö".repeat(40)}});
        generate_name(&mut odd);
        assert!(text(&odd, &["metadata", "name"]).starts_with('ö'));
    }

    fn stored() -> Value {
        json!({"metadata": {"name": "p", "uid": "u", "generation": 1, "creationTimestamp": "t",
               "ownerReferences": ["o"], "resourceVersion": "5"},
               "spec": {"nodeName": "n"}, "status": {"phase": "Pending", "qosClass": "BestEffort"}})
    }

    #[test]
    fn the_two_halves_are_written_apart() {
        let request = json!({"metadata": {"name": "p", "labels": {"a": "b"}, "generation": 9,
                             "creationTimestamp": "x"}, "spec": {"nodeName": "m"},
                             "status": {"phase": "Running"}});
        let status = update(Kind::Pod, &stored(), request.clone(), Some(Subresource::Status));
        assert_eq!(
            (&status["spec"]["nodeName"], &status["status"]["phase"]),
            (&json!("n"), &json!("Running"))
        );
        assert_eq!(status["metadata"]["ownerReferences"], json!(["o"]));
        assert_eq!(status["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(status["status"]["qosClass"], "BestEffort");
        assert_eq!((&status["metadata"]["generation"], &status["metadata"]["uid"]), (&json!(1), &json!("u")));
        let main = update(Kind::Pod, &stored(), request, None);
        assert_eq!((&main["spec"]["nodeName"], &main["status"]["phase"]), (&json!("m"), &json!("Pending")));
        assert_eq!(main["metadata"]["generation"], 2);
        assert_eq!(main["metadata"]["creationTimestamp"], "t");
        assert!(main["metadata"].get("ownerReferences").is_none());
    }

    #[test]
    fn deletion_is_kept_and_finished() {
        let mut old = stored();
        old["metadata"]["deletionTimestamp"] = json!("t");
        old["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        let kept = update(Kind::ConfigMap, &old, json!({"metadata": {"deletionTimestamp": null}}), None);
        assert_eq!(kept["metadata"]["deletionTimestamp"], "t");
        assert!(is_finished(&kept));
        old["metadata"]["finalizers"] = json!(["a/b"]);
        assert!(!is_finished(&old));
        old["metadata"]["finalizers"] = json!([]);
        old["metadata"]["deletionGracePeriodSeconds"] = json!(5);
        assert!(!is_finished(&old) && !is_finished(&stored()));
    }
}
