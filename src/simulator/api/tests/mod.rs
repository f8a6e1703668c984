//! The API server as its clients see it: through kube's client, and through plain sockets.

mod client;
mod faults;
mod load;
mod watches;

use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::ApiServer;

const NAMESPACE: &str = "gluetun-system";
/// Longest wait for anything: only a failing test reaches it.
const LIMIT: Duration = Duration::from_secs(20);

async fn server() -> ApiServer {
    ApiServer::start(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap()
}

/// A client without kube's own retries, that gives its name in every request.
fn client_of(server: &ApiServer, agent: &str) -> Client {
    let mut config = server.client_config(NAMESPACE);
    config.default_retry = false;
    config.headers.push((http::header::USER_AGENT, agent.parse().unwrap()));
    Client::try_from(config).unwrap()
}

fn client(server: &ApiServer) -> Client {
    client_of(server, "tests")
}

fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": "gluetun-vpn"}},
        "spec": {"containers": [{"name": "gluetun", "image": "qmcgaw/gluetun:v3.41.3"}]},
    }))
    .unwrap()
}

fn lease(name: &str) -> Lease {
    serde_json::from_value(json!({
        "metadata": {"name": name}, "spec": {"holderIdentity": "h", "leaseDurationSeconds": 300},
    }))
    .unwrap()
}

async fn create_pod(pods: &Api<Pod>, name: &str) -> Pod {
    pods.create(&PostParams::default(), &pod(name)).await.unwrap()
}

fn status_of(error: kube::Error) -> (u16, String) {
    match error {
        kube::Error::Api(status) => (status.code, status.reason.clone()),
        other => panic!("no Status: {other}"),
    }
}

/// Waits until a condition holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    if tokio::time::timeout(LIMIT, wait).await.is_err() {
        panic!("never: {what}");
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(value) => value,
        Err(_) => panic!("took too long: {what}"),
    }
}

/// One request on a connection of its own; status and body.
async fn raw(server: &ApiServer, method: &str, path: &str, body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(path, stream.read_to_string(&mut answer)).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}
