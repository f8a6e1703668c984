//! Every metric of the process, in a registry of its own: made once by `app`, passed to whoever
//! counts, gathered by the admin port. Labels come from closed sets only (an enum's `as_str`), never
//! from a user, host, address or pod. `docs/metrics.md` describes each; a test holds the two together.

use prometheus::core::Collector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

#[cfg(test)]
mod docs;

/// Buckets of how long a request was held, in seconds: from the milliseconds of a hit to the 90 s of
/// `START_TIMEOUT`.
const HOLD_BUCKETS: &[f64] =
    &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 90.0];

/// The process's metrics. Cheap to share behind an `Arc`; every child that a hot path needs is looked
/// up once and kept there.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// The process's own (`process_…`): conventional names, hence without our prefix.
    process: Registry,
    /// Requests of the proxy port that ended, by `kind` (`connect`, `http`, `none`) and `outcome`
    /// (`ok`, an error code of `docs/errors.md`, or how it broke off: `client_gone`, `client_reset`,
    /// `upstream_reset`, `exit_gone`, `account_gone`, `cut`, `idle`).
    pub requests: IntCounterVec,
    /// How long requests were held for an exit, in seconds, by `cold` (`true`, `false`).
    pub hold_seconds: HistogramVec,
    /// Cold starts that waiters of this replica saw end, by `outcome` (`ready` or an error code).
    pub cold_starts: IntCounterVec,
    /// From the creation of a claim by this replica to its exit being healthy, in seconds.
    pub cold_start_seconds: Histogram,
    /// Requests that are being held now.
    pub waiters: IntGauge,
    /// Sessions whose claims this replica knows.
    pub sessions: IntGauge,
    /// Pods of ours in the namespace, by `state` (`pending`, `starting`, `ready`, `unready`,
    /// `terminating`, `failed`, `foreign`).
    pub pods: IntGaugeVec,
    /// The limit on pods (`INSTANCE_LIMIT`).
    pub pods_limit: IntGauge,
    /// Tunnels that are open now.
    pub tunnels_open: IntGauge,
    /// Client connections that are open now.
    pub connections_open: IntGauge,
    /// Of those, the ones whose clients have not logged in.
    pub connections_unauthenticated: IntGauge,
    /// Connections closed before their clients had logged in, to make room for newer ones or for those who have.
    pub connections_evicted: IntCounter,
    /// Connections that a data thread handed to another one that had fewer.
    pub connections_moved: IntCounter,
    /// Bytes relayed, by `direction` (`up` towards the exit, `down` towards the client).
    pub bytes: IntCounterVec,
    /// Times that accepting was paused since no file descriptor was left.
    pub accept_paused: IntCounter,
    /// Requests to the Kubernetes API, by `verb` and `outcome` (`ok`, `conflict`, `not_found`,
    /// `forbidden`, `invalid`, `timeout`, `error`).
    pub api_requests: IntCounterVec,
    /// Watches that broke and were restarted, by `resource`.
    pub watch_restarts: IntCounterVec,
    /// 1 while this replica is the leader.
    pub leader: IntGauge,
    /// Pods that the leader replaced or gave up, by `reason` (a start failure's class, `lost`, …).
    pub exits_failed: IntCounterVec,
    /// Locations whose starts rest since they fail; the whole pool is one.
    pub start_backoffs: IntGauge,
    /// Claims reaped as idle.
    pub claims_reaped: IntCounter,
    /// Password checks, by `outcome` (`ok`, `refused`, `busy`, `throttled`, `cached`).
    pub logins: IntCounterVec,
    /// Requests refused by a limit of their account, by `limit` (`sessions`, `tunnels`, `rate`).
    pub account_quota: IntCounterVec,
    /// Accounts that can log in.
    pub accounts: IntGauge,
    /// Servers in the list in use.
    pub servers: IntGauge,
    /// How old the list in use is, in seconds, by its `source`: set at each scrape, for one source.
    pub servers_age: IntGaugeVec,
    /// Refreshes of the server list, by `outcome` (`ok`, `refused`, `file`, or why the Job failed).
    pub servers_refreshes: IntCounterVec,
    /// Re-reads of a file that failed and left the old content in use, by `file`.
    pub reload_errors: IntCounterVec,
    /// Log lines dropped since the queue to their writer was full.
    pub log_dropped: IntCounter,
}

