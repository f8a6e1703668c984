//! The thread that computes password hashes, and the flights to it: one for each credential, however
//! many clients wait for its outcome.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::account::Account;
use super::basic::AuthError;
use super::cache::{Digest, Verified, lock};
use super::users::Users;
use crate::secret::Secret;

/// Checks that may wait for the thread. At 50 ms each the last waits 3 s.
const QUEUE: usize = 64;

/// The accounts of a users file, and which reading of the file they are from.
pub(super) struct Snapshot {
    pub(super) generation: u64,
    pub(super) users: Users,
}

/// What a check found.
#[derive(Clone)]
pub(super) enum Outcome {
    Verified(Account),
    Refused,
}

/// A credential, as checked against one reading of the users file: after a change a new request does not
/// join a check against the old accounts.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Flight {
    generation: u64,
    digest: Digest,
}

type Flights = Mutex<HashMap<Flight, watch::Sender<Option<Outcome>>>>;

struct Job {
    flight: Flight,
    snapshot: Arc<Snapshot>,
    name: String,
    password: Secret,
}

/// The way to the verifier thread, which ends when this is dropped.
pub(super) struct Verifier {
    queue: SyncSender<Job>,
    flights: Arc<Flights>,
    computed: Arc<AtomicU64>,
}

impl Verifier {
    /// Starts the thread. It puts what it verifies into `verified`.
    pub(super) fn start(verified: Arc<Verified<Account>>) -> io::Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE);
        let flights = Arc::<Flights>::default();
        let computed = Arc::<AtomicU64>::default();
        let (of_thread, count) = (Arc::clone(&flights), Arc::clone(&computed));
        std::thread::Builder::new()
            .name("password-verifier".to_owned())
            .spawn(move || run(&jobs, &of_thread, &verified, &count))?;
        Ok(Self { queue, flights, computed })
    }

    /// Hashes computed so far.
    pub(super) fn computed(&self) -> u64 {
        self.computed.load(Ordering::Relaxed)
    }

    /// Joins the flight of this credential, or starts it.
    pub(super) async fn check(
        &self,
        snapshot: &Arc<Snapshot>,
        digest: Digest,
        name: &str,
        password: &Secret,
    ) -> Result<Outcome, AuthError> {
        let mut waiting = self.board(snapshot, digest, name, password)?;
        let outcome = waiting.wait_for(Option::is_some).await;
        // The flight's end is lost only with the thread, or with a panic in a hash.
        outcome.ok().and_then(|outcome| outcome.clone()).ok_or(AuthError::Busy)
    }

    fn board(
        &self,
        snapshot: &Arc<Snapshot>,
        digest: Digest,
        name: &str,
        password: &Secret,
    ) -> Result<watch::Receiver<Option<Outcome>>, AuthError> {
        let flight = Flight { generation: snapshot.generation, digest };
        let mut flights = lock(&self.flights);
        if let Some(known) = flights.get(&flight) {
            return Ok(known.subscribe());
        }
        let job =
            Job { flight, snapshot: Arc::clone(snapshot), name: name.to_owned(), password: password.clone() };
        // Sent under the lock, so that the thread finds the flight when it takes the job.
        self.queue.try_send(job).map_err(|_| AuthError::Busy)?;
        let (ends, waiting) = watch::channel(None);
        flights.insert(flight, ends);
        Ok(waiting)
    }
}

fn run(jobs: &Receiver<Job>, flights: &Flights, verified: &Verified<Account>, computed: &AtomicU64) {
    while let Ok(job) = jobs.recv() {
        if abandoned(flights, &job.flight) {
            continue;
        }
        computed.fetch_add(1, Ordering::Relaxed);
        let check = || job.snapshot.users.verify(&job.name, &job.password);
        let outcome = match catch_unwind(AssertUnwindSafe(check)) {
            Ok(Some(account)) => {
                verified.insert(job.flight.digest, job.flight.generation, account.clone());
                Some(Outcome::Verified(account))
            }
            Ok(None) => Some(Outcome::Refused),
            Err(_) => {
                tracing::error!("a password check panicked");
                None
            }
        };
        let ends = lock(flights).remove(&job.flight);
        if let (Some(ends), Some(outcome)) = (ends, outcome) {
            ends.send_replace(Some(outcome));
        }
    }
}

/// Whether every client of a flight has hung up: its hash is not computed. Decided under the lock, so
/// that nobody boards meanwhile.
fn abandoned(flights: &Flights, flight: &Flight) -> bool {
    let mut flights = lock(flights);
    let empty = flights.get(flight).is_none_or(|ends| ends.receiver_count() == 0);
    if empty {
        flights.remove(flight);
    }
    empty
}

#[cfg(test)]
impl Verifier {
    /// Flights that are queued or under way.
    pub(super) fn in_flight(&self) -> usize {
        lock(&self.flights).len()
    }
}
