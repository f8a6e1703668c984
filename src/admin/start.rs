//! `POST /start`: a VPN pod for a client, through the sessions that the proxy port uses. The claim is
//! renewed while the client waits and pinned just before it is answered; a client that leaves takes it
//! with him.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{Extensions, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;

use super::Admin;
use super::delivery::{self, Outbox, Receipt};
use super::filter::{Draw, Filter};
use super::input::Input;
use super::response::Failure;
use super::types::{ErrorBody, Service, StartRequest, StartResponse};
use crate::config::Config;
use crate::selector::{IDLE, Lifetimes, TTL, duration};
use crate::servers::{Catalogue, Server};
use crate::session::api::ApiError;
use crate::session::pod::PROXY_PORT;
use crate::session::{AcquireError, StartError, Started};

/// Servers that one request tries at most: more failed starts do not fit into the time that it is held.
const MAX_TRIES: u32 = 3;

/// Servers that turn out to be in use, on the way: other replicas draw too.
const MAX_DRAWS: u32 = 16;

/// Pause before the claim is pinned again.
const PIN_AGAIN: Duration = Duration::from_millis(250);

/// When a client may ask again that met the limit: a guess, since pods live as long as their clients want.
const FULL_RETRY: HeaderValue = HeaderValue::from_static("10");

/// Start a pod
///
/// Answers once the pod's VPN is up, which takes a few seconds, at most `START_TIMEOUT` (90 s). The pod
/// leaves from a server that matches, drawn at random; it lives until `/destroy`, or as long as `idle` and
/// `ttl` say. A client that hangs up before it has the answer leaves no pod behind.
#[utoipa::path(
    post,
    path = "/start",
    tag = "pods",
    operation_id = "startPod",
    request_body(content = StartRequest, description = "A server by its key, or a country, a city or both.",
        examples(
            ("By place" = (value = json!({"country": "Sweden", "city": "Gothenburg"}))),
            ("By server" = (value = json!({"server": "sweden-gothenburg-se-got-wg-003"}))),
            ("With an end" = (value = json!({"country": "Sweden", "idle": "10m", "ttl": "2h"}))),
        )),
    responses(
        (status = 200, description = "The pod is ready.", body = StartResponse, example = json!({
            "id": "444b33d0-0604-578f-a246-c49a9fe4c5c8",
            "proxy": "http://pod.k2x7c4q5:s3cr3t@10.42.0.18:8888",
            "pod_name": "gluetun-444b33d0-0604-578f-a246-c49a9fe4c5c8", "pod_ip": "10.42.0.18",
            "username": "pod.k2x7c4q5", "password": "s3cr3t", "service_name": "gluetun-gateway",
            "service_cluster_ip": "10.43.7.20",
            "service_dns": "gluetun-gateway.gluetun-system.svc.cluster.local", "service_port": 8080,
            "service_url": "http://pod.k2x7c4q5:s3cr3t@gluetun-gateway.gluetun-system.svc.cluster.local:8080"})),
        (status = 400, description = "Nothing matches, nothing is asked for, or the body is malformed.",
            body = ErrorBody, example = json!({"error": "No server found for country 'atlantis'"})),
        (status = 429, description = "As many pods run as may, in all or on the servers that match.", body = ErrorBody,
            headers(("Retry-After" = u32, description = "After how many seconds to try again.")),
            example = json!({"error": "Instance limit reached"})),
        (status = 500, description = "The pod did not come up; the text tells why.", body = ErrorBody,
            example = json!({"error": "Failed to start Gluetun pod: the key is malformed (bad_key)"})),
    ),
    security((), ("token" = []))
)]
pub(super) async fn start(
    State(admin): State<Arc<Admin>>,
    extensions: Extensions,
    Input(request): Input<StartRequest>,
) -> Result<Response, Refusal> {
    let lifetimes = lifetimes(&request, &admin.config)?;
    let catalogue = Arc::clone(&admin.catalogue.borrow());
    let draw = candidates(&request, &catalogue)?;
    let started = drawn(&admin, draw, &lifetimes).await?;
    let answer = StartResponse {
        id: started.pod.public_id().to_owned(),
        proxy: proxy(&started)?,
        pod_name: started.pod.name.clone(),
        pod_ip: started.grant.exit.proxy_addr.ip(),
        username: started.pod.user.clone().unwrap_or_default(),
        password: started.pod.password.as_ref().map(|p| p.expose().to_owned()).unwrap_or_default(),
        service: Service::of(&started.pod, &admin.config),
    };
    let bytes = serde_json::to_vec(&answer).map_err(|error| failed(&error.to_string()))?;
    tracing::info!(
        pod = %started.pod.name, session = %started.grant.exit.session(), server = %started.grant.exit.server,
        waited_ms = u64::try_from(started.grant.waited.as_millis()).unwrap_or(u64::MAX),
        "pod started for a client of the admin API"
    );
    // From here on nothing waits: either the answer takes the pod with it, or its loss does.
    let kept = started.keep();
    let manager = admin.manager.clone();
    let receipt = Receipt::new(move || manager.give_up(kept));
    let body = delivery::body(bytes.into(), receipt, extensions.get::<Outbox>().cloned());
    let kind = HeaderValue::from_static("application/json");
    Ok(([(CONTENT_TYPE, kind)], body).into_response())
}

