//! What objects in namespaces need of what is in none: named by them, or naming their service accounts. Reads only.
//!
//! Kinds that a migration takes along are [`TAKEN`]; of all others a person is told. An Ingress that names no class needs
//! the default one, and a class of AWS what it names itself: both count more than what the Ingress says.

use std::collections::{BTreeMap, BTreeSet};

use kube::Client;
use kube::api::TypeMeta;
use migrate_plugin_api::{StepContext, StepError};
use serde_json::Value;

use crate::inventory::{Served, each_object};
use crate::kubernetes::kube_error;
use crate::rules::code::ingress_groups::is_controller;
use crate::workload::text;

/// Kinds that go along, by group. Of the rest the target has its own, or they are made of what is not there.
const TAKEN: [(&str, &str); 7] = [
    ("rbac.authorization.k8s.io", "ClusterRole"),
    BINDING,
    ("scheduling.k8s.io", "PriorityClass"),
    STORE,
    INGRESS_CLASS,
    CLASS_PARAMS[0],
    CLASS_PARAMS[1],
];

/// Whose Ingresses are whose.
const INGRESS_CLASS: (&str, &str) = ("networking.k8s.io", "IngressClass");

/// What a class of AWS says of all its Ingresses: of the AWS Load Balancer Controller, and of EKS Auto Mode.
/// <https://kubernetes-sigs.github.io/aws-load-balancer-controller/latest/guide/ingress/ingress_class/>
/// and <https://docs.aws.amazon.com/eks/latest/userguide/auto-configure-alb.html>
const CLASS_PARAMS: [(&str, &str); 2] =
    [("elbv2.k8s.aws", "IngressClassParams"), ("eks.amazonaws.com", "IngressClassParams")];

/// Whether objects of the kind say whose Ingresses are whose, or what is said of all of them.
pub(crate) fn is_for_classes(kind: &Served) -> bool {
    let kinds = [INGRESS_CLASS, CLASS_PARAMS[0], CLASS_PARAMS[1]];
    kinds.contains(&(kind.resource.group.as_str(), kind.resource.kind.as_str()))
}

/// Who in a namespace may do what in all of them.
const BINDING: (&str, &str) = ("rbac.authorization.k8s.io", "ClusterRoleBinding");

/// A store of External Secrets for all namespaces.
const STORE: (&str, &str) = ("external-secrets.io", "ClusterSecretStore");

/// Starts of names that Kubernetes and EKS keep for themselves: each cluster has its own.
const OWN: [&str; 2] = ["system:", "eks:"];

/// PriorityClasses that every cluster has.
const OWN_PRIORITIES: [&str; 2] = ["system-cluster-critical", "system-node-critical"];

/// Depth of an object beyond which nothing is looked for: as deep as pods in templates of custom resources are.
const DEPTH: usize = 32;

/// An object in no namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Need {
    /// `scheduling.k8s.io`.
    pub group: &'static str,
    /// `PriorityClass`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
}

impl Need {
    fn new((group, kind): (&'static str, &'static str), name: &str) -> Self {
        Self { group, kind, name: name.to_owned() }
    }

    /// Whether a migration takes such objects along.
    pub(crate) fn is_taken(&self) -> bool {
        TAKEN.contains(&(self.group, self.kind))
    }

    fn is_each_clusters(&self) -> bool {
        OWN.iter().any(|own| self.name.starts_with(own)) || OWN_PRIORITIES.contains(&self.name.as_str())
    }
}

