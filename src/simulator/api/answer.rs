//! Answers and how they become HTTP responses.

use std::io;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WARNING};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde_json::Value;

use super::shape::encode;
use super::status::Failure;

/// The body of every response. An error in it cuts the connection.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The answer to a request that was not refused.
pub(super) struct Answer {
    status: StatusCode,
    content_type: &'static str,
    body: Body,
    warnings: Vec<String>,
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

impl Answer {
    /// JSON that is encoded already.
    pub(super) fn json(status: StatusCode, json: Bytes) -> Self {
        Self { status, content_type: "application/json", body: full(json), warnings: Vec::new() }
    }

    /// A JSON value.
    pub(super) fn value(status: StatusCode, value: &Value) -> Self {
        Self::json(status, encode(value))
    }

    /// Plain text.
    pub(super) fn text(status: StatusCode, text: &'static str) -> Self {
        let body = full(Bytes::from_static(text.as_bytes()));
        Self { status, content_type: "text/plain; charset=utf-8", body, warnings: Vec::new() }
    }

    /// A body that goes on.
    pub(super) fn stream(content_type: &'static str, body: Body) -> Self {
        Self { status: StatusCode::OK, content_type, body, warnings: Vec::new() }
    }

    /// The same with `Warning` headers.
    pub(super) fn warn(self, warnings: Vec<String>) -> Self {
        Self { warnings, ..self }
    }

    /// The response.
    pub(super) fn into_response(self) -> Response<Body> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        if self.status != StatusCode::NO_CONTENT {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        }
        for warning in self.warnings {
            let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
                headers.append(WARNING, value);
            }
        }
        response
    }
}

/// The response of a refusal.
pub(super) fn refuse(failure: &Failure) -> Response<Body> {
    let status = StatusCode::from_u16(failure.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Answer::value(status, &failure.status()).into_response();
    if let Some(seconds) = failure.retry_after {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_and_retry_after_are_headers() {
        let answer = Answer::json(StatusCode::CREATED, Bytes::new());
        let response = answer.warn(vec!["unknown field \"x\"".into()]).into_response();
        assert_eq!(response.headers()[WARNING], "299 - \"unknown field \\\"x\\\"\"");
        assert_eq!(response.status(), 201);
        let response = refuse(&Failure::version_too_large(2, 1));
        assert_eq!(
            (response.status().as_u16(), &response.headers()[RETRY_AFTER]),
            (504, &"1".parse().unwrap())
        );
        let odd = Failure { code: 7, ..Failure::not_acceptable() };
        assert_eq!(refuse(&odd).status(), 500);
    }
}
