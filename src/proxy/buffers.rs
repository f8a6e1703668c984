//! What one data thread reads into and its relays move bytes through: buffers and pipes. A relay borrows one for a turn
//! and gives it back; it keeps one only while a write is blocked. So idle tunnels hold none, and nothing is allocated
//! per packet.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// Size of a buffer: what one read takes at most. At 64 KiB a gigabyte costs half the time of 16 KiB.
pub(super) const SIZE: usize = 64 * 1024;

/// Buffers that are kept for reuse.
const SPARE: usize = 16;

/// Room for a head: nearly all are smaller.
pub(super) const HEAD: usize = 4 * 1024;

/// Rooms for heads that are kept for reuse.
const SPARE_HEADS: usize = 64;

/// What one splice takes at most, so that a slow reader costs no more: all that a pipe has room for.
pub(super) const SPLICE: usize = PIPE_SIZE;

/// Size of a pipe, which is the most that an unprivileged process may have (`/proc/sys/fs/pipe-max-size`): it has a
/// slot for each 4 KiB of that, and one segment from a network takes a slot. An empty one takes 10 KiB.
const PIPE_SIZE: usize = 1024 * 1024;

/// The least that a pipe is worth having for: past 64 MiB of them a user without privileges gets 8 KiB ones
/// (`/proc/sys/fs/pipe-user-pages-soft`).
const LEAST_PIPE: usize = 256 * 1024;

/// Pipes of one thread. Each takes two open files; tunnels beyond them copy.
const MOST_PIPES: usize = 64;

/// After a pipe was refused, so many reads are copied before one is asked for again.
const REFUSED: u32 = 10_000;

/// How relays move bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Small messages are copied, large ones spliced.
    #[default]
    Auto,
    /// All is copied.
    Copy,
    /// All is spliced, as far as there are pipes.
    Splice,
}

/// Free lists of buffers and pipes, of which relays of one thread borrow.
#[derive(Debug, Default)]
pub struct Buffers {
    mode: Mode,
    spare: RefCell<Vec<Box<[u8]>>>,
    heads: RefCell<Vec<Vec<u8>>>,
    pipes: RefCell<Vec<Pipe>>,
    /// Pipes that there are, borrowed ones too.
    open: Rc<Cell<usize>>,
    /// The fewest pipes that were free at once since the last round: so many nobody has needed.
    unneeded: Cell<usize>,
    /// Reads to come before a pipe is asked for again.
    refused: Cell<u32>,
}

impl Buffers {
    /// For relays that move bytes in this mode: to test and to measure one alone.
    pub fn new(mode: Mode) -> Self {
        Self { mode, ..Self::default() }
    }

    /// Whether a direction whose last read was a large one (or not) is spliced.
    pub(super) fn splices(&self, large: bool) -> bool {
        match self.mode {
            Mode::Auto => large,
            Mode::Copy => false,
            Mode::Splice => true,
        }
    }

    /// A buffer of [`SIZE`] bytes; what is in it means nothing.
    pub(super) fn take(&self) -> Box<[u8]> {
        self.spare.borrow_mut().pop().unwrap_or_else(|| vec![0; SIZE].into_boxed_slice())
    }

    /// Gives a buffer back. One of another size (early data) is dropped.
    pub(super) fn give(&self, buffer: Box<[u8]>) {
        let mut spare = self.spare.borrow_mut();
        if buffer.len() == SIZE && spare.len() < SPARE {
            spare.push(buffer);
        }
    }

    /// Room for a head, empty.
    pub(super) fn take_head(&self) -> Vec<u8> {
        self.heads.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(HEAD))
    }

    /// Gives the room of a head back. One that had to grow is dropped.
    pub(super) fn give_head(&self, mut head: Vec<u8>) {
        let mut heads = self.heads.borrow_mut();
        if head.capacity() == HEAD && heads.len() < SPARE_HEADS {
            head.clear();
            heads.push(head);
        }
    }

    /// An empty pipe; `None` where the process has enough of them or gets none.
    pub(super) fn take_pipe(&self) -> Option<Pipe> {
        let mut free = self.pipes.borrow_mut();
        if let Some(pipe) = free.pop() {
            self.unneeded.set(self.unneeded.get().min(free.len()));
            return Some(pipe);
        }
        if self.open.get() >= MOST_PIPES {
            return None;
        }
        if let Some(left) = self.refused.get().checked_sub(1) {
            self.refused.set(left);
            return None;
        }
        match Pipe::new(&self.open) {
            Ok(pipe) => Some(pipe),
            Err(error) => {
                tracing::debug!(%error, "no pipe: large streams are copied");
                self.refused.set(REFUSED);
                None
            }
        }
    }

    /// Gives a pipe back. One that still holds bytes is closed: they belong to nobody.
    pub(super) fn give_pipe(&self, pipe: Pipe) {
        if pipe.is_empty() {
            self.pipes.borrow_mut().push(pipe);
        }
    }

    /// Closes the pipes that nobody has needed since the last round.
    pub(super) fn close_unneeded(&self) {
        let mut pipes = self.pipes.borrow_mut();
        let needed = pipes.len().saturating_sub(self.unneeded.get());
        pipes.truncate(needed);
        self.unneeded.set(needed);
    }

    /// Closes the free pipes where files have run out, and makes do without more of them for a while; false if there
    /// are none.
    pub(super) fn close_free(&self) -> bool {
        self.refused.set(REFUSED);
        self.unneeded.set(0);
        let free = std::mem::take(&mut *self.pipes.borrow_mut());
        !free.is_empty()
    }
}

