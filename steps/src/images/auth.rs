//! Who we are to a registry: the challenge (`WWW-Authenticate`), tokens for a scope, ECR and Entra.
//!
//! Owns every credential of one registry. Header values are marked sensitive; nothing here logs
//! or formats one. A credential goes to the registry itself or to the token service that it
//! names, never to where a redirect points.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use azure_core::credentials::TokenCredential;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderValue;
use http::header::{AUTHORIZATION, HeaderMap, WWW_AUTHENTICATE};
use migrate_plugin_api::{Secret, StepError};
use serde::Deserialize;
use tokio::sync::{Mutex, MutexGuard};
use url::Url;

use super::ecr::EcrLogin;
use super::errors;
use crate::azure::no_token;

/// A token without `expires_in` lives 60 s (distribution's token specification).
const DEFAULT_TOKEN_LIFE: Duration = Duration::from_secs(60);

/// A token is renewed so long before its end, so that none expires on the way.
const TOKEN_MARGIN: Duration = Duration::from_secs(15);

/// ACR refresh tokens live three hours; renewed well before.
const ACR_REFRESH_LIFE: Duration = Duration::from_secs(60 * 60);

/// What Entra tokens for ACR's data plane are made for. Works where the registry refuses ARM's.
const ACR_ENTRA_SCOPE: &str = "https://containerregistry.azure.net/.default";

/// What a request wants to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    /// Only that the registry answers.
    Ping,
    /// Read a repository.
    Pull(String),
    /// Read and write a repository.
    Push(String),
    /// Write the first, with blobs that the second has.
    Mount(String, String),
}

impl Scope {
    /// One repository a token, at most two: tokens of many scopes outgrow ACR's header limit
    /// (regclient #797).
    fn values(&self) -> Vec<String> {
        match self {
            Self::Ping => Vec::new(),
            Self::Pull(repository) => vec![format!("repository:{repository}:pull")],
            Self::Push(repository) => vec![format!("repository:{repository}:pull,push")],
            Self::Mount(to, from) => {
                vec![format!("repository:{to}:pull,push"), format!("repository:{from}:pull")]
            }
        }
    }
}

/// How to log in.
pub(crate) enum Credentials {
    /// Not at all.
    Anonymous,
    /// User name and password.
    Password { username: String, password: Secret },
    /// ECR's 12-hour password.
    Ecr(EcrLogin),
    /// An Entra identity, exchanged at ACR.
    Entra(Arc<dyn TokenCredential>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Challenge {
    /// The registry is open.
    None,
    Basic,
    Bearer {
        realm: Url,
        service: Option<String>,
    },
}

struct Token {
    value: Secret,
    renew_at: Instant,
}

#[derive(Default)]
struct State {
    challenge: Option<Challenge>,
    tokens: HashMap<Scope, Token>,
    refresh: Option<Token>,
}

/// Makes the `Authorization` header of one registry.
pub(crate) struct Authenticator {
    /// For the token service. Follows no redirect: on a 307 it would repeat a token or a refresh token,
    /// which are in the body, to wherever that points.
    http: reqwest::Client,
    host: String,
    endpoint: Url,
    credentials: Credentials,
    /// Held while a token is fetched: a hundred waiting requests ask once.
    state: Mutex<State>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    refresh_token: Option<String>,
    expires_in: Option<u64>,
}

/// The registry's first answer is waited for.
pub(crate) struct First<'a> {
    host: &'a str,
    state: MutexGuard<'a, State>,
}

impl First<'_> {
    /// Learns from that answer.
    pub(crate) fn learn(&mut self, answer: &reqwest::Response) -> Result<(), StepError> {
        self.state.challenge = match answer.status().as_u16() {
            401 => Some(challenge(answer.headers()).ok_or_else(|| {
                StepError::auth(format!("registry {} asks for a kind of login that is not known", self.host))
            })?),
            // Says nothing about logins: the next request is the first again.
            429 | 500..=599 => None,
            _ => Some(Challenge::None),
        };
        Ok(())
    }
}

impl Authenticator {
    pub(crate) fn new(http: reqwest::Client, host: String, endpoint: Url, credentials: Credentials) -> Self {
        Self { http, host, endpoint, credentials, state: Mutex::default() }
    }

