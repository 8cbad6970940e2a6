//! Edits the text of a YAML file: values, keys, entries, items. Pure.
//!
//! Invariants: bytes outside what is edited stay as they are (comments, order, quotes, anchors, line
//! ends); after each edit the text is read again and must be the tree in which exactly that edit was
//! made. What can't be proven so is refused.

use std::ops::Range;

use serde_json::Value;

use super::yaml::{scalar_text, to_yaml};
use crate::rules::document::{Entry, Kind, Node, ReadError, Style, read};
use crate::rules::path::Path;
use crate::workload::{self, Segment};

/// Maps and lists that stay when their last entry is deleted: their absence would mean something else.
const KEPT_WHEN_EMPTY: [&str; 6] = ["metadata", "spec", "template", "data", "items", "stringData"];

/// One edit of one document.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Edit {
    /// The value there becomes another.
    Set {
        /// Where.
        path: Path,
        /// To what.
        value: Value,
    },
    /// Every `from` in the text there becomes `to`.
    Replace {
        /// Where.
        path: Path,
        /// What stands there.
        from: String,
        /// To what.
        to: String,
    },
    /// The key there becomes another; where that one is there already, it stays as it is and this one goes.
    Rename {
        /// Where.
        path: Path,
        /// The new key.
        to: String,
    },
    /// The entry or item there goes, and what is empty without it.
    Delete {
        /// Where.
        path: Path,
    },
    /// An entry is added to the map there, which is made where it is not; one that is there is set.
    Insert {
        /// The map.
        path: Path,
        /// The key.
        key: String,
        /// The value.
        value: Value,
    },
    /// An item is added to the list there, which is made where it is not.
    Append {
        /// The list.
        path: Path,
        /// The item.
        value: Value,
    },
    /// Items are added to the list there, which has some.
    Extend {
        /// The list.
        path: Path,
        /// The items.
        values: Vec<Value>,
    },
}

/// Why an edit was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EditError {
    /// The text can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The value can't be edited without touching its surroundings.
    #[error("the value at {path} is written in a way that can't be edited in place")]
    Unsafe {
        /// Where.
        path: String,
    },
}

impl Edit {
    fn path(&self) -> &Path {
        match self {
            Self::Set { path, .. }
            | Self::Replace { path, .. }
            | Self::Rename { path, .. }
            | Self::Delete { path }
            | Self::Insert { path, .. }
            | Self::Append { path, .. }
            | Self::Extend { path, .. } => path,
        }
    }

    fn refused(&self) -> EditError {
        EditError::Unsafe { path: workload::display(self.path()) }
    }

    /// The same edit as one of something that is there: missing maps are part of the value, an
    /// entry that is there is set, an empty rest is deleted with its last entry.
    fn settled(self, root: &Node) -> Self {
        match self {
            Self::Insert { path, key, value } => {
                let mut here = path.clone();
                here.push(Segment::Key(key.clone().into()));
                if root.follow(&here).is_some() {
                    return Self::Set { path: here, value };
                }
                match root.follow(&path) {
                    Some(node) if node.is_null() => {
                        Self::Set { path, value: Value::from_iter([(key, value)]) }
                    }
                    Some(_) => Self::Insert { path, key, value },
                    None => nested(path, Value::from_iter([(key, value)])).settled(root),
                }
            }
            Self::Append { path, value } => match root.follow(&path) {
                Some(node) if node.is_null() => Self::Set { path, value: Value::Array(vec![value]) },
                Some(_) => Self::Append { path, value },
                None => nested(path, Value::Array(vec![value])).settled(root),
            },
            Self::Delete { mut path } => {
                while path.len() > 1 {
                    let parent = &path[..path.len() - 1];
                    let is_kept = matches!(parent.last(), Some(Segment::Key(key)) if KEPT_WHEN_EMPTY.contains(&key.as_ref()));
                    let children = root.follow(parent).map_or(0, |n| n.entries().len() + n.items().len());
                    if is_kept || children != 1 {
                        break;
                    }
                    path.pop();
                }
                Self::Delete { path }
            }
            Self::Rename { path, to } if is_taken(root, &path, &to) => Self::Delete { path }.settled(root),
            other => other,
        }
    }
}

