//! From an environment to a [`Config`]: each setting, what it must be, and how it must fit the others.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reader::{ConfigError, Environment, Mistake, Reader, quoted};
use super::{Config, Forwarding, LogFormat};
use super::{pods, tokens};
use crate::accounts::{self, AccountFile, Checked, FileFault};
use crate::identity::{FileMistake, Rate};
use crate::proxy::{DestinationError, Destinations};
use crate::secret::Secret;
use crate::servers::{self, Catalogue, Source};
use crate::telemetry;

const ACCOUNTS_FILE: &str = "ACCOUNTS_FILE";

/// Of the pod's grace period, what the end of the process needs beside draining, at most: 2 s for what is
/// cut, 5 s for last renewals, leadership given up and the admin port.
const STOP_MARGIN: Duration = Duration::from_secs(7);

/// Shortest time between two automatic refreshes of the server list.
const MIN_REFRESH: Duration = Duration::from_secs(60);

/// Longest namespace name (RFC 1123 label).
const MAX_LABEL: usize = 63;

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

impl Config {
    /// Reads every setting, and the files that they name.
    ///
    /// # Errors
    ///
    /// With all mistakes at once.
    pub fn load(env: &Environment) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(env);
        let mut found = Checked::default();
        let config = read(&mut reader, env, &mut found);
        match config {
            Some(config) if reader.mistakes.is_empty() => Ok(config),
            _ => Err(ConfigError(reader.mistakes)),
        }
    }

    /// As [`Config::load`], for somebody who wants to know: places of the accounts file that the server list
    /// does not have are mistakes here. (They do not keep a gateway from starting: lists change by
    /// themselves.) With the settings come warnings, of what is no mistake and still worth a look.
    ///
    /// # Errors
    ///
    /// With all mistakes at once.
    pub fn check(env: &Environment) -> Result<(Self, Vec<Mistake>), ConfigError> {
        let mut reader = Reader::new(env);
        let mut found = Checked::default();
        let config = read(&mut reader, env, &mut found);
        let path = reader.given(ACCOUNTS_FILE).unwrap_or_default();
        let told = |mistake: &FileMistake, fix: &str| Mistake {
            name: ACCOUNTS_FILE.to_owned(),
            what: format!("{path}, {mistake}"),
            fix: fix.to_owned(),
        };
        let fix = "as it is, it allows and denies nothing";
        reader.mistakes.extend(found.unknown_places.iter().map(|mistake| told(mistake, fix)));
        let warnings = found.strangers.iter().map(|mistake| told(mistake, "the entry has no effect"));
        let warnings = warnings.collect();
        match config {
            Some(config) if reader.mistakes.is_empty() => Ok((config, warnings)),
            _ => Err(ConfigError(reader.mistakes)),
        }
    }
}

