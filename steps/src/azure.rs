//! Who we are to Azure: the identities that a person or a machine usually has.

use std::error::Error as StdError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::error::ErrorKind;
use azure_core::http::{ClientMethodOptions, Context};
use azure_core::time::{Duration as Span, OffsetDateTime};
use azure_identity::{DeveloperToolsCredential, ManagedIdentityCredential, WorkloadIdentityCredential};
use migrate_plugin_api::{Secret, StepContext, StepError};
use serde::Deserialize;
use tokio::sync::OnceCell;
use url::Url;

use crate::site::ServicePrincipal;
use crate::tls::{self, Speaks};

/// Entra of public Azure.
const AUTHORITY: &str = "https://login.microsoftonline.com";

/// Entra answers within a second; after this long it won't.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Workload identity where the pod has one, then the Azure CLIs, then a managed identity: the
/// explicit before the implicit, and the one that has to time out last.
///
/// Sends nothing yet; what can't be set up here is left out.
pub(crate) fn credential() -> Arc<dyn TokenCredential> {
    Arc::new(Chain::of(sources))
}

/// With these, an identity is asked for a token that it doesn't keep: the one that it gave was refused.
pub(crate) fn anew() -> TokenRequestOptions<'static> {
    let context = Context::new().with_value(Anew);
    TokenRequestOptions { method_options: ClientMethodOptions { context } }
}

#[derive(Debug)]
struct Anew;

fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    if let Ok(workload) = WorkloadIdentityCredential::new(None) {
        sources.push(Source { identity: workload, is_set_up: true });
    }
    if let Ok(tools) = DeveloperToolsCredential::new(None) {
        sources.push(Source { identity: tools, is_set_up: true });
    }
    if let Ok(managed) = ManagedIdentityCredential::new(None) {
        sources.push(Source { identity: managed, is_set_up: false });
    }
    sources
}

/// The identity of an application, by its secret. Sends nothing yet.
pub(crate) async fn application(
    ctx: &StepContext,
    principal: &ServicePrincipal,
) -> Result<Arc<dyn TokenCredential>, StepError> {
    let authority = match &principal.authority {
        Some(authority) => authority.clone(),
        None => Url::parse(AUTHORITY).map_err(|e| StepError::permanent("no Entra").with_source(e))?,
    };
    let mut endpoint = authority;
    endpoint
        .path_segments_mut()
        .map_err(|()| StepError::permanent("the `authority` of the service principal is no web address"))?
        .pop_if_empty()
        .extend([principal.tenant.as_str(), "oauth2", "v2.0", "token"]);
    let http = tls::client(Speaks::Http2)
        // The secret goes to Entra and nowhere else.
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("migrate/", env!("CARGO_PKG_VERSION")))
        .timeout(ANSWER_TIMEOUT)
        .build()
        .map_err(|e| StepError::permanent("failed to set up the Entra client").with_source(e))?;
    let secret = ctx.secret(&principal.client_secret).await?;
    Ok(Arc::new(Application { http, endpoint, client_id: principal.client_id.clone(), secret }))
}

/// `azure_identity` has this too, but knows no authority without TLS, as a private one may be.
/// <https://learn.microsoft.com/en-us/entra/identity-platform/v2-oauth2-client-creds-grant-flow>
#[derive(Debug)]
struct Application {
    http: reqwest::Client,
    endpoint: Url,
    client_id: String,
    secret: Secret,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    /// Seconds.
    expires_in: i64,
}

#[derive(Default, Deserialize)]
struct Denied {
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_description: String,
}

#[async_trait]
impl TokenCredential for Application {
    async fn get_token(
        &self,
        scopes: &[&str],
        _options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let form = [
            ("client_id", self.client_id.as_str()),
            ("client_secret", self.secret.expose()),
            ("grant_type", "client_credentials"),
            ("scope", &scopes.join(" ")),
        ];
        let unreachable = |e: reqwest::Error| {
            let host = self.endpoint.host_str().unwrap_or("Entra");
            azure_core::Error::with_error(ErrorKind::Io, e.without_url(), format!("no answer from {host}"))
        };
        let answer = self.http.post(self.endpoint.clone()).form(&form).send().await.map_err(unreachable)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(unreachable)?;
        if !status.is_success() {
            let denied: Denied = serde_json::from_slice(&body).unwrap_or_default();
            let busy = status.is_server_error() || status == http::StatusCode::TOO_MANY_REQUESTS;
            let kind = if busy { ErrorKind::Io } else { ErrorKind::Credential };
            // The description has lines with IDs and times below its first.
            let words = denied.error_description.lines().next().unwrap_or_default();
            let mut message = format!("Entra answered {}", status.as_u16());
            if !denied.error.is_empty() {
                message = format!("{message}: {} {words}", denied.error);
            }
            return Err(azure_core::Error::with_message(kind, message));
        }
        // The body holds the token: a parse error must not quote it.
        let granted: Granted = serde_json::from_slice(&body)
            .map_err(|_| azure_core::Error::with_message(ErrorKind::Credential, "Entra gave no token"))?;
        let expires_on = OffsetDateTime::now_utc() + Span::seconds(granted.expires_in);
        Ok(AccessToken::new(granted.access_token, expires_on))
    }
}

