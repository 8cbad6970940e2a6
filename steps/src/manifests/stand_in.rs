//! An API server of our own for the tests of `manifest.apply` and what reads a cluster: strict in what applying and
//! deleting go by (versions, UIDs, preconditions, dry runs, finalizers), and nothing else. No other path is served.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// `apiVersion`, kind, plural, whether it is in namespaces.
type Kind = (&'static str, &'static str, &'static str, bool);

const KINDS: [Kind; 26] = [
    ("v1", "ConfigMap", "configmaps", true),
    ("v1", "Namespace", "namespaces", false),
    ("v1", "Pod", "pods", true),
    ("v1", "PersistentVolumeClaim", "persistentvolumeclaims", true),
    ("v1", "Service", "services", true),
    ("apps/v1", "ControllerRevision", "controllerrevisions", true),
    ("apps/v1", "StatefulSet", "statefulsets", true),
    ("batch/v1", "Job", "jobs", true),
    ("batch/v1", "CronJob", "cronjobs", true),
    ("example.com/v1", "Widget", "widgets", true),
    ("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", false),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", false),
    ("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", false),
    ("external-secrets.io/v1", "ClusterSecretStore", "clustersecretstores", false),
    ("external-secrets.io/v1", "ExternalSecret", "externalsecrets", true),
    ("networking.k8s.io/v1", "Ingress", "ingresses", true),
    ("networking.k8s.io/v1", "IngressClass", "ingressclasses", false),
    ("elbv2.k8s.aws/v1beta1", "IngressClassParams", "ingressclassparams", false),
    ("eks.amazonaws.com/v1", "IngressClassParams", "ingressclassparams", false),
    ("snapshot.storage.k8s.io/v1", "VolumeSnapshot", "volumesnapshots", true),
    ("storage.k8s.io/v1", "StorageClass", "storageclasses", false),
    ("v1", "Endpoints", "endpoints", true),
    ("discovery.k8s.io/v1", "EndpointSlice", "endpointslices", true),
    ("apps/v1", "ReplicaSet", "replicasets", true),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", false),
    ("apiregistration.k8s.io/v1", "APIService", "apiservices", false),
];

/// What a test does to a request before it is answered: a status refuses it.
type Hook = Box<dyn FnMut(&str, &mut Objects) -> Option<u16> + Send>;

/// Objects by `plural/namespace/name`.
pub(crate) type Objects = BTreeMap<String, Value>;

#[derive(Default)]
pub(crate) struct Held {
    pub objects: Objects,
    /// Every request that changed something, in order: `PATCH services/shop/web`.
    pub writes: Vec<String>,
    /// API groups that are not served (any more).
    pub without: Vec<&'static str>,
    pub hook: Option<Hook>,
    count: u64,
}

pub(crate) struct StandIn {
    held: Arc<Mutex<Held>>,
    pub address: String,
}

impl StandIn {
    pub(crate) async fn start() -> Self {
        let held = Arc::new(Mutex::new(Held::default()));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&held));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let stand_in = Self { held, address };
        stand_in.with(|held| held.put("namespaces//shop", json!({ "metadata": { "name": "shop" } })));
        stand_in
    }

    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut Held) -> T) -> T {
        f(&mut self.held.lock().unwrap())
    }

    /// What was written since the last call.
    pub(crate) fn writes(&self) -> Vec<String> {
        self.with(|held| std::mem::take(&mut held.writes))
    }

    pub(crate) fn kubeconfig(&self, path: &Path) {
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters: [{{name: a, cluster: {{server: '{}'}}}}]\nusers: [{{name: a, user: {{}}}}]\n\
             contexts: [{{name: aks, context: {{cluster: a, user: a}}}}]\n",
            self.address
        );
        std::fs::write(path, text).unwrap();
    }
}

impl Held {
    /// Puts an object there, as nobody's.
    pub(crate) fn put(&mut self, at: &str, mut object: Value) {
        self.count += 1;
        object["metadata"]["uid"] = json!(format!("uid-{}", self.count));
        object["metadata"]["resourceVersion"] = json!(self.count.to_string());
        self.objects.insert(at.to_owned(), object);
    }

