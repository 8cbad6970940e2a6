//! Errors of the two services in the words of the contract.
//!
//! Both clients put whole URLs into their errors, with the SAS or the presigned query in it. So no
//! error of theirs is ever kept as a cause: its text is, with every query cut off.

use std::error::Error as StdError;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use azure_core::error::ErrorKind;
use azure_storage_blob::StorageError;
use migrate_plugin_api::{ErrorClass, StepError};

use super::checksum::Crc64;
use super::http1::{Answer, Broken};
use super::source::Object;

/// What a service or the way to it said, free of secrets.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Said(pub(super) String);

/// What arrived at Azure isn't what was sent, says Azure.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Damaged(String);

/// Whether `error` says that other bytes arrived than the checksums that were sent along.
pub(super) fn damaged(error: &StepError) -> bool {
    error.source.as_ref().is_some_and(|source| source.is::<Damaged>())
}

/// Proves that what was read is what the source says it has.
pub(super) fn same(object: &Object, source: Crc64, read: Crc64) -> Result<(), StepError> {
    if source == read {
        return Ok(());
    }
    Err(differs(object, "CRC64", &source.to_string(), &read.to_string()))
}

/// A version was to be copied that is no longer there.
pub(super) fn changed(object: &Object) -> StepError {
    StepError::conflict(format!("object `{}` changed while it was copied", object.key))
}

/// No block of ours can stand beside those that are there: Azure wants all IDs equally long (Azurite #401).
/// The way out is in the message: of a failed object, only that is kept.
pub(super) fn foreign_blocks(message: impl Into<String>) -> StepError {
    StepError::permanent(format!(
        "{}: another program's blocks wait at its name, as a stopped AzCopy leaves them: write an empty blob there \
         and delete it, or wait the week that Azure keeps them",
        message.into()
    ))
}

/// What was read is not what the source says it has.
pub(super) fn differs(object: &Object, what: &str, source: &str, read: &str) -> StepError {
    StepError::corrupt(format!(
        "object `{}` was read with {what} {read}, but the source has {source}",
        object.key
    ))
}

/// `text` with the query of every URL and the value of every signature cut off.
pub(super) fn redact(text: &str) -> String {
    const END: [char; 9] = [' ', '"', '\'', ')', '>', '<', ',', '\n', '`'];
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at);
        clean.push_str(before);
        let end = after.find(END).unwrap_or(after.len());
        let url = &after[..end];
        match url.find('?') {
            Some(query) => {
                clean.push_str(&url[..query]);
                clean.push_str("?…");
            }
            None => clean.push_str(url),
        }
        rest = &after[end..];
    }
    clean.push_str(rest);
    for name in ["sig=", "Signature=", "X-Amz-Security-Token=", "X-Amz-S3session-Token=", "Bearer "] {
        let mut from = 0;
        while let Some(at) = clean[from..].find(name).map(|at| from + at + name.len()) {
            let end =
                clean[at..].find(|c: char| c == '&' || END.contains(&c)).map_or(clean.len(), |e| at + e);
            clean.replace_range(at..end, "…");
            from = at;
        }
    }
    clean
}

/// The texts of a chain of causes, each once, redacted.
pub(super) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut said: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = redact(&error.to_string());
        if !text.is_empty() && !said.iter().any(|s| s.contains(&text)) {
            said.push(text);
        }
        next = error.source();
    }
    said.join(": ")
}

/// The HTTP status as a class.
fn class(status: u16, retry_after: Option<Duration>) -> ErrorClass {
    let retry_after_ms = retry_after.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    match status {
        401 | 403 => ErrorClass::Auth,
        409 | 412 => ErrorClass::Conflict,
        429 | 503 => ErrorClass::Throttled { retry_after_ms },
        408 | 500.. => ErrorClass::Transient { retry_after_ms },
        _ => ErrorClass::Permanent,
    }
}

fn retry_after(seconds: Option<&str>) -> Option<Duration> {
    seconds.and_then(|s| s.trim().parse().ok()).map(Duration::from_secs)
}