/// A pipe that bytes are spliced through: the kernel moves pages and copies nothing.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
    open: Rc<Cell<usize>>,
}

impl Pipe {
    fn new(open: &Rc<Cell<usize>>) -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let size =
            fcntl_setpipe_size(&write, PIPE_SIZE).or_else(|_| fcntl_setpipe_size(&write, LEAST_PIPE))?;
        if size < LEAST_PIPE {
            return Err(io::Error::other("the pipe is small"));
        }
        open.set(open.get() + 1);
        Ok(Self { read, write, held: 0, open: Rc::clone(open) })
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Moves what `source` has into the pipe, without waiting; 0 at its end. The pipe must be empty, or a full one
    /// could not be told from a source that has nothing.
    ///
    /// # Errors
    ///
    /// The source's, `WouldBlock` among them.
    pub(super) fn fill(&mut self, source: impl AsFd) -> io::Result<usize> {
        let n = moved(|| {
            splice(&source, None, &self.write, None, SPLICE, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)
        })?;
        self.held += n;
        Ok(n)
    }

    /// Moves what the pipe holds into `sink`, as far as it takes it without waiting.
    ///
    /// # Errors
    ///
    /// The sink's, `WouldBlock` among them.
    pub(super) fn drain(&mut self, sink: impl AsFd) -> io::Result<usize> {
        let n = moved(|| {
            splice(&self.read, None, &sink, None, self.held, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)
        })?;
        self.held = self.held.saturating_sub(n);
        Ok(n)
    }
}

fn moved(mut splice: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
    loop {
        match splice() {
            Err(Errno::INTR) => {}
            moved => return Ok(moved?),
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.open.set(self.open.get().saturating_sub(1));
    }
}

#[cfg(test)]
impl Buffers {
    /// Buffers in the free list.
    pub(super) fn spare(&self) -> usize {
        self.spare.borrow().len()
    }

    /// Pipes in the free list, and all that there are.
    pub(super) fn pipes(&self) -> (usize, usize) {
        (self.pipes.borrow().len(), self.open.get())
    }

    /// A thread that gets no pipes.
    pub(super) fn without_pipes() -> Self {
        Self { refused: Cell::new(u32::MAX), ..Self::default() }
    }
}

#[cfg(test)]
impl Pipe {
    /// As [`Pipe::fill`], from memory.
    pub(super) fn fill_with(&mut self, bytes: &[u8]) -> usize {
        let n = rustix::io::write(&self.write, bytes).unwrap();
        self.held += n;
        n
    }

    /// As [`Pipe::drain`], into memory; so many bytes at most.
    pub(super) fn drain_into(&mut self, sink: &mut Vec<u8>, most: usize) -> usize {
        let mut bytes = vec![0; most.min(self.held)];
        let n = rustix::io::read(&self.read, &mut bytes[..]).unwrap();
        sink.extend_from_slice(&bytes[..n]);
        self.held -= n;
        n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_are_closed_that_nobody_needs() {
        let buffers = Buffers::default();
        let use_at_once = |count| {
            let pipes: Vec<Pipe> = (0..count).map(|_| buffers.take_pipe().unwrap()).collect();
            pipes.into_iter().for_each(|pipe| buffers.give_pipe(pipe));
        };
        use_at_once(5);
        // All were needed in the first round, three in the second, none in the third.
        for (needed, left) in [(3, 5), (3, 3), (2, 3), (0, 2), (0, 0)] {
            buffers.close_unneeded();
            assert_eq!(buffers.pipes(), (left, left));
            use_at_once(needed);
        }
    }

    #[test]
    fn without_files_free_pipes_are_closed_and_no_others_opened() {
        let buffers = Buffers::default();
        let busy = buffers.take_pipe().unwrap();
        let free = buffers.take_pipe().unwrap();
        buffers.give_pipe(free);
        assert!(buffers.close_free());
        assert_eq!(buffers.pipes(), (0, 1));
        assert!(!buffers.close_free() && buffers.take_pipe().is_none());
        // What there is goes on being used.
        buffers.give_pipe(busy);
        let pipe = buffers.take_pipe().unwrap();
        buffers.close_unneeded();
        buffers.give_pipe(pipe);
        assert!(buffers.close_free());
        for _ in 0..REFUSED {
            assert!(buffers.take_pipe().is_none());
        }
        assert!(buffers.take_pipe().is_some());
    }
}
