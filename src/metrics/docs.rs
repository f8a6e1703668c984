//! `docs/metrics.md` and the code name the same metrics, with the same types and labels.

use std::collections::BTreeSet;

use prometheus::core::Collector;
use prometheus::proto::{MetricFamily, MetricType};

use super::Metrics;
use crate::servers::{JobFailure, SourceKind};
use crate::session::FailureClass;
use crate::session::pod::PodState;

/// Name, type and labels of a metric.
type Row = (String, &'static str, Vec<String>);

fn row(prefix: &str, family: &MetricFamily, labels: Vec<String>) -> Row {
    let kind = match family.get_field_type() {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::HISTOGRAM => "histogram",
        MetricType::SUMMARY => "summary",
        MetricType::UNTYPED => "untyped",
    };
    (format!("{prefix}{}", family.name()), kind, labels)
}

/// What the code has. Taken apart field by field, without `..`: a metric that is added and not listed
/// here does not compile.
fn in_code(metrics: &Metrics) -> BTreeSet<Row> {
    let Metrics {
        registry,
        process,
        requests,
        hold_seconds,
        cold_starts,
        cold_start_seconds,
        waiters,
        sessions,
        pods,
        pods_limit,
        tunnels_open,
        connections_open,
        connections_unauthenticated,
        connections_evicted,
        connections_moved,
        bytes,
        accept_paused,
        api_requests,
        watch_restarts,
        leader,
        exits_failed,
        start_backoffs,
        claims_reaped,
        logins,
        account_quota,
        accounts,
        servers,
        servers_age,
        servers_refreshes,
        reload_errors,
        log_dropped,
    } = metrics;
    let all: [&dyn Collector; 29] = [
        requests,
        hold_seconds,
        cold_starts,
        cold_start_seconds,
        waiters,
        sessions,
        pods,
        pods_limit,
        tunnels_open,
        connections_open,
        connections_unauthenticated,
        connections_evicted,
        connections_moved,
        bytes,
        accept_paused,
        api_requests,
        watch_restarts,
        leader,
        exits_failed,
        start_backoffs,
        claims_reaped,
        logins,
        account_quota,
        accounts,
        servers,
        servers_age,
        servers_refreshes,
        reload_errors,
        log_dropped,
    ];
    // From the descriptions, which are there before the first child is.
    let ours = all.into_iter().map(|metric| {
        let labels = metric.desc().iter().flat_map(|d| d.variable_labels.clone()).collect();
        row("gluetun_gateway_", &metric.collect()[0], labels)
    });
    // From a scrape: what has no field, and what another crate makes.
    let scraped = registry.gather().into_iter().chain(process.gather()).map(|family| {
        let labels = family.get_metric()[0].get_label().iter().map(|l| l.name().to_owned()).collect();
        row("", &family, labels)
    });
    ours.chain(scraped).collect()
}

fn documentation() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap()
}

/// What the documentation has: lines of its tables, as ``| `name` | type | `label`: values | meaning |``.
fn in_documentation(text: &str) -> BTreeSet<Row> {
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, kind, labels, meaning] = cells[..] else { panic!("not four cells: {line}") };
        assert!(!meaning.is_empty(), "{line}");
        let kind = ["counter", "gauge", "histogram"].into_iter().find(|k| *k == kind).unwrap();
        let labels = labels.split("; ").filter_map(|l| l.strip_prefix('`')?.split_once("`: "));
        (name.trim_matches('`').to_owned(), kind, labels.map(|(label, _)| label.to_owned()).collect())
    })
    .collect()
}

#[test]
fn the_documentation_and_the_code_have_the_same_metrics() {
    let metrics = Metrics::new().unwrap();
    let (code, text) = (in_code(&metrics), in_documentation(&documentation()));
    let missing: Vec<_> = code.difference(&text).collect();
    let stale: Vec<_> = text.difference(&code).collect();
    assert!(missing.is_empty() && stale.is_empty(), "not documented: {missing:#?}\nnot there: {stale:#?}");
}

#[test]
fn the_documentation_has_every_value_of_closed_labels() {
    let text = documentation();
    let classes = FailureClass::ALL.iter().map(|class| class.as_str());
    let sources = SourceKind::ALL.iter().map(|source| source.as_str());
    let failures = JobFailure::ALL.iter().map(|failure| failure.as_str());
    let quotas = crate::accounts::Quota::ALL.iter().map(|quota| quota.as_str());
    let states = PodState::ALL.iter().map(|state| state.as_str());
    for value in classes.chain(sources).chain(failures).chain(states).chain(quotas) {
        assert!(text.contains(&format!("`{value}`")), "{value}");
    }
}

#[test]
fn a_scrape_has_exactly_the_names_of_the_documentation() {
    let metrics = Metrics::new().unwrap();
    metrics.requests.with_label_values(&["connect", "ok"]).inc();
    let documented = in_documentation(&documentation());
    for line in metrics.gather().unwrap().lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(documented.iter().any(|(n, k, _)| n == name && *k == kind), "{line}");
        }
    }
}
