//! The cluster as this leader's watches have told it: pods and claims, each event folded in one by one
//! and in order, so that a create, its confirmation and its deletion are each seen.
//!
//! Pods and claims come by two watches and are therefore not of one moment. Nothing here makes up for
//! that: the plan's rules hold for every order, and its writes carry preconditions.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::facts::{ClaimRecord, PodFacts, Record};
use crate::session::claim::Claim;

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
    Applied(Arc<T>),
    /// This object is gone.
    Deleted {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
}

/// The objects of one kind, by name.
#[derive(Debug)]
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
                self.items.insert(item.name().to_owned(), Arc::clone(&item));
                Folded::Applied(item)
            }
            Change::Deleted { name, uid } => {
                // Another uid: an object of that name was made again, and its event came first.
                if self.items.get(&name).is_some_and(|item| item.uid() == uid) {
                    self.items.remove(&name);
                }
                Folded::Deleted { name, uid }
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

/// Pods and claims.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// Every pod with our label, foreign ones included.
    pub(super) pods: Index<PodFacts>,
    /// Every Lease with a claim's label.
    pub(super) claims: Index<ClaimRecord>,
}

impl Snapshot {
    /// Whether both initial lists are there: before that nothing may be concluded from absence.
    pub(super) fn is_complete(&self) -> bool {
        self.pods.is_complete() && self.claims.is_complete()
    }

    /// Every claim that can be read, by name.
    pub(super) fn readable_claims(&self) -> impl Iterator<Item = &Arc<Claim>> {
        self.claims.iter().filter_map(|record| record.claim.as_ref().ok())
    }

    /// Whether a Lease of that name with that uid is known.
    pub(super) fn has_claim(&self, name: &str, uid: &str) -> bool {
        self.claims.get(name).is_some_and(|record| record.uid == uid)
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
