//! The bytes of a tunnel, between the client and the destination, with Gluetun's habits: the first
//! byte may be lost, no half-close, and nothing passes while the VPN server is dead. Used by `proxy`.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::dial::{Upstream, Way};
use super::link::{self, Link, Tunnel};

/// Bytes read at once. Go copies by 32 KiB; less keeps thousands of idle tunnels small.
const BUFFER: usize = 16 * 1024;
/// What a dead tunnel takes of a client before it stops reading: about what the kernel's send buffer
/// holds.
const STALLED: usize = 256 * 1024;

/// Copies both ways until either direction ends, for whatever reason; the caller then closes both
/// sockets. `lose_first` drops the client's first byte.
pub(super) async fn relay(client: &mut TcpStream, upstream: Upstream, lose_first: bool, link: &Link) {
    let gate = upstream.tunnel.map(|opened| Gate { opened, tunnel: link.watch() });
    let (from_client, to_client) = client.split();
    match upstream.way {
        Way::Tcp(mut stream) => {
            let (from_server, to_server) = stream.split();
            both(from_client, to_server, from_server, to_client, lose_first, gate).await;
        }
        Way::Inside(stream, server) => {
            let (from_server, to_server) = tokio::io::split(stream);
            tokio::select! {
                () = both(from_client, to_server, from_server, to_client, lose_first, gate) => {}
                // A server that has ended may have left bytes on the way: the relay ends by itself.
                () = async { server.await; std::future::pending().await } => {}
            }
        }
    }
}

/// The VPN's say in a tunnel that was opened through it.
#[derive(Clone)]
struct Gate {
    opened: u64,
    tunnel: watch::Receiver<Tunnel>,
}

impl Gate {
    fn is_open(&self) -> bool {
        *self.tunnel.borrow() == Tunnel::Up(self.opened)
    }
}

async fn both<CR, SW, SR, CW>(
    from_client: CR,
    to_server: SW,
    from_server: SR,
    to_client: CW,
    lose_first: bool,
    gate: Option<Gate>,
) where
    CR: AsyncRead + Unpin,
    SW: AsyncWrite + Unpin,
    SR: AsyncRead + Unpin,
    CW: AsyncWrite + Unpin,
{
    let mut replaced = gate.clone();
    let broken = async {
        match replaced.as_mut() {
            Some(gate) => link::replaced(&mut gate.tunnel, gate.opened).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = up(from_client, to_server, lose_first, gate.clone()) => {}
        () = down(from_server, to_client, gate) => {}
        () = broken => {}
    }
}

/// From the client to the destination.
async fn up<R, W>(mut from: R, mut to: W, lose_first: bool, mut gate: Option<Gate>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; BUFFER];
    let mut skip = usize::from(lose_first);
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        let lost = std::mem::take(&mut skip);
        let mut held = Vec::new();
        let mut bytes = &buffer[lost..read];
        if let Some(gate) = gate.as_mut().filter(|gate| !gate.is_open()) {
            held.extend_from_slice(bytes);
            if !stall(&mut from, &mut held, gate).await {
                return;
            }
            bytes = &held;
        }
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

/// Takes a client's bytes as the kernel would until the tunnel passes them; false when the client
/// ended or the tunnel was replaced meanwhile.
async fn stall<R: AsyncRead + Unpin>(from: &mut R, held: &mut Vec<u8>, gate: &mut Gate) -> bool {
    let passes = link::passes(&mut gate.tunnel, gate.opened);
    tokio::pin!(passes);
    loop {
        tokio::select! {
            passed = &mut passes => return passed,
            read = from.read_buf(held), if held.len() < STALLED => {
                if !matches!(read, Ok(1..)) {
                    return false;
                }
            }
        }
    }
}

/// From the destination to the client. The end of the stream does not come through a dead tunnel
/// either.
async fn down<R, W>(mut from: R, mut to: W, mut gate: Option<Gate>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await;
        if let Some(gate) = gate.as_mut().filter(|gate| !gate.is_open())
            && !link::passes(&mut gate.tunnel, gate.opened).await
        {
            return;
        }
        let Ok(read @ 1..) = read else { return };
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
