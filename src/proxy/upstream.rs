//! The way to a target through an exit: a connection to the pod's proxy, and a CONNECT on it.
//!
//! Gluetun loses bytes (measured, one tunnel in ten): what comes in one segment with the head is thrown
//! away, and Go's server may read a byte ahead even after the 200. So the head goes alone, with a length
//! announced that is never sent, and nothing follows before the 200.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::check::Verdict;
use super::error::{Code, ProxyError};
use super::gluetun::Refusal;
use super::socket;
use super::target::Target;
use super::thread::Thread;
use super::trail::{Step, Trail};
use crate::session::Exit;

/// How long an answer is waited for before the exit's death, found out by others, is looked out for.
const PROMPT: Duration = Duration::from_millis(500);
/// How long other threads have to close what is idle.
const OTHERS: Duration = Duration::from_millis(2);
/// Longest head of an answer.
const MAX_HEAD: usize = 16 * 1024;
/// Most of a refusal's body that is read.
const MAX_BODY: usize = 4 * 1024;
/// How long a refusal's body may take: it comes with the head.
const BODY: Duration = Duration::from_secs(1);

/// A tunnel to a target.
#[derive(Debug)]
pub(super) struct Tunnel {
    /// The connection to the exit.
    pub(super) stream: TcpStream,
    /// What the target has sent already.
    pub(super) glued: Vec<u8>,
}

/// Why there is no tunnel.
#[derive(Debug)]
pub(super) enum Failure {
    /// The exit's proxy cannot be reached.
    Unreachable,
    /// The exit passes nothing on.
    Dead,
    /// The exit's pod is gone.
    Gone,
    /// The exit's proxy refuses the gateway.
    Protocol(ProxyError),
    /// The answer for the client; another exit would not help.
    Answer(ProxyError),
}

/// What the exit's proxy said to a CONNECT.
#[derive(Debug)]
pub(super) enum Answer {
    /// The tunnel is open.
    Open {
        /// What the target has sent already.
        glued: Vec<u8>,
    },
    /// It is not.
    Refused(Refusal),
    /// The connection ended without an answer.
    Closed,
}

/// Opens a tunnel. Nothing of the client's has been sent when it fails, so trying again is safe.
///
/// # Errors
///
/// [`Failure`]: which of them another exit may mend.
pub(super) async fn open(
    thread: &Rc<Thread>,
    exit: &Arc<Exit>,
    target: &Target,
    trail: &mut Trail,
) -> Result<Tunnel, Failure> {
    let gone = thread.gone(exit);
    tokio::select! {
        biased;
        () = gone => Err(Failure::Gone),
        opened = try_open(thread, exit, target, trail) => opened,
    }
}

/// Dials, and once more after each pause: short ones that do not grow much, since a pod that is ready
/// and does not answer mostly does a moment later.
async fn try_open(
    thread: &Rc<Thread>,
    exit: &Arc<Exit>,
    target: &Target,
    trail: &mut Trail,
) -> Result<Tunnel, Failure> {
    let timings = &thread.shared.timings;
    let mut pauses = timings.dial_pauses.iter();
    let mut waited = false;
    loop {
        match dial(exit, target, timings.dial).await {
            Ok(begun) => {
                trail.step(Step::Dialled);
                match converse(thread, exit, target, begun, trail).await? {
                    Some(tunnel) => return Ok(tunnel),
                    None => trail.step(Step::ExitClosed),
                }
                tracing::debug!(pod = %exit.pod, "the exit closed the connection without an answer");
            }
            Err(error) if socket::is_exhausted(&error) => {
                // What is idle makes room, on this thread, then on others, then whoever has not logged in.
                if !thread.forget_idle() {
                    if !std::mem::replace(&mut waited, true) {
                        tokio::time::sleep(OTHERS).await;
                    } else if !thread.newcomers.evict() {
                        return Err(Failure::Answer(exhausted(&error)));
                    }
                }
                // The sockets are closed when the thread next looks at its tasks, which it does before this goes on.
                tokio::task::yield_now().await;
                continue;
            }
            Err(error) => {
                trail.note(Step::DialFailed, &error);
                tracing::debug!(pod = %exit.pod, %error, "cannot connect to the exit");
            }
        }
        match pauses.next() {
            Some(pause) => tokio::time::sleep(*pause).await,
            None => return Err(Failure::Unreachable),
        }
    }
}

/// The gateway itself has no socket left: the exit is not to blame.
fn exhausted(error: &io::Error) -> ProxyError {
    tracing::error!(%error, "no socket for a connection to an exit");
    ProxyError::new(Code::CapacityFull, "the gateway has no free sockets")
        .hint("retry; the operator can raise the limit on open files")
}

