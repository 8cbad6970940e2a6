//! The S3 side: listing, reading and presigning. Only reads.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{
    ConfigBag, Intercept, RequestChecksumCalculation, ResponseChecksumValidation, RuntimeComponents,
};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::{ByteStream, DateTime, DateTimeFormat};
use aws_sdk_s3::types::{ChecksumMode, ObjectStorageClass, ServerSideEncryption, StorageClass};
use bytes::Bytes;
use migrate_plugin_api::{ErrorClass, StepContext, StepError};
use tokio::sync::{RwLock, mpsc};

use super::checksum::{Crc64, md5_of_etag};
use super::errors::{Said, s3_error};
use super::merge::Pages;
use super::names::folder;
use super::pace::Pace;
use crate::site::{AwsAccess, BucketRef};

/// How long a presigned URL lives: long enough for one block, and signed anew for the next.
const PRESIGNED_FOR: Duration = Duration::from_secs(900);
/// Pages that a listing may run ahead of its reader.
pub(super) const PAGES_AHEAD: usize = 1;

/// An object, as the listing has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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

/// Classes that differ from Azure's default tier in what they cost.
const CHEAPER: [&str; 3] = ["STANDARD_IA", "ONEZONE_IA", "GLACIER_IR"];

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
    /// Number of its tags.
    pub(super) tags: i32,
    /// What no blob can carry.
    pub(super) lost: Vec<String>,
    /// A copy out of the archive is there to read.
    pub(super) restored: bool,
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
pub(super) struct Source {
    client: RwLock<Client>,
    clock: Clock,
    /// What a new client is made of, when the credentials have changed.
    made_of: (StepContext, AwsAccess, BucketRef),
    pace: Pace,
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
            tags: output.tag_count().unwrap_or(0),
            lost: lost(
                output.storage_class().map(StorageClass::as_str),
                output.website_redirect_location().is_some(),
                output.expires_string().is_some(),
            ),
            restored: output.restore().is_some_and(|restore| restore.contains("ongoing-request=\"false\"")),
        }
    }};
}

/// What of an object no blob has a place for.
fn lost(class: Option<&str>, redirects: bool, expires: bool) -> Vec<String> {
    let class = class.filter(|class| CHEAPER.contains(class)).map(|class| format!("storage class {class}"));
    let redirects = redirects.then(|| "website redirect".to_owned());
    let expires = expires.then(|| "Expires header".to_owned());
    class.into_iter().chain(redirects).chain(expires).collect()
}

impl Source {
    /// Sends nothing yet. At most `most` requests at once.
    pub(super) async fn new(ctx: &StepContext, aws: &AwsAccess, from: &BucketRef, most: usize) -> Self {
        let clock = Clock::default();
        let host = from.endpoint.as_ref().map_or_else(|| format!("s3.{}", aws.region), ToString::to_string);
        Self {
            client: RwLock::new(client(ctx, aws, from, &clock).await),
            clock,
            made_of: (ctx.clone(), aws.clone(), from.clone()),
            pace: Pace::new(most),
            bucket: from.bucket.clone(),
            prefix: folder(from.prefix.as_deref()),
            place: format!("bucket `{}` at {}", from.bucket, host.trim_end_matches('/')),
        }
    }

    /// Sends a request when S3 may be asked; once more with what the credentials are now, if S3 no
    /// longer takes those that we have.
    async fn request<T, F>(&self, send: impl Fn(Client) -> F) -> Result<T, StepError>
    where
        F: Future<Output = Result<T, StepError>>,
    {
        let client = self.client.read().await.clone();
        let answer = self.pace.request(|| send(client.clone())).await;
        match &answer {
            Err(error) if error.class == ErrorClass::Auth => {}
            _ => return answer,
        }
        let (ctx, aws, from) = &self.made_of;
        let renewed = self::client(ctx, aws, from, &self.clock).await;
        *self.client.write().await = renewed.clone();
        self.pace.request(|| send(renewed.clone())).await
    }

