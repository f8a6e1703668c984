//! Password checks, and what is remembered of them.

use std::sync::Arc;

use super::{Account, AuthError, Users};

/// A client that has proved who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Who.
    pub account: Account,
    /// The whole username, parameters included.
    pub username: String,
}

/// Checks passwords.
#[derive(Debug, Clone)]
pub struct Authenticator;

impl Authenticator {
    /// Starts the verifier thread.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn new(_users: Users) -> std::io::Result<Self> {
        Ok(Self)
    }

    /// Takes new accounts.
    pub fn replace(&self, _users: Users) {}

    /// The remembered answer.
    #[must_use]
    pub fn cached(&self, _header: &[u8]) -> Option<Arc<Login>> {
        None
    }

    /// Checks a header.
    ///
    /// # Errors
    /// When the client is not let in.
    pub async fn authenticate(&self, _header: &[u8]) -> Result<Arc<Login>, AuthError> {
        Err(AuthError::Busy)
    }
}
