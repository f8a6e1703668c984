//! The model's API server: claims and pods with uids, resource versions and preconditions, and what its
//! watches tell, in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::world::{Event, World};
use crate::controller::action::{Action, Answer, ClaimEnd, Outcome};
use crate::controller::facts::{ClaimRecord, PodFacts};
use crate::controller::patch::ClaimPatch;
use crate::controller::snapshot::Change;
use crate::selector::Mode;
use crate::session::FailureClass;
use crate::session::api::{ApiError, ForbiddenKind};
use crate::session::claim::{Claim, ReasonKind};
use crate::session::failure::code;
use crate::session::pod::{Binding, PodView, Stage};

/// Which of the two watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Feed {
    Pods,
    Claims,
}

/// A pod as it is.
#[derive(Clone, Debug)]
pub(super) struct Pod {
    pub(super) facts: PodFacts,
    /// Made by a gateway.
    pub(super) ours: bool,
    /// Its health server says 200.
    pub(super) healthy: bool,
    /// Its tunnel is silent, and its health server says so.
    pub(super) silent: bool,
}

/// The API server.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) claims: BTreeMap<String, Claim>,
    pub(super) pods: BTreeMap<String, Pod>,
    pub(super) pod_log: Vec<Change<PodFacts>>,
    pub(super) claim_log: Vec<Change<ClaimRecord>>,
    /// Pods that the namespace's quota allows.
    pub(super) quota: Option<usize>,
    version: u64,
}

impl Api {
    pub(super) fn new(quota: Option<usize>) -> Self {
        Self {
            claims: BTreeMap::new(),
            pods: BTreeMap::new(),
            pod_log: Vec::new(),
            claim_log: Vec::new(),
            quota,
            version: 100,
        }
    }

    fn version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    pub(super) fn pod_by_uid(&self, uid: &str) -> Option<&Pod> {
        self.pods.values().find(|pod| pod.facts.view.uid == uid)
    }
}

pub(super) fn record(claim: &Claim) -> Arc<ClaimRecord> {
    let (name, uid) = (claim.name.clone(), claim.uid.clone());
    Arc::new(ClaimRecord { name, uid, claim: Ok(Arc::new(claim.clone())) })
}

impl World {
    /// Writes a claim: a new one, or a change.
    pub(super) fn put_claim(&mut self, mut claim: Claim) -> String {
        let version = self.api.version();
        claim.resource_version.clone_from(&version);
        self.api.claim_log.push(Change::Applied(record(&claim)));
        self.api.claims.insert(claim.name.clone(), claim);
        self.announce(Feed::Claims);
        version
    }

    pub(super) fn remove_claim(&mut self, name: &str) {
        self.check_quotas();
        if let Some(claim) = self.api.claims.remove(name) {
            self.api.claim_log.push(Change::Deleted { name: claim.name, uid: claim.uid });
            self.announce(Feed::Claims);
        }
    }

    /// Writes a pod: a new one, or a change.
    pub(super) fn put_pod(&mut self, pod: Pod) {
        self.api.pod_log.push(Change::Applied(Arc::new(pod.facts.clone())));
        self.api.pods.insert(pod.facts.view.name.clone(), pod);
        self.announce(Feed::Pods);
        self.check_pods();
    }

    pub(super) fn remove_pod(&mut self, name: &str) {
        self.check_quotas();
        if let Some(pod) = self.api.pods.remove(name) {
            let view = pod.facts.view;
            self.api.pod_log.push(Change::Deleted { name: view.name, uid: view.uid });
            self.announce(Feed::Pods);
        }
    }

    /// Changes a pod's state, if it is still there and not on its way out.
    pub(super) fn change_pod(&mut self, uid: &str, change: impl FnOnce(&mut Pod)) {
        let Some(mut pod) = self.api.pod_by_uid(uid).cloned() else { return };
        if pod.facts.view.stage != Stage::Terminating {
            change(&mut pod);
            self.put_pod(pod);
        }
    }

