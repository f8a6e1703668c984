//! The short way of plain HTTP: its pool, its one buffer, its ends, and in `both_ways` that it does what hyper's does.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::rig::{answer, ask, rest};
use super::*;
use crate::drain::Phase;

mod both_ways;

/// What an origin does with each request.
#[derive(Clone, Debug, Default)]
struct Script {
    /// The answer, in the pieces that it is written in.
    pieces: Vec<Vec<u8>>,
    /// Whether it closes then.
    close: bool,
}

#[derive(Clone)]
struct Origin {
    addr: SocketAddr,
    script: Arc<Mutex<Script>>,
    /// The heads that it got, and on how many connections.
    heads: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<usize>>,
    ended: Arc<Mutex<usize>>,
}

impl Origin {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = Self {
            addr: listener.local_addr().unwrap(),
            script: Arc::default(),
            heads: Arc::default(),
            connections: Arc::default(),
            ended: Arc::default(),
        };
        let serving = origin.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                *serving.connections.lock().unwrap() += 1;
                let serving = serving.clone();
                tokio::spawn(async move {
                    serving.serve(stream).await;
                    *serving.ended.lock().unwrap() += 1;
                });
            }
        });
        origin
    }

    fn says(&self, answer: &[u8], close: bool) {
        *self.script.lock().unwrap() = Script { pieces: vec![answer.to_vec()], close };
    }

    async fn serve(&self, mut stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => return,
                }
            }
            let head = String::from_utf8(head).unwrap();
            if head.to_lowercase().contains("content-length: 1\r\n") {
                stream.read_u8().await.unwrap();
            }
            self.heads.lock().unwrap().push(head);
            let script = self.script.lock().unwrap().clone();
            for piece in &script.pieces {
                if stream.write_all(piece).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
            if script.close {
                return;
            }
        }
    }
}

/// A pod with an origin behind `origin.test`, and one data thread: idle tunnels are kept by each for itself.
async fn world(change: impl FnOnce(&mut super::super::Shared)) -> (Pod, Origin, Gateway) {
    let (pod, origin) = (Pod::start().await, Origin::start().await);
    pod.route("origin.test:80", Route::To(origin.addr));
    let gateway = Gateway::threads(1, Some(&pod), |shared| {
        shared.timings.linger = Duration::from_millis(200);
        change(shared);
    });
    (pod, origin, gateway)
}

fn request(method: &str, rest: &str, headers: &str) -> String {
    let auth = basic("demo", "open:sesame");
    format!("{method} http://origin.test{rest} HTTP/1.1\r\nHost: origin.test\r\n{auth}{headers}\r\n")
}

const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

