//! What applying objects would change of those that are there: by their fields, never by their values. Pure.

use std::collections::BTreeSet;

use kube::ResourceExt;
use kube::api::DynamicObject;
use migrate_plugin_api::Problem;
use serde_json::{Value, json};

use super::difference::texts;
use super::order::Manifest;
use super::tree;

/// What applying a folder would do.
#[derive(Default)]
pub(super) struct Outlook {
    /// What the target can't take.
    pub problems: Vec<Problem>,
    /// Objects that are not there yet.
    pub new: usize,
    /// Objects that are there as the folder has them.
    pub same: usize,
    /// Objects that would be changed, with their fields.
    pub changed: Vec<String>,
    /// UIDs of those that are there.
    pub uids: BTreeSet<String>,
}

impl Outlook {
    /// Takes in one object as it is and as it would be.
    pub(super) fn take(&mut self, manifest: &Manifest, live: Option<DynamicObject>, would_be: DynamicObject) {
        self.uids.extend(live.as_ref().and_then(ResourceExt::uid));
        match live.map(|live| differing(live, would_be)) {
            None => self.new += 1,
            Some(fields) if fields.is_empty() => self.same += 1,
            Some(fields) => self.changed.push(format!("{manifest}: {}", tree::listed(&fields))),
        }
    }
}

/// Fields in which they differ, by their paths: a value may be a secret.
pub(super) fn differing(live: DynamicObject, would_be: DynamicObject) -> Vec<String> {
    texts(&comparable(live), &comparable(would_be)).into_iter().map(|(path, ..)| path).collect()
}

/// Without what changes by itself.
fn comparable(object: DynamicObject) -> Value {
    let metadata = json!({ "labels": object.labels(), "annotations": object.annotations() });
    let mut all = object.data;
    if let Some(fields) = all.as_object_mut() {
        fields.remove("status");
        fields.insert("metadata".to_owned(), metadata);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::order;

    fn object(spec: &str, labels: &str) -> DynamicObject {
        let text = format!(
            r#"{{ "apiVersion": "v1", "kind": "Secret", "metadata": {{ "name": "a", "resourceVersion": "7", "generation": 2,
                 "labels": {labels} }}, "data": {spec}, "status": {{ "seen": {spec} }} }}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn what_would_be_changed_is_told_by_its_fields_and_not_by_their_values() {
        let manifest =
            order::parse("a.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n").unwrap().remove(0);
        let mut outlook = Outlook::default();
        let would_be = object(r#"{ "password": "aHVudGVyMg==" }"#, r#"{ "app": "web" }"#);
        outlook.take(&manifest, None, would_be.clone());
        let mut later = would_be.clone();
        later.metadata.resource_version = Some("9".to_owned());
        later.data["status"] = json!("another");
        outlook.take(&manifest, Some(later), would_be.clone());
        outlook.take(&manifest, Some(object(r#"{ "password": "b2xk" }"#, "{}")), would_be);
        assert_eq!((outlook.new, outlook.same), (1, 1));
        assert_eq!(outlook.changed, ["Secret a: /data/password, /metadata/labels/app"]);
    }
}
