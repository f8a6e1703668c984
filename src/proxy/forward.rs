//! Plain HTTP: an absolute-form request is sent in origin-form over a tunnel to its origin. Gluetun's own
//! way for plain HTTP is not used: it cuts uploads after 3 s, drops `Upgrade` and adds
//! `X-Forwarded-For`.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::HOST;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::connect::{Hold, Opened, admit, check_target};
use super::error::{Code, ProxyError};
use super::headers;
use super::plain::{Client, Turn, client_side, credentials};
use super::pool::{Key, Pool, TunnelIo, Wire};
use super::record::{Outcome, Record};
use super::response::{ERROR, REQUEST_ID};
use super::socket;
use super::target::Target;
use super::thread::Thread;
use super::trail::Step;
use super::tunnel::{Greeting, Tunnel};
use super::upstream;
use crate::session::Grant;

/// The body of a request on its way out.
pub(super) enum RequestBody {
    /// None.
    Empty,
    /// The client's, as it comes, and how far it is.
    Client { incoming: Incoming, sent: Rc<Cell<Sent>> },
}

/// How far a request's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// On its way.
    Partly,
    /// All of it has been taken.
    Whole,
    /// The client broke it off, or its framing: whatever follows is not the destination's fault.
    Broken,
}

fn strip_trailers(polled: &mut Poll<Option<Result<Frame<Bytes>, hyper::Error>>>) {
    if let Poll::Ready(Some(Ok(frame))) = polled
        && let Some(trailers) = frame.trailers_mut()
    {
        headers::strip_trailers(trailers);
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Client { incoming, sent } => {
                let mut polled = Pin::new(&mut *incoming).poll_frame(cx);
                strip_trailers(&mut polled);
                if matches!(polled, Poll::Ready(Some(Err(_)))) {
                    sent.set(Sent::Broken);
                } else if matches!(polled, Poll::Ready(None)) || incoming.is_end_stream() {
                    sent.set(Sent::Whole);
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Client { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Client { incoming, .. } => incoming.size_hint(),
        }
    }
}

/// A request on a connection to its origin, and what becomes of the connection.
struct Lease {
    wire: Wire,
    key: Key,
    grant: Grant,
    /// Bytes that have been counted.
    counted: (u64, u64),
    /// Whether the request's body has gone out, so that the connection can take another one.
    sent: Rc<Cell<Sent>>,
}

impl Lease {
    fn count(&mut self, record: &mut Record) {
        let (up, down) = self.wire.bytes.get();
        record.add_bytes(up - self.counted.0, down - self.counted.1);
        self.counted = (up, down);
    }
}

/// The origin's answer.
pub(super) struct Reply {
    response: Response<Incoming>,
    lease: Lease,
    /// The protocol that both sides switch to, and the client's side of it.
    switch: Option<(HeaderValue, OnUpgrade)>,
}

/// Sends a request to its origin.
pub(super) async fn forward(
    thread: &Rc<Thread>,
    client: &Client,
    mut request: Request<Incoming>,
    record: &mut Record,
) -> Result<Reply, ProxyError> {
    let admitted = admit(thread, credentials(thread, request.headers()), record).await?;
    client.connection.authenticated();
    if request.uri().scheme().is_none() {
        return Err(ProxyError::new(
            Code::NotAProxyRequest,
            "this is a request for a web server, not for a proxy",
        ));
    }
    let target = check_target(thread, &admitted, Target::http(request.uri()), || client.local, record)?;

    let on_upgrade = hyper::upgrade::on(&mut request);
    let (mut parts, incoming) = request.into_parts();
    let (forwarding, received) = (thread.shared.forwarding, parts.version);
    let protocol = rewrite(&mut parts)?;
    headers::forwarded(&mut parts.headers, forwarding, received, Some(client.addr.ip()));
    let empty = incoming.is_end_stream();
    let mut hold = Hold::begin(admitted);
    let grant = hold.grant(thread, record).await?;

    // Only what may be sent twice goes over a connection that may have ended unseen.
    let again = empty && protocol.is_none() && is_idempotent(&parts.method);
    let key = Key::new(&grant.exit, &target);
    let reused = if again { thread.pool.take(&key) } else { None };
    let (grant, parts) = match reused {
        Some(wire) => {
            record.trail.step(Step::ConnectionReused);
            let request = Request::from_parts(parts.clone(), RequestBody::Empty);
            match send(wire, key, grant, request, Rc::new(Cell::new(Sent::Whole)), record).await {
                Ok((response, _)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    return Err(unasked());
                }
                Ok((response, lease)) => return Ok(Reply { response, lease, switch: None }),
                // Nothing of an answer came: the origin had closed, or closed on this very request.
                Err(Unanswered { grant, nothing: true, .. }) => (grant, parts),
                Err(unanswered) => return Err(unanswered.error(&target)),
            }
        }
        None => (grant, parts),
    };
    let Opened { grant, tunnel } = hold.open(thread, grant, &target, record).await?;
    socket::keep_alive(&tunnel.stream);
    let wire = Wire::open(thread, &grant.exit, tunnel).await.map_err(|_| no_answer(&target))?;
    let sent = Rc::new(Cell::new(if empty { Sent::Whole } else { Sent::Partly }));
    let body =
        if empty { RequestBody::Empty } else { RequestBody::Client { incoming, sent: Rc::clone(&sent) } };
    let key = Key::new(&grant.exit, &target);
    let request = Request::from_parts(parts, body);
    let (response, lease) = send(wire, key, grant, request, sent, record)
        .await
        .map_err(|unanswered| unanswered.error(&target))?;
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    match protocol {
        Some(protocol) if switched => Ok(Reply { response, lease, switch: Some((protocol, on_upgrade)) }),
        Some(_) | None if switched => Err(unasked()),
        Some(_) | None => Ok(Reply { response, lease, switch: None }),
    }
}

/// A request that got no answer.
struct Unanswered {
    grant: Grant,
    /// Not one byte of an answer has come.
    nothing: bool,
    /// The request's body was the client's mistake.
    broken: bool,
}

impl Unanswered {
    fn error(&self, target: &Target) -> ProxyError {
        if self.broken {
            return ProxyError::new(
                Code::NotAProxyRequest,
                "the request's body is malformed or was cut short",
            )
            .hint("send as many bytes as Content-Length says, or whole chunks");
        }
        if self.grant.exit.gone.is_cancelled() {
            return ProxyError::new(Code::ExitUnhealthy, "the exit went away before there was an answer");
        }
        no_answer(target)
    }
}

/// A 101 that no request asked for (RFC 9110, 15.2.2).
pub(super) fn unasked() -> ProxyError {
    ProxyError::new(Code::UpstreamError, "the destination switched protocols without being asked")
}

pub(super) fn no_answer(target: &Target) -> ProxyError {
    ProxyError::new(Code::UpstreamError, format!("{target} closed the connection without a complete answer"))
}

async fn send(
    mut wire: Wire,
    key: Key,
    grant: Grant,
    request: Request<RequestBody>,
    sent: Rc<Cell<Sent>>,
    record: &mut Record,
) -> Result<(Response<Incoming>, Lease), Unanswered> {
    let counted = wire.bytes.get();
    record.trail.step(Step::RequestSent);
    let answer = wire.sender.send_request(request).await;
    let nothing = wire.bytes.get().1 == counted.1;
    let mut lease = Lease { wire, key, grant, counted, sent };
    lease.count(record);
    match answer {
        Ok(response) => Ok((response, lease)),
        Err(error) => {
            record.trail.note(Step::Unanswered, &error);
            tracing::debug!(%error, "a request got no answer");
            Err(Unanswered { grant: lease.grant, nothing, broken: lease.sent.get() == Sent::Broken })
        }
    }
}

/// RFC 9110, 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE].contains(method)
}

/// Makes an absolute-form request one for its origin; returns the protocol that it asks to switch to.
fn rewrite(parts: &mut Parts) -> Result<Option<HeaderValue>, ProxyError> {
    // RFC 9110, 7.8: of HTTP/1.0 it is ignored.
    let protocol = headers::upgrade(&parts.headers).filter(|_| parts.version != Version::HTTP_10);
    headers::strip(&mut parts.headers);
    if let Some(protocol) = &protocol {
        headers::set_upgrade(&mut parts.headers, protocol.clone());
    }
    let malformed = || ProxyError::new(Code::BadTarget, "the request target is malformed");
    let authority = parts.uri.authority().ok_or_else(malformed)?;
    // RFC 9112, 3.2.2: the client's Host is ignored, the target says which it is.
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| malformed())?;
    parts.headers.insert(HOST, host);
    let path = parts.uri.path_and_query().cloned();
    parts.uri = path.unwrap_or_else(|| PathAndQuery::from_static("/")).into();
    parts.version = Version::HTTP_11;
    Ok(protocol)
}

