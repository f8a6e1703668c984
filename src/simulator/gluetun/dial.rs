//! Where a request of the look-alike's proxy goes: a real destination, dialled from this machine; a
//! server that the look-alike plays itself; or nowhere, with the text that Go's dialler gives or with
//! the silence of a dead tunnel. Used by `proxy` and `plain`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::DuplexStream;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::Container;
use super::link::Tunnel;
use super::{health, inside};

/// The name that tells which exit a request left from; port 80.
pub(super) const WHOAMI: &str = "whoami.test";
/// The name that sends everything back; port 7.
pub(super) const ECHO: &str = "echo.test";
/// The address that the look-alike's own names are said to have in errors (RFC 2544's range).
const INSIDE_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// Public resolvers, usual targets of health checks: their port 53 is played, so that it answers on
/// a machine without a network.
const RESOLVERS: [Ipv4Addr; 5] = [
    Ipv4Addr::new(1, 1, 1, 1),
    Ipv4Addr::new(1, 0, 0, 1),
    Ipv4Addr::new(8, 8, 8, 8),
    Ipv4Addr::new(8, 8, 4, 4),
    Ipv4Addr::new(9, 9, 9, 9),
];
/// When Linux sends a SYN again, since the first: the exponential back-off of `tcp_syn_retries=6`.
const SYN_RETRIES: [u64; 7] = [1, 3, 7, 15, 31, 63, 127];
/// Room between the look-alike and a server that it plays.
const INSIDE_BUFFER: usize = 64 * 1024;

/// An open way to a destination.
pub(super) struct Upstream {
    pub(super) way: Way,
    /// The tunnel that it goes through; `None` for what is inside the pod.
    pub(super) tunnel: Option<u64>,
}

/// What the bytes of an [`Upstream`] go over.
pub(super) enum Way {
    Tcp(TcpStream),
    /// A server that the look-alike plays, to be run as long as its stream is used.
    Inside(DuplexStream, BoxFuture<'static, ()>),
}

/// Dials `target` (`host:port`) as Gluetun does: for good, where its socket hangs for good.
///
/// # Errors
/// Go's error text, the body of the proxy's 503.
pub(super) async fn dial(container: &Arc<Container>, target: &str) -> Result<Upstream, String> {
    let (host, port) = split(target)?;
    let number = port_number(port)?;
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let address = name.parse::<IpAddr>().ok();
    let options = &container.options;
    let set = options.hosts.get(&format!("{name}:{number}")).or_else(|| options.hosts.get(&name));
    if set.is_none()
        && let Some(way) = in_pod(container, &name, address, number).await?
    {
        return Ok(Upstream { way, tunnel: None });
    }
    container.link.settled(&container.faults).await;
    let tunnel = match address {
        Some(address) => through_tunnel_to_address(container, SocketAddr::new(address, number)).await?,
        None => through_tunnel_to_name(container, &name).await?,
    };
    let way = match (set, address) {
        (Some(set), _) => {
            let port = if set.port() == 0 { number } else { set.port() };
            connect(SocketAddr::new(set.ip(), port)).await?
        }
        // An exit without IPv6: the SYN goes nowhere.
        (None, Some(IpAddr::V6(_))) => std::future::pending().await,
        (None, Some(IpAddr::V4(v4))) if number == 53 && RESOLVERS.contains(&v4) => played(inside::hold),
        (None, Some(address)) => connect(SocketAddr::new(address, number)).await?,
        (None, None) if [WHOAMI, ECHO].contains(&name.as_str()) => match (name.as_str(), number) {
            (WHOAMI, 80) => {
                let container = Arc::clone(container);
                played(|stream| inside::whoami(container, stream))
            }
            (ECHO, 7) => played(inside::echo),
            _ => return Err(format!("dial tcp {INSIDE_ADDRESS}:{number}: connect: connection refused")),
        },
        (None, None) => {
            let address = lookup(&name, options.lookup_timeout).await?;
            connect(SocketAddr::new(address, number)).await?
        }
    };
    Ok(Upstream { way, tunnel: Some(tunnel) })
}

/// What the pod has on its own loopback: Gluetun's other servers. They need no tunnel.
async fn in_pod(
    container: &Arc<Container>,
    name: &str,
    address: Option<IpAddr>,
    port: u16,
) -> Result<Option<Way>, String> {
    let own = match address {
        Some(address) => {
            address.is_loopback() || address.is_unspecified() || address == container.spec.pod_ip
        }
        None => name == "localhost",
    };
    if !own {
        return Ok(None);
    }
    let settings = &container.settings;
    let shared = Arc::clone(container);
    if port == settings.control.port {
        Ok(Some(played(|stream| inside::control(shared, stream))))
    } else if port == settings.health.port {
        Ok(Some(played(|stream| async move { health::serve(&shared, stream).await })))
    } else if settings.proxy.as_ref().is_some_and(|proxy| proxy.listen.port == port) {
        Ok(Some(connect(SocketAddr::new(container.spec.pod_ip, port)).await?))
    } else {
        Ok(None)
    }
}

/// A server that the look-alike plays, and our end of the way to it.
fn played<F>(server: impl FnOnce(DuplexStream) -> F) -> Way
where
    F: Future<Output = ()> + Send + 'static,
{
    let (ours, its) = tokio::io::duplex(INSIDE_BUFFER);
    Way::Inside(ours, server(its).boxed())
}

/// Go's `net.SplitHostPort`.
fn split(target: &str) -> Result<(&str, &str), String> {
    let missing = || format!("dial tcp: address {target}: missing port in address");
    if let Some(rest) = target.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(missing)?;
        return Ok((host, rest.strip_prefix(':').ok_or_else(missing)?));
    }
    let (host, port) = target.rsplit_once(':').ok_or_else(missing)?;
    if host.contains(':') {
        return Err(format!("dial tcp: address {target}: too many colons in address"));
    }
    Ok((host, port))
}