/// Whether the map around what is at `path` has the key `to` as another entry.
pub(crate) fn is_taken(root: &Node, path: &[Segment<'_>], to: &str) -> bool {
    let Some((Segment::Key(name), parent)) = path.split_last() else { return false };
    *name != to && root.follow(parent).is_some_and(|map| map.get(to).is_some())
}

/// `value` inserted at `path`, one level higher.
fn nested(mut path: Path, value: Value) -> Edit {
    match path.pop() {
        Some(Segment::Key(key)) => Edit::Insert { path, key: key.into_owned(), value },
        _ => Edit::Set { path, value },
    }
}

/// A text that holds one document, with its tree.
#[derive(Debug, Clone)]
pub(crate) struct Sheet {
    /// The text.
    pub text: String,
    /// What it says.
    pub root: Node,
}

impl Sheet {
    /// Reads `text`; `None` where it holds no document, or several.
    ///
    /// # Errors
    /// When it is no YAML.
    pub(crate) fn read(text: String) -> Result<Option<Self>, ReadError> {
        let mut documents = read(&text)?;
        let root = documents.pop().map(|document| document.root);
        Ok(root.filter(|_| documents.is_empty()).map(|root| Self { text, root }))
    }

    /// Makes `edit`.
    ///
    /// # Errors
    /// When it can't be made, or what came out is anything else than what was meant, or has a key twice in
    /// a map where it stood once. Then nothing is changed.
    pub(crate) fn edit(&mut self, edit: Edit) -> Result<(), EditError> {
        let refused = edit.refused();
        let (text, root) = (self.text.as_str(), &self.root);
        let edit = edit.settled(root);
        let Some((range, replacement)) = patch(text, root, &edit) else { return Err(refused) };
        let mut edited = String::with_capacity(text.len() + replacement.len());
        edited.push_str(&text[..range.start]);
        edited.push_str(&replacement);
        edited.push_str(&text[range.end..]);
        let mut meant = root.clone();
        if !model(&mut meant, root, &edit) {
            return Err(refused);
        }
        match Self::read(edited)? {
            Some(sheet) if sheet.root.same(&meant) && sheet.root.doubles() <= root.doubles() => *self = sheet,
            _ => return Err(refused),
        }
        Ok(())
    }
}

/// Makes `edit` in `text`, which holds one document.
#[cfg(test)]
pub(crate) fn apply(text: &str, edit: Edit) -> Result<String, EditError> {
    let refused = edit.refused();
    let mut sheet = Sheet::read(text.to_owned())?.ok_or(refused)?;
    sheet.edit(edit)?;
    Ok(sheet.text)
}

/// The bytes to replace, and by what.
fn patch(text: &str, root: &Node, edit: &Edit) -> Option<(Range<usize>, String)> {
    match edit {
        Edit::Set { path, value } => set(text, root, path, value),
        Edit::Replace { path, from, to } => {
            let node = root.follow(path)?;
            let slice = text.get(node.span.clone())?;
            if !slice.contains(from.as_str()) {
                let Value::String(old) = node.to_value() else { return None };
                return set(text, root, path, &Value::from(old.replace(from, to)));
            }
            Some((node.span.clone(), slice.replace(from, to)))
        }
        Edit::Rename { path, to } => {
            let entry = entry_at(root, path)?;
            let key = quoted_like(&entry.key, to)?;
            Some((entry.key.span.clone(), key))
        }
        Edit::Delete { path } => delete(text, root, path),
        Edit::Insert { path, key, value } => insert(text, root.follow(path)?, key, value),
        Edit::Append { path, value } => append(text, root.follow(path)?, std::slice::from_ref(value)),
        Edit::Extend { path, values } => append(text, root.follow(path)?, values),
    }
}

/// The entry whose value is at `path`.
fn entry_at<'a>(root: &'a Node, path: &Path) -> Option<&'a Entry> {
    let (Segment::Key(name), parent) = path.split_last()? else { return None };
    root.follow(parent)?.entries().iter().find(|entry| entry.key.text() == Some(name.as_ref()))
}

/// A scalar in the quotes of another.
fn quoted_like(like: &Node, text: &str) -> Option<String> {
    let Kind::Scalar { style, .. } = &like.kind else { return None };
    Some(match style {
        Style::Single if !text.contains(|c: char| c.is_control()) => {
            format!("'{}'", text.replace('\'', "''"))
        }
        Style::Double => Value::from(text).to_string(),
        Style::Plain if is_flag(text) => text.to_owned(),
        Style::Plain | Style::Single => scalar_text(text),
        Style::Block => return None,
    })
}

/// `--name=value`: plain to every reader, though it begins like an item.
fn is_flag(text: &str) -> bool {
    let name = text.strip_prefix("--").unwrap_or_default();
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_=./@".contains(c))
}

