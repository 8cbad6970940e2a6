//! Requests to Azure Resource Manager: who we are there, what is sent again, and what a refusal is.
//!
//! Long operations as in
//! <https://learn.microsoft.com/en-us/azure/azure-resource-manager/management/async-operations>.

use std::time::Duration;

use http::StatusCode;
use migrate_plugin_api::{StepContext, StepError};
use serde_json::Value;
use url::Url;

use crate::images::errors;
use crate::site::AzureAccess;
use crate::tls::{self, Speaks};
use crate::tokens::Tokens;

/// Public Azure.
const ARM: &str = "https://management.azure.com";

/// Tries of one request.
const MAX_TRIES: u32 = 5;

/// Pages of one list that are read: a resource group has room for 800 resources of a kind.
const MAX_PAGES: usize = 100;

/// Why Azure did not do it.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It does not know us: a person has to log in.
    Login(StepError),
    /// It can't, it won't, or it hangs.
    Refused(StepError),
}

impl From<StepError> for Failure {
    fn from(error: StepError) -> Self {
        Self::Refused(error)
    }
}

impl From<Failure> for StepError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Login(error) | Failure::Refused(error) => error,
        }
    }
}

/// One Resource Manager, asked as one identity.
pub(crate) struct Manager {
    /// To build requests with.
    pub http: reqwest::Client,
    /// Where it is.
    pub endpoint: Url,
    tokens: Tokens,
    pause: Duration,
}

impl Manager {
    /// Sends nothing yet. `pause` is between two tries, where the service doesn't say.
    ///
    /// # Errors
    /// When the site's access is no access.
    pub(crate) async fn new(
        ctx: &StepContext,
        access: &AzureAccess,
        pause: Duration,
    ) -> Result<Self, StepError> {
        let endpoint = match &access.arm_endpoint {
            Some(endpoint) => endpoint.clone(),
            None => Url::parse(ARM).map_err(|e| StepError::permanent("no ARM endpoint").with_source(e))?,
        };
        let tokens = Tokens::for_resources(ctx, access, format!("{endpoint}.default")).await?;
        let http = tls::client(Speaks::Http2)
            // The token goes to Resource Manager and nowhere else.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("migrate/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| StepError::permanent("failed to set up the Azure client").with_source(e))?;
        Ok(Self { http, endpoint, tokens, pause })
    }

    /// The address of a resource, in a version of its provider.
    ///
    /// # Errors
    /// `Permanent` when `path` is none.
    pub(crate) fn url(&self, path: &str, api_version: &str) -> Result<Url, StepError> {
        let mut url = self
            .endpoint
            .join(path)
            .map_err(|e| StepError::permanent(format!("`{path}` is no Azure resource")).with_source(e))?;
        url.query_pairs_mut().append_pair("api-version", api_version);
        Ok(url)
    }

    /// Sends a request that may be sent again, until there is an answer that is neither "busy" nor "broken".
    ///
    /// # Errors
    /// `what` completes "failed to …".
    pub(crate) async fn send(
        &self,
        what: &str,
        build: impl Fn() -> reqwest::RequestBuilder + Send + Sync,
    ) -> Result<reqwest::Response, Failure> {
        let (mut tries, mut is_renewed) = (1, false);
        loop {
            let token = self.tokens.get().await.map_err(Failure::Login)?;
            let request = build().bearer_auth(token.expose()).timeout(errors::ANSWER_TIMEOUT);
            let (error, pause) = match request.send().await {
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED => {
                    if !is_renewed && self.tokens.forget(&token).await {
                        is_renewed = true;
                        continue;
                    }
                    let error = errors::status(format!("failed to {what}"), response).await;
                    return Err(Failure::Login(error));
                }
                Ok(response) if response.status().is_server_error() || response.status() == 429 => {
                    let pause = errors::retry_after(response.headers()).unwrap_or(self.pause);
                    (errors::status(format!("failed to {what}"), response).await, pause)
                }
                Ok(response) => return Ok(response),
                Err(e) => (errors::network(format!("failed to {what}"), e), self.pause),
            };
            if tries >= MAX_TRIES || !error.class.is_retryable() {
                return Err(error.into());
            }
            tries += 1;
            tokio::time::sleep(pause).await;
        }
    }

    /// All of a list; nothing where what it is of is not there.
    ///
    /// # Errors
    /// `what` completes "failed to …".
    pub(crate) async fn list(
        &self,
        path: &str,
        api_version: &str,
        what: &str,
    ) -> Result<Vec<Value>, Failure> {
        let mut url = self.url(path, api_version)?;
        let mut all = Vec::new();
        for _ in 0..MAX_PAGES {
            let response = self.send(what, || self.http.get(url.clone())).await?;
            if response.status() == StatusCode::NOT_FOUND {
                return Ok(all);
            }
            let mut page = json_of(what, response).await?;
            if let Some(Value::Array(items)) = page.get_mut("value").map(Value::take) {
                all.extend(items);
            }
            let Some(next) = page["nextLink"].as_str().filter(|next| !next.is_empty()) else {
                return Ok(all);
            };
            let next = Url::parse(next).map_err(|e| {
                StepError::permanent(format!("failed to {what}: there is no next page")).with_source(e)
            })?;
            // Whatever host it names: the token goes to Resource Manager.
            url.set_path(next.path());
            url.set_query(next.query());
        }
        Err(StepError::permanent(format!("failed to {what}: it has no end")).into())
    }
}

/// What was answered.
///
/// # Errors
/// When it refuses, or is no JSON. `what` completes "failed to …".
pub(crate) async fn json_of(what: &str, response: reqwest::Response) -> Result<Value, StepError> {
    if !response.status().is_success() {
        return Err(errors::status(format!("failed to {what}"), response).await);
    }
    response
        .json()
        .await
        .map_err(|e| errors::network(format!("failed to {what}: no answer that can be read"), e))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use migrate_plugin_api::ErrorClass;
    use wiremock::matchers::header;
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;
    use crate::tokens::testing::Numbers;

    /// Takes one token only.
    async fn manager(token: &str) -> (MockServer, Manager) {
        let server = MockServer::start().await;
        let bearer = format!("Bearer {token}");
        Mock::given(header("authorization", bearer))
            .respond_with(ResponseTemplate::new(200))
            .mount(&server)
            .await;
        Mock::given(wiremock::matchers::any()).respond_with(ResponseTemplate::new(401)).mount(&server).await;
        let identity = Arc::new(Numbers { lasts: 3_600.into(), ..Numbers::default() });
        let manager = Manager {
            http: reqwest::Client::new(),
            endpoint: Url::parse(&server.uri()).unwrap(),
            tokens: Tokens::of(identity, "s/.default".to_owned(), "Azure Resource Manager"),
            pause: Duration::from_millis(1),
        };
        (server, manager)
    }

    #[tokio::test]
    async fn a_refused_token_is_renewed_once() {
        let (_server, manager) = self::manager("token-2").await;
        let answer = manager.send("look", || manager.http.get(manager.endpoint.clone())).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let (server, manager) = self::manager("none of ours").await;
        let refused = manager.send("look", || manager.http.get(manager.endpoint.clone())).await;
        assert_eq!(StepError::from(refused.unwrap_err()).class, ErrorClass::Auth);
        assert_eq!(server.received_requests().await.unwrap().len(), 2);
    }
}
