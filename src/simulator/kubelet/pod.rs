//! One pod's worker: a task that takes a pod which is bound to this node from its first sight to its
//! end. It prepares the container ([`prepare`]), runs it ([`run`]), and when the pod is deleted,
//! removes it from the API. [`super::workers`] starts it and passes on what the watch shows.

mod prepare;
mod run;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Preconditions};
use kube::{Resource, ResourceExt};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::address::Address;
use super::events::Happening;
use super::faults::{Blow, Subject};
use super::machine::{BackOff, Machine};
use super::status::{self, Ended, Phase, Report, State, Writer};
use crate::simulator::container::{Exit, Log};

/// The pod as the watch shows it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) pod: Arc<Pod>,
    /// There is no such object any more.
    pub(super) gone: bool,
}

/// What others may see of a pod's container: its log.
#[derive(Debug, Default)]
pub(super) struct View {
    /// Why there is no log yet.
    pub(super) waits_for: Option<&'static str>,
    pub(super) log: Option<Log>,
    /// Cancelled when the container that writes the log has ended.
    pub(super) ended: CancellationToken,
    /// Its container will not run again.
    pub(super) over: bool,
}

/// Shared between a worker and those who look.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown(Arc<Mutex<View>>);

impl Shown {
    pub(super) fn lock(&self) -> MutexGuard<'_, View> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What makes a worker do something else than it is doing.
enum Interrupt {
    /// The pod is to end within so many seconds.
    Deleted { grace: Duration },
    /// The pod's object is no more.
    Gone,
    /// The kubelet ends.
    Stopped,
    /// Someone strikes the pod.
    Struck(Blow),
}

/// How a worker's care for a container ends.
enum Over {
    /// It is started again.
    Restart,
    /// The pod has ended and says so; it stays until it is deleted.
    Finished,
    /// There is nothing left to report.
    Silent,
    /// The node is lost.
    Lost,
}

/// Interrupts that have been told once.
#[derive(Default)]
struct Told {
    deleted: Option<Duration>,
    gone: bool,
    stopped: bool,
}

/// The task of one pod.
pub(super) struct Worker {
    machine: Arc<Machine>,
    pod: Arc<Pod>,
    subject: Subject,
    seen: watch::Receiver<Seen>,
    blows: mpsc::UnboundedReceiver<Blow>,
    faults: watch::Receiver<u64>,
    shown: Shown,
    writer: Writer,
    report: Report,
    address: Option<Address>,
    told: Told,
    /// Whether the node is lost: then nothing is reported.
    lost: bool,
    /// How often the container has ended, for the back-off between restarts.
    crashes: u32,
}

impl Worker {
    pub(super) fn new(
        machine: Arc<Machine>,
        seen: watch::Receiver<Seen>,
        blows: mpsc::UnboundedReceiver<Blow>,
        shown: Shown,
    ) -> Self {
        let pod = Arc::clone(&seen.borrow().pod);
        let start = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
        Self {
            subject: Subject::of(&pod),
            faults: machine.faults.changes(),
            writer: Writer::new(&machine, &pod),
            report: Report::new(start.unwrap_or_else(Timestamp::now)),
            machine,
            pod,
            seen,
            blows,
            shown,
            address: None,
            told: Told::default(),
            lost: false,
            crashes: 0,
        }
    }

    pub(super) async fn run(mut self) {
        let over = self.live().await;
        let finished = match over {
            Over::Finished => true,
            Over::Lost => self.stay_lost().await,
            Over::Silent | Over::Restart => false,
        };
        self.close_view();
        if finished {
            self.retire().await;
        }
    }

    fn close_view(&self) {
        let mut view = self.shown.lock();
        view.over = true;
        view.ended.cancel();
    }

