//! Which destinations are refused: what is not on the public internet, in every spelling, and the
//! gateway itself. Pure; names are never resolved here.
//!
//! A name that resolves to a private address at the exit is left to Gluetun's rebinding filter and to
//! the cluster's NetworkPolicy: this list decides on what the client wrote.

use std::net::{IpAddr, SocketAddr};

use super::error::{Code, ProxyError};
use super::target::{Target, TargetError};

mod account;
mod cidr;
mod rules;

use account::Host;
use cidr::special;
use rules::has_suffix;

pub use account::{AccountDestinations, Ports};
pub use rules::{DestinationError, Rules};

/// Names that are never on the public internet: `*.localhost` (RFC 6761, 6.3), cluster names, and the
/// metadata services of the clouds.
const DENIED_NAMES: &[(&str, &str)] = &[
    ("localhost", "the loopback interface"),
    ("localhost.localdomain", "the loopback interface"),
    ("localhost6", "the loopback interface"),
    ("localhost6.localdomain6", "the loopback interface"),
    ("ip6-localhost", "the loopback interface"),
    ("ip6-loopback", "the loopback interface"),
    ("cluster.local", "the cluster"),
    ("kubernetes", "the cluster"),
    ("kubernetes.default", "the cluster"),
    ("svc", "the cluster"),
    ("metadata", "a metadata service"),
    ("metadata.google.internal", "a metadata service"),
    ("metadata.goog", "a metadata service"),
    ("instance-data", "a metadata service"),
    ("instance-data.ec2.internal", "a metadata service"),
];

/// Suffixes of such names.
const DENIED_SUFFIXES: &[(&str, &str)] = &[
    (".localhost", "the loopback interface"),
    (".cluster.local", "the cluster"),
    (".svc", "the cluster"),
    (".metadata.google.internal", "a metadata service"),
];

/// Ends of private domains: a name with the label `svc` before one of them is of a cluster with a
/// domain of its own. Any `*.svc.*` would also refuse `*.svc.ms`, which Microsoft serves from.
const PRIVATE_ENDS: &[&str] =
    &[".local", ".localdomain", ".internal", ".intern", ".lan", ".home.arpa", ".corp"];

/// The decision on destinations, from the settings.
#[derive(Clone, Debug, Default)]
pub struct Destinations {
    allow: Rules,
    deny: Rules,
    own: Own,
    /// Whether exits reach IPv6 (`EXIT_IPV6`).
    ipv6: bool,
}

/// What leads back to the gateway.
#[derive(Clone, Debug, Default)]
struct Own {
    /// Ports that the gateway listens on or is known by.
    ports: Vec<u16>,
    /// Its names, in small letters.
    names: Vec<String>,
    /// Its addresses.
    ips: Vec<IpAddr>,
    /// It listens on every address, loopback ones included.
    everywhere: bool,
    /// Suffix of its cluster's names (`.svc.k8s.example`), from its own name.
    cluster: Option<String>,
}

/// Why a destination is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// An address or name on a list.
    Denied {
        /// What the destination belongs to.
        rule: String,
        /// The destination is an address.
        address: bool,
    },
    /// A rule of the account.
    Account {
        /// Which.
        rule: String,
        /// The destination is an address.
        address: bool,
    },
    /// The gateway itself.
    Loop,
    /// An IPv6 address, and exits have no IPv6.
    Ipv6,
}

impl Destinations {
    /// Reads `ALLOW_DESTINATIONS` and `DENY_DESTINATIONS`: CIDRs (`10.0.0.0/8`), addresses, exact names
    /// (`db.example.com`) and names below a domain (`*.example.com`). What is on both is denied.
    ///
    /// # Errors
    ///
    /// Every entry that is none of these, with the setting it stands in.
    pub fn parse(allow: &[String], deny: &[String]) -> Result<Self, Vec<DestinationError>> {
        let mut errors = Vec::new();
        let allow = Rules::parse("ALLOW_DESTINATIONS", allow, &mut errors);
        let deny = Rules::parse("DENY_DESTINATIONS", deny, &mut errors);
        if errors.is_empty() { Ok(Self { allow, deny, ..Self::default() }) } else { Err(errors) }
    }

