//! The admin port: the management REST API, the probes and the metrics. `app` makes the [`Admin`] and
//! runs [`serve`] on the control plane's runtime; nothing else calls here.
//!
//! Each endpoint is a file of its own with a handler; [`router`] is the list of them. Whatever goes out
//! passes `response::finish`: a JSON body, an `X-Request-Id`, nothing cached.

mod auth;
mod cors;
mod delivery;
mod destroy;
mod docs;
mod filter;
mod input;
mod metrics;
mod openapi;
mod probes;
mod response;
mod server;
mod servers;
mod stall;
mod start;
mod status;
mod tokens;
pub mod types;
mod v1;

use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use tokio::sync::watch;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::proxy::failures::Failures;
use crate::readiness::{Liveness, Readiness};
use crate::servers::{Catalogue, Refresher};
use crate::session::{Manager, Sessions};
use response::Failure;
pub use server::serve;
pub use tokens::{Tokens, watch_tokens};

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
    /// Has the server list fetched anew.
    pub refresher: Refresher,
    /// Pins and destroys.
    pub manager: Manager,
    /// Who may use the API.
    pub tokens: Tokens,
}

/// Every path of the admin port.
pub fn router(admin: Admin) -> Router {
    let admin = Arc::new(admin);
    // The API proper: for those who hold a token, where there is one.
    let api = Router::new()
        .route("/servers", get(servers::servers))
        .route("/locations", get(servers::locations))
        .route("/servers/refresh", post(servers::refresh))
        .route("/start", post(start::start))
        .route("/destroy", post(destroy::destroy))
        .route("/stop", post(destroy::stop))
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
        .fallback(not_found)
        .method_not_allowed_fallback(|| async {
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")
        })
        .layer(cors::layer(&admin.config.cors_origins))
        .layer(from_fn(response::finish))
        .with_state(admin)
}

async fn not_found(uri: Uri) -> Failure {
    let path = uri.path();
    let text = match path.trim_end_matches('/') {
        shorter if shorter.len() < path.len() && !shorter.is_empty() && shorter.len() < 64 => {
            format!("Not found: paths have no slash at the end, write {shorter}")
        }
        _ => "Not found".to_owned(),
    };
    Failure::new(StatusCode::NOT_FOUND, text)
}

#[cfg(test)]
pub(crate) mod tests;
