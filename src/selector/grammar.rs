//! The grammar of usernames.
//!
//! ```text
//! username = account [ "-" params ]            at most 255 bytes
//! params   = key "-" value *( "-" key "-" value )
//! account  = 1-32 of a-z 0-9 _ .
//! value    = 1-64 of A-Z a-z 0-9 _ . ~
//! ```
//!
//! The values of `country`, `city`, `server` and `pool` may span several words until the next key
//! (`city-new-york`, `server-us-nyc-wg-301`); all others are one word, so that a mistyped key after them
//! is caught. Keys and values have no case, save a session's name. Nothing is ever ignored.

use std::time::Duration;

use super::duration;
use super::error::GrammarError;
use super::key::{Mode, SessionName};
use crate::identity::Account;

/// Longest username: what SOCKS5 can carry (RFC 1929).
pub const MAX_USERNAME: usize = 255;

/// What an `idle` may be: the gateway's own maximum is checked when the username is resolved.
pub const IDLE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(86_400));

/// What a `ttl` may be.
pub const TTL: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(7 * 86_400));

/// Longest value.
const MAX_VALUE: usize = 64;

/// A parameter's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// Where the exit is.
    Country,
    /// Where in the country.
    City,
    /// Which server.
    Server,
    /// Through which VPN pool.
    Pool,
    /// Which of the account's own exits.
    Session,
    /// After how long without use the exit goes.
    Idle,
    /// At which age of the exit a new request gets a new one.
    Ttl,
    /// What happens when the exit is lost.
    Mode,
    /// How long this client is held on a cold start.
    Wait,
}

impl Key {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Country,
        Self::City,
        Self::Server,
        Self::Pool,
        Self::Session,
        Self::Idle,
        Self::Ttl,
        Self::Mode,
        Self::Wait,
    ];

    /// For hints.
    pub(super) const LIST: &'static str =
        "parameters are country, city, server, pool, session, idle, ttl, mode and wait";

    /// The word in usernames.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Country => "country",
            Self::City => "city",
            Self::Server => "server",
            Self::Pool => "pool",
            Self::Session => "session",
            Self::Idle => "idle",
            Self::Ttl => "ttl",
            Self::Mode => "mode",
            Self::Wait => "wait",
        }
    }

    /// Reads a key, in any case.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.as_str().eq_ignore_ascii_case(word))
    }

    /// A value that it may have, for hints.
    pub(super) fn example(self) -> &'static str {
        match self {
            Self::Country => "se",
            Self::City => "malmo",
            Self::Server => "us-nyc-wg-301",
            Self::Pool => "default",
            Self::Session => "job42",
            Self::Idle => "10m",
            Self::Ttl => "2h",
            Self::Mode => "strict",
            Self::Wait => "30s",
        }
    }

    /// Whether the value goes on until the next key.
    fn spans(self) -> bool {
        match self {
            Self::Country | Self::City | Self::Server | Self::Pool => true,
            Self::Session | Self::Idle | Self::Ttl | Self::Mode | Self::Wait => false,
        }
    }

    /// Whether the value is the name of a place, in which a letter need not be ASCII: `malmö`.
    fn names_place(self) -> bool {
        matches!(self, Self::Country | Self::City)
    }
}

/// The parameters of a username, as the client wrote them: places are not looked up yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params {
    /// A code or name of a country, or `any`.
    pub country: Option<String>,
    /// A name or code of a city.
    pub city: Option<String>,
    /// A hostname.
    pub server: Option<String>,
    /// A pool's name.
    pub pool: Option<String>,
    /// The session's name.
    pub session: Option<SessionName>,
    /// What happens when the exit is lost.
    pub mode: Option<Mode>,
    /// 30 seconds to 24 hours.
    pub idle: Option<Duration>,
    /// 1 minute to 7 days.
    pub ttl: Option<Duration>,
    /// From 0 seconds.
    pub wait: Option<Duration>,
}

impl Params {
    /// Reads the parameters alone, without an account before them: `country-se-city-malmo`. For what an
    /// operator writes in the same words.
    ///
    /// # Errors
    /// As [`Username::parse`].
    pub fn parse(text: &str) -> Result<Self, GrammarError> {
        if text.len() > MAX_USERNAME {
            return Err(GrammarError::TooLong);
        }
        let mut params = Self::default();
        parse_params("", text, &mut params)?;
        Ok(params)
    }

    /// Whether it says where from: a country, a city or a server.
    #[must_use]
    pub fn names_place(&self) -> bool {
        self.country.is_some() || self.city.is_some() || self.server.is_some()
    }
}

/// A username taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Username {
    /// The text up to the first `-`.
    pub account: Account,
    /// The rest.
    pub params: Params,
}

impl Username {
    /// Reads a username. Call it only once the password has been checked: its errors teach the grammar.
    ///
    /// # Errors
    /// [`GrammarError`] names the word and the cure.
    pub fn parse(text: &str) -> Result<Self, GrammarError> {
        if text.len() > MAX_USERNAME {
            return Err(GrammarError::TooLong);
        }
        let (account, rest) = match text.split_once('-') {
            Some((account, rest)) => (account, Some(rest)),
            None => (text, None),
        };
        let account = Account::parse(account)?;
        let mut params = Params::default();
        if let Some(rest) = rest {
            parse_params(account.as_str(), rest, &mut params)?;
        }
        Ok(Self { account, params })
    }
}

