//! What a login asks for: its username parsed and resolved against the server list, within what its account
//! may do; remembered for as long as the list and the accounts are the same. The password check remembers logins by header, so a client that keeps
//! its credentials costs one parse a thread.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::address::{Address, ByAddress};
use super::error::ProxyError;
use super::exits::Exits;
use crate::accounts::{Accounts, Policy};
use crate::identity::{AuthError, Login};
use crate::selector::{Lifetimes, Limits, SelectError, SessionKey, Username, resolve_within};
use crate::servers::Catalogue;
use crate::session::SessionId;

/// Logins remembered by one thread; some 500 bytes each.
const REMEMBERED: usize = 4096;

/// A username, understood.
#[derive(Debug)]
pub(super) struct Wish {
    /// The account, for logs.
    pub(super) account: Arc<str>,
    /// The selector in its canonical form, for logs.
    pub(super) selector: Arc<str>,
    /// Which session.
    pub(super) key: SessionKey,
    /// By what it is found.
    pub(super) id: SessionId,
    /// Its times.
    pub(super) lifetimes: Lifetimes,
    /// How long the request may be held.
    pub(super) hold: Duration,
    /// What its account may do.
    pub(super) policy: Arc<Policy>,
}

/// The wishes that a thread remembers.
pub(super) struct Wishes {
    catalogues: watch::Receiver<Arc<Catalogue>>,
    catalogue: Arc<Catalogue>,
    accounts_of: watch::Receiver<Arc<Accounts>>,
    accounts: Arc<Accounts>,
    /// `IDLE_TIMEOUT`, which an account's maximum may be below.
    idle: Duration,
    /// By the login's address, which is unique while the entry holds the login.
    by_login: ByAddress<(Arc<Login>, Rc<Wish>)>,
}

impl Wishes {
    /// None yet.
    pub(super) fn new(
        mut catalogues: watch::Receiver<Arc<Catalogue>>,
        mut accounts_of: watch::Receiver<Arc<Accounts>>,
        idle: Duration,
    ) -> Self {
        let catalogue = Arc::clone(&catalogues.borrow_and_update());
        let accounts = Arc::clone(&accounts_of.borrow_and_update());
        Self { catalogues, catalogue, accounts_of, accounts, idle, by_login: ByAddress::default() }
    }

    /// The accounts as they are now.
    pub(super) fn accounts(&mut self) -> &Accounts {
        self.refresh();
        &self.accounts
    }

    fn refresh(&mut self) {
        // An error means that nobody publishes any more: the last one stays in use.
        if self.catalogues.has_changed().unwrap_or(false) {
            self.catalogue = Arc::clone(&self.catalogues.borrow_and_update());
            self.by_login.clear();
        }
        if self.accounts_of.has_changed().unwrap_or(false) {
            self.accounts = Arc::clone(&self.accounts_of.borrow_and_update());
            self.by_login.clear();
        }
    }

    /// What the login asks for.
    ///
    /// # Errors
    ///
    /// What is wrong with its username, in words for the client.
    pub(super) fn of(
        &mut self,
        login: &Arc<Login>,
        limits: &Limits,
        exits: &dyn Exits,
    ) -> Result<Rc<Wish>, ProxyError> {
        self.refresh();
        let address = Address::of(login);
        if let Some((_, wish)) = self.by_login.get(&address) {
            return Ok(Rc::clone(wish));
        }
        let username = Username::parse(&login.username).map_err(SelectError::from)?;
        let account = login.account.as_str();
        // Its password was good a moment ago, and the account is gone since.
        let policy = Arc::clone(self.accounts.policy(account).ok_or(AuthError::Refused)?);
        let limits = policy.limits(limits);
        let (key, mut lifetimes) = resolve_within(&username, &self.catalogue, &limits, &policy.scope())?;
        let hold = lifetimes.wait.unwrap_or(limits.max_wait);
        if hold.is_zero() {
            lifetimes.wait = Some(hold);
        }
        if self.idle > limits.max_idle {
            lifetimes.idle = Some(lifetimes.idle.unwrap_or(limits.max_idle));
        }
        let wish = Rc::new(Wish {
            account: Arc::from(account),
            selector: Arc::from(key.selector_text()),
            id: exits.id(&key),
            key,
            lifetimes,
            hold,
            policy,
        });
        if self.by_login.len() >= REMEMBERED {
            self.by_login.clear();
        }
        self.by_login.insert(address, (Arc::clone(login), Rc::clone(&wish)));
        Ok(wish)
    }
}
