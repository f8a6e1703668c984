//! What the state of the Job's pod means: pure. The order is that in which a kubelet shows things: the
//! container's state comes a second before the pod's phase, and two before the Job's.

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use k8s_openapi::jiff::Timestamp;

use super::failure::{JobError, JobFailure};
use super::manifest::{DEADLINE, MANAGED_BY, MEMORY};
use crate::session::api::{ForbiddenKind, forbidden_kind};

/// How long the pod may lack its image, its quota or what else somebody may be about to mend.
pub(super) const BLOCKED: Duration = Duration::from_secs(10);

/// Longest text of others that an error carries.
const SHOWN: usize = 300;

/// What a pod's state means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its container has ended well: the log is whole.
    Printed,
    /// Its container has ended with this code: its log tells why.
    AskLog(i32),
    /// It has failed.
    Failed(JobError),
    /// It cannot go on, unless somebody mends it within [`BLOCKED`].
    Blocked(JobError),
    /// Not yet; what to say if it stays so until the deadline.
    Wait(JobError),
}

/// What a Job of our name that is there already means to one who wants to make it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stance {
    /// It prints the very list that is wanted, and has so much time left.
    Join(Duration),
    /// It is ours, prints another image's list, and may be about to end.
    InTheWay,
    /// It has ended, or should have.
    Replace,
    /// It is being deleted.
    Going,
    /// It is not ours.
    Foreign,
}

/// How long a Job that has just begun is waited for: 5 s less than its own deadline, at which its pod
/// and every reason would go.
pub(super) const PATIENCE: Duration = Duration::from_secs(DEADLINE.unsigned_abs() - 5);

pub(super) fn error(kind: JobFailure, text: impl Into<String>) -> JobError {
    JobError { kind, text: text.into() }
}

/// A text of others on one line, cut.
pub(super) fn shown(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect()
}

/// What the Job that is there means to one who wants `wanted`.
pub(super) fn stance(there: &Job, wanted: &Job, now: Timestamp) -> Stance {
    let labels = there.metadata.labels.iter().flatten();
    if !labels.clone().any(|(key, value)| (key.as_str(), value.as_str()) == MANAGED_BY) {
        return Stance::Foreign;
    }
    if there.metadata.deletion_timestamp.is_some() {
        return Stance::Going;
    }
    if is_over(there) {
        return Stance::Replace;
    }
    let created = there.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let age = Duration::try_from(now.duration_since(created)).unwrap_or_default();
    let left = PATIENCE.saturating_sub(age);
    if left.is_zero() {
        return Stance::Replace;
    }
    if command(there) == command(wanted) { Stance::Join(left) } else { Stance::InTheWay }
}

/// Whether a Job has ended, or is about to fail.
pub(super) fn is_over(job: &Job) -> bool {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut ends = conditions.filter(|c| c.status == "True");
    ends.any(|c| matches!(c.type_.as_str(), "Complete" | "Failed" | "FailureTarget"))
}

/// Image and arguments of a Job's container: what it prints follows from these.
fn command(job: &Job) -> Option<(Option<&str>, Option<&[String]>)> {
    let container = job.spec.as_ref()?.template.spec.as_ref()?.containers.first()?;
    Some((container.image.as_deref(), container.args.as_deref()))
}

/// Judges the Job's pod; none has been made so far, or it is gone (`was_there`).
pub(super) fn pod(pod: Option<&Pod>, was_there: bool) -> Verdict {
    let Some(pod) = pod else {
        return match was_there {
            true => Verdict::Failed(error(JobFailure::Deleted, "its pod was deleted before it had printed")),
            false => Verdict::Wait(error(JobFailure::Deadline, "its pod was not made in time")),
        };
    };
    let status = pod.status.clone().unwrap_or_default();
    let container = status.container_statuses.iter().flatten().next();
    let state = container.and_then(|container| container.state.as_ref());
    if let Some(end) = state.and_then(|state| state.terminated.as_ref()) {
        return ended(end);
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Verdict::Failed(error(JobFailure::Deleted, "its pod is being deleted"));
    }
    if status.phase.as_deref() == Some("Failed") {
        let reason = status.reason.as_deref().unwrap_or("no reason given");
        let message = shown(status.message.as_deref().unwrap_or_default());
        return Verdict::Failed(error(
            JobFailure::Deleted,
            format!("its pod was ended by the cluster: {reason} {message}"),
        ));
    }
    if let Some(waiting) = state.and_then(|state| state.waiting.as_ref()) {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        let message = shown(waiting.message.as_deref().unwrap_or_default());
        return match reason {
            "InvalidImageName" => Verdict::Failed(error(
                JobFailure::ImagePull,
                format!("GLUETUN_IMAGE is no image's name: {message}"),
            )),
            "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "RegistryUnavailable" => {
                Verdict::Blocked(error(
                    JobFailure::ImagePull,
                    format!("the image cannot be pulled ({reason}): {message}"),
                ))
            }
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
                Verdict::Blocked(error(
                    JobFailure::StartError,
                    format!("its container cannot be started ({reason}): {message}"),
                ))
            }
            // With the reason ContainerCreating, which a pull that takes long has too.
            _ => Verdict::Wait(error(
                JobFailure::Deadline,
                format!("its container was not started in {} s ({reason} {message})", PATIENCE.as_secs()),
            )),
        };
    }
    if state.is_some_and(|state| state.running.is_some()) {
        return Verdict::Wait(error(
            JobFailure::Deadline,
            format!("its container did not end within {} s", PATIENCE.as_secs()),
        ));
    }
    let conditions = status.conditions.iter().flatten();
    let mut unscheduled = conditions.filter(|c| c.type_ == "PodScheduled" && c.status == "False");
    match unscheduled.next() {
        Some(condition) => Verdict::Wait(error(
            JobFailure::Unschedulable,
            format!("no node takes its pod: {}", shown(condition.message.as_deref().unwrap_or_default())),
        )),
        None => Verdict::Wait(error(JobFailure::Deadline, "its pod was not scheduled in time")),
    }
}

