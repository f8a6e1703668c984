//! What this leader has seen for itself, on its own monotonic clock: since when a claim's `renewTime` has
//! not changed, since when a pod is unhealthy. It begins anew with each leadership and is written
//! nowhere, so a skewed clock, an outage of the API server or a change of leaders cannot make anything
//! that lives look abandoned.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::action::Now;
use super::facts::PodFacts;
use super::probe::Health;
use crate::session::FailureClass;
use crate::session::claim::{Claim, Reason, ReasonKind};
use crate::session::pod::{Stage, pod_name};

/// How long after its last seen renewal a claim without a pod is still waited for: replicas renew each
/// 5 s while a request is held.
const WANTED: Duration = Duration::from_secs(15);

/// The same for a claim whose request does not wait and comes again.
const WANTED_NO_WAIT: Duration = Duration::from_secs(30);

/// A claim found in a list counts as just renewed unless its `renewTime` is older than this by the
/// clock: then nobody may be waiting any more, and the next renewal, 5 s away, tells. Generous, since
/// clocks differ.
const HOPELESS: Duration = Duration::from_secs(120);

/// What a broken watch costs: for so long it may not have shown renewals, or replicas could not write
/// them. Longer than any outage of the API server that leadership survives (10 s), and than the longest
/// pause between two tries to watch.
pub(super) const BROKEN_WATCH: Duration = Duration::from_secs(30);

/// What was seen of a claim's current pod, for when it is gone.
#[derive(Clone, Debug)]
pub(super) struct HadPod {
    /// Whose pod it is.
    pub(super) transition: i32,
    /// Its server.
    pub(super) server: Option<String>,
    /// When it was made by this leader, or else first seen.
    pub(super) first: Duration,
}

/// What was seen of a claim.
#[derive(Clone, Debug)]
pub(super) struct ClaimSeen {
    renewed: SystemTime,
    /// When `renewTime` was last seen to change.
    changed: Duration,
    /// Whether it was ever seen to change, was seen being made, or was recent by the clock.
    trusted: bool,
    older: BTreeMap<i32, (SystemTime, Duration)>,
    /// Name of its current pod, which takes a hash to find.
    pub(super) pod_name: String,
    transition: i32,
    /// When the claim was first seen rejected.
    pub(super) rejected: Option<Duration>,
    /// The last transition that a pod was seen of.
    pub(super) had_pod: Option<HadPod>,
    /// Why the API refused the claim's pod, until the claim says so.
    pub(super) refused: Option<Reason>,
    /// When the creation of its pod may be tried again, and how often it went wrong.
    pub(super) retry: Option<(Duration, u32)>,
    /// The last transition whose failure or loss has been told.
    pub(super) told: Option<i32>,
    /// Since when the claim waits for what its own older exit holds: from then on, and not before, replicas
    /// tell of tunnels on that one every few seconds.
    pub(super) pressing: Option<Duration>,
}

impl ClaimSeen {
    /// The first sight of a claim; `made` when its creation was watched.
    fn new(claim: &Claim, made: bool, now: Now) -> Self {
        let hopeless = now.wall.duration_since(claim.renewed).is_ok_and(|age| age > HOPELESS);
        let mut seen = Self {
            renewed: claim.renewed,
            changed: now.mono,
            trusted: made || !hopeless,
            older: BTreeMap::new(),
            pod_name: pod_name(&claim.uid, claim.transition),
            transition: claim.transition,
            rejected: None,
            had_pod: None,
            refused: None,
            retry: None,
            told: None,
            pressing: None,
        };
        seen.update(claim, now);
        seen
    }

    fn update(&mut self, claim: &Claim, now: Now) {
        if self.renewed != claim.renewed {
            self.renewed = claim.renewed;
            self.changed = now.mono;
            self.trusted = true;
        }
        if self.transition != claim.transition {
            self.transition = claim.transition;
            self.pod_name = pod_name(&claim.uid, claim.transition);
        }
        self.older.retain(|transition, _| claim.renewed_older.contains_key(transition));
        for (transition, time) in &claim.renewed_older {
            let entry = self.older.entry(*transition).or_insert((*time, now.mono));
            if entry.0 != *time {
                *entry = (*time, now.mono);
            }
        }
        let rejected = claim.reason.as_ref().is_some_and(|r| r.kind == ReasonKind::Rejected);
        self.rejected = if rejected { self.rejected.or(Some(now.mono)) } else { None };
    }

