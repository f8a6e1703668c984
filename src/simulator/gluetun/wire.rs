//! HTTP/1.1 as Go's server speaks it, on raw byte streams: reading heads and bodies, writing replies
//! with Go's headers in Go's order. Used by every server of the look-alike.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::fmt::rfc2822::DateTimePrinter;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

/// Go reads connections through a buffer of this size.
const READ_SIZE: usize = 4096;
/// Go's limit is 1 MiB; nothing of ours sends a head near this one.
const HEAD_LIMIT: usize = 64 * 1024;
/// A body longer than this is not read for the sake of the connection
/// (`maxPostHandlerReadBytes` of Go's `net/http`).
pub(super) const MAX_DISCARD: u64 = 256 << 10;
/// How long Go waits for the client to close after the last reply (`rstAvoidanceDelay`).
const LINGER: Duration = Duration::from_millis(500);

/// The time limits of one server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// From the start of a head to its end.
    pub(super) header: Duration,
    /// From the start of a request to the end of its body, and between requests.
    pub(super) read: Duration,
}

/// How a request's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
}

/// A request's head.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) method: String,
    pub(super) target: String,
    /// Major and minor.
    pub(super) version: (u8, u8),
    pub(super) headers: Vec<(String, String)>,
    pub(super) framing: Framing,
    /// When its first byte was there.
    pub(super) started: Instant,
}

impl Head {
    /// The first header of that name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether the client wants the connection closed after the reply.
    pub(super) fn wants_close(&self) -> bool {
        let connection = self.get("Connection").unwrap_or_default().to_ascii_lowercase();
        self.version < (1, 1) || connection.split(',').any(|token| token.trim() == "close")
    }

    /// Reads the text of a head. The error is the body of Go's 400, after `400 Bad Request`.
    fn parse(text: &[u8], started: Instant) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(text).map_err(|_| "")?;
        let mut lines = text.split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err("");
        };
        let digits = version.strip_prefix("HTTP/").ok_or("")?.split_once('.').ok_or("")?;
        let version = (digits.0.parse().map_err(|_| "")?, digits.1.parse().map_err(|_| "")?);
        if method.is_empty() || target.is_empty() {
            return Err("");
        }
        let mut headers = Vec::new();
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').ok_or("")?;
            if name.is_empty() || name.contains(' ') {
                return Err(": invalid header name");
            }
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let mut head = Self {
            method: method.to_owned(),
            target: target.to_owned(),
            version,
            headers,
            framing: Framing::Length(0),
            started,
        };
        if version >= (1, 1) && method != "CONNECT" && head.get("Host").is_none() {
            return Err(": missing required Host header");
        }
        head.framing = match (head.get("Transfer-Encoding"), head.get("Content-Length")) {
            (Some(_), _) => Framing::Chunked,
            (None, Some(length)) => Framing::Length(length.parse().map_err(|_| "")?),
            (None, None) => Framing::Length(0),
        };
        Ok(head)
    }
}

/// Why no request was read.
#[derive(Debug)]
pub(super) enum NoHead {
    /// The client closed, or a limit passed: Go closes without a word.
    Closed,
    /// Nonsense: Go's answer to it.
    Bad(Reply),
}

/// A reply that is small enough to be held.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Without the body, as to a HEAD.
    bare: bool,
}

impl Reply {
    /// A status alone: `responseWriter.WriteHeader(status)`.
    pub(super) fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), bare: false }
    }

    /// Go's `http.Error`: the text and a newline.
    pub(super) fn error(status: u16, text: &str) -> Self {
        Self::status(status)
            .header("X-Content-Type-Options", "nosniff")
            .body("text/plain; charset=utf-8", format!("{text}\n").into_bytes())
    }

    /// JSON with a newline.
    pub(super) fn json(value: &serde_json::Value) -> Self {
        Self::status(200).body("application/json", format!("{value}\n").into_bytes())
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn body(mut self, content_type: &str, body: Vec<u8>) -> Self {
        self.body = body;
        self.header("Content-Type", content_type)
    }

    /// The same reply to a HEAD request.
    pub(super) fn bare(self, bare: bool) -> Self {
        Self { bare, ..self }
    }

    /// The bytes, as Go orders them: the handler's headers by name, then the server's own.
    fn bytes(mut self, version: (u8, u8), close: bool) -> Vec<u8> {
        self.headers.sort_unstable();
        let mut text = format!("HTTP/1.{} {} {}\r\n", version.1.min(1), self.status, reason(self.status));
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(&format!("Date: {}\r\nContent-Length: {}\r\n", date(), self.body.len()));
        if close {
            text.push_str("Connection: close\r\n");
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        if !self.bare {
            bytes.append(&mut self.body);
        }
        bytes
    }
}

/// Go's texts for the statuses that the look-alike answers with.
pub(super) fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        405 => "Method Not Allowed",
        407 => "Proxy Authentication Required",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Unknown",
    }
}

/// The time of day as a `Date` header has it (RFC 9110, section 5.6.7).
pub(super) fn date() -> String {
    // The printer refuses only years beyond four digits.
    DateTimePrinter::new().timestamp_to_rfc9110_string(&Timestamp::now()).unwrap_or_default()
}

