//! The buffers of one data thread. A relay borrows one for a turn and gives it back; it keeps one only
//! while a write is blocked. So idle tunnels hold none, and nothing is allocated per packet.

use std::cell::RefCell;

/// Size of a buffer: what one read takes at most. At 64 KiB a gigabyte costs half the time of 16 KiB.
pub(super) const SIZE: usize = 64 * 1024;

/// Buffers that are kept for reuse.
const SPARE: usize = 16;

/// A free list of buffers, of which relays of one thread borrow.
#[derive(Debug, Default)]
pub struct Buffers(RefCell<Vec<Box<[u8]>>>);

impl Buffers {
    /// A buffer of [`SIZE`] bytes; what is in it means nothing.
    pub(super) fn take(&self) -> Box<[u8]> {
        self.0.borrow_mut().pop().unwrap_or_else(|| vec![0; SIZE].into_boxed_slice())
    }

    /// Gives a buffer back. One of another size (early data) is dropped.
    pub(super) fn give(&self, buffer: Box<[u8]>) {
        let mut spare = self.0.borrow_mut();
        if buffer.len() == SIZE && spare.len() < SPARE {
            spare.push(buffer);
        }
    }
}

#[cfg(test)]
impl Buffers {
    /// Buffers in the free list.
    pub(super) fn spare(&self) -> usize {
        self.0.borrow().len()
    }
}
