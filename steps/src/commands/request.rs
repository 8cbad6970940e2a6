//! One request over HTTP and its answer.
//!
//! Invariants: a redirect is followed for `GET` and `HEAD` only, to another origin only where its author
//! lets it answer and then without any of the node's headers, and never from TLS to none; what was not
//! sent is told from what may have arrived.

use std::time::Duration;

use http::header::{HeaderMap, LOCATION};
use http::{Method, StatusCode};
use migrate_plugin_api::StepError;
use reqwest::{Client, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::KEPT_BYTES;
use super::answer::{Answer, retry_after};
use super::mask::Mask;
use crate::tls::{self, Speaks};

/// Redirects that are followed; more are a circle.
const MAX_REDIRECTS: usize = 5;

/// A service that can't be connected to in this time is down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Who may answer for the address that is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Redirects {
    /// Itself, and the same name with TLS: another host's word says nothing of it.
    #[default]
    SameOrigin,
    /// Whoever it points to.
    Any,
}

/// A request that is ready to be sent.
pub(super) struct Request<'a> {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Option<Vec<u8>>,
    /// From the request to the end of the answer.
    pub timeout: Duration,
    /// Redirects with these are an answer.
    pub expected: &'a [u16],
    pub redirects: Redirects,
    pub mask: &'a Mask,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The service has not seen the request.
    NotSent(StepError),
    /// It may have.
    NoAnswer(StepError),
}

/// `url` as it may be shown: a query may hold what is secret.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = (url.set_username(""), url.set_password(None));
    url.to_string()
}

impl Request<'_> {
    fn name(&self) -> String {
        format!("{} {}", self.method, shown(&self.url))
    }

    /// Sends it and reads the answer.
    pub(super) async fn send(mut self) -> Result<Answer, Failure> {
        let client = tls::client(Speaks::Http2)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("migrate/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Failure::NotSent(StepError::permanent("failed to set up HTTP").with_source(e)))?;
        let limit = self.timeout;
        let (name, asked) = (self.name(), self.url.clone());
        let work = async {
            for _ in 0..=MAX_REDIRECTS {
                let response = self.send_once(&client).await?;
                match self.redirected(&asked, &response) {
                    None => return self.read(response).await,
                    Some(next) => self.turn_to(next.map_err(Failure::NoAnswer)?),
                }
            }
            Err(Failure::NoAnswer(StepError::permanent(format!("`{name}` is redirected in a circle"))))
        };
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
            let message = format!("`{name}` had no answer within {} s", limit.as_secs());
            Err(Failure::NoAnswer(StepError::transient(message)))
        })
    }

    async fn send_once(&self, client: &Client) -> Result<Response, Failure> {
        let mut request = client.request(self.method.clone(), self.url.clone()).headers(self.headers.clone());
        if let Some(body) = &self.body {
            request = request.body(body.clone());
        }
        request.send().await.map_err(|error| {
            let error = error.without_url();
            let message = format!("`{}` had no answer", self.name());
            match (error.is_builder(), error.is_connect()) {
                (true, _) => Failure::NotSent(StepError::permanent(message).with_source(error)),
                (_, true) => Failure::NotSent(StepError::transient(message).with_source(error)),
                _ => Failure::NoAnswer(StepError::transient(message).with_source(error)),
            }
        })
    }

    /// Where the answer sends us, if it does. `asked`: the address of the node.
    fn redirected(&self, asked: &Url, response: &Response) -> Option<Result<Url, StepError>> {
        let status = response.status();
        let is_redirect = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
        let is_read = matches!(self.method, Method::GET | Method::HEAD);
        if !is_redirect || !is_read || self.expected.contains(&status.as_u16()) {
            return None;
        }
        let location = response.headers().get(LOCATION)?.to_str().ok()?;
        let refused = |why: &str| Err(StepError::permanent(format!("`{}` is redirected {why}", self.name())));
        Some(match self.url.join(location) {
            Ok(next) if !matches!(next.scheme(), "http" | "https") => refused("to what is no web address"),
            Ok(next) if self.url.scheme() == "https" && next.scheme() == "http" => {
                refused("away from TLS, which is not followed")
            }
            Ok(next) if self.redirects == Redirects::SameOrigin && !is_its_own(asked, &next) => {
                let origin = next.origin().ascii_serialization();
                refused(&format!("to another origin, {origin}"))
                    .map_err(|e| e.with_hint("`redirects = \"any\"` lets whoever it is redirected to answer"))
            }
            Ok(next) => Ok(next),
            Err(_) => refused("to what is no address"),
        })
    }

    fn turn_to(&mut self, next: Url) {
        if next.origin() != self.url.origin() {
            self.headers.clear();
        }
        self.url = next;
    }

    async fn read(&self, mut response: Response) -> Result<Answer, Failure> {
        let status = response.status();
        let wait = retry_after(response.headers());
        let limit = KEPT_BYTES + self.mask.margin_bytes();
        let (mut bytes, mut is_more) = (Vec::new(), false);
        let lost = |e: reqwest::Error| {
            let message = format!("the answer to `{}` broke off", self.name());
            Failure::NoAnswer(StepError::transient(message).with_source(e.without_url()))
        };
        while let Some(chunk) = response.chunk().await.map_err(lost)? {
            let room = (limit - bytes.len()).min(chunk.len());
            bytes.extend_from_slice(&chunk[..room]);
            if room < chunk.len() {
                is_more = true;
                break;
            }
        }
        let (mut text, mut is_cut) = self.mask.cut(&String::from_utf8_lossy(&bytes), KEPT_BYTES);
        if !is_cut && !is_more {
            (text, is_cut) = self.mask.cut(&self.mask.read(text), KEPT_BYTES);
        }
        Ok(Answer { name: self.name(), status, text, is_cut: is_cut || is_more, wait })
    }
}

/// Whether what `next` answers is the word of `asked`: one origin, or the same name with TLS.
fn is_its_own(asked: &Url, next: &Url) -> bool {
    let is_upgrade = (asked.scheme(), next.scheme()) == ("http", "https")
        && asked.host() == next.host()
        && asked.port().is_none()
        && next.port().is_none();
    asked.origin() == next.origin() || is_upgrade
}

/// Whether the answer itself says that nothing was done.
pub(super) fn is_refusal(status: StatusCode) -> bool {
    // A time-out of the server (408) is no word about what came of the request.
    status.is_client_error() && status != StatusCode::REQUEST_TIMEOUT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_name_with_tls_is_no_other() {
        let own = |asked: &str, next: &str| is_its_own(&asked.parse().unwrap(), &next.parse().unwrap());
        assert!(own("http://20.1.2.3/health", "http://20.1.2.3:80/ready"));
        assert!(own("http://shop.example/health", "https://SHOP.example/health"));
        for next in [
            "https://shop.example/health",
            "http://20.1.2.3:8080/health",
            "https://20.1.2.3:8443/health",
            "http://20.1.2.4/health",
        ] {
            assert!(!own("http://20.1.2.3/health", next), "{next}");
        }
        assert!(!own("http://shop.example:8080/", "https://shop.example/"), "another service, perhaps");
    }
}
