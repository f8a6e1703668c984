//! What accounts may do: the accounts file beside the users file, and the two put together.
//!
//! [`Accounts`] is immutable: a change of either file makes another one, whole, which is published at
//! once. The proxy's data threads take each wish's [`Policy`] from it and remember that with the wish; the
//! leader takes [`Owners`], which is what sessions are counted and placed by. [`follow`] runs on the
//! control plane of every replica.
//!
//! | File | Has |
//! |---|---|
//! | `yaml`, `fields`, `file`, `rules` | the accounts file, read with every mistake and its place |
//! | `usage` | what is counted on each replica |
//! | `files`, `watch` | both files, read together and followed |

mod fields;
mod file;
mod files;
mod rules;
mod usage;
mod watch;
mod yaml;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::identity::{Account, Users};
use crate::proxy::AccountDestinations;
use crate::selector::{Limits, Params, PlaceRules, Scope};

pub use files::{AccountFile, Checked, FileFault, Files, FilesError, Source, check};
pub use rules::{AccountsFile, Rate};
pub use usage::{Slot, Usage};
pub(crate) use watch::warn;
pub use watch::{Follow, follow};

/// How long an account that is gone is remembered as one that was there.
const REMEMBERED: Duration = Duration::from_secs(86_400);

/// What one account may do. Shared by all wishes of the account, across reloads of the files until one
/// changes it.
#[derive(Debug)]
pub struct Policy {
    account: Account,
    owner: Account,
    rules: Arc<Owner>,
    selector: Params,
    max_tunnels: Option<u32>,
    rate: Option<Rate>,
    max_idle: Option<Duration>,
    max_ttl: Option<Duration>,
    max_wait: Option<Duration>,
    destinations: AccountDestinations,
    sessions: bool,
    usage: Arc<Usage>,
}

/// What holds for everyone who shares an owner's sessions: an account by itself, or a share group.
#[derive(Clone, Debug, Default)]
pub struct Owner {
    /// Most sessions with an exit, in the whole cluster.
    pub max_sessions: Option<u32>,
    /// Where its exits may be.
    pub places: PlaceRules,
}

/// Every owner of sessions.
#[derive(Clone, Debug, Default)]
pub struct Owners(BTreeMap<Account, Arc<Owner>>);

/// Which limit of an account is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// `max_sessions`.
    Sessions,
    /// `max_tunnels`.
    Tunnels,
    /// `tunnels_per_second`.
    Rate,
}

impl Quota {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sessions, Self::Tunnels, Self::Rate];

    /// The label of the metric.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Tunnels => "tunnels",
            Self::Rate => "rate",
        }
    }
}

/// A limit of an account is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverQuota {
    /// Which.
    pub quota: Quota,
    /// Which, used and most, in words for the client.
    pub message: String,
    /// After how long a retry may do, where that is known.
    pub retry_after: Option<Duration>,
}

/// An account that was there and is not any more.
#[derive(Clone, Debug)]
struct Leaving {
    since: Instant,
    usage: Arc<Usage>,
}

/// All accounts, as both files have them.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    policies: HashMap<Account, Arc<Policy>>,
    owners: Arc<Owners>,
    /// Owners that were there, and since when they are gone.
    gone: HashMap<Account, Instant>,
    /// Accounts whose tunnels are still to be ended.
    leaving: HashMap<Account, Leaving>,
}

impl Accounts {
    /// Puts both files together. Accounts that are disabled in either are none.
    #[must_use]
    pub fn new(users: &Users, file: &AccountsFile) -> Self {
        Self::default().next(users, file)
    }

    /// The accounts after a change of the files: what is in use stays counted, and who is gone is noted.
    #[must_use]
    pub fn next(&self, users: &Users, file: &AccountsFile) -> Self {
        let now = Instant::now();
        let mut owners = BTreeMap::new();
        let mut policies = HashMap::new();
        for (account, locked) in users.iter() {
            let none = rules::Rules::default();
            let own = file.accounts.get(account).map_or(&none, |section| &section.rules);
            if locked || own.disabled == Some(true) {
                continue;
            }
            let owner = own.share.as_ref().unwrap_or(account).clone();
            let rules = Arc::clone(owners.entry(owner.clone()).or_insert_with(|| {
                let section = own.share.as_ref().and_then(|group| file.groups.get(group));
                Arc::new(owner_of(section.map_or(own, |section| &section.rules), &file.defaults))
            }));
            let usage = self.usage(account);
            policies.insert(account.clone(), Arc::new(policy(account, owner, rules, own, file, usage)));
        }
        let owners = Owners(owners);
        let mut gone: HashMap<Account, Instant> =
            self.gone.iter().filter(|(_, since)| since.elapsed() < REMEMBERED).map(own_pair).collect();
        gone.extend(self.owners.0.keys().map(|owner| (owner.clone(), now)));
        gone.retain(|owner, _| owners.get(owner).is_none());
        let mut leaving = self.leaving.clone();
        for (account, policy) in &self.policies {
            let usage = Arc::clone(&policy.usage);
            leaving.insert(account.clone(), Leaving { since: now, usage });
        }
        leaving.retain(|account, leaving| {
            !policies.contains_key(account) && !leaving.usage.ended().is_cancelled()
        });
        Self { policies, owners: Arc::new(owners), gone, leaving }
    }

    /// Its use so far, also if it was removed by mistake and came back in time.
    fn usage(&self, account: &Account) -> Arc<Usage> {
        let known = self.policies.get(account).map(|policy| &policy.usage);
        let left = || self.leaving.get(account).map(|leaving| &leaving.usage);
        let usage = known.or_else(left).filter(|usage| !usage.ended().is_cancelled());
        usage.map_or_else(|| Arc::new(Usage::new()), Arc::clone)
    }