    /// Whether exits reach IPv6.
    #[must_use]
    pub fn with_ipv6(mut self, on: bool) -> Self {
        self.ipv6 = on;
        self
    }

    /// Adds what leads back to the gateway: the address that it hands out, and those it listens on.
    #[must_use]
    pub fn with_own(mut self, gateway_url: &str, listening: &[SocketAddr]) -> Self {
        let mut port = |port: u16| {
            if !self.own.ports.contains(&port) {
                self.own.ports.push(port);
            }
        };
        for addr in listening {
            port(addr.port());
            self.own.everywhere |= addr.ip().is_unspecified();
            self.own.ips.push(addr.ip().to_canonical());
        }
        let url = gateway_url.parse::<http::Uri>().ok().filter(|url| url.host().is_some());
        if let Some(url) = url {
            let default = if url.scheme_str() == Some("https") { 443 } else { 80 };
            port(url.port_u16().unwrap_or(default));
            let host = url.host().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
            match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
                Ok(ip) => self.own.ips.push(ip.to_canonical()),
                Err(_) => self.own.add_name(&host),
            }
        }
        self
    }

    /// Whether only the socket's own address can tell if the target is the gateway: then pass it to
    /// [`Self::check`]. It costs a system call, so it is not asked for every request.
    pub fn wants_local(&self, target: &Target) -> bool {
        self.own.everywhere && target.ip().is_some() && self.own.ports.contains(&target.port())
    }

    /// Decides on a destination, for everyone. `local` is the address that the client reached the gateway
    /// at.
    ///
    /// # Errors
    ///
    /// The rule that refuses it.
    pub fn check(&self, target: &Target, local: Option<IpAddr>) -> Result<(), Refusal> {
        self.check_for(target, local, None)
    }

    /// As [`Self::check`], for one account.
    ///
    /// # Errors
    ///
    /// The rule that refuses it.
    pub fn check_for(
        &self,
        target: &Target,
        local: Option<IpAddr>,
        account: Option<&AccountDestinations>,
    ) -> Result<(), Refusal> {
        match target.ip() {
            Some(ip) => self.check_ip(ip, target.port(), local, account),
            None => {
                let name = target.host().trim_end_matches('.').to_ascii_lowercase();
                self.check_name(&name, target.port(), account)
            }
        }
    }

    fn check_ip(
        &self,
        ip: IpAddr,
        port: u16,
        local: Option<IpAddr>,
        account: Option<&AccountDestinations>,
    ) -> Result<(), Refusal> {
        if self.own.has_ip(ip, port, local) {
            return Err(Refusal::Loop);
        }
        let host = Host::Ip(ip);
        if let Some(rule) = account.and_then(|account| account.refusal(host, port)) {
            return Err(Refusal::Account { rule, address: true });
        }
        if !account.is_some_and(|account| host.is_on(&account.open_denied)) {
            let denied = |rule: String| Refusal::Denied { rule, address: true };
            // The IPv4 address inside an IPv6 one counts as well: a NAT64 or 6to4 gateway takes it there.
            if host.is_on(&self.deny) {
                return Err(denied("addresses that the operator has denied".to_owned()));
            }
            let allowed = host.is_on(&self.allow) || account.is_some_and(|account| host.is_on(&account.open));
            let inner = cidr::embedded_ipv4(ip);
            let special = special(ip).or_else(|| inner.and_then(special)).filter(|_| !allowed);
            if let Some(what) = special {
                return Err(denied(what.to_owned()));
            }
        }
        if ip.is_ipv6() && !self.ipv6 { Err(Refusal::Ipv6) } else { Ok(()) }
    }

    fn check_name(
        &self,
        name: &str,
        port: u16,
        account: Option<&AccountDestinations>,
    ) -> Result<(), Refusal> {
        if self.own.ports.contains(&port) && self.own.names.iter().any(|own| own == name) {
            return Err(Refusal::Loop);
        }
        let host = Host::Name(name);
        if let Some(rule) = account.and_then(|account| account.refusal(host, port)) {
            return Err(Refusal::Account { rule, address: false });
        }
        if account.is_some_and(|account| host.is_on(&account.open_denied)) {
            return Ok(());
        }
        let denied = |rule: &str| Refusal::Denied { rule: rule.to_owned(), address: false };
        if host.is_on(&self.deny) {
            return Err(denied("names that the operator has denied"));
        }
        if host.is_on(&self.allow) || account.is_some_and(|account| host.is_on(&account.open)) {
            return Ok(());
        }
        if let Some((_, rule)) = DENIED_NAMES.iter().find(|(denied, _)| *denied == name) {
            return Err(denied(rule));
        }
        if let Some((_, rule)) = DENIED_SUFFIXES.iter().find(|(suffix, _)| has_suffix(name, suffix)) {
            return Err(denied(rule));
        }
        let in_cluster = self.own.cluster.as_ref().is_some_and(|suffix| has_suffix(name, suffix))
            || (name.contains(".svc.") && PRIVATE_ENDS.iter().any(|end| has_suffix(name, end)));
        if in_cluster { Err(denied("the cluster")) } else { Ok(()) }
    }
}

