//! Files to objects, in the order in which a cluster takes them. Pure.

use serde::Deserialize;
use serde_json::Value;

use super::dialect::{DialectError, as_kubectl_reads};
use crate::workload::text;

/// What must be there before what comes after: Helm's install order, definitions first. Kinds that
/// are not named come before the last three, which can refuse everything after them.
const ORDER: [&str; 28] = [
    "CustomResourceDefinition",
    "Namespace",
    "PriorityClass",
    "NetworkPolicy",
    "ResourceQuota",
    "LimitRange",
    "PodDisruptionBudget",
    "ServiceAccount",
    "Secret",
    "ConfigMap",
    "StorageClass",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "Service",
    "DaemonSet",
    "Pod",
    "ReplicationController",
    "ReplicaSet",
    "Deployment",
    "HorizontalPodAutoscaler",
    "StatefulSet",
    "Job",
    "CronJob",
    "Ingress",
];

/// After everything else.
const LAST: [&str; 3] = ["APIService", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"];

/// Lists in lists.
const LIST_DEPTH: usize = 4;

/// One object to apply.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Manifest {
    /// The file it is in, relative to the folder.
    pub file: String,
    /// `apps/v1`.
    pub api_version: String,
    /// `Deployment`.
    pub kind: String,
    /// Empty where it names none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The whole object.
    pub object: Value,
}

impl Manifest {
    /// When Helm creates it, where it is not simply part of a release: `pre-install,pre-upgrade`.
    /// <https://helm.sh/docs/topics/charts_hooks/>
    pub(crate) fn hook(&self) -> Option<&str> {
        text(&self.object, &["metadata", "annotations", "helm.sh/hook"])
    }

    /// Not where Helm makes it for a deletion, a rollback or a test only: it would do its work now.
    pub(crate) fn is_installed(&self) -> bool {
        let is_ours = |one: &str| {
            let one = one.trim().to_lowercase();
            one.ends_with("-install") || one.ends_with("-upgrade")
        };
        self.hook().is_none_or(|hook| hook.split(',').any(is_ours))
    }
}

impl std::fmt::Display for Manifest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write_place(f, &self.kind, &self.namespace, &self.name)
    }
}

/// `Kind namespace/name`, or `Kind name` of what is in no namespace.
pub(super) fn write_place(
    f: &mut std::fmt::Formatter<'_>,
    kind: &str,
    namespace: &str,
    name: &str,
) -> std::fmt::Result {
    match namespace {
        "" => write!(f, "{kind} {name}"),
        namespace => write!(f, "{kind} {namespace}/{name}"),
    }
}

/// Where objects of a kind come in the order.
pub(crate) fn rank(kind: &str) -> usize {
    let at = ORDER.iter().position(|known| *known == kind);
    let last = || LAST.iter().position(|known| *known == kind).map(|at| ORDER.len() + 1 + at);
    at.or_else(last).unwrap_or(ORDER.len())
}

/// A file that is no manifest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    /// It is no YAML, or expands beyond all measure.
    #[error("{file} is not valid YAML")]
    Yaml {
        /// The file.
        file: String,
        /// The parser's words.
        #[source]
        source: serde_yaml_ng::Error,
    },
    /// `kubectl` reads it otherwise, and it can't be read so.
    #[error("{file} can't be read as `kubectl` reads it")]
    Dialect {
        /// The file.
        file: String,
        /// Where, and why.
        #[source]
        source: DialectError,
    },
    /// Not representable as JSON: keys that are lists or maps.
    #[error("document {document} of {file} is not representable as JSON")]
    Json {
        /// The file.
        file: String,
        /// From 1.
        document: usize,
    },
    /// A field that every object has is absent.
    #[error("document {document} of {file} has no `{field}`")]
    Field {
        /// The file.
        file: String,
        /// From 1.
        document: usize,
        /// The field.
        field: &'static str,
    },
    /// A field that must be a text is something else, which `kubectl` refuses: `namespace: no`.
    #[error(
        "`{field}` in document {document} of {file} is {value} to `kubectl`, and no text: put it in quotes"
    )]
    NoText {
        /// The file.
        file: String,
        /// From 1.
        document: usize,
        /// The field.
        field: &'static str,
        /// What it is instead.
        value: String,
    },
}

/// The objects of one file, read as `kubectl` reads it; lists are taken apart, empty documents left out.
///
/// # Errors
/// See [`ManifestError`]. Aliases that expand beyond all measure are refused by the parser.
pub(crate) fn parse(file: &str, text: &str) -> Result<Vec<Manifest>, ManifestError> {
    let mut manifests = Vec::new();
    let text =
        as_kubectl_reads(text).map_err(|source| ManifestError::Dialect { file: file.to_owned(), source })?;
    for (at, document) in serde_yaml_ng::Deserializer::from_str(&text).enumerate() {
        let yaml = serde_yaml_ng::Value::deserialize(document)
            .map_err(|source| ManifestError::Yaml { file: file.to_owned(), source })?;
        if yaml.is_null() {
            continue;
        }
        let document = at + 1;
        let value = serde_json::to_value(yaml)
            .map_err(|_| ManifestError::Json { file: file.to_owned(), document })?;
        take(file, document, value, 0, &mut manifests)?;
    }
    Ok(manifests)
}

