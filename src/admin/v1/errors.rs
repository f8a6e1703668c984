//! `GET /v1/errors`: the last failures of the proxy port, with the way that each request went.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{KnownFormat, RefOr, SchemaFormat};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::query::{self, Params, bad};
use crate::admin::Admin;
use crate::admin::response::Failure;
use crate::admin::types::ErrorBody;
use crate::proxy::failures::{self, BROKEN_OFF, Filter};
use crate::proxy::trail::{Noted, Step};
use crate::proxy::{ALL_CODES, Code};
use crate::session::claim::format_time;

/// Which failures are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::admin) struct Wanted {
    /// Those of this account only. Requests that have not proved who they are belong to none.
    #[param(example = "demo", min_length = 1, max_length = 32, pattern = "^[a-z0-9_.]+$", nullable = false)]
    account: Option<String>,
    /// The one with this id, which the client got in `X-Gateway-Request-Id`.
    #[param(example = "85396da643533d60", pattern = "^[0-9a-f]{16}$", nullable = false)]
    request_id: Option<String>,
    /// Those with this code only.
    #[param(value_type = Option<FailureCode>, nullable = false)]
    code: Option<String>,
    /// At most so many, the newest first.
    #[param(minimum = 1, maximum = 1000, default = 100, nullable = false)]
    limit: Option<usize>,
}

/// The code of a failure: one of the proxy port's errors, or how it broke off.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct FailureCode(&'static str);

/// All of them.
fn codes() -> impl Iterator<Item = &'static str> {
    ALL_CODES.into_iter().map(Code::as_str).chain(BROKEN_OFF)
}

impl PartialSchema for FailureCode {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some(
                "An error of the proxy port (`X-Gateway-Error`), or how a request broke off: `client_gone` \
                 before it had an answer, `upstream_reset` and `exit_gone` in the middle.",
            ))
            .enum_values(Some(codes()))
            .examples(["capacity_full"])
            .into()
    }
}

impl ToSchema for FailureCode {}

/// A step on the way of a request.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"step": "authenticated", "at_ms": 0.081}))]
struct WayStep {
    /// Which.
    #[schema(schema_with = step_schema)]
    step: &'static str,
    /// Milliseconds after the request's head was complete.
    #[schema(minimum = 0)]
    at_ms: f64,
    /// More about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    detail: Option<String>,
}

fn step_schema() -> Schema {
    let steps = Step::ALL.map(Step::as_str);
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(steps)).into()
}

/// The exit that a request had.
#[derive(Debug, Serialize, ToSchema)]
struct FailedExit {
    /// Name of the pod.
    #[schema(example = "gluetun-59d6e061-7f31-5de3-855b-d82010c76e25")]
    pod: String,
    /// Hostname of the VPN server.
    #[schema(example = "fr-mrs-wg-002")]
    server: String,
}

/// A request to the proxy port that failed.
#[derive(Debug, Serialize, ToSchema)]
struct FailedRequest {
    /// Its id: `X-Gateway-Request-Id` of the answer, `request_id` in the log.
    #[schema(example = "85396da643533d60")]
    request_id: String,
    /// When its head was complete.
    #[schema(schema_with = time_schema)]
    began_at: String,
    /// Milliseconds until it failed.
    #[schema(minimum = 0, example = 2003.4)]
    took_ms: f64,
    /// The account; null for one that has not proved who it is, whatever it called itself.
    #[schema(example = "demo")]
    account: Option<String>,
    /// The selector in its canonical form.
    #[schema(example = "country-jp")]
    selector: Option<String>,
    /// Name of the session's claim, as in `/v1/sessions`.
    #[schema(example = "gw-zltvy47xk6ebcc4ci2jr")]
    session: Option<String>,
    /// Address that the request came from.
    #[schema(example = "10.42.0.17:51332")]
    client: String,
    /// Its method; null where there was no readable request.
    #[schema(example = "CONNECT")]
    method: Option<String>,
    /// Host and port that it wanted; null where it did not come so far.
    #[schema(example = "example.org:443")]
    target: Option<String>,
    /// Its last exit.
    exit: Option<FailedExit>,
    /// What went wrong.
    #[schema(value_type = FailureCode)]
    code: FailureCode,
    /// Status of the answer; null where there was none.
    #[schema(example = 503, minimum = 100, maximum = 599)]
    status: Option<u16>,
    /// The same in a sentence.
    #[schema(example = "INSTANCE_LIMIT reached: 5 of 5 pods")]
    message: String,
    /// What can be done.
    hint: String,
    /// Whether the same request may do better later.
    retryable: bool,
    /// Its way, in order. Of one that broke off in the middle only what came after the tunnel was open.
    steps: Vec<WayStep>,
}

