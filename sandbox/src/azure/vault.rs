//! One Key Vault: set, get, list, versions, soft delete, recover and purge of secrets.
//!
//! <https://learn.microsoft.com/en-us/rest/api/keyvault/secrets/operation-groups>; names and limits from
//! <https://learn.microsoft.com/en-us/azure/key-vault/general/about-keys-secrets-certificates>. Values are
//! in memory only, are never logged, and end with the process.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{Method, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Azure;
use super::refusal::Refusal;
use crate::services;

/// What its tokens are for.
pub(super) const RESOURCE: &str = "https://vault.azure.net";

/// Versions of the data plane that know all of it.
const API_VERSIONS: [&str; 8] = ["2016-10-01", "7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6"];

const MAX_NAME_CHARS: usize = 127;
const MAX_VALUE_BYTES: usize = 25 * 1024;
const MAX_TAGS: usize = 15;
const MAX_TAG_CHARS: usize = 512;
/// "If not specified, the service will return up to 25 results."
const PAGE: usize = 25;

/// What a secret is set to. Unknown fields are refused, where Azure overlooks them: a typo shall be seen here.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SetSecret {
    value: String,
    #[serde(default)]
    content_type: Option<String>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    #[serde(default)]
    attributes: Attributes,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Attributes {
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    nbf: Option<i64>,
    #[serde(default)]
    exp: Option<i64>,
}

/// A version. No `Debug`: holds the value.
#[derive(Clone)]
struct Version {
    name: String,
    id: String,
    set: SetSecret,
    at: i64,
}

/// Secrets by name in lower case, with their versions, oldest first: names know no case.
#[derive(Default)]
pub(super) struct Vault {
    live: BTreeMap<String, Vec<Version>>,
    deleted: BTreeMap<String, Vec<Version>>,
}

impl Version {
    fn is_enabled(&self) -> bool {
        self.set.attributes.enabled != Some(false)
    }

    /// As it is shown, with its value or without.
    fn shown(&self, with_value: bool, with_version: bool) -> Value {
        let mut attributes = json!({
            "enabled": self.is_enabled(), "created": self.at, "updated": self.at,
            "recoveryLevel": "Recoverable+Purgeable", "recoverableDays": 90,
        });
        for (name, value) in [("nbf", self.set.attributes.nbf), ("exp", self.set.attributes.exp)] {
            if let Some(value) = value {
                attributes[name] = value.into();
            }
        }
        let id = format!("https://{}.vault.azure.net/secrets/{}", services::VAULT_NAME, self.name);
        let mut body = Map::new();
        if with_value {
            body.insert("value".to_owned(), self.set.value.as_str().into());
        }
        if let Some(content_type) = &self.set.content_type {
            body.insert("contentType".to_owned(), content_type.as_str().into());
        }
        let id = if with_version { format!("{id}/{}", self.id) } else { id };
        body.insert("id".to_owned(), id.into());
        body.insert("attributes".to_owned(), attributes);
        if !self.set.tags.is_empty() {
            body.insert("tags".to_owned(), json!(self.set.tags));
        }
        Value::Object(body)
    }
}

impl Azure {
    /// Answers a request to the vault's data plane.
    pub(super) fn vault(&self, parts: &Parts, body: &[u8]) -> Result<Response, Refusal> {
        self.0.entra.check_vault(&parts.headers)?;
        let query = parts.uri.query().unwrap_or_default();
        check_version(query)?;
        let path = parts.uri.path().trim_matches('/');
        let segments: Vec<&str> = path.split('/').collect();
        if let [_, name, ..] = segments[..] {
            check_name(name)?;
        }
        let mut vault = self.0.vault.lock().unwrap_or_else(PoisonError::into_inner);
        let ok = |body: Value| Ok(axum::Json(body).into_response());
        match (&parts.method, &segments[..]) {
            (&Method::PUT, ["secrets", name]) => ok(vault.set(name, body)?.shown(true, true)),
            (&Method::GET, ["secrets"]) => {
                let current: Vec<Value> =
                    vault.live.values().filter_map(|all| Some(all.last()?.shown(false, false))).collect();
                ok(page(&current, "secrets", query))
            }
            (&Method::GET, ["secrets", name, "versions"]) => {
                let all = vault.versions(name)?.iter().map(|version| version.shown(false, true));
                ok(page(&all.collect::<Vec<_>>(), path, query))
            }
            (&Method::GET, ["secrets", name]) => ok(vault.get(name, None)?.shown(true, true)),
            (&Method::GET, ["secrets", name, version]) => {
                ok(vault.get(name, Some(version))?.shown(true, true))
            }
            (&Method::DELETE, ["secrets", name]) => {
                let versions = vault.live.remove(&name.to_lowercase()).ok_or_else(|| no_such(name))?;
                let answer = deleted(&versions);
                vault.deleted.insert(name.to_lowercase(), versions);
                ok(answer)
            }
            (&Method::GET, ["deletedsecrets"]) => {
                let all: Vec<Value> = vault.deleted.values().map(|versions| deleted(versions)).collect();
                ok(page(&all, "deletedsecrets", query))
            }
            (&Method::GET, ["deletedsecrets", name]) => {
                ok(deleted(vault.deleted.get(&name.to_lowercase()).ok_or_else(|| no_such_deleted(name))?))
            }
            (&Method::POST, ["deletedsecrets", name, "recover"]) => {
                let key = name.to_lowercase();
                let versions = vault.deleted.remove(&key).ok_or_else(|| no_such_deleted(name))?;
                let answer = versions.last().map(|version| version.shown(false, true)).unwrap_or_default();
                vault.live.insert(key, versions);
                ok(answer)
            }
            (&Method::DELETE, ["deletedsecrets", name]) => {
                vault.deleted.remove(&name.to_lowercase()).ok_or_else(|| no_such_deleted(name))?;
                Ok(StatusCode::NO_CONTENT.into_response())
            }
            (method, _) => {
                let message = format!("Method {method} does not allow operation '{path}'");
                Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message))
            }
        }
    }
}

