//! The servers that the look-alike plays itself, so that a request has somewhere to go on a machine
//! without a network: `whoami.test`, `echo.test`, the resolvers' port 53, and Gluetun's control server.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::Container;
use super::settings::Role;
use super::wire::{Conn, Framing, Head, Limits, NoHead, Reply, date};

/// Generous, as a web server's are.
const LIMITS: Limits = Limits { header: Duration::from_secs(60), read: Duration::from_secs(24 * 3600) };
/// The control server's (`internal/server` of Gluetun).
const CONTROL_LIMITS: Limits = Limits { header: Duration::from_secs(3), read: Duration::from_secs(10) };
/// Bytes of a `?bytes=` answer that are written at once.
const CHUNK: usize = 16 * 1024;

/// Takes everything and says nothing: a resolver that is asked nothing.
pub(super) async fn hold<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let mut sink = tokio::io::sink();
    // It ends when the client does; how makes no difference.
    let _ = tokio::io::copy(&mut stream, &mut sink).await;
}

/// Sends everything back (RFC 862).
pub(super) async fn echo<S: AsyncRead + AsyncWrite + Unpin>(stream: S) {
    let (mut from, mut to) = tokio::io::split(stream);
    // It ends when the client does; how makes no difference.
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

/// Tells which exit a request left from: `{"pod","server","country","city"}` to any method and path.
/// A request with a body is also told `"received"`, its length; `?bytes=N` is answered with so many
/// bytes instead.
pub(super) async fn whoami<S: AsyncRead + AsyncWrite + Unpin>(container: Arc<Container>, stream: S) {
    let mut conn = Conn::new(stream, LIMITS);
    loop {
        let head = match conn.read_head().await {
            Ok(head) => head,
            Err(NoHead::Closed) => return,
            Err(NoHead::Bad(reply)) => return conn.refuse(reply).await,
        };
        let lives = match bytes_wanted(&head.target) {
            Some(Ok(count)) => send_bytes(&mut conn, &head, count).await,
            Some(Err(())) => conn.reply(&head, Reply::error(400, "bytes must be a number")).await,
            None => tell(&container, &mut conn, head).await,
        };
        if !lives {
            return;
        }
    }
}

async fn tell<S: AsyncRead + AsyncWrite + Unpin>(
    container: &Container,
    conn: &mut Conn<S>,
    mut head: Head,
) -> bool {
    let server = container.settings.server.clone().unwrap_or_default();
    let mut answer = json!({
        "pod": container.spec.pod_name,
        "server": server.hostname,
        "country": server.country,
        "city": server.city,
    });
    if head.framing != Framing::Length(0) {
        conn.invite_body(&head).await;
        let Ok(received) = conn.copy_body(head.framing, &mut tokio::io::sink()).await else { return false };
        answer["received"] = json!(received);
        head.framing = Framing::Length(0);
    }
    let reply = Reply::json(&answer).bare(head.method == "HEAD");
    conn.reply(&head, reply).await
}

/// The number of `?bytes=N` in a request's target.
fn bytes_wanted(target: &str) -> Option<Result<u64, ()>> {
    let (_, query) = target.split_once('?')?;
    let count = query.split('&').find_map(|pair| pair.strip_prefix("bytes="))?;
    Some(count.parse().map_err(|_| ()))
}

async fn send_bytes<S: AsyncRead + AsyncWrite + Unpin>(conn: &mut Conn<S>, head: &Head, count: u64) -> bool {
    let close = conn.settle_body(head).await || head.wants_close();
    let connection = if close { "Connection: close\r\n" } else { "" };
    let date = date();
    let mut first = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nDate: {date}\r\nContent-Length: {count}\r\n{connection}\r\n"
    )
    .into_bytes();
    let mut left = if head.method == "HEAD" { 0 } else { count };
    let zeroes = [0; CHUNK];
    // The first bytes go with the head, as a server with a write buffer sends them.
    loop {
        let part = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let sent = if first.is_empty() {
            conn.stream.write_all(&zeroes[..part]).await
        } else {
            first.extend_from_slice(&zeroes[..part]);
            conn.stream.write_all(&std::mem::take(&mut first)).await
        };
        left -= part as u64;
        if sent.is_err() {
            return false;
        }
        if left == 0 {
            return !close;
        }
    }
}

/// The control server: the routes that look at things, behind the default role.
pub(super) async fn control<S: AsyncRead + AsyncWrite + Unpin>(container: Arc<Container>, stream: S) {
    let mut conn = Conn::new(stream, CONTROL_LIMITS);
    loop {
        let head = match conn.read_head().await {
            Ok(head) => head,
            Err(NoHead::Closed) => return,
            Err(NoHead::Bad(reply)) => return conn.refuse(reply).await,
        };
        let reply = match (head.method.as_str(), head.target.as_str()) {
            _ if !may_control(&container.settings.role, &head) => Reply::error(401, "Unauthorized"),
            ("GET", "/v1/vpn/status" | "/v1/openvpn/status" | "/v1/dns/status") => {
                Reply::json(&json!({"status": "running"}))
            }
            ("GET", "/v1/updater/status") => Reply::json(&json!({"status": "completed"})),
            ("GET", "/v1/publicip/ip") => {
                let server = container.settings.server.clone().unwrap_or_default();
                let address = server.ips.first().cloned().unwrap_or_default();
                Reply::json(&json!({"public_ip": address, "country": server.country, "city": server.city}))
            }
            ("GET", "/v1/version") => Reply::json(&json!({"version": super::VERSION})),
            _ => Reply::error(404, "404 page not found"),
        };
        if !conn.reply(&head, reply).await {
            return;
        }
    }
}

fn may_control(role: &Role, head: &Head) -> bool {
    match role {
        Role::None => true,
        Role::ApiKey { apikey } => head.get("X-API-Key") == Some(apikey),
        Role::Basic { username, password } => {
            let wanted = format!("Basic {}", STANDARD.encode(format!("{username}:{password}")));
            head.get("Authorization") == Some(&wanted)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_says_how_many_bytes() {
        assert_eq!(bytes_wanted("/"), None);
        assert_eq!(bytes_wanted("/?x=1"), None);
        assert_eq!(bytes_wanted("/a?x=1&bytes=12"), Some(Ok(12)));
        assert_eq!(bytes_wanted("/?bytes=many"), Some(Err(())));
    }
}
