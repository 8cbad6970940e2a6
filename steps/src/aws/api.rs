//! Signed requests (Signature Version 4) to EKS and IAM, of which a few readings are used: their SDKs are
//! larger than all others here together.
//!
//! Invariant: credentials are in the signature only, and in no error.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use http::{HeaderMap, Method};
use migrate_plugin_api::{StepContext, StepError};
use serde::Deserialize;
use tokio::sync::OnceCell;
use url::Url;

use crate::site::AwsAccess;
use crate::tls::{self, Speaks};

/// An API that has not answered a small request after this long won't.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest answer that is read: a page of a list, a policy of at most 10 KB.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// Tries of one request; the engine retries the step itself.
const MAX_TRIES: u32 = 5;

/// Before the second try; doubled each time.
const PAUSE: Duration = Duration::from_millis(300);

/// So much of AWS's words is kept.
const MAX_WORDS_CHARS: usize = 300;

/// One API in one region.
pub(crate) struct Api {
    http: reqwest::Client,
    base: Url,
    /// As it is signed.
    service: &'static str,
    region: String,
    provider: SharedCredentialsProvider,
    credentials: OnceCell<Credentials>,
}

/// A request that AWS understood and did not grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denial {
    pub status: u16,
    /// `AccessDeniedException`, `NoSuchEntity`.
    pub code: String,
    pub message: String,
}

impl Denial {
    /// What was asked for is not there.
    pub(crate) fn is_missing(&self) -> bool {
        self.status == 404
    }

    /// These credentials may not ask.
    pub(crate) fn is_forbidden(&self) -> bool {
        matches!(self.status, 401 | 403) || self.code.starts_with("AccessDenied")
    }

    /// As an error of `what`.
    pub(crate) fn into_error(self, what: &str) -> StepError {
        let message = format!("{what}: {} {} {}", self.status, self.code, self.message);
        match self.is_forbidden() {
            true => StepError::auth(message.trim_end())
                .with_hint("check `[source.aws]` in migration.toml, and its rights"),
            false => StepError::permanent(message.trim_end()),
        }
    }
}

#[derive(Default, Deserialize)]
struct JsonRefusal {
    #[serde(default, alias = "Message")]
    message: String,
    #[serde(default, rename = "__type")]
    kind: String,
    #[serde(default)]
    code: String,
}

impl Api {
    /// EKS: <https://docs.aws.amazon.com/eks/latest/APIReference/>. Sends nothing yet.
    ///
    /// # Errors
    /// When there are no credentials to sign with.
    pub(crate) async fn eks(ctx: &StepContext, access: &AwsAccess) -> Result<Self, StepError> {
        let region = &access.region;
        let end = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        let address = format!("https://eks.{region}.{end}");
        Self::new(ctx, access, access.eks_endpoint.as_ref(), &address, "eks", region).await
    }

    /// IAM, which is in one region of each partition:
    /// <https://docs.aws.amazon.com/general/latest/gr/iam-service.html>. Sends nothing yet.
    ///
    /// # Errors
    /// As [`eks`](Self::eks).
    pub(crate) async fn iam(ctx: &StepContext, access: &AwsAccess) -> Result<Self, StepError> {
        let (address, region) = match access.region.as_str() {
            region if region.starts_with("cn-") => ("https://iam.cn-north-1.amazonaws.com.cn", "cn-north-1"),
            region if region.starts_with("us-gov-") => ("https://iam.us-gov.amazonaws.com", "us-gov-west-1"),
            _ => ("https://iam.amazonaws.com", "us-east-1"),
        };
        Self::new(ctx, access, access.iam_endpoint.as_ref(), address, "iam", region).await
    }

    async fn new(
        ctx: &StepContext,
        access: &AwsAccess,
        endpoint: Option<&Url>,
        address: &str,
        service: &'static str,
        region: &str,
    ) -> Result<Self, StepError> {
        let invalid = |e| StepError::permanent(format!("`{}` is no region", access.region)).with_source(e);
        let base = match endpoint {
            Some(endpoint) => endpoint.clone(),
            None => Url::parse(address).map_err(invalid)?,
        };
        let config = super::config(ctx, access).await;
        let provider = config.credentials_provider().ok_or_else(|| {
            StepError::auth("there are no AWS credentials")
                .with_hint("check `[source.aws]` in migration.toml")
        })?;
        let http = tls::client(Speaks::Http2)
            // A signature is for one host.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("migrate/", env!("CARGO_PKG_VERSION")))
            .timeout(ANSWER_TIMEOUT)
            .build()
            .map_err(|e| StepError::permanent("failed to set up the client of AWS").with_source(e))?;
        let credentials = OnceCell::new();
        Ok(Self { http, base, service, region: region.to_owned(), provider, credentials })
    }

    /// `GET` of the path of these segments.
    ///
    /// # Errors
    /// When there is no answer, or AWS is out of order or busy for long.
    pub(crate) async fn get(
        &self,
        segments: &[&str],
        query: &[(&str, &str)],
    ) -> Result<Result<Vec<u8>, Denial>, StepError> {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.send(&Method::GET, &url, Vec::new()).await
    }

