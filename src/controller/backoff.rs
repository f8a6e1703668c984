//! Rests between starts that fail: of a location whose servers all fail, and of the whole pool where its
//! servers fail alike, so that a location that is down, or a key that no longer works, costs a pod now
//! and then and not three for each request. Asked and told by the plan; pure.
//!
//! A rest is one of a row that doubles. When it is over, one claim may try (the trial), and the others
//! wait for how that goes: an exit that comes up ends the rest, a trial that fails begins the next. The
//! leader keeps all of it in memory; the claim whose start failed carries it too ([`Backoff`]), and a new
//! leader reads it there.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::action::Now;
use crate::servers::{Catalogue, CountryId, Place};
use crate::session::FailureClass;
use crate::session::claim::Backoff;

/// The first rest: about what two starts in a row take to fail.
const FIRST: Duration = Duration::from_secs(5);

/// The longest. Whoever mends the key or the provider waits for no longer than this.
pub(super) const LONGEST: Duration = Duration::from_secs(300);

/// How long after a rest a location without another failure is forgotten, and how long a failed start
/// tells anything of the pool.
const MEMORY: Duration = Duration::from_secs(300);

/// Servers, and countries, that must have failed alike, with none up, before it is the pool's fault.
const SERVERS: usize = 3;
const COUNTRIES: usize = 2;

/// Starts that fail in one location, or in all.
#[derive(Clone, Debug)]
struct Rest {
    /// Since when, by the wall clock, for people.
    since: SystemTime,
    /// Rows of starts that have failed since then.
    failures: u32,
    /// Rests so far.
    rests: u32,
    /// When the last one began, or this leader has learned of it.
    began: Option<Duration>,
    /// Until when none is tried.
    until: Duration,
    /// The same by the wall clock, for people and for the next leader.
    until_wall: SystemTime,
    /// How the last one failed, and in which words.
    last: (FailureClass, &'static str),
    /// The claim that tries, when the rest is over.
    trial: Option<Trial>,
}

/// A row of starts that has failed for good.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// When its last start began.
    pub(super) begun: Duration,
    /// How that failed, and in which words.
    pub(super) last: (FailureClass, &'static str),
    /// Whether nothing in its location is left that has not failed lately.
    pub(super) exhausted: bool,
}

/// A claim that tries whether starts work again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trial {
    /// Name of the claim.
    pub(super) name: String,
    /// Its uid.
    pub(super) uid: String,
}

impl Rest {
    fn fail(&mut self, last: (FailureClass, &'static str), rest: bool, now: Now) {
        self.last = last;
        self.failures = self.failures.saturating_add(1);
        self.trial = None;
        if rest {
            let pause = FIRST.saturating_mul(2_u32.saturating_pow(self.rests)).min(LONGEST);
            self.rests = self.rests.saturating_add(1);
            self.began = Some(now.mono);
            self.until = now.mono + pause;
            self.until_wall = now.wall + pause;
        }
    }

    fn new(last: (FailureClass, &'static str), now: Now) -> Self {
        Self {
            since: now.wall,
            failures: 0,
            rests: 0,
            began: None,
            until: now.mono,
            until_wall: now.wall,
            last,
            trial: None,
        }
    }

    fn is_resting(&self, now: Duration) -> bool {
        self.until > now
    }

    fn backoff(&self, pool: bool) -> Backoff {
        Backoff { since: self.since, until: self.until_wall, failures: self.failures, pool }
    }
}

/// What a rest is told with: its record, the class of the last failure and its words.
pub(super) type Told = (Backoff, FailureClass, &'static str);

/// Whether a claim may start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// It may; as the trial, if a rest is over.
    Open,
    /// Not now: starts rest.
    Resting(Told),
    /// Another claim tries whether starts work again.
    OnTrial(Told),
}

/// Failed starts since the last exit came up: how, and on which servers.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
struct Alike {
    class: Option<FailureClass>,
    servers: BTreeMap<String, (CountryId, Duration)>,
}

/// All rests.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Backoffs {
    places: BTreeMap<Place, Rest>,
    pool: Option<Rest>,
    alike: Alike,
    /// Whether a rest has begun or ended since it was last asked.
    changed: bool,
}

impl Backoffs {
    /// A start failed on a server.
    pub(super) fn start_failed(
        &mut self,
        server: &str,
        class: FailureClass,
        catalogue: &Catalogue,
        now: Duration,
    ) {
        let Some(server) = catalogue.by_hostname(server) else { return };
        if self.alike.class.is_some_and(|before| !is_alike(before, class)) {
            self.alike.servers.clear();
        }
        self.alike.class = Some(class);
        self.alike.servers.retain(|_, (_, at)| *at + MEMORY > now);
        let hostname = server.hostname.as_str().to_owned();
        self.alike.servers.insert(hostname, (server.country_id.clone(), now));
    }

