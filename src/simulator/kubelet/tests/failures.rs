//! Pods with which something is wrong: by themselves, by an injected fault, or by a blow.

use super::*;
use crate::simulator::kubelet::{Blow, Fault, Pods, Rule};

use k8s_openapi::api::core::v1::Secret;

#[tokio::test]
async fn a_container_that_ends_takes_its_pod_with_it() {
    let lab = Lab::with(110, |options| options.phase_lag = Duration::from_millis(300)).await;
    for (name, code, phase, reason) in [("bad", 7, "Failed", "Error"), ("good", 0, "Succeeded", "Completed")]
    {
        lab.pod(name, &format!("exit {code}")).await;
        let early = lab.until(name, |pod| terminated(pod).is_object()).await;
        assert_eq!(early["status"]["phase"], "Running", "the container's end is known first");
        let ended = lab.until_phase(name, phase).await;
        assert_eq!(
            (&terminated(&ended)["exitCode"], &terminated(&ended)["reason"]),
            (&json!(code), &json!(reason))
        );
        assert_eq!(first(&ended)["ready"], false);
        lab.delete(name, 5).await;
        lab.until_gone::<Pod>(name).await;
    }
    lab.end().await;
}

#[tokio::test]
async fn a_container_is_restarted_as_its_policy_says() {
    let lab = Lab::new(111).await;
    for (name, act, policy) in [("always", "exit 0", "Always"), ("failing", "exit 4", "OnFailure")] {
        let mut wanted = pod(name, act);
        wanted["spec"]["restartPolicy"] = json!(policy);
        lab.create::<Pod>(wanted).await;
        let waiting = lab.until_waiting(name, "CrashLoopBackOff").await;
        assert!(
            waiting["message"].as_str().unwrap().contains("restarting failed container=gluetun"),
            "{waiting}"
        );
        let again = lab.until(name, |pod| first(pod)["restartCount"].as_i64() >= Some(2)).await;
        assert!(first(&again)["lastState"]["terminated"].is_object());
        lab.event(name, "BackOff").await;
        lab.delete(name, 5).await;
        lab.until_gone::<Pod>(name).await;
    }
    let mut done = pod("done", "exit 0");
    done["spec"]["restartPolicy"] = json!("OnFailure");
    lab.create::<Pod>(done).await;
    assert_eq!(first(&lab.until_phase("done", "Succeeded").await)["restartCount"], 0);
    lab.end().await;
}

