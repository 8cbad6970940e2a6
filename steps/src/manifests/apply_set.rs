//! The record of a set of applied objects: a ConfigMap of the cluster that says of which kinds, and in which
//! namespaces, the set has members. As `kubectl apply --prune --applyset` keeps it (KEP-3659, ApplySet, as of
//! kubectl 1.27: <https://github.com/kubernetes/enhancements/tree/master/keps/sig-cli/3659-kubectl-apply-prune>), so
//! other tools know the set and leave it alone.
//!
//! The label on an object makes it a member; the record only says where to look. Invariant: it never says less
//! than the cluster holds. It grows before members are applied and shrinks when those that left are gone.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use migrate_plugin_api::{ErrorClass, NodeId, StepContext, StepError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::order::Manifest;
use crate::inventory::is_label;
use crate::kubernetes::kube_error;

/// On a member: the ID of its set.
pub(super) const PART_OF: &str = "applyset.kubernetes.io/part-of";

/// On the record: the ID, which is made of where the record is, so that nobody else's can be taken for it.
pub(super) const ID: &str = "applyset.kubernetes.io/id";

/// On the record, as `NAME/VERSION`: the tool that alone may change the set.
const TOOLING: &str = "applyset.kubernetes.io/tooling";

/// On the record: `ConfigMap,Deployment.apps`, sorted.
const KINDS: &str = "applyset.kubernetes.io/contains-group-kinds";

/// On the record: namespaces of members besides its own, sorted.
const NAMESPACES: &str = "applyset.kubernetes.io/additional-namespaces";

/// On the record: the run and the node that applied last, as Velero's objects have them.
const RUN: &str = "migrate-run";
const NODE: &str = "migrate-node";

/// This tool, without its version and with it.
const TOOL: &str = "migrate";
const THIS_TOOL: &str = concat!("migrate/v", env!("CARGO_PKG_VERSION"));

/// Keeps the record's fields apart from those of members, as kubectl's own does.
const FIELD_MANAGER: &str = "migrate-applyset";

/// Longest name of a ConfigMap.
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/>
const NAME_LIMIT: usize = 253;

/// Which applied objects belong together: those of them that are no longer in the manifests are deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Prune {
    /// Names the set, and the ConfigMap that keeps its record. The same set must have the same name in every run;
    /// another set in the same namespace must have another.
    pub set: String,
    /// Namespace of that ConfigMap. It must be there, or among the manifests.
    pub namespace: String,
}

impl std::fmt::Display for Prune {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "set {}/{}", self.namespace, self.set)
    }
}

/// `base64(sha256(NAME.NAMESPACE.KIND.GROUP))` between a letter and a letter, as a label's value must be.
fn id_of(name: &str, namespace: &str, kind: &str, group: &str) -> String {
    let parent = [name, namespace, kind, group].join(".");
    format!("applyset-{}-v1", URL_SAFE_NO_PAD.encode(digest(&SHA256, parent.as_bytes())))
}

impl Prune {
    /// The value of the label that makes an object a member.
    pub(super) fn id(&self) -> String {
        id_of(&self.set, &self.namespace, "ConfigMap", "")
    }

    /// # Errors
    /// `Permanent` where the name can't be a ConfigMap's, or the namespace none.
    pub(super) fn check(&self) -> Result<(), StepError> {
        let refused = |what: &str, name: &str| {
            StepError::permanent(format!("`{name}` can't name {what}")).with_hint(
                "lower-case letters, digits and `-`, as in `prune = { set = \"web\", namespace = \"shop\" }`",
            )
        };
        if self.set.len() > NAME_LIMIT || !self.set.split('.').all(is_label) {
            return Err(refused("a set", &self.set));
        }
        if !is_label(&self.namespace) {
            return Err(refused("a namespace", &self.namespace));
        }
        Ok(())
    }

