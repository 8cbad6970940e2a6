//! How AWS is reached: the configuration of its clients from [`AwsAccess`], and signed requests to the APIs
//! whose SDK would cost more to build than is used of it.

mod api;

use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use migrate_plugin_api::StepContext;

use crate::site::AwsAccess;

pub(crate) use api::{Api, Denial};

/// Attempts of one request before the step sees the error; the engine retries the step itself.
const MAX_ATTEMPTS: u32 = 5;

/// The shared configuration of every AWS client for `access`. Resolves no credential yet.
pub(crate) async fn config(ctx: &StepContext, access: &AwsAccess) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new(access.region.clone()))
        .retry_config(RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS));
    if let Some(profile) = &access.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(file) = &access.credentials_file {
        let files = EnvConfigFiles::builder()
            .include_default_config_file(true)
            .with_file(EnvConfigFileKind::Credentials, ctx.path(file))
            .build();
        loader = loader.profile_files(files);
    }
    loader.load().await
}
