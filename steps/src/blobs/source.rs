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
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use aws_sdk_s3::types::{ChecksumMode, ObjectStorageClass, ServerSideEncryption, StorageClass};
use bytes::Bytes;
use http::HeaderMap;
use migrate_plugin_api::{StepContext, StepError};
use tokio::sync::mpsc;

use super::blob_wire::Pieces;
use super::checksum::{Crc64, Crc64Sum, md5_of_etag};
use super::errors::{Said, chain, s3_error};
use super::http1::{Answer, Lines};
use super::merge::Pages;
use super::names::folder;
use super::pace::Pace;
use super::renew::Renewed;
use super::s3_wire::{Wanted, Wire};
use crate::site::{AwsAccess, BucketRef};

/// How long a presigned URL lives: long enough for one block, and signed anew for the next.
const PRESIGNED_FOR: Duration = Duration::from_secs(900);
/// Silence after which a read is given up: S3 sends at once what it has.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Pages that a listing may run ahead of its reader.
pub(super) const PAGES_AHEAD: usize = 1;
/// The same for the start of the bucket, which is compared with a page of 5,000 blobs: the five pages of
/// its objects are there when that comes, which takes a slow target a second.
const FIRST_PAGES_AHEAD: usize = 4;

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
    /// When it was written and under which version, where it was looked at: an object that was another in
    /// between has its old ETag again, and another of these.
    pub(super) written: (i64, Option<String>),
}

/// How much older than its objects a service's `Date` may be: whole seconds, which servers keep for a
/// second (fasthttp, under versitygw, renews it once a second).
const CLOCK_LAG_SECONDS: i64 = 2;

