//! Whether this replica shall get traffic, and whether its event loops are alive: what `/readyz` and
//! `/livez` tell. `app` names the conditions, whoever fulfils one holds its [`Condition`], the admin
//! port reads [`Readiness::report`] and [`Liveness::stalled`].
//!
//! Readiness is a latch: losing the API server later keeps it, since sessions that have an exit need
//! none. Only draining takes it back. A condition that is dropped unfulfilled (its task panicked or gave
//! up) counts as failed, never as met.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// What a condition has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not met yet.
    Waiting,
    /// Met, for good.
    Met,
    /// Dropped before it was met: it will never be.
    Failed,
}

#[derive(Clone, Debug)]
struct Entry {
    required: bool,
    state: State,
}

#[derive(Clone, Debug, Default)]
struct Conditions {
    entries: BTreeMap<&'static str, Entry>,
    draining: bool,
}

/// What `/readyz` tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Whether traffic is welcome.
    pub ready: bool,
    /// Whether the process is shutting down.
    pub draining: bool,
    /// Required conditions that are not met yet.
    pub waiting_for: Vec<&'static str>,
    /// Required conditions that can no longer be met.
    pub failed: Vec<&'static str>,
    /// Conditions that traffic does not need and that are not met.
    pub without: Vec<&'static str>,
}

/// The conditions of one process, shared by all that fulfil or read them. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Readiness {
    conditions: Arc<watch::Sender<Conditions>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { conditions: Arc::new(watch::channel(Conditions::default()).0) }
    }
}

impl Readiness {
    /// A process without conditions, which is ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition without which there is no traffic. Add them all before anyone asks.
    pub fn require(&self, name: &'static str) -> Condition {
        self.add(name, true)
    }

    /// Adds a condition that is told and not waited for.
    pub fn mention(&self, name: &'static str) -> Condition {
        self.add(name, false)
    }

    fn add(&self, name: &'static str, required: bool) -> Condition {
        let entry = Entry { required, state: State::Waiting };
        self.conditions.send_modify(|all| {
            all.entries.insert(name, entry);
        });
        Condition { readiness: self.clone(), name, met: false }
    }

    /// Takes readiness back for good: the process is shutting down.
    pub fn drain(&self) {
        self.conditions.send_modify(|all| all.draining = true);
    }

    /// What is met and what isn't.
    pub fn report(&self) -> Report {
        report(&self.conditions.borrow())
    }

    /// Returns when the process is ready, or can no longer become ready; says which.
    pub async fn settled(&self) -> Report {
        let mut changes = self.conditions.subscribe();
        loop {
            let report = report(&changes.borrow_and_update());
            // The sender is `self`, so a change that never comes is the only way not to return.
            if report.ready
                || report.draining
                || !report.failed.is_empty()
                || changes.changed().await.is_err()
            {
                return report;
            }
        }
    }

    fn set(&self, name: &'static str, state: State) {
        self.conditions.send_modify(|all| {
            if let Some(entry) = all.entries.get_mut(name) {
                entry.state = state;
            }
        });
    }
}

fn report(all: &Conditions) -> Report {
    let names = |required: bool, state: State| {
        let matching = all.entries.iter().filter(move |(_, e)| e.required == required && e.state == state);
        matching.map(|(name, _)| *name).collect::<Vec<_>>()
    };
    let waiting_for = names(true, State::Waiting);
    let failed = names(true, State::Failed);
    let mut without = names(false, State::Waiting);
    without.extend(names(false, State::Failed));
    without.sort_unstable();
    Report {
        ready: !all.draining && waiting_for.is_empty() && failed.is_empty(),
        draining: all.draining,
        waiting_for,
        failed,
        without,
    }
}

/// The duty to fulfil a condition. Dropping it unfulfilled makes the condition failed.
#[derive(Debug)]
#[must_use = "a condition that is dropped counts as failed"]
pub struct Condition {
    readiness: Readiness,
    name: &'static str,
    met: bool,
}

impl Condition {
    /// The condition is met, from now on.
    pub fn met(mut self) {
        self.met = true;
    }
}

impl Drop for Condition {
    fn drop(&mut self) {
        self.readiness.set(self.name, if self.met { State::Met } else { State::Failed });
    }
}

/// How long an event loop may go without a beat before `/livez` says so: well above the longest pause
/// that a throttled container sees, well below what anyone would wait for by hand.
pub const STALLED_AFTER: Duration = Duration::from_secs(30);

/// How often an event loop beats.
pub const BEAT_EVERY: Duration = Duration::from_secs(1);

