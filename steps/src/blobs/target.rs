//! The Blob side: listing, reading, blocks and commits.
//!
//! A blob is whole or absent: what writes it is one Put Blob or one Put Block List, the last act.
//! The SAS is part of the client's URL and never leaves this file; errors pass through
//! [`blob_error`], which cuts it off.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::error::ErrorKind;
use azure_core::http::{Body, ClientOptions, Etag, ExponentialRetryOptions, RetryOptions, Transport, Url};
use azure_core::time::Duration as RetryDuration;
use azure_identity::{DeveloperToolsCredential, ManagedIdentityCredential, WorkloadIdentityCredential};
use azure_storage_blob::models::{
    BlobClientDownloadOptions, BlobClientGetPropertiesResultHeaders, BlobContainerClientListBlobsOptions,
    BlobItem, BlockBlobClientCommitBlockListOptions, BlockBlobClientStageBlockFromUrlOptions,
    BlockBlobClientStageBlockFromUrlResultHeaders, BlockBlobClientStageBlockOptions,
    BlockBlobClientUploadBlobFromUrlOptions, BlockBlobClientUploadOptions, BlockListType, BlockLookupList,
    HttpRange, ListBlobsIncludeItem,
};
use azure_storage_blob::{BlobClient, BlobContainerClient, BlobContainerClientOptions, BlockBlobClient};
use bytes::Bytes;
use futures::TryStreamExt as _;
use migrate_plugin_api::{StepContext, StepError};
use tokio::sync::mpsc;

use super::checksum::Crc64;
use super::errors::{Said, blob_answer, blob_error, chain};
use super::names::folder;
use super::source::{LIST_AHEAD, Properties};
use crate::site::ContainerRef;

/// Says which version of the object the blob is: the ETag at the source.
pub(super) const META_ETAG: &str = "migrate_source_etag";
/// CRC64NVME of the bytes written, as S3 writes it.
pub(super) const META_CRC64: &str = "migrate_crc64";
/// MD5 of the bytes written in one piece, in hex. The service keeps its own in Content-MD5, which
/// a rewrite changes and this doesn't.
pub(super) const META_MD5: &str = "migrate_md5";

/// Long enough for a dial across continents.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after which a request is given up. The SDK's own 60 s are too few for Azure to fetch a
/// block of 64 MiB from another cloud.
const READ_TIMEOUT: Duration = Duration::from_secs(180);
/// Repeats of one request before the object's own attempts count.
const REQUEST_RETRIES: u32 = 4;
/// Time for all repeats of one request.
const RETRY_FOR: RetryDuration = RetryDuration::seconds(60);

/// A blob, as the listing has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Blob {
    /// Below the container's prefix.
    pub(super) key: String,
    /// Bytes.
    pub(super) size: u64,
    /// With quotes, as the service wants it back.
    pub(super) etag: String,
    /// As the service keeps it.
    pub(super) md5: Option<Vec<u8>>,
    /// [`META_ETAG`].
    pub(super) source_etag: Option<String>,
    /// [`META_CRC64`].
    pub(super) crc64: Option<Crc64>,
    /// [`META_MD5`].
    pub(super) written_md5: Option<String>,
}

/// Why Azure didn't fetch.
pub(super) enum FetchError {
    /// It can't or won't, and streaming may.
    Refused(Refusal, String),
    /// Anything else.
    Failed(StepError),
}

/// How far a refusal to fetch goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// This object only.
    Object,
    /// Often passes by itself.
    Passing,
    /// The target never fetches.
    Always,
}

/// What a new blob carries besides its bytes.
#[derive(Debug, Clone)]
pub(super) struct Dress {
    pub(super) properties: Properties,
    /// Names already valid; ours among them.
    pub(super) metadata: HashMap<String, String>,
    /// Content-MD5.
    pub(super) md5: Option<Vec<u8>>,
    /// Fail if there is a blob already.
    pub(super) only_if_absent: bool,
}

impl Dress {
    fn condition(&self) -> Option<Etag> {
        self.only_if_absent.then(|| Etag::from("*"))
    }
}

/// A container, or a folder in it.
#[derive(Clone)]
pub(super) struct Target {
    client: Arc<BlobContainerClient>,
    prefix: String,
    /// Where it is, for people.
    pub(super) place: String,
}

