//! CONNECT over real sockets: from the head to the last byte of the tunnel.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::rig::{answer, ask, connect, rest};
use super::*;
use crate::proxy::tunnel::UNTAKEN;

async fn expect(stream: &mut tokio::net::TcpStream, text: &[u8]) {
    let mut got = vec![0; text.len()];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(text));
}

#[tokio::test]
async fn a_tunnel_from_end_to_end() {
    let pod = Pod::start().await;
    pod.route("echo.test:7", Route::To(echo().await));
    let gateway = Gateway::start(Some(&pod));
    let (mut stream, answer) = gateway.ask(&connect("echo.test:7", "demo-country-SE-session-a")).await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.starts_with("HTTP/1.1 200 Connection established\r\n"));
    assert_eq!(answer.header("x-gateway-exit"), Some("se-sto-wg-001"));
    assert_eq!(answer.header("x-gateway-exit-country"), Some("Sweden"));
    assert_eq!(answer.header("x-gateway-cold-start"), Some("false"));
    assert_eq!(answer.header("x-gateway-wait-ms"), Some("0"));
    assert_eq!(answer.header("x-gateway-request-id").unwrap().len(), 16);
    assert!(answer.header("content-length").is_none() && answer.header("transfer-encoding").is_none());
    assert_eq!(gateway.table.asked().0, "demo-country-se-session-a");
    eventually("an open tunnel", || gateway.metrics().tunnels_open.get() == 1).await;

    stream.write_all(b"hello").await.unwrap();
    expect(&mut stream, b"hello").await;
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await, b"");
    eventually("its record", || gateway.requests("connect", "ok") == 1).await;
    eventually("its end", || gateway.metrics().connections_open.get() == 0).await;
    assert_eq!(gateway.metrics().tunnels_open.get(), 0);
    assert_eq!(gateway.metrics().bytes.with_label_values(&["up"]).get(), 5);
    assert_eq!(gateway.metrics().bytes.with_label_values(&["down"]).get(), 5);
    assert_eq!(pod.exit.traffic.get().0, 5);
    assert_eq!(
        pod.heads(),
        ["CONNECT echo.test:7 HTTP/1.1\r\nHost: echo.test:7\r\nProxy-Authorization: Basic \
          cG9kOnNlc2FtZQ==\r\nContent-Length: 1048576\r\n\r\n"]
    );
    assert_eq!(pod.lost(), 0);
    // The exit's first use has it checked once.
    eventually("the check", || pod.exit.reached_check.load(std::sync::atomic::Ordering::Relaxed)).await;
    assert_eq!(pod.checks(), 1);
}

#[tokio::test]
async fn early_data_waits_for_the_exits_200() {
    let pod = Pod::start().await;
    pod.route("echo.test:7", Route::To(echo().await));
    let gateway = Gateway::start(Some(&pod));
    for _ in 0..20 {
        let mut stream = gateway.connect().await;
        let request = connect("echo.test:7", "demo") + "early bird";
        stream.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(answer(&mut stream).await.status, 200);
        expect(&mut stream, b"early bird").await;
    }
    assert_eq!(pod.lost(), 0);
}

#[tokio::test]
async fn what_the_target_says_with_the_200_is_kept() {
    let pod = Pod::start().await;
    pod.route("smtp.test:25", Route::Glued(b"220 hi\r\n", echo().await));
    let gateway = Gateway::start(Some(&pod));
    let (mut stream, answer) = gateway.tunnel("smtp.test:25").await;
    assert_eq!(answer.status, 200);
    expect(&mut stream, b"220 hi\r\n").await;
    stream.write_all(b"QUIT").await.unwrap();
    expect(&mut stream, b"QUIT").await;
    drop(stream);
    let down = gateway.metrics().bytes.with_label_values(&["down"]);
    eventually("all bytes counted", || down.get() == 12).await;
}

