//! Pod logs, which an API server does not have: it asks the kubelet of the pod's node and passes the
//! answer on, piece by piece. Where the kubelet is, its Node object says.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::json::{list, text};
use super::resources::Kind;
use super::router::Query;
use super::status::{Failure, FieldError};
use super::store::Store;

/// Parameters that are passed on to the kubelet.
const PASSED: [&str; 7] =
    ["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes"];
/// Longest error text of a kubelet that is passed on, in bytes.
const ERROR_TEXT: usize = 16 << 10;

/// Where a container's log is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Location {
    address: String,
    path: String,
}

/// Finds the log that a request asks for; nothing if the pod is on no node yet.
pub(super) fn locate(
    store: &Store,
    namespace: &str,
    name: &str,
    query: &Query,
) -> Result<Option<Location>, Failure> {
    let pod = store.get(Kind::Pod, namespace, name).ok_or_else(|| Failure::not_found(Kind::Pod, name))?;
    let pod = &pod.value;
    let mut errors = Vec::new();
    for (field, least) in [("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)] {
        let Some(given) = query.find(field) else { continue };
        let number: i64 = given.parse().map_err(|_| {
            Failure::bad_request(format!("strconv.ParseInt: parsing \"{given}\": invalid syntax"))
        })?;
        if number < least {
            let why =
                if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
            errors.push(FieldError::invalid(field, number, why));
        }
    }
    if !errors.is_empty() {
        return Err(Failure::invalid_as("", "PodLogOptions", name, &errors));
    }
    let container = container(pod, name, query.get("container"))?;
    let node_name = text(pod, &["spec", "nodeName"]);
    if node_name.is_empty() {
        return Ok(None);
    }
    // The real one names the pod's resource here too, not the node's.
    let node =
        store.get(Kind::Node, "", node_name).ok_or_else(|| Failure::not_found(Kind::Pod, node_name))?;
    let parameters: Vec<String> = PASSED
        .into_iter()
        .filter_map(|key| query.find(key).map(|value| format!("{key}={}", encode(value))))
        .collect();
    let path = format!("/containerLogs/{namespace}/{name}/{container}?{}", parameters.join("&"));
    Ok(Some(Location { address: kubelet(&node.value)?, path: path.trim_end_matches('?').to_owned() }))
}

/// The container that is meant: the only one, if none is named.
fn container(pod: &Value, name: &str, asked: &str) -> Result<String, Failure> {
    let names = |field: &str| -> Vec<&str> {
        list(pod, &["spec", field]).iter().map(|container| text(container, &["name"])).collect()
    };
    let (containers, init) = (names("containers"), names("initContainers"));
    if !asked.is_empty() {
        if containers.contains(&asked) || init.contains(&asked) {
            return Ok(asked.to_owned());
        }
        return Err(Failure::bad_request(format!("container {asked} is not valid for pod {name}")));
    }
    match containers.as_slice() {
        [one] => Ok((*one).to_owned()),
        many => Err(Failure::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            many.join(" ")
        ))),
    }
}

fn kubelet(node: &Value) -> Result<String, Failure> {
    let addresses = list(node, &["status", "addresses"]);
    let host = ["InternalIP", "ExternalIP", "Hostname"]
        .into_iter()
        .find_map(|kind| addresses.iter().find(|address| address["type"] == kind))
        .map(|address| text(address, &["address"]));
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().filter(|port| *port > 0);
    let (Some(host), Some(port)) = (host, port) else {
        let name = text(node, &["metadata", "name"]);
        return Err(Failure::internal(&format!("node {name} tells no address and port of its kubelet")));
    };
    Ok(match host.parse() {
        Ok(ip) => u16::try_from(port)
            .map_or_else(|_| format!("{host}:{port}"), |p| SocketAddr::new(ip, p).to_string()),
        Err(_) => format!("{host}:{port}"),
    })
}

