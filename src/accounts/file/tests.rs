//! What the accounts file may say, and each mistake at its place. Run by `cargo test`.

use super::*;
use crate::accounts::AccountsFile;

fn mistakes(text: &str) -> Vec<String> {
    AccountsFile::parse(text).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn the_documentations_example_is_a_good_file() {
    let text = include_str!("../../../docs/accounts.md");
    let blocks: Vec<&str> =
        text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 1);
    let file = AccountsFile::parse(blocks[0]).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    assert_eq!(file.accounts.len(), 5);
    assert_eq!(file.groups.len(), 1);
    // And has every field that there is, each with its row.
    for field in FIELDS {
        assert!(blocks[0].contains(&format!("{field}:")), "{field}");
        assert!(text.contains(&format!("| `{field}` |")), "{field}");
    }
}

#[test]
fn every_field_is_read() {
    let file = AccountsFile::parse(
        "accounts:\n  a:\n    selector: country-se\n    max_sessions: 0\n    max_tunnels: unlimited\n    \
         tunnels_per_second: 2.5\n    max_idle: 1h\n    max_ttl: unlimited\n    max_wait: 0s\n    \
         sessions: false\n    disabled: true\n    destinations: {deny: [x.example]}\n    ports: {allow: [1-2, '443']}\n",
    )
    .unwrap();
    let rules = &file.accounts.values().next().unwrap().rules;
    assert_eq!(rules.selector.as_ref().unwrap().country.as_deref(), Some("se"));
    assert_eq!((rules.max_sessions, rules.max_tunnels), (Some(Some(0)), Some(None)));
    assert_eq!(rules.rate, Some(Some(Rate { per_second: 2.5, burst: 3 })));
    assert_eq!(rules.max_idle, Some(Some(Duration::from_secs(3600))));
    assert_eq!((rules.max_ttl, rules.max_wait), (Some(None), Some(Some(Duration::ZERO))));
    assert_eq!((rules.sessions, rules.disabled), (Some(false), Some(true)));
    assert_eq!(rules.ports.as_ref().unwrap().allow, Some(vec![(1, 2), (443, 443)]));
    for text in ["", "# nothing\n", "accounts:\n", "defaults: {}\ngroups: {}\naccounts: {a: , b: {}}\n"] {
        assert!(AccountsFile::parse(text).is_ok(), "{text}");
    }
}

