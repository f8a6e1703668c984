//! `POST /destroy`, which ends a pod of ours, whoever it was started for; and `POST /stop`, which never
//! did anything.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::Admin;
use super::input::Input;
use super::response::Failure;
use super::types::{DestroyRequest, Message};
use crate::session::api::ApiError;

/// Ends a pod, its session and its tunnels.
pub(super) async fn destroy(
    State(admin): State<Arc<Admin>>,
    Input(request): Input<DestroyRequest>,
) -> Result<Json<Message>, Failure> {
    let id = request.id.as_deref().map(str::trim).unwrap_or_default();
    let missing = || Failure::new(StatusCode::NOT_FOUND, "Pod not found");
    if id.is_empty() {
        return Err(missing());
    }
    let pod = admin.manager.find(id).await.map_err(|error| failed(id, &error))?.ok_or_else(missing)?;
    admin.manager.destroy(&pod).await.map_err(|error| failed(id, &error))?;
    tracing::info!(pod = pod.name, foreign = pod.binding.is_none(), "pod destroyed on request");
    Ok(Json(Message { message: "Pod destroyed" }))
}

fn failed(id: &str, error: &ApiError) -> Failure {
    tracing::warn!(id, %error, "a pod could not be destroyed");
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "Failed to destroy pod")
}

/// Says that pods are not stopped.
pub(super) async fn stop() -> Failure {
    let text = "Stop is not supported for Kubernetes pods. Use /destroy instead.";
    Failure::new(StatusCode::BAD_REQUEST, text)
}
