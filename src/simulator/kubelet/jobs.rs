//! A job controller: makes the pods of jobs, counts how they end, and finishes the jobs. Serial, so
//! that no two steps of one job cross; what to do is decided by the pure [`plan::plan`]. Jobs run their pods
//! without an index (`completionMode: NonIndexed`).

mod plan;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Resource, ResourceExt};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use self::plan::{Plan, plan};
use super::events::Happening;
use super::machine::Machine;
use super::watch::Change;

/// When a step that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What the watches tell the controller.
pub(super) enum Note {
    Job(Change<Job>),
    Pod(Change<Pod>),
}

/// What is known of one job.
#[derive(Default)]
struct Record {
    job: Option<Arc<Job>>,
    /// Its pods that are there, by uid.
    pods: HashMap<String, Arc<Pod>>,
    /// Uids of pods that ended well or badly, whether they are still there or not.
    succeeded: HashSet<String>,
    failed: HashSet<String>,
    /// Number of the next pod.
    next: u32,
    /// When it would have finished, were it not for the lag.
    finished: Option<Instant>,
    due: Option<Instant>,
}

impl Record {
    fn pod(&mut self, change: &Change<Pod>) {
        let (Change::Applied(pod) | Change::Gone(pod)) = change;
        let Some(uid) = pod.uid() else { return };
        match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
            Some("Succeeded") => {
                self.succeeded.insert(uid.clone());
            }
            Some("Failed") => {
                self.failed.insert(uid.clone());
            }
            // One that was taken away has not done its work.
            Some(_) | None if matches!(change, Change::Gone(_)) => {
                self.failed.insert(uid.clone());
            }
            Some(_) | None => {}
        }
        match change {
            Change::Applied(_) => self.pods.insert(uid, Arc::clone(pod)),
            Change::Gone(_) => self.pods.remove(&uid),
        };
    }
}

