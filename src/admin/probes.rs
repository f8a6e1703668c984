//! The probes. `/livez` asks for a restart and hence tells of this process alone; `/readyz` says whether
//! traffic is welcome; `/health` is what the original system's probes and clients ask.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Admin;

/// `GET /health`: that the process answers, whether it knows servers, and where from and since when.
pub(super) async fn health(State(admin): State<Arc<Admin>>) -> Response {
    let catalogue = Arc::clone(&admin.catalogue.borrow());
    let mut body = json!({ "status": "healthy", "servers_loaded": !catalogue.is_empty() });
    if let (Some(origin), Some(body)) = (catalogue.origin(), body.as_object_mut()) {
        body.insert("servers_source".to_owned(), origin.source.as_str().into());
        body.insert("servers_age_seconds".to_owned(), origin.age().as_secs().into());
        body.insert("servers_count".to_owned(), catalogue.len().into());
    }
    Json(body).into_response()
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
