//! Strict stand-ins of ours for Secrets Manager and for a Key Vault, in memory. They refuse what the services
//! refuse, and count what is written.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::tokens::testing::TOKEN;

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

/// A version in the vault.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub version: String,
    pub body: Value,
}

#[derive(Debug, Default)]
pub(super) struct VaultState {
    /// By name in lower case, oldest first.
    pub secrets: BTreeMap<String, Vec<Kept>>,
    pub deleted: Vec<String>,
    pub managed: Vec<String>,
    pub disabled: Vec<String>,
    /// Answers of the next PUTs: a status, and whether the version is made all the same.
    pub trouble: Vec<(u16, bool)>,
    /// Answer of the next GETs instead of theirs.
    pub garbage: Option<String>,
    pub sets: usize,
}

/// A Key Vault: <https://learn.microsoft.com/en-us/rest/api/keyvault/secrets/operation-groups>.
#[derive(Clone, Default)]
pub(super) struct VaultStand(Arc<Mutex<VaultState>>);

fn refusal(status: u16, code: &str, message: &str) -> Response {
    let body = json!({ "error": { "code": code, "message": message } });
    (StatusCode::from_u16(status).unwrap(), [("retry-after", "0")], axum::Json(body)).into_response()
}

impl VaultStand {
    pub(super) async fn start(&self) -> String {
        serve(Router::new().fallback(vault).with_state(self.clone())).await
    }

    pub(super) fn state(&self) -> MutexGuard<'_, VaultState> {
        self.0.lock().unwrap()
    }

    /// Values of a secret, oldest first.
    pub(super) fn values(&self, name: &str) -> Vec<String> {
        let state = self.state();
        let versions = state.secrets.get(&name.to_lowercase()).cloned().unwrap_or_default();
        versions.iter().map(|kept| kept.body["value"].as_str().unwrap().to_owned()).collect()
    }

    /// As somebody else would.
    pub(super) fn put(&self, name: &str, value: &str) {
        self.state().make(name, json!({ "value": value }));
    }
}

impl VaultState {
    fn make(&mut self, name: &str, body: Value) -> Kept {
        let count: usize = self.secrets.values().map(Vec::len).sum();
        let kept = Kept { version: format!("{:032x}", count + 1), body };
        self.secrets.entry(name.to_lowercase()).or_default().push(kept.clone());
        kept
    }
}

fn bundle(name: &str, kept: &Kept, is_managed: bool) -> Value {
    let mut body = kept.body.clone();
    body["id"] = format!("https://shop.vault.azure.net/secrets/{name}/{}", kept.version).into();
    if is_managed {
        body["managed"] = true.into();
    }
    body
}

async fn vault(State(stand): State<VaultStand>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    if parts.headers.get("authorization").is_none_or(|held| held != &format!("Bearer {TOKEN}")) {
        return refusal(401, "Unauthorized", "AKV10000: Request is missing a Bearer or PoP token.");
    }
    let query = parts.uri.query().unwrap_or_default();
    if !query.split('&').any(|pair| pair == "api-version=7.4") {
        return refusal(400, "BadParameter", "api-version must be specified");
    }
    let path: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
    let name = path.get(1).copied().unwrap_or_default();
    let is_name =
        (1..=127).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if !is_name {
        return refusal(400, "BadParameter", "The request URI contains an invalid name");
    }
    let mut state = stand.state();
    let key = name.to_lowercase();
    let not_found = || {
        refusal(
            404,
            "SecretNotFound",
            &format!("A secret with (name/id) {name} was not found in this key vault."),
        )
    };
    match (&parts.method, path.as_slice()) {
        (&Method::GET, ["deletedsecrets", _]) if state.deleted.contains(&key) => {
            axum::Json(json!({})).into_response()
        }
        (&Method::GET, ["deletedsecrets", _]) => not_found(),
        (&Method::GET, ["secrets", _, "versions"]) => {
            // Two a page, as a vault has 25.
            let skip =
                query.split('&').find_map(|pair| pair.strip_prefix("$skiptoken=")?.parse().ok()).unwrap_or(0);
            let all = state.secrets.get(&key).cloned().unwrap_or_default();
            let item = |kept: &Kept| {
                let mut body = bundle(name, kept, false);
                body.as_object_mut().unwrap().shift_remove("value");
                body
            };
            let value: Vec<Value> = all.iter().skip(skip).take(2).map(item).collect();
            let next = (skip + 2 < all.len()).then(|| {
                format!(
                    "https://shop.vault.azure.net:443/secrets/{name}/versions?api-version=7.4&$skiptoken={}",
                    skip + 2
                )
            });
            axum::Json(json!({ "value": value, "nextLink": next })).into_response()
        }
        (&Method::GET, ["secrets", _, rest @ ..]) => {
            if let Some(garbage) = &state.garbage {
                return garbage.clone().into_response();
            }
            if state.disabled.contains(&key) {
                return refusal(403, "Forbidden", "Operation get is not allowed on a disabled secret.");
            }
            let versions = state.secrets.get(&key).filter(|_| !state.deleted.contains(&key));
            let found = versions.and_then(|all| match rest {
                [] => all.last(),
                [version] => all.iter().find(|kept| kept.version == *version),
                _ => None,
            });
            found.map_or_else(not_found, |kept| {
                axum::Json(bundle(name, kept, state.managed.contains(&key))).into_response()
            })
        }
        (&Method::PUT, ["secrets", _]) => set(&mut state, name, &body),
        _ => refusal(405, "MethodNotAllowed", "no such operation"),
    }
}

