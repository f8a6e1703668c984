//! Whether an exit still passes anything on. Gluetun says that it is healthy for two to three minutes
//! after its tunnel has died, so the gateway asks for itself: a CONNECT to a public resolver through the
//! exit's own proxy. One check an exit at a time, for all data threads; whoever asks shares its result.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Timings;
use super::gluetun::Refusal;
use super::target::Target;
use super::upstream::{self, Answer};
use crate::session::Exit;

/// How often an exit that has not passed its first check is checked again while it is in use.
const AGAIN: Duration = Duration::from_secs(30);

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It reaches the check address.
    Alive,
    /// It does not.
    Dead,
}

/// The checks of all exits.
#[derive(Debug, Default)]
pub(super) struct Checks(Mutex<HashMap<Arc<str>, Check>>);

#[derive(Debug)]
struct Check {
    exit: Weak<Exit>,
    begun: Instant,
    /// Whether somebody wants to know: what is found then counts.
    wanted: Arc<AtomicBool>,
    verdict: watch::Receiver<Option<Verdict>>,
}

impl Checks {
    /// Sees to it that the exit has been checked once, without waiting for it.
    pub(super) fn in_background(self: &Arc<Self>, exit: &Arc<Exit>, timings: &Timings) {
        let again =
            |check: &Check| check.exit.as_ptr() != Arc::as_ptr(exit) || check.begun.elapsed() >= AGAIN;
        let due = self.lock().get(&exit.uid).is_none_or(again);
        if due {
            self.begin(exit, timings, false);
        }
    }

    /// Checks the exit, or waits for the check that is going on. One that was found dead is not asked again.
    pub(super) async fn verdict(self: &Arc<Self>, exit: &Arc<Exit>, timings: &Timings) -> Verdict {
        if exit.dead.is_cancelled() {
            return Verdict::Dead;
        }
        let mut verdict = self.begin(exit, timings, true);
        let found = tokio::select! {
            biased;
            () = exit.dead.cancelled() => return Verdict::Dead,
            found = verdict.wait_for(Option::is_some) => found.map(|found| *found),
        };
        // An error means that the thread that checked has ended: then nothing is known.
        found.ok().flatten().unwrap_or(Verdict::Alive)
    }

    fn begin(
        self: &Arc<Self>,
        exit: &Arc<Exit>,
        timings: &Timings,
        wanted: bool,
    ) -> watch::Receiver<Option<Verdict>> {
        let mut checks = self.lock();
        if let Some(check) = checks.get(&exit.uid) {
            // First: what is found after this is known to be wanted.
            check.wanted.fetch_or(wanted, Ordering::SeqCst);
            let running = check.verdict.borrow().is_none() && check.verdict.has_changed().is_ok();
            let known = exit.dead.is_cancelled();
            if (running || known) && check.exit.as_ptr() == Arc::as_ptr(exit) {
                return check.verdict.clone();
            }
        }
        checks.retain(|_, check| check.exit.strong_count() > 0);
        let (found, verdict) = watch::channel(None);
        let wanted = Arc::new(AtomicBool::new(wanted));
        let check = Check {
            exit: Arc::downgrade(exit),
            begun: Instant::now(),
            wanted: Arc::clone(&wanted),
            verdict: verdict.clone(),
        };
        checks.insert(Arc::clone(&exit.uid), check);
        drop(checks);
        let (exit, timings) = (Arc::clone(exit), timings.clone());
        // A task of its own: the request that asked may give up, others wait for the result.
        let checks = Arc::clone(self);
        tokio::task::spawn_local(async move {
            let verdict = check_now(&exit, &timings).await;
            // Before anybody can begin another check, and whoever else waits for an answer through the exit need not
            // find out by himself.
            let _checks = checks.lock();
            if verdict == Verdict::Dead && wanted.load(Ordering::SeqCst) {
                exit.dead.cancel();
            }
            found.send_replace(Some(verdict));
        });
        verdict
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Check>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks for the resolver. Of an exit that has never reached it, its silence alone proves nothing, since a
/// provider may keep port 53 for its own resolvers: so such a one is asked for another port too, the one
/// that Gluetun itself has reached before it called itself healthy.
async fn check_now(exit: &Exit, timings: &Timings) -> Verdict {
    let first = async {
        let reached = within(exit, &timings.check_target, timings).await;
        if reached {
            exit.reached_check.store(true, Ordering::Relaxed);
        }
        reached
    };
    let alive = if exit.reached_check.load(Ordering::Relaxed) {
        first.await
    } else {
        // Whichever answers first is enough; both must fail.
        let second = within(exit, &timings.second_check_target, timings);
        let (mut first, mut second) = (pin!(first), pin!(second));
        tokio::select! {
            reached = &mut first => reached || second.await,
            reached = &mut second => reached || first.await,
        }
    };
    if alive { Verdict::Alive } else { Verdict::Dead }
}

async fn within(exit: &Exit, target: &Target, timings: &Timings) -> bool {
    tokio::time::timeout(timings.check, reaches(exit, target, timings)).await.unwrap_or(false)
}

/// Whether anything answers from beyond the tunnel: even a refused connection does.
async fn reaches(exit: &Exit, target: &Target, timings: &Timings) -> bool {
    match upstream::ask(exit, target, timings.dial).await {
        Ok((_, Answer::Open { .. })) => true,
        Ok((_, Answer::Refused(refusal))) => refusal == Refusal::Refused,
        Ok((_, Answer::Closed)) | Err(_) => false,
    }
}