#[tokio::test]
async fn tunnels_are_shared_and_those_that_ended_are_not_used() {
    let (pod, origin, gateway) = world(|_| {}).await;
    origin.says(HELLO, false);
    let (mut one, _) = gateway.ask(&request("GET", "/", "")).await;
    let (mut two, _) = gateway.ask(&request("GET", "/", "")).await;
    assert_eq!(*origin.connections.lock().unwrap(), 1);
    // The origin says nothing of it, and closes: the next request goes out once.
    origin.says(HELLO, true);
    assert_eq!(ask(&mut one, &request("GET", "/", "")).await.text(), "hello");
    eventually("its end", || *origin.ended.lock().unwrap() == 1).await;
    origin.says(HELLO, false);
    assert_eq!(ask(&mut two, &request("GET", "/", "")).await.text(), "hello");
    assert_eq!((origin.heads.lock().unwrap().len(), pod.heads().len()), (4, 2));
    // What is behind an answer is nobody's.
    origin.says(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n\r\n", false);
    assert_eq!(ask(&mut one, &request("GET", "/", "")).await.text(), "hello");
    origin.says(HELLO, false);
    assert_eq!(ask(&mut one, &request("GET", "/", "")).await.text(), "hello");
    assert_eq!(*origin.connections.lock().unwrap(), 3);
}

#[tokio::test]
async fn idle_tunnels_do_not_outlive_their_time_nor_their_exit() {
    let (pod, origin, gateway) = world(|shared| shared.timings.pooled = Duration::from_millis(100)).await;
    origin.says(HELLO, false);
    let (mut stream, _) = gateway.ask(&request("GET", "/", "")).await;
    eventually("the end of the idle tunnel", || *origin.ended.lock().unwrap() == 1).await;
    assert_eq!(ask(&mut stream, &request("GET", "/", "")).await.status, 200);
    assert_eq!(pod.heads().len(), 2);
    let (pod, origin, gateway) = world(|_| {}).await;
    origin.says(HELLO, false);
    let (_stream, _) = gateway.ask(&request("GET", "/", "")).await;
    pod.exit.gone.cancel();
    eventually("the end of the exit's idle tunnel", || *origin.ended.lock().unwrap() == 1).await;
}

#[tokio::test]
async fn an_answer_comes_in_pieces_of_any_size_and_at_the_readers_pace() {
    let (_pod, origin, gateway) = world(|_| {}).await;
    let content: Vec<u8> = (0..20_000_000_u32).map(|n| (n >> 7) as u8).collect();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", content.len());
    let mut chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for chunk in content.chunks(100_000) {
        chunked.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        chunked.extend_from_slice(chunk);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let until_end = [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &content].concat();
    let mut stream = gateway.connect().await;
    // Else the kernel takes as much as it likes on the reader's behalf: up to 32 MiB.
    socket2::SockRef::from(&stream).set_recv_buffer_size(256 * 1024).unwrap();
    for (bytes, close) in [
        ([head.as_bytes(), &content].concat(), false),
        (chunked, false),
        (until_end, true),
        (HELLO.to_vec(), false),
    ] {
        let hello = bytes == HELLO;
        origin.says(&bytes, close);
        stream.write_all(request("GET", "/", "").as_bytes()).await.unwrap();
        // Nothing is read for a while: the origin is held up, and the gateway keeps a buffer's worth.
        stream.readable().await.unwrap();
        let begun = gateway.metrics().bytes.with_label_values(&["down"]).get();
        if !hello {
            let down = || gateway.metrics().bytes.with_label_values(&["down"]).get();
            let mut before = begun;
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                if down() == before {
                    break;
                }
                before = down();
            }
            assert!(before - begun < 16_000_000, "{}", before - begun);
        }
        let answer = answer(&mut stream).await;
        assert!(answer.body == if hello { b"hello" } else { &content[..] }, "{}", answer.head);
    }
    eventually("their records", || gateway.requests("http", "ok") == 4).await;
}

#[tokio::test]
async fn requests_behind_one_another_are_answered_in_their_order() {
    let (pod, origin, gateway) = world(|_| {}).await;
    origin.says(HELLO, false);
    let mut stream = gateway.connect().await;
    let many: String = (0..200).map(|n| request("GET", &format!("/{n}"), "")).collect();
    // The last is of another kind, and a CONNECT follows it.
    pod.route("echo.test:7", Route::To(echo().await));
    let post = request("POST", "/post", "Content-Length: 1\r\n") + "x";
    let all = many + &post + &super::rig::connect("echo.test:7", "demo");
    let (mut input, mut output) = stream.split();
    let write = async { output.write_all(all.as_bytes()).await.unwrap() };
    let read = async {
        let mut bytes = Vec::new();
        while !(bytes.ends_with(b"\r\n\r\n") && String::from_utf8_lossy(&bytes).contains("x-gateway-exit:")) {
            assert!(input.read_buf(&mut bytes).await.unwrap() > 0);
        }
        assert_eq!(bytes.windows(5).filter(|w| w == b"hello").count(), 201);
    };
    tokio::join!(write, read);
    let paths: Vec<String> =
        origin.heads.lock().unwrap().iter().map(|head| head.split(' ').nth(1).unwrap().to_owned()).collect();
    let expected: Vec<String> = (0..200).map(|n| format!("/{n}")).chain(["/post".to_owned()]).collect();
    assert_eq!(paths, expected);
    stream.write_all(b"ping").await.unwrap();
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"ping");
}

