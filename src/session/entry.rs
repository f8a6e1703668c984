//! One session, as this replica knows it, and the guards that count who uses its exit or waits for one.
//! Made by the table; published into by the index of pods and claims, read by the data threads.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::claim::{Claim, Reason};
use super::exit::Exit;
use super::pod::PodView;
use crate::selector::{Lifetimes, SessionKey};

/// Sessions whose use has begun and that the renewals have yet to take over.
pub(super) type Used = Arc<std::sync::Mutex<Vec<Arc<Entry>>>>;

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

/// One session, as this replica knows it. What a hit goes by comes first and stays together ([`HOT`]): in a
/// large table a hit costs what the memory that it touches is away.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Entry {
    /// The exit that the state tells of, if it does, with what a request is told of the claim.
    ready: std::sync::RwLock<Option<(Arc<Exit>, Terms)>>,
    /// Until when a hit need not renew the claim first, in milliseconds since the clock's start.
    fresh_until: AtomicU64,
    /// When the session was last used, in milliseconds since the clock's start.
    last_used: AtomicU64,
    clock: Clock,
    /// Requests and tunnels that have an exit.
    active: AtomicU32,
    /// Whether the renewals know that it is used: it is in their list, or in `used` on its way there.
    listed: AtomicBool,
    /// Set while a task makes and holds the claim for those who wait.
    pub(super) ensuring: AtomicBool,
    /// Set when nobody will ever ask for this session again: its claim is to go with those who wait.
    abandoned: AtomicBool,
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

/// Bytes of an entry that a hit touches, with the two counts that an `Arc` puts before it.
const HOT: usize = 2 * size_of::<usize>() + std::mem::offset_of!(Entry, abandoned);
// Two lines of cache.
const _: () = assert!(HOT <= 128);

/// Monotonic milliseconds since the table was made: what fits an atomic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    /// One that starts now.
    pub(super) fn new() -> Self {
        Self { start: Instant::now() }
    }

    pub(super) fn now(self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The wall-clock time of a moment of this clock.
    pub(super) fn wall(self, at: u64) -> SystemTime {
        let ago = Duration::from_millis(self.now().saturating_sub(at));
        SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

pub(super) fn locked<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Entry {
    pub(super) fn new(key: SessionKey, clock: Clock, used: Used) -> Self {
        Self {
            name: key.claim_name().into(),
            key,
            ready: std::sync::RwLock::default(),
            state: watch::channel(State::Absent).0,
            active: AtomicU32::new(0),
            waiters: AtomicUsize::new(0),
            rounds: AtomicUsize::new(0),
            waiters_changed: Notify::new(),
            ensuring: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            last_used: AtomicU64::new(0),
            listed: AtomicBool::new(false),
            used,
            fresh_until: AtomicU64::new(0),
            control_error: std::sync::Mutex::default(),
            lifetimes: std::sync::Mutex::default(),
            clock,
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
    pub(super) fn usable(self: Arc<Self>) -> Option<(Terms, InUse)> {
        let now = self.clock.now();
        if now >= self.fresh_until.load(Ordering::Relaxed) {
            return None;
        }
        let (exit, terms) = {
            let ready = self.ready.read().unwrap_or_else(PoisonError::into_inner);
            let (exit, terms) = ready.as_ref().filter(|(_, terms)| !terms.is_over())?;
            (Arc::clone(exit), *terms)
        };
        Some((terms, InUse::new(self, exit, now)))
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
    pub(super) fn use_exit(self: Arc<Self>, exit: Arc<Exit>) -> Option<(Terms, InUse)> {
        let terms = self.state.borrow().claim().map(|claim| Terms::of(claim))?;
        let now = self.clock.now();
        (!exit.gone.is_cancelled()).then(|| (terms, InUse::new(self, exit, now)))
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
        usize::try_from(self.active.load(Ordering::SeqCst)).unwrap_or(usize::MAX)
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

    /// Counts one more who waits; says how many did. To be undone by a [`Waiter`].
    pub(super) fn count_waiter(self: &Arc<Self>) -> usize {
        let before = self.waiters.fetch_add(1, Ordering::SeqCst);
        self.list();
        before
    }

    /// Somebody waits, and nobody did: what went wrong for those before is tried anew, not told again.
    pub(super) fn begin_round(&self, lifetimes: &Lifetimes) {
        if self.state.borrow().claim().is_none() {
            *locked(&self.lifetimes) = *lifetimes;
        }
        self.rounds.fetch_add(1, Ordering::AcqRel);
        *locked(&self.control_error) = None;
        self.waiters_changed.notify_one();
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
        // Looked at first: within a millisecond it mostly is there already.
        if self.last_used.load(Ordering::Relaxed) < now {
            self.last_used.fetch_max(now, Ordering::Relaxed);
        }
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

    pub(super) fn is_unused(&self) -> bool {
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

/// An exit that a request or tunnel uses: while it lives its session is active, however quiet.
#[derive(Debug)]
pub struct InUse {
    entry: Arc<Entry>,
    exit: Arc<Exit>,
}

impl InUse {
    pub(super) fn new(entry: Arc<Entry>, exit: Arc<Exit>, now: u64) -> Self {
        entry.active.fetch_add(1, Ordering::SeqCst);
        exit.active.fetch_add(1, Ordering::Relaxed);
        entry.touch(now);
        entry.list();
        Self { entry, exit }
    }

    /// Name of the session's claim, for logs.
    pub fn session(&self) -> &Arc<str> {
        &self.entry.name
    }

    /// Of no table, for tests of the data path.
    #[cfg(test)]
    pub(crate) fn of(exit: &Arc<Exit>) -> Self {
        let entry = Entry::new(exit.key.clone(), Clock::new(), Used::default());
        Self::new(Arc::new(entry), Arc::clone(exit), 0)
    }
}

impl Deref for InUse {
    type Target = Arc<Exit>;

    fn deref(&self) -> &Arc<Exit> {
        &self.exit
    }
}

impl Drop for InUse {
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

impl Waiter {
    /// Of an entry that has counted it already, as `waiting` has.
    pub(super) fn new(entry: Arc<Entry>, waiting: Arc<AtomicUsize>) -> Self {
        Self { entry, waiting }
    }
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
