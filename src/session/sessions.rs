//! What the proxy asks: an exit for a session, now if there is one, else as soon as there is. Called by
//! the data threads; everything that needs the cluster crosses over to the control plane as a
//! [`Command`], and its outcome comes back on the session's watch channel.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::claim::{Reason, ReasonKind, Replace};
use super::ensure::CALL_LIMIT;
use super::entry::{ControlError, Entry, InUse, State, Terms, is_expired};
use super::exit::Exit;
use super::failure::{AcquireError, FailureClass, code};
use super::id::SessionId;
use super::index::Index;
use super::login::WAITING_LOGINS;
use super::pod::PodView;
use super::progress::{Follow, Progress};
use super::table::{Crowded, Table, WAITERS, WAITERS_PER_SESSION};
use crate::identity::Account;
use crate::metrics::Metrics;
use crate::secret::Secret;
use crate::selector::{Lifetimes, SessionKey};

/// An exit, granted to a request.
#[derive(Debug)]
pub struct Grant {
    /// The exit. While it is held its session is active, however quiet.
    pub exit: InUse,
    /// After how long without use the session ends.
    pub idle: Duration,
    /// When new requests of the session get another exit, where it has a `ttl`.
    pub expires: Option<SystemTime>,
    /// Whether the request had to wait for the exit.
    pub cold_start: bool,
    /// How long it was held.
    pub waited: Duration,
}

impl Grant {
    /// By what the claim says; `waited` for one that was not there.
    pub(super) fn new(terms: Terms, exit: InUse, waited: Option<Duration>) -> Self {
        Self {
            exit,
            idle: terms.idle,
            // The leader notes it a moment after the exit is up.
            expires: terms.expires.or_else(|| terms.ttl.and_then(|ttl| SystemTime::now().checked_add(ttl))),
            cold_start: waited.is_some(),
            waited: waited.unwrap_or_default(),
        }
    }
}

/// What the proxy found an exit to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its proxy cannot be reached.
    Unreachable,
    /// Its VPN is dead, though its health server says otherwise.
    Dead,
    /// Its proxy answered as ours never does: a pod edited by hand.
    Protocol,
}

impl Fault {
    /// The word for it in a claim's annotation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Dead => "dead",
            Self::Protocol => "protocol",
        }
    }
}

/// What the data path asks of the control plane.
#[derive(Debug)]
pub(super) enum Command {
    /// Someone waits for this session.
    Ensure(Arc<Entry>),
    /// The exit of this session must be replaced.
    Replace { entry: Arc<Entry>, claim_uid: Arc<str>, replace: Replace },
}

/// How long a request that has no time waits for the renewal of a claim whose exit is there: as long as one
/// attempt may take. After that the exit is used as it is.
const RENEWAL: Duration = CALL_LIMIT;

/// How long an exit may be used without the renewal that was not answered.
const EXCUSED: Duration = Duration::from_secs(1);

/// How long a start takes as long as none was seen.
const USUAL_START: Duration = Duration::from_secs(3);

/// Shared by the data threads and the control plane.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) table: Table,
    pub(super) index: Mutex<Index>,
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) metrics: Arc<Metrics>,
    /// Cancelled when those who wait are to be sent away.
    pub(super) closing: CancellationToken,
    /// Whether both watches have delivered their first lists.
    pub(super) synced: watch::Sender<bool>,
    pub(super) idle_timeout: Duration,
    /// Places for those who wait until a pod's credentials are known.
    pub(super) logins: Semaphore,
    /// How long the last cold starts took, for `Retry-After`.
    starts: Mutex<Vec<Duration>>,
}

impl Shared {
    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how long a cold start took.
    pub(super) fn note_start(&self, took: Duration) {
        let mut starts = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
        if starts.len() == 32 {
            starts.remove(0);
        }
        starts.push(took);
    }

    pub(super) fn usual_start(&self) -> Duration {
        let mut starts = self.starts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        starts.sort_unstable();
        starts.get(starts.len() / 2).copied().unwrap_or(USUAL_START)
    }
}

/// The sessions of this replica. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sessions(pub(super) Arc<Shared>);

impl Sessions {
    /// What a session is found by, whether it is known or not: to be remembered where its key is.
    pub fn id(&self, key: &SessionKey) -> SessionId {
        self.0.table.id(key)
    }

    /// The exit of a session that has one: no wait, no request to the API server.
    pub fn hit(&self, id: SessionId) -> Option<Grant> {
        let (terms, exit) = self.0.table.get(id)?.usable()?;
        Some(Grant::new(terms, exit, None))
    }

    /// The exit of a session: at once where it has one, else the session is claimed and the request held
    /// until `deadline`. Where it has one whose claim must be renewed before it is used, that is waited for
    /// though the deadline be past, for a few seconds at most. Dropping the future ends this wait alone,
    /// never the start.
    ///
    /// # Errors
    ///
    /// As [`AcquireError`] says.
    pub async fn acquire(
        &self,
        key: &SessionKey,
        lifetimes: &Lifetimes,
        deadline: Instant,
    ) -> Result<Grant, AcquireError> {
        self.acquire_telling(key, lifetimes, deadline, &mut |_| {}).await
    }

