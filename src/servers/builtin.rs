//! The list that the program carries, for a gateway that has no other yet: places, cities and
//! hostnames of the shape that the real list has. It holds no keys and addresses, which only Gluetun
//! needs, and has from its own list.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::origin::{Origin, SourceKind};
use super::{Catalogue, CatalogueError};

/// Country -> city -> hostnames.
const LIST: &str = include_str!("builtin.json");

/// The list as a catalogue, as of now.
///
/// # Errors
///
/// Never with the list at hand, which a test reads.
pub fn catalogue() -> Result<Catalogue, CatalogueError> {
    let text = records(LIST)?.to_string();
    Ok(Catalogue::parse(&text)?.from_origin(Origin::now(SourceKind::BuiltIn)))
}

/// The compact form as records of `format-servers`.
fn records(compact: &str) -> Result<Value, CatalogueError> {
    let countries: BTreeMap<&str, BTreeMap<&str, Vec<&str>>> =
        serde_json::from_str(compact).map_err(|error| CatalogueError::Json(error.to_string()))?;
    let mut records = Vec::new();
    for (country, cities) in countries {
        for (city, hostnames) in cities {
            let record = |hostname| json!({ "vpn": "wireguard", "country": country, "city": city, "hostname": hostname });
            records.extend(hostnames.into_iter().map(record));
        }
    }
    Ok(Value::Array(records))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_list_of_many_places_without_keys() {
        let catalogue = catalogue().unwrap();
        assert!(catalogue.len() >= 100, "{}", catalogue.len());
        assert!(catalogue.countries().len() >= 14);
        assert_eq!((catalogue.skipped(), catalogue.merged()), (0, 0));
        assert!(catalogue.is_stand_in());
        assert!(
            catalogue.servers().iter().all(|s| !s.record.contains_key("wgpubkey") && s.record.len() == 4)
        );
    }

    /// So that the embedded cluster's exits start before its list has come.
    #[cfg(feature = "simulator")]
    #[test]
    fn the_embedded_clusters_image_knows_every_server_of_it() {
        let list = crate::simulator::gluetun::ServerList::builtin();
        let catalogue = catalogue().unwrap();
        assert_eq!(catalogue.len(), list.servers().len());
        for server in list.servers() {
            let found = catalogue.by_hostname(&server.hostname).unwrap();
            assert_eq!((&*found.country, &*found.city), (server.country.as_str(), server.city.as_str()));
        }
    }
}
