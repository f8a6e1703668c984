//! Heads of plain HTTP as bytes: a request's made one for its origin, an answer's made one for the client,
//! read once and written once. Pure; `direct` and `origin` call it. What it makes is what `forward` and
//! hyper make of the same (a test compares them), save that fields stay in their order.

use std::io::Write as _;
use std::net::IpAddr;

use http::Method;

use super::chunks::Chunks;
use super::content::{Content, Trailers};
use super::head::{self, Authorization, Field, Head, Room, has_token};
use super::record::RequestId;
use super::response::{ERROR, REQUEST_ID};
use crate::config::Forwarding;

/// Most header fields of an answer.
const MAX_ANSWER_FIELDS: usize = 256;

/// A request of the common kind: without a body, that may be sent twice, and nothing about it that wants
/// more than its head rewritten.
#[derive(Debug)]
pub(super) struct Common<'h, 'b> {
    /// The method.
    pub(super) method: Method,
    /// `Proxy-Authorization`.
    pub(super) authorization: Authorization<'b>,
    /// Host and port as the client wrote them, not checked yet.
    pub(super) authority: &'b str,
    /// Whether trailers are welcome.
    pub(super) trailers: bool,
    /// What follows the authority.
    path: &'b str,
    fields: &'h [Field<'b>],
}

/// Reads a whole head; `None` if the request is not of the common kind.
pub(super) fn common<'h, 'b>(bytes: &'b [u8], room: &'h mut Room<'b>) -> Option<Common<'h, 'b>> {
    let (head, fields) = Head::with_fields(bytes, room).ok()?;
    if !(head.http11 && head.keep_alive && head.host_is_valid && head.body.is_empty()) {
        return None;
    }
    let method = idempotent(head.method)?;
    let rest = head.target.strip_prefix("http://")?;
    let end = rest.bytes().position(|b| b == b'/' || b == b'?').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    // An empty port means the default one, and hyper's client repeats it as it is.
    if authority.ends_with(':') || !path.bytes().all(is_path) {
        return None;
    }
    let special = |field: &Field<'_>| {
        let name = field.name;
        match name.len() {
            6 => name.eq_ignore_ascii_case("expect"),
            7 => name.eq_ignore_ascii_case("upgrade"),
            14 => name.eq_ignore_ascii_case("content-length"),
            17 => name.eq_ignore_ascii_case("transfer-encoding"),
            _ => false,
        }
    };
    if fields.iter().any(special) {
        return None;
    }
    let trailers = values(fields, "te").any(|value| has_token(value, "trailers"));
    Some(Common { method, authorization: head.authorization, authority, trailers, path, fields })
}

/// RFC 9110, 9.2.2. Methods are told by their case.
fn idempotent(method: &str) -> Option<Method> {
    Some(match method {
        "GET" => Method::GET,
        "HEAD" => Method::HEAD,
        "OPTIONS" => Method::OPTIONS,
        "TRACE" => Method::TRACE,
        "PUT" => Method::PUT,
        "DELETE" => Method::DELETE,
        _ => return None,
    })
}

/// Bytes of a path or query that all readers of URLs take as they are.
const fn is_path(byte: u8) -> bool {
    matches!(byte, b'!' | b'$'..=b';' | b'=' | b'?'..=b'Z' | b'[' | b']' | b'_' | b'a'..=b'z' | b'|' | b'~')
}

