//! Storage as the workloads see it: claims, claim templates and the classes they use. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::workload::text;

/// Marks the class of claims that name none.
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// How claims named their class before `storageClassName`; the API server still honours it.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// A PersistentVolumeClaim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Claim {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its class, or the cluster's default where it names none; absent for statically bound claims.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// What it asks for: `20Gi`.
    pub size: String,
    /// `ReadWriteOnce` and the like.
    pub access_modes: Vec<String>,
    /// Whether a running pod mounts it. Only then does a file-system backup take its data.
    pub mounted: bool,
}

/// Gathers storage facts object by object.
#[derive(Debug, Default)]
pub(crate) struct Storage {
    default_class: Option<String>,
    provisioners: BTreeMap<String, String>,
    claims: Vec<Claim>,
    used: BTreeSet<String>,
    mounted: HashSet<(String, String)>,
}

impl Storage {
    /// Takes a StorageClass. All classes must be taken before the first claim.
    pub(crate) fn class(&mut self, class: &Value) {
        let Some(name) = text(class, &["metadata", "name"]) else { return };
        if text(class, &["metadata", "annotations", DEFAULT_CLASS]) == Some("true") {
            self.default_class = Some(name.to_owned());
        }
        let provisioner = text(class, &["provisioner"]).unwrap_or_default();
        self.provisioners.insert(name.to_owned(), provisioner.to_owned());
    }

    /// Takes any object of a namespace.
    pub(crate) fn object(&mut self, namespace: &str, object: &Value) {
        match text(object, &["kind"]) {
            Some("PersistentVolumeClaim") => self.claim(namespace, object),
            Some("StatefulSet") => {
                let templates = object.pointer("/spec/volumeClaimTemplates").and_then(Value::as_array);
                for template in templates.into_iter().flatten() {
                    let class = self.class_of(template);
                    self.used.extend(class);
                }
            }
            Some("Pod") if text(object, &["status", "phase"]) == Some("Running") => {
                let volumes = object.pointer("/spec/volumes").and_then(Value::as_array);
                for volume in volumes.into_iter().flatten() {
                    if let Some(name) = text(volume, &["persistentVolumeClaim", "claimName"]) {
                        self.mounted.insert((namespace.to_owned(), name.to_owned()));
                    }
                }
            }
            _ => {}
        }
    }

    fn claim(&mut self, namespace: &str, claim: &Value) {
        let storage_class = self.class_of(claim);
        self.used.extend(storage_class.clone());
        let modes = claim.pointer("/spec/accessModes").and_then(Value::as_array);
        self.claims.push(Claim {
            namespace: namespace.to_owned(),
            name: text(claim, &["metadata", "name"]).unwrap_or_default().to_owned(),
            storage_class,
            size: text(claim, &["spec", "resources", "requests", "storage"]).unwrap_or_default().to_owned(),
            access_modes: modes.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
            mounted: false,
        });
    }

    /// `""` means: bound to a volume made by hand, no class at all.
    fn class_of(&self, claim: &Value) -> Option<String> {
        let named = text(claim, &["spec", "storageClassName"])
            .or_else(|| text(claim, &["metadata", "annotations", CLASS_ANNOTATION]));
        match named {
            Some("") => None,
            Some(name) => Some(name.to_owned()),
            None => self.default_class.clone(),
        }
    }

    /// All claims, sorted, and the classes in use with their provisioners.
    pub(crate) fn finish(mut self) -> (Vec<Claim>, Vec<(String, Option<String>)>) {
        for claim in &mut self.claims {
            claim.mounted = self.mounted.contains(&(claim.namespace.clone(), claim.name.clone()));
        }
        self.claims.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        let used = self.used.iter().map(|name| (name.clone(), self.provisioners.get(name).cloned()));
        (self.claims, used.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn claims_templates_and_the_default_class_count() {
        let mut storage = Storage::default();
        storage.class(&json!({ "metadata": { "name": "gp2", "annotations": { DEFAULT_CLASS: "true" } },
            "provisioner": "kubernetes.io/aws-ebs" }));
        storage.class(&json!({ "metadata": { "name": "efs-sc" }, "provisioner": "efs.csi.aws.com" }));
        let claim = |name: &str, class: Option<&str>| {
            json!({ "kind": "PersistentVolumeClaim", "metadata": { "name": name }, "spec": {
                "storageClassName": class, "accessModes": ["ReadWriteOnce"],
                "resources": { "requests": { "storage": "1Gi" } } } })
        };
        storage.object("shop", &claim("b", None));
        storage.object("shop", &claim("a", Some("efs-sc")));
        storage.object("shop", &claim("static", Some("")));
        storage.object(
            "shop",
            &json!({ "kind": "StatefulSet", "spec": { "volumeClaimTemplates": [
            { "spec": { "storageClassName": "io2" } }] } }),
        );
        storage.object(
            "shop",
            &json!({ "kind": "Pod", "status": { "phase": "Running" }, "spec": {
            "volumes": [{ "persistentVolumeClaim": { "claimName": "a" } }] } }),
        );
        storage.object(
            "shop",
            &json!({ "kind": "Pod", "status": { "phase": "Succeeded" }, "spec": {
            "volumes": [{ "persistentVolumeClaim": { "claimName": "b" } }] } }),
        );
        let (claims, used) = storage.finish();
        let seen: Vec<_> =
            claims.iter().map(|c| (c.name.as_str(), c.storage_class.as_deref(), c.mounted)).collect();
        assert_eq!(seen, [("a", Some("efs-sc"), true), ("b", Some("gp2"), false), ("static", None, false)]);
        let used: Vec<_> = used.iter().map(|(name, p)| (name.as_str(), p.as_deref())).collect();
        assert_eq!(
            used,
            [("efs-sc", Some("efs.csi.aws.com")), ("gp2", Some("kubernetes.io/aws-ebs")), ("io2", None)]
        );
    }
}
