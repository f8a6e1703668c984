//! A garbage collector: deletes pods and jobs all of whose owners are gone, after a short delay as a
//! real one does. What has become of an owner is decided by a live GET, never by a cache; watches of
//! leases and jobs only say when to look.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Preconditions};
use kube::{Api, Resource, ResourceExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::machine::Machine;
use super::watch::Change;

/// How many objects are looked into at a time.
const AT_ONCE: usize = 8;
/// When to try again after the API could not be asked.
const RETRY: Duration = Duration::from_secs(1);

/// What the watches tell the collector.
pub(super) enum Note {
    Pod(Change<Pod>),
    Job(Change<Job>),
    Lease(Change<Lease>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pod,
    Job,
}

/// An object with owners.
#[derive(Clone, Debug, PartialEq)]
struct Dependent {
    kind: Kind,
    namespace: String,
    name: String,
    uid: String,
    owners: Vec<OwnerReference>,
}

impl Dependent {
    /// `None` for one without owners, or that is being deleted already.
    fn of<K: Resource>(kind: Kind, object: &K) -> Option<Self> {
        let owners = object.owner_references().to_vec();
        if owners.is_empty() || object.meta().deletion_timestamp.is_some() {
            return None;
        }
        Some(Self {
            kind,
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            uid: object.uid()?,
            owners,
        })
    }
}

/// The collector's picture of the cluster.
#[derive(Default)]
struct Graph {
    /// Owners whose watch shows them, by uid: their end will be told.
    watched: HashSet<String>,
    dependents: HashMap<String, Dependent>,
    /// When to look at which dependent.
    due: HashMap<String, Instant>,
}

impl Graph {
    fn take(&mut self, note: Note, now: Instant, delay: Duration) {
        match note {
            Note::Pod(change) => self.dependent(Kind::Pod, &change, now + delay),
            Note::Job(change) => {
                self.dependent(Kind::Job, &change, now + delay);
                self.owner(&change, now + delay);
            }
            Note::Lease(change) => self.owner(&change, now + delay),
        }
    }

    fn dependent<K: Resource>(&mut self, kind: Kind, change: &Change<K>, due: Instant) {
        let (Change::Applied(object) | Change::Gone(object)) = change;
        let Some(uid) = object.uid() else { return };
        match (Dependent::of(kind, &**object), change) {
            (Some(dependent), Change::Applied(_)) => {
                let known = self.dependents.get(&uid).is_some_and(|known| known.owners == dependent.owners);
                if !known && !dependent.owners.iter().all(|owner| self.watched.contains(&owner.uid)) {
                    self.due.insert(uid.clone(), due);
                }
                self.dependents.insert(uid, dependent);
            }
            (Some(_), Change::Gone(_)) | (None, _) => {
                self.dependents.remove(&uid);
                self.due.remove(&uid);
            }
        }
    }

    fn owner<K: Resource>(&mut self, change: &Change<K>, due: Instant) {
        match change {
            Change::Applied(object) => {
                self.watched.extend(object.uid());
            }
            Change::Gone(object) => {
                let Some(gone) = object.uid() else { return };
                self.watched.remove(&gone);
                for (uid, dependent) in &self.dependents {
                    if dependent.owners.iter().any(|owner| owner.uid == gone) {
                        self.due.insert(uid.clone(), due);
                    }
                }
            }
        }
    }

    /// The dependents to look at by now. One with an owner that a watch shows needs no look: the end
    /// of that owner will be told.
    fn ripe(&mut self, now: Instant) -> Vec<Dependent> {
        let ripe: Vec<_> =
            self.due.iter().filter(|(_, due)| **due <= now).map(|(uid, _)| uid.clone()).collect();
        for uid in &ripe {
            self.due.remove(uid);
        }
        let dependents = ripe.iter().filter_map(|uid| self.dependents.get(uid));
        let unseen = dependents.filter(|d| !d.owners.iter().any(|owner| self.watched.contains(&owner.uid)));
        unseen.cloned().collect()
    }
}

/// What was found out about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    /// It was deleted, or is gone.
    Settled,
    /// An owner lives.
    Owned,
    /// The API could not be asked.
    Unknown,
}

/// Collects until the kubelet ends.
pub(super) async fn run(machine: Arc<Machine>, mut notes: mpsc::UnboundedReceiver<Note>) {
    let mut graph = Graph::default();
    loop {
        let next = graph.due.values().min().copied();
        let waiting = async {
            match next {
                Some(next) => sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = machine.stop.cancelled() => return,
            note = notes.recv() => match note {
                Some(note) => graph.take(note, Instant::now(), machine.options.gc_delay),
                None => return,
            },
            () = waiting => {
                let ripe = graph.ripe(Instant::now());
                let looking = futures::stream::iter(ripe).map(|dependent| async {
                    let finding = look(&machine, &dependent).await;
                    (dependent, finding)
                });
                let found: Vec<_> = tokio::select! {
                    found = looking.buffer_unordered(AT_ONCE).collect() => found,
                    () = machine.stop.cancelled() => return,
                };
                let now = Instant::now();
                for (dependent, finding) in found {
                    let watched = dependent.owners.iter().all(|owner| is_watched_kind(&owner.kind));
                    match finding {
                        Finding::Settled => {}
                        // Its end will be told.
                        Finding::Owned if watched => {}
                        Finding::Owned => {
                            graph.due.insert(dependent.uid, now + machine.options.gc_period);
                        }
                        Finding::Unknown => {
                            graph.due.insert(dependent.uid, now + RETRY);
                        }
                    }
                }
            }
        }
    }
}

fn is_watched_kind(kind: &str) -> bool {
    matches!(kind, "Lease" | "Job")
}

async fn look(machine: &Machine, dependent: &Dependent) -> Finding {
    for owner in &dependent.owners {
        match is_there(machine, &dependent.namespace, owner).await {
            Some(true) => return Finding::Owned,
            Some(false) => {}
            None => return Finding::Unknown,
        }
    }
    tracing::debug!(kind = ?dependent.kind, name = %dependent.name, "deleting what has no owner left");
    match dependent.kind {
        Kind::Pod => delete::<Pod>(machine, dependent).await,
        Kind::Job => delete::<Job>(machine, dependent).await,
    }
}

/// Whether an owner is there; `None` if that cannot be found out.
async fn is_there(machine: &Machine, namespace: &str, owner: &OwnerReference) -> Option<bool> {
    let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &owner.kind));
    // Of the kinds that own pods only these have no namespace.
    let api: Api<DynamicObject> = if matches!(owner.kind.as_str(), "Node" | "Namespace") {
        Api::all_with(machine.client.clone(), &kind)
    } else {
        Api::namespaced_with(machine.client.clone(), namespace, &kind)
    };
    match machine.calls.run(api.get_metadata(&owner.name)).await {
        Ok(object) => Some(object.uid().as_deref() == Some(&owner.uid)),
        Err(error) if error.is_absent(&owner.name) => Some(false),
        Err(error) => {
            tracing::debug!(owner = %owner.name, kind = %owner.kind, %error, "an owner could not be looked up");
            None
        }
    }
}

