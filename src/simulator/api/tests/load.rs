//! Many objects, many clients, and a client that does not read.

use std::collections::HashSet;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kube::ResourceExt;
use kube::api::{ListParams, WatchEvent, WatchParams};

use super::super::WatchFilter;
use super::*;

/// Objects that are created at once: as many as sessions start together in the worst case.
const AT_ONCE: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_creates_at_once_are_all_seen_in_order() {
    let server = server().await;
    let leases: Api<Lease> = Api::default_namespaced(client(&server));
    let mut watches = Vec::new();
    for _ in 0..10 {
        watches.push(leases.watch(&WatchParams::default(), "0").await.unwrap().boxed());
    }
    let names: Vec<String> = (0..AT_ONCE).map(|n| format!("gw-{n}")).collect();
    let params = PostParams::default();
    let objects: Vec<Lease> = names.iter().map(|name| lease(name)).collect();
    let mut creates: FuturesUnordered<_> =
        objects.iter().map(|object| leases.create(&params, object)).collect();
    while let Some(created) = within("a create", creates.next()).await {
        created.unwrap();
    }
    for watch in &mut watches {
        let (mut seen, mut last) = (HashSet::new(), 0);
        while seen.len() < AT_ONCE {
            let event = within("an event", watch.next()).await.unwrap().unwrap();
            let WatchEvent::Added(lease) = event else { panic!("{event:?}") };
            let version: u64 = lease.resource_version().unwrap().parse().unwrap();
            assert!(version > last);
            last = version;
            seen.insert(lease.name_any());
        }
    }
    assert_eq!(leases.list(&ListParams::default()).await.unwrap().items.len(), AT_ONCE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_does_not_read_holds_nobody_up() {
    let server = server().await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let mut stuck = socket.connect(server.addr()).await.unwrap();
    let request =
        format!("GET /api/v1/namespaces/{NAMESPACE}/configmaps?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n");
    stuck.write_all(request.as_bytes()).await.unwrap();
    until("the watch is open", || server.faults().open_watches(&WatchFilter::of("configmaps")) == 1).await;
    // More than the two socket buffers hold (4 MiB to send, as Linux grows them by default).
    const OBJECTS: usize = 24;
    let filler = "x".repeat(256 << 10);
    for n in 0..OBJECTS {
        let body = json!({"metadata": {"name": format!("c{n}")}, "data": {"a": filler}}).to_string();
        let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
        assert_eq!(raw(&server, "POST", &path, &body).await.0, 201);
    }
    // It still gets all of it, once it reads.
    let mut seen = 0;
    let mut buffer = vec![0; 1 << 20];
    while seen < OBJECTS * filler.len() {
        let read = within("the events", stuck.read(&mut buffer)).await.unwrap();
        assert!(read > 0, "the watch ended after {seen} bytes");
        seen += read;
    }
}
