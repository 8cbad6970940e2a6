//! Values with `${…}` references in them.
//!
//! A string that is exactly one reference takes the referenced value with its type. Any other
//! string with references in it is text into which scalars are written. `$${` stands for `${`.
//! What a reference resolves to is never read for references again.
//!
//! Segments follow each other with `.`; one in brackets, `["a.b"]`, may hold any characters. `[*]`
//! stands for every item of a node with `for_each`.

use std::borrow::Cow;

use migrate_plugin_api::{NodeId, unknown};
use serde_json::{Map, Value};

use super::diagnostic::{Mistakes, Source};
use super::tree::{Entry, Kind, Span, Tree};

/// What a reference begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Root {
    Params,
    Env,
    Nodes,
    /// The item, in a node with `for_each`.
    Each,
}

/// The segment that stands for every item.
pub(crate) const ALL: &str = "*";

/// `${nodes.backup.name}`: a root and at least one segment.
#[derive(Debug, Clone)]
pub(crate) struct Reference {
    pub root: Root,
    pub path: Vec<String>,
    pub span: Span,
    /// It was written elsewhere and passed on to where it stands, by a sub-workflow.
    pub is_passed: bool,
}

impl Reference {
    /// As written, without `${` and `}`.
    pub(crate) fn text(&self) -> String {
        let root = match self.root {
            Root::Params => "params",
            Root::Env => "env",
            Root::Nodes => "nodes",
            Root::Each => "each",
        };
        let mut text = root.to_owned();
        for segment in &self.path {
            text.push_str(&match segment.as_str() {
                ALL => "[*]".to_owned(),
                plain if is_plain(plain) => format!(".{plain}"),
                other => format!("[\"{other}\"]"),
            });
        }
        text
    }
}

/// A value that may hold references.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    pub span: Span,
    pub kind: TemplateKind,
    /// The sensitive parameter of a sub-workflow in whose place it stands, as it is written there.
    pub secret: Option<String>,
}

impl From<(Span, TemplateKind)> for Template {
    fn from((span, kind): (Span, TemplateKind)) -> Self {
        Self { span, kind, secret: None }
    }
}

/// What a template is.
#[derive(Debug, Clone)]
pub(crate) enum TemplateKind {
    /// A scalar.
    Literal(Value),
    /// Exactly one reference.
    Reference(Reference),
    /// Text with references in it.
    Text(Vec<Part>),
    /// Something with a mistake in it: stands for anything, so that no other mistake follows.
    Broken,
    List(Vec<Template>),
    Map(Vec<(String, Span, Template)>),
}

/// A piece of a text.
#[derive(Debug, Clone)]
pub(crate) enum Part {
    Text(String),
    Reference(Reference),
}

/// What a reference stands for at some moment.
pub(crate) enum Lookup<'a> {
    Known(Cow<'a, Value>),
    Unknown,
    Missing,
}

impl<'a> Lookup<'a> {
    /// What is at `path` of `value`.
    pub(crate) fn at(value: &'a Value, path: &[String]) -> Self {
        descend(value, path).map_or(Self::Missing, |found| Self::Known(Cow::Borrowed(found)))
    }
}

/// Why a template has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ResolveError {
    #[error("`${{{0}}}` stands for nothing")]
    Missing(String),
    #[error("`${{{0}}}` is {1} and can't be written into a text")]
    NotScalar(String, &'static str, Span),
}

impl Template {
    /// Reads the references in `tree`.
    pub(crate) fn new(tree: &Tree, file: &Source, mistakes: &mut Mistakes) -> Self {
        let kind = match &tree.kind {
            Kind::String(text) => string(text, &tree.span, file, mistakes),
            Kind::List(items) => {
                TemplateKind::List(items.iter().map(|item| Self::new(item, file, mistakes)).collect())
            }
            Kind::Table(entries) => {
                let entry =
                    |e: &Entry| (e.key.clone(), e.key_span.clone(), Self::new(&e.value, file, mistakes));
                TemplateKind::Map(entries.iter().map(entry).collect())
            }
            _ => TemplateKind::Literal(tree.to_json()),
        };
        (tree.span.clone(), kind).into()
    }

