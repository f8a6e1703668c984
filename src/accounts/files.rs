//! The users file and the accounts file, read and checked together.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::Accounts;
use super::file;
use super::rules::AccountsFile;
use crate::identity::{FileMistake, MAX_FILE, Users, fingerprint};
use crate::servers::Catalogue;

/// Mistakes of a file that a log line or an Event tells; `gluetun-gateway check` tells all.
const TOLD: usize = 5;

/// Where the two files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// `USERS_FILE`.
    pub users: PathBuf,
    /// `ACCOUNTS_FILE`.
    pub accounts: Option<PathBuf>,
}

/// Both files, good by themselves and together.
#[derive(Debug)]
pub struct Files {
    users: Users,
    accounts: AccountsFile,
    /// SHA-256 of each text, by which a change is noticed.
    pub(super) fingerprint: [[u8; 32]; 2],
}

/// One of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountFile {
    /// `USERS_FILE`.
    Users,
    /// `ACCOUNTS_FILE`.
    Accounts,
}

impl AccountFile {
    /// The setting that names it.
    pub const fn setting(self) -> &'static str {
        match self {
            Self::Users => "USERS_FILE",
            Self::Accounts => "ACCOUNTS_FILE",
        }
    }

    /// The label of the metric.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Accounts => "accounts",
        }
    }
}

/// What is wrong with one of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFault {
    /// Which.
    pub file: AccountFile,
    /// Where it is.
    pub path: PathBuf,
    /// Its mistakes, or why it cannot be read.
    pub what: Result<Vec<FileMistake>, String>,
}

/// Why the files are not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesError(pub Vec<FileFault>);