/// A time as the API tells it.
pub(super) fn time_schema() -> Schema {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
        .description(Some("RFC 3339, UTC."))
        .examples(["2026-11-25T17:00:00.250000Z"])
        .into()
}

/// The last failures of the proxy port.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::admin) struct Failures {
    /// Which replica answers: each keeps its own failures, the last 1024 or so.
    #[schema(example = "gluetun-gateway-6c5b8f9d4-x7k2p")]
    replica: String,
    /// The newest first.
    errors: Vec<FailedRequest>,
    /// How many there are of what was asked for.
    #[schema(example = 1)]
    total: usize,
}

/// The last failures of the proxy port
///
/// The reasons that browsers and HTTP clients hide behind "tunnel connection failed", the newest first,
/// with each step of the request's way. Each replica keeps the last of its own, at most about 1024; an
/// account with many does not displace those of others. Passwords are not kept, nor the usernames of
/// requests that did not prove who they are.
#[utoipa::path(
    get,
    path = "/v1/errors",
    tag = "v1",
    operation_id = "listErrors",
    params(Wanted),
    responses(
        (status = 200, description = "The failures.", body = Failures, example = json!(example())),
        (status = 400, description = "A parameter is malformed.", body = ErrorBody,
            example = json!({"error": "limit: 0 is not in 1 to 1000"})),
    ),
    security((), ("token" = []))
)]
pub(in crate::admin) async fn list(
    State(admin): State<Arc<Admin>>,
    Params(wanted): Params<Wanted>,
) -> Result<Json<Failures>, Failure> {
    let limit = query::limit(wanted.limit)?;
    query::account(wanted.account.as_deref())?;
    if let Some(id) = &wanted.request_id
        && !(id.len() == 16 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
    {
        return Err(bad("request_id: 16 of 0-9 and a-f are expected, as in X-Gateway-Request-Id"));
    }
    if let Some(code) = &wanted.code
        && !codes().any(|known| known == code)
    {
        return Err(bad(format!("code: there is no {code:?}; the OpenAPI document lists all")));
    }
    let filter = Filter { account: wanted.account, request_id: wanted.request_id, code: wanted.code };
    let (errors, total) = admin.failures.last(&filter, limit);
    let errors = errors.iter().map(|failure| tell(failure)).collect();
    Ok(Json(Failures { replica: admin.config.identity.clone(), errors, total }))
}

/// An answer of `GET /v1/errors`, for the document.
fn example() -> serde_json::Value {
    serde_json::json!({
    "replica": "gluetun-gateway-6c5b8f9d4-x7k2p",
    "errors": [{
      "request_id": "85396da643533d60", "began_at": "2026-11-25T17:00:00.250000Z", "took_ms": 2003.4,
      "account": "demo", "selector": "country-jp", "session": "gw-zltvy47xk6ebcc4ci2jr",
      "client": "10.42.0.17:51332", "method": "CONNECT", "target": "example.org:443", "exit": null,
      "code": "capacity_full", "status": 503, "message": "INSTANCE_LIMIT reached: 5 of 5 pods",
      "hint": "room is made when a session ends or is idle; ask for an exit that exists, or retry",
      "retryable": true,
      "steps": [
        {"step": "authenticated", "at_ms": 0.081}, {"step": "resolved", "at_ms": 0.09},
        {"step": "allowed", "at_ms": 0.095}, {"step": "held", "at_ms": 0.11},
        {"step": "claim_seen", "at_ms": 4.2},
        {"step": "told", "at_ms": 9.8, "detail": "capacity_full: INSTANCE_LIMIT reached: 5 of 5 pods"},
        {"step": "ended", "at_ms": 2003.4}
      ]
    }],
    "total": 1
      })
}

fn tell(failure: &failures::Failure) -> FailedRequest {
    let text = |text: &Option<Arc<str>>| text.as_deref().map(str::to_owned);
    FailedRequest {
        request_id: failure.request_id.to_string(),
        began_at: format_time(failure.began),
        took_ms: millis(failure.took),
        account: text(&failure.account),
        selector: text(&failure.selector),
        session: text(&failure.session),
        client: failure.client.to_string(),
        method: failure.method.as_ref().map(ToString::to_string),
        target: failure.target.as_deref().map(str::to_owned),
        exit: failure
            .exit
            .as_ref()
            .map(|(pod, server)| FailedExit { pod: pod.to_string(), server: server.to_string() }),
        code: FailureCode(failure.code),
        status: failure.status,
        message: failure.message.clone().into_owned(),
        hint: failure.hint.clone().into_owned(),
        retryable: failure.retryable,
        steps: failure.steps.iter().map(step).collect(),
    }
}

fn step(noted: &Noted) -> WayStep {
    WayStep {
        step: noted.step.as_str(),
        at_ms: millis(noted.at),
        detail: noted.detail.as_deref().map(str::to_owned),
    }
}

/// With three decimals: whole microseconds.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
