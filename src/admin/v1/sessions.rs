//! `/v1/sessions`: what there is, one of them, and an end to it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::errors::time_schema;
use super::query::{self, Params};
use crate::admin::Admin;
use crate::admin::response::Failure;
use crate::admin::types::ErrorBody;
use crate::session::api::{ApiError, ForbiddenKind, missing_right};
use crate::session::claim::{self, Reason, format_time};
use crate::session::pod::PodView;
use crate::session::view::{Listed, SessionView, Standing};

/// Which sessions are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::admin) struct Wanted {
    /// Those of this account only.
    #[param(example = "demo", min_length = 1, max_length = 32, pattern = "^[a-z0-9_.]+$", nullable = false)]
    account: Option<String>,
    /// At most so many, in the order of their names.
    #[param(minimum = 1, maximum = 1000, default = 100, nullable = false)]
    limit: Option<usize>,
    /// Those whose names come after this one: `next` of the answer before.
    #[param(example = "gw-okc2ctt5rpglcpj46aur", nullable = false)]
    after: Option<String>,
}

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum SessionState {
    /// It has no pod yet: `reason` tells why, if there is more to it than that it has just begun.
    Waiting,
    /// Its pod is on its way.
    Starting,
    /// It has an exit.
    Ready,
    /// The leader has refused it: `reason` tells why. It is about to go.
    Rejected,
    /// It is strict and has lost its exit.
    Lost,
    /// A pod without a session, made by another system.
    Foreign,
    /// A pod that a session which has ended left behind: it is about to go.
    Orphan,
}

/// Why a session has no exit.
#[derive(Debug, Serialize, ToSchema)]
struct SessionReason {
    /// A stable code.
    #[schema(example = "capacity_full")]
    code: String,
    /// A sentence.
    #[schema(example = "INSTANCE_LIMIT reached: 5 of 5 pods")]
    message: String,
    /// Failed starts in a row.
    #[schema(minimum = 0)]
    attempts: u32,
}

impl From<&Reason> for SessionReason {
    fn from(reason: &Reason) -> Self {
        let Reason { code, message, attempts, .. } = reason;
        Self { code: code.clone(), message: message.clone(), attempts: *attempts }
    }
}

/// The pod of a session, which its requests leave from once its state is `ready`.
#[derive(Debug, Serialize, ToSchema)]
struct SessionExit {
    /// Name of the pod.
    #[schema(example = "gluetun-444b33d0-0604-578f-a246-c49a9fe4c5c8")]
    pod: String,
    /// Hostname of the VPN server.
    #[schema(example = "se-got-wg-003")]
    server: Option<String>,
    /// The country, as the provider spells it.
    #[schema(example = "Sweden")]
    country: Option<String>,
    /// The city, as the provider spells it.
    #[schema(example = "Gothenburg")]
    city: Option<String>,
}

impl From<&PodView> for SessionExit {
    fn from(pod: &PodView) -> Self {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Self {
            pod: pod.name.clone(),
            server: pod.server.clone(),
            country: text(&pod.country),
            city: text(&pod.city),
        }
    }
}

