//! Refusals as a Kubernetes API server words them: `Status` bodies with reason, message, details and
//! code. The texts are those that a kube-apiserver 1.36 was seen to answer; clients tell refusals
//! apart by `reason` (and, among the many kinds of 403, by the message).

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::resources::Kind;

/// A refused request.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct Failure {
    /// HTTP status code.
    pub(super) code: u16,
    /// `reason` of the Status; a few internal errors of the real one have none.
    pub(super) reason: Option<Cow<'static, str>>,
    /// `message` of the Status.
    pub(super) message: String,
    /// `details` of the Status.
    pub(super) details: Option<Box<Value>>,
    /// Seconds of the `Retry-After` header.
    pub(super) retry_after: Option<u64>,
}

impl Failure {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: Some(Cow::Borrowed(reason)),
            message: message.into(),
            details: None,
            retry_after: None,
        }
    }

    fn with_details(mut self, details: Value) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    /// 404 for an object.
    pub(super) fn not_found(kind: Kind, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} \"{name}\" not found", kind.qualified_resource()))
            .with_details(details(kind.group(), kind.plural(), name))
    }

    /// 404 for a path that names no resource.
    pub(super) fn no_such_resource() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource").with_details(json!({}))
    }

    /// 409 `AlreadyExists`.
    pub(super) fn already_exists(kind: Kind, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", kind.qualified_resource()))
            .with_details(details(kind.group(), kind.plural(), name))
    }

    /// The same for an object that is on its way out.
    pub(super) fn still_exists(kind: Kind, name: &str) -> Self {
        let failure = Self::already_exists(kind, name);
        Self { message: format!("object is being deleted: {}", failure.message), ..failure }
    }

    /// 409 `Conflict` under a resource name (`pods`, `pods/binding`) or, for deletes, a kind.
    pub(super) fn conflict_as(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let qualified = qualify(resource, group);
        Self::new(409, "Conflict", format!("Operation cannot be fulfilled on {qualified} \"{name}\": {why}"))
            .with_details(details(group, resource, name))
    }

    /// 409 `Conflict` for an object.
    pub(super) fn conflict(kind: Kind, name: &str, why: &str) -> Self {
        Self::conflict_as(kind.group(), kind.plural(), name, why)
    }

    /// 409 for a `resourceVersion` that is not the current one.
    pub(super) fn stale(kind: Kind, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try \
                   again";
        Self::conflict(kind, name, why)
    }

    /// 422 `Invalid` for an object.
    pub(super) fn invalid(kind: Kind, name: &str, errors: &[FieldError]) -> Self {
        Self::invalid_as(kind.group(), kind.name(), name, errors)
    }

    /// 422 `Invalid` for anything with a group and kind, such as `meta.k8s.io` `ListOptions`.
    pub(super) fn invalid_as(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let mut texts: Vec<String> = Vec::new();
        for error in errors {
            let text = format!("{}: {}", error.field, error.message);
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let all = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let causes: Vec<Value> = errors
            .iter()
            .map(|error| json!({"reason": error.reason, "message": error.message, "field": error.field}))
            .collect();
        let mut details = details(group, kind, name);
        super::json::object(&mut details).insert("causes".into(), Value::Array(causes));
        Self::new(422, "Invalid", format!("{} \"{name}\" is invalid: {all}", qualify(kind, group)))
            .with_details(details)
    }

    /// 422 for a JSON patch that does not apply.
    pub(super) fn unprocessable_patch() -> Self {
        Self::new(422, "Invalid", "the server rejected our request due to an error in our request")
            .with_details(json!({}))
    }

    /// 400.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// A refusal of the simulator's own paths.
    pub(super) fn control(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(code, reason, message)
    }

    /// 405.
    pub(super) fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
            .with_details(json!({}))
    }

    /// 406.
    pub(super) fn not_acceptable() -> Self {
        Self::new(406, "NotAcceptable", "406: Not Acceptable\n\nAvailable representations: application/json")
            .with_details(json!({}))
    }

    /// 410 `Expired`: the version asked for has left the history.
    pub(super) fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    /// 410 `Expired` for a list at an exact version.
    pub(super) fn list_expired() -> Self {
        Self::new(410, "Expired", "The resourceVersion for the provided list is too old.")
    }

    /// 410 `Expired` for a `continue` token.
    pub(super) fn continue_expired() -> Self {
        Self::new(
            410,
            "Expired",
            "The provided continue parameter is too old to display a consistent list result. You can start \
             a new list without the continue parameter.",
        )
    }

    /// 413.
    pub(super) fn too_large(limit: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
            .with_details(json!({}))
    }

    /// 415 for the body of a create or update.
    pub(super) fn unsupported_body() -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: \
             application/json (protobuf, which some subcommands of kubectl send, is not read: use kubectl \
             create -f or apply -f)",
        )
    }

    /// 415 for a patch.
    pub(super) fn unsupported_patch() -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: \
             application/json-patch+json, application/merge-patch+json, \
             application/strategic-merge-patch+json, application/apply-patch+yaml",
        )
        .with_details(json!({}))
    }

    /// 500 as the real one words what went wrong inside.
    pub(super) fn internal(why: &str) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {why}"))
            .with_details(json!({"causes": [{"message": why}]}))
    }

    /// 500 without a reason: how errors of the storage layer reach the client.
    pub(super) fn bare_internal(message: impl Into<String>) -> Self {
        Self { reason: None, ..Self::new(500, "", message) }
    }

    /// 504 for a `resourceVersion` from the future.
    pub(super) fn version_too_large(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let mut failure = Self::new(504, "Timeout", message).with_details(json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        }));
        failure.retry_after = Some(1);
        failure
    }

    /// The `Status` object.
    pub(super) fn status(&self) -> Value {
        let mut status = Map::new();
        status.insert("kind".into(), json!("Status"));
        status.insert("apiVersion".into(), json!("v1"));
        status.insert("metadata".into(), json!({}));
        status.insert("status".into(), json!("Failure"));
        status.insert("message".into(), json!(self.message));
        if let Some(reason) = &self.reason {
            status.insert("reason".into(), json!(reason));
        }
        if let Some(details) = &self.details {
            status.insert("details".into(), (**details).clone());
        }
        status.insert("code".into(), json!(self.code));
        Value::Object(status)
    }
}

