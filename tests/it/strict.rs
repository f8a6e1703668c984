//! HTTP taken to the letter: one verdict for each way to be wrong, whichever reader of the gateway sees it
//! (a connection's first head, one after a challenge, one after other requests), and nothing of what
//! stands behind it served.

mod table;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::http::{basic, connect_head, read_answer};
use crate::support::{Answer, Gateway, PASSWORD, PATIENCE, World};
use table::TABLE;
use table::Verdict::{self, Message, Served, Target, TooLarge};

const USER: &str = "demo-country-se";

/// Which reader of the gateway gets the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    /// That of a connection's first head.
    First,
    /// The same, after a challenge.
    Challenged,
    /// That of requests behind a plain one.
    Later,
}

async fn ready(gateway: &Gateway, reader: Reader) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.proxy).await.unwrap();
    let before = match reader {
        Reader::First => return stream,
        Reader::Challenged => "CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\n\r\n".to_owned(),
        Reader::Later => with_auth("GET http://origin.test/before HTTP/1.1\r\nHost: origin.test\r\nAUTH\r\n"),
    };
    stream.write_all(before.as_bytes()).await.unwrap();
    let answer = read_answer(&mut stream, &mut Vec::new(), false).await;
    assert_eq!(answer.status, if reader == Reader::Later { 200 } else { 407 });
    stream
}

fn with_auth(request: &str) -> String {
    request.replace("AUTH", &format!("Proxy-Authorization: {}\r\n", basic(USER, PASSWORD)))
}

fn verdict(answer: &Answer) -> Option<Verdict> {
    match (answer.status, answer.code()) {
        (400, "not_a_proxy_request") => Some(Message),
        (400, "bad_target") => Some(Target),
        (431, "head_too_large") => Some(TooLarge),
        (200, "") => Some(Served),
        _ => None,
    }
}