#[tokio::test]
async fn a_challenge_leaves_the_connection_and_failures_end_it() {
    let pod = Pod::start().await;
    pod.route("echo.test:7", Route::To(echo().await));
    let gateway = Gateway::start(Some(&pod));
    let bare = "CONNECT echo.test:7 HTTP/1.1\r\nHost: echo.test:7\r\n\r\n";
    let (mut stream, first) = gateway.ask(bare).await;
    assert_eq!((first.status, first.code()), (407, "auth_required"));
    assert_eq!(
        first.header("proxy-authenticate"),
        Some("Basic realm=\"gluetun-gateway\", charset=\"UTF-8\"")
    );
    assert_eq!(first.header("connection"), None);
    assert_eq!(first.json()["error"], "auth_required");
    assert_eq!(ask(&mut stream, &connect("echo.test:7", "demo")).await.status, 200);

    // Whoever fails twice has to come again. An unknown account and a wrong password look the same.
    let wrong = |user: &str| format!("CONNECT x:1 HTTP/1.1\r\nHost: a\r\n{}\r\n", basic(user, "wrong"));
    let (mut stream, known) = gateway.ask(&wrong("demo")).await;
    assert_eq!((known.status, known.code(), known.header("connection")), (407, "auth_failed", None));
    let unknown = ask(&mut stream, &wrong("nobody-country-xx")).await;
    assert_eq!((unknown.code(), unknown.header("connection")), ("auth_failed", Some("close")));
    assert_eq!(rest(&mut stream).await, b"");
    let body = |answer: &Answer| {
        let mut body = answer.json();
        body["request_id"] = "".into();
        body
    };
    assert_eq!(body(&known), body(&unknown));
    let logins = |outcome: &str| gateway.metrics().logins.with_label_values(&[outcome]).get();
    assert_eq!((logins("ok"), logins("refused")), (1, 2));
    let (_stream, again) = gateway.tunnel("echo.test:7").await;
    assert_eq!((again.status, logins("cached")), (200, 1));
}

#[tokio::test]
async fn old_clients_are_not_kept() {
    let gateway = Gateway::start(None);
    let (mut stream, answer) = gateway.ask("CONNECT a:1 HTTP/1.0\r\n\r\n").await;
    assert_eq!((answer.status, answer.header("connection")), (407, Some("close")));
    assert_eq!(rest(&mut stream).await, b"");
    // Bytes behind a refused CONNECT are a tunnel's, not a request.
    let smuggled = format!("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n{}", connect("echo.test:7", "demo"));
    let (mut stream, answer) = gateway.ask(&smuggled).await;
    assert_eq!((answer.status, answer.header("connection")), (407, Some("close")));
    assert_eq!(rest(&mut stream).await, b"");
}

#[tokio::test]
async fn a_cold_start_is_held_for_and_reads_on() {
    let pod = Pod::start().await;
    pod.route("echo.test:7", Route::To(echo().await));
    let gateway = Gateway::start(None);
    let mut stream = gateway.connect().await;
    let request = connect("echo.test:7", "demo-idle-5m-ttl-1h-wait-15s");
    stream.write_all(request.as_bytes()).await.unwrap();
    gateway.table.until_waiting(1).await;
    let (key, lifetimes) = gateway.table.asked();
    assert_eq!(key, "demo");
    assert_eq!(lifetimes.idle, Some(Duration::from_secs(300)));
    assert_eq!(lifetimes.ttl, Some(Duration::from_secs(3600)));
    // More than is taken in: the rest stays with the client's kernel, and nothing is lost.
    let early: Vec<u8> = (0..40_000_u32).map(|n| n as u8).collect();
    stream.write_all(&early).await.unwrap();
    gateway.table.set_ready(Some(&pod.exit));
    let answer = answer(&mut stream).await;
    assert_eq!((answer.status, answer.header("x-gateway-cold-start")), (200, Some("true")));
    let mut echoed = vec![0; early.len()];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(echoed, early);
    assert_eq!(pod.lost(), 0);
}

#[tokio::test]
async fn a_client_that_hangs_up_ends_its_wait() {
    let gateway = Gateway::start(None);
    let mut ended = gateway.connect().await;
    ended.write_all((connect("a.test:1", "demo") + "and early data").as_bytes()).await.unwrap();
    let mut broken = gateway.connect().await;
    broken.write_all(connect("a.test:1", "demo").as_bytes()).await.unwrap();
    gateway.table.until_waiting(2).await;
    ended.shutdown().await.unwrap();
    gateway.table.until_waiting(1).await;
    broken.set_zero_linger().unwrap();
    drop(broken);
    gateway.table.until_waiting(0).await;
    eventually("their records", || gateway.requests("connect", "client_gone") == 2).await;
    eventually("their ends", || gateway.metrics().connections_open.get() == 0).await;
}

