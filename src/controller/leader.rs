//! The election: one Lease, held by the replica that controls.
//!
//! Written here rather than taken from a crate: those that exist judge a holder's expiry by the times it
//! wrote, or take the Lease over without its resource version, so that two may hold it. Here a holder is
//! given up only when its Lease has not changed for its whole duration *by this machine's monotonic
//! clock*, every write carries the resource version that was read, and a holder stops at a deadline well
//! before others may take over.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::TARGET;
use crate::metrics::Metrics;
use crate::session::api::{ApiError, Verb, call};
use crate::session::claim::micro_time;

/// Name of the Lease. It has no label of a claim, so no watch of claims sees it.
pub const LEASE: &str = "gluetun-gateway-leader";

/// After how long without a change another replica takes the Lease.
const DURATION: Duration = Duration::from_secs(15);

/// How long after a renewal was *sent* this replica still counts as the leader. The difference to
/// [`DURATION`] is what a slow write, or a clock that runs differently, may cost.
const DEADLINE: Duration = Duration::from_secs(10);

/// Between two renewals.
const RENEW: Duration = Duration::from_secs(3);

/// Between two tries to renew, and between two looks at another's Lease: about as long as a new leader
/// is waited for after one that left in good order.
const RETRY: Duration = Duration::from_secs(1);

/// For one call.
const CALL: Duration = Duration::from_secs(3);

/// For giving the Lease up: a gateway that stops does not wait for long.
const RELEASE: Duration = Duration::from_secs(1);

/// Until when this replica leads, unless it renews.
pub(super) type Until = Instant;

/// One replica's part in the election.
pub(super) struct Elector {
    leases: Api<Lease>,
    identity: String,
    metrics: Arc<Metrics>,
}

/// The Lease as this replica last wrote it.
pub(super) struct Held {
    lease: Lease,
    /// Until when this replica leads.
    pub(super) until: Until,
}

/// Another's Lease as it was last seen to change.
struct Sighting {
    version: Option<String>,
    at: Instant,
}

impl Elector {
    pub(super) fn new(leases: Api<Lease>, identity: String, metrics: Arc<Metrics>) -> Self {
        Self { leases, identity, metrics }
    }

    /// Waits until this replica holds the Lease.
    pub(super) async fn acquire(&self) -> Held {
        let mut sighting = None;
        let mut told = None;
        loop {
            match self.try_acquire(&mut sighting).await {
                Ok(held) => {
                    info!(target: TARGET, identity = self.identity, "leading");
                    return held;
                }
                Err(Some(error)) => {
                    let text = error.to_string();
                    if told.as_ref() != Some(&text) {
                        warn!(target: TARGET, error = text, lease = LEASE, "cannot take part in the election");
                        told = Some(text);
                    }
                }
                Err(None) => told = None,
            }
            sleep(RETRY).await;
        }
    }

    /// `Err(None)` when another holds it, or was faster.
    async fn try_acquire(&self, sighting: &mut Option<Sighting>) -> Result<Held, Option<ApiError>> {
        let lease = match self.get().await {
            Ok(lease) => lease,
            Err(ApiError::NotFound) => {
                return self.create().await.map_err(|error| match error {
                    ApiError::Conflict => None,
                    error => Some(error),
                });
            }
            Err(error) => return Err(Some(error)),
        };
        let version = lease.metadata.resource_version.clone();
        if sighting.as_ref().is_none_or(|seen| seen.version != version) {
            *sighting = Some(Sighting { version, at: Instant::now() });
        }
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        let duration = spec.and_then(|spec| spec.lease_duration_seconds).and_then(|s| u64::try_from(s).ok());
        let duration = duration.map_or(DURATION, Duration::from_secs);
        let expired = sighting.as_ref().is_some_and(|seen| seen.at.elapsed() > duration);
        // One's own name: this container was restarted, and what it was before has ended.
        if holder.is_empty() || holder == self.identity || expired {
            match self.write(lease, true).await {
                Ok(held) => return Ok(held),
                Err(ApiError::Conflict | ApiError::NotFound) => {}
                Err(error) => return Err(Some(error)),
            }
        }
        Err(None)
    }

    /// Renews for as long as that works, and says each time until when this replica leads. Returns when
    /// it no longer does.
    pub(super) async fn keep(&self, mut held: Held, until: &watch::Sender<Until>) {
        let mut next = Instant::now() + RENEW;
        loop {
            sleep_until(next.min(held.until)).await;
            if Instant::now() >= held.until {
                warn!(target: TARGET, "leadership lost: its Lease could not be renewed in time");
                return;
            }
            next = Instant::now() + RETRY;
            match self.renew(&held).await {
                Ok(renewed) => {
                    held = renewed;
                    next = Instant::now() + RENEW;
                    until.send_replace(held.until);
                }
                Err(ApiError::Conflict) => {
                    warn!(target: TARGET, "leadership lost: another replica holds its Lease");
                    return;
                }
                Err(error) => debug!(target: TARGET, %error, "the leader's Lease could not be renewed yet"),
            }
        }
    }