    /// As [`Sessions::acquire`]; `tell` hears what happens meanwhile.
    ///
    /// # Errors
    ///
    /// As [`AcquireError`] says.
    pub async fn acquire_telling(
        &self,
        key: &SessionKey,
        lifetimes: &Lifetimes,
        deadline: Instant,
        tell: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Grant, AcquireError> {
        if let Some(grant) = self.hit(self.id(key)) {
            return Ok(grant);
        }
        let begun = Instant::now();
        let waiter = self.0.table.wait(key, lifetimes).map_err(queue_full)?;
        self.0.metrics.waiters.inc();
        let _counted = scopeguard(|| self.0.metrics.waiters.dec());
        let entry = &waiter.entry;
        let mut state = entry.subscribe();
        self.ensure(entry);
        let mut follow = Follow::default();
        let mut came_later = true;
        loop {
            let now = state.borrow_and_update().clone();
            let control = entry.control_error();
            follow.see(&now, control.as_ref(), tell);
            if let Some((terms, exit)) = Arc::clone(entry).usable() {
                return Ok(Grant::new(terms, exit, Some(begun.elapsed())));
            }
            if let Some(error) = outcome(&now, control, came_later) {
                return Err(error);
            }
            came_later = false;
            // An exit whose claim is only to be renewed first is there already.
            let renewing = matches!(&now, State::Ready { claim, .. } if !is_expired(claim));
            let until = if renewing { deadline.max(begun + RENEWAL) } else { deadline };
            if until <= begun {
                return Err(unwilling(&now, self.0.usual_start()));
            }
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return Err(AcquireError::ShuttingDown) },
                () = tokio::time::sleep_until(until) => {
                    if !renewing {
                        return Err(timed_out(&now, entry.control_error(), self.0.usual_start()));
                    }
                    entry.excuse(EXCUSED);
                }
                () = self.0.closing.cancelled() => return Err(AcquireError::ShuttingDown),
            }
        }
    }

    /// The pod that its own credentials mean, if it lives.
    pub fn by_pod_credentials(&self, user: &str, password: &Secret) -> Option<Grant> {
        let login = self.0.table.pod_login(user).filter(|login| login.password == *password)?;
        let (terms, exit) = self.0.table.get(self.id(&login.key))?.use_exit(login.exit)?;
        Some(Grant::new(terms, exit, None))
    }

    /// Whose pod it is that has credentials with this user name: an account or a share group.
    pub fn pod_owner(&self, user: &str) -> Option<Account> {
        self.0.table.pod_login(user).map(|login| login.key.account)
    }

    /// New requests of the exit's session go elsewhere from now on, and the leader is asked to replace it.
    pub fn report(&self, exit: &Arc<Exit>, fault: Fault) {
        if fault == Fault::Dead {
            exit.dead.cancel();
        }
        let Some(entry) = self.0.table.get(self.id(&exit.key)) else { return };
        if !matches!(entry.state(), State::Ready { exit: current, .. } if current.uid == exit.uid) {
            return;
        }
        tracing::warn!(session = %entry.name, pod = %exit.pod, fault = fault.as_str(), "exit given up");
        self.0.index().condemn(&self.0.table, exit, fault);
        let replace = Replace { transition: exit.transition, why: fault.as_str().to_owned() };
        let claim_uid = Arc::clone(&exit.claim_uid);
        // A closed channel means that the control plane has ended: nobody is left to replace anything.
        let _ = self.0.commands.send(Command::Replace { entry, claim_uid, replace });
    }

    /// Every pod of ours that the watch has shown, foreign ones included, save for those that are ending.
    pub fn pods(&self) -> Vec<Arc<PodView>> {
        let index = self.0.index();
        index.pods().filter(|pod| !index.is_ending(pod)).cloned().collect()
    }

    /// Sets the gauges that are counted when they are read. Pods by state are the leader's to count.
    pub fn observe(&self) {
        let claims = self.0.index().claims();
        self.0.metrics.sessions.set(i64::try_from(claims).unwrap_or(i64::MAX));
    }

    /// Ends when both watches have delivered their first lists.
    pub async fn synced(&self) {
        let mut synced = self.0.synced.subscribe();
        // An error means that the control plane has ended, which whoever supervises it sees by itself.
        if synced.wait_for(|synced| *synced).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Sends those who wait away with `shutting_down`.
    pub fn close(&self) {
        self.0.closing.cancel();
    }

    /// Requests that are held now.
    pub fn waiting(&self) -> usize {
        self.0.table.waiting()
    }

    pub(super) fn ensure(&self, entry: &Arc<Entry>) {
        use std::sync::atomic::Ordering;
        if !entry.ensuring.swap(true, Ordering::AcqRel) {
            let _ = self.0.commands.send(Command::Ensure(Arc::clone(entry)));
        }
    }
}

