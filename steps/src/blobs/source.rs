//! The S3 side: listing, reading and presigning. Only reads.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{
    ConfigBag, Intercept, RequestChecksumCalculation, ResponseChecksumValidation, RuntimeComponents,
};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use aws_sdk_s3::types::{ChecksumMode, ObjectStorageClass, ServerSideEncryption};
use bytes::Bytes;
use migrate_plugin_api::{StepContext, StepError};
use tokio::sync::mpsc;

use super::checksum::{Crc64, md5_of_etag};
use super::errors::{Said, s3_error};
use super::names::folder;
use crate::site::{AwsAccess, BucketRef};

/// How long a presigned URL lives: long enough for one block, and signed anew for the next.
const PRESIGNED_FOR: Duration = Duration::from_secs(900);
/// Entries that a listing may run ahead of its reader.
pub(super) const LIST_AHEAD: usize = 2000;

/// An object, as the listing has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    /// Below the bucket's prefix.
    pub(super) key: String,
    /// Without quotes.
    pub(super) etag: String,
    /// Bytes.
    pub(super) size: u64,
    /// Seconds since 1970.
    pub(super) modified: i64,
    /// In Glacier or Deep Archive: unreadable unless restored.
    pub(super) archived: bool,
}

impl Object {
    /// An empty key ending in `/`, by which tools fake folders.
    pub(super) fn is_folder_marker(&self) -> bool {
        self.size == 0 && self.key.ends_with('/')
    }
}

/// What an object carries besides its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Properties {
    pub(super) content_type: Option<String>,
    pub(super) content_encoding: Option<String>,
    pub(super) content_language: Option<String>,
    pub(super) content_disposition: Option<String>,
    pub(super) cache_control: Option<String>,
    pub(super) metadata: HashMap<String, String>,
    /// Of the whole object, as S3 keeps it.
    pub(super) crc64: Option<Crc64>,
    /// Of the whole object, where the ETag is one.
    pub(super) md5: Option<Vec<u8>>,
}

/// How much older than its objects a service's `Date` may be: whole seconds, which servers keep for a
/// second (fasthttp, under versitygw, renews it once a second).
const CLOCK_LAG_SECONDS: i64 = 2;

/// The newest `Date` of the service's answers, in seconds since 1970; 0 before the first.
#[derive(Debug, Clone, Default)]
struct Clock(Arc<AtomicI64>);

impl Intercept for Clock {
    fn name(&self) -> &'static str {
        "Clock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        if let Some(date) = date.and_then(|d| DateTime::from_str(d, DateTimeFormat::HttpDate).ok()) {
            self.0.fetch_max(date.secs(), Ordering::Relaxed);
        }
        Ok(())
    }
}

/// A bucket, or a folder in it.
#[derive(Clone)]
pub(super) struct Source {
    client: Client,
    clock: Clock,
    bucket: String,
    prefix: String,
    /// Where it is, for people.
    pub(super) place: String,
}

/// Takes the fields that HeadObject and GetObject share.
macro_rules! properties {
    ($output:expr, $etag:expr) => {{
        let output = &$output;
        // With SSE-C or KMS the ETag looks like an MD5 and is none.
        let plain = output.sse_customer_algorithm().is_none()
            && matches!(output.server_side_encryption(), None | Some(ServerSideEncryption::Aes256));
        Properties {
            content_type: output.content_type().map(str::to_owned),
            content_encoding: output.content_encoding().map(str::to_owned),
            content_language: output.content_language().map(str::to_owned),
            content_disposition: output.content_disposition().map(str::to_owned),
            cache_control: output.cache_control().map(str::to_owned),
            metadata: output.metadata().cloned().unwrap_or_default(),
            crc64: output.checksum_crc64_nvme().and_then(Crc64::from_s3),
            md5: if plain { md5_of_etag($etag) } else { None },
        }
    }};
}