    /// A table with nothing in it.
    pub(crate) fn empty(span: Span) -> Self {
        (span, TemplateKind::Map(Vec::new())).into()
    }

    /// Every reference, in order.
    pub(crate) fn references(&self) -> Vec<&Reference> {
        let mut found = Vec::new();
        self.collect(&mut found);
        found
    }

    fn collect<'a>(&'a self, found: &mut Vec<&'a Reference>) {
        match &self.kind {
            TemplateKind::Literal(_) | TemplateKind::Broken => {}
            TemplateKind::Reference(reference) => found.push(reference),
            TemplateKind::Text(parts) => found.extend(parts.iter().filter_map(|part| match part {
                Part::Reference(reference) => Some(reference),
                Part::Text(_) => None,
            })),
            TemplateKind::List(items) => items.iter().for_each(|item| item.collect(found)),
            TemplateKind::Map(entries) => entries.iter().for_each(|(_, _, value)| value.collect(found)),
        }
    }

    /// What is at `path` of it.
    pub(crate) fn follow(self, path: &[String]) -> Option<Self> {
        let Some((segment, rest)) = path.split_first() else { return Some(self) };
        match self.kind {
            TemplateKind::Broken => Some(self),
            TemplateKind::Reference(mut reference) => {
                reference.path.extend(path.iter().cloned());
                Some(Self { kind: TemplateKind::Reference(reference), ..self })
            }
            TemplateKind::Map(entries) => {
                let (_, _, value) = entries.into_iter().find(|(key, _, _)| key == segment)?;
                value.follow(rest)
            }
            TemplateKind::List(items) => items.into_iter().nth(segment.parse().ok()?)?.follow(rest),
            TemplateKind::Literal(value) => {
                let found = descend(&value, path)?.clone();
                Some(Self { kind: TemplateKind::Literal(found), ..self })
            }
            TemplateKind::Text(_) => None,
        }
    }

    /// The value, with every unknown reference as a mark.
    pub(crate) fn resolve<'v>(
        &self,
        lookup: &dyn Fn(&Reference) -> Lookup<'v>,
    ) -> Result<Value, ResolveError> {
        let mut errors = Vec::new();
        let value = self.resolve_all(lookup, &mut errors);
        errors.into_iter().next().map_or(Ok(value), Err)
    }

    /// The value, in which what can't be resolved counts as unknown, and every reason why not.
    pub(crate) fn resolve_all<'v>(
        &self,
        lookup: &dyn Fn(&Reference) -> Lookup<'v>,
        errors: &mut Vec<ResolveError>,
    ) -> Value {
        match &self.kind {
            TemplateKind::Literal(value) => value.clone(),
            TemplateKind::Broken => unknown("a mistake"),
            TemplateKind::Reference(reference) => match lookup(reference) {
                Lookup::Known(value) => value.into_owned(),
                Lookup::Unknown => unknown(&reference.text()),
                Lookup::Missing => {
                    errors.push(ResolveError::Missing(reference.text()));
                    unknown(&reference.text())
                }
            },
            TemplateKind::Text(parts) => text(parts, lookup, errors),
            TemplateKind::List(items) => items.iter().map(|item| item.resolve_all(lookup, errors)).collect(),
            TemplateKind::Map(entries) => {
                let resolved = entries
                    .iter()
                    .map(|(key, _, value)| (key.clone(), value.resolve_all(lookup, errors)))
                    .collect::<Map<_, _>>();
                Value::Object(resolved)
            }
        }
    }
}

fn text<'v>(
    parts: &[Part],
    lookup: &dyn Fn(&Reference) -> Lookup<'v>,
    errors: &mut Vec<ResolveError>,
) -> Value {
    let mut whole = String::new();
    for part in parts {
        let reference = match part {
            Part::Text(text) => {
                whole.push_str(text);
                continue;
            }
            Part::Reference(reference) => reference,
        };
        match lookup(reference) {
            Lookup::Known(value) => match &*value {
                Value::String(text) => whole.push_str(text),
                value @ (Value::Bool(_) | Value::Number(_)) => whole.push_str(&value.to_string()),
                other => {
                    let is = json_type(other);
                    errors.push(ResolveError::NotScalar(reference.text(), is, reference.span.clone()));
                    return unknown(&reference.text());
                }
            },
            Lookup::Unknown => return unknown(&reference.text()),
            Lookup::Missing => {
                errors.push(ResolveError::Missing(reference.text()));
                return unknown(&reference.text());
            }
        }
    }
    Value::String(whole)
}

