//! Whether workloads run, and why not. The judgement is pure; waiting is bounded.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt};
use migrate_plugin_api::{Progress, StepContext, StepError};
use serde_json::Value;

use crate::kubernetes::kube_error;
use crate::workload::text;

/// Between two looks: quick enough for a person, light enough for the API server.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Reasons for waiting that don't pass by themselves soon.
const TROUBLE: [&str; 8] = [
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
];

/// Those of them that are about the image.
const IMAGE_TROUBLE: [&str; 4] =
    ["ErrImageNeverPull", "ErrImagePull", "ImagePullBackOff", "InvalidImageName"];

/// Something that makes pods and says how many are ready.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Workload {
    /// `Deployment`, `StatefulSet` or `DaemonSet`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// How far a workload is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Readiness {
    /// Pods that are available.
    pub available: i64,
    /// Pods of the newest revision.
    pub updated: i64,
    /// Pods that there should be.
    pub wanted: i64,
    /// Whether all of them are, of the newest revision, and none of an older one is left.
    pub is_ready: bool,
}

impl std::fmt::Display for Readiness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} pods available", self.available, self.wanted)?;
        if self.updated < self.wanted && !self.is_ready {
            write!(f, ", {} of the newest revision", self.updated)?;
        } else if self.available >= self.wanted && !self.is_ready {
            write!(f, ", not all of the newest revision")?;
        }
        Ok(())
    }
}

/// Kinds that can be waited for.
pub(crate) fn is_workload(kind: &str) -> bool {
    matches!(kind, "Deployment" | "StatefulSet" | "DaemonSet")
}

/// Judges a workload by its own status, as `kubectl rollout status` does:
/// <https://github.com/kubernetes/kubectl/blob/master/pkg/polymorphichelpers/rollout_status.go>.
pub(crate) fn readiness(object: &Value) -> Readiness {
    let number = |path: &str| object.pointer(path).and_then(Value::as_i64);
    let is_daemon = text(object, &["kind"]) == Some("DaemonSet");
    let (wanted, available, updated) = if is_daemon {
        let wanted = number("/status/desiredNumberScheduled").unwrap_or(0);
        let available = number("/status/numberAvailable").unwrap_or(0);
        (wanted, available, number("/status/updatedNumberScheduled").unwrap_or(0))
    } else {
        let wanted = number("/spec/replicas").unwrap_or(1);
        // StatefulSets of old API servers know no availability.
        let available =
            number("/status/availableReplicas").or_else(|| number("/status/readyReplicas")).unwrap_or(0);
        (wanted, available, number("/status/updatedReplicas").unwrap_or(0))
    };
    let is_seen =
        number("/status/observedGeneration").unwrap_or(0) >= number("/metadata/generation").unwrap_or(0);
    // Pods of this strategy are replaced by hand; below a partition they stay as they are.
    let strategy = object.pointer("/spec/updateStrategy/type").and_then(Value::as_str);
    let partition = number("/spec/updateStrategy/rollingUpdate/partition").unwrap_or(0);
    let is_updated = updated >= wanted - partition || strategy == Some("OnDelete");
    // What is available may be pods of before, beside new ones that never run.
    let is_deployment = text(object, &["kind"]) == Some("Deployment");
    let is_replaced = !is_deployment || number("/status/replicas").unwrap_or(0) <= updated;
    // A new daemon has not counted its nodes yet.
    let is_counted = !is_daemon || object.pointer("/status/observedGeneration").is_some();
    let is_ready = is_seen && is_counted && is_updated && is_replaced && available >= wanted;
    Readiness { available, updated, wanted, is_ready }
}

impl Workload {
    fn api(&self, client: &Client) -> Api<DynamicObject> {
        let gvk = GroupVersionKind::gvk("apps", "v1", &self.kind);
        Api::namespaced_with(client.clone(), &self.namespace, &ApiResource::from_gvk(&gvk))
    }

    /// Reads it; `None` where it isn't there.
    ///
    /// # Errors
    /// When it can't be read.
    pub(crate) async fn read(&self, client: &Client) -> Result<Option<Value>, StepError> {
        let found = self.api(client).get_opt(&self.name).await;
        let found = found.map_err(|e| kube_error(format!("failed to read {self}"), e))?;
        let value = found.map(|mut object| {
            object.types =
                Some(kube::api::TypeMeta { api_version: "apps/v1".into(), kind: self.kind.clone() });
            serde_json::to_value(object)
        });
        value.transpose().map_err(|e| StepError::permanent("failed to read an object as JSON").with_source(e))
    }

