//! The short way of plain HTTP against hyper's: the same requests and the same origin's answers through both, and
//! what each end gets of them.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::config::Forwarding;

/// What a client gets of one answer.
#[derive(Debug, Default, PartialEq, Eq)]
struct Got {
    status: String,
    fields: BTreeSet<String>,
    body: Vec<u8>,
    /// Whether the answer came whole, and the connection goes on.
    whole: bool,
    open: bool,
}

/// Fields as they matter: of one name in their order. Names are the sender's own to the letter, save those
/// that the gateway writes.
fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    const OURS: [&str; 9] = [
        "via",
        "host",
        "x-forwarded-for",
        "x-gateway-request-id",
        "x-gateway-error",
        "transfer-encoding",
        "content-length",
        "connection",
        "proxy-status",
    ];
    let mut count = std::collections::HashMap::<String, usize>::new();
    let line = |line: &str| {
        let (name, value) = line.split_once(':').unwrap();
        let lower = name.to_lowercase();
        if lower == "trailer" {
            // A list may be one field or several.
            return format!("{lower}: {}", value.split(',').next().unwrap().trim());
        }
        let nth = count.entry(lower.clone()).or_default();
        *nth += 1;
        let name = if OURS.contains(&lower.as_str()) { lower.as_str() } else { name };
        let value = if lower == "x-gateway-request-id" { "ID" } else { value.trim() };
        format!("{name}#{nth}: {value}")
    };
    lines.filter(|line| !line.is_empty()).map(line).collect()
}

async fn receive(stream: &mut TcpStream, head_only: bool) -> Got {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => {
                assert!(head.is_empty(), "a head is whole: {:?}", String::from_utf8_lossy(&head));
                return Got::default();
            }
        }
    }
    let head = String::from_utf8(head).unwrap();
    let (status, lines) = head.split_once("\r\n").unwrap();
    let mut fields = fields(lines.split("\r\n"));
    let value =
        |name: &str| fields.iter().find_map(|f| f.strip_prefix(&format!("{name}#1: ")).map(str::to_owned));
    let code = &status[9..12];
    let none = head_only || code == "204" || code == "304";
    let (mut body, mut whole) = (Vec::new(), true);
    if none {
    } else if let Some(length) = value("content-length") {
        let mut left = length.parse::<usize>().unwrap();
        while left > 0 {
            let mut some = vec![0; left];
            match stream.read(&mut some).await {
                Ok(n) if n > 0 => {
                    body.extend_from_slice(&some[..n]);
                    left -= n;
                }
                _ => {
                    whole = false;
                    break;
                }
            }
        }
    } else {
        assert_eq!(value("transfer-encoding").as_deref(), Some("chunked"), "{head}");
        whole = chunks(stream, &mut body).await.is_some();
    }
    if !whole {
        // How much comes of what breaks off is chance.
        assert_eq!(rest(stream).await, b"");
        return Got::default();
    }
    let mut open = value("connection").as_deref() != Some("close");
    if value("x-gateway-error").is_some() {
        // Of the gateway's own answers the words are tested elsewhere.
        fields.retain(|field| field.starts_with("x-gateway-error"));
        body.clear();
        open = false;
    }
    if !open {
        assert_eq!(rest(stream).await, b"");
    }
    Got { status: status.to_owned(), fields, body, whole, open }
}

async fn chunks(stream: &mut TcpStream, body: &mut Vec<u8>) -> Option<()> {
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(stream.read_u8().await.ok()?);
        }
        let size = std::str::from_utf8(&line).unwrap().trim();
        let mut left = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("{size:?}"));
        let last = left == 0;
        while left > 0 {
            body.push(stream.read_u8().await.ok()?);
            left -= 1;
        }
        let mut end = Vec::new();
        while end.len() < 2 || (last && end != b"\r\n" && !end.ends_with(b"\r\n\r\n")) {
            end.push(stream.read_u8().await.ok()?);
        }
        if last {
            end.truncate(end.len() - 2);
            body.extend_from_slice(&end.to_ascii_lowercase());
            return Some(());
        }
        assert_eq!(end, b"\r\n");
    }
}

