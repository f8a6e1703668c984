//! The gateway's own answers as bytes: errors on the raw path and through hyper from one list of
//! header fields, and the 200 of a CONNECT.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};

use super::error::{Code, ProxyError};
use super::record::RequestId;

/// The challenge of a 407 (RFC 7617, 2.1).
const CHALLENGE: &str = "Basic realm=\"gluetun-gateway\", charset=\"UTF-8\"";

/// Bytes of the message in a body, once escaped. With the hint it keeps a body below 1 KiB.
const MAX_MESSAGE: usize = 500;
/// Bytes of the hint, once escaped.
const MAX_HINT: usize = 300;

/// The request's id: on every answer of the gateway's own.
pub(super) const REQUEST_ID: &str = "X-Gateway-Request-Id";
/// The error's code: only on errors that the gateway made.
pub(super) const ERROR: &str = "X-Gateway-Error";
/// Where a body says to be JSON.
const JSON: &str = "application/json";

/// The header fields of an error, without those that frame the message.
fn fields(error: &ProxyError, id: RequestId) -> Vec<(&'static str, Cow<'static, str>)> {
    let code = error.code.as_str();
    let mut fields = Vec::with_capacity(8);
    if error.code.status() == 407 {
        fields.push(("Proxy-Authenticate", Cow::Borrowed(CHALLENGE)));
    }
    // Codes are tokens of letters and '_', so the quoted string needs no escape (a test says so).
    let proxy_status = format!("gluetun-gateway; error={}; details=\"{code}\"", error.proxy_status);
    fields.push(("Proxy-Status", Cow::Owned(proxy_status)));
    fields.push((ERROR, Cow::Borrowed(code)));
    fields.push((REQUEST_ID, Cow::Owned(id.to_string())));
    fields.push(("Content-Type", Cow::Borrowed(JSON)));
    fields.push(("Cache-Control", Cow::Borrowed("no-store")));
    if let Some(seconds) = error.retry_after {
        fields.push(("Retry-After", Cow::Owned(seconds.to_string())));
    }
    if let Some(waited) = error.waited {
        fields.push(("X-Gateway-Wait-Ms", Cow::Owned(waited.as_millis().to_string())));
    }
    fields
}

/// The body: one JSON object in ASCII, under 1 KiB.
fn body(error: &ProxyError, id: RequestId) -> String {
    let mut body = String::with_capacity(512);
    let _ = write!(body, "{{\"error\":\"{}\",\"message\":\"", error.code.as_str());
    escape(&error.message, MAX_MESSAGE, &mut body);
    let _ = write!(
        body,
        "\",\"request_id\":\"{id}\",\"retryable\":{},\"hint\":\"",
        error.code.retryable() || error.retry_after.is_some()
    );
    escape(&error.hint, MAX_HINT, &mut body);
    body.push_str("\"}\n");
    body
}

/// Appends `text` as the inside of a JSON string, in ASCII and in at most `limit` bytes: never cut
/// inside an escape.
fn escape(text: &str, limit: usize, out: &mut String) {
    let end = out.len() + limit;
    let mut piece = String::with_capacity(12);
    for char in text.chars() {
        piece.clear();
        match char {
            '"' | '\\' => piece.extend(['\\', char]),
            ' '..='~' => piece.push(char),
            _ => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    let _ = write!(piece, "\\u{unit:04x}");
                }
            }
        }
        if out.len() + piece.len() > end {
            return;
        }
        out.push_str(&piece);
    }
}

/// An error as the bytes of an HTTP/1.1 response.
pub(super) fn error_bytes(error: &ProxyError, id: RequestId, close: bool) -> Vec<u8> {
    let body = body(error, id);
    let mut out = String::with_capacity(512 + body.len());
    let _ = write!(out, "HTTP/1.1 {} {}\r\n", error.code.status(), error.code.reason());
    for (name, value) in fields(error, id) {
        let _ = write!(out, "{name}: {value}\r\n");
    }
    let _ = write!(out, "Content-Length: {}\r\n", body.len());
    if close {
        out.push_str("Connection: close\r\n");
    }
    out.push_str("\r\n");
    out.push_str(&body);
    out.into_bytes()
}

/// An error as a response for hyper's server.
pub(super) fn error_response(error: &ProxyError, id: RequestId, close: bool) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body(error, id)));
    *response.status_mut() = status(error.code);
    let mut fields = fields(error, id);
    if close {
        fields.push(("Connection", Cow::Borrowed("close")));
    }
    append(&mut response, fields);
    response
}

