//! One look at one thing that should work. A probe says what it saw; it changes nothing but what
//! the person's own command or query does.

use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::Api;
use kube::client::Body;
use kube::{Client, ResourceExt};
use migrate_plugin_api::{StepContext, StepError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::rows::psql;
use crate::exec::Container;
use crate::kubernetes::kube_error;
use crate::rollout::{Workload, is_ready, list_pods, readiness};

/// One look; a service that answers more slowly is not well.
const LOOK_TIMEOUT: Duration = Duration::from_secs(30);

/// A refused connection is reported well within this; a connection that still stands then is made.
const TCP_SETTLE: Duration = Duration::from_secs(2);

/// How much of an answer is read, to look for a text in it.
const BODY_BYTES: usize = 1024 * 1024;

/// How much a command or a query may print.
const OUTPUT_BYTES: usize = 1024 * 1024;

/// How much of what was seen is repeated.
const SHOWN_CHARS: usize = 200;

/// A GET through the API server's proxy, as `kubectl get --raw` does it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Http {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service.
    pub service: String,
    /// Its port.
    pub port: u16,
    /// `http` or `https`.
    #[serde(default)]
    pub scheme: Scheme,
    /// Path and query.
    #[serde(default = "root")]
    pub path: String,
    /// The status to expect.
    #[serde(default = "ok")]
    pub status: u16,
    /// A text that the answer must contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
}

/// How a Service is spoken to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scheme {
    /// In clear.
    #[default]
    Http,
    /// With TLS; the API server doesn't check the certificate.
    Https,
}

fn root() -> String {
    "/".to_owned()
}

fn ok() -> u16 {
    200
}

/// A connection to a pod of a Service.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Tcp {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service.
    pub service: String,
    /// Its port.
    pub port: u16,
}

/// A command in a container; it must end with 0.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Exec {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod, or else `selector`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Labels of the pod: `app=web`. The first that runs is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The container; the pod's only one where not named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Program and arguments; no shell.
    pub command: Vec<String>,
    /// A text that its output must contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
}

/// A query, run by `psql` inside the container.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Sql {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The container; the pod's only one where not named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The database.
    pub database: String,
    /// The role.
    pub user: String,
    /// The query.
    pub query: String,
    /// What it must print, unaligned and without headers: `t`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
}

/// Which workload must be ready.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Rollout {
    /// Its namespace.
    pub namespace: String,
    /// `deployment`, `stateful-set` or `daemon-set`.
    pub kind: RolloutKind,
    /// Its name.
    pub name: String,
}

/// Kinds whose pods can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RolloutKind {
    /// Deployment.
    Deployment,
    /// StatefulSet.
    #[serde(alias = "statefulset")]
    StatefulSet,
    /// DaemonSet.
    #[serde(alias = "daemonset")]
    DaemonSet,
}

/// One thing to look at.
#[derive(Debug, Clone)]
pub(crate) enum Probe {
    Http(Http),
    Tcp(Tcp),
    Exec(Exec),
    Sql(Sql),
    Rollout(Rollout),
}

/// What a probe saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Look {
    /// What there should be: `status 200`.
    pub expected: String,
    /// What there is: `status 503`.
    pub found: String,
    /// Whether that will do.
    pub passed: bool,
    /// Why, where it is known.
    pub note: Option<String>,
}

impl Look {
    fn new(expected: impl Into<String>, found: impl Into<String>, passed: bool) -> Self {
        Self { expected: expected.into(), found: found.into(), passed, note: None }
    }
}

impl Probe {
    /// What is looked at: `Service shop/web`.
    pub(crate) fn subject(&self) -> String {
        match self {
            Self::Http(http) => format!("Service {}/{}", http.namespace, http.service),
            Self::Tcp(tcp) => format!("Service {}/{} port {}", tcp.namespace, tcp.service, tcp.port),
            Self::Exec(exec) => {
                let pod = exec.pod.as_deref().or(exec.selector.as_deref()).unwrap_or_default();
                let program = exec.command.first().map_or("", String::as_str);
                format!("`{program}` in pod {}/{pod}", exec.namespace)
            }
            Self::Sql(sql) => format!("database {} of pod {}/{}", sql.database, sql.namespace, sql.pod),
            Self::Rollout(rollout) => rollout.workload().to_string(),
        }
    }

