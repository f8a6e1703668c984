//! Both files, followed while the gateway runs.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::Accounts;
use super::files::{Files, FilesError, Source};
use crate::identity::{Authenticator, FileMistake};
use crate::servers::Catalogue;

/// Warnings that are logged of one reading.
const TOLD: usize = 20;

/// What follows the files.
#[derive(Debug)]
pub struct Follow {
    /// Where they are.
    pub source: Source,
    /// What they were when the gateway started ([`Files::fingerprint`]).
    pub fingerprint: [[u8; 32]; 2],
    /// Who checks passwords.
    pub authenticator: Authenticator,
    /// Where the accounts are published.
    pub accounts: watch::Sender<Arc<Accounts>>,
    /// For warnings of places that are not there.
    pub catalogue: watch::Receiver<Arc<Catalogue>>,
    /// How long the tunnels of a removed account have.
    pub drain: Duration,
    /// How often the files are looked at.
    pub interval: Duration,
}

/// Takes both files over each time that either one's content changes: whole, or not at all. They are
/// polled: a mounted Secret or ConfigMap changes by swapping a symlink two levels up, which a watch on the
/// file does not survive. On any mistake, also a file that cannot be read, everything stays as it was, with
/// one log line and one call of `on_mistake` for each new state of the files. Never ends.
pub async fn follow(
    follow: Follow,
    on_taken: impl Fn(&Accounts) + Send,
    on_mistake: impl Fn(&FilesError) + Send,
) -> Infallible {
    let Follow { source, mut fingerprint, authenticator, accounts, catalogue, drain, interval } = follow;
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_mistake = None;
    let mut due: Option<Instant> = None;
    loop {
        let next_end = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = ticks.tick() => {}
            () = next_end => {
                due = accounts.borrow().end_due(drain);
                continue;
            }
        }
        let of_source = source.clone();
        let read = tokio::task::spawn_blocking(move || of_source.load_if_changed(&fingerprint));
        // A panic while reading is no state of the files: the next tick tries again.
        let Ok(read) = read.await else { continue };
        match read {
            Ok(None) => last_mistake = None,
            Ok(Some(files)) => {
                last_mistake = None;
                let users_changed = files.fingerprint[0] != fingerprint[0];
                fingerprint = files.fingerprint;
                warn(&files.warnings(&catalogue.borrow()));
                take(files, users_changed, &authenticator, &accounts);
                due = accounts.borrow().end_due(drain);
                let now = Arc::clone(&accounts.borrow());
                on_taken(&now);
                tracing::info!(
                    users = %source.users.display(),
                    accounts = source.accounts.as_ref().map(|path| path.display().to_string()),
                    enabled = now.len(),
                    "accounts read anew"
                );
            }
            Err(mistake) => {
                if last_mistake.as_ref() != Some(&mistake) {
                    on_mistake(&mistake);
                    tracing::warn!(error = %mistake, "the files of accounts are not taken, the old accounts stay");
                    last_mistake = Some(mistake);
                }
            }
        }
    }
}

/// Publishes. What decides on a request is the one swap of `accounts`; the password check follows it, for a
/// new account's first login and for what was remembered of old passwords.
fn take(
    files: Files,
    users_changed: bool,
    authenticator: &Authenticator,
    accounts: &watch::Sender<Arc<Accounts>>,
) {
    let before = Arc::clone(&accounts.borrow());
    let after = files.after(&before);
    // A password that was disabled must be refused like a wrong one, and one that no longer is must not.
    let others = before.len() != after.len()
        || before.policies.keys().any(|name| after.policy(name.as_str()).is_none());
    accounts.send_replace(Arc::new(after));
    if users_changed || others {
        authenticator.replace(files.into_users());
    }
}

/// Logs what is no mistake and still worth a look.
pub(crate) fn warn(warnings: &[FileMistake]) {
    for warning in warnings.iter().take(TOLD) {
        tracing::warn!(file = "accounts", "{warning}");
    }
    if let more @ 1.. = warnings.len().saturating_sub(TOLD) {
        tracing::warn!(file = "accounts", "and {more} more (`gluetun-gateway check` names them all)");
    }
}
