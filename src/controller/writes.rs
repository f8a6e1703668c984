//! This leader's own writes whose effect its watches have not shown yet.
//!
//! Watches lag. So a pod counts from before its creation is sent until the watch shows it, or until a GET
//! has told that it does not exist; and nothing is decided about a claim or pod while a write of it is on
//! its way or has not been seen, so that nothing is done twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::action::{Answer, Outcome};
use crate::servers::Server;
use crate::session::api::ApiError;
use crate::session::claim::Claim;

/// How long the watch may take to show a write before the decision is made anew from what it shows.
const SHOWN_WITHIN: Duration = Duration::from_secs(5);

/// How long to wait for the watch to show what a write conflicted with.
const CONFLICT: Duration = Duration::from_secs(1);

/// After how long a write is tried again that may or may not have taken effect.
const AMBIGUOUS: Duration = Duration::from_secs(2);

/// After how long a call is tried again that was refused.
const REFUSED: Duration = Duration::from_secs(10);

/// How long a created pod may be unseen before it is asked for.
const UNSEEN: Duration = Duration::from_secs(5);

/// How long between two questions for the pod of an ambiguous creation that have failed.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How long an ambiguous creation keeps its place, whatever a GET has found: the API server may only be
/// slow, and a creation that takes effect after all must not find its place taken.
const LINGER: Duration = Duration::from_secs(10);

/// A pod whose creation was decided and whose existence the watch has not shown.
#[derive(Clone, Debug)]
struct Creating {
    /// Its server: not to be given to another.
    server: Arc<Server>,
    /// The claim that it serves: its session counts from now on.
    claim: Arc<Claim>,
    /// When the creation was decided.
    since: Duration,
    /// Its uid, once the API has told it.
    uid: Option<String>,
    /// When to look for it; none while a call about it is on its way.
    ask_at: Option<Duration>,
}

/// A creation that may yet take effect, even after another of the same name has, and its pod is gone.
#[derive(Clone, Debug)]
struct Ghost {
    /// Its server; creating the pod again uses the same, so that it does not matter which takes effect.
    server: Arc<Server>,
    /// The claim that it was to serve.
    claim: Arc<Claim>,
    /// When it is no longer to be reckoned with.
    until: Duration,
}

/// A claim or pod that a write is on its way for, or was not seen yet.
#[derive(Clone, Debug)]
struct Hold {
    /// Until when at most; none while the call is on its way.
    until: Option<Duration>,
    /// The resource version that the watch must show.
    version: Option<String>,
    /// Resource versions that the watch showed while the call was on its way.
    shown: Vec<String>,
    /// Whether the write only tells those who wait what they wait for.
    note: bool,
}

/// Whether something may be decided about an object now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// Yes.
    Free,
    /// A note to those who wait is being written: its pod may be created meanwhile.
    Note(Option<Duration>),
    /// No; the time is when the hold ends by itself, if it does.
    Busy(Option<Duration>),
}

/// Objects of one kind that are held, by uid.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Holds(BTreeMap<String, Hold>);

impl Holds {
    /// A call about the object is on its way.
    pub(super) fn begin(&mut self, id: &str, note: bool) {
        self.0.insert(id.to_owned(), Hold { until: None, version: None, shown: Vec::new(), note });
    }

    /// Whether something may be decided about the object.
    pub(super) fn state(&self, id: &str, now: Duration) -> Held {
        match self.0.get(id) {
            None => Held::Free,
            Some(hold) if hold.until.is_some_and(|until| until <= now) => Held::Free,
            Some(hold) if hold.note => Held::Note(hold.until),
            Some(hold) => Held::Busy(hold.until),
        }
    }

    /// The watch showed the object at `version`.
    pub(super) fn shown(&mut self, id: &str, version: &str) {
        let Some(hold) = self.0.get_mut(id) else { return };
        if hold.until.is_none() {
            hold.shown.push(version.to_owned());
        } else if hold.version.as_deref().is_none_or(|awaited| awaited == version) {
            self.0.remove(id);
        }
    }

    /// The watch showed the object's end. A call that is on its way still has its answer to come.
    pub(super) fn release(&mut self, id: &str) {
        if self.0.get(id).is_some_and(|hold| hold.until.is_some()) {
            self.0.remove(id);
        }
    }

    /// The call has ended, and has changed nothing that a watch would show.
    pub(super) fn finish(&mut self, id: &str) {
        self.0.remove(id);
    }

