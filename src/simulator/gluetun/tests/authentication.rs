//! What the proxy answers before it goes anywhere: credentials, versions, forms.

use super::*;

async fn answer(pod: &Pod, request: &str) -> Answer {
    let mut client = pod.connect(8888).await;
    client.send(request).await;
    client.reply().await
}

#[tokio::test]
async fn no_credentials_are_a_407_with_a_challenge() {
    let pod = Pod::up(instant()).await;
    for request in [
        "CONNECT whoami.test:80 HTTP/1.1\r\n\r\n",
        "GET http://whoami.test/ HTTP/1.1\r\nHost: whoami.test\r\n\r\n",
    ] {
        let reply = answer(&pod, request).await;
        assert_eq!(reply.status, 407, "{request}");
        let head = reply.head.replace(&date_of(&reply.head), "D");
        assert_eq!(
            head,
            "HTTP/1.1 407 Proxy Authentication Required\r\n\
             Proxy-Authenticate: Basic realm=\"Access to Gluetun over HTTP\"\r\nDate: D\r\nContent-Length: 0\r\n\r\n"
        );
    }
}

fn date_of(head: &str) -> String {
    head.lines().find_map(|line| line.strip_prefix("Date: ")).unwrap().to_owned()
}

#[tokio::test]
async fn wrong_credentials_are_a_401_without_a_challenge_and_colons_a_400() {
    let pod = Pod::up(instant()).await;
    let good = STANDARD.encode("user:pass");
    for (value, status) in [
        (format!("Basic {good}"), 200),
        (format!("basic {good}"), 401),
        (format!("Bearer {good}"), 401),
        ("Basic !!!".to_owned(), 401),
        (format!("Basic {}", STANDARD.encode("user:wrong")), 401),
        (format!("Basic {}", STANDARD.encode("other:pass")), 401),
        (format!("Basic {}", STANDARD.encode("user:pa:ss")), 400),
        (format!("Basic {}", STANDARD.encode("userpass")), 400),
    ] {
        let reply =
            answer(&pod, &format!("CONNECT whoami.test:80 HTTP/1.1\r\nProxy-Authorization: {value}\r\n\r\n"))
                .await;
        assert_eq!(reply.status, status, "{value}");
        assert!(!reply.head.contains("Proxy-Authenticate"), "{value}");
    }
    assert!(
        !pod.log
            .lines()
            .iter()
            .any(|line| ["wrong", "other", "pa:ss", "user"].iter().any(|secret| line.contains(secret)))
    );
}

#[tokio::test]
async fn a_proxy_without_a_user_asks_for_nothing() {
    let mut pod = Pod::run(&Arc::new(Gluetun::new(instant())), spec(&[("HTTPPROXY_USER", "")]));
    pod.logged("healthy!").await;
    assert_eq!(answer(&pod, "CONNECT whoami.test:80 HTTP/1.1\r\n\r\n").await.status, 200);
}

#[tokio::test]
async fn other_forms_and_versions_are_a_400() {
    let pod = Pod::up(instant()).await;
    let auth = authorization("user:pass");
    for (request, body) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "unsupported scheme\n"),
        (format!("GET ftp://x/ HTTP/1.1\r\nHost: x\r\n{auth}\r\n"), "unsupported scheme\n"),
        (format!("CONNECT whoami.test:80 HTTP/2.0\r\n{auth}\r\n"), "http version not supported\n"),
        ("nonsense\r\n\r\n".to_owned(), "400 Bad Request\n"),
    ] {
        let reply = answer(&pod, &request).await;
        assert_eq!((reply.status, reply.body.as_str()), (400, body), "{request}");
    }
}

#[tokio::test]
async fn the_connection_of_a_refusal_is_usable_until_it_has_been_idle_for_3_seconds() {
    let pod = Pod::up(instant()).await;
    let mut client = pod.connect(8888).await;
    client.send("CONNECT whoami.test:80 HTTP/1.1\r\n\r\n").await;
    assert_eq!(client.reply().await.status, 407);
    client.send(&connect_head("nx.test:80", "")).await;
    assert_eq!(client.reply().await.status, 503);
    tokio::time::pause();
    let idle = Instant::now();
    assert_eq!(client.rest().await, "");
    took(idle, 3);
}

#[tokio::test]
async fn a_silent_connection_is_closed_after_1_second_without_a_word() {
    let pod = Pod::up(instant()).await;
    tokio::time::pause();
    for first in ["", "CONNECT whoami.te"] {
        let silent = Instant::now();
        let mut client = pod.connect(8888).await;
        client.send(first).await;
        assert_eq!(client.rest().await, "");
        took(silent, 1);
    }
}