/// A token that Entra did not give, in the words of the contract.
pub(crate) fn no_token(message: impl Into<String>, error: azure_core::Error) -> StepError {
    match is_away(&error) {
        true => StepError::transient(message).with_source(error),
        false => StepError::auth(message).with_source(error).with_hint(
            "log in with `az login`, run with a managed or workload identity, or check `service-principal` \
             in migration.toml",
        ),
    }
}

/// What the Azure CLI says where it can't reach Entra: the words of its HTTP library. It has no code for that.
/// <https://github.com/Azure/azure-cli/issues/11829>, <https://github.com/Azure/azure-cli/issues/27856>.
const CLI_IS_CUT_OFF: [&str; 3] = ["Max retries exceeded with url", "Connection aborted", "Read timed out"];

/// What it says besides where that won't pass: a proxy whose certificate it doesn't trust, or that refuses.
/// <https://learn.microsoft.com/cli/azure/use-azure-cli-successfully-troubleshooting>, work behind a proxy.
const CLI_IS_KEPT_OUT: [&str; 3] = ["SSLError", "CERTIFICATE_VERIFY_FAILED", "ProxyError"];

/// Whether Entra, or what stands for it on this machine, did not answer or was busy: that passes.
/// The identities of `azure_identity` call every failure `Credential`, and keep what it was as its cause.
fn is_away(error: &azure_core::Error) -> bool {
    let passes = |error: &azure_core::Error| match error.kind() {
        ErrorKind::Io | ErrorKind::Connection => true,
        ErrorKind::HttpResponse { status, .. } => matches!(u16::from(*status), 408 | 429 | 500..=599),
        _ => false,
    };
    causes(error).any(passes) || {
        let said = error.to_string();
        let says = |words: &[&str]| words.iter().any(|words| said.contains(words));
        says(&CLI_IS_CUT_OFF) && !says(&CLI_IS_KEPT_OUT)
    }
}

/// Whether there is somebody behind an error who answers.
fn has_answered(error: &azure_core::Error) -> bool {
    causes(error).any(|error| matches!(error.kind(), ErrorKind::HttpResponse { .. }))
}

/// An error and those of its causes that are Azure's.
fn causes(error: &azure_core::Error) -> impl Iterator<Item = &azure_core::Error> {
    let first: &(dyn StdError + 'static) = error;
    std::iter::successors(Some(first), |error| (*error).source()).filter_map(|error| error.downcast_ref())
}

/// An identity that a machine may have.
#[derive(Debug)]
struct Source {
    identity: Arc<dyn TokenCredential>,
    /// Somebody has set it up. A managed identity is there or not, and only its silence tells.
    is_set_up: bool,
}

/// The first identity that gives a token serves all later requests.
#[derive(Debug)]
struct Chain {
    set_up: fn() -> Vec<Source>,
    /// Set up when a token is wanted: an open registry wants none.
    sources: Mutex<Option<Arc<Vec<Source>>>>,
    chosen: OnceCell<usize>,
}

impl Chain {
    fn of(set_up: fn() -> Vec<Source>) -> Self {
        Self { set_up, sources: Mutex::default(), chosen: OnceCell::new() }
    }

    /// Identities of `azure_identity` keep a token until five minutes before its end, and have no way to forget
    /// it: `is_anew` ones keep none yet.
    fn sources(&self, is_anew: bool) -> Arc<Vec<Source>> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if is_anew {
            *sources = None;
        }
        Arc::clone(sources.get_or_insert_with(|| Arc::new((self.set_up)())))
    }
}

#[async_trait]
impl TokenCredential for Chain {
    async fn get_token(
        &self,
        scopes: &[&str],
        options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let is_anew = options.as_ref().is_some_and(|o| o.method_options.context.value::<Anew>().is_some());
        let sources = self.sources(is_anew);
        if let Some(source) = self.chosen.get().and_then(|index| sources.get(*index)) {
            return source.identity.get_token(scopes, options).await;
        }
        let (mut reasons, mut busy) = (Vec::new(), None);
        for (index, source) in sources.iter().enumerate() {
            match source.identity.get_token(scopes, options.clone()).await {
                Ok(token) => {
                    // Two first requests at once may both get here; either's choice is good.
                    let _ = self.chosen.set(index);
                    return Ok(token);
                }
                // The next one may have other rights, and would be asked from then on.
                Err(error) if source.is_set_up && is_away(&error) => return Err(error),
                // It is there, and has said so.
                Err(error) if is_away(&error) && has_answered(&error) => busy = Some(error),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        if let Some(busy) = busy {
            return Err(busy);
        }
        let reasons = reasons.join("; ");
        Err(azure_core::Error::with_message(ErrorKind::Credential, format!("no Azure identity: {reasons}")))
    }
}

#[cfg(test)]
#[path = "azure_tests.rs"]
mod tests;
