//! What registries and their token services answer, in the words of the contract.

use std::time::Duration;

use http::header::{HeaderMap, RETRY_AFTER};
use migrate_plugin_api::{Problem, StepError};
use serde::Deserialize;

/// A registry that has not begun to answer a small request after this long won't.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest wait for which a service may ask; longer ones are the engine's business.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(120);

/// So much of a refusal is read and shown.
const MAX_ERROR_CHARS: usize = 300;

#[derive(Deserialize)]
struct Refusal {
    /// As registries say it.
    #[serde(default)]
    errors: Vec<RefusalDetail>,
    /// As Azure Resource Manager says it.
    #[serde(default)]
    error: Option<RefusalDetail>,
}

#[derive(Default, Deserialize)]
struct RefusalDetail {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// A request that got no answer.
pub(crate) fn network(message: impl Into<String>, error: reqwest::Error) -> StepError {
    // The URL may carry a signed query.
    let error = error.without_url();
    let message = message.into();
    if error.is_builder() { StepError::permanent(message) } else { StepError::transient(message) }
        .with_source(error)
}

/// An answer that refuses. Reads the registry's own words, if it gave any.
pub(crate) async fn status(message: impl Into<String>, response: reqwest::Response) -> StepError {
    let status = response.status();
    let wait = retry_after(response.headers());
    let body = short_body(response).await;
    let detail = serde_json::from_str::<Refusal>(&body)
        .ok()
        .and_then(|refusal| refusal.errors.into_iter().next().or(refusal.error))
        .unwrap_or_default();
    let (code, words) = (detail.code, detail.message);
    let mut message = format!("{}: {}", message.into(), status.as_u16());
    for part in [&code, &words] {
        if !part.is_empty() {
            message.push(' ');
            message.extend(part.chars().filter(|c| !c.is_control()).take(MAX_ERROR_CHARS));
        }
    }
    let immutable =
        words.contains("immutable") || code.contains("IMMUTABLE") || code.contains("AlreadyExists");
    match status.as_u16() {
        401 | 403 => StepError::auth(message),
        // Immutable tags: ECR says 400 TAG_INVALID, others 409; ACR's locks say 405.
        405 | 409 => StepError::conflict(message),
        400..=499 if immutable => StepError::conflict(message),
        408 => StepError::transient(message),
        429 => StepError::throttled(message, wait),
        500..=599 => {
            let mut error = StepError::transient(message);
            error.class = migrate_plugin_api::ErrorClass::Transient { retry_after_ms: wait.map(millis) };
            error
        }
        _ => StepError::permanent(message),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `Retry-After` in seconds; the date form is not used by registries.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

/// At most 64 KiB, and no failure: it is only for the message.
async fn short_body(mut response: reqwest::Response) -> String {
    const MAX_BODY_BYTES: usize = 64 * 1024;
    let mut body = Vec::new();
    while body.len() < MAX_BODY_BYTES {
        match tokio::time::timeout(ANSWER_TIMEOUT, response.chunk()).await {
            Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
            _ => break,
        }
    }
    String::from_utf8_lossy(&body).into_owned()
}

/// A failed preflight as a problem of `field`.
pub(crate) fn problem(error: &StepError, field: &str) -> Problem {
    let record = error.to_record();
    let mut message = record.message;
    for cause in record.causes {
        message = format!("{message}: {cause}");
    }
    let mut problem = Problem::error(message).in_field(field);
    problem.hint = record.hint;
    problem
}
