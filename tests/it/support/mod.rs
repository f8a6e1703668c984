//! The suite's world: a cluster (embedded, or a real kube-apiserver with the embedded kubelet attached),
//! gateways as the real application on port 0, origins, and a client that shows every byte.

pub mod http;
pub mod origin;
pub mod process;
pub mod real;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use gluetun_gateway::app::{self, App};
use gluetun_gateway::config::{Config, Environment};
use gluetun_gateway::session::pod::POD_SELECTOR;
use gluetun_gateway::simulator::api::ApiServer;
use gluetun_gateway::simulator::cluster::{LookAlike, create_list_map, store_key};
use gluetun_gateway::simulator::gluetun::{self, Gluetun};
use gluetun_gateway::simulator::kubelet::{self, Cidr, Kubelet, Runtime};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

pub use http::{Answer, PATIENCE, Tunnel};
pub use origin::Origins;

/// Password of every account of the suite.
pub const PASSWORD: &str = "open-sesame";

/// Its bcrypt hash, of the least cost that bcrypt has: the suite logs in a few hundred times.
const HASH: &str = "$2b$04$";

static WORLDS: AtomicUsize = AtomicUsize::new(0);

/// What a world is made with.
pub struct Options {
    /// From exec to healthy.
    pub pod_start: Duration,
    /// Adjusts the look-alike.
    pub gluetun: fn(&mut gluetun::Options),
    /// Adjusts the kubelet.
    pub kubelet: fn(&mut kubelet::Options),
}

impl Default for Options {
    fn default() -> Self {
        Self { pod_start: Duration::from_millis(50), gluetun: |_| {}, kubelet: |_| {} }
    }
}

/// A cluster and what is around it. Dropped, all of it ends.
pub struct World {
    /// The embedded API server, unless a real one is used.
    pub api: Option<ApiServer>,
    pub kubelet: Kubelet,
    pub gluetun: Arc<Gluetun>,
    pub origins: Origins,
    pub namespace: String,
    pub config: kube::Config,
    pub client: Client,
    dir: tempfile::TempDir,
}

impl World {
    /// A world on the embedded API server.
    pub async fn embedded() -> Self {
        Self::with(false, Options::default()).await.expect("the embedded cluster needs nothing")
    }

    /// The same, made otherwise.
    pub async fn embedded_with(options: Options) -> Self {
        Self::with(false, options).await.expect("the embedded cluster needs nothing")
    }

    /// A world on the embedded API server or a real one; none where there is no real one.
    pub async fn with(real: bool, options: Options) -> Option<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("gw-{}-{number}", std::process::id());
        let (api, mut config) = if real {
            (None, real::config()?)
        } else {
            let api = ApiServer::start("127.0.0.1:0".parse().unwrap()).await.expect("a loopback port");
            let config = api.client_config(&namespace);
            (Some(api), config)
        };
        config.default_namespace = namespace.clone();
        let client = Client::try_from(config.clone()).expect("a client");
        prepare(&client, &namespace).await;