/// A session: a claim and what has become of it. Or, by its `state`, a pod that belongs to none: what only
/// claims have is null then.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::admin) struct Session {
    /// Name of the claim (the Lease in the cluster), or of the pod.
    #[schema(example = "gw-u3spfmtwbl7z6tpp3gea")]
    name: String,
    /// Whose it is. `_api` stands for `POST /start`.
    #[schema(example = "demo")]
    account: Option<String>,
    /// From where, in the canonical form of a username.
    #[schema(example = "country-se")]
    selector: Option<String>,
    /// The client's own name for it.
    #[schema(example = "a")]
    session: Option<String>,
    /// How far it is.
    state: SessionState,
    /// Why it has no exit.
    reason: Option<SessionReason>,
    /// Whether it lives until it is ended, however idle: it was made by `POST /start`.
    pinned: bool,
    /// Whether its exit is never replaced by another one in silence (`mode-strict`).
    strict: bool,
    /// Its pod.
    exit: Option<SessionExit>,
    /// Names of older pods of it, which finish their tunnels.
    draining: Vec<String>,
    /// When it began.
    #[schema(schema_with = time_or_null)]
    created_at: Option<String>,
    /// For how long it has been there.
    #[schema(minimum = 0, example = 512)]
    age_seconds: Option<u64>,
    /// For how long nobody has used it, 0 while it is in use. Use through other replicas shows up to a
    /// quarter of the idle timeout late.
    #[schema(minimum = 0, example = 0)]
    idle_seconds: Option<u64>,
    /// After how long without use it ends.
    #[schema(minimum = 0, example = 300)]
    idle_timeout_seconds: Option<u64>,
    /// The age at which its exit is replaced.
    #[schema(minimum = 0)]
    ttl_seconds: Option<u64>,
    /// When its current exit is replaced.
    #[schema(schema_with = time_or_null)]
    expires_at: Option<String>,
    /// Requests and tunnels through the answering replica that are open now.
    #[schema(minimum = 0, example = 2)]
    tunnels: usize,
    /// Requests that the answering replica holds for it now.
    #[schema(minimum = 0, example = 0)]
    waiting: usize,
    /// Bytes that the answering replica has relayed for it towards the exit, open tunnels included.
    #[schema(minimum = 0, example = 7340)]
    bytes_up: u64,
    /// The same towards clients.
    #[schema(minimum = 0, example = 1883402)]
    bytes_down: u64,
    /// The answering replica, whose `tunnels`, `waiting`, `bytes_up` and `bytes_down` these are.
    #[schema(example = "gluetun-gateway-6c5b8f9d4-x7k2p")]
    replica: String,
}

/// A time that may not be.
fn time_or_null() -> utoipa::openapi::schema::Schema {
    use utoipa::openapi::schema::{Schema, SchemaType, Type};
    match time_schema() {
        Schema::Object(mut time) => {
            time.schema_type = SchemaType::from_iter([Type::String, Type::Null]);
            Schema::Object(time)
        }
        other => other,
    }
}

/// A part of the list of sessions.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::admin) struct SessionList {
    /// In the order of their names.
    sessions: Vec<Session>,
    /// How many there are in all.
    #[schema(minimum = 0, example = 1)]
    total: usize,
    /// `after` of the next request; null when there are no more.
    #[schema(example = json!(null))]
    next: Option<String>,
    /// The answering replica.
    #[schema(example = "gluetun-gateway-6c5b8f9d4-x7k2p")]
    replica: String,
}

/// What has ended.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::admin) struct EndedSession {
    /// Name of the claim, or of the pod that belonged to none.
    #[schema(example = "gw-u3spfmtwbl7z6tpp3gea")]
    name: String,
    /// Names of the pods that go with it.
    #[schema(example = json!(["gluetun-444b33d0-0604-578f-a246-c49a9fe4c5c8"]))]
    pods: Vec<String>,
}

/// Sessions
///
/// Every session in the cluster with its exit, its state and the reason where it has no exit, in the order
/// of their names; pods of other systems among them. All replicas tell the same sessions; tunnels and bytes
/// are those of the replica that answers, which `replica` names.
#[utoipa::path(
    get,
    path = "/v1/sessions",
    tag = "v1",
    operation_id = "listSessions",
    params(Wanted),
    responses(
        (status = 200, description = "The sessions.", body = SessionList,
            example = json!({"sessions": [example()], "total": 1, "next": null, "replica": REPLICA})),
        (status = 400, description = "A parameter is malformed.", body = ErrorBody,
            example = json!({"error": "limit: 0 is not in 1 to 1000"})),
    ),
    security((), ("token" = []))
)]
pub(in crate::admin) async fn list(
    State(admin): State<Arc<Admin>>,
    Params(wanted): Params<Wanted>,
) -> Result<Json<SessionList>, Failure> {
    let limit = query::limit(wanted.limit)?;
    query::account(wanted.account.as_deref())?;
    let page = admin.sessions.list(wanted.account.as_deref(), wanted.after.as_deref(), limit);
    let replica = admin.config.identity.clone();
    let next = page.items.last().filter(|_| page.more).map(|last| last.name().to_owned());
    let sessions = page.items.iter().map(|listed| tell(listed, &replica)).collect();
    Ok(Json(SessionList { sessions, total: page.total, next, replica }))
}