impl Shared {
    pub(super) fn new(
        metrics: Arc<Metrics>,
        idle_timeout: Duration,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Command>) {
        let (commands, receiver) = mpsc::unbounded_channel();
        let shared = Self {
            table: Table::new(),
            index: Mutex::default(),
            commands,
            metrics,
            closing: CancellationToken::new(),
            synced: watch::channel(false).0,
            idle_timeout,
            logins: Semaphore::new(WAITING_LOGINS),
            starts: Mutex::default(),
        };
        (Arc::new(shared), receiver)
    }
}

pub(super) fn queue_full(crowded: Crowded) -> AcquireError {
    let message = match crowded {
        Crowded::Session => format!("{WAITERS_PER_SESSION} requests wait for this session already"),
        Crowded::Gateway => format!("{WAITERS} requests wait already"),
    };
    AcquireError::QueueFull { message }
}

/// The error that a state means for everyone who waits, whatever time they have left. `came_later` for a
/// request that finds it so: what it is told is not how a start went that it waited for.
pub(super) fn outcome(
    state: &State,
    control: Option<ControlError>,
    came_later: bool,
) -> Option<AcquireError> {
    match (state, control) {
        (State::Rejected { reason, .. }, _) => Some(rejected(reason, came_later)),
        (State::Lost { .. }, _) => Some(AcquireError::ExitLost),
        (State::Absent | State::Waiting { .. }, Some(ControlError::Forbidden(right))) => {
            Some(AcquireError::ControlPlaneForbidden { message: right })
        }
        (State::Absent | State::Waiting { .. } | State::Ready { .. }, _) => None,
    }
}

fn rejected(reason: &Reason, came_later: bool) -> AcquireError {
    let message = reason.message.clone();
    if let Some(backoff) = reason.backoff.filter(|_| came_later && reason.code != code::START_BACKOFF) {
        let message = backoff.message(&reason.code, &reason.message);
        return AcquireError::StartBackoff { message, retry_after: backoff.left() };
    }
    match reason.code.as_str() {
        code::START_BACKOFF => AcquireError::StartBackoff {
            message,
            retry_after: reason.backoff.map(|backoff| backoff.left()).unwrap_or_default(),
        },
        code::CAPACITY_FULL | code::QUOTA_FULL | code::SERVER_IN_USE => {
            AcquireError::CapacityFull { message }
        }
        code::QUEUE_FULL => AcquireError::QueueFull { message },
        code::FORBIDDEN => AcquireError::ControlPlaneForbidden { message },
        code::UNAVAILABLE => AcquireError::ControlPlaneUnavailable,
        code::ACCOUNT_QUOTA => AcquireError::AccountQuota { message },
        code::LOCATION_FORBIDDEN => AcquireError::LocationForbidden { message },
        code::ACCOUNT_UNKNOWN => AcquireError::AccountGone,
        class => AcquireError::StartFailed {
            class: FailureClass::parse(class).unwrap_or(FailureClass::Exited),
            message,
            retry_after: reason.backoff.map(|backoff| backoff.left()),
        },
    }
}

/// What a request that does not wait is told.
fn unwilling(state: &State, retry_after: Duration) -> AcquireError {
    match waiting_reason(state) {
        Some(reason) if is_full(reason) => AcquireError::CapacityFull { message: reason.message.clone() },
        Some(reason) if reason.code == code::START_BACKOFF => {
            AcquireError::StartBackoff { message: reason.message.clone(), retry_after }
        }
        Some(_) | None => AcquireError::Starting { retry_after },
    }
}

/// What a request is told whose time is over.
pub(super) fn timed_out(state: &State, control: Option<ControlError>, retry_after: Duration) -> AcquireError {
    match (waiting_reason(state), control) {
        (Some(reason), _) if is_full(reason) => {
            AcquireError::CapacityFull { message: reason.message.clone() }
        }
        (_, Some(ControlError::Unavailable)) => AcquireError::ControlPlaneUnavailable,
        (Some(reason), _) if reason.code == code::START_BACKOFF => {
            AcquireError::StartBackoff { message: reason.message.clone(), retry_after }
        }
        (reason, _) => AcquireError::StartTimeout { last: reason.map(|reason| reason.message.clone()) },
    }
}

pub(super) fn waiting_reason(state: &State) -> Option<&Reason> {
    let State::Waiting { claim, pod } = state else { return None };
    let reason = claim.reason.as_ref()?;
    match reason.kind {
        // Whoever has a pod does not wait for one any more, though the claim says so until that is up.
        ReasonKind::Waiting => pod.is_none().then_some(reason),
        ReasonKind::Retrying => Some(reason),
        ReasonKind::Rejected | ReasonKind::Lost => None,
    }
}

pub(super) fn is_full(reason: &Reason) -> bool {
    reason.kind == ReasonKind::Waiting
        && matches!(reason.code.as_str(), code::CAPACITY_FULL | code::QUOTA_FULL | code::SERVER_IN_USE)
}

/// Runs `end` when dropped, whichever way a wait ends.
pub(super) fn scopeguard(end: impl Fn()) -> impl Drop {
    struct Guard<F: Fn()>(F);
    impl<F: Fn()> Drop for Guard<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    Guard(end)
}
