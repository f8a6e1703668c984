use super::*;

/// A list with everything that is awkward about real ones.
pub(crate) const LIST: &str = r#"{"version":1,"mullvad":{"version":3,"servers":[
{"vpn":"wireguard","country":"Sweden","city":"Malmö","isp":"31173","owned":true,"hostname":"se-mma-wg-001","wgpubkey":"k","ips":["193.138.218.1"]},
{"vpn":"wireguard","country":"Sweden","city":"Malmö","hostname":"se-mma-wg-002"},
{"vpn":"wireguard","country":"Sweden","city":"Stockholm","hostname":"se-sto-wg-001"},
{"vpn":"wireguard","country":"USA","city":"New York NY","hostname":"us-nyc-wg-301"},
{"vpn":"wireguard","country":"USA","city":"New York NY","hostname":"us-nyc-wg-302"},
{"vpn":"wireguard","country":"USA","city":"Columbus OH","hostname":"us-cmh-wg-001"},
{"vpn":"wireguard","country":"USA","city":"Columbus GA","hostname":"us-csg-wg-001"},
{"vpn":"wireguard","country":"USA","city":"San Jose CA","hostname":"us-sjc-wg-001"},
{"vpn":"wireguard","country":"Costa Rica","city":"San José","hostname":"cr-sjo-wg-001"},
{"vpn":"wireguard","country":"UK","city":"London","hostname":"gb-lon-wg-001"},
{"vpn":"wireguard","country":"United Kingdom","city":"Manchester","hostname":"uk-mnc-wg-001"},
{"vpn":"wireguard","country":"Brazil","city":"São Paulo","hostname":"br-sao-wg-001"},
{"vpn":"wireguard","country":"Czech Republic","city":"Prague","hostname":"cz-prg-wg-101"},
{"vpn":"wireguard","country":"Zedland","city":"Zed","hostname":"zz-zed-wg-001"},
{"vpn":"wireguard","country":"Nowhere Land","city":"","hostname":"node1.example.org"},
{"vpn":"wireguard","country":"Norway","hostname":"no-server-1.example"},
{"vpn":"openvpn","country":"Sweden","city":"Malmö","hostname":"se-mma-ovpn-001"},
{"vpn":"wireguard","country":"Sweden","city":"Elsewhere","hostname":"se-mma-wg-001"},
{"vpn":"wireguard","country":"Sweden"}
]}}"#;

fn catalogue() -> Catalogue {
    Catalogue::parse(LIST).unwrap()
}

fn names<'a>(servers: impl Iterator<Item = &'a Arc<Server>>) -> Vec<&'a str> {
    servers.map(|server| server.hostname.as_str()).collect()
}

fn place(country: &str, city: &str) -> Place {
    Place { country: CountryId::parse(country), city: CityId::parse(city), server: None }
}

#[test]
fn counts_what_it_took_and_left() {
    let catalogue = catalogue();
    assert_eq!((catalogue.len(), catalogue.skipped(), catalogue.merged()), (16, 1, 1));
    assert_eq!(catalogue.servers().len(), 16);
    assert!(!catalogue.is_empty());
    assert!(Catalogue::default().is_empty());
    assert_ne!(catalogue.fingerprint(), Catalogue::default().fingerprint());
}

#[test]
fn the_record_is_kept_as_it_was() {
    let catalogue = catalogue();
    let server = catalogue.by_hostname("se-mma-wg-001").unwrap();
    assert_eq!(&*server.city, "Malmö");
    let fields: Vec<_> = server.record.keys().map(String::as_str).collect();
    assert_eq!(fields, ["vpn", "country", "city", "isp", "owned", "hostname", "wgpubkey", "ips"]);
    assert_eq!(catalogue.by_key("sweden-malmö-se-mma-wg-001").unwrap().hostname, server.hostname);
    assert_eq!(catalogue.by_key("usa-new-york-ny-us-nyc-wg-301").unwrap().city_id, CityId::parse("new_york"));
    assert!(catalogue.by_key("sweden").is_none());
}

#[test]
fn countries_have_their_codes() {
    let catalogue = catalogue();
    let ids: Vec<_> =
        catalogue.countries().iter().map(|country| (&*country.name, country.id.as_str())).collect();
    assert_eq!(
        ids,
        [
            ("Brazil", "br"),
            ("Costa Rica", "cr"),
            ("Czech Republic", "cz"),
            ("Norway", "no"),
            ("Nowhere Land", "nowhere_land"),
            ("Sweden", "se"),
            ("UK", "gb"),
            ("USA", "us"),
            ("Zedland", "zz"),
        ]
    );
    for (name, id) in [
        ("se", "se"),
        ("sweden", "se"),
        ("uk", "gb"),
        ("gb", "gb"),
        ("united_kingdom", "gb"),
        ("usa", "us"),
        ("united_states", "us"),
        ("czechia", "cz"),
        ("czech_republic", "cz"),
        ("zedland", "zz"),
        ("nowhere_land", "nowhere_land"),
    ] {
        assert_eq!(catalogue.country(name).unwrap().id.as_str(), id, "{name}");
    }
    assert!(catalogue.country("fr").is_none());
    assert_eq!(catalogue.country("gb").unwrap().server_count(), 2);
    assert_eq!(catalogue.country("se").unwrap().cities.len(), 2);
    assert_eq!(catalogue.country("se").unwrap().cities[0].server_count(), 2);
}

