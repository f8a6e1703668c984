//! What the data threads allocate for a tunnel, a request and a round trip: `cargo bench --bench allocations`. A count
//! and no time, so it is the same on any machine. The numbers are in `docs/performance.md`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, unreachable_pub, dead_code)]

#[path = "../overhead/client.rs"]
mod client;
mod get;
#[path = "../overhead/rig.rs"]
mod rig;

use std::alloc::System;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use client::Connect;
use get::Get;
use gluetun_gateway::config::LogFormat;
use gluetun_gateway::telemetry;
use rig::{PASSWORD, Plan, Rig};
use tracing_subscriber::util::SubscriberInitExt;
use tracking_allocator::{AllocationGroupId, AllocationRegistry, AllocationTracker, Allocator};

#[global_allocator]
static ALLOCATOR: Allocator<System> = Allocator::system();

static COUNT: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);
static FREED: AtomicU64 = AtomicU64::new(0);

/// Counts what happens on the gateway's data threads.
struct DataThreads;

fn is_data_thread() -> bool {
    std::thread::current().name().is_some_and(|name| name.starts_with("proxy-"))
}

impl AllocationTracker for DataThreads {
    fn allocated(&self, _: usize, size: usize, _: usize, _: AllocationGroupId) {
        if is_data_thread() {
            COUNT.fetch_add(1, Ordering::Relaxed);
            BYTES.fetch_add(size as u64, Ordering::Relaxed);
        }
    }

    fn deallocated(&self, _: usize, size: usize, _: usize, _: AllocationGroupId, _: AllocationGroupId) {
        if is_data_thread() {
            FREED.fetch_add(size as u64, Ordering::Relaxed);
        }
    }
}

/// Allocations, bytes allocated and bytes kept since the process began.
fn now() -> (u64, u64, i64) {
    let (count, bytes) = (COUNT.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
    (count, bytes, bytes as i64 - FREED.load(Ordering::Relaxed) as i64)
}

fn row(what: &str, times: u64, before: (u64, u64, i64)) {
    let after = now();
    let each = |n: u64| n as f64 / times as f64;
    println!(
        "| {what} | {:.2} | {:.0} | {:.0} |",
        each(after.0 - before.0),
        each(after.1 - before.1),
        (after.2 - before.2) as f64 / times as f64
    );
}

fn main() {
    AllocationRegistry::set_global_tracker(DataThreads).expect("the first");
    let dropped = prometheus::IntCounter::new("dropped", "dropped").expect("a counter");
    let (subscriber, _guard) =
        telemetry::writing_to(std::io::sink(), "INFO", LogFormat::Json, dropped).expect("a subscriber");
    subscriber.init();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let times = if std::env::args().any(|argument| argument == "--bench") { 1000 } else { 10 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure(times));
}

async fn measure(times: u64) {
    let rig = Rig::start(Plan { pod_start: Duration::ZERO, limit: 1, idle: "10m" }).await;
    let connect = Connect::new("a0-country-se", PASSWORD, false);
    println!("| On the data threads | Allocations | Bytes allocated | Bytes kept |");
    println!("|---|---|---|---|");

    // Caches and free lists fill first.
    for _ in 0..times.min(100) {
        let mut tunnel = connect.open(rig.proxy).await.expect("a tunnel");
        tunnel.round_trip().await;
    }
    AllocationRegistry::enable_tracking();
    let before = now();
    for _ in 0..times {
        let mut tunnel = connect.open(rig.proxy).await.expect("a tunnel");
        tunnel.round_trip().await;
    }
    row("A tunnel: opened, 64 bytes echoed, closed", times, before);

    let before = now();
    let mut tunnels = Vec::new();
    for _ in 0..times {
        tunnels.push(connect.open(rig.proxy).await.expect("a tunnel"));
    }
    row("A tunnel that stays open", times, before);
    drop(tunnels);

    let mut tunnel = connect.open(rig.proxy).await.expect("a tunnel");
    tunnel.round_trip().await;
    let before = now();
    for _ in 0..times {
        tunnel.round_trip().await;
    }
    row("64 bytes there and back", times, before);
    drop(tunnel);

    let mut client = Get::connect(rig.proxy, "a0-country-se", PASSWORD).await;
    for _ in 0..times.min(100) {
        client.get().await;
    }
    let before = now();
    for _ in 0..times {
        client.get().await;
    }
    row("A keep-alive GET", times, before);
    drop(client);
    AllocationRegistry::disable_tracking();
    rig.stop().await;
}