impl Reply {
    /// The response for the client.
    pub(super) fn respond(
        self,
        thread: Rc<Thread>,
        client: &Rc<Client>,
        mut record: Record,
        turn: Turn,
    ) -> Response<Body> {
        let Self { mut response, lease, switch } = self;
        let received = response.version();
        headers::strip(response.headers_mut());
        headers::say_length_once(response.headers_mut());
        headers::forwarded(response.headers_mut(), thread.shared.forwarding, received, None);
        // Only ours may say that an error is ours.
        if let Ok(name) = HeaderName::from_bytes(ERROR.as_bytes()) {
            response.headers_mut().remove(name);
        }
        headers::strip_forged(response.headers_mut());
        if let (Ok(name), Ok(id)) =
            (HeaderName::from_bytes(REQUEST_ID.as_bytes()), HeaderValue::from_str(&record.id.to_string()))
        {
            response.headers_mut().insert(name, id);
        }
        *response.version_mut() = Version::HTTP_11;
        record.status = response.status().as_u16();
        record.on_drop = Outcome::ClientReset;
        match switch {
            None => response.map(|incoming| {
                Body::Relayed(Box::new(Relayed { incoming, thread, flow: Some((lease, record)), turn }))
            }),
            Some((protocol, on_upgrade)) => {
                headers::set_upgrade(response.headers_mut(), protocol);
                switch_protocols(thread, client, &mut response, on_upgrade, lease, record);
                response.map(|_| Body::own(Bytes::new(), turn.last()))
            }
        }
    }
}

