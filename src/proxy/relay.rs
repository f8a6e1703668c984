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

/// How long a client has to read the rest of a tunnel whose other side is gone, and how long it may take nothing of it.
pub(super) const LINGER: Duration = Duration::from_secs(60);

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
    /// One side had ended, and nothing moved for the limit, or for a minute where the exit's was gone.
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
#[derive(Debug)]
pub(super) enum Next {
    /// The end of it.
    End(End),
    /// Both sides are open, and one takes nothing while bytes wait for it.
    Blocked,
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
    /// Bytes of what the client gets first that are the gateway's own, and not counted.
    greeting: u32,
}

impl Relay {
    /// Of a client that has sent `early` already, and gets `first` before all else, of which the first `greeting`
    /// bytes are not counted.
    pub fn new(early: Vec<u8>, first: Vec<u8>, greeting: usize) -> Self {
        let greeting = u32::try_from(greeting).unwrap_or(u32::MAX);
        Self { up: Half::with(early), down: Half::with(first), greeting }
    }

    /// Relays until the tunnel ends. `moved` hears of bytes as they are written: towards the exit, towards the
    /// client. `gone` ends once the exit is gone, and may be polled again then. `half_idle` bounds the silence of a
    /// tunnel of which one side has ended; two open sides may be silent for as long as they live.
    ///
    /// For tests and benches: a tunnel has room for the first phase alone.
    pub async fn run(
        &mut self,
        ends: &Ends,
        buffers: &Buffers,
        gone: &mut (impl Future<Output = ()> + Unpin),
        half_idle: Duration,
        moved: &mut impl FnMut(u64, u64),
    ) -> End {
        loop {
            let next = poll_fn(|cx| self.poll_both(cx, ends, buffers, gone, moved)).await;
            let idle = Silence { limit: half_idle, counts: || true };
            if let Some(end) = self.rest(next, ends, buffers, gone, idle, moved).await {
                return end;
            }
        }
    }

    /// The other phases, which `next` leads to. `idle` bounds the silence of a tunnel of which one side has ended.
    /// `None` goes back to the first.
    pub(super) async fn rest(
        &mut self,
        next: Next,
        ends: &Ends,
        buffers: &Buffers,
        gone: &mut (impl Future<Output = ()> + Unpin),
        mut idle: Silence<impl Fn() -> bool>,
        moved: &mut impl FnMut(u64, u64),
    ) -> Option<End> {
        let next = match next {
            Next::Blocked => self.blocked(ends, buffers, gone, moved).await?,
            next => next,
        };
        let Ends { client, upstream, .. } = ends;
        let end = match next {
            Next::End(end) => end,
            Next::Blocked => return None,
            Next::Down(done) => {
                let Self { down, greeting, .. } = self;
                let way = OneWay { source: upstream, sink: client };
                if done != End::Done {
                    idle.limit = idle.limit.min(LINGER);
                }
                let meaning = Meaning { done, source: End::Upstream, sink: End::Client };
                way.run(down, buffers, gone, idle, meaning, |bytes| moved(0, counted(greeting, bytes))).await
            }
            Next::Up => {
                let way = OneWay { source: client, sink: upstream };
                let meaning = Meaning { done: End::Done, source: End::Client, sink: End::Linger };
                way.run(&mut self.up, buffers, gone, idle, meaning, |bytes| moved(bytes, 0)).await
            }
        };
        Some(end)
    }

