//! Registries of a config: who logs in where, and the preflight of both.

use std::sync::Arc;

use migrate_plugin_api::{Problem, StepContext, StepError};

use super::auth::Credentials;
use super::docker;
use super::ecr::EcrLogin;
use super::errors;
use super::registry::{Limits, Registry};
use crate::site::{AwsAccess, RegistryRef};

/// The registry to read from: by user name if there is one, by AWS if that is given, else as Docker
/// would: by its config file, or openly.
pub(crate) async fn source(
    ctx: &StepContext,
    from: &RegistryRef,
    aws: Option<&AwsAccess>,
    bytes_per_second: Option<u64>,
) -> Result<Arc<Registry>, StepError> {
    let credentials = match (password(ctx, from).await?, aws) {
        (Some(credentials), _) => credentials,
        (None, Some(aws)) => Credentials::Ecr(EcrLogin::new(ctx, aws).await),
        (None, None) => docker::credentials(&from.host).await?,
    };
    let limits = Limits { bytes_per_second, ..Limits::default() };
    Registry::new(&from.host, from.endpoint.as_ref(), credentials, limits)
}

/// The registry to write to: by user name if there is one, else by Entra, which is only asked
/// when the registry asks for a login.
pub(crate) async fn target(
    ctx: &StepContext,
    to: &RegistryRef,
    bytes_per_second: Option<u64>,
) -> Result<Arc<Registry>, StepError> {
    let credentials = match password(ctx, to).await? {
        Some(credentials) => credentials,
        None => Credentials::Entra(crate::azure::credential()),
    };
    let limits = Limits { bytes_per_second, ..Limits::default() };
    Registry::new(&to.host, to.endpoint.as_ref(), credentials, limits)
}

/// `max-mib-per-second` in bytes.
pub(crate) fn rate(mib_per_second: Option<u32>) -> Option<u64> {
    mib_per_second.map(|mib| u64::from(mib) * 1024 * 1024)
}

async fn password(ctx: &StepContext, registry: &RegistryRef) -> Result<Option<Credentials>, StepError> {
    match (&registry.username, &registry.password) {
        (Some(username), Some(reference)) => {
            let password = ctx.secret(reference).await?;
            Ok(Some(Credentials::Password { username: username.clone(), password }))
        }
        (None, None) => Ok(None),
        _ => Err(StepError::permanent(format!(
            "registry {} has a user name or a password, but not both",
            registry.host
        ))
        .with_hint("give `username` and `password`, or neither")),
    }
}

/// Whether the registry of `field` answers and knows us; what fails is a problem of that field.
pub(crate) async fn reach(
    registry: Result<Arc<Registry>, StepError>,
    field: &str,
) -> Result<Arc<Registry>, Problem> {
    let registry = registry.map_err(|e| errors::problem(&e, field))?;
    registry.ping().await.map_err(|e| errors::problem(&e, field))?;
    Ok(registry)
}
