//! Commands inside containers, as `kubectl exec` runs them: output streamed, exit codes told from
//! lost connections, standard input never in argv.
//!
//! Invariant: nothing of stdin or stdout is ever logged or put into an error; of stderr the last
//! lines are, because they are what says why a command failed.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{Api, AttachParams, AttachedProcess, ListParams};
use kube::{Client, ResourceExt};
use migrate_plugin_api::{StepContext, StepError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::kubernetes::kube_error;
use crate::rollout::{POLL_INTERVAL, is_ready, pause};

/// Bytes in flight of each stream: large enough that hashes of many files don't wait for us.
const PIPE_BYTES: usize = 256 * 1024;

/// How much of stderr is kept for the error: the end of it, where programs say why they stop.
const STDERR_KEPT_BYTES: usize = 4096;

/// A container of a running pod.
#[derive(Clone)]
pub(crate) struct Container {
    /// The cluster.
    pub client: Client,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The container; the pod's only one where not named.
    pub container: Option<String>,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The exit code.
    pub code: i32,
    /// The end of stderr, trimmed.
    pub stderr: String,
}

impl Container {
    /// The container in words: `container postgres of pod shop/postgres-0`.
    pub(crate) fn describe(&self) -> String {
        match &self.container {
            Some(container) => format!("container {container} of pod {}/{}", self.namespace, self.pod),
            None => format!("pod {}/{}", self.namespace, self.pod),
        }
    }

    /// Makes sure that the pod runs and has the container, and picks the only one where none is named.
    ///
    /// # Errors
    /// `Permanent` where there is no such pod or container, `Transient` where it doesn't run (yet).
    pub(crate) async fn ready(self) -> Result<Self, StepError> {
        self.look().await.map(|(container, _)| container)
    }

    /// As [`ready`](Self::ready), but waits for a pod that is about to run: a StatefulSet replaces a
    /// restored pod once it is ready, where its own revision of the template is another one. A pod
    /// that runs and never becomes ready is taken as it is.
    ///
    /// # Errors
    /// Those of `ready`, after at most `limit`, and `Cancelled`.
    pub(crate) async fn steady(self, ctx: &StepContext, limit: Duration) -> Result<Self, StepError> {
        let deadline = Instant::now() + limit;
        let mut was_seen = false;
        loop {
            let is_over = Instant::now() + POLL_INTERVAL >= deadline;
            match next(self.look().await, was_seen, is_over) {
                Next::Take(container) => return Ok(container),
                Next::Fail(error) => return Err(error),
                Next::Wait => was_seen = true,
            }
            pause(ctx, POLL_INTERVAL).await?;
        }
    }

    /// The container in the pod as it is now, and whether the pod is ready.
    async fn look(&self) -> Result<(Self, bool), StepError> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let name = format!("{}/{}", self.namespace, self.pod);
        let pod =
            pods.get_opt(&self.pod).await.map_err(|e| kube_error(format!("failed to read pod {name}"), e))?;
        let Some(pod) = pod else {
            return Err(StepError::permanent(format!("there is no pod {name}")));
        };
        let container = Some(running_container(&pod, &name, self.container.as_deref())?);
        let (client, namespace) = (self.client.clone(), self.namespace.clone());
        Ok((Self { client, namespace, pod: self.pod.clone(), container }, is_ready(&pod)))
    }

    /// Tells this pod from every other one, in whatever cluster.
    ///
    /// # Errors
    /// Those of reading it.
    pub(crate) async fn pod_uid(&self) -> Result<Option<String>, StepError> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let name = format!("{}/{}", self.namespace, self.pod);
        let pod = pods.get(&self.pod).await;
        let pod = pod.map_err(|e| kube_error(format!("failed to read pod {name}"), e))?;
        Ok(pod.metadata.uid)
    }

    /// The first running pod that `selector` (`app=web,tier=front`) finds.
    ///
    /// # Errors
    /// `Transient` where none runs (yet), and what `ready` says.
    pub(crate) async fn select(
        client: &Client,
        namespace: &str,
        selector: &str,
        container: Option<&str>,
    ) -> Result<Self, StepError> {
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let list = pods
            .list(&ListParams::default().labels(selector))
            .await
            .map_err(|e| kube_error(format!("failed to list pods `{selector}` of {namespace}"), e))?;
        let running = list.items.iter().find(|pod| phase(pod) == "Running" && is_kept(pod));
        let Some(pod) = running else {
            return Err(StepError::transient(format!("no pod `{selector}` of {namespace} runs")));
        };
        let name = format!("{namespace}/{}", pod.name_any());
        let container = Some(running_container(pod, &name, container)?);
        Ok(Self { client: client.clone(), namespace: namespace.to_owned(), pod: pod.name_any(), container })
    }

    /// Runs `command` and hands its stdout to `sink` as it comes.
    ///
    /// # Errors
    /// `Transient` when the connection ends before the command does, `Cancelled` on request, and
    /// whatever `sink` returns. A command that fails is no error here: see [`Ended::code`].
    pub(crate) async fn run(
        &self,
        ctx: &StepContext,
        command: &[&str],
        stdin: Option<&[u8]>,
        sink: impl FnMut(&[u8]) -> Result<(), StepError> + Send,
    ) -> Result<Ended, StepError> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = AttachParams {
            container: self.container.clone(),
            stdin: stdin.is_some(),
            stdout: true,
            stderr: true,
            max_stdout_buf_size: Some(PIPE_BYTES),
            ..AttachParams::default()
        };
        let cancelled = ctx.cancel.cancelled();
        let work = async {
            let process = pods.exec(&self.pod, command.iter().copied(), &params).await.map_err(|e| {
                kube_error(format!("failed to run `{}` in {}", first(command), self.describe()), e)
            })?;
            self.follow(process, stdin, sink).await
        };
        tokio::select! {
            ended = work => ended,
            () = cancelled => Err(StepError::cancelled()),
        }
    }

    /// Runs `command` and returns its stdout, at most `limit_bytes` of it.
    ///
    /// # Errors
    /// As [`run`](Self::run), and `Permanent` when there is more output than `limit_bytes`.
    pub(crate) async fn output(
        &self,
        ctx: &StepContext,
        command: &[&str],
        stdin: Option<&[u8]>,
        limit_bytes: usize,
    ) -> Result<(Vec<u8>, Ended), StepError> {
        let mut stdout = Vec::new();
        let place = self.describe();
        let ended = self
            .run(ctx, command, stdin, |bytes| {
                if stdout.len() + bytes.len() > limit_bytes {
                    return Err(StepError::permanent(format!(
                        "`{}` in {place} wrote more than {limit_bytes} bytes",
                        first(command)
                    )));
                }
                stdout.extend_from_slice(bytes);
                Ok(())
            })
            .await?;
        Ok((stdout, ended))
    }

    /// A command that the runtime could not start: for good where there is no such program.
    fn not_started(&self, reason: &str) -> StepError {
        let place = self.describe();
        match missing_program(reason) {
            Some(program) => StepError::permanent(format!("{place} has no `{program}`")),
            None => StepError::transient(format!("failed to run a command in {place}: {reason}")),
        }
    }

    /// Pumps the three streams at once: a full pipe of one must never stop the others.
    async fn follow(
        &self,
        mut process: AttachedProcess,
        stdin: Option<&[u8]>,
        mut sink: impl FnMut(&[u8]) -> Result<(), StepError> + Send,
    ) -> Result<Ended, StepError> {
        let lost = || StepError::transient(format!("the connection to {} was lost", self.describe()));
        let status = process.take_status().ok_or_else(lost)?;
        let writer = process.stdin();
        let mut stdout = process.stdout().ok_or_else(lost)?;
        let mut stderr = process.stderr().ok_or_else(lost)?;
        let feed = async {
            if let (Some(mut writer), Some(bytes)) = (writer, stdin) {
                // A command may end without reading all of its input; its exit code says the rest.
                let _ = writer.write_all(bytes).await;
                let _ = writer.shutdown().await;
            }
            Ok(())
        };
        let read = async {
            let mut buffer = vec![0; PIPE_BYTES];
            loop {
                let count = stdout.read(&mut buffer).await.map_err(|e| lost().with_source(e))?;
                if count == 0 {
                    return Ok(());
                }
                sink(&buffer[..count])?;
            }
        };
        let complain = async { tail(&mut stderr).await.map_err(|e| lost().with_source(e)) };
        let ((), (), stderr) = tokio::try_join!(feed, read, complain)?;
        match status.await {
            Some(status) => ended(&status, stderr).map_err(|reason| self.not_started(&reason)),
            None => match process.join().await {
                Ok(()) => Err(lost()),
                Err(e) => Err(lost().with_source(e)),
            },
        }
    }
}

