//! A container's environment, read and checked as Gluetun does it: types first (`reading … settings:
//! environment variable NAME: …`), then meaning (`VPN settings: …`). Texts as in Gluetun's
//! `internal/configuration/settings` and as measured; no error carries a secret.

use std::net::IpAddr;

use base64::engine::general_purpose::STANDARD;
use base64::{DecodeError, Engine};
use rand::seq::IndexedRandom;
use serde::Deserialize;

use super::entrypoint::PROVIDERS;
use super::servers::{Server, ServerList};
use crate::simulator::container::ContainerSpec;

/// Why the VPN client ends with code 1 before it does anything: the text after ` ERROR `.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SettingsError {
    /// A variable does not parse. Gluetun ends within 0.1 s or so.
    #[error("reading {section} settings: environment variable {name}: {why}")]
    Reading {
        /// The settings that the variable belongs to.
        section: &'static str,
        /// The variable.
        name: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A value has no meaning. Found after the server list is read, 0.6 s after the start.
    #[error("{section} settings: {why}")]
    Invalid {
        /// The settings that the value belongs to.
        section: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

/// `HOST:PORT` to listen on; no host is every address of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listen {
    pub(super) host: Option<IpAddr>,
    pub(super) port: u16,
}

impl Listen {
    /// Whether other pods reach it: it does not listen on loopback alone, and the firewall lets the
    /// port in (pod networks of /32 match no local network, so nothing else does).
    pub(super) fn is_public(&self, pod_ip: IpAddr, input_ports: &[u16]) -> bool {
        let everywhere = self.host.is_none_or(|host| host.is_unspecified() || host == pod_ip);
        everywhere && input_ports.contains(&self.port)
    }

    /// Go's `net.SplitHostPort` and what Gluetun checks of it.
    fn parse(text: &str) -> Result<Self, String> {
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(format!("address {text}: missing port in address"));
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = match host {
            "" => None,
            host => Some(host.parse().map_err(|_| format!("address {text}: host is not an IP address"))?),
        };
        let port = port.parse().map_err(|_| format!("address {text}: invalid port"))?;
        Ok(Self { host, port })
    }
}

/// The HTTP proxy's settings. Not `Debug`: it holds the password.
pub(super) struct ProxySettings {
    pub(super) listen: Listen,
    /// Empty for a proxy that asks for no credentials.
    pub(super) user: String,
    pub(super) password: String,
    pub(super) stealth: bool,
}

/// Who may use the control server: `HTTP_CONTROL_SERVER_AUTH_DEFAULT_ROLE`. Not `Debug`: it holds
/// the key.
#[derive(Deserialize)]
#[serde(tag = "auth", rename_all = "lowercase")]
pub(super) enum Role {
    /// Anybody, as in the release's built-in public role.
    None,
    /// Whoever sends the key in `X-API-Key`.
    ApiKey { apikey: String },
    /// Whoever sends it as HTTP basic authentication.
    Basic { username: String, password: String },
}

/// Everything that a running look-alike goes by.
pub(super) struct Settings {
    /// `None` with `HTTPPROXY=off`.
    pub(super) proxy: Option<ProxySettings>,
    pub(super) health: Listen,
    /// `HEALTH_TARGET_ADDRESSES`, only for the text of a failed check.
    pub(super) health_targets: Vec<String>,
    pub(super) control: Listen,
    pub(super) role: Role,
    pub(super) input_ports: Vec<u16>,
    /// `DNS_UPSTREAM_RESOLVER_TYPE=plain`: decides how a lookup fails once the tunnel is dead.
    pub(super) plain_dns: bool,
    /// The exit. `None` where no server matches all filters: Gluetun then tries for ever.
    pub(super) server: Option<Server>,
}

impl Settings {
    /// Reads the environment of a container.
    ///
    /// # Errors
    /// The first thing that Gluetun would complain about.
    pub(super) fn read(spec: &ContainerSpec, list: &ServerList) -> Result<Self, SettingsError> {
        let env = Env(spec);
        // Types, in the order in which Gluetun reads its settings.
        let role = env.role()?;
        let input_ports = env.ports("firewall", "FIREWALL_INPUT_PORTS")?;
        env.switch("health", "HEALTH_RESTART_VPN", true)?;
        let proxy_on = env.switch("HTTP proxy", "HTTPPROXY", false)?;
        let stealth = env.switch("HTTP proxy", "HTTPPROXY_STEALTH", false)?;
        env.switch("HTTP proxy", "HTTPPROXY_LOG", false)?;
        env.addresses()?;
        // Meaning.
        let invalid = |section, why: String| SettingsError::Invalid { section, why };
        let control = Listen::parse(env.text("HTTP_CONTROL_SERVER_ADDRESS").unwrap_or(":8000"))
            .map_err(|why| invalid("control server", format!("listening address is not valid: {why}")))?;
        let dns = env.text("DNS_UPSTREAM_RESOLVER_TYPE").unwrap_or("dot");
        if !["dot", "doh", "plain"].contains(&dns) {
            let why =
                format!("DNS upstream resolver type is not valid: {dns} must be one of dot, doh or plain");
            return Err(invalid("DNS", why));
        }
        let health = Listen::parse(env.text("HEALTH_SERVER_ADDRESS").unwrap_or("127.0.0.1:9999"))
            .map_err(|why| invalid("health", format!("server listening address is not valid: {why}")))?;
        let targets = env.text("HEALTH_TARGET_ADDRESSES").unwrap_or("cloudflare.com:443,github.com:443");
        let listen = Listen::parse(env.text("HTTPPROXY_LISTENING_ADDRESS").unwrap_or(":8888"))
            .map_err(|why| invalid("http proxy", format!("server listening address is not valid: {why}")))?;
        let server = env.vpn(list).map_err(|why| invalid("VPN", why))?;
        Ok(Self {
            proxy: proxy_on.then(|| ProxySettings {
                listen,
                user: env.text("HTTPPROXY_USER").unwrap_or_default().to_owned(),
                password: env.text("HTTPPROXY_PASSWORD").unwrap_or_default().to_owned(),
                stealth,
            }),
            health,
            health_targets: split(targets).map(str::to_owned).collect(),
            control,
            role,
            input_ports,
            plain_dns: dns == "plain",
            server,
        })
    }
}

fn split(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// The environment; an empty variable is as good as none, as in Gluetun.
struct Env<'a>(&'a ContainerSpec);

impl Env<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.0.var(name).map(str::trim).filter(|value| !value.is_empty())
    }

    fn switch(
        &self,
        section: &'static str,
        name: &'static str,
        default: bool,
    ) -> Result<bool, SettingsError> {
        let Some(value) = self.text(name) else { return Ok(default) };
        match value.to_ascii_lowercase().as_str() {
            "on" | "true" | "yes" | "y" | "1" | "enable" | "enabled" => Ok(true),
            "off" | "false" | "no" | "n" | "0" | "disable" | "disabled" => Ok(false),
            _ => {
                let why = "value is not one of on, off, true, false, yes, no, enabled, disabled".to_owned();
                Err(SettingsError::Reading { section, name, why })
            }
        }
    }

    fn ports(&self, section: &'static str, name: &'static str) -> Result<Vec<u16>, SettingsError> {
        let port = |item: &str| match item.parse::<u16>() {
            Ok(0) => Err(SettingsError::Reading { section, name, why: "port cannot be 0".to_owned() }),
            Ok(port) => Ok(port),
            Err(_) => {
                let why = format!("strconv.ParseUint: parsing {item:?}: not a port number");
                Err(SettingsError::Reading { section, name, why })
            }
        };
        split(self.text(name).unwrap_or_default()).map(port).collect()
    }

    fn role(&self) -> Result<Role, SettingsError> {
        let name = "HTTP_CONTROL_SERVER_AUTH_DEFAULT_ROLE";
        match self.text(name) {
            None | Some("{}") => Ok(Role::None),
            Some(json) => serde_json::from_str(json).map_err(|error| SettingsError::Reading {
                section: "control server",
                name,
                // Only where: the parser's own text may quote the key.
                why: format!("not a role in JSON (line {} column {})", error.line(), error.column()),
            }),
        }
    }

    fn addresses(&self) -> Result<(), SettingsError> {
        for item in split(self.text("WIREGUARD_ADDRESSES").unwrap_or_default()) {
            let (address, bits) = match item.split_once('/') {
                Some((address, bits)) => (address.parse::<IpAddr>().ok(), bits.parse::<u8>().ok()),
                None => (item.parse().ok(), Some(0)),
            };
            let fits = matches!(
                (address, bits),
                (Some(IpAddr::V4(_)), Some(0..=32)) | (Some(IpAddr::V6(_)), Some(0..=128))
            );
            if !fits {
                return Err(SettingsError::Reading {
                    section: "Wireguard",
                    name: "WIREGUARD_ADDRESSES",
                    why: format!("netip.ParsePrefix({item:?}): unable to parse IP or prefix length"),
                });
            }
        }
        Ok(())
    }

    /// Provider, type, keys and server. The error is what follows `VPN settings: `.
    fn vpn(&self, list: &ServerList) -> Result<Option<Server>, String> {
        let provider =
            self.text("VPN_SERVICE_PROVIDER").unwrap_or("private internet access").to_ascii_lowercase();
        let kind = self.text("VPN_TYPE").unwrap_or("openvpn").to_ascii_lowercase();
        if !["openvpn", "wireguard"].contains(&kind.as_str()) {
            return Err(format!(
                "VPN type is not valid: value is not one of the possible choices: {kind} must be one of openvpn or wireguard"
            ));
        }
        let wireguard = kind == "wireguard";
        let native = [
            "airvpn",
            "custom",
            "fastestvpn",
            "ivpn",
            "mullvad",
            "nordvpn",
            "protonvpn",
            "surfshark",
            "windscribe",
        ];
        let known = provider == "custom" || PROVIDERS.contains(&provider.as_str());
        // Mullvad over OpenVPN ended in January 2026.
        if !known
            || (wireguard && !native.contains(&provider.as_str()))
            || (!wireguard && provider == "mullvad")
        {
            return Err(format!(
                "provider settings: VPN provider name is not valid for {}: value is not one of the possible choices: {provider} must be one of {}",
                if wireguard { "Wireguard" } else { "OpenVPN" },
                if wireguard { native.join(", ") } else { PROVIDERS.join(", ") },
            ));
        }
        let server = self.server(&provider, list).map_err(|why| {
            format!("provider settings: server selection: for VPN service provider {provider}: {why}")
        })?;
        if wireguard {
            self.wireguard().map_err(|why| format!("Wireguard settings: {why}"))?;
        } else if self.text("OPENVPN_USER").is_none() && provider != "custom" {
            return Err("OpenVPN settings: user is empty".to_owned());
        }
        Ok(server)
    }

    fn wireguard(&self) -> Result<(), String> {
        let key = self.text("WIREGUARD_PRIVATE_KEY").ok_or("private key is not set")?;
        wireguard_key(key).map_err(|why| format!("private key is not valid: {why}"))?;
        if let Some(key) = self.text("WIREGUARD_PRESHARED_KEY") {
            wireguard_key(key).map_err(|why| format!("pre-shared key is not valid: {why}"))?;
        }
        if self.text("WIREGUARD_ADDRESSES").is_none() {
            return Err("interface address is not set".to_owned());
        }
        Ok(())
    }

    /// The server of the filters, at random where they leave a choice.
    fn server(&self, provider: &str, list: &ServerList) -> Result<Option<Server>, String> {
        if provider == "custom" {
            return match self.text("WIREGUARD_ENDPOINT_IP").or_else(|| self.text("OPENVPN_CUSTOM_CONFIG")) {
                Some(endpoint) => Ok(Some(Server {
                    hostname: "custom".to_owned(),
                    ips: vec![endpoint.to_owned()],
                    ..Server::default()
                })),
                None => Err("endpoint IP is not set".to_owned()),
            };
        }
        let countries = self.filter("SERVER_COUNTRIES", "country", list, |server| &server.country)?;
        let cities = self.filter("SERVER_CITIES", "city", list, |server| &server.city)?;
        let hostnames = self.filter("SERVER_HOSTNAMES", "hostname", list, |server| &server.hostname)?;
        let passes = |filter: &[&str], value: &str| {
            filter.is_empty() || filter.iter().any(|wanted| wanted.to_lowercase() == value.to_lowercase())
        };
        let matching: Vec<&Server> = list
            .servers()
            .iter()
            .filter(|server| {
                passes(&countries, &server.country)
                    && passes(&cities, &server.city)
                    && passes(&hostnames, &server.hostname)
            })
            .collect();
        Ok(matching.choose(&mut rand::rng()).map(|server| (*server).clone()))
    }

    /// A comma-separated filter, of which each value must be in the list. The error names every
    /// possible value, as Gluetun's does (`internal/configuration/settings/validation`).
    fn filter(
        &self,
        variable: &str,
        what: &str,
        list: &ServerList,
        field: fn(&Server) -> &str,
    ) -> Result<Vec<&str>, String> {
        let values: Vec<&str> = split(self.text(variable).unwrap_or_default()).collect();
        let is_known = |value: &str| {
            list.servers().iter().any(|server| field(server).to_lowercase() == value.to_lowercase())
        };
        if values.iter().all(|value| is_known(value)) {
            return Ok(values);
        }
        let mut choices: Vec<&str> = list.servers().iter().map(field).collect();
        choices.sort_unstable();
        choices.dedup();
        let choices = match choices.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
            Some((only, _)) => (*only).to_owned(),
            None => String::new(),
        };
        Err(format!(
            "the {what} specified is not valid: value is not one of the possible choices: none of {} is one of {choices}",
            values.join(", ")
        ))
    }
}

/// A WireGuard key; the error is `wgtypes`' text, which never holds the key.
fn wireguard_key(text: &str) -> Result<(), String> {
    match STANDARD.decode(text) {
        Ok(key) if key.len() == 32 => Ok(()),
        Ok(key) => Err(format!("wgtypes: incorrect key size: {}", key.len())),
        Err(error) => {
            let offset = match error {
                DecodeError::InvalidByte(offset, _) => offset,
                DecodeError::InvalidLastSymbol { offset, .. } => offset,
                DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => text.len(),
            };
            Err(format!(
                "wgtypes: failed to parse base64-encoded key: illegal base64 data at input byte {offset}"
            ))
        }
    }
}

#[cfg(test)]
mod tests;
