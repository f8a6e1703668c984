//! Where a request wants to go: `host:port`, read strictly and in every spelling of an address, so
//! that what is checked against the deny list is what is sent to the exit. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Longest host name (RFC 1035, 2.3.4), without a trailing dot.
const MAX_NAME: usize = 253;
/// Longest label of a name.
const MAX_LABEL: usize = 63;

/// A destination. Names are as the client gave them; addresses are in their one canonical spelling.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// `host:port` as a CONNECT to the exit has it: IPv6 in brackets.
    authority: Arc<str>,
    /// Length of the host within it: 255 at most.
    host: u16,
    /// The address, where the host is one.
    ip: Option<IpAddr>,
    /// The port.
    port: u16,
}

/// Why a text names no destination.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No port where one is due, or none that exists.
    #[error("the port must be a number from 1 to 65535")]
    Port,
    /// Nothing before the port.
    #[error("the host is empty")]
    EmptyHost,
    /// `user@host`.
    #[error("a target carries no user name")]
    UserInfo,
    /// A character that no host name has.
    #[error("a host name has only letters, digits, '-', '_' and '.', not {0}")]
    Character(char),
    /// A byte outside of ASCII.
    #[error("a host name is ASCII: send international names in their xn-- form")]
    NotAscii,
    /// An empty or overlong label, or an overlong name.
    #[error("the host name is malformed")]
    Name,
    /// It looks like an IPv4 address, but is none.
    #[error("the host ends in a number, but is no IPv4 address")]
    Ipv4,
    /// In brackets, but no IPv6 address.
    #[error("the address in brackets is no IPv6 address")]
    Ipv6,
    /// An IPv6 address with a zone: only link-local ones have one (RFC 4007, 11.2).
    #[error("an address with a zone is link-local")]
    Zone,
    /// `#` and what follows: RFC 9112, 3.2 knows no such target, and others would cut it off in silence.
    #[error("a request target has no fragment")]
    Fragment,
    /// Not an `http://` URL.
    #[error("only http:// URLs are taken here; use CONNECT for anything else")]
    Scheme,
    /// An `http://` URL that is cut short, or something after the port.
    #[error("the request target is malformed")]
    Form,
}

impl Target {
    /// Reads the target of a CONNECT (RFC 9110, 9.3.6): host and port, nothing else.
    ///
    /// # Errors
    ///
    /// [`TargetError`] says which part is wrong.
    pub fn authority(text: &str) -> Result<Self, TargetError> {
        let (host, port) = split(text)?;
        Self::new(host, parse_port(port.ok_or(TargetError::Port)?)?)
    }

    /// Reads the target of any other request through a proxy (RFC 9112, 3.2.2): an absolute `http://`
    /// URL, whose port may be left out. What comes behind the authority is not looked at, save that it is
    /// no fragment.
    ///
    /// # Errors
    ///
    /// [`TargetError`] says which part is wrong.
    pub fn absolute(text: &str) -> Result<Self, TargetError> {
        if text.contains('#') {
            return Err(TargetError::Fragment);
        }
        let (scheme, rest) = text.split_once("://").ok_or(TargetError::Scheme)?;
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(TargetError::Scheme);
        }
        Self::http_authority(rest.split(['/', '?']).next().unwrap_or_default())
    }

    /// The same of a URL that has been read.
    ///
    /// # Errors
    ///
    /// [`TargetError`] says which part is wrong.
    pub fn http(uri: &http::Uri) -> Result<Self, TargetError> {
        match uri.scheme_str() {
            Some("http") => {}
            _ => return Err(TargetError::Scheme),
        }
        Self::http_authority(uri.authority().ok_or(TargetError::Form)?.as_str())
    }

    /// The same of the part between `http://` and the path.
    ///
    /// # Errors
    ///
    /// [`TargetError`] says which part is wrong.
    pub fn http_authority(authority: &str) -> Result<Self, TargetError> {
        let (host, port) = split(authority)?;
        // RFC 3986, 3.2.3: an empty port is the default one.
        let port = match port {
            None | Some("") => 80,
            Some(port) => parse_port(port)?,
        };
        Self::new(host, port)
    }

    fn new(host: &str, port: u16) -> Result<Self, TargetError> {
        use std::fmt::Write as _;
        let ip = parse_host(host)?;
        let mut authority = String::with_capacity(host.len() + 6);
        match ip {
            Some(IpAddr::V4(ip)) => push_v4(&mut authority, ip),
            Some(IpAddr::V6(ip)) => {
                // Writing to a String cannot fail.
                let _ = write!(authority, "[{ip}]");
            }
            None => authority.push_str(host),
        }
        let host = u16::try_from(authority.len()).map_err(|_| TargetError::Name)?;
        authority.push(':');
        authority.push_str(itoa::Buffer::new().format(port));
        Ok(Self { authority: authority.into(), host, ip, port })
    }

    /// `host:port`.
    pub fn as_str(&self) -> &str {
        &self.authority
    }

    /// `host:port`, to be kept.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.authority)
    }

    /// The host: a name, or an address (IPv6 in brackets).
    pub fn host(&self) -> &str {
        self.authority.get(..usize::from(self.host)).unwrap_or_default()
    }

    /// The address, where the host is one. IPv4-mapped ones come as IPv4.
    pub fn ip(&self) -> Option<IpAddr> {
        self.ip
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Appends an address as its own `Display` writes it, which pads, and so takes three times as long.
pub(super) fn push_v4(out: &mut String, ip: Ipv4Addr) {
    let mut number = itoa::Buffer::new();
    for (at, octet) in ip.octets().into_iter().enumerate() {
        if at > 0 {
            out.push('.');
        }
        out.push_str(number.format(octet));
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority)
    }
}

