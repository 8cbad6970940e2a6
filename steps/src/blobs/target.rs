//! The Blob side: listing, reading, blocks and commits.
//!
//! A blob is whole or absent: what writes it is one Put Blob or one Put Block List, the last act.
//! Errors pass through [`blob_error`], which cuts the SAS off.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, PoisonError};

use azure_core::http::Etag;
use azure_storage_blob::models::{
    BlobClientDeleteOptions, BlobClientDownloadOptions, BlobClientGetPropertiesResultHeaders,
    BlobClientSetMetadataOptions, BlobContainerClientListBlobsOptions, BlockBlobClientCommitBlockListOptions,
    BlockBlobClientStageBlockFromUrlOptions, BlockBlobClientStageBlockFromUrlResultHeaders,
    BlockBlobClientUploadBlobFromUrlOptions, BlockListType, BlockLookupList, HttpRange, ListBlobsIncludeItem,
};
use azure_storage_blob::{BlobClient, BlockBlobClient};
use bytes::Bytes;
use futures::TryStreamExt as _;
use migrate_plugin_api::{StepContext, StepError};
use tokio::sync::mpsc;

use super::azure_client::{Access, Line, access, place};
use super::blob_wire::{Pieces, Taken, Wire};
use super::checksum::{BLOCK_ID_BYTES, Crc64};
use super::config::CopyOutputs;
use super::dress::{Dress, META_CRC64, META_ETAG, META_MD5};
use super::errors::{blob_answer, blob_error, foreign_blocks};
use super::list_xml;
use super::merge::Pages;
use super::names::folder;
use super::pace::Pace;
use super::passing::{NotPassed, Passing};
use super::renew::Renewed;
use super::room::Held;
use super::source::PAGES_AHEAD;
use crate::site::ContainerRef;

/// Blobs in each page but a listing's first, if that begins where its scope does: what takes more pages
/// than one is listed in several ranges at once, and a page of the usual 5,000 with their metadata is some
/// 5 MB. A bucket's pages have no more.
const PAGE_OF_MANY: i32 = 1_000;

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

/// Whether a listing can begin in the middle (`startFrom`, from version 2026-02-06).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    Unknown = 0,
    Works = 1,
    Ignored = 2,
}

/// A container, or a folder in it.
pub(super) struct Target {
    access: Renewed<Access>,
    /// What a new one is made of, when the SAS or the token has ended.
    made_of: (StepContext, ContainerRef, Line),
    pace: Pace,
    start: AtomicU8,
    prefix: String,
    /// Where it is, for people.
    pub(super) place: String,
}

impl Target {
    /// Resolves the SAS or sets up Entra. Sends nothing yet. At most `most` requests at once.
    pub(super) async fn new(ctx: &StepContext, to: &ContainerRef, most: usize) -> Result<Self, StepError> {
        let line = Line::new()?;
        Ok(Self {
            access: Renewed::new(access(ctx, to, &line).await?),
            made_of: (ctx.clone(), to.clone(), line),
            pace: Pace::new(most),
            start: AtomicU8::new(Start::Unknown as u8),
            prefix: folder(to.prefix.as_deref()),
            place: place(to),
        })
    }

    /// Sends a request when Azure may be asked; once more with the SAS as it is now or a new token, if
    /// Azure no longer takes what we have.
    async fn request<T, F>(&self, send: impl Fn(Arc<Access>) -> F) -> Result<T, StepError>
    where
        F: Future<Output = Result<T, StepError>>,
    {
        let (ctx, to, line) = &self.made_of;
        self.access.request(&self.pace, || access(ctx, to, line), send).await
    }

    /// What is known of listings that begin in the middle.
    pub(super) fn start(&self) -> Start {
        match self.start.load(Ordering::Relaxed) {
            1 => Start::Works,
            2 => Start::Ignored,
            _ => Start::Unknown,
        }
    }

    /// The whole name of the blob of `key`.
    pub(super) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn blob(&self, access: &Access, key: &str) -> BlobClient {
        access.container.blob_client(&self.name(key))
    }

    fn block_blob(&self, access: &Access, key: &str) -> BlockBlobClient {
        self.blob(access, key).block_blob_client()
    }

