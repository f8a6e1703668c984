//! WebSocket, both ways that clients take through a proxy: in a tunnel, and as an `Upgrade` of a plain
//! request. Both ends are a WebSocket implementation that others have written.

use futures::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::support::http::{basic, read_answer};
use crate::support::{PASSWORD, PATIENCE, eventually};

const USER: &str = "demo-country-se";

/// Messages of every kind and size come back, and closing it is agreed on.
async fn talk(mut socket: WebSocketStream<TcpStream>) {
    let messages = [
        Message::text("hello"),
        Message::binary(vec![7; 300_000]),
        Message::text("ö".repeat(40_000)),
        Message::text(""),
    ];
    for message in messages {
        socket.send(message.clone()).await.unwrap();
        let back = tokio::time::timeout(PATIENCE, socket.next()).await.expect("in time").expect("a message");
        assert_eq!(back.unwrap(), message);
    }
    socket.close(None).await.unwrap();
    let end = tokio::time::timeout(PATIENCE, socket.next()).await.expect("in time");
    assert!(matches!(end, Some(Ok(Message::Close(_)))), "{end:?}");
    assert!(tokio::time::timeout(PATIENCE, socket.next()).await.expect("in time").is_none());
}

/// A plain request that asks to switch to WebSocket.
fn upgrade(host: &str, key: &str) -> String {
    format!(
        "GET http://{host}/chat HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: {}\r\n\
         Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {key}\r\n\r\n",
        basic(USER, PASSWORD)
    )
}

on_both! {
    async fn through_a_tunnel(world) {
        let gateway = world.gateway(&[]).await;
        let tunnel = gateway.connect(USER, "websocket.test:80").await.unwrap();
        let (socket, answer) =
            tokio_tungstenite::client_async("ws://websocket.test/chat", tunnel.stream).await.unwrap();
        assert_eq!(answer.status(), 101);
        talk(socket).await;
        eventually("the tunnel to end", || async { gateway.metric("gluetun_gateway_tunnels_open", "").await == 0.0 })
            .await;
    }
}

on_both! {
    async fn as_an_upgrade_of_a_plain_request(world) {
        let gateway = world.gateway(&[]).await;
        // On a fresh connection, and on one that has carried another request.
        for before in [false, true] {
            let mut stream = TcpStream::connect(gateway.proxy).await.unwrap();
            let mut rest = Vec::new();
            if before {
                let get = format!(
                    "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nProxy-Authorization: {}\r\n\r\n",
                    basic(USER, PASSWORD)
                );
                stream.write_all(get.as_bytes()).await.unwrap();
                assert_eq!(read_answer(&mut stream, &mut rest, false).await.text(), "hello");
            }
            let key = generate_key();
            stream.write_all(upgrade("websocket.test", &key).as_bytes()).await.unwrap();
            let answer = read_answer(&mut stream, &mut rest, false).await;
            assert_eq!(answer.status, 101, "{answer:?}");
            assert_eq!(answer.header("sec-websocket-accept"), derive_accept_key(key.as_bytes()));
            assert_eq!(answer.header("upgrade"), "websocket");
            // The answer is there a moment before the tunnel counts.
            eventually("the tunnel to count", || async {
                gateway.metric("gluetun_gateway_tunnels_open", "").await == 1.0
            })
            .await;
            talk(WebSocketStream::from_partially_read(stream, rest, Role::Client, None).await).await;
            eventually("the tunnel to end", || async {
                gateway.metric("gluetun_gateway_tunnels_open", "").await == 0.0
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_does_not_switch_answers_as_ever() {
    let world = crate::support::World::embedded().await;
    let gateway = world.gateway(&[]).await;
    let mut stream = TcpStream::connect(gateway.proxy).await.unwrap();
    let mut rest = Vec::new();
    for _ in 0..2 {
        stream.write_all(upgrade("origin.test", &generate_key()).as_bytes()).await.unwrap();
        let answer = read_answer(&mut stream, &mut rest, false).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "the connection is kept");
    }
    let heads = world.origins.seen();
    assert!(heads.iter().all(|head| head.to_lowercase().contains("\r\nupgrade: websocket\r\n")), "{heads:?}");
    assert!(heads.iter().all(|head| !head.to_lowercase().contains("proxy-authorization")), "{heads:?}");
}