/// `None` only after a mistake. Everything is read before anything is missed, so that all are told.
fn read(r: &mut Reader<'_>, env: &Environment, found: &mut Checked) -> Option<Config> {
    let proxy_addr = address(r, "PROXY_ADDR");
    let admin_addr = address(r, "ADMIN_ADDR");
    if let (Some(proxy), Some(admin)) = (proxy_addr, admin_addr)
        && proxy.port() != 0
        && proxy.port() == admin.port()
        && (proxy.ip() == admin.ip() || proxy.ip().is_unspecified() || admin.ip().is_unspecified())
    {
        r.mistake("ADMIN_ADDR", format!("{admin} collides with PROXY_ADDR {proxy}"), "take another port");
    }
    let auth_throttle = throttle(r);
    let admin_tokens = admin_tokens(r);
    let admin_token_file = r.secret_file("ADMIN_TOKEN");
    let cors_origins = origins(r);
    let namespace = namespace(r, env);
    let gateway_url = gateway_url(r, namespace.as_deref());
    let service_cluster_ip = service_cluster_ip(r);

    let instance_limit = r.number("INSTANCE_LIMIT", 1, 10_000);
    let idle_timeout = r.duration("IDLE_TIMEOUT", secs(2), secs(30 * DAY));
    let max_idle_timeout = r.duration("MAX_IDLE_TIMEOUT", secs(2), secs(30 * DAY));
    not_over(r, ("IDLE_TIMEOUT", idle_timeout), ("MAX_IDLE_TIMEOUT", max_idle_timeout));
    let start_timeout = r.duration("START_TIMEOUT", secs(1), secs(600));
    let start_attempt_timeout = r.duration("START_ATTEMPT_TIMEOUT", secs(1), secs(600));
    not_over(r, ("START_ATTEMPT_TIMEOUT", start_attempt_timeout), ("START_TIMEOUT", start_timeout));

    let gluetun_image = pods::image(r);
    let pod_template = pods::pod_template(r);
    let vpn_provider = pods::provider(r);
    let vpn_type = r.choice("VPN_TYPE", &[("wireguard", "wireguard".to_owned())], &[]);
    let tun_device = pods::tun_device(r);
    let exit_ipv6 = r.switch("EXIT_IPV6");
    let firewall_input_ports = pods::ports(r);
    pods::wireguard_key(r);
    pods::wireguard_addresses(r);

    let (servers, catalogue) = servers(r);
    let (users_file, accounts_file) = accounts(r, &catalogue, found);
    let account_drain_timeout = r.duration("ACCOUNT_DRAIN_TIMEOUT", secs(0), secs(DAY));
    let servers_refresh = servers_refresh(r);

    let connect_timeout = r.duration("CONNECT_TIMEOUT", secs(1), secs(300));
    let (allow_destinations, deny_destinations) = destinations(r);
    let max_connections = r.number("MAX_CONNECTIONS", 1, 1_000_000);
    let max_unauthenticated = match r.given("MAX_UNAUTHENTICATED") {
        Some(_) => r.number("MAX_UNAUTHENTICATED", 1, max_connections.unwrap_or(1_000_000)),
        None => max_connections.map(|most| (most / 4).max(1)),
    };
    let forwarding_headers = forwarding(r);
    let data_threads = match r.given("DATA_THREADS") {
        Some(_) => r.number("DATA_THREADS", 1, 256),
        None => Some(env.cpus.clamp(1, 256)),
    };
    let drain_delay = r.duration("DRAIN_DELAY", secs(0), secs(600));
    let drain_timeout = r.duration("DRAIN_TIMEOUT", secs(0), secs(DAY));
    grace_period(r, drain_delay, drain_timeout);

    let identity = r.given("POD_NAME").unwrap_or_else(|| format!("{}-{}", env.hostname, std::process::id()));
    let log_level = log_level(r);
    let log_format = match r.given("LOG_FORMAT") {
        Some(_) => r.choice("LOG_FORMAT", &[("json", LogFormat::Json), ("text", LogFormat::Text)], &[]),
        None => Some(if env.terminal { LogFormat::Text } else { LogFormat::Json }),
    };

    Some(Config {
        proxy_addr: proxy_addr?,
        admin_addr: admin_addr?,
        users_file: users_file?,
        accounts_file,
        account_drain_timeout: account_drain_timeout?,
        admin_tokens: admin_tokens?,
        admin_token_file,
        cors_origins: cors_origins?,
        auth_throttle: auth_throttle?,
        namespace: namespace?,
        identity,
        instance_limit: instance_limit?,
        idle_timeout: idle_timeout?,
        max_idle_timeout: max_idle_timeout?,
        start_timeout: start_timeout?,
        start_attempt_timeout: start_attempt_timeout?,
        connect_timeout: connect_timeout?,
        exit_ipv6: exit_ipv6?,
        tun_device: tun_device?,
        gluetun_image: gluetun_image?,
        pod_template,
        vpn_provider: vpn_provider?,
        vpn_type: vpn_type?,
        firewall_input_ports: firewall_input_ports?,
        gateway_url: gateway_url?,
        service_cluster_ip,
        allow_destinations,
        deny_destinations,
        drain_delay: drain_delay?,
        drain_timeout: drain_timeout?,
        max_connections: max_connections?,
        max_unauthenticated: max_unauthenticated?,
        forwarding_headers: forwarding_headers?,
        data_threads: data_threads?,
        servers,
        servers_refresh: servers_refresh?,
        log_level: log_level?,
        log_format: log_format?,
    })
}

fn address(r: &mut Reader<'_>, name: &'static str) -> Option<SocketAddr> {
    r.parse(name, "write an address and a port, such as 0.0.0.0:8080 or [::]:8080")
}

/// The users file and the accounts file, once their content is known to be good.
fn accounts(
    r: &mut Reader<'_>,
    catalogue: &Catalogue,
    found: &mut Checked,
) -> (Option<PathBuf>, Option<PathBuf>) {
    const NAME: &str = "USERS_FILE";
    let users = r.given(NAME).map(PathBuf::from);
    let accounts = r.given(ACCOUNTS_FILE).map(PathBuf::from);
    if users.is_none() && !r.mistaken(NAME) {
        r.mistake(
            NAME,
            "is not set, and without accounts nobody could use the proxy",
            "write the path of a file with lines such as `gluetun-gateway hash-password --user NAME` prints",
        );
    }
    *found = accounts::check(users.as_deref(), accounts.as_deref(), catalogue);
    for FileFault { file, path, what } in &found.faults {
        let path = path.display();
        match what {
            Err(error) => r.mistake(
                file.setting(),
                format!("cannot read {path}: {error}"),
                "write the path of a readable file, which is in UTF-8",
            ),
            Ok(mistakes) => {
                let fix = match file {
                    AccountFile::Users => "`gluetun-gateway hash-password --user NAME` prints a good line",
                    AccountFile::Accounts => "docs/accounts.md describes the file",
                };
                for mistake in mistakes {
                    r.mistake(file.setting(), format!("{path}, {mistake}"), fix);
                }
            }
        }
    }
    (users, accounts)
}

