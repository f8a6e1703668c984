//! Who gets a pod, and on which server; and what those are told who have to wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::RngExt;

use super::{BLAMED, Plan};
use crate::controller::action::{Action, NewPod};
use crate::controller::backoff::{Gate, Told, Trial};
use crate::controller::brain::{Brain, attempts};
use crate::controller::classify::sentence;
use crate::controller::patch::ClaimPatch;
use crate::controller::policy::{Sessions, Standing};
use crate::controller::writes::Held;
use crate::identity::Account;
use crate::servers::Server;
use crate::session::FailureClass;
use crate::session::claim::{Backoff, Claim, Reason, ReasonKind};
use crate::session::failure::code;

/// Claims that may wait for a pod at once, in all and for one account.
const MAX_WAITING: usize = 256;
const MAX_WAITING_OF_ACCOUNT: usize = 32;

/// After how many failed creations in a row those who wait are told: one alone is soon made good.
const FAILURES_TOLD: u32 = 2;

/// What a claim is given.
enum Choice {
    /// This server.
    Server(Arc<Server>),
    /// Nothing now: each of its servers is in use by another pod.
    InUse,
    /// Nothing ever: the list has no such server.
    None,
    /// Nothing: its account may use none of its servers.
    Forbidden,
}

impl Brain {
    /// Gives pods to claims, oldest first, for as long as there is room. Tells (by uid) which are left waiting
    /// for what another pod holds: room below the limit, or its server.
    pub(super) fn plan_queue(&mut self, mut queue: Vec<Arc<Claim>>, plan: &mut Plan) -> BTreeSet<String> {
        let mut pressed = BTreeSet::new();
        if queue.is_empty() {
            return pressed;
        }
        queue.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
        let limit = self.settings.limit;
        let unseen = self.writes.places(|name| self.snapshot.pod(name).is_some_and(|pod| pod.view.is_live()));
        let mut used = self.snapshot.live() + unseen.len();
        // Beside the servers of live pods, foreign ones' too.
        let mut taken: BTreeSet<String> =
            unseen.iter().map(|server| server.hostname.as_str().to_owned()).collect();
        let mut sessions = self.sessions(&queue);
        let mut waiting = 0;
        let mut of_account: BTreeMap<Account, usize> = BTreeMap::new();
        for claim in queue {
            let tried = match self.gate(&claim, plan) {
                Gate::Open => None,
                Gate::Resting(told) => {
                    self.tell_rest(&claim, &told, plan);
                    continue;
                }
                Gate::OnTrial((backoff, class, words)) => {
                    Some((code::START_BACKOFF, backoff.message(class.as_str(), words)))
                }
            };
            // It has a place already, and its server: that of a creation which may yet take effect.
            let Some(name) = self.seen.claims.get(&claim.uid).map(|seen| seen.pod_name.clone()) else {
                continue;
            };
            if let Some(server) = self.writes.ghost(&name).filter(|_| tried.is_none()) {
                self.create_or_wait(&claim, name, server, plan);
                continue;
            }
            let owner = claim.key.account.clone();
            if self.is_over_quota(&claim, &sessions, plan) {
                continue;
            }
            let unknown = match self.policy.standing(&owner, self.settings.account_drain, plan.now.mono) {
                Standing::Known => None,
                Standing::Unknown(end) if plan.due(end) => {
                    let text = "the account is gone";
                    self.tell_claim(&claim, ReasonKind::Rejected, code::ACCOUNT_UNKNOWN, text, plan);
                    continue;
                }
                Standing::Unknown(_) => {
                    let text = "the leader does not know this account, or knows it no longer".to_owned();
                    Some((code::ACCOUNT_UNKNOWN, text))
                }
            };
            let why = match unknown.or(tried).or_else(|| self.refusal_to_all(plan)) {
                Some(why) => Some(why),
                None if used >= limit => {
                    pressed.insert(claim.uid.clone());
                    Some((code::CAPACITY_FULL, format!("INSTANCE_LIMIT reached: {used} of {limit} pods")))
                }
                None if self.catalogue.is_empty() => {
                    let text = "the server list has not been loaded yet".to_owned();
                    Some((FailureClass::NoServer.as_str(), text))
                }
                None => match self.choose(&claim, &taken, plan) {
                    Choice::Server(server) => {
                        let hostname = server.hostname.as_str().to_owned();
                        if self.create_or_wait(&claim, name, server, plan) {
                            sessions.add(&owner, &claim.name);
                            taken.insert(hostname);
                            used += 1;
                        }
                        continue;
                    }
                    Choice::InUse => {
                        pressed.insert(claim.uid.clone());
                        let text = "every server of this place is in use by another exit".to_owned();
                        Some((code::SERVER_IN_USE, text))
                    }
                    Choice::Forbidden => {
                        let text = "this account may use no server of this place";
                        self.tell_claim(&claim, ReasonKind::Rejected, code::LOCATION_FORBIDDEN, text, plan);
                        continue;
                    }
                    Choice::None => {
                        let class = FailureClass::NoServer;
                        self.tell_claim(&claim, ReasonKind::Rejected, class.as_str(), sentence(class), plan);
                        continue;
                    }
                },
            };
            let Some((code, message)) = why else { continue };
            let mine = of_account.entry(claim.key.account.clone()).or_default();
            if waiting >= MAX_WAITING || *mine >= MAX_WAITING_OF_ACCOUNT {
                let text = if waiting >= MAX_WAITING {
                    format!("{MAX_WAITING} sessions wait for an exit already")
                } else {
                    format!("{MAX_WAITING_OF_ACCOUNT} sessions of this account wait for an exit already")
                };
                self.tell_claim(&claim, ReasonKind::Rejected, code::QUEUE_FULL, &text, plan);
                continue;
            }
            waiting += 1;
            *mine += 1;
            self.tell_claim(&claim, ReasonKind::Waiting, code, &message, plan);
        }
        pressed
    }

