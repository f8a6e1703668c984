//! The claim: a session as the cluster records it, in a `Lease`. Written by replicas (creation,
//! renewal) and by the leader (transitions, reasons, the exit), read by both; this file is the one
//! place that knows which field means what.
//!
//! | Lease | Here |
//! |---|---|
//! | name | [`SessionKey::claim_name`] |
//! | `renewTime` | last activity of the session |
//! | `leaseDurationSeconds` | the idle timeout |
//! | `leaseTransitions` | which exit of the session is the current one, from 0 |
//! | `holderIdentity`, `acquireTime` | the current pod and since when, for readers |

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::selector::SessionKey;

/// Label of every claim, by which they are watched.
pub const CLAIM_LABEL: &str = "app.kubernetes.io/component";
/// Value of [`CLAIM_LABEL`].
pub const CLAIM_LABEL_VALUE: &str = "claim";
/// Label selector of the watches of claims.
pub const CLAIM_SELECTOR: &str =
    "app.kubernetes.io/component=claim,app.kubernetes.io/managed-by=gluetun-gateway";

/// Annotations of a claim.
pub mod annotation {
    /// The session key in its canonical form: what the claim's name is the hash of.
    pub const KEY: &str = "gluetun-gateway/key";
    /// The account, for readers.
    pub const ACCOUNT: &str = "gluetun-gateway/account";
    /// The selector, for readers.
    pub const SELECTOR: &str = "gluetun-gateway/selector";
    /// `true` for a claim that is never reaped as idle.
    pub const PINNED: &str = "gluetun-gateway/pinned";
    /// The age at which an exit of the session is replaced (`30m`), where the session has one.
    pub const TTL: &str = "gluetun-gateway/ttl";
    /// When the current exit expires (RFC 3339), where the session has a `ttl`.
    pub const EXPIRES: &str = "gluetun-gateway/expires";
    /// The transition whose exit has become ready: the session has had an exit, and which.
    pub const READY: &str = "gluetun-gateway/ready";
    /// Why the session has no exit: a [`super::Reason`] in JSON.
    pub const REASON: &str = "gluetun-gateway/reason";
    /// A replica's word that the exit of a transition must be replaced: [`super::Replace`].
    pub const REPLACE: &str = "gluetun-gateway/replace";
    /// Prefix of `renewed-<transition>`: when a replica last had tunnels on an older exit (RFC 3339).
    pub const RENEWED_PREFIX: &str = "gluetun-gateway/renewed-";
    /// How long the first request is held at most (`0s` for one that isn't): what the leader's
    /// patience with a claim that nobody renews depends on.
    pub const WAIT: &str = "gluetun-gateway/wait";
}

/// Why a session has no exit, as the leader tells it to the replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// What follows from it.
    pub kind: ReasonKind,
    /// Stable code: `capacity_full`, `queue_full`, a start failure's class, `control_plane_forbidden`, …
    pub code: String,
    /// One sentence for a person, without secrets, pod names or addresses.
    pub message: String,
    /// The transition that it is about.
    pub transition: i32,
    /// Failed starts in a row, this one included.
    #[serde(default)]
    pub attempts: u32,
    /// Servers that failed in this row.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<String>,
    /// That starts rest after this failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
}

/// A rest between starts that fail. With the reason of the failed start it is the cluster's record of it:
/// any replica answers from it, and the next leader keeps to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// Since when starts have failed.
    #[serde(with = "rfc3339")]
    pub since: SystemTime,
    /// Until when none is tried.
    #[serde(with = "rfc3339")]
    pub until: SystemTime,
    /// How many rows of starts have failed since then.
    pub failures: u32,
    /// Whether it is the whole pool that rests (the key, the image, the nodes), not one location.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pool: bool,
}

impl Backoff {
    /// How long it still lasts, by this machine's clock.
    pub fn left(&self) -> Duration {
        self.until.duration_since(SystemTime::now()).unwrap_or_default()
    }

