//! Defaults that a real API server fills in when an object is created: what readers such as the
//! kubelet (probe periods, grace period) and kubectl rely on.

use serde_json::{Map, Value, json};

use super::json::{child, default, list, map, metadata, object, text};
use super::resources::Kind;

/// Fills in the defaults of a new object. Its name, uid and namespace are set already.
pub(super) fn apply(kind: Kind, value: &mut Value) {
    match kind {
        Kind::Pod => pod(value),
        Kind::Job => job(value),
        Kind::Secret => default(object(value), "type", "Opaque"),
        Kind::Namespace => namespace(value),
        Kind::Node => node(value),
        Kind::Lease => default(object(value), "spec", json!({})),
        Kind::ConfigMap | Kind::Event | Kind::EventV1 => {}
    }
}

/// Fills in the defaults of a changed object, so that leaving one out is not a change.
pub(super) fn apply_to_update(kind: Kind, value: &mut Value) {
    match kind {
        Kind::Pod => spec_of_pod(value),
        Kind::Job => pod_spec(
            object(child(value, "spec").entry("template").or_insert(Value::Null))
                .entry("spec")
                .or_insert(Value::Null),
        ),
        Kind::Secret => default(object(value), "type", "Opaque"),
        Kind::Lease => default(object(value), "spec", json!({})),
        Kind::Node | Kind::Namespace | Kind::ConfigMap | Kind::Event | Kind::EventV1 => {}
    }
}

fn pod(pod: &mut Value) {
    spec_of_pod(pod);
    let qos = qos_class(&pod["spec"]);
    object(pod).insert("status".into(), json!({"phase": "Pending", "qosClass": qos}));
}

fn spec_of_pod(pod: &mut Value) {
    pod_spec(object(pod).entry("spec").or_insert(Value::Null));
    let spec = child(pod, "spec");
    default(spec, "enableServiceLinks", true);
    default(spec, "preemptionPolicy", "PreemptLowerPriority");
    default(spec, "priority", 0);
    not_ready_tolerations(spec);
}

/// What the DefaultTolerationSeconds admission plugin adds.
fn not_ready_tolerations(spec: &mut Map<String, Value>) {
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    let Value::Array(tolerations) = tolerations else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = tolerations.iter().any(|toleration| {
            let names = text(toleration, &["key"]);
            let effect = text(toleration, &["effect"]);
            (names.is_empty() || names == key) && (effect.is_empty() || effect == "NoExecute")
        });
        if !tolerated {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300,
            }));
        }
    }
}

/// Defaults of a pod's spec, be it a pod's or a template's.
fn pod_spec(spec: &mut Value) {
    for kind in ["containers", "initContainers"] {
        for one in spec.get_mut(kind).and_then(Value::as_array_mut).into_iter().flatten() {
            container(object(one));
        }
    }
    for volume in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        for source in ["secret", "configMap", "projected", "downwardAPI"] {
            if let Some(Value::Object(source)) = volume.get_mut(source) {
                default(source, "defaultMode", 0o644);
            }
        }
        if let Some(Value::Object(path)) = volume.get_mut("hostPath") {
            default(path, "type", "");
        }
    }
    let spec = object(spec);
    default(spec, "restartPolicy", "Always");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "schedulerName", "default-scheduler");
    default(spec, "securityContext", json!({}));
}

fn container(container: &mut Map<String, Value>) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let pull = if always_pulled(image) { "Always" } else { "IfNotPresent" };
    default(container, "imagePullPolicy", pull);
    default(container, "terminationMessagePath", "/dev/termination-log");
    default(container, "terminationMessagePolicy", "File");
    default(container, "resources", json!({}));
    if let Some(Value::Object(resources)) = container.get_mut("resources")
        && let Some(Value::Object(limits)) = resources.get("limits").cloned()
    {
        let requests = object(resources.entry("requests").or_insert_with(|| json!({})));
        for (name, limit) in limits {
            default(requests, &name, limit);
        }
    }
    for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        default(object(port), "protocol", "TCP");
    }
    for variable in container.get_mut("env").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(Value::Object(field)) = variable.pointer_mut("/valueFrom/fieldRef") {
            default(field, "apiVersion", "v1");
        }
    }
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(Value::Object(found)) = container.get_mut(kind) {
            probe(found);
        }
    }
}