/// Percent-encodes what may not stand in a query as it is.
fn encode(value: &str) -> String {
    value
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b':' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// Asks the kubelet for a log. Its errors become Status answers.
pub(super) async fn fetch(location: &Location) -> Result<Incoming, Failure> {
    let Location { address, path } = location;
    let failed = |error: &dyn std::fmt::Display| {
        Failure::internal(&format!("Get \"http://{address}{path}\": {error}"))
    };
    let uri: Uri = path.parse().map_err(|error| failed(&error))?;
    let stream = TcpStream::connect(address.as_str()).await.map_err(|error| failed(&dial_error(&error)))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    // Ends with the body: when the kubelet has sent it all, or when the client has gone.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the kubelet's connection ended early");
        }
    });
    let request = Request::get(uri)
        .header(http::header::HOST, address.as_str())
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
    let (head, body) = response.into_parts();
    if head.status.is_success() {
        return Ok(body);
    }
    let text = match Limited::new(body, ERROR_TEXT).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    Err(match head.status {
        StatusCode::BAD_REQUEST => Failure::bad_request(text),
        StatusCode::NOT_FOUND => Failure {
            code: 404,
            reason: Some("NotFound".into()),
            message: format!("the server could not find the requested resource: {text}"),
            details: None,
            retry_after: None,
        },
        _ => Failure::internal(&text),
    })
}

fn dial_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "dial tcp: connect: connection refused".into(),
        _ => format!("dial tcp: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::simulator::api::store::Commit;

    fn world(node: Value, pod: Value) -> Store {
        let store = Store::new();
        store.commit(Kind::Node, "", "n", None, Commit::Put(node)).unwrap();
        store.commit(Kind::Pod, "ns", "p", None, Commit::Put(pod)).unwrap();
        store
    }

    fn node() -> Value {
        json!({"metadata": {"name": "n"}, "status": {
            "addresses": [{"type": "Hostname", "address": "h"}, {"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}}})
    }

    fn pod(containers: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": containers}})
    }

    fn ask(store: &Store, query: &str) -> Result<Option<Location>, Failure> {
        locate(store, "ns", "p", &Query::parse(query))
    }

    #[test]
    fn the_kubelet_is_found_by_its_node() {
        let store = world(node(), pod(json!([{"name": "c"}])));
        let found =
            ask(&store, "tailLines=5&follow=true&pretty=1&sinceTime=2026-01-01T00%3A00%3A00%2B01%3A00")
                .unwrap()
                .unwrap();
        assert_eq!(found.address, "127.0.0.1:10250");
        let expected = "/containerLogs/ns/p/c?follow=true&sinceTime=2026-01-01T00:00:00%2B01:00&tailLines=5";
        assert_eq!(found.path, expected);
        assert_eq!(ask(&store, "").unwrap().unwrap().path, "/containerLogs/ns/p/c");
    }

    #[test]
    fn what_cannot_be_answered() {
        let two = world(node(), pod(json!([{"name": "a"}, {"name": "b"}])));
        let message = |store: &Store, query: &str| ask(store, query).unwrap_err().message;
        assert_eq!(message(&two, ""), "a container name must be specified for pod p, choose one of: [a b]");
        assert_eq!(message(&two, "container=zz"), "container zz is not valid for pod p");
        assert!(message(&two, "tailLines=-1").contains("PodLogOptions \"p\" is invalid: tailLines"));
        assert!(ask(&two, "container=b").is_ok());
        let unbound = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
        assert_eq!(ask(&world(node(), unbound), "").unwrap(), None);
        let mut elsewhere = pod(json!([{"name": "c"}]));
        elsewhere["spec"]["nodeName"] = json!("zz");
        assert_eq!(ask(&world(node(), elsewhere), "").unwrap_err().code, 404);
        let silent = world(json!({"metadata": {"name": "n"}}), pod(json!([{"name": "c"}])));
        assert!(message(&silent, "").contains("tells no address"));
        assert_eq!(locate(&two, "ns", "zz", &Query::default()).unwrap_err().code, 404);
    }
}
