//! What the control path costs in a large cluster: `cargo bench --bench scale`. A cluster with 500 pods
//! and 10 000 claims is made, the gateway, as a process of its own, is restarted against it, left alone,
//! and then told of changes. It takes two minutes; with words after `--` only those parts are run:
//! `restart`, `idle`, `events`, `sessions`, and `real`, which is the first two against a real
//! kube-apiserver where `KUBEBUILDER_ASSETS` names one. `GATEWAY_BIN` measures another build.
//!
//! Times are reported and not judged; what must not happen at all is (exit code 1): requests to the API
//! server by a gateway that nobody uses, beside those that `docs/performance.md` names.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod cluster;
mod gateway;
mod load;
mod pods;
#[path = "../../tests/it/support/real.rs"]
mod real;
// Of which each bench uses a part.
#[allow(dead_code)]
#[path = "../overhead/stats.rs"]
mod stats;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cluster::{Cluster, Size};
use gateway::{Cpu, Gateway};
use stats::{Samples, row, shown, title};

/// How much is measured.
#[derive(Clone, Copy)]
struct Scale {
    /// The cluster that it is about.
    large: Size,
    /// The one that it is compared with, of the same kind.
    small: Size,
    restarts: usize,
    idle: Duration,
    /// Changes of claims a second, and of pods.
    rates: [u32; 2],
    changing: Duration,
    /// Sessions that come and go.
    sessions: usize,
}

const FULL: Scale = Scale {
    large: Size { claims: 10_000, pods: 500 },
    small: Size { claims: 100, pods: 5 },
    restarts: 5,
    idle: Duration::from_secs(30),
    rates: [1000, 200],
    changing: Duration::from_secs(8),
    sessions: 100,
};

/// For `cargo test --benches`, which only wants to know that it works.
const QUICK: Scale = Scale {
    large: Size { claims: 100, pods: 10 },
    small: Size { claims: 10, pods: 2 },
    restarts: 1,
    idle: Duration::from_secs(1),
    rates: [50, 20],
    changing: Duration::from_millis(500),
    sessions: 3,
};

/// What a gateway that nobody uses may ask for: the leader's own lease, watches that are taken up again
/// each two minutes, and the look for a server list that another replica may have fetched.
const AT_REST: [&str; 5] = ["patch leases", "update leases", "watch leases", "watch pods", "get configmaps"];

fn main() -> ExitCode {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let scale = if arguments.iter().any(|argument| argument == "--bench") { FULL } else { QUICK };
    let parts: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|argument| !argument.starts_with("--")).collect();
    let wanted = |part: &str| parts.is_empty() || parts.contains(&part);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mistakes = runtime.block_on(async {
        let mut mistakes = Vec::new();
        if wanted("restart") || wanted("idle") {
            let cluster = Cluster::embedded(scale.large).await;
            rest(&scale, &cluster, wanted("restart"), wanted("idle"), &mut mistakes).await;
            cluster.stop().await;
        }
        if wanted("events") || wanted("sessions") {
            changes(&scale, wanted("events"), wanted("sessions")).await;
        }
        if wanted("real") {
            match Cluster::real(Size { pods: 0, ..scale.large }).await {
                Some(cluster) => {
                    rest(&scale, &cluster, true, true, &mut mistakes).await;
                    cluster.stop().await;
                }
                None => println!("\nno KUBEBUILDER_ASSETS, hence nothing against a real kube-apiserver"),
            }
        }
        mistakes
    });
    println!();
    for mistake in &mistakes {
        println!("WRONG: {mistake}");
    }
    if mistakes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Starts, and what it costs to do nothing.
async fn rest(scale: &Scale, cluster: &Cluster, restart: bool, idle: bool, mistakes: &mut Vec<String>) {
    let begun = Instant::now();
    let mut gateway = Gateway::start(cluster).await;
    println!("\n{}; first start {}", cluster.describe(), shown(begun.elapsed()));
    if restart {
        restarts(scale, cluster, &mut gateway).await;
    }
    if idle {
        gateway.settled(cluster).await;
        alone(scale, cluster, &gateway, mistakes).await;
        if cluster.size.pods > 0 {
            in_use(scale, cluster, &gateway).await;
        }
    }
    gateway.stop().await;
}

async fn restarts(scale: &Scale, cluster: &Cluster, gateway: &mut Gateway) {
    let [mut ready, mut leads, mut served, mut cpu] = <[Samples; 4]>::default();
    for _ in 0..scale.restarts {
        gateway.stop().await;
        let begun = Instant::now();
        *gateway = Gateway::start(cluster).await;
        ready.push(begun.elapsed());
        if cluster.size.pods > 0 {
            let tunnel = gateway.tunnel(cluster.with_exit(0)).await;
            served.push(begun.elapsed());
            drop(tunnel);
        }
        gateway.leads().await;
        leads.push(begun.elapsed());
        cpu.push(gateway.cpu().total());
    }
    title(&format!("restarted {} times, from its process's start", scale.restarts));
    row("to ready", &mut ready, "aim 2 s");
    if cluster.size.pods > 0 {
        row("to a tunnel of a session that has an exit", &mut served, "");
    }
    row("to the leader's first plan", &mut leads, "");
    row("CPU until then", &mut cpu, "");
}