    /// From the first sight of the pod to its container's last end.
    async fn live(&mut self) -> Over {
        let before = self.pod.status.clone().unwrap_or_default();
        if matches!(before.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return Over::Finished;
        }
        let earlier = before.container_statuses.unwrap_or_default().into_iter().next();
        if let Some(earlier) = earlier.filter(|status| status.container_id.is_some()) {
            // An earlier kubelet ran it, whose containers ended with it.
            self.report.restarts = earlier.restart_count;
            if !self.restarts_after(137) {
                self.vanish();
                return Over::Finished;
            }
            self.report.restarts += 1;
        }
        loop {
            let over = match self.prepare().await {
                Ok(start) => self.contain(start).await,
                Err(interrupt) => match self.cut_short(interrupt) {
                    Some(over) => over,
                    None => continue,
                },
            };
            match over {
                Over::Restart => {}
                Over::Finished | Over::Silent | Over::Lost => return over,
            }
        }
    }

    /// What an interrupt means to a pod whose container does not run.
    fn cut_short(&mut self, interrupt: Interrupt) -> Option<Over> {
        match interrupt {
            Interrupt::Deleted { .. } => {
                self.vanish();
                Some(Over::Finished)
            }
            Interrupt::Gone | Interrupt::Stopped => Some(Over::Silent),
            Interrupt::Struck(Blow::Lose) => Some(Over::Lost),
            Interrupt::Struck(Blow::Evict { message }) => {
                self.evict(message);
                self.address = None;
                self.publish();
                Some(Over::Finished)
            }
            // There is no container to strike.
            Interrupt::Struck(Blow::Kill | Blow::OutOfMemory | Blow::Exit { .. } | Blow::Recover) => None,
        }
    }

    /// Waits for the next interrupt. Each is told once, a shortened grace period again. Cancel-safe.
    async fn interrupt(&mut self) -> Interrupt {
        loop {
            let Seen { pod, gone } = self.seen.borrow_and_update().clone();
            self.pod = pod;
            if gone && !self.told.gone {
                self.told.gone = true;
                return Interrupt::Gone;
            }
            if self.machine.stop.is_cancelled() && !self.told.stopped {
                self.told.stopped = true;
                return Interrupt::Stopped;
            }
            if let Some(grace) = grace(&self.pod)
                && self.told.deleted.is_none_or(|told| grace < told)
                && !self.machine.faults.is_stuck(&self.subject)
            {
                self.told.deleted = Some(grace);
                return Interrupt::Deleted { grace };
            }
            tokio::select! {
                changed = self.seen.changed(), if !self.told.gone => {
                    if changed.is_err() {
                        self.told.gone = true;
                        return Interrupt::Gone;
                    }
                }
                Some(blow) = self.blows.recv() => return Interrupt::Struck(blow),
                () = self.machine.stop.cancelled(), if !self.told.stopped => {}
                // A rule that keeps ready pods from being so may have come or gone.
                Ok(()) = self.faults.changed() => {
                    if self.report.ready {
                        self.publish();
                    }
                }
            }
        }
    }

    /// Reports the state of affairs, if it has changed.
    fn publish(&mut self) {
        self.shown.lock().waits_for = self.report.waits_for();
        if self.lost {
            return;
        }
        let mut report = self.report.clone();
        report.ready = report.ready && !self.machine.faults.is_never_ready(&self.subject);
        let wanted = self.writer.wanted();
        let previous = wanted.as_deref().or(self.pod.status.as_ref());
        let host = self.machine.options.node_addr;
        self.writer.want(status::build(&self.pod, &report, host, previous, Timestamp::now()));
    }

    /// The container is not where it should be, or never was.
    fn vanish(&mut self) {
        let message = if self.report.id.is_some() {
            "The container could not be located when the pod was terminated"
        } else {
            "The container could not be located when the pod was deleted.  The container used to be Running"
        };
        let exit = Exit { code: 137, reason: "ContainerStatusUnknown", message: Some(message.to_owned()) };
        self.report.state =
            State::Terminated(Ended { exit, started: None, finished: None, id: self.report.id.clone() });
        self.report.phase = Phase::Failed;
        self.report.ready = false;
        self.report.started = false;
        self.address = None;
        self.publish();
    }

