//! YAML and live objects as one tree. Pure.
//!
//! Invariants: a node of a text knows its bytes there; an alias is followed (its node has the bytes of
//! what it stands for), but never beyond a bound; nothing of a text is changed here.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle, StructureStyle};
use serde_json::{Map, Number, Value};

use crate::workload::Segment;

/// Nodes that following aliases may add to a document: far above honest use, below what costs memory.
const ALIAS_NODES: usize = 200_000;

/// How a scalar is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Without quotes.
    Plain,
    /// `'…'`.
    Single,
    /// `"…"`.
    Double,
    /// `|` or `>`.
    Block,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    /// Text, numbers, booleans, nothing.
    Scalar {
        /// As read, without quotes.
        text: String,
        /// As written.
        style: Style,
    },
    /// A list.
    List {
        /// Its items.
        items: Vec<Node>,
        /// Whether it is written `[…]`.
        flow: bool,
    },
    /// A map.
    Map {
        /// Its entries in order.
        entries: Vec<Entry>,
        /// Whether it is written `{…}`.
        flow: bool,
    },
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    /// The key.
    pub key: Node,
    /// The value.
    pub value: Node,
}

impl Entry {
    /// Where its text ends. A value that isn't written has a place somewhere after the key.
    pub(crate) fn end(&self) -> usize {
        let is_absent = self.value.span.is_empty() && self.value.text() == Some("");
        if is_absent { self.key.span.end } else { self.value.end().max(self.key.span.end) }
    }
}

/// A node and its bytes; `0..0` for nodes of live objects.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    /// What it holds.
    pub kind: Kind,
    /// Where it stands, without anchor and tag.
    pub span: Range<usize>,
}

/// One document of a text.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    /// Its root.
    pub root: Node,
    /// The bytes from its beginning (`---` included) to that of the next.
    pub range: Range<usize>,
}

/// Why a text can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// It is no YAML.
    #[error("not valid YAML at line {line}, column {column}: {reason}")]
    Invalid {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// The parser's words.
        reason: String,
    },
    /// An alias stands inside what it stands for.
    #[error("not valid YAML at line {line}: an alias stands inside its own anchor")]
    Cycle {
        /// From 1.
        line: usize,
    },
    /// A bomb.
    #[error("its aliases expand to more than {ALIAS_NODES} values at line {line}")]
    Expands {
        /// From 1.
        line: usize,
    },
}