    /// A DELETE of a pod: it goes on terminating for a while.
    pub(super) fn delete_pod(&mut self, name: &str) {
        let Some(mut pod) = self.api.pods.get(name).cloned() else { return };
        if pod.facts.view.stage == Stage::Terminating {
            return;
        }
        let uid = pod.facts.view.uid.clone();
        if pod.facts.view.finished {
            self.remove_pod(name);
            return;
        }
        pod.facts.view.stage = Stage::Terminating;
        self.put_pod(pod);
        let gone = self.millis(500, 3000);
        self.after(gone, Event::Pod { uid, step: super::kubelet::Step::Gone });
    }

    /// A leader's call takes effect, or is refused.
    pub(super) fn serve(&mut self, action: &Action) -> Outcome {
        match action {
            Action::CreatePod(new) => {
                if self.api.pods.contains_key(&new.name) {
                    self.counts.count("creation of what exists");
                    return Err(ApiError::AlreadyExists);
                }
                let live = self.api.pods.values().filter(|pod| pod.facts.view.is_live()).count();
                if self.api.quota.is_some_and(|quota| live >= quota) {
                    self.counts.count("quota reached");
                    return Err(ApiError::Forbidden(ForbiddenKind::Quota, "exceeded quota: q".into()));
                }
                if self.is_removed(&new.claim.key.account) {
                    self.fail(format!("{} gets a pod, and its account is gone", new.claim.key));
                }
                let uid = format!("pod-{}", self.number());
                let binding = Binding {
                    claim: new.claim.name.clone(),
                    claim_uid: new.claim.uid.clone(),
                    transition: new.claim.transition,
                };
                let mut facts = new_pod(&new.name, &uid, Some(binding), new.server.hostname.as_str());
                facts.view.owner = Some(new.claim.key.account.clone());
                self.counts.count("pod created");
                self.put_pod(Pod { facts, ours: true, healthy: false, silent: false });
                self.start_pod(&uid);
                Ok(Answer::Created { uid })
            }
            Action::FindPod { name } => {
                Ok(Answer::Found(self.api.pods.get(name).map(|pod| pod.facts.view.uid.clone())))
            }
            Action::DeletePod { name, uid, .. } => {
                let found = self.api.pods.get(name).map(|pod| pod.facts.view.uid == *uid);
                match found {
                    None => return Err(ApiError::NotFound),
                    Some(false) => return Err(ApiError::Conflict),
                    Some(true) => self.delete_pod(name),
                }
                Ok(Answer::Deleted)
            }
            Action::PatchClaim { claim: seen, patch } => {
                let Some(mut claim) = self.api.claims.get(&seen.name).cloned() else {
                    return Err(ApiError::NotFound);
                };
                if claim.resource_version != seen.resource_version {
                    return Err(ApiError::Conflict);
                }
                self.count_patch(patch);
                if let ClaimPatch::Reason(reason) = patch {
                    match reason.code.as_str() {
                        code::ACCOUNT_QUOTA => self.check_over_quota(&claim, reason.kind),
                        code::ACCOUNT_UNKNOWN => self.counts.count("removed account refused"),
                        _ => {}
                    }
                }
                self.check_patch(&claim, seen, patch);
                patch.apply(&mut claim);
                Ok(Answer::Patched { resource_version: self.put_claim(claim) })
            }
            Action::DeleteClaim { claim: seen, unless_changed, why } => {
                let Some(claim) = self.api.claims.get(&seen.name).cloned() else {
                    return Err(ApiError::NotFound);
                };
                if claim.uid != seen.uid {
                    return Err(ApiError::Conflict);
                }
                if *unless_changed && claim.resource_version != seen.resource_version {
                    if *why == ClaimEnd::Idle && claim.renewed != seen.renewed {
                        self.counts.count("renewal that won against a reaping");
                    }
                    return Err(ApiError::Conflict);
                }
                self.check_reaping(&claim, *why);
                self.remove_claim(&seen.name);
                Ok(Answer::Deleted)
            }
            Action::FindClaim { name, .. } => {
                Ok(Answer::Found(self.api.claims.get(name).map(|claim| claim.uid.clone())))
            }
            Action::ReadLog { .. } => {
                Ok(Answer::Cause(if self.chance(0.5) { Some(FailureClass::BadServer) } else { None }))
            }
            Action::ReadWarning { .. } => Ok(Answer::Cause(None)),
        }
    }

