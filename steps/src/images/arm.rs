//! Azure Resource Manager's `importImage`: asked, polled, and given up when it hangs.
//!
//! <https://learn.microsoft.com/en-us/rest/api/containerregistry/registries/import-image>.

use std::time::{Duration, Instant};

use http::StatusCode;
use http::header::LOCATION;
use migrate_plugin_api::{StepContext, StepError};
use serde::{Deserialize, Serialize};
use url::Url;

use super::errors;
use super::registry::text;
pub(crate) use crate::arm::Failure;
use crate::arm::Manager;
use crate::site::AzureAccess;

/// Version of the Container Registry resource provider whose shapes are used here.
const API_VERSION: &str = "2023-07-01";

/// Where a long operation's state is, if not at `Location`.
const ASYNC_OPERATION: &str = "azure-asyncoperation";

/// Times that tests make small.
#[derive(Debug, Clone)]
pub(crate) struct ArmLimits {
    /// Between two looks at an operation, where the service doesn't say.
    pub poll: Duration,
    /// Imports have been seen "Running" for ever (Azure/acr #549, #617): then given up.
    pub hang: Duration,
}

impl Default for ArmLimits {
    fn default() -> Self {
        Self { poll: Duration::from_secs(5), hang: Duration::from_secs(30 * 60) }
    }
}

/// One registry as a resource.
pub(crate) struct Arm {
    manager: Manager,
    /// `/subscriptions/…/registries/NAME`.
    resource: String,
    limits: ArmLimits,
}

/// What Azure is asked to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImportRequest {
    pub source: ImportSource,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_tags: Vec<String>,
    /// Repositories that get the manifest without a tag.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub untagged_target_repositories: Vec<String>,
    /// `NoForce` leaves existing tags alone.
    pub mode: String,
}

/// Where from.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImportSource {
    pub registry_uri: String,
    /// `repository@sha256:…`.
    pub source_image: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<ImportCredentials>,
}

/// ECR's user name and 12-hour password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImportCredentials {
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for ImportSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.registry_uri, self.source_image)
    }
}

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Asked {
    Done,
    /// It goes on; its state is at this URL.
    Running(Url),
}

#[derive(Deserialize)]
struct OperationState {
    status: Option<String>,
    error: Option<OperationError>,
}

#[derive(Default, Deserialize)]
struct OperationError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Arm {
    /// Sends nothing yet.
    pub(crate) async fn new(
        ctx: &StepContext,
        access: &AzureAccess,
        registry: &str,
        limits: ArmLimits,
    ) -> Result<Self, StepError> {
        let manager = Manager::new(ctx, access, limits.poll).await?;
        let resource = format!(
            "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.ContainerRegistry/registries/{registry}",
            access.subscription, access.resource_group
        );
        Ok(Self { manager, resource, limits })
    }

    /// Whether the registry is there and may be looked at.
    pub(crate) async fn reach(&self) -> Result<(), Failure> {
        let url = self.manager.url(&self.resource, API_VERSION)?;
        let response =
            self.manager.send("look at the registry in Azure", || self.manager.http.get(url.clone())).await?;
        match response.status() {
            status if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND => Err(StepError::permanent(format!("{} is not in Azure", self.resource))
                .with_hint(
                    "check `subscription`, `resource-group` and the registry's `host` in migration.toml",
                )
                .into()),
            _ => Err(errors::status("failed to look at the registry in Azure", response).await.into()),
        }
    }

    /// Asks for one import.
    pub(crate) async fn import(&self, request: &ImportRequest) -> Result<Asked, Failure> {
        let what = format!("ask for the import of {}", request.source.source_image);
        let url = self.manager.url(&format!("{}/importImage", self.resource), API_VERSION)?;
        let response = self.manager.send(&what, || self.manager.http.post(url.clone()).json(request)).await?;
        match response.status() {
            StatusCode::OK | StatusCode::NO_CONTENT => Ok(Asked::Done),
            StatusCode::ACCEPTED => {
                let headers = response.headers();
                let place = text(headers, ASYNC_OPERATION).or_else(|| text(headers, LOCATION.as_str()));
                let url =
                    place.and_then(|place| self.manager.endpoint.join(place).ok()).ok_or_else(|| {
                        StepError::permanent(format!("failed to {what}: Azure does not say where it is"))
                    })?;
                Ok(Asked::Running(url))
            }
            _ => Err(errors::status(format!("failed to {what}"), response).await.into()),
        }
    }

    /// Waits until the operation at `url` ends. What Azure says against it, or that it hangs, is
    /// an error.
    pub(crate) async fn wait(&self, url: &Url) -> Result<(), Failure> {
        if url.origin() != self.manager.endpoint.origin() {
            return Err(StepError::permanent(format!(
                "the import's state is at {}, which is not Azure Resource Manager",
                url.host_str().unwrap_or("an unnamed host")
            ))
            .into());
        }
        let start = Instant::now();
        loop {
            let response = self
                .manager
                .send("ask for the import's state", || self.manager.http.get(url.clone()))
                .await?;
            let pause = errors::retry_after(response.headers()).unwrap_or(self.limits.poll);
            match response.status() {
                StatusCode::ACCEPTED => {}
                StatusCode::OK | StatusCode::NO_CONTENT | StatusCode::CREATED => {
                    // At `Location`, 200 without a state means done.
                    let bytes = response.bytes().await.unwrap_or_default();
                    if ended(&bytes)? {
                        return Ok(());
                    }
                }
                _ => return Err(errors::status("the import failed", response).await.into()),
            }
            if start.elapsed() + pause > self.limits.hang {
                return Err(StepError::permanent(format!(
                    "the import was still running after {} minutes",
                    self.limits.hang.as_secs() / 60
                ))
                .into());
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// Whether an operation's state means that it is over; an error when it is over and failed.
fn ended(bytes: &[u8]) -> Result<bool, StepError> {
    let Ok(state) = serde_json::from_slice::<OperationState>(bytes) else { return Ok(true) };
    match state.status.as_deref() {
        None | Some("Succeeded") => Ok(true),
        Some("Failed" | "Canceled" | "Cancelled") => {
            let error = state.error.unwrap_or_default();
            Err(StepError::permanent(format!("the import failed: {} {}", error.code, error.message)))
        }
        Some(_) => Ok(false),
    }
}