#[tokio::test]
async fn a_whole_answer_arrives_though_the_next_one_is_cut() {
    let (pod, origin, gateway) = world(|_| {}).await;
    let content = vec![7; 300_000];
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", content.len());
    origin.says(&[head.as_bytes(), &content].concat(), false);
    let cut = Origin::start().await;
    pod.route("cut.test:80", Route::To(cut.addr));
    cut.says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", true);
    // What is behind them is never read by the gateway as requests.
    let third = request("POST", "/", "Content-Length: 100000\r\n") + &"x".repeat(100_000);
    // The second one is also made the business of hyper.
    for (n, second) in
        [request("GET", "/", ""), request("POST", "/", "Content-Length: 1\r\n") + "x"].iter().enumerate()
    {
        let mut stream = gateway.connect().await;
        socket2::SockRef::from(&stream).set_recv_buffer_size(8192).unwrap();
        let second = second.replace("origin.test", "cut.test");
        stream.write_all((request("GET", "/", "") + &second + &third).as_bytes()).await.unwrap();
        eventually("the cut", || gateway.requests("http", "upstream_reset") == n as u64 + 1).await;
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        let whole = got.windows(content.len()).filter(|part| *part == content).count();
        assert_eq!((whole, got.ends_with(b"\r\n\r\nhello")), (1, true), "{} bytes", got.len());
    }
}

#[tokio::test]
async fn who_knows_no_chunks_does_not_take_a_cut_answer_for_a_whole_one() {
    let (_pod, origin, gateway) = world(|_| {}).await;
    let old = request("GET", "/", "").replace("HTTP/1.1", "HTTP/1.0");
    for (answer, whole) in [
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nhe", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\n\r\nhello", true),
        // Its length tells.
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", true),
    ] {
        origin.says(answer.as_bytes(), true);
        let mut stream = gateway.connect().await;
        stream.write_all(old.as_bytes()).await.unwrap();
        let mut got = Vec::new();
        let ended = stream.read_to_end(&mut got).await;
        assert_eq!(ended.is_ok(), whole, "{answer:?}: {ended:?}");
        assert!(!whole || got.ends_with(b"\r\n\r\nhello"), "{}", String::from_utf8_lossy(&got));
    }
}

#[tokio::test]
async fn a_drain_ends_connections_behind_their_answers() {
    let (pod, quick, gateway) = world(|_| {}).await;
    quick.says(HELLO, false);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    pod.route("slow.test:80", Route::To(listener.local_addr().unwrap()));
    let mut stream = gateway.connect().await;
    let slow = request("GET", "/", "").replace("origin.test", "slow.test");
    stream.write_all(slow.as_bytes()).await.unwrap();
    let (mut origin, _) = listener.accept().await.unwrap();
    origin.read_u8().await.unwrap();
    let (mut idle, _) = gateway.ask(&request("GET", "/", "")).await;
    gateway.shutdown.advance(Phase::Closing);
    assert_eq!(rest(&mut idle).await, b"");
    origin.write_all(HELLO).await.unwrap();
    let answer = answer(&mut stream).await;
    assert_eq!((answer.text(), answer.header("connection")), ("hello", Some("close")));
    assert_eq!(rest(&mut stream).await, b"");
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_with_it() {
    let (pod, _origin, gateway) = world(|_| {}).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    pod.route("slow.test:80", Route::To(listener.local_addr().unwrap()));
    let slow = request("GET", "/", "").replace("origin.test", "slow.test");
    let mut stream = gateway.connect().await;
    stream.write_all(slow.as_bytes()).await.unwrap();
    let (mut origin, _) = listener.accept().await.unwrap();
    origin.read_u8().await.unwrap();
    drop(stream);
    assert!(rest(&mut origin).await.ends_with(b"\r\n\r\n"));
    eventually("its record", || gateway.requests("http", "client_gone") == 1).await;
}

#[tokio::test]
async fn a_challenge_to_a_head_has_no_content() {
    let (_pod, origin, gateway) = world(|_| {}).await;
    origin.says(HELLO, false);
    let mut stream = gateway.connect().await;
    let bare = "HEAD http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n\r\n";
    stream.write_all(bare.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 407 "));
    let answer = ask(&mut stream, &request("GET", "/", "")).await;
    assert_eq!((answer.status, answer.text()), (200, "hello"));
}
