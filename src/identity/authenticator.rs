//! Authentication: from a header's bytes to an account.
//!
//! Two things are remembered of a success: the header, which is all that the hot path looks at, and the
//! credential in it (account and password). So a client that goes through a thousand session names pays
//! for one hash, not for a thousand.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::account::Account;
use super::basic::{AuthError, MAX_HEADER, split_basic};
use super::cache::{Key, Refused, Verified};
use super::hash::MAX_PASSWORD;
use super::throttle::Throttle;
use super::users::Users;
use super::verifier::{Outcome, Snapshot, Verifier};
use crate::secret::Secret;

/// Headers, and as many credentials, that are remembered: some 2 MiB in all.
const REMEMBERED: usize = 10_000;

/// How long a refused credential costs nothing.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// A failure is answered no sooner than this after it came: neither the kind of an account's hash nor
/// what is remembered shows in the time.
pub const FAILURE_FLOOR: Duration = Duration::from_millis(300);

/// Times that a check is begun anew because the users file changed under it.
const ATTEMPTS: usize = 3;

/// A client that has proved who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Who.
    pub account: Account,
    /// The whole username, parameters included.
    pub username: String,
}

/// Checks the credentials of requests against the users file. A handle: clones share everything. Usable
/// from any thread and runtime; [`Authenticator::authenticate`] needs the runtime's timer.
#[derive(Clone)]
pub struct Authenticator {
    shared: Arc<Shared>,
}

struct Shared {
    /// The current accounts; written by [`Authenticator::replace`] alone.
    snapshot: RwLock<Arc<Snapshot>>,
    /// The generation of `snapshot`, for the hot path.
    generation: AtomicU64,
    header_key: Key,
    headers: Verified<Arc<Login>>,
    credential_key: Key,
    credentials: Arc<Verified<Account>>,
    refused: Refused,
    verifier: Verifier,
    throttle: Throttle,
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("accounts", &self.accounts()).finish_non_exhaustive()
    }
}

