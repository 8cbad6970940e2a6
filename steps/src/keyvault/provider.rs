//! `keyvault:VAULT/NAME` and `keyvault:VAULT/NAME/VERSION`: secrets of Azure Key Vault.
//!
//! VAULT is a vault's name, or its address (`https://shop.vault.azure.net`); the identifier that Azure
//! shows for a secret works too.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use azure_core::credentials::TokenCredential;
use migrate_plugin_api::{Secret, SecretProvider, StepError};
#[cfg(test)]
use url::Url;

use super::client::Vault;
use super::place::Place;
use crate::azure;
use crate::tokens::Tokens;

/// Reads secrets of vaults, as whoever we are to Azure.
#[derive(Default)]
pub(crate) struct KeyVault {
    credential: OnceLock<Arc<dyn TokenCredential>>,
    /// Where vaults answer, whatever their names.
    #[cfg(test)]
    at: Option<Url>,
}

impl KeyVault {
    async fn get(&self, place: &Place) -> Result<Secret, StepError> {
        let credential = Arc::clone(self.credential.get_or_init(azure::credential));
        let scope = format!("https://{}/.default", place.vault.cloud);
        let tokens = Tokens::of(credential, scope, place.vault.host());
        #[cfg(test)]
        let endpoint = self.at.as_ref();
        #[cfg(not(test))]
        let endpoint = None;
        let vault = Vault::new(&place.vault, endpoint, tokens)?;
        match vault.get(&place.name, place.version.as_deref()).await?.value {
            empty if empty.expose().is_empty() => Err(StepError::auth("its value is empty")),
            value => Ok(value),
        }
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
    use azure_core::time::Duration as Span;
    use migrate_plugin_api::ErrorClass;
    use serde_json::json;
    use wiremock::matchers::{header, method, path, query_param};
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::super::client::{API_VERSION, MAX_ANSWER_BYTES};
    use super::*;
    use crate::tokens::testing::{TOKEN, Us};

    const CANARY: &str = "canary-2b7e";

    fn vaults(server: &MockServer) -> KeyVault {
        let credential = OnceLock::from(Arc::new(Us(Span::seconds(60))) as Arc<dyn TokenCredential>);
        KeyVault { credential, at: Some(Url::parse(&server.uri()).unwrap()) }
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
    async fn a_refused_token_is_renewed_once() {
        let refused = || Mock::given(method("GET")).respond_with(ResponseTemplate::new(401)).with_priority(1);
        let server = MockServer::start().await;
        refused().up_to_n_times(1).mount(&server).await;
        let given = ResponseTemplate::new(200).set_body_json(json!({ "value": CANARY }));
        Mock::given(method("GET")).respond_with(given).mount(&server).await;
        assert_eq!(vaults(&server).secret("shop/db").await.unwrap().expose(), CANARY);

        let server = MockServer::start().await;
        refused().mount(&server).await;
        assert_eq!(vaults(&server).secret("shop/db").await.unwrap_err().class, ErrorClass::Auth);
        assert_eq!(server.received_requests().await.unwrap().len(), 2);
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
