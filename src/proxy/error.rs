//! Every failure of the proxy port, decided in one place: its status, code, `Proxy-Status`,
//! `Retry-After` and metrics label. The rest of the proxy only says which code it is and what happened.

use std::borrow::Cow;
use std::time::Duration;

use crate::identity::AuthError;
use crate::selector::SelectError;
use crate::session::AcquireError;

mod code;
#[cfg(test)]
mod docs;

pub use code::{ALL_CODES, Code};

/// A failure of one request: what the client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyError {
    /// Which failure.
    pub code: Code,
    /// One sentence for a person. No secrets, no pod names or addresses.
    pub message: Cow<'static, str>,
    /// What the client can do.
    pub hint: Cow<'static, str>,
    /// After how many seconds a retry may help.
    pub retry_after: Option<u32>,
    /// How long the request was held (`X-Gateway-Wait-Ms`), where that is the failure.
    pub waited: Option<Duration>,
    /// The error type of `Proxy-Status`.
    pub proxy_status: &'static str,
}

impl ProxyError {
    /// A failure with what its code says of itself.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: Cow::Borrowed(code.hint()),
            retry_after: code.retry_after(),
            waited: None,
            proxy_status: code.proxy_status(),
        }
    }

    /// With another hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = hint.into();
        self
    }

    /// With another `Retry-After`: rounded up to whole seconds, at least one.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        let seconds = after.as_secs().saturating_add(u64::from(after.subsec_nanos() > 0)).max(1);
        self.retry_after = Some(u32::try_from(seconds).unwrap_or(u32::MAX));
        self
    }

    /// No credentials at all.
    pub fn auth_required() -> Self {
        Self::new(Code::AuthRequired, "this proxy wants an account and a password")
    }

    /// The request came while the gateway shuts down.
    pub fn shutting_down() -> Self {
        Self::new(Code::ShuttingDown, "the gateway is shutting down")
    }

    /// Whether the connection can go on after this answer: only the challenge, so that its round needs
    /// no new socket.
    pub const fn keeps_connection(&self) -> bool {
        matches!(self.code, Code::AuthRequired | Code::AuthFailed)
    }
}

/// One text for an unknown account, a wrong password and a disabled account; never told apart.
impl From<AuthError> for ProxyError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Refused => Self::new(Code::AuthFailed, "the account or the password is wrong"),
            AuthError::Malformed => Self::new(
                Code::AuthFailed,
                "the Proxy-Authorization header is not valid Basic authentication (RFC 7617)",
            ),
            AuthError::PercentEncoded => {
                Self::new(Code::AuthFailed, "the username holds a '%'; this proxy does not percent-decode")
                    .hint("send the username as it is: parameters need no escaping")
            }
            AuthError::Busy => Self::new(Code::QueueFull, "too many password checks are waiting"),
            AuthError::Throttled { retry_after } => {
                Self::new(Code::AuthThrottled, "too many failed logins from this address")
                    .retry_after(retry_after)
            }
        }
    }
}

impl From<AcquireError> for ProxyError {
    fn from(error: AcquireError) -> Self {
        let message = error.to_string();
        match error {
            AcquireError::CapacityFull { .. } => Self::new(Code::CapacityFull, message),
            AcquireError::QueueFull { .. } => Self::new(Code::QueueFull, message),
            AcquireError::StartTimeout { .. } => Self::new(Code::StartTimeout, message),
            AcquireError::Starting { retry_after } => {
                Self::new(Code::Starting, message).retry_after(retry_after)
            }
            AcquireError::StartFailed { class, retry_after, .. } => {
                let failed = Self::new(Code::StartFailed, format!("{}: {message}", class.as_str()));
                match retry_after {
                    Some(rest) => failed.retry_after(rest),
                    None if class.another_server_may_help() => failed,
                    // The key, the image or the node: nothing changes until the operator acts.
                    None => failed.retry_after(Duration::from_secs(30)),
                }
            }
            AcquireError::StartBackoff { retry_after, .. } => {
                Self::new(Code::StartBackoff, message).retry_after(retry_after)
            }
            AcquireError::ExitLost => Self::new(Code::ExitLost, message),
            AcquireError::ControlPlaneUnavailable => Self::new(Code::ControlPlaneUnavailable, message),
            AcquireError::ControlPlaneForbidden { .. } => Self::new(Code::ControlPlaneForbidden, message),
            AcquireError::AccountQuota { .. } => Self::new(Code::AccountQuota, message),
            AcquireError::LocationForbidden { .. } => Self::new(Code::LocationForbidden, message),
            // Known to this replica and gone for the leader: the same answer as when this one knows, too.
            AcquireError::AccountGone => AuthError::Refused.into(),
            AcquireError::ShuttingDown => Self::shutting_down(),
        }
    }
}

