//! Calls of a vault's data plane, as documented at
//! <https://learn.microsoft.com/en-us/rest/api/keyvault/secrets/operation-groups>.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use migrate_plugin_api::{Secret, StepError};
use serde::{Deserialize, Serialize};
use url::Url;

use super::place::Address;
use crate::tls::{self, Speaks};
use crate::tokens::Tokens;

pub(super) const API_VERSION: &str = "7.4";

/// A vault answers within a second; after this long it won't.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest answer that is read: a secret has at most 25 KB, a page of versions 25 of a few hundred bytes.
pub(super) const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// Pages of versions of one secret that are read: a secret with more than 2,500 versions is no secret.
const MAX_PAGES: usize = 100;

/// Tries of one request that may be sent again.
const MAX_TRIES: u32 = 5;

/// Between two tries, where the vault doesn't say.
const PAUSE: Duration = Duration::from_millis(500);

/// Longest pause that a vault may ask for; longer ones are the engine's business.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// One vault, asked as one identity.
pub(crate) struct Vault {
    host: String,
    base: Url,
    http: reqwest::Client,
    tokens: Tokens,
    tries: u32,
}

/// A version of a secret, with its value.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub value: Secret,
    /// Its name of 32 hexadecimal digits.
    pub version: String,
    /// Belongs to a certificate, and is changed with it only.
    pub is_managed: bool,
}

/// A version without its value.
#[derive(Debug)]
pub(crate) struct Version {
    pub version: String,
    pub tags: BTreeMap<String, String>,
}

/// What a secret is set to. No `Debug`: holds the value.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewSecret<'a> {
    pub value: &'a str,
    pub content_type: &'a str,
    pub tags: &'a BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct BundleAnswer {
    value: String,
    #[serde(default)]
    id: String,
    #[serde(default)]
    managed: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    #[serde(default)]
    value: Vec<PageItem>,
    #[serde(default)]
    next_link: Option<String>,
}

#[derive(Deserialize)]
struct PageItem {
    id: String,
    #[serde(default)]
    tags: BTreeMap<String, String>,
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

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn reason(&self) -> Reason {
        serde_json::from_slice::<Refusal>(&self.body).unwrap_or_default().error
    }

    /// Whether the vault says so itself: any other 404 is of something that is no vault.
    fn is_no_such_secret(&self) -> bool {
        self.status == StatusCode::NOT_FOUND && self.reason().code == "SecretNotFound"
    }
}

impl Vault {
    /// Sends nothing yet. `endpoint` is where the vault really answers, if not at its address.
    ///
    /// # Errors
    /// When the client can't be set up.
    pub(crate) fn new(address: &Address, endpoint: Option<&Url>, tokens: Tokens) -> Result<Self, StepError> {
        let http = tls::client(Speaks::Http2)
            // The token goes to the vault and nowhere else.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("migrate/", env!("CARGO_PKG_VERSION")))
            .timeout(ANSWER_TIMEOUT)
            .build()
            .map_err(|e| StepError::permanent("failed to set up the client of Key Vault").with_source(e))?;
        let base = endpoint.unwrap_or(&address.url).clone();
        Ok(Self { host: address.host().to_owned(), base, http, tokens, tries: 1 })
    }

    /// Sends again what may be sent again, where the vault is busy or broken.
    #[must_use]
    pub(crate) fn patient(mut self) -> Self {
        self.tries = MAX_TRIES;
        self
    }

    /// The secret, or the version of it.
    ///
    /// # Errors
    /// `Auth` when it is not there or may not be read.
    pub(crate) async fn get(&self, name: &str, version: Option<&str>) -> Result<Bundle, StepError> {
        let answer = self.read(["secrets", name].into_iter().chain(version)).await?;
        self.bundle(&answer)
    }

