//! Plain HTTP of the common kind: requests without a body over a kept connection, each passed on and
//! answered in this one loop, with a system call for each read and write and nothing else between. A
//! connection begins here. The first request of another kind (a body, an upgrade, a CONNECT, an error in
//! its head) is left for `plain`, with the connection and for good; hyper knows all of HTTP/1.
//!
//! Between two requests a connection holds no buffer, and while it waits for an answer its request's head.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use http::Method;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::client_io::head_timeout;
use super::connect::{Admitted, Credentials, Hold, Opened, admit, check_target};
use super::connection::{Sent, closes, refuse, send, while_there};
use super::error::{Code, ProxyError};
use super::event::Waiter;
use super::forward::{no_answer, unasked};
use super::head::{self, MAX_HEAD, Scan, Scanner};
use super::origin::{self, Unanswered};
use super::plain;
use super::pool::Key;
use super::record::{Kind, Outcome, Record};
use super::reply::Reply;
use super::rewrite::{self, Turn};
use super::socket;
use super::target::Target;
use super::thread::{Connection, Thread};
use super::trail::Step;
use super::tunnel::{UNTAKEN, shut};
use super::wish::Wish;
use crate::session::Grant;

/// What is read at once of requests: no more may lie behind one that is being answered.
const ROOM: usize = MAX_HEAD + 1;

/// Serves a connection of which the first request's head, in `read`, has been read.
pub(super) async fn serve(
    thread: Rc<Thread>,
    stream: TcpStream,
    read: Vec<u8>,
    addr: SocketAddr,
    connection: Rc<Connection>,
) {
    // Boxed each: the one's room is not kept for the other.
    let left = Box::pin(answer_all(&thread, stream, read, addr, &connection)).await;
    if let Some((stream, read)) = left {
        Box::pin(plain::serve(thread, stream, read, addr, connection)).await;
    }
}

/// Answers requests until the connection is closed, or there is one of another kind: then it is returned, with
/// what has been read of that and not been used.
async fn answer_all(
    thread: &Rc<Thread>,
    stream: TcpStream,
    read: Vec<u8>,
    addr: SocketAddr,
    connection: &Connection,
) -> Option<(TcpStream, Vec<u8>)> {
    let timings = &thread.shared.timings;
    let mut clock = pin!(tokio::time::sleep(timings.keep_alive));
    let closing = thread.closing.waiter();
    let mut client =
        Client { thread, stream, early: read, scanner: Scanner::default(), addr, last: None, closing };
    loop {
        let request = match client.next(clock.as_mut()).await {
            Next::Request(request) => request,
            Next::Other => return Some((client.stream, client.early)),
            Next::Closed => return None,
            Next::Idle => {
                linger(thread, &client.stream).await;
                return None;
            }
            Next::Slow => {
                let record = Record::new(&thread.counters, Kind::None, addr);
                refuse(thread, &client.stream, &head_timeout(timings.head), record).await;
                return None;
            }
        };
        let mut record = Record::new(&thread.counters, Kind::Http, addr);
        record.method = Some(request.method.clone());
        let answered = {
            let Client { stream, early, last, .. } = &mut client;
            let answer = pin!(answer(thread, stream, connection, last, request, &mut record));
            while_there(stream, early, answer).await
        };
        match answered {
            None => {
                record.finish(Outcome::ClientGone);
                return None;
            }
            Some(Err(error)) => {
                if closes(connection, &error) || thread.closing.fired() {
                    refuse(thread, &client.stream, &error, record).await;
                    return None;
                }
                if let Sent::No = send(thread, &client.stream, &error, record, false).await {
                    return None;
                }
            }
            Some(Ok(reply)) => {
                record.status = reply.begun.answer.status;
                record.on_drop = Outcome::ClientReset;
                let outcome = reply.relay(thread, &client.stream, &mut client.early, &mut record).await;
                record.finish(outcome);
                if outcome == Outcome::ClientReset {
                    return None;
                }
                // An answer that is cut short ends the connection, but what is before it is the client's.
                if outcome != Outcome::Ok || thread.closing.fired() {
                    linger(thread, &client.stream).await;
                    return None;
                }
            }
        }
    }
}

/// Closes so that the client can read what it has been sent, though requests of its are under way.
pub(super) async fn linger(thread: &Thread, stream: &TcpStream) {
    shut(stream);
    thread.linger(stream, thread.shared.timings.linger, UNTAKEN).await;
}