/// A port by number or by one of the names that Go knows without `/etc/services`.
fn port_number(port: &str) -> Result<u16, String> {
    match port {
        "http" => Ok(80),
        "https" => Ok(443),
        _ if port.bytes().all(|byte| byte.is_ascii_digit()) && !port.is_empty() => {
            port.parse().map_err(|_| format!("dial tcp: address {port}: invalid port"))
        }
        _ => Err(format!("dial tcp: lookup tcp/{port}: unknown port")),
    }
}

/// Waits as a SYN does until the tunnel passes it, and returns the tunnel's number.
async fn through_tunnel_to_address(container: &Container, address: SocketAddr) -> Result<u64, String> {
    let begin = Instant::now();
    let gives_up = begin + container.options.connect_timeout;
    let retries = SYN_RETRIES.map(|after| begin + Duration::from_secs(after));
    let retries = std::iter::once(begin).chain(retries).take_while(|at| *at < gives_up);
    for at in retries.chain(std::iter::once(gives_up)) {
        sleep_until(at).await;
        match container.link.tunnel() {
            Tunnel::Up(count) => return Ok(count),
            // The socket is bound to the pod's own address, which the VPN server drops for ever.
            Tunnel::Absent => std::future::pending().await,
            Tunnel::Dead(_) => {}
        }
    }
    Err(format!("dial tcp {address}: connect: connection timed out"))
}

/// Waits as a lookup does until the tunnel passes it, and returns the tunnel's number.
async fn through_tunnel_to_name(container: &Container, name: &str) -> Result<u64, String> {
    let limit = container.options.lookup_timeout;
    let mut tunnel = container.link.watch();
    let up = tunnel.wait_for(|tunnel| !matches!(tunnel, Tunnel::Dead(_)));
    // The plain upstream gives up first; DNS over TLS runs into Go's own resolver limit.
    let waited = timeout(if container.settings.plain_dns { limit } else { limit.mul_f64(2.5) }, up).await;
    match waited.ok().and_then(Result::ok).map(|tunnel| *tunnel) {
        Some(Tunnel::Up(count)) => Ok(count),
        Some(Tunnel::Absent) => {
            let pod = container.spec.pod_ip;
            let write = format!("write udp {pod}:{}->1.1.1.1:53", ephemeral(name));
            Err(format!("dial tcp: lookup {name} on 1.1.1.1:53: {write}: write: operation not permitted"))
        }
        Some(Tunnel::Dead(_)) | None if container.settings.plain_dns => {
            Err(format!("dial tcp: lookup {name} on 127.0.0.1:53: server misbehaving"))
        }
        Some(Tunnel::Dead(_)) | None => {
            let read = format!("read udp 127.0.0.1:{}->127.0.0.1:53", ephemeral(name));
            Err(format!("dial tcp: lookup {name} on 127.0.0.1:53: {read}: i/o timeout"))
        }
    }
}

