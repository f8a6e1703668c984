//! What goes wrong on the proxy port, by its code: bad input of every kind gets its answer and makes no
//! pod.

use crate::support::http::{basic, connect, raw};
use crate::support::{Answer, PASSWORD, World};

/// Every answer that the gateway makes itself has this shape.
fn check_shape(answer: &Answer) {
    let body = answer.json();
    assert_eq!(body["error"], answer.code(), "{answer:?}");
    assert_eq!(body["request_id"], answer.header("x-gateway-request-id"), "{answer:?}");
    for field in ["message", "hint"] {
        assert!(body[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {answer:?}");
    }
    assert!(body["retryable"].is_boolean());
    assert!(answer.body.len() < 1024 && answer.body.is_ascii());
    assert!(answer.header("proxy-status").starts_with("gluetun-gateway; error="), "{answer:?}");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("content-type"), "application/json");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_gets_its_code_and_makes_nothing() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    let admin = format!("127.0.0.1:{}", gateway.admin.port());
    let own = format!("127.0.0.1:{}", gateway.proxy.port());
    let cases: &[(&str, &str, u16, &str, &str)] = &[
        // user, target, status, code, a word of the message or hint
        ("demo-country-swden", "a.test:80", 400, "no_such_country", "se"),
        ("demo-country-de-city-paris", "a.test:80", 400, "no_such_city", "country-fr-city-paris"),
        ("demo-country-se-city-malmoe", "a.test:80", 400, "no_such_city", "malmo"),
        ("demo-server-se-xxx-wg-999", "a.test:80", 400, "no_such_server", "server"),
        ("demo-contry-se", "a.test:80", 400, "bad_parameter", "country"),
        ("demo-country-se-country-us", "a.test:80", 400, "bad_parameter", "country"),
        ("demo-country", "a.test:80", 400, "bad_parameter", "country"),
        ("demo-country-se-idle-30", "a.test:80", 400, "bad_parameter", "30s"),
        ("demo-country-se-wait-30d", "a.test:80", 400, "bad_parameter", "wait"),
        ("demo-country-us-server-se-mma-wg-001", "a.test:80", 400, "bad_combination", "country"),
        ("demo-country-se", &admin, 403, "proxy_loop", "gateway"),
        ("demo-country-se", "127.0.0.1:22", 403, "destination_denied", "loopback"),
        ("demo-country-se", &own, 403, "proxy_loop", "gateway"),
        ("demo-country-se", "0x7f.1:80", 403, "destination_denied", ""),
        ("demo-country-se", "2130706433:80", 403, "destination_denied", ""),
        ("demo-country-se", "[::ffff:10.0.0.1]:80", 403, "destination_denied", ""),
        ("demo-country-se", "kubernetes.default.svc.cluster.local.:443", 403, "destination_denied", ""),
        ("demo-country-se", "LOCALHOST:80", 403, "destination_denied", ""),
        ("demo-country-se", "169.254.169.254:80", 403, "destination_denied", ""),
        ("demo-country-se", "[2606:4700:4700::1111]:443", 502, "upstream_error", "IPv6"),
        ("demo-country-se", "a.test", 400, "bad_target", "port"),
        ("demo-country-se", "a.test:99999", 400, "bad_target", "port"),
        ("demo-country-se", "user@a.test:80", 400, "bad_target", ""),
    ];
    for (user, target, status, code, word) in cases {
        let answer = gateway.connect(user, target).await.expect_err(user);
        assert_eq!(
            (answer.status, answer.code()),
            (*status, *code),
            "{user} {target}: {answer:?} {}",
            answer.text()
        );
        check_shape(&answer);
        assert!(answer.text().contains(word), "{user} {target}: wanted {word:?} in {}", answer.text());
    }
    assert!(world.pod_list().await.is_empty() && world.claim_list().await.is_empty());
    for (_, _, _, code, _) in cases {
        let count = gateway.metric("gluetun_gateway_requests_total", &format!("outcome=\"{code}\"")).await;
        assert!(count >= 1.0, "{code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_account_and_a_wrong_password_do_not_differ() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    let strip = |answer: Answer| {
        let id = answer.header("x-gateway-request-id").to_owned();
        let text = format!("{} {:?} {}", answer.status, answer.headers, answer.text());
        text.replace(&id, "ID")
    };
    let wrong = connect(gateway.proxy, "demo-country-nowhere", "wrong", "a.test:80").await.unwrap_err();
    check_shape(&wrong);
    assert_eq!((wrong.status, wrong.code()), (407, "auth_failed"));
    assert_eq!(wrong.header("proxy-authenticate"), "Basic realm=\"gluetun-gateway\", charset=\"UTF-8\"");
    let unknown = connect(gateway.proxy, "mallory", PASSWORD, "a.test:80").await.unwrap_err();
    let pod = connect(gateway.proxy, "pod.abcdef", PASSWORD, "a.test:80").await.unwrap_err();
    let wrong = strip(wrong);
    assert_eq!(wrong, strip(unknown));
    assert_eq!(wrong, strip(pod));
    // None at all: the challenge, and the connection stays for the answer to it.
    let none = raw(gateway.proxy, b"CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\n\r\n").await;
    assert_eq!((none.status, none.code()), (407, "auth_required"));
    check_shape(&none);
    assert_ne!(none.header("connection"), "close");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_challenge_is_answered_on_the_same_connection() {
    use tokio::io::AsyncWriteExt;
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    let mut stream = tokio::net::TcpStream::connect(gateway.proxy).await.unwrap();
    let mut rest = Vec::new();
    stream.write_all(b"CONNECT whoami.test:80 HTTP/1.1\r\nHost: whoami.test:80\r\n\r\n").await.unwrap();
    assert_eq!(crate::support::http::read_answer(&mut stream, &mut rest, true).await.status, 407);
    let head = crate::support::http::connect_head("demo-country-se", PASSWORD, "whoami.test:80");
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(crate::support::http::read_answer(&mut stream, &mut rest, true).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_proxy_request_is_told_where_to_go() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    let credentials = basic("demo-country-se", PASSWORD);
    let cases: Vec<(Vec<u8>, u16, &str)> = vec![
        (
            format!("GET / HTTP/1.1\r\nHost: gateway\r\nProxy-Authorization: {credentials}\r\n\r\n")
                .into_bytes(),
            400,
            "not_a_proxy_request",
        ),
        (
            format!(
                "GET https://a.test/ HTTP/1.1\r\nHost: a.test\r\nProxy-Authorization: {credentials}\r\n\r\n"
            )
            .into_bytes(),
            400,
            "bad_target",
        ),
        (
            format!("CONNECT a.test:80 HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(40_000)).into_bytes(),
            431,
            "head_too_large",
        ),
    ];
    for (request, status, code) in cases {
        let answer = raw(gateway.proxy, &request).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{answer:?}");
        check_shape(&answer);
        assert_eq!(answer.header("connection"), "close");
    }
}

on_both! {
    async fn what_the_exit_says_never_reaches_the_client(world) {
        let gateway = world.gateway(&[]).await;
        for (target, status, code) in [
            ("refused.test:80", 502, "upstream_refused"),
            ("no-such-name.invalid:80", 502, "upstream_dns"),
        ] {
            let answer = gateway.connect("demo-country-se", target).await.unwrap_err();
            assert_eq!((answer.status, answer.code()), (status, code), "{}", answer.text());
            check_shape(&answer);
            for trace in ["dial tcp", "lookup", "127.", "Gluetun"] {
                assert!(!answer.text().contains(trace), "{trace}: {}", answer.text());
            }
            let plain = gateway.get("demo-country-se", &format!("http://{target}/")).await;
            assert_eq!((plain.status, plain.code()), (status, code), "{}", plain.text());
            check_shape(&plain);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_does_not_wait_is_told_that_the_start_was_triggered() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    let answer = gateway.connect("demo-country-se-wait-0s", "whoami.test:80").await.unwrap_err();
    assert_eq!((answer.status, answer.code()), (503, "starting"));
    check_shape(&answer);
    assert!(answer.header("retry-after").parse::<u64>().is_ok_and(|s| s >= 1));
    // The exit comes nevertheless, and the same request finds it.
    crate::support::eventually("the exit", || async {
        gateway.connect("demo-country-se-wait-0s", "whoami.test:80").await.is_ok()
    })
    .await;
}