    /// One page of `scope`: from `from` on, or at `marker`.
    async fn page(
        &self,
        scope: &str,
        from: Option<&str>,
        marker: Option<String>,
    ) -> Result<(Vec<Blob>, Option<String>), StepError> {
        let prefix = self.name(scope);
        let options = BlobContainerClientListBlobsOptions {
            include: Some(vec![ListBlobsIncludeItem::Metadata]),
            maxresults: (from.is_some() || marker.is_some()).then_some(PAGE_OF_MANY),
            marker,
            prefix: (!prefix.is_empty()).then_some(prefix),
            start_from: from.map(|key| self.name(key)),
            ..Default::default()
        };
        let send = |access: Arc<Access>| {
            let options = options.clone();
            async move {
                let failed = |e| blob_error(format!("failed to list {}", self.place), e);
                let mut pages = access.container.list_blobs(Some(options)).map_err(failed)?.into_pages();
                let Some(page) = pages.try_next().await.map_err(failed)? else {
                    return Ok(list_xml::Page::default());
                };
                list_xml::page(page.into_body().as_ref()).map_err(|e| {
                    StepError::transient(format!("failed to list {}", self.place)).with_source(e)
                })
            }
        };
        let page = self.request(send).await?;
        let below = |mut blob: Blob| {
            blob.key = blob.key.strip_prefix(&self.prefix)?.to_owned();
            Some(blob)
        };
        Ok((page.blobs.into_iter().filter_map(below).collect(), page.next))
    }

    /// Lists `scope` from behind `after`. Runs ahead of its reader by [`PAGES_AHEAD`] and ends with it.
    pub(super) fn list(self: &Arc<Self>, scope: &str, after: Option<&str>) -> Pages<Blob> {
        let (sender, receiver) = mpsc::channel(PAGES_AHEAD);
        let (target, scope, after) = (Arc::clone(self), scope.to_owned(), after.map(str::to_owned));
        tokio::spawn(async move {
            let mut marker = None;
            // Of a target that ignores it, the whole scope is read, and what lies before passed over.
            let from = after.as_deref().filter(|_| target.start() != Start::Ignored);
            loop {
                let page = tokio::select! {
                    () = sender.closed() => return,
                    page = target.page(&scope, from, marker.take()) => page,
                };
                let page = page.map(|(mut blobs, next)| {
                    marker = next;
                    if let Some(after) = &after {
                        target.learn(from, &blobs);
                        blobs.retain(|blob| blob.key > *after);
                    }
                    blobs
                });
                let last = marker.is_none();
                // The reader may have gone; then nobody wants to know.
                if sender.send(page).await.is_err() || last {
                    return;
                }
            }
        });
        receiver
    }

    /// Whether the target began where it was asked to.
    fn learn(&self, from: Option<&str>, blobs: &[Blob]) {
        let Some(from) = from else { return };
        let early = blobs.iter().any(|blob| blob.key.as_str() < from);
        let learnt = if early { Start::Ignored } else { Start::Works };
        // Once ignored, always: a page may be late enough by itself.
        self.start.fetch_max(learnt as u8, Ordering::Relaxed);
    }

