//! Deletions as kube-apiserver does them: preconditions, grace, owners and orphans.

use serde_json::json;

use super::*;
use crate::simulator::api::store::Change;

fn world(kind: Kind, object: Value) -> Store {
    let store = Store::new();
    store.commit(kind, "ns", "x", None, Commit::Put(object)).unwrap();
    store
}

fn pod(node: &str, phase: &str) -> Store {
    let mut pod = json!({"metadata": {"name": "x", "uid": "u", "generation": 1},
                         "spec": {"terminationGracePeriodSeconds": 30}, "status": {"phase": phase}});
    if !node.is_empty() {
        pod["spec"]["nodeName"] = json!(node);
    }
    world(Kind::Pod, pod)
}

fn options(body: &Value) -> DeleteOptions {
    DeleteOptions::parse(&Query::default(), body.to_string().as_bytes()).unwrap()
}

fn remove(store: &Store, kind: Kind, body: &Value) -> Result<Deleted, Failure> {
    delete(store, Place { kind, namespace: "ns", name: "x" }, &options(body))
}

/// The grace period that the pod has after a deletion; nothing if it is gone.
fn grace_after(store: &Store, body: &Value) -> Option<i64> {
    remove(store, Kind::Pod, body).unwrap();
    store
        .get(Kind::Pod, "ns", "x")
        .map(|pod| pod.value["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap())
}

#[test]
fn a_running_pod_waits_for_its_kubelet() {
    let store = pod("n", "Running");
    assert_eq!(grace_after(&store, &json!({"gracePeriodSeconds": 5})), Some(5));
    let marked = store.get(Kind::Pod, "ns", "x").unwrap();
    let deadline = age::parse(&marked.value["metadata"]["deletionTimestamp"]).unwrap();
    assert_eq!(marked.value["metadata"]["generation"], 2);
    // Longer, the same or unsaid: no change.
    for body in [json!({"gracePeriodSeconds": 50}), json!({"gracePeriodSeconds": 5}), json!({})] {
        assert_eq!(grace_after(&store, &body), Some(5));
    }
    assert_eq!(store.get(Kind::Pod, "ns", "x").unwrap().version, marked.version);
    assert_eq!(grace_after(&store, &json!({"gracePeriodSeconds": 2})), Some(2));
    let shorter = store.get(Kind::Pod, "ns", "x").unwrap();
    let sooner = age::parse(&shorter.value["metadata"]["deletionTimestamp"]).unwrap();
    assert_eq!(deadline.duration_since(sooner).as_secs(), 3);
    assert_eq!(grace_after(&store, &json!({"gracePeriodSeconds": -5})), Some(1));
    assert_eq!(grace_after(&store, &json!({"gracePeriodSeconds": 0})), None);
    assert_eq!(remove(&store, Kind::Pod, &json!({})).unwrap_err().code, 404);
}

#[test]
fn the_pods_own_grace_is_the_default() {
    assert_eq!(grace_after(&pod("n", "Running"), &json!({})), Some(30));
}

#[test]
fn pods_that_run_nowhere_go_at_once() {
    for store in [pod("", "Pending"), pod("n", "Failed"), pod("n", "Succeeded")] {
        let before = store.version();
        assert_eq!(grace_after(&store, &json!({"gracePeriodSeconds": 5})), None);
        // As the real one does it: marked first, then removed.
        let (events, _) = store.events(Kind::Pod, before, 10).unwrap();
        let changes: Vec<Change> = events.iter().map(|event| event.change).collect();
        assert_eq!(changes, [Change::Modified, Change::Deleted]);
        assert_eq!(events[1].object.value["metadata"]["deletionGracePeriodSeconds"], 0);
    }
}

#[test]
fn preconditions() {
    let store = pod("n", "Running");
    let conflict = |preconditions: Value| {
        let refused = remove(&store, Kind::Pod, &json!({"preconditions": preconditions})).unwrap_err();
        assert_eq!((refused.code, refused.reason.as_deref()), (409, Some("Conflict")));
        refused.message
    };
    assert!(conflict(json!({"uid": "zz"})).contains("the UID in the precondition (zz) does not match"));
    assert!(
        conflict(json!({"resourceVersion": "1"})).contains("the ResourceVersion in the precondition (1)")
    );
    let version = store.get(Kind::Pod, "ns", "x").unwrap().version.to_string();
    let right = json!({"preconditions": {"uid": "u", "resourceVersion": version}, "gracePeriodSeconds": 0});
    assert_eq!(grace_after(&store, &right), None);
}

#[test]
fn finalizers_hold_the_object() {
    let store = world(Kind::Lease, json!({"metadata": {"name": "x", "uid": "u", "finalizers": ["a/b"]}}));
    assert!(matches!(remove(&store, Kind::Lease, &json!({})), Ok(Deleted::Object(_))));
    let held = store.get(Kind::Lease, "ns", "x").unwrap();
    assert_eq!(held.value["metadata"]["deletionGracePeriodSeconds"], 0);
    assert!(matches!(remove(&store, Kind::Lease, &json!({})), Ok(Deleted::Object(_))));
    let plain = world(Kind::Lease, json!({"metadata": {"name": "x", "uid": "u"}}));
    assert!(matches!(remove(&plain, Kind::Lease, &json!({})), Ok(Deleted::Gone(_))));
    let pod = world(Kind::Pod, json!({"metadata": {"name": "x", "finalizers": ["a/b"]}, "spec": {}}));
    assert_eq!(grace_after(&pod, &json!({"gracePeriodSeconds": 0})), Some(0));
}

#[test]
fn options_are_in_the_body_or_the_query() {
    let query = |text: &str| DeleteOptions::parse(&Query::parse(text), b"");
    assert_eq!(query("gracePeriodSeconds=0&propagationPolicy=Background").unwrap().grace, Some(0));
    assert_eq!(query("gracePeriodSeconds=x").unwrap_err().code, 400);
    assert_eq!(query("propagationPolicy=Zz").unwrap_err().code, 422);
    assert!(options(&json!({"kind": "DeleteOptions", "dryRun": ["All"]})).dry_run);
    let refused = DeleteOptions::parse(&Query::default(), br#"{"kind":"Pod","apiVersion":"v1"}"#);
    assert_eq!(refused.unwrap_err().code, 400);
    assert_eq!(DeleteOptions::parse(&Query::default(), b"{x").unwrap_err().code, 400);
}

#[test]
fn a_dry_run_deletes_nothing() {
    let store = pod("n", "Running");
    let Ok(Deleted::Object(shown)) = remove(&store, Kind::Pod, &json!({"dryRun": ["All"]})) else { panic!() };
    assert_eq!(shown.value["metadata"]["deletionGracePeriodSeconds"], 30);
    assert!(store.get(Kind::Pod, "ns", "x").unwrap().value["metadata"].get("deletionTimestamp").is_none());
}

#[test]
fn collections_and_namespaces() {
    let store = Store::new();
    for (name, label) in [("a", "1"), ("b", "2"), ("c", "1")] {
        let value = json!({"metadata": {"namespace": "ns", "name": name, "labels": {"l": label}}});
        store.commit(Kind::ConfigMap, "ns", name, None, Commit::Put(value)).unwrap();
    }
    let selector = Selector::parse(Kind::ConfigMap, "l=1", "").unwrap();
    let gone = collection(&store, Kind::ConfigMap, "ns", &selector, &DeleteOptions::default()).unwrap();
    assert_eq!(gone.len(), 2);
    assert!(store.get(Kind::ConfigMap, "ns", "b").is_some());
    store.commit(Kind::Namespace, "", "ns", None, Commit::Put(json!({"metadata": {"name": "ns"}}))).unwrap();
    let namespace = |name| Place { kind: Kind::Namespace, namespace: "", name };
    delete(&store, namespace("ns"), &DeleteOptions::default()).unwrap();
    assert!(store.get(Kind::ConfigMap, "ns", "b").is_none());
    assert_eq!(delete(&store, namespace("default"), &DeleteOptions::default()).unwrap_err().code, 403);
}
