//! Pods that nobody asked for must not stay: clients that hang up before `/start` has answered, gateways
//! that die meanwhile.

use gluetun_gateway::simulator::api::{Effect, Match, Refusal, Rule, Verb};
use gluetun_gateway::simulator::gluetun::{Fault, FaultRules};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::api::{destroy, start, text};
use crate::support::http::{get, post, post_bytes};
use crate::support::process::Process;
use crate::support::{Gateway, World, eventually, http};

/// Begins a `/start` and does not wait for the answer.
async fn begin(admin: std::net::SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    stream.write_all(post_bytes("/start", r#"{"country":"Sweden"}"#).as_bytes()).await.unwrap();
    stream
}

fn never_healthy(world: &World) {
    let fault = Fault { never_healthy: true, ..Fault::default() };
    world.gluetun.faults().set(FaultRules { all: fault, ..FaultRules::default() });
}

on_both! {
    async fn a_client_that_hangs_up_takes_its_pod_with_it(world) {
        let gateway = world.gateway(&[]).await;
        never_healthy(&world);
        let client = begin(gateway.admin).await;
        eventually("its pod", || async { !world.pod_list().await.is_empty() }).await;
        drop(client);
        // At once, and not when the leader thinks that nobody waits.
        let begun = std::time::Instant::now();
        eventually("its claim to go", || async { world.claim_list().await.is_empty() }).await;
        assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
        world.emptied().await;
        assert_eq!(gateway.metric("gluetun_gateway_waiters", "").await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn so_does_one_that_hangs_up_before_its_claim_is_made() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    // The claim is made, and the answer to that is lost: whoever gives up does not know of it.
    let made = Rule::new(Match::on(Verb::Create, "leases"), Effect::ApplyThenFail(Refusal::unavailable()));
    let rule = world.api().faults().add(made.times(1));
    let client = begin(gateway.admin).await;
    eventually("the request", || async { world.api().faults().hits(rule) == 1 }).await;
    drop(client);
    world.emptied().await;
    eventually("the wait to end", || async { gateway.metric("gluetun_gateway_waiters", "").await == 0.0 })
        .await;
    start(&gateway, json!({ "country": "Sweden" })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_does_one_that_hangs_up_while_its_pod_is_being_pinned() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    // Every pinning fails, some of them having taken effect.
    let pins = Match::on(Verb::Patch, "leases").from_agent("gateway-1");
    let rule = world.api().faults().add(Rule::new(pins, Effect::ApplyThenFail(Refusal::unavailable())));
    let client = begin(gateway.admin).await;
    eventually("a pinned claim", || async {
        let claims = world.claim_list().await;
        claims.iter().any(|claim| {
            claim.metadata.annotations.as_ref().is_some_and(|a| a.contains_key("gluetun-gateway/pinned"))
        })
    })
    .await;
    drop(client);
    eventually("its claim to go", || async { world.claim_list().await.is_empty() }).await;
    world.api().faults().remove(rule);
    world.emptied().await;
}

/// A client that has sent more than its request: nobody reads on, so its end shows only when it is
/// answered.
#[tokio::test(flavor = "multi_thread")]
async fn so_does_one_whose_end_shows_only_with_the_answer() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    let fault = Fault { delay_ms: Some(2000), ..Fault::default() };
    world.gluetun.faults().set(FaultRules { all: fault, ..FaultRules::default() });
    let mut client = TcpStream::connect(gateway.admin).await.unwrap();
    let request = post_bytes("/start", r#"{"country":"Sweden"}"#) + "\r\nGET /hea";
    client.write_all(request.as_bytes()).await.unwrap();
    eventually("its pod", || async { !world.pod_list().await.is_empty() }).await;
    drop(client);
    world.emptied().await;
    assert_eq!(gateway.metric("gluetun_gateway_cold_starts_total", "ready").await, 1.0, "it was up");
}

on_both! {
    async fn so_does_one_that_hangs_up_as_the_gateway_ends(world) {
        let gateway = world.gateway(&[("DRAIN_TIMEOUT", "0s")]).await;
        never_healthy(&world);
        if let Some(api) = &world.api {
            // The gateway would have ended long before.
            let claims = Match::on(Verb::Delete, "leases").from_agent("gateway-1");
            api.faults().add(Rule::new(claims, Effect::Delay { millis: 500 }));
        }
        let client = begin(gateway.admin).await;
        eventually("its pod", || async { !world.pod_list().await.is_empty() }).await;
        drop(client);
        ends_without_a_claim(&world, gateway).await;
    }
}

/// Nothing is left of a start that nobody has heard of once the gateway has ended.
async fn ends_without_a_claim(world: &World, gateway: Gateway) {
    gateway.begin_shutdown();
    assert_eq!(gateway.ended().await, 0);
    assert!(world.claim_list().await.is_empty());
}

/// Its pod was up and pinned, and the deletion of that has just begun.
#[tokio::test(flavor = "multi_thread")]
async fn so_does_one_whose_answer_is_lost_as_the_gateway_ends() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[("DRAIN_TIMEOUT", "0s")]).await;
    let claims = Match::on(Verb::Delete, "leases").from_agent("gateway-1");
    let rule = world.api().faults().add(Rule::new(claims, Effect::Delay { millis: 1000 }));
    let fault = Fault { delay_ms: Some(1000), ..Fault::default() };
    world.gluetun.faults().set(FaultRules { all: fault, ..FaultRules::default() });
    let mut client = TcpStream::connect(gateway.admin).await.unwrap();
    let request = post_bytes("/start", r#"{"country":"Sweden"}"#) + "\r\nGET /hea";
    client.write_all(request.as_bytes()).await.unwrap();
    eventually("its pod", || async { !world.pod_list().await.is_empty() }).await;
    drop(client);
    eventually("the deletion", || async { world.api().faults().hits(rule) > 0 }).await;
    ends_without_a_claim(&world, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinning_that_fails_at_first_is_tried_again() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    let pins = Match::on(Verb::Patch, "leases").from_agent("gateway-1");
    world.api().faults().add(Rule::new(pins, Effect::Fail(Refusal::unavailable())).times(6));
    let started = start(&gateway, json!({ "country": "Sweden" })).await;
    let claim = world.claim_list().await.remove(0);
    assert_eq!(claim.metadata.annotations.unwrap()["gluetun-gateway/pinned"], "true");
    assert_eq!(destroy(&gateway, &started["id"]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_killed_leaves_no_orphan() {
    let world = World::embedded().await;
    let mut gateway = Process::start(&world, &[]).await;
    // One that its client has, one that is starting.
    let kept = post(gateway.admin, "/start", &json!({ "country": "Germany" })).await.json();
    never_healthy(&world);
    let client = begin(gateway.admin).await;
    eventually("the second pod", || async { world.pod_list().await.len() == 2 }).await;
    gateway.signal("KILL").await;
    assert_eq!(gateway.ended().await, None);
    drop(client);
    world.gluetun.faults().clear();
    let gateway = Process::start(&world, &[]).await;
    eventually("the orphan to go", || async {
        world.claim_list().await.len() == 1 && world.pod_list().await.len() == 1
    })
    .await;
    let status = get(gateway.admin, "/status").await.json();
    assert_eq!(status[text(&kept, "id")]["password"], kept["password"], "the one that a client has stays");
    let (user, password) = (text(&kept, "username"), text(&kept, "password"));
    let answer = http::get_through(gateway.proxy, user, password, "http://whoami.test/").await;
    assert_eq!(answer.json()["pod"], kept["pod_name"]);
}

/// Killed between the pod's start and its pinning: the worst moment, for the pod is healthy.
#[tokio::test(flavor = "multi_thread")]
async fn nor_does_one_that_is_killed_before_it_could_pin() {
    let world = World::embedded().await;
    let mut gateway = Process::start(&world, &[]).await;
    let pins = Rule::new(Match::on(Verb::Patch, "leases"), Effect::Fail(Refusal::unavailable()));
    let client = begin(gateway.admin).await;
    eventually("its claim", || async { !world.claim_list().await.is_empty() }).await;
    let rule = world.api().faults().add(pins);
    eventually("a healthy pod", || async {
        let pods = world.pod_list().await;
        pods.iter().any(|pod| {
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
            conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
        })
    })
    .await;
    gateway.signal("KILL").await;
    assert_eq!(gateway.ended().await, None);
    drop(client);
    world.api().faults().remove(rule);
    let _gateway = Process::start(&world, &[]).await;
    world.emptied().await;
}
