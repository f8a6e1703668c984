//! Heads, well-formed and not: by the table, in pieces, and by property.

use super::*;

fn head(text: &str) -> Result<Head<'_>, String> {
    match Scanner::default().scan(text.as_bytes()) {
        Scan::Complete { start, end } => {
            assert_eq!(end, text.len(), "{text:?}");
            Head::parse(&text.as_bytes()[start..end]).map_err(|error| format!("{error:?}"))
        }
        Scan::Partial => Err("Partial".to_owned()),
        Scan::TooLarge => Err("TooLarge".to_owned()),
        Scan::Bad(why) => Err(format!("Bad {why}")),
    }
}

/// What the gateway refuses, with the rule that lets or makes it.
const REFUSED: &[(&str, &str, &str)] = &[
    ("RFC 9112, 2.2: bare LF", "CONNECT a:1 HTTP/1.1\nHost: a\r\n\r\n", "LF without CR"),
    ("RFC 9112, 2.2: bare LF before the end", "CONNECT a:1 HTTP/1.1\r\nHost: a\n\n", "LF without CR"),
    ("RFC 9112, 2.2: bare CR in a value", "CONNECT a:1 HTTP/1.1\r\nHost: a\rb\r\n\r\n", "CR stands without"),
    ("RFC 9112, 2.2: space before the first field", "CONNECT a:1 HTTP/1.1\r\n Host: a\r\n\r\n", "Malformed"),
    ("RFC 9110, 5.5: NUL", "CONNECT a:1 HTTP/1.1\r\nHost: a\0\r\n\r\n", "control character"),
    ("RFC 9110, 5.5: DEL", "CONNECT a:1 HTTP/1.1\r\nHost: a\x7f\r\n\r\n", "control character"),
    ("RFC 9112, 5.1: space before the colon", "CONNECT a:1 HTTP/1.1\r\nHost : a\r\n\r\n", "before its colon"),
    ("RFC 9112, 5.2: obs-fold", "CONNECT a:1 HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", "Malformed"),
    ("RFC 9112, 5.2: obs-fold by tab", "CONNECT a:1 HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n", "Malformed"),
    ("RFC 9110, 5.1: empty name", "CONNECT a:1 HTTP/1.1\r\n: a\r\n\r\n", "name is invalid"),
    ("RFC 9110, 5.6.2: name is no token", "CONNECT a:1 HTTP/1.1\r\nH\u{e4}: a\r\n\r\n", "name is invalid"),
    ("RFC 9112, 5: no colon", "CONNECT a:1 HTTP/1.1\r\nHost\r\n\r\n", "name is invalid"),
    ("RFC 9112, 3: two spaces", "CONNECT  a:1 HTTP/1.1\r\n\r\n", "Malformed"),
    ("RFC 9112, 3: no version", "GET /\r\n\r\n", "Malformed"),
    ("RFC 9112, 3: no target", "GET HTTP/1.1\r\n\r\n", "Malformed"),
    ("RFC 9112, 3.1: method is no token", "G(T a:1 HTTP/1.1\r\n\r\n", "Malformed"),
    ("RFC 9112, 2.3: HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\n", "neither HTTP/1.1"),
    ("RFC 9112, 2.3: version in small letters", "GET a http/1.1\r\n\r\n", "neither HTTP/1.1"),
    ("RFC 9112, 3.2: no host", "CONNECT a:1 HTTP/1.1\r\n\r\n", "without Host"),
    ("RFC 9112, 3.2: two hosts", "CONNECT a:1 HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", "more than one Host"),
    (
        "RFC 9112, 6.1: both framings",
        "POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "both Content-Length",
    ),
    (
        "RFC 9112, 6.1: chunked in HTTP/1.0",
        "POST http://a/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "in HTTP/1.0",
    ),
    (
        "RFC 9112, 6.3: two lengths",
        "POST http://a/ HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
        "more than one Content-Length",
    ),
    (
        "RFC 9112, 6.3: a list of lengths",
        "POST http://a/ HTTP/1.1\r\nContent-Length: 3, 3\r\n\r\n",
        "not a number",
    ),
    ("RFC 9110, 8.6: signed length", "POST http://a/ HTTP/1.1\r\nContent-Length: +3\r\n\r\n", "not a number"),
    ("RFC 9110, 8.6: empty length", "POST http://a/ HTTP/1.1\r\nContent-Length:\r\n\r\n", "not a number"),
    (
        "RFC 9110, 8.6: length beyond 64 bits",
        "POST http://a/ HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "not a number",
    ),
    ("not HTTP: TLS ClientHello", "\x16\x03\x01\x02\x00\x01", "control character"),
    ("not HTTP: SOCKS5 greeting", "\x05\x01\x00", "control character"),
    ("not HTTP: SOCKS4", "\x04\x01\x00\x50", "control character"),
];

#[test]
fn what_two_parsers_may_read_in_two_ways_is_refused() {
    for (rule, text, why) in REFUSED {
        let error = head(text).expect_err(rule);
        assert!(error.contains(why), "{rule}: {error}");
    }
}