    /// Waits until it is ready, at most until `deadline`.
    ///
    /// # Errors
    /// `Permanent`, with the first reason its pods give, when it is not ready by then.
    pub(crate) async fn wait(
        &self,
        ctx: &StepContext,
        client: &Client,
        deadline: Instant,
    ) -> Result<Readiness, StepError> {
        loop {
            let object = self.read(client).await?;
            let Some(object) = object else {
                return Err(StepError::permanent(format!("there is no {self}")));
            };
            let now = readiness(&object);
            ctx.progress(
                Progress::message(format!("{self}: {now}"))
                    .items(now.available.max(0).unsigned_abs(), now.wanted.max(0).unsigned_abs()),
            );
            if now.is_ready {
                return Ok(now);
            }
            if Instant::now() >= deadline {
                let why = self.why(client, &object).await.unwrap_or_default();
                return Err(StepError::permanent(format!("{self} is not ready: {now}{why}")));
            }
            pause(ctx, POLL_INTERVAL).await?;
        }
    }

    /// The first trouble that its pods have, as `; pod …`.
    pub(crate) async fn why(&self, client: &Client, object: &Value) -> Result<String, StepError> {
        // Without one, every pod of the namespace would be its own.
        let Some(selector) = selector(object) else { return Ok(String::new()) };
        let pods = list_pods(client, &self.namespace, Some(&selector)).await?;
        Ok(pods.iter().find_map(trouble).map(|t| format!("; {t}")).unwrap_or_default())
    }
}

/// By what a workload finds its pods: `app=web,tier in (a,b),!old`.
fn selector(object: &Value) -> Option<String> {
    let labels = object.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
    let labels = labels.into_iter().flatten();
    let mut all: Vec<String> =
        labels.filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?))).collect();
    let expressions = object.pointer("/spec/selector/matchExpressions").and_then(Value::as_array);
    for expression in expressions.into_iter().flatten() {
        let key = text(expression, &["key"])?;
        let values = expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let values = values.collect::<Vec<_>>().join(",");
        all.push(match text(expression, &["operator"])? {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return None,
        });
    }
    (!all.is_empty()).then(|| all.join(","))
}

/// Sleeps, and ends at once when the run is asked to stop.
///
/// # Errors
/// Only `Cancelled`.
pub(crate) async fn pause(ctx: &StepContext, time: Duration) -> Result<(), StepError> {
    tokio::select! {
        () = ctx.cancel.cancelled() => Err(StepError::cancelled()),
        () = tokio::time::sleep(time) => Ok(()),
    }
}

/// The pods of a namespace.
///
/// # Errors
/// When they can't be listed.
pub(crate) async fn list_pods(
    client: &Client,
    namespace: &str,
    selector: Option<&str>,
) -> Result<Vec<Pod>, StepError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let params = ListParams { label_selector: selector.map(str::to_owned), ..ListParams::default() };
    let list = api.list(&params).await;
    Ok(list.map_err(|e| kube_error(format!("failed to list the pods of {namespace}"), e))?.items)
}

/// Whether the pod itself says that it is ready.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.iter();
    status.flat_map(|s| {
        let init = s.init_container_statuses.iter().flatten();
        init.chain(s.container_statuses.iter().flatten())
    })
}

fn waiting<'a>(status: &'a ContainerStatus, reasons: &[&str]) -> Option<(&'a str, &'a str)> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().filter(|reason| reasons.contains(reason))?;
    Some((reason, waiting.message.as_deref().unwrap_or_default()))
}

/// Why a pod doesn't run: `pod shop/web-1: container web: ImagePullBackOff: …`.
pub(crate) fn trouble(pod: &Pod) -> Option<String> {
    let name = format!("pod {}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    let of_container = statuses(pod).find_map(|status| {
        let (reason, message) = waiting(status, &TROUBLE)?;
        let message = if message.is_empty() { String::new() } else { format!(": {message}") };
        Some(format!("{name}: container {}: {reason}{message}", status.name))
    });
    let unscheduled = || {
        let conditions = pod.status.as_ref()?.conditions.as_ref()?;
        let condition = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
        Some(format!(
            "{name} can't be scheduled: {}",
            condition.message.as_deref().unwrap_or("no reason given")
        ))
    };
    of_container.or_else(unscheduled)
}

