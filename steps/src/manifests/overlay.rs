//! What the rules change of a Kustomize overlay, as an overlay on top of it: patches, objects that go, objects that
//! are new. The overlay underneath stays as it is.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use migrate_plugin_api::StepError;
use serde_json::{Value, json};

use super::difference::operations;
use super::render;
use super::yaml::to_yaml;
use crate::rules::document::{Document, Node, read};
use crate::rules::facts::Facts;
use crate::rules::object::{Object, objects};
use crate::rules::{Change, Inputs, RuleSet};

/// The overlay in the making.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    /// Its files by name; the first is `kustomization.yaml`. None where nothing changes.
    pub files: Vec<(String, String)>,
    /// What was done.
    pub changes: Vec<Change>,
    /// What it must make, for [`check`](Self::check).
    expected: Vec<Value>,
}

/// Of what the overlay underneath makes (`text`, and its documents), which is at `base` as seen from the new one.
///
/// # Errors
/// `Permanent` where something can't be rewritten.
pub(crate) fn overlay(
    (text, documents): (&str, &[Document]),
    base: &str,
    rules: &RuleSet,
    facts: &Facts,
    inputs: &Inputs,
) -> Result<Overlay, StepError> {
    let failed =
        |e: &dyn std::fmt::Display| StepError::permanent(format!("failed to rewrite the overlay: {e}"));
    let mut made = Overlay::default();
    let (mut resources, mut patches, mut files) = (vec![Value::from(base)], Vec::new(), Vec::new());
    let mut taken = BTreeSet::new();
    for document in documents {
        let before = &document.root;
        let Some(object) = objects(before).into_iter().next() else { continue };
        let alone = std::slice::from_ref(document);
        let done = rules.rewrite(text, alone, facts, inputs).map_err(|e| failed(&e))?;
        if done.changes.is_empty() {
            made.expected.push(before.to_value());
            continue;
        }
        made.changes.extend(done.changes);
        let mut after: Vec<Node> = read(&done.text)
            .map_err(|e| failed(&e))?
            .into_iter()
            .map(|d| d.root)
            .filter(|n| !n.is_null())
            .collect();
        let stays = after.first().is_some_and(|first| identity(first) == identity(before));
        let target = target(&object);
        let name = file_name(&object, &mut taken);
        if stays {
            let first = after.remove(0);
            let operations = operations(&before.to_value(), &first.to_value());
            let path = format!("patches/{name}.yaml");
            patches.push(json!({ "path": path, "target": target }));
            files.push((path, to_yaml(&Value::Array(operations))));
            made.expected.push(first.to_value());
        } else {
            let gone = json!({ "$patch": "delete", "apiVersion": object.api_version, "kind": object.kind,
                "metadata": { "name": object.name } });
            patches.push(json!({ "patch": to_yaml(&gone), "target": target }));
        }
        for (at, node) in after.iter().enumerate() {
            let path = format!("resources/{name}-{at}.yaml");
            resources.push(path.clone().into());
            files.push((path, to_yaml(&node.to_value())));
            made.expected.push(node.to_value());
        }
    }
    if made.changes.is_empty() {
        return Ok(made);
    }
    let mut kustomization = json!({ "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": resources });
    if !patches.is_empty() {
        kustomization["patches"] = Value::Array(patches);
    }
    let head = "# What is another on AKS, on top of what is there. Written by migrate.\n";
    made.files = vec![("kustomization.yaml".to_owned(), format!("{head}{}", to_yaml(&kustomization)))];
    made.files.extend(files);
    Ok(made)
}

impl Overlay {
    /// Whether the overlay, which was written to `folder`, makes what it must.
    ///
    /// # Errors
    /// `Permanent`, naming an object that comes out otherwise.
    pub(crate) fn check(&self, folder: &Path) -> Result<(), StepError> {
        let text = render::overlay(folder)?;
        let failed = |e| StepError::permanent("the new overlay makes no YAML").with_source(e);
        let mut made: Vec<Value> =
            read(&text).map_err(failed)?.iter().map(|d| d.root.to_value()).filter(|v| !v.is_null()).collect();
        for expected in &self.expected {
            match made.iter().position(|value| value == expected) {
                Some(at) => _ = made.swap_remove(at),
                None => return Err(otherwise(expected)),
            }
        }
        made.first().map_or(Ok(()), |more| Err(otherwise(more)))
    }
}