    /// Whether servers all over the pool fail alike, so that the cause is what they share.
    pub(super) fn fails_alike(&self, catalogue: &Catalogue) -> bool {
        let servers = &self.alike.servers;
        let mut countries: Vec<_> = servers.values().map(|(country, _)| country).collect();
        countries.sort_unstable();
        countries.dedup();
        !servers.is_empty()
            && servers.len() >= SERVERS.min(catalogue.len())
            && countries.len() >= COUNTRIES.min(catalogue.countries().len())
    }

    /// Whether the pool is to blame already for failures like this one: what its trials tell is about it,
    /// however long ago the servers have failed that have shown it.
    pub(super) fn is_pools(&self, class: FailureClass) -> bool {
        self.pool.as_ref().is_some_and(|rest| is_alike(rest.last.0, class))
    }

    /// A row of starts has failed for good, in a location or by the whole pool's fault (`pool`). Tells the rest that begins, if one does.
    pub(super) fn row_failed(&mut self, place: &Place, row: Row, pool: bool, now: Now) -> Option<Backoff> {
        self.changed = true;
        let Row { begun, last, exhausted } = row;
        let rest = if pool {
            self.pool.get_or_insert_with(|| Rest::new(last, now))
        } else {
            // If the pool was to blame before, it no longer is: this one has failed in another way.
            if self.pool.as_ref().is_some_and(|pool| !pool.is_resting(now.mono)) {
                self.pool = None;
            }
            self.places.entry(place.clone()).or_insert_with(|| Rest::new(last, now))
        };
        if rest.is_resting(now.mono) || rest.began.is_some_and(|began| begun <= began) {
            // It had begun before the rest did, and says nothing new.
            return None;
        }
        // One row alone tells little of a location of which most has not been tried.
        rest.fail(last, pool || exhausted || rest.failures > 0, now);
        rest.is_resting(now.mono).then(|| rest.backoff(pool))
    }

    /// An exit on that server has come up: the pool works, and so does every location that has the server.
    pub(super) fn came_up(&mut self, server: &str, catalogue: &Catalogue) {
        self.changed |= self.pool.take().is_some() || !self.places.is_empty();
        self.alike = Alike::default();
        let has = |place: &Place| catalogue.candidates(place).any(|found| found.hostname.as_str() == server);
        self.places.retain(|place, _| !has(place));
    }

    /// Takes over what another leader has written on a claim.
    pub(super) fn restore(
        &mut self,
        place: &Place,
        backoff: &Backoff,
        last: (FailureClass, &'static str),
        now: Now,
    ) {
        let left = backoff.until.duration_since(now.wall).unwrap_or_default().min(LONGEST);
        let known = if backoff.pool { self.pool.as_ref() } else { self.places.get(place) };
        if left.is_zero() || known.is_some_and(|rest| rest.until >= now.mono + left) {
            return;
        }
        let rest = Rest {
            since: backoff.since,
            failures: backoff.failures,
            rests: backoff.failures,
            began: Some(now.mono),
            until: now.mono + left,
            until_wall: backoff.until,
            last,
            trial: None,
        };
        self.changed = true;
        if backoff.pool {
            self.pool = Some(rest);
        } else {
            self.places.insert(place.clone(), rest);
        }
    }

    /// Whether a rest has begun or ended since this was last asked.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn covering(&self, place: &Place) -> impl Iterator<Item = (bool, &Rest)> {
        let pool = self.pool.iter().map(|rest| (true, rest));
        pool.chain(self.places.get(place).map(|rest| (false, rest)))
    }

