//! An object as rules see it: of a document, of an item of a List, or live.

use super::document::Node;
use super::path::{Path, with_index};
use crate::workload::Segment;

/// Lists in lists.
const LIST_DEPTH: usize = 4;

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
    });
}
