//! A pod's status: built here from what its worker knows (pure), and written to the API by [`writer`].

mod writer;

use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use sha2::{Digest, Sha256};

pub(super) use self::writer::Writer;
use crate::simulator::container::Exit;

/// A pod's phase, as far as a kubelet sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    fn is_over(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed => true,
            Self::Pending | Self::Running => false,
        }
    }
}

/// What a container is doing.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum State {
    Waiting { reason: &'static str, message: Option<String> },
    Running { since: Timestamp },
    Terminated(Ended),
}

/// How a container's run ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ended {
    pub(super) exit: Exit,
    pub(super) started: Option<Timestamp>,
    pub(super) finished: Option<Timestamp>,
    pub(super) id: Option<String>,
}

/// All that a worker knows of its pod.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) phase: Phase,
    /// Of the pod: `Evicted`, `DeadlineExceeded`.
    pub(super) reason: Option<String>,
    pub(super) message: Option<String>,
    pub(super) start_time: Timestamp,
    pub(super) address: Option<Ipv4Addr>,
    pub(super) state: State,
    pub(super) last: Option<Ended>,
    pub(super) ready: bool,
    pub(super) started: bool,
    pub(super) restarts: i32,
    pub(super) id: Option<String>,
}

impl Report {
    pub(super) fn new(start_time: Timestamp) -> Self {
        Self {
            phase: Phase::Pending,
            reason: None,
            message: None,
            start_time,
            address: None,
            state: State::Waiting { reason: "ContainerCreating", message: None },
            last: None,
            ready: false,
            started: false,
            restarts: 0,
            id: None,
        }
    }

    /// Why the container's log cannot be had yet; `None` once it has run.
    pub(super) fn waits_for(&self) -> Option<&'static str> {
        match self.state {
            State::Waiting { reason, .. } if self.last.is_none() => Some(reason),
            State::Waiting { .. } | State::Running { .. } | State::Terminated(_) => None,
        }
    }
}

/// The status of a pod. Conditions that a kubelet does not own are kept from the pod as the API has it,
/// transition times from the `previous` status.
pub(super) fn build(
    pod: &Pod,
    report: &Report,
    host: IpAddr,
    previous: Option<&PodStatus>,
    now: Timestamp,
) -> PodStatus {
    let spec = pod.spec.as_ref();
    let containers = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let statuses: Vec<_> =
        containers.iter().enumerate().map(|(n, c)| container_status(c, report, n == 0)).collect();
    let init: Vec<_> = init.iter().map(|container| init_status(container, report)).collect();
    PodStatus {
        phase: Some(report.phase.as_str().to_owned()),
        reason: report.reason.clone(),
        message: report.message.clone(),
        conditions: Some(conditions(pod, report, &statuses, previous, now)),
        host_ip: Some(host.to_string()),
        host_ips: Some(vec![HostIP { ip: host.to_string() }]),
        pod_ip: report.address.map(|ip| ip.to_string()),
        pod_ips: report.address.map(|ip| vec![PodIP { ip: ip.to_string() }]),
        start_time: Some(Time(report.start_time)),
        container_statuses: Some(statuses),
        init_container_statuses: (!init.is_empty()).then_some(init),
        ..PodStatus::default()
    }
}

fn container_status(container: &Container, report: &Report, first: bool) -> ContainerStatus {
    let image = container.image.clone().unwrap_or_default();
    let run = report.id.is_some();
    // Only the first container runs; the others do as it does, and are well.
    let state = match (&report.state, first) {
        (State::Terminated(ended), false) => {
            State::Terminated(Ended { exit: Exit::code(0), ..ended.clone() })
        }
        (state, _) => state.clone(),
    };
    let running = matches!(state, State::Running { .. });
    ContainerStatus {
        name: container.name.clone(),
        image_id: if run { image_id(&image) } else { String::new() },
        image: if run { full_name(&image) } else { image },
        container_id: if first {
            report.id.clone()
        } else {
            report.id.as_deref().map(|id| sibling(id, container))
        },
        ready: if first { report.ready } else { running },
        started: Some(if first { report.started } else { running }),
        restart_count: if first { report.restarts } else { 0 },
        state: Some(state_of(&state)),
        last_state: Some(match (&report.last, first) {
            (Some(ended), true) => state_of(&State::Terminated(ended.clone())),
            (Some(_) | None, _) => ContainerState::default(),
        }),
        ..ContainerStatus::default()
    }
}