    fn kinds(&self) -> impl Iterator<Item = &'static Kind> {
        KINDS.iter().filter(|kind| !self.without.contains(&group(kind)))
    }

    /// The kind that a path is about, and the rest: namespace and name, where it has them.
    fn route(&self, path: &str) -> Option<(&'static Kind, String, Option<String>)> {
        self.kinds().find_map(|kind| {
            let root = if kind.0.contains('/') { "/apis/" } else { "/api/" };
            let rest = path.strip_prefix(root)?.strip_prefix(kind.0)?.strip_prefix('/')?;
            let (namespace, rest) = match rest.strip_prefix("namespaces/").filter(|_| kind.3) {
                Some(rest) => rest.split_once('/')?,
                None => ("", rest),
            };
            let rest = rest.strip_prefix(kind.2)?;
            let name = match rest {
                "" => None,
                rest => Some(rest.strip_prefix('/').filter(|name| !name.contains('/'))?.to_owned()),
            };
            Some((kind, namespace.to_owned(), name))
        })
    }

    fn patch(&mut self, kind: &Kind, at: &str, query: &BTreeMap<String, String>, body: &[u8]) -> Response {
        let applied: Value = serde_json::from_slice(body).unwrap();
        assert_eq!((&applied["apiVersion"], &applied["kind"]), (&json!(kind.0), &json!(kind.1)));
        let namespace = at.split('/').nth(1).unwrap();
        if kind.3 && !self.objects.contains_key(&format!("namespaces//{namespace}")) {
            return status(404, "namespace not found");
        }
        let before = self.objects.get(at).cloned();
        let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
        let wanted = version(&applied);
        if !wanted.is_null() && before.as_ref().map(version) != Some(wanted) {
            return status(409, "the object has been modified");
        }
        // As of k8s.io/apiserver's `patch.go`: an apply that names a UID creates nothing.
        let uid = &applied["metadata"]["uid"];
        match &before {
            None if !uid.is_null() => return status(409, "uid mismatch: no existing object was found"),
            Some(before) if !uid.is_null() && *uid != before["metadata"]["uid"] => {
                return status(422, "metadata.uid: field is immutable");
            }
            _ => {}
        }
        let mut after = before.clone().unwrap_or_else(|| json!({}));
        merge(&mut after, &applied);
        let manager = &query["fieldManager"];
        let fields = |key: &str| -> serde_json::Map<String, Value> {
            let keys = applied["metadata"][key].as_object().into_iter().flat_map(|all| all.keys());
            keys.map(|key| (format!("f:{key}"), json!({}))).collect()
        };
        let entry = json!({ "manager": manager, "operation": "Apply", "apiVersion": kind.0, "fieldsType": "FieldsV1",
            "fieldsV1": { "f:metadata": { "f:labels": fields("labels"), "f:annotations": fields("annotations") } } });
        let mut entries = after["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        entries.retain(|entry| entry["manager"] != json!(manager));
        entries.push(entry);
        after["metadata"]["managedFields"] = Value::from(entries);
        if query.contains_key("dryRun") {
            return ok(&after);
        }
        self.writes.push(format!("PATCH {at}"));
        if before.as_ref() != Some(&after) {
            let uid = before.as_ref().map(|before| before["metadata"]["uid"].clone());
            self.put(at, after);
            if let Some(uid) = uid {
                self.objects.get_mut(at).unwrap()["metadata"]["uid"] = uid;
            }
        }
        ok(&self.objects[at])
    }

    fn create(&mut self, kind: &Kind, at: &str, query: &BTreeMap<String, String>, body: &[u8]) -> Response {
        let mut made: Value = serde_json::from_slice(body).unwrap();
        made["apiVersion"] = json!(kind.0);
        made["kind"] = json!(kind.1);
        let at = format!("{at}{}", made["metadata"]["name"].as_str().unwrap());
        let namespace = at.split('/').nth(1).unwrap();
        if kind.3 && !self.objects.contains_key(&format!("namespaces//{namespace}")) {
            return status(404, "namespace not found");
        }
        if self.objects.contains_key(&at) {
            return status(409, "already exists");
        }
        if query.contains_key("dryRun") {
            return ok(&made);
        }
        self.writes.push(format!("POST {at}"));
        self.put(&at, made);
        ok(&self.objects[&at])
    }

    fn delete(&mut self, at: &str, body: &[u8]) -> Response {
        let options: Value = serde_json::from_slice(body).unwrap();
        let Some(object) = self.objects.get_mut(at) else { return status(404, "not found") };
        for key in ["uid", "resourceVersion"] {
            let wanted = &options["preconditions"][key];
            assert!(wanted.is_string(), "a deletion without its {key}: {options}");
            if *wanted != object["metadata"][key] {
                return status(409, "the precondition is not met");
            }
        }
        let answer = ok(object);
        if options["dryRun"].is_null() {
            self.writes.push(format!("DELETE {at}"));
            if object["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty()) {
                self.count += 1;
                object["metadata"]["resourceVersion"] = json!(self.count.to_string());
                object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            } else {
                self.objects.remove(at);
            }
        }
        answer
    }

    fn discovery(&self, path: &str) -> Option<Value> {
        let versions: std::collections::BTreeSet<&str> =
            self.kinds().map(|kind| kind.0).filter(|version| version.contains('/')).collect();
        let listed = |version: &str| {
            let kinds = self.kinds().filter(|kind| kind.0 == version);
            let resources: Vec<Value> = kinds
                .map(|kind| {
                    json!({ "name": kind.2, "singularName": "", "namespaced": kind.3, "kind": kind.1,
                    "verbs": ["get", "list", "patch", "delete"] })
                })
                .collect();
            json!({ "kind": "APIResourceList", "groupVersion": version, "resources": resources })
        };
        Some(match path {
            "/version" => {
                json!({ "major": "1", "minor": "36", "gitVersion": "v1.36.3", "gitCommit": "", "gitTreeState": "",
                "buildDate": "", "goVersion": "", "compiler": "", "platform": "" })
            }
            "/api" => json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] }),
            "/api/v1" => listed("v1"),
            "/apis" => {
                let group = |version: &&str| {
                    let one = json!({ "groupVersion": version, "version": "v1" });
                    json!({ "name": version.split('/').next(), "versions": [one], "preferredVersion": one })
                };
                json!({ "kind": "APIGroupList", "groups": versions.iter().map(group).collect::<Vec<_>>() })
            }
            path => listed(versions.get(path.strip_prefix("/apis/")?)?),
        })
    }
}

