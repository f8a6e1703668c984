//! The kubelet against an API server: the embedded one, or a real one where `KUBECONFIG_TEST` names its
//! kubeconfig (of an administrator). Containers are small scripted programs, so that what is tested is the kubelet alone.

mod failures;
mod jobs;
mod lives;
mod outage;
mod scale;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Namespace, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Kubelet, Options, Runtime};
use crate::simulator::api::ApiServer;
use crate::simulator::container::{ContainerSpec, Exit, Log, Signals};

/// No condition that a test waits for takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Containers of the tests. What one does is in its variable `ACT`:
/// `serve` (or none): health on :9999, exit 1 at SIGTERM; `deaf`: the same, but SIGTERM does nothing;
/// `exit N`: logs a line and ends.
#[derive(Clone)]
struct Programs {
    started: Arc<Mutex<Vec<ContainerSpec>>>,
    /// Pods whose container runs.
    running: Arc<watch::Sender<HashMap<String, usize>>>,
    healthy: Arc<watch::Sender<bool>>,
}

impl Default for Programs {
    fn default() -> Self {
        Self {
            started: Arc::default(),
            running: Arc::new(watch::channel(HashMap::new()).0),
            healthy: Arc::new(watch::channel(true).0),
        }
    }
}

impl Programs {
    fn count(&self, pod: &str, by: isize) {
        self.running.send_modify(|running| {
            let count = running.entry(pod.to_owned()).or_default();
            *count = count.saturating_add_signed(by);
        });
    }

    /// Waits until so many containers of the pod run.
    async fn until_running(&self, pod: &str, wanted: usize) {
        let mut running = self.running.subscribe();
        let reached = running.wait_for(|running| running.get(pod).copied().unwrap_or(0) == wanted);
        timeout(PATIENCE, reached).await.expect("the container starts or ends").unwrap();
    }

    fn spec(&self, pod: &str) -> ContainerSpec {
        self.started.lock().unwrap().iter().rev().find(|spec| spec.pod_name == pod).unwrap().clone()
    }
}

struct Alive(Programs, String);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.count(&self.1, -1);
    }
}

impl Runtime for Programs {
    fn run(
        &self,
        spec: ContainerSpec,
        log: Log,
        signals: Signals,
    ) -> Pin<Box<dyn Future<Output = Exit> + Send>> {
        let programs = self.clone();
        Box::pin(async move {
            programs.started.lock().unwrap().push(spec.clone());
            programs.count(&spec.pod_name, 1);
            let _alive = Alive(programs.clone(), spec.pod_name.clone());
            log.line("up");
            let act = spec.var("ACT").unwrap_or("serve").to_owned();
            if let Some(code) = act.strip_prefix("exit ") {
                log.line(format!("ERROR leaving with {code}"));
                return Exit::code(code.parse().unwrap());
            }
            let listener = TcpListener::bind(SocketAddr::new(spec.pod_ip, 9999)).await.unwrap();
            let health = programs.healthy.subscribe();
            tokio::select! {
                () = serve(listener, health) => Exit::code(2),
                () = signals.term.cancelled(), if act != "deaf" => {
                    log.line("bye");
                    Exit::code(1)
                }
                () = signals.kill.cancelled() => Exit::code(137),
            }
        })
    }
}

async fn serve(listener: TcpListener, health: watch::Receiver<bool>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).await;
        let status = if *health.borrow() { "200 OK" } else { "500 Internal Server Error" };
        let _ = stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await;
    }
}

/// A kubelet of its own in a namespace of its own.
struct Lab {
    /// Where the tests look.
    _server: Server,
    client: Client,
    kubelet: Kubelet,
    programs: Programs,
    options: Options,
}

/// The API server of a test.
struct Server {
    config: Config,
    /// Runs as long as this lives.
    _embedded: Option<ApiServer>,
}

impl Server {
    async fn start() -> Self {
        match std::env::var_os("KUBECONFIG_TEST") {
            Some(path) => {
                let kubeconfig = kube::config::Kubeconfig::read_from(path).unwrap();
                let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
                Self { config, _embedded: None }
            }
            None => {
                let embedded = ApiServer::start(([127, 0, 0, 1], 0).into()).await.unwrap();
                Self { config: embedded.client_config("default"), _embedded: Some(embedded) }
            }
        }
    }
}

impl Lab {
    /// `network` keeps the tests' addresses apart: 127.NETWORK.0.0/20.
    async fn new(network: u8) -> Self {
        Self::with(network, |_| {}).await
    }

    async fn with(network: u8, change: impl FnOnce(&mut Options)) -> Self {
        let server = Server::start().await;
        let config = server.config.clone();
        Self::on(server, config, network, change).await
    }

