//! The cluster: the API server with claims and pods as gateways would have made them. Nothing runs the
//! pods: their status says that they do, and a listener stands in for each.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::{StreamExt, stream};
use gluetun_gateway::config::{Config, Environment};
use gluetun_gateway::controller::manifest::{self, Credentials};
use gluetun_gateway::selector::{Limits, SessionKey, Username, resolve};
use gluetun_gateway::servers::Catalogue;
use gluetun_gateway::session::claim::{Claim, NewClaim, Reason, ReasonKind, annotation};
use gluetun_gateway::session::failure::code;
use gluetun_gateway::simulator::api::ApiServer;
use gluetun_gateway::simulator::cluster::store_key;
use gluetun_gateway::simulator::gluetun::{Server, ServerList};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use secrecy::ExposeSecret;
use serde_json::json;
use tokio::task::JoinSet;

use super::{pods, real};

pub const NAMESPACE: &str = "bench";
pub const PASSWORD: &str = "open-sesame";
/// Pods that there may be beside those that there are.
pub const ROOM: usize = 50;
/// Requests to the API server at once while it is filled.
const AT_ONCE: usize = 64;
/// Idle timeout of the sessions without an exit: nothing ends while it is looked at.
const IDLE: Duration = Duration::from_secs(86_400);
/// Idle timeout of those that are used.
pub const IDLE_IN_USE: Duration = Duration::from_secs(120);

/// How large a cluster is.
#[derive(Clone, Copy)]
pub struct Size {
    pub claims: usize,
    /// So many of the claims have an exit. The others are of strict sessions that have lost theirs, which
    /// stay until their idle end: claims without a pod that nothing is to be done for.
    pub pods: usize,
}

impl Size {
    /// So many of those with an exit are used. They are pinned, so as not to be reaped before.
    pub fn in_use(self) -> usize {
        self.pods / 5
    }
}

/// A cluster with claims and pods.
pub struct Cluster {
    pub size: Size,
    pub leases: Api<Lease>,
    pub pods: Api<Pod>,
    /// Names of the claims, those with an exit first.
    pub claims: Vec<String>,
    /// Names of the pods.
    pub pod_names: Vec<String>,
    /// What the gateway is started with.
    pub settings: BTreeMap<&'static str, String>,
    catalogue: Catalogue,
    api: Option<ApiServer>,
    filled: Duration,
    _listening: JoinSet<()>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    /// The embedded one.
    pub async fn embedded(size: Size) -> Self {
        let api = ApiServer::start("127.0.0.1:0".parse().unwrap()).await.expect("a port");
        let (config, kubeconfig) = (api.client_config(NAMESPACE), api.kubeconfig(NAMESPACE));
        Self::fill(size, config, &kubeconfig, Some(api)).await
    }

    /// A real one, where its binaries are.
    pub async fn real(size: Size) -> Option<Self> {
        let config = tokio::task::spawn_blocking(real::config).await.expect("no panic")?;
        let client = Client::try_from(config.clone()).expect("a client");
        let namespaces: Api<Namespace> = Api::all(client);
        let namespace = serde_json::from_value(json!({ "metadata": { "name": NAMESPACE } })).unwrap();
        namespaces.create(&PostParams::default(), &namespace).await.expect("a namespace");
        let kubeconfig = kubeconfig(&config);
        Some(Self::fill(size, config, &kubeconfig, None).await)
    }

    async fn fill(size: Size, config: kube::Config, kubeconfig: &str, api: Option<ApiServer>) -> Self {
        let begun = std::time::Instant::now();
        let client = Client::try_from(config).expect("a client");
        store_key(client.clone(), NAMESPACE).await.expect("the cluster takes it");
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| -> String {
            let path: PathBuf = dir.path().join(name);
            std::fs::write(&path, text).expect("a file");
            path.to_str().expect("a path").to_owned()
        };
        let servers = servers(size.pods + 2 * ROOM);
        let hash = bcrypt::hash(PASSWORD, 4).expect("a hash");
        let settings = BTreeMap::from([
            ("KUBECONFIG", write("kubeconfig", kubeconfig)),
            ("USERS_FILE", write("users", &format!("demo:{hash}\n"))),
            ("SERVERS_FILE_PATH", write("servers.json", &servers)),
            ("K8S_NAMESPACE", NAMESPACE.to_owned()),
            ("POD_NAME", "gateway".to_owned()),
            ("PROXY_ADDR", "127.0.0.1:0".to_owned()),
            ("ADMIN_ADDR", "127.0.0.1:0".to_owned()),
            ("INSTANCE_LIMIT", (size.pods + ROOM).to_string()),
            ("DRAIN_DELAY", "0s".to_owned()),
            ("DRAIN_TIMEOUT", "1s".to_owned()),
            ("LOG_FORMAT", "json".to_owned()),
        ]);
        let environment = settings.iter().map(|(name, value)| (*name, value.as_str()));
        let config = Config::load(&Environment::of(environment.collect::<Vec<_>>())).expect("settings");
        let mut cluster = Self {
            size,
            leases: Api::namespaced(client.clone(), NAMESPACE),
            pods: Api::namespaced(client, NAMESPACE),
            claims: Vec::new(),
            pod_names: Vec::new(),
            settings,
            catalogue: Catalogue::parse(&servers).expect("a list"),
            api,
            filled: Duration::ZERO,
            _listening: pods::listen(size.pods).await,
            _dir: dir,
        };
        let made: Vec<(String, Option<String>)> = stream::iter(0..size.claims)
            .map(|n| cluster.session(&config, n))
            .buffered(AT_ONCE)
            .collect()
            .await;
        cluster.pod_names = made.iter().filter_map(|(_, pod)| pod.clone()).collect();
        cluster.claims = made.into_iter().map(|(claim, _)| claim).collect();
        cluster.filled = begun.elapsed();
        cluster
    }

