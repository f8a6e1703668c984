//! What clients are told when logins, exits and destinations fail.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::rig::{connect, rest};
use super::*;
use crate::session::{AcquireError, Exit, FailureClass, Fault};

#[tokio::test]
async fn bad_requests_get_their_codes() {
    let pod = Pod::start().await;
    let gateway = Gateway::start(Some(&pod));
    let own = format!("127.0.0.1:{}", gateway.addr.port());
    let pods_own = format!("127.0.0.1:{}", pod.addr.port());
    let auth = basic("demo", "open:sesame");
    let cases = [
        (connect("example.com", "demo"), 400, "bad_target"),
        (connect("example.com:0", "demo"), 400, "bad_target"),
        (connect("u:p@example.com:80", "demo"), 400, "bad_target"),
        (connect("http://example.com:80", "demo"), 400, "bad_target"),
        (connect("/", "demo"), 400, "bad_target"),
        (connect("10.0.0.1:80", "demo"), 403, "destination_denied"),
        (connect("0x0a000001:80", "demo"), 403, "destination_denied"),
        (connect("[::ffff:10.0.0.1]:80", "demo"), 403, "destination_denied"),
        (connect("[fe80::1%25eth0]:80", "demo"), 403, "destination_denied"),
        (connect("x.vpn.svc.cluster.local:80", "demo"), 403, "destination_denied"),
        (connect(&own, "demo"), 403, "proxy_loop"),
        (connect("gluetun-gateway.vpn:8080", "demo"), 403, "proxy_loop"),
        (connect(&pods_own, "demo"), 403, "proxy_loop"),
        (connect("[2001:4860:4860::8888]:443", "demo"), 502, "upstream_error"),
        (connect("a.test:1", "demo-country-xx"), 400, "no_such_country"),
        (connect("a.test:1", "demo-country-se-city-malmo"), 400, "no_such_city"),
        (connect("a.test:1", "demo-server-x"), 400, "no_such_server"),
        (connect("a.test:1", "demo-wait-30"), 400, "bad_parameter"),
        (connect("a.test:1", "demo-idle-24h"), 400, "bad_parameter"),
        (connect("a.test:1", "demo-contry-se"), 400, "bad_parameter"),
        (connect("a.test:1", "demo-country-se-server-us-nyc-wg-301"), 400, "bad_combination"),
        (connect("a.test:1", "demo%2Dcountry"), 407, "auth_failed"),
        (connect("a.test:1", "demo").replace("Basic", "Bearer"), 407, "auth_failed"),
        (format!("CONNECT a.test:1 HTTP/1.1\r\nHost: a\r\n{auth}{auth}\r\n"), 407, "auth_failed"),
        (
            format!("CONNECT a.test:1 HTTP/1.1\r\nHost: a\r\n{auth}Content-Length: 5\r\n\r\nhello"),
            400,
            "not_a_proxy_request",
        ),
        (
            format!("CONNECT a.test:1 HTTP/1.1\r\nHost: a\r\n{auth}Transfer-Encoding: chunked\r\n\r\n"),
            400,
            "not_a_proxy_request",
        ),
        (format!("GET / HTTP/1.1\r\nHost: {own}\r\n{auth}\r\n"), 400, "not_a_proxy_request"),
        (format!("GET https://example.com/ HTTP/1.1\r\nHost: a\r\n{auth}\r\n"), 400, "bad_target"),
        (format!("GET http://u:p@example.com/ HTTP/1.1\r\nHost: a\r\n{auth}\r\n"), 400, "bad_target"),
        (format!("GET http://example.com/#x HTTP/1.1\r\nHost: a\r\n{auth}\r\n"), 400, "bad_target"),
        (format!("GET http://10.0.0.1/ HTTP/1.1\r\nHost: a\r\n{auth}\r\n"), 403, "destination_denied"),
        (format!("GET http://{own}/ HTTP/1.1\r\nHost: a\r\n{auth}\r\n"), 403, "proxy_loop"),
        ("\x16\x03\x01\x02\x00\x01\x00".to_owned(), 400, "not_a_proxy_request"),
        ("GET http://a/ HTTP/1.1\nHost: a\n\n".to_owned(), 400, "not_a_proxy_request"),
        (format!("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(65)), 431, "head_too_large"),
        (format!("CONNECT a:1 HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(20_000)), 431, "head_too_large"),
    ];
    for (request, status, code) in cases {
        let (mut stream, answer) = gateway.ask(&request).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{request:?}");
        let json = answer.json();
        assert_eq!(json["error"], code);
        assert_eq!(json["request_id"], answer.header("x-gateway-request-id").unwrap());
        assert!(answer.header("proxy-status").unwrap().starts_with("gluetun-gateway; error="), "{request:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        if status != 407 {
            // It can be read to its end although the client had sent more.
            assert_eq!(answer.header("connection"), Some("close"), "{request:?}");
            assert_eq!(rest(&mut stream).await, b"");
        }
    }
    assert!(pod.heads().is_empty(), "{:?}", pod.heads());
    eventually("each lingers until its client is gone", || gateway.metrics().connections_open.get() == 0)
        .await;
}

#[tokio::test]
async fn what_gluetun_says_becomes_our_code() {
    let pod = Pod::start().await;
    let gateway = Gateway::start(Some(&pod));
    for (text, status, code) in [
        ("dial tcp: lookup a.test on 127.0.0.1:53: no such host", 502, "upstream_dns"),
        ("dial tcp: lookup a.test on 127.0.0.1:53: server misbehaving", 502, "upstream_dns"),
        ("dial tcp 9.9.9.9:1: connect: connection refused", 502, "upstream_refused"),
        ("dial tcp 9.9.9.9:1: connect: connection timed out", 504, "upstream_timeout"),
        ("dial tcp 9.9.9.9:1: connect: network is unreachable", 502, "upstream_error"),
        ("something else", 502, "upstream_error"),
    ] {
        pod.route("a.test:1", Route::Refused(text));
        let (_stream, answer) = gateway.tunnel("a.test:1").await;
        assert_eq!((answer.status, answer.code()), (status, code), "{text}");
        assert!(!answer.text().contains("dial"), "{}", answer.text());
    }
    assert!(gateway.table.reports().is_empty());
    for status in [400, 401, 407] {
        pod.route("a.test:1", Route::Status(status));
        gateway.table.set_ready(Some(&pod.exit));
        let (_stream, answer) = gateway.tunnel("a.test:1").await;
        assert_eq!((answer.status, answer.code()), (502, "exit_protocol"), "{status}");
        assert_eq!(answer.header("proxy-authenticate"), None);
    }
    assert_eq!(gateway.table.reports(), [(pod.addr, Fault::Protocol); 3]);
}

#[tokio::test]
async fn a_session_without_an_exit_says_why() {
    let gateway = Gateway::start(None);
    let (_stream, starting) = gateway.ask(&connect("a.test:1", "demo-wait-0s")).await;
    assert_eq!((starting.status, starting.code()), (503, "starting"));
    assert_eq!(starting.header("retry-after"), Some("2"));
    let (_stream, slow) = gateway.ask(&connect("a.test:1", "demo-wait-1s")).await;
    assert_eq!((slow.status, slow.code()), (504, "start_timeout"));
    assert!(slow.header("x-gateway-wait-ms").unwrap().parse::<u64>().unwrap() >= 1000);
    for (error, status, code) in [
        (AcquireError::CapacityFull { message: "5 of 5 pods".to_owned() }, 503, "capacity_full"),
        (AcquireError::QueueFull { message: "1024 wait".to_owned() }, 503, "queue_full"),
        (
            AcquireError::StartFailed {
                class: FailureClass::ImagePull,
                message: "no image".to_owned(),
                retry_after: None,
            },
            502,
            "start_failed",
        ),
        (
            AcquireError::StartBackoff {
                message: "no image".to_owned(),
                retry_after: Duration::from_secs(9),
            },
            503,
            "start_backoff",
        ),
        (AcquireError::ExitLost, 502, "exit_lost"),
        (AcquireError::ControlPlaneUnavailable, 503, "control_plane_unavailable"),
        (
            AcquireError::ControlPlaneForbidden { message: "create pods".to_owned() },
            503,
            "control_plane_forbidden",
        ),
        (AcquireError::ShuttingDown, 503, "shutting_down"),
    ] {
        gateway.table.fail(error);
        let (_stream, answer) = gateway.tunnel("a.test:1").await;
        assert_eq!((answer.status, answer.code()), (status, code));
        assert_eq!(answer.header("retry-after").is_some(), answer.json()["retryable"] == true, "{code}");
    }
}

#[tokio::test]
async fn an_exit_that_cannot_be_reached_is_replaced_within_the_hold() {
    let pod = Pod::start().await;
    pod.route("echo.test:7", Route::To(echo().await));
    // A port that nobody listens on.
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gateway = Gateway::start(None);
    gateway.table.set_ready(Some(&Exit::at(nobody)));
    gateway.table.set_replacement(&pod.exit);
    let (_stream, answer) = gateway.tunnel("echo.test:7").await;
    assert_eq!(answer.status, 200);
    assert_eq!(gateway.table.reports(), [(nobody, Fault::Unreachable)]);

    // A request that does not wait is not moved either.
    gateway.table.set_ready(Some(&Exit::at(nobody)));
    let (_stream, answer) = gateway.ask(&connect("echo.test:7", "demo-wait-0s")).await;
    assert_eq!((answer.status, answer.code()), (502, "exit_unhealthy"));
}

#[tokio::test]
async fn an_exit_that_closes_without_an_answer_is_given_up_in_the_end() {
    let (bad, good) = (Pod::start().await, Pod::start().await);
    bad.route("echo.test:7", Route::Closed);
    good.route("echo.test:7", Route::To(echo().await));
    let gateway = Gateway::start(Some(&bad));
    gateway.table.set_replacement(&good.exit);
    let (_stream, answer) = gateway.tunnel("echo.test:7").await;
    assert_eq!(answer.status, 200);
    assert_eq!(bad.heads().len(), 3);
    assert_eq!(gateway.table.reports(), [(bad.addr, Fault::Unreachable)]);
}

#[tokio::test]
async fn a_dead_exit_is_found_out_and_replaced() {
    let (dead, good) = (Pod::start().await, Pod::start().await);
    good.route("a.test:1", Route::To(echo().await));
    dead.route("b.test:1", Route::To(echo().await));
    let gateway = Gateway::with(Some(&dead), |shared| {
        shared.timings.silent = Duration::from_millis(100);
        shared.timings.check = Duration::from_millis(300);
    });
    let (mut open, answer) = gateway.tunnel("b.test:1").await;
    assert_eq!(answer.status, 200);
    eventually("the first check", || dead.exit.reached_check.load(Ordering::Relaxed)).await;
    for target in ["a.test:1", "1.1.1.1:53"] {
        dead.route(target, Route::Silent);
    }
    gateway.table.set_replacement(&good.exit);
    // All of them find it out by one check, however late they come.
    let asked = (0..10).map(|n| {
        let gateway = &gateway;
        async move {
            tokio::time::sleep(Duration::from_millis(n * 60)).await;
            gateway.tunnel("a.test:1").await
        }
    });
    for (_stream, answer) in futures::future::join_all(asked).await {
        assert_eq!(answer.status, 200);
    }
    assert_eq!(dead.checks(), 2);
    assert!(gateway.table.reports().contains(&(dead.addr, Fault::Dead)));
    assert!(gateway.table.reports().iter().all(|report| *report == (dead.addr, Fault::Dead)));
    // Tunnels that are open are not cut by that.
    assert!(tokio::time::timeout(Duration::from_millis(50), open.read_u8()).await.is_err());
}

#[tokio::test]
async fn a_dead_exit_is_also_known_by_its_resolver() {
    let (dead, good) = (Pod::start().await, Pod::start().await);
    dead.route("a.test:1", Route::Refused("dial tcp: lookup a.test on 127.0.0.1:53: server misbehaving"));
    dead.route("1.1.1.1:53", Route::Silent);
    dead.exit.reached_check.store(true, Ordering::Relaxed);
    good.route("a.test:1", Route::To(echo().await));
    let gateway = Gateway::with(Some(&dead), |shared| shared.timings.check = Duration::from_millis(200));
    gateway.table.set_replacement(&good.exit);
    let (_stream, answer) = gateway.tunnel("a.test:1").await;
    assert_eq!(answer.status, 200);
    assert_eq!(gateway.table.reports(), [(dead.addr, Fault::Dead)]);
}

#[tokio::test]
async fn a_silent_target_behind_a_live_exit_is_the_targets_fault() {
    let pod = Pod::start().await;
    pod.route("a.test:1", Route::Silent);
    let gateway = Gateway::with(Some(&pod), |shared| {
        shared.timings.silent = Duration::from_millis(100);
        shared.timings.connect = Duration::from_millis(600);
    });
    let (_stream, answer) = gateway.tunnel("a.test:1").await;
    assert_eq!((answer.status, answer.code()), (504, "upstream_timeout"));
    // So is one behind an exit whose provider keeps port 53 to itself.
    let pod = Pod::start().await;
    pod.route("a.test:1", Route::Silent);
    pod.route("1.1.1.1:53", Route::Silent);
    pod.route("1.1.1.1:443", Route::Refused("dial tcp 1.1.1.1:443: connect: connection refused"));
    let gateway = Gateway::with(Some(&pod), |shared| {
        shared.timings.silent = Duration::from_millis(100);
        shared.timings.check = Duration::from_millis(100);
        shared.timings.connect = Duration::from_millis(600);
    });
    let (_stream, answer) = gateway.tunnel("a.test:1").await;
    assert_eq!((answer.status, answer.code()), (504, "upstream_timeout"));
    assert!(gateway.table.reports().is_empty());
    assert!(!pod.exit.dead.is_cancelled());
}

#[tokio::test]
async fn an_exit_that_was_dead_before_it_was_ever_checked_is_found_out_too() {
    let (dead, good) = (Pod::start().await, Pod::start().await);
    for target in ["a.test:1", "1.1.1.1:53", "1.1.1.1:443"] {
        dead.route(target, Route::Silent);
    }
    good.route("a.test:1", Route::To(echo().await));
    let gateway = Gateway::with(Some(&dead), |shared| {
        shared.timings.silent = Duration::from_millis(100);
        shared.timings.check = Duration::from_millis(100);
    });
    gateway.table.set_replacement(&good.exit);
    let (_stream, answer) = gateway.tunnel("a.test:1").await;
    assert_eq!(answer.status, 200);
    assert_eq!(gateway.table.reports(), [(dead.addr, Fault::Dead)]);
}

#[tokio::test]
async fn nobody_waits_for_an_exit_that_others_have_found_dead() {
    let (dead, good) = (Pod::start().await, Pod::start().await);
    good.route("a.test:1", Route::To(echo().await));
    dead.route("a.test:1", Route::Silent);
    dead.exit.reached_check.store(true, Ordering::Relaxed);
    // Neither may ask for itself within the test.
    let gateway = Gateway::with(Some(&dead), |shared| shared.timings.silent = Duration::from_secs(3600));
    gateway.table.set_replacement(&good.exit);
    let found = async {
        eventually("two dials", || dead.heads().len() == 2).await;
        dead.exit.dead.cancel();
    };
    let (one, two, ()) = tokio::join!(gateway.tunnel("a.test:1"), gateway.tunnel("a.test:1"), found);
    assert_eq!((one.1.status, two.1.status), (200, 200));
    assert_eq!(dead.checks(), 0);
}

#[tokio::test]
async fn a_pod_that_goes_away_cuts_its_tunnels_and_moves_its_dials() {
    let (old, new) = (Pod::start().await, Pod::start().await);
    old.route("echo.test:7", Route::To(echo().await));
    old.route("a.test:1", Route::Silent);
    new.route("a.test:1", Route::To(echo().await));
    let gateway = Gateway::start(Some(&old));
    let (mut open, answer) = gateway.tunnel("echo.test:7").await;
    assert_eq!(answer.status, 200);
    let dialling = gateway.tunnel("a.test:1");
    let going = async {
        eventually("the dial", || old.heads().len() == 2).await;
        gateway.table.set_ready(Some(&new.exit));
        old.exit.gone.cancel();
    };
    let ((_stream, answer), ()) = tokio::join!(dialling, going);
    assert_eq!(answer.status, 200);
    let error = open.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    eventually("its record", || gateway.requests("connect", "exit_gone") == 1).await;
    assert!(gateway.table.reports().is_empty());
}
