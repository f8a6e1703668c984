//! The request loop: accepts connections, reads requests, lets the faults have their say, has the work
//! done by the read and write paths, and answers.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::{Answer, Body, refuse};
use super::decode::{self, Decoded};
use super::delete::{self, DeleteOptions, Deleted};
use super::faults::{Effect, Faults, RequestInfo, Verb};
use super::json::text;
use super::listener::{Era, Gate};
use super::mount::Mounts;
use super::patch::Format;
use super::read::{self, ListOptions};
use super::requests::RequestLog;
use super::resources::Subresource;
use super::router::{self, Query, Route, Target};
use super::shape::Shape;
use super::status::{self, Failure};
use super::store::Store;
use super::watch::Watch;
use super::write::{self, Place, WriteOptions, Written};
use super::{control, discovery, logs, openapi};

/// Largest body of a request, as of the real one.
const BODY_LIMIT: usize = 3 << 20;
/// Size of a body up to which it is read to its end, though it is refused.
const DISCARD_LIMIT: usize = 64 << 20;
/// Pause after an accept that failed, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Everything that a request may need.
pub(super) struct Server {
    pub(super) store: Arc<Store>,
    pub(super) faults: Faults,
    pub(super) requests: RequestLog,
    pub(super) gate: Arc<Gate>,
    pub(super) mounts: Mounts,
}

/// Accepts connections until the gate is closed for good.
pub(super) async fn run(
    server: Arc<Server>,
    mut eras: mpsc::UnboundedReceiver<Era>,
    connections: TaskTracker,
) {
    while let Some(Era { listener, end }) = eras.recv().await {
        match TcpListener::from_std(listener) {
            Ok(listener) => accept(&server, &listener, &end, &connections).await,
            Err(error) => tracing::error!(%error, "the API server cannot accept connections"),
        }
    }
}

async fn accept(
    server: &Arc<Server>,
    listener: &TcpListener,
    end: &CancellationToken,
    connections: &TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            () = end.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(connection(server.clone(), stream, end.clone()));
            }
            Err(error) => {
                // An outage ends the listener under this loop's feet.
                if !end.is_cancelled() {
                    tracing::warn!(%error, "the API server could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn connection(server: Arc<Server>, stream: TcpStream, end: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection of the API server stays without TCP_NODELAY");
    }
    let service = service_fn(move |request| {
        let server = server.clone();
        async move { server.handle(request).await }
    });
    // Idle connections stay: one that the server closes just as the client uses it again is an error
    // that only a fault should make.
    let serve = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        () = end.cancelled() => {}
        served = serve => {
            if let Err(error) = served {
                tracing::debug!(%error, "a connection of the API server ended early");
            }
        }
    }
}

/// A resource request with what all of its handlers need.
struct Call<'a> {
    verb: Verb,
    target: &'a Target,
    query: &'a Query,
    headers: &'a HeaderMap,
    user_agent: &'a Arc<str>,
    body: &'a Bytes,
}

fn cut() -> io::Error {
    io::Error::other("the connection is cut")
}

fn header<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether a body is JSON; one that does not say is taken for it.
fn is_json(headers: &HeaderMap) -> bool {
    let content_type = header(headers, &CONTENT_TYPE).unwrap_or("application/json");
    content_type.split(';').next().map(str::trim) == Some("application/json")
}

impl Server {
    /// Answers one request. An error closes the connection without an answer.
    async fn handle(&self, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let (head, body) = request.into_parts();
        let user_agent: Arc<str> = header(&head.headers, &USER_AGENT).unwrap_or_default().into();
        let query = Query::parse(head.uri.query().unwrap_or_default());
        let route = router::route(&head.method, head.uri.path(), &query);
        let controls = matches!(route, Ok(Route::Simulator(_)));
        if self.faults.is_down() || !controls && self.faults.is_down_for(&user_agent) {
            return Err(cut());
        }
        let done = match route {
            Err(failure) => Err(failure),
            Ok(Route::Resource(verb, target)) => {
                let body = match read_body(body).await {
                    Ok(body) => body,
                    Err(failure) => return Ok(refuse(&failure)),
                };
                let call = Call {
                    verb,
                    target: &target,
                    query: &query,
                    headers: &head.headers,
                    user_agent: &user_agent,
                    body: &body,
                };
                return self.resource(&call).await;
            }
            Ok(Route::AccessReview) => match read_body(body).await {
                Ok(_) if !is_json(&head.headers) => Err(Failure::unsupported_body()),
                Ok(body) => control::review(self, &user_agent, &body),
                Err(failure) => Err(failure),
            },
            Ok(Route::SubjectReview) => match read_body(body).await {
                Ok(_) if !is_json(&head.headers) => Err(Failure::unsupported_body()),
                Ok(body) => control::subject(self, &user_agent, &head.headers, &body),
                Err(failure) => Err(failure),
            },
            Ok(Route::Simulator(path)) => match read_body(body).await {
                Ok(body) => control::answer(self, &head.method, &path, &body),
                Err(failure) => Err(failure),
            },
            Ok(other) => self.fixed(&head.method, &other),
        };
        Ok(done.map_or_else(|failure| refuse(&failure), Answer::into_response))
    }

