//! A scheduler for one node: binds every pod that fits to it, and says of the others why they do not.
//! Fed by the kubelet's watch of pods.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::events::Happening;
use super::faults::{Fault, Subject};
use super::machine::{BackOff, Machine};
use super::node;

/// How often a pod that does not fit is looked at again, when nothing else has changed.
const RETRY: Duration = Duration::from_secs(30);

/// The pods that are being scheduled.
pub(super) struct Scheduler {
    machine: Arc<Machine>,
    pending: Mutex<HashMap<String, DropGuard>>,
}

impl Scheduler {
    pub(super) fn new(machine: Arc<Machine>) -> Self {
        Self { machine, pending: Mutex::default() }
    }

    /// A pod is there or has changed.
    pub(super) fn seen(&self, pod: &Arc<Pod>) {
        let Some(uid) = pod.uid() else { return };
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_ours_to_schedule(pod) {
            pending.remove(&uid);
            return;
        }
        pending.entry(uid).or_insert_with(|| {
            let gone = self.machine.stop.child_token();
            let job = schedule(Arc::clone(&self.machine), Arc::clone(pod), gone.clone());
            self.machine.tasks.spawn(job);
            gone.drop_guard()
        });
    }

    /// A pod is gone.
    pub(super) fn gone(&self, pod: &Pod) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.remove(pod.uid().as_deref().unwrap_or_default());
    }
}

fn is_ours_to_schedule(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    spec.node_name.as_deref().unwrap_or_default().is_empty()
        && pod.metadata.deletion_timestamp.is_none()
        && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
        && matches!(spec.scheduler_name.as_deref(), None | Some("" | "default-scheduler"))
}

async fn schedule(machine: Arc<Machine>, pod: Arc<Pod>, gone: CancellationToken) {
    tokio::select! {
        () = until_it_fits(&machine, &pod) => {}
        () = gone.cancelled() => return,
    }
    // `gone` is also cancelled by the watch that shows the binding: it must not cut the rest short.
    tokio::select! {
        () = bind(&machine, &pod) => {}
        () = machine.stop.cancelled() => {}
    }
}

async fn until_it_fits(machine: &Machine, pod: &Pod) {
    let subject = Subject::of(pod);
    let mut changes = machine.faults.changes();
    let mut told = None;
    tokio::time::sleep(machine.options.schedule_delay).await;
    while let Some(reason) = misfit(machine, pod, &subject) {
        if told.as_ref() != Some(&reason) {
            refuse(machine, pod, &reason).await;
            told = Some(reason);
        }
        // The faults' sender lives as long as the kubelet.
        let _ = tokio::time::timeout(RETRY, changes.changed()).await;
    }
}

/// Why the pod cannot be placed.
fn misfit(machine: &Machine, pod: &Pod, subject: &Subject) -> Option<String> {
    let fault = machine.faults.meet(subject, |fault| match fault {
        Fault::Unschedulable { message } => Some(message.clone().unwrap_or_else(|| {
            "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
             1 No preemption victims found for incoming pod."
                .to_owned()
        })),
        _ => None,
    });
    if fault.is_some() {
        return fault;
    }
    let labels = node::labels(&machine.options.node_name);
    let selector = pod.spec.as_ref().and_then(|spec| spec.node_selector.as_ref());
    let fits = selector.into_iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    (!fits).then(|| {
        "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. preemption: \
         0/1 nodes are available: 1 Preemption is not helpful for scheduling."
            .to_owned()
    })
}

async fn refuse(machine: &Machine, pod: &Pod, reason: &str) {
    let events = machine.events.component("default-scheduler");
    events.record(&pod.object_ref(&()), Happening::warning("FailedScheduling", reason));
    let condition = PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("Unschedulable".to_owned()),
        message: Some(reason.to_owned()),
        last_transition_time: Some(Time(Timestamp::now())),
        ..PodCondition::default()
    };
    let current = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let mut conditions = vec![condition];
    conditions.extend(current.iter().filter(|c| c.type_ != "PodScheduled").cloned());
    let patch = json!({ "metadata": { "uid": pod.uid() }, "status": { "conditions": conditions } });
    let patch = Patch::Merge(patch);
    let api = machine.within::<Pod>(&pod.namespace().unwrap_or_default());
    let mut back_off = BackOff::default();
    loop {
        let name = pod.name_any();
        match machine.calls.run(api.patch_status(&name, &PatchParams::default(), &patch)).await {
            Ok(_) => return,
            // It is gone or bound, which the watch tells.
            Err(error) if error.is_not_found() || error.is_conflict() || error.is_invalid() => return,
            Err(error) => {
                tracing::debug!(pod = %name, %error, "could not say yet that a pod is unschedulable");
                tokio::time::sleep(back_off.next()).await;
            }
        }
    }
}

async fn bind(machine: &Machine, pod: &Pod) {
    let namespace = pod.namespace().unwrap_or_default();
    let (name, node) = (pod.name_any(), &machine.options.node_name);
    let mut binding = Binding::default();
    binding.metadata.name = Some(name.clone());
    binding.metadata.namespace = Some(namespace.clone());
    // A precondition: not another pod of the same name.
    binding.metadata.uid = pod.uid();
    binding.target = ObjectReference {
        kind: Some("Node".to_owned()),
        name: Some(node.clone()),
        ..ObjectReference::default()
    };
    let api = machine.within::<Pod>(&namespace);
    let (mut back_off, parameters) = (BackOff::default(), PostParams::default());
    let at = loop {
        // What the kubelet tells once it has seen the binding comes later than this.
        let at = Timestamp::now();
        let call = api.create_subresource::<_, Value>("binding", &name, &parameters, &binding);
        match machine.calls.run(call).await {
            Ok(_) => break at,
            Err(error) if error.is_not_found() || error.is_conflict() => return,
            Err(error) => {
                tracing::debug!(pod = %name, %error, "a pod could not be bound yet");
                tokio::time::sleep(back_off.next()).await;
            }
        }
    };
    let message = format!("Successfully assigned {namespace}/{name} to {node}");
    let events = machine.events.component("default-scheduler");
    events.record_at(&pod.object_ref(&()), Happening::normal("Scheduled", message), at);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_only_what_nobody_else_does() {
        let pod = |spec: Value, meta: Value| -> Pod {
            let mut spec = spec;
            spec["containers"] = json!([]);
            serde_json::from_value(json!({ "metadata": meta, "spec": spec })).unwrap()
        };
        assert!(is_ours_to_schedule(&pod(json!({}), json!({}))));
        assert!(is_ours_to_schedule(&pod(json!({"schedulerName": "default-scheduler"}), json!({}))));
        for spec in [
            json!({"nodeName": "n"}),
            json!({"schedulerName": "mine"}),
            json!({"schedulingGates": [{"name": "wait"}]}),
        ] {
            assert!(!is_ours_to_schedule(&pod(spec.clone(), json!({}))), "{spec}");
        }
        let deleted = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert!(!is_ours_to_schedule(&pod(json!({}), deleted)));
    }
}
