//! The paths as another process uses them: JSON over a socket, against a whole cluster.

use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use kube::runtime::wait::await_condition;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;
use crate::simulator::cluster::{Cluster, ClusterOptions};

const PATIENCE: Duration = Duration::from_secs(60);

async fn ask(to: SocketAddr, method: &str, path: &str, body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let request = format!(
        "{method} /simulator/{path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}")))
}

async fn cluster(cidr: &str, pod_command: Option<&str>) -> (Cluster, Api<Pod>, SocketAddr) {
    let options = ClusterOptions {
        pod_cidr: cidr.parse().unwrap(),
        pod_command: pod_command.map(str::to_owned),
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options).await.unwrap();
    let client = kube::Client::try_from(cluster.client_config()).unwrap();
    let address = cluster.api().addr();
    (cluster, Api::default_namespaced(client), address)
}

async fn create(pods: &Api<Pod>, name: &str, server: &str) {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "containers": [{
            "name": "gluetun", "image": "qmcgaw/gluetun:v3.41.3",
            "env": [{"name": "SERVER_HOSTNAMES", "value": server}],
        }]},
    }))
    .unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();
}

/// Waits until a pod's status, as text, contains this.
async fn until_status(pods: &Api<Pod>, name: &str, text: &'static str) {
    let has = move |pod: Option<&Pod>| {
        serde_json::to_string(&pod.and_then(|pod| pod.status.as_ref())).unwrap().contains(text)
    };
    let waited = timeout(PATIENCE, await_condition(pods.clone(), name, has)).await;
    waited.unwrap_or_else(|_| panic!("{name}: never {text}")).unwrap();
}

#[tokio::test]
async fn rules_catch_pods_and_go_again() {
    let (cluster, pods, api) = cluster("127.43.2.0/24", Some("sleep 600")).await;
    let rule = r#"{"pods": {"server": "se-a"}, "times": 1, "fault": "image_pull", "message": "gone"}"#;
    assert_eq!(ask(api, "POST", "pods/rules", rule).await, (200, json!({"id": 1})));
    let exit = r#"{"pods": {"named": "c"}, "fault": "exit", "code": 3, "log": ["so long"]}"#;
    assert_eq!(ask(api, "POST", "pods/rules", exit).await, (200, json!({"id": 2})));
    create(&pods, "a", "se-a").await;
    until_status(&pods, "a", "ErrImagePull").await;
    create(&pods, "b", "se-a").await;
    until_status(&pods, "b", "\"running\"").await;
    create(&pods, "c", "se-c").await;
    until_status(&pods, "c", "\"exitCode\":3").await;
    assert_eq!(pods.logs("c", &Default::default()).await.unwrap(), "so long\n");
    let (status, listed) = ask(api, "GET", "pods/rules", "").await;
    assert_eq!((status, &listed["rules"][0]["hits"], &listed["rules"][1]["id"]), (200, &json!(1), &json!(2)));
    assert_eq!(listed["rules"][0]["rule"]["fault"], "image_pull");
    assert_eq!(ask(api, "DELETE", "pods/rules/1", "").await.0, 200);
    until_status(&pods, "a", "\"running\"").await;
    assert_eq!(ask(api, "DELETE", "pods/rules", "").await.0, 200);
    assert_eq!(ask(api, "GET", "pods/rules", "").await.1, json!({"rules": []}));
    cluster.stop().await;
}

