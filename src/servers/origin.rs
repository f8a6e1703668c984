//! Where the list in use came from, and since when it is: told by `/health`, the metrics and the log.

use std::time::{Duration, SystemTime};

/// Where a list came from, from the source that goes before all others to the one that stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// The variable `SERVERS_JSON`.
    Variable,
    /// The file that `SERVERS_FILE_PATH` names.
    File,
    /// The ConfigMap in which the last list fetched is kept.
    Cached,
    /// A Job that this replica waited for.
    Job,
    /// The list that this program carries.
    BuiltIn,
}

impl SourceKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Variable, Self::File, Self::Cached, Self::Job, Self::BuiltIn];

    /// Its word in `/health`, the metrics and the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Variable => "variable",
            Self::File => "file",
            Self::Cached => "cached",
            Self::Job => "job",
            Self::BuiltIn => "built-in",
        }
    }
}

/// Where a list came from, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Where from.
    pub source: SourceKind,
    /// When it was read, or, of one that a Job printed, when that was fetched, by whichever replica.
    pub since: SystemTime,
}

impl Origin {
    /// From there, as of now.
    #[must_use]
    pub fn now(source: SourceKind) -> Self {
        Self { source, since: SystemTime::now() }
    }

    /// How old the list is by this machine's clock; zero where another's is ahead of it.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.since.elapsed().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_never_negative() {
        let mut origin = Origin::now(SourceKind::Job);
        origin.since -= Duration::from_secs(60);
        assert!(origin.age() >= Duration::from_secs(60));
        origin.since = SystemTime::now() + Duration::from_secs(60);
        assert_eq!(origin.age(), Duration::ZERO);
    }
}
