//! Patterns of paths into an object: `spec.rules[].http`, `{pod}.nodeSelector["eks.amazonaws.com/*"]`,
//! `**.storageClassName`. Pure.

use std::borrow::Cow;

use super::document::{Kind, Node};
use crate::workload::Segment;

/// A path into an object.
pub(crate) type Path = Vec<Segment<'static>>;

/// A field.
pub(crate) fn key(name: impl Into<String>) -> Segment<'static> {
    Segment::Key(Cow::Owned(name.into()))
}

/// `path` and one more field.
pub(crate) fn with(path: &[Segment<'static>], name: &str) -> Path {
    let mut longer = path.to_vec();
    longer.push(key(name));
    longer
}

/// `path` and one more item.
pub(crate) fn with_index(path: &[Segment<'static>], index: usize) -> Path {
    let mut longer = path.to_vec();
    longer.push(Segment::Index(index));
    longer
}

/// A path without wildcards, as written; what is no path has no segments.
pub(crate) fn plain(text: &str) -> Path {
    let pattern = Pattern::parse(text).map(|pattern| pattern.0).unwrap_or_default();
    let segment = |part: Part| match part {
        Part::Key(name) => Some(key(name)),
        _ => None,
    };
    pattern.into_iter().map_while(segment).collect()
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// A field of this name.
    Key(String),
    /// A field whose name begins so.
    Prefix(String),
    /// Any item of a list.
    Item,
    /// Any number of fields and items.
    Anything,
    /// Any number of fields and items, down to a map with `containers`.
    Pod,
}

/// A pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Part>);

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("[]") {
                parts.push(Part::Item);
                rest = after;
            } else if let Some(after) = rest.strip_prefix("[\"") {
                let (name, after) =
                    after.split_once("\"]").ok_or_else(|| format!("`{text}`: `[\"` without `\"]`"))?;
                parts.push(match name.strip_suffix('*') {
                    Some(prefix) => Part::Prefix(prefix.to_owned()),
                    None => Part::Key(name.to_owned()),
                });
                rest = after;
            } else {
                let end = rest.find(['.', '[']).unwrap_or(rest.len());
                parts.push(match &rest[..end] {
                    "" => return Err(format!("`{text}`: an empty name")),
                    "*" => Part::Prefix(String::new()),
                    "**" => Part::Anything,
                    "{pod}" => Part::Pod,
                    name => Part::Key(name.to_owned()),
                });
                rest = &rest[end..];
            }
            if let Some(after) = rest.strip_prefix('.') {
                if after.is_empty() {
                    return Err(format!("`{text}`: ends in a dot"));
                }
                rest = after;
            }
        }
        Ok(Self(parts))
    }

    /// Every place of `root` that fits, with its node.
    pub(crate) fn find<'a>(&self, root: &'a Node) -> Vec<(Path, &'a Node)> {
        let mut found = Vec::new();
        find(&self.0, root, &mut Vec::new(), &mut found);
        found
    }
}

fn find<'a>(parts: &[Part], node: &'a Node, path: &mut Path, found: &mut Vec<(Path, &'a Node)>) {
    let Some((part, rest)) = parts.split_first() else {
        found.push((path.clone(), node));
        return;
    };
    match part {
        Part::Key(name) => each(node, path, &mut |segment, child, path| {
            if matches!(segment, Segment::Key(key) if key == name) {
                find(rest, child, path, found);
            }
        }),
        Part::Prefix(prefix) => each(node, path, &mut |segment, child, path| {
            if matches!(segment, Segment::Key(key) if key.starts_with(prefix.as_str())) {
                find(rest, child, path, found);
            }
        }),
        Part::Item => each(node, path, &mut |segment, child, path| {
            if matches!(segment, Segment::Index(_)) {
                find(rest, child, path, found);
            }
        }),
        Part::Anything | Part::Pod => {
            if *part == Part::Anything
                || node.get("containers").is_some_and(|c| matches!(c.kind, Kind::List { .. }))
            {
                find(rest, node, path, found);
            }
            each(node, path, &mut |_, child, path| find(parts, child, path, found));
        }
    }
}

fn each<'a>(node: &'a Node, path: &mut Path, visit: &mut impl FnMut(&Segment<'static>, &'a Node, &mut Path)) {
    let mut step = |segment: Segment<'static>, child: &'a Node| {
        path.push(segment.clone());
        visit(&segment, child, path);
        path.pop();
    };
    for (at, item) in node.items().iter().enumerate() {
        step(Segment::Index(at), item);
    }
    for entry in node.entries() {
        if let Some(name) = entry.key.text() {
            step(key(name), &entry.value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::display;
    use serde_json::json;

    fn found(pattern: &str) -> Vec<String> {
        let object = json!({ "metadata": { "annotations": { "a.b/c": "1", "a.b/d": "2", "x": "3" } },
            "spec": { "template": { "spec": { "containers": [{ "name": "a" }, { "name": "b" }],
                "nodeSelector": { "a.b/c": "4" } } } } });
        let node = Node::of_value(&object);
        Pattern::parse(pattern).unwrap().find(&node).iter().map(|(path, _)| display(path)).collect()
    }

    #[test]
    fn patterns_find_their_places() {
        assert_eq!(found("metadata.annotations.x"), ["metadata.annotations.x"]);
        assert_eq!(found("metadata.annotations[\"a.b/*\"]").len(), 2);
        assert_eq!(found("{pod}.containers[].name").len(), 2);
        assert_eq!(found("**[\"a.b/c\"]").len(), 2);
        assert_eq!(found("{pod}.nodeSelector.*"), [r#"spec.template.spec.nodeSelector["a.b/c"]"#]);
        assert!(found("spec.containers").is_empty());
        assert_eq!(found(""), [""]);
    }

    #[test]
    fn what_is_no_pattern_is_told() {
        for wrong in ["a..b", "a.", "a[\"b"] {
            assert!(Pattern::parse(wrong).is_err(), "{wrong}");
        }
    }
}
