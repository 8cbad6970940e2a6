//! `for_each`: the items of a list or map, each with a key of its own.
//!
//! The key names the item for good: it is the item itself where that is a short text, the key of a
//! map, what `key` says, or else a checksum of the item. So it does not depend on the order of the
//! list, and two items never share one.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use migrate_plugin_api::NodeId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::resolve::Digest;
use super::template::{Lookup, Reference, Root, Template, json_type};

/// Most items of one node: twice the widest fan-out that is known to work.
pub(crate) const MAX_ITEMS: usize = 20_000;

/// Hexadecimal digits of the key of an item without a name: enough for a million items.
const KEY_HEX: usize = 16;

/// `for_each`, with `key` and `max_parallel`.
#[derive(Debug, Clone)]
pub(crate) struct ForEach {
    pub list: Template,
    pub key: Option<Template>,
    /// Most items at work at once; the engine's limit where it says nothing.
    pub max_parallel: Option<usize>,
}

impl ForEach {
    /// Whether the list is only known during the run.
    pub(crate) fn is_made_by_nodes(&self) -> bool {
        self.list.references().iter().any(|reference| reference.root == Root::Nodes)
    }
}

/// One item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Item {
    pub key: String,
    pub value: Value,
}

/// What `each` stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Each<'a> {
    pub key: &'a str,
    pub value: &'a Value,
    pub index: usize,
}

impl<'a> Each<'a> {
    /// The item at `index`.
    pub(crate) fn new(items: &'a [Item], index: usize) -> Option<Self> {
        items.get(index).map(|item| Self { key: &item.key, value: &item.value, index })
    }

    /// What `each.…` stands for.
    pub(crate) fn lookup(&self, reference: &Reference) -> Lookup<'a> {
        let path = &reference.path[1..];
        match reference.path[0].as_str() {
            "value" => Lookup::at(self.value, path),
            "key" if path.is_empty() => Lookup::Known(Cow::Owned(Value::from(self.key))),
            "index" if path.is_empty() => Lookup::Known(Cow::Owned(Value::from(self.index))),
            _ => Lookup::Missing,
        }
    }
}

/// Why a value can't be gone through item by item.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ItemsError {
    #[error("`for_each` is {0}, but must be a list or a table")]
    NotAList(&'static str),
    #[error("`for_each` has {0} items, more than the {MAX_ITEMS} that are allowed")]
    TooMany(usize),
    #[error("items {1} and {2} of `for_each` have the same key `{0}`")]
    Duplicate(String, usize, usize),
    #[error("the key of item {0} of `for_each` {1}")]
    NoKey(usize, String),
}

/// The items of `list`, in its order.
pub(crate) fn items(list: &Value, key: Option<&Template>) -> Result<Vec<Item>, ItemsError> {
    let pairs: Vec<(Option<&String>, &Value)> = match list {
        Value::Array(values) => values.iter().map(|value| (None, value)).collect(),
        Value::Object(map) => map.iter().map(|(key, value)| (Some(key), value)).collect(),
        other => return Err(ItemsError::NotAList(json_type(other))),
    };
    if pairs.len() > MAX_ITEMS {
        return Err(ItemsError::TooMany(pairs.len()));
    }
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut items = Vec::with_capacity(pairs.len());
    for (index, (name, value)) in pairs.into_iter().enumerate() {
        let own = key_of(name, value);
        let key = match key {
            None => own,
            Some(template) => written_key(template, &Each { key: &own, value, index })
                .map_err(|why| ItemsError::NoKey(index + 1, why))?,
        };
        if let Some(first) = seen.insert(key.clone(), index) {
            return Err(ItemsError::Duplicate(key, first + 1, index + 1));
        }
        items.push(Item { key, value: value.clone() });
    }
    Ok(items)
}

fn key_of(name: Option<&String>, value: &Value) -> String {
    let text = match (name, value) {
        (Some(name), _) => name.clone(),
        (None, Value::String(text)) => text.clone(),
        (None, Value::Bool(_) | Value::Number(_)) => value.to_string(),
        (None, _) => String::new(),
    };
    if NodeId::is_key(&text) { text } else { Digest::of(value).0[..KEY_HEX].to_owned() }
}

fn written_key(template: &Template, each: &Each<'_>) -> Result<String, String> {
    let value = template
        .resolve(&|reference| each.lookup(reference))
        .map_err(|error| format!("is not there: {error}"))?;
    let text = match value {
        Value::String(text) => text,
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        other => return Err(format!("is {}, but must be a text", json_type(&other))),
    };
    if NodeId::is_key(&text) {
        Ok(text)
    } else {
        Err("must have from 1 to 160 characters, without brackets and line ends".to_owned())
    }
}

/// What differs between two lists, key by key: (gone, new).
pub(crate) fn difference(was: &[Item], now: &[Item]) -> (Vec<String>, Vec<String>) {
    let keys = |items: &[Item]| -> BTreeSet<String> { items.iter().map(|item| item.key.clone()).collect() };
    let (before, after) = (keys(was), keys(now));
    let missing = |items: &[Item], there: &BTreeSet<String>| {
        items.iter().filter(|item| !there.contains(&item.key)).map(|item| item.key.clone()).collect()
    };
    (missing(was, &after), missing(now, &before))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn keys(list: Value) -> Vec<String> {
        items(&list, None).unwrap().into_iter().map(|item| item.key).collect()
    }

    #[test]
    fn keys_do_not_depend_on_the_order() {
        assert_eq!(keys(json!(["shop", "files", 3, true])), ["shop", "files", "3", "true"]);
        assert_eq!(keys(json!({ "b": 1, "a": 2 })), ["b", "a"]);
        let one = keys(json!([{ "a": 1, "b": 2 }, { "a": 2 }]));
        let two = keys(json!([{ "a": 2 }, { "b": 2, "a": 1 }]));
        assert_eq!((&one[0], &one[1]), (&two[1], &two[0]));
        let long = "x".repeat(200);
        assert_eq!(keys(json!([long]))[0].len(), KEY_HEX);
    }

    #[test]
    fn two_items_never_share_a_key() {
        let error = items(&json!(["shop", "files", "shop"]), None).unwrap_err();
        assert_eq!(error, ItemsError::Duplicate("shop".to_owned(), 1, 3));
        assert!(matches!(items(&json!([3, "3"]), None), Err(ItemsError::Duplicate(..))));
        assert_eq!(items(&json!("shop"), None).unwrap_err(), ItemsError::NotAList("a string"));
        let many: Value = (0..=MAX_ITEMS).map(Value::from).collect();
        assert_eq!(items(&many, None).unwrap_err(), ItemsError::TooMany(MAX_ITEMS + 1));
    }

    #[test]
    fn what_is_gone_and_what_is_new_is_told_exactly() {
        let list = |value: Value| items(&value, None).unwrap();
        let (was, now) = (list(json!(["a", "b", "c"])), list(json!(["d", "c", "a"])));
        assert_eq!(difference(&was, &now), (vec!["b".to_owned()], vec!["d".to_owned()]));
    }
}