/// A request of the common kind, detached from the bytes that it was read from.
struct Request {
    method: Method,
    credentials: Credentials,
    /// Whether its client takes trailers.
    trailers: bool,
    /// The head for its origin.
    head: Vec<u8>,
    target: Target,
}

/// What comes of a connection between two requests.
enum Next {
    /// A request of the common kind.
    Request(Request),
    /// Something else.
    Other,
    /// The client has closed.
    Closed,
    /// Nothing for so long that it ends, or it ends because the gateway does.
    Idle,
    /// A head that takes too long.
    Slow,
}

/// What a destination was found to be, for a wish.
struct Allowed {
    authority: Box<str>,
    target: Target,
    /// Whose rules allow it; nobody's yet.
    wish: Option<Rc<Wish>>,
}

struct Client<'t> {
    thread: &'t Rc<Thread>,
    stream: TcpStream,
    /// What has been read and not been used: part of a head, or requests behind the one at hand.
    early: Vec<u8>,
    /// How far the head in `early` has been looked at.
    scanner: Scanner,
    addr: SocketAddr,
    /// The last destination: most clients stay with one.
    last: Option<Allowed>,
    closing: Waiter,
}

impl Client<'_> {
    /// Waits for the next request.
    async fn next(&mut self, mut clock: Pin<&mut Sleep>) -> Next {
        let mut scanned = false;
        let mut due = None;
        poll_fn(|cx| {
            if !std::mem::replace(&mut scanned, true)
                && !self.early.is_empty()
                && let Some(next) = self.look(&[])
            {
                return Poll::Ready(next);
            }
            let next = self.poll_next(cx);
            if next.is_ready() {
                return next;
            }
            let timings = &self.thread.shared.timings;
            let idle = self.early.is_empty();
            if idle {
                self.early = Vec::new();
                if Pin::new(&mut self.closing).poll(cx).is_ready() {
                    return Poll::Ready(Next::Idle);
                }
            }
            // A head has its time from its first byte.
            let due = match due {
                Some((due, was_idle)) if was_idle == idle => due,
                _ => {
                    let at = Instant::now() + if idle { timings.keep_alive } else { timings.head };
                    due = Some((at, idle));
                    at
                }
            };
            // Mostly it is set for earlier, and only looked at then.
            if clock.deadline() > due {
                clock.as_mut().reset(due);
            }
            while clock.as_mut().poll(cx).is_ready() {
                if due <= Instant::now() {
                    return Poll::Ready(if idle { Next::Idle } else { Next::Slow });
                }
                clock.as_mut().reset(due);
            }
            Poll::Pending
        })
        .await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            let mut buffer = self.thread.buffers.take();
            let room = ROOM.saturating_sub(self.early.len()).clamp(1, buffer.len());
            let mut into = ReadBuf::new(buffer.get_mut(..room).unwrap_or_default());
            let polled = Pin::new(&mut self.stream).poll_read(cx, &mut into);
            let filled = into.filled().len();
            let next = match polled {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(())) if filled > 0 => {
                    let next = self.look(buffer.get(..filled).unwrap_or_default());
                    Poll::Ready(next)
                }
                Poll::Ready(_) => Poll::Ready(Some(Next::Closed)),
            };
            self.thread.buffers.give(buffer);
            match next {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(next)) => return Poll::Ready(next),
                Poll::Ready(None) => {}
            }
        }
    }

    /// Looks at what has come, with what has been read just now; none if more is to come.
    fn look(&mut self, read: &[u8]) -> Option<Next> {
        if !self.early.is_empty() {
            self.early.extend_from_slice(read);
        }
        let bytes = if self.early.is_empty() { read } else { &self.early };
        let (next, used) = match self.scanner.scan(bytes) {
            Scan::Partial => (None, 0),
            // Told by those who tell it of any request.
            Scan::TooLarge | Scan::Bad(_) => (Some(Next::Other), 0),
            Scan::Complete { start, end } => {
                let head = bytes.get(start..end).unwrap_or_default();
                match request(self.thread, head, self.addr, &mut self.last) {
                    Some(request) => (Some(Next::Request(request)), end),
                    None => (Some(Next::Other), start),
                }
            }
        };
        if next.is_some() {
            self.scanner = Scanner::default();
        }
        if self.early.is_empty() {
            self.early.extend_from_slice(read.get(used..).unwrap_or_default());
        } else if used == self.early.len() {
            self.early = Vec::new();
        } else {
            self.early.drain(..used);
        }
        next
    }
}

