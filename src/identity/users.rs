//! The users file.

/// The accounts of a users file.
#[derive(Debug, Default)]
pub struct Users;

/// A mistake in a users file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct UsersError {
    /// Its line, from 1.
    pub line: usize,
    /// What is wrong and what to write instead. Never holds a hash or a password.
    pub message: String,
}

impl Users {
    /// Reads a users file.
    ///
    /// # Errors
    /// Every mistake, in order of lines.
    pub fn parse(_text: &str) -> Result<Self, Vec<UsersError>> {
        Ok(Self)
    }
}
