//! Shutdown in phases: what the proxy's listeners, the readiness probe and `app` agree on.
//!
//! `app` makes one [`Shutdown`] and drives it; everything that serves clients holds a [`Guard`] for as
//! long as it does. The drain ends when the last guard drops, never by a fixed sleep.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

/// How far a shutdown is. Phases only ever go forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// No shutdown.
    Serving,
    /// Unready, but still accepting: endpoints in the cluster lag behind the probe.
    Lame,
    /// Listeners take what is queued and close; those who are held are told, idle connections close,
    /// open tunnels go on.
    Closing,
    /// What is still open is cut.
    Force,
}

impl Phase {
    /// The phase as logs and `/readyz` have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Lame => "lame",
            Self::Closing => "closing",
            Self::Force => "force",
        }
    }
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every connection ended by itself.
    Clean,
    /// This many guards were left when the time was over, or when [`Shutdown::force`] was called.
    Forced(usize),
}

#[derive(Debug)]
struct Inner {
    phase: watch::Sender<Phase>,
    open: AtomicUsize,
    none_open: Notify,
}

/// The one handle of a shutdown. Cheap to clone; every clone is the same shutdown.
#[derive(Clone, Debug)]
pub struct Shutdown(Arc<Inner>);

/// Something that a drain waits for: a listener that has not closed yet, a client's connection.
#[derive(Debug)]
pub struct Guard(Arc<Inner>);

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// How long a forced drain waits for what was cut to be gone.
    const CUT: Duration = Duration::from_secs(2);

    /// A shutdown that has not begun.
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            phase: watch::Sender::new(Phase::Serving),
            open: AtomicUsize::new(0),
            none_open: Notify::new(),
        }))
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.0.phase.borrow()
    }

    /// Goes on to `phase`; never back.
    pub fn advance(&self, phase: Phase) {
        self.0.phase.send_if_modified(|now| {
            let forward = phase > *now;
            if forward {
                *now = phase;
            }
            forward
        });
    }

    /// Cuts everything at once (a second signal).
    pub fn force(&self) {
        self.advance(Phase::Force);
    }

    /// Waits until the phase is `phase` or later.
    pub async fn reached(&self, phase: Phase) {
        let mut receiver = self.0.phase.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        let _ = receiver.wait_for(|now| *now >= phase).await;
    }

    /// Makes the drain wait until the guard is dropped.
    pub fn guard(&self) -> Guard {
        self.0.open.fetch_add(1, Ordering::Relaxed);
        Guard(Arc::clone(&self.0))
    }

    /// Guards that are held now.
    pub fn open(&self) -> usize {
        self.0.open.load(Ordering::Acquire)
    }

    /// Waits until no guard is held.
    pub async fn drained(&self) {
        loop {
            let none_open = self.0.none_open.notified();
            tokio::pin!(none_open);
            // Registered before the look, so that a guard that drops in between is not missed.
            none_open.as_mut().enable();
            if self.open() == 0 {
                return;
            }
            none_open.await;
        }
    }

    /// The whole sequence: lame for `delay`, then closing until the last guard drops or `timeout` is
    /// over, then force. Returns early when nothing is left, and at once after [`Self::force`].
    pub async fn run(&self, delay: Duration, timeout: Duration) -> Drained {
        self.advance(Phase::Lame);
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = self.reached(Phase::Force) => {}
        }
        self.advance(Phase::Closing);
        tokio::select! {
            () = self.drained() => return Drained::Clean,
            () = tokio::time::sleep(timeout) => {}
            () = self.reached(Phase::Force) => {}
        }
        let left = self.open();
        self.advance(Phase::Force);
        // What is cut logs its end; a thread that does not come back must not hold the process up.
        let _ = tokio::time::timeout(Self::CUT, self.drained()).await;
        if left == 0 { Drained::Clean } else { Drained::Forced(left) }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none_open.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_out_the_delay_and_ends_with_the_last_guard() {
        let shutdown = Shutdown::new();
        let guard = shutdown.guard();
        let run = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.run(Duration::from_secs(5), Duration::from_secs(25)).await }
        });
        let start = tokio::time::Instant::now();
        shutdown.reached(Phase::Lame).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        shutdown.reached(Phase::Closing).await;
        assert_eq!(start.elapsed().as_secs(), 5);
        drop(guard);
        assert_eq!(run.await.unwrap(), Drained::Clean);
        assert_eq!(start.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_end_is_forced_and_counted() {
        let shutdown = Shutdown::new();
        let guard = shutdown.guard();
        let cut = tokio::spawn({
            let shutdown = shutdown.clone();
            async move {
                shutdown.reached(Phase::Force).await;
                drop(guard);
            }
        });
        let start = tokio::time::Instant::now();
        let drained = shutdown.run(Duration::from_secs(5), Duration::from_secs(25)).await;
        assert_eq!(drained, Drained::Forced(1));
        assert_eq!(start.elapsed().as_secs(), 30);
        cut.await.unwrap();
        assert_eq!(shutdown.open(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn force_skips_every_wait_and_phases_never_go_back() {
        let shutdown = Shutdown::new();
        let start = tokio::time::Instant::now();
        shutdown.force();
        assert_eq!(shutdown.run(Duration::from_secs(5), Duration::from_secs(25)).await, Drained::Clean);
        assert_eq!(start.elapsed(), Duration::ZERO);
        shutdown.advance(Phase::Lame);
        assert_eq!(shutdown.phase(), Phase::Force);
    }
}
