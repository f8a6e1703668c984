//! What every answer of the admin port has: an `X-Request-Id`, `Cache-Control: no-store`, and a JSON
//! body where it tells a failure. A handler that panics answers 500 and takes nothing else with it.

use std::panic::AssertUnwindSafe;

use axum::Json;
use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt as _;
use uuid::Uuid;

use super::types::ErrorBody;

/// Names a request in logs and answers.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id that is taken from a client.
const MAX_REQUEST_ID: usize = 64;

/// An answer that tells a failure: `{"error": TEXT}`, as the original system has it.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    message: String,
}

impl Failure {
    /// A failure with that status and text, which clients see.
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// Its status.
    #[cfg(test)]
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// Its text.
    #[cfg(test)]
    pub(super) fn message(&self) -> &str {
        &self.message
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { error: self.message })).into_response()
    }
}

/// Runs a request and completes its answer.
pub(super) async fn finish(request: Request, next: Next) -> Response {
    let id = request_id(&request);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut response = answer.unwrap_or_else(|_| {
        tracing::error!(request_id = ?id, %method, path, "the handler of an admin request panicked");
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal error").into_response()
    });
    // What a library answers by itself (a body that is too large) is text: say it in JSON.
    if is_error(response.status()) && !is_json(&response) {
        let status = response.status();
        let reason = status.canonical_reason().unwrap_or("Failed");
        response = Failure::new(status, reason).into_response();
    }
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn is_error(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

fn is_json(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/json"))
}

/// The client's own id where it is short and plain, else a new one.
fn request_id(request: &Request) -> HeaderValue {
    let given = request.headers().get(REQUEST_ID).filter(|id| {
        let id = id.as_bytes();
        (1..=MAX_REQUEST_ID).contains(&id.len())
            && id.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    });
    let new = || HeaderValue::from_str(&Uuid::new_v4().to_string()).ok();
    given.cloned().or_else(new).unwrap_or(HeaderValue::from_static("-"))
}
