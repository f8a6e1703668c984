//! The workers of all pods of this node: starts one for each pod, passes on what the watch shows and
//! what strikes, and finds a container's log.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::faults::{Blow, Pods, Subject};
use super::machine::Machine;
use super::pod::{Seen, Shown, Worker};
use crate::simulator::container::Log;

/// All workers, by the pod's uid.
pub(super) struct Workers {
    machine: Arc<Machine>,
    workers: Mutex<HashMap<String, Handle>>,
}

struct Handle {
    subject: Subject,
    seen: watch::Sender<Seen>,
    blows: mpsc::UnboundedSender<Blow>,
    shown: Shown,
}

/// Why a log cannot be read, in a kubelet's words.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum NoLog {
    #[error("pod \"{0}\" does not exist")]
    NoPod(String),
    #[error("container {container:?} not found in pod {pod:?}")]
    NoContainer { container: String, pod: String },
    #[error("container {container:?} in pod {pod:?} is waiting to start: {reason}")]
    NotStarted { container: String, pod: String, reason: String },
}

/// A container's log, and when it can get no longer.
#[derive(Debug)]
pub(super) struct ReadableLog {
    pub(super) log: Log,
    pub(super) ended: CancellationToken,
}

impl Workers {
    pub(super) fn new(machine: Arc<Machine>) -> Self {
        Self { machine, workers: Mutex::default() }
    }

    /// A pod is there or has changed.
    pub(super) fn seen(&self, pod: &Arc<Pod>) {
        let Some(uid) = pod.uid() else { return };
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
        if node != Some(&self.machine.options.node_name) {
            return;
        }
        let now = Seen { pod: Arc::clone(pod), gone: false };
        let mut workers = self.lock();
        match workers.get(&uid) {
            Some(worker) => {
                worker.seen.send_replace(now);
            }
            None => {
                let (seen, seen_receiver) = watch::channel(now);
                let (blows, blows_receiver) = mpsc::unbounded_channel();
                let shown = Shown::default();
                let worker =
                    Worker::new(Arc::clone(&self.machine), seen_receiver, blows_receiver, shown.clone());
                self.machine.tasks.spawn(worker.run());
                workers.insert(uid, Handle { subject: Subject::of(pod), seen, blows, shown });
            }
        }
    }

    /// A pod is gone.
    pub(super) fn gone(&self, pod: &Pod) {
        let handle = self.lock().remove(pod.uid().as_deref().unwrap_or_default());
        if let Some(handle) = handle {
            handle.seen.send_modify(|seen| seen.gone = true);
        }
    }

    /// Strikes every pod that is one of `pods` and has not ended; how many that were.
    pub(super) fn strike(&self, pods: &Pods, blow: &Blow) -> usize {
        let workers = self.lock();
        let struck = workers.values().filter(|worker| {
            worker.subject.is_one_of(pods)
                && !worker.shown.lock().over
                && worker.blows.send(blow.clone()).is_ok()
        });
        struck.count()
    }

    /// The log of a pod's container: of the newest pod of that name.
    pub(super) fn log(&self, namespace: &str, pod: &str, container: &str) -> Result<ReadableLog, NoLog> {
        let workers = self.lock();
        let is_it =
            |seen: &Seen| seen.pod.name_any() == pod && seen.pod.namespace().as_deref() == Some(namespace);
        let mut found: Vec<_> = workers.values().filter(|worker| is_it(&worker.seen.borrow())).collect();
        found.sort_by_key(|worker| worker.seen.borrow().pod.metadata.creation_timestamp.clone().map(|t| t.0));
        let worker = found.pop().ok_or_else(|| NoLog::NoPod(format!("{pod}_{namespace}")))?;
        let seen = Arc::clone(&worker.seen.borrow().pod);
        let spec = seen.spec.as_ref();
        let containers = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
        let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
        let (container, pod) = (container.to_owned(), pod.to_owned());
        let position = containers.iter().chain(init).position(|c| c.name == container);
        let Some(position) = position else { return Err(NoLog::NoContainer { container, pod }) };
        let view = worker.shown.lock();
        match (&view.log, view.waits_for) {
            // Only the first runs; the others have nothing to say.
            _ if position > 0 => {
                let ended = CancellationToken::new();
                ended.cancel();
                Ok(ReadableLog { log: Log::default(), ended })
            }
            (Some(log), _) => Ok(ReadableLog { log: log.clone(), ended: view.ended.clone() }),
            (None, reason) => {
                let reason = reason.unwrap_or("ContainerCreating").to_owned();
                Err(NoLog::NotStarted { container, pod, reason })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Handle>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
