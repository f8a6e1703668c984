//! The table of sessions: one [`Entry`] for each session that this replica has heard of, found by its
//! key without a lock that anyone holds for long. The index of pods and claims publishes into it, data
//! threads read it, and the guards that count who uses an exit live here.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use dashmap::DashMap;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::claim::{Claim, Reason};
use super::exit::Exit;
use super::id::{Id, Ids};
use super::pod::PodView;
use crate::hash::IsHash;
use crate::secret::Secret;
use crate::selector::{Lifetimes, SessionKey};

/// Why the control plane could not do what a session needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ControlError {
    /// A right is missing: verb and resource.
    Forbidden(String),
    /// The API server does not answer, or not usefully.
    Unavailable,
}

/// What is known of a session.
#[derive(Clone, Debug)]
pub(super) enum State {
    /// No claim.
    Absent,
    /// A claim without a usable exit, and the pod of its current transition if there is one.
    Waiting { claim: Arc<Claim>, pod: Option<Arc<PodView>> },
    /// An exit.
    Ready { claim: Arc<Claim>, exit: Arc<Exit> },
    /// The leader has refused the claim.
    Rejected { claim: Arc<Claim>, reason: Reason },
    /// A strict session has lost its exit.
    Lost { claim: Arc<Claim> },
}

/// What a request is told of its claim.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// The idle timeout.
    pub(super) idle: Duration,
    /// The age at which an exit is replaced.
    pub(super) ttl: Option<Duration>,
    /// When the current exit expires.
    pub(super) expires: Option<SystemTime>,
}

impl Terms {
    pub(super) fn of(claim: &Claim) -> Self {
        Self { idle: claim.duration, ttl: claim.ttl, expires: claim.expires }
    }

    /// Whether the current exit is past the session's `ttl`.
    fn is_over(&self) -> bool {
        self.expires.is_some_and(|at| at <= SystemTime::now())
    }
}

impl State {
    pub(super) fn claim(&self) -> Option<&Arc<Claim>> {
        match self {
            Self::Absent => None,
            Self::Waiting { claim, .. }
            | Self::Ready { claim, .. }
            | Self::Rejected { claim, .. }
            | Self::Lost { claim } => Some(claim),
        }
    }
}

/// One session, as this replica knows it. What a hit goes by comes first and stays together: in a large
/// table a hit costs what the memory that it touches is away.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Entry {
    /// The exit that the state tells of, if it does, with what a request is told of the claim.
    ready: std::sync::RwLock<Option<(Arc<Exit>, Terms)>>,
    /// Until when a hit need not renew the claim first, in milliseconds since the clock's start.
    fresh_until: AtomicU64,
    /// When the session was last used, in milliseconds since the clock's start.
    last_used: AtomicU64,
    /// Requests and tunnels that have an exit.
    active: AtomicUsize,
    /// Whether the renewals know that it is used: it is in their list, or in `used` on its way there.
    listed: AtomicBool,
    /// Set while a task makes and holds the claim for those who wait.
    pub(super) ensuring: AtomicBool,
    /// Set when nobody will ever ask for this session again: its claim is to go with those who wait.
    abandoned: AtomicBool,
    clock: Clock,
    /// Name of its claim.
    pub(super) name: Arc<str>,
    /// What is known of it, for those who wait or want to know more than a hit does.
    state: watch::Sender<State>,
    /// Requests that wait for an exit.
    waiters: AtomicUsize,
    /// Counts the first waiters: those who come after a request to the API server was sent are not told
    /// how it went.
    rounds: AtomicUsize,
    /// Told when the first waiter comes or the last one goes.
    pub(super) waiters_changed: Notify,
    pub(super) key: SessionKey,
    /// What the last attempt to reach the API server for this session came to.
    control_error: std::sync::Mutex<Option<ControlError>>,
    /// The first request's wishes: what a claim of it is made with.
    lifetimes: std::sync::Mutex<Lifetimes>,
    used: Used,
}

