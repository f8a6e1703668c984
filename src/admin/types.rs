//! What goes in and out of the management API, as plain types: the original system's names, to the
//! letter. Handlers fill them, the API's description is made from them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::Config;
use crate::session::pod::PodView;

/// Name of the gateway's own Service, which stands where the original system had a Service for each pod.
const SERVICE: &str = "gluetun-gateway";

/// What `POST /start` takes: a server, or a country or a city or both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
pub struct StartRequest {
    /// Key of a server, as `/servers` has it. The country and the city do not matter then.
    #[schema(example = "usa-new-york-ny-us-nyc-wg-301")]
    pub server: Option<String>,
    /// The server's country, as in the filter of `/servers`; of several that match, one by that very name
    /// goes first.
    #[schema(example = "Sweden")]
    pub country: Option<String>,
    /// The server's city, likewise.
    #[schema(example = "Malmö")]
    pub city: Option<String>,
    /// After how long without use the pod goes (`30s` to `24h`). Without it, it lives until `/destroy`.
    #[schema(example = "10m")]
    pub idle: Option<String>,
    /// At which age the pod goes (`1m` to `7d`).
    #[schema(example = "2h")]
    pub ttl: Option<String>,
}

/// What `POST /start` answers once the pod is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct StartResponse {
    /// The pod's id: what `/destroy` takes.
    #[schema(example = "444b33d0-0604-578f-a246-c49a9fe4c5c8")]
    pub id: String,
    /// URL of the pod's own HTTP proxy, with its credentials.
    #[schema(example = "http://pod.k2x7c4q5:s3cr3t@10.42.0.18:8888")]
    pub proxy: String,
    /// Name of the pod.
    #[schema(example = "gluetun-444b33d0-0604-578f-a246-c49a9fe4c5c8")]
    pub pod_name: String,
    /// Address of the pod.
    #[schema(value_type = String, example = "10.42.0.18")]
    pub pod_ip: IpAddr,
    /// User of the pod's proxy.
    #[schema(example = "pod.k2x7c4q5")]
    pub username: String,
    /// Password of the pod's proxy.
    #[schema(example = "s3cr3t")]
    pub password: String,
    /// Where it is reached from anywhere in the cluster.
    #[serde(flatten)]
    pub service: Service,
}

/// What `POST /destroy` takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
pub struct DestroyRequest {
    /// The pod's id.
    #[schema(example = "444b33d0-0604-578f-a246-c49a9fe4c5c8")]
    pub id: Option<String>,
}

/// An answer that is a sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Message {
    /// What has been done.
    #[schema(example = "Pod destroyed")]
    pub message: &'static str,
}

/// What `POST /servers/refresh` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Refreshed {
    /// What has been done.
    #[schema(example = "Server cache refreshed")]
    pub message: &'static str,
    /// Servers in the list.
    #[schema(minimum = 0, example = 537)]
    pub server_count: usize,
}

/// Any answer that tells a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong, and what to do where that is known.
    #[schema(example = "Not found")]
    pub error: String,
}

/// A pod of `GET /status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PodStatus {
    /// Name of the pod.
    #[schema(example = "gluetun-444b33d0-0604-578f-a246-c49a9fe4c5c8")]
    pub pod_name: String,
    /// Address of the pod; none before it has one.
    #[schema(value_type = Option<String>, example = "10.42.0.18")]
    pub pod_ip: Option<IpAddr>,
    /// Key of its server in `/servers`; the hostname of one that the list does not have.
    #[schema(example = "sweden-gothenburg-se-got-wg-003")]
    pub server: String,
    /// User of the pod's proxy.
    #[schema(example = "pod.k2x7c4q5")]
    pub username: Option<String>,
    /// Password of the pod's proxy.
    #[schema(example = "s3cr3t")]
    pub password: Option<String>,
    /// Port of the pod's proxy.
    #[schema(example = 8888)]
    pub port: u16,
    /// The pod's phase in lower case.
    #[schema(example = "running")]
    pub status: String,
    /// Where it is reached from anywhere in the cluster.
    #[serde(flatten)]
    pub service: Service,
}