    /// What is compared.
    pub(crate) fn what(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Tcp(_) => "tcp",
            Self::Exec(_) => "exec",
            Self::Sql(_) => "sql",
            Self::Rollout(_) => "rollout",
        }
    }

    /// Where it looks.
    pub(crate) fn namespace(&self) -> &str {
        match self {
            Self::Http(http) => &http.namespace,
            Self::Tcp(tcp) => &tcp.namespace,
            Self::Exec(exec) => &exec.namespace,
            Self::Sql(sql) => &sql.namespace,
            Self::Rollout(rollout) => &rollout.namespace,
        }
    }

    /// How long one look may take where the whole check may take `timeout`. Commands and queries
    /// take what they need; a service that answers slowly is not well.
    pub(crate) fn limit(&self, timeout: Duration) -> Duration {
        match self {
            Self::Exec(_) | Self::Sql(_) => timeout.max(LOOK_TIMEOUT),
            _ => timeout.min(LOOK_TIMEOUT).max(TCP_SETTLE * 2),
        }
    }

    /// Looks once, for at most `limit`.
    ///
    /// # Errors
    /// When nothing could be seen: no pod, no connection, no permission.
    pub(crate) async fn look(
        &self,
        ctx: &StepContext,
        client: &Client,
        limit: Duration,
    ) -> Result<Look, StepError> {
        let look = async {
            match self {
                Self::Http(probe) => http(client, probe).await,
                Self::Tcp(probe) => tcp(client, probe).await,
                Self::Exec(probe) => exec(ctx, client, probe).await,
                Self::Sql(probe) => sql(ctx, client, probe).await,
                Self::Rollout(probe) => probe.look(client).await,
            }
        };
        tokio::select! {
            () = ctx.cancel.cancelled() => Err(StepError::cancelled()),
            look = tokio::time::timeout(limit, look) => look.unwrap_or_else(|_| {
                let seconds = limit.as_secs();
                Err(StepError::transient(format!("{} did not answer within {seconds} s", self.subject())))
            }),
        }
    }
}

fn proxy_uri(probe: &Http) -> String {
    let scheme = if probe.scheme == Scheme::Https { "https:" } else { "" };
    let path = probe.path.trim_start_matches('/');
    format!(
        "/api/v1/namespaces/{}/services/{scheme}{}:{}/proxy/{path}",
        probe.namespace, probe.service, probe.port
    )
}

async fn http(client: &Client, probe: &Http) -> Result<Look, StepError> {
    let subject = format!("Service {}/{}", probe.namespace, probe.service);
    let request = Request::get(proxy_uri(probe)).body(Body::empty()).map_err(|e| {
        StepError::permanent(format!("`{}` is no path to ask {subject} for", probe.path)).with_source(e)
    })?;
    let sent = client.send(request).await;
    let response = sent.map_err(|e| kube_error(format!("failed to reach {subject}"), e))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), BODY_BYTES).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    Ok(judge_http(probe, status, &body))
}

fn judge_http(probe: &Http, status: StatusCode, body: &[u8]) -> Look {
    let expected = format!("status {}", probe.status);
    let found = format!("status {}", status.as_u16());
    let from_api_server = status_message(body);
    // Its own 404 or 503 isn't the one that is expected of the Service.
    if status.as_u16() != probe.status || from_api_server.is_some() {
        let mut look = Look::new(expected, found, false);
        look.note = from_api_server;
        return look;
    }
    let Some(text) = &probe.contains else { return Look::new(expected, found, true) };
    let contains = String::from_utf8_lossy(body).contains(text.as_str());
    let found = if contains { format!("{found} with the text") } else { format!("{found} without the text") };
    Look::new(format!("{expected} with `{}`", shown(text)), found, contains)
}

/// The API server's own words (`no endpoints available for service "web"`). What an application
/// answers is never repeated.
fn status_message(body: &[u8]) -> Option<String> {
    let status: serde_json::Value = serde_json::from_slice(body).ok()?;
    let is_status = status["kind"] == "Status" && status["apiVersion"] == "v1";
    is_status.then(|| shown(status["message"].as_str().unwrap_or_default()))
}

async fn tcp(client: &Client, probe: &Tcp) -> Result<Look, StepError> {
    let name = format!("Service {}/{}", probe.namespace, probe.service);
    let services: Api<Service> = Api::namespaced(client.clone(), &probe.namespace);
    let service =
        services.get(&probe.service).await.map_err(|e| kube_error(format!("failed to read {name}"), e))?;
    let selector: Vec<String> = service
        .spec
        .iter()
        .flat_map(|spec| spec.selector.iter().flatten())
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    if selector.is_empty() {
        return Err(StepError::permanent(format!("{name} selects no pods")));
    }
    let pods = list_pods(client, &probe.namespace, Some(&selector.join(","))).await?;
    let Some(pod) = pods.iter().find(|pod| is_ready(pod)) else {
        return Ok(Look::new("a connection", "no pod is ready", false));
    };
    let Some(port) = target_port(&service, pod, probe.port) else {
        return Err(StepError::permanent(format!("{name} has no port {}", probe.port)));
    };
    let pod_name = pod.name_any();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &probe.namespace);
    let forward = pods.portforward(&pod_name, &[port]).await;
    let mut forward = forward
        .map_err(|e| kube_error(format!("failed to connect to pod {}/{pod_name}", probe.namespace), e))?;
    let (Some(mut stream), Some(error)) = (forward.take_stream(port), forward.take_error(port)) else {
        return Err(StepError::transient(format!("failed to connect to {name}")));
    };
    let end = settled(&mut stream, error).await;
    forward.abort();
    Ok(match end {
        None => Look::new("a connection", format!("connected to pod {pod_name} port {port}"), true),
        Some(reason) => {
            let mut look = Look::new("a connection", format!("pod {pod_name} refuses port {port}"), false);
            look.note = Some(reason);
            look
        }
    })
}

