//! Runs the Job against the Kubernetes API. Every call has a deadline of its own, and the whole is over
//! before the Job's own deadline takes pod and log away.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, LogParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use tokio::time::{Instant, sleep, timeout};

use super::failure::{JobError, JobFailure};
use super::judge::{self, BLOCKED, PATIENCE, Stance, Verdict, error, shown};
use super::{Image, manifest};
use crate::metrics::Metrics;
use crate::session::api::{ApiError, ForbiddenKind, Verb, call, missing_right};

/// For one call.
const CALL: Duration = Duration::from_secs(5);
/// For the log, which may have megabytes.
const LOG_CALL: Duration = Duration::from_secs(20);
/// Most of a list that is read. Mullvad's has 0.2 MiB, that of all providers 20; a kubelet keeps 10 MiB
/// of a log unless it is told otherwise.
const MAX_PRINTED: usize = 16 << 20;
/// As much of a failed container's log as is read.
const FAILED_LOG: i64 = 64 << 10;
/// How often the Job's pod is looked at while it may end any moment (0.9 s is usual), and later.
const LOOK: Duration = Duration::from_millis(200);
const LATER_LOOK: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(5);
/// When the events about a Job without a pod are looked at.
const NO_POD: Duration = Duration::from_secs(2);
/// Events about one Job that are looked at.
const EVENTS: u32 = 50;
/// How long it may take until the Job is there: an older one of the name has to go first.
const MAKE: Duration = Duration::from_secs(20);
/// How long the Job of another image may take to end by itself: that is a replica of another version.
const IN_THE_WAY: Duration = Duration::from_secs(5);

/// Runs the Job. Cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::servers) struct Runner {
    jobs: Api<Job>,
    pods: Api<Pod>,
    events: Api<Event>,
    image: Arc<Image>,
    metrics: Arc<Metrics>,
}

/// A Job that runs.
struct Running {
    uid: String,
    /// Until when it is waited for.
    until: Instant,
}

impl Runner {
    pub(in crate::servers) fn new(client: &Client, image: Image, metrics: Arc<Metrics>) -> Self {
        let namespace = image.namespace.as_str();
        Self {
            jobs: Api::namespaced(client.clone(), namespace),
            pods: Api::namespaced(client.clone(), namespace),
            events: Api::namespaced(client.clone(), namespace),
            image: Arc::new(image),
            metrics,
        }
    }

    /// What the Job has printed: one that runs already is joined, one that has ended replaced. Also the
    /// name of its pod, whose log may be read again.
    ///
    /// # Errors
    ///
    /// As [`JobError`] says: after 20 s where there is no Job by then, 55 s after that where it has not
    /// printed, and 40 s after that where its log cannot be read, twice.
    pub(in crate::servers) async fn run(&self) -> Result<(String, String), JobError> {
        let making = timeout(MAKE, self.make()).await;
        let running = making.unwrap_or_else(|_| {
            let text = format!(
                "it was not made within {} s: an older Job of its name does not go away, or the Kubernetes API \
                 is slow",
                MAKE.as_secs()
            );
            Err(error(JobFailure::Deadline, text))
        })?;
        let pod = self.wait(&running).await?;
        Ok((self.printed(&pod).await?, pod))
    }

    /// Makes the Job, or finds the one to join.
    async fn make(&self) -> Result<Running, JobError> {
        let wanted = manifest::job(&self.image);
        let begun = Instant::now();
        let mut failed_before = false;
        loop {
            let params = PostParams::default();
            match self.call(Verb::Create, self.jobs.create(&params, &wanted)).await {
                Ok(job) => {
                    return Ok(Running {
                        uid: job.uid().unwrap_or_default(),
                        until: Instant::now() + PATIENCE,
                    });
                }
                Err(ApiError::AlreadyExists) => {}
                // It may be there nevertheless: once more, and it is joined.
                Err(failed) if failed.is_ambiguous() && !failed_before => {
                    failed_before = true;
                    sleep(LOOK).await;
                    continue;
                }
                Err(failed) => return Err(told("create jobs", &failed)),
            }
            let there = self.call(Verb::Get, self.jobs.get_opt(manifest::NAME)).await;
            let Some(there) = there.map_err(|failed| told("get jobs", &failed))? else { continue };
            match judge::stance(&there, &wanted, Timestamp::now()) {
                Stance::Join(left) => {
                    return Ok(Running {
                        uid: there.uid().unwrap_or_default(),
                        until: Instant::now() + left,
                    });
                }
                Stance::InTheWay if begun.elapsed() < IN_THE_WAY => sleep(LOOK).await,
                Stance::InTheWay | Stance::Replace => self.delete(&there).await?,
                Stance::Going => sleep(LOOK).await,
                Stance::Foreign => {
                    return Err(error(
                        JobFailure::NameTaken,
                        format!("the Job {} is not the gateway's; delete or rename it", manifest::NAME),
                    ));
                }
            }
        }
    }

