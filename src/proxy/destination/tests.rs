//! Which destinations are refused, in every spelling that an address has.

use super::*;

fn destinations(allow: &[&str], deny: &[&str]) -> Destinations {
    let list = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    Destinations::parse(&list(allow), &list(deny)).unwrap()
}

fn check(destinations: &Destinations, text: &str) -> Result<(), Code> {
    let target = Target::authority(text).map_err(|error| ProxyError::from(error).code)?;
    destinations.check(&target, None).map_err(|refusal| refusal.error(&target).code)
}

#[test]
fn what_is_not_public_is_denied_in_every_spelling() {
    let destinations = destinations(&[], &[]).with_ipv6(true);
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.1",
        "017700000001",
        "127.0.0.1.",
        "0",
        "0.0.0.0",
        "0.1.2.3",
        "10.1.2.3",
        "012.1.2.3",
        "167772161",
        "100.64.0.1",
        "100.127.255.255",
        "169.254.169.254",
        "168.63.129.16",
        "0xa9fea9fe",
        "2852039166",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "192.0.0.8",
        "192.0.2.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.9",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "[::1]",
        "[::]",
        "[0::0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[::a00:1]",
        "[64:ff9b::10.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b:1::1]",
        "[2002:7f00:1::]",
        "[2002:c0a8:101::1]",
        "[2001::1]",
        "[2001:db8::1]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[febf::1]",
        "[fe80::1%25eth0]",
        "[fec0::1]",
        "[ff02::1]",
        "[100::1]",
        "[5f00::1]",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "localhost.localdomain",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "KUBERNETES.default.SVC.",
        "x.y.svc.cluster.local",
        "cluster.local",
        "db.ns.svc.k8s.internal",
        "db.svc.corp.local",
        "metadata.google.internal",
        "Metadata.GOOG",
        "metadata",
        "instance-data.ec2.internal",
        "ip6-localhost",
        "localhost6",
    ] {
        assert_eq!(check(&destinations, &format!("{host}:443")), Err(Code::DestinationDenied), "{host}");
    }
}

#[test]
fn what_is_public_is_not() {
    let destinations = destinations(&[], &[]).with_ipv6(true);
    for host in [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "128.0.0.1",
        "169.253.255.255",
        "172.15.255.255",
        "172.32.0.0",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "134744072",
        "[2001:4860:4860::8888]",
        "[2606:4700::1111]",
        "[64:ff9b::808:808]",
        "[2002:808:808::1]",
        "[::ffff:8.8.8.8]",
        "example.com",
        "whoami.test",
        "localhost.example.com",
        "svc.example.com",
        "notlocalhost",
        "northeurope1-0.pushnp.svc.ms",
        "mycluster.local.example",
        "printer.local",
        "xcluster.local",
    ] {
        assert_eq!(check(&destinations, &format!("{host}:443")), Ok(()), "{host}");
    }
}

#[test]
fn ipv6_literals_need_exits_with_ipv6() {
    let off = destinations(&[], &[]);
    assert_eq!(check(&off, "[2001:4860:4860::8888]:443"), Err(Code::UpstreamError));
    assert_eq!(check(&off, "[::ffff:8.8.8.8]:443"), Ok(()));
    assert_eq!(check(&off, "[::1]:443"), Err(Code::DestinationDenied));
}

#[test]
fn the_operators_lists_take_off_and_add() {
    let destinations = destinations(
        &["10.1.0.0/16", "127.0.0.0/8", "*.cluster.local", "fd00::/8", "LOCALHOST.", "192.168.7.7"],
        &["8.8.8.0/24", "*.bad.example", "evil.example", "10.1.2.0/24", "secret.ns.svc.cluster.local"],
    )
    .with_ipv6(true);
    for (host, expected) in [
        ("10.1.9.9", Ok(())),
        ("0xa010909", Ok(())),
        ("[::ffff:10.1.9.9]", Ok(())),
        ("[64:ff9b::10.1.9.9]", Ok(())),
        ("10.2.0.1", Err(Code::DestinationDenied)),
        ("10.1.2.3", Err(Code::DestinationDenied)),
        ("127.9.9.9", Ok(())),
        ("localhost", Ok(())),
        ("a.localhost", Err(Code::DestinationDenied)),
        ("db.ns.svc.cluster.local", Ok(())),
        ("secret.ns.svc.cluster.local.", Err(Code::DestinationDenied)),
        ("cluster.local", Err(Code::DestinationDenied)),
        ("[fd12::1]", Ok(())),
        ("192.168.7.7", Ok(())),
        ("192.168.7.8", Err(Code::DestinationDenied)),
        ("8.8.8.8", Err(Code::DestinationDenied)),
        ("[64:ff9b::808:808]", Err(Code::DestinationDenied)),
        ("8.8.9.8", Ok(())),
        ("bad.example", Ok(())),
        ("a.BAD.example", Err(Code::DestinationDenied)),
        ("evil.example", Err(Code::DestinationDenied)),
        ("a.evil.example", Ok(())),
    ] {
        assert_eq!(check(&destinations, &format!("{host}:80")), expected, "{host}");
    }
}

