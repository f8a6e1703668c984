//! Names made comparable: ASCII folding, slugs, and the canonical ids of places.
//!
//! A client writes `malmo`, `Malmö` or `new-york`; a provider writes `Malmö` or `New York NY`. All of
//! them meet in a slug (`malmo`, `new_york`), which needs no escaping in a URL, in a username or in a
//! claim's canonical text.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Longest country or city id. With it the longest canonical username stays below the 255 bytes that a
/// username may have.
pub const MAX_SLUG: usize = 40;

/// Longest hostname: that of a value in a username.
pub const MAX_HOSTNAME: usize = 64;

/// The text in `a-z 0-9 _`: diacritics folded, lower case, every run of other characters one `_`,
/// none at the ends. A letter that has no ASCII counterpart is written `u` and its code point in
/// hexadecimal, so that two different names do not become one.
#[must_use]
pub fn slug(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut gap = false;
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            push_gap(&mut out, &mut gap);
            out.push(c.to_ascii_lowercase());
        } else if c.is_ascii() {
            gap = true;
        } else if !is_combining(c) {
            let folded = fold(c);
            if !folded.is_empty() {
                push_gap(&mut out, &mut gap);
                out.push_str(folded);
            } else if c.is_alphanumeric() {
                push_gap(&mut out, &mut gap);
                out.push_str(&format!("u{:x}", u32::from(c)));
            } else {
                gap = true;
            }
        }
    }
    out
}

fn push_gap(out: &mut String, gap: &mut bool) {
    if std::mem::take(gap) && !out.is_empty() {
        out.push('_');
    }
}

/// Marks that follow their letter in decomposed text (`o` + U+0308 is `ö`): macOS clients send these.
fn is_combining(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}')
}

/// The ASCII spelling of a Latin letter with a diacritic, as providers and people write city names
/// without one: `ö` is `o` (Malmo), `ß` is `ss`. Empty for all others.
fn fold(c: char) -> &'static str {
    match c {
        'À'..='Å' | 'à'..='å' | 'Ā'..='ą' | 'Ǎ' | 'ǎ' | 'Ạ'..='ặ' => "a",
        'Æ' | 'æ' => "ae",
        'Ç' | 'ç' | 'Ć'..='č' => "c",
        'Ð' | 'ð' | 'Ď'..='đ' => "d",
        'È'..='Ë' | 'è'..='ë' | 'Ē'..='ě' | 'Ẹ'..='ệ' => "e",
        'Ĝ'..='ģ' | 'Ǧ' | 'ǧ' => "g",
        'Ĥ'..='ħ' => "h",
        'Ì'..='Ï' | 'ì'..='ï' | 'Ĩ'..='ı' | 'Ǐ' | 'ǐ' | 'Ỉ'..='ị' => "i",
        'Ĵ' | 'ĵ' => "j",
        'Ķ'..='ĸ' => "k",
        'Ĺ'..='ł' => "l",
        'Ñ' | 'ñ' | 'Ń'..='ŋ' => "n",
        'Ò'..='Ö' | 'Ø' | 'ò'..='ö' | 'ø' | 'Ō'..='ő' | 'Ơ' | 'ơ' | 'Ǒ' | 'ǒ' | 'Ọ'..='ợ' => {
            "o"
        }
        'Œ' | 'œ' => "oe",
        'Ŕ'..='ř' => "r",
        'Ś'..='š' | 'Ș' | 'ș' => "s",
        'ß' | 'ẞ' => "ss",
        'Ţ'..='ŧ' | 'Ț' | 'ț' => "t",
        'Þ' | 'þ' => "th",
        'Ù'..='Ü' | 'ù'..='ü' | 'Ũ'..='ų' | 'Ư' | 'ư' | 'Ǔ' | 'ǔ' | 'Ụ'..='ự' => "u",
        'Ŵ' | 'ŵ' => "w",
        'Ý' | 'ý' | 'ÿ' | 'Ŷ'..='Ÿ' | 'Ỳ'..='ỹ' => "y",
        'Ź'..='ž' => "z",
        _ => "",
    }
}

