//! The requests that are no Kubernetes objects: reviews of rights and of users, and the `/simulator` paths, by which
//! another process sets faults and counts requests.

use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};

use super::answer::Answer;
use super::faults::{FaultCommand, Faults, RequestInfo, RuleId, Verb};
use super::json::{at, text};
use super::mount::ControlRequest;
use super::requests::RequestLog;
use super::router::{AUTHENTICATION, AUTHORIZATION};
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

/// `POST selfsubjectreviews`: nobody has to say who he is, but whoever speaks for a user is that one.
pub(super) fn subject(
    server: &Server,
    user_agent: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Answer, Failure> {
    serde_json::from_slice::<serde_json::Map<String, Value>>(body)
        .map_err(|error| Failure::bad_request(format!("the review cannot be read: {error}")))?;
    let given = |name: &str| headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let mut groups: Vec<&str> = given("impersonate-group").collect();
    let user = given("impersonate-user").next().unwrap_or("system:anonymous");
    groups.push(if user == "system:anonymous" { "system:unauthenticated" } else { "system:authenticated" });
    server.requests.record(
        RequestInfo {
            verb: Verb::Create,
            resource: "selfsubjectreviews".into(),
            namespace: None,
            name: None,
            user_agent: user_agent.to_owned(),
        },
        201,
    );
    let review = json!({
        "apiVersion": format!("{AUTHENTICATION}/v1"), "kind": "SelfSubjectReview", "metadata": {},
        "status": {"userInfo": {"username": user, "groups": groups}},
    });
    Ok(Answer::value(StatusCode::CREATED, &review))
}

/// Whatever is below `/simulator`: the server's own paths, and those that others have mounted.
pub(super) fn answer(
    server: &Server,
    method: &Method,
    path: &[String],
    body: &[u8],
) -> Result<Answer, Failure> {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let value = match path.as_slice() {
        ["faults"] => faults(&server.faults, &ControlRequest { method, path: &[], body })?,
        ["faults", id] => fault(&server.faults, method, id)?,
        ["requests"] => requests(&server.requests, method)?,
        path => server.mounts.answer(method, path, body)?,
    };
    Ok(Answer::value(StatusCode::OK, &value))
}

/// `/simulator/faults`: GET lists the rules, POST adds a fault, DELETE ends all.
fn faults(faults: &Faults, request: &ControlRequest<'_>) -> Result<Value, Failure> {
    match *request.method {
        Method::GET => {
            let rules: Vec<Value> = faults
                .rules()
                .into_iter()
                .map(|(id, rule, hits)| json!({"id": id, "rule": rule, "hits": hits}))
                .collect();
            Ok(json!({"rules": rules}))
        }
        Method::POST => {
            let command: FaultCommand =
                request.json().map_err(|error| Failure::bad_request(format!("no fault: {error}")))?;
            let id = faults.apply(command).map_err(Failure::bad_request)?;
            Ok(json!({"id": id}))
        }
        Method::DELETE => {
            faults.clear();
            Ok(json!({}))
        }
        _ => Err(Failure::method_not_allowed()),
    }
}

/// `/simulator/faults/ID`: DELETE removes one rule.
fn fault(faults: &Faults, method: &Method, id: &str) -> Result<Value, Failure> {
    if method != Method::DELETE {
        return Err(Failure::method_not_allowed());
    }
    let parsed: RuleId = id.parse().map_err(Failure::bad_request)?;
    if !faults.remove(parsed) {
        return Err(Failure::control(404, "NotFound", format!("there is no rule {id}")));
    }
    Ok(json!({}))
}

/// `/simulator/requests`: GET counts what was served, DELETE starts anew.
fn requests(requests: &RequestLog, method: &Method) -> Result<Value, Failure> {
    match *method {
        Method::GET => Ok(json!({"total": requests.total(), "requests": requests.summary()})),
        Method::DELETE => {
            requests.reset();
            Ok(json!({}))
        }
        _ => Err(Failure::method_not_allowed()),
    }
}
