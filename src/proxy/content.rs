//! The content of an origin's answer as it goes on to the client, for `reply`: delimited as the client was
//! told, whichever way the origin does it. Pure.

use std::io::Write as _;

use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HOST,
    MAX_FORWARDS, SET_COOKIE, TRAILER,
};

use super::chunks::{Chunks, Part};
use super::head::{MAX_FIELDS, has_token};
use super::rewrite::is_hop_by_hop;

/// What ends content in chunks.
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What delimits an answer's content, as far as it has not come yet (RFC 9112, 6.3).
#[derive(Debug)]
pub(super) enum Content {
    /// So many bytes.
    Length(u64),
    /// In chunks, with trailers if the client gets them.
    Chunks(Chunks, Option<Box<Trailers>>),
    /// The end of the connection.
    End,
}

/// How far some bytes bring the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Passed {
    /// Bytes of it.
    pub(super) used: usize,
    /// Whether they are the last.
    pub(super) ended: bool,
}

impl Content {
    /// Appends the content in `bytes` as the client gets it: as it is if its length was told, else in
    /// chunks without extensions.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(super) fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Passed, &'static str> {
        match self {
            Self::Length(left) => {
                let used = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= used as u64;
                out.extend_from_slice(bytes.get(..used).unwrap_or_default());
                Ok(Passed { used, ended: *left == 0 })
            }
            Self::Chunks(chunks, trailers) => {
                let fed = chunks.decode(bytes, |part| match part {
                    Part::Data(data) => chunk(data, out),
                    Part::Trailer(byte) => {
                        if let Some(trailers) = trailers {
                            trailers.read.push(byte);
                        }
                    }
                })?;
                if fed.ended {
                    match trailers {
                        Some(trailers) => trailers.finish(out)?,
                        None => out.extend_from_slice(LAST_CHUNK),
                    }
                }
                Ok(Passed { used: fed.used, ended: fed.ended })
            }
            Self::End => {
                if !bytes.is_empty() {
                    chunk(bytes, out);
                }
                Ok(Passed { used: bytes.len(), ended: false })
            }
        }
    }
}

fn chunk(data: &[u8], out: &mut Vec<u8>) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{:x}\r\n", data.len());
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// The trailers of an answer whose client wants them (`TE`) and whose head names them (`Trailer`).
#[derive(Debug)]
pub(super) struct Trailers {
    /// The values of `Trailer`, with commas between them.
    named: Vec<u8>,
    /// The section as far as it has come. `Chunks` bounds it.
    read: Vec<u8>,
}

impl Trailers {
    /// For an answer with these values of `Trailer`.
    pub(super) fn named<'a>(values: impl Iterator<Item = &'a [u8]>) -> Option<Box<Self>> {
        let named = values.collect::<Vec<_>>().join(&b',');
        if named.is_empty() { None } else { Some(Box::new(Self { named, read: Vec::new() })) }
    }

    /// Appends the last chunk and the trailers that may be there.
    fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), &'static str> {
        self.read.extend_from_slice(b"\r\n");
        let mut room = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(&self.read, &mut room)
        else {
            return Err("the trailer section is malformed");
        };
        out.extend_from_slice(b"0\r\n");
        for field in
            fields.iter().filter(|field| has_token(&self.named, field.name) && is_trailer(field.name))
        {
            out.extend_from_slice(field.name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(field.value);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    }
}

/// Whether a field may be a trailer (RFC 9110, 6.5.1): what frames, routes, authenticates or describes a
/// message was settled by its head.
fn is_trailer(name: &str) -> bool {
    let settled = [
        AUTHORIZATION,
        CACHE_CONTROL,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        CONTENT_TYPE,
        HOST,
        MAX_FORWARDS,
        SET_COOKIE,
        TRAILER,
    ];
    !is_hop_by_hop(name) && !settled.iter().any(|settled| name.eq_ignore_ascii_case(settled.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_goes_on_as_the_client_was_told() {
        let mut out = Vec::new();
        let mut length = Content::Length(5);
        assert_eq!(length.pass(b"abc", &mut out), Ok(Passed { used: 3, ended: false }));
        assert_eq!(length.pass(b"defg", &mut out), Ok(Passed { used: 2, ended: true }));
        assert_eq!(out, b"abcde");
        out.clear();
        let mut chunks = Content::Chunks(Chunks::of_answer(), None);
        let (first, second) = (b"10;x=y\r\n0123456789", b"abcdef\r\n0\r\nX: y\r\n\r\nrest");
        assert_eq!(chunks.pass(first, &mut out), Ok(Passed { used: first.len(), ended: false }));
        assert_eq!(chunks.pass(second, &mut out), Ok(Passed { used: second.len() - 4, ended: true }));
        assert_eq!(out, b"a\r\n0123456789\r\n6\r\nabcdef\r\n0\r\n\r\n");
        assert!(Content::Chunks(Chunks::of_answer(), None).pass(b"x", &mut out).is_err());
        out.clear();
        assert_eq!(Content::End.pass(b"abc", &mut out), Ok(Passed { used: 3, ended: false }));
        assert_eq!(Content::End.pass(b"", &mut out), Ok(Passed { used: 0, ended: false }));
        assert_eq!(out, b"3\r\nabc\r\n");
    }

    #[test]
    fn trailers_are_those_that_were_named_and_may_be_there() {
        let body =
            b"1\r\na\r\n0\r\nX-Sum: 1\r\nx-other: 2\r\nX-Unnamed: 3\r\nHost: 4\r\nConnection: 5\r\n\r\n";
        for step in 1..body.len() {
            let named = [&b"x-sum, X-Other"[..], b"Host,connection"];
            let trailers = Trailers::named(named.into_iter());
            let (mut content, mut out) = (Content::Chunks(Chunks::of_answer(), trailers), Vec::new());
            let passed: Vec<Passed> =
                body.chunks(step).map(|piece| content.pass(piece, &mut out).unwrap()).collect();
            assert!(passed.last().unwrap().ended);
            assert_eq!(out, b"1\r\na\r\n0\r\nX-Sum: 1\r\nx-other: 2\r\n\r\n");
        }
        assert!(Trailers::named(std::iter::empty()).is_none());
        let trailers = Trailers::named([&b"x"[..]].into_iter());
        assert!(
            Content::Chunks(Chunks::of_answer(), trailers)
                .pass(b"0\r\nX y\r\n\r\n", &mut Vec::new())
                .is_err()
        );
    }
}
