//! Validation of pods and of the pod templates of jobs.

use std::collections::HashSet;

use serde_json::Value;

use super::super::json::{at, is_empty, list, map, text};
use super::super::status::FieldError;
use crate::kubernetes::names;
use crate::kubernetes::quantity::Quantity;

type Errors = Vec<FieldError>;

const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
const VOLUME_META: [&str; 1] = ["name"];
/// Fields that `fieldRef` can name; `metadata.labels['x']` and `metadata.annotations['x']` besides.
const FIELD_PATHS: [&str; 10] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "spec.restartPolicy",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn one_of(field: String, value: &str, valid: &[&str], errors: &mut Errors) {
    if !value.is_empty() && !valid.contains(&value) {
        errors.push(FieldError::unsupported(field, value, valid));
    }
}

fn not_negative(object: &Value, key: &str, field: &str, errors: &mut Errors) {
    if let Some(number) = object[key].as_i64()
        && number < 0
    {
        errors.push(FieldError::invalid(format!("{field}.{key}"), number, NOT_NEGATIVE));
    }
}

/// A pod's spec at `field` (`spec`, or `spec.template.spec` of a job).
pub(super) fn spec(spec: &Value, field: &str, errors: &mut Errors) {
    let volumes = volumes(list(spec, &["volumes"]), field, errors);
    let containers = list(spec, &["containers"]);
    if containers.is_empty() {
        errors.push(FieldError::required(format!("{field}.containers"), ""));
    }
    let mut seen = HashSet::new();
    for (kind, containers) in
        [("containers", containers), ("initContainers", list(spec, &["initContainers"]))]
    {
        for (index, one) in containers.iter().enumerate() {
            let field = format!("{field}.{kind}[{index}]");
            container(one, &field, &volumes, errors);
            let name = text(one, &["name"]);
            if !name.is_empty() && !seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{field}.name"), name));
            }
        }
    }
    one_of(
        format!("{field}.restartPolicy"),
        text(spec, &["restartPolicy"]),
        &["Always", "OnFailure", "Never"],
        errors,
    );
    dns(spec, field, errors);
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64()
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let why = "must be between 1 and 2147483647, inclusive";
        errors.push(FieldError::invalid(format!("{field}.activeDeadlineSeconds"), seconds, why));
    }
    seccomp(spec, field, errors);
    for (key, value) in map(spec, &["nodeSelector"]).into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        if let Some(why) = names::qualified(key) {
            errors.push(FieldError::invalid(format!("{field}.nodeSelector"), key.as_str(), &why));
        }
        if let Some(why) = names::label_value(value) {
            errors.push(FieldError::invalid(format!("{field}.nodeSelector"), value, &why));
        }
    }
    for (index, toleration) in list(spec, &["tolerations"]).iter().enumerate() {
        let field = format!("{field}.tolerations[{index}]");
        let operator = text(toleration, &["operator"]);
        if text(toleration, &["key"]).is_empty() && operator != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all \
                       keys\"";
            errors.push(FieldError::invalid(format!("{field}.operator"), operator, why));
        }
        one_of(format!("{field}.operator"), operator, &["Equal", "Exists"], errors);
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        one_of(format!("{field}.effect"), text(toleration, &["effect"]), &effects, errors);
    }
}

fn dns(spec: &Value, field: &str, errors: &mut Errors) {
    let policy = text(spec, &["dnsPolicy"]);
    let valid = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(format!("{field}.dnsPolicy"), policy, &valid, errors);
    let servers = list(spec, &["dnsConfig", "nameservers"]);
    if policy == "None" {
        if at(spec, &["dnsConfig"]).is_none() {
            let why = "must provide `dnsConfig` when `dnsPolicy` is None";
            errors.push(FieldError::required(format!("{field}.dnsConfig"), why));
        } else if servers.is_empty() {
            let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(FieldError::required(format!("{field}.dnsConfig.nameservers"), why));
        }
    }
    for (index, server) in servers.iter().enumerate() {
        let server = server.as_str().unwrap_or_default();
        if server.parse::<std::net::IpAddr>().is_err() {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            let field = format!("{field}.dnsConfig.nameservers[{index}]");
            errors.push(FieldError::invalid(field, server, why));
        }
    }
}

