//! For maps whose keys are hashes by themselves, or have one at hand: they write one number, and it is taken as it is.
//! Nobody outside may choose such a key. Used by the session table (keyed hashes) and the data threads (addresses).

use std::hash::{BuildHasherDefault, Hasher};

/// What a map of such keys hashes with.
pub(crate) type IsHash = BuildHasherDefault<AsItIs>;

/// Takes a number for the hash.
#[derive(Default)]
pub(crate) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        // Such a key writes a number alone; anything else is still a hash, though a poor one.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
