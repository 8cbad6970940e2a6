//! Secrets Manager, read: <https://docs.aws.amazon.com/secretsmanager/latest/apireference/>.
//!
//! Invariant: of an error only AWS's code and words are kept. The SDK's own text may quote the answer,
//! which holds the secret.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_secretsmanager::types::{Filter, FilterNameStringType};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::stream::{StreamExt, TryStreamExt};
use migrate_plugin_api::{Secret, StepContext, StepError};

use crate::site::AwsAccess;

/// Secrets that are read at once: GetSecretValue is let through thousands of times a second.
pub(super) const AT_ONCE: usize = 8;

const CURRENT: &str = "AWSCURRENT";
const PREVIOUS: &str = "AWSPREVIOUS";

/// A secret with its values.
pub(crate) struct Held {
    pub name: String,
    pub arn: String,
    pub description: Option<String>,
    pub tags: BTreeMap<String, String>,
    pub is_rotated: bool,
    pub current: Version,
    /// Read only where it is asked for.
    pub previous: Option<Version>,
}

/// A version with its value.
pub(crate) struct Version {
    pub id: String,
    pub content: Content,
}

/// What a version holds.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Text(Secret),
    /// In base64.
    Binary(Secret),
}

/// Reads secrets of one region.
pub(crate) struct Source {
    client: Client,
}

impl Source {
    /// Sends nothing yet.
    pub(crate) async fn new(ctx: &StepContext, access: &AwsAccess) -> Self {
        let shared = crate::aws::config(ctx, access).await;
        let mut config = aws_sdk_secretsmanager::config::Builder::from(&shared);
        if let Some(endpoint) = &access.secrets_manager_endpoint {
            config = config.endpoint_url(endpoint.as_str());
        }
        Self { client: Client::from_conf(config.build()) }
    }

    /// The secrets that `wanted` names: names, ARNs, and beginnings of names that end with `*`.
    ///
    /// # Errors
    /// When one can't be read; `Permanent` when there is none.
    pub(crate) async fn read(&self, wanted: &[String], previous: bool) -> Result<Vec<Held>, StepError> {
        let mut ids = BTreeSet::new();
        for name in wanted {
            match name.strip_suffix('*') {
                Some(start) => {
                    let found = self.begin_with(start).await?;
                    if found.is_empty() {
                        return Err(StepError::permanent(format!(
                            "no secret in Secrets Manager begins with `{start}`"
                        )));
                    }
                    ids.extend(found);
                }
                None => _ = ids.insert(name.clone()),
            }
        }
        let reading: Vec<_> = ids.into_iter().map(|id| self.one(id, previous)).collect();
        let all: Vec<Held> = futures::stream::iter(reading).buffered(AT_ONCE).try_collect().await?;
        // A secret may be named twice: by its name and by its ARN.
        let mut seen = BTreeSet::new();
        Ok(all.into_iter().filter(|held| seen.insert(held.arn.clone())).collect())
    }