    /// A new list has come: whatever was awaited is in it, unless its call is still on its way.
    pub(super) fn relisted(&mut self) {
        self.0.retain(|_, hold| hold.until.is_none());
    }

    /// The call has ended.
    pub(super) fn end(&mut self, id: &str, outcome: &Outcome, now: Duration) {
        let Some(hold) = self.0.get_mut(id) else { return };
        let (wait, version) = match outcome {
            Ok(Answer::Patched { resource_version }) => (SHOWN_WITHIN, Some(resource_version.clone())),
            Ok(_) => (SHOWN_WITHIN, None),
            Err(ApiError::NotFound) => (SHOWN_WITHIN, None),
            Err(ApiError::Conflict | ApiError::AlreadyExists) => (CONFLICT, None),
            // For a patch also: another uid.
            Err(ApiError::Invalid(_) | ApiError::Forbidden(..)) => (REFUSED, None),
            Err(ApiError::Timeout | ApiError::Unavailable(_)) => (AMBIGUOUS, None),
        };
        let seen = match (&version, outcome) {
            (Some(version), _) => hold.shown.contains(version),
            // Something changed meanwhile, which may be what it conflicted with.
            (None, Err(_)) => !hold.shown.is_empty(),
            (None, Ok(_)) => false,
        };
        if seen {
            self.0.remove(id);
        } else {
            hold.until = Some(now + wait);
            hold.version = version;
        }
    }

    fn prune(&mut self, now: Duration) {
        self.0.retain(|_, hold| hold.until.is_none_or(|until| until > now));
    }
}

/// Every write that is not seen yet.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Writes {
    /// Pods being created, by name.
    creating: BTreeMap<String, Creating>,
    /// Creations that may yet take effect, by the pod's name.
    ghosts: BTreeMap<String, Ghost>,
    /// Claims being written, by uid.
    pub(super) claims: Holds,
    /// Pods being deleted or asked about, by uid.
    pub(super) pods: Holds,
    /// Claims being looked for, by uid.
    pub(super) lookups: Holds,
    /// Claims that are gone for certain: their uids, which never come back, and their names.
    gone: BTreeMap<String, String>,
}

impl Writes {
    /// A pod's creation is about to be sent.
    pub(super) fn creating(&mut self, name: &str, claim: Arc<Claim>, server: Arc<Server>, now: Duration) {
        let creating = Creating { server, claim, since: now, uid: None, ask_at: None };
        self.creating.insert(name.to_owned(), creating);
    }

    /// Whether the creation of a pod of that name is on its way, or not shown yet.
    pub(super) fn is_creating(&self, name: &str) -> bool {
        self.creating.contains_key(name)
    }

    /// Whether any creation is.
    pub(super) fn is_creating_any(&self) -> bool {
        !self.creating.is_empty()
    }

    /// The server of a creation of that name that may yet take effect: its place is kept for it.
    pub(super) fn ghost(&self, name: &str) -> Option<Arc<Server>> {
        self.ghosts.get(name).map(|ghost| Arc::clone(&ghost.server))
    }

    /// The servers of the pods that count although the watch does not show them as live.
    pub(super) fn places(&self, is_live: impl Fn(&str) -> bool) -> Vec<Arc<Server>> {
        let ghosts = self.ghosts.iter().filter(|(name, _)| !self.is_creating(name) && !is_live(name));
        let ghosts = ghosts.map(|(_, ghost)| &ghost.server);
        self.creating.values().map(|creating| &creating.server).chain(ghosts).map(Arc::clone).collect()
    }

    /// The claims of pods that the watch may not show yet: each has a pod, or may have.
    pub(super) fn claims_of_creations(&self) -> impl Iterator<Item = &Arc<Claim>> {
        let ghosts = self.ghosts.values().map(|ghost| &ghost.claim);
        self.creating.values().map(|creating| &creating.claim).chain(ghosts)
    }

    /// The claim of the creation of a pod of that name, as long as that is not shown.
    pub(super) fn claim_of_creation(&self, name: &str) -> Option<&Arc<Claim>> {
        self.creating.get(name).map(|creating| &creating.claim)
    }

