//! The embedded cluster's kubelet, with the small parts of a scheduler, a job controller and a garbage
//! collector that a cluster needs. It works through a `kube::Client` alone, hence against the embedded
//! API server and a real one alike. `demo`, `simulator` and the tests start it.
//!
//! ```text
//!  watch of pods ─┬▶ scheduler: binds                 pod worker: prepare ▶ run ▶ retire
//!                 ├▶ workers ──▶ one task a pod ─────▶   │ address, environment, probes
//!                 ├▶ jobs                               └▶ container (a `Runtime`)
//!                 └▶ garbage collector
//! ```

mod address;
mod environment;
mod events;
mod faults;
mod gc;
mod jobs;
mod logs;
mod machine;
mod node;
mod pod;
mod probe;
mod process;
mod scheduler;
mod status;
mod watch;
mod workers;

use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::address::{Cidr, NotACidr};
pub use self::faults::{Blow, Fault, Faults, Pods, Rule, RuleId};
pub use self::logs::LogServerError;
pub use self::machine::CallError;
pub use self::process::ProcessRuntime;

use self::address::AddressPool;
use self::logs::LogServer;
use self::machine::{Calls, Machine};
use self::scheduler::Scheduler;
use self::watch::Change;
use self::workers::Workers;
use super::container::{ContainerSpec, Exit, Log, Signals};

/// What runs in a container.
pub trait Runtime: Send + Sync + 'static {
    /// Runs a container until it ends. A future that is dropped leaves nothing running.
    fn run(
        &self,
        spec: ContainerSpec,
        log: Log,
        signals: Signals,
    ) -> Pin<Box<dyn Future<Output = Exit> + Send>>;
}

/// How a kubelet behaves. The delays are those of an idle machine; tests and benches shorten them.
#[derive(Clone, Debug)]
pub struct Options {
    /// The namespace whose pods and jobs it cares for; all by default.
    pub namespace: Option<String>,
    /// What pods get their addresses from; `127.42.0.0/16` by default.
    pub pod_cidr: Cidr,
    /// Name of its node.
    pub node_name: String,
    /// Address of its node, on which it serves logs.
    pub node_addr: IpAddr,
    /// Whether it deletes pods and jobs whose owners are gone.
    pub garbage_collect: bool,
    /// How long the scheduler thinks about a pod; none by default (a real one: 10 ms).
    pub schedule_delay: Duration,
    /// From a pod's binding to its container's start; none by default (a real one: 230 to 550 ms).
    pub container_delay: Duration,
    /// From a container's start to its first probe; 500 ms by default, as on a real node, where probes
    /// follow the pod's own seconds.
    pub first_probe: Duration,
    /// From a container's end to its pod's phase; none by default (a real one: 1.1 s).
    pub phase_lag: Duration,
    /// How often a pod is tried again whose Secret or sandbox is missing; 1 s by default (a real one:
    /// about 10 s).
    pub config_retry: Duration,
    /// First wait after an image that cannot be pulled and a container that keeps ending, doubled each
    /// time; 10 s by default, as on a real node.
    pub back_off: Duration,
    /// From the end of a job's last pod to the job's own; none by default (a real one: 1 s).
    pub job_lag: Duration,
    /// First wait before a job replaces a failed pod, doubled each time; 10 s by default, as in a real
    /// cluster.
    pub job_back_off: Duration,
    /// From an owner's end to the look at what it owned; 500 ms by default.
    pub gc_delay: Duration,
    /// How often owners of other kinds than leases and jobs are looked at; 30 s by default.
    pub gc_period: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            namespace: None,
            pod_cidr: Cidr::default(),
            node_name: "simulator".to_owned(),
            node_addr: IpAddr::V4(Ipv4Addr::LOCALHOST),
            garbage_collect: true,
            schedule_delay: Duration::ZERO,
            container_delay: Duration::ZERO,
            first_probe: Duration::from_millis(500),
            phase_lag: Duration::ZERO,
            config_retry: Duration::from_secs(1),
            back_off: Duration::from_secs(10),
            job_lag: Duration::ZERO,
            job_back_off: Duration::from_secs(10),
            gc_delay: Duration::from_millis(500),
            gc_period: Duration::from_secs(30),
        }
    }
}

