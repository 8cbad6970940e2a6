//! Rewrites single values in the text of a YAML file. Pure.
//!
//! Invariants: all bytes outside the changed values stay as they are (comments, order, quotes, line
//! ends); the edited text is parsed again and must differ from the original in exactly the planned
//! values. Aliases are never expanded, so that no file can blow up.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::workload::{self, Segment};

/// A registry, or a repository in it, and what it becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Rename {
    /// `123456789012.dkr.ecr.us-east-1.amazonaws.com`, or with a path.
    pub from: String,
    /// `example.azurecr.io`, or with a path.
    pub to: String,
}

/// What to rewrite.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// Image references; the longest `from` that fits wins.
    pub images: Vec<Rename>,
    /// Storage classes of claims and claim templates, old to new.
    pub classes: BTreeMap<String, String>,
}

/// A rewritten value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// Where: `spec.template.spec.containers[0].image`; the document's number comes first where
    /// the file has several.
    pub path: String,
    /// Before.
    pub old: String,
    /// After.
    pub new: String,
}

/// A value that was not rewritten though it looks concerned. Never repeats the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Left {
    /// Where.
    pub path: String,
    /// Why.
    pub message: String,
}

/// A rewritten file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Edited {
    /// The whole text.
    pub text: String,
    /// What changed.
    pub changes: Vec<Change>,
    /// What did not.
    pub left: Vec<Left>,
}

/// Why a text can't be rewritten.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EditError {
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
    /// The value can't be edited without touching its surroundings.
    #[error("the value at {path} is written in a way that can't be edited in place")]
    Unsafe {
        /// Where.
        path: String,
    },
}

/// Rewrites `source`.
///
/// # Errors
/// When it is no YAML, or a value can't be edited in place.
pub(crate) fn edit(source: &str, rules: &Rules) -> Result<Edited, EditError> {
    let mut planned: Vec<(Range<usize>, String, Change)> = Vec::new();
    let mut left = Vec::new();
    let mut changed_anchors = HashSet::new();
    let mut expected = DefaultHasher::new();
    visit(source, &mut |node| match &node.value {
        Node::Alias(anchor) => {
            if changed_anchors.contains(anchor) && !workload::is_image(node.path) {
                let message = "an alias of a rewritten value: it changes with it".to_owned();
                left.push(Left { path: node.place(), message });
            }
            Ok(())
        }
        Node::Scalar { value, style, range, anchor } => {
            let Some(new) = rules.new_value(node.path, value) else {
                value.hash(&mut expected);
                left.extend(
                    rules.mentions(node.path, value).map(|message| Left { path: node.place(), message }),
                );
                return Ok(());
            };
            new.hash(&mut expected);
            changed_anchors.extend((*anchor != 0).then_some(*anchor));
            let slice = source.get(range.clone()).unwrap_or_default();
            let path = node.place();
            let Some(text) = replaced(slice, value, &new, *style) else {
                return Err(EditError::Unsafe { path });
            };
            planned.push((range.clone(), text, Change { path, old: (*value).to_owned(), new }));
            Ok(())
        }
    })?;
    let mut text = String::with_capacity(source.len());
    let mut at = 0;
    for (range, replacement, _) in &planned {
        text.push_str(&source[at..range.start]);
        text.push_str(replacement);
        at = range.end;
    }
    text.push_str(&source[at..]);
    let changes: Vec<Change> = planned.into_iter().map(|(_, _, change)| change).collect();
    if let Some(first) = changes.first() {
        let mut found = DefaultHasher::new();
        visit(&text, &mut |node| {
            if let Node::Scalar { value, .. } = node.value {
                value.hash(&mut found);
            }
            Ok(())
        })?;
        if found.finish() != expected.finish() {
            return Err(EditError::Unsafe { path: first.path.clone() });
        }
    }
    Ok(Edited { text, changes, left })
}

