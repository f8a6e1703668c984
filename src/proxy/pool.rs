//! HTTP connections to origins, inside tunnels, and those of them that are idle: kept for a few seconds
//! for the next request of the same session to the same host and port. An idle one is no activity of its
//! session.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::forward::RequestBody;
use super::target::Target;
use super::thread::Thread;
use super::upstream::Tunnel;
use crate::session::Exit;

/// Idle connections to one origin that are kept.
const MOST_PER_KEY: usize = 16;
/// Idle connections of one thread that are kept.
const MOST: usize = 1024;
/// Most header fields of a response.
const MAX_FIELDS: usize = 256;

/// What a connection can be used for again: never another exit's, and so never another session's, since a pod is made
/// for one and never serves another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    uid: Arc<str>,
    target: Arc<str>,
}

impl Key {
    /// The key of requests to a target through an exit.
    pub(super) fn new(exit: &Exit, target: &Target) -> Self {
        Self { uid: Arc::clone(&exit.uid), target: target.shared() }
    }
}

/// A connection to an origin.
pub(super) struct Wire {
    /// Takes the next request.
    pub(super) sender: SendRequest<RequestBody>,
    /// What went over it.
    pub(super) bytes: Arc<WireBytes>,
}

/// Bytes of a connection to an origin.
#[derive(Debug, Default)]
pub(super) struct WireBytes {
    up: AtomicU64,
    down: AtomicU64,
}

impl WireBytes {
    /// Towards the exit, and from it.
    pub(super) fn get(&self) -> (u64, u64) {
        (self.up.load(Ordering::Relaxed), self.down.load(Ordering::Relaxed))
    }
}

impl Wire {
    /// Speaks HTTP over a fresh tunnel.
    pub(super) async fn open(thread: &Thread, exit: &Arc<Exit>, tunnel: Tunnel) -> hyper::Result<Self> {
        let bytes = Arc::new(WireBytes::default());
        let io = TunnelIo::new(tunnel, Arc::clone(&bytes));
        let (sender, connection) = http1::Builder::new()
            .preserve_header_case(true)
            .max_headers(MAX_FIELDS)
            .handshake(TokioIo::new(io))
            .await?;
        let gone = thread.gone(exit);
        tokio::task::spawn_local(async move {
            tokio::select! {
                biased;
                () = gone => {}
                // Its errors reach whoever waits for a response.
                _ = connection.with_upgrades() => {}
            }
        });
        Ok(Self { sender, bytes })
    }
}

struct Idle {
    wire: Wire,
    since: Instant,
}

/// The idle connections of a thread.
pub(super) struct Pool {
    idle: RefCell<HashMap<Key, Vec<Idle>>>,
    limit: Duration,
    sweeping: Cell<bool>,
}

impl Pool {
    /// Keeps connections for `limit`.
    pub(super) fn new(limit: Duration) -> Self {
        Self { idle: RefCell::default(), limit, sweeping: Cell::new(false) }
    }

    /// A connection that can take a request now: the one used last, which is the least likely to have
    /// been closed by the origin.
    pub(super) fn take(&self, key: &Key) -> Option<Wire> {
        let mut all = self.idle.borrow_mut();
        let idle = all.get_mut(key)?;
        let mut found = None;
        while let Some(Idle { mut wire, since }) = idle.pop() {
            let fresh = since.elapsed() < self.limit && !wire.sender.is_closed();
            if fresh && matches!(wire.sender.ready().now_or_never(), Some(Ok(()))) {
                found = Some(wire);
                break;
            }
        }
        if idle.is_empty() {
            all.remove(key);
        }
        found
    }

    /// Keeps a connection, if it can take another request.
    pub(super) fn put(thread: &Rc<Thread>, key: Key, wire: Wire) {
        let pool = &thread.pool;
        if wire.sender.is_closed() || thread.closing.fired() {
            return;
        }
        let mut all = pool.idle.borrow_mut();
        if all.len() >= MOST {
            return;
        }
        let idle = all.entry(key).or_default();
        if idle.len() < MOST_PER_KEY {
            idle.push(Idle { wire, since: Instant::now() });
        }
        drop(all);
        if !pool.sweeping.replace(true) {
            tokio::task::spawn_local(sweep(Rc::downgrade(thread), pool.limit / 4));
        }
    }

    /// Closes all of them, for whoever needs their files more; false if there were none.
    pub(super) fn forget(&self) -> bool {
        !std::mem::take(&mut *self.idle.borrow_mut()).is_empty()
    }

    /// Closes what has been idle for too long; true if nothing is left.
    fn close_old(&self) -> bool {
        let mut all = self.idle.borrow_mut();
        all.retain(|_, idle| {
            idle.retain(|idle| idle.since.elapsed() < self.limit && !idle.wire.sender.is_closed());
            !idle.is_empty()
        });
        all.is_empty()
    }
}

/// Runs while there are idle connections.
async fn sweep(thread: Weak<Thread>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(thread) = thread.upgrade() else { return };
        if thread.pool.close_old() {
            thread.pool.sweeping.set(false);
            return;
        }
    }
}

/// A tunnel as hyper's client reads and writes it, counted.
#[derive(Debug)]
pub(super) struct TunnelIo {
    stream: TcpStream,
    /// What came with the tunnel's opening; `at` of it has been handed on.
    glued: Vec<u8>,
    at: usize,
    bytes: Arc<WireBytes>,
}

impl TunnelIo {
    fn new(tunnel: Tunnel, bytes: Arc<WireBytes>) -> Self {
        Self { stream: tunnel.stream, glued: tunnel.glued, at: 0, bytes }
    }

    /// The connection, and what of it has been read and not handed on.
    pub(super) fn into_parts(mut self) -> (TcpStream, Vec<u8>) {
        self.glued.drain(..self.at);
        (self.stream, self.glued)
    }
}

impl AsyncRead for TunnelIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if let Some(rest) = this.glued.get(this.at..).filter(|rest| !rest.is_empty()) {
            let n = rest.len().min(buf.remaining());
            buf.put_slice(rest.get(..n).unwrap_or_default());
            this.at += n;
        } else {
            std::task::ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        }
        this.bytes.down.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl TunnelIo {
    fn count(&self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(n)) = written {
            self.bytes.up.fetch_add(*n as u64, Ordering::Relaxed);
        }
    }
}

impl AsyncWrite for TunnelIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.count(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.count(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