impl Node {
    /// A scalar's text; `None` for lists and maps.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The value of `key`.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|entry| entry.key.text() == Some(key)).map(|entry| &entry.value)
    }

    /// The value at a path of keys.
    pub(crate) fn at(&self, keys: &[&str]) -> Option<&Self> {
        keys.iter().try_fold(self, |node, key| node.get(key))
    }

    /// The text at a path of keys.
    pub(crate) fn text_at(&self, keys: &[&str]) -> Option<&str> {
        self.at(keys)?.text()
    }

    /// A map's entries; none otherwise.
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.kind {
            Kind::Map { entries, .. } => entries,
            _ => &[],
        }
    }

    /// A list's items; none otherwise.
    pub(crate) fn items(&self) -> &[Self] {
        match &self.kind {
            Kind::List { items, .. } => items,
            _ => &[],
        }
    }

    /// The node at `path`.
    pub(crate) fn follow(&self, path: &[Segment<'_>]) -> Option<&Self> {
        path.iter().try_fold(self, |node, segment| match segment {
            Segment::Key(key) => node.get(key),
            Segment::Index(index) => node.items().get(*index),
        })
    }

    /// Whether nothing is written.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, style: Style::Plain } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// Where its text ends: that of its last child for block collections, whose own end is that of
    /// the blanks and comments after them.
    pub(crate) fn end(&self) -> usize {
        match &self.kind {
            Kind::Map { entries, flow: false } => entries.last().map_or(self.span.end, Entry::end),
            Kind::List { items, flow: false } => items.last().map_or(self.span.end, Self::end),
            _ => self.span.end,
        }
    }

    /// The same to every reader, whatever the notation.
    pub(crate) fn same(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Scalar { .. }, Kind::Scalar { .. }) => self.to_value() == other.to_value(),
            (Kind::List { items: a, .. }, Kind::List { items: b, .. }) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b))
            }
            (Kind::Map { entries: a, .. }, Kind::Map { entries: b, .. }) => {
                a.len() == b.len()
                    && a.iter().zip(b).all(|(a, b)| a.key.same(&b.key) && a.value.same(&b.value))
            }
            _ => false,
        }
    }

    /// As JSON; keys that are no text are left out.
    pub(crate) fn to_value(&self) -> Value {
        match &self.kind {
            Kind::Scalar { text, style: Style::Plain } => plain_value(text),
            Kind::Scalar { text, .. } => Value::from(text.as_str()),
            Kind::List { items, .. } => Value::Array(items.iter().map(Self::to_value).collect()),
            Kind::Map { entries, .. } => {
                let mut map = Map::new();
                for entry in entries {
                    if let Some(key) = entry.key.text() {
                        map.insert(key.to_owned(), entry.value.to_value());
                    }
                }
                Value::Object(map)
            }
        }
    }

    /// Of JSON, with no place in a text.
    pub(crate) fn of_value(value: &Value) -> Self {
        let scalar = |text: String, style| Kind::Scalar { text, style };
        let kind = match value {
            Value::String(text) => scalar(text.clone(), Style::Double),
            Value::Null => scalar("null".to_owned(), Style::Plain),
            Value::Bool(_) | Value::Number(_) => scalar(value.to_string(), Style::Plain),
            Value::Array(items) => {
                Kind::List { items: items.iter().map(Self::of_value).collect(), flow: false }
            }
            Value::Object(fields) => {
                let entry = |(key, value): (&String, &Value)| Entry {
                    key: Self { kind: scalar(key.clone(), Style::Double), span: 0..0 },
                    value: Self::of_value(value),
                };
                Kind::Map { entries: fields.iter().map(entry).collect(), flow: false }
            }
        };
        Self { kind, span: 0..0 }
    }

    /// Entries whose key their map has already: no valid YAML, but the parser reads it.
    pub(crate) fn doubles(&self) -> usize {
        match &self.kind {
            Kind::Scalar { .. } => 0,
            Kind::List { items, .. } => items.iter().map(Self::doubles).sum(),
            Kind::Map { entries, .. } => {
                let mut seen = HashSet::with_capacity(entries.len());
                let own =
                    entries.iter().filter_map(|e| e.key.text()).filter(|key| !seen.insert(*key)).count();
                own + entries.iter().map(|e| e.value.doubles()).sum::<usize>()
            }
        }
    }

    fn count(&self) -> usize {
        match &self.kind {
            Kind::Scalar { .. } => 1,
            Kind::List { items, .. } => 1 + items.iter().map(Self::count).sum::<usize>(),
            Kind::Map { entries, .. } => 1 + entries.iter().map(|e| 1 + e.value.count()).sum::<usize>(),
        }
    }
}

/// A plain scalar by the core schema of YAML 1.2, and what Kubernetes reads.
fn plain_value(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    if let Ok(number) = text.parse::<i64>()
        && !text.starts_with('+')
    {
        return Value::from(number);
    }
    let is_number = text.starts_with(|c: char| c.is_ascii_digit() || "-.".contains(c))
        && text.chars().all(|c| c.is_ascii_digit() || "+-.eE".contains(c));
    match text.parse::<f64>().ok().filter(|_| is_number).and_then(Number::from_f64) {
        Some(number) => Value::Number(number),
        None => Value::from(text),
    }
}

/// Where the lines of a text end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lines(Vec<usize>);

impl Lines {
    /// Of `text`.
    pub(crate) fn of(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect())
    }

    /// The line of the byte `at`, from 1.
    pub(crate) fn line(&self, at: usize) -> usize {
        self.0.partition_point(|end| *end < at) + 1
    }
}

/// The documents of `text`.
///
/// # Errors
/// When it is no YAML, or its aliases are cyclic or a bomb.
pub(crate) fn read(text: &str) -> Result<Vec<Document>, ReadError> {
    let mut options = granit_parser::options! { emit_anchor_events: false };
    options.set_emit_comments(false);
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|e| ReadError::Invalid {
            line: e.marker().line(),
            column: e.marker().col() + 1,
            reason: e.info(),
        })?;
        builder.take(event, span.byte_range().unwrap_or_default(), span.start.line())?;
    }
    let mut documents = builder.documents;
    let starts: Vec<usize> = documents.iter().map(|document| document.range.start).collect();
    for (at, document) in documents.iter_mut().enumerate() {
        let start = match at {
            0 => 0,
            _ => text[..document.range.start].rfind('\n').map_or(0, |at| at + 1),
        };
        let next = starts.get(at + 1).map(|next| text[..*next].rfind('\n').map_or(0, |at| at + 1));
        document.range = start..next.unwrap_or(text.len());
    }
    Ok(documents)
}

struct Open {
    anchor: usize,
    span: Range<usize>,
    kind: Kind,
    /// The key that waits for its value.
    key: Option<Node>,
}

