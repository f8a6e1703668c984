//! `docs/errors.md` and the code have the same codes and the same classes, and say the same of them.

use std::collections::BTreeMap;

use super::ALL_CODES;
use crate::session::FailureClass;

/// The rows of the page's tables whose first cell is a code: all cells, by the first.
fn rows(columns: usize) -> BTreeMap<String, Vec<String>> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors.md")).unwrap();
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
        let name = cells.first()?.strip_prefix('`')?.strip_suffix('`')?;
        (cells.len() == columns).then(|| (name.to_owned(), cells.iter().map(|c| (*c).to_owned()).collect()))
    });
    let mut all = BTreeMap::new();
    for (name, cells) in rows {
        assert!(all.insert(name.clone(), cells).is_none(), "{name} is there twice");
    }
    all
}

#[test]
fn the_page_and_the_code_say_the_same_of_every_code() {
    let mut page = rows(6);
    for code in ALL_CODES {
        let row =
            page.remove(code.as_str()).unwrap_or_else(|| panic!("{} is not on the page", code.as_str()));
        assert_eq!(row[1], code.status().to_string(), "{code:?}");
        assert_eq!(row[2], if code.retryable() { "yes" } else { "no" }, "{code:?}");
        let after = code.retry_after().map_or(String::new(), |seconds| seconds.to_string());
        assert_eq!(row[3], after, "{code:?}");
        assert!(row[4].len() > 15 && row[5].len() > 7, "{code:?}: cause and cure");
    }
    assert!(page.is_empty(), "no codes: {:?}", page.keys());
}

#[test]
fn the_page_and_the_code_say_the_same_of_every_class() {
    let mut page = rows(4);
    for class in FailureClass::ALL {
        let row = page.remove(class.as_str()).unwrap_or_else(|| panic!("{class:?} is not on the page"));
        // The list's own gap is no failure of the pool, though no server helps.
        let pool = !class.another_server_may_help() && class != FailureClass::NoServer;
        assert_eq!(row[1], if pool { "yes" } else { "no" }, "{class:?}");
    }
    assert!(page.is_empty(), "no classes: {:?}", page.keys());
}
