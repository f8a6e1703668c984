//! Origins of the suite's own, behind names that the look-alike resolves: an HTTP server, an echo, a
//! source, a sink, and ports that refuse.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;

use futures::{StreamExt, TryStreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The origins. Dropped, they end.
pub struct Origins {
    hosts: HashMap<String, SocketAddr>,
    seen: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Origins {
    pub async fn start() -> Self {
        let mut tasks = JoinSet::new();
        let mut hosts = HashMap::new();
        let seen = Arc::new(Mutex::new(Vec::new()));

        let (listener, addr) = listen().await;
        hosts.insert("echo-origin.test".to_owned(), addr);
        tasks.spawn(serve(listener, |mut stream| async move {
            let (mut read, mut write) = stream.split();
            // Ends with the connection, however that ends.
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        }));

        let (listener, addr) = listen().await;
        hosts.insert("hello.test".to_owned(), addr);
        tasks.spawn(serve(listener, |mut stream| async move {
            let _ = stream.write_all(b"220 hello, I speak first\r\n").await;
            let _ = stream.read(&mut [0; 16]).await;
        }));

        let (listener, addr) = listen().await;
        hosts.insert("origin.test".to_owned(), addr);
        let heads = Arc::clone(&seen);
        tasks.spawn(serve(listener, move |stream| http(stream, Arc::clone(&heads))));

        let (listener, addr) = listen().await;
        hosts.insert("websocket.test".to_owned(), addr);
        tasks.spawn(serve(listener, websocket));

        let (listener, addr) = listen().await;
        drop(listener);
        hosts.insert("refused.test".to_owned(), addr);
        Self { hosts, seen, _tasks: tasks }
    }

    /// Names and where they are.
    pub fn hosts(&self) -> HashMap<String, SocketAddr> {
        self.hosts.clone()
    }

    /// Heads of the requests that `origin.test` got.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

/// Shakes hands as a WebSocket server does, and sends back what it gets.
async fn websocket(stream: TcpStream) {
    // A client that is none has its error.
    let Ok(socket) = tokio_tungstenite::accept_async(stream).await else { return };
    let (sink, messages) = socket.split();
    let echoed = messages.try_filter(|message| std::future::ready(message.is_text() || message.is_binary()));
    let _ = echoed.forward(sink).await;
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let addr = listener.local_addr().expect("its address");
    (listener, addr)
}

async fn serve<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    each: impl Fn(TcpStream) -> F,
) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(each(stream));
    }
}

/// HTTP/1.1 with keep-alive: answers each request with the body that it came with, or `hello`.
async fn http(mut stream: TcpStream, seen: Arc<Mutex<Vec<String>>>) {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            match stream.read_buf(&mut buffer).await {
                Ok(n) if n > 0 => {}
                _ => return,
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
        buffer.drain(..end);
        seen.lock().unwrap().push(head.clone());
        let length = head
            .lines()
            .filter_map(|l| l.split_once(':'))
            .find(|(k, _)| k.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, v)| v.trim().parse::<usize>().ok())
            .unwrap_or(0);
        while buffer.len() < length {
            match stream.read_buf(&mut buffer).await {
                Ok(n) if n > 0 => {}
                _ => return,
            }
        }
        let body: Vec<u8> = buffer.drain(..length).collect();
        let body = if body.is_empty() { b"hello".to_vec() } else { body };
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-Origin: yes\r\nConnection: keep-alive\r\n\r\n",
            body.len()
        );
        if stream.write_all(&[answer.as_bytes(), &body].concat()).await.is_err() {
            return;
        }
    }
}
