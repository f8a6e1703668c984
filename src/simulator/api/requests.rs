//! What requests were served, for tests and benches that count them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::faults::{Match, RequestInfo, Verb};

/// Requests that are kept one by one. Older ones remain in the totals only.
const KEPT: usize = 65_536;

/// A request and how it was answered.
#[derive(Clone, Debug, Serialize)]
pub struct Served {
    /// The request.
    #[serde(flatten)]
    pub request: RequestInfo,
    /// HTTP status code; 0 when the connection was closed instead.
    pub status: u16,
}

#[derive(Default)]
struct Inner {
    kept: VecDeque<Served>,
    totals: BTreeMap<(Verb, String), u64>,
}

/// Requests for resources that were served since the start or the last reset: one entry each, written
/// when the answer begins. Discovery and health checks are not counted. A clone is the same log.
#[derive(Clone, Default)]
pub struct RequestLog(Arc<Mutex<Inner>>);

impl RequestLog {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record(&self, request: RequestInfo, status: u16) {
        let mut log = self.lock();
        *log.totals.entry((request.verb, request.resource.clone())).or_default() += 1;
        if log.kept.len() == KEPT {
            log.kept.pop_front();
        }
        log.kept.push_back(Served { request, status });
    }

    /// Number of all requests.
    pub fn total(&self) -> u64 {
        self.lock().totals.values().sum()
    }

    /// Number of requests that `matching` means, among the newest 65 536.
    pub fn count(&self, matching: &Match) -> usize {
        self.lock().kept.iter().filter(|served| matching.matches(&served.request)).count()
    }

    /// The requests that `matching` means, among the newest 65 536, in the order of their answers.
    pub fn matching(&self, matching: &Match) -> Vec<Served> {
        self.lock().kept.iter().filter(|served| matching.matches(&served.request)).cloned().collect()
    }

    /// Numbers of requests by verb and resource, as `create pods`.
    pub fn summary(&self) -> BTreeMap<String, u64> {
        let log = self.lock();
        let name = |verb: &Verb, resource: &str| format!("{} {resource}", verb.as_str());
        log.totals.iter().map(|((verb, resource), n)| (name(verb, resource), *n)).collect()
    }

    /// Forgets everything.
    pub fn reset(&self) {
        *self.lock() = Inner::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(verb: Verb, resource: &str, name: &str, agent: &str) -> RequestInfo {
        RequestInfo {
            verb,
            resource: resource.into(),
            namespace: Some("ns".into()),
            name: Some(name.into()),
            user_agent: agent.into(),
        }
    }

    #[test]
    fn counts_by_everything() {
        let log = RequestLog::default();
        log.record(request(Verb::Create, "leases", "gw-a", "gateway-0"), 201);
        log.record(request(Verb::Patch, "leases", "gw-a", "gateway-0"), 200);
        log.record(request(Verb::Patch, "leases", "gw-b", "gateway-1"), 404);
        log.record(request(Verb::Patch, "pods/status", "p", "kubelet"), 200);
        assert_eq!(log.total(), 4);
        assert_eq!(log.count(&Match::any()), 4);
        assert_eq!(log.count(&Match::on(Verb::Patch, "leases")), 2);
        assert_eq!(log.count(&Match::on(Verb::Patch, "leases").named("gw-*").from_agent("gateway-1")), 1);
        assert_eq!(log.count(&Match::on(Verb::Patch, "pods")), 0);
        assert_eq!(log.matching(&Match::any().named("gw-b"))[0].status, 404);
        assert_eq!(log.summary()["patch leases"], 2);
        log.reset();
        assert_eq!((log.total(), log.count(&Match::any())), (0, 0));
    }

    #[test]
    fn old_requests_leave_the_log_but_not_the_totals() {
        let log = RequestLog::default();
        for _ in 0..KEPT + 5 {
            log.record(request(Verb::Get, "pods", "p", ""), 200);
        }
        assert_eq!(log.count(&Match::any()), KEPT);
        assert_eq!(log.total(), KEPT as u64 + 5);
    }
}
