//! Rewrites a text by rules, one edit at a time. Pure.

use std::ops::Range;

use serde_json::Value;

use super::RuleSet;
use super::document::{Node, read};
use super::engine::{Effects, Look};
use super::facts::Facts;
use super::inputs::Inputs;
use super::object::{Object, objects};
use super::path::Path;
use crate::manifests::edit::{self, Edit, EditError};
use crate::manifests::yaml::to_yaml;
use crate::workload::{Segment, display};

/// Edits of one document by one rule: far above honest use; a rule that always finds its own work
/// again must not run for ever.
const EDITS: usize = 20_000;

/// What was done to a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// By which rule.
    pub rule: String,
    /// `Deployment shop/web`.
    pub object: String,
    /// Where in the object.
    pub path: String,
    /// Before; empty where nothing was.
    pub old: String,
    /// After; empty where nothing is.
    pub new: String,
}

/// A rewritten text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rewritten {
    /// The whole text.
    pub text: String,
    /// What was done, in order.
    pub changes: Vec<Change>,
}

/// One document's text. A new one has no bytes of the original.
struct Part {
    text: String,
    is_new: bool,
}

impl RuleSet {
    /// `text` with everything done that the rules can do with these inputs.
    ///
    /// # Errors
    /// When it is no YAML, or something can't be edited in place.
    pub(crate) fn rewrite(&self, text: &str, facts: &Facts, inputs: &Inputs) -> Result<Rewritten, EditError> {
        let documents = read(text)?;
        let ranges: Vec<Range<usize>> = documents.into_iter().map(|document| document.range).collect();
        let mut changes = Vec::new();
        let mut parts = Vec::new();
        for range in &ranges {
            let mut done =
                self.rewrite_document(text[range.clone()].to_owned(), facts, inputs, &mut changes)?;
            parts.append(&mut done);
        }
        if changes.is_empty() {
            return Ok(Rewritten { text: text.to_owned(), changes });
        }
        let is_json = text.trim_start_matches('\u{feff}').trim_start().starts_with('{');
        if is_json && parts.iter().any(|part| part.is_new) {
            return Err(EditError::Unsafe {
                path: "the end of a JSON file, which holds one document".to_owned(),
            });
        }
        let mut out = String::new();
        for part in parts {
            if part.is_new {
                if !out.is_empty() && !out.ends_with('\n') {
                    out.push('\n');
                }
                if out.lines().any(|line| !line.trim().is_empty() && !line.starts_with('#')) {
                    out.push_str("---\n");
                }
            }
            out.push_str(&part.text);
        }
        read(&out)?;
        Ok(Rewritten { text: out, changes })
    }

    fn rewrite_document(
        &self,
        text: String,
        facts: &Facts,
        inputs: &Inputs,
        changes: &mut Vec<Change>,
    ) -> Result<Vec<Part>, EditError> {
        let mut text = text;
        let mut added: Vec<Value> = Vec::new();
        for rule in &self.rules {
            for round in 0.. {
                let documents = read(&text)?;
                let Some(document) = documents.first() else { break };
                let all = objects(&document.root);
                let first = all.iter().find_map(|object| {
                    let mut found = rule.matches(&Look { object, facts, inputs });
                    found.retain(|m| !m.effects.is_empty());
                    (!found.is_empty()).then(|| (object, found.swap_remove(0)))
                });
                let Some((object, found)) = first else { break };
                if round >= EDITS {
                    return Err(EditError::Unsafe {
                        path: format!("{} (rule {})", display(&found.path), rule.rule.id),
                    });
                }
                note(&rule.rule.id, object, &found.path, &found.effects, changes);
                let Effects { edits, drop, add } = found.effects;
                if object.prefix.is_empty() {
                    added.extend(add);
                    if drop {
                        return Ok(parts(&text[..document_start(&text, &document.root)], added));
                    }
                    for edit in edits {
                        text = edit::apply(&text, edit)?;
                    }
                } else {
                    let prefix = object.prefix.clone();
                    for edit in edits {
                        text = edit::apply(&text, below(edit, &prefix))?;
                    }
                    for value in add {
                        let path = prefix[..prefix.len() - 1].to_vec();
                        text = edit::apply(&text, Edit::Append { path, value })?;
                    }
                    if drop {
                        text = edit::apply(&text, Edit::Delete { path: prefix })?;
                    }
                }
            }
        }
        Ok(parts(&text, added))
    }
}

/// Where a document's own words begin: its `---`, or its first key. Comments before are the file's.
fn document_start(text: &str, root: &Node) -> usize {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if line.trim_end() == "---" || line.starts_with("--- ") {
            return at;
        }
        at += line.len();
    }
    root.span.start.min(text.len())
}

fn parts(text: &str, added: Vec<Value>) -> Vec<Part> {
    let first = Part { text: text.to_owned(), is_new: false };
    let line_break = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let new = |value: Value| Part { text: to_yaml(&value).replace('\n', line_break), is_new: true };
    std::iter::once(first).chain(added.into_iter().map(new)).collect()
}

/// `edit` with `prefix` before its path.
fn below(edit: Edit, prefix: &[Segment<'static>]) -> Edit {
    let longer = |path: Path| [prefix.to_vec(), path].concat();
    match edit {
        Edit::Set { path, value } => Edit::Set { path: longer(path), value },
        Edit::Replace { path, from, to } => Edit::Replace { path: longer(path), from, to },
        Edit::Rename { path, to } => Edit::Rename { path: longer(path), to },
        Edit::Delete { path } => Edit::Delete { path: longer(path) },
        Edit::Insert { path, key, value } => Edit::Insert { path: longer(path), key, value },
        Edit::Append { path, value } => Edit::Append { path: longer(path), value },
    }
}

fn note(rule: &str, object: &Object<'_>, at: &Path, effects: &Effects, changes: &mut Vec<Change>) {
    let name = match object.namespace.as_str() {
        "" => format!("{} {}", object.kind, object.name),
        namespace => format!("{} {namespace}/{}", object.kind, object.name),
    };
    let mut push = |path: &Path, old: String, new: String| {
        changes.push(Change { rule: rule.to_owned(), object: name.clone(), path: display(path), old, new });
    };
    let there = |path: &Path| match object.node.follow(path).and_then(Node::text) {
        Some(text) => super::engine::shorten(text),
        None => "…".to_owned(),
    };
    let shown = |value: &Value| match value {
        Value::String(text) => super::engine::shorten(text),
        other => super::engine::shorten(&other.to_string()),
    };
    for edit in &effects.edits {
        match edit {
            Edit::Set { path, value } => push(path, there(path), shown(value)),
            Edit::Replace { path, from, to } => push(path, from.clone(), to.clone()),
            Edit::Rename { path, to } => {
                let old = match path.last() {
                    Some(Segment::Key(key)) => key.to_string(),
                    _ => String::new(),
                };
                push(path, old, to.clone());
            }
            Edit::Delete { path } => push(path, there(path), String::new()),
            Edit::Insert { path, key, value } => {
                push(&super::path::with(path, key), String::new(), shown(value));
            }
            Edit::Append { path, value } => push(path, String::new(), shown(value)),
        }
    }
    if effects.drop {
        push(at, name.clone(), String::new());
    }
    for value in &effects.add {
        let text = |key: &str| value.pointer(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        push(at, String::new(), format!("{} {}", text("/kind"), text("/metadata/name")));
    }
}
