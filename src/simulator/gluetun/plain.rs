//! Plain HTTP through the look-alike's proxy: absolute-form requests. The gateway never uses it, so
//! it does what shows (hop headers gone, `X-Forwarded-For`, 500, uploads cut) and closes each
//! connection after its answer.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout_at;

use super::dial::{self, Way};
use super::proxy::hung_up;
use super::wire::{Conn, Framing, Head, Reply};
use super::{Container, proxy};

/// `hopHeaders` of `internal/httpproxy/http.go`, and `Host`, which is written anew.
const NOT_FORWARDED: [&str; 10] = [
    "Connection",
    "Proxy-Connection",
    "Keep-Alive",
    "Proxy-Authenticate",
    "Proxy-Authorization",
    "Te",
    "Trailers",
    "Transfer-Encoding",
    "Upgrade",
    "Host",
];
/// A response's head may be this long.
const HEAD_LIMIT: usize = 64 * 1024;

/// Sends a request on, whose target is `http://` and `rest`, and its answer back. Returns whether
/// the connection lives on.
pub(super) async fn forward(
    container: &Arc<Container>,
    conn: &mut Conn<&mut TcpStream>,
    head: &Head,
    rest: &str,
    client: SocketAddr,
) -> bool {
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    let target = if has_port { authority.to_owned() } else { format!("{authority}:80") };
    let dialled = tokio::select! {
        dialled = dial::dial(container, &target) => dialled,
        () = hung_up(conn.stream) => return false,
    };
    let Ok(upstream) = dialled else {
        return conn.reply(head, Reply::error(500, "server error")).await;
    };
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut request = format!("{} {slash}{path} HTTP/1.1\r\nHost: {authority}\r\n", head.method);
    for (name, value) in &head.headers {
        if !NOT_FORWARDED.iter().any(|hop| hop.eq_ignore_ascii_case(name)) {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    if head.framing == Framing::Chunked {
        request.push_str("Transfer-Encoding: chunked\r\n");
    }
    if !container.settings.proxy.as_ref().is_some_and(|proxy| proxy.stealth) {
        request.push_str(&format!("X-Forwarded-For: {}\r\n", client.ip()));
    }
    request.push_str("Connection: close\r\n\r\n");
    match upstream.way {
        Way::Tcp(stream) => exchange(conn, head, &request, stream).await,
        Way::Inside(stream, server) => tokio::select! {
            lives = exchange(conn, head, &request, stream) => lives,
            lives = async { server.await; std::future::pending().await } => lives,
        },
    }
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    conn: &mut Conn<&mut TcpStream>,
    head: &Head,
    request: &str,
    mut stream: S,
) -> bool {
    let sent = async {
        stream.write_all(request.as_bytes()).await?;
        conn.invite_body(head).await;
        conn.copy_body(head.framing, &mut stream).await
    };
    // Go's server stops reading an upload 3 s after its request began.
    let uploaded = matches!(timeout_at(head.started + proxy::LIMITS.read, sent).await, Ok(Ok(_)));
    let answer = if uploaded { answer_head(&mut stream).await } else { None };
    let Some((answer, rest)) = answer else {
        // The rest of the upload may still come: no other request can follow it.
        conn.refuse(Reply::error(500, "server error")).await;
        return false;
    };
    let copied = async {
        conn.stream.write_all(answer.as_bytes()).await?;
        conn.stream.write_all(&rest).await?;
        tokio::io::copy(&mut stream, &mut conn.stream).await
    };
    if copied.await.is_ok() {
        conn.linger().await;
    }
    false
}

/// Reads the head of the final answer, and makes of it what the client gets, with what followed it.
async fn answer_head<S: AsyncRead + Unpin>(stream: &mut S) -> Option<(String, BytesMut)> {
    let mut buffer = BytesMut::new();
    loop {
        if let Some(at) = buffer.windows(4).position(|end| end == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&buffer.split_to(at + 4)).into_owned();
            let (status, headers) = text.trim_end().split_once("\r\n").unwrap_or((text.trim_end(), ""));
            if status.split(' ').nth(1).is_some_and(|code| code.starts_with('1')) {
                continue;
            }
            let mut answer = format!("{status}\r\n");
            for line in headers.split("\r\n").filter(|line| !line.is_empty()) {
                let name = line.split(':').next().unwrap_or_default();
                // The body goes on as it is framed.
                let framing = name.eq_ignore_ascii_case("Transfer-Encoding");
                if framing || !NOT_FORWARDED.iter().any(|hop| hop.eq_ignore_ascii_case(name)) {
                    answer.push_str(&format!("{line}\r\n"));
                }
            }
            answer.push_str("Connection: close\r\n\r\n");
            return Some((answer, buffer));
        }
        if buffer.len() > HEAD_LIMIT || !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
            return None;
        }
    }
}