    /// A creation's call has ended.
    pub(super) fn created(&mut self, name: &str, outcome: &Outcome, now: Duration) {
        let Some(creating) = self.creating.get_mut(name) else { return };
        match outcome {
            Ok(Answer::Created { uid }) => {
                creating.uid = Some(uid.clone());
                creating.ask_at = Some(now + UNSEEN);
            }
            // It may be one of that name that is going: look.
            Ok(_) | Err(ApiError::AlreadyExists) => creating.ask_at = Some(now),
            Err(ApiError::Timeout | ApiError::Unavailable(_)) => {
                creating.ask_at = Some(now);
                let (server, claim) = (Arc::clone(&creating.server), Arc::clone(&creating.claim));
                let ghost = Ghost { server, claim, until: now + LINGER };
                self.ghosts.insert(name.to_owned(), ghost);
            }
            Err(ApiError::NotFound | ApiError::Conflict | ApiError::Invalid(_) | ApiError::Forbidden(..)) => {
                self.creating.remove(name);
            }
        }
    }

    /// Gives up the places of creations that no longer take effect; whether there were any.
    pub(super) fn free_places(&mut self, now: Duration) -> bool {
        let before = self.ghosts.len();
        self.ghosts.retain(|_, ghost| ghost.until > now);
        self.ghosts.len() < before
    }

    /// Names of the pods to be looked for now, and when the next will be, or a place becomes free.
    pub(super) fn due(&self, now: Duration) -> (Vec<String>, Option<Duration>) {
        let due = self.creating.iter().filter(|(_, c)| c.ask_at.is_some_and(|at| at <= now));
        let names = due.map(|(name, _)| name.clone()).collect();
        let times = self.creating.values().filter_map(|creating| creating.ask_at);
        let times = times.chain(self.ghosts.values().map(|ghost| ghost.until));
        (names, times.filter(|at| *at > now).min())
    }

    /// A pod is about to be looked for.
    pub(super) fn looking(&mut self, name: &str) {
        if let Some(creating) = self.creating.get_mut(name) {
            creating.ask_at = None;
        }
    }

    /// The answer to that.
    pub(super) fn looked(&mut self, name: &str, outcome: &Outcome, now: Duration) {
        let Some(creating) = self.creating.get_mut(name) else { return };
        match outcome {
            Ok(Answer::Found(None)) | Err(ApiError::NotFound) => {
                self.creating.remove(name);
            }
            Ok(Answer::Found(Some(uid))) => {
                creating.uid = Some(uid.clone());
                creating.ask_at = Some(now + UNSEEN);
            }
            Ok(_) | Err(_) => creating.ask_at = Some(now + ASK_AGAIN),
        }
    }

    /// The watch showed a pod. When its creation was this leader's, tells when that was decided.
    pub(super) fn pod_shown(&mut self, name: &str, uid: &str) -> Option<Duration> {
        let creating = self.creating.get(name)?;
        // An earlier pod of that name may still be told of.
        if creating.uid.as_ref().is_some_and(|expected| expected != uid) {
            return None;
        }
        self.creating.remove(name).map(|creating| creating.since)
    }

    /// The watch showed a pod's end.
    pub(super) fn pod_gone(&mut self, name: &str, uid: &str) {
        self.pods.release(uid);
        if self.creating.get(name).is_some_and(|creating| creating.uid.as_deref() == Some(uid)) {
            self.creating.remove(name);
        }
    }

    /// The claim of that name with that uid is gone for certain.
    pub(super) fn claim_gone(&mut self, name: &str, uid: &str) {
        self.lookups.release(uid);
        self.gone.insert(uid.to_owned(), name.to_owned());
    }

    /// Whether the claim with that uid is gone for certain.
    pub(super) fn is_gone(&self, uid: &str) -> bool {
        self.gone.contains_key(uid)
    }

