//! Start and end of the process as a whole.

use crate::support::World;
use crate::support::http::{get, raw};
use crate::support::process::{Process, run};
use crate::support::{eventually, http};

#[tokio::test(flavor = "multi_thread")]
async fn probes_status_and_metrics_answer() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    let health = get(gateway.admin, "/health").await;
    assert_eq!(health.json()["status"], "healthy");
    assert_eq!(health.json()["servers_loaded"], true);
    assert!(!health.header("x-request-id").is_empty());
    assert_eq!(get(gateway.admin, "/status").await.json(), serde_json::json!({}));
    let seen = gateway.exit("demo-country-se").await;
    let status = get(gateway.admin, "/status").await.json();
    let (id, entry) = status.as_object().unwrap().iter().next().unwrap();
    assert_eq!(seen.pod, format!("gluetun-{id}"));
    assert_eq!(entry["status"], "running");
    assert_eq!(entry["port"], 8888);
    assert!(entry["service_url"].as_str().unwrap().contains(entry["username"].as_str().unwrap()));
    let metrics = get(gateway.admin, "/metrics").await;
    assert!(metrics.header("content-type").starts_with("text/plain; version=0.0.4"));
    assert!(metrics.text().contains("gluetun_gateway_requests_total{kind=\"connect\",outcome=\"ok\"} 1"));
    let missing = get(gateway.admin, "/nothing-here").await;
    assert_eq!(missing.status, 404);
    assert!(missing.json()["error"].is_string());
    let method = raw(gateway.admin, b"DELETE /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert_eq!(method.status, 405);
    assert!(method.json()["error"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_documented_and_every_documented_one_exists() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    gateway.exit("demo-country-se").await;
    let text = get(gateway.admin, "/metrics").await.text();
    let documented = include_str!("../../docs/metrics.md");
    let mut names: Vec<&str> =
        text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    names.retain(|name| name.starts_with("gluetun_gateway_"));
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        assert!(documented.contains(&format!("`{name}`")), "{name} is not in docs/metrics.md");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_guards_all_but_probes_and_metrics() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[("ADMIN_TOKEN", "first-token-of-two,second-token-of-two")]).await;
    for path in ["/health", "/livez", "/readyz", "/metrics"] {
        assert_eq!(get(gateway.admin, path).await.status, 200, "{path}");
    }
    assert_eq!(get(gateway.admin, "/status").await.status, 401);
    for (token, status) in
        [("second-token-of-two", 200), ("first-token-of-two", 200), ("third", 401), ("", 401)]
    {
        let request = format!(
            "GET /status HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(raw(gateway.admin, request.as_bytes()).await.status, status, "{token}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shutting_down_lets_tunnels_finish_and_sends_waiters_away() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[("DRAIN_TIMEOUT", "30s")]).await;
    let mut tunnel = gateway.connect("demo-country-se", "echo-origin.test:7").await.unwrap();
    world.kubelet.faults().add(gluetun_gateway::simulator::kubelet::Rule {
        pods: gluetun_gateway::simulator::kubelet::Pods::Any,
        times: None,
        fault: gluetun_gateway::simulator::kubelet::Fault::NeverReady,
    });
    world.gluetun.faults().set(gluetun_gateway::simulator::gluetun::FaultRules {
        all: gluetun_gateway::simulator::gluetun::Fault {
            never_healthy: true,
            ..gluetun_gateway::simulator::gluetun::Fault::default()
        },
        ..gluetun_gateway::simulator::gluetun::FaultRules::default()
    });
    let proxy = gateway.proxy;
    let waiter = tokio::spawn(async move {
        http::connect(proxy, "demo-country-de", crate::support::PASSWORD, "whoami.test:80").await.unwrap_err()
    });
    eventually("a waiter", || async { gateway.metric("gluetun_gateway_waiters", "").await == 1.0 }).await;
    gateway.begin_shutdown();
    let answer = waiter.await.unwrap();
    assert_eq!((answer.status, answer.code()), (503, "shutting_down"), "{}", answer.text());
    eventually("the port to close", || async { tokio::net::TcpStream::connect(proxy).await.is_err() }).await;
    assert_eq!(tunnel.echo(b"still open").await, b"still open");
    drop(tunnel);
    assert_eq!(gateway.ended().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_and_gives_up_leadership() {
    let world = World::embedded().await;
    let mut gateway = Process::start(&world, &[("DRAIN_TIMEOUT", "20s")]).await;
    let tunnel =
        http::connect(gateway.proxy, "demo-country-se", crate::support::PASSWORD, "echo-origin.test:7")
            .await
            .unwrap();
    gateway.signal("TERM").await;
    let admin = gateway.admin;
    eventually("readiness to end", || async {
        tokio::net::TcpStream::connect(admin).await.is_err() || get(admin, "/readyz").await.status == 503
    })
    .await;
    drop(tunnel);
    assert_eq!(gateway.ended().await, Some(0));
    let lease = world.leases().get("gluetun-gateway-leader").await.unwrap();
    assert!(lease.spec.unwrap().holder_identity.is_none_or(|holder| holder.is_empty()));
    assert_eq!(world.pod_list().await.len(), 1, "the exits stay: they are the next gateway's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_forces() {
    let world = World::embedded().await;
    let mut gateway = Process::start(&world, &[("DRAIN_TIMEOUT", "10m")]).await;
    let mut tunnel =
        http::connect(gateway.proxy, "demo-country-se", crate::support::PASSWORD, "echo-origin.test:7")
            .await
            .unwrap();
    gateway.signal("TERM").await;
    let proxy = gateway.proxy;
    eventually("the port to close", || async { tokio::net::TcpStream::connect(proxy).await.is_err() }).await;
    gateway.signal("TERM").await;
    tunnel.closed().await;
    assert!(gateway.ended().await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_mistakes_are_all_named_at_once() {
    let world = World::embedded().await;
    let mut variables = world.variables();
    for (key, value) in [("INSTANCE_LIMIT", "many"), ("IDLE_TIMEOUT", "300"), ("TUN_DEVICE", "perhaps")] {
        variables.insert(key.to_owned(), value.to_owned());
    }
    variables.remove("USERS_FILE");
    for arguments in [&["check"][..], &["serve"], &[]] {
        let output = run(&variables, arguments).await;
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {output:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        for name in ["INSTANCE_LIMIT", "IDLE_TIMEOUT", "TUN_DEVICE", "USERS_FILE"] {
            assert!(text.contains(name), "{name}: {text}");
        }
    }
    let output = run(&world.variables(), &["check"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}
