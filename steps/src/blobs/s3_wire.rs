//! Reads of objects' bytes, without the client's machinery: one request costs a fraction of the
//! processor time that the client's costs (docs/benchmarks.md).
//!
//! The client still decides where the bucket is and whose credentials count: its own way of signing
//! a URL is asked once, and what follows is signed like it.
//! Buckets with a way of their own (directory buckets, access points of several regions) are read by
//! URLs that the client signs one by one.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use aws_lc_rs::{digest, hmac};
use aws_sdk_s3::Client;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::types::ChecksumMode;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{Request, Uri};
use migrate_plugin_api::StepError;
use reqwest::Body;
use tokio::sync::{OnceCell, RwLock};

use super::errors::{Said, chain, line_error, s3_error, s3_refusal};
use super::http1::{Answer, Lines, host};
use super::names::encoded;

/// Credentials are asked for again this long before they end.
const RENEWED_BEFORE: Duration = Duration::from_secs(60);
/// Of a URL that is used at once.
const SIGNED_FOR: Duration = Duration::from_secs(900);
/// Of no bytes, in hex.
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// A key by which the client tells where objects are.
const PROBE: &str = "migrate-probe";

/// Where a bucket's objects are, and the region that its requests are signed for.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// Scheme and authority.
    origin: String,
    /// As in the header.
    host: String,
    /// Up to the key.
    path: String,
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
        let uri: Uri = address.parse().ok()?;
        let (path, region) = (uri.path().strip_suffix(PROBE)?.to_owned(), scope.next()?.to_owned());
        let origin = format!("{}://{}", uri.scheme()?, uri.authority()?);
        Some(Self { origin, host: host(&uri)?, path, region })
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
    http: Lines,
    place: OnceCell<Option<Place>>,
    kept: RwLock<Option<Arc<Signer>>>,
}

impl Wire {
    /// Sends nothing yet.
    pub(super) fn new(
        client: Client,
        credentials: Option<SharedCredentialsProvider>,
        bucket: &str,
        http: Lines,
    ) -> Self {
        let bucket = bucket.to_owned();
        Self { client, bucket, credentials, http, place: OnceCell::new(), kept: RwLock::new(None) }
    }

