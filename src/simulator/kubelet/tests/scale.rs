//! Many pods at once.

use super::*;

use std::collections::HashSet;
use std::time::Instant;

use futures::{StreamExt, stream};

const PODS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_pods_start_and_end_together() {
    let lab = Lab::new(150).await;
    let begin = Instant::now();
    let names: Vec<_> = (0..PODS).map(|n| format!("pod-{n}")).collect();
    stream::iter(&names).map(|name| lab.pod(name, "serve")).buffer_unordered(16).collect::<Vec<_>>().await;
    let created = begin.elapsed();
    let until_all = |is_so: fn(&[Value]) -> bool| {
        let lab = &lab;
        async move {
            let looking = async {
                loop {
                    let pods = lab.api::<Pod>().list(&ListParams::default()).await.unwrap();
                    let pods: Vec<_> = pods.items.iter().map(|pod| json!(pod)).collect();
                    if is_so(&pods) {
                        return pods;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            timeout(PATIENCE, looking).await.expect("all pods get there")
        }
    };
    let is_ready = |pods: &[Value]| pods.iter().all(|pod| condition(pod, "Ready")["status"] == "True");
    let pods = until_all(is_ready).await;
    let ready = begin.elapsed();
    let addresses: HashSet<_> = pods.iter().map(|pod| pod["status"]["podIP"].to_string()).collect();
    assert_eq!((pods.len(), addresses.len()), (PODS, PODS));
    let begin = Instant::now();
    let delete = DeleteParams::default().grace_period(5);
    lab.api::<Pod>().delete_collection(&delete, &ListParams::default()).await.unwrap();
    until_all(<[Value]>::is_empty).await;
    println!(
        "{PODS} pods: created in {created:?}, ready after {ready:?}, gone {:?} after deletion",
        begin.elapsed()
    );
    lab.end().await;
}