    /// What an account may do; none for one that is unknown or disabled.
    #[must_use]
    pub fn policy(&self, account: &str) -> Option<&Arc<Policy>> {
        self.policies.get(account)
    }

    /// How many accounts there are, without disabled ones.
    #[must_use]
    pub fn len(&self) -> usize {
        self.policies.len()
    }

    /// Whether nobody may do anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// Every owner of sessions.
    #[must_use]
    pub fn owners(&self) -> &Arc<Owners> {
        &self.owners
    }

    /// Owners that were there once in this process, and how long they have been gone.
    pub fn gone(&self) -> impl Iterator<Item = (&Account, Duration)> {
        self.gone.iter().map(|(owner, since)| (owner, since.elapsed()))
    }

    /// Ends what is open of accounts that have been gone for `drain`; tells when the next will be due.
    pub fn end_due(&self, drain: Duration) -> Option<Instant> {
        let now = Instant::now();
        let (mut next, mut ended) = (None::<Instant>, 0_u32);
        for (account, leaving) in &self.leaving {
            let due = leaving.since + drain;
            if due > now {
                next = Some(next.map_or(due, |next| next.min(due)));
            } else if !leaving.usage.ended().is_cancelled() {
                ended += 1;
                leaving.usage.ended().cancel();
                tracing::info!(%account, open = leaving.usage.tunnels(), "account gone: its tunnels end");
            }
        }
        if ended > 0 {
            tracing::debug!(ended, "accounts ended");
        }
        next
    }
}

fn own_pair((owner, since): (&Account, &Instant)) -> (Account, Instant) {
    (owner.clone(), *since)
}

fn owner_of(own: &rules::Rules, defaults: &rules::Rules) -> Owner {
    Owner {
        max_sessions: own.max_sessions.or(defaults.max_sessions).flatten(),
        places: own.places.clone().or_else(|| defaults.places.clone()).unwrap_or_default(),
    }
}

fn policy(
    account: &Account,
    owner: Account,
    rules: Arc<Owner>,
    own: &rules::Rules,
    file: &AccountsFile,
    usage: Arc<Usage>,
) -> Policy {
    let all = &file.defaults;
    let mut destinations = own.destinations.clone().or_else(|| all.destinations.clone()).unwrap_or_default();
    destinations.ports = own.ports.clone().or_else(|| all.ports.clone()).unwrap_or_default();
    Policy {
        account: account.clone(),
        owner,
        rules,
        selector: own.selector.clone().or_else(|| all.selector.clone()).unwrap_or_default(),
        max_tunnels: own.max_tunnels.or(all.max_tunnels).flatten(),
        rate: own.rate.or(all.rate).flatten(),
        max_idle: own.max_idle.or(all.max_idle).flatten(),
        max_ttl: own.max_ttl.or(all.max_ttl).flatten(),
        max_wait: own.max_wait.or(all.max_wait).flatten(),
        destinations,
        sessions: own.sessions.or(all.sessions).unwrap_or(true),
        usage,
    }
}

impl Policy {
    /// The account.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Whose sessions it uses.
    #[must_use]
    pub fn owner(&self) -> &Account {
        &self.owner
    }

    /// What a wish of the account is resolved within.
    #[must_use]
    pub fn scope(&self) -> Scope<'_> {
        Scope {
            owner: &self.owner,
            default: &self.selector,
            places: &self.rules.places,
            sessions: self.sessions,
        }
    }

    /// The gateway's limits on times, or the account's where those are lower.
    #[must_use]
    pub fn limits(&self, gateway: &Limits) -> Limits {
        let lower = |all: Duration, own: Option<Duration>| own.map_or(all, |own| own.min(all));
        Limits {
            max_idle: lower(gateway.max_idle, self.max_idle),
            max_ttl: lower(gateway.max_ttl, self.max_ttl),
            max_wait: lower(gateway.max_wait, self.max_wait),
        }
    }

    /// Where the account's requests may go.
    #[must_use]
    pub fn destinations(&self) -> &AccountDestinations {
        &self.destinations
    }

    /// Lets a tunnel or a plain request in. Takes no lock and allocates nothing.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn enter(&self) -> Result<Slot, OverQuota> {
        let slot = self.usage.take(self.max_tunnels).map_err(|used| OverQuota {
            quota: Quota::Tunnels,
            message: format!(
                "max_tunnels reached: {used} of {} tunnels of this account are open",
                self.max_tunnels.unwrap_or(u32::MAX)
            ),
            retry_after: None,
        })?;
        if let Some(rate) = self.rate {
            self.usage.pass(rate).map_err(|wait| OverQuota {
                quota: Quota::Rate,
                message: format!(
                    "tunnels_per_second reached: {0} of {0} at once are used, and {1} a second come back",
                    rate.burst, rate.per_second
                ),
                retry_after: Some(wait),
            })?;
        }
        Ok(slot)
    }
}

impl Owners {
    /// The owner's rules; none for one that is unknown.
    #[must_use]
    pub fn get(&self, owner: &Account) -> Option<&Arc<Owner>> {
        self.0.get(owner)
    }

    /// Every owner.
    pub fn iter(&self) -> impl Iterator<Item = (&Account, &Arc<Owner>)> {
        self.0.iter()
    }
}

impl FromIterator<(Account, Owner)> for Owners {
    fn from_iter<I: IntoIterator<Item = (Account, Owner)>>(owners: I) -> Self {
        Self(owners.into_iter().map(|(name, owner)| (name, Arc::new(owner))).collect())
    }
}

#[cfg(test)]
mod tests;
