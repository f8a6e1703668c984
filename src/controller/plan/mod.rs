//! What to do next, from what is known: a pure function of the [`Brain`] and the time. It has the rules
//! for each claim here, those for its current exit in [`exit`], for older ones in [`drain`], for who
//! gets a pod in [`queue`], and which of them are gone through in [`round`].
//!
//! Every condition on time goes through [`Plan::due`], which also notes when it will hold: nothing that
//! only time brings about can be forgotten.

mod drain;
mod exit;
mod queue;
mod round;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use super::action::{Action, ClaimEnd, Now, PodEnd};
use super::backoff::LONGEST;
use super::brain::Brain;
use super::facts::PodFacts;
use super::patch::ClaimPatch;
use super::policy::Standing;
use super::snapshot::Exits;
use super::writes::Held;
use crate::session::claim::{Claim, ReasonKind};
use crate::session::failure::code;
use crate::session::pod::Stage;

/// How long a rejected claim stays, so that whoever waits for it reads why, even if his watch has to
/// list again; and whoever asks again at once is told the same without another start.
const REJECTED_KEPT: Duration = Duration::from_secs(2);

/// The same for a claim whose request did not wait: whoever made it comes again, and is told then.
const REJECTED_KEPT_NO_WAIT: Duration = Duration::from_secs(10);

/// How exactly claims tell until when starts rest: in whole seconds, cut.
const TOLD_TO: Duration = Duration::from_secs(1);

/// How often what no longer matters is dropped.
const FORGET: Duration = Duration::from_secs(10);

/// How long a server that a start failed on is avoided where there are others.
pub(super) const BLAMED: Duration = Duration::from_secs(300);

/// What to do now, and when to look again.
#[derive(Debug)]
pub(super) struct Plan {
    now: Now,
    /// The actions, in order. They are already taken note of as being on their way.
    pub(super) actions: Vec<Action>,
    /// When to plan again if nothing happens before.
    pub(super) wake: Option<Duration>,
}

impl Plan {
    fn new(now: Now) -> Self {
        Self { now, actions: Vec::new(), wake: None }
    }

    /// Whether the moment `at` has come; if not, the plan is made again then.
    fn due(&mut self, at: Duration) -> bool {
        if at <= self.now.mono {
            return true;
        }
        self.wake_at(Some(at));
        false
    }

    fn wake_at(&mut self, at: Option<Duration>) {
        if let Some(at) = at.filter(|at| *at > self.now.mono) {
            self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
        }
    }
}

impl Brain {
    /// The rules for one claim, save for its older exits. Tells whether it waits for a pod.
    fn plan_claim(&mut self, claim: &Arc<Claim>, exits: &Exits, plan: &mut Plan) -> bool {
        match claim.reason.as_ref().map(|reason| reason.kind) {
            Some(ReasonKind::Rejected) => {
                self.give_up_pods(exits, plan);
                if plan.due(self.rejected_until(claim, plan.now)) {
                    self.delete_claim(claim, false, ClaimEnd::Rejected, plan);
                }
                return false;
            }
            Some(ReasonKind::Lost) => {
                if self.end_if_ownerless(claim, plan) {
                    return false;
                }
                self.give_up_pods(exits, plan);
                self.reap_if_idle(claim, plan);
                return false;
            }
            Some(ReasonKind::Waiting | ReasonKind::Retrying) | None => {}
        }
        if exits.current(claim).is_some() && self.end_if_ownerless(claim, plan) {
            return false;
        }
        match exits.current(claim) {
            Some(pod) => {
                let pod = Arc::clone(pod);
                self.plan_current(claim, &pod, plan);
                false
            }
            None if self.is_being_created(claim) => false,
            None => self.plan_absent(claim, plan),
        }
    }

    /// How long a rejected claim stays: one whose start failed, and after which starts rest, as long as
    /// they do. It is the record of that: replicas answer from it, and so does the next leader. Of a rest
    /// that goes on for longer than the one it tells of, another claim tells, and whoever asks for this
    /// session again shall hear of that one.
    fn rejected_until(&self, claim: &Claim, now: Now) -> Duration {
        let seen = self.seen.claims.get(&claim.uid).and_then(|seen| seen.rejected).unwrap_or(now.mono);
        let kept = seen + if claim.no_wait { REJECTED_KEPT_NO_WAIT } else { REJECTED_KEPT };
        let Some(reason) = claim.reason.as_ref() else { return kept };
        let told = reason.backoff.map(|backoff| backoff.until + TOLD_TO);
        let Some((told, (rest, _))) = told.zip(self.backoffs.resting(&claim.key.place, now.mono)) else {
            return kept;
        };
        let records = !claim.pinned && reason.code != code::START_BACKOFF;
        let kept = if records { kept.max(rest.min(seen + LONGEST)) } else { kept };
        let over = now.mono + told.duration_since(now.wall).unwrap_or_default();
        if over < rest { kept.min(over.max(seen + REJECTED_KEPT)) } else { kept }
    }

