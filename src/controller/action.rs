//! What the plan asks for, what comes back, and what is told to people about it. One [`Action`] is one
//! call to the API, so that whoever carries them out (the leader's loop, or the model) may stop
//! between any two.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::patch::ClaimPatch;
use crate::servers::Server;
use crate::session::FailureClass;
use crate::session::api::ApiError;
use crate::session::claim::{Backoff, Claim, EXPIRED};

/// The time at which something happens: the plan has no clock of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// On this process's monotonic clock, since some moment of its past. Everything that this leader
    /// observes for itself is measured on it.
    pub(super) mono: Duration,
    /// By this machine's clock: only compared with times that others wrote.
    pub(super) wall: SystemTime,
}

/// A pod to be made.
#[derive(Clone, Debug)]
pub(super) struct NewPod {
    /// Its name, which follows from the claim's uid and the transition.
    pub(super) name: String,
    /// The claim that it serves.
    pub(super) claim: Arc<Claim>,
    /// The VPN server that it is pinned to.
    pub(super) server: Arc<Server>,
}

/// One call to the API.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// Creates a pod.
    CreatePod(NewPod),
    /// Looks whether a pod of that name exists, to learn what became of its creation.
    FindPod {
        /// Its name.
        name: String,
    },
    /// Deletes the pod with that uid.
    DeletePod {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
        /// Why.
        why: PodEnd,
    },
    /// Changes a claim, if it still is what it was when this was decided.
    PatchClaim {
        /// The claim, as it was then.
        claim: Arc<Claim>,
        /// The change.
        patch: ClaimPatch,
    },
    /// Deletes the claim with that uid.
    DeleteClaim {
        /// The claim, as it was when this was decided.
        claim: Arc<Claim>,
        /// Whether a change of the claim since then (a renewal) prevents it.
        unless_changed: bool,
        /// Why.
        why: ClaimEnd,
    },
    /// Looks whether the claim of a pod still exists.
    FindClaim {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
    /// Reads the end of a pod's log, for why it ended.
    ReadLog {
        /// The pod's name.
        pod: String,
        /// The pod's uid.
        uid: String,
    },
    /// Reads the newest warning about a pod, for why its container does not come.
    ReadWarning {
        /// The pod's name.
        pod: String,
        /// The pod's uid.
        uid: String,
    },
}

/// What came back, by kind of action.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// The pod was created with that uid.
    Created {
        /// Its uid.
        uid: String,
    },
    /// The object was looked for, and has that uid if it exists.
    Found(Option<String>),
    /// The claim was changed.
    Patched {
        /// The resource version that it has now.
        resource_version: String,
    },
    /// The object is gone, or going.
    Deleted,
    /// What the log or the warning means, if it means anything.
    Cause(Option<FailureClass>),
}

/// An action's result.
pub(super) type Outcome = Result<Answer, ApiError>;

/// Why a pod is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PodEnd {
    /// Its claim is gone.
    NoClaim,
    /// Its start failed.
    Failed,
    /// It was in use, and has ended by itself or by its node.
    Ended,
    /// It is an older exit that nobody uses any more.
    Drained,
    /// It is an older exit, and dead, or in the way: its time is over.
    DrainTimeout,
    /// A newer exit of its claim drains already.
    Superseded,
    /// The claim has been given up.
    GivenUp,
}

impl PodEnd {
    /// For people.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::NoClaim => "its session has ended",
            Self::Failed => "its start failed",
            Self::Ended => "it has ended, and its session has another",
            Self::Drained => "it was replaced and nobody uses it any more",
            Self::DrainTimeout => "it was replaced and its time to drain is over",
            Self::Superseded => "it was replaced twice",
            Self::GivenUp => "its session has been given up",
        }
    }
}

/// Why a claim is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClaimEnd {
    /// Nobody has used it for its idle timeout.
    Idle,
    /// It has no exit, and nobody waits for one.
    Unwanted,
    /// Those who waited have been told that there will be no exit.
    Rejected,
    /// It is pinned or the management API's, and its pod is lost.
    PinnedLost,
    /// It is the management API's, and past its `ttl`.
    Expired,
    /// Its account, or share group, is gone.
    AccountGone,
}