impl Target {
    /// Resolves the SAS or sets up Entra. Sends nothing yet.
    pub(super) async fn new(ctx: &StepContext, to: &ContainerRef) -> Result<Self, StepError> {
        let place =
            format!("container `{}` at {}", to.container, to.account_url.as_str().trim_end_matches('/'));
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
            None => Some(entra().map_err(|e| blob_error(format!("failed to set up Entra for {place}"), e))?),
        };
        let options = BlobContainerClientOptions { client_options: client_options()?, ..Default::default() };
        let client = BlobContainerClient::new(url, credential, Some(options))
            .map_err(|e| blob_error(format!("failed to set up the client of {place}"), e))?;
        Ok(Self { client: Arc::new(client), prefix: folder(to.prefix.as_deref()), place })
    }

    /// The whole name of the blob of `key`.
    pub(super) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn blob(&self, key: &str) -> BlobClient {
        self.client.blob_client(&self.name(key))
    }

    fn block_blob(&self, key: &str) -> BlockBlobClient {
        self.blob(key).block_blob_client()
    }

    async fn page(
        &self,
        scope: &str,
        marker: Option<String>,
    ) -> Result<(Vec<Blob>, Option<String>), StepError> {
        let failed = |e| blob_error(format!("failed to list {}", self.place), e);
        let prefix = self.name(scope);
        let options = BlobContainerClientListBlobsOptions {
            include: Some(vec![ListBlobsIncludeItem::Metadata]),
            marker,
            prefix: (!prefix.is_empty()).then_some(prefix),
            ..Default::default()
        };
        let mut pages = self.client.list_blobs(Some(options)).map_err(failed)?.into_pages();
        let Some(page) = pages.try_next().await.map_err(failed)? else { return Ok((Vec::new(), None)) };
        let page = page.into_model().map_err(failed)?;
        let blobs = page.blob_items.into_iter().filter_map(|item| self.listed(item)).collect();
        Ok((blobs, page.next_marker.filter(|m| !m.is_empty())))
    }

    fn listed(&self, item: BlobItem) -> Option<Blob> {
        let key = item.name?.strip_prefix(&self.prefix)?.to_owned();
        let properties = item.properties.unwrap_or_default();
        let metadata = item.metadata.and_then(|m| m.values).unwrap_or_default();
        let blob = Blob {
            key,
            size: properties.content_length.unwrap_or(0),
            etag: properties.etag.map(|e| e.to_string()).unwrap_or_default(),
            md5: properties.content_md5,
            ..Blob::default()
        };
        Some(blob.with_metadata(&metadata))
    }

    /// Lists `scope`. Runs ahead of its reader by [`LIST_AHEAD`] entries and ends with it.
    pub(super) fn list(self: &Arc<Self>, scope: &str) -> mpsc::Receiver<Result<Blob, StepError>> {
        let (sender, receiver) = mpsc::channel(LIST_AHEAD);
        let (target, scope) = (Arc::clone(self), scope.to_owned());
        tokio::spawn(async move {
            let mut marker = None;
            loop {
                let page = tokio::select! {
                    () = sender.closed() => return,
                    page = target.page(&scope, marker.take()) => page,
                };
                match page {
                    Ok((blobs, next)) => {
                        for blob in blobs {
                            if sender.send(Ok(blob)).await.is_err() {
                                return;
                            }
                        }
                        marker = next;
                        if marker.is_none() {
                            return;
                        }
                    }
                    Err(error) => {
                        // The reader may have gone; then nobody wants to know.
                        let _ = sender.send(Err(error)).await;
                        return;
                    }
                }
            }
        });
        receiver
    }

    /// The blob as it is now; `None` if there is none.
    pub(super) async fn head(&self, key: &str) -> Result<Option<Blob>, StepError> {
        let failed = |e| blob_error(format!("failed to look at blob `{key}`"), e);
        let response = match self.blob(key).get_properties(None).await {
            Ok(response) => response,
            Err(e) if e.http_status().map(u16::from) == Some(404) => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        let blob = Blob {
            key: key.to_owned(),
            size: response.content_length().map_err(failed)?.unwrap_or(0),
            etag: response.etag().map_err(failed)?.map(|e| e.to_string()).unwrap_or_default(),
            md5: response.content_md5().map_err(failed)?,
            ..Blob::default()
        };
        Ok(Some(blob.with_metadata(&response.metadata().map_err(failed)?)))
    }

    /// A range of this version of the blob.
    pub(super) async fn range(&self, blob: &Blob, offset: u64, bytes: u64) -> Result<Bytes, StepError> {
        if bytes == 0 {
            return Ok(Bytes::new());
        }
        let failed = |e| blob_error(format!("failed to read blob `{}`", blob.key), e);
        let options = BlobClientDownloadOptions {
            range: Some(HttpRange::new(offset, bytes)),
            if_match: Some(Etag::from(blob.etag.clone())),
            // One request: the caller already cuts in blocks.
            parallel: NonZero::new(1),
            partition_size: usize::try_from(bytes).ok().and_then(NonZero::new),
            ..Default::default()
        };
        let read = self.blob(&blob.key).download(Some(options)).await.map_err(failed)?;
        let read = read.body.collect().await.map_err(failed)?;
        if read.len() as u64 == bytes {
            Ok(read)
        } else {
            Err(StepError::transient(format!(
                "blob `{}` came with {} of {bytes} bytes",
                blob.key,
                read.len()
            )))
        }
    }

    /// Writes a whole blob in one request. Azure checks `dress.md5` on arrival.
    pub(super) async fn put(&self, key: &str, bytes: Bytes, dress: Dress) -> Result<(), StepError> {
        let condition = dress.condition();
        let whole = NonZero::new(bytes.len() as u64 + 1);
        let options = BlockBlobClientUploadOptions {
            blob_cache_control: dress.properties.cache_control,
            blob_content_disposition: dress.properties.content_disposition,
            blob_content_encoding: dress.properties.content_encoding,
            blob_content_language: dress.properties.content_language,
            blob_content_type: dress.properties.content_type,
            blob_content_md5: dress.md5,
            metadata: Some(dress.metadata),
            if_none_match: condition,
            partition_size: whole,
            ..Default::default()
        };
        self.block_blob(key)
            .upload(Body::Bytes(bytes).into(), Some(options))
            .await
            .map(drop)
            .map_err(|e| blob_error(format!("failed to write blob `{key}`"), e))
    }

    /// Blocks that are staged and not committed: IDs and sizes.
    pub(super) async fn staged(&self, key: &str) -> Result<Vec<(Vec<u8>, u64)>, StepError> {
        let failed = |e| blob_error(format!("failed to list the blocks of blob `{key}`"), e);
        let response = match self.block_blob(key).get_block_list(BlockListType::Uncommitted, None).await {
            Ok(response) => response,
            // Nothing was ever staged.
            Err(e) if e.http_status().map(u16::from) == Some(404) => return Ok(Vec::new()),
            Err(e) => return Err(failed(e)),
        };
        let list = response.into_model().map_err(failed)?;
        let blocks = list.uncommitted_blocks.unwrap_or_default();
        Ok(blocks.into_iter().filter_map(|b| Some((b.name?, u64::try_from(b.size?).ok()?))).collect())
    }

    /// Stages a block. Azure checks the CRC on arrival.
    pub(super) async fn stage(
        &self,
        key: &str,
        id: &[u8],
        bytes: Bytes,
        crc64: Crc64,
    ) -> Result<(), StepError> {
        let options = BlockBlobClientStageBlockOptions {
            transactional_content_crc64: Some(crc64.to_azure()),
            ..Default::default()
        };
        let length = bytes.len() as u64;
        self.block_blob(key)
            .stage_block(id, length, Body::Bytes(bytes).into(), Some(options))
            .await
            .map(drop)
            .map_err(|e| blob_error(format!("failed to write a block of blob `{key}`"), e))
    }

    /// Makes the blob of its staged blocks.
    pub(super) async fn commit(&self, key: &str, ids: Vec<Vec<u8>>, dress: Dress) -> Result<(), StepError> {
        let failed = |e| blob_error(format!("failed to commit blob `{key}`"), e);
        let condition = dress.condition();
        let options = BlockBlobClientCommitBlockListOptions {
            blob_cache_control: dress.properties.cache_control,
            blob_content_disposition: dress.properties.content_disposition,
            blob_content_encoding: dress.properties.content_encoding,
            blob_content_language: dress.properties.content_language,
            blob_content_type: dress.properties.content_type,
            blob_content_md5: dress.md5,
            metadata: Some(dress.metadata),
            if_none_match: condition,
            ..Default::default()
        };
        let list = BlockLookupList { uncommitted: Some(ids), ..Default::default() };
        let list = list.try_into().map_err(failed)?;
        self.block_blob(key).commit_block_list(list, Some(options)).await.map(drop).map_err(failed)
    }

    /// Lets Azure fetch a whole blob. It checks the MD5 of what it fetched.
    pub(super) async fn put_from_url(
        &self,
        key: &str,
        url: String,
        md5: Vec<u8>,
        dress: Dress,
    ) -> Result<(), FetchError> {
        let condition = dress.condition();
        let options = BlockBlobClientUploadBlobFromUrlOptions {
            blob_cache_control: dress.properties.cache_control,
            blob_content_disposition: dress.properties.content_disposition,
            blob_content_encoding: dress.properties.content_encoding,
            blob_content_language: dress.properties.content_language,
            blob_content_type: dress.properties.content_type,
            blob_content_md5: dress.md5,
            metadata: Some(dress.metadata),
            if_none_match: condition,
            source_content_md5: Some(md5),
            ..Default::default()
        };
        self.block_blob(key)
            .upload_blob_from_url(url, Some(options))
            .await
            .map(drop)
            .map_err(|e| fetch_error(format!("failed to have blob `{key}` fetched"), e))
    }

    /// Lets Azure fetch a block. The CRC is what Azure computed of it, where it says so.
    pub(super) async fn stage_from_url(
        &self,
        key: &str,
        id: &[u8],
        url: String,
        offset: u64,
        bytes: u64,
    ) -> Result<Option<Crc64>, FetchError> {
        let failed = |e| fetch_error(format!("failed to have a block of blob `{key}` fetched"), e);
        let options = BlockBlobClientStageBlockFromUrlOptions {
            source_range: Some(HttpRange::new(offset, bytes)),
            ..Default::default()
        };
        let response =
            self.block_blob(key).stage_block_from_url(id, 0, url, Some(options)).await.map_err(failed)?;
        Ok(response.content_crc64().map_err(failed)?.and_then(|crc| Crc64::from_azure(&crc)))
    }
}

