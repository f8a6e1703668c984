//! The accounts file read: each section and each field, with every mistake and its place.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fields::{Fields, Reader};
use super::rules::{AccountsFile, PlaceAt, Rate, Rules, Section};
use super::yaml::{self, Name, Node, Value};
use crate::identity::{Account, FileMistake, MAX_FILE};
use crate::proxy::{AccountDestinations, DestinationRules, Ports};
use crate::selector::{Params, PlaceRule, PlaceRules};

/// Most mistakes that are told at once.
const MAX_MISTAKES: usize = 100;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// Fields of an account. Those of `defaults` are the first [`DEFAULTS`], those of a group the first
/// [`GROUP`].
const FIELDS: [&str; 14] = [
    "places",
    "max_sessions",
    "selector",
    "max_tunnels",
    "tunnels_per_second",
    "burst",
    "max_idle",
    "max_ttl",
    "max_wait",
    "destinations",
    "ports",
    "sessions",
    "share",
    "disabled",
];
const DEFAULTS: usize = 12;
const GROUP: usize = 2;

/// The name nearest to a wrong one, if any is near.
pub(super) fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = names.map(|name| (similarity(word, name), name));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= 0.5).then_some(best.1)
}

/// 1 for equal words, 0 for words with nothing in common.
fn similarity(a: &str, b: &str) -> f64 {
    let length = a.chars().count().max(b.chars().count()).max(1);
    1.0 - strsim::osa_distance(a, b) as f64 / length as f64
}

pub(super) fn parse(text: &str) -> Result<AccountsFile, Vec<FileMistake>> {
    let (file, mistakes) = examine(text);
    if mistakes.is_empty() { Ok(file) } else { Err(mistakes) }
}

/// What the file says as far as it can be understood, and its mistakes.
pub(super) fn examine(text: &str) -> (AccountsFile, Vec<FileMistake>) {
    if text.len() > MAX_FILE {
        return (AccountsFile::default(), vec![FileMistake::at_start("the file is larger than 1 MiB")]);
    }
    let (root, mistake) = yaml::parse(text.strip_prefix('\u{feff}').unwrap_or(text));
    let mut reader = Reader::default();
    let file = read(&root, &mut reader);
    let mut mistakes = reader.mistakes;
    mistakes.extend(mistake);
    mistakes.sort();
    mistakes.truncate(MAX_MISTAKES);
    (file, mistakes)
}

fn read(root: &Node, reader: &mut Reader) -> AccountsFile {
    let mut file = AccountsFile::default();
    let fields = reader.fields(root, "the file", &["defaults", "groups", "accounts"]);
    if let Some((_, node)) = fields.get("defaults") {
        file.defaults = rules(node, "defaults", &FIELDS[..DEFAULTS], reader);
    }
    if let Some((_, node)) = fields.get("groups") {
        file.groups = sections(node, "groups", "a share group", &FIELDS[..GROUP], reader);
    }
    if let Some((_, node)) = fields.get("accounts") {
        file.accounts = sections(node, "accounts", "an account", &FIELDS, reader);
        shares(node, &file, reader);
    }
    for (name, group) in &file.groups {
        if file.accounts.contains_key(name) {
            reader.at(group.at, format!("'{name}' is an account too: give the share group another name"));
        }
    }
    file
}

/// What an account that shares exits may not say for itself, and groups that are not there.
fn shares(accounts: &Node, file: &AccountsFile, reader: &mut Reader) {
    let Value::Map(entries) = &accounts.value else { return };
    for (name, node) in entries {
        let section = Account::parse(&name.text).ok().and_then(|account| file.accounts.get(&account));
        let Some(group) = section.and_then(|section| section.rules.share.as_ref()) else { continue };
        let Value::Map(fields) = &node.value else { continue };
        for (field, value) in fields {
            match field.text.as_str() {
                "places" | "max_sessions" => reader.at(
                    field.at,
                    format!("exits are shared, and so is '{}': write it under groups, {group}", field.text),
                ),
                "share" if !file.groups.contains_key(group) => {
                    let near = nearest(group.as_str(), file.groups.keys().map(Account::as_str));
                    let meant = near.map(|near| format!("did you mean '{near}'? else ")).unwrap_or_default();
                    reader.at(
                        value.at,
                        format!(
                            "there is no share group '{group}': {meant}write `{group}: {{}}` under groups"
                        ),
                    );
                }
                _ => {}
            }
        }
    }
}

