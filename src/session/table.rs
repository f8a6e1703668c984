//! The table of sessions: one [`Entry`] for each session that this replica has heard of, found by its
//! id without a lock that anyone holds for long. The index of pods and claims publishes into it, and
//! data threads read it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use tokio::sync::Notify;

use super::entry::{Clock, Entry, Used, Waiter, locked};
use super::exit::Exit;
use super::id::{Ids, SessionId};
use crate::hash::IsHash;
use crate::secret::Secret;
use crate::selector::{Lifetimes, SessionKey};

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

/// All sessions that this replica has heard of.
#[derive(Debug)]
pub(super) struct Table {
    entries: DashMap<SessionId, Arc<Entry>, IsHash>,
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
            clock: Clock::new(),
        }
    }

    /// What the session's entry is found by.
    pub(super) fn id(&self, key: &SessionKey) -> SessionId {
        self.ids.of(key)
    }

    pub(super) fn get(&self, id: SessionId) -> Option<Arc<Entry>> {
        self.entries.get(&id).map(|entry| Arc::clone(&entry))
    }

    /// The entry of a session, made if there is none.
    pub(super) fn entry(&self, key: &SessionKey) -> Arc<Entry> {
        let id = self.id(key);
        self.get(id)
            .unwrap_or_else(|| Arc::clone(&self.entries.entry(id).or_insert_with(|| self.new_entry(key))))
    }

    fn new_entry(&self, key: &SessionKey) -> Arc<Entry> {
        Arc::new(Entry::new(key.clone(), self.clock, Arc::clone(&self.used)))
    }

    /// Queues a request. Its entry cannot vanish while it waits.
    pub(super) fn wait(&self, key: &SessionKey, lifetimes: &Lifetimes) -> Result<Waiter, Crowded> {
        // First: whoever is turned away leaves nothing behind.
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITERS {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Crowded::Gateway);
        }
        let slot = self.entries.entry(self.id(key)).or_insert_with(|| self.new_entry(key));
        let entry = Arc::clone(&slot);
        let before = entry.count_waiter();
        // Counted while the map's guard is held, so that `forget` sees either the entry unused or us.
        drop(slot);
        let waiter = Waiter::new(entry, Arc::clone(&self.waiting));
        if before >= WAITERS_PER_SESSION {
            return Err(Crowded::Session);
        }
        if before == 0 {
            waiter.entry.begin_round(lifetimes);
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
        self.entries.remove_if(&self.id(key), |_, entry| entry.is_unused());
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::InUse;
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
        assert!(table.get(table.id(&key)).is_none());
        assert_eq!(table.waiting.load(Ordering::Relaxed), WAITERS);
    }

    #[test]
    fn a_session_is_listed_once_while_it_is_used() {
        let table = Table::new();
        let entry = entry(&table);
        assert!(table.take_used().is_empty());
        let first = InUse::new(Arc::clone(&entry), exit(), 1);
        let second = InUse::new(Arc::clone(&entry), exit(), 1);
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
        let begin = || InUse::new(Arc::clone(&entry), Arc::clone(&exit), table.clock.now());
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
