//! The catalogue: every server, and the indexes by which names find them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::iso;
use super::list::{self, CatalogueError, Record, Server};
use super::names::{CityId, CountryId, Hostname, Place, slug};
use super::origin::{Origin, SourceKind};

/// The VPN servers that exits can be made on. Immutable: a new list is a new catalogue. The default is
/// the empty one, which stands in until a list has come.
#[derive(Debug, Default)]
pub struct Catalogue {
    servers: Vec<Arc<Server>>,
    countries: Vec<Country>,
    /// Every name of a country to its index in `countries`.
    country_names: HashMap<Box<str>, usize>,
    /// Every name of a city, in any country, to what it may mean.
    city_names: HashMap<Box<str>, Vec<CityAt>>,
    /// The provider's city codes (`nyc`): only where no city has such a name.
    city_codes: HashMap<Box<str>, Vec<CityAt>>,
    hostnames: HashMap<Box<str>, usize>,
    /// `hostnames`, sorted: near names are looked for around where a wrong one would stand.
    sorted: Vec<Hostname>,
    keys: HashMap<Box<str>, usize>,
    skipped: usize,
    merged: usize,
    fingerprint: [u8; 32],
    origin: Option<Origin>,
}

/// A country of the catalogue.
#[derive(Debug)]
pub struct Country {
    /// Its id: `se`.
    pub id: CountryId,
    /// Its name as the provider spells it.
    pub name: Arc<str>,
    /// Its cities, by name.
    pub cities: Vec<City>,
    servers: Vec<usize>,
}

/// A city of a [`Country`].
#[derive(Debug)]
pub struct City {
    /// Its id within the country: `new_york`.
    pub id: CityId,
    /// Its name as the provider spells it.
    pub name: Arc<str>,
    /// Its country.
    pub country: CountryId,
    servers: Vec<usize>,
}

impl Country {
    /// How many servers it has.
    #[must_use]
    pub fn server_count(&self) -> usize {
        self.servers.len()
    }
}

impl City {
    /// How many servers it has.
    #[must_use]
    pub fn server_count(&self) -> usize {
        self.servers.len()
    }
}

/// Where a city stands: indexes of its country, and of itself within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct CityAt {
    country: usize,
    city: usize,
}

impl Catalogue {
    /// Reads a list in any of the three shapes that Gluetun writes: its whole file, one provider's
    /// object, or the bare array of `format-servers`. Only WireGuard servers are taken; of records with
    /// the same hostname the first; records without a hostname or a country are left out and counted.
    ///
    /// # Errors
    /// When the text is none of these, or when no usable server remains.
    pub fn parse(text: &str) -> Result<Self, CatalogueError> {
        let list = list::read(text)?;
        let mut catalogue = Builder::new(&list.records).build(list.records);
        catalogue.skipped += list.skipped;
        catalogue.fingerprint = Sha256::digest(text).into();
        if catalogue.servers.is_empty() {
            return Err(CatalogueError::Unusable(
                catalogue.skipped,
                "its names cannot be written as ids of at most 40 characters".to_owned(),
            ));
        }
        Ok(catalogue)
    }

    /// The same catalogue, from there.
    #[must_use]
    pub fn from_origin(mut self, origin: Origin) -> Self {
        self.origin = Some(origin);
        self
    }

    /// Where it came from and when; none for the empty one, and for one that nobody published.
    #[must_use]
    pub fn origin(&self) -> Option<Origin> {
        self.origin
    }

    /// Whether it only stands in until the list of the pods' image is known: that a place is not in it
    /// then means nothing.
    #[must_use]
    pub fn is_stand_in(&self) -> bool {
        self.is_empty() || self.origin.is_some_and(|origin| origin.source == SourceKind::BuiltIn)
    }

    /// Every server, in the list's order.
    #[must_use]
    pub fn servers(&self) -> &[Arc<Server>] {
        &self.servers
    }