    /// The first request to a registry finds out how it wants to be asked; others wait for that, so
    /// that a hundred are not refused at once. `None` when it is known.
    pub(crate) async fn first(&self) -> Option<First<'_>> {
        let state = self.state.lock().await;
        if state.challenge.is_some() { None } else { Some(First { host: &self.host, state }) }
    }

    /// The header for `scope`; `None` when the registry asks for none.
    pub(crate) async fn header(&self, scope: &Scope) -> Result<Option<HeaderValue>, StepError> {
        let mut state = self.state.lock().await;
        let text = match state.challenge.clone() {
            None | Some(Challenge::None) => return Ok(None),
            Some(Challenge::Basic) => match self.basic().await? {
                Some((user, password)) => basic_text(&user, &password),
                None => return Err(self.missing()),
            },
            Some(Challenge::Bearer { realm, service }) => {
                let now = Instant::now();
                if state.tokens.get(scope).is_none_or(|token| token.renew_at <= now) {
                    let token = self.token(&mut state, &realm, service.as_deref(), scope).await?;
                    state.tokens.insert(scope.clone(), token);
                }
                format!("Bearer {}", state.tokens[scope].value.expose())
            }
        };
        let mut value = HeaderValue::from_str(&text).map_err(|_| {
            StepError::auth(format!("the credentials for {} hold illegal characters", self.host))
        })?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// A request was refused with 401: forgets what was used and learns the challenge anew.
    pub(crate) async fn refused(&self, headers: &HeaderMap, scope: &Scope) {
        let mut state = self.state.lock().await;
        state.tokens.remove(scope);
        state.refresh = None;
        state.challenge = challenge(headers);
        if let Credentials::Ecr(login) = &self.credentials {
            login.forget().await;
        }
    }

    /// User name and password, for those who need them as such (ACR's import).
    pub(crate) async fn basic(&self) -> Result<Option<(String, Secret)>, StepError> {
        match &self.credentials {
            Credentials::Anonymous => Ok(None),
            Credentials::Password { username, password } => Ok(Some((username.clone(), password.clone()))),
            Credentials::Ecr(login) => login.password().await.map(Some),
            Credentials::Entra(_) => Err(StepError::auth(format!(
                "registry {} asks for a user name and password, not for Entra",
                self.host
            ))
            .with_hint("give `username` and `password` for it in migration.toml")),
        }
    }

    /// [`basic`](Self::basic) with the whole life of an ECR password ahead.
    pub(crate) async fn fresh_basic(&self) -> Result<Option<(String, Secret)>, StepError> {
        if let Credentials::Ecr(login) = &self.credentials {
            login.forget().await;
        }
        self.basic().await
    }

    fn missing(&self) -> StepError {
        StepError::auth(format!("registry {} asks for credentials and there are none", self.host)).with_hint(
            "give `username` and `password` for it in migration.toml, or log in to it with Docker; \
                 where it is ECR, give `aws`",
        )
    }

    async fn token(
        &self,
        state: &mut State,
        realm: &Url,
        service: Option<&str>,
        scope: &Scope,
    ) -> Result<Token, StepError> {
        self.refuse_open_line(realm)?;
        if let Credentials::Entra(identity) = &self.credentials {
            return self.entra_token(state, identity, realm, service, scope).await;
        }
        let mut url = realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = service {
                query.append_pair("service", service);
            }
            for value in scope.values() {
                query.append_pair("scope", &value);
            }
        }
        let mut request = self.http.get(url);
        if let Some((user, password)) = self.basic().await? {
            request = request.basic_auth(user, Some(password.expose()));
        }
        let answer = self.ask_token(request, "get a token").await?;
        let life = answer.expires_in.map_or(DEFAULT_TOKEN_LIFE, Duration::from_secs);
        self.keep(answer.token.or(answer.access_token), life)
    }

    /// What was said over TLS must not lead a login to where it can be read on the way.
    fn refuse_open_line(&self, realm: &Url) -> Result<(), StepError> {
        let is_open = self.endpoint.scheme() == "https" && realm.scheme() != "https";
        if !is_open || matches!(self.credentials, Credentials::Anonymous) {
            return Ok(());
        }
        let place = realm.host_str().unwrap_or("an unnamed host");
        Err(StepError::auth(format!("registry {} wants its login sent to {place} without TLS", self.host))
            .with_hint("its token service is set up wrongly: the realm that it names must begin with https"))
    }

    /// `POST /oauth2/exchange` with the Entra token, then `/oauth2/token` for the scope:
    /// <https://github.com/Azure/acr/blob/main/docs/AAD-OAuth.md>.
    async fn entra_token(
        &self,
        state: &mut State,
        identity: &Arc<dyn TokenCredential>,
        realm: &Url,
        service: Option<&str>,
        scope: &Scope,
    ) -> Result<Token, StepError> {
        let ours =
            realm.host_str() == self.endpoint.host_str() || realm.host_str() == Some(self.host.as_str());
        if !ours {
            return Err(StepError::auth(format!(
                "registry {} wants its Entra token sent to {}, which is not the registry",
                self.host,
                realm.host_str().unwrap_or("an unnamed host")
            )));
        }
        let service = service.unwrap_or(&self.host);
        let now = Instant::now();
        if state.refresh.as_ref().is_none_or(|token| token.renew_at <= now) {
            let failed = |e| no_token(format!("failed to get an Entra token for registry {}", self.host), e);
            let entra = identity.get_token(&[ACR_ENTRA_SCOPE], None).await.map_err(failed)?;
            let mut url = realm.clone();
            url.set_path("/oauth2/exchange");
            url.set_query(None);
            let form = [
                ("grant_type", "access_token"),
                ("service", service),
                ("access_token", entra.token.secret()),
            ];
            let answer = self.ask_token(self.http.post(url).form(&form), "exchange the Entra token").await?;
            state.refresh = Some(self.keep(answer.refresh_token, ACR_REFRESH_LIFE)?);
        }
        let refresh = state.refresh.as_ref().map(|token| token.value.clone());
        let refresh = refresh.ok_or_else(|| self.missing())?;
        let mut form = vec![
            ("grant_type", "refresh_token".to_owned()),
            ("service", service.to_owned()),
            ("refresh_token", refresh.expose().to_owned()),
        ];
        form.extend(scope.values().into_iter().map(|value| ("scope", value)));
        let answer = self.ask_token(self.http.post(realm.clone()).form(&form), "get a token").await?;
        let life = answer.expires_in.map_or(DEFAULT_TOKEN_LIFE, Duration::from_secs);
        self.keep(answer.access_token.or(answer.token), life)
    }

    async fn ask_token(
        &self,
        request: reqwest::RequestBuilder,
        what: &str,
    ) -> Result<TokenAnswer, StepError> {
        let message = || format!("failed to {what} for registry {}", self.host);
        let response = request
            .timeout(errors::ANSWER_TIMEOUT)
            .send()
            .await
            .map_err(|e| errors::network(message(), e))?;
        if !response.status().is_success() {
            return Err(errors::status(message(), response).await);
        }
        // The body holds the token: a parse error must not quote it.
        response
            .json()
            .await
            .map_err(|_| StepError::transient(format!("{}: the answer is no token", message())))
    }

    fn keep(&self, value: Option<String>, life: Duration) -> Result<Token, StepError> {
        let value = value.filter(|value| !value.is_empty()).ok_or_else(|| {
            StepError::auth(format!("the token service of registry {} gave no token", self.host))
        })?;
        Ok(Token { value: Secret::new(value), renew_at: Instant::now() + life.saturating_sub(TOKEN_MARGIN) })
    }
}

