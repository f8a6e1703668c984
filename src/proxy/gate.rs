//! What hyper gets to read of a client's connection: one whole request at a time, each of whose heads and
//! chunks has been read here before, to the letter. Pure; `client_io` puts it between the socket and
//! hyper's server.
//!
//! Why: what hyper refuses by itself it answers in its own words, and what it lets pass (a `Content-Length`
//! said twice, a fragment, a missing `Host`) another parser might read in another way. So every request,
//! first or hundredth, gets the verdict of `head` and `target`. A head that is refused does not reach
//! hyper; one that is like it and harmless does in its place, with the verdict beside it, so that the
//! answer comes in its turn, behind those of the requests before.

use super::chunks::Chunks;
use super::connection::host_is_invalid;
use super::error::{Code, ProxyError};
use super::head::{Body, Head, HeadError, Scan, Scanner};
use super::target::{Target, TargetError};

/// Bytes behind a request that are taken in while it is answered: the next requests, or what a client
/// sends before it is told that its tunnel is open.
pub(super) const MAX_EARLY: usize = 16 * 1024;

/// What hyper reads in place of a head that is none. Its answer closes the connection.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nHost: stand-in\r\nConnection: close\r\n\r\n";

/// Why the request that hyper reads next is answered with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is no request that can be read: nobody knows whose it is.
    Unreadable(ProxyError),
    /// Its target is none, or its `Host`; told once its client has proved who it is.
    Target(ProxyError),
}

/// The reader of one connection.
#[derive(Debug)]
pub struct Gate {
    /// What has been read and not been handed on: from `at` on.
    bytes: Vec<u8>,
    at: usize,
    scanner: Scanner,
    due: Due,
}

/// What comes next.
#[derive(Debug)]
enum Due {
    /// More of a head.
    Head,
    /// So many bytes of a head, then its body; none if the connection ends with its answer.
    Pass { left: usize, body: Option<Body> },
    /// So many bytes of a body.
    Length(u64),
    /// More of a body in chunks.
    Chunks(Chunks),
    /// The end of the request's answer.
    Answer,
    /// Nothing more: the connection ends with the next answer.
    End,
    /// The body is broken.
    Broken(&'static str),
}

/// What is to be done for hyper to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Read more of a head, then [`Gate::look`].
    Head,
    /// Hand on what is here ([`Gate::give`]).
    Give,
    /// Read more of a body, then [`Gate::body`].
    Body,
    /// Wait for the request's answer; until then what comes is kept.
    Answer,
    /// Nothing is read any more.
    End,
    /// The body is broken off.
    Broken(&'static str),
}

impl Gate {
    /// A reader of a connection of which this has been read.
    pub fn new(read: Vec<u8>) -> Self {
        Self { bytes: read, at: 0, scanner: Scanner::default(), due: Due::Head }
    }

    /// What is to be done.
    pub fn want(&self) -> Want {
        match self.due {
            Due::Head => Want::Head,
            Due::Pass { .. } => Want::Give,
            Due::Length(_) | Due::Chunks(_) => {
                if self.kept().is_empty() {
                    Want::Body
                } else {
                    Want::Give
                }
            }
            Due::Answer => Want::Answer,
            Due::End => Want::End,
            Due::Broken(why) => Want::Broken(why),
        }
    }

