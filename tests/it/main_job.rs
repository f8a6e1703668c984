//! The main job: a proxy credential becomes a VPN exit.

use crate::support::eventually;
use crate::support::http::{PATIENCE, connect_head, get_through, read_answer};

on_both! {
    async fn a_credential_becomes_an_exit_by_connect_and_by_absolute_form(world) {
        let gateway = world.gateway(&[]).await;
        let first = gateway.exit("demo-country-se").await;
        assert_eq!(first.country, "Sweden");
        assert!(first.cold);
        let again = gateway.exit("demo-country-se").await;
        assert_eq!((again.pod.as_str(), again.cold), (first.pod.as_str(), false));
        // Absolute form, another spelling of the same selector.
        let plain = gateway.get("demo-country-SWEDEN", "http://whoami.test/").await;
        assert_eq!(plain.status, 200);
        assert_eq!(plain.json()["pod"], first.pod.as_str());
        assert!(!plain.header("x-gateway-request-id").is_empty());

        let city = gateway.exit("demo-country-us-city-new-york").await;
        assert_eq!((city.country.as_str(), city.city.as_str()), ("USA", "New York NY"));
        assert_ne!(city.pod, first.pod);
        assert_eq!(world.pod_list().await.len(), 2);
    }
}

on_both! {
    async fn sessions_have_exits_of_their_own_and_keep_them(world) {
        let gateway = world.gateway(&[]).await;
        let (a, b) = tokio::join!(gateway.exit("demo-country-us-session-a"), gateway.exit("demo-country-us-session-b"));
        assert_ne!(a.pod, b.pod);
        assert_ne!(a.server, b.server, "two pods never share a key and a server");
        assert_eq!(gateway.exit("demo-session-a-country-us").await.pod, a.pod, "the order does not matter");
        assert_eq!(gateway.exit("demo-country-us-session-b").await.pod, b.pod);
        // Another account's session of the same name is another session.
        assert_ne!(gateway.exit("alice-country-us-session-a").await.pod, a.pod);
    }
}

on_both! {
    async fn a_hit_makes_no_request_to_the_api_server(world) {
        let gateway = world.gateway(&[]).await;
        let first = gateway.exit("demo-country-se").await;
        // The claim's last word (the exit is ready) is written after the client has its exit.
        eventually("the claim to name its holder", || async {
            world.claim_list().await.iter().all(|l| l.spec.as_ref().is_some_and(|s| s.holder_identity.is_some()))
        })
        .await;
        // Creations are Events here, and the leader's own lease is renewed by updates.
        let requests = || async {
            let mut sum = 0.0;
            for verb in ["get", "list", "patch", "delete"] {
                let labels = format!("verb=\"{verb}\"");
                sum += gateway.metric("gluetun_gateway_kubernetes_requests_total", &labels).await;
            }
            sum
        };
        let before = requests().await;
        for _ in 0..50 {
            assert_eq!(gateway.exit("demo-country-se").await.pod, first.pod);
        }
        assert_eq!(requests().await, before);
        assert_eq!(world.claim_list().await.len(), 1);
    }
}

on_both! {
    async fn a_thousand_requests_make_one_claim_and_one_pod(world) {
        let one = world.gateway(&[("POD_NAME", "gateway-1")]).await;
        let two = world.gateway(&[("POD_NAME", "gateway-2")]).await;
        let requests = (0..1000).map(|n| {
            let proxy = if n % 2 == 0 { one.proxy } else { two.proxy };
            tokio::spawn(async move {
                get_through(proxy, "demo-country-se-session-many", crate::support::PASSWORD, "http://whoami.test/").await
            })
        });
        let requests: Vec<_> = requests.collect();
        let mut pods = std::collections::BTreeSet::new();
        for request in requests {
            let answer = request.await.unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            pods.insert(answer.json()["pod"].as_str().unwrap().to_owned());
        }
        assert_eq!(pods.len(), 1, "{pods:?}");
        assert_eq!(world.pod_list().await.len(), 1);
        assert_eq!(world.claim_list().await.len(), 1);
    }
}

