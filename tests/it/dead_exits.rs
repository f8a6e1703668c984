//! Exits that die while their health server says 200, as Gluetun's does for two to three minutes: found
//! out by the gateway itself, replaced on another server, and only then deleted.

use std::time::{Duration, Instant};

use gluetun_gateway::simulator::gluetun::Fault;

use crate::support::http::get_through;
use crate::support::{Options, PASSWORD, World, eventually, name};

/// How long a silent CONNECT is waited for, and its check.
const FOUND: Duration = Duration::from_secs(8);

on_both! {
    async fn a_dead_exit_that_calls_itself_healthy_is_found_out_and_replaced(world: Options {
        pod_start: Duration::from_millis(300), ..Options::default()
    }) {
        let gateway = world.gateway(&[]).await;
        let first = gateway.exit("demo-country-se").await;
        let mut open = gateway.connect("demo-country-se", "echo-origin.test:7").await.unwrap();
        assert_eq!(open.echo(b"before").await, b"before");
        // The first check has been passed by then.
        world.gluetun.faults().set_for(&first.pod, Fault::dead());
        let begun = Instant::now();
        // Twenty that hang, and one that comes when the exit is known to be dead: all are served by the
        // replacement.
        let hanging = futures::future::join_all((0..20).map(|_| async {
            let seen = gateway.exit("demo-country-se").await;
            (seen, begun.elapsed())
        }));
        let late = async {
            eventually("the exit to be found out", || async {
                gateway.metric("gluetun_gateway_exits_failed_total", "dead").await == 1.0
            })
            .await;
            let found = begun.elapsed();
            (gateway.exit("demo-country-se").await, found)
        };
        let (mut seen, (last, found)) = tokio::join!(hanging, late);
        assert!(found >= Duration::from_secs(5), "{found:?}: a healthy exit would have been condemned");
        seen.push((last, begun.elapsed()));
        let took = seen.iter().map(|(_, took)| *took).max().unwrap();
        for (seen, _) in &seen {
            assert_ne!(seen.pod, first.pod);
            assert_ne!(seen.server, first.server);
        }
        println!("from the first hanging request to service for all twenty-one: {took:?} (pod start 0.3 s)");
        // 10 s plus the pod's start; generous, since this machine may be busy.
        assert!(took < FOUND + Duration::from_secs(12), "{took:?}");
        assert_eq!(world.claim_list().await.len(), 1);
        // The open tunnel is not cut: when the server is back in time, it goes on.
        assert!(world.pod_list().await.iter().any(|pod| name(pod) == first.pod));
        world.gluetun.faults().clear();
        assert_eq!(open.echo(b"after").await, b"after");
        // And new requests do not go back to it.
        assert_ne!(gateway.exit("demo-country-se").await.pod, first.pod);
    }
}

on_both! {
    async fn a_dead_exits_pod_goes_when_its_last_tunnel_has_ended(world) {
        let gateway = world.gateway(&[("IDLE_TIMEOUT", "6s")]).await;
        let user = "demo-country-se";
        let first = gateway.exit(user).await;
        let open = gateway.connect(user, "echo-origin.test:7").await.unwrap();
        world.gluetun.faults().set_for(&first.pod, Fault::dead());
        let second = gateway.connect(user, "echo-origin.test:7").await.unwrap();
        // Twice as long as an exit without tunnels would stay.
        world.in_use_for(0, Duration::from_secs(6)).await;
        assert!(world.pod_list().await.iter().any(|pod| name(pod) == first.pod), "it has a tunnel");
        drop(open);
        eventually("the dead exit's pod to go", || async {
            world.live_pods().await.iter().all(|pod| name(pod) != first.pod)
        })
        .await;
        drop(second);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_destination_does_not_condemn_a_healthy_exit() {
    let world = World::embedded().await;
    // An IPv6 literal hangs in an exit without IPv6.
    let gateway = world.gateway(&[("CONNECT_TIMEOUT", "7s"), ("EXIT_IPV6", "on")]).await;
    let first = gateway.exit("demo-country-se").await;
    let slow = futures::future::join_all(
        (0..5).map(|_| gateway.connect("demo-country-se", "[2606:4700:4700::1111]:443")),
    );
    for answer in slow.await {
        let answer = answer.unwrap_err();
        assert_eq!((answer.status, answer.code()), (504, "upstream_timeout"), "{}", answer.text());
    }
    assert_eq!(gateway.exit("demo-country-se").await.pod, first.pod);
    assert_eq!(gateway.metric("gluetun_gateway_exits_failed_total", "").await, 0.0);
}

on_both! {
    async fn a_strict_session_is_told_that_its_exit_is_lost(world) {
        let gateway = world.gateway(&[("CONNECT_TIMEOUT", "2s")]).await;
        let user = "demo-country-se-mode-strict";
        let first = gateway.exit(user).await;
        world.gluetun.faults().set_for(&first.pod, Fault::dead());
        let answer = gateway.connect(user, "1.0.0.1:53").await.unwrap_err();
        assert_eq!((answer.status, answer.code()), (502, "exit_lost"), "{}", answer.text());
        // From now on it is told so, whether or not the server comes back.
        world.gluetun.faults().clear();
        let answer = gateway.connect(user, "whoami.test:80").await.unwrap_err();
        assert_eq!(answer.code(), "exit_lost", "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_finds_an_exit_dead_at_its_own_start_replaces_it() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    let first = gateway.exit("demo-country-se").await;
    gateway.begin_shutdown();
    assert_eq!(gateway.ended().await, 0);
    // Nobody has seen it alive.
    world.gluetun.faults().set_for(&first.pod, Fault::dead());
    let gateway = world.gateway(&[("CONNECT_TIMEOUT", "2s")]).await;
    let answer = get_through(gateway.proxy, "demo-country-se", PASSWORD, "http://whoami.test/").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_ne!(answer.json()["pod"], first.pod.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_word_that_an_exit_is_dead_is_written_however_often_that_fails() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[("CONNECT_TIMEOUT", "2s")]).await;
    let first = gateway.exit("demo-country-se").await;
    world.gluetun.faults().set_for(&first.pod, Fault::dead());
    world.api().faults().set_down_for("gateway-1", true);
    let answer = gateway.connect("demo-country-se-wait-6s", "1.0.0.1:53").await.unwrap_err();
    assert!(["control_plane_unavailable", "start_timeout"].contains(&answer.code()), "{}", answer.text());
    world.api().faults().set_down_for("gateway-1", false);
    assert_ne!(gateway.exit("demo-country-se").await.pod, first.pod);
}