    /// Where more of a head is read to, and what comes while the answer is waited for.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// What has been read and not been handed on.
    pub fn kept(&self) -> &[u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// What has been read and not been handed on, at the end.
    pub fn into_kept(mut self) -> Vec<u8> {
        self.bytes.drain(..self.at);
        self.bytes
    }

    /// The answer is through: what follows is the next request.
    pub fn answered(&mut self) {
        if matches!(self.due, Due::Answer) {
            self.bytes.drain(..self.at);
            self.at = 0;
            self.scanner = Scanner::default();
            self.due = Due::Head;
        }
    }

    /// Looks at what has been read of a head. Once that is whole it wants to be given on, with a refusal
    /// if it is to be answered with one.
    pub fn look(&mut self) -> Option<Refusal> {
        if !matches!(self.due, Due::Head) {
            return None;
        }
        match self.scanner.scan(self.bytes.get(self.at..).unwrap_or_default()) {
            Scan::Partial => None,
            Scan::TooLarge => Some(self.unreadable(HeadError::TooManyFields.into())),
            Scan::Bad(why) => Some(self.unreadable(HeadError::Malformed(why).into())),
            Scan::Complete { start, end } => {
                let (start, end) = (self.at + start, self.at + end);
                match examine(self.bytes.get(start..end).unwrap_or_default()) {
                    Err(error) => Some(self.unreadable(error.into())),
                    Ok((body, wrong)) => {
                        self.at = start;
                        self.due = Due::Pass { left: end - start, body: Some(body) };
                        wrong.map(|error| self.replace_target(error))
                    }
                }
            }
        }
    }

    /// The head is no request: gives hyper another one in its place, the last.
    pub fn unreadable(&mut self, error: ProxyError) -> Refusal {
        self.bytes = STAND_IN.to_vec();
        self.at = 0;
        self.due = Due::Pass { left: STAND_IN.len(), body: None };
        Refusal::Unreadable(error)
    }

    /// The target of the head that is to be given on is none: puts one there that hyper can read.
    fn replace_target(&mut self, error: ProxyError) -> Refusal {
        let refusal = Refusal::Target(error);
        let Due::Pass { left, body } = &self.due else { return refusal };
        let (left, body) = (*left, *body);
        let line = self.bytes.get(self.at..self.at + left).unwrap_or_default();
        let mut spaces = line.iter().enumerate().filter(|(_, b)| **b == b' ').map(|(at, _)| at);
        if let (Some(from), Some(to)) = (spaces.next(), spaces.next()) {
            let harmless = if line.starts_with(b"CONNECT ") { "stand-in:1" } else { "/" };
            let range = self.at + from + 1..self.at + to;
            let left = left - range.len() + harmless.len();
            self.bytes.splice(range, harmless.bytes());
            self.due = Due::Pass { left, body };
        }
        refusal
    }

    /// Hands on what is here of the request, at most `room` bytes.
    pub fn give(&mut self, room: usize) -> &[u8] {
        let from = self.at;
        let here = (self.bytes.len() - from).min(room);
        let given = match &mut self.due {
            Due::Pass { left, body } => {
                let given = here.min(*left);
                *left -= given;
                if *left == 0 {
                    self.due = match *body {
                        None => Due::End,
                        Some(Body::Length(0)) => Due::Answer,
                        Some(Body::Length(length)) => Due::Length(length),
                        Some(Body::Chunked) => Due::Chunks(Chunks::default()),
                    };
                }
                given
            }
            Due::Length(_) | Due::Chunks(_) => {
                let due = std::mem::replace(&mut self.due, Due::End);
                let (due, used) = advance(due, self.bytes.get(from..from + here).unwrap_or_default());
                self.due = due;
                used
            }
            Due::Head | Due::Answer | Due::End | Due::Broken(_) => 0,
        };
        self.at += given;
        self.bytes.get(from..from + given).unwrap_or_default()
    }

    /// How many of these bytes, just read, belong to the body. The others are kept.
    pub fn body(&mut self, read: &[u8]) -> usize {
        let due = std::mem::replace(&mut self.due, Due::End);
        let (due, used) = advance(due, read);
        self.due = due;
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
        }
        self.bytes.extend_from_slice(read.get(used..).unwrap_or_default());
        used
    }
}

/// Passes bytes of a body by.
fn advance(due: Due, bytes: &[u8]) -> (Due, usize) {
    match due {
        Due::Length(left) => {
            let used = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            let left = left - used as u64;
            (if left == 0 { Due::Answer } else { Due::Length(left) }, used)
        }
        Due::Chunks(mut chunks) => match chunks.feed(bytes) {
            Ok(fed) => (if fed.ended { Due::Answer } else { Due::Chunks(chunks) }, fed.used),
            Err(why) => (Due::Broken(why), 0),
        },
        Due::Head | Due::Pass { .. } | Due::Answer | Due::End | Due::Broken(_) => (due, 0),
    }
}

/// How a head's body is framed, and what is wrong with its target.
fn examine(bytes: &[u8]) -> Result<(Body, Option<ProxyError>), HeadError> {
    let head = Head::parse(bytes)?;
    let wrong = if head.method == "CONNECT" {
        Target::authority(head.target).err()
    } else if head.target.starts_with('/') || head.target == "*" {
        // A request for a web server: told so, once it is known who asks.
        head.target.contains('#').then_some(TargetError::Fragment)
    } else {
        Target::absolute(head.target).err()
    };
    // hyper reads the target in its own way, and has no words for the client where it cannot.
    let wrong = wrong.or_else(|| head.target.parse::<http::Uri>().err().map(|_| TargetError::Form));
    let wrong = wrong.map(ProxyError::from).or_else(|| (!head.host_is_valid).then(host_is_invalid));
    Ok((head.body, wrong))
}

impl From<HeadError> for ProxyError {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::TooManyFields => Self::new(Code::HeadTooLarge, "the request's head is too large"),
            HeadError::Malformed(why) => {
                Self::new(Code::NotAProxyRequest, format!("not a request that a proxy takes: {why}"))
            }
        }
    }
}

