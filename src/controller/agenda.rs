//! What there is to plan. A claim is looked at when something about it has changed, or when the moment has
//! come that its last look has named; so a round costs what has changed, however many claims there are.
//! Filled by the [`Brain`](super::brain::Brain) as events and results come, emptied by
//! [`plan`](super::plan).
//!
//! Who changes what a rule goes by must touch those whom the rule is about. The tests hold that: beside each
//! plan they make one for everything, and the two must be the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::action::Now;
use crate::session::claim::Claim;

/// After how long everything is looked at again though nothing is known to have changed: nothing rests on
/// it, and should something have been forgotten, it is made good.
const EVERYTHING: Duration = Duration::from_secs(60);

/// A difference between the two clocks that is no drift: the wall clock was set.
const STEP: Duration = Duration::from_millis(500);

/// What is planned together: a claim with its pods, or pods whose claim is not there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Unit {
    /// Name of the claim.
    pub(super) claim: Arc<str>,
    /// Its uid.
    pub(super) uid: Arc<str>,
}

impl Unit {
    pub(super) fn new(claim: &str, uid: &str) -> Self {
        Self { claim: Arc::from(claim), uid: Arc::from(uid) }
    }

    pub(super) fn of(claim: &Claim) -> Self {
        Self::new(&claim.name, &claim.uid)
    }
}

/// What is to be looked at, and when.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Agenda {
    /// Everything.
    all: bool,
    /// When everything was last looked at.
    all_at: Duration,
    /// When the wall clock showed the start of the other, as of then.
    start: Option<SystemTime>,
    /// Units that something has changed for; and whether it may matter to those who wait for a pod.
    touched: BTreeMap<Unit, bool>,
    /// When a unit is to be looked at again.
    wakes: BTreeMap<Unit, Duration>,
    /// The same in order.
    due: BTreeSet<(Duration, Unit)>,
    /// Whether something has changed for those who wait for a pod.
    queue: bool,
    /// When they are to be looked at again.
    queue_wake: Option<Duration>,
}

impl Default for Agenda {
    fn default() -> Self {
        Self {
            all: true,
            all_at: Duration::ZERO,
            start: None,
            touched: BTreeMap::new(),
            wakes: BTreeMap::new(),
            due: BTreeSet::new(),
            queue: true,
            queue_wake: None,
        }
    }
}

impl Agenda {
    /// Something has changed for a unit. `matters` unless it surely is nothing to those who wait for a pod.
    pub(super) fn touch(&mut self, unit: Unit, matters: bool) {
        *self.touched.entry(unit).or_default() |= matters;
    }

    /// Something has changed that may concern every claim.
    pub(super) fn touch_all(&mut self) {
        self.all = true;
    }

    /// Something has changed for those who wait for a pod.
    pub(super) fn touch_queue(&mut self) {
        self.queue = true;
    }

    /// Whether everything is to be looked at now.
    pub(super) fn takes_all(&mut self, now: Now) -> bool {
        let start = now.wall.checked_sub(now.mono).unwrap_or(SystemTime::UNIX_EPOCH);
        let is_step = |before: SystemTime| {
            let ahead = start.duration_since(before).unwrap_or_else(|behind| behind.duration());
            ahead > STEP
        };
        let all = std::mem::take(&mut self.all)
            || self.all_at + EVERYTHING <= now.mono
            || self.start.is_none_or(is_step);
        if all {
            self.all_at = now.mono;
            self.start = Some(start);
            self.queue = true;
        }
        all
    }

