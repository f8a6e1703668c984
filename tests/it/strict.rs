//! HTTP taken to the letter: one verdict for each way to be wrong, whichever reader of the gateway sees it
//! (a connection's first head, one after a challenge, one after other requests), and nothing of what
//! stands behind it served.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::http::{basic, connect_head, read_answer};
use crate::support::{Answer, Gateway, PASSWORD, PATIENCE, World};

const USER: &str = "demo-country-se";

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// 400 `not_a_proxy_request`: the message is no HTTP, or no request for a proxy.
    Message,
    /// 400 `bad_target`: it asks for something that is nowhere.
    Target,
    /// 431 `head_too_large`.
    TooLarge,
    /// It is served.
    Served,
}
use Verdict::{Message, Served, Target, TooLarge};

/// The rule, the request, the verdict. `AUTH` stands for the line with the credentials.
const TABLE: &[(&str, &str, Verdict)] = &[
    // Lines and fields.
    ("RFC 9112, 2.2: bare LF", "GET http://origin.test/ HTTP/1.1\nHost: origin.test\nAUTH\n", Message),
    (
        "RFC 9112, 2.2: one bare LF",
        "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\nAUTH\r\n",
        Message,
    ),
    (
        "RFC 9112, 2.2: bare CR",
        "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nX: a\rb\r\nAUTH\r\n",
        Message,
    ),
    (
        "RFC 9112, 2.2: bare CR in the request line",
        "GET http://origin.test/\rHTTP/1.1\r\nHost: origin.test\r\nAUTH\r\n",
        Message,
    ),
    (
        "RFC 9112, 2.2: space before the first field",
        "GET http://origin.test/ HTTP/1.1\r\n X: a\r\nHost: origin.test\r\nAUTH\r\n",
        Message,
    ),
    (
        "RFC 9112, 2.2: empty lines before a request",
        "\r\n\r\nGET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nAUTH\r\n",
        Served,
    ),
    (
        "RFC 9112, 5.1: space before the colon",
        "GET http://origin.test/ HTTP/1.1\r\nHost : origin.test\r\nAUTH\r\n",
        Message,
    ),
    (
        "RFC 9112, 5.1: tab before the colon",
        "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nX\t: a\r\nAUTH\r\n",
        Message,
    ),
    (
        "RFC 9112, 5.2: obs-fold",
        "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nX: a\r\n b\r\nAUTH\r\n",
        Message,
    ),
    (
        "RFC 9112, 5.2: obs-fold by tab",
        "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nX: a\r\n\tb\r\nAUTH\r\n",
        Message,
    ),
    (
        "RFC 9110, 5.1: empty name",
        "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n: a\r\nAUTH\r\n",
        Message,
    ),
    (
        "RFC 9110, 5.6.2: a name that is no token",
        "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nX(: a\r\nAUTH\r\n",
        Message,
    ),
    (
        "RFC 9112, 5: no colon",
        "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nX\r\nAUTH\r\n",
        Message,
    ),
    (
        "RFC 9110, 5.5: NUL",
        "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nX: a\0b\r\nAUTH\r\n",
        Message,
    ),
    (
        "RFC 9110, 5.5: vertical tab",
        "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nX: a\x0bb\r\nAUTH\r\n",
        Message,
    ),
    (
        "RFC 9110, 5.5: DEL",
        "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nX: a\x7f\r\nAUTH\r\n",
        Message,
    ),
    (
        "RFC 9110, 5.5: tab and obs-text",
        "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nX: a\tb\u{e4}\r\nAUTH\r\n",
        Served,
    ),
    // The request line.
    (
        "RFC 9112, 3: two spaces",
        "GET  http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nAUTH\r\n",
        Message,
    ),
    (
        "RFC 9112, 3: a tab for a space",
        "GET\thttp://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nAUTH\r\n",
        Message,
    ),
    (
        "RFC 9112, 3: a space before the method",
        " GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nAUTH\r\n",
        Message,
    ),
    (
        "RFC 9112, 3.2: a space in the target",
        "GET http://origin.test/a b HTTP/1.1\r\nHost: origin.test\r\nAUTH\r\n",
        Message,
    ),
    (
        "RFC 9112, 3.1: a method that is no token",
        "G(T http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nAUTH\r\n",
        Message,
    ),
    (
        "RFC 9110, 9.1: a method that nobody knows",
        "FROB http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nAUTH\r\n",
        Served,
    ),
    ("RFC 9112, 2.3: no version", "GET http://origin.test/\r\nHost: origin.test\r\nAUTH\r\n", Message),
    ("RFC 9112, 2.3: HTTP/2.0", "GET http://origin.test/ HTTP/2.0\r\nHost: origin.test\r\nAUTH\r\n", Message),
    ("RFC 9112, 2.3: HTTP/1.2", "GET http://origin.test/ HTTP/1.2\r\nHost: origin.test\r\nAUTH\r\n", Message),
    (
        "RFC 9112, 2.3: the version in small letters",
        "GET http://origin.test/ http/1.1\r\nHost: origin.test\r\nAUTH\r\n",
        Message,
    ),
    // Host.
    ("RFC 9112, 3.2: no Host", "GET http://origin.test/ HTTP/1.1\r\nAUTH\r\n", Message),
    (
        "RFC 9112, 3.2: two Hosts",
        "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nHost: origin.test\r\nAUTH\r\n",
        Message,
    ),
    (
        "RFC 9112, 3.2: Host is a list",
        "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test, a.test\r\nAUTH\r\n",
        Message,
    ),
    (
        "RFC 9112, 3.2: Host with a user",
        "GET http://origin.test/ HTTP/1.1\r\nHost: u@origin.test\r\nAUTH\r\n",
        Message,
    ),
    (
        "RFC 9112, 3.2: no Host in HTTP/1.0",
        "GET http://origin.test/ HTTP/1.0\r\nConnection: keep-alive\r\nAUTH\r\n",
        Served,
    ),
    (
        "RFC 9112, 3.2.2: Host is not the target's",
        "GET http://origin.test/ HTTP/1.1\r\nHost: other.test\r\nAUTH\r\n",
        Served,
    ),
    // Targets.
    (
        "RFC 9112, 3.2: fragment",
        "GET http://origin.test/#a HTTP/1.1\r\nHost: origin.test\r\nAUTH\r\n",
        Target,
    ),
    (
        "RFC 9112, 3.2: fragment behind the host",
        "GET http://origin.test#a HTTP/1.1\r\nHost: origin.test\r\nAUTH\r\n",
        Target,
    ),
    (
        "RFC 9110, 4.2.4: a user in the target",
        "GET http://u:p@origin.test/ HTTP/1.1\r\nHost: origin.test\r\nAUTH\r\n",
        Target,
    ),
    (
        "RFC 3986, 3.2.3: port 0",
        "GET http://origin.test:0/ HTTP/1.1\r\nHost: origin.test\r\nAUTH\r\n",
        Target,
    ),
    (
        "RFC 3986, 3.2.3: port 65536",
        "GET http://origin.test:65536/ HTTP/1.1\r\nHost: origin.test\r\nAUTH\r\n",
        Target,
    ),
    (
        "RFC 3986, 3.2.3: a port with a sign",
        "GET http://origin.test:+80/ HTTP/1.1\r\nHost: origin.test\r\nAUTH\r\n",
        Target,
    ),
    ("RFC 9110, 4.2.1: an empty host", "GET http:///a HTTP/1.1\r\nHost: origin.test\r\nAUTH\r\n", Target),
    (
        "RFC 9112, 3.2.2: another scheme",
        "GET https://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nAUTH\r\n",
        Target,
    ),
    (
        "RFC 9112, 3.2.3: authority-form without CONNECT",
        "GET origin.test:80 HTTP/1.1\r\nHost: origin.test\r\nAUTH\r\n",
        Target,
    ),
    ("RFC 9112, 3.2.1: origin-form", "GET / HTTP/1.1\r\nHost: origin.test\r\nAUTH\r\n", Message),
    ("RFC 9112, 3.2.4: asterisk-form", "OPTIONS * HTTP/1.1\r\nHost: origin.test\r\nAUTH\r\n", Message),
    // Framing.
    (
        "RFC 9112, 6.3: two lengths",
        "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 3\r\nContent-Length: 4\r\nAUTH\r\nabc",
        Message,
    ),
    (
        "RFC 9112, 6.3: one length twice",
        "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 3\r\nContent-Length: 3\r\nAUTH\r\nabc",
        Message,
    ),
    (
        "RFC 9112, 6.3: a list of lengths",
        "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 3, 3\r\nAUTH\r\nabc",
        Message,
    ),
    (
        "RFC 9110, 8.6: a length with a sign",
        "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nContent-Length: +3\r\nAUTH\r\nabc",
        Message,
    ),
    (
        "RFC 9110, 8.6: a hexadecimal length",
        "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 0x3\r\nAUTH\r\nabc",
        Message,
    ),
    (
        "RFC 9110, 8.6: no length",
        "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nContent-Length:\r\nAUTH\r\nabc",
        Message,
    ),
    (
        "RFC 9110, 8.6: over 64 bits",
        "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 18446744073709551616\r\nAUTH\r\nabc",
        Message,
    ),
    (
        "RFC 9112, 6.1: both framings",
        "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\nAUTH\r\n0\r\n\r\n",
        Message,
    ),
    (
        "RFC 9112, 6.1: both the other way round",
        "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\nAUTH\r\n0\r\n\r\n",
        Message,
    ),
    (
        "RFC 9112, 6.1: chunked twice",
        "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\nAUTH\r\n0\r\n\r\n",
        Message,
    ),
    (
        "RFC 9112, 6.1: chunked, not last",
        "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nTransfer-Encoding: chunked, identity\r\nAUTH\r\n0\r\n\r\n",
        Message,
    ),
    (
        "RFC 9112, 6.1: another coding",
        "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nTransfer-Encoding: gzip, chunked\r\nAUTH\r\n0\r\n\r\n",
        Message,
    ),
    (
        "RFC 9112, 6.1: a coding that is nearly it",
        "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nTransfer-Encoding: xchunked\r\nAUTH\r\n0\r\n\r\n",
        Message,
    ),
    (
        "RFC 9112, 6.1: hidden by a space",
        "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nTransfer-Encoding : chunked\r\nContent-Length: 5\r\nAUTH\r\n0\r\n\r\n",
        Message,
    ),
    (
        "RFC 9112, 6.1: chunked in HTTP/1.0",
        "POST http://origin.test/ HTTP/1.0\r\nHost: origin.test\r\nTransfer-Encoding: chunked\r\nAUTH\r\n0\r\n\r\n",
        Message,
    ),
    (
        "RFC 9112, 6.2: a length that is right",
        "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 3\r\nAUTH\r\nabc",
        Served,
    ),
    // Chunks.
    (
        "RFC 9112, 7.1: chunks",
        "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nTransfer-Encoding: chunked\r\nAUTH\r\n3\r\nabc\r\n0\r\n\r\n",
        Served,
    ),
    (
        "RFC 9112, 7.1.1: an extension",
        "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nTransfer-Encoding: chunked\r\nAUTH\r\n3;a=\"b\"\r\nabc\r\n0\r\n\r\n",
        Served,
    ),
    (
        "RFC 9112, 7.1.1: a bare LF in an extension",
        "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nTransfer-Encoding: chunked\r\nAUTH\r\n3;a\nabc\r\n0\r\n\r\n",
        Message,
    ),
    (
        "RFC 9112, 7.1: a size with a prefix",
        "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nTransfer-Encoding: chunked\r\nAUTH\r\n0x3\r\nabc\r\n0\r\n\r\n",
        Message,
    ),
    (
        "RFC 9112, 7.1: a size with a space",
        "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nTransfer-Encoding: chunked\r\nAUTH\r\n3 \r\nabc\r\n0\r\n\r\n",
        Message,
    ),
    (
        "RFC 9112, 7.1: a size over 64 bits",
        "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nTransfer-Encoding: chunked\r\nAUTH\r\n10000000000000003\r\nabc\r\n0\r\n\r\n",
        Message,
    ),
    (
        "RFC 9112, 7.1: a size that is not kept",
        "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nTransfer-Encoding: chunked\r\nAUTH\r\n2\r\nabc\r\n0\r\n\r\n",
        Message,
    ),
    (
        "RFC 9112, 7.1: a bare LF behind a size",
        "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nTransfer-Encoding: chunked\r\nAUTH\r\n3\nabc\r\n0\r\n\r\n",
        Message,
    ),
    // CONNECT.
    (
        "RFC 9110, 9.3.6: CONNECT",
        "CONNECT echo-origin.test:7 HTTP/1.1\r\nHost: echo-origin.test:7\r\nAUTH\r\n",
        Served,
    ),
    (
        "RFC 9110, 9.3.6: a length of nothing",
        "CONNECT echo-origin.test:7 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nAUTH\r\n",
        Served,
    ),
    (
        "RFC 9110, 9.3.6: a body",
        "CONNECT echo-origin.test:7 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nAUTH\r\nabc",
        Message,
    ),
    (
        "RFC 9110, 9.3.6: a body in chunks",
        "CONNECT echo-origin.test:7 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nAUTH\r\n0\r\n\r\n",
        Message,
    ),
    (
        "RFC 9112, 6.1: both framings of a CONNECT",
        "CONNECT echo-origin.test:7 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\nAUTH\r\n",
        Message,
    ),
    ("RFC 9112, 3.2: CONNECT without Host", "CONNECT echo-origin.test:7 HTTP/1.1\r\nAUTH\r\n", Message),
    (
        "RFC 9112, 3.2: CONNECT with two Hosts",
        "CONNECT echo-origin.test:7 HTTP/1.1\r\nHost: a\r\nHost: b\r\nAUTH\r\n",
        Message,
    ),
    ("RFC 9112, 3.2: CONNECT of HTTP/1.0", "CONNECT echo-origin.test:7 HTTP/1.0\r\nAUTH\r\n", Served),
    (
        "RFC 9112, 5.2: obs-fold in a CONNECT",
        "CONNECT echo-origin.test:7 HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\nAUTH\r\n",
        Message,
    ),
    (
        "RFC 9112, 2.2: bare LF in a CONNECT",
        "CONNECT echo-origin.test:7 HTTP/1.1\nHost: a\r\nAUTH\r\n",
        Message,
    ),
    (
        "RFC 9112, 5.1: space before the colon of a CONNECT",
        "CONNECT echo-origin.test:7 HTTP/1.1\r\nHost : a\r\nAUTH\r\n",
        Message,
    ),
    (
        "RFC 9110, 5.5: NUL in a CONNECT",
        "CONNECT echo-origin.test:7 HTTP/1.1\r\nHost: a\r\nX: \0\r\nAUTH\r\n",
        Message,
    ),
    ("RFC 9110, 9.3.6: no port", "CONNECT echo-origin.test HTTP/1.1\r\nHost: a\r\nAUTH\r\n", Target),
    ("RFC 9110, 9.3.6: an empty port", "CONNECT echo-origin.test: HTTP/1.1\r\nHost: a\r\nAUTH\r\n", Target),
    ("RFC 9110, 9.3.6: port 0", "CONNECT echo-origin.test:0 HTTP/1.1\r\nHost: a\r\nAUTH\r\n", Target),
    ("RFC 9110, 9.3.6: port 65536", "CONNECT echo-origin.test:65536 HTTP/1.1\r\nHost: a\r\nAUTH\r\n", Target),
    ("RFC 9112, 3.2.3: a user", "CONNECT u:p@echo-origin.test:7 HTTP/1.1\r\nHost: a\r\nAUTH\r\n", Target),
    ("RFC 9112, 3.2.3: a path", "CONNECT echo-origin.test:7/ HTTP/1.1\r\nHost: a\r\nAUTH\r\n", Target),
    ("RFC 9112, 3.2.3: a fragment", "CONNECT echo-origin.test:7#a HTTP/1.1\r\nHost: a\r\nAUTH\r\n", Target),
    (
        "RFC 9112, 3.2.3: absolute-form",
        "CONNECT http://echo-origin.test:7 HTTP/1.1\r\nHost: a\r\nAUTH\r\n",
        Target,
    ),
    (
        "RFC 9112, 3.2.3: a host outside of ASCII",
        "CONNECT \u{e9}cho.test:7 HTTP/1.1\r\nHost: a\r\nAUTH\r\n",
        Target,
    ),
    (
        "RFC 9110, 9.1: methods have a case",
        "connect echo-origin.test:7 HTTP/1.1\r\nHost: a\r\nAUTH\r\n",
        Target,
    ),
];

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