/// The text of a Basic `Authorization` header.
fn basic_text(user: &str, password: &Secret) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{}", password.expose())))
}

/// Reads every `WWW-Authenticate`; Bearer is preferred, as ACR offers both.
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let mut found = None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let Ok(text) = value.to_str() else { continue };
        let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
        if scheme.eq_ignore_ascii_case("bearer") {
            let parameters = parameters(rest);
            if let Some(realm) = parameters.get("realm").and_then(|realm| Url::parse(realm).ok()) {
                return Some(Challenge::Bearer { realm, service: parameters.get("service").cloned() });
            }
        } else if scheme.eq_ignore_ascii_case("basic") {
            found = Some(Challenge::Basic);
        }
    }
    found
}

/// `a="b",c=d`: commas inside quotes don't part.
fn parameters(text: &str) -> HashMap<String, String> {
    let mut found = HashMap::new();
    let mut rest = text.trim_start();
    while let Some((name, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.insert(name.trim().to_ascii_lowercase(), value.to_owned());
        rest = after.trim_start_matches([',', ' ']);
    }
    found
}

/// Puts `header` on `request`, unless it goes to somebody else than `endpoint`.
pub(crate) fn authorize(request: &mut reqwest::Request, endpoint: &Url, header: Option<HeaderValue>) {
    if let Some(header) = header
        && request.url().origin() == endpoint.origin()
    {
        request.headers_mut().insert(AUTHORIZATION, header);
    }
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
