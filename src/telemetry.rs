//! Log lines: which ones, how they look, and the thread that writes them. `main` makes the subscriber
//! global; tests give it to one thread or do without.
//!
//! A thread of the data path never waits for the terminal, the disk or the container runtime: lines go
//! into a buffer of bounded size that a thread of its own empties. When it is full they are dropped and
//! counted (`log_dropped_total`).

mod json;
mod members;
mod time;
mod writer;

use std::fmt::Debug;
use std::io;

use tracing::Subscriber;
use tracing::field::Field;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry};

pub(crate) use members::{Members, Name, name};
pub(crate) use time::at;
pub use writer::{LineWriter, LogGuard};

use crate::config::LogFormat;

/// Target of the access log: one line for each request or tunnel at its end, at level INFO.
pub const ACCESS: &str = "gluetun_gateway::access";

/// Logs each failed try of a request as an ERROR, retried or not; we log a failure once, where it is
/// known what it means.
const KUBE_NOISE: &str = "kube_client::client::builder";

/// Why `LOG_LEVEL` is not understood.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct FilterError(String);

/// The filter that `LOG_LEVEL` means: one of the words DEBUG, INFO, WARNING, ERROR, CRITICAL (those of
/// the original system) and TRACE, WARN, OFF, in any case; or a filter in `tracing`'s syntax, such as
/// `info,gluetun_gateway::session=debug`.
///
/// A word below INFO is about the gateway's own lines: those of the libraries stay at INFO.
///
/// # Errors
///
/// When it is neither.
pub fn filter(level: &str) -> Result<EnvFilter, FilterError> {
    let directives = match level.trim().to_ascii_uppercase().as_str() {
        "TRACE" | "NOTSET" => "info,gluetun_gateway=trace".to_owned(),
        "DEBUG" => "info,gluetun_gateway=debug".to_owned(),
        "INFO" => "info".to_owned(),
        "WARN" | "WARNING" => "warn".to_owned(),
        "ERROR" | "CRITICAL" | "FATAL" => "error".to_owned(),
        "OFF" | "NONE" => "off".to_owned(),
        "" => return Err(FilterError("it is empty".to_owned())),
        // A word that is no level would be taken for the name of a crate, and turn everything else off.
        word if word.bytes().all(|b| b.is_ascii_alphanumeric()) => {
            return Err(FilterError(format!("\"{}\" is not a level", level.trim())));
        }
        _ => level.trim().to_owned(),
    };
    let directives =
        if directives.contains(KUBE_NOISE) { directives } else { format!("{directives},{KUBE_NOISE}=off") };
    EnvFilter::try_new(directives).map_err(|error| FilterError(error.to_string()))
}

/// A subscriber that filters by `level` (see [`filter`]) and writes lines of `format` to `lines`.
///
/// # Errors
///
/// When `level` is not understood.
pub fn subscriber(
    level: &str,
    format: LogFormat,
    lines: LineWriter,
) -> Result<Box<dyn Subscriber + Send + Sync>, FilterError> {
    let registry = Registry::default().with(filter(level)?);
    let layer = tracing_subscriber::fmt::layer().with_writer(lines).with_ansi(false);
    Ok(match format {
        LogFormat::Json => Box::new(registry.with(layer.event_format(json::Json))),
        LogFormat::Text => {
            let fields = debug_fn(text_field).delimited(" ");
            Box::new(registry.with(layer.fmt_fields(fields).compact().with_target(false).with_timer(Clock)))
        }
    })
}

/// A field of a line for a person: the message as it is, and what writes several fields; else `name=value`.
fn text_field(out: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> std::fmt::Result {
    match field.name() {
        "message" | members::FIELDS => write!(out, "{value:?}"),
        // What the bridge from the `log` crate adds: where in its source a line comes from.
        name if name.starts_with("log.") => Ok(()),
        name => write!(out, "{}={value:?}", name.strip_prefix("r#").unwrap_or(name)),
    }
}

/// The time of day in UTC with milliseconds: all that a person at a terminal needs of it.
struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, w: &mut Writer<'_>) -> std::fmt::Result {
        let mut whole = String::with_capacity(32);
        time::push(&mut whole)?;
        // 2026-11-25T13:28:00.123456Z
        w.write_str(whole.get(11..23).unwrap_or(&whole))
    }
}

/// Starts the thread that writes lines to `target`, and makes a subscriber that has them written. `dropped` counts the
/// lines that found no room. Lines are on their way until the guard is dropped: keep it to the end of `main`.
///
/// # Errors
///
/// When `level` is not understood, or the thread cannot be started.
pub fn writing_to(
    target: impl io::Write + Send + 'static,
    level: &str,
    format: LogFormat,
    dropped: prometheus::IntCounter,
) -> io::Result<(Box<dyn Subscriber + Send + Sync>, LogGuard)> {
    let (lines, guard) = writer::start(target, dropped)?;
    let subscriber = subscriber(level, format, lines)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))?;
    Ok((subscriber, guard))
}

