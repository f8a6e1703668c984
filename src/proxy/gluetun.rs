//! What Gluetun's HTTP proxy says when it fails, read from its texts. Pure. None of it reaches a
//! client.
//!
//! Gluetun v3.41.3 answers every failed dial of a CONNECT with 503 and Go's error text
//! (`internal/httpproxy/https.go`), and 407, 401 or 400 for its own authentication.

use super::error::{Code, ProxyError};
use super::target::Target;

/// What a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The name does not exist.
    NoSuchHost,
    /// The resolver at the exit failed: so it does when the tunnel is dead.
    Resolver,
    /// The destination refused the connection: the tunnel works.
    Refused,
    /// The destination did not answer, or the tunnel is dead.
    Timeout,
    /// No route: the exit has none to there, or none at all.
    NoRoute,
    /// Some other failure.
    Other,
    /// Not an answer that the exit of ours gives to our request.
    Protocol,
}

impl Refusal {
    /// Reads an answer that is not a success.
    pub(super) fn read(status: u16, body: &str) -> Self {
        if status != 503 {
            return if matches!(status, 400 | 401 | 407) { Self::Protocol } else { Self::Other };
        }
        let has = |part: &str| body.contains(part);
        if has("no such host") {
            Self::NoSuchHost
        } else if has("server misbehaving") || (has("lookup ") && has("i/o timeout")) {
            Self::Resolver
        } else if has("connection refused") {
            Self::Refused
        } else if has("i/o timeout") || has("timed out") {
            Self::Timeout
        } else if has("network is unreachable") || has("no route to host") || has("host is unreachable") {
            Self::NoRoute
        } else {
            Self::Other
        }
    }

    /// Whether a dead tunnel looks like this, so that the exit should be asked whether it lives.
    pub(super) const fn may_be_dead(self) -> bool {
        match self {
            Self::Resolver | Self::Timeout | Self::NoRoute => true,
            Self::NoSuchHost | Self::Refused | Self::Other | Self::Protocol => false,
        }
    }

    /// What the client is told.
    pub(super) fn error(self, target: &Target) -> ProxyError {
        match self {
            Self::NoSuchHost => ProxyError::new(
                Code::UpstreamDns,
                format!("no such host as seen from the exit: {}", target.host()),
            ),
            Self::Resolver => ProxyError::new(
                Code::UpstreamDns,
                format!("the exit's resolver has no answer for {}", target.host()),
            ),
            Self::Refused => {
                ProxyError::new(Code::UpstreamRefused, format!("{target} refused the connection"))
            }
            Self::Timeout => {
                ProxyError::new(Code::UpstreamTimeout, format!("{target} did not answer the exit in time"))
            }
            Self::NoRoute => {
                ProxyError::new(Code::UpstreamError, format!("the exit has no route to {target}"))
            }
            Self::Other => {
                ProxyError::new(Code::UpstreamError, format!("the exit cannot connect to {target}"))
            }
            Self::Protocol => ProxyError::new(
                Code::ExitProtocol,
                "the exit's proxy refuses the gateway; it is being replaced",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts of Gluetun v3.41.1 and v3.41.3 as measured, or as Go's `net` package makes them.
    const TEXTS: &[(&str, Refusal)] = &[
        ("dial tcp 198.51.100.7:81: connect: connection refused", Refusal::Refused),
        ("lookup nx.example.com on 127.0.0.1:53: no such host", Refusal::NoSuchHost),
        ("dial tcp: lookup nx.example.com on 127.0.0.1:53: no such host", Refusal::NoSuchHost),
        ("dial tcp: lookup a.example.com on 127.0.0.1:53: server misbehaving", Refusal::Resolver),
        (
            "dial tcp: lookup a.example.com on 127.0.0.1:53: read udp 127.0.0.1:4242->127.0.0.1:53: i/o timeout",
            Refusal::Resolver,
        ),
        (
            "dial tcp: lookup a.example.com on 1.1.1.1:53: write udp 10.0.0.2:4242->1.1.1.1:53: write: operation \
             not permitted",
            Refusal::Other,
        ),
        ("dial tcp 198.51.100.7:443: connect: connection timed out", Refusal::Timeout),
        ("dial tcp 198.51.100.7:443: i/o timeout", Refusal::Timeout),
        ("dial tcp 198.51.100.7:443: connect: network is unreachable", Refusal::NoRoute),
        ("dial tcp 198.51.100.7:443: connect: no route to host", Refusal::NoRoute),
        ("dial tcp [2001:db8::1]:443: connect: cannot assign requested address", Refusal::Other),
        ("", Refusal::Other),
    ];

    #[test]
    fn texts_are_told_apart() {
        for (text, refusal) in TEXTS {
            assert_eq!(Refusal::read(503, &format!("{text}\n")), *refusal, "{text}");
        }
        for status in [400, 401, 407] {
            assert_eq!(Refusal::read(status, "no such host"), Refusal::Protocol);
        }
        assert_eq!(Refusal::read(500, "server error"), Refusal::Other);
    }

    #[test]
    fn the_client_hears_none_of_it() {
        let target = Target::authority("example.com:443").unwrap();
        for (text, refusal) in TEXTS {
            let error = refusal.error(&target);
            assert!(text.is_empty() || !error.message.contains(text));
            assert!(!error.message.contains("127.0.0.1") && !error.message.contains("dial"));
        }
        assert_eq!(Refusal::Protocol.error(&target).code, Code::ExitProtocol);
        assert_eq!(Refusal::Timeout.error(&target).code.status(), 504);
    }
}