/// A request that got no answer.
pub(super) fn line_error(message: impl Into<String>, error: &Broken) -> StepError {
    StepError::transient(message).with_source(Said(chain(error)))
}

/// Of a refusal's body no more is read: it is a few lines.
const MAX_REFUSAL_BYTES: usize = 64 << 10;

/// The body of a refusal, as far as it came.
async fn refusal(mut response: Answer) -> String {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_REFUSAL_BYTES {
            break;
        }
    }
    String::from_utf8_lossy(&body).into_owned()
}

/// The text of the first element of this name.
fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let text = xml.split_once(&open).and_then(|(_, rest)| rest.split_once(&close));
    text.map_or("", |(text, _)| text)
}

/// What S3 refused.
pub(super) async fn s3_refusal(message: impl Into<String>, response: Answer) -> StepError {
    let status = response.status().as_u16();
    let wait = response.headers().get("retry-after").and_then(|wait| wait.to_str().ok());
    let wait = retry_after(wait);
    let body = refusal(response).await;
    s3_answer(message.into(), status, wait, element(&body, "Code"), element(&body, "Message"))
}

/// A failed S3 call.
pub(super) fn s3_error<E>(message: impl Into<String>, error: SdkError<E, HttpResponse>) -> StepError
where
    E: StdError + ProvideErrorMetadata + Send + Sync + 'static,
{
    let message = message.into();
    let Some(response) = error.raw_response() else {
        let mut next: Option<&(dyn StdError + 'static)> = Some(&error);
        while let Some(cause) = next {
            if cause.is::<CredentialsError>() {
                return StepError::auth(message).with_source(Said(chain(&error))).with_hint(
                    "no AWS credentials were found: check [source.aws], or try: aws sts get-caller-identity",
                );
            }
            next = cause.source();
        }
        return StepError::transient(message).with_source(Said(chain(&error)));
    };
    let status = response.status().as_u16();
    let wait = retry_after(response.headers().get("retry-after"));
    s3_answer(message, status, wait, error.code().unwrap_or_default(), error.message().unwrap_or_default())
}

fn s3_answer(message: String, status: u16, wait: Option<Duration>, code: &str, said: &str) -> StepError {
    let class = match code {
        "ExpiredToken" | "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "TokenRefreshRequired" => {
            ErrorClass::Auth
        }
        "SlowDown" => class(503, wait),
        "InvalidObjectState" => ErrorClass::Permanent,
        _ => class(status, wait),
    };
    let mut text = format!("S3 answered {status}");
    for part in [code, said] {
        if !part.is_empty() {
            text = format!("{text}: {}", redact(part));
        }
    }
    let error = StepError::new(class, message).with_source(Said(text));
    if code == "InvalidObjectState" {
        return error.with_hint("the object is archived: restore it from Glacier first");
    }
    error
}

/// What Azure answered, where it did.
pub(super) struct BlobAnswer {
    /// HTTP status.
    pub(super) status: u16,
    /// `x-ms-error-code`, or empty.
    pub(super) code: String,
    text: String,
    retry_after: Option<Duration>,
}

/// The answer in `error`, if there was one.
pub(super) fn blob_answer(error: azure_core::Error) -> Result<BlobAnswer, azure_core::Error> {
    let ErrorKind::HttpResponse { status, error_code, raw_response } = error.kind() else {
        return Err(error);
    };
    let status = u16::from(*status);
    let mut code = error_code.clone().unwrap_or_default();
    let wait = raw_response.as_ref().and_then(|r| {
        let name = azure_core::http::headers::HeaderName::from_static("retry-after");
        retry_after(r.headers().get_optional_str(&name))
    });
    let mut text = format!("Blob Storage answered {status}");
    if let Ok(storage) = StorageError::try_from(error) {
        if let Some(known) = &storage.error_code {
            code = known.to_string();
        }
        let first_line = |s: &str| s.lines().next().unwrap_or_default().to_owned();
        for part in [
            Some(code.clone()),
            storage.message.as_deref().map(first_line),
            storage.copy_source_status_code.map(|s| format!("the source answered {}", u16::from(s))),
            storage.copy_source_error_code,
        ] {
            if let Some(part) = part.filter(|p| !p.is_empty()) {
                text = format!("{text}: {}", redact(&part));
            }
        }
    }
    Ok(BlobAnswer { status, code, text, retry_after: wait })
}