impl Common<'_, '_> {
    /// The head for the origin (RFC 9112, 3.2.1), with what the gateway is told to add.
    pub(super) fn for_origin(&self, forwarding: Forwarding, client: IpAddr) -> Vec<u8> {
        let fields: usize = self.fields.iter().map(|field| field.name.len() + field.value.len() + 4).sum();
        // Two fields may be added, of an address at the longest.
        let mut out = Vec::with_capacity(fields + self.path.len() + self.authority.len() + 160);
        out.extend_from_slice(self.method.as_str().as_bytes());
        out.extend_from_slice(match self.path.as_bytes().first() {
            Some(b'?') => b" /",
            Some(_) => b" ",
            // RFC 9112, 3.2.4.
            None if self.method == Method::OPTIONS => b" *",
            None => b" /",
        });
        out.extend_from_slice(self.path.as_bytes());
        // RFC 9112, 3.2.2: the client's Host is ignored, the target says which it is.
        out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
        out.extend_from_slice(self.authority.as_bytes());
        out.extend_from_slice(b"\r\n");
        let named = names_more(self.fields);
        for field in self.fields {
            let is_host = field.name.len() == 4 && head::is_called(field.name, "Host");
            if is_host || is_hop_by_hop(field.name) || (named && is_named(self.fields, field.name)) {
                continue;
            }
            out.extend_from_slice(field.name.as_bytes());
            out.extend_from_slice(if field.value.is_empty() { b":" } else { b": " });
            out.extend_from_slice(field.value);
            out.extend_from_slice(b"\r\n");
        }
        if forwarding.via {
            out.extend_from_slice(b"Via: 1.1 gluetun-gateway\r\n");
        }
        if forwarding.forwarded_for {
            // Writing to a Vec cannot fail.
            let _ = write!(out, "X-Forwarded-For: {}\r\n", client.to_canonical());
        }
        out.extend_from_slice(b"\r\n");
        out
    }
}

/// Whether a field is of one connection, whether `Connection` names it or not: `headers` has the list.
pub(super) fn is_hop_by_hop(name: &str) -> bool {
    let is = |usual: &str| head::is_called(name, usual);
    match name.len() {
        2 => is("TE"),
        7 => is("Upgrade"),
        10 => is("Connection") || is("Keep-Alive"),
        16 => is("Proxy-Connection"),
        17 => is("Transfer-Encoding"),
        18 => is("Proxy-Authenticate"),
        19 => is("Proxy-Authorization"),
        25 => is("Proxy-Authentication-Info"),
        _ => false,
    }
}

fn values<'h>(fields: &'h [Field<'_>], name: &'static str) -> impl DoubleEndedIterator<Item = &'h [u8]> {
    fields
        .iter()
        .filter(move |field| field.name.len() == name.len() && field.name.eq_ignore_ascii_case(name))
        .map(|field| field.value)
}

