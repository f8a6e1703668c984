//! The relay of a tunnel: bytes in both directions until both have ended, half-closes and resets passed
//! on. One future for both directions, no timer per packet, and no buffer while nothing is under way. Called by
//! `tunnel`; how the bytes of one direction move is `half`'s.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::buffers::Buffers;

mod half;
mod socket;

use half::{Broken, Half};

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both directions ended.
    Done,
    /// The exit's side had ended and then refused what the client still sent. The client may not have
    /// read all yet: linger before closing.
    Linger,
    /// The client's side broke off.
    Client,
    /// The exit's side broke off.
    Upstream,
    /// The exit's pod is gone.
    Gone,
    /// One side had ended, and nothing moved for the limit.
    Idle,
}

/// The two ends of a tunnel. Dropped before [`Ends::close`], both are reset: whoever is left must not
/// take a break for an end.
#[derive(Debug)]
pub struct Ends {
    /// The client's connection.
    pub client: TcpStream,
    /// The connection to the exit.
    pub upstream: TcpStream,
    closed: bool,
}

impl Ends {
    /// Takes over both connections.
    pub fn new(client: TcpStream, upstream: TcpStream) -> Self {
        Self { client, upstream, closed: false }
    }

    /// From now on a drop closes in order.
    pub fn close(&mut self) {
        self.closed = true;
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        if !self.closed {
            // Fails only on sockets that are gone already.
            let _ = self.client.set_zero_linger();
            let _ = self.upstream.set_zero_linger();
        }
    }
}

/// What the first phase of a relay leads to.
enum Next {
    /// The end of it.
    End(End),
    /// The client has ended, or the exit takes no more. What the end of the other direction means.
    Down(End),
    /// The exit has ended.
    Up,
}

/// Both directions of a tunnel.
#[derive(Debug)]
pub struct Relay {
    up: Half,
    down: Half,
}

impl Relay {
    /// Of a client that has sent this already.
    pub fn new(early: Vec<u8>) -> Self {
        Self { up: Half::with(early), down: Half::default() }
    }