/// `Some(None)` where it is off.
fn throttle(r: &mut Reader<'_>) -> Option<Option<Rate>> {
    const NAME: &str = "AUTH_THROTTLE";
    let text = r.value(NAME)?;
    if text.eq_ignore_ascii_case("off") {
        return Some(None);
    }
    let rate = text.parse().ok();
    if rate.is_none() {
        r.mistake(
            NAME,
            format!("{} is not a number of failures and a time", quoted(&text)),
            "write them as 10/1m (1 to 1000000, at most 1day), or off",
        );
    }
    rate.map(Some)
}

fn forwarding(r: &mut Reader<'_>) -> Option<Forwarding> {
    const NAME: &str = "FORWARDING_HEADERS";
    let mut forwarding = Some(Forwarding::default());
    for word in r.words(NAME) {
        match (word.to_ascii_lowercase().as_str(), &mut forwarding) {
            ("via", Some(found)) => found.via = true,
            ("x-forwarded-for", Some(found)) => found.forwarded_for = true,
            ("via" | "x-forwarded-for", None) => {}
            _ => {
                forwarding = None;
                r.mistake(
                    NAME,
                    format!("{} is not one of its values", quoted(&word)),
                    "write via, x-forwarded-for or both",
                );
            }
        }
    }
    forwarding
}

fn admin_tokens(r: &mut Reader<'_>) -> Option<Vec<Secret>> {
    const NAME: &str = "ADMIN_TOKEN";
    let before = r.mistakes.len();
    let Some(text) = r.secret(NAME) else {
        return (r.mistakes.len() == before).then(Vec::new);
    };
    let (tokens, mistakes) = tokens::parse(&text);
    for mistake in mistakes {
        r.mistake(NAME, mistake.to_string(), mistake.fix());
    }
    Some(tokens)
}

/// Origins as browsers send them: `scheme://host[:port]`, or `*` alone, or `none` alone.
fn origins(r: &mut Reader<'_>) -> Option<Vec<String>> {
    const NAME: &str = "CORS_ORIGINS";
    let words = r.words(NAME);
    if let [word] = words.as_slice() {
        if word == "*" {
            return Some(words);
        }
        if word.eq_ignore_ascii_case("none") {
            return Some(Vec::new());
        }
    }
    let mut good = true;
    for word in &words {
        let uri = word.parse::<http::Uri>().ok();
        // A browser sends neither path nor credentials, so an origin with them would match nothing.
        let fits = uri.is_some_and(|uri| {
            uri.scheme().is_some()
                && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
                && matches!(uri.path(), "" | "/")
                && uri.query().is_none()
                && !word.ends_with('/')
        });
        if !fits {
            good = false;
            r.mistake(
                NAME,
                format!("{} is not an origin", quoted(word)),
                "write scheme://host:port without a path, such as http://localhost:5000; * alone for all, none \
                 alone for none",
            );
        }
    }
    good.then_some(words)
}

fn namespace(r: &mut Reader<'_>, env: &Environment) -> Option<String> {
    const NAME: &str = "K8S_NAMESPACE";
    if let Some(given) = r.given(NAME) {
        if !is_label(&given) {
            r.mistake(
                NAME,
                format!("{} is not a namespace's name", quoted(&given)),
                "write at most 63 of a-z, 0-9 and -",
            );
            return None;
        }
        return Some(given);
    }
    let own = std::fs::read_to_string(&env.namespace_file).ok();
    let own = own.map(|text| text.trim().to_owned()).filter(|text| is_label(text));
    Some(own.unwrap_or_else(|| "gluetun-system".to_owned()))
}

/// Whether it is an RFC 1123 label.
fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_LABEL
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// `http://HOST:PORT`, with the port spelt out.
fn gateway_url(r: &mut Reader<'_>, namespace: Option<&str>) -> Option<String> {
    const NAME: &str = "GATEWAY_URL";
    let Some(given) = r.given(NAME) else {
        return Some(format!("http://gluetun-gateway.{}.svc.cluster.local:8080", namespace?));
    };
    let parsed = given.parse::<http::Uri>().ok().filter(|uri| {
        uri.scheme() == Some(&http::uri::Scheme::HTTP)
            && matches!(uri.path(), "" | "/")
            && uri.query().is_none()
            && uri.authority().is_some_and(|a| !a.as_str().contains('@'))
    });
    let Some((host, port)) =
        parsed.as_ref().and_then(|uri| Some((uri.host()?, uri.port_u16().unwrap_or(80))))
    else {
        // Not shown: who writes a URL with credentials would find them in the log.
        r.mistake(
            NAME,
            "is not the address of a proxy",
            "write http://HOST:PORT, without credentials and path",
        );
        return None;
    };
    Some(format!("http://{host}:{port}"))
}

