//! The control side: everything that only the elected leader does. It gives pods to claims within the
//! limit, replaces those that fail, drains those that were replaced, reaps what is idle, and sweeps up
//! what belongs to nobody.
//!
//! It shares no state with the session table: the two meet only in the cluster. [`run`] is called once by
//! `app`, on the control plane's runtime; [`manifest`] also by the tests.
//!
//! | File | Has |
//! |---|---|
//! | `leader` | the election |
//! | `lead` | the leader's loop: watches in, calls out |
//! | `brain`, `plan` | what is known and what follows from it, without clock or I/O |
//! | `agenda` | whom a plan looks at: those for whom something has changed |
//! | `backoff` | rests between starts that fail |
//! | `snapshot`, `observations`, `writes` | what the watches said, what was seen over time, what is on its way |
//! | `census` | how many pods are in which state |
//! | `policy` | what accounts may do, as far as it is the leader's to see to |
//! | `facts`, `classify` | how a pod's state is read |
//! | `act`, `probe`, `events` | calls to the API, questions to health servers, stories for people |

mod act;
mod action;
mod agenda;
mod backoff;
mod brain;
mod census;
mod classify;
mod events;
mod facts;
mod lead;
mod leader;
pub mod manifest;
#[cfg(test)]
mod model;
mod observations;
mod patch;
mod plan;
mod policy;
mod probe;
pub mod sample;
mod snapshot;
pub mod template;
#[cfg(test)]
mod testing;
mod writes;

use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::api::Api;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::accounts::Accounts;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::servers::Catalogue;
pub use events::announce;
use lead::Term;
use leader::Elector;
pub use leader::LEASE;

/// Where the log lines of the controller come from.
const TARGET: &str = "gluetun_gateway::controller";

/// Why the controller ended although nobody stopped it.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// A watch ended for good, which it does not do by itself.
    #[error("a watch of the controller has ended")]
    WatchEnded,
}

/// What the controller goes by beside the cluster, each as it changes.
#[derive(Clone, Debug)]
pub struct Knowledge {
    /// The server list in use.
    pub catalogue: watch::Receiver<Arc<Catalogue>>,
    /// What accounts may do.
    pub accounts: watch::Receiver<Arc<Accounts>>,
}

/// Takes part in the election, and controls whenever it leads, until `stop`; then finishes what it has
/// begun, gives leadership up and returns, within 3 s or so.
///
/// `client` must not retry by itself (`default_retry = false`): a write that is repeated behind the
/// leader's back may be made after its time.
///
/// # Errors
///
/// When it cannot go on for a reason that is no failure of the API: those are waited out.
pub async fn run(
    client: Client,
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    knowledge: Knowledge,
    stop: CancellationToken,
) -> Result<(), ControllerError> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), &config.namespace);
    let elector = Elector::new(leases, config.identity.clone(), Arc::clone(&metrics));
    metrics.pods_limit.set(i64::try_from(config.instance_limit).unwrap_or(i64::MAX));
    loop {
        let held = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            held = elector.acquire() => held,
        };
        let (until, receiver) = watch::channel(held.until);
        let term = Term::new(&client, &config, &metrics);
        let finished = tokio::select! {
            () = elector.keep(held, &until) => None,
            ended = term.run(receiver, knowledge.clone(), &stop) => Some(ended?),
        };
        match finished {
            None => {}
            Some(true) => {
                elector.release().await;
                return Ok(());
            }
            // Something of it may still come: the Lease is left to expire.
            Some(false) => return Ok(()),
        }
    }
}
