//! The cluster as this leader's watches have told it: pods and claims, each event folded in one by one
//! and in order, so that a create, its confirmation and its deletion are each seen.
//!
//! Pods and claims come by two watches and are therefore not of one moment. Nothing here makes up for
//! that: the plan's rules hold for every order, and its writes carry preconditions.
//!
//! What the plan asks of all of them (whose pods, which servers, how many) is kept as they change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::facts::{ClaimRecord, PodFacts, Record};
use crate::identity::Account;
use crate::session::claim::Claim;
use crate::session::pod::Stage;

/// What a watch tells. (kube's own event type, with the objects already digested.)
#[derive(Clone, Debug)]
pub(super) enum Change<T> {
    /// A list begins: what follows until [`Change::Complete`] is the whole.
    Restarted,
    /// An object of the list.
    Listed(Arc<T>),
    /// The list is complete, and what it did not hold is gone.
    Complete,
    /// An object was made or changed.
    Applied(Arc<T>),
    /// An object is gone.
    Deleted {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
}

/// What a change did to an [`Index`].
#[derive(Debug)]
pub(super) enum Folded<T> {
    /// Nothing that can be seen yet.
    Nothing,
    /// The whole was replaced; `first` for the initial list.
    Replaced {
        /// Whether it is the initial list.
        first: bool,
    },
    /// This object is new or has changed.
    Applied {
        /// The object.
        item: Arc<T>,
        /// What had the name before.
        before: Option<Arc<T>>,
    },
    /// This object is gone.
    Deleted {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
        /// The object, if it was known.
        item: Option<Arc<T>>,
    },
}

/// The objects of one kind, by name.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Index<T> {
    items: BTreeMap<String, Arc<T>>,
    listing: BTreeMap<String, Arc<T>>,
    complete: bool,
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self { items: BTreeMap::new(), listing: BTreeMap::new(), complete: false }
    }
}

impl<T: Record> Index<T> {
    /// Folds a change in.
    pub(super) fn fold(&mut self, change: Change<T>) -> Folded<T> {
        match change {
            Change::Restarted => {
                self.listing.clear();
                Folded::Nothing
            }
            Change::Listed(item) => {
                self.listing.insert(item.name().to_owned(), item);
                Folded::Nothing
            }
            Change::Complete => {
                self.items = std::mem::take(&mut self.listing);
                Folded::Replaced { first: !std::mem::replace(&mut self.complete, true) }
            }
            Change::Applied(item) => {
                let before = match self.items.get_mut(item.name()) {
                    Some(known) => Some(std::mem::replace(known, Arc::clone(&item))),
                    None => self.items.insert(item.name().to_owned(), Arc::clone(&item)),
                };
                Folded::Applied { item, before }
            }
            Change::Deleted { name, uid } => {
                // Another uid: an object of that name was made again, and its event came first.
                let known = self.items.get(&name).is_some_and(|item| item.uid() == uid);
                let item = if known { self.items.remove(&name) } else { None };
                Folded::Deleted { name, uid, item }
            }
        }
    }

    /// Every object, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.items.values()
    }

    /// The object of that name.
    pub(super) fn get(&self, name: &str) -> Option<&Arc<T>> {
        self.items.get(name)
    }

    /// Whether the initial list is there.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }
}

/// The pods of one claim, by transition.
#[derive(Clone, Debug, Default)]
pub(super) struct Exits(pub(super) BTreeMap<i32, Arc<PodFacts>>);

impl Exits {
    /// The pod of the claim's present transition.
    pub(super) fn current(&self, claim: &Claim) -> Option<&Arc<PodFacts>> {
        self.0.get(&claim.transition)
    }

    /// Older than the current one, newest first.
    pub(super) fn older(&self, claim: &Claim) -> impl Iterator<Item = (i32, &Arc<PodFacts>)> {
        self.0.range(..claim.transition).rev().map(|(transition, pod)| (*transition, pod))
    }

    /// Whether there is one that the claim does not know of: then the claim that we know is old.
    pub(super) fn is_ahead_of(&self, claim: &Claim) -> bool {
        self.0.keys().next_back().is_some_and(|newest| *newest > claim.transition)
    }
}

/// What is asked of all pods together.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
struct Pods {
    /// By uid.
    by_uid: BTreeMap<String, Arc<PodFacts>>,
    /// Those that serve claims, by the claim's uid.
    exits: BTreeMap<String, Exits>,
    /// Live ones.
    live: usize,
    /// Servers of live ones, foreign ones' too, and how many are on each.
    servers: BTreeMap<String, usize>,
    /// Names of the claims that live ones of each owner serve, and how many serve each.
    owners: BTreeMap<Account, BTreeMap<String, usize>>,
    /// Uids of those that serve claims, run, and are not ready by the kubelet's word.
    starting: BTreeSet<String>,
}

