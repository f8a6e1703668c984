//! The settings as a table: what `load` reads its defaults from and what `docs/configuration.md` is made
//! of, so that the three cannot differ.

/// What holds when a setting is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// This value, which is read like one that was given.
    Value(&'static str),
    /// What the code finds out; in words for the documentation.
    Computed(&'static str),
    /// Nothing: the setting has no effect.
    Nothing,
    /// Nothing does: the gateway refuses to start.
    Required,
}

/// What a setting is about: a heading of the documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Ports, accounts and who may ask.
    Access,
    /// Sessions and their times.
    Sessions,
    /// The VPN pods.
    Pods,
    /// The server list.
    Servers,
    /// The proxy port and the end of the process.
    Proxy,
    /// Logging and this replica itself.
    Process,
}

impl Topic {
    /// Every topic, in the documentation's order.
    pub const ALL: [Self; 6] =
        [Self::Access, Self::Sessions, Self::Pods, Self::Servers, Self::Proxy, Self::Process];

    /// The heading.
    pub const fn heading(self) -> &'static str {
        match self {
            Self::Access => "Ports and access",
            Self::Sessions => "Sessions",
            Self::Pods => "VPN pods",
            Self::Servers => "Servers",
            Self::Proxy => "Proxy port and shutdown",
            Self::Process => "Process",
        }
    }
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Name of the environment variable.
    pub name: &'static str,
    /// What it is about.
    pub topic: Topic,
    /// What holds when it is not given.
    pub fallback: Fallback,
    /// Never shown; also read from the file that `NAME_FILE` names.
    pub secret: bool,
    /// What it means, and which values it takes.
    pub help: &'static str,
}

const fn setting(topic: Topic, name: &'static str, fallback: Fallback, help: &'static str) -> Setting {
    Setting { name, topic, fallback, secret: false, help }
}

const fn secret(topic: Topic, name: &'static str, help: &'static str) -> Setting {
    Setting { name, topic, fallback: Fallback::Nothing, secret: true, help }
}

use Fallback::{Computed, Nothing, Required, Value};

