//! The filters of `/servers` and `/start`, and the draw among what they match.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rand::RngExt as _;

use crate::servers::names::slug;
use crate::servers::{Catalogue, Server};

/// A country and a city, as a client writes them. Each is matched as the original system did: equal,
/// contained, or every word contained, whatever the case; and also with `Malmo` for `Malmö`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    country: Option<Words>,
    city: Option<Words>,
}

/// One filter's text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Words {
    /// In lower case, without white space around it.
    text: String,
    folded: String,
}

/// How well a name matches: the less, the better.
type Distance = u8;

impl Words {
    fn read(text: Option<&str>) -> Option<Self> {
        let text = text.map(str::trim).filter(|text| !text.is_empty())?.to_lowercase();
        let folded = slug(&text);
        Some(Self { text, folded })
    }

    fn distance(&self, name: &str) -> Option<Distance> {
        let name = name.to_lowercase();
        let folded = slug(&name);
        if name == self.text || (folded == self.folded && !folded.is_empty()) {
            return Some(0);
        }
        if name.contains(&self.text) {
            return Some(1);
        }
        let contained = |word: &str| {
            let slug = slug(word);
            name.contains(word) || (!slug.is_empty() && folded.contains(&slug))
        };
        self.text.split_whitespace().all(contained).then_some(2)
    }
}

impl Filter {
    /// Reads a filter; a part that is empty restricts nothing.
    pub(super) fn read(country: Option<&str>, city: Option<&str>) -> Self {
        Self { country: Words::read(country), city: Words::read(city) }
    }

    /// Whether it restricts nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.country.is_none() && self.city.is_none()
    }

    /// ` for country '…' and city '…'`: only what was given, in lower case as the original told it.
    pub(super) fn words(&self) -> String {
        match (&self.country, &self.city) {
            (Some(country), Some(city)) => {
                format!(" for country '{}' and city '{}'", country.text, city.text)
            }
            (Some(country), None) => format!(" for country '{}'", country.text),
            (None, Some(city)) => format!(" for city '{}'", city.text),
            (None, None) => String::new(),
        }
    }

    /// The servers that it matches, in the list's order, each with how well.
    fn found<'a>(
        &self,
        catalogue: &'a Catalogue,
    ) -> impl Iterator<Item = (&'a Arc<Server>, (Distance, Distance))> {
        // A list has thousands of servers in a hundred places.
        let mut countries: HashMap<&'a str, Option<Distance>> = HashMap::new();
        let mut cities: HashMap<&'a str, Option<Distance>> = HashMap::new();
        let distance = |words: &Option<Words>, name: &str| match words {
            Some(words) => words.distance(name),
            None => Some(0),
        };
        catalogue.servers().iter().filter_map(move |server| {
            let country =
                *countries.entry(&server.country).or_insert_with(|| distance(&self.country, &server.country));
            let city = *cities.entry(&server.city).or_insert_with(|| distance(&self.city, &server.city));
            Some((server, (country?, city?)))
        })
    }

    /// The servers that it matches, in the list's order.
    pub(super) fn servers<'a>(&self, catalogue: &'a Catalogue) -> Vec<&'a Arc<Server>> {
        self.found(catalogue).map(|(server, _)| server).collect()
    }

    /// Of the servers that it matches, those that it matches best: `UK` is contained in `Ukraine`, and
    /// who writes it means neither by chance.
    pub(super) fn closest(&self, catalogue: &Catalogue) -> Vec<Arc<Server>> {
        let found: Vec<_> = self.found(catalogue).collect();
        let Some(best) = found.iter().map(|(_, distance)| *distance).min() else { return Vec::new() };
        found
            .into_iter()
            .filter(|(_, distance)| *distance == best)
            .map(|(server, _)| Arc::clone(server))
            .collect()
    }
}

/// A draw without return.
#[derive(Debug)]
pub(super) struct Draw(Vec<Arc<Server>>);

impl Draw {
    /// A draw from these.
    pub(super) fn of(servers: Vec<Arc<Server>>) -> Self {
        Self(servers)
    }