/// Monotonic milliseconds since the table was made: what fits an atomic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    pub(super) fn now(self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The wall-clock time of a moment of this clock.
    pub(super) fn wall(self, at: u64) -> SystemTime {
        let ago = Duration::from_millis(self.now().saturating_sub(at));
        SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

fn locked<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Entry {
    fn new(key: SessionKey, table: &Table) -> Self {
        Self {
            name: key.claim_name().into(),
            key,
            ready: std::sync::RwLock::default(),
            state: watch::channel(State::Absent).0,
            active: AtomicUsize::new(0),
            waiters: AtomicUsize::new(0),
            rounds: AtomicUsize::new(0),
            waiters_changed: Notify::new(),
            ensuring: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            last_used: AtomicU64::new(0),
            listed: AtomicBool::new(false),
            used: Arc::clone(&table.used),
            fresh_until: AtomicU64::new(0),
            control_error: std::sync::Mutex::default(),
            lifetimes: std::sync::Mutex::default(),
            clock: table.clock,
        }
    }

    pub(super) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Publishes what is known now, and wakes those who wait.
    pub(super) fn publish(&self, state: State) {
        let ready = match &state {
            State::Ready { claim, exit } => Some((Arc::clone(exit), Terms::of(claim))),
            State::Absent | State::Waiting { .. } | State::Rejected { .. } | State::Lost { .. } => None,
        };
        // First, for those whom the other wakes.
        *self.ready.write().unwrap_or_else(PoisonError::into_inner) = ready;
        self.state.send_replace(state);
    }

    /// Wakes those who wait to look again at what lies beside the state.
    pub(super) fn wake(&self) {
        self.state.send_modify(|_| {});
    }

    /// The exit, if there is one that can be used without renewing or replacing anything first.
    pub(super) fn usable(self: &Arc<Self>) -> Option<(Terms, Arc<Exit>, Activity)> {
        let now = self.clock.now();
        if now >= self.fresh_until.load(Ordering::Relaxed) {
            return None;
        }
        let (exit, terms) = {
            let ready = self.ready.read().unwrap_or_else(PoisonError::into_inner);
            let (exit, terms) = ready.as_ref().filter(|(_, terms)| !terms.is_over())?;
            (Arc::clone(exit), *terms)
        };
        let activity = Activity::new(Arc::clone(self), Arc::clone(&exit), now);
        Some((terms, exit, activity))
    }

    /// Notes that the claim was renewed `age` ago by its own word, so that hits are free until three
    /// quarters of its duration have passed.
    pub(super) fn renewed(&self, claim: &Claim, age: Duration) {
        let fresh = if claim.pinned { u64::MAX / 2 } else { millis(claim.duration * 3 / 4) };
        let until = self.clock.now().saturating_add(fresh.saturating_sub(millis(age)));
        self.fresh_until.store(until, Ordering::Relaxed);
    }

    /// Lets hits go on for a moment though the renewal they wanted failed: traffic goes on when the API
    /// server is away.
    pub(super) fn excuse(&self, how_long: Duration) {
        let until = self.clock.now().saturating_add(millis(how_long));
        self.fresh_until.fetch_max(until, Ordering::Relaxed);
        self.wake();
    }

    /// The given exit, as long as it is the session's current one or drains: for credentials that mean
    /// that very pod. The use is written as activity by the next renewal.
    pub(super) fn use_exit(self: &Arc<Self>, exit: &Arc<Exit>) -> Option<(Arc<Claim>, Activity)> {
        let claim = self.state.borrow().claim().map(Arc::clone)?;
        (!exit.gone.is_cancelled())
            .then(|| (claim, Activity::new(Arc::clone(self), Arc::clone(exit), self.clock.now())))
    }

    /// Notes that nobody will ever ask for this session again.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    pub(super) fn is_fresh(&self) -> bool {
        self.clock.now() < self.fresh_until.load(Ordering::Relaxed)
    }

    pub(super) fn active(&self) -> usize {
        self.active.load(Ordering::SeqCst)
    }

    /// Lets the renewals know that it is used, unless they do. To be called once it is counted as active or
    /// waiting: [`Entry::unlist`] counts on that order.
    fn list(self: &Arc<Self>) {
        if !self.listed.load(Ordering::SeqCst) && !self.listed.swap(true, Ordering::SeqCst) {
            locked(&self.used).push(Arc::clone(self));
        }
    }

    /// Takes it off the renewals' list, which they do when all of its use is written: false if it is used
    /// again, and stays there. Whoever begins to use it meanwhile either finds it off the list, or is found
    /// here: he counts and then looks, we take it off and then look.
    pub(super) fn unlist(&self) -> bool {
        let last = self.last_used.load(Ordering::SeqCst);
        self.listed.store(false, Ordering::SeqCst);
        let again = self.is_in_use() || self.last_used.load(Ordering::SeqCst) != last;
        // If it was listed meanwhile, it comes by itself.
        !again || self.listed.swap(true, Ordering::SeqCst)
    }

    /// Whether anyone uses it or waits for it.
    pub(super) fn is_in_use(&self) -> bool {
        self.active() > 0 || self.waiters() > 0
    }

    /// How often someone has begun to wait while nobody did.
    pub(super) fn rounds(&self) -> usize {
        self.rounds.load(Ordering::Acquire)
    }

    pub(super) fn waiters(&self) -> usize {
        self.waiters.load(Ordering::SeqCst)
    }

    /// When the session was last used: now, if it is in use.
    pub(super) fn last_used(&self) -> u64 {
        if self.is_in_use() { self.clock.now() } else { self.last_used.load(Ordering::Relaxed) }
    }

    /// For how long nobody has used the session here; none if nobody ever has.
    pub(super) fn unused_for(&self) -> Option<Duration> {
        let used = self.last_used();
        (used > 0).then(|| Duration::from_millis(self.clock.now().saturating_sub(used)))
    }

    pub(super) fn touch(&self, now: u64) {
        self.last_used.fetch_max(now, Ordering::Relaxed);
    }

    pub(super) fn control_error(&self) -> Option<ControlError> {
        locked(&self.control_error).clone()
    }

    /// Notes how the last request to the API server went, and wakes those who wait if it was refused.
    pub(super) fn set_control_error(&self, error: Option<ControlError>) {
        let refused = matches!(error, Some(ControlError::Forbidden(_)));
        *locked(&self.control_error) = error;
        if refused {
            self.wake();
        }
    }

    pub(super) fn lifetimes(&self) -> Lifetimes {
        *locked(&self.lifetimes)
    }

    fn set_lifetimes(&self, lifetimes: &Lifetimes) {
        *locked(&self.lifetimes) = *lifetimes;
    }

    fn is_unused(&self) -> bool {
        self.active() == 0
            && self.waiters() == 0
            && !self.ensuring.load(Ordering::Relaxed)
            && matches!(&*self.state.borrow(), State::Absent)
    }
}

