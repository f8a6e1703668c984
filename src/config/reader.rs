//! Reading settings one by one: where they come from, what a well-formed value is, and the mistakes,
//! which are collected so that one start names them all.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::settings::{self, Fallback};
use crate::secret::Secret;

/// Largest file that a `NAME_FILE` may name: a secret is small, and a path to `/dev/zero` is a mistake.
const MAX_SECRET_FILE: u64 = 64 << 10;

/// Finds a variable's value.
type Lookup = Box<dyn Fn(&str) -> Option<OsString> + Send + Sync>;

/// What the gateway is started in: its variables, and the little else that settings are found out from.
/// A test makes one from a map.
pub struct Environment {
    variables: Lookup,
    /// Where Kubernetes writes the pod's namespace.
    pub namespace_file: PathBuf,
    /// The host's name.
    pub hostname: String,
    /// Whether log lines go to a terminal.
    pub terminal: bool,
    /// CPUs that this process may use.
    pub cpus: usize,
}

impl fmt::Debug for Environment {
    /// Not the variables: some are secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").field("hostname", &self.hostname).finish_non_exhaustive()
    }
}

impl Environment {
    /// That of this process.
    pub fn process() -> Self {
        Self {
            variables: Box::new(|name| std::env::var_os(name)),
            namespace_file: PathBuf::from("/var/run/secrets/kubernetes.io/serviceaccount/namespace"),
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            terminal: std::io::IsTerminal::is_terminal(&std::io::stdout()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    /// One with these variables and nothing else: for tests, and for the demo, which has no use for the
    /// variables of whoever tries it.
    pub fn of<K: Into<String>, V: Into<OsString>>(variables: impl IntoIterator<Item = (K, V)>) -> Self {
        let variables: BTreeMap<String, OsString> =
            variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self {
            variables: Box::new(move |name| variables.get(name).cloned()),
            namespace_file: PathBuf::new(),
            hostname: "localhost".to_owned(),
            terminal: false,
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<OsString> {
        (self.variables)(name)
    }
}

/// One mistake in the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The variable.
    pub name: String,
    /// What is wrong with it. Shows a value only where it is no secret.
    pub what: String,
    /// What to write instead.
    pub fix: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, what, fix } = self;
        write!(f, "{name}: {what}; {fix}")
    }
}

/// Every mistake in the settings, one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub Vec<Mistake>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, mistake) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Reads settings, and collects mistakes. What a method cannot read is a mistake and `None`.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    env: &'a Environment,
    pub(super) mistakes: Vec<Mistake>,
    /// Names that were asked for: a test holds them against the table.
    pub(super) asked: BTreeSet<&'static str>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(env: &'a Environment) -> Self {
        Self { env, mistakes: Vec::new(), asked: BTreeSet::new() }
    }

    pub(super) fn mistake(&mut self, name: &str, what: impl Into<String>, fix: impl Into<String>) {
        self.mistakes.push(Mistake { name: name.to_owned(), what: what.into(), fix: fix.into() });
    }

    /// The variable as given, without white space around it; none if it is empty.
    pub(super) fn given(&mut self, name: &'static str) -> Option<String> {
        self.asked.insert(name);
        let text = self.unicode(name)?;
        let trimmed = text.trim();
        (!trimmed.is_empty()).then(|| trimmed.to_owned())
    }

    /// The variable as given, else its default.
    pub(super) fn value(&mut self, name: &'static str) -> Option<String> {
        let given = self.given(name);
        // A value that is there and unreadable is a mistake already, and not the default.
        if given.is_some() || self.mistaken(name) {
            return given;
        }
        match settings::find(name).map(|s| s.fallback) {
            Some(Fallback::Value(value)) => Some(value.to_owned()),
            Some(Fallback::Required) => {
                self.mistake(name, "is not set", "set it");
                None
            }
            Some(Fallback::Computed(_) | Fallback::Nothing) | None => None,
        }
    }

    /// A secret: the variable, or the content of the file that `NAME_FILE` names. Set and empty is a
    /// mistake: for `ADMIN_TOKEN` it would mean an API that is open by accident.
    pub(super) fn secret(&mut self, name: &'static str) -> Option<Secret> {
        self.asked.insert(name);
        let file_name = format!("{name}_FILE");
        let value = self.unicode(name);
        let file = self.unicode(&file_name);
        let text = match (value, file) {
            (None, None) => return None,
            (Some(_), Some(_)) => {
                self.mistake(name, format!("is set, and so is {file_name}"), "set one of them");
                return None;
            }
            (Some(value), None) => value,
            (None, Some(path)) => match read_small(Path::new(path.trim())) {
                Ok(text) => text,
                Err(error) => {
                    self.mistake(
                        &file_name,
                        format!("cannot read {}: {error}", path.trim()),
                        "write the path of a readable file",
                    );
                    return None;
                }
            },
        };
        if text.trim().is_empty() {
            self.mistake(name, "is set, and empty", "give it a value, or remove it");
            return None;
        }
        Some(Secret::from(text.trim()))
    }

