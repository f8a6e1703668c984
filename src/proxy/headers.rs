//! Header fields that end at the proxy (RFC 9110, 7.6.1), taken out of requests and responses. Pure.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Fields that are of one connection, whether `Connection` names them or not.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHORIZATION,
    PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Takes out what is of this connection alone, and what `Connection` names.
pub(super) fn strip(headers: &mut HeaderMap) {
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

/// What must not be said twice, or in two ways.
pub(super) fn framing_fault(headers: &HeaderMap) -> Option<&'static str> {
    if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
        return Some("both Content-Length and Transfer-Encoding");
    }
    if headers.get_all(HOST).iter().nth(1).is_some() { Some("more than one Host") } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(framing_fault(&map(&[("Host", "a"), ("Content-Length", "1")])).is_none());
        assert!(framing_fault(&map(&[("Transfer-Encoding", "chunked"), ("Content-Length", "1")])).is_some());
        assert!(framing_fault(&map(&[("Host", "a"), ("Host", "a")])).is_some());
    }
}
