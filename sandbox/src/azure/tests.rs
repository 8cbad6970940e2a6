//! The stand-in between two small registries in memory: what it refuses, and that what it takes
//! really arrives. With the real registries it is tested in `tests/sandbox_import.rs`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, LOCATION, RANGE};
use http::{Method, StatusCode};
use reqwest::Client;
use serde_json::{Value, json};

use super::entra::Claims;
use super::{Azure, Inner};
use crate::oci::{Registry, sha256};
use crate::services::{Credentials, ECR_HOST};

const RESOURCE: &str = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/sandbox\
    /providers/Microsoft.ContainerRegistry/registries/migratesandbox";
const VERSION: &str = "api-version=2023-07-01";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// base64 of `AWS:right`, which both registries want.
const LOGIN: &str = "Basic QVdTOnJpZ2h0";

/// A registry as small as can be: blobs and manifests under `repository/digest-or-tag`.
#[derive(Clone, Default)]
struct Store {
    content: Arc<Mutex<HashMap<String, (String, Bytes)>>>,
    /// Whether it answers ranges.
    no_ranges: bool,
}

impl Store {
    fn put(&self, key: &str, media_type: &str, bytes: impl Into<Bytes>) {
        self.content.lock().unwrap().insert(key.to_owned(), (media_type.to_owned(), bytes.into()));
    }

    fn get(&self, key: &str) -> Option<(String, Bytes)> {
        self.content.lock().unwrap().get(key).cloned()
    }

    fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.content.lock().unwrap().keys().cloned().collect();
        keys.sort();
        keys
    }

    /// Puts something that is named by its digest, and describes it.
    fn add(&self, repository: &str, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = sha256(&bytes);
        let descriptor = json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() });
        self.put(&format!("{repository}/{digest}"), media_type, bytes);
        descriptor
    }

    /// An index of two platforms under a tag; its digest.
    fn image(&self, repository: &str, tag: &str) -> String {
        let platforms: Vec<Value> = ["amd64", "arm64"]
            .iter()
            .map(|platform| {
                let config = self.add(repository, "config", format!("config of {platform}").into_bytes());
                let layer = self.add(repository, "layer", format!("layer of {platform}").into_bytes());
                let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
                self.add(repository, MANIFEST, manifest.to_string().into_bytes())
            })
            .collect();
        let index = json!({ "schemaVersion": 2, "manifests": platforms }).to_string();
        self.put(&format!("{repository}/{tag}"), INDEX, index.clone());
        self.add(repository, INDEX, index.into_bytes())["digest"].as_str().unwrap().to_owned()
    }
}

