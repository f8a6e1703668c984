//! The embedded cluster's API server: a small Kubernetes API server that imitates a real one wherever
//! the kube client and kubectl look. `demo` and `simulator` start it, the kubelet and the gateway are
//! its clients, and tests break it by its [`Faults`]. It knows nothing of either.
//!
//! # What it serves
//!
//! Pods (with `status`, `log` and `binding`), secrets, config maps, events (core/v1 and
//! `events.k8s.io/v1`, which are the same events), leases, jobs (with `status`), namespaces, nodes (with
//! `status`), SelfSubjectAccessReviews and SelfSubjectReviews; with the verbs get, list, watch, create, update, patch
//! (JSON merge, strategic merge, JSON and apply), delete and deletecollection; whole, as metadata, or
//! as tables. Everybody may do everything, unless a fault says otherwise. Namespaces come into being
//! with the first object in them. Answers were compared with those of a kube-apiserver 1.36; where they
//! knowingly differ:
//!
//! * no `managedFields`; server-side apply merges and never removes, and has no conflicts;
//! * no controllers: no garbage collection (`propagationPolicy` has no effect), no endpoints, no quota;
//! * a job's and a pod's validation covers what the gateway and everyday kubectl write;
//! * no YAML bodies and no protobuf (which `kubectl create configmap` and its like send: use `kubectl
//!   create -f`), and no OpenAPI schemas, hence no `kubectl explain`.
//!
//! # Faults over HTTP
//!
//! For a server in another process, `/simulator/faults` takes one [`FaultCommand`] in each `POST`,
//! lists the rules on `GET`, and ends every fault on `DELETE` (one rule by `/simulator/faults/ID`).
//! `/simulator/requests` counts what was served (`GET`), from a new start (`DELETE`). Other paths below
//! `/simulator` are there when somebody has mounted them ([`ApiServer::mount`]). `docs/simulator.md`
//! has an example of each.
//!
//! ```text
//! curl $API/simulator/faults -d '{"fault": "rule", "times": 2,
//!     "match": {"verb": "create", "resource": "pods", "user_agent": "gateway-a"},
//!     "effect": {"fail": {"status": 503, "reason": "ServiceUnavailable", "message": "later"}}}'
//! curl $API/simulator/faults -d '{"fault": "rule", "match": {"resource": "leases", "name": "gw-*"},
//!     "effect": {"delay": {"millis": 200}}}'            # or "cut", "hang", "apply_then_cut", …
//! curl $API/simulator/faults -d '{"fault": "outage", "seconds": 20}'
//! curl $API/simulator/faults -d '{"fault": "outage", "user_agent": "gateway-a"}'
//! curl $API/simulator/faults -d '{"fault": "end_outage"}'
//! curl $API/simulator/faults -d '{"fault": "stall_watches", "resource": "pods"}'
//! curl $API/simulator/faults -d '{"fault": "release_watches"}'   # also drop_watches, expire_watches
//! curl -X DELETE $API/simulator/faults
//! ```

mod age;
mod answer;
mod control;
mod decode;
mod defaults;
mod delete;
mod discovery;
mod events;
mod faults;
mod json;
mod listener;
mod logs;
mod mount;
mod openapi;
mod patch;
mod prepare;
mod quantity;
mod read;
mod requests;
mod resources;
mod router;
mod selectors;
mod server;
mod shape;
mod status;
mod store;
mod strategic;
mod table;
mod validate;
mod watch;
mod write;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http::Uri;
use serde_json::Value;
use tokio_util::task::TaskTracker;

pub use faults::{
    Effect, FaultCommand, Faults, Match, Refusal, RequestInfo, Rule, RuleId, Verb, WatchFilter,
};
pub use mount::{ControlError, ControlRequest};
pub use requests::{RequestLog, Served};

use listener::Gate;
use mount::Mounts;
use server::Server;
use store::Store;

/// A running API server. A clone is the same server; when the last one is dropped, it stops.
#[derive(Clone)]
pub struct ApiServer(Arc<Running>);

struct Running {
    server: Arc<Server>,
    tasks: TaskTracker,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.gate.close();
    }
}

impl ApiServer {
    /// Binds `listen` (port 0 for any free one) and serves there, on the runtime that this is called on.
    ///
    /// # Errors
    ///
    /// When the address cannot be bound.
    pub async fn start(listen: SocketAddr) -> io::Result<Self> {
        let store = Arc::new(Store::new());
        write::seed(&store).map_err(io::Error::other)?;
        let (gate, eras) = Gate::open(listen)?;
        let gate = Arc::new(gate);
        let faults = Faults::new(store.clone(), gate.clone());
        let (requests, mounts) = (RequestLog::default(), Mounts::default());
        let server = Arc::new(Server { store, faults, requests, gate, mounts });
        let tasks = TaskTracker::new();
        tasks.spawn(server::run(server.clone(), eras, tasks.clone()));
        tasks.close();
        Ok(Self(Arc::new(Running { server, tasks })))
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.0.server.gate.address()
    }

    /// Its URL: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// A kubeconfig for kubectl and kube, with `namespace` as the one that is meant when none is named.
    pub fn kubeconfig(&self, namespace: &str) -> String {
        format!(
            "apiVersion: v1\n\
             kind: Config\n\
             clusters:\n\
             - name: simulator\n\
             \x20 cluster:\n\
             \x20   server: {}\n\
             users:\n\
             - name: simulator\n\
             \x20 user: {{}}\n\
             contexts:\n\
             - name: simulator\n\
             \x20 context:\n\
             \x20   cluster: simulator\n\
             \x20   user: simulator\n\
             \x20   namespace: {namespace}\n\
             current-context: simulator\n",
            self.url()
        )
    }

    /// A configuration for kube's client.
    pub fn client_config(&self, namespace: &str) -> kube::Config {
        // An address and a port make a URI; the default one would never be used.
        let uri: Uri = self.url().parse().unwrap_or_default();
        let mut config = kube::Config::new(uri);
        namespace.clone_into(&mut config.default_namespace);
        // Without a list of its own, kube looks for the machine's CA files, and fails where there are
        // none, although plain HTTP needs none.
        config.root_cert = Some(Vec::new());
        config
    }

    /// Lets `handler` answer for `/simulator/NAME` and every path below it, so that one port controls all
    /// that is built around the server. It is called on the request loop, hence must not block. A name
    /// that is mounted already gets the new handler; `faults` and `requests` are the server's own, and
    /// cannot be mounted over.
    pub fn mount(
        &self,
        name: &str,
        handler: impl Fn(&ControlRequest<'_>) -> Result<Value, ControlError> + Send + Sync + 'static,
    ) {
        self.0.server.mounts.add(name, Arc::new(handler));
    }

    /// What to break.
    pub fn faults(&self) -> &Faults {
        &self.0.server.faults
    }

    /// What was served.
    pub fn requests(&self) -> RequestLog {
        self.0.server.requests.clone()
    }

    /// Stops serving: refuses connections, cuts those that are open, and returns when they have ended.
    pub async fn stop(&self) {
        self.0.server.gate.close();
        self.0.tasks.wait().await;
    }
}
