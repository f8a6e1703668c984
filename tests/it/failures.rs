//! Pods that fail: those who wait are told why, or get another server; what failed is cleaned up.

use std::time::Duration;

use gluetun_gateway::simulator::gluetun::{Fault, FaultRules};
use gluetun_gateway::simulator::kubelet::{self, Blow, Pods, Rule};

use crate::support::{Options, World, eventually, name};

fn rule(times: Option<u32>, fault: kubelet::Fault) -> Rule {
    Rule { pods: Pods::Any, times, fault }
}

/// A start that fails for a reason that no other server helps with: told at once, and cleaned up.
async fn fails_with(world: &World, class: &str) {
    let gateway = world.gateway(&[("START_ATTEMPT_TIMEOUT", "3s")]).await;
    let answer = gateway.connect("demo-country-se", "whoami.test:80").await.expect_err("no exit");
    assert_eq!((answer.status, answer.code()), (502, "start_failed"), "{}", answer.text());
    assert!(answer.text().contains(class), "{class}: {}", answer.text());
    for secret in ["127.", "gluetun-", "HTTPPROXY", "WIREGUARD"] {
        assert!(!answer.text().contains(secret), "{secret}: {}", answer.text());
    }
    world.emptied().await;
    assert!(gateway.metric("gluetun_gateway_exits_failed_total", class).await >= 1.0);
}

on_both! {
    async fn an_image_that_cannot_be_pulled(world) {
        world.kubelet.faults().add(rule(None, kubelet::Fault::ImagePull { message: None }));
        fails_with(&world, "image_pull").await;
    }
}

on_both! {
    async fn a_pod_that_no_node_takes(world) {
        world.kubelet.faults().add(rule(None, kubelet::Fault::Unschedulable { message: None }));
        fails_with(&world, "unschedulable").await;
    }
}

on_both! {
    async fn a_node_without_a_tun_device(world) {
        world.kubelet.faults().add(rule(None, kubelet::Fault::FailedMount { message: None }));
        fails_with(&world, "tun_missing").await;
    }
}

on_both! {
    async fn a_missing_secret(world) {
        let secrets: kube::Api<k8s_openapi::api::core::v1::Secret> =
            kube::Api::namespaced(world.client.clone(), &world.namespace);
        secrets.delete("gluetun-wireguard-credentials", &kube::api::DeleteParams::default()).await.unwrap();
        fails_with(&world, "missing_secret").await;
    }
}

on_both! {
    async fn a_malformed_key(world) {
        let fault = Fault {
            crash: Some("VPN settings: Wireguard settings: private key is not valid: AAECAwQF".to_owned()),
            ..Fault::default()
        };
        world.gluetun.faults().set(FaultRules { all: fault, ..FaultRules::default() });
        fails_with(&world, "bad_key").await;
    }
}

on_both! {
    async fn every_server_silent(world: Options {
        gluetun: |o| o.silent_check = Duration::from_millis(100),
        ..Options::default()
    }) {
        world.gluetun.faults().set(FaultRules { all: Fault::dead(), ..FaultRules::default() });
        fails_with(&world, "tunnel_silent").await;
    }
}

on_both! {
    async fn a_start_that_fails_is_tried_on_another_server(world: Options {
        gluetun: |o| o.silent_check = Duration::from_millis(100),
        ..Options::default()
    }) {
        // All of Sweden but one server is dead: at most two failures are forgiven, so leave two dead.
        let gateway = world.gateway(&[]).await;
        for (fault, times) in [
            (kubelet::Fault::OutOfMemory { after_ms: 0 }, 1),
            (kubelet::Fault::Exit { code: 1, log: vec!["ERROR something odd".to_owned()], after_ms: 0 }, 2),
        ] {
            let id = world.kubelet.faults().add(rule(Some(times), fault));
            let before = gateway.metric("gluetun_gateway_exits_failed_total", "").await;
            let seen = gateway.exit(&format!("demo-country-us-session-t{times}")).await;
            assert!(seen.cold);
            let failed = gateway.metric("gluetun_gateway_exits_failed_total", "").await - before;
            assert_eq!(failed, f64::from(times));
            world.kubelet.faults().remove(id);
        }
        // What failed is gone; the two that serve are not.
        eventually("failed pods to go", || async { world.pod_list().await.len() == 2 }).await;
    }
}

on_both! {
    async fn a_server_that_failed_is_avoided(world: Options {
        gluetun: |o| o.silent_check = Duration::from_millis(50),
        ..Options::default()
    }) {
        let gateway = world.gateway(&[]).await;
        // Which server it is is chance; so kill whichever is first chosen, for good.
        let first = gateway.exit("demo-country-se-session-a").await;
        world.gluetun.faults().set_for(&first.server, Fault::dead());
        world.delete_pod(&first.pod).await;
        eventually("the pod to go", || async {
            world.pod_list().await.iter().all(|pod| name(pod) != first.pod)
        })
        .await;
        for session in ["b", "c", "d"] {
            let seen = gateway.exit(&format!("demo-country-se-session-{session}")).await;
            assert_ne!(seen.server, first.server);
        }
        // Whoever meets it first pays for all.
        let silent = gateway.metric("gluetun_gateway_exits_failed_total", "tunnel_silent").await;
        assert!(silent <= 1.0, "{silent}");
    }
}

on_both! {
    async fn a_pod_deleted_by_hand_is_replaced_on_demand(world) {
        let gateway = world.gateway(&[]).await;
        let first = gateway.exit("demo-country-se").await;
        let mut tunnel = gateway.connect("demo-country-se", "echo-origin.test:7").await.unwrap();
        world.delete_pod(&first.pod).await;
        tunnel.closed().await;
        let second = gateway.exit("demo-country-se").await;
        assert_ne!(second.pod, first.pod);
        assert_eq!(world.claim_list().await.len(), 1);
    }
}

on_both! {
    async fn an_evicted_pod_is_replaced_on_demand_and_cleaned_up(world) {
        let gateway = world.gateway(&[]).await;
        let first = gateway.exit("demo-country-se").await;
        let mut tunnel = gateway.connect("demo-country-se", "echo-origin.test:7").await.unwrap();
        assert_eq!(world.kubelet.strike(&Pods::Named(first.pod.clone()), &Blow::Evict { message: None }), 1);
        tunnel.closed().await;
        let second = gateway.exit("demo-country-se").await;
        assert_ne!(second.pod, first.pod);
        eventually("the evicted pod to go", || async {
            world.pod_list().await.iter().map(name).collect::<Vec<_>>() == [second.pod.clone()]
        })
        .await;
    }
}

on_both! {
    async fn a_pod_that_never_gets_ready_is_given_up(world) {
        let fault = Fault { never_healthy: true, ..Fault::default() };
        world.gluetun.faults().set(FaultRules { all: fault, ..FaultRules::default() });
        let gateway = world.gateway(&[("START_ATTEMPT_TIMEOUT", "1s"), ("START_TIMEOUT", "20s")]).await;
        let answer = gateway.connect("demo-country-se", "whoami.test:80").await.unwrap_err();
        assert_eq!((answer.status, answer.code()), (502, "start_failed"), "{}", answer.text());
        assert!(answer.text().contains("attempt_timeout"), "{}", answer.text());
        world.emptied().await;
    }
}
