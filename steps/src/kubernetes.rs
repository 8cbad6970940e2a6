//! Connections to clusters, and their errors in the words of the contract.

use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use migrate_plugin_api::{Problem, StepContext, StepError};

use crate::site::ClusterRef;

/// Long enough for a busy API server, short enough to say within a breath that there is none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to `cluster`. Reads the kubeconfig; sends nothing yet.
///
/// # Errors
/// `Permanent`, naming the file and the context, when either is not there.
pub(crate) async fn connect(ctx: &StepContext, cluster: &ClusterRef) -> Result<Client, StepError> {
    client(config(ctx, cluster).await?)
}

/// As [`connect`], but every answer is handed on at once. kube otherwise asks again for up to five
/// minutes after a 503, which hides what a probe is there to see.
///
/// # Errors
/// As [`connect`].
pub(crate) async fn connect_to_probe(ctx: &StepContext, cluster: &ClusterRef) -> Result<Client, StepError> {
    let mut config = config(ctx, cluster).await?;
    config.default_retry = false;
    client(config)
}

fn client(config: Config) -> Result<Client, StepError> {
    Client::try_from(config)
        .map_err(|e| StepError::permanent("failed to set up the cluster's client").with_source(e))
}

async fn config(ctx: &StepContext, cluster: &ClusterRef) -> Result<Config, StepError> {
    let kubeconfig = match &cluster.kubeconfig {
        Some(path) => {
            let path = ctx.path(path);
            Kubeconfig::read_from(&path).map_err(|e| {
                StepError::permanent(format!("failed to read kubeconfig {}", path.display())).with_source(e)
            })?
        }
        None => Kubeconfig::read()
            .map_err(|e| StepError::permanent("failed to read the default kubeconfig").with_source(e))?,
    };
    let known: Vec<&str> = kubeconfig.contexts.iter().map(|c| c.name.as_str()).collect();
    if !known.contains(&cluster.context.as_str()) {
        return Err(StepError::permanent(format!("the kubeconfig has no context `{}`", cluster.context))
            .with_hint(format!("it has: {}", known.join(", "))));
    }
    let options = KubeConfigOptions { context: Some(cluster.context.clone()), ..Default::default() };
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|e| {
        StepError::permanent(format!("failed to use context `{}`", cluster.context)).with_source(e)
    })?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    Ok(config)
}

/// Connects and asks for the version, as a preflight: what fails is a [`Problem`] of `field`.
///
/// # Errors
/// The problem to report.
pub(crate) async fn reach(
    ctx: &StepContext,
    cluster: &ClusterRef,
    field: &str,
) -> Result<(Client, k8s_openapi::apimachinery::pkg::version::Info), Box<Problem>> {
    let problem = |e: StepError| {
        let record = e.to_record();
        let mut message = record.message;
        for cause in record.causes {
            message = format!("{message}: {cause}");
        }
        let mut problem = Problem::error(message).in_field(field);
        problem.hint = record.hint;
        Box::new(problem)
    };
    let client = connect(ctx, cluster).await.map_err(problem)?;
    let version = client.apiserver_version().await.map_err(|e| {
        problem(
            kube_error(format!("cluster `{}` can't be reached", cluster.context), e)
                .with_hint(format!("try: kubectl --context {} version", cluster.context)),
        )
    })?;
    Ok((client, version))
}

/// A failed API call as a [`StepError`] of the right class.
pub(crate) fn kube_error(message: impl Into<String>, error: kube::Error) -> StepError {
    let message = message.into();
    let step_error = match &error {
        kube::Error::Api(status) => match status.code {
            401 | 403 => StepError::auth(message),
            404 => StepError::permanent(message),
            // A page of a list came too late (its snapshot is gone), or the request did.
            408 | 410 => StepError::transient(message),
            409 => StepError::conflict(message),
            429 => StepError::throttled(message, None),
            400..=499 => StepError::permanent(message),
            _ => StepError::transient(message),
        },
        _ => StepError::transient(message),
    };
    match error {
        // Its own text alone: kube's Display adds the whole Status once more as Debug.
        kube::Error::Api(status) => step_error.with_source(*status),
        other => step_error.with_source(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_whose_pages_came_too_late_is_asked_for_again() {
        let status = kube::core::Status { code: 410, reason: "Expired".to_owned(), ..Default::default() };
        assert!(kube_error("failed to list", kube::Error::Api(Box::new(status))).class.is_retryable());
    }
}
