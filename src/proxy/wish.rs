//! What a login asks for: its username parsed and resolved against the server list, remembered for as
//! long as the list is the same. The password check remembers logins by header, so a client that keeps
//! its credentials costs one parse a thread.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::error::ProxyError;
use crate::identity::Login;
use crate::selector::{Lifetimes, Limits, SelectError, SessionKey, Username, resolve};
use crate::servers::Catalogue;

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
    /// Its times.
    pub(super) lifetimes: Lifetimes,
}

impl Wish {
    /// How long the request may be held.
    pub(super) fn hold(&self, most: Duration) -> Duration {
        self.lifetimes.wait.map_or(most, |wait| wait.min(most))
    }
}

/// The wishes that a thread remembers.
pub(super) struct Wishes {
    catalogues: watch::Receiver<Arc<Catalogue>>,
    catalogue: Arc<Catalogue>,
    /// By the login's address, which is unique while the entry holds the login.
    by_login: HashMap<usize, (Arc<Login>, Rc<Wish>)>,
}

impl Wishes {
    /// None yet.
    pub(super) fn new(mut catalogues: watch::Receiver<Arc<Catalogue>>) -> Self {
        let catalogue = Arc::clone(&catalogues.borrow_and_update());
        Self { catalogues, catalogue, by_login: HashMap::new() }
    }

    /// What the login asks for.
    ///
    /// # Errors
    ///
    /// What is wrong with its username, in words for the client.
    pub(super) fn of(&mut self, login: &Arc<Login>, limits: &Limits) -> Result<Rc<Wish>, ProxyError> {
        // An error means that nobody publishes lists any more: the last one stays in use.
        if self.catalogues.has_changed().unwrap_or(false) {
            self.catalogue = Arc::clone(&self.catalogues.borrow_and_update());
            self.by_login.clear();
        }
        let address = Arc::as_ptr(login).addr();
        if let Some((_, wish)) = self.by_login.get(&address) {
            return Ok(Rc::clone(wish));
        }
        let username = Username::parse(&login.username).map_err(SelectError::from)?;
        let (key, lifetimes) = resolve(&username, &self.catalogue, limits)?;
        let wish = Rc::new(Wish {
            account: Arc::from(key.account.as_str()),
            selector: Arc::from(key.selector_text()),
            key,
            lifetimes,
        });
        if self.by_login.len() >= REMEMBERED {
            self.by_login.clear();
        }
        self.by_login.insert(address, (Arc::clone(login), Rc::clone(&wish)));
        Ok(wish)
    }
}
