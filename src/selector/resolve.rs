//! From a username to a session key: places looked up, times held against their limits.

use std::time::Duration;

use super::duration;
use super::error::SelectError;
use super::grammar::{Key, Params, Username};
use super::key::{PoolName, SessionKey};
use super::near;
use super::places::PlaceRules;
use crate::identity::Account;
use crate::servers::names::{printable, slug};
use crate::servers::{Catalogue, City, Country, CountryId, Place};

/// The word for no restriction.
const ANY: &str = "any";

/// Hostnames on each side of a wrong one that are looked through for a near one.
const AROUND: usize = 64;

/// The times that a username asks for. They are no part of the session key: those of the request that
/// makes the claim rule it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lifetimes {
    /// After how long without use the exit goes.
    pub idle: Option<Duration>,
    /// At which age of the exit a new request gets a new one.
    pub ttl: Option<Duration>,
    /// How long this client is held on a cold start.
    pub wait: Option<Duration>,
}

/// What the times may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest `idle`.
    pub max_idle: Duration,
    /// Longest `ttl`.
    pub max_ttl: Duration,
    /// Longest `wait`: how long a request is held at all (`START_TIMEOUT`).
    pub max_wait: Duration,
}

impl Default for Limits {
    /// 24 hours, 7 days, 90 seconds: the grammar's ranges and the default hold.
    fn default() -> Self {
        Self {
            max_idle: Duration::from_secs(86_400),
            max_ttl: Duration::from_secs(7 * 86_400),
            max_wait: Duration::from_secs(90),
        }
    }
}

/// Finds what a username means in the catalogue. Every spelling of the same wish gives the same key.
///
/// # Errors
/// [`SelectError`], with the code, the message and the cure for the client.
pub fn resolve(
    username: &Username,
    catalogue: &Catalogue,
    limits: &Limits,
) -> Result<(SessionKey, Lifetimes), SelectError> {
    let (default, places) = (Params::default(), PlaceRules::default());
    let scope = Scope { owner: &username.account, default: &default, places: &places, sessions: true };
    resolve_within(username, catalogue, limits, &scope)
}

/// What an account's policy has to say about its wishes.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// Whose sessions they are: the account itself, or its share group.
    pub owner: &'a Account,
    /// From where, when the username does not say.
    pub default: &'a Params,
    /// From where at all.
    pub places: &'a PlaceRules,
    /// Whether it may name sessions.
    pub sessions: bool,
}

/// As [`resolve`], within what the account may do. The key is that of the wish: which of a place's
/// servers the account may use is asked again by whoever chooses one.
///
/// # Errors
/// As [`resolve`]; [`SelectError::Forbidden`] when the account may use no server of the place.
pub fn resolve_within(
    username: &Username,
    catalogue: &Catalogue,
    limits: &Limits,
    scope: &Scope<'_>,
) -> Result<(SessionKey, Lifetimes), SelectError> {
    let Username { params, .. } = username;
    if params.session.is_some() && !scope.sessions {
        return Err(SelectError::BadParameter {
            message: "this account has shared exits only, and no sessions of its own".to_owned(),
            hint: "leave session-... out".to_owned(),
        });
    }
    let from = if params.names_place() { params } else { scope.default };
    // That a place is not in a list that only stands in means nothing: the right one will tell.
    let place = place(from, catalogue).map_err(|error| {
        let unknown = error.is_about_the_list() && catalogue.is_stand_in();
        if unknown { SelectError::NoServers } else { error }
    })?;
    if let Err(hint) = scope.places.permit(&place, catalogue) {
        if catalogue.is_stand_in() {
            return Err(SelectError::NoServers);
        }
        return Err(SelectError::Forbidden {
            message: format!("this account may not use {}", selector_of(&place)),
            hint,
        });
    }
    let key = SessionKey {
        account: scope.owner.clone(),
        pool: pool(if params.pool.is_some() { params } else { scope.default })?,
        place,
        session: params.session.clone(),
        mode: params.mode.unwrap_or_default(),
    };
    let lifetimes = Lifetimes {
        idle: within(Key::Idle, params.idle, limits.max_idle)?,
        ttl: within(Key::Ttl, params.ttl, limits.max_ttl)?,
        wait: within(Key::Wait, params.wait, limits.max_wait)?,
    };
    Ok((key, lifetimes))
}

/// Whether the list has the place that the parameters name.
///
/// # Errors
/// As for a client that asks for it.
pub fn check_place(params: &Params, catalogue: &Catalogue) -> Result<(), SelectError> {
    pool(params)?;
    place(params, catalogue).map(drop)
}

/// A place in the words of usernames.
fn selector_of(place: &Place) -> String {
    match place {
        Place { server: Some(server), .. } => format!("server-{server}"),
        Place { country: Some(country), city: Some(city), .. } => format!("country-{country}-city-{city}"),
        Place { country: Some(country), .. } => format!("country-{country}"),
        Place { city: Some(city), .. } => format!("city-{city}"),
        Place { .. } => "any server of the list".to_owned(),
    }
}

fn within(key: Key, time: Option<Duration>, most: Duration) -> Result<Option<Duration>, SelectError> {
    match time {
        Some(time) if time > most => {
            let most = duration::text(most);
            Err(SelectError::BadParameter {
                message: format!("'{}' is over its maximum of {most}", key.as_str()),
                hint: format!("write at most {}-{most}", key.as_str()),
            })
        }
        _ => Ok(time),
    }
}

