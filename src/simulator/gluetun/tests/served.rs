//! The destinations that the look-alike plays, plain requests, and the health server's manners.

use super::*;

const WHOAMI: &str = r#"{"pod":"gluetun-1","server":"se-mma-wg-001","country":"Sweden","city":"Malmö"}"#;

#[tokio::test]
async fn whoami_tells_the_exit_on_a_connection_that_lives() {
    let pod = Pod::up(instant()).await;
    let mut client = pod.tunnel("whoami.test:80").await;
    for path in ["/", "/any/path?x=1"] {
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: whoami.test\r\n\r\n")).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.body), (200, format!("{WHOAMI}\n")));
        assert!(reply.head.contains("Content-Type: application/json\r\n"), "{}", reply.head);
    }
    client.send("HEAD / HTTP/1.1\r\nHost: whoami.test\r\n\r\n").await;
    let head = client.head().await;
    assert!(head.contains(&format!("Content-Length: {}\r\n", WHOAMI.len() + 1)), "{head}");
    client.send("GET /?bytes=3000000 HTTP/1.1\r\nHost: whoami.test\r\nConnection: close\r\n\r\n").await;
    let head = client.head().await;
    assert!(head.contains("Content-Length: 3000000\r\nConnection: close\r\n"), "{head}");
    assert_eq!(client.rest().await.len(), 3_000_000);
}

#[tokio::test]
async fn whoami_counts_what_it_is_sent() {
    let pod = Pod::up(instant()).await;
    let mut client = pod.tunnel("whoami.test:80").await;
    let chunked = "POST /echo HTTP/1.1\r\nHost: whoami.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let long = format!(
        "PUT / HTTP/1.1\r\nHost: whoami.test\r\nContent-Length: 500000\r\n\r\n{}",
        "x".repeat(500_000)
    );
    for (request, received) in [(chunked, 5), (&long, 500_000)] {
        client.send(request).await;
        let reply = client.reply().await;
        let answer: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!((&answer["received"], &answer["pod"]), (&received.into(), &"gluetun-1".into()));
    }
    client
        .send("POST / HTTP/1.1\r\nHost: whoami.test\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        .await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("ok").await;
    assert_eq!(client.reply().await.status, 200);
}

async fn plain(pod: &Pod, request: &str) -> Client {
    let mut client = pod.connect(8888).await;
    client.send(request).await;
    client
}

#[tokio::test]
async fn plain_requests_go_on_without_hop_headers() {
    let (listener, options) = origin("plain.example").await;
    let gluetun = Arc::new(Gluetun::new(options));
    for (stealth, forwarded) in [("on", ""), ("off", "X-Forwarded-For: 127.0.0.1\r\n")] {
        let mut pod = Pod::run(&gluetun, spec(&[("HTTPPROXY_STEALTH", stealth)]));
        pod.logged("healthy!").await;
        let auth = authorization("user:pass");
        let mut client = plain(
            &pod,
            &format!("POST http://plain.example/a?b HTTP/1.1\r\nHost: plain.example\r\nUpgrade: x\r\nAccept: */*\r\n{auth}Content-Length: 2\r\n\r\nhi"),
        )
        .await;
        let (stream, _) = listener.accept().await.unwrap();
        let mut server = Client { stream, buf: Vec::new() };
        assert_eq!(
            server.head().await,
            format!(
                "POST /a?b HTTP/1.1\r\nHost: plain.example\r\nAccept: */*\r\nContent-Length: 2\r\n{forwarded}Connection: close\r\n\r\n"
            )
        );
        assert_eq!(server.bytes(2).await, "hi");
        server
            .send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nKeep-Alive: 1\r\nX: y\r\n\r\nbody")
            .await;
        drop(server);
        assert_eq!(client.rest().await, "HTTP/1.1 201 Created\r\nX: y\r\nConnection: close\r\n\r\nbody");
    }
}

#[tokio::test]
async fn plain_requests_reach_whoami_and_fail_with_a_500() {
    let pod = Pod::up(instant()).await;
    let auth = authorization("user:pass");
    let mut client =
        plain(&pod, &format!("GET http://whoami.test HTTP/1.1\r\nHost: whoami.test\r\n{auth}\r\n")).await;
    assert_eq!(client.reply().await.body, format!("{WHOAMI}\n"));
    let mut client =
        plain(&pod, &format!("GET http://nx.test/ HTTP/1.1\r\nHost: nx.test\r\n{auth}\r\n")).await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.body.as_str()), (500, "server error\n"));
}

#[tokio::test]
async fn an_upload_is_cut_after_3_seconds() {
    let pod = Pod::up(instant()).await;
    let auth = authorization("user:pass");
    tokio::time::pause();
    let asked = Instant::now();
    let head = format!(
        "POST http://whoami.test/ HTTP/1.1\r\nHost: whoami.test\r\n{auth}Content-Length: 1000\r\n\r\nhalf"
    );
    assert_eq!(plain(&pod, &head).await.reply().await.status, 500);
    took(asked, 3);
}

#[tokio::test]
async fn the_control_server_is_reached_through_the_proxy() {
    let gluetun = Arc::new(Gluetun::new(instant()));
    let role = ("HTTP_CONTROL_SERVER_AUTH_DEFAULT_ROLE", r#"{"auth":"apikey","apikey":"k3y"}"#);
    for (role, header, status) in [
        (("X", ""), "", 200),
        (role, "", 401),
        (role, "X-API-Key: wrong\r\n", 401),
        (role, "X-API-Key: k3y\r\n", 200),
    ] {
        let mut pod = Pod::run(&gluetun, spec(&[role]));
        pod.logged("healthy!").await;
        for host in ["127.0.0.1", "localhost", "0.0.0.0", &pod.spec.pod_ip.to_string()] {
            let mut client = pod.tunnel(&format!("{host}:8000")).await;
            client.send(&format!("GET /v1/vpn/status HTTP/1.1\r\nHost: x\r\n{header}\r\n")).await;
            let reply = client.reply().await;
            assert_eq!(reply.status, status, "{host} {header}");
            assert!(status != 200 || reply.body == "{\"status\":\"running\"}\n", "{}", reply.body);
        }
        // From outside it is not to be had: 8000 is not an input port.
        assert!(pod.try_connect(8000).await.is_err());
    }
}

#[tokio::test]
async fn the_health_server_wants_its_head_within_100_ms() {
    let pod = Pod::up(instant()).await;
    assert_eq!(pod.health().await, (200, String::new()));
    let mut client = pod.connect(9999).await;
    client.send("POST / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(client.reply().await.status, 400);
    tokio::time::pause();
    let silent = Instant::now();
    assert_eq!(pod.connect(9999).await.rest().await, "");
    assert!((100..200).contains(&silent.elapsed().as_millis()), "{:?}", silent.elapsed());
}

#[tokio::test]
async fn a_private_health_server_is_reached_through_the_proxy_alone() {
    let gluetun = Arc::new(Gluetun::new(instant()));
    for change in [("HEALTH_SERVER_ADDRESS", "127.0.0.1:9999"), ("FIREWALL_INPUT_PORTS", "8888")] {
        let mut pod = Pod::run(&gluetun, spec(&[change]));
        pod.logged("healthy!").await;
        assert!(pod.try_connect(9999).await.is_err(), "{change:?}");
        let mut client = pod.tunnel("127.0.0.1:9999").await;
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert_eq!(client.reply().await.status, 200);
    }
}
