//! Connections on which plain HTTP is spoken: hyper's server reads the requests, one service answers
//! them. Absolute-form requests go to `forward`; a CONNECT among them becomes a tunnel as any other.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{CONNECTION, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::client_io::{ClientIo, Doing, Pace};
use super::connect::{Credentials, Opened, admit, check_target};
use super::connection::{closes, connect_with_body, open_tunnel};
use super::direct;
use super::error::{Code, ProxyError};
use super::forward::{self, Body};
use super::gate::Refusal;
use super::head::{Authorization, MAX_FIELDS, MAX_HEAD};
use super::headers;
use super::record::{Kind, Outcome, Record};
use super::response::{self, Established};
use super::target::{Target, TargetError};
use super::thread::{Connection, Thread};
use super::tunnel::{Greeting, Tunnel};

/// What the requests of one connection share.
pub(super) struct Client {
    /// Who it is.
    pub(super) addr: SocketAddr,
    /// Where it reached us.
    pub(super) local: Option<IpAddr>,
    /// Held by everything that comes of the connection.
    pub(super) connection: Rc<Connection>,
    pace: Arc<Pace>,
}

/// One request's turn on its connection: ends when the answer's body is dropped.
pub(super) struct Turn {
    pace: Arc<Pace>,
    /// Whether its client knows no chunks (HTTP/1.0).
    old: bool,
    last: bool,
}

impl Turn {
    fn begin(pace: &Arc<Pace>, version: Version) -> Self {
        pace.set(Doing::Busy);
        Self { pace: Arc::clone(pace), old: version == Version::HTTP_10, last: false }
    }

    /// Its answer breaks off, and had no length: a client that knows no chunks would take that for the end.
    pub(super) fn cut(&self) {
        if self.old {
            self.pace.cut();
        }
    }

    /// After the answer the connection is something else: what follows is no request.
    #[must_use]
    pub(super) fn last(mut self) -> Self {
        self.last = true;
        self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.last {
            self.pace.answered();
        }
    }
}

/// Serves a connection whose first bytes, `read`, are a request.
pub(super) async fn serve(
    thread: Rc<Thread>,
    stream: TcpStream,
    read: Vec<u8>,
    addr: SocketAddr,
    connection: Rc<Connection>,
) {
    let timings = thread.shared.timings.clone();
    let pace = Arc::new(Pace::new());
    let local = stream.local_addr().ok().map(|addr| addr.ip());
    let client = Rc::new(Client { addr, local, connection, pace: Arc::clone(&pace) });
    let stream = Arc::new(stream);
    let left = Arc::downgrade(&stream);
    let io = ClientIo::new(stream, read, Arc::clone(&pace), timings.head, timings.linger);
    let service = service_fn({
        let (thread, client) = (Rc::clone(&thread), client);
        move |request| handle(Rc::clone(&thread), Rc::clone(&client), request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_headers(MAX_FIELDS)
        .max_buf_size(MAX_HEAD)
        .preserve_header_case(true)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let mut clock = pin!(tokio::time::sleep(timings.head));
    let mut closing = thread.closing.waiter();
    let mut told = false;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if ended.is_err() && let Some(stream) = left.upgrade() {
                    break_off(&thread, &stream, &pace).await;
                }
                return;
            }
            () = &mut closing, if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            () = clock.as_mut() => {
                let now = Instant::now();
                let due = match pace.get() {
                    (Doing::Idle, since) => since + timings.keep_alive,
                    (Doing::Head, since) => since + timings.head,
                    (Doing::Busy, _) => now + timings.head,
                };
                if due <= now && pace.get().0 == Doing::Head {
                    // Told so by the reader, when the connection is polled next; not a second time.
                    if !pace.expire() {
                        return;
                    }
                } else if due <= now && !told {
                    told = true;
                    connection.as_mut().graceful_shutdown();
                }
                // Often enough to see a head that begins in between.
                clock.as_mut().reset(if due <= now { now + timings.head } else { due.min(now + timings.head) });
            }
        }
    }
}

/// Closes where the client broke off, or an answer did: of those before it nothing is lost.
async fn break_off(thread: &Thread, stream: &TcpStream, pace: &Pace) {
    if pace.is_cut() {
        // Fails only on a connection that is gone.
        let _ = stream.set_zero_linger();
    } else {
        direct::linger(thread, stream).await;
    }
}

