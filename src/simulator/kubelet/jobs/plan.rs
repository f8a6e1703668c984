//! What to do for a job next: a pure function of the job, of its pods and of the time.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::Record;

/// Longest wait before a failed pod is replaced (`MaxJobPodFailureBackOff` of the job controller is
/// 10 minutes; a job there is retried after 6).
const LAST_BACK_OFF: Duration = Duration::from_secs(360);
/// `backoffLimit` of a job that has none.
const BACKOFF_LIMIT: i32 = 6;

/// What to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The job's status, if it changes.
    pub(super) status: Option<JobStatus>,
    /// Whether that status says that the job has completed.
    pub(super) finishes: bool,
    /// How many pods to make.
    pub(super) create: usize,
    /// Pods to delete.
    pub(super) delete: Vec<Arc<Pod>>,
    /// Whether to delete the job.
    pub(super) remove: bool,
    /// When to plan again, if nothing happens before.
    pub(super) wake: Option<Duration>,
}

enum Outcome {
    Complete,
    Failed { reason: &'static str, message: &'static str },
}

/// How a finished job ended: the reason and message of its event.
pub(super) fn verdict(status: &JobStatus) -> Option<(&'static str, String)> {
    let mut conditions = status.conditions.iter().flatten().filter(|condition| condition.status == "True");
    conditions.find_map(|condition| {
        let message = condition.message.clone().unwrap_or_default();
        match (condition.type_.as_str(), condition.reason.as_deref()) {
            ("Complete", _) => Some(("Completed", "Job completed".to_owned())),
            ("Failed", Some("DeadlineExceeded")) => Some(("DeadlineExceeded", message)),
            ("Failed", _) => Some(("BackoffLimitExceeded", message)),
            _ => None,
        }
    })
}

pub(super) fn plan(job: &Job, record: &Record, back_off: Duration, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let (Some(spec), None) = (&job.spec, &job.metadata.deletion_timestamp) else { return plan };
    let old = job.status.clone().unwrap_or_default();
    if verdict(&old).is_some() {
        expire(&mut plan, spec.ttl_seconds_after_finished, &old, now);
        return plan;
    }
    let live: Vec<_> = record.pods.values().filter(|pod| !is_over(pod)).collect();
    let (terminating, active): (Vec<_>, Vec<_>) =
        live.into_iter().partition(|pod| pod.metadata.deletion_timestamp.is_some());
    let succeeded = count(record.succeeded.len()).max(old.succeeded.unwrap_or(0));
    let failed = count(record.failed.len()).max(old.failed.unwrap_or(0));
    let suspended = spec.suspend == Some(true);
    let start = old.start_time.as_ref().map_or(now, |time| time.0);
    let deadline = spec.active_deadline_seconds.map(|limit| seconds(limit).saturating_sub(since(start, now)));

    let outcome = if spec.completions.map_or(succeeded > 0 && active.is_empty(), |all| succeeded >= all) {
        Some(Outcome::Complete)
    } else if !suspended && deadline.is_some_and(|left| left.is_zero()) {
        let message = "Job was active longer than specified deadline";
        Some(Outcome::Failed { reason: "DeadlineExceeded", message })
    } else if exceeds_limit(spec.backoff_limit.unwrap_or(BACKOFF_LIMIT), failed, &active) {
        let message = "Job has reached the specified backoff limit";
        Some(Outcome::Failed { reason: "BackoffLimitExceeded", message })
    } else {
        None
    };
    let mut conditions = old.conditions.clone().unwrap_or_default();
    // A job is finished when the last of its pods has ended; until then it only says how it will.
    let settled = active.is_empty() && terminating.is_empty();
    let mut completion_time = None;
    match &outcome {
        Some(Outcome::Complete) => {
            let (reason, message) = ("CompletionsReached", "Reached expected number of succeeded pods");
            set(&mut conditions, "SuccessCriteriaMet", reason, message, now);
            if settled {
                set(&mut conditions, "Complete", reason, message, now);
                completion_time = Some(Time(now));
                plan.finishes = true;
            }
        }
        Some(Outcome::Failed { reason, message }) => {
            set(&mut conditions, "FailureTarget", reason, message, now);
            if settled {
                set(&mut conditions, "Failed", reason, message, now);
            }
        }
        None if suspended => {}
        None => {
            let wanted = spec.parallelism.unwrap_or(1).min(spec.completions.unwrap_or(1) - succeeded);
            let missing = usize::try_from(wanted - count(active.len())).unwrap_or(0);
            let wait = wait_after_failure(record, back_off, now);
            plan.wake = deadline;
            if missing > 0 && wait.is_zero() {
                plan.create = missing;
            } else if missing > 0 {
                plan.wake = Some(deadline.map_or(wait, |deadline| deadline.min(wait)));
            }
        }
    }
    if outcome.is_some() || suspended {
        plan.delete = active.iter().map(|pod| Arc::clone(pod)).collect();
    }
    let status = JobStatus {
        active: Some(count(active.len())),
        ready: Some(count(active.iter().filter(|pod| is_ready(pod)).count())),
        terminating: Some(count(terminating.len())),
        succeeded: Some(succeeded),
        failed: Some(failed),
        start_time: if suspended { None } else { Some(Time(start)) },
        completion_time,
        conditions: (!conditions.is_empty()).then_some(conditions),
        ..JobStatus::default()
    };
    plan.status = changed(&old, &status).then_some(status);
    plan
}

