//! Faults, as clients meet them.

use kube::api::ListParams;

use super::super::{Effect, Match, Refusal, Rule, Verb, WatchFilter};
use super::*;

fn create_of(name: &str) -> Match {
    Match::on(Verb::Create, "pods").named(name)
}

async fn exists(server: &ApiServer, name: &str) -> bool {
    Api::<Pod>::default_namespaced(client_of(server, "observer")).get_opt(name).await.unwrap().is_some()
}

#[tokio::test]
async fn the_next_requests_fail_and_then_none() {
    let server = server().await;
    let pods: Api<Pod> = Api::default_namespaced(client(&server));
    let rule = server.faults().fail_next(2, create_of("gluetun-*"), Refusal::internal());
    for _ in 0..2 {
        let error = pods.create(&PostParams::default(), &pod("gluetun-a")).await.unwrap_err();
        assert_eq!(status_of(error), (500, "InternalError".into()));
    }
    create_pod(&pods, "gluetun-a").await;
    assert_eq!(server.faults().hits(rule), 2);
    assert_eq!(server.requests().count(&create_of("gluetun-a")), 3);
    let statuses: Vec<u16> =
        server.requests().matching(&create_of("gluetun-a")).iter().map(|served| served.status).collect();
    assert_eq!(statuses, [500, 500, 201]);
}

