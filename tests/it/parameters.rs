//! What clients set by their usernames: how long an exit stays, how old it gets, how long a request is
//! held, and what happens when the exit is lost.

use std::time::{Duration, SystemTime};

use gluetun_gateway::simulator::kubelet::{Blow, Pods};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;

use crate::support::{Gateway, Tunnel, World, eventually, name};

/// Lets the exit of the world's one claim expire now instead of in a minute, the shortest `ttl`.
async fn expire(world: &World) {
    eventually("the exit to be on record", || async {
        let claim = world.claim_list().await.remove(0);
        claim.metadata.annotations.is_some_and(|notes| notes.contains_key("gluetun-gateway/expires"))
    })
    .await;
    let claim = world.claim_list().await.remove(0);
    let note = serde_json::json!({ "metadata": { "annotations": {
        "gluetun-gateway/expires": humantime::format_rfc3339_seconds(SystemTime::now() - Duration::from_secs(1)).to_string(),
    } } });
    let patch = kube::api::Patch::Merge(note);
    let name = claim.metadata.name.unwrap();
    world.leases().patch(&name, &kube::api::PatchParams::default(), &patch).await.unwrap();
}

async fn open(gateway: &Gateway, user: &str) -> Tunnel {
    gateway.connect(user, "echo-origin.test:7").await.unwrap_or_else(|e| panic!("{user}: {}", e.text()))
}

/// Seconds until the header's time.
fn expires_in(tunnel: &Tunnel) -> u64 {
    let text = tunnel.answer.header("x-gateway-session-expires");
    let at = humantime::parse_rfc3339(text).unwrap_or_else(|e| panic!("{e}: {:?}", tunnel.answer));
    at.duration_since(SystemTime::now()).unwrap_or_default().as_secs()
}

on_both! {
    async fn the_times_of_the_request_that_made_the_session_rule_it_and_the_headers_tell(world) {
        let gateway = world.gateway(&[]).await;
        let first = open(&gateway, "demo-country-se-idle-40s-ttl-10m").await;
        assert_eq!(first.answer.header("x-gateway-session-idle"), "40s");
        assert!((590..=600).contains(&expires_in(&first)), "{:?}", first.answer);
        // Other wishes, the same session: it is told what applies.
        for user in ["demo-country-se", "demo-country-se-idle-5m-ttl-1m", "demo-country-se-wait-1s"] {
            let later = open(&gateway, user).await;
            assert_eq!(later.answer.header("x-gateway-session-idle"), "40s", "{user}");
            assert!((580..=600).contains(&expires_in(&later)), "{user}: {:?}", later.answer);
        }
        assert_eq!(world.pod_list().await.len(), 1);
        let lease = world.claim_list().await.remove(0);
        assert_eq!(lease.spec.as_ref().unwrap().lease_duration_seconds, Some(40));
        assert_eq!(lease.metadata.annotations.as_ref().unwrap()["gluetun-gateway/ttl"], "10m");
        // A session without a ttl has no such header.
        let other = open(&gateway, "demo-country-us").await;
        assert_eq!(other.answer.header("x-gateway-session-expires"), "");
        assert_eq!(other.answer.header("x-gateway-session-idle"), "300s");
    }
}

on_both! {
    async fn a_request_that_does_not_wait_gets_an_exit_that_was_long_unused(world) {
        let one = world.gateway(&[("POD_NAME", "gateway-1")]).await;
        let two = world.gateway(&[("POD_NAME", "gateway-2")]).await;
        let exit = one.exit("demo-country-se").await;
        // The one replica that has used it is gone, with its last use written: nobody renews it any more.
        one.begin_shutdown();
        assert_eq!(one.ended().await, 0);
        let claim = world.claim_list().await.remove(0);
        let long_ago = humantime::format_rfc3339_micros(SystemTime::now() - Duration::from_secs(240)).to_string();
        let patch = kube::api::Patch::Merge(serde_json::json!({ "spec": { "renewTime": long_ago } }));
        let name = claim.metadata.name.unwrap();
        world.leases().patch(&name, &kube::api::PatchParams::default(), &patch).await.unwrap();
        eventually("the other to see it", || async {
            let list = crate::support::http::get(two.admin, "/v1/sessions").await.json();
            let session = &list["sessions"][0];
            session["state"] == "ready" && session["idle_seconds"].as_u64().is_some_and(|seconds| seconds >= 240)
        })
        .await;
        let tunnel = two.connect("demo-country-se-wait-0s", "whoami.test:80").await;
        let seen = tunnel.unwrap_or_else(|refused| panic!("{}", refused.text())).get("whoami.test").await;
        assert_eq!(seen.json()["pod"], exit.pod.as_str());
        // And it has been renewed before it was used.
        let renewed = world.claim_list().await.remove(0).spec.unwrap().renew_time.unwrap().0;
        assert!(k8s_openapi::jiff::Timestamp::now().duration_since(renewed).as_secs() < 60, "{renewed}");
    }
}

