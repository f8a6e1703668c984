//! The requests of `strict`, each with the rule that it is about and what becomes of it.

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// 400 `not_a_proxy_request`: the message is no HTTP, or no request for a proxy.
    Message,
    /// 400 `bad_target`: it asks for something that is nowhere.
    Target,
    /// 431 `head_too_large`.
    TooLarge,
    /// It is served.
    Served,
}
use Verdict::{Message, Served, Target};

/// The rule, the request, the verdict. `AUTH` stands for the line with the credentials.
pub const TABLE: &[(&str, &str, Verdict)] = &[
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