/// The `Date` of the service's first answer, in seconds since 1970; 0 before it.
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
            // It stays as it was, if this is not the first.
            let _ = self.0.compare_exchange(0, date.secs(), Ordering::Relaxed, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// A bucket, or a folder in it.
pub(super) struct Source {
    access: Renewed<Access>,
    clock: Clock,
    /// What a new one is made of, when the credentials have changed.
    made_of: (StepContext, AwsAccess, BucketRef, Lines),
    pace: Pace,
    bucket: String,
    prefix: String,
    /// Where it is, for people.
    pub(super) place: String,
}

impl Properties {
    /// Of an object that was looked at.
    fn of(output: &HeadObjectOutput, etag: &str) -> Self {
        // With SSE-C or KMS the ETag looks like an MD5 and is none.
        let plain = output.sse_customer_algorithm().is_none()
            && matches!(output.server_side_encryption(), None | Some(ServerSideEncryption::Aes256));
        Self {
            content_type: output.content_type().map(str::to_owned),
            content_encoding: output.content_encoding().map(str::to_owned),
            content_language: output.content_language().map(str::to_owned),
            content_disposition: output.content_disposition().map(str::to_owned),
            cache_control: output.cache_control().map(str::to_owned),
            metadata: output.metadata().cloned().unwrap_or_default(),
            crc64: output.checksum_crc64_nvme().and_then(Crc64::from_s3),
            md5: if plain { md5_of_etag(etag) } else { None },
            tags: output.tag_count().unwrap_or(0),
            lost: lost(
                output.storage_class().map(StorageClass::as_str),
                output.website_redirect_location().is_some(),
                output.expires_string().is_some(),
            ),
            restored: output.restore().is_some_and(|restore| restore.contains("ongoing-request=\"false\"")),
            written: (
                output.last_modified().map_or(0, DateTime::secs),
                output.version_id().map(str::to_owned),
            ),
        }
    }

    /// The same of the headers of an object that is read.
    ///
    /// # Errors
    /// The name of a header that is no text.
    fn of_headers(headers: &HeaderMap, etag: &str) -> Result<Self, String> {
        let mut metadata = HashMap::new();
        for (name, value) in headers {
            let value = std::str::from_utf8(value.as_bytes()).map_err(|_| name.as_str().to_owned())?;
            if let Some(name) = name.as_str().strip_prefix("x-amz-meta-") {
                metadata.insert(name.to_owned(), value.to_owned());
            }
        }
        let get = |name: &str| std::str::from_utf8(headers.get(name)?.as_bytes()).ok();
        let owned = |name: &str| get(name).map(str::to_owned);
        let plain = get("x-amz-server-side-encryption-customer-algorithm").is_none()
            && matches!(get("x-amz-server-side-encryption"), None | Some("AES256"));
        Ok(Self {
            content_type: owned("content-type"),
            content_encoding: owned("content-encoding"),
            content_language: owned("content-language"),
            content_disposition: owned("content-disposition"),
            cache_control: owned("cache-control"),
            metadata,
            crc64: get("x-amz-checksum-crc64nvme").and_then(Crc64::from_s3),
            md5: if plain { md5_of_etag(etag) } else { None },
            tags: get("x-amz-tagging-count").and_then(|count| count.parse().ok()).unwrap_or(0),
            lost: lost(
                get("x-amz-storage-class"),
                get("x-amz-website-redirect-location").is_some(),
                get("expires").is_some(),
            ),
            restored: get("x-amz-restore")
                .is_some_and(|restore| restore.contains("ongoing-request=\"false\"")),
            written: (0, None),
        })
    }
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
    pub(super) async fn new(
        ctx: &StepContext,
        aws: &AwsAccess,
        from: &BucketRef,
        most: usize,
    ) -> Result<Self, StepError> {
        let (clock, lines) = (Clock::default(), Lines::new(READ_TIMEOUT)?);
        let host = from.endpoint.as_ref().map_or_else(|| format!("s3.{}", aws.region), ToString::to_string);
        Ok(Self {
            access: Renewed::new(access(ctx, aws, from, &clock, &lines).await?),
            clock,
            made_of: (ctx.clone(), aws.clone(), from.clone(), lines),
            pace: Pace::new(most),
            bucket: from.bucket.clone(),
            prefix: folder(from.prefix.as_deref()),
            place: format!("bucket `{}` at {}", from.bucket, host.trim_end_matches('/')),
        })
    }

    /// Sends a request when S3 may be asked; once more with what the credentials are now, if S3 no
    /// longer takes those that we have.
    async fn request<T, F>(&self, send: impl Fn(Arc<Access>) -> F) -> Result<T, StepError>
    where
        F: Future<Output = Result<T, StepError>>,
    {
        let (ctx, aws, from, lines) = &self.made_of;
        self.access.request(&self.pace, || access(ctx, aws, from, &self.clock, lines), send).await
    }

    /// When the bucket first answered, by the clock that dates the objects, in seconds since 1970; now by
    /// ours where it tells none. Never too early, or an object that was copied would count as a later one
    /// and its loss as none.
    pub(super) fn first_answer(&self) -> i64 {
        let told = self.clock.0.load(Ordering::Relaxed);
        let told = if told > 0 { told } else { jiff::Timestamp::now().as_second() };
        told + CLOCK_LAG_SECONDS
    }

    /// The same, after a question for nothing else.
    pub(super) async fn asked(&self) -> Result<i64, StepError> {
        self.page("", None, None, Some(1)).await?;
        Ok(self.first_answer())
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
        let send = |access: Arc<Access>| async move {
            let list = access
                .client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(format!("{}{scope}", self.prefix));
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

    /// Lists `scope` from behind `after`. Runs ahead of its reader by [`PAGES_AHEAD`], or at the start by
    /// [`FIRST_PAGES_AHEAD`], and ends with it.
    pub(super) fn list(self: &Arc<Self>, scope: &str, after: Option<&str>) -> Pages<Object> {
        let (sender, receiver) = mpsc::channel(if after.is_none() { FIRST_PAGES_AHEAD } else { PAGES_AHEAD });
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
        let send = |access: Arc<Access>| async move {
            let head = access.client.head_object().bucket(&self.bucket).key(format!("{}{key}", self.prefix));
            match head.checksum_mode(ChecksumMode::Enabled).send().await {
                Ok(output) => Ok(Some(output)),
                Err(e) if e.as_service_error().is_some_and(|e| e.is_not_found()) => Ok(None),
                Err(e) => Err(s3_error(format!("failed to look at object `{key}`"), e)),
            }
        };
        let Some(output) = self.request(send).await? else { return Ok(None) };
        let etag = unquoted(output.e_tag());
        let properties = Properties::of(&output, &etag);
        let size = output.content_length().and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
        let modified = properties.written.0;
        let archived =
            matches!(output.storage_class(), Some(StorageClass::Glacier | StorageClass::DeepArchive));
        let archived = archived && !properties.restored;
        Ok(Some((Object { key: key.to_owned(), etag, size, modified, archived }, properties)))
    }

    /// Begins to read all bytes of this version of the object; says what it carries.
    pub(super) async fn open(&self, object: &Object) -> Result<(Properties, Reading), StepError> {
        let key = format!("{}{}", self.prefix, object.key);
        let etag = quoted(&object.etag);
        let send = |access: Arc<Access>| {
            let wanted = Wanted { key: &key, etag: &etag, range: None };
            async move { access.wire.get(&wanted).await }
        };
        let response = self.request(send).await?;
        let properties = Properties::of_headers(response.headers(), &object.etag).map_err(|header| {
            StepError::permanent(format!("object `{}` has a header `{header}` that is no text", object.key))
        })?;
        Ok((properties, Reading::new(&object.key, response, object.size)?))
    }

    /// A range of this version of the object, with its CRC.
    pub(super) async fn range(&self, object: &Object, offset: u64, bytes: u64) -> Result<Pieces, StepError> {
        if bytes == 0 {
            return Ok(Pieces { pieces: Vec::new(), bytes, crc64: Crc64::of(b"") });
        }
        let (key, etag) = (format!("{}{}", self.prefix, object.key), quoted(&object.etag));
        let range = format!("bytes={offset}-{}", offset + bytes - 1);
        let send = |access: Arc<Access>| {
            let wanted = Wanted { key: &key, etag: &etag, range: Some(range.clone()) };
            async move { Reading::new(&object.key, access.wire.get(&wanted).await?, bytes)?.all().await }
        };
        self.request(send).await
    }

    /// The object's tags.
    pub(super) async fn tags(&self, key: &str) -> Result<Vec<(String, String)>, StepError> {
        let send = |access: Arc<Access>| async move {
            let get =
                access.client.get_object_tagging().bucket(&self.bucket).key(format!("{}{key}", self.prefix));
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
        let access = self.access.current().await;
        let request = access
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

/// How a bucket is reached with one set of credentials.
struct Access {
    client: Client,
    /// For what comes by the thousand.
    wire: Wire,
}

/// With the credentials as they are now.
async fn access(
    ctx: &StepContext,
    aws: &AwsAccess,
    from: &BucketRef,
    clock: &Clock,
    lines: &Lines,
) -> Result<Arc<Access>, StepError> {
    let shared = crate::aws::config(ctx, aws).await;
    // The bytes are read without the client, and checked here.
    let mut config = aws_sdk_s3::config::Builder::from(&shared)
        .interceptor(clock.clone())
        // `Pace` sends again what can be, and knows what the others met.
        .retry_config(RetryConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(endpoint) = &from.endpoint {
        config = config.endpoint_url(endpoint.as_str()).force_path_style(true);
    }
    let client = Client::from_conf(config.build());
    let wire = Wire::new(client.clone(), shared.credentials_provider(), &from.bucket, lines.clone());
    Ok(Arc::new(Access { client, wire }))
}

/// The bytes of an object as they come, with the CRC of those that came.
pub(super) struct Reading {
    key: String,
    response: Answer,
    size: u64,
    came: u64,
    crc64: Crc64Sum,
}

impl Reading {
    /// Of a body that must be of `size` bytes.
    fn new(key: &str, response: Answer, size: u64) -> Result<Self, StepError> {
        if let Some(length) = response.content_length().filter(|length| *length != size) {
            let message = format!("object `{key}` came with {length} of {size} bytes");
            return Err(StepError::transient(message));
        }
        Ok(Self { key: key.to_owned(), response, size, came: 0, crc64: Crc64::begin() })
    }

    /// The next piece; `None` behind the last.
    ///
    /// # Errors
    /// When the body breaks off or is of another size.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, StepError> {
        let (key, size) = (&self.key, self.size);
        let piece = self.response.chunk().await.map_err(|e| {
            StepError::transient(format!("object `{key}` broke off")).with_source(Said(chain(&e)))
        })?;
        let Some(piece) = piece else {
            if self.came == size {
                return Ok(None);
            }
            let message = format!("object `{key}` came with {} of {size} bytes", self.came);
            return Err(StepError::transient(message));
        };
        self.came += piece.len() as u64;
        if self.came > size {
            return Err(StepError::transient(format!("object `{key}` came with more than {size} bytes")));
        }
        self.crc64.update(&piece);
        Ok(Some(piece))
    }

    /// Whether all has come.
    pub(super) fn is_whole(&self) -> bool {
        self.came == self.size
    }

    /// The CRC of what came.
    pub(super) fn crc64(&self) -> Crc64 {
        self.crc64.end()
    }

    /// All that is to come.
    pub(super) async fn all(mut self) -> Result<Pieces, StepError> {
        let mut pieces = Vec::new();
        while let Some(piece) = self.next().await? {
            pieces.push(piece);
        }
        Ok(Pieces { pieces, bytes: self.size, crc64: self.crc64() })
    }
}

fn unquoted(etag: Option<&str>) -> String {
    etag.unwrap_or_default().trim_matches('"').to_owned()
}

fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MD5: &str = "d41d8cd98f00b204e9800998ecf8427e";

    fn of(headers: &[(&'static str, &'static str)]) -> Properties {
        let headers = headers.iter().map(|(name, value)| {
            let name = http::header::HeaderName::from_static(name);
            (name, http::header::HeaderValue::from_static(value))
        });
        Properties::of_headers(&headers.collect(), MD5).unwrap()
    }

    #[test]
    fn an_objects_headers_say_what_it_carries() {
        let found = of(&[
            ("content-type", "text/plain"),
            ("cache-control", "no-cache"),
            ("x-amz-meta-a-b", "1"),
            ("x-amz-checksum-crc64nvme", "rosUhgp5mIg="),
            ("x-amz-server-side-encryption", "AES256"),
            ("x-amz-tagging-count", "2"),
            ("x-amz-storage-class", "STANDARD_IA"),
            ("expires", "Thu, 01 Jan 2026 00:00:00 GMT"),
            ("x-amz-restore", "ongoing-request=\"false\", expiry-date=\"x\""),
        ]);
        assert_eq!(found.content_type.as_deref(), Some("text/plain"));
        assert_eq!(found.cache_control.as_deref(), Some("no-cache"));
        assert_eq!(found.metadata, HashMap::from([("a-b".to_owned(), "1".to_owned())]));
        assert_eq!(found.crc64, Some(Crc64::of(b"123456789")));
        assert_eq!(found.md5, md5_of_etag(MD5));
        assert_eq!(found.lost, ["storage class STANDARD_IA", "Expires header"]);
        assert_eq!((found.tags, found.restored), (2, true));
    }

    #[test]
    fn an_etag_of_an_encrypted_object_is_no_md5() {
        assert_eq!(of(&[("x-amz-server-side-encryption", "aws:kms")]).md5, None);
        assert_eq!(of(&[("x-amz-server-side-encryption-customer-algorithm", "AES256")]).md5, None);
        assert!(of(&[]).md5.is_some());
    }
}
