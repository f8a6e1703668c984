//! CONNECT: its answers, and the bytes that a tunnel loses.

use super::*;

/// How long nothing must come for a request to count as hanging; the clock is paused.
const FOR_GOOD: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn the_200_is_as_go_writes_it() {
    let pod = Pod::up(instant()).await;
    for (headers, more) in [("", ""), (ANNOUNCED, "Connection: close\r\n")] {
        let head = pod.ask("echo.test:7", headers).await.head().await;
        let date = head.lines().find(|line| line.starts_with("Date: ")).unwrap().to_owned();
        assert_eq!(head, format!("HTTP/1.1 200 OK\r\n{date}\r\n{more}Transfer-Encoding: chunked\r\n\r\n"));
    }
}

#[tokio::test]
async fn the_first_byte_is_lost_unless_a_long_body_was_announced() {
    let pod = Pod::up(instant()).await;
    for (headers, echoed) in [
        ("", "ello"),
        ("Content-Length: 0\r\n", "ello"),
        ("Content-Length: 262144\r\n", "hello"),
        (ANNOUNCED, "hello"),
    ] {
        let mut client = pod.ask("echo.test:7", headers).await;
        client.head().await;
        client.send("hello").await;
        assert_eq!(client.bytes(echoed.len()).await, echoed, "{headers}");
        client.send(" world").await;
        assert_eq!(client.bytes(6).await, " world", "{headers}");
    }
}

#[tokio::test]
async fn bytes_in_the_heads_segment_are_thrown_away() {
    let pod = Pod::up(instant()).await;
    for (headers, echoed) in [("", "ater"), (ANNOUNCED, "later")] {
        let mut client = pod.connect(8888).await;
        client.send(&format!("{}early", connect_head("echo.test:7", headers))).await;
        client.head().await;
        client.send("later").await;
        assert_eq!(client.bytes(echoed.len()).await, echoed, "{headers}");
    }
}

#[tokio::test]
async fn bytes_before_the_200_lose_their_first() {
    let gluetun = Arc::new(Gluetun::new(instant()));
    for headers in ["", ANNOUNCED] {
        let mut pod = Pod::run(&gluetun, spec(&[]));
        pod.logged("healthy!").await;
        // The dial hangs for a moment in a dead exit, so that the bytes come before its end.
        gluetun.faults().set_for(SERVER, crate::simulator::gluetun::Fault::dead());
        let mut client = pod.ask("echo.test:7", headers).await;
        client.stream.set_nodelay(true).unwrap();
        pod.all_served().await;
        client.send("LATER").await;
        gluetun.faults().clear();
        client.head().await;
        assert_eq!(client.bytes(4).await, "ATER", "{headers}");
    }
}

#[tokio::test]
async fn a_short_body_is_waited_for_3_seconds() {
    let pod = Pod::up(instant()).await;
    let mut client = pod.ask("echo.test:7", "Content-Length: 5\r\n").await;
    client.send("12345").await;
    assert!(!client.head().await.contains("Connection: close"));
    tokio::time::pause();
    for (target, status) in [("echo.test:7", "200 OK"), ("nx.test:80", "503 Service Unavailable")] {
        let asked = Instant::now();
        let head = pod.ask(target, "Content-Length: 1000\r\n").await.head().await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status}\r\n")) && head.contains("Connection: close\r\n"),
            "{head}"
        );
        took(asked, 3);
    }
}

#[tokio::test]
async fn failed_dials_have_gos_texts() {
    // Bound and not listening: nobody else gets the port, and a connection is refused.
    let closed = tokio::net::TcpSocket::new_v4().unwrap();
    closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = closed.local_addr().unwrap();
    let mut options = instant();
    options.hosts.insert("refuses.example".to_owned(), address);
    let pod = Pod::up(options).await;
    for (target, text) in [
        (address.to_string(), format!("dial tcp {address}: connect: connection refused\n")),
        ("refuses.example:81".to_owned(), format!("dial tcp {address}: connect: connection refused\n")),
        ("whoami.test:81".to_owned(), "dial tcp 198.18.0.1:81: connect: connection refused\n".to_owned()),
        ("nx.test:80".to_owned(), "dial tcp: lookup nx.test on 127.0.0.1:53: no such host\n".to_owned()),
        (
            "NX.invalid.:80".to_owned(),
            "dial tcp: lookup nx.invalid on 127.0.0.1:53: no such host\n".to_owned(),
        ),
        ("whoami.test".to_owned(), "dial tcp: address whoami.test: missing port in address\n".to_owned()),
        ("whoami.test:x".to_owned(), "dial tcp: lookup tcp/x: unknown port\n".to_owned()),
    ] {
        assert_eq!(pod.answer(&target).await, (503, text), "{target}");
    }
}