/// Whether the current exit is past the session's `ttl`.
pub(super) fn is_expired(claim: &Claim) -> bool {
    Terms::of(claim).is_over()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A request or tunnel that uses an exit: while it lives, its session is active.
#[derive(Debug)]
pub struct Activity {
    entry: Arc<Entry>,
    exit: Arc<Exit>,
}

impl Activity {
    fn new(entry: Arc<Entry>, exit: Arc<Exit>, now: u64) -> Self {
        entry.active.fetch_add(1, Ordering::SeqCst);
        exit.active.fetch_add(1, Ordering::Relaxed);
        entry.touch(now);
        entry.list();
        Self { entry, exit }
    }

    /// Name of the session's claim.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.entry.name
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        self.entry.touch(self.entry.clock.now());
        self.exit.active.fetch_sub(1, Ordering::Relaxed);
        // After the touch, for whoever finds it unused.
        self.entry.active.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A request that waits for its session's exit.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) entry: Arc<Entry>,
    waiting: Arc<AtomicUsize>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.entry.touch(self.entry.clock.now());
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        if self.entry.waiters.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.entry.waiters_changed.notify_one();
        }
    }
}

/// Why a request may not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crowded {
    /// The session's own queue is full.
    Session,
    /// The gateway's is.
    Gateway,
}

/// Most requests that may wait for one session.
pub const WAITERS_PER_SESSION: usize = 1024;
/// Most requests that may wait in all.
pub const WAITERS: usize = 4096;

/// A pod's own credentials, which also work at the gateway and mean that pod.
#[derive(Clone, Debug)]
pub(super) struct PodLogin {
    pub(super) key: SessionKey,
    pub(super) exit: Arc<Exit>,
    pub(super) password: Secret,
}

/// Sessions whose use has begun and that the renewals have yet to take over.
type Used = Arc<std::sync::Mutex<Vec<Arc<Entry>>>>;