/// Where a pod is reached from anywhere in the cluster: the gateway's stable address, with the pod's own
/// credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Service {
    /// Name of the gateway's Service.
    #[schema(example = "gluetun-gateway")]
    pub service_name: &'static str,
    /// Its cluster IP, where it is known.
    #[schema(value_type = Option<String>, example = "10.43.7.20")]
    pub service_cluster_ip: Option<IpAddr>,
    /// Its name in the cluster's DNS.
    #[schema(example = "gluetun-gateway.gluetun-system.svc.cluster.local")]
    pub service_dns: String,
    /// Its port.
    #[schema(example = 8080)]
    pub service_port: u16,
    /// URL of the gateway's proxy port with the pod's credentials; none for a pod of another system, whose
    /// credentials the gateway does not take.
    #[schema(example = "http://pod.k2x7c4q5:s3cr3t@gluetun-gateway.gluetun-system.svc.cluster.local:8080")]
    pub service_url: Option<String>,
}

impl Service {
    /// How `pod` is reached.
    pub(super) fn of(pod: &PodView, config: &Config) -> Self {
        // `http://HOST:PORT`, as the settings have it.
        let gateway = config.gateway_url.as_str();
        let authority = gateway.strip_prefix("http://").unwrap_or(gateway);
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
        let credentials = pod.binding.as_ref().and(pod.user.as_deref()).zip(pod.password.as_ref());
        Self {
            service_name: SERVICE,
            service_cluster_ip: config.service_cluster_ip,
            service_dns: host.to_owned(),
            service_port: port.parse().unwrap_or(80),
            // Both are made of letters and digits (and a dot): nothing to escape.
            service_url: credentials
                .map(|(user, password)| format!("http://{user}:{}@{authority}", password.expose())),
        }
    }
}

/// What `GET /locations` answers: every place, sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Locations {
    /// The countries.
    pub countries: Vec<CountryLocations>,
    /// How many countries there are.
    #[schema(minimum = 0, example = 1)]
    pub total_countries: usize,
    /// How many cities there are in all.
    #[schema(minimum = 0, example = 2)]
    pub total_cities: usize,
    /// How many servers there are in all.
    #[schema(minimum = 0, example = 5)]
    pub total_servers: usize,
}

/// A country of [`Locations`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct CountryLocations {
    /// Its name, as the provider spells it.
    #[schema(example = "Sweden")]
    pub name: String,
    /// How many cities it has.
    #[schema(minimum = 0, example = 2)]
    pub city_count: usize,
    /// How many servers it has.
    #[schema(minimum = 0, example = 5)]
    pub total_servers: usize,
    /// The cities.
    pub cities: Vec<CityLocations>,
}

/// A city of [`CountryLocations`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct CityLocations {
    /// Its name, as the provider spells it; `Unknown` for servers without one.
    #[schema(example = "Gothenburg")]
    pub name: String,
    /// How many servers it has.
    #[schema(minimum = 0, example = 3)]
    pub server_count: usize,
    /// Hostname of one of them.
    #[schema(example = "se-got-wg-001")]
    pub sample_hostname: String,
}

/// What `GET /health` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Health {
    /// Always `healthy`: what cannot answer is not.
    #[schema(example = "healthy")]
    pub status: &'static str,
    /// Whether the gateway knows servers.
    pub servers_loaded: bool,
    /// Where the server list came from: `variable`, `file`, `cached`, `job` or `built-in`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "job")]
    pub servers_source: Option<&'static str>,
    /// How old the list is, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub servers_age_seconds: Option<u64>,
    /// Servers in the list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub servers_count: Option<usize>,
}

/// What `GET /livez` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Alive {
    /// Whether all event loops turn.
    pub alive: bool,
    /// Names of those that do not.
    #[schema(example = json!([]))]
    pub stalled: Vec<String>,
}

/// What `GET /readyz` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Ready {
    /// Whether traffic is welcome.
    pub ready: bool,
    /// Whether the gateway is shutting down.
    pub draining: bool,
    /// What it waits for.
    #[schema(example = json!([]))]
    pub waiting_for: Vec<String>,
    /// What it waited for and will not come.
    #[schema(example = json!([]))]
    pub failed: Vec<String>,
    /// What it does without.
    #[schema(example = json!([]))]
    pub without: Vec<String>,
}
