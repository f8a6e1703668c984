//! What is measured: the embedded cluster, the gateway as the real application beside it, and the
//! moments of each pod's life, taken where they happen.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use gluetun_gateway::app::App;
use gluetun_gateway::config::{Config, Environment};
use gluetun_gateway::controller::LEASE;
use gluetun_gateway::session::claim::CLAIM_SELECTOR;
use gluetun_gateway::session::pod::{POD_SELECTOR, PodView, Stage};
use gluetun_gateway::simulator::api::{ApiServer, Match, Verb};
use gluetun_gateway::simulator::cluster::store_key;
use gluetun_gateway::simulator::container::{ContainerSpec, Exit, Log, Signals};
use gluetun_gateway::simulator::gluetun::{self, Gluetun, Server, ServerList};
use gluetun_gateway::simulator::kubelet::{self, Kubelet, Runtime};
use http::HeaderValue;
use http::header::USER_AGENT;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub const PASSWORD: &str = "open-sesame";
const NAMESPACE: &str = "bench";
/// By which the gateway's requests are told from the kubelet's and from ours.
const AGENT: &str = "gateway-bench";
/// Accounts of the users file: `a0`, `a1`, …
pub const ACCOUNTS: usize = 10;
/// Nothing here takes longer; what does is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// Rigs made so far: the pods of each have addresses of their own.
static RIGS: AtomicU8 = AtomicU8::new(0);

/// How a rig is made.
pub struct Plan {
    /// From a container's start to its VPN being up.
    pub pod_start: Duration,
    /// `INSTANCE_LIMIT`.
    pub limit: usize,
    /// `IDLE_TIMEOUT`.
    pub idle: &'static str,
}

/// The moments of a pod.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moments {
    /// The API server's watch shows it.
    pub created: Option<Instant>,
    /// Its container is started: the VPN is up `pod_start` later, never sooner.
    pub exec: Option<Instant>,
    /// Its log says that the health server says 200 from now on.
    pub healthy: Option<Instant>,
    /// The API server's watch shows that it runs, and its address: the gateway can ask it from now on.
    pub shown: Option<Instant>,
    /// It is gone.
    pub gone: Option<Instant>,
}

#[derive(Default)]
struct Observed {
    pods: HashMap<String, Moments>,
    claims: HashMap<String, Instant>,
    live: usize,
    most: usize,
}

/// What has been observed so far. A clone is the same.
#[derive(Clone)]
pub struct Observer {
    observed: Arc<Mutex<Observed>>,
    changes: watch::Sender<u64>,
}

impl Observer {
    fn new() -> Self {
        Self { observed: Arc::default(), changes: watch::channel(0).0 }
    }

    fn note<T>(&self, change: impl FnOnce(&mut Observed) -> T) -> T {
        let changed = change(&mut self.observed.lock().unwrap());
        self.changes.send_modify(|n| *n += 1);
        changed
    }

    fn pod(&self, name: &str, change: impl FnOnce(&mut Moments)) {
        self.note(|observed| change(observed.pods.entry(name.to_owned()).or_default()));
    }

    /// The moments of a pod.
    pub fn moments(&self, pod: &str) -> Moments {
        self.observed.lock().unwrap().pods.get(pod).copied().unwrap_or_default()
    }

    /// When the API server's watch showed the claim of this name.
    pub fn claimed(&self, claim: &str) -> Option<Instant> {
        self.observed.lock().unwrap().claims.get(claim).copied()
    }

    /// Most pods that there were at once.
    pub fn most(&self) -> usize {
        self.observed.lock().unwrap().most
    }

    async fn until(&self, what: &str, holds: impl Fn(&Observed) -> bool) {
        let mut changes = self.changes.subscribe();
        let wait = changes.wait_for(|_| holds(&self.observed.lock().unwrap()));
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok_and(|changed| changed.is_ok()), "waited in vain for {what}");
    }
}

/// Runs the look-alike, and notes when.
struct Timed {
    gluetun: Arc<Gluetun>,
    observer: Observer,
}

impl Runtime for Timed {
    fn run(
        &self,
        spec: ContainerSpec,
        log: Log,
        signals: Signals,
    ) -> Pin<Box<dyn Future<Output = Exit> + Send>> {
        let now = Instant::now();
        let (gluetun, observer) = (Arc::clone(&self.gluetun), self.observer.clone());
        let name = spec.pod_name.clone();
        observer.pod(&name, |pod| pod.exec = Some(now));
        let follow = {
            let log = log.clone();
            async move {
                let (mut written, mut at) = (log.written(), 0);
                loop {
                    let (lines, next) = log.since(at);
                    at = next;
                    if lines.iter().any(|line| line.contains("[healthcheck] healthy!")) {
                        let now = Instant::now();
                        observer.pod(&name, |pod| pod.healthy = Some(now));
                        break;
                    }
                    if written.changed().await.is_err() {
                        break;
                    }
                }
                std::future::pending::<Exit>().await
            }
        };
        Box::pin(async move {
            tokio::select! {
                biased;
                exit = gluetun.run(spec, log, signals) => exit,
                exit = follow => exit,
            }
        })
    }
}

