//! A client of plain HTTP that keeps its connection.

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub struct Get {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Get {
    pub async fn connect(proxy: SocketAddr, user: &str, password: &str) -> Self {
        let stream = TcpStream::connect(proxy).await.expect("the gateway");
        stream.set_nodelay(true).expect("a socket");
        let authorization = STANDARD.encode(format!("{user}:{password}"));
        let request = format!(
            "GET http://http.test/a?b=c HTTP/1.1\r\nHost: http.test\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\
             Proxy-Authorization: Basic {authorization}\r\nProxy-Connection: Keep-Alive\r\n\r\n"
        );
        Self { stream, request: request.into_bytes(), answer: Vec::with_capacity(4096) }
    }

    /// One request, answered with two bytes.
    pub async fn get(&mut self) {
        self.stream.write_all(&self.request).await.expect("the gateway");
        self.answer.clear();
        while !self.answer.ends_with(b"\r\n\r\nok") {
            let read = self.stream.read_buf(&mut self.answer).await.expect("an answer");
            assert!(read > 0, "{}", String::from_utf8_lossy(&self.answer));
        }
        assert!(self.answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&self.answer));
    }
}