/// Why a forwarded connection does not stand; `None` where it does. A refusal comes as an error, but
/// the end of the stream may be seen before it: an end alone proves nothing, so it is no success.
async fn settled(
    stream: &mut (impl AsyncRead + Unpin),
    error: impl Future<Output = Option<String>>,
) -> Option<String> {
    let mut byte = [0];
    let error = async { error.await.map_or_else(|| "closed at once".to_owned(), |e| refusal(&e)) };
    tokio::pin!(error);
    tokio::select! {
        biased;
        reason = &mut error => Some(reason),
        read = stream.read(&mut byte) => match read {
            Ok(count) if count > 0 => None,
            _ => Some(tokio::time::timeout(TCP_SETTLE, error).await.unwrap_or_else(|_| "closed at once".to_owned())),
        },
        () = tokio::time::sleep(TCP_SETTLE) => None,
    }
}

/// The runtime's words are mostly about itself; what matters stands at their end.
fn refusal(error: &str) -> String {
    match error.contains("connection refused") {
        true => "connection refused".to_owned(),
        false => shown(error.rsplit(": ").next().unwrap_or(error)),
    }
}

/// The port of the pod behind the Service's port; a name is looked up among the pod's ports.
fn target_port(service: &Service, pod: &Pod, port: u16) -> Option<u16> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let found = ports.into_iter().find(|p| p.port == i32::from(port))?;
    match &found.target_port {
        None => Some(port),
        Some(IntOrString::Int(number)) => u16::try_from(*number).ok(),
        Some(IntOrString::String(name)) => {
            let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
            let mut named = containers.flat_map(|c| c.ports.iter().flatten());
            let number = named.find(|p| p.name.as_deref() == Some(name))?.container_port;
            u16::try_from(number).ok()
        }
    }
}

async fn exec(ctx: &StepContext, client: &Client, probe: &Exec) -> Result<Look, StepError> {
    let container = match (&probe.pod, &probe.selector) {
        (Some(pod), _) => {
            let (namespace, pod, container) = (probe.namespace.clone(), pod.clone(), probe.container.clone());
            Container { client: client.clone(), namespace, pod, container }.ready().await?
        }
        (None, selector) => {
            let selector = selector.as_deref().unwrap_or_default();
            Container::select(client, &probe.namespace, selector, probe.container.as_deref()).await?
        }
    };
    let command: Vec<&str> = probe.command.iter().map(String::as_str).collect();
    let (stdout, ended) = container.output(ctx, &command, None, OUTPUT_BYTES).await?;
    let expected = "exit code 0";
    let found = format!("exit code {}", ended.code);
    let mut look = match &probe.contains {
        Some(text) if ended.code == 0 => {
            let contains = String::from_utf8_lossy(&stdout).contains(text.as_str());
            let found = format!("{found} {} the text", if contains { "with" } else { "without" });
            Look::new(format!("{expected} with `{}`", shown(text)), found, contains)
        }
        _ => Look::new(expected, found, ended.code == 0),
    };
    look.note = (!look.passed && !ended.stderr.is_empty()).then(|| shown(&ended.stderr));
    Ok(look)
}

async fn sql(ctx: &StepContext, client: &Client, probe: &Sql) -> Result<Look, StepError> {
    let container = Container {
        client: client.clone(),
        namespace: probe.namespace.clone(),
        pod: probe.pod.clone(),
        container: probe.container.clone(),
    };
    let container = container.ready().await?;
    let command = psql(&probe.database, &probe.user)?;
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let query = format!("{};\n", probe.query.trim_end().trim_end_matches(';'));
    let (stdout, ended) = container.output(ctx, &command, Some(query.as_bytes()), OUTPUT_BYTES).await?;
    let expected =
        probe.expect.as_deref().map_or_else(|| "no error".to_owned(), |e| format!("`{}`", shown(e)));
    if ended.code != 0 {
        let mut look = Look::new(expected, format!("psql ended with {}", ended.code), false);
        look.note = Some(shown(&ended.stderr));
        return Ok(look);
    }
    let text = String::from_utf8_lossy(&stdout);
    let answer = text.trim();
    Ok(match &probe.expect {
        Some(expect) => Look::new(expected, format!("`{}`", shown(answer)), answer == expect.trim()),
        None => Look::new(expected, "no error", true),
    })
}

