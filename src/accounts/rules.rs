//! The accounts file's content as values: what it says of each account, of each share group, and of
//! everyone else. Made by [`super::file`], put together with the users file by [`super::Accounts`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::yaml::At;
use crate::identity::{Account, FileMistake, Users};
use crate::proxy::AccountDestinations;
use crate::selector::{Params, PlaceRules};
use crate::servers::Catalogue;

/// New tunnels a second, on each replica.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// On average; above 0.
    pub per_second: f64,
    /// At once, after a quiet time; at least 1.
    pub burst: u32,
}

/// What a section of the file says. What it does not say is `None`, and that of the defaults; a limit
/// that is `Some(None)` is lifted.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    pub(super) selector: Option<Params>,
    pub(super) places: Option<PlaceRules>,
    pub(super) max_sessions: Option<Option<u32>>,
    pub(super) max_tunnels: Option<Option<u32>>,
    pub(super) rate: Option<Option<Rate>>,
    pub(super) max_idle: Option<Option<Duration>>,
    pub(super) max_ttl: Option<Option<Duration>>,
    pub(super) max_wait: Option<Option<Duration>>,
    pub(super) destinations: Option<AccountDestinations>,
    pub(super) ports: Option<crate::proxy::Ports>,
    pub(super) sessions: Option<bool>,
    pub(super) share: Option<Account>,
    pub(super) disabled: Option<bool>,
    /// Where its places stand: mistakes that only a server list shows.
    pub(super) places_at: Vec<(At, PlaceAt)>,
}

/// A place that the file names.
#[derive(Clone, Debug)]
pub(super) enum PlaceAt {
    /// In a list of places.
    Rule(crate::selector::PlaceRule),
    /// As the default selector.
    Selector(Params),
}

/// A section with its name's place.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) at: At,
    pub(super) rules: Rules,
}

/// A whole accounts file. The default is that of a gateway without one: no limits for anybody.
#[derive(Clone, Debug, Default)]
pub struct AccountsFile {
    pub(super) defaults: Rules,
    pub(super) groups: BTreeMap<Account, Section>,
    pub(super) accounts: BTreeMap<Account, Section>,
}

impl AccountsFile {
    /// Reads an accounts file. An empty one says nothing of anybody.
    ///
    /// # Errors
    /// Every mistake that the file alone shows, in order of lines.
    pub fn parse(text: &str) -> Result<Self, Vec<FileMistake>> {
        super::file::parse(text)
    }

    /// What only both files together show to be wrong.
    ///
    /// # Errors
    /// A share group with the name of an account: their sessions would be each other's.
    pub fn fits(&self, users: &Users) -> Result<(), Vec<FileMistake>> {
        let clash = self.groups.iter().filter(|(name, _)| users.contains(name.as_str()));
        let mistakes: Vec<_> = clash
            .map(|(name, group)| {
                group.at.mistake(format!(
                    "'{name}' is an account of the users file: give the share group another name"
                ))
            })
            .collect();
        if mistakes.is_empty() { Ok(()) } else { Err(mistakes) }
    }

    /// Entries without an account in the users file: without effect, and perhaps a typo.
    pub fn strangers(&self, users: &Users) -> Vec<FileMistake> {
        let strangers = self.accounts.iter().filter(|(name, _)| !users.contains(name.as_str()));
        strangers
            .map(|(name, entry)| {
                let names = users.iter().map(|(account, _)| account.as_str());
                let near = super::file::nearest(name.as_str(), names);
                let meant = near.map(|near| format!("; did you mean '{near}'?")).unwrap_or_default();
                entry.at.mistake(format!("the users file has no account '{name}'{meant}"))
            })
            .collect()
    }

    /// Places that the server list does not have, or has several of. Not a reason to refuse the file:
    /// lists change by themselves. A place that is not there is neither allowed nor denied.
    pub fn unknown_places(&self, catalogue: &Catalogue) -> Vec<FileMistake> {
        // A list that only stands in says nothing about the right one.
        if catalogue.is_empty() || catalogue.is_stand_in() {
            return Vec::new();
        }
        let sections = self.groups.values().chain(self.accounts.values()).map(|section| &section.rules);
        let places = std::iter::once(&self.defaults).chain(sections).flat_map(|rules| &rules.places_at);
        let mut unknown: Vec<_> = places
            .filter_map(|(at, place)| {
                let error = match place {
                    PlaceAt::Rule(rule) => rule.check(catalogue),
                    PlaceAt::Selector(params) => crate::selector::check_place(params, catalogue),
                }
                .err()?;
                let mut text = error.to_string();
                // Writing to a String cannot fail.
                let _ = write!(text, "; {}", error.hint());
                Some(at.mistake(text))
            })
            .collect();
        unknown.sort();
        unknown
    }
}
