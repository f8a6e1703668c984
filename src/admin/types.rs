//! What goes in and out of the management API, as plain types: the original system's names, to the
//! letter. Handlers fill them, the API's description is made from them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::session::pod::PodView;

/// Name of the gateway's own Service, which stands where the original system had a Service for each pod.
const SERVICE: &str = "gluetun-gateway";

/// What `POST /start` takes: a server, or a country or a city or both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct StartRequest {
    /// Key of a server, as `/servers` has it. The country and the city do not matter then.
    pub server: Option<String>,
    /// The server's country, as in the filter of `/servers`; of several that match, one by that very name
    /// goes first.
    pub country: Option<String>,
    /// The server's city, likewise.
    pub city: Option<String>,
    /// After how long without use the pod goes (`30s` to `24h`). Without it, it lives until `/destroy`.
    pub idle: Option<String>,
    /// At which age the pod goes (`1m` to `7d`).
    pub ttl: Option<String>,
}

/// What `POST /start` answers once the pod is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StartResponse {
    /// The pod's id: what `/destroy` takes.
    pub id: String,
    /// URL of the pod's own HTTP proxy, with its credentials.
    pub proxy: String,
    /// Name of the pod.
    pub pod_name: String,
    /// Address of the pod.
    pub pod_ip: IpAddr,
    /// User of the pod's proxy.
    pub username: String,
    /// Password of the pod's proxy.
    pub password: String,
    /// Where it is reached from anywhere in the cluster.
    #[serde(flatten)]
    pub service: Service,
}

/// What `POST /destroy` takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct DestroyRequest {
    /// The pod's id.
    pub id: Option<String>,
}

/// An answer that is a sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// What has been done.
    pub message: &'static str,
}

/// What `POST /servers/refresh` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refreshed {
    /// What has been done.
    pub message: &'static str,
    /// Servers in the list.
    pub server_count: usize,
}

/// Any answer that tells a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorBody {
    /// What went wrong, and what to do where that is known.
    pub error: String,
}

/// A pod of `GET /status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PodStatus {
    /// Name of the pod.
    pub pod_name: String,
    /// Address of the pod; none before it has one.
    pub pod_ip: Option<IpAddr>,
    /// Key of its server in `/servers`; the hostname of one that the list does not have.
    pub server: String,
    /// User of the pod's proxy.
    pub username: Option<String>,
    /// Password of the pod's proxy.
    pub password: Option<String>,
    /// Port of the pod's proxy.
    pub port: u16,
    /// The pod's phase in lower case.
    pub status: String,
    /// Where it is reached from anywhere in the cluster.
    #[serde(flatten)]
    pub service: Service,
}

/// Where a pod is reached from anywhere in the cluster: the gateway's stable address, with the pod's own
/// credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Service {
    /// Name of the gateway's Service.
    pub service_name: &'static str,
    /// Its cluster IP, where it is known.
    pub service_cluster_ip: Option<IpAddr>,
    /// Its name in the cluster's DNS.
    pub service_dns: String,
    /// Its port.
    pub service_port: u16,
    /// URL of the gateway's proxy port with the pod's credentials; none for a pod of another system, whose
    /// credentials the gateway does not take.
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Locations {
    /// The countries.
    pub countries: Vec<CountryLocations>,
    /// How many countries there are.
    pub total_countries: usize,
    /// How many cities there are in all.
    pub total_cities: usize,
    /// How many servers there are in all.
    pub total_servers: usize,
}

/// A country of [`Locations`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CountryLocations {
    /// Its name, as the provider spells it.
    pub name: String,
    /// How many cities it has.
    pub city_count: usize,
    /// How many servers it has.
    pub total_servers: usize,
    /// The cities.
    pub cities: Vec<CityLocations>,
}

/// A city of [`CountryLocations`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CityLocations {
    /// Its name, as the provider spells it; `Unknown` for servers without one.
    pub name: String,
    /// How many servers it has.
    pub server_count: usize,
    /// Hostname of one of them.
    pub sample_hostname: String,
}
