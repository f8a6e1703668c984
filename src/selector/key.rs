//! The key of a session: who, through which pool, from where, and as which of his sessions.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::grammar::{Key, Username};
use crate::identity::Account;
use crate::servers::{CityId, CountryId, Hostname, Place};

/// Longest session name.
const MAX_SESSION: usize = 32;

/// What happens when the session's exit is lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// A new exit takes its place: the address changes.
    #[default]
    Flex,
    /// Requests fail with `exit_lost`: the address never changes silently.
    Strict,
}

impl Mode {
    /// The word in usernames and claims.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::Strict => "strict",
        }
    }
}

/// A client's name for an exit of his own: 1 to 32 of letters, digits and `_`; its case matters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionName(Arc<str>);

impl SessionName {
    /// Reads a session's name; `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let valid = !text.is_empty()
            && text.len() <= MAX_SESSION
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        valid.then(|| Self(Arc::from(text)))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a VPN pool, a slug. [`PoolName::default`] is the only pool there is yet.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolName(Arc<str>);

impl PoolName {
    /// Name of the pool that requests get which name none.
    pub const DEFAULT: &'static str = "default";

    /// Reads a pool's name: 1 to 40 of `a-z 0-9 _`, no `_` at the ends; `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        // The same spelling as a city's id, so that it needs no escape in a username.
        CityId::parse(text).map(|name| Self(Arc::from(name.as_str())))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for PoolName {
    fn default() -> Self {
        Self(Arc::from(Self::DEFAULT))
    }
}

macro_rules! show {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    )*};
}

show!(SessionName, PoolName);

/// What makes two requests share an exit. `idle`, `ttl` and `wait` are no part of it. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    /// Who asks.
    pub account: Account,
    /// Through which pool.
    pub pool: PoolName,
    /// From where.
    pub place: Place,
    /// As which of his sessions; none for the one that all his requests without a name share.
    pub session: Option<SessionName>,
    /// What happens when the exit is lost.
    pub mode: Mode,
}

/// Why a text is not the canonical form of a session key. For logs: such texts come from claims, not
/// from clients.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the canonical form of a session key: {0}")]
pub struct CanonicalError(String);

impl SessionKey {
    /// The selector alone: `country-se-city-malmo`, or `any` where nothing is restricted.
    #[must_use]
    pub fn selector_text(&self) -> String {
        let mut text = String::new();
        self.write_selector(&mut text);
        match text.strip_prefix('-') {
            Some(text) => text.to_owned(),
            None => "any".to_owned(),
        }
    }

    /// The username that means this key and has only one spelling:
    /// `demo-country-se-session-a-mode-strict`. [`SessionKey::parse_canonical`] is its inverse.
    #[must_use]
    pub fn canonical(&self) -> String {
        let mut text = String::with_capacity(64);
        text.push_str(self.account.as_str());
        self.write_selector(&mut text);
        if let Some(session) = &self.session {
            push(&mut text, Key::Session, session.as_str());
        }
        match self.mode {
            Mode::Flex => {}
            Mode::Strict => push(&mut text, Key::Mode, self.mode.as_str()),
        }
        text
    }

    fn write_selector(&self, text: &mut String) {
        let Place { country, city, server } = &self.place;
        if self.pool.as_str() != PoolName::DEFAULT {
            push(text, Key::Pool, self.pool.as_str());
        }
        if let Some(country) = country {
            push(text, Key::Country, country.as_str());
        }
        if let Some(city) = city {
            push(text, Key::City, city.as_str());
        }
        if let Some(server) = server {
            push(text, Key::Server, &server_value(server));
        }
    }

    /// Reads a canonical form back, without a catalogue: what a claim says stays what it was, whatever
    /// the list has become. Names reserved for the gateway (`_api`) are accepted.
    ///
    /// # Errors
    /// When the text is not what [`SessionKey::canonical`] writes, to the byte.
    pub fn parse_canonical(text: &str) -> Result<Self, CanonicalError> {
        let fault = |what: &str| CanonicalError(what.to_owned());
        let Username { account, params } =
            Username::parse(text).map_err(|error| CanonicalError(error.to_string()))?;
        if params.idle.is_some() || params.ttl.is_some() || params.wait.is_some() {
            return Err(fault("it has times"));
        }
        let part = |value: Option<String>, name: &str| match value {
            Some(value) => CityId::parse(&value).map(Some).ok_or_else(|| fault(name)),
            None => Ok(None),
        };
        let country = part(params.country, "its country")?;
        let server = match params.server {
            Some(value) => Some(hostname_of(&value).ok_or_else(|| fault("its server"))?),
            None => None,
        };
        let place = Place {
            country: country.and_then(|id| CountryId::parse(id.as_str())),
            city: part(params.city, "its city")?,
            server,
        };
        let pool = match part(params.pool, "its pool")? {
            Some(name) => PoolName(Arc::from(name.as_str())),
            None => PoolName::default(),
        };
        let mode = params.mode.unwrap_or_default();
        let key = Self { account, pool, place, session: params.session, mode };
        if key.canonical() == text { Ok(key) } else { Err(fault("it is spelled otherwise")) }
    }

    /// Name of the claim: `gw-` and the first 20 characters of the lower-case base32 (RFC 4648) of the
    /// canonical form's SHA-256. 100 bits: no two keys of a cluster share one.
    #[must_use]
    pub fn claim_name(&self) -> String {
        let hash = Sha256::digest(self.canonical());
        let mut name = String::with_capacity(23);
        name.push_str("gw-");
        base32(&hash, 20, &mut name);
        name
    }
}

/// For logs: the canonical form.
impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.canonical())
    }
}

fn push(text: &mut String, key: Key, value: &str) {
    // Writing to a String cannot fail.
    let _ = write!(text, "-{}-{value}", key.as_str());
}

