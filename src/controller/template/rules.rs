//! Which fields of a pod a template may set, and why the others are the gateway's. Called by
//! [`super::Template::parse`].
//!
//! A list of what is allowed rather than of what is not: a field that a later Kubernetes adds is refused until
//! someone has thought about it.

use serde_json::{Map, Value};

use super::TemplateError;
use crate::session::pod::{APP_LABEL, CONTAINER, HEALTH_PORT, POD_ID_LABEL, PROXY_PORT};

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
    "FIREWALL_INPUT_PORTS",
    "HEALTH_SERVER_ADDRESS",
    "SERVER_HOSTNAMES",
    "VPN_SERVICE_PROVIDER",
    "VPN_TYPE",
];

/// Beginnings of settings that are ours: the proxy and its login, the control server and its key, the VPN's
/// key, and every other way to choose a server than the one hostname.
const OURS_BEGIN: &[(&str, &str)] = &[
    ("HTTPPROXY", "the gateway sets the proxy that it talks to"),
    ("HTTP_CONTROL_SERVER", "the gateway closes the control server"),
    ("WIREGUARD_PRIVATE_KEY", "it comes from the Secret gluetun-wireguard-credentials"),
    ("WIREGUARD_ADDRESSES", "it comes from the Secret gluetun-wireguard-credentials"),
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
    ("DNS_SERVER", "without it names go around the VPN"),
    ("DNS_KEEP_NAMESERVER", "with it names go around the VPN"),
    ("FIREWALL_ENABLED", "without the firewall traffic can go around the VPN"),
    ("FIREWALL_OUTBOUND_SUBNETS", "with it traffic goes around the VPN"),
    ("EXTRA_SUBNETS", "with it traffic goes around the VPN"),
];

/// Kinds of volumes that a template may add. A hostPath would open the node, a projected token the API.
const VOLUMES: &[&str] =
    &["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "name", "persistentVolumeClaim", "secret"];

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

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// `spec.containers[gluetun]`, by name where the element has one.
fn element(path: &str, value: &Value, index: usize) -> String {
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
            "labels" => ours(value, "metadata.labels", &our_label, mistakes),
            "annotations" => ours(value, "metadata.annotations", &our_annotation, mistakes),
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

fn our_label(name: &str) -> bool {
    // By those beginning with its name a NetworkPolicy could let a pod to the gateway's ports.
    [APP_LABEL, POD_ID_LABEL, "managed-by", "sidecar.istio.io/inject"].contains(&name)
        || name.starts_with("gluetun-gateway/")
        || ["name", "component", "part-of", "managed-by"]
            .iter()
            .any(|word| name.strip_prefix("app.kubernetes.io/") == Some(word))
}

fn our_annotation(name: &str) -> bool {
    name.starts_with("gluetun-gateway/") || name == "linkerd.io/inject"
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
    for volume in elements(spec, "volumes") {
        self::volume(volume, mistakes);
    }
    for (list, first) in [("initContainers", true), ("containers", false)] {
        for (index, container) in elements(spec, list).enumerate() {
            let path = element(&format!("spec.{list}"), &Value::Object(container.clone()), index);
            let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
            match (name, first) {
                (CONTAINER, false) => gluetun(container, &path, mistakes),
                (CONTAINER, true) => mistakes.push(TemplateError::new(
                    path,
                    "the gateway's own container has this name",
                    "take another name",
                )),
                _ => sidecar(container, &path, mistakes),
            }
        }
    }
}

fn elements<'a>(
    fields: &'a Map<String, Value>,
    list: &str,
) -> impl Iterator<Item = &'a Map<String, Value>> + use<'a> {
    fields.get(list).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object)
}

