//! Maps by the address of something that the entry itself keeps: which nobody outside chooses, so that one
//! multiplication is hash enough. Each tunnel looks into several. Used by `wish` and `exits`.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by addresses.
pub(super) type ByAddress<T> = HashMap<usize, T, BuildHasherDefault<Address>>;

/// Hashes an address.
#[derive(Default)]
pub(super) struct Address(u64);

impl Hasher for Address {
    fn write_usize(&mut self, address: usize) {
        // 2^64 over the golden ratio: the map takes its bits from both ends of the product.
        let product = (address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ (product >> 32);
    }

    fn write(&mut self, bytes: &[u8]) {
        // An address is written as a number; anything else is still a hash, though a poor one.
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
    use std::collections::HashSet;
    use std::hash::{BuildHasher as _, BuildHasherDefault};

    use super::*;

    #[test]
    fn neighbours_in_memory_are_apart_at_both_ends() {
        let hash = |at: usize| BuildHasherDefault::<Address>::default().hash_one(0x7f00_0000_0000 + at * 128);
        let low: HashSet<u64> = (0..128).map(|at| hash(at) & 0xff).collect();
        let high: HashSet<u64> = (0..128).map(|at| hash(at) >> 57).collect();
        assert!(low.len() > 64 && high.len() > 32, "{} {}", low.len(), high.len());
    }
}
