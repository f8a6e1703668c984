//! Limits of accounts at the proxy port.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::rig::{answer, ask, connect, rest};
use super::*;

async fn with_echo(policy: &str) -> (Pod, Gateway) {
    let pod = Pod::start().await;
    pod.route("echo.test:7", Route::To(echo().await));
    let gateway = Gateway::with_policy(Some(&pod), policy);
    (pod, gateway)
}

#[tokio::test]
async fn tunnels_count_until_they_end_and_the_one_too_many_is_told() {
    let (_pod, gateway) = with_echo("defaults: {max_tunnels: 2}").await;
    let (one, answer) = gateway.tunnel("echo.test:7").await;
    assert_eq!(answer.status, 200);
    let (_two, _) = gateway.tunnel("echo.test:7").await;
    let (_, over) = gateway.tunnel("echo.test:7").await;
    assert_eq!((over.status, over.code()), (429, "account_quota"), "{}", over.text());
    assert_eq!(over.json()["message"], "max_tunnels reached: 2 of 2 tunnels of this account are open");
    assert_eq!(over.header("retry-after"), Some("10"));
    assert_eq!(gateway.metrics().account_quota.with_label_values(&["tunnels"]).get(), 1);
    drop(one);
    eventually("a tunnel's end", || gateway.requests("connect", "ok") == 1).await;
    assert_eq!(gateway.tunnel("echo.test:7").await.1.status, 200);
}

#[tokio::test]
async fn a_held_request_counts_and_gives_its_place_back_when_its_client_leaves() {
    let gateway = Gateway::with_policy(None, "defaults: {max_tunnels: 1}");
    let mut held = gateway.connect().await;
    held.write_all(connect("echo.test:7", "demo").as_bytes()).await.unwrap();
    gateway.table.until_waiting(1).await;
    assert_eq!(gateway.tunnel("echo.test:7").await.1.code(), "account_quota");
    drop(held);
    eventually("its place", || gateway.requests("connect", "client_gone") == 1).await;
    let mut again = gateway.connect().await;
    again.write_all(connect("echo.test:7", "demo").as_bytes()).await.unwrap();
    gateway.table.until_waiting(1).await;
}

#[tokio::test]
async fn new_tunnels_and_plain_requests_share_the_rate() {
    let (_pod, gateway) = with_echo("defaults: {tunnels_per_second: 0.02, burst: 2}").await;
    assert_eq!(gateway.tunnel("echo.test:7").await.1.status, 200);
    let (_, denied) = gateway.tunnel("10.0.0.1:80").await;
    assert_eq!(denied.code(), "destination_denied");
    let get =
        format!("GET http://echo.test/ HTTP/1.1\r\nHost: echo.test\r\n{}\r\n", basic("demo", "open:sesame"));
    for request in [connect("echo.test:7", "demo"), get] {
        let (_, over) = gateway.ask(&request).await;
        assert_eq!((over.status, over.code()), (429, "account_quota"), "{}", over.text());
        assert!(
            over.text().contains("tunnels_per_second") && over.text().contains("2 at once"),
            "{}",
            over.text()
        );
        let wait: u64 = over.header("retry-after").unwrap().parse().unwrap();
        assert!((40..=50).contains(&wait), "{wait}");
    }
    assert_eq!(gateway.metrics().account_quota.with_label_values(&["rate"]).get(), 2);
}

