//! The rules for a claim's current exit: starting, ready, failed, lost, or not there at all.

use std::sync::Arc;

use super::Plan;
use crate::controller::action::{Action, ClaimEnd, LostWhy, PodRef, Story};
use crate::controller::brain::{Brain, attempts, pod_ref};
use crate::controller::classify::{Verdict, judge, sentence};
use crate::controller::facts::PodFacts;
use crate::controller::observations::HadPod;
use crate::controller::patch::ClaimPatch;
use crate::controller::writes::Held;
use crate::selector::Mode;
use crate::session::FailureClass;
use crate::session::claim::{Claim, Reason, ReasonKind};
use crate::session::failure::code;
use crate::session::pod::pod_name;

/// Starts in a row, the first included: more do not fit into the time that a request is held.
const MAX_ATTEMPTS: u32 = 3;

impl Brain {
    /// A claim whose current pod is there.
    pub(super) fn plan_current(&mut self, claim: &Arc<Claim>, pod: &Arc<PodFacts>, plan: &mut Plan) {
        let seen = self.seen.pods.get(&pod.view.uid);
        let was_up = claim.ready == Some(claim.transition) || seen.is_some_and(|seen| seen.told_up);
        let maybe_used = was_up || seen.is_some_and(|seen| !seen.made);
        if let Some(seen) = self.seen.claims.get_mut(&claim.uid) {
            let (transition, server) = (claim.transition, pod.view.server.clone());
            seen.had_pod = Some(HadPod { transition, server, maybe_used });
            seen.refused = None;
        }
        let in_use = was_in_use(claim, maybe_used);
        if let Some(word) = claim.replace.as_ref().filter(|word| word.transition == claim.transition) {
            let why = LostWhy::parse(&word.why);
            // A pinned exit is never replaced, so its age does not matter.
            if !(claim.pinned && why == LostWhy::Expired) {
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
                if let Some(had) = self.seen.claims.get_mut(&claim.uid).and_then(|seen| seen.had_pod.as_mut())
                {
                    had.maybe_used = true;
                }
                if first && claim.ready != Some(claim.transition) {
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
        if was_in_use(claim, had.as_ref().is_some_and(|had| had.maybe_used)) {
            self.lose(claim, &pod(), LostWhy::Pod(FailureClass::Deleted), false, plan);
            return false;
        }
        if let Some(had) = had {
            self.fail(claim, &pod(), had.server.as_deref(), FailureClass::Deleted, plan);
            return false;
        }
        if let Some(refused) = seen.refused.clone() {
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
        // The same server again is worth a try only where it is not the one to blame.
        let retry = attempts < MAX_ATTEMPTS
            && class.another_server_may_help()
            && (!class.blames_server() || others());
        if self.first_told(claim) {
            self.tell(Story::Failed { pod: pod.clone(), claim: Arc::clone(claim), class, attempts, retry });
        }
        if !self.is_wanted(claim, plan) {
            self.delete_if_unwanted(claim, plan);
            return;
        }
        let reason = Reason {
            kind: if retry { ReasonKind::Retrying } else { ReasonKind::Rejected },
            code: class.as_str().to_owned(),
            message: sentence(class).to_owned(),
            transition: claim.transition,
            attempts,
            servers,
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

/// Whether the claim's current exit has been in use, for all that is known. It is pinned only once it is
/// up, so that a pinned one always has been. `maybe` when this leader has
/// seen its VPN up, or has not seen all of its pod's life. For a strict session that is enough, since
/// replicas may have used it before the claim could say so, and its address must not change; for others
/// it is a start that failed, and those are counted.
fn was_in_use(claim: &Claim, maybe: bool) -> bool {
    claim.ready == Some(claim.transition) || claim.pinned || (maybe && claim.key.mode == Mode::Strict)
}
