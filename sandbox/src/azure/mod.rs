//! The sandbox's own strict stand-in for Entra, Azure Resource Manager and a Key Vault (`sandbox azure`).
//!
//! Does what a user of `acr.import` meets: a token for an application by its secret, a look at the
//! registry, and `importImage`, which really fetches the image from the source registry with the
//! credentials of the request, after the answer, and pushes it to the registry that stands for ACR.
//! Refuses what the services refuse, in their words where those are known; each place names where
//! they are from. Holds no state but the operations under way, which end with it, as tokens don't.

mod arm;
mod entra;
mod fetch;
mod identity;
#[cfg(test)]
mod identity_tests;
mod refusal;
#[cfg(test)]
mod tests;
mod vault;
#[cfg(test)]
mod vault_tests;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use http::Method;
use miette::{IntoDiagnostic, Result, WrapErr, miette};

use crate::layout::{Layout, host_url, ports};
use crate::oci::Registry;
use crate::services::{self, ACR_NAME, Credentials, ECR_HOST, RESOURCE_GROUP, SUBSCRIPTION};

use entra::Entra;
use refusal::Refusal;

/// Longest request that is read: an import names one image, and a secret has at most 25 KB.
const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// What an import has come to.
#[derive(Debug, Clone)]
enum Operation {
    Running,
    Done,
    Failed(Refusal),
}

/// One tenant with one application, one subscription with one registry in it, and one vault.
#[derive(Clone)]
pub struct Azure(Arc<Inner>);

struct Inner {
    /// Where this answers, as clients write it: also the audience of its tokens.
    url: String,
    entra: Entra,
    subscription: String,
    resource_group: String,
    registry: String,
    /// What stands for that registry's data plane.
    target: Registry,
    /// Where registries outside Azure really answer, by their name.
    sources: HashMap<String, url::Url>,
    operations: Mutex<HashMap<String, Operation>>,
    vault: Mutex<vault::Vault>,
    resources: Mutex<identity::Resources>,
}

impl Azure {
    /// The sandbox's.
    ///
    /// # Errors
    /// When the sandbox isn't up.
    pub fn of(layout: &Layout) -> Result<Self> {
        let secrets = services::credentials(layout)?;
        let ecr = services::ecr(layout)?;
        Ok(Self::new(&secrets, host_url(ports::AZURE), services::acr(&secrets)?, ecr.endpoint))
    }

    fn new(secrets: &Credentials, url: String, target: Registry, ecr: url::Url) -> Self {
        Self(Arc::new(Inner {
            entra: Entra::new(secrets, &url),
            url,
            subscription: SUBSCRIPTION.to_owned(),
            resource_group: RESOURCE_GROUP.to_owned(),
            registry: ACR_NAME.to_owned(),
            target,
            sources: [(ECR_HOST.to_owned(), ecr)].into(),
            operations: Mutex::default(),
            vault: Mutex::default(),
            resources: Mutex::default(),
        }))
    }

    fn note(&self, id: &str, operation: Operation) {
        let mut operations = self.0.operations.lock().unwrap_or_else(PoisonError::into_inner);
        operations.insert(id.to_owned(), operation);
    }

    fn operation(&self, id: &str) -> Option<Operation> {
        let operations = self.0.operations.lock().unwrap_or_else(PoisonError::into_inner);
        operations.get(id).cloned()
    }
}

/// Serves on `listen` until the process ends.
///
/// # Errors
/// When the address can't be bound.
pub async fn serve(listen: SocketAddr, azure: Azure) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .into_diagnostic()
        .wrap_err_with(|| format!("can't listen on {listen}"))?;
    axum::serve(listener, router(azure)).await.into_diagnostic()
}

/// The stand-in as a service, for `serve` and for tests.
fn router(azure: Azure) -> Router {
    Router::new().fallback(handle).with_state(azure)
}

async fn handle(State(azure): State<Azure>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let (method, path) = (parts.method.clone(), parts.uri.path().to_owned());
    let outcome = match axum::body::to_bytes(body, MAX_REQUEST_BYTES).await {
        Err(_) => Err(Refusal::request_too_large()),
        Ok(body) => match path.trim_start_matches('/').split('/').collect::<Vec<_>>()[..] {
            [tenant, "oauth2", "v2.0", "token"] => {
                azure.0.entra.token(&method, tenant, &parts.headers, &body)
            }
            ["secrets" | "deletedsecrets", ..] => azure.vault(&parts, &body),
            _ => match azure.identities(&parts, &body) {
                Some(answer) => answer,
                None => azure.arm(&parts, &body).await,
            },
        },
    };
    let response = outcome.unwrap_or_else(|refusal| refusal.into_response());
    // The access log is what tests count imports by. A body may hold secrets and is never shown.
    let status = response.status().as_u16();
    match response.extensions().get::<Asked>() {
        Some(Asked(image)) if method == Method::POST => {
            tracing::info!("{status} {method} {path} image={image}")
        }
        _ => tracing::info!("{status} {method} {path}"),
    }
    response
}

/// What a request asked to import, for the access log.
#[derive(Debug, Clone)]
struct Asked(String);

/// A new operation's name, as ACR forms it (Azure/azure-powershell#17348).
fn operation_id() -> Result<String, Refusal> {
    services::uuid()
        .map(|uuid| format!("registries-{uuid}"))
        .map_err(|_| Refusal::internal(&miette!("no randomness")))
}