impl fmt::Display for FilesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, FileFault { file, path, what }) in self.0.iter().enumerate() {
            let (gap, path) = (if n > 0 { "; " } else { "" }, path.display());
            match what {
                Err(error) => write!(f, "{gap}cannot read the {} file {path}: {error}", file.as_str())?,
                Ok(mistakes) => {
                    write!(f, "{gap}the {} file {path} has mistakes: ", file.as_str())?;
                    for (n, mistake) in mistakes.iter().take(TOLD).enumerate() {
                        write!(f, "{}{mistake}", if n > 0 { "; " } else { "" })?;
                    }
                    if let more @ 1.. = mistakes.len().saturating_sub(TOLD) {
                        write!(f, "; and {more} more (`gluetun-gateway check` names them all)")?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl std::error::Error for FilesError {}

impl Source {
    /// Reads both files, and holds them against each other.
    ///
    /// # Errors
    /// Everything that is wrong with either, or with both together.
    pub fn load(&self) -> Result<Files, FilesError> {
        let (users, accounts) = self.texts()?;
        self.parse(&users, accounts.as_deref())
    }

    /// As [`Source::load`], if either file's content is another than that of `known`.
    pub(super) fn load_if_changed(&self, known: &[[u8; 32]; 2]) -> Result<Option<Files>, FilesError> {
        let (users, accounts) = self.texts()?;
        if fingerprints(&users, accounts.as_deref()) == *known {
            return Ok(None);
        }
        self.parse(&users, accounts.as_deref()).map(Some)
    }

    fn texts(&self) -> Result<(String, Option<String>), FilesError> {
        let accounts = self.accounts.as_ref().map(|path| read(AccountFile::Accounts, path)).transpose();
        match (read(AccountFile::Users, &self.users), accounts) {
            (Ok(users), Ok(accounts)) => Ok((users, accounts)),
            (users, accounts) => {
                Err(FilesError([users.err(), accounts.err()].into_iter().flatten().collect()))
            }
        }
    }

    fn parse(&self, users_text: &str, accounts_text: Option<&str>) -> Result<Files, FilesError> {
        let fault =
            |file, path: &Path, mistakes| FileFault { file, path: path.to_owned(), what: Ok(mistakes) };
        let users = Users::parse(users_text).map_err(|m| fault(AccountFile::Users, &self.users, m));
        let path = self.accounts.as_deref().unwrap_or_else(|| Path::new(""));
        let accounts = AccountsFile::parse(accounts_text.unwrap_or_default())
            .and_then(|file| match &users {
                Ok(users) => file.fits(users).map(|()| file),
                Err(_) => Ok(file),
            })
            .map_err(|m| fault(AccountFile::Accounts, path, m));
        match (users, accounts) {
            (Ok(mut users), Ok(accounts)) => {
                let disabled =
                    accounts.accounts.iter().filter(|(_, entry)| entry.rules.disabled == Some(true));
                disabled.for_each(|(account, _)| users.lock(account.as_str()));
                Ok(Files { users, accounts, fingerprint: fingerprints(users_text, accounts_text) })
            }
            (users, accounts) => {
                Err(FilesError([users.err(), accounts.err()].into_iter().flatten().collect()))
            }
        }
    }
}

impl Files {
    /// What they make of everyone, to begin with.
    #[must_use]
    pub fn accounts(&self) -> Accounts {
        Accounts::new(&self.users, &self.accounts)
    }

    /// What they make of everyone after `before`.
    #[must_use]
    pub(super) fn after(&self, before: &Accounts) -> Accounts {
        before.next(&self.users, &self.accounts)
    }

    /// The accounts that can log in; those that the accounts file disables cannot.
    #[must_use]
    pub fn users(&self) -> &Users {
        &self.users
    }

    /// The same, for whoever checks passwords.
    #[must_use]
    pub fn into_users(self) -> Users {
        self.users
    }

    /// SHA-256 of each text.
    #[must_use]
    pub fn fingerprint(&self) -> [[u8; 32]; 2] {
        self.fingerprint
    }

    /// What is no mistake and still worth a look: entries of the accounts file without an account, and
    /// places that the server list does not have.
    #[must_use]
    pub fn warnings(&self, catalogue: &Catalogue) -> Vec<FileMistake> {
        let mut warnings = self.accounts.strangers(&self.users);
        warnings.extend(self.accounts.unknown_places(catalogue));
        warnings
    }
}

/// What there is to say of both files, as they lie there.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// Why they would not be taken.
    pub faults: Vec<FileFault>,
    /// Places of the accounts file that the server list does not have.
    pub unknown_places: Vec<FileMistake>,
    /// Entries of the accounts file without an account in the users file.
    pub strangers: Vec<FileMistake>,
}

/// Looks at both files, as far as they are there: everything that can be said of either, whatever is wrong
/// with the other.
pub fn check(users: Option<&Path>, accounts: Option<&Path>, catalogue: &Catalogue) -> Checked {
    let mut checked = Checked::default();
    let mut note = |fault: FileFault| checked.faults.push(fault);
    let fault = |file, path: &Path, mistakes| FileFault { file, path: path.to_owned(), what: Ok(mistakes) };
    let users = users.and_then(|path| {
        let text = read(AccountFile::Users, path).map_err(&mut note).ok()?;
        Users::parse(&text).map_err(|mistakes| note(fault(AccountFile::Users, path, mistakes))).ok()
    });
    let file = accounts.and_then(|path| {
        let text = read(AccountFile::Accounts, path).map_err(&mut note).ok()?;
        let (file, mut mistakes) = file::examine(&text);
        if !mistakes.is_empty() {
            // A mistake hides no other: the rest is looked at in what could be understood.
            mistakes.extend(file.unknown_places(catalogue));
            mistakes.extend(users.as_ref().and_then(|users| file.fits(users).err()).unwrap_or_default());
            mistakes.sort();
            note(fault(AccountFile::Accounts, path, mistakes));
            return None;
        }
        if let Some(Err(mistakes)) = users.as_ref().map(|users| file.fits(users)) {
            note(fault(AccountFile::Accounts, path, mistakes));
        }
        Some(file)
    });
    if let Some(file) = &file {
        checked.unknown_places = file.unknown_places(catalogue);
        checked.strangers = users.as_ref().map(|users| file.strangers(users)).unwrap_or_default();
    }
    checked
}

fn fingerprints(users: &str, accounts: Option<&str>) -> [[u8; 32]; 2] {
    [fingerprint(users), fingerprint(accounts.unwrap_or_default())]
}

/// Reads no more than the largest file and one byte, by which too large a one is noticed.
fn read(file: AccountFile, path: &Path) -> Result<String, FileFault> {
    let read = || -> io::Result<String> {
        let mut text = String::new();
        File::open(path)?.take(MAX_FILE as u64 + 1).read_to_string(&mut text)?;
        Ok(text)
    };
    read().map_err(|error| FileFault { file, path: path.to_owned(), what: Err(error.to_string()) })
}