impl Blob {
    fn with_metadata(mut self, metadata: &HashMap<String, String>) -> Self {
        let get = |name: &str| {
            metadata.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
        };
        self.source_etag = get(META_ETAG);
        self.crc64 = get(META_CRC64).and_then(|crc| Crc64::from_s3(&crc));
        self.written_md5 = get(META_MD5);
        self
    }
}

/// Tells a source that Azure can't use from a target that fails.
fn fetch_error(message: String, error: azure_core::Error) -> FetchError {
    match blob_answer(error) {
        Ok(answer) => match (answer.status, answer.code.as_str()) {
            (501, _) | (_, "NotImplemented" | "FeatureNotSupported") => {
                let why = "the target has no copying from URLs".to_owned();
                FetchError::Refused(Refusal::Always, why)
            }
            (_, "CannotVerifyCopySource" | "InvalidHeaderValue") => {
                let why = format!("Azure can't read the source ({})", answer.code);
                FetchError::Refused(Refusal::Passing, why)
            }
            _ => FetchError::Failed(answer.into_error(message)),
        },
        Err(error) => FetchError::Failed(blob_error(message, error)),
    }
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
        retry: RetryOptions::exponential(ExponentialRetryOptions {
            max_retries: REQUEST_RETRIES,
            max_total_elapsed: RETRY_FOR,
            ..Default::default()
        }),
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
    /// Of a query string.
    pub(super) fn of(sas: &str) -> Self {
        let sas = sas.trim().trim_start_matches('?');
        let get = |name: &str| {
            Url::parse(&format!("http://sas/?{sas}"))
                .ok()
                .and_then(|url| url.query_pairs().find(|(key, _)| key == name).map(|(_, v)| v.into_owned()))
        };
        // Without `sp` a stored access policy decides.
        let missing = get("sp").map_or_else(Vec::new, |granted| {
            [('r', "read"), ('l', "list"), ('w', "write")]
                .into_iter()
                .filter(|(letter, _)| !granted.contains(*letter))
                .map(|(_, name)| name)
                .collect()
        });
        Self { missing, expires: get("se") }
    }
}
