//! What the fuzz targets of `tests/fuzz` call: each takes any bytes, reads them as the gateway would, and
//! panics where a property of the result does not hold. No part of the gateway: built with the feature
//! `fuzzing` alone, and into the unit tests, which run the targets over the corpus.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::accounts::{Accounts, AccountsFile};
use crate::identity::{FileMistake, Users, split_basic};
use crate::proxy::gate;
use crate::proxy::head::{Authorization, Body, Head, MAX_HEAD, Scan, Scanner};
use crate::proxy::target::Target;
use crate::selector::{Limits, SessionKey, Username, resolve};
use crate::servers::{Catalogue, Place};

/// Bytes that a reader is given at once, out of the input itself: any input is read in its own rhythm.
fn step(data: &[u8]) -> usize {
    usize::from(data.last().copied().unwrap_or_default() % 13) + 1
}

/// A request's head: what arrives in pieces is read as what arrives at once, what is taken has one
/// reading, and of a connection hyper gets nothing else.
pub fn head(data: &[u8]) {
    let whole = Scanner::default().scan(data);
    let mut scanner = Scanner::default();
    let mut pieces = scanner.scan(&[]);
    for end in (1..=data.len()).step_by(step(data)).chain([data.len()]) {
        if pieces != Scan::Partial {
            break;
        }
        pieces = scanner.scan(data.get(..end).unwrap_or_default());
    }
    assert_eq!(whole, pieces, "in pieces it is another head");
    if let Scan::Complete { start, end } = whole {
        assert!(start < end && end <= data.len() && end <= MAX_HEAD);
        one_reading(data.get(start..end).unwrap_or_default());
    }
    connection(data);
}

/// A head that is taken, read by the plainest of parsers: it finds nothing else in it.
fn one_reading(bytes: &[u8]) {
    let Ok(head) = Head::parse(bytes) else { return };
    let text = String::from_utf8_lossy(bytes);
    assert!(!text.contains('\0') && text.matches('\n').count() == text.matches("\r\n").count());
    assert_eq!(text.matches('\r').count(), text.matches("\r\n").count());
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let line: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    assert!(matches!(line[..], [method, _, "HTTP/1.1" | "HTTP/1.0"] if method == head.method), "{line:?}");
    let (mut hosts, mut lengths, mut encodings, mut authorizations) = (0, Vec::new(), 0, 0);
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or_default();
        assert!(!name.is_empty() && !name.contains([' ', '\t']), "{line:?}");
        match name.to_ascii_lowercase().as_str() {
            "host" => hosts += 1,
            "content-length" => lengths.push(value.trim().parse::<u64>().ok()),
            "transfer-encoding" => encodings += 1,
            "proxy-authorization" => authorizations += 1,
            _ => {}
        }
    }
    assert!(hosts <= 1 && lengths.len() + encodings <= 1);
    match head.body {
        Body::Chunked => assert_eq!(encodings, 1),
        Body::Length(length) => assert_eq!(lengths.first().copied().unwrap_or(Some(0)), Some(length)),
    }
    let expected = match head.authorization {
        Authorization::None => 0..=0,
        Authorization::One(_) => 1..=1,
        Authorization::Many => 2..=usize::MAX,
    };
    assert!(expected.contains(&authorizations));
    target(head.target);
}

/// A target that is taken is one host and one port, however it was spelled.
fn target(text: &str) {
    for target in [Target::authority(text), Target::absolute(text)].into_iter().flatten() {
        assert!(target.as_str().bytes().all(|b| b.is_ascii_graphic()) && target.port() > 0);
        assert!(!target.as_str().contains(['@', '/', '#', '?', '%', '\\']), "{}", target.as_str());
        assert_eq!(Target::authority(target.as_str()), Ok(target));
    }
    if let (Ok(uri), Ok(target)) = (text.parse::<http::Uri>(), Target::absolute(text)) {
        assert_eq!(Target::http(&uri), Ok(target), "hyper reads another target");
    }
}