    /// Begins to read. The key is whole, with the bucket's prefix, and holds no segment `.` or `..`,
    /// which URLs have another meaning for.
    ///
    /// # Errors
    /// What S3 or the line to it says; a refusal of the credentials is of class `Auth`.
    pub(super) async fn get(&self, wanted: &Wanted<'_>) -> Result<Answer, StepError> {
        let failed = || format!("failed to read object `{}`", wanted.key);
        let request = match self.place().await? {
            Some(place) => self.signed(place, wanted).await?,
            None => self.presigned(wanted).await?,
        };
        let response = self.http.send(request).await.map_err(|e| line_error(failed(), &e))?;
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

    async fn signed(&self, place: &Place, wanted: &Wanted<'_>) -> Result<Request<Body>, StepError> {
        let failed = |cause: String| {
            StepError::auth(format!("failed to sign a request for object `{}`", wanted.key))
                .with_source(Said(cause))
        };
        let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let signer = self.signer(place, now.split('T').next().unwrap_or_default()).await?;
        signer.request(place, wanted, &now).map_err(|e| failed(chain(&e)))
    }

    /// By the client, one URL for one request.
    async fn presigned(&self, wanted: &Wanted<'_>) -> Result<Request<Body>, StepError> {
        let get = self.client.get_object().bucket(&self.bucket).key(wanted.key).if_match(wanted.etag);
        let get = match &wanted.range {
            Some(range) => get.range(range),
            None => get.checksum_mode(ChecksumMode::Enabled),
        };
        let failed = || format!("failed to sign a request for object `{}`", wanted.key);
        let signed = get.presigned(presigning()?).await.map_err(|e| s3_error(failed(), e))?;
        request_of(signed.uri(), signed.headers())
            .map_err(|e| StepError::permanent(failed()).with_source(Said(chain(&e))))
    }

    /// Of the credentials as they were given, until they or `day` end.
    async fn signer(&self, place: &Place, day: &str) -> Result<Arc<Signer>, StepError> {
        let good = |kept: &&Arc<Signer>| kept.day == day && lasts(&kept.credentials);
        if let Some(kept) = self.kept.read().await.as_ref().filter(good) {
            return Ok(Arc::clone(kept));
        }
        let mut kept = self.kept.write().await;
        if let Some(kept) = kept.as_ref().filter(good) {
            return Ok(Arc::clone(kept));
        }
        let credentials = match kept.as_ref().map(|kept| &kept.credentials).filter(|c| lasts(c)) {
            Some(credentials) => credentials.clone(),
            None => self.credentials().await?,
        };
        let signer = Arc::new(Signer::new(credentials, place, day));
        *kept = Some(Arc::clone(&signer));
        Ok(signer)
    }

    async fn credentials(&self) -> Result<Credentials, StepError> {
        let none = "no AWS credentials were found: check [source.aws], or try: aws sts get-caller-identity";
        let missing = || StepError::auth("failed to find AWS credentials").with_hint(none);
        let provider = self.credentials.as_ref().ok_or_else(missing)?;
        provider.provide_credentials().await.map_err(|e| missing().with_source(Said(chain(&e))))
    }
}

/// Signs reads of one bucket for a day: the same as the client's crate makes of them, with what is the same
/// for all of them made once (docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html).
struct Signer {
    credentials: Credentials,
    /// As `YYYYMMDD`.
    day: String,
    /// `DAY/REGION/s3/aws4_request`.
    scope: String,
    key: hmac::Key,
}

impl Signer {
    fn new(credentials: Credentials, place: &Place, day: &str) -> Self {
        let mut key = format!("AWS4{}", credentials.secret_access_key()).into_bytes();
        for part in [day, &place.region, "s3", "aws4_request"] {
            key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
        }
        let scope = format!("{day}/{}/s3/aws4_request", place.region);
        Self { credentials, day: day.to_owned(), scope, key: hmac::Key::new(hmac::HMAC_SHA256, &key) }
    }

    /// `now` as `YYYYMMDDTHHMMSSZ`.
    fn request(&self, place: &Place, wanted: &Wanted<'_>, now: &str) -> Result<Request<Body>, http::Error> {
        let path = format!("{}{}", place.path, encoded(wanted.key));
        // In the order of their names.
        let token = self.credentials.session_token();
        let headers = [
            Some(("host", place.host.as_str())),
            Some(("if-match", wanted.etag)),
            wanted.range.as_deref().map(|range| ("range", range)),
            wanted.range.is_none().then_some(("x-amz-checksum-mode", "ENABLED")),
            Some(("x-amz-content-sha256", EMPTY_SHA256)),
            Some(("x-amz-date", now)),
            token.map(|token| ("x-amz-security-token", token)),
        ];
        let (mut canonical, mut names) = (String::with_capacity(1024), String::with_capacity(128));
        for part in ["GET\n", &path, "\n\n"] {
            canonical.push_str(part);
        }
        for (name, value) in headers.into_iter().flatten() {
            canonical.push_str(name);
            canonical.push(':');
            let mut words = value.split(' ').filter(|word| !word.is_empty());
            canonical.push_str(words.next().unwrap_or_default());
            for word in words {
                canonical.push(' ');
                canonical.push_str(word);
            }
            canonical.push('\n');
            if !names.is_empty() {
                names.push(';');
            }
            names.push_str(name);
        }
        for part in ["\n", &names, "\n", EMPTY_SHA256] {
            canonical.push_str(part);
        }
        let hash = hex::encode(digest::digest(&digest::SHA256, canonical.as_bytes()));
        let signed = format!("AWS4-HMAC-SHA256\n{now}\n{}\n{hash}", self.scope);
        let signature = hex::encode(hmac::sign(&self.key, signed.as_bytes()));
        let (key, scope) = (self.credentials.access_key_id(), &self.scope);
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={names}, Signature={signature}"
        );
        let sent = headers.into_iter().flatten().filter(|(name, _)| *name != "host");
        let url = format!("{}{path}", place.origin);
        let mut request = request_of(&url, sent)?;
        let mut authorization = HeaderValue::try_from(authorization)?;
        authorization.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, authorization);
        Ok(request)
    }
}