    /// How many servers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.servers.len()
    }

    /// Whether no list has come yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// WireGuard records that were left out for want of a usable hostname or country.
    #[must_use]
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// Records that were left out because an earlier one has the same hostname.
    #[must_use]
    pub fn merged(&self) -> usize {
        self.merged
    }

    /// SHA-256 of the text that this was read from; zero for the empty catalogue.
    #[must_use]
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// The countries, sorted by name.
    #[must_use]
    pub fn countries(&self) -> &[Country] {
        &self.countries
    }

    /// The country of a slug: its id, the provider's name, or any usual name.
    #[must_use]
    pub fn country(&self, slug: &str) -> Option<&Country> {
        self.country_names.get(slug).and_then(|at| self.countries.get(*at))
    }

    /// Every name of every country, with its id: for near names.
    pub fn country_names(&self) -> impl Iterator<Item = (&str, &CountryId)> {
        let names = self.country_names.iter();
        names.filter_map(|(name, at)| self.countries.get(*at).map(|country| (&**name, &country.id)))
    }

    /// The cities that a slug may mean, within a country or anywhere: names come before codes. More than
    /// one within a country means that the name is ambiguous there.
    #[must_use]
    pub fn cities_named(&self, country: Option<&CountryId>, slug: &str) -> Vec<&City> {
        let within = |index: &HashMap<Box<str>, Vec<CityAt>>| -> Vec<&City> {
            let found = index.get(slug).map(Vec::as_slice).unwrap_or_default();
            let cities = found.iter().filter_map(|at| self.city_at(*at));
            cities.filter(|city| country.is_none_or(|id| city.country == *id)).collect()
        };
        let named = within(&self.city_names);
        if named.is_empty() { within(&self.city_codes) } else { named }
    }

    /// A hostname as a client writes it, in any case and with `_` or `~` for `-`: a name that holds a
    /// key word of the username grammar can be written only so.
    #[must_use]
    pub fn server_named(&self, value: &str) -> Option<&Arc<Server>> {
        self.hostnames.get(hostname_form(value).as_str()).and_then(|at| self.servers.get(*at))
    }

    /// The server of that very hostname.
    #[must_use]
    pub fn by_hostname(&self, hostname: &str) -> Option<&Arc<Server>> {
        self.server_named(hostname).filter(|server| server.hostname.as_str().eq_ignore_ascii_case(hostname))
    }

    /// The server of a key of the management API.
    #[must_use]
    pub fn by_key(&self, key: &str) -> Option<&Arc<Server>> {
        self.keys.get(key).and_then(|at| self.servers.get(*at))
    }

    /// Every server that an exit for this place may be made on, in the list's order within a city. Empty
    /// when the list no longer has the place. A city's id finds its servers even when a newer list has
    /// made it ambiguous (`columbus`): then those of all the cities that it may mean.
    pub fn candidates(&self, place: &Place) -> impl Iterator<Item = &Arc<Server>> {
        let mut all = false;
        let mut chosen: Vec<&[usize]> = Vec::new();
        let mut single = None;
        match (&place.server, &place.country, &place.city) {
            (Some(hostname), country, city) => {
                single = self.by_hostname(hostname.as_str()).filter(|server| {
                    country.as_ref().is_none_or(|id| server.country_id == *id)
                        && city.as_ref().is_none_or(|id| server.city_id.as_ref() == Some(id))
                });
            }
            (None, country, Some(city)) => {
                let cities = self.cities_named(country.as_ref(), city.as_str());
                chosen.extend(cities.into_iter().map(|city| city.servers.as_slice()));
            }
            (None, Some(country), None) => {
                chosen.extend(self.country(country.as_str()).map(|country| country.servers.as_slice()));
            }
            (None, None, None) => all = true,
        }
        let everything = if all { self.servers.as_slice() } else { &[] };
        let picked = chosen.into_iter().flatten().filter_map(|at| self.servers.get(*at));
        single.into_iter().chain(picked).chain(everything)
    }

    /// Hostnames that stand near a wrong one in sorted order, `around` on each side: enough to look for
    /// likely meant ones in, whatever the size of the list.
    pub fn hostnames_near(&self, value: &str, around: usize) -> &[Hostname] {
        let form = hostname_form(value);
        let at = self.sorted.partition_point(|hostname| hostname.as_str() < form.as_str());
        let end = at.saturating_add(around).min(self.sorted.len());
        self.sorted.get(at.saturating_sub(around)..end).unwrap_or_default()
    }

    fn city_at(&self, at: CityAt) -> Option<&City> {
        self.countries.get(at.country).and_then(|country| country.cities.get(at.city))
    }
}

/// The form in which hostnames are looked up. A `~` before one that is a key word keeps it from being
/// read as that.
fn hostname_form(value: &str) -> String {
    let value = value.strip_prefix('~').unwrap_or(value);
    value.chars().map(|c| if matches!(c, '_' | '~') { '-' } else { c.to_ascii_lowercase() }).collect()
}