/// An event loop's name, and when it last beat, in milliseconds since the start.
type Loop = (String, Arc<AtomicU64>);

/// The heartbeats of the process's event loops. Clones are the same one. It depends on nothing outside
/// the process: an API server that is away must not restart the gateway.
#[derive(Clone, Debug)]
pub struct Liveness {
    started: Instant,
    loops: Arc<Mutex<Vec<Loop>>>,
}

impl Default for Liveness {
    fn default() -> Self {
        Self { started: Instant::now(), loops: Arc::default() }
    }
}

impl Liveness {
    /// A process without event loops, which is alive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event loop, which beats from now on.
    pub fn register(&self, name: impl Into<String>) -> Heartbeat {
        let last = Arc::new(AtomicU64::new(self.now()));
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        loops.push((name.into(), Arc::clone(&last)));
        Heartbeat { liveness: self.clone(), last }
    }

    /// Names of the event loops that have not beaten for [`STALLED_AFTER`].
    pub fn stalled(&self) -> Vec<String> {
        let limit = STALLED_AFTER.as_millis() as u64;
        let now = self.now();
        let loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        let late = loops.iter().filter(|(_, last)| now.saturating_sub(last.load(Ordering::Relaxed)) > limit);
        late.map(|(name, _)| name.clone()).collect()
    }

    /// Milliseconds since the start.
    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

/// The pulse of one event loop. Dropping it (the loop has ended in good order) takes the loop off the
/// list.
#[derive(Debug)]
pub struct Heartbeat {
    liveness: Liveness,
    last: Arc<AtomicU64>,
}

impl Heartbeat {
    /// The loop turns.
    pub fn beat(&self) {
        self.last.store(self.liveness.now(), Ordering::Relaxed);
    }

    /// Beats every [`BEAT_EVERY`], for as long as it is polled.
    pub async fn run(self) {
        let mut ticks = tokio::time::interval(BEAT_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.beat();
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        let mut loops = self.liveness.loops.lock().unwrap_or_else(PoisonError::into_inner);
        loops.retain(|(_, last)| !Arc::ptr_eq(last, &self.last));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_once_every_required_condition_is_met() {
        let readiness = Readiness::new();
        let pods = readiness.require("pods");
        let claims = readiness.require("claims");
        let servers = readiness.mention("servers");
        let report = readiness.report();
        assert!(!report.ready);
        assert_eq!(report.waiting_for, ["claims", "pods"]);
        assert_eq!(report.without, ["servers"]);
        pods.met();
        assert_eq!(readiness.report().waiting_for, ["claims"]);
        claims.met();
        assert!(readiness.report().ready);
        servers.met();
        assert_eq!(readiness.report(), Report { ready: true, ..Report::default() });
    }

    #[test]
    fn a_condition_dropped_unmet_has_failed() {
        let readiness = Readiness::new();
        let pods = readiness.require("pods");
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _held = pods;
            panic!("the task that holds it");
        }));
        assert!(panicked.is_err());
        let report = readiness.report();
        assert!(!report.ready);
        assert_eq!(report.failed, ["pods"]);
    }

    #[test]
    fn draining_takes_it_back_for_good() {
        let readiness = Readiness::new();
        let pods = readiness.require("pods");
        readiness.drain();
        pods.met();
        let report = readiness.report();
        assert!(!report.ready && report.draining);
    }

    #[tokio::test]
    async fn settled_waits_for_the_last_one() {
        let readiness = Readiness::new();
        let pods = readiness.require("pods");
        let claims = readiness.require("claims");
        let waiting = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.settled().await }
        });
        pods.met();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        claims.met();
        assert!(waiting.await.unwrap().ready);
    }

    #[tokio::test]
    async fn settled_does_not_wait_for_what_cannot_come() {
        let readiness = Readiness::new();
        let _pods = readiness.require("pods");
        drop(readiness.require("claims"));
        assert_eq!(readiness.settled().await.failed, ["claims"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_without_a_beat_is_stalled() {
        let liveness = Liveness::new();
        let beating = liveness.register("control");
        let silent = liveness.register("data-0");
        let beat = tokio::spawn(beating.run());
        tokio::time::advance(Duration::from_secs(29)).await;
        assert_eq!(liveness.stalled(), Vec::<String>::new());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(liveness.stalled(), ["data-0"]);
        silent.beat();
        assert_eq!(liveness.stalled(), Vec::<String>::new());
        drop(silent);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(liveness.stalled(), Vec::<String>::new(), "one that has ended is not stalled");
        beat.abort();
    }
}