    /// Makes every object a member.
    ///
    /// # Errors
    /// `Permanent`: one is a member of some set already, as it is written, is the record itself, or is in what
    /// can be no namespace: the record would say so for ever.
    pub(super) fn mark(&self, manifests: &mut [Manifest]) -> Result<(), StepError> {
        let id = self.id();
        for manifest in manifests {
            let is_record = manifest.api_version == "v1"
                && manifest.kind == "ConfigMap"
                && (manifest.namespace == self.namespace && manifest.name == self.set);
            if is_record {
                return Err(StepError::permanent(format!(
                    "{manifest} of {} has the name of the set's own record",
                    manifest.file
                ))
                .with_hint("give `prune.set` another name"));
            }
            let namespace = manifest.namespace.as_str();
            if !namespace.is_empty() && !is_label(namespace) {
                return Err(StepError::permanent(format!(
                    "{manifest} of {}: `{}` is no name of a namespace",
                    manifest.file,
                    namespace.escape_debug()
                )));
            }
            let no_map = || {
                let what = format!("`metadata.labels` of {manifest} in {} is no map", manifest.file);
                StepError::permanent(what)
            };
            let metadata = manifest.object.get("metadata").and_then(Value::as_object).ok_or_else(no_map)?;
            let mut labels = match metadata.get("labels") {
                None | Some(Value::Null) => serde_json::Map::new(),
                Some(Value::Object(labels)) => labels.clone(),
                Some(_) => return Err(no_map()),
            };
            if labels.insert(PART_OF.to_owned(), Value::from(id.as_str())).is_some() {
                return Err(StepError::permanent(format!(
                    "{manifest} of {} has the label {PART_OF}",
                    manifest.file
                ))
                .with_hint("take the label out of the file: `prune` sets it"));
            }
            manifest.object["metadata"]["labels"] = Value::Object(labels);
        }
        Ok(())
    }

    /// Another set that an object on the cluster is a member of.
    ///
    /// # Errors
    /// `Conflict`: an object is of one set at most, and would be deleted by the other.
    pub(super) fn refuse_foreign(
        &self,
        manifest: &Manifest,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), StepError> {
        match labels.get(PART_OF) {
            Some(other) if *other != self.id() => Err(StepError::conflict(format!(
                "{manifest} of {} is a member of another set: {other}",
                manifest.file
            ))
            .with_hint(format!("find it with: kubectl get configmaps,secrets -A -l {ID}={other}"))),
            _ => Ok(()),
        }
    }
}

/// Where a set has members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// `Deployment.apps`, `ConfigMap`.
    pub kinds: BTreeSet<String>,
    /// Its own is always one.
    pub namespaces: BTreeSet<String>,
    /// As it was read or written; none where it is not there.
    version: Option<String>,
    /// The run and the node that applied last.
    by: Option<(String, String)>,
}

/// `Deployment.apps`, `ConfigMap`: a kind without its version.
pub(super) fn group_kind(api_version: &str, kind: &str) -> String {
    match api_version.split_once('/') {
        Some((group, _)) => format!("{kind}.{group}"),
        None => kind.to_owned(),
    }
}

impl Record {
    /// Adds a member's kind and place.
    pub(super) fn add(&mut self, api_version: &str, kind: &str, namespace: &str) {
        self.kinds.insert(group_kind(api_version, kind));
        if !namespace.is_empty() {
            self.namespaces.insert(namespace.to_owned());
        }
    }

    /// Makes it this node's.
    ///
    /// # Errors
    /// `Permanent` where another node of the same run applies the same set: each would delete what the other applied.
    pub(super) fn claim(&mut self, ctx: &StepContext, prune: &Prune) -> Result<(), StepError> {
        let own = (ctx.run.to_string(), ctx.node.to_string());
        match &self.by {
            Some((run, node)) if *run == own.0 && *node != own.1 => {
                Err(StepError::permanent(format!("{prune} is applied by node `{node}` in this run too"))
                    .with_hint("give each node, and each item of a `for_each`, a set of its own"))
            }
            _ => {
                self.by = Some(own);
                Ok(())
            }
        }
    }

    /// The node that applied last, where that is not `node`.
    pub(super) fn other_node(&self, node: &NodeId) -> Option<&str> {
        self.by.as_ref().map(|(_, last)| last.as_str()).filter(|last| *last != node.as_str())
    }

