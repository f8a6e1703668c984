//! Writes the sessions' activity to their claims: while a session has tunnels, and once more for what
//! happened since the last write, at most every quarter of its idle timeout. Runs on the control plane
//! of every replica.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use tokio::time::Instant;

use super::claim::{self, Claim};
use super::ensure::{note, renew};
use super::entry::{Entry, State};
use super::sessions::Shared;

/// How often the sessions that are used are looked through. The shortest idle timeout is seconds, its quarter is this.
const TICK: Duration = Duration::from_millis(250);
/// How often tunnels on an older exit are told of while the session waits for its next one: it may be the
/// older one that is in the way, and it goes once nobody has told of any for a while
/// (`controller::plan::drain`).
const PRESSED: Duration = Duration::from_secs(3);
/// Renewals under way at once: what is due waits for its turn rather than flood the API server.
const AT_ONCE: usize = 16;

/// What was last written of a session.
struct Written {
    /// Uid of its claim then.
    uid: String,
    /// When, whether it succeeded or not.
    at: Instant,
    /// Which moment of activity it told, by the table's clock.
    activity: u64,
}

/// A session that is used, or whose use is not written yet.
struct Busy {
    entry: Arc<Entry>,
    written: Option<Written>,
}

/// The renewals of one replica. What they look through is what is used, not what there is.
pub(super) struct Renewals {
    shared: Arc<Shared>,
    leases: Api<Lease>,
    busy: Vec<Busy>,
}

impl Renewals {
    pub(super) fn new(shared: Arc<Shared>, leases: Api<Lease>) -> Self {
        Self { shared, leases, busy: Vec::new() }
    }

    /// Renews what is due, for ever.
    pub(super) async fn run(&mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.round(false).await;
        }
    }

    /// Writes all activity that is not written yet, for a shutdown.
    pub(super) async fn flush(&mut self) {
        self.round(true).await;
    }

    async fn round(&mut self, all: bool) {
        let used = self.shared.table.take_used().into_iter();
        self.busy.extend(used.map(|entry| Busy { entry, written: None }));
        let shared = &self.shared;
        self.busy.retain(|busy| {
            let state = busy.entry.state();
            let news = state.claim().is_some_and(|claim| busy.news(shared, claim).is_some());
            news || busy.entry.is_in_use() || !busy.entry.unlist()
        });
        let due = self.busy.iter().enumerate().filter_map(|(at, busy)| {
            let state = busy.entry.state();
            let claim = state.claim()?;
            Some((at, Arc::clone(claim), busy.due(shared, claim, all)?))
        });
        let due: Vec<_> = due.collect();
        let mut due = due.into_iter();
        let mut running = FuturesUnordered::new();
        for (at, claim, activity) in due.by_ref().take(AT_ONCE) {
            running.push(self.write(at, claim, activity));
        }
        let mut done = Vec::new();
        while let Some(written) = running.next().await {
            done.push(written);
            if let Some((at, claim, activity)) = due.next() {
                running.push(self.write(at, claim, activity));
            }
        }
        drop(running);
        for (at, written) in done {
            if let Some(busy) = self.busy.get_mut(at) {
                busy.written = Some(written);
            }
        }
    }

    /// Writes the activity of the session at that place of the list.
    async fn write(&self, at: usize, claim: Arc<Claim>, activity: u64) -> (usize, Written) {
        let now = SystemTime::now();
        let renewed = self.shared.table.clock.wall(activity).min(now);
        let older = self.shared.index().draining(&claim);
        let patch = claim::renewal(&claim.uid, renewed, &older, now);
        let mut written = Written { uid: claim.uid.clone(), at: Instant::now(), activity };
        if let Some(busy) = self.busy.get(at)
            && let Err(error) = renew(&self.shared, &self.leases, &busy.entry, &claim, &patch).await
        {
            note(&busy.entry, &error);
            // Not written, and due again after a rest.
            written.activity = 0;
        }
        (at, written)
    }
}

impl Busy {
    fn written(&self, claim: &Claim) -> Option<&Written> {
        self.written.as_ref().filter(|written| written.uid == claim.uid)
    }

    /// The last moment of activity, if neither this replica nor another has written it.
    fn news(&self, shared: &Shared, claim: &Claim) -> Option<u64> {
        let told = self.written(claim).map_or(0, |written| written.activity).max(told_by(shared, claim));
        Some(self.entry.last_used()).filter(|last| *last > told)
    }

    /// The moment of activity to write, if one is due: news, and the last write (by whichever replica) at
    /// least a quarter of the idle timeout ago.
    fn due(&self, shared: &Shared, claim: &Claim, all: bool) -> Option<u64> {
        let rest = claim.duration / 4;
        let rested = || {
            self.written(claim).is_none_or(|written| written.at.elapsed() >= rest)
                && claim::age(claim.renewed) >= rest
        };
        let news = self.news(shared, claim).filter(|_| all || rested());
        news.or_else(|| self.older_due(shared, claim).then(|| self.entry.last_used()))
    }

    /// Whether tunnels on older exits are to be told of. That somebody renews the claim for other reasons
    /// says nothing about them.
    fn older_due(&self, shared: &Shared, claim: &Claim) -> bool {
        if claim.transition == 0 {
            return false;
        }
        let waits = matches!(self.entry.state(), State::Waiting { .. });
        let rest = if waits { PRESSED.min(claim.duration / 4) } else { claim.duration / 4 };
        self.written(claim).is_none_or(|written| written.at.elapsed() >= rest)
            && shared.index().draining(claim).iter().any(|transition| {
                claim.renewed_older.get(transition).is_none_or(|told| claim::age(*told) >= rest)
            })
    }
}

/// The moment of activity that a claim tells, by the table's clock.
fn told_by(shared: &Shared, claim: &Claim) -> u64 {
    let ago = u64::try_from(claim::age(claim.renewed).as_millis()).unwrap_or(u64::MAX);
    shared.table.clock.now().saturating_sub(ago)
}