impl Pods {
    fn add(&mut self, pod: &Arc<PodFacts>) {
        let view = &pod.view;
        self.by_uid.insert(view.uid.clone(), Arc::clone(pod));
        if let Some(binding) = &view.binding {
            let exits = self.exits.entry(binding.claim_uid.clone()).or_default();
            exits.0.insert(binding.transition, Arc::clone(pod));
            if view.stage == Stage::Running && !view.ready {
                self.starting.insert(view.uid.clone());
            }
        }
        if !view.is_live() {
            return;
        }
        self.live += 1;
        for server in pod.servers() {
            *self.servers.entry(server.to_owned()).or_default() += 1;
        }
        if let (Some(owner), Some(binding)) = (&view.owner, &view.binding) {
            *self.owners.entry(owner.clone()).or_default().entry(binding.claim.clone()).or_default() += 1;
        }
    }

    fn remove(&mut self, pod: &PodFacts) {
        let view = &pod.view;
        self.by_uid.remove(&view.uid);
        self.starting.remove(&view.uid);
        if let Some(binding) = &view.binding
            && let Some(exits) = self.exits.get_mut(&binding.claim_uid)
        {
            exits.0.remove(&binding.transition);
            if exits.0.is_empty() {
                self.exits.remove(&binding.claim_uid);
            }
        }
        if !view.is_live() {
            return;
        }
        self.live -= 1;
        for server in pod.servers() {
            subtract(&mut self.servers, server);
        }
        if let (Some(owner), Some(binding)) = (&view.owner, &view.binding)
            && let Some(claims) = self.owners.get_mut(owner)
        {
            subtract(claims, &binding.claim);
            if claims.is_empty() {
                self.owners.remove(owner);
            }
        }
    }
}

/// One less of a name; none left, and it is forgotten.
fn subtract(counts: &mut BTreeMap<String, usize>, name: &str) {
    if let Some(count) = counts.get_mut(name) {
        *count -= 1;
        if *count == 0 {
            counts.remove(name);
        }
    }
}

/// Pods and claims.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Snapshot {
    /// Every pod with our label, foreign ones included.
    pods: Index<PodFacts>,
    /// Every Lease with a claim's label.
    claims: Index<ClaimRecord>,
    all: Pods,
    /// Names of the claims of each owner.
    owned: BTreeMap<Account, BTreeSet<String>>,
}

impl Snapshot {
    /// Folds in what the watch of pods tells.
    pub(super) fn fold_pod(&mut self, change: Change<PodFacts>) -> Folded<PodFacts> {
        let folded = self.pods.fold(change);
        match &folded {
            Folded::Nothing | Folded::Deleted { item: None, .. } => {}
            Folded::Applied { item, before } => {
                if let Some(before) = before {
                    self.all.remove(before);
                }
                self.all.add(item);
            }
            Folded::Deleted { item: Some(item), .. } => self.all.remove(item),
            Folded::Replaced { .. } => {
                self.all = Pods::default();
                for pod in self.pods.iter() {
                    self.all.add(pod);
                }
            }
        }
        folded
    }

    /// Folds in what the watch of claims tells.
    pub(super) fn fold_claim(&mut self, change: Change<ClaimRecord>) -> Folded<ClaimRecord> {
        let folded = self.claims.fold(change);
        match &folded {
            Folded::Nothing | Folded::Deleted { item: None, .. } => {}
            Folded::Applied { item, before } => {
                let owner = |record: &ClaimRecord| record.claim.as_ref().ok().map(|c| c.key.account.clone());
                if before.as_ref().is_none_or(|before| owner(before) != owner(item)) {
                    if let Some(before) = before {
                        self.disown(before);
                    }
                    self.own(item);
                }
            }
            Folded::Deleted { item: Some(item), .. } => self.disown(item),
            Folded::Replaced { .. } => {
                self.owned.clear();
                let records: Vec<_> = self.claims.iter().map(Arc::clone).collect();
                for record in &records {
                    self.own(record);
                }
            }
        }
        folded
    }

    fn own(&mut self, record: &ClaimRecord) {
        if let Ok(claim) = &record.claim {
            self.owned.entry(claim.key.account.clone()).or_default().insert(claim.name.clone());
        }
    }

    fn disown(&mut self, record: &ClaimRecord) {
        if let Ok(claim) = &record.claim
            && let Some(names) = self.owned.get_mut(&claim.key.account)
        {
            names.remove(&claim.name);
            if names.is_empty() {
                self.owned.remove(&claim.key.account);
            }
        }
    }

    /// Whether both initial lists are there: before that nothing may be concluded from absence.
    pub(super) fn is_complete(&self) -> bool {
        self.pods.is_complete() && self.claims.is_complete()
    }

    /// Whether the initial list of claims is there.
    pub(super) fn has_listed_claims(&self) -> bool {
        self.claims.is_complete()
    }

    /// Every pod, by name.
    pub(super) fn pods(&self) -> impl Iterator<Item = &Arc<PodFacts>> {
        self.pods.iter()
    }

    /// The pod of that name.
    pub(super) fn pod(&self, name: &str) -> Option<&Arc<PodFacts>> {
        self.pods.get(name)
    }

