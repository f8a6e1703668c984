//! Which fields of a pod a template may set, and why the others are the gateway's. Called by
//! [`super::Template::parse`].
//!
//! A list of what is allowed rather than of what is not: a field that a later Kubernetes adds is refused until
//! someone has thought about it.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{TemplateError, containers, labels, sidecar, volumes};
use crate::controller::manifest::{ADDRESSES, PRIVATE_KEY, SECRET};
use crate::session::pod::{APP_LABEL, CONTAINER, POD_ID_LABEL};

/// Fields of the pod that a template may set.
const SPEC: &[&str] = &[
    "affinity",
    "containers",
    "dnsConfig",
    "dnsPolicy",
    "hostAliases",
    "imagePullSecrets",
    "initContainers",
    "nodeSelector",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "runtimeClassName",
    "schedulerName",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
];

/// Fields of the container `gluetun` that a template may set.
const GLUETUN: &[&str] = &["env", "imagePullPolicy", "name", "resources", "volumeMounts"];

/// Gluetun's settings that make the pod an exit of ours. The others that we set are choices (DNS, block
/// lists, memory of the collector, …), which a template may make differently.
const OURS: &[&str] = &[
    // As Gluetun called the DNS server and the firewall before, whose old names win over the new ones.
    "DOT",
    "FIREWALL",
    "FIREWALL_INPUT_PORTS",
    "HEALTH_SERVER_ADDRESS",
    "SERVER_HOSTNAMES",
    "VPNSP",
    "VPN_SERVICE_PROVIDER",
    "VPN_TYPE",
];

/// Beginnings of settings that are ours: the proxy and its login, the control server and its key, the VPN's
/// key, and every other way to choose a server than the one hostname.
const OURS_BEGIN: &[(&str, &str)] = &[
    ("HTTPPROXY", "the gateway sets the proxy that it talks to"),
    ("HTTP_CONTROL_SERVER", "the gateway closes the control server"),
    ("WIREGUARD_PRIVATE_KEY", "it comes from the Secret gluetun-wireguard-credentials"),
    ("WIREGUARD_ADDRESS", "it comes from the Secret gluetun-wireguard-credentials"),
    ("SERVER_", "the gateway chooses the server, one hostname"),
    // What Gluetun read before it had these names, and still does (`internal/configuration/settings`).
    ("COUNTRY", "the gateway chooses the server, one hostname"),
    ("REGION", "the gateway chooses the server, one hostname"),
    ("CITY", "the gateway chooses the server, one hostname"),
    ("ISP", "the gateway chooses the server, one hostname"),
    ("OWNED_ONLY", "the gateway chooses the server, one hostname"),
    ("FREE_ONLY", "the gateway chooses the server, one hostname"),
    ("STREAM_ONLY", "the gateway chooses the server, one hostname"),
    ("MULTIHOP_ONLY", "the gateway chooses the server, one hostname"),
    ("TOR_ONLY", "the gateway chooses the server, one hostname"),
    ("SECURE_CORE_ONLY", "the gateway chooses the server, one hostname"),
    ("PORT_FORWARD_ONLY", "the gateway chooses the server, one hostname"),
    ("PREMIUM_ONLY", "the gateway chooses the server, one hostname"),
    ("VPN_ENDPOINT_IP", "the gateway chooses the server, one hostname"),
    ("WIREGUARD_ENDPOINT_IP", "the gateway chooses the server, one hostname"),
    ("WIREGUARD_PUBLIC_KEY", "it is the server's, which the gateway chooses"),
    ("WIREGUARD_CONF_SECRETFILE", "the VPN's settings come from the gateway and its Secret"),
    ("PROXY", "the gateway sets the proxy that it talks to"),
    ("TINYPROXY", "the gateway sets the proxy that it talks to"),
    ("DNS_ADDRESS", "with it names go around the VPN"),
    ("DNS_PLAINTEXT_ADDRESS", "with it names go around the VPN"),
    ("DNS_UPSTREAM_PLAIN_ADDRESSES", "with it names go around the VPN"),
    ("DNS_SERVER", "without it names go around the VPN"),
    ("DNS_KEEP_NAMESERVER", "with it names go around the VPN"),
    ("FIREWALL_ENABLED", "without the firewall traffic can go around the VPN"),
    ("FIREWALL_OUTBOUND_SUBNETS", "with it traffic goes around the VPN"),
    ("EXTRA_SUBNETS", "with it traffic goes around the VPN"),
    ("WIREGUARD_ALLOWED_IPS", "without all of them traffic goes around the VPN"),
];

