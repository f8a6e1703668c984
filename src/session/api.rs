//! One call to the Kubernetes API: with a deadline of its own, counted, and its failure told in the
//! few kinds that anything here depends on. Every call of the session table and of the controller
//! goes through [`call`].
//!
//! kube sets no deadline by itself, so a hung API server would hang its caller for ever. And the API
//! answers 403 for a missing right, a reached quota and a refused pod alike: they are told apart by
//! message, here and nowhere else.

use std::time::Duration;

use kube::core::Status;

use crate::metrics::Metrics;

/// What a call does, as the metric `kubernetes_requests_total` counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Reads one object.
    Get,
    /// Reads many.
    List,
    /// Creates one.
    Create,
    /// Changes some fields of one.
    Patch,
    /// Replaces one as a whole.
    Update,
    /// Deletes one.
    Delete,
}

impl Verb {
    /// The verb as RBAC and the metric spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Create => "create",
            Self::Patch => "patch",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// Which of the API's many reasons for a 403 it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForbiddenKind {
    /// The gateway lacks a right (RBAC).
    Rights,
    /// A ResourceQuota of the namespace is reached: waiting helps.
    Quota,
    /// The namespace enforces a Pod Security level that the pod violates.
    PodSecurity,
    /// Another admission plugin or webhook refused it (LimitRange, a policy, a namespace that is
    /// being deleted).
    Admission,
}

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ApiError {
    /// There is no such object.
    #[error("not found")]
    NotFound,
    /// A precondition (uid, resource version) does not hold.
    #[error("conflict with another writer")]
    Conflict,
    /// An object of that name exists.
    #[error("already exists")]
    AlreadyExists,
    /// The API server or an admission policy finds the request invalid; sending it again is pointless.
    #[error("refused as invalid: {0}")]
    Invalid(String),
    /// Refused with 403.
    #[error("forbidden: {1}")]
    Forbidden(ForbiddenKind, String),
    /// No answer within the deadline: the call may have taken effect or not.
    #[error("no answer in time")]
    Timeout,
    /// The API server could not be reached, or could not answer: the call may have taken effect or not.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

impl ApiError {
    /// Whether the call may nevertheless have taken effect.
    pub const fn is_ambiguous(&self) -> bool {
        match self {
            Self::Timeout | Self::Unavailable(_) => true,
            Self::NotFound
            | Self::Conflict
            | Self::AlreadyExists
            | Self::Invalid(_)
            | Self::Forbidden(..) => false,
        }
    }

    /// The outcome as the metric `kubernetes_requests_total` counts it.
    const fn outcome(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Conflict | Self::AlreadyExists => "conflict",
            Self::Invalid(_) => "invalid",
            Self::Forbidden(..) => "forbidden",
            Self::Timeout => "timeout",
            Self::Unavailable(_) => "error",
        }
    }
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => from_status(&status),
            other => Self::Unavailable(chain(&other)),
        }
    }
}

