//! A client's connection as hyper's server reads and writes it: through the `gate`, request by request;
//! what the client is doing is noted for the idle clock, and closing lingers.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::error::{Code, ProxyError};
use super::gate::{Gate, MAX_EARLY, Refusal, Want};
use super::tunnel::shut;
use super::upstream::drained;

/// What a client between two requests is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// Nothing: no byte of a next request.
    Idle,
    /// Sending a head.
    Head,
    /// Waiting for an answer, or reading it.
    Busy,
}

/// What passes between the reader of a connection's requests and the one who answers them; atomics and a
/// lock that nobody else wants, since hyper wants a connection that is `Send`.
///
/// Also what the client is doing, and since when: hyper's own head timer would end idle connections after
/// ten seconds too, so the clock is kept here.
#[derive(Debug)]
pub(super) struct Pace {
    base: Instant,
    /// Milliseconds since `base`, times four, plus what it is doing.
    state: AtomicU64,
    /// Whether the head has had its time.
    expired: AtomicBool,
    /// Whether bytes have come behind the request that is being answered.
    early: AtomicBool,
    /// Woken when an answer is through and the next request has begun already.
    waiting: AtomicWaker,
    refused: AtomicBool,
    refusal: Mutex<Option<Refusal>>,
    /// Whether an answer broke off that nothing but a reset tells from a whole one.
    cut: AtomicBool,
}

impl Pace {
    /// A client that has begun a head.
    pub(super) fn new() -> Self {
        Self {
            base: Instant::now(),
            state: AtomicU64::new(1),
            expired: AtomicBool::new(false),
            early: AtomicBool::new(false),
            waiting: AtomicWaker::new(),
            refused: AtomicBool::new(false),
            refusal: Mutex::default(),
            cut: AtomicBool::new(false),
        }
    }

    /// An answer broke off whose end is that of the connection.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Whether one did.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// The answer to a request is through.
    pub(super) fn answered(&self) {
        self.set(Doing::Idle);
        self.waiting.wake();
    }

    /// The head has had its time: it is answered as far as it has come. False if it has been told before.
    pub(super) fn expire(&self) -> bool {
        !self.expired.swap(true, Ordering::Relaxed)
    }

    /// Whether bytes have come behind the request that is being answered.
    pub(super) fn has_early(&self) -> bool {
        self.early.load(Ordering::Relaxed)
    }

    /// What the request that hyper has just read is to be refused with.
    pub(super) fn take_refusal(&self) -> Option<Refusal> {
        if !self.refused.swap(false, Ordering::Relaxed) {
            return None;
        }
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn refuse(&self, refusal: Refusal) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Notes what the client does from now on.
    pub(super) fn set(&self, doing: Doing) {
        let since = u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX >> 2);
        let doing = match doing {
            Doing::Idle => 0,
            Doing::Head => 1,
            Doing::Busy => 2,
        };
        self.state.store(since << 2 | doing, Ordering::Relaxed);
    }

    /// What the client does, and since when.
    pub(super) fn get(&self) -> (Doing, Instant) {
        let state = self.state.load(Ordering::Relaxed);
        let doing = match state & 3 {
            0 => Doing::Idle,
            1 => Doing::Head,
            _ => Doing::Busy,
        };
        (doing, self.base + Duration::from_millis(state >> 2))
    }

    fn on_read(&self) {
        if self.state.load(Ordering::Relaxed) & 3 == 0 {
            self.set(Doing::Head);
        }
    }
}

/// A client's connection.
#[derive(Debug)]
pub(super) struct ClientIo {
    /// Known to `plain` too, for what hyper has given up.
    stream: Arc<TcpStream>,
    gate: Gate,
    pace: Arc<Pace>,
    /// How long a head may take, for its client to read.
    head: Duration,
    linger: Duration,
    closing: Option<Closing>,
}

#[derive(Debug)]
struct Closing {
    until: Pin<Box<Sleep>>,
    left: usize,
}

impl ClientIo {
    /// Takes the connection over, with what has been read of it. `head` is the time that a head has,
    /// `linger` how long closing waits for the client.
    pub(super) fn new(
        stream: Arc<TcpStream>,
        read: Vec<u8>,
        pace: Arc<Pace>,
        head: Duration,
        linger: Duration,
    ) -> Self {
        Self { stream, gate: Gate::new(read), pace, head, linger, closing: None }
    }

