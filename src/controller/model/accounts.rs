//! The model's accounts: who has a quota, who is removed, and what must hold of both.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use super::world::{Event, World};
use crate::accounts::{Owner, Owners};
use crate::controller::action::Action;
use crate::identity::Account;
use crate::selector::PlaceRules;
use crate::session::claim::{Claim, ReasonKind};

/// Every account that has sessions, but for the gateway's own.
const ACCOUNTS: [&str; 3] = ["a", "b", "c"];

/// The one that may be removed.
const REMOVED: &str = "c";

/// By how much the gateways' files may lag, at most.
const LAG: u64 = 60_000;

/// How long a call that was decided on before may take to have its effect, and then some.
const SLOW: Duration = Duration::from_secs(15);

/// For how long a full quota is told after it has been full: as long as a creation may still come, and what
/// the watches lag.
const STALE: Duration = Duration::from_secs(15);

/// The accounts of one seed.
#[derive(Debug)]
pub(super) struct Accounts {
    /// Most sessions, where there is a quota.
    quotas: BTreeMap<Account, usize>,
    /// When the account is removed, and when each gateway learns of it.
    removal: Option<(Duration, [Duration; 2])>,
    /// When each quota was last seen to be full.
    full: BTreeMap<Account, Duration>,
}

impl Accounts {
    pub(super) fn new(rng: &mut StdRng) -> Self {
        let mut quotas = BTreeMap::new();
        for (name, chance) in [("a", 0.7), ("b", 0.4)] {
            if rng.random_bool(chance) {
                quotas.insert(account(name), rng.random_range(1..=2));
            }
        }
        let removal = rng.random_bool(0.4).then(|| {
            let at = Duration::from_millis(rng.random_range(30_000..350_000));
            (at, [0, 1].map(|_| at + Duration::from_millis(rng.random_range(0..LAG))))
        });
        Self { quotas, removal, full: BTreeMap::new() }
    }
}

fn account(name: &str) -> Account {
    Account::parse(name).unwrap()
}

impl World {
    /// Has the gateways learn of the removal.
    pub(super) fn add_accounts(&mut self) {
        if let Some((_, learnt)) = self.accounts.removal {
            for (leader, at) in learnt.into_iter().enumerate() {
                self.at(at, Event::Accounts { leader });
            }
        }
    }

    /// What a gateway knows now.
    pub(super) fn owners(&self, leader: usize) -> (Arc<Owners>, Vec<(Account, Duration)>) {
        let learnt = self.accounts.removal.map(|(_, learnt)| learnt[leader]).filter(|at| *at <= self.now);
        let known = ACCOUNTS.into_iter().filter(|name| learnt.is_none() || *name != REMOVED).map(account);
        let owners = known.map(|name| {
            let most = self.accounts.quotas.get(&name).map(|most| u32::try_from(*most).unwrap());
            (name, Owner { max_sessions: most, places: PlaceRules::default() })
        });
        let gone = learnt.map(|at| (account(REMOVED), self.now - at));
        (Arc::new(owners.collect()), gone.into_iter().collect())
    }

    /// When the account of the session is removed for every gateway.
    pub(super) fn is_removed(&self, owner: &Account) -> bool {
        let end = self.accounts.removal.map(|(_, learnt)| learnt[0].max(learnt[1]) + SLOW);
        owner.as_str() == REMOVED && end.is_some_and(|end| end <= self.now)
    }

    /// The names of an owner's sessions with a live pod; and those with the ones whose pod is on its way, and
    /// those that have had an exit and go on.
    fn sessions_of(&self, owner: &Account) -> (BTreeSet<String>, BTreeSet<String>) {
        let pods = self.api.pods.values().filter(|pod| pod.ours && pod.facts.view.is_live());
        let pods = pods.filter(|pod| pod.facts.view.owner.as_ref() == Some(owner));
        let live: BTreeSet<String> =
            pods.filter_map(|pod| Some(pod.facts.view.binding.as_ref()?.claim.clone())).collect();
        let goes_on =
            |claim: &&Claim| claim.key.account == *owner && (claim.ready.is_some() || claim.transition > 0);
        let claims = self.api.claims.values().filter(goes_on).map(|claim| claim.name.clone());
        let on_their_way = self.calls.values().filter_map(|call| match &call.action {
            Action::CreatePod(new) if new.claim.key.account == *owner => Some(new.claim.name.clone()),
            _ => None,
        });
        let all = live.iter().cloned().chain(claims).chain(on_their_way).collect();
        (live, all)
    }

    /// Before and after every change.
    pub(super) fn check_quotas(&mut self) {
        let quotas: Vec<(Account, usize)> =
            self.accounts.quotas.iter().map(|(owner, most)| (owner.clone(), *most)).collect();
        for (owner, most) in quotas {
            let (live, all) = self.sessions_of(&owner);
            if live.len() > most {
                self.fail(format!(
                    "{owner} has {} sessions with a pod, its quota is {most}: {live:?}",
                    live.len()
                ));
            }
            if all.len() >= most {
                self.accounts.full.insert(owner, self.now);
            }
        }
    }

    /// Somebody is told that his quota is full.
    pub(super) fn check_over_quota(&mut self, claim: &Claim, kind: ReasonKind) {
        // Full since its last change, perhaps.
        self.check_quotas();
        let owner = &claim.key.account;
        self.counts.count("session over its quota");
        if kind != ReasonKind::Rejected {
            self.fail(format!("{owner} waits for his quota, and keeps others waiting"));
        }
        let full = self.accounts.full.get(owner).copied();
        if !self.accounts.quotas.contains_key(owner) {
            self.fail(format!("{owner} has no quota and is refused by one"));
        } else if full.is_none_or(|at| at + STALE < self.now) && self.has_been_calm(self.now) {
            self.fail(format!("{owner} is refused by a quota that was last full at {full:?}"));
        }
    }
}