/// A whole connection, as hyper is let to read it: in pieces as at once.
fn connection(data: &[u8]) {
    let (given, refusals, want) = gate::run(data, data.len().max(1), usize::MAX);
    let (pieces, also, end) = gate::run(data, step(data), step(data));
    assert!(
        pieces.starts_with(&given) && refusals == also && want == end,
        "in pieces it is another connection"
    );
    // Every head that is given on is one that is taken, or stands in for one that is not.
    if let Scan::Complete { start, end } = Scanner::default().scan(&given) {
        assert_eq!(start, 0);
        let head = Head::parse(given.get(..end).unwrap_or_default());
        let uri = head.as_ref().ok().and_then(|head| head.target.parse::<http::Uri>().ok());
        assert!(uri.is_some(), "hyper would have to refuse it: {head:?}");
    }
}

/// Places for usernames to mean.
static CATALOGUE: LazyLock<Option<Catalogue>> = LazyLock::new(|| {
    let server = |country: &str, city: &str, hostname: &str| {
        format!(
            r#"{{"vpn":"wireguard","country":"{country}","city":"{city}","hostname":"{hostname}","wgpubkey":"k","ips":["192.0.2.1"]}}"#
        )
    };
    let list = [
        server("Sweden", "Malmö", "se-mma-wg-001"),
        server("Sweden", "Stockholm", "se-sto-wg-001"),
        server("USA", "New York NY", "us-nyc-wg-301"),
        server("USA", "Columbus OH", "us-cmh-wg-001"),
        server("USA", "Columbus GA", "us-csg-wg-001"),
        server("Czech Republic", "Prague", "cz-prg-wg-101"),
        server("UK", "London", "gb-lon-wg-city-001"),
    ];
    Catalogue::parse(&format!("[{}]", list.join(","))).ok()
});

/// A username, and the header that carries it: what it means has one canonical spelling, which means the
/// same.
pub fn username(data: &[u8]) {
    if let Ok((user, password)) = split_basic(data) {
        let pair = format!("{user}:{}", password.expose());
        let again = split_basic(format!("Basic {}", STANDARD.encode(&pair)).as_bytes());
        assert!(again.is_ok_and(|(name, secret)| name == user && secret.expose() == password.expose()));
        understood(&user);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        understood(text);
    }
}

fn understood(text: &str) {
    let username = match Username::parse(text) {
        Ok(username) => username,
        Err(error) => {
            let told = error.to_string();
            assert!(!told.is_empty() && told.len() < 1024 && !told.contains(char::is_control), "{told:?}");
            return;
        }
    };
    assert!(text.len() <= 255 && text.starts_with(username.account.as_str()));
    assert_eq!(text.split('-').next(), Some(username.account.as_str()));
    let Some(catalogue) = &*CATALOGUE else { return };
    match resolve(&username, catalogue, &Limits::default()) {
        Ok((key, lifetimes)) => {
            let canonical = key.canonical();
            assert_eq!(SessionKey::parse_canonical(&canonical).as_ref(), Ok(&key), "{canonical}");
            let again =
                Username::parse(&canonical).map(|again| resolve(&again, catalogue, &Limits::default()));
            assert!(matches!(again, Ok(Ok((same, _))) if same == key), "{canonical}");
            let name = key.claim_name();
            assert!(name.len() == 23 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
            let limits = Limits::default();
            assert!(lifetimes.idle.is_none_or(|idle| idle <= limits.max_idle));
            assert!(lifetimes.wait.is_none_or(|wait| wait <= limits.max_wait));
        }
        Err(error) => {
            assert!(!error.to_string().is_empty() && !error.hint().is_empty());
        }
    }
}

/// A users file: accounts that can be counted, or mistakes that can be shown and keep the hashes to
/// themselves.
pub fn users_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Users::parse(text) {
        Ok(users) => {
            assert!(!users.is_empty() && users.len() <= text.lines().count());
            let again = Users::parse(text);
            assert!(again.is_ok_and(|again| again.fingerprint() == users.fingerprint()));
        }
        Err(mistakes) => {
            placed(text, &mistakes);
            for mistake in &mistakes {
                secret_kept(text, mistake);
            }
        }
    }
}

/// Mistakes are few enough to be shown, in order, each at a place that the file has.
fn placed(text: &str, mistakes: &[FileMistake]) {
    assert!((1..=100).contains(&mistakes.len()) && mistakes.is_sorted_by_key(|mistake| mistake.line));
    // YAML has lines end in a CR alone, too (1.2, 5.4). The end of a file is a place as well.
    let lines = text.matches(['\n', '\r']).count() + 1;
    for mistake in mistakes {
        assert!((1..=lines + 1).contains(&mistake.line) && mistake.column >= 1, "{mistake}");
        let told = mistake.to_string();
        assert!(!mistake.message.is_empty() && told.len() < 2048, "{told:?}");
        assert!(!told.contains(char::is_control), "{told:?}");
    }
}

