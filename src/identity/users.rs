//! The users file: `name:hash` lines, as `htpasswd -B` and `hash-password` write them.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::account::{Account, AccountError};
use super::hash::{Kind, PasswordRecord};
use crate::secret::Secret;

/// Largest users file.
pub(crate) const MAX_FILE: usize = 1 << 20;

/// Most accounts.
const MAX_ACCOUNTS: usize = 10_000;

/// Most mistakes that are told at once.
const MAX_MISTAKES: usize = 100;

/// The accounts of a users file. Its `Debug` shows names and kinds of hashes, no hash.
#[derive(Debug)]
pub struct Users {
    accounts: HashMap<Account, User>,
    /// What an unknown account's password is checked against, so that it is as much work as a known
    /// one's: of the kind that most accounts have, of several such the most costly.
    dummy: PasswordRecord,
    fingerprint: [u8; 32],
}

#[derive(Debug)]
struct User {
    hash: PasswordRecord,
    /// `!` before the hash, as `passwd -l` writes it: nobody can log in.
    locked: bool,
}

/// A mistake in the users file or in the accounts file: what is wrong and what to write instead. It never
/// holds a hash, nor anything else that might be a password.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct FileMistake {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The mistake and its cure.
    pub message: String,
}

impl FileMistake {
    pub(crate) fn at_start(message: impl Into<String>) -> Self {
        Self { line: 1, column: 1, message: message.into() }
    }
}

