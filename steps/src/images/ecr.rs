//! ECR's password: `GetAuthorizationToken`, renewed before its 12 hours end.
//!
//! Invariant: of an answer against us only AWS's code and words are kept. The SDK's own text may quote
//! the answer, which holds the password.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use aws_sdk_ecr::error::{ProvideErrorMetadata, SdkError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use migrate_plugin_api::{Secret, StepContext, StepError};
use regex::Regex;
use tokio::sync::Mutex;

use crate::site::AwsAccess;

/// Tokens live 12 hours; renewed well before, so that a long blob never meets the end.
const RENEW_AFTER: Duration = Duration::from_secs(10 * 60 * 60);

/// Where the service says when the token ends, it is renewed so long before.
const MARGIN: Duration = Duration::from_secs(30 * 60);

/// A private registry, in every partition of AWS: as `ecrPattern` of
/// <https://github.com/awslabs/amazon-ecr-credential-helper> has it.
static REGISTRY: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"^[0-9]{12}\.dkr[.-]ecr(?:-fips)?\.[a-z0-9][a-z0-9_-]*\.(?:amazonaws\.(?:com(?:\.cn)?|eu)|on\.(?:aws|amazonwebservices\.com\.cn)|sc2s\.sgov\.gov|c2s\.ic\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)$",
    )
    .expect("a constant")
});

struct Login {
    user: String,
    password: Secret,
    renew_at: Instant,
}

/// Whether `host` is a registry that ECR's password is made for. A stand-in for the API makes
/// passwords for a stand-in of the registry, wherever that is; it is known by an endpoint without TLS,
/// which AWS has nowhere.
pub(crate) fn is_registry(host: &str, access: &AwsAccess) -> bool {
    REGISTRY.is_match(host) || access.ecr_endpoint.as_ref().is_some_and(|url| url.scheme() == "http")
}

/// The account whose registry `host` is, where it is one of ECR's: not always that of whoever asks.
pub(crate) fn account(host: &str) -> Option<&str> {
    REGISTRY.is_match(host).then(|| host.split_once('.')).flatten().map(|(account, _)| account)
}

/// ECR's API. Sends nothing yet.
pub(crate) async fn client(ctx: &StepContext, access: &AwsAccess) -> aws_sdk_ecr::Client {
    let shared = crate::aws::config(ctx, access).await;
    let mut config = aws_sdk_ecr::config::Builder::from(&shared);
    if let Some(endpoint) = &access.ecr_endpoint {
        config = config.endpoint_url(endpoint.as_str());
    }
    aws_sdk_ecr::Client::from_conf(config.build())
}

/// What ECR answered against us.
pub(crate) fn error<E, R>(message: String, error: &SdkError<E, R>) -> StepError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug,
{
    let (code, said) = match error {
        SdkError::ServiceError(failure) => {
            let words = [failure.err().code(), failure.err().message()];
            let words: Vec<&str> = words.into_iter().flatten().filter(|word| !word.is_empty()).collect();
            (failure.err().code().unwrap_or_default(), words.join(": "))
        }
        SdkError::ResponseError(_) => ("", String::new()),
        // Nothing was answered: there is nothing to quote.
        _ => ("", causes(error)),
    };
    let error = match error {
        SdkError::TimeoutError(_) | SdkError::ResponseError(_) => StepError::transient(message),
        SdkError::DispatchFailure(failure) if failure.is_io() || failure.is_timeout() => {
            StepError::transient(message)
        }
        SdkError::ServiceError(_) if code.contains("Throttl") => StepError::throttled(message, None),
        SdkError::ServiceError(_) if code == "ServerException" => StepError::transient(message),
        SdkError::ServiceError(_) if code.is_empty() => {
            return StepError::transient(format!("{message}: the answer can't be read"))
                .with_hint("check `ecr-endpoint` in `[source.aws]`, and what is between here and ECR");
        }
        _ => StepError::auth(message).with_hint(
            "check `[source.aws]` in migration.toml; it needs ecr:GetAuthorizationToken, and \
             ecr:DescribeRepositories and ecr:DescribeImages to find images",
        ),
    };
    if said.is_empty() { error } else { error.with_source(said) }
}

/// What is below `error`, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let below = std::iter::successors(error.source(), |cause| cause.source());
    below.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Logs in to ECR with AWS credentials.
pub(crate) struct EcrLogin {
    client: aws_sdk_ecr::Client,
    region: String,
    login: Mutex<Option<Login>>,
}

impl EcrLogin {
    /// Sends nothing yet.
    pub(crate) async fn new(ctx: &StepContext, access: &AwsAccess) -> Self {
        let client = client(ctx, access).await;
        Self { client, region: access.region.clone(), login: Mutex::new(None) }
    }

    /// User name and password, no older than they may be.
    pub(crate) async fn password(&self) -> Result<(String, Secret), StepError> {
        let mut login = self.login.lock().await;
        match &*login {
            Some(login) if login.renew_at > Instant::now() => {
                Ok((login.user.clone(), login.password.clone()))
            }
            _ => {
                let fresh = self.fetch().await?;
                let answer = (fresh.user.clone(), fresh.password.clone());
                *login = Some(fresh);
                Ok(answer)
            }
        }
    }

    /// The next [`password`](Self::password) asks the service.
    pub(crate) async fn forget(&self) {
        *self.login.lock().await = None;
    }

