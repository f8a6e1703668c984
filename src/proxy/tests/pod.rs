//! A pod's HTTP proxy as Gluetun's behaves, as far as the data path can tell.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::session::Exit;

/// What a CONNECT gets.
#[derive(Clone)]
pub(super) enum Route {
    /// A tunnel to there.
    To(SocketAddr),
    /// A tunnel to there, and these bytes right behind the 200, after an interim answer.
    Glued(&'static [u8], SocketAddr),
    /// A 503 with this text.
    Refused(&'static str),
    /// An answer of this status.
    Status(u16),
    /// No answer.
    Silent,
    /// The connection is closed.
    Closed,
}

#[derive(Default)]
struct State {
    heads: Mutex<Vec<String>>,
    routes: Mutex<HashMap<String, Route>>,
    early: AtomicUsize,
}

/// A pod.
pub(super) struct Pod {
    pub(super) addr: SocketAddr,
    pub(super) exit: Arc<Exit>,
    state: Arc<State>,
}

impl Pod {
    /// Starts one, with its check address alive.
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    tokio::spawn(serve(stream, Arc::clone(&state)));
                }
            }
        });
        let pod = Self { state, ..Self::at(addr) };
        pod.route("1.1.1.1:53", Route::Refused("dial tcp 1.1.1.1:53: connect: connection refused"));
        pod
    }

    /// One that runs there, in another process.
    pub(super) fn at(addr: SocketAddr) -> Self {
        Self { addr, exit: Exit::at(addr), state: Arc::default() }
    }

    /// Sets what a CONNECT to `target` gets; without, the name does not exist.
    pub(super) fn route(&self, target: &str, route: Route) {
        self.state.routes.lock().unwrap().insert(target.to_owned(), route);
    }

    /// The heads that it got, without those of checks.
    pub(super) fn heads(&self) -> Vec<String> {
        let heads = self.state.heads.lock().unwrap();
        heads.iter().filter(|head| !head.starts_with("CONNECT 1.1.1.1:")).cloned().collect()
    }

    /// Checks that it got.
    pub(super) fn checks(&self) -> usize {
        let heads = self.state.heads.lock().unwrap();
        heads.iter().filter(|head| head.starts_with("CONNECT 1.1.1.1:53 ")).count()
    }

    /// Bytes that came before the answer, which Gluetun loses.
    pub(super) fn lost(&self) -> usize {
        self.state.early.load(Ordering::Relaxed)
    }
}

async fn serve(mut stream: TcpStream, state: Arc<State>) {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    state.early.fetch_add(bytes.len() - end, Ordering::Relaxed);
    let target = head.split(' ').nth(1).unwrap().to_owned();
    let authorized = head.contains("\r\nProxy-Authorization: Basic cG9kOnNlc2FtZQ==\r\n");
    state.heads.lock().unwrap().push(head);
    let route = state.routes.lock().unwrap().get(&target).cloned();
    let route = if authorized { route } else { Some(Route::Status(401)) };
    let refuse = |status: u16, text: &str| {
        format!(
            "HTTP/1.1 {status} X\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{text}\n",
            text.len() + 1
        )
    };
    let answer = match route {
        Some(Route::To(addr)) => return tunnel(stream, state, addr, b"").await,
        Some(Route::Glued(glued, addr)) => return tunnel(stream, state, addr, glued).await,
        Some(Route::Refused(text)) => refuse(503, text),
        Some(Route::Status(status)) => refuse(status, "no"),
        Some(Route::Silent) => {
            // Until the gateway gives up.
            let _ = stream.read_buf(&mut bytes).await;
            return;
        }
        Some(Route::Closed) => return,
        None => refuse(503, "dial tcp: lookup it on 127.0.0.1:53: no such host"),
    };
    let _ = stream.write_all(answer.as_bytes()).await;
}

async fn tunnel(mut stream: TcpStream, state: Arc<State>, addr: SocketAddr, glued: &[u8]) {
    let mut target = TcpStream::connect(addr).await.unwrap();
    let mut early = [0; 1024];
    if let Ok(n) = stream.try_read(&mut early) {
        state.early.fetch_add(n, Ordering::Relaxed);
    }
    let mut answer = Vec::new();
    if !glued.is_empty() {
        answer.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n");
    }
    answer.extend_from_slice(b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n");
    answer.extend_from_slice(glued);
    stream.write_all(&answer).await.unwrap();
    let _ = copy_bidirectional(&mut stream, &mut target).await;
}
