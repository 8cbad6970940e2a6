//! What is written where outputs of other nodes are taken: pure. It tells what somebody has
//! changed in the files from what only comes out differently.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::condition::Condition;
use super::model::Node;
use super::resolve::NothingYet;
use super::template::{Lookup, Part, Reference, Root, Template, TemplateKind};
use super::{Checked, Each, dotted};

/// Texts as they stand in the files, with everything else in its place: values of parameters, of the environment and
/// of items of a list that no node makes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Wording {
    /// By field: `with.image`; of a list `for_each` and `key`. Only fields in which outputs are taken, or an item that
    /// is made of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, String>,
    /// Its conditions, where they ask for outputs or an item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
}

impl Checked {
    /// Of a node, or of an item of it.
    pub(crate) fn wording(&self, node: &Node, each: Option<Each<'_>>) -> Wording {
        let for_each = node.for_each.as_ref();
        let writer = Writer {
            checked: self,
            each: each.filter(|_| for_each.is_some_and(|for_each| !for_each.is_made_by_nodes())),
        };
        let mut wording = Wording::default();
        writer.fields(&node.with, &mut vec!["with".to_owned()], &mut wording.fields);
        let asked = node.conditions().filter(|when| for_each.is_none() || when.looks_at_each());
        wording.when = writer.asked(asked);
        wording
    }

    /// Of the list of a node with `for_each`, before there are any items.
    pub(crate) fn list_wording(&self, node: &Node) -> Wording {
        let writer = Writer { checked: self, each: None };
        let mut wording = Wording::default();
        let Some(for_each) = &node.for_each else { return wording };
        if for_each.is_made_by_nodes() {
            let text = |template: &Template| text_of(&writer.shown(template));
            wording.fields.insert("for_each".to_owned(), text(&for_each.list));
            wording.fields.extend(for_each.key.as_ref().map(|key| ("key".to_owned(), text(key))));
        }
        wording.when = writer.asked(node.conditions().filter(|when| !when.looks_at_each()));
        wording
    }
}

/// Writes down what is known before anything has run.
struct Writer<'a> {
    checked: &'a Checked,
    /// The item, if it is known so early.
    each: Option<Each<'a>>,
}

impl Writer<'_> {
    fn fields(&self, template: &Template, path: &mut Vec<String>, found: &mut BTreeMap<String, String>) {
        let mut inside = |segment: String, inner: &Template| {
            path.push(segment);
            self.fields(inner, path, found);
            path.pop();
        };
        match &template.kind {
            TemplateKind::Literal(_) | TemplateKind::Broken => {}
            TemplateKind::List(items) => {
                items.iter().enumerate().for_each(|(at, item)| inside(at.to_string(), item));
            }
            TemplateKind::Map(entries) => {
                entries.iter().for_each(|(key, _, value)| inside(key.clone(), value));
            }
            TemplateKind::Reference(_) | TemplateKind::Text(_) => {
                if template.references().into_iter().any(|taken| self.is_open(taken)) {
                    found.insert(dotted(path), text_of(&self.shown(template)));
                }
            }
        }
    }

    /// The conditions that are not decided before anything has run.
    fn asked<'a>(&self, conditions: impl Iterator<Item = &'a Condition>) -> Option<String> {
        let open = conditions
            .filter(|when| when.looks_at_each() || when.references.iter().any(|asked| self.is_open(asked)));
        let texts: Vec<String> = open.map(|when| self.condition_text(when)).collect();
        (!texts.is_empty()).then(|| texts.join(" && "))
    }

    /// As it is written, and what its names stand for.
    fn condition_text(&self, when: &Condition) -> String {
        let mut names = BTreeMap::new();
        for binding in when.bound.iter().flatten() {
            let root = if binding.root == Root::Nodes { "nodes" } else { "params" };
            names.insert(format!("{root}.{}", binding.name), self.shown(&binding.value));
        }
        let is_bound = when.bound.is_some();
        let own = when.references.iter().filter(|reference| match reference.root {
            Root::Env | Root::Each => true,
            Root::Params => !is_bound,
            Root::Nodes => false,
        });
        names.extend(own.filter_map(|reference| Some((reference.text(), self.known(reference)?))));
        let names: Vec<String> = names.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        if names.is_empty() { when.text.clone() } else { format!("{} ({})", when.text, names.join(", ")) }
    }

    /// The value, with what is only known later as it is written.
    fn shown(&self, template: &Template) -> Value {
        let shown =
            |reference: &Reference| self.known(reference).unwrap_or_else(|| as_written(reference).into());
        match &template.kind {
            TemplateKind::Literal(value) => value.clone(),
            TemplateKind::Broken => Value::Null,
            TemplateKind::Reference(reference) => shown(reference),
            TemplateKind::Text(parts) => parts
                .iter()
                .map(|part| match part {
                    Part::Text(text) => text.clone(),
                    Part::Reference(reference) => text_of(&shown(reference)),
                })
                .collect::<String>()
                .into(),
            TemplateKind::List(items) => items.iter().map(|item| self.shown(item)).collect(),
            TemplateKind::Map(entries) => {
                let shown = entries.iter().map(|(key, _, value)| (key.clone(), self.shown(value)));
                Value::Object(shown.collect::<Map<_, _>>())
            }
        }
    }

    fn known(&self, reference: &Reference) -> Option<Value> {
        match self.checked.lookup(reference, &NothingYet, self.each) {
            Lookup::Known(value) => Some(value.into_owned()),
            Lookup::Unknown | Lookup::Missing => None,
        }
    }

    fn is_open(&self, reference: &Reference) -> bool {
        match reference.root {
            Root::Nodes => true,
            Root::Each => self.each.is_none(),
            Root::Params | Root::Env => false,
        }
    }
}

fn as_written(reference: &Reference) -> String {
    format!("${{{}}}", reference.text())
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
