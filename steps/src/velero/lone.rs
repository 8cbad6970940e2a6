//! Pods of a restore that no controller makes again, so that one that is gone may be lost.
//!
//! Velero restores without owner references (`resetMetadata`); a controller adopts what its selector matches a moment
//! later. So a Pod has a controller if it has one on the target by the end of the restore, or is named as one of the
//! backup's workloads names its own.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt};
use migrate_plugin_api::StepError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::api::{RESTORE_NAME_LABEL, Velero, list_all};
use super::compare::{KindOutcome, parse_kind};
use crate::kubernetes::kube_error;

/// Letters of a generated suffix, and how many there are; what comes before is cut to this length
/// (`apiserver/pkg/storage/names`, `apimachinery/pkg/util/rand`).
const SUFFIX_LETTERS: &str = "bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
const BASE_LIMIT: usize = 58;

/// A Pod that no controller is known to make again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Lone {
    /// It runs until somebody deletes it.
    Stays,
    /// It comes to an end; or an operator, of which something is beside it, may make it again; or it was gone when the
    /// restore ended.
    MayGo,
}

/// Those of the Pods that Velero has created, by `NAMESPACE/NAME`. To be asked when the restore has ended.
pub(super) async fn lone_pods(
    velero: &Velero,
    restore: &str,
    objects: &BTreeMap<String, Vec<String>>,
    outcome: Option<&KindOutcome>,
) -> Result<BTreeMap<String, Lone>, StepError> {
    let created = |name: &&String| !outcome.is_some_and(|outcome| outcome.has(name));
    let created: Vec<&String> = objects
        .get("v1/Pod")
        .into_iter()
        .flatten()
        .filter(created)
        .filter(|pod| !is_made(objects, pod))
        .collect();
    if created.is_empty() {
        return Ok(BTreeMap::new());
    }
    let api: Api<Pod> = Api::all(velero.client.clone());
    let found = list_all(&api, &format!("{RESTORE_NAME_LABEL}={restore}")).await;
    let found = found.map_err(|e| kube_error("failed to list the target's pods", e))?;
    let place = |pod: &Pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    let found: BTreeMap<String, &Pod> = found.iter().map(|pod| (place(pod), pod)).collect();
    let judged = created.into_iter().filter_map(|name| {
        let lone = judge(found.get(name).copied(), has_custom(objects, name))?;
        Some((name.clone(), lone))
    });
    Ok(judged.collect())
}

/// From how it is on the target, if it is there.
fn judge(pod: Option<&Pod>, is_beside_custom: bool) -> Option<Lone> {
    let Some(pod) = pod else { return Some(Lone::MayGo) };
    if pod.owner_references().iter().any(|owner| owner.controller == Some(true)) {
        return None;
    }
    let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always");
    Some(if policy == "Always" && !is_beside_custom { Lone::Stays } else { Lone::MayGo })
}

/// Whether `pod` is named as one of the backup's workloads names its own.
pub(super) fn is_made(objects: &BTreeMap<String, Vec<String>>, pod: &str) -> bool {
    objects.iter().any(|(kind, names)| {
        let Some(gvk) = parse_kind(kind) else { return false };
        let is_numbered = match (gvk.group.as_str(), gvk.kind.as_str()) {
            ("apps", "StatefulSet") => true,
            ("apps", "DaemonSet" | "ReplicaSet") | ("batch", "Job") | ("", "ReplicationController") => false,
            _ => return false,
        };
        names.iter().any(|owner| is_made_by(owner, pod, is_numbered))
    })
}

