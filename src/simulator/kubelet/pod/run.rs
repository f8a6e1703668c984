//! A pod's container while it runs: its probes, its deadline, what strikes it, and how it ends.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::prepare::{Fate, Start};
use super::{Interrupt, Over, Worker};
use crate::simulator::container::{Exit, Log, Signals};
use crate::simulator::kubelet::events::Happening;
use crate::simulator::kubelet::faults::Blow;
use crate::simulator::kubelet::machine::Machine;
use crate::simulator::kubelet::probe::{self, Kind, Note, Plan};
use crate::simulator::kubelet::status::{Ended, Phase, State};

/// The least time between SIGTERM and SIGKILL (`minimumGracePeriodInSeconds` of the kubelet).
const LEAST_GRACE: Duration = Duration::from_secs(2);
/// How long a container that has been killed may still take before it is dropped.
const KILL_PATIENCE: Duration = Duration::from_secs(1);
/// A time that does not come.
const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A running container. Dropped, it is no more.
struct Running {
    task: AbortOnDropHandle<Exit>,
    signals: Signals,
    log: Log,
    ended: CancellationToken,
}

impl Running {
    fn start(machine: &Machine, Start { spec, fate }: Start) -> Self {
        let (log, signals) = (Log::default(), Signals::default());
        let runtime = machine.runtime.clone();
        let (its_log, its_signals) = (log.clone(), signals.clone());
        let run = async move {
            let program = runtime.run(spec, its_log.clone(), its_signals.clone());
            match fate {
                None => program.await,
                Some(fate) => doomed(program, fate, its_log, its_signals).await,
            }
        };
        let task = AbortOnDropHandle::new(machine.tasks.spawn(run));
        Self { task, signals, log, ended: CancellationToken::new() }
    }

    /// Waits for its end. Cancel-safe.
    async fn exit(&mut self) -> Exit {
        match (&mut self.task).await {
            Ok(exit) => exit,
            Err(error) if error.is_panic() => Exit { code: 2, reason: "Error", message: None },
            Err(_) => Exit { code: 137, reason: "Error", message: None },
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signals.kill.cancel();
        self.ended.cancel();
    }
}

/// Runs a program that a fault will end.
async fn doomed(program: impl Future<Output = Exit>, fate: Fate, log: Log, signals: Signals) -> Exit {
    if !fate.after.is_zero() {
        let mut program = std::pin::pin!(program);
        tokio::select! {
            exit = &mut program => return exit,
            () = tokio::time::sleep(fate.after) => {}
        }
        signals.kill.cancel();
        let _ = tokio::time::timeout(KILL_PATIENCE, program).await;
    }
    for line in fate.log {
        log.line(line);
    }
    fate.exit
}

/// Why a running container has to end.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Why {
    Deleted,
    /// Nothing is left to report to.
    Silent,
    /// The pod fails, as its report already says.
    Failing,
    /// A probe says so: it may be started again.
    Unwell,
}

/// A container on its way out.
struct Ending {
    why: Why,
    kill_at: Instant,
    killed: bool,
}