    /// Deletes a Job, its pod in the background (else that would be left behind), and waits until it is
    /// gone.
    async fn delete(&self, job: &Job) -> Result<(), JobError> {
        let uid = job.uid();
        let params = DeleteParams::background()
            .preconditions(Preconditions { uid: uid.clone(), resource_version: None });
        match self.call(Verb::Delete, self.jobs.delete(manifest::NAME, &params)).await {
            Ok(_) | Err(ApiError::NotFound | ApiError::Conflict) => {}
            Err(failed) => return Err(told("delete jobs", &failed)),
        }
        loop {
            match self.call(Verb::Get, self.jobs.get_opt(manifest::NAME)).await {
                Ok(Some(there)) if there.uid() == uid => sleep(LOOK).await,
                Ok(_) => return Ok(()),
                Err(failed) => return Err(told("get jobs", &failed)),
            }
        }
    }

    /// Waits until the Job's pod has printed; its name.
    async fn wait(&self, running: &Running) -> Result<String, JobError> {
        let begun = Instant::now();
        let ours = ListParams::default()
            .labels(&format!("batch.kubernetes.io/controller-uid={}", running.uid))
            .match_any();
        let mut was_there = false;
        let mut blocked: Option<Instant> = None;
        let mut looked_at_events = begun;
        loop {
            let listed = self.call(Verb::List, self.pods.list(&ours)).await;
            let mut verdict = match listed {
                Ok(pods) => {
                    let pod = pods.items.into_iter().next();
                    let verdict = judge::pod(pod.as_ref(), was_there);
                    was_there |= pod.is_some();
                    match (verdict, pod) {
                        (Verdict::Printed, Some(pod)) => return Ok(pod.name_any()),
                        (Verdict::AskLog(code), Some(pod)) => {
                            return Err(judge::exited(code, &self.end_of(&pod.name_any()).await));
                        }
                        (verdict, _) => verdict,
                    }
                }
                Err(failed @ ApiError::Forbidden(..)) => return Err(told("list pods", &failed)),
                Err(failed) => Verdict::Wait(told("list pods", &failed)),
            };
            if !was_there && looked_at_events.elapsed() >= NO_POD {
                looked_at_events = Instant::now();
                if let Some(why) = self.refusal(&running.uid).await {
                    verdict = Verdict::Blocked(why);
                } else if self.is_gone(&running.uid).await {
                    let text = "it ended, or was deleted, without a pod to be seen";
                    return Err(error(JobFailure::Deleted, text));
                }
            }
            let now = Instant::now();
            match verdict {
                Verdict::Failed(why) => return Err(why),
                Verdict::Blocked(why) => {
                    if *blocked.get_or_insert(now) + BLOCKED <= now || now >= running.until {
                        return Err(why);
                    }
                }
                Verdict::Wait(why) if now >= running.until => return Err(why),
                Verdict::Wait(_) if was_there => blocked = None,
                Verdict::Wait(_) | Verdict::Printed | Verdict::AskLog(_) => {}
            }
            sleep(if begun.elapsed() < SOON { LOOK } else { LATER_LOOK }).await;
        }
    }

    /// What the pod has printed, as far as the API has it. It is asked twice where it does not answer: the
    /// log is there for half a minute, and another Job costs more.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is too large.
    pub(in crate::servers) async fn printed(&self, pod: &str) -> Result<String, JobError> {
        let text = match self.log(pod).await {
            Err(failed) if failed.is_ambiguous() => {
                sleep(LOOK).await;
                self.log(pod).await
            }
            read => read,
        };
        match text {
            Ok(text) if text.len() > MAX_PRINTED => {
                Err(error(JobFailure::Log, format!("it has printed more than {} MiB", MAX_PRINTED >> 20)))
            }
            Ok(text) => Ok(text),
            Err(failed @ ApiError::Forbidden(..)) => Err(told("get pods/log", &failed)),
            Err(failed) => Err(error(JobFailure::Log, format!("its log cannot be read: {failed}"))),
        }
    }

