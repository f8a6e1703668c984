//! Password hashes: bcrypt as `htpasswd -B` writes it, and argon2id in PHC form. All others are named
//! and refused.
//!
//! A hash runs on the one verifier thread, so its cost bounds how fast anybody at all can log in, and a
//! failure is answered 300 ms after it came: what costs more than that would show through. The bounds
//! below stand for 300 ms on a slow core: bcrypt takes 58 ms at cost 10 and doubles with each step,
//! argon2id takes 33 ms for its default of 19 MiB and 2 passes.

use std::fmt;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, Params, PasswordHasher as _, PasswordVerifier as _};
use base64::Engine as _;

use crate::secret::Secret;

/// Highest bcrypt cost.
const MAX_BCRYPT: u32 = 12;

/// Longest password that bcrypt sees whole. Longer ones it would cut off, so they never match.
const BCRYPT_PASSWORD: usize = 72;

/// Most memory for one argon2id hash: 128 MiB.
const MAX_ARGON2_KIB: u32 = 128 * 1024;

/// Most work for one argon2id hash, in KiB times passes.
const MAX_ARGON2_WORK: u64 = 256 * 1024;

/// Most argon2id lanes. They are computed one after the other.
const MAX_ARGON2_LANES: u32 = 16;

/// Longest password: what SOCKS5 can carry (RFC 1929).
pub(super) const MAX_PASSWORD: usize = 255;

/// How to get a hash that is accepted.
const CURE: &str = "make one with `gluetun-gateway hash-password` or `htpasswd -nB NAME`";

/// What it costs to verify a hash: equal kinds take equal time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Bcrypt { cost: u32 },
    Argon2id { kib: u32, passes: u32, lanes: u32 },
}

impl Kind {
    /// About how much work it is, comparable between kinds: KiB times passes of argon2id. bcrypt at
    /// cost 10 takes as long as 68 000 of them (measured; see the module).
    pub(super) fn work(self) -> u64 {
        match self {
            Self::Bcrypt { cost } => (68_000_u64 << cost.min(31)) >> 10,
            Self::Argon2id { kib, passes, .. } => u64::from(kib) * u64::from(passes),
        }
    }

    /// A hash of this kind, of no password that anybody knows.
    pub(super) fn dummy(self) -> PasswordRecord {
        let salt: [u8; 16] = rand::random();
        let hash: [u8; 32] = rand::random();
        let text = match self {
            Self::Bcrypt { cost } => {
                let (salt, hash) = (bcrypt::BASE_64.encode(salt), bcrypt::BASE_64.encode(&hash[..23]));
                format!("$2b${cost:02}${salt}{hash}")
            }
            Self::Argon2id { kib, passes, lanes } => {
                let base64 = base64::engine::general_purpose::STANDARD_NO_PAD;
                let (salt, hash) = (base64.encode(salt), base64.encode(hash));
                format!("$argon2id$v=19$m={kib},t={passes},p={lanes}${salt}${hash}")
            }
        };
        PasswordRecord { text, kind: self }
    }
}

/// A stored password hash, checked when it was read. Its `Debug` shows the kind only.
#[derive(Clone)]
pub(super) struct PasswordRecord {
    text: String,
    kind: Kind,
}

impl fmt::Debug for PasswordRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl PasswordRecord {
    /// Reads a hash. The error says what is wrong and what to write instead, without the hash.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let scheme = text.split('$').nth(1).filter(|_| text.starts_with('$')).unwrap_or_default();
        let kind = match scheme {
            "2y" | "2b" | "2a" => bcrypt_kind(text)?,
            "argon2id" => argon2id_kind(text)?,
            "2" | "2x" => return Err(refused("an obsolete form of bcrypt")),
            "argon2i" | "argon2d" => return Err(refused("argon2i or argon2d; only argon2id is accepted")),
            "apr1" | "1" => return Err(refused("MD5 (htpasswd's default without -B)")),
            "5" | "6" | "sha1" => return Err(refused("SHA-crypt")),
            "y" | "gy" | "7" => return Err(refused("yescrypt or scrypt")),
            _ if text.starts_with('{') => {
                return Err(refused("SHA-1 or another {SCHEME} hash (htpasswd -s)"));
            }
            _ if text.starts_with('$') => return Err(refused("a hash of an unknown kind")),
            _ => return Err(refused("plain text or crypt(3)")),
        };
        Ok(Self { text: text.to_owned(), kind })
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether this is the password. Takes the kind's time, whatever the password; both libraries
    /// compare in constant time.
    pub(super) fn verify(&self, password: &Secret) -> bool {
        let password = password.expose().as_bytes();
        match self.kind {
            Kind::Bcrypt { .. } => {
                let equal = bcrypt::verify(password, &self.text).unwrap_or(false);
                equal && password.len() <= BCRYPT_PASSWORD
            }
            Kind::Argon2id { .. } => {
                let parsed = PasswordHash::new(&self.text);
                parsed.is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
            }
        }
    }
}

