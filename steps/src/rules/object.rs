//! An object as rules see it: of a document, of an item of a List, or live.

use std::collections::HashSet;

use super::document::Node;
use super::path::{Path, Pattern, with_index};
use crate::workload::Segment;

/// The group of what the EKS API says, which is no object of Kubernetes: only rules that name a kind or a
/// group look at it.
pub(crate) const EKS_API_GROUP: &str = "eks.aws";

/// Lists in lists.
const LIST_DEPTH: usize = 4;

/// Every key of an object, whatever its depth: what a pattern names and is not here fits nowhere.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keys<'a>(HashSet<&'a str>);

impl<'a> Keys<'a> {
    fn of(node: &'a Node) -> Self {
        fn gather<'a>(node: &'a Node, keys: &mut HashSet<&'a str>) {
            node.items().iter().for_each(|item| gather(item, keys));
            for entry in node.entries() {
                keys.extend(entry.key.text());
                gather(&entry.value, keys);
            }
        }
        let mut keys = HashSet::new();
        gather(node, &mut keys);
        Self(keys)
    }

    /// Whether `key` is one.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.contains(key)
    }
}

/// An object.
#[derive(Debug, Clone)]
pub(crate) struct Object<'a> {
    /// Its root.
    pub node: &'a Node,
    /// Where it is in its document: empty, or `items[n]`.
    pub prefix: Path,
    /// `apps`; empty for the core group.
    pub group: String,
    /// `apps/v1`.
    pub api_version: String,
    /// `Deployment`.
    pub kind: String,
    /// Empty where it names none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// All its keys.
    pub keys: Keys<'a>,
}

impl<'a> Object<'a> {
    /// Every place of it that fits, with its node.
    pub(crate) fn find(&self, pattern: &Pattern) -> Vec<(Path, &'a Node)> {
        if pattern.may_fit(&self.keys) { pattern.find(self.node) } else { Vec::new() }
    }
}

/// The objects of a document: itself, or the items of a List. None where it is no object.
pub(crate) fn objects(root: &Node) -> Vec<Object<'_>> {
    let mut found = Vec::new();
    collect(root, Vec::new(), &mut found);
    found
}

fn collect<'a>(node: &'a Node, prefix: Path, found: &mut Vec<Object<'a>>) {
    let (Some(kind), Some(api_version)) = (node.text_at(&["kind"]), node.text_at(&["apiVersion"])) else {
        return;
    };
    let items = node.get("items").map(Node::items);
    if let (true, Some(items)) = (kind.ends_with("List") && prefix.len() < 2 * LIST_DEPTH, items) {
        let mut list = prefix.clone();
        list.push(Segment::Key("items".into()));
        for (at, item) in items.iter().enumerate() {
            collect(item, with_index(&list, at), found);
        }
        return;
    }
    let text = |keys: &[&str]| node.text_at(keys).unwrap_or_default().to_owned();
    found.push(Object {
        node,
        prefix,
        group: api_version.split_once('/').map_or("", |(group, _)| group).to_owned(),
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        namespace: text(&["metadata", "namespace"]),
        name: match text(&["metadata", "name"]) {
            name if name.is_empty() => text(&["metadata", "generateName"]),
            name => name,
        },
        keys: Keys::of(node),
    });
}
