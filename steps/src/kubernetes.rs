//! Connections to clusters, and their errors in the words of the contract.

mod login;

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::client::AuthError;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client, Config};
use migrate_plugin_api::{Problem, StepContext, StepError};

use self::login::{login_error, told};
use crate::site::ClusterRef;

/// Long enough for a busy API server, short enough to say within a breath that there is none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to `cluster`. Reads the kubeconfig; sends nothing yet.
///
/// # Errors
/// `Permanent`, naming the file, the context, or the program that it logs in by, when one is not there; `Auth` when
/// that gives no login.
pub(crate) async fn connect(ctx: &StepContext, cluster: &ClusterRef) -> Result<Client, StepError> {
    client(cluster, config(ctx, cluster).await?)
}

/// As [`connect`], but every answer is handed on at once. kube otherwise asks again for up to five
/// minutes after a 503, which hides what a probe is there to see.
///
/// # Errors
/// As [`connect`].
pub(crate) async fn connect_to_probe(ctx: &StepContext, cluster: &ClusterRef) -> Result<Client, StepError> {
    let mut config = config(ctx, cluster).await?;
    config.default_retry = false;
    client(cluster, config)
}

fn client(cluster: &ClusterRef, config: Config) -> Result<Client, StepError> {
    let exec = config.auth_info.exec.clone();
    Client::try_from(config).map_err(|error| {
        login_error(cluster, exec.as_ref(), &error).unwrap_or_else(|| {
            StepError::permanent(format!("failed to set up the client of context `{}`", cluster.context))
                .with_source(error)
        })
    })
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
/// Why it can't be read.
async fn identity(client: &Client) -> Result<String, String> {
    match Api::<Namespace>::all(client.clone()).get_metadata("kube-system").await {
        Ok(system) => system.metadata.uid.ok_or_else(|| "it has none".to_owned()),
        Err(kube::Error::Api(status)) => Err(status.message),
        Err(other) => Err(other.to_string()),
    }
}

/// The problem of a source and a target that are one cluster, however they are named. Where a UID can't be read, it is an
/// error that both contexts have the API server's address or the certificate authority in common, and a warning that
/// they have not: one cluster may have several of each.
pub(crate) async fn one_cluster(
    ctx: &StepContext,
    (source, source_client): (&ClusterRef, &Client),
    (target, target_client): (&ClusterRef, &Client),
    field: &str,
) -> Option<Problem> {
    let both =
        format!("the source (context `{}`) and the target (context `{}`)", source.context, target.context);
    let two = "give [source.cluster] and [target.cluster] in migration.toml contexts of two clusters";
    let (unread, reason) = match (identity(source_client).await, identity(target_client).await) {
        (Ok(source), Ok(target)) => {
            let problem = || Problem::error(format!("{both} are the same cluster")).in_field(field);
            return (source == target).then(|| problem().with_hint(two));
        }
        (Err(reason), _) => (source, reason),
        (_, Err(reason)) => (target, reason),
    };
    let unread =
        format!("the UID of namespace `kube-system` can't be read in context `{}`: {reason}", unread.context);
    let right = "the right to `get` namespaces/kube-system in both, which tells them apart";
    let problem = match in_common(ctx, source, target).await {
        Some(what) => Problem::error(format!("{both} have one {what}, and {unread}"))
            .with_hint(format!("{two}; where they are, grant {right}")),
        None => Problem::warning(format!("it can't be told whether {both} are the same cluster: {unread}"))
            .with_hint(format!("see that they are two, or grant {right}")),
    };
    Some(problem.in_field(field))
}

/// What speaks for one cluster behind both, as far as their contexts tell.
async fn in_common(ctx: &StepContext, source: &ClusterRef, target: &ClusterRef) -> Option<&'static str> {
    if source == target {
        return Some("context");
    }
    let (source, target) = (config(ctx, source).await.ok()?, config(ctx, target).await.ok()?);
    if address(&source.cluster_url) == address(&target.cluster_url) {
        return Some("address of the API server");
    }
    let authority = source.root_cert.filter(|certificates| !certificates.is_empty());
    (authority.is_some() && authority == target.root_cert).then_some("certificate authority")
}