/// A GET of `url` with these headers.
fn request_of<'a>(
    url: &str,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Request<Body>, http::Error> {
    headers.fold(Request::get(url), |get, (name, value)| get.header(name, value)).body(Body::default())
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
    use aws_sigv4::http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign,
    };
    use aws_sigv4::sign::v4::SigningParams;

    use super::*;

    const SIGNED: &str = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKID%2F20261126%2Feu-west-1%2Fs3%2F\
                          aws4_request&X-Amz-Signature=0";

    #[test]
    fn the_clients_signed_url_tells_where_a_bucket_is() {
        for (origin, host, path) in [
            ("https://b.s3.eu-west-1.amazonaws.com", "b.s3.eu-west-1.amazonaws.com", "/"),
            ("http://127.0.0.1:9000", "127.0.0.1:9000", "/b/"),
            ("https://s3.test:443", "s3.test", "/b/"),
        ] {
            let place = Place::of(&format!("{origin}{path}{PROBE}?x-id=GetObject&{SIGNED}")).unwrap();
            assert_eq!(
                (place.origin.as_str(), place.host.as_str(), place.path.as_str()),
                (origin, host, path)
            );
            assert_eq!(place.region, "eu-west-1");
        }
    }

    /// What the crate makes of a request that the client signs with.
    fn signed_by_the_crate(
        request: &Request<Body>,
        credentials: &Credentials,
        at: jiff::Timestamp,
    ) -> String {
        let identity = credentials.clone().into();
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let params = SigningParams::builder().identity(&identity).region("eu-west-1").name("s3");
        let params = params.time(at.into()).settings(settings).build().unwrap().into();
        let headers = request.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
        let theirs = |name: &str| matches!(name, "if-match" | "range" | "x-amz-checksum-mode");
        let headers: Vec<_> = headers.filter(|(name, _)| theirs(name)).collect();
        let url = request.uri().to_string();
        let body = SignableBody::Bytes(&[]);
        let signable = SignableRequest::new("GET", url.as_str(), headers.into_iter(), body).unwrap();
        let (instructions, _) = sign(signable, &params).unwrap().into_parts();
        let found = instructions.headers().find(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        found.unwrap().1.to_owned()
    }

    #[test]
    fn a_request_is_signed_as_the_client_signs_it() {
        let at: jiff::Timestamp = "2026-11-26T01:02:03Z".parse().unwrap();
        let plain = Credentials::new("AKID", "secret", None, None, "test");
        let session = Credentials::new("AKID", "secret", Some("to+ken/==".to_owned()), None, "test");
        for base in
            ["https://b.s3.eu-west-1.amazonaws.com/", "http://127.0.0.1:9000/b/", "https://s3.test:443/b/"]
        {
            let place = Place::of(&format!("{base}{PROBE}?{SIGNED}")).unwrap();
            for credentials in [&plain, &session] {
                for (key, etag, range) in [
                    ("a/b", "\"0a\"", None),
                    ("a b+c&d=%/\u{1F600}//'~*", "\"0a-2\"", Some("bytes=0-8388607".to_owned())),
                    ("é", "\"two  spaces \"", None),
                ] {
                    let signer = Signer::new(credentials.clone(), &place, "20261126");
                    let wanted = Wanted { key, etag, range };
                    let request = signer.request(&place, &wanted, "20261126T010203Z").unwrap();
                    let theirs = signed_by_the_crate(&request, credentials, at);
                    assert_eq!(request.headers()[AUTHORIZATION], theirs, "{base} {key}");
                    let token = request.headers().get("x-amz-security-token").map(|t| t.to_str().unwrap());
                    assert_eq!(token, credentials.session_token());
                }
            }
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