fn pool(params: &Params) -> Result<PoolName, SelectError> {
    match &params.pool {
        Some(value) if slug(value) != PoolName::DEFAULT => Err(SelectError::BadParameter {
            message: format!("no pool '{}'", printable(value, 40)),
            hint: format!("leave it out, or write pool-{}", PoolName::DEFAULT),
        }),
        _ => Ok(PoolName::default()),
    }
}

pub(super) fn place(params: &Params, catalogue: &Catalogue) -> Result<Place, SelectError> {
    let country_wish = params.country.as_deref().map(|value| (value, slug(value)));
    let country_wish = country_wish.filter(|(_, slug)| slug != ANY);
    if country_wish.is_none() && params.city.is_none() && params.server.is_none() {
        return Ok(Place::anywhere());
    }
    if catalogue.is_empty() {
        return Err(SelectError::NoServers);
    }
    let country = match &country_wish {
        Some((value, slug)) => {
            Some(catalogue.country(slug).ok_or_else(|| no_country(value, slug, catalogue))?)
        }
        None => None,
    };
    let city = match params.city.as_deref() {
        Some(value) => Some(find_city(value, country, catalogue)?),
        None => None,
    };
    match params.server.as_deref() {
        Some(value) => server(value, country, city, catalogue),
        None => Ok(Place {
            country: city.map(|city| &city.country).or(country.map(|country| &country.id)).cloned(),
            city: city.map(|city| city.id.clone()),
            server: None,
        }),
    }
}

fn server(
    value: &str,
    country: Option<&Country>,
    city: Option<&City>,
    catalogue: &Catalogue,
) -> Result<Place, SelectError> {
    let server = catalogue.server_named(value).ok_or_else(|| no_server(value, catalogue))?;
    let contradiction = |what: &str, given: &str, is: &str| SelectError::BadCombination {
        message: format!("server {} is not in {given}: its {what} is {is}", server.hostname),
        hint: format!("write server-{} alone, or with the {what} that it is in", server.hostname),
    };
    if let Some(country) = country.filter(|country| country.id != server.country_id) {
        return Err(contradiction("country", country.id.as_str(), server.country_id.as_str()));
    }
    if let Some(city) =
        city.filter(|city| city.country != server.country_id || Some(&city.id) != server.city_id.as_ref())
    {
        let is = server.city_id.as_ref().map_or("unknown", |id| id.as_str());
        return Err(contradiction("city", city.id.as_str(), is));
    }
    Ok(Place::server(server.hostname.clone()))
}

fn find_city<'a>(
    value: &str,
    country: Option<&Country>,
    catalogue: &'a Catalogue,
) -> Result<&'a City, SelectError> {
    let name = slug(value);
    let found = catalogue.cities_named(country.map(|country| &country.id), &name);
    let mut cities = found.iter();
    match (cities.next(), cities.next()) {
        (Some(city), None) => Ok(city),
        (Some(first), Some(_)) => Err(ambiguous(value, first, &found)),
        (None, _) => Err(no_city(value, &name, country.map(|country| &country.id), catalogue)),
    }
}

/// A name that means several cities: of one country (`columbus`), or of several.
fn ambiguous(value: &str, first: &City, found: &[&City]) -> SelectError {
    let value = printable(value, 40);
    let several_countries = found.iter().any(|city| city.country != first.country);
    let choices: Vec<_> = found
        .iter()
        .take(near::SUGGESTIONS)
        .map(|city| {
            if several_countries {
                format!("country-{}-city-{}", city.country, city.id)
            } else {
                format!("city-{}", city.id)
            }
        })
        .collect();
    let hint = format!("write {}", choices.join(" or "));
    if several_countries {
        let message = format!("there is a city '{value}' in several countries: it needs a country");
        SelectError::BadCombination { message, hint }
    } else {
        let message = format!("'{value}' is the name of {} cities in {}", found.len(), first.country);
        SelectError::BadParameter { message, hint }
    }
}

fn no_country(value: &str, name: &str, catalogue: &Catalogue) -> SelectError {
    let suggestions = near::nearest(name, catalogue.country_names())
        .into_iter()
        .map(|id: &CountryId| match catalogue.country(id.as_str()).map(|country| slug(&country.name)) {
            Some(name) if name != id.as_str() => format!("{id} ({name})"),
            _ => id.to_string(),
        })
        .collect();
    SelectError::NoSuchCountry { value: value.to_owned(), suggestions }
}

fn no_city(value: &str, name: &str, country: Option<&CountryId>, catalogue: &Catalogue) -> SelectError {
    let elsewhere = match country {
        Some(_) => catalogue.cities_named(None, name).first().map(|city| city.country.clone()),
        None => None,
    };
    let cities = || {
        let within = catalogue.countries().iter().filter(|place| country.is_none_or(|id| place.id == *id));
        within.flat_map(|country| &country.cities)
    };
    let names = cities().map(|city| (city.id.as_str(), (&city.country, &city.id)));
    let suggestions = near::nearest(name, names)
        .into_iter()
        .map(|(of, id)| if country.is_some() { id.to_string() } else { format!("{id} ({of})") })
        .collect();
    SelectError::NoSuchCity { value: value.to_owned(), country: country.cloned(), elsewhere, suggestions }
}

fn no_server(value: &str, catalogue: &Catalogue) -> SelectError {
    let form = value.to_ascii_lowercase().replace(['_', '~'], "-");
    let names = catalogue.hostnames_near(value, AROUND).iter().map(|hostname| (hostname.as_str(), hostname));
    let suggestions = near::nearest(&form, names).into_iter().map(ToString::to_string).collect();
    SelectError::NoSuchServer { value: value.to_owned(), suggestions }
}

#[cfg(test)]
mod tests;