fn volumes<'a>(volumes: &'a [Value], field: &str, errors: &mut Errors) -> HashSet<&'a str> {
    let mut seen = HashSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let field = format!("{field}.volumes[{index}]");
        let before = errors.len();
        let name = text(volume, &["name"]);
        let sources: Vec<&String> = map(volume, &[])
            .into_iter()
            .flatten()
            .map(|(key, _)| key)
            .filter(|key| !VOLUME_META.contains(&key.as_str()))
            .collect();
        if name.is_empty() {
            errors.push(FieldError::required(format!("{field}.name"), ""));
        } else if let Some(why) = names::label(name) {
            errors.push(FieldError::invalid(format!("{field}.name"), name, &why));
        } else if seen.contains(name) {
            errors.push(FieldError::duplicate(format!("{field}.name"), name));
        }
        match sources.as_slice() {
            [] => errors.push(FieldError::required(field.clone(), "must specify a volume type")),
            [_] => {}
            [_, second, ..] => {
                let why = "may not specify more than 1 volume type";
                errors.push(FieldError::forbidden(format!("{field}.{second}"), why));
            }
        }
        if let Some(path) = at(volume, &["hostPath"]) {
            if text(path, &["path"]).is_empty() {
                errors.push(FieldError::required(format!("{field}.hostPath.path"), ""));
            }
            let types = [
                "",
                "BlockDevice",
                "CharDevice",
                "Directory",
                "DirectoryOrCreate",
                "File",
                "FileOrCreate",
                "Socket",
            ];
            one_of(format!("{field}.hostPath.type"), text(path, &["type"]), &types, errors);
        }
        if let Some(secret) = at(volume, &["secret"])
            && text(secret, &["secretName"]).is_empty()
        {
            errors.push(FieldError::required(format!("{field}.secret.secretName"), ""));
        }
        if let Some(map) = at(volume, &["configMap"])
            && text(map, &["name"]).is_empty()
        {
            errors.push(FieldError::required(format!("{field}.configMap.name"), ""));
        }
        if errors.len() == before {
            seen.insert(name);
        }
    }
    seen
}

fn container(container: &Value, field: &str, volumes: &HashSet<&str>, errors: &mut Errors) {
    let name = text(container, &["name"]);
    if name.is_empty() {
        errors.push(FieldError::required(format!("{field}.name"), ""));
    } else if let Some(why) = names::label(name) {
        errors.push(FieldError::invalid(format!("{field}.name"), name, &why));
    }
    if text(container, &["image"]).is_empty() {
        errors.push(FieldError::required(format!("{field}.image"), ""));
    }
    ports(list(container, &["ports"]), field, errors);
    for (index, variable) in list(container, &["env"]).iter().enumerate() {
        env(variable, &format!("{field}.env[{index}]"), errors);
    }
    let mut paths = HashSet::new();
    for (index, mount) in list(container, &["volumeMounts"]).iter().enumerate() {
        let field = format!("{field}.volumeMounts[{index}]");
        let (name, path) = (text(mount, &["name"]), text(mount, &["mountPath"]));
        if name.is_empty() {
            errors.push(FieldError::required(format!("{field}.name"), ""));
        } else if !volumes.contains(name) {
            errors.push(FieldError::not_found(format!("{field}.name"), name));
        }
        if path.is_empty() {
            errors.push(FieldError::required(format!("{field}.mountPath"), ""));
        } else if !paths.insert(path) {
            errors.push(FieldError::invalid(format!("{field}.mountPath"), path, "must be unique"));
        }
    }
    one_of(
        format!("{field}.imagePullPolicy"),
        text(container, &["imagePullPolicy"]),
        &["Always", "IfNotPresent", "Never"],
        errors,
    );
    seccomp(container, field, errors);
    for kind in ["livenessProbe", "startupProbe", "readinessProbe"] {
        if let Some(found) = at(container, &[kind]) {
            probe(found, kind, &format!("{field}.{kind}"), errors);
        }
    }
    resources(&container["resources"], field, errors);
}

fn seccomp(object: &Value, field: &str, errors: &mut Errors) {
    let profile = text(object, &["securityContext", "seccompProfile", "type"]);
    let field = format!("{field}.securityContext.seccompProfile.type");
    one_of(field, profile, &["Localhost", "RuntimeDefault", "Unconfined"], errors);
}

fn ports(ports: &[Value], field: &str, errors: &mut Errors) {
    for (index, port) in ports.iter().enumerate() {
        let field = format!("{field}.ports[{index}]");
        match port["containerPort"].as_i64().unwrap_or(0) {
            0 => errors.push(FieldError::required(format!("{field}.containerPort"), "")),
            1..=65535 => {}
            other => errors.push(FieldError::invalid(
                format!("{field}.containerPort"),
                other,
                "must be between 1 and 65535, inclusive",
            )),
        }
        let protocol = text(port, &["protocol"]);
        one_of(format!("{field}.protocol"), protocol, &["SCTP", "TCP", "UDP"], errors);
    }
}

