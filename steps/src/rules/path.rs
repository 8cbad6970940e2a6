//! Patterns of paths into an object: `spec.rules[].http`, `{pod}.nodeSelector["eks.amazonaws.com/*"]`,
//! `**.storageClassName`, `**.matchExpressions[key=topology.kubernetes.io/*].values[]`. Pure.

use std::borrow::Cow;
use std::ops::ControlFlow;

use super::document::{Kind, Node};
use super::object::Keys;
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

/// A path that is still borrowed, on its own.
pub(crate) fn owned(path: &[Segment<'_>]) -> Path {
    path.iter().map(Segment::to_owned_segment).collect()
}

/// A path without wildcards, as written; what is no path has no segments.
pub(crate) fn plain(text: &str) -> Path {
    let pattern = Pattern::parse(text).map(|pattern| pattern.parts).unwrap_or_default();
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
    /// An item of a list whose field has this text, or begins so where it ends in `*`.
    ItemWhere(String, String),
    /// Any number of fields and items.
    Anything,
    /// Any number of fields and items, down to a map with `containers`.
    Pod,
}

/// A pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    parts: Vec<Part>,
    /// Keys that are somewhere in whatever fits.
    keys: Vec<String>,
}

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
            } else if let Some(after) = rest.strip_prefix('[') {
                let condition =
                    after.split_once(']').and_then(|(text, after)| Some((text.split_once('=')?, after)));
                let ((field, value), after) =
                    condition.ok_or_else(|| format!("`{text}`: `[` without `FIELD=VALUE]`"))?;
                parts.push(Part::ItemWhere(field.to_owned(), value.to_owned()));
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
        let keys = parts.iter().filter_map(|part| match part {
            Part::Key(name) | Part::ItemWhere(name, _) => Some(name.clone()),
            Part::Pod => Some("containers".to_owned()),
            _ => None,
        });
        Ok(Self { keys: keys.collect(), parts })
    }

    /// Whether something with these keys may have a place that fits.
    pub(crate) fn may_fit(&self, keys: &Keys<'_>) -> bool {
        self.keys.iter().all(|key| keys.has(key))
    }

    /// Every place of `root` that fits, with its node.
    pub(crate) fn find<'a>(&self, root: &'a Node) -> Vec<(Path, &'a Node)> {
        let mut found = Vec::new();
        self.visit(root, &mut |path, node| {
            found.push((owned(path), node));
            ControlFlow::Continue(())
        });
        found
    }

    /// Whether a node that passes stands where it fits.
    pub(crate) fn any(&self, root: &Node, passes: &dyn Fn(&Node) -> bool) -> bool {
        let mut is_there = false;
        self.visit(root, &mut |_, node| {
            is_there = passes(node);
            if is_there { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        is_there
    }

    /// Visits every place of `root` that fits, until told to stop.
    pub(crate) fn visit<'a>(&self, root: &'a Node, visit: &mut Visit<'_, 'a>) {
        let _ = walk(&self.parts, root, &mut Vec::new(), visit);
    }
}

/// What is called with a place and its node.
pub(crate) type Visit<'v, 'a> = dyn FnMut(&[Segment<'a>], &'a Node) -> ControlFlow<()> + 'v;

fn walk<'a>(
    parts: &[Part],
    node: &'a Node,
    path: &mut Vec<Segment<'a>>,
    visit: &mut Visit<'_, 'a>,
) -> ControlFlow<()> {
    let Some((part, rest)) = parts.split_first() else { return visit(path, node) };
    let is_deep = matches!(part, Part::Anything | Part::Pod);
    let is_pod = || node.get("containers").is_some_and(|c| matches!(c.kind, Kind::List { .. }));
    if *part == Part::Anything || (*part == Part::Pod && is_pod()) {
        walk(rest, node, path, visit)?;
    }
    let below = if is_deep { parts } else { rest };
    let is_item = |item: &Node| match part {
        Part::ItemWhere(field, wanted) => {
            item.text_at(&[field]).is_some_and(|text| match wanted.strip_suffix('*') {
                Some(prefix) => text.starts_with(prefix),
                None => text == wanted,
            })
        }
        part => is_deep || *part == Part::Item,
    };
    for (at, item) in node.items().iter().enumerate() {
        if is_item(item) {
            path.push(Segment::Index(at));
            let next = walk(below, item, path, visit);
            path.pop();
            next?;
        }
    }
    for entry in node.entries() {
        let Some(name) = entry.key.text() else { continue };
        let fits = match part {
            Part::Key(wanted) => name == wanted,
            Part::Prefix(prefix) => name.starts_with(prefix.as_str()),
            Part::Item | Part::ItemWhere(..) => false,
            Part::Anything | Part::Pod => true,
        };
        if fits {
            path.push(Segment::Key(Cow::Borrowed(name)));
            let next = walk(below, &entry.value, path, visit);
            path.pop();
            next?;
        }
    }
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::display;
    use serde_json::json;

    fn found(pattern: &str) -> Vec<String> {
        let object = json!({ "metadata": { "annotations": { "a.b/c": "1", "a.b/d": "2", "x": "3" } },
            "spec": { "template": { "spec": { "containers": [{ "name": "a" }, { "name": "b" }],
                "nodeSelector": { "a.b/c": "4" } } } },
            "items": [{ "key": "a.b/c", "values": [1, 2] }, { "key": "a.c", "values": [3] }] });
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
        assert_eq!(found("**.items[key=a.b/*].values[]"), ["items[0].values[0]", "items[0].values[1]"]);
        assert_eq!(found("items[key=a.c].values[]"), ["items[1].values[0]"]);
        assert!(found("items[key=a].key").is_empty() && found("items[name=a.c]").is_empty());
        assert!(found("spec.containers").is_empty());
        assert_eq!(found(""), [""]);
    }

    #[test]
    fn what_is_no_pattern_is_told() {
        for wrong in ["a..b", "a.", "a[\"b", "a[b]", "a[b=c"] {
            assert!(Pattern::parse(wrong).is_err(), "{wrong}");
        }
    }
}
