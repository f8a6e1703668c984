//! Tests of the table, the index and `acquire()` together, without a cluster: objects go into the index
//! as a watch would bring them, in whatever order.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::claim::{Claim, NewClaim, Reason, ReasonKind, Replace, annotation as note};
use super::entry::State;
use super::pod::{PodView, pod_name};
use super::sessions::{Command, Sessions, Shared};
use super::{AcquireError, Fault};
use crate::metrics::Metrics;
use crate::secret::Secret;
use crate::selector::{Lifetimes, SessionKey};

mod waiting;

pub(super) const UID: &str = "6d9f0f2e-1f7e-4a53-9a51-0d5f6a1b2c3d";

pub(super) struct World {
    pub(super) sessions: Sessions,
    pub(super) shared: Arc<Shared>,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    version: u64,
}

impl World {
    pub(super) fn new() -> Self {
        let (shared, commands) = Shared::new(Arc::new(Metrics::new().unwrap()), Duration::from_secs(300));
        Self { sessions: Sessions(Arc::clone(&shared)), shared, commands, version: 1 }
    }

    /// Somebody who asks for the session's exit, and waits for it.
    fn asks(&self) -> tokio::task::JoinHandle<Result<super::Grant, AcquireError>> {
        let sessions = self.sessions.clone();
        tokio::spawn(async move { sessions.acquire(&key(), &Lifetimes::default(), soon()).await })
    }

    fn claim_with(&mut self, change: impl FnOnce(&mut Lease)) {
        let claim = self.next_claim(change);
        self.shared.index().apply_claim(&self.shared.table, claim, true);
    }

    /// A newer version of the claim, not told to anyone.
    fn next_claim(&mut self, change: impl FnOnce(&mut Lease)) -> Claim {
        let key = key();
        let mut lease = NewClaim {
            key: &key,
            idle: Duration::from_secs(300),
            ttl: None,
            no_wait: false,
            now: SystemTime::now(),
        }
        .lease();
        self.version += 1;
        lease.metadata.uid = Some(UID.to_owned());
        lease.metadata.resource_version = Some(self.version.to_string());
        lease.metadata.creation_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::now()));
        change(&mut lease);
        Claim::read(&lease).unwrap()
    }

    /// A claim that is past three quarters of its idle timeout.
    fn quiet_claim(&mut self) {
        let old = SystemTime::now() - Duration::from_secs(226);
        self.claim_with(|lease| {
            lease.spec.get_or_insert_default().renew_time = Some(super::claim::micro_time(old));
        });
    }

    /// A request that does not wait, and that has asked for the claim to be renewed.
    async fn unwilling(&mut self) -> tokio::task::JoinHandle<Result<super::Grant, AcquireError>> {
        let sessions = self.sessions.clone();
        let asking =
            tokio::spawn(
                async move { sessions.acquire(&key(), &Lifetimes::default(), Instant::now()).await },
            );
        assert!(matches!(self.commands.recv().await, Some(Command::Ensure(_))));
        asking
    }

    pub(super) fn claim(&mut self) {
        self.claim_with(|_| {});
    }

    pub(super) fn pod(&mut self, transition: i32, ready: bool) -> PodView {
        let view = PodView::read(&pod(transition, ready));
        self.shared.index().apply_pod(&self.shared.table, view.clone());
        view
    }

    fn state(&self) -> State {
        self.shared.table.entry(&key()).state()
    }

    fn ready_pod(&self) -> Option<String> {
        self.hit(&key()).map(|grant| grant.exit.pod.to_string())
    }

    fn hit(&self, key: &SessionKey) -> Option<super::Grant> {
        self.sessions.hit(self.sessions.id(key))
    }
}

fn key() -> SessionKey {
    SessionKey::parse_canonical("demo-country-se").unwrap()
}

pub(super) fn pod(transition: i32, ready: bool) -> Pod {
    let name = pod_name(UID, transition);
    serde_json::from_value(json!({
        "metadata": {
            "name": name,
            "uid": format!("pod-{transition}"),
            "labels": { "app": "gluetun-vpn", "pod-id": name.trim_start_matches("gluetun-") },
            "annotations": {
                "gluetun-gateway/claim": key().claim_name(),
                "gluetun-gateway/claim-uid": UID,
                "gluetun-gateway/transition": transition.to_string(),
                "gluetun-gateway/server": "se-mma-wg-001",
                "gluetun-gateway/country": "Sweden",
            },
        },
        "spec": { "containers": [{
            "name": "gluetun",
            "env": [
                { "name": "HTTPPROXY_USER", "value": format!("pod.{transition}") },
                { "name": "HTTPPROXY_PASSWORD", "value": "open-sesame" },
            ],
        }]},
        "status": {
            "phase": "Running",
            "podIP": "127.42.0.1",
            "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }],
            "containerStatuses": [{
                "name": "gluetun", "image": "", "imageID": "", "ready": ready, "restartCount": 0,
                "state": { "running": {} },
            }],
        },
    }))
    .unwrap()
}

