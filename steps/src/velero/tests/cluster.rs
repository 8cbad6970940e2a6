//! A strict stand-in for a cluster's API server: it keeps objects, answers what the steps ask, and
//! remembers every request. What it doesn't know is answered 404 and fails the test at its end.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate, matchers::any};

use crate::site::ClusterRef;

/// Called with the path of every object that was created, after it was stored.
pub(super) type Hook = Box<dyn Fn(&mut State, &str) + Send + Sync>;

#[derive(Default)]
pub(super) struct State {
    /// Objects by path.
    pub objects: BTreeMap<String, Value>,
    /// Statuses that an object takes, one at each GET of it; the last one stays.
    pub scripts: BTreeMap<String, Vec<Value>>,
    /// `METHOD path`, in order, without reads of objects.
    pub writes: Vec<String>,
    /// Requests that nobody foresaw.
    pub unforeseen: Vec<String>,
    /// Paths whose first GET answers 404 though the object is there: somebody else's creation in
    /// between.
    pub hidden_once: Vec<String>,
    /// Files, as `KIND/NAME`, that the store fails to give, each once.
    pub failing_once: Vec<String>,
    /// Paths whose next GET is never answered.
    pub silent_once: Vec<String>,
    /// How the next deletion, which is done, is answered: by an error with this code, or at 200 as where a finalizer
    /// keeps the object.
    pub delete_answer: Option<u16>,
    /// Called with the path of every list, after it was answered.
    pub on_list: Option<Hook>,
    /// What Velero would do next.
    pub on_create: Option<Hook>,
    /// What Velero would do after a deletion.
    pub on_delete: Option<Hook>,
    files: BTreeMap<String, Vec<u8>>,
    created: usize,
    url: String,
}

#[derive(Clone)]
pub(super) struct Cluster {
    pub state: Arc<Mutex<State>>,
    server: Arc<MockServer>,
    directory: Arc<tempfile::TempDir>,
}

impl Respond for Cluster2 {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let mut state = self.0.lock().unwrap();
        let (code, body) = state.answer(request);
        let answer = match body {
            Body::Json(value) => ResponseTemplate::new(code).set_body_json(value),
            Body::Bytes(bytes) => ResponseTemplate::new(code).set_body_bytes(bytes),
        };
        let is_silent = |path: &String| request.method == "GET" && path == request.url.path();
        match state.silent_once.iter().position(is_silent) {
            Some(position) => {
                state.silent_once.remove(position);
                answer.set_delay(Duration::MAX)
            }
            None => answer,
        }
    }
}

struct Cluster2(Arc<Mutex<State>>);

enum Body {
    Json(Value),
    Bytes(Vec<u8>),
}

fn status(code: u16, reason: &str) -> (u16, Body) {
    let message = format!("the stand-in says {reason}");
    let body = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code, "reason": reason, "message": message });
    (code, Body::Json(body))
}

