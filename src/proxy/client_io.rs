//! A client's connection as hyper's server reads and writes it: the bytes that were read before hyper
//! come first, what the client is doing is noted for the idle clock, and closing lingers.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{io, mem};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

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

/// What the client is doing, and since when. hyper's own head timer would also end idle connections
/// after ten seconds, so the clock is kept here; one word, since hyper wants a connection that is `Send`.
#[derive(Debug)]
pub(super) struct Pace {
    base: Instant,
    /// Milliseconds since `base`, times four, plus what it is doing.
    state: AtomicU64,
}

impl Pace {
    /// A client that has begun a head.
    pub(super) fn new() -> Self {
        Self { base: Instant::now(), state: AtomicU64::new(1) }
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
    stream: TcpStream,
    /// What was read before; `at` of it has been handed on.
    read: Vec<u8>,
    at: usize,
    pace: Arc<Pace>,
    linger: Duration,
    closing: Option<Closing>,
}

#[derive(Debug)]
struct Closing {
    until: Pin<Box<Sleep>>,
    left: usize,
}

impl ClientIo {
    /// Takes the connection over, with what has been read of it.
    pub(super) fn new(stream: TcpStream, read: Vec<u8>, pace: Arc<Pace>, linger: Duration) -> Self {
        Self { stream, read, at: 0, pace, linger, closing: None }
    }

    /// The connection, and what of the bytes read before has not been handed on.
    pub(super) fn into_parts(mut self) -> (TcpStream, Vec<u8>) {
        let mut rest = mem::take(&mut self.read);
        rest.drain(..self.at);
        (self.stream, rest)
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(rest) = this.read.get(this.at..).filter(|rest| !rest.is_empty()) {
            let n = rest.len().min(buf.remaining());
            buf.put_slice(rest.get(..n).unwrap_or_default());
            this.at += n;
            if this.at == this.read.len() {
                this.read = Vec::new();
                this.at = 0;
            }
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            this.pace.on_read();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    /// Ends the stream, then reads and drops what the client still sends: closing with unread bytes
    /// would reset the connection, and the client might lose the answer.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.closing.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        let linger = this.linger;
        let closing = this
            .closing
            .get_or_insert_with(|| Closing { until: Box::pin(tokio::time::sleep(linger)), left: 64 * 1024 });
        loop {
            let mut bytes = [0; 2048];
            let mut read = ReadBuf::new(&mut bytes);
            match Pin::new(&mut this.stream).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if (1..=closing.left).contains(&read.filled().len()) => {
                    closing.left -= read.filled().len();
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return closing.until.as_mut().poll(cx).map(Ok),
            }
        }
    }
}
