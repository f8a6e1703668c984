//! Requests, read: JSON bodies and query strings, with errors that name the field and the fix. A mistake
//! of the client's is always a 4xx and never ends in a handler.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::response::Failure;
use super::types::{DestroyRequest, StartRequest};

/// Largest body of a request: the API's own are some hundred bytes.
const MAX_BODY: usize = 64 << 10;

/// As much of a body that is too large is read all the same, so that its sender gets to read why.
const MAX_DISCARDED: usize = 1 << 20;

/// How long a body may take.
const BODY: Duration = Duration::from_secs(10);

/// A body's fields. All of them are texts that may lack.
pub(super) trait Fields: DeserializeOwned {
    /// Their names.
    const NAMES: &'static [&'static str];
    /// A body that is well formed, for hints.
    const EXAMPLE: &'static str;
}

impl Fields for StartRequest {
    const NAMES: &'static [&'static str] = &["server", "country", "city", "idle", "ttl"];
    const EXAMPLE: &'static str = r#"{"country": "Sweden"}"#;
}

impl Fields for DestroyRequest {
    const NAMES: &'static [&'static str] = &["id"];
    const EXAMPLE: &'static str = r#"{"id": "6f9619ff-8b86-d011-b42d-00cf4fc964ff"}"#;
}

/// A request's JSON body. None at all is an empty object; unknown fields are ignored; `null` is as if the
/// field lacked.
#[derive(Debug)]
pub(super) struct Input<T>(pub(super) T);

impl<T: Fields, S: Sync> FromRequest<S> for Input<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let (parts, body) = request.into_parts();
        let length = parts.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > MAX_DISCARDED) {
            return Err(too_large());
        }
        let read = tokio::time::timeout(BODY, read(body)).await;
        let bytes = read.map_err(|_| {
            let text = format!("The body did not come within {} seconds", BODY.as_secs());
            Failure::new(StatusCode::REQUEST_TIMEOUT, text)
        })??;
        if !bytes.is_empty() && !is_json(&parts.headers) {
            return Err(bad("The body must be JSON: send it with Content-Type: application/json"));
        }
        parse(&bytes).map(Self)
    }
}

async fn read(mut body: Body) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let mut discarded = 0;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|_| bad("The body could not be read: it broke off, or its framing is wrong"))?;
        let Ok(data) = frame.into_data() else { continue };
        if discarded == 0 && bytes.len() + data.len() <= MAX_BODY {
            bytes.extend_from_slice(&data);
            continue;
        }
        discarded += data.len();
        if discarded > MAX_DISCARDED {
            break;
        }
    }
    if discarded > 0 { Err(too_large()) } else { Ok(bytes) }
}

fn too_large() -> Failure {
    let text = format!("The body is larger than {MAX_BODY} bytes");
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, text)
}

fn bad(text: impl Into<String>) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, text)
}

/// `application/json`, or a type with its suffix. A page of another origin can send neither without asking
/// first, so a missing type is refused as well.
fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

