//! Settings, well-formed and not.

use std::collections::BTreeSet;

use base64::Engine as _;

use super::*;
use crate::config::SETTINGS;
use crate::config::TunDevice;

/// A hash as `htpasswd -B` writes it.
const HASH: &str = "$2y$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy";

/// A users file with one good account, in a directory that goes with it.
fn users_file() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users");
    std::fs::write(&path, format!("demo:{HASH}\n")).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (dir, path)
}

fn load(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let (_dir, users) = users_file();
    let all = [("USERS_FILE", users.as_str())].into_iter().chain(variables.iter().copied());
    Config::load(&Environment::of(all))
}

/// The mistakes' text.
fn mistakes(variables: &[(&str, &str)]) -> String {
    load(variables).unwrap_err().to_string()
}

#[test]
fn only_the_users_file_is_required() {
    let config = load(&[]).unwrap();
    assert_eq!(config.proxy_addr, "0.0.0.0:8080".parse().unwrap());
    assert_eq!(config.admin_addr, "0.0.0.0:8001".parse().unwrap());
    assert!(config.admin_tokens.is_empty());
    assert_eq!(config.namespace, "gluetun-system");
    assert_eq!(config.gateway_url, "http://gluetun-gateway.gluetun-system.svc.cluster.local:8080");
    assert_eq!(config.service_cluster_ip, None);
    assert_eq!(config.instance_limit, 5);
    assert_eq!(config.idle_timeout, secs(300));
    assert_eq!(config.max_idle_timeout, secs(DAY));
    assert_eq!(config.start_timeout, secs(90));
    assert_eq!(config.start_attempt_timeout, secs(20));
    assert_eq!(config.connect_timeout, secs(25));
    assert!(!config.exit_ipv6);
    assert_eq!(config.tun_device, TunDevice::HostPath);
    assert_eq!(config.gluetun_image, "qmcgaw/gluetun:v3.41.3");
    assert_eq!(config.vpn_provider, "mullvad");
    assert_eq!(config.vpn_type, "wireguard");
    assert!(config.firewall_input_ports.is_empty());
    assert_eq!((config.drain_delay, config.drain_timeout), (secs(5), secs(25)));
    assert_eq!(config.servers, None);
    assert_eq!(config.servers_refresh, secs(DAY));
    assert_eq!(config.log_format, LogFormat::Json);
    assert!(config.identity.starts_with("localhost-"), "{}", config.identity);
    assert!(config.data_threads >= 1);
    assert_eq!((config.max_connections, config.max_unauthenticated), (16_384, 4096));
    assert_eq!(config.auth_throttle, "10/1m".parse().ok());
    assert_eq!(config.forwarding_headers, Forwarding::default());
}

#[test]
fn the_list_is_refreshed_never_or_not_too_often() {
    assert_eq!(load(&[("SERVERS_REFRESH", "0")]).unwrap().servers_refresh, secs(0));
    assert_eq!(load(&[("SERVERS_REFRESH", "1m")]).unwrap().servers_refresh, secs(60));
    assert_eq!(
        mistakes(&[("SERVERS_REFRESH", "59s")]),
        "SERVERS_REFRESH: 59s is less than 1m; write at least that, or 0 for never"
    );
}

