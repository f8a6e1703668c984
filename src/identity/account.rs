//! The name of an account.

use std::fmt;
use std::sync::Arc;

/// Longest account name. It bounds the username: 255 bytes is what SOCKS5 can carry (RFC 1929).
const MAX_ACCOUNT: usize = 32;

/// A user that may use the proxy: 1 to 32 of `a-z 0-9 _ .`. It holds no `-`, so that a username's
/// account is always the text up to the first one. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Account(Arc<str>);

/// Why a text is not an account's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// No text at all.
    #[error("the account name is empty")]
    Empty,
    /// Over 32 characters.
    #[error("the account name is longer than {MAX_ACCOUNT} characters")]
    TooLong,
    /// A character outside `a-z 0-9 _ .`.
    #[error("an account name has only a-z, 0-9, '_' and '.', not {}", .0.escape_default())]
    Character(char),
}

/// The account of the claims that the management API makes: no user's, and none can log in as it.
const API: &str = "_api";

impl Account {
    /// The account of the claims that the management API makes.
    #[must_use]
    pub fn api() -> Self {
        Self(Arc::from(API))
    }

    /// Whether it is the management API's own. Nobody can ask for another exit of such a session: it
    /// has one, and ends with it.
    #[must_use]
    pub fn is_api(&self) -> bool {
        &*self.0 == API
    }

    /// Reads an account's name. Names reserved for the gateway are accepted here, since the gateway
    /// itself uses them; the users file refuses them.
    ///
    /// # Errors
    /// When the text is empty, longer than 32 characters, or has another character than `a-z 0-9 _ .`.
    pub fn parse(text: &str) -> Result<Self, AccountError> {
        if text.is_empty() {
            return Err(AccountError::Empty);
        }
        if let Some(bad) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '_' | '.')) {
            return Err(AccountError::Character(bad));
        }
        if text.len() > MAX_ACCOUNT {
            return Err(AccountError::TooLong);
        }
        Ok(Self(Arc::from(text)))
    }

    /// Whether the name belongs to the gateway: `_…` for claims that no account owns (`_api`), `pod.…`
    /// for the credentials of a pod. No account of the users file may have such a name.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with('_') || self.0.starts_with("pod.")
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Account {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// So that a map keyed by accounts can be asked with a plain text.
impl std::borrow::Borrow<str> for Account {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_the_grammar_says() {
        for name in ["a", "alice", "team.7_b", "_api", "pod.x", &"z".repeat(32)] {
            assert_eq!(Account::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn refuses_the_rest_and_says_why() {
        assert_eq!(Account::parse(""), Err(AccountError::Empty));
        assert_eq!(Account::parse(&"z".repeat(33)), Err(AccountError::TooLong));
        for (name, bad) in [("Alice", 'A'), ("a-b", '-'), ("a:b", ':'), ("ä", 'ä'), ("a b", ' ')] {
            assert_eq!(Account::parse(name), Err(AccountError::Character(bad)), "{name}");
        }
        assert!(AccountError::Character('ä').to_string().is_ascii());
    }

    #[test]
    fn knows_the_gateways_own() {
        assert!(Account::parse("_api").unwrap().is_reserved());
        assert!(Account::api().is_api() && Account::parse(API).unwrap() == Account::api());
        assert!(!Account::parse("_apis").unwrap().is_api());
        assert!(Account::parse("pod.4f").unwrap().is_reserved());
        assert!(!Account::parse("pods").unwrap().is_reserved());
        assert!(!Account::parse("a_").unwrap().is_reserved());
    }
}