fn parse_params(account: &str, text: &str, params: &mut Params) -> Result<(), GrammarError> {
    let mut rest = Some(text);
    let mut seen = [false; Key::ALL.len()];
    let mut before = account;
    // The last parameter of one word, if that word is itself a key: `session-ttl-30m` lacks a value.
    let mut swallowed = None;
    while let Some(text) = rest {
        let (word, after) = next_word(text);
        if word.is_empty() {
            return Err(GrammarError::EmptyWord { after: before.to_owned() });
        }
        let Some(key) = Key::parse(word) else {
            return Err(match swallowed {
                Some(key) => GrammarError::NoValue { key },
                None => GrammarError::UnknownKey { word: word.to_owned() },
            });
        };
        let slot = &mut seen[key as usize];
        if std::mem::replace(slot, true) {
            return Err(GrammarError::DuplicateKey { key });
        }
        let text = after.ok_or(GrammarError::NoValue { key })?;
        let (value, after) = if key.spans() { span(key, text)? } else { next_word(text) };
        if value.is_empty() {
            return Err(GrammarError::EmptyWord { after: word.to_owned() });
        }
        set(params, key, value)?;
        swallowed = (!key.spans() && Key::parse(value).is_some()).then_some(key);
        before = value;
        rest = after;
    }
    Ok(())
}

fn next_word(text: &str) -> (&str, Option<&str>) {
    match text.split_once('-') {
        Some((word, rest)) => (word, Some(rest)),
        None => (text, None),
    }
}

/// The words up to the next key, and what follows.
fn span(key: Key, text: &str) -> Result<(&str, Option<&str>), GrammarError> {
    let mut end = 0;
    let mut rest = Some(text);
    while let Some(text_left) = rest {
        let (word, after) = next_word(text_left);
        if word.is_empty() {
            let after = text.get(..end).filter(|value| !value.is_empty()).unwrap_or(key.as_str());
            return Err(GrammarError::EmptyWord { after: after.to_owned() });
        }
        if Key::parse(word).is_some() {
            if end == 0 {
                return Err(GrammarError::NoValue { key });
            }
            return Ok((text.get(..end).unwrap_or_default(), Some(text_left)));
        }
        end += word.len() + usize::from(end > 0);
        rest = after;
    }
    Ok((text, None))
}

fn set(params: &mut Params, key: Key, value: &str) -> Result<(), GrammarError> {
    let bad = |cure: &str| GrammarError::BadValue { key, value: value.to_owned(), cure: cure.to_owned() };
    let allowed = |c: char| {
        c.is_ascii_alphanumeric()
            || matches!(c, '_' | '.' | '~')
            || (key.spans() && c == '-')
            || (key.names_place()
                && !c.is_ascii()
                && (c.is_alphabetic() || matches!(c, '\u{300}'..='\u{36f}')))
    };
    if value.contains('%') {
        return Err(bad("send the username as it is, without percent-encoding"));
    }
    if let Some(c) = value.chars().find(|c| !allowed(*c)) {
        return Err(bad(&format!(
            "'{}' is not allowed: a value has letters, digits, '_', '.' and '~'",
            c.escape_default()
        )));
    }
    if value.len() > MAX_VALUE {
        return Err(bad("a value has at most 64 characters"));
    }
    let named = Some(value.to_owned());
    match key {
        Key::Country => params.country = named,
        Key::City => params.city = named,
        Key::Server => params.server = named,
        Key::Pool => params.pool = named,
        Key::Session => {
            let name = SessionName::parse(value);
            params.session =
                Some(name.ok_or_else(|| bad("a session's name has 1 to 32 letters, digits and '_'"))?);
        }
        Key::Mode => {
            let modes = [Mode::Flex, Mode::Strict];
            let mode = modes.into_iter().find(|mode| mode.as_str().eq_ignore_ascii_case(value));
            params.mode = Some(mode.ok_or_else(|| missing(key, value, "write mode-flex or mode-strict"))?);
        }
        Key::Idle => params.idle = Some(time(key, value, IDLE)?),
        Key::Ttl => params.ttl = Some(time(key, value, TTL)?),
        // The gateway's own maximum is checked when the username is resolved.
        Key::Wait => params.wait = Some(time(key, value, (Duration::ZERO, Duration::MAX))?),
    }
    Ok(())
}

/// A value that is itself a key is a forgotten value.
fn missing(key: Key, value: &str, cure: &str) -> GrammarError {
    if Key::parse(value).is_some() {
        return GrammarError::NoValue { key };
    }
    GrammarError::BadValue { key, value: value.to_owned(), cure: cure.to_owned() }
}

fn time(key: Key, value: &str, (least, most): (Duration, Duration)) -> Result<Duration, GrammarError> {
    match duration::parse(value) {
        Ok(time) if time < least => {
            Err(missing(key, value, &format!("write at least {}-{}", key.as_str(), duration::text(least))))
        }
        Ok(time) if time > most => {
            Err(missing(key, value, &format!("write at most {}-{}", key.as_str(), duration::text(most))))
        }
        Ok(time) => Ok(time),
        Err(duration::Fault::NoUnit) => {
            let name = key.as_str();
            Err(missing(
                key,
                value,
                &format!("the unit is missing: write {name}-{value}s or {name}-{value}m"),
            ))
        }
        Err(duration::Fault::Form) => Err(missing(
            key,
            value,
            &format!("write a whole number and s, m, h or d: {}-{}", key.as_str(), key.example()),
        )),
    }
}

#[cfg(test)]
mod tests;