    fn evict(&mut self, message: Option<String>) {
        let message = message.unwrap_or_else(|| {
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 60Mi. ".to_owned()
        });
        self.tell(Happening::warning("Evicted", message.clone()));
        self.report.phase = Phase::Failed;
        self.report.reason = Some("Evicted".to_owned());
        self.report.message = Some(message);
    }

    /// Does nothing more for the pod until its node is back (true) or it is gone (false).
    async fn stay_lost(&mut self) -> bool {
        self.lost = true;
        self.address = None;
        loop {
            match self.interrupt().await {
                Interrupt::Gone | Interrupt::Stopped => return false,
                Interrupt::Struck(Blow::Recover) => {
                    self.lost = false;
                    self.vanish();
                    return true;
                }
                Interrupt::Deleted { .. } | Interrupt::Struck(_) => {}
            }
        }
    }

    /// Waits until the ended pod is deleted, then removes it from the API.
    async fn retire(&mut self) {
        while self.told.deleted.is_none() {
            match self.interrupt().await {
                Interrupt::Gone | Interrupt::Stopped => return,
                Interrupt::Deleted { .. } | Interrupt::Struck(_) => {}
            }
        }
        let gone = gone(self.seen.clone());
        let (machine, pod, writer) = (&self.machine, &self.pod, &self.writer);
        let (faults, subject) = (&mut self.faults, &self.subject);
        let removal = async {
            while machine.faults.is_stuck(subject) {
                if faults.changed().await.is_err() {
                    break;
                }
            }
            writer.flushed().await;
            remove(machine, pod).await;
        };
        tokio::select! {
            () = removal => {}
            () = gone => {}
            () = machine.stop.cancelled() => {}
        }
    }

    /// Whether a container that ended with `code` is started again.
    fn restarts_after(&self, code: i32) -> bool {
        match self.pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) {
            Some("Never") => false,
            Some("OnFailure") => code != 0,
            Some(_) | None => true,
        }
    }

    /// The container that runs: the first.
    fn container(&self) -> Option<&Container> {
        self.pod.spec.as_ref().and_then(|spec| spec.containers.first())
    }

    fn host(&self) -> IpAddr {
        self.machine.options.node_addr
    }

    /// Records an event of the pod.
    fn tell(&self, happening: Happening) {
        self.machine.events.record(&self.pod.object_ref(&()), happening);
    }

    /// Records an event of its container.
    fn tell_container(&self, happening: Happening) {
        let name = self.container().map(|container| container.name.as_str()).unwrap_or_default();
        let reference = ObjectReference {
            field_path: Some(format!("spec.containers{{{name}}}")),
            ..self.pod.object_ref(&())
        };
        self.machine.events.record(&reference, happening);
    }
}

/// The grace period of a pod that is being deleted.
fn grace(pod: &Pod) -> Option<Duration> {
    pod.metadata.deletion_timestamp.as_ref()?;
    let seconds = pod.metadata.deletion_grace_period_seconds;
    let seconds = seconds.or(pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds));
    Some(Duration::from_secs(seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(30)))
}

async fn gone(mut seen: watch::Receiver<Seen>) {
    // An error means that nobody watches the pod any more.
    let _ = seen.wait_for(|seen| seen.gone).await;
}

/// Deletes the pod's object for good, if it is still this pod's.
async fn remove(machine: &Machine, pod: &Pod) {
    let api = machine.within::<Pod>(&pod.namespace().unwrap_or_default());
    let parameters = DeleteParams::default()
        .grace_period(0)
        .preconditions(Preconditions { uid: pod.uid(), resource_version: None });
    let mut back_off = BackOff::default();
    loop {
        match machine.calls.run(api.delete(&pod.name_any(), &parameters)).await {
            Ok(_) => return,
            Err(error) if error.is_not_found() || error.is_conflict() => return,
            Err(error) => {
                tracing::debug!(pod = %pod.name_any(), %error, "a pod could not be removed yet");
                tokio::time::sleep(back_off.next()).await;
            }
        }
    }
}
