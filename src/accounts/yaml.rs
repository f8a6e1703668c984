//! A YAML text as a tree in which every node knows its line and column. serde would stop at the first
//! mistake; an operator wants all of them, each with its place.
//!
//! The subset that a settings file needs: mappings with plain names, sequences, scalars. Anchors, tags
//! and several documents are refused rather than half understood.

use granit_parser::{Event, Marker, Options, Parser, ScalarStyle};

use crate::identity::FileMistake;

/// Deepest nesting: the accounts file has five levels.
const MAX_DEPTH: usize = 16;

/// Where a node begins, both from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) at: At,
    pub(super) value: Value,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Any other scalar; `plain` without quotes.
    Scalar { text: String, plain: bool },
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the text; keys may come twice.
    Map(Vec<(Name, Node)>),
}

/// A key of a mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) at: At,
    pub(super) text: String,
}

impl At {
    fn of(marker: &Marker) -> Self {
        Self { line: marker.line().max(1), column: marker.col() + 1 }
    }

    /// A mistake at this place.
    pub(super) fn mistake(self, message: impl Into<String>) -> FileMistake {
        FileMistake { line: self.line, column: self.column, message: message.into() }
    }
}

/// A collection that is not complete yet.
const NOTHING: Node = Node { at: At { line: 1, column: 1 }, value: Value::Null };

enum Open {
    List(At, Vec<Node>),
    Map(At, Vec<(Name, Node)>, Option<Name>),
}

/// Reads a text; an empty one is [`Value::Null`], and so is one with something that is no YAML or not of the
/// subset: that is told, and nothing before or behind it can be trusted. Of several documents the first is
/// read, and that there are others told.
pub(super) fn parse(text: &str) -> (Node, Option<FileMistake>) {
    let mut more = None;
    match read(text, &mut more) {
        Ok(root) => (root, more),
        Err(mistake) => (NOTHING, Some(mistake)),
    }
}

fn read(text: &str, more: &mut Option<FileMistake>) -> Result<Node, FileMistake> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    let mut stack: Vec<Open> = Vec::new();
    let mut root: Option<Node> = None;
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| {
            At::of(error.marker()).mistake(format!("this is not YAML: {}", printable(&error.info())))
        })?;
        let at = At::of(&span.start);
        let node = match event {
            Event::Scalar(text, style, anchor, tag) => {
                plain_node(at, anchor, tag.is_some())?;
                Node { at, value: scalar(text.into_owned(), style == ScalarStyle::Plain) }
            }
            Event::SequenceStart(_, anchor, tag) => {
                plain_node(at, anchor, tag.is_some())?;
                stack.push(Open::List(at, Vec::new()));
                continue;
            }
            Event::MappingStart(_, anchor, tag) => {
                plain_node(at, anchor, tag.is_some())?;
                stack.push(Open::Map(at, Vec::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match stack.pop() {
                Some(Open::List(at, nodes)) => Node { at, value: Value::List(nodes) },
                Some(Open::Map(at, entries, _)) => Node { at, value: Value::Map(entries) },
                None => continue,
            },
            Event::Alias(_) => {
                return Err(at.mistake("an alias ('*name') is not understood here: write it out"));
            }
            Event::DocumentStart(..) if root.is_some() => {
                *more = Some(at.mistake("the file has a second document: take away '---' and what follows"));
                break;
            }
            _ => continue,
        };
        match stack.last_mut() {
            None => root = Some(node),
            Some(Open::List(_, nodes)) => nodes.push(node),
            Some(Open::Map(_, entries, pending)) => match (pending.take(), node) {
                (Some(name), node) => entries.push((name, node)),
                (None, Node { at, value: Value::Scalar { text, .. } }) => *pending = Some(Name { at, text }),
                (None, node) => return Err(node.at.mistake("a name is due here: write NAME: VALUE")),
            },
        }
    }
    Ok(root.unwrap_or(NOTHING))
}

fn plain_node(at: At, anchor: usize, tagged: bool) -> Result<(), FileMistake> {
    if anchor != 0 {
        return Err(at.mistake("an anchor ('&name') is not understood here: take it away"));
    }
    if tagged {
        return Err(at.mistake("a tag ('!name') is not understood here: take it away"));
    }
    Ok(())
}

/// The core schema's idea of nothing (YAML 1.2.2, 10.3.2); all else is told by who reads it.
fn scalar(text: String, plain: bool) -> Value {
    if plain && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL") {
        return Value::Null;
    }
    Value::Scalar { text, plain }
}

fn printable(text: &str) -> String {
    crate::servers::names::printable(text, 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize, column: usize) -> At {
        At { line, column }
    }

    #[test]
    fn every_node_knows_its_place() {
        let node = parse("# c\na:\n  b: [x, \"y\"]\n  'c': 1\nd:\n").0;
        let Value::Map(top) = node.value else { panic!() };
        assert_eq!((top[0].0.text.as_str(), top[0].0.at), ("a", at(2, 1)));
        let Value::Map(inner) = &top[0].1.value else { panic!() };
        assert_eq!((inner[0].0.at, inner[0].1.at), (at(3, 3), at(3, 6)));
        let Value::List(list) = &inner[0].1.value else { panic!() };
        assert_eq!(list[1].at, at(3, 10));
        assert_eq!(list[1].value, Value::Scalar { text: "y".into(), plain: false });
        assert_eq!(inner[1].0.text, "c");
        assert_eq!(top[1].1.value, Value::Null);
        assert_eq!(parse("").0.value, Value::Null);
        assert_eq!(parse("# only a comment\n").0.value, Value::Null);
    }

    #[test]
    fn what_is_not_of_the_subset_is_told_with_its_place() {
        for (text, line, part) in [
            ("a: [1", 1, "not YAML"),
            ("a: b: c", 1, "not YAML"),
            ("a: 1\n b: 2", 2, "not YAML"),
            ("a: &x 1\nb: *x", 1, "anchor"),
            ("a: !!int 1", 1, "tag"),
            ("a: 1\n---\nb: 2", 2, "second document"),
            ("? [a]\n: b", 1, "a name is due"),
            ("a: *x", 1, "not YAML"),
        ] {
            let mistake = parse(text).1.unwrap();
            assert!(mistake.line >= line && mistake.message.contains(part), "{text}: {mistake}");
        }
        assert!(parse(&"[".repeat(1000)).1.is_some());
        assert!(parse(&"- ".repeat(1000)).1.is_some());
    }
}
