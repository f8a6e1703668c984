//! The pod of an exit, as it is sent to the API: a pure function. What each line is for is said beside
//! it; the times and rights behind them were measured on Gluetun v3.41 in a real cluster.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, HostPathVolumeSource, Pod,
    PodDNSConfig, PodSpec, Probe, ResourceRequirements, SeccompProfile, SecretKeySelector, SecurityContext,
    Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rand::RngExt;
use rand::distr::{Alphanumeric, SampleString};
use serde_json::json;

use crate::config::{Config, TunDevice};
use crate::secret::Secret;
use crate::servers::Server;
use crate::session::claim::Claim;
use crate::session::pod::{
    APP_LABEL, APP_LABEL_VALUE, CONTAINER, HEALTH_PORT, POD_ID_LABEL, PROXY_PORT, annotation,
};

/// Secret with the VPN key, as in the original system.
pub const SECRET: &str = "gluetun-wireguard-credentials";
/// Key of [`SECRET`] with the WireGuard private key.
pub const PRIVATE_KEY: &str = "wireguard-private-key";
/// Key of [`SECRET`] with the WireGuard addresses.
pub const ADDRESSES: &str = "wireguard-addresses";

/// What Gluetun's container asks for.
pub const REQUESTS: [(&str, &str); 2] = [("cpu", "100m"), ("memory", "128Mi")];
/// What it may have.
pub const LIMITS: [(&str, &str); 2] = [("cpu", "500m"), ("memory", "256Mi")];
/// Where Gluetun's collector begins to keep its memory, as Go spells it: under the limit of [`LIMITS`]. Without
/// it Gluetun grows to 300 MiB.
pub const GO_MEMORY_LIMIT: &str = "160MiB";

/// Value of the label `managed-by`, verbatim that of the original: dashboards and scripts select by it.
const MANAGED_BY: &str = "gluetun-k8s-api";

/// Beginning of a pod's proxy user: a name that no account may have.
const USER_PREFIX: &str = "pod.";

/// What a pod's own servers ask for. Made anew for each pod and known only from it.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// User of its HTTP proxy: `pod.` and 20 of `a-z 0-9`, which is an account's spelling.
    pub user: String,
    /// Password of its HTTP proxy. No `:`, which Gluetun cannot take.
    pub password: Secret,
    /// API key of its control server, which anyone could reach through the pod's own proxy.
    pub control_key: Secret,
}

impl Credentials {
    /// New ones from the operating system's randomness: over 100 bits each.
    pub fn random() -> Self {
        const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let mut rng = rand::rng();
        let mut user = USER_PREFIX.to_owned();
        for _ in 0..20 {
            user.extend(ALPHABET.get(rng.random_range(0..ALPHABET.len())).map(|byte| char::from(*byte)));
        }
        let mut secret = || Secret::from(Alphanumeric.sample_string(&mut rng, 32));
        Self { user, password: secret(), control_key: secret() }
    }
}

/// The pod of the claim's exit `transition`, on `server`, with what the operator's template adds.
pub fn pod(
    config: &Config,
    claim: &Claim,
    transition: i32,
    server: &Server,
    credentials: &Credentials,
) -> Pod {
    let pod = plain(config, claim, transition, server, credentials);
    let Some(template) = &config.pod_template else { return pod };
    template.apply(&pod).unwrap_or_else(|error| {
        // Both are in Kubernetes' own types, so this is a mistake of ours; the exit works without.
        tracing::error!(%error, "POD_TEMPLATE_FILE cannot be merged, and is left out");
        pod
    })
}

/// The pod as it is without a template.
fn plain(config: &Config, claim: &Claim, transition: i32, server: &Server, credentials: &Credentials) -> Pod {
    let id = claim.pod_id(transition).to_string();
    Pod {
        metadata: ObjectMeta {
            name: Some(format!("gluetun-{id}")),
            namespace: Some(config.namespace.clone()),
            labels: Some(labels(&id)),
            annotations: Some(annotations(claim, transition, server)),
            owner_references: Some(vec![owner(claim)]),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            containers: vec![container(config, server, credentials)],
            volumes: tun_volume(&config.tun_device),
            // A failed pod is replaced on another server, never restarted in its old network namespace.
            restart_policy: Some("Never".to_owned()),
            // The VPN ends 0.5 s after SIGTERM. Never 0: it would outlive its object.
            termination_grace_period_seconds: Some(5),
            // With the cluster's resolver, names of local zones would go around the VPN.
            dns_policy: Some("None".to_owned()),
            dns_config: Some(PodDNSConfig {
                nameservers: Some(vec!["1.1.1.1".to_owned()]),
                ..PodDNSConfig::default()
            }),
            enable_service_links: Some(false),
            automount_service_account_token: Some(false),
            ..PodSpec::default()
        }),
        status: None,
    }
}

