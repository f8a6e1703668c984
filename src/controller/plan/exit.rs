//! The rules for a claim's current exit: starting, ready, failed, lost, or not there at all.

use std::sync::Arc;

use super::{BLAMED, Plan};
use crate::controller::action::{Action, ClaimEnd, LostWhy, PodRef, Story};
use crate::controller::backoff::{Row, shared_cause};
use crate::controller::brain::{Brain, attempts, pod_ref};
use crate::controller::classify::{Verdict, judge, sentence};
use crate::controller::facts::PodFacts;
use crate::controller::observations::HadPod;
use crate::controller::patch::ClaimPatch;
use crate::controller::writes::Held;
use crate::selector::Mode;
use crate::session::FailureClass;
use crate::session::claim::{Backoff, Claim, Reason, ReasonKind};
use crate::session::failure::code;
use crate::session::pod::{PodState, pod_name};

/// Starts in a row, the first included: more do not fit into the time that a request is held.
const MAX_ATTEMPTS: u32 = 3;

impl Brain {
    /// A claim whose current pod is there.
    pub(super) fn plan_current(&mut self, claim: &Arc<Claim>, pod: &Arc<PodFacts>, plan: &mut Plan) {
        let seen = self.seen.pods.get(&pod.view.uid);
        let in_use = was_in_use(claim);
        let was_up = in_use || seen.is_some_and(|seen| seen.told_up);
        let first = seen.map_or(plan.now.mono, |seen| seen.first);
        if let Some(seen) = self.seen.claims.get_mut(&claim.uid) {
            let (transition, server) = (claim.transition, pod.view.server.clone());
            seen.had_pod = Some(HadPod { transition, server, first });
            seen.refused = None;
        }
        if let Some(word) = claim.replace.as_ref().filter(|word| word.transition == claim.transition) {
            let why = LostWhy::parse(&word.why);
            // A pinned exit is never replaced, so its age does not matter.
            if !(claim.pinned && why == LostWhy::Expired) {
                if let Some(server) = pod.view.server.clone().filter(|_| why == LostWhy::Dead) {
                    // What takes its place goes to another, even once this pod is gone.
                    self.blamed.insert(server, plan.now.mono);
                }
                self.lose(claim, &pod_ref(pod), why, true, plan);
                return;
            }
        }
        if self.end_if_expired(claim, plan) {
            return;
        }
        if self.is_forbidden(claim, pod) {
            self.lose(claim, &pod_ref(pod), LostWhy::Forbidden, true, plan);
            return;
        }
        let Some(seen) = self.seen.pods.get_mut(&pod.view.uid) else { return };
        match judge(pod, seen, was_up, plan.now.mono, self.settings.patience) {
            Verdict::Up => {
                let after = plan.now.mono.saturating_sub(seen.first);
                let first = !std::mem::replace(&mut seen.told_up, true);
                if first {
                    self.count(pod);
                }
                // One that the claim says was up before this leader saw it says nothing of starts now.
                if first && claim.ready != Some(claim.transition) {
                    if let Some(server) = pod.view.server.as_deref() {
                        self.backoffs.came_up(server, &self.catalogue);
                    }
                    self.tell(Story::Ready { pod: pod_ref(pod), claim: Arc::clone(claim), after });
                }
                if self.reap_if_idle(claim, plan) || claim.ready == Some(claim.transition) {
                    return;
                }
                let patch = ClaimPatch::Ready {
                    holder: pod.view.name.clone(),
                    acquired: plan.now.wall,
                    expires: claim.ttl.map(|ttl| plan.now.wall + ttl),
                };
                self.patch_claim(claim, patch, plan);
            }
            Verdict::Wait(next) => {
                plan.wake_at(next);
                self.reap_if_idle(claim, plan);
            }
            Verdict::AskLog => self.ask(pod, true, plan),
            Verdict::AskWarning => {
                seen.warned = Some(plan.now.mono);
                self.ask(pod, false, plan);
            }
            Verdict::Failed(class) if in_use => {
                self.lose(claim, &pod_ref(pod), LostWhy::Pod(class), false, plan);
            }
            Verdict::Failed(class) => {
                self.fail(claim, &pod_ref(pod), pod.view.server.as_deref(), class, plan);
            }
        }
    }

    /// Whether the claim's owner may no longer have an exit on the pod's server. Of a server that the list
    /// does not have any more nothing is known, nor anything by a list that only stands in.
    fn is_forbidden(&self, claim: &Claim, pod: &PodFacts) -> bool {
        if self.catalogue.is_stand_in() {
            return false;
        }
        let server = pod.view.server.as_deref().and_then(|hostname| self.catalogue.by_hostname(hostname));
        server.is_some_and(|server| !self.policy.allows(&claim.key.account, server))
    }