    /// What a client is told: since when starts have failed, and the last one's class and reason.
    pub fn message(&self, class: &str, reason: &str) -> String {
        let what = if self.pool { "starts in every location" } else { "starts in this location" };
        let since = humantime::format_rfc3339_seconds(self.since);
        let rows = if self.failures == 1 { "once".to_owned() } else { format!("{} times", self.failures) };
        format!("{what} have failed since {since} ({rows} in a row), the last with {class}: {reason}")
    }
}

/// Times in annotations: RFC 3339 in whole seconds.
mod rfc3339 {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_seconds(*time))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::parse_time(&text).ok_or_else(|| D::Error::custom("not a time"))
    }
}

/// What follows from a [`Reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasonKind {
    /// Nothing yet: those who wait go on waiting, and are told this when their time is over.
    Waiting,
    /// A start failed and another is on its way: as `Waiting`.
    Retrying,
    /// There will be no exit: those who wait are told so now, and the claim is about to go.
    Rejected,
    /// The exit is lost and the session is strict: every request is told so, until the claim ends.
    Lost,
}

/// More than any session may have (`Limits::max_ttl`).
pub(super) const MAX_TTL: Duration = Duration::from_secs(10 * 365 * 86_400);

/// The word of a replica that an exit is older than its session's `ttl`: the client's own wish, so that a
/// strict session follows it too.
pub const EXPIRED: &str = "expired";

/// A replica's word that the exit of `transition` must be replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replace {
    /// The transition whose exit it is; for any other the word is void.
    pub transition: i32,
    /// [`EXPIRED`], or what a replica has found the exit to be: `dead`, `unreachable` or `protocol`.
    pub why: String,
}

/// A claim, read from its `Lease`.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// Name of the Lease.
    pub name: String,
    /// Uid of the Lease: a claim made again after its end is another claim.
    pub uid: String,
    /// Resource version that this was read at.
    pub resource_version: String,
    /// The session.
    pub key: SessionKey,
    /// When the Lease was created, by the API server's clock.
    pub created: SystemTime,
    /// Last activity, by the clock of the replica that wrote it.
    pub renewed: SystemTime,
    /// The idle timeout.
    pub duration: Duration,
    /// Which exit is the current one, from 0.
    pub transition: i32,
    /// Name of the current pod, for readers.
    pub holder: Option<String>,
    /// Never reaped as idle.
    pub pinned: bool,
    /// The age at which an exit is replaced.
    pub ttl: Option<Duration>,
    /// When the current exit expires.
    pub expires: Option<SystemTime>,
    /// The last transition whose exit became ready.
    pub ready: Option<i32>,
    /// Why the session has no exit.
    pub reason: Option<Reason>,
    /// A replica's word that an exit must be replaced.
    pub replace: Option<Replace>,
    /// When replicas last had tunnels on older exits, by transition.
    pub renewed_older: BTreeMap<i32, SystemTime>,
    /// Made by a request that does not wait (`wait-0s`).
    pub no_wait: bool,
}

/// Why a `Lease` is not a claim of ours.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ClaimError {
    /// A field that every claim has is missing.
    #[error("lease {name}: {field} is missing")]
    Missing {
        /// Name of the Lease.
        name: String,
        /// The field.
        field: &'static str,
    },
    /// The key does not parse, or the Lease's name is not its hash: a Lease that was copied or edited.
    #[error("lease {name}: annotation {} does not match its name", annotation::KEY)]
    Key {
        /// Name of the Lease.
        name: String,
    },
}

/// What a claim is made from.
#[derive(Clone, Debug)]
pub struct NewClaim<'a> {
    /// The session.
    pub key: &'a SessionKey,
    /// The idle timeout.
    pub idle: Duration,
    /// The age at which an exit is replaced.
    pub ttl: Option<Duration>,
    /// Made by a request that does not wait.
    pub no_wait: bool,
    /// Now.
    pub now: SystemTime,
}