/// Makes a call: `future` within `deadline`, counted by verb and outcome.
///
/// # Errors
///
/// As [`ApiError`] says; [`ApiError::Timeout`] when there was no answer within `deadline`.
pub async fn call<T>(
    metrics: &Metrics,
    verb: Verb,
    deadline: Duration,
    future: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ApiError> {
    let result = match tokio::time::timeout(deadline, future).await {
        Ok(result) => result.map_err(ApiError::from),
        Err(_) => Err(ApiError::Timeout),
    };
    let outcome = result.as_ref().err().map_or("ok", ApiError::outcome);
    metrics.api_requests.with_label_values(&[verb.as_str(), outcome]).inc();
    result
}

/// The right that an RBAC refusal misses, as `create pods`, for people.
pub fn missing_right(message: &str) -> Option<String> {
    let (_, rest) = message.split_once(" cannot ")?;
    let (verb, rest) = rest.split_once(" resource \"")?;
    let (resource, _) = rest.split_once('"')?;
    Some(format!("{verb} {resource}"))
}

fn from_status(status: &Status) -> ApiError {
    let message = || status.message.clone();
    if status.is_already_exists() {
        ApiError::AlreadyExists
    } else if status.is_not_found() {
        ApiError::NotFound
    } else if status.is_conflict() {
        ApiError::Conflict
    } else if status.is_forbidden() {
        ApiError::Forbidden(forbidden_kind(&status.message), message())
    } else if (400..500).contains(&status.code) && !matches!(status.code, 401 | 408 | 410 | 429) {
        // 422, and the 400 that a webhook's refusal is when it names no code.
        ApiError::Invalid(message())
    } else {
        ApiError::Unavailable(format!("{} {}: {}", status.code, status.reason, status.message))
    }
}

/// The texts are those of the plugins in kube-apiserver: `resourcequota` ("exceeded quota", and "status
/// unknown for quota" before its first count), `podsecurity`, and the RBAC authorizer.
pub(crate) fn forbidden_kind(message: &str) -> ForbiddenKind {
    if message.contains("exceeded quota") || message.contains("status unknown for quota") {
        ForbiddenKind::Quota
    } else if message.contains("violates PodSecurity") {
        ForbiddenKind::PodSecurity
    } else if missing_right(message).is_some() {
        ForbiddenKind::Rights
    } else {
        ForbiddenKind::Admission
    }
}

/// The error and its sources in one line: kube's own text often leaves out what matters ("Connection
/// refused").
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, reason: &str, message: &str) -> ApiError {
        kube::Error::Api(Status::failure(message, reason).with_code(code).boxed()).into()
    }

    #[test]
    fn kinds_of_forbidden_are_told_apart() {
        let kind = |message: &str| match status(403, "Forbidden", message) {
            ApiError::Forbidden(kind, _) => kind,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            kind(
                "pods \"x\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0"
            ),
            ForbiddenKind::Quota
        );
        assert_eq!(
            kind("pods \"x\" is forbidden: violates PodSecurity \"baseline:latest\": hostPath volumes"),
            ForbiddenKind::PodSecurity
        );
        let rights = "pods is forbidden: User \"system:serviceaccount:a:b\" cannot create resource \"pods\" \
                      in API group \"\" in the namespace \"a\"";
        assert_eq!(kind(rights), ForbiddenKind::Rights);
        assert_eq!(missing_right(rights).as_deref(), Some("create pods"));
        assert_eq!(
            kind("pods \"x\" is forbidden: maximum memory usage per Container is 128Mi"),
            ForbiddenKind::Admission
        );
        assert_eq!(kind("pods \"x\" is forbidden: failed quota: q: must specify limits.cpu"), {
            ForbiddenKind::Admission
        });
    }

    #[test]
    fn the_two_kinds_of_409_and_a_refusal_by_a_policy() {
        assert_eq!(status(409, "AlreadyExists", "pods \"x\" already exists"), ApiError::AlreadyExists);
        assert_eq!(status(409, "Conflict", "the object has been modified"), ApiError::Conflict);
        assert_eq!(status(404, "NotFound", "leases \"x\" not found"), ApiError::NotFound);
        assert!(matches!(
            status(422, "Invalid", "ValidatingAdmissionPolicy 'p' denied"),
            ApiError::Invalid(_)
        ));
        assert!(matches!(
            status(400, "", "admission webhook \"w\" denied the request"),
            ApiError::Invalid(_)
        ));
    }

    #[test]
    fn what_may_have_taken_effect() {
        for (code, reason) in [
            (500, "InternalError"),
            (503, "ServiceUnavailable"),
            (504, "Timeout"),
            (429, "TooManyRequests"),
            (401, "Unauthorized"),
        ] {
            let error = status(code, reason, "");
            assert!(matches!(error, ApiError::Unavailable(_)), "{error:?}");
            assert!(error.is_ambiguous());
        }
        assert!(ApiError::Timeout.is_ambiguous());
        assert!(!ApiError::Conflict.is_ambiguous());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_hangs_ends_at_its_deadline_and_is_counted() {
        let metrics = Metrics::new().unwrap();
        let result = call::<()>(&metrics, Verb::Get, Duration::from_secs(3), std::future::pending()).await;
        assert_eq!(result, Err(ApiError::Timeout));
        let ok = call(&metrics, Verb::Get, Duration::from_secs(3), async { Ok(1) }).await;
        assert_eq!(ok, Ok(1));
        assert_eq!(metrics.api_requests.with_label_values(&["get", "timeout"]).get(), 1);
        assert_eq!(metrics.api_requests.with_label_values(&["get", "ok"]).get(), 1);
    }
}