fn group(kind: &Kind) -> &'static str {
    kind.0.split_once('/').map_or("", |(group, _)| group)
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (into, from) => *into = from.clone(),
    }
}

fn ok(object: &Value) -> Response {
    axum::Json(object).into_response()
}

fn status(code: u16, message: &str) -> Response {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        503 => "ServiceUnavailable",
        _ => "",
    };
    let body = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
        "reason": reason, "message": message });
    (StatusCode::from_u16(code).unwrap(), axum::Json(body)).into_response()
}

async fn answer(
    State(held): State<Arc<Mutex<Held>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut held = held.lock().unwrap();
    if let Some(found) = held.discovery(uri.path()) {
        return ok(&found);
    }
    let Some((kind, namespace, name)) = held.route(uri.path()) else { return status(404, "no such path") };
    let at = format!("{}/{namespace}/{}", kind.2, name.as_deref().unwrap_or_default());
    if let Some(mut hook) = held.hook.take() {
        let refused = hook(&format!("{method} {at}"), &mut held.objects);
        held.hook = Some(hook);
        if let Some(code) = refused {
            return status(code, "refused by the test");
        }
    }
    let query: BTreeMap<String, String> =
        url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let accepted = headers.get("accept").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let only_metadata = accepted.contains("as=PartialObjectMetadata");
    match (method, name) {
        (Method::GET, Some(_)) => match held.objects.get(&at) {
            None => status(404, "not found"),
            Some(object) if only_metadata => ok(&json!({ "apiVersion": "meta.k8s.io/v1",
                "kind": "PartialObjectMetadata", "metadata": object["metadata"] })),
            Some(object) => ok(object),
        },
        (Method::GET, None) => {
            let selector = query.get("labelSelector").and_then(|selector| selector.split_once('='));
            let is_meant = |object: &&Value| {
                selector.is_none_or(|(key, value)| object["metadata"]["labels"][key] == json!(value))
            };
            // Of all namespaces, where none is named.
            let place = if namespace.is_empty() && kind.3 { format!("{}/", kind.2) } else { at };
            let in_place = held.objects.iter().filter(|(key, _)| key.starts_with(&place));
            let items: Vec<&Value> = in_place.map(|(_, object)| object).filter(is_meant).collect();
            ok(
                &json!({ "kind": format!("{}List", kind.1), "apiVersion": kind.0, "metadata": {}, "items": items }),
            )
        }
        (Method::PATCH, Some(_)) => {
            assert_eq!(headers["content-type"], "application/apply-patch+yaml");
            held.patch(kind, &at, &query, &body)
        }
        (Method::POST, None) => held.create(kind, &at, &query, &body),
        (Method::DELETE, Some(_)) => held.delete(&at, &body),
        (method, _) => status(405, method.as_str()),
    }
}
