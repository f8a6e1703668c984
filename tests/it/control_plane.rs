//! The API server goes away, refuses or lags: sessions that have an exit notice nothing.

use gluetun_gateway::simulator::api::{Effect, Match, Refusal, Rule, Verb, WatchFilter};

use crate::support::http::get;
use crate::support::{World, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn losing_the_api_server_changes_nothing_for_sessions_that_have_an_exit() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[("IDLE_TIMEOUT", "4s")]).await;
    let first = gateway.exit("demo-country-se").await;
    let mut tunnel = gateway.connect("demo-country-se", "echo-origin.test:7").await.unwrap();
    world.api().faults().set_down_for("gateway-1", true);
    for _ in 0..20 {
        assert_eq!(gateway.exit("demo-country-se").await.pod, first.pod);
    }
    assert_eq!(get(gateway.admin, "/readyz").await.status, 200);
    assert_eq!(get(gateway.admin, "/livez").await.status, 200);
    let answer = gateway.connect("demo-country-de-wait-1s", "whoami.test:80").await.unwrap_err();
    assert_eq!((answer.status, answer.code()), (503, "control_plane_unavailable"), "{}", answer.text());
    world.api().faults().set_down_for("gateway-1", false);
    // New sessions work again, and the old one was not reaped though nobody could renew it.
    eventually("new sessions", || async {
        gateway.connect("demo-country-de", "whoami.test:80").await.is_ok()
    })
    .await;
    assert_eq!(gateway.exit("demo-country-se").await.pod, first.pod);
    assert_eq!(tunnel.echo(b"unbroken").await, b"unbroken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_is_named() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    let refusal = Refusal::rbac(Verb::Create, "leases", "coordination.k8s.io", &world.namespace);
    let rule = world.api().faults().fail_next(u64::MAX, Match::on(Verb::Create, "leases"), refusal);
    let answer = gateway.connect("demo-country-se", "whoami.test:80").await.unwrap_err();
    assert_eq!((answer.status, answer.code()), (503, "control_plane_forbidden"), "{}", answer.text());
    assert!(answer.text().contains("create leases"), "{}", answer.text());
    world.api().faults().remove(rule);
    assert!(gateway.exit("demo-country-se").await.cold);

    let refusal = Refusal::rbac(Verb::Create, "pods", "", &world.namespace);
    let rule = world.api().faults().fail_next(u64::MAX, Match::on(Verb::Create, "pods"), refusal);
    let answer = gateway.connect("demo-country-de", "whoami.test:80").await.unwrap_err();
    assert_eq!((answer.status, answer.code()), (503, "control_plane_forbidden"), "{}", answer.text());
    assert!(answer.text().contains("create pods"), "{}", answer.text());
    world.api().faults().remove(rule);
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_security_that_refuses_the_pod_is_a_failed_start() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    world.api().faults().fail_next(
        u64::MAX,
        Match::on(Verb::Create, "pods"),
        Refusal::pod_security("gluetun-x"),
    );
    let answer = gateway.connect("demo-country-se", "whoami.test:80").await.unwrap_err();
    assert_eq!((answer.status, answer.code()), (502, "start_failed"), "{}", answer.text());
    assert!(answer.text().contains("pod_security"), "{}", answer.text());
    world.emptied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn creations_that_fail_or_take_effect_unseen_make_one_pod() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    for (n, effect) in [
        Effect::Fail(Refusal::internal()),
        Effect::ApplyThenFail(Refusal::unavailable()),
        Effect::ApplyThenCut,
        Effect::Cut,
    ]
    .into_iter()
    .enumerate()
    {
        for resource in ["leases", "pods"] {
            let matching = Match::on(Verb::Create, resource).from_agent("gateway-1");
            world.api().faults().add(Rule::new(matching, effect.clone()).times(1));
        }
        let seen = gateway.exit(&format!("demo-country-us-session-n{n}")).await;
        assert!(seen.cold);
        assert_eq!(world.pod_list().await.len(), n + 1, "{effect:?}");
        assert_eq!(world.claim_list().await.len(), n + 1, "{effect:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_break_expire_or_lag_lose_nothing() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[("IDLE_TIMEOUT", "2s")]).await;
    let faults = world.api().faults();
    faults.drop_watches(&WatchFilter::all().from_agent("gateway-1"));
    assert!(gateway.exit("demo-country-us-session-a").await.cold);
    faults.expire_watches(&WatchFilter::all().from_agent("gateway-1"));
    assert!(gateway.exit("demo-country-us-session-b").await.cold);
    // Claims lag behind pods, then pods behind claims.
    for (session, resource) in [("c", "leases"), ("d", "pods")] {
        faults.stall_watches(&WatchFilter::of(resource).from_agent("gateway-1"));
        let user = format!("demo-country-us-session-{session}");
        let held = gateway.exit(&user);
        let release = async {
            eventually("the request to be held", || async {
                gateway.metric("gluetun_gateway_waiters", "").await == 1.0
            })
            .await;
            eventually("its claim", || async { world.claim_list().await.iter().any(|l| named(l, session)) })
                .await;
            faults.release_watches(&WatchFilter::all());
        };
        let (seen, ()) = tokio::join!(held, release);
        assert!(seen.cold);
    }
    world.emptied().await;
}

fn named(lease: &k8s_openapi::api::coordination::v1::Lease, session: &str) -> bool {
    let key = lease.metadata.annotations.as_ref().and_then(|a| a.get("gluetun-gateway/key"));
    key.is_some_and(|key| key.contains(&format!("session-{session}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_sessions_life_takes_at_most_eight_requests() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[("IDLE_TIMEOUT", "2s")]).await;
    eventually("a leader", || async { gateway.metric("gluetun_gateway_leader", "").await == 1.0 }).await;
    let log = world.api().requests();
    log.reset();
    gateway.exit("demo-country-se").await;
    world.emptied().await;
    // Events, watches and the leader's own lease are not the session's.
    let requests: Vec<String> = log
        .matching(&Match::any().from_agent("gateway-1"))
        .into_iter()
        .map(|served| served.request)
        .filter(|r| r.resource != "events" && r.name.as_deref() != Some("gluetun-gateway-leader"))
        .filter(|r| r.verb != Verb::Watch)
        .map(|r| format!("{} {} {}", r.verb.as_str(), r.resource, r.name.unwrap_or_default()))
        .collect();
    assert!(requests.len() <= 8, "{}: {requests:#?}", requests.len());
    assert!(requests.len() >= 5, "claim and pod, made and deleted, and the exit noted: {requests:#?}");
}
