//! The probes. `/livez` asks for a restart and hence tells of this process alone; `/readyz` says whether
//! traffic is welcome; `/health` is what the original system's probes and clients ask.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Admin;

/// `GET /health`: that the process answers, and whether it knows servers.
pub(super) async fn health(State(admin): State<Arc<Admin>>) -> Response {
    let servers_loaded = !admin.catalogue.borrow().is_empty();
    Json(json!({ "status": "healthy", "servers_loaded": servers_loaded })).into_response()
}

/// `GET /livez`: 200 while the event loops turn, else 503 with the names of those that don't.
pub(super) async fn livez(State(admin): State<Arc<Admin>>) -> Response {
    let stalled = admin.liveness.stalled();
    let (status, alive) = match stalled.is_empty() {
        true => (StatusCode::OK, true),
        false => (StatusCode::SERVICE_UNAVAILABLE, false),
    };
    (status, Json(json!({ "alive": alive, "stalled": stalled }))).into_response()
}

/// `GET /readyz`: 200 when traffic is welcome, else 503 with what it waits for.
pub(super) async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    let report = admin.readiness.report();
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "ready": report.ready,
        "draining": report.draining,
        "waiting_for": report.waiting_for,
        "failed": report.failed,
        "without": report.without,
    });
    (status, Json(body)).into_response()
}