    /// The rest that a location is in.
    pub(super) fn resting(&self, place: &Place, now: Duration) -> Option<(Duration, Told)> {
        let resting = self.covering(place).filter(|(_, rest)| rest.is_resting(now));
        let (pool, rest) = resting.max_by_key(|(_, rest)| rest.until)?;
        Some((rest.until, (rest.backoff(pool), rest.last.0, rest.last.1)))
    }

    /// Whether a claim may start there. `lives` tells of a trial whether it is still going on.
    pub(super) fn gate(
        &self,
        place: &Place,
        uid: &str,
        now: Duration,
        lives: impl Fn(&Trial) -> bool,
    ) -> Gate {
        if let Some((_, told)) = self.resting(place, now) {
            return Gate::Resting(told);
        }
        let tries = self.covering(place).find(|(_, rest)| {
            rest.rests > 0 && rest.trial.as_ref().is_some_and(|trial| trial.uid != uid && lives(trial))
        });
        match tries {
            Some((pool, rest)) => Gate::OnTrial((rest.backoff(pool), rest.last.0, rest.last.1)),
            None => Gate::Open,
        }
    }

    /// A claim starts: where a rest is over, as its trial.
    pub(super) fn begins(&mut self, place: &Place, name: &str, uid: &str) {
        for rest in self.pool.iter_mut().chain(self.places.get_mut(place)).filter(|rest| rest.rests > 0) {
            rest.trial = Some(Trial { name: name.to_owned(), uid: uid.to_owned() });
        }
    }

    /// Rests that are going on, for the metric.
    pub(super) fn count(&self, now: Duration) -> usize {
        self.pool.iter().chain(self.places.values()).filter(|rest| rest.is_resting(now)).count()
    }

    /// Drops what no longer matters. A trial takes less than that.
    pub(super) fn forget(&mut self, now: Duration) {
        let before = self.places.len();
        self.places.retain(|_, rest| rest.until + MEMORY > now);
        self.changed |= self.places.len() < before;
        if self.pool.as_ref().is_some_and(|rest| rest.until + MEMORY <= now) {
            self.pool = None;
            self.changed = true;
        }
    }
}

/// Whether two failures look alike: a tunnel through which nothing comes is known as such or by its time.
fn is_alike(a: FailureClass, b: FailureClass) -> bool {
    let silent = |class| matches!(class, FailureClass::TunnelSilent | FailureClass::AttemptTimeout);
    a == b || (silent(a) && silent(b))
}

/// The one cause that is told where every server of the pool fails alike.
pub(super) const fn shared_cause(class: FailureClass) -> Option<&'static str> {
    match class {
        FailureClass::TunnelSilent => Some(
            "nothing comes through any server of the pool: the VPN key, its addresses or the subscription no \
             longer work",
        ),
        FailureClass::AttemptTimeout => Some(
            "no server of the pool becomes healthy in time: the VPN key, the subscription or the cluster's way out \
             do not work",
        ),
        FailureClass::BadServer => {
            Some("the VPN pod's image knows none of the servers: its list and the gateway's list differ")
        }
        FailureClass::ImagePull
        | FailureClass::Unschedulable
        | FailureClass::MissingSecret
        | FailureClass::NoNetAdmin
        | FailureClass::TunMissing
        | FailureClass::BadKey
        | FailureClass::BadSetting
        | FailureClass::OutOfMemory
        | FailureClass::Evicted
        | FailureClass::StartError
        | FailureClass::Exited
        | FailureClass::Deleted
        | FailureClass::PodSecurity
        | FailureClass::Admission
        | FailureClass::NoServer => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::testing;

    const SILENT: (FailureClass, &str) = (FailureClass::TunnelSilent, "silent");

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn now(seconds: u64) -> Now {
        Now { mono: s(seconds), wall: testing::wall() + s(seconds) }
    }

    /// A row whose last start began and failed at that second.
    fn row(at: u64, exhausted: bool) -> Row {
        Row { begun: s(at), last: SILENT, exhausted }
    }

    fn place(canonical: &str) -> Place {
        testing::key(canonical).place
    }

    fn gate(backoffs: &Backoffs, place: &Place, uid: &str, at: u64) -> &'static str {
        match backoffs.gate(place, uid, s(at), |_| true) {
            Gate::Open => "open",
            Gate::Resting(_) => "resting",
            Gate::OnTrial(_) => "on trial",
        }
    }

