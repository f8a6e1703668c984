//! What has to be done before a pod's container runs: volumes, sandbox and address, image,
//! environment. Each may be held up, by a fault or for real; the pod then waits and says for what, and
//! it is tried again.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::{Interrupt, Worker};
use crate::simulator::container::{ContainerSpec, Exit};
use crate::simulator::kubelet::environment::{self, EnvironmentError, Place};
use crate::simulator::kubelet::events::Happening;
use crate::simulator::kubelet::faults::Fault;
use crate::simulator::kubelet::status::State;

/// First wait after a volume could not be mounted, doubled each time up to the last
/// (`goroutinemap/exponentialbackoff` of Kubernetes).
const MOUNT_BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(122));
/// Longest wait between two tries to pull an image or to start a container that keeps ending
/// (`MaxContainerBackOff` of the kubelet).
const LAST_BACK_OFF: Duration = Duration::from_secs(300);
/// First wait after the API could not be asked for a Secret; doubled each time up to the last.
const API_BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A container that can be started.
pub(super) struct Start {
    pub(super) spec: ContainerSpec,
    pub(super) fate: Option<Fate>,
}

/// How a container ends by a fault.
pub(super) struct Fate {
    pub(super) exit: Exit,
    pub(super) log: Vec<String>,
    pub(super) after: Duration,
}

/// Why a container cannot be started yet.
struct Hold {
    reason: &'static str,
    message: Option<String>,
    events: Vec<(Scope, Happening)>,
    wait: Duration,
}

/// Whose event it is.
enum Scope {
    Pod,
    Container,
}

impl Hold {
    /// The kubelet is still at it.
    fn creating(event: Option<Happening>, wait: Duration) -> Self {
        let events = event.into_iter().map(|event| (Scope::Pod, event)).collect();
        Self { reason: "ContainerCreating", message: None, events, wait }
    }
}

impl Worker {
    /// Waits until the container can be started.
    pub(super) async fn prepare(&mut self) -> Result<Start, Interrupt> {
        if self.crashes > 0 {
            self.back_off_after_crash().await?;
        }
        let delay = self.machine.options.container_delay + self.slow_start();
        if !delay.is_zero() {
            self.publish();
            self.wait(delay).await?;
        }
        let mut changes = self.machine.faults.changes();
        let mut attempt = 0;
        loop {
            changes.mark_unchanged();
            let hold = match self.attempt(attempt).await? {
                Ok(start) => return Ok(start),
                Err(hold) => hold,
            };
            attempt += 1;
            self.report.state = State::Waiting { reason: hold.reason, message: hold.message };
            self.publish();
            for (scope, event) in hold.events {
                match scope {
                    Scope::Pod => self.tell(event),
                    Scope::Container => self.tell_container(event),
                }
            }
            tokio::select! {
                interrupt = self.interrupt() => return Err(interrupt),
                () = tokio::time::sleep(hold.wait) => {}
                Ok(()) = changes.changed() => {}
            }
        }
    }

    async fn wait(&mut self, time: Duration) -> Result<(), Interrupt> {
        tokio::select! {
            interrupt = self.interrupt() => Err(interrupt),
            () = tokio::time::sleep(time) => Ok(()),
        }
    }

    /// A container that has ended once is started again at once, then later and later.
    async fn back_off_after_crash(&mut self) -> Result<(), Interrupt> {
        let Some(doublings) = self.crashes.checked_sub(2) else { return Ok(()) };
        let wait = doubled(self.machine.options.back_off, doublings, LAST_BACK_OFF);
        let (name, namespace) = (self.pod.name_any(), self.pod.namespace().unwrap_or_default());
        let container = self.container().map(|c| c.name.clone()).unwrap_or_default();
        let uid = self.pod.uid().unwrap_or_default();
        let message = format!(
            "back-off {}s restarting failed container={container} pod={name}_{namespace}({uid})",
            wait.as_secs()
        );
        self.report.state = State::Waiting { reason: "CrashLoopBackOff", message: Some(message) };
        self.publish();
        let text =
            format!("Back-off restarting failed container {container} in pod {name}_{namespace}({uid})");
        self.tell_container(Happening::warning("BackOff", text));
        self.wait(wait).await
    }

    fn slow_start(&self) -> Duration {
        let delay = self.machine.faults.meet(&self.subject, |fault| match fault {
            Fault::SlowStart { delay_ms } => Some(Duration::from_millis(*delay_ms)),
            _ => None,
        });
        delay.unwrap_or_default()
    }

    /// Tries each step once.
    async fn attempt(&mut self, attempt: u32) -> Result<Result<Start, Hold>, Interrupt> {
        if let Some(hold) = self.mount(attempt).or_else(|| self.make_sandbox(attempt)) {
            return Ok(Err(hold));
        }
        if let Some(hold) = self.pull(attempt) {
            return Ok(Err(hold));
        }
        let (machine, pod) = (self.machine.clone(), self.pod.clone());
        let Some(container) = pod.spec.as_ref().and_then(|spec| spec.containers.first()) else {
            return Ok(Err(Hold::creating(None, machine.options.back_off)));
        };
        let Some(pod_ip) = self.report.address else {
            return Ok(Err(Hold::creating(None, machine.options.back_off)));
        };
        let place = Place { pod_ip: pod_ip.into(), host_ip: self.host() };
        let env = tokio::select! {
            interrupt = self.interrupt() => return Err(interrupt),
            env = environment::resolve(&*machine, &pod, container, place) => env,
        };
        let env = match env {
            Ok(env) => env,
            Err(EnvironmentError::Missing(message)) => {
                let event = Happening::warning("Failed", format!("Error: {message}"));
                return Ok(Err(Hold {
                    reason: "CreateContainerConfigError",
                    message: Some(message),
                    events: vec![(Scope::Container, event)],
                    wait: machine.options.config_retry,
                }));
            }
            Err(EnvironmentError::Unknown(error)) => {
                tracing::debug!(pod = %pod.name_any(), %error, "a container's environment is not known yet");
                let wait = doubled(API_BACK_OFF.0, attempt, API_BACK_OFF.1);
                return Ok(Err(Hold::creating(None, wait)));
            }
        };
        let spec = ContainerSpec {
            pod_name: pod.name_any(),
            pod_ip: pod_ip.into(),
            image: container.image.clone().unwrap_or_default(),
            argv: environment::argv(container, &env),
            env,
        };
        Ok(Ok(Start { spec, fate: self.fate() }))
    }