fn requests() -> impl Strategy<Value = (String, String, Vec<String>)> {
    let field = prop_oneof![
        "X-[A-Z]{1,2}: [ -~]{0,12}[!-~]",
        "x-a:",
        "Cookie: [a-z]{3}",
        Just("Accept: */*".to_owned()),
        Just("Connection: keep-alive".to_owned()),
        Just("connection: X-A, Keep-Alive,, cookie".to_owned()),
        Just("Connection: host, via".to_owned()),
        Just("Proxy-Connection: Keep-Alive".to_owned()),
        Just("Keep-Alive: timeout=5".to_owned()),
        Just("TE: gzip".to_owned()),
        Just("te: gzip, Trailers".to_owned()),
        Just("Via: 1.0 other".to_owned()),
        Just("X-Forwarded-For: 192.0.2.7".to_owned()),
        Just("Trailer: X-Sum".to_owned()),
        Just("Proxy-Authenticate: Basic".to_owned()),
        Just("If-None-Match: \"\u{e4}\"".to_owned()),
    ];
    (
        prop_oneof![4 => Just("GET"), 2 => Just("HEAD"), 1 => Just("OPTIONS"), 1 => Just("TRACE"), 1 => Just("PUT"), 1 => Just("DELETE")],
        "(/[a-z0-9.%~!@:'()*+,;=$&_|-]{0,8}){0,3}(\\?[a-z=&/?@%]{0,8})?",
        prop::collection::vec(field, 0..8),
    )
        // hyper does not tell a path that is empty from one that is "/"; a rewritten OPTIONS has to.
        .prop_filter("a path", |(method, rest, _)| *method != "OPTIONS" || rest.starts_with(['/', '?']))
        .prop_map(|(method, rest, fields)| (method.to_owned(), rest, fields))
}