/// Everything until the end, which comes in time; a reset is an end too.
async fn rest(stream: &mut TcpStream, mut rest: Vec<u8>) -> String {
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("an end");
    String::from_utf8_lossy(&rest).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_verdict_each_whoever_reads_it() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    gateway.exit(USER).await;
    let long = format!("GET http://origin.test/ HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(20_000));
    let many = format!("GET http://origin.test/ HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(64));
    let limits: [(&str, &str, Verdict); 2] = [
        ("RFC 9110, 5.4: a head over 16 KiB", &long, TooLarge),
        ("RFC 9110, 5.4: over 64 fields", &many, TooLarge),
    ];
    let behind = with_auth("GET http://origin.test/smuggled HTTP/1.1\r\nHost: origin.test\r\nAUTH\r\n");
    let mut wrong = Vec::new();
    for (rule, request, expected) in TABLE.iter().copied().chain(limits) {
        for reader in [Reader::First, Reader::Challenged, Reader::Later] {
            let mut stream = ready(&gateway, reader).await;
            let connect = request.trim_start().starts_with("CONNECT");
            let mut bytes = with_auth(request).into_bytes();
            if expected != Served {
                bytes.extend_from_slice(behind.as_bytes());
            }
            stream.write_all(&bytes).await.unwrap();
            let mut kept = Vec::new();
            let answer = read_answer(&mut stream, &mut kept, connect).await;
            if verdict(&answer) != Some(expected) {
                wrong.push(format!("{rule} ({reader:?}): {} {}", answer.status, answer.text()));
                continue;
            }
            if expected == Served {
                if connect {
                    stream.write_all(b"ping").await.unwrap();
                    let mut back = [0; 4];
                    stream.read_exact(&mut back).await.unwrap();
                    assert_eq!(&back, b"ping", "{rule}");
                }
                continue;
            }
            assert_eq!(answer.json()["error"], answer.code(), "{rule}");
            assert_eq!(answer.header("connection"), "close", "{rule}");
            let more = rest(&mut stream, kept).await;
            assert_eq!(more, "", "{rule} ({reader:?}): something behind it was answered");
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let seen = world.origins.seen();
    assert!(!seen.iter().any(|head| head.contains("smuggled")), "a request that was smuggled was served");
    let hosts: Vec<_> =
        seen.iter().flat_map(|head| head.lines()).filter(|l| l.to_lowercase().starts_with("host:")).collect();
    assert!(hosts.len() >= 10 && hosts.iter().all(|host| host[5..].trim() == "origin.test"), "{hosts:?}");
    for head in &seen {
        assert!(!head.to_lowercase().contains("proxy-authorization"), "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_credentials_come_before_a_bad_target() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    for request in [
        "CONNECT a.test:99999 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a.test/#b HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let answer = crate::support::http::raw(gateway.proxy, request.as_bytes()).await;
        assert_eq!((answer.status, answer.code()), (407, "auth_required"), "{request}");
    }
}

on_both! {
    async fn it_does_not_matter_how_the_bytes_are_written(world) {
        let gateway = world.gateway(&[]).await;
        gateway.exit(USER).await;
        let get = |path: &str| with_auth(&format!("GET http://origin.test/{path} HTTP/1.1\r\nHost: origin.test\r\nAUTH\r\n"));
        let connect = connect_head(USER, PASSWORD, "echo-origin.test:7");
        // Two requests in one write, and a third before the answers are read.
        let mut stream = TcpStream::connect(gateway.proxy).await.unwrap();
        stream.write_all((get("one") + &get("two")).as_bytes()).await.unwrap();
        stream.write_all(get("three").as_bytes()).await.unwrap();
        let mut kept = Vec::new();
        for _ in 0..3 {
            let answer = read_answer(&mut stream, &mut kept, false).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
        }
        let paths: Vec<_> = world.origins.seen().iter().filter_map(|head| Some(head.split(' ').nth(1)?.to_owned())).collect();
        assert!(paths.ends_with(&["/one".to_owned(), "/two".to_owned(), "/three".to_owned()]), "{paths:?}");

        // Heads byte by byte, on both readers, with data that is sent before the 200.
        for before in ["", "GET"] {
            let mut stream = TcpStream::connect(gateway.proxy).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut bytes = if before.is_empty() { String::new() } else { get("slowly") };
            bytes += &connect;
            bytes += "early ";
            for byte in bytes.as_bytes() {
                stream.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            let mut kept = Vec::new();
            if !before.is_empty() {
                assert_eq!(read_answer(&mut stream, &mut kept, false).await.status, 200);
            }
            assert_eq!(read_answer(&mut stream, &mut kept, true).await.status, 200, "{before}");
            stream.write_all(b"and late").await.unwrap();
            while kept.len() < 14 {
                assert!(stream.read_buf(&mut kept).await.unwrap() > 0);
            }
            assert_eq!(kept, b"early and late", "{before}");
        }

        // A request, a CONNECT and its first data in one write.
        let mut stream = TcpStream::connect(gateway.proxy).await.unwrap();
        stream.write_all((get("with") + &connect + "data").as_bytes()).await.unwrap();
        let mut kept = Vec::new();
        assert_eq!(read_answer(&mut stream, &mut kept, false).await.text(), "hello");
        assert_eq!(read_answer(&mut stream, &mut kept, true).await.status, 200);
        while kept.len() < 4 {
            assert!(stream.read_buf(&mut kept).await.unwrap() > 0);
        }
        assert_eq!(kept, b"data");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_behind_a_connect_that_fails_is_never_a_request() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    gateway.exit(USER).await;
    let behind = with_auth("GET http://origin.test/behind HTTP/1.1\r\nHost: origin.test\r\nAUTH\r\n");
    for reader in [Reader::First, Reader::Later] {
        let mut stream = ready(&gateway, reader).await;
        // Challenged: what follows may be the data of the tunnel that the client hoped for.
        let bytes = format!("CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\n\r\n{behind}");
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut kept = Vec::new();
        assert_eq!(read_answer(&mut stream, &mut kept, true).await.code(), "auth_required");
        assert_eq!(rest(&mut stream, kept).await, "", "{reader:?}");
    }
    assert!(!world.origins.seen().iter().any(|head| head.contains("behind")));
}