impl std::fmt::Display for Need {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// What is needed, and by what: `Deployment shop/web`.
#[derive(Debug, Default)]
pub(crate) struct Needs {
    all: BTreeMap<Need, BTreeSet<String>>,
    /// Ingresses that name no class.
    classless: BTreeSet<String>,
}

impl Needs {
    /// Takes in what `object` names.
    pub(crate) fn take(&mut self, object: &Value) {
        if matches!(text(object, &["kind"]), Some("ConfigMap" | "Secret")) {
            return;
        }
        let by = shown(object);
        let mut all = Vec::new();
        named(object, &mut all);
        match text(object, &["kind"]).unwrap_or_default() {
            "Ingress" => match ingress_class(object) {
                Some(name) => all.push(Need::new(INGRESS_CLASS, name)),
                None if text(object, &["spec", "ingressClassName"]).is_none() => {
                    self.classless.insert(by.clone());
                }
                None => {}
            },
            "PersistentVolumeClaim" => {
                all.extend(volume(object).map(|name| Need::new(("", "PersistentVolume"), name)));
            }
            _ => {}
        }
        for need in all.into_iter().filter(|need| !need.is_each_clusters()) {
            self.all.entry(need).or_default().insert(by.clone());
        }
    }

    /// Whether an IngressClass is needed. Then also what it names.
    fn takes_class(&mut self, class: &Value) -> bool {
        let need = Need::new(INGRESS_CLASS, text(class, &["metadata", "name"]).unwrap_or_default());
        if class.pointer(DEFAULT_CLASS).and_then(Value::as_str) == Some("true") && !self.classless.is_empty()
        {
            self.all.entry(need.clone()).or_default().extend(self.classless.iter().cloned());
        }
        if !self.all.contains_key(&need) {
            return false;
        }
        let part = |name: &str| text(class, &["spec", "parameters", name]);
        let kind = CLASS_PARAMS.into_iter().find(|(group, kind)| {
            part("apiGroup") == Some(group) && part("kind").is_none_or(|named| named == *kind)
        });
        if let (Some(kind), Some(name)) = (kind, part("name")) {
            self.all.entry(Need::new(kind, name)).or_default().insert(shown(class));
        }
        true
    }

    fn needs_classes(&self) -> bool {
        let is_class = |need: &Need| (need.group, need.kind) == INGRESS_CLASS;
        !self.classless.is_empty() || self.all.keys().any(is_class)
    }

    /// Reads what is needed of the kinds that are taken along, and the bindings of service accounts of `namespaces`, with
    /// what these need: each to `visit`. Returns the kinds that these credentials may not read.
    ///
    /// # Errors
    /// What the API server says; `Cancelled` on request; errors of `visit`.
    pub(crate) async fn read(
        &mut self,
        ctx: &StepContext,
        client: &Client,
        kinds: &[&Served],
        namespaces: &[String],
        mut visit: impl FnMut(&Served, Value) -> Result<(), StepError> + Send,
    ) -> Result<BTreeSet<String>, StepError> {
        let served = |(group, kind): (&str, &str)| {
            kinds
                .iter()
                .copied()
                .find(|k| k.resource.group == group && k.resource.kind == kind && !k.namespaced)
        };
        let mut unreadable = BTreeSet::new();
        if let Some(kind) = served(BINDING) {
            let listed = each_object(ctx, client, kind, "", |binding| {
                if is_each_clusters(&binding) || subjects(&binding, namespaces) == Subjects::None {
                    return Ok(());
                }
                if kept_back(&binding, namespaces).is_none() {
                    self.take(&binding);
                }
                visit(kind, binding)
            });
            if !listed.await? {
                unreadable.insert(kind.id());
            }
        }
        if let Some(kind) = served(INGRESS_CLASS).filter(|_| self.needs_classes()) {
            let listed = each_object(ctx, client, kind, "", |class| {
                if self.takes_class(&class) { visit(kind, class) } else { Ok(()) }
            });
            if !listed.await? {
                unreadable.insert(kind.id());
            }
        }
        let is_listed = |need: &Need| (need.group, need.kind) == INGRESS_CLASS;
        for need in self.all.keys().filter(|need| need.is_taken() && !is_listed(need)) {
            ctx.check_cancelled()?;
            let Some(kind) = served((need.group, need.kind)) else { continue };
            let found = match kind.api(client, "").get_opt(&need.name).await {
                Err(kube::Error::Api(status)) if status.code == 403 => {
                    unreadable.insert(kind.id());
                    continue;
                }
                found => found.map_err(|e| kube_error(format!("failed to read {need}"), e))?,
            };
            // What the source lacks too is nothing to take along.
            let Some(mut object) = found else { continue };
            object.types = Some(TypeMeta {
                api_version: kind.resource.api_version.clone(),
                kind: kind.resource.kind.clone(),
            });
            object.metadata.managed_fields = None;
            let object = serde_json::to_value(object)
                .map_err(|e| StepError::permanent("failed to read an object as JSON").with_source(e))?;
            if !is_each_clusters(&object) {
                visit(kind, object)?;
            }
        }
        Ok(unreadable)
    }