    /// The units to be looked at now; and of each, whether that may matter to those who wait for a pod.
    pub(super) fn take(&mut self, now: Duration) -> BTreeMap<Unit, bool> {
        while self.due.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, unit)) = self.due.pop_first()
        {
            self.wakes.remove(&unit);
            self.touched.insert(unit, true);
        }
        std::mem::take(&mut self.touched)
    }

    /// When a unit is to be looked at again; none if not because of the time.
    pub(super) fn set_wake(&mut self, unit: &Unit, at: Option<Duration>) {
        let before = match at {
            Some(at) => self.wakes.insert(unit.clone(), at),
            None => self.wakes.remove(unit),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.due.remove(&(before, unit.clone()));
        }
        if let Some(at) = at {
            self.due.insert((at, unit.clone()));
        }
    }

    /// A unit is to be looked at by then, or sooner.
    pub(super) fn wake_by(&mut self, unit: &Unit, at: Option<Duration>) {
        if let Some(at) = at
            && self.wakes.get(unit).is_none_or(|set| at < *set)
        {
            self.set_wake(unit, Some(at));
        }
    }

    /// Whether those who wait for a pod are to be looked at now.
    pub(super) fn takes_queue(&mut self, now: Duration) -> bool {
        std::mem::take(&mut self.queue) || self.queue_wake.is_some_and(|at| at <= now)
    }

    /// When they are to be looked at again; none if not because of the time.
    pub(super) fn set_queue_wake(&mut self, at: Option<Duration>) {
        self.queue_wake = at;
    }

    /// When the next is to be looked at.
    pub(super) fn next(&self) -> Option<Duration> {
        let unit = self.due.first().map(|(at, _)| *at);
        unit.into_iter().chain(self.queue_wake).min()
    }
}

/// What the last looks have found.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Found {
    /// Claims that wait for a pod.
    pub(super) waiting: BTreeMap<Unit, Arc<Claim>>,
    /// Rejected claims: how long they stay depends on rests between starts.
    pub(super) rejected: BTreeSet<Unit>,
    /// Claims with older exits: how long those stay depends on who waits.
    pub(super) draining: BTreeSet<Unit>,
    /// Uids of the claims that wait for what another pod holds.
    pub(super) pressed: BTreeSet<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn now(mono: u64, wall: u64) -> Now {
        Now { mono: s(mono), wall: SystemTime::UNIX_EPOCH + s(wall) }
    }

    fn unit(name: &str) -> Unit {
        Unit::new(name, name)
    }

    #[test]
    fn a_unit_is_taken_when_it_was_touched_or_its_time_has_come() {
        let mut agenda = Agenda::default();
        agenda.touch(unit("a"), false);
        agenda.touch(unit("b"), true);
        agenda.touch(unit("b"), false);
        assert_eq!(agenda.take(s(0)), BTreeMap::from([(unit("a"), false), (unit("b"), true)]));
        assert!(agenda.take(s(0)).is_empty());
        agenda.set_wake(&unit("a"), Some(s(9)));
        agenda.set_wake(&unit("b"), Some(s(5)));
        agenda.wake_by(&unit("a"), Some(s(7)));
        agenda.wake_by(&unit("b"), Some(s(6)));
        agenda.set_queue_wake(Some(s(8)));
        assert_eq!(agenda.next(), Some(s(5)));
        assert_eq!(agenda.take(s(5)), BTreeMap::from([(unit("b"), true)]));
        assert_eq!(agenda.next(), Some(s(7)));
        agenda.set_wake(&unit("a"), None);
        assert_eq!(agenda.next(), Some(s(8)));
        assert!(agenda.take(s(9)).is_empty());
    }

    #[test]
    fn the_queue_is_taken_when_it_was_touched_or_its_time_has_come() {
        let mut agenda = Agenda::default();
        assert!(agenda.takes_queue(s(0)), "the first time");
        assert!(!agenda.takes_queue(s(0)));
        agenda.touch_queue();
        assert!(agenda.takes_queue(s(0)));
        agenda.set_queue_wake(Some(s(3)));
        assert!(!agenda.takes_queue(s(2)));
        assert!(agenda.takes_queue(s(3)));
    }

    #[test]
    fn everything_is_taken_now_and_then_and_when_the_clock_was_set() {
        let mut agenda = Agenda::default();
        assert!(agenda.takes_all(now(0, 1000)), "the first time");
        assert!(!agenda.takes_all(now(10, 1010)));
        assert!(agenda.takes_all(now(60, 1060)), "a minute later");
        assert!(agenda.takes_all(now(61, 1000)), "the clock was set back");
        assert!(agenda.takes_all(now(62, 5000)), "or forth");
        assert!(!agenda.takes_all(now(63, 5001)));
        agenda.touch_all();
        assert!(agenda.takes_all(now(64, 5002)));
    }
}