fn refused(what: &str) -> String {
    format!("the password is stored as {what}: {CURE}")
}

fn bcrypt_kind(text: &str) -> Result<Kind, String> {
    let parts: bcrypt::HashParts = text.parse().map_err(|_| {
        format!("the bcrypt hash is damaged: it must be 60 characters, $2y$, cost, salt and hash; {CURE}")
    })?;
    match parts.get_cost() {
        cost @ 4..=MAX_BCRYPT => Ok(Kind::Bcrypt { cost }),
        cost if cost < 4 => Err(format!("the bcrypt cost {cost} is below the least, 4: {CURE}")),
        cost => Err(format!(
            "the bcrypt cost {cost} is over {MAX_BCRYPT}, which takes 300 ms to check: use `htpasswd -nB -C 10 NAME`"
        )),
    }
}

fn argon2id_kind(text: &str) -> Result<Kind, String> {
    let damaged = |what: &str| format!("the argon2id hash is damaged ({what}): {CURE}");
    let hash = PasswordHash::new(text).map_err(|error| damaged(&error.to_string()))?;
    if hash.version != Some(19) {
        return Err(format!("the argon2id hash must be of version 19 (v=19): {CURE}"));
    }
    let params = Params::try_from(&hash).map_err(|error| damaged(&error.to_string()))?;
    if hash.salt.as_ref().is_none_or(|salt| salt.len() < argon2::MIN_SALT_LEN) {
        return Err(damaged("its salt is shorter than 8 bytes"));
    }
    if hash.hash.as_ref().is_none_or(|output| output.len() < 16) {
        return Err(damaged("its output is shorter than 16 bytes"));
    }
    let (kib, passes, lanes) = (params.m_cost(), params.t_cost(), params.p_cost());
    let kind = Kind::Argon2id { kib, passes, lanes };
    if kib > MAX_ARGON2_KIB || kind.work() > MAX_ARGON2_WORK || lanes > MAX_ARGON2_LANES {
        return Err(format!(
            "the argon2id hash costs too much (m={kib},t={passes},p={lanes}), over 300 ms to check: at most \
             m={MAX_ARGON2_KIB}, m times t at most {MAX_ARGON2_WORK}, p at most {MAX_ARGON2_LANES}; {CURE}"
        ));
    }
    Ok(kind)
}

/// Why a password cannot be hashed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// It is empty.
    #[error("the password is empty")]
    Empty,
    /// It has a control character, which Basic authentication cannot carry (RFC 7617, section 2).
    #[error("the password has a control character, which Basic authentication cannot carry")]
    Control,
    /// It is longer than the gateway takes.
    #[error("the password is longer than {MAX_PASSWORD} bytes")]
    TooLong,
    /// The operating system gave no random bytes for the salt.
    #[error("the password cannot be hashed: {0}")]
    Hash(String),
}

