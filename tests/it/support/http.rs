//! A client that shows every byte: requests written by hand, answers read as they are.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Nothing in the suite takes longer; a test that would is broken and says where.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An answer: its status, its headers by lower-case name, its body.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The gateway's error code, empty where it is no error of the gateway.
    pub fn code(&self) -> &str {
        self.header("x-gateway-error")
    }
}

/// `Basic …` for a user and password.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Reads one answer's head and, unless it is a 2xx to CONNECT, its body. What follows stays in `rest`.
pub async fn read_answer(stream: &mut TcpStream, rest: &mut Vec<u8>, to_connect: bool) -> Answer {
    tokio::time::timeout(PATIENCE, async {
        let end = loop {
            if let Some(at) = rest.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            let n = stream.read_buf(rest).await.expect("an answer");
            assert!(n > 0, "closed without an answer; had {:?}", String::from_utf8_lossy(rest));
        };
        let head: Vec<u8> = rest.drain(..end).collect();
        let head = String::from_utf8(head).expect("an ASCII head");
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok()).unwrap_or(0);
        let headers: BTreeMap<String, String> = lines
            .filter_map(|l| l.split_once(':'))
            .map(|(k, v)| (k.to_ascii_lowercase(), v.trim().to_owned()))
            .collect();
        let mut answer = Answer { status, headers, body: Vec::new() };
        if to_connect && (200..300).contains(&status) {
            return answer;
        }
        if let Ok(length) = answer.header("content-length").parse::<usize>() {
            while rest.len() < length {
                assert!(stream.read_buf(rest).await.expect("a body") > 0, "body cut short");
            }
            answer.body = rest.drain(..length).collect();
        } else if answer.header("transfer-encoding") == "chunked" {
            loop {
                while !rest.windows(2).any(|w| w == b"\r\n") {
                    assert!(stream.read_buf(rest).await.expect("a chunk") > 0, "body cut short");
                }
                let at = rest.windows(2).position(|w| w == b"\r\n").unwrap();
                let size =
                    usize::from_str_radix(std::str::from_utf8(&rest[..at]).unwrap().trim(), 16).unwrap();
                while rest.len() < at + 2 + size + 2 {
                    assert!(stream.read_buf(rest).await.expect("a chunk") > 0, "body cut short");
                }
                answer.body.extend_from_slice(&rest[at + 2..at + 2 + size]);
                rest.drain(..at + 2 + size + 2);
                if size == 0 {
                    break;
                }
            }
        }
        answer
    })
    .await
    .expect("an answer in time")
}

/// Sends raw bytes on a fresh connection and reads one answer.
pub async fn raw(addr: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(addr).await.expect("the port listens");
    stream.write_all(request).await.expect("a request");
    read_answer(&mut stream, &mut Vec::new(), false).await
}

/// A GET of the admin port, or of any server.
pub async fn get(addr: SocketAddr, path: &str) -> Answer {
    raw(addr, format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").as_bytes()).await
}

/// A JSON POST to the admin port.
pub async fn post(addr: SocketAddr, path: &str, body: &serde_json::Value) -> Answer {
    raw(addr, post_bytes(path, &body.to_string()).as_bytes()).await
}

/// The same, as bytes.
pub fn post_bytes(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A plain HTTP request through the proxy (absolute form).
pub async fn get_through(proxy: SocketAddr, user: &str, password: &str, url: &str) -> Answer {
    let host = url.trim_start_matches("http://").split('/').next().unwrap_or_default();
    let request = format!(
        "GET {url} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: {}\r\nConnection: close\r\n\r\n",
        basic(user, password)
    );
    raw(proxy, request.as_bytes()).await
}

/// A CONNECT's head.
pub fn connect_head(user: &str, password: &str, target: &str) -> String {
    format!(
        "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: {}\r\n\r\n",
        basic(user, password)
    )
}

/// A tunnel, or the error that came instead.
pub async fn connect(proxy: SocketAddr, user: &str, password: &str, target: &str) -> Result<Tunnel, Answer> {
    let mut stream = TcpStream::connect(proxy).await.expect("the proxy listens");
    stream.write_all(connect_head(user, password, target).as_bytes()).await.expect("a request");
    let mut rest = Vec::new();
    let answer = read_answer(&mut stream, &mut rest, true).await;
    if answer.status == 200 { Ok(Tunnel { stream, rest, answer }) } else { Err(answer) }
}

/// An open tunnel.
#[derive(Debug)]
pub struct Tunnel {
    pub stream: TcpStream,
    /// Bytes that came with the 200.
    pub rest: Vec<u8>,
    pub answer: Answer,
}

impl Tunnel {
    /// A GET inside the tunnel.
    pub async fn get(&mut self, host: &str) -> Answer {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        self.stream.write_all(request.as_bytes()).await.expect("a request in the tunnel");
        read_answer(&mut self.stream, &mut self.rest, false).await
    }

    /// Sends `bytes` and reads as many back.
    pub async fn echo(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.stream.write_all(bytes).await.expect("bytes into the tunnel");
        let mut back = vec![0; bytes.len()];
        tokio::time::timeout(PATIENCE, self.stream.read_exact(&mut back))
            .await
            .expect("in time")
            .expect("bytes");
        back
    }

    /// Waits until the tunnel is closed or reset by the other side.
    pub async fn closed(&mut self) {
        let mut buffer = [0; 1024];
        tokio::time::timeout(PATIENCE, async {
            while matches!(self.stream.read(&mut buffer).await, Ok(n) if n > 0) {}
        })
        .await
        .expect("the tunnel to close");
    }
}

/// The header by which a gateway's requests to the API server are told from others'.
pub fn header_name() -> ::http::HeaderName {
    ::http::header::USER_AGENT
}

/// Its value.
pub fn header_value(name: &str) -> ::http::HeaderValue {
    ::http::HeaderValue::from_str(name).expect("a name without odd characters")
}