    /// Whether the creation of the claim's current pod is on its way, or not yet shown.
    fn is_being_created(&self, claim: &Claim) -> bool {
        self.seen.claims.get(&claim.uid).is_some_and(|seen| self.writes.is_creating(&seen.pod_name))
    }

    /// Whether a claim waits for a pod and somebody wants it, nothing else being the matter with it.
    fn waits(&self, claim: &Claim, exits: &Exits, plan: &mut Plan) -> bool {
        let Some(seen) = self.seen.claims.get(&claim.uid) else { return false };
        exits.current(claim).is_none()
            && !exits.is_ahead_of(claim)
            && !self.is_being_created(claim)
            && claim.ready != Some(claim.transition)
            && seen.refused.is_none()
            && seen.had_pod.as_ref().is_none_or(|had| had.transition != claim.transition)
            && claim
                .reason
                .as_ref()
                .is_none_or(|r| matches!(r.kind, ReasonKind::Waiting | ReasonKind::Retrying))
            && seen.wanted_until(claim).is_some_and(|until| !plan.due(until))
    }

    /// Idle: unrenewed for its duration by the clock, and seen so for half of it. Tells whether it goes.
    fn reap_if_idle(&mut self, claim: &Arc<Claim>, plan: &mut Plan) -> bool {
        if claim.pinned {
            return false;
        }
        let Some(seen) = self.seen.claims.get(&claim.uid) else { return false };
        let end = claim.renewed + claim.duration;
        let by_clock = plan.now.mono + end.duration_since(plan.now.wall).map_or(Duration::ZERO, |left| left);
        if plan.due(seen.quiet_from(claim).max(by_clock)) {
            self.delete_claim(claim, true, ClaimEnd::Idle, plan);
            return true;
        }
        false
    }

    /// Ends a session whose account is gone, once its time to drain is over. Tells whether it goes.
    fn end_if_ownerless(&mut self, claim: &Arc<Claim>, plan: &mut Plan) -> bool {
        let drain = self.settings.account_drain;
        match self.policy.standing(&claim.key.account, drain, plan.now.mono) {
            Standing::Unknown(end) if plan.due(end) => {
                self.delete_claim(claim, false, ClaimEnd::AccountGone, plan);
                true
            }
            Standing::Known | Standing::Unknown(_) => false,
        }
    }

    /// Pods whose claim is not there. A look at the API decides, since the watch of claims may be behind.
    fn sweep(&mut self, claim_uid: &str, exits: &Exits, plan: &mut Plan) {
        if self.writes.is_gone(claim_uid) {
            self.delete_orphans(exits, plan);
            return;
        }
        let binding = exits.0.values().find_map(|pod| pod.view.binding.as_ref());
        let Some(name) = binding.map(|binding| binding.claim.clone()) else { return };
        if self.snapshot.has_claim(&name, claim_uid) {
            // A Lease that cannot be read: not ours to judge, and its pods are not orphans.
            return;
        }
        if self.writes.claims.state(claim_uid, plan.now.mono) == Held::Busy(None) {
            // Its end is the effect of a call of ours whose answer is about to tell.
            return;
        }
        match self.writes.lookups.state(claim_uid, plan.now.mono) {
            Held::Free => {
                self.writes.lookups.begin(claim_uid, false);
                plan.actions.push(Action::FindClaim { name, uid: claim_uid.to_owned() });
            }
            Held::Note(until) | Held::Busy(until) => plan.wake_at(until),
        }
    }

    fn delete_orphans(&mut self, exits: &Exits, plan: &mut Plan) {
        for pod in exits.0.values() {
            self.delete_pod(pod, PodEnd::NoClaim, plan);
        }
    }

    fn give_up_pods(&mut self, exits: &Exits, plan: &mut Plan) {
        for pod in exits.0.values() {
            self.delete_pod(pod, PodEnd::GivenUp, plan);
        }
    }

    fn delete_pod(&mut self, pod: &PodFacts, why: PodEnd, plan: &mut Plan) {
        if pod.view.stage == Stage::Terminating {
            return;
        }
        let (name, uid) = (pod.view.name.clone(), pod.view.uid.clone());
        match self.writes.pods.state(&uid, plan.now.mono) {
            Held::Free => {
                self.writes.pods.begin(&uid, false);
                plan.actions.push(Action::DeletePod { name, uid, why });
            }
            Held::Note(until) | Held::Busy(until) => plan.wake_at(until),
        }
    }

    fn delete_claim(&mut self, claim: &Arc<Claim>, unless_changed: bool, why: ClaimEnd, plan: &mut Plan) {
        self.writes.claims.begin(&claim.uid, false);
        plan.actions.push(Action::DeleteClaim { claim: Arc::clone(claim), unless_changed, why });
    }

    fn patch_claim(&mut self, claim: &Arc<Claim>, patch: ClaimPatch, plan: &mut Plan) {
        let note = matches!(&patch, ClaimPatch::Reason(reason) if reason.kind == ReasonKind::Waiting);
        self.writes.claims.begin(&claim.uid, note);
        plan.actions.push(Action::PatchClaim { claim: Arc::clone(claim), patch });
    }
}
