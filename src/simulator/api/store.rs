//! The objects, their versions and the history that watches read: etcd's part. The write path
//! ([`super::write`]) and the read path ([`super::read`], [`super::watch`]) are its only callers.
//!
//! Each resource type is one collection behind one lock, held for map operations and the encoding of
//! one object only. Versions come from one counter, taken under the lock of the collection that is
//! written, so that within a collection they appear in order. Watches keep a cursor into the history
//! and are woken by a counter: a writer's work does not depend on how many there are nor on how slow
//! they read.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::json::metadata;
use super::resources::Kind;

/// Changes that are kept for watches to resume from, per collection. The real one keeps five minutes
/// of etcd's history and a watch cache of 100 to 100 000 events.
const HISTORY_EVENTS: usize = 10_000;
/// Encoded size of the changes that are kept, per collection, so that many large objects do not
/// outgrow a small machine.
const HISTORY_BYTES: usize = 64 << 20;

/// One version of an object.
#[derive(Debug)]
pub(super) struct Object {
    /// The object, `metadata.resourceVersion` included.
    pub(super) value: Value,
    /// The same, encoded.
    pub(super) json: Bytes,
    /// `metadata.resourceVersion` as a number.
    pub(super) version: u64,
}

impl Object {
    fn new(mut value: Value, version: u64) -> Self {
        metadata(&mut value).insert("resourceVersion".into(), json!(version.to_string()));
        // A `Value` has text keys only, so that encoding it cannot fail.
        let json = Bytes::from(serde_json::to_vec(&value).unwrap_or_default());
        Self { value, json, version }
    }

    /// An object that is only shown, not stored: the answer to a dry run.
    pub(super) fn draft(value: Value) -> Self {
        let json = Bytes::from(serde_json::to_vec(&value).unwrap_or_default());
        Self { value, json, version: 0 }
    }
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Added,
    Modified,
    Deleted,
}

/// One change, as the history keeps it.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) change: Change,
    /// The object after the change; for a deletion its last state, with the version of the deletion.
    pub(super) object: Arc<Object>,
    /// The object before the change.
    pub(super) previous: Option<Arc<Object>>,
    key: Arc<str>,
}

/// What to do with an object.
pub(super) enum Commit {
    /// Create or replace it.
    Put(Value),
    /// Remove it; the value is its last state.
    Remove(Value),
}

/// The object was not in the version that the caller had read: read again and decide anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Raced;

/// The version asked for is no longer in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expired;

/// Objects at one version.
pub(super) struct Snapshot {
    /// Objects in the order of their keys.
    pub(super) objects: Vec<Arc<Object>>,
    /// The version that they are a picture of.
    pub(super) version: u64,
}

#[derive(Default)]
struct Collection {
    objects: BTreeMap<Arc<str>, Arc<Object>>,
    history: VecDeque<Event>,
    history_bytes: usize,
    /// Version of the newest change that has left the history.
    floor: u64,
}

struct Shard {
    collection: Mutex<Collection>,
    changed: watch::Sender<u64>,
}

/// All objects of the cluster.
pub(super) struct Store {
    shards: Vec<Shard>,
    version: AtomicU64,
    history_events: usize,
    history_bytes: usize,
}

/// The key of an object: namespace (empty for a cluster-scoped one) and name.
pub(super) fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

