//! Blocks of addresses, and those that are not on the public internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A block of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cidr {
    first: IpAddr,
    bits: u8,
}

impl Cidr {
    /// Reads `address/bits`, or an address alone.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().map_err(|_| "the part before '/' is no address")?;
        let most = if first.is_ipv4() { 32 } else { 128 };
        let bits =
            match bits {
                None => most,
                Some(bits) => bits.parse().ok().filter(|n| *n <= most && !bits.starts_with('+')).ok_or(
                    "the part after '/' must be a number of bits, at most 32 for IPv4 and 128 for IPv6",
                )?,
            };
        let block = Self { first, bits };
        if block.mask(first) == first {
            Ok(block)
        } else {
            Err("bits are set behind the prefix: write its first address")
        }
    }

    /// Whether the block has the address.
    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.first.is_ipv4() && self.mask(ip) == self.first
    }

    fn mask(&self, ip: IpAddr) -> IpAddr {
        match ip {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(ip) & mask))
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(ip) & mask))
            }
        }
    }
}

/// IPv4 blocks that are not public: IANA's special-purpose registry (RFC 6890 and its updates),
/// multicast and the reserved rest.
const SPECIAL_V4: &[(u8, u8, u8, u8, u8, &str)] = &[
    (0, 0, 0, 0, 8, "unspecified addresses (0.0.0.0/8)"),
    (10, 0, 0, 0, 8, "private addresses (10.0.0.0/8)"),
    (100, 64, 0, 0, 10, "carrier-grade NAT addresses (100.64.0.0/10)"),
    (127, 0, 0, 0, 8, "loopback addresses (127.0.0.0/8)"),
    // Public by its number, and Azure's WireServer on every machine there.
    (168, 63, 129, 16, 32, "a metadata address (168.63.129.16)"),
    (169, 254, 0, 0, 16, "link-local and metadata addresses (169.254.0.0/16)"),
    (172, 16, 0, 0, 12, "private addresses (172.16.0.0/12)"),
    (192, 0, 0, 0, 24, "reserved addresses (192.0.0.0/24)"),
    (192, 0, 2, 0, 24, "documentation addresses (192.0.2.0/24)"),
    (192, 88, 99, 0, 24, "reserved addresses (192.88.99.0/24)"),
    (192, 168, 0, 0, 16, "private addresses (192.168.0.0/16)"),
    (198, 18, 0, 0, 15, "benchmark addresses (198.18.0.0/15)"),
    (198, 51, 100, 0, 24, "documentation addresses (198.51.100.0/24)"),
    (203, 0, 113, 0, 24, "documentation addresses (203.0.113.0/24)"),
    (224, 0, 0, 0, 4, "multicast addresses (224.0.0.0/4)"),
    (240, 0, 0, 0, 4, "reserved and broadcast addresses (240.0.0.0/4)"),
];

/// IPv6 blocks that are not public; 2000::/3 is what IANA gives out, and these lie in it or beside it.
const SPECIAL_V6: &[(u128, u8, &str)] = &[
    (0x0064_ff9b_0001 << 80, 48, "local NAT64 addresses (64:ff9b:1::/48)"),
    (0x2001 << 112, 32, "Teredo addresses (2001::/32)"),
    (0x2001_0010 << 96, 28, "ORCHID addresses (2001:10::/28)"),
    (0x2001_0db8 << 96, 32, "documentation addresses (2001:db8::/32)"),
    (0x3fff << 112, 20, "documentation addresses (3fff::/20)"),
    (0xfc00 << 112, 7, "unique local and metadata addresses (fc00::/7)"),
    (0xfe80 << 112, 10, "link-local addresses (fe80::/10)"),
    (0xfec0 << 112, 10, "site-local addresses (fec0::/10)"),
    (0xff00 << 112, 8, "multicast addresses (ff00::/8)"),
];

/// What an address belongs to, if it is not a public one.
pub(super) fn special(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(_) => SPECIAL_V4.iter().find_map(|&(a, b, c, d, bits, what)| {
            let block = Cidr { first: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), bits };
            block.contains(ip).then_some(what)
        }),
        IpAddr::V6(v6) => {
            if v6.is_unspecified() || v6.is_loopback() {
                return Some("loopback and unspecified addresses (::1, ::)");
            }
            if let Some((_, _, what)) = SPECIAL_V6.iter().find(|(first, bits, _)| {
                Cidr { first: IpAddr::V6(Ipv6Addr::from(*first)), bits: *bits }.contains(ip)
            }) {
                return Some(what);
            }
            // NAT64 and 6to4 are judged by the IPv4 address that they carry.
            let global = v6.segments()[0] & 0xe000 == 0x2000 || embedded_ipv4(ip).is_some();
            if global { None } else { Some("reserved addresses (outside of 2000::/3)") }
        }
    }
}

/// The IPv4 address that an IPv6 one carries: IPv4-mapped and -compatible (RFC 4291, 2.5.5), NAT64
/// (RFC 6052, 64:ff9b::/96) and 6to4 (RFC 3056, 2002::/16).
pub(super) fn embedded_ipv4(ip: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(v6) = ip else { return None };
    let bits = u128::from(v6);
    let low = u32::try_from(bits & u128::from(u32::MAX)).ok()?;
    let prefix = bits >> 32;
    let inner = match prefix {
        0 if low > 1 => low,
        0xffff => low,
        _ if prefix == 0x0064_ff9b << 64 => low,
        _ if bits >> 112 == 0x2002 => u32::try_from((bits >> 80) & u128::from(u32::MAX)).ok()?,
        _ => return None,
    };
    Some(IpAddr::V4(Ipv4Addr::from(inner)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_and_matched_to_the_bit() {
        let block = Cidr::parse("10.32.0.0/11").unwrap();
        for (ip, inside) in
            [("10.32.0.0", true), ("10.63.255.255", true), ("10.64.0.0", false), ("10.31.255.255", false)]
        {
            assert_eq!(block.contains(ip.parse().unwrap()), inside, "{ip}");
        }
        assert!(Cidr::parse("0.0.0.0/0").unwrap().contains("255.1.2.3".parse().unwrap()));
        assert!(!Cidr::parse("0.0.0.0/0").unwrap().contains("::1".parse().unwrap()));
        assert!(Cidr::parse("::/0").unwrap().contains("ff02::1".parse().unwrap()));
        assert!(Cidr::parse("fd00::/8").unwrap().contains("fdff::1".parse().unwrap()));
        assert!(Cidr::parse("1.2.3.4").unwrap().contains("1.2.3.4".parse().unwrap()));
        for bad in [
            "10.0.0.1/8",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0/8",
            "/8",
            "x/8",
        ] {
            assert!(Cidr::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn carried_addresses_are_found() {
        for (outer, inner) in [
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
            ("::10.0.0.1", Some("10.0.0.1")),
            ("64:ff9b::a00:1", Some("10.0.0.1")),
            ("2002:a00:1::", Some("10.0.0.1")),
            ("2002:0a00:0001:5::7", Some("10.0.0.1")),
            ("::1", None),
            ("::", None),
            ("2001:4860:4860::8888", None),
            ("64:ff9b:1::a00:1", None),
        ] {
            let inner = inner.map(|ip| ip.parse::<IpAddr>().unwrap());
            assert_eq!(embedded_ipv4(outer.parse().unwrap()), inner, "{outer}");
        }
    }
}
