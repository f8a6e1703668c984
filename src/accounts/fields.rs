//! Reading nodes of the accounts file: what a well-formed value of each kind is, and the mistakes, which
//! are collected so that one look names them all.

use std::time::Duration;

use super::file::nearest;
use super::yaml::{At, Name, Node, Value};
use crate::identity::FileMistake;
use crate::selector::duration;

/// Lifts a limit that the defaults set.
const UNLIMITED: &str = "unlimited";

/// Collects mistakes. What a method cannot read is a mistake and `None`.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) mistakes: Vec<FileMistake>,
}

/// The fields of a mapping, each once.
#[derive(Debug, Default)]
pub(super) struct Fields<'a>(Vec<(&'a Name, &'a Node)>);

impl<'a> Fields<'a> {
    pub(super) fn get(&self, name: &str) -> Option<(&'a Name, &'a Node)> {
        self.0.iter().copied().find(|(field, _)| field.text == name)
    }
}

/// What a node is, for mistakes.
fn kind(node: &Node) -> String {
    match &node.value {
        Value::Null => "nothing".to_owned(),
        Value::Scalar { text, .. } => format!("'{}'", crate::servers::names::printable(text, 40)),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a mapping".to_owned(),
    }
}

impl Reader {
    /// Notes a mistake.
    pub(super) fn at(&mut self, at: At, message: impl Into<String>) {
        self.mistakes.push(at.mistake(message));
    }

    /// The fields of a mapping; those that are not `known`, or come twice, are mistakes.
    pub(super) fn fields<'a>(&mut self, node: &'a Node, what: &str, known: &[&'static str]) -> Fields<'a> {
        let entries = match &node.value {
            Value::Null => return Fields::default(),
            Value::Map(entries) => entries,
            Value::Scalar { .. } | Value::List(_) => {
                self.at(
                    node.at,
                    format!("{what} has fields, not {}: write {}", kind(node), known.join(", ")),
                );
                return Fields::default();
            }
        };
        let mut fields = Fields::default();
        for (name, node) in entries {
            if !known.contains(&name.text.as_str()) {
                let word = crate::servers::names::printable(&name.text, 40);
                let meant = match nearest(&name.text, known.iter().copied()) {
                    Some(near) => format!("did you mean '{near}'?"),
                    None => format!("there are {}", known.join(", ")),
                };
                self.at(name.at, format!("{what} has no field '{word}': {meant}"));
            } else if let Some((first, _)) = fields.get(&name.text) {
                let line = first.at.line;
                self.at(
                    name.at,
                    format!("'{}' is already on line {line}: take one of the two away", name.text),
                );
            } else {
                fields.0.push((name, node));
            }
        }
        fields
    }

    /// A scalar.
    pub(super) fn text<'a>(&mut self, node: &'a Node, what: &str) -> Option<&'a str> {
        match &node.value {
            Value::Scalar { text, .. } => Some(text),
            Value::Null | Value::List(_) | Value::Map(_) => {
                self.at(node.at, format!("write {what}, not {}", kind(node)));
                None
            }
        }
    }

    /// A list of scalars; a lone one is not taken for a list, and nothing is an empty one.
    pub(super) fn texts<'a>(&mut self, node: &'a Node, what: &str) -> Vec<(At, &'a str)> {
        match &node.value {
            Value::List(nodes) => {
                nodes.iter().filter_map(|node| Some((node.at, self.text(node, what)?))).collect()
            }
            Value::Null => {
                self.at(node.at, format!("write a list of {what}, or [] for none"));
                Vec::new()
            }
            Value::Scalar { text, .. } => {
                let text = crate::servers::names::printable(text, 40);
                self.at(node.at, format!("write a list of {what}: [{text}]"));
                Vec::new()
            }
            Value::Map(_) => {
                self.at(node.at, format!("write a list of {what}, not a mapping"));
                Vec::new()
            }
        }
    }

    /// `true` or `false` (YAML 1.2.2, 10.3.2), without quotes.
    pub(super) fn truth(&mut self, node: &Node) -> Option<bool> {
        match &node.value {
            Value::Scalar { text, plain: true } if matches!(text.as_str(), "true" | "True" | "TRUE") => {
                Some(true)
            }
            Value::Scalar { text, plain: true } if matches!(text.as_str(), "false" | "False" | "FALSE") => {
                Some(false)
            }
            Value::Scalar { .. } | Value::Null | Value::List(_) | Value::Map(_) => {
                self.at(node.at, format!("write true or false, not {}", kind(node)));
                None
            }
        }
    }

    /// A number as `read` takes it, or `unlimited`.
    pub(super) fn number<T>(
        &mut self,
        node: &Node,
        what: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<Option<T>> {
        match &node.value {
            Value::Scalar { text, .. } if text == UNLIMITED => return Some(None),
            Value::Scalar { text, plain: true } => {
                if let Some(number) = read(text) {
                    return Some(Some(number));
                }
            }
            Value::Scalar { .. } | Value::Null | Value::List(_) | Value::Map(_) => {}
        }
        self.at(node.at, format!("write {what}, not {}", kind(node)));
        None
    }

    /// A time with its unit, or `unlimited`.
    pub(super) fn limit(&mut self, node: &Node, least: Duration, most: Duration) -> Option<Option<Duration>> {
        let text = self.text(node, "a time such as 30m, or 'unlimited'")?;
        if text == UNLIMITED {
            return Some(None);
        }
        let word = crate::servers::names::printable(text, 40);
        let why = match duration::parse(text) {
            Ok(time) if time >= least && time <= most => return Some(Some(time)),
            Ok(_) => {
                let (least, most) = (duration::text(least), duration::text(most));
                format!("'{word}' is out of range: write a time from {least} to {most}")
            }
            Err(duration::Fault::NoUnit) => format!("'{word}' lacks its unit: write {word}s or {word}m"),
            Err(duration::Fault::Form) => {
                format!("'{word}' is no time: write a whole number and s, m, h or d, such as 30m")
            }
        };
        self.at(node.at, why);
        None
    }
}
