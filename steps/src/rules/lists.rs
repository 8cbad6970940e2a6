//! Lists, rewritten item by item: `kubectl get -o yaml` prints one with everything in it, and an edit
//! that is proven by reading thousands of objects again would cost the square of them. Pure.
//!
//! Invariants: an item taken out of its list has the bytes that it has in it, but for the dash; the list
//! put together again holds exactly the items as they became. What can't be done so is left to the
//! ordinary way.

use std::ops::Range;

use super::document::{Kind, Node};
use super::facts::Facts;
use super::inputs::Inputs;
use super::object::objects;
use super::path::{Path, key};
use super::rewriting::Change;
use super::set::RuleSet;
use crate::manifests::edit::{Edit, EditError, Sheet, content_end, dash_before, line_end, line_start};

/// An item's lines, and where its dash is.
pub(super) struct Item {
    lines: Range<usize>,
    dash: usize,
}

/// The items of a List, where each has lines of its own.
pub(super) fn apart(sheet: &Sheet) -> Option<Vec<Item>> {
    let (text, root) = (sheet.text.as_str(), &sheet.root);
    let is_list = root.text_at(&["kind"]).is_some_and(|kind| kind.ends_with("List"));
    let items =
        root.get("items").filter(|items| matches!(items.kind, Kind::List { flow: false, .. }))?.items();
    if !is_list || items.len() < 2 || objects(root).len() < 2 {
        return None;
    }
    let mut before = 0;
    let item = |node: &Node| {
        let dash = dash_before(text, node.span.start)?;
        let lines = line_start(text, dash)..line_end(text, content_end(text, node.end()));
        let is_apart = text[lines.start..dash].chars().all(|c| c == ' ') && lines.start >= before;
        before = lines.end;
        is_apart.then_some(Item { lines, dash })
    };
    items.iter().map(item).collect()
}

/// The list with everything done to its items that the rules can do.
///
/// # Errors
/// When an item can't be edited in place.
pub(super) fn rewrite(
    rules: &RuleSet,
    sheet: Sheet,
    items: Vec<Item>,
    facts: &Facts,
    inputs: &Inputs,
    changes: &mut Vec<Change>,
) -> Result<Sheet, EditError> {
    let path: Path = vec![key("items")];
    let nodes = sheet.root.get("items").map_or(&[][..], Node::items);
    let (mut out, mut at) = (String::with_capacity(sheet.text.len()), 0);
    let (mut meant, mut added, mut noted) = (Vec::new(), Vec::new(), Vec::new());
    for (item, node) in items.iter().zip(nodes) {
        out.push_str(&sheet.text[at..item.lines.start]);
        at = item.lines.end;
        let lines = &sheet.text[item.lines.clone()];
        let Some(alone) = alone(lines, item, node)? else {
            out.push_str(lines);
            meant.push(node.clone());
            continue;
        };
        let done = rules.rewrite_sheet(alone, facts, inputs, &mut noted)?;
        added.extend(done.added);
        if !done.is_dropped {
            let mut text = done.sheet.text;
            let dash = item.dash - item.lines.start;
            text.replace_range(dash..=dash, "-");
            out.push_str(&text);
            meant.push(done.sheet.root);
        }
    }
    if meant.is_empty() {
        // What an empty list looks like is the ordinary way's business.
        return Ok(sheet);
    }
    out.push_str(&sheet.text[at..]);
    let Some(mut whole) = Sheet::read(out)? else { return Ok(sheet) };
    let now = whole.root.get("items").map_or(&[][..], Node::items);
    if now.len() != meant.len() || !now.iter().zip(&meant).all(|(now, meant)| now.same(meant)) {
        // What one item became is another's by an alias.
        return Ok(sheet);
    }
    if !added.is_empty() {
        whole.edit(Edit::Extend { path, values: added })?;
    }
    changes.append(&mut noted);
    Ok(whole)
}

/// An item as a document of its own, with a blank for its dash; `None` where that is not the same.
fn alone(lines: &str, item: &Item, node: &Node) -> Result<Option<Sheet>, EditError> {
    let mut text = lines.to_owned();
    let dash = item.dash - item.lines.start;
    text.replace_range(dash..=dash, " ");
    match Sheet::read(text) {
        Ok(sheet) => Ok(sheet.filter(|sheet| sheet.root.same(node))),
        // An alias of what stands elsewhere.
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::document::read;

    const LIST: &str = "# All of it
apiVersion: v1
items:
# the first
- apiVersion: v1 # a pod
  kind: Pod
  metadata: {name: a}
  spec:
    containers: [{name: a}]
    nodeSelector:
      topology.kubernetes.io/zone: us-east-1a # near

- # an agent
  apiVersion: v1
  kind: ConfigMap
  metadata: {name: agent, namespace: amazon-cloudwatch}
-   kind: Pod
    apiVersion: v1
    metadata: {name: b}
    spec: {containers: [], nodeSelector: {topology.kubernetes.io/zone: us-east-1a}}
- apiVersion: karpenter.k8s.aws/v1
  kind: EC2NodeClass
  metadata: {name: default}
  spec: {amiFamily: Bottlerocket}
# the last
kind: List
";

    fn inputs() -> Inputs {
        Inputs { zones: [("us-east-1a".to_owned(), "eastus-1".to_owned())].into(), ..Inputs::default() }
    }

    fn rewritten(text: &str) -> String {
        let documents = read(text).unwrap();
        RuleSet::shipped().rewrite(text, &documents, &Facts::default(), &inputs()).unwrap().text
    }

    #[test]
    fn items_are_rewritten_where_they_stand() {
        assert_eq!(
            rewritten(LIST),
            "# All of it
apiVersion: v1
items:
# the first
- apiVersion: v1 # a pod
  kind: Pod
  metadata: {name: a}
  spec:
    containers: [{name: a}]
    nodeSelector:
      topology.kubernetes.io/zone: eastus-1 # near

-   kind: Pod
    apiVersion: v1
    metadata: {name: b}
    spec: {containers: [], nodeSelector: {topology.kubernetes.io/zone: eastus-1}}
- apiVersion: karpenter.azure.com/v1beta1
  kind: AKSNodeClass
  metadata:
    name: default
  spec:
    imageFamily: Ubuntu
# the last
kind: List
"
        );
        assert_eq!(rewritten(&rewritten(LIST)), rewritten(LIST));
    }

    #[test]
    fn items_that_share_an_anchor_go_the_ordinary_way() {
        let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: &m {name: a}\n  spec: \
                    {containers: [], nodeSelector: &n {topology.kubernetes.io/zone: us-east-1a}}\n- apiVersion: v1\n  kind: Pod\n  metadata: \
                    *m\n  spec: {containers: [], nodeSelector: *n}\n";
        assert_eq!(rewritten(text), text.replace("us-east-1a", "eastus-1"));
    }

    #[test]
    fn a_list_of_which_everything_goes_is_empty() {
        let agent =
            "- apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: a, namespace: amazon-cloudwatch}\n";
        let text = format!("apiVersion: v1\nkind: List\nitems:\n{agent}{agent}");
        assert_eq!(rewritten(&text).trim_end(), "apiVersion: v1\nkind: List\nitems: []");
    }
}
