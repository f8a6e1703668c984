//! Creates, updates and patches as kube-apiserver answers them.

use serde_json::json;

use super::*;

const PLAIN: WriteOptions =
    WriteOptions { dry_run: false, validation: FieldValidation::Warn, has_manager: false };
const DRY: WriteOptions = WriteOptions { dry_run: true, ..PLAIN };

fn make(store: &Store, kind: Kind, body: &Value) -> Result<Value, Failure> {
    let decoded = decode::body(kind, body.to_string().as_bytes(), FieldValidation::Warn)?;
    Ok(create(store, kind, "ns", decoded, PLAIN)?.object.value.clone())
}

fn put(store: &Store, kind: Kind, name: &str, body: &Value) -> Result<Written, Failure> {
    let decoded = decode::body(kind, body.to_string().as_bytes(), FieldValidation::Warn)?;
    update(store, Place { kind, namespace: "ns", name }, None, decoded, PLAIN)
}

fn change(store: &Store, kind: Kind, name: &str, format: Format, body: &Value) -> Result<Written, Failure> {
    let place = Place { kind, namespace: "ns", name };
    patch(store, place, None, format, body.to_string().as_bytes(), PLAIN)
}

fn merge(store: &Store, name: &str, body: &Value) -> Result<Written, Failure> {
    change(store, Kind::Lease, name, Format::Merge, body)
}

fn lease(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"holderIdentity": "h", "leaseDurationSeconds": 15}})
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}})
}

fn answer(result: &Result<Written, Failure>) -> (u16, &str) {
    match result {
        Ok(written) => (if written.created { 201 } else { 200 }, ""),
        Err(failure) => (failure.code, failure.reason.as_deref().unwrap_or_default()),
    }
}

#[test]
fn creating_twice_is_already_exists() {
    let store = Store::new();
    make(&store, Kind::Lease, &lease("l")).unwrap();
    let again = make(&store, Kind::Lease, &lease("l")).unwrap_err();
    assert_eq!((again.code, again.reason.as_deref()), (409, Some("AlreadyExists")));
    assert!(store.get(Kind::Namespace, "", "ns").is_some());
}

#[test]
fn what_a_create_refuses() {
    let store = Store::new();
    let with = |metadata: Value| make(&store, Kind::Lease, &json!({"metadata": metadata})).unwrap_err().code;
    assert_eq!(with(json!({})), 422);
    assert_eq!(with(json!({"name": "A"})), 422);
    assert_eq!(with(json!({"name": "a", "namespace": "other"})), 400);
    assert_eq!(with(json!({"name": "a", "resourceVersion": "5"})), 500);
    assert!(store.get(Kind::Lease, "ns", "a").is_none());
    assert!(store.get(Kind::Namespace, "", "ns").is_none());
}

#[test]
fn names_are_generated_until_one_is_free() {
    let store = Store::new();
    let body = json!({"metadata": {"generateName": "x-"}});
    let one = make(&store, Kind::Lease, &body).unwrap();
    let two = make(&store, Kind::Lease, &body).unwrap();
    assert_ne!(one["metadata"]["name"], two["metadata"]["name"]);
}

#[test]
fn a_dry_run_leaves_nothing() {
    let store = Store::new();
    let decoded = decode::body(Kind::Pod, pod("p").to_string().as_bytes(), FieldValidation::Warn).unwrap();
    let before = store.version();
    let written = create(&store, Kind::Pod, "ns", decoded, DRY).unwrap();
    assert_eq!(written.object.value["status"]["phase"], "Pending");
    assert_eq!(store.version(), before);
    assert!(WriteOptions::parse(&Query::parse("dryRun=All"), "CreateOptions").unwrap().dry_run);
    assert_eq!(WriteOptions::parse(&Query::parse("dryRun=Some"), "CreateOptions").unwrap_err().code, 422);
}

