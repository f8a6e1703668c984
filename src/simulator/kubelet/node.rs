//! The node that pods run on: its object in the API, with what the API server needs to find the
//! kubelet's own port.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::Options;
use super::machine::{CallError, Calls};

/// Labels by which a pod's nodeSelector can choose the node.
pub(super) fn labels(name: &str) -> BTreeMap<String, String> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    [
        ("beta.kubernetes.io/arch", architecture),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture),
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// Makes the node, or takes over the one that an earlier kubelet has left, and says that it is ready.
pub(super) async fn register(
    client: &kube::Client,
    calls: &Calls,
    options: &Options,
    port: u16,
) -> Result<(), CallError> {
    let api = Api::<Node>::all(client.clone());
    let name = &options.node_name;
    let labels = labels(name);
    let mut node = Node::default();
    node.metadata.name = Some(name.clone());
    node.metadata.labels = Some(labels.clone());
    match calls.run(api.create(&PostParams::default(), &node)).await {
        Ok(_) => {}
        Err(error) if error.is_conflict() => {}
        Err(error) => return Err(error),
    }
    // A real API server marks a new node as not ready, which a node controller would take back.
    let meta = json!({ "metadata": { "labels": labels }, "spec": { "taints": null } });
    calls.run(api.patch(name, &PatchParams::default(), &Patch::Merge(meta))).await?;
    let status = json!({ "status": status(options, port) });
    calls.run(api.patch_status(name, &PatchParams::default(), &Patch::Merge(status))).await?;
    Ok(())
}

fn status(options: &Options, port: u16) -> Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = |type_: &str, status: &str, reason: &str, message: &str| {
        json!({
            "type": type_, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        })
    };
    let cpus = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    let resources = json!({ "cpu": cpus, "memory": "8Gi", "ephemeral-storage": "100Gi", "pods": "1000" });
    json!({
        "capacity": resources,
        "allocatable": resources,
        "addresses": [
            { "type": "InternalIP", "address": options.node_addr.to_string() },
            { "type": "Hostname", "address": options.node_addr.to_string() },
        ],
        "daemonEndpoints": { "kubeletEndpoint": { "Port": port } },
        "nodeInfo": {
            "architecture": labels("").remove("kubernetes.io/arch").unwrap_or_default(),
            "operatingSystem": "linux",
            "kubeletVersion": concat!("v1.33.0-simulator.", env!("CARGO_PKG_VERSION")),
            "kubeProxyVersion": "",
            "containerRuntimeVersion": concat!("simulator://", env!("CARGO_PKG_VERSION")),
            "osImage": "Embedded cluster of gluetun-gateway",
            "kernelVersion": "", "bootID": "", "machineID": "", "systemUUID": "",
        },
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        ],
    })
}
