//! The admin port's HTTP server: a listener, a bound on connections, time limits on what clients send and
//! on how long they take nothing of what they are sent, and an end in good order.

use std::io;
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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::delivery::{Delivering, Outbox};
use super::stall::{Stalls, Taken};

/// Connections at once: far above what probes, a scraper and a few API clients hold. Further ones wait for
/// a place: an idle one goes after 10 s, by the time limit on heads, and one whose client takes nothing of
/// its answer after a second, for the sake of the probes.
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

/// How often a connection without a place looks for one to take over.
const LOOK: Duration = Duration::from_millis(100);

/// Serves `router` until `stop`, then lets running requests finish for a second.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    serve_at_once(CONNECTIONS, listener, router, stop).await;
}

async fn serve_at_once(most: usize, listener: TcpListener, router: Router, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(most));
    let stalls = Stalls::default();
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    loop {
        let next = async {
            let (stream, _) = listener.accept().await?;
            Ok::<_, io::Error>((stream, place(&places, &stalls).await))
        };
        let next = tokio::select! {
            next = next => next,
            () = stop.cancelled() => break,
        };
        match next {
            Ok((stream, place)) => {
                // Small answers go at once; a failure costs milliseconds, not the answer.
                stream.set_nodelay(true).ok();
                let cut = cut.child_token();
                let stream = Taken::new(stream, stalls.clone(), cut.clone());
                let connection = connection(stream, router.clone(), stop.clone());
                connections.spawn(async move {
                    if cut.run_until_cancelled(connection).await.is_none() {
                        tracing::debug!("admin connection cut");
                    }
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
        // Here, so that what depends on their answers is undone before the process ends.
        cut.cancel();
        connections.wait().await;
    }
}

/// A place for a connection: a free one, else that of the client that has taken nothing of its answer for
/// longest, else the next one that is free.
async fn place(places: &Arc<Semaphore>, stalls: &Stalls) -> Option<OwnedSemaphorePermit> {
    let mut free = std::pin::pin!(Arc::clone(places).acquire_owned());
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            biased;
            // The semaphore is never closed, so a place always comes.
            place = &mut free => return place.ok(),
            _ = look.tick() => if stalls.cut_longest() {
                return free.await.ok();
            },
        }
    }
}

/// One connection, until it ends or `stop`, after which it answers what it has begun.
async fn connection(stream: Taken<TcpStream>, router: Router, stop: CancellationToken) {
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::body::{Body, Bytes};
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::stall::STALLED;
    use super::*;
    use crate::clock::hold;

    /// More than the system's buffers between two sockets hold.
    const BIG: usize = 64 << 20;

    /// Connections at once.
    const PLACES: usize = 8;

    /// A server with a large answer, one that comes in two parts far apart, and a probe.
    async fn server() -> SocketAddr {
        let big = Bytes::from(vec![b'x'; BIG]);
        let slow = || async {
            let parts = futures::stream::unfold(0, |part| async move {
                if part == 1 {
                    tokio::time::sleep(STALLED * 4).await;
                }
                (part < 2).then(|| (Ok::<_, std::io::Error>(format!("part {part};")), part + 1))
            });
            Body::from_stream(parts)
        };
        let router = Router::new()
            .route("/big", get(move || async { big }))
            .route("/slow", get(slow))
            .route("/health", get(|| async { "fine" }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(serve_at_once(PLACES, listener, router, CancellationToken::new()));
        addr
    }

    /// A client that has asked and has yet to read.
    async fn ask(addr: SocketAddr, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// All that comes, however it ends.
    async fn read(mut stream: TcpStream) -> Vec<u8> {
        let mut answer = Vec::new();
        // A connection that is cut may be reset.
        stream.read_to_end(&mut answer).await.ok();
        answer
    }

    #[tokio::test]
    async fn a_probe_is_answered_though_every_place_is_taken_by_one_that_reads_nothing() {
        let addr = server().await;
        let mut idle = Vec::new();
        for _ in 0..PLACES {
            idle.push(ask(addr, "/big").await);
        }
        for _ in 0..3 {
            let answer = tokio::time::timeout(Duration::from_secs(10), async {
                read(ask(addr, "/health").await).await
            });
            let answer = String::from_utf8(answer.await.expect("an answer")).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("fine"), "{answer}");
        }
        // Only as many were cut as places were wanted, and those first that had waited longest.
        let last = idle.pop().unwrap();
        assert!(read(last).await.len() > BIG);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_of_its_answer_is_cut() {
        let held = hold();
        let mut stream = ask(server().await, "/big").await;
        assert_eq!(stream.read_u8().await.unwrap(), b'H');
        drop(held);
        // Each bit that the system's buffers still take is something taken.
        tokio::time::sleep(STALLED * 100).await;
        assert!(read(stream).await.len() < BIG);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_with_nothing_to_write_yet_goes_on() {
        let held = hold();
        let mut stream = ask(server().await, "/slow").await;
        let mut first = Vec::new();
        while !first.ends_with(b"part 0;") {
            first.push(stream.read_u8().await.unwrap());
        }
        drop(held);
        let rest = String::from_utf8(read(stream).await).unwrap();
        assert!(rest.contains("part 1;"), "{rest}");
    }
}