    /// While bytes wait for a side that takes nothing, the side that they come from is not read: only its error tells
    /// that it was reset. `None` once nothing waits.
    async fn blocked(
        &mut self,
        ends: &Ends,
        buffers: &Buffers,
        gone: &mut (impl Future<Output = ()> + Unpin),
        moved: &mut impl FnMut(u64, u64),
    ) -> Option<Next> {
        let mut client_reset = pin!(ends.client.ready(Interest::ERROR));
        let mut upstream_reset = pin!(ends.upstream.ready(Interest::ERROR));
        poll_fn(|cx| match self.poll_both(cx, ends, buffers, gone, moved) {
            Poll::Ready(Next::Blocked) => {
                if self.up.is_blocked() && client_reset.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Some(Next::End(End::Client)));
                }
                if self.down.is_blocked() && upstream_reset.as_mut().poll(cx).is_ready() {
                    // What it had said is still the client's, if that takes it before long.
                    return Poll::Ready(Some(Next::Down(End::Upstream)));
                }
                Poll::Pending
            }
            Poll::Ready(next) => Poll::Ready(Some(next)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    /// The first phase: both sides are open.
    pub(super) fn poll_both(
        &mut self,
        cx: &mut Context<'_>,
        ends: &Ends,
        buffers: &Buffers,
        gone: &mut (impl Future<Output = ()> + Unpin),
        moved: &mut impl FnMut(u64, u64),
    ) -> Poll<Next> {
        if Pin::new(gone).poll(cx).is_ready() {
            return Poll::Ready(Next::End(End::Gone));
        }
        let Self { up, down, greeting } = self;
        let Ends { client, upstream, .. } = ends;
        let (mut moved_up, mut moved_down) = (0, 0);
        let upward = up.poll(cx, &mut &*client, &mut &*upstream, buffers, false, &mut moved_up);
        let last = upward.is_ready();
        let downward = down.poll(cx, &mut &*upstream, &mut &*client, buffers, last, &mut moved_down);
        if moved_up + moved_down > 0 {
            moved(moved_up, counted(greeting, moved_down));
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
            (Poll::Pending, Poll::Pending) if up.is_blocked() || down.is_blocked() => {
                Poll::Ready(Next::Blocked)
            }
            (Poll::Pending, Poll::Pending) => Poll::Pending,
        }
    }
}

/// What of the bytes that the client took is not the gateway's own.
fn counted(greeting: &mut u32, bytes: u64) -> u64 {
    let own = bytes.min(u64::from(*greeting));
    *greeting = greeting.saturating_sub(u32::try_from(own).unwrap_or(u32::MAX));
    bytes - own
}

/// The sockets of the second phase, in which one direction has ended and the other goes on.
struct OneWay<'a> {
    /// While bytes wait for the sink it is not read, so only its error tells of a reset.
    source: &'a TcpStream,
    /// It is read no more, so the same goes for it.
    sink: &'a TcpStream,
}

/// How long nothing may move in the second phase.
pub(super) struct Silence<F> {
    /// The limit.
    pub(super) limit: Duration,
    /// Whether it is counted yet: most tunnels end at once in that phase, and need no clock. Asked when the task runs,
    /// which is to be woken when that changes.
    pub(super) counts: F,
}

/// What it means for the tunnel how the second phase ends.
struct Meaning {
    /// The source has ended too.
    done: End,
    /// The source broke off.
    source: End,
    /// The sink did.
    sink: End,
}

impl OneWay<'_> {
    async fn run(
        mut self,
        half: &mut Half,
        buffers: &Buffers,
        gone: &mut (impl Future<Output = ()> + Unpin),
        mut idle: Silence<impl Fn() -> bool>,
        meaning: Meaning,
        mut moved: impl FnMut(u64),
    ) -> End {
        let mut reset = pin!(self.sink.ready(Interest::ERROR));
        let source = self.source;
        // Boxed: of the few tunnels that get this far hardly one needs it.
        let mut source_reset = None;
        let mut source_broke = false;
        let mut clock = pin!(None);
        let mut since = None;
        poll_fn(|cx| {
            let mut bytes = 0;
            let polled = half.poll(cx, &mut self.source, &mut self.sink, buffers, true, &mut bytes);
            if bytes > 0 {
                since = None;
                moved(bytes);
            }
            match polled {
                Poll::Ready(Ok(())) => return Poll::Ready(meaning.done),
                Poll::Ready(Err(Broken::Source)) => return Poll::Ready(meaning.source),
                Poll::Ready(Err(Broken::Sink)) => return Poll::Ready(meaning.sink),
                Poll::Pending => {}
            }
            if Pin::new(&mut *gone).poll(cx).is_ready() {
                return Poll::Ready(End::Gone);
            }
            if let Poll::Ready(Ok(_)) = reset.as_mut().poll(cx) {
                return Poll::Ready(meaning.sink);
            }
            let mut broke = || {
                let reset = source_reset.get_or_insert_with(|| Box::pin(source.ready(Interest::ERROR)));
                reset.as_mut().poll(cx).is_ready()
            };
            if half.is_blocked() && !source_broke && broke() {
                if meaning.source == End::Client {
                    return Poll::Ready(End::Client);
                }
                // What the exit had said is still the client's, if that takes it before long.
                source_broke = true;
                idle.limit = idle.limit.min(LINGER);
                since = None;
                clock.set(None);
            }
            if !(idle.counts)() {
                return Poll::Pending;
            }
            let due = *since.get_or_insert_with(Instant::now) + idle.limit;
            if clock.is_none() {
                clock.set(Some(tokio::time::sleep_until(due)));
            }
            // A coarse clock: it is set anew only when it has run out.
            while clock.as_mut().as_pin_mut().is_some_and(|clock| clock.poll(cx).is_ready()) {
                if due <= Instant::now() {
                    return Poll::Ready(End::Idle);
                }
                clock.set(Some(tokio::time::sleep_until(due)));
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests;
