//! What one object says about another: gathered in one pass before any rule looks. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, LazyLock};

use super::code::ingress_groups::Ingresses;
use super::code::{nodes, secrets, storage};
use super::object::{EKS_API_GROUP, Object};
use super::path::Pattern;
use super::subscription::Subscription;
use super::target::Target;

static POD: LazyLock<Pattern> = LazyLock::new(|| Pattern::parse("{pod}").expect("a constant"));

/// Namespace and name.
pub(crate) type Name = (String, String);

/// Things by name and namespace. Manifests often leave the namespace to the deployer, so that an empty
/// one stands for any.
#[derive(Debug, Clone)]
pub(crate) struct Named<T>(HashMap<String, BTreeMap<String, T>>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> Named<T> {
    /// Keeps `value`, instead of what had the same name before.
    pub(crate) fn insert(&mut self, namespace: &str, name: &str, value: T) {
        self.0.entry(name.to_owned()).or_default().insert(namespace.to_owned(), value);
    }

    /// All of them, in no order: namespace, name and value.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str, &T)> {
        self.0.iter().flat_map(|(name, there)| {
            there.iter().map(move |(namespace, value)| (namespace.as_str(), name.as_str(), value))
        })
    }

    /// What has this name there; either side may leave the namespace out.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&T> {
        let there = self.0.get(name)?;
        let any = || if namespace.is_empty() { there.values().next() } else { there.get("") };
        there.get(namespace).or_else(any)
    }

    /// All that can be meant by this name there: of any namespace, where it is not said.
    pub(crate) fn all(&self, namespace: &str, name: &str) -> Vec<&T> {
        match self.0.get(name) {
            Some(there) if namespace.is_empty() => there.values().collect(),
            _ => self.get(namespace, name).into_iter().collect(),
        }
    }
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    /// Its name.
    pub name: Option<String>,
    /// Its number.
    pub number: u16,
}

/// A node group of EKS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeGroup {
    /// Its name.
    pub name: String,
    /// Instance types, of which it takes any.
    pub types: Vec<String>,
    /// Nodes that there are.
    pub desired: u64,
    /// Nodes that there may be.
    pub most: u64,
    /// Whether they are spot nodes.
    pub is_spot: bool,
}

/// What is known of all objects.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// IAM roles of service accounts.
    pub roles: Named<String>,
    /// Ports of Services.
    pub ports: Named<Vec<Port>>,
    /// Classes of AWS and their provisioners.
    pub classes: BTreeMap<String, String>,
    /// Claims and claim templates that name a class, by that.
    pub claims: BTreeMap<String, Vec<Name>>,
    /// Karpenter's classes of EC2 nodes that stay for a person.
    pub kept_node_classes: BTreeSet<String>,
    /// Whether the default class is one of AWS.
    pub aws_default_class: bool,
    /// Volumes of AWS.
    pub volumes: BTreeSet<String>,
    /// Volumes of others that belong to no class.
    pub other_volumes: BTreeSet<String>,
    /// SecretStores of AWS, as `KIND/NAME`, and whether they stay for a person.
    pub stores: Named<bool>,
    /// Whether the objects are those of a cluster, not of files.
    pub is_live: bool,
    /// Service accounts of pods that mount a SecretProviderClass.
    pub provider_users: Named<String>,
    /// Groups and users of Kubernetes that stand for principals of IAM, by `aws-auth` or by an access entry.
    pub iam_subjects: BTreeSet<String>,
    /// Ingresses, their classes, and what they share.
    pub ingresses: Ingresses,
    /// Classes and definitions among the objects: `StorageClass` and its name,
    /// `CustomResourceDefinition` and `GROUP/KIND`.
    pub made: BTreeSet<(&'static str, String)>,
    /// Where the objects go, where that is known.
    pub target: Option<Arc<Target>>,
    /// What the subscription has room for, where that is known.
    pub subscription: Option<Arc<Subscription>>,
    /// Node groups, in the order in which they came.
    pub node_groups: Vec<NodeGroup>,
}

/// Provisioners of AWS.
pub(crate) fn is_aws_provisioner(name: &str) -> bool {
    name == "kubernetes.io/aws-ebs"
        || name.ends_with(".csi.aws.com")
        || name.ends_with(".csi.eks.amazonaws.com")
}

impl Facts {
    /// Whether the objects bring a class, or the definition of a kind, themselves.
    pub(crate) fn has_made(&self, kind: &'static str, name: &str) -> bool {
        self.made.contains(&(kind, name.to_owned()))
    }

