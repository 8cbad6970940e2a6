//! Calls to the services that stand for AWS: the bucket in versitygw, the repositories in moto.

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_ecr::config::Credentials as AwsCredentials;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use miette::{IntoDiagnostic, Result, WrapErr, bail, miette};

use super::{BUCKET, Credentials, REGION};
use crate::layout::{host_url, ports};

async fn config(secrets: &Credentials, endpoint: String) -> SdkConfig {
    let keys = AwsCredentials::new(&secrets.aws_access_key, &secrets.aws_secret_key, None, None, "sandbox");
    aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .credentials_provider(keys)
        .endpoint_url(endpoint)
        .load()
        .await
}

async fn ecr(secrets: &Credentials) -> aws_sdk_ecr::Client {
    aws_sdk_ecr::Client::new(&config(secrets, host_url(ports::MOTO)).await)
}

pub(super) async fn s3(secrets: &Credentials) -> aws_sdk_s3::Client {
    let config = config(secrets, host_url(ports::S3)).await;
    let config = aws_sdk_s3::config::Builder::from(&config).force_path_style(true).build();
    aws_sdk_s3::Client::from_conf(config)
}

/// Makes Velero's bucket, if it isn't there.
pub(super) async fn ensure_bucket(secrets: &Credentials) -> Result<()> {
    let s3 = s3(secrets).await;
    if s3.head_bucket().bucket(BUCKET).send().await.is_ok() {
        return Ok(());
    }
    s3.create_bucket().bucket(BUCKET).send().await.into_diagnostic().wrap_err("can't make the bucket")?;
    Ok(())
}

/// The password that goes with the user `AWS`, as moto hands it out.
pub(super) async fn ecr_password(secrets: &Credentials) -> Result<String> {
    let answer = ecr(secrets).await.get_authorization_token().send().await;
    let answer = answer.into_diagnostic().wrap_err("moto hands out no ECR token")?;
    let token = answer
        .authorization_data()
        .first()
        .and_then(|data| data.authorization_token())
        .ok_or_else(|| miette!("moto's answer has no ECR token"))?;
    let token = String::from_utf8(STANDARD.decode(token).into_diagnostic()?).into_diagnostic()?;
    match token.split_once(':') {
        Some(("AWS", password)) => Ok(password.to_owned()),
        _ => bail!("moto's ECR token isn't `AWS:…`"),
    }
}

/// Makes an ECR repository in moto, if it isn't there.
pub async fn ensure_repository(secrets: &Credentials, name: &str) -> Result<()> {
    let made = ecr(secrets).await.create_repository().repository_name(name).send().await;
    match made {
        Ok(_) => Ok(()),
        Err(e) if e.as_service_error().is_some_and(|e| e.is_repository_already_exists_exception()) => Ok(()),
        Err(e) => Err(e).into_diagnostic().wrap_err_with(|| format!("can't make the repository {name}")),
    }
}

/// Deletes every object of Velero's bucket.
pub async fn empty_bucket(secrets: &Credentials) -> Result<()> {
    let s3 = s3(secrets).await;
    let mut pages = s3.list_objects_v2().bucket(BUCKET).into_paginator().send();
    while let Some(page) = pages.next().await {
        let page = page.into_diagnostic().wrap_err("can't list the bucket")?;
        for key in page.contents().iter().filter_map(|object| object.key()) {
            s3.delete_object().bucket(BUCKET).key(key).send().await.into_diagnostic()?;
        }
    }
    Ok(())
}
