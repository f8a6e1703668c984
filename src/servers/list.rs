//! Gluetun's server list, read: three shapes, WireGuard servers only.

use serde_json::{Map, Value};
use std::sync::Arc;

use super::names::{CityId, CountryId, Hostname, printable};

/// The provider whose servers are taken from a file that holds several: the one that the system this
/// gateway replaces used, and the one its pods are made for.
const PROVIDER: &str = "mullvad";

/// A VPN server that an exit can be pinned to.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Its name, unique in the catalogue.
    pub hostname: Hostname,
    /// The country as the provider spells it: "Czech Republic".
    pub country: Arc<str>,
    /// The country's id: `cz`.
    pub country_id: CountryId,
    /// The city as the provider spells it: "New York NY". Empty where the list has none.
    pub city: Arc<str>,
    /// The city's id within the country, `new_york`; none where the list has no city.
    pub city_id: Option<CityId>,
    /// Key of the management API: `country-city-hostname` in lower case, spaces as `-`.
    pub key: String,
    /// The record as the list had it, its fields in order.
    pub record: Map<String, Value>,
}

/// Why a text is not a server list. A list that parses to nothing is refused as well: it would end
/// every session's chance of an exit, so the caller keeps what it has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// Not JSON at all.
    #[error("the server list is not JSON: {0}")]
    Json(String),
    /// JSON of another shape than the three that are understood.
    #[error(
        "the server list is {0}; it must be Gluetun's servers.json, one provider's object with \"servers\", \
         or the array that `format-servers -format json` prints"
    )]
    Shape(&'static str),
    /// A file of several providers, none of which is the expected one.
    #[error(
        "the server list holds several providers ({0}) but not {PROVIDER}; give the object of one of them alone"
    )]
    Providers(String),
    /// Records, but none of a WireGuard server.
    #[error(
        "none of the server list's {0} records is a WireGuard server (\"vpn\": \"wireguard\", or a \"wgpubkey\")"
    )]
    NoWireguard(usize),
    /// No records.
    #[error("the server list is empty")]
    Empty,
    /// WireGuard records, but none that can be used.
    #[error(
        "none of the server list's {0} WireGuard records has a usable \"hostname\" and \"country\"; the first \
         lacks them: {1}"
    )]
    Unusable(usize, String),
}

/// A usable record, its names read.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) hostname: Hostname,
    pub(super) country: String,
    pub(super) city: String,
    pub(super) fields: Map<String, Value>,
}

/// The usable records of a list, and how many WireGuard records were not.
#[derive(Debug)]
pub(super) struct Records {
    pub(super) records: Vec<Record>,
    pub(super) skipped: usize,
}

/// Reads a list in any of its shapes.
pub(super) fn read(text: &str) -> Result<Records, CatalogueError> {
    let value = serde_json::from_str(text).map_err(|error| CatalogueError::Json(error.to_string()))?;
    let all = servers_of(value)?;
    let total = all.len();
    let wireguard: Vec<_> = all.into_iter().filter_map(wireguard).collect();
    if total == 0 {
        return Err(CatalogueError::Empty);
    }
    if wireguard.is_empty() {
        return Err(CatalogueError::NoWireguard(total));
    }
    let mut records = Vec::with_capacity(wireguard.len());
    let mut skipped = Vec::new();
    for fields in wireguard {
        match record(fields) {
            Ok(record) => records.push(record),
            Err(fields) => skipped.push(fields),
        }
    }
    if let (true, Some(first)) = (records.is_empty(), skipped.first()) {
        let names: Vec<_> = first.keys().map(|key| printable(key, 20)).take(8).collect();
        return Err(CatalogueError::Unusable(skipped.len(), format!("it has {}", names.join(", "))));
    }
    Ok(Records { records, skipped: skipped.len() })
}

fn servers_of(value: Value) -> Result<Vec<Value>, CatalogueError> {
    let mut object = match value {
        Value::Array(list) => return Ok(list),
        Value::Object(object) => object,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            return Err(CatalogueError::Shape("neither an object nor an array"));
        }
    };
    if let Some(servers) = object.remove("servers") {
        return match servers {
            Value::Array(list) => Ok(list),
            Value::Null => Ok(Vec::new()),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
                Err(CatalogueError::Shape("an object whose \"servers\" is not an array"))
            }
        };
    }
    let mut providers: Vec<(String, Vec<Value>)> = object
        .into_iter()
        .filter_map(|(name, value)| match value {
            Value::Object(mut provider) => match provider.remove("servers") {
                Some(Value::Array(list)) => Some((name, list)),
                _ => None,
            },
            _ => None,
        })
        .collect();
    if let Some(at) = providers.iter().position(|(name, _)| name == PROVIDER) {
        return Ok(providers.swap_remove(at).1);
    }
    match providers.len() {
        0 => Err(CatalogueError::Shape("an object without \"servers\" and without a provider that has them")),
        1 => Ok(providers.swap_remove(0).1),
        _ => {
            let names: Vec<_> = providers.iter().map(|(name, _)| printable(name, 20)).take(12).collect();
            Err(CatalogueError::Providers(names.join(", ")))
        }
    }
}

