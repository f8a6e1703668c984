//! The paths under `/v1`, and the document of the API: what sessions there are, how one is ended, and why
//! a request failed.

use gluetun_gateway::session::pod::{APP_LABEL, APP_LABEL_VALUE, POD_ID_LABEL};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::support::http::{self, get, raw};
use crate::support::{Answer, Gateway, PASSWORD, World, eventually};

async fn told(gateway: &Gateway, path: &str) -> Value {
    let answer = get(gateway.admin, path).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

async fn delete(gateway: &Gateway, path: &str) -> Answer {
    let request = format!("DELETE {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    raw(gateway.admin, request.as_bytes()).await
}

/// The failures that a query finds, once there are so many: an answer is told of just after it is sent.
async fn failures(gateway: &Gateway, query: &str, count: usize) -> Vec<Value> {
    let path = format!("/v1/errors?{query}");
    eventually(&path, || async { told(gateway, &path).await["total"] == count }).await;
    told(gateway, &path).await["errors"].as_array().unwrap().clone()
}

/// The session of a user's account and selector.
async fn session(gateway: &Gateway, account: &str, selector: &str) -> Option<Value> {
    let list = told(gateway, &format!("/v1/sessions?account={account}")).await;
    let found = list["sessions"].as_array().unwrap().iter().find(|session| session["selector"] == selector);
    found.cloned()
}

/// Names of the steps of a failure, and that their times grow.
fn steps(failure: &Value) -> Vec<&str> {
    let steps = failure["steps"].as_array().unwrap();
    let times: Vec<f64> = steps.iter().map(|step| step["at_ms"].as_f64().unwrap()).collect();
    assert!(times.is_sorted() && times.iter().all(|at| *at >= 0.0), "{times:?}");
    steps.iter().map(|step| step["step"].as_str().unwrap()).collect()
}

on_both! {
    async fn a_session_is_told_and_ended(world) {
        let gateway = world.gateway(&[]).await;
        let mut tunnel = gateway.connect("demo-country-se-session-a", "echo-origin.test:7").await.unwrap();
        assert_eq!(tunnel.echo(b"whole").await, b"whole");
        let told_now = session(&gateway, "demo", "country-se").await.unwrap();
        assert_eq!(told_now["session"], "a");
        assert_eq!(told_now["state"], "ready");
        assert_eq!(told_now["reason"], Value::Null);
        assert_eq!(told_now["pinned"], false);
        assert_eq!(told_now["exit"]["country"], "Sweden");
        assert_eq!(told_now["idle_timeout_seconds"], 300);
        assert_eq!(told_now["idle_seconds"], 0);
        assert_eq!(told_now["tunnels"], 1);
        assert_eq!(told_now["replica"], "gateway-1");
        // Bytes show while the tunnel is open, and stay when it has closed.
        assert_eq!((&told_now["bytes_up"], &told_now["bytes_down"]), (&json!(5), &json!(5)));
        let name = told_now["name"].as_str().unwrap().to_owned();
        let claims = world.claim_list().await;
        assert_eq!(claims.iter().map(|c| c.metadata.name.clone().unwrap()).collect::<Vec<_>>(), vec![name.clone()]);
        let one = told(&gateway, &format!("/v1/sessions/{name}")).await;
        assert_eq!((&one["name"], &one["exit"]), (&told_now["name"], &told_now["exit"]));
        assert!(session(&gateway, "alice", "country-se").await.is_none());

        let ended = delete(&gateway, &format!("/v1/sessions/{name}")).await;
        assert_eq!(ended.status, 200, "{}", ended.text());
        assert_eq!(ended.json(), json!({ "name": name, "pods": [told_now["exit"]["pod"]] }));
        tunnel.closed().await;
        for path in [format!("/v1/sessions/{name}"), "/v1/sessions/gw-none".to_owned()] {
            let missing = get(gateway.admin, &path).await;
            assert_eq!((missing.status, &missing.json()["error"]), (404, &json!("Session not found")));
            assert_eq!(delete(&gateway, &path).await.status, 404, "{path}");
        }
        assert_eq!(told(&gateway, "/v1/sessions").await["sessions"], json!([]));
        assert_eq!(told(&gateway, "/status").await, json!({}));
        world.emptied().await;
        // And it can be had again.
        assert_ne!(told_now["exit"]["pod"], gateway.exit("demo-country-se-session-a").await.pod.as_str());
    }
}

on_both! {
    async fn a_pod_of_another_system_is_told_and_ended(world) {
        let gateway = world.gateway(&[]).await;
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {
                "name": "gluetun-from-elsewhere",
                "labels": { APP_LABEL: APP_LABEL_VALUE, POD_ID_LABEL: "elsewhere" },
            },
            "spec": { "containers": [{
                "name": "gluetun", "image": "qmcgaw/gluetun",
                "env": [{ "name": "SERVER_HOSTNAMES", "value": "us-nyc-wg-301" }],
            }] },
        }))
        .unwrap();
        world.pods().create(&PostParams::default(), &pod).await.unwrap();
        gateway.exit("demo-country-se").await;
        eventually("the pod to be told", || async {
            told(&gateway, "/v1/sessions").await["total"] == 2
        })
        .await;
        let list = told(&gateway, "/v1/sessions?limit=1").await;
        let foreign = &list["sessions"][0];
        assert_eq!((&foreign["name"], &foreign["state"]), (&json!("gluetun-from-elsewhere"), &json!("foreign")));
        assert_eq!((&foreign["account"], &foreign["exit"]["server"]), (&Value::Null, &json!("us-nyc-wg-301")));
        // The next page begins after it, and is the last.
        assert_eq!(list["next"], "gluetun-from-elsewhere");
        let rest = told(&gateway, "/v1/sessions?limit=1&after=gluetun-from-elsewhere").await;
        assert_eq!((&rest["sessions"][0]["state"], &rest["next"]), (&json!("ready"), &Value::Null));

        let ended = delete(&gateway, "/v1/sessions/gluetun-from-elsewhere").await;
        assert_eq!(ended.json()["pods"], json!(["gluetun-from-elsewhere"]), "{}", ended.text());
        eventually("the pod to go", || async {
            told(&gateway, "/v1/sessions").await["total"] == 1 && world.pod_list().await.len() == 1
        })
        .await;
    }
}

