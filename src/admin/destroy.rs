//! `POST /destroy`, which ends a pod of ours, whoever it was started for; and `POST /stop`, which never
//! did anything.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::Admin;
use super::input::Input;
use super::response::Failure;
use super::types::{DestroyRequest, ErrorBody, Message};
use crate::session::api::ApiError;

/// End a pod
///
/// Ends the pod, its session and its tunnels, whoever it was made for. `/status` does not show it any more,
/// and its credentials are refused.
#[utoipa::path(
    post,
    path = "/destroy",
    tag = "pods",
    operation_id = "destroyPod",
    request_body(content = DestroyRequest, description = "Which pod: the `id` of `/start` or `/status`.",
        example = json!({"id": "444b33d0-0604-578f-a246-c49a9fe4c5c8"})),
    responses(
        (status = 200, description = "It is gone.", body = Message,
            example = json!({"message": "Pod destroyed"})),
        (status = 400, description = "The body is no JSON object, or its type is not JSON.", body = ErrorBody,
            example = json!({"error": "'id' must be a string, not a number; send {\"id\": \"6f9619ff-8b86-d011-b42d-00cf4fc964ff\"}"})),
        (status = 404, description = "There is no such pod, or no id.", body = ErrorBody,
            example = json!({"error": "Pod not found"})),
        (status = 500, description = "Kubernetes refused, or did not answer.", body = ErrorBody,
            example = json!({"error": "Failed to destroy pod"})),
    ),
    security((), ("token" = []))
)]
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

/// Nothing: pods are not stopped
///
/// Kept for clients of the original system, which answered the same.
#[utoipa::path(
    post,
    path = "/stop",
    tag = "pods",
    operation_id = "stopPod",
    responses(
        (status = 400, description = "Always.", body = ErrorBody,
            example = json!({"error": "Stop is not supported for Kubernetes pods. Use /destroy instead."})),
    ),
    security((), ("token" = []))
)]
pub(super) async fn stop() -> Failure {
    let text = "Stop is not supported for Kubernetes pods. Use /destroy instead.";
    Failure::new(StatusCode::BAD_REQUEST, text)
}
