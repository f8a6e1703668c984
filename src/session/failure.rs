//! Why a session gets no exit: the classes of failed starts, which the controller decides and the proxy
//! tells, and the errors of `acquire()`.

use std::time::Duration;

/// What made a pod fail. The text of each is stable: it is a metric's label, part of a claim's reason
/// and of the body that clients get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// The image cannot be pulled, or its name is invalid.
    ImagePull,
    /// No node can take the pod.
    Unschedulable,
    /// The pod's Secret, or one of its keys, is missing.
    MissingSecret,
    /// NET_ADMIN is not granted.
    NoNetAdmin,
    /// `/dev/net/tun` is missing on the node or in the pod.
    TunMissing,
    /// The VPN key or its addresses are malformed.
    BadKey,
    /// A setting of the pod's environment is refused by Gluetun.
    BadSetting,
    /// The server is unknown to the image.
    BadServer,
    /// The VPN is up by its own account, but nothing comes through: wrong key, dead server or wrong
    /// address, which cannot be told apart from outside.
    TunnelSilent,
    /// The pod was not healthy within `START_ATTEMPT_TIMEOUT`.
    AttemptTimeout,
    /// Killed for memory.
    OutOfMemory,
    /// Evicted by the kubelet, preempted, or ended with its node.
    Evicted,
    /// The container could not be started.
    StartError,
    /// The program ended by itself.
    Exited,
    /// The pod was deleted by someone else.
    Deleted,
    /// Refused by Pod Security.
    PodSecurity,
    /// Refused by an admission policy, or invalid for the API server.
    Admission,
    /// No server of the list matches any more, or each is in use by the same key.
    NoServer,
}

impl FailureClass {
    /// The class as clients, metrics and claims have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ImagePull => "image_pull",
            Self::Unschedulable => "unschedulable",
            Self::MissingSecret => "missing_secret",
            Self::NoNetAdmin => "no_net_admin",
            Self::TunMissing => "tun_missing",
            Self::BadKey => "bad_key",
            Self::BadSetting => "bad_setting",
            Self::BadServer => "bad_server",
            Self::TunnelSilent => "tunnel_silent",
            Self::AttemptTimeout => "attempt_timeout",
            Self::OutOfMemory => "out_of_memory",
            Self::Evicted => "evicted",
            Self::StartError => "start_error",
            Self::Exited => "exited",
            Self::Deleted => "deleted",
            Self::PodSecurity => "pod_security",
            Self::Admission => "admission",
            Self::NoServer => "no_server",
        }
    }

    /// Every class.
    pub const ALL: [Self; 18] = [
        Self::ImagePull,
        Self::Unschedulable,
        Self::MissingSecret,
        Self::NoNetAdmin,
        Self::TunMissing,
        Self::BadKey,
        Self::BadSetting,
        Self::BadServer,
        Self::TunnelSilent,
        Self::AttemptTimeout,
        Self::OutOfMemory,
        Self::Evicted,
        Self::StartError,
        Self::Exited,
        Self::Deleted,
        Self::PodSecurity,
        Self::Admission,
        Self::NoServer,
    ];

    /// The class with that text.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == text)
    }

    /// Whether a pod on another server may do better. Where it can't (the key, the image, the node),
    /// trying again only makes the client wait.
    pub const fn another_server_may_help(self) -> bool {
        match self {
            Self::BadServer
            | Self::TunnelSilent
            | Self::AttemptTimeout
            | Self::OutOfMemory
            | Self::Evicted
            | Self::StartError
            | Self::Exited
            | Self::Deleted => true,
            Self::ImagePull
            | Self::Unschedulable
            | Self::MissingSecret
            | Self::NoNetAdmin
            | Self::TunMissing
            | Self::BadKey
            | Self::BadSetting
            | Self::PodSecurity
            | Self::Admission
            | Self::NoServer => false,
        }
    }

    /// Whether it speaks against the server, so that others are preferred for a while.
    pub const fn blames_server(self) -> bool {
        matches!(self, Self::BadServer | Self::TunnelSilent | Self::AttemptTimeout)
    }
}

/// Codes of a claim's reason that are no failure class.
pub mod code {
    /// `INSTANCE_LIMIT` is reached.
    pub const CAPACITY_FULL: &str = "capacity_full";
    /// A ResourceQuota of the namespace is reached.
    pub const QUOTA_FULL: &str = "quota_full";
    /// Each server that the session may have is in use by another pod.
    pub const SERVER_IN_USE: &str = "server_in_use";
    /// Too many claims wait for a pod.
    pub const QUEUE_FULL: &str = "queue_full";
    /// The gateway lacks a right in the cluster.
    pub const FORBIDDEN: &str = "control_plane_forbidden";
    /// The API server does not answer the leader.
    pub const UNAVAILABLE: &str = "control_plane_unavailable";
    /// The exit of a strict session is lost.
    pub const EXIT_LOST: &str = "exit_lost";
    /// The account, or its share group, has as many sessions as it may.
    pub const ACCOUNT_QUOTA: &str = "account_quota";
    /// The account's policy allows none of the place's servers.
    pub const LOCATION_FORBIDDEN: &str = "location_forbidden";
    /// The leader knows no such account: it was removed, or is newer than the leader's files.
    pub const ACCOUNT_UNKNOWN: &str = "account_unknown";
    /// All of them.
    pub const ALL: [&str; 10] = [
        CAPACITY_FULL,
        QUOTA_FULL,
        SERVER_IN_USE,
        QUEUE_FULL,
        FORBIDDEN,
        UNAVAILABLE,
        EXIT_LOST,
        ACCOUNT_QUOTA,
        LOCATION_FORBIDDEN,
        ACCOUNT_UNKNOWN,
    ];
}

/// Why a session could not be given an exit.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AcquireError {
    /// The pod limit, or a ResourceQuota, was reached for as long as the request was held.
    #[error("{message}")]
    CapacityFull {
        /// Which limit, used and most.
        message: String,
    },
    /// Too many requests or claims wait already.
    #[error("{message}")]
    QueueFull {
        /// Which queue.
        message: String,
    },
    /// The hold ended while the pod was still starting.
    #[error("the exit is still starting{}", last.as_ref().map(|m| format!("; {m}")).unwrap_or_default())]
    StartTimeout {
        /// What went wrong on the way, if anything did.
        last: Option<String>,
    },
    /// The request does not wait (`wait-0s`); the start was triggered.
    #[error("an exit is being started")]
    Starting {
        /// After how long a start of this gateway usually ends.
        retry_after: Duration,
    },
    /// The pod failed, and trying further would not help.
    #[error("{message}")]
    StartFailed {
        /// What kind of failure.
        class: FailureClass,
        /// One sentence, without pod names and addresses.
        message: String,
    },
    /// The exit of a strict session is lost.
    #[error("the exit of this session is lost")]
    ExitLost,
    /// The Kubernetes API cannot be reached, and a new pod is needed.
    #[error("the Kubernetes API does not answer")]
    ControlPlaneUnavailable,
    /// The gateway lacks a right in the cluster.
    #[error("{message}")]
    ControlPlaneForbidden {
        /// Verb and resource.
        message: String,
    },
    /// The account has as many sessions as it may.
    #[error("{message}")]
    AccountQuota {
        /// Which limit, used and most.
        message: String,
    },
    /// The account may use none of the place's servers.
    #[error("{message}")]
    LocationForbidden {
        /// Which place.
        message: String,
    },
    /// The account has been removed.
    #[error("the account is gone")]
    AccountGone,
    /// The gateway is shutting down.
    #[error("the gateway is shutting down")]
    ShuttingDown,
}
