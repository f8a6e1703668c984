//! An open tunnel: the client is told, then bytes are relayed until both sides have ended.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpStream;

use super::connect::Opened;
use super::record::{Outcome, Record};
use super::relay::{self, End, Ends};
use super::response::Established;
use super::thread::Thread;
use super::upstream::write_all;

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
    /// Relays until the tunnel ends.
    pub(super) async fn run(self, thread: &Rc<Thread>) {
        let Self { client, early, opened: Opened { grant, tunnel }, mut record, greeting } = self;
        let mut ends = Ends::new(client, tunnel.stream);
        let mut first = if greeting == Greeting::Due {
            let established = Established {
                id: record.id,
                server: &grant.exit.server,
                country: &grant.exit.country,
                cold_start: grant.cold_start,
                waited: grant.waited,
                expires: grant.expires,
            };
            established.bytes()
        } else {
            Vec::new()
        };
        first.extend_from_slice(&tunnel.glued);
        if record.status == 0 {
            record.status = 200;
        }
        record.trail.opened();
        record.on_drop = Outcome::Cut;
        if write_all(&ends.client, &first).await.is_err() {
            record.finish(Outcome::ClientReset);
            return;
        }
        if greeting != Greeting::None {
            record.add_bytes(0, tunnel.glued.len() as u64);
        }
        drop((first, tunnel.glued));

        thread.counters.tunnels.inc();
        let _open = Open(thread);
        let usage = record.slot.as_ref().map(|slot| Arc::clone(slot.usage()));
        let mut exit_gone = thread.gone(&grant.exit);
        let mut account_gone = usage.as_ref().map(|usage| thread.account_gone(usage));
        let gone = poll_fn(move |cx| {
            if let Some(ended) = &mut account_gone
                && Pin::new(ended).poll(cx).is_ready()
            {
                return Poll::Ready(());
            }
            Pin::new(&mut exit_gone).poll(cx)
        });
        let half_idle = thread.shared.timings.half_idle;
        let end = relay::relay(&mut ends, early, &thread.buffers, gone, half_idle, |up, down| {
            record.add_bytes(up, down);
        })
        .await;
        let outcome = match end {
            End::Done | End::Linger => Outcome::Ok,
            End::Client => Outcome::ClientReset,
            End::Upstream => Outcome::UpstreamReset,
            End::Gone if usage.is_some_and(|usage| usage.ended().is_cancelled()) => Outcome::AccountGone,
            End::Gone => Outcome::ExitGone,
            End::Idle => Outcome::Idle,
        };
        record.finish(outcome);
        match end {
            End::Done => ends.close(),
            End::Linger => {
                ends.close();
                shut(&ends.client);
                thread.linger(&ends.client, TUNNEL_LINGER, usize::MAX).await;
            }
            End::Client | End::Upstream | End::Gone | End::Idle => {}
        }
    }
}

/// How long a client has to read the rest of a tunnel whose other side is gone.
const TUNNEL_LINGER: Duration = Duration::from_secs(60);

/// Counts an open tunnel until dropped.
struct Open<'t>(&'t Thread);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.counters.tunnels.dec();
    }
}

/// Says that nothing more comes; reading goes on.
pub(super) fn shut(stream: &TcpStream) {
    // Fails only on a connection that is gone.
    let _ = socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write);
}
