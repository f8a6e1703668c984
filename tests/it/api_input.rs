//! Whatever a client sends, the management API answers with JSON, and never with a 500.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::World;
use crate::support::http::{Answer, get, post_bytes, raw};

/// A request by its line, with headers and a body.
async fn send(admin: SocketAddr, line: &str, headers: &str, body: &[u8]) -> Answer {
    let head = format!("{line} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{headers}\r\n");
    raw(admin, &[head.as_bytes(), body].concat()).await
}

/// All that a HEAD brings.
async fn head(admin: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    let request = format!("HEAD {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn error(answer: &Answer) -> String {
    assert_eq!(answer.header("content-type"), "application/json", "{answer:?}");
    assert!(!answer.header("x-request-id").is_empty(), "{answer:?}");
    let body = answer.json();
    let text = body["error"].as_str().unwrap_or_default().to_owned();
    assert!(!text.is_empty(), "{body}");
    text
}

const JSON: &str = "Content-Type: application/json\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_wrong_are_told_what_is() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    for (body, words) in [
        (&b"{"[..], "not valid JSON"),
        (b"{\"server\": }", "not valid JSON"),
        (b"country=Sweden", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"{\"server\": \"\xff\"}", "not valid JSON"),
        (b"[\"server\"]", "must be a JSON object"),
        (b"\"server\"", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"{\"server\": 5, \"country\": \"Sweden\"}", "'server' must be a string, not a number"),
        (b"{\"country\": [\"Sweden\"]}", "'country' must be a string, not an array"),
        (b"{\"city\": {}}", "'city' must be a string, not an object"),
        (b"{\"country\": \"Sweden\", \"idle\": 300}", "'idle' must be a string, not a number"),
        (b"{\"country\": \"Sweden\", \"idle\": \"300\"}", "'idle' must be a time from 30s to 1d"),
        (b"{\"country\": \"Sweden\", \"ttl\": \"30s\"}", "'ttl' must be a time from 1m to 7d"),
        (b"{\"server\": false}", "'server' must be a string, not a boolean"),
    ] {
        let headers = format!("{JSON}Content-Length: {}\r\n", body.len());
        let answer = send(gateway.admin, "POST /start", &headers, body).await;
        let text = error(&answer);
        assert_eq!(answer.status, 400, "{text}");
        assert!(text.contains(words), "{}: {text}", String::from_utf8_lossy(body));
    }
    for kind in [
        "Content-Type: text/plain\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: \r\n",
        "",
    ] {
        for path in ["/start", "/destroy"] {
            let headers = format!("{kind}Content-Length: 20\r\n");
            let answer =
                send(gateway.admin, &format!("POST {path}"), &headers, b"{\"country\":\"Sweden\"}").await;
            assert_eq!(answer.status, 400, "{kind}");
            assert!(error(&answer).contains("Content-Type: application/json"), "{kind}");
        }
    }
    // No body at all is nothing asked for.
    assert_eq!(send(gateway.admin, "POST /start", "", b"").await.status, 400);
    assert_eq!(send(gateway.admin, "POST /destroy", "", b"").await.status, 404);
    assert!(world.claim_list().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_too_large_or_badly_framed() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    let large = format!("{{\"server\": \"{}\"}}", "x".repeat(70_000));
    let answer = raw(gateway.admin, post_bytes("/start", &large).as_bytes()).await;
    assert_eq!((answer.status, error(&answer).as_str()), (413, "The body is larger than 65536 bytes"));
    // Refused by its word alone.
    let headers = format!("{JSON}Content-Length: 99999999999\r\nExpect: 100-continue\r\n");
    let answer = send(gateway.admin, "POST /start", &headers, b"").await;
    assert_eq!(answer.status, 413, "{}", error(&answer));
    let chunked = format!("{JSON}Transfer-Encoding: chunked\r\n");
    let answer = send(gateway.admin, "POST /start", &chunked, b"zz\r\nnonsense").await;
    assert_eq!(answer.status, 400, "{}", error(&answer));
    let mut chunks = Vec::new();
    for _ in 0..20 {
        chunks.extend_from_slice(b"1000\r\n");
        chunks.extend_from_slice(&[b' '; 0x1000]);
        chunks.extend_from_slice(b"\r\n");
    }
    chunks.extend_from_slice(b"0\r\n\r\n");
    let answer = send(gateway.admin, "POST /start", &chunked, &chunks).await;
    assert_eq!(answer.status, 413, "{}", error(&answer));
    // The largest that is taken.
    let padded = format!("{}{{}}", " ".repeat(65_534));
    assert_eq!(raw(gateway.admin, post_bytes("/destroy", &padded).as_bytes()).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_methods_and_paths_are_told_in_json() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    for (path, right, wrong) in [
        ("/health", "GET", &["POST", "PUT", "DELETE", "PATCH"][..]),
        ("/servers", "GET", &["POST", "DELETE"]),
        ("/locations", "GET", &["POST"]),
        ("/status", "GET", &["POST", "PUT"]),
        ("/start", "POST", &["GET", "PUT", "DELETE", "TRACE", "BREW"]),
        ("/destroy", "POST", &["GET", "DELETE"]),
        ("/stop", "POST", &["GET"]),
        ("/servers/refresh", "POST", &["GET"]),
    ] {
        for method in wrong {
            let answer = send(gateway.admin, &format!("{method} {path}"), "Content-Length: 0\r\n", b"").await;
            assert_eq!(answer.status, 405, "{method} {path}");
            assert!(answer.header("allow").contains(right), "{method} {path}: {answer:?}");
            error(&answer);
        }
    }
    for path in
        ["/", "/nowhere", "/servers/", "/start/", "/servers/refresh/", "//servers", "/servers/x", "/%00"]
    {
        let answer = get(gateway.admin, path).await;
        assert_eq!(answer.status, 404, "{path}");
        error(&answer);
    }
    assert!(error(&get(gateway.admin, "/servers/").await).contains("write /servers"));
    for (path, status) in [("/servers", "200"), ("/start", "405"), ("/nowhere", "404")] {
        let head = head(gateway.admin, path).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert!(head.contains("content-type: application/json") && head.contains("x-request-id: "), "{head}");
        assert!(head.ends_with("\r\n\r\n"), "no body: {head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_that_are_odd_do_no_harm() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    for (query, status) in [
        ("?", 200),
        ("?country", 200),
        ("?country=%zz", 200),
        ("?country=a&country=b", 200),
        ("?=x&&&", 200),
        ("?country=Sweden&city=%C3%B6", 200),
        ("?country=%ff", 400),
        ("?city=%C3", 400),
        ("?force=perhaps", 200),
    ] {
        for path in ["/servers", "/locations"] {
            let answer = get(gateway.admin, &format!("{path}{query}")).await;
            assert_eq!(answer.status, status, "{path}{query}: {}", answer.text());
            if status == 400 {
                assert!(error(&answer).contains("UTF-8"), "{}", answer.text());
            }
        }
    }
    let long = format!("/servers?country={}", "x".repeat(10_000));
    assert_eq!(get(gateway.admin, &long).await.json(), serde_json::json!({}));
}