fn service_cluster_ip(r: &mut Reader<'_>) -> Option<IpAddr> {
    // Set by the kubelet, not by a person: what does not parse (`None` of a headless Service) is nothing.
    r.given("GLUETUN_GATEWAY_SERVICE_HOST")?.parse().ok()
}

/// A mistake where `low` is more than `high`.
fn not_over(r: &mut Reader<'_>, low: (&str, Option<Duration>), high: (&str, Option<Duration>)) {
    if let ((name, Some(value)), (other, Some(limit))) = (low, high)
        && value > limit
    {
        let shown = |d| humantime::format_duration(d);
        r.mistake(
            name,
            format!("{} is more than {other}, which is {}", shown(value), shown(limit)),
            format!("lower it, or raise {other}"),
        );
    }
}

fn grace_period(r: &mut Reader<'_>, delay: Option<Duration>, timeout: Option<Duration>) {
    const NAME: &str = "TERMINATION_GRACE_PERIOD_SECONDS";
    let Some(text) = r.given(NAME) else { return };
    let Ok(grace) = text.parse::<u32>().map(|n| secs(n.into())) else {
        r.mistake(NAME, format!("{} is not a number of seconds", quoted(&text)), "write one");
        return;
    };
    if let (Some(delay), Some(timeout)) = (delay, timeout)
        && delay + timeout + STOP_MARGIN > grace
    {
        let need = delay + timeout + STOP_MARGIN;
        r.mistake(
            NAME,
            format!(
                "DRAIN_DELAY ({}) and DRAIN_TIMEOUT ({}) and {} to stop do not fit into {}",
                humantime::format_duration(delay),
                humantime::format_duration(timeout),
                humantime::format_duration(STOP_MARGIN),
                humantime::format_duration(grace),
            ),
            format!("raise the pod's terminationGracePeriodSeconds to {}, or lower them", need.as_secs()),
        );
    }
}

/// The source of the server list, once its content is known to be good: a gateway that starts with a
/// list that it cannot read would answer every request with an error.
fn servers(r: &mut Reader<'_>) -> (Option<Source>, Catalogue) {
    let text = r.given("SERVERS_JSON");
    let path = r.given("SERVERS_FILE_PATH");
    let (name, source) = match (text, path) {
        (Some(text), _) => ("SERVERS_JSON", Source::Text(text)),
        (None, Some(path)) => ("SERVERS_FILE_PATH", Source::File(Path::new(&path).to_owned())),
        (None, None) => return (None, Catalogue::default()),
    };
    let catalogue = servers::load(&source).unwrap_or_else(|error| {
        r.mistake(name, error.to_string(), "give Gluetun's servers.json, one provider's object of it, or the array that `format-servers -format json` prints");
        Catalogue::default()
    });
    (Some(source), catalogue)
}

/// Zero for never; else not so often that the Job is hardly ever gone.
fn servers_refresh(r: &mut Reader<'_>) -> Option<Duration> {
    const NAME: &str = "SERVERS_REFRESH";
    let refresh = r.duration(NAME, secs(0), secs(365 * DAY))?;
    if !refresh.is_zero() && refresh < MIN_REFRESH {
        r.mistake(
            NAME,
            format!(
                "{} is less than {}",
                humantime::format_duration(refresh),
                humantime::format_duration(MIN_REFRESH)
            ),
            "write at least that, or 0 for never",
        );
        return None;
    }
    Some(refresh)
}

fn destinations(r: &mut Reader<'_>) -> (Vec<String>, Vec<String>) {
    let allow = r.words("ALLOW_DESTINATIONS");
    let deny = r.words("DENY_DESTINATIONS");
    for DestinationError { setting, entry, why } in
        Destinations::parse(&allow, &deny).err().into_iter().flatten()
    {
        r.mistake(
            setting,
            format!("{}: {why}", quoted(&entry)),
            "write addresses, CIDRs such as 10.0.0.0/8, names, or patterns such as *.internal.example",
        );
    }
    (allow, deny)
}

fn log_level(r: &mut Reader<'_>) -> Option<String> {
    const NAME: &str = "LOG_LEVEL";
    let level = r.value(NAME)?;
    if let Err(error) = telemetry::filter(&level) {
        r.mistake(
            NAME,
            error.to_string(),
            "write DEBUG, INFO, WARNING or ERROR, or a filter such as info,gluetun_gateway::session=debug",
        );
        return None;
    }
    Some(level)
}

#[cfg(test)]
mod tests;