/// Every setting of the gateway.
pub const SETTINGS: &[Setting] = &[
    setting(
        Topic::Access,
        "PROXY_ADDR",
        Value("0.0.0.0:8080"),
        "Where the proxy port listens: an address and a port.",
    ),
    setting(
        Topic::Access,
        "ADMIN_ADDR",
        Value("0.0.0.0:8001"),
        "Where the admin port listens: an address and a port.",
    ),
    setting(
        Topic::Access,
        "USERS_FILE",
        Required,
        "The accounts: htpasswd lines with bcrypt hashes (as `htpasswd -B` writes them) or argon2id in PHC \
         form, as `gluetun-gateway hash-password` prints them. Re-read when it changes; a mistake in it \
         leaves the accounts as they were.",
    ),
    setting(
        Topic::Access,
        "AUTH_THROTTLE",
        Value("10/1m"),
        "Failed logins of one client address (IPv6: of one /64): `FAILURES/DURATION` lets so many through at \
         once and as many again in each period, counted by each replica for itself; `off` for no limit, where \
         a Service hides addresses. See [abuse.md](abuse.md).",
    ),
    setting(
        Topic::Access,
        "ACCOUNTS_FILE",
        Nothing,
        "What each account may do: YAML, described in [accounts.md](accounts.md). It holds no secrets, so a \
         ConfigMap will do. Without it every account may do everything. Re-read together with `USERS_FILE`; \
         a mistake in either leaves both as they were.",
    ),
    setting(
        Topic::Access,
        "ACCOUNT_DRAIN_TIMEOUT",
        Value("25s"),
        "How long the open tunnels of an account have that was removed or disabled, and its sessions with \
         their exits; new requests are refused at once. `0s` to `24h`.",
    ),
    secret(
        Topic::Access,
        "ADMIN_TOKEN",
        "Bearer tokens of the admin API, separated by commas or white space: any of them will do, so that \
         one can be rotated. At least 16 characters each. The file has one a line, with comments after `#`; \
         it is re-read when it changes, and a mistake in it leaves the tokens as they were. Without a token \
         the API is open to whoever reaches the port. Probes and metrics never need one.",
    ),
    setting(
        Topic::Access,
        "CORS_ORIGINS",
        Value("http://localhost:5000,http://127.0.0.1:5000"),
        "Origins whose pages may use the admin API from a browser, separated by commas; `*` alone for all of \
         them, `none` alone for none.",
    ),
    setting(
        Topic::Access,
        "GATEWAY_URL",
        Computed("`http://gluetun-gateway.<namespace>.svc.cluster.local:8080`"),
        "The address of the proxy port that the admin API hands out: `http://HOST:PORT`.",
    ),
    setting(
        Topic::Access,
        "GLUETUN_GATEWAY_SERVICE_HOST",
        Nothing,
        "The Service's cluster IP, which the admin API tells as `service_cluster_ip`. Kubernetes sets it \
         where the Service is older than the pod.",
    ),
    setting(
        Topic::Sessions,
        "IDLE_TIMEOUT",
        Value("5m"),
        "After how long without a tunnel or request a session's exit goes. At least `2s`.",
    ),
    setting(
        Topic::Sessions,
        "MAX_IDLE_TIMEOUT",
        Value("24h"),
        "The most that `idle-` in a username may ask for. At least `IDLE_TIMEOUT`, at most `30d`.",
    ),
    setting(
        Topic::Sessions,
        "START_TIMEOUT",
        Value("90s"),
        "How long a request is held at most while its exit starts; the most that `wait-` in a username may \
         ask for. `1s` to `10m`.",
    ),
    setting(
        Topic::Sessions,
        "START_ATTEMPT_TIMEOUT",
        Value("20s"),
        "How long one pod may take from running to healthy, before another server is tried. `1s` to \
         `START_TIMEOUT`.",
    ),
    setting(
        Topic::Sessions,
        "INSTANCE_LIMIT",
        Value("5"),
        "VPN pods at most, all sessions together; 1 to 10000. A ResourceQuota is the hard ceiling.",
    ),
    setting(
        Topic::Pods,
        "K8S_NAMESPACE",
        Computed("the pod's own, else `gluetun-system`"),
        "The namespace where claims and VPN pods live.",
    ),
    setting(
        Topic::Pods,
        "GLUETUN_IMAGE",
        Value("qmcgaw/gluetun:v3.41.3"),
        "Image of the VPN pods. Another version may need other settings: it is not only a newer program.",
    ),
    setting(
        Topic::Pods,
        "POD_TEMPLATE_FILE",
        Nothing,
        "Pod template in YAML that is merged with every VPN pod: where pods run, and with what beside them. \
         `docs/pods.md` says which fields it may have.",
    ),
    setting(
        Topic::Pods,
        "VPN_SERVICE_PROVIDER",
        Value("mullvad"),
        "The VPN provider, by the name that Gluetun knows it by.",
    ),
    setting(Topic::Pods, "VPN_TYPE", Value("wireguard"), "The kind of VPN: `wireguard`."),
    setting(
        Topic::Pods,
        "TUN_DEVICE",
        Value("hostPath"),
        "How VPN pods get `/dev/net/tun`: `hostPath` (the node's device as a volume), `mknod` (no volume: \
         Gluetun makes the node itself, with the capabilities MKNOD and DAC_OVERRIDE; 300 ms faster where the \
         runtime's device list has it), `none`, or the name of a device plugin's resource such as \
         `squat.ai/tun`.",
    ),
    setting(
        Topic::Pods,
        "EXIT_IPV6",
        Value("off"),
        "Whether exits reach IPv6: `on` or `off`. While it is off, IPv6 literals are refused at once instead \
         of hanging.",
    ),
    setting(
        Topic::Pods,
        "FIREWALL_INPUT_PORTS",
        Nothing,
        "Further ports that VPN pods let in, beside 8888 and 9999, which they always do; separated by commas.",
    ),
    secret(
        Topic::Pods,
        "WIREGUARD_PRIVATE_KEY",
        "The VPN key. Checked at start if it is given (base64 of 32 bytes), and not kept: the VPN pods read it \
         from the Secret `gluetun-wireguard-credentials`.",
    ),
    secret(
        Topic::Pods,
        "WIREGUARD_ADDRESSES",
        "The VPN key's addresses, separated by commas. Checked at start if they are given (each with a prefix \
         length, such as `10.64.0.2/32`), and not kept.",
    ),
    setting(
        Topic::Servers,
        "SERVERS_JSON",
        Nothing,
        "The server list itself: Gluetun's whole file, one provider's object, or the bare array that \
         `format-servers` prints.",
    ),
    setting(
        Topic::Servers,
        "SERVERS_FILE_PATH",
        Nothing,
        "A file with the server list, in the same three shapes; `SERVERS_JSON` goes before it. Re-read when \
         it changes; a mistake in it leaves the list as it was.",
    ),
    setting(
        Topic::Servers,
        "SERVERS_REFRESH",
        Value("24h"),
        "How old the list may become before a Job with `GLUETUN_IMAGE` fetches it anew, where neither of the \
         two above is given; `0` for never, and then not at start either. `1m` to `365d`. See \
         `docs/servers.md`.",
    ),
    setting(
        Topic::Proxy,
        "CONNECT_TIMEOUT",
        Value("25s"),
        "How long an exit may take to reach a destination. `1s` to `5m`.",
    ),
    setting(
        Topic::Proxy,
        "ALLOW_DESTINATIONS",
        Nothing,
        "Addresses, CIDRs and host patterns (`*.internal.example`) that are let through although they are \
         private, separated by commas.",
    ),
    setting(
        Topic::Proxy,
        "DENY_DESTINATIONS",
        Nothing,
        "Further addresses, CIDRs and host patterns that are refused, separated by commas. They go before \
         `ALLOW_DESTINATIONS`.",
    ),
    setting(
        Topic::Proxy,
        "MAX_CONNECTIONS",
        Value("16384"),
        "Client connections at once, in all; each needs two open files. 1 to 1000000.",
    ),
    setting(
        Topic::Proxy,
        "MAX_UNAUTHENTICATED",
        Computed("a quarter of `MAX_CONNECTIONS`"),
        "Client connections at once that have not logged in yet. One more closes the oldest of them. 1 to \
         `MAX_CONNECTIONS`. See [abuse.md](abuse.md).",
    ),
    setting(
        Topic::Proxy,
        "FORWARDING_HEADERS",
        Nothing,
        "What is added to plain HTTP, separated by commas: `via` (in both directions), `x-forwarded-for` (the \
         client's address, towards the origin). Tunnels carry neither.",
    ),
    setting(
        Topic::Proxy,
        "DATA_THREADS",
        Computed("the container's CPU limit, rounded up"),
        "Threads of the data path; 1 to 256.",
    ),
    setting(
        Topic::Proxy,
        "DRAIN_DELAY",
        Value("5s"),
        "How long new connections are accepted after SIGTERM: the cluster's endpoints lag behind. `0s` to \
         `10m`.",
    ),
    setting(
        Topic::Proxy,
        "DRAIN_TIMEOUT",
        Value("25s"),
        "How long open tunnels have after that. `0s` to `24h`.",
    ),
    setting(
        Topic::Proxy,
        "TERMINATION_GRACE_PERIOD_SECONDS",
        Nothing,
        "The pod's `terminationGracePeriodSeconds`. If it is given, `DRAIN_DELAY` and `DRAIN_TIMEOUT` together \
         must leave 7 seconds of it.",
    ),
    setting(
        Topic::Process,
        "POD_NAME",
        Computed("the host's name and the process id"),
        "Name of this replica, by which it leads: the pod's name, from the downward API.",
    ),
    setting(
        Topic::Process,
        "LOG_LEVEL",
        Value("INFO"),
        "`TRACE`, `DEBUG`, `INFO`, `WARNING`, `ERROR`, `CRITICAL` or `OFF`; or a filter such as \
         `info,gluetun_gateway::session=debug`. The access log has the target `gluetun_gateway::access` and \
         the level INFO.",
    ),
    setting(
        Topic::Process,
        "LOG_FORMAT",
        Computed("`text` on a terminal, else `json`"),
        "`json` (one object a line) or `text`. Lines go to standard output.",
    ),
];

