//! `docs/usernames.md` is true: each of its examples means what the page says, or fails with the code that
//! it says.

use super::{Key, Limits, SelectError, Username, resolve};
use crate::servers::Catalogue;

const PAGE: &str = include_str!("../../docs/usernames.md");

/// The list that the demo has.
const SERVERS: &str = include_str!("../simulator/servers.json");

/// The tables' rows below a heading: the cells of each, without what marks code.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let section = PAGE.split("\n## ").find(|section| section.starts_with(heading)).unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| ") && line.contains('`'));
    let cell = |cell: &str| cell.trim().trim_matches('`').to_owned();
    rows.map(|row| row.trim_matches('|').split('|').map(cell).collect()).collect()
}

fn session(username: &str) -> Result<String, SelectError> {
    let catalogue = Catalogue::parse(SERVERS).unwrap();
    resolve(&Username::parse(username)?, &catalogue, &Limits::default()).map(|(key, _)| key.canonical())
}

#[test]
fn what_works_means_what_the_page_says() {
    let rows = rows("Examples that work");
    assert!(rows.len() > 15);
    for row in rows {
        assert_eq!(session(&row[0]).unwrap_or_else(|e| panic!("{}: {e}", row[0])), row[1], "{}", row[0]);
    }
}

#[test]
fn what_does_not_fails_as_the_page_says() {
    let rows = rows("Examples that do not");
    assert!(rows.len() > 15);
    for row in rows {
        let error = session(&row[0]).expect_err(&row[0]);
        assert_eq!(error.code(), row[1], "{}: {error}", row[0]);
        assert!(!error.hint().is_empty(), "{}", row[0]);
    }
}

#[test]
fn those_who_come_from_elsewhere_are_told_what_works() {
    let rows = rows("Coming from");
    assert_eq!(rows.len(), 6);
    for row in rows {
        // The password of the one that has it there aside.
        let there = row[1].trim_start_matches("the password `");
        let there = there.replace("USER", "alice").replace("ID", "c1").replace("ZONE", "z1");
        assert!(session(&there).is_err(), "{there}");
        let here = row[2].split('`').next().unwrap();
        session(here).unwrap_or_else(|e| panic!("{here}: {e}"));
    }
}

#[test]
fn the_page_has_every_key() {
    for key in Key::ALL {
        assert!(PAGE.contains(&format!("\n| `{}` |", key.as_str())), "{}", key.as_str());
    }
}
