//! Azure Resource Manager's `importImage`: asked, polled, and given up when it hangs.
//!
//! <https://learn.microsoft.com/en-us/rest/api/containerregistry/registries/import-image>; long
//! operations as in <https://learn.microsoft.com/en-us/azure/azure-resource-manager/management/async-operations>.

use std::time::{Duration, Instant};

use azure_core::credentials::TokenCredential;
use http::StatusCode;
use http::header::LOCATION;
use migrate_plugin_api::{Secret, StepContext, StepError};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::Mutex;
use url::Url;

use super::errors;
use super::registry::text;
use crate::site::AzureAccess;

/// Version of the Container Registry resource provider whose shapes are used here.
const API_VERSION: &str = "2023-07-01";

/// Public Azure.
const ARM: &str = "https://management.azure.com";

/// Where a long operation's state is, if not at `Location`.
const ASYNC_OPERATION: &str = "azure-asyncoperation";

/// Tries of one request.
const MAX_TRIES: u32 = 5;

/// A token of an identity is asked for again so long before its end.
const TOKEN_MARGIN: Duration = Duration::from_secs(300);

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

enum Login {
    Token(Secret),
    Identity(Arc<dyn TokenCredential>),
}

/// One registry as a resource.
pub(crate) struct Arm {
    http: reqwest::Client,
    endpoint: Url,
    /// `/subscriptions/…/registries/NAME`.
    resource: String,
    login: Login,
    token: Mutex<Option<(Secret, Instant)>>,
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

/// Why Azure did not do it.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It does not know us: a person has to log in.
    Login(StepError),
    /// It can't, it won't, or it hangs.
    Refused(StepError),
}

impl From<StepError> for Failure {
    fn from(error: StepError) -> Self {
        Self::Refused(error)
    }
}

impl From<Failure> for StepError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Login(error) | Failure::Refused(error) => error,
        }
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
        let endpoint = match &access.arm_endpoint {
            Some(endpoint) => endpoint.clone(),
            None => Url::parse(ARM).map_err(|e| StepError::permanent("no ARM endpoint").with_source(e))?,
        };
        let login = match (&access.token, &access.service_principal) {
            (Some(reference), None) => Login::Token(ctx.secret(reference).await?),
            (None, Some(principal)) => Login::Identity(crate::azure::application(ctx, principal).await?),
            (None, None) => Login::Identity(crate::azure::credential()),
            (Some(_), Some(_)) => {
                return Err(StepError::permanent(
                    "there are both a `token` and a `service-principal` for Azure",
                )
                .with_hint("give one of them in migration.toml"));
            }
        };
        let resource = format!(
            "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.ContainerRegistry/registries/{registry}",
            access.subscription, access.resource_group
        );
        let http = reqwest::Client::builder()
            // The token goes to Resource Manager and nowhere else.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("migrate/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| StepError::permanent("failed to set up the Azure client").with_source(e))?;
        Ok(Self { http, endpoint, resource, login, token: Mutex::default(), limits })
    }

    /// Whether the registry is there and may be looked at.
    pub(crate) async fn reach(&self) -> Result<(), Failure> {
        let url = self.url(&self.resource)?;
        let response = self.send("look at the registry in Azure", || self.http.get(url.clone())).await?;
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
        let url = self.url(&format!("{}/importImage", self.resource))?;
        let response = self.send(&what, || self.http.post(url.clone()).json(request)).await?;
        match response.status() {
            StatusCode::OK | StatusCode::NO_CONTENT => Ok(Asked::Done),
            StatusCode::ACCEPTED => {
                let headers = response.headers();
                let place = text(headers, ASYNC_OPERATION).or_else(|| text(headers, LOCATION.as_str()));
                let url = place.and_then(|place| self.endpoint.join(place).ok()).ok_or_else(|| {
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
        if url.origin() != self.endpoint.origin() {
            return Err(StepError::permanent(format!(
                "the import's state is at {}, which is not Azure Resource Manager",
                url.host_str().unwrap_or("an unnamed host")
            ))
            .into());
        }
        let start = Instant::now();
        loop {
            let response = self.send("ask for the import's state", || self.http.get(url.clone())).await?;
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

    async fn send(
        &self,
        what: &str,
        build: impl Fn() -> reqwest::RequestBuilder + Send + Sync,
    ) -> Result<reqwest::Response, Failure> {
        let mut tries = 1;
        loop {
            let token = self.token().await.map_err(Failure::Login)?;
            let request = build().bearer_auth(token.expose()).timeout(errors::ANSWER_TIMEOUT);
            let (error, pause) = match request.send().await {
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED => {
                    let error = errors::status(format!("failed to {what}"), response).await;
                    return Err(Failure::Login(error));
                }
                Ok(response) if response.status().is_server_error() || response.status() == 429 => {
                    let pause = errors::retry_after(response.headers()).unwrap_or(self.limits.poll);
                    (errors::status(format!("failed to {what}"), response).await, pause)
                }
                Ok(response) => return Ok(response),
                Err(e) => (errors::network(format!("failed to {what}"), e), self.limits.poll),
            };
            if tries >= MAX_TRIES || !error.class.is_retryable() {
                return Err(error.into());
            }
            tries += 1;
            tokio::time::sleep(pause).await;
        }
    }

    async fn token(&self) -> Result<Secret, StepError> {
        let identity = match &self.login {
            Login::Token(token) => return Ok(token.clone()),
            Login::Identity(identity) => identity,
        };
        let mut held = self.token.lock().await;
        if let Some((token, renew_at)) = &*held
            && *renew_at > Instant::now()
        {
            return Ok(token.clone());
        }
        let scope = format!("{}.default", self.endpoint);
        let fresh = identity.get_token(&[&scope], None).await.map_err(|e| {
            crate::azure::no_token("failed to get an Entra token for Azure Resource Manager", e)
        })?;
        let left = fresh.expires_on - azure_core::time::OffsetDateTime::now_utc();
        let left = Duration::try_from(left).unwrap_or_default().saturating_sub(TOKEN_MARGIN);
        let token = Secret::new(fresh.token.secret());
        *held = Some((token.clone(), Instant::now() + left));
        Ok(token)
    }

    fn url(&self, path: &str) -> Result<Url, StepError> {
        let mut url = self
            .endpoint
            .join(path)
            .map_err(|e| StepError::permanent(format!("`{path}` is no Azure resource")).with_source(e))?;
        url.query_pairs_mut().append_pair("api-version", API_VERSION);
        Ok(url)
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
