//! An application's login against a recorded Entra. What Entra refuses, the sandbox's stand-in
//! refuses too (`tests/sandbox_import.rs`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use migrate_plugin_api::ErrorClass;
use migrate_plugin_api::testing::RecordingHost;
use serde_json::{Value, json};
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::*;
use crate::tokens::Tokens;

async fn entra(answer: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .and(path("/my-tenant/oauth2/v2.0/token"))
        .respond_with(answer)
        .mount(&server)
        .await;
    server
}

async fn login(authority: &str) -> Result<AccessToken, StepError> {
    let host = Arc::new(RecordingHost::default());
    host.put_secret("env:SECRET", "S3CRET");
    let principal = json!({ "tenant": "my-tenant", "client-id": "my-app", "client-secret": "env:SECRET",
                            "authority": authority });
    let principal: ServicePrincipal = serde_json::from_value(principal).unwrap();
    let project = tempfile::tempdir().unwrap();
    let application = application(&host.context("login", project.path()), &principal).await?;
    assert!(!format!("{application:?}").contains("S3CRET"));
    let token = application.get_token(&["https://management.azure.com/.default"], None).await;
    token.map_err(|e| no_token("failed to get an Entra token", e))
}

/// All that a person may get to see of an error.
fn shown(error: &StepError) -> String {
    let record = error.to_record();
    let text = format!("{:?}: {}: {}", record.class, record.message, record.causes.join(": "));
    assert!(!format!("{error:?}{text}").contains("S3CRET"), "it shows the secret");
    text
}

#[tokio::test]
async fn an_application_logs_in_by_its_secret() {
    let granted = json!({ "token_type": "Bearer", "expires_in": 3599, "access_token": "T0KEN" });
    let server = entra(ResponseTemplate::new(200).set_body_json(granted)).await;
    // With and without a slash at its end.
    for authority in [server.uri(), format!("{}/", server.uri())] {
        let token = login(&authority).await.unwrap();
        assert_eq!(token.token.secret(), "T0KEN");
        let left = token.expires_on - OffsetDateTime::now_utc();
        assert!(left > Span::minutes(50) && left <= Span::seconds(3599), "{left}");
    }
    let requests: Vec<Request> = server.received_requests().await.unwrap();
    let form: BTreeMap<String, String> =
        url::form_urlencoded::parse(&requests[0].body).into_owned().collect();
    let expected = [
        ("client_id", "my-app"),
        ("client_secret", "S3CRET"),
        ("grant_type", "client_credentials"),
        ("scope", "https://management.azure.com/.default"),
    ];
    assert_eq!(form, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    assert_eq!(requests[0].url.query(), None, "a secret in an address ends up in logs");
}

#[tokio::test]
async fn what_entra_refuses_is_for_a_person_and_its_trouble_passes() {
    let denied = json!({ "error": "invalid_client", "error_description":
        "AADSTS7000215: Invalid client secret provided.\r\nTrace ID: 1\r\nCorrelation ID: 2" });
    let server = entra(ResponseTemplate::new(401).set_body_json(denied)).await;
    let error = login(&server.uri()).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Auth);
    insta::assert_snapshot!(shown(&error), @"Auth: failed to get an Entra token: Entra answered 401: invalid_client AADSTS7000215: Invalid client secret provided.");

    let server = entra(ResponseTemplate::new(503)).await;
    let error = login(&server.uri()).await.unwrap_err();
    assert!(error.class.is_retryable(), "{error:?}");
    insta::assert_snapshot!(shown(&error), @"Transient { retry_after_ms: None }: failed to get an Entra token: Entra answered 503");

    let server = entra(ResponseTemplate::new(200).set_body_json(Value::Null)).await;
    assert_eq!(login(&server.uri()).await.unwrap_err().class, ErrorClass::Auth);

    // Nothing listens on the discard port.
    let error = login("http://127.0.0.1:9").await.unwrap_err();
    assert!(error.class.is_retryable(), "{error:?}");
    assert!(shown(&error).contains("failed to get an Entra token: no answer from 127.0.0.1: "), "{error:?}");
}

/// An identity that only fails.
#[derive(Debug)]
struct Fails(fn() -> azure_core::Error);

#[async_trait]
impl TokenCredential for Fails {
    async fn get_token(
        &self,
        _: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        Err((self.0)())
    }
}

#[derive(Debug)]
struct Gives;

#[async_trait]
impl TokenCredential for Gives {
    async fn get_token(
        &self,
        _: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        Ok(AccessToken::new("T0KEN", OffsetDateTime::now_utc() + Span::hours(1)))
    }
}