#[derive(Default)]
struct Builder {
    documents: Vec<Document>,
    explicit: Option<usize>,
    stack: Vec<Open>,
    /// What anchors stand for; `None` while it is still open.
    anchors: HashMap<usize, Option<Node>>,
    expanded: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Range<usize>, line: usize) -> Result<(), ReadError> {
        match event {
            Event::DocumentStart(explicit, _) => {
                self.explicit = explicit.then_some(span.start);
                self.anchors.clear();
                self.expanded = 0;
            }
            Event::MappingStart(style, anchor, _) => {
                let kind = Kind::Map { entries: Vec::new(), flow: style == StructureStyle::Flow };
                self.open(kind, anchor, span);
            }
            Event::SequenceStart(style, anchor, _) => {
                let kind = Kind::List { items: Vec::new(), flow: style == StructureStyle::Flow };
                self.open(kind, anchor, span);
            }
            Event::MappingEnd | Event::SequenceEnd => {
                if let Some(open) = self.stack.pop() {
                    let node = Node { kind: open.kind, span: open.span.start..span.end.max(open.span.end) };
                    self.close(node, open.anchor);
                }
            }
            Event::Scalar(text, style, anchor, _) => {
                let style = match style {
                    ScalarStyle::Plain => Style::Plain,
                    ScalarStyle::SingleQuoted => Style::Single,
                    ScalarStyle::DoubleQuoted => Style::Double,
                    _ => Style::Block,
                };
                let node = Node { kind: Kind::Scalar { text: text.into_owned(), style }, span };
                self.close(node, anchor);
            }
            Event::Alias(anchor) => {
                let node = match self.anchors.get(&anchor) {
                    Some(Some(node)) => node.clone(),
                    _ => return Err(ReadError::Cycle { line }),
                };
                self.expanded += node.count();
                if self.expanded > ALIAS_NODES {
                    return Err(ReadError::Expands { line });
                }
                self.close(node, 0);
            }
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, kind: Kind, anchor: usize, span: Range<usize>) {
        if anchor != 0 {
            self.anchors.insert(anchor, None);
        }
        self.stack.push(Open { anchor, span, kind, key: None });
    }

    fn close(&mut self, node: Node, anchor: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, Some(node.clone()));
        }
        match self.stack.last_mut() {
            None => {
                let start = self.explicit.take().unwrap_or(node.span.start);
                self.documents.push(Document { root: node, range: start..start });
            }
            Some(open) => match &mut open.kind {
                Kind::Map { entries, .. } => match open.key.take() {
                    Some(key) => entries.push(Entry { key, value: node }),
                    None => open.key = Some(node),
                },
                Kind::List { items, .. } => items.push(node),
                Kind::Scalar { .. } => {}
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_other_readers_read() {
        let text = "a: 1\nb: 'x'\nc: [true, 1.5, ~, \"1\"]\nd: |\n  t\n  u\ne: &e {f: g}\nh: *e\n";
        let documents = read(text).unwrap();
        let other: Value = serde_yaml_ng::from_str(text).unwrap();
        assert_eq!(documents[0].root.to_value(), other);
        assert!(documents[0].root.same(&Node::of_value(&other)));
    }

    #[test]
    fn keys_that_a_map_has_twice_are_counted() {
        let doubles = |text: &str| read(text).unwrap()[0].root.doubles();
        assert_eq!(doubles("a: {b: 1, c: 2}\nb: [{a: 1}, {a: 1}]\n"), 0);
        assert_eq!(doubles("a: 1\nb: [{c: 1, \"c\": 2, c: 3}]\n'a': 2\n"), 3);
    }

    #[test]
    fn documents_know_their_bytes() {
        let text = "# head\na: 1\n---\nb: 2\n# tail\n--- \nc: 3\n...\n";
        let parts: Vec<_> = read(text).unwrap().into_iter().map(|d| text[d.range].to_owned()).collect();
        assert_eq!(parts, ["# head\na: 1\n", "---\nb: 2\n# tail\n", "--- \nc: 3\n...\n"]);
        assert_eq!(parts.concat(), text);
    }

    #[test]
    fn bombs_and_cycles_are_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            bomb.push_str(&format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(", ")));
        }
        assert!(matches!(read(&bomb).unwrap_err(), ReadError::Expands { .. }));
        assert!(matches!(read("a: &a [*a]").unwrap_err(), ReadError::Cycle { line: 1 }));
        assert!(matches!(read("a: *b").unwrap_err(), ReadError::Invalid { .. }));
        assert!(read(&"[".repeat(10_000)).is_err());
    }
}
