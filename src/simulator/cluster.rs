//! The embedded cluster in one piece: the API server, a kubelet that is its client, and the Gluetun
//! look-alike, or a real process, as what every container runs. Started by `demo` and `simulator`.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, PostParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::api::ApiServer;
use super::container::{ContainerSpec, Exit, Log, Signals};
use super::control;
use super::gluetun::{self, Gluetun};
use super::kubelet::{self, Cidr, Kubelet, ProcessRuntime, Runtime};
use crate::controller::manifest::{ADDRESSES, PRIVATE_KEY, SECRET};
use crate::servers;

/// How long the cluster may take to store an object that an installation has.
const SEED_LIMIT: Duration = Duration::from_secs(10);

/// What a cluster is started with.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Where the API server listens; a free port of 127.0.0.1 by default.
    pub listen: SocketAddr,
    /// The namespace that kubeconfig and client configuration mean, and that has the VPN key;
    /// `gluetun-system` by default.
    pub namespace: String,
    /// What pods get their addresses from; `127.42.0.0/16` by default.
    pub pod_cidr: Cidr,
    /// From a look-alike's start to its being healthy; 2 s by default.
    pub pod_start: Duration,
    /// Shell command that every container runs in place of the look-alike.
    pub pod_command: Option<String>,
    /// Destinations (`name` or `name:port`) that the look-alikes dial elsewhere.
    pub hosts: HashMap<String, SocketAddr>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            namespace: "gluetun-system".to_owned(),
            pod_cidr: Cidr::default(),
            pod_start: Duration::from_secs(2),
            pod_command: None,
            hosts: HashMap::new(),
        }
    }
}

