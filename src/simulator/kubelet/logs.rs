//! The kubelet's own port, of which the API server asks for containers' logs:
//! `GET /containerLogs/NAMESPACE/POD/CONTAINER?follow&tailLines&limitBytes`. It speaks plain HTTP (what
//! the embedded API server uses) and TLS (what a real one insists on) on the same port, told apart by a
//! connection's first byte.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::workers::{NoLog, ReadableLog, Workers};

/// How long a client may take to send a request's head, or a TLS handshake.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// First byte of a TLS connection: a handshake record (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

type Body = BoxBody<Bytes, Infallible>;

/// Why the port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogServerError {
    /// The address cannot be listened on.
    #[error("the kubelet cannot listen on {0}: {1}")]
    Bind(IpAddr, #[source] io::Error),
    /// No certificate could be made.
    #[error("the kubelet cannot make its TLS certificate: {0}")]
    Certificate(String),
}

/// A port that is open but not served yet.
pub(super) struct LogServer {
    listener: TcpListener,
    tls: TlsAcceptor,
    port: u16,
}

impl LogServer {
    /// Opens a free port.
    pub(super) async fn bind(address: IpAddr) -> Result<Self, LogServerError> {
        let bind = |error| LogServerError::Bind(address, error);
        let listener = TcpListener::bind(SocketAddr::new(address, 0)).await.map_err(bind)?;
        let port = listener.local_addr().map_err(bind)?.port();
        let tls = self_signed(address).map_err(LogServerError::Certificate)?;
        Ok(Self { listener, tls, port })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Serves until `stop`.
    pub(super) async fn serve(self, workers: Arc<Workers>, tasks: TaskTracker, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (workers, tls, stop) = (Arc::clone(&workers), self.tls.clone(), stop.clone());
                    tasks.spawn(async move {
                        tokio::select! {
                            () = connection(stream, tls, workers) => {}
                            () = stop.cancelled() => {}
                        }
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "the kubelet's port could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// Real API servers do not verify a kubelet's certificate unless told to.
fn self_signed(address: IpAddr) -> Result<TlsAcceptor, String> {
    let certified = rcgen::generate_simple_self_signed([address.to_string()]).map_err(|e| e.to_string())?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .map_err(|error| error.to_string())?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, workers: Arc<Workers>) {
    let mut first = [0];
    match tokio::time::timeout(HEAD_LIMIT, stream.peek(&mut first)).await {
        Ok(Ok(1)) if first[0] == TLS_HANDSHAKE => {
            if let Ok(Ok(stream)) = tokio::time::timeout(HEAD_LIMIT, tls.accept(stream)).await {
                http(stream, workers).await;
            }
        }
        Ok(Ok(_)) => http(stream, workers).await,
        Ok(Err(_)) | Err(_) => {}
    }
}

async fn http(stream: impl AsyncRead + AsyncWrite + Unpin, workers: Arc<Workers>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let workers = Arc::clone(&workers);
        async move { Ok::<_, Infallible>(answer(&request, &workers)) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to the kubelet's port broke");
    }
}

fn answer<B>(request: &Request<B>, workers: &Workers) -> Response<Body> {
    if request.uri().path() == "/healthz" {
        return text(StatusCode::OK, "ok");
    }
    let parts: Vec<_> = request.uri().path().split('/').skip(1).collect();
    let ["containerLogs", namespace, pod, container] = parts[..] else {
        return text(StatusCode::NOT_FOUND, "404 page not found");
    };
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed");
    }
    let options = match Options::parse(request.uri().query().unwrap_or_default()) {
        Ok(options) => options,
        Err(why) => return text(StatusCode::BAD_REQUEST, &why),
    };
    match workers.log(namespace, pod, container) {
        Ok(log) => {
            let mut response = Response::new(options.body(log));
            let plain = http::HeaderValue::from_static("text/plain");
            response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
            response
        }
        Err(error @ (NoLog::NoPod(_) | NoLog::NoContainer { .. })) => {
            text(StatusCode::NOT_FOUND, &error.to_string())
        }
        Err(error @ NoLog::NotStarted { .. }) => text(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

fn text(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Full::from(format!("{text}\n")).boxed());
    *response.status_mut() = status;
    response
}

/// What of a log is wanted. Times are not kept with the lines: `timestamps` and `since…` are ignored.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    follow: bool,
    tail: Option<usize>,
    limit: Option<usize>,
}

impl Options {
    fn parse(query: &str) -> Result<Self, String> {
        let mut options = Self::default();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let number = || {
                value.parse().map(Some).map_err(|_| format!("{name} must be a whole number, not {value:?}"))
            };
            match name {
                "follow" => options.follow = matches!(value, "" | "true" | "1"),
                "tailLines" => options.tail = number()?,
                "limitBytes" => options.limit = number()?,
                _ => {}
            }
        }
        Ok(options)
    }

    /// The log, now and, when followed, as long as the container runs.
    fn body(&self, log: ReadableLog) -> Body {
        let (mut lines, position) = log.log.since(0);
        if let Some(tail) = self.tail {
            lines.drain(..lines.len().saturating_sub(tail));
        }
        let mut limit = self.limit;
        let first = chunk(&lines, &mut limit);
        if !self.follow || limit == Some(0) {
            return Full::from(first).boxed();
        }
        let later = stream::unfold(Some((log, position, limit)), |state| async move {
            let (log, position, mut limit) = state?;
            let (lines, next, over) = more(&log, position).await;
            let bytes = chunk(&lines, &mut limit);
            let state = (!over && limit != Some(0)).then_some((log, next, limit));
            Some((bytes, state))
        });
        let frames = stream::once(async { first }).chain(later).map(|bytes| Ok(Frame::data(bytes)));
        BodyExt::boxed(StreamBody::new(frames))
    }
}

/// Waits for lines from `position` on. The last of the result: that there will be no more.
async fn more(log: &ReadableLog, position: u64) -> (Vec<String>, u64, bool) {
    let mut written = log.log.written();
    loop {
        let over = log.ended.is_cancelled();
        written.mark_unchanged();
        let (lines, next) = log.log.since(position);
        if over || !lines.is_empty() {
            return (lines, next, over);
        }
        tokio::select! {
            // The log holds the sender: this does not fail.
            _ = written.changed() => {}
            () = log.ended.cancelled() => {}
        }
    }
}

fn chunk(lines: &[String], limit: &mut Option<usize>) -> Bytes {
    let mut bytes: Vec<u8> =
        lines.iter().flat_map(|line| [line.as_bytes(), b"\n"]).flatten().copied().collect();
    if let Some(limit) = limit {
        bytes.truncate(*limit);
        *limit -= bytes.len();
    }
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lines: &[&str]) -> ReadableLog {
        let log = Log::default();
        lines.iter().for_each(|line| log.line(*line));
        ReadableLog { log, ended: CancellationToken::new() }
    }

    async fn whole(body: Body) -> String {
        String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap()
    }

    use crate::simulator::container::Log;

    #[test]
    fn reads_the_query() {
        let options = Options::parse("follow=true&tailLines=3&limitBytes=10&timestamps=false").unwrap();
        assert_eq!(options, Options { follow: true, tail: Some(3), limit: Some(10) });
        assert_eq!(Options::parse("").unwrap(), Options::default());
        let error = Options::parse("tailLines=x").unwrap_err();
        assert_eq!(error, "tailLines must be a whole number, not \"x\"");
    }

    #[tokio::test]
    async fn shows_the_whole_log_its_tail_or_so_many_bytes() {
        for (query, expected) in
            [("", "a\nb\nc\n"), ("tailLines=2", "b\nc\n"), ("tailLines=0", ""), ("limitBytes=3", "a\nb")]
        {
            let body = Options::parse(query).unwrap().body(log(&["a", "b", "c"]));
            assert_eq!(whole(body).await, expected, "{query}");
        }
    }

    #[tokio::test]
    async fn follows_a_log_until_its_container_ends() {
        let log = log(&["a"]);
        let (writer, ended) = (log.log.clone(), log.ended.clone());
        let body = Options { follow: true, ..Options::default() }.body(log);
        let reading = tokio::spawn(whole(body));
        writer.line("b");
        tokio::task::yield_now().await;
        writer.line("c");
        ended.cancel();
        assert_eq!(reading.await.unwrap(), "a\nb\nc\n");
    }

    #[tokio::test]
    async fn following_stops_at_the_limit() {
        let log = log(&["a"]);
        let writer = log.log.clone();
        let body = Options { follow: true, limit: Some(3), tail: None }.body(log);
        let reading = tokio::spawn(whole(body));
        writer.line("bcd");
        assert_eq!(reading.await.unwrap(), "a\nb");
    }
}
