//! Azure Resource Manager's view of one registry: a look at it, `importImage`, and what became of it.
//!
//! <https://learn.microsoft.com/en-us/rest/api/containerregistry/registries/import-image> and
//! <https://learn.microsoft.com/en-us/azure/azure-resource-manager/management/async-operations>.

use axum::response::{IntoResponse, Response};
use http::header::{LOCATION, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::fetch::{self, Order};
use super::refusal::Refusal;
use super::{Asked, Azure, Operation, operation_id};
use crate::oci::Repository;

/// Stable versions of the Container Registry provider that know `importImage`.
const API_VERSIONS: [&str; 5] = ["2017-10-01", "2019-05-01", "2022-12-01", "2023-07-01", "2025-04-01"];

/// Seconds between two looks. ACR says 10 (Azure/azure-powershell#17348); nobody learns more by waiting here.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Where operations are.
const LOCATION_NAME: &str = "sandbox";

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
enum Mode {
    #[default]
    NoForce,
    Force,
}

/// The request. Unknown fields are refused, where Azure overlooks them: a typo shall be seen here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ImportImage {
    source: Source,
    #[serde(default)]
    target_tags: Vec<String>,
    #[serde(default)]
    untagged_target_repositories: Vec<String>,
    #[serde(default)]
    mode: Mode,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Source {
    #[serde(default)]
    resource_id: Option<String>,
    #[serde(default)]
    registry_uri: Option<String>,
    #[serde(default)]
    credentials: Option<SourceCredentials>,
    source_image: String,
}

/// No `Debug`: holds a password.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SourceCredentials {
    #[serde(default)]
    pub username: Option<String>,
    pub password: String,
}

impl Azure {
    /// Answers a request to Resource Manager.
    pub(super) async fn arm(&self, parts: &Parts, body: &[u8]) -> Result<Response, Refusal> {
        let path = parts.uri.path();
        let version = check_version(parts.uri.query().unwrap_or_default())?;
        self.0.entra.check(&parts.headers)?;
        // Names in resource IDs know no case.
        let lower = path.to_ascii_lowercase();
        let segments: Vec<&str> = lower.trim_matches('/').split('/').collect();
        let provider = ["providers", "microsoft.containerregistry"];
        match segments[..] {
            [
                "subscriptions",
                subscription,
                "resourcegroups",
                group,
                p,
                q,
                "registries",
                name,
                ref action @ ..,
            ] if [p, q] == provider => {
                self.check_resource(subscription, group, name)?;
                match (&parts.method, action) {
                    (&Method::GET, []) => Ok(self.registry()),
                    (&Method::POST, ["importimage"]) => self.import(&version, body).await,
                    _ => Err(no_such(path)),
                }
            }
            ["subscriptions", subscription, p, q, "locations", LOCATION_NAME, "operationresults", id]
                if [p, q] == provider && parts.method == Method::GET =>
            {
                self.check_subscription(subscription)?;
                self.result(&version, id)
            }
            _ => Err(no_such(path)),
        }
    }

    fn check_subscription(&self, subscription: &str) -> Result<(), Refusal> {
        if subscription.eq_ignore_ascii_case(&self.0.subscription) {
            return Ok(());
        }
        let message = format!("The subscription '{subscription}' could not be found.");
        Err(Refusal::not_found("SubscriptionNotFound", message))
    }

    fn check_resource(&self, subscription: &str, group: &str, name: &str) -> Result<(), Refusal> {
        self.check_subscription(subscription)?;
        if !group.eq_ignore_ascii_case(&self.0.resource_group) {
            let message = format!("Resource group '{group}' could not be found.");
            return Err(Refusal::not_found("ResourceGroupNotFound", message));
        }
        if !name.eq_ignore_ascii_case(&self.0.registry) {
            let message = format!(
                "The Resource 'Microsoft.ContainerRegistry/registries/{name}' under resource group '{group}' \
                 was not found."
            );
            return Err(Refusal::not_found("ResourceNotFound", message));
        }
        Ok(())
    }

    fn resource_id(&self) -> String {
        let inner = &self.0;
        format!(
            "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.ContainerRegistry/registries/{}",
            inner.subscription, inner.resource_group, inner.registry
        )
    }

    fn registry(&self) -> Response {
        axum::Json(json!({
            "type": "Microsoft.ContainerRegistry/registries",
            "id": self.resource_id(),
            "name": self.0.registry,
            "location": LOCATION_NAME,
            "sku": { "name": "Premium", "tier": "Premium" },
            "properties": { "provisioningState": "Succeeded", "adminUserEnabled": true },
        }))
        .into_response()
    }

    /// Takes an import or refuses it. Only what the request itself says and existing tags are looked
    /// at; the source is asked later, so wrong credentials are taken too (Azure/azure-powershell#18019).
    async fn import(&self, version: &str, body: &[u8]) -> Result<Response, Refusal> {
        let request: ImportImage = serde_json::from_slice(body).map_err(|e| {
            let message = format!("The request content was invalid and could not be deserialized: '{e}'.");
            Refusal::bad_request("InvalidRequestContent", message)
        })?;
        let (mode, image) = (request.mode, request.source.source_image.clone());
        let order = self.order(request)?;
        if mode == Mode::NoForce {
            self.refuse_existing(&order).await?;
        }
        let id = operation_id()?;
        let place = self.place(version, &id);
        self.note(&id, Operation::Running);
        let azure = self.clone();
        tokio::spawn(async move {
            let ended = match fetch::run(&order, &azure.0.target).await {
                Ok(()) => Operation::Done,
                // As in Azure/acr#181.
                Err(reason) => Operation::Failed(Refusal::parameters(format!(
                    "Operation {id} failed. Resource {} {reason}",
                    azure.resource_id()
                ))),
            };
            azure.note(&id, ended);
        });
        let mut response = accepted(&place)?;
        response.extensions_mut().insert(Asked(image));
        Ok(response)
    }

