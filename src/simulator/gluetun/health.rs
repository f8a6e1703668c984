//! The health server (`internal/healthcheck` of Gluetun): 200, or 500 with the reason.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::Container;
use super::wire::{Conn, Limits, NoHead, Reply};

/// `readHeaderTimeout` and `readTimeout` of `internal/healthcheck/run.go`.
const LIMITS: Limits = Limits { header: Duration::from_millis(100), read: Duration::from_millis(500) };

/// Serves one connection.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(container: &Container, stream: S) {
    let mut conn = Conn::new(stream, LIMITS);
    loop {
        let head = match conn.read_head().await {
            Ok(head) => head,
            Err(NoHead::Closed) => return,
            Err(NoHead::Bad(reply)) => return conn.refuse(reply).await,
        };
        container.link.settled(&container.faults).await;
        let reply = match container.link.unhealthy() {
            _ if head.method != "GET" => Reply::error(400, "method not supported for healthcheck"),
            Some(reason) => Reply::error(500, &reason),
            None => Reply::status(200),
        };
        if !conn.reply(&head, reply).await {
            return;
        }
    }
}
