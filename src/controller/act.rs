//! Carries the plan's actions out against the API: one call each, with its own deadline.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Client;
use kube::api::{
    Api, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams, Preconditions, ResourceExt,
};
use tracing::{info, warn};

use super::TARGET;
use super::action::{Action, Answer, NewPod, Outcome};
use super::classify::{from_log, from_warning};
use super::manifest::{self, Credentials};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::session::api::{ApiError, Verb, call};
use crate::session::pod::CONTAINER;

/// For one write, or the read that a decision waits for. It begins only if leadership lasts as long.
pub(super) const CALL: Duration = Duration::from_secs(3);

/// For a log or the warnings about a pod: they only make a verdict more precise.
const DETAIL: Duration = Duration::from_secs(2);

/// Grace period of a deleted pod. Never 0: the VPN would outlive the object, with its key and server.
const GRACE: u32 = 5;

/// As much of a failed pod's log as is read: its last lines, one of which may name every server.
const LOG_LINES: i64 = 50;
const LOG_BYTES: i64 = 64 * 1024;

/// Warnings about one pod that are looked at.
const WARNINGS: u32 = 100;

/// The API, as far as the controller uses it.
#[derive(Clone)]
pub(super) struct Actor {
    pods: Api<Pod>,
    claims: Api<Lease>,
    events: Api<Event>,
    config: Arc<Config>,
    metrics: Arc<Metrics>,
}

impl Actor {
    pub(super) fn new(client: &Client, config: Arc<Config>, metrics: Arc<Metrics>) -> Self {
        let namespace = config.namespace.as_str();
        Self {
            pods: Api::namespaced(client.clone(), namespace),
            claims: Api::namespaced(client.clone(), namespace),
            events: Api::namespaced(client.clone(), namespace),
            config,
            metrics,
        }
    }

    /// Carries an action out.
    pub(super) async fn perform(&self, action: &Action) -> Outcome {
        match action {
            Action::CreatePod(new) => self.create_pod(new).await,
            Action::FindPod { name } => found(self.call(Verb::Get, self.pods.get_opt(name)).await),
            Action::DeletePod { name, uid, .. } => {
                let params = DeleteParams::default()
                    .grace_period(GRACE)
                    .preconditions(Preconditions { uid: Some(uid.clone()), resource_version: None });
                self.call(Verb::Delete, self.pods.delete(name, &params)).await.map(|_| Answer::Deleted)
            }
            Action::PatchClaim { claim, patch } => {
                let (params, patch) = (PatchParams::default(), Patch::Merge(patch.json(claim)));
                let patched = self.call(Verb::Patch, self.claims.patch(&claim.name, &params, &patch)).await?;
                Ok(Answer::Patched { resource_version: patched.resource_version().unwrap_or_default() })
            }
            Action::DeleteClaim { claim, unless_changed, .. } => {
                let params = DeleteParams::default().preconditions(Preconditions {
                    uid: Some(claim.uid.clone()),
                    resource_version: unless_changed.then(|| claim.resource_version.clone()),
                });
                let delete = self.claims.delete(&claim.name, &params);
                self.call(Verb::Delete, delete).await.map(|_| Answer::Deleted)
            }
            Action::FindClaim { name, .. } => found(self.call(Verb::Get, self.claims.get_opt(name)).await),
            Action::ReadLog { pod, .. } => self.read_log(pod).await,
            Action::ReadWarning { pod, uid } => self.read_warning(pod, uid).await,
        }
    }

    async fn call<T>(
        &self,
        verb: Verb,
        future: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ApiError> {
        call(&self.metrics, verb, CALL, future).await
    }

    async fn create_pod(&self, new: &NewPod) -> Outcome {
        let pod = manifest::pod(
            &self.config,
            &new.claim,
            new.claim.transition,
            &new.server,
            &Credentials::random(),
        );
        let params = PostParams::default();
        let pod = self.call(Verb::Create, self.pods.create(&params, &pod)).await?;
        Ok(Answer::Created { uid: pod.uid().unwrap_or_default() })
    }

    async fn read_log(&self, pod: &str) -> Outcome {
        let params = LogParams {
            container: Some(CONTAINER.to_owned()),
            tail_lines: Some(LOG_LINES),
            limit_bytes: Some(LOG_BYTES),
            ..LogParams::default()
        };
        let text = call(&self.metrics, Verb::Get, DETAIL, self.pods.logs(pod, &params)).await?;
        let (class, shown) = from_log(&text);
        if let Some(shown) = shown {
            info!(target: TARGET, pod, error = shown, "the pod's own last error");
        }
        Ok(Answer::Cause(class))
    }

    async fn read_warning(&self, pod: &str, uid: &str) -> Outcome {
        let params = ListParams::default().fields(&format!("involvedObject.uid={uid}")).limit(WARNINGS);
        let list = call(&self.metrics, Verb::List, DETAIL, self.events.list(&params)).await?;
        let about = |event: &&Event| {
            event.involved_object.uid.as_deref() == Some(uid) && event.type_.as_deref() == Some("Warning")
        };
        let time = |event: &Event| {
            let series = event.series.as_ref().and_then(|s| s.last_observed_time.as_ref()).map(|t| t.0);
            let last = event.last_timestamp.as_ref().map(|t| t.0);
            series.or(last).or(event.event_time.as_ref().map(|t| t.0))
        };
        let Some(newest) = list.items.iter().filter(about).max_by_key(|event| time(event)) else {
            return Ok(Answer::Cause(None));
        };
        let reason = newest.reason.as_deref().unwrap_or_default();
        let message = newest.message.as_deref().unwrap_or_default();
        let shown: String = message.chars().filter(|c| !c.is_control()).take(300).collect();
        warn!(target: TARGET, pod, reason, message = shown, "the pod's container does not come");
        Ok(Answer::Cause(from_warning(reason, message)))
    }
}

fn found<T: ResourceExt>(result: Result<Option<T>, ApiError>) -> Outcome {
    Ok(Answer::Found(result?.and_then(|object| object.uid())))
}