/// `Status` of a delete that left nothing to show.
pub(super) fn deleted(kind: Kind, name: &str, uid: &str) -> Value {
    let mut details = details(kind.group(), kind.plural(), name);
    super::json::object(&mut details).insert("uid".into(), json!(uid));
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

fn details(group: &str, kind: &str, name: &str) -> Value {
    let mut details = Map::new();
    for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
        if !value.is_empty() {
            details.insert(key.into(), json!(value));
        }
    }
    Value::Object(details)
}

fn qualify(resource: &str, group: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

/// One cause of a 422: a field, what is wrong with it, and the machine-readable reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FieldError {
    field: String,
    reason: &'static str,
    message: String,
}

impl FieldError {
    /// A value that breaks a rule. `value` is shown as JSON.
    pub(super) fn invalid(field: impl Into<String>, value: impl Into<Value>, detail: &str) -> Self {
        let message = format!("Invalid value: {}: {detail}", value.into());
        Self { field: field.into(), reason: "FieldValueInvalid", message }
    }

    /// A value that is missing; `detail` may be empty.
    pub(super) fn required(field: impl Into<String>, detail: &str) -> Self {
        let message =
            if detail.is_empty() { "Required value".into() } else { format!("Required value: {detail}") };
        Self { field: field.into(), reason: "FieldValueRequired", message }
    }

    /// A value outside a fixed set.
    pub(super) fn unsupported(field: impl Into<String>, value: impl Into<Value>, valid: &[&str]) -> Self {
        let valid: Vec<String> = valid.iter().map(|value| format!("\"{value}\"")).collect();
        let message = format!("Unsupported value: {}: supported values: {}", value.into(), valid.join(", "));
        Self { field: field.into(), reason: "FieldValueNotSupported", message }
    }

    /// A value that may not be set, or not be changed.
    pub(super) fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self { field: field.into(), reason: "FieldValueForbidden", message: format!("Forbidden: {detail}") }
    }

    /// A reference to something that the object does not have.
    pub(super) fn not_found(field: impl Into<String>, value: impl Into<Value>) -> Self {
        let message = format!("Not found: {}", value.into());
        Self { field: field.into(), reason: "FieldValueNotFound", message }
    }

    /// A value that may occur once only.
    pub(super) fn duplicate(field: impl Into<String>, value: impl Into<Value>) -> Self {
        let message = format!("Duplicate value: {}", value.into());
        Self { field: field.into(), reason: "FieldValueDuplicate", message }
    }

    /// A field that an update may not change.
    pub(super) fn immutable(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::invalid(field, value, "field is immutable")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_found_names_resource_and_group() {
        let status = Failure::not_found(Kind::Lease, "l").status();
        assert_eq!(status["message"], "leases.coordination.k8s.io \"l\" not found");
        assert_eq!(status["details"], json!({"name": "l", "group": "coordination.k8s.io", "kind": "leases"}));
        assert_eq!(status["code"], 404);
        let status = Failure::not_found(Kind::Pod, "p").status();
        assert_eq!(status["details"], json!({"name": "p", "kind": "pods"}));
    }

    #[test]
    fn causes_are_listed_and_repetitions_told_once() {
        let error = FieldError::immutable("metadata.uid", "x");
        let failure = Failure::invalid(Kind::Pod, "p", &[error.clone(), error]);
        assert_eq!(
            failure.message,
            "Pod \"p\" is invalid: metadata.uid: Invalid value: \"x\": field is immutable"
        );
        let failure = Failure::invalid(
            Kind::Lease,
            "l",
            &[FieldError::required("a", ""), FieldError::unsupported("b", "x", &["y", "z"])],
        );
        assert_eq!(
            failure.message,
            "Lease.coordination.k8s.io \"l\" is invalid: [a: Required value, b: Unsupported value: \"x\": \
             supported values: \"y\", \"z\"]"
        );
        let status = failure.status();
        assert_eq!(status["details"]["causes"][1]["reason"], "FieldValueNotSupported");
    }

    #[test]
    fn kube_understands_the_reasons() {
        let parse = |failure: Failure| {
            let status: kube::core::Status = serde_json::from_value(failure.status()).unwrap();
            status
        };
        assert!(parse(Failure::not_found(Kind::Pod, "p")).is_not_found());
        assert!(parse(Failure::already_exists(Kind::Pod, "p")).is_already_exists());
        assert!(parse(Failure::stale(Kind::Pod, "p")).is_conflict());
        assert!(parse(Failure::invalid(Kind::Pod, "p", &[])).is_invalid());
        assert_eq!(parse(Failure::expired(1, 5)).code, 410);
    }
}
