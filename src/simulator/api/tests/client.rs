//! kube's `Api`: what it makes of the answers.

use futures::{AsyncBufReadExt, TryStreamExt};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Event as CoreEvent, Namespace, Node, Secret};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, LogParams, Patch, PatchParams, Preconditions};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Resource, core::PartialObjectMeta};
use tokio::sync::mpsc;

use super::super::{Effect, Match, Refusal, Rule, Verb};
use super::*;

#[tokio::test]
async fn pods_from_create_to_delete() {
    let server = server().await;
    let pods: Api<Pod> = Api::default_namespaced(client(&server));
    let made = create_pod(&pods, "a").await;
    assert_eq!(made.status.as_ref().unwrap().phase.as_deref(), Some("Pending"));
    assert_eq!(made.namespace().as_deref(), Some(NAMESPACE));
    let again = pods.create(&PostParams::default(), &pod("a")).await.unwrap_err();
    assert_eq!(status_of(again), (409, "AlreadyExists".into()));
    assert!(pods.get_opt("zz").await.unwrap().is_none());
    let list = pods.list(&ListParams::default().labels("app=gluetun-vpn")).await.unwrap();
    assert_eq!(list.items.len(), 1);
    assert!(list.metadata.resource_version.unwrap().parse::<u64>().unwrap() > 0);
    let stamp = json!({"metadata": {"annotations": {"a": "b"}}});
    let patched = pods.patch("a", &PatchParams::default(), &Patch::Merge(&stamp)).await.unwrap();
    assert_eq!(patched.annotations()["a"], "b");
    let status = json!({"status": {"phase": "Running", "podIP": "127.42.0.1"}});
    let running = pods.patch_status("a", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    assert_eq!(running.status.unwrap().pod_ips.unwrap()[0].ip, "127.42.0.1");
    let wrong = Preconditions { uid: Some("zz".into()), resource_version: None };
    let refused = pods.delete("a", &DeleteParams::default().preconditions(wrong)).await.unwrap_err();
    assert_eq!(status_of(refused), (409, "Conflict".into()));
    let right = Preconditions { uid: made.uid(), resource_version: None };
    let gone = pods.delete("a", &DeleteParams::default().grace_period(5).preconditions(right)).await;
    assert!(gone.unwrap().left().unwrap().metadata.deletion_timestamp.is_some());
    assert_eq!(status_of(pods.get("a").await.unwrap_err()), (404, "NotFound".into()));
}

#[tokio::test]
async fn leases_are_claimed_renewed_and_lost() {
    let server = server().await;
    let leases: Api<Lease> = Api::default_namespaced(client(&server));
    let params = PatchParams::default();
    let made = leases.create(&PostParams::default(), &lease("gw-a")).await.unwrap();
    let renew =
        |uid: String| json!({"metadata": {"uid": uid}, "spec": {"renewTime": "2026-11-25T13:00:00.000001Z"}});
    let renewed = leases.patch("gw-a", &params, &Patch::Merge(renew(made.uid().unwrap()))).await.unwrap();
    assert!(renewed.spec.unwrap().renew_time.is_some());
    let other = leases.patch("gw-a", &params, &Patch::Merge(renew("zz".into()))).await.unwrap_err();
    assert_eq!(status_of(other), (422, "Invalid".into()));
    // The version that was read first is stale now, for a replacement and for a deletion.
    let stale = leases.replace("gw-a", &PostParams::default(), &made).await.unwrap_err();
    assert_eq!(status_of(stale), (409, "Conflict".into()));
    let old = Preconditions { resource_version: made.resource_version(), uid: None };
    let crossed = leases.delete("gw-a", &DeleteParams::default().preconditions(old)).await.unwrap_err();
    assert_eq!(status_of(crossed), (409, "Conflict".into()));
    let gone = leases.delete("gw-a", &DeleteParams::default()).await.unwrap().right().unwrap();
    assert_eq!(gone.details.unwrap().uid, made.uid().unwrap());
    let lost = leases.patch("gw-a", &params, &Patch::Merge(renew(made.uid().unwrap()))).await.unwrap_err();
    assert_eq!(status_of(lost), (404, "NotFound".into()));
}

#[tokio::test]
async fn other_kinds() {
    let server = server().await;
    let client = client(&server);
    let secrets: Api<Secret> = Api::default_namespaced(client.clone());
    let secret: Secret =
        serde_json::from_value(json!({"metadata": {"name": "s"}, "stringData": {"k": "v"}})).unwrap();
    let made = secrets.create(&PostParams::default(), &secret).await.unwrap();
    assert_eq!(made.data.unwrap()["k"].0, b"v");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "elsewhere");
    let apply =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}});
    maps.patch("c", &PatchParams::apply("tests"), &Patch::Apply(&apply)).await.unwrap();
    assert!(Api::<Namespace>::all(client.clone()).get_opt("elsewhere").await.unwrap().is_some());
    let jobs: Api<Job> = Api::default_namespaced(client.clone());
    let job: Job =
        serde_json::from_value(json!({"metadata": {"generateName": "servers-"}, "spec": {"template":
        {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}))
        .unwrap();
    let made = jobs.create(&PostParams::default(), &job).await.unwrap();
    assert!(made.name_any().starts_with("servers-"));
    assert_eq!(made.labels()["batch.kubernetes.io/job-name"], made.name_any());
    let partial: Api<PartialObjectMeta<Job>> = Api::default_namespaced(client.clone());
    assert_eq!(partial.list(&ListParams::default()).await.unwrap().items[0].name_any(), made.name_any());
    assert_eq!(client.apiserver_version().await.unwrap().major, "1");
    assert!(client.list_api_groups().await.unwrap().groups.iter().any(|group| group.name == "batch"));
}

#[tokio::test]
async fn pages_through_the_client() {
    let server = server().await;
    let pods: Api<Pod> = Api::default_namespaced(client(&server));
    for name in ["a", "b", "c"] {
        create_pod(&pods, name).await;
    }
    let first = pods.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!((first.items.len(), first.metadata.remaining_item_count), (2, Some(1)));
    let token = first.metadata.continue_.unwrap();
    let rest = pods.list(&ListParams::default().limit(2).continue_token(&token)).await.unwrap();
    assert_eq!(rest.items[0].name_any(), "c");
    let gone = pods.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
    assert_eq!(gone.left().unwrap().items.len(), 3);
}

#[tokio::test]
async fn recorded_events_are_what_kubectl_describe_reads() {
    let server = server().await;
    let client = client(&server);
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let pod = create_pod(&pods, "a").await;
    let reporter = Reporter { controller: "gluetun-gateway".into(), instance: Some("gateway-0".into()) };
    let recorder = Recorder::new(client.clone(), reporter);
    let event = Event {
        type_: EventType::Normal,
        reason: "Assigned".into(),
        note: Some("given to alice".into()),
        action: "Assign".into(),
        secondary: None,
    };
    for _ in 0..2 {
        recorder.publish(&event, &pod.object_ref(&())).await.unwrap();
    }
    let events: Api<CoreEvent> = Api::default_namespaced(client);
    let about = format!(
        "involvedObject.name=a,involvedObject.namespace={NAMESPACE},involvedObject.uid={}",
        pod.uid().unwrap()
    );
    let found = events.list(&ListParams::default().fields(&about)).await.unwrap().items;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].message.as_deref(), Some("given to alice"));
    assert_eq!(found[0].series.as_ref().unwrap().count, Some(2));
    let none = events.list(&ListParams::default().fields("involvedObject.name=b")).await.unwrap();
    assert!(none.items.is_empty());
}

