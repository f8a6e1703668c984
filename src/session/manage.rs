//! What the management API does to claims and pods: pin what it has started, destroy what it is told to.
//! Any replica may: a claim goes first, then the pod, and the leader sweeps up whatever is left between.

use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use tokio_util::task::TaskTracker;

use super::api::{ApiError, Verb, call};
use super::claim;
use super::ensure::{CALL_LIMIT, apply, delete_claim};
use super::pod::{POD_ID_LABEL, POD_SELECTOR, PodView, Stage};
use super::sessions::Sessions;
use super::start::{Kept, Started};
use super::view::Listed;

/// Grace period of a deleted pod, in seconds. Never 0: the VPN would outlive the object.
const GRACE: u32 = 5;

/// Longest value of a label.
const MAX_LABEL: usize = 63;

/// Does to claims and pods what the management API is asked to. Cheap to clone.
#[derive(Clone)]
pub struct Manager {
    sessions: Sessions,
    leases: Api<Lease>,
    pods: Api<Pod>,
    /// Deletions that nobody waits for, save for the end.
    giving_up: TaskTracker,
}

impl std::fmt::Debug for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manager").finish_non_exhaustive()
    }
}

impl Manager {
    /// One for that namespace. `client` has none of kube's own retries.
    pub fn new(sessions: Sessions, client: Client, namespace: &str) -> Self {
        let leases = Api::namespaced(client.clone(), namespace);
        let pods = Api::namespaced(client, namespace);
        Self { sessions, leases, pods, giving_up: TaskTracker::new() }
    }

    /// Pins the claim of a started pod: it then lives until it is destroyed.
    ///
    /// # Errors
    ///
    /// As [`ApiError`] says; [`ApiError::NotFound`] when the claim is gone.
    pub async fn pin(&self, started: &Started) -> Result<(), ApiError> {
        let shared = &self.sessions.0;
        let claim = &started.claim;
        let patch = claim::pinning(&claim.uid, shared.idle_timeout, SystemTime::now());
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        let pin = || {
            call(&shared.metrics, Verb::Patch, CALL_LIMIT, self.leases.patch(&claim.name, &params, &patch))
        };
        let pinned = match pin().await {
            Err(error) if error.is_ambiguous() => pin().await,
            other => other,
        };
        match pinned {
            Ok(lease) => {
                apply(shared, &lease);
                Ok(())
            }
            // The patch carries the uid: another claim of the same name.
            Err(ApiError::Invalid(_) | ApiError::Conflict) => Err(ApiError::NotFound),
            Err(error) => Err(error),
        }
    }