impl Store {
    /// An empty store. Versions begin at the milliseconds of the clock, so that a server that is
    /// started anew never reuses the versions of its predecessor: a client that resumes from one of
    /// those is told that it has expired, as it should be.
    pub(super) fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let first = u64::try_from(now.as_millis()).unwrap_or(1);
        Self::with_limits(first, HISTORY_EVENTS, HISTORY_BYTES)
    }

    fn with_limits(first: u64, history_events: usize, history_bytes: usize) -> Self {
        let shards = (0..Kind::COLLECTIONS)
            .map(|_| Shard {
                collection: Mutex::new(Collection { floor: first, ..Collection::default() }),
                changed: watch::channel(first).0,
            })
            .collect();
        Self { shards, version: AtomicU64::new(first), history_events, history_bytes }
    }

    fn shard(&self, kind: Kind) -> &Shard {
        &self.shards[kind.collection()]
    }

    fn lock(&self, kind: Kind) -> MutexGuard<'_, Collection> {
        self.shard(kind).collection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest version of anything.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    /// One object.
    pub(super) fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.lock(kind).objects.get(key(namespace, name).as_str()).cloned()
    }

    /// The objects of a namespace (or of all), now or as they were `at` a version of the history.
    pub(super) fn snapshot(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        at: Option<u64>,
    ) -> Result<Snapshot, Expired> {
        let collection = self.lock(kind);
        let current = self.version();
        let version = at.map_or(current, |at| at.min(current));
        if version < collection.floor {
            return Err(Expired);
        }
        let (from, to) = match namespace {
            // '0' is the character after '/'.
            Some(namespace) => (format!("{namespace}/"), Some(format!("{namespace}0"))),
            None => (String::new(), None),
        };
        let upper = to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let range = || collection.objects.range::<str, _>((Bound::Included(from.as_str()), upper));
        let start = collection.history.partition_point(|event| event.object.version <= version);
        if start == collection.history.len() {
            return Ok(Snapshot { objects: range().map(|(_, object)| object.clone()).collect(), version });
        }
        // Undo what has happened since.
        let mut then: BTreeMap<&str, Arc<Object>> =
            range().map(|(key, object)| (&**key, object.clone())).collect();
        for event in collection.history.iter().skip(start).rev() {
            let key = &*event.key;
            if key < from.as_str() || to.as_deref().is_some_and(|to| key >= to) {
                continue;
            }
            match &event.previous {
                Some(previous) => then.insert(key, previous.clone()),
                None => then.remove(key),
            };
        }
        Ok(Snapshot { objects: then.into_values().collect(), version })
    }

    /// Writes one object, if its version is still `expected` (`None`: it must not exist). Returns what
    /// was written.
    pub(super) fn commit(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        expected: Option<u64>,
        commit: Commit,
    ) -> Result<Arc<Object>, Raced> {
        let key: Arc<str> = key(namespace, name).into();
        let mut collection = self.lock(kind);
        let previous = collection.objects.get(&key).cloned();
        if previous.as_ref().map(|previous| previous.version) != expected {
            return Err(Raced);
        }
        let version = self.version.fetch_add(1, Ordering::SeqCst) + 1;
        let (change, object) = match commit {
            Commit::Put(value) => {
                let object = Arc::new(Object::new(value, version));
                collection.objects.insert(key.clone(), object.clone());
                (if previous.is_some() { Change::Modified } else { Change::Added }, object)
            }
            Commit::Remove(value) => {
                collection.objects.remove(&key);
                (Change::Deleted, Arc::new(Object::new(value, version)))
            }
        };
        collection.history_bytes += object.json.len();
        collection.history.push_back(Event { change, object: object.clone(), previous, key });
        while collection.history.len() > self.history_events || collection.history_bytes > self.history_bytes
        {
            collection.forget_oldest();
        }
        // Within the lock, so that the counter never goes back.
        self.shard(kind).changed.send_replace(version);
        Ok(object)
    }

    /// The changes after version `after`, at most `limit` of them, and the version up to which they
    /// are complete.
    pub(super) fn events(&self, kind: Kind, after: u64, limit: usize) -> Result<(Vec<Event>, u64), Expired> {
        let collection = self.lock(kind);
        if after < collection.floor {
            return Err(Expired);
        }
        let start = collection.history.partition_point(|event| event.object.version <= after);
        let events: Vec<Event> = collection.history.iter().skip(start).take(limit).cloned().collect();
        let complete = start + events.len() == collection.history.len();
        let newest = events.last().map_or(after, |event| event.object.version);
        // The clients' own clock may run ahead of ours (a watch from a future version).
        let upto = if complete { self.version().max(after) } else { newest };
        Ok((events, upto))
    }

    /// A counter that changes with each write to a collection.
    pub(super) fn changed(&self, kind: Kind) -> watch::Receiver<u64> {
        self.shard(kind).changed.subscribe()
    }

    /// Takes a version that no object has, and returns the newest one before it: what was read up to
    /// then can be declared expired, and what is read from now on is newer.
    pub(super) fn advance(&self) -> u64 {
        self.version.fetch_add(1, Ordering::SeqCst)
    }
}

