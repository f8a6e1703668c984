//! What the API has beside the original system's: sessions as such, and the last failures of the proxy
//! port. `admin` merges [`router`] into its own, behind the same token.

pub(super) mod errors;
mod query;
pub(super) mod sessions;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;

use super::Admin;

/// The paths under `/v1`.
pub(super) fn router() -> Router<Arc<Admin>> {
    Router::new()
        .route("/v1/sessions", get(sessions::list))
        .route("/v1/sessions/{name}", get(sessions::show).delete(sessions::end))
        .route("/v1/errors", get(errors::list))
}