/// When a finished job has had its time, it goes.
fn expire(plan: &mut Plan, ttl: Option<i32>, status: &JobStatus, now: Timestamp) {
    let Some(ttl) = ttl else { return };
    let mut ends =
        status.conditions.iter().flatten().filter(|c| matches!(c.type_.as_str(), "Complete" | "Failed"));
    let Some(end) = ends.find_map(|condition| condition.last_transition_time.as_ref()) else { return };
    let left = seconds(i64::from(ttl)).saturating_sub(since(end.0, now));
    if left.is_zero() {
        plan.remove = true;
    } else {
        plan.wake = Some(left);
    }
}

/// Whether too much has failed: pods, or restarts of containers within them.
fn exceeds_limit(limit: i32, failed: i32, active: &[&Arc<Pod>]) -> bool {
    let restarts: i32 = active
        .iter()
        .filter(|pod| pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) == Some("OnFailure"))
        .flat_map(|pod| pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten()))
        .map(|status| status.restart_count)
        .sum();
    failed > limit || (restarts > 0 && restarts >= limit)
}

/// How long the next pod has to wait: `back_off` after a failure, doubled with each further one.
fn wait_after_failure(record: &Record, back_off: Duration, now: Timestamp) -> Duration {
    let Some(doublings) = record.failed.len().checked_sub(1) else { return Duration::ZERO };
    let factor = 2_u32.checked_pow(u32::try_from(doublings).unwrap_or(u32::MAX)).unwrap_or(u32::MAX);
    let wait = back_off.saturating_mul(factor).min(LAST_BACK_OFF);
    let last = record.pods.values().filter(|pod| is_over(pod)).filter_map(|pod| finished_at(pod)).max();
    // A failed pod that was deleted has been gone for long enough.
    last.map_or(Duration::ZERO, |last| wait.saturating_sub(since(last, now)))
}

fn finished_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let ends = statuses.iter().filter_map(|status| status.state.as_ref()?.terminated.as_ref());
    ends.filter_map(|end| end.finished_at.as_ref().map(|time| time.0)).max()
}