on_both! {
    async fn a_request_that_fails_leaves_its_way(world) {
        let gateway = world.gateway(&[("INSTANCE_LIMIT", "1")]).await;
        gateway.exit("alice-country-us").await;
        let refused = gateway.connect("demo-country-se-wait-1s", "example.test:443").await.unwrap_err();
        assert_eq!(refused.code(), "capacity_full");
        let id = refused.header("x-gateway-request-id").to_owned();
        let failure = &failures(&gateway, &format!("request_id={id}"), 1).await[0];
        assert_eq!(told(&gateway, "/v1/errors").await["replica"], "gateway-1");
        assert_eq!(failure["request_id"], id.as_str());
        assert_eq!((&failure["account"], &failure["selector"]), (&json!("demo"), &json!("country-se")));
        assert_eq!((&failure["method"], &failure["target"]), (&json!("CONNECT"), &json!("example.test:443")));
        assert_eq!((&failure["code"], &failure["status"]), (&json!("capacity_full"), &json!(503)));
        assert_eq!(failure["message"], refused.json()["message"]);
        assert!(failure["client"].as_str().unwrap().starts_with("127.0.0.1:"));
        assert!(failure["took_ms"].as_f64().unwrap() >= 1000.0);
        let way = steps(failure);
        assert_eq!(way[..4], ["authenticated", "resolved", "allowed", "held"], "{way:?}");
        assert!(way.contains(&"claim_seen") && way.contains(&"told"), "{way:?}");
        assert_eq!(way.last(), Some(&"ended"));
        let told_reason = failure["steps"].as_array().unwrap().iter().find(|step| step["step"] == "told").unwrap();
        assert!(told_reason["detail"].as_str().unwrap().starts_with("capacity_full: "), "{told_reason}");
        // The session waits on, and says why.
        let waiting = session(&gateway, "demo", "country-se").await.unwrap();
        assert_eq!((&waiting["name"], &waiting["state"]), (&failure["session"], &json!("waiting")));
        assert_eq!((&waiting["reason"]["code"], &waiting["exit"]), (&json!("capacity_full"), &Value::Null));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_wrong_behind_the_exit_is_told_to_the_end() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    let refused = gateway.connect("demo-country-se", "refused-origin.test:1").await.unwrap_err();
    assert!(refused.code().starts_with("upstream_"), "{refused:?}");
    let plain = gateway.get("demo-country-se", "http://no-such-name.test/x").await;
    assert!(plain.code().starts_with("upstream_"), "{plain:?}");
    // The newest first.
    let list = failures(&gateway, "account=demo", 2).await;
    let (second, first) = (&list[0], &list[1]);
    assert_eq!((&second["method"], &second["target"]), (&json!("GET"), &json!("no-such-name.test:80")));
    let way = steps(first);
    let cold = ["authenticated", "resolved", "allowed", "held", "claim_seen"];
    assert_eq!(way[..5], cold, "{way:?}");
    assert_eq!(way[way.len() - 4..], ["dialled", "connect_sent", "refused", "ended"], "{way:?}");
    for step in ["pod_created", "exit_ready"] {
        assert!(way.contains(&step), "{step}: {way:?}");
    }
    let warm = steps(second);
    assert_eq!(
        warm,
        ["authenticated", "resolved", "allowed", "exit_found", "dialled", "connect_sent", "refused", "ended"]
    );
    assert_eq!(second["exit"]["pod"], first["exit"]["pod"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_and_an_exit_that_goes_are_told() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[("INSTANCE_LIMIT", "1")]).await;
    let mut tunnel = gateway.connect("demo-country-se", "echo-origin.test:7").await.unwrap();
    assert_eq!(tunnel.echo(b"x").await, b"x");
    let name = session(&gateway, "demo", "country-se").await.unwrap()["name"].as_str().unwrap().to_owned();
    assert_eq!(delete(&gateway, &format!("/v1/sessions/{name}")).await.status, 200);
    tunnel.closed().await;
    let broken = &failures(&gateway, "code=exit_gone", 1).await[0];
    assert_eq!((&broken["status"], &broken["target"]), (&json!(200), &json!("echo-origin.test:7")));

    // Its only place taken, the gateway holds whoever else comes.
    let _busy = gateway.connect("demo-country-se", "echo-origin.test:7").await.unwrap();
    let mut stream = tokio::net::TcpStream::connect(gateway.proxy).await.unwrap();
    let head = http::connect_head("bob-country-de", PASSWORD, "example.test:443");
    tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes()).await.unwrap();
    eventually("the request to be held", || async {
        gateway.metric("gluetun_gateway_waiters", "").await == 1.0
    })
    .await;
    let held = session(&gateway, "bob", "country-de").await;
    assert!(held.is_none_or(|held| held["waiting"] == 1));
    drop(stream);
    let gone = &failures(&gateway, "account=bob&code=client_gone", 1).await[0];
    assert_eq!((&gone["status"], &gone["retryable"]), (&Value::Null, &json!(true)));
    assert_eq!(steps(gone)[..4], ["authenticated", "resolved", "allowed", "held"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_unproven_client_says_of_itself_is_not_kept() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    let secret = "not-the-pass-word";
    let wrong =
        http::connect(gateway.proxy, "mallory-country-se", secret, "example.test:443").await.unwrap_err();
    assert_eq!(wrong.status, 407);
    let none = raw(gateway.proxy, b"CONNECT a.test:1 HTTP/1.1\r\nHost: a.test:1\r\n\r\n").await;
    assert_eq!(none.status, 407);
    let list = failures(&gateway, "", 2).await;
    let text = get(gateway.admin, "/v1/errors").await.text();
    for failure in &list {
        assert_eq!((&failure["account"], &failure["selector"]), (&Value::Null, &Value::Null));
        assert_eq!(steps(failure), ["ended"]);
    }
    for word in ["mallory", secret, "example.test"] {
        assert!(!text.contains(word), "{word}: {text}");
    }
    assert_eq!(told(&gateway, "/v1/errors?account=mallory").await["total"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_checked_and_all_is_behind_the_token() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[("ADMIN_TOKEN", "a-token-of-the-api")]).await;
    let ask = async |path: &str, token: &str| {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        raw(gateway.admin, request.as_bytes()).await
    };
    for (path, word) in [
        ("/v1/sessions?limit=0", "limit"),
        ("/v1/sessions?limit=1001", "limit"),
        ("/v1/sessions?limit=x", "limit"),
        ("/v1/sessions?account=No-Such", "account"),
        ("/v1/errors?limit=-1", "limit"),
        ("/v1/errors?code=nothing", "code"),
        ("/v1/errors?request_id=xyz", "request_id"),
        ("/v1/errors?account=", "account"),
    ] {
        let answer = ask(path, "a-token-of-the-api").await;
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.json()["error"].as_str().unwrap().contains(word), "{path}: {}", answer.text());
        assert_eq!(ask(path, "another").await.status, 401, "{path}");
    }
    assert_eq!(ask("/v1/sessions", "a-token-of-the-api").await.status, 200);
    assert_eq!(ask("/v1/sessions/x", "").await.status, 401);
    assert_eq!(delete(&gateway, "/v1/sessions/x").await.status, 401);
    // The document and its page are open.
    let document = get(gateway.admin, "/openapi.json").await;
    assert_eq!((document.status, document.header("content-type")), (200, "application/json"));
    assert_eq!(document.text(), include_str!("../../docs/openapi.json"));
    let page = get(gateway.admin, "/docs").await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_of_the_document_is_there() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    let document = told(&gateway, "/openapi.json").await;
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path.replace("{name}", "gw-none");
        for method in item.as_object().unwrap().keys() {
            let method = method.to_uppercase();
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            );
            let answer = raw(gateway.admin, request.as_bytes()).await;
            let text = answer.text();
            let missing = answer.status == 404 && text.contains("\"Not found\"");
            assert!(answer.status != 405 && !missing, "{method} {path}: {text}");
            let documented = &item[method.to_lowercase()]["responses"][answer.status.to_string()];
            assert!(documented.is_object(), "{method} {path}: {} is not documented", answer.status);
        }
    }
}