/// Hashes a password for a line of the users file: argon2id with OWASP's first choice of parameters
/// (19 MiB, 2 passes, 1 lane), some 50 ms.
///
/// # Errors
/// When no client could ever send that password.
pub fn hash_password(password: &str) -> Result<String, PasswordError> {
    if password.is_empty() {
        return Err(PasswordError::Empty);
    }
    if password.len() > MAX_PASSWORD {
        return Err(PasswordError::TooLong);
    }
    if password.chars().any(char::is_control) {
        return Err(PasswordError::Control);
    }
    let hashed = Argon2::default().hash_password(password.as_bytes());
    hashed.map(|hash| hash.to_string()).map_err(|error| PasswordError::Hash(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `crypt("demo", "$2y$05$abcdefghijklmnopqrstuu")` of libxcrypt.
    const BCRYPT: &str = "$2y$05$abcdefghijklmnopqrstuupHpIXcOJo1NoZgX.hjwSF2SVi6yU1wa";
    /// From the test vectors of argon2's reference implementation: "password", salt "somesalt".
    const ARGON2ID: &str =
        "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

    fn verify(hash: &str, password: &str) -> bool {
        PasswordRecord::parse(hash).unwrap().verify(&Secret::from(password))
    }

    #[test]
    fn other_implementations_hashes_verify() {
        assert!(verify(BCRYPT, "demo"));
        assert!(!verify(BCRYPT, "Demo"));
        assert!(!verify(BCRYPT, ""));
        assert!(verify(ARGON2ID, "password"));
        assert!(!verify(ARGON2ID, "passwore"));
        assert_eq!(PasswordRecord::parse(BCRYPT).unwrap().kind(), Kind::Bcrypt { cost: 5 });
        assert_eq!(
            PasswordRecord::parse(ARGON2ID).unwrap().kind(),
            Kind::Argon2id { kib: 256, passes: 2, lanes: 1 }
        );
    }

    #[test]
    fn our_own_hashes_verify() {
        let hash = hash_password("p\u{e4}ss:word %").unwrap();
        assert!(verify(&hash, "p\u{e4}ss:word %"));
        assert!(!verify(&hash, "p\u{e4}ss:word"));
        assert_ne!(hash, hash_password("p\u{e4}ss:word %").unwrap());
        assert_eq!(hash_password(""), Err(PasswordError::Empty));
        assert_eq!(hash_password("a\nb"), Err(PasswordError::Control));
        assert_eq!(hash_password(&"x".repeat(256)), Err(PasswordError::TooLong));
    }

    #[test]
    fn bcrypt_does_not_take_the_beginning_of_a_password_for_it() {
        let whole = "x".repeat(72);
        let hash = bcrypt::hash(&whole, 4).unwrap();
        assert!(verify(&hash, &whole));
        assert!(!verify(&hash, &"x".repeat(73)));
        assert!(!verify(&hash, &"x".repeat(71)));
    }

    #[test]
    fn all_else_is_named_and_refused() {
        for (text, part) in [
            ("$apr1$abcdefgh$i9D60H9dc6jEixOU11t2h/", "MD5"),
            ("$1$abcdefgh$x", "MD5"),
            ("{SHA}ieSV55Qc+eQOaYDRSha/AjzNTJE=", "SHA-1"),
            ("$6$salt$ybYLqDl/6Uuo", "SHA-crypt"),
            ("$5$salt$x", "SHA-crypt"),
            ("$y$j9T$abcdefgh$IvrO6nupgvJA4VrX/l3Zwo705kSQkQRYaBRwupvsSB8", "yescrypt"),
            ("$2x$05$abcdefghijklmnopqrstuupHpIXcOJo1NoZgX.hjwSF2SVi6yU1wa", "obsolete"),
            ("$argon2i$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEg", "argon2id"),
            ("$scram$x", "unknown"),
            ("rqXexS6ZhobKA", "crypt(3)"),
            ("hunter2", "plain text"),
            ("$2y$13$abcdefghijklmnopqrstuupHpIXcOJo1NoZgX.hjwSF2SVi6yU1wa", "cost 13 is over 12"),
            ("$2y$03$abcdefghijklmnopqrstuupHpIXcOJo1NoZgX.hjwSF2SVi6yU1wa", "below"),
            ("$2y$05$abcdefghijklmnopqrstuupHpIXcOJo1NoZgX.hjwSF2SVi6yU1w", "60 characters"),
            ("$2y$05$abcdefghijklmnopqrstuupHpIXcOJo1NoZgX.hjwSF2SVi6yU1w!", "damaged"),
            ("$argon2id$v=16$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEg", "version 19"),
            ("$argon2id$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEg", "version 19"),
            ("$argon2id$v=19$m=262144,t=1,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEg", "costs too much"),
            ("$argon2id$v=19$m=65536,t=5,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEg", "costs too much"),
            (
                "$argon2id$v=19$m=4294967295,t=4294967295,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEg",
                "costs too much",
            ),
            ("$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ", "output"),
            ("$argon2id$v=19$m=256,t=2,p=1", "salt"),
            ("$argon2id$v=19$m=x,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEg", "damaged"),
            ("$argon2id", "version 19"),
        ] {
            let error = PasswordRecord::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
            assert!(
                !error.contains("nf65") && !error.contains("hunter2") && !error.contains("pHpIX"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_is_commonly_made_is_not_refused() {
        let output = "$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
        for params in ["m=19456,t=2,p=1", "m=65536,t=3,p=4", "m=4096,t=3,p=1", "m=47104,t=1,p=1"] {
            assert!(PasswordRecord::parse(&format!("$argon2id$v=19${params}{output}")).is_ok(), "{params}");
        }
        for cost in ["04", "05", "10", "12"] {
            assert!(PasswordRecord::parse(&BCRYPT.replace("$05$", &format!("${cost}$"))).is_ok(), "{cost}");
        }
    }

    #[test]
    fn a_dummy_is_of_its_kind_and_matches_nothing() {
        for kind in [Kind::Bcrypt { cost: 4 }, Kind::Argon2id { kib: 64, passes: 1, lanes: 2 }] {
            let dummy = kind.dummy();
            let read = PasswordRecord::parse(&dummy.text).unwrap();
            assert_eq!(read.kind(), kind);
            assert!(!read.verify(&Secret::from("")));
            assert_ne!(dummy.text, kind.dummy().text);
        }
        assert!(
            Kind::Bcrypt { cost: 12 }.work() > Kind::Argon2id { kib: 19_456, passes: 2, lanes: 1 }.work()
        );
        assert!(Kind::Bcrypt { cost: 9 }.work() < Kind::Argon2id { kib: 19_456, passes: 2, lanes: 1 }.work());
    }

    #[test]
    fn debug_shows_the_kind_only() {
        assert_eq!(format!("{:?}", PasswordRecord::parse(BCRYPT).unwrap()), "Bcrypt { cost: 5 }");
    }
}