    /// By what such an object is needed.
    pub(crate) fn of(&self, kind: &Served, name: &str) -> Vec<String> {
        let same = |need: &&Need| {
            need.group == kind.resource.group && need.kind == kind.resource.kind && need.name == name
        };
        self.all.iter().filter(|(need, _)| same(need)).flat_map(|(_, by)| by.iter().cloned()).collect()
    }

    /// All of them, sorted.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Need, &BTreeSet<String>)> {
        self.all.iter()
    }
}

/// The annotation of the class of Ingresses that name none.
const DEFAULT_CLASS: &str = "/metadata/annotations/ingressclass.kubernetes.io~1is-default-class";

/// `Kind namespace/name`.
fn shown(object: &Value) -> String {
    let part = |path: &[&str]| text(object, path).unwrap_or_default().to_owned();
    let (kind, name) = (part(&["kind"]), part(&["metadata", "name"]));
    match part(&["metadata", "namespace"]).as_str() {
        "" => format!("{kind} {name}"),
        namespace => format!("{kind} {namespace}/{name}"),
    }
}

/// What is named by fields that mean the same wherever they are: in pods, in references.
fn named(object: &Value, all: &mut Vec<Need>) {
    fn walk(value: &Value, depth: usize, all: &mut Vec<Need>) {
        let Some(depth) = depth.checked_sub(1) else { return };
        match value {
            Value::Array(items) => items.iter().for_each(|item| walk(item, depth, all)),
            Value::Object(fields) => {
                for (key, value) in fields {
                    all.extend(reference(key, value));
                    walk(value, depth, all);
                }
            }
            _ => {}
        }
    }
    // Annotations and what the source's controllers report name nothing.
    for (_, value) in object.as_object().into_iter().flatten().filter(|(key, _)| *key != "status") {
        walk(value, DEPTH, all);
    }
    let binding = object.get("roleRef").filter(|role| text(role, &["kind"]) == Some("ClusterRole"));
    let role = binding.and_then(|role| text(role, &["name"]));
    all.extend(role.map(|name| Need::new(("rbac.authorization.k8s.io", "ClusterRole"), name)));
    let issuer = text(object, &["metadata", "annotations", "cert-manager.io/cluster-issuer"]);
    all.extend(issuer.map(|name| Need::new(("cert-manager.io", "ClusterIssuer"), name)));
}

fn reference(key: &str, value: &Value) -> Option<Need> {
    let plain = match key {
        "priorityClassName" => Some(("scheduling.k8s.io", "PriorityClass")),
        "runtimeClassName" => Some(("node.k8s.io", "RuntimeClass")),
        "ingressClassName" => Some(INGRESS_CLASS),
        "gatewayClassName" => Some(("gateway.networking.k8s.io", "GatewayClass")),
        _ => None,
    };
    if let (Some(kind), Some(name)) = (plain, value.as_str().filter(|name| !name.is_empty())) {
        return Some(Need::new(kind, name));
    }
    let kind = match (key, text(value, &["kind"])?) {
        ("secretStoreRef" | "storeRef", "ClusterSecretStore") => STORE,
        ("issuerRef", "ClusterIssuer") => ("cert-manager.io", "ClusterIssuer"),
        _ => return None,
    };
    Some(Need::new(kind, text(value, &["name"])?))
}

