//! Log lines in JSON: one object a line, written as the fields come. The access log has a line for every request, and
//! `tracing-subscriber`'s own JSON, which goes through a serializer and several maps, took a fifth of a tunnel's user
//! time. The keys and their order are the same.

use std::error::Error;
use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::members::FIELDS;
use super::time;
use crate::eight;

/// Room for a line of the access log, which the allocator has at hand.
const LINE: usize = 1000;

/// Formats events as flat JSON objects: `timestamp`, `level`, the fields, `target`.
pub(super) struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let mut line = String::with_capacity(LINE);
        line.push_str("{\"timestamp\":\"");
        time::push(&mut line)?;
        line.push_str("\",\"level\":\"");
        line.push_str(metadata.level().as_str());
        line.push('"');
        let mut fields = Fields { line, target: None };
        event.record(&mut fields);
        let Fields { mut line, target } = fields;
        line.push_str(",\"target\":\"");
        escape(&mut line, target.as_deref().unwrap_or(metadata.target()));
        line.push_str("\"}\n");
        // At once: every call through the writer costs as much as a field.
        out.write_str(&line)
    }
}

/// Writes the fields of an event.
struct Fields {
    line: String,
    /// The target of a line that comes of the `log` crate.
    target: Option<String>,
}

impl Fields {
    /// Begins a field; false for what the bridge from the `log` crate adds: where in its source a line comes from.
    fn begin(&mut self, field: &Field) -> bool {
        let name = field.name();
        if name.starts_with("log.") {
            return false;
        }
        self.line.reserve(name.len() + 4);
        self.line.push_str(",\"");
        // A name is an identifier of some source, with dots.
        self.line.push_str(name.strip_prefix("r#").unwrap_or(name));
        self.line.push_str("\":");
        true
    }

    fn plain(&mut self, field: &Field, value: impl fmt::Display) {
        if self.begin(field) {
            // A string takes everything.
            let _ = write!(self.line, "{value}");
        }
    }

    fn quoted(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if self.begin(field) {
            self.line.push('"');
            let _ = Escaped(&mut self.line).write_fmt(value);
            self.line.push('"');
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "log.target" {
            self.target = Some(value.to_owned());
        }
        if self.begin(field) {
            self.line.push('"');
            escape(&mut self.line, value);
            self.line.push('"');
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if self.begin(field) {
            self.line.push_str(itoa::Buffer::new().format(value));
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        if self.begin(field) {
            self.line.push_str(itoa::Buffer::new().format(value));
        }
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.plain(field, value);
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.plain(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no infinity.
        if value.is_finite() { self.plain(field, value) } else { self.plain(field, "null") }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.quoted(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == FIELDS {
            // A string takes everything.
            let _ = write!(self.line, "{value:#?}");
            return;
        }
        self.quoted(field, format_args!("{value:?}"));
    }
}

/// Appends the inside of a JSON string (RFC 8259, 7).
pub(super) fn escape(line: &mut String, mut text: &str) {
    // All that is escaped is ASCII, so the text may be cut there.
    while let Some(at) = special(text.as_bytes()) {
        let (before, rest) = text.split_at(at);
        line.push_str(before);
        let mut chars = rest.chars();
        match chars.next().unwrap_or_default() {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            other => {
                let _ = write!(line, "\\u{:04x}", u32::from(other));
            }
        }
        text = chars.as_str();
    }
    line.push_str(text);
}

/// Where the first byte is that is escaped.
fn special(bytes: &[u8]) -> Option<usize> {
    let special = |word| eight::controls(word) | eight::equal(word, b'"') | eight::equal(word, b'\\');
    eight::first(bytes, special)
}

/// Escapes what is formatted.
struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        escape(self.0, text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn what_is_escaped_is_found_wherever_it_is(text in proptest::collection::vec(0_u8..=255, 0..40)) {
            let expected = text.iter().position(|b| matches!(b, 0..=0x1f | b'"' | b'\\' | 0x7f));
            proptest::prop_assert_eq!(special(&text), expected);
        }
    }
}
