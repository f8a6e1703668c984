//! `Proxy-Authorization: Basic …` taken apart (RFC 7617).

use std::time::Duration;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::secret::Secret;

/// Longest header value that is looked at: 255 bytes each of username and password (what SOCKS5 can
/// carry), the colon, base64 and the scheme, rounded up generously.
pub(super) const MAX_HEADER: usize = 4096;

/// Standard alphabet; padding may be left out, as some clients do.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a client is not let in. All but [`AuthError::Busy`] and [`AuthError::Throttled`] are answered with
/// 407.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Not the Basic scheme, bad base64, no colon, not UTF-8, control characters, or too long.
    #[error("the Proxy-Authorization header is not valid Basic authentication (RFC 7617)")]
    Malformed,
    /// A `%` in the username: the client has sent it percent-encoded.
    #[error("the username holds '%': the client sent it percent-encoded")]
    PercentEncoded,
    /// Unknown account, wrong password or disabled account: never told apart, in bytes or in time.
    #[error("unknown account or wrong password")]
    Refused,
    /// The verifier's queue is full; a retry can help.
    #[error("too many password checks are waiting")]
    Busy,
    /// Too many failures from this address: nothing was looked at.
    #[error("too many failed logins from this address")]
    Throttled {
        /// After how long the next login is looked at.
        retry_after: Duration,
    },
}

/// Splits the value of `Proxy-Authorization` into username and password, at the first `:` (so
/// passwords may hold colons). The scheme's case does not matter; percent sequences are not decoded.
/// Neither part is checked against anything: an empty password is for the caller to refuse.
///
/// # Errors
/// [`AuthError::Malformed`], or [`AuthError::PercentEncoded`] for a `%` in the username.
pub fn split_basic(header: &[u8]) -> Result<(String, Secret), AuthError> {
    if header.len() > MAX_HEADER {
        return Err(AuthError::Malformed);
    }
    let header = header.trim_ascii();
    let (scheme, encoded) = header.split_at_checked(5).ok_or(AuthError::Malformed)?;
    if !scheme.eq_ignore_ascii_case(b"basic") || !encoded.first().is_some_and(|b| matches!(b, b' ' | b'\t')) {
        return Err(AuthError::Malformed);
    }
    let decoded = BASE64.decode(encoded.trim_ascii_start()).map_err(|_| AuthError::Malformed)?;
    // Made a secret before anything can fail, so that the buffer is wiped on every way out.
    let pair = match String::from_utf8(decoded) {
        Ok(text) => Secret::from(text),
        Err(error) => {
            drop(secrecy::SecretSlice::from(error.into_bytes()));
            return Err(AuthError::Malformed);
        }
    };
    let (user, password) = pair.expose().split_once(':').ok_or(AuthError::Malformed)?;
    // RFC 7617, 2: neither may hold control characters. bcrypt would also take `a\0a` for `a`.
    if pair.expose().chars().any(char::is_control) {
        return Err(AuthError::Malformed);
    }
    if user.contains('%') {
        return Err(AuthError::PercentEncoded);
    }
    Ok((user.to_owned(), Secret::from(password)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(header: &str) -> Result<(String, String), AuthError> {
        split_basic(header.as_bytes()).map(|(user, password)| (user, password.expose().to_owned()))
    }

    fn basic(pair: &[u8]) -> String {
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
    }

    fn pair(user: &str, password: &str) -> Result<(String, String), AuthError> {
        Ok((user.to_owned(), password.to_owned()))
    }

    #[test]
    fn splits_at_the_first_colon() {
        assert_eq!(split(&basic(b"alice-country-se:pa:ss:")), pair("alice-country-se", "pa:ss:"));
        assert_eq!(split(&basic("alice:p\u{e4}ss%41".as_bytes())), pair("alice", "päss%41"));
        assert_eq!(split(&basic(b":x")), pair("", "x"));
        assert_eq!(split(&basic(b"alice:")), pair("alice", ""));
    }

    #[test]
    fn the_scheme_has_no_case_and_padding_may_lack() {
        assert_eq!(split("bASIC ZGVtbzpkZW1v"), pair("demo", "demo"));
        assert_eq!(split("Basic   YTpi "), pair("a", "b"));
        assert_eq!(split("Basic\tYTpi"), pair("a", "b"));
        assert_eq!(split("Basic YWI6Y2Q="), pair("ab", "cd"));
        assert_eq!(split("Basic YWI6Y2Q"), pair("ab", "cd"));
    }

    #[test]
    fn what_is_not_basic_is_malformed() {
        for header in [
            "",
            "Basic",
            "Basic ",
            "BasicYTpi",
            "Bearer YTpi",
            "Digest a=b",
            "Basic a b",
            "Basic Y%Tpi",
            "Basic Y",
        ] {
            assert_eq!(split(header), Err(AuthError::Malformed), "{header}");
        }
        assert_eq!(split(&basic(b"no colon")), Err(AuthError::Malformed));
        assert_eq!(split(&basic(b"\xff\xfe:x")), Err(AuthError::Malformed));
        assert_eq!(split(&basic(b"a:b\0b")), Err(AuthError::Malformed));
        assert_eq!(split(&basic(b"a\r\n:b")), Err(AuthError::Malformed));
        assert_eq!(split(&basic(&[b'a'; 5000])), Err(AuthError::Malformed));
    }

    #[test]
    fn a_percent_sign_in_the_username_is_named() {
        assert_eq!(split(&basic(b"alice%2Dcountry%2Dse:x")), Err(AuthError::PercentEncoded));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_do_no_harm(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let _ = split_basic(&bytes);
            let _ = split(&basic(&bytes));
        }
    }
}
