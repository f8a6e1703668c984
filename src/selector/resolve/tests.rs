//! From a username to a session key, against a list with everything that is awkward in one.

use super::*;
use crate::selector::{Mode, SessionName};

const LIST: &str = r#"[
{"vpn":"wireguard","country":"Sweden","city":"Malmö","hostname":"se-mma-wg-001"},
{"vpn":"wireguard","country":"Sweden","city":"Stockholm","hostname":"se-sto-wg-001"},
{"vpn":"wireguard","country":"Switzerland","city":"Zurich","hostname":"ch-zrh-wg-001"},
{"vpn":"wireguard","country":"USA","city":"New York NY","hostname":"us-nyc-wg-301"},
{"vpn":"wireguard","country":"USA","city":"New York NY","hostname":"us-nyc-wg-302"},
{"vpn":"wireguard","country":"USA","city":"Columbus OH","hostname":"us-cmh-wg-001"},
{"vpn":"wireguard","country":"USA","city":"Columbus GA","hostname":"us-csg-wg-001"},
{"vpn":"wireguard","country":"USA","city":"San Jose CA","hostname":"us-sjc-wg-001"},
{"vpn":"wireguard","country":"Costa Rica","city":"San José","hostname":"cr-sjo-wg-001"},
{"vpn":"wireguard","country":"UK","city":"London","hostname":"gb-lon-wg-001"},
{"vpn":"wireguard","country":"Brazil","city":"São Paulo","hostname":"br-sao-wg-001"},
{"vpn":"wireguard","country":"Czech Republic","city":"Prague","hostname":"cz-prg-wg-101"},
{"vpn":"wireguard","country":"Nowhere Land","hostname":"node-server-1.example.org"}
]"#;

fn catalogue() -> Catalogue {
    Catalogue::parse(LIST).unwrap()
}

fn resolved(text: &str) -> Result<SessionKey, SelectError> {
    resolve(&Username::parse(text)?, &catalogue(), &Limits::default()).map(|(key, _)| key)
}

fn canonical(text: &str) -> String {
    resolved(text).unwrap().canonical()
}

#[test]
fn every_spelling_of_a_wish_is_one_key() {
    for (spellings, expected) in [
        (&["a", "a-country-any", "a-country-ANY-pool-default", "a-mode-flex", "a-idle-5m"][..], "a"),
        (&["a-country-us", "a-country-USA", "a-country-usa", "a-country-united-states"], "a-country-us"),
        (&["a-country-uk", "a-country-gb", "a-country-United_Kingdom"], "a-country-gb"),
        (&["a-country-czech_republic", "a-country-czech-republic", "a-country-czechia"], "a-country-cz"),
        (
            &[
                "a-city-malmo",
                "a-city-Malm\u{f6}",
                "a-city-malmo\u{308}-country-any",
                "a-city-mma-country-sweden",
                "a-country-se-city-MALMO",
            ],
            "a-country-se-city-malmo",
        ),
        (
            &["a-city-new-york", "a-country-us-city-new_york_ny", "a-city-nyc", "a-city-New_York-country-us"],
            "a-country-us-city-new_york",
        ),
        (&["a-city-sao-paulo", "a-city-s\u{e3}o_paulo"], "a-country-br-city-sao_paulo"),
        (&["a-city-san-jose-country-cr"], "a-country-cr-city-san_jose"),
        (&["a-country-us-city-columbus-oh"], "a-country-us-city-columbus_oh"),
        (
            &[
                "a-server-us-nyc-wg-301",
                "a-server-US_NYC_WG_301",
                "a-country-us-server-us-nyc-wg-301",
                "a-server-us-nyc-wg-301-country-usa-city-nyc",
            ],
            "a-server-us-nyc-wg-301",
        ),
        (&["a-server-node_server_1.example.org"], "a-server-node~server~1.example.org"),
        (&["a-country-nowhere-land"], "a-country-nowhere_land"),
        (
            &["a-mode-strict-session-X-country-us", "a-session-X-country-us-mode-STRICT-ttl-1h"],
            "a-country-us-session-X-mode-strict",
        ),
    ] {
        for spelling in spellings {
            assert_eq!(canonical(spelling), expected, "{spelling}");
        }
    }
    assert_ne!(canonical("a-session-x"), canonical("a-session-X"));
    assert_eq!(resolved("a-session-x").unwrap().mode, Mode::Flex);
    assert_eq!(resolved("a-session-x").unwrap().session, SessionName::parse("x"));
}