impl Users {
    /// Reads a users file. Blank lines and lines that begin with `#` are passed over; a `!` before a
    /// hash disables the account.
    ///
    /// # Errors
    /// Every mistake, in order of lines (the first hundred). A file without accounts is one: it would
    /// lock everybody out.
    pub fn parse(text: &str) -> Result<Self, Vec<FileMistake>> {
        if text.len() > MAX_FILE {
            return Err(vec![FileMistake::at_start("the file is larger than 1 MiB")]);
        }
        let mut accounts = HashMap::new();
        let mut lines_of = HashMap::new();
        let mut mistakes = Vec::new();
        let lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines();
        for (line, text) in (1..).zip(lines) {
            let indent = text.chars().take_while(|c| c.is_whitespace()).count();
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let (account, user) = read_line(line, text, &mut lines_of, |part, message| {
                let before = match part {
                    Part::Name => 0,
                    Part::Hash => text.chars().take_while(|c| *c != ':').count() + 1,
                };
                mistakes.push(FileMistake { line, column: indent + before + 1, message });
            });
            accounts.extend(account.zip(user));
            if mistakes.len() >= MAX_MISTAKES {
                mistakes.truncate(MAX_MISTAKES);
                break;
            }
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let Some(kind) = commonest(accounts.values().map(|user: &User| user.hash.kind())) else {
            let message = "the file has no account: add a line that `gluetun-gateway hash-password` prints";
            return Err(vec![FileMistake::at_start(message)]);
        };
        Ok(Self { accounts, dummy: kind.dummy(), fingerprint: fingerprint(text) })
    }

    /// How many accounts there are, disabled ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Whether there is no account: never so for a file that was accepted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// Whether the file has that account.
    #[must_use]
    pub fn contains(&self, account: &str) -> bool {
        self.accounts.contains_key(account)
    }

    /// Every account, and whether its password is disabled (`!`).
    pub fn iter(&self) -> impl Iterator<Item = (&Account, bool)> {
        self.accounts.iter().map(|(account, user)| (account, user.locked))
    }

    /// Disables an account, as a `!` before its hash does.
    pub fn lock(&mut self, account: &str) {
        if let Some(user) = self.accounts.get_mut(account) {
            user.locked = true;
        }
    }

    /// SHA-256 of the text that this was read from.
    #[must_use]
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// The account, if it is known, enabled, and this is its password. Always computes one hash.
    pub(super) fn verify(&self, name: &str, password: &Secret) -> Option<Account> {
        let known = self.accounts.get_key_value(name).filter(|(_, user)| !user.locked);
        let hash = known.map_or(&self.dummy, |(_, user)| &user.hash);
        let equal = hash.verify(password);
        known.filter(|_| equal).map(|(account, _)| account.clone())
    }
}

/// SHA-256 of a users file, by which a change is noticed.
pub(crate) fn fingerprint(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// The part of a line that a mistake is in.
enum Part {
    Name,
    Hash,
}

/// Reads a line, and tells `mistake` everything that is wrong with it, and where. `lines` has the lines of
/// the accounts before.
fn read_line(
    line: usize,
    text: &str,
    lines: &mut HashMap<Account, usize>,
    mut mistake: impl FnMut(Part, String),
) -> (Option<Account>, Option<User>) {
    // A line without a colon may be a lone password: it is not repeated.
    let Some((name, hash)) = text.split_once(':') else {
        mistake(Part::Name, "there is no ':': write NAME:HASH".to_owned());
        return (None, None);
    };
    let account = read_name(name.trim_end()).map_err(|message| mistake(Part::Name, message)).ok();
    if let Some(account) = &account {
        if let Some(line) = lines.get(account) {
            let message = format!("{account} is already on line {line}: take one of the two away");
            mistake(Part::Name, message);
        } else if lines.len() == MAX_ACCOUNTS {
            mistake(Part::Name, format!("there are more than {MAX_ACCOUNTS} accounts: take some away"));
        } else {
            lines.insert(account.clone(), line);
        }
    }
    // A name that is none is not repeated either.
    let whose = account.as_ref().map_or("this account", Account::as_str);
    let hash = read_hash(whose, hash).map_err(|message| mistake(Part::Hash, message)).ok();
    (account, hash.map(|(hash, locked)| User { hash, locked }))
}

fn read_name(name: &str) -> Result<Account, String> {
    let account = Account::parse(name).map_err(|error| match error {
        AccountError::Empty => "the name before ':' is empty: write NAME:HASH".to_owned(),
        AccountError::TooLong => format!("{error}: shorten it"),
        AccountError::Character('-') => {
            format!("{error}: write '_', since '-' begins the parameters of a username")
        }
        AccountError::Character('A'..='Z') => format!("{error}: write it in lower case"),
        AccountError::Character(_) => format!("{error}: rename it"),
    })?;
    if account.is_reserved() {
        return Err(format!("the name {account} is the gateway's own ('_...' and 'pod....' are): rename it"));
    }
    Ok(account)
}

/// The hash, and whether the account is disabled.
fn read_hash(account: &str, hash: &str) -> Result<(PasswordRecord, bool), String> {
    let hash = hash.trim_start();
    let (locked, hash) = match hash.strip_prefix('!') {
        Some(hash) => (true, hash.trim_start_matches('!')),
        None => (false, hash),
    };
    if hash.is_empty() {
        return Err(format!("{account} has no password hash: make one with `gluetun-gateway hash-password`"));
    }
    if hash.contains(':') {
        return Err(format!(
            "there is more than NAME:HASH for {account}: take away the second ':' and what follows"
        ));
    }
    let hash = PasswordRecord::parse(hash).map_err(|message| format!("{account}: {message}"))?;
    Ok((hash, locked))
}

fn commonest(kinds: impl Iterator<Item = Kind>) -> Option<Kind> {
    let mut counts: HashMap<Kind, usize> = HashMap::new();
    for kind in kinds {
        *counts.entry(kind).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(kind, count)| (*count, kind.work())).map(|(kind, _)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BCRYPT: &str = "$2y$05$abcdefghijklmnopqrstuupHpIXcOJo1NoZgX.hjwSF2SVi6yU1wa";
    const ARGON2ID: &str =
        "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

    fn mistakes(text: &str) -> Vec<String> {
        Users::parse(text).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn reads_comments_blank_lines_and_both_kinds() {
        let text = format!(
            "\u{feff}# team\r\n\r\ndemo:{BCRYPT}\r\n  alice.2 : {ARGON2ID}  \n#old:plain\noff:!{BCRYPT}"
        );
        let users = Users::parse(&text).unwrap();
        assert_eq!(users.len(), 3);
        assert!(users.contains("demo") && users.contains("alice.2") && !users.contains("old"));
        let login = |name: &str, password: &str| users.verify(name, &Secret::from(password));
        assert_eq!(login("demo", "demo"), Account::parse("demo").ok());
        assert_eq!(login("alice.2", "password"), Account::parse("alice.2").ok());
        for (name, password) in
            [("demo", "Demo"), ("off", "demo"), ("nobody", "demo"), ("Demo", "demo"), ("", "")]
        {
            assert_eq!(login(name, password), None, "{name}");
        }
    }

    #[test]
    fn every_mistake_is_told_with_its_line() {
        let text = format!(
            "demo:{BCRYPT}\nAlice:{BCRYPT}\n\nhunter2\na-b:{BCRYPT}\n_x:{BCRYPT}\npod.1:{BCRYPT}\nb:hunter2\n\
             c:$apr1$x$y\nd:\ndemo:{ARGON2ID}\ne:{BCRYPT}:more\n:{BCRYPT}\n{}:{BCRYPT}\nf:!\ng\u{e4}:{BCRYPT}",
            "l".repeat(33)
        );
        let found = mistakes(&text);
        for (at, (line, part)) in [
            (2, "lower case"),
            (4, "no ':'"),
            (5, "write '_'"),
            (6, "_x is the gateway's own"),
            (7, "pod.1 is the gateway's own"),
            (8, "b: the password is stored as plain text or crypt(3): make one with"),
            (9, "c: the password is stored as MD5"),
            (10, "d has no password hash"),
            (11, "demo is already on line 1"),
            (12, "more than NAME:HASH for e"),
            (13, "the name before ':' is empty"),
            (14, "shorten"),
            (15, "f has no password hash"),
            (16, "\\u{e4}: rename"),
        ]
        .into_iter()
        .enumerate()
        {
            assert!(
                found[at].starts_with(&format!("line {line}, column ")) && found[at].contains(part),
                "{}",
                found[at]
            );
            assert!(!found[at].contains("hunter2") && !found[at].contains("pHpIX"), "{}", found[at]);
        }
        assert_eq!(found.len(), 14);
        let places: Vec<_> = Users::parse(&text).unwrap_err().iter().map(|m| (m.line, m.column)).collect();
        assert_eq!(places[..4], [(2, 1), (4, 1), (5, 1), (6, 1)]);
        assert!(
            places.contains(&(8, 3)) && places.contains(&(12, 3)),
            "of a hash, behind the colon: {places:?}"
        );
    }

    #[test]
    fn a_line_tells_all_its_mistakes() {
        let text = format!("demo:{BCRYPT}\nAlice:hunter2\ndemo:hunter2\n:\nb:hunter2\nb:{BCRYPT}");
        let found = mistakes(&text);
        for (found, (start, part)) in found.iter().zip([
            ("line 2, column 1", "lower case"),
            ("line 2, column 7", "this account: the password is stored as plain text"),
            ("line 3, column 1", "demo is already on line 1"),
            ("line 3, column 6", "demo: the password is stored as plain text"),
            ("line 4, column 1", "the name before ':' is empty"),
            ("line 4, column 2", "this account has no password hash"),
            ("line 5, column 3", "b: the password is stored as plain text"),
            ("line 6, column 1", "b is already on line 5"),
        ]) {
            assert!(found.starts_with(start) && found.contains(part), "{found}");
            assert!(!found.contains("hunter2"), "{found}");
        }
        assert_eq!(found.len(), 8);
    }

    #[test]
    fn a_file_that_locks_everybody_out_is_a_mistake() {
        assert!(mistakes("")[0].contains("no account"));
        assert!(mistakes("# nobody\n")[0].contains("no account"));
        assert!(mistakes(&"#".repeat(MAX_FILE + 1))[0].contains("1 MiB"));
        assert_eq!(mistakes(&"x\n".repeat(500)).len(), MAX_MISTAKES);
    }

    #[test]
    fn the_dummy_is_of_the_commonest_kind_and_of_two_the_most_costly() {
        let kinds = |text: &str| Users::parse(text).unwrap().dummy.kind();
        let argon = kinds(&format!("a:{ARGON2ID}\nb:{ARGON2ID}\nc:{BCRYPT}"));
        assert_eq!(argon, Kind::Argon2id { kib: 256, passes: 2, lanes: 1 });
        let costly = BCRYPT.replace("$05$", "$06$");
        assert_eq!(kinds(&format!("a:{BCRYPT}\nb:{costly}")), Kind::Bcrypt { cost: 6 });
    }

    #[test]
    fn debug_shows_no_hash() {
        let shown = format!("{:?}", Users::parse(&format!("demo:{BCRYPT}")).unwrap());
        assert!(shown.contains("demo") && !shown.contains("pHpIX"), "{shown}");
    }

    proptest::proptest! {
        #[test]
        fn any_text_does_no_harm(text in "(\\PC|[:$!#\n\r]|[a-z]:\\$2y\\$){0,80}") {
            let _ = Users::parse(&text);
        }
    }
}
