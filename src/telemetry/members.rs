//! A line of many fields that writes itself: the access log has one for every request, and handing its fields one by
//! one through `tracing` cost a tunnel more than any other thing but the kernel. It is one value of the event, named
//! [`FIELDS`], whose `Debug` is made of [`Members`]. Called by the proxy's records; `telemetry`'s formats know the name.

use std::fmt;

use super::json;

/// Name of the field whose value writes several: as further members of a JSON object, each behind a comma, where its
/// `Debug` is asked for in the alternate form; else as `name=value` with spaces between.
pub(crate) const FIELDS: &str = "fields";

/// The name of a field in both forms; of `name!`.
pub(crate) struct Name {
    /// With the comma before it.
    pub(crate) json: &'static str,
    /// With what comes behind it.
    pub(crate) text: &'static str,
}

/// A [`Name`], put together when the program is built.
macro_rules! name {
    ($name:literal) => {
        $crate::telemetry::Name { json: concat!(",\"", $name, "\":"), text: concat!($name, "=") }
    };
}
pub(crate) use name;

/// Room for the members of a line of the access log.
const ROOM: usize = 512;

/// Writes fields in the form that is asked for.
pub(crate) struct Members {
    out: String,
    json: bool,
}

impl Members {
    /// For a `Debug`.
    pub(crate) fn new(f: &fmt::Formatter<'_>) -> Self {
        Self { out: String::with_capacity(ROOM), json: f.alternate() }
    }

    /// A value of letters, digits and what needs no escape.
    pub(crate) fn word(&mut self, name: Name, value: &str) {
        self.begin(name);
        if self.json {
            self.out.push('"');
        }
        self.out.push_str(value);
        if self.json {
            self.out.push('"');
        }
    }

    /// Any text; nothing at all where there is none.
    pub(crate) fn text(&mut self, name: Name, value: Option<&str>) {
        let Some(value) = value else { return };
        self.begin(name);
        if self.json {
            self.out.push('"');
            json::escape(&mut self.out, value);
            self.out.push('"');
        } else {
            let _ = fmt::Write::write_fmt(&mut self.out, format_args!("{value:?}"));
        }
    }

    /// A number.
    pub(crate) fn number(&mut self, name: Name, value: u64) {
        self.begin(name);
        self.out.push_str(itoa::Buffer::new().format(value));
    }

    /// All of them, in one piece.
    pub(crate) fn finish(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.out)
    }

    fn begin(&mut self, name: Name) {
        if self.json {
            self.out.push_str(name.json);
            return;
        }
        if !self.out.is_empty() {
            self.out.push(' ');
        }
        self.out.push_str(name.text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Line;

    impl fmt::Debug for Line {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let mut members = Members::new(f);
            members.word(name!("id"), "0f");
            members.text(name!("account"), Some("al\"ice"));
            members.text(name!("session"), None);
            members.number(name!("bytes"), 7);
            members.finish(f)
        }
    }

    #[test]
    fn both_forms_have_the_same_fields() {
        assert_eq!(format!("{Line:#?}"), ",\"id\":\"0f\",\"account\":\"al\\\"ice\",\"bytes\":7");
        assert_eq!(format!("{Line:?}"), "id=0f account=\"al\\\"ice\" bytes=7");
    }
}
