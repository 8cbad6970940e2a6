//! What of an object belongs to the cluster it was read from, and so doesn't go into a file. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::apply_set;
use crate::workload::{controller, text};

/// Fields of `metadata` that the API server sets.
const METADATA: [&str; 9] = [
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
    // Controllers add theirs again; one whose controller is left behind would block every deletion.
    "finalizers",
];

/// Annotations that the cluster's own controllers and kubectl write.
const ANNOTATIONS: [&str; 16] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deployment.kubernetes.io/revision",
    "deployment.kubernetes.io/revision-history",
    "deployment.kubernetes.io/desired-replicas",
    "deployment.kubernetes.io/max-replicas",
    "deprecated.daemonset.template.generation",
    "pv.kubernetes.io/bind-completed",
    "pv.kubernetes.io/bound-by-controller",
    "volume.kubernetes.io/storage-provisioner",
    "volume.beta.kubernetes.io/storage-provisioner",
    "volume.kubernetes.io/selected-node",
    "volume.kubernetes.io/storage-resizer",
    "batch.kubernetes.io/job-tracking",
    "cronjob.kubernetes.io/instantiate",
    "endpoints.kubernetes.io/last-change-trigger-time",
    "control-plane.alpha.kubernetes.io/leader",
];

/// Labels by which a Job finds its pods: made of its uid.
const JOB_LABELS: [&str; 4] =
    ["controller-uid", "job-name", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name"];

/// Kinds that a cluster makes by itself.
const DERIVED_KINDS: [&str; 5] = ["Event", "ControllerRevision", "Lease", "PodMetrics", "CSIStorageCapacity"];

/// Who makes EndpointSlices of Services and of Endpoints. People's have another name in the label, or none.
/// <https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#management>
const SLICES_BY: [&str; 2] = ["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];

/// What a class of AWS says of all its Ingresses.
pub(crate) const CLASS_PARAMS: &str = "IngressClassParams";

/// Group of the snapshots of volumes, and of those of several at once.
const SNAPSHOTS: [&str; 2] = ["snapshot.storage.k8s.io", "groupsnapshot.storage.k8s.io"];

/// Why what a controller keeps in an object stays behind.
const STATE: &str = "a controller keeps its state of the source cluster in it";
const OF_PODS: &str = "its addresses are those of pods of the source cluster";

/// Why what has begun to run stays behind.
const AT_WORK: &str = "it is at work on the source cluster and would run a second time";

/// Whether a person should know of each object that is left out for this reason: it looks like their own.
pub(crate) fn is_told(reason: &str) -> bool {
    [STATE, OF_PODS, AT_WORK].contains(&reason)
}

/// Whether objects of this kind are never written by people, so that they need not even be listed.
pub(crate) fn is_derived(kind: &str) -> bool {
    DERIVED_KINDS.contains(&kind)
}

/// Whether a Service finds its pods by itself: its Endpoints are made of them, and nobody's own.
pub(crate) fn is_selecting(service: &Value) -> bool {
    service.pointer("/spec/selector").and_then(Value::as_object).is_some_and(|labels| !labels.is_empty())
}

/// Why `object` is not exported; `None` when it is. `services` are those of its namespace, and whether each
/// [finds its pods](is_selecting).
pub(crate) fn left_out(object: &Value, services: &BTreeMap<String, bool>) -> Option<&'static str> {
    let kind = text(object, &["kind"])?;
    let name = text(object, &["metadata", "name"]).unwrap_or_default();
    if is_derived(kind) {
        return Some("the cluster makes it");
    }
    let group = text(object, &["apiVersion"]).unwrap_or_default().split('/').next().unwrap_or_default();
    if SNAPSHOTS.contains(&group) {
        return Some(
            "data of the source cluster: of a new volume it would be another snapshot under its name",
        );
    }
    // What a class says of its Ingresses is needed to rewrite them.
    let is_of_aws = group.ends_with(".k8s.aws") || group.ends_with(".k8s.amazonaws.com");
    if is_of_aws && kind != CLASS_PARAMS {
        return Some("it belongs to an AWS controller");
    }
    if controller(object).is_some() {
        return Some("its controller makes it");
    }
    match kind {
        "Service" | "Endpoints" | "EndpointSlice" if is_api_server(object) => Some("the cluster makes it"),
        "Endpoints" if is_of_controller(object, services) => Some("the cluster makes it"),
        "Endpoints" | "ConfigMap" if is_of_election(object) => Some(STATE),
        "Endpoints" | "EndpointSlice" if leads_to_pods(object) => Some(OF_PODS),
        "Endpoints" if !has_addresses(object) => Some("it has no addresses"),
        "EndpointSlice" if label(object, "endpointslice.kubernetes.io/managed-by", &SLICES_BY) => {
            Some("the cluster makes it")
        }
        "ConfigMap" | "Secret" if text(object, &["metadata", "labels", apply_set::ID]).is_some() => {
            Some("it is the record of a set of the source cluster")
        }
        "ConfigMap" if name == "kube-root-ca.crt" => Some("the cluster makes it"),
        "Secret" if text(object, &["type"]) == Some("kubernetes.io/service-account-token") => {
            Some("a token of the source cluster")
        }
        "ServiceAccount" if name == "default" && is_bare_account(object) => Some("the cluster makes it"),
        "Job" if is_finished(object) => Some("it is done and must not run twice"),
        "Pod" if matches!(text(object, &["status", "phase"]), Some("Succeeded" | "Failed")) => {
            Some("it is done and must not run twice")
        }
        "Job" | "Pod" if is_at_work(object) => Some(AT_WORK),
        _ if object.pointer("/metadata/deletionTimestamp").is_some() => Some("it is being deleted"),
        _ => None,
    }
}

/// The Service `kubernetes`, by which pods find the API server of their own cluster, and its addresses.
fn is_api_server(object: &Value) -> bool {
    text(object, &["metadata", "namespace"]) == Some("default")
        && (text(object, &["metadata", "name"]) == Some("kubernetes")
            || label(object, "kubernetes.io/service-name", &["kubernetes"]))
}

/// Made of pods, or of the election of a leader. Of one without a Service it says so itself, at least since
/// Kubernetes 1.33.
fn is_of_controller(endpoints: &Value, services: &BTreeMap<String, bool>) -> bool {
    let has = |name: &str| endpoints["metadata"]["annotations"].get(name).is_some();
    let service = text(endpoints, &["metadata", "name"]).and_then(|name| services.get(name).copied());
    service.unwrap_or_else(|| {
        label(endpoints, "endpoints.kubernetes.io/managed-by", &["endpoint-controller"])
            || has("endpoints.kubernetes.io/last-change-trigger-time")
            || has("control-plane.alpha.kubernetes.io/leader")
    })
}

/// Patroni's leader, its configuration and what was initialised, in annotations. Elsewhere its members find a
/// cluster that is not theirs, and wait for its leader without end.
/// <https://github.com/patroni/patroni/blob/master/patroni/dcs/kubernetes.py>
fn is_of_election(object: &Value) -> bool {
    let has = |name: &str| object["metadata"]["annotations"].get(name).is_some();
    has("initialize")
        || (has("leader") && has("ttl"))
        || (has("config") && has("history"))
        || (has("leader") && has("sync_standby"))
}

/// Nobody writes down by hand which pod an address belongs to.
fn leads_to_pods(object: &Value) -> bool {
    let is_pod = |address: &Value| text(address, &["targetRef", "kind"]) == Some("Pod");
    all_addresses(object).any(is_pod)
}

fn has_addresses(endpoints: &Value) -> bool {
    all_addresses(endpoints).next().is_some()
}

/// Of Endpoints, ready or not, and of an EndpointSlice.
fn all_addresses(object: &Value) -> impl Iterator<Item = &Value> {
    fn list<'a>(object: &'a Value, name: &'static str) -> impl Iterator<Item = &'a Value> {
        object.get(name).and_then(Value::as_array).into_iter().flatten()
    }
    let subsets = list(object, "subsets")
        .flat_map(|subset| list(subset, "addresses").chain(list(subset, "notReadyAddresses")));
    subsets.chain(list(object, "endpoints"))
}

fn label(object: &Value, name: &str, values: &[&str]) -> bool {
    text(object, &["metadata", "labels", name]).is_some_and(|value| values.contains(&value))
}

fn is_bare_account(account: &Value) -> bool {
    let has = |field: &str| match account.pointer(field) {
        Some(Value::Object(map)) => !map.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        _ => false,
    };
    let says = ["/metadata/annotations", "/metadata/labels", "/imagePullSecrets"].into_iter().any(has);
    !says && account.get("automountServiceAccountToken").is_none()
}

/// Whether a Job has come to its end.
pub(crate) fn is_finished(job: &Value) -> bool {
    let conditions = job.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        matches!(text(condition, &["type"]), Some("Complete" | "Failed"))
            && text(condition, &["status"]) == Some("True")
    })
}

