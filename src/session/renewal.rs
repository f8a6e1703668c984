//! Writes the sessions' activity to their claims: while a session has tunnels, and once more for what
//! happened since the last write, at most every quarter of its idle timeout. Runs on the control plane
//! of every replica.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use tokio::time::Instant;

use super::claim::{self, Claim};
use super::ensure::{note, renew};
use super::sessions::Shared;
use super::table::{Entry, State};

/// How often the table is looked through. The shortest idle timeout is seconds, its quarter is this.
const TICK: Duration = Duration::from_millis(250);
/// How often tunnels on an older exit are told of while the session waits for its next one: it may be the
/// older one that is in the way, and it goes once nobody has told of any for a while
/// (`controller::plan::drain`).
const PRESSED: Duration = Duration::from_secs(3);
/// Renewals under way at once: what is due waits for its turn rather than flood the API server.
const AT_ONCE: usize = 16;

/// What was last written of a session.
struct Written {
    uid: String,
    /// When, whether it succeeded or not.
    at: Instant,
    /// Which moment of activity it told, by the table's clock.
    activity: u64,
}

/// The renewals of one replica.
pub(super) struct Renewals {
    shared: Arc<Shared>,
    leases: Api<Lease>,
    written: HashMap<Arc<str>, Written>,
}

impl Renewals {
    pub(super) fn new(shared: Arc<Shared>, leases: Api<Lease>) -> Self {
        Self { shared, leases, written: HashMap::new() }
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
        let entries = self.shared.table.all();
        let mut due = Vec::new();
        for entry in &entries {
            let state = entry.state();
            let Some(claim) = state.claim() else { continue };
            if let Some(activity) = self.due(entry, claim, all) {
                due.push((Arc::clone(entry), Arc::clone(claim), activity));
            }
        }
        if self.written.len() > entries.len() * 2 + 64 {
            let known: std::collections::HashSet<&Arc<str>> =
                entries.iter().map(|entry| &entry.name).collect();
            self.written.retain(|name, _| known.contains(name));
        }
        let mut due = due.into_iter();
        let mut running = FuturesUnordered::new();
        for (entry, claim, activity) in due.by_ref().take(AT_ONCE) {
            running.push(self.write(entry, claim, activity));
        }
        let mut done = Vec::new();
        while let Some(written) = running.next().await {
            done.push(written);
            if let Some((entry, claim, activity)) = due.next() {
                running.push(self.write(entry, claim, activity));
            }
        }
        drop(running);
        self.written.extend(done);
    }

    /// The moment of activity to write, if one is due: news, and the last write (by whichever replica) at
    /// least a quarter of the idle timeout ago.
    fn due(&self, entry: &Entry, claim: &Claim, all: bool) -> Option<u64> {
        let written = self.written.get(&entry.name).filter(|written| written.uid == claim.uid);
        let told = written.map_or(0, |written| written.activity).max(self.told_by(claim));
        let last = entry.last_used();
        let rest = claim.duration / 4;
        let rested =
            written.is_none_or(|written| written.at.elapsed() >= rest) && claim::age(claim.renewed) >= rest;
        let news = last > told && (all || rested);
        (news || self.older_due(entry, claim, written)).then_some(last)
    }

    /// Whether tunnels on older exits are to be told of. That somebody renews the claim for other reasons
    /// says nothing about them.
    fn older_due(&self, entry: &Entry, claim: &Claim, written: Option<&Written>) -> bool {
        if claim.transition == 0 {
            return false;
        }
        let waits = matches!(entry.state(), State::Waiting { .. });
        let rest = if waits { PRESSED.min(claim.duration / 4) } else { claim.duration / 4 };
        written.is_none_or(|written| written.at.elapsed() >= rest)
            && self.shared.index().draining(claim).iter().any(|transition| {
                claim.renewed_older.get(transition).is_none_or(|told| claim::age(*told) >= rest)
            })
    }

    /// The moment of activity that a claim tells, by the table's clock.
    fn told_by(&self, claim: &Claim) -> u64 {
        let ago = u64::try_from(claim::age(claim.renewed).as_millis()).unwrap_or(u64::MAX);
        self.shared.table.clock.now().saturating_sub(ago)
    }

    async fn write(&self, entry: Arc<Entry>, claim: Arc<Claim>, activity: u64) -> (Arc<str>, Written) {
        let now = SystemTime::now();
        let renewed = self.shared.table.clock.wall(activity).min(now);
        let older = self.shared.index().draining(&claim);
        let patch = claim::renewal(&claim.uid, renewed, &older, now);
        let begun = Instant::now();
        if let Err(error) = renew(&self.shared, &self.leases, &entry, &claim, &patch).await {
            note(&entry, &error);
            // Not written, and due again after a rest.
            return (Arc::clone(&entry.name), Written { uid: claim.uid.clone(), at: begun, activity: 0 });
        }
        (Arc::clone(&entry.name), Written { uid: claim.uid.clone(), at: begun, activity })
    }
}