/// One session
#[utoipa::path(
    get,
    path = "/v1/sessions/{name}",
    tag = "v1",
    operation_id = "getSession",
    params(("name" = String, Path, description = "Name of the claim, or of a pod that belongs to none.",
        example = "gw-u3spfmtwbl7z6tpp3gea")),
    responses(
        (status = 200, description = "The session.", body = Session, example = json!(example())),
        (status = 400, description = "The name is not text.", body = ErrorBody,
            example = json!({"error": "Invalid UTF-8 in `name`"})),
        (status = 404, description = "There is none of that name.", body = ErrorBody,
            example = json!({"error": "Session not found"})),
    ),
    security((), ("token" = []))
)]
pub(in crate::admin) async fn show(
    State(admin): State<Arc<Admin>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Session>, Failure> {
    let Path(name) = name.map_err(malformed)?;
    let found = admin.sessions.find(&name).ok_or_else(missing)?;
    Ok(Json(tell(&found, &admin.config.identity)))
}

/// End a session
///
/// Its claim goes first, then its pods; its tunnels close. A request that asks for it afterwards begins it
/// anew. The name of a pod that belongs to no session ends that pod.
#[utoipa::path(
    delete,
    path = "/v1/sessions/{name}",
    tag = "v1",
    operation_id = "endSession",
    params(("name" = String, Path, description = "Name of the claim, or of a pod that belongs to none.",
        example = "gw-u3spfmtwbl7z6tpp3gea")),
    responses(
        (status = 200, description = "It has ended.", body = EndedSession, example = json!({
            "name": "gw-u3spfmtwbl7z6tpp3gea", "pods": ["gluetun-444b33d0-0604-578f-a246-c49a9fe4c5c8"]})),
        (status = 400, description = "The name is not text.", body = ErrorBody,
            example = json!({"error": "Invalid UTF-8 in `name`"})),
        (status = 404, description = "There is none of that name.", body = ErrorBody,
            example = json!({"error": "Session not found"})),
        (status = 500, description = "The gateway lacks a right in the cluster.", body = ErrorBody,
            example = json!({"error": "Failed to end the session: the gateway's service account may not delete leases"})),
        (status = 503, description = "Kubernetes does not answer.", body = ErrorBody,
            example = json!({"error": "Failed to end the session: the Kubernetes API does not answer, try again"})),
    ),
    security((), ("token" = []))
)]
pub(in crate::admin) async fn end(
    State(admin): State<Arc<Admin>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<EndedSession>, Failure> {
    let Path(name) = name.map_err(malformed)?;
    let pods = admin.manager.end(&name).await.map_err(|error| failed(&name, &error))?.ok_or_else(missing)?;
    tracing::info!(session = name, pods = pods.len(), "session ended on request");
    Ok(Json(EndedSession { name, pods }))
}

fn failed(name: &str, error: &ApiError) -> Failure {
    tracing::warn!(session = name, %error, "a session could not be ended on request");
    let (status, why) = match error {
        ApiError::Forbidden(ForbiddenKind::Rights, message) => {
            let right = missing_right(message).unwrap_or_else(|| "delete it".to_owned());
            let why = format!("the gateway's service account may not {right}");
            (StatusCode::INTERNAL_SERVER_ERROR, why)
        }
        ApiError::Timeout | ApiError::Unavailable(_) => {
            let why = "the Kubernetes API does not answer, try again".to_owned();
            (StatusCode::SERVICE_UNAVAILABLE, why)
        }
        ApiError::NotFound
        | ApiError::Conflict
        | ApiError::AlreadyExists
        | ApiError::Invalid(_)
        | ApiError::Forbidden(
            ForbiddenKind::Quota | ForbiddenKind::PodSecurity | ForbiddenKind::Admission,
            _,
        ) => (StatusCode::INTERNAL_SERVER_ERROR, "the Kubernetes API refuses it".to_owned()),
    };
    Failure::new(status, format!("Failed to end the session: {why}"))
}

fn missing() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "Session not found")
}