#[tokio::test]
async fn blows_strike_pods_that_run() {
    let (cluster, pods, api) = cluster("127.43.3.0/24", Some("sleep 600")).await;
    for name in ["a", "b", "c"] {
        create(&pods, name, "se-a").await;
        until_status(&pods, name, "\"running\"").await;
    }
    let exit = r#"{"pods": {"named": "a"}, "blow": "exit", "code": 9, "log": ["oh"]}"#;
    assert_eq!(ask(api, "POST", "pods/strike", exit).await, (200, json!({"struck": 1})));
    until_status(&pods, "a", "\"exitCode\":9").await;
    let evict = r#"{"pods": {"named": "b"}, "blow": "evict"}"#;
    assert_eq!(ask(api, "POST", "pods/strike", evict).await.1, json!({"struck": 1}));
    // The kubelet tells of the eviction before the container has ended.
    until_status(&pods, "b", "Evicted").await;
    until_status(&pods, "b", "\"terminated\"").await;
    // What has ended is not struck again.
    assert_eq!(ask(api, "POST", "pods/strike", r#"{"blow": "kill"}"#).await.1, json!({"struck": 1}));
    until_status(&pods, "c", "\"exitCode\":137").await;
    cluster.stop().await;
}

#[tokio::test]
async fn the_look_alikes_faults_are_replaced_as_a_whole_or_one_by_one() {
    let (cluster, _, api) = cluster("127.43.4.0/24", None).await;
    let all = json!({"all": {"delay_ms": 5000}, "only": {"se-mma-wg-001": {"dead": true}}});
    assert_eq!(ask(api, "PUT", "gluetun/faults", &all.to_string()).await, (200, all.clone()));
    assert!(cluster.gluetun().faults().get().of("p", "se-mma-wg-001").dead);
    assert_eq!(ask(api, "PUT", "gluetun/faults/p", r#"{"silent": true}"#).await.0, 200);
    assert!(cluster.gluetun().faults().get().of("p", "se-mma-wg-001").silent);
    assert_eq!(ask(api, "DELETE", "gluetun/faults/p", "").await, (200, json!({})));
    assert_eq!(ask(api, "DELETE", "gluetun/faults/p", "").await.0, 404);
    assert_eq!(ask(api, "GET", "gluetun/faults", "").await, (200, all));
    assert_eq!(ask(api, "DELETE", "gluetun/faults", "").await, (200, json!({})));
    assert_eq!(cluster.gluetun().faults().get(), FaultRules::default());
    cluster.stop().await;
}

#[tokio::test]
async fn mistakes_are_named() {
    let (cluster, _, api) = cluster("127.43.5.0/24", Some("sleep 600")).await;
    for (method, path, body, status, text) in [
        ("POST", "pods/rules", "", 400, "empty"),
        ("POST", "pods/rules", "{", 400, "no JSON"),
        ("POST", "pods/rules", r#"{"fault": "nonsense"}"#, 400, "`never_ready`"),
        ("POST", "pods/rules", r#"{"fault": "never_ready", "pod": {"named": "a"}}"#, 400, "`pod`"),
        ("POST", "pods/rules", r#"{"fault": "never_ready", "pods": {"name": "a"}}"#, 400, "`named`"),
        ("POST", "pods/rules", r#"{"fault": "exit"}"#, 400, "`code`"),
        ("DELETE", "pods/rules/x", "", 400, "`x`"),
        ("DELETE", "pods/rules/7", "", 404, "no rule 7"),
        ("PUT", "pods/rules", "", 405, "method"),
        ("POST", "pods/strike", r#"{"blow": "slap"}"#, 400, "`evict`"),
        ("POST", "pods/strike", r#"{"blow": "kill", "code": 1}"#, 400, "`code`"),
        ("GET", "pods/strike", "", 405, "method"),
        ("GET", "pods/zz", "", 404, "could not find"),
        ("GET", "gluetun/faults", "", 409, "--pod-command"),
        ("GET", "zz", "", 404, "/simulator/pods"),
    ] {
        let (was, answer) = ask(api, method, path, body).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert_eq!(was, status, "{method} {path} {body}: {message}");
        assert!(message.contains(text), "{method} {path} {body}: {message}");
    }
    cluster.stop().await;
    let (cluster, _, api) = self::cluster("127.43.5.0/24", None).await;
    for (method, path, body, status, text) in [
        ("PUT", "gluetun/faults", r#"{"all": {"ded": true}}"#, 400, "`ded`"),
        ("PUT", "gluetun/faults/x", "7", 400, "expected struct Fault"),
        ("POST", "gluetun/faults", "{}", 405, "method"),
        ("GET", "gluetun/zz", "", 404, "could not find"),
    ] {
        let (was, answer) = ask(api, method, path, body).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert_eq!(was, status, "{method} {path} {body}: {message}");
        assert!(message.contains(text), "{method} {path} {body}: {message}");
    }
    cluster.stop().await;
}