/// The cluster and the gateway.
pub struct Rig {
    pub proxy: SocketAddr,
    pub observer: Observer,
    pub api: ApiServer,
    leases: Api<Lease>,
    pods: Api<Pod>,
    app: App,
    kubelet: Kubelet,
    tasks: JoinSet<()>,
    _dir: tempfile::TempDir,
}

impl Rig {
    /// Starts everything, and waits until the gateway leads and is ready.
    pub async fn start(plan: Plan) -> Self {
        let mut tasks = JoinSet::new();
        let api = ApiServer::start("127.0.0.1:0".parse().unwrap()).await.expect("a port");
        let client = Client::try_from(api.client_config(NAMESPACE)).expect("a client");
        store_key(client.clone(), NAMESPACE).await.expect("the cluster takes it");
        let observer = Observer::new();
        observe(&mut tasks, &client, &observer);

        let servers = servers(2 * plan.limit);
        let image = gluetun::Options {
            start: plan.pod_start,
            servers: Arc::new(ServerList::parse(&servers).expect("a server list")),
            hosts: HashMap::from([
                ("echo.test".to_owned(), echo(&mut tasks).await),
                ("http.test".to_owned(), origin(&mut tasks).await),
            ]),
            ..gluetun::Options::default()
        };
        let runtime = Timed { gluetun: Arc::new(Gluetun::new(image)), observer: observer.clone() };
        let network = 42 + RIGS.fetch_add(1, Ordering::Relaxed);
        let options = kubelet::Options {
            namespace: Some(NAMESPACE.to_owned()),
            pod_cidr: format!("127.{network}.0.0/16").parse().expect("a CIDR"),
            ..kubelet::Options::default()
        };
        let kubelet = Kubelet::start(client.clone(), Arc::new(runtime), options).await.expect("a kubelet");

        let dir = tempfile::tempdir().expect("a directory");
        let users = dir.path().join("users");
        let hash = bcrypt::hash(PASSWORD, 4).expect("a hash");
        let accounts: String = (0..ACCOUNTS).map(|n| format!("a{n}:{hash}\n")).collect();
        std::fs::write(&users, accounts).expect("a users file");
        let config = Config::load(&Environment::of([
            ("PROXY_ADDR", "127.0.0.1:0"),
            ("ADMIN_ADDR", "127.0.0.1:0"),
            ("USERS_FILE", users.to_str().expect("a path")),
            ("SERVERS_JSON", &servers),
            ("K8S_NAMESPACE", NAMESPACE),
            ("POD_NAME", "gateway"),
            ("INSTANCE_LIMIT", &plan.limit.to_string()),
            ("IDLE_TIMEOUT", plan.idle),
            ("DRAIN_DELAY", "0s"),
            ("DRAIN_TIMEOUT", "1s"),
        ]))
        .expect("settings");
        let mut kube = api.client_config(NAMESPACE);
        kube.headers.push((USER_AGENT, HeaderValue::from_static(AGENT)));
        // What is counted is what requests cost.
        let quiet = gluetun_gateway::app::Options { preflight: false, ..Default::default() };
        let app = App::start_with(config, kube, quiet).await.expect("it starts");
        app.ready().await;
        let rig = Self {
            proxy: app.proxy_addr(),
            observer,
            api,
            leases: Api::namespaced(client.clone(), NAMESPACE),
            pods: Api::namespaced(client, NAMESPACE),
            app,
            kubelet,
            tasks,
            _dir: dir,
        };
        rig.leads().await;
        rig
    }

