//! How AWS is reached: the configuration of its clients from [`AwsAccess`], and signed requests to the APIs
//! whose SDK would cost more to build than is used of it.

mod api;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use migrate_plugin_api::StepContext;

use crate::site::AwsAccess;

pub(crate) use api::{Api, Denial};

/// Attempts of one request before the step sees the error; the engine retries the step itself.
const MAX_ATTEMPTS: u32 = 5;

/// The shared configuration of every AWS client for `access`. Resolves no credential yet. Where a profile or a file
/// is named, credentials come from there and from nowhere else: the SDK's own chain would ask the environment first,
/// and go on to the machine's role where the profile is unknown.
pub(crate) async fn config(ctx: &StepContext, access: &AwsAccess) -> SdkConfig {
    let region = Region::new(access.region.clone());
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .region(region.clone())
        .retry_config(RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS));
    let about = ProviderConfig::without_region()
        .with_region(Some(region))
        .with_behavior_version(Some(BehaviorVersion::latest()));
    let mut profile = ProfileFileCredentialsProvider::builder().configure(&about);
    if let Some(name) = &access.profile {
        (loader, profile) = (loader.profile_name(name), profile.profile_name(name));
    }
    if let Some(file) = &access.credentials_file {
        let files = EnvConfigFiles::builder()
            .include_default_config_file(true)
            .with_file(EnvConfigFileKind::Credentials, ctx.path(file))
            .build();
        (loader, profile) = (loader.profile_files(files.clone()), profile.profile_files(files));
    }
    if access.profile.is_some() || access.credentials_file.is_some() {
        loader = loader.credentials_provider(profile.build());
    }
    loader.load().await
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::Arc;

    use aws_credential_types::provider::ProvideCredentials as _;
    use migrate_plugin_api::testing::RecordingHost;
    use serde_json::json;

    use super::*;

    /// Prints whose key is found.
    #[tokio::test]
    #[ignore = "run by what_is_named_wins_over_the_environment_and_an_unknown_profile_is_an_error"]
    async fn child_that_asks() {
        let project = std::env::current_dir().unwrap();
        let access = json!({ "region": "us-east-1", "profile": std::env::var("OURS").ok(),
            "credentials-file": "credentials" });
        let ctx = Arc::new(RecordingHost::default()).context("copy", &project);
        let config = config(&ctx, &serde_json::from_value(access).unwrap()).await;
        match config.credentials_provider().unwrap().provide_credentials().await {
            Ok(keys) => println!("key={}", keys.access_key_id()),
            Err(error) => println!("error={error:?}"),
        }
    }

    #[test]
    fn what_is_named_wins_over_the_environment_and_an_unknown_profile_is_an_error() {
        let project = tempfile::tempdir().unwrap();
        let keys =
            |name: &str| format!("[{name}]\naws_access_key_id = {name}-key\naws_secret_access_key = s\n");
        std::fs::write(project.path().join("credentials"), keys("default") + &keys("production")).unwrap();
        let ask = |profile: Option<&str>| {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", "--ignored", "--nocapture", "aws::tests::child_that_asks"]);
            child.current_dir(project.path()).env("AWS_ACCESS_KEY_ID", "environment");
            child.env("AWS_SECRET_ACCESS_KEY", "s").env("AWS_CONFIG_FILE", "/dev/null");
            child.env_remove("AWS_PROFILE").envs(profile.map(|profile| ("OURS", profile)));
            String::from_utf8(child.output().unwrap().stdout).unwrap()
        };
        assert!(ask(None).contains("key=default-key"), "{}", ask(None));
        assert!(ask(Some("production")).contains("key=production-key"), "{}", ask(Some("production")));
        let unknown = ask(Some("producton"));
        assert!(unknown.contains("error=") && unknown.contains("producton"), "{unknown}");
    }
}
