//! Changes of the cluster that the gateway is told of, and what it makes of them.

use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use gluetun_gateway::session::claim::{Claim, micro_time};
use gluetun_gateway::session::pod::pod_name;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::cluster::{Cluster, new_claim};
use super::gateway::{Cpu, Gateway};
use super::stats::Samples;

/// Requests of ours at once.
const AT_ONCE: usize = 32;

/// CPU time of one change of each kind.
#[derive(Default)]
pub struct Cost {
    pub claim: Option<Duration>,
    pub pod: Option<Duration>,
    pub session: Option<Sessions>,
}

/// What sessions cost that come and go.
pub struct Sessions {
    pub cpu: Duration,
    /// From the claim to its pod.
    pub pod: Samples,
}

/// The share of a core that it uses when nothing happens.
pub async fn cpu_at_rest(gateway: &Gateway, length: Duration) -> f64 {
    let (cpu, begun) = (gateway.cpu(), Instant::now());
    tokio::time::sleep(length).await;
    gateway.cpu().since(cpu).total().as_secs_f64() / begun.elapsed().as_secs_f64()
}

/// What one of `count` changes has cost, without what it would have used anyway.
pub fn each(cpu: Cpu, at_rest: f64, took: Duration, count: u32) -> Duration {
    cpu.total().saturating_sub(took.mul_f64(at_rest)) / count.max(1)
}

/// Sends `rate` requests a second for so long; how many that were.
async fn at_a_rate<F: Future<Output = ()>>(rate: u32, length: Duration, request: impl Fn(usize) -> F) -> u32 {
    let begun = Instant::now();
    let mut running = FuturesUnordered::new();
    let mut sent = 0_u32;
    let mut tick = tokio::time::interval(Duration::from_millis(2));
    while begun.elapsed() < length {
        while f64::from(sent) < f64::from(rate) * begun.elapsed().as_secs_f64() && running.len() < AT_ONCE {
            running.push(request(sent as usize));
            sent += 1;
        }
        tokio::select! {
            _ = tick.tick() => {}
            Some(()) = running.next() => {}
        }
    }
    while running.next().await.is_some() {}
    sent
}

/// A name of many: never one beside the last.
fn pick(names: &[String], n: usize) -> &str {
    &names[n * 7919 % names.len()]
}

/// Claims are renewed, as by another replica.
pub async fn renew(cluster: &Cluster, rate: u32, length: Duration) -> u32 {
    at_a_rate(rate, length, |n| async move {
        let patch = json!({ "spec": { "renewTime": micro_time(SystemTime::now()) } });
        merge(&patch, |params, patch| async move {
            cluster.leases.patch(pick(&cluster.claims, n), &params, &patch).await.expect("it is there");
        })
        .await;
    })
    .await
}

/// Pods change in a way that means nothing.
pub async fn touch_pods(cluster: &Cluster, rate: u32, length: Duration) -> u32 {
    at_a_rate(rate, length, |n| async move {
        let patch = json!({ "metadata": { "annotations": { "bench": n.to_string() } } });
        merge(&patch, |params, patch| async move {
            cluster.pods.patch(pick(&cluster.pod_names, n), &params, &patch).await.expect("it is there");
        })
        .await;
    })
    .await
}

async fn merge<'a, F: Future<Output = ()>>(
    patch: &'a Value,
    send: impl FnOnce(PatchParams, Patch<&'a Value>) -> F,
) {
    send(PatchParams::default(), Patch::Merge(patch)).await;
}

/// Sessions that come, get a pod and go, one after the other.
pub async fn sessions(cluster: &Cluster, gateway: &Gateway, count: usize) -> Sessions {
    let mut pod = Samples::default();
    let cpu = gateway.cpu();
    for n in 0..count {
        let key = cluster.key(&format!("demo-country-se-session-new{n}"));
        let lease = new_claim(&key, Duration::from_secs(300));
        let lease = cluster.leases.create(&PostParams::default(), &lease).await.expect("a claim");
        let claimed = Instant::now();
        let claim = Claim::read(&lease).expect("a claim");
        let name = pod_name(&claim.uid, 0);
        until(cluster, &name, true).await;
        pod.push(claimed.elapsed());
        cluster.leases.delete(&claim.name, &DeleteParams::default()).await.expect("it is there");
        until(cluster, &name, false).await;
    }
    let cpu = gateway.cpu().since(cpu).total() / u32::try_from(count).expect("not that many");
    Sessions { cpu, pod }
}

/// Waits until there is a pod of that name, or none.
async fn until(cluster: &Cluster, name: &str, there: bool) {
    let begun = Instant::now();
    while cluster.pods.get_opt(name).await.expect("an answer").is_some() != there {
        assert!(begun.elapsed() < Duration::from_secs(30), "the leader does nothing about {name}");
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
}