/// The sections below `groups` or `accounts`.
fn sections(
    node: &Node,
    place: &str,
    what: &str,
    known: &[&'static str],
    reader: &mut Reader,
) -> BTreeMap<Account, Section> {
    let mut found: BTreeMap<Account, Section> = BTreeMap::new();
    let entries = match &node.value {
        Value::Null => return found,
        Value::Map(entries) => entries,
        Value::Scalar { .. } | Value::List(_) => {
            reader.at(node.at, format!("'{place}' holds names: write NAME: and its fields below it"));
            return found;
        }
    };
    for (name, node) in entries {
        let Some(account) = self::name(name, what, reader) else { continue };
        let section = Section { at: name.at, rules: rules(node, &name.text, known, reader) };
        if let Some(first) = found.get(&account) {
            let line = first.at.line;
            reader.at(name.at, format!("'{account}' is already on line {line}: take one of the two away"));
            continue;
        }
        found.insert(account, section);
    }
    found
}

fn name(name: &Name, what: &str, reader: &mut Reader) -> Option<Account> {
    match Account::parse(&name.text) {
        Ok(account) if account.is_reserved() => {
            reader.at(name.at, format!("'{account}' is a name of the gateway's own: {what} needs another"));
            None
        }
        Ok(account) => Some(account),
        Err(error) => {
            reader.at(name.at, format!("this is no name of {what}: {error}"));
            None
        }
    }
}

fn rules(node: &Node, what: &str, known: &[&'static str], reader: &mut Reader) -> Rules {
    let what = format!("'{what}'");
    let fields = reader.fields(node, &what, known);
    let mut rules = Rules::default();
    if let Some((_, node)) = fields.get("selector") {
        rules.selector = selector(node, reader);
        if let Some(params) = rules.selector.clone().filter(Params::names_place) {
            rules.places_at.push((node.at, PlaceAt::Selector(params)));
        }
    }
    if let Some((_, node)) = fields.get("places") {
        rules.places = Some(places(node, &mut rules.places_at, reader));
    }
    rules.max_sessions = fields.get("max_sessions").and_then(|(_, node)| count(node, 0, reader));
    rules.max_tunnels = fields.get("max_tunnels").and_then(|(_, node)| count(node, 0, reader));
    rules.rate = rate(&fields, reader);
    let mut time = |name: &str, least: Duration, most: Duration| {
        fields.get(name).and_then(|(_, node)| reader.limit(node, least, most))
    };
    rules.max_idle = time("max_idle", 2 * SECOND, 30 * DAY);
    rules.max_ttl = time("max_ttl", 60 * SECOND, 7 * DAY);
    rules.max_wait = time("max_wait", Duration::ZERO, 600 * SECOND);
    rules.destinations = fields.get("destinations").map(|(_, node)| destinations(node, reader));
    rules.ports = fields.get("ports").map(|(_, node)| ports(node, reader));
    rules.sessions = fields.get("sessions").and_then(|(_, node)| reader.truth(node));
    rules.disabled = fields.get("disabled").and_then(|(_, node)| reader.truth(node));
    rules.share = fields.get("share").and_then(|(_, node)| {
        let text = reader.text(node, "the name of a share group")?;
        name(&Name { at: node.at, text: text.to_owned() }, "a share group", reader)
    });
    rules
}

fn selector(node: &Node, reader: &mut Reader) -> Option<Params> {
    let text = reader.text(node, "a selector such as country-se")?;
    if text == "any" {
        return Some(Params::default());
    }
    match Params::parse(text) {
        Ok(Params {
            session: None,
            mode: None,
            idle: None,
            ttl: None,
            wait: None,
            country,
            city,
            server,
            pool,
        }) => Some(Params { country, city, server, pool, ..Params::default() }),
        Ok(_) => {
            let fix = "a default selector has country, city, server and pool: leave the others to the client";
            reader.at(node.at, fix);
            None
        }
        Err(error) => {
            reader.at(node.at, format!("{error}; {}", error.hint()));
            None
        }
    }
}

fn places(node: &Node, at: &mut Vec<(yaml::At, PlaceAt)>, reader: &mut Reader) -> PlaceRules {
    let fields = reader.fields(node, "'places'", &["allow", "deny"]);
    let mut list = |name: &str| -> Option<Vec<PlaceRule>> {
        let (_, node) = fields.get(name)?;
        let mut rules = Vec::new();
        for (place, text) in reader.texts(node, "places such as country-se or server-se-sto-wg-004") {
            match PlaceRule::parse(text) {
                Ok(rule) => {
                    at.push((place, PlaceAt::Rule(rule.clone())));
                    rules.push(rule);
                }
                Err(why) => reader.at(place, why),
            }
        }
        Some(rules)
    };
    PlaceRules { allow: list("allow"), deny: list("deny").unwrap_or_default() }
}

fn count(node: &Node, least: u32, reader: &mut Reader) -> Option<Option<u32>> {
    reader.number(node, "a whole number, or 'unlimited'", |text| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u32>().ok()).flatten().filter(|n| (least..=1_000_000).contains(n))
    })
}