    /// Forgets what no longer matters. `is_known` tells by a claim's name and uid whether anything still
    /// refers to it.
    pub(super) fn prune(&mut self, now: Duration, is_known: impl Fn(&str, &str) -> bool) {
        self.claims.prune(now);
        self.pods.prune(now);
        self.lookups.prune(now);
        self.gone.retain(|uid, name| is_known(name, uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::testing;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn server() -> Arc<Server> {
        Arc::clone(&testing::catalogue(1).servers()[0])
    }

    fn claim() -> Arc<Claim> {
        Arc::new(testing::claim(&testing::key("demo"), "c"))
    }

    fn patched(version: &str) -> Outcome {
        Ok(Answer::Patched { resource_version: version.to_owned() })
    }

    #[test]
    fn a_write_is_held_until_the_watch_shows_it_whichever_comes_first() {
        let mut holds = Holds::default();
        holds.begin("a", false);
        assert_eq!(holds.state("a", s(0)), Held::Busy(None));
        holds.shown("a", "6");
        holds.end("a", &patched("7"), s(0));
        assert_eq!(holds.state("a", s(1)), Held::Busy(Some(s(5))), "6 is older than the write");
        holds.shown("a", "7");
        assert_eq!(holds.state("a", s(1)), Held::Free);

        holds.begin("a", false);
        holds.shown("a", "8");
        holds.end("a", &patched("8"), s(0));
        assert_eq!(holds.state("a", s(0)), Held::Free, "the watch was faster than the answer");

        holds.begin("a", true);
        holds.end("a", &patched("9"), s(0));
        assert_eq!(holds.state("a", s(4)), Held::Note(Some(s(5))));
        assert_eq!(holds.state("a", s(5)), Held::Free, "a watch that stays behind does not hold it for ever");
    }

    #[test]
    fn a_conflict_waits_for_what_it_conflicted_with() {
        let mut holds = Holds::default();
        holds.begin("a", false);
        holds.end("a", &Err(ApiError::Conflict), s(0));
        assert_eq!(holds.state("a", s(0)), Held::Busy(Some(s(1))));
        holds.shown("a", "3");
        assert_eq!(holds.state("a", s(0)), Held::Free);
    }

    fn count(writes: &Writes) -> usize {
        writes.places(|_| false).len()
    }

    #[test]
    fn a_pod_counts_until_the_watch_shows_it() {
        let mut writes = Writes::default();
        writes.creating("p", claim(), server(), s(0));
        assert_eq!(writes.due(s(9)), (vec![], None), "its call is on its way");
        writes.created("p", &Ok(Answer::Created { uid: "u".into() }), s(1));
        assert_eq!(writes.pod_shown("p", "earlier"), None);
        assert_eq!(count(&writes), 1);
        assert_eq!(writes.pod_shown("p", "u"), Some(s(0)));
        assert_eq!(count(&writes), 0);
    }

    #[test]
    fn a_created_pod_that_the_watch_never_shows_is_looked_for() {
        let mut writes = Writes::default();
        writes.creating("p", claim(), server(), s(0));
        writes.created("p", &Ok(Answer::Created { uid: "u".into() }), s(0));
        assert_eq!(writes.due(s(4)), (vec![], Some(s(5))));
        assert_eq!(writes.due(s(5)).0, ["p"]);
        writes.looking("p");
        writes.looked("p", &Ok(Answer::Found(Some("u".into()))), s(5));
        assert_eq!(writes.due(s(10)).0, ["p"]);
        writes.looking("p");
        writes.looked("p", &Ok(Answer::Found(None)), s(10));
        assert_eq!(count(&writes), 0, "it was there, and is gone");
    }

    #[test]
    fn an_ambiguous_creation_is_looked_for_and_keeps_its_place_for_a_while_even_so() {
        let mut writes = Writes::default();
        writes.creating("p", claim(), server(), s(0));
        writes.created("p", &Err(ApiError::Timeout), s(3));
        assert_eq!(writes.due(s(3)).0, ["p"]);
        writes.looking("p");
        writes.looked("p", &Err(ApiError::Timeout), s(6));
        assert_eq!(writes.due(s(6)), (vec![], Some(s(7))));
        writes.looking("p");
        writes.looked("p", &Ok(Answer::Found(None)), s(7));
        assert!(!writes.is_creating("p"), "so that it may be sent again");
        assert_eq!(count(&writes), 1);
        assert!(writes.ghost("p").is_some());
        // The second try works, and its pod ends at once: the first may still come.
        writes.creating("p", claim(), server(), s(8));
        writes.created("p", &Ok(Answer::Created { uid: "u".into() }), s(8));
        assert_eq!(count(&writes), 1, "not twice");
        writes.pod_shown("p", "u");
        assert_eq!(writes.places(|name| name == "p").len(), 0, "the watch shows it");
        assert_eq!(count(&writes), 1);
        assert!(!writes.free_places(s(12)));
        assert_eq!(writes.due(s(12)), (vec![], Some(s(13))));
        assert!(writes.free_places(s(13)));
        assert_eq!(count(&writes), 0);
    }

    #[test]
    fn a_refused_creation_no_longer_counts() {
        let mut writes = Writes::default();
        writes.creating("p", claim(), server(), s(0));
        writes.created("p", &Err(ApiError::Invalid(String::new())), s(1));
        assert_eq!(count(&writes), 0);
    }
}