/// As [`writing_to`], to standard output and for all of the process.
///
/// # Errors
///
/// As there, or when the process has a subscriber.
pub fn install(level: &str, format: LogFormat, dropped: prometheus::IntCounter) -> io::Result<LogGuard> {
    let (subscriber, guard) = writing_to(io::stdout(), level, format, dropped)?;
    // Also makes it hear the libraries that use the `log` crate.
    subscriber.try_init().map_err(io::Error::other)?;
    Ok(guard)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::Value;

    use super::*;

    /// Keeps what is written, for the test to read.
    #[derive(Clone, Default)]
    pub(super) struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Kept {
        pub(super) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: &str, format: LogFormat, log: impl FnOnce()) -> String {
        let kept = Kept::default();
        let dropped = prometheus::IntCounter::new("dropped", "dropped").unwrap();
        let (lines, guard) = writer::start(kept.clone(), dropped).unwrap();
        let subscriber = subscriber(level, format, lines).unwrap();
        tracing::subscriber::with_default(subscriber, log);
        drop(guard);
        kept.text()
    }

    #[test]
    fn json_lines_are_flat() {
        let text = logged("INFO", LogFormat::Json, || {
            tracing::info!(target: ACCESS, account = "alice", bytes_up = 7, "tunnel closed");
            tracing::debug!("not at this level");
        });
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 1, "{text}");
        assert_eq!(lines[0]["level"], "INFO");
        assert_eq!(lines[0]["target"], ACCESS);
        assert_eq!(lines[0]["message"], "tunnel closed");
        assert_eq!(lines[0]["account"], "alice");
        assert_eq!(lines[0]["bytes_up"], 7);
        assert!(lines[0]["timestamp"].is_string());
    }

    #[test]
    fn a_json_line_can_be_read_whatever_is_in_it() {
        const NASTY: &str = "a\"b\\c\n\r\t\u{1}\u{7f}\u{e4}\u{1f600}\u{2028}";
        let error = io::Error::other("no \"way\"");
        let text = logged("INFO", LogFormat::Json, || {
            tracing::info!(
                r#type = NASTY,
                shown = %NASTY,
                debug = ?NASTY,
                error = &error as &dyn std::error::Error,
                yes = true,
                less = -7,
                half = 0.5,
                endless = f64::INFINITY,
                large = u64::MAX,
                nothing = None::<&str>,
                "said {NASTY}"
            );
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line["message"], format!("said {NASTY}"));
        assert_eq!((&line["type"], &line["shown"]), (&NASTY.into(), &NASTY.into()));
        assert_eq!(line["debug"], format!("{NASTY:?}"));
        assert_eq!(line["error"], "no \"way\"");
        assert_eq!((&line["yes"], &line["less"], &line["half"]), (&true.into(), &(-7).into(), &0.5.into()));
        assert_eq!((&line["large"], &line["endless"]), (&u64::MAX.into(), &Value::Null));
        assert!(line.get("nothing").is_none());
        assert_eq!(line["target"], module_path!());
        let keys: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!((keys.first(), keys.last()), (Some(&"timestamp"), Some(&"target")));
    }

    #[test]
    fn a_value_may_write_several_fields() {
        struct Line;
        impl Debug for Line {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let mut members = Members::new(f);
                members.text(name!("account"), Some("alice"));
                members.number(name!("status"), 200);
                members.finish(f)
            }
        }
        let log = || tracing::info!(target: ACCESS, fields = ?Line, "request");
        let text = logged("INFO", LogFormat::Json, log);
        let line: Value = serde_json::from_str(&text).unwrap();
        let keys: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["timestamp", "level", "message", "account", "status", "target"]);
        let text = logged("INFO", LogFormat::Text, log);
        assert!(text.ends_with("request account=\"alice\" status=200\n"), "{text}");
    }

    #[test]
    fn a_line_may_tell_of_an_earlier_time() {
        let log = || {
            at(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(5), || {
                tracing::info!("then");
            });
            tracing::info!("now");
        };
        for (format, then) in
            [(LogFormat::Json, "1970-01-01T00:00:00.005000Z"), (LogFormat::Text, "00:00:00.005 ")]
        {
            let text = logged("INFO", format, log);
            let lines: Vec<&str> = text.lines().collect();
            assert!(lines[0].contains(then) && lines[0].contains("then"), "{text}");
            assert!(!lines[1].contains(then) && lines[1].contains("now"), "{text}");
        }
    }

    #[test]
    fn text_lines_are_short() {
        let text = logged("debug", LogFormat::Text, || tracing::debug!(pod = "gluetun-1", "ready"));
        let line = text.strip_suffix('\n').unwrap();
        assert!(line.contains("DEBUG") && line.ends_with("ready pod=\"gluetun-1\""), "{line}");
        assert_eq!(line.find(' '), Some(12), "the time of day: {line}");
    }

    #[test]
    fn kube_is_told_once() {
        let log = || {
            tracing::error!(target: "kube_client::client::builder", "failed with error");
            tracing::error!(target: "kube_client::client", "another");
        };
        assert_eq!(logged("INFO", LogFormat::Text, log).lines().count(), 1);
        assert_eq!(logged("kube_client::client::builder=error", LogFormat::Text, log).lines().count(), 1);
    }

    #[test]
    fn levels_of_the_original_and_filters_are_understood() {
        for level in ["DEBUG", "info", "Warning", "ERROR", "CRITICAL", "trace", "off", "warn"] {
            assert!(filter(level).is_ok(), "{level}");
        }
        assert!(filter("info,gluetun_gateway::session=debug").is_ok());
        assert_eq!(filter("LOUD").unwrap_err().to_string(), "\"LOUD\" is not a level");
        assert!(filter("").is_err());
        assert!(filter("info,x=[").is_err());
        assert!(filter("gluetun_gateway=loud").is_err());
    }

    #[test]
    fn a_word_below_info_leaves_libraries_at_info() {
        let text = logged("DEBUG", LogFormat::Text, || {
            tracing::debug!(target: "hyper_util::client", "pooling");
            tracing::debug!(target: "gluetun_gateway::session", "ours");
        });
        assert!(text.contains("ours") && !text.contains("pooling"), "{text}");
    }
}