fn reason(kind: ReasonKind, code: &str, transition: i32) -> String {
    let reason = Reason {
        kind,
        code: code.to_owned(),
        message: format!("because of {code}"),
        transition,
        attempts: 0,
        servers: Vec::new(),
        backoff: None,
    };
    serde_json::to_string(&reason).unwrap()
}

fn annotate(lease: &mut Lease, key: &str, value: String) {
    lease.metadata.annotations.get_or_insert_default().insert(key.to_owned(), value);
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(90)
}

#[tokio::test]
async fn claim_and_pod_make_an_exit_in_either_order() {
    let mut world = World::new();
    assert!(world.ready_pod().is_none());
    world.claim();
    assert!(world.ready_pod().is_none());
    world.pod(0, true);
    assert_eq!(world.ready_pod(), Some(pod_name(UID, 0)));

    let mut world = World::new();
    world.pod(0, true);
    assert!(world.ready_pod().is_none());
    world.claim();
    assert_eq!(world.ready_pod(), Some(pod_name(UID, 0)));
}

#[tokio::test]
async fn a_pod_of_another_claims_uid_is_no_exit() {
    let mut world = World::new();
    world.claim_with(|lease| lease.metadata.uid = Some("11111111-2222-4333-8444-555555555555".to_owned()));
    world.pod(0, true);
    assert!(world.ready_pod().is_none());
}

#[tokio::test]
async fn the_newest_transition_serves_and_an_older_one_does_not() {
    let mut world = World::new();
    world.claim();
    world.pod(0, true);
    world.claim_with(|lease| lease.spec.get_or_insert_default().lease_transitions = Some(1));
    assert!(world.ready_pod().is_none(), "the old exit only drains");
    world.pod(1, true);
    assert_eq!(world.ready_pod(), Some(pod_name(UID, 1)));
    // A claim that lags behind its pods does not bring the old exit back.
    let mut world = World::new();
    world.claim();
    world.pod(1, true);
    world.pod(0, true);
    assert_eq!(world.ready_pod(), Some(pod_name(UID, 1)));
}

#[tokio::test]
async fn an_older_version_of_a_claim_changes_nothing() {
    let mut world = World::new();
    world.claim_with(|lease| lease.spec.get_or_insert_default().lease_transitions = Some(1));
    world.pod(1, true);
    world.claim_with(|lease| lease.metadata.resource_version = Some("1".to_owned()));
    assert_eq!(world.state().claim().unwrap().transition, 1);
}

#[tokio::test]
async fn a_health_servers_word_is_enough_until_the_kubelet_takes_ready_back() {
    let mut world = World::new();
    world.claim();
    let pod = world.pod(0, false);
    assert!(world.ready_pod().is_none());
    world.shared.index().mark_healthy(&world.shared.table, &pod);
    assert!(world.ready_pod().is_some());
    world.pod(0, true);
    world.pod(0, false);
    assert!(world.ready_pod().is_none(), "it must be asked again");
}

#[tokio::test]
async fn a_vanished_pod_closes_its_tunnels_and_a_changed_one_does_not() {
    let mut world = World::new();
    world.claim();
    let pod = world.pod(0, true);
    let grant = world.hit(&key()).unwrap();
    world.pod(0, false);
    assert!(!grant.exit.gone.is_cancelled());
    world.shared.index().remove_pod(&world.shared.table, &pod.name, &pod.uid);
    assert!(grant.exit.gone.is_cancelled());
    assert!(matches!(world.state(), State::Waiting { pod: None, .. }));
}

#[tokio::test]
async fn activity_is_counted_for_as_long_as_the_grant_lives() {
    let mut world = World::new();
    world.claim();
    world.pod(0, true);
    let entry = world.shared.table.entry(&key());
    let (one, two) = (world.hit(&key()).unwrap(), world.hit(&key()).unwrap());
    assert_eq!((entry.active(), one.exit.active()), (2, 2));
    drop(one);
    drop(two);
    assert_eq!(entry.active(), 0);
}

#[tokio::test]
async fn a_reported_exit_is_left_at_once_and_the_leader_asked_to_replace_it() {
    let mut world = World::new();
    world.claim();
    world.pod(0, true);
    let exit = world.hit(&key()).unwrap().exit;
    world.sessions.report(&exit, Fault::Dead);
    assert!(world.hit(&key()).is_none());
    let Ok(Command::Replace { replace, claim_uid, .. }) = world.commands.try_recv() else { panic!() };
    assert_eq!((replace, &*claim_uid), (Replace { transition: 0, why: "dead".to_owned() }, UID));
    // Its tunnels go on, and a pod's event of before does not bring it back.
    assert!(!exit.gone.is_cancelled());
    world.pod(0, true);
    assert!(world.hit(&key()).is_none());
}

