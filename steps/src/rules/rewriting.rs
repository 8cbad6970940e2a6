//! Rewrites a text by rules, one edit at a time. Pure.

use serde_json::Value;

use super::document::{Document, Node, read};
use super::engine::{Effects, Look, Match};
use super::facts::Facts;
use super::inputs::Inputs;
use super::lists;
use super::object::{Object, objects};
use super::path::Path;
use super::set::RuleSet;
use crate::manifests::edit::{Edit, EditError, Sheet, is_taken};
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
    /// Whether every object went: what is left are comments at most.
    pub is_emptied: bool,
}

/// One document's text. A new one has no bytes of the original.
struct Part {
    text: String,
    is_new: bool,
}

/// A document in the making.
pub(super) struct Draft {
    /// Its text and tree.
    pub sheet: Sheet,
    /// Objects that are added behind it.
    pub added: Vec<Value>,
    /// Whether its only object goes.
    pub is_dropped: bool,
}

/// What a rule does next: where in the document the object is, and what is done there.
struct Next {
    object: usize,
    prefix: Path,
    found: Match,
}

impl RuleSet {
    /// `text` with everything done that the rules can do with these inputs; `documents` are its own.
    ///
    /// # Errors
    /// When something can't be edited in place.
    pub(crate) fn rewrite(
        &self,
        text: &str,
        documents: &[Document],
        facts: &Facts,
        inputs: &Inputs,
    ) -> Result<Rewritten, EditError> {
        let mut changes = Vec::new();
        let mut parts = Vec::new();
        for document in documents {
            let part = text[document.range.clone()].to_owned();
            if self.changes(&document.root, facts, inputs) {
                parts.append(&mut self.rewrite_document(part, facts, inputs, &mut changes)?);
            } else {
                parts.push(Part { text: part, is_new: false });
            }
        }
        if changes.is_empty() {
            return Ok(Rewritten { text: text.to_owned(), changes, is_emptied: false });
        }
        let is_json = text.trim_start_matches('\u{feff}').trim_start().starts_with('{');
        if is_json && parts.iter().any(|part| part.is_new) {
            return Err(EditError::Unsafe {
                path: "the end of a JSON file, which holds one document".to_owned(),
            });
        }
        let mut out = String::new();
        // Whether anything but comments stands there already.
        let mut is_begun = false;
        for part in parts {
            if part.is_new {
                if !out.is_empty() && !out.ends_with('\n') {
                    out.push('\n');
                }
                if is_begun {
                    out.push_str("---\n");
                }
            }
            is_begun |= part.text.lines().any(|line| !line.trim().is_empty() && !line.starts_with('#'));
            out.push_str(&part.text);
        }
        let is_emptied = read(&out)?.iter().all(|document| document.root.is_null());
        Ok(Rewritten { text: out, changes, is_emptied })
    }

    fn rewrite_document(
        &self,
        text: String,
        facts: &Facts,
        inputs: &Inputs,
        changes: &mut Vec<Change>,
    ) -> Result<Vec<Part>, EditError> {
        let Some(sheet) = Sheet::read(text.clone())? else {
            return Ok(vec![Part { text, is_new: false }]);
        };
        let sheet = match lists::apart(&sheet) {
            Some(items) => lists::rewrite(self, sheet, items, facts, inputs, changes)?,
            None => sheet,
        };
        let done = self.rewrite_sheet(sheet, facts, inputs, changes)?;
        let start = document_start(&done.sheet.text, &done.sheet.root);
        let end = if done.is_dropped { start } else { done.sheet.text.len() };
        Ok(parts(&done.sheet.text[..end], done.added))
    }

    /// Everything that the rules do to one document.
    pub(super) fn rewrite_sheet(
        &self,
        sheet: Sheet,
        facts: &Facts,
        inputs: &Inputs,
        changes: &mut Vec<Change>,
    ) -> Result<Draft, EditError> {
        let mut draft = Draft { sheet, added: Vec::new(), is_dropped: false };
        if !self.changes(&draft.sheet.root, facts, inputs) {
            return Ok(draft);
        }
        let (mut at, mut from, mut rounds) = (0, 0, 0);
        while let Some((found_by, next)) = self.next(&draft, (at, from), facts, inputs, changes) {
            if found_by != at {
                rounds = 0;
            }
            rounds += 1;
            if rounds > EDITS {
                let id = &self.rules[found_by].rule.id;
                return Err(EditError::Unsafe { path: format!("{} (rule {id})", display(&next.found.path)) });
            }
            (at, from) = (found_by, next.object);
            if next.prefix.is_empty() && next.found.effects.drop {
                draft.added.extend(next.found.effects.add);
                draft.is_dropped = true;
                return Ok(draft);
            }
            draft.carry_out(next.prefix, next.found.effects)?;
        }
        Ok(draft)
    }

    /// What is done next, from a rule and an object of it on: what a rule did to the objects before is of no
    /// matter to the others. The objects are gathered once for all rules that do nothing.
    fn next(
        &self,
        draft: &Draft,
        (first, from): (usize, usize),
        facts: &Facts,
        inputs: &Inputs,
        changes: &mut Vec<Change>,
    ) -> Option<(usize, Next)> {
        let all = objects(&draft.sheet.root);
        for (at, rule) in self.rules.iter().enumerate().skip(first) {
            let done = if at == first { from } else { 0 };
            for (number, object) in all.iter().enumerate().skip(done) {
                let mut matches = rule.matches(&Look { object, facts, inputs }).into_iter();
                if let Some(found) = matches.find(|found| !found.effects.is_empty()) {
                    note(&rule.rule.id, object, &found.path, &found.effects, changes);
                    return Some((at, Next { object: number, prefix: object.prefix.clone(), found }));
                }
            }
        }
        None
    }
}

impl Draft {
    fn carry_out(&mut self, prefix: Path, effects: Effects) -> Result<(), EditError> {
        for edit in effects.edits {
            self.sheet.edit(below(edit, &prefix))?;
        }
        if prefix.is_empty() {
            self.added.extend(effects.add);
            return Ok(());
        }
        for value in effects.add {
            let path = prefix[..prefix.len() - 1].to_vec();
            self.sheet.edit(Edit::Append { path, value })?;
        }
        if effects.drop {
            self.sheet.edit(Edit::Delete { path: prefix })?;
        }
        Ok(())
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
        Edit::Extend { path, values } => Edit::Extend { path: longer(path), values },
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
            Edit::Rename { path, to } if is_taken(object.node, path, to) => {
                push(path, there(path), String::new());
            }
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
            Edit::Extend { path, values } => {
                values.iter().for_each(|value| push(path, String::new(), shown(value)));
            }
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
