//! Why a restore doesn't get on: the claims and pods that its volumes wait for, and what the target
//! says about them.

use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use migrate_plugin_api::StepError;

use super::api::{RESTORE_NAME_LABEL, Velero, list_all};
use crate::kubernetes::kube_error;

/// Marks the class that claims without one get.
const DEFAULT_CLASS_ANNOTATION: &str = "storageclass.kubernetes.io/is-default-class";

/// Claims and pods that a restore made.
pub(super) struct Restored {
    claims: Vec<PersistentVolumeClaim>,
    pods: Vec<Pod>,
}

/// Reads what `restore` has made so far in all namespaces.
pub(super) async fn look(velero: &Velero, restore: &str) -> Result<Restored, StepError> {
    let labels = format!("{RESTORE_NAME_LABEL}={restore}");
    let claims: Api<PersistentVolumeClaim> = Api::all(velero.client.clone());
    let claims = list_all(&claims, &labels).await;
    let pods: Api<Pod> = Api::all(velero.client.clone());
    let pods = list_all(&pods, &labels).await;
    Ok(Restored {
        claims: claims.map_err(|e| kube_error("failed to list the restored claims", e))?,
        pods: pods.map_err(|e| kube_error("failed to list the restored pods", e))?,
    })
}

impl Restored {
    fn pending_claims(&self) -> impl Iterator<Item = &PersistentVolumeClaim> {
        self.claims.iter().filter(|c| c.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Bound"))
    }

    /// Phases of all, for telling whether anything moves.
    pub(super) fn fingerprint(&self) -> String {
        let claims = self.pending_claims().map(path);
        let pods = self.pods.iter().map(|p| format!("{}:{}", path(p), pod_state(p).unwrap_or_default()));
        claims.chain(pods).collect::<Vec<_>>().join(";")
    }

    /// What a waiting restore waits for, one line each.
    pub(super) fn waits(&self) -> Vec<String> {
        let claims = self.pending_claims().map(|c| format!("claim {} is not bound", path(c)));
        let pods = self
            .pods
            .iter()
            .filter_map(|p| Some(format!("pod {} is not running: {}", path(p), pod_state(p)?)));
        claims.chain(pods).collect()
    }

    /// Refuses to go on when a claim can never be bound: a restore that waits for it blocks every
    /// later one.
    pub(super) async fn refuse_missing_class(&self, velero: &Velero) -> Result<(), StepError> {
        let pending: Vec<&PersistentVolumeClaim> = self.pending_claims().collect();
        if pending.is_empty() {
            return Ok(());
        }
        let api: Api<StorageClass> = Api::all(velero.client.clone());
        let classes = list_all(&api, "").await;
        let classes = classes.map_err(|e| kube_error("failed to list the target's storage classes", e))?;
        match pending.iter().find_map(|claim| missing_class(claim, &classes)) {
            None => Ok(()),
            Some(message) => Err(StepError::permanent(message).with_hint(
                "create the class on the target and resume: the restore, which waits for it, goes on. To start \
                 over instead, delete the restore and its namespace, restart Velero, map the class and resume",
            )),
        }
    }
}

fn path(object: &impl ResourceExt) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

/// Why `claim` can never be bound with `classes`.
fn missing_class(claim: &PersistentVolumeClaim, classes: &[StorageClass]) -> Option<String> {
    let spec = claim.spec.as_ref()?;
    // A volume named beforehand needs no class.
    if spec.volume_name.as_deref().is_some_and(|name| !name.is_empty()) {
        return None;
    }
    let is_default =
        |c: &StorageClass| c.annotations().get(DEFAULT_CLASS_ANNOTATION).is_some_and(|v| v == "true");
    match spec.storage_class_name.as_deref() {
        Some(name) if !name.is_empty() && !classes.iter().any(|c| c.name_any() == name) => Some(format!(
            "claim {} waits for storage class `{name}`, which the target doesn't have",
            path(claim)
        )),
        None if !classes.iter().any(is_default) => {
            Some(format!("claim {} names no storage class, and the target has no default one", path(claim)))
        }
        _ => None,
    }
}

/// What keeps `pod` from running, apart from the restore itself; `None` when it runs or ended.
fn pod_state(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    if matches!(status.phase.as_deref(), Some("Running" | "Succeeded")) {
        return None;
    }
    let conditions = status.conditions.iter().flatten();
    let mut unscheduled = conditions.filter(|c| c.type_ == "PodScheduled" && c.status == "False");
    if let Some(condition) = unscheduled.next_back() {
        return Some(condition.message.clone().unwrap_or_else(|| "it isn't scheduled".to_owned()));
    }
    let containers =
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let waiting = containers.filter_map(|c| Some((c, c.state.as_ref()?.waiting.as_ref()?)));
    let mut reasons = waiting.filter_map(|(c, w)| {
        let reason = w.reason.as_deref().filter(|r| *r != "PodInitializing")?;
        let message = w.message.as_deref().map_or(String::new(), |m| format!(": {m}"));
        Some(format!("container {} is in {reason}{message}", c.name))
    });
    reasons.next().or_else(|| status.phase.clone())
}

/// The newest event about each claim and pod that isn't ready, so that a person needn't ask for it.
pub(super) async fn newest_events(velero: &Velero, restored: &Restored) -> Vec<String> {
    let claims = restored.pending_claims().map(|c| (c.namespace().unwrap_or_default(), c.name_any()));
    let pods = restored.pods.iter().filter(|p| pod_state(p).is_some());
    let pods = pods.map(|p| (p.namespace().unwrap_or_default(), p.name_any()));
    let mut lines = Vec::new();
    for (namespace, name) in claims.chain(pods).take(MAX_EVENTS) {
        let api: Api<Event> = Api::namespaced(velero.client.clone(), &namespace);
        let fields = ListParams::default().fields(&format!("involvedObject.name={name},type=Warning"));
        // An explanation is a courtesy: what can't be read is left out.
        let Ok(events) = api.list(&fields).await else { continue };
        let newest = events.items.into_iter().max_by_key(|e| e.last_timestamp.clone());
        if let Some(message) = newest.and_then(|e| e.message) {
            lines.push(format!("{namespace}/{name}: {message}"));
        }
    }
    lines
}

/// Objects whose events are quoted.
const MAX_EVENTS: usize = 5;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let metadata = json!({ "namespace": "shop", "name": "data" });
        serde_json::from_value(
            json!({ "metadata": metadata, "spec": spec, "status": { "phase": "Pending" } }),
        )
        .unwrap()
    }

    fn class(name: &str, default: &str) -> StorageClass {
        let annotations = json!({ DEFAULT_CLASS_ANNOTATION: default });
        let metadata = json!({ "name": name, "annotations": annotations });
        serde_json::from_value(json!({ "metadata": metadata, "provisioner": "p" })).unwrap()
    }

    #[test]
    fn a_claim_that_can_never_be_bound_names_its_class() {
        let classes = [class("premium", "false")];
        let why = |spec, classes: &[StorageClass]| missing_class(&claim(spec), classes);
        assert_eq!(
            why(json!({ "storageClassName": "gp3" }), &classes).unwrap(),
            "claim shop/data waits for storage class `gp3`, which the target doesn't have"
        );
        assert!(why(json!({}), &classes).unwrap().contains("no default one"));
        assert_eq!(why(json!({}), &[class("premium", "true")]), None);
        assert_eq!(why(json!({ "storageClassName": "premium" }), &classes), None);
        assert_eq!(why(json!({ "storageClassName": "" }), &classes), None);
        assert_eq!(why(json!({ "storageClassName": "gp3", "volumeName": "pv" }), &classes), None);
    }

    #[test]
    fn a_waiting_pod_says_why() {
        let pod = |status: Value| -> Pod {
            serde_json::from_value(
                json!({ "metadata": { "namespace": "shop", "name": "p" }, "status": status }),
            )
            .unwrap()
        };
        let unscheduled = pod(json!({ "phase": "Pending", "conditions": [
            { "type": "PodScheduled", "status": "False", "message": "0/3 nodes are available" }] }));
        let pulling = pod(json!({ "phase": "Pending", "containerStatuses": [
            { "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
              "state": { "waiting": { "reason": "PodInitializing" } } }],
            "initContainerStatuses": [
            { "name": "restore-wait", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
              "state": { "waiting": { "reason": "ErrImagePull", "message": "not found" } } }] }));
        assert_eq!(pod_state(&unscheduled).as_deref(), Some("0/3 nodes are available"));
        assert_eq!(
            pod_state(&pulling).as_deref(),
            Some("container restore-wait is in ErrImagePull: not found")
        );
        assert_eq!(pod_state(&pod(json!({ "phase": "Running" }))), None);
        let restored = Restored { claims: vec![claim(json!({}))], pods: vec![unscheduled] };
        assert_eq!(
            restored.waits(),
            ["claim shop/data is not bound", "pod shop/p is not running: 0/3 nodes are available"]
        );
    }
}