/// Beginnings of annotations that change what a pod may do or reach, and what they would change.
const ANNOTATIONS: &[(&str, &str)] = &[
    ("container.apparmor.security.beta.kubernetes.io/", "an exit has the runtime's default profiles"),
    ("container.seccomp.security.alpha.kubernetes.io/", "an exit has the runtime's default profiles"),
    ("seccomp.security.alpha.kubernetes.io/", "an exit has the runtime's default profiles"),
    ("k8s.v1.cni.cncf.io/", "an exit has one network"),
    ("v1.multus-cni.io/", "an exit has one network"),
];

/// Fields of the pod that have one of a few values.
const CHOICES: &[(&str, &[&str])] = &[
    ("dnsPolicy", &["None", "Default", "ClusterFirst", "ClusterFirstWithHostNet"]),
    ("preemptionPolicy", &["Never", "PreemptLowerPriority"]),
];

/// Paths of `value` that Kubernetes' types do not know: in `value` and not in `known`.
pub(super) fn unknown(value: &Value, known: &Value) -> Vec<TemplateError> {
    let mut mistakes = Vec::new();
    compare(value, known, "", &mut mistakes);
    mistakes
}

fn compare(value: &Value, known: &Value, path: &str, mistakes: &mut Vec<TemplateError>) {
    match (value, known) {
        (Value::Object(value), Value::Object(known)) => {
            for (name, value) in value.iter().filter(|(_, value)| !value.is_null()) {
                let path = join(path, name);
                match known.get(name) {
                    Some(known) => compare(value, known, &path, mistakes),
                    // An empty list or mapping says nothing, and is not kept.
                    None if is_empty(value) => {}
                    None => mistakes.push(TemplateError::new(
                        path,
                        "no such field",
                        "see `kubectl explain pod --recursive`",
                    )),
                }
            }
        }
        (Value::Array(value), Value::Array(known)) => {
            for (index, (value, known)) in value.iter().zip(known).enumerate() {
                compare(value, known, &element(path, value, index), mistakes);
            }
        }
        // Quantities and the like may be spelled otherwise.
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// `spec.containers[gluetun]`, by name where the element has one.
pub(super) fn element(path: &str, value: &Value, index: usize) -> String {
    match value.get("name").and_then(Value::as_str) {
        Some(name) => format!("{path}[{name}]"),
        None => format!("{path}[{index}]"),
    }
}

/// Everything in the template that is not the operator's to set.
pub(super) fn check(template: &Value) -> Vec<TemplateError> {
    let mut mistakes = Vec::new();
    let empty = Map::new();
    let of = |name: &str| template.get(name).and_then(Value::as_object).unwrap_or(&empty);
    metadata(of("metadata"), &mut mistakes);
    spec(of("spec"), &mut mistakes);
    mistakes
}

fn metadata(metadata: &Map<String, Value>, mistakes: &mut Vec<TemplateError>) {
    for (name, value) in metadata {
        match name.as_str() {
            "labels" => {
                ours(value, "metadata.labels", &our_label, mistakes);
                labels::check(value, "metadata.labels", mistakes);
            }
            "annotations" => {
                ours(value, "metadata.annotations", &our_annotation, mistakes);
                annotations(value, mistakes);
            }
            // A field that Kubernetes fills, as in a manifest that was read from a cluster.
            "creationTimestamp" if value.is_null() => {}
            _ => mistakes.push(TemplateError::new(
                format!("metadata.{name}"),
                "the gateway sets it",
                "leave it out: a template has labels and annotations",
            )),
        }
    }
}

fn ours(values: &Value, path: &str, is_ours: &dyn Fn(&str) -> bool, mistakes: &mut Vec<TemplateError>) {
    for name in values.as_object().into_iter().flat_map(Map::keys).filter(|name| is_ours(name)) {
        mistakes.push(TemplateError::new(
            format!("{path}[{name}]"),
            "the gateway sets it",
            "leave it out, or take a name of your own",
        ));
    }
}

fn annotations(values: &Value, mistakes: &mut Vec<TemplateError>) {
    labels::keys(values, "metadata.annotations", mistakes);
    for name in values.as_object().into_iter().flat_map(Map::keys) {
        if let Some((_, problem)) = ANNOTATIONS.iter().find(|(begin, _)| name.starts_with(begin)) {
            let path = format!("metadata.annotations[{name}]");
            mistakes.push(TemplateError::new(path, *problem, "leave it out"));
        }
    }
}

fn our_label(name: &str) -> bool {
    // By those beginning with its name a NetworkPolicy could let a pod to the gateway's ports.
    [APP_LABEL, POD_ID_LABEL, "managed-by", "sidecar.istio.io/inject"].contains(&name)
        || name.starts_with("gluetun-gateway/")
        || ["name", "component", "part-of", "managed-by"]
            .iter()
            .any(|word| name.strip_prefix("app.kubernetes.io/") == Some(word))
}

fn our_annotation(name: &str) -> bool {
    name.starts_with("gluetun-gateway/") || ["linkerd.io/inject", "sidecar.istio.io/inject"].contains(&name)
}

fn spec(spec: &Map<String, Value>, mistakes: &mut Vec<TemplateError>) {
    for name in spec.keys().filter(|name| !SPEC.contains(&name.as_str())) {
        let (problem, fix) = match name.as_str() {
            "restartPolicy" => {
                ("a failed exit is replaced, never restarted in its old network", "leave it out")
            }
            "hostNetwork" | "hostPID" | "hostIPC" | "hostUsers" => {
                ("an exit has namespaces of its own", "leave it out")
            }
            "serviceAccountName" | "serviceAccount" | "automountServiceAccountToken" => {
                ("an exit has no business with the API server", "leave it out")
            }
            "securityContext" => ("the gateway sets it", "write one into your own container"),
            _ => ("a template may not set it", "leave it out"),
        };
        mistakes.push(TemplateError::new(format!("spec.{name}"), problem, fix));
    }
    if spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).is_some_and(|seconds| seconds < 1) {
        mistakes.push(TemplateError::new(
            "spec.terminationGracePeriodSeconds",
            "the VPN would outlive its pod",
            "write 1 or more",
        ));
    }
    placement(spec, mistakes);
    let volumes = volumes::check(spec, mistakes);
    let mut names = BTreeSet::new();
    for (list, first) in [("initContainers", true), ("containers", false)] {
        for (index, container) in elements(spec, list).enumerate() {
            let path = element(&format!("spec.{list}"), &Value::Object(container.clone()), index);
            let name = text(container, "name");
            match (name, first) {
                (CONTAINER, false) => gluetun(container, &path, mistakes),
                (CONTAINER, true) => {
                    mistakes.push(TemplateError::new(
                        path,
                        "the gateway's own container has this name",
                        "take another name",
                    ));
                    continue;
                }
                _ => sidecar::check(container, &path, mistakes),
            }
            if !names.insert(name) {
                mistakes.push(TemplateError::new(
                    path.clone(),
                    "another container has this name",
                    "write it once",
                ));
            }
            containers::check(container, &path, &volumes, mistakes);
        }
    }
}

/// Where the pod runs, and what it resolves names with.
fn placement(spec: &Map<String, Value>, mistakes: &mut Vec<TemplateError>) {
    for (field, values) in CHOICES {
        choice(spec, field, "spec", values, mistakes);
    }
    if let Some(selector) = spec.get("nodeSelector") {
        labels::check(selector, "spec.nodeSelector", mistakes);
    }
    for field in ["affinity", "topologySpreadConstraints"] {
        if let Some(value) = spec.get(field) {
            labels::selectors(value, &format!("spec.{field}"), mistakes);
        }
    }
    for (index, toleration) in elements(spec, "tolerations").enumerate() {
        let path = format!("spec.tolerations[{index}]");
        choice(toleration, "operator", &path, &["Equal", "Exists", "Lt", "Gt"], mistakes);
        choice(toleration, "effect", &path, &["NoSchedule", "PreferNoSchedule", "NoExecute"], mistakes);
    }
    for (index, spread) in elements(spec, "topologySpreadConstraints").enumerate() {
        let path = format!("spec.topologySpreadConstraints[{index}]");
        choice(spread, "whenUnsatisfiable", &path, &["DoNotSchedule", "ScheduleAnyway"], mistakes);
    }
    if text(spec, "priorityClassName").starts_with("system-") {
        mistakes.push(TemplateError::new(
            "spec.priorityClassName",
            "the admission policy lets no exit have a system's priority",
            "make a PriorityClass of your own",
        ));
    }
    if spec.contains_key("overhead") && !spec.contains_key("runtimeClassName") {
        mistakes.push(TemplateError::new(
            "spec.overhead",
            "it belongs to a runtime class",
            "leave it out, or write the runtimeClassName that has it",
        ));
    }
}

/// A field that, if it is there, has one of a few values.
pub(super) fn choice(
    fields: &Map<String, Value>,
    field: &str,
    path: &str,
    values: &[&str],
    mistakes: &mut Vec<TemplateError>,
) {
    let value = text(fields, field);
    if !value.is_empty() && !values.contains(&value) {
        let fix = format!("write {}", values.join(" or "));
        mistakes.push(TemplateError::new(join(path, field), format!("'{value}' is none of its values"), fix));
    }
}

/// A field's text, empty where there is none.
pub(super) fn text<'a>(fields: &'a Map<String, Value>, field: &str) -> &'a str {
    fields.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// The mappings in a list of `fields`.
