//! One question to a pod's health server. The session table asks it for those who wait, the leader for
//! the pods that start, so that neither waits for a probe period of the kubelet.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a health server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// 200: the VPN is up.
    Healthy,
    /// Any other answer, with its text: `healthcheck did not run yet`, `startup check: …`.
    Unhealthy(String),
    /// No answer: it does not listen yet, or the pod cannot be reached.
    Unreachable,
}

/// The request, in one segment and at once: Gluetun's health server waits 100 ms for a head.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: health\r\nConnection: close\r\n\r\n";

/// Most bytes of an answer that are read: Gluetun's longest is the list of its failed tries.
const MOST: usize = 4096;

/// Asks the health server at `addr`, within `limit`. While Gluetun sets up its firewall a SYN may be
/// dropped, so a short limit and another try beat the kernel's second.
pub async fn health(addr: SocketAddr, limit: Duration) -> Health {
    match tokio::time::timeout(limit, ask(addr)).await {
        Ok(Ok(health)) => health,
        Ok(Err(_)) | Err(_) => Health::Unreachable,
    }
}

async fn ask(addr: SocketAddr) -> std::io::Result<Health> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    stream.write_all(REQUEST).await?;
    let mut answer = Vec::with_capacity(512);
    while answer.len() < MOST && stream.read_buf(&mut answer).await? > 0 {
        // The status line decides; only a failure's text is worth the rest.
        if answer.starts_with(b"HTTP/1.1 200") || answer.starts_with(b"HTTP/1.0 200") {
            return Ok(Health::Healthy);
        }
    }
    let text = String::from_utf8_lossy(&answer);
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.") => Ok(Health::Unhealthy(body.trim().to_owned())),
        _ => Ok(Health::Unreachable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn answering(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 256];
            let n = stream.read(&mut head).await.unwrap();
            assert_eq!(&head[..n], REQUEST);
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        addr
    }

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn tells_the_answers_apart() {
        let addr = answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(health(addr, LIMIT).await, Health::Healthy);
        let addr = answering("HTTP/1.1 500 Internal Server Error\r\n\r\nhealthcheck did not run yet\n").await;
        assert_eq!(health(addr, LIMIT).await, Health::Unhealthy("healthcheck did not run yet".to_owned()));
        let addr = answering("SSH-2.0-hello\r\n").await;
        assert_eq!(health(addr, LIMIT).await, Health::Unreachable);
    }

    #[tokio::test]
    async fn nobody_there_is_unreachable() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(health(addr, LIMIT).await, Health::Unreachable);
    }

    #[tokio::test]
    async fn a_silent_server_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        assert_eq!(health(addr, Duration::from_millis(20)).await, Health::Unreachable);
    }
}
