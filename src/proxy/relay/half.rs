//! One direction of a tunnel, as a state machine over a source and a sink: `relay` polls it with the halves of
//! sockets, its tests with ends that are ready when chance will have it.
//!
//! Small messages are copied through a buffer of the thread's, large ones spliced through a pipe of its: copying
//! is the cheaper way below some 16 KiB a read, splicing costs a quarter of it above (measured). Which of them is
//! decided anew with every read, for each direction alone. Neither is held while nothing is under way.

use std::io::{self, ErrorKind};
use std::task::{Context, Poll, ready};

use crate::proxy::buffers::{Buffers, Pipe, SIZE, SPLICE};

/// Spliced bytes that one direction moves before others on the thread get their turn, which is some half a
/// millisecond. With a quarter of it, a gigabyte costs up to a fifth more, and a message beside full streams is no
/// sooner where it goes (measured).
const TURN: usize = 2 * SPLICE;

/// So many spliced bytes is a copied one counted for. It costs four to six times as much, and has to fill a buffer to
/// be followed by another at all: a turn of copying is four buffers.
const COPIED: usize = 8;

/// A splice that moves less than this was not worth it: copying goes on.
const SMALL: usize = 8 * 1024;

/// Where the bytes of a direction come from. Every method registers the task where it is not ready, as tokio's do.
pub(super) trait Source {
    /// Reads into a buffer; 0 at the end. What does not fill it is known to be all that there is for now: it is not
    /// asked for more in vain.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Moves into an empty pipe; 0 at the end, and where only a read goes on.
    fn poll_fill(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>>;
}

/// Where they go.
pub(super) trait Sink {
    /// Writes some.
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Moves some out of a pipe that holds some.
    fn poll_drain(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>>;

    /// Tells that nothing more comes.
    fn shutdown(&mut self) -> io::Result<()>;
}

/// What broke in a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// Its source.
    Source,
    /// Its sink.
    Sink,
}

/// What was taken from the source and not yet given to the sink.
#[derive(Debug)]
enum Held {
    /// `start..end` of a buffer.
    Bytes { buffer: Box<[u8]>, start: usize, end: usize },
    /// What there was before anything was read, from `at` on.
    First { bytes: Vec<u8>, at: usize },
    /// What is in a pipe.
    Pipe(Pipe),
}

impl Held {
    /// Gives the sink all of it. Not to be given again once that has ended.
    fn poll_give(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut impl Sink,
        moved: &mut u64,
    ) -> Poll<Result<(), Broken>> {
        loop {
            let (given, left) = match self {
                Self::Bytes { buffer, start, end } => {
                    let given = ready!(sink.poll_write(cx, buffer.get(*start..*end).unwrap_or_default()));
                    *start += *given.as_ref().unwrap_or(&0);
                    (given, *start < *end)
                }
                Self::First { bytes, at } => {
                    let given = ready!(sink.poll_write(cx, bytes.get(*at..).unwrap_or_default()));
                    *at += *given.as_ref().unwrap_or(&0);
                    (given, *at < bytes.len())
                }
                Self::Pipe(pipe) => (ready!(sink.poll_drain(cx, pipe)), !pipe.is_empty()),
            };
            match given {
                Ok(n) if n > 0 => *moved += n as u64,
                Ok(_) | Err(_) => return Poll::Ready(Err(Broken::Sink)),
            }
            if !left {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn give_back(self, buffers: &Buffers) {
        match self {
            Self::Bytes { buffer, .. } => buffers.give(buffer),
            Self::First { .. } => {}
            Self::Pipe(pipe) => buffers.give_pipe(pipe),
        }
    }
}

/// One direction. Two words, since each open tunnel has two of them.
#[derive(Debug, Default)]
pub(super) struct Half {
    /// What the sink did not take at once.
    blocked: Option<Box<Held>>,
    /// The source has ended.
    ended: bool,
    /// The last read was a large one.
    large: bool,
}

impl Half {
    /// A direction with bytes to write before anything is read.
    pub(super) fn with(bytes: Vec<u8>) -> Self {
        if bytes.is_empty() {
            return Self::default();
        }
        Self { blocked: Some(Box::new(Held::First { bytes, at: 0 })), ..Self::default() }
    }

    /// Whether bytes wait for the sink, so that the source is not read.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.is_some()
    }

    /// Moves what can be moved now, and adds to `moved` what the sink took. `Ready(Ok)` once the source has ended and
    /// the sink knows; `last` says that the sockets are closed next anyway, which tells it as well.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Source,
        sink: &mut impl Sink,
        buffers: &Buffers,
        last: bool,
        moved: &mut u64,
    ) -> Poll<Result<(), Broken>> {
        if let Some(held) = &mut self.blocked {
            ready!(held.poll_give(cx, sink, moved))?;
            if let Some(held) = self.blocked.take() {
                held.give_back(buffers);
            }
        }
        let mut left = TURN;
        while !self.ended {
            if left == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let Some((mut held, n)) = ready!(self.poll_take(cx, source, buffers))? else { break };
            left = left.saturating_sub(if matches!(held, Held::Pipe(_)) { n } else { n * COPIED });
            match held.poll_give(cx, sink, moved) {
                Poll::Ready(given) => {
                    held.give_back(buffers);
                    given?;
                }
                Poll::Pending => {
                    self.blocked = Some(Box::new(held));
                    return Poll::Pending;
                }
            }
        }
        // Closing does what a second shutdown would.
        if last {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(sink.shutdown().map_err(|_| Broken::Sink))
    }

    /// Takes what there is, and how much it is; nothing at the end.
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Source,
        buffers: &Buffers,
    ) -> Poll<Result<Option<(Held, usize)>, Broken>> {
        if buffers.splices(self.large)
            && let Some(mut pipe) = buffers.take_pipe()
        {
            match source.poll_fill(cx, &mut pipe) {
                // The end, or the mark of urgent data, behind which there may be more: a read tells.
                Poll::Ready(Ok(0)) => buffers.give_pipe(pipe),
                Poll::Ready(Ok(n)) => {
                    self.large = n >= SMALL;
                    return Poll::Ready(Ok(Some((Held::Pipe(pipe), n))));
                }
                // Not from this kind of socket, or not on this kernel: it is read instead.
                Poll::Ready(Err(error)) if is_unsupported(&error) => buffers.give_pipe(pipe),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Source)),
                Poll::Pending => {
                    buffers.give_pipe(pipe);
                    return Poll::Pending;
                }
            }
        }
        let mut buffer = buffers.take();
        let polled = source.poll_read(cx, &mut buffer);
        if let Poll::Ready(Ok(end @ 1..)) = polled {
            self.large = end == SIZE;
            return Poll::Ready(Ok(Some((Held::Bytes { buffer, start: 0, end }, end))));
        }
        buffers.give(buffer);
        match ready!(polled) {
            Ok(_) => {
                self.ended = true;
                Poll::Ready(Ok(None))
            }
            Err(_) => Poll::Ready(Err(Broken::Source)),
        }
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported)
}

#[cfg(test)]
mod tests;