    fn ask(&mut self, pod: &PodFacts, log: bool, plan: &mut Plan) {
        let (name, uid) = (pod.view.name.clone(), pod.view.uid.clone());
        match self.writes.pods.state(&uid, plan.now.mono) {
            Held::Free => {
                self.writes.pods.begin(&uid, false);
                plan.actions.push(if log {
                    Action::ReadLog { pod: name, uid }
                } else {
                    Action::ReadWarning { pod: name, uid }
                });
            }
            Held::Note(until) | Held::Busy(until) => plan.wake_at(until),
        }
    }

    /// A claim whose current pod is not there and is not being created. Tells whether it waits for one.
    pub(super) fn plan_absent(&mut self, claim: &Arc<Claim>, plan: &mut Plan) -> bool {
        let Some(seen) = self.seen.claims.get(&claim.uid) else { return false };
        let pod = || PodRef { name: pod_name(&claim.uid, claim.transition), uid: String::new() };
        let had = seen.had_pod.clone().filter(|had| had.transition == claim.transition);
        if was_in_use(claim) {
            self.lose(claim, &pod(), LostWhy::Pod(FailureClass::Deleted), false, plan);
            return false;
        }
        if let Some(had) = had {
            self.fail(claim, &pod(), had.server.as_deref(), FailureClass::Deleted, plan);
            return false;
        }
        if let Some(mut refused) = seen.refused.clone() {
            if let Some(class) = FailureClass::parse(&refused.code) {
                if self.first_told(claim) {
                    self.rest(claim, (class, sentence(class)), false, plan);
                }
                refused.backoff = self.resting(claim, plan);
            }
            self.patch_claim(claim, ClaimPatch::Reason(refused), plan);
            return false;
        }
        if self.is_wanted(claim, plan) {
            return true;
        }
        self.delete_if_unwanted(claim, plan);
        false
    }

    /// An exit that was in use is lost, or must be replaced. `asked` when a replica wants another.
    fn lose(&mut self, claim: &Arc<Claim>, pod: &PodRef, why: LostWhy, asked: bool, plan: &mut Plan) {
        if self.first_told(claim) {
            self.tell(Story::Lost { pod: pod.clone(), claim: Arc::clone(claim), why });
        }
        // Nobody could ask for another: its owner knows the credentials of that very pod.
        if claim.pinned || claim.key.account.is_api() {
            self.delete_claim(claim, true, ClaimEnd::PinnedLost, plan);
            return;
        }
        // Its age is the client's own wish; anything else would change the address behind his back.
        if claim.key.mode == Mode::Strict && why != LostWhy::Expired {
            let reason = Reason {
                kind: ReasonKind::Lost,
                code: code::EXIT_LOST.to_owned(),
                message: "the exit of this session is lost; use a new session to accept another".to_owned(),
                transition: claim.transition,
                attempts: 0,
                servers: Vec::new(),
                backoff: None,
            };
            self.patch_claim(claim, ClaimPatch::Reason(reason), plan);
        } else if asked || self.is_wanted(claim, plan) {
            self.patch_claim(claim, ClaimPatch::Next { reason: None }, plan);
        } else {
            self.delete_if_unwanted(claim, plan);
        }
    }

    /// A start failed.
    fn fail(
        &mut self,
        claim: &Arc<Claim>,
        pod: &PodRef,
        server: Option<&str>,
        class: FailureClass,
        plan: &mut Plan,
    ) {
        let (before, servers) = attempts(claim);
        let attempts = before + 1;
        let mut servers = servers.to_vec();
        if let Some(server) = server {
            if !servers.iter().any(|known| known == server) {
                servers.push(server.to_owned());
            }
            if class.blames_server() {
                self.blamed.insert(server.to_owned(), plan.now.mono);
            }
        }
        let others = || {
            let mut candidates = self.catalogue.candidates(&claim.key.place);
            candidates.any(|candidate| {
                !servers.iter().any(|tried| tried == candidate.hostname.as_str())
                    && self.policy.allows(&claim.key.account, candidate)
            })
        };
        let others = !class.blames_server() || others();
        let first = self.first_told(claim);
        if let Some(server) = server.filter(|_| first) {
            self.backoffs.start_failed(server, class, &self.catalogue, plan.now.mono);
        }
        let pools = self.backoffs.is_pools(class) || self.backoffs.fails_alike(&self.catalogue);
        let shared = shared_cause(class).filter(|_| pools && !self.is_any_up());
        // The same server again is worth a try only where it is not the one to blame, and none where it is
        // what all of them share.
        let retry = attempts < MAX_ATTEMPTS && class.another_server_may_help() && others && shared.is_none();
        let words = shared.unwrap_or(sentence(class));
        if first {
            self.tell(Story::Failed { pod: pod.clone(), claim: Arc::clone(claim), class, attempts, retry });
            if !retry {
                self.rest(claim, (class, words), shared.is_some(), plan);
            }
        }
        if !self.is_wanted(claim, plan) {
            self.delete_if_unwanted(claim, plan);
            return;
        }
        let reason = Reason {
            kind: if retry { ReasonKind::Retrying } else { ReasonKind::Rejected },
            code: class.as_str().to_owned(),
            message: words.to_owned(),
            transition: claim.transition,
            attempts,
            servers,
            backoff: self.resting(claim, plan).filter(|_| !retry),
        };
        let patch =
            if retry { ClaimPatch::Next { reason: Some(reason) } } else { ClaimPatch::Reason(reason) };
        self.patch_claim(claim, patch, plan);
    }