    fn order(&self, request: ImportImage) -> Result<Order, Refusal> {
        let source = request.source;
        let endpoint = match (source.resource_id, source.registry_uri) {
            (None, Some(uri)) => {
                // A registry that nobody knows can't be reached, which is found out later.
                let known = self.0.sources.get(&uri).cloned();
                known.ok_or_else(|| Refusal::parameters(format!("The registry {uri} can not be reached.")))?
            }
            (Some(_), None) => return Err(Refusal::parameters("The sandbox has no other Azure registry.")),
            _ => {
                return Err(Refusal::parameters("Exactly one of resourceId and registryUri must be given."));
            }
        };
        // `repository` alone means its tag `latest`.
        let (repository, reference) = split(&source.source_image);
        let reference = reference.unwrap_or("latest").to_owned();
        let repository = check_repository(repository)?;
        if request.target_tags.is_empty() && request.untagged_target_repositories.is_empty() {
            let message = format!(
                "Missing property parameters.TargetTags for the operation against the resource with name {}.",
                self.0.registry
            );
            // Azure/azure-powershell#24546.
            return Err(Refusal::parameters(message));
        }
        let mut tags = Vec::new();
        for target in &request.target_tags {
            let (name, tag) = target.split_once(':').map_or((target.as_str(), None), |(n, t)| (n, Some(t)));
            // Without a tag, the source's is meant.
            let tag = match tag {
                Some(tag) => tag,
                None if reference.contains(':') => "latest",
                None => &reference,
            };
            tags.push((check_repository(name)?, tag.to_owned()));
        }
        let untagged: Result<Vec<_>, _> =
            request.untagged_target_repositories.iter().map(|name| check_repository(name)).collect();
        let credentials = source.credentials;
        Ok(Order { endpoint, repository, reference, credentials, tags, untagged: untagged? })
    }

    /// "Any existing target tags will fail the operation before any copying begins."
    async fn refuse_existing(&self, order: &Order) -> Result<(), Refusal> {
        for (name, tag) in &order.tags {
            let http = reqwest::Client::new();
            let repository = Repository { http, registry: &self.0.target, name };
            if repository.has_manifest(tag).await.map_err(|e| Refusal::internal(&e))? {
                let message = format!("Tag {name}:{tag} already exists in target registry.");
                return Err(Refusal::new(StatusCode::CONFLICT, "Conflict", message));
            }
        }
        Ok(())
    }

    pub(super) fn place(&self, version: &str, id: &str) -> String {
        format!(
            "{}/subscriptions/{}/providers/Microsoft.ContainerRegistry/locations/{LOCATION_NAME}/operationResults\
             /{id}?api-version={version}",
            self.0.url, self.0.subscription
        )
    }

    /// 202 while it runs, 200 when it is done, and why not.
    fn result(&self, version: &str, id: &str) -> Result<Response, Refusal> {
        match self.operation(id) {
            Some(Operation::Running) => accepted(&self.place(version, id)),
            Some(Operation::Done) => Ok(StatusCode::OK.into_response()),
            Some(Operation::Failed(refusal)) => Err(refusal),
            None => {
                Err(Refusal::not_found("ResourceNotFound", format!("The operation '{id}' was not found.")))
            }
        }
    }
}

fn accepted(place: &str) -> Result<Response, Refusal> {
    let place = HeaderValue::from_str(place).map_err(|e| Refusal::internal(&miette::miette!("{e}")))?;
    let mut response = StatusCode::ACCEPTED.into_response();
    response.headers_mut().insert(LOCATION, place);
    response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
    Ok(response)
}

/// The version is looked at before the token (MicrosoftDocs/feedback#2279).
fn check_version(query: &str) -> Result<String, Refusal> {
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    let Some((_, version)) = pairs.find(|(name, _)| name.eq_ignore_ascii_case("api-version")) else {
        let message = "The api-version query parameter (?api-version=) is required for all requests.";
        return Err(Refusal::bad_request("MissingApiVersionParameter", message));
    };
    if API_VERSIONS.contains(&version.as_ref()) {
        return Ok(version.into_owned());
    }
    // As in Azure/azure-powershell#6031.
    let message = format!(
        "The api-version '{version}' is invalid. The supported versions are '{}'.",
        API_VERSIONS.join(",")
    );
    Err(Refusal::bad_request("InvalidApiVersionParameter", message))
}

fn no_such(path: &str) -> Refusal {
    let message = format!("No resource or operation of the sandbox's stand-in is at '{path}'.");
    Refusal::not_found("InvalidResourceType", message)
}

/// `repository`, `repository:tag` or `repository@sha256:…`.
fn split(image: &str) -> (&str, Option<&str>) {
    let parts = image.split_once('@').or_else(|| image.split_once(':'));
    parts.map_or((image, None), |(repository, reference)| (repository, Some(reference)))
}

/// A name by the grammar of the OCI distribution specification.
fn check_repository(name: &str) -> Result<String, Refusal> {
    let is_part = |part: &str| {
        let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(alphanumeric)
            && part.ends_with(alphanumeric)
            && part.chars().all(|c| alphanumeric(c) || "._-".contains(c))
    };
    match name.split('/').all(is_part) {
        true => Ok(name.to_owned()),
        false => Err(Refusal::parameters(format!("'{name}' is no repository name."))),
    }
}
