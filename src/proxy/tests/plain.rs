//! Plain HTTP: requests in absolute form over kept connections, to origins over real sockets.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::rig::{answer, ask, rest};
use super::*;

/// The head and body of a request.
type Seen = (String, Vec<u8>);

/// An origin: answers by the path, and remembers heads and bodies.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<Mutex<usize>>,
}

impl Origin {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin =
            Self { addr: listener.local_addr().unwrap(), seen: Arc::default(), connections: Arc::default() };
        let serving = origin.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                *serving.connections.lock().unwrap() += 1;
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        origin
    }

    fn head(&self, index: usize) -> String {
        self.seen.lock().unwrap()[index].0.clone()
    }

    fn requests(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    async fn serve(self, mut stream: TcpStream) {
        let mut bytes = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                    break at + 4;
                }
                if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                    return;
                }
            };
            let head = String::from_utf8(bytes.drain(..end).collect()).unwrap();
            let lower = head.to_lowercase();
            let mut body = Vec::new();
            if let Some(at) = lower.find("content-length: ") {
                let length: usize = lower[at + 16..].split("\r\n").next().unwrap().parse().unwrap();
                while bytes.len() < length {
                    assert!(stream.read_buf(&mut bytes).await.unwrap() > 0);
                }
                body = bytes.drain(..length).collect();
            } else if lower.contains("transfer-encoding: chunked") {
                while !bytes.ends_with(b"0\r\n\r\n") {
                    assert!(stream.read_buf(&mut bytes).await.unwrap() > 0);
                }
                body = std::mem::take(&mut bytes);
            }
            let path = head.split(' ').nth(1).unwrap().to_owned();
            self.seen.lock().unwrap().push((head, body));
            let answer: &[u8] = match path.as_str() {
                "/close" => return,
                "/once" if *self.connections.lock().unwrap() == 1 && self.requests() > 1 => return,
                "/cut" => {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await.unwrap();
                    stream.set_zero_linger().unwrap();
                    // Only once the gateway has it.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    return;
                }
                "/old" => b"HTTP/1.0 200 OK\r\nX-Old: y\r\n\r\nuntil the end",
                "/empty" => b"HTTP/1.1 204 No Content\r\n\r\n",
                "/chunks" => {
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
                }
                "/ws" => {
                    stream
                        .write_all(
                            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                              Sec-WebSocket-Accept: x\r\n\r\nfirst",
                        )
                        .await
                        .unwrap();
                    let (mut input, mut output) = stream.split();
                    let _ = tokio::io::copy(&mut input, &mut output).await;
                    let _ = output.shutdown().await;
                    return;
                }
                _ => {
                    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\
                      Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nX-Gateway-Error: forged\r\n\
                      X-Gateway-Request-Id: forged\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\nhello"
                }
            };
            stream.write_all(answer).await.unwrap();
            if path == "/old" {
                return;
            }
        }
    }
}

/// A pod with an origin behind `origin.test`.
async fn world() -> (Pod, Origin, Gateway) {
    let (pod, origin) = (Pod::start().await, Origin::start().await);
    pod.route("origin.test:80", Route::To(origin.addr));
    // One thread: idle tunnels are kept by each for itself.
    let gateway =
        Gateway::threads(1, Some(&pod), |shared| shared.timings.linger = Duration::from_millis(200));
    (pod, origin, gateway)
}

fn get(path: &str) -> String {
    request("GET", path, "")
}

fn request(method: &str, path: &str, headers: &str) -> String {
    let auth = basic("demo", "open:sesame");
    format!("{method} http://origin.test{path} HTTP/1.1\r\nHost: wrong.test\r\n{auth}{headers}\r\n")
}