fn ended(end: &ContainerStateTerminated) -> Verdict {
    let message = || shown(end.message.as_deref().unwrap_or_default());
    match end.reason.as_deref() {
        Some("OOMKilled") => Verdict::Failed(error(
            JobFailure::OutOfMemory,
            format!("its container needs more than its memory limit of {MEMORY}"),
        )),
        Some("StartError" | "ContainerCannotRun") => Verdict::Failed(error(
            JobFailure::StartError,
            format!("its container cannot be started: {}", message()),
        )),
        Some("ContainerStatusUnknown" | "DeadlineExceeded") => Verdict::Failed(error(
            JobFailure::Deleted,
            "its pod was ended by the cluster before it had printed",
        )),
        Some(_) | None if end.exit_code == 0 => Verdict::Printed,
        Some(_) | None => Verdict::AskLog(end.exit_code),
    }
}

/// The error of a container that has ended with that code, from its log. With a wrong flag (2) Gluetun
/// prints the mistake and then its usage; else the last line that says ERROR tells, or the last of all.
pub(super) fn exited(code: i32, log: &str) -> JobError {
    let lines = || log.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = match code {
        2 => lines().next(),
        _ => lines().rfind(|line| line.contains("ERROR")).or_else(|| lines().next_back()),
    };
    let text = match line {
        Some(line) => format!("its container ended with code {code}: {}", shown(line)),
        None => format!("its container ended with code {code} and printed nothing"),
    };
    error(JobFailure::Exited, text)
}