on_both! {
    async fn connect_tells_which_exit_it_is(world) {
        let gateway = world.gateway(&[]).await;
        let tunnel = gateway.connect("demo-country-se-ttl-30m", "whoami.test:80").await.unwrap();
        let answer = &tunnel.answer;
        assert_eq!(answer.header("x-gateway-exit-country"), "Sweden");
        assert!(answer.header("x-gateway-exit").starts_with("se-"), "{answer:?}");
        assert_eq!(answer.header("x-gateway-cold-start"), "true");
        assert!(answer.header("x-gateway-wait-ms").parse::<u64>().is_ok(), "{answer:?}");
        assert!(!answer.header("x-gateway-request-id").is_empty());
        assert_eq!((answer.header("content-length"), answer.header("transfer-encoding")), ("", ""));
    }
}

on_both! {
    async fn bytes_sent_before_the_200_arrive_whole(world) {
        use tokio::io::AsyncWriteExt;
        let gateway = world.gateway(&[]).await;
        let mut stream = tokio::net::TcpStream::connect(gateway.proxy).await.unwrap();
        // In one segment with the head, while the exit does not even exist.
        let mut bytes = connect_head("demo-country-se", crate::support::PASSWORD, "whoami.test:80").into_bytes();
        bytes.extend_from_slice(b"GET / HTTP/1.1\r\nHost: whoami.test\r\n\r\n");
        stream.write_all(&bytes).await.unwrap();
        let mut rest = Vec::new();
        assert_eq!(read_answer(&mut stream, &mut rest, true).await.status, 200);
        let answer = read_answer(&mut stream, &mut rest, false).await;
        assert_eq!(answer.json()["country"], "Sweden");
    }
}

on_both! {
    async fn idle_exits_go_and_come_back(world) {
        let gateway = world.gateway(&[("IDLE_TIMEOUT", "2s")]).await;
        let first = gateway.exit("demo-country-se").await;
        world.emptied().await;
        let second = gateway.exit("demo-country-se").await;
        assert!(second.cold);
        assert_ne!(first.pod, second.pod);
    }
}

on_both! {
    async fn an_open_tunnel_is_never_idle(world) {
        let gateway = world.gateway(&[("IDLE_TIMEOUT", "2s")]).await;
        let mut tunnel = gateway.connect("demo-country-se", "echo-origin.test:7").await.unwrap();
        let claim = || async { world.claim_list().await.pop().expect("the claim lives").spec.unwrap().renew_time };
        // Three renewals of a tunnel that says nothing: more than the idle timeout by far.
        let mut seen = claim().await;
        for _ in 0..6 {
            eventually("a renewal", || async { claim().await != seen }).await;
            seen = claim().await;
        }
        assert_eq!(tunnel.echo(b"still here").await, b"still here");
        drop(tunnel);
        world.emptied().await;
    }
}

on_both! {
    async fn no_credential_of_a_client_reaches_the_origin_or_the_pod(world) {
        let gateway = world.gateway(&[]).await;
        let answer = gateway.get("demo-country-se", "http://origin.test/page?x=1").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
        assert_eq!(answer.header("x-origin"), "yes");
        let seen = world.origins.seen().concat();
        assert!(seen.starts_with("GET /page?x=1 HTTP/1.1\r\n"), "{seen}");
        let lower = seen.to_ascii_lowercase();
        for secret in ["proxy-", "authorization", "via:", "x-forwarded", "x-gateway"] {
            assert!(!lower.contains(secret), "{secret}: {seen}");
        }
    }
}

on_both! {
    async fn keep_alive_reuses_connection_and_exit(world) {
        use tokio::io::AsyncWriteExt;
        let gateway = world.gateway(&[]).await;
        gateway.exit("demo-country-se").await;
        let mut stream = tokio::net::TcpStream::connect(gateway.proxy).await.unwrap();
        let request = format!(
            "GET http://whoami.test/ HTTP/1.1\r\nHost: whoami.test\r\nProxy-Authorization: {}\r\n\r\n",
            crate::support::http::basic("demo-country-se", crate::support::PASSWORD)
        );
        let mut rest = Vec::new();
        for _ in 0..5 {
            stream.write_all(request.as_bytes()).await.unwrap();
            let answer = tokio::time::timeout(PATIENCE, read_answer(&mut stream, &mut rest, false)).await.unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        // And a CONNECT after plain requests, on the same connection.
        let head = connect_head("demo-country-se", crate::support::PASSWORD, "whoami.test:80");
        stream.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(read_answer(&mut stream, &mut rest, true).await.status, 200);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: whoami.test\r\n\r\n").await.unwrap();
        assert_eq!(read_answer(&mut stream, &mut rest, false).await.status, 200);
    }
}