/// Whether a Job, or a Pod that comes to an end, has begun: its effects are under way. A Job that is suspended does nothing
/// elsewhere either.
fn is_at_work(object: &Value) -> bool {
    let is_suspended = object.pointer("/spec/suspend").and_then(Value::as_bool) == Some(true);
    let is_active = object.pointer("/status/active").and_then(Value::as_u64).is_some_and(|active| active > 0);
    let has_begun = is_active
        || text(object, &["status", "startTime"]).is_some()
        || text(object, &["status", "phase"]) == Some("Running");
    let is_once = text(object, &["kind"]) == Some("Job")
        || matches!(text(object, &["spec", "restartPolicy"]), Some("Never" | "OnFailure"));
    is_once && has_begun && !is_suspended
}

/// Whether an object begins to run by the clock, on each cluster that has it.
pub(crate) fn is_scheduled(object: &Value) -> bool {
    text(object, &["kind"]) == Some("CronJob")
        && object.pointer("/spec/suspend").and_then(Value::as_bool) != Some(true)
}

/// What a claim was filled from: `VolumeSnapshot pre-upgrade`.
pub(crate) fn data_source(object: &Value) -> Option<String> {
    let spec = object.get("spec").filter(|_| text(object, &["kind"]) == Some("PersistentVolumeClaim"))?;
    let from = spec.get("dataSourceRef").or_else(|| spec.get("dataSource"))?;
    Some(format!("{} {}", text(from, &["kind"])?, text(from, &["name"])?))
}