#[tokio::test]
async fn a_request_goes_out_in_origin_form_and_clean() {
    let (pod, origin, gateway) = world().await;
    let headers = "X-CaSe: Kept\r\nX-Forwarded-For: 1.2.3.4\r\nProxy-Connection: keep-alive\r\n\
                   Connection: X-Private\r\nX-Private: 1\r\nTE: trailers\r\n";
    let (mut stream, answer) = gateway.ask(&request("GET", "/a?b=c", headers)).await;
    assert_eq!((answer.status, answer.text()), (200, "hello"));
    for gone in
        ["x-hop", "keep-alive", "proxy-authenticate", "x-gateway-error", "connection", "x-gateway-exit"]
    {
        assert_eq!(answer.header(gone), None, "{gone}");
    }
    assert_eq!(answer.header("x-gateway-request-id").unwrap().len(), 16);
    assert_eq!(answer.head.matches("Set-Cookie: ").count(), 2, "{}", answer.head);
    let head = origin.head(0);
    assert!(head.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nHost: origin.test\r\n") && head.contains("\r\nX-CaSe: Kept\r\n"), "{head}");
    assert!(head.contains("\r\nX-Forwarded-For: 1.2.3.4\r\n"), "{head}");
    for gone in ["proxy", "x-private", "te:", "via", "wrong.test", "connection"] {
        assert!(!head.to_lowercase().contains(gone), "{gone} in {head}");
    }
    // The next one takes the same tunnel, from whichever connection it comes.
    assert_eq!(ask(&mut stream, &get("/b")).await.status, 200);
    let (_other, answer) = gateway.ask(&get("/c")).await;
    assert_eq!(answer.status, 200);
    assert_eq!((pod.heads().len(), origin.requests()), (1, 3));
    eventually("their records", || gateway.requests("http", "ok") == 3).await;
    let up: usize = (0..3).map(|index| origin.head(index).len()).sum();
    assert_eq!(gateway.metrics().bytes.with_label_values(&["up"]).get(), up as u64);
    assert_eq!(pod.lost(), 0);
}

#[tokio::test]
async fn sessions_and_exits_do_not_share_tunnels() {
    let (pod, origin, gateway) = world().await;
    let (mut stream, _) = gateway.ask(&get("/a")).await;
    let other = Pod::start().await;
    other.route("origin.test:80", Route::To(origin.addr));
    gateway.table.set_ready(Some(&other.exit));
    assert_eq!(ask(&mut stream, &get("/b")).await.status, 200);
    assert_eq!((pod.heads().len(), other.heads().len()), (1, 1));
}

#[tokio::test]
async fn idle_tunnels_are_closed() {
    let pod = Pod::start().await;
    let origin = Origin::start().await;
    pod.route("origin.test:80", Route::To(origin.addr));
    let gateway = Gateway::with(Some(&pod), |shared| shared.timings.pooled = Duration::from_millis(200));
    let (mut stream, _) = gateway.ask(&get("/a")).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(ask(&mut stream, &get("/b")).await.status, 200);
    assert_eq!(pod.heads().len(), 2);
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let (_pod, origin, gateway) = world().await;
    let body = "x".repeat(300_000);
    let length = format!("Content-Length: {}\r\n", body.len());
    let (mut stream, answer) = gateway.ask(&(request("POST", "/p", &length) + &body)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(origin.seen.lock().unwrap()[0].1.len(), body.len());
    let chunked = request("PUT", "/q", "Transfer-Encoding: chunked\r\n") + "5\r\nhello\r\n0\r\n\r\n";
    assert_eq!(ask(&mut stream, &chunked).await.status, 200);
    assert_eq!(origin.seen.lock().unwrap()[1].1, b"5\r\nhello\r\n0\r\n\r\n");
    let answer = ask(&mut stream, &get("/chunks")).await;
    assert_eq!((answer.text(), answer.header("transfer-encoding")), ("abcdefg", Some("chunked")));
    // An answer that ends with its connection has an end for the client too.
    let answer = ask(&mut stream, &get("/old")).await;
    assert_eq!((answer.text(), answer.header("x-old")), ("until the end", Some("y")));
    assert_eq!(ask(&mut stream, &get("/empty")).await.status, 204);
    stream.write_all(request("HEAD", "/h", "").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(String::from_utf8(head).unwrap().to_lowercase().contains("content-length: 5\r\n"));
}

#[tokio::test]
async fn a_client_that_waits_for_100_gets_it() {
    let (_pod, origin, gateway) = world().await;
    let mut stream = gateway.connect().await;
    let head = request("POST", "/p", "Content-Length: 5\r\nExpect: 100-continue\r\n");
    let interim = ask(&mut stream, &head).await;
    assert_eq!(interim.status, 100);
    stream.write_all(b"hello").await.unwrap();
    assert_eq!(answer(&mut stream).await.status, 200);
    assert_eq!(origin.seen.lock().unwrap()[0].1, b"hello");
}

#[tokio::test]
async fn a_tunnel_that_ended_unseen_costs_no_request() {
    let (pod, origin, gateway) = world().await;
    let (mut stream, _) = gateway.ask(&get("/a")).await;
    // The origin closes on this one as long as it comes over the first connection.
    let answer = ask(&mut stream, &get("/once")).await;
    assert_eq!((answer.status, answer.text()), (200, "hello"));
    assert_eq!((pod.heads().len(), origin.requests()), (2, 3));
    // What may not be sent twice takes a fresh one, and fails if that does.
    let close = request("POST", "/close", "Content-Length: 0\r\n");
    let answer = ask(&mut stream, &close).await;
    assert_eq!((answer.status, answer.code()), (502, "upstream_error"));
    assert_eq!((pod.heads().len(), origin.requests()), (3, 4));
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_so_for_the_client() {
    let (_pod, _origin, gateway) = world().await;
    let mut stream = gateway.connect().await;
    stream.write_all(get("/cut").as_bytes()).await.unwrap();
    let got = rest(&mut stream).await;
    assert!(got.ends_with(b"half"), "{}", String::from_utf8_lossy(&got));
    eventually("its record", || gateway.requests("http", "upstream_reset") == 1).await;
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_is_recorded() {
    let (pod, _origin, gateway) = world().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    pod.route("endless.test:80", Route::To(listener.local_addr().unwrap()));
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        while stream.write_all(&[b'x'; 8192]).await.is_ok() {}
    });
    let mut stream = gateway.connect().await;
    let request = get("/").replace("origin.test", "endless.test");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.read_exact(&mut [0; 20_000]).await.unwrap();
    drop(stream);
    eventually("its record", || gateway.requests("http", "client_reset") == 1).await;
    eventually("its end", || gateway.metrics().connections_open.get() == 0).await;
}

#[tokio::test]
async fn a_websocket_becomes_a_tunnel() {
    let (_pod, origin, gateway) = world().await;
    let headers = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n";
    let (mut stream, answer) = gateway.ask(&request("GET", "/ws", headers)).await;
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")));
    assert_eq!(answer.header("sec-websocket-accept"), Some("x"));
    let head = origin.head(0).to_lowercase();
    assert!(
        head.contains("\r\nconnection: upgrade\r\n") && head.contains("\r\nupgrade: websocket\r\n"),
        "{head}"
    );
    let mut first = [0; 5];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"first");
    stream.write_all(b"ping!").await.unwrap();
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"ping!");
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await, b"");
    eventually("its record", || gateway.requests("http", "ok") == 1).await;
    assert_eq!(gateway.metrics().tunnels_open.get(), 0);
}