/// A window in which nothing happens but what `during` does: CPU, and requests to the API server.
struct Window {
    cpu: Cpu,
    took: Duration,
    requests: BTreeMap<String, u64>,
}

async fn window(cluster: &Cluster, gateway: &Gateway, length: Duration) -> Window {
    cluster.forget_requests();
    let before = gateway.requests().await;
    let (cpu, begun) = (gateway.cpu(), Instant::now());
    tokio::time::sleep(length).await;
    let (cpu, took) = (gateway.cpu().since(cpu), begun.elapsed());
    // The embedded cluster knows of every request; of a real one's the gateway's own counters tell.
    let requests = match cluster.requests() {
        Some(requests) => requests,
        None => difference(gateway.requests().await, &before),
    };
    Window { cpu, took, requests }
}

fn difference(mut after: BTreeMap<String, u64>, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    for (name, count) in &mut after {
        *count -= before.get(name).copied().unwrap_or(0);
    }
    after.retain(|_, count| *count > 0);
    after
}

impl Window {
    fn print(&self, gateway: &Gateway) {
        let part = |used: Duration| 100.0 * used.as_secs_f64() / self.took.as_secs_f64();
        let (rss, peak) = gateway.memory();
        println!("  memory {rss:.1} MiB (peak {peak:.1})                          aim 100 MiB");
        println!(
            "  CPU {:.2} % of a core (control plane {:.2} %, data threads {:.2} %)   aim 2 %",
            part(self.cpu.total()),
            part(self.cpu.control),
            part(self.cpu.data)
        );
        let minutes = self.took.as_secs_f64() / 60.0;
        let total: u64 = self.requests.values().sum();
        println!("  requests to the API server a minute: {:.0}", total as f64 / minutes);
        for (what, count) in &self.requests {
            println!("    {what:<40} {:>9.1}", *count as f64 / minutes);
        }
    }
}

async fn alone(scale: &Scale, cluster: &Cluster, gateway: &Gateway, mistakes: &mut Vec<String>) {
    let window = window(cluster, gateway, scale.idle).await;
    println!("\nLeft alone for {}", humantime::format_duration(scale.idle));
    window.print(gateway);
    if cluster.requests().is_some() {
        let other = window.requests.keys().filter(|what| !AT_REST.contains(&what.as_str()));
        mistakes.extend(other.map(|what| format!("'{what}' by a gateway that nobody uses")));
    }
}

async fn in_use(scale: &Scale, cluster: &Cluster, gateway: &Gateway) {
    let mut tunnels = Vec::new();
    for n in 0..cluster.size.in_use() {
        tunnels.push(gateway.tunnel(cluster.with_exit(n)).await);
    }
    let window = window(cluster, gateway, scale.idle).await;
    println!(
        "\n{} sessions with a tunnel each, for {}; their idle timeout is {}: two renewals a minute each",
        tunnels.len(),
        humantime::format_duration(scale.idle),
        humantime::format_duration(cluster::IDLE_IN_USE)
    );
    window.print(gateway);
}

/// What a change costs, in a small cluster and in a large one.
async fn changes(scale: &Scale, events: bool, sessions: bool) {
    let mut costs = Vec::new();
    for size in [scale.small, scale.large] {
        let cluster = Cluster::embedded(size).await;
        let mut gateway = Gateway::start(&cluster).await;
        gateway.settled(&cluster).await;
        let at_rest = load::cpu_at_rest(&gateway, scale.changing / 2).await;
        let mut cost = load::Cost::default();
        if events {
            let [claims, pods] = scale.rates;
            let cpu = gateway.cpu();
            let count = load::renew(&cluster, claims, scale.changing).await;
            cost.claim = Some(load::each(gateway.cpu().since(cpu), at_rest, scale.changing, count));
            let cpu = gateway.cpu();
            let count = load::touch_pods(&cluster, pods, scale.changing).await;
            cost.pod = Some(load::each(gateway.cpu().since(cpu), at_rest, scale.changing, count));
        }
        if sessions {
            cost.session = Some(load::sessions(&cluster, &gateway, scale.sessions).await);
        }
        gateway.stop().await;
        cluster.stop().await;
        costs.push((size, cost));
    }
    let [(small, less), (large, more)] = costs.as_mut_slice() else { unreachable!("there are two") };
    println!(
        "\nCPU of the gateway for one change\n  {:<42} {:>12} {:>12} {:>7}",
        "", small.claims, large.claims, "ratio"
    );
    let line = |what: &str, less: Duration, more: Duration| {
        let ratio = more.as_secs_f64() / less.as_secs_f64();
        println!("  {what:<42} {:>12} {:>12} {ratio:>7.2}", shown(less), shown(more));
    };
    if let (Some(less), Some(more)) = (less.claim, more.claim) {
        line(&format!("a claim is renewed, {} a second", scale.rates[0]), less, more);
    }
    if let (Some(less), Some(more)) = (less.pod, more.pod) {
        line(&format!("a pod changes, {} a second", scale.rates[1]), less, more);
    }
    if let (Some(less), Some(more)) = (&mut less.session, &mut more.session) {
        line("a session comes and goes", less.cpu, more.cpu);
        println!("  the same, from its claim to its pod:");
        line("    median", less.pod.median(), more.pod.median());
        line("    p90", less.pod.quantile(0.9), more.pod.quantile(0.9));
    }
}