/// Takes from `object` what the source cluster put there.
pub(crate) fn strip(object: &mut Value) {
    let kind = text(object, &["kind"]).unwrap_or_default().to_owned();
    if let Some(fields) = object.as_object_mut() {
        fields.shift_remove("status");
    }
    if let Some(metadata) = object.get_mut("metadata") {
        strip_metadata(metadata);
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.shift_remove("ownerReferences");
        }
        // A set of the source; here it would be somebody else's.
        remove(metadata, "/labels", &[apply_set::PART_OF]);
    }
    match kind.as_str() {
        "Service" => service(object),
        // What it was filled from is not there; the data comes on another way.
        "PersistentVolumeClaim" => remove(object, "/spec", &["volumeName", "dataSource", "dataSourceRef"]),
        "ServiceAccount" => remove(object, "", &["secrets"]),
        "Namespace" => {
            remove(object, "", &["spec"]);
            remove(object, "/metadata/labels", &["kubernetes.io/metadata.name"]);
        }
        "Pod" => {
            if let Some(spec) = object.get_mut("spec") {
                pod(spec);
            }
        }
        "Job" => job(object),
        "CustomResourceDefinition" => crd(object),
        "StatefulSet" => {
            let templates = object.pointer_mut("/spec/volumeClaimTemplates").and_then(Value::as_array_mut);
            for template in templates.into_iter().flatten() {
                remove(template, "", &["status"]);
                if let Some(metadata) = template.get_mut("metadata") {
                    strip_metadata(metadata);
                }
            }
        }
        _ => {}
    }
    for template in
        ["/spec/template/metadata", "/spec/jobTemplate/spec/template/metadata", "/spec/jobTemplate/metadata"]
    {
        remove(object, template, &["creationTimestamp"]);
    }
    prune(object, "/metadata", "annotations");
    prune(object, "/metadata", "labels");
}