impl Source {
    /// Sends nothing yet.
    pub(super) async fn new(ctx: &StepContext, aws: &AwsAccess, from: &BucketRef) -> Self {
        let shared = crate::aws::config(ctx, aws).await;
        // Checksums are asked for where whole objects are read and are checked here; clients that
        // ask on every range get answers from S3-compatible stores that they then refuse.
        let clock = Clock::default();
        let mut config = aws_sdk_s3::config::Builder::from(&shared)
            .interceptor(clock.clone())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if let Some(endpoint) = &from.endpoint {
            config = config.endpoint_url(endpoint.as_str()).force_path_style(true);
        }
        let host = from.endpoint.as_ref().map_or_else(|| format!("s3.{}", aws.region), ToString::to_string);
        Self {
            client: Client::from_conf(config.build()),
            clock,
            bucket: from.bucket.clone(),
            prefix: folder(from.prefix.as_deref()),
            place: format!("bucket `{}` at {}", from.bucket, host.trim_end_matches('/')),
        }
    }

    /// Now by the clock that dates the objects, in seconds since 1970; by ours where it tells none.
    /// Never too early, or an object that was copied would count as a later one and its loss as none.
    pub(super) async fn now(&self) -> Result<i64, StepError> {
        self.page("", None, None).await?;
        let now = self.clock.0.load(Ordering::Relaxed);
        let now = if now > 0 { now } else { jiff::Timestamp::now().as_second() };
        Ok(now + CLOCK_LAG_SECONDS)
    }

    /// One page of keys that start with `scope`, in S3's order: those after `after`, or at `token`.
    async fn page(
        &self,
        scope: &str,
        after: Option<&str>,
        token: Option<String>,
    ) -> Result<(Vec<Object>, Option<String>), StepError> {
        let output = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(format!("{}{scope}", self.prefix))
            .set_start_after(after.map(|key| format!("{}{key}", self.prefix)))
            .set_continuation_token(token)
            .send()
            .await
            .map_err(|e| {
                let missing = e.as_service_error().is_some_and(|e| e.is_no_such_bucket());
                let error = s3_error(format!("failed to list {}", self.place), e);
                if missing { StepError::permanent(format!("{} doesn't exist", self.place)) } else { error }
            })?;
        let mut objects = Vec::with_capacity(output.contents().len());
        for object in output.contents() {
            // A key outside the prefix would be a lie of the server.
            let Some(key) = object.key().and_then(|key| key.strip_prefix(&self.prefix)) else { continue };
            objects.push(Object {
                key: key.to_owned(),
                etag: unquoted(object.e_tag()),
                size: object.size().and_then(|s| u64::try_from(s).ok()).unwrap_or(0),
                modified: object.last_modified().map_or(0, aws_sdk_s3::primitives::DateTime::secs),
                archived: matches!(
                    object.storage_class(),
                    Some(ObjectStorageClass::Glacier | ObjectStorageClass::DeepArchive)
                ),
            });
        }
        let next = output.next_continuation_token().map(str::to_owned);
        if output.is_truncated() == Some(true) && next.is_none() {
            return Err(StepError::transient(format!("{} ended its listing without the rest", self.place)));
        }
        Ok((objects, next))
    }