/// All sessions that this replica has heard of.
#[derive(Debug)]
pub(super) struct Table {
    entries: DashMap<Id, Arc<Entry>, IsHash>,
    ids: Ids,
    used: Used,
    logins: DashMap<String, PodLogin>,
    waiting: Arc<AtomicUsize>,
    /// Told when a pod's credentials have become known, or its pod has changed.
    pub(super) logins_changed: Notify,
    pub(super) clock: Clock,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            entries: DashMap::default(),
            ids: Ids::default(),
            used: Used::default(),
            logins: DashMap::new(),
            waiting: Arc::default(),
            logins_changed: Notify::new(),
            clock: Clock { start: Instant::now() },
        }
    }

    pub(super) fn get(&self, key: &SessionKey) -> Option<Arc<Entry>> {
        self.entries.get(&self.ids.of(key)).map(|entry| Arc::clone(&entry))
    }

    /// The entry of a session, made if there is none.
    pub(super) fn entry(&self, key: &SessionKey) -> Arc<Entry> {
        match self.get(key) {
            Some(entry) => entry,
            None => Arc::clone(
                &self
                    .entries
                    .entry(self.ids.of(key))
                    .or_insert_with(|| Arc::new(Entry::new(key.clone(), self))),
            ),
        }
    }

    /// Queues a request. Its entry cannot vanish while it waits.
    pub(super) fn wait(&self, key: &SessionKey, lifetimes: &Lifetimes) -> Result<Waiter, Crowded> {
        // First: whoever is turned away leaves nothing behind.
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITERS {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Crowded::Gateway);
        }
        let slot =
            self.entries.entry(self.ids.of(key)).or_insert_with(|| Arc::new(Entry::new(key.clone(), self)));
        let entry = Arc::clone(&slot);
        let before = entry.waiters.fetch_add(1, Ordering::SeqCst);
        entry.list();
        // Counted while the map's guard is held, so that `forget` sees either the entry unused or us.
        drop(slot);
        let waiter = Waiter { entry, waiting: Arc::clone(&self.waiting) };
        if before >= WAITERS_PER_SESSION {
            return Err(Crowded::Session);
        }
        if before == 0 {
            if waiter.entry.state.borrow().claim().is_none() {
                waiter.entry.set_lifetimes(lifetimes);
            }
            // What went wrong for those before is tried anew, not told again.
            waiter.entry.rounds.fetch_add(1, Ordering::AcqRel);
            *locked(&waiter.entry.control_error) = None;
            waiter.entry.waiters_changed.notify_one();
        }
        Ok(waiter)
    }

    /// Makes a pod's own credentials known.
    pub(super) fn log_in(&self, user: &str, login: PodLogin) {
        self.logins.insert(user.to_owned(), login);
        self.logins_changed.notify_waiters();
    }

    /// Forgets the credentials of an exit that is gone.
    pub(super) fn log_out(&self, exit: &Exit) {
        self.logins.remove_if(&*exit.user, |_, login| login.exit.uid == exit.uid);
    }

    /// The pod that these credentials mean.
    pub(super) fn pod_login(&self, user: &str) -> Option<PodLogin> {
        self.logins.get(user).map(|login| login.clone())
    }

    /// Requests that wait now.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// The sessions whose use has begun since this was last asked, for the renewals.
    pub(super) fn take_used(&self) -> Vec<Arc<Entry>> {
        std::mem::take(&mut *locked(&self.used))
    }

    /// Every entry, for those who look.
    pub(super) fn all(&self) -> Vec<Arc<Entry>> {
        self.entries.iter().map(|entry| Arc::clone(&entry)).collect()
    }

    /// Drops an entry that nobody uses and of which nothing is known.
    pub(super) fn forget(&self, key: &SessionKey) {
        self.entries.remove_if(&self.ids.of(key), |_, entry| entry.is_unused());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(table: &Table) -> Arc<Entry> {
        table.entry(&SessionKey::parse_canonical("demo-country-se").unwrap())
    }

    fn exit() -> Arc<Exit> {
        Exit::at(([127, 0, 0, 1], 8888).into())
    }

    #[test]
    fn who_finds_the_gateway_full_leaves_nothing_behind() {
        let table = Table::new();
        table.waiting.store(WAITERS, Ordering::Relaxed);
        let key = SessionKey::parse_canonical("demo-country-se").unwrap();
        assert!(matches!(table.wait(&key, &Lifetimes::default()), Err(Crowded::Gateway)));
        assert!(table.get(&key).is_none());
        assert_eq!(table.waiting.load(Ordering::Relaxed), WAITERS);
    }

    #[test]
    fn a_session_is_listed_once_while_it_is_used() {
        let table = Table::new();
        let entry = entry(&table);
        assert!(table.take_used().is_empty());
        let first = Activity::new(Arc::clone(&entry), exit(), 1);
        let second = Activity::new(Arc::clone(&entry), exit(), 1);
        assert_eq!(table.take_used().len(), 1);
        assert!(!entry.unlist(), "it is in use");
        drop(first);
        assert!(!entry.unlist());
        drop(second);
        assert!(entry.unlist());
        assert!(table.take_used().is_empty());
        let waiter = table.wait(&entry.key, &Lifetimes::default()).unwrap();
        assert_eq!(table.take_used().len(), 1, "whoever waits uses it too");
        assert!(!entry.unlist());
        drop(waiter);
        assert!(entry.unlist());
    }

    #[test]
    fn who_begins_to_use_a_session_just_as_it_is_taken_off_the_list_is_on_it_once() {
        const ROUNDS: usize = 2_000;
        let table = Table::new();
        let entry = entry(&table);
        let exit = exit();
        let turn = std::sync::Barrier::new(2);
        let begin = || Activity::new(Arc::clone(&entry), Arc::clone(&exit), entry.clock.now());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    drop(begin());
                    turn.wait();
                    turn.wait();
                    let used = begin();
                    turn.wait();
                    turn.wait();
                    drop(used);
                }
            });
            let mut busy: Vec<Arc<Entry>> = Vec::new();
            for _ in 0..ROUNDS {
                turn.wait();
                busy.extend(table.take_used());
                turn.wait();
                // Meanwhile the other begins.
                busy.retain(|entry| !entry.unlist());
                turn.wait();
                busy.extend(table.take_used());
                assert_eq!(busy.len(), 1);
                turn.wait();
            }
        });
    }
}
