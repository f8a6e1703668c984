//! What `POST /start` asks of the sessions: an exit of its own for a client that waits for it, told at
//! once where there is no room, and given up with its claim unless the client gets it. Beside that it is
//! a session as any other: the same claim, the same leader, the same limit.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::claim::{Claim, Reason};
use super::entry::Waiter;
use super::failure::{AcquireError, code};
use super::pod::PodView;
use super::sessions::{Grant, Sessions, is_full, outcome, queue_full, scopeguard, timed_out, waiting_reason};
use crate::identity::Account;
use crate::selector::{Lifetimes, Mode, PoolName, SessionKey, SessionName};
use crate::servers::{Hostname, Place};

/// Idle timeout of a claim until it is pinned: should its gateway die, the pod goes this long after.
const UNTIL_PINNED: Duration = Duration::from_secs(30);

/// How often it is looked whether what a start waits for still comes.
const LOOK: Duration = Duration::from_millis(100);

/// Why a start came to nothing.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum StartError {
    /// As many pods run as may.
    #[error("{0}")]
    Full(String),
    /// The server is in use by another pod.
    #[error("{0}")]
    InUse(String),
    /// As for any session.
    #[error(transparent)]
    Failed(#[from] AcquireError),
}

/// A pod that is up, and that goes again when this is dropped without [`Started::keep`].
#[derive(Debug)]
pub struct Started {
    /// The exit, in use while this lives.
    pub grant: Grant,
    /// Its pod.
    pub pod: Arc<PodView>,
    pub(super) claim: Arc<Claim>,
    starting: Starting,
}

impl Started {
    /// The pod stays. What is left to the caller is to have it deleted, if the client never hears of it.
    pub fn keep(mut self) -> Kept {
        self.starting.kept = true;
        Kept { name: self.claim.name.clone(), uid: self.claim.uid.clone() }
    }
}

/// The claim of a pod that stays.
#[derive(Clone, Debug)]
pub struct Kept {
    pub(super) name: String,
    pub(super) uid: String,
}

/// A start under way. Dropped, its claim goes.
#[derive(Debug)]
struct Starting {
    waiter: Waiter,
    kept: bool,
}

impl Drop for Starting {
    fn drop(&mut self) {
        if !self.kept {
            self.waiter.entry.abandon();
        }
    }
}

impl Sessions {
    /// Starts a pod on that server, as a session of the management API that nobody else can ask for, and
    /// waits for it until `deadline`. With an idle timeout in `lifetimes` its claim has that; without, it
    /// is one that is about to be pinned.
    ///
    /// Dropping the future, or the result, gives the start up.
    ///
    /// # Errors
    ///
    /// As [`StartError`] says; no claim is left then. Where room is about to be made, by pods that are
    /// ending already, that is waited for.
    pub async fn start(
        &self,
        server: &Hostname,
        lifetimes: &Lifetimes,
        limit: usize,
        deadline: Instant,
    ) -> Result<Started, StartError> {
        if !self.room_comes(code::CAPACITY_FULL, server, limit) {
            return Err(StartError::Full(format!("INSTANCE_LIMIT reached: {limit} pods run")));
        }
        let key = SessionKey {
            account: Account::api(),
            pool: PoolName::default(),
            place: Place::server(server.clone()),
            session: SessionName::parse(&Uuid::new_v4().simple().to_string()),
            mode: Mode::default(),
        };
        let lifetimes =
            Lifetimes { idle: lifetimes.idle.or(Some(UNTIL_PINNED)), ttl: lifetimes.ttl, wait: None };
        let begun = Instant::now();
        let waiter = self.0.table.wait(&key, &lifetimes).map_err(queue_full)?;
        let starting = Starting { waiter, kept: false };
        self.0.metrics.waiters.inc();
        let _counted = scopeguard(|| self.0.metrics.waiters.dec());
        let entry = Arc::clone(&starting.waiter.entry);
        let mut state = entry.subscribe();
        self.ensure(&entry);
        let mut look = tokio::time::interval(LOOK);
        let mut came_later = true;
        loop {
            let now = state.borrow_and_update().clone();
            if let Some((terms, exit)) = Arc::clone(&entry).usable()
                && let Some(claim) =
                    entry.state().claim().filter(|claim| claim.uid == *exit.claim_uid).cloned()
                && let Some(pod) = self.0.index().pod(&exit.pod).cloned()
                && *pod.uid == *exit.uid
            {
                let grant = Grant::new(terms, exit, Some(begun.elapsed()));
                return Ok(Started { grant, pod, claim, starting });
            }
            if let Some(error) = outcome(&now, entry.control_error(), came_later) {
                return Err(error.into());
            }
            came_later = false;
            if let Some(reason) = waiting_reason(&now).filter(|reason| is_full(reason))
                && !self.room_comes(&reason.code, server, limit)
            {
                return Err(full(reason));
            }
            tokio::select! {
                changed = state.changed() => if changed.is_err() {
                    return Err(AcquireError::ShuttingDown.into());
                },
                _ = look.tick() => {}
                () = tokio::time::sleep_until(deadline) => {
                    return Err(match waiting_reason(&now).filter(|reason| is_full(reason)) {
                        Some(reason) => full(reason),
                        None => timed_out(&now, entry.control_error(), self.0.usual_start()).into(),
                    });
                }
                () = self.0.closing.cancelled() => return Err(AcquireError::ShuttingDown.into()),
            }
        }
    }

