//! Header fields that end at the proxy (RFC 9110, 7.6.1), taken out of requests and responses, and those
//! that it may be told to add. Pure.

use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue, Version};

use super::head::has_token;
use crate::config::Forwarding;

/// What `Connection` is for origins, some clients say to proxies so. No standard has it.
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Fields that are of one connection, whether `Connection` names them or not.
pub(super) const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    PROXY_CONNECTION,
    PROXY_AUTHORIZATION,
    PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Where a request has come from, as proxies tell each other and origins.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Whether `Proxy-Connection` says that this is the last request of its connection. (`Connection` is hyper's to read.)
pub(super) fn ends_connection(headers: &HeaderMap) -> bool {
    headers.get_all(PROXY_CONNECTION).iter().any(|value| has_token(value.as_bytes(), "close"))
}

/// Takes out what is of this connection alone, and what `Connection` names.
pub(super) fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(TRANSFER_ENCODING) {
        // RFC 9112, 6.3 (3): it is overridden, and removed before the message goes on. (Only responses
        // get here with both.)
        headers.remove(CONTENT_LENGTH);
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Takes out of a trailer section what must not be there (RFC 9110, 6.5.1): what frames, routes or
/// authenticates a message was settled by its head.
pub(super) fn strip_trailers(trailers: &mut HeaderMap) {
    for name in HOP_BY_HOP.iter().chain(&[CONTENT_LENGTH, HOST, TRAILER]) {
        trailers.remove(name);
    }
}

/// What proxies say of themselves (RFC 9209).
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Takes what an origin says in the gateway's name out of `Proxy-Status`; what other proxies on the way have
/// said of themselves stays.
pub(super) fn strip_forged(headers: &mut HeaderMap) {
    let ours = |value: &HeaderValue| {
        value.as_bytes().to_ascii_lowercase().windows(15).any(|part| part == b"gluetun-gateway")
    };
    if !headers.get_all(PROXY_STATUS).iter().any(ours) {
        return;
    }
    let honest: Vec<HeaderValue> =
        headers.get_all(PROXY_STATUS).iter().filter(|value| !ours(value)).cloned().collect();
    headers.remove(PROXY_STATUS);
    for value in honest {
        headers.append(PROXY_STATUS, value);
    }
}

/// A length that is said more than once (hyper has seen to it that it is the same) is said once.
pub(super) fn say_length_once(headers: &mut HeaderMap) {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = values.next() else { return };
    if values.next().is_none() && !first.as_bytes().contains(&b',') {
        return;
    }
    let length = first.as_bytes().split(|b| *b == b',').next().unwrap_or_default().trim_ascii();
    match HeaderValue::from_bytes(length) {
        Ok(length) => drop(headers.insert(CONTENT_LENGTH, length)),
        Err(_) => drop(headers.remove(CONTENT_LENGTH)),
    }
}

/// Adds what the gateway is told to add: `client` on the way to an origin, none on the way back.
pub(super) fn forwarded(
    headers: &mut HeaderMap,
    forwarding: Forwarding,
    received: Version,
    client: Option<IpAddr>,
) {
    if forwarding.via {
        let via = if received == Version::HTTP_10 { "1.0 gluetun-gateway" } else { "1.1 gluetun-gateway" };
        headers.append(VIA, HeaderValue::from_static(via));
    }
    if let Some(client) = client.filter(|_| forwarding.forwarded_for)
        && let Ok(client) = HeaderValue::from_str(&client.to_canonical().to_string())
    {
        headers.append(FORWARDED_FOR, client);
    }
}

/// The protocol that a message switches to or asks for, if its `Connection` says so. Not `h2c`: it is
/// negotiated hop by hop, and an origin must not be offered it in the client's name.
pub(super) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let named = headers.get_all(CONNECTION).iter().any(|value| {
        value.as_bytes().split(|b| *b == b',').any(|name| name.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    });
    let protocol = headers.get(UPGRADE).filter(|protocol| !protocol.as_bytes().eq_ignore_ascii_case(b"h2c"));
    if named { protocol.cloned() } else { None }
}

/// Asks for a protocol, or says that it is switched to.
pub(super) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, protocol);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_does_not_speak_for_the_gateway() {
        let mut headers = HeaderMap::new();
        for value in ["Gluetun-Gateway; error=x", "cache.example; hit", "a, gluetun-gateway"] {
            headers.append(PROXY_STATUS, HeaderValue::from_static(value));
        }
        strip_forged(&mut headers);
        let left: Vec<_> = headers.get_all(PROXY_STATUS).iter().collect();
        assert_eq!(left, ["cache.example; hit"]);
    }

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn what_is_of_one_connection_stays_there() {
        let mut headers = map(&[
            ("Connection", "close, X-Private ,"),
            ("connection", "keep-alive"),
            ("X-Private", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
            ("Proxy-Authorization", "Basic YTpi"),
            ("Proxy-Authenticate", "Basic"),
            ("TE", "trailers"),
            ("Transfer-Encoding", "chunked"),
            ("Upgrade", "websocket"),
            ("Trailer", "X-Sum"),
            ("X-Forwarded-For", "10.0.0.1"),
            ("Authorization", "Bearer x"),
            ("Set-Cookie", "a=1"),
            ("Set-Cookie", "b=2"),
        ]);
        strip(&mut headers);
        let mut names: Vec<_> = headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["authorization", "set-cookie", "set-cookie", "trailer", "x-forwarded-for"]);
    }

    #[test]
    fn upgrades_are_those_that_connection_names() {
        let websocket = map(&[("Connection", "keep-alive, Upgrade"), ("Upgrade", "websocket")]);
        assert_eq!(upgrade(&websocket).unwrap(), "websocket");
        assert_eq!(upgrade(&map(&[("Upgrade", "websocket")])), None);
        assert_eq!(upgrade(&map(&[("Connection", "upgrade")])), None);
        assert_eq!(upgrade(&map(&[("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c")])), None);
    }

    #[test]
    fn framing_is_said_once() {
        let mut both = map(&[("Transfer-Encoding", "chunked"), ("Content-Length", "1")]);
        strip(&mut both);
        assert!(both.is_empty());
        for lines in [&[("Content-Length", "5, 5")][..], &[("Content-Length", "5"), ("Content-Length", "5")]]
        {
            let mut headers = map(lines);
            say_length_once(&mut headers);
            assert_eq!(headers, map(&[("Content-Length", "5")]));
        }
        let mut once = map(&[("Content-Length", "5")]);
        say_length_once(&mut once);
        assert_eq!(once, map(&[("Content-Length", "5")]));
    }

    #[test]
    fn trailers_hold_nothing_that_the_head_settled() {
        let mut trailers = map(&[
            ("X-Sum", "1"),
            ("Proxy-Authorization", "Basic YTpi"),
            ("Connection", "close"),
            ("Content-Length", "7"),
            ("Host", "a"),
            ("Transfer-Encoding", "chunked"),
        ]);
        strip_trailers(&mut trailers);
        assert_eq!(trailers, map(&[("X-Sum", "1")]));
    }

    #[test]
    fn nothing_is_added_unless_told() {
        let client = Some("::ffff:192.0.2.1".parse().unwrap());
        let added = |via, forwarded_for, client| {
            let mut headers = map(&[("X-Forwarded-For", "10.0.0.1")]);
            forwarded(&mut headers, Forwarding { via, forwarded_for }, Version::HTTP_10, client);
            headers
        };
        assert_eq!(added(false, false, client), map(&[("X-Forwarded-For", "10.0.0.1")]));
        let all = [
            ("X-Forwarded-For", "10.0.0.1"),
            ("Via", "1.0 gluetun-gateway"),
            ("X-Forwarded-For", "192.0.2.1"),
        ];
        assert_eq!(added(true, true, client), map(&all));
        assert_eq!(added(true, true, None), map(&all[..2]), "an answer has no client to tell");
    }
}