/// Init containers are not run: they have done their work before the others start, and sidecars
/// (those that restart always) run beside them.
fn init_status(container: &Container, report: &Report) -> ContainerStatus {
    let mut status = container_status(container, report, false);
    let sidecar = container.restart_policy.as_deref() == Some("Always");
    if !sidecar && let State::Running { since } = report.state {
        let ended = Ended {
            exit: Exit::code(0),
            started: Some(since),
            finished: Some(since),
            id: status.container_id.clone(),
        };
        status.state = Some(state_of(&State::Terminated(ended)));
        status.ready = true;
        status.started = Some(false);
    }
    status
}

fn state_of(state: &State) -> ContainerState {
    let mut is = ContainerState::default();
    match state {
        State::Waiting { reason, message } => {
            is.waiting =
                Some(ContainerStateWaiting { reason: Some((*reason).to_owned()), message: message.clone() });
        }
        State::Running { since } => {
            is.running = Some(ContainerStateRunning { started_at: Some(Time(*since)) });
        }
        State::Terminated(ended) => {
            is.terminated = Some(ContainerStateTerminated {
                exit_code: ended.exit.code,
                reason: Some(ended.exit.reason.to_owned()),
                message: ended.exit.message.clone(),
                started_at: ended.started.map(Time),
                finished_at: ended.finished.map(Time),
                container_id: ended.id.clone(),
                signal: None,
            });
        }
    }
    is
}

/// The name that a runtime resolves an image to.
fn full_name(image: &str) -> String {
    let image = match image.split_once('/') {
        Some((registry, _)) if registry.contains(['.', ':']) || registry == "localhost" => image.to_owned(),
        Some(_) => format!("docker.io/{image}"),
        None => format!("docker.io/library/{image}"),
    };
    let last = image.rsplit('/').next().unwrap_or_default();
    if last.contains([':', '@']) { image } else { format!("{image}:latest") }
}

fn image_id(image: &str) -> String {
    let name = full_name(image);
    let digest: String = Sha256::digest(&name).iter().map(|byte| format!("{byte:02x}")).collect();
    let tag = name.rfind(':').filter(|at| *at > name.rfind('/').unwrap_or(0)).unwrap_or(name.len());
    format!("{}@sha256:{digest}", &name[..tag])
}

/// The id of another container of the same pod.
fn sibling(id: &str, container: &Container) -> String {
    let digest = Sha256::new().chain_update(id).chain_update(&container.name).finalize();
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("containerd://{digest}")
}

/// Conditions that the kubelet owns.
const OWNED: [&str; 4] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];

