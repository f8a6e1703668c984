//! From a request to an open tunnel: who asks, what for, where to, through which exit. Both ways in (the
//! raw CONNECT and hyper's requests) come through here; nothing in it knows HTTP/1.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::error::{Code, ProxyError};
use super::head::Authorization;
use super::record::Record;
use super::target::{Target, TargetError};
use super::thread::Thread;
use super::trail::Step;
use super::upstream::{self, Failure, Tunnel};
use super::wish::Wish;
use crate::accounts::{OverQuota, Quota};
use crate::identity::{AuthError, Login, split_basic};
use crate::session::{AcquireError, Fault, Grant};

/// Exits that one request tries at most.
const EXITS: u32 = 3;

/// Users of this prefix are pods, with credentials that the gateway made.
const POD_USER: &str = "pod.";

/// The credentials of a request, detached from the bytes that it was read from.
pub(super) enum Credentials {
    /// There are none.
    None,
    /// More than one header: which of them counts is anyone's guess.
    Many,
    /// Remembered as good.
    Known(Arc<Login>),
    /// To be checked.
    Unknown(Box<[u8]>),
}

impl Credentials {
    /// Looks the header up; copies it only if it is not remembered.
    pub(super) fn of(thread: &Thread, authorization: Authorization<'_>) -> Self {
        match authorization {
            Authorization::None => Self::None,
            Authorization::Many => Self::Many,
            Authorization::One(header) => match thread.shared.authenticator.cached(header) {
                Some(login) => {
                    thread.counters.logins_cached.inc();
                    Self::Known(login)
                }
                None => Self::Unknown(header.into()),
            },
        }
    }
}

/// What a request that has proved who it is may use.
pub(super) enum Admitted {
    /// A session of the account.
    Session(Rc<Wish>),
    /// One very pod. Granted already.
    Pod(Grant),
}

/// An open tunnel and the exit that it goes through.
pub(super) struct Opened {
    /// The exit.
    pub(super) grant: Grant,
    /// The tunnel.
    pub(super) tunnel: Tunnel,
}

/// Checks the password and reads the username: nothing else of the request is looked at before.
pub(super) async fn admit(
    thread: &Thread,
    credentials: Credentials,
    record: &mut Record,
) -> Result<Admitted, ProxyError> {
    let login = match credentials {
        Credentials::None => return Err(ProxyError::auth_required()),
        Credentials::Many => return Err(refused(thread, AuthError::Malformed)),
        Credentials::Known(login) => login,
        // Boxed: the first request of a client alone needs the room for it.
        Credentials::Unknown(header) => match Box::pin(log_in(thread, header, record)).await? {
            Proved::Login(login) => login,
            Proved::Pod(grant) => return Ok(Admitted::Pod(grant)),
        },
    };
    record.trail.step(Step::Authenticated);
    let wish = thread.wishes.borrow_mut().of(&login, &thread.shared.limits, &*thread.shared.exits);
    let wish = wish.inspect_err(|_| record.account = Some(Arc::from(login.account.as_str())))?;
    record.account = Some(Arc::clone(&wish.account));
    record.selector = Some(Arc::clone(&wish.selector));
    record.trail.also(Step::Resolved);
    record.slot = Some(wish.policy.enter().map_err(|over| over_quota(thread, over))?);
    Ok(Admitted::Session(wish))
}

/// What credentials prove.
enum Proved {
    /// An account's.
    Login(Arc<Login>),
    /// A pod's.
    Pod(Grant),
}

async fn log_in(thread: &Thread, header: Box<[u8]>, record: &mut Record) -> Result<Proved, ProxyError> {
    if let Some(grant) = pod(thread, &header).await {
        record.account = Some(Arc::from("pod"));
        record.trail.step(Step::Authenticated);
        return Ok(Proved::Pod(grant));
    }
    let client = Some(record.client.ip());
    let login = thread.shared.authenticator.authenticate_from(&header, client).await;
    let login = login.map_err(|error| refused(thread, error))?;
    thread.counters.metrics.logins.with_label_values(&["ok"]).inc();
    Ok(Proved::Login(login))
}

/// The pod whose own credentials these are. Wrong ones go on to the password check, which refuses them
/// like any unknown account, in bytes and in time; before that all of them wait equally long, for the pod
/// that another replica has just started.
async fn pod(thread: &Thread, header: &[u8]) -> Option<Grant> {
    let (user, password) = split_basic(header).ok()?;
    if !user.starts_with(POD_USER) {
        return None;
    }
    let exits = &thread.shared.exits;
    let grant = match exits.by_pod_credentials(&user, &password) {
        Some(grant) => grant,
        None => tokio::select! {
            biased;
            grant = exits.await_pod_credentials(&user, &password) => grant?,
            () = thread.closing.waiter() => return None,
        },
    };
    let owner = exits.pod_owner(&user);
    // Its account is gone, and the pod is about to be.
    let gone = owner.is_some_and(|owner| {
        !owner.is_reserved() && thread.wishes.borrow_mut().accounts().owners().get(&owner).is_none()
    });
    (!gone).then_some(grant)
}

/// A limit of the account is reached.
fn over_quota(thread: &Thread, over: OverQuota) -> ProxyError {
    thread.counters.metrics.account_quota.with_label_values(&[over.quota.as_str()]).inc();
    let error = ProxyError::new(Code::AccountQuota, over.message);
    match over.retry_after {
        Some(after) => error.retry_after(after),
        None => error,
    }
}

fn refused(thread: &Thread, error: AuthError) -> ProxyError {
    let outcome = match error {
        AuthError::Busy => "busy",
        AuthError::Throttled { .. } => "throttled",
        AuthError::Malformed | AuthError::PercentEncoded | AuthError::Refused => "refused",
    };
    thread.counters.metrics.logins.with_label_values(&[outcome]).inc();
    error.into()
}

