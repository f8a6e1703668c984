//! By what the table finds a session: a keyed hash of its key. A key is several texts, each with a place in
//! memory of its own; comparing them costs more than all else that a hit does.
//!
//! 128 bits with keys that nobody knows: no two sessions ever meet in one. (A claim's name, by which the
//! cluster knows a session, is 100 bits of a hash.)

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash, Hasher, RandomState};

use crate::selector::SessionKey;

/// What stands for a session's key in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id(u64, u64);

impl Hash for Id {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

/// Makes ids; those of one process are no other's.
#[derive(Debug, Default)]
pub(super) struct Ids(RandomState, RandomState);

impl Ids {
    /// The id of a key: equal keys have equal ones.
    pub(super) fn of(&self, key: &SessionKey) -> Id {
        let mut both = Both(self.0.build_hasher(), self.1.build_hasher());
        key.hash(&mut both);
        Id(both.0.finish(), both.1.finish())
    }
}

/// Two hashes in one go through a key.
struct Both(DefaultHasher, DefaultHasher);

impl Hasher for Both {
    fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
        self.1.write(bytes);
    }

    fn finish(&self) -> u64 {
        self.0.finish()
    }
}

/// Ids are hashes already.
#[derive(Default)]
pub(super) struct AsItIs(u64);

/// For a map by ids.
pub(super) type IsHash = BuildHasherDefault<AsItIs>;

impl Hasher for AsItIs {
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        // An id writes a number alone; anything else is still a hash, though a poor one.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_have_equal_ids_and_others_others() {
        let ids = Ids::default();
        let id = |canonical: &str| ids.of(&SessionKey::parse_canonical(canonical).unwrap());
        assert_eq!(id("demo-country-se"), id("demo-country-se"));
        for other in ["demo", "demo-country-no", "demo-country-se-session-a", "demo2-country-se"] {
            let (one, two) = (id("demo-country-se"), id(other));
            assert!(one.0 != two.0 && one.1 != two.1, "{other}");
        }
        let se = id("demo-country-se");
        assert_ne!(se.0, se.1, "the two halves are of two hashes");
        assert_ne!(se, Ids::default().of(&SessionKey::parse_canonical("demo-country-se").unwrap()));
    }
}
