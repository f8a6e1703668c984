//! The watches of pods and claims that feed the index, and the control plane's side of the sessions:
//! [`run`] is its one entry, called by `app`.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::claim::{self, CLAIM_SELECTOR, Claim};
use super::ensure::{Ensure, RETRY, note, renew};
use super::pod::{POD_SELECTOR, PodView};
use super::renewal::Renewals;
use super::sessions::{Command, Sessions, Shared};
use super::watch::{Pauses, WATCH_SECONDS};
use crate::metrics::Metrics;

/// The control plane's side of the sessions: run it until the end, or nobody gets an exit.
#[derive(Debug)]
pub struct Driver {
    shared: Arc<Shared>,
    commands: mpsc::UnboundedReceiver<Command>,
}

/// Makes the sessions of a replica, and what drives them. `idle_timeout` is that of sessions that ask
/// for none.
pub fn sessions(metrics: Arc<Metrics>, idle_timeout: Duration) -> (Sessions, Driver) {
    let (shared, commands) = Shared::new(metrics, idle_timeout);
    (Sessions(Arc::clone(&shared)), Driver { shared, commands })
}

impl Driver {
    /// Feeds the table and does what sessions need of the cluster, until `stop`; then writes the activity
    /// that is not written yet, within `flush`. `requests` is a client without kube's own retries,
    /// `watches` one with them.
    pub async fn run(
        mut self,
        requests: Client,
        watches: Client,
        namespace: &str,
        stop: CancellationToken,
        flush: Duration,
    ) {
        let leases: Api<Lease> = Api::namespaced(requests, namespace);
        let pods = watch(Api::namespaced(watches.clone(), namespace), POD_SELECTOR);
        let claims = watch(Api::namespaced(watches, namespace), CLAIM_SELECTOR);
        let mut pods = std::pin::pin!(pods);
        let mut claims = std::pin::pin!(claims);
        let mut folds = (PodFold::default(), ClaimFold::default());
        let mut tasks = JoinSet::new();
        let mut renewals = Renewals::new(Arc::clone(&self.shared), leases.clone());
        {
            let mut renewing = std::pin::pin!(renewals.run());
            loop {
                tokio::select! {
                    // Events before commands: what is known already need not be asked for.
                    biased;
                    () = stop.cancelled() => break,
                    Some(event) = pods.next() => folds.0.event(&self.shared, event),
                    Some(event) = claims.next() => folds.1.event(&self.shared, event),
                    Some(command) = self.commands.recv() => self.command(&mut tasks, &leases, command),
                    Some(ended) = tasks.join_next() => if let Err(error) = ended {
                        tracing::error!(%error, "a task of a session broke");
                    },
                    () = &mut renewing => {}
                }
                if folds.0.listed && folds.1.listed {
                    self.shared.synced.send_if_modified(|synced| !std::mem::replace(synced, true));
                }
            }
        }
        tasks.shutdown().await;
        if tokio::time::timeout(flush, renewals.flush()).await.is_err() {
            tracing::warn!("the last activity of some sessions could not be written");
        }
    }

    fn command(&self, tasks: &mut JoinSet<()>, leases: &Api<Lease>, command: Command) {
        match command {
            Command::Ensure(entry) => {
                let ensure = Ensure { shared: Arc::clone(&self.shared), leases: leases.clone(), entry };
                tasks.spawn(ensure.run());
            }
            Command::Replace { entry, claim_uid, replace } => {
                let (shared, leases) = (Arc::clone(&self.shared), leases.clone());
                tasks.spawn(async move {
                    let mut pause = RETRY.0;
                    // Until it is written, or nothing to write any more: nobody else will say it.
                    loop {
                        let state = entry.state();
                        let claim = state.claim().filter(|claim| {
                            claim.uid == *claim_uid
                                && claim.transition <= replace.transition
                                && claim
                                    .replace
                                    .as_ref()
                                    .is_none_or(|word| word.transition < replace.transition)
                        });
                        let Some(claim) = claim else { return };
                        let patch = claim::replacement(&claim.uid, &replace);
                        let Err(error) = renew(&shared, &leases, &entry, claim, &patch).await else { return };
                        note(&entry, &error);
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(RETRY.1);
                    }
                });
            }
        }
    }
}

fn watch<K>(api: Api<K>, selector: &str) -> impl Stream<Item = watcher::Result<Event<K>>> + Send + use<K>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
    K::DynamicType: Default + Clone,
{
    let config = watcher::Config::default().labels(selector).timeout(WATCH_SECONDS);
    watcher(api, config).backoff(Pauses::default())
}

/// Counts and tells a watch's failure.
fn broken(metrics: &Metrics, resource: &'static str, error: &watcher::Error) {
    metrics.watch_restarts.with_label_values(&[resource]).inc();
    tracing::warn!(resource, %error, "watch broke; it is being restarted");
}

#[derive(Default)]
struct PodFold {
    listing: Vec<PodView>,
    listed: bool,
}

impl PodFold {
    fn event(&mut self, shared: &Shared, event: watcher::Result<Event<Pod>>) {
        match event {
            Ok(Event::Init) => self.listing.clear(),
            Ok(Event::InitApply(pod)) => self.listing.push(PodView::read(&pod)),
            Ok(Event::InitDone) => {
                let pods = std::mem::take(&mut self.listing);
                shared.index().replace_pods(&shared.table, pods);
                self.listed = true;
            }
            Ok(Event::Apply(pod)) => shared.index().apply_pod(&shared.table, PodView::read(&pod)),
            Ok(Event::Delete(pod)) => {
                let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
                shared.index().remove_pod(&shared.table, &name, &uid);
            }
            Err(error) => broken(&shared.metrics, "pods", &error),
        }
    }
}

#[derive(Default)]
struct ClaimFold {
    listing: Vec<Claim>,
    listed: bool,
}

impl ClaimFold {
    fn event(&mut self, shared: &Shared, event: watcher::Result<Event<Lease>>) {
        match event {
            Ok(Event::Init) => self.listing.clear(),
            Ok(Event::InitApply(lease)) => self.listing.extend(read(&lease)),
            Ok(Event::InitDone) => {
                let claims = std::mem::take(&mut self.listing);
                shared.index().replace_claims(&shared.table, claims);
                self.listed = true;
            }
            Ok(Event::Apply(lease)) => {
                if let Some(claim) = read(&lease) {
                    shared.index().apply_claim(&shared.table, claim, true);
                }
            }
            Ok(Event::Delete(lease)) => {
                let (name, uid) = (lease.name_any(), lease.uid().unwrap_or_default());
                shared.index().remove_claim(&shared.table, &name, &uid, true);
            }
            Err(error) => broken(&shared.metrics, "leases", &error),
        }
    }
}

fn read(lease: &Lease) -> Option<Claim> {
    Claim::read(lease).inspect_err(|error| tracing::warn!(%error, "not a claim of ours")).ok()
}