#[test]
fn no_such_place_names_near_ones() {
    let error = resolved("a-country-swedn").unwrap_err();
    assert_eq!(error.code(), "no_such_country");
    assert_eq!(error.to_string(), "no country 'swedn' in the server list");
    assert!(error.hint().contains("se (sweden)"), "{}", error.hint());
    let error = resolved("a-country-sw").unwrap_err();
    assert!(error.hint().contains("se (sweden), ch (switzerland)"), "{}", error.hint());
    let error = resolved("a-country-norway").unwrap_err();
    assert!(error.hint().contains("/locations"), "{}", error.hint());
    assert_eq!(resolved("a-country-___").unwrap_err().code(), "no_such_country");

    let error = resolved("a-country-se-city-malmoe").unwrap_err();
    assert_eq!(error.code(), "no_such_city");
    assert_eq!(error.to_string(), "no city 'malmoe' in se");
    assert!(error.hint().contains("did you mean malmo?"), "{}", error.hint());
    let error = resolved("a-city-londn").unwrap_err();
    assert!(error.hint().contains("london (gb)"), "{}", error.hint());

    let error = resolved("a-server-us-nyc-wg-303").unwrap_err();
    assert_eq!(error.code(), "no_such_server");
    assert!(error.hint().contains("us-nyc-wg-301, us-nyc-wg-302"), "{}", error.hint());
}

#[test]
fn a_city_that_is_elsewhere_says_where() {
    let error = resolved("a-country-se-city-London").unwrap_err();
    let SelectError::NoSuchCity { country, elsewhere, .. } = &error else { panic!("{error:?}") };
    assert_eq!((country.clone(), elsewhere.clone()), (CountryId::parse("se"), CountryId::parse("gb")));
    assert_eq!(error.hint(), "it is in gb: write country-gb-city-London");
}

#[test]
fn ambiguous_names_list_what_they_may_mean() {
    let error = resolved("a-country-us-city-columbus").unwrap_err();
    assert_eq!(error.code(), "bad_parameter");
    assert_eq!(error.hint(), "write city-columbus_ga or city-columbus_oh");
    let error = resolved("a-city-san-jose").unwrap_err();
    assert_eq!(error.code(), "bad_combination");
    assert_eq!(error.hint(), "write country-cr-city-san_jose or country-us-city-san_jose");
}

#[test]
fn contradictions() {
    let error = resolved("a-country-se-server-us-nyc-wg-301").unwrap_err();
    assert_eq!(error.code(), "bad_combination");
    assert_eq!(error.to_string(), "server us-nyc-wg-301 is not in se: its country is us");
    let error = resolved("a-city-columbus_oh-server-us-nyc-wg-301").unwrap_err();
    assert_eq!(error.to_string(), "server us-nyc-wg-301 is not in columbus_oh: its city is new_york");
    let error = resolved("a-city-london-server-node_server_1.example.org").unwrap_err();
    assert_eq!(error.code(), "bad_combination");
}

#[test]
fn a_mistyped_key_after_a_place_is_recognised() {
    let error = resolved("a-country-us-sesion-x").unwrap_err();
    assert_eq!(error.code(), "no_such_country");
    assert!(error.hint().contains("the parameter 'session' by 'sesion'"), "{}", error.hint());
    let error = resolved("a-city-malmo-sessid-7").unwrap_err();
    assert!(error.hint().contains("'session'"), "{}", error.hint());
}

#[test]
fn times_are_held_against_their_limits() {
    let limits = Limits {
        max_idle: Duration::from_secs(3600),
        max_ttl: Duration::from_secs(7200),
        max_wait: Duration::from_secs(90),
    };
    let times =
        |text: &str| resolve(&Username::parse(text).unwrap(), &catalogue(), &limits).map(|(_, times)| times);
    let ok = times("a-idle-1h-ttl-2h-wait-90s").unwrap();
    assert_eq!(ok.idle, Some(limits.max_idle));
    assert_eq!(ok.ttl, Some(limits.max_ttl));
    assert_eq!(ok.wait, Some(limits.max_wait));
    assert_eq!(times("a").unwrap(), Lifetimes::default());
    for (text, hint) in [
        ("a-idle-61m", "write at most idle-1h"),
        ("a-ttl-1d", "write at most ttl-2h"),
        ("a-wait-2m", "write at most wait-90s"),
    ] {
        let error = times(text).unwrap_err();
        assert_eq!((error.code(), error.hint().as_str()), ("bad_parameter", hint));
    }
}

