//! What the controller's unit tests are made of: claims, pods and a server list.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::facts::PodFacts;
use crate::config::{Config, LogFormat, TunDevice};
use crate::selector::SessionKey;
use crate::servers::Catalogue;
use crate::session::claim::Claim;
use crate::session::pod::{Binding, PodView, Stage, pod_name};

/// The clock at the start of a test.
pub(super) fn wall() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// A session's key from its canonical form.
pub(super) fn key(canonical: &str) -> SessionKey {
    SessionKey::parse_canonical(canonical).unwrap()
}

/// A claim that was made at [`wall`], with an idle timeout of 60 s.
pub(super) fn claim(key: &SessionKey, uid: &str) -> Claim {
    Claim {
        name: key.claim_name(),
        uid: uid.to_owned(),
        resource_version: "1".to_owned(),
        key: key.clone(),
        created: wall(),
        renewed: wall(),
        duration: Duration::from_secs(60),
        transition: 0,
        holder: None,
        pinned: false,
        ttl: None,
        expires: None,
        ready: None,
        reason: None,
        replace: None,
        renewed_older: BTreeMap::new(),
        no_wait: false,
    }
}

/// The pod of a claim's current transition, on server `se-1`.
pub(super) fn pod(claim: &Claim, uid: &str, stage: Stage) -> PodFacts {
    let binding =
        Binding { claim: claim.name.clone(), claim_uid: claim.uid.clone(), transition: claim.transition };
    PodFacts {
        view: PodView {
            name: pod_name(&claim.uid, claim.transition),
            uid: uid.to_owned(),
            id: String::new(),
            owner: Some(claim.key.account.clone()),
            binding: Some(binding),
            server: Some("se-1".to_owned()),
            server_key: None,
            country: "Sweden".to_owned(),
            city: String::new(),
            ip: Some([10, 0, 0, 1].into()),
            user: None,
            password: None,
            stage,
            ready: false,
            phase: String::new(),
            finished: false,
            created: Some(wall()),
        },
        unschedulable: None,
        waiting: None,
        ended: None,
        status: None,
    }
}

/// Servers `se-1`, … and `no-1`, …, so many of each.
pub(super) fn catalogue(each: usize) -> Arc<Catalogue> {
    let server = |country: &str, code: &str, n: usize| serde_json::json!({"vpn": "wireguard", "country": country, "city": "", "hostname": format!("{code}-{n}")});
    let servers: Vec<_> =
        (1..=each).flat_map(|n| [server("Sweden", "se", n), server("Norway", "no", n)]).collect();
    Arc::new(Catalogue::parse(&serde_json::json!({ "servers": servers }).to_string()).unwrap())
}

/// Settings as a gateway without any of its own has them.
pub(super) fn config() -> Config {
    let address = ([127, 0, 0, 1], 0).into();
    let seconds = Duration::from_secs;
    Config {
        proxy_addr: address,
        admin_addr: address,
        users_file: "users".into(),
        accounts_file: None,
        account_drain_timeout: seconds(25),
        admin_tokens: Vec::new(),
        admin_token_file: None,
        cors_origins: Vec::new(),
        namespace: "gluetun-system".to_owned(),
        identity: "gateway-0".to_owned(),
        instance_limit: 5,
        idle_timeout: seconds(300),
        max_idle_timeout: seconds(3600),
        start_timeout: seconds(90),
        start_attempt_timeout: seconds(20),
        connect_timeout: seconds(25),
        exit_ipv6: false,
        tun_device: TunDevice::HostPath,
        gluetun_image: "qmcgaw/gluetun:v3.41.3".to_owned(),
        pod_template: None,
        vpn_provider: "mullvad".to_owned(),
        vpn_type: "wireguard".to_owned(),
        firewall_input_ports: Vec::new(),
        gateway_url: "http://gluetun-gateway:8080".to_owned(),
        service_cluster_ip: None,
        allow_destinations: Vec::new(),
        deny_destinations: Vec::new(),
        drain_delay: seconds(5),
        drain_timeout: seconds(25),
        max_connections: 1024,
        max_unauthenticated: 250,
        auth_throttle: None,
        forwarding_headers: Default::default(),
        data_threads: 1,
        servers: None,
        servers_refresh: Duration::ZERO,
        log_level: "info".to_owned(),
        log_format: LogFormat::Text,
    }
}