impl From<SelectError> for ProxyError {
    fn from(error: SelectError) -> Self {
        let code = match error {
            SelectError::BadParameter { .. } => Code::BadParameter,
            SelectError::BadCombination { .. } => Code::BadCombination,
            SelectError::NoSuchCountry { .. } => Code::NoSuchCountry,
            SelectError::NoSuchCity { .. } => Code::NoSuchCity,
            SelectError::NoSuchServer { .. } => Code::NoSuchServer,
            SelectError::Forbidden { .. } => Code::LocationForbidden,
            SelectError::NoServers => Code::ControlPlaneUnavailable,
        };
        Self::new(code, error.to_string()).hint(error.hint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::FailureClass;

    /// `proxy-interface.md`, section 5: the table as it stands there.
    const TABLE: &str = "
        auth_required 407 http_request_denied -
        auth_failed 407 http_request_denied -
        auth_throttled 429 http_request_denied 30
        bad_parameter 400 http_request_error -
        bad_combination 400 http_request_error -
        no_such_country 400 http_request_error -
        no_such_city 400 http_request_error -
        no_such_server 400 http_request_error -
        location_forbidden 403 http_request_denied -
        destination_denied 403 http_request_denied -
        proxy_loop 403 proxy_loop_detected -
        account_quota 429 connection_limit_reached 10
        key_slots_full 503 connection_limit_reached 10
        capacity_full 503 connection_limit_reached 10
        queue_full 503 connection_limit_reached 2
        start_timeout 504 connection_timeout 3
        starting 503 destination_unavailable 3
        start_failed 502 proxy_internal_error 5
        start_backoff 503 destination_unavailable 30
        exit_lost 502 connection_terminated -
        exit_unhealthy 502 destination_ip_unroutable 5
        upstream_refused 502 connection_refused -
        upstream_dns 502 dns_error -
        upstream_timeout 504 connection_timeout -
        upstream_error 502 destination_unavailable -
        exit_protocol 502 proxy_internal_error -
        control_plane_unavailable 503 proxy_internal_error 5
        control_plane_forbidden 503 proxy_configuration_error -
        shutting_down 503 proxy_internal_error 1
        head_too_large 431 http_request_error -
        head_timeout 408 http_request_error -
        not_a_proxy_request 400 http_request_error -
        bad_target 400 http_request_error -";

    #[test]
    fn every_code_is_what_the_table_says() {
        let rows: Vec<Vec<&str>> = TABLE.trim().lines().map(|row| row.split_whitespace().collect()).collect();
        assert_eq!(rows.len(), ALL_CODES.len());
        for row in rows {
            let code = ALL_CODES.into_iter().find(|code| code.as_str() == row[0]).unwrap();
            assert_eq!(code.status().to_string(), row[1], "{code:?}");
            assert_eq!(code.proxy_status(), row[2], "{code:?}");
            let retry = code.retry_after().map_or("-".to_owned(), |seconds| seconds.to_string());
            assert_eq!(retry, row[3], "{code:?}");
        }
    }

    #[test]
    fn codes_are_distinct_tokens_and_say_what_to_do() {
        for (index, code) in ALL_CODES.into_iter().enumerate() {
            assert!(code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{code:?}");
            assert_eq!(ALL_CODES.iter().position(|c| c.as_str() == code.as_str()), Some(index));
            assert!(code.hint().is_ascii() && (5..200).contains(&code.hint().len()), "{code:?}");
            // A Retry-After on what a retry cannot change would be a lie.
            assert!(code.retryable() || code.retry_after().is_none(), "{code:?}");
            assert_ne!(code.reason(), "");
        }
    }

    #[test]
    fn unknown_account_and_wrong_password_are_one_answer() {
        let refused = ProxyError::from(AuthError::Refused);
        assert_eq!(refused.code, Code::AuthFailed);
        assert!(refused.keeps_connection());
        assert_eq!(ProxyError::from(AuthError::Busy).code, Code::QueueFull);
        assert!(ProxyError::from(AuthError::PercentEncoded).message.contains('%'));
    }

    #[test]
    fn acquire_errors_keep_their_words() {
        let error = |retry_after| AcquireError::StartFailed {
            class: FailureClass::BadKey,
            message: "no".to_owned(),
            retry_after,
        };
        let rests = ProxyError::from(error(Some(Duration::from_millis(4200))));
        assert_eq!(rests.retry_after, Some(5));
        let error = ProxyError::from(error(None));
        assert_eq!((error.code, error.retry_after), (Code::StartFailed, Some(30)));
        assert_eq!(error.message, "bad_key: no");
        let starting = AcquireError::Starting { retry_after: Duration::from_millis(2100) };
        assert_eq!(ProxyError::from(starting).retry_after, Some(3));
        let full = AcquireError::CapacityFull { message: "5 of 5 pods".to_owned() };
        let full = ProxyError::from(full);
        assert_eq!((full.code, full.message.as_ref()), (Code::CapacityFull, "5 of 5 pods"));
    }

    #[test]
    fn select_errors_keep_code_and_hint() {
        let error = SelectError::NoSuchCountry { value: "xx".to_owned(), suggestions: vec!["se".to_owned()] };
        let text = error.code();
        let error = ProxyError::from(error);
        assert_eq!(error.code.as_str(), text);
        assert!(error.hint.contains("se"), "{}", error.hint);
        assert_eq!(ProxyError::from(SelectError::NoServers).retry_after, Some(5));
    }
}