fn status(code: Code) -> StatusCode {
    StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn append<B>(response: &mut Response<B>, fields: Vec<(&'static str, Cow<'static, str>)>) {
    for (name, value) in fields {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value.as_bytes()))
        {
            response.headers_mut().append(name, value);
        }
    }
}

/// What the 200 of a CONNECT says about its exit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Established<'a> {
    /// The request's id.
    pub(super) id: RequestId,
    /// Hostname of the VPN server.
    pub(super) server: &'a str,
    /// The country's name.
    pub(super) country: &'a str,
    /// Whether the exit was started for this request.
    pub(super) cold_start: bool,
    /// How long the request was held.
    pub(super) waited: Duration,
    /// After how long without use the session ends: that of the request that made it.
    pub(super) idle: Duration,
    /// When the session gets a new exit.
    pub(super) expires: Option<SystemTime>,
}

impl Established<'_> {
    fn fields(&self) -> Vec<(&'static str, Cow<'static, str>)> {
        let mut fields = vec![
            (REQUEST_ID, Cow::Owned(self.id.to_string())),
            ("X-Gateway-Exit", Cow::Owned(field_text(self.server))),
            ("X-Gateway-Exit-Country", Cow::Owned(field_text(self.country))),
            ("X-Gateway-Cold-Start", Cow::Borrowed(if self.cold_start { "true" } else { "false" })),
            ("X-Gateway-Wait-Ms", Cow::Owned(self.waited.as_millis().to_string())),
            ("X-Gateway-Session-Idle", Cow::Owned(format!("{}s", self.idle.as_secs()))),
        ];
        if let Some(expires) = self.expires {
            fields.push((
                "X-Gateway-Session-Expires",
                Cow::Owned(humantime::format_rfc3339_seconds(expires).to_string()),
            ));
        }
        fields
    }

    /// The head, without `Content-Length` and `Transfer-Encoding` (RFC 9110, 9.3.6).
    pub(super) fn bytes(&self) -> Vec<u8> {
        // One buffer, no list of fields and no formatting: every tunnel takes this way.
        let mut out = String::with_capacity(320);
        let mut number = itoa::Buffer::new();
        out.push_str("HTTP/1.1 200 Connection established\r\n");
        out.push_str(REQUEST_ID);
        out.push_str(": ");
        self.id.push_to(&mut out);
        out.push_str("\r\nX-Gateway-Exit: ");
        push_text(self.server, &mut out);
        out.push_str("\r\nX-Gateway-Exit-Country: ");
        push_text(self.country, &mut out);
        out.push_str("\r\nX-Gateway-Cold-Start: ");
        out.push_str(if self.cold_start { "true" } else { "false" });
        out.push_str("\r\nX-Gateway-Wait-Ms: ");
        out.push_str(number.format(self.waited.as_millis()));
        out.push_str("\r\nX-Gateway-Session-Idle: ");
        out.push_str(number.format(self.idle.as_secs()));
        out.push_str("s\r\n");
        if let Some(expires) = self.expires {
            let _ =
                write!(out, "X-Gateway-Session-Expires: {}\r\n", humantime::format_rfc3339_seconds(expires));
        }
        out.push_str("\r\n");
        out.into_bytes()
    }

    /// The same for hyper's server.
    pub(super) fn response(&self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        append(&mut response, self.fields());
        response
    }
}