fn env(variable: &Value, field: &str, errors: &mut Errors) {
    let name = text(variable, &["name"]);
    if name.is_empty() {
        errors.push(FieldError::required(format!("{field}.name"), ""));
    } else if let Some(why) = names::env_name(name) {
        errors.push(FieldError::invalid(format!("{field}.name"), name, &why));
    }
    let Some(from) = at(variable, &["valueFrom"]) else { return };
    let field = format!("{field}.valueFrom");
    if let Some(path) = at(from, &["fieldRef", "fieldPath"]).and_then(Value::as_str) {
        let subscript = path.starts_with("metadata.labels['") || path.starts_with("metadata.annotations['");
        if !subscript && !FIELD_PATHS.contains(&path) {
            let why = format!("error converting fieldPath: field label not supported: {path}");
            errors.push(FieldError::invalid(format!("{field}.fieldRef.fieldPath"), path, &why));
        }
    }
    for (kind, parts) in [("secretKeyRef", ["key", "name"]), ("configMapKeyRef", ["key", "name"])] {
        if let Some(reference) = at(from, &[kind]) {
            for part in parts {
                if text(reference, &[part]).is_empty() {
                    errors.push(FieldError::required(format!("{field}.{kind}.{part}"), ""));
                }
            }
        }
    }
    match map(from, &[]).map_or(0, serde_json::Map::len) {
        0 => {
            let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, \
                       `secretKeyRef` or `fileKeyRef`";
            errors.push(FieldError::invalid(field.clone(), "", why));
        }
        1 => {}
        _ => {
            let why = "may not have more than one field specified at a time";
            errors.push(FieldError::invalid(field.clone(), "", why));
        }
    }
    if !text(variable, &["value"]).is_empty() {
        errors.push(FieldError::invalid(field, "", "may not be specified when `value` is not empty"));
    }
}

fn probe(probe: &Value, kind: &str, field: &str, errors: &mut Errors) {
    let handlers: Vec<&str> =
        ["exec", "httpGet", "tcpSocket", "grpc"].into_iter().filter(|h| at(probe, &[h]).is_some()).collect();
    match handlers.as_slice() {
        [] => errors.push(FieldError::required(field, "must specify a handler type")),
        [_] => {}
        [_, second, ..] => {
            let why = "may not specify more than 1 handler type";
            errors.push(FieldError::forbidden(format!("{field}.{second}"), why));
        }
    }
    for handler in ["httpGet", "tcpSocket"] {
        if let Some(port) = at(probe, &[handler, "port"]).and_then(Value::as_i64)
            && !(1..=65535).contains(&port)
        {
            let why = "must be between 1 and 65535, inclusive";
            errors.push(FieldError::invalid(format!("{field}.{handler}.port"), port, why));
        }
    }
    for number in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        not_negative(probe, number, field, errors);
    }
    if kind != "readinessProbe"
        && let Some(successes) = probe["successThreshold"].as_i64()
        && successes != 1
    {
        errors.push(FieldError::invalid(format!("{field}.successThreshold"), successes, "must be 1"));
    }
}

fn resources(resources: &Value, field: &str, errors: &mut Errors) {
    let limits = map(resources, &["limits"]);
    for (name, requested) in map(resources, &["requests"]).into_iter().flatten() {
        let limit = limits.and_then(|limits| limits.get(name)).and_then(Value::as_str);
        let requested = requested.as_str().unwrap_or_default();
        let (Some(limit), Some(parsed)) = (limit, Quantity::parse(requested)) else { continue };
        if Quantity::parse(limit).is_some_and(|limit| parsed > limit) {
            let why = format!("must be less than or equal to {name} limit of {limit}");
            errors.push(FieldError::invalid(format!("{field}.resources.requests"), requested, &why));
        }
    }
}

const SPEC_FROZEN: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
    existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
    previously negative)";

/// A change of a pod's spec: nearly nothing may change.
pub(super) fn update(old: &Value, new: &Value, errors: &mut Errors) {
    if old["spec"] == new["spec"] {
        return;
    }
    for kind in ["containers", "initContainers"] {
        if list(new, &["spec", kind]).len() != list(old, &["spec", kind]).len() {
            let why = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(format!("spec.{kind}"), why));
            return;
        }
    }
    let tolerations = list(new, &["spec", "tolerations"]);
    if !list(old, &["spec", "tolerations"]).iter().all(|old| tolerations.contains(old)) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden("spec.tolerations", why));
    }
    if frozen(old) != frozen(new) {
        errors.push(FieldError::forbidden("spec", SPEC_FROZEN));
    }
    spec(&new["spec"], "spec", errors);
}

