//! One client's connection, from accept to close: heads are read here as long as they are CONNECTs,
//! anything else goes to `direct`. Called by `listener`.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::client_io::head_timeout;
use super::connect::{Admitted, Credentials, Hold, Opened, admit, check_target};
use super::direct;
use super::error::{Code, ProxyError};
use super::gate::MAX_EARLY;
use super::head::{Head, HeadError, MAX_HEAD, Scan, Scanner};
use super::record::{Kind, Outcome, Record};
use super::response;
use super::stage::Stage;
use super::target::{Target, TargetError};
use super::thread::{Connection, Thread};
use super::tunnel::{Greeting, Tunnel, shut};
use super::upstream::{drained, poll_read_some, read_some, write_all};

/// Failed logins on one connection: then it closes, and guessing costs a connection each.
const MAX_REFUSED: u32 = 2;
/// Bytes that a client may still send after an error before it is closed on.
const LINGER_BYTES: usize = 64 * 1024;

/// Serves a client until its connection is closed.
pub(super) fn serve(
    thread: Rc<Thread>,
    stream: TcpStream,
    client: SocketAddr,
    connection: Rc<Connection>,
) -> Stage {
    Stage::new(async move {
        let mut bytes = read_first(&thread, &stream)?;
        let found = read_head(&thread, &stream, &mut bytes, true).await;
        Some(Stage::new(begin(thread, stream, client, connection, bytes, found)))
    })
}

/// What a client has sent by the time that it is looked at first, mostly all of its head; `None` if it has closed. Read
/// behind the runtime's back, which need not have heard of it yet: it saves a turn of the loop.
fn read_first(thread: &Thread, stream: &TcpStream) -> Option<Vec<u8>> {
    let mut bytes = thread.buffers.take_head();
    match rustix::io::read(stream, spare_capacity(&mut bytes)) {
        Ok(1..) => {
            if bytes.len() < bytes.capacity() {
                // Or the next look would be for what has just been read.
                drained(stream);
            }
            return Some(bytes);
        }
        Err(Errno::AGAIN | Errno::INTR) => {}
        Ok(0) | Err(_) => return None,
    }
    // Who has not begun takes no room.
    thread.buffers.give_head(bytes);
    Some(Vec::new())
}

/// How reading a head ended, if not with one.
enum NoHead {
    /// The client has closed, or has not begun a head that nobody waits for.
    Closed,
    /// It is answered with an error.
    Error(ProxyError),
}

/// From the first head to what the connection goes on as.
// No `async fn`, which would hold what it is given twice.
#[allow(clippy::manual_async_fn)]
fn begin(
    thread: Rc<Thread>,
    stream: TcpStream,
    client: SocketAddr,
    connection: Rc<Connection>,
    mut bytes: Vec<u8>,
    mut found: Result<(usize, usize), NoHead>,
) -> impl Future<Output = Option<Stage>> {
    async move {
        loop {
            let (start, end) = match found {
                Ok(found) => found,
                Err(NoHead::Closed) => return None,
                Err(NoHead::Error(error)) => {
                    let record = Record::new(&thread.counters, Kind::None, client);
                    return refused(&thread, &stream, &error, record).await;
                }
            };
            let head = match Head::parse(bytes.get(start..end).unwrap_or_default()) {
                Ok(head) => head,
                Err(error) => {
                    let record = Record::new(&thread.counters, Kind::None, client);
                    return refused(&thread, &stream, &error.into(), record).await;
                }
            };
            if head.method != "CONNECT" {
                bytes.drain(..start);
                return Some(Stage::last(direct::serve(thread, stream, bytes, client, connection), ()));
            }
            let mut record = Record::new(&thread.counters, Kind::Connect, client);
            let mut request = Request {
                credentials: Credentials::of(&thread, head.authorization),
                target: Target::authority(head.target),
                has_body: !head.body.is_empty(),
                host_is_valid: head.host_is_valid,
            };
            let keep_alive = head.keep_alive;
            // What came behind the head, which is mostly nothing, takes no room meanwhile.
            let early = bytes.split_off(end);
            thread.buffers.give_head(std::mem::replace(&mut bytes, early));
            let opened = {
                let open = pin!(open(&thread, &stream, &connection, &mut request, &mut record));
                while_there(&stream, &mut bytes, open).await
            };
            let error = match opened {
                None => {
                    record.finish(Outcome::ClientGone);
                    return None;
                }
                Some(Ok(opened)) => {
                    let tunnel =
                        Tunnel { client: stream, early: bytes, opened, record, greeting: Greeting::Due };
                    return Some(Stage::last(tunnel.run(thread), connection));
                }
                Some(Err(error)) => error,
            };
            // What follows an unanswered CONNECT is the tunnel's first data or the next request: only the
            // client knows, so a connection with such bytes does not go on.
            let close = closes(&connection, &error) || !keep_alive || !bytes.is_empty();
            if close {
                return refused(&thread, &stream, &error, record).await;
            }
            if let Sent::No = Box::pin(send(&thread, &stream, &error, record, false)).await {
                return None;
            }
            found = Box::pin(read_head(&thread, &stream, &mut bytes, false)).await;
        }
    }
}

