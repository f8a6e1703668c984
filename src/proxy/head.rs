//! The head of a client's request: where it ends, and what in it matters. Pure; `connection` calls it on
//! what has been read so far, `gate` on every request before hyper sees it, and the benches. Strict where
//! leniency would let two parsers read one request in two ways.

use std::mem::MaybeUninit;

use crate::eight;

/// Longest head, from the first byte to the empty line.
pub const MAX_HEAD: usize = 16 * 1024;
/// Most header fields.
pub const MAX_FIELDS: usize = 64;

/// How far the end of the head has been looked for. One head costs one pass, however it arrives.
#[derive(Debug, Default)]
pub struct Scanner {
    /// Bytes that have been looked at.
    seen: usize,
    /// Empty lines before the request line: ignored (RFC 9112, 2.2).
    blank: usize,
}

/// What a look at the bytes found.
#[derive(Debug, PartialEq, Eq)]
pub enum Scan {
    /// The head goes on.
    Partial,
    /// The head is `start..end`.
    Complete {
        /// Where the request line begins.
        start: usize,
        /// Behind the empty line.
        end: usize,
    },
    /// The head is longer than [`MAX_HEAD`].
    TooLarge,
    /// No HTTP/1 head has this in it.
    Bad(&'static str),
}

impl Scanner {
    /// Looks at what is new in `bytes`, all that has been read of the head so far.
    pub fn scan(&mut self, bytes: &[u8]) -> Scan {
        let mut at = self.seen;
        loop {
            at += plain(bytes.get(at..bytes.len().min(MAX_HEAD)).unwrap_or_default());
            let Some(byte) = bytes.get(at) else { break };
            if at >= MAX_HEAD {
                return Scan::TooLarge;
            }
            match byte {
                b'\n' => {
                    let line_end = at.checked_sub(1);
                    if line_end.and_then(|cr| bytes.get(cr)) != Some(&b'\r') {
                        // RFC 9112, 2.2 lets a recipient take a bare LF; a chain of parsers must not.
                        return Scan::Bad("a line ends in LF without CR");
                    }
                    if at + 1 == self.blank + 2 {
                        self.blank += 2;
                    } else if at >= self.blank + 3 && bytes.get(at - 3..at) == Some(b"\r\n\r") {
                        return Scan::Complete { start: self.blank, end: at + 1 };
                    }
                }
                b'\r' => match bytes.get(at + 1) {
                    Some(b'\n') => {}
                    Some(_) => return Scan::Bad("a CR stands without LF"),
                    None => break,
                },
                b'\t' => {}
                0..b' ' | 0x7f => return Scan::Bad("a control character"),
                _ => {}
            }
            at += 1;
        }
        self.seen = at;
        Scan::Partial
    }
}

/// How many bytes at the front are no control characters. Nearly all of a head are, so that what is left
/// to look at one by one is a few bytes a line.
fn plain(bytes: &[u8]) -> usize {
    eight::first(bytes, eight::controls).unwrap_or(bytes.len())
}

/// `Proxy-Authorization` of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorization<'b> {
    /// Not there.
    None,
    /// The value.
    One(&'b [u8]),
    /// More than one: which of them counts is anyone's guess, so none does.
    Many,
}

/// A request head, borrowed from the bytes it was read from.
#[derive(Debug)]
pub struct Head<'b> {
    /// The method, as sent: its case matters.
    pub method: &'b str,
    /// The request target.
    pub target: &'b str,
    /// The credentials.
    pub authorization: Authorization<'b>,
    /// What follows it.
    pub body: Body,
    /// Whether `Host`, where it is, could be one (RFC 9112, 3.2). What it says does not matter (RFC 9112,
    /// 3.2.2): the target rules, and the origin is told so.
    pub host_is_valid: bool,
    /// Whether the client wants the connection kept after an answer.
    pub keep_alive: bool,
    /// HTTP/1.1, not HTTP/1.0.
    pub http11: bool,
}

/// A header field, borrowed from the bytes it was read from.
pub type Field<'b> = httparse::Header<'b>;

/// Room for the header fields of one head.
pub type Room<'b> = [MaybeUninit<Field<'b>>; MAX_FIELDS];

/// Room for the header fields of one head, which costs nothing to make.
pub const fn room<'b>() -> Room<'b> {
    [const { MaybeUninit::uninit() }; MAX_FIELDS]
}

/// How a request's body is framed (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// So many bytes: 0 where there is none.
    Length(u64),
    /// In chunks.
    Chunked,
}

impl Body {
    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self == Self::Length(0)
    }
}

/// Why bytes are no request that this proxy reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// Over [`MAX_FIELDS`] header fields.
    TooManyFields,
    /// Not the syntax of HTTP/1, or framed in two ways.
    Malformed(&'static str),
}

impl<'b> Head<'b> {
    /// Parses a complete head, as [`Scan::Complete`] delimits it.
    ///
    /// # Errors
    ///
    /// [`HeadError`]: too many fields, or anything that is not to the letter of RFC 9112.
    pub fn parse(bytes: &'b [u8]) -> Result<Self, HeadError> {
        Self::with_fields(bytes, &mut room()).map(|(head, _)| head)
    }

