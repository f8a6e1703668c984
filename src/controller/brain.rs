//! Everything that the leader knows and decides, as a state machine without a clock and without I/O:
//! events and results go in, [`Brain::plan`] says what to do next. The leader's loop carries it out
//! against the API; the model drives the same code through thousands of interleavings.

mod touch;
#[cfg(test)]
mod twin;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;

use super::action::{Action, Answer, ClaimEnd, Now, Outcome, PodRef, Story};
use super::agenda::{Agenda, Found, Unit};
use super::backoff::{Backoffs, shared_cause};
use super::census::Census;
use super::classify::{Patience, sentence};
use super::facts::{ClaimRecord, PodFacts};
use super::observations::{Observations, PodSeen};
use super::patch::ClaimPatch;
use super::policy::Policy;
use super::probe::{Asked, Health};
use super::snapshot::{Change, Folded, Snapshot};
use super::writes::{Held, Writes};
use crate::accounts::Owners;
use crate::identity::Account;
use crate::selector::Mode;
use crate::servers::Catalogue;
use crate::session::FailureClass;
use crate::session::api::{ApiError, ForbiddenKind, missing_right};
use crate::session::claim::{Claim, Reason, ReasonKind};
use crate::session::failure::code;
use crate::session::pod::{PodState, Stage};

/// First and longest pause before a creation is tried again that the API could not carry out, or that a
/// quota refused.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));

/// What of the settings decisions rest on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    /// Pods at most (`INSTANCE_LIMIT`).
    pub(super) limit: usize,
    /// How long starts may take.
    pub(super) patience: Patience,
    /// How long the tunnels of an exit have that is dead, or in the way (`DRAIN_TIMEOUT`).
    pub(super) drain: Duration,
    /// How long the exits of an account have that is gone (`ACCOUNT_DRAIN_TIMEOUT`).
    pub(super) account_drain: Duration,
}

/// What the leader knows, and its decisions.
#[derive(Debug)]
pub(super) struct Brain {
    pub(super) settings: Settings,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) rng: StdRng,
    pub(super) snapshot: Snapshot,
    pub(super) seen: Observations,
    pub(super) writes: Writes,
    /// What accounts may do.
    pub(super) policy: Policy,
    /// Servers that starts failed on, and when.
    pub(super) blamed: BTreeMap<String, Duration>,
    /// Rests between starts that fail.
    pub(super) backoffs: Backoffs,
    /// Until when no pod is created since a quota is reached, and how often in a row it was.
    pub(super) quota: Option<(Duration, u32)>,
    /// Uids of Leases that have been told to be unreadable.
    unreadable: BTreeSet<String>,
    /// When to drop what no longer matters.
    pub(super) forget_at: Duration,
    /// What is to be planned for.
    pub(super) agenda: Agenda,
    /// What the last plans have found.
    pub(super) found: Found,
    /// The state of each pod.
    census: Census,
    stories: Vec<Story>,
}

impl Brain {
    /// A leader that knows nothing yet. `rng` decides between servers that are equally good.
    pub(super) fn new(settings: Settings, catalogue: Arc<Catalogue>, rng: StdRng) -> Self {
        Self {
            settings,
            catalogue,
            rng,
            snapshot: Snapshot::default(),
            seen: Observations::default(),
            writes: Writes::default(),
            policy: Policy::default(),
            blamed: BTreeMap::new(),
            backoffs: Backoffs::default(),
            quota: None,
            unreadable: BTreeSet::new(),
            forget_at: Duration::ZERO,
            agenda: Agenda::default(),
            found: Found::default(),
            census: Census::default(),
            stories: Vec::new(),
        }
    }

    /// A new server list.
    pub(super) fn on_catalogue(&mut self, catalogue: Arc<Catalogue>) {
        self.policy.look_up(&catalogue);
        self.catalogue = catalogue;
        self.agenda.touch_all();
    }

    /// The accounts are others. `gone` are owners of sessions that this process has known, and for how
    /// long they have been gone.
    pub(super) fn on_accounts<'a>(
        &mut self,
        owners: Arc<Owners>,
        gone: impl Iterator<Item = (&'a Account, Duration)>,
        now: Now,
    ) {
        self.policy.replace(owners, gone, &self.catalogue, now.mono);
        self.agenda.touch_all();
    }