#[test]
fn what_matters_is_read() {
    let text = "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\
                proxy-authorization: Basic YTpi\r\nUser-Agent: x\r\n\r\n";
    let connect = head(text).unwrap();
    assert_eq!((connect.method, connect.target), ("CONNECT", "example.com:443"));
    assert_eq!(connect.authorization, Authorization::One(b"Basic YTpi"));
    assert!(connect.keep_alive && connect.body.is_empty());

    let old = head("\r\n\r\nCONNECT a:1 HTTP/1.0\r\n\r\n").unwrap();
    assert!(!old.keep_alive);
    assert_eq!(old.authorization, Authorization::None);
    assert!(head("CONNECT a:1 HTTP/1.0\r\nProxy-Connection: Keep-Alive\r\n\r\n").unwrap().keep_alive);
    assert!(!head("CONNECT a:1 HTTP/1.1\r\nHost: a\r\nConnection: x, close\r\n\r\n").unwrap().keep_alive);
    let twice = "CONNECT a:1 HTTP/1.1\r\nHost:\r\nProxy-Authorization: a\r\nProxy-Authorization: b\r\n\r\n";
    assert_eq!(head(twice).unwrap().authorization, Authorization::Many);
    let body =
        |field: &str| head(&format!("POST http://a/ HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n")).unwrap().body;
    assert_eq!(body("Content-Length: 3"), Body::Length(3));
    assert!(body("Content-Length: 0").is_empty());
    assert_eq!(body("Transfer-Encoding: chunked"), Body::Chunked);
    let host =
        |value: &str| head(&format!("CONNECT a:1 HTTP/1.1\r\nHost: {value}\r\n\r\n")).unwrap().host_is_valid;
    assert!(
        host("a.test:80")
            && host("[::1]:80")
            && host("")
            && head("CONNECT a:1 HTTP/1.0\r\n\r\n").unwrap().host_is_valid
    );
    assert!(!host("a, b") && !host("u@a") && !host("a/b") && !host("a b"));
    // RFC 9110, 5.5: obs-text is allowed in values.
    assert!(head("GET http://a/ HTTP/1.1\r\nHost: a\r\nX: \u{e4}\tb\r\n\r\n").is_ok());
}

#[test]
fn a_control_character_is_found_wherever_it_stands() {
    for length in 0..50 {
        let mut bytes = vec![b'x'; length];
        assert_eq!(plain(&bytes), length);
        for at in 0..length {
            for (byte, is_control) in
                [(b'\n', true), (0, true), (0x1f, true), (0x7f, true), (b' ', false), (0xff, false)]
            {
                bytes[at] = byte;
                assert_eq!(plain(&bytes), if is_control { at } else { length }, "{byte} at {at} of {length}");
            }
            bytes[at] = b'x';
        }
    }
}

#[test]
fn limits_hold_to_the_byte_and_field() {
    let line = "GET http://a/ HTTP/1.0\r\n";
    let with = |fields: usize| format!("{line}{}\r\n", "A: b\r\n".repeat(fields));
    assert!(head(&with(MAX_FIELDS)).is_ok());
    assert_eq!(head(&with(MAX_FIELDS + 1)).unwrap_err(), "TooManyFields");

    let padded = |length: usize| format!("{line}X: {}\r\n\r\n", "x".repeat(length - line.len() - 7));
    assert_eq!(padded(MAX_HEAD).len(), MAX_HEAD);
    assert!(head(&padded(MAX_HEAD)).is_ok());
    assert_eq!(head(&padded(MAX_HEAD + 1)).unwrap_err(), "TooLarge");
}

#[test]
fn it_does_not_matter_how_the_bytes_arrive() {
    let text = "\r\nCONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\nearly data \x16\0";
    let end = text.find("early").unwrap();
    for step in 1..=text.len() {
        let mut scanner = Scanner::default();
        let mut read = 0;
        let found = loop {
            read = (read + step).min(text.len());
            match scanner.scan(&text.as_bytes()[..read]) {
                Scan::Partial => assert!(read < text.len()),
                other => break other,
            }
        };
        assert_eq!(found, Scan::Complete { start: 2, end }, "{step}");
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_do_no_harm(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400), cut in 0_usize..400) {
        let mut scanner = Scanner::default();
        let first = scanner.scan(&bytes[..cut.min(bytes.len())]);
        let whole = if first == Scan::Partial { scanner.scan(&bytes) } else { first };
        // In pieces or at once: the same, as far as the bytes decide it.
        let at_once = Scanner::default().scan(&bytes);
        proptest::prop_assert_eq!(&whole, &at_once);
        if let Scan::Complete { start, end } = whole {
            let _ = Head::parse(&bytes[start..end]);
        }
        let _ = Head::parse(&bytes);
    }

    #[test]
    fn heads_with_odd_lines_do_no_harm(text in "(GET|CONNECT|PUT) [ -~]{0,20} HTTP/1\\.[01]\r\n([A-Za-z -]{1,8}:[ -~]{0,9}\r?\n){0,4}\r\n") {
        let _ = head(&text);
    }
}
