//! The server list that the look-alike's image carries: what `format-servers` prints and what
//! `SERVER_HOSTNAMES` is checked against. Read by `settings` and `entrypoint`. The demo's gateway fetches
//! it by a Job, as any; with `--pod-command`, whose containers print no list, it is given the text.

use serde::{Deserialize, Serialize};

/// The demo's list, a bare JSON array exactly as Gluetun's `format-servers -mullvad -format json`
/// prints one: made-up keys, addresses from the documentation ranges (RFC 5737, RFC 3849).
pub const SERVERS_JSON: &str = include_str!("../servers.json");

/// One VPN server. The order of the fields is the order in which `format-servers` prints them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Server {
    /// `wireguard` or `openvpn`.
    pub vpn: String,
    /// The provider's name of the country, such as `USA`.
    pub country: String,
    /// The provider's name of the city, such as `New York NY`.
    pub city: String,
    /// Who the provider rents the server from.
    pub isp: String,
    /// Whether the provider owns the server; printed only when true.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub owned: bool,
    /// What pins a server: the value of `SERVER_HOSTNAMES`.
    pub hostname: String,
    /// The server's WireGuard public key, base64 of 32 bytes.
    pub wgpubkey: String,
    /// Its addresses.
    pub ips: Vec<String>,
}

/// The list of servers that an image was built with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerList {
    servers: Vec<Server>,
}

/// A server list that is not a JSON array of servers.
#[derive(Debug, thiserror::Error)]
#[error("server list of the look-alike: {0}; give a JSON array as `format-servers -format json` prints it")]
pub struct ServerListError(#[from] serde_json::Error);

impl ServerList {
    /// Reads a bare JSON array of servers. Unknown fields are ignored.
    ///
    /// # Errors
    /// When `text` is not JSON, or not an array of objects of this shape.
    pub fn parse(text: &str) -> Result<Self, ServerListError> {
        Ok(Self { servers: serde_json::from_str(text)? })
    }

    /// The list of [`SERVERS_JSON`].
    pub fn builtin() -> Self {
        // The text is a constant that a test reads; an empty list would show at once.
        Self::parse(SERVERS_JSON).unwrap_or_default()
    }

    /// All servers, in the list's order.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// The server of that hostname; Gluetun compares without regard to case.
    pub fn by_hostname(&self, hostname: &str) -> Option<&Server> {
        self.servers.iter().find(|server| server.hostname.eq_ignore_ascii_case(hostname))
    }

    /// The list as `format-servers -format json` prints it: indented by two spaces.
    ///
    /// # Errors
    /// Never with the types at hand; the serializer's signature has it.
    pub fn to_json(&self) -> Result<String, ServerListError> {
        Ok(serde_json::to_string_pretty(&self.servers)?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn the_demo_list_prints_back_to_the_bytes_of_the_file() {
        let printed = ServerList::builtin().to_json().unwrap();
        assert_eq!(format!("{printed}\n"), SERVERS_JSON);
    }

    #[test]
    fn the_demo_list_is_large_and_sound() {
        let list = ServerList::builtin();
        let servers = list.servers();
        assert!(servers.len() >= 70, "{}", servers.len());
        let countries: BTreeSet<_> = servers.iter().map(|s| &s.country).collect();
        assert!(countries.len() >= 14, "{countries:?}");
        let mut cities: BTreeMap<_, usize> = BTreeMap::new();
        let (mut names, mut keys, mut ips) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for server in servers {
            *cities.entry((&server.country, &server.city)).or_default() += 1;
            assert_eq!(server.vpn, "wireguard");
            assert_eq!(STANDARD.decode(&server.wgpubkey).unwrap().len(), 32, "{}", server.hostname);
            assert!(names.insert(&server.hostname), "{} twice", server.hostname);
            assert!(keys.insert(&server.wgpubkey), "key of {} twice", server.hostname);
            for ip in &server.ips {
                assert!(ips.insert(ip), "{ip} twice");
                let documentation = ["192.0.2.", "198.51.100.", "203.0.113.", "2001:db8:"];
                assert!(documentation.iter().any(|net| ip.starts_with(net)), "{ip}");
                assert!(ip.parse::<std::net::IpAddr>().is_ok(), "{ip}");
            }
        }
        for (city, count) in cities {
            assert!(count >= 2, "{city:?} has no second server to fall back on");
        }
        for (country, city) in [("USA", "New York NY"), ("Sweden", "Malmö"), ("Brazil", "Sao Paulo")] {
            assert!(servers.iter().any(|s| s.country == country && s.city == city), "{city}");
        }
    }

    #[test]
    fn hostnames_are_compared_without_case_and_bad_lists_are_refused() {
        let list = ServerList::builtin();
        assert_eq!(list.by_hostname("SE-MMA-WG-001").map(|s| s.city.as_str()), Some("Malmö"));
        assert!(list.by_hostname("se-mma-wg-999").is_none());
        for bad in ["", "{}", "[1]", r#"{"servers":[]}"#] {
            assert!(ServerList::parse(bad).is_err(), "{bad}");
        }
    }
}
