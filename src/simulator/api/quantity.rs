//! Kubernetes quantities (`100m`, `256Mi`) within objects: brought into the canonical form in which the API
//! server keeps them.

use serde_json::{Map, Value};

use crate::kubernetes::quantity::Quantity;

/// What a quantity must look like, as the API server says it.
const REFUSAL: &str = "quantities must match the regular expression \
                       '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// Brings the quantities of a pod's spec into canonical form; numbers become text.
pub(super) fn normalize_pod_spec(spec: &mut Value) -> Result<(), String> {
    for kind in ["containers", "initContainers"] {
        for container in spec.get_mut(kind).and_then(Value::as_array_mut).into_iter().flatten() {
            normalize_maps(container.get_mut("resources"), &["limits", "requests"])?;
        }
    }
    for volume in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(Value::Object(dir)) = volume.get_mut("emptyDir")
            && let Some(limit) = dir.get_mut("sizeLimit")
        {
            normalize(limit)?;
        }
    }
    normalize_maps(Some(spec), &["overhead"])
}

/// Brings the quantities in some maps of an object into canonical form.
pub(super) fn normalize_maps(object: Option<&mut Value>, maps: &[&str]) -> Result<(), String> {
    let Some(Value::Object(object)) = object else { return Ok(()) };
    for name in maps {
        if let Some(Value::Object(quantities)) = object.get_mut(*name) {
            normalize_map(quantities)?;
        }
    }
    Ok(())
}

fn normalize_map(quantities: &mut Map<String, Value>) -> Result<(), String> {
    quantities.values_mut().try_for_each(normalize)
}

fn normalize(value: &mut Value) -> Result<(), String> {
    let text = match &*value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Null => return Ok(()),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => return Err(REFUSAL.into()),
    };
    let quantity = Quantity::parse(&text).ok_or(REFUSAL)?;
    *value = Value::String(quantity.canonical());
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_are_normalized() {
        let mut spec = json!({"containers": [{"resources": {"limits": {"cpu": 1, "memory": "1024Mi"}}}],
                              "volumes": [{"emptyDir": {"sizeLimit": "1024Ki"}}]});
        normalize_pod_spec(&mut spec).unwrap();
        assert_eq!(spec["containers"][0]["resources"]["limits"], json!({"cpu": "1", "memory": "1Gi"}));
        assert_eq!(spec["volumes"][0]["emptyDir"]["sizeLimit"], "1Mi");
        let mut bad = json!({"containers": [{"resources": {"requests": {"cpu": "abc"}}}]});
        assert_eq!(normalize_pod_spec(&mut bad).unwrap_err(), REFUSAL);
    }
}