fn take(
    file: &str,
    document: usize,
    mut object: Value,
    depth: usize,
    manifests: &mut Vec<Manifest>,
) -> Result<(), ManifestError> {
    let is_list = text(&object, &["kind"]).is_some_and(|kind| kind.ends_with("List"));
    if is_list
        && depth < LIST_DEPTH
        && let Some(Value::Array(items)) = object.get_mut("items").map(Value::take)
    {
        return items.into_iter().try_for_each(|item| take(file, document, item, depth + 1, manifests));
    }
    let given = |field: &'static str| {
        let value = field.split('.').try_fold(&object, |value, key| value.get(key));
        let value = match value {
            None | Some(Value::Null) => return Ok(String::new()),
            Some(Value::String(text)) => return Ok(text.clone()),
            Some(Value::Array(_)) => "a list".to_owned(),
            Some(Value::Object(_)) => "a map".to_owned(),
            Some(value) => format!("`{value}`"),
        };
        Err(ManifestError::NoText { file: file.to_owned(), document, field, value })
    };
    let required = |field: &'static str| match given(field)? {
        value if value.is_empty() => Err(ManifestError::Field { file: file.to_owned(), document, field }),
        value => Ok(value),
    };
    manifests.push(Manifest {
        file: file.to_owned(),
        api_version: required("apiVersion")?,
        kind: required("kind")?,
        name: required("metadata.name")?,
        namespace: given("metadata.namespace")?,
        object,
    });
    Ok(())
}

/// Sorts by rank, then by file; the order inside a file is kept.
pub(crate) fn sort(manifests: &mut [Manifest]) {
    manifests.sort_by(|a, b| (rank(&a.kind), &a.file).cmp(&(rank(&b.kind), &b.file)));
}

/// Two files that describe the same object: which one wins would be chance.
pub(crate) fn duplicate(manifests: &[Manifest]) -> Option<(&Manifest, &Manifest)> {
    let mut seen = std::collections::HashMap::new();
    manifests.iter().find_map(|m| {
        let group = m.api_version.split_once('/').map_or("", |(group, _)| group);
        seen.insert((group, &m.kind, &m.namespace, &m.name), m).map(|other| (other, m))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_come_first_and_webhooks_last() {
        let object = |kind: &str| format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: a}}\n");
        let kinds = [
            "ValidatingWebhookConfiguration",
            "Widget",
            "Deployment",
            "Namespace",
            "Secret",
            "CustomResourceDefinition",
        ];
        let text = kinds.map(object).join("---\n");
        let mut manifests = parse("a.yaml", &text).unwrap();
        sort(&mut manifests);
        let sorted: Vec<_> = manifests.iter().map(|m| m.kind.as_str()).collect();
        assert_eq!(
            sorted,
            [
                "CustomResourceDefinition",
                "Namespace",
                "Secret",
                "Deployment",
                "Widget",
                "ValidatingWebhookConfiguration"
            ]
        );
    }

    #[test]
    fn lists_are_taken_apart_and_empty_documents_left_out() {
        let text = "---\n# nothing\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a, namespace: shop}}\n";
        let manifests = parse("a.yaml", text).unwrap();
        assert_eq!(manifests.iter().map(ToString::to_string).collect::<Vec<_>>(), ["Pod shop/a"]);
    }

    #[test]
    fn what_kubectl_reads_otherwise_is_read_so() {
        let text = "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {name: web}\n\
                    spec: {values: {enabled: no, mode: 0755, size: 1_000, on: x, text: 'no'}}\n";
        let values = &parse("a.yaml", text).unwrap()[0].object["spec"]["values"];
        let expected =
            serde_json::json!({ "enabled": false, "mode": 493, "size": 1000, "true": "x", "text": "no" });
        assert_eq!(values, &expected);
        let error = parse("a.yaml", "base: &base {}\nspec:\n  <<: *base\n").unwrap_err();
        assert_eq!(error.to_string(), "a.yaml can't be read as `kubectl` reads it");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.starts_with("line 3: `<<` merges a map into another"), "{cause}");
    }

    #[test]
    fn what_is_no_manifest_is_named() {
        let message = |text: &str| parse("a.yaml", text).unwrap_err().to_string();
        assert_eq!(message("kind: Pod"), "document 1 of a.yaml has no `apiVersion`");
        assert_eq!(
            message("apiVersion: v1\nkind: Pod\nmetadata: {}"),
            "document 1 of a.yaml has no `metadata.name`"
        );
        for (namespace, is) in [("no", "`false`"), ("0123", "`83`"), ("on", "`true`"), ("[a]", "a list")] {
            assert_eq!(
                message(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a, namespace: {namespace}}}")),
                format!(
                    "`metadata.namespace` in document 1 of a.yaml is {is} to `kubectl`, and no text: put it in quotes"
                )
            );
        }
        assert!(
            message("apiVersion: v1\nkind: Pod\nmetadata: {name: 1_0}").starts_with("`metadata.name` in ")
        );
        for namespace in ["null", "", "''"] {
            let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a, namespace: {namespace}}}");
            assert_eq!(parse("a.yaml", &text).unwrap()[0].namespace, "", "{namespace}");
        }
        assert_eq!(message("a: [1"), "a.yaml is not valid YAML");
        assert_eq!(message("a: 1\na: 2"), "a.yaml is not valid YAML");
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            bomb.push_str(&format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(", ")));
        }
        assert_eq!(parse("a.yaml", &bomb).unwrap_err().to_string(), "a.yaml is not valid YAML");
    }

    #[test]
    fn the_same_object_twice_is_found() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n";
        let mut manifests = parse("a.yaml", text).unwrap();
        assert!(duplicate(&manifests).is_none());
        manifests.extend(parse("b.yaml", text).unwrap());
        let (first, second) = duplicate(&manifests).unwrap();
        assert_eq!((first.file.as_str(), second.file.as_str()), ("a.yaml", "b.yaml"));
    }
}