async fn registry(State(store): State<Store>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    if parts.headers.get(AUTHORIZATION).is_none_or(|login| login != LOGIN) {
        let body = json!({ "errors": [{ "code": "UNAUTHORIZED", "message": "authentication required" }] });
        return (StatusCode::UNAUTHORIZED, axum::Json(body)).into_response();
    }
    let path = parts.uri.path().trim_start_matches("/v2/");
    let key = path.replace("/manifests/", "/").replace("/blobs/uploads/", "/").replace("/blobs/", "/");
    match parts.method {
        Method::POST => (StatusCode::ACCEPTED, [(LOCATION, parts.uri.path().to_owned())]).into_response(),
        Method::PUT => {
            let named = parts.uri.query().and_then(|q| q.strip_prefix("digest="));
            let key = named.map_or(key.clone(), |digest| format!("{key}{}", digest.replace("%3A", ":")));
            let media_type = parts.headers[CONTENT_TYPE].to_str().unwrap();
            store.put(&key, media_type, body.clone());
            if path.contains("/manifests/") {
                store.put(
                    &format!("{}/{}", key.rsplit_once('/').unwrap().0, sha256(&body)),
                    media_type,
                    body.clone(),
                );
            }
            (StatusCode::CREATED, [("docker-content-digest", sha256(&body))]).into_response()
        }
        _ => match store.get(&key) {
            None => StatusCode::NOT_FOUND.into_response(),
            Some((media_type, bytes)) => {
                let ranged = parts.headers.contains_key(RANGE) && !store.no_ranges;
                let status = if ranged { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
                (status, [(CONTENT_TYPE, media_type)], bytes).into_response()
            }
        },
    }
}

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

pub(super) struct Stage {
    pub http: Client,
    pub url: String,
    source: Store,
    target: Store,
    azure: Azure,
}

fn secrets() -> Credentials {
    let folder = tempfile::tempdir().unwrap();
    let layout = crate::layout::Layout::at(folder.path(), folder.path());
    crate::services::credentials(&layout).unwrap()
}

impl Stage {
    pub(super) async fn new() -> Self {
        Self::with(Store::default()).await
    }

    async fn with(source: Store) -> Self {
        let target = Store::default();
        let at = |store: &Store| serve(Router::new().fallback(registry).with_state(store.clone()));
        let (from, to) = (at(&source).await, at(&target).await);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let to = Registry {
            endpoint: to.parse().unwrap(),
            username: "AWS".to_owned(),
            password: "right".to_owned(),
        };
        let azure = Azure::new(&secrets(), url.clone(), to, from.parse().unwrap());
        let router = super::router(azure.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { http: Client::new(), url, source, target, azure }
    }

    fn inner(&self) -> &Inner {
        &self.azure.0
    }

    /// The answer's status, headers and body, which is `null` where it is no JSON; asked with no token where
    /// `token` is empty.
    pub(super) async fn exchange(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: Option<&Value>,
    ) -> (u16, HeaderMap, Value) {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default();
        (status, headers, body)
    }

    /// The form that Entra grants, with one field changed (or, with `None`, left out).
    async fn ask(&self, field: &str, value: Option<&str>) -> (u16, Value) {
        let [client_id, secret] = self.application();
        let scope = format!("{}/.default", self.url);
        let mut form = HashMap::from([
            ("grant_type", "client_credentials"),
            ("client_id", client_id.as_str()),
            ("client_secret", secret.as_str()),
            ("scope", scope.as_str()),
        ]);
        match value {
            Some(value) => form.insert(field, value),
            None => form.remove(field),
        };
        let tenant = form.remove("tenant").map_or_else(|| self.tenant(), str::to_owned);
        let url = format!("{}/{tenant}/oauth2/v2.0/token", self.url);
        let answer = self.http.post(url).form(&form).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    fn application(&self) -> [String; 2] {
        let (id, secret) = self.inner().entra.application();
        [id.to_owned(), secret.to_owned()]
    }

    fn tenant(&self) -> String {
        self.inner().entra.tenant().to_owned()
    }

    async fn token(&self) -> String {
        let (status, body) = self.ask("nothing", None).await;
        assert_eq!(status, 200, "{body}");
        assert_eq!((body["token_type"].as_str(), body["expires_in"].as_u64()), (Some("Bearer"), Some(3599)));
        body["access_token"].as_str().unwrap().to_owned()
    }

    /// A token that says something else than what Entra gives.
    pub(super) fn forged(&self, change: impl FnOnce(&mut Claims)) -> String {
        let now = jiff::Timestamp::now().as_second();
        let (aud, tid, appid) = (self.url.clone(), self.tenant(), self.application()[0].clone());
        let mut claims = Claims { aud, tid, appid, iat: now, exp: now + 60 };
        change(&mut claims);
        self.inner().entra.sign(&claims)
    }

    async fn send(&self, method: Method, path: &str, token: &str, body: &Value) -> Answer {
        let (status, headers, body) = self.exchange(method, path, token, Some(body)).await;
        let place = headers.get(LOCATION).map(|v| v.to_str().unwrap().to_owned());
        let text = |name: &str| body["error"][name].as_str().unwrap_or_default().to_owned();
        Answer { status, code: text("code"), message: text("message"), place }
    }

    async fn import(&self, body: &Value) -> Answer {
        let token = self.token().await;
        self.send(Method::POST, &format!("{RESOURCE}/importImage?{VERSION}"), &token, body).await
    }

    /// Takes an import to its end.
    async fn imported(&self, body: &Value) -> Answer {
        let taken = self.import(body).await;
        assert_eq!(taken.status, 202, "{taken:?}");
        let place = taken.place.unwrap();
        let path = place.strip_prefix(&self.url).unwrap();
        loop {
            let answer = self.send(Method::GET, path, &self.token().await, &Value::Null).await;
            if answer.status != 202 {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    code: String,
    message: String,
    place: Option<String>,
}

impl Answer {
    fn said(&self) -> (u16, &str) {
        (self.status, &self.code)
    }
}

fn request(image: &str) -> Value {
    json!({
        "source": { "registryUri": ECR_HOST, "sourceImage": image,
                    "credentials": { "username": "AWS", "password": "right" } },
        "targetTags": ["shop/report:1.0"], "mode": "NoForce",
    })
}

#[tokio::test]
async fn entra_grants_one_application_one_resource_and_refuses_the_rest() {
    let stage = Stage::new().await;
    assert!(!stage.token().await.is_empty());
    let scope = |s: &str| s.to_owned();
    let two = scope(&format!("{0}/.default {0}/.default", stage.url));
    let bare = scope(&format!("{}/user_impersonation", stage.url));
    let refused: [(&str, Option<&str>, u16, &str, u64); 13] = [
        ("tenant", Some("other"), 400, "invalid_request", 90002),
        ("grant_type", None, 400, "invalid_request", 900144),
        ("grant_type", Some("password"), 400, "unsupported_grant_type", 70003),
        ("client_id", None, 400, "invalid_request", 900144),
        ("client_id", Some("other"), 400, "unauthorized_client", 700016),
        ("client_secret", None, 401, "invalid_client", 7000216),
        ("client_secret", Some(""), 401, "invalid_client", 7000216),
        ("client_secret", Some("wrong"), 401, "invalid_client", 7000215),
        ("scope", None, 400, "invalid_request", 900144),
        ("scope", Some(&two), 400, "invalid_scope", 28000),
        ("scope", Some(&bare), 400, "invalid_scope", 1002012),
        ("scope", Some("https://management.azure.com/.default"), 400, "invalid_resource", 500011),
        ("scope", Some("https://containerregistry.azure.net/.default"), 400, "invalid_resource", 500011),
    ];
    for (field, value, status, error, number) in refused {
        let (found, body) = stage.ask(field, value).await;
        assert_eq!((found, body["error"].as_str()), (status, Some(error)), "{field} {value:?}: {body}");
        assert_eq!(body["error_codes"], json!([number]), "{field} {value:?}: {body}");
        assert!(body["error_description"].as_str().unwrap().starts_with(&format!("AADSTS{number}: ")));
        assert!(!body.to_string().contains(&stage.application()[1]), "it shows the secret");
    }
    let url = format!("{}/{}/oauth2/v2.0/token", stage.url, stage.tenant());
    let get: Value = stage.http.get(&url).send().await.unwrap().json().await.unwrap();
    assert_eq!(get["error_codes"], json!([900561]));
    let json: Value = stage.http.post(&url).json(&json!({})).send().await.unwrap().json().await.unwrap();
    assert_eq!(json["error_codes"], json!([900144]), "a JSON body is no form");
}

#[tokio::test]
async fn resource_manager_refuses_wrong_versions_tokens_and_places() {
    let stage = Stage::new().await;
    let good = stage.token().await;
    let get = async |path: &str, token: &str| {
        let answer = stage.send(Method::GET, path, token, &Value::Null).await;
        format!("{} {}", answer.status, answer.code)
    };
    let at = format!("{RESOURCE}?{VERSION}");
    assert_eq!(get(&at, &good).await, "200 ");
    assert_eq!(get(&at.to_lowercase(), &good).await, "200 ", "names in resource IDs know no case");
    assert_eq!(get(RESOURCE, "").await, "400 MissingApiVersionParameter");
    assert_eq!(
        get(&format!("{RESOURCE}?api-version=2023-07-02"), &good).await,
        "400 InvalidApiVersionParameter"
    );

    assert_eq!(get(&at, "").await, "401 AuthenticationFailed");
    assert_eq!(get(&at, "nonsense").await, "401 InvalidAuthenticationToken");
    let foreign = Stage::new().await.token().await;
    assert_eq!(get(&at, &foreign).await, "401 InvalidAuthenticationToken");
    let tampered = format!("A{good}");
    assert_eq!(get(&at, &tampered).await, "401 InvalidAuthenticationToken");
    let expired = stage.forged(|claims| claims.exp = claims.iat);
    assert_eq!(get(&at, &expired).await, "401 ExpiredAuthenticationToken");
    let tenant = stage.forged(|claims| claims.tid = "other".to_owned());
    assert_eq!(get(&at, &tenant).await, "401 InvalidAuthenticationTokenTenant");
    let audience = stage.forged(|claims| claims.aud = "https://vault.azure.net".to_owned());
    assert_eq!(get(&at, &audience).await, "401 InvalidAuthenticationTokenAudience");

    let other = |from: &str, to: &str| at.replace(from, to);
    assert_eq!(get(&other("subscriptions/0", "subscriptions/1"), &good).await, "404 SubscriptionNotFound");
    assert_eq!(get(&other("/sandbox/", "/other/"), &good).await, "404 ResourceGroupNotFound");
    assert_eq!(get(&other("/migratesandbox", "/other"), &good).await, "404 ResourceNotFound");
    assert_eq!(get(&other("/registries", "/builds"), &good).await, "404 InvalidResourceType");
    let place = stage.azure.place("2023-07-01", "registries-none").replace(&stage.url, "");
    assert_eq!(get(&place, &good).await, "404 ResourceNotFound");
    assert_eq!(get(&place, &expired).await, "401 ExpiredAuthenticationToken");
}

#[tokio::test]
async fn an_import_that_says_nonsense_is_refused_and_touches_nothing() {
    let stage = Stage::new().await;
    stage.source.image("shop/report", "1.0");
    let changed = |pointer: &str, value: Value| {
        let mut body = request("shop/report:1.0");
        *body.pointer_mut(pointer).unwrap() = value;
        body
    };
    let content = (400, "InvalidRequestContent");
    let parameters = (400, "InvalidParameters");
    assert_eq!(stage.import(&json!([])).await.said(), content);
    assert_eq!(stage.import(&json!({ "targetTags": ["a:1"] })).await.said(), content);
    assert_eq!(stage.import(&changed("/mode", json!("noforce"))).await.said(), content);
    assert_eq!(stage.import(&changed("/targetTags", json!("shop/report:1.0"))).await.said(), content);
    let mut typo = request("shop/report:1.0");
    typo["targettags"] = json!([]);
    assert_eq!(stage.import(&typo).await.said(), content);
    assert_eq!(stage.import(&changed("/source/registryUri", json!("ghcr.io"))).await.said(), parameters);
    assert_eq!(stage.import(&changed("/source/registryUri", Value::Null)).await.said(), parameters);
    assert_eq!(stage.import(&changed("/source/sourceImage", json!("Shop:1"))).await.said(), parameters);
    assert_eq!(stage.import(&changed("/targetTags", json!(["/report:1"]))).await.said(), parameters);
    let nowhere = stage.import(&changed("/targetTags", json!([]))).await;
    assert!(nowhere.message.starts_with("Missing property parameters.TargetTags"), "{nowhere:?}");
    assert_eq!(stage.target.keys(), [] as [String; 0]);
}

#[tokio::test]
async fn an_image_arrives_with_all_its_manifests_under_its_digest() {
    let stage = Stage::new().await;
    let digest = stage.source.image("shop/report", "1.0");
    let done = stage.imported(&request(&format!("shop/report@{digest}"))).await;
    assert_eq!(done.status, 200, "{done:?}");
    assert_eq!(stage.target.keys(), stage.source.keys(), "index, two manifests, four blobs, one tag");
    for key in stage.source.keys() {
        assert_eq!(stage.target.get(&key).unwrap().1, stage.source.get(&key).unwrap().1, "{key}");
    }

    // The tag is there now: no second time, unless told.
    let again = stage.import(&request("shop/report:1.0")).await;
    assert_eq!(again.said(), (409, "Conflict"));
    assert_eq!(again.message, "Tag shop/report:1.0 already exists in target registry.");
    let mut forced = request("shop/report:1.0");
    forced["mode"] = json!("Force");
    assert_eq!(stage.imported(&forced).await.status, 200);

    // Without a tag.
    let mut untagged = request(&format!("shop/report@{digest}"));
    untagged["targetTags"] = json!([]);
    untagged["untaggedTargetRepositories"] = json!(["copies/report"]);
    assert_eq!(stage.imported(&untagged).await.status, 200);
    let copies = stage.target.keys().into_iter().filter(|key| key.starts_with("copies/"));
    assert_eq!(copies.count(), 7);
}

#[tokio::test]
async fn what_the_source_does_not_give_fails_later_and_is_told() {
    let stage = Stage::new().await;
    let digest = stage.source.image("shop/report", "1.0");
    let mut wrong = request("shop/report:1.0");
    wrong["source"]["credentials"]["password"] = json!("wrong");
    let failed = stage.imported(&wrong).await;
    assert_eq!(failed.said(), (400, "InvalidParameters"));
    let unauthorized = "Invalid message Unauthorized Unauthorized {\"errors\":[{\"code\":\"UNAUTHORIZED\"";
    assert!(failed.message.contains(unauthorized), "{failed:?}");
    assert!(failed.message.contains(RESOURCE), "{failed:?}");
    assert!(!failed.message.contains("wrong"), "it shows the password");
    wrong["source"].as_object_mut().unwrap().remove("credentials");
    assert_eq!(stage.imported(&wrong).await.said(), (400, "InvalidParameters"));

    let missing = stage.imported(&request("shop/nothing:1.0")).await;
    assert!(missing.message.contains("Invalid message NotFound NotFound"), "{missing:?}");
    assert_eq!(stage.target.keys(), [] as [String; 0]);

    // Bytes that are not those of their digest.
    let layer = sha256(b"layer of arm64");
    stage.source.put(&format!("shop/report/{layer}"), "layer", "layer of arm65");
    let lied = stage.imported(&request(&format!("shop/report@{digest}"))).await;
    assert!(lied.message.contains(&format!("Error copying blobs: {layer} has other bytes")), "{lied:?}");
    assert!(!stage.target.keys().contains(&"shop/report/1.0".to_owned()), "it is tagged all the same");

    let store = Store { no_ranges: true, ..Store::default() };
    let stage = Stage::with(store).await;
    stage.source.image("shop/report", "1.0");
    let failed = stage.imported(&request("shop/report:1.0")).await;
    assert!(failed.message.contains("does not support ranges"), "{failed:?}");
}

#[tokio::test]
async fn an_image_of_too_many_manifests_is_not_imported() {
    let stage = Stage::new().await;
    let children: Vec<Value> = (0..50)
        .map(|n| {
            let manifest = json!({ "schemaVersion": 2, "annotations": { "n": n.to_string() } });
            stage.source.add("shop/report", MANIFEST, manifest.to_string().into_bytes())
        })
        .collect();
    let index = |children: &[Value]| json!({ "schemaVersion": 2, "manifests": children }).to_string();
    stage.source.put("shop/report/1.0", INDEX, index(&children));
    let failed = stage.imported(&request("shop/report:1.0")).await;
    assert!(failed.message.contains("more than 50 manifests"), "{failed:?}");
    stage.source.put("shop/report/1.0", INDEX, index(&children[1..]));
    assert_eq!(stage.imported(&request("shop/report:1.0")).await.status, 200);
}