const COLLECTIONS: &[(&str, &str, &str)] = &[
    ("/api/v1", "pods", "Pod"),
    ("/api/v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
    ("/api/v1", "persistentvolumes", "PersistentVolume"),
    ("/api/v1", "configmaps", "ConfigMap"),
    ("/api/v1", "secrets", "Secret"),
    ("/api/v1", "events", "Event"),
    ("/api/v1", "services", "Service"),
    ("/apis/apps/v1", "deployments", "Deployment"),
    ("/apis/apps/v1", "daemonsets", "DaemonSet"),
    ("/apis/apps/v1", "statefulsets", "StatefulSet"),
    ("/apis/batch/v1", "cronjobs", "CronJob"),
    ("/apis/batch/v1", "jobs", "Job"),
    ("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition"),
    ("/apis/shop.example/v1", "widgets", "Widget"),
    // Served in a version that its group doesn't prefer, and in no other.
    ("/apis/shop.example/v1beta1", "gadgets", "Gadget"),
    ("/apis/storage.k8s.io/v1", "storageclasses", "StorageClass"),
    ("/apis/velero.io/v1", "backups", "Backup"),
    ("/apis/velero.io/v1", "restores", "Restore"),
    ("/apis/velero.io/v1", "podvolumebackups", "PodVolumeBackup"),
    ("/apis/velero.io/v1", "podvolumerestores", "PodVolumeRestore"),
    ("/apis/velero.io/v1", "backupstoragelocations", "BackupStorageLocation"),
    ("/apis/velero.io/v1", "downloadrequests", "DownloadRequest"),
];

impl State {
    fn answer(&mut self, request: &Request) -> (u16, Body) {
        let path = request.url.path().to_owned();
        let query: BTreeMap<String, String> = request.url.query_pairs().into_owned().collect();
        let method = request.method.as_str();
        if method != "GET" {
            self.writes.push(format!("{method} {path}"));
        }
        if let Some(position) = self.failing_once.iter().position(|file| path == format!("/files/{file}")) {
            self.failing_once.remove(position);
            return status(503, "SlowDown");
        }
        if let Some(bytes) = path.strip_prefix("/files/").and_then(|file| self.files.get(file)) {
            return (200, Body::Bytes(bytes.clone()));
        }
        if let Some(found) = Self::discovery(method, &path) {
            return found;
        }
        if method == "GET" && path.starts_with("/api/v1/namespaces/") && path.split('/').count() == 5 {
            return self.get(&path);
        }
        let Some((root, plural, kind)) = COLLECTIONS
            .iter()
            .find(|(root, plural, _)| path.starts_with(root) && path.split('/').any(|part| part == *plural))
        else {
            self.unforeseen.push(format!("{method} {path}"));
            return status(404, "NotFound");
        };
        let is_collection = path.ends_with(plural);
        let body = || serde_json::from_slice::<Value>(&request.body).unwrap_or_default();
        match (method, is_collection) {
            ("GET", true) => {
                let answer = self.list(root, plural, kind, &path, &query);
                if let Some(hook) = self.on_list.take() {
                    hook(self, &path);
                    self.on_list = Some(hook);
                }
                answer
            }
            ("GET", false) => self.get(&path),
            ("POST", true) => self.create(&path, kind, body()),
            ("PATCH", false) => self.apply(&path, &query, request, body()),
            ("DELETE", false) => self.delete(&path, &body()),
            ("DELETE", true) => {
                let found = self.matching(&format!("{path}/"), &query);
                for (path, _) in found {
                    self.objects.remove(&path);
                }
                status_success()
            }
            _ => {
                self.unforeseen.push(format!("{method} {path}"));
                status(405, "MethodNotAllowed")
            }
        }
    }

    /// In the old form, whatever is asked for: so answers a server, or a proxy, that has no other.
    fn discovery(method: &str, path: &str) -> Option<(u16, Body)> {
        let group_version = |group: &str| json!({ "groupVersion": format!("{group}/v1"), "version": "v1" });
        let group = |name: &str| json!({ "name": name, "versions": [group_version(name)], "preferredVersion": group_version(name) });
        let shop = || {
            let mut group = group("shop.example");
            let beta = json!({ "groupVersion": "shop.example/v1beta1", "version": "v1beta1" });
            group["versions"].as_array_mut().unwrap().push(beta);
            group
        };
        let body = match (method, path) {
            ("GET", "/version") => {
                json!({ "major": "1", "minor": "36", "gitVersion": "v1.36.3", "gitCommit": "",
                "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": "" })
            }
            ("GET", "/api") => {
                json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] })
            }
            ("GET", "/apis") => {
                json!({ "kind": "APIGroupList", "groups": [group("apps"), shop(), group("velero.io")] })
            }
            (
                "GET",
                "/api/v1"
                | "/apis/apps/v1"
                | "/apis/shop.example/v1"
                | "/apis/shop.example/v1beta1"
                | "/apis/velero.io/v1",
            ) => {
                let resources: Vec<Value> = COLLECTIONS
                    .iter()
                    .filter(|(root, ..)| *root == path)
                    .map(|(_, plural, kind)| {
                        json!({ "name": plural, "singularName": "", "namespaced": true, "kind": kind,
                            "verbs": ["create", "delete", "get", "list"] })
                    })
                    .collect();
                let version = path.trim_start_matches("/apis/").trim_start_matches("/api/");
                json!({ "kind": "APIResourceList", "groupVersion": version, "resources": resources })
            }
            _ => return None,
        };
        Some((200, Body::Json(body)))
    }

    fn matching(&self, prefix: &str, query: &BTreeMap<String, String>) -> Vec<(String, Value)> {
        let selector = query.get("labelSelector").map_or("", String::as_str);
        let has = |object: &Value| {
            selector.split(',').filter(|s| !s.is_empty()).all(|term| match term.split_once('=') {
                Some((key, value)) => object["metadata"]["labels"][key] == value,
                None => !object["metadata"]["labels"][term].is_null(),
            })
        };
        let found = self.objects.iter().filter(|(path, object)| path.starts_with(prefix) && has(object));
        found.map(|(path, object)| (path.clone(), object.clone())).collect()
    }

    fn list(
        &mut self,
        root: &str,
        plural: &str,
        kind: &str,
        path: &str,
        query: &BTreeMap<String, String>,
    ) -> (u16, Body) {
        let everywhere = path == format!("{root}/{plural}");
        let prefix = if everywhere { root.to_owned() } else { format!("{path}/") };
        let mut items = self.matching(&prefix, query);
        items.retain(|(p, _)| p.contains(&format!("/{plural}/")));
        let items: Vec<Value> = items.into_iter().map(|(_, object)| object).collect();
        let version = root.trim_start_matches("/apis/").trim_start_matches("/api/");
        let list =
            json!({ "kind": format!("{kind}List"), "apiVersion": version, "metadata": {}, "items": items });
        (200, Body::Json(list))
    }

    fn get(&mut self, path: &str) -> (u16, Body) {
        if let Some(position) = self.hidden_once.iter().position(|p| p == path) {
            self.hidden_once.remove(position);
            return status(404, "NotFound");
        }
        let script = self.scripts.get_mut(path).filter(|script| !script.is_empty());
        let next = script.map(|script| if script.len() > 1 { script.remove(0) } else { script[0].clone() });
        match (self.objects.get_mut(path), next) {
            (None, _) => status(404, "NotFound"),
            (Some(object), next) => {
                if let Some(next) = next {
                    object["status"] = next;
                }
                (200, Body::Json(object.clone()))
            }
        }
    }

    fn create(&mut self, collection: &str, kind: &str, mut object: Value) -> (u16, Body) {
        if object["kind"] != kind {
            return status(400, "BadRequest");
        }
        self.created += 1;
        if let Some(prefix) = object["metadata"]["generateName"].as_str() {
            object["metadata"]["name"] = json!(format!("{prefix}{}", self.created));
        }
        let Some(name) = object["metadata"]["name"].as_str() else { return status(422, "Invalid") };
        let path = format!("{collection}/{name}");
        if self.objects.contains_key(&path) {
            return status(409, "AlreadyExists");
        }
        if kind == "DownloadRequest" {
            let target = &object["spec"]["target"];
            let file = format!("{}/{}", target["kind"].as_str().unwrap(), target["name"].as_str().unwrap());
            let url = format!("{}/files/{file}?signature=topsecret", self.url);
            object["status"] = json!({ "phase": "Processed", "downloadURL": url });
        }
        self.objects.insert(path.clone(), object.clone());
        if let Some(hook) = self.on_create.take() {
            hook(self, &path);
            self.on_create = Some(hook);
        }
        (201, Body::Json(object))
    }

    fn apply(
        &mut self,
        path: &str,
        query: &BTreeMap<String, String>,
        request: &Request,
        object: Value,
    ) -> (u16, Body) {
        let content = request.headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
        if !content.starts_with("application/apply-patch") || !query.contains_key("fieldManager") {
            return status(415, "UnsupportedMediaType");
        }
        self.objects.insert(path.to_owned(), object.clone());
        (200, Body::Json(object))
    }

    fn delete(&mut self, path: &str, options: &Value) -> (u16, Body) {
        let wanted = &options["preconditions"]["resourceVersion"];
        let found = self.objects.get(path).map(|object| &object["metadata"]["resourceVersion"]);
        if !wanted.is_null() && found.is_some_and(|found| found != wanted) {
            return status(409, "Conflict");
        }
        let Some(object) = self.objects.remove(path) else { return status(404, "NotFound") };
        if let Some(hook) = self.on_delete.take() {
            hook(self, path);
            self.on_delete = Some(hook);
        }
        match self.delete_answer.take() {
            None => status_success(),
            Some(200) => (200, Body::Json(object)),
            Some(code) => status(code, "Lost"),
        }
    }

    /// Stores `object` at `path`, with the names in its metadata.
    pub(super) fn put(&mut self, path: &str, mut object: Value) {
        let parts: Vec<&str> = path.split('/').collect();
        object["metadata"]["name"] = json!(parts[parts.len() - 1]);
        if let Some(position) = parts.iter().position(|p| *p == "namespaces") {
            object["metadata"]["namespace"] = json!(parts[position + 1]);
        }
        self.objects.insert(path.to_owned(), object);
    }

    /// Offers as the contents of backup `name` what the source has now, packed as Velero does.
    pub(super) fn put_contents(&mut self, name: &str) {
        let mut archive =
            tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        let kinds = [
            ("pods", "pods"),
            ("persistentvolumeclaims", "persistentvolumeclaims"),
            ("persistentvolumes", "persistentvolumes"),
            ("services", "services"),
            ("jobs", "jobs.batch"),
            ("cronjobs", "cronjobs.batch"),
        ];
        for (path, object) in &self.objects {
            let (place, plural, name) = match path.split('/').collect::<Vec<_>>()[..] {
                [.., "namespaces", namespace, plural, name] => {
                    (format!("namespaces/{namespace}"), plural, name)
                }
                [.., plural @ "persistentvolumes", name] => ("cluster".to_owned(), plural, name),
                _ => continue,
            };
            let Some((_, resource)) = kinds.iter().find(|(kind, _)| *kind == plural) else { continue };
            let text = object.to_string();
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            // Velero has each object a second time, by its version.
            for folder in [resource.to_string(), format!("{resource}/v1-preferredversion")] {
                let file = format!("resources/{folder}/{place}/{name}.json");
                archive.append_data(&mut header, file, text.as_bytes()).unwrap();
            }
        }
        let packed = archive.into_inner().unwrap().finish().unwrap();
        self.files.insert(format!("BackupContents/{name}"), packed);
    }

    /// Offers a file to DownloadRequests, packed as Velero does.
    pub(super) fn put_file(&mut self, kind: &str, name: &str, content: &Value) {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(content.to_string().as_bytes()).unwrap();
        self.files.insert(format!("{kind}/{name}"), gzip.finish().unwrap());
    }
}