    /// The sessions of those owners of the queue's claims that are limited: those with a pod, whatever its
    /// state, until it is gone; those that may have one for all that is known; and those that have had one and
    /// go on, so that nobody loses his place while his exit is replaced.
    fn sessions(&self, queue: &[Arc<Claim>]) -> Sessions {
        let mut sessions = Sessions::default();
        let owners: BTreeSet<&Account> = queue.iter().map(|claim| &claim.key.account).collect();
        for owner in owners.into_iter().filter(|owner| self.policy.max_sessions(owner).is_some()) {
            for claim in self.snapshot.served(owner) {
                sessions.add(owner, claim);
            }
            for claim in self.writes.claims_of_creations().filter(|claim| claim.key.account == *owner) {
                sessions.add(owner, &claim.name);
            }
            for claim in self.snapshot.claims_of(owner).filter(|claim| !self.writes.is_gone(&claim.uid)) {
                let ends = claim
                    .reason
                    .as_ref()
                    .is_some_and(|r| matches!(r.kind, ReasonKind::Rejected | ReasonKind::Lost));
                if (claim.ready.is_some() || claim.transition > 0) && !ends {
                    sessions.add(owner, &claim.name);
                }
            }
        }
        sessions
    }

    /// Whether the claim's owner has as many sessions as it may; then those who wait are told so at once:
    /// a session ends when it is idle, and nobody can say when that will be.
    fn is_over_quota(&mut self, claim: &Arc<Claim>, sessions: &Sessions, plan: &mut Plan) -> bool {
        let owner = &claim.key.account;
        let Some(most) = self.policy.max_sessions(owner) else { return false };
        let used = sessions.beside(owner, &claim.name);
        if used < most {
            return false;
        }
        let text = format!("max_sessions reached: {used} of {most} sessions of '{owner}' have an exit");
        self.tell_claim(claim, ReasonKind::Rejected, code::ACCOUNT_QUOTA, &text, plan);
        true
    }

    /// What keeps everyone from getting a pod, beside the limit: a quota. After its pause one pod is tried,
    /// and the rest follow when that has worked.
    fn refusal_to_all(&self, plan: &mut Plan) -> Option<(&'static str, String)> {
        let (until, _) = self.quota?;
        if plan.due(until) && !self.writes.is_creating_any() {
            return None;
        }
        Some((code::QUOTA_FULL, "a ResourceQuota of the namespace is reached".to_owned()))
    }