/// A connection with what has been read of it and not used yet.
#[derive(Debug)]
pub(super) struct Conn<S> {
    pub(super) stream: S,
    /// Read and not used.
    pub(super) buf: BytesMut,
    limits: Limits,
    first: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conn<S> {
    pub(super) fn new(stream: S, limits: Limits) -> Self {
        Self { stream, buf: BytesMut::new(), limits, first: true }
    }

    /// Reads more; false at the end of the stream or on an error.
    async fn fill(&mut self) -> bool {
        self.buf.reserve(READ_SIZE);
        matches!(self.stream.read_buf(&mut self.buf).await, Ok(1..))
    }

    /// Reads the next request's head within the server's limits.
    pub(super) async fn read_head(&mut self) -> Result<Head, NoHead> {
        if !std::mem::take(&mut self.first) && self.buf.is_empty() {
            match timeout(self.limits.read, self.fill()).await {
                Ok(true) => {}
                Ok(false) | Err(_) => return Err(NoHead::Closed),
            }
        }
        let started = Instant::now();
        let deadline = started + self.limits.header;
        let mut searched = 0;
        loop {
            if let Some(at) = self.buf[searched..].windows(4).position(|end| end == b"\r\n\r\n") {
                let text = self.buf.split_to(searched + at + 4);
                return Head::parse(&text, started)
                    .map_err(|why| NoHead::Bad(Reply::error(400, &format!("400 Bad Request{why}"))));
            }
            if self.buf.len() > HEAD_LIMIT {
                return Err(NoHead::Bad(Reply::error(431, "431 Request Header Fields Too Large")));
            }
            searched = self.buf.len().saturating_sub(3);
            match timeout_at(deadline, self.fill()).await {
                Ok(true) => {}
                Ok(false) | Err(_) => return Err(NoHead::Closed),
            }
        }
    }

    /// Reads away what is announced of a request's body, as Go does before the head of a reply goes
    /// out. Returns whether the connection must be closed after the reply: a body of more than
    /// [`MAX_DISCARD`] is not read at all, and one that does not come is waited for until the
    /// request's read limit.
    pub(super) async fn settle_body(&mut self, head: &Head) -> bool {
        let deadline = head.started + self.limits.read;
        match head.framing {
            Framing::Length(0) => false,
            Framing::Length(length) if length >= MAX_DISCARD => true,
            Framing::Length(_) | Framing::Chunked => {
                let mut sink = tokio::io::sink();
                !matches!(timeout_at(deadline, self.copy_body(head.framing, &mut sink)).await, Ok(Ok(_)))
            }
        }
    }

    /// Copies a request's body to `out` as it is framed, and returns the bytes of its content.
    ///
    /// # Errors
    /// When the stream ends early, the framing is broken, or `out` fails.
    pub(super) async fn copy_body<W>(&mut self, framing: Framing, out: &mut W) -> std::io::Result<u64>
    where
        W: AsyncWrite + Unpin,
    {
        match framing {
            Framing::Length(length) => {
                self.copy_bytes(length, out).await?;
                Ok(length)
            }
            Framing::Chunked => {
                let mut total = 0;
                loop {
                    let line = self.line().await?;
                    let digits =
                        line.as_ref().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
                    let size =
                        std::str::from_utf8(digits).ok().and_then(|hex| u64::from_str_radix(hex, 16).ok());
                    let size = size.ok_or(std::io::ErrorKind::InvalidData)?;
                    out.write_all(&line).await?;
                    if size == 0 {
                        break;
                    }
                    self.copy_bytes(size, out).await?;
                    self.copy_bytes(2, out).await?;
                    total += size;
                }
                loop {
                    let trailer = self.line().await?;
                    out.write_all(&trailer).await?;
                    if trailer.as_ref() == b"\r\n" {
                        return Ok(total);
                    }
                }
            }
        }
    }

    async fn copy_bytes<W: AsyncWrite + Unpin>(&mut self, mut left: u64, out: &mut W) -> std::io::Result<()> {
        while left > 0 {
            if self.buf.is_empty() && !self.fill().await {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let part = self.buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            out.write_all(&self.buf[..part]).await?;
            self.buf.advance(part);
            left -= part as u64;
        }
        Ok(())
    }

    /// A line with its end.
    async fn line(&mut self) -> std::io::Result<BytesMut> {
        loop {
            if let Some(at) = self.buf.iter().position(|byte| *byte == b'\n') {
                return Ok(self.buf.split_to(at + 1));
            }
            if self.buf.len() > HEAD_LIMIT || !self.fill().await {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Asks for the body of a client that waits to be asked (`Expect: 100-continue`).
    pub(super) async fn invite_body(&mut self, head: &Head) {
        if head.get("Expect").is_some_and(|expect| expect.eq_ignore_ascii_case("100-continue")) {
            // A client that is gone shows when its body is read.
            let _ = self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
        }
    }

    /// Answers a request, its body settled first. Returns whether the connection lives on.
    pub(super) async fn reply(&mut self, head: &Head, reply: Reply) -> bool {
        let close = self.settle_body(head).await || head.wants_close();
        let bytes = reply.bytes(head.version, close);
        let sent = self.stream.write_all(&bytes).await.is_ok();
        if close {
            self.linger().await;
        }
        sent && !close
    }

    /// Answers what was no request, and closes.
    pub(super) async fn refuse(&mut self, reply: Reply) {
        let bytes = reply.bytes((1, 1), true);
        if self.stream.write_all(&bytes).await.is_ok() {
            self.linger().await;
        }
    }

    /// Ends the sending side and reads on for a moment, so that what the client still sends does not
    /// reset the connection before it has read the reply.
    pub(super) async fn linger(&mut self) {
        if self.stream.shutdown().await.is_ok() {
            let drained = async {
                while self.fill().await {
                    self.buf.clear();
                }
            };
            // Whether the client closed in time makes no difference.
            let _ = timeout(LINGER, drained).await;
        }
    }
}

#[cfg(test)]
mod tests;
