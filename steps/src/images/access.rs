//! Registries of a config: who logs in where, and the preflight of both.

use std::sync::Arc;

use migrate_plugin_api::{Problem, StepContext, StepError};

use super::auth::Credentials;
use super::docker;
use super::ecr::{self, EcrLogin};
use super::errors;
use super::registry::{Limits, Registry};
use crate::site::{AwsAccess, RegistryRef};

/// Where ACR's registries answer, in the public cloud, in China and for the US government.
const ACR_DOMAINS: [&str; 3] = [".azurecr.io", ".azurecr.cn", ".azurecr.us"];

/// The registry to read from. Who logs in, see [`source_login`].
pub(crate) async fn source(
    ctx: &StepContext,
    from: &RegistryRef,
    aws: Option<&AwsAccess>,
    bytes_per_second: Option<u64>,
) -> Result<Arc<Registry>, StepError> {
    let credentials = source_login(ctx, from, aws).await?;
    let limits = Limits { bytes_per_second, ..Limits::default() };
    Registry::new(&from.host, from.endpoint.as_ref(), credentials, limits)
}

/// By user name if there is one; at ECR by AWS, if that is given; else as Docker would: by its config
/// file, or openly.
async fn source_login(
    ctx: &StepContext,
    from: &RegistryRef,
    aws: Option<&AwsAccess>,
) -> Result<Credentials, StepError> {
    match (password(ctx, from).await?, aws) {
        (Some(credentials), _) => Ok(credentials),
        // Its password opens every repository of that identity: nobody else may get it.
        (None, Some(aws)) if ecr::is_registry(&from.host, aws) => {
            Ok(Credentials::Ecr(EcrLogin::new(ctx, aws).await))
        }
        (None, _) => docker::credentials(&from.host).await,
    }
}

/// The registry to write to. Who logs in, see [`target_login`].
pub(crate) async fn target(
    ctx: &StepContext,
    to: &RegistryRef,
    bytes_per_second: Option<u64>,
) -> Result<Arc<Registry>, StepError> {
    let credentials = target_login(ctx, to).await?;
    let limits = Limits { bytes_per_second, ..Limits::default() };
    Registry::new(&to.host, to.endpoint.as_ref(), credentials, limits)
}

/// By user name if there is one; at ACR by Entra, which is only asked when the registry asks for a
/// login; else as Docker would.
async fn target_login(ctx: &StepContext, to: &RegistryRef) -> Result<Credentials, StepError> {
    match password(ctx, to).await? {
        Some(credentials) => Ok(credentials),
        // Every ACR that is open to the identity takes its token: nobody else may get it.
        None if is_acr(&to.host) => Ok(Credentials::Entra(crate::azure::credential())),
        None => docker::credentials(&to.host).await,
    }
}

/// Whether `host` is a registry of ACR's.
fn is_acr(host: &str) -> bool {
    ACR_DOMAINS.iter().any(|domain| host.strip_suffix(domain).is_some_and(|name| !name.is_empty()))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(host: &str) -> RegistryRef {
        RegistryRef { host: host.to_owned(), endpoint: None, username: None, password: None }
    }

    fn aws(ecr_endpoint: Option<&str>) -> AwsAccess {
        serde_json::from_value(serde_json::json!({ "region": "us-east-1", "ecr-endpoint": ecr_endpoint }))
            .unwrap()
    }

    #[tokio::test]
    async fn ecrs_password_goes_to_ecr_and_nobody_else() {
        let ctx = super::super::stand::host().context("images", ".");
        let private = Some("https://vpce-1.api.ecr.us-east-1.vpce.amazonaws.com");
        for (host, endpoint, is_ecrs) in [
            ("123456789012.dkr.ecr.us-east-1.amazonaws.com", None, true),
            ("123456789012.dkr.ecr.us-east-1.amazonaws.com", private, true),
            ("123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com", None, true),
            ("123456789012.dkr-ecr.us-east-1.on.aws", None, true),
            ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", None, true),
            ("harbor.corp.example", None, false),
            ("harbor.corp.example", private, false),
            ("127.0.0.1:5000", None, false),
            ("public.ecr.aws", None, false),
            ("123456789012.dkr.ecr.us-east-1.amazonaws.com.evil.example", None, false),
            ("evil.example.123456789012.dkr.ecr.us-east-1.amazonaws.com", None, false),
            // A stand-in for ECR makes passwords of its own.
            ("127.0.0.1:5000", Some("http://127.0.0.1:4566"), true),
        ] {
            let login = source_login(&ctx, &registry(host), Some(&aws(endpoint))).await;
            assert_eq!(matches!(login, Ok(Credentials::Ecr(_))), is_ecrs, "{host} {endpoint:?}");
        }
    }

    #[tokio::test]
    async fn an_entra_token_is_only_for_acr() {
        let ctx = super::super::stand::host().context("images", ".");
        for (host, is_acrs) in [
            ("example.azurecr.io", true),
            ("example.azurecr.cn", true),
            ("example.azurecr.us", true),
            ("harbor.corp.example", false),
            ("127.0.0.1:5000", false),
            (".azurecr.io", false),
            ("example.azurecr.io.evil.example", false),
            ("exampleazurecr.io", false),
        ] {
            let login = target_login(&ctx, &registry(host)).await;
            assert_eq!(matches!(login, Ok(Credentials::Entra(_))), is_acrs, "{host}");
        }
    }

    #[tokio::test]
    async fn a_user_name_goes_before_everything() {
        let ctx = super::super::stand::host().context("images", ".");
        let named: RegistryRef = serde_json::from_value(serde_json::json!({
            "host": "123456789012.dkr.ecr.us-east-1.amazonaws.com", "username": "u", "password": "env:STAND" }))
        .unwrap();
        let login = source_login(&ctx, &named, Some(&aws(None))).await;
        assert!(matches!(login, Ok(Credentials::Password { .. })));
        let named = RegistryRef { host: "example.azurecr.io".to_owned(), ..named };
        assert!(matches!(target_login(&ctx, &named).await, Ok(Credentials::Password { .. })));
    }
}