#[tokio::test]
async fn a_client_may_say_that_a_request_is_its_last() {
    let (_pod, _origin, gateway) = world().await;
    for request in [
        request("GET", "/a", "Proxy-Connection: Close\r\n"),
        request("POST", "/p", "Proxy-Connection: foo, close\r\nContent-Length: 5\r\n") + "hello",
        "GET http://nowhere.test/ HTTP/1.1\r\nHost: a\r\nProxy-Connection: close\r\n\r\n".to_owned(),
    ] {
        let (mut stream, answer) = gateway.ask(&request).await;
        assert_eq!(answer.header("connection"), Some("close"), "{request}");
        assert_eq!(rest(&mut stream).await, b"");
    }
}

#[tokio::test]
async fn a_challenge_to_an_upload_leaves_the_connection() {
    let (_pod, origin, gateway) = world().await;
    let mut stream = gateway.connect().await;
    let bare = "POST http://origin.test/p HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 5\r\n\r\nhello";
    let challenge = ask(&mut stream, bare).await;
    assert_eq!((challenge.status, challenge.code()), (407, "auth_required"));
    assert_eq!(challenge.header("connection"), None);
    let again = request("POST", "/p", "Content-Length: 5\r\n") + "hello";
    assert_eq!(ask(&mut stream, &again).await.status, 200);
    assert_eq!(origin.requests(), 1);
    // Pipelined requests are answered in their order.
    stream.write_all((get("/chunks") + &get("/a")).as_bytes()).await.unwrap();
    assert_eq!(answer(&mut stream).await.text(), "abcdefg");
    assert_eq!(answer(&mut stream).await.text(), "hello");
}

#[tokio::test]
async fn errors_reach_clients_of_plain_http_too() {
    let (pod, _origin, gateway) = world().await;
    pod.route("refused.test:80", Route::Refused("dial tcp 1.2.3.4:80: connect: connection refused"));
    let (mut stream, answer) = gateway.ask(&get("/").replace("origin.test", "refused.test")).await;
    assert_eq!((answer.status, answer.code()), (502, "upstream_refused"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(rest(&mut stream).await, b"");
    // Even while an upload is under way.
    let body = "x".repeat(30_000);
    let upload = request("POST", "/", "Content-Length: 3000000\r\n").replace("origin.test", "nx.test");
    let (_stream, answer) = gateway.ask(&(upload + &body)).await;
    assert_eq!((answer.status, answer.code()), (502, "upstream_dns"));
    // A pod that goes away while its origin is silent.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    pod.route("silent.test:80", Route::To(listener.local_addr().unwrap()));
    let asked = gateway.connect().await;
    let mut asked = asked;
    asked.write_all(get("/").replace("origin.test", "silent.test").as_bytes()).await.unwrap();
    let (_held, _) = listener.accept().await.unwrap();
    pod.exit.gone.cancel();
    assert_eq!(super::rig::answer(&mut asked).await.code(), "exit_unhealthy");
}

#[tokio::test]
async fn a_held_request_ends_with_its_client() {
    let gateway = Gateway::start(None);
    let mut stream = gateway.connect().await;
    stream.write_all(get("/").as_bytes()).await.unwrap();
    gateway.table.until_waiting(1).await;
    drop(stream);
    gateway.table.until_waiting(0).await;
    eventually("its record", || gateway.requests("http", "client_gone") == 1).await;
}
