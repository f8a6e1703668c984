//! `GET /openapi.json` and `GET /docs`, a page that shows it. Both are open: the document holds nothing
//! that the source does not, and whoever asks for a token must be able to read how it is sent.
//!
//! The page is one answer: its style and script are in it, allowed by their hashes, and its policy lets it
//! ask this gateway and nobody else.

use std::sync::Arc;

use axum::Router;
use axum::http::header::{
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::Admin;
use super::openapi;
use super::response::Failure;

const PAGE: &str = include_str!("docs/page.html");
const STYLE: &str = include_str!("docs/style.css");
const SCRIPT: &str = include_str!("docs/script.js");

/// The document and the page, made once.
pub(super) fn router() -> Router<Arc<Admin>> {
    let document = Bytes::from(openapi::document());
    let page = Bytes::from(PAGE.replace("/*STYLE*/", STYLE).replace("/*SCRIPT*/", SCRIPT));
    let policy = HeaderValue::from_str(&policy()).ok();
    Router::new()
        .route("/openapi.json", get(move || document_of(document.clone())))
        .route("/docs", get(move || page_of(page.clone(), policy.clone())))
}

/// The OpenAPI document
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "document",
    operation_id = "openapi",
    responses((status = 200, description = "What this page shows.", content_type = "application/json", body = Object,
        example = json!({"openapi": "3.1.0", "info": {"title": "gluetun-gateway"}, "paths": {}}))),
)]
pub(super) async fn document_of(document: Bytes) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], document).into_response()
}

/// A page that shows the document
#[utoipa::path(
    get,
    path = "/docs",
    tag = "document",
    operation_id = "docs",
    responses((status = 200, description = "The page.", content_type = "text/html", body = String,
        example = "<!doctype html>")),
)]
pub(super) async fn page_of(page: Bytes, policy: Option<HeaderValue>) -> Response {
    let Some(policy) = policy else {
        return Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal error").into_response();
    };
    let fixed = |name: HeaderName, value: &'static str| (name, HeaderValue::from_static(value));
    let headers = [
        fixed(CONTENT_TYPE, "text/html; charset=utf-8"),
        fixed(X_CONTENT_TYPE_OPTIONS, "nosniff"),
        fixed(REFERRER_POLICY, "no-referrer"),
        (CONTENT_SECURITY_POLICY, policy),
    ];
    (headers, page).into_response()
}

/// What the page may do. `data:` is for its icon, which is empty: without one, browsers ask for
/// `/favicon.ico`.
fn policy() -> String {
    let hash = |text: &str| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)));
    format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(SCRIPT),
        hash(STYLE)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_asks_nobody_else() {
        for text in [PAGE, STYLE, SCRIPT] {
            for foreign in ["http://", "https://", "url(", "@import", "innerHTML", "eval("] {
                assert!(!text.contains(foreign), "{foreign}");
            }
        }
        assert_eq!(PAGE.matches("<script>/*SCRIPT*/</script>").count(), 1);
        assert_eq!(PAGE.matches("<style>/*STYLE*/</style>").count(), 1);
        // What would end the elements early, and so miss the hashes.
        assert!(!SCRIPT.contains("</script") && !SCRIPT.contains("<!--") && !STYLE.contains("</style"));
        // An inline handler or style would need a policy that lets anything in.
        assert!(!PAGE.contains(" style=") && !PAGE.contains(" onclick="));
    }

    #[test]
    fn the_policy_names_both_hashes() {
        let policy = policy();
        assert_eq!(policy.matches("'sha256-").count(), 2);
        assert!(!policy.contains("unsafe"));
        assert!(HeaderValue::from_str(&policy).is_ok());
    }
}
