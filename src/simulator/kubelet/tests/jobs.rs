//! Jobs, and what is deleted when its owners are gone.

use super::*;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;

fn job(name: &str, act: &str, spec: Value) -> Value {
    let mut template = pod("", act);
    template["metadata"].as_object_mut().unwrap().remove("name");
    template["spec"]["containers"][0].as_object_mut().unwrap().remove("readinessProbe");
    let mut spec = spec;
    spec["template"] = template;
    json!({"metadata": {"name": name}, "spec": spec})
}

async fn until_condition(lab: &Lab, name: &str, type_: &str) -> Value {
    let is_so = |job: Option<&Job>| job.is_some_and(|job| condition(&json!(job), type_)["status"] == "True");
    match timeout(PATIENCE, await_condition(lab.api::<Job>(), name, is_so)).await {
        Ok(job) => json!(job.unwrap().unwrap()),
        Err(_) => panic!("{name} is not {type_}: {:#}", json!(lab.api::<Job>().get_opt(name).await.unwrap())),
    }
}

/// The pods of the job, sorted by name.
async fn pods_of(lab: &Lab, job: &str) -> Vec<Pod> {
    let of = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
    let mut pods = lab.api::<Pod>().list(&of).await.unwrap().items;
    pods.sort_by_key(ResourceExt::name_any);
    pods
}

#[tokio::test]
async fn a_job_completes_and_its_pods_log_can_be_read() {
    let lab = Lab::with(130, |options| options.job_lag = Duration::from_millis(200)).await;
    lab.create::<Job>(job("good", "exit 0", json!({"backoffLimit": 0}))).await;
    let done = until_condition(&lab, "good", "Complete").await;
    assert_eq!((&done["status"]["succeeded"], &done["status"]["ready"]), (&json!(1), &json!(0)));
    assert!(done["status"]["completionTime"].is_string() && done["status"]["startTime"].is_string());
    let pods = pods_of(&lab, "good").await;
    assert_eq!(pods.len(), 1);
    let log = lab.api::<Pod>().logs(&pods[0].name_any(), &Default::default()).await.unwrap();
    assert_eq!(log, "up\nERROR leaving with 0\n");
    lab.event("good", "SuccessfulCreate").await;
    lab.event("good", "Completed").await;

    // Its pods go with it, unless the deletion does not say so: then they stay, with no owner.
    lab.create::<Job>(job("left", "exit 0", json!({"backoffLimit": 0}))).await;
    until_condition(&lab, "left", "Complete").await;
    let left = pods_of(&lab, "left").await.remove(0).name_any();
    lab.api::<Job>().delete("left", &DeleteParams::default()).await.unwrap();
    assert!(lab.api::<Pod>().get(&left).await.unwrap().owner_references().is_empty());
    lab.api::<Job>().delete("good", &DeleteParams::background()).await.unwrap();
    lab.until_gone::<Pod>(&pods[0].name_any()).await;
    lab.end().await;
}

#[tokio::test]
async fn a_job_fails_when_its_pods_have_failed_often_enough() {
    let lab = Lab::new(131).await;
    lab.create::<Job>(job("bad", "exit 1", json!({"backoffLimit": 1, "ttlSecondsAfterFinished": 1}))).await;
    let failed = until_condition(&lab, "bad", "Failed").await;
    assert_eq!(condition(&failed, "Failed")["reason"], "BackoffLimitExceeded");
    assert_eq!(failed["status"]["failed"], 2);
    assert_eq!(pods_of(&lab, "bad").await.len(), 2);
    lab.event("bad", "BackoffLimitExceeded").await;
    let pods = pods_of(&lab, "bad").await;
    lab.until_gone::<Job>("bad").await;
    for pod in pods {
        lab.until_gone::<Pod>(&pod.name_any()).await;
    }
    lab.end().await;
}

#[tokio::test]
async fn a_jobs_deadline_ends_its_pods_and_a_deleted_pod_is_replaced() {
    let lab = Lab::new(132).await;
    lab.create::<Job>(job("late", "serve", json!({"activeDeadlineSeconds": 6}))).await;
    lab.event("late", "SuccessfulCreate").await;
    let pod = pods_of(&lab, "late").await.remove(0).name_any();
    lab.until_ready(&pod).await;
    lab.delete(&pod, 1).await;
    lab.event_that("late", "SuccessfulCreate", |event| {
        event.message.as_deref() != Some(&format!("Created pod: {pod}"))
    })
    .await;
    let failed = until_condition(&lab, "late", "Failed").await;
    assert_eq!(condition(&failed, "Failed")["reason"], "DeadlineExceeded");
    assert_eq!(failed["status"]["active"].as_i64().unwrap_or(0), 0);
    lab.end().await;
}

#[tokio::test]
async fn pods_go_with_their_last_owner() {
    let lab = Lab::new(133).await;
    let owner = |kind: &str, version: &str, name: &str, uid: &str| json!({"apiVersion": version, "kind": kind, "name": name, "uid": uid});
    let mut leases = Vec::new();
    for name in ["one", "two"] {
        let lease = lab.create::<Lease>(json!({"metadata": {"name": name}})).await;
        leases.push(owner("Lease", "coordination.k8s.io/v1", name, &lease.uid().unwrap()));
    }
    let map = lab.create::<ConfigMap>(json!({"metadata": {"name": "map"}})).await;
    let map = owner("ConfigMap", "v1", "map", &map.uid().unwrap());
    let mut foreign = leases[1].clone();
    foreign["uid"] = json!("00000000-0000-0000-0000-000000000000");
    for (name, owners) in [
        ("of-one", json!([leases[0]])),
        ("of-two", json!([leases[1]])),
        ("of-both", json!([leases[0], leases[1]])),
        ("of-map", json!([map])),
        ("of-nobody", json!([foreign])),
    ] {
        let mut pod = pod(name, "serve");
        pod["metadata"]["ownerReferences"] = owners;
        lab.create::<Pod>(pod).await;
    }
    // The uid decides, not the name.
    lab.until_gone::<Pod>("of-nobody").await;
    lab.api::<Lease>().delete("one", &DeleteParams::default()).await.unwrap();
    lab.until_gone::<Pod>("of-one").await;
    lab.api::<ConfigMap>().delete("map", &DeleteParams::default()).await.unwrap();
    lab.until_gone::<Pod>("of-map").await;
    lab.until_ready("of-two").await;
    lab.until_ready("of-both").await;
    lab.api::<Lease>().delete("two", &DeleteParams::default()).await.unwrap();
    lab.until_gone::<Pod>("of-two").await;
    lab.until_gone::<Pod>("of-both").await;
    lab.end().await;
}
