//! An open tunnel: the client is told, then bytes are relayed until both sides have ended.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use prometheus::IntGauge;
use tokio::net::TcpStream;

use super::connect::Opened;
use super::event::Waiter;
use super::record::{Outcome, Record};
use super::relay::{End, Ends, LINGER, Next, Relay, Silence};
use super::response::Established;
use super::socket;
use super::thread::Thread;
use crate::session::InUse;

/// Bytes that a client may still send when nobody takes more of it, so that it can read what it was told: more than two
/// kernels hold of a stream under way (`net.ipv4.tcp_wmem` and `tcp_rmem`; 10 MiB by default). Who goes on is reset.
pub(super) const UNTAKEN: usize = 64 * 1024 * 1024;

/// A tunnel that is open on both sides.
pub(super) struct Tunnel {
    /// The client's connection.
    pub(super) client: TcpStream,
    /// What the client has sent already.
    pub(super) early: Vec<u8>,
    /// The exit's side.
    pub(super) opened: Opened,
    /// The record, which ends with the tunnel.
    pub(super) record: Record,
    /// What the client has been told.
    pub(super) greeting: Greeting,
}

/// What a client has been told of its tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// Nothing: the 200 is due.
    Due,
    /// The 200, by hyper.
    Sent,
    /// That protocols are switched; what has come from the origin so far has been counted.
    None,
}

impl Tunnel {
    /// Tells the client, and relays until the tunnel ends.
    // No `async fn`, which would hold what it is given twice.
    #[allow(clippy::manual_async_fn)]
    pub(super) fn run(self, thread: Rc<Thread>) -> impl Future<Output = ()> + 'static {
        let mut open = self.open(&thread);
        async move {
            let end = loop {
                let next = poll_fn(|cx| open.poll_both(cx, &thread)).await;
                if let Next::End(end) = next {
                    break end;
                }
                // Boxed: few tunnels are half open or blocked for long, and all others would hold the room for it.
                if let Some(end) = Box::pin(open.rest(next, &thread)).await {
                    break end;
                }
            };
            // Boxed: only some tunnels end so.
            let rest = open.finish(end).map(|ends| Box::pin(linger(thread, ends)));
            if let Some(rest) = rest {
                rest.await;
            }
        }
    }

    fn open(self, thread: &Thread) -> Open {
        let Self { client, early, opened: Opened { grant, tunnel }, mut record, greeting } = self;
        let mut first = match greeting {
            Greeting::Due => {
                let established = Established {
                    id: record.id,
                    server: &grant.exit.server,
                    country: &grant.exit.country,
                    cold_start: grant.cold_start,
                    waited: grant.waited,
                    idle: grant.idle,
                    expires: grant.expires,
                };
                established.bytes()
            }
            Greeting::Sent | Greeting::None => Vec::new(),
        };
        let uncounted = match greeting {
            Greeting::Due | Greeting::Sent => first.len(),
            Greeting::None => tunnel.glued.len(),
        };
        first.extend_from_slice(&tunnel.glued);
        if record.status == 0 {
            record.status = 200;
        }
        record.trail.opened();
        record.on_drop = Outcome::Cut;
        let counted = Counted::new(&thread.counters.tunnels);
        let exit = grant.exit;
        let gone = Gone {
            exit: thread.gone(&exit),
            account: record.slot.as_ref().map(|slot| thread.account_gone(slot.usage())),
        };
        let relay = Relay::new(early, first, uncounted);
        let ends = Ends::new(client, tunnel.stream);
        let opened = thread.rounds();
        Open { ends, opened, asks: false, relay, gone, record, _exit: exit, _counted: counted }
    }
}

/// What a tunnel needs while it is open.
struct Open {
    ends: Ends,
    /// The rounds that its thread had made when it opened. Most tunnels are over before the next one, and do without
    /// what needs a system call or a clock and is for those that last.
    opened: u32,
    /// Whether its exit is asked whether it lives.
    asks: bool,
    relay: Relay,
    gone: Gone,
    record: Record,
    _exit: InUse,
    _counted: Counted,
}