/// Sends the CONNECT and waits for its answer; `None` if the connection ended without one.
async fn converse(
    thread: &Rc<Thread>,
    exit: &Arc<Exit>,
    target: &Target,
    begun: Begun,
    trail: &mut Trail,
) -> Result<Option<Tunnel>, Failure> {
    let Begun { stream, rest } = begun;
    let shared = &thread.shared;
    let asked = Instant::now();
    let answer = {
        let mut answer = pin!(exchange(&stream, rest, || trail.step(Step::ConnectSent)));
        match await_answer(exit, answer.as_mut(), asked, shared.timings.silent).await? {
            Some(answer) => Ok(answer),
            // Boxed, as all that few tunnels need: none is to hold the room for it.
            None => {
                let mut dead = Box::pin(dead(thread, exit, asked + shared.timings.connect));
                tokio::select! {
                    biased;
                    answer = &mut answer => Ok(answer),
                    dead = &mut dead => Err(dead),
                }
            }
        }
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(true) => {
            trail.note(Step::ExitChecked, "silent, and its VPN is dead");
            return Err(Failure::Dead);
        }
        Err(false) => {
            trail.note(Step::ExitChecked, "silent, and its VPN is not known to be dead");
            return Err(Failure::Answer(silent(thread, target)));
        }
    };
    match answer {
        Ok(Answer::Open { glued }) => Ok(Some(Tunnel { stream, glued })),
        Ok(Answer::Closed) => Ok(None),
        Err(error) => {
            tracing::debug!(pod = %exit.pod, %error, "the exit broke the connection off");
            Ok(None)
        }
        Ok(Answer::Refused(Refusal::Protocol)) => {
            trail.note(Step::Refused, "not as Gluetun refuses");
            tracing::error!(pod = %exit.pod, server = %exit.server, "the exit's proxy refuses the gateway's request");
            Err(Failure::Protocol(Refusal::Protocol.error(target)))
        }
        Ok(Answer::Refused(refusal)) => {
            trail.step(Step::Refused);
            let dead = refusal.may_be_dead()
                && Box::pin(shared.checks.verdict(exit, &shared.timings)).await == Verdict::Dead;
            Err(if dead { Failure::Dead } else { Failure::Answer(refusal.error(target)) })
        }
    }
}

/// Waits for an answer as long as silence means nothing; `None` when it means something. Nearly all come
/// within the first moment, and only the others pay for looking out for the exit's death.
async fn await_answer(
    exit: &Exit,
    mut answer: Pin<&mut impl Future<Output = io::Result<Answer>>>,
    asked: Instant,
    silent: Duration,
) -> Result<Option<io::Result<Answer>>, Failure> {
    if let Ok(answer) = timeout_at(asked + PROMPT.min(silent), &mut answer).await {
        return Ok(Some(answer));
    }
    Box::pin(async move {
        tokio::select! {
            biased;
            answer = &mut answer => Ok(Some(answer)),
            () = exit.dead.cancelled() => Err(Failure::Dead),
            () = tokio::time::sleep_until(asked + silent) => Ok(None),
        }
    })
    .await
}

fn silent(thread: &Thread, target: &Target) -> ProxyError {
    let limit = thread.shared.timings.connect.as_secs();
    ProxyError::new(Code::UpstreamTimeout, format!("{target} did not answer within {limit} s"))
}

/// An exit that has been silent for long is asked whether it lives: true if it does not, and at once;
/// else false at the deadline.
async fn dead(thread: &Rc<Thread>, exit: &Arc<Exit>, deadline: Instant) -> bool {
    let shared = &thread.shared;
    if shared.checks.verdict(exit, &shared.timings).await == Verdict::Dead {
        return true;
    }
    tokio::time::sleep_until(deadline).await;
    false
}

/// Connects to an exit and asks it for a target, once.
///
/// # Errors
///
/// When the exit cannot be reached or breaks off.
pub(super) async fn ask(exit: &Exit, target: &Target, limit: Duration) -> io::Result<(TcpStream, Answer)> {
    let Begun { stream, rest } = dial(exit, target, limit).await?;
    let answer = exchange(&stream, rest, || {}).await?;
    Ok((stream, answer))
}

/// A connection to an exit's proxy.
struct Begun {
    stream: TcpStream,
    /// What is left to send of the CONNECT.
    rest: Vec<u8>,
}

async fn dial(exit: &Exit, target: &Target, limit: Duration) -> io::Result<Begun> {
    let mut head = connect_head(exit, target);
    let (stream, sent) = socket::connect(exit.proxy_addr, limit, &head).await?;
    head.drain(..sent);
    Ok(Begun { stream, rest: head })
}