async fn delete<K>(machine: &Machine, dependent: &Dependent) -> Finding
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
    K::DynamicType: Default,
{
    let api = machine.within::<K>(&dependent.namespace);
    let parameters = DeleteParams::background()
        .preconditions(Preconditions { uid: Some(dependent.uid.clone()), resource_version: None });
    match machine.calls.run(api.delete(&dependent.name, &parameters)).await {
        Ok(_) => Finding::Settled,
        Err(error) if error.is_not_found() || error.is_conflict() => Finding::Settled,
        Err(error) => {
            tracing::debug!(name = %dependent.name, %error, "what has no owner left could not be deleted yet");
            Finding::Unknown
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DELAY: Duration = Duration::from_millis(500);

    fn pod(uid: &str, owners: &[&str]) -> Arc<Pod> {
        let owners: Vec<_> = owners
            .iter()
            .map(|uid| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "name": uid, "uid": uid}))
            .collect();
        let meta = json!({"name": uid, "namespace": "ns", "uid": uid, "ownerReferences": owners});
        Arc::new(serde_json::from_value(json!({ "metadata": meta })).unwrap())
    }

    fn lease(uid: &str) -> Arc<Lease> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid}})).unwrap())
    }

    fn ripe(graph: &mut Graph, at: Instant) -> Vec<String> {
        let mut ripe: Vec<_> = graph.ripe(at).into_iter().map(|dependent| dependent.uid).collect();
        ripe.sort();
        ripe
    }

    #[tokio::test(start_paused = true)]
    async fn looks_at_pods_whose_owner_went_and_at_those_it_never_saw() {
        let (mut graph, now) = (Graph::default(), Instant::now());
        let mut take = |note| graph.take(note, now, DELAY);
        take(Note::Lease(Change::Applied(lease("l1"))));
        take(Note::Lease(Change::Applied(lease("l2"))));
        take(Note::Pod(Change::Applied(pod("owned", &["l1"]))));
        take(Note::Pod(Change::Applied(pod("two", &["l1", "l2"]))));
        take(Note::Pod(Change::Applied(pod("orphan", &["l0"]))));
        take(Note::Pod(Change::Applied(pod("free", &[]))));
        assert!(graph.ripe(now).is_empty(), "not before the delay is over");
        assert_eq!(ripe(&mut graph, now + DELAY), ["orphan"]);
        graph.take(Note::Lease(Change::Gone(lease("l1"))), now, DELAY);
        assert_eq!(ripe(&mut graph, now + DELAY), ["owned"], "the other has an owner left");
        assert!(ripe(&mut graph, now + DELAY).is_empty(), "each once");
        graph.take(Note::Lease(Change::Gone(lease("l2"))), now, DELAY);
        assert_eq!(graph.due.len(), 1);
        graph.take(Note::Pod(Change::Gone(pod("two", &["l1", "l2"]))), now, DELAY);
        assert!(ripe(&mut graph, now + DELAY).is_empty(), "gone by itself");
    }
}