#[tokio::test]
async fn a_client_cannot_send_for_long_to_an_exit_that_is_gone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pod = Pod::at(listener.local_addr().unwrap());
    let gateway = Gateway::start(Some(&pod));
    let mut stream = gateway.connect().await;
    stream.write_all(connect("a.test:1", "demo").as_bytes()).await.unwrap();
    let (mut exit, _) = listener.accept().await.unwrap();
    exit.write_all(b"HTTP/1.1 200 OK\r\n\r\nall there is").await.unwrap();
    exit.shutdown().await.unwrap();
    assert_eq!(answer(&mut stream).await.status, 200);
    assert_eq!(rest(&mut stream).await, b"all there is");
    exit.set_zero_linger().unwrap();
    drop(exit);
    eventually("its record", || gateway.requests("connect", "ok") == 1).await;
    assert_eq!(gateway.metrics().connections_open.get(), 1, "it may still read");
    let chunk = vec![0; 1 << 20];
    let mut sent = 0;
    let send = async {
        while let Ok(n) = stream.write(&chunk).await {
            sent += n;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), send).await.expect("a reset in time");
    // What the kernels had taken in by then comes on top.
    assert!((UNTAKEN..UNTAKEN + (64 << 20)).contains(&sent), "{sent} bytes were taken");
    eventually("its end", || gateway.metrics().connections_open.get() == 0).await;
}

#[tokio::test]
async fn a_connect_after_plain_requests_is_a_tunnel_too() {
    let pod = Pod::start().await;
    pod.route("echo.test:7", Route::To(echo().await));
    let gateway = Gateway::start(Some(&pod));
    let (mut stream, answer) = gateway.ask("GET http://echo.test/ HTTP/1.1\r\nHost: echo.test\r\n\r\n").await;
    assert_eq!(answer.status, 407);
    let with_body = connect("echo.test:7", "demo").replace("Host", "Content-Length: 3\r\nHost");
    let request = connect("echo.test:7", "demo") + "early";
    let answer = ask(&mut stream, &request).await;
    assert_eq!((answer.status, answer.header("x-gateway-exit")), (200, Some("se-sto-wg-001")));
    expect(&mut stream, b"early").await;
    stream.write_all(b"later").await.unwrap();
    expect(&mut stream, b"later").await;
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await, b"");
    eventually("its record", || gateway.requests("connect", "ok") == 1).await;

    let (mut stream, _) = gateway.ask("GET http://echo.test/ HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = ask(&mut stream, &(with_body + "abc")).await;
    assert_eq!((answer.status, answer.code()), (400, "not_a_proxy_request"));
    for (target, code) in [
        ("example.com", "bad_target"),
        ("127.0.0.1:99999", "bad_target"),
        ("10.0.0.1:80", "destination_denied"),
    ] {
        let (mut stream, _) = gateway.ask("GET http://echo.test/ HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = ask(&mut stream, &connect(target, "demo")).await;
        assert_eq!(answer.code(), code, "{target}");
        assert!((400..=403).contains(&answer.status));
    }
}

#[tokio::test]
async fn a_pods_own_credentials_mean_that_pod() {
    let pod = Pod::start().await;
    pod.route("echo.test:7", Route::To(echo().await));
    let gateway = Gateway::start(Some(&pod));
    let request = |user: &str, password: &str| {
        format!("CONNECT echo.test:7 HTTP/1.1\r\nHost: a\r\n{}\r\n", basic(user, password))
    };
    let (_stream, answer) = gateway.ask(&request("pod.abc", "sesame")).await;
    assert_eq!(answer.status, 200);
    for (user, password) in [("pod.abc", "wrong"), ("pod.abc-country-se", "sesame"), ("pod.xyz", "sesame")] {
        let (_stream, answer) = gateway.ask(&request(user, password)).await;
        assert_eq!((answer.status, answer.code()), (407, "auth_failed"), "{user}");
    }
    // Its pod is gone: there is no other.
    pod.exit.gone.cancel();
    let (_stream, answer) = gateway.ask(&request("pod.abc", "sesame")).await;
    assert_eq!((answer.status, answer.code()), (502, "exit_unhealthy"));
}

/// What an idle tunnel costs beside its two sockets: the parts that only opening needs are boxed away.
#[tokio::test]
async fn an_open_tunnels_task_is_small() {
    let gateway = Gateway::start(None);
    let size = gateway.task_size().await;
    assert!(size <= 448, "{size} bytes");
}