/// Whether `Connection` names a field that is not of one connection anyway.
fn names_more(fields: &[Field<'_>]) -> bool {
    let common = |name: &[u8]| {
        let name = std::str::from_utf8(name.trim_ascii()).unwrap_or_default();
        name.is_empty() || name.eq_ignore_ascii_case("close") || is_hop_by_hop(name)
    };
    values(fields, "connection").any(|value| !value.split(|b| *b == b',').all(common))
}

fn is_named(fields: &[Field<'_>], name: &str) -> bool {
    values(fields, "connection").any(|value| has_token(value, name))
}

/// What the beginning of an origin's bytes is.
#[derive(Debug)]
pub(super) enum Read {
    /// A part of a head.
    Partial,
    /// An interim answer (RFC 9110, 15.2), so long. It is of this connection, and goes no further.
    Interim(usize),
    /// A switch of protocols.
    Switched,
    /// The head of an answer.
    Answer(Answer),
}

/// The head of an answer, of which what the client gets has been written.
#[derive(Debug)]
pub(super) struct Answer {
    /// Its length.
    pub(super) length: usize,
    /// Its status.
    pub(super) status: u16,
    /// What follows it.
    pub(super) content: Content,
    /// Whether the connection can take another request when all of that has come.
    pub(super) keep_alive: bool,
}

/// What an answer's head depends on besides itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// The request was a HEAD.
    pub(super) head: bool,
    /// Its client takes trailers.
    pub(super) trailers: bool,
    /// The request's id.
    pub(super) id: RequestId,
    /// What is added.
    pub(super) forwarding: Forwarding,
    /// The client's connection ends with this answer.
    pub(super) last: bool,
}

/// Reads the head of an answer and appends the client's to `out`.
///
/// # Errors
///
/// What is wrong with it. `out` is as it was.
pub(super) fn answer(bytes: &[u8], turn: Turn, out: &mut Vec<u8>) -> Result<Read, &'static str> {
    let mut room = [const { std::mem::MaybeUninit::uninit() }; MAX_ANSWER_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, &mut room);
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(Read::Partial),
        Err(httparse::Error::TooManyHeaders) => return Err("the answer has too many header fields"),
        Err(_) => return Err("the answer's head is malformed"),
    };
    let (Some(status), Some(reason), Some(minor)) = (response.code, response.reason, response.version) else {
        return Err("the status line is incomplete");
    };
    match status {
        0..=99 => return Err("the answer's status is none"),
        101 => return Ok(Read::Switched),
        100..=199 => return Ok(Read::Interim(length)),
        _ => {}
    }
    let (fields, http11) = (&*response.headers, minor == 1);
    let without = turn.head || matches!(status, 204 | 304);
    let content = if without { Content::Length(0) } else { content(fields, http11, turn.trailers)? };
    let close = values(fields, "connection").any(|value| has_token(value, "close"));
    let kept = values(fields, "connection").any(|value| has_token(value, "keep-alive"));

    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\r\n");
    // RFC 9112, 6.3 (3): a Transfer-Encoding overrides it.
    let encoded = values(fields, "transfer-encoding").next().is_some();
    let mut length_due = !encoded && (turn.head || !matches!(status, 204 | 304));
    let named = names_more(fields);
    for field in fields {
        let is = |other: &str| field.name.eq_ignore_ascii_case(other);
        let value = match field.name.len() {
            12 if is(PROXY_STATUS) && speaks_for_us(field.value) => continue,
            14 if is("content-length") => {
                if !std::mem::take(&mut length_due) {
                    continue;
                }
                // Said more than once, it is the same each time.
                field.value.split(|b| *b == b',').next().unwrap_or_default().trim_ascii()
            }
            7 if without && is("trailer") => continue,
            // Only ours may say that an error is ours.
            15 if is(ERROR) => continue,
            20 if is(REQUEST_ID) => continue,
            _ if is_hop_by_hop(field.name) => continue,
            _ => field.value,
        };
        // The length of content that follows is not theirs to leave out.
        let due = !without && is("content-length");
        if named && !due && is_named(fields, field.name) {
            continue;
        }
        out.extend_from_slice(field.name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
    if turn.forwarding.via {
        let _ = write!(out, "Via: 1.{minor} gluetun-gateway\r\n");
    }
    out.extend_from_slice(REQUEST_ID.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(&turn.id.digits());
    out.extend_from_slice(b"\r\n");
    if matches!(content, Content::Chunks(..) | Content::End) {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    if turn.last {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    let keep_alive = !close && (http11 || kept) && !matches!(content, Content::End);
    Ok(Read::Answer(Answer { length, status, content, keep_alive }))
}

/// What proxies say of themselves (RFC 9209).
const PROXY_STATUS: &str = "proxy-status";

/// Whether an origin speaks in the gateway's name.
fn speaks_for_us(value: &[u8]) -> bool {
    value.windows(15).any(|part| part.eq_ignore_ascii_case(b"gluetun-gateway"))
}

fn content(fields: &[Field<'_>], http11: bool, trailers: bool) -> Result<Content, &'static str> {
    if let Some(last) = values(fields, "transfer-encoding").next_back() {
        if !http11 {
            // RFC 9112, 6.1.
            return Err("the answer is HTTP/1.0 and has a Transfer-Encoding");
        }
        let last = last.rsplit(|b| *b == b',').next().unwrap_or_default().trim_ascii();
        let chunked = last.eq_ignore_ascii_case(b"chunked");
        let named = || if trailers { Trailers::named(values(fields, "trailer")) } else { None };
        return Ok(if chunked { Content::Chunks(Chunks::of_answer(), named()) } else { Content::End });
    }
    let mut length = None;
    for value in values(fields, "content-length").flat_map(|value| value.split(|b| *b == b',')) {
        let value = number(value.trim_ascii()).ok_or("the answer's Content-Length is no number")?;
        if length.is_some_and(|length| length != value) {
            return Err("the answer has two lengths");
        }
        length = Some(value);
    }
    Ok(length.map_or(Content::End, Content::Length))
}

fn number(digits: &[u8]) -> Option<u64> {
    // `parse` would take a sign.
    let digits = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests;
