//! `keyvault:VAULT/NAME` and `keyvault:VAULT/NAME/VERSION`: secrets of Azure Key Vault.
//!
//! VAULT is a vault's name, or its address (`https://shop.vault.azure.net`); the identifier that Azure
//! shows for a secret works too. One call of the data plane, as documented at
//! <https://learn.microsoft.com/en-us/rest/api/keyvault/secrets/get-secret/get-secret>. Our token goes
//! to vaults and nowhere else.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::TokenCredential;
use http::StatusCode;
use migrate_plugin_api::{Secret, SecretProvider, StepError};
use serde::Deserialize;
use url::Url;

use crate::azure;

const API_VERSION: &str = "7.4";

/// Clouds that have vaults: what follows a vault's name in its host.
const CLOUDS: [&str; 3] = ["vault.azure.net", "vault.azure.cn", "vault.usgovcloudapi.net"];

/// A vault answers within a second; after this long it won't.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest answer that is read: a secret has at most 25 KB.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// Longest name of a secret, and of a version.
const MAX_NAME_CHARS: usize = 127;

/// Reads secrets of vaults, as whoever we are to Azure.
#[derive(Default)]
pub(crate) struct KeyVault {
    credential: OnceLock<Arc<dyn TokenCredential>>,
    /// Where vaults answer, whatever their names.
    #[cfg(test)]
    at: Option<Url>,
}

/// Where a secret is.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    vault: Url,
    cloud: &'static str,
    name: String,
    version: Option<String>,
}

impl Place {
    /// # Errors
    /// What is wrong with `text`.
    fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "write `keyvault:VAULT/NAME` or `keyvault:VAULT/NAME/VERSION`";
        let (host, path) = match text.strip_prefix("https://") {
            Some(rest) => {
                let (host, path) = rest.split_once('/').ok_or(FORM)?;
                (host.to_ascii_lowercase(), path.strip_prefix("secrets/").unwrap_or(path))
            }
            None => {
                let (name, path) = text.split_once('/').ok_or(FORM)?;
                (format!("{}.{}", name.to_ascii_lowercase(), CLOUDS[0]), path)
            }
        };
        let (vault, cloud) = host.split_once('.').unwrap_or((&host, ""));
        let cloud = CLOUDS.into_iter().find(|known| *known == cloud);
        let cloud = cloud.ok_or_else(|| format!("`{host}` is no vault of {}", CLOUDS.join(", ")))?;
        if !is_name(vault) {
            return Err(format!("`{vault}` is no name of a vault: letters, digits and `-`"));
        }
        let (name, version) = match path.split_once('/') {
            Some((name, version)) => (name, Some(version)),
            None => (path, None),
        };
        if !is_name(name) || !version.is_none_or(is_name) {
            return Err(format!("a secret's name and version are letters, digits and `-`: {FORM}"));
        }
        let vault = Url::parse(&format!("https://{host}")).map_err(|_| FORM)?;
        Ok(Self { vault, cloud, name: name.to_owned(), version: version.map(ToOwned::to_owned) })
    }
}

fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_CHARS).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

#[derive(Deserialize)]
struct Bundle {
    value: String,
}

#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    error: Reason,
}

