//! The admin port's HTTP server: a listener, a bound on connections, time limits on what clients send,
//! and an end in good order.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::delivery::{Delivering, Outbox};

/// Connections at once: far above what probes, a scraper and a few API clients hold. Further ones wait in
/// the kernel's queue for a place, which the time limit on heads frees: an idle one goes after 10 s.
const CONNECTIONS: usize = 256;

/// How long a client may take to send a request's head, and hence be idle between requests.
const HEAD: Duration = Duration::from_secs(10);

/// How long the requests that run at the end have to finish.
const FINISH: Duration = Duration::from_secs(1);

/// Largest head of a request.
const MAX_HEAD: usize = 16 << 10;

/// Most headers of a request.
const MAX_HEADERS: usize = 64;

/// How long accepting pauses when it fails: for want of file descriptors it fails again at once.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` until `stop`, then lets running requests finish for a second.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let next = async {
            // The semaphore is never closed, so a place always comes.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(stream, router.clone(), stop.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin port cannot accept");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    connections.close();
    if tokio::time::timeout(FINISH, connections.wait()).await.is_err() {
        tracing::info!(left = connections.len(), "admin requests cut at the end");
    }
}

/// One connection, until it ends or `stop`, after which it answers what it has begun.
async fn connection(stream: TcpStream, router: Router, stop: CancellationToken) {
    // Small answers go at once; a failure costs milliseconds, not the answer.
    stream.set_nodelay(true).ok();
    let outbox = Outbox::default();
    let stream = Delivering::new(stream, outbox.clone());
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(outbox.clone());
        router.call(request)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        // A client that went away or was too slow: its own business.
        tracing::debug!(%error, "admin connection ended");
    }
}