#[tokio::test]
async fn a_503_leaves_the_connection_usable_unless_a_long_body_was_announced() {
    let pod = Pod::up(instant()).await;
    let mut client = pod.ask("nx.test:80", "").await;
    let reply = client.reply().await;
    assert!(reply.status == 503 && !reply.head.contains("Connection"), "{reply:?}");
    assert!(
        reply.head.contains("Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n")
    );
    client.send(&connect_head("nx.test:80", ANNOUNCED)).await;
    let reply = client.reply().await;
    assert!(reply.status == 503 && reply.head.contains("Connection: close\r\n"), "{reply:?}");
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn there_is_no_half_close() {
    let (listener, options) = origin("slow.example").await;
    let pod = Pod::up(options).await;
    let mut client = pod.tunnel("slow.example:80").await;
    let (mut server, _) = listener.accept().await.unwrap();
    client.send("question").await;
    client.stream.shutdown().await.unwrap();
    let mut question = Vec::new();
    server.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question");
    assert_eq!(client.rest().await, "");

    let mut client = pod.tunnel("slow.example:80").await;
    let (mut server, _) = listener.accept().await.unwrap();
    server.write_all(b"answer").await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(client.rest().await, "answer");
    let mut rest = Vec::new();
    server.read_to_end(&mut rest).await.unwrap();
}

#[tokio::test]
async fn a_name_can_be_set_with_and_without_its_port() {
    let (listener, mut options) = origin("a.example:81").await;
    let address = listener.local_addr().unwrap();
    options.hosts.insert("93.184.216.34".to_owned(), SocketAddr::new(address.ip(), 0));
    let pod = Pod::up(options).await;
    for target in
        ["A.example:81".to_owned(), format!("93.184.216.34:{}", address.port()), address.to_string()]
    {
        let mut client = pod.tunnel(&target).await;
        let (mut server, _) = listener.accept().await.unwrap();
        server.write_all(b"hello").await.unwrap();
        assert_eq!(client.bytes(5).await, "hello", "{target}");
    }
}

#[tokio::test]
async fn before_the_tunnel_is_there_addresses_hang_and_names_fail_at_once() {
    let gluetun = Arc::new(Gluetun::new(instant()));
    let fault = crate::simulator::gluetun::Fault { never_healthy: true, ..Default::default() };
    gluetun.faults().set_for(SERVER, fault);
    let mut pod = Pod::run(&gluetun, spec(&[]));
    pod.logged("[http server] listening").await;
    let (status, text) = pod.answer("whoami.test:80").await;
    let text = text.strip_prefix("dial tcp: lookup whoami.test on 1.1.1.1:53: write udp ").unwrap();
    assert!(
        status == 503 && text.ends_with("->1.1.1.1:53: write: operation not permitted\n"),
        "{status} {text}"
    );
    let mut clients = [pod.ask("192.0.2.1:80", "").await, pod.ask("1.1.1.1:53", ANNOUNCED).await];
    tokio::time::pause();
    for client in &mut clients {
        let nothing = tokio::time::timeout(FOR_GOOD, client.stream.read_buf(&mut client.buf)).await;
        assert!(nothing.is_err(), "{nothing:?}");
    }
    tokio::time::resume();
    // Also once the tunnel is there: their sockets are lost. A fresh one is not.
    gluetun.faults().clear();
    pod.logged("healthy!").await;
    pod.tunnel("1.1.1.1:53").await;
    tokio::time::pause();
    for client in &mut clients {
        assert!(tokio::time::timeout(FOR_GOOD, client.stream.read_buf(&mut client.buf)).await.is_err());
    }
}

#[tokio::test]
async fn ipv6_literals_hang_and_resolvers_hold() {
    let pod = Pod::up(instant()).await;
    let mut clients = [
        pod.ask("[2001:db8::1]:443", ANNOUNCED).await,
        pod.tunnel("1.1.1.1:53").await,
        pod.tunnel("8.8.8.8:53").await,
    ];
    tokio::time::pause();
    for client in &mut clients {
        let nothing = tokio::time::timeout(FOR_GOOD, client.stream.read_buf(&mut client.buf)).await;
        assert!(nothing.is_err(), "{nothing:?}");
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_ends_its_dial() {
    let pod = Pod::up(instant()).await;
    let mut client = pod.ask("[2001:db8::1]:443", ANNOUNCED).await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn hundreds_of_tunnels_stand_side_by_side() {
    let pod = Pod::up(instant()).await;
    let mut clients = Vec::new();
    for _ in 0..150 {
        clients.push(pod.ask("echo.test:7", ANNOUNCED).await);
    }
    for client in &mut clients {
        client.head().await;
        client.send("ping").await;
    }
    for client in &mut clients {
        assert_eq!(client.bytes(4).await, "ping");
    }
}