fn otherwise(object: &Value) -> StepError {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let message =
        format!("{} {} comes out of the new overlay otherwise", text("/kind"), text("/metadata/name"));
    StepError::permanent(message)
        .with_hint("build the overlay (`kubectl kustomize`), and rewrite what was built")
}

fn identity(node: &Node) -> [&str; 3] {
    [&["kind"][..], &["metadata", "name"], &["metadata", "namespace"]]
        .map(|path| node.text_at(path).unwrap_or_default())
}

/// Which object a patch is for. Names are regular expressions there.
fn target(object: &Object<'_>) -> Value {
    let version = object.api_version.rsplit('/').next().unwrap_or_default();
    let exact = |name: &str| name.replace('.', "\\.");
    let mut target = json!({ "version": version, "kind": object.kind, "name": exact(&object.name) });
    if !object.group.is_empty() {
        target["group"] = object.group.as_str().into();
    }
    if !object.namespace.is_empty() {
        target["namespace"] = exact(&object.namespace).into();
    }
    target
}

fn file_name(object: &Object<'_>, taken: &mut BTreeSet<String>) -> String {
    let parts = [object.kind.to_lowercase(), object.namespace.clone(), object.name.clone()];
    let name = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-");
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(200).collect();
    let mut candidates = std::iter::once(name.clone()).chain((2..).map(|at| format!("{name}-{at}")));
    candidates.find(|name| taken.insert(name.clone())).unwrap_or(name)
}

/// `to` as seen from `from`; both absolute.
pub(crate) fn relative(from: &Path, to: &Path) -> PathBuf {
    let (from, to): (Vec<Component<'_>>, Vec<Component<'_>>) =
        (from.components().collect(), to.components().collect());
    let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = std::iter::repeat_n(Component::ParentDir, from.len() - shared);
    up.chain(to[shared..].iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_become_patches_deletions_and_new_objects() {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: agent, namespace: amazon-cloudwatch}\n---\n\
            apiVersion: v1\nkind: Service\nmetadata: {name: plain}\n---\n\
            apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web.a, namespace: shop}\nspec:\n  template:\n    spec:\n      \
            nodeSelector: {topology.kubernetes.io/zone: us-east-1a}\n      containers: [{name: web, image: nginx}]\n";
        let mut facts = Facts::default();
        let documents = read(text).unwrap();
        for document in &documents {
            objects(&document.root).iter().for_each(|object| facts.take(object));
        }
        let inputs =
            Inputs { zones: [("us-east-1a".to_owned(), "eastus-1".to_owned())].into(), ..Inputs::default() };
        let made = overlay((text, &documents), "../shop", &RuleSet::shipped(), &facts, &inputs).unwrap();
        let names: Vec<&str> = made.files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["kustomization.yaml", "patches/deployment-shop-web-a.yaml"]);
        insta::assert_snapshot!(made.files.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("---\n"), @r#"
        # What is another on AKS, on top of what is there. Written by migrate.
        apiVersion: kustomize.config.k8s.io/v1beta1
        kind: Kustomization
        resources:
        - "../shop"
        patches:
        - patch: |
            "$patch": delete
            apiVersion: v1
            kind: ConfigMap
            metadata:
              name: agent
          target:
            version: v1
            kind: ConfigMap
            name: agent
            namespace: amazon-cloudwatch
        - path: patches/deployment-shop-web-a.yaml
          target:
            version: v1
            kind: Deployment
            name: "web\\.a"
            group: apps
            namespace: shop
        ---
        - op: replace
          path: "/spec/template/spec/nodeSelector/topology.kubernetes.io~1zone"
          value: eastus-1
        "#);
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n";
        let none = overlay((text, &read(text).unwrap()), "../a", &RuleSet::shipped(), &facts, &inputs);
        assert!(none.unwrap().files.is_empty());
    }

    #[test]
    fn a_folder_is_found_from_another() {
        for (from, to, expected) in
            [("/a/b-aks", "/a/b", "../b"), ("/a/x/y", "/a/b/c", "../../b/c"), ("/out", "/a/b", "../a/b")]
        {
            assert_eq!(relative(Path::new(from), Path::new(to)), Path::new(expected));
        }
    }
}