    fn mount(&self, attempt: u32) -> Option<Hold> {
        let message = self.machine.faults.meet(&self.subject, |fault| match fault {
            Fault::FailedMount { message } => Some(message.clone()),
            _ => None,
        })?;
        let message = message.unwrap_or_else(|| {
            let volume = first_volume(&self.pod);
            format!(
                "MountVolume.SetUp failed for volume {volume:?} : hostPath type check failed: \
                 /dev/net/tun is not a character device"
            )
        });
        let wait = doubled(MOUNT_BACK_OFF.0, attempt, MOUNT_BACK_OFF.1);
        Some(Hold::creating(Some(Happening::warning("FailedMount", message)), wait))
    }

    fn make_sandbox(&mut self, attempt: u32) -> Option<Hold> {
        let fault = self.machine.faults.meet(&self.subject, |fault| match fault {
            Fault::FailedSandbox { message } => Some(message.clone()),
            _ => None,
        });
        let text = match fault {
            Some(message) => message.unwrap_or_else(|| {
                "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to setup network for \
                 sandbox: plugin type=\"bridge\" name=\"cbr0\" failed (add): failed to set bridge addr"
                    .to_owned()
            }),
            None if self.address.is_some() => return None,
            None => match self.machine.addresses.allocate() {
                Some(address) => {
                    self.report.address = Some(address.ip());
                    self.address = Some(address);
                    return None;
                }
                None => format!(
                    "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to setup network \
                     for sandbox: no IP addresses available in {}",
                    self.machine.options.pod_cidr
                ),
            },
        };
        let wait = doubled(self.machine.options.config_retry, attempt, LAST_BACK_OFF);
        Some(Hold::creating(Some(Happening::warning("FailedCreatePodSandBox", text)), wait))
    }

    /// A failed pull and the wait after it show as two reasons in turn.
    fn pull(&self, attempt: u32) -> Option<Hold> {
        let message = self.machine.faults.meet(&self.subject, |fault| match fault {
            Fault::ImagePull { message } => Some(message.clone()),
            _ => None,
        })?;
        let image = self.container().and_then(|c| c.image.clone()).unwrap_or_default();
        let error = message.unwrap_or_else(|| {
            format!(
                "rpc error: code = NotFound desc = failed to pull and unpack image {image:?}: failed to \
                 resolve reference {image:?}: {image}: not found"
            )
        });
        let wait = doubled(self.machine.options.back_off, attempt / 2, LAST_BACK_OFF);
        let container = |event| (Scope::Container, event);
        Some(if attempt.is_multiple_of(2) {
            let events = vec![
                container(Happening::normal("Pulling", format!("Pulling image {image:?}"))),
                container(Happening::warning("Failed", format!("Failed to pull image {image:?}: {error}"))),
                container(Happening::warning("Failed", "Error: ErrImagePull")),
            ];
            Hold { reason: "ErrImagePull", message: Some(error), events, wait }
        } else {
            let events = vec![
                container(Happening::normal("BackOff", format!("Back-off pulling image {image:?}"))),
                container(Happening::warning("Failed", "Error: ImagePullBackOff")),
            ];
            let message = format!("Back-off pulling image {image:?}: ErrImagePull: {error}");
            Hold { reason: "ImagePullBackOff", message: Some(message), events, wait }
        })
    }

    fn fate(&self) -> Option<Fate> {
        self.machine.faults.meet(&self.subject, |fault| match fault {
            Fault::OutOfMemory { after_ms } => Some(Fate {
                exit: Exit { code: 137, reason: "OOMKilled", message: None },
                log: Vec::new(),
                after: Duration::from_millis(*after_ms),
            }),
            Fault::Exit { code, log, after_ms } => Some(Fate {
                exit: Exit::code(*code),
                log: log.clone(),
                after: Duration::from_millis(*after_ms),
            }),
            _ => None,
        })
    }
}

fn first_volume(pod: &Pod) -> String {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    volumes.first().map_or_else(|| "tun".to_owned(), |volume| volume.name.clone())
}

fn doubled(first: Duration, doublings: u32, last: Duration) -> Duration {
    2_u32.checked_pow(doublings).and_then(|factor| first.checked_mul(factor)).unwrap_or(last).min(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_last() {
        let (first, last) = (Duration::from_millis(500), Duration::from_secs(122));
        let waits: Vec<_> = [0, 1, 2, 8, 40].map(|n| doubled(first, n, last).as_millis()).into();
        assert_eq!(waits, [500, 1000, 2000, 122_000, 122_000]);
    }
}
