//! The codes of failures, and what each of them means in HTTP. Every table is a `match` without a
//! catch-all, so that a new code cannot be mislabelled.

/// What failed. The text of each ([`Code::as_str`]) is stable: clients, metrics and logs have it, and
/// `docs/errors.md` describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// No credentials.
    AuthRequired,
    /// Malformed or wrong credentials, an unknown or a disabled account.
    AuthFailed,
    /// Too many failed logins from this address.
    AuthThrottled,
    /// An unknown, duplicate or malformed parameter in the username.
    BadParameter,
    /// Parameters that do not go together.
    BadCombination,
    /// No such country in the server list.
    NoSuchCountry,
    /// No such city.
    NoSuchCity,
    /// No such server.
    NoSuchServer,
    /// Not HTTP, or a request for a web server rather than for a proxy.
    NotAProxyRequest,
    /// The target of the request is not one that a proxy can reach.
    BadTarget,
    /// The location exists, but not for this account.
    LocationForbidden,
    /// The destination is on the deny list.
    DestinationDenied,
    /// The destination is the gateway itself.
    ProxyLoop,
    /// The account's quota is used up.
    AccountQuota,
    /// Every slot of the pool's keys is in use.
    KeySlotsFull,
    /// The limit on pods is reached.
    CapacityFull,
    /// Too many requests wait.
    QueueFull,
    /// The hold ended before the exit was ready.
    StartTimeout,
    /// No exit is ready, and the request does not wait.
    Starting,
    /// The pod failed.
    StartFailed,
    /// Starts of this session failed again and again.
    StartBackoff,
    /// The exit of a strict session is lost.
    ExitLost,
    /// The exit does not pass anything on.
    ExitUnhealthy,
    /// The exit's proxy answers what it never should.
    ExitProtocol,
    /// The destination refused the connection.
    UpstreamRefused,
    /// The destination's name was not found.
    UpstreamDns,
    /// The destination did not answer.
    UpstreamTimeout,
    /// Anything else between the exit and the destination.
    UpstreamError,
    /// The Kubernetes API does not answer, and a pod is needed.
    ControlPlaneUnavailable,
    /// The gateway lacks a right in the cluster.
    ControlPlaneForbidden,
    /// The gateway is shutting down.
    ShuttingDown,
    /// The head is over 16 KiB or 64 header fields.
    HeadTooLarge,
    /// The head did not come in time.
    HeadTimeout,
}

/// Every code, for documentation and its test.
pub const ALL_CODES: [Code; 33] = [
    Code::AuthRequired,
    Code::AuthFailed,
    Code::AuthThrottled,
    Code::BadParameter,
    Code::BadCombination,
    Code::NoSuchCountry,
    Code::NoSuchCity,
    Code::NoSuchServer,
    Code::NotAProxyRequest,
    Code::BadTarget,
    Code::LocationForbidden,
    Code::DestinationDenied,
    Code::ProxyLoop,
    Code::AccountQuota,
    Code::KeySlotsFull,
    Code::CapacityFull,
    Code::QueueFull,
    Code::StartTimeout,
    Code::Starting,
    Code::StartFailed,
    Code::StartBackoff,
    Code::ExitLost,
    Code::ExitUnhealthy,
    Code::ExitProtocol,
    Code::UpstreamRefused,
    Code::UpstreamDns,
    Code::UpstreamTimeout,
    Code::UpstreamError,
    Code::ControlPlaneUnavailable,
    Code::ControlPlaneForbidden,
    Code::ShuttingDown,
    Code::HeadTooLarge,
    Code::HeadTimeout,
];