    async fn begin_with(&self, start: &str) -> Result<Vec<String>, StepError> {
        let what = || format!("failed to list the secrets that begin with `{start}`");
        let mut request = self.client.list_secrets();
        if !start.is_empty() {
            let filter = Filter::builder().key(FilterNameStringType::Name).values(start).build();
            request = request.filters(filter);
        }
        let mut pages = request.into_paginator().send();
        let mut all = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| error(&what(), &e))?;
            let names = page.secret_list().iter().filter_map(|entry| entry.name());
            all.extend(names.filter(|name| name.starts_with(start)).map(str::to_owned));
        }
        Ok(all)
    }

    async fn one(&self, id: String, previous: bool) -> Result<Held, StepError> {
        let what = || format!("failed to look at secret {id}");
        let about = self.client.describe_secret().secret_id(&id).send().await;
        let about = about.map_err(|e| error(&what(), &e))?;
        let (Some(name), Some(arn)) = (about.name(), about.arn()) else {
            return Err(StepError::permanent(format!("{}: AWS gave no name", what())));
        };
        if about.deleted_date().is_some() {
            return Err(StepError::permanent(format!("secret {name} is deleted, and waits for its end"))
                .with_hint(format!(
                    "`aws secretsmanager restore-secret --secret-id {name}`, or leave it out of `secrets`"
                )));
        }
        let current = self.value(arn, Some(CURRENT), None).await?.ok_or_else(|| {
            StepError::permanent(format!("secret {name} has no current value"))
                .with_hint("give it one, or leave it out of `secrets`")
        })?;
        let previous = if previous { self.value(arn, Some(PREVIOUS), None).await? } else { None };
        let tag = |tag: &aws_sdk_secretsmanager::types::Tag| {
            Some((tag.key()?.to_owned(), tag.value().unwrap_or_default().to_owned()))
        };
        Ok(Held {
            name: name.to_owned(),
            arn: arn.to_owned(),
            description: about.description().filter(|text| !text.is_empty()).map(str::to_owned),
            tags: about.tags().iter().filter_map(tag).collect(),
            is_rotated: about.rotation_enabled().unwrap_or_default(),
            current,
            previous,
        })
    }

    /// The version that is current now.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) async fn current(&self, arn: &str) -> Result<Option<Version>, StepError> {
        self.value(arn, Some(CURRENT), None).await
    }

    /// A version by its ID; `None` where the secret or the version is gone.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) async fn version(&self, arn: &str, id: &str) -> Result<Option<Version>, StepError> {
        self.value(arn, None, Some(id)).await
    }

    async fn value(
        &self,
        arn: &str,
        stage: Option<&str>,
        version: Option<&str>,
    ) -> Result<Option<Version>, StepError> {
        let request = self.client.get_secret_value().secret_id(arn);
        let request =
            request.set_version_stage(stage.map(str::to_owned)).set_version_id(version.map(str::to_owned));
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(SdkError::ServiceError(failure)) if failure.err().is_resource_not_found_exception() => {
                return Ok(None);
            }
            Err(e) => return Err(error(&format!("failed to read secret {}", super::names::short(arn)), &e)),
        };
        let content = match (answer.secret_string(), answer.secret_binary()) {
            (Some(text), _) => Content::Text(Secret::new(text)),
            (None, Some(bytes)) => Content::Binary(Secret::new(BASE64.encode(bytes))),
            (None, None) => return Ok(None),
        };
        Ok(Some(Version { id: answer.version_id().unwrap_or_default().to_owned(), content }))
    }
}

/// What Secrets Manager answered against us.
fn error<E: ProvideErrorMetadata, R>(what: &str, error: &SdkError<E, R>) -> StepError {
    let (code, words) = match error {
        SdkError::ServiceError(failure) => {
            (failure.err().code().unwrap_or_default(), failure.err().message().unwrap_or_default())
        }
        _ => ("", ""),
    };
    let said: Vec<&str> = [what, code, words].into_iter().filter(|part| !part.is_empty()).collect();
    let message = said.join(": ");
    match error {
        SdkError::TimeoutError(_) | SdkError::ResponseError(_) => StepError::transient(message),
        SdkError::DispatchFailure(failure) if failure.is_io() || failure.is_timeout() => {
            StepError::transient(message)
        }
        SdkError::ServiceError(_) => match code {
            code if code.contains("Throttl") => StepError::throttled(message, None),
            "InternalServiceError" | "ServiceUnavailable" | "InternalFailure" => StepError::transient(message),
            "ResourceNotFoundException" => {
                StepError::permanent(message).with_hint("check its name, and `region` in `[source.aws]`")
            }
            "InvalidRequestException" | "InvalidParameterException" | "ValidationException" => {
                StepError::permanent(message)
            }
            _ => StepError::auth(message).with_hint(
                "it needs secretsmanager:ListSecrets, secretsmanager:DescribeSecret, secretsmanager:GetSecretValue, \
                 and kms:Decrypt where a key of your own encrypts it",
            ),
        },
        _ => StepError::auth(message).with_hint("check `[source.aws]` in migration.toml"),
    }
}
