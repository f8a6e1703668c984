//! Clients that take nothing of their answers. A connection whose answer waits for its client is closed
//! after a while, and before that when others have no place: [`Stalls`] knows who takes nothing, and
//! [`Taken`] is the socket that tells it. Used by `server` alone.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use super::delivery::Peer;

/// How long a client may take nothing of an answer that waits for it.
pub(super) const STALLED: Duration = Duration::from_secs(30);

/// How long it may in any case, whoever wants its place.
const GRACE: Duration = Duration::from_secs(1);

/// The connections whose clients take nothing just now.
#[derive(Clone, Debug, Default)]
pub(super) struct Stalls(Arc<Mutex<Stalled>>);

#[derive(Debug, Default)]
struct Stalled {
    /// What cuts them, by since when they take nothing, and a number.
    since: BTreeMap<(Instant, u64), CancellationToken>,
    /// The last number.
    last: u64,
}

impl Stalls {
    fn locked(&self) -> MutexGuard<'_, Stalled> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the connection whose client has taken nothing for longest, if that is a second; whether there
    /// was one.
    pub(super) fn cut_longest(&self) -> bool {
        let mut stalled = self.locked();
        let longest = stalled.since.first_entry().filter(|entry| entry.key().0.elapsed() >= GRACE);
        longest.map(|entry| entry.remove().cancel()).is_some()
    }

    fn begin(&self, cut: &CancellationToken) -> Stall {
        let mut stalled = self.locked();
        stalled.last += 1;
        let key = (Instant::now(), stalled.last);
        stalled.since.insert(key, cut.clone());
        drop(stalled);
        Stall { stalls: self.clone(), key, over: Box::pin(tokio::time::sleep(STALLED)) }
    }
}

/// One connection's answer waits for its client.
#[derive(Debug)]
struct Stall {
    stalls: Stalls,
    key: (Instant, u64),
    /// When it has waited for too long.
    over: Pin<Box<Sleep>>,
}

impl Drop for Stall {
    fn drop(&mut self) {
        self.stalls.locked().since.remove(&self.key);
    }
}

/// A connection's socket, which fails once its client has taken nothing of what is to be written for
/// [`STALLED`]. A connection that has nothing to write is none of its business.
#[derive(Debug)]
pub(super) struct Taken<T> {
    io: T,
    stalls: Stalls,
    /// What ends the connection for the sake of another.
    cut: CancellationToken,
    stall: Option<Stall>,
}

impl<T> Taken<T> {
    pub(super) fn new(io: T, stalls: Stalls, cut: CancellationToken) -> Self {
        Self { io, stalls, cut, stall: None }
    }

    /// What a write came to, with its limit.
    fn limited(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let stall = self.stall.get_or_insert_with(|| self.stalls.begin(&self.cut));
        stall.over.as_mut().poll(cx).map(|()| {
            let text = "the client has taken nothing of its answer for too long";
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        })
    }
}

impl<T: Peer> Peer for Taken<T> {
    fn has_left(&self, cx: &mut Context<'_>) -> bool {
        self.io.has_left(cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Taken<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Taken<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.limited(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.limited(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// A connection with an answer of `size` bytes to write, the client's end of it, and what cuts it.
    fn connection(
        stalls: &Stalls,
        size: usize,
    ) -> (tokio::task::JoinHandle<io::Result<()>>, DuplexStream, CancellationToken) {
        let (client, server) = duplex(100);
        let cut = CancellationToken::new();
        let mut server = Taken::new(server, stalls.clone(), cut.clone());
        let writing = tokio::spawn(async move { server.write_all(&vec![b'x'; size]).await });
        (writing, client, cut)
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_cut_and_who_takes_a_little_is_not() {
        let stalls = Stalls::default();
        let (writing, _client, _) = connection(&stalls, 1000);
        let begun = Instant::now();
        assert_eq!(writing.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed(), STALLED);

        let (writing, mut client, _) = connection(&stalls, 1000);
        let mut bytes = [0; 100];
        for _ in 0..9 {
            tokio::time::sleep(STALLED * 3 / 4).await;
            client.read_exact(&mut bytes).await.unwrap();
        }
        writing.await.unwrap().unwrap();
        assert!(stalls.locked().since.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_taken_nothing_for_longest_makes_room_first() {
        let stalls = Stalls::default();
        let (_first, _one, first) = connection(&stalls, 1000);
        tokio::time::sleep(GRACE / 2).await;
        let (_second, _two, second) = connection(&stalls, 1000);
        assert!(!stalls.cut_longest(), "not for so long yet");
        tokio::time::sleep(GRACE / 2).await;
        assert!(stalls.cut_longest());
        assert_eq!((first.is_cancelled(), second.is_cancelled()), (true, false));
        assert!(!stalls.cut_longest());
        tokio::time::sleep(GRACE / 2).await;
        assert!(stalls.cut_longest() && second.is_cancelled());
        assert!(!stalls.cut_longest());
    }
}
