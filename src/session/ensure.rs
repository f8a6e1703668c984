//! What is done for those who wait: the claim is made, kept alive while they wait and looked after until
//! a watch shows it, and the assigned pod's health server is asked. One task for each session that has
//! waiters, on the control plane; it ends with the last of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use tokio::time::Instant;

use super::api::{ApiError, ForbiddenKind, Verb, call, missing_right};
use super::claim::{self, Claim, NewClaim, Replace};
use super::entry::{ControlError, Entry, State, is_expired};
use super::pod::{HEALTH_PORT, PodView, Stage};
use super::probe::{Health, health};
use super::sessions::{Shared, scopeguard};

/// Each call's limit: a held request must have time for another try.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(3);
/// While someone waits, the claim is renewed this often: the leader takes 15 s of silence for lost
/// interest.
const RENEW_WAITING: Duration = Duration::from_secs(5);
/// How often a claim that no watch has shown yet is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// First and longest pause after a failed request.
pub(super) const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How often a starting pod's health server is asked. A question costs a loopback or one-hop
/// connection; the answer decides how long a held request waits after the VPN is up.
pub(super) const PROBE_PERIOD: Duration = Duration::from_millis(10);
/// The same, once the start has taken longer than a start usually does.
const PROBE_PERIOD_LATE: Duration = Duration::from_millis(100);
const PROBE_LATE: Duration = Duration::from_secs(10);
/// A SYN dropped during firewall set-up costs this, not the kernel's second.
pub(super) const PROBE_LIMIT: Duration = Duration::from_millis(250);
/// How long the deletion of a claim that nobody wants is tried.
const DELETE_FOR: Duration = Duration::from_secs(600);

/// Looks after one session while anyone waits for it.
pub(super) struct Ensure {
    pub(super) shared: Arc<Shared>,
    pub(super) leases: Api<Lease>,
    pub(super) entry: Arc<Entry>,
}

impl Ensure {
    /// Runs until nobody waits any more; at least once, for a request that does not wait.
    pub(super) async fn run(self) {
        loop {
            // Also when it panics: whoever comes next has it taken up anew.
            let ensuring = scopeguard(|| self.entry.ensuring.store(false, Ordering::Release));
            self.hold().await;
            drop(ensuring);
            // Someone may have come between the last look and the store, and found the flag set.
            if self.entry.waiters() == 0 || self.entry.ensuring.swap(true, Ordering::AcqRel) {
                break;
            }
        }
        if self.entry.is_abandoned() && self.entry.waiters() == 0 {
            self.give_up().await;
        }
        self.shared.table.forget(&self.entry.key);
    }

    /// Deletes the claim of a session that nobody will ask for again. By its name alone: a creation whose
    /// answer was lost may have made one that was never seen.
    async fn give_up(&self) {
        if delete_claim(&self.shared, &self.leases, &self.entry.name, None).await {
            if let Some(claim) = self.entry.state().claim() {
                self.gone(claim);
            }
            tracing::info!(session = %self.entry.name, "start given up, claim deleted");
        }
    }