#[test]
fn every_mistake_is_told_with_its_place_and_its_cure() {
    let text = "\
default: {}
defaults:
  share: team
  burst: 3
  max_sessions: many
  max_sessions: 3
  selector: country-se-session-a
groups:
  team: {max_tunnels: 3}
  bob: {}
  _x: {}
accounts:
  Alice: {}
  bob:
    share: taem
    places: [country-se]
  carol:
    share: team
    max_sessions: 3
    places: {allow: country-se, deny: [sweden, country-any], only: []}
  dave:
    tunnels_per_second: 0
    sessions: 'false'
    disabled: yes
    max_idle: 1s
    max_wait: soon
    ports: {deny: [0, http]}
    destinations: {allow: [\"http://x\"], deny: {}}
    selector: [country-se]
  dave: 3
";
    let found = mistakes(text);
    let expected = [
        "line 1, column 1: the file has no field 'default': did you mean 'defaults'?",
        "line 3, column 3: 'defaults' has no field 'share'",
        "line 4, column 3: 'burst' needs 'tunnels_per_second'",
        "line 5, column 17: write a whole number, or 'unlimited', not 'many'",
        "line 6, column 3: 'max_sessions' is already on line 5",
        "line 7, column 13: a default selector has country, city, server and pool",
        "line 9, column 10: 'team' has no field 'max_tunnels'",
        "line 10, column 3: 'bob' is an account too",
        "line 11, column 3: '_x' is a name of the gateway's own",
        "line 13, column 3: this is no name of an account: an account name has only a-z",
        "line 15, column 12: there is no share group 'taem': did you mean 'team'?",
        "line 16, column 5: exits are shared, and so is 'places'",
        "line 16, column 13: 'places' has fields, not a list: write allow, deny",
        "line 19, column 5: exits are shared, and so is 'max_sessions': write it under groups, team",
        "line 20, column 5: exits are shared, and so is 'places'",
        "line 20, column 21: write a list of places such as country-se or server-se-sto-wg-004: [country-se]",
        "line 20, column 40: unknown parameter 'sweden'",
        "line 20, column 48: 'any' is no place",
        "line 20, column 62: 'places' has no field 'only'",
        "line 22, column 25: write a number from 0.01 to 100000, or 'unlimited', not '0'",
        "line 23, column 15: write true or false, not 'false'",
        "line 24, column 15: write true or false, not 'yes'",
        "line 25, column 15: '1s' is out of range: write a time from 2s to 30d",
        "line 26, column 15: 'soon' is no time",
        "line 27, column 20: '0' is no port",
        "line 27, column 23: 'http' is no port",
        "line 28, column 28: 'http://x' is not a destination",
        "line 28, column 47: write a list of destinations such as *.example.com or 10.0.0.0/8, not a mapping",
        "line 29, column 15: write a selector such as country-se, not a list",
        "line 30, column 3: 'dave' is already on line 21",
        "line 30, column 9: 'dave' has fields, not '3'",
    ];
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\nis not\n{expected}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    assert!(mistakes("- a")[0].contains("the file has fields, not a list"));
    assert!(mistakes("accounts: [a]")[0].contains("'accounts' holds names"));
    assert_eq!(mistakes(&"#".repeat(MAX_FILE + 1)), ["line 1, column 1: the file is larger than 1 MiB"]);
}

/// A file as an operator might write it, from its parts.
fn written(accounts: &[(String, u32, u32, bool, Vec<u16>)]) -> String {
    let mut text = String::from("defaults: {max_sessions: 7}\naccounts:\n");
    for (name, sessions, tunnels, disabled, ports) in accounts {
        text.push_str(&format!(
            "  {name}:\n    max_sessions: {sessions}\n    max_tunnels: {tunnels}\n    disabled: {disabled}\n    \
             ports: {{allow: {ports:?}}}\n"
        ));
    }
    text
}

proptest::proptest! {
    #[test]
    fn any_text_does_no_harm(
        text in "(\\PC|[-:{}\\[\\]&*!#|>'\",~\n\t ]|accounts:|defaults:|places:|allow:|  |a:|\n  ){0,60}"
    ) {
        if let Err(mistakes) = AccountsFile::parse(&text) {
            proptest::prop_assert!(!mistakes.is_empty());
            for mistake in mistakes {
                proptest::prop_assert!(mistake.line > 0 && mistake.column > 0);
            }
        }
    }

    #[test]
    fn what_is_written_is_read(
        accounts in proptest::collection::btree_map(
            "[a-z][a-z0-9_.]{0,10}",
            (0..1000_u32, 0..1000_u32, proptest::bool::ANY, proptest::collection::vec(1..=u16::MAX, 0..4)),
            1..6,
        )
    ) {
        let accounts: Vec<_> = accounts
            .into_iter()
            .filter(|(name, _)| !name.starts_with("pod.") && name != "null")
            .map(|(name, (sessions, tunnels, disabled, ports))| (name, sessions, tunnels, disabled, ports))
            .collect();
        let file = AccountsFile::parse(&written(&accounts)).unwrap();
        proptest::prop_assert_eq!(file.accounts.len(), accounts.len());
        for (name, sessions, tunnels, disabled, ports) in accounts {
            let rules = &file.accounts[name.as_str()].rules;
            proptest::prop_assert_eq!(rules.max_sessions, Some(Some(sessions)));
            proptest::prop_assert_eq!(rules.max_tunnels, Some(Some(tunnels)));
            proptest::prop_assert_eq!(rules.disabled, Some(disabled));
            let ranges: Vec<(u16, u16)> = ports.into_iter().map(|port| (port, port)).collect();
            proptest::prop_assert_eq!(rules.ports.as_ref().unwrap().allow.clone(), Some(ranges));
        }
    }
}