#[test]
fn mistakes_in_the_lists_are_all_named() {
    let allow = ["10.0.0.0/33", "ok.example", "a.*.example", "", " 1.2.3.4/8"].map(str::to_owned);
    let deny = ["1.2.3", "-", "a b", "300.1.1.1", "::/200"].map(str::to_owned);
    let errors = Destinations::parse(&allow, &deny).unwrap_err();
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), 7, "{texts:#?}");
    assert!(texts[0].starts_with("ALLOW_DESTINATIONS: '10.0.0.0/33' is not a destination: "), "{}", texts[0]);
    assert!(texts[2].contains("first address"), "{}", texts[2]);
    assert!(texts[3].starts_with("DENY_DESTINATIONS: '1.2.3'"), "{}", texts[3]);
}

#[test]
fn the_gateway_itself_is_a_loop_whatever_is_allowed() {
    let url = "http://gluetun-gateway.vpn.svc.k8s.example:8080";
    let listening: Vec<SocketAddr> = ["0.0.0.0:8080", "0.0.0.0:8001"].map(|a| a.parse().unwrap()).to_vec();
    let destinations = destinations(&["127.0.0.0/8", "*.svc", "10.0.0.0/8"], &[]).with_own(url, &listening);
    for (target, expected) in [
        ("127.0.0.1:8080", Err(Code::ProxyLoop)),
        ("127.7.7.7:8001", Err(Code::ProxyLoop)),
        ("0:8001", Err(Code::ProxyLoop)),
        ("[::1]:8080", Err(Code::ProxyLoop)),
        ("[::ffff:127.0.0.1]:8080", Err(Code::ProxyLoop)),
        ("127.0.0.1:9000", Ok(())),
        ("GLUETUN-gateway.vpn.svc.k8s.example.:8080", Err(Code::ProxyLoop)),
        ("gluetun-gateway.vpn.svc:8001", Err(Code::ProxyLoop)),
        ("gluetun-gateway.vpn:8001", Err(Code::ProxyLoop)),
        ("gluetun-gateway:8080", Err(Code::ProxyLoop)),
        ("other.vpn.svc.k8s.example:80", Err(Code::DestinationDenied)),
        ("other.vpn.svc:80", Ok(())),
    ] {
        assert_eq!(check(&destinations, target), expected, "{target}");
    }
    let own = Target::authority("10.1.2.3:8080").unwrap();
    assert!(destinations.wants_local(&own));
    assert_eq!(destinations.check(&own, Some("10.1.2.3".parse().unwrap())), Err(Refusal::Loop));
    assert_eq!(destinations.check(&own, Some("10.1.2.4".parse().unwrap())), Ok(()));
    assert!(!destinations.wants_local(&Target::authority("10.1.2.3:80").unwrap()));
    assert!(!destinations.wants_local(&Target::authority("example.com:8080").unwrap()));
}

#[test]
fn a_gateway_known_by_an_address_is_a_loop_only_on_its_ports() {
    let listening: Vec<SocketAddr> = vec!["127.0.0.1:8080".parse().unwrap()];
    let destinations = destinations(&["127.0.0.0/8"], &[]).with_own("http://127.0.0.1:8080", &listening);
    assert_eq!(check(&destinations, "127.0.0.1:8080"), Err(Code::ProxyLoop));
    assert_eq!(check(&destinations, "127.0.0.2:8080"), Ok(()));
    assert_eq!(check(&destinations, "127.0.0.1:8081"), Ok(()));
}

#[test]
fn refusals_tell_addresses_from_names() {
    let target = Target::authority("a.svc:80").unwrap();
    let name = Refusal::Denied { rule: "the cluster".to_owned(), address: false }.error(&target);
    assert_eq!(name.proxy_status, "http_request_denied");
    assert_eq!(name.message, "a.svc:80 is refused: it belongs to the cluster");
    let address = ProxyError::from(TargetError::Zone);
    assert_eq!((address.code, address.proxy_status), (Code::DestinationDenied, "destination_ip_prohibited"));
    assert_eq!(ProxyError::from(TargetError::Port).code, Code::BadTarget);
}

proptest::proptest! {
    #[test]
    fn no_spelling_of_a_private_address_gets_through(tail in 0_u32..0x100_0000, spelling in 0..6) {
        let ip = 0x0a00_0000 | tail;
        let [a, b, c, d] = ip.to_be_bytes();
        let host = match spelling {
            0 => format!("{ip}"),
            1 => format!("{ip:#X}").replace("0X", "0x"),
            2 => format!("{ip:#o}").replace("0o", "0"),
            3 => format!("{a}.{b}.{c}.{d}."),
            4 => format!("[64:ff9b::{a}.{b}.{c}.{d}]"),
            _ => format!("[2002:{:x}:{:x}::1]", ip >> 16, ip & 0xffff),
        };
        let all = destinations(&[], &[]).with_ipv6(true);
        proptest::prop_assert_eq!(check(&all, &format!("{host}:80")), Err(Code::DestinationDenied));
    }
}
