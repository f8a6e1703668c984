//! Near names: what a mistyped word may have meant.

use super::grammar::Key;

/// How many names an error suggests.
pub(super) const SUGGESTIONS: usize = 5;

/// Below this share of matching characters a name is not worth suggesting.
const FLOOR: f64 = 0.55;

/// The values whose names are nearest to `input`, best first, each once. A value may have several names.
pub(super) fn nearest<'a, T, I>(input: &str, candidates: I) -> Vec<T>
where
    T: PartialEq,
    I: Iterator<Item = (&'a str, T)>,
{
    let mut best: Vec<(f64, &str, T)> = Vec::new();
    for (name, value) in candidates {
        let score = score(input, name);
        if score < FLOOR {
            continue;
        }
        match best.iter_mut().find(|(_, _, known)| *known == value) {
            Some(known) if known.0 >= score => {}
            Some(known) => *known = (score, name, value),
            None => best.push((score, name, value)),
        }
    }
    best.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    best.truncate(SUGGESTIONS);
    best.into_iter().map(|(_, _, value)| value).collect()
}

/// The words that commercial gateways use. They are refused, since their units differ, but understood
/// well enough to name ours.
const VENDORS: &[(&str, Key)] = &[
    ("cc", Key::Country),
    ("region", Key::City),
    ("host", Key::Server),
    ("hostname", Key::Server),
    ("zone", Key::Pool),
    ("sid", Key::Session),
    ("sessid", Key::Session),
    ("sessionid", Key::Session),
    ("sesstime", Key::Ttl),
    ("sessionduration", Key::Ttl),
    ("sessionlength", Key::Ttl),
    ("sessionttl", Key::Ttl),
    ("lifetime", Key::Ttl),
    ("timeout", Key::Wait),
];

/// The key that an unknown word may have meant.
pub(super) fn key(word: &str) -> Option<Key> {
    let word = word.to_ascii_lowercase();
    let known = VENDORS.iter().find(|(name, _)| *name == word).map(|(_, key)| *key);
    // Short keys are near to everything: at `ttl` and `idle` one letter may be wrong, no more.
    let typo = || {
        let distance = |key: Key| strsim::osa_distance(&word, key.as_str());
        let allowed = |key: Key| if key.as_str().len() > 4 { 2 } else { 1 };
        let near = Key::ALL.into_iter().filter(|key| distance(*key) <= allowed(*key));
        near.min_by_key(|key| distance(*key))
    };
    known.or_else(|| if word.len() < 3 || word.len() > 16 { None } else { typo() })
}

/// 1 for equal words, 0 for words with nothing in common. The beginning of a word counts as near,
/// however much is missing.
fn score(input: &str, name: &str) -> f64 {
    let (short, long) = if input.len() < name.len() { (input, name) } else { (name, input) };
    let prefix = short.len() >= 2 && name.starts_with(input);
    let length = long.len().max(1) as f64;
    // Nothing beats the difference in length: most names need no table of distances.
    if !prefix && 1.0 - (long.len() - short.len()) as f64 / length < FLOOR {
        return 0.0;
    }
    let distance = 1.0 - strsim::osa_distance(input, name) as f64 / length;
    if prefix { distance.max(0.8) } else { distance }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near<'a>(input: &str, names: &[&'a str]) -> Vec<&'a str> {
        nearest(input, names.iter().map(|name| (*name, *name)))
    }

    #[test]
    fn typos_and_beginnings() {
        let names = ["sweden", "switzerland", "spain", "norway", "usa", "netherlands"];
        assert_eq!(near("swedn", &names), ["sweden"]);
        assert_eq!(near("sweeden", &names), ["sweden"]);
        assert_eq!(near("wseden", &names), ["sweden"]);
        assert_eq!(near("sw", &names), ["sweden", "switzerland"]);
        assert_eq!(near("zz", &names), [""; 0]);
        assert_eq!(near("", &names), [""; 0]);
    }

    #[test]
    fn keys_by_typo_and_by_other_names() {
        for (word, expected) in [
            ("contry", Some(Key::Country)),
            ("COUNTRYY", Some(Key::Country)),
            ("sesion", Some(Key::Session)),
            ("sessid", Some(Key::Session)),
            ("tll", Some(Key::Ttl)),
            ("sessionduration", Some(Key::Ttl)),
            ("cc", Some(Key::Country)),
            ("york", None),
            ("wg", None),
            ("301", None),
            ("", None),
        ] {
            assert_eq!(key(word), expected, "{word}");
        }
        assert_eq!(key(&"x".repeat(255)), None);
    }

    #[test]
    fn each_value_once_and_five_at_most() {
        let names = [("usa", 1), ("usb", 1), ("usc", 2), ("usd", 3), ("use", 4), ("usf", 5), ("usg", 6)];
        assert_eq!(nearest("us", names.into_iter()), [1, 2, 3, 4, 5]);
    }
}