/// Splits an authority into host (with its brackets) and port.
fn split(text: &str) -> Result<(&str, Option<&str>), TargetError> {
    if text.contains('@') {
        return Err(TargetError::UserInfo);
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or(TargetError::Ipv6)?;
        let host = text.get(..address.len() + 2).ok_or(TargetError::Ipv6)?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(TargetError::Form),
        };
    }
    match text.split_once(':') {
        // An IPv6 address without brackets cannot be told from host and port.
        Some((_, port)) if port.contains(':') => Err(TargetError::Ipv6),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

fn parse_port(text: &str) -> Result<u16, TargetError> {
    if text.is_empty() || text.len() > 5 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(TargetError::Port);
    }
    text.parse().ok().filter(|port| *port > 0).ok_or(TargetError::Port)
}

/// Reads a host: the address that it is in any spelling, `None` for a name.
fn parse_host(host: &str) -> Result<Option<IpAddr>, TargetError> {
    if let Some(rest) = host.strip_prefix('[') {
        let address = rest.strip_suffix(']').ok_or(TargetError::Ipv6)?;
        if address.contains('%') {
            return Err(TargetError::Zone);
        }
        let ip: Ipv6Addr = address.parse().map_err(|_| TargetError::Ipv6)?;
        return Ok(Some(ip.to_canonical()));
    }
    if !host.is_ascii() {
        return Err(TargetError::NotAscii);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if let Some(bad) = host.chars().find(|c| !allowed(*c)) {
        return Err(TargetError::Character(bad));
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    if name.is_empty() {
        return Err(TargetError::EmptyHost);
    }
    if name.len() > MAX_NAME || name.split('.').any(|label| label.is_empty() || label.len() > MAX_LABEL) {
        return Err(TargetError::Name);
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    if is_number(last) {
        return parse_ipv4(name).map(|ip| Some(IpAddr::V4(ip))).ok_or(TargetError::Ipv4);
    }
    Ok(None)
}

/// Whether a label is a number in a spelling that `inet_aton` takes. A name whose last label is one
/// is an address or an error, never a name (WHATWG URL, "ends in a number").
fn is_number(label: &str) -> bool {
    match label.strip_prefix("0x").or_else(|| label.strip_prefix("0X")) {
        Some(hex) => hex.bytes().all(|b| b.is_ascii_hexdigit()),
        None => label.bytes().all(|b| b.is_ascii_digit()),
    }
}

/// `inet_aton`: one to four numbers, each decimal, octal (`0…`) or hexadecimal (`0x…`); the last fills
/// what the others leave.
fn parse_ipv4(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<u64> = text.split('.').map(parse_number).collect::<Option<_>>()?;
    let (last, leading) = parts.split_last()?;
    if leading.len() > 3 {
        return None;
    }
    let mut address = 0_u64;
    for part in leading {
        if *part > 255 {
            return None;
        }
        address = address << 8 | part;
    }
    let bits = 8 * (4 - leading.len() as u32);
    if *last >> bits != 0 {
        return None;
    }
    u32::try_from(address << bits | last).ok().map(Ipv4Addr::from)
}

fn parse_number(text: &str) -> Option<u64> {
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return if hex.is_empty() { Some(0) } else { digits(hex, 16) };
    }
    if text.len() > 1 && text.starts_with('0') { digits(text, 8) } else { digits(text, 10) }
}

/// Unlike `from_str_radix`, takes no sign.
fn digits(text: &str, radix: u32) -> Option<u64> {
    let valid = text.bytes().all(|b| char::from(b).is_digit(radix));
    if valid { u64::from_str_radix(text, radix).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Result<String, TargetError> {
        Target::authority(text).map(|target| target.to_string())
    }

    fn url(text: &str) -> Result<String, TargetError> {
        Target::http(&text.parse().unwrap()).map(|target| target.to_string())
    }

    #[test]
    fn an_address_is_written_as_its_display_does() {
        for ip in [[0, 0, 0, 0], [127, 0, 0, 1], [10, 99, 100, 255], [255, 255, 255, 255]] {
            let (ip, mut written) = (Ipv4Addr::from(ip), String::new());
            push_v4(&mut written, ip);
            assert_eq!(written, ip.to_string());
        }
    }

    #[test]
    fn names_stay_as_they_are() {
        for text in
            ["example.com:443", "EXAMPLE.com.:80", "a_b-c.d:1", "xn--mlm-ula.example:65535", "1a.b2:9"]
        {
            assert_eq!(target(text), Ok(text.to_owned()));
        }
        let target = Target::authority("Example.com:443").unwrap();
        assert_eq!((target.host(), target.ip(), target.port()), ("Example.com", None, 443));
    }

    #[test]
    fn every_spelling_of_an_address_is_one() {
        for (text, canonical) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("127.0.0.1.:80", "127.0.0.1:80"),
            ("127.1:80", "127.0.0.1:80"),
            ("127.0.1:80", "127.0.0.1:80"),
            ("2130706433:80", "127.0.0.1:80"),
            ("0x7f000001:80", "127.0.0.1:80"),
            ("0X7F.1:80", "127.0.0.1:80"),
            ("0177.0.0.01:80", "127.0.0.1:80"),
            ("017700000001:80", "127.0.0.1:80"),
            ("0x7f.0.0.0x1:80", "127.0.0.1:80"),
            ("0:80", "0.0.0.0:80"),
            ("0x:80", "0.0.0.0:80"),
            ("169.254.43518:80", "169.254.169.254:80"),
            ("[::1]:80", "[::1]:80"),
            ("[0:0:0:0:0:0:0:1]:80", "[::1]:80"),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
            ("[::FFFF:7f00:1]:80", "127.0.0.1:80"),
            ("[2001:DB8::1]:443", "[2001:db8::1]:443"),
        ] {
            assert_eq!(target(text), Ok(canonical.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_host_and_port_is_refused() {
        use TargetError as E;
        for (text, error) in [
            ("example.com", E::Port),
            ("example.com:", E::Port),
            ("example.com:0", E::Port),
            ("example.com:65536", E::Port),
            ("example.com:99999", E::Port),
            ("example.com:+80", E::Port),
            ("example.com: 80", E::Port),
            ("example.com:000080", E::Port),
            ("example.com:80/", E::Port),
            ("example.com:80#x", E::Port),
            ("example.com:http", E::Port),
            ("", E::Port),
            (":80", E::EmptyHost),
            (".:80", E::EmptyHost),
            ("user@example.com:80", E::UserInfo),
            ("user:pw@example.com:80", E::UserInfo),
            ("a b:80", E::Character(' ')),
            ("a/b:80", E::Character('/')),
            ("a%2eb:80", E::Character('%')),
            ("http://example.com:80", E::Ipv6),
            ("a\u{3002}b:80", E::NotAscii),
            ("\u{ff11}27.0.0.1:80", E::NotAscii),
            ("a..b:80", E::Name),
            ("a..:80", E::Name),
            (".a:80", E::Name),
            ("256.1.1.1:80", E::Ipv4),
            ("1.2.3.4.5:80", E::Ipv4),
            ("08.1.1.1:80", E::Ipv4),
            ("1.2.3.0x100:80", E::Ipv4),
            ("4294967296:80", E::Ipv4),
            ("0x100000000:80", E::Ipv4),
            ("a.1:80", E::Ipv4),
            ("example.0x1:80", E::Ipv4),
            ("99999999999999999999999999:80", E::Ipv4),
            ("::1:80", E::Ipv6),
            ("[::1:80", E::Ipv6),
            ("[::g]:80", E::Ipv6),
            ("[v1.a]:80", E::Ipv6),
            ("[127.0.0.1]:80", E::Ipv6),
            ("[]:80", E::Ipv6),
            ("[::1]80", E::Form),
            ("[::1]", E::Port),
            ("[fe80::1%25eth0]:80", E::Zone),
            ("[fe80::1%eth0]:80", E::Zone),
        ] {
            assert_eq!(target(text), Err(error), "{text}");
        }
        assert_eq!(target(&format!("{}:80", "a".repeat(64))), Err(E::Name));
        assert_eq!(target(&format!("{}a:80", "a.".repeat(127))), Err(E::Name));
    }

    #[test]
    fn urls_have_a_default_port_and_one_scheme() {
        assert_eq!(url("http://example.com/a?b"), Ok("example.com:80".to_owned()));
        assert_eq!(url("http://example.com:8080"), Ok("example.com:8080".to_owned()));
        assert_eq!(url("HTTP://0x7f.1/"), Ok("127.0.0.1:80".to_owned()));
        assert_eq!(url("http://[::1]/"), Ok("[::1]:80".to_owned()));
        assert_eq!(url("https://example.com/"), Err(TargetError::Scheme));
        assert_eq!(url("ftp://example.com/"), Err(TargetError::Scheme));
        assert_eq!(url("http://u:p@example.com/"), Err(TargetError::UserInfo));
        assert_eq!(url("/a"), Err(TargetError::Scheme));
    }

    #[test]
    fn a_url_is_read_strictly_before_anybody_else_reads_it() {
        use TargetError as E;
        for (text, error) in [
            ("http://a/#b", E::Fragment),
            ("http://a#b", E::Fragment),
            ("http://a:99999/", E::Port),
            ("http://a:0/", E::Port),
            ("http://a:b/", E::Port),
            ("http://u@a/", E::UserInfo),
            ("http://u:p@a:80?x", E::UserInfo),
            ("http:///a", E::EmptyHost),
            ("http://", E::EmptyHost),
            ("http://a b/", E::Character(' ')),
            ("http://a\\b/", E::Character('\\')),
            ("https://a/", E::Scheme),
            ("a:80", E::Scheme),
            ("/a", E::Scheme),
            ("*", E::Scheme),
        ] {
            assert_eq!(Target::absolute(text), Err(error), "{text}");
        }
        assert_eq!(Target::absolute("HTTP://a:8080?b=http://c:1/").unwrap().as_str(), "a:8080");
        assert_eq!(Target::absolute("http://a:/@b:1").unwrap().as_str(), "a:80");
    }

    proptest::proptest! {
        #[test]
        fn any_text_does_no_harm(text in ".{0,80}") {
            let _ = Target::authority(&text);
        }

        /// What was checked is what hyper goes on with.
        #[test]
        fn both_ways_to_read_a_url_agree(text in "(http|HTTP)://[a-c0-9.:@\\[\\]x%-]{0,12}[/?]?[a-z/?:@|{}\"-]{0,8}") {
            if let (Ok(target), Ok(uri)) = (Target::absolute(&text), text.parse::<http::Uri>()) {
                proptest::prop_assert_eq!(Target::http(&uri), Ok(target));
            }
        }

        #[test]
        fn what_is_sent_reads_back_to_itself(text in "[a-zA-Z0-9._\\[\\]:x%-]{1,40}:[0-9]{1,5}") {
            if let Ok(target) = Target::authority(&text) {
                proptest::prop_assert!(target.as_str().bytes().all(|b| b.is_ascii_graphic()));
                proptest::prop_assert_eq!(Target::authority(target.as_str()), Ok(target));
            }
        }

        #[test]
        fn an_address_is_found_in_each_spelling(ip: u32, port in 1_u16.., spelling in 0..6) {
            let [a, b, c, d] = ip.to_be_bytes();
            let host = match spelling {
                0 => format!("{ip}"),
                1 => format!("{ip:#x}"),
                2 => format!("{a:#x}.{:#o}.{d}", 0).replace("0o", "0"),
                3 => format!("{a}.{b}.{}", u32::from(c) << 8 | u32::from(d)),
                4 => format!("{a}.{}", ip & 0xff_ffff),
                _ => format!("[::ffff:{a}.{b}.{c}.{d}]"),
            };
            let expected = if spelling == 2 { Ipv4Addr::new(a, 0, 0, d) } else { Ipv4Addr::from(ip) };
            let target = Target::authority(&format!("{host}:{port}")).unwrap();
            proptest::prop_assert_eq!(target.ip(), Some(IpAddr::V4(expected)), "{}", host);
        }
    }
}