/// An image without a tag is `:latest`, and that one is pulled each time.
fn always_pulled(image: &str) -> bool {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains('@') {
        return false;
    }
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn probe(probe: &mut Map<String, Value>) {
    for (field, number) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        // Zero means the default, as in Go.
        if probe.get(field).and_then(Value::as_i64).unwrap_or(0) == 0 {
            probe.insert(field.into(), json!(number));
        }
    }
    if let Some(Value::Object(get)) = probe.get_mut("httpGet") {
        default(get, "path", "/");
        default(get, "scheme", "HTTP");
    }
}

/// Quality of service: `Guaranteed` when every container has cpu and memory limits equal to its
/// requests, `BestEffort` when none has any.
fn qos_class(spec: &Value) -> &'static str {
    let containers = || list(spec, &["containers"]).iter().chain(list(spec, &["initContainers"]));
    let count = |container: &Value, kind| map(container, &["resources", kind]).map_or(0, Map::len);
    if containers().all(|container| count(container, "limits") + count(container, "requests") == 0) {
        return "BestEffort";
    }
    let guaranteed = containers().all(|container| {
        ["cpu", "memory"].into_iter().all(|name| {
            let limit = text(container, &["resources", "limits", name]);
            !limit.is_empty() && limit == text(container, &["resources", "requests", name])
        })
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}

fn job(job: &mut Value) {
    let name = text(job, &["metadata", "name"]).to_owned();
    let uid = text(job, &["metadata", "uid"]).to_owned();
    let spec = child(job, "spec");
    // Without both numbers a job runs one pod to completion.
    if spec.get("parallelism").is_none() && spec.get("completions").is_none() {
        default(spec, "completions", 1);
    }
    default(spec, "parallelism", 1);
    default(spec, "backoffLimit", 6);
    default(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    default(spec, "manualSelector", false);
    default(spec, "podReplacementPolicy", "TerminatingOrFailed");
    let manual = spec.get("manualSelector") == Some(&Value::Bool(true));
    let template = object(spec.entry("template").or_insert(Value::Null));
    pod_spec(template.entry("spec").or_insert(Value::Null));
    if !manual {
        let template = spec.get_mut("template").map(metadata);
        if let Some(labels) = template.map(|meta| object(meta.entry("labels").or_insert(Value::Null))) {
            for (key, value) in [
                ("batch.kubernetes.io/controller-uid", &uid),
                ("batch.kubernetes.io/job-name", &name),
                ("controller-uid", &uid),
                ("job-name", &name),
            ] {
                labels.insert(key.into(), json!(value));
            }
        }
        spec.insert("selector".into(), json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}));
    }
    let labels = job["spec"]["template"]["metadata"]["labels"].clone();
    default(metadata(job), "labels", labels);
    object(job).insert("status".into(), json!({}));
}

fn namespace(namespace: &mut Value) {
    let name = text(namespace, &["metadata", "name"]).to_owned();
    let labels = object(metadata(namespace).entry("labels").or_insert(Value::Null));
    labels.insert("kubernetes.io/metadata.name".into(), json!(name));
    let fields = object(namespace);
    fields.insert("spec".into(), json!({"finalizers": ["kubernetes"]}));
    fields.insert("status".into(), json!({"phase": "Active"}));
}

