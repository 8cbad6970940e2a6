//! What the checker knows of `for_each`: the list, its items, and what refers to them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::check::Checker;
use super::each::{self, Each, Item, ItemsError};
use super::model::Node;
use super::schema::{self, Child};
use super::template::{ALL, Lookup, Reference, Root, TemplateKind, node_of};
use super::{Described, has_unknown};

/// Schemas that a value may have, in the schema that they are part of.
type Schemas<'a> = (&'a Value, Vec<&'a Value>);

impl<'a> Checker<'a> {
    /// The items of a node with `for_each`, where they are known already.
    pub(super) fn items(&mut self, node: &Node, is_skipped: bool) -> Option<Vec<Item>> {
        let for_each = node.for_each.as_ref()?;
        for reference in for_each.list.references() {
            if reference.root == Root::Nodes {
                self.list_type(node, reference);
            }
        }
        if is_skipped || matches!(for_each.list.kind, TemplateKind::Broken) {
            return None;
        }
        let mut errors = Vec::new();
        let lookup = |reference: &Reference| match self.lookup(reference) {
            Lookup::Missing => Lookup::Unknown,
            other => other,
        };
        let list = for_each.list.resolve_all(&lookup, &mut errors);
        // A text was told when the file was read.
        let is_text = matches!(for_each.list.kind, TemplateKind::Literal(_) | TemplateKind::Text(_));
        if has_unknown(&list) || !errors.is_empty() || is_text && list.is_string() {
            return None;
        }
        match each::items(&list, for_each.key.as_ref()) {
            Ok(items) => Some(items),
            Err(error) => {
                let key_span = for_each.key.as_ref().map(|key| key.span.clone());
                let (span, help) = match &error {
                    ItemsError::NotAList(_) | ItemsError::TooMany(_) => (for_each.list.span.clone(), None),
                    ItemsError::Duplicate(..) if key_span.is_none() => {
                        let help = "every item needs a key of its own; where items are tables, `key` makes one: `key = \"${each.value.name}\"`";
                        (for_each.list.span.clone(), Some(help))
                    }
                    ItemsError::Duplicate(..) | ItemsError::NoKey(..) => {
                        (key_span.unwrap_or_else(|| for_each.list.span.clone()), None)
                    }
                };
                let code = if help.is_some() { "duplicate" } else { "invalid-list" };
                let mistake = self.mistakes.add(&self.file, span, code, error.to_string());
                if let Some(help) = help {
                    mistake.help(help);
                }
                None
            }
        }
    }