    /// As [`get`](Self::get), but nothing where the vault has no such secret.
    ///
    /// # Errors
    /// `Auth` when it may not be read.
    pub(crate) async fn find(&self, name: &str, version: Option<&str>) -> Result<Option<Bundle>, StepError> {
        let answer = self.read(["secrets", name].into_iter().chain(version)).await?;
        if answer.is_no_such_secret() { Ok(None) } else { self.bundle(&answer).map(Some) }
    }

    /// Whether the name is taken by a secret that is deleted and can be recovered. Who may not ask is
    /// told when the name is used.
    ///
    /// # Errors
    /// When the vault does not answer.
    pub(crate) async fn is_deleted(&self, name: &str) -> Result<bool, StepError> {
        let answer = self.read(["deletedsecrets", name].into_iter()).await?;
        match answer.status {
            StatusCode::OK => Ok(true),
            StatusCode::FORBIDDEN => Ok(false),
            // A vault without soft delete answers 405 or 400 here.
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::BAD_REQUEST => Ok(false),
            _ if answer.is_no_such_secret() => Ok(false),
            _ => Err(self.refused(&answer)),
        }
    }

    /// Versions of a secret, without their values, in no order.
    ///
    /// # Errors
    /// `Auth` when they may not be listed.
    pub(crate) async fn versions(&self, name: &str) -> Result<Vec<Version>, StepError> {
        let mut all = Vec::new();
        let mut url = self.url(["secrets", name, "versions"].into_iter());
        for _ in 0..MAX_PAGES {
            let answer = self.send(&Method::GET, &url, None).await?;
            if answer.is_no_such_secret() {
                return Ok(all);
            }
            if !answer.status.is_success() {
                return Err(self.refused(&answer));
            }
            let page: Page = serde_json::from_slice(&answer.body)
                .map_err(|e| StepError::permanent(format!("{} gave no list", self.host)).with_source(e))?;
            all.extend(
                page.value
                    .into_iter()
                    .map(|item| Version { version: last(&item.id).to_owned(), tags: item.tags }),
            );
            let Some(next) = page.next_link.filter(|link| !link.is_empty()) else { return Ok(all) };
            let next = Url::parse(&next).map_err(|e| {
                StepError::permanent(format!("{} gave no next page", self.host)).with_source(e)
            })?;
            // Whatever host it names: the token goes to the vault.
            url = self.base.clone();
            url.set_path(next.path());
            url.set_query(next.query());
        }
        Err(StepError::permanent(format!("secret {name} in {} has too many versions", self.host)))
    }

    /// Makes a new version, which is the current one when this returns. Its name.
    ///
    /// # Errors
    /// `Conflict` when the name is deleted and not purged; `Auth` when it may not be set. Transient where
    /// it is not known whether the version was made.
    pub(crate) async fn set(&self, name: &str, secret: &NewSecret<'_>) -> Result<String, StepError> {
        let body = serde_json::to_vec(secret)
            .map_err(|_| StepError::permanent(format!("failed to write secret {name} as JSON")))?;
        let answer = self.send(&Method::PUT, &self.url(["secrets", name].into_iter()), Some(&body)).await?;
        self.bundle(&answer).map(|bundle| bundle.version)
    }

    fn bundle(&self, answer: &Answer) -> Result<Bundle, StepError> {
        if !answer.status.is_success() {
            return Err(self.refused(answer));
        }
        // The body holds the secret: a parse error must not quote it.
        let bundle: BundleAnswer = serde_json::from_slice(&answer.body)
            .map_err(|_| StepError::permanent(format!("{} answered with no secret", self.host)))?;
        Ok(Bundle {
            value: Secret::new(bundle.value),
            version: last(&bundle.id).to_owned(),
            is_managed: bundle.managed,
        })
    }