fn conditions(
    pod: &Pod,
    report: &Report,
    statuses: &[ContainerStatus],
    previous: Option<&PodStatus>,
    now: Timestamp,
) -> Vec<PodCondition> {
    let over = report.phase.is_over();
    let completed = match report.phase {
        Phase::Succeeded => Some("PodCompleted"),
        Phase::Failed => Some("PodFailed"),
        Phase::Pending | Phase::Running => None,
    };
    let unready: Vec<_> = statuses.iter().filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    let (ready, reason, message) = match (completed, unready.is_empty()) {
        (Some(reason), _) => (false, Some(reason), None),
        (None, true) => (true, None, None),
        (None, false) => {
            let message = format!("containers with unready status: [{}]", unready.join(" "));
            (false, Some("ContainersNotReady"), Some(message))
        }
    };
    let gates = pod.spec.as_ref().and_then(|spec| spec.readiness_gates.as_deref()).unwrap_or_default();
    let current = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let closed = gates
        .iter()
        .find(|gate| !current.iter().any(|c| c.type_ == gate.condition_type && c.status == "True"))
        .filter(|_| ready);
    let pod_ready = match closed {
        Some(gate) => {
            let message = format!(
                "corresponding condition of pod readiness gate {:?} does not exist.",
                gate.condition_type
            );
            (false, Some("ReadinessGatesNotReady"), Some(message))
        }
        None => (ready, reason, message.clone()),
    };
    let initialized = (report.phase == Phase::Succeeded).then_some("PodCompleted");
    let owned = [
        (report.address.is_some() && !over, None, None),
        (true, initialized, None),
        pod_ready,
        (ready, reason, message),
    ];
    let mut conditions: Vec<PodCondition> = OWNED
        .into_iter()
        .zip(owned)
        .map(|(type_, (status, reason, message))| PodCondition {
            type_: type_.to_owned(),
            status: if status { "True" } else { "False" }.to_owned(),
            reason: reason.map(str::to_owned),
            message,
            last_transition_time: Some(Time(now)),
            ..PodCondition::default()
        })
        .collect();
    // The scheduler's condition comes with the binding; a server that does not set it is helped.
    let others = current.iter().filter(|condition| !OWNED.contains(&condition.type_.as_str()));
    conditions.extend(others.cloned());
    match conditions.iter_mut().find(|condition| condition.type_ == "PodScheduled") {
        Some(scheduled) if scheduled.status == "True" => {}
        Some(scheduled) => *scheduled = pod_scheduled(now),
        None => conditions.push(pod_scheduled(now)),
    }
    for condition in &mut conditions {
        let before = previous.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        let same = before.clone().find(|c| c.type_ == condition.type_ && c.status == condition.status);
        if let Some(time) = same.and_then(|same| same.last_transition_time.clone()) {
            condition.last_transition_time = Some(time);
        }
    }
    conditions
}