/// What to do after a look at a pod that may be about to be replaced.
enum Next<T> {
    Take(T),
    Wait,
    Fail(StepError),
}

/// `was_seen`: an earlier look found the pod, or one that may become it.
fn next<T>(look: Result<(T, bool), StepError>, was_seen: bool, is_over: bool) -> Next<T> {
    match look {
        Ok((container, is_ready)) if is_ready || is_over => Next::Take(container),
        Ok(_) => Next::Wait,
        // Between two pods of one name there is none.
        Err(error) if is_over || !(was_seen || error.class.is_retryable()) => Next::Fail(error),
        Err(_) => Next::Wait,
    }
}

fn first<'a>(command: &[&'a str]) -> &'a str {
    command.first().copied().unwrap_or_default()
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Unknown")
}

fn is_kept(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
}

fn running_container(pod: &Pod, name: &str, wanted: Option<&str>) -> Result<String, StepError> {
    let known: Vec<&str> =
        pod.spec.iter().flat_map(|s| s.containers.iter().map(|c| c.name.as_str())).collect();
    let container = match (wanted, known.as_slice()) {
        (Some(wanted), known) if known.contains(&wanted) => wanted,
        (None, [only]) => only,
        (Some(wanted), _) => {
            return Err(StepError::permanent(format!("pod {name} has no container `{wanted}`"))
                .with_hint(format!("it has: {}", known.join(", "))));
        }
        (None, _) => {
            return Err(StepError::permanent(format!("pod {name} has several containers"))
                .with_hint(format!("add `container`, one of: {}", known.join(", "))));
        }
    };
    if phase(pod) != "Running" || !is_kept(pod) {
        let state = if is_kept(pod) { phase(pod) } else { "being deleted" };
        return Err(StepError::transient(format!("pod {name} is {state}")));
    }
    Ok(container.to_owned())
}

