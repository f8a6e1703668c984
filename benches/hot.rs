//! What the data path does for each request or packet, step by step: `cargo bench --bench hot`. The
//! numbers and how to read them are in `docs/performance.md`.
//!
//! The table of sessions is filled as in production: 10 000 claims with their pods are created through
//! an API server (the embedded one), and the gateway's own watches read them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures::{StreamExt, stream};
use gluetun_gateway::config::{Config, Environment};
use gluetun_gateway::controller::manifest::{self, Credentials};
use gluetun_gateway::identity::{Authenticator, Users};
use gluetun_gateway::metrics::Metrics;
use gluetun_gateway::proxy::buffers::Buffers;
use gluetun_gateway::proxy::head::{Authorization, Head, Scan, Scanner};
use gluetun_gateway::proxy::relay::{Ends, Relay};
use gluetun_gateway::selector::{Limits, SessionKey, Username, resolve};
use gluetun_gateway::servers::{Catalogue, Server};
use gluetun_gateway::session::claim::{Claim, NewClaim};
use gluetun_gateway::session::{SessionId, Sessions, sessions};
use gluetun_gateway::simulator::api::ApiServer;
use gluetun_gateway::simulator::gluetun::SERVERS_JSON;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::runtime::{Builder, LocalOptions, Runtime};
use tokio_util::sync::CancellationToken;

/// As the program has it.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const PASSWORD: &str = "open-sesame";

/// Sessions in the table.
const SESSIONS: u32 = 10_000;
/// Requests to the API server at once while it is filled.
const AT_ONCE: usize = 64;
/// So long that nothing needs a renewal while the benches run.
const IDLE: Duration = Duration::from_secs(86_400);

const SMALL: usize = 64;
const LARGE: usize = 64 * 1024;

fn basic(user: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{PASSWORD}")))
}

/// A users file with the account `demo`, at the least cost that bcrypt has.
fn users() -> String {
    format!("demo:{}\n", bcrypt::hash(PASSWORD, 4).expect("a hash"))
}

