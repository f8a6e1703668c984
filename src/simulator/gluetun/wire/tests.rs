//! The look-alike's HTTP: heads, limits and Go's time-outs.

use super::*;

const LIMITS: Limits = Limits { header: Duration::from_secs(1), read: Duration::from_secs(3) };

async fn read(text: &str) -> (Result<Head, NoHead>, Vec<u8>) {
    let (mut client, server) = tokio::io::duplex(128 * 1024);
    client.write_all(text.as_bytes()).await.unwrap();
    drop(client);
    let mut conn = Conn::new(server, LIMITS);
    let head = conn.read_head().await;
    (head, conn.buf.to_vec())
}

#[tokio::test]
async fn a_head_is_read_and_what_follows_it_kept() {
    let (head, rest) = read("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await;
    let head = head.unwrap();
    assert_eq!((head.method.as_str(), head.target.as_str(), head.version), ("POST", "/x", (1, 1)));
    assert_eq!((head.get("host"), head.framing), (Some("a"), Framing::Length(5)));
    assert_eq!(rest, b"hello");
}

#[tokio::test]
async fn nonsense_is_a_400_and_silence_nothing() {
    for bad in [
        "nonsense\r\n\r\n",
        "GET /\r\n\r\n",
        "GET / HTTQ/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    ] {
        assert!(matches!(read(bad).await.0, Err(NoHead::Bad(reply)) if reply.status == 400), "{bad:?}");
    }
    let long = format!("GET / HTTP/1.1\r\nHost: {}\r\n", "a".repeat(HEAD_LIMIT));
    assert!(matches!(read(&long).await.0, Err(NoHead::Bad(reply)) if reply.status == 431));
    for cut in ["", "GET / HT"] {
        assert!(matches!(read(cut).await.0, Err(NoHead::Closed)), "{cut:?}");
    }
}

#[tokio::test]
async fn chunked_bodies_are_copied_as_they_are_and_counted() {
    let body = "5;x=1\r\nhello\r\nA\r\n0123456789\r\n0\r\nT: 1\r\n\r\n";
    let (mut client, server) = tokio::io::duplex(1024);
    client.write_all(format!("{body}next").as_bytes()).await.unwrap();
    let mut conn = Conn::new(server, LIMITS);
    let mut out = Vec::new();
    assert_eq!(conn.copy_body(Framing::Chunked, &mut out).await.unwrap(), 15);
    assert_eq!((String::from_utf8(out).unwrap().as_str(), conn.buf.as_ref()), (body, b"next".as_ref()));
}

#[test]
fn replies_have_gos_headers_in_gos_order() {
    let text = |reply: Reply, close| {
        let text = String::from_utf8(reply.bytes((1, 1), close)).unwrap();
        let date = text.lines().find(|line| line.starts_with("Date: ")).unwrap().to_owned();
        assert!(
            date.ends_with(" GMT") && date.len() == "Date: Sun, 06 Nov 1994 08:49:37 GMT".len(),
            "{date}"
        );
        text.replace(&date, "Date: D")
    };
    assert_eq!(
        text(Reply::error(503, "no"), true),
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n\
         X-Content-Type-Options: nosniff\r\nDate: D\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n"
    );
    assert_eq!(
        text(Reply::status(401), false),
        "HTTP/1.1 401 Unauthorized\r\nDate: D\r\nContent-Length: 0\r\n\r\n"
    );
}
