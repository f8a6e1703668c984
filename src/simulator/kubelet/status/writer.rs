//! Writes a pod's status to the API by a task of its own, so that an API server that is away holds
//! nothing up. Only changes are written, the newest wins, and what could not be written is written
//! later.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::simulator::kubelet::machine::{BackOff, Machine};

/// Writes the status of one pod. Dropped, it writes nothing more.
#[derive(Debug)]
pub(in crate::simulator::kubelet) struct Writer {
    wanted: watch::Sender<(u64, Option<Arc<PodStatus>>)>,
    written: watch::Receiver<u64>,
    _task: AbortOnDropHandle<()>,
}

/// Position of a writer that has no pod to write to any more.
const OVER: u64 = u64::MAX;

impl Writer {
    pub(in crate::simulator::kubelet) fn new(machine: &Arc<Machine>, pod: &Pod) -> Self {
        let (wanted, wanted_receiver) = watch::channel((0, None));
        let (written_sender, written) = watch::channel(0);
        let target = Target {
            machine: Arc::clone(machine),
            api: machine.within(&pod.namespace().unwrap_or_default()),
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
        };
        let task = machine.tasks.spawn(target.write(wanted_receiver, written_sender));
        Self { wanted, written, _task: AbortOnDropHandle::new(task) }
    }

    /// Has `status` written, if it is not the one that was wanted last.
    pub(in crate::simulator::kubelet) fn want(&self, status: PodStatus) {
        self.wanted.send_if_modified(|(position, wanted)| {
            if wanted.as_deref() == Some(&status) {
                return false;
            }
            *position += 1;
            *wanted = Some(Arc::new(status));
            true
        });
    }

    /// The status that was wanted last.
    pub(in crate::simulator::kubelet) fn wanted(&self) -> Option<Arc<PodStatus>> {
        self.wanted.borrow().1.clone()
    }

    /// Waits until the API has what was wanted last, or has no such pod.
    pub(in crate::simulator::kubelet) async fn flushed(&self) {
        let position = self.wanted.borrow().0;
        let mut written = self.written.clone();
        // An error means that the writer has ended: nothing more will be written.
        let _ = written.wait_for(|written| *written >= position).await;
    }
}

struct Target {
    machine: Arc<Machine>,
    api: Api<Pod>,
    name: String,
    uid: String,
}

enum Attempt {
    Done,
    NoSuchPod,
    Again,
}

impl Target {
    async fn write(
        self,
        mut wanted: watch::Receiver<(u64, Option<Arc<PodStatus>>)>,
        written: watch::Sender<u64>,
    ) {
        while wanted.changed().await.is_ok() {
            let mut back_off = BackOff::default();
            loop {
                let (position, status) = wanted.borrow_and_update().clone();
                let Some(status) = status else { break };
                match self.attempt(&status).await {
                    Attempt::Done => {
                        written.send_replace(position);
                        break;
                    }
                    Attempt::NoSuchPod => {
                        written.send_replace(OVER);
                        return;
                    }
                    Attempt::Again => tokio::time::sleep(back_off.next()).await,
                }
            }
        }
    }

    async fn attempt(&self, status: &PodStatus) -> Attempt {
        let patch = Patch::Merge(patch(&self.uid, status));
        let parameters = PatchParams::default();
        let written = self.api.patch_status(&self.name, &parameters, &patch);
        match self.machine.calls.run(written).await {
            Ok(_) => Attempt::Done,
            Err(error) if error.is_not_found() => Attempt::NoSuchPod,
            Err(error) if error.is_conflict() || error.is_invalid() => {
                // The uid in the patch is its precondition: is this still the pod?
                match self.machine.calls.run(self.api.get_opt(&self.name)).await {
                    Ok(Some(pod)) if pod.uid().as_ref() == Some(&self.uid) => {
                        if error.is_conflict() {
                            return Attempt::Again;
                        }
                        tracing::warn!(pod = %self.name, %error, "the API server refuses a pod's status");
                        Attempt::Done
                    }
                    Ok(_) => Attempt::NoSuchPod,
                    Err(_) => Attempt::Again,
                }
            }
            Err(error) => {
                tracing::debug!(pod = %self.name, %error, "a pod's status could not be written yet");
                Attempt::Again
            }
        }
    }
}

/// The merge patch for a status: what is not set is removed.
fn patch(uid: &str, status: &PodStatus) -> Value {
    let mut value = json!(status);
    if let Some(fields) = value.as_object_mut() {
        for field in ["reason", "message", "podIP", "podIPs"] {
            fields.entry(field).or_insert(Value::Null);
        }
    }
    json!({ "metadata": { "uid": uid }, "status": value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_removes_what_is_no_longer_so() {
        let value = patch("u", &PodStatus { message: Some("x".to_owned()), ..PodStatus::default() });
        assert_eq!((&value["metadata"]["uid"], &value["status"]["message"]), (&json!("u"), &json!("x")));
        for field in ["reason", "podIP", "podIPs"] {
            assert_eq!(value["status"].get(field), Some(&Value::Null), "{field}");
        }
    }
}