impl Collection {
    fn forget_oldest(&mut self) {
        if let Some(event) = self.history.pop_front() {
            self.history_bytes -= event.object.json.len();
            self.floor = event.object.version;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(store: &Store, namespace: &str, name: &str, expected: Option<u64>, n: u64) -> u64 {
        let value = json!({"metadata": {"namespace": namespace, "name": name}, "n": n});
        store.commit(Kind::Pod, namespace, name, expected, Commit::Put(value)).unwrap().version
    }

    fn names(snapshot: &Snapshot) -> Vec<String> {
        snapshot
            .objects
            .iter()
            .map(|object| {
                let of = |field: &str| object.value["metadata"][field].as_str().unwrap().to_owned();
                format!("{}/{}={}", of("namespace"), of("name"), object.value["n"])
            })
            .collect()
    }

    #[test]
    fn versions_rise_across_collections_and_a_stale_writer_loses() {
        let store = Store::new();
        let first = put(&store, "a", "x", None, 1);
        let lease = store.commit(Kind::Lease, "a", "x", None, Commit::Put(json!({"metadata": {}}))).unwrap();
        assert_eq!(lease.version, first + 1);
        assert_eq!(lease.value["metadata"]["resourceVersion"], json!(lease.version.to_string()));
        assert_eq!(serde_json::from_slice::<Value>(&lease.json).unwrap(), lease.value);
        let raced = store.commit(Kind::Pod, "a", "x", None, Commit::Put(json!({})));
        assert_eq!(raced.err(), Some(Raced));
        let raced = store.commit(Kind::Pod, "a", "x", Some(first - 1), Commit::Remove(json!({})));
        assert_eq!(raced.err(), Some(Raced));
        assert_eq!(put(&store, "a", "x", Some(first), 2), first + 2);
    }

    #[test]
    fn snapshots_are_of_one_namespace_and_of_any_version_in_the_history() {
        let store = Store::new();
        let start = store.version();
        let one = put(&store, "a", "x", None, 1);
        put(&store, "a-b", "x", None, 1);
        put(&store, "a0", "x", None, 1);
        let changed = put(&store, "a", "x", Some(one), 2);
        store.commit(Kind::Pod, "a", "x", Some(changed), Commit::Remove(json!({"metadata": {}}))).unwrap();
        put(&store, "a", "y", None, 1);
        let at = |namespace, at| names(&store.snapshot(Kind::Pod, namespace, at).unwrap());
        assert_eq!(at(Some("a"), None), ["a/y=1"]);
        assert_eq!(at(Some("a"), Some(one)), ["a/x=1"]);
        assert_eq!(at(Some("a"), Some(changed)), ["a/x=2"]);
        assert_eq!(at(None, Some(changed)), ["a-b/x=1", "a/x=2", "a0/x=1"]);
        assert!(at(None, Some(start)).is_empty());
        assert!(store.snapshot(Kind::Pod, None, Some(start - 1)).is_err());
    }

    #[test]
    fn events_resume_from_a_cursor() {
        let store = Store::new();
        let start = store.version();
        let one = put(&store, "a", "x", None, 1);
        let two = put(&store, "a", "x", Some(one), 2);
        let (events, upto) = store.events(Kind::Pod, start, 1).unwrap();
        assert_eq!((events.len(), upto, events[0].change), (1, one, Change::Added));
        let (events, upto) = store.events(Kind::Pod, one, 10).unwrap();
        assert_eq!((events.len(), upto, events[0].change), (1, two, Change::Modified));
        assert_eq!(events[0].previous.as_ref().unwrap().version, one);
        // Writes to other collections move the version on.
        store.commit(Kind::Node, "", "n", None, Commit::Put(json!({}))).unwrap();
        let (events, upto) = store.events(Kind::Pod, two, 10).unwrap();
        assert_eq!((events.len(), upto), (0, two + 1));
    }

    #[test]
    fn the_history_is_bounded_by_number_and_by_size() {
        let store = Store::with_limits(100, 3, 1 << 20);
        let mut version = put(&store, "a", "x", None, 0);
        for n in 1..=5 {
            version = put(&store, "a", "x", Some(version), n);
        }
        assert_eq!(store.events(Kind::Pod, version - 4, 10).err(), Some(Expired));
        assert_eq!(store.events(Kind::Pod, version - 3, 10).unwrap().0.len(), 3);
        let small = Store::with_limits(100, 1000, 200);
        let mut version = put(&small, "a", "x", None, 0);
        for n in 1..=9 {
            version = put(&small, "a", "x", Some(version), n);
        }
        assert!(small.events(Kind::Pod, 103, 10).is_err());
        assert!(!small.events(Kind::Pod, version - 1, 10).unwrap().0.is_empty());
    }

    #[test]
    fn advancing_separates_what_was_read_from_what_will_be() {
        let store = Store::new();
        let one = put(&store, "a", "x", None, 1);
        assert_eq!(store.advance(), one);
        assert_eq!(store.snapshot(Kind::Pod, None, None).unwrap().version, one + 1);
        assert_eq!(put(&store, "a", "y", None, 1), one + 2);
    }

    #[test]
    fn a_write_wakes_the_watchers_of_its_collection_only() {
        let store = Store::new();
        let mut pods = store.changed(Kind::Pod);
        let leases = store.changed(Kind::Lease);
        let version = put(&store, "a", "x", None, 1);
        assert!(pods.has_changed().unwrap());
        assert_eq!(*pods.borrow_and_update(), version);
        assert!(!leases.has_changed().unwrap());
    }
}
