//! A list of destinations as the operator writes it.

use std::collections::HashSet;
use std::net::IpAddr;

use super::cidr::Cidr;

/// An entry that is neither a block of addresses nor a pattern of names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: '{}' is not a destination: {why}; write 10.0.0.0/8, 10.1.2.3, db.example.com or *.example.com", entry.escape_default())]
pub struct DestinationError {
    /// Name of the setting.
    pub setting: &'static str,
    /// The entry.
    pub entry: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// A list of blocks and patterns.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    blocks: Vec<Cidr>,
    names: HashSet<String>,
    /// `.example.com` for `*.example.com`.
    suffixes: Vec<String>,
}

impl Rules {
    /// Reads the entries of a setting; what cannot be read is added to `errors`.
    pub(super) fn parse(
        setting: &'static str,
        entries: &[String],
        errors: &mut Vec<DestinationError>,
    ) -> Self {
        let mut rules = Self::default();
        for entry in entries.iter().map(|entry| entry.trim()).filter(|entry| !entry.is_empty()) {
            if let Err(why) = rules.add(entry) {
                errors.push(DestinationError { setting, entry: entry.to_owned(), why });
            }
        }
        rules
    }

    /// Adds an entry: an address, a CIDR, a name, or `*.` and a domain.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn add(&mut self, entry: &str) -> Result<(), &'static str> {
        let bare = entry.strip_prefix('[').and_then(|e| e.strip_suffix(']')).unwrap_or(entry);
        if bare.contains(['/', ':']) || bare.parse::<IpAddr>().is_ok() {
            self.blocks.push(Cidr::parse(bare)?);
            return Ok(());
        }
        let name = entry.trim_end_matches('.').to_ascii_lowercase();
        let (wild, name) = match name.strip_prefix("*.") {
            Some(domain) => (true, domain),
            None => (false, name.as_str()),
        };
        let valid = !name.is_empty()
            && name.len() <= 253
            && name.split('.').all(|label| {
                (1..=63).contains(&label.len())
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            });
        if !valid {
            return Err("a name has letters, digits, '-', '_' and '.', and '*' only as its first label");
        }
        // Hosts that end in a number are addresses, so such a pattern would never match.
        if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
            return Err("it ends in a number, but is no address");
        }
        if wild {
            self.suffixes.push(format!(".{name}"));
        } else {
            self.names.insert(name.to_owned());
        }
        Ok(())
    }

    /// Whether the list has the address.
    pub(super) fn has_ip(&self, ip: IpAddr) -> bool {
        self.blocks.iter().any(|block| block.contains(ip))
    }

    /// Whether the list has the name, which is in small letters and without a trailing dot.
    pub(super) fn has_name(&self, name: &str) -> bool {
        self.names.contains(name) || self.suffixes.iter().any(|suffix| has_suffix(name, suffix))
    }
}

/// Whether `name` is below the domain of `suffix` (which begins with a dot).
pub(super) fn has_suffix(name: &str, suffix: &str) -> bool {
    name.len() > suffix.len() && name.ends_with(suffix)
}