        let origins = Origins::start().await;
        let mut look_alike = gluetun::Options { start: options.pod_start, ..gluetun::Options::default() };
        look_alike.hosts = origins.hosts();
        (options.gluetun)(&mut look_alike);
        let gluetun = Arc::new(Gluetun::new(look_alike));
        // A /24 of its own for each world, so that worlds that live side by side share no pod address.
        let third = number % 200;
        let second = 64 + (std::process::id() as usize + number / 200) % 128;
        let mut settings = kubelet::Options {
            namespace: Some(namespace.clone()),
            pod_cidr: format!("127.{second}.{third}.0/24").parse::<Cidr>().expect("a CIDR"),
            node_name: format!("node-{}-{number}", std::process::id()),
            first_probe: Duration::ZERO,
            garbage_collect: false,
            ..kubelet::Options::default()
        };
        (options.kubelet)(&mut settings);
        let runtime: Arc<dyn Runtime> = Arc::new(LookAlike(Arc::clone(&gluetun)));
        let kubelet = Kubelet::start(client.clone(), runtime, settings).await.expect("a kubelet");
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("users"), users()).expect("a users file");
        std::fs::write(dir.path().join("servers.json"), gluetun::SERVERS_JSON).expect("a server list");
        Some(Self { api, kubelet, gluetun, origins, namespace, config, client, dir })
    }

    /// The embedded API server.
    pub fn api(&self) -> &ApiServer {
        self.api.as_ref().expect("this test runs on the embedded API server")
    }

    /// Path of a file of this world.
    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// The settings of a gateway in this world.
    pub fn variables(&self) -> HashMap<String, String> {
        let pairs = [
            ("PROXY_ADDR", "127.0.0.1:0".to_owned()),
            ("ADMIN_ADDR", "127.0.0.1:0".to_owned()),
            ("USERS_FILE", self.path("users")),
            ("SERVERS_FILE_PATH", self.path("servers.json")),
            ("K8S_NAMESPACE", self.namespace.clone()),
            ("POD_NAME", "gateway-1".to_owned()),
            ("INSTANCE_LIMIT", "5".to_owned()),
            ("IDLE_TIMEOUT", "5m".to_owned()),
            ("START_TIMEOUT", "30s".to_owned()),
            ("START_ATTEMPT_TIMEOUT", "10s".to_owned()),
            ("DRAIN_DELAY", "0s".to_owned()),
            ("DRAIN_TIMEOUT", "5s".to_owned()),
            ("DATA_THREADS", "2".to_owned()),
            ("LOG_LEVEL", "INFO".to_owned()),
        ];
        pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
    }

    /// A gateway with these settings beside the usual ones.
    pub async fn gateway(&self, settings: &[(&str, &str)]) -> Gateway {
        let mut variables = self.variables();
        variables.extend(settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        let name = variables["POD_NAME"].clone();
        let config = Config::load(&Environment::of(variables)).unwrap_or_else(|e| panic!("{e}"));
        let mut kube = self.config.clone();
        // So that faults and counts can tell gateways from each other and from the kubelet.
        kube.headers.push((http::header_name(), http::header_value(&name)));
        // Tests count requests: the preflight has one of its own.
        let look_interval = Duration::from_secs(1);
        let options = app::Options { look_interval, preflight: false, ..app::Options::default() };
        let app = App::start_with(config, kube, options).await.unwrap_or_else(|e| panic!("{e}"));
        let gateway = Gateway { proxy: app.proxy_addr(), admin: app.admin_addr(), app: Some(app) };
        gateway.ready().await;
        gateway
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Our pods that count against the limit now: a pod that has finished no longer does, though its
    /// object may be there for a moment.
    pub async fn live_pods(&self) -> Vec<Pod> {
        let mut pods = self.pod_list().await;
        pods.retain(|pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            !matches!(phase, Some("Succeeded" | "Failed"))
        });
        pods
    }

    /// Our pods that the cluster has now.
    pub async fn pod_list(&self) -> Vec<Pod> {
        self.pods().list(&ListParams::default().labels(POD_SELECTOR)).await.expect("a list").items
    }

    /// The claims that the cluster has now.
    pub async fn claim_list(&self) -> Vec<Lease> {
        let ours = ListParams::default().labels(gluetun_gateway::session::claim::CLAIM_SELECTOR);
        self.leases().list(&ours).await.expect("a list").items
    }

    /// Waits until a replica has told of tunnels on an older exit of the world's one claim `later` after it
    /// first did: so long at least has that exit been in use since it was replaced.
    pub async fn in_use_for(&self, transition: i32, later: Duration) {
        let key = format!("gluetun-gateway/renewed-{transition}");
        let told = || async {
            let claim = self.claim_list().await.remove(0);
            let note = claim.metadata.annotations?.get(&key)?.clone();
            Some(humantime::parse_rfc3339(&note).expect("a time"))
        };
        let first = OnceLock::new();
        eventually("a replica to tell of tunnels on an older exit", || async {
            let Some(at) = told().await else { return false };
            at.duration_since(*first.get_or_init(|| at)).is_ok_and(|span| span >= later)
        })
        .await;
    }

    /// Deletes a pod as an operator would.
    pub async fn delete_pod(&self, name: &str) {
        self.pods().delete(name, &DeleteParams::default()).await.expect("a deletion");
    }

    /// Waits until the cluster has no pod and no claim of ours.
    pub async fn emptied(&self) {
        eventually("pods and claims to go", || async {
            self.pod_list().await.is_empty() && self.claim_list().await.is_empty()
        })
        .await;
    }
}

async fn prepare(client: &Client, namespace: &str) {
    let object: Namespace = serde_json::from_value(json!({ "metadata": { "name": namespace } })).unwrap();
    let made = Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object).await;
    assert!(made.is_ok() || matches!(&made, Err(kube::Error::Api(s)) if s.is_already_exists()), "{made:?}");
    store_key(client.clone(), namespace).await.expect("a secret");
    create_list_map(client.clone(), namespace).await.expect("a config map");
}

/// The accounts of the suite: `alice`, `bob` and `demo`.
fn users() -> String {
    let hash = bcrypt::hash(PASSWORD, 4).expect("a hash");
    assert!(hash.starts_with(HASH));
    ["alice", "bob", "demo"].map(|name| format!("{name}:{hash}\n")).concat()
}