#[test]
fn merge_patches_with_uid_and_version() {
    let store = Store::new();
    let made = make(&store, Kind::Lease, &lease("l")).unwrap();
    let (uid, version) = (&made["metadata"]["uid"], &made["metadata"]["resourceVersion"]);
    let renew = |metadata: Value| {
        merge(
            &store,
            "l",
            &json!({"metadata": metadata, "spec": {"renewTime": "2026-01-01T00:00:00.000001Z"}}),
        )
    };
    assert_eq!(answer(&renew(json!({"uid": "other"}))), (422, "Invalid"));
    assert_eq!(answer(&renew(json!({"uid": uid, "resourceVersion": "1"}))), (409, "Conflict"));
    assert_eq!(answer(&renew(json!({"resourceVersion": "abc"}))), (500, ""));
    let renewed = renew(json!({"uid": uid, "resourceVersion": version})).unwrap();
    assert_eq!(renewed.object.value["spec"]["renewTime"], "2026-01-01T00:00:00.000001Z");
    assert_eq!(answer(&renew(json!({"resourceVersion": version}))), (409, "Conflict"));
    assert_eq!(answer(&merge(&store, "zz", &json!({}))), (404, "NotFound"));
    assert_eq!(answer(&merge(&store, "l", &json!({"kind": "Pod"}))), (422, "Invalid"));
    assert_eq!(answer(&merge(&store, "l", &json!({"metadata": {"name": "m"}}))), (400, "BadRequest"));
    assert_eq!(answer(&merge(&store, "l", &json!({"metadata": {"namespace": "m"}}))), (400, "BadRequest"));
    let bad = merge(&store, "l", &json!({"spec": {"renewTime": "2026-01-01T00:00:00Z"}})).unwrap_err();
    assert!(bad.message.starts_with(" \"\" is invalid: patch: Invalid value: "), "{}", bad.message);
    assert_eq!(answer(&merge(&store, "l", &json!({"spec": {"leaseDurationSeconds": 0}}))), (422, "Invalid"));
}

#[test]
fn what_changes_nothing_is_not_written() {
    let store = Store::new();
    make(&store, Kind::Lease, &lease("l")).unwrap();
    let body = json!({"metadata": {"annotations": {"a": "b"}}});
    let first = merge(&store, "l", &body).unwrap().object.version;
    let before = store.version();
    assert_eq!(merge(&store, "l", &body).unwrap().object.version, first);
    assert_eq!(store.version(), before);
    // Nor can creation time or generation be changed: they are simply kept.
    let body = json!({"metadata": {"creationTimestamp": "2020-01-01T00:00:00Z", "generation": 7}});
    assert_eq!(merge(&store, "l", &body).unwrap().object.version, first);
}

#[test]
fn leases_are_replaced_by_version_only() {
    let store = Store::new();
    assert_eq!(answer(&put(&store, Kind::Lease, "l", &lease("l"))), (201, ""));
    let unconditional = put(&store, Kind::Lease, "l", &lease("l")).unwrap_err();
    assert!(unconditional.message.ends_with("must be specified for an update"), "{}", unconditional.message);
    let mut body = lease("l");
    body["metadata"]["resourceVersion"] = json!("1");
    assert_eq!(answer(&put(&store, Kind::Lease, "l", &body)), (409, "Conflict"));
    let version = store.get(Kind::Lease, "ns", "l").unwrap().version;
    body["metadata"]["resourceVersion"] = json!(version.to_string());
    body["spec"]["holderIdentity"] = json!("me");
    assert_eq!(answer(&put(&store, Kind::Lease, "l", &body)), (200, ""));
    body["metadata"]["uid"] = json!("other");
    assert_eq!(answer(&put(&store, Kind::Lease, "l", &body)), (409, "Conflict"));
    assert_eq!(answer(&put(&store, Kind::Lease, "m", &body)), (400, "BadRequest"));
    body["metadata"]["name"] = json!("m");
    let created = put(&store, Kind::Lease, "m", &body).unwrap_err();
    assert!(created.message.contains("UID in precondition: other, UID in object meta: "));
    assert_eq!(answer(&put(&store, Kind::Pod, "p", &pod("p"))), (404, "NotFound"));
}