impl NewClaim<'_> {
    /// The `Lease` to create.
    pub fn lease(&self) -> Lease {
        let mut annotations = BTreeMap::from([
            (annotation::KEY.to_owned(), self.key.canonical()),
            (annotation::ACCOUNT.to_owned(), self.key.account.to_string()),
            (annotation::SELECTOR.to_owned(), self.key.selector_text()),
        ]);
        if let Some(ttl) = self.ttl {
            annotations.insert(annotation::TTL.to_owned(), humantime::format_duration(ttl).to_string());
        }
        if self.no_wait {
            annotations.insert(annotation::WAIT.to_owned(), "0s".to_owned());
        }
        let labels = BTreeMap::from([
            (CLAIM_LABEL.to_owned(), CLAIM_LABEL_VALUE.to_owned()),
            ("app.kubernetes.io/managed-by".to_owned(), "gluetun-gateway".to_owned()),
            ("app.kubernetes.io/part-of".to_owned(), "gluetun-gateway".to_owned()),
        ]);
        Lease {
            metadata: ObjectMeta {
                name: Some(self.key.claim_name()),
                annotations: Some(annotations),
                labels: Some(labels),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                lease_duration_seconds: Some(duration_seconds(self.idle)),
                lease_transitions: Some(0),
                renew_time: Some(micro_time(self.now)),
                ..LeaseSpec::default()
            }),
        }
    }
}

impl Claim {
    /// Reads a claim from a `Lease`.
    ///
    /// # Errors
    ///
    /// When the Lease was not made by a gateway, or was edited so that it no longer is a claim.
    /// Annotations that only add to it and do not parse are taken as absent.
    pub fn read(lease: &Lease) -> Result<Self, ClaimError> {
        let meta = &lease.metadata;
        let name = meta.name.clone().unwrap_or_default();
        let missing = |field| ClaimError::Missing { name: name.clone(), field };
        let spec = lease.spec.as_ref().ok_or_else(|| missing("spec"))?;
        let note = |key: &str| meta.annotations.as_ref().and_then(|a| a.get(key)).map(String::as_str);
        let canonical = note(annotation::KEY).ok_or_else(|| missing(annotation::KEY))?;
        let key =
            SessionKey::parse_canonical(canonical).map_err(|_| ClaimError::Key { name: name.clone() })?;
        if key.claim_name() != name {
            return Err(ClaimError::Key { name });
        }
        let seconds = spec.lease_duration_seconds.ok_or_else(|| missing("spec.leaseDurationSeconds"))?;
        let renew = spec.renew_time.as_ref().ok_or_else(|| missing("spec.renewTime"))?;
        let created =
            meta.creation_timestamp.as_ref().ok_or_else(|| missing("metadata.creationTimestamp"))?;
        let renewed_older = meta
            .annotations
            .iter()
            .flatten()
            .filter_map(|(k, v)| {
                let transition = k.strip_prefix(annotation::RENEWED_PREFIX)?.parse().ok()?;
                Some((transition, parse_time(v)?))
            })
            .collect();
        Ok(Self {
            uid: meta.uid.clone().ok_or_else(|| missing("metadata.uid"))?,
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            key,
            created: system_time(created.0),
            renewed: system_time(renew.0),
            duration: Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1)),
            transition: spec.lease_transitions.unwrap_or(0),
            holder: spec.holder_identity.clone(),
            pinned: note(annotation::PINNED) == Some("true"),
            // Of a larger one, which only a hand can have written, no date could be made.
            ttl: note(annotation::TTL)
                .and_then(|t| humantime::parse_duration(t).ok())
                .map(|t| t.min(MAX_TTL)),
            expires: note(annotation::EXPIRES).and_then(parse_time),
            ready: note(annotation::READY).and_then(|t| t.parse().ok()),
            reason: note(annotation::REASON).and_then(|t| serde_json::from_str(t).ok()),
            replace: note(annotation::REPLACE).and_then(|t| serde_json::from_str(t).ok()),
            renewed_older,
            no_wait: note(annotation::WAIT) == Some("0s"),
            name,
        })
    }

    /// Whether all that differs from `before` is when it was used and by what: the bulk of all changes.
    pub(crate) fn is_renewal_of(&self, before: &Self) -> bool {
        // Named one by one, so that a new field is thought of here.
        let Self {
            name,
            uid,
            resource_version: _,
            key,
            created,
            renewed: _,
            duration,
            transition,
            holder: _,
            pinned,
            ttl,
            expires,
            ready,
            reason,
            replace,
            renewed_older: _,
            no_wait,
        } = self;
        *uid == before.uid
            && *name == before.name
            && *key == before.key
            && *created == before.created
            && *duration == before.duration
            && *transition == before.transition
            && *pinned == before.pinned
            && *ttl == before.ttl
            && *expires == before.expires
            && *ready == before.ready
            && *reason == before.reason
            && *replace == before.replace
            && *no_wait == before.no_wait
    }

    /// Id of the pod of one of the claim's transitions: UUIDv5 of the claim's uid and the transition,
    /// so that creating it twice is a conflict that does no harm, whoever crashed in between.
    pub fn pod_id(&self, transition: i32) -> Uuid {
        pod_id(&self.uid, transition)
    }
}

