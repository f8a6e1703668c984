//! The look-alike's settings: what Gluetun's environment means, and what it refuses.

use super::*;

const KEY: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

fn read(changes: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    let mut env: Vec<(String, String)> = [
        ("VPN_SERVICE_PROVIDER", "mullvad"),
        ("VPN_TYPE", "wireguard"),
        ("WIREGUARD_PRIVATE_KEY", KEY),
        ("WIREGUARD_ADDRESSES", "10.64.0.2/32"),
        ("SERVER_HOSTNAMES", "se-mma-wg-001"),
        ("HTTPPROXY", "on"),
        ("FIREWALL_INPUT_PORTS", "8888,9999"),
    ]
    .iter()
    .chain(changes)
    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
    .collect();
    env.retain(|(_, value)| value != "unset");
    for (name, _) in changes.iter().filter(|(_, value)| *value == "unset") {
        env.retain(|(key, _)| key != name);
    }
    let spec = ContainerSpec {
        pod_name: "gluetun-1".into(),
        pod_ip: IpAddr::from([127, 42, 0, 1]),
        image: String::new(),
        argv: Vec::new(),
        env,
    };
    Settings::read(&spec, &ServerList::builtin())
}

fn error(changes: &[(&str, &str)]) -> String {
    match read(changes) {
        Ok(_) => panic!("accepted {changes:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_gateways_environment_is_accepted() {
    let settings = read(&[
        ("HEALTH_SERVER_ADDRESS", ":9999"),
        ("HTTPPROXY_LISTENING_ADDRESS", ":8888"),
        ("HTTPPROXY_STEALTH", "on"),
        ("DNS_UPSTREAM_RESOLVER_TYPE", "plain"),
        ("STORAGE_FILEPATH", ""),
        ("HTTP_CONTROL_SERVER_ADDRESS", "127.0.0.1:8000"),
        ("HTTP_CONTROL_SERVER_AUTH_DEFAULT_ROLE", r#"{"auth":"apikey","apikey":"k"}"#),
    ])
    .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(settings.server.map(|server| server.city).as_deref(), Some("Malmö"));
    assert!(settings.plain_dns);
    let pod = IpAddr::from([127, 42, 0, 1]);
    assert!(settings.health.is_public(pod, &settings.input_ports));
    assert!(!settings.control.is_public(pod, &settings.input_ports));
    assert!(matches!(settings.role, Role::ApiKey { apikey } if apikey == "k"));
    let proxy = settings.proxy.unwrap();
    assert!(proxy.listen.is_public(pod, &settings.input_ports) && proxy.stealth);
}

#[test]
fn the_health_server_is_private_by_default_and_without_its_input_port() {
    let pod = IpAddr::from([127, 42, 0, 1]);
    for changes in [&[][..], &[("HEALTH_SERVER_ADDRESS", ":9999"), ("FIREWALL_INPUT_PORTS", "8888")][..]] {
        let settings = read(changes).unwrap_or_else(|error| panic!("{error}"));
        assert!(!settings.health.is_public(pod, &settings.input_ports), "{changes:?}");
    }
}

#[test]
fn an_unknown_hostname_is_answered_with_every_hostname() {
    let error = error(&[("SERVER_HOSTNAMES", "se-mma-wg-999")]);
    let start = "VPN settings: provider settings: server selection: for VPN service provider mullvad: the hostname \
                 specified is not valid: value is not one of the possible choices: none of se-mma-wg-999 is one of ";
    assert!(error.starts_with(start), "{error}");
    for server in ServerList::builtin().servers() {
        assert!(error.contains(&server.hostname), "{}", server.hostname);
    }
}

#[test]
fn each_mistake_has_gluetuns_text() {
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("WIREGUARD_PRIVATE_KEY", "unset")], "VPN settings: Wireguard settings: private key is not set"),
        (
            &[("WIREGUARD_PRIVATE_KEY", "not base64!")],
            "VPN settings: Wireguard settings: private key is not valid: wgtypes: failed to parse base64-encoded key: illegal base64 data at input byte 3",
        ),
        (
            &[("WIREGUARD_PRIVATE_KEY", "AQID")],
            "VPN settings: Wireguard settings: private key is not valid: wgtypes: incorrect key size: 3",
        ),
        (
            &[("WIREGUARD_ADDRESSES", "unset")],
            "VPN settings: Wireguard settings: interface address is not set",
        ),
        (
            &[("WIREGUARD_ADDRESSES", "10.0.0.1/33")],
            "reading Wireguard settings: environment variable WIREGUARD_ADDRESSES: ",
        ),
        (
            &[("WIREGUARD_ADDRESSES", "ten")],
            "reading Wireguard settings: environment variable WIREGUARD_ADDRESSES: ",
        ),
        (
            &[("HTTPPROXY_LISTENING_ADDRESS", "8888")],
            "http proxy settings: server listening address is not valid: address 8888: missing port in address",
        ),
        (
            &[("FIREWALL_INPUT_PORTS", "8888,x")],
            "reading firewall settings: environment variable FIREWALL_INPUT_PORTS: ",
        ),
        (
            &[("FIREWALL_INPUT_PORTS", "0")],
            "reading firewall settings: environment variable FIREWALL_INPUT_PORTS: ",
        ),
        (&[("HTTPPROXY", "maybe")], "reading HTTP proxy settings: environment variable HTTPPROXY: "),
        (
            &[("VPN_SERVICE_PROVIDER", "nobody")],
            "VPN settings: provider settings: VPN provider name is not valid for Wireguard: ",
        ),
        (
            &[("VPN_TYPE", "openvpn")],
            "VPN settings: provider settings: VPN provider name is not valid for OpenVPN: ",
        ),
        (&[("VPN_TYPE", "ipsec")], "VPN settings: VPN type is not valid: "),
        (&[("HEALTH_SERVER_ADDRESS", "9999")], "health settings: server listening address is not valid: "),
        (&[("DNS_UPSTREAM_RESOLVER_TYPE", "udp")], "DNS settings: DNS upstream resolver type is not valid: "),
        (
            &[("HTTP_CONTROL_SERVER_ADDRESS", "8000")],
            "control server settings: listening address is not valid: ",
        ),
        (
            &[("SERVER_COUNTRIES", "Atlantis")],
            "VPN settings: provider settings: server selection: for VPN service provider mullvad: the country specified is not valid: ",
        ),
    ];
    for (changes, start) in cases {
        let error = error(changes);
        assert!(error.starts_with(start), "{changes:?}: {error}");
    }
}

#[test]
fn errors_hold_no_secret() {
    let role = error(&[("HTTP_CONTROL_SERVER_AUTH_DEFAULT_ROLE", r#"{"auth":"apikey","apikey":"hush"#)]);
    let key = error(&[("WIREGUARD_PRIVATE_KEY", "hush!")]);
    assert!(!role.contains("hush") && !key.contains("hush"), "{role} {key}");
}

#[test]
fn filters_choose_a_server_and_no_match_is_no_error() {
    let chosen = |changes: &[(&str, &str)]| read(changes).unwrap_or_else(|error| panic!("{error}")).server;
    let server =
        chosen(&[("SERVER_HOSTNAMES", "unset"), ("SERVER_COUNTRIES", "sweden"), ("SERVER_CITIES", "MALMÖ")]);
    assert_eq!(server.map(|server| server.city).as_deref(), Some("Malmö"));
    assert_eq!(chosen(&[("SERVER_COUNTRIES", "Japan")]), None);
}