pub(super) fn elements<'a>(
    fields: &'a Map<String, Value>,
    list: &str,
) -> impl Iterator<Item = &'a Map<String, Value>> + use<'a> {
    fields.get(list).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object)
}

/// What a template says about our own container.
fn gluetun(container: &Map<String, Value>, path: &str, mistakes: &mut Vec<TemplateError>) {
    for name in container.keys().filter(|name| !GLUETUN.contains(&name.as_str())) {
        let fix = match name.as_str() {
            "image" => "set GLUETUN_IMAGE",
            "envFrom" => "write each variable into env",
            "securityContext" => "leave it out; TUN_DEVICE chooses how the pod gets its device",
            _ => "leave it out",
        };
        mistakes.push(TemplateError::new(format!("{path}.{name}"), "the gateway sets it", fix));
    }
    for variable in elements(container, "env") {
        let name = text(variable, "name");
        let reason = match OURS.contains(&name) {
            true => Some("the gateway sets it"),
            false => OURS_BEGIN.iter().find(|(begin, _)| name.starts_with(begin)).map(|(_, reason)| *reason),
        };
        let reason = reason.or_else(|| is_the_key(variable).then_some("it would show the VPN's key"));
        if let Some(reason) = reason {
            mistakes.push(TemplateError::new(format!("{path}.env[{name}]"), reason, "leave it out"));
        }
    }
    for mount in elements(container, "volumeMounts") {
        let place = text(mount, "mountPath");
        let path = format!("{path}.volumeMounts[{place}]");
        if place.trim_end_matches('/') == "/dev/net/tun"
            || "/dev/net/tun".starts_with(&format!("{}/", place.trim_end_matches('/')))
        {
            mistakes.push(TemplateError::new(
                path,
                "it would hide the tunnel's device",
                "mount it below /mnt or /tmp; TUN_DEVICE chooses how the pod gets its device",
            ));
        } else if !is_free(place) {
            mistakes.push(TemplateError::new(
                path,
                "over Gluetun's own files one of the volume's would become a program",
                "mount it below /mnt or /tmp",
            ));
        }
    }
}

/// Whether the admission policy lets something be mounted there in Gluetun's container.
fn is_free(place: &str) -> bool {
    !place.contains("..")
        && ["/mnt", "/tmp"].iter().any(|free| {
            place.strip_prefix(free).is_some_and(|below| below.is_empty() || below.starts_with('/'))
        })
}

/// Whether a variable shows what only the gateway's two do: Gluetun prints a value that it does not like.
fn is_the_key(variable: &Map<String, Value>) -> bool {
    let reference =
        variable.get("valueFrom").and_then(|from| from.get("secretKeyRef")).and_then(Value::as_object);
    reference.is_some_and(|reference| {
        text(reference, "name") == SECRET && [PRIVATE_KEY, ADDRESSES].contains(&text(reference, "key"))
    })
}