#[test]
fn every_setting_is_taken() {
    let key = base64::engine::general_purpose::STANDARD.encode([7; 32]);
    let config = load(&[
        ("PROXY_ADDR", "[::1]:3128"),
        ("ADMIN_ADDR", "127.0.0.1:0"),
        ("ADMIN_TOKEN", "0123456789abcdef, fedcba9876543210"),
        ("CORS_ORIGINS", "https://maps.example http://10.0.0.1:5000"),
        ("K8S_NAMESPACE", "vpn"),
        ("POD_NAME", "gluetun-gateway-abc"),
        ("INSTANCE_LIMIT", "12"),
        ("IDLE_TIMEOUT", "2s"),
        ("MAX_IDLE_TIMEOUT", "1h"),
        ("START_TIMEOUT", "30s"),
        ("START_ATTEMPT_TIMEOUT", "10s"),
        ("CONNECT_TIMEOUT", "5s"),
        ("EXIT_IPV6", "ON"),
        ("TUN_DEVICE", "squat.ai/tun"),
        ("GLUETUN_IMAGE", "registry.example:5000/gluetun@sha256:abc"),
        ("VPN_SERVICE_PROVIDER", "ProtonVPN"),
        ("VPN_TYPE", "WireGuard"),
        ("FIREWALL_INPUT_PORTS", "8888, 9999,9100,80"),
        ("WIREGUARD_PRIVATE_KEY", &key),
        ("WIREGUARD_ADDRESSES", "10.64.0.2/32, fc00::2/128"),
        ("GATEWAY_URL", "http://gw.example/"),
        ("GLUETUN_GATEWAY_SERVICE_HOST", "10.96.0.7"),
        ("ALLOW_DESTINATIONS", "10.0.0.0/8,*.corp.example"),
        ("DENY_DESTINATIONS", "203.0.113.0/24"),
        ("DRAIN_DELAY", "0s"),
        ("DRAIN_TIMEOUT", "1m"),
        ("TERMINATION_GRACE_PERIOD_SECONDS", "67"),
        ("MAX_CONNECTIONS", "100"),
        ("MAX_UNAUTHENTICATED", "10"),
        ("AUTH_THROTTLE", "OFF"),
        ("FORWARDING_HEADERS", "Via, X-Forwarded-For"),
        ("DATA_THREADS", "3"),
        (
            "SERVERS_JSON",
            r#"[{"vpn":"wireguard","country":"Sweden","city":"Malmö","hostname":"se-mma-wg-001"}]"#,
        ),
        ("LOG_LEVEL", "WARNING"),
        ("LOG_FORMAT", "text"),
    ])
    .unwrap();
    assert_eq!(config.proxy_addr, "[::1]:3128".parse().unwrap());
    assert_eq!(config.admin_tokens.len(), 2);
    assert_eq!(config.admin_tokens[1].expose(), "fedcba9876543210");
    assert_eq!(config.admin_token_file, None);
    assert_eq!(config.cors_origins, ["https://maps.example", "http://10.0.0.1:5000"]);
    assert_eq!(config.namespace, "vpn");
    assert_eq!(config.identity, "gluetun-gateway-abc");
    assert_eq!(config.idle_timeout, secs(2));
    assert!(config.exit_ipv6);
    assert_eq!(config.tun_device, TunDevice::Resource("squat.ai/tun".to_owned()));
    assert_eq!(config.vpn_provider, "protonvpn");
    assert_eq!(config.firewall_input_ports, [80, 9100]);
    assert_eq!(config.gateway_url, "http://gw.example:80");
    assert_eq!(config.service_cluster_ip, Some("10.96.0.7".parse().unwrap()));
    assert_eq!(config.allow_destinations, ["10.0.0.0/8", "*.corp.example"]);
    assert!(matches!(config.servers, Some(Source::Text(_))));
    assert_eq!(config.log_format, LogFormat::Text);
    assert_eq!(config.data_threads, 3);
    assert_eq!((config.max_unauthenticated, config.auth_throttle), (10, None));
    assert_eq!(config.forwarding_headers, Forwarding { via: true, forwarded_for: true });
}

#[test]
fn all_mistakes_are_told_at_once_and_each_names_its_variable() {
    let bad = [
        ("PROXY_ADDR", ":8080"),
        ("ADMIN_ADDR", "localhost"),
        ("ADMIN_TOKEN", "short"),
        ("CORS_ORIGINS", "maps.example"),
        ("K8S_NAMESPACE", "Not_A_Name"),
        ("INSTANCE_LIMIT", "-1"),
        ("IDLE_TIMEOUT", "300"),
        ("MAX_IDLE_TIMEOUT", "forever"),
        ("START_TIMEOUT", "0s"),
        ("START_ATTEMPT_TIMEOUT", "1h"),
        ("CONNECT_TIMEOUT", "1"),
        ("EXIT_IPV6", "perhaps"),
        ("TUN_DEVICE", "squat"),
        ("GLUETUN_IMAGE", "an image"),
        ("VPN_SERVICE_PROVIDER", "mullvad;"),
        ("VPN_TYPE", "openvpn"),
        ("FIREWALL_INPUT_PORTS", "80,70000"),
        ("WIREGUARD_PRIVATE_KEY", "c2hvcnQ="),
        ("WIREGUARD_ADDRESSES", "10.64.0.2"),
        ("GATEWAY_URL", "https://user:pass@gw:8080"),
        ("DRAIN_DELAY", "5"),
        ("DRAIN_TIMEOUT", "2d"),
        ("TERMINATION_GRACE_PERIOD_SECONDS", "30s"),
        ("MAX_CONNECTIONS", "0"),
        ("MAX_UNAUTHENTICATED", "0"),
        ("AUTH_THROTTLE", "10"),
        ("FORWARDING_HEADERS", "via,forwarded"),
        ("DATA_THREADS", "many"),
        ("SERVERS_FILE_PATH", "/nowhere/servers.json"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
    ];
    let error = load(&bad).unwrap_err();
    for (name, value) in bad {
        let told: Vec<_> = error.0.iter().filter(|m| m.name == name).collect();
        assert_eq!(told.len(), 1, "{name}={value}: {told:?}");
        assert!(!told[0].what.is_empty() && !told[0].fix.is_empty(), "{name}");
    }
    let text = error.to_string();
    assert_eq!(text.lines().count(), bad.len(), "one line each: {text}");
}

#[test]
fn origins_are_what_browsers_send() {
    let origins = |value| load(&[("CORS_ORIGINS", value)]).map(|config| config.cors_origins);
    let default = ["http://localhost:5000", "http://127.0.0.1:5000"];
    assert_eq!(load(&[]).unwrap().cors_origins, default);
    assert_eq!(origins("").unwrap(), default);
    assert_eq!(origins("*").unwrap(), ["*"]);
    assert!(origins("None").unwrap().is_empty());
    let bad = [
        "*,http://a.example",
        "http://a.example/",
        "http://a.example/x",
        "http://u:p@a.example",
        "a.example",
        "//a",
    ];
    for bad in bad {
        let error = origins(bad).unwrap_err().to_string();
        assert!(error.contains("is not an origin"), "{bad}: {error}");
    }
}

#[test]
fn tokens_may_come_from_a_file_which_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens");
    std::fs::write(&path, "# the screenshots\n0123456789abcdef\n# the map\nfedcba9876543210\n").unwrap();
    let config = load(&[("ADMIN_TOKEN_FILE", path.to_str().unwrap())]).unwrap();
    assert_eq!(config.admin_tokens.len(), 2);
    assert_eq!(config.admin_token_file.as_deref(), Some(path.as_path()));
    std::fs::write(&path, "# none\n").unwrap();
    assert!(
        mistakes(&[("ADMIN_TOKEN_FILE", path.to_str().unwrap())]).contains("ADMIN_TOKEN: holds no token")
    );
}