impl Rules {
    fn new_value(&self, path: &[Segment<'_>], value: &str) -> Option<String> {
        if workload::is_image(path) {
            let fitting = self
                .images
                .iter()
                .filter_map(|rule| Some((rule.from.len(), workload::renamed(value, &rule.from, &rule.to)?)));
            return fitting.max_by_key(|(length, _)| *length).map(|(_, new)| new).filter(|new| new != value);
        }
        if workload::ends_with(path, &["spec", "storageClassName"]) {
            return self.classes.get(value).filter(|new| *new != value).cloned();
        }
        None
    }

    fn mentions(&self, path: &[Segment<'_>], value: &str) -> Option<String> {
        if workload::is_image(path) && self.images.iter().any(|rule| workload::lives_in(value, &rule.from)) {
            return None;
        }
        let rule = self.images.iter().find(|rule| is_mentioned(value, &rule.from))?;
        Some(format!("mentions `{}`, which is rewritten in image fields only", rule.from))
    }
}

/// Whether `name` stands in `text` as a whole, not as a part of another name.
fn is_mentioned(text: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + name.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

/// The source text of a value with `old` replaced: in place where it stands there literally (plain,
/// quoted, block), else as a double-quoted string where the style has escapes.
fn replaced(slice: &str, old: &str, new: &str, style: ScalarStyle) -> Option<String> {
    if slice.matches(old).count() == 1 {
        return Some(slice.replacen(old, new, 1));
    }
    match style {
        ScalarStyle::DoubleQuoted => Some(serde_json::Value::from(new).to_string()),
        _ => None,
    }
}

enum Node<'a> {
    Scalar { value: &'a str, style: ScalarStyle, range: Range<usize>, anchor: usize },
    Alias(usize),
}

struct Visited<'a> {
    document: usize,
    path: &'a [Segment<'static>],
    value: Node<'a>,
}

impl Visited<'_> {
    fn place(&self) -> String {
        match self.document {
            1 => workload::display(self.path),
            number => format!("document {number}: {}", workload::display(self.path)),
        }
    }
}