fn strip_metadata(metadata: &mut Value) {
    let Some(fields) = metadata.as_object_mut() else { return };
    for name in METADATA {
        fields.shift_remove(name);
    }
    if let Some(annotations) = fields.get_mut("annotations").and_then(Value::as_object_mut) {
        for name in ANNOTATIONS {
            annotations.shift_remove(name);
        }
    }
}

/// Addresses are the cluster's own, but for `None`, which makes a Service headless. Node ports of a
/// load balancer are never chosen by people; those of a NodePort Service may be, and stay.
fn service(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if spec.get("clusterIP").and_then(Value::as_str) != Some("None") {
        spec.shift_remove("clusterIP");
    }
    for name in ["clusterIPs", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort"] {
        spec.shift_remove(name);
    }
    if spec.get("type").and_then(Value::as_str) == Some("LoadBalancer") {
        let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
        for port in ports.into_iter().flatten() {
            remove(port, "", &["nodePort"]);
        }
    }
}

/// A pod made by hand: what admission and the scheduler added is not part of it.
fn pod(spec: &mut Value) {
    remove(spec, "", &["nodeName", "serviceAccount", "priority", "preemptionPolicy", "ephemeralContainers"]);
    let injected =
        |volume: &Value| text(volume, &["name"]).is_some_and(|n| n.starts_with("kube-api-access-"));
    retain(spec, "volumes", |volume| !injected(volume));
    for list in ["containers", "initContainers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            retain(container, "volumeMounts", |mount| !injected(mount));
        }
    }
    retain(spec, "tolerations", |toleration| {
        let key = text(toleration, &["key"]).unwrap_or_default();
        let added = matches!(key, "node.kubernetes.io/not-ready" | "node.kubernetes.io/unreachable")
            && toleration.get("tolerationSeconds").and_then(Value::as_i64) == Some(300);
        !added
    });
}

fn job(object: &mut Value) {
    if object.pointer("/spec/manualSelector").and_then(Value::as_bool) == Some(true) {
        return;
    }
    remove(object, "/spec", &["selector"]);
    remove(object, "/metadata/labels", &JOB_LABELS);
    remove(object, "/spec/template/metadata/labels", &JOB_LABELS);
    prune(object, "/spec/template/metadata", "labels");
}

/// The bundle of a conversion webhook is the source cluster's; who set it sets it again.
fn crd(object: &mut Value) {
    remove(object, "/spec/conversion/webhook/clientConfig", &["caBundle"]);
}

fn remove(object: &mut Value, at: &str, names: &[&str]) {
    if let Some(fields) = object.pointer_mut(at).and_then(Value::as_object_mut) {
        for name in names {
            fields.shift_remove(*name);
        }
    }
}

/// Removes the map `name` at `at` where nothing is left in it.
fn prune(object: &mut Value, at: &str, name: &str) {
    if let Some(fields) = object.pointer_mut(at).and_then(Value::as_object_mut)
        && fields.get(name).and_then(Value::as_object).is_some_and(Map::is_empty)
    {
        fields.shift_remove(name);
    }
}