/// What has to be known of the whole list before a single server can be named.
struct Builder {
    /// The id of each country name of the list.
    ids: HashMap<String, CountryId>,
    /// Short city slugs that mean more than one city of their country.
    ambiguous: HashSet<(CountryId, String)>,
}

impl Builder {
    fn new(records: &[Record]) -> Self {
        let ids = country_ids(records);
        let mut full: HashMap<(CountryId, String), BTreeSet<String>> = HashMap::new();
        for record in records {
            if let Some(id) = ids.get(&record.country) {
                full.entry((id.clone(), short_slug(&record.city))).or_default().insert(slug(&record.city));
            }
        }
        let ambiguous = full.into_iter().filter(|(_, names)| names.len() > 1).map(|(key, _)| key).collect();
        Self { ids, ambiguous }
    }

    /// The id of a city: its short slug where that means one city only.
    fn city_id(&self, country: &CountryId, city: &str) -> Option<CityId> {
        let short = short_slug(city);
        if self.ambiguous.contains(&(country.clone(), short.clone())) {
            return CityId::parse(&slug(city));
        }
        CityId::parse(&short)
    }

    fn build(&self, records: Vec<Record>) -> Catalogue {
        let mut catalogue = Catalogue::default();
        let mut names: HashMap<CountryId, Arc<str>> = HashMap::new();
        let mut cities: HashMap<(CountryId, CityId), Arc<str>> = HashMap::new();
        for record in records {
            let Some(id) = self.ids.get(&record.country) else {
                catalogue.skipped += 1;
                continue;
            };
            let city_id = self.city_id(id, &record.city);
            if city_id.is_none() && !record.city.is_empty() {
                catalogue.skipped += 1;
                continue;
            }
            let form = hostname_form(record.hostname.as_str());
            if catalogue.hostnames.contains_key(form.as_str()) {
                catalogue.merged += 1;
                continue;
            }
            let country = names.entry(id.clone()).or_insert_with(|| Arc::from(record.country.as_str()));
            let city = match &city_id {
                Some(city) => Arc::clone(
                    cities
                        .entry((id.clone(), city.clone()))
                        .or_insert_with(|| Arc::from(record.city.as_str())),
                ),
                None => Arc::from(""),
            };
            let at = catalogue.servers.len();
            let key = list::key(&record.country, &record.city, &record.hostname);
            catalogue.hostnames.insert(form.into(), at);
            catalogue.keys.entry(key.as_str().into()).or_insert(at);
            catalogue.servers.push(Arc::new(Server {
                hostname: record.hostname,
                country: Arc::clone(country),
                country_id: id.clone(),
                city,
                city_id,
                key,
                record: record.fields,
            }));
        }
        catalogue.sorted = catalogue.servers.iter().map(|server| server.hostname.clone()).collect();
        catalogue.sorted.sort_unstable();
        catalogue.countries = group(&catalogue.servers);
        self.index(&mut catalogue);
        catalogue
    }

    /// Fills the indexes of names.
    fn index(&self, catalogue: &mut Catalogue) {
        // An id always means its own country: of two that are spelt alike one may have the other's name as
        // its id.
        for (at, country) in catalogue.countries.iter().enumerate() {
            catalogue.country_names.insert(country.id.as_str().into(), at);
        }
        for (at, country) in catalogue.countries.iter().enumerate() {
            let known = iso::names(country.id.as_str()).map(str::to_owned);
            for name in known.chain([slug(&country.name)]) {
                catalogue.country_names.entry(name.into()).or_insert(at);
            }
            for (city_at, city) in country.cities.iter().enumerate() {
                let place = CityAt { country: at, city: city_at };
                for name in [city.id.to_string(), slug(&city.name), short_slug(&city.name)] {
                    add(&mut catalogue.city_names, name, place);
                }
                for server in city.servers.iter().filter_map(|at| catalogue.servers.get(*at)) {
                    if let Some(code) = city_code(&server.hostname, &country.id) {
                        add(&mut catalogue.city_codes, code.to_owned(), place);
                    }
                }
            }
        }
        // Further spellings that the list uses for a country that it also spells otherwise.
        for (name, id) in &self.ids {
            if let Some(at) = catalogue.countries.iter().position(|country| country.id == *id) {
                catalogue.country_names.entry(slug(name).into()).or_insert(at);
            }
        }
    }
}

