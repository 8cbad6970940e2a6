//! The Blob client: how it authenticates, its time-outs, and what it adds to requests.
//!
//! The SAS is part of the client's URL; errors that may show it pass through
//! [`blob_error`](super::errors::blob_error), which cuts it off.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::error::ErrorKind;
use azure_core::http::headers::HeaderName;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{ClientOptions, Context, Request, RetryOptions, Transport, Url};
use azure_identity::{DeveloperToolsCredential, ManagedIdentityCredential, WorkloadIdentityCredential};
use azure_storage_blob::{BlobContainerClient, BlobContainerClientOptions};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use migrate_plugin_api::{StepContext, StepError};

use super::checksum::{Crc64, md5};
use super::errors::{Said, blob_error, chain};
use crate::site::ContainerRef;

/// Long enough for a dial across continents.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after which a request is given up. The SDK's own 60 s are too few for Azure to fetch a
/// block of 64 MiB from another cloud.
const READ_TIMEOUT: Duration = Duration::from_secs(180);

/// What a request carries, for the check on arrival.
#[derive(Debug, Clone)]
pub(super) struct Arriving {
    pub(super) bytes: Bytes,
    pub(super) crc64: Crc64,
    /// Where it is known already.
    pub(super) md5: Option<Vec<u8>>,
}

/// Says what must arrive, in the one checksum that the service takes: the CRC, or, to Azurite, the MD5.
/// Azurite computes CRCs in JavaScript, at some 35 MiB a second, unless it is given an MD5.
#[derive(Debug, Default)]
struct ArrivalCheck {
    azurite: AtomicBool,
}

#[async_trait::async_trait]
impl Policy for ArrivalCheck {
    async fn send(&self, ctx: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        if let Some(Arriving { bytes, crc64, md5: known }) = ctx.value() {
            if self.azurite.load(Ordering::Relaxed) {
                let md5 = known.clone().unwrap_or_else(|| md5(bytes));
                request.insert_header("content-md5", BASE64.encode(md5));
            } else {
                request.insert_header("x-ms-content-crc64", BASE64.encode(crc64.to_azure()));
            }
        }
        // The transport comes last and is never absent.
        let Some((first, rest)) = next.split_first() else {
            return Err(azure_core::Error::with_message(ErrorKind::Other, "no transport"));
        };
        let response = first.send(ctx, request, rest).await?;
        let server = response.headers().get_optional_str(&HeaderName::from_static("server"));
        if server.is_some_and(|server| server.starts_with("Azurite")) {
            self.azurite.store(true, Ordering::Relaxed);
        }
        Ok(response)
    }
}

/// Where the container is, for people.
pub(super) fn place(to: &ContainerRef) -> String {
    format!("container `{}` at {}", to.container, to.account_url.as_str().trim_end_matches('/'))
}

/// A client with the SAS as it is now, or with Entra.
pub(super) async fn client(
    ctx: &StepContext,
    to: &ContainerRef,
) -> Result<Arc<BlobContainerClient>, StepError> {
    let mut url = to.account_url.clone();
    url.path_segments_mut()
        .map_err(|()| StepError::permanent(format!("account-url `{}` is no base URL", to.account_url)))?
        .pop_if_empty()
        .push(&to.container);
    let credential = match &to.sas {
        Some(reference) => {
            let sas = ctx.secret(reference).await?;
            url.set_query(Some(sas.expose().trim().trim_start_matches('?')));
            None
        }
        None => {
            let failed = |e| blob_error(format!("failed to set up Entra for {}", place(to)), e);
            Some(entra().map_err(failed)?)
        }
    };
    let options = BlobContainerClientOptions { client_options: client_options()?, ..Default::default() };
    BlobContainerClient::new(url, credential, Some(options))
        .map(Arc::new)
        .map_err(|e| blob_error(format!("failed to set up the client of {}", place(to)), e))
}

/// Asks one identity after the other: what the environment gives (workload identity), the
/// developer's tools, the machine's own.
#[derive(Debug)]
struct Chain(Vec<Arc<dyn TokenCredential>>);

#[async_trait::async_trait]
impl TokenCredential for Chain {
    async fn get_token(
        &self,
        scopes: &[&str],
        options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let mut said = Vec::new();
        for credential in &self.0 {
            match credential.get_token(scopes, options.clone()).await {
                Ok(token) => return Ok(token),
                Err(error) => said.push(chain(&error)),
            }
        }
        Err(azure_core::Error::with_message(ErrorKind::Credential, said.join("; ")))
    }
}

fn entra() -> azure_core::Result<Arc<dyn TokenCredential>> {
    let mut credentials: Vec<Arc<dyn TokenCredential>> = Vec::new();
    if let Ok(workload) = WorkloadIdentityCredential::new(None) {
        credentials.push(workload);
    }
    credentials.push(DeveloperToolsCredential::new(None)?);
    credentials.push(ManagedIdentityCredential::new(None)?);
    Ok(Arc::new(Chain(credentials)))
}

fn client_options() -> Result<ClientOptions, StepError> {
    let http = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        // Blobs must arrive as they are stored.
        .no_gzip()
        .no_deflate()
        .no_brotli()
        .no_zstd()
        .build()
        .map_err(|e| StepError::permanent("failed to set up HTTP").with_source(Said(chain(&e))))?;
    Ok(ClientOptions {
        transport: Some(Transport::new(Arc::new(http))),
        per_call_policies: vec![Arc::new(ArrivalCheck::default())],
        // `Pace` sends again what can be, and knows what the others met.
        retry: RetryOptions::none(),
        ..Default::default()
    })
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