on_both! {
    async fn at_the_end_of_its_ttl_a_session_gets_a_new_exit_and_open_tunnels_finish_on_the_old(world) {
        let gateway = world.gateway(&[]).await;
        let user = "demo-country-se-ttl-1m-idle-30s";
        let first = gateway.exit(user).await;
        let mut old = open(&gateway, user).await;
        expire(&world).await;
        eventually("the replica to see it", || async { gateway.exit(user).await.pod != first.pod }).await;
        let second = gateway.connect(user, "whoami.test:80").await.unwrap();
        assert!((50..=60).contains(&expires_in(&second)), "the new one has its own: {:?}", second.answer);
        // Make before break: both are there, and the tunnel has noticed nothing.
        assert_eq!(world.live_pods().await.len(), 2);
        assert_eq!(old.echo(b"on the old one").await, b"on the old one");
        // Longer than half the idle time, after which an exit that nobody uses goes.
        world.in_use_for(0, Duration::from_secs(16)).await;
        assert_eq!(old.echo(b"still").await, b"still");
        assert_eq!(world.live_pods().await.len(), 2);
        drop(old);
        eventually("the old one to go", || async {
            world.live_pods().await.iter().all(|pod| name(pod) != first.pod)
        })
        .await;
    }
}

on_both! {
    async fn without_room_the_new_exit_comes_after_the_last_tunnel_on_the_old(world) {
        let gateway = world.gateway(&[("INSTANCE_LIMIT", "1"), ("DRAIN_TIMEOUT", "2s"), ("START_TIMEOUT", "50s")]).await;
        let user = "demo-country-se-ttl-1m-idle-30s";
        let first = gateway.exit(user).await;
        let mut old = open(&gateway, user).await;
        expire(&world).await;
        eventually("the replica to see it", || async {
            gateway.connect(&format!("{user}-wait-0s"), "whoami.test:80").await.is_err()
        })
        .await;
        // Held in vain for as long as the tunnel is open, far beyond what a drain may take.
        let full = gateway.connect(&format!("{user}-wait-16s"), "whoami.test:80").await.unwrap_err();
        assert_eq!((full.status, full.code()), (503, "capacity_full"), "{}", full.text());
        assert_eq!(old.echo(b"whole").await, b"whole");
        let held = gateway.exit(user);
        let ends = async {
            eventually("a waiter", || async { gateway.metric("gluetun_gateway_waiters", "").await == 1.0 }).await;
            drop(old);
        };
        let (second, ()) = tokio::join!(held, ends);
        assert_ne!(second.pod, first.pod);
        assert!(world.live_pods().await.len() <= 1);
    }
}