#[test]
fn no_secret_is_shown() {
    let text = mistakes(&[
        ("ADMIN_TOKEN", "hunter2"),
        ("WIREGUARD_PRIVATE_KEY", "aHVudGVyMg=="),
        ("WIREGUARD_ADDRESSES", "10.9.8.7"),
        ("GATEWAY_URL", "http://hunter2@gw"),
        ("IDLE_TIMEOUT", "x"),
    ]);
    for secret in ["hunter2", "aHVudGVyMg", "10.9.8.7"] {
        assert!(!text.contains(secret), "{text}");
    }
    let config = load(&[("ADMIN_TOKEN", "correct-horse-battery")]).unwrap();
    assert!(!format!("{config:?}").contains("correct-horse"), "{config:?}");
}

#[test]
fn a_missing_users_file_says_how_to_make_one() {
    let text = Config::load(&Environment::of::<String, String>([])).unwrap_err().to_string();
    assert!(text.starts_with("USERS_FILE: is not set"), "{text}");
    assert!(text.contains("hash-password"), "{text}");
    let text = Config::load(&Environment::of([("USERS_FILE", "/nowhere/users")])).unwrap_err().to_string();
    assert!(text.starts_with("USERS_FILE: cannot read /nowhere/users: "), "{text}");
}

#[test]
fn mistakes_in_the_users_file_are_told_with_their_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users");
    std::fs::write(&path, "# accounts\nalice:plain-text\nBob:x\n").unwrap();
    let error = Config::load(&Environment::of([("USERS_FILE", path.to_str().unwrap())])).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("line 2") && text.contains("line 3"), "{text}");
    assert!(!text.contains("plain-text"), "{text}");
}