    fn count_patch(&mut self, patch: &ClaimPatch) {
        match patch {
            ClaimPatch::Ready { .. } => {}
            ClaimPatch::Next { reason: Some(_) } => self.counts.count("start retried"),
            ClaimPatch::Next { reason: None } => self.counts.count("exit replaced"),
            ClaimPatch::Reason(reason) => match reason.kind {
                ReasonKind::Waiting => self.counts.count("claim told to wait"),
                ReasonKind::Retrying => {}
                ReasonKind::Rejected => self.counts.count("claim rejected"),
                ReasonKind::Lost => self.counts.count("exit lost for good"),
            },
        }
    }

    /// A change may only be about the exit that is still the current one, and a strict session whose exit
    /// has been used must not get another behind its back.
    fn check_patch(&mut self, claim: &Claim, seen: &Claim, patch: &ClaimPatch) {
        if claim.transition != seen.transition {
            self.fail(format!("{}/{} is changed for what it was before", claim.name, claim.transition));
        }
        let next = matches!(patch, ClaimPatch::Next { .. });
        let expired =
            claim.replace.as_ref().is_some_and(|r| r.transition == claim.transition && r.why == "expired");
        let used = (claim.uid.clone(), claim.transition);
        let used = self.sessions.iter().any(|session| session.used.as_ref() == Some(&used));
        if next && used && !expired && claim.key.mode == Mode::Strict {
            self.fail(format!("{} is strict and gets another exit", claim.name));
        }
    }

    /// No session that is in use may be reaped, and none that is waited for given up.
    fn check_reaping(&mut self, claim: &Claim, why: ClaimEnd) {
        if why == ClaimEnd::AccountGone {
            self.counts.count("session of a removed account ended");
            if claim.key.account.as_str() != "c" {
                self.fail(format!("{} is deleted, and its account is there", claim.key));
            }
        }
        let uses = self.sessions.iter().flat_map(|session| &session.uses);
        let used = uses.filter(|used| used.claim.as_deref() == Some(claim.uid.as_str()));
        let last = used.map(|used| used.renewed).max();
        let Some(last) = last else {
            match why {
                ClaimEnd::Idle => self.counts.count("claim reaped as idle"),
                ClaimEnd::Unwanted => self.counts.count("unwanted claim deleted"),
                ClaimEnd::Rejected | ClaimEnd::PinnedLost | ClaimEnd::Expired | ClaimEnd::AccountGone => {}
            }
            return;
        };
        let wrong = match why {
            ClaimEnd::Idle => true,
            // Who could not renew for so long because the API server was away has to begin anew.
            ClaimEnd::Unwanted => self.now - last < Duration::from_secs(14),
            ClaimEnd::Rejected | ClaimEnd::PinnedLost | ClaimEnd::Expired | ClaimEnd::AccountGone => false,
        };
        if wrong {
            self.fail(format!("{} ({}) is in use and was deleted: {why:?}", claim.name, claim.key));
        }
    }

    /// A foreign pod comes, or goes.
    pub(super) fn foreign(&mut self) {
        let name = "gluetun-foreign".to_owned();
        if self.api.pods.contains_key(&name) {
            self.remove_pod(&name);
        } else if !self.is_calm() {
            let uid = format!("pod-{}", self.number());
            let mut facts = new_pod(&name, &uid, None, "se-1");
            facts.view.stage = Stage::Running;
            self.say(|| "a foreign pod on se-1".to_owned());
            self.put_pod(Pod { facts, ours: false, healthy: true, silent: false });
        }
        if !self.is_quiet() {
            let wait = self.millis(10_000, 60_000);
            self.after(wait, Event::Foreign);
        }
    }
}

fn new_pod(name: &str, uid: &str, binding: Option<Binding>, server: &str) -> PodFacts {
    PodFacts {
        view: PodView {
            name: name.to_owned(),
            uid: uid.to_owned(),
            id: String::new(),
            owner: None,
            binding,
            server: Some(server.to_owned()),
            server_key: None,
            country: String::new(),
            city: String::new(),
            ip: None,
            user: None,
            password: None,
            stage: Stage::Pending,
            ready: false,
            phase: String::new(),
            finished: false,
            created: None,
        },
        unschedulable: None,
        waiting: None,
        ended: None,
        status: None,
    }
}