    /// The configs of a node: one, or one for each item.
    pub(super) fn configs(
        &mut self,
        node: &Node,
        described: &Described,
        is_skipped: bool,
        items: Option<&[Item]>,
    ) {
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            return self.config(node, described, is_skipped, None);
        };
        let before = self.mistakes.len();
        for at in 0..items.len() {
            let each = Each::new(items, at);
            self.config(node, described, is_skipped, each);
            if self.mistakes.len() > before {
                let note = format!("this is about item `{}` of `{}`", items[at].key, node.id);
                self.mistakes.note_since(before, &note);
                // The others are of its kind.
                return;
            }
        }
    }

    /// `each.…`: only in a node with `for_each`, and only what there is.
    pub(super) fn each_reference(&mut self, node: &Node, reference: &Reference) {
        let file = &self.file.clone();
        let Some(for_each) = &node.for_each else {
            let message = format!("node `{}` uses `each`, but has no `for_each`", node.id);
            self.mistakes
                .add(file, reference.span.clone(), "no-for-each", message)
                .help("add `for_each` with a list, or refer to `params`, `env` or `nodes`");
            return;
        };
        if for_each.list.references().iter().any(|inner| std::ptr::eq(*inner, reference)) {
            self.mistakes
                .add(file, reference.span.clone(), "no-for-each", "the list can't be made of its own items")
                .help("refer to `params`, `env` or `nodes`");
            return;
        }
        let name = &reference.path[0];
        if !matches!(name.as_str(), "value" | "key" | "index")
            || (name != "value" && reference.path.len() > 1)
        {
            self.mistakes
                .add(
                    file,
                    reference.span.clone(),
                    "unknown-field",
                    format!("`{}` is nothing", reference.text()),
                )
                .help("an item has `${each.value}`, `${each.key}` and `${each.index}` (from 0)");
            return;
        }
        if name != "value" {
            return;
        }
        let Some((root, mut schemas)) = self.item_schemas(node) else { return };
        for segment in &reference.path[1..] {
            match schema::child(root, &schemas, segment) {
                Child::Schemas(found) => schemas = found,
                Child::Open => return,
                Child::Absent(known) => {
                    let message = format!("an item of `{}` has no field `{segment}`", node.id);
                    self.mistakes
                        .add(&self.file, reference.span.clone(), "unknown-field", message)
                        .suggest(segment, known.iter().map(String::as_str));
                    return;
                }
            }
        }
    }

    /// What follows the node, and its item where it has some, in a reference to it. `None` after a
    /// mistake, and where nothing more can be said.
    pub(super) fn item_of<'r>(&mut self, target: &Node, reference: &'r Reference) -> Option<&'r [String]> {
        let file = &self.file.clone();
        let rest = &reference.path[1..];
        let (id, step) = (&target.id, &target.step);
        let Some(for_each) = &target.for_each else {
            if rest.first().is_some_and(|segment| segment == ALL) {
                let message = format!("node `{id}` has no items: it has no `for_each`");
                self.mistakes
                    .add(file, reference.span.clone(), "unknown-output", message)
                    .help("take `[*]` away");
                return None;
            }
            return Some(rest);
        };
        let Some((key, inner)) = rest.split_first() else { return Some(rest) };
        if key == ALL {
            return Some(inner);
        }
        let lookup = |reference: &Reference| match self.lookup(reference) {
            Lookup::Missing => Lookup::Unknown,
            other => other,
        };
        let list = for_each.list.resolve(&lookup).ok().filter(|list| !has_unknown(list));
        let items = list.and_then(|list| each::items(&list, for_each.key.as_ref()).ok());
        let is_known = items.as_ref().map(|items| items.iter().any(|item| item.key == *key));
        let is_output = self.is_output(target, key);
        if is_known.unwrap_or(!is_output) {
            return Some(inner);
        }
        let message = format!("node `{id}` has no item `{key}`");
        let keys: Vec<&str> = items.iter().flatten().map(|item| item.key.as_str()).collect();
        let mistake = self.mistakes.add(file, reference.span.clone(), "unknown-item", message);
        if is_output {
            mistake.help(format!(
                "it runs once for each item: `${{nodes.{id}[*].{key}}}` is the list of all, \
                 `${{nodes.{id}[\"KEY\"].{key}}}` is one of step `{step}`"
            ));
        } else {
            mistake.suggest(key, keys);
        }
        None
    }

    fn is_output(&self, target: &Node, name: &str) -> bool {
        let schema = self.catalog.get(&target.step).map(|described| &described.info.output_schema);
        schema.is_some_and(|schema| matches!(schema::child(schema, &[schema], name), Child::Schemas(_)))
    }

    fn list_type(&mut self, node: &Node, reference: &Reference) {
        let Some(types) = self.reference_type(node, reference) else { return };
        if !types.contains("array") && !types.contains("object") {
            let is = schema::spell(&types);
            let message = format!("`{}` is {is}, but `for_each` must be a list or a table", reference.text());
            self.mistakes.add(&self.file, reference.span.clone(), "wrong-type", message);
        }
    }

    /// The types that what `reference` stands for can have, where a schema says so.
    pub(super) fn reference_type(&self, node: &Node, reference: &Reference) -> Option<BTreeSet<&'a str>> {
        match reference.root {
            Root::Nodes => {
                let target = self.workflow.node(&node_of(reference)?)?;
                match (&target.for_each, &reference.path[1..]) {
                    (Some(_), []) => return Some(BTreeSet::from(["object"])),
                    (Some(_), [first, ..]) if first == ALL => return Some(BTreeSet::from(["array"])),
                    // An output where a key belongs, which is a mistake of its own.
                    (Some(_), [key]) if self.is_output(target, key) => return None,
                    _ => {}
                }
                let (root, schemas) = self.output_schemas(reference)?;
                schema::types(root, &schemas)
            }
            Root::Each if node.for_each.is_some() => match reference.path[0].as_str() {
                "key" => Some(BTreeSet::from(["string"])),
                "index" => Some(BTreeSet::from(["integer"])),
                _ => {
                    let (root, schemas) = self.item_schemas(node)?;
                    let (root, schemas) = follow((root, schemas), &reference.path[1..])?;
                    schema::types(root, &schemas)
                }
            },
            _ => None,
        }
    }

    /// The schemas of an item whose list is an output.
    fn item_schemas(&self, node: &Node) -> Option<Schemas<'a>> {
        let TemplateKind::Reference(reference) = &node.for_each.as_ref()?.list.kind else { return None };
        let target = self.workflow.node(&node_of(reference)?)?;
        let whole = reference.path.len() == 1 || reference.path.get(1).is_some_and(|s| s == ALL);
        let found = self.output_schemas(reference)?;
        if target.for_each.is_some() && whole {
            return Some(found);
        }
        follow(found, &["0".to_owned()])
    }

    /// The schemas of an output; behind `[*]`, of each of them.
    fn output_schemas(&self, reference: &Reference) -> Option<Schemas<'a>> {
        let target = self.workflow.node(&node_of(reference)?)?;
        let root = &self.catalog.get(&target.step)?.info.output_schema;
        let skipped = if target.for_each.is_some() { 2 } else { 1 };
        follow((root, vec![root]), reference.path.get(skipped..).unwrap_or_default())
    }
}

fn follow<'a>((root, mut schemas): Schemas<'a>, path: &[String]) -> Option<Schemas<'a>> {
    for segment in path {
        match schema::child(root, &schemas, segment) {
            Child::Schemas(found) => schemas = found,
            _ => return None,
        }
    }
    Some((root, schemas))
}
