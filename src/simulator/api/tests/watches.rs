//! kube's watchers and reflectors: what they make of changes, and of watches that break.

use futures::StreamExt;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, WatchEvent, WatchParams};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};

use super::super::{RequestLog, Verb, WatchFilter};
use super::*;
use crate::simulator::api::Match;

/// A reflector that runs until the test ends.
fn reflect(client: Client, config: watcher::Config) -> Store<Pod> {
    let (store, writer) = reflector::store();
    let pods: Api<Pod> = Api::default_namespaced(client);
    // Without back-off, so that a test need not wait for it.
    let stream = watcher(pods, config).reflect(writer);
    tokio::spawn(stream.for_each(|_| std::future::ready(())));
    store
}

fn named(store: &Store<Pod>, name: &str) -> Option<std::sync::Arc<Pod>> {
    store.get(&ObjectRef::new(name).within(NAMESPACE))
}

async fn label(pods: &Api<Pod>, name: &str, value: &str) {
    let patch = json!({"metadata": {"labels": {"step": value}}});
    pods.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

fn watches_served(requests: &RequestLog) -> usize {
    requests.count(&Match::on(Verb::Watch, "pods"))
}

#[tokio::test]
async fn a_reflector_follows() {
    let server = server().await;
    let pods: Api<Pod> = Api::default_namespaced(client(&server));
    create_pod(&pods, "before").await;
    let store = reflect(client(&server), watcher::Config::default().labels("app=gluetun-vpn"));
    within("ready", store.wait_until_ready()).await.unwrap();
    assert!(named(&store, "before").is_some());
    create_pod(&pods, "after").await;
    until("the new pod shows", || named(&store, "after").is_some()).await;
    label(&pods, "after", "2").await;
    until("the change shows", || {
        named(&store, "after").is_some_and(|pod| pod.labels().get("step").is_some_and(|step| step == "2"))
    })
    .await;
    let unselect = json!({"metadata": {"labels": {"app": "other"}}});
    pods.patch("after", &PatchParams::default(), &Patch::Merge(&unselect)).await.unwrap();
    until("what is no longer selected goes", || named(&store, "after").is_none()).await;
    pods.delete("before", &Default::default()).await.unwrap();
    until("the deleted pod goes", || named(&store, "before").is_none()).await;
}

#[tokio::test]
async fn streaming_lists_work_too() {
    let server = server().await;
    let pods: Api<Pod> = Api::default_namespaced(client(&server));
    create_pod(&pods, "a").await;
    let store = reflect(client(&server), watcher::Config::default().streaming_lists());
    within("ready", store.wait_until_ready()).await.unwrap();
    assert!(named(&store, "a").is_some());
    assert_eq!(server.requests().count(&Match::on(Verb::List, "pods")), 0);
    create_pod(&pods, "b").await;
    until("the new pod shows", || named(&store, "b").is_some()).await;
}

#[tokio::test]
async fn a_dropped_watch_is_resumed_without_a_new_list() {
    let server = server().await;
    let pods: Api<Pod> = Api::default_namespaced(client(&server));
    let store = reflect(client(&server), watcher::Config::default());
    within("ready", store.wait_until_ready()).await.unwrap();
    let faults = server.faults();
    until("the watch is open", || faults.open_watches(&WatchFilter::of("pods")) == 1).await;
    for round in 1..=3 {
        faults.drop_watches(&WatchFilter::of("pods"));
        create_pod(&pods, &format!("p{round}")).await;
        until("the pod shows", || named(&store, &format!("p{round}")).is_some()).await;
    }
    assert_eq!(server.requests().count(&Match::on(Verb::List, "pods")), 1);
    assert!(watches_served(&server.requests()) >= 4);
}

#[tokio::test]
async fn an_expired_watch_makes_the_client_list_again() {
    let server = server().await;
    let pods: Api<Pod> = Api::default_namespaced(client(&server));
    create_pod(&pods, "a").await;
    let store = reflect(client(&server), watcher::Config::default());
    within("ready", store.wait_until_ready()).await.unwrap();
    let faults = server.faults();
    until("the watch is open", || faults.open_watches(&WatchFilter::of("pods")) == 1).await;
    faults.expire_watches(&WatchFilter::of("pods"));
    until("a second list", || server.requests().count(&Match::on(Verb::List, "pods")) == 2).await;
    create_pod(&pods, "b").await;
    until("the pod shows", || named(&store, "b").is_some()).await;
    // The new list's version has not expired: there is no third.
    assert_eq!(server.requests().count(&Match::on(Verb::List, "pods")), 2);
}

#[tokio::test]
async fn pods_and_leases_can_lag_each_other() {
    let server = server().await;
    let pods: Api<Pod> = Api::default_namespaced(client(&server));
    let leases: Api<Lease> = Api::default_namespaced(client(&server));
    let faults = server.faults();
    let params = WatchParams::default();
    let mut pod_events = pods.watch(&params, "0").await.unwrap().boxed();
    let mut lease_events = leases.watch(&params, "0").await.unwrap().boxed();
    faults.stall_watches(&WatchFilter::of("pods"));
    for name in ["a", "b"] {
        create_pod(&pods, name).await;
        leases.create(&PostParams::default(), &lease(name)).await.unwrap();
    }
    for name in ["a", "b"] {
        let event = within("a lease", lease_events.next()).await.unwrap().unwrap();
        assert!(matches!(event, WatchEvent::Added(lease) if lease.name_any() == name));
    }
    // Both leases have come through a stream that was opened later; the pods' is still silent.
    assert!(futures::poll!(pod_events.next()).is_pending());
    faults.release_watches(&WatchFilter::of("pods"));
    for name in ["a", "b"] {
        let event = within("a pod", pod_events.next()).await.unwrap().unwrap();
        assert!(matches!(event, WatchEvent::Added(pod) if pod.name_any() == name));
    }
}

#[tokio::test]
async fn a_version_that_left_the_history_is_gone() {
    let server = server().await;
    let pods: Api<Pod> = Api::default_namespaced(client(&server));
    let mut events = pods.watch(&WatchParams::default(), "1").await.unwrap().boxed();
    let event = within("an event", events.next()).await.unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Error(status) if status.code == 410 && status.reason == "Expired"));
    assert!(within("the end", events.next()).await.is_none());
}

#[tokio::test]
async fn a_watch_ends_at_its_timeout_with_a_bookmark() {
    let server = server().await;
    let pods: Api<Pod> = Api::default_namespaced(client(&server));
    let made = create_pod(&pods, "a").await;
    let params = WatchParams::default().timeout(1);
    let mut events = pods.watch(&params, &made.resource_version().unwrap()).await.unwrap().boxed();
    let event = within("an event", events.next()).await.unwrap().unwrap();
    let WatchEvent::Bookmark(bookmark) = event else { panic!("{event:?}") };
    let version: u64 = bookmark.metadata.resource_version.parse().unwrap();
    assert!(version >= made.resource_version().unwrap().parse().unwrap());
    assert!(within("the end", events.next()).await.is_none());
    assert_eq!(server.faults().open_watches(&WatchFilter::all()), 0);
}
