//! `GET /status`: every pod of ours in the namespace, foreign ones included, by its id.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::{Map, Value};

use super::Admin;
use crate::servers::Catalogue;
use crate::session::pod::{PROXY_PORT, PodView};

/// Name of the gateway's own Service, which stands where the original system had a Service for each pod.
const SERVICE: &str = "gluetun-gateway";

/// A pod, in the original system's words.
#[derive(Debug, Serialize)]
struct Pod<'a> {
    pod_name: &'a str,
    /// None before the pod has one.
    pod_ip: Option<IpAddr>,
    /// Key of its server in `/servers`; the hostname of one that the list does not have.
    server: String,
    username: Option<&'a str>,
    password: Option<&'a str>,
    port: u16,
    /// The pod's phase in lower case.
    status: String,
    #[serde(flatten)]
    service: Service,
}

/// Where a pod is reached from anywhere in the cluster: the gateway's stable address, with the pod's own
/// credentials.
#[derive(Debug, Serialize)]
struct Service {
    service_name: &'static str,
    service_cluster_ip: Option<IpAddr>,
    service_dns: String,
    service_port: u16,
    service_url: Option<String>,
}

/// Answers with all pods.
pub(super) async fn status(State(admin): State<Arc<Admin>>) -> Json<Map<String, Value>> {
    let pods = admin.sessions.pods();
    let catalogue = Arc::clone(&admin.catalogue.borrow());
    let config = &admin.config;
    let told = pods.iter().map(|pod| {
        let service = Service::of(pod, &config.gateway_url, config.service_cluster_ip);
        (pod.id.clone(), serde_json::to_value(tell(pod, &catalogue, service)).unwrap_or(Value::Null))
    });
    Json(told.collect())
}

fn tell<'a>(pod: &'a PodView, catalogue: &Catalogue, service: Service) -> Pod<'a> {
    let hostname = pod.server.as_deref().unwrap_or_default();
    Pod {
        pod_name: &pod.name,
        pod_ip: pod.ip,
        server: catalogue.by_hostname(hostname).map_or_else(|| hostname.to_owned(), |s| s.key.clone()),
        username: pod.user.as_deref(),
        password: pod.password.as_ref().map(|password| password.expose()),
        port: PROXY_PORT,
        status: pod.phase.to_lowercase(),
        service,
    }
}

impl Service {
    /// `gateway` is `http://HOST:PORT`, as the settings have it.
    fn of(pod: &PodView, gateway: &str, cluster_ip: Option<IpAddr>) -> Self {
        let authority = gateway.strip_prefix("http://").unwrap_or(gateway);
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
        let credentials = pod.user.as_deref().zip(pod.password.as_ref());
        Self {
            service_name: SERVICE,
            service_cluster_ip: cluster_ip,
            service_dns: host.to_owned(),
            service_port: port.parse().unwrap_or(80),
            // Both are made of letters and digits (and a dot): nothing to escape.
            service_url: credentials
                .map(|(user, password)| format!("http://{user}:{}@{authority}", password.expose())),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1 as core;
    use serde_json::json;

    use super::*;

    const LIST: &str =
        r#"[{"vpn":"wireguard","country":"USA","city":"New York NY","hostname":"us-nyc-wg-301"}]"#;

    /// A pod of ours.
    fn pod(status: Value) -> PodView {
        let pod: core::Pod = serde_json::from_value(json!({
            "metadata": {
                "name": "gluetun-6f9619ff-8b86-d011-b42d-00cf4fc964ff",
                "labels": { "app": "gluetun-vpn", "pod-id": "6f9619ff-8b86-d011-b42d-00cf4fc964ff" },
            },
            "spec": { "containers": [{ "name": "gluetun", "env": [
                { "name": "SERVER_HOSTNAMES", "value": "us-nyc-wg-301" },
                { "name": "HTTPPROXY_USER", "value": "pod.abc" },
                { "name": "HTTPPROXY_PASSWORD", "value": "s3cret" },
            ] }] },
            "status": status,
        }))
        .unwrap();
        PodView::read(&pod)
    }

    fn told(pod: &PodView, list: &str) -> Value {
        let catalogue = Catalogue::parse(list).unwrap();
        let service =
            Service::of(pod, "http://gluetun-gateway.vpn.svc.cluster.local:8080", "10.96.0.7".parse().ok());
        serde_json::to_value(tell(pod, &catalogue, service)).unwrap()
    }

    #[test]
    fn a_pod_in_the_originals_words() {
        let pod = pod(json!({ "phase": "Running", "podIP": "10.1.2.3" }));
        assert_eq!(
            told(&pod, LIST),
            json!({
                "pod_name": "gluetun-6f9619ff-8b86-d011-b42d-00cf4fc964ff",
                "pod_ip": "10.1.2.3",
                "server": "usa-new-york-ny-us-nyc-wg-301",
                "username": "pod.abc",
                "password": "s3cret",
                "port": 8888,
                "status": "running",
                "service_name": "gluetun-gateway",
                "service_cluster_ip": "10.96.0.7",
                "service_dns": "gluetun-gateway.vpn.svc.cluster.local",
                "service_port": 8080,
                "service_url": "http://pod.abc:s3cret@gluetun-gateway.vpn.svc.cluster.local:8080",
            })
        );
    }

    #[test]
    fn a_pod_that_has_just_been_made() {
        let told = told(&pod(json!({ "phase": "Pending" })), LIST);
        assert_eq!(told["pod_ip"], Value::Null);
        assert_eq!(told["status"], "pending");
    }

    #[test]
    fn a_server_that_the_list_does_not_have_is_told_by_its_hostname() {
        let list = r#"[{"vpn":"wireguard","country":"Sweden","city":"Malmö","hostname":"se-mma-wg-001"}]"#;
        assert_eq!(told(&pod(json!({ "phase": "Running" })), list)["server"], "us-nyc-wg-301");
    }

    #[test]
    fn an_address_of_the_sixth_version() {
        let pod = pod(json!({ "phase": "Running" }));
        let service = Service::of(&pod, "http://[fd00::1]:8080", None);
        assert_eq!((service.service_dns.as_str(), service.service_port), ("[fd00::1]", 8080));
        assert_eq!(service.service_url.as_deref(), Some("http://pod.abc:s3cret@[fd00::1]:8080"));
    }
}