/// Why a kubelet could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its port could not be opened.
    #[error(transparent)]
    LogServer(#[from] LogServerError),
    /// Its node could not be registered.
    #[error("the kubelet cannot register its node: {0}")]
    Register(#[from] CallError),
}

/// A running kubelet. Dropped, it ends by itself, its containers with it.
pub struct Kubelet {
    machine: Arc<Machine>,
    workers: Arc<Workers>,
}

impl Kubelet {
    /// Registers the node and begins to care for pods, each of whose containers `runtime` runs.
    pub async fn start(
        client: kube::Client,
        runtime: Arc<dyn Runtime>,
        options: Options,
    ) -> Result<Self, StartError> {
        let (calls, stop, tasks) = (Calls::default(), CancellationToken::new(), TaskTracker::new());
        let log_server = LogServer::bind(options.node_addr).await?;
        node::register(&client, &calls, &options, log_server.port()).await?;
        let (node_name, recording) = (options.node_name.clone(), stop.clone());
        let (events, writing) =
            events::recorder("kubelet", node_name, client.clone(), calls.clone(), recording);
        tasks.spawn(writing);
        let machine = Arc::new(Machine {
            client,
            calls,
            runtime,
            faults: Faults::default(),
            addresses: AddressPool::new(options.pod_cidr),
            options,
            events,
            stop: stop.clone(),
            tasks: tasks.clone(),
        });
        let workers = Arc::new(Workers::new(Arc::clone(&machine)));
        tasks.spawn(log_server.serve(Arc::clone(&workers), tasks.clone(), stop));
        watch_all(&machine, &workers);
        Ok(Self { machine, workers })
    }

    /// The faults that are injected into pods.
    pub fn faults(&self) -> &Faults {
        &self.machine.faults
    }

    /// Strikes every pod that is one of `pods` and has not ended, at once; how many that were.
    pub fn strike(&self, pods: &Pods, blow: &Blow) -> usize {
        self.workers.strike(pods, blow)
    }

    /// Kills the container of the pod of this name: exit code 137. False if there is none.
    pub fn kill(&self, pod_name: &str) -> bool {
        self.strike(&Pods::Named(pod_name.to_owned()), &Blow::Kill) > 0
    }

    /// Stops all containers and waits until they have ended. Objects in the API stay as they are.
    pub async fn stop(&self) {
        self.machine.stop.cancel();
        self.machine.tasks.close();
        self.machine.tasks.wait().await;
    }
}

impl std::fmt::Debug for Kubelet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubelet").field("options", &self.machine.options).finish_non_exhaustive()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.machine.stop.cancel();
        self.machine.tasks.close();
    }
}

/// Watches pods, jobs and leases, and passes on what changes to those whom it concerns.
fn watch_all(machine: &Arc<Machine>, workers: &Arc<Workers>) {
    let (jobs, jobs_receiver) = mpsc::unbounded_channel();
    machine.tasks.spawn(jobs::run(Arc::clone(machine), jobs_receiver));
    let gc = machine.options.garbage_collect.then(|| {
        let (gc, gc_receiver) = mpsc::unbounded_channel();
        machine.tasks.spawn(gc::run(Arc::clone(machine), gc_receiver));
        gc
    });
    let tell_gc = move |gc: &Option<mpsc::UnboundedSender<gc::Note>>, note: gc::Note| {
        if let Some(gc) = gc {
            // An error means that the kubelet ends.
            let _ = gc.send(note);
        }
    };

    let (workers, scheduler) = (Arc::clone(workers), Scheduler::new(Arc::clone(machine)));
    let (pod_jobs, pod_gc) = (jobs.clone(), gc.clone());
    let pods = watch::follow("pods", machine.everywhere::<Pod>(), machine.stop.clone(), move |change| {
        match &change {
            Change::Applied(pod) => {
                scheduler.seen(pod);
                workers.seen(pod);
            }
            Change::Gone(pod) => {
                scheduler.gone(pod);
                workers.gone(pod);
            }
        }
        let _ = pod_jobs.send(jobs::Note::Pod(change.clone()));
        tell_gc(&pod_gc, gc::Note::Pod(change));
    });
    machine.tasks.spawn(pods);

    let job_gc = gc.clone();
    let job_watch = watch::follow("jobs", machine.everywhere::<Job>(), machine.stop.clone(), move |change| {
        let _ = jobs.send(jobs::Note::Job(change.clone()));
        tell_gc(&job_gc, gc::Note::Job(change));
    });
    machine.tasks.spawn(job_watch);

    if gc.is_some() {
        let leases = machine.everywhere::<Lease>();
        let lease_watch = watch::follow("leases", leases, machine.stop.clone(), move |change| {
            tell_gc(&gc, gc::Note::Lease(change));
        });
        machine.tasks.spawn(lease_watch);
    }
}

#[cfg(test)]
mod tests;
