//! Reads of objects' bytes, without the client's machinery: one request costs a fraction of the
//! processor time that the client's costs (docs/benchmarks.md).
//!
//! The client still decides where the bucket is and whose credentials count: its own way of signing
//! a URL is asked once, and what follows is signed like it, by the crate that the client signs with.
//! Buckets with a way of their own (directory buckets, access points of several regions) are read by
//! URLs that the client signs one by one.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use aws_sdk_s3::Client;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::types::ChecksumMode;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4::SigningParams;
use migrate_plugin_api::StepError;
use tokio::sync::{OnceCell, RwLock};

use super::errors::{Said, chain, line_error, s3_error, s3_refusal};
use super::names::encoded;

/// Credentials are asked for again this long before they end.
const RENEWED_BEFORE: Duration = Duration::from_secs(60);
/// Of a URL that is used at once.
const SIGNED_FOR: Duration = Duration::from_secs(900);
/// A key by which the client tells where objects are.
const PROBE: &str = "migrate-probe";

/// Where a bucket's objects are, and the region that its requests are signed for.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// A URL up to the key.
    base: String,
    region: String,
}

impl Place {
    /// Of the signed URL of [`PROBE`]; `None` where it is signed in another way than plain SigV4.
    fn of(url: &str) -> Option<Self> {
        let (address, query) = url.split_once('?')?;
        let get = |name: &str| {
            let mut pairs = url::form_urlencoded::parse(query.as_bytes());
            pairs.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.into_owned())
        };
        if get("X-Amz-Algorithm")? != "AWS4-HMAC-SHA256" || get("X-Amz-S3session-Token").is_some() {
            return None;
        }
        let credential = get("X-Amz-Credential")?;
        let mut scope = credential.rsplit('/').skip(1);
        if scope.next()? != "s3" {
            return None;
        }
        Some(Self { base: address.strip_suffix(PROBE)?.to_owned(), region: scope.next()?.to_owned() })
    }
}

/// What is wanted of an object.
pub(super) struct Wanted<'a> {
    pub(super) key: &'a str,
    /// The version, with quotes.
    pub(super) etag: &'a str,
    /// As in the header; the whole object, with its checksum, where there is none.
    pub(super) range: Option<String>,
}

/// Reads from one bucket with the credentials of one client.
pub(super) struct Wire {
    client: Client,
    bucket: String,
    credentials: Option<SharedCredentialsProvider>,
    http: reqwest::Client,
    place: OnceCell<Option<Place>>,
    kept: RwLock<Option<Credentials>>,
}

impl Wire {
    /// Sends nothing yet.
    pub(super) fn new(
        client: Client,
        credentials: Option<SharedCredentialsProvider>,
        bucket: &str,
        http: reqwest::Client,
    ) -> Self {
        let bucket = bucket.to_owned();
        Self { client, bucket, credentials, http, place: OnceCell::new(), kept: RwLock::new(None) }
    }