    /// The kubelet reaches the server by a configuration of its own.
    async fn on(server: Server, kubelet: Config, network: u8, change: impl FnOnce(&mut Options)) -> Self {
        let client = Client::try_from(server.config.clone()).unwrap();
        let id = uuid::Uuid::new_v4().simple().to_string();
        let namespace = format!("kubelet-{}", &id[..12]);
        let object = serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap();
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object).await.unwrap();
        let mut options = Options {
            namespace: Some(namespace.clone()),
            pod_cidr: format!("127.{network}.0.0/20").parse().unwrap(),
            node_name: format!("node-{}", &id[..12]),
            first_probe: Duration::from_millis(50),
            config_retry: Duration::from_millis(100),
            back_off: Duration::from_millis(200),
            job_back_off: Duration::from_millis(50),
            gc_delay: Duration::from_millis(100),
            gc_period: Duration::from_millis(500),
            ..Options::default()
        };
        change(&mut options);
        let programs = Programs::default();
        let kubelet = start(&Client::try_from(kubelet).unwrap(), &programs, &options).await;
        Self { _server: server, client, kubelet, programs, options }
    }

    fn namespace(&self) -> &str {
        self.options.namespace.as_deref().unwrap()
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), self.namespace())
    }

    async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope> + Clone,
        K: std::fmt::Debug + serde::Serialize + DeserializeOwned,
        K::DynamicType: Default,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api::<K>().create(&PostParams::default(), &object).await.unwrap()
    }

    /// Creates a pod as the gateway would, whose container acts so.
    async fn pod(&self, name: &str, act: &str) -> Pod {
        self.create(pod(name, act)).await
    }

    /// Waits until the pod's object is so, or there is none where `None` is expected.
    async fn until(&self, name: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let condition = |pod: Option<&Pod>| pod.is_some_and(|pod| is_so(&json!(pod)));
        match timeout(PATIENCE, await_condition(self.api::<Pod>(), name, condition)).await {
            Ok(pod) => json!(pod.unwrap().unwrap()),
            Err(_) => panic!(
                "waited in vain for {name}: {:#}",
                json!(self.api::<Pod>().get_opt(name).await.unwrap())
            ),
        }
    }

    async fn until_ready(&self, name: &str) -> Value {
        self.until(name, |pod| condition(pod, "Ready")["status"] == "True").await
    }

    async fn until_phase(&self, name: &str, phase: &str) -> Value {
        self.until(name, |pod| pod["status"]["phase"] == phase).await
    }

    /// Waits until the container waits for that reason.
    async fn until_waiting(&self, name: &str, reason: &str) -> Value {
        let pod = self.until(name, |pod| first(pod)["state"]["waiting"]["reason"] == reason).await;
        first(&pod)["state"]["waiting"].clone()
    }

    async fn until_gone<K>(&self, name: &str)
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope> + Clone + Send,
        K: std::fmt::Debug + DeserializeOwned + 'static,
        K::DynamicType: Default,
    {
        let gone = await_condition(self.api::<K>(), name, |object: Option<&K>| object.is_none());
        timeout(PATIENCE, gone).await.unwrap_or_else(|_| panic!("{name} does not go")).unwrap();
    }

    /// Waits for an event of that object and reason.
    async fn event(&self, name: &str, reason: &str) -> Event {
        self.event_that(name, reason, |_| true).await
    }

    async fn event_that(&self, name: &str, reason: &str, is_it: impl Fn(&Event) -> bool) -> Event {
        let of = ListParams::default().fields(&format!("involvedObject.name={name}"));
        let looking = async {
            loop {
                let events = self.api::<Event>().list(&of).await.unwrap();
                let found = events.into_iter().find(|e| e.reason.as_deref() == Some(reason) && is_it(e));
                match found {
                    Some(event) => return event,
                    None => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("no event {reason} of {name}"))
    }

    async fn delete(&self, name: &str, grace: u32) {
        let parameters = DeleteParams::default().grace_period(grace);
        self.api::<Pod>().delete(name, &parameters).await.unwrap();
    }

    /// Ends the kubelet, checking that nothing runs on.
    async fn end(self) {
        self.kubelet.stop().await;
        let running: usize = self.programs.running.borrow().values().sum();
        assert_eq!(running, 0, "a container outlives the kubelet");
    }
}

async fn start(client: &Client, programs: &Programs, options: &Options) -> Kubelet {
    Kubelet::start(client.clone(), Arc::new(programs.clone()), options.clone()).await.unwrap()
}

fn pod(name: &str, act: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": "gluetun-vpn"}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 5,
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "gluetun",
                "image": "qmcgaw/gluetun:v3.41.3",
                "env": [{"name": "ACT", "value": act}, {"name": "SERVER_HOSTNAMES", "value": format!("se-{name}")}],
                "readinessProbe": {"httpGet": {"port": 9999, "path": "/"}, "periodSeconds": 1},
            }],
        },
    })
}

fn condition<'a>(pod: &'a Value, type_: &str) -> &'a Value {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|condition| condition["type"] == type_).unwrap_or(&Value::Null)
}

/// The status of the pod's first container.
fn first(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

fn terminated(pod: &Value) -> &Value {
    &first(pod)["state"]["terminated"]
}