/// Controls jobs until the kubelet ends.
pub(super) async fn run(machine: Arc<Machine>, mut notes: mpsc::UnboundedReceiver<Note>) {
    let mut records: HashMap<String, Record> = HashMap::new();
    let mut touched = BTreeSet::new();
    loop {
        let next = records.values().filter_map(|record| record.due).min();
        let waiting = async {
            match next {
                Some(next) => sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = machine.stop.cancelled() => return,
            note = notes.recv() => {
                let Some(note) = note else { return };
                touched.extend(take(&mut records, note));
                while let Ok(note) = notes.try_recv() {
                    touched.extend(take(&mut records, note));
                }
            }
            () = waiting => {
                let now = Instant::now();
                let due = records.iter().filter(|(_, record)| record.due.is_some_and(|due| due <= now));
                touched.extend(due.map(|(uid, _)| uid.clone()));
            }
        }
        for uid in std::mem::take(&mut touched) {
            let Some(record) = records.get_mut(&uid) else { continue };
            tokio::select! {
                () = step(&machine, record) => {}
                () = machine.stop.cancelled() => return,
            }
        }
    }
}

/// Notes what has changed; the uid of the job that it is about.
fn take(records: &mut HashMap<String, Record>, note: Note) -> Option<String> {
    match note {
        Note::Job(Change::Applied(job)) => {
            let uid = job.uid()?;
            records.entry(uid.clone()).or_default().job = Some(job);
            Some(uid)
        }
        Note::Job(Change::Gone(job)) => {
            // Its pods are left to the garbage collector.
            records.remove(&job.uid()?);
            None
        }
        Note::Pod(change) => {
            let (Change::Applied(pod) | Change::Gone(pod)) = &change;
            let owners = pod.owner_references();
            let owner = owners.iter().find(|owner| owner.kind == "Job" && owner.controller == Some(true))?;
            let uid = owner.uid.clone();
            match records.get_mut(&uid) {
                Some(record) => record.pod(&change),
                // A job that is gone, or that its own watch has not shown yet.
                None if matches!(change, Change::Gone(_)) => return None,
                None => records.entry(uid.clone()).or_default().pod(&change),
            }
            Some(uid)
        }
    }
}

/// Does for one job what there is to do.
async fn step(machine: &Machine, record: &mut Record) {
    record.due = None;
    let Some(job) = record.job.clone() else { return };
    let Plan { status, finishes, create, delete, remove, wake } =
        plan(&job, record, machine.options.job_back_off, Timestamp::now());
    record.due = wake.map(|wait| Instant::now() + wait);
    let mut clean = true;
    for pod in delete {
        clean &= delete_pod(machine, &pod).await;
    }
    for _ in 0..create {
        clean &= create_pod(machine, &job, record).await;
    }
    let lag = machine.options.job_lag;
    let held = finishes && !lag.is_zero() && {
        let since = *record.finished.get_or_insert_with(Instant::now);
        record.due = Some(since + lag);
        since.elapsed() < lag
    };
    if !held && let Some(status) = status {
        clean &= write_status(machine, &job, &status, record).await;
    }
    if remove {
        clean &= remove_job(machine, &job).await;
    }
    if !clean {
        let retry = Instant::now() + RETRY;
        record.due = Some(record.due.map_or(retry, |due| due.min(retry)));
    }
}

async fn write_status(machine: &Machine, job: &Job, status: &JobStatus, record: &mut Record) -> bool {
    let api = machine.within::<Job>(&job.namespace().unwrap_or_default());
    let patch = Patch::Merge(json!({ "metadata": { "uid": job.uid() }, "status": status }));
    let (name, parameters) = (job.name_any(), PatchParams::default());
    match machine.calls.run(api.patch_status(&name, &parameters, &patch)).await {
        Ok(job) => {
            if let Some((reason, message)) = plan::verdict(status)
                && plan::verdict(&record.job.as_ref().and_then(|job| job.status.clone()).unwrap_or_default())
                    .is_none()
            {
                let happening = match reason {
                    "Completed" => Happening::normal(reason, message),
                    _ => Happening::warning(reason, message),
                };
                tell(machine, &job, happening);
            }
            // The watch shows it a moment later; until then this is the newest.
            record.job = Some(Arc::new(job));
            true
        }
        Err(error) if error.is_not_found() => true,
        Err(error) => {
            tracing::debug!(job = %job.name_any(), %error, "a job's status could not be written yet");
            false
        }
    }
}

/// Makes the job's next pod. Its name follows from its number, so that making it twice does no harm.
async fn create_pod(machine: &Machine, job: &Job, record: &mut Record) -> bool {
    let known = u32::try_from(record.succeeded.len() + record.failed.len() + record.pods.len());
    record.next = record.next.max(known.unwrap_or(u32::MAX));
    let Some(pod) = pod(job, record.next) else { return true };
    let api = machine.within::<Pod>(&job.namespace().unwrap_or_default());
    match machine.calls.run(api.create(&PostParams::default(), &pod)).await {
        Ok(pod) => {
            record.next += 1;
            tell(
                machine,
                job,
                Happening::normal("SuccessfulCreate", format!("Created pod: {}", pod.name_any())),
            );
            if let Some(uid) = pod.uid() {
                record.pods.entry(uid).or_insert_with(|| Arc::new(pod));
            }
            true
        }
        Err(error) if error.is_conflict() => {
            record.next += 1;
            false
        }
        Err(error) => {
            tell(machine, job, Happening::warning("FailedCreate", format!("Error creating: {error}")));
            false
        }
    }
}

async fn delete_pod(machine: &Machine, pod: &Pod) -> bool {
    let api = machine.within::<Pod>(&pod.namespace().unwrap_or_default());
    let parameters =
        DeleteParams::default().preconditions(Preconditions { uid: pod.uid(), resource_version: None });
    match machine.calls.run(api.delete(&pod.name_any(), &parameters)).await {
        Ok(_) => true,
        Err(error) => error.is_not_found() || error.is_conflict(),
    }
}

async fn remove_job(machine: &Machine, job: &Job) -> bool {
    let api = machine.within::<Job>(&job.namespace().unwrap_or_default());
    let parameters =
        DeleteParams::background().preconditions(Preconditions { uid: job.uid(), resource_version: None });
    match machine.calls.run(api.delete(&job.name_any(), &parameters)).await {
        Ok(_) => true,
        Err(error) => error.is_not_found() || error.is_conflict(),
    }
}

fn tell(machine: &Machine, job: &Job, happening: Happening) {
    machine.events.component("job-controller").record(&job.object_ref(&()), happening);
}

/// The job's pod of that number.
fn pod(job: &Job, number: u32) -> Option<Pod> {
    let template = job.spec.as_ref()?.template.clone();
    let (name, uid) = (job.name_any(), job.uid()?);
    let mut pod = Pod { spec: template.spec, ..Pod::default() };
    let meta = template.metadata.unwrap_or_default();
    pod.metadata.annotations = meta.annotations;
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.extend(meta.labels.into_iter().flatten());
    for (key, value) in [
        ("batch.kubernetes.io/job-name", &name),
        ("job-name", &name),
        ("batch.kubernetes.io/controller-uid", &uid),
        ("controller-uid", &uid),
    ] {
        labels.insert(key.to_owned(), value.clone());
    }
    pod.metadata.name = Some(format!("{name}-{}", suffix(&uid, number)));
    pod.metadata.namespace = job.namespace();
    pod.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "batch/v1".to_owned(),
        kind: "Job".to_owned(),
        name,
        uid,
        controller: Some(true),
        block_owner_deletion: Some(true),
    }]);
    Some(pod)
}

/// Five characters, of those that Kubernetes itself makes names of.
fn suffix(uid: &str, number: u32) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let digest = Sha256::new().chain_update(uid).chain_update(number.to_be_bytes()).finalize();
    digest.iter().take(5).map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jobs_pod_carries_the_template_and_its_job() {
        let job: Job = serde_json::from_value(json!({
            "metadata": {"name": "servers", "namespace": "ns", "uid": "u"},
            "spec": {"template": {
                "metadata": {"labels": {"app": "x"}, "annotations": {"a": "b"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]},
            }},
        }))
        .unwrap();
        let made = pod(&job, 0).unwrap();
        assert_eq!(made.name_any(), pod(&job, 0).unwrap().name_any());
        assert_ne!(made.name_any(), pod(&job, 1).unwrap().name_any());
        assert!(made.name_any().starts_with("servers-") && made.name_any().len() == "servers-".len() + 5);
        assert_eq!(made.labels().get("batch.kubernetes.io/job-name").map(String::as_str), Some("servers"));
        assert_eq!(made.labels().get("app").map(String::as_str), Some("x"));
        assert_eq!(made.annotations().get("a").map(String::as_str), Some("b"));
        let owner = &made.owner_references()[0];
        assert_eq!((owner.uid.as_str(), owner.controller), ("u", Some(true)));
        assert_eq!(made.spec.unwrap().containers.len(), 1);
    }
}