fn add(index: &mut HashMap<Box<str>, Vec<CityAt>>, name: String, place: CityAt) {
    if !name.is_empty() {
        let places = index.entry(name.into()).or_default();
        if !places.contains(&place) {
            places.push(place);
        }
    }
}

/// The servers by country and city, both sorted by name.
fn group(servers: &[Arc<Server>]) -> Vec<Country> {
    let mut by_id: HashMap<&CountryId, Country> = HashMap::new();
    let mut cities: HashMap<(&CountryId, &CityId), City> = HashMap::new();
    for (at, server) in servers.iter().enumerate() {
        let new = || Country {
            id: server.country_id.clone(),
            name: Arc::clone(&server.country),
            cities: Vec::new(),
            servers: Vec::new(),
        };
        by_id.entry(&server.country_id).or_insert_with(new).servers.push(at);
        if let Some(id) = &server.city_id {
            let new = || City {
                id: id.clone(),
                name: Arc::clone(&server.city),
                country: server.country_id.clone(),
                servers: Vec::new(),
            };
            cities.entry((&server.country_id, id)).or_insert_with(new).servers.push(at);
        }
    }
    for ((country, _), city) in cities {
        if let Some(country) = by_id.get_mut(country) {
            country.cities.push(city);
        }
    }
    let mut countries: Vec<_> = by_id.into_values().collect();
    for country in &mut countries {
        country.cities.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    }
    countries.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    countries
}

/// The id of every country name in the list: from the ISO table, else the two letters that all of its
/// hostnames and no other country's begin with, if that is how the list's hostnames are made, else its
/// slug.
fn country_ids(records: &[Record]) -> HashMap<String, CountryId> {
    let mut prefixes: HashMap<&str, BTreeSet<&str>> = HashMap::new();
    for record in records {
        prefixes
            .entry(&record.country)
            .or_default()
            .insert(country_prefix(&record.hostname).unwrap_or_default());
    }
    let mut ids: HashMap<String, CountryId> = HashMap::new();
    for name in prefixes.keys() {
        if let Some(id) = iso::code(&slug(name)).and_then(CountryId::parse) {
            ids.insert((*name).to_owned(), id);
        }
    }
    let scheme = !ids.is_empty()
        && ids
            .iter()
            .all(|(name, id)| prefixes.get(name.as_str()).into_iter().flatten().all(|p| *p == id.as_str()));
    let mut unknown: Vec<_> = prefixes.iter().filter(|(name, _)| !ids.contains_key(**name)).collect();
    unknown.sort_unstable();
    for (name, own) in &unknown {
        let code = own.first().filter(|code| {
            let others = unknown.iter().filter(|(other, theirs)| other != name && theirs.contains(*code));
            own.len() == 1 && others.count() == 0 && !ids.values().any(|id| id.as_str() == **code)
        });
        let code = code.filter(|_| scheme).and_then(|code| CountryId::parse(code));
        if let Some(id) = code.or_else(|| CountryId::parse(&slug(name))) {
            ids.insert((**name).to_owned(), id);
        }
    }
    ids
}

/// The ISO code that a hostname begins with: `us` of `us-nyc-wg-301`, `us9591.nordvpn.com` and `us-bos.prod.surfshark.com`.
fn country_prefix(hostname: &Hostname) -> Option<&str> {
    let text = hostname.as_str();
    let letters = text.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(text.len());
    let prefix = (letters == 2).then(|| text.get(..2)).flatten();
    if prefix == Some("uk") { Some("gb") } else { prefix }
}

/// `nyc` of `us-nyc-wg-301`, if the country agrees.
fn city_code<'a>(hostname: &'a Hostname, country: &CountryId) -> Option<&'a str> {
    let label = hostname.as_str().split('.').next().unwrap_or_default();
    let mut words = label.split('-');
    let (prefix, code) = (words.next()?, words.next()?);
    let same = country_prefix(hostname) == Some(country.as_str());
    (same && prefix.len() == 2 && code.len() == 3 && code.bytes().all(|b| b.is_ascii_lowercase()))
        .then_some(code)
}

/// The slug of a city without its state: "New York NY" and "Ashburn, VA" end in two capital letters.
fn short_slug(city: &str) -> String {
    let name = match city.trim_end().rsplit_once([' ', ',']) {
        Some((name, state))
            if state.len() == 2
                && state.bytes().all(|b| b.is_ascii_uppercase())
                && name.contains(char::is_alphanumeric) =>
        {
            name
        }
        _ => city,
    };
    slug(name)
}

#[cfg(test)]
mod tests;