/// Registers `metric` and hands it back. The names are constants of this file, so a failure (a name
/// used twice, an illegal one) is a mistake that the first test finds.
fn add<M: Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<M>,
) -> prometheus::Result<M> {
    let metric = metric?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

impl Metrics {
    /// Makes and registers every metric, and the process's own (CPU, memory, files).
    ///
    /// # Errors
    ///
    /// When two metrics share a name.
    pub fn new() -> prometheus::Result<Self> {
        let r = Registry::new_custom(Some("gluetun_gateway".to_owned()), None)?;
        let counter = |name: &str, help: &str| add(&r, IntCounter::new(name, help));
        let counters = |name: &str, help: &str, labels: &[&str]| {
            add(&r, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let gauge = |name: &str, help: &str| add(&r, IntGauge::new(name, help));
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            add(&r, IntGaugeVec::new(Opts::new(name, help), labels))
        };
        let buckets = |name: &str, help: &str| HistogramOpts::new(name, help).buckets(HOLD_BUCKETS.to_vec());
        let metrics = Self {
            requests: counters(
                "requests_total",
                "Requests of the proxy port that ended",
                &["kind", "outcome"],
            )?,
            hold_seconds: add(
                &r,
                HistogramVec::new(
                    buckets("hold_seconds", "Time that requests were held for an exit"),
                    &["cold"],
                ),
            )?,
            cold_starts: counters("cold_starts_total", "Cold starts that ended", &["outcome"])?,
            cold_start_seconds: add(
                &r,
                Histogram::with_opts(buckets(
                    "cold_start_seconds",
                    "Time from a claim's creation to a healthy exit",
                )),
            )?,
            waiters: gauge("waiters", "Requests being held")?,
            sessions: gauge("sessions", "Sessions known")?,
            pods: gauges("pods", "Pods of ours in the namespace", &["state"])?,
            pods_limit: gauge("pods_limit", "Limit on pods")?,
            tunnels_open: gauge("tunnels_open", "Open tunnels")?,
            connections_open: gauge("connections_open", "Open client connections")?,
            connections_unauthenticated: gauge(
                "connections_unauthenticated",
                "Open client connections that have not logged in",
            )?,
            connections_evicted: counter(
                "connections_evicted_total",
                "Connections closed before a login, for newer ones or those who have",
            )?,
            connections_moved: counter(
                "connections_moved_total",
                "Connections handed from one data thread to another that had fewer",
            )?,
            bytes: counters("bytes_total", "Bytes relayed", &["direction"])?,
            accept_paused: counter(
                "accept_paused_total",
                "Pauses of accepting for want of file descriptors",
            )?,
            api_requests: counters(
                "kubernetes_requests_total",
                "Requests to the Kubernetes API",
                &["verb", "outcome"],
            )?,
            watch_restarts: counters(
                "watch_restarts_total",
                "Watches that broke and were restarted",
                &["resource"],
            )?,
            leader: gauge("leader", "1 while this replica is the leader")?,
            exits_failed: counters(
                "exits_failed_total",
                "Pods replaced or given up by the leader",
                &["reason"],
            )?,
            start_backoffs: gauge("start_backoffs", "Locations whose starts rest since they fail")?,
            claims_reaped: counter("claims_reaped_total", "Claims reaped as idle")?,
            logins: counters("logins_total", "Password checks", &["outcome"])?,
            account_quota: counters(
                "account_quota_total",
                "Requests refused by a limit of their account",
                &["limit"],
            )?,
            accounts: gauge("accounts", "Accounts that can log in")?,
            servers: gauge("servers", "Servers in the list in use")?,
            servers_age: gauges("servers_age_seconds", "Age of the list in use", &["source"])?,
            servers_refreshes: counters(
                "servers_refreshes_total",
                "Refreshes of the server list that ended",
                &["outcome"],
            )?,
            reload_errors: counters("reload_errors_total", "Re-reads of a file that failed", &["file"])?,
            log_dropped: counter("log_dropped_total", "Log lines dropped for want of room")?,
            process: Registry::new(),
            registry: r.clone(),
        };
        let build = gauges("build_info", "Build of this process; always 1", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        #[cfg(target_os = "linux")]
        metrics.process.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(metrics)
    }

    /// All metrics in Prometheus' text format.
    ///
    /// # Errors
    ///
    /// When a metric cannot be written as text.
    pub fn gather(&self) -> prometheus::Result<String> {
        let mut text = Vec::with_capacity(16 * 1024);
        let encoder = TextEncoder::new();
        encoder.encode(&self.registry.gather(), &mut text)?;
        encoder.encode(&self.process.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_registers_and_is_told() {
        let metrics = Metrics::new().unwrap();
        metrics.requests.with_label_values(&["connect", "ok"]).inc();
        let text = metrics.gather().unwrap();
        assert!(text.contains("gluetun_gateway_requests_total{kind=\"connect\",outcome=\"ok\"} 1"), "{text}");
        assert!(text.contains("gluetun_gateway_build_info{version="), "{text}");
    }
}