/// A kubelet that answers with its own request line, then with what it is told to.
async fn kubelet() -> (SocketAddr, mpsc::UnboundedSender<&'static str>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (lines, receiver) = mpsc::unbounded_channel::<&'static str>();
    let receiver = std::sync::Arc::new(tokio::sync::Mutex::new(receiver));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let receiver = receiver.clone();
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let receiver = receiver.clone();
                async move {
                    if request.uri().path().ends_with("/waiting") {
                        let body = "container \"waiting\" in pod \"a\" is waiting to start";
                        let full = http_body_util::Full::new(bytes::Bytes::from(body)).boxed_unsync();
                        return http::Response::builder()
                            .status(400)
                            .body(full)
                            .map_err(std::io::Error::other);
                    }
                    let first = format!("{}\n", request.uri());
                    let rest = futures::stream::unfold(Some(first), move |first| {
                        let receiver = receiver.clone();
                        async move {
                            let line = match first {
                                Some(first) => first,
                                None => receiver.lock().await.recv().await?.to_owned(),
                            };
                            let frame = Frame::data(bytes::Bytes::from(line));
                            Some((Ok::<_, std::convert::Infallible>(frame), None))
                        }
                    });
                    Ok(http::Response::new(StreamBody::new(rest).boxed_unsync()))
                }
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
    });
    (address, lines)
}

