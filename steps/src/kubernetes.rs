//! Connections to clusters, and their errors in the words of the contract.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client, Config};
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
    let read = match &cluster.kubeconfig {
        Some(path) => Kubeconfig::read_from(ctx.path(path)),
        None => Kubeconfig::read(),
    };
    let kubeconfig = read.map_err(|e| match e {
        // Its own text quotes the path twice.
        KubeconfigError::ReadConfig(cause, path) => {
            StepError::permanent(format!("failed to read kubeconfig {}", path.display())).with_source(cause)
        }
        other => match &cluster.kubeconfig {
            Some(path) => StepError::permanent(format!("failed to read kubeconfig {}", path.display())),
            None => StepError::permanent("failed to read the default kubeconfig"),
        }
        .with_source(other),
    })?;
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

/// Tells clusters apart: the UID of `kube-system`, which lives as long as its cluster does and is in no
/// other.
///
/// # Errors
/// When it can't be read.
async fn identity(client: &Client) -> Result<Option<String>, kube::Error> {
    let system = Api::<Namespace>::all(client.clone()).get_metadata("kube-system").await?;
    Ok(system.metadata.uid)
}

/// The problem of a source and a target that are one cluster, however they are named. Where a UID may
/// not be read, the same context says it too.
pub(crate) async fn one_cluster(
    (source, source_client): (&ClusterRef, &Client),
    (target, target_client): (&ClusterRef, &Client),
    field: &str,
) -> Option<Problem> {
    let one = match (identity(source_client).await, identity(target_client).await) {
        (Ok(Some(source)), Ok(Some(target))) => source == target,
        _ => source == target,
    };
    one.then(|| {
        Problem::error(format!(
            "the source (context `{}`) and the target (context `{}`) are the same cluster",
            source.context, target.context
        ))
        .in_field(field)
        .with_hint("give [source.cluster] and [target.cluster] in migration.toml contexts of two clusters")
    })
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
    use wiremock::matchers::{method, path};
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;

    fn client_of(server: &str) -> Client {
        let mut config = Config::new(server.parse().unwrap());
        config.default_retry = false;
        Client::try_from(config).unwrap()
    }

    async fn cluster(uid: &str) -> (MockServer, Client) {
        let server = MockServer::start().await;
        let body = serde_json::json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": { "name": "kube-system", "uid": uid },
        });
        Mock::given(method("GET"))
            .and(path("/api/v1/namespaces/kube-system"))
            .respond_with(ResponseTemplate::new(200).set_body_json(body))
            .mount(&server)
            .await;
        let client = client_of(&server.uri());
        (server, client)
    }

    /// However they are named: two contexts can lead to one cluster.
    #[tokio::test]
    async fn a_source_that_is_the_target_is_told() {
        let (_a, first) = cluster("11111111-0000-0000-0000-000000000000").await;
        let (_b, second) = cluster("22222222-0000-0000-0000-000000000000").await;
        let named = |context: &str| ClusterRef { kubeconfig: None, context: context.to_owned() };
        let (eks, aks) = (named("eks"), named("aks"));
        let problem = one_cluster((&eks, &first), (&aks, &first), "target").await.unwrap();
        assert_eq!(
            problem.message,
            "the source (context `eks`) and the target (context `aks`) are the same cluster"
        );
        assert!(one_cluster((&eks, &first), (&aks, &second), "target").await.is_none());
        // Where it can't be read, the same context says it.
        let nobody = client_of("http://127.0.0.1:9");
        assert!(one_cluster((&eks, &nobody), (&eks, &nobody), "target").await.is_some());
        assert!(one_cluster((&eks, &nobody), (&aks, &nobody), "target").await.is_none());
    }

    #[test]
    fn a_list_whose_pages_came_too_late_is_asked_for_again() {
        let status = kube::core::Status { code: 410, reason: "Expired".to_owned(), ..Default::default() };
        assert!(kube_error("failed to list", kube::Error::Api(Box::new(status))).class.is_retryable());
    }
}