/// Answers, good and bad: the bytes, and whether the origin closes behind them.
fn answers() -> impl Strategy<Value = (Vec<u8>, bool)> {
    let field = prop_oneof![
        "X-[A-Z]{1,2}: [ -~]{0,12}[!-~]",
        "Set-Cookie: [a-z]{3}",
        Just("X-Hop: 1".to_owned()),
        Just("Empty:".to_owned()),
        Just("Date: Tue, 25 Nov 2025 08:00:00 GMT".to_owned()),
        Just("Connection: x-hop".to_owned()),
        Just("connection: Content-Length, keep-alive".to_owned()),
        Just("Connection: close".to_owned()),
        Just("Keep-Alive: timeout=5".to_owned()),
        Just("Proxy-Authenticate: Basic".to_owned()),
        Just("Upgrade: h2c".to_owned()),
        Just("TE: trailers".to_owned()),
        Just("Trailer: X-Sum".to_owned()),
        Just("Via: 1.1 cdn".to_owned()),
        Just("X-Gateway-Error: forged".to_owned()),
        Just("x-gateway-Request-id: forged".to_owned()),
        Just("Proxy-Status: cdn; hit".to_owned()),
        Just("proxy-status: GLUETUN-gateway; error=x".to_owned()),
    ];
    // The framing, the body, and whether only the end of the connection ends it.
    let framed = prop_oneof![
        6 => "[a-z]{0,20}".prop_map(|b| (format!("Content-Length: {}\r\n", b.len()), b, false)),
        1 => Just(("Content-Length: 70000\r\n".to_owned(), "x".repeat(70_000), false)),
        1 => Just(("Content-Length: 3\r\ncontent-length: 3\r\n".to_owned(), "abc".to_owned(), false)),
        1 => Just(("Content-Length: 3, 03\r\n".to_owned(), "abc".to_owned(), false)),
        1 => Just(("Content-Length: 3, 4\r\n".to_owned(), "abc".to_owned(), true)),
        1 => Just(("Content-Length: +3\r\n".to_owned(), "abc".to_owned(), true)),
        1 => Just(("Content-Length: 30\r\n".to_owned(), "abc".to_owned(), true)),
        2 => "[a-z]{0,20}".prop_map(|b| (String::new(), b, true)),
        1 => "[a-z]{0,20}".prop_map(|b| ("Transfer-Encoding: gzip\r\n".to_owned(), b, true)),
        4 => prop::collection::vec(("[a-z]{1,20}", prop_oneof![Just(""), Just(" "), Just(";a=b")]), 0..4).prop_map(|chunks| {
            let mut body: String =
                chunks.iter().map(|(data, x)| format!("{:X}{x}\r\n{data}\r\n", data.len())).collect();
            body.push_str("0\r\nX-Sum: 1\r\n\r\n");
            ("Transfer-Encoding: chunked\r\n".to_owned(), body, false)
        }),
        1 => Just(("Transfer-Encoding: gzip, chunked\r\nContent-Length: 9\r\n".to_owned(), "2\r\nab\r\n0\r\n\r\n".to_owned(), false)),
        1 => Just(("Transfer-Encoding: chunked\r\n".to_owned(), "2\r\nabX".to_owned(), true)),
        1 => Just(("Transfer-Encoding: chunked\r\n".to_owned(), "5\r\nab".to_owned(), true)),
    ];
    let version = prop_oneof![5 => Just("1.1"), 1 => Just("1.0")];
    let status = prop_oneof![
        5 => Just("200 OK"), 1 => Just("200 Fine"), 1 => Just("204 No Content"), 1 => Just("304 Not Modified"),
        1 => Just("299 "), 1 => Just("404 Not Found"), 1 => Just("500 Internal Server Error"), 1 => Just("407 X"),
        1 => Just("101 Switching Protocols"), 1 => Just("099 X"), 1 => Just("999 ?"),
    ];
    let before = prop_oneof![
        6 => Just(""), 1 => Just("HTTP/1.1 100 Continue\r\n\r\n"), 1 => Just("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
        1 => Just("\r\n"), 1 => Just("SSH-2.0-x\r\n"),
    ];
    (before, version, status, prop::collection::vec(field, 0..7), framed).prop_map(
        |(before, version, status, fields, (framing, body, close))| {
            let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
            let none = status.starts_with("204") || status.starts_with("304");
            let body = if none { String::new() } else { body };
            let close = close
                || version == "1.0"
                || status.starts_with("101")
                || status.starts_with("099")
                || before.starts_with("SSH")
                || fields.contains("close");
            (format!("{before}HTTP/{version} {status}\r\n{fields}{framing}\r\n{body}").into_bytes(), close)
        },
    )
}

/// A connection on which `direct` answers, or on which it has given up for hyper.
async fn connection(gateway: &Gateway, origin: &Origin, by_hyper: bool) -> TcpStream {
    if !by_hyper {
        return gateway.connect().await;
    }
    origin.says(HELLO, false);
    let upload = request("POST", "/", "Content-Length: 1\r\n") + "x";
    let (stream, answer) = gateway.ask(&upload).await;
    assert_eq!(answer.status, 200);
    stream
}

#[test]
fn both_ways_of_plain_http_do_the_same() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let forwarding = Forwarding { via: true, forwarded_for: true };
    let (_pod, origin, gateway) = runtime.block_on(world(|shared| shared.forwarding = forwarding));
    let kept = Mutex::new([None, None]);
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |((method, rest, fields_sent) in requests(), (bytes, close) in answers(), cut in 1_usize..200)| {
        let headers: String = fields_sent.iter().map(|field| format!("{field}\r\n")).collect();
        let request = request(&method, &rest, &headers);
        // A HEAD has no content, whatever is said of it.
        let end = bytes.windows(4).enumerate().filter(|(_, w)| w == b"\r\n\r\n").map(|(at, _)| at + 4);
        let interim = bytes.starts_with(b"HTTP/1.1 10") && !bytes.starts_with(b"HTTP/1.1 101");
        let head_end = end.clone().nth(usize::from(interim)).unwrap();
        let bytes = if method == "HEAD" { bytes[..head_end].to_vec() } else { bytes };
        let script = Script { pieces: bytes.chunks(cut).take(3).map(<[u8]>::to_vec).collect(), close };
        let mut script = script;
        let sent: usize = script.pieces.iter().map(Vec::len).sum();
        script.pieces.push(bytes[sent..].to_vec());
        let outcome: Vec<_> = [false, true].into_iter().map(|by_hyper| {
            let stream = kept.lock().unwrap()[usize::from(by_hyper)].take();
            runtime.block_on(async {
                let mut stream = match stream {
                    Some(stream) => stream,
                    None => connection(&gateway, &origin, by_hyper).await,
                };
                *origin.script.lock().unwrap() = script.clone();
                origin.heads.lock().unwrap().clear();
                stream.write_all(request.as_bytes()).await.unwrap();
                let got = tokio::time::timeout(Duration::from_secs(20), receive(&mut stream, method == "HEAD"));
                let got = got.await.expect("an answer");
                let heads = std::mem::take(&mut *origin.heads.lock().unwrap());
                let head = heads.last().expect("a request").clone();
                let (line, lines) = head.split_once("\r\n").unwrap();
                let seen = (line.to_owned(), fields(lines.split("\r\n")), heads.len());
                if got.open {
                    kept.lock().unwrap()[usize::from(by_hyper)] = Some(stream);
                }
                (seen, got)
            })
        }).collect();
        prop_assert_eq!(&outcome[0], &outcome[1], "{}\n{}", request, String::from_utf8_lossy(&bytes));
    });
}