/// Ends when the exit's pod is gone, or what is open of the account must end.
struct Gone {
    exit: Waiter,
    account: Option<Waiter>,
}

impl Future for Gone {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(account) = &mut self.account
            && Pin::new(account).poll(cx).is_ready()
        {
            return Poll::Ready(());
        }
        Pin::new(&mut self.exit).poll(cx)
    }
}

impl Open {
    fn poll_both(&mut self, cx: &mut Context<'_>, thread: &Thread) -> Poll<Next> {
        let Self { ends, opened, asks, relay, gone, record, .. } = self;
        look(*opened, asks, ends, thread);
        relay.poll_both(cx, ends, &thread.buffers, gone, &mut |up, down| record.add_bytes(up, down))
    }

    async fn rest(&mut self, next: Next, thread: &Thread) -> Option<End> {
        let Self { ends, opened, asks, relay, gone, record, .. } = self;
        let opened = *opened;
        let idle = Silence { limit: thread.shared.timings.half_idle, counts: || thread.rounds() != opened };
        let mut moved = |up, down| record.add_bytes(up, down);
        let mut rest = pin!(relay.rest(next, ends, &thread.buffers, gone, idle, &mut moved));
        poll_fn(|cx| {
            look(opened, asks, ends, thread);
            rest.as_mut().poll(cx)
        })
        .await
    }

    /// Ends the record, and closes or resets both sides; what is left of them if the client is to be lingered for.
    fn finish(self, end: End) -> Option<Ends> {
        let Self { mut ends, record, _counted: counted, .. } = self;
        // Whoever sees its record sees that it is open no more.
        drop(counted);
        let account_ended = record.slot.as_ref().is_some_and(|slot| slot.usage().ended().is_cancelled());
        record.finish(match end {
            End::Done | End::Linger => Outcome::Ok,
            End::Client => Outcome::ClientReset,
            End::Upstream => Outcome::UpstreamReset,
            End::Gone if account_ended => Outcome::AccountGone,
            End::Gone => Outcome::ExitGone,
            End::Idle => Outcome::Idle,
        });
        match end {
            End::Done => ends.close(),
            End::Linger => {
                ends.close();
                return Some(ends);
            }
            End::Client | End::Upstream | End::Gone | End::Idle => {}
        }
        None
    }
}

/// Looks whether a tunnel is new no longer.
fn look(opened: u32, asks: &mut bool, ends: &Ends, thread: &Thread) {
    if !*asks && opened != thread.rounds() {
        *asks = true;
        socket::keep_alive(&ends.upstream);
    }
}

async fn linger(thread: Rc<Thread>, ends: Ends) {
    shut(&ends.client);
    thread.linger(&ends.client, LINGER, UNTAKEN).await;
}

/// Counts an open tunnel until dropped.
struct Counted(IntGauge);

impl Counted {
    fn new(tunnels: &IntGauge) -> Self {
        tunnels.inc();
        Self(tunnels.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Says that nothing more comes; reading goes on.
pub(super) fn shut(stream: &TcpStream) {
    // Fails only on a connection that is gone.
    let _ = socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::thread::Connection;

    /// What an idle tunnel takes beside its sockets, its task and a few counters.
    #[test]
    fn an_open_tunnel_is_small() {
        fn size<R>(_: impl FnOnce(Tunnel, Rc<Thread>) -> R) -> usize {
            size_of::<R>() + size_of::<Rc<Connection>>()
        }
        let (open, record) = (size_of::<Open>(), size_of::<Record>());
        let stage = size(Tunnel::run);
        assert!(
            stage <= 512,
            "{stage} bytes, of them {open} for what is open, of them {record} for the record"
        );
    }
}