/// The record's fields, if it is of a WireGuard server. Lists of single-protocol providers leave `vpn`
/// out; a public key then tells.
fn wireguard(value: Value) -> Option<Map<String, Value>> {
    let Value::Object(fields) = value else { return None };
    let is_wireguard = match fields.get("vpn") {
        Some(Value::String(vpn)) if !vpn.is_empty() => vpn.eq_ignore_ascii_case("wireguard"),
        _ => fields.get("wgpubkey").and_then(Value::as_str).is_some_and(|key| !key.is_empty()),
    };
    is_wireguard.then_some(fields)
}

fn record(fields: Map<String, Value>) -> Result<Record, Map<String, Value>> {
    let text =
        |name: &str| fields.get(name).and_then(Value::as_str).map(str::trim).unwrap_or_default().to_owned();
    let hostname = Hostname::parse(&text("hostname").to_ascii_lowercase());
    let country = text("country");
    let city = text("city");
    match hostname {
        Some(hostname) if !country.is_empty() => Ok(Record { hostname, country, city, fields }),
        _ => Err(fields),
    }
}

/// The management API's key of a server. Places such as Malmö keep their letters, as they always did.
pub(super) fn key(country: &str, city: &str, hostname: &Hostname) -> String {
    let parts = [country, city, hostname.as_str()];
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("-").to_lowercase().replace(' ', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str =
        r#"{"vpn":"wireguard","country":"Sweden","city":"Malmö","hostname":"se-mma-wg-001","wgpubkey":"k"}"#;

    fn hostnames(text: &str) -> Result<Vec<String>, CatalogueError> {
        read(text).map(|list| list.records.iter().map(|record| record.hostname.to_string()).collect())
    }

    #[test]
    fn the_three_shapes() {
        for text in [
            format!("[{RECORD}]"),
            format!(r#"{{"version":2,"timestamp":1,"servers":[{RECORD}]}}"#),
            format!(r#"{{"version":1,"mullvad":{{"version":2,"servers":[{RECORD}]}}}}"#),
            format!(r#"{{"version":1,"ivpn":{{"servers":[{RECORD}]}}}}"#),
            format!(
                r#"{{"version":1,"ivpn":{{"servers":[{{}}]}},"mullvad":{{"servers":[{RECORD}]}},"nordvpn":{{"servers":[]}}}}"#
            ),
        ] {
            assert_eq!(hostnames(&text).unwrap(), ["se-mma-wg-001"], "{text}");
        }
    }

    #[test]
    fn only_wireguard() {
        let text = r#"[
            {"vpn":"openvpn","country":"A","hostname":"a-1"},
            {"vpn":"openvpn","country":"A","hostname":"a-2","wgpubkey":"k"},
            {"vpn":"WireGuard","country":"A","hostname":"a-3"},
            {"country":"A","hostname":"a-4","wgpubkey":"k"},
            {"country":"A","hostname":"a-5"},
            {"vpn":"","country":"A","hostname":"A-6","wgpubkey":"k"},
            7
        ]"#;
        assert_eq!(hostnames(text).unwrap(), ["a-3", "a-4", "a-6"]);
    }

    #[test]
    fn records_that_lack_a_name_are_counted() {
        let list = read(
            r#"[{"vpn":"wireguard","country":"A"},{"vpn":"wireguard","hostname":"b"},
                {"vpn":"wireguard","country":"A","hostname":"b c"},{"vpn":"wireguard","country":"A","hostname":"c"}]"#,
        )
        .unwrap();
        assert_eq!((list.records.len(), list.skipped), (1, 3));
    }

    #[test]
    fn a_list_of_nothing_is_refused_with_the_reason() {
        for (text, part) in [
            ("", "not JSON"),
            ("[", "not JSON"),
            ("[]", "empty"),
            ("{\"servers\":null}", "empty"),
            ("7", "neither an object nor an array"),
            ("{}", "without \"servers\""),
            ("{\"servers\":{}}", "not an array"),
            (r#"[{"vpn":"openvpn"}]"#, "none of the server list's 1 records is a WireGuard"),
            (r#"[{"vpn":"wireguard","region":"x"}]"#, "it has vpn, region"),
            (r#"{"ivpn":{"servers":[]},"nordvpn":{"servers":[]}}"#, "several providers (ivpn, nordvpn)"),
        ] {
            let error = hostnames(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn keys_are_those_of_the_original() {
        let host = |name| Hostname::parse(name).unwrap();
        assert_eq!(key("USA", "New York NY", &host("us-nyc-wg-301")), "usa-new-york-ny-us-nyc-wg-301");
        assert_eq!(key("Sweden", "Malmö", &host("se-mma-wg-001")), "sweden-malmö-se-mma-wg-001");
        assert_eq!(key("Sweden", "", &host("se-1")), "sweden-se-1");
    }
}