    /// The watch of pods tells something.
    pub(super) fn on_pod(&mut self, change: Change<PodFacts>, now: Now) {
        match self.snapshot.fold_pod(change) {
            Folded::Nothing => {}
            Folded::Applied { item, before } => {
                if before.as_ref().is_none_or(|before| !item.takes_the_place_of(before)) {
                    self.agenda.touch_queue();
                }
                if let Some(before) = before {
                    self.touch_claim_of(&before);
                    if before.view.uid != item.view.uid {
                        self.census.forget(&before.view.uid);
                    }
                }
                self.pod_shown(&item, now);
            }
            Folded::Replaced { first } => {
                self.agenda.touch_all();
                self.census.clear();
                let pods: Vec<_> = self.snapshot.pods().map(Arc::clone).collect();
                for pod in &pods {
                    self.pod_shown(pod, now);
                }
                let uids: BTreeSet<&str> = pods.iter().map(|pod| pod.view.uid.as_str()).collect();
                self.seen.pods.retain(|uid, _| uids.contains(uid.as_str()));
                self.writes.pods.relisted();
                if !first {
                    self.seen.restart(now.mono);
                }
            }
            Folded::Deleted { name, uid, item } => {
                self.touch_creation(&name);
                if let Some(pod) = item {
                    self.touch_claim_of(&pod);
                }
                self.agenda.touch_queue();
                self.census.forget(&uid);
                self.writes.pod_gone(&name, &uid);
                self.seen.pods.remove(&uid);
                // It may have been what the quota counted: one is tried now, and the rest if that works.
                self.quota = self.quota.map(|_| (now.mono, 0));
            }
        }
    }

    fn pod_shown(&mut self, pod: &Arc<PodFacts>, now: Now) {
        let view = &pod.view;
        self.touch_claim_of(pod);
        self.touch_creation(&view.name);
        let made = self.writes.pod_shown(&view.name, &view.uid);
        let known = made.is_some() || self.seen.pods.contains_key(&view.uid);
        let first = made.unwrap_or(now.mono);
        let seen = self.seen.pods.entry(view.uid.clone()).or_insert_with(|| PodSeen::new(first));
        let begun = seen.update(pod, now.mono);
        let after = now.mono.saturating_sub(seen.first);
        self.count(pod);
        if begun
            && known
            && let Some(claim) = self.claim_of(pod)
        {
            self.tell(Story::Running { pod: pod_ref(pod), claim, after });
        }
    }

    /// The watch of claims tells something.
    pub(super) fn on_claim(&mut self, change: Change<ClaimRecord>, now: Now) {
        let listed = self.snapshot.has_listed_claims();
        match self.snapshot.fold_claim(change) {
            Folded::Nothing => {}
            Folded::Applied { item, before } => {
                let is_renewal = match (&item.claim, before.as_deref().map(|before| &before.claim)) {
                    (Ok(claim), Some(Ok(before))) => claim.is_renewal_of(before),
                    (Err(_), _) | (Ok(_), None | Some(Err(_))) => false,
                };
                // What it shows may be what a write of ours waits for.
                let held = self.writes.claims.state(&item.uid, now.mono) != Held::Free;
                self.touch_record(&item, !is_renewal || held);
                if let Some(before) = before.filter(|before| before.uid != item.uid) {
                    self.touch_record(&before, true);
                }
                self.claim_shown(&item, listed, now);
            }
            Folded::Replaced { first } => {
                self.agenda.touch_all();
                let records: Vec<_> = self.snapshot.records().map(Arc::clone).collect();
                self.writes.claims.relisted();
                if !first {
                    self.seen.restart(now.mono);
                }
                for record in &records {
                    self.claim_shown(record, false, now);
                }
                let uids: BTreeSet<&str> = records.iter().map(|record| record.uid.as_str()).collect();
                self.seen.claims.retain(|uid, _| uids.contains(uid.as_str()));
            }
            // Not yet proof that it is gone: one whose label was removed looks the same.
            Folded::Deleted { name, uid, .. } => {
                self.agenda.touch(Unit::new(&name, &uid), true);
                self.agenda.touch_queue();
                self.writes.claims.release(&uid);
                self.seen.claims.remove(&uid);
            }
        }
    }

    fn claim_shown(&mut self, record: &ClaimRecord, made: bool, now: Now) {
        match &record.claim {
            Ok(claim) => {
                self.writes.claims.shown(&claim.uid, &claim.resource_version);
                self.seen.claim(claim, made, now);
                if let Some(reason) = claim.reason.as_ref().filter(|r| r.kind == ReasonKind::Rejected)
                    && let (Some(backoff), Some(class)) = (&reason.backoff, FailureClass::parse(&reason.code))
                {
                    let words = if backoff.pool { shared_cause(class) } else { None };
                    let last = (class, words.unwrap_or(sentence(class)));
                    self.backoffs.restore(&claim.key.place, backoff, last, now);
                }
            }
            Err(error) => {
                if self.unreadable.insert(record.uid.clone()) {
                    self.tell(Story::Unreadable { error: error.clone() });
                }
            }
        }
    }

    /// A watch has failed and will be taken up again where it stopped.
    pub(super) fn on_broken_watch(&mut self, now: Now) {
        self.seen.watch_broken(now.mono);
        self.agenda.touch_all();
    }