#[test]
fn codes_come_from_hostnames_only_where_they_are_made_of_codes() {
    let ids = |hosts: &[(&str, &str)]| -> Vec<String> {
        let record = |(country, host): &(&str, &str)| {
            format!(r#"{{"vpn":"wireguard","country":"{country}","hostname":"{host}"}}"#)
        };
        let text = format!("[{}]", hosts.iter().map(record).collect::<Vec<_>>().join(","));
        Catalogue::parse(&text).unwrap().countries().iter().map(|country| country.id.to_string()).collect()
    };
    assert_eq!(ids(&[("Beland", "be1.example"), ("UK", "uk1.example")]), ["be", "gb"]);
    // Two countries share it.
    assert_eq!(
        ids(&[("Beland", "qq-1"), ("Celand", "qq-2"), ("Sweden", "se-1")]),
        ["beland", "celand", "se"]
    );
    // Another country's code, a hostname without one, several.
    assert_eq!(ids(&[("Celand", "se-9"), ("Sweden", "se-1")]), ["celand", "se"]);
    assert_eq!(ids(&[("Celand", "node1"), ("Sweden", "se-1")]), ["celand", "se"]);
    assert_eq!(ids(&[("Celand", "ce-1"), ("Celand", "cf-1"), ("Sweden", "se-1")]), ["celand", "se"]);
    // The list's hostnames are not made so, or nothing says that they are.
    assert_eq!(ids(&[("Zedland", "zz-1"), ("Sweden", "no-1")]), ["se", "zedland"]);
    assert_eq!(ids(&[("Zedland", "zz-1")]), ["zedland"]);
}

#[test]
fn cities_go_by_name_short_name_and_code() {
    let catalogue = catalogue();
    let ids = |country: Option<&str>, name: &str| -> Vec<String> {
        let country = country.and_then(CountryId::parse);
        let found = catalogue.cities_named(country.as_ref(), name);
        found.iter().map(|city| format!("{}/{}", city.country, city.id)).collect()
    };
    assert_eq!(ids(Some("us"), "new_york"), ["us/new_york"]);
    assert_eq!(ids(Some("us"), "new_york_ny"), ["us/new_york"]);
    assert_eq!(ids(Some("us"), "nyc"), ["us/new_york"]);
    assert_eq!(ids(None, "malmo"), ["se/malmo"]);
    assert_eq!(ids(None, "mma"), ["se/malmo"]);
    assert_eq!(ids(None, "mnc"), ["gb/manchester"]);
    assert_eq!(ids(None, "sao_paulo"), ["br/sao_paulo"]);
    assert_eq!(ids(Some("us"), "columbus"), ["us/columbus_ga", "us/columbus_oh"]);
    assert_eq!(ids(Some("us"), "columbus_oh"), ["us/columbus_oh"]);
    assert_eq!(ids(None, "san_jose"), ["cr/san_jose", "us/san_jose"]);
    assert_eq!(ids(Some("cr"), "san_jose"), ["cr/san_jose"]);
    assert_eq!(ids(Some("se"), "london"), Vec::<String>::new());
}

#[test]
fn candidates_of_every_kind_of_place() {
    let catalogue = catalogue();
    assert_eq!(catalogue.candidates(&Place::anywhere()).count(), 16);
    assert_eq!(names(catalogue.candidates(&place("gb", ""))), ["gb-lon-wg-001", "uk-mnc-wg-001"]);
    assert_eq!(names(catalogue.candidates(&place("us", "new_york"))), ["us-nyc-wg-301", "us-nyc-wg-302"]);
    // An id from before the list had two of them.
    assert_eq!(names(catalogue.candidates(&place("us", "columbus"))), ["us-csg-wg-001", "us-cmh-wg-001"]);
    let server = Place::server(Hostname::parse("us-nyc-wg-302").unwrap());
    assert_eq!(names(catalogue.candidates(&server)), ["us-nyc-wg-302"]);
    let contradiction = Place { country: CountryId::parse("se"), ..server };
    assert_eq!(catalogue.candidates(&contradiction).count(), 0);
    assert_eq!(catalogue.candidates(&place("fr", "")).count(), 0);
    assert_eq!(catalogue.candidates(&place("se", "london")).count(), 0);
    assert_eq!(Catalogue::default().candidates(&Place::anywhere()).count(), 0);
}

#[test]
fn hostnames_in_every_spelling() {
    let catalogue = catalogue();
    for value in ["us-nyc-wg-301", "US-NYC-WG-301", "us_nyc_wg_301", "us-nyc~wg_301", "~us-nyc-wg-301"] {
        assert_eq!(catalogue.server_named(value).unwrap().hostname.as_str(), "us-nyc-wg-301", "{value}");
    }
    assert!(catalogue.by_hostname("us_nyc_wg_301").is_none());
    assert!(catalogue.by_hostname("US-NYC-WG-301").is_some());
    assert_eq!(catalogue.server_named("no_server_1.example").unwrap().country_id.as_str(), "no");
    let near: Vec<_> = catalogue.hostnames_near("us-nyc-wg-303", 1).iter().map(Hostname::as_str).collect();
    assert_eq!(near, ["us-nyc-wg-302", "us-sjc-wg-001"]);
    assert_eq!(catalogue.hostnames_near("", 3).len(), 3);
    assert!(Catalogue::default().hostnames_near("x", 3).is_empty());
}

#[test]
fn a_city_whose_name_cannot_be_an_id_is_left_out() {
    let long = "x".repeat(50);
    let text = format!(
        r#"[{{"vpn":"wireguard","country":"Sweden","city":"{long}","hostname":"se-1"}},{{"vpn":"wireguard","country":"Sweden","hostname":"se-2"}},
           {{"vpn":"wireguard","country":"!!","hostname":"x-1"}}]"#
    );
    let catalogue = Catalogue::parse(&text).unwrap();
    assert_eq!((catalogue.len(), catalogue.skipped()), (1, 2));
    assert!(Catalogue::parse(r#"[{"vpn":"wireguard","country":"!!","hostname":"x-1"}]"#).is_err());
}