#[tokio::test]
async fn a_replicas_word_that_an_exit_must_be_replaced_holds_for_all() {
    let mut world = World::new();
    world.pod(0, true);
    let word = serde_json::to_string(&Replace { transition: 0, why: "dead".to_owned() }).unwrap();
    world.claim_with(|lease| annotate(lease, note::REPLACE, word));
    assert!(world.hit(&key()).is_none());
}

#[tokio::test]
async fn a_claim_that_went_long_without_renewal_is_no_hit() {
    let mut world = World::new();
    world.pod(0, true);
    world.quiet_claim();
    assert!(world.hit(&key()).is_none(), "older than three quarters of 300 s");
    world.claim();
    assert!(world.hit(&key()).is_some());
}

#[tokio::test]
async fn an_expired_exit_is_no_hit() {
    let mut world = World::new();
    world.pod(0, true);
    let past = super::claim::format_time(SystemTime::now() - Duration::from_secs(1));
    world.claim_with(|lease| annotate(lease, note::EXPIRES, past));
    assert!(world.hit(&key()).is_none());
}

#[tokio::test]
async fn a_pods_own_credentials_mean_that_pod() {
    let mut world = World::new();
    world.claim();
    world.pod(0, true);
    let password = Secret::from("open-sesame".to_owned());
    let grant = world.sessions.by_pod_credentials("pod.0", &password).unwrap();
    assert_eq!(*grant.exit.pod, *pod_name(UID, 0));
    assert!(world.sessions.by_pod_credentials("pod.0", &Secret::from("guess".to_owned())).is_none());
    assert!(world.sessions.by_pod_credentials("pod.9", &password).is_none());
    world.shared.index().remove_claim(&world.shared.table, &key().claim_name(), UID, true);
    assert!(world.sessions.by_pod_credentials("pod.0", &password).is_none());
    assert!(grant.exit.gone.is_cancelled());
}

#[tokio::test]
async fn what_is_known_to_be_gone_is_kept_until_the_watch_has_shown_it() {
    let mut world = World::new();
    world.claim();
    let remove = |world: &World, seen| {
        world.shared.index().remove_claim(&world.shared.table, &key().claim_name(), UID, seen);
        world.shared.index().gone()
    };
    assert_eq!(remove(&world, false), 1);
    // An older event of its brings nothing back.
    world.claim();
    assert!(matches!(world.state(), State::Absent));
    assert_eq!(remove(&world, true), 0);
    // The watch was first: there is nothing to keep.
    assert_eq!(remove(&world, false), 0);
}

#[tokio::test]
async fn a_claim_made_anew_between_two_events_ends_what_the_old_one_had() {
    const OTHER: &str = "11111111-2222-4333-8444-555555555555";
    for seen in [true, false] {
        let mut world = World::new();
        world.claim();
        world.pod(0, true);
        let old = world.hit(&key()).unwrap();
        old.exit.traffic.add_up(7);
        let password = Secret::from("open-sesame".to_owned());
        assert!(world.sessions.by_pod_credentials("pod.0", &password).is_some());
        let late = world.next_claim(|_| {});
        let anew = world.next_claim(|lease| lease.metadata.uid = Some(OTHER.to_owned()));
        world.shared.index().apply_claim(&world.shared.table, anew, seen);
        assert!(old.exit.gone.is_cancelled());
        assert!(world.sessions.by_pod_credentials("pod.0", &password).is_none());
        assert_eq!(world.shared.index().traffic(UID), (0, 0));
        assert_eq!(world.shared.index().is_seen(&key().claim_name()), seen);
        assert!(matches!(world.state(), State::Waiting { claim, pod: None } if claim.uid == OTHER));
        // What comes late of the old one does not bring it back.
        world.shared.index().apply_claim(&world.shared.table, late, true);
        assert_eq!(world.state().claim().unwrap().uid, OTHER);
        world.shared.index().remove_claim(&world.shared.table, &key().claim_name(), UID, true);
        assert_eq!(world.state().claim().unwrap().uid, OTHER);
        assert_eq!(world.shared.index().gone(), 0);
    }
}