/// A source port for a text: any of the ephemeral range will do.
fn ephemeral(name: &str) -> u16 {
    name.bytes().fold(40_000, |port, byte| 32_768 + (port.wrapping_mul(31) ^ u16::from(byte)) % 28_000)
}

/// Resolves by the machine's own resolver, for IPv4 as in an exit without IPv6.
async fn lookup(name: &str, limit: Duration) -> Result<IpAddr, String> {
    let failed = |why: &str| format!("dial tcp: lookup {name} on 127.0.0.1:53: {why}");
    // Names that no resolver has (RFC 6761): no need to trouble this machine's.
    if [".test", ".invalid", ".example"].iter().any(|zone| name.ends_with(zone)) || name.is_empty() {
        return Err(failed("no such host"));
    }
    match timeout(limit.max(Duration::from_secs(1)), tokio::net::lookup_host((name, 0))).await {
        Ok(Ok(addresses)) => {
            let mut ipv4 = addresses.map(|address| address.ip()).filter(IpAddr::is_ipv4);
            ipv4.next().ok_or_else(|| failed("no such host"))
        }
        Ok(Err(error)) => {
            let text = error.to_string();
            // What glibc and musl say for EAI_NONAME and EAI_NODATA.
            let unknown = ["not known", "No address associated", "does not resolve"];
            let is_unknown = unknown.iter().any(|part| text.contains(part));
            Err(failed(if is_unknown { "no such host" } else { "server misbehaving" }))
        }
        Err(_) => Err(failed("i/o timeout")),
    }
}

/// Connects from this machine.
async fn connect(address: SocketAddr) -> Result<Way, String> {
    let dialled = TcpStream::connect(address).await;
    let why = match dialled.and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
        Ok(stream) => return Ok(Way::Tcp(stream)),
        Err(error) => go_text(&error),
    };
    Err(format!("dial tcp {address}: connect: {why}"))
}

/// Go's text for an error of `connect(2)`.
fn go_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        io::ErrorKind::TimedOut => "connection timed out".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset by peer".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string().to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_split_as_go_splits_them() {
        assert_eq!(split("a.example:80"), Ok(("a.example", "80")));
        assert_eq!(split("[2001:db8::1]:443"), Ok(("2001:db8::1", "443")));
        for (target, text) in [
            ("a.example", "dial tcp: address a.example: missing port in address"),
            ("[2001:db8::1]", "dial tcp: address [2001:db8::1]: missing port in address"),
            ("2001:db8::1:443", "dial tcp: address 2001:db8::1:443: too many colons in address"),
        ] {
            assert_eq!(split(target), Err(text.to_owned()));
        }
        assert_eq!(port_number("https"), Ok(443));
        assert_eq!(port_number("nope"), Err("dial tcp: lookup tcp/nope: unknown port".to_owned()));
        assert_eq!(port_number("70000"), Err("dial tcp: address 70000: invalid port".to_owned()));
    }

    #[test]
    fn connect_errors_have_gos_words() {
        for (errno, text) in [
            (111, "connection refused"),
            (101, "network is unreachable"),
            (113, "no route to host"),
            (110, "connection timed out"),
        ] {
            assert_eq!(go_text(&io::Error::from_raw_os_error(errno)), text);
        }
    }

    #[test]
    fn made_up_source_ports_are_ephemeral() {
        for name in ["", "a", "whoami.test", "nx.example.com"] {
            assert!(ephemeral(name) >= 32_768, "{name}");
        }
    }

    #[tokio::test]
    async fn reserved_names_do_not_exist() {
        let limit = Duration::from_secs(5);
        assert_eq!(
            lookup("nx.test", limit).await,
            Err("dial tcp: lookup nx.test on 127.0.0.1:53: no such host".to_owned())
        );
    }
}