on_both! {
    async fn a_strict_session_that_lost_its_exit_says_so_until_it_ends(world) {
        let gateway = world.gateway(&[("IDLE_TIMEOUT", "3s")]).await;
        let user = "demo-country-se-mode-strict";
        let first = gateway.exit(user).await;
        let record = world.claim_list().await.remove(0);
        // It was on record before anyone got it: whoever leads next knows.
        assert_eq!(record.metadata.annotations.as_ref().unwrap()["gluetun-gateway/ready"], "0");
        world.delete_pod(&first.pod).await;
        eventually("the loss to be told", || async {
            match gateway.connect(user, "whoami.test:80").await {
                Ok(mut tunnel) => {
                    // Never another address.
                    let answer = tunnel.get("whoami.test").await;
                    assert_eq!(answer.json()["pod"], first.pod.as_str());
                    false
                }
                Err(answer) => answer.code() == "exit_lost",
            }
        })
        .await;
        // Asking goes on to be told so, and keeps the session for longer than it could be idle.
        let renewed = |claim: &Lease| claim.spec.as_ref().unwrap().renew_time.as_ref().unwrap().0;
        eventually("the session to outlive its idle time", || async {
            let answer = gateway.connect(user, "whoami.test:80").await.unwrap_err();
            assert_eq!((answer.status, answer.code()), (502, "exit_lost"), "{}", answer.text());
            let claim = world.claim_list().await.remove(0);
            assert_eq!(claim.metadata.uid, record.metadata.uid);
            renewed(&claim).duration_since(renewed(&record)).as_secs() > 3
        })
        .await;
        // Another session of the same place is not affected.
        assert_ne!(gateway.exit("demo-country-se-session-other").await.pod, first.pod);
        // Nobody asks for the idle time: the client has let go of it.
        world.emptied().await;
        assert_ne!(gateway.exit(user).await.pod, first.pod);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_exit_is_given_to_nobody_before_it_is_on_record() {
    use gluetun_gateway::simulator::api::{Match, Refusal, Verb};
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    eventually("a leader", || async { gateway.metric("gluetun_gateway_leader", "").await == 1.0 }).await;
    // No claim can be changed: the exit comes up, and the claim cannot say so.
    let rule = world.api().faults().fail_next(
        u64::MAX,
        Match::on(Verb::Patch, "leases").from_agent("gateway-1"),
        Refusal::unavailable(),
    );
    let strict = gateway.connect("demo-country-se-mode-strict-wait-3s", "whoami.test:80").await.unwrap_err();
    assert!(["start_timeout", "control_plane_unavailable"].contains(&strict.code()), "{}", strict.text());
    // Where the address may change, nobody waits for that.
    assert!(gateway.exit("demo-country-us").await.cold);
    world.api().faults().remove(rule);
    assert_eq!(gateway.exit("demo-country-se-mode-strict").await.country, "Sweden");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_cold_start_waits_little_longer_than_another() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    gateway.exit("demo-country-us").await;
    let wait = async |user: String| {
        let tunnel = gateway.connect(&user, "whoami.test:80").await.unwrap();
        tunnel.answer.header("x-gateway-wait-ms").parse::<u64>().unwrap()
    };
    let flex = wait("demo-country-se".to_owned()).await;
    let strict = wait("demo-country-se-mode-strict".to_owned()).await;
    println!("cold start: {flex} ms, strict {strict} ms");
    assert!(strict < flex + 2000, "{strict} ms, {flex} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_story_of_an_exit_that_ran_out_of_memory_is_told_as_it_was() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    let first = gateway.exit("demo-country-se").await;
    eventually("the exit to be on record", || async {
        world.claim_list().await[0].spec.as_ref().unwrap().holder_identity.is_some()
    })
    .await;
    assert_eq!(world.kubelet.strike(&Pods::Named(first.pod.clone()), &Blow::OutOfMemory), 1);
    // A request that comes before the gateway knows of it still goes to the first, and is cut with it.
    eventually("another exit", || async {
        let seen = gateway.get("demo-country-se", "http://whoami.test/").await;
        seen.status == 200 && seen.json()["pod"] != *first.pod
    })
    .await;
    let events: kube::Api<Event> = kube::Api::namespaced(world.client.clone(), &world.namespace);
    let told = || async {
        let all = events.list(&ListParams::default()).await.unwrap().items;
        let ours =
            all.into_iter().filter(|event| event.involved_object.name.as_deref() == Some(first.pod.as_str()));
        ours.filter_map(|event| event.message).collect::<Vec<_>>()
    };
    eventually("the end to be told", || async {
        told().await.iter().any(|text| text.starts_with("Deleted"))
    })
    .await;
    let story = told().await;
    assert!(story.iter().any(|text| text.contains("out_of_memory")), "{story:#?}");
    assert!(story.iter().all(|text| !text.contains("start failed")), "{story:#?}");
}