fn heads(c: &mut Criterion) {
    let authorization = basic("demo-country-us-city-new-york-session-a");
    let curl = format!(
        "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\nProxy-Authorization: {authorization}\r\n\
         User-Agent: curl/8.5.0\r\nProxy-Connection: Keep-Alive\r\n\r\n"
    );
    let browser = format!(
        "GET http://example.com/assets/app.js?v=20 HTTP/1.1\r\nHost: example.com\r\n\
         Proxy-Connection: keep-alive\r\nProxy-Authorization: {authorization}\r\n\
         User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
         Chrome/142.0.0.0 Safari/537.36\r\nAccept: */*\r\nReferer: http://example.com/\r\n\
         Accept-Encoding: gzip, deflate\r\nAccept-Language: en-GB,en;q=0.9,sv;q=0.8\r\n\
         Cookie: session=3f2a9d1c7b6e5a4d; consent=all; theme=dark; seen=1764080000\r\n\
         If-None-Match: \"5f-63bd2a7c\"\r\nIf-Modified-Since: Tue, 25 Nov 2025 08:00:00 GMT\r\n\
         Sec-GPC: 1\r\nPragma: no-cache\r\n\r\n"
    );
    let mut group = c.benchmark_group("head");
    for (name, head) in [("connect_of_curl", &curl), ("get_of_a_browser", &browser)] {
        let bytes = head.as_bytes();
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                let Scan::Complete { start, end } = Scanner::default().scan(black_box(bytes)) else {
                    panic!("the head is complete");
                };
                let head = Head::parse(&bytes[start..end]).expect("a head");
                assert!(matches!(head.authorization, Authorization::One(_)));
                black_box(head.target.len())
            });
        });
    }
    group.finish();
}

/// Usernames from the plainest to the longest that people write.
const USERNAMES: [(&str, &str); 3] = [
    ("account", "demo"),
    ("country", "demo-country-se"),
    ("everything", "demo-country-us-city-new-york-session-a_1-idle-10m-ttl-2h-wait-30s-mode-strict"),
];

fn usernames(c: &mut Criterion) {
    let catalogue = Catalogue::parse(SERVERS_JSON).expect("the demo's list");
    let limits = Limits::default();
    let mut group = c.benchmark_group("username");
    for (name, text) in USERNAMES {
        group.bench_with_input(BenchmarkId::new("parse", name), text, |b, text| {
            b.iter(|| Username::parse(black_box(text)).expect("a username"));
        });
        group.bench_with_input(BenchmarkId::new("parse_and_resolve", name), text, |b, text| {
            b.iter(|| {
                let username = Username::parse(black_box(text)).expect("a username");
                resolve(&username, &catalogue, &limits).expect("a place")
            });
        });
    }
    group.finish();
}

fn credentials(c: &mut Criterion) {
    let authenticator = Authenticator::new(Users::parse(&users()).expect("a users file")).expect("a thread");
    // As many as it remembers, so that the one that is asked for is one of many.
    let headers: Vec<String> =
        (0..SESSIONS).map(|n| basic(&format!("demo-country-se-session-s{n}"))).collect();
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for header in &headers {
            authenticator.authenticate(header.as_bytes()).await.expect("the password is right");
        }
    });
    let mut group = c.benchmark_group("credential");
    let mut at = 0;
    let held: Vec<&[u8]> =
        headers.iter().map(String::as_bytes).filter(|h| authenticator.cached(h).is_some()).collect();
    assert!(held.len() > headers.len() / 2, "{} of {} are remembered", held.len(), headers.len());
    group.bench_function("cached", |b| {
        b.iter(|| {
            at = (at + 1) % held.len();
            black_box(authenticator.cached(held[at])).expect("it is remembered")
        });
    });
    group.finish();
}

/// A table of sessions with what feeds it, alive for as long as this is.
struct Filled {
    sessions: Sessions,
    keys: Vec<SessionKey>,
    ids: Vec<SessionId>,
    stop: CancellationToken,
    control: Option<JoinHandle<()>>,
}

impl Filled {
    fn new() -> Self {
        let begun = Instant::now();
        let cluster = Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(&file, users()).expect("a users file");
        let config = Config::load(&Environment::of([
            ("USERS_FILE", file.path().to_str().expect("a path")),
            ("K8S_NAMESPACE", "bench"),
            ("SERVERS_JSON", SERVERS_JSON),
        ]))
        .expect("settings");
        let (api, keys) = cluster.block_on(fill(&config));
        let filled = begun.elapsed();

        let (sessions, driver) = sessions(Arc::new(Metrics::new().expect("metrics")), IDLE);
        let stop = CancellationToken::new();
        let client_config = api.client_config("bench");
        // The control plane's thread of its own, as `app` gives it one.
        let control = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(async {
                    let client = Client::try_from(client_config).expect("a client");
                    driver.run(client.clone(), client, "bench", stop, Duration::ZERO).await;
                });
                stopped(api, cluster);
            }
        });
        let waiting = Builder::new_current_thread().enable_all().build().expect("a runtime");
        waiting.block_on(async {
            tokio::time::timeout(Duration::from_secs(120), sessions.synced()).await.expect("the first lists");
        });
        let ids: Vec<SessionId> = keys.iter().map(|key| sessions.id(key)).collect();
        for (id, key) in ids.iter().zip(&keys) {
            assert!(sessions.hit(*id).is_some(), "{} has an exit", key.canonical());
        }
        println!(
            "{} sessions with exits: created in {:.1} s, listed in {:.1} s",
            keys.len(),
            filled.as_secs_f64(),
            (begun.elapsed() - filled).as_secs_f64()
        );
        Self { sessions, keys, ids, stop, control: Some(control) }
    }
}

fn stopped(api: ApiServer, cluster: Runtime) {
    cluster.block_on(api.stop());
}

impl Drop for Filled {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(control) = self.control.take() {
            control.join().expect("it ends in order");
        }
    }
}

/// An API server with a claim and a running pod for each session, as the gateway would have made them.
async fn fill(config: &Config) -> (ApiServer, Vec<SessionKey>) {
    let api = ApiServer::start("127.0.0.1:0".parse().expect("an address")).await.expect("a port");
    let client = Client::try_from(api.client_config("bench")).expect("a client");
    let leases: Api<Lease> = Api::namespaced(client.clone(), "bench");
    let pods: Api<Pod> = Api::namespaced(client, "bench");
    let catalogue = Catalogue::parse(SERVERS_JSON).expect("the demo's list");
    let countries: Vec<&str> = catalogue.countries().iter().map(|country| country.id.as_str()).collect();
    let keys: Vec<SessionKey> = (0..SESSIONS)
        .map(|n| {
            let country = countries[n as usize % countries.len()];
            let username = Username::parse(&format!("demo-country-{country}-session-s{n}")).expect("a name");
            resolve(&username, &catalogue, &Limits::default()).expect("a place").0
        })
        .collect();
    stream::iter(keys.iter().zip(0..))
        .for_each_concurrent(AT_ONCE, |(key, n)| {
            let server = catalogue.candidates(&key.place).next().expect("the country has servers");
            session(config, &leases, &pods, key, server, n)
        })
        .await;
    (api, keys)
}

async fn session(
    config: &Config,
    leases: &Api<Lease>,
    pods: &Api<Pod>,
    key: &SessionKey,
    server: &Server,
    n: u32,
) {
    let post = PostParams::default();
    let new = NewClaim { key, idle: IDLE, ttl: None, no_wait: false, now: SystemTime::now() };
    let lease = leases.create(&post, &new.lease()).await.expect("a claim");
    let claim = Claim::read(&lease).expect("a claim");
    let pod = manifest::pod(config, &claim, 0, server, &Credentials::random());
    let pod = pods.create(&post, &pod).await.expect("a pod");
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + n).to_string();
    let status = json!({ "status": {
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{ "ip": ip }],
        "conditions": [{ "type": "Ready", "status": "True" }],
        "containerStatuses": [{
            "name": "gluetun", "image": "gluetun", "imageID": "", "ready": true, "restartCount": 0,
            "state": { "running": {} },
        }],
    }});
    let patch = Patch::Merge(&status);
    pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.expect("a status");
}

/// Hits that are timed together.
const BATCH: u64 = 32;

/// How long `threads` threads take for `rounds` hits each, all at once; of threads that do not take equally
/// long, the mean. Each goes through `ids` in an order of its own. A request has its id from its login, so
/// that they are read before the time is taken; what the table has is as far away as it happens to be.
fn hits(sessions: &Sessions, ids: &[SessionId], threads: usize, rounds: u64) -> Duration {
    let barrier = Barrier::new(threads);
    let taken: Duration = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let barrier = &barrier;
                scope.spawn(move || {
                    // A stride that is prime visits all, and the next is never beside the last.
                    let mut order =
                        (thread * ids.len() / threads..).step_by(7919).map(|n| ids[n % ids.len()]);
                    let (mut batch, mut left, mut taken) = (Vec::new(), rounds, Duration::ZERO);
                    barrier.wait();
                    while left > 0 {
                        batch.clear();
                        batch.extend(order.by_ref().take(left.min(BATCH) as usize));
                        let begun = Instant::now();
                        for id in &batch {
                            assert!(black_box(sessions.hit(*id)).is_some());
                        }
                        taken += begun.elapsed();
                        left -= batch.len() as u64;
                    }
                    taken
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("every session has an exit")).sum()
    });
    taken / u32::try_from(threads).expect("not that many")
}

fn sessions_hit(c: &mut Criterion) {
    let filled = Filled::new();
    let mut group = c.benchmark_group("hit");
    // Once a login and thread.
    group.bench_function("id_of_a_key", |b| {
        let mut keys = filled.keys.iter().cycle();
        b.iter(|| keys.next().map(|key| black_box(filled.sessions.id(key))));
    });
    for threads in [1, 2, 4] {
        group.throughput(Throughput::Elements(threads as u64));
        group.bench_function(BenchmarkId::new("10000_sessions", format!("{threads}_threads")), |b| {
            b.iter_custom(|rounds| hits(&filled.sessions, &filled.ids, threads, rounds));
        });
        group.bench_function(BenchmarkId::new("the_same_session", format!("{threads}_threads")), |b| {
            b.iter_custom(|rounds| hits(&filled.sessions, &filled.ids[..1], threads, rounds));
        });
    }
    group.finish();
}

/// The far ends of a tunnel whose near ends a thread relays, as a data thread does; or, without one, of
/// one connection.
struct Tunnel {
    client: TcpStream,
    server: TcpStream,
    relay: Option<JoinHandle<()>>,
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    let far = TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
    let near = listener.accept().expect("a connection").0;
    for stream in [&far, &near] {
        stream.set_nodelay(true).expect("a TCP connection");
    }
    (far, near)
}

impl Tunnel {
    fn direct() -> Self {
        let (client, server) = pair();
        Self { client, server, relay: None }
    }

    fn relayed() -> Self {
        let ((client, near_client), (server, near_server)) = (pair(), pair());
        let relay = std::thread::spawn(move || {
            let options = LocalOptions::default();
            let runtime = Builder::new_current_thread().enable_all().build_local(options).expect("a runtime");
            runtime.block_on(async {
                let near = |stream: TcpStream| {
                    stream.set_nonblocking(true).expect("a socket");
                    tokio::net::TcpStream::from_std(stream).expect("a runtime")
                };
                let mut ends = Ends::new(near(near_client), near(near_server));
                let (buffers, mut gone) = (Buffers::default(), std::future::pending());
                let half_idle = Duration::from_secs(3600);
                let mut moved = |up, down| {
                    black_box((up, down));
                };
                Relay::new(Vec::new(), Vec::new(), 0)
                    .run(&ends, &buffers, &mut gone, half_idle, &mut moved)
                    .await;
                ends.close();
            });
        });
        Self { client, server, relay: Some(relay) }
    }

    fn end(self) {
        drop((self.client, self.server));
        if let Some(relay) = self.relay {
            relay.join().expect("it ends with its connections");
        }
    }
}

fn relaying(c: &mut Criterion) {
    let mut group = c.benchmark_group("relay");
    for (name, tunnel) in [("direct", Tunnel::direct as fn() -> Tunnel), ("relayed", Tunnel::relayed)] {
        let Tunnel { mut client, mut server, relay } = tunnel();
        let mut buffer = [0; SMALL];
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("64_bytes_there_and_back", name), |b| {
            b.iter(|| {
                client.write_all(&[7; SMALL]).expect("it is open");
                server.read_exact(&mut buffer).expect("it is open");
                server.write_all(&buffer).expect("it is open");
                client.read_exact(&mut buffer).expect("it is open");
            });
        });
        Tunnel { client, server, relay }.end();

        let Tunnel { client, server, relay } = tunnel();
        group.throughput(Throughput::Bytes(LARGE as u64));
        group.bench_function(BenchmarkId::new("stream_of_64_KiB", name), |b| {
            b.iter_custom(|rounds| stream_through(&server, &client, rounds));
        });
        Tunnel { client, server, relay }.end();
    }
    group.finish();
}

/// How long it takes until `rounds` times 64 KiB have come down.
fn stream_through(from: &TcpStream, to: &TcpStream, rounds: u64) -> Duration {
    std::thread::scope(|scope| {
        let begun = Instant::now();
        let (mut from, mut to) = (from, to);
        scope.spawn(move || {
            let chunk = vec![7; LARGE];
            for _ in 0..rounds {
                from.write_all(&chunk).expect("it is open");
            }
        });
        let mut buffer = vec![0; LARGE];
        for _ in 0..rounds {
            to.read_exact(&mut buffer).expect("it is open");
        }
        begun.elapsed()
    })
}

criterion_group!(steps, heads, usernames, credentials, relaying, sessions_hit);
criterion_main!(steps);