impl Authenticator {
    /// Starts with these accounts, and with a thread for hashes, which ends with the last clone.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn new(users: Users) -> io::Result<Self> {
        Self::throttled(users, Throttle::new(None))
    }

    /// As [`Authenticator::new`], slowing failed logins by where they come from.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn throttled(users: Users, throttle: Throttle) -> io::Result<Self> {
        let credentials = Arc::new(Verified::new(REMEMBERED));
        let verifier = Verifier::start(Arc::clone(&credentials))?;
        let shared = Shared {
            snapshot: RwLock::new(Arc::new(Snapshot { generation: 0, users })),
            generation: AtomicU64::new(0),
            header_key: Key::random(),
            headers: Verified::new(REMEMBERED),
            credential_key: Key::random(),
            credentials,
            refused: Refused::new(REMEMBERED, REFUSED_FOR),
            verifier,
            throttle,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Swaps the accounts, at once and whole, and forgets what was remembered: a removed account's next
    /// request is refused, and a check that is under way begins anew.
    pub fn replace(&self, users: Users) {
        let shared = &*self.shared;
        let mut snapshot = shared.snapshot.write().unwrap_or_else(PoisonError::into_inner);
        let generation = snapshot.generation + 1;
        *snapshot = Arc::new(Snapshot { generation, users });
        // From here on no look-up finds an older entry; clearing only frees the memory.
        shared.generation.store(generation, Ordering::Release);
        drop(snapshot);
        shared.headers.clear();
        shared.credentials.clear();
        shared.refused.clear();
    }

    /// How many accounts there are.
    #[must_use]
    pub fn accounts(&self) -> usize {
        self.snapshot().users.len()
    }

    /// Password hashes computed since the start.
    #[must_use]
    pub fn hashes(&self) -> u64 {
        self.shared.verifier.computed()
    }

    /// SHA-256 of the users file that is in force.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        *self.snapshot().users.fingerprint()
    }

    /// The remembered answer for this very value of `Proxy-Authorization`, without waiting: the data
    /// path's hot path (a hash of one or two blocks and a look-up). `None` says nothing: ask
    /// [`Authenticator::authenticate`].
    #[must_use]
    pub fn cached(&self, header: &[u8]) -> Option<Arc<Login>> {
        if header.len() > MAX_HEADER {
            return None;
        }
        let shared = &*self.shared;
        let generation = shared.generation.load(Ordering::Acquire);
        shared.headers.get(&shared.header_key.digest(header), generation)
    }

    /// Checks a value of `Proxy-Authorization`. Hashes are computed one at a time on a thread of their
    /// own, one for each credential however many wait for it; a caller that goes away cancels only its
    /// own wait.
    ///
    /// # Errors
    /// [`AuthError::Refused`] comes 300 ms after the call, or later; the others come at once: they
    /// depend on nothing secret.
    pub async fn authenticate(&self, header: &[u8]) -> Result<Arc<Login>, AuthError> {
        self.authenticate_from(header, None).await
    }

    /// As [`Authenticator::authenticate`], for a client at this address: its failures count, and while
    /// they are too many nothing is looked at that would need a hash. What is remembered as good is let in
    /// all the same.
    ///
    /// # Errors
    /// As [`Authenticator::authenticate`], and [`AuthError::Throttled`].
    pub async fn authenticate_from(
        &self,
        header: &[u8],
        client: Option<IpAddr>,
    ) -> Result<Arc<Login>, AuthError> {
        if let Some(login) = self.cached(header) {
            return Ok(login);
        }
        let came = Instant::now();
        let (username, password) = split_basic(header)?;
        let name = username.split('-').next().unwrap_or_default();
        match self.check(name, &password, client).await {
            Ok((account, generation)) => {
                let login = Arc::new(Login { account, username });
                let digest = self.shared.header_key.digest(header);
                self.shared.headers.insert(digest, generation, Arc::clone(&login));
                Ok(login)
            }
            Err(AuthError::Refused) => {
                if let Some(client) = client {
                    self.shared.throttle.failed(client, Instant::now());
                }
                sleep_until(came + FAILURE_FLOOR).await;
                Err(AuthError::Refused)
            }
            Err(
                error @ (AuthError::Busy
                | AuthError::Malformed
                | AuthError::PercentEncoded
                | AuthError::Throttled { .. }),
            ) => Err(error),
        }
    }

    /// The account, and the generation of the users file that says so.
    async fn check(
        &self,
        name: &str,
        password: &Secret,
        client: Option<IpAddr>,
    ) -> Result<(Account, u64), AuthError> {
        let shared = &*self.shared;
        let admits = || {
            let due = client.map_or(Ok(()), |client| shared.throttle.admits(client, Instant::now()));
            due.map_err(|retry_after| AuthError::Throttled { retry_after })
        };
        if password.is_empty() || password.expose().len() > MAX_PASSWORD {
            return Err(admits().err().unwrap_or(AuthError::Refused));
        }
        // A name has no colon: the username was split at the first.
        let digest = shared.credential_key.digest_pair(name, b':', password.expose());
        for _ in 0..ATTEMPTS {
            let snapshot = self.snapshot();
            let generation = snapshot.generation;
            if let Some(account) = shared.credentials.get(&digest, generation) {
                return Ok((account, generation));
            }
            admits()?;
            if shared.refused.contains(&digest, generation, Instant::now()) {
                return Err(AuthError::Refused);
            }
            let outcome = shared.verifier.check(&snapshot, digest, name, password).await?;
            if shared.generation.load(Ordering::Acquire) != generation {
                continue;
            }
            return match outcome {
                Outcome::Verified(account) => Ok((account, generation)),
                Outcome::Refused => {
                    shared.refused.insert(digest, generation, Instant::now());
                    Err(AuthError::Refused)
                }
            };
        }
        Err(AuthError::Busy)
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.shared.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests;