    fn patience(claim: &Claim) -> Duration {
        if claim.no_wait { WANTED_NO_WAIT } else { WANTED }
    }

    /// Until when somebody is taken to want an exit; none where nobody is known to.
    pub(super) fn wanted_until(&self, claim: &Claim) -> Option<Duration> {
        self.trusted.then(|| self.changed + Self::patience(claim))
    }

    /// From when on nobody is taken to want an exit.
    pub(super) fn unwanted_from(&self, claim: &Claim) -> Duration {
        self.changed + Self::patience(claim)
    }

    /// From when on the claim has been seen unrenewed for half its duration.
    pub(super) fn quiet_from(&self, claim: &Claim) -> Duration {
        self.changed + claim.duration / 2
    }

    /// When the tunnels on an older exit were last seen to be renewed.
    pub(super) fn older_renewed(&self, transition: i32) -> Option<Duration> {
        self.older.get(&transition).map(|(_, seen)| *seen)
    }

    fn watch_broken(&mut self, now: Duration) {
        let later = |seen: Duration| (seen + BROKEN_WATCH).min(now);
        self.changed = later(self.changed);
        for (_, seen) in self.older.values_mut() {
            *seen = later(*seen);
        }
    }

    fn restart(&mut self, now: Duration) {
        self.changed = now;
        for (_, seen) in self.older.values_mut() {
            *seen = now;
        }
    }
}

/// What was seen of a pod.
#[derive(Clone, Debug)]
pub(super) struct PodSeen {
    /// When it was made by this leader, or else first seen.
    pub(super) first: Duration,
    /// Since when its container runs.
    pub(super) running: Option<Duration>,
    /// Since when its container runs and is not healthy.
    pub(super) unhealthy: Option<Duration>,
    /// Since when its container waits for what it does not get (image, Secret).
    pub(super) blocked: Option<Duration>,
    /// Since when no node can take it.
    pub(super) unschedulable: Option<Duration>,
    /// Since when it is an older exit of its claim.
    pub(super) older: Option<Duration>,
    /// What its health server last answered to this leader.
    pub(super) probe: Option<Health>,
    /// What its log or a warning about it means, once it was asked for.
    pub(super) cause: Option<Option<FailureClass>>,
    /// When the warnings about it were last asked for.
    pub(super) warned: Option<Duration>,
    /// That its VPN is up has been told.
    pub(super) told_up: bool,
}

impl PodSeen {
    pub(super) fn new(first: Duration) -> Self {
        Self {
            first,
            running: None,
            unhealthy: None,
            blocked: None,
            unschedulable: None,
            older: None,
            probe: None,
            cause: None,
            warned: None,
            told_up: false,
        }
    }

    /// Whether its VPN is up, by the kubelet's word or by this leader's own question.
    pub(super) fn is_healthy(&self, pod: &PodFacts) -> bool {
        pod.view.stage == Stage::Running && (pod.view.ready || self.probe == Some(Health::Up))
    }

    /// Takes note of the pod's state. Tells whether its container has begun to run.
    pub(super) fn update(&mut self, pod: &PodFacts, now: Duration) -> bool {
        let since = |at: Option<Duration>, holds: bool| if holds { at.or(Some(now)) } else { None };
        let running = pod.view.stage == Stage::Running;
        let begun = running && self.running.is_none();
        self.running = since(self.running, running);
        if begun {
            // A warning from before says nothing of how it ends.
            self.cause = None;
        }
        if pod.view.ready || !running {
            // Asked anew should it become unready: the answer of then is not that of now.
            self.probe = None;
        }
        self.unhealthy = since(self.unhealthy, running && !self.is_healthy(pod));
        self.blocked = since(self.blocked, pod.waiting.as_ref().is_some_and(|w| is_blocked(&w.reason)));
        self.unschedulable = since(self.unschedulable, pod.unschedulable.is_some());
        begun
    }
}

/// Reasons of a waiting container that do not end without someone's doing. One set for all of them, since
/// `ErrImagePull` and `ImagePullBackOff` take turns.
pub(super) fn is_blocked(reason: &str) -> bool {
    matches!(
        reason,
        "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "CreateContainerConfigError"
            | "CreateContainerError"
            | "RunContainerError"
    )
}