impl Vault {
    fn versions(&self, name: &str) -> Result<&Vec<Version>, Refusal> {
        self.live.get(&name.to_lowercase()).ok_or_else(|| no_such(name))
    }

    fn get(&self, name: &str, version: Option<&str>) -> Result<&Version, Refusal> {
        let versions = self.versions(name)?;
        let found = match version {
            None => versions.last(),
            Some(version) => versions.iter().find(|v| v.id == version),
        };
        let found = found.ok_or_else(|| no_such(name))?;
        if !found.is_enabled() {
            let message = "Operation get is not allowed on a disabled secret.";
            return Err(Refusal::new(StatusCode::FORBIDDEN, "Forbidden", message));
        }
        Ok(found)
    }

    fn set(&mut self, name: &str, body: &[u8]) -> Result<Version, Refusal> {
        let set: SetSecret = serde_json::from_slice(body).map_err(|_| {
            // The parser's words may quote the value.
            Refusal::bad_request("BadParameter", "The request body is no secret.")
        })?;
        if set.value.len() > MAX_VALUE_BYTES {
            let message = format!("The secret value exceeds the maximum of {MAX_VALUE_BYTES} bytes.");
            return Err(Refusal::bad_request("BadParameter", message));
        }
        let is_long = |text: &String| text.chars().count() > MAX_TAG_CHARS;
        if set.tags.len() > MAX_TAGS || set.tags.iter().any(|(key, value)| is_long(key) || is_long(value)) {
            let message = format!("At most {MAX_TAGS} tags of {MAX_TAG_CHARS} characters are allowed.");
            return Err(Refusal::bad_request("BadParameter", message));
        }
        let key = name.to_lowercase();
        if self.deleted.contains_key(&key) {
            // As in external-secrets/external-secrets#3519.
            let message = format!(
                "Secret {name} is currently in a deleted but recoverable state, and its name cannot be reused; \
                 in this state, the secret can only be recovered or purged."
            );
            return Err(Refusal::new(StatusCode::CONFLICT, "Conflict", message));
        }
        let id = services::uuid().map_err(|_| Refusal::internal(&miette::miette!("no randomness")))?;
        let versions = self.live.entry(key).or_default();
        // The name keeps the case that it was first given.
        let name = versions.first().map_or(name, |first| &first.name).to_owned();
        let made = Version { name, id: id.replace('-', ""), set, at: Timestamp::now().as_second() };
        versions.push(made.clone());
        Ok(made)
    }
}

fn deleted(versions: &[Version]) -> Value {
    let Some(last) = versions.last() else { return Value::Null };
    let mut body = last.shown(false, true);
    let vault = services::VAULT_NAME;
    body["recoveryId"] = format!("https://{vault}.vault.azure.net/deletedsecrets/{}", last.name).into();
    body["deletedDate"] = last.at.into();
    body
}

/// Some of `all`, and where the rest is.
fn page(all: &[Value], path: &str, query: &str) -> Value {
    let pairs: BTreeMap<_, _> = url::form_urlencoded::parse(query.as_bytes()).collect();
    let number = |name: &str| pairs.get(name).and_then(|text| text.parse::<usize>().ok());
    let size = number("maxresults").unwrap_or(PAGE).clamp(1, PAGE);
    let skip = number("$skiptoken").unwrap_or(0);
    let some: Vec<&Value> = all.iter().skip(skip).take(size).collect();
    let next = (skip + size < all.len()).then(|| {
        let version = pairs.get("api-version").map_or("", AsRef::as_ref);
        format!(
            "https://{}.vault.azure.net:443/{path}?api-version={version}&$skiptoken={}&maxresults={size}",
            services::VAULT_NAME,
            skip + size
        )
    });
    json!({ "value": some, "nextLink": next })
}

fn check_version(query: &str) -> Result<(), Refusal> {
    let version = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "api-version");
    match version {
        None => Err(Refusal::bad_request("BadParameter", "api-version must be specified")),
        Some((_, version)) if API_VERSIONS.contains(&version.as_ref()) => Ok(()),
        Some((_, version)) => {
            let message = format!("The specified version ({version}) is not recognized.");
            Err(Refusal::bad_request("BadParameter", message))
        }
    }
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if is_plain && (1..=MAX_NAME_CHARS).contains(&name.len()) {
        return Ok(());
    }
    let message = format!("The request URI contains an invalid name: {name}");
    Err(Refusal::bad_request("BadParameter", message))
}

fn no_such(name: &str) -> Refusal {
    let message = format!("A secret with (name/id) {name} was not found in this key vault.");
    Refusal::not_found("SecretNotFound", message)
}

fn no_such_deleted(name: &str) -> Refusal {
    Refusal::not_found("SecretNotFound", format!("Deleted Secret not found: {name}"))
}