    /// One of those that are left, at random; of those that are in use only where there is no other.
    pub(super) fn next(&mut self, used: &HashSet<String>) -> Option<Arc<Server>> {
        let free = |server: &Arc<Server>| !used.contains(server.hostname.as_str());
        let places: Vec<usize> =
            self.0.iter().enumerate().filter(|(_, server)| free(server)).map(|(at, _)| at).collect();
        let mut rng = rand::rng();
        let at = match (places.len(), self.0.len()) {
            (_, 0) => return None,
            (0, all) => rng.random_range(0..all),
            (some, _) => *places.get(rng.random_range(0..some))?,
        };
        Some(self.0.swap_remove(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalogue() -> Catalogue {
        let server = |country: &str, city: &str, n: u32| serde_json::json!({ "vpn": "wireguard", "country": country, "city": city, "hostname": format!("h-{n}") });
        let list = serde_json::json!([
            server("UK", "London", 1),
            server("Ukraine", "Kyiv", 2),
            server("USA", "New York NY", 3),
            server("USA", "Salt Lake City UT", 4),
            server("Sweden", "Malmö", 5),
            server("Niger", "", 6),
        ]);
        Catalogue::parse(&list.to_string()).unwrap()
    }

    fn hosts(country: &str, city: &str) -> Vec<String> {
        let catalogue = catalogue();
        let filter = Filter::read(Some(country), Some(city));
        filter.servers(&catalogue).iter().map(|server| server.hostname.to_string()).collect()
    }

    #[test]
    fn equal_contained_or_every_word_contained() {
        assert_eq!(hosts("", ""), ["h-1", "h-2", "h-3", "h-4", "h-5", "h-6"]);
        assert_eq!(hosts("usa", ""), ["h-3", "h-4"]);
        assert_eq!(hosts(" USA ", "new york ny"), ["h-3"]);
        assert_eq!(hosts("", "York"), ["h-3"]);
        assert_eq!(hosts("", "ny new"), ["h-3"], "the words in any order");
        assert_eq!(hosts("", "city salt"), ["h-4"]);
        assert_eq!(hosts("", "new salt"), [""; 0]);
        assert_eq!(hosts("uk", ""), ["h-1", "h-2"], "contained counts, as in the original");
        assert_eq!(hosts("Sweden", "MALMÖ"), ["h-5"]);
        assert_eq!(hosts("", "malmo"), ["h-5"]);
        assert_eq!(hosts("", "_"), [""; 0]);
        assert_eq!(hosts("Atlantis", ""), [""; 0]);
    }

    #[test]
    fn a_draw_is_among_the_best_matches() {
        let catalogue = catalogue();
        let closest = |country, city| {
            let found = Filter::read(country, city).closest(&catalogue);
            found.iter().map(|server| server.hostname.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(closest(Some("UK"), None), ["h-1"]);
        assert_eq!(closest(Some("u"), None), ["h-1", "h-2", "h-3", "h-4"]);
        assert_eq!(closest(Some("US"), Some("york")), ["h-3"]);
        assert!(closest(Some("UK"), Some("Kyiv")).is_empty() == false, "another match is better than none");
        assert!(closest(Some("x"), None).is_empty());
    }

    #[test]
    fn what_was_asked_for_is_told_as_the_original_did() {
        let words = |country, city| Filter::read(country, city).words();
        assert_eq!(words(Some(" Atlantis "), Some("Malmö")), " for country 'atlantis' and city 'malmö'");
        assert_eq!(words(Some("Atlantis"), Some(" ")), " for country 'atlantis'");
        assert_eq!(words(None, Some("X")), " for city 'x'");
        assert!(Filter::read(Some(""), None).is_empty());
    }

    #[test]
    fn servers_in_use_are_drawn_last_and_none_twice() {
        let catalogue = catalogue();
        for _ in 0..20 {
            let mut draw = Draw::of(Filter::read(Some("USA"), None).closest(&catalogue));
            let used = HashSet::from(["h-3".to_owned()]);
            let drawn: Vec<_> =
                std::iter::from_fn(|| draw.next(&used)).map(|s| s.hostname.to_string()).collect();
            assert_eq!(drawn, ["h-4", "h-3"]);
        }
        let drawn: HashSet<String> = (0..200)
            .filter_map(|_| Draw::of(catalogue.servers().to_vec()).next(&HashSet::new()))
            .map(|server| server.hostname.to_string())
            .collect();
        assert_eq!(drawn.len(), 6, "at random");
    }
}