/// Everything seen, by uid.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Observations {
    pub(super) claims: BTreeMap<String, ClaimSeen>,
    pub(super) pods: BTreeMap<String, PodSeen>,
}

impl Observations {
    /// Takes note of a claim; `made` when it is new and was not in the initial list.
    pub(super) fn claim(&mut self, claim: &Claim, made: bool, now: Now) -> &mut ClaimSeen {
        let seen = self.claims.entry(claim.uid.clone()).or_insert_with(|| ClaimSeen::new(claim, made, now));
        seen.update(claim, now);
        seen
    }

    /// A watch failed, and will be taken up again where it stopped.
    pub(super) fn watch_broken(&mut self, now: Duration) {
        for seen in self.claims.values_mut() {
            seen.watch_broken(now);
        }
        for seen in self.pods.values_mut() {
            seen.older = seen.older.map(|since| (since + BROKEN_WATCH).min(now));
        }
    }

    /// A watch could not be taken up again: what happened since is not known.
    pub(super) fn restart(&mut self, now: Duration) {
        for seen in self.claims.values_mut() {
            seen.restart(now);
        }
        for seen in self.pods.values_mut() {
            seen.older = seen.older.map(|_| now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::testing;
    use crate::selector::SessionKey;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn now(mono: u64) -> Now {
        Now { mono: s(mono), wall: testing::wall() + s(mono) }
    }

    fn claim() -> Claim {
        testing::claim(&SessionKey::parse_canonical("demo").unwrap(), "u1")
    }

    #[test]
    fn a_renewal_counts_from_when_it_was_seen_whatever_its_clock() {
        let mut claim = claim();
        let mut all = Observations::default();
        all.claim(&claim, true, now(0));
        claim.renewed -= s(3600);
        let seen = all.claim(&claim, false, now(10));
        assert_eq!(seen.unwanted_from(&claim), s(25));
        assert_eq!(seen.quiet_from(&claim), s(10) + claim.duration / 2);
    }

    #[test]
    fn an_old_claim_of_the_first_list_is_not_wanted_until_it_is_renewed() {
        let mut claim = claim();
        claim.renewed = testing::wall() - s(121);
        let mut all = Observations::default();
        assert_eq!(all.claim(&claim, false, now(0)).wanted_until(&claim), None);
        assert_eq!(all.claim(&claim, false, now(1)).unwanted_from(&claim), s(15), "nor deleted at once");
        claim.renewed += s(1);
        assert_eq!(all.claim(&claim, false, now(2)).wanted_until(&claim), Some(s(17)));
    }

    #[test]
    fn one_that_was_seen_being_made_is_wanted_however_its_clock_differs() {
        let mut claim = claim();
        claim.renewed = testing::wall() - s(3600);
        claim.no_wait = true;
        let mut all = Observations::default();
        assert_eq!(all.claim(&claim, true, now(0)).wanted_until(&claim), Some(s(30)));
    }

    #[test]
    fn a_broken_watch_costs_its_time_and_a_new_list_all() {
        let claim = claim();
        let mut all = Observations::default();
        all.claim(&claim, true, now(0));
        all.watch_broken(s(100));
        assert_eq!(all.claim(&claim, false, now(100)).quiet_from(&claim), s(30) + claim.duration / 2);
        all.watch_broken(s(40));
        assert_eq!(all.claim(&claim, false, now(100)).quiet_from(&claim), s(40) + claim.duration / 2);
        all.restart(s(120));
        assert_eq!(all.claim(&claim, false, now(120)).quiet_from(&claim), s(120) + claim.duration / 2);
    }

    #[test]
    fn health_asked_before_the_pod_was_ready_says_nothing_later() {
        let mut pod = testing::pod(&claim(), "p1", Stage::Running);
        let mut seen = PodSeen::new(s(0));
        assert!(seen.update(&pod, s(1)));
        assert_eq!(seen.unhealthy, Some(s(1)));
        seen.probe = Some(Health::Up);
        assert!(!seen.update(&pod, s(2)));
        assert_eq!(seen.unhealthy, None);
        pod.view.ready = true;
        seen.update(&pod, s(3));
        pod.view.ready = false;
        seen.update(&pod, s(9));
        assert_eq!(seen.unhealthy, Some(s(9)));
    }
}
