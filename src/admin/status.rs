//! `GET /status`: every pod of ours in the namespace, foreign ones included, by its id. One that is ending
//! is not shown.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value};

use super::Admin;
use super::types::{PodStatus, Service};
use crate::config::Config;
use crate::servers::Catalogue;
use crate::session::pod::{PROXY_PORT, PodView};

/// Pods
///
/// Every pod of the gateway in the namespace, and those of other systems that wear the same label, by their
/// ids. One that is ending is not shown.
#[utoipa::path(
    get,
    path = "/status",
    tag = "pods",
    operation_id = "listPods",
    responses((status = 200, description = "The pods.", body = BTreeMap<String, PodStatus>, example = json!({
        "444b33d0-0604-578f-a246-c49a9fe4c5c8": {
            "pod_name": "gluetun-444b33d0-0604-578f-a246-c49a9fe4c5c8", "pod_ip": "10.42.0.18",
            "server": "sweden-gothenburg-se-got-wg-003", "username": "pod.k2x7c4q5", "password": "s3cr3t",
            "port": 8888, "status": "running", "service_name": "gluetun-gateway",
            "service_cluster_ip": "10.43.7.20",
            "service_dns": "gluetun-gateway.gluetun-system.svc.cluster.local", "service_port": 8080,
            "service_url": "http://pod.k2x7c4q5:s3cr3t@gluetun-gateway.gluetun-system.svc.cluster.local:8080"}}))),
    security((), ("token" = []))
)]
pub(super) async fn status(State(admin): State<Arc<Admin>>) -> Json<Map<String, Value>> {
    let catalogue = Arc::clone(&admin.catalogue.borrow());
    let told = admin.sessions.pods().into_iter().map(|pod| {
        let told = serde_json::to_value(tell(&pod, &catalogue, &admin.config)).unwrap_or(Value::Null);
        (pod.public_id().to_owned(), told)
    });
    Json(told.collect())
}

fn tell(pod: &PodView, catalogue: &Catalogue, config: &Config) -> PodStatus {
    let hostname = pod.server.as_deref().unwrap_or_default();
    let key = || catalogue.by_hostname(hostname).map(|server| server.key.clone());
    PodStatus {
        pod_name: pod.name.clone(),
        pod_ip: pod.ip,
        server: pod.server_key.clone().or_else(key).unwrap_or_else(|| hostname.to_owned()),
        username: pod.user.clone(),
        password: pod.password.as_ref().map(|password| password.expose().to_owned()),
        port: PROXY_PORT,
        status: pod.phase.to_lowercase(),
        service: Service::of(pod, config),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1 as core;
    use serde_json::json;

    use super::*;
    use crate::session::pod::pod_name;

    const LIST: &str =
        r#"[{"vpn":"wireguard","country":"USA","city":"New York NY","hostname":"us-nyc-wg-301"}]"#;
    const UID: &str = "6d9f0f2e-1f7e-4a53-9a51-0d5f6a1b2c3d";

    /// A pod of ours, or with no `claim` one of another system.
    fn pod(status: Value, claim: bool) -> PodView {
        let name = pod_name(UID, 0);
        let annotations = json!({
            "gluetun-gateway/claim": "gw-x", "gluetun-gateway/claim-uid": UID, "gluetun-gateway/transition": "0",
        });
        let pod: core::Pod = serde_json::from_value(json!({
            "metadata": {
                "name": name,
                "labels": { "app": "gluetun-vpn", "pod-id": name.trim_start_matches("gluetun-") },
                "annotations": if claim { annotations } else { json!({}) },
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
        let config = Config {
            gateway_url: "http://gluetun-gateway.vpn.svc.cluster.local:8080".to_owned(),
            service_cluster_ip: "10.96.0.7".parse().ok(),
            ..crate::admin::tests::config(&[])
        };
        serde_json::to_value(tell(pod, &Catalogue::parse(list).unwrap(), &config)).unwrap()
    }

    #[test]
    fn a_pod_in_the_originals_words() {
        let pod = pod(json!({ "phase": "Running", "podIP": "10.1.2.3" }), true);
        assert_eq!(
            told(&pod, LIST),
            json!({
                "pod_name": pod_name(UID, 0),
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
        let told = told(&pod(json!({ "phase": "Pending" }), true), LIST);
        assert_eq!(told["pod_ip"], Value::Null);
        assert_eq!(told["status"], "pending");
    }

    #[test]
    fn a_foreign_pods_credentials_do_not_work_at_the_gateway() {
        let told = told(&pod(json!({ "phase": "Running" }), false), LIST);
        assert_eq!(told["service_url"], Value::Null);
        assert_eq!(
            (&told["username"], &told["server"]),
            (&json!("pod.abc"), &json!("usa-new-york-ny-us-nyc-wg-301"))
        );
    }

    #[test]
    fn a_server_keeps_the_key_that_it_had_and_without_one_is_told_by_its_hostname() {
        let list = r#"[{"vpn":"wireguard","country":"Sweden","city":"Malmö","hostname":"se-mma-wg-001"}]"#;
        let mut pod = pod(json!({ "phase": "Running" }), true);
        assert_eq!(told(&pod, list)["server"], "us-nyc-wg-301");
        pod.server_key = Some("usa-old-york-us-nyc-wg-301".to_owned());
        assert_eq!(told(&pod, LIST)["server"], "usa-old-york-us-nyc-wg-301");
    }

    #[test]
    fn an_address_of_the_sixth_version() {
        let pod = pod(json!({ "phase": "Running" }), true);
        let config =
            Config { gateway_url: "http://[fd00::1]:8080".to_owned(), ..crate::admin::tests::config(&[]) };
        let service = Service::of(&pod, &config);
        assert_eq!((service.service_dns.as_str(), service.service_port), ("[fd00::1]", 8080));
        assert_eq!(service.service_url.as_deref(), Some("http://pod.abc:s3cret@[fd00::1]:8080"));
    }
}
