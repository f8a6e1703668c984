//! The leader's changes of a claim, as values and as merge patches.
//!
//! Each carries the uid and the resource version at which it was decided: a renewal, a replica's word or
//! the claim's end in between makes it a 409 or 404, and it is decided anew.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::session::claim::{Claim, Reason, annotation, format_time, micro_time};

/// A change of a claim.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ClaimPatch {
    /// The exit of the current transition is ready.
    Ready {
        /// Its pod.
        holder: String,
        /// Now.
        acquired: SystemTime,
        /// When it expires, where the session has a `ttl`.
        expires: Option<SystemTime>,
    },
    /// The session shall have another exit.
    Next {
        /// What it has gone through, when its starts fail; none when it starts from a good exit.
        reason: Option<Reason>,
    },
    /// Why the session has no exit.
    Reason(Reason),
}

impl ClaimPatch {
    /// The merge patch that makes this change of `claim`.
    pub(super) fn json(&self, claim: &Claim) -> Value {
        let reason = |reason: &Reason| Value::String(json!(reason).to_string());
        let mut patch = json!({
            "metadata": { "uid": claim.uid, "resourceVersion": claim.resource_version, "annotations": {} },
        });
        let notes = &mut patch["metadata"]["annotations"];
        match self {
            Self::Ready { holder, acquired, expires } => {
                notes[annotation::READY] = claim.transition.to_string().into();
                notes[annotation::REASON] = Value::Null;
                notes[annotation::EXPIRES] = expires.map(format_time).into();
                patch["spec"] = json!({ "holderIdentity": holder, "acquireTime": micro_time(*acquired) });
            }
            Self::Next { reason: why } => {
                notes[annotation::REASON] = why.as_ref().map_or(Value::Null, reason);
                // The expiry was that of the exit that goes.
                notes[annotation::EXPIRES] = Value::Null;
                // Of those older than the one that drains from now on, nobody will ask any more.
                let draining = draining(claim, why.as_ref());
                for older in claim.renewed_older.keys().filter(|older| **older < draining) {
                    notes[format!("{}{older}", annotation::RENEWED_PREFIX)] = Value::Null;
                }
                patch["spec"] = json!({ "leaseTransitions": claim.transition.saturating_add(1) });
            }
            Self::Reason(why) => notes[annotation::REASON] = reason(why),
        }
        patch
    }

    /// What the claim is after this change.
    #[cfg(test)]
    pub(super) fn apply(&self, claim: &mut Claim) {
        match self {
            Self::Ready { holder, expires, .. } => {
                claim.ready = Some(claim.transition);
                claim.reason = None;
                claim.expires = *expires;
                claim.holder = Some(holder.clone());
            }
            Self::Next { reason } => {
                claim.reason = reason.clone();
                claim.expires = None;
                let draining = draining(claim, reason.as_ref());
                claim.renewed_older.retain(|older, _| *older >= draining);
                claim.transition += 1;
            }
            Self::Reason(reason) => claim.reason = Some(reason.clone()),
        }
    }
}