/// The program in runc's words `exec: "psql": executable file not found in $PATH`, or
/// `exec: "/a": stat /a: no such file or directory`; containerd passes them on as they are.
fn missing_program(reason: &str) -> Option<&str> {
    let is_missing =
        ["executable file not found", "no such file or directory"].iter().any(|w| reason.contains(w));
    let quoted = reason.rsplit_once("exec: \"")?.1;
    let program = quoted.split_once('"')?.0;
    is_missing.then_some(program)
}

/// Reads to the end and keeps the last bytes.
async fn tail(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut kept: Vec<u8> = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(String::from_utf8_lossy(&kept).trim().to_owned());
        }
        kept.extend_from_slice(&buffer[..count]);
        let excess = kept.len().saturating_sub(STDERR_KEPT_BYTES);
        kept.drain(..excess);
    }
}

/// The end of a command from the status of the exec protocol (`v4.channel.k8s.io` and later): a
/// failed command is `NonZeroExitCode` with its code as a cause; anything else never ran.
fn ended(status: &Status, stderr: String) -> Result<Ended, String> {
    if status.status.as_deref() == Some("Success") {
        return Ok(Ended { code: 0, stderr });
    }
    let causes = status.details.iter().flat_map(|d| d.causes.iter().flatten());
    let code = causes
        .filter(|cause| cause.reason.as_deref() == Some("ExitCode"))
        .find_map(|cause| cause.message.as_deref()?.parse().ok());
    match code {
        Some(code) if status.reason.as_deref() == Some("NonZeroExitCode") => Ok(Ended { code, stderr }),
        _ => Err(status.message.clone().unwrap_or_else(|| "no reason given".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_is_replaced_is_waited_for_and_a_missing_one_is_not() {
        let deleted = || Err(StepError::transient("pod shop/db-0 is being deleted"));
        let missing = || Err(StepError::permanent("there is no pod shop/db-0"));
        let told = |next: Next<&str>| match next {
            Next::Take(pod) => pod.to_owned(),
            Next::Wait => "wait".to_owned(),
            Next::Fail(error) => error.message,
        };
        // Deleted, gone, started, ready.
        assert_eq!(told(next(deleted(), false, false)), "wait");
        assert_eq!(told(next(missing(), true, false)), "wait");
        assert_eq!(told(next(Ok(("new", false)), true, false)), "wait");
        assert_eq!(told(next(Ok(("new", true)), true, false)), "new");
        // One that was never there, and what is left when the time is over.
        assert_eq!(told(next(missing(), false, false)), "there is no pod shop/db-0");
        assert_eq!(told(next(deleted(), true, true)), "pod shop/db-0 is being deleted");
        assert_eq!(told(next(missing(), true, true)), "there is no pod shop/db-0");
        assert_eq!(told(next(Ok(("running", false)), true, true)), "running");
    }

    fn status(json: serde_json::Value) -> Status {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn exit_codes_are_told_from_commands_that_never_ran() {
        let ok = status(serde_json::json!({ "metadata": {}, "status": "Success" }));
        assert_eq!(ended(&ok, String::new()).unwrap().code, 0);
        let failed = status(serde_json::json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": "command terminated with non-zero exit code",
            "details": { "causes": [{ "reason": "ExitCode", "message": "3" }] },
        }));
        assert_eq!(ended(&failed, "no".into()).unwrap(), Ended { code: 3, stderr: "no".into() });
        let absent = status(serde_json::json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError",
            "message": "exec: \"sh\": executable file not found in $PATH",
        }));
        let reason = ended(&absent, String::new()).unwrap_err();
        assert_eq!(missing_program(&reason), Some("sh"));
        assert_eq!(missing_program("failed to create task: exec: \"sh\": permission denied"), None);
    }

    #[tokio::test]
    async fn only_the_end_of_stderr_is_kept() {
        let text = format!("{}the reason\n", "x".repeat(10_000));
        let kept = tail(&mut text.as_bytes()).await.unwrap();
        assert!(kept.ends_with("the reason"));
        assert!(kept.len() <= STDERR_KEPT_BYTES);
    }

    #[test]
    fn the_container_is_picked_or_named() {
        let pod = |containers: serde_json::Value, phase: &str| -> Pod {
            serde_json::from_value(serde_json::json!({
                "metadata": {}, "spec": { "containers": containers }, "status": { "phase": phase },
            }))
            .unwrap()
        };
        let one = pod(serde_json::json!([{ "name": "web" }]), "Running");
        assert_eq!(running_container(&one, "shop/web", None).unwrap(), "web");
        let error = running_container(&one, "shop/web", Some("postgres")).unwrap_err();
        assert_eq!(error.message, "pod shop/web has no container `postgres`");
        assert_eq!(error.hint.as_deref(), Some("it has: web"));
        let two = pod(serde_json::json!([{ "name": "web" }, { "name": "proxy" }]), "Running");
        assert_eq!(running_container(&two, "shop/web", Some("proxy")).unwrap(), "proxy");
        assert!(running_container(&two, "shop/web", None).is_err());
        let pending = pod(serde_json::json!([{ "name": "web" }]), "Pending");
        assert!(running_container(&pending, "shop/web", None).unwrap_err().class.is_retryable());
    }
}
