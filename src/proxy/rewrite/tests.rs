//! Tests of `rewrite`, which alone uses them: which requests are of the common kind, and that their heads and those of
//! their answers come out as hyper's way makes them.

use super::super::head::room;
use super::super::headers::HOP_BY_HOP;
use super::*;

const PLAIN: Forwarding = Forwarding { via: false, forwarded_for: false };
const ID: RequestId = RequestId::of(0x0123_4567_89ab_cdef);
const TURN: Turn = Turn { head: false, trailers: false, id: ID, forwarding: PLAIN, last: false };

fn rewritten(request: &str) -> Option<String> {
    let mut room = room();
    let common = common(request.as_bytes(), &mut room)?;
    let head = common.for_origin(PLAIN, "192.0.2.1".parse().unwrap());
    Some(String::from_utf8(head).unwrap())
}

#[test]
fn the_lists_of_fields_of_one_connection_are_one() {
    for name in HOP_BY_HOP {
        assert!(is_hop_by_hop(name.as_str()) && is_hop_by_hop(&name.as_str().to_uppercase()), "{name}");
    }
    let lengths: Vec<usize> = HOP_BY_HOP.iter().map(|name| name.as_str().len()).collect();
    for length in 0..40 {
        let any = "x".repeat(length);
        assert!(!is_hop_by_hop(&any));
        assert!(lengths.contains(&length) || !is_hop_by_hop(&any));
    }
}

#[test]
fn paths_are_those_that_other_readers_take_as_they_are() {
    for byte in (0..=255).filter(|byte| is_path(*byte)) {
        for url in [format!("http://a/{}b", char::from(byte)), format!("http://a/?{}b", char::from(byte))] {
            let uri: http::Uri = url.parse().unwrap_or_else(|_| panic!("{url}"));
            assert_eq!(uri.path_and_query().unwrap().as_str(), &url["http://a".len()..]);
        }
    }
    for byte in b"\0 \"#<>\\^`{}\x7f\x80\xff" {
        assert!(!is_path(*byte), "{byte}");
    }
}

#[test]
fn a_request_is_made_one_for_its_origin() {
    let request = "GET http://a.test:81/b?c=http://d/ HTTP/1.1\r\nAccept: */*\r\nHost: wrong\r\n\
                   Proxy-Authorization: Basic eA==\r\nproxy-connection: keep-alive\r\nX-CaSe:  kept \r\n\
                   Connection: keep-alive, X-Mine , te\r\nX-Mine: 1\r\nTE: gzip\r\nEmpty:\r\n\
                   Connection: other\r\nOther: 2\r\nCookie: a\r\nCookie: b\r\n\r\n";
    assert_eq!(
        rewritten(request).unwrap(),
        "GET /b?c=http://d/ HTTP/1.1\r\nHost: a.test:81\r\nAccept: */*\r\nX-CaSe: kept\r\nEmpty:\r\n\
         Cookie: a\r\nCookie: b\r\n\r\n"
    );
    for (line, made) in [
        ("GET http://a", "GET / "),
        ("GET http://a?b", "GET /?b "),
        ("HEAD http://a/", "HEAD / "),
        ("OPTIONS http://a", "OPTIONS * "),
        ("OPTIONS http://a/", "OPTIONS / "),
        ("OPTIONS http://a?", "OPTIONS /? "),
        ("DELETE http://[2001:db8::1]:8080/x", "DELETE /x "),
    ] {
        let head = rewritten(&format!("{line} HTTP/1.1\r\nHost: b\r\n\r\n")).unwrap();
        assert!(head.starts_with(made), "{line}: {head}");
    }
}

#[test]
fn what_the_gateway_is_told_to_add_comes_last() {
    let mut room = room();
    let request = b"GET http://a/ HTTP/1.1\r\nHost: a\r\nVia: 1.0 x\r\nX-Forwarded-For: y\r\n\r\n";
    let common = common(request, &mut room).unwrap();
    let forwarding = Forwarding { via: true, forwarded_for: true };
    let head = common.for_origin(forwarding, "::ffff:192.0.2.1".parse().unwrap());
    assert_eq!(
        String::from_utf8(head).unwrap(),
        "GET / HTTP/1.1\r\nHost: a\r\nVia: 1.0 x\r\nX-Forwarded-For: y\r\nVia: 1.1 gluetun-gateway\r\n\
         X-Forwarded-For: 192.0.2.1\r\n\r\n"
    );
    let mut out = Vec::new();
    let turn = Turn { forwarding, last: true, ..TURN };
    answer(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", turn, &mut out).unwrap();
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nVia: 1.0 gluetun-gateway\r\n\
         X-Gateway-Request-Id: 0123456789abcdef\r\nConnection: close\r\n\r\n"
    );
}

#[test]
fn other_kinds_of_requests_are_left() {
    for (line, fields) in [
        ("POST http://a/", ""),
        ("get http://a/", ""),
        ("CONNECT a:1", ""),
        ("GET /", ""),
        ("GET *", ""),
        ("GET HTTP://a/", ""),
        ("GET https://a/", ""),
        ("GET http://a/#b", ""),
        ("GET http://a/\"", ""),
        ("GET http://a/\u{e4}", ""),
        ("GET http://a:/", ""),
        ("GET http://a/", "Content-Length: 0\r\n"),
        ("PUT http://a/", "Content-Length: 1\r\n"),
        ("PUT http://a/", "Transfer-Encoding: chunked\r\n"),
        ("GET http://a/", "Upgrade: websocket\r\n"),
        ("GET http://a/", "EXPECT: 100-continue\r\n"),
        ("GET http://a/", "Connection: close\r\n"),
        ("GET http://a/", "Proxy-Connection: close\r\n"),
        ("GET http://a/", "Host: b\r\n"),
    ] {
        assert_eq!(
            rewritten(&format!("{line} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")),
            None,
            "{line} {fields}"
        );
    }
    assert_eq!(rewritten("GET http://a/ HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"), None);
    assert_eq!(rewritten("GET http://a/ HTTP/1.1\r\nHost: a/b\r\n\r\n"), None);
}