    /// Hostnames of servers that a new pod would share with another: those of live pods, and those that
    /// starts are under way on.
    pub fn servers_in_use(&self) -> HashSet<String> {
        let mut used: HashSet<String> = {
            let index = self.0.index();
            index.pods().filter(|pod| pod.is_live()).flat_map(|pod| servers(pod)).map(str::to_owned).collect()
        };
        let entries = self.0.table.all();
        let starting = entries.iter().filter(|entry| entry.key.account.is_api());
        used.extend(starting.filter_map(|entry| Some(entry.key.place.server.as_ref()?.to_string())));
        used
    }

    /// Whether what a start lacks is there, or comes within the seconds that a pod takes to end: room
    /// below the limit or within a quota, or the server.
    fn room_comes(&self, lacking: &str, server: &Hostname, limit: usize) -> bool {
        let index = self.0.index();
        let live = || index.pods().filter(|pod| pod.is_live());
        match lacking {
            code::SERVER_IN_USE => {
                !live().any(|pod| !index.is_ending(pod) && servers(pod).any(|name| name == server.as_str()))
            }
            code::QUOTA_FULL => live().any(|pod| index.is_ending(pod)),
            _ => live().filter(|pod| !index.is_ending(pod)).count() < limit,
        }
    }
}

/// The servers that a pod may be on: one of ours has one, a foreign one may have a list.
fn servers(pod: &PodView) -> impl Iterator<Item = &str> {
    pod.server.as_deref().into_iter().flat_map(|names| names.split(',')).map(str::trim)
}

