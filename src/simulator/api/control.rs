//! The requests that are no Kubernetes objects: access reviews, and the simulator's own `/simulator`
//! paths, by which another process sets faults and counts requests.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::answer::Answer;
use super::faults::{FaultCommand, Faults, RequestInfo, Verb};
use super::json::{at, text};
use super::requests::RequestLog;
use super::router::AUTHORIZATION;
use super::server::Server;
use super::status::{Failure, FieldError};

/// `POST selfsubjectaccessreviews`: everything is allowed, but for what a rule refuses with 403.
pub(super) fn review(server: &Server, user_agent: &str, body: &[u8]) -> Result<Answer, Failure> {
    let mut review: Value = serde_json::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("the review cannot be read: {error}")))?;
    if !review.is_object() {
        return Err(Failure::bad_request("the review cannot be read: it is no object"));
    }
    let request = RequestInfo {
        verb: Verb::Create,
        resource: "selfsubjectaccessreviews".into(),
        namespace: None,
        name: None,
        user_agent: user_agent.to_owned(),
    };
    let refusal = match at(&review, &["spec", "resourceAttributes"]) {
        Some(wanted) => forbidden(&server.faults, wanted, user_agent),
        None if at(&review, &["spec", "nonResourceAttributes"]).is_some() => None,
        None => {
            server.requests.record(request, 422);
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            let error = FieldError::invalid("spec.resourceAttributes", Value::Null, why);
            return Err(Failure::invalid_as(AUTHORIZATION, "", "", &[error]));
        }
    };
    review["apiVersion"] = json!(format!("{AUTHORIZATION}/v1"));
    review["kind"] = json!("SelfSubjectAccessReview");
    if review["metadata"].is_null() {
        review["metadata"] = json!({});
    }
    review["status"] = match refusal {
        Some(reason) => json!({"allowed": false, "reason": reason}),
        None => json!({"allowed": true}),
    };
    server.requests.record(request, 201);
    Ok(Answer::value(StatusCode::CREATED, &review))
}

fn forbidden(faults: &Faults, wanted: &Value, user_agent: &str) -> Option<String> {
    let verb = serde_json::from_value(wanted["verb"].clone()).ok()?;
    let given = |field: &str| {
        let value = text(wanted, &[field]);
        (!value.is_empty()).then(|| value.to_owned())
    };
    let resource = given("resource")?;
    let request = RequestInfo {
        verb,
        resource: match given("subresource") {
            Some(part) => format!("{resource}/{part}"),
            None => resource,
        },
        namespace: given("namespace"),
        name: given("name"),
        user_agent: user_agent.to_owned(),
    };
    faults.forbids(&request).map(|refusal| refusal.message)
}

/// `/simulator/faults`: GET lists the rules, POST adds a fault, DELETE ends all.
pub(super) fn faults(faults: &Faults, method: &Method, body: &[u8]) -> Result<Answer, Failure> {
    match *method {
        Method::GET => {
            let rules: Vec<Value> = faults
                .rules()
                .into_iter()
                .map(|(id, rule, hits)| json!({"id": id, "rule": rule, "hits": hits}))
                .collect();
            Ok(Answer::value(StatusCode::OK, &json!({"rules": rules})))
        }
        Method::POST => {
            let command: FaultCommand = serde_json::from_slice(body)
                .map_err(|error| Failure::bad_request(format!("no fault: {error}")))?;
            let id = faults.apply(command).map_err(Failure::bad_request)?;
            Ok(Answer::value(StatusCode::OK, &json!({"id": id})))
        }
        Method::DELETE => {
            faults.clear();
            Ok(Answer::value(StatusCode::OK, &json!({})))
        }
        _ => Err(Failure::method_not_allowed()),
    }
}

/// `/simulator/requests`: GET counts what was served, DELETE starts anew.
pub(super) fn requests(requests: &RequestLog, method: &Method) -> Result<Answer, Failure> {
    match *method {
        Method::GET => {
            let summary = json!({"total": requests.total(), "requests": requests.summary()});
            Ok(Answer::value(StatusCode::OK, &summary))
        }
        Method::DELETE => {
            requests.reset();
            Ok(Answer::value(StatusCode::OK, &json!({})))
        }
        _ => Err(Failure::method_not_allowed()),
    }
}
