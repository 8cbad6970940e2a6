//! Storage classes with the names and provisioners that EKS and AKS have. The sandbox's own provisioner serves them.

use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use kube::api::Api;
use miette::Result;
use serde_json::{Value, json};

use crate::layout::Cluster;

struct Class {
    name: &'static str,
    provisioner: &'static str,
    default: bool,
    waits: bool,
    parameters: Value,
}

fn classes(cluster: Cluster) -> [Class; 2] {
    match cluster {
        Cluster::Eks => [
            Class {
                name: "gp3",
                provisioner: "ebs.csi.aws.com",
                default: true,
                waits: true,
                parameters: json!({"type": "gp3", "encrypted": "true"}),
            },
            Class {
                name: "efs-sc",
                provisioner: "efs.csi.aws.com",
                default: false,
                waits: false,
                parameters: json!({
                    "provisioningMode": "efs-ap", "fileSystemId": "fs-0123456789abcdef0", "directoryPerms": "700",
                }),
            },
        ],
        Cluster::Aks => [
            Class {
                name: "managed-csi-premium",
                provisioner: "disk.csi.azure.com",
                default: true,
                waits: true,
                parameters: json!({"skuName": "Premium_LRS"}),
            },
            Class {
                name: "azurefile-csi-nfs",
                provisioner: "file.csi.azure.com",
                default: false,
                waits: false,
                parameters: json!({"skuName": "Premium_LRS", "protocol": "nfs"}),
            },
        ],
    }
}

/// Provisioners that the sandbox stands in for on a cluster.
pub fn provisioners(cluster: Cluster) -> [&'static str; 2] {
    classes(cluster).map(|class| class.provisioner)
}

/// Makes the classes.
pub async fn apply(client: &Client, cluster: Cluster) -> Result<()> {
    let api = Api::<StorageClass>::all(client.clone());
    for class in classes(cluster) {
        let object = json!({
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": class.name,
                "annotations": {"storageclass.kubernetes.io/is-default-class": class.default.to_string()},
            },
            "provisioner": class.provisioner,
            "parameters": class.parameters,
            "reclaimPolicy": "Delete",
            "allowVolumeExpansion": true,
            "volumeBindingMode": if class.waits { "WaitForFirstConsumer" } else { "Immediate" },
        });
        super::apply(&api, "StorageClass", class.name, &object).await?;
    }
    Ok(())
}
