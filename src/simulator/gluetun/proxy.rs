//! The HTTP proxy (`internal/httpproxy` of Gluetun): its authentication, CONNECT with the bytes that
//! it loses, and the hand-over of plain requests to `plain`.

use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::wire::{Conn, Framing, Head, Limits, MAX_DISCARD, NoHead, Reply, date};
use super::{Container, dial, plain, relay};

/// `ReadHeaderTimeout` and `ReadTimeout` of `internal/configuration/settings/httpproxy.go`, which no
/// variable sets.
pub(super) const LIMITS: Limits = Limits { header: Duration::from_secs(1), read: Duration::from_secs(3) };

/// Serves one connection, until it is closed or its tunnel ends.
pub(super) async fn serve(container: &Arc<Container>, stream: &mut TcpStream, client: SocketAddr) {
    let mut conn = Conn::new(stream, LIMITS);
    loop {
        let head = match conn.read_head().await {
            Ok(head) => head,
            Err(NoHead::Closed) => return,
            Err(NoHead::Bad(reply)) => return conn.refuse(reply).await,
        };
        let absolute = head
            .target
            .split_once("://")
            .map(|(scheme, rest)| (scheme.to_ascii_lowercase(), rest.to_owned()));
        let lives = if head.version.0 != 1 {
            conn.reply(&head, Reply::error(400, "http version not supported")).await
        } else if let Some(refusal) = refuse(container, &head, absolute.is_some(), client) {
            conn.reply(&head, refusal).await
        } else if head.method == "CONNECT" {
            connect(container, &mut conn, &head).await
        } else {
            match absolute.as_ref().map(|(scheme, rest)| (scheme.as_str(), rest)) {
                Some(("http", rest)) => plain::forward(container, &mut conn, &head, rest, client).await,
                // Gluetun would speak TLS to the destination; no client of ours asks for it.
                Some(("https", _)) => conn.reply(&head, Reply::error(500, "server error")).await,
                Some(_) | None => conn.reply(&head, Reply::error(400, "unsupported scheme")).await,
            }
        };
        if !lives {
            return;
        }
    }
}

/// Checks the credentials as `internal/httpproxy/auth.go` does; the reply is the refusal.
fn refuse(container: &Container, head: &Head, absolute: bool, client: SocketAddr) -> Option<Reply> {
    let proxy = container.settings.proxy.as_ref()?;
    if proxy.user.is_empty() || (head.method != "CONNECT" && !absolute) {
        return None;
    }
    let Some(header) = head.get("Proxy-Authorization").filter(|value| !value.is_empty()) else {
        container.log.entry(&format!("INFO [http proxy] Proxy-Authorization header not found from {client}"));
        let challenge = r#"Basic realm="Access to Gluetun over HTTP""#;
        return Some(Reply::status(407).header("Proxy-Authenticate", challenge));
    };
    let Ok(pair) = STANDARD.decode(header.strip_prefix("Basic ").unwrap_or(header)) else {
        container.log.entry(&format!(
            "INFO [http proxy] Cannot decode Proxy-Authorization header value from {client}"
        ));
        return Some(Reply::status(401));
    };
    let mut parts = pair.split(|byte| *byte == b':');
    let (Some(user), Some(password), None) = (parts.next(), parts.next(), parts.next()) else {
        return Some(Reply::status(400));
    };
    let server = container.settings.server.as_ref().map_or("", |server| &server.hostname);
    let locked = container.faults.get().of(&container.spec.pod_name, server).locked;
    if !locked && user == proxy.user.as_bytes() && password == proxy.password.as_bytes() {
        return None;
    }
    // The real one logs both.
    container.log.entry(&format!("INFO [http proxy] Username or password mismatch from {client}"));
    Some(Reply::status(401))
}

/// CONNECT. Returns whether the connection lives on for another request.
async fn connect(container: &Arc<Container>, conn: &mut Conn<&mut TcpStream>, head: &Head) -> bool {
    let dialled = tokio::select! {
        dialled = dial::dial(container, &head.target) => dialled,
        () = hung_up(conn.stream) => return false,
    };
    let upstream = match dialled {
        Ok(upstream) => upstream,
        Err(text) => return conn.reply(head, Reply::error(503, &text)).await,
    };
    let unread = matches!(head.framing, Framing::Length(length) if length >= MAX_DISCARD);
    let close = conn.settle_body(head).await;
    // What came with the head lies in the buffer that Gluetun drops when it hijacks the connection.
    conn.buf = BytesMut::new();
    // Go's server has read one byte ahead by then, which goes the same way, unless a long body was
    // announced. (The real one loses a byte that comes after the 200 in one tunnel of ten.) Bytes
    // before the 200 lose their first in any case: a client must not count on the announcement.
    let lose_first = !unread || has_arrived(conn.stream);
    let answer = match head.version {
        (1, 0) => format!("HTTP/1.0 200 OK\r\nDate: {}\r\nConnection: close\r\n\r\n", date()),
        _ => {
            let close = if close { "Connection: close\r\n" } else { "" };
            format!("HTTP/1.1 200 OK\r\nDate: {}\r\n{close}Transfer-Encoding: chunked\r\n\r\n", date())
        }
    };
    if conn.stream.write_all(answer.as_bytes()).await.is_ok() {
        relay::relay(conn.stream, upstream, lose_first, &container.link).await;
    }
    false
}

/// Ends when the client closes without having sent anything more.
pub(super) async fn hung_up(stream: &TcpStream) {
    if let Ok(1..) = stream.peek(&mut [0]).await {
        std::future::pending().await
    }
}

/// Whether bytes wait in the socket.
fn has_arrived(stream: &TcpStream) -> bool {
    matches!(SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]), Ok(1..))
}