/// Id of the pod of `transition` of the claim with `uid`.
pub fn pod_id(uid: &str, transition: i32) -> Uuid {
    let namespace = Uuid::parse_str(uid).unwrap_or(Uuid::NAMESPACE_OID);
    Uuid::new_v5(&namespace, format!("{uid}/{transition}").as_bytes())
}

/// A merge patch that renews the claim with `uid`: the uid makes it fail on another claim of the same
/// name, instead of renewing that. Never server-side apply, which would create the claim anew.
///
/// `older` are the transitions of older exits that still have tunnels.
pub fn renewal(uid: &str, renewed: SystemTime, older: &[i32], now: SystemTime) -> Value {
    let mut patch = json!({
        "metadata": { "uid": uid },
        "spec": { "renewTime": micro_time(renewed) },
    });
    for transition in older {
        let key = format!("{}{transition}", annotation::RENEWED_PREFIX);
        patch["metadata"]["annotations"][key] = format_time(now).into();
    }
    patch
}

/// A merge patch that pins the claim with `uid`: from then on it lives until it is deleted. `idle` only
/// says how often its activity is written.
pub fn pinning(uid: &str, idle: Duration, now: SystemTime) -> Value {
    json!({
        "metadata": { "uid": uid, "annotations": { annotation::PINNED: "true" } },
        "spec": { "renewTime": micro_time(now), "leaseDurationSeconds": duration_seconds(idle) },
    })
}

fn duration_seconds(idle: Duration) -> i32 {
    i32::try_from(idle.as_secs().max(1)).unwrap_or(i32::MAX)
}

/// A merge patch by which a replica asks that the exit of a transition be replaced.
pub fn replacement(uid: &str, replace: &Replace) -> Value {
    json!({ "metadata": { "uid": uid, "annotations": { annotation::REPLACE: json!(replace).to_string() } } })
}

/// `time` with six decimals, as the API server stores it.
pub fn micro_time(time: SystemTime) -> MicroTime {
    MicroTime(timestamp(time))
}

/// RFC 3339 text of `time`, for annotations.
pub fn format_time(time: SystemTime) -> String {
    format!("{:.6}", timestamp(time))
}

/// The time that an annotation tells.
pub fn parse_time(text: &str) -> Option<SystemTime> {
    text.parse::<Timestamp>().ok().map(system_time)
}

fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn system_time(time: Timestamp) -> SystemTime {
    SystemTime::from(time)
}

/// How long ago `time` was; zero for the future, which another replica's clock may be in.
pub(crate) fn age(time: SystemTime) -> Duration {
    SystemTime::now().duration_since(time).unwrap_or_default()
}
