//! What is remembered of password checks: by keyed digest, bounded, and only for the accounts of one
//! generation of the users file.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

/// A mutex's guard, whether or not a holder has panicked: what these protect is whole after each step.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A keyed SHA-256 of something that holds a password. All 256 bits are compared, so no two texts share
/// an entry; and without the process's key neither the text nor a dictionary of texts leads to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digest([u8; 32]);

impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        state.write_u64(u64::from_ne_bytes([a, b, c, d, e, f, g, h]));
    }
}

/// Makes digests with a key of its own. The key fills the hash's first block, which is computed once:
/// a header of up to 55 bytes then costs one more block. (HMAC's outer hash guards against the
/// extension of a digest that an attacker sees; these are never seen.)
#[derive(Clone)]
pub(super) struct Key(Sha256);

impl Key {
    /// A key of the process's random generator.
    pub(super) fn random() -> Self {
        let block: [u8; 64] = rand::random();
        Self(Sha256::new_with_prefix(block))
    }

    pub(super) fn digest(&self, bytes: &[u8]) -> Digest {
        let mut hash = self.0.clone();
        hash.update(bytes);
        Digest(hash.finalize().into())
    }

    /// The digest of two texts, of which the first does not hold the separator.
    pub(super) fn digest_pair(&self, first: &str, separator: u8, second: &str) -> Digest {
        let mut hash = self.0.clone();
        hash.update(first);
        hash.update([separator]);
        hash.update(second);
        Digest(hash.finalize().into())
    }
}

/// A digest's first bytes are as good as any hash of them.
#[derive(Default)]
pub(super) struct First(u64);

impl Hasher for First {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

type State = BuildHasherDefault<First>;

/// Verified digests, of at most `capacity` the ones used lately (the CLOCK algorithm: a hit sets a flag,
/// a sweep clears it and takes the first without).
pub(super) struct Verified<V> {
    entries: DashMap<Digest, Entry<V>, State>,
    /// The clock's ring: every digest of `entries` once.
    ring: Mutex<VecDeque<Digest>>,
    capacity: usize,
}

struct Entry<V> {
    value: V,
    generation: u64,
    used: AtomicBool,
}

impl<V: Clone> Verified<V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { entries: DashMap::default(), ring: Mutex::default(), capacity }
    }

    /// The value, if it was verified against the accounts of this generation.
    pub(super) fn get(&self, digest: &Digest, generation: u64) -> Option<V> {
        let entry = self.entries.get(digest)?;
        if entry.generation != generation {
            return None;
        }
        // Written only when it changes, so that hits of several threads share the cache line.
        if !entry.used.load(Ordering::Relaxed) {
            entry.used.store(true, Ordering::Relaxed);
        }
        Some(entry.value.clone())
    }

    /// Remembers a value. One of an older generation does no harm: no look-up finds it.
    pub(super) fn insert(&self, digest: Digest, generation: u64, value: V) {
        let mut ring = lock(&self.ring);
        let entry = Entry { value, generation, used: AtomicBool::new(false) };
        if self.entries.insert(digest, entry).is_some() {
            return;
        }
        if ring.len() >= self.capacity {
            self.evict(&mut ring);
        }
        ring.push_back(digest);
    }

    fn evict(&self, ring: &mut VecDeque<Digest>) {
        // Two rounds at most: the first clears every flag.
        for _ in 0..=ring.len() {
            let Some(digest) = ring.pop_front() else { return };
            let used =
                self.entries.get(&digest).is_some_and(|entry| entry.used.swap(false, Ordering::Relaxed));
            if !used {
                self.entries.remove(&digest);
                return;
            }
            ring.push_back(digest);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        let mut ring = lock(&self.ring);
        ring.clear();
        self.entries.clear();
    }

    /// Keeps inserts waiting until it is dropped.
    #[cfg(test)]
    pub(super) fn hold(&self) -> MutexGuard<'_, VecDeque<Digest>> {
        lock(&self.ring)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(lock(&self.ring).len(), self.entries.len());
        self.entries.len()
    }
}

/// Digests that were refused, each for a while: so that a client with a wrong password costs one hash,
/// however often it tries.
pub(super) struct Refused {
    inner: Mutex<RefusedInner>,
    capacity: usize,
    keep: Duration,
}

#[derive(Default)]
struct RefusedInner {
    until: HashMap<Digest, (u64, Instant), State>,
    /// In order of expiry, since all are kept equally long.
    order: VecDeque<(Digest, Instant)>,
}

