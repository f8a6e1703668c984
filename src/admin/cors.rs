//! Which pages may use the API from a browser (the Fetch standard's CORS protocol). Preflights are
//! answered before a token is asked for: browsers send none with them.

use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Method};
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

use super::response::REQUEST_ID;

/// How long a browser may remember a preflight's answer.
const MAX_AGE: Duration = Duration::from_secs(600);

/// The layer for these origins; `*` alone is every origin.
pub(super) fn layer(origins: &[String]) -> CorsLayer {
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::POST, Method::DELETE, Method::OPTIONS])
        .allow_headers([CONTENT_TYPE, AUTHORIZATION])
        .expose_headers([REQUEST_ID, RETRY_AFTER])
        .max_age(MAX_AGE);
    if origins == ["*"] {
        return layer.allow_origin(Any);
    }
    // What no header can carry, no browser sends.
    layer.allow_origin(AllowOrigin::list(
        origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()),
    ))
}