    /// Begins to read. The key is whole, with the bucket's prefix, and holds no segment `.` or `..`,
    /// which URLs have another meaning for.
    ///
    /// # Errors
    /// What S3 or the line to it says; a refusal of the credentials is of class `Auth`.
    pub(super) async fn get(&self, wanted: &Wanted<'_>) -> Result<reqwest::Response, StepError> {
        let failed = || format!("failed to read object `{}`", wanted.key);
        let request = match self.place().await? {
            Some(place) => self.signed(place, wanted).await?,
            None => self.presigned(wanted).await?,
        };
        let response = request.send().await.map_err(|e| line_error(failed(), &e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(s3_refusal(failed(), response).await)
    }

    async fn place(&self) -> Result<Option<&Place>, StepError> {
        let ask = || async {
            let get = self.client.get_object().bucket(&self.bucket).key(PROBE);
            let signed = get
                .presigned(presigning()?)
                .await
                .map_err(|e| s3_error(format!("failed to sign a request to bucket `{}`", self.bucket), e))?;
            Ok::<_, StepError>(Place::of(signed.uri()))
        };
        self.place.get_or_try_init(ask).await.map(Option::as_ref)
    }

    async fn signed(&self, place: &Place, wanted: &Wanted<'_>) -> Result<reqwest::RequestBuilder, StepError> {
        let failed = |cause: String| {
            StepError::auth(format!("failed to sign a request for object `{}`", wanted.key))
                .with_source(Said(cause))
        };
        let url = format!("{}{}", place.base, encoded(wanted.key));
        let headers: Vec<(&str, &str)> = std::iter::once(("if-match", wanted.etag))
            .chain(match &wanted.range {
                Some(range) => [("range", range.as_str())],
                None => [("x-amz-checksum-mode", "ENABLED")],
            })
            .collect();
        let identity = self.credentials().await?.into();
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let params = SigningParams::builder()
            .identity(&identity)
            .region(&place.region)
            .name("s3")
            .time(SystemTime::now())
            .settings(settings)
            .build()
            .map_err(|e| failed(chain(&e)))?
            .into();
        let body = SignableBody::Bytes(&[]);
        let request = SignableRequest::new("GET", url.as_str(), headers.iter().copied(), body)
            .map_err(|e| failed(chain(&e)))?;
        let (instructions, _) = sign(request, &params).map_err(|e| failed(chain(&e)))?.into_parts();
        let mut get = self.http.get(&url);
        for (name, value) in headers.iter().copied().chain(instructions.headers()) {
            get = get.header(name, value);
        }
        Ok(get)
    }

    /// By the client, one URL for one request.
    async fn presigned(&self, wanted: &Wanted<'_>) -> Result<reqwest::RequestBuilder, StepError> {
        let get = self.client.get_object().bucket(&self.bucket).key(wanted.key).if_match(wanted.etag);
        let get = match &wanted.range {
            Some(range) => get.range(range),
            None => get.checksum_mode(ChecksumMode::Enabled),
        };
        let signed = get
            .presigned(presigning()?)
            .await
            .map_err(|e| s3_error(format!("failed to sign a request for object `{}`", wanted.key), e))?;
        let mut get = self.http.get(signed.uri());
        for (name, value) in signed.headers() {
            get = get.header(name, value);
        }
        Ok(get)
    }

    /// As they were given, until they end.
    async fn credentials(&self) -> Result<Credentials, StepError> {
        if let Some(kept) = self.kept.read().await.as_ref().filter(|kept| lasts(kept)) {
            return Ok(kept.clone());
        }
        let mut kept = self.kept.write().await;
        if let Some(kept) = kept.as_ref().filter(|kept| lasts(kept)) {
            return Ok(kept.clone());
        }
        let none = "no AWS credentials were found: check [source.aws], or try: aws sts get-caller-identity";
        let missing = || StepError::auth("failed to find AWS credentials").with_hint(none);
        let provider = self.credentials.as_ref().ok_or_else(missing)?;
        let found = provider.provide_credentials().await;
        let found = found.map_err(|e| missing().with_source(Said(chain(&e))))?;
        *kept = Some(found.clone());
        Ok(found)
    }
}

fn lasts(credentials: &Credentials) -> bool {
    credentials.expiry().is_none_or(|end| end > SystemTime::now() + RENEWED_BEFORE)
}

fn presigning() -> Result<PresigningConfig, StepError> {
    PresigningConfig::expires_in(SIGNED_FOR)
        .map_err(|e| StepError::permanent("failed to sign a request").with_source(Said(e.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNED: &str = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKID%2F20261126%2Feu-west-1%2Fs3%2F\
                          aws4_request&X-Amz-Signature=0";

    #[test]
    fn the_clients_signed_url_tells_where_a_bucket_is() {
        for base in ["https://b.s3.eu-west-1.amazonaws.com/", "http://127.0.0.1:9000/b/"] {
            let place = Place::of(&format!("{base}{PROBE}?x-id=GetObject&{SIGNED}"));
            assert_eq!(place, Some(Place { base: base.to_owned(), region: "eu-west-1".to_owned() }));
        }
    }

    #[test]
    fn a_bucket_with_a_signature_of_its_own_is_left_to_the_client() {
        let url = |query: &str| format!("https://b/{PROBE}?{query}");
        assert_eq!(Place::of(&url(&SIGNED.replace("HMAC", "ECDSA-P256"))), None);
        assert_eq!(Place::of(&url(&SIGNED.replace("%2Fs3%2F", "%2Fs3express%2F"))), None);
        assert_eq!(Place::of(&url(&format!("{SIGNED}&X-Amz-S3session-Token=t"))), None);
        assert_eq!(Place::of(&format!("https://b/{PROBE}")), None);
    }
}