fn node(node: &mut Value) {
    default(object(node), "spec", json!({}));
    let status = child(node, "status");
    if let Some(capacity) = status.get("capacity").cloned() {
        default(status, "allocatable", capacity);
    }
    default(status, "daemonEndpoints", json!({"kubeletEndpoint": {"Port": 0}}));
    default(
        status,
        "nodeInfo",
        json!({
            "machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "", "osImage": "",
            "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "",
            "operatingSystem": "", "architecture": "",
        }),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    // What a kube-apiserver 1.36 makes of this very pod.
    #[test]
    fn pods_get_the_defaults_of_the_real_one() {
        let mut pod = json!({"metadata": {"name": "full"}, "spec": {
            "containers": [{"name": "c", "image": "img", "ports": [{"containerPort": 80}],
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                "resources": {"limits": {"cpu": "1", "memory": "256Mi"}},
                "readinessProbe": {"httpGet": {"port": 9999}}}],
            "volumes": [{"name": "v", "hostPath": {"path": "/dev/net/tun"}},
                        {"name": "sv", "secret": {"secretName": "s"}}]}});
        apply(Kind::Pod, &mut pod);
        assert_eq!(
            pod,
            json!({"metadata": {"name": "full"}, "spec": {
                "containers": [{"name": "c", "image": "img",
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "env": [{"name": "IP", "valueFrom":
                        {"fieldRef": {"fieldPath": "status.podIP", "apiVersion": "v1"}}}],
                    "resources": {"limits": {"cpu": "1", "memory": "256Mi"},
                                  "requests": {"cpu": "1", "memory": "256Mi"}},
                    "readinessProbe": {"httpGet": {"port": 9999, "path": "/", "scheme": "HTTP"},
                        "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1,
                        "failureThreshold": 3},
                    "imagePullPolicy": "Always", "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File"}],
                "volumes": [{"name": "v", "hostPath": {"path": "/dev/net/tun", "type": ""}},
                            {"name": "sv", "secret": {"secretName": "s", "defaultMode": 420}}],
                "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
                "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
                "securityContext": {}, "enableServiceLinks": true,
                "preemptionPolicy": "PreemptLowerPriority", "priority": 0,
                "tolerations": [
                    {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
                     "tolerationSeconds": 300},
                    {"key": "node.kubernetes.io/unreachable", "operator": "Exists",
                     "effect": "NoExecute", "tolerationSeconds": 300}]},
                "status": {"phase": "Pending", "qosClass": "Guaranteed"}})
        );
    }

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, always) in [
            ("img", true),
            ("img:latest", true),
            ("img:1", false),
            ("r:5000/img", true),
            ("r:5000/img:1", false),
            ("img@sha256:aa", false),
        ] {
            assert_eq!(always_pulled(image), always, "{image}");
        }
    }

    #[test]
    fn quality_of_service() {
        let spec = |resources: Value| json!({"containers": [{"resources": resources}]});
        assert_eq!(qos_class(&spec(json!({}))), "BestEffort");
        assert_eq!(qos_class(&spec(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let limits = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(qos_class(&spec(json!({"limits": limits, "requests": limits}))), "Guaranteed");
    }

    #[test]
    fn jobs_select_their_own_pods() {
        let mut job = json!({"metadata": {"name": "j", "uid": "u"},
                             "spec": {"template": {"spec": {"containers": [{"image": "i"}]}}}});
        apply(Kind::Job, &mut job);
        assert_eq!(job["spec"]["completions"], 1);
        assert_eq!(job["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"], "u");
        assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
        assert_eq!(job["metadata"]["labels"], job["spec"]["template"]["metadata"]["labels"]);
        assert_eq!(job["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"], "Always");
        assert_eq!(job["status"], json!({}));
    }

    #[test]
    fn namespaces_and_nodes() {
        let mut namespace = json!({"metadata": {"name": "n"}});
        apply(Kind::Namespace, &mut namespace);
        assert_eq!(namespace["metadata"]["labels"]["kubernetes.io/metadata.name"], "n");
        assert_eq!(namespace["status"]["phase"], "Active");
        let mut node = json!({"metadata": {"name": "n"}, "status": {"capacity": {"cpu": "4"}}});
        apply(Kind::Node, &mut node);
        assert_eq!(node["status"]["allocatable"], json!({"cpu": "4"}));
    }
}