async fn handle(
    thread: Rc<Thread>,
    client: Rc<Client>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let turn = Turn::begin(&client.pace, request.version());
    let refusal = client.pace.take_refusal();
    let connect = request.method() == Method::CONNECT;
    let kind = match &refusal {
        Some(Refusal::Unreadable(_)) => Kind::None,
        Some(Refusal::Target(_)) | None if connect => Kind::Connect,
        Some(Refusal::Target(_)) | None => Kind::Http,
    };
    let mut record = Record::new(&thread.counters, kind, client.addr);
    record.method = Some(request.method().clone());
    let last = headers::ends_connection(request.headers());
    let done = if let Some(refusal) = refusal {
        Err(refused(&thread, &client, &request, refusal, &mut record).await)
    } else if connect {
        match open(&thread, &client, &request, &mut record).await {
            Ok(opened) => return Ok(upgrade(thread, client, request, opened, record, turn)),
            Err(error) => Err(error),
        }
    } else {
        forward::forward(&thread, &client, request, &mut record).await
    };
    let mut response = match done {
        Ok(reply) => reply.respond(thread, &client, record, turn),
        Err(error) => refuse(&client, &error, connect, record, turn),
    };
    if last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// The error of a request that the reader of the connection has refused.
async fn refused(
    thread: &Thread,
    client: &Client,
    request: &Request<Incoming>,
    refusal: Refusal,
    record: &mut Record,
) -> ProxyError {
    match refusal {
        Refusal::Unreadable(error) => error,
        Refusal::Target(error) => match admit(thread, credentials(thread, request.headers()), record).await {
            Ok(_) => {
                client.connection.authenticated();
                error
            }
            Err(unknown) => unknown,
        },
    }
}

fn refuse(client: &Client, error: &ProxyError, connect: bool, record: Record, turn: Turn) -> Response<Body> {
    // What has come behind a CONNECT that is refused may be a tunnel's first data: only the client knows.
    let close = closes(&client.connection, error) || (connect && client.pace.has_early());
    let response = response::error_response(error, record.id, close);
    record.fail(error);
    response.map(|bytes| Body::own(bytes, turn))
}

/// The credentials of a request that hyper has read.
pub(super) fn credentials(thread: &Thread, headers: &HeaderMap) -> Credentials {
    let mut values = headers.get_all(PROXY_AUTHORIZATION).iter();
    let authorization = match (values.next(), values.next()) {
        (None, _) => Authorization::None,
        (Some(value), None) => Authorization::One(value.as_bytes()),
        (Some(_), Some(_)) => Authorization::Many,
    };
    Credentials::of(thread, authorization)
}

/// Opens the tunnel of a CONNECT that follows other requests. If the client hangs up meanwhile, hyper
/// drops this.
async fn open(
    thread: &Rc<Thread>,
    client: &Client,
    request: &Request<Incoming>,
    record: &mut Record,
) -> Result<Opened, ProxyError> {
    let admitted = admit(thread, credentials(thread, request.headers()), record).await?;
    client.connection.authenticated();
    if !request.body().is_end_stream() {
        return Err(connect_with_body());
    }
    // HTTP/1.0 with an Upgrade header: hyper would answer 200 and close.
    if request.extensions().get::<OnUpgrade>().is_none() {
        return Err(ProxyError::new(Code::NotAProxyRequest, "this CONNECT cannot become a tunnel")
            .hint("leave the Upgrade header out"));
    }
    let uri = request.uri();
    let target = match (uri.scheme(), uri.authority(), uri.path_and_query()) {
        (None, Some(authority), None) => Target::authority(authority.as_str()),
        _ => Err(TargetError::Form),
    };
    let target = check_target(thread, &admitted, target, || client.local, record)?;
    open_tunnel(thread, admitted, &target, record).await
}

/// Answers 200, and relays once hyper has written that.
fn upgrade(
    thread: Rc<Thread>,
    client: Rc<Client>,
    mut request: Request<Incoming>,
    opened: Opened,
    record: Record,
    turn: Turn,
) -> Response<Body> {
    let established = Established {
        id: record.id,
        server: &opened.grant.exit.server,
        country: &opened.grant.exit.country,
        cold_start: opened.grant.cold_start,
        waited: opened.grant.waited,
        idle: opened.grant.idle,
        expires: opened.grant.expires,
    };
    let response = established.response().map(|bytes| Body::own(bytes, turn.last()));
    let upgrading = hyper::upgrade::on(&mut request);
    tokio::task::spawn_local(async move {
        match client_side(upgrading).await {
            Some((stream, early)) => {
                let tunnel = Tunnel { client: stream, early, opened, record, greeting: Greeting::Sent };
                tunnel.run(thread).await;
            }
            None => record.finish(Outcome::ClientGone),
        }
        drop(client);
    });
    response
}

/// A client's connection after hyper has given it up, with what was read of it and not used.
pub(super) async fn client_side(upgrading: OnUpgrade) -> Option<(TcpStream, Vec<u8>)> {
    let parts = upgrading.await.ok()?.downcast::<TokioIo<ClientIo>>().ok()?;
    let (stream, rest) = parts.io.into_inner().into_parts()?;
    let mut early = Vec::from(parts.read_buf);
    early.extend_from_slice(&rest);
    Some((stream, early))
}