/// Why the Job's controller cannot make the pod, from the newest `FailedCreate` about the Job.
pub(super) fn refused(message: &str) -> JobError {
    let kind = match forbidden_kind(message) {
        ForbiddenKind::Quota => JobFailure::Quota,
        ForbiddenKind::PodSecurity => JobFailure::PodSecurity,
        ForbiddenKind::Admission | ForbiddenKind::Rights => JobFailure::Admission,
    };
    error(kind, format!("its pod is refused: {}", shown(message)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servers::job::{Image, manifest};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::{Value, json};

    fn at(status: Value) -> Verdict {
        pod(Some(&serde_json::from_value(json!({ "status": status })).unwrap()), false)
    }

    fn state(state: Value) -> Verdict {
        at(json!({"phase": "Pending", "containerStatuses": [{
            "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state,
        }]}))
    }

    fn kind(verdict: &Verdict) -> Option<JobFailure> {
        match verdict {
            Verdict::Failed(error) | Verdict::Blocked(error) | Verdict::Wait(error) => Some(error.kind),
            Verdict::Printed | Verdict::AskLog(_) => None,
        }
    }

    #[test]
    fn the_containers_end_tells_before_the_phase() {
        assert_eq!(state(json!({"terminated": {"exitCode": 0, "reason": "Completed"}})), Verdict::Printed);
        assert_eq!(state(json!({"terminated": {"exitCode": 2, "reason": "Error"}})), Verdict::AskLog(2));
        for (reason, code, expected) in [
            ("OOMKilled", 137, JobFailure::OutOfMemory),
            ("StartError", 128, JobFailure::StartError),
            ("ContainerStatusUnknown", 137, JobFailure::Deleted),
        ] {
            let verdict = state(json!({"terminated": {"exitCode": code, "reason": reason}}));
            assert!(matches!(verdict, Verdict::Failed(_)), "{reason}");
            assert_eq!(kind(&verdict), Some(expected), "{reason}");
        }
    }

    #[test]
    fn what_a_container_waits_for() {
        for (reason, expected) in [
            ("ErrImagePull", JobFailure::ImagePull),
            ("ImagePullBackOff", JobFailure::ImagePull),
            ("CreateContainerConfigError", JobFailure::StartError),
        ] {
            let verdict = state(json!({"waiting": {"reason": reason, "message": "no such thing"}}));
            let Verdict::Blocked(error) = verdict else { panic!("{reason}: {verdict:?}") };
            assert_eq!(error.kind, expected);
            assert!(error.text.contains(reason) && error.text.contains("no such thing"), "{}", error.text);
        }
        assert!(matches!(state(json!({"waiting": {"reason": "InvalidImageName"}})), Verdict::Failed(_)));
        let creating = state(json!({"waiting": {"reason": "ContainerCreating"}}));
        assert!(matches!(creating, Verdict::Wait(_)), "{creating:?}");
        assert!(matches!(state(json!({"running": {}})), Verdict::Wait(_)));
    }

    #[test]
    fn pods_that_are_not_scheduled_evicted_or_gone() {
        let unscheduled = at(json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"},
        ]}));
        let Verdict::Wait(told) = unscheduled else { panic!("{unscheduled:?}") };
        assert_eq!(told, error(JobFailure::Unschedulable, "no node takes its pod: 0/1 nodes"));
        let evicted = at(json!({"phase": "Failed", "reason": "Evicted", "message": "disk"}));
        assert_eq!(kind(&evicted), Some(JobFailure::Deleted));
        assert!(matches!(pod(None, false), Verdict::Wait(_)));
        assert!(matches!(pod(None, true), Verdict::Failed(_)));
    }

    #[test]
    fn the_log_of_a_failed_container_tells() {
        let usage = "flag provided but not defined: -mulvad\nUsage of format-servers:\n  -airvpn\n";
        assert!(exited(2, usage).text.ends_with("code 2: flag provided but not defined: -mulvad"));
        let log = "========\n2026 ERROR reading: no file\nINFO Shutdown successful\n";
        assert!(exited(1, log).text.ends_with("ERROR reading: no file"));
        assert!(exited(3, "a\nb\n\n").text.ends_with("code 3: b"));
        assert!(exited(3, "").text.ends_with("printed nothing"));
        assert!(exited(1, &"x".repeat(10_000)).text.len() < 400);
    }

    #[test]
    fn why_a_pod_is_refused() {
        assert_eq!(refused("pods \"x\" is forbidden: exceeded quota: q").kind, JobFailure::Quota);
        assert_eq!(
            refused("pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\"").kind,
            JobFailure::PodSecurity
        );
        assert_eq!(refused("admission webhook denied").kind, JobFailure::Admission);
    }

    #[test]
    fn what_a_job_of_the_name_means() {
        let image =
            |image: &str| Image { namespace: "ns".into(), image: image.into(), provider: "mullvad".into() };
        let wanted = manifest::job(&image("gluetun:1"));
        let now = Timestamp::from_second(1000).unwrap();
        let made = |image_name: &str, age: i64| {
            let mut job = manifest::job(&image(image_name));
            job.metadata.creation_timestamp = Some(Time(Timestamp::from_second(1000 - age).unwrap()));
            job
        };
        assert_eq!(stance(&made("gluetun:1", 5), &wanted, now), Stance::Join(Duration::from_secs(50)));
        assert_eq!(stance(&made("gluetun:1", -9), &wanted, now), Stance::Join(PATIENCE), "another's clock");
        assert_eq!(stance(&made("gluetun:1", 55), &wanted, now), Stance::Replace);
        assert_eq!(stance(&made("gluetun:2", 5), &wanted, now), Stance::InTheWay);
        for end in ["Complete", "Failed", "FailureTarget"] {
            let mut over = made("gluetun:1", 5);
            let status = json!({"conditions": [{"type": end, "status": "True"}]});
            over.status = Some(serde_json::from_value(status).unwrap());
            assert_eq!(stance(&over, &wanted, now), Stance::Replace, "{end}");
        }
        let mut going = made("gluetun:1", 5);
        going.metadata.deletion_timestamp = Some(Time(now));
        assert_eq!(stance(&going, &wanted, now), Stance::Going);
        let mut foreign = made("gluetun:1", 5);
        foreign.metadata.labels = None;
        assert_eq!(stance(&foreign, &wanted, now), Stance::Foreign);
    }

    #[test]
    fn texts_of_others_stay_on_one_line() {
        assert_eq!(shown(" a\nb\t"), "a b");
    }
}