/// A hostname as a value of the grammar. One that holds a key word or an empty word (`my-server-1`,
/// `xn--x`) would end there, so its dashes are written `~`, which no hostname has; one that is a key word
/// as a whole gets a `~` before it.
fn server_value(hostname: &Hostname) -> String {
    let text = hostname.as_str();
    if text.split('-').any(|word| word.is_empty() || Key::parse(word).is_some()) {
        return if text.contains('-') { text.replace('-', "~") } else { format!("~{text}") };
    }
    text.to_owned()
}

/// The inverse of [`server_value`].
fn hostname_of(value: &str) -> Option<Hostname> {
    Hostname::parse(&value.strip_prefix('~').unwrap_or(value).replace('~', "-"))
}

/// Appends the first `length` characters of the base32 of `bytes`.
fn base32(bytes: &[u8], length: usize, out: &mut String) {
    let (mut buffer, mut bits, mut written) = (0_u32, 0_u32, 0);
    for byte in bytes {
        buffer = (buffer << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            if written == length {
                return;
            }
            bits -= 5;
            let digit = (buffer >> bits) as u8 & 31;
            out.push(char::from(if digit < 26 { b'a' + digit } else { b'2' + digit - 26 }));
            written += 1;
        }
        buffer &= (1 << bits) - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(canonical: &str) -> SessionKey {
        SessionKey::parse_canonical(canonical).unwrap()
    }

    #[test]
    fn canonical_forms_read_back() {
        for (text, selector) in [
            ("demo", "any"),
            ("demo-country-se", "country-se"),
            ("demo-country-se-city-malmo", "country-se-city-malmo"),
            ("demo-country-us-city-new_york-session-A_1-mode-strict", "country-us-city-new_york"),
            ("demo-server-us-nyc-wg-301", "server-us-nyc-wg-301"),
            ("_api-pool-blue-server-us-nyc-wg-301-session-x", "pool-blue-server-us-nyc-wg-301"),
            ("pod.4f-session-session", "any"),
        ] {
            let key = key(text);
            assert_eq!(key.canonical(), text);
            assert_eq!(key.to_string(), text);
            assert_eq!(key.selector_text(), selector);
        }
    }

    #[test]
    fn other_spellings_are_not_canonical() {
        for text in [
            "",
            "Demo",
            "demo-",
            "demo-country-SE",
            "demo-country-any-",
            "demo-city-malmo-country-se",
            "demo-city-new-york",
            "demo-mode-flex",
            "demo-mode-STRICT",
            "demo-pool-default",
            "demo-country-se-idle-5m",
            "demo-session-a-country-se",
            "demo-server-us~nyc",
            "demo-server-US-1",
            "demo-city-malm\u{f6}",
        ] {
            assert!(SessionKey::parse_canonical(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hostnames_with_key_words_survive() {
        for hostname in ["my-server-1", "xn--mlm-1", "session.example.org", "us-mode-1.example", "a-b"] {
            let place = Place::server(Hostname::parse(hostname).unwrap());
            let key = SessionKey { place, ..key("demo-session-x") };
            assert_eq!(SessionKey::parse_canonical(&key.canonical()).unwrap(), key, "{hostname}");
        }
        assert_eq!(server_value(&Hostname::parse("my-server-1").unwrap()), "my~server~1");
        assert_eq!(server_value(&Hostname::parse("us-nyc-wg-301").unwrap()), "us-nyc-wg-301");
    }

    #[test]
    fn the_longest_canonical_form_is_still_a_username() {
        let name = |length: usize| "n".repeat(length);
        let longest = SessionKey {
            account: Account::parse(&name(32)).unwrap(),
            pool: PoolName::parse(&name(40)).unwrap(),
            place: Place {
                country: CountryId::parse(&name(40)),
                city: CityId::parse(&name(40)),
                server: None,
            },
            session: SessionName::parse(&name(32)),
            mode: Mode::Strict,
        };
        let server = Place::server(Hostname::parse(&name(64)).unwrap());
        for key in [SessionKey { place: server, ..longest.clone() }, longest] {
            assert_eq!(SessionKey::parse_canonical(&key.canonical()), Ok(key));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_hostname_survives(
            words in proptest::collection::vec("[a-z0-9]{1,6}|server|mode|session|x_y|a\\.b|city\\.z|", 1..8)
        ) {
            if let Some(hostname) = Hostname::parse(&words.join("-")) {
                let key = SessionKey { place: Place::server(hostname), ..key("demo-session-x-mode-strict") };
                proptest::prop_assert_eq!(SessionKey::parse_canonical(&key.canonical()), Ok(key));
            }
        }

        #[test]
        fn any_text_does_no_harm(text in "\\PC{0,100}|demo(-(country|city|server|mode|session|any|se|[a-z~_.]{0,4})){0,8}") {
            if let Ok(key) = SessionKey::parse_canonical(&text) {
                proptest::prop_assert_eq!(key.canonical(), text);
            }
        }
    }

    #[test]
    fn the_claims_name_is_a_dns_label_of_the_hash() {
        // printf 'demo-country-se' | sha256sum | cut -c-64 | xxd -r -p | base32 | tr A-Z a-z | cut -c-20
        assert_eq!(key("demo-country-se").claim_name(), "gw-rp3zq7rmrj3rtimkeoem");
        assert_ne!(key("demo-session-a").claim_name(), key("demo-session-A").claim_name());
    }

    #[test]
    fn base32_is_that_of_rfc_4648() {
        let mut out = String::new();
        base32(b"foobar", 20, &mut out);
        // MZXW6YTBOI without the last digit, which is made of a padding bit.
        assert_eq!(out, "mzxw6ytb".to_owned() + "o");
    }
}