    /// What does not depend on any object.
    fn fixed(&self, method: &Method, route: &Route) -> Result<Answer, Failure> {
        const NOTHING: &str = "404 page not found\n";
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(Failure::method_not_allowed());
        }
        let found = match route {
            Route::Health => return Ok(Answer::text(StatusCode::OK, "ok")),
            Route::Version => Some(discovery::version()),
            Route::CoreVersions => Some(discovery::core_versions(self.gate.address())),
            Route::Groups => Some(discovery::groups()),
            Route::Group(group) => discovery::group(group),
            Route::OpenApi => Some(openapi::index()),
            Route::OpenApiOf(path) => openapi::document(path),
            Route::Resources(group, version) => {
                let list = discovery::resources(group, version);
                return list
                    .map(|list| Answer::value(StatusCode::OK, &list))
                    .ok_or_else(Failure::no_such_resource);
            }
            Route::Resource(..)
            | Route::AccessReview
            | Route::SubjectReview
            | Route::Simulator(_)
            | Route::Nothing => None,
        };
        Ok(match found {
            Some(value) => Answer::value(StatusCode::OK, &value),
            None => Answer::text(StatusCode::NOT_FOUND, NOTHING),
        })
    }

    /// A request for a resource: what the faults make of it, and its entry in the request log.
    async fn resource(&self, call: &Call<'_>) -> io::Result<Response<Body>> {
        // A new object's name is in its body, and rules may be about names.
        let decoded = call.decode();
        let created = || {
            let object = decoded.as_ref()?.as_ref().ok()?;
            let name = text(&object.object, &["metadata", "name"]);
            (!name.is_empty()).then(|| name.to_owned())
        };
        let request = RequestInfo {
            verb: call.verb,
            resource: call.target.resource(),
            namespace: call.target.namespace.clone(),
            name: call.target.name.clone().or_else(created),
            user_agent: call.user_agent.to_string(),
        };
        let decision = self.faults.decide(&request);
        if !decision.delay.is_zero() {
            tokio::time::sleep(decision.delay).await;
            if self.faults.is_down_for(call.user_agent) {
                return Err(cut());
            }
        }
        let done = match &decision.effect {
            Some(Effect::Fail(_) | Effect::Cut | Effect::Hang) => None,
            Some(Effect::ApplyThenFail(_) | Effect::ApplyThenCut | Effect::ApplyThenHang)
            | Some(Effect::Delay { .. })
            | None => Some(self.work(call, decoded).await),
        };
        let done = match decision.effect {
            Some(Effect::Fail(refusal) | Effect::ApplyThenFail(refusal)) => Err(refusal.failure()),
            Some(Effect::Cut | Effect::ApplyThenCut) => {
                self.requests.record(request, 0);
                return Err(cut());
            }
            Some(Effect::Hang | Effect::ApplyThenHang) => {
                self.requests.record(request, 0);
                // Dropped when the client goes or the connection is cut.
                return pending().await;
            }
            Some(Effect::Delay { .. }) | None => match done {
                Some(done) => done,
                None => return Err(cut()),
            },
        };
        let response = done.map_or_else(|failure| refuse(&failure), Answer::into_response);
        self.requests.record(request, response.status().as_u16());
        Ok(response)
    }

    /// Does what a request asks for.
    async fn work(
        &self,
        call: &Call<'_>,
        decoded: Option<Result<Decoded, Failure>>,
    ) -> Result<Answer, Failure> {
        let shape = Shape::negotiate(header(call.headers, &ACCEPT), call.query.get("includeObject"));
        let target = call.target;
        let (kind, query) = (target.kind, call.query);
        let namespace = target.namespace.as_deref().unwrap_or_default();
        let name = target.name.as_deref().unwrap_or_default();
        let place = Place { kind, namespace, name };
        let expired = || self.faults.expired(kind.plural(), call.user_agent);
        let ok = |json| Ok(Answer::json(StatusCode::OK, call.readable(json)));
        match call.verb {
            Verb::Get if target.subresource == Some(Subresource::Log) => {
                self.log(namespace, name, query).await
            }
            Verb::Get => {
                ok(read::get(&self.store, kind, namespace, name, query.get("resourceVersion"), shape?)?)
            }
            Verb::List => {
                let options = ListOptions::parse(kind, query, false)?;
                let within = target.namespace.as_deref();
                ok(read::list(&self.store, kind, within, &options, expired(), shape?)?)
            }
            Verb::Watch => {
                let options = ListOptions::parse(kind, query, true)?;
                let control = self.faults.watch(kind.plural(), call.user_agent.clone());
                let within = target.namespace.clone();
                let watch = Watch::open(&self.store, kind, within, options, shape?, control, expired());
                Ok(Answer::stream("application/json", watch_body(watch)))
            }
            Verb::Create if target.subresource == Some(Subresource::Binding) => {
                if !is_json(call.headers) {
                    return Err(Failure::unsupported_body());
                }
                let options = WriteOptions::parse(query, "CreateOptions")?;
                write::bind(&self.store, namespace, name, call.body, options)?;
                let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                                  "code": 201});
                Ok(Answer::value(StatusCode::CREATED, &done))
            }
            Verb::Create => {
                let options = WriteOptions::parse(query, "CreateOptions")?;
                let decoded = decoded.unwrap_or_else(|| Err(Failure::unsupported_body()))?;
                call.written(shape?, write::create(&self.store, kind, namespace, decoded, options)?)
            }
            Verb::Update => {
                let options = WriteOptions::parse(query, "UpdateOptions")?;
                let decoded = decoded.unwrap_or_else(|| Err(Failure::unsupported_body()))?;
                let written = write::update(&self.store, place, target.subresource, decoded, options)?;
                call.written(shape?, written)
            }
            Verb::Patch => {
                let format = Format::of(header(call.headers, &CONTENT_TYPE).unwrap_or_default())?;
                let options = WriteOptions::parse(query, "PatchOptions")?;
                let part = target.subresource;
                let written = write::patch(&self.store, place, part, format, call.body, options)?;
                call.written(shape?, written)
            }
            Verb::Delete => {
                let options = DeleteOptions::parse(query, call.body)?;
                match delete::delete(&self.store, place, &options)? {
                    Deleted::Object(object) => ok(shape?.object(kind, &object)),
                    Deleted::Gone(object) => {
                        let uid = text(&object.value, &["metadata", "uid"]);
                        Ok(Answer::value(StatusCode::OK, &status::deleted(kind, name, uid)))
                    }
                }
            }
            Verb::DeleteCollection => {
                let selector = ListOptions::parse(kind, query, false)?.selector;
                let options = DeleteOptions::parse(query, call.body)?;
                let deleted = delete::collection(&self.store, kind, namespace, &selector, &options)?;
                let meta = json!({"resourceVersion": self.store.version().to_string()});
                ok(shape?.list(kind, &deleted, &meta))
            }
        }
    }

    async fn log(&self, namespace: &str, name: &str, query: &Query) -> Result<Answer, Failure> {
        match logs::locate(&self.store, namespace, name, query)? {
            None => Ok(Answer::json(StatusCode::NO_CONTENT, Bytes::new())),
            Some(location) => {
                let body = logs::fetch(&location).await?.map_err(io::Error::other).boxed_unsync();
                Ok(Answer::stream("text/plain", body))
            }
        }
    }
}