    /// The same, with all of its header fields.
    ///
    /// # Errors
    ///
    /// As [`Head::parse`].
    pub fn with_fields<'h>(
        bytes: &'b [u8],
        room: &'h mut Room<'b>,
    ) -> Result<(Self, &'h [Field<'b>]), HeadError> {
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(bytes, room) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(HeadError::Malformed("the head is incomplete")),
            Err(error) => return Err(HeadError::from(error)),
        }
        let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
        else {
            return Err(HeadError::Malformed("the request line is incomplete"));
        };
        let mut framing = Framing { length: None, encoded: false, host: false, host_is_valid: true };
        let mut authorization = Authorization::None;
        let (mut close, mut keep) = (false, false);
        for field in request.headers.iter() {
            // By length first: most fields are none of these.
            match field.name.len() {
                19 if is_called(field.name, "Proxy-Authorization") => {
                    authorization = match authorization {
                        Authorization::None => Authorization::One(field.value),
                        Authorization::One(_) | Authorization::Many => Authorization::Many,
                    };
                }
                4 if is_called(field.name, "Host") => framing.host(field.value)?,
                14 if is_called(field.name, "Content-Length") => framing.length(field.value)?,
                17 if is_called(field.name, "Transfer-Encoding") => framing.encoding(field.value)?,
                10 if is_called(field.name, "Connection") => {
                    close |= has_token(field.value, "close");
                    keep |= has_token(field.value, "keep-alive");
                }
                16 if is_called(field.name, "Proxy-Connection") => {
                    close |= has_token(field.value, "close");
                    keep |= has_token(field.value, "keep-alive");
                }
                _ => {}
            }
        }
        let http11 = minor == 1;
        framing.check(http11)?;
        let head = Self {
            method,
            target,
            authorization,
            host_is_valid: framing.host_is_valid,
            body: if framing.encoded { Body::Chunked } else { Body::Length(framing.length.unwrap_or(0)) },
            keep_alive: !close && (http11 || keep),
            http11,
        };
        Ok((head, request.headers))
    }
}

/// What delimits a request's body, and whom it names.
#[derive(Debug)]
struct Framing {
    length: Option<u64>,
    encoded: bool,
    host: bool,
    host_is_valid: bool,
}

impl Framing {
    /// RFC 9112, 3.2: one.
    fn host(&mut self, value: &[u8]) -> Result<(), HeadError> {
        if self.host {
            return Err(HeadError::Malformed("more than one Host"));
        }
        self.host = true;
        let valid = |b: &u8| {
            b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b':' | b'[' | b']' | b'%')
        };
        self.host_is_valid = value.iter().all(valid);
        Ok(())
    }

    /// RFC 9112, 6.3 (5): a list or a repetition may be reduced if all are equal, or refused.
    fn length(&mut self, value: &[u8]) -> Result<(), HeadError> {
        let digits = value.trim_ascii();
        let parsed = std::str::from_utf8(digits)
            .ok()
            .filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|text| text.parse().ok());
        match (parsed, self.length) {
            (Some(length), None) => {
                self.length = Some(length);
                Ok(())
            }
            (Some(_), Some(_)) => Err(HeadError::Malformed("more than one Content-Length")),
            (None, _) => Err(HeadError::Malformed("Content-Length is not a number")),
        }
    }

    /// RFC 9112, 6.1 and 6.3 (4): a body whose last coding is not chunked has no end that can be known,
    /// and no other coding is asked of a proxy.
    fn encoding(&mut self, value: &[u8]) -> Result<(), HeadError> {
        if self.encoded || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
            return Err(HeadError::Malformed("a Transfer-Encoding other than chunked"));
        }
        self.encoded = true;
        Ok(())
    }

    fn check(&self, http11: bool) -> Result<(), HeadError> {
        if self.encoded && self.length.is_some() {
            // RFC 9112, 6.1: a server may refuse it; it is how requests are smuggled.
            return Err(HeadError::Malformed("both Content-Length and Transfer-Encoding"));
        }
        if self.encoded && !http11 {
            // RFC 9112, 6.1: faulty framing in HTTP/1.0.
            return Err(HeadError::Malformed("Transfer-Encoding in HTTP/1.0"));
        }
        if http11 && !self.host {
            // RFC 9112, 3.2.
            return Err(HeadError::Malformed("HTTP/1.1 without Host"));
        }
        Ok(())
    }
}

/// Whether a field has this name, in whatever case. Mostly it is written as `usual` is, which is seen at once.
pub(super) fn is_called(name: &str, usual: &str) -> bool {
    name == usual || name.eq_ignore_ascii_case(usual)
}

/// Whether a comma-separated list holds a token, in any case.
pub(super) fn has_token(value: &[u8], token: &str) -> bool {
    value.split(|b| *b == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

impl From<httparse::Error> for HeadError {
    fn from(error: httparse::Error) -> Self {
        match error {
            httparse::Error::TooManyHeaders => Self::TooManyFields,
            httparse::Error::HeaderName => {
                Self::Malformed("a header field's name is invalid, or a space stands before its colon")
            }
            httparse::Error::HeaderValue => Self::Malformed("a header field's value is invalid"),
            httparse::Error::NewLine => Self::Malformed("a line does not end in CR LF"),
            httparse::Error::Token => Self::Malformed("the request line is malformed"),
            httparse::Error::Version => Self::Malformed("neither HTTP/1.1 nor HTTP/1.0"),
            httparse::Error::Status => Self::Malformed("a status line where a request is due"),
        }
    }
}

#[cfg(test)]
mod tests;