    fn url<'a>(&self, segments: impl Iterator<Item = &'a str>) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url.query_pairs_mut().append_pair("api-version", API_VERSION);
        url
    }

    async fn read<'a>(&self, segments: impl Iterator<Item = &'a str>) -> Result<Answer, StepError> {
        self.send(&Method::GET, &self.url(segments), None).await
    }

    /// Sends it again where that does no harm: a reading, and what was refused for being too much.
    async fn send(&self, method: &Method, url: &Url, body: Option<&[u8]>) -> Result<Answer, StepError> {
        let mut tries = 1;
        loop {
            let answer = self.send_once(method, url, body).await;
            let (may_repeat, pause) = match &answer {
                Ok(answer) => {
                    let is_busy = answer.status == StatusCode::TOO_MANY_REQUESTS;
                    let is_broken = answer.status.is_server_error() && method == Method::GET;
                    (is_busy || is_broken, retry_after(&answer.headers).unwrap_or(PAUSE))
                }
                Err(error) => (error.class.is_retryable() && method == Method::GET, PAUSE),
            };
            if !may_repeat || tries >= self.tries || pause > MAX_PAUSE {
                return answer;
            }
            tries += 1;
            tokio::time::sleep(pause).await;
        }
    }

    /// With another token where the first is refused.
    async fn send_once(&self, method: &Method, url: &Url, body: Option<&[u8]>) -> Result<Answer, StepError> {
        let token = self.tokens.get().await?;
        let answer = self.send_as(&token, method, url, body).await?;
        if answer.status == StatusCode::UNAUTHORIZED && self.tokens.forget(&token).await {
            return self.send_as(&self.tokens.get().await?, method, url, body).await;
        }
        Ok(answer)
    }

    async fn send_as(
        &self,
        token: &Secret,
        method: &Method,
        url: &Url,
        body: Option<&[u8]>,
    ) -> Result<Answer, StepError> {
        let unreachable = |e: reqwest::Error| {
            StepError::transient(format!("no answer from {}", self.host)).with_source(e.without_url())
        };
        let mut request = self.http.request(method.clone(), url.clone());
        request = request.bearer_auth(token.expose());
        if let Some(body) = body {
            request = request.header(http::header::CONTENT_TYPE, "application/json").body(body.to_vec());
        }
        let mut answer = request.send().await.map_err(unreachable)?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(unreachable)? {
            if body.len() + part.len() > MAX_ANSWER_BYTES {
                return Err(StepError::permanent(format!(
                    "the answer of {} is larger than {MAX_ANSWER_BYTES} bytes",
                    self.host
                )));
            }
            body.extend_from_slice(&part);
        }
        Ok(Answer { status, headers, body })
    }

    /// A refusal in the words of the contract.
    fn refused(&self, answer: &Answer) -> StepError {
        let Reason { code, message } = answer.reason();
        // Some messages have the caller's IDs on lines of their own.
        let words = message.lines().next().unwrap_or_default();
        let said = [code.as_str(), words].into_iter().filter(|part| !part.is_empty());
        let said = said.collect::<Vec<_>>().join(": ");
        let status = answer.status;
        let message = format!(
            "{} answered {}{}",
            self.host,
            status.as_u16(),
            if said.is_empty() { said } else { format!(" {said}") }
        );
        match status {
            StatusCode::TOO_MANY_REQUESTS => StepError::throttled(message, retry_after(&answer.headers)),
            StatusCode::NOT_FOUND => {
                StepError::auth(message).with_hint("is there a secret of this name, and is it enabled?")
            }
            StatusCode::FORBIDDEN if words.contains("disabled") => StepError::auth(message)
                .with_hint("enable it with `az keyvault secret set-attributes --enabled true`, or use another name"),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => StepError::auth(message).with_hint(
                "give this identity the role \"Key Vault Secrets User\" on the vault (to write: \"Key Vault Secrets \
                 Officer\"), and let the vault's firewall pass this machine",
            ),
            StatusCode::CONFLICT => StepError::conflict(message),
            status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
                StepError::transient(message)
            }
            _ => StepError::permanent(message),
        }
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The version of `https://VAULT/secrets/NAME/VERSION`.
fn last(id: &str) -> &str {
    id.rsplit('/').next().unwrap_or_default()
}