/// Visits every scalar and alias that is a value (keys are not).
fn visit(
    source: &str,
    visitor: &mut impl FnMut(Visited<'_>) -> Result<(), EditError>,
) -> Result<(), EditError> {
    let mut options = granit_parser::options! { emit_anchor_events: false };
    options.set_emit_comments(false);
    let mut position = Position::default();
    let mut document = 0;
    for event in Parser::new_from_str_with_options(source, options) {
        let (event, span) = event.map_err(|e| EditError::Invalid {
            line: e.marker().line(),
            column: e.marker().col() + 1,
            reason: e.info(),
        })?;
        match event {
            Event::DocumentStart(..) => {
                document += 1;
                position = Position::default();
            }
            Event::MappingStart(..) => position.enter(Frame::Mapping { has_key: false }),
            Event::SequenceStart(..) => position.enter(Frame::Sequence { next: 0 }),
            Event::MappingEnd | Event::SequenceEnd => position.leave(),
            Event::Scalar(value, style, anchor, _) => {
                let range = span.byte_range().unwrap_or_default();
                if position.start_node(Some(&value)) {
                    let value = Node::Scalar { value: &value, style, range, anchor };
                    visitor(Visited { document, path: &position.path, value })?;
                }
                position.end_node();
            }
            Event::Alias(anchor) => {
                if position.start_node(None) {
                    visitor(Visited { document, path: &position.path, value: Node::Alias(anchor) })?;
                }
                position.end_node();
            }
            _ => {}
        }
    }
    Ok(())
}

enum Frame {
    /// `has_key`: the next node is a value.
    Mapping {
        has_key: bool,
    },
    Sequence {
        next: usize,
    },
}

/// Where the parser is, as a path of keys and indices.
#[derive(Default)]
struct Position {
    frames: Vec<Frame>,
    path: Vec<Segment<'static>>,
}

impl Position {
    /// A node begins; whether it is a value. The path then names it.
    fn start_node(&mut self, scalar: Option<&str>) -> bool {
        match self.frames.last_mut() {
            Some(Frame::Mapping { has_key: false }) => {
                // An alias or a collection as a key has no name of its own.
                self.path.push(Segment::Key(Cow::Owned(scalar.unwrap_or("?").to_owned())));
                false
            }
            Some(Frame::Sequence { next }) => {
                self.path.push(Segment::Index(*next));
                *next += 1;
                true
            }
            _ => true,
        }
    }

    /// A node ended.
    fn end_node(&mut self) {
        match self.frames.last_mut() {
            Some(Frame::Mapping { has_key }) => {
                *has_key = !*has_key;
                if !*has_key {
                    self.path.pop();
                }
            }
            Some(Frame::Sequence { .. }) => {
                self.path.pop();
            }
            None => {}
        }
    }

    fn enter(&mut self, frame: Frame) {
        self.start_node(None);
        self.frames.push(frame);
    }

    fn leave(&mut self) {
        self.frames.pop();
        self.end_node();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        let rename = |from: &str, to: &str| Rename { from: from.into(), to: to.into() };
        Rules {
            images: vec![rename("old.io", "new.io"), rename("old.io/base", "base.io")],
            classes: BTreeMap::from([("gp3".to_owned(), "managed".to_owned())]),
        }
    }

    const FILE: &str = r#"# The shop's front
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, annotations: {source: "old.io/web:1"}}   # not an image field
spec:
    template:
        spec:
            initContainers:
            - {name: wait, image: 'old.io/base/wait:1'}
            containers:
              -   image:   "old.io/web:1"     # pinned by release
                  name: web
              - name: side
                image: &side old.io/side@sha256:0f
              - name: again
                image: *side
              - name: other
                image: old.io.evil/x
              - name: folded
                image: >-
                  old.io/folded:1
              - name: escaped
                image: "old\u002eio/escaped:1"
---
kind: PersistentVolumeClaim
spec: {storageClassName: gp3}
...
"#;

    #[test]
    fn only_the_values_change() {
        let edited = edit(FILE, &rules()).unwrap();
        insta::assert_snapshot!(edited.text);
        let lines: Vec<_> =
            edited.changes.iter().map(|c| format!("{}: {} -> {}", c.path, c.old, c.new)).collect();
        insta::assert_snapshot!("changes", lines.join("\n"));
        let paths: Vec<_> = edited.left.iter().map(|l| l.path.as_str()).collect();
        assert_eq!(paths, ["metadata.annotations.source"]);
    }

    #[test]
    fn a_file_without_matches_stays_byte_for_byte() {
        let text = "\u{feff}a:\t1\r\nimage: old.io/x\r\n# end";
        let edited = edit(text, &rules()).unwrap();
        assert_eq!(edited.text, text);
        assert_eq!(edited.left.len(), 1);
    }

    #[test]
    fn line_ends_and_lists_of_objects_are_kept() {
        let text = "kind: List\r\nitems:\r\n- spec:\r\n    containers:\r\n    - image: old.io/a # x\r\n";
        let edited = edit(text, &rules()).unwrap();
        assert_eq!(edited.text, text.replace("old.io/a", "new.io/a"));
        assert_eq!(edited.changes[0].path, "items[0].spec.containers[0].image");
    }

    #[test]
    fn json_is_yaml() {
        let text = r#"{"spec":{"containers":[{"image":"old.io\/a:1","name":"old.io/a:1"}]}}"#;
        let edited = edit(text, &rules()).unwrap();
        assert_eq!(edited.text, r#"{"spec":{"containers":[{"image":"new.io/a:1","name":"old.io/a:1"}]}}"#);
    }

    #[test]
    fn an_alias_bomb_costs_nothing() {
        let mut bomb = String::from("a: &a [x, x]\n");
        for i in 1..40 {
            bomb.push_str(&format!(
                "a{i}: &a{i} [*a{0}, *a{0}, *a{0}]\n",
                if i == 1 { String::new() } else { (i - 1).to_string() }
            ));
        }
        assert_eq!(edit(&bomb, &rules()).unwrap().text, bomb);
    }

    #[test]
    fn what_is_no_yaml_is_named_with_its_line() {
        let error = edit("a: 1\nb: {{ .Values.image }}\n  c: [", &rules()).unwrap_err().to_string();
        assert!(error.starts_with("not valid YAML at line"), "{error}");
        assert!(edit(&"[".repeat(10_000), &rules()).is_err());
        assert!(edit("a: *missing", &rules()).is_err());
    }
}