    /// A pod's health server has answered this leader.
    pub(super) fn on_health(&mut self, uid: &str, health: Health, now: Now) {
        let Some(pod) = self.snapshot.pod_by_uid(uid).map(Arc::clone) else { return };
        self.touch_claim_of(&pod);
        if let Some(seen) = self.seen.pods.get_mut(uid) {
            seen.probe = Some(health);
            seen.update(&pod, now.mono);
        }
        self.count(&pod);
    }

    /// An action has ended.
    pub(super) fn on_result(&mut self, action: &Action, outcome: &Outcome, now: Now) {
        let mono = now.mono;
        self.touch_action(action);
        match action {
            Action::CreatePod(new) => {
                self.writes.created(&new.name, outcome, mono);
                self.created(&new.claim, outcome, mono);
                if let Ok(Answer::Created { uid }) = outcome {
                    self.tell(Story::Created {
                        pod: PodRef { name: new.name.clone(), uid: uid.clone() },
                        claim: Arc::clone(&new.claim),
                        server: Arc::clone(&new.server),
                    });
                }
            }
            Action::FindPod { name } => self.writes.looked(name, outcome, mono),
            Action::DeletePod { name, uid, why } => {
                self.writes.pods.end(uid, outcome, mono);
                if outcome.is_ok() {
                    let pod = PodRef { name: name.clone(), uid: uid.clone() };
                    self.tell(Story::PodDeleted { pod, why: *why });
                }
            }
            Action::PatchClaim { claim, patch } => {
                self.writes.claims.end(&claim.uid, outcome, mono);
                if let (Ok(_), ClaimPatch::Reason(reason)) = (outcome, patch) {
                    self.tell(Story::Told {
                        claim: Arc::clone(claim),
                        code: reason.code.clone(),
                        message: reason.message.clone(),
                        rejected: reason.kind == ReasonKind::Rejected,
                    });
                }
            }
            Action::DeleteClaim { claim, unless_changed, why } => {
                self.claim_deleted(claim, *unless_changed, *why, outcome, mono);
            }
            Action::FindClaim { name, uid } => match outcome {
                Ok(Answer::Found(Some(found))) if found == uid => self.writes.lookups.end(uid, outcome, mono),
                Ok(_) | Err(ApiError::NotFound) => self.writes.claim_gone(name, uid),
                Err(_) => self.writes.lookups.end(uid, outcome, mono),
            },
            Action::ReadLog { uid, .. } | Action::ReadWarning { uid, .. } => {
                self.writes.pods.finish(uid);
                if let Some(seen) = self.seen.pods.get_mut(uid) {
                    // Read or not, it is not asked for again.
                    let cause = if let Ok(Answer::Cause(cause)) = outcome { *cause } else { None };
                    seen.cause = Some(cause);
                }
            }
        }
        self.tell_failure(action, outcome);
    }

    fn created(&mut self, claim: &Claim, outcome: &Outcome, now: Duration) {
        let error = match outcome {
            Ok(_) => {
                self.quota = None;
                if let Some(seen) = self.seen.claims.get_mut(&claim.uid) {
                    seen.retry = None;
                }
                return;
            }
            Err(error) => error,
        };
        let rejected = |code: &str, message: String| Reason {
            kind: ReasonKind::Rejected,
            code: code.to_owned(),
            message,
            transition: claim.transition,
            attempts: attempts(claim).0 + 1,
            servers: attempts(claim).1.to_vec(),
            backoff: None,
        };
        let class = |class: FailureClass| rejected(class.as_str(), sentence(class).to_owned());
        let Some(seen) = self.seen.claims.get_mut(&claim.uid) else { return };
        match error {
            ApiError::Forbidden(ForbiddenKind::Quota, _) => {
                self.quota = Some(later(self.quota, now));
            }
            ApiError::Forbidden(ForbiddenKind::PodSecurity, _) => {
                seen.refused = Some(class(FailureClass::PodSecurity));
            }
            ApiError::Forbidden(ForbiddenKind::Rights, message) => {
                let right = missing_right(message).unwrap_or_else(|| "create pods".to_owned());
                seen.refused =
                    Some(rejected(code::FORBIDDEN, format!("the gateway's service account may not {right}")));
            }
            ApiError::Forbidden(ForbiddenKind::Admission, _) | ApiError::Invalid(_) => {
                seen.refused = Some(class(FailureClass::Admission));
            }
            ApiError::Timeout | ApiError::Unavailable(_) | ApiError::NotFound | ApiError::Conflict => {
                seen.retry = Some(later(seen.retry, now));
            }
            ApiError::AlreadyExists => {}
        }
    }