/// The head for the client, without the id that all have; and what follows.
fn answered(bytes: &str, head: bool) -> Result<(String, Answer), &'static str> {
    let mut out = Vec::new();
    match answer(bytes.as_bytes(), Turn { head, ..TURN }, &mut out)? {
        Read::Answer(answer) => {
            assert_eq!(answer.length, bytes.len());
            let id = "X-Gateway-Request-Id: 0123456789abcdef\r\n";
            Ok((String::from_utf8(out).unwrap().replace(id, ""), answer))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_is_made_one_for_the_client() {
    let (head, answer) = answered(
        "HTTP/1.1 299 So \u{fe}\r\nServer: x\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
         Proxy-Status: Gluetun-Gateway; error=x\r\nProxy-Status: cache.example; hit\r\nX-Gateway-Error: y\r\n\
         x-gateway-request-id: z\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\nSet-Cookie: a\r\n\
         Set-Cookie: b\r\nContent-Length: 05, 05\r\nContent-Length: 5\r\nEmpty:\r\nTrailer: x\r\n\r\n",
        false,
    )
    .unwrap();
    assert_eq!(
        head,
        "HTTP/1.1 299 \r\nServer: x\r\nProxy-Status: cache.example; hit\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\
         Content-Length: 05\r\nEmpty: \r\nTrailer: x\r\n\r\n"
    );
    assert!(answer.status == 299 && answer.keep_alive);
    assert!(matches!(answer.content, Content::Length(5)));
}

#[test]
fn content_is_delimited_as_the_head_says() {
    let framed = |fields: &str, status: u16, head: bool, minor: u8| {
        let bytes = format!("HTTP/1.{minor} {status} X\r\n{fields}\r\n");
        answered(&bytes, head).map(|(text, answer)| {
            let fields = text.split_once("\r\n").unwrap().1.trim_end().replace("\r\n", "|");
            let content = match answer.content {
                Content::Length(length) => length.to_string(),
                Content::Chunks(..) => "chunks".to_owned(),
                Content::End => "end".to_owned(),
            };
            format!("{fields}/{content}/{}", answer.keep_alive)
        })
    };
    let ok = |text: &str| Ok(text.to_owned());
    let (length, chunked) = ("Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n");
    assert_eq!(framed(length, 200, false, 1), ok("Content-Length: 5/5/true"));
    assert_eq!(framed(length, 200, true, 1), ok("Content-Length: 5/0/true"));
    assert_eq!(framed(length, 304, false, 1), ok("/0/true"));
    assert_eq!(framed(length, 304, true, 1), ok("Content-Length: 5/0/true"));
    assert_eq!(framed(length, 204, false, 1), ok("/0/true"));
    assert_eq!(framed(length, 200, false, 0), ok("Content-Length: 5/5/false"));
    assert_eq!(
        framed("Content-Length: 5\r\nConnection: Keep-Alive\r\n", 200, false, 0),
        ok("Content-Length: 5/5/true")
    );
    assert_eq!(
        framed("Connection: close, content-length\r\nContent-Length: 5\r\n", 200, false, 1),
        ok("Content-Length: 5/5/false")
    );
    assert_eq!(framed(chunked, 200, false, 1), ok("Transfer-Encoding: chunked/chunks/true"));
    assert_eq!(framed(chunked, 200, true, 1), ok("/0/true"));
    assert_eq!(
        framed(&format!("{chunked}{length}"), 200, false, 1),
        ok("Transfer-Encoding: chunked/chunks/true")
    );
    assert_eq!(
        framed("Transfer-Encoding: gzip, Chunked\r\n", 200, false, 1),
        ok("Transfer-Encoding: chunked/chunks/true")
    );
    assert_eq!(
        framed("Transfer-Encoding: gzip\r\n", 200, false, 1),
        ok("Transfer-Encoding: chunked/end/false")
    );
    assert_eq!(framed("", 200, false, 1), ok("Transfer-Encoding: chunked/end/false"));
    for (fields, minor) in [
        (chunked, 0),
        ("Content-Length: +5\r\n", 1),
        ("Content-Length: 5, 6\r\n", 1),
        ("Content-Length: 5,\r\n", 1),
        ("Content-Length:\r\n", 1),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", 1),
        ("Content-Length: 99999999999999999999\r\n", 1),
        ("X : y\r\n", 1),
        ("X: y\r\n z\r\n", 1),
    ] {
        assert!(framed(fields, 200, false, minor).is_err(), "{fields}");
    }
    assert!(framed(&"X: y\r\n".repeat(MAX_ANSWER_FIELDS + 1), 200, false, 1).is_err());
    assert!(framed("", 99, false, 1).is_err());
}

#[test]
fn heads_that_are_none_yet_and_interim_ones() {
    let mut out = Vec::new();
    let whole = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";
    for end in 0..whole.len() {
        assert!(matches!(answer(&whole[..end], TURN, &mut out), Ok(Read::Partial)), "{end}");
    }
    assert!(matches!(answer(whole, TURN, &mut out), Ok(Read::Interim(length)) if length == whole.len()));
    assert!(matches!(answer(b"HTTP/1.1 101 X\r\n\r\n", TURN, &mut out), Ok(Read::Switched)));
    assert!(answer(b"SSH-2.0-x\r\n\r\n", TURN, &mut out).is_err());
    assert!(out.is_empty());
}