#[tokio::test]
async fn the_many_kinds_of_forbidden_are_told_apart_by_their_text() {
    let server = server().await;
    let pods: Api<Pod> = Api::default_namespaced(client(&server));
    for (refusal, text) in [
        (
            Refusal::quota("a", "vpn", 5),
            "exceeded quota: vpn, requested: pods=1, used: pods=5, limited: pods=5",
        ),
        (Refusal::pod_security("a"), "violates PodSecurity"),
        (
            Refusal::rbac(Verb::Create, "pods", "", NAMESPACE),
            "cannot create resource \"pods\" in API group \"\"",
        ),
    ] {
        server.faults().fail_next(1, create_of("a"), refusal);
        match pods.create(&PostParams::default(), &pod("a")).await.unwrap_err() {
            kube::Error::Api(status) => {
                assert!(status.is_forbidden() && status.message.contains(text), "{}", status.message);
            }
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn ambiguous_writes_have_happened() {
    let server = server().await;
    let pods: Api<Pod> = Api::default_namespaced(client(&server));
    let applied = |effect| server.faults().add(Rule::new(Match::on(Verb::Create, "pods"), effect).times(1));
    applied(Effect::ApplyThenFail(Refusal::new(504, "Timeout", "request did not complete")));
    assert_eq!(status_of(pods.create(&PostParams::default(), &pod("a")).await.unwrap_err()).0, 504);
    assert!(exists(&server, "a").await);
    applied(Effect::ApplyThenCut);
    let error = pods.create(&PostParams::default(), &pod("b")).await.unwrap_err();
    assert!(!matches!(error, kube::Error::Api(_)), "{error}");
    assert!(exists(&server, "b").await);
    applied(Effect::Cut);
    pods.create(&PostParams::default(), &pod("c")).await.unwrap_err();
    assert!(!exists(&server, "c").await);
    applied(Effect::ApplyThenHang);
    let params = PostParams::default();
    let fourth = pod("d");
    let mut hanging = Box::pin(pods.create(&params, &fourth));
    let observer: Api<Pod> = Api::default_namespaced(client_of(&server, "observer"));
    within("the write", async {
        while observer.get_opt("d").await.unwrap().is_none() {
            assert!(futures::poll!(&mut hanging).is_pending());
        }
    })
    .await;
    assert!(futures::poll!(&mut hanging).is_pending());
}

#[tokio::test]
async fn faults_of_one_client_leave_the_other_alone() {
    let server = server().await;
    let [one, two] = ["gateway-1", "gateway-2"].map(|agent| {
        let pods: Api<Pod> = Api::default_namespaced(client_of(&server, agent));
        pods
    });
    let list = ListParams::default();
    let unavailable = Effect::Fail(Refusal::unavailable());
    server.faults().add(Rule::new(Match::any().from_agent("gateway-1"), unavailable));
    assert_eq!(status_of(one.list(&list).await.unwrap_err()).0, 503);
    two.list(&list).await.unwrap();
    server.faults().clear();
    one.list(&list).await.unwrap();
    server.faults().set_down_for("gateway-1", true);
    assert!(!matches!(one.list(&list).await.unwrap_err(), kube::Error::Api(_)));
    two.list(&list).await.unwrap();
    server.faults().set_down_for("gateway-1", false);
    one.list(&list).await.unwrap();
    assert_eq!(server.requests().count(&Match::any().from_agent("gateway-2")), 2);
}

#[tokio::test]
async fn latency_delays_and_does_no_more() {
    let server = server().await;
    let pods: Api<Pod> = Api::default_namespaced(client(&server));
    server.faults().add(Rule::new(Match::on(Verb::Create, "pods"), Effect::Delay { millis: 150 }));
    let start = std::time::Instant::now();
    create_pod(&pods, "a").await;
    assert!(start.elapsed() >= Duration::from_millis(150));
}

#[tokio::test]
async fn an_outage_ends_everything_and_the_state_remains() {
    let server = server().await;
    let pods: Api<Pod> = Api::default_namespaced(client(&server));
    create_pod(&pods, "a").await;
    let mut watch = TcpStream::connect(server.addr()).await.unwrap();
    let request = format!("GET /api/v1/namespaces/{NAMESPACE}/pods?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n");
    watch.write_all(request.as_bytes()).await.unwrap();
    until("the watch is open", || server.faults().open_watches(&WatchFilter::all()) == 1).await;
    for _ in 0..3 {
        server.faults().set_down(true);
        let refused = TcpStream::connect(server.addr()).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        assert!(!matches!(pods.get("a").await.unwrap_err(), kube::Error::Api(_)));
        server.faults().set_down(false);
        pods.get("a").await.unwrap();
    }
    let mut rest = Vec::new();
    let _ = within("the watch ends", watch.read_to_end(&mut rest)).await;
    until("the watch is closed", || server.faults().open_watches(&WatchFilter::all()) == 0).await;
    server.stop().await;
    assert!(TcpStream::connect(server.addr()).await.is_err());
}

#[tokio::test]
async fn the_last_handle_stops_the_server() {
    let server = server().await;
    let address = server.addr();
    let second = server.clone();
    drop(server);
    TcpStream::connect(address).await.unwrap();
    drop(second);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn faults_and_counts_over_http() {
    let server = server().await;
    let pods: Api<Pod> = Api::default_namespaced(client(&server));
    let post = |body: Value| {
        let server = server.clone();
        async move { raw(&server, "POST", "/simulator/faults", &body.to_string()).await }
    };
    let (status, answer) = post(json!({"fault": "rule", "times": 1,
        "match": {"verb": "create", "resource": "pods", "user_agent": "tests"},
        "effect": {"fail": {"status": 429, "reason": "TooManyRequests", "message": "later", "retry_after": 1}}}))
    .await;
    assert_eq!((status, answer["id"].is_u64()), (200, true));
    assert_eq!(status_of(pods.create(&PostParams::default(), &pod("a")).await.unwrap_err()).0, 429);
    let (_, rules) = raw(&server, "GET", "/simulator/faults", "").await;
    assert_eq!((&rules["rules"][0]["hits"], &rules["rules"][0]["rule"]["times"]), (&json!(1), &json!(1)));
    for (command, open) in [
        (json!({"fault": "rule", "effect": "cut"}), 200),
        (json!({"fault": "outage", "user_agent": "nobody"}), 200),
        (json!({"fault": "end_outage"}), 200),
        (json!({"fault": "stall_watches", "resource": "pods"}), 200),
        (json!({"fault": "release_watches"}), 200),
        (json!({"fault": "drop_watches"}), 200),
        (json!({"fault": "expire_watches", "resource": "leases"}), 200),
        (json!({"fault": "outage"}), 400),
        (json!({"fault": "outage", "seconds": -1}), 400),
        (json!({"fault": "outage", "seconds": 9, "useragent": "a misspelt one"}), 400),
        (json!({"fault": "zz"}), 400),
        (json!({"fault": "rule", "effect": "cut", "match": {"verbb": "x"}}), 400),
    ] {
        assert_eq!(post(command.clone()).await.0, open, "{command}");
    }
    let only = answer["id"].to_string();
    for (id, status) in [(only.as_str(), 200), (only.as_str(), 404), ("x", 400)] {
        assert_eq!(raw(&server, "DELETE", &format!("/simulator/faults/{id}"), "").await.0, status, "{id}");
    }
    assert_eq!(raw(&server, "DELETE", "/simulator/faults", "").await.0, 200);
    create_pod(&pods, "a").await;
    let (_, counts) = raw(&server, "GET", "/simulator/requests", "").await;
    assert_eq!(counts["requests"]["create pods"], 2);
    assert_eq!(raw(&server, "DELETE", "/simulator/requests", "").await.0, 200);
    assert_eq!(server.requests().total(), 0);
    assert_eq!(raw(&server, "PUT", "/simulator/faults", "").await.0, 405);
    assert_eq!(post(json!({"fault": "outage", "seconds": 0.05})).await.0, 200);
    assert!(server.faults().is_down());
    until("the outage ends", || !server.faults().is_down()).await;
}

#[tokio::test]
async fn what_is_not_served_is_told_so() {
    let server = server().await;
    for (method, path, body, status, reason) in [
        ("GET", "/healthz", "", 200, ""),
        ("GET", "/zz", "", 404, ""),
        ("POST", "/version", "", 405, "MethodNotAllowed"),
        ("GET", "/api/v1/zz", "", 404, "NotFound"),
        ("PUT", "/api/v1/namespaces/a/pods", "{}", 405, "MethodNotAllowed"),
        ("PATCH", "/api/v1/namespaces/a/pods/p", "{}", 415, "UnsupportedMediaType"),
        ("POST", "/api/v1/namespaces/a/pods", "{x", 400, "BadRequest"),
        ("GET", "/api/v1/namespaces/a/pods?labelSelector=%3D", "", 400, "BadRequest"),
    ] {
        let (code, answer) = raw(&server, method, path, body).await;
        assert_eq!(
            (code, answer["reason"].as_str().unwrap_or_default()),
            (status, reason),
            "{method} {path}"
        );
    }
    let huge = format!("{{\"metadata\":{{\"name\":\"{}\"}}}}", "x".repeat(4 << 20));
    let (code, _) = raw(&server, "POST", "/api/v1/namespaces/a/configmaps", &huge).await;
    assert_eq!(code, 413);
}