#[test]
fn a_pods_spec_is_frozen_and_its_status_apart() {
    let store = Store::new();
    let made = make(&store, Kind::Pod, &pod("p")).unwrap();
    // Leaving defaults out is no change.
    let same = put(&store, Kind::Pod, "p", &pod("p")).unwrap();
    assert_eq!(json!(same.object.version.to_string()), made["metadata"]["resourceVersion"]);
    let moved = change(&store, Kind::Pod, "p", Format::Merge, &json!({"spec": {"nodeName": "n"}}));
    assert_eq!(answer(&moved), (422, "Invalid"));
    let ignored = change(&store, Kind::Pod, "p", Format::Merge, &json!({"status": {"phase": "Failed"}}));
    assert_eq!(ignored.unwrap().object.value["status"]["phase"], "Pending");
    let image = json!({"spec": {"containers": [{"name": "c", "image": "j:1"}]}});
    let updated = change(&store, Kind::Pod, "p", Format::Strategic, &image).unwrap();
    assert_eq!(updated.object.value["metadata"]["generation"], 2);
    let place = Place { kind: Kind::Pod, namespace: "ns", name: "p" };
    let body = json!({"spec": {"nodeName": "zz"}, "status": {"phase": "Running", "podIP": "127.42.0.1"}});
    let status = Some(Subresource::Status);
    let written = patch(&store, place, status, Format::Merge, body.to_string().as_bytes(), PLAIN).unwrap();
    assert_eq!(written.object.value["status"]["phase"], "Running");
    assert!(written.object.value["spec"].get("nodeName").is_none());
}

#[test]
fn apply_creates_or_merges() {
    let store = Store::new();
    let apply = |body: &Value, options| {
        let place = Place { kind: Kind::ConfigMap, namespace: "ns", name: "c" };
        patch(&store, place, None, Format::Apply, body.to_string().as_bytes(), options)
    };
    let body =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}});
    assert_eq!(answer(&apply(&body, PLAIN)), (422, "Invalid"));
    let managed = WriteOptions { has_manager: true, ..PLAIN };
    assert_eq!(answer(&apply(&body, managed)), (201, ""));
    assert_eq!(answer(&apply(&json!({"data": {"b": "2"}}), managed)), (400, "BadRequest"));
    let more = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"b": "2"}});
    let merged = apply(&more, managed).unwrap();
    assert_eq!(merged.object.value["data"], json!({"a": "1", "b": "2"}));
    assert!(!merged.created);
}

#[test]
fn pods_are_bound_once() {
    let store = Store::new();
    make(&store, Kind::Pod, &pod("p")).unwrap();
    let bind = |name: &str, node: &str| {
        let body = json!({"metadata": {"name": name, "annotations": {"a": "b"}}, "target": {"name": node}});
        bind(&store, "ns", name, body.to_string().as_bytes(), PLAIN)
    };
    assert_eq!(bind("p", "").unwrap_err().code, 422);
    assert_eq!(bind("zz", "n").unwrap_err().code, 404);
    bind("p", "n").unwrap();
    let bound = store.get(Kind::Pod, "ns", "p").unwrap();
    assert_eq!(bound.value["spec"]["nodeName"], "n");
    assert_eq!(bound.value["status"]["conditions"][0]["type"], "PodScheduled");
    assert_eq!(bound.value["metadata"]["annotations"]["a"], "b");
    let again = bind("p", "m").unwrap_err();
    assert_eq!(again.code, 409);
    assert!(again.message.ends_with("pod p is already assigned to node \"n\""), "{}", again.message);
}

#[test]
fn events_of_both_forms_are_the_same_events() {
    let store = Store::new();
    let event = json!({"metadata": {"name": "e"}, "regarding": {"kind": "Pod", "name": "p", "namespace": "ns"},
                       "reason": "R", "note": "n", "type": "Normal", "action": "A",
                       "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "rc",
                       "reportingInstance": "ri"});
    make(&store, Kind::EventV1, &event).unwrap();
    let series = json!({"series": {"count": 3, "lastObservedTime": "2026-01-01T00:00:05.000000Z"}});
    change(&store, Kind::EventV1, "e", Format::Merge, &series).unwrap();
    let core = &store.get(Kind::Event, "ns", "e").unwrap().value;
    assert_eq!((&core["message"], &core["series"]["count"]), (&json!("n"), &json!(3)));
}

#[test]
fn concurrent_patches_are_all_applied() {
    let store = Store::new();
    make(&store, Kind::Lease, &lease("l")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for n in 0..25 {
                    let key = format!("a{thread}-{n}");
                    merge(store, "l", &json!({"metadata": {"annotations": {key: "x"}}})).unwrap();
                }
            });
        }
    });
    let stored = store.get(Kind::Lease, "ns", "l").unwrap();
    assert_eq!(map(&stored.value, &["metadata", "annotations"]).unwrap().len(), 100);
}