    fn claim_deleted(
        &mut self,
        claim: &Arc<Claim>,
        unless_changed: bool,
        why: ClaimEnd,
        outcome: &Outcome,
        now: Duration,
    ) {
        match outcome {
            Ok(_) => {
                self.writes.claim_gone(&claim.name, &claim.uid);
                self.tell(Story::ClaimDeleted { claim: Arc::clone(claim), why });
            }
            // Without a resource version, only another uid conflicts.
            Err(ApiError::NotFound) => self.writes.claim_gone(&claim.name, &claim.uid),
            Err(ApiError::Conflict) if !unless_changed => self.writes.claim_gone(&claim.name, &claim.uid),
            Err(_) => {}
        }
        self.writes.claims.end(&claim.uid, outcome, now);
    }

    /// Failures that are not part of the game (a conflict, something already gone).
    fn tell_failure(&mut self, action: &Action, outcome: &Outcome) {
        let Err(error) = outcome else { return };
        if matches!(error, ApiError::Conflict | ApiError::NotFound | ApiError::AlreadyExists) {
            return;
        }
        let (what, name) = match action {
            Action::CreatePod(new) => ("create pod", &new.name),
            Action::FindPod { name } => ("get pod", name),
            Action::DeletePod { name, .. } => ("delete pod", name),
            Action::PatchClaim { claim, .. } => ("patch lease", &claim.name),
            Action::DeleteClaim { claim, .. } => ("delete lease", &claim.name),
            Action::FindClaim { name, .. } => ("get lease", name),
            Action::ReadLog { pod, .. } => ("get pods/log", pod),
            Action::ReadWarning { pod, .. } => ("list events", pod),
        };
        let name = name.clone();
        self.tell(Story::CallFailed { what, name, error: error.clone() });
    }

    /// The pods whose health servers are to be asked: each that is the current exit of its claim, runs, and
    /// is not ready by the kubelet's word.
    pub(super) fn pods_to_ask(&self) -> Vec<Asked> {
        let asked = self.snapshot.starting().filter_map(|pod| {
            let (view, binding) = (&pod.view, pod.view.binding.as_ref()?);
            let claim = self.claim_of(pod).filter(|claim| claim.transition == binding.transition)?;
            // Once it was up, nobody waits for the leader's word any more.
            let often = claim.key.mode == Mode::Strict && claim.ready != Some(claim.transition);
            Some(Asked { uid: view.uid.clone(), ip: view.ip?, often })
        });
        asked.collect()
    }

    /// How many pods are in which state, for the metric.
    pub(super) fn census(&self) -> &Census {
        &self.census
    }

    /// Counts a pod by its state.
    pub(super) fn count(&mut self, pod: &PodFacts) {
        self.census.count(&pod.view.uid, self.state_of(pod));
    }

    fn state_of(&self, pod: &PodFacts) -> PodState {
        match (pod.view.binding.is_some(), pod.view.stage) {
            (false, _) => PodState::Foreign,
            (true, Stage::Pending) => PodState::Pending,
            (true, Stage::Terminating) => PodState::Terminating,
            (true, Stage::Ended) => PodState::Failed,
            (true, Stage::Running) => match self.seen.pods.get(&pod.view.uid) {
                Some(seen) if seen.is_healthy(pod) => PodState::Ready,
                Some(seen) if seen.told_up => PodState::Unready,
                Some(_) | None => PodState::Starting,
            },
        }
    }

    /// The claim that a pod serves, if it is known.
    pub(super) fn claim_of(&self, pod: &PodFacts) -> Option<Arc<Claim>> {
        let binding = pod.view.binding.as_ref()?;
        self.snapshot.claim(&binding.claim, &binding.claim_uid).map(Arc::clone)
    }

    pub(super) fn tell(&mut self, story: Story) {
        self.stories.push(story);
    }

    /// What there is to tell people since the last time.
    pub(super) fn take_stories(&mut self) -> Vec<Story> {
        std::mem::take(&mut self.stories)
    }
}

/// A pod's name and uid.
pub(super) fn pod_ref(pod: &PodFacts) -> PodRef {
    PodRef { name: pod.view.name.clone(), uid: pod.view.uid.clone() }
}

/// How many starts in a row have failed, and on which servers: a claim that starts from a good exit has
/// none.
pub(super) fn attempts(claim: &Claim) -> (u32, &[String]) {
    claim.reason.as_ref().map_or((0, &[]), |reason| (reason.attempts, &reason.servers))
}

/// The next pause of a growing row.
fn later(last: Option<(Duration, u32)>, now: Duration) -> (Duration, u32) {
    let (first, longest) = RETRY;
    let failures = last.map_or(0, |(_, failures)| failures);
    let pause = first.saturating_mul(2_u32.saturating_pow(failures)).min(longest);
    (now + pause, failures.saturating_add(1))
}