impl ClaimEnd {
    /// For people.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Unwanted => "nobody waits for it",
            Self::Rejected => "rejected",
            Self::PinnedLost => "the one exit that it was made for is lost",
            Self::Expired => "its exit has reached its ttl",
            Self::AccountGone => "its account is gone",
        }
    }
}

/// Why an exit that was in use is replaced or given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LostWhy {
    /// Its pod failed, or is gone.
    Pod(FailureClass),
    /// A replica found that nothing comes through it.
    Dead,
    /// It is older than its session's `ttl`.
    Expired,
    /// A replica cannot reach its pod.
    Unreachable,
    /// Its proxy does not answer as Gluetun does.
    Protocol,
    /// It is where its account may no longer have one.
    Forbidden,
    /// A word of a replica that this version does not know.
    Other,
}

impl LostWhy {
    /// Reads a replica's word.
    pub(super) fn parse(word: &str) -> Self {
        match word {
            "dead" => Self::Dead,
            EXPIRED => Self::Expired,
            "unreachable" => Self::Unreachable,
            "protocol" => Self::Protocol,
            _ => Self::Other,
        }
    }

    /// As metrics and the log have it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Pod(class) => class.as_str(),
            Self::Dead => "dead",
            Self::Expired => EXPIRED,
            Self::Unreachable => "unreachable",
            Self::Protocol => "protocol",
            Self::Forbidden => "forbidden",
            Self::Other => "other",
        }
    }
}

/// The pod that a story is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodRef {
    /// Name.
    pub(super) name: String,
    /// Uid; empty where it is not known.
    pub(super) uid: String,
}

/// A step in the life of a pod or a claim, for the log, the cluster's Events and the metrics.
#[derive(Clone, Debug)]
pub(super) enum Story {
    /// A pod was created.
    Created {
        /// The pod.
        pod: PodRef,
        /// Its claim.
        claim: Arc<Claim>,
        /// Its server.
        server: Arc<Server>,
    },
    /// A pod's container runs.
    Running {
        /// The pod.
        pod: PodRef,
        /// Its claim.
        claim: Arc<Claim>,
        /// Since the pod was made, or first seen by this leader.
        after: Duration,
    },
    /// A pod's VPN is up.
    Ready {
        /// The pod.
        pod: PodRef,
        /// Its claim.
        claim: Arc<Claim>,
        /// Since the pod was made, or first seen by this leader.
        after: Duration,
    },
    /// A start failed.
    Failed {
        /// The pod.
        pod: PodRef,
        /// Its claim.
        claim: Arc<Claim>,
        /// What kind of failure.
        class: FailureClass,
        /// Failed starts in a row, this one included.
        attempts: u32,
        /// Whether another is tried.
        retry: bool,
    },
    /// An exit that was in use is lost or replaced.
    Lost {
        /// The pod.
        pod: PodRef,
        /// Its claim.
        claim: Arc<Claim>,
        /// Why.
        why: LostWhy,
    },
    /// Starts of a location, or of the whole pool, rest from now on.
    Resting {
        /// The claim whose start was the last to fail.
        claim: Arc<Claim>,
        /// How it failed.
        class: FailureClass,
        /// The rest.
        backoff: Backoff,
    },
    /// A claim has to wait, or will get no exit.
    Told {
        /// The claim.
        claim: Arc<Claim>,
        /// The reason's code.
        code: String,
        /// The reason's text.
        message: String,
        /// Whether it is the end.
        rejected: bool,
    },
    /// A pod was deleted.
    PodDeleted {
        /// The pod.
        pod: PodRef,
        /// Why.
        why: PodEnd,
    },
    /// A claim was deleted.
    ClaimDeleted {
        /// The claim.
        claim: Arc<Claim>,
        /// Why.
        why: ClaimEnd,
    },
    /// A Lease with a claim's label is none; told once.
    Unreadable {
        /// Why.
        error: String,
    },
    /// A call failed in a way that the API's counters do not explain.
    CallFailed {
        /// What was tried.
        what: &'static str,
        /// On which object.
        name: String,
        /// Why it failed.
        error: ApiError,
    },
}