    /// The file that a secret is read from, if it is: for those that are read again.
    pub(super) fn secret_file(&self, name: &str) -> Option<PathBuf> {
        let path = self.env.get(&format!("{name}_FILE"))?.into_string().ok()?;
        Some(PathBuf::from(path.trim()))
    }

    fn unicode(&mut self, name: &str) -> Option<String> {
        match self.env.get(name)?.into_string() {
            Ok(text) => Some(text),
            Err(_) => {
                self.mistake(name, "is not UTF-8", "write it in UTF-8");
                None
            }
        }
    }

    /// Whether there is a mistake in that variable already.
    pub(super) fn mistaken(&self, name: &str) -> bool {
        self.mistakes.iter().any(|m| m.name == name)
    }

    /// A value of a type that reads itself; `fix` says what to write.
    pub(super) fn parse<T: FromStr>(&mut self, name: &'static str, fix: &str) -> Option<T> {
        let text = self.value(name)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.mistake(name, format!("{} is not understood", quoted(&text)), fix);
        }
        parsed
    }

    /// A whole number within bounds.
    pub(super) fn number(&mut self, name: &'static str, min: usize, max: usize) -> Option<usize> {
        let text = self.value(name)?;
        match text.parse() {
            Ok(number) if (min..=max).contains(&number) => Some(number),
            _ => {
                self.mistake(
                    name,
                    format!("{} is not a number from {min} to {max}", quoted(&text)),
                    "write one",
                );
                None
            }
        }
    }

    /// A duration with a unit, within bounds.
    pub(super) fn duration(&mut self, name: &'static str, min: Duration, max: Duration) -> Option<Duration> {
        let text = self.value(name)?;
        let shown = |d| humantime::format_duration(d);
        let bare = text.bytes().all(|b| b.is_ascii_digit()) && text != "0";
        let what = match humantime::parse_duration(&text) {
            _ if bare => format!("{} has no unit", quoted(&text)),
            Ok(duration) if duration < min => format!("{} is less than {}", quoted(&text), shown(min)),
            Ok(duration) if duration > max => format!("{} is more than {}", quoted(&text), shown(max)),
            Ok(duration) => return Some(duration),
            Err(error) => format!("{} is not a duration ({error})", quoted(&text)),
        };
        let fix = if bare {
            format!("write {text}s for seconds, {text}m for minutes")
        } else {
            format!("write a number with a unit, from {} to {}", shown(min), shown(max))
        };
        self.mistake(name, what, fix);
        None
    }

    /// `on` or `off`.
    pub(super) fn switch(&mut self, name: &'static str) -> Option<bool> {
        self.choice(
            name,
            &[("on", true), ("off", false)],
            &[("true", true), ("yes", true), ("1", true), ("false", false), ("no", false), ("0", false)],
        )
    }

    /// One of a closed set, whatever its case. `aliases` are taken and not told.
    pub(super) fn choice<T: Clone>(
        &mut self,
        name: &'static str,
        choices: &[(&str, T)],
        aliases: &[(&str, T)],
    ) -> Option<T> {
        let text = self.value(name)?;
        let found = choices.iter().chain(aliases).find(|(word, _)| word.eq_ignore_ascii_case(&text));
        if let Some((_, choice)) = found {
            return Some(choice.clone());
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        self.mistake(
            name,
            format!("{} is not one of its values", quoted(&text)),
            format!("write {}", words.join(" or ")),
        );
        None
    }

    /// Words separated by commas or white space; none is an empty list.
    pub(super) fn words(&mut self, name: &'static str) -> Vec<String> {
        self.value(name).map(|text| split(&text).map(str::to_owned).collect()).unwrap_or_default()
    }
}

/// Words separated by commas or white space.
pub(super) fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty())
}

/// A value for a message: on one line, cut where it is long.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    let cut: String = text.chars().take(SHOWN).collect();
    let dots = if cut.len() < text.len() { "…" } else { "" };
    format!("{cut:?}{dots}")
}