#[tokio::test]
async fn logs_come_from_the_kubelet_piece_by_piece() {
    let server = server().await;
    let client = client(&server);
    let (address, lines) = kubelet().await;
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {
        "addresses": [{"type": "InternalIP", "address": address.ip().to_string()}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": address.port()}}}}))
    .unwrap();
    Api::<Node>::all(client.clone()).create(&PostParams::default(), &node).await.unwrap();
    let pods: Api<Pod> = Api::default_namespaced(client);
    let mut pod = pod("a");
    let spec = pod.spec.as_mut().unwrap();
    spec.node_name = Some("n".into());
    let mut second = spec.containers[0].clone();
    second.name = "waiting".into();
    spec.containers.push(second);
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let ask = |container: &str| LogParams {
        container: Some(container.into()),
        follow: true,
        tail_lines: Some(5),
        ..LogParams::default()
    };
    let mut log = within("log", pods.log_stream("a", &ask("gluetun"))).await.unwrap().lines();
    let first = within("first line", log.try_next()).await.unwrap().unwrap();
    assert_eq!(first, format!("/containerLogs/{NAMESPACE}/a/gluetun?follow=true&tailLines=5"));
    for line in ["one\n", "two\n"] {
        lines.send(line).unwrap();
        assert_eq!(within("a line", log.try_next()).await.unwrap().unwrap(), line.trim());
    }
    drop(lines);
    assert_eq!(within("the end", log.try_next()).await.unwrap(), None);
    let waiting = pods.logs("a", &ask("waiting")).await.unwrap_err();
    assert_eq!(status_of(waiting), (400, "BadRequest".into()));
    assert_eq!(status_of(pods.logs("a", &LogParams::default()).await.unwrap_err()).0, 400);
}

#[tokio::test]
async fn access_reviews_know_of_forbidding_rules() {
    let server = server().await;
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client(&server));
    let review: SelfSubjectAccessReview = serde_json::from_value(json!({"spec": {"resourceAttributes":
        {"verb": "create", "resource": "pods", "namespace": NAMESPACE}}}))
    .unwrap();
    let ask = || async {
        let answer = reviews.create(&PostParams::default(), &review).await.unwrap();
        answer.status.unwrap().allowed
    };
    assert!(ask().await);
    let refusal = Refusal::rbac(Verb::Create, "pods", "", NAMESPACE);
    let rule = server.faults().add(Rule::new(Match::on(Verb::Create, "pods"), Effect::Fail(refusal)));
    assert!(!ask().await);
    assert_eq!(server.faults().hits(rule), 0);
    server.faults().remove(rule);
    assert!(ask().await);
}

#[tokio::test]
async fn the_kubeconfig_is_one() {
    let server = server().await;
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&server.kubeconfig("ns")).unwrap();
    let options = kube::config::KubeConfigOptions::default();
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    assert_eq!(config.default_namespace, "ns");
    config.root_cert = Some(Vec::new());
    let client = Client::try_from(config).unwrap();
    assert!(Api::<Pod>::default_namespaced(client).get_opt("zz").await.unwrap().is_none());
}