fn malformed(rejection: PathRejection) -> Failure {
    query::bad(rejection.body_text())
}

const REPLICA: &str = "gluetun-gateway-6c5b8f9d4-x7k2p";

/// A session, for the document.
fn example() -> serde_json::Value {
    serde_json::json!({
        "name": "gw-u3spfmtwbl7z6tpp3gea", "account": "demo", "selector": "country-se", "session": "a",
        "state": "ready", "reason": null, "pinned": false, "strict": false,
        "exit": {
            "pod": "gluetun-444b33d0-0604-578f-a246-c49a9fe4c5c8", "server": "se-got-wg-003",
            "country": "Sweden", "city": "Gothenburg",
        },
        "draining": [], "created_at": "2026-11-25T17:00:00.000000Z", "age_seconds": 512, "idle_seconds": 0,
        "idle_timeout_seconds": 300, "ttl_seconds": null, "expires_at": null, "tunnels": 2, "waiting": 0,
        "bytes_up": 7340, "bytes_down": 1_883_402, "replica": REPLICA,
    })
}

fn tell(listed: &Listed, replica: &str) -> Session {
    match listed {
        Listed::Session(view) => session(view, replica),
        Listed::Pod(pod) => pod_alone(pod, replica),
    }
}

fn session(view: &SessionView, replica: &str) -> Session {
    let SessionView { claim, standing, reason, pod, draining, idle_for, .. } = view;
    let seconds = |duration: Duration| Some(duration.as_secs());
    Session {
        name: claim.name.clone(),
        account: Some(claim.key.account.to_string()),
        selector: Some(claim.key.selector_text()),
        session: claim.key.session.as_ref().map(ToString::to_string),
        state: match standing {
            Standing::Waiting => SessionState::Waiting,
            Standing::Starting => SessionState::Starting,
            Standing::Ready => SessionState::Ready,
            Standing::Rejected => SessionState::Rejected,
            Standing::Lost => SessionState::Lost,
        },
        reason: reason.as_ref().map(SessionReason::from),
        pinned: claim.pinned,
        strict: match claim.key.mode {
            crate::selector::Mode::Strict => true,
            crate::selector::Mode::Flex => false,
        },
        exit: pod.as_deref().map(SessionExit::from),
        draining: draining.iter().map(|pod| pod.name.clone()).collect(),
        created_at: Some(format_time(claim.created)),
        age_seconds: seconds(claim::age(claim.created)),
        idle_seconds: seconds(*idle_for),
        idle_timeout_seconds: (!claim.pinned).then_some(claim.duration.as_secs()),
        ttl_seconds: claim.ttl.map(|ttl| ttl.as_secs()),
        expires_at: claim.expires.map(format_time),
        tunnels: view.open,
        waiting: view.waiting,
        bytes_up: view.bytes_up,
        bytes_down: view.bytes_down,
        replica: replica.to_owned(),
    }
}

fn pod_alone(pod: &PodView, replica: &str) -> Session {
    let created = pod.created.unwrap_or(SystemTime::UNIX_EPOCH);
    Session {
        name: pod.name.clone(),
        account: None,
        selector: None,
        session: None,
        state: if pod.binding.is_some() { SessionState::Orphan } else { SessionState::Foreign },
        reason: None,
        pinned: false,
        strict: false,
        exit: Some(SessionExit::from(pod)),
        draining: Vec::new(),
        created_at: pod.created.map(format_time),
        age_seconds: pod.created.map(|_| claim::age(created).as_secs()),
        idle_seconds: None,
        idle_timeout_seconds: None,
        ttl_seconds: None,
        expires_at: None,
        tunnels: 0,
        waiting: 0,
        bytes_up: 0,
        bytes_down: 0,
        replica: replica.to_owned(),
    }
}
