//! How a container is reached: authentication, time-outs, and what is learnt from answers.
//!
//! The SAS is part of the client's URL; errors that may show it pass through
//! [`blob_error`](super::errors::blob_error), which cuts it off.

use std::sync::Arc;
use std::time::Duration;

use azure_core::error::ErrorKind;
use azure_core::http::headers::HeaderName;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{ClientOptions, Context, Request, RetryOptions, Transport, Url};
use azure_storage_blob::{BlobContainerClient, BlobContainerClientOptions};
use migrate_plugin_api::{StepContext, StepError};

use super::blob_wire::{Azurite, Wire};
use super::errors::blob_error;
use super::http1::Lines;
use crate::azure;
use crate::site::ContainerRef;
use crate::tokens::Tokens;

/// Silence after which a request is given up. The SDK's own 60 s are too few for Azure to fetch a
/// block of 64 MiB from another cloud.
const READ_TIMEOUT: Duration = Duration::from_secs(180);

/// What tokens are for, in all clouds.
const SCOPE: &str = "https://storage.azure.com/.default";

/// Sends the token along that [`Wire`] sends.
#[derive(Debug)]
struct Authorizes(Arc<Tokens>);

#[async_trait::async_trait]
impl Policy for Authorizes {
    async fn send(&self, ctx: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        let kind = |e: &StepError| if e.class.is_retryable() { ErrorKind::Io } else { ErrorKind::Credential };
        let token = self.0.get().await.map_err(|e| azure_core::Error::new(kind(&e), e))?;
        request.insert_header("authorization", format!("Bearer {}", token.expose()));
        pass(ctx, request, next).await
    }
}

/// Notes what the target is, by its answers.
#[derive(Debug)]
struct Learns(Azurite);

#[async_trait::async_trait]
impl Policy for Learns {
    async fn send(&self, ctx: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        let response = pass(ctx, request, next).await?;
        self.0.learn(response.headers().get_optional_str(&HeaderName::from_static("server")));
        Ok(response)
    }
}

async fn pass(ctx: &Context<'_>, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
    // The transport comes last and is never absent.
    let Some((first, rest)) = next.split_first() else {
        return Err(azure_core::Error::with_message(ErrorKind::Other, "no transport"));
    };
    first.send(ctx, request, rest).await
}

/// Where the container is, for people.
pub(super) fn place(to: &ContainerRef) -> String {
    format!("container `{}` at {}", to.container, to.account_url.as_str().trim_end_matches('/'))
}

/// How a container is reached with one SAS or identity.
pub(super) struct Access {
    pub(super) container: BlobContainerClient,
    /// For what comes by the thousand.
    pub(super) wire: Wire,
}

/// The way to a container, whoever goes it.
#[derive(Clone)]
pub(super) struct Line {
    http: Lines,
    pub(super) azurite: Azurite,
}

impl Line {
    /// Sends nothing yet.
    pub(super) fn new() -> Result<Self, StepError> {
        Ok(Self { http: Lines::new(READ_TIMEOUT)?, azurite: Azurite::default() })
    }
}

/// With the SAS as it is now, or with a fresh token of Entra's.
pub(super) async fn access(
    ctx: &StepContext,
    to: &ContainerRef,
    line: &Line,
) -> Result<Arc<Access>, StepError> {
    let mut url = to.account_url.clone();
    url.path_segments_mut()
        .map_err(|()| StepError::permanent(format!("account-url `{}` is no base URL", to.account_url)))?
        .pop_if_empty()
        .push(&to.container);
    let mut tokens = None;
    match &to.sas {
        Some(_) if to.service_principal.is_some() => {
            let message = format!("there are both a `sas` and a `service-principal` for {}", place(to));
            return Err(StepError::permanent(message).with_hint("give one of them in migration.toml"));
        }
        Some(reference) => {
            let sas = ctx.secret(reference).await?;
            url.set_query(Some(sas.expose().trim().trim_start_matches('?')));
        }
        None => tokens = Some(entra(ctx, to).await?),
    }
    let Line { http, azurite } = line.clone();
    let wire = Wire::new(&url, tokens.clone(), http.clone(), azurite.clone());
    let client_options = client_options(http.client().clone(), azurite, tokens);
    let options = BlobContainerClientOptions { client_options, ..Default::default() };
    let container = BlobContainerClient::new(url, None, Some(options))
        .map_err(|e| blob_error(format!("failed to set up the client of {}", place(to)), e))?;
    Ok(Arc::new(Access { container, wire }))
}

/// Tokens of the identity that `to` names, or of the machine's.
async fn entra(ctx: &StepContext, to: &ContainerRef) -> Result<Arc<Tokens>, StepError> {
    let url = &to.account_url;
    let here = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    if url.scheme() != "https" && !here {
        let message = format!("no Entra token is sent to `{url}`: others could read it on the way");
        return Err(
            StepError::permanent(message).with_hint("give an `account-url` that begins with https://")
        );
    }
    let identity = match &to.service_principal {
        Some(principal) => azure::application(ctx, principal).await?,
        None => azure::credential(),
    };
    Ok(Arc::new(Tokens::of(identity, SCOPE.to_owned(), "Blob Storage")))
}

fn client_options(http: reqwest::Client, azurite: Azurite, tokens: Option<Arc<Tokens>>) -> ClientOptions {
    let learns: Arc<dyn Policy> = Arc::new(Learns(azurite));
    // Not the client's own way with an identity: that keeps a token beside ours.
    let authorizes = tokens.map(|tokens| Arc::new(Authorizes(tokens)) as Arc<dyn Policy>);
    ClientOptions {
        transport: Some(Transport::new(Arc::new(http))),
        per_call_policies: std::iter::once(learns).chain(authorizes).collect(),
        // `Pace` sends again what can be, and knows what the others met.
        retry: RetryOptions::none(),
        ..Default::default()
    }
}

/// What can be told of a SAS without asking: what it may not do, and when it ends.
pub(super) struct SasLimits {
    /// Needed permissions that it lacks.
    pub(super) missing: Vec<&'static str>,
    /// When it expires, as written.
    pub(super) expires: Option<String>,
}

impl SasLimits {
    /// Of a query string, for a copy that `deletes` or writes `tags`.
    pub(super) fn of(sas: &str, deletes: bool, tags: bool) -> Self {
        let sas = sas.trim().trim_start_matches('?');
        let get = |name: &str| {
            Url::parse(&format!("http://sas/?{sas}"))
                .ok()
                .and_then(|url| url.query_pairs().find(|(key, _)| key == name).map(|(_, v)| v.into_owned()))
        };
        // Without `sp` a stored access policy decides.
        let missing = get("sp").map_or_else(Vec::new, |granted| {
            let delete = deletes.then_some(('d', "delete"));
            let tags = tags.then_some(('t', "write tags"));
            [('r', "read"), ('l', "list"), ('w', "write")]
                .into_iter()
                .chain(delete)
                .chain(tags)
                .filter(|(letter, _)| !granted.contains(*letter))
                .map(|(_, name)| name)
                .collect()
        });
        Self { missing, expires: get("se") }
    }
}