    /// The blob as it is now; `None` if there is none.
    pub(super) async fn head(&self, key: &str) -> Result<Option<Blob>, StepError> {
        let send = |access: Arc<Access>| async move {
            let failed = |e| blob_error(format!("failed to look at blob `{key}`"), e);
            let response = match self.blob(&access, key).get_properties(None).await {
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
        };
        self.request(send).await
    }

    /// Gives this version of the blob new metadata.
    pub(super) async fn mark(&self, blob: &Blob, metadata: HashMap<String, String>) -> Result<(), StepError> {
        let quoted = format!("\"{}\"", blob.etag.trim_matches('"'));
        let send = |access: Arc<Access>| {
            let if_match = Some(Etag::from(quoted.clone()));
            let metadata = metadata.clone();
            async move {
                let options = BlobClientSetMetadataOptions { if_match, ..Default::default() };
                let set = self.blob(&access, &blob.key).set_metadata(&metadata, Some(options)).await;
                set.map(drop).map_err(|e| blob_error(format!("failed to mark blob `{}`", blob.key), e))
            }
        };
        self.request(send).await
    }

    /// Deletes this version of the blob. `false` if it is gone or another one.
    pub(super) async fn delete(&self, blob: &Blob) -> Result<bool, StepError> {
        let quoted = format!("\"{}\"", blob.etag.trim_matches('"'));
        let send = |access: Arc<Access>| {
            let if_match = Some(Etag::from(quoted.clone()));
            async move {
                let options = BlobClientDeleteOptions { if_match, ..Default::default() };
                match self.blob(&access, &blob.key).delete(Some(options)).await {
                    Ok(_) => Ok(true),
                    Err(e) if matches!(e.http_status().map(u16::from), Some(404 | 412)) => Ok(false),
                    Err(e) => Err(blob_error(format!("failed to delete blob `{}`", blob.key), e)),
                }
            }
        };
        self.request(send).await
    }

    /// A range of this version of the blob.
    pub(super) async fn range(&self, blob: &Blob, offset: u64, bytes: u64) -> Result<Bytes, StepError> {
        if bytes == 0 {
            return Ok(Bytes::new());
        }
        let quoted = &format!("\"{}\"", blob.etag.trim_matches('"'));
        let send = |access: Arc<Access>| async move {
            let failed = |e| blob_error(format!("failed to read blob `{}`", blob.key), e);
            let options = BlobClientDownloadOptions {
                range: Some(HttpRange::new(offset, bytes)),
                if_match: Some(Etag::from(quoted.clone())),
                // One request: the caller already cuts in blocks.
                parallel: NonZero::new(1),
                partition_size: usize::try_from(bytes).ok().and_then(NonZero::new),
                ..Default::default()
            };
            let read = self.blob(&access, &blob.key).download(Some(options)).await.map_err(failed)?;
            read.body.collect().await.map_err(failed)
        };
        let read = self.request(send).await?;
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

    /// Whether it compares with an MD5 what arrives.
    pub(super) fn checks_md5(&self) -> bool {
        self.made_of.2.azurite.is()
    }

    /// Writes a whole blob in one request. Azure checks it on arrival, and computes and keeps the MD5 itself;
    /// `md5` is compared where [`checks_md5`](Self::checks_md5).
    pub(super) async fn put(
        &self,
        key: &str,
        blob: &Pieces,
        md5: &[u8],
        dress: &Dress,
    ) -> Result<Taken, StepError> {
        let name = self.name(key);
        let send = |access: Arc<Access>| {
            let name = &name;
            async move {
                let check = access.wire.check(blob.crc64, || md5.to_vec());
                access.wire.put_blob(name, Wire::body(blob), blob.bytes, &check, dress).await
            }
        };
        self.request(send).await
    }

    /// Writes a whole blob with a body that comes while it is sent, made anew for every request by
    /// `read`; Azure checks that it is what `read` said beforehand. What `read` fails with is no fault of
    /// the target's and is given back inside. Beside what the service took: what it was told, and its MD5.
    pub(super) async fn put_passing<F>(
        &self,
        key: &str,
        read: impl Fn() -> F,
    ) -> Result<Result<(Taken, Dress, CopyOutputs, Vec<u8>), NotPassed>, StepError>
    where
        F: Future<Output = Result<Passing, NotPassed>>,
    {
        let (name, read) = (self.name(key), &read);
        let send = |access: Arc<Access>| {
            let name = &name;
            async move {
                let passing = match read().await {
                    Ok(passing) => passing,
                    Err(why) => return Ok(Err(why)),
                };
                let Passing { body, bytes, crc64, md5, dress, counts, broken } = passing;
                let check = access.wire.check(crc64, || md5.clone());
                let put = access.wire.put_blob(name, body, bytes, &check, &dress).await;
                match broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
                    Some(error) => Ok(Err(NotPassed::Failed(error))),
                    None => put.map(|taken| Ok((taken, dress, counts, md5))),
                }
            }
        };
        self.request(send).await
    }

    /// Blocks that are staged and not committed: IDs and sizes.
    ///
    /// # Errors
    /// Also when they are another program's, so that none of ours can stand beside them.
    pub(super) async fn staged(&self, key: &str) -> Result<Vec<(Vec<u8>, u64)>, StepError> {
        let send = |access: Arc<Access>| async move {
            let failed = |e| blob_error(format!("failed to list the blocks of blob `{key}`"), e);
            let blob = self.block_blob(&access, key);
            match blob.get_block_list(BlockListType::Uncommitted, None).await {
                Ok(response) => response.into_model().map(Some).map_err(failed),
                // Nothing was ever staged.
                Err(e) if e.http_status().map(u16::from) == Some(404) => Ok(None),
                Err(e) => Err(failed(e)),
            }
        };
        let blocks = self.request(send).await?.and_then(|list| list.uncommitted_blocks).unwrap_or_default();
        let blocks = blocks.into_iter().filter_map(|b| Some((b.name?, u64::try_from(b.size?).ok()?)));
        let blocks: Vec<(Vec<u8>, u64)> = blocks.collect();
        if blocks.iter().any(|(id, _)| id.len() != BLOCK_ID_BYTES) {
            return Err(foreign_blocks(format!("failed to write blob `{}` in blocks", self.name(key))));
        }
        Ok(blocks)
    }

    /// Stages a block, read for every request by `read`: what was sent is no longer held. Azure checks it on
    /// arrival.
    ///
    /// # Errors
    /// The target's; of `read`, which the target isn't asked again for.
    pub(super) async fn stage<F>(&self, key: &str, id: &[u8], read: impl Fn() -> F) -> Result<(), StepError>
    where
        F: Future<Output = Result<Held, StepError>>,
    {
        let (name, read) = (self.name(key), &read);
        let send = |access: Arc<Access>| {
            let name = &name;
            async move {
                match read().await {
                    Ok(block) => access.wire.put_block(name, id, block).await.map(Ok),
                    Err(error) => Ok(Err(error)),
                }
            }
        };
        self.request(send).await?
    }

    /// Makes the blob of its staged blocks.
    pub(super) async fn commit(&self, key: &str, ids: Vec<Vec<u8>>, dress: Dress) -> Result<(), StepError> {
        let (condition, tier) = (dress.condition(), dress.tier());
        let options = BlockBlobClientCommitBlockListOptions {
            blob_cache_control: dress.properties.cache_control,
            blob_content_disposition: dress.properties.content_disposition,
            blob_content_encoding: dress.properties.content_encoding,
            blob_content_language: dress.properties.content_language,
            blob_content_type: dress.properties.content_type,
            blob_content_md5: dress.md5,
            blob_tags_string: dress.tags,
            metadata: Some(dress.metadata),
            if_none_match: condition,
            tier,
            ..Default::default()
        };
        let send = |access: Arc<Access>| {
            let (options, ids) = (options.clone(), ids.clone());
            async move {
                let failed = |e| blob_error(format!("failed to commit blob `{key}`"), e);
                // Also blocks that are committed: those of this blob, when the answer to a first request was lost.
                let list = BlockLookupList { latest: Some(ids), ..Default::default() };
                let list = list.try_into().map_err(failed)?;
                let blob = self.block_blob(&access, key);
                blob.commit_block_list(list, Some(options)).await.map(drop).map_err(failed)
            }
        };
        self.request(send).await
    }

    /// Lets Azure fetch a whole blob. It checks the MD5 of what it fetched.
    pub(super) async fn put_from_url(
        &self,
        key: &str,
        url: String,
        md5: Vec<u8>,
        dress: Dress,
    ) -> Result<(), FetchError> {
        let (condition, tier) = (dress.condition(), dress.tier());
        let options = BlockBlobClientUploadBlobFromUrlOptions {
            blob_cache_control: dress.properties.cache_control,
            blob_content_disposition: dress.properties.content_disposition,
            blob_content_encoding: dress.properties.content_encoding,
            blob_content_language: dress.properties.content_language,
            blob_content_type: dress.properties.content_type,
            blob_content_md5: dress.md5,
            blob_tags_string: dress.tags,
            metadata: Some(dress.metadata),
            if_none_match: condition,
            source_content_md5: Some(md5),
            tier,
            ..Default::default()
        };
        let send = |access: Arc<Access>| {
            let (url, options) = (url.clone(), options.clone());
            async move {
                let fetched = self.block_blob(&access, key).upload_blob_from_url(url, Some(options)).await;
                answered(fetched.map(drop), || format!("failed to have blob `{key}` fetched"))
            }
        };
        self.request(send).await.map_err(FetchError::Failed)?.map_err(FetchError::from)
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
        let options = BlockBlobClientStageBlockFromUrlOptions {
            source_range: Some(HttpRange::new(offset, bytes)),
            ..Default::default()
        };
        let send = |access: Arc<Access>| {
            let (url, options) = (url.clone(), options.clone());
            async move {
                let blob = self.block_blob(&access, key);
                let fetched = match blob.stage_block_from_url(id, 0, url, Some(options)).await {
                    Ok(response) => response.content_crc64(),
                    Err(error) => Err(error),
                };
                answered(fetched, || format!("failed to have a block of blob `{key}` fetched"))
            }
        };
        let crc64 = self.request(send).await.map_err(FetchError::Failed)?.map_err(FetchError::from)?;
        Ok(crc64.and_then(|crc| Crc64::from_azure(&crc)))
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

impl From<(Refusal, String)> for FetchError {
    fn from((refusal, why): (Refusal, String)) -> Self {
        Self::Refused(refusal, why)
    }
}

/// Tells a source that Azure can't use, which no repeat of the request helps, from a target that fails.
fn answered<T>(
    outcome: azure_core::Result<T>,
    message: impl Fn() -> String,
) -> Result<Result<T, (Refusal, String)>, StepError> {
    let error = match outcome {
        Ok(answer) => return Ok(Ok(answer)),
        Err(error) => error,
    };
    let answer = match blob_answer(error) {
        Ok(answer) => answer,
        Err(error) => return Err(blob_error(message(), error)),
    };
    match (answer.status, answer.code.as_str()) {
        (501, _) | (_, "NotImplemented" | "FeatureNotSupported") => {
            Ok(Err((Refusal::Always, "the target has no copying from URLs".to_owned())))
        }
        (_, "CannotVerifyCopySource" | "InvalidHeaderValue") => {
            Ok(Err((Refusal::Passing, format!("Azure can't read the source ({})", answer.code))))
        }
        _ => Err(answer.into_error(message())),
    }
}