/// An accounts file: rules that every account of the users file can be held to, or mistakes that can be
/// shown.
pub fn accounts_file(data: &[u8]) {
    const USERS: &str = "alice:$2y$05$abcdefghijklmnopqrstuupHpIXcOJo1NoZgX.hjwSF2SVi6yU1wa\n\
                         bob:$2y$05$abcdefghijklmnopqrstuupHpIXcOJo1NoZgX.hjwSF2SVi6yU1wa\n";
    let (Ok(text), Ok(users)) = (std::str::from_utf8(data), Users::parse(USERS)) else { return };
    let file = match AccountsFile::parse(text) {
        Ok(file) => file,
        Err(mistakes) => return placed(text, &mistakes),
    };
    match file.fits(&users) {
        Ok(()) => {}
        Err(mistakes) => return placed(text, &mistakes),
    }
    if let Some(catalogue) = &*CATALOGUE {
        let unknown = file.unknown_places(catalogue);
        assert!(unknown.iter().all(|mistake| mistake.line >= 1 && !mistake.message.is_empty()));
    }
    let accounts = Accounts::new(&users, &file);
    assert!(accounts.len() <= users.len());
    for name in ["alice", "bob", "nobody"] {
        let Some(policy) = accounts.policy(name) else { continue };
        assert_eq!(policy.account().as_str(), name);
        assert!(accounts.owners().get(policy.owner()).is_some(), "{name} has no owner");
        let (most, limits) = (Limits::default(), policy.limits(&Limits::default()));
        assert!(
            limits.max_idle <= most.max_idle
                && limits.max_ttl <= most.max_ttl
                && limits.max_wait <= most.max_wait
        );
    }
}

/// No long word behind the first colon of the line is repeated by its mistake: it may be a password. A word that
/// the mistake has with other letters in its place, too, is the mistake's own: a fuzzer writes such ones.
fn secret_kept(text: &str, mistake: &FileMistake) {
    let lines: Vec<&str> = text.strip_prefix('\u{feff}').unwrap_or(text).lines().collect();
    let at = mistake.line - 1;
    let Some((name, secret)) = lines.get(at).and_then(|line| line.split_once(':')) else { return };
    let told = mistake.to_string();
    for word in secret.split('$').filter(|word| word.len() >= 22 && !name.contains(word)) {
        if told.contains(word) {
            let line = format!("{name}:{}", secret.replace(word, &other(word)));
            let mut lines = lines.clone();
            lines.splice(at..=at, [line.as_str()]);
            let same = |also: &FileMistake| also.line == mistake.line && also.to_string().contains(word);
            let mistakes = Users::parse(&lines.join("\n")).err().unwrap_or_default();
            assert!(mistakes.iter().any(same), "{told:?}");
        }
    }
}

/// A word of other letters. What divides a line stays, so that it has the same mistakes.
fn other(word: &str) -> String {
    let other = |c: char| match c {
        ':' | '!' | '#' => c,
        _ if c.is_whitespace() => c,
        'x' => 'y',
        _ => 'x',
    };
    word.chars().map(other).collect()
}

/// A server list: every server is found by its name and where it stands, and nowhere twice.
pub fn server_list(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(catalogue) = Catalogue::parse(text) else { return };
    assert!(!catalogue.is_empty());
    let counted: usize = catalogue.countries().iter().map(|country| country.server_count()).sum();
    assert_eq!(counted, catalogue.len());
    for country in catalogue.countries() {
        assert_eq!(catalogue.country(country.id.as_str()).map(|same| &same.id), Some(&country.id));
        let in_cities: usize = country.cities.iter().map(|city| city.server_count()).sum();
        assert!(in_cities <= country.server_count());
    }
    for server in catalogue.servers() {
        let hostname = server.hostname.as_str();
        assert_eq!(catalogue.by_hostname(hostname).map(|same| &same.hostname), Some(&server.hostname));
        let place = Place::server(server.hostname.clone());
        assert_eq!(catalogue.candidates(&place).count(), 1);
    }
}

#[cfg(test)]
mod tests;