fn pod_scheduled(now: Timestamp) -> PodCondition {
    PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u"},
            "spec": {"containers": [
                {"name": "gluetun", "image": "qmcgaw/gluetun:v3.41.3"}, {"name": "side", "image": "x"},
            ], "initContainers": [
                {"name": "setup", "image": "x"}, {"name": "proxy", "image": "x", "restartPolicy": "Always"},
            ]},
            "status": status,
        }))
        .unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn host() -> IpAddr {
        "127.0.0.1".parse().unwrap()
    }

    fn running() -> Report {
        Report {
            phase: Phase::Running,
            address: Some("127.42.0.1".parse().unwrap()),
            state: State::Running { since: at(10) },
            started: true,
            id: Some("containerd://1".into()),
            ..Report::new(at(9))
        }
    }

    fn condition<'a>(status: &'a PodStatus, type_: &str) -> &'a PodCondition {
        status.conditions.iter().flatten().find(|c| c.type_ == type_).unwrap()
    }

    #[test]
    fn a_pod_that_is_being_made() {
        let status = build(&pod(json!({})), &Report::new(at(9)), host(), None, at(9));
        let value = json!(status);
        assert_eq!(value["phase"], "Pending");
        assert_eq!(value["containerStatuses"][0]["state"]["waiting"]["reason"], "ContainerCreating");
        assert_eq!(value["containerStatuses"][0]["started"], false);
        assert_eq!(value["containerStatuses"][0].get("containerID"), None);
        assert_eq!(condition(&status, "PodReadyToStartContainers").status, "False");
        let ready = condition(&status, "Ready");
        assert_eq!(ready.reason.as_deref(), Some("ContainersNotReady"));
        assert_eq!(ready.message.as_deref(), Some("containers with unready status: [gluetun side]"));
        assert_eq!(condition(&status, "PodScheduled").status, "True");
    }

    #[test]
    fn a_running_pod_becomes_ready_and_keeps_its_transition_times() {
        let pod = pod(json!({"conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": "1970-01-01T00:00:08Z"},
            {"type": "DisruptionTarget", "status": "True", "reason": "x"},
        ]}));
        let before = build(&pod, &running(), host(), None, at(10));
        let after = build(&pod, &Report { ready: true, ..running() }, host(), Some(&before), at(12));
        let value = json!(after);
        assert_eq!((&value["podIP"], &value["hostIP"]), (&json!("127.42.0.1"), &json!("127.0.0.1")));
        assert_eq!(value["podIPs"], json!([{"ip": "127.42.0.1"}]));
        let first = &value["containerStatuses"][0];
        assert_eq!(first["image"], "docker.io/qmcgaw/gluetun:v3.41.3");
        assert!(first["imageID"].as_str().unwrap().starts_with("docker.io/qmcgaw/gluetun@sha256:"));
        assert_eq!(first["ready"], true);
        assert_eq!(value["containerStatuses"][1]["image"], "docker.io/library/x:latest");
        assert_eq!(value["initContainerStatuses"][0]["state"]["terminated"]["exitCode"], 0);
        assert_eq!(value["initContainerStatuses"][1]["started"], true);
        for (type_, status, since) in [
            ("PodReadyToStartContainers", "True", 10),
            ("Initialized", "True", 10),
            ("Ready", "True", 12),
            ("ContainersReady", "True", 12),
            ("PodScheduled", "True", 8),
            ("DisruptionTarget", "True", 0),
        ] {
            let condition = condition(&after, type_);
            assert_eq!(condition.status, status, "{type_}");
            if since > 0 {
                assert_eq!(condition.last_transition_time, Some(Time(at(since))), "{type_}");
            }
        }
    }

    #[test]
    fn a_pod_that_ended_says_how() {
        let ended = Ended {
            exit: Exit { code: 137, reason: "OOMKilled", message: None },
            started: Some(at(10)),
            finished: Some(at(11)),
            id: Some("containerd://1".into()),
        };
        for (phase, reason) in [(Phase::Failed, "PodFailed"), (Phase::Succeeded, "PodCompleted")] {
            let report =
                Report { phase, state: State::Terminated(ended.clone()), started: false, ..running() };
            let status = build(&pod(json!({})), &report, host(), None, at(11));
            let value = json!(status);
            let terminated = &value["containerStatuses"][0]["state"]["terminated"];
            assert_eq!((&terminated["exitCode"], &terminated["reason"]), (&json!(137), &json!("OOMKilled")));
            assert_eq!(value["containerStatuses"][1]["state"]["terminated"]["reason"], "Completed");
            assert_eq!(value["podIP"], "127.42.0.1", "the address stays readable");
            for type_ in ["Ready", "ContainersReady"] {
                assert_eq!(condition(&status, type_).reason.as_deref(), Some(reason));
            }
            assert_eq!(condition(&status, "PodReadyToStartContainers").status, "False");
        }
    }

    #[test]
    fn a_readiness_gate_keeps_a_pod_from_being_ready() {
        let mut pod = pod(json!({}));
        pod.spec.as_mut().unwrap().readiness_gates =
            serde_json::from_value(json!([{"conditionType": "gate"}])).unwrap();
        let status = build(&pod, &Report { ready: true, ..running() }, host(), None, at(1));
        assert_eq!(condition(&status, "ContainersReady").status, "True");
        assert_eq!(condition(&status, "Ready").reason.as_deref(), Some("ReadinessGatesNotReady"));
    }

    #[test]
    fn names_images_as_a_runtime_does() {
        for (image, name) in [
            ("x", "docker.io/library/x:latest"),
            ("a/x:1", "docker.io/a/x:1"),
            ("ghcr.io/a/x", "ghcr.io/a/x:latest"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
        ] {
            assert_eq!(full_name(image), name);
        }
        assert!(image_id("localhost:5000/x").starts_with("localhost:5000/x@sha256:"));
    }
}
