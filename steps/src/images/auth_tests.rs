use azure_core::credentials::{AccessToken, TokenRequestOptions};
use wiremock::matchers::{body_string_contains, header, method, path, path_regex, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::super::registry::Registry;
use super::*;

/// An identity that gives one token for ACR's scope and nothing else.
#[derive(Debug)]
struct Identity;

#[async_trait::async_trait]
impl TokenCredential for Identity {
    async fn get_token(
        &self,
        scopes: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        assert_eq!(scopes, [ACR_ENTRA_SCOPE]);
        let ends = azure_core::time::OffsetDateTime::now_utc() + Duration::from_secs(3600);
        Ok(AccessToken::new("entra-token".to_owned(), ends))
    }
}

/// Knows how the registry wants to be asked.
async fn authenticator(server: &MockServer, credentials: Credentials) -> Authenticator {
    let endpoint = Url::parse(&server.uri()).unwrap();
    let http = reqwest::Client::new();
    let answer = http.get(format!("{}/v2/", server.uri())).send().await.unwrap();
    let auth = Authenticator::new(http, "example.azurecr.io".into(), endpoint, credentials);
    auth.first().await.unwrap().learn(&answer).unwrap();
    assert!(auth.first().await.is_none());
    auth
}

async fn challenge_with(server: &MockServer, realm: &str) {
    let challenge = format!("Bearer realm=\"{realm}/oauth2/token\",service=\"example.azurecr.io\"");
    Mock::given(path("/v2/"))
        .respond_with(ResponseTemplate::new(401).insert_header("www-authenticate", challenge.as_str()))
        .mount(server)
        .await;
}

/// A strict stand-in of ours for ACR's token service: it refuses everything but what
/// <https://github.com/Azure/acr/blob/main/docs/AAD-OAuth.md> describes.
async fn acr(server: &MockServer) {
    challenge_with(server, &server.uri()).await;
    let form = || header("content-type", "application/x-www-form-urlencoded");
    Mock::given(method("POST"))
        .and(path("/oauth2/exchange"))
        .and(form())
        .and(body_string_contains("grant_type=access_token"))
        .and(body_string_contains("service=example.azurecr.io"))
        .and(body_string_contains("access_token=entra-token"))
        .respond_with(
            ResponseTemplate::new(200).set_body_json(serde_json::json!({ "refresh_token": "refresh" })),
        )
        .expect(1)
        .mount(server)
        .await;
    for scope in ["repository%3Aa%3Apull", "repository%3Ab%3Apull%2Cpush"] {
        let token = serde_json::json!({ "access_token": format!("for-{}", &scope[13..14]) });
        Mock::given(method("POST"))
            .and(path("/oauth2/token"))
            .and(form())
            .and(body_string_contains("grant_type=refresh_token"))
            .and(body_string_contains("refresh_token=refresh"))
            .and(body_string_contains(format!("scope={scope}")))
            .respond_with(ResponseTemplate::new(200).set_body_json(token))
            .expect(1)
            .mount(server)
            .await;
    }
}

#[tokio::test]
async fn entra_is_exchanged_once_and_asked_a_token_for_each_scope() {
    let server = MockServer::start().await;
    acr(&server).await;
    let auth = authenticator(&server, Credentials::Entra(Arc::new(Identity))).await;
    for _ in 0..2 {
        let header = auth.header(&Scope::Pull("a".into())).await.unwrap().unwrap();
        assert!(header.is_sensitive());
        assert_eq!(header.to_str().unwrap(), "Bearer for-a");
        let header = auth.header(&Scope::Push("b".into())).await.unwrap().unwrap();
        assert_eq!(header.to_str().unwrap(), "Bearer for-b");
    }
}

#[tokio::test]
async fn an_entra_token_goes_to_nobody_but_the_registry() {
    let server = MockServer::start().await;
    challenge_with(&server, "https://evil.example").await;
    let auth = authenticator(&server, Credentials::Entra(Arc::new(Identity))).await;
    let error = auth.header(&Scope::Ping).await.unwrap_err();
    insta::assert_snapshot!(error, @"registry example.azurecr.io wants its Entra token sent to evil.example, which is not the registry");
}

#[tokio::test]
async fn a_user_gets_a_token_with_the_password() {
    let server = MockServer::start().await;
    challenge_with(&server, &server.uri()).await;
    Mock::given(method("GET"))
        .and(path("/oauth2/token"))
        .and(header("authorization", "Basic dTpw"))
        .and(query_param("service", "example.azurecr.io"))
        .and(query_param("scope", "repository:a:pull,push"))
        .respond_with(ResponseTemplate::new(200).set_body_json(serde_json::json!({ "access_token": "t" })))
        .expect(1)
        .mount(&server)
        .await;
    let credentials = Credentials::Password { username: "u".into(), password: Secret::new("p") };
    let auth = authenticator(&server, credentials).await;
    let header = auth.header(&Scope::Push("a".into())).await.unwrap().unwrap();
    assert_eq!(header.to_str().unwrap(), "Bearer t");
}

#[tokio::test]
async fn a_refused_login_says_so_and_shows_no_secret() {
    let server = MockServer::start().await;
    challenge_with(&server, &server.uri()).await;
    Mock::given(path("/oauth2/token")).respond_with(ResponseTemplate::new(401)).mount(&server).await;
    let credentials = Credentials::Password { username: "u".into(), password: Secret::new("hunter2") };
    let auth = authenticator(&server, credentials).await;
    let error = auth.header(&Scope::Ping).await.unwrap_err();
    assert_eq!(error.class, migrate_plugin_api::ErrorClass::Auth);
    assert!(!format!("{error:?}").contains("hunter2"));
}

#[test]
fn challenges_as_registries_write_them() {
    let read = |values: &[&str]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(value).unwrap());
        }
        challenge(&headers)
    };
    let bearer = |realm: &str, service: Option<&str>| {
        Some(Challenge::Bearer { realm: Url::parse(realm).unwrap(), service: service.map(str::to_owned) })
    };
    let acr =
        r#"Bearer realm="https://e.azurecr.io/oauth2/token",service="e.azurecr.io",scope="a:b:pull,push""#;
    assert_eq!(read(&[acr]), bearer("https://e.azurecr.io/oauth2/token", Some("e.azurecr.io")));
    assert_eq!(
        read(&["Basic realm=\"e\"", acr]),
        bearer("https://e.azurecr.io/oauth2/token", Some("e.azurecr.io"))
    );
    assert_eq!(read(&["bearer realm=https://x.example/t"]), bearer("https://x.example/t", None));
    assert_eq!(read(&[r#"Basic realm="https://ecr",service="ecr.amazonaws.com""#]), Some(Challenge::Basic));
    assert_eq!(read(&["Negotiate"]), None);
    assert_eq!(read(&[]), None);
}

/// On a 307 a client repeats what it has posted.
#[tokio::test]
async fn no_token_follows_a_redirect() {
    let (server, elsewhere) = tokio::join!(MockServer::start(), MockServer::start());
    challenge_with(&server, &server.uri()).await;
    Mock::given(path_regex("^/oauth2/"))
        .respond_with(
            ResponseTemplate::new(307)
                .insert_header("location", format!("{}/taken", elsewhere.uri()).as_str()),
        )
        .mount(&server)
        .await;
    let endpoint = Url::parse(&server.uri()).unwrap();
    let logins = [
        Credentials::Entra(Arc::new(Identity)),
        Credentials::Password { username: "u".into(), password: Secret::new("p") },
    ];
    for login in logins {
        let limits = super::super::stand::limits();
        let registry = Registry::new("example.azurecr.io", Some(&endpoint), login, limits).unwrap();
        let error = registry.ping().await.unwrap_err();
        assert!(error.message.ends_with(": 307"), "{error}");
    }
    assert!(elsewhere.received_requests().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_login_never_leaves_tls() {
    let challenge = "Bearer realm=\"http://example.azurecr.io/oauth2/token\",service=\"example.azurecr.io\"";
    let logins = [
        Credentials::Entra(Arc::new(Identity)),
        Credentials::Password { username: "u".into(), password: Secret::new("p") },
    ];
    for login in logins {
        let endpoint = Url::parse("https://example.azurecr.io").unwrap();
        let auth = Authenticator::new(reqwest::Client::new(), "example.azurecr.io".into(), endpoint, login);
        let answer =
            http::Response::builder().status(401).header(WWW_AUTHENTICATE, challenge).body("").unwrap();
        auth.first().await.unwrap().learn(&answer.into()).unwrap();
        let error = auth.header(&Scope::Ping).await.unwrap_err();
        insta::allow_duplicates! {
            insta::assert_snapshot!(error, @"registry example.azurecr.io wants its login sent to example.azurecr.io without TLS");
        }
    }
}