fn set(text: &str, root: &Node, path: &Path, value: &Value) -> Option<(Range<usize>, String)> {
    let node = root.follow(path)?;
    let is_small = |value: &Value| match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => true,
    };
    if let (Kind::Scalar { text: old, style }, true) = (&node.kind, is_small(value)) {
        let slice = text.get(node.span.clone())?;
        if let (Value::String(new), Style::Block) = (value, style) {
            return (slice.matches(old.as_str()).count() == 1)
                .then(|| (node.span.clone(), slice.replacen(old.as_str(), new, 1)));
        }
        let new = match value {
            Value::String(new) => quoted_like(node, new)?,
            other => other.to_string(),
        };
        if slice.trim().is_empty() {
            let at = after_colon(text, entry_at(root, path)?)?;
            return Some((at..at, format!(" {new}")));
        }
        return Some((node.span.clone(), new));
    }
    // The whole entry or item is written anew.
    if is_flow(root, path) {
        return (!node.span.is_empty()).then(|| (node.span.clone(), flow(value, text)));
    }
    match path.last()? {
        Segment::Key(name) => {
            let entry = entry_at(root, path)?;
            let start = entry.key.span.start;
            let yaml =
                block(&Value::from_iter([(name.to_string(), value.clone())]), column(text, start), text);
            let end = match entry.end() {
                end if end == entry.key.span.end => after_colon(text, entry)?,
                end => content_end(text, end),
            };
            Some((start..end, yaml.trim_end().to_owned()))
        }
        Segment::Index(_) => {
            let yaml = block(value, column(text, node.span.start), text);
            Some((node.span.start..content_end(text, node.end()), yaml.trim_end().to_owned()))
        }
    }
}

/// Whether the value at `path` stands in `{…}` or `[…]`.
fn is_flow(root: &Node, path: &Path) -> bool {
    let parent = path.split_last().and_then(|(_, parent)| root.follow(parent));
    parent
        .is_some_and(|node| matches!(node.kind, Kind::Map { flow: true, .. } | Kind::List { flow: true, .. }))
}

fn after_colon(text: &str, entry: &Entry) -> Option<usize> {
    let at = entry.key.span.end;
    let rest = text.get(at..)?;
    let colon = rest.find(':')?;
    rest[..colon].trim().is_empty().then_some(at + colon + 1)
}

/// `end` without the line breaks and blanks before it.
pub(crate) fn content_end(text: &str, end: usize) -> usize {
    text[..end].trim_end().len()
}

/// The end of the line on which what ends at `end` ends, its line break included.
pub(crate) fn line_end(text: &str, end: usize) -> usize {
    if text[..end].ends_with('\n') {
        return end;
    }
    text[end..].find('\n').map_or(text.len(), |at| end + at + 1)
}

pub(crate) fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |at| at + 1)
}

fn column(text: &str, at: usize) -> usize {
    text[line_start(text, at)..at].chars().count()
}

fn line_break(text: &str) -> &'static str {
    if text.contains("\r\n") { "\r\n" } else { "\n" }
}

/// `value` as block YAML whose lines after the first begin at `indent`.
fn block(value: &Value, indent: usize, text: &str) -> String {
    let yaml = to_yaml(value);
    // Once: the text may be a List of thousands, and so may the value.
    let line_break = line_break(text);
    let mut out = String::new();
    for (at, line) in yaml.lines().enumerate() {
        if at > 0 && !line.is_empty() {
            out.push_str(&" ".repeat(indent));
        }
        out.push_str(line);
        out.push_str(line_break);
    }
    out
}