    async fn hold(&self) {
        let mut state = self.entry.subscribe();
        let mut created: Option<Instant> = None;
        let mut renewed: Option<Instant> = None;
        let mut looked = Instant::now();
        let mut retry = RETRY.0;
        let mut first = true;
        loop {
            let now = state.borrow_and_update().clone();
            if matches!(now, State::Ready { .. })
                && let Some(at) = created.take()
            {
                self.shared.note_start(at.elapsed());
                self.shared.metrics.cold_start_seconds.observe(at.elapsed().as_secs_f64());
                self.shared.metrics.cold_starts.with_label_values(&["ready"]).inc();
            }
            if self.entry.waiters() == 0 && (!first || self.entry.is_abandoned()) {
                return;
            }
            let round = self.entry.rounds();
            let result = match &now {
                State::Absent => match self.create().await {
                    Ok(made) => {
                        looked = Instant::now();
                        // One that someone else made may be about to be given up: it is renewed at once.
                        renewed = made.then(Instant::now);
                        created = created.or(renewed);
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
                State::Waiting { claim, .. } | State::Ready { claim, .. } if is_expired(claim) => {
                    self.replace(claim, claim::EXPIRED).await
                }
                State::Ready { claim, .. } if !self.entry.is_fresh() => self.freshen(claim).await,
                State::Waiting { claim, .. } if renewed.is_none_or(|at| at.elapsed() >= RENEW_WAITING) => {
                    renewed = Some(Instant::now());
                    looked = Instant::now();
                    self.renew(claim).await
                }
                State::Waiting { claim, .. }
                    if looked.elapsed() >= LOOK_AGAIN && !self.shared.index().is_seen(&claim.name) =>
                {
                    looked = Instant::now();
                    self.get().await
                }
                State::Waiting { .. } | State::Ready { .. } => Ok(()),
                State::Rejected { reason, .. } => {
                    if created.take().is_some() {
                        self.shared
                            .metrics
                            .cold_starts
                            .with_label_values(&[&outcome_label(&reason.code)])
                            .inc();
                    }
                    Ok(())
                }
                State::Lost { .. } => Ok(()),
            };
            first = false;
            let pause = match result {
                Ok(()) => {
                    retry = RETRY.0;
                    LOOK_AGAIN
                }
                // Whoever began to wait meanwhile is not told: it is tried anew.
                Err(_) if round != self.entry.rounds() => Duration::ZERO,
                Err(error) => {
                    self.note(&error);
                    // Telling it to those who wait is no news to us: the next try is after a pause.
                    state.mark_unchanged();
                    retry = (retry * 2).min(RETRY.1);
                    retry
                }
            };
            // What the request itself changed is looked at without waiting.
            if state.has_changed().unwrap_or(false) {
                continue;
            }
            let pod = match &now {
                State::Waiting { pod, .. } => pod.clone(),
                State::Absent | State::Ready { .. } | State::Rejected { .. } | State::Lost { .. } => None,
            };
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                () = self.entry.waiters_changed.notified() => {}
                () = tokio::time::sleep(pause) => {}
                () = self.probe(pod.as_deref()) => {}
            }
        }
    }

    /// Makes the claim; true if it was this replica that did.
    async fn create(&self) -> Result<bool, ApiError> {
        let lifetimes = self.entry.lifetimes();
        let lease = NewClaim {
            key: &self.entry.key,
            idle: lifetimes.idle.unwrap_or(self.shared.idle_timeout),
            ttl: lifetimes.ttl,
            no_wait: lifetimes.wait == Some(Duration::ZERO),
            now: SystemTime::now(),
        }
        .lease();
        let post = PostParams::default();
        let made =
            call(&self.shared.metrics, Verb::Create, CALL_LIMIT, self.leases.create(&post, &lease)).await;
        match made {
            Ok(lease) => {
                self.reached();
                tracing::info!(
                    session = %self.entry.name, account = %self.entry.key.account,
                    selector = %self.entry.key.selector_text(), "session claimed"
                );
                self.apply(&lease);
                Ok(true)
            }
            Err(ApiError::AlreadyExists) => self.get().await.map(|()| false),
            Err(error) => Err(error),
        }
    }

    /// Reads the claim, and notes that it is gone if it is, or another one in its place.
    async fn get(&self) -> Result<(), ApiError> {
        let found =
            call(&self.shared.metrics, Verb::Get, CALL_LIMIT, self.leases.get_opt(&self.entry.name)).await?;
        self.reached();
        match found {
            Some(lease) => self.apply(&lease),
            None => {
                if let Some(claim) = self.entry.state().claim() {
                    self.gone(claim);
                }
            }
        }
        Ok(())
    }

    async fn renew(&self, claim: &Claim) -> Result<(), ApiError> {
        let now = SystemTime::now();
        let older = self.shared.index().draining(claim);
        let patch = claim::renewal(&claim.uid, now, &older, now);
        renew(&self.shared, &self.leases, &self.entry, claim, &patch).await
    }

    /// Renews a claim that has gone long without, before its exit is used. Gone means a miss; any other
    /// error lets the exit be used as it is.
    async fn freshen(&self, claim: &Claim) -> Result<(), ApiError> {
        match self.renew(claim).await {
            Ok(()) => Ok(()),
            Err(error) => {
                self.entry.excuse(LOOK_AGAIN);
                Err(error)
            }
        }
    }

    /// Asks the leader to replace the exit, unless that was asked already.
    async fn replace(&self, claim: &Claim, why: &str) -> Result<(), ApiError> {
        if claim.replace.as_ref().is_some_and(|asked| asked.transition == claim.transition) {
            return Ok(());
        }
        let word = Replace { transition: claim.transition, why: why.to_owned() };
        let patch = claim::replacement(&claim.uid, &word);
        renew(&self.shared, &self.leases, &self.entry, claim, &patch).await
    }

    /// Asks the health server of a pod that starts until it says 200. Never ends otherwise.
    async fn probe(&self, pod: Option<&PodView>) {
        let starting = pod.filter(|pod| pod.stage == Stage::Running && !pod.ready);
        let Some((pod, ip)) = starting.and_then(|pod| Some((pod, pod.ip?))) else {
            return std::future::pending().await;
        };
        let addr = SocketAddr::new(ip, HEALTH_PORT);
        let begun = Instant::now();
        while health(addr, PROBE_LIMIT).await != Health::Healthy {
            let late = begun.elapsed() > PROBE_LATE;
            tokio::time::sleep(if late { PROBE_PERIOD_LATE } else { PROBE_PERIOD }).await;
        }
        self.shared.index().mark_healthy(&self.shared.table, pod);
    }

    fn apply(&self, lease: &Lease) {
        apply(&self.shared, lease);
    }

    fn gone(&self, claim: &Claim) {
        self.shared.index().remove_claim(&self.shared.table, &claim.name, &claim.uid, false);
    }

    fn reached(&self) {
        self.entry.set_control_error(None);
    }

    fn note(&self, error: &ApiError) {
        note(&self.entry, error);
    }
}

/// A reason's code, if it may be a metric's label.
fn outcome_label(code: &str) -> String {
    let known =
        super::failure::FailureClass::parse(code).is_some() || super::failure::code::ALL.contains(&code);
    if known { code.to_owned() } else { "other".to_owned() }
}

/// Sends a patch of the claim, and learns from its answer.
pub(super) async fn renew(
    shared: &Shared,
    leases: &Api<Lease>,
    entry: &Entry,
    claim: &Claim,
    patch: &serde_json::Value,
) -> Result<(), ApiError> {
    let params = PatchParams::default();
    let patch = Patch::Merge(patch);
    let patched = leases.patch(&claim.name, &params, &patch);
    match call(&shared.metrics, Verb::Patch, CALL_LIMIT, patched).await {
        Ok(lease) => {
            entry.set_control_error(None);
            apply(shared, &lease);
            Ok(())
        }
        // 404: gone. 422 or 409: another claim of the same name, since the patch carries the uid.
        Err(ApiError::NotFound | ApiError::Invalid(_) | ApiError::Conflict) => {
            entry.set_control_error(None);
            shared.index().remove_claim(&shared.table, &claim.name, &claim.uid, false);
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Deletes a claim of which nobody must be left to know. Tries for as long as the API server may be away;
/// tells whether it is gone. Should it not be, the leader ends it as any that nobody renews, unless it is
/// pinned.
pub(super) async fn delete_claim(
    shared: &Shared,
    leases: &Api<Lease>,
    name: &str,
    uid: Option<&str>,
) -> bool {
    let params = match uid {
        Some(uid) => DeleteParams::default()
            .preconditions(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        None => DeleteParams::default(),
    };
    let begun = Instant::now();
    let mut pause = RETRY.0;
    loop {
        match call(&shared.metrics, Verb::Delete, CALL_LIMIT, leases.delete(name, &params)).await {
            // A conflict is another uid: the one that was meant is gone.
            Ok(_) | Err(ApiError::NotFound | ApiError::Conflict) => return true,
            Err(error) if begun.elapsed() > DELETE_FOR => {
                tracing::error!(session = name, %error, "a claim that nobody wants could not be deleted");
                return false;
            }
            Err(error) => tracing::debug!(session = name, %error, "deletion of a claim failed"),
        }
        pause = (pause * 2).min(RETRY.1);
        tokio::time::sleep(pause).await;
    }
}

/// Puts the answer to a request of our own into the index.
pub(super) fn apply(shared: &Shared, lease: &Lease) {
    match Claim::read(lease) {
        Ok(claim) => shared.index().apply_claim(&shared.table, claim, false),
        Err(error) => tracing::warn!(%error, "not a claim of ours"),
    }
}

/// Keeps what went wrong, for those whose time ends meanwhile.
pub(super) fn note(entry: &Entry, error: &ApiError) {
    let kept = match error {
        ApiError::Forbidden(ForbiddenKind::Rights, message) => {
            let right = missing_right(message).unwrap_or_else(|| "use leases".to_owned());
            ControlError::Forbidden(format!("the gateway's service account may not {right}"))
        }
        ApiError::NotFound
        | ApiError::Conflict
        | ApiError::AlreadyExists
        | ApiError::Invalid(_)
        | ApiError::Forbidden(_, _)
        | ApiError::Timeout
        | ApiError::Unavailable(_) => ControlError::Unavailable,
    };
    // A missing right is for a person to mend. That the API server is away is told by the watches, once,
    // and not by each of a thousand sessions.
    if matches!(kept, ControlError::Forbidden(_)) {
        tracing::warn!(session = %entry.name, %error, "the Kubernetes API refused a request for a session");
    } else {
        tracing::debug!(session = %entry.name, %error, "a request for a session failed");
    }
    entry.set_control_error(Some(kept));
}

#[cfg(test)]
mod tests {
    use super::super::sessions::Command;
    use super::super::tests::World;
    use super::*;
    use crate::selector::{Lifetimes, SessionKey};

    /// A client that panics with each request.
    fn broken() -> kube::Client {
        fn answer() -> std::io::Result<http::Response<kube::client::Body>> {
            panic!("for the test")
        }
        kube::Client::new(tower::service_fn(|_: http::Request<kube::client::Body>| async { answer() }), "vpn")
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_whose_task_panicked_is_taken_up_by_the_next_request() {
        let mut world = World::new();
        for _ in 0..2 {
            let sessions = world.sessions.clone();
            let waiting = tokio::spawn(async move {
                let key = SessionKey::parse_canonical("demo-country-se").unwrap();
                sessions.acquire(&key, &Lifetimes::default(), Instant::now() + CALL_LIMIT * 30).await
            });
            let asked = tokio::time::timeout(CALL_LIMIT, world.commands.recv()).await;
            let Ok(Some(Command::Ensure(entry))) = asked else { panic!("nobody looks after it") };
            let leases = Api::namespaced(broken(), "vpn");
            let ensure = Ensure { shared: Arc::clone(&world.shared), leases, entry };
            assert!(tokio::spawn(ensure.run()).await.unwrap_err().is_panic());
            waiting.abort();
        }
    }
}