fn rate(fields: &Fields<'_>, reader: &mut Reader) -> Option<Option<Rate>> {
    let burst = fields.get("burst").map(|(name, node)| {
        let number = |text: &str| text.parse::<u32>().ok().filter(|n| (1..=1_000_000).contains(n));
        let burst = reader.number(node, "a whole number from 1, or 'unlimited'", number);
        (name, burst.map(|burst| burst.unwrap_or(u32::MAX)))
    });
    let Some((_, node)) = fields.get("tunnels_per_second") else {
        if let Some((name, _)) = burst {
            reader.at(name.at, "'burst' needs 'tunnels_per_second' beside it");
        }
        return None;
    };
    let number = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        plain.then(|| text.parse::<f64>().ok()).flatten().filter(|n| (0.01..=100_000.0).contains(n))
    };
    let fix = "a number from 0.01 to 100000, or 'unlimited'";
    let per_second = reader.number(node, fix, number)?;
    Some(per_second.map(|per_second| {
        // A second's worth, rounded up: bounded by the range above.
        let usual = per_second.ceil().max(1.0) as u32;
        Rate { per_second, burst: burst.and_then(|(_, burst)| burst).unwrap_or(usual) }
    }))
}

fn destinations(node: &Node, reader: &mut Reader) -> AccountDestinations {
    let fields = reader.fields(node, "'destinations'", &["allow", "deny", "open", "open_denied"]);
    let mut list = |name: &str| -> Option<DestinationRules> {
        let (_, node) = fields.get(name)?;
        let mut rules = DestinationRules::default();
        for (at, text) in reader.texts(node, "destinations such as *.example.com or 10.0.0.0/8") {
            if let Err(why) = rules.add(text) {
                reader.at(at, format!("'{}' is not a destination: {why}; write 10.0.0.0/8, 10.1.2.3, db.example.com or *.example.com", text.escape_default()));
            }
        }
        Some(rules)
    };
    AccountDestinations {
        allow: list("allow"),
        deny: list("deny").unwrap_or_default(),
        open: list("open").unwrap_or_default(),
        open_denied: list("open_denied").unwrap_or_default(),
        ports: Ports::default(),
    }
}

fn ports(node: &Node, reader: &mut Reader) -> Ports {
    let fields = reader.fields(node, "'ports'", &["allow", "deny"]);
    let mut list = |name: &str| -> Option<Vec<(u16, u16)>> {
        let (_, node) = fields.get(name)?;
        let mut ranges = Vec::new();
        for (at, text) in reader.texts(node, "ports such as 443 or 8000-8100") {
            match Ports::parse_range(text) {
                Some(range) => ranges.push(range),
                None => reader.at(
                    at,
                    format!(
                        "'{}' is no port: write one from 1 to 65535, or a range such as 8000-8100",
                        text.escape_default()
                    ),
                ),
            }
        }
        Some(ranges)
    };
    Ports { allow: list("allow"), deny: list("deny").unwrap_or_default() }
}

#[cfg(test)]
mod tests;