    /// What the record of `prune` says; empty where there is none yet.
    ///
    /// # Errors
    /// `Conflict` where the ConfigMap is no record, or another tool's; `Corrupt` where it can't be understood; what
    /// the API server says.
    pub(super) async fn read(client: &Client, prune: &Prune) -> Result<Self, StepError> {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), &prune.namespace);
        let found = api.get_metadata_opt(&prune.set).await;
        match found.map_err(|e| kube_error(format!("failed to read the record of {prune}"), e))? {
            Some(map) => Self::of(prune, map.labels(), map.annotations(), map.resource_version()),
            None => Ok(Self { namespaces: [prune.namespace.clone()].into(), ..Self::default() }),
        }
    }

    fn of(
        prune: &Prune,
        labels: &BTreeMap<String, String>,
        annotations: &BTreeMap<String, String>,
        version: Option<String>,
    ) -> Result<Self, StepError> {
        let map = format!("ConfigMap {}/{}", prune.namespace, prune.set);
        let elsewhere = |e: StepError| e.with_hint("give `prune.set` another name");
        let (Some(id), Some(tooling)) = (labels.get(ID), annotations.get(TOOLING)) else {
            let message = format!("{map} is there, and is no record of a set");
            return Err(elsewhere(StepError::conflict(message)));
        };
        let tool = tooling.rsplit_once('/').map_or(tooling.as_str(), |(tool, _)| tool);
        if tool != TOOL {
            let message = format!("{map} is the record of a set that `{tooling}` keeps");
            return Err(elsewhere(StepError::conflict(message)));
        }
        let corrupt = |what: String| {
            StepError::corrupt(format!("{map} is no record that can be followed: {what}")).with_hint(
                "members are deleted only where the record is whole: repair it, or name another set",
            )
        };
        if *id != prune.id() {
            return Err(corrupt(format!("its label {ID} is not {}", prune.id())));
        }
        let parts = |key: &str| {
            let text = annotations.get(key)?;
            let parts = text.split(',').filter(|part| !part.is_empty());
            Some(parts.map(str::to_owned).collect::<BTreeSet<String>>())
        };
        let kinds = parts(KINDS).ok_or_else(|| corrupt(format!("it has no annotation {KINDS}")))?;
        let mut namespaces = parts(NAMESPACES).unwrap_or_default();
        if let Some(wrong) = namespaces.iter().find(|name| !is_label(name)) {
            return Err(corrupt(format!("`{}` in {NAMESPACES} is no namespace", wrong.escape_debug())));
        }
        namespaces.insert(prune.namespace.clone());
        let by = annotations.get(RUN).cloned().zip(annotations.get(NODE).cloned());
        Ok(Self { kinds, namespaces, version, by })
    }

    /// The whole ConfigMap, as it is applied. It holds the version that was read, so that a record that somebody
    /// changed meanwhile is refused.
    fn to_json(&self, prune: &Prune) -> Value {
        let join = |parts: &mut dyn Iterator<Item = &String>| {
            parts.map(String::as_str).collect::<Vec<_>>().join(",")
        };
        let mut annotations = json!({
            TOOLING: THIS_TOOL,
            KINDS: join(&mut self.kinds.iter()),
        });
        let others = join(&mut self.namespaces.iter().filter(|name| **name != prune.namespace));
        if !others.is_empty() {
            annotations[NAMESPACES] = Value::from(others);
        }
        if let Some((run, node)) = &self.by {
            annotations[RUN] = Value::from(run.as_str());
            annotations[NODE] = Value::from(node.as_str());
        }
        let mut metadata = json!({
            "name": prune.set, "namespace": prune.namespace, "labels": { ID: prune.id() }, "annotations": annotations,
        });
        if let Some(version) = &self.version {
            metadata["resourceVersion"] = Value::from(version.as_str());
        }
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata })
    }

    /// Writes it. Durable when it returns, unless `dry_run`.
    ///
    /// # Errors
    /// `Conflict` where it was changed, or made, since it was read; what the API server says.
    pub(super) async fn write(
        &mut self,
        client: &Client,
        prune: &Prune,
        dry_run: bool,
    ) -> Result<(), StepError> {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), &prune.namespace);
        let failed = |e| {
            let failed = kube_error(format!("failed to write the record of {prune}"), e);
            match failed.class {
                ErrorClass::Conflict => failed
                    .with_hint("somebody changed the set at the same time: see that nobody else applies it"),
                _ => failed,
            }
        };
        if self.version.is_none() {
            // Of two that begin the set, only one makes it; an apply would let both.
            let params = PostParams { dry_run, field_manager: Some(FIELD_MANAGER.to_owned()) };
            let made = api.create(&params, &Self::empty(prune)).await.map_err(failed)?;
            if dry_run {
                return Ok(());
            }
            self.version = made.resource_version();
        }
        let mut params = PatchParams::apply(FIELD_MANAGER).force();
        params.dry_run = dry_run;
        let written = api.patch_metadata(&prune.set, &params, &Patch::Apply(self.to_json(prune))).await;
        let written = written.map_err(failed)?;
        if !dry_run {
            self.version = written.resource_version();
        }
        Ok(())
    }

    /// The record of a set without members.
    fn empty(prune: &Prune) -> ConfigMap {
        let annotations = [(TOOLING, THIS_TOOL), (KINDS, "")];
        let pairs = annotations.map(|(key, value)| (key.to_owned(), value.to_owned()));
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(prune.set.clone()),
                namespace: Some(prune.namespace.clone()),
                labels: Some([(ID.to_owned(), prune.id())].into()),
                annotations: Some(pairs.into()),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        }
    }

    /// Says only what `parts` say.
    pub(super) fn narrow(&mut self, prune: &Prune, parts: [&Self; 2]) {
        self.kinds = parts.iter().flat_map(|part| &part.kinds).cloned().collect();
        self.namespaces = parts.iter().flat_map(|part| &part.namespaces).cloned().collect();
        self.namespaces.insert(prune.namespace.clone());
    }

    /// With what `other` says too.
    pub(super) fn joined(&self, other: &Self) -> Self {
        let both = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.union(b).cloned().collect();
        Self {
            kinds: both(&self.kinds, &other.kinds),
            namespaces: both(&self.namespaces, &other.namespaces),
            version: self.version.clone(),
            by: self.by.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::order;

    fn prune() -> Prune {
        Prune { set: "web".to_owned(), namespace: "shop".to_owned() }
    }

    fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    /// The IDs of kubectl's own tests (`apply_test.go`, v0.36.3) and of `sha256sum`.
    #[test]
    fn the_id_is_kubectls() {
        assert_eq!(
            id_of("my-set", "test", "Secret", ""),
            "applyset-0eFHV8ySqp7XoShsGvyWFQD3s96yqwHmzc4e0HR1dsY-v1"
        );
        assert_eq!(prune().id(), "applyset-LfI8Vi9Cj-oN7gdQMc0pVAUtzPHQLFbNnE8ILiyJ7TY-v1");
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        let by = Some(("run-1".to_owned(), "apply".to_owned()));
        let mut record = Record { version: Some("7".to_owned()), by, ..Record::default() };
        record.add("apps/v1", "Deployment", "shop");
        record.add("v1", "ConfigMap", "other");
        record.add("rbac.authorization.k8s.io/v1", "ClusterRole", "");
        let written = record.to_json(&prune());
        let of = |key: &str| -> BTreeMap<String, String> {
            serde_json::from_value(written["metadata"][key].clone()).unwrap()
        };
        assert_eq!(
            of("annotations")[KINDS],
            "ClusterRole.rbac.authorization.k8s.io,ConfigMap,Deployment.apps"
        );
        assert_eq!(of("annotations")[NAMESPACES], "other");
        let read = Record::of(&prune(), &of("labels"), &of("annotations"), Some("7".to_owned())).unwrap();
        assert_eq!(read, record);
    }

    #[test]
    fn what_is_not_ours_is_never_written_over() {
        let id = prune().id();
        let refused = |labels: &[(&str, &str)], annotations: &[(&str, &str)]| {
            Record::of(&prune(), &texts(labels), &texts(annotations), None).unwrap_err().message
        };
        let whole = [(TOOLING, "migrate/v0.1.0"), (KINDS, "Pod")];
        insta::assert_snapshot!(
            [
                refused(&[("app", "web")], &[]),
                refused(&[(ID, &id)], &[(KINDS, "Pod")]),
                refused(&[(ID, &id)], &[(TOOLING, "kubectl/v1.27"), (KINDS, "Pod")]),
                refused(&[(ID, "applyset-of-another-v1")], &whole),
                refused(&[(ID, &id)], &[(TOOLING, "migrate/v0.1.0")]),
                refused(&[(ID, &id)], &[whole[0], whole[1], (NAMESPACES, "shop,../kube-system")]),
            ]
            .join("\n")
        );
        assert!(Record::of(&prune(), &texts(&[(ID, &id)]), &texts(&whole), None).is_ok());
    }

    #[test]
    fn every_object_is_marked_and_none_twice() {
        let parse = |text: &str| order::parse("a.yaml", text).unwrap();
        let mut all = parse(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop, labels: {app: web}}\n---\n\
             apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web, namespace: other, labels: null}\n",
        );
        prune().mark(&mut all).unwrap();
        assert_eq!(all[0].object["metadata"]["labels"], json!({ "app": "web", PART_OF: prune().id() }));
        assert_eq!(all[1].object["metadata"]["labels"], json!({ PART_OF: prune().id() }));
        let error = prune().mark(&mut all).unwrap_err();
        assert_eq!(error.message, format!("Pod shop/a of a.yaml has the label {PART_OF}"));
        let refused = |text: &str| prune().mark(&mut parse(text)).unwrap_err().message;
        assert_eq!(
            refused("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web, namespace: shop}\n"),
            "ConfigMap shop/web of a.yaml has the name of the set's own record"
        );
        assert_eq!(
            refused("apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop, labels: [a]}\n"),
            "`metadata.labels` of Pod shop/a in a.yaml is no map"
        );
    }

    #[test]
    fn names_are_checked() {
        let check = |set: &str, namespace: &str| {
            let prune = Prune { set: set.to_owned(), namespace: namespace.to_owned() };
            prune.check().is_ok()
        };
        assert!(check("web", "shop") && check("web.shop-2", "shop-2"));
        for (set, namespace) in
            [("", "shop"), ("web/a", "shop"), ("Web", "shop"), ("web", ""), ("web", "a.b"), ("web", "../a")]
        {
            assert!(!check(set, namespace), "{set} {namespace}");
        }
    }
}