fn full(reason: &Reason) -> StartError {
    let message = reason.message.clone();
    if reason.code == code::SERVER_IN_USE { StartError::InUse(message) } else { StartError::Full(message) }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use k8s_openapi::api::coordination::v1::Lease;
    use serde_json::json;

    use super::super::claim::{NewClaim, annotation, pod_id};
    use super::super::entry::Entry;
    use super::super::pod::pod_name;
    use super::super::sessions::Command;
    use super::super::tests::{UID, World, pod};
    use super::*;

    const SERVER: &str = "se-mma-wg-001";

    fn server() -> Hostname {
        Hostname::parse(SERVER).unwrap()
    }

    /// Begins a start in `world`, and returns the session that it waits for.
    async fn begin(
        world: &mut World,
        limit: usize,
    ) -> (tokio::task::JoinHandle<Result<Started, StartError>>, Arc<Entry>) {
        let sessions = world.sessions.clone();
        let deadline = Instant::now() + Duration::from_secs(90);
        let starting =
            tokio::spawn(
                async move { sessions.start(&server(), &Lifetimes::default(), limit, deadline).await },
            );
        let Some(Command::Ensure(entry)) = world.commands.recv().await else { panic!("nobody waits") };
        (starting, entry)
    }

    /// The session's claim, as its making and `reason` would have it.
    fn claim(world: &World, entry: &Entry, version: u32, code: Option<&str>) {
        let lifetimes = entry.lifetimes();
        let mut lease: Lease = NewClaim {
            key: &entry.key,
            idle: lifetimes.idle.unwrap(),
            ttl: lifetimes.ttl,
            no_wait: false,
            now: SystemTime::now(),
        }
        .lease();
        lease.metadata.uid = Some(UID.to_owned());
        lease.metadata.resource_version = Some(version.to_string());
        lease.metadata.creation_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::now()));
        if let Some(code) = code {
            let reason = json!({ "kind": "waiting", "code": code, "message": "full", "transition": 0 });
            lease
                .metadata
                .annotations
                .get_or_insert_default()
                .insert(annotation::REASON.to_owned(), reason.to_string());
        }
        world.shared.index().apply_claim(&world.shared.table, Claim::read(&lease).unwrap(), true);
    }

    /// The pod of the session's claim.
    fn own_pod(world: &World, entry: &Entry) {
        let mut object = pod(0, true);
        let notes = object.metadata.annotations.get_or_insert_default();
        notes.insert("gluetun-gateway/claim".to_owned(), entry.name.to_string());
        world.shared.index().apply_pod(&world.shared.table, PodView::read(&object));
    }

    #[tokio::test(start_paused = true)]
    async fn each_start_has_a_session_of_its_own_and_a_short_claim_until_it_is_pinned() {
        let mut world = World::new();
        let (one, first) = begin(&mut world, 5).await;
        let (_two, second) = begin(&mut world, 5).await;
        assert_ne!(first.key, second.key);
        assert!(first.key.account.is_api());
        assert_eq!(first.lifetimes().idle, Some(UNTIL_PINNED));
        assert_eq!(world.sessions.servers_in_use(), HashSet::from([SERVER.to_owned()]));
        claim(&world, &first, 1, None);
        own_pod(&world, &first);
        let started = one.await.unwrap().unwrap();
        assert_eq!(started.pod.name, pod_name(UID, 0));
        assert_eq!(started.pod.public_id(), pod_id(UID, 0).to_string());
        assert_eq!(started.keep().uid, UID);
        assert!(!first.is_abandoned());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_leaves_abandons_the_session() {
        let mut world = World::new();
        let (starting, entry) = begin(&mut world, 5).await;
        starting.abort();
        assert!(starting.await.unwrap_err().is_cancelled());
        assert!(entry.is_abandoned() && entry.waiters() == 0);

        let (starting, entry) = begin(&mut world, 5).await;
        claim(&world, &entry, 1, None);
        own_pod(&world, &entry);
        drop(starting.await.unwrap().unwrap());
        assert!(entry.is_abandoned() && entry.waiters() == 0, "up, and not kept");
    }

    #[tokio::test(start_paused = true)]
    async fn no_room_is_told_at_once_and_room_that_comes_is_waited_for() {
        for (code, expected) in [
            (code::CAPACITY_FULL, StartError::Full("full".to_owned())),
            (code::QUOTA_FULL, StartError::Full("full".to_owned())),
            (code::SERVER_IN_USE, StartError::InUse("full".to_owned())),
        ] {
            let mut world = World::new();
            let (starting, entry) = begin(&mut world, 2).await;
            // Two pods, one of which is ending.
            let other = |n: usize, ending: bool| {
                let mut object = pod(0, true);
                object.metadata.name = Some(format!("other-{n}"));
                object.metadata.uid = Some(format!("other-{n}"));
                if ending {
                    object.metadata.deletion_timestamp =
                        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                            k8s_openapi::jiff::Timestamp::now(),
                        ));
                }
                let notes = object.metadata.annotations.get_or_insert_default();
                let name = if ending { SERVER } else { "se-sto-wg-001" };
                notes.insert("gluetun-gateway/server".to_owned(), name.to_owned());
                world.shared.index().apply_pod(&world.shared.table, PodView::read(&object));
            };
            other(1, true);
            other(2, false);
            claim(&world, &entry, 1, Some(code));
            tokio::time::sleep(LOOK * 20).await;
            assert!(!starting.is_finished(), "{code}: it will be there in a moment");
            // Somebody else was faster.
            world.shared.index().remove_pod(&world.shared.table, "other-1", "other-1");
            let mut object = pod(0, true);
            object.metadata.name = Some("other-3".to_owned());
            object.metadata.uid = Some("other-3".to_owned());
            world.shared.index().apply_pod(&world.shared.table, PodView::read(&object));
            assert_eq!(starting.await.unwrap().unwrap_err(), expected);
            assert!(entry.is_abandoned());
            if code == code::CAPACITY_FULL {
                let again = world.sessions.start(&server(), &Lifetimes::default(), 2, Instant::now()).await;
                assert!(matches!(again, Err(StartError::Full(_))), "not even claimed: {again:?}");
                assert!(world.commands.try_recv().is_err());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_hold_ends() {
        let mut world = World::new();
        let (starting, entry) = begin(&mut world, 5).await;
        claim(&world, &entry, 1, None);
        let begun = Instant::now();
        let error = starting.await.unwrap().unwrap_err();
        assert_eq!(error, StartError::Failed(AcquireError::StartTimeout { last: None }));
        assert!(begun.elapsed() >= Duration::from_secs(89));
        let (starting, _) = begin(&mut world, 5).await;
        world.sessions.close();
        assert_eq!(starting.await.unwrap().unwrap_err(), StartError::Failed(AcquireError::ShuttingDown));
    }
}