/// The transition whose exit drains once the claim goes on: the current one, unless its start has failed; then
/// the one before the row of failed starts, each of which has had a transition of its own.
fn draining(claim: &Claim, why: Option<&Reason>) -> i32 {
    let failed = why.map_or(0, |reason| i32::try_from(reason.attempts).unwrap_or(i32::MAX));
    claim.transition.saturating_sub(failed)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::api::coordination::v1::Lease;

    use super::*;
    use crate::selector::SessionKey;
    use crate::session::claim::{Backoff, NewClaim, ReasonKind};

    /// RFC 7396.
    fn merge(target: &mut Value, patch: &Value) {
        let Value::Object(fields) = patch else {
            *target = patch.clone();
            return;
        };
        if !target.is_object() {
            *target = json!({});
        }
        for (key, value) in fields {
            if value.is_null() {
                target.as_object_mut().unwrap().remove(key);
            } else {
                merge(&mut target[key], value);
            }
        }
    }

    #[test]
    fn a_patch_does_to_the_lease_what_it_says_of_the_claim() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let key = SessionKey::parse_canonical("demo-country-se").unwrap();
        let new = NewClaim {
            key: &key,
            idle: Duration::from_secs(60),
            ttl: Some(Duration::from_secs(600)),
            no_wait: false,
            now,
        };
        let mut lease = serde_json::to_value(new.lease()).unwrap();
        lease["metadata"]["uid"] = "6ba7b810-9dad-11d1-80b4-00c04fd430c8".into();
        lease["metadata"]["resourceVersion"] = "7".into();
        lease["metadata"]["creationTimestamp"] = "2027-01-15T08:00:00Z".into();
        let read = |lease: &Value| {
            let lease: Lease = serde_json::from_value(lease.clone()).unwrap();
            Claim::read(&lease).unwrap()
        };
        let reason = Reason {
            kind: ReasonKind::Retrying,
            code: "tunnel_silent".into(),
            message: "nothing comes through".into(),
            transition: 0,
            attempts: 1,
            servers: vec!["se-1".into()],
            backoff: Some(Backoff {
                since: now,
                until: now + Duration::from_secs(5),
                failures: 2,
                pool: true,
            }),
        };
        lease["metadata"]["annotations"]["gluetun-gateway/renewed-0"] = "2027-01-15T08:00:00Z".into();
        let mut claim = read(&lease);
        assert_eq!(claim.renewed_older.len(), 1);
        for patch in [
            ClaimPatch::Reason(reason.clone()),
            ClaimPatch::Next { reason: Some(reason) },
            ClaimPatch::Ready {
                holder: "gluetun-x".into(),
                acquired: now,
                expires: Some(now + Duration::from_secs(600)),
            },
            ClaimPatch::Next { reason: None },
            ClaimPatch::Ready { holder: "gluetun-y".into(), acquired: now, expires: None },
        ] {
            merge(&mut lease, &patch.json(&claim));
            patch.apply(&mut claim);
            assert_eq!(read(&lease), claim, "{patch:?}");
        }
        assert_eq!(claim.transition, 2);
        assert_eq!(claim.ready, Some(2));
        assert!(claim.renewed_older.is_empty());
    }

    /// While the starts of its next exit fail, the old one still has tunnels.
    #[test]
    fn the_word_of_tunnels_outlives_starts_that_fail() {
        let failed = |attempts, transition| Reason {
            kind: ReasonKind::Retrying,
            code: "tunnel_silent".into(),
            message: "nothing comes through".into(),
            transition,
            attempts,
            servers: Vec::new(),
            backoff: None,
        };
        let mut claim = crate::controller::testing::claim(&crate::controller::testing::key("demo"), "c");
        claim.transition = 4;
        claim.renewed_older.insert(3, SystemTime::UNIX_EPOCH);
        ClaimPatch::Next { reason: None }.apply(&mut claim);
        assert!(claim.renewed_older.is_empty(), "the exit of 4 drains, that of 3 is gone");
        claim.renewed_older.insert(4, SystemTime::UNIX_EPOCH);
        for attempts in 1..=2 {
            let patch = ClaimPatch::Next { reason: Some(failed(attempts, claim.transition)) };
            assert!(patch.json(&claim)["metadata"]["annotations"].get("gluetun-gateway/renewed-4").is_none());
            patch.apply(&mut claim);
            assert!(claim.renewed_older.contains_key(&4), "after {attempts}");
        }
        ClaimPatch::Next { reason: None }.apply(&mut claim);
        assert!(claim.renewed_older.is_empty());
    }

    #[test]
    fn every_patch_has_its_preconditions() {
        let key = SessionKey::parse_canonical("demo").unwrap();
        let claim = crate::controller::testing::claim(&key, "u1");
        let patch = ClaimPatch::Next { reason: None }.json(&claim);
        assert_eq!(patch["metadata"]["uid"], "u1");
        assert_eq!(patch["metadata"]["resourceVersion"], claim.resource_version.as_str());
    }
}