    async fn renew(&self, held: &Held) -> Result<Held, ApiError> {
        match self.write(held.lease.clone(), false).await {
            // Somebody deleted it: whoever creates it leads.
            Err(ApiError::NotFound) => self.create().await,
            Err(ApiError::Conflict) => {
                // A write of ours whose answer was lost, or another's.
                let lease = self.get().await?;
                let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
                if holder != Some(self.identity.as_str()) {
                    return Err(ApiError::Conflict);
                }
                self.write(lease, false).await
            }
            result => result,
        }
    }

    /// Gives the Lease up, so that another replica need not wait until it expires. Only after everything
    /// that this leader has begun has ended.
    pub(super) async fn release(&self) {
        let released = async {
            let mut lease = self.get().await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() != Some(self.identity.as_str()) {
                return Ok(());
            }
            spec.holder_identity = None;
            spec.renew_time = Some(micro_time(SystemTime::now()));
            self.replace(&lease).await.map(|_| ())
        };
        match tokio::time::timeout(RELEASE, released).await.unwrap_or(Err(ApiError::Timeout)) {
            Ok(()) => info!(target: TARGET, "leadership given up"),
            Err(error) => debug!(target: TARGET, %error, "leadership could not be given up; it will expire"),
        }
    }

    async fn create(&self) -> Result<Held, ApiError> {
        let sent = Instant::now();
        let lease = Lease {
            metadata: ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() },
            spec: Some(self.spec(LeaseSpec::default(), true)),
        };
        let params = PostParams::default();
        let create = self.leases.create(&params, &lease);
        match call(&self.metrics, Verb::Create, CALL, create).await {
            Ok(lease) => Ok(Held { lease, until: sent + DEADLINE }),
            Err(ApiError::AlreadyExists) => Err(ApiError::Conflict),
            Err(error) => Err(error),
        }
    }

    async fn write(&self, mut lease: Lease, acquire: bool) -> Result<Held, ApiError> {
        let sent = Instant::now();
        let spec = lease.spec.take().unwrap_or_default();
        lease.spec = Some(self.spec(spec, acquire));
        let lease = self.replace(&lease).await?;
        Ok(Held { lease, until: sent + DEADLINE })
    }

    fn spec(&self, before: LeaseSpec, acquire: bool) -> LeaseSpec {
        let now = Some(micro_time(SystemTime::now()));
        let changes = before.holder_identity.as_deref() != Some(self.identity.as_str());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            lease_transitions: Some(
                before.lease_transitions.unwrap_or(0).saturating_add(i32::from(acquire && changes)),
            ),
            acquire_time: if acquire { now.clone() } else { before.acquire_time.clone() },
            renew_time: now,
            ..before
        }
    }

    async fn get(&self) -> Result<Lease, ApiError> {
        call(&self.metrics, Verb::Get, CALL, self.leases.get(LEASE)).await
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, ApiError> {
        let params = PostParams::default();
        call(&self.metrics, Verb::Update, CALL, self.leases.replace(LEASE, &params, lease)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;
    use http::{Request, Response, StatusCode};
    use http_body_util::Full;
    use kube::Client;
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    /// A Lease as an API server keeps it, and whether it answers.
    #[derive(Default)]
    struct Server {
        lease: Mutex<Option<Lease>>,
        version: Mutex<u64>,
        down: Mutex<bool>,
    }

    impl Server {
        fn set_down(&self, down: bool) {
            *self.down.lock().unwrap() = down;
        }

        fn holder(&self) -> Option<String> {
            self.lease.lock().unwrap().as_ref()?.spec.as_ref()?.holder_identity.clone()
        }

        fn answer(&self, method: &http::Method, body: &[u8]) -> (StatusCode, Value) {
            let failure = |code: u16, reason: &str| {
                let body = json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason});
                (StatusCode::from_u16(code).unwrap(), body)
            };
            if *self.down.lock().unwrap() {
                return failure(503, "ServiceUnavailable");
            }
            let mut lease = self.lease.lock().unwrap();
            let written = |version: &Mutex<u64>| {
                let mut written: Lease = serde_json::from_slice(body).unwrap();
                let mut version = version.lock().unwrap();
                *version += 1;
                written.metadata.resource_version = Some(version.to_string());
                written
            };
            match (method.as_str(), lease.as_mut()) {
                ("GET" | "PUT", None) => return failure(404, "NotFound"),
                ("GET", Some(_)) => {}
                ("POST", Some(_)) => return failure(409, "AlreadyExists"),
                ("POST", None) => *lease = Some(written(&self.version)),
                ("PUT", Some(current)) => {
                    let given: Lease = serde_json::from_slice(body).unwrap();
                    if given.metadata.resource_version != current.metadata.resource_version {
                        return failure(409, "Conflict");
                    }
                    *current = written(&self.version);
                }
                (other, _) => panic!("{other}"),
            }
            (StatusCode::OK, serde_json::to_value(lease.as_ref().unwrap()).unwrap())
        }
    }

    fn elector(server: &Arc<Server>, identity: &str) -> Elector {
        let server = Arc::clone(server);
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = Arc::clone(&server);
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await?;
                let (status, value) = server.answer(&parts.method, &body);
                let response = Response::builder().status(status).header("content-type", "application/json");
                response
                    .body(Full::new(Bytes::from(value.to_string())))
                    .map_err(|error| Box::new(error) as Box<dyn std::error::Error + Send + Sync>)
            }
        });
        let client = Client::new(service, "ns");
        Elector::new(Api::default_namespaced(client), identity.into(), Arc::new(Metrics::new().unwrap()))
    }

    /// Keeps the Lease until it is lost, and says when that was.
    fn keep(elector: Elector, held: Held) -> (tokio::task::JoinHandle<Elector>, watch::Receiver<Until>) {
        let (sender, receiver) = watch::channel(held.until);
        let task = tokio::spawn(async move {
            elector.keep(held, &sender).await;
            elector
        });
        (task, receiver)
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_two_leads_and_the_other_follows_when_it_has_expired() {
        let server = Arc::new(Server::default());
        let (a, b) = (elector(&server, "a"), elector(&server, "b"));
        let held = a.acquire().await;
        let start = Instant::now();
        assert_eq!(held.until, start + DEADLINE);
        // `a` hangs: it never renews.
        let second = b.acquire().await;
        assert_eq!(server.holder().as_deref(), Some("b"));
        let waited = start.elapsed();
        assert!(waited > DURATION && waited < DURATION + 2 * RETRY, "{waited:?}");
        assert!(second.until > held.until + (DURATION - DEADLINE), "no moment has two leaders");
        let spec = second.lease.spec.unwrap();
        assert_eq!(spec.lease_transitions, Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_renews_is_never_taken_over_however_its_clock_is() {
        let server = Arc::new(Server::default());
        let a = elector(&server, "a");
        let held = a.acquire().await;
        // Its written times are of long ago.
        server.lease.lock().unwrap().as_mut().unwrap().spec.as_mut().unwrap().renew_time =
            Some(micro_time(SystemTime::UNIX_EPOCH));
        let (task, until) = keep(a, held);
        let b = elector(&server, "b");
        let taken = tokio::time::timeout(Duration::from_secs(300), b.acquire()).await;
        assert!(taken.is_err());
        assert!(*until.borrow() > Instant::now());
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_stops_at_its_deadline_when_it_cannot_renew() {
        let server = Arc::new(Server::default());
        let a = elector(&server, "a");
        let held = a.acquire().await;
        let until = held.until;
        server.set_down(true);
        let (task, _receiver) = keep(a, held);
        let a = task.await.unwrap();
        assert_eq!(Instant::now(), until);
        server.set_down(false);
        // It was not taken meanwhile, so it is its own again at once.
        let again = a.acquire().await;
        assert_eq!(Instant::now() + DEADLINE, again.until);
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_outage_costs_no_leadership() {
        let server = Arc::new(Server::default());
        let a = elector(&server, "a");
        let held = a.acquire().await;
        let first = held.until;
        let (task, mut until) = keep(a, held);
        server.set_down(true);
        sleep(Duration::from_secs(8)).await;
        server.set_down(false);
        until.changed().await.unwrap();
        assert!(*until.borrow() > first);
        assert!(!task.is_finished());
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn another_holder_ends_it_at_once_and_a_lost_answer_does_not() {
        let server = Arc::new(Server::default());
        let a = elector(&server, "a");
        let held = a.acquire().await;
        // As if a renewal of `a` had reached the server and its answer had been lost.
        server.lease.lock().unwrap().as_mut().unwrap().metadata.resource_version = Some("77".into());
        let (task, mut until) = keep(a, held);
        until.changed().await.unwrap();
        assert!(!task.is_finished());
        {
            let mut lease = server.lease.lock().unwrap();
            let lease = lease.as_mut().unwrap();
            lease.metadata.resource_version = Some("99".into());
            lease.spec.as_mut().unwrap().holder_identity = Some("b".into());
        }
        let before = Instant::now();
        task.await.unwrap();
        assert!(before.elapsed() <= RENEW + RETRY);
        assert_eq!(server.holder().as_deref(), Some("b"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_released_lease_is_taken_by_the_next_look_and_a_restarted_holder_has_it_at_once() {
        let server = Arc::new(Server::default());
        let a = elector(&server, "a");
        let _held = a.acquire().await;
        let start = Instant::now();
        let _again = elector(&server, "a").acquire().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        a.release().await;
        assert_eq!(server.holder(), None);
        let b = elector(&server, "b");
        let _held = b.acquire().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        a.release().await;
        assert_eq!(server.holder().as_deref(), Some("b"), "what is not one's own is not released");
    }
}