    #[test]
    fn rests_double_up_to_the_longest_and_a_trial_decides_each() {
        let (se, no) = (place("a-country-se"), place("a-country-no"));
        let mut backoffs = Backoffs::default();
        let mut at = 0;
        for (n, pause) in [5, 10, 20, 40, 80, 160, 300, 300].into_iter().enumerate() {
            let rest = backoffs.row_failed(&se, row(at, true), false, now(at)).unwrap();
            assert_eq!(rest.until, testing::wall() + s(at + pause));
            assert_eq!((rest.since, rest.failures), (testing::wall(), u32::try_from(n).unwrap() + 1));
            assert_eq!(gate(&backoffs, &se, "a", at + pause - 1), "resting");
            assert_eq!(gate(&backoffs, &no, "a", at), "open", "another location is none of it");
            // A row that had begun before does not make it longer.
            assert_eq!(backoffs.row_failed(&se, row(at + 1, true), false, now(at + 1)), None);
            at += pause;
            assert_eq!(gate(&backoffs, &se, "a", at), "open");
            backoffs.begins(&se, "claim", "a");
            assert_eq!(gate(&backoffs, &se, "a", at), "open", "the trial goes on");
            assert_eq!(gate(&backoffs, &se, "b", at), "on trial");
            assert!(matches!(backoffs.gate(&se, "b", s(at), |_| false), Gate::Open), "it was given up");
        }
        assert_eq!(backoffs.count(s(at - 1)), 1);
        let catalogue = testing::catalogue(4);
        backoffs.came_up("no-1", &catalogue);
        assert_eq!(gate(&backoffs, &se, "b", at), "on trial", "of another location");
        backoffs.came_up("se-2", &catalogue);
        assert_eq!(gate(&backoffs, &se, "b", at), "open");
        assert_eq!(backoffs.count(s(at)), 0);
    }

    #[test]
    fn the_first_row_of_a_location_with_more_to_try_makes_no_rest() {
        let se = place("a-country-se");
        let mut backoffs = Backoffs::default();
        assert_eq!(backoffs.row_failed(&se, row(0, false), false, now(0)), None);
        assert_eq!(gate(&backoffs, &se, "a", 0), "open");
        backoffs.begins(&se, "claim", "a");
        assert_eq!(gate(&backoffs, &se, "b", 0), "open", "and no trial");
        let rest = backoffs.row_failed(&se, row(30, false), false, now(30)).unwrap();
        assert_eq!((rest.since, rest.until), (testing::wall(), testing::wall() + s(35)));
        assert_eq!(rest.failures, 2);
    }