/// What a person calls this kind of value.
pub(crate) fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}

fn string(text: &str, span: &Span, file: &Source, mistakes: &mut Mistakes) -> TemplateKind {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            plain.push_str(&rest[..at]);
            plain.push('{');
            rest = &rest[at + 2..];
            continue;
        }
        plain.push_str(&rest[..at]);
        let Some(end) = rest[at..].find('}') else {
            mistakes
                .add(file, span.clone(), "reference-syntax", "a reference begins with `${` and has no end")
                .help("close it with `}`; write `$${` for a plain `${`");
            return TemplateKind::Broken;
        };
        let inner = &rest[at + 2..at + end];
        rest = &rest[at + end + 1..];
        let place = place_of(file, span, inner);
        match reference(inner, place, file, mistakes) {
            Some(reference) => {
                if !plain.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut plain)));
                }
                parts.push(Part::Reference(reference));
            }
            None => return TemplateKind::Broken,
        }
    }
    plain.push_str(rest);
    if parts.is_empty() {
        return TemplateKind::Literal(Value::String(plain));
    }
    if !plain.is_empty() {
        parts.push(Part::Text(plain));
    }
    match <[Part; 1]>::try_from(parts) {
        Ok([Part::Reference(reference)]) => TemplateKind::Reference(reference),
        Ok(single) => TemplateKind::Text(single.into()),
        Err(parts) => TemplateKind::Text(parts),
    }
}

/// Where `${inner}` stands in the file: exact unless the TOML string has escapes in it.
fn place_of(file: &Source, span: &Span, inner: &str) -> Span {
    let written = format!("${{{inner}}}");
    match file.text().get(span.clone()).and_then(|raw| raw.find(&written)) {
        Some(at) => span.start + at..span.start + at + written.len(),
        None => span.clone(),
    }
}

fn reference(inner: &str, span: Span, file: &Source, mistakes: &mut Mistakes) -> Option<Reference> {
    const HELP: &str = "a reference is `${params.NAME}`, `${env.PATH}`, `${nodes.NODE.OUTPUT}` or, in a node with `for_each`, `${each.value}`";
    let inner = inner.trim();
    let (first, rest) = inner.split_at(inner.find(['.', '[']).unwrap_or(inner.len()));
    let root = match first {
        "params" => Root::Params,
        "env" => Root::Env,
        "nodes" => Root::Nodes,
        "each" => Root::Each,
        _ => {
            let mistake = mistakes.add(
                file,
                span,
                "reference-syntax",
                format!("`{first}` is nothing that can be referred to"),
            );
            mistake.help(HELP).suggest(first, ["params", "env", "nodes", "each"]);
            return None;
        }
    };
    match path(rest).filter(|path| !path.is_empty()) {
        Some(path) => Some(Reference { root, path, span, is_passed: false }),
        None => {
            let message = format!("`${{{inner}}}` is no reference");
            mistakes.add(file, span, "reference-syntax", message).help(HELP);
            None
        }
    }
}

/// `.a.b[0]["c.d"][*]` as its segments.
fn path(mut rest: &str) -> Option<Vec<String>> {
    let mut path = Vec::new();
    while !rest.is_empty() {
        if let Some(plain) = rest.strip_prefix('.') {
            let end = plain.find(['.', '[']).unwrap_or(plain.len());
            let segment = Some(&plain[..end]).filter(|segment| is_plain(segment))?;
            path.push(segment.to_owned());
            rest = &plain[end..];
            continue;
        }
        let inner = rest.strip_prefix('[')?;
        let quote = inner.chars().next().filter(|c| matches!(c, '"' | '\''));
        let (segment, after) = match quote {
            Some(quote) => inner[1..].split_once(quote)?,
            None => inner.split_at(inner.find(']')?),
        };
        let valid = match quote {
            Some(_) => !segment.is_empty() && segment != ALL,
            // Every item, or the place in a list.
            None => segment == ALL && path.len() == 1 || segment.parse::<usize>().is_ok(),
        };
        path.push(Some(segment).filter(|_| valid)?.to_owned());
        rest = after.strip_prefix(']')?;
    }
    Some(path)
}

