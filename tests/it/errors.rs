//! Every error code, provoked through a real socket. Each case makes its gateway say the code, on a CONNECT
//! and where the cause lasts on a plain request too, and what comes is held against the code's own table:
//! status, headers, the body's shape and size, and whether the connection closes.

use std::time::Duration;

use gluetun_gateway::proxy::{ALL_CODES, Code};
use gluetun_gateway::simulator::api::{Match, Refusal, Verb};
use gluetun_gateway::simulator::gluetun::{Fault, FaultRules};
use k8s_openapi::jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::http::{basic, connect_head, read_answer};
use crate::support::{Answer, Gateway, PASSWORD, PATIENCE, World, eventually};

/// Codes that nothing makes yet.
const NOT_PROVOKED: &[&str] = &["key_slots_full"];

/// An answer, and whether the connection was closed behind it.
struct Seen {
    answer: Answer,
    closed: bool,
}

/// Sends `request` and reads the answer, and then whatever comes until the connection ends or has been
/// quiet for a moment.
async fn ask(gateway: &Gateway, request: &str) -> Seen {
    let mut stream = TcpStream::connect(gateway.proxy).await.expect("the port listens");
    stream.write_all(request.as_bytes()).await.expect("a request");
    seen(stream).await
}

async fn seen(mut stream: TcpStream) -> Seen {
    let mut rest = Vec::new();
    let answer = read_answer(&mut stream, &mut rest, true).await;
    let says_so = answer.header("connection") == "close";
    let patience = if says_so { PATIENCE } else { Duration::from_millis(300) };
    let end = tokio::time::timeout(patience, stream.read_to_end(&mut rest)).await;
    Seen { answer, closed: matches!(end, Ok(Ok(_))) }
}

async fn connect(gateway: &Gateway, user: &str, target: &str) -> Seen {
    ask(gateway, &connect_head(user, PASSWORD, target)).await
}

async fn get(gateway: &Gateway, user: &str, url: &str) -> Seen {
    let host = url.trim_start_matches("http://").split('/').next().unwrap_or_default();
    let credentials = basic(user, PASSWORD);
    let request = format!("GET {url} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: {credentials}\r\n\r\n");
    ask(gateway, &request).await
}

/// Both ways in.
async fn both(gateway: &Gateway, user: &str, target: &str) -> Vec<Seen> {
    vec![connect(gateway, user, target).await, get(gateway, user, &format!("http://{target}/")).await]
}

/// Holds an answer against the table of its code.
fn check(code: Code, seen: &Seen) {
    let Seen { answer, closed } = seen;
    assert_eq!(
        (answer.code(), answer.status),
        (code.as_str(), code.status()),
        "{answer:?} {}",
        answer.text()
    );
    let proxy_status = answer.header("proxy-status");
    let details = format!("details=\"{}\"", code.as_str());
    assert!(
        proxy_status.starts_with("gluetun-gateway; error=") && proxy_status.ends_with(&details),
        "{answer:?}"
    );
    if code != Code::DestinationDenied {
        assert!(proxy_status.contains(&format!("error={};", code.proxy_status())), "{answer:?}");
    }
    match code.retry_after() {
        Some(_) => assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|s| s > 0), "{answer:?}"),
        None => assert_eq!(answer.header("retry-after"), "", "{answer:?}"),
    }
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("content-length"), answer.body.len().to_string());
    assert!(answer.body.len() < 1024 && answer.body.is_ascii(), "{}", answer.text());
    let body = answer.json();
    let object = body.as_object().expect("an object");
    let mut fields: Vec<&str> = object.keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["error", "hint", "message", "request_id", "retryable"]);
    assert_eq!(body["error"], code.as_str());
    assert_eq!(body["retryable"], code.retryable());
    assert_eq!(body["request_id"], answer.header("x-gateway-request-id"));
    for field in ["message", "hint", "request_id"] {
        assert!(body[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {body}");
    }
    for secret in [PASSWORD, "HTTPPROXY", "WIREGUARD", "dial tcp", "lookup ", "/32"] {
        assert!(!answer.text().contains(secret), "{secret}: {body}");
    }
    let challenged = code.status() == 407;
    assert_eq!(!answer.header("proxy-authenticate").is_empty(), challenged, "{answer:?}");
    assert_eq!(answer.header("connection") == "close", !challenged, "{answer:?}");
    assert_eq!(*closed, !challenged, "{answer:?}");
}

/// A test for each code, and the list of them.
macro_rules! provoked {
    ($($code:ident => |$world:ident| $provoke:block)*) => {
        const PROVOKED: &[&str] = &[$(stringify!($code)),*];

        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $code() {
                let $world = World::embedded().await;
                let all: Vec<Seen> = $provoke;
                let code = ALL_CODES.into_iter().find(|code| code.as_str() == stringify!($code)).unwrap();
                assert!(!all.is_empty());
                for seen in &all {
                    check(code, seen);
                }
            }
        )*
    };
}

