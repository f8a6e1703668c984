//! `GET /metrics`: Prometheus' text format.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::Admin;
use super::response::Failure;

/// Metrics
///
/// Every metric of the process, in Prometheus' text format. `docs/metrics.md` tells what each means.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "probes",
    operation_id = "metrics",
    responses((status = 200, description = "The metrics.", content_type = "text/plain", body = String,
        example = "# TYPE gluetun_gateway_sessions gauge\ngluetun_gateway_sessions 3\n")),
)]
pub(super) async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    admin.sessions.observe();
    let catalogue = Arc::clone(&admin.catalogue.borrow());
    admin.metrics.servers.set(i64::try_from(catalogue.len()).unwrap_or(i64::MAX));
    // One series: that of a source no longer in use would go on aging.
    admin.metrics.servers_age.reset();
    if let Some(origin) = catalogue.origin() {
        let age = i64::try_from(origin.age().as_secs()).unwrap_or(i64::MAX);
        admin.metrics.servers_age.with_label_values(&[origin.source.as_str()]).set(age);
    }
    admin.metrics.pods_limit.set(i64::try_from(admin.config.instance_limit).unwrap_or(i64::MAX));
    match admin.metrics.gather() {
        Ok(text) => {
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            ([(CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "metrics cannot be gathered");
            Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "Metrics cannot be gathered").into_response()
        }
    }
}
