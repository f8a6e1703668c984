//! Maps by the address of something that the entry itself keeps: which nobody outside chooses, so that one
//! multiplication is hash enough. Each tunnel looks into several. Used by `wish` and `exits`.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::hash::IsHash;

/// A map by addresses.
pub(super) type ByAddress<T> = HashMap<Address, T, IsHash>;

/// Where something is, for as long as it is kept there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address(usize);

impl Address {
    /// Of what is shared.
    pub(super) fn of<T>(shared: &Arc<T>) -> Self {
        Self(Arc::as_ptr(shared).addr())
    }
}

impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // 2^64 over the golden ratio: the map takes its bits from both ends of the product.
        let product = (self.0 as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        state.write_u64(product ^ (product >> 32));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher as _;

    use super::*;

    #[test]
    fn neighbours_in_memory_are_apart_at_both_ends() {
        let hash = |at: usize| IsHash::default().hash_one(Address(0x7f00_0000_0000 + at * 128));
        let low: HashSet<u64> = (0..128).map(|at| hash(at) & 0xff).collect();
        let high: HashSet<u64> = (0..128).map(|at| hash(at) >> 57).collect();
        assert!(low.len() > 64 && high.len() > 32, "{} {}", low.len(), high.len());
    }
}