    /// Takes one object.
    pub(crate) fn take(&mut self, object: &Object<'_>) {
        let node = object.node;
        self.provider_users(object);
        self.ingresses.take(object);
        for (_, spec, name) in storage::claims(object) {
            if let Some(class) = spec.text_at(&["storageClassName"]) {
                self.claims.entry(class.to_owned()).or_default().push((object.namespace.clone(), name));
            }
        }
        match object.kind.as_str() {
            "ServiceAccount" => {
                if let Some(role) = node.text_at(&["metadata", "annotations", "eks.amazonaws.com/role-arn"]) {
                    self.roles.insert(&object.namespace, &object.name, role.to_owned());
                }
            }
            "Service" => {
                let ports = node.at(&["spec", "ports"]).map_or(&[][..], |ports| ports.items());
                let port = |port: &super::document::Node| Port {
                    name: port.text_at(&["name"]).map(str::to_owned),
                    number: port.text_at(&["port"]).and_then(|p| p.parse().ok()).unwrap_or_default(),
                };
                self.ports.insert(&object.namespace, &object.name, ports.iter().map(port).collect());
            }
            "StorageClass" => {
                self.made.insert(("StorageClass", object.name.clone()));
                self.class(object);
            }
            "IngressClass" => {
                self.made.insert(("IngressClass", object.name.clone()));
            }
            "CustomResourceDefinition" => {
                let group = node.text_at(&["spec", "group"]).unwrap_or_default();
                let kind = node.text_at(&["spec", "names", "kind"]).unwrap_or_default();
                self.made.insert(("CustomResourceDefinition", format!("{group}/{kind}")));
            }
            "PersistentVolume" => {
                let driver = node.text_at(&["spec", "csi", "driver"]);
                if driver.is_some_and(is_aws_provisioner)
                    || node.at(&["spec", "awsElasticBlockStore"]).is_some()
                {
                    self.volumes.insert(object.name.clone());
                } else if node.text_at(&["spec", "storageClassName"]).is_none_or(str::is_empty) {
                    self.other_volumes.insert(object.name.clone());
                }
            }
            "SecretStore" | "ClusterSecretStore" if node.at(&["spec", "provider", "aws"]).is_some() => {
                let name = format!("{}/{}", object.kind, object.name);
                let is_namespaced = object.kind == "SecretStore";
                let namespace = if is_namespaced { object.namespace.as_str() } else { "" };
                self.stores.insert(namespace, &name, secrets::is_kept(object));
            }
            "EC2NodeClass" if nodes::is_kept(object) => {
                self.kept_node_classes.insert(object.name.clone());
            }
            "ConfigMap" if object.name == "aws-auth" => self.aws_auth(object),
            "NodeGroup" if object.group == EKS_API_GROUP => self.node_group(object),
            "AccessEntry" if object.group == EKS_API_GROUP => {
                self.iam_subjects(node.get("spec"), "kubernetesGroups");
            }
            _ => {}
        }
    }

    fn provider_users(&mut self, object: &Object<'_>) {
        if !object.keys.has("secretProviderClass") {
            return;
        }
        for (_, pod) in object.find(&POD) {
            for volume in pod.get("volumes").map_or(&[][..], |volumes| volumes.items()) {
                let class = volume.text_at(&["csi", "volumeAttributes", "secretProviderClass"]);
                let account = pod.text_at(&["serviceAccountName"]).unwrap_or("default");
                if let Some(class) = class {
                    self.provider_users.insert(&object.namespace, class, account.to_owned());
                }
            }
        }
    }

    fn node_group(&mut self, object: &Object<'_>) {
        let node = object.node;
        let types = node.at(&["spec", "instanceTypes"]).map_or(&[][..], |types| types.items());
        let count =
            |field: &str| node.text_at(&["spec", "scalingConfig", field]).and_then(|n| n.parse().ok());
        self.node_groups.push(NodeGroup {
            name: object.name.clone(),
            types: types.iter().filter_map(|name| name.text()).map(str::to_owned).collect(),
            desired: count("desiredSize").unwrap_or(0),
            most: count("maxSize").unwrap_or(0),
            is_spot: node.text_at(&["spec", "capacityType"]) == Some("SPOT"),
        });
    }

    fn class(&mut self, object: &Object<'_>) {
        let Some(by) = object.node.text_at(&["provisioner"]).filter(|by| is_aws_provisioner(by)) else {
            return;
        };
        self.classes.insert(object.name.clone(), by.to_owned());
        let default = [
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ];
        self.aws_default_class |=
            default.iter().any(|key| object.node.text_at(&["metadata", "annotations", key]) == Some("true"));
    }

    /// What roles and users of IAM are called in the cluster; they themselves are nobody's business here.
    fn aws_auth(&mut self, object: &Object<'_>) {
        for key in ["mapRoles", "mapUsers"] {
            let Some(text) = object.node.text_at(&["data", key]) else { continue };
            let Ok(documents) = super::document::read(text) else { continue };
            for entry in documents.iter().flat_map(|document| document.root.items()) {
                self.iam_subjects(Some(entry), "groups");
            }
        }
    }

    /// The groups and the user of one principal. A name with `{{…}}` is another for every session.
    fn iam_subjects(&mut self, entry: Option<&super::document::Node>, groups: &str) {
        let groups = entry.and_then(|entry| entry.get(groups)).map_or(&[][..], |groups| groups.items());
        let user = entry.and_then(|entry| entry.get("username"));
        let names = groups.iter().chain(user).filter_map(|name| name.text());
        let own = names.filter(|name| !name.starts_with("system:") && !name.contains("{{"));
        self.iam_subjects.extend(own.map(str::to_owned));
    }
}