fn labels(id: &str) -> BTreeMap<String, String> {
    [
        (APP_LABEL, APP_LABEL_VALUE),
        ("managed-by", MANAGED_BY),
        (POD_ID_LABEL, id),
        ("app.kubernetes.io/name", "gluetun"),
        ("app.kubernetes.io/component", "exit"),
        ("app.kubernetes.io/part-of", "gluetun-gateway"),
        ("app.kubernetes.io/managed-by", "gluetun-gateway"),
        // A mesh's sidecar would take the pod's traffic before the VPN does.
        ("sidecar.istio.io/inject", "false"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// Names of places are no valid labels ("Malmö"), so everything readable is an annotation.
fn annotations(claim: &Claim, transition: i32, server: &Server) -> BTreeMap<String, String> {
    [
        (annotation::CLAIM, claim.name.clone()),
        (annotation::CLAIM_UID, claim.uid.clone()),
        (annotation::TRANSITION, transition.to_string()),
        (annotation::ACCOUNT, claim.key.account.to_string()),
        (annotation::SERVER, server.hostname.to_string()),
        (annotation::SERVER_KEY, server.key.clone()),
        (annotation::COUNTRY, server.country.to_string()),
        (annotation::CITY, server.city.to_string()),
        ("linkerd.io/inject", "disabled".to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// The garbage collector takes the pod with its claim, should no leader be there to do so.
fn owner(claim: &Claim) -> OwnerReference {
    OwnerReference {
        api_version: "coordination.k8s.io/v1".to_owned(),
        kind: "Lease".to_owned(),
        name: claim.name.clone(),
        uid: claim.uid.clone(),
        ..OwnerReference::default()
    }
}

fn container(config: &Config, server: &Server, credentials: &Credentials) -> Container {
    let port = |name: &str, port: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(port),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    Container {
        name: CONTAINER.to_owned(),
        image: Some(config.gluetun_image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        env: Some(environment(config, server, credentials)),
        ports: Some(vec![port("proxy", PROXY_PORT), port("health", HEALTH_PORT)]),
        // Alone: 8888 listens before the VPN is up and proves nothing, a startup probe would delay Ready by
        // up to a second, and a restart (liveness) would meet the old rules of its network namespace.
        readiness_probe: Some(Probe {
            http_get: Some(HTTPGetAction {
                path: Some("/".to_owned()),
                port: IntOrString::Int(i32::from(HEALTH_PORT)),
                ..HTTPGetAction::default()
            }),
            period_seconds: Some(1),
            timeout_seconds: Some(1),
            failure_threshold: Some(3),
            ..Probe::default()
        }),
        resources: Some(resources(&config.tun_device)),
        security_context: Some(security(&config.tun_device)),
        volume_mounts: tun_mount(&config.tun_device),
        ..Container::default()
    }
}

fn environment(config: &Config, server: &Server, credentials: &Credentials) -> Vec<EnvVar> {
    let var = |name: &str, value: &str| EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        value_from: None,
    };
    let secret = |name: &str, key: &str| EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector {
                name: SECRET.to_owned(),
                key: key.to_owned(),
                optional: Some(false),
            }),
            ..EnvVarSource::default()
        }),
    };
    let mut ports = format!("{PROXY_PORT},{HEALTH_PORT}");
    for port in &config.firewall_input_ports {
        if ![PROXY_PORT, HEALTH_PORT].contains(port) {
            ports.push_str(&format!(",{port}"));
        }
    }
    let role = json!({ "auth": "apikey", "apikey": credentials.control_key.expose() }).to_string();
    vec![
        var("VPN_SERVICE_PROVIDER", &config.vpn_provider),
        var("VPN_TYPE", &config.vpn_type),
        secret("WIREGUARD_PRIVATE_KEY", PRIVATE_KEY),
        secret("WIREGUARD_ADDRESSES", ADDRESSES),
        // Always one: with a country alone Gluetun may change the server, and the address, by itself.
        var("SERVER_HOSTNAMES", server.hostname.as_str()),
        var("HTTPPROXY", "on"),
        var("HTTPPROXY_LISTENING_ADDRESS", &format!(":{PROXY_PORT}")),
        var("HTTPPROXY_USER", &credentials.user),
        var("HTTPPROXY_PASSWORD", credentials.password.expose()),
        var("HTTPPROXY_STEALTH", "on"),
        var("HTTPPROXY_LOG", "off"),
        var("HEALTH_SERVER_ADDRESS", &format!(":{HEALTH_PORT}")),
        var("FIREWALL_INPUT_PORTS", &ports),
        // By address: no dependence on DNS, and a round trip less.
        var("HEALTH_TARGET_ADDRESSES", "1.1.1.1:443,8.8.8.8:443"),
        var("HEALTH_RESTART_VPN", "on"),
        // Set and empty: without it the list of servers is written to disk at each start (105 ms).
        var("STORAGE_FILEPATH", ""),
        var("WIREGUARD_PERSISTENT_KEEPALIVE_INTERVAL", "25s"),
        var("WIREGUARD_MTU", "1320"),
        // Plain inside the tunnel, with the block lists off: nothing is downloaded at the start. The
        // resolver stays on, since it refuses answers with private addresses. Never DNS_ADDRESS.
        var("DNS_UPSTREAM_RESOLVER_TYPE", "plain"),
        var("BLOCK_MALICIOUS", "off"),
        var("BLOCK_ADS", "off"),
        var("BLOCK_SURVEILLANCE", "off"),
        var("VERSION_INFORMATION", "off"),
        var("PUBLICIP_ENABLED", "off"),
        var("UPDATER_PERIOD", "0"),
        var("GOMEMLIMIT", GO_MEMORY_LIMIT),
        var("GOGC", "off"),
        var("HTTP_CONTROL_SERVER_ADDRESS", "127.0.0.1:8000"),
        var("HTTP_CONTROL_SERVER_LOG", "off"),
        var("HTTP_CONTROL_SERVER_AUTH_DEFAULT_ROLE", &role),
    ]
}

fn resources(tun: &TunDevice) -> ResourceRequirements {
    let mut requests = quantities(REQUESTS);
    let mut limits = quantities(LIMITS);
    if let TunDevice::Resource(name) = tun {
        requests.insert(name.clone(), Quantity("1".to_owned()));
        limits.insert(name.clone(), Quantity("1".to_owned()));
    }
    ResourceRequirements { requests: Some(requests), limits: Some(limits), claims: None }
}

fn quantities(pairs: [(&str, &str); 2]) -> BTreeMap<String, Quantity> {
    pairs.map(|(key, value)| (key.to_owned(), Quantity(value.to_owned()))).into()
}

fn security(tun: &TunDevice) -> SecurityContext {
    let mut add = vec!["NET_ADMIN".to_owned()];
    match tun {
        // To make the device node, which it makes with mode 0.
        TunDevice::Mknod => add.extend(["MKNOD".to_owned(), "DAC_OVERRIDE".to_owned()]),
        TunDevice::HostPath | TunDevice::None | TunDevice::Resource(_) => {}
    }
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { add: Some(add), drop: Some(vec!["ALL".to_owned()]) }),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..SecurityContext::default()
    }
}