fn set(state: &mut VaultState, name: &str, body: &[u8]) -> Response {
    let Ok(body) = serde_json::from_slice::<Value>(body) else {
        return refusal(400, "BadParameter", "no JSON");
    };
    let known = ["value", "contentType", "tags", "attributes"];
    let fields = body.as_object().unwrap();
    let tags = body["tags"].as_object().cloned().unwrap_or_default();
    let long = |text: &str| text.chars().count() > 512;
    if fields.keys().any(|field| !known.contains(&field.as_str())) || !body["value"].is_string() {
        return refusal(400, "BadParameter", "a field that is none");
    }
    if body["value"].as_str().unwrap().len() > 25_600 {
        return refusal(400, "BadParameter", "The secret is too large");
    }
    if tags.len() > 15 || tags.iter().any(|(key, value)| long(key) || long(value.as_str().unwrap())) {
        return refusal(400, "BadParameter", "The tags are too many or too long");
    }
    if state.deleted.contains(&name.to_lowercase()) {
        let message = format!(
            "Secret {name} is currently in a deleted but recoverable state, and its name cannot be reused; in this state, the secret can only be recovered or purged."
        );
        return refusal(409, "Conflict", &message);
    }
    let trouble = if state.trouble.is_empty() { None } else { Some(state.trouble.remove(0)) };
    match trouble {
        Some((status, false)) => refusal(status, "Trouble", "not done"),
        trouble => {
            state.sets += 1;
            let kept = state.make(name, body);
            match trouble {
                Some((status, _)) => refusal(status, "Trouble", "the answer is lost"),
                None => axum::Json(bundle(name, &kept, false)).into_response(),
            }
        }
    }
}

/// A secret of Secrets Manager: versions by stage.
#[derive(Debug, Clone)]
pub(super) struct Original {
    pub about: Value,
    /// ID, stages, `SecretString` or `SecretBinary` in base64.
    pub versions: Vec<(String, Vec<String>, Value)>,
}

/// Secrets Manager: <https://docs.aws.amazon.com/secretsmanager/latest/apireference/>.
#[derive(Clone, Default)]
pub(super) struct ManagerStand(Arc<Mutex<BTreeMap<String, Original>>>);

pub(super) fn arn(name: &str) -> String {
    format!("arn:aws:secretsmanager:us-east-1:123456789012:secret:{name}-a1B2c3")
}

impl ManagerStand {
    pub(super) async fn start(&self) -> String {
        serve(Router::new().fallback(manager).with_state(self.clone())).await
    }

    pub(super) fn state(&self) -> MutexGuard<'_, BTreeMap<String, Original>> {
        self.0.lock().unwrap()
    }

    /// Gives a secret a new current value, as `put-secret-value` does.
    pub(super) fn put(&self, name: &str, value: Value) {
        let mut state = self.state();
        let original = state.entry(name.to_owned()).or_insert_with(|| Original {
            about: json!({ "Name": name, "ARN": arn(name) }),
            versions: Vec::new(),
        });
        for (_, stages, _) in &mut original.versions {
            stages.retain(|stage| stage != "AWSPREVIOUS");
            stages.iter_mut().for_each(|stage| *stage = "AWSPREVIOUS".to_owned());
        }
        let id = format!("00000000-0000-4000-8000-{:012}", original.versions.len() + 1);
        original.versions.push((id, vec!["AWSCURRENT".to_owned()], value));
    }
}

fn exception(code: &str, message: &str) -> Response {
    let body = json!({ "__type": code, "message": message });
    (StatusCode::BAD_REQUEST, [("x-amzn-errortype", code.to_owned())], axum::Json(body)).into_response()
}

async fn manager(State(stand): State<ManagerStand>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let signed = header("authorization");
    if !signed.starts_with("AWS4-HMAC-SHA256 ") || !signed.contains("/us-east-1/secretsmanager/aws4_request")
    {
        return exception(
            "UnrecognizedClientException",
            "The security token included in the request is invalid.",
        );
    }
    let body: Value = serde_json::from_slice(&body).unwrap();
    let state = stand.state();
    if header("x-amz-target") == "secretsmanager.ListSecrets" {
        let start = body.pointer("/Filters/0/Values/0").and_then(Value::as_str).unwrap_or_default();
        let names = state.keys().filter(|name| name.starts_with(start));
        let list: Vec<Value> = names.map(|name| json!({ "Name": name, "ARN": arn(name) })).collect();
        return axum::Json(json!({ "SecretList": list })).into_response();
    }
    let id = body["SecretId"].as_str().unwrap();
    let found = state.values().find(|original| original.about["Name"] == id || original.about["ARN"] == id);
    let gone = "Secrets Manager can't find the specified secret.";
    let Some(original) = found else { return exception("ResourceNotFoundException", gone) };
    match header("x-amz-target") {
        "secretsmanager.DescribeSecret" => axum::Json(original.about.clone()).into_response(),
        "secretsmanager.GetSecretValue" => {
            let stage = body["VersionStage"].as_str();
            let version = body["VersionId"].as_str();
            let is_it = |(id, stages, _): &&(String, Vec<String>, Value)| {
                version.is_none_or(|version| version == id)
                    && stage.is_none_or(|stage| stages.iter().any(|held| held == stage))
            };
            let Some((id, stages, value)) = original.versions.iter().find(is_it) else {
                return exception("ResourceNotFoundException", gone);
            };
            let mut answer = json!({ "Name": original.about["Name"], "ARN": original.about["ARN"], "VersionId": id, "VersionStages": stages });
            let fields = answer.as_object_mut().unwrap();
            fields.extend(value.as_object().unwrap().clone());
            axum::Json(answer).into_response()
        }
        target => exception("UnknownOperationException", target),
    }
}