/// Reads a small text file.
fn read_small(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(MAX_SECRET_FILE + 1).read_to_string(&mut text)?;
    if read as u64 > MAX_SECRET_FILE {
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, "it is larger than 64 KiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str, value: &str) -> Environment {
        Environment::of([(name, value)])
    }

    fn told(env: &Environment, read: impl FnOnce(&mut Reader<'_>)) -> String {
        let mut reader = Reader::new(env);
        read(&mut reader);
        ConfigError(reader.mistakes).to_string()
    }

    const HOUR: Duration = Duration::from_secs(3600);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn durations_need_a_unit_and_keep_their_bounds() {
        let read = |value: &str| {
            let env = env("IDLE_TIMEOUT", value);
            let mut reader = Reader::new(&env);
            let duration = reader.duration("IDLE_TIMEOUT", SECOND, HOUR);
            (duration, ConfigError(reader.mistakes).to_string())
        };
        assert_eq!(read("90s"), (Some(SECOND * 90), String::new()));
        assert_eq!(read(" 1m 30s "), (Some(SECOND * 90), String::new()));
        assert_eq!(read(""), (Some(SECOND * 300), String::new()), "an empty one is the default");
        assert_eq!(
            read("300").1,
            "IDLE_TIMEOUT: \"300\" has no unit; write 300s for seconds, 300m for minutes"
        );
        assert_eq!(
            read("500ms").1,
            "IDLE_TIMEOUT: \"500ms\" is less than 1s; write a number with a unit, from 1s to 1h"
        );
        assert_eq!(
            read("2h").1,
            "IDLE_TIMEOUT: \"2h\" is more than 1h; write a number with a unit, from 1s to 1h"
        );
        for bad in ["-5m", "five minutes", "5x", "5m5"] {
            assert!(read(bad).1.contains("is not a duration"), "{bad}: {}", read(bad).1);
        }
    }

    #[test]
    fn numbers_and_switches_name_their_values() {
        assert_eq!(
            told(&env("INSTANCE_LIMIT", "0"), |r| assert_eq!(r.number("INSTANCE_LIMIT", 1, 9), None)),
            "INSTANCE_LIMIT: \"0\" is not a number from 1 to 9; write one"
        );
        assert_eq!(
            told(&env("EXIT_IPV6", "maybe"), |r| assert_eq!(r.switch("EXIT_IPV6"), None)),
            "EXIT_IPV6: \"maybe\" is not one of its values; write on or off"
        );
        assert_eq!(told(&env("EXIT_IPV6", "True"), |r| assert_eq!(r.switch("EXIT_IPV6"), Some(true))), "");
    }

    #[test]
    fn what_is_required_is_missed() {
        let none = Environment::of::<String, String>([]);
        assert_eq!(
            told(&none, |r| assert_eq!(r.value("USERS_FILE"), None)),
            "USERS_FILE: is not set; set it"
        );
    }

    #[test]
    fn a_secret_comes_from_the_variable_or_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "from-the-file\n").unwrap();
        let path = file.to_str().unwrap();
        let read = |variables: &[(&str, &str)]| {
            let env = Environment::of(variables.iter().copied());
            let mut reader = Reader::new(&env);
            let secret = reader.secret("ADMIN_TOKEN").map(|s| s.expose().to_owned());
            (secret, ConfigError(reader.mistakes).to_string())
        };
        assert_eq!(read(&[]), (None, String::new()));
        assert_eq!(read(&[("ADMIN_TOKEN", "abc")]), (Some("abc".to_owned()), String::new()));
        assert_eq!(read(&[("ADMIN_TOKEN_FILE", path)]), (Some("from-the-file".to_owned()), String::new()));
        assert_eq!(
            read(&[("ADMIN_TOKEN", "hidden"), ("ADMIN_TOKEN_FILE", path)]).1,
            "ADMIN_TOKEN: is set, and so is ADMIN_TOKEN_FILE; set one of them"
        );
        assert_eq!(
            read(&[("ADMIN_TOKEN", " ")]).1,
            "ADMIN_TOKEN: is set, and empty; give it a value, or remove it"
        );
        let gone = read(&[("ADMIN_TOKEN_FILE", "/nowhere/token")]).1;
        assert!(gone.starts_with("ADMIN_TOKEN_FILE: cannot read /nowhere/token: "), "{gone}");
        let endless = read(&[("ADMIN_TOKEN_FILE", "/dev/zero")]).1;
        assert!(endless.contains("larger than 64 KiB"), "{endless}");
    }

    #[cfg(unix)]
    #[test]
    fn a_value_that_is_not_utf_8_is_a_mistake_and_not_the_default() {
        use std::os::unix::ffi::OsStringExt as _;
        let env = Environment::of([("IDLE_TIMEOUT", OsString::from_vec(vec![0xff]))]);
        assert_eq!(
            told(&env, |r| assert_eq!(r.duration("IDLE_TIMEOUT", SECOND, HOUR), None)),
            "IDLE_TIMEOUT: is not UTF-8; write it in UTF-8"
        );
    }

    #[test]
    fn long_values_are_cut_and_stay_on_one_line() {
        assert_eq!(quoted("a\nb"), "\"a\\nb\"");
        assert_eq!(quoted(&"x".repeat(100)), format!("\"{}\"…", "x".repeat(60)));
    }
}