#[test]
fn pools_and_an_empty_list() {
    assert_eq!(resolved("a-pool-blue").unwrap_err().code(), "bad_parameter");
    let empty =
        |text: &str| resolve(&Username::parse(text).unwrap(), &Catalogue::default(), &Limits::default());
    assert_eq!(empty("a-country-se").unwrap_err(), SelectError::NoServers);
    assert_eq!(empty("a-country-any-session-x").unwrap().0.canonical(), "a-session-x");
}

#[test]
fn a_place_that_the_built_in_list_lacks_may_yet_be_there() {
    use crate::servers::{Origin, SourceKind};
    let of = |source, text: &str| {
        let list = catalogue().from_origin(Origin::now(source));
        resolve(&Username::parse(text).unwrap(), &list, &Limits::default())
    };
    for text in ["a-country-atlantis", "a-country-se-city-atlantis", "a-server-xx-1"] {
        assert_eq!(of(SourceKind::BuiltIn, text).unwrap_err(), SelectError::NoServers, "{text}");
        assert_ne!(of(SourceKind::Job, text).unwrap_err(), SelectError::NoServers, "{text}");
    }
    assert!(of(SourceKind::BuiltIn, "a-country-se").is_ok());
    assert_eq!(of(SourceKind::BuiltIn, "a-pool-blue").unwrap_err().code(), "bad_parameter");
}

mod properties {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn parameters() -> impl Strategy<Value = Vec<String>> {
        let country = select(vec![
            "",
            "country-us",
            "country-USA",
            "country-uk",
            "country-se",
            "country-any",
            "country-nowhere-land",
        ]);
        let city = select(vec![
            "",
            "",
            "city-malmo",
            "city-new-york",
            "city-nyc",
            "city-MALM\u{d6}",
            "city-columbus_oh",
        ]);
        let server = select(vec!["", "", "", "server-us-nyc-wg-301", "server-node_server_1.example.org"]);
        let session =
            prop_oneof![Just(String::new()), "session-[A-Za-z0-9_]{1,32}", "session-(ttl|mode|country)"];
        let rest =
            select(vec!["", "mode-strict", "mode-flex", "idle-5m", "ttl-1h", "wait-0s", "pool-default"]);
        (country, city, server, session, rest).prop_map(|(country, city, server, session, rest)| {
            let all = [country, city, server, &session, rest];
            all.into_iter().filter(|part| !part.is_empty()).map(str::to_owned).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn the_canonical_form_is_a_fixpoint_and_order_does_not_matter(
            (given, shuffled) in parameters().prop_flat_map(|given| (Just(given.clone()), Just(given).prop_shuffle()))
        ) {
            let list = catalogue();
            let key = |text: &str| {
                let username = Username::parse(text).map_err(SelectError::from)?;
                resolve(&username, &list, &Limits::default()).map(|(key, _)| key)
            };
            let text = |parts: &[String]| parts.iter().fold("demo".to_owned(), |text, part| text + "-" + part);
            let first = key(&text(&given));
            prop_assert_eq!(&first, &key(&text(&shuffled)), "{:?} {:?}", given, shuffled);
            if let Ok(first) = first {
                let canonical = first.canonical();
                let again = key(&canonical);
                prop_assert_eq!(again.as_ref(), Ok(&first), "{}", canonical);
                prop_assert_eq!(SessionKey::parse_canonical(&canonical), Ok(first.clone()));
                prop_assert_eq!(again.map(|key| key.canonical()), Ok(canonical));
            }
        }

        #[test]
        fn any_value_does_no_harm_and_errors_fit_a_body(
            key in select(vec!["country", "city", "server", "pool"]), value in "[-a-zA-Z0-9_.~\u{c0}-\u{17f}]{1,64}"
        ) {
            if let Err(error) = resolved(&format!("demo-{key}-{value}")) {
                for line in [error.to_string(), error.hint()] {
                    prop_assert!(line.bytes().all(|b| matches!(b, b' '..=b'~')), "{}", line);
                    prop_assert!(line.len() < 450, "{}", line);
                }
            }
        }
    }
}