impl Call<'_> {
    /// The object in the body of a create or update; nothing for other requests.
    fn decode(&self) -> Option<Result<Decoded, Failure>> {
        if self.target.subresource == Some(Subresource::Binding) {
            return None;
        }
        let options = match self.verb {
            Verb::Create => "CreateOptions",
            Verb::Update => "UpdateOptions",
            Verb::Get | Verb::List | Verb::Watch | Verb::Patch | Verb::Delete | Verb::DeleteCollection => {
                return None;
            }
        };
        if !is_json(self.headers) {
            return Some(Err(Failure::unsupported_body()));
        }
        let validation = match WriteOptions::parse(self.query, options) {
            Ok(options) => options.validation,
            Err(failure) => return Some(Err(failure)),
        };
        Some(decode::body(self.target.kind, self.body, validation))
    }

    fn readable(&self, json: Bytes) -> Bytes {
        if self.query.flag("pretty") { read::pretty(json) } else { json }
    }

    fn written(&self, shape: Shape, written: Written) -> Result<Answer, Failure> {
        let status = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        let json = shape.object(self.target.kind, &written.object);
        Ok(Answer::json(status, self.readable(json)).warn(written.warnings))
    }
}

/// Reads a request's body. One that is too large is read on for a while and thrown away: a client that
/// is still writing would not see the answer on a connection that is closed under it.
async fn read_body(mut body: Incoming) -> Result<Bytes, Failure> {
    let mut kept = BytesMut::new();
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Failure::bad_request(format!("the body cannot be read: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        size += data.len();
        if size <= BODY_LIMIT {
            kept.extend_from_slice(&data);
        } else if size > DISCARD_LIMIT {
            break;
        }
    }
    if size > BODY_LIMIT { Err(Failure::too_large(BODY_LIMIT)) } else { Ok(kept.freeze()) }
}

fn watch_body(watch: Watch) -> Body {
    let frames = stream::unfold(watch, |mut watch| async move {
        let frame = watch.next().await?;
        Some((frame.map(Frame::data), watch))
    });
    StreamBody::new(frames).boxed_unsync()
}