/// The spec without what may change, and without what is as good as absent.
fn frozen(pod: &Value) -> Value {
    let mut spec = pod["spec"].clone();
    if let Value::Object(fields) = &mut spec {
        for key in ["activeDeadlineSeconds", "tolerations"] {
            fields.shift_remove(key);
        }
        fields.retain(|_, value| !is_empty(value));
        for kind in ["containers", "initContainers"] {
            for container in fields.get_mut(kind).and_then(Value::as_array_mut).into_iter().flatten() {
                container["image"] = Value::Null;
            }
        }
    }
    spec
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(given: &Value) -> Vec<String> {
        let mut errors = Vec::new();
        spec(given, "spec", &mut errors);
        errors.iter().map(|error| format!("{error:?}")).collect()
    }

    #[test]
    fn a_plain_pod_is_fine() {
        let plain = json!({"containers": [{"name": "c", "image": "i", "volumeMounts":
            [{"name": "v", "mountPath": "/x"}], "readinessProbe": {"httpGet": {"port": 9999}},
            "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['x']"}}}]}],
            "volumes": [{"name": "v", "emptyDir": {}}],
            "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"]}});
        assert_eq!(check(&plain), Vec::<String>::new());
    }

    // The same pod was given to a kube-apiserver 1.36: it answered these fields with these reasons.
    #[test]
    fn everything_wrong_at_once() {
        let wrong = json!({"containers": [{"name": "c", "image": "i",
            "env": [{"name": "", "value": "x"}, {"name": "A=B"},
                    {"name": "C", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "zz"}}}],
            "ports": [{"containerPort": 0}, {"containerPort": 70000, "protocol": "x"}],
            "readinessProbe": {"periodSeconds": -1},
            "livenessProbe": {"httpGet": {"port": 1}, "tcpSocket": {"port": 2}, "successThreshold": 2},
            "imagePullPolicy": "x", "volumeMounts": [{"name": "v"}],
            "securityContext": {"seccompProfile": {"type": "x"}}}],
            "volumes": [{"name": "V", "emptyDir": {}}, {"name": "v", "hostPath": {}},
                        {"name": "w", "hostPath": {"path": "/x"}, "emptyDir": {}}],
            "activeDeadlineSeconds": 0, "tolerations": [{"operator": "x"}]});
        let errors = check(&wrong);
        for part in [
            "spec.volumes[0].name",
            "spec.volumes[1].hostPath.path",
            "spec.volumes[2].emptyDir",
            "spec.containers[0].ports[0].containerPort",
            "Invalid value: 70000",
            "SCTP",
            "spec.containers[0].env[0].name",
            "A=B",
            "field label not supported: zz",
            "may not be specified when `value` is not empty",
            "Not found: \\\"v\\\"",
            "spec.containers[0].volumeMounts[0].mountPath",
            "spec.containers[0].imagePullPolicy",
            "spec.containers[0].securityContext.seccompProfile.type",
            "more than 1 handler type",
            "Invalid value: 2: must be 1",
            "must specify a handler type",
            "Invalid value: -1",
            "spec.activeDeadlineSeconds",
            "operator must be Exists",
            "spec.tolerations[0].operator\", reason: \"FieldValueNotSupported",
        ] {
            assert!(errors.iter().any(|error| error.contains(part)), "{part}: {errors:#?}");
        }
        assert_eq!(errors.len(), 21, "{errors:#?}");
    }

    #[test]
    fn requests_are_within_limits() {
        let pod = |request: &str, limit: &str| {
            json!({"containers": [{"name": "c", "image": "i", "resources":
                {"requests": {"cpu": request}, "limits": {"cpu": limit}}}]})
        };
        assert!(check(&pod("100m", "1")).is_empty());
        assert!(check(&pod("1", "1000m")).is_empty());
        assert!(check(&pod("2", "1"))[0].contains("must be less than or equal to cpu limit of 1"));
    }

    #[test]
    fn only_images_deadlines_and_tolerations_change() {
        let old = json!({"spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}],
                         "tolerations": [{"key": "a", "operator": "Exists"}]}});
        let changed = |change: &dyn Fn(&mut Value)| {
            let mut new = old.clone();
            change(&mut new["spec"]);
            let mut errors = Vec::new();
            update(&old, &new, &mut errors);
            errors
        };
        assert!(changed(&|spec| spec["containers"][0]["image"] = json!("j")).is_empty());
        assert!(changed(&|spec| spec["activeDeadlineSeconds"] = json!(5)).is_empty());
        let more = json!([{"key": "a", "operator": "Exists"}, {"operator": "Exists"}]);
        assert!(changed(&|spec| spec["tolerations"] = more.clone()).is_empty());
        assert_eq!(changed(&|spec| spec["tolerations"] = json!([])).len(), 1);
        assert_eq!(changed(&|spec| spec["nodeName"] = json!("m")).len(), 1);
        assert_eq!(changed(&|spec| spec["containers"][0]["command"] = json!(["x"])).len(), 1);
        assert_eq!(changed(&|spec| spec["containers"] = json!([])).len(), 1);
    }
}