/// Images that pods of the list can't pull, each with its pod: `old.io/web:1 (pod shop/web-1: ErrImagePull)`.
pub(crate) fn unpulled(pods: &[Pod]) -> Vec<String> {
    let mut images = Vec::new();
    for pod in pods {
        for status in statuses(pod) {
            if let Some((reason, _)) = waiting(status, &IMAGE_TROUBLE) {
                let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
                images.push(format!("{} (pod {name}: {reason})", status.image));
            }
        }
    }
    images.sort();
    images
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn readiness_is_of_the_newest_revision() {
        let deployment = |status: Value| {
            readiness(
                &json!({ "kind": "Deployment", "metadata": { "generation": 2 }, "spec": { "replicas": 2 }, "status": status }),
            )
        };
        let full = json!({ "observedGeneration": 2, "updatedReplicas": 2, "availableReplicas": 2 });
        assert!(deployment(full).is_ready);
        let stale = json!({ "observedGeneration": 1, "updatedReplicas": 2, "availableReplicas": 2 });
        assert!(!deployment(stale).is_ready);
        let old_pods = json!({ "observedGeneration": 2, "updatedReplicas": 1, "availableReplicas": 2 });
        assert!(!deployment(old_pods).is_ready);
        assert_eq!(deployment(json!({})).to_string(), "0 of 2 pods available, 0 of the newest revision");
        let zero = json!({ "kind": "Deployment", "metadata": { "generation": 1 }, "spec": { "replicas": 0 },
            "status": { "observedGeneration": 1 } });
        assert!(readiness(&zero).is_ready);
        let on_delete = json!({ "kind": "StatefulSet", "metadata": { "generation": 1 }, "spec": { "replicas": 1,
            "updateStrategy": { "type": "OnDelete" } }, "status": { "observedGeneration": 1, "availableReplicas": 1 } });
        assert!(readiness(&on_delete).is_ready);
        let in_parts = |updated: i64| {
            json!({ "kind": "StatefulSet", "spec": { "replicas": 3, "updateStrategy": { "rollingUpdate": {
                "partition": 1 } } }, "status": { "availableReplicas": 3, "updatedReplicas": updated } })
        };
        assert!(readiness(&in_parts(2)).is_ready && !readiness(&in_parts(1)).is_ready);
        let new_daemon = json!({ "kind": "DaemonSet", "metadata": { "generation": 1 }, "status": {} });
        assert!(!readiness(&new_daemon).is_ready);
    }

    #[test]
    fn an_old_pod_that_still_runs_makes_no_deployment_ready() {
        let status = json!({ "replicas": 2, "updatedReplicas": 1, "availableReplicas": 1 });
        let mut deployment = json!({ "kind": "Deployment", "spec": { "replicas": 1 }, "status": status });
        let now = readiness(&deployment);
        assert!(!now.is_ready);
        assert_eq!(now.to_string(), "1 of 1 pods available, not all of the newest revision");
        deployment["status"]["replicas"] = json!(1);
        assert!(readiness(&deployment).is_ready);
    }

    #[test]
    fn pods_are_found_by_the_whole_selector_or_not_at_all() {
        let of = |spec: Value| selector(&json!({ "spec": { "selector": spec } }));
        let expressions = json!([{ "key": "tier", "operator": "In", "values": ["a", "b"] },
            { "key": "old", "operator": "DoesNotExist" }, { "key": "web", "operator": "Exists" }]);
        let both = of(json!({ "matchLabels": { "app": "web" }, "matchExpressions": expressions }));
        assert_eq!(both.as_deref(), Some("app=web,tier in (a,b),!old,web"));
        assert_eq!(of(json!({})), None);
        assert_eq!(of(json!({ "matchExpressions": [{ "key": "a", "operator": "Gt" }] })), None);
    }

    #[test]
    fn pods_say_why_they_do_not_run() {
        let pod: Pod = serde_json::from_value(json!({ "metadata": { "name": "web-1", "namespace": "shop" }, "status": {
            "containerStatuses": [{ "name": "web", "image": "new.io/web:1", "imageID": "", "ready": false, "restartCount": 0,
                "state": { "waiting": { "reason": "ImagePullBackOff", "message": "Back-off pulling image" } } }] } }))
        .unwrap();
        assert_eq!(
            trouble(&pod).unwrap(),
            "pod shop/web-1: container web: ImagePullBackOff: Back-off pulling image"
        );
        assert_eq!(unpulled(&[pod]), ["new.io/web:1 (pod shop/web-1: ImagePullBackOff)"]);
        let pending: Pod = serde_json::from_value(json!({ "metadata": { "name": "db-0", "namespace": "shop" }, "status": {
            "conditions": [{ "type": "PodScheduled", "status": "False", "message": "0/1 nodes are available" }] } }))
        .unwrap();
        assert_eq!(trouble(&pending).unwrap(), "pod shop/db-0 can't be scheduled: 0/1 nodes are available");
        assert!(unpulled(&[pending]).is_empty());
    }
}