/// Why a cluster could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The API server's address cannot be listened on.
    #[error("the embedded API server cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// Look-alikes cannot listen on their addresses.
    #[error(
        "pods cannot listen in {cidr}: {first} is no address of this machine; on Linux all of 127.0.0.0/8 \
         is, as in 127.42.0.0/16"
    )]
    PodCidr {
        /// The pods' network.
        cidr: Cidr,
        /// The address of the first pod.
        first: Ipv4Addr,
    },
    /// No client could be made for it.
    #[error("the embedded API server cannot be reached: {0}")]
    Client(#[source] Box<kube::Error>),
    /// The kubelet could not be started.
    #[error(transparent)]
    Kubelet(#[from] kubelet::StartError),
    /// The VPN key, or what else an installation has, could not be stored.
    #[error("cannot store what the gateway needs in the embedded cluster: {0}")]
    Seed(String),
}

/// A running cluster. Dropped, it ends by itself, its containers with it; [`Cluster::stop`] waits until
/// they have.
pub struct Cluster {
    // Ends before the API server that it reports to.
    kubelet: Arc<Kubelet>,
    gluetun: Arc<Gluetun>,
    api: ApiServer,
    namespace: String,
}

/// Containers that run the look-alike.
#[derive(Debug)]
pub struct LookAlike(pub Arc<Gluetun>);

impl Runtime for LookAlike {
    fn run(
        &self,
        spec: ContainerSpec,
        log: Log,
        signals: Signals,
    ) -> Pin<Box<dyn Future<Output = Exit> + Send>> {
        let image = Arc::clone(&self.0);
        Box::pin(async move { image.run(spec, log, signals).await })
    }
}

impl Cluster {
    /// Starts the API server and the kubelet, and stores a made-up VPN key.
    ///
    /// # Errors
    ///
    /// As [`ClusterError`] says.
    pub async fn start(options: ClusterOptions) -> Result<Self, ClusterError> {
        let ClusterOptions { listen, namespace, pod_cidr, pod_start, pod_command, hosts } = options;
        let first = pod_cidr.first();
        if pod_command.is_none()
            && UdpSocket::bind((first, 0)).is_err_and(|e| e.kind() == io::ErrorKind::AddrNotAvailable)
        {
            return Err(ClusterError::PodCidr { cidr: pod_cidr, first });
        }
        let api = ApiServer::start(listen)
            .await
            .map_err(|error| ClusterError::Listen { address: listen, error })?;
        let client = kube::Client::try_from(api.client_config(&namespace))
            .map_err(|error| ClusterError::Client(Box::new(error)))?;
        store_key(client.clone(), &namespace).await?;
        create_list_map(client.clone(), &namespace).await?;
        let image = gluetun::Options { start: pod_start, hosts, ..gluetun::Options::default() };
        let gluetun = Arc::new(Gluetun::new(image));
        let (runtime, look_alike): (Arc<dyn Runtime>, _) = match pod_command {
            Some(command) => (Arc::new(ProcessRuntime { command }), None),
            None => (Arc::new(LookAlike(Arc::clone(&gluetun))), Some(&gluetun)),
        };
        let options = kubelet::Options { pod_cidr, ..kubelet::Options::default() };
        let kubelet = Arc::new(Kubelet::start(client, runtime, options).await?);
        control::mount(&api, &kubelet, look_alike);
        Ok(Self { kubelet, gluetun, api, namespace })
    }

    /// The API server: its address, its faults, what it has served.
    pub fn api(&self) -> &ApiServer {
        &self.api
    }

    /// The kubelet: its faults and blows.
    pub fn kubelet(&self) -> &Kubelet {
        &self.kubelet
    }

    /// The look-alike's image: its faults.
    pub fn gluetun(&self) -> &Gluetun {
        &self.gluetun
    }

    /// A kubeconfig for kubectl.
    pub fn kubeconfig(&self) -> String {
        self.api.kubeconfig(&self.namespace)
    }

    /// A configuration for kube's client.
    pub fn client_config(&self) -> kube::Config {
        self.api.client_config(&self.namespace)
    }

    /// Ends every container, then the API server, and waits until all of it is gone.
    pub async fn stop(self) {
        self.kubelet.stop().await;
        self.api.stop().await;
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("api", &self.api.url())
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// Stores a VPN key as the operator of a real cluster does: in the Secret that the gateway's pods take it
/// from. It is made up, and opens no VPN.
///
/// # Errors
///
/// When it cannot be stored.
pub async fn store_key(client: kube::Client, namespace: &str) -> Result<(), ClusterError> {
    let key = STANDARD.encode(rand::random::<[u8; 32]>());
    let secret: Secret = serde_json::from_value(json!({
        "metadata": { "name": SECRET },
        "stringData": { PRIVATE_KEY: key, ADDRESSES: "10.64.0.2/32" },
    }))
    .map_err(|error| ClusterError::Seed(error.to_string()))?;
    seed(&Api::namespaced(client, namespace), &secret).await
}

/// Creates the empty ConfigMap that the gateway keeps its server list in, as the manifests do.
///
/// # Errors
///
/// When it cannot be created.
pub async fn create_list_map(client: kube::Client, namespace: &str) -> Result<(), ClusterError> {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(servers::CONFIG_MAP.to_owned());
    seed(&Api::namespaced(client, namespace), &map).await
}

async fn seed<K>(objects: &Api<K>, object: &K) -> Result<(), ClusterError>
where
    K: Clone + fmt::Debug + DeserializeOwned + Serialize,
{
    match tokio::time::timeout(SEED_LIMIT, objects.create(&PostParams::default(), object)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(ClusterError::Seed(error.to_string())),
        Err(_) => Err(ClusterError::Seed(format!("no answer within {} s", SEED_LIMIT.as_secs()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use k8s_openapi::api::core::v1::Pod;
    use kube::runtime::wait::{await_condition, conditions};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::time::timeout;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A pod as the gateway makes it, as far as it matters here.
    fn pod() -> Pod {
        let key = |name: &str, key: &str| json!({"name": name, "valueFrom": {"secretKeyRef": {"name": SECRET, "key": key}}});
        let var = |name: &str, value: &str| json!({"name": name, "value": value});
        let server = gluetun::ServerList::builtin().servers()[0].hostname.clone();
        serde_json::from_value(json!({
            "metadata": {"name": "exit"},
            "spec": {"restartPolicy": "Never", "containers": [{
                "name": "gluetun",
                "image": "qmcgaw/gluetun:v3.41.3",
                "env": [
                    var("VPN_SERVICE_PROVIDER", "mullvad"), var("VPN_TYPE", "wireguard"),
                    key("WIREGUARD_PRIVATE_KEY", PRIVATE_KEY),
                    key("WIREGUARD_ADDRESSES", ADDRESSES),
                    var("SERVER_HOSTNAMES", &server), var("HTTPPROXY", "on"),
                    var("HTTPPROXY_LISTENING_ADDRESS", ":8888"), var("HEALTH_SERVER_ADDRESS", ":9999"),
                    var("FIREWALL_INPUT_PORTS", "8888,9999"),
                ],
                "readinessProbe": {"httpGet": {"port": 9999}, "periodSeconds": 1},
            }]},
        }))
        .unwrap()
    }

    async fn start(options: ClusterOptions) -> (Cluster, Api<Pod>) {
        let cluster = Cluster::start(options).await.unwrap();
        let client = kube::Client::try_from(cluster.client_config()).unwrap();
        (cluster, Api::default_namespaced(client))
    }

    #[tokio::test]
    async fn a_pod_of_the_look_alike_becomes_an_exit() {
        let (cluster, pods) = start(ClusterOptions {
            pod_cidr: "127.43.0.0/24".parse().unwrap(),
            pod_start: Duration::from_millis(50),
            ..ClusterOptions::default()
        })
        .await;
        pods.create(&PostParams::default(), &pod()).await.unwrap();
        let is_ready = |pod: Option<&Pod>| {
            let conditions = pod.and_then(|pod| pod.status.as_ref()?.conditions.as_ref());
            conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
        };
        let ready = timeout(PATIENCE, await_condition(pods.clone(), "exit", is_ready)).await.unwrap();
        let ip = ready.unwrap().unwrap().status.unwrap().pod_ip.unwrap();
        let mut exit = TcpStream::connect(format!("{ip}:8888")).await.unwrap();
        let request = "GET http://whoami.test/ HTTP/1.1\r\nHost: whoami.test\r\nConnection: close\r\n\r\n";
        exit.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, exit.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"exit\""), "{answer}");
        let log = pods.logs("exit", &Default::default()).await.unwrap();
        assert!(log.contains("INFO"), "{log}");
        cluster.stop().await;
        assert!(TcpStream::connect(format!("{ip}:8888")).await.is_err(), "nothing listens any more");
    }

    #[tokio::test]
    async fn a_pod_command_runs_as_the_container() {
        let (cluster, pods) = start(ClusterOptions {
            pod_cidr: "127.43.1.0/24".parse().unwrap(),
            pod_command: Some("echo on $POD_IP to $SERVER_HOSTNAMES".to_owned()),
            ..ClusterOptions::default()
        })
        .await;
        let pod = pods.create(&PostParams::default(), &pod()).await.unwrap();
        let succeeded = |pod: Option<&Pod>| {
            pod.and_then(|pod| pod.status.as_ref()?.phase.as_deref()) == Some("Succeeded")
        };
        timeout(PATIENCE, await_condition(pods.clone(), "exit", succeeded)).await.unwrap().unwrap();
        let log = pods.logs("exit", &Default::default()).await.unwrap();
        let server = pod.spec.unwrap().containers[0].env.as_ref().unwrap()[4].value.clone().unwrap();
        assert_eq!(log, format!("on 127.43.1.1 to {server}\n"));
        let uid = pod.metadata.uid.unwrap();
        pods.delete("exit", &Default::default()).await.unwrap();
        timeout(PATIENCE, await_condition(pods, "exit", conditions::is_deleted(&uid)))
            .await
            .unwrap()
            .unwrap();
        cluster.stop().await;
    }

    #[tokio::test]
    async fn addresses_that_cannot_be_listened_on_are_named() {
        let (cluster, _) = start(ClusterOptions::default()).await;
        let listen = cluster.api().addr();
        let error = Cluster::start(ClusterOptions { listen, ..ClusterOptions::default() }).await.unwrap_err();
        assert!(error.to_string().contains(&listen.to_string()), "{error}");
        cluster.stop().await;
        // TEST-NET-1, which is no machine's own.
        let pod_cidr = "192.0.2.0/24".parse().unwrap();
        let error =
            Cluster::start(ClusterOptions { pod_cidr, ..ClusterOptions::default() }).await.unwrap_err();
        assert!(error.to_string().contains("192.0.2.1 is no address of this machine"), "{error}");
    }
}