/// As [`refuse`], with the room for it taken only then.
async fn refused(thread: &Thread, stream: &TcpStream, error: &ProxyError, record: Record) -> Option<Stage> {
    Box::pin(refuse(thread, stream, error, record)).await;
    None
}

/// Whether the connection ends with this answer. All errors end it but the challenge, and that too when
/// it has been failed before.
pub(super) fn closes(connection: &Connection, error: &ProxyError) -> bool {
    if error.code == Code::AuthFailed {
        connection.refused.set(connection.refused.get() + 1);
    }
    !error.keeps_connection() || connection.refused.get() >= MAX_REFUSED
}

/// A CONNECT, detached from its bytes.
struct Request {
    credentials: Credentials,
    target: Result<Target, TargetError>,
    has_body: bool,
    host_is_valid: bool,
}

async fn open(
    thread: &Rc<Thread>,
    stream: &TcpStream,
    connection: &Connection,
    request: &mut Request,
    record: &mut Record,
) -> Result<Opened, ProxyError> {
    let credentials = std::mem::replace(&mut request.credentials, Credentials::None);
    let admitted = admit(thread, credentials, record).await?;
    connection.authenticated();
    if request.has_body {
        return Err(connect_with_body());
    }
    // Taken out: it is asked for once.
    let target = std::mem::replace(&mut request.target, Err(TargetError::Form));
    if target.is_ok() && !request.host_is_valid {
        return Err(host_is_invalid());
    }
    let local = || stream.local_addr().ok().map(|addr| addr.ip());
    let target = check_target(thread, &admitted, target, local, record)?;
    open_tunnel(thread, admitted, &target, record).await
}

/// RFC 9110, 9.3.6: a CONNECT has no content, and what looks like it would be taken for the tunnel's.
pub(super) fn connect_with_body() -> ProxyError {
    ProxyError::new(Code::NotAProxyRequest, "a CONNECT request has no body")
        .hint("leave Content-Length and Transfer-Encoding out")
}

/// RFC 9112, 3.2. Told after what is wrong with the target, which clients often repeat in it.
pub(super) fn host_is_invalid() -> ProxyError {
    HeadError::Malformed("Host names no host").into()
}

/// Opens the tunnel of a CONNECT by an admitted client, to where it may go.
pub(super) async fn open_tunnel(
    thread: &Rc<Thread>,
    admitted: Admitted,
    target: &Target,
    record: &mut Record,
) -> Result<Opened, ProxyError> {
    let mut hold = Hold::begin(admitted);
    let grant = hold.grant(thread, record).await?;
    hold.open(thread, grant, target, record).await
}