/// The times that a body asks for.
fn lifetimes(request: &StartRequest, config: &Config) -> Result<Lifetimes, Failure> {
    let most_idle = IDLE.1.min(config.max_idle_timeout);
    Ok(Lifetimes {
        idle: time("idle", request.idle.as_deref(), (IDLE.0.min(most_idle), most_idle))?,
        ttl: time("ttl", request.ttl.as_deref(), TTL)?,
        wait: None,
    })
}

fn time(
    name: &str,
    text: Option<&str>,
    (least, most): (Duration, Duration),
) -> Result<Option<Duration>, Failure> {
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else { return Ok(None) };
    match duration::parse(text) {
        Ok(time) if (least..=most).contains(&time) => Ok(Some(time)),
        Ok(_) | Err(_) => {
            let (least, most) = (duration::text(least), duration::text(most));
            let shown: String = text.chars().take(40).collect();
            let text = format!(
                "'{name}' must be a time from {least} to {most}, a whole number and s, m, h or d such as 10m, \
                 not '{shown}'"
            );
            Err(Failure::new(StatusCode::BAD_REQUEST, text))
        }
    }
}

/// The servers that a body allows.
fn candidates(request: &StartRequest, catalogue: &Catalogue) -> Result<Draw, Failure> {
    let bad = |text: String| Failure::new(StatusCode::BAD_REQUEST, text);
    let server = request.server.as_deref().map(str::trim).filter(|key| !key.is_empty());
    let filter = Filter::read(request.country.as_deref(), request.city.as_deref());
    if server.is_none() && filter.is_empty() {
        return Err(bad("Must provide either 'server' or 'country'/'city' parameters".to_owned()));
    }
    if catalogue.is_empty() {
        return Err(failed("the server list has not been loaded yet"));
    }
    if let Some(key) = server {
        return match catalogue.by_key(key) {
            Some(server) => Ok(Draw::of(vec![Arc::clone(server)])),
            None => Err(bad("Invalid server".to_owned())),
        };
    }
    let found = filter.closest(catalogue);
    if found.is_empty() {
        Err(bad(format!("No server found{}", filter.words())))
    } else {
        Ok(Draw::of(found))
    }
}