    /// The connection, and what of the bytes read has not been handed on; `None` if somebody else has it too.
    pub(super) fn into_parts(self) -> Option<(TcpStream, Vec<u8>)> {
        Some((Arc::into_inner(self.stream)?, self.gate.into_kept()))
    }

    /// Takes in more of a head, or of what comes before an answer; 0 at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let bytes = self.gate.buffer();
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            if bytes.len() == bytes.capacity() {
                bytes.reserve_exact(4096);
            }
            match self.stream.try_read_buf(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }

    /// Looks at what has come of a head.
    fn look(&mut self) {
        if !self.gate.kept().is_empty() {
            self.pace.on_read();
        }
        let mut refusal = self.gate.look();
        if self.gate.want() == Want::Head && self.pace.expired.load(Ordering::Relaxed) {
            refusal = Some(self.gate.unreadable(head_timeout(self.head)));
        }
        if let Some(refusal) = refusal {
            self.pace.refuse(refusal);
        }
    }
}

/// What a client is told whose head did not come in time.
pub(super) fn head_timeout(limit: Duration) -> ProxyError {
    let message = format!("the request's head did not come within {} s", limit.as_secs());
    ProxyError::new(Code::HeadTimeout, message)
}

/// Reads; a short read is known to be all that there is for now.
fn poll_read(stream: &TcpStream, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
    loop {
        ready!(stream.poll_read_ready(cx))?;
        match stream.try_read_buf(buf) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(1..) if buf.remaining() > 0 => {
                drained(stream);
                return Poll::Ready(Ok(()));
            }
            read => return Poll::Ready(read.map(|_| ())),
        }
    }
}

fn poll_write(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    mut write: impl FnMut(&TcpStream) -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_write_ready(cx))?;
        match write(stream) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            written => return Poll::Ready(written),
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        loop {
            match this.gate.want() {
                Want::Head => {
                    this.look();
                    if this.gate.want() != Want::Head {
                        continue;
                    }
                    if ready!(this.poll_fill(cx))? == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                Want::Give if buf.remaining() > 0 => buf.put_slice(this.gate.give(buf.remaining())),
                // Hyper has had something: it asks again when it has used that.
                Want::Give | Want::Body | Want::Answer | Want::End | Want::Broken(_)
                    if buf.filled().len() > before =>
                {
                    // Known before hyper has asked anybody what to answer.
                    this.pace.early.store(!this.gate.kept().is_empty(), Ordering::Relaxed);
                    return Poll::Ready(Ok(()));
                }
                Want::Give | Want::End => return Poll::Pending,
                Want::Body => {
                    ready!(poll_read(&this.stream, cx, buf))?;
                    let read = buf.filled().get(before..).unwrap_or_default();
                    if read.is_empty() {
                        return Poll::Ready(Ok(()));
                    }
                    let used = this.gate.body(read);
                    buf.set_filled(before + used);
                }
                Want::Answer => {
                    if this.pace.get().0 == Doing::Idle {
                        this.gate.answered();
                        continue;
                    }
                    let kept = this.gate.kept().len();
                    this.pace.early.store(kept > 0, Ordering::Relaxed);
                    if kept > 0 {
                        this.pace.waiting.register(cx.waker());
                    }
                    // An end is noticed while there is room to read on.
                    if kept >= MAX_EARLY {
                        return Poll::Pending;
                    }
                    if ready!(this.poll_fill(cx))? == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                Want::Broken(why) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
                }
            }
        }
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        poll_write(&self.stream, cx, |stream| stream.try_write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_write(&self.stream, cx, |stream| stream.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Ends the stream, then reads and drops what the client still sends: closing with unread bytes
    /// would reset the connection, and the client might lose the answer.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.closing.is_none() {
            shut(&this.stream);
        }
        let linger = this.linger;
        let closing = this
            .closing
            .get_or_insert_with(|| Closing { until: Box::pin(tokio::time::sleep(linger)), left: 64 * 1024 });
        loop {
            let mut bytes = [0; 2048];
            let mut read = ReadBuf::new(&mut bytes);
            match poll_read(&this.stream, cx, &mut read) {
                Poll::Ready(Ok(())) if (1..=closing.left).contains(&read.filled().len()) => {
                    closing.left -= read.filled().len();
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return closing.until.as_mut().poll(cx).map(Ok),
            }
        }
    }
}
