//! What accounts may do, as far as it is the leader's to see to: how many sessions each has, on which
//! servers, and that those of accounts that are gone go too.
//!
//! Every replica reads the files by itself, and mounted files reach replicas up to two minutes apart. So
//! nobody's sessions are ended because this leader has not heard of him yet ([`LAG`]), and nobody gets a
//! pod whom it does not know.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::accounts::{Owner, Owners};
use crate::identity::Account;
use crate::selector::Places;
use crate::servers::{Catalogue, Server};

/// How long an owner that this process has never known is taken for one that is newer than its files. The
/// kubelet brings a changed Secret or ConfigMap into a pod within its sync period (60 s) and its cache's
/// (another 60 s).
pub(super) const LAG: Duration = Duration::from_secs(180);

/// The accounts, from the leader's side.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Policy {
    /// None until they have come: then everything is allowed to everyone.
    owners: Option<Arc<Owners>>,
    /// Owners that were there, and since when they are gone.
    gone: BTreeMap<Account, Duration>,
    /// When this leader has first missed an owner that it has never known.
    missed: BTreeMap<Account, Duration>,
    /// The places of owners that are restricted, in the list in use.
    places: BTreeMap<Account, Places>,
}

/// How an owner of sessions stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is there.
    Known,
    /// It is not, and from then on its sessions end.
    Unknown(Duration),
}

impl Policy {
    /// Takes the accounts over.
    pub(super) fn replace<'a>(
        &mut self,
        owners: Arc<Owners>,
        gone: impl Iterator<Item = (&'a Account, Duration)>,
        catalogue: &Catalogue,
        now: Duration,
    ) {
        self.gone = gone.map(|(owner, ago)| (owner.clone(), now.saturating_sub(ago))).collect();
        self.missed.retain(|owner, _| owners.get(owner).is_none());
        self.owners = Some(owners);
        self.look_up(catalogue);
    }

    /// Looks the places up in a new server list.
    pub(super) fn look_up(&mut self, catalogue: &Catalogue) {
        let restricted = self.owners.iter().flat_map(|owners| owners.iter());
        let restricted = restricted.filter(|(_, owner)| !owner.places.is_empty());
        self.places =
            restricted.map(|(name, owner)| (name.clone(), owner.places.within(catalogue))).collect();
    }

    /// Whether the owner is there; `drain` is what the exits of one that is gone have.
    pub(super) fn standing(&mut self, owner: &Account, drain: Duration, now: Duration) -> Standing {
        let Some(owners) = &self.owners else { return Standing::Known };
        // The gateway's own sessions are nobody's.
        if owner.is_reserved() || owners.get(owner).is_some() {
            return Standing::Known;
        }
        match self.gone.get(owner) {
            Some(since) => Standing::Unknown(*since + drain),
            None => {
                let since = *self.missed.entry(owner.clone()).or_insert(now);
                Standing::Unknown(since + LAG + drain)
            }
        }
    }

    /// Forgets who was missed and has nothing left.
    pub(super) fn prune(&mut self, has_any: impl Fn(&Account) -> bool) {
        self.missed.retain(|owner, _| has_any(owner));
    }

    /// Most sessions of the owner.
    pub(super) fn max_sessions(&self, owner: &Account) -> Option<usize> {
        let rules: Option<&Arc<Owner>> = self.owners.as_ref().and_then(|owners| owners.get(owner));
        rules.and_then(|rules| rules.max_sessions).and_then(|most| usize::try_from(most).ok())
    }

    /// Whether an exit of the owner may be on that server.
    pub(super) fn allows(&self, owner: &Account, server: &Server) -> bool {
        self.places.get(owner).is_none_or(|places| places.allow(server))
    }
}

/// The sessions of each owner that count: by the names of their claims, so that a session with two pods,
/// or with one pod of a claim made anew, is one.
#[derive(Debug, Default)]
pub(super) struct Sessions(BTreeMap<Account, BTreeSet<String>>);

impl Sessions {
    /// A session counts.
    pub(super) fn add(&mut self, owner: &Account, claim: &str) {
        match self.0.get_mut(owner) {
            Some(claims) => _ = claims.insert(claim.to_owned()),
            None => _ = self.0.insert(owner.clone(), BTreeSet::from([claim.to_owned()])),
        }
    }

    /// How many other sessions the owner has.
    pub(super) fn beside(&self, owner: &Account, claim: &str) -> usize {
        self.0.get(owner).map_or(0, |claims| claims.len() - usize::from(claims.contains(claim)))
    }
}