fn parse<T: Fields>(bytes: &[u8]) -> Result<T, Failure> {
    let value = match bytes.trim_ascii() {
        [] => Value::Object(Map::new()),
        bytes => serde_json::from_slice(bytes)
            .map_err(|error| bad(format!("The body is not valid JSON: {error}; send {}", T::EXAMPLE)))?,
    };
    let Value::Object(fields) = value else {
        return Err(bad(format!(
            "The body must be a JSON object such as {}, not {}",
            T::EXAMPLE,
            kind(&value)
        )));
    };
    for name in T::NAMES {
        match fields.get(*name) {
            None | Some(Value::Null | Value::String(_)) => {}
            Some(other) => {
                return Err(bad(format!(
                    "'{name}' must be a string, not {}; send {}",
                    kind(other),
                    T::EXAMPLE
                )));
            }
        }
    }
    serde_json::from_value(Value::Object(fields))
        .map_err(|error| bad(format!("The body is not understood: {error}; send {}", T::EXAMPLE)))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The parameters of a query. Of one that is given twice the first counts; unknown ones are ignored.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string.
    pub(super) fn read(text: Option<&str>) -> Result<Self, Failure> {
        let pairs: Vec<(String, String)> =
            form_urlencoded::parse(text.unwrap_or_default().as_bytes()).into_owned().collect();
        // What is not UTF-8 has become this character, which no name of a place has.
        match pairs.iter().find(|(name, value)| name.contains('\u{fffd}') || value.contains('\u{fffd}')) {
            Some((name, _)) => {
                let name: String = name.chars().take(40).collect();
                Err(bad(format!("The query parameter '{name}' is not UTF-8: percent-encode it as UTF-8")))
            }
            None => Ok(Self(pairs)),
        }
    }

    /// A parameter without white space around it; none where it is empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(given, _)| given == name)?;
        Some(value.trim()).filter(|value| !value.is_empty())
    }

    /// Whether a parameter says yes: `true`, `1` or `yes`, as in the original.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.text(name)
            .is_some_and(|value| ["true", "1", "yes"].iter().any(|yes| value.eq_ignore_ascii_case(yes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(text: &str) -> Result<StartRequest, String> {
        parse(text.as_bytes()).map_err(|failure| failure.message().to_owned())
    }

    #[test]
    fn what_lacks_is_none_and_what_is_unknown_is_ignored() {
        assert_eq!(start("").unwrap(), StartRequest::default());
        assert_eq!(start(" {} ").unwrap(), StartRequest::default());
        let text = r#"{"country": "Sweden", "city": null, "colour": [1], "country": "Norway"}"#;
        let expected = StartRequest { country: Some("Norway".to_owned()), ..StartRequest::default() };
        assert_eq!(start(text).unwrap(), expected);
    }

    #[test]
    fn mistakes_name_the_field_and_show_how_it_is_done() {
        for (text, words) in [
            ("{", "not valid JSON"),
            ("\"x\"", "must be a JSON object such as {\"country\": \"Sweden\"}, not a string"),
            ("[]", "not an array"),
            ("null", "not null"),
            (r#"{"server": 5}"#, "'server' must be a string, not a number"),
            (r#"{"city": ["x"]}"#, "'city' must be a string, not an array"),
            (r#"{"idle": {}}"#, "'idle' must be a string, not an object"),
            (r#"{"country": true}"#, "'country' must be a string, not a boolean"),
            ("{\"server\": \"\\ud800\"}", "not valid JSON"),
        ] {
            let error = start(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
        assert!(parse::<StartRequest>(b"{\"server\": \"\xff\"}").is_err());
        assert!(start(&"[".repeat(10_000)).is_err());
    }

    #[test]
    fn json_is_told_by_its_type() {
        let is = |kind: &'static str| {
            is_json(&HeaderMap::from_iter([(CONTENT_TYPE, axum::http::HeaderValue::from_static(kind))]))
        };
        for kind in ["application/json", "Application/JSON; charset=utf-8", "application/problem+json"] {
            assert!(is(kind), "{kind}");
        }
        for kind in ["text/plain", "application/x-www-form-urlencoded", "text/json", "", "application/jsonp"]
        {
            assert!(!is(kind), "{kind}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }

    #[test]
    fn queries() {
        let query =
            Query::read(Some("country=New+Zealand&country=x&city=%20Malm%C3%B6%20&force=YES&a=%zz")).unwrap();
        assert_eq!(query.text("country"), Some("New Zealand"));
        assert_eq!(query.text("city"), Some("Malmö"));
        assert_eq!(query.text("a"), Some("%zz"));
        assert_eq!(query.text("b"), None);
        assert!(query.flag("force"));
        for no in ["", "0", "no", "false", "on", "2"] {
            assert!(!Query::read(Some(&format!("force={no}"))).unwrap().flag("force"), "{no}");
        }
        assert!(Query::read(None).unwrap().text("city").is_none());
        assert!(Query::read(Some("city=%ff")).unwrap_err().message().contains("'city' is not UTF-8"));
    }
}