impl Rollout {
    fn workload(&self) -> Workload {
        let kind = match self.kind {
            RolloutKind::Deployment => "Deployment",
            RolloutKind::StatefulSet => "StatefulSet",
            RolloutKind::DaemonSet => "DaemonSet",
        };
        Workload { kind: kind.to_owned(), namespace: self.namespace.clone(), name: self.name.clone() }
    }

    async fn look(&self, client: &Client) -> Result<Look, StepError> {
        let workload = self.workload();
        let Some(object) = workload.read(client).await? else {
            return Ok(Look::new("all pods available", "it isn't there", false));
        };
        let now = readiness(&object);
        if now.wanted == 0 {
            // Ready by the letter, but nothing runs: no proof that anything works.
            return Ok(Look::new("at least 1 pod available", "it is scaled to zero", false));
        }
        let mut look = Look::new(format!("{} pods available", now.wanted), now.to_string(), now.is_ready);
        if !now.is_ready {
            let why = workload.why(client, &object).await?;
            look.note = Some(why.trim_start_matches("; ").to_owned()).filter(|note| !note.is_empty());
        }
        Ok(look)
    }
}

/// One line, shortened.
fn shown(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= SHOWN_CHARS {
        return line;
    }
    line.chars().take(SHOWN_CHARS).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn probe(extra: serde_json::Value) -> Http {
        let mut probe = json!({ "namespace": "shop", "service": "web", "port": 80 });
        for (key, value) in extra.as_object().unwrap() {
            probe[key] = value.clone();
        }
        serde_json::from_value(probe).unwrap()
    }

    #[test]
    fn the_proxy_is_asked_for_the_right_thing() {
        let path = |extra| proxy_uri(&probe(extra));
        assert_eq!(path(json!({})), "/api/v1/namespaces/shop/services/web:80/proxy/");
        assert_eq!(
            path(json!({ "path": "/a?b=c", "scheme": "https" })),
            "/api/v1/namespaces/shop/services/https:web:80/proxy/a?b=c"
        );
    }

    #[test]
    fn answers_are_judged_by_status_and_text() {
        let web = probe(json!({ "contains": "welcome" }));
        assert!(judge_http(&web, StatusCode::OK, b"you are welcome").passed);
        assert_eq!(judge_http(&web, StatusCode::OK, b"go away").found, "status 200 without the text");
        let none =
            br#"{"kind":"Status","apiVersion":"v1","message":"no endpoints available for service \"web\""}"#;
        let look = judge_http(&web, StatusCode::SERVICE_UNAVAILABLE, none);
        assert_eq!(look.note.unwrap(), "no endpoints available for service \"web\"");
        let leak = judge_http(&web, StatusCode::INTERNAL_SERVER_ERROR, b"password=hunter2");
        assert_eq!(leak.note, None);
        let gone = br#"{"kind":"Status","apiVersion":"v1","message":"services \"web\" not found"}"#;
        let closed = probe(json!({ "status": 404 }));
        assert!(judge_http(&closed, StatusCode::NOT_FOUND, b"not here").passed);
        assert!(!judge_http(&closed, StatusCode::NOT_FOUND, gone).passed);
    }

    #[tokio::test]
    async fn a_connection_stands_when_it_speaks_or_stays_open() {
        let refused = || async { Some("dial tcp4 127.0.0.1:9999: connect: connection refused".to_owned()) };
        let (mut open, _peer) = tokio::io::duplex(8);
        assert_eq!(settled(&mut open, refused()).await.as_deref(), Some("connection refused"));
        let late = async {
            tokio::task::yield_now().await;
            refused().await
        };
        assert_eq!(settled(&mut tokio::io::empty(), late).await.as_deref(), Some("connection refused"));
        let dropped = async { None };
        assert_eq!(settled(&mut tokio::io::empty(), dropped).await.as_deref(), Some("closed at once"));
        let never = std::future::pending;
        assert_eq!(settled(&mut &b"220 hello"[..], never()).await, None);
    }

    #[test]
    fn a_named_port_is_looked_up_in_the_pod() {
        let service: Service = serde_json::from_value(json!({ "metadata": {}, "spec": { "ports": [
            { "port": 80, "targetPort": "http" }, { "port": 81 }, { "port": 82, "targetPort": 8082 }] } }))
        .unwrap();
        let pod: Pod = serde_json::from_value(json!({ "metadata": {}, "spec": { "containers": [
            { "name": "web", "ports": [{ "name": "http", "containerPort": 8080 }] }] } }))
        .unwrap();
        let ports = [80, 81, 82, 83].map(|port| target_port(&service, &pod, port));
        assert_eq!(ports, [Some(8080), Some(81), Some(8082), None]);
    }
}