/// A pod on one of the servers, pinned unless it has an idle timeout; on another one where the first
/// fails, within the time that a request is held.
async fn drawn(admin: &Admin, mut draw: Draw, lifetimes: &Lifetimes) -> Result<Started, Refusal> {
    let deadline = Instant::now() + admin.config.start_timeout;
    let limit = admin.config.instance_limit;
    let mut tries = 0;
    let mut last = None;
    for _ in 0..MAX_DRAWS {
        let Some(server) = draw.next(&admin.sessions.servers_in_use()) else { break };
        let error = match admin.sessions.start(&server.hostname, lifetimes, limit, deadline).await {
            Ok(started) if lifetimes.idle.is_some() => return Ok(started),
            Ok(started) => match pin(admin, &started, deadline).await {
                Ok(()) => return Ok(started),
                Err(ApiError::NotFound) => {
                    StartError::Failed(AcquireError::StartTimeout { last: Some("it was lost".to_owned()) })
                }
                Err(error) => return Err(failed(&format!("its claim cannot be pinned: {error}")).into()),
            },
            Err(error) => error,
        };
        tries += u32::from(!costs_nothing(&error));
        let again = another_may_help(&error) && tries < MAX_TRIES && Instant::now() < deadline;
        tell(&error, &server, again);
        last = Some(error);
        if !again {
            break;
        }
    }
    Err(last.map_or_else(|| failed("no server is left to try").into(), |error| Refusal::of(&error)))
}

/// Pins a pod's claim, for as long as the client may be held.
async fn pin(admin: &Admin, started: &Started, deadline: Instant) -> Result<(), ApiError> {
    loop {
        match admin.manager.pin(started).await {
            Err(error) if error.is_ambiguous() && Instant::now() < deadline => {
                tokio::time::sleep(PIN_AGAIN).await;
            }
            other => return other,
        }
    }
}

/// Whether no start was tried: the server is another pod's, or starts on it rest since they fail.
fn costs_nothing(error: &StartError) -> bool {
    matches!(error, StartError::InUse(_) | StartError::Failed(AcquireError::StartBackoff { .. }))
}

fn another_may_help(error: &StartError) -> bool {
    match error {
        StartError::InUse(_) | StartError::Failed(AcquireError::StartBackoff { .. }) => true,
        StartError::Failed(AcquireError::StartFailed { class, .. }) => class.another_server_may_help(),
        StartError::Full(_) | StartError::Failed(_) => false,
    }
}

fn tell(error: &StartError, server: &Server, again: bool) {
    match error {
        StartError::Full(reason) => tracing::info!(reason, "start refused: no room"),
        StartError::InUse(_) | StartError::Failed(_) => {
            tracing::warn!(server = %server.hostname, %error, again, "a start for the admin API failed");
        }
    }
}

/// URL of the pod's own proxy. User and password are letters and digits: nothing to escape.
fn proxy(started: &Started) -> Result<String, Failure> {
    let (Some(user), Some(password)) = (&started.pod.user, &started.pod.password) else {
        return Err(failed("its pod has no credentials"));
    };
    let addr = std::net::SocketAddr::new(started.grant.exit.proxy_addr.ip(), PROXY_PORT);
    Ok(format!("http://{user}:{}@{addr}", password.expose()))
}

fn failed(reason: &str) -> Failure {
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("Failed to start Gluetun pod: {reason}"))
}

/// What clients match when as many pods run as may.
const FULL: &str = "Instance limit reached";

/// The same where a server can have no second pod: one key on one server is one tunnel.
const IN_USE: &str = "Instance limit reached: every server that matches is in use by another pod";

/// Why there is no pod.
#[derive(Debug)]
pub(super) enum Refusal {
    /// As many run as may, there or in all: the client may come again.
    Full(&'static str),
    /// Anything else.
    Failure(Failure),
}

impl Refusal {
    fn of(error: &StartError) -> Self {
        match error {
            StartError::Full(_)
            | StartError::Failed(AcquireError::CapacityFull { .. } | AcquireError::QueueFull { .. }) => {
                Self::Full(FULL)
            }
            StartError::Failed(AcquireError::StartFailed { class, message, .. }) => {
                failed(&format!("{message} ({})", class.as_str())).into()
            }
            StartError::InUse(_) => Self::Full(IN_USE),
            StartError::Failed(error) => failed(&error.to_string()).into(),
        }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Full(text) => {
                let failure = Failure::new(StatusCode::TOO_MANY_REQUESTS, text);
                ([(RETRY_AFTER, FULL_RETRY)], failure).into_response()
            }
            Self::Failure(failure) => failure.into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::FailureClass;

    const LIST: &str = r#"[
        {"vpn":"wireguard","country":"Sweden","city":"Malmö","hostname":"se-mma-wg-001"},
        {"vpn":"wireguard","country":"USA","city":"New York NY","hostname":"us-nyc-wg-301"}
    ]"#;