impl Refused {
    pub(super) fn new(capacity: usize, keep: Duration) -> Self {
        Self { inner: Mutex::default(), capacity, keep }
    }

    pub(super) fn contains(&self, digest: &Digest, generation: u64, now: Instant) -> bool {
        lock(&self.inner).until.get(digest).is_some_and(|(of, until)| *of == generation && now < *until)
    }

    pub(super) fn insert(&self, digest: Digest, generation: u64, now: Instant) {
        let mut inner = lock(&self.inner);
        while let Some((oldest, until)) = inner.order.front().copied() {
            if until > now && inner.order.len() < self.capacity {
                break;
            }
            inner.order.pop_front();
            // The entry may have been made anew since.
            if inner.until.get(&oldest).is_some_and(|(_, current)| *current == until) {
                inner.until.remove(&oldest);
            }
        }
        let until = now + self.keep;
        inner.until.insert(digest, (generation, until));
        inner.order.push_back((digest, until));
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        let mut inner = lock(&self.inner);
        inner.until.clear();
        inner.order.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_depend_on_the_key_and_on_every_byte() {
        let (one, two) = (Key::random(), Key::random());
        assert_eq!(one.digest(b"a"), one.digest(b"a"));
        assert_ne!(one.digest(b"a"), two.digest(b"a"));
        assert_ne!(one.digest(b"a"), one.digest(b"b"));
        assert_eq!(one.digest_pair("a", b':', "b"), one.digest(b"a:b"));
    }

    #[test]
    fn a_generation_does_not_see_anothers_entries() {
        let (key, cache) = (Key::random(), Verified::new(10));
        cache.insert(key.digest(b"x"), 1, "one");
        assert_eq!(cache.get(&key.digest(b"x"), 1), Some("one"));
        assert_eq!(cache.get(&key.digest(b"x"), 2), None);
        cache.insert(key.digest(b"x"), 2, "two");
        assert_eq!(cache.get(&key.digest(b"x"), 2), Some("two"));
        assert_eq!(cache.len(), 1);
        cache.clear();
        assert_eq!((cache.len(), cache.get(&key.digest(b"x"), 2)), (0, None));
    }

    #[test]
    fn a_full_cache_gives_up_what_is_not_used() {
        let (key, cache) = (Key::random(), Verified::new(4));
        let digest = |n: u32| key.digest(&n.to_be_bytes());
        for n in 0..4 {
            cache.insert(digest(n), 0, n);
        }
        for n in 4..100 {
            assert_eq!(cache.get(&digest(0), 0), Some(0), "the one in use stays, after {n}");
            cache.insert(digest(n), 0, n);
            assert!(cache.entries.contains_key(&digest(n)));
            assert_eq!(cache.len(), 4);
        }
    }

    #[test]
    fn a_full_cache_in_which_all_are_used_still_takes_one() {
        let (key, cache) = (Key::random(), Verified::new(3));
        let digest = |n: u32| key.digest(&n.to_be_bytes());
        for n in 0..3 {
            cache.insert(digest(n), 0, n);
            cache.get(&digest(n), 0);
        }
        cache.insert(digest(3), 0, 3);
        assert_eq!((cache.len(), cache.get(&digest(3), 0)), (3, Some(3)));
    }

    #[test]
    fn refusals_expire_and_are_bounded() {
        let (key, refused) = (Key::random(), Refused::new(3, Duration::from_secs(10)));
        let digest = |n: u32| key.digest(&n.to_be_bytes());
        let start = Instant::now();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        refused.insert(digest(1), 7, start);
        assert!(refused.contains(&digest(1), 7, after(9)));
        assert!(!refused.contains(&digest(1), 8, after(9)));
        assert!(!refused.contains(&digest(1), 7, after(10)));
        // Made anew, it outlives its first expiry.
        refused.insert(digest(1), 7, after(5));
        refused.insert(digest(2), 7, after(11));
        assert!(refused.contains(&digest(1), 7, after(11)));
        for n in 3..50 {
            refused.insert(digest(n), 7, after(12));
            assert!(lock(&refused.inner).order.len() <= 3 && lock(&refused.inner).until.len() <= 3);
            assert!(refused.contains(&digest(n), 7, after(12)));
        }
        refused.clear();
        assert!(!refused.contains(&digest(49), 7, after(12)));
    }
}