/// A running gateway. Dropped, it ends at once, as a killed one does.
pub struct Gateway {
    pub proxy: SocketAddr,
    pub admin: SocketAddr,
    app: Option<App>,
}

impl Gateway {
    /// Waits for `/readyz`.
    pub async fn ready(&self) {
        eventually("the gateway to be ready", || async {
            http::get(self.admin, "/readyz").await.status == 200
        })
        .await;
    }

    /// A CONNECT by `user` (parameters included).
    pub async fn connect(&self, user: &str, target: &str) -> Result<Tunnel, Answer> {
        http::connect(self.proxy, user, PASSWORD, target).await
    }

    /// A plain GET by `user`.
    pub async fn get(&self, user: &str, url: &str) -> Answer {
        http::get_through(self.proxy, user, PASSWORD, url).await
    }

    /// Which exit a request of `user` leaves from.
    pub async fn exit(&self, user: &str) -> Seen {
        let mut tunnel =
            self.connect(user, "whoami.test:80").await.unwrap_or_else(|e| panic!("{user}: {e:?}"));
        let answer = tunnel.get("whoami.test").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let body = answer.json();
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        Seen {
            pod: text("pod"),
            server: text("server"),
            country: text("country"),
            city: text("city"),
            cold: tunnel.answer.header("x-gateway-cold-start") == "true",
        }
    }

    /// A metric's value, summed over its labels that contain `labels`.
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        let text = http::get(self.admin, "/metrics").await.text();
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .filter(|line| line.split(['{', ' ']).next() == Some(name) && line.contains(labels))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Begins to shut down.
    pub fn begin_shutdown(&self) {
        self.app().shutdown();
    }

    pub fn app(&self) -> &App {
        self.app.as_ref().expect("it runs")
    }

    /// Waits until it has ended; its exit code.
    pub async fn ended(mut self) -> u8 {
        let app = self.app.take().expect("it runs");
        tokio::time::timeout(PATIENCE, app.wait()).await.expect("the gateway to end").code()
    }
}

/// What the origin saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub pod: String,
    pub server: String,
    pub country: String,
    pub city: String,
    /// Whether the request was held.
    pub cold: bool,
}

/// Waits for a condition, looking again as soon as the last look is over.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let begun = Instant::now();
    let mut pause = tokio::time::interval(Duration::from_millis(10));
    while !condition().await {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        pause.tick().await;
    }
}

/// Name of a pod.
pub fn name(pod: &Pod) -> String {
    pod.name_any()
}

/// A pod as the system made it that the gateway replaces: labels, and no claim.
pub fn foreign_pod(server: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {
            "name": "gluetun-11111111-2222-3333-4444-555555555555",
            "labels": {
                "app": "gluetun-vpn", "managed-by": "gluetun-k8s-api",
                "pod-id": "11111111-2222-3333-4444-555555555555",
            },
        },
        "spec": { "restartPolicy": "Never", "containers": [{
            "name": "gluetun", "image": "qmcgaw/gluetun:v3.41.3",
            "env": [
                { "name": "VPN_SERVICE_PROVIDER", "value": "mullvad" },
                { "name": "VPN_TYPE", "value": "wireguard" },
                { "name": "WIREGUARD_PRIVATE_KEY", "value": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=" },
                { "name": "WIREGUARD_ADDRESSES", "value": "10.64.0.2/32" },
                { "name": "SERVER_HOSTNAMES", "value": server },
                { "name": "HTTPPROXY", "value": "on" },
                { "name": "HTTPPROXY_USER", "value": "old" },
                { "name": "HTTPPROXY_PASSWORD", "value": "old-password" },
            ],
        }]},
    }))
    .unwrap()
}

/// Declares a test that runs on the embedded API server, and on a real one where there is one.
#[macro_export]
macro_rules! on_both {
    ($(#[$attribute:meta])* async fn $name:ident($world:ident $(: $options:expr)?) $body:block) => {
        $(#[$attribute])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            async fn body($world: $crate::support::World) $body

            #[allow(unused_variables)]
            fn options() -> $crate::support::Options {
                let options = $crate::support::Options::default();
                $(let options = $options;)?
                options
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn embedded() {
                body($crate::support::World::embedded_with(options()).await).await;
            }

            /// Needs `KUBEBUILDER_ASSETS`; passes without having run where that is not set.
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn real() {
                if let Some(world) = $crate::support::World::with(true, options()).await {
                    body(world).await;
                }
            }
        }
    };
}