impl Code {
    /// The code as `X-Gateway-Error`, the body, logs and metrics have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuthRequired => "auth_required",
            Self::AuthFailed => "auth_failed",
            Self::AuthThrottled => "auth_throttled",
            Self::BadParameter => "bad_parameter",
            Self::BadCombination => "bad_combination",
            Self::NoSuchCountry => "no_such_country",
            Self::NoSuchCity => "no_such_city",
            Self::NoSuchServer => "no_such_server",
            Self::NotAProxyRequest => "not_a_proxy_request",
            Self::BadTarget => "bad_target",
            Self::LocationForbidden => "location_forbidden",
            Self::DestinationDenied => "destination_denied",
            Self::ProxyLoop => "proxy_loop",
            Self::AccountQuota => "account_quota",
            Self::KeySlotsFull => "key_slots_full",
            Self::CapacityFull => "capacity_full",
            Self::QueueFull => "queue_full",
            Self::StartTimeout => "start_timeout",
            Self::Starting => "starting",
            Self::StartFailed => "start_failed",
            Self::StartBackoff => "start_backoff",
            Self::ExitLost => "exit_lost",
            Self::ExitUnhealthy => "exit_unhealthy",
            Self::ExitProtocol => "exit_protocol",
            Self::UpstreamRefused => "upstream_refused",
            Self::UpstreamDns => "upstream_dns",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamError => "upstream_error",
            Self::ControlPlaneUnavailable => "control_plane_unavailable",
            Self::ControlPlaneForbidden => "control_plane_forbidden",
            Self::ShuttingDown => "shutting_down",
            Self::HeadTooLarge => "head_too_large",
            Self::HeadTimeout => "head_timeout",
        }
    }

    /// The HTTP status. 400 and not 404 for a missing place: 404 on plain HTTP looks like the origin's
    /// answer. 503 says that nothing began, 504 that something did.
    pub const fn status(self) -> u16 {
        match self {
            Self::BadParameter
            | Self::BadCombination
            | Self::NoSuchCountry
            | Self::NoSuchCity
            | Self::NoSuchServer
            | Self::NotAProxyRequest
            | Self::BadTarget => 400,
            Self::LocationForbidden | Self::DestinationDenied | Self::ProxyLoop => 403,
            Self::AuthRequired | Self::AuthFailed => 407,
            Self::HeadTimeout => 408,
            Self::AuthThrottled | Self::AccountQuota => 429,
            Self::HeadTooLarge => 431,
            Self::StartFailed
            | Self::ExitLost
            | Self::ExitUnhealthy
            | Self::ExitProtocol
            | Self::UpstreamRefused
            | Self::UpstreamDns
            | Self::UpstreamError => 502,
            Self::CapacityFull
            | Self::KeySlotsFull
            | Self::QueueFull
            | Self::Starting
            | Self::StartBackoff
            | Self::ControlPlaneUnavailable
            | Self::ControlPlaneForbidden
            | Self::ShuttingDown => 503,
            Self::StartTimeout | Self::UpstreamTimeout => 504,
        }
    }

    /// The reason phrase of [`Self::status`].
    pub const fn reason(self) -> &'static str {
        match self.status() {
            400 => "Bad Request",
            403 => "Forbidden",
            407 => "Proxy Authentication Required",
            408 => "Request Timeout",
            429 => "Too Many Requests",
            431 => "Request Header Fields Too Large",
            502 => "Bad Gateway",
            503 => "Service Unavailable",
            _ => "Gateway Timeout",
        }
    }

    /// The error type of `Proxy-Status` (RFC 9209, 2.3).
    pub const fn proxy_status(self) -> &'static str {
        match self {
            Self::AuthRequired
            | Self::AuthFailed
            | Self::AuthThrottled
            | Self::LocationForbidden
            | Self::DestinationDenied => "http_request_denied",
            Self::BadParameter
            | Self::BadCombination
            | Self::NoSuchCountry
            | Self::NoSuchCity
            | Self::NoSuchServer
            | Self::NotAProxyRequest
            | Self::BadTarget
            | Self::HeadTooLarge
            | Self::HeadTimeout => "http_request_error",
            Self::ProxyLoop => "proxy_loop_detected",
            Self::AccountQuota | Self::KeySlotsFull | Self::CapacityFull | Self::QueueFull => {
                "connection_limit_reached"
            }
            Self::StartTimeout | Self::UpstreamTimeout => "connection_timeout",
            Self::Starting | Self::StartBackoff => "destination_unavailable",
            Self::StartFailed | Self::ExitProtocol | Self::ControlPlaneUnavailable | Self::ShuttingDown => {
                "proxy_internal_error"
            }
            Self::ExitLost => "connection_terminated",
            Self::ExitUnhealthy => "destination_ip_unroutable",
            Self::UpstreamRefused => "connection_refused",
            Self::UpstreamDns => "dns_error",
            Self::UpstreamError => "destination_unavailable",
            Self::ControlPlaneForbidden => "proxy_configuration_error",
        }
    }

    /// Whether the same request may do better later, without a change by the client or the operator.
    pub const fn retryable(self) -> bool {
        match self {
            Self::AuthThrottled
            | Self::AccountQuota
            | Self::KeySlotsFull
            | Self::CapacityFull
            | Self::QueueFull
            | Self::StartTimeout
            | Self::Starting
            | Self::StartFailed
            | Self::StartBackoff
            | Self::ExitUnhealthy
            | Self::ExitProtocol
            | Self::UpstreamTimeout
            | Self::ControlPlaneUnavailable
            | Self::ShuttingDown
            | Self::HeadTimeout => true,
            Self::AuthRequired
            | Self::AuthFailed
            | Self::BadParameter
            | Self::BadCombination
            | Self::NoSuchCountry
            | Self::NoSuchCity
            | Self::NoSuchServer
            | Self::NotAProxyRequest
            | Self::BadTarget
            | Self::LocationForbidden
            | Self::DestinationDenied
            | Self::ProxyLoop
            | Self::ExitLost
            | Self::UpstreamRefused
            | Self::UpstreamDns
            | Self::UpstreamError
            | Self::ControlPlaneForbidden
            | Self::HeadTooLarge => false,
        }
    }

    /// `Retry-After` in seconds, where whoever made the error knows no better.
    pub const fn retry_after(self) -> Option<u32> {
        match self {
            Self::ShuttingDown => Some(1),
            Self::QueueFull => Some(2),
            Self::StartTimeout | Self::Starting => Some(3),
            Self::ExitUnhealthy | Self::ControlPlaneUnavailable | Self::StartFailed => Some(5),
            Self::AccountQuota | Self::KeySlotsFull | Self::CapacityFull => Some(10),
            Self::AuthThrottled | Self::StartBackoff => Some(30),
            Self::AuthRequired
            | Self::AuthFailed
            | Self::BadParameter
            | Self::BadCombination
            | Self::NoSuchCountry
            | Self::NoSuchCity
            | Self::NoSuchServer
            | Self::NotAProxyRequest
            | Self::BadTarget
            | Self::LocationForbidden
            | Self::DestinationDenied
            | Self::ProxyLoop
            | Self::ExitLost
            | Self::ExitProtocol
            | Self::UpstreamRefused
            | Self::UpstreamDns
            | Self::UpstreamTimeout
            | Self::UpstreamError
            | Self::ControlPlaneForbidden
            | Self::HeadTooLarge
            | Self::HeadTimeout => None,
        }
    }

    /// What the client can do, where whoever made the error knows no better.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::AuthRequired => {
                "set the proxy URL to http://ACCOUNT:PASSWORD@HOST:PORT, parameters behind the account"
            }
            Self::AuthFailed => "check account and password; the account is the text before the first '-'",
            Self::AuthThrottled | Self::AccountQuota => "wait as long as Retry-After says",
            Self::BadParameter => "a username is ACCOUNT[-KEY-VALUE]*, as in alice-country-se-session-a",
            Self::BadCombination => "leave one of the parameters out",
            Self::NoSuchCountry | Self::NoSuchCity | Self::NoSuchServer => {
                "GET /locations on the admin port lists what there is"
            }
            Self::NotAProxyRequest => {
                "this port is an HTTP proxy: send CONNECT or an absolute http:// URL; the management API \
                 is on the admin port"
            }
            Self::BadTarget => "CONNECT takes host:port, any other method an absolute http:// URL",
            Self::LocationForbidden => "ask the operator for this location",
            Self::DestinationDenied => "the operator can allow it by ALLOW_DESTINATIONS",
            Self::ProxyLoop => "talk to the gateway directly, without the proxy",
            Self::KeySlotsFull | Self::CapacityFull => {
                "room is made when a session ends or is idle; ask for an exit that exists, or retry"
            }
            Self::QueueFull | Self::ExitProtocol | Self::HeadTimeout => "retry",
            Self::StartTimeout | Self::Starting => "the start goes on; the same request will use it",
            Self::StartFailed | Self::StartBackoff => "the operator finds the details on the admin port",
            Self::ExitLost => "use another session name to accept another address",
            Self::ExitUnhealthy => "retry: a replacement is started",
            Self::UpstreamRefused | Self::UpstreamDns => "check the destination's host and port",
            Self::UpstreamTimeout => "the exit works, the destination does not answer it",
            Self::UpstreamError => "check the destination, or try another exit",
            Self::ControlPlaneUnavailable => "sessions with an exit still work; retry",
            Self::ControlPlaneForbidden => "the operator must grant the gateway's service account the right",
            Self::ShuttingDown => "connect again",
            Self::HeadTooLarge => "a head has at most 16 KiB and 64 fields",
        }
    }
}