    /// Ends a session of the management API whose exit is past its `ttl`: there are no new requests that
    /// could be given another exit. Tells whether it does.
    fn end_if_expired(&mut self, claim: &Arc<Claim>, plan: &mut Plan) -> bool {
        let Some(expires) = claim.expires.filter(|_| claim.key.account.is_api()) else { return false };
        let left = expires.duration_since(plan.now.wall).unwrap_or_default();
        if plan.due(plan.now.mono + left) {
            self.delete_claim(claim, false, ClaimEnd::Expired, plan);
            return true;
        }
        false
    }

    /// The rest that starts of the claim's location are in.
    fn resting(&self, claim: &Claim, plan: &Plan) -> Option<Backoff> {
        self.backoffs.resting(&claim.key.place, plan.now.mono).map(|(_, (backoff, ..))| backoff)
    }

    /// A row of starts has failed for good: the location rests, or the whole pool.
    fn rest(&mut self, claim: &Arc<Claim>, last: (FailureClass, &'static str), shared: bool, plan: &Plan) {
        let (place, now) = (&claim.key.place, plan.now);
        let lately = |server: &str| self.blamed.get(server).is_some_and(|at| *at + BLAMED > now.mono);
        let exhausted = !last.0.blames_server()
            || self.catalogue.candidates(place).all(|server| lately(server.hostname.as_str()));
        // What no server helps with is the pool's at once.
        let pool = shared || !last.0.another_server_may_help();
        let had = self.seen.claims.get(&claim.uid).and_then(|seen| seen.had_pod.as_ref());
        let begun = had.filter(|had| had.transition == claim.transition).map_or(now.mono, |had| had.first);
        let row = Row { begun, last, exhausted };
        if let Some(backoff) = self.backoffs.row_failed(place, row, pool, now) {
            self.tell(Story::Resting { claim: Arc::clone(claim), class: last.0, backoff });
        }
    }

    /// Whether any exit of ours is up: then the key and the subscription work.
    fn is_any_up(&self) -> bool {
        self.census().of(PodState::Ready) > 0
    }

    /// Whether somebody is seen to want the claim's exit.
    fn is_wanted(&self, claim: &Claim, plan: &mut Plan) -> bool {
        let until = self.seen.claims.get(&claim.uid).and_then(|seen| seen.wanted_until(claim));
        until.is_some_and(|until| !plan.due(until))
    }

    /// Deletes a claim without an exit once nobody has been seen to want it for long enough; a pinned one
    /// stays for as long as its owner wants to wait for it.
    fn delete_if_unwanted(&mut self, claim: &Arc<Claim>, plan: &mut Plan) {
        let Some(seen) = self.seen.claims.get(&claim.uid) else { return };
        if plan.due(seen.unwanted_from(claim)) {
            self.delete_claim(claim, true, ClaimEnd::Unwanted, plan);
        }
    }

    /// Whether the end of the claim's current exit has not been told yet.
    fn first_told(&mut self, claim: &Claim) -> bool {
        let Some(seen) = self.seen.claims.get_mut(&claim.uid) else { return false };
        seen.told.replace(claim.transition) != Some(claim.transition)
    }
}

/// Whether the claim's current exit has been in use. A pinned one always has: it is pinned only once it is
/// up. For a strict session it is sure, since replicas hand its exit out only once the claim says that it is
/// ready; for others it may have been a moment earlier, and counts as a start that failed.
fn was_in_use(claim: &Claim) -> bool {
    claim.ready == Some(claim.transition) || claim.pinned
}