fn volume(volume: &Map<String, Value>, mistakes: &mut Vec<TemplateError>) {
    let name = volume.get("name").and_then(Value::as_str).unwrap_or_default();
    let path = format!("spec.volumes[{name}]");
    if name == "tun" {
        mistakes.push(TemplateError::new(
            path.clone(),
            "the gateway's own volume has this name",
            "take another name",
        ));
    }
    for kind in volume.keys().filter(|kind| !VOLUMES.contains(&kind.as_str())) {
        mistakes.push(TemplateError::new(
            format!("{path}.{kind}"),
            "a template may not add this kind of volume",
            "take a configMap, secret, emptyDir, persistentVolumeClaim, csi, ephemeral or downwardAPI",
        ));
    }
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
        let name = variable.get("name").and_then(Value::as_str).unwrap_or_default();
        let reason = match OURS.contains(&name) {
            true => Some("the gateway sets it"),
            false => OURS_BEGIN.iter().find(|(begin, _)| name.starts_with(begin)).map(|(_, reason)| *reason),
        };
        if let Some(reason) = reason {
            mistakes.push(TemplateError::new(format!("{path}.env[{name}]"), reason, "leave it out"));
        }
    }
    for mount in elements(container, "volumeMounts") {
        let place = mount.get("mountPath").and_then(Value::as_str).unwrap_or_default();
        if place.trim_end_matches('/') == "/dev/net/tun"
            || "/dev/net/tun".starts_with(&format!("{}/", place.trim_end_matches('/')))
        {
            mistakes.push(TemplateError::new(
                format!("{path}.volumeMounts[{place}]"),
                "it would hide the tunnel's device",
                "mount it elsewhere; TUN_DEVICE chooses how the pod gets its device",
            ));
        }
    }
}

/// A container of the operator's: it shares the exit's network, so that it must have no rights in it, and
/// the cluster's admission policy lets no other in.
fn sidecar(container: &Map<String, Value>, path: &str, mistakes: &mut Vec<TemplateError>) {
    if container.get("name").and_then(Value::as_str).unwrap_or_default().is_empty() {
        mistakes.push(TemplateError::new(
            format!("{path}.name"),
            "it is missing",
            "write the container's name",
        ));
    }
    if container.get("image").and_then(Value::as_str).unwrap_or_default().is_empty() {
        mistakes.push(TemplateError::new(format!("{path}.image"), "it is missing", "write the image"));
    }
    for port in elements(container, "ports") {
        let number = port.get("containerPort").and_then(Value::as_u64).unwrap_or_default();
        if [u64::from(PROXY_PORT), u64::from(HEALTH_PORT)].contains(&number) {
            mistakes.push(TemplateError::new(
                format!("{path}.ports[{number}]"),
                "the exit's own port",
                "take another port",
            ));
        }
        if port.contains_key("hostPort") {
            mistakes.push(TemplateError::new(
                format!("{path}.ports[{number}].hostPort"),
                "two exits on a node would collide",
                "leave it out",
            ));
        }
    }
    let empty = Map::new();
    let context = container.get("securityContext").and_then(Value::as_object).unwrap_or(&empty);
    let mut restricted = |field: &str, holds: bool, fix: &str| {
        if !holds {
            let path = format!("{path}.securityContext.{field}");
            mistakes.push(TemplateError::new(path, "a container beside an exit must be restricted", fix));
        }
    };
    let flag = |field: &str| context.get(field).and_then(Value::as_bool);
    let capabilities = context.get("capabilities").and_then(Value::as_object).unwrap_or(&empty);
    let drops = capabilities.get("drop").and_then(Value::as_array);
    let seccomp =
        context.get("seccompProfile").and_then(|profile| profile.get("type")).and_then(Value::as_str);
    restricted("privileged", flag("privileged") != Some(true), "leave it out");
    restricted("allowPrivilegeEscalation", flag("allowPrivilegeEscalation") == Some(false), "write false");
    restricted("runAsNonRoot", flag("runAsNonRoot") == Some(true), "write true");
    restricted(
        "capabilities.drop",
        drops.is_some_and(|drops| drops.iter().any(|c| c == "ALL")),
        "write [ALL]",
    );
    restricted("capabilities.add", !capabilities.contains_key("add"), "leave it out");
    restricted(
        "seccompProfile.type",
        matches!(seccomp, Some("RuntimeDefault" | "Localhost")),
        "write RuntimeDefault",
    );
}
