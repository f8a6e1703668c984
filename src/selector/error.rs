//! What is wrong with a username, in words for the client: printable ASCII, short, with the cure.

use super::grammar::{Key, MAX_USERNAME};
use super::near;
use crate::identity::AccountError;
use crate::servers::CountryId;
use crate::servers::names::printable;

/// Characters of a client's word that an error repeats: a body has at most 1 KiB.
const SHOWN: usize = 40;

/// Why a username does not follow the grammar. All of them are `bad_parameter`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// Over 255 bytes.
    #[error("the username is longer than {MAX_USERNAME} bytes")]
    TooLong,
    /// The text up to the first `-` is no account's name.
    #[error("{0}")]
    Account(#[from] AccountError),
    /// Two dashes in a row, or one at the end.
    #[error("the username has an empty word after '{}'", printable(.after, SHOWN))]
    EmptyWord {
        /// The word before.
        after: String,
    },
    /// A word where a key is due, which is none.
    #[error("unknown parameter '{}'", printable(.word, SHOWN))]
    UnknownKey {
        /// The word.
        word: String,
    },
    /// A key for the second time.
    #[error("parameter '{}' is given twice", .key.as_str())]
    DuplicateKey {
        /// The key.
        key: Key,
    },
    /// A key at the end, or before another one.
    #[error("parameter '{}' has no value", .key.as_str())]
    NoValue {
        /// The key.
        key: Key,
    },
    /// A value that the key cannot have.
    #[error("'{}' is not a value for '{}'", printable(.value, SHOWN), .key.as_str())]
    BadValue {
        /// The key.
        key: Key,
        /// The value as the client wrote it.
        value: String,
        /// What to write instead.
        cure: String,
    },
}

impl GrammarError {
    /// The code of the response: always `bad_parameter`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        "bad_parameter"
    }

    /// What to write instead.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::TooLong | Self::Account(_) => {
                "write ACCOUNT-key-value-key-value, for example alice-country-se-session-job42".to_owned()
            }
            Self::EmptyWord { .. } => "separate words by a single '-'".to_owned(),
            Self::UnknownKey { word } => match near::key(word) {
                Some(key) => format!("did you mean '{}'? {}", key.as_str(), Key::LIST),
                None => Key::LIST.to_owned(),
            },
            Self::DuplicateKey { .. } => {
                "give each parameter once; in a name that holds such a word write '_' for '-': salt_lake_city"
                    .to_owned()
            }
            Self::NoValue { key } => format!("write {}-{}", key.as_str(), key.example()),
            Self::BadValue { cure, .. } => cure.clone(),
        }
    }
}

/// Why a well-formed username selects nothing. `Display` is the message for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// A value that the gateway does not allow or cannot take for one thing.
    #[error("{message}")]
    BadParameter {
        /// What is wrong.
        message: String,
        /// The cure.
        hint: String,
    },
    /// Values that do not go together.
    #[error("{message}")]
    BadCombination {
        /// The rule.
        message: String,
        /// The cure.
        hint: String,
    },
    /// The list has no such country.
    #[error("no country '{}' in the server list", printable(.value, SHOWN))]
    NoSuchCountry {
        /// As the client wrote it.
        value: String,
        /// Up to five near ones, as a client may write them.
        suggestions: Vec<String>,
    },
    /// The list has no such city, or not in that country.
    #[error("no city '{}' in {}", printable(.value, SHOWN), .country.as_ref().map_or("the server list", |id| id.as_str()))]
    NoSuchCity {
        /// As the client wrote it.
        value: String,
        /// The country that it was looked for in.
        country: Option<CountryId>,
        /// A country that does have it.
        elsewhere: Option<CountryId>,
        /// Up to five near ones, as a client may write them.
        suggestions: Vec<String>,
    },
    /// The list has no such server.
    #[error("no server '{}' in the server list", printable(.value, SHOWN))]
    NoSuchServer {
        /// As the client wrote it.
        value: String,
        /// Up to five near ones.
        suggestions: Vec<String>,
    },
    /// The place exists, and this account may not use it.
    #[error("{message}")]
    Forbidden {
        /// Which place.
        message: String,
        /// The places that the account may use.
        hint: String,
    },
    /// There is no server list yet, so that no place can be looked up. A retry can help.
    #[error("the server list has not been loaded yet")]
    NoServers,
}

impl SelectError {
    /// The code of the response. All are of status 400, but for the forbidden place, 403, and the one
    /// without a list, 503.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadParameter { .. } => "bad_parameter",
            Self::BadCombination { .. } => "bad_combination",
            Self::NoSuchCountry { .. } => "no_such_country",
            Self::NoSuchCity { .. } => "no_such_city",
            Self::NoSuchServer { .. } => "no_such_server",
            Self::Forbidden { .. } => "location_forbidden",
            Self::NoServers => "control_plane_unavailable",
        }
    }

    /// Whether another server list might not give it.
    pub(super) fn is_about_the_list(&self) -> bool {
        match self {
            Self::NoSuchCountry { .. }
            | Self::NoSuchCity { .. }
            | Self::NoSuchServer { .. }
            | Self::NoServers => true,
            Self::BadParameter { .. } | Self::BadCombination { .. } | Self::Forbidden { .. } => false,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::BadParameter { hint, .. }
            | Self::BadCombination { hint, .. }
            | Self::Forbidden { hint, .. } => hint.clone(),
            Self::NoSuchCountry { value, suggestions } => meant(value, suggestions),
            Self::NoSuchCity { value, country: Some(_), elsewhere: Some(elsewhere), .. } => {
                format!("it is in {elsewhere}: write country-{elsewhere}-city-{}", printable(value, SHOWN))
            }
            Self::NoSuchCity { value, suggestions, .. } | Self::NoSuchServer { value, suggestions } => {
                meant(value, suggestions)
            }
            Self::NoServers => "try again in a few seconds".to_owned(),
        }
    }
}

impl From<GrammarError> for SelectError {
    fn from(error: GrammarError) -> Self {
        Self::BadParameter { message: error.to_string(), hint: error.hint() }
    }
}

/// The near names. A value of several words may have swallowed a mistyped key: `us-sesion-a`.
fn meant(value: &str, suggestions: &[String]) -> String {
    let swallowed = value.split('-').skip(1).find_map(|word| near::key(word).map(|key| (word, key)));
    match (swallowed, suggestions) {
        (Some((word, key)), _) => {
            format!(
                "did you mean the parameter '{}' by '{}'? {}",
                key.as_str(),
                printable(word, SHOWN),
                Key::LIST
            )
        }
        (None, []) => "GET /locations on the admin port lists what there is".to_owned(),
        (None, names) => {
            format!("did you mean {}? GET /locations on the admin port lists all", names.join(", "))
        }
    }
}