/// The probes of a running container.
struct Probes {
    notes: mpsc::Receiver<Note>,
    started: watch::Sender<bool>,
    has_readiness: bool,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Worker {
    /// Runs the container until it has ended.
    pub(super) async fn contain(&mut self, start: Start) -> Over {
        let ip = start.spec.pod_ip;
        let mut container = Running::start(&self.machine, start);
        let since = Timestamp::now();
        self.show(&container);
        let mut probes = self.start_probes(ip);
        self.report.id = Some(format!("containerd://{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()));
        self.report.state = State::Running { since };
        self.report.phase = Phase::Running;
        self.publish();
        self.tell_started();
        let deadline = self.deadline();
        let mut ending: Option<Ending> = None;
        let mut outcome = None;
        let exit = loop {
            let kill_at = ending.as_ref().map_or_else(|| Instant::now() + NEVER, |ending| ending.kill_at);
            tokio::select! {
                biased;
                exit = container.exit() => break exit,
                interrupt = self.interrupt() => match interrupt {
                    Interrupt::Deleted { grace } => {
                        if ending.is_none() {
                            self.tell_stopping();
                        }
                        end(&container, &mut ending, Why::Deleted, grace);
                    }
                    Interrupt::Gone | Interrupt::Stopped => {
                        end(&container, &mut ending, Why::Silent, LEAST_GRACE);
                    }
                    Interrupt::Struck(Blow::Lose) => return Over::Lost,
                    Interrupt::Struck(Blow::Recover) => {}
                    Interrupt::Struck(Blow::Kill) => container.signals.kill.cancel(),
                    Interrupt::Struck(Blow::OutOfMemory) => {
                        outcome = Some(Exit { code: 137, reason: "OOMKilled", message: None });
                        container.signals.kill.cancel();
                    }
                    Interrupt::Struck(Blow::Exit { code, log }) => {
                        log.into_iter().for_each(|line| container.log.line(line));
                        outcome = Some(Exit::code(code));
                        container.signals.kill.cancel();
                    }
                    Interrupt::Struck(Blow::Evict { message }) => {
                        self.evict(message);
                        self.publish();
                        end(&container, &mut ending, Why::Failing, LEAST_GRACE);
                    }
                },
                Some(note) = probes.notes.recv() => {
                    if let Some(kind) = self.heed(note, &probes) && ending.is_none() {
                        self.tell_unwell(kind);
                        end(&container, &mut ending, Why::Unwell, self.own_grace());
                    }
                }
                () = sleep_until(deadline), if ending.is_none() => {
                    self.report.phase = Phase::Failed;
                    self.report.reason = Some("DeadlineExceeded".to_owned());
                    let message = "Pod was active on the node longer than the specified deadline";
                    self.report.message = Some(message.to_owned());
                    self.publish();
                    self.tell_stopping();
                    end(&container, &mut ending, Why::Failing, self.own_grace());
                }
                () = sleep_until(kill_at) => {
                    if let Some(ending) = &mut ending {
                        if ending.killed {
                            container.task.abort();
                        }
                        container.signals.kill.cancel();
                        ending.killed = true;
                        ending.kill_at = Instant::now() + KILL_PATIENCE;
                    }
                }
            }
        };
        drop((container, probes));
        self.ended(outcome.unwrap_or(exit), since, ending.map(|ending| ending.why)).await
    }

    /// The container has ended.
    async fn ended(&mut self, exit: Exit, since: Timestamp, why: Option<Why>) -> Over {
        let code = exit.code;
        let finished = Some(Timestamp::now());
        let ended = Ended { exit, started: Some(since), finished, id: self.report.id.clone() };
        self.report.ready = false;
        self.report.started = false;
        let restarts = match why {
            Some(Why::Silent) => return Over::Silent,
            Some(Why::Deleted | Why::Failing) => false,
            Some(Why::Unwell) | None => self.restarts_after(code),
        };
        self.report.state = State::Terminated(ended.clone());
        if restarts {
            self.publish();
            self.crashes += 1;
            self.report.restarts += 1;
            self.report.last = Some(ended);
            return Over::Restart;
        }
        self.address = None;
        let lag = self.machine.options.phase_lag;
        if !lag.is_zero() && why.is_none() {
            // The container's end is known first; the pod's follows.
            self.publish();
            tokio::time::sleep(lag).await;
        }
        self.report.phase = match (why, code) {
            (Some(Why::Failing), _) => Phase::Failed,
            (_, 0) => Phase::Succeeded,
            (_, _) => Phase::Failed,
        };
        self.publish();
        Over::Finished
    }

    fn start_probes(&mut self, ip: std::net::IpAddr) -> Probes {
        let kinds = [Kind::Startup, Kind::Liveness, Kind::Readiness];
        let container = self.container();
        let plans: Vec<_> =
            kinds.into_iter().map(|kind| container.and_then(|c| Plan::of(kind, c, ip))).collect();
        let (has_startup, has_readiness) = (plans[0].is_some(), plans[2].is_some());
        let (started, starting) = watch::channel(!has_startup);
        let (notes_sender, notes) = mpsc::channel(16);
        let tasks = plans.into_iter().flatten().map(|plan| {
            let probe = probe::run(
                plan,
                self.machine.options.first_probe,
                starting.clone(),
                self.machine.faults.clone(),
                self.subject.clone(),
                notes_sender.clone(),
            );
            AbortOnDropHandle::new(self.machine.tasks.spawn(probe))
        });
        let tasks = tasks.collect();
        self.report.started = !has_startup;
        self.report.ready = !has_startup && !has_readiness;
        Probes { notes, started, has_readiness, _tasks: tasks }
    }

    /// Takes what a probe says. The probe by whose conclusion the container has to be killed, if any.
    fn heed(&mut self, note: Note, probes: &Probes) -> Option<Kind> {
        match note {
            Note::Failed(_, text) => {
                self.tell_container(Happening::warning("Unhealthy", text));
                None
            }
            Note::Concluded(Kind::Readiness, ready) => {
                self.report.ready = ready;
                self.publish();
                None
            }
            Note::Concluded(Kind::Startup, true) => {
                self.report.started = true;
                self.report.ready = !probes.has_readiness;
                self.publish();
                probes.started.send_replace(true);
                None
            }
            Note::Concluded(Kind::Liveness, true) => None,
            Note::Concluded(kind @ (Kind::Startup | Kind::Liveness), false) => Some(kind),
        }
    }

    /// Lets others read the log.
    fn show(&self, container: &Running) {
        let mut view = self.shown.lock();
        view.log = Some(container.log.clone());
        view.ended = container.ended.clone();
        view.waits_for = None;
    }

    /// When the pod's own deadline comes.
    fn deadline(&self) -> Instant {
        let seconds = self.pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
        let limit = seconds.and_then(|s| u64::try_from(s).ok()).map_or(NEVER, Duration::from_secs);
        let age = Timestamp::now().duration_since(self.report.start_time);
        let age = Duration::try_from(age).unwrap_or_default();
        Instant::now() + limit.saturating_sub(age)
    }

    /// The grace period that the pod's spec gives.
    fn own_grace(&self) -> Duration {
        let seconds = self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        Duration::from_secs(seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(30))
    }

    fn tell_started(&self) {
        let Some(container) = self.container() else { return };
        let image = container.image.as_deref().unwrap_or_default();
        let pulled = format!("Container image {image:?} already present on machine");
        self.tell_container(Happening::normal("Pulled", pulled));
        self.tell_container(Happening::normal("Created", format!("Created container: {}", container.name)));
        self.tell_container(Happening::normal("Started", format!("Started container {}", container.name)));
    }

    fn tell_stopping(&self) {
        let name = self.container().map(|container| container.name.as_str()).unwrap_or_default();
        self.tell_container(Happening::normal("Killing", format!("Stopping container {name}")));
    }

    fn tell_unwell(&self, kind: Kind) {
        let name = self.container().map(|container| container.name.as_str()).unwrap_or_default();
        let restart = if self.restarts_after(1) { ", will be restarted" } else { "" };
        let text = format!("Container {name} failed {} probe{restart}", kind.lower());
        self.tell_container(Happening::normal("Killing", text));
    }
}

/// Sends SIGTERM, and SIGKILL after the grace period. A container that is ending already ends no later
/// for it; a failing pod stays one, and nothing is reported for one that is gone.
fn end(container: &Running, ending: &mut Option<Ending>, why: Why, grace: Duration) {
    container.signals.term.cancel();
    let kill_at = Instant::now() + grace.max(LEAST_GRACE);
    match ending {
        None => *ending = Some(Ending { why, kill_at, killed: false }),
        Some(ending) => {
            ending.kill_at = ending.kill_at.min(kill_at);
            match (&ending.why, &why) {
                (Why::Silent, _) | (Why::Failing, Why::Deleted | Why::Unwell) => {}
                (Why::Deleted | Why::Failing | Why::Unwell, _) => ending.why = why,
            }
        }
    }
}