/// Whether a segment may stand without brackets.
fn is_plain(segment: &str) -> bool {
    !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Follows `path` into `value`; numbers index lists.
pub(crate) fn descend<'v>(value: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, segment| match value {
        Value::Object(map) => map.get(segment),
        Value::Array(items) => segment.parse::<usize>().ok().and_then(|i| items.get(i)),
        _ => None,
    })
}

/// The node a reference is about.
pub(crate) fn node_of(reference: &Reference) -> Option<NodeId> {
    match reference.root {
        Root::Nodes => NodeId::new(reference.path[0].clone()).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(toml: &str) -> Template {
        let file = Source::new("t.toml", toml);
        let mut mistakes = Mistakes::default();
        let tree = Tree::parse(&file, &mut mistakes).unwrap();
        let template = Template::new(&tree.get("v").unwrap().value, &file, &mut mistakes);
        assert!(mistakes.is_empty());
        template
    }

    fn resolve(toml: &str) -> Result<Value, ResolveError> {
        let scope = json!({ "n": 3, "s": "x ${params.n}", "l": [1, 2], "b": true });
        template(toml).resolve(&|r| match descend(&scope, &r.path) {
            Some(value) => Lookup::Known(Cow::Owned(value.clone())),
            None if r.root == Root::Nodes => Lookup::Unknown,
            None => Lookup::Missing,
        })
    }

    #[test]
    fn one_reference_keeps_its_type_and_several_make_a_text() {
        assert_eq!(resolve("v = \"${params.n}\""), Ok(json!(3)));
        assert_eq!(resolve("v = [\"${params.l}\"]"), Ok(json!([[1, 2]])));
        assert_eq!(resolve("v = \"${params.l.1}\""), Ok(json!(2)));
        assert_eq!(resolve("v = \"a ${params.n}-${params.b}\""), Ok(json!("a 3-true")));
        assert_eq!(resolve("v = \"${nodes.a.b}\""), Ok(json!({ "$unknown": "nodes.a.b" })));
        assert!(matches!(resolve("v = \"a ${params.l}\""), Err(ResolveError::NotScalar(..))));
        assert!(matches!(resolve("v = \"${env.a}\""), Err(ResolveError::Missing(_))));
    }

    #[test]
    fn brackets_take_any_key() {
        let read = |inner: &str| {
            let mut mistakes = Mistakes::default();
            let reference = reference(inner, 0..0, &Source::new("t.toml", ""), &mut mistakes);
            reference.map(|reference| (reference.path.clone(), reference.text()))
        };
        let path = |segments: &[&str]| segments.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let same = [
            (r#"nodes.copy["shop.eu"].count"#, path(&["copy", "shop.eu", "count"])),
            ("nodes.copy[*].count", path(&["copy", "*", "count"])),
            ("each.value", path(&["value"])),
        ];
        for (text, segments) in same {
            assert_eq!(read(text), Some((segments, text.to_owned())));
        }
        assert_eq!(read("nodes.copy['shop'][0]").unwrap().0, path(&["copy", "shop", "0"]));
        for bad in [
            "nodes",
            "nodes.",
            "nodes..a",
            "nodes[*]",
            "nodes.a[",
            "nodes.a[b]",
            "nodes.a[\"b]",
            "nodes.a[\"*\"]",
            "nodes.a.b[*]",
            "nodes.a[0]b",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_value_is_not_read_for_references_again() {
        assert_eq!(resolve("v = \"${params.s}\""), Ok(json!("x ${params.n}")));
        assert_eq!(resolve("v = \"$${params.s}\""), Ok(json!("${params.s}")));
    }
}
