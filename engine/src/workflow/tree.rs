//! A TOML file as an owned tree in which every key and value knows its place.

use std::ops::Range;

use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Mistakes, Source};

/// A place in a file, in bytes.
pub(crate) type Span = Range<usize>;

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    pub span: Span,
    pub kind: Kind,
}

/// What a value is.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    String(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Datetime(String),
    List(Vec<Tree>),
    Table(Vec<Entry>),
}

/// A key of a table, its place and its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub key: String,
    pub key_span: Span,
    pub value: Tree,
}

impl Tree {
    /// Reads `file`. `None` when it is so broken that going on would only invent mistakes.
    pub(crate) fn parse(file: &Source, mistakes: &mut Mistakes) -> Option<Self> {
        let (document, errors) = DeTable::parse_recoverable(file.text());
        let mut readable = true;
        for error in errors {
            let duplicate = error.message().contains("duplicate key");
            readable &= duplicate;
            let span = error.span().unwrap_or(0..0);
            if duplicate {
                let name = file.text().get(span.clone()).unwrap_or_default().trim();
                mistakes.add(file, span, "duplicate-key", format!("`{name}` is there twice"));
            } else {
                mistakes.add(file, span, "toml-syntax", format!("invalid TOML: {}", error.message()));
            }
        }
        readable.then(|| table(document.span(), document.get_ref(), file, mistakes))
    }

    /// What a person calls this kind of value.
    pub(crate) fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::String(_) => "a string",
            Kind::Integer(_) => "an integer",
            Kind::Float(_) => "a number",
            Kind::Boolean(_) => "a boolean",
            Kind::Datetime(_) => "a date",
            Kind::List(_) => "a list",
            Kind::Table(_) => "a table",
        }
    }

    pub(crate) fn entries(&self) -> Option<&[Entry]> {
        match &self.kind {
            Kind::Table(entries) => Some(entries),
            _ => None,
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries()?.iter().find(|entry| entry.key == key)
    }

    /// The value as JSON; dates as text.
    pub(crate) fn to_json(&self) -> Value {
        match &self.kind {
            Kind::String(text) | Kind::Datetime(text) => Value::from(text.as_str()),
            Kind::Integer(number) => Value::from(*number),
            Kind::Float(number) => Value::from(*number),
            Kind::Boolean(yes) => Value::from(*yes),
            Kind::List(items) => items.iter().map(Self::to_json).collect(),
            Kind::Table(entries) => Value::Object(
                entries.iter().map(|e| (e.key.clone(), e.value.to_json())).collect::<Map<_, _>>(),
            ),
        }
    }

    /// Follows `path` as far as it goes: the deepest tree reached, the span of the key that led
    /// there, and how many segments were followed.
    pub(crate) fn descend<'a>(&'a self, path: &[String]) -> (&'a Tree, Option<&'a Span>, usize) {
        let (mut tree, mut key) = (self, None);
        for (depth, segment) in path.iter().enumerate() {
            let next = match &tree.kind {
                Kind::Table(_) => tree.get(segment).map(|entry| (&entry.value, Some(&entry.key_span))),
                Kind::List(items) => {
                    segment.parse::<usize>().ok().and_then(|i| items.get(i)).map(|item| (item, None))
                }
                _ => None,
            };
            match next {
                Some((value, span)) => (tree, key) = (value, span.or(key)),
                None => return (tree, key, depth),
            }
        }
        (tree, key, path.len())
    }
}

fn table(span: Span, entries: &DeTable<'_>, file: &Source, mistakes: &mut Mistakes) -> Tree {
    let entries = entries.iter().map(|(key, value)| Entry {
        key: key.get_ref().to_string(),
        key_span: key.span(),
        value: convert(value, file, mistakes),
    });
    Tree { span, kind: Kind::Table(entries.collect()) }
}

fn convert(value: &Spanned<DeValue<'_>>, file: &Source, mistakes: &mut Mistakes) -> Tree {
    let span = value.span();
    let kind = match value.get_ref() {
        DeValue::String(text) => Kind::String(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Kind::Integer(number),
            Err(_) => {
                mistakes
                    .add(file, span.clone(), "number-range", format!("`{number}` is too large"))
                    .help("integers have 64 bits");
                Kind::Integer(0)
            }
        },
        DeValue::Float(number) => match number.as_str().parse::<f64>() {
            Ok(number) if number.is_finite() => Kind::Float(number),
            _ => {
                mistakes.add(
                    file,
                    span.clone(),
                    "number-range",
                    format!("`{number}` is not a finite number"),
                );
                Kind::Float(0.0)
            }
        },
        DeValue::Boolean(yes) => Kind::Boolean(*yes),
        DeValue::Datetime(date) => Kind::Datetime(date.to_string()),
        DeValue::Array(items) => Kind::List(items.iter().map(|item| convert(item, file, mistakes)).collect()),
        DeValue::Table(entries) => return table(span, entries, file, mistakes),
    };
    Tree { span, kind }
}