/// Text of the server list as a field's value: what is not printable ASCII becomes `?` ("Malmö" is
/// no country, but a list may hold anything).
fn push_text(text: &str, out: &mut String) {
    if text.bytes().all(|b| matches!(b, b' '..=b'~')) {
        out.push_str(text);
    } else {
        out.extend(text.chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' }));
    }
}

fn field_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    push_text(text, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::super::error::ALL_CODES;
    use super::*;

    const ID: RequestId = RequestId::of(0x0123_4567_89ab_cdef);

    fn parsed(bytes: &[u8]) -> (u16, Vec<(String, String)>, serde_json::Value) {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let head = response.parse(bytes).unwrap().unwrap();
        let fields = response
            .headers
            .iter()
            .map(|h| (h.name.to_owned(), String::from_utf8(h.value.to_vec()).unwrap()))
            .collect();
        (response.code.unwrap(), fields, serde_json::from_slice(&bytes[head..]).unwrap())
    }

    fn field<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
        fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    #[test]
    fn every_error_is_complete_ascii_and_small() {
        for code in ALL_CODES {
            let long = "\u{1f600}\"\\\r\n\0ä".repeat(200);
            for message in ["short", &long] {
                let error = ProxyError::new(code, message.to_owned()).hint(message.to_owned());
                let bytes = error_bytes(&error, ID, true);
                assert!(bytes.is_ascii());
                let (status, fields, json) = parsed(&bytes);
                assert_eq!(status, code.status());
                assert_eq!(field(&fields, "x-gateway-error"), Some(code.as_str()));
                assert_eq!(field(&fields, "x-gateway-request-id"), Some("0123456789abcdef"));
                assert_eq!(field(&fields, "cache-control"), Some("no-store"));
                assert_eq!(field(&fields, "content-type"), Some("application/json"));
                assert_eq!(field(&fields, "connection"), Some("close"));
                assert_eq!(field(&fields, "proxy-authenticate").is_some(), code.status() == 407);
                assert_eq!(
                    field(&fields, "proxy-status").unwrap(),
                    format!("gluetun-gateway; error={}; details=\"{}\"", code.proxy_status(), code.as_str())
                );
                let length: usize = field(&fields, "content-length").unwrap().parse().unwrap();
                assert!(length < 1024 && bytes.ends_with(b"}\n"));
                assert!(
                    length == bytes.len() - (bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4)
                );
                assert_eq!(json["error"], code.as_str());
                assert_eq!(json["request_id"], "0123456789abcdef");
                assert!(message.starts_with(json["message"].as_str().unwrap()));
                let names: Vec<_> = json.as_object().unwrap().keys().collect();
                assert_eq!(names, ["error", "message", "request_id", "retryable", "hint"]);
            }
        }
    }

    #[test]
    fn both_paths_say_the_same() {
        let error = ProxyError::new(Code::StartTimeout, "slow");
        let error = ProxyError { waited: Some(Duration::from_millis(90_001)), ..error };
        let (status, mut fields, json) = parsed(&error_bytes(&error, ID, true));
        let response = error_response(&error, ID, true);
        assert_eq!(response.status().as_u16(), status);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(response.body()).unwrap(), json);
        fields.retain(|(name, _)| name != "Content-Length"); // hyper adds its own
        assert_eq!(fields.len(), response.headers().len());
        for (name, value) in &fields {
            assert_eq!(response.headers()[name.as_str()], value.as_str());
        }
        assert_eq!(response.headers()["x-gateway-wait-ms"], "90001");
    }

    #[test]
    fn a_challenge_may_leave_the_connection_open() {
        let bytes = error_bytes(&ProxyError::auth_required(), ID, false);
        let (_, fields, _) = parsed(&bytes);
        assert_eq!(field(&fields, "connection"), None);
        assert_eq!(
            field(&fields, "proxy-authenticate"),
            Some("Basic realm=\"gluetun-gateway\", charset=\"UTF-8\"")
        );
    }

    #[test]
    fn the_200_names_the_exit_and_has_no_framing() {
        let established = Established {
            id: ID,
            server: "se-sto-wg-001",
            country: "Åland\r\nX: y",
            cold_start: true,
            waited: Duration::from_millis(1234),
            idle: Duration::from_secs(300),
            expires: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
        };
        let text = String::from_utf8(established.bytes()).unwrap();
        assert_eq!(
            text,
            "HTTP/1.1 200 Connection established\r\nX-Gateway-Request-Id: 0123456789abcdef\r\n\
             X-Gateway-Exit: se-sto-wg-001\r\nX-Gateway-Exit-Country: ?land??X: y\r\n\
             X-Gateway-Cold-Start: true\r\nX-Gateway-Wait-Ms: 1234\r\n\
             X-Gateway-Session-Idle: 300s\r\nX-Gateway-Session-Expires: 2023-11-14T22:13:20Z\r\n\r\n"
        );
        let response = established.response();
        assert_eq!(response.headers().len(), 7);
        for (name, value) in response.headers() {
            let line = format!("{name}: {}\r\n", value.to_str().unwrap());
            assert!(text.to_lowercase().contains(&line.to_lowercase()), "{line}");
        }
    }
}
