//! Kubernetes' strategic merge, for the fields that a pod template may have: mappings are merged, lists are
//! merged by the key that Kubernetes gives them, everything else is replaced. Called by
//! [`super::Template::apply`].

use serde_json::{Map, Value};

/// The lists of a pod that are merged, and by which field of their elements; `patchMergeKey` in Kubernetes'
/// API reference. Other lists are replaced as a whole.
const KEYED: &[(&str, &str)] = &[
    ("containers", "name"),
    ("initContainers", "name"),
    ("env", "name"),
    ("volumes", "name"),
    ("volumeMounts", "mountPath"),
    ("volumeDevices", "devicePath"),
    ("imagePullSecrets", "name"),
    ("hostAliases", "ip"),
    ("topologySpreadConstraints", "topologyKey"),
    ("schedulingGates", "name"),
    ("resourceClaims", "name"),
];

/// Puts the template's `metadata` and `spec` into a pod.
pub(super) fn fields(pod: &mut Value, template: &Map<String, Value>) {
    let Value::Object(pod) = pod else { return };
    if let Some(policy) = template.get("spec").and_then(|spec| spec.get("dnsPolicy"))
        && policy != "None"
        && let Some(Value::Object(spec)) = pod.get_mut("spec")
    {
        // Our nameserver belongs to our policy: beside another one it would be asked as well.
        spec.remove("dnsConfig");
    }
    map(pod, template);
}

fn map(ours: &mut Map<String, Value>, theirs: &Map<String, Value>) {
    for (name, theirs) in theirs {
        match (ours.get_mut(name), theirs) {
            (Some(Value::Object(ours)), Value::Object(theirs)) if exclusive(theirs) => *ours = theirs.clone(),
            (Some(Value::Object(ours)), Value::Object(theirs)) => map(ours, theirs),
            (Some(Value::Array(ours)), Value::Array(theirs)) => match key(name) {
                Some(key) => list(ours, theirs, key),
                None => ours.clone_from(theirs),
            },
            (Some(ours), theirs) => ours.clone_from(theirs),
            (None, theirs) => {
                ours.insert(name.clone(), theirs.clone());
            }
        }
    }
}

fn list(ours: &mut Vec<Value>, theirs: &[Value], key: &str) {
    for theirs in theirs {
        let same = ours.iter_mut().find(|ours| ours.get(key).is_some() && ours.get(key) == theirs.get(key));
        match (same, theirs) {
            (Some(Value::Object(ours)), Value::Object(theirs)) => {
                // A variable has a value or a source, not both: the template's is the one that counts.
                if ["value", "valueFrom"].iter().any(|field| theirs.contains_key(*field)) {
                    ours.remove("value");
                    ours.remove("valueFrom");
                }
                map(ours, theirs);
            }
            (Some(ours), theirs) => ours.clone_from(theirs),
            (None, theirs) => ours.push(theirs.clone()),
        }
    }
}

fn key(list: &str) -> Option<&'static str> {
    KEYED.iter().find(|(name, _)| *name == list).map(|(_, key)| *key)
}

/// A selector is one thought: half of ours and half of theirs would select something that nobody wrote.
fn exclusive(theirs: &Map<String, Value>) -> bool {
    theirs.contains_key("matchLabels") || theirs.contains_key("matchExpressions")
}