    /// Now by the clock that dates the objects, in seconds since 1970; by ours where it tells none.
    /// Never too early, or an object that was copied would count as a later one and its loss as none.
    pub(super) async fn now(&self) -> Result<i64, StepError> {
        self.page("", None, None, Some(1)).await?;
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
        most: Option<i32>,
    ) -> Result<(Vec<Object>, Option<String>), StepError> {
        let token = &token;
        let send = |client: Client| async move {
            let list =
                client.list_objects_v2().bucket(&self.bucket).prefix(format!("{}{scope}", self.prefix));
            let list = list.set_start_after(after.map(|key| format!("{}{key}", self.prefix)));
            let list = list.set_continuation_token(token.clone()).set_max_keys(most);
            list.send().await.map_err(|e| {
                let missing = e.as_service_error().is_some_and(|e| e.is_no_such_bucket());
                let error = s3_error(format!("failed to list {}", self.place), e);
                if missing { StepError::permanent(format!("{} doesn't exist", self.place)) } else { error }
            })
        };
        let output = self.request(send).await?;
        let next = output.next_continuation_token().map(str::to_owned);
        if output.is_truncated() == Some(true) && next.is_none() {
            return Err(StepError::transient(format!("{} ended its listing without the rest", self.place)));
        }
        // A key outside the prefix would be a lie of the server.
        let objects = output.contents.unwrap_or_default().into_iter().filter_map(|object| {
            Some(Object {
                key: object.key?.strip_prefix(&self.prefix)?.to_owned(),
                etag: unquoted(object.e_tag.as_deref()),
                size: object.size.and_then(|s| u64::try_from(s).ok()).unwrap_or(0),
                modified: object.last_modified.map_or(0, |at| at.secs()),
                archived: matches!(
                    object.storage_class,
                    Some(ObjectStorageClass::Glacier | ObjectStorageClass::DeepArchive)
                ),
            })
        });
        Ok((objects.collect(), next))
    }

    /// The first key of `scope` behind `after`.
    pub(super) async fn next_key(&self, scope: &str, after: &str) -> Result<Option<String>, StepError> {
        let (objects, _) = self.page(scope, Some(after), None, Some(1)).await?;
        Ok(objects.into_iter().next().map(|object| object.key))
    }

    /// Lists `scope` from behind `after`. Runs ahead of its reader by [`PAGES_AHEAD`] and ends with it.
    pub(super) fn list(self: &Arc<Self>, scope: &str, after: Option<&str>) -> Pages<Object> {
        let (sender, receiver) = mpsc::channel(PAGES_AHEAD);
        let (source, scope, after) = (Arc::clone(self), scope.to_owned(), after.map(str::to_owned));
        tokio::spawn(async move {
            let mut token = None;
            loop {
                let page = tokio::select! {
                    () = sender.closed() => return,
                    page = source.page(&scope, after.as_deref(), token.take(), None) => page,
                };
                let page = page.map(|(objects, next)| {
                    token = next;
                    objects
                });
                let last = token.is_none();
                // The reader may have gone; then nobody wants to know.
                if sender.send(page).await.is_err() || last {
                    return;
                }
            }
        });
        receiver
    }

    /// The object as it is now and what it carries; `None` if it is gone.
    pub(super) async fn head(&self, key: &str) -> Result<Option<(Object, Properties)>, StepError> {
        let send = |client: Client| async move {
            let head = client.head_object().bucket(&self.bucket).key(format!("{}{key}", self.prefix));
            match head.checksum_mode(ChecksumMode::Enabled).send().await {
                Ok(output) => Ok(Some(output)),
                Err(e) if e.as_service_error().is_some_and(|e| e.is_not_found()) => Ok(None),
                Err(e) => Err(s3_error(format!("failed to look at object `{key}`"), e)),
            }
        };
        let Some(output) = self.request(send).await? else { return Ok(None) };
        let etag = unquoted(output.e_tag());
        let properties = properties!(output, &etag);
        let size = output.content_length().and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
        let modified = output.last_modified().map_or(0, aws_sdk_s3::primitives::DateTime::secs);
        let archived =
            matches!(output.storage_class(), Some(StorageClass::Glacier | StorageClass::DeepArchive));
        let archived = archived && !properties.restored;
        Ok(Some((Object { key: key.to_owned(), etag, size, modified, archived }, properties)))
    }

