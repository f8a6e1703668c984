//! Who may use the API: whoever holds one of the tokens of `ADMIN_TOKEN`, and everyone where there is
//! none.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Admin;
use super::response::Failure;
use crate::secret::Secret;

/// Lets a request through that holds a token, or all where none is set.
pub(super) async fn check(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let tokens = Arc::clone(&admin.tokens.borrow());
    if tokens.is_empty() || holds_one(request.headers(), &tokens) {
        return next.run(request).await;
    }
    let text = match request.headers().contains_key(AUTHORIZATION) {
        true => "The token is not one of this gateway's: send Authorization: Bearer TOKEN",
        false => "A token is required: send Authorization: Bearer TOKEN",
    };
    let refused = Failure::new(StatusCode::UNAUTHORIZED, text);
    let challenge = HeaderValue::from_static("Bearer realm=\"gluetun-gateway\"");
    ([(WWW_AUTHENTICATE, challenge)], refused).into_response()
}

/// Whether the request holds one of the tokens. Each is compared, in constant time, whichever fits.
fn holds_one(headers: &HeaderMap, tokens: &[Secret]) -> bool {
    let Some(given) = headers.get(AUTHORIZATION).and_then(bearer) else { return false };
    tokens.iter().fold(false, |found, token| found | (*token == given))
}

/// The token of `Bearer TOKEN` (RFC 6750); the scheme has no case.
fn bearer(value: &HeaderValue) -> Option<Secret> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Secret::from(token.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_of_the_tokens_will_do() {
        let tokens = [Secret::from("first-token"), Secret::from("second-token")];
        let holds = |value: &'static str| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))]);
            holds_one(&headers, &tokens)
        };
        assert!(holds("Bearer first-token"));
        assert!(holds("bearer  second-token "));
        for bad in ["", "Bearer", "Bearer ", "Bearer first-toke", "Basic first-token", "first-token"] {
            assert!(!holds(bad), "{bad}");
        }
        assert!(!holds_one(&HeaderMap::new(), &tokens));
    }
}
