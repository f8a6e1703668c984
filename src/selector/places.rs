//! Which places an account may use, as the operator writes it in the words of usernames:
//! `country-se`, `country-us-city-new_york`, `server-se-sto-wg-004`.
//!
//! Names are kept as written and looked up in the list in use, whichever that is: a rule outlives the
//! lists. The proxy asks [`PlaceRules::permit`] of a wish, the leader [`Places::allow`] of each server.

use super::error::SelectError;
use super::grammar::Params;
use super::resolve::place;
use crate::servers::names::slug;
use crate::servers::{Catalogue, Place, Server};

/// Rules that a refusal names at most.
const SHOWN: usize = 5;

/// One entry: the servers of a country or a city, or a single one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceRule {
    text: String,
    params: Params,
}

/// The places that may be used: those allowed, or all where none is named, without those denied. The
/// default restricts nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlaceRules {
    /// Only these; none for all.
    pub allow: Option<Vec<PlaceRule>>,
    /// Not these.
    pub deny: Vec<PlaceRule>,
}

/// [`PlaceRules`] as they apply to one server list.
#[derive(Debug, Clone, Default)]
pub struct Places {
    allow: Option<Vec<Place>>,
    deny: Vec<Place>,
}

impl PlaceRule {
    /// Reads an entry.
    ///
    /// # Errors
    /// What is wrong with it and what to write, in a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the entry is empty; write a place such as country-se".to_owned());
        }
        let params = Params::parse(text).map_err(|error| format!("{error}; {}", error.hint()))?;
        let place = Params {
            country: params.country.clone(),
            city: params.city.clone(),
            server: params.server.clone(),
            ..Params::default()
        };
        if params != place {
            return Err("a place has a country, a city or a server, and no other parameter".to_owned());
        }
        if params.country.as_deref().is_some_and(|country| slug(country) == "any") {
            return Err("'any' is no place; leave the list out to restrict nothing".to_owned());
        }
        Ok(Self { text: text.to_owned(), params })
    }

    /// As the operator wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the list has the place, and only one of that name.
    ///
    /// # Errors
    /// As for a client that asks for it, with near names.
    pub fn check(&self, catalogue: &Catalogue) -> Result<(), SelectError> {
        place(&self.params, catalogue).map(drop)
    }

    /// Everything in the list that it may mean: a name that a newer list has made ambiguous means all.
    fn places(&self, catalogue: &Catalogue) -> Vec<Place> {
        let Params { country, city, server, .. } = &self.params;
        let country = match country.as_deref().map(|name| catalogue.country(&slug(name))) {
            None => None,
            Some(Some(country)) => Some(country.id.clone()),
            Some(None) => return Vec::new(),
        };
        let places = match city {
            None => vec![Place { country, city: None, server: None }],
            Some(city) => catalogue
                .cities_named(country.as_ref(), &slug(city))
                .into_iter()
                .map(|city| Place {
                    country: Some(city.country.clone()),
                    city: Some(city.id.clone()),
                    server: None,
                })
                .collect(),
        };
        let Some(server) = server else { return places };
        let Some(server) = catalogue.server_named(server) else { return Vec::new() };
        let agrees = places.iter().any(|place| covers(place, server));
        if agrees { vec![Place::server(server.hostname.clone())] } else { Vec::new() }
    }
}

impl PlaceRules {
    /// Whether everything may be used.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.allow.is_none() && self.deny.is_empty()
    }

    /// Every entry.
    pub fn entries(&self) -> impl Iterator<Item = &PlaceRule> {
        self.allow.iter().flatten().chain(&self.deny)
    }

    /// The rules, looked up in a list. What the list does not have is neither allowed nor denied by it.
    #[must_use]
    pub fn within(&self, catalogue: &Catalogue) -> Places {
        let all = |rules: &Vec<PlaceRule>| rules.iter().flat_map(|rule| rule.places(catalogue)).collect();
        Places { allow: self.allow.as_ref().map(all), deny: all(&self.deny) }
    }

    /// Whether some server of the place may be used.
    ///
    /// # Errors
    /// What may be used, for a hint.
    pub fn permit(&self, place: &Place, catalogue: &Catalogue) -> Result<(), String> {
        if self.is_empty() || catalogue.is_empty() {
            return Ok(());
        }
        let places = self.within(catalogue);
        if catalogue.candidates(place).any(|server| places.allow(server)) {
            return Ok(());
        }
        let names = |rules: &[PlaceRule]| {
            let mut names: Vec<&str> = rules.iter().take(SHOWN).map(PlaceRule::as_str).collect();
            if rules.len() > SHOWN {
                names.push("...");
            }
            crate::servers::names::printable(&names.join(", "), 300)
        };
        Err(match self.allow.as_deref() {
            Some([]) => "this account may use no place: ask the operator".to_owned(),
            Some(allow) => format!("ask for one of {}, or ask the operator", names(allow)),
            None => format!("all may be used but {}; ask the operator for more", names(&self.deny)),
        })
    }
}

impl Places {
    /// Whether the server may be used.
    #[must_use]
    pub fn allow(&self, server: &Server) -> bool {
        let of = |places: &[Place]| places.iter().any(|place| covers(place, server));
        self.allow.as_deref().is_none_or(of) && !of(&self.deny)
    }
}