fn credential_error(message: &'static str) -> azure_core::Error {
    azure_core::Error::with_message(ErrorKind::Credential, message)
}

fn answered(status: u16) -> azure_core::Error {
    let kind = ErrorKind::HttpResponse { status: status.into(), error_code: None, raw_response: None };
    let cause = azure_core::Error::new(kind, "AADSTS");
    azure_core::Error::with_error(ErrorKind::Credential, cause, "authentication failed")
}

/// What a chain of these says first, and how it ends.
async fn chained(sources: fn() -> Vec<Source>) -> Result<AccessToken, StepError> {
    let chain = Chain::of(sources);
    chain.get_token(&["s/.default"], None).await.map_err(|e| no_token("failed to get an Entra token", e))
}

#[tokio::test]
async fn an_entra_that_is_away_is_no_reason_to_log_in_or_to_be_somebody_else() {
    let cut_off = "ERROR: HTTPSConnectionPool(host='login.microsoftonline.com', port=443): Max retries exceeded with url: /";
    for error in [crate::tokens::testing::away(), answered(503), answered(429), credential_error(cut_off)] {
        let error = no_token("failed", error);
        assert!(error.class.is_retryable() && error.hint.is_none(), "{error:?}");
    }
    // A proxy that reads along, whose certificate the Azure CLI doesn't trust.
    let kept_out = "HTTPSConnectionPool(host='login.microsoftonline.com', port=443): Max retries exceeded with url: / \
                    (Caused by SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]')))";
    let login = credential_error("Please run 'az login' to setup account.");
    for error in [answered(400), answered(401), credential_error(kept_out), login] {
        let error = no_token("failed", error);
        assert_eq!(error.class, ErrorClass::Auth);
        assert!(error.hint.is_some());
    }
    // The managed identity of the machine has other rights than the pod's.
    let error = chained(|| {
        vec![
            Source { identity: Arc::new(Fails(crate::tokens::testing::away)), is_set_up: true },
            Source { identity: Arc::new(Gives), is_set_up: false },
        ]
    });
    assert!(error.await.unwrap_err().class.is_retryable());
    // Nobody is logged in, and where there is no managed identity its address is silent.
    let error = chained(|| {
        vec![
            Source {
                identity: Arc::new(Fails(|| credential_error("Please run 'az login'"))),
                is_set_up: true,
            },
            Source { identity: Arc::new(Fails(crate::tokens::testing::away)), is_set_up: false },
        ]
    });
    assert_eq!(error.await.unwrap_err().class, ErrorClass::Auth);
    // One that is there and busy is waited for.
    let error = chained(|| {
        vec![
            Source {
                identity: Arc::new(Fails(|| credential_error("Please run 'az login'"))),
                is_set_up: true,
            },
            Source { identity: Arc::new(Fails(|| answered(503))), is_set_up: false },
        ]
    });
    assert!(error.await.unwrap_err().class.is_retryable());
    let given = chained(|| {
        vec![
            Source {
                identity: Arc::new(Fails(|| credential_error("Please run 'az login'"))),
                is_set_up: true,
            },
            Source { identity: Arc::new(Gives), is_set_up: false },
        ]
    });
    assert_eq!(given.await.unwrap().token.secret(), "T0KEN");
}

/// As those of `azure_identity` do.
#[derive(Debug, Default)]
struct Keeps(OnceCell<u32>);

#[async_trait]
impl TokenCredential for Keeps {
    async fn get_token(
        &self,
        _: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        static GIVEN: AtomicU32 = AtomicU32::new(0);
        let number = self.0.get_or_init(async || GIVEN.fetch_add(1, Ordering::Relaxed) + 1).await;
        Ok(AccessToken::new(format!("token-{number}"), OffsetDateTime::now_utc() + Span::hours(1)))
    }
}

#[tokio::test]
async fn a_token_that_was_refused_is_not_given_again_by_who_keeps_it() {
    let sources = || {
        let login = Fails(|| credential_error("Please run 'az login'"));
        vec![
            Source { identity: Arc::new(login), is_set_up: true },
            Source { identity: Arc::new(Keeps::default()), is_set_up: false },
        ]
    };
    let tokens = Tokens::of(Arc::new(Chain::of(sources)), "s/.default".to_owned(), "a service");
    let first = tokens.get().await.unwrap();
    assert_eq!(tokens.get().await.unwrap().expose(), first.expose());
    assert!(tokens.forget(&first).await);
    let second = tokens.get().await.unwrap();
    assert_eq!((first.expose(), second.expose()), ("token-1", "token-2"));
    // Only for that.
    assert_eq!(tokens.get().await.unwrap().expose(), "token-2");
}
