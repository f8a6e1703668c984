//! A pod of ours, as its API object tells it: which claim it serves, where it leaves from, and how far
//! it is. Read by the session table (every replica) and by the controller (the leader); written by
//! `controller::manifest`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::claim::pod_id;
use crate::identity::Account;
use crate::secret::Secret;

/// Label that every pod of ours wears, as in the original system.
pub const APP_LABEL: &str = "app";
/// Value of [`APP_LABEL`].
pub const APP_LABEL_VALUE: &str = "gluetun-vpn";
/// Label selector of the watches of pods.
pub const POD_SELECTOR: &str = "app=gluetun-vpn";
/// Label with the pod's id, as in the original system.
pub const POD_ID_LABEL: &str = "pod-id";
/// Name of the container.
pub const CONTAINER: &str = "gluetun";
/// Port of the pod's HTTP proxy.
pub const PROXY_PORT: u16 = 8888;
/// Port of the pod's health server.
pub const HEALTH_PORT: u16 = 9999;

/// Annotations of a pod.
pub mod annotation {
    /// Name of the claim.
    pub const CLAIM: &str = "gluetun-gateway/claim";
    /// Uid of the claim: a pod whose claim has another uid is an orphan.
    pub const CLAIM_UID: &str = "gluetun-gateway/claim-uid";
    /// Which exit of the claim it is.
    pub const TRANSITION: &str = "gluetun-gateway/transition";
    /// Hostname of the VPN server.
    pub const SERVER: &str = "gluetun-gateway/server";
    /// The server's key in the management API (`country-city-hostname`).
    pub const SERVER_KEY: &str = "gluetun-gateway/server-key";
    /// The country's name.
    pub const COUNTRY: &str = "gluetun-gateway/country";
    /// The city's name.
    pub const CITY: &str = "gluetun-gateway/city";
    /// The account.
    pub const ACCOUNT: &str = "gluetun-gateway/account";
}

/// Which claim a pod serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Name of the claim.
    pub claim: String,
    /// Uid of the claim.
    pub claim_uid: String,
    /// Which exit of the claim it is.
    pub transition: i32,
}

/// How far a pod is, by the states of its container before its phase: those are a second earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// No container runs yet.
    Pending,
    /// The container runs; its VPN may not be up.
    Running,
    /// Being deleted: whatever else its status says means nothing.
    Terminating,
    /// The container has ended, or the pod has failed (evicted, deadline).
    Ended,
}

/// A pod of ours.
#[derive(Clone, Debug)]
pub struct PodView {
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// Id that the management API knows it by: the `pod-id` label.
    pub id: String,
    /// Whose session it serves, by its annotation: an account or a share group.
    pub owner: Option<Account>,
    /// The claim, none for a foreign pod: one made by the original system, or edited by hand.
    pub binding: Option<Binding>,
    /// Hostname of the VPN server (annotation, else `SERVER_HOSTNAMES` of its environment).
    pub server: Option<String>,
    /// Key of the server in the management API (annotation), as it was when the pod was made.
    pub server_key: Option<String>,
    /// Country and city, for people.
    pub country: String,
    /// City, for people; empty where there is none.
    pub city: String,
    /// Address.
    pub ip: Option<IpAddr>,
    /// `HTTPPROXY_USER` of its environment.
    pub user: Option<String>,
    /// `HTTPPROXY_PASSWORD` of its environment.
    pub password: Option<Secret>,
    /// How far it is.
    pub stage: Stage,
    /// The kubelet says Ready.
    pub ready: bool,
    /// `status.phase`.
    pub phase: String,
    /// `status.phase` is Succeeded or Failed: it no longer counts against the limit.
    pub finished: bool,
    /// When it was created, by the API server's clock.
    pub created: Option<SystemTime>,
}