    /// Creates the claim's pod, unless its last try has failed just now. Tells whether it does.
    fn create_or_wait(
        &mut self,
        claim: &Arc<Claim>,
        name: String,
        server: Arc<Server>,
        plan: &mut Plan,
    ) -> bool {
        let retry = self.seen.claims.get(&claim.uid).and_then(|seen| seen.retry);
        if let Some((at, failures)) = retry
            && !plan.due(at)
        {
            if failures >= FAILURES_TOLD {
                let text = "the Kubernetes API does not create pods at present";
                self.tell_claim(claim, ReasonKind::Waiting, code::UNAVAILABLE, text, plan);
            }
            return false;
        }
        self.backoffs.begins(&claim.key.place, &claim.name, &claim.uid);
        self.writes.creating(&name, Arc::clone(claim), Arc::clone(&server), plan.now.mono);
        plan.actions.push(Action::CreatePod(NewPod { name, claim: Arc::clone(claim), server }));
        true
    }

    /// A server for the claim: at random among the best of those that are free. Better is one that has not
    /// failed in this row of starts, then one that no start has failed on lately.
    fn choose(&mut self, claim: &Claim, taken: &BTreeSet<String>, plan: &Plan) -> Choice {
        let tried = attempts(claim).1;
        let (mut any, mut forbidden) = (false, false);
        let mut best: (usize, Vec<&Arc<Server>>) = (usize::MAX, Vec::new());
        for server in self.catalogue.candidates(&claim.key.place) {
            if !self.policy.allows(&claim.key.account, server) {
                forbidden = true;
                continue;
            }
            any = true;
            let hostname = server.hostname.as_str();
            if taken.contains(hostname) || self.snapshot.is_in_use(hostname) {
                continue;
            }
            let blamed = self.blamed.get(hostname).is_some_and(|since| *since + BLAMED > plan.now.mono);
            let rank = match (tried.iter().any(|server| server == hostname), blamed) {
                (false, false) => 0,
                (false, true) => 1,
                (true, _) => 2,
            };
            if rank < best.0 {
                best = (rank, Vec::new());
            }
            if rank == best.0 {
                best.1.push(server);
            }
        }
        let candidates = best.1;
        if candidates.is_empty() {
            return match (any, forbidden) {
                (true, _) => Choice::InUse,
                (false, true) => Choice::Forbidden,
                (false, false) => Choice::None,
            };
        }
        let at = self.rng.random_range(0..candidates.len());
        candidates.get(at).map_or(Choice::None, |server| Choice::Server(Arc::clone(server)))
    }

    /// Whether the claim may start, as far as starts there fail.
    fn gate(&self, claim: &Claim, plan: &Plan) -> Gate {
        let lives = |trial: &Trial| {
            self.snapshot.claim(&trial.name, &trial.uid).is_some_and(|claim| {
                !self.writes.is_gone(&claim.uid)
                    && claim.ready != Some(claim.transition)
                    && claim.reason.as_ref().is_none_or(|reason| {
                        matches!(reason.kind, ReasonKind::Waiting | ReasonKind::Retrying)
                    })
            })
        };
        self.backoffs.gate(&claim.key.place, &claim.uid, plan.now.mono, lives)
    }

    /// Tells those who wait for the claim that starts there rest.
    fn tell_rest(&mut self, claim: &Arc<Claim>, told: &Told, plan: &mut Plan) {
        let (backoff, class, words) = told;
        let message = backoff.message(class.as_str(), words);
        self.tell_claim_with(
            claim,
            ReasonKind::Rejected,
            code::START_BACKOFF,
            &message,
            Some(*backoff),
            plan,
        );
    }

    /// Tells those who wait for the claim why, unless they know.
    fn tell_claim(
        &mut self,
        claim: &Arc<Claim>,
        kind: ReasonKind,
        code: &str,
        message: &str,
        plan: &mut Plan,
    ) {
        self.tell_claim_with(claim, kind, code, message, None, plan);
    }

    fn tell_claim_with(
        &mut self,
        claim: &Arc<Claim>,
        kind: ReasonKind,
        code: &str,
        message: &str,
        backoff: Option<Backoff>,
        plan: &mut Plan,
    ) {
        if claim.reason.as_ref().is_some_and(|known| known.kind == kind && known.code == code) {
            return;
        }
        if self.writes.claims.state(&claim.uid, plan.now.mono) != Held::Free {
            return;
        }
        let (attempts, servers) = attempts(claim);
        let reason = Reason {
            kind,
            code: code.to_owned(),
            message: message.to_owned(),
            transition: claim.transition,
            // The row of failed starts goes on after the wait.
            attempts,
            servers: servers.to_vec(),
            backoff,
        };
        self.patch_claim(claim, ClaimPatch::Reason(reason), plan);
    }
}