fn status_success() -> (u16, Body) {
    (200, Body::Json(json!({ "kind": "Status", "apiVersion": "v1", "status": "Success", "metadata": {} })))
}

impl Cluster {
    pub(super) async fn start() -> Self {
        let server = MockServer::start().await;
        let state = Arc::new(Mutex::new(State { url: server.uri(), ..Default::default() }));
        Mock::given(any()).respond_with(Cluster2(Arc::clone(&state))).mount(&server).await;
        let directory = tempfile::tempdir().unwrap();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config",
            "clusters": [{ "name": "c", "cluster": { "server": server.uri() } }],
            "users": [{ "name": "u", "user": {} }],
            "contexts": [{ "name": "test", "context": { "cluster": "c", "user": "u" } }],
        });
        std::fs::write(directory.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
        Self { state, server: Arc::new(server), directory: Arc::new(directory) }
    }

    pub(super) fn reference(&self) -> ClusterRef {
        let kubeconfig = Some(self.directory.path().join("kubeconfig"));
        ClusterRef { kubeconfig, context: "test".to_owned() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Writes to objects other than download requests.
    pub(super) fn writes(&self) -> Vec<String> {
        let writes = self.lock().writes.clone();
        writes.into_iter().filter(|w| !w.contains("downloadrequests")).collect()
    }

    /// Nothing was asked that a test hasn't foreseen.
    pub(super) fn finish(&self) {
        assert_eq!(self.lock().unforeseen, Vec::<String>::new());
        assert!(!self.server.uri().is_empty());
    }
}