    fn request(text: &str) -> StartRequest {
        serde_json::from_str(text).unwrap()
    }

    fn refused(text: &str) -> (u16, String) {
        let failure = candidates(&request(text), &Catalogue::parse(LIST).unwrap()).unwrap_err();
        (failure.status().as_u16(), failure.message().to_owned())
    }

    #[test]
    fn what_is_asked_for_is_found_or_told_in_the_originals_words() {
        let catalogue = Catalogue::parse(LIST).unwrap();
        for good in [
            r#"{"server": "usa-new-york-ny-us-nyc-wg-301"}"#,
            r#"{"server": "sweden-malmö-se-mma-wg-001", "country": "Atlantis"}"#,
            r#"{"country": "swe"}"#,
            r#"{"city": "NEW YORK", "server": ""}"#,
        ] {
            assert!(candidates(&request(good), &catalogue).is_ok(), "{good}");
        }
        assert_eq!(refused(r#"{"server": "x"}"#), (400, "Invalid server".to_owned()));
        assert_eq!(
            refused(r#"{"country": "Atlantis", "city": "Malmö"}"#),
            (400, "No server found for country 'atlantis' and city 'malmö'".to_owned())
        );
        assert_eq!(refused(r#"{"country": "Atlantis"}"#).1, "No server found for country 'atlantis'");
        assert_eq!(refused(r#"{"city": "Atlantis"}"#).1, "No server found for city 'atlantis'");
        for nothing in ["{}", r#"{"country": " ", "city": ""}"#, r#"{"server": " "}"#] {
            let (status, text) = refused(nothing);
            assert_eq!(
                (status, text.as_str()),
                (400, "Must provide either 'server' or 'country'/'city' parameters")
            );
        }
        let failure = candidates(&request(r#"{"country": "Sweden"}"#), &Catalogue::default()).unwrap_err();
        assert_eq!(failure.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn times_have_a_unit_and_bounds() {
        let read = |text| time("idle", Some(text), IDLE).map_err(|failure| failure.message().to_owned());
        assert_eq!(read("10m"), Ok(Some(Duration::from_secs(600))));
        assert_eq!(read(" "), Ok(None));
        for bad in ["300", "29s", "25h", "-5m", "soon"] {
            let error = read(bad).unwrap_err();
            assert!(error.starts_with("'idle' must be a time from 30s to 1d, "), "{error}");
            assert!(error.ends_with(&format!("not '{bad}'")), "{error}");
        }
    }

    #[test]
    fn refusals() {
        let told = |error: StartError| match Refusal::of(&error) {
            Refusal::Full(text) => (429, text.to_owned()),
            Refusal::Failure(failure) => (failure.status().as_u16(), failure.message().to_owned()),
        };
        let text = String::from;
        assert_eq!(told(StartError::Full(text("5 of 5"))).0, 429);
        assert_eq!(told(AcquireError::CapacityFull { message: text("quota") }.into()).0, 429);
        let failed = AcquireError::StartFailed {
            class: FailureClass::BadKey,
            message: text("the key is bad"),
            retry_after: None,
        };
        assert_eq!(told(failed.into()), (500, text("Failed to start Gluetun pod: the key is bad (bad_key)")));
        let (status, text) = told(AcquireError::ControlPlaneUnavailable.into());
        assert_eq!(status, 500);
        assert!(text.starts_with("Failed to start Gluetun pod: "), "{text}");
    }
}