impl Own {
    /// Adds a name, and the shorter ones that a Service has within its cluster.
    fn add_name(&mut self, host: &str) {
        let mut labels = host.splitn(4, '.');
        if let (Some(service), Some(namespace), Some("svc")) = (labels.next(), labels.next(), labels.next()) {
            self.names.extend([
                service.to_owned(),
                format!("{service}.{namespace}"),
                format!("{service}.{namespace}.svc"),
            ]);
            self.cluster = labels.next().map(|domain| format!(".svc.{domain}"));
        }
        self.names.push(host.to_owned());
    }

    fn has_ip(&self, ip: IpAddr, port: u16, local: Option<IpAddr>) -> bool {
        let ip = cidr::embedded_ipv4(ip).unwrap_or(ip);
        self.ports.contains(&port)
            && (self.ips.contains(&ip)
                || (self.everywhere
                    && (ip.is_loopback()
                        || ip.is_unspecified()
                        || local.is_some_and(|local| local.to_canonical() == ip))))
    }
}

impl Refusal {
    /// What the client is told.
    pub fn error(self, target: &Target) -> ProxyError {
        match self {
            Self::Denied { rule, address } => {
                denied(&format!("{target} is refused: it belongs to {rule}"), address)
            }
            Self::Account { rule, address } => denied(&format!("{target} is refused: {rule}"), address)
                .hint("the operator can allow it in the accounts file"),
            Self::Loop => ProxyError::new(Code::ProxyLoop, format!("{target} is this gateway itself")),
            Self::Ipv6 => ProxyError::new(
                Code::UpstreamError,
                format!("{target}: the exits do not reach IPv6 addresses"),
            )
            .hint("use the host's name or its IPv4 address"),
        }
    }
}

fn denied(message: &str, address: bool) -> ProxyError {
    let error = ProxyError::new(Code::DestinationDenied, message.to_owned());
    if address { ProxyError { proxy_status: "destination_ip_prohibited", ..error } } else { error }
}

impl From<TargetError> for ProxyError {
    fn from(error: TargetError) -> Self {
        match error {
            TargetError::Zone => {
                denied("the destination is refused: addresses with a zone are link-local", true)
            }
            TargetError::Port
            | TargetError::EmptyHost
            | TargetError::UserInfo
            | TargetError::Character(_)
            | TargetError::NotAscii
            | TargetError::Name
            | TargetError::Ipv4
            | TargetError::Ipv6
            | TargetError::Fragment
            | TargetError::Scheme
            | TargetError::Form => Self::new(Code::BadTarget, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
