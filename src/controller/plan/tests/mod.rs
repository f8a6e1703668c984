//! Each rule of the plan by itself. The model holds them together.

mod accounts;
mod backoff;
mod claims;
mod exits;
mod pods;

use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::controller::action::{Action, Answer, ClaimEnd, Now, Outcome, PodEnd};
use crate::controller::brain::{Brain, Settings};
use crate::controller::classify::Patience;
use crate::controller::facts::{ClaimRecord, PodFacts};
use crate::controller::patch::ClaimPatch;
use crate::controller::snapshot::Change;
use crate::controller::testing;
use crate::session::claim::{Claim, Reason, ReasonKind};
use crate::session::pod::Stage;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A leader whose cluster is under the test's control.
struct Lab {
    brain: Brain,
    /// Seconds since the start.
    now: u64,
}

impl Lab {
    /// A leader with that limit, four servers in each of two countries, and an empty cluster.
    fn new(limit: usize) -> Self {
        let mut lab = Self::blank(limit, 4);
        for change in [Change::Restarted, Change::Complete] {
            lab.brain.on_pod(change, lab.time());
        }
        for change in [Change::Restarted, Change::Complete] {
            lab.brain.on_claim(change, lab.time());
        }
        lab
    }

    /// A leader that has not listed anything yet.
    fn blank(limit: usize, servers: usize) -> Self {
        let settings = Settings {
            limit,
            patience: Patience { attempt: s(20), start: s(90) },
            drain: s(25),
            account_drain: s(25),
        };
        let brain = Brain::new(settings, testing::catalogue(servers), StdRng::seed_from_u64(7));
        Self { brain, now: 0 }
    }

    fn time(&self) -> Now {
        Now { mono: s(self.now), wall: testing::wall() + s(self.now) }
    }

    fn see(&mut self, claim: &Claim) {
        self.brain.on_claim(Change::Applied(record(claim)), self.time());
    }

    fn see_pod(&mut self, pod: &PodFacts) {
        self.brain.on_pod(Change::Applied(Arc::new(pod.clone())), self.time());
    }

    fn see_pod_gone(&mut self, pod: &PodFacts) {
        let (name, uid) = (pod.view.name.clone(), pod.view.uid.clone());
        self.brain.on_pod(Change::Deleted { name, uid }, self.time());
    }

    /// What is planned at that second.
    fn plan_at(&mut self, now: u64) -> Vec<Action> {
        self.now = now;
        self.plan()
    }

    fn plan(&mut self) -> Vec<Action> {
        let time = self.time();
        self.brain.plan_and_compare(time).unwrap().actions
    }

    /// The one action that is planned at that second.
    fn one_at(&mut self, now: u64) -> Action {
        let mut actions = self.plan_at(now);
        assert_eq!(actions.len(), 1, "{actions:#?}");
        actions.remove(0)
    }

    fn end(&mut self, action: &Action, outcome: Outcome) {
        let time = self.time();
        self.brain.on_result(action, &outcome, time);
    }

    /// Carries a patch out as the API would, and shows the claim as it then is.
    fn patched(&mut self, action: &Action) -> Claim {
        let Action::PatchClaim { claim, patch } = action else { panic!("{action:?}") };
        let mut claim = Claim::clone(claim);
        patch.apply(&mut claim);
        let version: u64 = claim.resource_version.parse().unwrap();
        claim.resource_version = (version + 1).to_string();
        self.end(action, Ok(Answer::Patched { resource_version: claim.resource_version.clone() }));
        self.see(&claim);
        claim
    }

    /// A wanted claim whose pod runs and is ready, as both know.
    fn ready(&mut self, canonical: &str) -> (Claim, PodFacts) {
        self.ready_with(testing::claim(&testing::key(canonical), canonical))
    }

    fn ready_with(&mut self, mut claim: Claim) -> (Claim, PodFacts) {
        claim.ready = Some(claim.transition);
        let pod = ready_pod(&claim);
        self.see(&claim);
        self.see_pod(&pod);
        (claim, pod)
    }
}

fn record(claim: &Claim) -> Arc<ClaimRecord> {
    let (name, uid) = (claim.name.clone(), claim.uid.clone());
    Arc::new(ClaimRecord { name, uid, claim: Ok(Arc::new(claim.clone())) })
}

/// The claim after a write of another's.
fn changed(claim: &Claim, change: impl FnOnce(&mut Claim)) -> Claim {
    let mut claim = claim.clone();
    let version: u64 = claim.resource_version.parse().unwrap();
    claim.resource_version = (version + 1).to_string();
    change(&mut claim);
    claim
}

/// The claim after a replica's renewal at that second.
fn renewed(claim: &Claim, at: u64) -> Claim {
    changed(claim, |claim| claim.renewed = testing::wall() + s(at))
}

fn claim(canonical: &str) -> Claim {
    testing::claim(&testing::key(canonical), canonical)
}

fn pod_of(claim: &Claim, stage: Stage) -> PodFacts {
    testing::pod(claim, &format!("{}/{}", claim.uid, claim.transition), stage)
}

fn ready_pod(claim: &Claim) -> PodFacts {
    let mut pod = pod_of(claim, Stage::Running);
    pod.view.ready = true;
    pod
}

fn reason(action: &Action) -> &Reason {
    match action {
        Action::PatchClaim { patch: ClaimPatch::Reason(reason), .. } => reason,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn assert_next(action: &Action, attempts: Option<u32>) {
    match action {
        Action::PatchClaim { patch: ClaimPatch::Next { reason }, .. } => {
            assert_eq!(reason.as_ref().map(|reason| reason.attempts), attempts);
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn assert_reason(action: &Action, kind: ReasonKind, code: &str) {
    let reason = reason(action);
    assert_eq!((reason.kind, reason.code.as_str()), (kind, code));
}

#[track_caller]
fn assert_claim_deleted(action: &Action, unless_changed: bool, why: ClaimEnd) {
    match action {
        Action::DeleteClaim { unless_changed: u, why: w, .. } => assert_eq!((*u, *w), (unless_changed, why)),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn assert_pod_deleted(action: &Action, pod: &PodFacts, why: PodEnd) {
    match action {
        Action::DeletePod { uid, why: w, .. } => assert_eq!((uid, *w), (&pod.view.uid, why)),
        other => panic!("{other:?}"),
    }
}

fn created(action: &Action) -> (&str, &str) {
    match action {
        Action::CreatePod(new) => (new.claim.uid.as_str(), new.server.hostname.as_str()),
        other => panic!("{other:?}"),
    }
}
