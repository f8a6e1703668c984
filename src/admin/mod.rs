//! The admin port: the management REST API, the probes and the metrics. `app` makes the [`Admin`] and
//! runs [`serve`] on the control plane's runtime; nothing else calls here.
//!
//! Each endpoint is a file of its own with a handler; [`router`] is the list of them. Whatever goes out
//! passes `response::finish`: a JSON body, an `X-Request-Id`, nothing cached.

mod auth;
mod docs;
mod metrics;
mod openapi;
mod probes;
mod response;
mod server;
mod status;
mod v1;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::get;
use axum::{Router, http::StatusCode};
use tokio::sync::watch;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::proxy::failures::Failures;
use crate::readiness::{Liveness, Readiness};
use crate::servers::Catalogue;
use crate::session::Sessions;
use response::Failure;
pub use server::serve;

/// Largest body of a request: the API's own are some hundred bytes.
const MAX_BODY: usize = 64 << 10;

/// What the admin port tells of.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The settings.
    pub config: Arc<Config>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Whether traffic is welcome.
    pub readiness: Readiness,
    /// Whether the event loops turn.
    pub liveness: Liveness,
    /// The sessions and their pods.
    pub sessions: Sessions,
    /// The server list in use.
    pub catalogue: watch::Receiver<Arc<Catalogue>>,
    /// The last failures of the proxy port.
    pub failures: Failures,
}

/// Every path of the admin port.
pub fn router(admin: Admin) -> Router {
    let admin = Arc::new(admin);
    // The API proper: for those who hold a token, where there is one.
    let api = Router::new()
        .route("/status", get(status::status))
        .merge(v1::router())
        .route_layer(from_fn_with_state(Arc::clone(&admin), auth::check));
    // For the kubelet and for Prometheus, which have none.
    let open = Router::new()
        .route("/health", get(probes::health))
        .route("/livez", get(probes::livez))
        .route("/readyz", get(probes::readyz))
        .route("/metrics", get(metrics::metrics))
        .merge(docs::router());
    Router::new()
        .merge(api)
        .merge(open)
        .fallback(|| async { Failure::new(StatusCode::NOT_FOUND, "Not found") })
        .method_not_allowed_fallback(|| async {
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn(response::finish))
        .with_state(admin)
}

#[cfg(test)]
mod tests;