#[derive(Default, Deserialize)]
struct Reason {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl KeyVault {
    fn endpoint(&self, place: &Place) -> Url {
        #[cfg(test)]
        let base = self.at.clone().unwrap_or_else(|| place.vault.clone());
        #[cfg(not(test))]
        let base = place.vault.clone();
        let mut url = base;
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["secrets", &place.name]).extend(&place.version);
        }
        url.query_pairs_mut().append_pair("api-version", API_VERSION);
        url
    }

    async fn get(&self, place: &Place) -> Result<Secret, StepError> {
        let host = place.vault.host_str().unwrap_or_default();
        let credential = self.credential.get_or_init(azure::credential);
        let scope = format!("https://{}/.default", place.cloud);
        let token = credential
            .get_token(&[&scope], None)
            .await
            .map_err(|error| azure::no_token(format!("no token for {host}"), error))?;
        let http = reqwest::Client::builder()
            // The token goes to the vault and nowhere else.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("migrate/", env!("CARGO_PKG_VERSION")))
            .timeout(ANSWER_TIMEOUT)
            .build()
            .map_err(|e| StepError::permanent("failed to set up the client of Key Vault").with_source(e))?;
        let unreachable = |e: reqwest::Error| {
            StepError::transient(format!("no answer from {host}")).with_source(e.without_url())
        };
        let request = http.get(self.endpoint(place)).bearer_auth(token.token.secret());
        let mut answer = request.send().await.map_err(unreachable)?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(unreachable)? {
            if body.len() + part.len() > MAX_ANSWER_BYTES {
                return Err(StepError::permanent(format!(
                    "the answer of {host} is larger than {MAX_ANSWER_BYTES} bytes"
                )));
            }
            body.extend_from_slice(&part);
        }
        if !status.is_success() {
            return Err(refused(host, status, &headers, &body));
        }
        // The body holds the secret: a parse error must not quote it.
        let bundle: Bundle = serde_json::from_slice(&body)
            .map_err(|_| StepError::permanent(format!("{host} answered with no secret")))?;
        match bundle.value {
            empty if empty.is_empty() => Err(StepError::auth("its value is empty")),
            value => Ok(Secret::new(value)),
        }
    }
}

/// A refusal in the words of the contract.
fn refused(host: &str, status: StatusCode, headers: &http::HeaderMap, body: &[u8]) -> StepError {
    let Reason { code, message } = serde_json::from_slice::<Refusal>(body).unwrap_or_default().error;
    // Some messages have the caller's IDs on lines of their own.
    let words = message.lines().next().unwrap_or_default();
    let said =
        [code.as_str(), words].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
    let message = format!(
        "{host} answered {}{}",
        status.as_u16(),
        if said.is_empty() { said } else { format!(" {said}") }
    );
    match status {
        StatusCode::TOO_MANY_REQUESTS => {
            let seconds = headers.get("retry-after").and_then(|value| value.to_str().ok()?.trim().parse().ok());
            StepError::throttled(message, seconds.map(Duration::from_secs))
        }
        StatusCode::NOT_FOUND => StepError::auth(message).with_hint("is there a secret of this name, and is it enabled?"),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => StepError::auth(message).with_hint(
            "give this identity the role \"Key Vault Secrets User\" on the vault, and let the vault's firewall pass this machine",
        ),
        status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => StepError::transient(message),
        _ => StepError::permanent(message),
    }
}

#[async_trait]
impl SecretProvider for KeyVault {
    fn scheme(&self) -> &'static str {
        "keyvault"
    }

    async fn secret(&self, place: &str) -> Result<Secret, StepError> {
        let place = Place::parse(place).map_err(StepError::auth)?;
        self.get(&place).await
    }
}

#[cfg(test)]
mod tests {
    use azure_core::credentials::{AccessToken, TokenRequestOptions};
    use azure_core::time::{Duration as Span, OffsetDateTime};
    use migrate_plugin_api::ErrorClass;
    use serde_json::json;
    use wiremock::matchers::{header, method, path, query_param};
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;

    const CANARY: &str = "canary-2b7e";
    const TOKEN: &str = "token-of-ours";

    /// Says for whom its token is.
    #[derive(Debug)]
    struct Us;

    #[async_trait]
    impl TokenCredential for Us {
        async fn get_token(
            &self,
            scopes: &[&str],
            _: Option<TokenRequestOptions<'_>>,
        ) -> azure_core::Result<AccessToken> {
            assert_eq!(scopes, ["https://vault.azure.net/.default"]);
            Ok(AccessToken::new(TOKEN, OffsetDateTime::now_utc() + Span::seconds(60)))
        }
    }

    fn vaults(server: &MockServer) -> KeyVault {
        let credential = OnceLock::from(Arc::new(Us) as Arc<dyn TokenCredential>);
        KeyVault { credential, at: Some(Url::parse(&server.uri()).unwrap()) }
    }