fn retain(object: &mut Value, name: &str, keep: impl Fn(&Value) -> bool) {
    let Some(fields) = object.as_object_mut() else { return };
    let Some(items) = fields.get_mut(name).and_then(Value::as_array_mut) else { return };
    items.retain(keep);
    if items.is_empty() {
        fields.shift_remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::yaml::to_yaml;
    use serde_json::json;

    fn stripped(mut object: Value) -> String {
        strip(&mut object);
        to_yaml(&object)
    }

    #[test]
    fn what_the_cluster_added_is_gone() {
        let metadata = json!({ "name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "1", "generation": 3,
            "creationTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["service.kubernetes.io/load-balancer-cleanup"],
            "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "{}" } });
        let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {
            "type": "LoadBalancer", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "healthCheckNodePort": 30001, "selector": { "app": "web" },
            "ports": [{ "port": 80, "targetPort": 8080, "nodePort": 30000 }] }, "status": { "loadBalancer": {} } });
        let headless = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "db" },
            "spec": { "clusterIP": "None", "clusterIPs": ["None"] } });
        let claim = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "data",
            "annotations": { "pv.kubernetes.io/bind-completed": "yes", "mine": "kept" } },
            "spec": { "storageClassName": "gp3", "volumeName": "pvc-1",
                "dataSource": { "kind": "VolumeSnapshot", "name": "pre-upgrade" },
                "dataSourceRef": { "kind": "VolumeSnapshot", "name": "pre-upgrade" } } });
        assert_eq!(data_source(&claim).as_deref(), Some("VolumeSnapshot pre-upgrade"));
        assert_eq!(data_source(&service), None);
        let job = json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "load",
            "labels": { "controller-uid": "u", "app": "load" } }, "spec": { "selector": { "matchLabels": {} },
            "template": { "metadata": { "creationTimestamp": null, "labels": { "batch.kubernetes.io/controller-uid": "u" } } } } });
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "one" }, "spec": { "nodeName": "n1",
            "tolerations": [{ "key": "node.kubernetes.io/not-ready", "tolerationSeconds": 300 }],
            "volumes": [{ "name": "kube-api-access-x1" }, { "name": "data" }],
            "containers": [{ "name": "a", "volumeMounts": [{ "name": "kube-api-access-x1" }] }] } });
        let all: Vec<String> = [service, headless, claim, job, pod].into_iter().map(stripped).collect();
        insta::assert_snapshot!(all.join("---\n"));
    }

    #[test]
    fn addresses_that_people_wrote_are_exported() {
        let services = BTreeMap::from([("web".to_owned(), true), ("db".to_owned(), false)]);
        let of = |kind: &str, name: &str, metadata: Value| {
            let subsets = json!([{ "addresses": [{ "ip": "192.0.2.7" }] }]);
            let mut object =
                json!({ "apiVersion": "v1", "kind": kind, "metadata": metadata, "subsets": subsets });
            object["metadata"]["name"] = name.into();
            left_out(&object, &services)
        };
        let labels = |name: &str, value: &str| json!({ "namespace": "shop", "labels": { (name): value } });
        let noted = |name: &str| json!({ "annotations": { (name): "x" } });
        // Of a Service without a selector (any more), or of none at all.
        let trigger = noted("endpoints.kubernetes.io/last-change-trigger-time");
        let leader = noted("control-plane.alpha.kubernetes.io/leader");
        let managed = labels("endpoints.kubernetes.io/managed-by", "endpoint-controller");
        for (name, metadata) in [("db", json!({})), ("db", trigger.clone()), ("gluster", json!({}))] {
            assert_eq!(of("Endpoints", name, metadata), None, "{name}");
        }
        for (name, metadata) in [("web", json!({})), ("old", trigger), ("lock", leader), ("old", managed)] {
            assert_eq!(of("Endpoints", name, metadata), Some("the cluster makes it"), "{name}");
        }
        let by =
            |who: &str| of("EndpointSlice", "db-1", labels("endpointslice.kubernetes.io/managed-by", who));
        assert_eq!((by("staff"), of("EndpointSlice", "db-1", json!({}))), (None, None));
        assert!(by("endpointslice-controller.k8s.io").is_some());
        assert!(by("endpointslicemirroring-controller.k8s.io").is_some());
        assert_eq!(of("ReplicaSet", "web", json!({})), None);
        // The target's API server is not the source's.
        for kind in ["Service", "Endpoints", "EndpointSlice"] {
            assert!(of(kind, "kubernetes", json!({ "namespace": "default" })).is_some(), "{kind}");
            assert!(of(kind, "kubernetes", json!({ "namespace": "shop" })).is_none(), "{kind}");
        }
        let service = |spec: Value| is_selecting(&json!({ "kind": "Service", "spec": spec }));
        assert!(service(json!({ "selector": { "app": "web" } })));
        assert!(!service(json!({ "selector": {} })) && !service(json!({})));
    }

    #[test]
    fn addresses_and_state_of_controllers_stay_behind() {
        let services = BTreeMap::from([("db".to_owned(), false), ("db-config".to_owned(), false)]);
        let of = |kind: &str, name: &str, annotations: &[&str], rest: Value| {
            let annotations: Map<String, Value> =
                annotations.iter().map(|name| ((*name).to_owned(), json!("x"))).collect();
            let mut object = json!({ "apiVersion": "v1", "kind": kind,
                "metadata": { "name": name, "namespace": "shop", "annotations": annotations } });
            for (key, value) in rest.as_object().unwrap() {
                object[key] = value.clone();
            }
            left_out(&object, &services)
        };
        let to = |kind: &str| json!([{ "ip": "10.0.0.7", "targetRef": { "kind": kind, "name": "db-0" } }]);
        let ready =
            |kind: &str| json!({ "subsets": [{ "addresses": to(kind), "ports": [{ "port": 5432 }] }] });
        let none = json!({});
        // As Patroni keeps them, of Services without a selector.
        assert_eq!(of("Endpoints", "db-config", &["config", "history"], none.clone()), Some(STATE));
        assert_eq!(of("Endpoints", "db-config", &["initialize"], none.clone()), Some(STATE));
        assert_eq!(of("Endpoints", "db", &["leader", "ttl", "optime"], ready("Pod")), Some(STATE));
        assert_eq!(of("ConfigMap", "db-config", &["initialize"], none.clone()), Some(STATE));
        assert_eq!(of("ConfigMap", "app", &["config", "leader"], none.clone()), None);
        // As others may.
        assert_eq!(of("Endpoints", "db", &[], ready("Pod")), Some(OF_PODS));
        let waiting = json!({ "subsets": [{ "notReadyAddresses": to("Pod") }] });
        assert_eq!(of("Endpoints", "gluster", &[], waiting), Some(OF_PODS));
        assert_eq!(of("EndpointSlice", "db-1", &[], json!({ "endpoints": to("Pod") })), Some(OF_PODS));
        assert_eq!(of("Endpoints", "db", &[], none), Some("it has no addresses"));
        // People's.
        assert_eq!(of("Endpoints", "db", &[], ready("Node")), None);
        assert_eq!(
            of("EndpointSlice", "db-1", &[], json!({ "endpoints": [{ "addresses": ["192.0.2.7"] }] })),
            None
        );
        assert!(is_told(STATE) && is_told(OF_PODS) && !is_told("it has no addresses"));
    }

    #[test]
    fn what_is_made_again_or_done_is_left_out() {
        let of = |kind: &str, rest: Value| {
            let mut object = json!({ "kind": kind, "metadata": { "name": "x" } });
            for (key, value) in rest.as_object().unwrap() {
                object[key] = value.clone();
            }
            left_out(&object, &BTreeMap::new())
        };
        let owned = json!({ "metadata": { "name": "x", "ownerReferences": [
            { "kind": "ReplicaSet", "name": "web", "controller": true }] } });
        assert!(of("Pod", owned.clone()).is_some() && of("Job", owned).is_some());
        assert!(of("Lease", json!({})).is_some());
        assert!(of("ConfigMap", json!({ "metadata": { "name": "kube-root-ca.crt" } })).is_some());
        assert!(of("Secret", json!({ "type": "kubernetes.io/service-account-token" })).is_some());
        assert!(of("Secret", json!({ "type": "Opaque" })).is_none());
        let done = json!({ "status": { "conditions": [{ "type": "Complete", "status": "True" }] } });
        assert!(of("Job", done).is_some() && of("Job", json!({})).is_none());
        let active = json!({ "status": { "active": 1 } });
        let begun = json!({ "status": { "startTime": "2026-01-01T00:00:00Z" } });
        assert_eq!((of("Job", active), of("Job", begun)), (Some(AT_WORK), Some(AT_WORK)));
        assert_eq!(of("Job", json!({ "spec": { "suspend": true }, "status": { "active": 0 } })), None);
        let pod = |policy: &str, status: Value| {
            of("Pod", json!({ "spec": { "restartPolicy": policy }, "status": status }))
        };
        assert_eq!(pod("Never", json!({ "phase": "Running" })), Some(AT_WORK));
        assert_eq!(
            pod("OnFailure", json!({ "phase": "Pending", "startTime": "2026-01-01T00:00:00Z" })),
            Some(AT_WORK)
        );
        assert_eq!(pod("Never", json!({ "phase": "Pending" })), None);
        assert_eq!(pod("Always", json!({ "phase": "Running" })), None);
        assert!(is_told(AT_WORK) && !is_told("it is done and must not run twice"));
        let cron = |suspend: Value| is_scheduled(&json!({ "kind": "CronJob", "spec": suspend }));
        assert!(cron(json!({})) && cron(json!({ "suspend": false })) && !cron(json!({ "suspend": true })));
        let default =
            |annotations: Value| json!({ "metadata": { "name": "default", "annotations": annotations } });
        assert!(of("ServiceAccount", default(json!({}))).is_some());
        assert!(of("ServiceAccount", default(json!({ "eks.amazonaws.com/role-arn": "x" }))).is_none());
        let mut hardened = default(json!({}));
        hardened["automountServiceAccountToken"] = json!(false);
        assert!(of("ServiceAccount", hardened).is_none());
        let labelled = json!({ "metadata": { "name": "default", "labels": { "team": "shop" } } });
        assert!(of("ServiceAccount", labelled).is_none());
        for group in ["snapshot.storage.k8s.io/v1", "groupsnapshot.storage.k8s.io/v1beta1"] {
            let reason = of("VolumeSnapshot", json!({ "apiVersion": group }));
            assert!(reason.is_some_and(|reason| reason.starts_with("data of the source cluster")));
        }
        let aws = json!({ "apiVersion": "elbv2.k8s.aws/v1beta1" });
        assert_eq!(of("TargetGroupBinding", aws.clone()), Some("it belongs to an AWS controller"));
        assert_eq!(of("IngressClassParams", aws), None);
        let label =
            |name: &str| json!({ "metadata": { "name": "x", "labels": { (name): "applyset-a-v1" } } });
        assert!(of("ConfigMap", label("applyset.kubernetes.io/id")).is_some());
        assert!(of("ConfigMap", label("applyset.kubernetes.io/part-of")).is_none());
        let mut member = label("applyset.kubernetes.io/part-of");
        strip(&mut member);
        assert_eq!(member.pointer("/metadata/labels/applyset.kubernetes.io~1part-of"), None);
        let half_owned =
            json!({ "metadata": { "name": "x", "ownerReferences": [{ "kind": "App", "name": "a" }] } });
        assert!(of("ConfigMap", half_owned).is_none());
    }
}