/// What hyper gets of a connection's bytes when each answer comes at once, what is refused, and the end; read
/// in pieces of `step` bytes, and given on in ones of `room`. For the tests and the fuzz targets.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn run(bytes: &[u8], step: usize, room: usize) -> (Vec<u8>, Vec<Refusal>, Want) {
    let (mut gate, mut given, mut refusals) = (Gate::new(Vec::new()), Vec::new(), Vec::new());
    let mut pieces = bytes.chunks(step);
    loop {
        match gate.want() {
            Want::Head => {
                refusals.extend(gate.look());
                if gate.want() != Want::Head {
                    continue;
                }
                let Some(piece) = pieces.next() else { break };
                gate.buffer().extend_from_slice(piece);
            }
            Want::Give => given.extend_from_slice(gate.give(room)),
            Want::Body => {
                let Some(piece) = pieces.next() else { break };
                let used = gate.body(piece);
                given.extend_from_slice(piece.get(..used).unwrap_or_default());
            }
            Want::Answer => gate.answered(),
            Want::End | Want::Broken(_) => break,
        }
    }
    (given, refusals, gate.want())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n";

    #[test]
    fn good_requests_pass_as_they_are() {
        let text = format!(
            "\r\n{GOOD}POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc{GOOD}\
             PUT http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\n\r\n{GOOD}"
        );
        for step in 1..text.len() {
            for room in [1, 7, 100_000] {
                let (given, refusals, want) = run(text.as_bytes(), step, room);
                assert_eq!(String::from_utf8(given).unwrap(), text.trim_start(), "{step} {room}");
                assert_eq!((refusals, want), (Vec::new(), Want::Head));
            }
        }
    }

    #[test]
    fn what_is_refused_is_stood_in_for() {
        let text = format!("{GOOD}GET http://a/ HTTP/1.1\nHost: a\r\n\r\n{GOOD}");
        for step in 1..text.len() {
            let (given, refusals, want) = run(text.as_bytes(), step, 9);
            assert_eq!(given, [GOOD.as_bytes(), STAND_IN].concat());
            assert!(matches!(&refusals[..], [Refusal::Unreadable(e)] if e.code == Code::NotAProxyRequest));
            assert_eq!(want, Want::End, "nothing behind it is read");
        }
    }

    #[test]
    fn a_target_that_is_none_is_told_with_its_request_intact() {
        let rest = "HTTP/1.1\r\nHost: a\r\nProxy-Authorization: x\r\nContent-Length: 2\r\n\r\nhi";
        for (line, instead) in [
            ("GET http://a:99999/ ", "GET / "),
            ("GET http://a/#b ", "GET / "),
            ("GET a:80 ", "GET / "),
            ("GET http://a/\u{e4} ", "GET http://a/\u{e4} "),
            ("CONNECT a ", "CONNECT stand-in:1 "),
            ("CONNECT u@a:80 ", "CONNECT stand-in:1 "),
        ] {
            let text = format!("{line}{rest}{GOOD}");
            let (given, refusals, want) = run(text.as_bytes(), 11, 13);
            assert_eq!(String::from_utf8(given).unwrap(), format!("{instead}{rest}{GOOD}"), "{line}");
            let wrong = usize::from(line != instead);
            assert!(
                refusals.len() == wrong && refusals.iter().all(|r| matches!(r, Refusal::Target(_))),
                "{line}"
            );
            assert_eq!(want, Want::Head);
        }
    }

    #[test]
    fn a_broken_body_goes_no_further_than_it_is_whole() {
        let head = "PUT http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (given, _, want) = run(format!("{head}3\r\nabc\r\n0x3\r\nabc").as_bytes(), 1, 100);
        assert_eq!(given, format!("{head}3\r\nabc\r\n0").into_bytes());
        assert!(matches!(want, Want::Broken(_)));
    }

    #[test]
    fn what_comes_early_is_kept() {
        let mut gate = Gate::new(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n\x16\x03".to_vec());
        assert_eq!(gate.look(), None);
        gate.give(1000);
        assert_eq!(gate.want(), Want::Answer);
        gate.buffer().push(1);
        assert_eq!(gate.into_kept(), b"\x16\x03\x01");
    }

    proptest::proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_arrive(
            text in "((GET|CONNECT|PUT) (http://a/|a:1|a|/#) HTTP/1.1\r?\nHost: a\r\n(Content-Length: [0-4]\r\n|Transfer-Encoding: chunked\r\n)?\r\n[0-3\r\nab]{0,8}){1,3}",
            step in 1_usize..9,
            room in 1_usize..30,
        ) {
            let (given, refusals, want) = run(text.as_bytes(), text.len(), 100_000);
            let pieces = run(text.as_bytes(), step, room);
            // Of a broken body more may have passed when it came in pieces.
            proptest::prop_assert!(pieces.0.starts_with(&given));
            proptest::prop_assert_eq!((refusals, want), (pieces.1, pieces.2));
        }
    }
}
