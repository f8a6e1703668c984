//! By what the table finds a session: a keyed hash of its key. A key is several texts, each with a place in
//! memory of its own; comparing them costs more than all else that a hit does.
//!
//! 128 bits with keys that nobody knows: no two sessions ever meet in one. (A claim's name, by which the
//! cluster knows a session, is 100 bits of a hash.)

use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};

use crate::selector::SessionKey;

/// What stands for a session's key in this process. For maps that take it for the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionId(u64, u64);

#[cfg(test)]
impl SessionId {
    /// The id with that number, for tests of the data path.
    pub(crate) const fn of(number: u64) -> Self {
        Self(number, 0)
    }

    /// Its number.
    pub(crate) const fn number(self) -> u64 {
        self.0
    }
}

impl Hash for SessionId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

/// Makes ids; those of one process are no other's.
#[derive(Debug, Default)]
pub(super) struct Ids(RandomState, RandomState);

impl Ids {
    /// The id of a key: equal keys have equal ones.
    pub(super) fn of(&self, key: &SessionKey) -> SessionId {
        let mut both =
            Both { one: self.0.build_hasher(), two: self.1.build_hasher(), room: [0; ROOM], filled: 0 };
        key.hash(&mut both);
        both.flush();
        SessionId(both.one.finish(), both.two.finish())
    }
}

/// As much as most keys are.
const ROOM: usize = 128;

/// Two hashes in one go through a key. A key is a dozen short texts and numbers, and a hash takes one long text much
/// faster, so they are put together first: what a hash makes of bytes does not depend on how they come.
struct Both {
    one: DefaultHasher,
    two: DefaultHasher,
    room: [u8; ROOM],
    filled: usize,
}

impl Both {
    fn flush(&mut self) {
        let bytes = self.room.get(..self.filled).unwrap_or_default();
        self.one.write(bytes);
        self.two.write(bytes);
        self.filled = 0;
    }
}

impl Hasher for Both {
    fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.filled == ROOM {
                self.flush();
            }
            let free = self.room.get_mut(self.filled..).unwrap_or_default();
            let (now, later) = bytes.split_at(bytes.len().min(free.len()));
            if let Some(free) = free.get_mut(..now.len()) {
                free.copy_from_slice(now);
            }
            self.filled += now.len();
            bytes = later;
        }
    }

    fn finish(&self) -> u64 {
        self.one.finish()
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

    #[test]
    fn a_hash_is_of_all_bytes_however_they_come() {
        let ids = Ids::default();
        let bytes: Vec<u8> = (0..1000_u32).map(|n| n.to_le_bytes()[0]).collect();
        for piece in [1, 7, ROOM - 1, ROOM, ROOM + 1, bytes.len()] {
            let (one, two) = (ids.0.build_hasher(), ids.1.build_hasher());
            let mut both = Both { one, two, room: [0; ROOM], filled: 0 };
            bytes.chunks(piece).for_each(|piece| both.write(piece));
            both.flush();
            let mut whole = ids.0.build_hasher();
            whole.write(&bytes);
            assert_eq!(both.finish(), whole.finish(), "in pieces of {piece}");
        }
    }
}
