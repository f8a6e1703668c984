//! Tunnels to origins on which plain HTTP is spoken without hyper, for `direct`: one request's way over
//! such a tunnel, and those tunnels that are idle, kept for a few seconds for the next request of the same
//! session to the same host and port. No task and no timer waits for any of them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::buffers::Buffers;
use super::pool::Key;
use super::record::Record;
use super::rewrite::{self, Answer, Read, Turn};
use super::thread::Thread;
use super::trail::Step;
use super::upstream::write_all;
use crate::session::Exit;

/// Idle tunnels to one origin that are kept.
const MOST_PER_KEY: usize = 64;
/// Idle tunnels of one thread that are kept.
const MOST: usize = 1024;
/// Longest head of an answer: as long as hyper's client would read.
const MAX_HEAD: usize = 400 * 1024;
/// Buffers that are kept for reuse, and how large they may be.
const SPARE: usize = 8;
/// Largest buffer that is kept: a head and what one read takes.
const MAX_SPARE: usize = 80 * 1024;

struct Idle {
    stream: TcpStream,
    exit: Arc<Exit>,
    since: Instant,
}

impl Idle {
    /// Whether it can take a request, as far as the runtime has heard. Costs no system call unless there is
    /// something to read, which mostly is its end.
    fn is_open(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        if self.stream.poll_read_ready(&mut cx).is_pending() {
            return true;
        }
        let read = self.stream.try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// The idle tunnels of a thread, and buffers for what is written to clients.
pub(super) struct Wires {
    idle: RefCell<HashMap<Key, Vec<Idle>>>,
    count: Cell<usize>,
    limit: Duration,
    sweeping: Cell<bool>,
    spare: RefCell<Vec<Vec<u8>>>,
}

impl Wires {
    /// Keeps tunnels for `limit`.
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            idle: RefCell::default(),
            count: Cell::new(0),
            limit,
            sweeping: Cell::new(false),
            spare: RefCell::default(),
        }
    }

    /// A tunnel that can take a request now: the one used last, which is the least likely to have been
    /// closed by the origin.
    pub(super) fn take(&self, key: &Key) -> Option<TcpStream> {
        let mut all = self.idle.borrow_mut();
        let idle = all.get_mut(key)?;
        let now = Instant::now();
        while let Some(wire) = idle.pop() {
            self.count.set(self.count.get() - 1);
            if now.duration_since(wire.since) < self.limit && wire.is_open() {
                return Some(wire.stream);
            }
        }
        None
    }

    /// Keeps a tunnel of which the last answer has come whole.
    pub(super) fn put(thread: &Rc<Thread>, key: Key, exit: &Arc<Exit>, stream: TcpStream) {
        let wires = &thread.wires;
        if wires.count.get() >= MOST || thread.closing.fired() {
            return;
        }
        let wire = Idle { stream, exit: Arc::clone(exit), since: Instant::now() };
        {
            let mut all = wires.idle.borrow_mut();
            let idle = all.entry(key).or_default();
            if idle.len() >= MOST_PER_KEY {
                return;
            }
            idle.push(wire);
        }
        wires.count.set(wires.count.get() + 1);
        if !wires.sweeping.replace(true) {
            tokio::task::spawn_local(sweep(Rc::downgrade(thread), wires.limit / 4));
        }
    }

    /// Closes all of them, for whoever needs their files more; false if there were none.
    pub(super) fn forget(&self) -> bool {
        self.count.set(0);
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        idle.values().any(|idle| !idle.is_empty())
    }

    /// Closes what has been idle for too long or has ended; true if nothing is left.
    fn close_old(&self) -> bool {
        let mut all = self.idle.borrow_mut();
        let mut count = 0;
        all.retain(|_, idle| {
            idle.retain(|wire| {
                wire.since.elapsed() < self.limit && !wire.exit.gone.is_cancelled() && wire.is_open()
            });
            count += idle.len();
            !idle.is_empty()
        });
        self.count.set(count);
        all.is_empty()
    }

    /// An empty buffer.
    pub(super) fn buffer(&self) -> Vec<u8> {
        self.spare.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(4096))
    }

    /// Gives a buffer back.
    pub(super) fn give(&self, mut buffer: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE && buffer.capacity() <= MAX_SPARE {
            buffer.clear();
            spare.push(buffer);
        }
    }
}

/// Runs while there are idle tunnels.
async fn sweep(thread: Weak<Thread>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(thread) = thread.upgrade() else { return };
        if thread.wires.close_old() {
            thread.wires.sweeping.set(false);
            return;
        }
    }
}

/// Reads what there is, into a buffer of the thread's that is held only once there is something in it.
pub(super) async fn read(buffers: &Buffers, stream: &mut TcpStream) -> io::Result<(Box<[u8]>, usize)> {
    poll_fn(|cx| {
        let mut buffer = buffers.take();
        let mut into = ReadBuf::new(&mut buffer);
        let polled = Pin::new(&mut *stream).poll_read(cx, &mut into);
        let filled = into.filled().len();
        match polled {
            Poll::Ready(Ok(())) => Poll::Ready(Ok((buffer, filled))),
            Poll::Ready(Err(error)) => {
                buffers.give(buffer);
                Poll::Ready(Err(error))
            }
            Poll::Pending => {
                buffers.give(buffer);
                Poll::Pending
            }
        }
    })
    .await
}