    /// All bytes of this version of the object, with their CRC, and what it carries.
    pub(super) async fn whole(&self, object: &Object) -> Result<(Properties, Bytes, Crc64), StepError> {
        let send = |client: Client| async move {
            let get = client.get_object().bucket(&self.bucket).key(format!("{}{}", self.prefix, object.key));
            let sent = get.if_match(quoted(&object.etag)).customize();
            // Asked for as a mere header, so that the client doesn't check and hide behind "broken
            // body" what the caller checks and names.
            let sent = sent.mutate_request(|request| {
                request.headers_mut().insert("x-amz-checksum-mode", "ENABLED");
            });
            let sent = sent.send().await;
            let mut output =
                sent.map_err(|e| s3_error(format!("failed to read object `{}`", object.key), e))?;
            let body = std::mem::take(&mut output.body);
            let (bytes, crc64) = collect(&object.key, body, object.size).await?;
            Ok((properties!(output, &object.etag), bytes, crc64))
        };
        self.request(send).await
    }

    /// A range of this version of the object, with its CRC.
    pub(super) async fn range(
        &self,
        object: &Object,
        offset: u64,
        bytes: u64,
    ) -> Result<(Bytes, Crc64), StepError> {
        if bytes == 0 {
            return Ok((Bytes::new(), Crc64::of(b"")));
        }
        let send = |client: Client| async move {
            let get = client.get_object().bucket(&self.bucket).key(format!("{}{}", self.prefix, object.key));
            let get =
                get.if_match(quoted(&object.etag)).range(format!("bytes={offset}-{}", offset + bytes - 1));
            let output = get
                .send()
                .await
                .map_err(|e| s3_error(format!("failed to read object `{}`", object.key), e))?;
            collect(&object.key, output.body, bytes).await
        };
        self.request(send).await
    }

    /// The object's tags.
    pub(super) async fn tags(&self, key: &str) -> Result<Vec<(String, String)>, StepError> {
        let send = |client: Client| async move {
            let get = client.get_object_tagging().bucket(&self.bucket).key(format!("{}{key}", self.prefix));
            get.send().await.map_err(|e| s3_error(format!("failed to read the tags of object `{key}`"), e))
        };
        let output = self.request(send).await?;
        Ok(output.tag_set.into_iter().map(|tag| (tag.key, tag.value)).collect())
    }

    /// A URL by which anyone may read the object for a while. A secret.
    pub(super) async fn presigned(&self, object: &Object) -> Result<String, StepError> {
        let name = &object.key;
        let failed = |cause: String| {
            StepError::auth(format!("failed to sign a URL for object `{name}`")).with_source(Said(cause))
        };
        let config = PresigningConfig::expires_in(PRESIGNED_FOR).map_err(|e| failed(e.to_string()))?;
        let client = self.client.read().await.clone();
        let request = client
            .get_object()
            .bucket(&self.bucket)
            .key(format!("{}{name}", self.prefix))
            .presigned(config)
            .await
            .map_err(|e| s3_error(format!("failed to sign a URL for object `{name}`"), e))?;
        Ok(request.uri().to_owned())
    }
}

/// A client with the credentials as they are now.
async fn client(ctx: &StepContext, aws: &AwsAccess, from: &BucketRef, clock: &Clock) -> Client {
    let shared = crate::aws::config(ctx, aws).await;
    // Checksums are asked for where whole objects are read and are checked here; clients that
    // ask on every range get answers from S3-compatible stores that they then refuse.
    let mut config = aws_sdk_s3::config::Builder::from(&shared)
        .interceptor(clock.clone())
        // `Pace` sends again what can be, and knows what the others met.
        .retry_config(RetryConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(endpoint) = &from.endpoint {
        config = config.endpoint_url(endpoint.as_str()).force_path_style(true);
    }
    Client::from_conf(config.build())
}

/// The whole body, which must be of `size` bytes, and its CRC, taken while each piece is at hand.
async fn collect(key: &str, mut body: ByteStream, size: u64) -> Result<(Bytes, Crc64), StepError> {
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    let mut crc64 = Crc64::begin();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|e| {
            StepError::transient(format!("object `{key}` broke off"))
                .with_source(Said(super::errors::chain(&e)))
        })?;
        if (bytes.len() + chunk.len()) as u64 > size {
            return Err(StepError::transient(format!("object `{key}` came with more than {size} bytes")));
        }
        crc64.update(&chunk);
        bytes.extend_from_slice(&chunk);
    }
    if bytes.len() as u64 == size {
        Ok((bytes.into(), crc64.end()))
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
