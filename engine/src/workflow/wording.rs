//! What is written where outputs of other nodes are taken: pure. It tells what somebody has
//! changed in the files from what only comes out differently.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::condition::Condition;
use super::model::Node;
use super::resolve::{Digest, NothingYet};
use super::template::{Lookup, Part, Reference, Root, Template, TemplateKind};
use super::{Checked, Each};

/// Longest value that a condition's text repeats, in bytes.
const BRIEF: usize = 200;

/// Hexadecimal digits that stand for a longer one.
const CHECKSUM_HEX: usize = 16;

/// Texts as they stand in the files, with everything else in its place: values of parameters, of the environment and
/// of items of a list that no node makes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Wording {
    /// By [`place`]; of a list `for_each` and `key`. Only fields in which outputs are taken, or an item that is made of
    /// them.
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
                    found.insert(place(path), text_of(&self.shown(template)));
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
        let asked = when.asked.iter().filter(|(name, value)| !stands_for_itself(name, value));
        names.extend(asked.map(|(name, value)| (name.clone(), self.shown(value))));
        let own = when.references.iter().filter(|reference| match reference.root {
            Root::Env | Root::Each => true,
            Root::Params => when.bound.is_none(),
            Root::Nodes => false,
        });
        names.extend(own.filter_map(|reference| Some((reference.text(), self.known(reference)?))));
        if when.looks_at_whole(Root::Env) {
            names.insert("env".to_owned(), self.checked.environment.value.clone());
        }
        if when.looks_at_whole(Root::Params) && when.at.is_none() {
            let params = self.checked.params.iter();
            let params = params.filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
            names.insert("params".to_owned(), Value::Object(params.collect()));
        }
        let names: Vec<String> =
            names.iter().map(|(name, value)| format!("{name} = {}", brief(value))).collect();
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
                    Part::Text(text) => text.replace("${", "$${"),
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

/// Where a field is: `with/image`, as a JSON pointer says it.
pub(crate) fn place(path: &[String]) -> String {
    let escaped = path.iter().map(|segment| segment.replace('~', "~0").replace('/', "~1"));
    escaped.collect::<Vec<_>>().join("/")
}

/// Whether outputs are asked of the node that is named.
fn stands_for_itself(name: &str, value: &Template) -> bool {
    matches!(&value.kind, TemplateKind::Reference(to) if to.root == Root::Nodes && to.text() == name)
}

/// The order of keys doesn't count.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(sorted).collect(),
        Value::Object(map) => {
            let map: BTreeMap<&String, Value> = map.iter().map(|(key, value)| (key, sorted(value))).collect();
            map.into_iter().map(|(key, value)| (key.clone(), value)).collect()
        }
        scalar => scalar.clone(),
    }
}

/// As JSON, or a checksum of what is long: each item keeps it.
fn brief(value: &Value) -> String {
    let text = sorted(value).to_string();
    if text.len() > BRIEF { format!("#{}", &Digest::of(value).0[..CHECKSUM_HEX]) } else { text }
}

fn as_written(reference: &Reference) -> String {
    format!("${{{}}}", reference.text())
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| sorted(value).to_string(), str::to_owned)
}