/// Reads until a head is complete, and returns where it lies. The first head has its time from the
/// connection's begin; a later one from its first byte, before which the connection may be idle for a
/// while.
async fn read_head(
    thread: &Thread,
    stream: &TcpStream,
    bytes: &mut Vec<u8>,
    first: bool,
) -> Result<(usize, usize), NoHead> {
    let timings = &thread.shared.timings;
    let mut scanner = Scanner::default();
    let mut deadline = None;
    let mut begun = first;
    loop {
        match scanner.scan(bytes) {
            Scan::Complete { start, end } => return Ok((start, end)),
            Scan::Partial => {}
            Scan::TooLarge => return Err(NoHead::Error(HeadError::TooManyFields.into())),
            Scan::Bad(why) => return Err(NoHead::Error(HeadError::Malformed(why).into())),
        }
        // Where the head is there already, which is mostly so, no clock is looked at.
        let due = *deadline
            .get_or_insert_with(|| Instant::now() + if first { timings.head } else { timings.keep_alive });
        let some = async {
            if bytes.capacity() == 0 {
                stream.readable().await?;
                *bytes = thread.buffers.take_head();
            }
            read_some(stream, bytes).await
        };
        let read = async {
            if begun {
                return timeout_at(due, some).await;
            }
            tokio::select! {
                biased;
                read = timeout_at(due, some) => read,
                () = thread.closing.waiter() => Ok(Ok(0)),
            }
        };
        match read.await {
            Ok(Ok(0) | Err(_)) => return Err(NoHead::Closed),
            Ok(Ok(_)) => {}
            Err(_) if begun => {
                return Err(NoHead::Error(head_timeout(timings.head)));
            }
            Err(_) => return Err(NoHead::Closed),
        }
        if !begun {
            begun = true;
            deadline = Some(Instant::now() + timings.head);
        }
        // One byte more shows that it is too large.
        if bytes.len() > MAX_HEAD + MAX_EARLY {
            return Err(NoHead::Error(HeadError::TooManyFields.into()));
        }
    }
}

/// Runs `future`, for as long as the client is there; `None` once it has hung up, which an end of its
/// stream means too. Reads on meanwhile: what comes is appended to `early`, until that is full.
///
/// The future is pinned elsewhere, since whoever takes one by value holds its room twice.
pub(super) async fn while_there<T>(
    stream: &TcpStream,
    early: &mut Vec<u8>,
    mut future: Pin<&mut impl Future<Output = T>>,
) -> Option<T> {
    poll_fn(|cx| {
        if let Poll::Ready(value) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(value));
        }
        match poll_early(cx, stream, early) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Ready once the client has hung up.
fn poll_early(cx: &mut Context<'_>, stream: &TcpStream, early: &mut Vec<u8>) -> Poll<()> {
    loop {
        if early.len() >= MAX_EARLY {
            return Poll::Pending;
        }
        match ready!(poll_read_some(cx, stream, early)) {
            Ok(0) | Err(_) => return Poll::Ready(()),
            Ok(_) => {}
        }
    }
}

/// Answers with an error and closes.
pub(super) async fn refuse(thread: &Thread, stream: &TcpStream, error: &ProxyError, record: Record) {
    if let Sent::Yes = send(thread, stream, error, record, true).await {
        thread.linger(stream, thread.shared.timings.linger, LINGER_BYTES).await;
    }
}

/// Whether an answer reached the socket.
pub(super) enum Sent {
    Yes,
    No,
}

pub(super) async fn send(
    thread: &Thread,
    stream: &TcpStream,
    error: &ProxyError,
    record: Record,
    close: bool,
) -> Sent {
    let mut bytes = response::error_bytes(error, record.id, close);
    if record.method == Some(http::Method::HEAD) {
        // RFC 9110, 9.3.2: no content, whose length is told all the same.
        let end = bytes.windows(4).position(|end| end == b"\r\n\r\n");
        bytes.truncate(end.map_or(bytes.len(), |end| end + 4));
    }
    let sent = timeout(thread.shared.timings.head, write_all(stream, &bytes)).await;
    if !matches!(sent, Ok(Ok(()))) {
        record.finish(Outcome::ClientGone);
        return Sent::No;
    }
    record.fail(error);
    if close {
        shut(stream);
    }
    Sent::Yes
}