/// Any volume costs 300 ms of the start, whatever its kind.
fn tun_volume(tun: &TunDevice) -> Option<Vec<Volume>> {
    match tun {
        TunDevice::HostPath => Some(vec![Volume {
            name: "tun".to_owned(),
            host_path: Some(HostPathVolumeSource {
                path: "/dev/net/tun".to_owned(),
                // A node without it then says so, instead of a confused pod.
                type_: Some("CharDevice".to_owned()),
            }),
            ..Volume::default()
        }]),
        TunDevice::Mknod | TunDevice::None | TunDevice::Resource(_) => None,
    }
}

fn tun_mount(tun: &TunDevice) -> Option<Vec<VolumeMount>> {
    tun_volume(tun).map(|_| {
        vec![VolumeMount {
            name: "tun".to_owned(),
            mount_path: "/dev/net/tun".to_owned(),
            ..VolumeMount::default()
        }]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::facts::PodFacts;
    use crate::controller::testing;
    use crate::identity::Account;
    use crate::servers::Catalogue;

    fn config(tun_device: TunDevice) -> Config {
        Config { tun_device, ..testing::config() }
    }

    fn example(tun_device: TunDevice) -> Pod {
        let claim = testing::claim(
            &testing::key("demo-country-se-city-malmo"),
            "5c0a8f2e-1d8e-4c5e-9c0a-6f1d2b3a4c5d",
        );
        let list = r#"[{"vpn":"wireguard","country":"Sweden","city":"Malmö","hostname":"se-mma-wg-001"}]"#;
        let catalogue = Catalogue::parse(list).unwrap();
        let credentials = Credentials {
            user: "pod.0123456789abcdefghij".to_owned(),
            password: Secret::from("0123456789abcdef0123456789ABCDEF"),
            control_key: Secret::from("FEDCBA9876543210fedcba9876543210"),
        };
        pod(&config(tun_device), &claim, 3, &catalogue.servers()[0], &credentials)
    }

    #[test]
    fn the_pod_is_the_golden_one() {
        let pod = serde_json::to_string_pretty(&example(TunDevice::HostPath)).unwrap();
        let golden = include_str!("testdata/pod.json");
        assert_eq!(
            pod,
            golden.trim_end(),
            "if this is meant, put it into src/controller/testdata/pod.json:\n{pod}\n"
        );
    }

    #[test]
    fn what_is_written_reads_back_as_an_exit_of_the_claim() {
        let facts = PodFacts::read(&example(TunDevice::HostPath));
        let binding = facts.view.binding.unwrap();
        assert_eq!(binding.transition, 3);
        assert_eq!(binding.claim_uid, "5c0a8f2e-1d8e-4c5e-9c0a-6f1d2b3a4c5d");
        assert_eq!(facts.view.name, format!("gluetun-{}", facts.view.id));
        assert_eq!(facts.view.server.as_deref(), Some("se-mma-wg-001"));
        assert_eq!((facts.view.country.as_str(), facts.view.city.as_str()), ("Sweden", "Malmö"));
        assert_eq!(facts.view.user.as_deref(), Some("pod.0123456789abcdefghij"));
        assert!(facts.view.password.is_some());
    }

    #[test]
    fn each_way_to_the_tun_device() {
        let spec = |tun: &TunDevice| example(tun.clone()).spec.unwrap();
        let added = |spec: &PodSpec| {
            let context = spec.containers[0].security_context.clone().unwrap();
            let capabilities = context.capabilities.unwrap();
            assert_eq!(capabilities.drop.unwrap(), ["ALL"]);
            capabilities.add.unwrap()
        };
        let host = spec(&TunDevice::HostPath);
        assert_eq!(host.volumes.as_ref().unwrap().len(), 1);
        assert_eq!(added(&host), ["NET_ADMIN"]);
        let mknod = spec(&TunDevice::Mknod);
        assert!(mknod.volumes.is_none() && mknod.containers[0].volume_mounts.is_none());
        assert_eq!(added(&mknod), ["NET_ADMIN", "MKNOD", "DAC_OVERRIDE"]);
        let none = spec(&TunDevice::None);
        assert!(none.volumes.is_none());
        assert_eq!(added(&none), ["NET_ADMIN"]);
        let plugin = spec(&TunDevice::Resource("squat.ai/tun".to_owned()));
        let resources = plugin.containers[0].resources.clone().unwrap();
        assert_eq!(resources.limits.unwrap()["squat.ai/tun"].0, "1");
        assert_eq!(resources.requests.unwrap()["squat.ai/tun"].0, "1");
    }

    #[test]
    fn further_ports_are_let_in_once() {
        let config = Config { firewall_input_ports: vec![8888, 8000], ..testing::config() };
        let catalogue = testing::catalogue(1);
        let env = environment(&config, &catalogue.servers()[0], &Credentials::random());
        let ports = env.iter().find(|var| var.name == "FIREWALL_INPUT_PORTS").unwrap();
        assert_eq!(ports.value.as_deref(), Some("8888,9999,8000"));
    }

    #[test]
    fn credentials_are_new_each_time_and_fit_where_they_go() {
        let (a, b) = (Credentials::random(), Credentials::random());
        assert_ne!(a.user, b.user);
        assert_ne!(a.password, b.password);
        assert_ne!(a.password, a.control_key);
        assert_eq!(a.password.expose().len(), 32);
        assert!(!a.password.expose().contains(':'));
        assert!(Account::parse(&a.user).unwrap().is_reserved());
        assert!(!format!("{a:?}").contains(a.password.expose()));
    }
}