/// `value` inside a flow collection, quoted as JSON where the file is JSON.
fn flow(value: &Value, text: &str) -> String {
    let is_json = text.trim_start_matches('\u{feff}').trim_start().starts_with(['{', '[']);
    let word = |text: &str| if is_json { Value::from(text).to_string() } else { scalar_text(text) };
    match value {
        Value::String(string) => word(string),
        Value::Object(fields) => {
            let entry = |(key, value): (&String, &Value)| format!("{}: {}", word(key), flow(value, text));
            format!("{{{}}}", fields.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| flow(item, text)).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}

fn delete(text: &str, root: &Node, path: &Path) -> Option<(Range<usize>, String)> {
    let (last, parent) = path.split_last()?;
    let parent = root.follow(parent)?;
    // Where each child begins and ends, its key or dash included.
    let (children, at, is_flow): (Vec<Range<usize>>, usize, bool) = match (&parent.kind, last) {
        (Kind::Map { entries, flow }, Segment::Key(name)) => (
            entries.iter().map(|entry| entry.key.span.start..entry.end()).collect(),
            entries.iter().position(|entry| entry.key.text() == Some(name.as_ref()))?,
            *flow,
        ),
        (Kind::List { items, flow }, Segment::Index(index)) => {
            let begin =
                |item: &Node| if *flow { Some(item.span.start) } else { dash_before(text, item.span.start) };
            let ranges =
                items.iter().map(|item| Some(begin(item)?..item.end())).collect::<Option<Vec<_>>>()?;
            (ranges, *index, *flow)
        }
        _ => return None,
    };
    let child = children.get(at)?.clone();
    if is_flow {
        return match (children.get(at + 1), at.checked_sub(1)) {
            (Some(next), _) => Some((child.start..next.start, String::new())),
            (None, Some(previous)) => Some((children[previous].end..child.end, String::new())),
            (None, None) => Some((child, String::new())),
        };
    }
    if children.len() == 1 {
        let end = content_end(text, child.end);
        if matches!(parent.kind, Kind::Map { .. }) {
            return Some((child.start..end, "{}".to_owned()));
        }
        // Beside its key, or at least right of it: a dash may stand under the key, brackets may not.
        let before = text[..child.start].trim_end();
        let start = if before.ends_with(':') { before.len() } else { child.start };
        return Some((start..end, " []".to_owned()));
    }
    let start = line_start(text, child.start);
    if text[start..child.start].trim().is_empty() {
        return Some((start..line_end(text, child.end), String::new()));
    }
    // After a dash on the same line: the next entry takes its place.
    let next = children.get(at + 1)?;
    Some((child.start..next.start, String::new()))
}

/// Where the dash of the item whose content begins at `at` stands.
pub(crate) fn dash_before(text: &str, at: usize) -> Option<usize> {
    let mut before = text[..at].trim_end();
    loop {
        if let Some(rest) = before.strip_suffix('-') {
            return Some(rest.len());
        }
        // A comment: between a dash and its item nothing else has a `#`.
        let line = line_start(before, before.len());
        if let Some(comment) =
            before[line..].find('#').filter(|at| before[line..line + at].ends_with([' ', '\t']) || *at == 0)
        {
            before = before[..line + comment].trim_end();
            continue;
        }
        // An anchor or a tag.
        let word = before.rsplit([' ', '\n', '\t']).next()?;
        if !word.starts_with(['&', '!']) {
            return None;
        }
        before = before[..before.len() - word.len()].trim_end();
    }
}

fn insert(text: &str, map: &Node, key: &str, value: &Value) -> Option<(Range<usize>, String)> {
    let Kind::Map { entries, flow: is_flow } = &map.kind else { return None };
    let Some(last) = entries.last() else {
        let inner = flow(&Value::from_iter([(key.to_owned(), value.clone())]), text);
        return Some((map.span.clone(), inner));
    };
    let end = last.end();
    if *is_flow {
        let inner = flow(&Value::from_iter([(key.to_owned(), value.clone())]), text);
        let inner = inner.strip_prefix('{')?.strip_suffix('}')?;
        let start = line_start(text, last.key.span.start);
        let lead = &text[start..last.key.span.start];
        let separator = if lead.trim().is_empty() && start > map.span.start {
            format!(",{}{lead}", line_break(text))
        } else {
            ", ".to_owned()
        };
        return Some((end..end, format!("{separator}{inner}")));
    }
    let indent = column(text, last.key.span.start);
    let yaml = block(&Value::from_iter([(key.to_owned(), value.clone())]), indent, text);
    Some(new_lines(text, end, indent, &yaml))
}

fn append(text: &str, list: &Node, values: &[Value]) -> Option<(Range<usize>, String)> {
    let Kind::List { items, flow: is_flow } = &list.kind else { return None };
    let flowing = || values.iter().map(|value| flow(value, text)).collect::<Vec<_>>().join(", ");
    let Some(last) = items.last() else {
        return Some((list.span.clone(), format!("[{}]", flowing())));
    };
    if *is_flow {
        return Some((last.span.end..last.span.end, format!(", {}", flowing())));
    }
    let indent = column(text, dash_before(text, last.span.start)?);
    let yaml = block(&Value::Array(values.to_vec()), indent, text);
    Some(new_lines(text, last.end(), indent, &yaml))
}

/// Whole lines after the one on which `end` is.
fn new_lines(text: &str, end: usize, indent: usize, yaml: &str) -> (Range<usize>, String) {
    let at = line_end(text, content_end(text, end).max(1));
    let pad = " ".repeat(indent);
    if at > 0 && !text[..at].ends_with('\n') {
        let line_break = line_break(text);
        return (at..at, format!("{line_break}{pad}{}", yaml.trim_end()));
    }
    (at..at, format!("{pad}{yaml}"))
}

/// Makes `edit` in the tree, at every node that stands where the edited one does (aliases).
fn model(tree: &mut Node, root: &Node, edit: &Edit) -> bool {
    let path = edit.path();
    match edit {
        Edit::Set { value, .. } => {
            each_like(tree, root, path, &mut |node| node.kind = Node::of_value(value).kind)
        }
        Edit::Replace { from, to, .. } => each_like(tree, root, path, &mut |node| {
            if let Value::String(old) = node.to_value() {
                node.kind = Node::of_value(&Value::from(old.replace(from, to))).kind;
            }
        }),
        Edit::Insert { key, value, .. } => each_like(tree, root, path, &mut |node| {
            if let Kind::Map { entries, .. } = &mut node.kind {
                let key = Node::of_value(&Value::from(key.as_str()));
                entries.push(Entry { key, value: Node::of_value(value) });
            }
        }),
        Edit::Append { value, .. } => each_like(tree, root, path, &mut |node| {
            if let Kind::List { items, .. } = &mut node.kind {
                items.push(Node::of_value(value));
            }
        }),
        Edit::Extend { values, .. } => each_like(tree, root, path, &mut |node| {
            if let Kind::List { items, .. } = &mut node.kind {
                items.extend(values.iter().map(Node::of_value));
            }
        }),
        Edit::Rename { to, .. } => {
            let Some((Segment::Key(name), parent)) = path.split_last() else { return false };
            each_like(tree, root, &parent.to_vec(), &mut |node| {
                if let Kind::Map { entries, .. } = &mut node.kind {
                    for entry in entries.iter_mut().filter(|entry| entry.key.text() == Some(name.as_ref())) {
                        entry.key = Node::of_value(&Value::from(to.as_str()));
                    }
                }
            })
        }
        Edit::Delete { .. } => {
            let Some((last, parent)) = path.split_last() else { return false };
            each_like(tree, root, &parent.to_vec(), &mut |node| match (&mut node.kind, last) {
                (Kind::Map { entries, .. }, Segment::Key(name)) => {
                    entries.retain(|entry| entry.key.text() != Some(name.as_ref()));
                }
                (Kind::List { items, .. }, Segment::Index(index)) if *index < items.len() => {
                    items.remove(*index);
                }
                _ => {}
            })
        }
    }
}

fn each_like(tree: &mut Node, root: &Node, path: &Path, change: &mut dyn FnMut(&mut Node)) -> bool {
    let Some(target) = root.follow(path) else { return false };
    if target.span.is_empty() {
        // Nothing is written there, so nothing else stands there.
        return follow_mut(tree, path).map(change).is_some();
    }
    walk(tree, target, change);
    true
}

fn walk(node: &mut Node, target: &Node, change: &mut dyn FnMut(&mut Node)) {
    let is_target = node.span == target.span
        && std::mem::discriminant(&node.kind) == std::mem::discriminant(&target.kind);
    match &mut node.kind {
        Kind::List { items, .. } => items.iter_mut().for_each(|item| walk(item, target, change)),
        Kind::Map { entries, .. } => {
            entries.iter_mut().for_each(|entry| walk(&mut entry.value, target, change))
        }
        Kind::Scalar { .. } => {}
    }
    if is_target {
        change(node);
    }
}

fn follow_mut<'a>(node: &'a mut Node, path: &[Segment<'_>]) -> Option<&'a mut Node> {
    path.iter().try_fold(node, |node, segment| match (&mut node.kind, segment) {
        (Kind::Map { entries, .. }, Segment::Key(key)) => entries
            .iter_mut()
            .find(|entry| entry.key.text() == Some(key.as_ref()))
            .map(|entry| &mut entry.value),
        (Kind::List { items, .. }, Segment::Index(index)) => items.get_mut(*index),
        _ => None,
    })
}

#[cfg(test)]
#[path = "edit_tests.rs"]
mod tests;