    /// Lists `scope` from behind `after`. Runs ahead of its reader by [`LIST_AHEAD`] entries and ends with it.
    pub(super) fn list(
        self: &Arc<Self>,
        scope: &str,
        after: Option<&str>,
    ) -> mpsc::Receiver<Result<Object, StepError>> {
        let (sender, receiver) = mpsc::channel(LIST_AHEAD);
        let (source, scope, after) = (Arc::clone(self), scope.to_owned(), after.map(str::to_owned));
        tokio::spawn(async move {
            let mut token = None;
            loop {
                let page = tokio::select! {
                    () = sender.closed() => return,
                    page = source.page(&scope, after.as_deref(), token.take()) => page,
                };
                match page {
                    Ok((objects, next)) => {
                        for object in objects {
                            if sender.send(Ok(object)).await.is_err() {
                                return;
                            }
                        }
                        token = next;
                        if token.is_none() {
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

    /// The object as it is now and what it carries; `None` if it is gone.
    pub(super) async fn head(&self, key: &str) -> Result<Option<(Object, Properties)>, StepError> {
        let sent = self
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(format!("{}{key}", self.prefix))
            .checksum_mode(ChecksumMode::Enabled)
            .send()
            .await;
        let output = match sent {
            Ok(output) => output,
            Err(e) if e.as_service_error().is_some_and(|e| e.is_not_found()) => return Ok(None),
            Err(e) => return Err(s3_error(format!("failed to look at object `{key}`"), e)),
        };
        let etag = unquoted(output.e_tag());
        let properties = properties!(output, &etag);
        let size = output.content_length().and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
        let modified = output.last_modified().map_or(0, aws_sdk_s3::primitives::DateTime::secs);
        Ok(Some((Object { key: key.to_owned(), etag, size, modified, archived: false }, properties)))
    }

    /// All bytes of this version of the object, and what it carries.
    pub(super) async fn whole(&self, object: &Object) -> Result<(Properties, Bytes), StepError> {
        let mut output = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(format!("{}{}", self.prefix, object.key))
            .if_match(quoted(&object.etag))
            .customize()
            // Asked for as a mere header, so that the client doesn't check and hide behind "broken
            // body" what the caller checks and names.
            .mutate_request(|request| {
                request.headers_mut().insert("x-amz-checksum-mode", "ENABLED");
            })
            .send()
            .await
            .map_err(|e| s3_error(format!("failed to read object `{}`", object.key), e))?;
        let body = std::mem::take(&mut output.body);
        let bytes = collect(&object.key, body, object.size).await?;
        Ok((properties!(output, &object.etag), bytes))
    }

    /// A range of this version of the object.
    pub(super) async fn range(&self, object: &Object, offset: u64, bytes: u64) -> Result<Bytes, StepError> {
        if bytes == 0 {
            return Ok(Bytes::new());
        }
        let output = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(format!("{}{}", self.prefix, object.key))
            .if_match(quoted(&object.etag))
            .range(format!("bytes={offset}-{}", offset + bytes - 1))
            .send()
            .await
            .map_err(|e| s3_error(format!("failed to read object `{}`", object.key), e))?;
        collect(&object.key, output.body, bytes).await
    }

    /// A URL by which anyone may read the object for a while. A secret.
    pub(super) async fn presigned(&self, object: &Object) -> Result<String, StepError> {
        let name = &object.key;
        let failed = |cause: String| {
            StepError::auth(format!("failed to sign a URL for object `{name}`")).with_source(Said(cause))
        };
        let config = PresigningConfig::expires_in(PRESIGNED_FOR).map_err(|e| failed(e.to_string()))?;
        let request = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(format!("{}{name}", self.prefix))
            .presigned(config)
            .await
            .map_err(|e| s3_error(format!("failed to sign a URL for object `{name}`"), e))?;
        Ok(request.uri().to_owned())
    }
}

/// The whole body, which must be of `size` bytes.
async fn collect(key: &str, body: aws_sdk_s3::primitives::ByteStream, size: u64) -> Result<Bytes, StepError> {
    let bytes = body
        .collect()
        .await
        .map_err(|e| {
            StepError::transient(format!("object `{key}` broke off"))
                .with_source(Said(super::errors::chain(&e)))
        })?
        .into_bytes();
    if bytes.len() as u64 == size {
        Ok(bytes)
    } else {
        Err(StepError::transient(format!("object `{key}` came with {} of {size} bytes", bytes.len())))
    }
}

fn unquoted(etag: Option<&str>) -> String {
    etag.unwrap_or_default().trim_matches('"').to_owned()
}

fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}