/// The setting of that name.
pub(super) fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// `docs/configuration.md`, made from the table.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Settings\n\n\
         Environment variables. `gluetun-gateway check` reads them, prints every mistake and exits with 64 if \
         there is one; so does the gateway itself at start.\n\n\
         An empty value counts as none, save for a secret, where it is a mistake. A secret can also be given as \
         a file: `NAME_FILE` is its path. Durations need a unit (`30s`, `5m`, `1h 30m`).\n\n\
         The Kubernetes API is found by the pod's service account where `KUBERNETES_SERVICE_HOST` is set, as it \
         is in every pod; elsewhere by the file that `KUBECONFIG` names, else `~/.kube/config`.\n\n\
         <!-- Made from src/config/settings.rs: UPDATE_DOCS=1 cargo test --lib config writes it anew. -->\n",
    );
    for topic in Topic::ALL {
        text.push_str(&format!("\n## {}\n\n| Name | Default | Means |\n|---|---|---|\n", topic.heading()));
        for setting in SETTINGS.iter().filter(|s| s.topic == topic) {
            let fallback = match setting.fallback {
                Value(value) => format!("`{value}`"),
                Computed(words) => words.to_owned(),
                Nothing => "none".to_owned(),
                Required => "none: required".to_owned(),
            };
            let file = if setting.secret { format!(", `{}_FILE`", setting.name) } else { String::new() };
            text.push_str(&format!("| `{}`{file} | {fallback} | {} |\n", setting.name, setting.help));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        for (n, setting) in SETTINGS.iter().enumerate() {
            assert!(SETTINGS.iter().skip(n + 1).all(|s| s.name != setting.name), "{} twice", setting.name);
            assert!(!setting.help.contains('|'), "{}: a | ends the table's cell", setting.name);
        }
    }

    #[test]
    fn the_documentation_is_that_of_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, markdown()).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap();
        assert_eq!(written, markdown(), "UPDATE_DOCS=1 cargo test --lib config writes it anew");
    }
}