impl BlobAnswer {
    /// Of a request that was sent without the client.
    pub(super) async fn of(response: Answer) -> Self {
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let retry_after = retry_after(header("retry-after"));
        let code = header("x-ms-error-code").unwrap_or_default().to_owned();
        let body = refusal(response).await;
        let code = if code.is_empty() { element(&body, "Code").to_owned() } else { code };
        let mut text = format!("Blob Storage answered {status}");
        for part in [code.as_str(), element(&body, "Message").lines().next().unwrap_or_default()] {
            if !part.is_empty() {
                text = format!("{text}: {}", redact(part));
            }
        }
        Self { status, code, text, retry_after }
    }

    /// As an error.
    pub(super) fn into_error(self, message: impl Into<String>) -> StepError {
        let damaged = matches!(self.code.as_str(), "Md5Mismatch" | "Crc64Mismatch");
        let class = match self.code.as_str() {
            "ServerBusy" | "OperationTimedOut" => class(503, self.retry_after),
            // What arrived isn't what was sent: the line's fault, or a source that just changed.
            "Md5Mismatch" | "Crc64Mismatch" => class(500, self.retry_after),
            _ => class(self.status, self.retry_after),
        };
        let error = match self.code.as_str() {
            "InvalidBlobOrBlock" => foreign_blocks(message),
            _ => StepError::new(class, message),
        };
        if damaged { error.with_source(Damaged(self.text)) } else { error.with_source(Said(self.text)) }
    }
}

/// A request that was not sent for want of a token: with the token's own class and way out.
pub(super) fn no_token(message: impl Into<String>, error: StepError) -> StepError {
    let said = Said(redact(&line(&error)));
    StepError { hint: error.hint, ..StepError::new(error.class, message).with_source(said) }
}

/// A failed Blob Storage call.
pub(super) fn blob_error(message: impl Into<String>, error: azure_core::Error) -> StepError {
    let error = match error.into_downcast::<StepError>() {
        Ok(error) => return no_token(message, error),
        Err(error) => error,
    };
    match blob_answer(error) {
        Ok(answer) => answer.into_error(message),
        Err(error) => {
            let class = match error.kind() {
                ErrorKind::Credential => ErrorClass::Auth,
                ErrorKind::DataConversion => ErrorClass::Permanent,
                _ => ErrorClass::Transient { retry_after_ms: None },
            };
            StepError::new(class, message).with_source(Said(chain(&error)))
        }
    }
}

/// `error` and its causes as one line.
pub(super) fn line(error: &StepError) -> String {
    let record = error.to_record();
    std::iter::once(record.message).chain(record.causes).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_signature_survives() {
        let text = "error sending request for url (http://127.0.0.1:1/a/c/b?sv=2024&sig=SECRET%3D&se=1): refused; \
                    see https://b.s3.amazonaws.com/k?X-Amz-Signature=SECRET, and sig=SECRET&x";
        let clean = redact(text);
        assert!(!clean.contains("SECRET"), "{clean}");
        assert!(clean.contains("(http://127.0.0.1:1/a/c/b?…): refused"), "{clean}");
        assert_eq!(redact("sig= sig="), "sig=… sig=…");
        assert_eq!(redact("no `Bearer SECRET` is taken"), "no `Bearer …` is taken");
        assert_eq!(redact("plain: a ?b"), "plain: a ?b");
    }

    #[test]
    fn a_refused_connection_does_not_show_the_sas() {
        let url = "http://127.0.0.1:9/a?sig=SECRET";
        let inner = std::io::Error::other(format!("error sending request for url ({url})"));
        let error = azure_core::Error::with_error(ErrorKind::Io, inner, "failed to execute request");
        let error = blob_error("failed to list container `a`", error);
        assert!(error.class.is_retryable());
        let shown = format!("{error:?} {:?} {}", error.to_record(), line(&error));
        assert!(!shown.contains("SECRET"), "{shown}");
    }
}
