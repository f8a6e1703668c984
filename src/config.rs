//! The gateway's settings: what they are, once read. `main` loads them, `app` passes them on; everything
//! else gets the fields it needs by reference.

mod cluster;
mod load;
mod pods;
mod reader;
mod settings;
mod tokens;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use cluster::cluster;
pub use reader::{ConfigError, Environment, Mistake};
pub use settings::{Fallback, SETTINGS, Setting, Topic, markdown};
pub use tokens::{MIN_TOKEN, TokenMistake, read_token_file};

use crate::controller::template::Template;
use crate::identity::Rate;
use crate::secret::Secret;
use crate::servers::Source;

/// How pods get `/dev/net/tun` (`TUN_DEVICE`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunDevice {
    /// The node's device as a hostPath volume of type CharDevice.
    HostPath,
    /// No volume: Gluetun makes the node itself, with MKNOD and DAC_OVERRIDE. 300 ms faster.
    Mknod,
    /// Nothing: kernel WireGuard needs no device.
    None,
    /// A device plugin's resource, such as `squat.ai/tun`.
    Resource(String),
}

/// Which header fields plain HTTP requests and answers get on their way (`FORWARDING_HEADERS`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// `Via`, in both directions (RFC 9110, 7.6.3).
    pub via: bool,
    /// `X-Forwarded-For` with the client's address, towards the origin.
    pub forwarded_for: bool,
}

/// How log lines are written (`LOG_FORMAT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For a person at a terminal.
    Text,
}

/// Every setting of the gateway, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// `PROXY_ADDR`: where the proxy port listens.
    pub proxy_addr: SocketAddr,
    /// `ADMIN_ADDR`: where the admin port listens.
    pub admin_addr: SocketAddr,
    /// `USERS_FILE`: htpasswd lines.
    pub users_file: PathBuf,
    /// `ACCOUNTS_FILE`: what accounts may do.
    pub accounts_file: Option<PathBuf>,
    /// `ACCOUNT_DRAIN_TIMEOUT`: how long the tunnels and exits of a removed account have.
    pub account_drain_timeout: Duration,
    /// `ADMIN_TOKEN`: bearer tokens of the admin API, none for an open one.
    pub admin_tokens: Vec<Secret>,
    /// `ADMIN_TOKEN_FILE`: where they were read from, and are read from again when it changes.
    pub admin_token_file: Option<PathBuf>,
    /// `CORS_ORIGINS`: origins whose pages may use the admin API; `*` alone for all of them.
    pub cors_origins: Vec<String>,
    /// `K8S_NAMESPACE`: where claims and pods live.
    pub namespace: String,
    /// Name of this replica (`POD_NAME`, else the host's name and the process id): the leader's identity.
    pub identity: String,
    /// `INSTANCE_LIMIT`: pods at most.
    pub instance_limit: usize,
    /// `IDLE_TIMEOUT`: after how long without a tunnel or request a session's exit goes.
    pub idle_timeout: Duration,
    /// `MAX_IDLE_TIMEOUT`: the most that `idle-` in a username may ask for.
    pub max_idle_timeout: Duration,
    /// `START_TIMEOUT`: how long a request is held at most.
    pub start_timeout: Duration,
    /// `START_ATTEMPT_TIMEOUT`: how long one pod may take from running to healthy.
    pub start_attempt_timeout: Duration,
    /// `CONNECT_TIMEOUT`: how long an exit may take to answer a CONNECT.
    pub connect_timeout: Duration,
    /// `EXIT_IPV6`: whether exits reach IPv6.
    pub exit_ipv6: bool,
    /// `TUN_DEVICE`: how pods get `/dev/net/tun`.
    pub tun_device: TunDevice,
    /// `GLUETUN_IMAGE`: image of the pods.
    pub gluetun_image: String,
    /// `POD_TEMPLATE_FILE`: what the operator adds to the pods.
    pub pod_template: Option<Template>,
    /// `VPN_SERVICE_PROVIDER`: the provider that the pods connect to.
    pub vpn_provider: String,
    /// `VPN_TYPE`: `wireguard`.
    pub vpn_type: String,
    /// `FIREWALL_INPUT_PORTS`: further ports that the pods let in, beside 8888 and 9999.
    pub firewall_input_ports: Vec<u16>,
    /// `GATEWAY_URL`: the address that `/start` and `/status` hand out, always `http://HOST:PORT`.
    pub gateway_url: String,
    /// `GLUETUN_GATEWAY_SERVICE_HOST`: the cluster IP of the gateway's Service, which Kubernetes sets.
    pub service_cluster_ip: Option<IpAddr>,
    /// `ALLOW_DESTINATIONS`: CIDRs and host patterns taken off the deny list.
    pub allow_destinations: Vec<String>,
    /// `DENY_DESTINATIONS`: further CIDRs and host patterns that are refused.
    pub deny_destinations: Vec<String>,
    /// `DRAIN_DELAY`: how long accepting goes on at shutdown.
    pub drain_delay: Duration,
    /// `DRAIN_TIMEOUT`: how long open tunnels have after that.
    pub drain_timeout: Duration,
    /// `MAX_CONNECTIONS`: client connections at once, in all.
    pub max_connections: usize,
    /// `MAX_UNAUTHENTICATED`: of those, the ones that have not logged in yet.
    pub max_unauthenticated: usize,
    /// `AUTH_THROTTLE`: failed logins of one address; none for no limit.
    pub auth_throttle: Option<Rate>,
    /// `FORWARDING_HEADERS`: what is added to plain HTTP requests and answers.
    pub forwarding_headers: Forwarding,
    /// `DATA_THREADS`: threads of the data path.
    pub data_threads: usize,
    /// `SERVERS_JSON` or `SERVERS_FILE_PATH`: where the server list comes from.
    pub servers: Option<Source>,
    /// `SERVERS_REFRESH`: how old a fetched list may become; zero for one that is fetched only when asked for.
    pub servers_refresh: Duration,
    /// `LOG_LEVEL`: a level or a `tracing` filter.
    pub log_level: String,
    /// `LOG_FORMAT`.
    pub log_format: LogFormat,
}