#[test]
fn both_files_of_accounts_are_told_of_at_once_with_lines_and_columns() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(at("users"), "alice:plain-text\n").unwrap();
    std::fs::write(at("accounts"), "accounts:\n  alice:\n    max_sesions: 3\n    max_idle: 300\n").unwrap();
    let env = Environment::of([("USERS_FILE", at("users")), ("ACCOUNTS_FILE", at("accounts"))]);
    let error = Config::load(&env).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.0.len(), 3, "{text}");
    assert!(text.contains("USERS_FILE: ") && text.contains("users, line 1, column 7: alice: "), "{text}");
    assert!(text.contains("accounts, line 3, column 5: 'alice' has no field 'max_sesions'"), "{text}");
    assert!(text.contains("did you mean 'max_sessions'?"), "{text}");
    assert!(text.contains("line 4, column 15: '300' lacks its unit: write 300s or 300m"), "{text}");

    // None hides another: neither of the same line, nor of the other file.
    let hash = bcrypt::hash("x", 4).unwrap();
    std::fs::write(at("users"), format!("alice:{hash}\n")).unwrap();
    std::fs::write(at("accounts"), "groups: {alice: {}}\ndefaults: {ttl: 300}\n---\nx: 1\n").unwrap();
    let text = Config::check(&env).unwrap_err().to_string();
    for mistake in [
        "line 1, column 10: 'alice' is an account",
        "line 2, column 12: 'defaults' has no field 'ttl'",
        "second document",
    ] {
        assert!(text.contains(mistake), "{text}");
    }
    std::fs::write(at("users"), "Alice:x\n").unwrap();
    std::fs::write(at("accounts"), "groups: [\n").unwrap();
    let text = Config::check(&env).unwrap_err().to_string();
    for mistake in ["lower case", "line 1, column 7: this account: ", "not YAML"] {
        assert!(text.contains(mistake), "{text}");
    }

    // What only a look at the server list shows keeps nobody from starting, and is told to who asks.
    let list = r#"[{"vpn":"wireguard","country":"Sweden","city":"Malmo","hostname":"se-mma-wg-001"}]"#;
    std::fs::write(at("users"), format!("alice:{hash}\n")).unwrap();
    let text = "defaults:\n  places: {allow: [country-swden]}\naccounts:\n  alcie: {}\n";
    std::fs::write(at("accounts"), text).unwrap();
    let list = ("SERVERS_JSON", list.to_owned());
    let env = Environment::of([("USERS_FILE", at("users")), ("ACCOUNTS_FILE", at("accounts")), list.clone()]);
    assert!(Config::load(&env).is_ok());
    let text = Config::check(&env).unwrap_err().to_string();
    assert!(text.contains("line 2, column 20: no country 'swden'") && text.contains("sweden"), "{text}");
    std::fs::write(at("accounts"), "accounts:\n  alcie: {}\n").unwrap();
    let (_, warnings) = Config::check(&env).unwrap();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].what.contains("no account 'alcie'; did you mean 'alice'?"), "{}", warnings[0]);
}

#[test]
fn settings_must_fit_each_other() {
    assert_eq!(
        mistakes(&[("IDLE_TIMEOUT", "2h"), ("MAX_IDLE_TIMEOUT", "1h")]),
        "IDLE_TIMEOUT: 2h is more than MAX_IDLE_TIMEOUT, which is 1h; lower it, or raise MAX_IDLE_TIMEOUT"
    );
    assert_eq!(
        mistakes(&[("START_TIMEOUT", "10s")]),
        "START_ATTEMPT_TIMEOUT: 20s is more than START_TIMEOUT, which is 10s; lower it, or raise START_TIMEOUT"
    );
    assert_eq!(
        mistakes(&[("TERMINATION_GRACE_PERIOD_SECONDS", "30")]),
        "TERMINATION_GRACE_PERIOD_SECONDS: DRAIN_DELAY (5s) and DRAIN_TIMEOUT (25s) and 7s to stop do not fit into \
         30s; raise the pod's terminationGracePeriodSeconds to 37, or lower them"
    );
    assert_eq!(
        mistakes(&[("ADMIN_ADDR", "127.0.0.1:8080")]),
        "ADMIN_ADDR: 127.0.0.1:8080 collides with PROXY_ADDR 0.0.0.0:8080; take another port"
    );
    assert!(load(&[("PROXY_ADDR", "127.0.0.1:0"), ("ADMIN_ADDR", "127.0.0.1:0")]).is_ok());
}

#[test]
fn the_namespace_is_the_pods_own() {
    let (dir, users) = users_file();
    let mut env = Environment::of([("USERS_FILE", users)]);
    env.namespace_file = dir.path().join("namespace");
    std::fs::write(&env.namespace_file, "vpn-team\n").unwrap();
    let config = Config::load(&env).unwrap();
    assert_eq!(config.namespace, "vpn-team");
    assert_eq!(config.gateway_url, "http://gluetun-gateway.vpn-team.svc.cluster.local:8080");
}

#[test]
fn devices_are_named_in_any_case() {
    for (text, device) in [
        ("hostpath", TunDevice::HostPath),
        ("HostPath", TunDevice::HostPath),
        ("mknod", TunDevice::Mknod),
        ("NONE", TunDevice::None),
    ] {
        assert_eq!(load(&[("TUN_DEVICE", text)]).unwrap().tun_device, device);
    }
    for text in ["tun", "/tun", "squat.ai/", "squat/tun", "a.b/c/d"] {
        assert!(mistakes(&[("TUN_DEVICE", text)]).starts_with("TUN_DEVICE"), "{text}");
    }
}

#[test]
fn the_table_has_every_setting_that_is_read_and_no_other() {
    let env = Environment::of::<String, String>([]);
    let mut reader = Reader::new(&env);
    read(&mut reader, &env, &mut Checked::default());
    let table: BTreeSet<&str> = SETTINGS.iter().map(|s| s.name).collect();
    assert_eq!(reader.asked, table);
}

#[test]
fn the_tables_defaults_are_well_formed() {
    assert!(load(&[]).is_ok());
    let error = Config::load(&Environment::of::<String, String>([])).unwrap_err();
    assert_eq!(error.0.len(), 1, "{error}");
}