/// As Ingresses named their class before `ingressClassName`.
fn ingress_class(ingress: &Value) -> Option<&str> {
    text(ingress, &["metadata", "annotations", "kubernetes.io/ingress.class"])
}

/// A volume that somebody made: of those that a provisioner made the claim says so.
fn volume(claim: &Value) -> Option<&str> {
    let annotations = claim.pointer("/metadata/annotations");
    let is_made =
        ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"]
            .iter()
            .any(|name| annotations.is_some_and(|all| all.get(name).is_some()));
    text(claim, &["spec", "volumeName"]).filter(|name| !is_made && !name.is_empty())
}

/// How a binding concerns service accounts of these namespaces.
#[derive(Debug, PartialEq, Eq)]
enum Subjects {
    /// Not at all.
    None,
    /// It is about them and others.
    Some,
    /// It is about them alone.
    All,
}

/// Of a ClusterRoleBinding.
fn subjects(binding: &Value, namespaces: &[String]) -> Subjects {
    let is_ours = |subject: &Value| match text(subject, &["kind"]) {
        Some("ServiceAccount") => {
            text(subject, &["namespace"]).is_some_and(|namespace| namespaces.iter().any(|n| n == namespace))
        }
        Some("Group") => text(subject, &["name"])
            .and_then(|name| name.strip_prefix("system:serviceaccounts:"))
            .is_some_and(|namespace| namespaces.iter().any(|n| n == namespace)),
        _ => false,
    };
    let all = binding.get("subjects").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    match all.iter().filter(|subject| is_ours(subject)).count() {
        0 => Subjects::None,
        count if count == all.len() => Subjects::All,
        _ => Subjects::Some,
    }
}

/// Whether each cluster makes such an object itself.
fn is_each_clusters(object: &Value) -> bool {
    let name = text(object, &["metadata", "name"]).unwrap_or_default();
    OWN.iter().any(|own| name.starts_with(own))
        || text(object, &["metadata", "labels", "kubernetes.io/bootstrapping"]).is_some()
}