    /// Waits until the gateway is the leader and knows the cluster.
    async fn leads(&self) {
        let log = self.api.requests();
        // The leader's watches begin after its lists; the session table has two of its own.
        let knows = || log.count(&Match::on(Verb::Watch, "*").from_agent(AGENT)) >= 4;
        let wait = async {
            let mut look = tokio::time::interval(Duration::from_millis(5));
            while !knows() {
                look.tick().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("a leader");
    }

    /// Ends the gateway and the cluster, so that nothing of them runs beside the next.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
        self.app.force();
        self.app.wait().await;
        self.kubelet.stop().await;
        self.api.stop().await;
    }

    /// Waits until the leader has noted in the claim that its exit is ready: its last word for a while.
    pub async fn noted(&self, claim: &str) {
        let wait = async {
            let mut look = tokio::time::interval(Duration::from_millis(5));
            loop {
                let lease = self.leases.get(claim).await.expect("it is there");
                if lease.spec.is_some_and(|spec| spec.holder_identity.is_some()) {
                    return;
                }
                look.tick().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the claim to name its exit");
    }

    /// Ends a session, and waits until its pod is gone.
    pub async fn end(&self, claim: &str, pod: &str) {
        self.leases.delete(claim, &DeleteParams::default()).await.expect("the claim is there");
        self.observer
            .until("the pod to go", |seen| seen.pods.get(pod).is_some_and(|pod| pod.gone.is_some()))
            .await;
    }

    /// Waits until the cluster has neither pods nor claims.
    pub async fn emptied(&self) {
        self.observer.until("pods and claims to go", |seen| seen.live == 0 && seen.claims.is_empty()).await;
    }

    /// Waits until a pod's moments are all known, and gives them.
    pub async fn started(&self, pod: &str) -> Moments {
        let known = |pod: &Moments| pod.healthy.is_some() && pod.shown.is_some() && pod.created.is_some();
        self.observer.until("a pod's moments", |seen| seen.pods.get(pod).is_some_and(known)).await;
        self.observer.moments(pod)
    }

    /// The pod that there is, as its API object tells it.
    pub async fn only_pod(&self) -> PodView {
        let list = self.pods.list(&ListParams::default().labels(POD_SELECTOR)).await.expect("a list");
        let [pod] = list.items.as_slice() else { panic!("{} pods", list.items.len()) };
        PodView::read(pod)
    }

    /// The gateway's requests to the API server so far that concern sessions: without Events, watches and
    /// the leader's own lease.
    pub fn requests(&self) -> Vec<String> {
        let served = self.api.requests().matching(&Match::any().from_agent(AGENT));
        let own = served.into_iter().map(|served| served.request).filter(|request| {
            request.resource != "events"
                && request.verb != Verb::Watch
                && request.name.as_deref() != Some(LEASE)
        });
        own.map(|request| format!("{} {}", request.verb.as_str(), request.resource)).collect()
    }
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

/// Watches the cluster, as anyone can.
fn observe(tasks: &mut JoinSet<()>, client: &Client, observer: &Observer) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let seen = observer.clone();
    tasks.spawn(async move {
        let mut events = watcher(pods, watcher::Config::default().labels(POD_SELECTOR)).boxed();
        while let Some(event) = events.next().await {
            let now = Instant::now();
            // It breaks when the world ends, and nothing that is measured comes after that.
            let Ok(event) = event else { return };
            match event {
                Event::Apply(pod) | Event::InitApply(pod) => {
                    let view = PodView::read(&pod);
                    let running = view.stage == Stage::Running && view.ip.is_some();
                    seen.note(|observed| {
                        let moments = observed.pods.entry(view.name).or_default();
                        if moments.created.is_none() {
                            moments.created = Some(now);
                            observed.live += 1;
                            observed.most = observed.most.max(observed.live);
                        }
                        if running && moments.shown.is_none() {
                            moments.shown = Some(now);
                        }
                    });
                }
                Event::Delete(pod) => seen.note(|observed| {
                    observed.live -= 1;
                    observed.pods.entry(pod.name_any()).or_default().gone = Some(now);
                }),
                Event::Init | Event::InitDone => {}
            }
        }
    });
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let seen = observer.clone();
    tasks.spawn(async move {
        let mut events = watcher(leases, watcher::Config::default().labels(CLAIM_SELECTOR)).boxed();
        while let Some(event) = events.next().await {
            let now = Instant::now();
            // It breaks when the world ends, and nothing that is measured comes after that.
            let Ok(event) = event else { return };
            match event {
                Event::Apply(lease) | Event::InitApply(lease) => {
                    seen.note(|observed| *observed.claims.entry(lease.name_any()).or_insert(now));
                }
                Event::Delete(lease) => {
                    seen.note(|observed| observed.claims.remove(&lease.name_any()));
                }
                Event::Init | Event::InitDone => {}
            }
        }
    });
}

/// An origin that sends back what it gets.
async fn echo(tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("its address");
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let _ = stream.set_nodelay(true);
                let (mut read, mut write) = stream.split();
                // Ends with the connection, however that ends.
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
            while connections.try_join_next().is_some() {}
        }
    });
    addr
}

/// An origin that answers each request's head with two bytes.
async fn origin(tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("its address");
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut head = Vec::new();
                while matches!(stream.read_buf(&mut head).await, Ok(1..)) {
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        let answer =
                            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok";
                        if stream.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                }
            });
            while connections.try_join_next().is_some() {}
        }
    });
    addr
}