    async fn log(&self, pod: &str) -> Result<String, ApiError> {
        let params = log_params(i64::try_from(MAX_PRINTED + 1).unwrap_or(i64::MAX));
        call(&self.metrics, Verb::Get, LOG_CALL, self.pods.logs(pod, &params)).await
    }

    /// The log of a container that has failed; empty where it cannot be read.
    async fn end_of(&self, pod: &str) -> String {
        let params = log_params(FAILED_LOG);
        self.call(Verb::Get, self.pods.logs(pod, &params)).await.unwrap_or_default()
    }

    /// Why the Job's controller makes no pod; none if it does not say, or nobody may know.
    async fn refusal(&self, uid: &str) -> Option<JobError> {
        let about = ListParams::default().fields(&format!("involvedObject.uid={uid}")).limit(EVENTS);
        let events = self.call(Verb::List, self.events.list(&about)).await.ok()?;
        let failed = events.items.iter().filter(|event| event.reason.as_deref() == Some("FailedCreate"));
        let newest = failed.max_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0))?;
        Some(judge::refused(newest.message.as_deref().unwrap_or_default()))
    }

    /// Whether the Job has ended or is there no longer: one that was joined may have lost its pod before.
    async fn is_gone(&self, uid: &str) -> bool {
        match self.call(Verb::Get, self.jobs.get_opt(manifest::NAME)).await {
            Ok(job) => job.is_none_or(|job| job.uid().as_deref() != Some(uid) || judge::is_over(&job)),
            Err(_) => false,
        }
    }

    async fn call<T>(
        &self,
        verb: Verb,
        future: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ApiError> {
        call(&self.metrics, verb, CALL, future).await
    }
}

fn log_params(limit: i64) -> LogParams {
    LogParams {
        container: Some(manifest::CONTAINER.to_owned()),
        limit_bytes: Some(limit),
        ..LogParams::default()
    }
}

/// A failed call as the Job's failure.
fn told(doing: &str, failed: &ApiError) -> JobError {
    match failed {
        ApiError::Forbidden(ForbiddenKind::Rights, message) => {
            let right = missing_right(message).unwrap_or_else(|| doing.to_owned());
            error(
                JobFailure::Forbidden,
                format!("the gateway lacks the right to {right}; its Role must give it"),
            )
        }
        ApiError::Forbidden(ForbiddenKind::Quota, message) => {
            error(JobFailure::Quota, format!("a quota leaves no room for it: {}", shown(message)))
        }
        ApiError::Forbidden(ForbiddenKind::PodSecurity, message) => {
            error(JobFailure::PodSecurity, shown(message))
        }
        ApiError::Forbidden(ForbiddenKind::Admission, message) | ApiError::Invalid(message) => {
            error(JobFailure::Admission, format!("it is refused: {}", shown(message)))
        }
        ApiError::NotFound
        | ApiError::Conflict
        | ApiError::AlreadyExists
        | ApiError::Timeout
        | ApiError::Unavailable(_) => {
            error(JobFailure::Api, format!("the Kubernetes API ({doing}): {}", shown(&failed.to_string())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_calls_say_what_to_do() {
        let forbidden =
            |kind, message: &str| told("create jobs", &ApiError::Forbidden(kind, message.to_owned()));
        let rights = "jobs.batch is forbidden: User \"system:serviceaccount:a:b\" cannot create resource \"jobs\" \
                      in API group \"batch\" in the namespace \"a\"";
        let missing = forbidden(ForbiddenKind::Rights, rights);
        assert_eq!(missing.kind, JobFailure::Forbidden);
        assert!(missing.text.contains("the right to create jobs; its Role must give it"), "{missing}");
        assert_eq!(forbidden(ForbiddenKind::Quota, "exceeded quota: q").kind, JobFailure::Quota);
        assert_eq!(forbidden(ForbiddenKind::PodSecurity, "x").kind, JobFailure::PodSecurity);
        assert_eq!(forbidden(ForbiddenKind::Admission, "x").kind, JobFailure::Admission);
        assert_eq!(told("get jobs", &ApiError::Invalid("x".into())).kind, JobFailure::Admission);
        assert_eq!(told("get jobs", &ApiError::Timeout).kind, JobFailure::Api);
    }
}