    #[test]
    fn servers_of_two_countries_that_fail_alike_are_the_pools_fault() {
        let catalogue = testing::catalogue(4);
        let mut backoffs = Backoffs::default();
        for server in ["se-1", "se-2", "se-3"] {
            backoffs.start_failed(server, FailureClass::TunnelSilent, &catalogue, s(0));
        }
        assert!(!backoffs.fails_alike(&catalogue), "it may be the country");
        backoffs.start_failed("no-1", FailureClass::AttemptTimeout, &catalogue, s(1));
        assert!(backoffs.fails_alike(&catalogue));
        backoffs.start_failed("no-2", FailureClass::OutOfMemory, &catalogue, s(2));
        assert!(!backoffs.fails_alike(&catalogue), "that is something else");
        for server in ["se-1", "no-1", "no-2"] {
            backoffs.start_failed(server, FailureClass::TunnelSilent, &catalogue, s(3));
        }
        assert!(backoffs.fails_alike(&catalogue));
        backoffs.came_up("no-3", &catalogue);
        assert!(!backoffs.fails_alike(&catalogue), "one of them works");
        assert!(!Backoffs::default().fails_alike(&Catalogue::default()));
        // What is long past says nothing.
        backoffs.start_failed("se-1", FailureClass::TunnelSilent, &catalogue, s(3));
        backoffs.start_failed("no-1", FailureClass::TunnelSilent, &catalogue, s(302));
        backoffs.start_failed("no-2", FailureClass::TunnelSilent, &catalogue, s(303));
        assert!(!backoffs.fails_alike(&catalogue));
    }

    #[test]
    fn what_had_begun_before_a_rest_says_nothing_new_after_it() {
        let se = place("a-country-se");
        let mut backoffs = Backoffs::default();
        backoffs.row_failed(&se, row(3, true), false, now(3));
        backoffs.begins(&se, "claim", "a");
        let old = Row { begun: s(2), ..row(2, true) };
        assert_eq!(backoffs.row_failed(&se, old, false, now(9)), None);
        assert_eq!(gate(&backoffs, &se, "b", 9), "on trial", "which goes on");
        assert_eq!(backoffs.row_failed(&se, row(8, true), false, now(9)).unwrap().failures, 2);
        // Of two rows of which neither makes a rest, each tells something.
        let no = place("a-country-no");
        assert_eq!(backoffs.row_failed(&no, Row { begun: s(0), ..row(0, false) }, false, now(1)), None);
        assert!(backoffs.row_failed(&no, Row { begun: s(0), ..row(0, false) }, false, now(2)).is_some());
    }

    #[test]
    fn a_rest_of_the_pool_is_one_of_every_location_until_something_else_goes_wrong() {
        let (se, no) = (place("a-country-se"), place("a-country-no"));
        let mut backoffs = Backoffs::default();
        assert!(backoffs.row_failed(&se, row(0, false), true, now(0)).unwrap().pool);
        assert_eq!(gate(&backoffs, &no, "a", 4), "resting");
        assert_eq!(gate(&backoffs, &no, "a", 5), "open");
        backoffs.begins(&no, "claim", "a");
        assert_eq!(gate(&backoffs, &se, "b", 5), "on trial");
        assert!(!backoffs.row_failed(&no, row(6, true), false, now(6)).unwrap().pool);
        assert_eq!(gate(&backoffs, &se, "b", 6), "open");
        assert_eq!(gate(&backoffs, &no, "b", 6), "resting");
    }

    #[test]
    fn the_next_leader_keeps_to_what_a_claim_says_whatever_its_clock() {
        let se = place("a-country-se");
        let mut first = Backoffs::default();
        first.row_failed(&se, row(0, true), false, now(0));
        let rest = first.row_failed(&se, row(5, true), false, now(5)).unwrap();
        let mut next = Backoffs::default();
        // Its clock is an hour behind: it must not rest for an hour.
        let behind = Now { mono: s(100), wall: testing::wall() - s(3600) };
        next.restore(&se, &rest, SILENT, behind);
        assert_eq!(gate(&next, &se, "a", 399), "resting");
        assert_eq!(gate(&next, &se, "a", 400), "open");
        let mut next = Backoffs::default();
        next.restore(&se, &rest, SILENT, now(6));
        assert_eq!(gate(&next, &se, "a", 14), "resting");
        let third = next.row_failed(&se, row(15, true), false, now(15)).unwrap();
        assert_eq!((third.until, third.failures), (testing::wall() + s(35), 3), "and the row goes on");
        let mut late = Backoffs::default();
        late.restore(&se, &rest, SILENT, now(15));
        assert_eq!(gate(&late, &se, "a", 15), "open");
        next.forget(s(334));
        assert_eq!(next.places.len(), 1);
        next.forget(s(335));
        assert!(next.places.is_empty());
    }
}