#[tokio::test]
async fn a_missing_secret_holds_a_pod_up_until_it_comes() {
    let lab = Lab::new(112).await;
    let mut wanted = pod("a", "serve");
    let key = json!({"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "nope", "key": "key"}}});
    wanted["spec"]["containers"][0]["env"].as_array_mut().unwrap().push(key);
    lab.create::<Pod>(wanted.clone()).await;
    let waiting = lab.until_waiting("a", "CreateContainerConfigError").await;
    assert_eq!(waiting["message"], "secret \"nope\" not found");
    let event = lab.event("a", "Failed").await;
    assert_eq!(event.message.as_deref(), Some("Error: secret \"nope\" not found"));
    lab.create::<Secret>(json!({"metadata": {"name": "nope"}, "stringData": {"other": "x"}})).await;
    let text = format!("couldn't find key key in Secret {}/nope", lab.namespace());
    lab.until("a", |pod| first(pod)["state"]["waiting"]["message"] == text).await;
    // Deleted while pending: as if its container had been lost.
    wanted["metadata"]["name"] = json!("b");
    lab.create::<Pod>(wanted).await;
    lab.until_waiting("b", "CreateContainerConfigError").await;
    lab.delete("b", 5).await;
    lab.until_gone::<Pod>("b").await;
    let patch = kube::api::Patch::Merge(json!({"stringData": {"key": "k"}}));
    lab.api::<Secret>().patch("nope", &Default::default(), &patch).await.unwrap();
    lab.until_ready("a").await;
    assert_eq!(lab.programs.spec("a").var("KEY"), Some("k"));
    lab.end().await;
}

#[tokio::test]
async fn an_unschedulable_pod_says_so_and_is_bound_when_it_can_be() {
    let lab = Lab::new(113).await;
    let rule = lab.kubelet.faults().inject(Pods::Named("a".into()), Fault::Unschedulable { message: None });
    lab.pod("a", "serve").await;
    let pending = lab.until("a", |pod| condition(pod, "PodScheduled")["status"] == "False").await;
    assert_eq!(
        (&pending["status"]["phase"], &pending["spec"]["nodeName"]),
        (&json!("Pending"), &Value::Null)
    );
    let scheduled = condition(&pending, "PodScheduled");
    assert_eq!(scheduled["reason"], "Unschedulable");
    assert!(scheduled["message"].as_str().unwrap().starts_with("0/1 nodes are available"));
    lab.event("a", "FailedScheduling").await;
    lab.kubelet.faults().remove(rule);
    lab.until_ready("a").await;
    lab.event("a", "Scheduled").await;

    let mut elsewhere = pod("b", "serve");
    elsewhere["spec"]["nodeSelector"] = json!({"kubernetes.io/os": "windows"});
    lab.create::<Pod>(elsewhere).await;
    lab.until("b", |pod| condition(pod, "PodScheduled")["reason"] == "Unschedulable").await;
    lab.delete("b", 5).await;
    lab.until_gone::<Pod>("b").await;
    let mut here = pod("c", "serve");
    here["spec"]["nodeSelector"] = json!({"kubernetes.io/os": "linux"});
    lab.create::<Pod>(here).await;
    lab.until_ready("c").await;
    lab.end().await;
}

#[tokio::test]
async fn a_failed_pull_shows_in_two_ways_in_turn() {
    let lab = Lab::new(114).await;
    let rule = lab.kubelet.faults().inject(Pods::Server("se-a".into()), Fault::ImagePull { message: None });
    lab.pod("a", "serve").await;
    let pull = lab.until_waiting("a", "ErrImagePull").await;
    assert!(pull["message"].as_str().unwrap().ends_with("qmcgaw/gluetun:v3.41.3: not found"), "{pull}");
    let back_off = lab.until_waiting("a", "ImagePullBackOff").await;
    assert!(back_off["message"].as_str().unwrap().starts_with("Back-off pulling image"), "{back_off}");
    lab.until_waiting("a", "ErrImagePull").await;
    lab.event("a", "BackOff").await;
    lab.event_that("a", "Failed", |event| event.message.as_deref() == Some("Error: ErrImagePull")).await;
    lab.kubelet.faults().remove(rule);
    lab.until_ready("a").await;
    lab.end().await;
}

#[tokio::test]
async fn mounts_and_sandboxes_that_fail_show_as_events_only() {
    let lab = Lab::new(115).await;
    for (name, fault, reason) in [
        ("a", Fault::FailedMount { message: None }, "FailedMount"),
        ("b", Fault::FailedSandbox { message: None }, "FailedCreatePodSandBox"),
    ] {
        let rule = lab.kubelet.faults().inject(Pods::Named(name.into()), fault);
        lab.pod(name, "serve").await;
        lab.until_waiting(name, "ContainerCreating").await;
        let event = lab.event_that(name, reason, |event| event.count >= Some(2)).await;
        assert_eq!(event.type_.as_deref(), Some("Warning"));
        let pending = lab.until_phase(name, "Pending").await;
        assert!(
            pending["status"]["podIP"].is_null()
                && lab.programs.started.lock().unwrap().iter().all(|s| s.pod_name != name)
        );
        lab.kubelet.faults().remove(rule);
        lab.until_ready(name).await;
    }
    lab.end().await;
}

#[tokio::test]
async fn containers_end_by_faults_as_often_as_these_say() {
    let lab = Lab::new(116).await;
    let faults = lab.kubelet.faults();
    let rule = |fault| Rule { pods: Pods::Any, times: Some(1), fault };
    faults.add(rule(Fault::OutOfMemory { after_ms: 0 }));
    lab.pod("oom", "serve").await;
    let oom = lab.until_phase("oom", "Failed").await;
    assert_eq!(
        (&terminated(&oom)["exitCode"], &terminated(&oom)["reason"]),
        (&json!(137), &json!("OOMKilled"))
    );
    let log = vec!["ERROR VPN settings: private key is not valid".to_owned()];
    faults.add(rule(Fault::Exit { code: 1, log: log.clone(), after_ms: 200 }));
    lab.pod("exit", "serve").await;
    let exit = lab.until_phase("exit", "Failed").await;
    assert_eq!(terminated(&exit)["exitCode"], 1);
    assert_eq!(
        lab.api::<Pod>().logs("exit", &Default::default()).await.unwrap(),
        format!("up\n{}\n", log[0])
    );
    faults.add(rule(Fault::SlowStart { delay_ms: 400 }));
    lab.pod("slow", "serve").await;
    lab.until_waiting("slow", "ContainerCreating").await;
    lab.until_ready("slow").await;
    lab.pod("well", "serve").await;
    lab.until_ready("well").await;
    lab.end().await;
}

#[tokio::test]
async fn a_pod_that_is_never_ready_is_so_until_the_rule_goes() {
    let lab = Lab::new(117).await;
    let rule = lab.kubelet.faults().inject(Pods::Any, Fault::NeverReady);
    lab.pod("a", "serve").await;
    lab.event("a", "Unhealthy").await;
    let mut unprobed = pod("b", "serve");
    unprobed["spec"]["containers"][0].as_object_mut().unwrap().remove("readinessProbe");
    lab.create::<Pod>(unprobed).await;
    let running = lab.until_phase("b", "Running").await;
    assert_eq!(condition(&running, "Ready")["status"], "False");
    lab.kubelet.faults().remove(rule);
    lab.until_ready("a").await;
    lab.until_ready("b").await;
    lab.end().await;
}

#[tokio::test]
async fn a_stuck_pod_ends_only_when_it_is_released() {
    let lab = Lab::new(118).await;
    lab.pod("a", "serve").await;
    lab.until_ready("a").await;
    let rule = lab.kubelet.faults().inject(Pods::Named("a".into()), Fault::StuckTerminating);
    lab.delete("a", 1).await;
    // Another pod's whole life passes meanwhile.
    lab.pod("b", "serve").await;
    lab.until_ready("b").await;
    lab.delete("b", 1).await;
    lab.until_gone::<Pod>("b").await;
    let stuck = lab.until("a", |pod| pod["metadata"]["deletionTimestamp"].is_string()).await;
    assert_eq!(
        (&stuck["status"]["phase"], &condition(&stuck, "Ready")["status"]),
        (&json!("Running"), &json!("True"))
    );
    assert_eq!(lab.programs.running.borrow().get("a"), Some(&1));
    lab.kubelet.faults().remove(rule);
    lab.until_gone::<Pod>("a").await;
    lab.end().await;
}

#[tokio::test]
async fn blows_strike_running_pods() {
    let lab = Lab::new(119).await;
    for (name, blow, code, reason) in [
        ("killed", Blow::Kill, 137, "Error"),
        ("oom", Blow::OutOfMemory, 137, "OOMKilled"),
        ("exit", Blow::Exit { code: 9, log: vec!["so long".into()] }, 9, "Error"),
    ] {
        lab.pod(name, "deaf").await;
        lab.until_ready(name).await;
        assert_eq!(lab.kubelet.strike(&Pods::Server(format!("se-{name}")), &blow), 1);
        let failed = lab.until_phase(name, "Failed").await;
        assert_eq!(
            (&terminated(&failed)["exitCode"], &terminated(&failed)["reason"]),
            (&json!(code), &json!(reason))
        );
        assert_eq!(lab.kubelet.strike(&Pods::Named(name.into()), &Blow::Kill), 0, "it has ended");
    }
    assert!(lab.api::<Pod>().logs("exit", &Default::default()).await.unwrap().ends_with("so long\n"));
    lab.pod("evicted", "serve").await;
    lab.until_ready("evicted").await;
    lab.kubelet.strike(&Pods::Any, &Blow::Evict { message: None });
    let evicted = lab.until("evicted", |pod| terminated(pod).is_object()).await;
    assert_eq!(
        (&evicted["status"]["phase"], &evicted["status"]["reason"]),
        (&json!("Failed"), &json!("Evicted"))
    );
    lab.event("evicted", "Evicted").await;
    assert!(!lab.kubelet.kill("nobody"));
    lab.end().await;
}

#[tokio::test]
async fn a_lost_pod_keeps_its_last_status_until_its_node_is_back() {
    let lab = Lab::new(120).await;
    for name in ["a", "b"] {
        lab.pod(name, "serve").await;
        lab.until_ready(name).await;
    }
    assert_eq!(lab.kubelet.strike(&Pods::Any, &Blow::Lose), 2);
    lab.programs.until_running("a", 0).await;
    lab.programs.until_running("b", 0).await;
    lab.delete("a", 1).await;
    lab.pod("c", "serve").await;
    lab.until_ready("c").await;
    let lost = lab.until("a", |pod| pod["metadata"]["deletionTimestamp"].is_string()).await;
    assert_eq!(condition(&lost, "Ready")["status"], "True", "nobody says otherwise");
    // Forced away, as an operator does with the pods of a lost node.
    lab.delete("a", 0).await;
    lab.until_gone::<Pod>("a").await;
    assert_eq!(lab.kubelet.strike(&Pods::Named("b".into()), &Blow::Recover), 1);
    let found = lab.until_phase("b", "Failed").await;
    assert_eq!(terminated(&found)["reason"], "ContainerStatusUnknown");
    lab.end().await;
}

#[tokio::test]
async fn a_pods_own_deadline_ends_it() {
    let lab = Lab::new(121).await;
    let mut wanted = pod("a", "serve");
    wanted["spec"]["activeDeadlineSeconds"] = json!(1);
    lab.create::<Pod>(wanted).await;
    let failed = lab.until("a", |pod| terminated(pod).is_object()).await;
    assert_eq!(
        (&failed["status"]["phase"], &failed["status"]["reason"]),
        (&json!("Failed"), &json!("DeadlineExceeded"))
    );
    assert_eq!(terminated(&failed)["exitCode"], 1);
    lab.end().await;
}
