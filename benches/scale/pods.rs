//! A stand-in for the proxies of many pods: a listener on each pod's address, and one task that takes
//! whatever comes and says 200. A pod costs a socket.

use std::net::{Ipv4Addr, SocketAddr};

use gluetun_gateway::session::pod::PROXY_PORT;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// The pods' network: the embedded cluster's own default is 127.42.0.0/16.
const NETWORK: Ipv4Addr = Ipv4Addr::new(127, 88, 0, 0);

/// Address of a pod.
pub fn address(n: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(NETWORK) + u32::try_from(n).expect("not that many") + 1)
}

/// Listens for so many pods, for as long as what it returns lives.
pub async fn listen(count: usize) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for n in 0..count {
        let address = SocketAddr::from((address(n), PROXY_PORT));
        let listener = TcpListener::bind(address).await.expect("all of 127.0.0.0/8 is this machine's");
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let mut head = Vec::with_capacity(1024);
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read_buf(&mut head).await {
                            Ok(n) if n > 0 => {}
                            // Gone before it has asked for anything.
                            Ok(_) | Err(_) => return,
                        }
                    }
                    if stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.is_ok() {
                        // Until the other side has had enough.
                        let _ = stream.read(&mut [0; 64]).await;
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
    }
    tasks
}