#[tokio::test]
async fn places_times_sessions_and_destinations_of_an_account() {
    let pod = Pod::start().await;
    pod.route("echo.test:7", Route::To(echo().await));
    let policy = "accounts: {demo: {selector: country-se, places: {allow: [country-se]}, max_idle: 1m, max_ttl: 1h, \
                  max_wait: 5s, sessions: false, ports: {allow: [7]}, destinations: {deny: [no.test], open: [10.0.0.0/8]}}}";
    let gateway = Gateway::with_policy(Some(&pod), policy);
    for (user, target, code) in [
        ("demo-country-us", "echo.test:7", "location_forbidden"),
        ("demo-server-us-nyc-wg-301", "echo.test:7", "location_forbidden"),
        ("demo-session-a", "echo.test:7", "bad_parameter"),
        ("demo-idle-2m", "echo.test:7", "bad_parameter"),
        ("demo-ttl-2h", "echo.test:7", "bad_parameter"),
        ("demo-wait-6s", "echo.test:7", "bad_parameter"),
        ("demo", "echo.test:80", "destination_denied"),
        ("demo", "no.test:7", "destination_denied"),
    ] {
        let (_, refused) = gateway.ask(&connect(target, user)).await;
        assert_eq!(refused.code(), code, "{user} {target}: {}", refused.text());
        assert_eq!(refused.status, if code == "bad_parameter" { 400 } else { 403 });
    }
    assert_eq!(gateway.tunnel("echo.test:7").await.1.status, 200);
    let (key, _) = gateway.table.asked();
    assert_eq!(key, "demo-country-se");
    gateway.table.set_ready(None);
    let mut held = gateway.connect().await;
    held.write_all(connect("echo.test:7", "demo-country-any").as_bytes()).await.unwrap();
    gateway.table.until_waiting(1).await;
    let (key, lifetimes) = gateway.table.asked();
    assert_eq!((key.as_str(), lifetimes.idle), ("demo", Some(Duration::from_secs(60))));
}

#[tokio::test]
async fn a_removed_account_is_refused_at_once_and_its_tunnels_end_when_their_time_is_over() {
    let (_pod, gateway) = with_echo("").await;
    let (mut tunnel, _) = gateway.tunnel("echo.test:7").await;
    let (mut plain, _) = gateway.ask("GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let pod = connect("echo.test:7", "pod.abc")
        .replace(&basic("pod.abc", "open:sesame"), &basic("pod.abc", "sesame"));
    assert_eq!(gateway.ask(&pod).await.1.status, 200);
    gateway.set_policy(None);
    let (_, refused) = gateway.tunnel("echo.test:7").await;
    assert_eq!((refused.status, refused.code()), (407, "auth_failed"));
    let again = ask(&mut plain, &connect("echo.test:7", "demo")).await;
    assert_eq!(again.code(), "auth_failed", "on an open connection as well");
    assert_eq!(gateway.ask(&pod).await.1.status, 407, "nor by its pod's credentials");
    tunnel.write_all(b"still").await.unwrap();
    let mut back = [0; 5];
    tunnel.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"still");
    gateway.end_accounts();
    assert_eq!(rest(&mut tunnel).await, b"");
    eventually("the outcome", || gateway.requests("connect", "account_gone") == 1).await;
    // Back again, it begins anew.
    gateway.set_policy(Some("defaults: {max_tunnels: 1}"));
    let (_tunnel, opened) = gateway.tunnel("echo.test:7").await;
    assert_eq!(opened.status, 200);
}

#[tokio::test]
async fn a_change_of_limits_counts_for_what_comes_and_keeps_what_is_open() {
    let (_pod, gateway) = with_echo("").await;
    let (mut tunnel, _) = gateway.tunnel("echo.test:7").await;
    gateway.set_policy(Some("defaults: {max_tunnels: 1}"));
    let (_, over) = gateway.tunnel("echo.test:7").await;
    assert_eq!(over.json()["message"], "max_tunnels reached: 1 of 1 tunnels of this account are open");
    tunnel.write_all(b"x").await.unwrap();
    assert_eq!(tunnel.read_u8().await.unwrap(), b'x');
    gateway.set_policy(Some("defaults: {max_tunnels: 2}"));
    let mut stream = gateway.connect().await;
    stream.write_all(connect("echo.test:7", "demo").as_bytes()).await.unwrap();
    assert_eq!(answer(&mut stream).await.status, 200);
}