/// Where a URL leads, however it is spelt.
fn address(url: &http::Uri) -> (String, u16, &str) {
    let port = if url.scheme_str() == Some("http") { 80 } else { 443 };
    let host = url.host().unwrap_or_default().trim_end_matches('.').to_lowercase();
    (host, url.port_u16().unwrap_or(port), url.path().trim_end_matches('/'))
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
        // A login that has ended is renewed when something is asked.
        kube::Error::Service(cause) => match cause.downcast_ref::<AuthError>().and_then(told) {
            Some(told) => step_error.with_source(told),
            None => step_error.with_source(kube::Error::Service(cause)),
        },
        other => step_error.with_source(other),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base64::Engine as _;
    use migrate_plugin_api::Severity;
    use migrate_plugin_api::testing::RecordingHost;
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

    async fn forbidding() -> (MockServer, Client) {
        let server = MockServer::start().await;
        let body = serde_json::json!({
            "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden",
            "message": "namespaces \"kube-system\" is forbidden",
        });
        Mock::given(method("GET"))
            .respond_with(ResponseTemplate::new(403).set_body_json(body))
            .mount(&server)
            .await;
        let client = client_of(&server.uri());
        (server, client)
    }

    /// A context of the same name that leads to `server`, with the certificate authority `authority`.
    fn context_to(ctx: &StepContext, name: &str, server: &str, authority: &str) -> ClusterRef {
        let certificate = base64::engine::general_purpose::STANDARD
            .encode(format!("-----BEGIN CERTIFICATE-----\n{authority}\n-----END CERTIFICATE-----\n"));
        let kubeconfig = serde_json::json!({
            "clusters": [{ "name": name, "cluster":
                { "server": server, "certificate-authority-data": certificate } }],
            "users": [{ "name": name, "user": {} }],
            "contexts": [{ "name": name, "context": { "cluster": name, "user": name } }],
        });
        std::fs::write(ctx.path(name), kubeconfig.to_string()).unwrap();
        ClusterRef { kubeconfig: Some(name.into()), context: name.to_owned() }
    }

    /// However they are named: two contexts can lead to one cluster.
    #[tokio::test]
    async fn a_source_that_is_the_target_is_told() {
        let (_a, first) = cluster("11111111-0000-0000-0000-000000000000").await;
        let (_b, second) = cluster("22222222-0000-0000-0000-000000000000").await;
        let project = tempfile::tempdir().unwrap();
        let ctx = Arc::new(RecordingHost::default()).context("apply", project.path());
        let named = |context: &str| ClusterRef { kubeconfig: None, context: context.to_owned() };
        let (eks, aks) = (named("eks"), named("aks"));
        let problem = one_cluster(&ctx, (&eks, &first), (&aks, &first), "target").await.unwrap();
        assert_eq!(
            problem.message,
            "the source (context `eks`) and the target (context `aks`) are the same cluster"
        );
        assert!(one_cluster(&ctx, (&eks, &first), (&aks, &second), "target").await.is_none());
    }

    #[tokio::test]
    async fn where_clusters_can_not_be_told_apart_that_is_told() {
        let (_a, read) = cluster("11111111-0000-0000-0000-000000000000").await;
        let (_b, unread) = forbidding().await;
        let project = tempfile::tempdir().unwrap();
        let ctx = Arc::new(RecordingHost::default()).context("apply", project.path());
        let eks = context_to(&ctx, "eks", "https://a.eks.example", "AAAA");
        for (server, authority, what) in [
            ("https://A.eks.example:443/", "BBBB", Some("address of the API server")),
            ("https://private.eks.example", "AAAA", Some("certificate authority")),
            ("https://a.aks.example", "BBBB", None),
        ] {
            let other = context_to(&ctx, "other", server, authority);
            let problem = one_cluster(&ctx, (&eks, &read), (&other, &unread), "cluster").await.unwrap();
            let both = "the source (context `eks`) and the target (context `other`)";
            let why = "the UID of namespace `kube-system` can't be read in context `other`: \
                       namespaces \"kube-system\" is forbidden";
            let (severity, message) = match what {
                Some(what) => (Severity::Error, format!("{both} have one {what}, and {why}")),
                None => (
                    Severity::Warning,
                    format!("it can't be told whether {both} are the same cluster: {why}"),
                ),
            };
            assert_eq!((problem.severity, &problem.message), (severity, &message));
            assert!(problem.hint.unwrap().contains("`get` namespaces/kube-system"));
            let turned = one_cluster(&ctx, (&other, &unread), (&eks, &read), "cluster").await.unwrap();
            assert_eq!(turned.severity, severity);
        }
        let problem = one_cluster(&ctx, (&eks, &unread), (&eks, &unread), "cluster").await.unwrap();
        assert!(problem.message.contains("have one context"), "{}", problem.message);
    }

    #[test]
    fn a_list_whose_pages_came_too_late_is_asked_for_again() {
        let status = kube::core::Status { code: 410, reason: "Expired".to_owned(), ..Default::default() };
        assert!(kube_error("failed to list", kube::Error::Api(Box::new(status))).class.is_retryable());
    }
}
