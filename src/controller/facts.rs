//! What the controller decides on: pods and claims, digested once when the watch brings them. Beside
//! what [`PodView`] tells everyone, a pod's start can fail in ways that only the leader looks at.

use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;

use crate::session::claim::Claim;
use crate::session::pod::{CONTAINER, PodView};

/// A named object of the cluster, as the snapshot keeps it.
pub(super) trait Record {
    /// `metadata.name`.
    fn name(&self) -> &str;
    /// `metadata.uid`.
    fn uid(&self) -> &str;
}

/// A state with a reason, as container statuses and conditions have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Why {
    /// `reason`: one word.
    pub(super) reason: String,
    /// `message`: for people; may hold names of the cluster, so it goes to the gateway's log only.
    pub(super) message: String,
}

/// How the container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// `OOMKilled`, `StartError`, `Error`, `Completed`, …
    pub(super) reason: String,
    /// Exit code.
    pub(super) exit_code: i32,
}

/// A pod of ours, with what tells why it does not start.
#[derive(Clone, Debug)]
pub(super) struct PodFacts {
    /// What everyone sees of it.
    pub(super) view: PodView,
    /// The condition `PodScheduled=False` with reason `Unschedulable`.
    pub(super) unschedulable: Option<Why>,
    /// The container's waiting state.
    pub(super) waiting: Option<Why>,
    /// The container's terminated state.
    pub(super) ended: Option<Ended>,
    /// The pod's own `status.reason`: `Evicted`, `DeadlineExceeded`, `OutOfcpu`, …
    pub(super) status: Option<Why>,
}

impl PodFacts {
    /// Reads a pod.
    pub(super) fn read(pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        let container = status
            .and_then(|s| s.container_statuses.as_ref())
            .and_then(|all| all.iter().find(|c| c.name == CONTAINER).or_else(|| all.first()));
        let state = container.and_then(|c| c.state.as_ref());
        let unschedulable = status.and_then(|s| s.conditions.as_ref()).and_then(|conditions| {
            let found = conditions.iter().find(|c| {
                c.type_ == "PodScheduled"
                    && c.status == "False"
                    && c.reason.as_deref() == Some("Unschedulable")
            })?;
            Some(why(found.reason.as_ref(), found.message.as_ref()))
        });
        Self {
            view: PodView::read(pod),
            unschedulable,
            waiting: state
                .and_then(|s| s.waiting.as_ref())
                .map(|w| why(w.reason.as_ref(), w.message.as_ref())),
            ended: state
                .and_then(|s| s.terminated.as_ref())
                .map(|t| Ended { reason: t.reason.clone().unwrap_or_default(), exit_code: t.exit_code }),
            status: status.filter(|s| s.reason.is_some()).map(|s| why(s.reason.as_ref(), s.message.as_ref())),
        }
    }

    /// Whether it takes room and a server as `before` did, the same pod of the same session.
    pub(super) fn takes_the_place_of(&self, before: &Self) -> bool {
        let (now, before) = (&self.view, &before.view);
        now.uid == before.uid
            && now.is_live() == before.is_live()
            && now.server == before.server
            && now.owner == before.owner
            && now.binding == before.binding
    }

    /// Servers that the pod may be connected to: one, or several for a pod of the original system.
    pub(super) fn servers(&self) -> impl Iterator<Item = &str> {
        self.view.server.as_deref().unwrap_or_default().split(',').map(str::trim).filter(|s| !s.is_empty())
    }
}

fn why(reason: Option<&String>, message: Option<&String>) -> Why {
    Why { reason: reason.cloned().unwrap_or_default(), message: message.cloned().unwrap_or_default() }
}

impl Record for PodFacts {
    fn name(&self) -> &str {
        &self.view.name
    }

    fn uid(&self) -> &str {
        &self.view.uid
    }
}

/// A `Lease` with a claim's label. One that cannot be read as a claim is kept all the same: as long as it
/// exists, its pods are not taken for orphans.
#[derive(Clone, Debug)]
pub(super) struct ClaimRecord {
    /// Name of the Lease.
    pub(super) name: String,
    /// Uid of the Lease.
    pub(super) uid: String,
    /// The claim, or why it is none.
    pub(super) claim: Result<Arc<Claim>, String>,
}

impl ClaimRecord {
    /// Reads a Lease.
    pub(super) fn read(lease: &Lease) -> Self {
        Self {
            name: lease.metadata.name.clone().unwrap_or_default(),
            uid: lease.metadata.uid.clone().unwrap_or_default(),
            claim: Claim::read(lease).map(Arc::new).map_err(|error| error.to_string()),
        }
    }
}

impl Record for ClaimRecord {
    fn name(&self) -> &str {
        &self.name
    }

    fn uid(&self) -> &str {
        &self.uid
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::session::pod::Stage;

    fn pod(status: serde_json::Value) -> PodFacts {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "gluetun-x", "uid": "u"},
            "spec": {"containers": [{
                "name": "gluetun",
                "env": [{"name": "SERVER_HOSTNAMES", "value": "se-1, se-2"}],
            }]},
            "status": status,
        }))
        .unwrap();
        PodFacts::read(&pod)
    }

    #[test]
    fn states_of_the_container_are_read() {
        let waiting = pod(json!({"phase": "Pending", "containerStatuses": [{
            "name": "gluetun", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}},
        }]}));
        assert_eq!(waiting.waiting.unwrap().reason, "ErrImagePull");
        let ended = pod(json!({"phase": "Running", "containerStatuses": [{
            "name": "gluetun", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}},
        }]}));
        assert_eq!(ended.ended, Some(Ended { reason: "OOMKilled".into(), exit_code: 137 }));
        assert_eq!(ended.view.stage, Stage::Ended);
        assert!(ended.view.is_live(), "it counts until its phase says that it has finished");
    }

    #[test]
    fn unschedulable_is_a_condition_and_eviction_a_reason_of_the_pod() {
        let facts = pod(json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"},
        ]}));
        assert_eq!(facts.unschedulable.unwrap().message, "0/1 nodes");
        let facts = pod(json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}));
        assert_eq!(facts.status.unwrap().reason, "Evicted");
    }

    #[test]
    fn a_pod_of_the_original_may_name_several_servers() {
        assert_eq!(pod(json!({})).servers().collect::<Vec<_>>(), ["se-1", "se-2"]);
    }
}