    /// Makes a session; names of its claim and its pod.
    async fn session(&self, config: &Config, n: usize) -> (String, Option<String>) {
        let post = PostParams::default();
        let with_exit = n < self.size.pods;
        let user =
            if with_exit { self.with_exit(n) } else { format!("demo-country-se-session-s{n}-mode-strict") };
        let key = self.key(&user);
        let in_use = n < self.size.in_use();
        let idle = if in_use { IDLE_IN_USE } else { IDLE };
        let mut lease = new_claim(&key, idle);
        let annotations = lease.metadata.annotations.as_mut().expect("a claim has some");
        annotations.insert(annotation::READY.to_owned(), "0".to_owned());
        if in_use {
            annotations.insert(annotation::PINNED.to_owned(), "true".to_owned());
        }
        if !with_exit {
            let reason = Reason {
                kind: ReasonKind::Lost,
                code: code::EXIT_LOST.to_owned(),
                message: "the exit of this session is lost".to_owned(),
                transition: 0,
                attempts: 0,
                servers: Vec::new(),
                backoff: None,
            };
            annotations.insert(annotation::REASON.to_owned(), serde_json::to_string(&reason).unwrap());
        }
        let lease = self.leases.create(&post, &lease).await.expect("a claim");
        if !with_exit {
            return (lease.name_any(), None);
        }
        let claim = Claim::read(&lease).expect("a claim");
        let server = self.catalogue.candidates(&key.place).nth(n).expect("a server for each");
        let pod = manifest::pod(config, &claim, 0, server, &Credentials::random());
        let pod = self.pods.create(&post, &pod).await.expect("a pod");
        let ip = pods::address(n).to_string();
        let status = json!({ "status": {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{ "ip": ip }],
            "conditions": [{ "type": "Ready", "status": "True" }],
            "containerStatuses": [{
                "name": "gluetun", "image": "gluetun", "imageID": "", "ready": true, "restartCount": 0,
                "state": { "running": {} },
            }],
        }});
        let patch = Patch::Merge(&status);
        self.pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.expect("a status");
        (lease.name_any(), Some(pod.name_any()))
    }

    /// The session that a username means.
    pub fn key(&self, user: &str) -> SessionKey {
        let username = Username::parse(user).expect("a username");
        resolve(&username, &self.catalogue, &Limits::default()).expect("a place").0
    }

    /// Username of a session that has an exit.
    pub fn with_exit(&self, n: usize) -> String {
        format!("demo-country-se-session-s{n}")
    }

    pub fn describe(&self) -> String {
        let kind = if self.api.is_some() { "embedded cluster" } else { "real kube-apiserver" };
        let Size { claims, pods } = self.size;
        format!("{kind}, {pods} pods, {claims} claims (made in {:.1} s)", self.filled.as_secs_f64())
    }

    /// Requests that were served since [`Cluster::forget_requests`], by verb and resource, if it tells.
    pub fn requests(&self) -> Option<BTreeMap<String, u64>> {
        self.api.as_ref().map(|api| api.requests().summary())
    }

    pub fn forget_requests(&self) {
        if let Some(api) = &self.api {
            api.requests().reset();
        }
    }

    pub async fn stop(self) {
        if let Some(api) = self.api {
            api.stop().await;
        }
    }
}

/// A claim that nobody else has written to.
pub fn new_claim(key: &SessionKey, idle: Duration) -> Lease {
    NewClaim { key, idle, ttl: None, no_wait: false, now: SystemTime::now() }.lease()
}

/// So many servers in one country: no two pods share one.
fn servers(count: usize) -> String {
    let template = &ServerList::builtin().servers()[0].clone();
    let servers: Vec<Server> = (0..count)
        .map(|n| Server {
            country: "Sweden".to_owned(),
            city: "Malmö".to_owned(),
            hostname: format!("se-mma-wg-{n:03}"),
            ..template.clone()
        })
        .collect();
    serde_json::to_string(&servers).expect("JSON")
}

/// What another process reaches the real one by.
fn kubeconfig(config: &kube::Config) -> String {
    let token = config.auth_info.token.as_ref().expect("a token").expose_secret();
    let pem = |certificate: &Vec<u8>| {
        let text = STANDARD.encode(certificate);
        let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy);
        let lines: Vec<_> = lines.map(|line| format!("{line}\n")).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", lines.concat())
    };
    let authorities: String = config.root_cert.iter().flatten().map(pem).collect();
    format!(
        "apiVersion: v1\nkind: Config\nclusters: [{{name: bench, cluster: {{server: \"{}\", \
         certificate-authority-data: \"{}\"}}}}]\nusers: [{{name: admin, user: {{token: \"{token}\"}}}}]\n\
         contexts: [{{name: bench, context: {{cluster: bench, user: admin, namespace: {NAMESPACE}}}}}]\n\
         current-context: bench\n",
        config.cluster_url,
        STANDARD.encode(authorities)
    )
}

/// Where a process listens, as it says itself.
pub fn address(line: &serde_json::Value, name: &str) -> Option<SocketAddr> {
    line[name].as_str().and_then(|address| address.parse().ok())
}
