//! Usernames as the grammar reads them, and what is said of those that are none.

use super::*;
use crate::identity::AccountError;

fn params(text: &str) -> Params {
    Username::parse(text).unwrap().params
}

fn error(text: &str) -> GrammarError {
    Username::parse(text).unwrap_err()
}

#[test]
fn the_examples_of_the_documentation() {
    assert_eq!(params("alice"), Params::default());
    assert_eq!(Username::parse("alice-country-us").unwrap().account.as_str(), "alice");
    let all = params("alice-country-us-city-new_york");
    assert_eq!((all.country.as_deref(), all.city.as_deref()), (Some("us"), Some("new_york")));
    let all = params("alice-country-se-session-job42-ttl-30m");
    assert_eq!(all.session, SessionName::parse("job42"));
    assert_eq!(all.ttl, Some(Duration::from_secs(1800)));
    let all = params("alice-server-us-nyc-wg-301-mode-strict");
    assert_eq!((all.server.as_deref(), all.mode), (Some("us-nyc-wg-301"), Some(Mode::Strict)));
    let all = params("alice-country-de-wait-0s");
    assert_eq!(all.wait, Some(Duration::ZERO));
}

#[test]
fn keys_and_closed_values_have_no_case_but_sessions_do() {
    let all = params("a-COUNTRY-US-Mode-STRICT-session-Ab_1-IDLE-5M-pool-Default");
    assert_eq!(all.country.as_deref(), Some("US"));
    assert_eq!(all.mode, Some(Mode::Strict));
    assert_eq!(all.session.unwrap().as_str(), "Ab_1");
    assert_eq!(all.idle, Some(Duration::from_secs(300)));
    assert_eq!(all.pool.as_deref(), Some("Default"));
}

#[test]
fn places_span_words_and_may_have_their_letters() {
    assert_eq!(params("a-city-new-york-country-us").city.as_deref(), Some("new-york"));
    assert_eq!(params("a-city-salt_lake_city-session-x").city.as_deref(), Some("salt_lake_city"));
    assert_eq!(params("a-city-malm\u{f6}").city.as_deref(), Some("malm\u{f6}"));
    assert_eq!(params("a-city-malmo\u{308}").city.as_deref(), Some("malmo\u{308}"));
    assert_eq!(params("a-server-node_1.example.org").server.as_deref(), Some("node_1.example.org"));
    assert_eq!(params("a-pool-b~c-d").pool.as_deref(), Some("b~c-d"));
}

#[test]
fn nothing_is_ignored() {
    let duplicate = |key| GrammarError::DuplicateKey { key };
    let lacks = |key| GrammarError::NoValue { key };
    let empty = |after: &str| GrammarError::EmptyWord { after: after.to_owned() };
    let unknown = |word: &str| GrammarError::UnknownKey { word: word.to_owned() };
    for (text, expected) in [
        ("a-country", lacks(Key::Country)),
        ("a-country-city-paris", lacks(Key::Country)),
        ("a-session", lacks(Key::Session)),
        ("a-session-ttl-30m", lacks(Key::Session)),
        ("a-mode-session-x", lacks(Key::Mode)),
        ("a-ttl-mode-strict", lacks(Key::Ttl)),
        ("a-country-us-country-se", duplicate(Key::Country)),
        ("a-city-salt-lake-city-session-x", duplicate(Key::City)),
        ("a-wait-0s-wait-0s", duplicate(Key::Wait)),
        ("a-", empty("a")),
        ("a--country-us", empty("a")),
        ("a-country-", empty("country")),
        ("a-country--us", empty("country")),
        ("a-country-us-", empty("us")),
        ("a-city-new--york", empty("new")),
        ("a-session-", empty("session")),
        ("a-session-x-", empty("x")),
        ("a-session-x--", empty("x")),
        ("a-foo-bar", unknown("foo")),
        ("a-session-x-sesion-y", unknown("sesion")),
        ("a-se", unknown("se")),
        ("", GrammarError::Account(AccountError::Empty)),
        ("-country-us", GrammarError::Account(AccountError::Empty)),
        ("Alice-country-us", GrammarError::Account(AccountError::Character('A'))),
    ] {
        assert_eq!(error(text), expected, "{text}");
    }
    assert!(error("a-city-salt-lake-city").hint().contains("salt_lake_city"));
    assert_eq!(error(&format!("a-city-{}", "x".repeat(249))), GrammarError::TooLong);
    // A session may have a key's name, if nothing points to a forgotten value.
    assert_eq!(params("a-session-ttl").session.unwrap().as_str(), "ttl");
    assert_eq!(params("a-session-ttl-ttl-5m").session.unwrap().as_str(), "ttl");
}

#[test]
fn values_out_of_form_or_range_say_what_to_write() {
    for (text, cure) in [
        ("a-idle-30", "the unit is missing: write idle-30s or idle-30m"),
        ("a-ttl-1.5h", "a whole number"),
        ("a-wait-500ms", "s, m, h or d"),
        ("a-idle-29s", "at least idle-30s"),
        ("a-idle-25h", "at most idle-1d"),
        ("a-ttl-59s", "at least ttl-1m"),
        ("a-ttl-8d", "at most ttl-7d"),
        ("a-ttl-99999999999999999999d", "at most ttl-7d"),
        ("a-mode-sticky", "mode-flex or mode-strict"),
        ("a-session-a.b", "1 to 32 letters"),
        ("a-session-a\u{f6}", "not allowed"),
        ("a-session-123456789012345678901234567890123", "1 to 32 letters"),
        ("a-country-u$", "'$' is not allowed"),
        ("a-server-malm\u{f6}", "not allowed"),
        ("a-city-new%20york", "percent-encoding"),
    ] {
        let error = error(text);
        assert!(matches!(error, GrammarError::BadValue { .. }), "{text}: {error:?}");
        assert!(error.hint().contains(cure), "{text}: {}", error.hint());
    }
    let long = error(&format!("a-city-{}", "x".repeat(65)));
    assert!(long.hint().contains("64"), "{}", long.hint());
    assert_eq!(params("a-idle-24h-ttl-7d-wait-10h").ttl, Some(Duration::from_secs(604_800)));
}

#[test]
fn typos_are_recognised() {
    for (text, meant) in [("a-contry-us", "'country'"), ("a-sessid-1", "'session'"), ("a-cc-us", "'country'")]
    {
        assert!(error(text).hint().contains(meant), "{text}: {}", error(text).hint());
    }
    assert_eq!(error("a-foo-bar").hint(), Key::LIST);
    assert_eq!(error("a-foo-bar").code(), "bad_parameter");
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_does_no_harm_and_errors_are_printable(text in "\\PC{0,300}") {
            if let Err(error) = Username::parse(&text) {
                let (message, hint) = (error.to_string(), error.hint());
                for line in [&message, &hint] {
                    prop_assert!(line.bytes().all(|b| matches!(b, b' '..=b'~')), "{}", line);
                    prop_assert!(line.len() < 450, "{}", line);
                }
            }
        }

        #[test]
        fn words_of_the_grammar_in_any_order_do_no_harm(
            words in proptest::collection::vec("country|city|server|pool|session|idle|ttl|mode|wait|us|x|30s||5|any|strict", 0..12)
        ) {
            let text = format!("a-{}", words.join("-"));
            if let Ok(username) = Username::parse(&text) {
                prop_assert_eq!(username.account.as_str(), "a");
                prop_assert_ne!(username.params, Params::default());
            }
        }
    }
}
