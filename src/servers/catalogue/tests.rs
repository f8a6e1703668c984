//! Lists of every shape, their indexes, and how names are looked up in them.

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

mod properties {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Any JSON, with the fields of records more often than others.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,50}".prop_map(Value::from),
            "(wireguard|openvpn|se-[a-z]{0,3}-wg-[0-9]{0,3}|Sweden|Malmö|New York NY)".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 8, move |inner| {
            let name = prop_oneof![
                3 => "(servers|mullvad|vpn|country|city|hostname|wgpubkey|ips)".prop_map(String::from),
                1 => ".{0,8}".prop_map(String::from),
            ];
            let object = vec((name, inner.clone()), 0..8);
            prop_oneof![
                vec(inner, 0..8).prop_map(Value::from),
                object.prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    /// What holds of every list that is taken.
    fn is_sound(catalogue: &Catalogue, records: usize) {
        assert!(
            !catalogue.is_empty() && catalogue.len() + catalogue.skipped() + catalogue.merged() <= records
        );
        let of_countries: usize = catalogue.countries().iter().map(Country::server_count).sum();
        assert_eq!(of_countries, catalogue.len());
        for server in catalogue.servers() {
            let found = catalogue.by_hostname(server.hostname.as_str()).unwrap();
            assert_eq!(found.hostname, server.hostname);
            assert!(catalogue.by_key(&server.key).is_some(), "{}", server.key);
            assert_eq!(catalogue.candidates(&Place::server(server.hostname.clone())).count(), 1);
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,200}") {
            Catalogue::parse(&text).ok();
        }

        #[test]
        fn no_json_panics_and_what_is_taken_is_sound(value in any_json()) {
            if let Ok(catalogue) = Catalogue::parse(&value.to_string()) {
                is_sound(&catalogue, 100_000);
            }
        }

        /// Records of every kind of strangeness, whole and cut off anywhere.
        #[test]
        fn strange_records_are_left_out_and_truncated_lists_refused(
            records in vec(
                (
                    "[a-c.]{0,3}(-[a-z]{1,3}){0,2}",
                    "(Sweden|Curaçao|USA|日本|.{0,60}|)",
                    "(Malmö|New York NY|.{0,60}|)",
                    0_u8..4,
                ),
                1..20,
            ),
            cut in 0.0..1.0_f64,
        ) {
            let record = |(hostname, country, city, kind): &(String, String, String, u8)| match kind {
                0 => json!({"vpn": "wireguard", "hostname": hostname, "country": country, "city": city}),
                1 => json!({"wgpubkey": "k", "hostname": hostname, "country": country}),
                2 => json!({"vpn": "openvpn", "hostname": hostname, "country": country, "city": city}),
                _ => json!({"vpn": "wireguard", "hostname": hostname, "country": country, "city": 7, "ips": null}),
            };
            let text = Value::from(records.iter().map(record).collect::<Vec<_>>()).to_string();
            if let Ok(catalogue) = Catalogue::parse(&text) {
                is_sound(&catalogue, records.len());
            }
            if let Some(part) = text.get(..(text.len() as f64 * cut) as usize) {
                prop_assert!(matches!(Catalogue::parse(part), Err(CatalogueError::Json(_))));
            }
        }
    }
}

#[test]
fn ten_thousand_servers_are_read_whole() {
    let record = |n: usize| {
        let (country, city) = (n % 90, n % 700);
        format!(
            r#"{{"vpn":"wireguard","country":"Land {country}","city":"Ort {city}","hostname":"x{n}-wg"}}"#
        )
    };
    let text = format!("[{}]", (0..10_000).map(record).collect::<Vec<_>>().join(","));
    let catalogue = Catalogue::parse(&text).unwrap();
    assert_eq!((catalogue.len(), catalogue.countries().len(), catalogue.skipped()), (10_000, 90, 0));
    // The same hostname twice counts once.
    let twice = format!("[{},{}]", record(1), record(1));
    let catalogue = Catalogue::parse(&twice).unwrap();
    assert_eq!((catalogue.len(), catalogue.merged()), (1, 1));
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
