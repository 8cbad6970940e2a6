//! One look at one thing that should work. A probe says what it saw; it changes nothing but what
//! the person's own command or query does.

use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::Api;
use kube::client::Body;
use kube::core::Status;
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

/// How much of an answer is read, to look for a text in it: 1 MiB.
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
    let body = beginning(response.into_body())
        .await
        .map_err(|e| StepError::transient(format!("the answer of {subject} broke off")).with_source(e))?;
    match refused(&body) {
        Some(refusal) => Err(kube_error(format!("failed to ask {subject}"), kube::Error::Api(refusal))),
        None => Ok(judge_http(probe, status, &body)),
    }
}

/// As much of an answer as is looked at.
async fn beginning(mut body: Body) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let mut bytes = Vec::new();
    while bytes.len() < BODY_BYTES
        && let Some(frame) = body.frame().await
    {
        if let Ok(data) = frame?.into_data() {
            bytes.extend_from_slice(&data[..data.len().min(BODY_BYTES - bytes.len())]);
        }
    }
    Ok(bytes)
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
    let found = match contains {
        true => format!("{found} with the text"),
        false if body.len() < BODY_BYTES => format!("{found} without the text"),
        false => format!("{found} without the text in its first MiB"),
    };
    Look::new(format!("{expected} with `{}`", shown(text)), found, contains)
}

/// The API server's own answer, instead of the Service's.
fn own_status(body: &[u8]) -> Option<Status> {
    let status: serde_json::Value = serde_json::from_slice(body).ok()?;
    let is_status = status["kind"] == "Status" && status["apiVersion"] == "v1";
    is_status.then(|| serde_json::from_value(status).unwrap_or_default())
}

/// What says that the API server didn't ask the Service: it refuses us, or is in trouble itself. A Service
/// that can't be asked is 503 as well, told by its words: `no endpoints available for service "web"`
/// (pkg/registry/core/service/storage of Kubernetes), `error trying to reach service: …`
/// (k8s.io/apimachinery/pkg/util/proxy/transport.go).
fn refused(body: &[u8]) -> Option<Box<Status>> {
    let status = own_status(body)?;
    let is_of_service = ["for service ", "reach service"].iter().any(|words| status.message.contains(words));
    let is_refused = matches!(status.code, 401 | 403 | 429 | 500 | 503 | 504) && !is_of_service;
    is_refused.then(|| Box::new(status))
}

/// The API server's own words (`no endpoints available for service "web"`). What an application
/// answers is never repeated.
fn status_message(body: &[u8]) -> Option<String> {
    own_status(body).map(|status| shown(&status.message))
}

/// A pod that doesn't run (yet) is something seen; that nobody could say is not.
fn running(found: Result<Container, StepError>) -> Result<Result<Container, Look>, StepError> {
    match found {
        Err(e) if e.class.is_retryable() && e.source.is_none() => {
            Ok(Err(Look::new("a pod that runs", e.message, false)))
        }
        found => found.map(Ok),
    }
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
    let found = match (&probe.pod, &probe.selector) {
        (Some(pod), _) => {
            let (namespace, pod, container) = (probe.namespace.clone(), pod.clone(), probe.container.clone());
            Container { client: client.clone(), namespace, pod, container }.ready().await
        }
        (None, selector) => {
            let selector = selector.as_deref().unwrap_or_default();
            Container::select(client, &probe.namespace, selector, probe.container.as_deref()).await
        }
    };
    let container = match running(found)? {
        Ok(container) => container,
        Err(look) => return Ok(look),
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
    let container = match running(container.ready().await)? {
        Ok(container) => container,
        Err(look) => return Ok(look),
    };
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
    use migrate_plugin_api::ErrorClass;
    use serde_json::json;
    use tokio::io::AsyncWriteExt;

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

    #[test]
    fn what_the_api_server_refuses_is_no_word_of_the_service() {
        let body = |code: u16, message: &str| {
            json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code })
                .to_string()
                .into_bytes()
        };
        let class = |code, message| {
            let status = refused(&body(code, message))?;
            Some(kube_error("failed", kube::Error::Api(status)).class)
        };
        assert_eq!(class(403, "services \"web:80\" is forbidden"), Some(ErrorClass::Auth));
        assert!(class(503, "apiserver is shutting down").unwrap().is_retryable());
        assert!(class(500, "etcdserver: request timed out").unwrap().is_retryable());
        assert!(class(429, "too many requests").unwrap().is_retryable());
        assert_eq!(class(503, "no endpoints available for service \"web\""), None);
        assert_eq!(class(503, "error trying to reach service: dial tcp: connection refused"), None);
        assert_eq!(class(404, "services \"web\" not found"), None);
        assert!(refused(br#"{"kind":"Status","of":"shop"}"#).is_none(), "the Service's own");
    }

    /// What a Service answers that sends `head` and then `body`, and closes.
    async fn answered(head: &str, body: Vec<u8>, extra: serde_json::Value) -> Result<Look, StepError> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let answer = [format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n").into_bytes(), body].concat();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(&answer).await;
        });
        let client = Client::try_from(kube::Config::new(server.parse().unwrap())).unwrap();
        http(&client, &probe(extra)).await
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_none() {
        let error = answered("content-length: 100", b"0123456789".to_vec(), json!({})).await.unwrap_err();
        assert!(error.class.is_retryable());
        assert_eq!(error.message, "the answer of Service shop/web broke off");
    }

    #[tokio::test]
    async fn a_text_is_looked_for_in_the_beginning_of_a_long_page() {
        let page = |at: usize| {
            let mut page = vec![b' '; 2 * BODY_BYTES];
            page[at..at + 7].copy_from_slice(b"welcome");
            page
        };
        let look = async |at| {
            let head = format!("content-length: {}", 2 * BODY_BYTES);
            answered(&head, page(at), json!({ "contains": "welcome" })).await.unwrap()
        };
        assert!(look(0).await.passed);
        let late = look(BODY_BYTES + 1).await;
        assert_eq!(
            (late.passed, late.found.as_str()),
            (false, "status 200 without the text in its first MiB")
        );
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