#[tokio::test]
async fn a_relist_keeps_what_this_replica_made_and_drops_what_vanished() {
    let mut world = World::new();
    world.claim();
    world.shared.index().replace_claims(&world.shared.table, Vec::new());
    assert!(matches!(world.state(), State::Absent));

    let mut world = World::new();
    let key = key();
    let mut lease = NewClaim {
        key: &key,
        idle: Duration::from_secs(300),
        ttl: Some(Duration::from_secs(60)),
        no_wait: true,
        now: SystemTime::now(),
    }
    .lease();
    lease.metadata.uid = Some(UID.to_owned());
    lease.metadata.resource_version = Some("7".to_owned());
    lease.metadata.creation_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::now()));
    let claim = Claim::read(&lease).unwrap();
    assert_eq!((claim.ttl, claim.no_wait), (Some(Duration::from_secs(60)), true));
    world.shared.index().apply_claim(&world.shared.table, claim, false);
    world.shared.index().replace_claims(&world.shared.table, Vec::new());
    assert!(matches!(world.state(), State::Waiting { .. }), "no watch can have listed it yet");
    assert!(!world.shared.index().is_seen(&key.claim_name()));
    world.claim();
    assert!(world.shared.index().is_seen(&key.claim_name()));
}

#[test]
fn a_renewal_names_the_claims_uid_and_has_six_decimals() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let patch = super::claim::renewal(UID, now, &[2], now);
    assert_eq!(
        patch,
        json!({
            "metadata": { "uid": UID, "annotations": { "gluetun-gateway/renewed-2": "2023-11-14T22:13:20.000000Z" } },
            "spec": { "renewTime": "2023-11-14T22:13:20.000000Z" },
        })
    );
}

#[tokio::test]
async fn a_strict_exit_is_shown_to_nobody_before_its_claim_tells_of_it() {
    let strict = || SessionKey::parse_canonical("demo-country-se-mode-strict").unwrap();
    let mut world = World::new();
    let claim = |world: &mut World, ready: Option<&str>| {
        world.claim_with(|lease| {
            lease.metadata.name = Some(strict().claim_name());
            annotate(lease, note::KEY, strict().canonical());
            if let Some(ready) = ready {
                annotate(lease, note::READY, ready.to_owned());
            }
        });
    };
    let pod = |world: &World, transition| {
        let mut object = pod(transition, true);
        let notes = object.metadata.annotations.as_mut().unwrap();
        notes.insert("gluetun-gateway/claim".to_owned(), strict().claim_name());
        world.shared.index().apply_pod(&world.shared.table, PodView::read(&object));
    };
    claim(&mut world, None);
    pod(&world, 0);
    assert!(world.hit(&strict()).is_none());
    let password = Secret::from("open-sesame".to_owned());
    assert!(world.sessions.by_pod_credentials("pod.0", &password).is_none(), "nor by its own credentials");
    claim(&mut world, Some("0"));
    let exit = world.hit(&strict()).unwrap().exit;
    // A pod of the next transition that comes before its claim is not covered by what that said.
    pod(&world, 1);
    assert!(world.hit(&strict()).is_none());
    world.shared.index().remove_pod(&world.shared.table, &pod_name(UID, 1), "pod-1");
    assert!(world.hit(&strict()).is_some());
    // What this replica has found out is told at once, though the leader has not answered yet.
    world.sessions.report(&exit, Fault::Unreachable);
    let entry = world.shared.table.entry(&strict());
    assert!(matches!(entry.state(), State::Lost { .. }));
}

#[tokio::test]
async fn a_sessions_times_are_those_of_its_claim() {
    let mut world = World::new();
    world.claim_with(|lease| annotate(lease, note::TTL, "10m".to_owned()));
    world.pod(0, true);
    let grant = world.hit(&key()).unwrap();
    assert_eq!(grant.idle, Duration::from_secs(300));
    // Before the leader has noted it.
    let left = grant.expires.unwrap().duration_since(SystemTime::now()).unwrap();
    assert!(left > Duration::from_secs(590) && left <= Duration::from_secs(600), "{left:?}");
}

#[tokio::test]
async fn one_exit_that_goes_takes_only_its_own_login() {
    let mut world = World::new();
    world.claim();
    let old = world.pod(0, true);
    let password = Secret::from("open-sesame".to_owned());
    assert!(world.sessions.by_pod_credentials("pod.0", &password).is_some());
    world.claim_with(|lease| lease.spec.get_or_insert_default().lease_transitions = Some(1));
    world.pod(1, true);
    assert!(world.sessions.by_pod_credentials("pod.1", &password).is_some());
    world.shared.index().remove_pod(&world.shared.table, &old.name, &old.uid);
    assert!(world.sessions.by_pod_credentials("pod.0", &password).is_none());
    assert!(world.sessions.by_pod_credentials("pod.1", &password).is_some());
}

#[test]
fn a_ttl_of_which_no_date_can_be_made_is_cut() {
    let mut world = World::new();
    world.claim_with(|lease| annotate(lease, note::TTL, "99999999999years".to_owned()));
    assert!(
        world.state().claim().unwrap().ttl.is_none_or(|ttl| SystemTime::now().checked_add(ttl).is_some())
    );
    world.claim_with(|lease| annotate(lease, note::TTL, "100000years".to_owned()));
    assert_eq!(world.state().claim().unwrap().ttl, Some(super::claim::MAX_TTL));
}
