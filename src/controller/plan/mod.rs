//! What to do next, from what is known: a pure function of the [`Brain`] and the time. It has the rules
//! for each claim here, those for its current exit in [`exit`], for older ones in [`drain`], and for who
//! gets a pod in [`queue`].
//!
//! Every condition on time goes through [`Plan::due`], which also notes when it will hold: nothing that
//! only time brings about can be forgotten.

mod drain;
mod exit;
mod queue;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::action::{Action, ClaimEnd, Now, PodEnd};
use super::backoff::LONGEST;
use super::brain::Brain;
use super::facts::PodFacts;
use super::patch::ClaimPatch;
use super::policy::Standing;
use super::writes::Held;
use crate::identity::Account;
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

/// The pods of one claim, by transition.
#[derive(Debug, Default)]
struct Exits(BTreeMap<i32, Arc<PodFacts>>);

impl Exits {
    fn current(&self, claim: &Claim) -> Option<&Arc<PodFacts>> {
        self.0.get(&claim.transition)
    }

    /// Older than the current one, newest first.
    fn older(&self, claim: &Claim) -> impl Iterator<Item = (i32, &Arc<PodFacts>)> {
        self.0.range(..claim.transition).rev().map(|(transition, pod)| (*transition, pod))
    }

    /// Whether there is one that the claim does not know of: then the claim that we know is old.
    fn is_ahead_of(&self, claim: &Claim) -> bool {
        self.0.keys().next_back().is_some_and(|newest| *newest > claim.transition)
    }
}

impl Brain {
    /// What to do now. Whatever it says is taken note of as being on its way, so each action must either
    /// be carried out and its result given to [`Brain::on_result`], or this leader must end.
    pub(super) fn plan(&mut self, now: Now) -> Plan {
        let mut plan = Plan::new(now);
        if !self.snapshot.is_complete() {
            return plan;
        }
        self.forget(now.mono);
        self.look_for_creations(&mut plan);

        let claims: Vec<Arc<Claim>> = self.snapshot.readable_claims().map(Arc::clone).collect();
        let pods: Vec<Arc<PodFacts>> = self.snapshot.pods.iter().map(Arc::clone).collect();
        let mut exits = by_claim(&pods);
        let none = Exits::default();
        let mut queue = Vec::new();
        let mut draining = Vec::new();
        for claim in &claims {
            let exits = exits.remove(claim.uid.as_str());
            if self.writes.is_gone(&claim.uid) {
                self.delete_orphans(exits.as_ref().unwrap_or(&none), &mut plan);
                continue;
            }
            let exits = exits.unwrap_or_default();
            let busy = match self.writes.claims.state(&claim.uid, now.mono) {
                Held::Free => false,
                Held::Note(until) => {
                    plan.wake_at(until);
                    // Only its place in the queue matters meanwhile.
                    if self.waits(claim, &exits, &mut plan) {
                        queue.push(Arc::clone(claim));
                    }
                    continue;
                }
                Held::Busy(until) => {
                    plan.wake_at(until);
                    true
                }
            };
            if busy || exits.is_ahead_of(claim) {
                continue;
            }
            if self.plan_claim(claim, &exits, &mut plan) {
                queue.push(Arc::clone(claim));
            }
            draining.push((Arc::clone(claim), exits));
        }
        for (uid, exits) in &exits {
            self.sweep(uid, exits, &mut plan);
        }
        let waiting = self.plan_queue(queue, &mut plan);
        for (claim, exits) in &draining {
            self.plan_older(claim, exits, &waiting, &mut plan);
        }
        plan
    }

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

    fn look_for_creations(&mut self, plan: &mut Plan) {
        let (due, next) = self.writes.due(plan.now.mono);
        plan.wake_at(next);
        for name in due {
            self.writes.looking(&name);
            plan.actions.push(Action::FindPod { name });
        }
    }

    /// Drops what no longer matters, now and then.
    fn forget(&mut self, now: Duration) {
        if now < self.forget_at {
            return;
        }
        self.forget_at = now + FORGET;
        self.blamed.retain(|_, since| *since + BLAMED > now);
        self.backoffs.forget(now);
        let pods = self.snapshot.pods.iter().filter_map(|pod| pod.view.binding.as_ref());
        let mut uids: BTreeSet<&str> = pods.map(|binding| binding.claim_uid.as_str()).collect();
        uids.extend(self.snapshot.claims.iter().map(|record| record.uid.as_str()));
        self.writes.prune(now, &uids);
        let claims = self.snapshot.readable_claims();
        let owners: BTreeSet<&Account> = claims.map(|claim| &claim.key.account).collect();
        self.policy.prune(&owners);
    }
}

/// The pods that serve claims, by the claim's uid.
fn by_claim(pods: &[Arc<PodFacts>]) -> BTreeMap<&str, Exits> {
    let mut exits: BTreeMap<&str, Exits> = BTreeMap::new();
    for pod in pods {
        if let Some(binding) = &pod.view.binding {
            exits.entry(&binding.claim_uid).or_default().0.insert(binding.transition, Arc::clone(pod));
        }
    }
    exits
}