#[test]
fn every_code_is_provoked() {
    let mut have: Vec<&str> = PROVOKED.iter().chain(NOT_PROVOKED).copied().collect();
    have.sort_unstable();
    let mut want: Vec<&str> = ALL_CODES.iter().map(|code| code.as_str()).collect();
    want.sort_unstable();
    assert_eq!(have, want);
}

/// Writes the accounts file; its path.
fn accounts(world: &World, text: &str) -> String {
    let path = world.path("accounts");
    std::fs::write(&path, text).unwrap();
    path
}

/// A pod that starts is never healthy.
fn never_healthy(world: &World) {
    let fault = Fault { never_healthy: true, ..Fault::default() };
    world.gluetun.faults().set(FaultRules { all: fault, ..FaultRules::default() });
}

fn malformed_key(world: &World) {
    let crash = Some("VPN settings: Wireguard settings: private key is not valid: AAEC".to_owned());
    world
        .gluetun
        .faults()
        .set(FaultRules { all: Fault { crash, ..Fault::default() }, ..FaultRules::default() });
}

provoked! {
    auth_required => |world| {
        let gateway = world.gateway(&[]).await;
        vec![
            ask(&gateway, "CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\n\r\n").await,
            ask(&gateway, "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n").await,
        ]
    }
    auth_failed => |world| {
        let gateway = world.gateway(&[]).await;
        vec![
            ask(&gateway, &connect_head("demo-country-se", "wrong", "a.test:80")).await,
            ask(&gateway, &connect_head("mallory", PASSWORD, "a.test:80")).await,
        ]
    }
    auth_throttled => |world| {
        let gateway = world.gateway(&[("AUTH_THROTTLE", "1/1h")]).await;
        let wrong = ask(&gateway, &connect_head("demo", "wrong", "a.test:80")).await;
        assert_eq!(wrong.answer.code(), "auth_failed");
        // Even the right one is not looked at now.
        both(&gateway, "demo", "a.test:80").await
    }
    account_quota => |world| {
        let file = accounts(&world, "accounts: {demo: {max_tunnels: 1}}");
        let gateway = world.gateway(&[("ACCOUNTS_FILE", &file)]).await;
        let _tunnel = gateway.connect("demo-country-se", "echo-origin.test:7").await.unwrap();
        vec![connect(&gateway, "demo-country-se", "echo-origin.test:7").await]
    }
    location_forbidden => |world| {
        let file = accounts(&world, "accounts: {demo: {places: {allow: [country-se]}}}");
        let gateway = world.gateway(&[("ACCOUNTS_FILE", &file)]).await;
        both(&gateway, "demo-country-de", "whoami.test:80").await
    }
    bad_parameter => |world| {
        let gateway = world.gateway(&[]).await;
        both(&gateway, "demo-contry-se", "a.test:80").await
    }
    bad_combination => |world| {
        let gateway = world.gateway(&[]).await;
        both(&gateway, "demo-country-us-server-se-mma-wg-001", "a.test:80").await
    }
    no_such_country => |world| {
        let gateway = world.gateway(&[]).await;
        both(&gateway, "demo-country-atlantis", "a.test:80").await
    }
    no_such_city => |world| {
        let gateway = world.gateway(&[]).await;
        both(&gateway, "demo-country-se-city-paris", "a.test:80").await
    }
    no_such_server => |world| {
        let gateway = world.gateway(&[]).await;
        both(&gateway, "demo-server-se-mma-wg-999", "a.test:80").await
    }
    not_a_proxy_request => |world| {
        let gateway = world.gateway(&[]).await;
        let credentials = basic("demo", PASSWORD);
        let request = format!("GET / HTTP/1.1\r\nHost: a.test\r\nProxy-Authorization: {credentials}\r\n\r\n");
        vec![ask(&gateway, &request).await, ask(&gateway, "\u{16}\u{3}\u{1}\u{2}\r\n\r\n").await]
    }
    bad_target => |world| {
        let gateway = world.gateway(&[]).await;
        vec![
            connect(&gateway, "demo", "a.test").await,
            connect(&gateway, "demo", "user@a.test:80").await,
            get(&gateway, "demo", "https://a.test/").await,
        ]
    }
    destination_denied => |world| {
        let gateway = world.gateway(&[]).await;
        both(&gateway, "demo", "169.254.169.254:80").await
    }
    proxy_loop => |world| {
        let gateway = world.gateway(&[]).await;
        both(&gateway, "demo", &format!("127.0.0.1:{}", gateway.proxy.port())).await
    }
    head_timeout => |world| {
        let gateway = world.gateway(&[]).await;
        let mut stream = TcpStream::connect(gateway.proxy).await.unwrap();
        stream.write_all(b"CONNECT a.test:80 HTTP/1.1\r\nHost: a.te").await.unwrap();
        vec![seen(stream).await]
    }
    head_too_large => |world| {
        let gateway = world.gateway(&[]).await;
        let long = format!("CONNECT a.test:80 HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(17_000));
        let many = format!("CONNECT a.test:80 HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(65));
        vec![ask(&gateway, &long).await, ask(&gateway, &many).await]
    }
    capacity_full => |world| {
        let gateway = world.gateway(&[("INSTANCE_LIMIT", "1")]).await;
        let _tunnel = gateway.connect("demo-session-a", "echo-origin.test:7").await.unwrap();
        both(&gateway, "demo-session-b-wait-1s", "whoami.test:80").await
    }
    queue_full => |world| {
        // 32 sessions of one account may wait for a pod.
        let gateway = world.gateway(&[("INSTANCE_LIMIT", "1")]).await;
        let _tunnel = gateway.connect("demo-session-a", "echo-origin.test:7").await.unwrap();
        let mut waiting = Vec::new();
        for n in 0..32 {
            let mut stream = TcpStream::connect(gateway.proxy).await.unwrap();
            let head = connect_head(&format!("demo-session-w{n}"), PASSWORD, "whoami.test:80");
            stream.write_all(head.as_bytes()).await.unwrap();
            waiting.push(stream);
        }
        eventually("32 that know that they wait", || async {
            let claims = world.claim_list().await;
            let told = claims.iter().filter(|claim| {
                let notes = claim.metadata.annotations.as_ref();
                notes.is_some_and(|notes| notes.contains_key("gluetun-gateway/reason"))
            });
            told.count() == 32
        })
        .await;
        // Claims of one second are of one age: the last one in must be younger than all.
        eventually("another second", || async {
            let made = world.claim_list().await.iter().filter_map(|c| c.metadata.creation_timestamp.clone()).max();
            made.is_some_and(|made| Timestamp::now().as_second() > made.0.as_second())
        })
        .await;
        vec![connect(&gateway, "demo-session-b", "whoami.test:80").await]
    }
    start_timeout => |world| {
        never_healthy(&world);
        let gateway = world.gateway(&[]).await;
        let all = both(&gateway, "demo-country-se-wait-1s", "whoami.test:80").await;
        assert!(all.iter().all(|seen| seen.answer.header("x-gateway-wait-ms").parse::<u64>().unwrap() >= 1000));
        all
    }
    starting => |world| {
        never_healthy(&world);
        let gateway = world.gateway(&[]).await;
        both(&gateway, "demo-country-se-wait-0s", "whoami.test:80").await
    }
    start_failed => |world| {
        malformed_key(&world);
        let gateway = world.gateway(&[]).await;
        vec![connect(&gateway, "demo-country-se", "whoami.test:80").await]
    }
    start_backoff => |world| {
        malformed_key(&world);
        let gateway = world.gateway(&[]).await;
        let first = connect(&gateway, "demo-country-se", "whoami.test:80").await;
        assert_eq!(first.answer.code(), "start_failed");
        // The same session, and another in another place: it is the key.
        let mut all = both(&gateway, "demo-country-se", "whoami.test:80").await;
        all.push(connect(&gateway, "demo-country-us", "whoami.test:80").await);
        all
    }
    exit_lost => |world| {
        let gateway = world.gateway(&[]).await;
        let user = "demo-country-se-mode-strict";
        let seen = gateway.exit(user).await;
        world.delete_pod(&seen.pod).await;
        eventually("the loss to be told", || async {
            gateway.connect(user, "whoami.test:80").await.is_err_and(|answer| answer.code() == "exit_lost")
        })
        .await;
        both(&gateway, user, "whoami.test:80").await
    }
    exit_unhealthy => |world| {
        let gateway = world.gateway(&[("CONNECT_TIMEOUT", "2s")]).await;
        let first = gateway.exit("demo-country-se").await;
        world.gluetun.faults().set_for(&first.pod, Fault::dead());
        // One that does not wait for the replacement.
        vec![connect(&gateway, "demo-country-se-wait-0s", "1.0.0.1:53").await]
    }
    exit_protocol => |world| {
        let gateway = world.gateway(&[]).await;
        let first = gateway.exit("demo-country-se").await;
        world.gluetun.faults().set_for(&first.pod, Fault { locked: true, ..Fault::default() });
        vec![connect(&gateway, "demo-country-se", "whoami.test:80").await]
    }
    upstream_refused => |world| {
        let gateway = world.gateway(&[]).await;
        both(&gateway, "demo-country-se", "refused.test:80").await
    }
    upstream_dns => |world| {
        let gateway = world.gateway(&[]).await;
        both(&gateway, "demo-country-se", "no-such-name.invalid:80").await
    }
    upstream_timeout => |world| {
        // In an exit without IPv6 a literal hangs: the exit is well, and the destination does not answer.
        let gateway = world.gateway(&[("CONNECT_TIMEOUT", "1s"), ("EXIT_IPV6", "on")]).await;
        both(&gateway, "demo-country-se", "[2606:4700:4700::1111]:80").await
    }
    upstream_error => |world| {
        let gateway = world.gateway(&[]).await;
        both(&gateway, "demo-country-se", "[2606:4700:4700::1111]:80").await
    }
    control_plane_unavailable => |world| {
        let gateway = world.gateway(&[]).await;
        world.api().faults().set_down_for("gateway-1", true);
        both(&gateway, "demo-country-de-wait-1s", "whoami.test:80").await
    }
    control_plane_forbidden => |world| {
        let gateway = world.gateway(&[]).await;
        let refusal = Refusal::rbac(Verb::Create, "leases", "coordination.k8s.io", &world.namespace);
        world.api().faults().fail_next(u64::MAX, Match::on(Verb::Create, "leases"), refusal);
        both(&gateway, "demo-country-se", "whoami.test:80").await
    }
    shutting_down => |world| {
        never_healthy(&world);
        let gateway = world.gateway(&[]).await;
        let mut stream = TcpStream::connect(gateway.proxy).await.unwrap();
        stream.write_all(connect_head("demo-country-de", PASSWORD, "whoami.test:80").as_bytes()).await.unwrap();
        eventually("a waiter", || async { gateway.metric("gluetun_gateway_waiters", "").await == 1.0 }).await;
        gateway.begin_shutdown();
        vec![seen(stream).await]
    }
}