/// Reads a whole head; none if it is of another kind.
fn request(thread: &Thread, head: &[u8], client: SocketAddr, last: &mut Option<Allowed>) -> Option<Request> {
    let mut room = head::room();
    let common = rewrite::common(head, &mut room)?;
    let target = match last {
        Some(last) if *last.authority == *common.authority => last.target.clone(),
        _ => {
            let target = Target::http_authority(common.authority).ok()?;
            let authority = common.authority.into();
            *last = Some(Allowed { authority, target: target.clone(), wish: None });
            target
        }
    };
    Some(Request {
        credentials: Credentials::of(thread, common.authorization),
        head: common.for_origin(thread.shared.forwarding, client.ip()),
        method: common.method,
        trailers: common.trailers,
        target,
    })
}

/// Sends a request to its origin, and waits for the answer's head.
async fn answer(
    thread: &Rc<Thread>,
    stream: &TcpStream,
    connection: &Connection,
    last: &mut Option<Allowed>,
    request: Request,
    record: &mut Record,
) -> Result<Reply, ProxyError> {
    let Request { method, credentials, trailers, head, target } = request;
    let admitted = admit(thread, credentials, record).await?;
    connection.authenticated();
    let target = allow(thread, stream, &admitted, target, last, record)?;
    let mut hold = Hold::begin(admitted);
    let grant = hold.grant(thread, record).await?;
    let turn = Turn {
        head: method == Method::HEAD,
        trailers,
        id: record.id,
        forwarding: thread.shared.forwarding,
        last: false,
    };
    let key = Key::new(&grant.exit, &target);
    if let Some(wire) = thread.wires.take(&key) {
        record.trail.also(Step::ConnectionReused);
        match origin::ask(thread, &grant.exit, wire, &[], &head, turn, record).await {
            Ok(begun) => return Ok(Reply { begun, grant, key }),
            // Nothing of an answer came: the origin had closed, or closed on this very request.
            Err(Unanswered { nothing: true, .. }) => {}
            Err(unanswered) => return Err(unanswered.error(&grant, &target)),
        }
    }
    // Boxed: few requests need it, and all would hold the room for it.
    let opened = Box::pin(hold.open(thread, grant, &target, record)).await?;
    let Opened { grant, tunnel } = opened;
    socket::keep_alive(&tunnel.stream);
    let asked = origin::ask(thread, &grant.exit, tunnel.stream, &tunnel.glued, &head, turn, record).await;
    match asked {
        Ok(begun) => {
            let key = Key::new(&grant.exit, &target);
            Ok(Reply { begun, grant, key })
        }
        Err(unanswered) => Err(unanswered.error(&grant, &target)),
    }
}

/// Checks the destination, unless it is the last one's again, for the same wish.
fn allow(
    thread: &Thread,
    stream: &TcpStream,
    admitted: &Admitted,
    target: Target,
    last: &mut Option<Allowed>,
    record: &mut Record,
) -> Result<Target, ProxyError> {
    let wish = match admitted {
        Admitted::Session(wish) => Some(wish),
        Admitted::Pod(_) => None,
    };
    let allowed = last.as_mut().filter(|last| last.target == target);
    if let (Some(wish), Some(Allowed { wish: Some(for_wish), .. })) = (wish, &allowed)
        && Rc::ptr_eq(wish, for_wish)
    {
        record.target = Some(target.clone());
        record.trail.also(Step::Allowed);
        return Ok(target);
    }
    let local = || stream.local_addr().ok().map(|addr| addr.ip());
    let target = check_target(thread, admitted, Ok(target), local, record)?;
    if let Some(allowed) = allowed {
        allowed.wish = wish.cloned();
    }
    Ok(target)
}

impl Unanswered {
    fn error(&self, grant: &Grant, target: &Target) -> ProxyError {
        if self.switched {
            return unasked();
        }
        if grant.exit.gone.is_cancelled() {
            return ProxyError::new(Code::ExitUnhealthy, "the exit went away before there was an answer");
        }
        no_answer(target)
    }
}
