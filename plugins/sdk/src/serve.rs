//! The plugin's side of a conversation: one request after another until the host has gone.

use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;

use migrate_plugin_api::protocol::{
    CancelParams, Description, ErrorData, ErrorObject, INVALID_PARAMS, INVALID_REQUEST, Id, InitializeParams,
    InitializeResult, MAX_MESSAGE_BYTES, METHOD_NOT_FOUND, NO_COMMON_VERSION, PARSE_ERROR, PROTOCOL_VERSION,
};
use migrate_plugin_api::{CancellationToken, Step, StepContext, StepError, VerifyDepth};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};

use crate::link::{CallHost, Link};
use crate::message::{CallParams, Incoming};

/// Lines that are read ahead: an answer and a `cancel` never wait for one another.
const LINES_AHEAD: usize = 16;

/// Why a conversation ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The host can't be read or written.
    #[error("lost the host")]
    Lost(#[from] std::io::Error),
    /// The host sent a line that is longer than the protocol allows.
    #[error("the host sent a line of more than {MAX_MESSAGE_BYTES} bytes")]
    LineTooLong,
}

/// Serves `step` on stdin and stdout, and ends the process' work when the host says so or has gone:
/// a whole `fn main`.
///
/// Started by hand, it says what it is.
pub fn main(step: impl Step + 'static) -> ExitCode {
    if std::env::args_os().len() > 1 || std::io::stdin().is_terminal() {
        let name = step.describe().name;
        let _ = writeln!(
            std::io::stderr(),
            "this is a plugin of migrate, for the step `{name}`; to test it: migrate plugin test FILE"
        );
        return ExitCode::from(2);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return fail(&e),
    };
    match runtime.block_on(serve(Arc::new(step))) {
        // What a step still does on threads of its own is not waited for: nobody records it.
        Ok(()) => std::process::exit(0),
        Err(e) => fail(&e),
    }
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    let _ = writeln!(std::io::stderr(), "error: {error}{cause}");
    ExitCode::FAILURE
}

/// Serves `step` on stdin and stdout until the host says `shutdown` or closes stdin. A call that is
/// running then is dropped. The process should end when this returns: a thread may still wait for
/// stdin.
///
/// # Errors
/// When the host can't be read or written, or breaks the protocol.
pub async fn serve(step: Arc<dyn Step>) -> Result<(), ServeError> {
    serve_on(step, std::io::stdin(), std::io::stdout()).await
}

/// The same on other streams, for tests and for hosts of their own.
///
/// # Errors
/// Those of [`serve`].
pub async fn serve_on(
    step: Arc<dyn Step>,
    input: impl Read + Send + 'static,
    output: impl Write + Send + 'static,
) -> Result<(), ServeError> {
    let (sender, mut lines) = mpsc::channel(LINES_AHEAD);
    std::thread::spawn(move || read(input, &sender));
    let mut server =
        Server { step, link: Arc::new(Link::new(output)), is_ready: false, calls: 0, running: None };
    loop {
        tokio::select! {
            // A cancel that has come before the end of its call is not for the next one.
            biased;
            line = lines.recv() => match line {
                Some(line) => if server.take(&line?)? { return Ok(()) },
                None => return Ok(()),
            },
            result = ended(&mut server.running) => server.finish(result)?,
        }
    }
}

/// Reads lines until the input ends, which closes the channel.
fn read(input: impl Read, lines: &mpsc::Sender<Result<Vec<u8>, ServeError>>) {
    let mut input = BufReader::new(input);
    loop {
        let mut line = Vec::new();
        let limit = MAX_MESSAGE_BYTES as u64 + 1;
        let read = input.by_ref().take(limit).read_until(b'\n', &mut line);
        let line = match read {
            Ok(0) => return,
            Ok(_) if line.len() > MAX_MESSAGE_BYTES => Err(ServeError::LineTooLong),
            Ok(_) => Ok(line),
            Err(e) => Err(ServeError::Lost(e)),
        };
        let is_last = line.is_err();
        if lines.blocking_send(line).is_err() || is_last {
            return;
        }
    }
}

/// A call at work. Dropped, it stops at its next await.
struct Running {
    id: Id,
    cancel: CancellationToken,
    task: JoinHandle<Result<Value, StepError>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn ended(running: &mut Option<Running>) -> Result<Result<Value, StepError>, JoinError> {
    match running {
        Some(running) => (&mut running.task).await,
        None => std::future::pending().await,
    }
}

struct Server {
    step: Arc<dyn Step>,
    link: Arc<Link>,
    is_ready: bool,
    calls: u64,
    running: Option<Running>,
}

impl Server {
    /// Takes a line, and says whether it was the last one.
    fn take(&mut self, line: &[u8]) -> std::io::Result<bool> {
        let line = line.trim_ascii();
        if line.is_empty() {
            return Ok(false);
        }
        // By way of a table: a list must not pass for a message without names.
        let table = serde_json::from_slice::<serde_json::Map<String, Value>>(line);
        let message = match table.and_then(|table| serde_json::from_value::<Incoming>(table.into())) {
            Ok(message) => message,
            Err(e) => {
                let code = if e.is_data() { INVALID_REQUEST } else { PARSE_ERROR };
                let failure = ErrorObject::new(code, "this is no message of the protocol");
                self.link.reply(None, Err(&failure))?;
                return Ok(false);
            }
        };
        match (message.method, message.id) {
            (Some(method), Some(id)) => self.request(&method, id, message.params)?,
            (Some(method), None) if method == "shutdown" => return Ok(true),
            (Some(method), None) => self.notified(&method, message.params),
            (None, Some(id)) => {
                let result = match message.error {
                    Some(failure) => Err(failure.into_step_error()),
                    None => Ok(message.result.unwrap_or_default()),
                };
                self.link.answered(&id, result);
            }
            (None, None) => {}
        }
        Ok(false)
    }