    /// Ends a pod that its client never heard of, in the background.
    pub fn give_up(&self, kept: Kept) {
        // Without a runtime the process is ending: the claim is pinned and stays, which the log must say.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            tracing::error!(session = kept.name, "a pod that nobody asked for is left behind");
            return;
        };
        let (shared, leases) = (Arc::clone(&self.sessions.0), self.leases.clone());
        let deletion = async move {
            let Kept { name, uid } = kept;
            if delete_claim(&shared, &leases, &name, Some(&uid)).await {
                shared.index().remove_claim(&shared.table, &name, &uid, false);
                tracing::info!(session = name, "the client left before it had its answer: pod given up");
            }
        };
        self.giving_up.spawn_on(deletion, &runtime);
    }

    /// Waits, at the end, until everything that was given up is deleted: what [`Manager::give_up`] has
    /// begun, and the claims of starts that were abandoned, since what looked after those has ended. Takes
    /// as long as the API server is away.
    pub async fn finish(&self) {
        let shared = &self.sessions.0;
        for entry in shared.table.all().into_iter().filter(|entry| entry.is_abandoned()) {
            let (shared, leases) = (Arc::clone(shared), self.leases.clone());
            self.giving_up.spawn(async move {
                if delete_claim(&shared, &leases, &entry.name, None).await {
                    tracing::info!(session = %entry.name, "start given up, claim deleted");
                }
            });
        }
        self.giving_up.close();
        self.giving_up.wait().await;
    }

    /// The pod of ours with that id, save for one that is ending: from what the watch has shown, else
    /// from the API, since another replica may have started it just now.
    ///
    /// # Errors
    ///
    /// As [`ApiError`] says.
    pub async fn find(&self, id: &str) -> Result<Option<Arc<PodView>>, ApiError> {
        if let Some(pod) = self.sessions.pods().into_iter().find(|pod| pod.public_id() == id) {
            return Ok(Some(pod));
        }
        let is_label = id.len() <= MAX_LABEL
            && id.starts_with(|c: char| c.is_ascii_alphanumeric())
            && id.ends_with(|c: char| c.is_ascii_alphanumeric())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if !is_label {
            return Ok(None);
        }
        let params = ListParams::default().labels(&format!("{POD_SELECTOR},{POD_ID_LABEL}={id}"));
        let list = || call(&self.sessions.0.metrics, Verb::List, CALL_LIMIT, self.pods.list(&params));
        let found = match list().await {
            Err(error) if error.is_ambiguous() => list().await?,
            other => other?,
        };
        let mut pods = found.items.iter().map(PodView::read);
        Ok(pods.find(|pod| pod.stage != Stage::Terminating).map(Arc::new))
    }

    /// Ends a pod, and the session that it serves: the claim first, so that nothing replaces it. An older
    /// exit of a session goes alone.
    ///
    /// # Errors
    ///
    /// As [`ApiError`] says. The claim may then be gone already, and the leader ends the pod.
    pub async fn destroy(&self, pod: &PodView) -> Result<(), ApiError> {
        let shared = &self.sessions.0;
        let superseded = |binding: &_| shared.index().is_superseded(binding);
        if let Some(binding) = pod.binding.as_ref().filter(|binding| !superseded(binding)) {
            self.end_claim(&binding.claim, &binding.claim_uid).await?;
        }
        self.end_pod(pod).await
    }

    /// Ends the session whose claim has that name, with all of its pods; or the pod without a session that
    /// has it. The names of the pods that go; none where there is neither.
    ///
    /// # Errors
    ///
    /// As [`ApiError`] says. Where the claim is gone already, the leader ends the pods.
    pub async fn end(&self, name: &str) -> Result<Option<Vec<String>>, ApiError> {
        let pods = match self.sessions.find(name) {
            Some(Listed::Session(view)) => {
                self.end_claim(&view.claim.name, &view.claim.uid).await?;
                view.pod.into_iter().chain(view.draining).collect()
            }
            Some(Listed::Pod(pod)) => vec![pod],
            None => return Ok(None),
        };
        for pod in &pods {
            self.end_pod(pod).await?;
        }
        Ok(Some(pods.iter().map(|pod| pod.name.clone()).collect()))
    }

    async fn end_claim(&self, name: &str, uid: &str) -> Result<(), ApiError> {
        let shared = &self.sessions.0;
        let params = DeleteParams::default()
            .preconditions(Preconditions { uid: Some(uid.to_owned()), resource_version: None });
        let delete = || call(&shared.metrics, Verb::Delete, CALL_LIMIT, self.leases.delete(name, &params));
        gone(match delete().await {
            Err(error) if error.is_ambiguous() => delete().await,
            other => other,
        })?;
        shared.index().remove_claim(&shared.table, name, uid, false);
        Ok(())
    }

    async fn end_pod(&self, pod: &PodView) -> Result<(), ApiError> {
        let shared = &self.sessions.0;
        let params = DeleteParams::default()
            .grace_period(GRACE)
            .preconditions(Preconditions { uid: Some(pod.uid.clone()), resource_version: None });
        let delete = || call(&shared.metrics, Verb::Delete, CALL_LIMIT, self.pods.delete(&pod.name, &params));
        gone(match delete().await {
            Err(error) if error.is_ambiguous() => delete().await,
            other => other,
        })?;
        shared.index().mark_destroyed(&shared.table, &pod.name, &pod.uid);
        Ok(())
    }
}

/// Not there, or another object of the same name: what was to be deleted is gone.
fn gone<T>(deleted: Result<T, ApiError>) -> Result<(), ApiError> {
    match deleted {
        Ok(_) | Err(ApiError::NotFound | ApiError::Conflict) => Ok(()),
        Err(error) => Err(error),
    }
}