/// Whether the workload `owner` names its Pods as `pod` is named, each `NAMESPACE/NAME`.
fn is_made_by(owner: &str, pod: &str, is_numbered: bool) -> bool {
    let (Some((namespace, owner)), Some((of_pod, pod))) = (owner.split_once('/'), pod.split_once('/')) else {
        return false;
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let base = format!("{owner}-");
    if namespace != of_pod {
        return false;
    }
    if is_numbered {
        return pod.strip_prefix(&base).is_some_and(digits);
    }
    let tail = pod.strip_prefix(base.get(..BASE_LIMIT).unwrap_or(&base));
    tail.is_some_and(|tail| {
        // An indexed Job puts the index between.
        let tail =
            tail.rsplit_once('-').filter(|(index, _)| digits(index)).map_or(tail, |(_, suffix)| suffix);
        tail.len() == SUFFIX_LENGTH && tail.chars().all(|c| SUFFIX_LETTERS.contains(c))
    })
}

/// Whether the backup has objects in the Pod's namespace that only an operator knows.
fn has_custom(objects: &BTreeMap<String, Vec<String>>, pod: &str) -> bool {
    let namespace = pod.split_once('/').map_or("", |(namespace, _)| namespace);
    let is_beside = |name: &String| name.split_once('/').is_some_and(|(of, _)| of == namespace);
    objects.iter().any(|(kind, names)| {
        let group = parse_kind(kind).map(|gvk| gvk.group).unwrap_or_default();
        group.contains('.') && !group.ends_with(".k8s.io") && names.iter().any(is_beside)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_known_by_the_name_that_its_workload_gives() {
        let long = format!("shop/{}", "w".repeat(60));
        let objects = BTreeMap::from([
            ("apps/v1/ReplicaSet".to_owned(), vec!["shop/web-5d4f7c9b8".to_owned(), long]),
            ("apps/v1/StatefulSet".to_owned(), vec!["shop/db".to_owned()]),
            ("batch/v1/Job".to_owned(), vec!["shop/bill".to_owned()]),
            ("v1/Service".to_owned(), vec!["shop/tool".to_owned()]),
        ]);
        let cut = format!("shop/{}x7k2p", "w".repeat(58));
        for made in [
            "shop/web-5d4f7c9b8-x7k2p",
            "shop/db-0",
            "shop/db-12",
            "shop/bill-x7k2p",
            "shop/bill-3-x7k2p",
            &cut,
        ] {
            assert!(is_made(&objects, made), "{made}");
        }
        for lone in [
            "shop/db",
            "shop/db-tool",
            "other/db-0",
            "shop/web-5d4f7c9b8-tools",
            "shop/tool-x7k2p",
            "shop/db-",
        ] {
            assert!(!is_made(&objects, lone), "{lone}");
        }
    }

    #[test]
    fn a_pod_that_is_there_for_good_stays() {
        let pod = |metadata: serde_json::Value, policy: &str| -> Pod {
            serde_json::from_value(
                json!({ "metadata": metadata, "spec": { "containers": [], "restartPolicy": policy } }),
            )
            .unwrap()
        };
        assert_eq!(judge(Some(&pod(json!({}), "Always")), false), Some(Lone::Stays));
        assert_eq!(judge(Some(&pod(json!({}), "Always")), true), Some(Lone::MayGo));
        assert_eq!(judge(Some(&pod(json!({}), "Never")), false), Some(Lone::MayGo));
        assert_eq!(judge(None, false), Some(Lone::MayGo));
        let owner = json!({ "apiVersion": "v1", "kind": "K", "name": "k", "uid": "u", "controller": true });
        assert_eq!(judge(Some(&pod(json!({ "ownerReferences": [owner] }), "Always")), false), None);
    }

    #[test]
    fn only_what_no_cluster_has_by_itself_is_an_operators() {
        let objects = |kind: &str| BTreeMap::from([(kind.to_owned(), vec!["shop/a".to_owned()])]);
        assert!(has_custom(&objects("postgresql.cnpg.io/v1/Cluster"), "shop/p"));
        assert!(!has_custom(&objects("postgresql.cnpg.io/v1/Cluster"), "other/p"));
        for kind in ["v1/ConfigMap", "apps/v1/Deployment", "networking.k8s.io/v1/Ingress"] {
            assert!(!has_custom(&objects(kind), "shop/p"), "{kind}");
        }
    }
}
