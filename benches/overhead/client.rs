//! A client that does no more than it must: a CONNECT by hand, and bytes there and back.

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What the tunnels lead to.
const TARGET: &str = "echo.test:7";

/// A CONNECT, ready to be sent.
pub struct Connect(Vec<u8>);

impl Connect {
    /// To the gateway, or to a pod's own proxy. The length announced is what Gluetun needs so as not to
    /// lose the tunnel's first byte; the gateway takes a CONNECT that announces a body for a mistake.
    pub fn new(user: &str, password: &str, to_pod: bool) -> Self {
        let authorization = STANDARD.encode(format!("{user}:{password}"));
        let length = if to_pod { "Content-Length: 1048576\r\n" } else { "" };
        let head = format!(
            "CONNECT {TARGET} HTTP/1.1\r\nHost: {TARGET}\r\nProxy-Authorization: Basic {authorization}\r\n\
             {length}\r\n"
        );
        Self(head.into_bytes())
    }

    /// Connects, and waits for the 200.
    ///
    /// # Errors
    ///
    /// The answer that came instead, or why none came.
    pub async fn open(&self, proxy: SocketAddr) -> Result<Tunnel, String> {
        let broken = |error: std::io::Error| error.to_string();
        let mut stream = TcpStream::connect(proxy).await.map_err(broken)?;
        stream.set_nodelay(true).map_err(broken)?;
        stream.write_all(&self.0).await.map_err(broken)?;
        let mut head = Vec::with_capacity(1024);
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            if stream.read_buf(&mut head).await.map_err(broken)? == 0 {
                return Err("closed without an answer".to_owned());
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        if head.starts_with("HTTP/1.1 200 ") { Ok(Tunnel { stream, head }) } else { Err(head) }
    }
}

/// An open tunnel to the echo.
pub struct Tunnel {
    stream: TcpStream,
    head: String,
}

impl Tunnel {
    /// A header of the 200.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// 64 bytes there and back.
    pub async fn round_trip(&mut self) {
        let (sent, mut back) = ([7; 64], [0; 64]);
        self.stream.write_all(&sent).await.expect("the tunnel is open");
        self.stream.read_exact(&mut back).await.expect("the tunnel is open");
        assert_eq!(sent, back);
    }
}
