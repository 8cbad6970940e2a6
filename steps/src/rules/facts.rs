//! What one object says about another: gathered in one pass before any rule looks. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use super::object::Object;
use super::path::Pattern;

static POD: LazyLock<Pattern> = LazyLock::new(|| Pattern::parse("{pod}").expect("a constant"));

/// `namespace` and name; manifests often leave the namespace to the deployer, so that an empty one
/// stands for any.
pub(crate) type Name = (String, String);

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    /// Its name.
    pub name: Option<String>,
    /// Its number.
    pub number: u16,
}

/// What is known of all objects.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// IAM roles of service accounts.
    pub roles: BTreeMap<Name, String>,
    /// Ports of Services.
    pub ports: BTreeMap<Name, Vec<Port>>,
    /// Classes of AWS and their provisioners.
    pub classes: BTreeMap<String, String>,
    /// Whether the default class is one of AWS.
    pub aws_default_class: bool,
    /// Volumes of AWS.
    pub volumes: BTreeSet<String>,
    /// SecretStores of AWS, by kind and name.
    pub stores: BTreeSet<(String, String)>,
    /// Whether the objects are those of a cluster, not of files.
    pub is_live: bool,
    /// Service accounts of pods that mount a SecretProviderClass.
    pub provider_users: BTreeMap<Name, String>,
    /// Groups of Kubernetes that `aws-auth` maps roles to.
    pub groups: BTreeSet<String>,
    /// Groups of load balancers: the first Ingress of each, which makes the Gateway.
    pub gateways: BTreeMap<String, Name>,
    /// Ports, redirect and certificates that the Ingresses of a group ask for together.
    pub listeners: BTreeMap<String, BTreeSet<String>>,
}

/// Provisioners of AWS.
pub(crate) fn is_aws_provisioner(name: &str) -> bool {
    name == "kubernetes.io/aws-ebs"
        || name.ends_with(".csi.aws.com")
        || name.ends_with(".csi.eks.amazonaws.com")
}

/// Looks up by namespace and name, where either side may leave the namespace out.
pub(crate) fn named<'a, T>(map: &'a BTreeMap<Name, T>, namespace: &str, name: &str) -> Option<&'a T> {
    let exact = map.get(&(namespace.to_owned(), name.to_owned()));
    exact.or_else(|| {
        map.iter()
            .find(|((ns, n), _)| n == name && (ns.is_empty() || namespace.is_empty()))
            .map(|(_, value)| value)
    })
}

impl Facts {
    /// Takes one object.
    pub(crate) fn take(&mut self, object: &Object<'_>) {
        let node = object.node;
        let name = (object.namespace.clone(), object.name.clone());
        self.provider_users(object);
        match object.kind.as_str() {
            "ServiceAccount" => {
                if let Some(role) = node.text_at(&["metadata", "annotations", "eks.amazonaws.com/role-arn"]) {
                    self.roles.insert(name, role.to_owned());
                }
            }
            "Service" => {
                let ports = node.at(&["spec", "ports"]).map_or(&[][..], |ports| ports.items());
                let port = |port: &super::document::Node| Port {
                    name: port.text_at(&["name"]).map(str::to_owned),
                    number: port.text_at(&["port"]).and_then(|p| p.parse().ok()).unwrap_or_default(),
                };
                self.ports.insert(name, ports.iter().map(port).collect());
            }
            "StorageClass" => self.class(object),
            "PersistentVolume" => {
                let driver = node.text_at(&["spec", "csi", "driver"]);
                if driver.is_some_and(is_aws_provisioner)
                    || node.at(&["spec", "awsElasticBlockStore"]).is_some()
                {
                    self.volumes.insert(object.name.clone());
                }
            }
            "SecretStore" | "ClusterSecretStore" if node.at(&["spec", "provider", "aws"]).is_some() => {
                self.stores.insert((object.kind.clone(), object.name.clone()));
            }
            "ConfigMap" if object.name == "aws-auth" => self.aws_auth(object),
            "Ingress" => super::code::ingress::gather(object, self),
            _ => {}
        }
    }

    fn provider_users(&mut self, object: &Object<'_>) {
        for (_, pod) in POD.find(object.node) {
            for volume in pod.get("volumes").map_or(&[][..], |volumes| volumes.items()) {
                let class = volume.text_at(&["csi", "volumeAttributes", "secretProviderClass"]);
                let account = pod.text_at(&["serviceAccountName"]).unwrap_or("default");
                if let Some(class) = class {
                    self.provider_users
                        .insert((object.namespace.clone(), class.to_owned()), account.to_owned());
                }
            }
        }
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

    /// Groups only: the roles in it are nobody's business here.
    fn aws_auth(&mut self, object: &Object<'_>) {
        for key in ["mapRoles", "mapUsers"] {
            let Some(text) = object.node.text_at(&["data", key]) else { continue };
            let Ok(documents) = super::document::read(text) else { continue };
            for entry in documents.iter().flat_map(|document| document.root.items()) {
                let groups = entry.get("groups").map_or(&[][..], |groups| groups.items());
                let own = groups.iter().filter_map(|g| g.text()).filter(|g| !g.starts_with("system:"));
                self.groups.extend(own.map(str::to_owned));
            }
        }
    }
}