/// Why an object that is needed is not taken along, though its kind is; `None` where it is.
pub(crate) fn kept_back(object: &Value, namespaces: &[String]) -> Option<&'static str> {
    match text(object, &["kind"])? {
        "ClusterRole" if object.get("aggregationRule").is_some_and(|rule| !rule.is_null()) => {
            Some("it is made of other roles")
        }
        "ClusterRoleBinding" if subjects(object, namespaces) != Subjects::All => {
            Some("it is about others too")
        }
        "ClusterRoleBinding" if text(object, &["roleRef", "name"]) == Some("cluster-admin") => {
            Some("it gives all rights there are: decide whether they have them on AKS")
        }
        // One of AWS is rewritten with its Ingresses.
        "IngressClass" if !text(object, &["spec", "controller"]).is_some_and(is_controller) => {
            Some("it comes with its controller")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn needed(object: &Value) -> Vec<String> {
        let mut needs = Needs::default();
        needs.take(object);
        needs
            .iter()
            .map(|(need, by)| format!("{need} by {}", Vec::from_iter(by.clone()).join(", ")))
            .collect()
    }

    fn object(kind: &str, rest: Value) -> Value {
        let mut object = json!({ "kind": kind, "metadata": { "name": "a", "namespace": "shop" } });
        for (key, value) in rest.as_object().unwrap() {
            object[key] = value.clone();
        }
        object
    }

    #[test]
    fn what_objects_name_is_needed() {
        let pod = json!({ "priorityClassName": "high", "runtimeClassName": "gvisor" });
        let web = object("Deployment", json!({ "spec": { "template": { "spec": pod } } }));
        assert_eq!(
            needed(&web),
            ["RuntimeClass gvisor by Deployment shop/a", "PriorityClass high by Deployment shop/a"]
        );
        let critical = object("Pod", json!({ "spec": { "priorityClassName": "system-node-critical" } }));
        assert_eq!(needed(&critical), [] as [&str; 0]);
        let store = json!({ "kind": "ClusterSecretStore", "name": "aws" });
        let secret = object(
            "ExternalSecret",
            json!({ "spec": { "secretStoreRef": store,
            "data": [{ "sourceRef": { "storeRef": store } }] }, "status": { "storeRef": { "kind": "ClusterSecretStore", "name": "x" } } }),
        );
        assert_eq!(needed(&secret), ["ClusterSecretStore aws by ExternalSecret shop/a"]);
        let own = object("ExternalSecret", json!({ "spec": { "secretStoreRef": { "name": "aws" } } }));
        assert_eq!(needed(&own), [] as [&str; 0]);
        let binding =
            |name: &str| object("RoleBinding", json!({ "roleRef": { "kind": "ClusterRole", "name": name } }));
        assert_eq!(needed(&binding("reader")), ["ClusterRole reader by RoleBinding shop/a"]);
        assert_eq!(needed(&binding("system:node")), [] as [&str; 0]);
        let annotations =
            json!({ "kubernetes.io/ingress.class": "alb", "cert-manager.io/cluster-issuer": "le" });
        let mut ingress = object("Ingress", json!({}));
        ingress["metadata"]["annotations"] = annotations;
        assert_eq!(
            needed(&ingress),
            ["ClusterIssuer le by Ingress shop/a", "IngressClass alb by Ingress shop/a"]
        );
    }

    #[test]
    fn a_volume_that_somebody_made_is_needed() {
        let mut claim = object("PersistentVolumeClaim", json!({ "spec": { "volumeName": "efs-pv" } }));
        assert_eq!(needed(&claim), ["PersistentVolume efs-pv by PersistentVolumeClaim shop/a"]);
        claim["metadata"]["annotations"] =
            json!({ "volume.kubernetes.io/storage-provisioner": "ebs.csi.aws.com" });
        assert_eq!(needed(&claim), [] as [&str; 0]);
    }

    #[test]
    fn a_binding_goes_along_that_is_about_ours_alone() {
        let account =
            |namespace: &str| json!({ "kind": "ServiceAccount", "name": "a", "namespace": namespace });
        let group = json!({ "kind": "Group", "name": "system:serviceaccounts:shop" });
        let binding = |role: &str, subjects: Value| {
            json!({ "kind": "ClusterRoleBinding", "metadata": { "name": "a" }, "subjects": subjects,
                "roleRef": { "kind": "ClusterRole", "name": role } })
        };
        let shop = ["shop".to_owned()];
        let ours = binding("reader", json!([account("shop"), group]));
        assert_eq!((subjects(&ours, &shop), kept_back(&ours, &shop)), (Subjects::All, None));
        let both = binding("reader", json!([account("shop"), account("bank")]));
        assert_eq!(
            (subjects(&both, &shop), kept_back(&both, &shop)),
            (Subjects::Some, Some("it is about others too"))
        );
        assert_eq!(subjects(&binding("reader", json!([account("bank")])), &shop), Subjects::None);
        assert_eq!(subjects(&binding("reader", Value::Null), &shop), Subjects::None);
        let admin = binding("cluster-admin", json!([account("shop")]));
        assert!(kept_back(&admin, &shop).is_some_and(|reason| reason.starts_with("it gives all rights")));
        let class =
            |controller: &str| json!({ "kind": "IngressClass", "spec": { "controller": controller } });
        assert_eq!(kept_back(&class("eks.amazonaws.com/alb"), &shop), None);
        assert!(kept_back(&class("k8s.io/ingress-nginx"), &shop).is_some());
        let made = json!({ "kind": "ClusterRole", "metadata": { "name": "a" }, "aggregationRule": {} });
        assert_eq!(kept_back(&made, &shop), Some("it is made of other roles"));
        let edit = json!({ "metadata": { "name": "edit", "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" } } });
        assert!(is_each_clusters(&edit) && !is_each_clusters(&made));
    }
}