    /// Relays until the tunnel ends. `moved` hears of bytes as they are written: towards the exit, towards the
    /// client. `gone` ends once the exit is gone, and may be polled again then. `half_idle` bounds the silence of a
    /// tunnel of which one side has ended; two open sides may be silent for as long as they live.
    ///
    /// What a tunnel holds while it is open is its caller's and a few pointers: an idle one is to be small.
    pub async fn run(
        &mut self,
        ends: &mut Ends,
        buffers: &Buffers,
        gone: &mut (impl Future<Output = ()> + Unpin),
        half_idle: Duration,
        moved: &mut impl FnMut(u64, u64),
    ) -> End {
        match poll_fn(|cx| self.poll_both(cx, ends, buffers, gone, moved)).await {
            Next::End(end) => end,
            // Boxed: few tunnels are half open for long, and all others should not hold the room for it.
            Next::Down(done) => {
                let Self { down, .. } = self;
                Box::pin(async move {
                    let (client_in, mut client_out) = ends.client.split();
                    let (mut upstream_in, _) = ends.upstream.split();
                    let poll = |cx: &mut Context<'_>| {
                        let polled = down.poll(cx, &mut upstream_in, &mut client_out, buffers, true);
                        (polled, (0, down.take_moved()))
                    };
                    let end = |result| match result {
                        Ok(()) => done,
                        Err(Broken::Source) => End::Upstream,
                        Err(Broken::Sink) => End::Client,
                    };
                    // The ended side is read no more, so only its error tells of a reset.
                    let reset = async { client_in.ready(Interest::ERROR).await.map(|_| End::Client) };
                    half_open(poll, end, reset, gone, half_idle, moved).await
                })
                .await
            }
            Next::Up => {
                let Self { up, .. } = self;
                Box::pin(async move {
                    let (mut client_in, _) = ends.client.split();
                    let (upstream_in, mut upstream_out) = ends.upstream.split();
                    let poll = |cx: &mut Context<'_>| {
                        let polled = up.poll(cx, &mut client_in, &mut upstream_out, buffers, true);
                        (polled, (up.take_moved(), 0))
                    };
                    let end = |result| match result {
                        Ok(()) => End::Done,
                        Err(Broken::Source) => End::Client,
                        Err(Broken::Sink) => End::Linger,
                    };
                    let reset = async { upstream_in.ready(Interest::ERROR).await.map(|_| End::Linger) };
                    half_open(poll, end, reset, gone, half_idle, moved).await
                })
                .await
            }
        }
    }

    /// The first phase: both sides are open.
    fn poll_both(
        &mut self,
        cx: &mut Context<'_>,
        ends: &mut Ends,
        buffers: &Buffers,
        gone: &mut (impl Future<Output = ()> + Unpin),
        moved: &mut impl FnMut(u64, u64),
    ) -> Poll<Next> {
        if Pin::new(gone).poll(cx).is_ready() {
            return Poll::Ready(Next::End(End::Gone));
        }
        let Self { up, down } = self;
        let (mut client_in, mut client_out) = ends.client.split();
        let (mut upstream_in, mut upstream_out) = ends.upstream.split();
        let upward = up.poll(cx, &mut client_in, &mut upstream_out, buffers, false);
        let last = upward.is_ready();
        let downward = down.poll(cx, &mut upstream_in, &mut client_out, buffers, last);
        let (moved_up, moved_down) = (up.take_moved(), down.take_moved());
        if moved_up + moved_down > 0 {
            moved(moved_up, moved_down);
        }
        match (upward, downward) {
            (Poll::Ready(Err(Broken::Source)), _) | (_, Poll::Ready(Err(Broken::Sink))) => {
                Poll::Ready(Next::End(End::Client))
            }
            // What the exit said before it refused more is with the client already.
            (Poll::Ready(Err(Broken::Sink)), Poll::Ready(Ok(()))) => Poll::Ready(Next::End(End::Linger)),
            (_, Poll::Ready(Err(Broken::Source))) => Poll::Ready(Next::End(End::Upstream)),
            // The exit takes no more; it may have answered in full and closed, so that is read first.
            (Poll::Ready(Err(Broken::Sink)), Poll::Pending) => Poll::Ready(Next::Down(End::Linger)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Next::End(End::Done)),
            (Poll::Ready(Ok(())), Poll::Pending) => Poll::Ready(Next::Down(End::Done)),
            (Poll::Pending, Poll::Ready(Ok(()))) => Poll::Ready(Next::Up),
            (Poll::Pending, Poll::Pending) => Poll::Pending,
        }
    }
}

/// The second phase: one direction has ended, the other goes on.
async fn half_open(
    mut poll: impl FnMut(&mut Context<'_>) -> (Poll<Result<(), Broken>>, (u64, u64)),
    end: impl Fn(Result<(), Broken>) -> End,
    reset: impl Future<Output = std::io::Result<End>>,
    gone: &mut (impl Future<Output = ()> + Unpin),
    half_idle: Duration,
    moved: &mut impl FnMut(u64, u64),
) -> End {
    let mut reset = pin!(reset);
    let mut idle = pin!(tokio::time::sleep(half_idle));
    let mut since = Instant::now();
    poll_fn(|cx| {
        if Pin::new(&mut *gone).poll(cx).is_ready() {
            return Poll::Ready(End::Gone);
        }
        let (polled, (up, down)) = poll(cx);
        if up + down > 0 {
            since = Instant::now();
            moved(up, down);
        }
        if let Poll::Ready(result) = polled {
            return Poll::Ready(end(result));
        }
        if let Poll::Ready(Ok(ended)) = reset.as_mut().poll(cx) {
            return Poll::Ready(ended);
        }
        // A coarse clock: it is set anew only when it has run out.
        while idle.as_mut().poll(cx).is_ready() {
            let due = since + half_idle;
            if due <= Instant::now() {
                return Poll::Ready(End::Idle);
            }
            idle.as_mut().reset(due);
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests;
