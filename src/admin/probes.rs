//! The probes. `/livez` asks for a restart and hence tells of this process alone; `/readyz` says whether
//! traffic is welcome; `/health` is what the original system's probes and clients ask.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::Admin;
use super::types::{Alive, Health, Ready};

/// Whether the gateway answers
///
/// As the original system's probes and clients ask it: 200 for as long as the process answers. Probes of
/// Kubernetes are better off with `/livez` and `/readyz`.
#[utoipa::path(
    get,
    path = "/health",
    tag = "probes",
    operation_id = "health",
    responses((status = 200, description = "It answers.", body = Health,
        example = json!({"status": "healthy", "servers_loaded": true, "servers_source": "job",
            "servers_age_seconds": 12, "servers_count": 624}))),
)]
pub(super) async fn health(State(admin): State<Arc<Admin>>) -> Json<Health> {
    let catalogue = Arc::clone(&admin.catalogue.borrow());
    let origin = catalogue.origin();
    Json(Health {
        status: "healthy",
        servers_loaded: !catalogue.is_empty(),
        servers_source: origin.map(|origin| origin.source.as_str()),
        servers_age_seconds: origin.map(|origin| origin.age().as_secs()),
        servers_count: origin.map(|_| catalogue.len()),
    })
}

/// Whether the process should live on
#[utoipa::path(
    get,
    path = "/livez",
    tag = "probes",
    operation_id = "livez",
    responses(
        (status = 200, description = "All event loops turn.", body = Alive,
            example = json!({"alive": true, "stalled": []})),
        (status = 503, description = "An event loop is stuck: restart the pod.", body = Alive,
            example = json!({"alive": false, "stalled": ["proxy-0"]})),
    ),
)]
pub(super) async fn livez(State(admin): State<Arc<Admin>>) -> Response {
    let stalled = admin.liveness.stalled();
    let (status, alive) = match stalled.is_empty() {
        true => (StatusCode::OK, true),
        false => (StatusCode::SERVICE_UNAVAILABLE, false),
    };
    (status, Json(Alive { alive, stalled })).into_response()
}

/// Whether traffic is welcome
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "probes",
    operation_id = "readyz",
    responses(
        (status = 200, description = "It is.", body = Ready, example = json!({
            "ready": true, "draining": false, "waiting_for": [], "failed": [], "without": []})),
        (status = 503, description = "It is not, yet or any more.", body = Ready, example = json!({
            "ready": false, "draining": false, "waiting_for": ["watches"], "failed": [],
            "without": ["servers"]})),
    ),
)]
pub(super) async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    let report = admin.readiness.report();
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let names = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
    let body = Ready {
        ready: report.ready,
        draining: report.draining,
        waiting_for: names(report.waiting_for),
        failed: names(report.failed),
        without: names(report.without),
    };
    (status, Json(body)).into_response()
}