/// The answer to a request, as far as it has come.
pub(super) struct Begun {
    /// The tunnel.
    pub(super) wire: TcpStream,
    /// What the client gets first: the head.
    pub(super) out: Vec<u8>,
    /// The answer's head.
    pub(super) answer: Answer,
    /// What has been read; from `at` to `end` it is the content's.
    pub(super) buffer: Box<[u8]>,
    pub(super) at: usize,
    pub(super) end: usize,
}

/// A request that got no answer.
#[derive(Debug)]
pub(super) struct Unanswered {
    /// Not one byte of an answer has come.
    pub(super) nothing: bool,
    /// The origin switched protocols, which nobody had asked it for.
    pub(super) switched: bool,
}

/// Why there is no answer.
enum Why {
    Gone,
    Closed,
    Io(io::Error),
    Bad(&'static str),
    Switched,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the exit's pod is gone"),
            Self::Closed => f.write_str("connection closed before message completed"),
            Self::Io(error) => error.fmt(f),
            Self::Bad(why) => f.write_str(why),
            Self::Switched => f.write_str("the answer is a switch of protocols"),
        }
    }
}

/// Sends a request's head over a tunnel and reads the head of its answer. `early` is what the origin has
/// said before it was asked.
///
/// # Errors
///
/// [`Unanswered`]; the tunnel is closed.
pub(super) async fn ask(
    thread: &Rc<Thread>,
    exit: &Arc<Exit>,
    mut wire: TcpStream,
    early: &[u8],
    request: &[u8],
    turn: Turn,
    record: &mut Record,
) -> Result<Begun, Unanswered> {
    record.trail.step(Step::RequestSent);
    record.add_bytes(0, early.len() as u64);
    let mut nothing = early.is_empty();
    let begun = if nothing {
        let asking = exchange(thread, &mut wire, request, turn, record, &mut nothing);
        let asking = pin!(asking);
        tokio::select! {
            biased;
            () = thread.gone(exit) => Err(Why::Gone),
            begun = asking => begun,
        }
    } else {
        Err(Why::Bad("the origin spoke before it was asked"))
    };
    match begun {
        Ok((out, answer, buffer, at, end)) => Ok(Begun { wire, out, answer, buffer, at, end }),
        Err(why) => {
            record.trail.note(Step::Unanswered, &why);
            tracing::debug!(error = %why, "a request got no answer");
            Err(Unanswered { nothing, switched: matches!(why, Why::Switched) })
        }
    }
}

type Parts = (Vec<u8>, Answer, Box<[u8]>, usize, usize);

async fn exchange(
    thread: &Thread,
    wire: &mut TcpStream,
    request: &[u8],
    mut turn: Turn,
    record: &mut Record,
    nothing: &mut bool,
) -> Result<Parts, Why> {
    write_all(wire, request).await.map_err(Why::Io)?;
    record.add_bytes(request.len() as u64, 0);
    // Of a head that did not come whole, or of interim ones.
    let mut partial = Vec::new();
    let mut out = Vec::new();
    loop {
        let (mut buffer, mut end) = read(&thread.buffers, wire).await.map_err(Why::Io)?;
        if end == 0 {
            thread.buffers.give(buffer);
            return Err(Why::Closed);
        }
        *nothing = false;
        record.add_bytes(0, end as u64);
        if !partial.is_empty() {
            let more = buffer.get(..end).unwrap_or_default();
            partial.extend_from_slice(more);
            let goes_on = !more.contains(&b'\n') && partial.len() <= MAX_HEAD;
            thread.buffers.give(buffer);
            if goes_on {
                // No line is ended by it, so there is nothing to be read that was not there before.
                continue;
            }
            buffer = std::mem::take(&mut partial).into_boxed_slice();
            end = buffer.len();
        }
        if out.capacity() == 0 {
            out = thread.wires.buffer();
        }
        turn.last = thread.closing.fired();
        let mut at = 0;
        loop {
            let bytes = buffer.get(at..end).unwrap_or_default();
            // Ignored, and never looked at again.
            let blank = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
            at += blank;
            let bytes = bytes.get(blank..).unwrap_or_default();
            match rewrite::answer(bytes, turn, &mut out) {
                Ok(Read::Answer(answer)) => {
                    at += answer.length;
                    return Ok((out, answer, buffer, at, end));
                }
                Ok(Read::Interim(length)) => at += length,
                Ok(Read::Switched) => return Err(Why::Switched),
                Ok(Read::Partial) if bytes.len() > MAX_HEAD => {
                    return Err(Why::Bad("the answer's head is too large"));
                }
                Ok(Read::Partial) => {
                    partial = bytes.to_vec();
                    thread.buffers.give(buffer);
                    break;
                }
                Err(why) => return Err(Why::Bad(why)),
            }
        }
    }
}