    fn notified(&mut self, method: &str, params: Value) {
        let Some(running) = self.running.as_ref().filter(|_| method == "cancel") else { return };
        if serde_json::from_value::<CancelParams>(params)
            .is_ok_and(|cancel| Id::Number(cancel.call) == running.id)
        {
            running.cancel.cancel();
        }
    }

    fn request(&mut self, method: &str, id: Id, params: Value) -> std::io::Result<()> {
        if self.running.is_some() {
            let failure = ErrorObject::new(INVALID_REQUEST, "a call is at work already");
            return self.link.reply(Some(&id), Err(&failure));
        }
        let result = match method {
            "initialize" => self.initialize(params),
            _ if !self.is_ready => Err(ErrorObject::new(INVALID_REQUEST, "`initialize` must come first")),
            "describe" => {
                to_value(&Description::from(self.step.describe())).map_err(|e| ErrorObject::from(&e))
            }
            "plan" | "observe" | "apply" | "verify" | "undo" => {
                match serde_json::from_value::<CallParams>(params) {
                    Ok(params) => {
                        self.begin(method, id, params);
                        return Ok(());
                    }
                    Err(e) => {
                        Err(ErrorObject::new(INVALID_PARAMS, format!("wrong params of `{method}`: {e}")))
                    }
                }
            }
            _ => Err(ErrorObject::new(METHOD_NOT_FOUND, format!("there is no method `{method}`"))),
        };
        self.link.reply(Some(&id), result.as_ref())
    }

    fn initialize(&mut self, params: Value) -> Result<Value, ErrorObject> {
        let params = serde_json::from_value::<InitializeParams>(params)
            .map_err(|e| ErrorObject::new(INVALID_PARAMS, format!("wrong params of `initialize`: {e}")))?;
        if !params.protocol_versions.contains(&PROTOCOL_VERSION) {
            let mut failure = ErrorObject::new(NO_COMMON_VERSION, "no common version of the protocol");
            failure.data =
                Some(ErrorData { protocol_versions: vec![PROTOCOL_VERSION], ..ErrorData::default() });
            return Err(failure);
        }
        self.link.limit(usize::try_from(params.limits.message_bytes).unwrap_or(usize::MAX));
        self.is_ready = true;
        to_value(&InitializeResult { protocol_version: PROTOCOL_VERSION, cancel: true })
            .map_err(|e| ErrorObject::from(&e))
    }

    fn begin(&mut self, method: &str, id: Id, params: CallParams) {
        self.calls += 1;
        self.link.open(self.calls);
        let cancel = CancellationToken::new();
        let host = Arc::new(CallHost { link: Arc::clone(&self.link), call: self.calls });
        let CallParams { context, config, outputs, depth } = params;
        let ctx = StepContext::new(
            context.run,
            context.node,
            context.attempt,
            context.key,
            context.project_dir.into(),
            host,
        )
        .with_state(context.handle, context.cursor)
        .with_cancel(cancel.clone());
        let (step, method) = (Arc::clone(&self.step), method.to_owned());
        let depth = depth.unwrap_or(VerifyDepth::Quick);
        let task = tokio::spawn(async move { call(&*step, &method, &ctx, &config, &outputs, depth).await });
        self.running = Some(Running { id, cancel, task });
    }

    fn finish(&mut self, result: Result<Result<Value, StepError>, JoinError>) -> std::io::Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        let result = result.unwrap_or_else(|_| {
            // Its words are on stderr already, by the panic hook.
            Err(StepError::permanent("the step panicked")
                .with_hint("its last words are in the log of the node"))
        });
        let result = result.map_err(|error| ErrorObject::from(&error));
        self.link.close(Some(&running.id), result.as_ref())
    }
}

fn to_value(value: &impl Serialize) -> Result<Value, StepError> {
    serde_json::to_value(value)
        .map_err(|e| StepError::permanent("failed to write the answer as JSON").with_source(e))
}

async fn call(
    step: &dyn Step,
    method: &str,
    ctx: &StepContext,
    config: &Value,
    outputs: &Value,
    depth: VerifyDepth,
) -> Result<Value, StepError> {
    match method {
        "plan" => to_value(&step.plan(ctx, config).await?),
        "observe" => to_value(&step.observe(ctx, config).await?),
        "apply" => Ok(json!({ "outputs": step.apply(ctx, config).await? })),
        "verify" => to_value(&step.verify(ctx, config, outputs, depth).await?),
        _ => step.undo(ctx, config, outputs).await.map(|()| json!({})),
    }
}
