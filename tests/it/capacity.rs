//! The limit on pods: never exceeded, waited for, told.

use crate::support::{World, eventually, foreign_pod, name};
use kube::api::PostParams;

on_both! {
    async fn at_the_limit_requests_are_held_and_the_first_that_leaves_makes_room(world) {
        let gateway = world.gateway(&[("INSTANCE_LIMIT", "2"), ("IDLE_TIMEOUT", "2s"), ("START_TIMEOUT", "30s")]).await;
        let (one, two) = tokio::join!(
            gateway.connect("demo-country-us-session-1", "echo-origin.test:7"),
            gateway.connect("demo-country-us-session-2", "echo-origin.test:7")
        );
        let (mut one, two) = (one.unwrap(), two.unwrap());
        assert_eq!(one.echo(b"x").await, b"x");
        // Held for two seconds in vain: told which limit.
        let full = gateway.connect("demo-country-us-session-3-wait-2s", "whoami.test:80").await.unwrap_err();
        assert_eq!((full.status, full.code()), (503, "capacity_full"), "{}", full.text());
        assert!(full.text().contains("INSTANCE_LIMIT") && full.text().contains('2'), "{}", full.text());
        assert!(full.header("retry-after").parse::<u64>().is_ok_and(|s| s > 0), "{full:?}");
        assert_eq!(world.pod_list().await.len(), 2);
        // Held until one of the two is idle and gone.
        let third = gateway.connect("demo-country-us-session-3", "whoami.test:80");
        let leaves = async {
            eventually("a waiter", || async { gateway.metric("gluetun_gateway_waiters", "").await == 1.0 }).await;
            drop(two);
        };
        let (third, ()) = tokio::join!(third, leaves);
        assert_eq!(third.unwrap().get("whoami.test").await.status, 200);
        assert_eq!(one.echo(b"y").await, b"y", "the one in use stays");
        assert!(world.live_pods().await.len() <= 2);
    }
}

on_both! {
    async fn pods_of_another_system_count_and_are_left_alone(world) {
        let foreign = foreign_pod("se-mma-wg-001");
        world.pods().create(&PostParams::default(), &foreign).await.unwrap();
        let gateway = world.gateway(&[("INSTANCE_LIMIT", "2"), ("IDLE_TIMEOUT", "2s")]).await;
        let tunnel = gateway.connect("demo-country-us-session-1", "echo-origin.test:7").await.unwrap();
        let full = gateway.connect("demo-country-us-session-2-wait-1s", "whoami.test:80").await.unwrap_err();
        assert_eq!(full.code(), "capacity_full", "{}", full.text());
        let status = crate::support::http::get(gateway.admin, "/status").await.json();
        assert_eq!(status["11111111-2222-3333-4444-555555555555"]["username"], "old");
        drop(tunnel);
        eventually("our own pods to go", || async {
            let names = world.pod_list().await.iter().map(name).collect::<Vec<_>>();
            names == ["gluetun-11111111-2222-3333-4444-555555555555"] && world.claim_list().await.is_empty()
        })
        .await;
        assert_eq!(gateway.metric("gluetun_gateway_pods", "state=\"foreign\"").await, 1.0);
    }
}

on_both! {
    async fn two_replicas_and_many_sessions_never_exceed_the_limit(world) {
        let settings = |name| [("POD_NAME", name), ("INSTANCE_LIMIT", "3"), ("IDLE_TIMEOUT", "2s"), ("START_TIMEOUT", "50s")];
        let one = world.gateway(&settings("gateway-1")).await;
        let two = world.gateway(&settings("gateway-2")).await;
        let watch = async {
            let mut most = 0;
            loop {
                most = most.max(world.live_pods().await.len());
                assert!(most <= 3, "{most} pods");
                tokio::task::yield_now().await;
            }
        };
        let work = async {
            let requests = (0..8).map(|n| {
                let gateway = if n % 2 == 0 { &one } else { &two };
                async move { gateway.exit(&format!("demo-country-us-session-s{n}")).await }
            });
            futures::future::join_all(requests).await
        };
        tokio::select! {
            () = watch => unreachable!(),
            seen = work => assert_eq!(seen.len(), 8),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reached_quota_is_capacity_too() {
    use gluetun_gateway::simulator::api::{Match, Refusal, Verb};
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    let rule = world.api().faults().fail_next(
        u64::MAX,
        Match::on(Verb::Create, "pods"),
        Refusal::quota("x", "pods", 3),
    );
    let full = gateway.connect("demo-country-se-wait-1s", "whoami.test:80").await.unwrap_err();
    assert_eq!((full.status, full.code()), (503, "capacity_full"), "{}", full.text());
    // Waited for: as soon as the quota lets a pod in, the request goes on.
    let held = gateway.connect("demo-country-se", "whoami.test:80");
    let frees = async {
        eventually("a waiter", || async { gateway.metric("gluetun_gateway_waiters", "").await == 1.0 }).await;
        world.api().faults().remove(rule);
    };
    let (held, ()) = tokio::join!(held, frees);
    assert!(held.is_ok(), "{held:?}");
}
