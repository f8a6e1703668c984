//! Pods that live as they should: from their creation to their deletion.

use super::*;
use crate::simulator::kubelet::{Fault, Pods};

use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret};
use kube::api::LogParams;
use kube::runtime::watcher;
use tokio_util::task::AbortOnDropHandle;

/// Every state of the pods of the namespace that a watch shows, in order.
fn record(lab: &Lab) -> (Arc<Mutex<Vec<Value>>>, AbortOnDropHandle<()>) {
    let states = Arc::new(Mutex::new(Vec::new()));
    let (api, seen) = (lab.api::<Pod>(), Arc::clone(&states));
    let task = tokio::spawn(async move {
        let mut events = std::pin::pin!(watcher(api, watcher::Config::default()));
        while let Ok(Some(event)) = events.try_next().await {
            if let watcher::Event::Apply(pod) = event {
                seen.lock().unwrap().push(json!(pod));
            }
        }
    });
    (states, AbortOnDropHandle::new(task))
}

#[tokio::test]
async fn a_pod_starts_gets_ready_is_deleted_and_tells_of_it() {
    let lab = Lab::new(100).await;
    let (states, _recording) = record(&lab);
    lab.create::<Secret>(json!({"metadata": {"name": "keys"}, "stringData": {"key": "k"}})).await;
    lab.create::<ConfigMap>(json!({"metadata": {"name": "map"}, "data": {"M": "m"}})).await;
    let mut wanted = pod("a", "serve");
    let container = &mut wanted["spec"]["containers"][0];
    container["args"] = json!(["--key=$(KEY)"]);
    container["envFrom"] = json!([{"configMapRef": {"name": "map"}}]);
    container["env"].as_array_mut().unwrap().extend([
        json!({"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "key"}}}),
        json!({"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}),
    ]);
    lab.create::<Pod>(wanted).await;
    let ready = lab.until_ready("a").await;

    assert_eq!(ready["status"]["phase"], "Running");
    assert_eq!(ready["status"]["podIP"], "127.100.0.1");
    assert_eq!(ready["status"]["podIPs"], json!([{"ip": "127.100.0.1"}]));
    assert_eq!(ready["status"]["hostIP"], "127.0.0.1");
    assert!(ready["status"]["startTime"].is_string());
    for type_ in ["PodScheduled", "PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"] {
        assert_eq!(condition(&ready, type_)["status"], "True", "{type_}");
        assert!(condition(&ready, type_)["lastTransitionTime"].is_string(), "{type_}");
    }
    let status = first(&ready);
    assert_eq!(
        (&status["ready"], &status["started"], &status["restartCount"]),
        (&json!(true), &json!(true), &json!(0))
    );
    assert!(status["containerID"].as_str().unwrap().starts_with("containerd://"));
    assert!(status["state"]["running"]["startedAt"].is_string());
    let spec = lab.programs.spec("a");
    let vars = ["KEY", "IP", "M"].map(|name| spec.var(name));
    assert_eq!(vars, [Some("k"), Some("127.100.0.1"), Some("m")]);
    assert_eq!(spec.argv, ["--key=k"]);

    let mut names = Vec::new();
    for reason in ["Scheduled", "Pulled", "Created", "Started"] {
        let event = lab.event("a", reason).await;
        assert_eq!(event.type_.as_deref(), Some("Normal"), "{reason}");
        assert_eq!(event.involved_object.uid.as_deref(), ready["metadata"]["uid"].as_str());
        names.push(event.name_any());
    }
    assert!(names.is_sorted(), "kubectl shows events of one second in the order of their names: {names:?}");
    let started = lab.event("a", "Started").await;
    assert_eq!(started.message.as_deref(), Some("Started container gluetun"));
    assert_eq!(started.involved_object.field_path.as_deref(), Some("spec.containers{gluetun}"));

    lab.delete("a", 5).await;
    lab.until_gone::<Pod>("a").await;
    lab.programs.until_running("a", 0).await;
    lab.event("a", "Killing").await;
    // The address and `running` come in one update; the last states are those of a real kubelet.
    let states = states.lock().unwrap().clone();
    let with_address = states.iter().find(|pod| pod["status"]["podIP"].is_string()).unwrap();
    assert_eq!(with_address["status"]["phase"], "Running");
    assert!(first(with_address)["state"]["running"].is_object());
    let last = states.last().unwrap();
    assert!(last["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(last["status"]["phase"], "Failed");
    assert_eq!((&terminated(last)["exitCode"], &terminated(last)["reason"]), (&json!(1), &json!("Error")));
    let updates = states.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).count();
    assert!(updates <= 4, "created, bound, running, ready: {updates}");
    lab.end().await;
}

#[tokio::test]
async fn each_pod_has_the_lowest_free_address() {
    let lab = Lab::new(101).await;
    for (name, ip) in [("a", "127.101.0.1"), ("b", "127.101.0.2"), ("c", "127.101.0.3")] {
        lab.pod(name, "serve").await;
        assert_eq!(lab.until_ready(name).await["status"]["podIP"], ip);
    }
    lab.delete("b", 5).await;
    lab.until_gone::<Pod>("b").await;
    lab.pod("d", "serve").await;
    assert_eq!(lab.until_ready("d").await["status"]["podIP"], "127.101.0.2");
    lab.end().await;
}

#[tokio::test]
async fn logs_come_through_the_api_server() {
    let lab = Lab::new(102).await;
    lab.pod("a", "serve").await;
    lab.until_ready("a").await;
    let api = lab.api::<Pod>();
    assert_eq!(api.logs("a", &LogParams::default()).await.unwrap(), "up\n");
    let follow = LogParams { follow: true, ..LogParams::default() };
    let mut lines = api.log_stream("a", &follow).await.unwrap().lines();
    assert_eq!(lines.try_next().await.unwrap().as_deref(), Some("up"));
    lab.delete("a", 5).await;
    assert_eq!(lines.try_next().await.unwrap().as_deref(), Some("bye"));
    assert_eq!(lines.try_next().await.unwrap(), None, "it ends with the container");

    lab.pod("b", "exit 3").await;
    lab.until_phase("b", "Failed").await;
    let tail = LogParams { tail_lines: Some(1), ..LogParams::default() };
    assert_eq!(api.logs("b", &tail).await.unwrap(), "ERROR leaving with 3\n");
    let limit = LogParams { limit_bytes: Some(4), ..LogParams::default() };
    assert_eq!(api.logs("b", &limit).await.unwrap(), "up\nE");
    lab.end().await;
}

#[tokio::test]
async fn readiness_follows_the_container() {
    let lab = Lab::new(103).await;
    lab.programs.healthy.send_replace(false);
    let mut wanted = pod("a", "serve");
    wanted["spec"]["containers"][0]["readinessProbe"]["failureThreshold"] = json!(1);
    lab.create::<Pod>(wanted).await;
    let unhealthy = lab.event("a", "Unhealthy").await;
    assert_eq!(
        unhealthy.message.as_deref(),
        Some("Readiness probe failed: HTTP probe failed with statuscode: 500")
    );
    assert_eq!(unhealthy.type_.as_deref(), Some("Warning"));
    lab.event_that("a", "Unhealthy", |event| event.count >= Some(2)).await;
    let running = lab.until_phase("a", "Running").await;
    assert_eq!(
        (&first(&running)["ready"], &condition(&running, "Ready")["reason"]),
        (&json!(false), &json!("ContainersNotReady"))
    );
    lab.programs.healthy.send_replace(true);
    lab.until_ready("a").await;
    lab.programs.healthy.send_replace(false);
    lab.until("a", |pod| condition(pod, "Ready")["status"] == "False").await;
    lab.end().await;
}

#[tokio::test]
async fn a_startup_probe_comes_first_and_may_end_the_container() {
    let lab = Lab::new(104).await;
    lab.programs.healthy.send_replace(false);
    let mut wanted = pod("a", "serve");
    let probe = json!({"httpGet": {"port": 9999}, "periodSeconds": 1, "failureThreshold": 2});
    wanted["spec"]["containers"][0]["startupProbe"] = probe;
    lab.create::<Pod>(wanted.clone()).await;
    let failed = lab.until_phase("a", "Failed").await;
    assert_eq!(terminated(&failed)["exitCode"], 1, "it had its SIGTERM");
    let killing = lab.event("a", "Killing").await;
    assert_eq!(killing.message.as_deref(), Some("Container gluetun failed startup probe"));
    lab.programs.healthy.send_replace(true);
    wanted["metadata"]["name"] = json!("b");
    lab.create::<Pod>(wanted).await;
    assert_eq!(first(&lab.until_ready("b").await)["started"], true);
    lab.end().await;
}

#[tokio::test]
async fn further_containers_run_beside_the_first() {
    let lab = Lab::new(105).await;
    let mut wanted = pod("a", "serve");
    let side = json!({"name": "side", "image": "busybox"});
    wanted["spec"]["containers"].as_array_mut().unwrap().push(side.clone());
    let mut init = side;
    init["name"] = json!("init");
    wanted["spec"]["initContainers"] = json!([init]);
    lab.create::<Pod>(wanted).await;
    let ready = lab.until_ready("a").await;
    let statuses = ready["status"]["containerStatuses"].as_array().unwrap();
    assert!(statuses.iter().all(|status| status["ready"] == true && status["state"]["running"].is_object()));
    let init = &ready["status"]["initContainerStatuses"][0];
    assert_eq!(init["state"]["terminated"]["reason"], "Completed");
    assert_eq!(lab.programs.started.lock().unwrap().len(), 1);
    lab.end().await;
}

#[tokio::test]
async fn a_deaf_container_is_killed_after_its_grace_period() {
    let lab = Lab::new(106).await;
    lab.pod("a", "deaf").await;
    lab.until_ready("a").await;
    let (states, _recording) = record(&lab);
    lab.delete("a", 1).await;
    lab.until_gone::<Pod>("a").await;
    assert_eq!(terminated(states.lock().unwrap().last().unwrap())["exitCode"], 137);
    lab.end().await;
}

#[tokio::test]
async fn a_container_whose_object_has_gone_is_ended() {
    let lab = Lab::new(107).await;
    for (name, act) in [("a", "serve"), ("b", "deaf")] {
        lab.pod(name, act).await;
        lab.until_ready(name).await;
        lab.delete(name, 0).await;
        lab.until_gone::<Pod>(name).await;
        lab.programs.until_running(name, 0).await;
    }
    // One of the same name is another pod.
    lab.pod("a", "serve").await;
    lab.until_ready("a").await;
    lab.end().await;
}

#[tokio::test]
async fn a_kubelet_that_ends_leaves_objects_and_its_successor_finds_containers_missing() {
    let lab = Lab::new(108).await;
    lab.pod("a", "serve").await;
    let mut restarting = pod("b", "serve");
    restarting["spec"]["restartPolicy"] = json!("Always");
    lab.create::<Pod>(restarting).await;
    lab.until_ready("a").await;
    let before = lab.until_ready("b").await;
    lab.kubelet.stop().await;
    lab.programs.until_running("a", 0).await;
    lab.programs.until_running("b", 0).await;
    let left = json!(lab.api::<Pod>().get("a").await.unwrap());
    assert_eq!(left["status"]["phase"], "Running", "nothing is said of it");
    let successor = start(&lab.client, &lab.programs, &lab.options).await;
    let failed = lab.until_phase("a", "Failed").await;
    assert_eq!(terminated(&failed)["exitCode"], 137);
    assert_eq!(terminated(&failed)["reason"], "ContainerStatusUnknown");
    lab.until("b", |pod| first(pod)["restartCount"] == 1 && first(pod)["ready"] == true).await;
    // What has ended stays so, whatever else happens on the node.
    lab.kubelet.stop().await;
    successor.stop().await;
    let third = start(&lab.client, &lab.programs, &lab.options).await;
    third.faults().inject(Pods::Any, Fault::NeverReady);
    lab.until("b", |pod| first(pod)["restartCount"] == 2 && first(pod)["ready"] == false).await;
    third.faults().clear();
    lab.until("b", |pod| first(pod)["ready"] == true).await;
    assert_eq!(lab.until_phase("a", "Failed").await, failed);
    assert_eq!(before["metadata"]["uid"], lab.until_ready("b").await["metadata"]["uid"]);
    let nodes = Api::<Node>::all(lab.client.clone());
    let node = json!(nodes.get(&lab.options.node_name).await.unwrap());
    assert_eq!(condition(&node, "Ready")["status"], "True");
    assert!(node["spec"]["taints"].is_null(), "{node:#}");
    third.stop().await;
    lab.end().await;
}