fn covers(place: &Place, server: &Server) -> bool {
    let Place { country, city, server: hostname } = place;
    country.as_ref().is_none_or(|id| *id == server.country_id)
        && city.as_ref().is_none_or(|id| server.city_id.as_ref() == Some(id))
        && hostname.as_ref().is_none_or(|name| *name == server.hostname)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Account;
    use crate::selector::{Limits, Scope, Username, resolve_within};

    const LIST: &str = r#"[
{"vpn":"wireguard","country":"Sweden","city":"Malmö","hostname":"se-mma-wg-001"},
{"vpn":"wireguard","country":"Sweden","city":"Stockholm","hostname":"se-sto-wg-001"},
{"vpn":"wireguard","country":"USA","city":"New York NY","hostname":"us-nyc-wg-301"},
{"vpn":"wireguard","country":"USA","city":"San Jose CA","hostname":"us-sjc-wg-001"},
{"vpn":"wireguard","country":"Costa Rica","city":"San José","hostname":"cr-sjo-wg-001"}
]"#;

    fn rules(allow: Option<&[&str]>, deny: &[&str]) -> PlaceRules {
        let read = |texts: &[&str]| texts.iter().map(|text| PlaceRule::parse(text).unwrap()).collect();
        PlaceRules { allow: allow.map(read), deny: read(deny) }
    }

    fn allowed(rules: &PlaceRules) -> Vec<String> {
        let catalogue = Catalogue::parse(LIST).unwrap();
        let places = rules.within(&catalogue);
        let servers = catalogue.servers().iter().filter(|server| places.allow(server));
        servers.map(|server| server.hostname.to_string()).collect()
    }

    #[test]
    fn servers_by_country_city_and_name() {
        for (allow, deny, expected) in [
            (None, &[][..], "se-mma-wg-001 se-sto-wg-001 us-nyc-wg-301 us-sjc-wg-001 cr-sjo-wg-001"),
            (Some(&["country-sweden"][..]), &[], "se-mma-wg-001 se-sto-wg-001"),
            (Some(&["country-se"]), &["city-malm\u{f6}"], "se-sto-wg-001"),
            (Some(&["city-new-york", "server-se_mma_wg_001"]), &[], "se-mma-wg-001 us-nyc-wg-301"),
            (None, &["country-us", "server-se-sto-wg-001"], "se-mma-wg-001 cr-sjo-wg-001"),
            (Some(&[]), &[], ""),
            (Some(&["country-xx"]), &[], ""),
            (Some(&["country-us-server-se-sto-wg-001"]), &[], ""),
            // A name of two cities means both: a rule that denies must not end with a newer list.
            (None, &["city-san-jose"], "se-mma-wg-001 se-sto-wg-001 us-nyc-wg-301"),
        ] {
            assert_eq!(allowed(&rules(allow, deny)).join(" "), expected, "{allow:?} {deny:?}");
        }
    }

    #[test]
    fn only_places_are_places() {
        for (text, part) in [
            ("se", "unknown parameter 'se'"),
            ("country-se-session-a", "no other parameter"),
            ("country-any", "leave the list out"),
            ("", "the entry is empty"),
            ("country-se--", "empty word"),
        ] {
            let error = PlaceRule::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        let catalogue = Catalogue::parse(LIST).unwrap();
        let error = PlaceRule::parse("country-swden").unwrap().check(&catalogue).unwrap_err();
        assert!(error.hint().contains("sweden"), "{}", error.hint());
        assert!(PlaceRule::parse("city-san-jose").unwrap().check(&catalogue).is_err(), "two of them");
    }

    #[test]
    fn a_list_that_only_stands_in_forbids_nothing() {
        let (places, default) = (rules(Some(&["server-not-in-it"]), &[]), Params::default());
        let owner = Account::parse("alice").unwrap();
        let scope = Scope { owner: &owner, default: &default, places: &places, sessions: true };
        let username = Username::parse("alice").unwrap();
        let built_in = crate::servers::built_in().unwrap();
        let error = resolve_within(&username, &built_in, &Limits::default(), &scope).unwrap_err();
        assert_eq!(error.code(), "control_plane_unavailable");
    }

    #[test]
    fn a_wish_is_resolved_within_the_policy() {
        let catalogue = Catalogue::parse(LIST).unwrap();
        let (places, default) =
            (rules(Some(&["country-se", "city-new_york"]), &["city-malmo"]), "country-se");
        let (owner, default) = (Account::parse("team").unwrap(), Params::parse(default).unwrap());
        let resolve = |text: &str, sessions: bool| {
            let scope = Scope { owner: &owner, default: &default, places: &places, sessions };
            let username = Username::parse(text).unwrap();
            resolve_within(&username, &catalogue, &Limits::default(), &scope).map(|(key, _)| key.canonical())
        };
        for (text, expected) in [
            ("alice", "team-country-se"),
            ("alice-session-a", "team-country-se-session-a"),
            ("alice-country-any", "team"),
            ("alice-country-us", "team-country-us"),
        ] {
            assert_eq!(resolve(text, true).as_deref(), Ok(expected), "{text}");
        }
        for text in ["alice-city-malmo", "alice-server-us-sjc-wg-001", "alice-country-cr"] {
            let error = resolve(text, true).unwrap_err();
            assert_eq!(error.code(), "location_forbidden", "{text}");
            assert!(error.hint().contains("country-se"), "{}", error.hint());
        }
        assert_eq!(resolve("alice-session-a", false).unwrap_err().code(), "bad_parameter");
        assert_eq!(resolve("alice-country-xx", true).unwrap_err().code(), "no_such_country");
    }
}
