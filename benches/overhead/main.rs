//! What the gateway itself costs, against the embedded cluster in one process with it:
//! `cargo bench --bench overhead`. It prints a table and takes half a minute; times are reported and not
//! judged, everything else is (errors, requests to the API server, pods over the limit: exit code 1).
//! How to read the numbers is in `docs/performance.md`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod client;
mod cpu;
mod rig;
mod stats;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use client::Connect;
use cpu::Cpu;
use futures::future::join_all;
use gluetun_gateway::config::LogFormat;
use gluetun_gateway::selector::SessionKey;
use gluetun_gateway::telemetry;
use rig::{ACCOUNTS, PASSWORD, Plan, Rig};
use stats::{Samples, row, shown, since, title};
use tracing_subscriber::util::SubscriberInitExt;

/// How much is measured.
struct Scale {
    cold: usize,
    warm: usize,
    burst: usize,
}

const FULL: Scale = Scale { cold: 200, warm: 2000, burst: 200 };
/// For `cargo test --benches`, which only wants to know that it works.
const QUICK: Scale = Scale { cold: 5, warm: 20, burst: 20 };

/// Requests to the API server that one session's life may take.
const MOST_REQUESTS: usize = 8;

fn main() -> ExitCode {
    // Lines are made as in production, and written nowhere.
    let dropped = prometheus::IntCounter::new("dropped", "dropped").expect("a counter");
    let (subscriber, _guard) =
        telemetry::writing_to(std::io::sink(), "INFO", LogFormat::Json, dropped).expect("a subscriber");
    subscriber.init();
    let _ = rustls::crypto::ring::default_provider().install_default();

    let scale = if std::env::args().any(|argument| argument == "--bench") { FULL } else { QUICK };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mistakes = runtime.block_on(async {
        let mut mistakes = Vec::new();
        cold(&scale, Duration::ZERO).await;
        cold(&scale, Duration::from_millis(100)).await;
        mistakes.extend(warm(&scale).await);
        mistakes.extend(life().await);
        mistakes.extend(burst(&scale).await);
        mistakes
    });
    println!();
    for mistake in &mistakes {
        println!("WRONG: {mistake}");
    }
    if mistakes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The session of an account by name: the user that means it, and its claim.
fn session(account: usize, name: &str) -> (String, String) {
    let user = format!("a{account}-country-se-session-{name}");
    let claim = SessionKey::parse_canonical(&user).expect("a canonical name").claim_name();
    (user, claim)
}

/// An account's password is checked once: a hash, which is no part of what is measured.
async fn log_in(rig: &Rig, account: usize) {
    // Refused for its country, after the password has been found right.
    let refused = Connect::new(&format!("a{account}-country-xx"), PASSWORD, false).open(rig.proxy).await;
    let answer = refused.err().expect("there is no such country");
    assert!(answer.contains("no_such_country"), "{answer}");
}

/// Sessions one after the other, each in an empty cluster.
async fn cold(scale: &Scale, pod_start: Duration) {
    let rig = Rig::start(Plan { pod_start, limit: 10, idle: "5m" }).await;
    log_in(&rig, 0).await;
    let mut all = Cold::default();
    // The first ones open the connections to the API server that the others find.
    let warm_up = scale.cold / 20 + 1;
    let mut before = Cpu::now();
    for n in 0..warm_up + scale.cold {
        if n == warm_up {
            before = Cpu::now();
        }
        let (user, claim) = session(0, &format!("s{n}"));
        let connect = Connect::new(&user, PASSWORD, false);
        let asked = Instant::now();
        let tunnel = connect.open(rig.proxy).await.unwrap_or_else(|answer| panic!("{answer}"));
        let answered = Instant::now();
        assert_eq!(tunnel.header("x-gateway-cold-start"), Some("true"));
        drop(tunnel);
        let pod = rig.only_pod().await.name;
        if n >= warm_up {
            all.push(&rig, asked, answered, &claim, &pod, pod_start).await;
        }
        rig.end(&claim, &pod).await;
    }
    let cpu = Cpu::now().each(before, scale.cold);
    rig.stop().await;
    all.print(scale.cold, pod_start);
    print_cpu("one session, from its claim to its pod's end", cpu);
}

fn print_cpu(what: &str, cpu: Cpu) {
    let Cpu { data, control, others } = cpu;
    let (data, control, others) = (shown(data), shown(control), shown(others));
    println!("  CPU of {what}:");
    println!("    data threads {data}, control plane {control}; cluster, origin and client {others}");
}

/// What cold sessions took, from the request to the client's 200.
#[derive(Default)]
struct Cold {
    total: Samples,
    overhead: Samples,
    own: Samples,
    claimed: Samples,
    created: Samples,
    exec: Samples,
    healthy: Samples,
    shown: Samples,
}

impl Cold {
    async fn push(
        &mut self,
        rig: &Rig,
        asked: Instant,
        answered: Instant,
        claim: &str,
        pod: &str,
        start: Duration,
    ) {
        let moments = rig.started(pod).await;
        let claimed = rig.observer.claimed(claim).expect("it is there");
        let (created, exec) = (moments.created.unwrap(), moments.exec.unwrap());
        let (healthy, shown) = (moments.healthy.unwrap(), moments.shown.unwrap());
        // Not `healthy`, which is when a task got to read the log: the health server says 200 no sooner
        // than this, so that the overhead is never made smaller by a busy machine.
        let could_say_200 = exec + start;
        self.total.push(since(answered, asked));
        self.overhead.push(since(answered, could_say_200));
        self.own.push(since(answered, could_say_200.max(shown)));
        self.claimed.push(since(claimed, asked));
        self.created.push(since(created, claimed));
        self.exec.push(since(exec, created));
        self.healthy.push(since(healthy, exec));
        self.shown.push(since(shown, exec));
    }

    fn print(&mut self, count: usize, start: Duration) {
        title(&format!(
            "{count} cold sessions, one after the other; pods are healthy {} after their start",
            humantime::format_duration(start)
        ));
        row("request to 200", &mut self.total, "");
        row("pod could be healthy, to 200", &mut self.overhead, "the overhead: aim 10 ms, 25 ms");
        row("healthy and its address known, to 200", &mut self.own, "the gateway's part of that");
        println!("  where the time goes:");
        row("  request to claim", &mut self.claimed, "gateway, API server");
        row("  claim to pod", &mut self.created, "leader, API server");
        row("  pod to its container's start", &mut self.exec, "kubelet (binds, prepares)");
        row("  container's start to healthy, as logged", &mut self.healthy, "look-alike");
        row("  container's start to address in the API", &mut self.shown, "kubelet, API server");
    }
}

/// One session that has its exit: through the gateway, and straight to its pod, by turns.
async fn warm(scale: &Scale) -> Option<String> {
    let rig = Rig::start(Plan { pod_start: Duration::ZERO, limit: 10, idle: "1h" }).await;
    let (user, claim) = session(0, "warm");
    let through = Connect::new(&user, PASSWORD, false);
    through.open(rig.proxy).await.unwrap_or_else(|answer| panic!("{answer}"));
    let pod = rig.only_pod().await;
    let address = (pod.ip.expect("an address"), 8888).into();
    let password = pod.password.as_ref().expect("a password").expose();
    let straight = Connect::new(pod.user.as_deref().expect("a user"), password, true);

    let mut kinds =
        [("through the gateway", &through, rig.proxy), ("straight to the pod", &straight, address)]
            .map(|(name, connect, proxy)| (name, connect, proxy, Samples::default(), Samples::default()));
    rig.noted(&claim).await;
    let (before, cpu) = (rig.requests().len(), Cpu::now());
    for n in 0..scale.warm {
        let order = if n % 2 == 0 { [0, 1] } else { [1, 0] };
        for at in order {
            let (_, connect, proxy, opened, round_trips) = &mut kinds[at];
            let begun = Instant::now();
            let mut tunnel = connect.open(*proxy).await.unwrap_or_else(|answer| panic!("{answer}"));
            opened.push(begun.elapsed());
            // The first one finds the relays as they have just been made.
            tunnel.round_trip().await;
            let begun = Instant::now();
            tunnel.round_trip().await;
            round_trips.push(begun.elapsed());
        }
    }
    let cpu = Cpu::now().each(cpu, scale.warm);
    let requests = rig.requests().len() - before;
    rig.stop().await;
    title(&format!("{} tunnels of a session that has its exit, by turns with direct ones", scale.warm));
    let [(_, _, _, opened, trips), (_, _, _, direct_opened, direct_trips)] = &mut kinds;
    for (what, through, direct) in
        [("CONNECT to 200", opened, direct_opened), ("64 bytes there and back", trips, direct_trips)]
    {
        row(&format!("{what}, straight to the pod"), direct, "");
        let (more, than) = (through.median(), direct.median());
        let remark = format!(
            "{} more, × {:.2}",
            shown(more.saturating_sub(than)),
            more.as_secs_f64() / than.as_secs_f64()
        );
        row(&format!("{what}, through the gateway"), through, &remark);
    }
    print_cpu("one tunnel with two round trips, and of a direct one beside it", cpu);
    println!("  requests to the API server meanwhile: {requests}");
    (requests > 0).then(|| format!("{requests} requests to the API server by hits"))
}

/// From a session's first request to its end by idleness: what the API server was asked.
async fn life() -> Option<String> {
    let rig = Rig::start(Plan { pod_start: Duration::ZERO, limit: 10, idle: "2s" }).await;
    let before = rig.requests().len();
    let connect = Connect::new(&session(0, "life").0, PASSWORD, false);
    drop(connect.open(rig.proxy).await.unwrap_or_else(|answer| panic!("{answer}")));
    rig.emptied().await;
    let requests = rig.requests().split_off(before);
    rig.stop().await;
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for request in &requests {
        *kinds.entry(request).or_default() += 1;
    }
    let total = requests.len();
    println!("\nRequests to the API server for one session's life, without Events and watches");
    for (kind, count) in kinds {
        println!("  {kind:<42} {count:>9}");
    }
    println!("  {:<42} {total:>9}  renewals included; at most {MOST_REQUESTS}", "in all");
    (total > MOST_REQUESTS).then(|| format!("{total} requests for one session's life"))
}

/// Many sessions at once, as many as the limit allows.
async fn burst(scale: &Scale) -> Option<String> {
    let count = scale.burst;
    let rig = Rig::start(Plan { pod_start: Duration::ZERO, limit: count, idle: "5m" }).await;
    for account in 0..ACCOUNTS {
        log_in(&rig, account).await;
    }
    let (before, cpu) = (rig.requests().len(), Cpu::now());
    let begun = Instant::now();
    let requests = (0..count).map(|n| {
        let (user, _) = session(n % ACCOUNTS, &format!("s{n}"));
        let proxy = rig.proxy;
        tokio::spawn(async move {
            let opened = Connect::new(&user, PASSWORD, false).open(proxy).await;
            (opened, begun.elapsed())
        })
    });
    let mut samples = Samples::default();
    let mut errors = Vec::new();
    let mut open = Vec::new();
    for request in join_all(requests).await {
        match request.expect("no panic") {
            (Ok(tunnel), took) => {
                samples.push(took);
                open.push(tunnel);
            }
            (Err(answer), _) => errors.push(answer),
        }
    }
    let (all, cpu) = (begun.elapsed(), Cpu::now().each(cpu, count));
    let asked = rig.requests().len() - before;
    let most = rig.observer.most();
    drop(open);
    rig.stop().await;
    title(&format!("{count} sessions at once, INSTANCE_LIMIT {count}"));
    row("request to 200", &mut samples, "");
    println!("  until all have their exit: {}", shown(all));
    print_cpu("each, until then", cpu);
    println!("  pods at most: {most}; errors: {}; requests to the API server: {asked}", errors.len());
    if let Some(error) = errors.first() {
        return Some(format!("{} of {count} sessions failed; the first: {error}", errors.len()));
    }
    (most > count).then(|| format!("{most} pods, though the limit is {count}"))
}
