//! Sessions across replicas, restarts and clients that leave.

use crate::support::http::{connect_head, get_through};
use crate::support::process::Process;
use crate::support::{PASSWORD, World, eventually, name};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

on_both! {
    async fn every_replica_reaches_the_same_exit(world) {
        let one = world.gateway(&[("POD_NAME", "gateway-1")]).await;
        let two = world.gateway(&[("POD_NAME", "gateway-2")]).await;
        let first = one.exit("demo-country-se").await;
        assert_eq!(two.exit("demo-country-se").await.pod, first.pod);
        assert_eq!(world.pod_list().await.len(), 1);
        // A tunnel on one keeps the session alive for both.
        let leaders = one.metric("gluetun_gateway_leader", "").await + two.metric("gluetun_gateway_leader", "").await;
        assert_eq!(leaders, 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_finds_its_exits_again() {
    let world = World::embedded().await;
    let mut gateway = Process::start(&world, &[]).await;
    let ask = |proxy| get_through(proxy, "demo-country-se", PASSWORD, "http://whoami.test/");
    let first = ask(gateway.proxy).await;
    assert_eq!(first.status, 200, "{first:?}");
    gateway.signal("KILL").await;
    assert_eq!(gateway.ended().await, None);
    let gateway = Process::start(&world, &[]).await;
    let second = ask(gateway.proxy).await;
    assert_eq!(second.json()["pod"], first.json()["pod"]);
    assert_eq!(world.pod_list().await.len(), 1);
}

on_both! {
    async fn a_client_that_hangs_up_ends_its_own_wait_and_not_the_start(world) {
        let gateway = world.gateway(&[]).await;
        let mut stream = TcpStream::connect(gateway.proxy).await.unwrap();
        stream.write_all(connect_head("demo-country-se", PASSWORD, "whoami.test:80").as_bytes()).await.unwrap();
        eventually("the claim", || async { !world.claim_list().await.is_empty() }).await;
        drop(stream);
        eventually("the wait to end", || async { gateway.metric("gluetun_gateway_waiters", "").await == 0.0 }).await;
        let seen = gateway.exit("demo-country-se").await;
        assert_eq!(world.pod_list().await.iter().map(name).collect::<Vec<_>>(), [seen.pod]);
    }
}

on_both! {
    async fn a_leader_that_goes_is_followed_and_nothing_is_lost(world) {
        let one = world.gateway(&[("POD_NAME", "gateway-1")]).await;
        let first = one.exit("demo-country-se").await;
        let two = world.gateway(&[("POD_NAME", "gateway-2")]).await;
        let mut tunnel = two.connect("demo-country-se", "echo-origin.test:7").await.unwrap();
        one.begin_shutdown();
        assert_eq!(one.ended().await, 0);
        // The other leads now: it can start what is new, and has kept what was there.
        assert_ne!(two.exit("demo-country-de").await.pod, first.pod);
        assert_eq!(two.exit("demo-country-se").await.pod, first.pod);
        assert_eq!(tunnel.echo(b"whole").await, b"whole");
        assert_eq!(two.metric("gluetun_gateway_leader", "").await, 1.0);
    }
}

on_both! {
    async fn a_pods_own_credentials_reach_that_pod(world) {
        let gateway = world.gateway(&[]).await;
        let first = gateway.exit("demo-country-se").await;
        let status = crate::support::http::get(gateway.admin, "/status").await.json();
        let entry = status.as_object().unwrap().values().find(|e| e["pod_name"] == first.pod.as_str()).unwrap().clone();
        let (user, password) = (entry["username"].as_str().unwrap(), entry["password"].as_str().unwrap());
        let answer = get_through(gateway.proxy, user, password, "http://whoami.test/").await;
        assert_eq!(answer.json()["pod"], first.pod.as_str());
        let refused = get_through(gateway.proxy, &format!("{user}-country-us"), password, "http://whoami.test/").await;
        assert_eq!(refused.status, 407);
    }
}