    /// `POST` of a form to the root: the query protocol of IAM.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(crate) async fn form(&self, fields: &[(&str, &str)]) -> Result<Result<Vec<u8>, Denial>, StepError> {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.send(&Method::POST, &self.base, body.into_bytes()).await
    }

    async fn send(
        &self,
        method: &Method,
        url: &Url,
        body: Vec<u8>,
    ) -> Result<Result<Vec<u8>, Denial>, StepError> {
        let (mut tries, mut pause) = (1, PAUSE);
        loop {
            let error = match self.send_once(method, url, &body).await {
                Ok(Err(denial)) if is_busy(&denial) => {
                    let said = format!("{} {}", denial.status, denial.code);
                    StepError::throttled(format!("{} asks for less: {}", self.name(), said.trim_end()), None)
                }
                Ok(Err(denial)) if denial.status >= 500 => StepError::transient(format!(
                    "{} answered {} {}",
                    self.name(),
                    denial.status,
                    denial.code
                )),
                Err(error) if error.class.is_retryable() => error,
                answer => return answer,
            };
            if tries >= MAX_TRIES {
                return Err(error);
            }
            tries += 1;
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    fn name(&self) -> String {
        format!("{} ({})", self.service, self.base.host_str().unwrap_or_default())
    }

    async fn send_once(
        &self,
        method: &Method,
        url: &Url,
        body: &[u8],
    ) -> Result<Result<Vec<u8>, Denial>, StepError> {
        let request = self.signed(method, url, body).await?;
        let unreachable = |e: reqwest::Error| {
            StepError::transient(format!("no answer from {}", self.name())).with_source(e.without_url())
        };
        let mut answer = self.http.execute(request).await.map_err(unreachable)?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut bytes = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(unreachable)? {
            if bytes.len() + part.len() > MAX_ANSWER_BYTES {
                let message =
                    format!("the answer of {} is larger than {MAX_ANSWER_BYTES} bytes", self.name());
                return Err(StepError::permanent(message));
            }
            bytes.extend_from_slice(&part);
        }
        Ok(if status.is_success() { Ok(bytes) } else { Err(denial(status.as_u16(), &headers, &bytes)) })
    }

    async fn signed(&self, method: &Method, url: &Url, body: &[u8]) -> Result<reqwest::Request, StepError> {
        let failed = || format!("failed to sign a request to {}", self.name());
        let provide = || async { self.provider.provide_credentials().await };
        let credentials = self.credentials.get_or_try_init(provide).await.map_err(|e| {
            StepError::auth("failed to get AWS credentials")
                .with_source(e)
                .with_hint("check `[source.aws]` in migration.toml")
        })?;
        let identity = credentials.clone().into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(self.service)
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .map_err(|e| StepError::permanent(failed()).with_source(e))?
            .into();
        let form = ("content-type", "application/x-www-form-urlencoded");
        let headers = (method == Method::POST).then_some(form);
        let signable = SignableRequest::new(
            method.as_str(),
            url.as_str(),
            headers.into_iter(),
            SignableBody::Bytes(body),
        );
        let signable = signable.map_err(|e| StepError::permanent(failed()).with_source(e))?;
        let signed = sign(signable, &params).map_err(|e| StepError::permanent(failed()).with_source(e))?;
        let mut request = http::Request::builder().method(method.clone()).uri(url.as_str());
        if let Some((name, value)) = headers {
            request = request.header(name, value);
        }
        let request = request.body(body.to_vec());
        let mut request = request.map_err(|e| StepError::permanent(failed()).with_source(e))?;
        signed.into_parts().0.apply_to_request_http1x(&mut request);
        reqwest::Request::try_from(request).map_err(|e| StepError::permanent(failed()).with_source(e))
    }
}

fn is_busy(denial: &Denial) -> bool {
    denial.status == 429 || denial.code.contains("Throttl") || denial.code == "TooManyRequestsException"
}

/// JSON as EKS says it, XML as IAM does.
fn denial(status: u16, headers: &HeaderMap, body: &[u8]) -> Denial {
    let kind = headers.get("x-amzn-errortype").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let text = String::from_utf8_lossy(body);
    let (code, message) = if text.trim_start().starts_with('<') {
        let part = |name: &str| {
            let rest = text.split_once(&format!("<{name}>"))?.1;
            Some(rest.split_once(&format!("</{name}>"))?.0.to_owned())
        };
        (part("Code").unwrap_or_default(), part("Message").unwrap_or_default())
    } else {
        let said: JsonRefusal = serde_json::from_str(&text).unwrap_or_default();
        let code = [kind, &said.kind, &said.code].into_iter().find(|code| !code.is_empty());
        // `com.amazonaws.eks#NotFound`, `NotFound:http://…`.
        let code = code.unwrap_or_default().rsplit('#').next().unwrap_or_default();
        (code.split(':').next().unwrap_or_default().to_owned(), said.message)
    };
    let short = |text: String| text.chars().filter(|c| !c.is_control()).take(MAX_WORDS_CHARS).collect();
    Denial { status, code: short(code), message: short(message) }
}

#[cfg(test)]
mod tests {
    use migrate_plugin_api::ErrorClass;
    use migrate_plugin_api::testing::RecordingHost;
    use wiremock::matchers::{body_string, header, method, path, query_param};
    use wiremock::{Mock, MockServer, Request, ResponseTemplate};

    use super::*;

    const SECRET: &str = "canary-5e5e";

    async fn api(server: &MockServer) -> (tempfile::TempDir, Api, Api) {
        let folder = tempfile::tempdir().unwrap();
        let file = format!("[default]\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = {SECRET}\n");
        std::fs::write(folder.path().join("credentials"), file).unwrap();
        let ctx = std::sync::Arc::new(RecordingHost::default()).context("api", folder.path());
        let access: AwsAccess = serde_json::from_value(serde_json::json!({ "region": "eu-west-1",
            "credentials-file": "credentials", "eks-endpoint": server.uri(), "iam-endpoint": server.uri() }))
        .unwrap();
        let (eks, iam) = (Api::eks(&ctx, &access).await.unwrap(), Api::iam(&ctx, &access).await.unwrap());
        (folder, eks, iam)
    }

    #[tokio::test]
    async fn requests_are_signed_for_their_service_and_region() {
        let server = MockServer::start().await;
        let segment = "arn:aws:iam::1:role/a b";
        Mock::given(method("GET"))
            .and(path("/clusters/arn:aws:iam::1:role%2Fa%20b"))
            .and(query_param("maxResults", "100"))
            .respond_with(ResponseTemplate::new(200).set_body_string("{}"))
            .mount(&server)
            .await;
        Mock::given(method("POST"))
            .and(path("/"))
            .and(header("content-type", "application/x-www-form-urlencoded"))
            .and(body_string("Action=GetRole&RoleName=a%2Fb"))
            .respond_with(ResponseTemplate::new(200).set_body_string("<ok/>"))
            .mount(&server)
            .await;
        let (_folder, eks, iam) = api(&server).await;
        assert_eq!(eks.get(&["clusters", segment], &[("maxResults", "100")]).await.unwrap().unwrap(), b"{}");
        assert_eq!(iam.form(&[("Action", "GetRole"), ("RoleName", "a/b")]).await.unwrap().unwrap(), b"<ok/>");
        let requests: Vec<Request> = server.received_requests().await.unwrap();
        for (request, scope) in
            requests.iter().zip(["/eu-west-1/eks/aws4_request", "/us-east-1/iam/aws4_request"])
        {
            let signed = request.headers["authorization"].to_str().unwrap();
            assert!(
                signed.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/") && signed.contains(scope),
                "{signed}"
            );
            assert!(request.headers.contains_key("x-amz-date"));
        }
    }

    #[tokio::test]
    async fn refusals_are_told_apart_and_what_is_busy_is_asked_again() {
        let json = |status, kind: &str| {
            ResponseTemplate::new(status)
                .insert_header("x-amzn-ErrorType", format!("{kind}:http://internal.amazon.com/"))
                .set_body_json(serde_json::json!({ "message": "no" }))
        };
        let xml = ResponseTemplate::new(404).set_body_string(
            "<ErrorResponse><Error><Type>Sender</Type><Code>NoSuchEntity</Code><Message>gone</Message></Error></ErrorResponse>",
        );
        for (answer, expected) in [
            (json(403, "AccessDeniedException"), (403, "AccessDeniedException", "no")),
            (json(404, "ResourceNotFoundException"), (404, "ResourceNotFoundException", "no")),
            (xml, (404, "NoSuchEntity", "gone")),
        ] {
            let server = MockServer::start().await;
            Mock::given(method("GET")).respond_with(answer).expect(1).mount(&server).await;
            let (_folder, eks, _) = api(&server).await;
            let denial = eks.get(&["clusters"], &[]).await.unwrap().unwrap_err();
            assert_eq!((denial.status, denial.code.as_str(), denial.message.as_str()), expected);
            assert_eq!(denial.is_missing(), denial.status == 404);
            assert_eq!(denial.into_error("failed to look").class == ErrorClass::Auth, expected.0 == 403);
        }
        let server = MockServer::start().await;
        Mock::given(method("GET"))
            .respond_with(json(429, "TooManyRequestsException"))
            .up_to_n_times(2)
            .mount(&server)
            .await;
        Mock::given(method("GET")).respond_with(ResponseTemplate::new(200)).mount(&server).await;
        let (_folder, eks, _) = api(&server).await;
        assert_eq!(eks.get(&["clusters"], &[]).await.unwrap().unwrap(), b"");
        let server = MockServer::start().await;
        Mock::given(method("GET")).respond_with(ResponseTemplate::new(503)).expect(5).mount(&server).await;
        let (_folder, eks, _) = api(&server).await;
        let error = eks.get(&["clusters"], &[]).await.unwrap_err();
        assert!(error.class.is_retryable() && !format!("{error:?}").contains(SECRET), "{error:?}");
    }
}