/// Writes the text in printable ASCII, shortened to `limit` characters: what a client sent, fit for an
/// error's body.
#[must_use]
pub fn printable(text: &str, limit: usize) -> String {
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == limit {
            out.push_str("...");
            break;
        }
        match c {
            ' '..='~' => out.push(c),
            _ => out.extend(c.escape_unicode()),
        }
    }
    out
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name in its canonical spelling; `None` for any other text.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                let valid: fn(&str) -> bool = $valid;
                valid(text).then(|| Self(Arc::from(text)))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        /// So that a map keyed by these can be asked with a plain text.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

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
    };
}

name_type! {
    /// A country: its ISO 3166-1 alpha-2 code in lower case where known (`se`), else the slug of the
    /// provider's name.
    CountryId,
    is_slug
}

name_type! {
    /// A city within its country: the slug of the provider's name, without the state's suffix where
    /// that is not ambiguous (`new_york` for "New York NY").
    CityId,
    is_slug
}

name_type! {
    /// A VPN server's hostname in lower case (`us-nyc-wg-301`, `node-ch-02.protonvpn.net`): what
    /// Gluetun's `SERVER_HOSTNAMES` pins an exit with.
    Hostname,
    is_hostname
}

fn is_slug(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_SLUG
        && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
        && !text.starts_with('_')
        && !text.ends_with('_')
        && !text.contains("__")
}

fn is_hostname(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_HOSTNAME
        && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-'))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
}

/// Where an exit shall be, in canonical ids. Nothing set: anywhere. A server stands alone, since it
/// implies the rest; a city always has its country.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The country, if restricted to one.
    pub country: Option<CountryId>,
    /// The city within `country`.
    pub city: Option<CityId>,
    /// That very server.
    pub server: Option<Hostname>,
}

impl Place {
    /// No restriction at all.
    #[must_use]
    pub fn anywhere() -> Self {
        Self::default()
    }

    /// That very server.
    #[must_use]
    pub fn server(hostname: Hostname) -> Self {
        Self { server: Some(hostname), ..Self::default() }
    }

    /// Whether any server will do.
    #[must_use]
    pub fn is_anywhere(&self) -> bool {
        self.country.is_none() && self.city.is_none() && self.server.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs() {
        for (name, expected) in [
            ("Malmö", "malmo"),
            ("Malmo\u{308}", "malmo"),
            ("São Paulo", "sao_paulo"),
            ("New York NY", "new_york_ny"),
            ("new-york", "new_york"),
            ("Czech Republic", "czech_republic"),
            ("Bosnia & Herzegovina", "bosnia_herzegovina"),
            ("Cote d'Ivoire", "cote_d_ivoire"),
            ("St. Louis", "st_louis"),
            ("Łódź", "lodz"),
            ("Tromsø", "tromso"),
            ("Weißenburg", "weissenburg"),
            ("Türkiye", "turkiye"),
            ("București", "bucuresti"),
            ("Đà Nẵng", "da_nang"),
            ("  -- ", ""),
            ("_a_", "a"),
            ("東京", "u6771u4eac"),
            ("USA", "usa"),
        ] {
            assert_eq!(slug(name), expected, "{name}");
        }
    }

    #[test]
    fn ids_take_only_the_canonical_spelling() {
        assert!(CountryId::parse("se").is_some());
        assert!(CityId::parse("new_york").is_some());
        for bad in ["", "SE", "new-york", "_a", "a_", "a__b", "ö", &"a".repeat(41)] {
            assert!(CityId::parse(bad).is_none(), "{bad}");
        }
        assert!(Hostname::parse("us-nyc-wg-301").is_some());
        assert!(Hostname::parse("node-ch-02.protonvpn.net").is_some());
        for bad in ["", "-a", "a-", "A", "a b", "a~b", &"a".repeat(65)] {
            assert!(Hostname::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn what_a_client_sent_is_made_printable() {
        assert_eq!(printable("ab\u{0}ö", 10), "ab\\u{0}\\u{f6}");
        assert_eq!(printable("abcdef", 3), "abc...");
        assert_eq!(printable("abc", 3), "abc");
    }

    proptest::proptest! {
        #[test]
        fn a_slug_is_a_fixpoint(text in "\\PC{0,40}") {
            let once = slug(&text);
            proptest::prop_assert_eq!(slug(&once), once.clone());
            proptest::prop_assert!(once.is_empty() || once.len() > MAX_SLUG || CityId::parse(&once).is_some(), "{}", once);
        }
    }
}
