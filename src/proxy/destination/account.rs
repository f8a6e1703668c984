//! What one account may reach, beyond the rules that hold for everyone. Made by the accounts file, asked
//! by [`Destinations::check_for`](super::Destinations::check_for).

use std::net::IpAddr;

use super::cidr::embedded_ipv4;
use super::rules::Rules;

/// Destinations of one account. The default adds nothing to the rules for everyone.
#[derive(Clone, Debug, Default)]
pub struct AccountDestinations {
    /// Only these; none for all.
    pub allow: Option<Rules>,
    /// Not these.
    pub deny: Rules,
    /// Not refused although they are private, of the cluster, or otherwise not public: what
    /// `ALLOW_DESTINATIONS` does for everyone.
    pub open: Rules,
    /// Not refused although `DENY_DESTINATIONS` lists them.
    pub open_denied: Rules,
    /// Which ports.
    pub ports: Ports,
}

/// Ports of one account: ranges, ends included. The default restricts nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// Only these; none for all.
    pub allow: Option<Vec<(u16, u16)>>,
    /// Not these.
    pub deny: Vec<(u16, u16)>,
}

/// A destination as the rules see it.
#[derive(Clone, Copy)]
pub(super) enum Host<'a> {
    /// An address.
    Ip(IpAddr),
    /// A name in small letters, without a trailing dot.
    Name(&'a str),
}

impl Ports {
    /// Reads a port (`443`) or a range (`8000-8100`).
    #[must_use]
    pub fn parse_range(text: &str) -> Option<(u16, u16)> {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten().filter(|port| *port > 0)
        };
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let (from, to) = (number(from)?, number(to)?);
        (from <= to).then_some((from, to))
    }

    fn has(ranges: &[(u16, u16)], port: u16) -> bool {
        ranges.iter().any(|(from, to)| (*from..=*to).contains(&port))
    }
}

impl AccountDestinations {
    /// Which of the account's rules refuses the destination, in words for the client.
    pub(super) fn refusal(&self, host: Host<'_>, port: u16) -> Option<String> {
        if Ports::has(&self.ports.deny, port) {
            return Some(format!("port {port} is denied to this account"));
        }
        if self.ports.allow.as_ref().is_some_and(|allow| !Ports::has(allow, port)) {
            return Some(format!("port {port} is not among the ports of this account"));
        }
        if host.is_on(&self.deny) {
            return Some("it is denied to this account".to_owned());
        }
        if self.allow.as_ref().is_some_and(|allow| !host.is_on(allow)) {
            return Some("it is not among the destinations of this account".to_owned());
        }
        None
    }
}

impl Host<'_> {
    /// Whether the list has it; an IPv6 address also by the IPv4 address inside it.
    pub(super) fn is_on(self, rules: &Rules) -> bool {
        match self {
            Self::Ip(ip) => rules.has_ip(ip) || embedded_ipv4(ip).is_some_and(|ip| rules.has_ip(ip)),
            Self::Name(name) => rules.has_name(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::destination::{Destinations, Refusal};
    use crate::proxy::target::Target;

    fn rules(entries: &[&str]) -> Rules {
        let mut rules = Rules::default();
        entries.iter().for_each(|entry| rules.add(entry).unwrap());
        rules
    }

    #[test]
    fn ports_and_ranges() {
        for (text, expected) in [
            ("443", Some((443, 443))),
            ("8000-8100", Some((8000, 8100))),
            ("1-65535", Some((1, 65535))),
            ("0", None),
            ("9-8", None),
            ("65536", None),
            ("+1", None),
            ("80-", None),
            ("", None),
            ("http", None),
        ] {
            assert_eq!(Ports::parse_range(text), expected, "{text}");
        }
    }

    #[test]
    fn an_accounts_rules_come_on_top_of_everyones() {
        let all = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let everyone = Destinations::parse(&[], &all(&["*.evil.example", "203.0.113.0/24", "10.9.0.0/16"]))
            .unwrap()
            .with_own("http://gluetun-gateway:8080", &[]);
        let narrow = AccountDestinations {
            allow: Some(rules(&["*.example.com", "93.184.216.0/24", "10.0.0.0/8"])),
            deny: rules(&["ads.example.com"]),
            ports: Ports { allow: Some(vec![(80, 80), (443, 450)]), deny: vec![(445, 445)] },
            ..AccountDestinations::default()
        };
        let wide = AccountDestinations {
            open: rules(&["10.0.0.0/8", "db.vpn.svc"]),
            open_denied: rules(&["good.evil.example"]),
            ..AccountDestinations::default()
        };
        let check = |account: &AccountDestinations, text: &str| {
            let target = Target::authority(text).unwrap();
            match everyone.check_for(&target, None, Some(account)) {
                Ok(()) => "ok".to_owned(),
                Err(refusal) => refusal.error(&target).message.into_owned(),
            }
        };
        for (target, expected) in [
            ("www.example.com:443", "ok"),
            ("WWW.Example.COM.:450", "ok"),
            ("93.184.216.34:80", "ok"),
            ("www.example.com:445", "port 445 is denied to this account"),
            ("www.example.com:8080", "port 8080 is not among"),
            ("ads.example.com:443", "it is denied to this account"),
            ("example.org:443", "not among the destinations"),
            ("1.1.1.1:443", "not among the destinations"),
            // What is refused to everyone is not opened by being allowed.
            ("10.1.2.3:443", "it belongs to"),
        ] {
            assert!(check(&narrow, target).contains(expected), "{target}: {}", check(&narrow, target));
        }
        for (target, expected) in [
            ("10.1.2.3:443", "ok"),
            ("db.vpn.svc:5432", "ok"),
            ("192.168.1.1:80", "it belongs to"),
            ("good.evil.example:443", "ok"),
            ("bad.evil.example:443", "the operator has denied"),
            ("203.0.113.9:443", "the operator has denied"),
            // `open` is for what is not public; what the operator denies to everyone needs its own word.
            ("10.9.1.1:443", "the operator has denied"),
            // And never the gateway itself.
            ("gluetun-gateway:8080", "this gateway itself"),
        ] {
            assert!(check(&wide, target).contains(expected), "{target}: {}", check(&wide, target));
        }
        let refusal = everyone.check_for(&Target::authority("1.1.1.1:25").unwrap(), None, Some(&narrow));
        assert!(matches!(refusal, Err(Refusal::Account { address: true, .. })));
    }
}