impl PodView {
    /// Reads a pod. Every pod that the watch's selector lets through can be read.
    pub fn read(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let name = meta.name.clone().unwrap_or_default();
        let empty = BTreeMap::new();
        let annotations = meta.annotations.as_ref().unwrap_or(&empty);
        let note = |key: &str| annotations.get(key).cloned();
        let env = |key: &str| container(pod).and_then(|c| env_value(c, key));
        let status = pod.status.as_ref();
        let phase = status.and_then(|s| s.phase.clone()).unwrap_or_default();
        let finished = phase == "Succeeded" || phase == "Failed";
        Self {
            owner: annotations.get(annotation::ACCOUNT).and_then(|name| Account::parse(name).ok()),
            binding: binding(&name, annotations),
            uid: meta.uid.clone().unwrap_or_default(),
            id: meta.labels.as_ref().and_then(|l| l.get(POD_ID_LABEL)).cloned().unwrap_or_default(),
            server: note(annotation::SERVER).or_else(|| env("SERVER_HOSTNAMES").filter(|s| !s.is_empty())),
            server_key: note(annotation::SERVER_KEY),
            country: note(annotation::COUNTRY).unwrap_or_default(),
            city: note(annotation::CITY).unwrap_or_default(),
            ip: status.and_then(|s| s.pod_ip.as_deref()).and_then(|ip| ip.parse().ok()),
            user: env("HTTPPROXY_USER"),
            password: env("HTTPPROXY_PASSWORD").map(Secret::from),
            stage: stage(pod, finished),
            ready: status.and_then(|s| s.conditions.as_ref()).is_some_and(|conditions| {
                conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
            }),
            phase,
            finished,
            created: meta.creation_timestamp.as_ref().map(|t| SystemTime::from(t.0)),
            name,
        }
    }

    /// The id by which the management API knows it: its label, else its name.
    pub fn public_id(&self) -> &str {
        if self.id.is_empty() { &self.name } else { &self.id }
    }

    /// Whether it counts against the limit: all but those that have finished, terminating ones included.
    pub fn is_live(&self) -> bool {
        !self.finished
    }
}

/// The states by which the leader counts pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PodState {
    /// No container runs yet.
    Pending,
    /// The container runs, its VPN is not up yet.
    Starting,
    /// The VPN is up.
    Ready,
    /// The VPN was up, and its health server says no.
    Unready,
    /// Being deleted.
    Terminating,
    /// Ended, and not deleted yet.
    Failed,
    /// Made by another system.
    Foreign,
}

impl PodState {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Starting,
        Self::Ready,
        Self::Unready,
        Self::Terminating,
        Self::Failed,
        Self::Foreign,
    ];

    /// The label of the metric.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Unready => "unready",
            Self::Terminating => "terminating",
            Self::Failed => "failed",
            Self::Foreign => "foreign",
        }
    }
}

/// The claim that a pod serves. Its name must be the one that follows from the claim's uid and the
/// transition, so a copied or edited pod is foreign and not taken for an exit.
fn binding(name: &str, annotations: &BTreeMap<String, String>) -> Option<Binding> {
    let binding = Binding {
        claim: annotations.get(annotation::CLAIM)?.clone(),
        claim_uid: annotations.get(annotation::CLAIM_UID)?.clone(),
        transition: annotations.get(annotation::TRANSITION)?.parse().ok()?,
    };
    (name == pod_name(&binding.claim_uid, binding.transition)).then_some(binding)
}

/// Name of the pod of `transition` of the claim with `uid`.
pub fn pod_name(uid: &str, transition: i32) -> String {
    format!("gluetun-{}", pod_id(uid, transition))
}

fn stage(pod: &Pod, finished: bool) -> Stage {
    if pod.metadata.deletion_timestamp.is_some() {
        return Stage::Terminating;
    }
    let state = pod
        .status
        .as_ref()
        .and_then(|s| s.container_statuses.as_ref())
        .and_then(|all| all.iter().find(|c| c.name == CONTAINER).or_else(|| all.first()))
        .and_then(|c| c.state.as_ref());
    match state {
        _ if finished => Stage::Ended,
        Some(state) if state.terminated.is_some() => Stage::Ended,
        Some(state) if state.running.is_some() => Stage::Running,
        _ => Stage::Pending,
    }
}

/// The Gluetun container: by name, else the first (as in pods of the original system).
pub fn container(pod: &Pod) -> Option<&Container> {
    let containers = &pod.spec.as_ref()?.containers;
    containers.iter().find(|c| c.name == CONTAINER).or_else(|| containers.first())
}

fn env_value(container: &Container, name: &str) -> Option<String> {
    container.env.as_ref()?.iter().find(|e| e.name == name)?.value.clone()
}