/// Checks where a request wants to go. `local` gives the address that the client reached us at.
pub(super) fn check_target(
    thread: &Thread,
    admitted: &Admitted,
    target: Result<Target, TargetError>,
    local: impl FnOnce() -> Option<IpAddr>,
    record: &mut Record,
) -> Result<Target, ProxyError> {
    let target = target?;
    record.target = Some(target.clone());
    let destinations = &thread.shared.destinations;
    let local = if destinations.wants_local(&target) { local() } else { None };
    let account = match admitted {
        Admitted::Session(wish) => Some(wish.policy.destinations()),
        Admitted::Pod(_) => None,
    };
    match destinations.check_for(&target, local, account) {
        Ok(()) => {
            record.trail.also(Step::Allowed);
            Ok(target)
        }
        Err(refusal) => Err(refusal.error(&target)),
    }
}

/// One request's claim on exits: which session, and until when it may be held.
pub(super) struct Hold {
    admitted: Session,
    begun: Instant,
    deadline: Instant,
    exits: u32,
}

enum Session {
    Of(Rc<Wish>),
    Pod(Option<Grant>),
}

impl Hold {
    /// Begins to hold.
    pub(super) fn begin(admitted: Admitted) -> Self {
        let begun = Instant::now();
        let (admitted, hold) = match admitted {
            Admitted::Session(wish) => {
                let hold = wish.hold;
                (Session::Of(wish), hold)
            }
            Admitted::Pod(grant) => (Session::Pod(Some(grant)), Duration::ZERO),
        };
        Self { admitted, begun, deadline: begun + hold, exits: 0 }
    }

    /// An exit: at once where there is one, else held for.
    pub(super) async fn grant(&mut self, thread: &Thread, record: &mut Record) -> Result<Grant, ProxyError> {
        let wish = match &mut self.admitted {
            Session::Of(wish) => Rc::clone(wish),
            Session::Pod(grant) => {
                let grant = grant.take().ok_or_else(gone)?;
                record.trail.also(Step::ExitFound);
                record.granted(&grant);
                return Ok(grant);
            }
        };
        let exits = &thread.shared.exits;
        let grant = match exits.hit(wish.id) {
            Some(grant) => {
                match self.exits {
                    0 => record.trail.also(Step::ExitFound),
                    1.. => record.trail.step(Step::ExitFound),
                }
                grant
            }
            None => {
                let begun = Instant::now();
                record.session = Some(Arc::from(wish.key.claim_name()));
                record.trail.step(Step::Held);
                let trail = &mut record.trail;
                let mut tell = |progress| trail.progress(progress);
                let held = tokio::select! {
                    biased;
                    held = exits.acquire(&wish.key, &wish.lifetimes, self.deadline, &mut tell) => held,
                    () = thread.closing.waiter() => Err(AcquireError::ShuttingDown),
                };
                held.map_err(|error| {
                    record.held_in_vain(begun.elapsed());
                    if let AcquireError::AccountQuota { .. } = &error {
                        let quota = Quota::Sessions.as_str();
                        thread.counters.metrics.account_quota.with_label_values(&[quota]).inc();
                    }
                    let slow = matches!(error, AcquireError::StartTimeout { .. });
                    let error = ProxyError::from(error);
                    if slow { ProxyError { waited: Some(self.begun.elapsed()), ..error } } else { error }
                })?
            }
        };
        record.granted(&grant);
        Ok(grant)
    }

    /// A tunnel through `grant`, else through another exit of the session: as long as nothing of the
    /// client's has been sent on, and within the time that it may be held.
    pub(super) async fn open(
        &mut self,
        thread: &Rc<Thread>,
        mut grant: Grant,
        target: &Target,
        record: &mut Record,
    ) -> Result<Opened, ProxyError> {
        let shared = &thread.shared;
        loop {
            let exit = Arc::clone(&grant.exit);
            if target.ip().is_some_and(|ip| ip == exit.proxy_addr.ip().to_canonical()) {
                // The pod's own address: its proxy and control server, from the inside.
                return Err(ProxyError::new(Code::ProxyLoop, "the destination is the exit itself"));
            }
            if !exit.reached_check.load(Ordering::Relaxed) {
                shared.checks.in_background(&exit, &shared.timings);
            }
            let fault = match upstream::open(thread, &exit, target, &mut record.trail).await {
                Ok(tunnel) => {
                    record.trail.step(Step::Opened);
                    return Ok(Opened { grant, tunnel });
                }
                Err(Failure::Answer(error)) => return Err(error),
                Err(Failure::Protocol(error)) => {
                    shared.exits.report(&exit, Fault::Protocol);
                    record.trail.note(Step::ExitGivenUp, Fault::Protocol.as_str());
                    return Err(error);
                }
                Err(Failure::Unreachable) => Some(Fault::Unreachable),
                Err(Failure::Dead) => Some(Fault::Dead),
                Err(Failure::Gone) => None,
            };
            if let Some(fault) = fault {
                shared.exits.report(&exit, fault);
            }
            record.trail.note(Step::ExitGivenUp, fault.map_or("gone", Fault::as_str));
            drop(grant);
            self.exits += 1;
            if self.exits >= EXITS || Instant::now() >= self.deadline {
                return Err(gone());
            }
            // The table may learn of it a moment later than we do.
            tokio::time::sleep(shared.timings.exit_pause).await;
            grant = self.grant(thread, record).await?;
        }
    }
}

/// What a request is told that has seen its exit fail.
fn gone() -> ProxyError {
    ProxyError::new(Code::ExitUnhealthy, "the exit does not work any more")
}