/// Sends the rest of a CONNECT, and reads the answer.
async fn exchange(stream: &TcpStream, rest: Vec<u8>, sent: impl FnOnce()) -> io::Result<Answer> {
    write_all(stream, &rest).await?;
    drop(rest);
    sent();
    let mut bytes = Vec::with_capacity(1024);
    // Where the last head begins: there may be interim ones before it (RFC 9110, 15.2).
    let mut at = 0;
    loop {
        match head(bytes.get(at..).unwrap_or_default())? {
            Some(Head { length, status: 100..=199, .. }) => at += length,
            Some(Head { length, status: 200..=299, .. }) => {
                bytes.drain(..at + length);
                return Ok(Answer::Open { glued: bytes });
            }
            Some(Head { length, status, body }) => {
                bytes.drain(..at + length);
                // What has come by then says enough, or says nothing.
                let _ = Box::pin(timeout(BODY, read_body(stream, &mut bytes, body))).await;
                return Ok(Answer::Refused(Refusal::read(status, &String::from_utf8_lossy(&bytes))));
            }
            None if bytes.len() >= MAX_HEAD => return Ok(Answer::Refused(Refusal::Other)),
            None => {
                if read_some(stream, &mut bytes).await? == 0 {
                    return Ok(Answer::Closed);
                }
            }
        }
    }
}

fn connect_head(exit: &Exit, target: &Target) -> Vec<u8> {
    let (target, authorization) = (target.as_str(), exit.authorization.expose());
    let parts = [
        "CONNECT ",
        target,
        " HTTP/1.1\r\nHost: ",
        target,
        "\r\nProxy-Authorization: ",
        authorization,
        "\r\nContent-Length: 1048576\r\n\r\n",
    ];
    let mut head = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| head.extend_from_slice(part.as_bytes()));
    head
}

/// Writes everything. A fresh socket takes a head at once, so this is one system call.
pub(super) async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Box::pin(stream.writable()).await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Appends what there is to read; 0 at the end.
pub(super) async fn read_some(stream: &TcpStream, bytes: &mut Vec<u8>) -> io::Result<usize> {
    poll_fn(|cx| poll_read_some(cx, stream, bytes)).await
}

/// As [`read_some`].
pub(super) fn poll_read_some(
    cx: &mut Context<'_>,
    stream: &TcpStream,
    bytes: &mut Vec<u8>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_read_ready(cx))?;
        if bytes.len() == bytes.capacity() {
            // No more than is needed: a head that never ends costs its bytes and not twice as many.
            bytes.reserve_exact(4096);
        }
        let room = bytes.capacity() - bytes.len();
        match stream.try_read_buf(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(n) if 0 < n && n < room => {
                drained(stream);
                return Poll::Ready(Ok(n));
            }
            read => return Poll::Ready(read),
        }
    }
}

/// A read that did not fill its buffer has spent the socket: the next one waits for news instead of asking the
/// kernel. An end is news, too, and is not forgotten by this. (`AsyncRead` of tokio's streams does the same.)
pub(super) fn drained(stream: &TcpStream) {
    spent(stream, Interest::READABLE);
}

/// As [`drained`], for either way: a write that did not give all has filled the socket.
pub(super) fn spent(stream: &TcpStream, of: Interest) {
    let nothing = stream.try_io(of, || io::Result::<()>::Err(io::ErrorKind::WouldBlock.into()));
    debug_assert!(nothing.is_err());
}

struct Head {
    length: usize,
    status: u16,
    /// Length of the body, where it is announced.
    body: Option<usize>,
}

/// The first head in `bytes`; `None` if it is not complete.
fn head(bytes: &[u8]) -> io::Result<Option<Head>> {
    // Not filled in first: that took longer than to read the few fields of an answer.
    let mut fields = [const { MaybeUninit::uninit() }; 64];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        bytes,
        &mut fields,
    );
    match parsed {
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete(length)) => {
            let body = response
                .headers
                .iter()
                .find(|field| field.name.eq_ignore_ascii_case("content-length"))
                .and_then(|field| std::str::from_utf8(field.value).ok()?.trim().parse().ok());
            Ok(Some(Head { length, status: response.code.unwrap_or(0), body }))
        }
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string())),
    }
}

async fn read_body(stream: &TcpStream, bytes: &mut Vec<u8>, length: Option<usize>) -> io::Result<()> {
    let wanted = length.unwrap_or(MAX_BODY).min(MAX_BODY);
    while bytes.len() < wanted && read_some(stream, bytes).await? > 0 {}
    Ok(())
}