fn is_over(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn set(conditions: &mut Vec<JobCondition>, type_: &str, reason: &str, message: &str, now: Timestamp) {
    if conditions.iter().any(|condition| condition.type_ == type_) {
        return;
    }
    conditions.push(JobCondition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
}

/// Whether the status says anything that the old one does not: absent counts as none.
fn changed(old: &JobStatus, new: &JobStatus) -> bool {
    let numbers = |s: &JobStatus| {
        [s.active, s.ready, s.terminating, s.succeeded, s.failed].map(|number| number.unwrap_or(0))
    };
    let types = |s: &JobStatus| s.conditions.iter().flatten().map(|c| c.type_.clone()).collect::<Vec<_>>();
    numbers(old) != numbers(new)
        || types(old) != types(new)
        || old.start_time.is_some() != new.start_time.is_some()
        || old.completion_time.is_some() != new.completion_time.is_some()
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn seconds(number: i64) -> Duration {
    Duration::from_secs(u64::try_from(number).unwrap_or(0))
}

fn since(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::kubelet::watch::Change;
    use serde_json::{Value, json};

    const BACK_OFF: Duration = Duration::from_secs(10);

    fn job(spec: Value, status: Value) -> Job {
        let mut spec = spec;
        spec["template"] = json!({"spec": {"containers": []}});
        serde_json::from_value(json!({"metadata": {"name": "j", "uid": "u"}, "spec": spec, "status": status}))
            .unwrap()
    }

    /// Pods of the job by name, each with its phase; `Gone` for one that was deleted.
    fn record(pods: &[(&str, &str)]) -> Record {
        let mut record = Record::default();
        for (name, phase) in pods {
            let ended = json!([{
                "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": 1, "finishedAt": "1970-01-01T00:01:40Z"}},
            }]);
            let statuses = if *phase == "Failed" { ended } else { json!([]) };
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": name, "uid": name},
                "status": {"phase": phase, "containerStatuses": statuses},
            }))
            .unwrap();
            record.pod(&match *phase {
                "Gone" => Change::Gone(Arc::new(pod)),
                _ => Change::Applied(Arc::new(pod)),
            });
        }
        record
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn types(status: &JobStatus) -> Vec<&str> {
        status.conditions.iter().flatten().map(|condition| condition.type_.as_str()).collect()
    }

    #[test]
    fn a_new_job_gets_its_pod_and_a_start_time() {
        let plan = plan(&job(json!({}), json!({})), &record(&[]), BACK_OFF, at(100));
        assert_eq!((plan.create, plan.wake, plan.remove), (1, None, false));
        assert_eq!(plan.status.unwrap().start_time, Some(Time(at(100))));
    }

    #[test]
    fn nothing_changes_while_its_pod_runs() {
        let status = json!({"active": 1, "ready": 0, "startTime": "1970-01-01T00:01:40Z"});
        let plan = plan(&job(json!({}), status), &record(&[("a", "Running")]), BACK_OFF, at(110));
        assert!(plan.status.is_none() && plan.create == 0, "{plan:?}");
    }

    #[test]
    fn completes_when_its_pod_succeeds() {
        let plan =
            plan(&job(json!({"completions": 1}), json!({})), &record(&[("a", "Succeeded")]), BACK_OFF, at(1));
        let status = plan.status.unwrap();
        assert_eq!(types(&status), ["SuccessCriteriaMet", "Complete"]);
        assert_eq!((status.succeeded, status.active, plan.create), (Some(1), Some(0), 0));
        assert!(status.completion_time.is_some() && plan.finishes);
    }

    #[test]
    fn replaces_a_failed_pod_after_a_back_off_until_the_limit() {
        let limited = job(json!({"backoffLimit": 1}), json!({}));
        let one = record(&[("a", "Failed")]);
        let waiting = plan(&limited, &one, BACK_OFF, at(104));
        assert_eq!((waiting.create, waiting.wake), (0, Some(Duration::from_secs(6))));
        assert_eq!(plan(&limited, &one, BACK_OFF, at(110)).create, 1);
        let over = plan(&limited, &record(&[("a", "Failed"), ("b", "Failed")]), BACK_OFF, at(104));
        let status = over.status.unwrap();
        assert_eq!(types(&status), ["FailureTarget", "Failed"]);
        assert_eq!(verdict(&status).unwrap().0, "BackoffLimitExceeded");
        assert_eq!((status.failed, over.create), (Some(2), 0));
    }

    #[test]
    fn a_pod_that_was_taken_away_counts_as_failed_and_is_replaced() {
        let plan = plan(&job(json!({}), json!({})), &record(&[("a", "Gone")]), BACK_OFF, at(1));
        assert_eq!((plan.create, plan.status.unwrap().failed), (1, Some(1)));
    }

    #[test]
    fn the_deadline_ends_its_pods_and_then_the_job() {
        let late = job(json!({"activeDeadlineSeconds": 5}), json!({"startTime": "1970-01-01T00:01:40Z"}));
        let running = record(&[("a", "Running")]);
        assert_eq!(plan(&late, &running, BACK_OFF, at(103)).wake, Some(Duration::from_secs(2)));
        let over = plan(&late, &running, BACK_OFF, at(105));
        assert_eq!(types(&over.status.unwrap()), ["FailureTarget"]);
        assert_eq!(over.delete.len(), 1);
        let gone = plan(&late, &record(&[("a", "Failed")]), BACK_OFF, at(106));
        assert_eq!(verdict(&gone.status.unwrap()).unwrap().0, "DeadlineExceeded");
    }

    #[test]
    fn a_finished_job_goes_after_its_time() {
        let status = json!({"conditions": [
            {"type": "Complete", "status": "True", "lastTransitionTime": "1970-01-01T00:01:40Z"},
        ]});
        let finished = job(json!({"ttlSecondsAfterFinished": 60}), status);
        let early = plan(&finished, &record(&[]), BACK_OFF, at(130));
        assert_eq!((early.remove, early.wake, early.create), (false, Some(Duration::from_secs(30)), 0));
        assert!(plan(&finished, &record(&[]), BACK_OFF, at(160)).remove);
    }

    #[test]
    fn several_completions_run_as_parallel_as_it_says() {
        let many = job(json!({"completions": 3, "parallelism": 2}), json!({}));
        assert_eq!(plan(&many, &record(&[]), BACK_OFF, at(1)).create, 2);
        let pods = record(&[("a", "Succeeded"), ("b", "Running")]);
        assert_eq!(plan(&many, &pods, BACK_OFF, at(1)).create, 1);
        let pods = record(&[("a", "Succeeded"), ("b", "Succeeded"), ("c", "Running")]);
        assert_eq!(plan(&many, &pods, BACK_OFF, at(1)).create, 0);
    }

    #[test]
    fn a_suspended_job_has_no_pods() {
        let suspended = job(json!({"suspend": true}), json!({}));
        let plan = plan(&suspended, &record(&[("a", "Running")]), BACK_OFF, at(1));
        assert_eq!((plan.create, plan.delete.len()), (0, 1));
    }
}