    async fn fetch(&self) -> Result<Login, StepError> {
        let what = || format!("failed to get an ECR authorization token in {}", self.region);
        let answer = self.client.get_authorization_token().send().await.map_err(|e| error(what(), &e))?;
        let unreadable = || StepError::auth("ECR gave no authorization token that can be read");
        let data = answer.authorization_data().first().ok_or_else(unreadable)?;
        let token = data.authorization_token().ok_or_else(unreadable)?;
        let token = BASE64.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let token = token.ok_or_else(unreadable)?;
        let (user, password) = token.split_once(':').ok_or_else(unreadable)?;
        let ends = data.expires_at().and_then(|at| SystemTime::try_from(*at).ok());
        Ok(Login {
            user: user.to_owned(),
            password: Secret::new(password),
            renew_at: Instant::now() + renew_after(ends, SystemTime::now()),
        })
    }
}

/// A time in the past is no reason to renew at every request: stand-ins and skewed clocks give
/// them, and a token that has really ended is answered with 401.
fn renew_after(ends: Option<SystemTime>, now: SystemTime) -> Duration {
    match ends.and_then(|ends| ends.duration_since(now).ok()) {
        Some(left) if left > MARGIN => (left - MARGIN).min(RENEW_AFTER),
        _ => RENEW_AFTER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_past_expiry_is_not_believed() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let hour = Duration::from_secs(3600);
        assert_eq!(renew_after(Some(now - 10 * 365 * 24 * hour), now), RENEW_AFTER);
        assert_eq!(renew_after(None, now), RENEW_AFTER);
        assert_eq!(renew_after(Some(now + hour), now), hour - MARGIN);
        assert_eq!(renew_after(Some(now + 12 * hour), now), RENEW_AFTER);
    }

    /// A login at what answers at `endpoint` in place of ECR.
    async fn login(endpoint: &str, folder: &std::path::Path) -> EcrLogin {
        let file = "[default]\naws_access_key_id = a\naws_secret_access_key = b\n";
        std::fs::write(folder.join("credentials"), file).unwrap();
        let ctx = super::super::stand::host().context("pull", folder);
        let access = serde_json::json!({
            "region": "us-east-1", "credentials-file": "credentials", "ecr-endpoint": endpoint });
        EcrLogin::new(&ctx, &serde_json::from_value(access).unwrap()).await
    }

    #[tokio::test]
    async fn an_answer_that_cant_be_read_is_not_quoted() {
        use wiremock::matchers::method;
        use wiremock::{Mock, MockServer, ResponseTemplate};

        let server = MockServer::start().await;
        let canary = BASE64.encode("AWS:canary");
        let answer =
            serde_json::json!({ "authorizationData": [{ "authorizationToken": canary, "expiresAt": "x" }] });
        Mock::given(method("POST"))
            .respond_with(ResponseTemplate::new(200).set_body_json(answer))
            .mount(&server)
            .await;
        let folder = tempfile::tempdir().unwrap();
        let error = login(&server.uri(), folder.path()).await.password().await.unwrap_err();
        let shown = format!("{error:?} {:?}", error.to_record());
        assert!(!shown.contains(&canary) && !shown.contains("authorizationToken"), "{shown}");
        insta::assert_snapshot!(error, @"failed to get an ECR authorization token in us-east-1: the answer can't be read");
    }

    #[tokio::test]
    async fn what_ecr_says_against_us_is_told_by_its_code_and_words() {
        use wiremock::matchers::method;
        use wiremock::{Mock, MockServer, ResponseTemplate};

        let server = MockServer::start().await;
        let answer =
            serde_json::json!({ "__type": "AccessDeniedException", "message": "User is not authorized" });
        Mock::given(method("POST"))
            .respond_with(ResponseTemplate::new(400).set_body_json(answer))
            .mount(&server)
            .await;
        let folder = tempfile::tempdir().unwrap();
        let error = login(&server.uri(), folder.path()).await.password().await.unwrap_err();
        assert_eq!(error.class, migrate_plugin_api::ErrorClass::Auth);
        assert_eq!(error.to_record().causes, ["AccessDeniedException: User is not authorized"]);

        type Asked = aws_sdk_ecr::operation::get_authorization_token::GetAuthorizationTokenError;
        let unsent = SdkError::<Asked, ()>::construction_failure("no credentials");
        assert_eq!(super::error("failed".to_owned(), &unsent).to_record().causes, ["no credentials"]);
    }

    #[tokio::test]
    async fn the_password_is_asked_for_once_even_if_it_seems_to_have_ended() {
        use wiremock::matchers::{header, method};
        use wiremock::{Mock, MockServer, ResponseTemplate};

        let server = MockServer::start().await;
        let answer = serde_json::json!({ "authorizationData": [{
            "authorizationToken": BASE64.encode("AWS:secret:part"),
            "expiresAt": 1_428_000_000, "proxyEndpoint": "https://123456789012.dkr.ecr.us-east-1.amazonaws.com"
        }] });
        Mock::given(method("POST"))
            .and(header("x-amz-target", "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"))
            .respond_with(ResponseTemplate::new(200).set_body_json(answer))
            .expect(2)
            .mount(&server)
            .await;
        let folder = tempfile::tempdir().unwrap();
        let file = "[default]\naws_access_key_id = a\naws_secret_access_key = b\n";
        std::fs::write(folder.path().join("credentials"), file).unwrap();
        let ctx = super::super::stand::host().context("pull", folder.path());
        let access = AwsAccess {
            region: "us-east-1".into(),
            profile: None,
            credentials_file: Some("credentials".into()),
            ecr_endpoint: Some(server.uri().parse().unwrap()),
            secrets_manager_endpoint: None,
            eks_endpoint: None,
            iam_endpoint: None,
        };
        let login = EcrLogin::new(&ctx, &access).await;
        for _ in 0..3 {
            let (user, password) = login.password().await.unwrap();
            assert_eq!((user.as_str(), password.expose()), ("AWS", "secret:part"));
        }
        login.forget().await;
        login.password().await.unwrap();
    }
}