    #[test]
    fn a_place_is_a_vault_and_a_secret_and_nothing_else() {
        let vault = |host: &str| Url::parse(&format!("https://{host}")).unwrap();
        for (text, host, cloud, version) in [
            ("Shop/db", "shop.vault.azure.net", CLOUDS[0], None),
            ("shop/db/0a1b", "shop.vault.azure.net", CLOUDS[0], Some("0a1b")),
            ("https://shop.vault.azure.cn/secrets/db/0a1b", "shop.vault.azure.cn", CLOUDS[1], Some("0a1b")),
            ("https://shop.vault.azure.net/db", "shop.vault.azure.net", CLOUDS[0], None),
        ] {
            let version = version.map(ToOwned::to_owned);
            let place = Place { vault: vault(host), cloud, name: "db".to_owned(), version };
            assert_eq!(Place::parse(text), Ok(place), "{text}");
        }
        // Our token is for none of these.
        for text in [
            "shop",
            "shop/",
            "/db",
            "shop/a b",
            "shop/db/1/2",
            "shop/db/",
            "shop.evil.example/db",
            "https://evil.example/db",
            "https://vault.azure.net/db",
            "https://a.b.vault.azure.net/db",
            "https://shop.vault.azure.net.evil.example/db",
            "https://shop.vault.azure.net@evil.example/db",
            "https://shop.vault.azure.net:8443/db",
            "https://shop.vault.azure.net/keys/db/1",
            "http://shop.vault.azure.net/db",
        ] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_secret_is_read_with_our_token() {
        let server = MockServer::start().await;
        Mock::given(method("GET"))
            .and(path("/secrets/db/0a1b"))
            .and(query_param("api-version", API_VERSION))
            .and(header("authorization", format!("Bearer {TOKEN}")))
            .respond_with(ResponseTemplate::new(200).set_body_json(json!({
                "value": CANARY,
                "id": "https://shop.vault.azure.net/secrets/db/0a1b",
                "attributes": { "enabled": true }
            })))
            .mount(&server)
            .await;
        assert_eq!(vaults(&server).secret("shop/db/0a1b").await.unwrap().expose(), CANARY);
    }

    #[tokio::test]
    async fn refusals_have_their_class_and_show_neither_secret_nor_token() {
        let error = |code: &str, message: &str| json!({ "error": { "code": code, "message": message } });
        let answer = |status: u16| ResponseTemplate::new(status);
        let mut said = Vec::new();
        for (answer, class) in [
            (
                answer(403).set_body_json(error("Forbidden", "Caller is not authorized\nCaller: appid=1")),
                ErrorClass::Auth,
            ),
            (
                answer(404).set_body_json(error("SecretNotFound", "not found in this key vault")),
                ErrorClass::Auth,
            ),
            (
                answer(429).insert_header("retry-after", "7"),
                ErrorClass::Throttled { retry_after_ms: Some(7_000) },
            ),
            (answer(503), ErrorClass::Transient { retry_after_ms: None }),
            (answer(302).insert_header("location", "http://127.0.0.1:1/"), ErrorClass::Permanent),
            (answer(200).set_body_string(format!("{{\"value\": \"{CANARY}\", ")), ErrorClass::Permanent),
            (answer(200).set_body_string("x".repeat(MAX_ANSWER_BYTES + 1)), ErrorClass::Permanent),
            (answer(200).set_body_json(json!({ "value": "" })), ErrorClass::Auth),
        ] {
            let server = MockServer::start().await;
            Mock::given(method("GET")).respond_with(answer).mount(&server).await;
            let error = vaults(&server).secret("shop/db").await.unwrap_err();
            assert_eq!(error.class, class, "{error}");
            let shown = format!("{error:?}");
            assert!(!shown.contains(CANARY) && !shown.contains(TOKEN), "{shown}");
            said.push(error.message);
        }
        insta::assert_snapshot!(said.join("\n"), @r"
        shop.vault.azure.net answered 403 Forbidden: Caller is not authorized
        shop.vault.azure.net answered 404 SecretNotFound: not found in this key vault
        shop.vault.azure.net answered 429
        shop.vault.azure.net answered 503
        shop.vault.azure.net answered 302
        shop.vault.azure.net answered with no secret
        the answer of shop.vault.azure.net is larger than 262144 bytes
        its value is empty
        ");
    }
}