    /// The pod with that uid.
    pub(super) fn pod_by_uid(&self, uid: &str) -> Option<&Arc<PodFacts>> {
        self.all.by_uid.get(uid)
    }

    /// The pods that serve the claim with that uid.
    pub(super) fn exits(&self, claim_uid: &str) -> Option<&Exits> {
        self.all.exits.get(claim_uid)
    }

    /// How many pods are live.
    pub(super) fn live(&self) -> usize {
        self.all.live
    }

    /// Whether a live pod is on that server.
    pub(super) fn is_in_use(&self, server: &str) -> bool {
        self.all.servers.contains_key(server)
    }

    /// Names of the claims that live pods of the owner serve.
    pub(super) fn served(&self, owner: &Account) -> impl Iterator<Item = &String> {
        self.all.owners.get(owner).into_iter().flat_map(BTreeMap::keys)
    }

    /// The pods that serve claims, run, and are not ready by the kubelet's word.
    pub(super) fn starting(&self) -> impl Iterator<Item = &Arc<PodFacts>> {
        self.all.starting.iter().filter_map(|uid| self.all.by_uid.get(uid))
    }

    /// Every Lease with a claim's label, by name.
    pub(super) fn records(&self) -> impl Iterator<Item = &Arc<ClaimRecord>> {
        self.claims.iter()
    }

    /// The claim of that name with that uid, if it is there and can be read.
    pub(super) fn claim(&self, name: &str, uid: &str) -> Option<&Arc<Claim>> {
        self.claims.get(name).filter(|record| record.uid == uid)?.claim.as_ref().ok()
    }

    /// The claims of an owner that can be read.
    pub(super) fn claims_of(&self, owner: &Account) -> impl Iterator<Item = &Arc<Claim>> {
        let names = self.owned.get(owner).into_iter().flatten();
        names.filter_map(|name| self.claims.get(name)?.claim.as_ref().ok())
    }

    /// Whether an owner has claims.
    pub(super) fn owns_any(&self, owner: &Account) -> bool {
        self.owned.contains_key(owner)
    }

    /// Whether a Lease of that name with that uid is known.
    pub(super) fn has_claim(&self, name: &str, uid: &str) -> bool {
        self.claims.get(name).is_some_and(|record| record.uid == uid)
    }
}

#[cfg(test)]
impl Snapshot {
    /// What differs from what the objects themselves come to.
    pub(super) fn inconsistency(&self) -> Option<String> {
        let mut all = Pods::default();
        for pod in self.pods.iter() {
            all.add(pod);
        }
        let mut owned: BTreeMap<Account, BTreeSet<String>> = BTreeMap::new();
        for claim in self.claims.iter().filter_map(|record| record.claim.as_ref().ok()) {
            owned.entry(claim.key.account.clone()).or_default().insert(claim.name.clone());
        }
        let told = |pods: &Pods| {
            let uids: Vec<_> = pods.by_uid.keys().cloned().collect();
            let exits: Vec<_> = pods
                .exits
                .iter()
                .flat_map(|(uid, exits)| {
                    exits.0.iter().map(|(t, pod)| (uid.clone(), *t, pod.view.uid.clone()))
                })
                .collect();
            format!(
                "{uids:?} {exits:?} {} {:?} {:?} {:?}",
                pods.live, pods.servers, pods.owners, pods.starting
            )
        };
        let (kept, is) = (told(&self.all), told(&all));
        if kept != is || owned != self.owned {
            return Some(format!("{kept} {:?}, and is {is} {owned:?}", self.owned));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Thing(&'static str, &'static str);

    impl Record for Thing {
        fn name(&self) -> &str {
            self.0
        }

        fn uid(&self) -> &str {
            self.1
        }
    }

    fn thing(name: &'static str, uid: &'static str) -> Arc<Thing> {
        Arc::new(Thing(name, uid))
    }

    #[test]
    fn a_list_replaces_everything_at_once() {
        let mut index = Index::default();
        assert!(!index.is_complete());
        index.fold(Change::Restarted);
        index.fold(Change::Listed(thing("a", "1")));
        assert!(index.get("a").is_none(), "a list that is not complete shows nothing");
        assert!(matches!(index.fold(Change::Complete), Folded::Replaced { first: true }));
        index.fold(Change::Applied(thing("b", "2")));
        index.fold(Change::Restarted);
        index.fold(Change::Listed(thing("c", "3")));
        assert_eq!(index.iter().count(), 2, "the old content stands until the new list is complete");
        assert!(matches!(index.fold(Change::Complete), Folded::Replaced { first: false }));
        assert_eq!(index.iter().map(|t| t.0).collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn the_end_of_an_earlier_object_does_not_take_its_successor() {
        let mut index = Index::default();
        index.fold(Change::Applied(thing("a", "1")));
        index.fold(Change::Applied(thing("a", "2")));
        index.fold(Change::Deleted { name: "a".into(), uid: "1".into() });
        assert_eq!(index.get("a").unwrap().1, "2");
        index.fold(Change::Deleted { name: "a".into(), uid: "2".into() });
        assert!(index.get("a").is_none());
    }
}