/// After the 101 the two connections are a tunnel.
fn switch_protocols(
    thread: Rc<Thread>,
    client: &Rc<Client>,
    response: &mut Response<Incoming>,
    on_upgrade: OnUpgrade,
    mut lease: Lease,
    mut record: Record,
) {
    let origin = hyper::upgrade::on(response);
    let client = Rc::clone(client);
    tokio::task::spawn_local(async move {
        let (Some((stream, early)), Some(tunnel)) =
            (client_side(on_upgrade).await, origin_side(origin).await)
        else {
            record.finish(Outcome::ClientGone);
            return;
        };
        // With what the origin has sent behind its 101.
        lease.count(&mut record);
        let opened = Opened { grant: lease.grant, tunnel };
        let tunnel = Tunnel { client: stream, early, opened, record, greeting: Greeting::None };
        tunnel.run(thread).await;
        drop(client);
    });
}

async fn origin_side(origin: OnUpgrade) -> Option<upstream::Tunnel> {
    let parts = origin.await.ok()?.downcast::<TokioIo<TunnelIo>>().ok()?;
    let (stream, rest) = parts.io.into_inner().into_parts();
    let mut glued = Vec::from(parts.read_buf);
    glued.extend_from_slice(&rest);
    Some(upstream::Tunnel { stream, glued })
}

/// The body of an answer.
pub(super) enum Body {
    /// The gateway's own.
    Own { bytes: Bytes, _turn: Turn },
    /// The origin's, as it comes.
    Relayed(Box<Relayed>),
}

impl Body {
    /// A body of the gateway's own.
    pub(super) fn own(bytes: Bytes, turn: Turn) -> Self {
        Self::Own { bytes, _turn: turn }
    }
}

/// The origin's body, with what ends when it does.
pub(super) struct Relayed {
    incoming: Incoming,
    thread: Rc<Thread>,
    flow: Option<(Lease, Record)>,
    turn: Turn,
}

impl Relayed {
    fn finish(&mut self, outcome: Outcome) {
        let Some((mut lease, mut record)) = self.flow.take() else { return };
        lease.count(&mut record);
        record.finish(outcome);
        if outcome == Outcome::Ok && lease.sent.get() == Sent::Whole {
            Pool::put(&self.thread, lease.key, lease.wire);
        }
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        // hyper does not ask for the end of a body that it knows to have ended.
        if self.incoming.is_end_stream() {
            self.finish(Outcome::Ok);
        } else if let Some((lease, record)) = &mut self.flow {
            lease.count(record);
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let relayed = match self.get_mut() {
            Self::Own { bytes, .. } => {
                let bytes = std::mem::take(bytes);
                return Poll::Ready(if bytes.is_empty() { None } else { Some(Ok(Frame::data(bytes))) });
            }
            Self::Relayed(relayed) => relayed,
        };
        let mut polled = Pin::new(&mut relayed.incoming).poll_frame(cx);
        strip_trailers(&mut polled);
        match &polled {
            Poll::Ready(None) => relayed.finish(Outcome::Ok),
            Poll::Ready(Some(Ok(_))) => {
                if relayed.incoming.is_end_stream() {
                    relayed.finish(Outcome::Ok);
                } else if let Some((lease, record)) = &mut relayed.flow {
                    lease.count(record);
                }
            }
            Poll::Ready(Some(Err(_))) => {
                let gone =
                    relayed.flow.as_ref().is_some_and(|(lease, _)| lease.grant.exit.gone.is_cancelled());
                if relayed.incoming.size_hint().exact().is_none() {
                    relayed.turn.cut();
                }
                relayed.finish(if gone { Outcome::ExitGone } else { Outcome::UpstreamReset });
            }
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own { bytes, .. } => bytes.is_empty(),
            Self::Relayed(relayed) => relayed.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own { bytes, .. } => SizeHint::with_exact(bytes.len() as u64),
            Self::Relayed(relayed) => relayed.incoming.size_hint(),
        }
    }
}
