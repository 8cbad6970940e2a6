//! The protocol over three streams: what is asked, what is answered, and what is said in between.
//!
//! Invariants: one request of the host at a time; a `checkpoint` or `set_handle` is answered when it
//! is durable and not before; nothing that breaks the protocol is overlooked; neither the memory that a
//! plugin takes here nor the lines that it logs have no bound. It knows no processes: whoever owns one
//! lends what ends it.

use std::time::Duration;

use migrate_plugin_api::protocol::{
    ArtifactParams, CancelParams, CheckpointParams, Empty, ErrorObject, FAILED, HandleParams, HostInfo, Id,
    InitializeParams, InitializeResult, Limits, LogParams, METHOD_NOT_FOUND, NO_COMMON_VERSION, Notification,
    PROTOCOL_VERSION, Request, SecretParams, Two,
};
use migrate_plugin_api::{LogLevel, Progress, StepContext, StepError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use crate::limits::{
    CANCEL_GRACE, HANDSHAKE_LIMIT, MAX_LINE_BYTES, MAX_LINES_A_SECOND, MAX_MESSAGE_BYTES, MAX_OUTBOX_BYTES,
    MAX_OUTPUT_BYTES, TERM_GRACE,
};
use crate::lines::{Lines, clean};
use crate::rate::{Pass, Rate};
use crate::stderr::Stderr;
use crate::vault::Vault;

/// How much of a wrong line is shown.
const SHOWN_BYTES: usize = 80;

/// Why a request came to nothing.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The plugin says why.
    Refused(ErrorObject),
    /// The plugin broke the protocol: how.
    Broken(String),
    /// Its stdout ended before the answer.
    Ended,
    /// It didn't answer in time.
    Late(Duration),
    /// It was asked to stop, and was ended or ended itself.
    Stopped,
}

/// Asks all processes of the plugin to end.
pub(crate) type Terminate<'a> = &'a (dyn Fn() + Sync);

/// Any message of the plugin.
#[derive(Deserialize)]
struct Incoming {
    #[allow(dead_code, reason = "only that it is there and right")]
    jsonrpc: Two,
    #[serde(default)]
    id: Option<Id>,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    params: Value,
    #[serde(default, deserialize_with = "there")]
    result: Option<Value>,
    #[serde(default)]
    error: Option<ErrorObject>,
}

/// `null` is a result too.
fn there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// The host's side of a conversation.
pub(crate) struct Conversation {
    stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    stdout: Lines,
    stderr: Stderr,
    outbox: Vec<u8>,
    written: usize,
    last_id: i64,
    reads_cancel: bool,
    lines: Rate,
    unknown: bool,
    vault: Vault,
}

/// What one request is made with.
struct Turn<'a> {
    id: i64,
    method: &'a str,
    /// There is none before and between calls: nothing may be said then.
    ctx: Option<&'a StepContext>,
    progress: Option<Progress>,
}

/// How far stopping has come.
#[derive(PartialEq)]
enum Stop {
    Not,
    Asked,
    Terminated,
}

impl Conversation {
    pub(crate) fn new(
        stdin: impl AsyncWrite + Send + Unpin + 'static,
        stdout: impl AsyncRead + Send + Unpin + 'static,
        stderr: impl AsyncRead + Send + Unpin + 'static,
    ) -> Self {
        Self {
            stdin: Some(Box::new(stdin)),
            stdout: Lines::new(stdout),
            stderr: Stderr::new(stderr),
            outbox: Vec::new(),
            written: 0,
            last_id: 0,
            reads_cancel: false,
            lines: Rate::new(),
            unknown: false,
            vault: Vault::default(),
        }
    }

    /// The secrets that may be asked for from now on.
    pub(crate) fn lend(&mut self, vault: Vault) {
        self.vault = vault;
    }

    /// The end of stderr, for the error.
    pub(crate) fn last_words(&self) -> Option<&str> {
        let words = self.stderr.last_words();
        (!words.is_empty()).then_some(words)
    }

    /// Agrees about the protocol.
    ///
    /// # Errors
    /// `Broken` where there is no common version.
    pub(crate) async fn initialize(&mut self) -> Result<(), Fault> {
        let params = InitializeParams {
            protocol_versions: vec![PROTOCOL_VERSION],
            host: HostInfo { name: "migrate".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() },
            limits: Limits {
                message_bytes: MAX_MESSAGE_BYTES as u64,
                output_bytes: MAX_OUTPUT_BYTES,
                cancel_grace_seconds: CANCEL_GRACE.as_secs(),
            },
        };
        let answer = self.ask("initialize", &params, None, &|| {}).await.map_err(|fault| match fault {
            Fault::Refused(error) if error.code == NO_COMMON_VERSION => {
                let spoken = error.data.map(|data| data.protocol_versions).unwrap_or_default();
                Fault::Broken(other_version(&spoken))
            }
            fault => fault,
        })?;
        let result: InitializeResult = self.read("initialize", answer)?;
        if result.protocol_version != PROTOCOL_VERSION {
            return Err(Fault::Broken(other_version(&[result.protocol_version])));
        }
        self.reads_cancel = result.cancel;
        Ok(())
    }

    /// A result as a `T`.
    ///
    /// # Errors
    /// `Broken` when it is none, or holds a secret.
    pub(crate) fn read<T: DeserializeOwned>(&self, method: &str, answer: Value) -> Result<T, Fault> {
        if let Some(place) = self.vault.find(&answer) {
            let place = if place.is_empty() { "itself" } else { &place };
            return Err(Fault::Broken(format!("the result of `{method}` holds a secret, at {place}")));
        }
        // The text of the error may quote the value, in which no secret is any more.
        serde_json::from_value(answer)
            .map_err(|error| Fault::Broken(format!("the result of `{method}` has another form: {error}")))
    }

    /// Asks, and takes in everything that is said before the answer comes. With `ctx` it is a call, which
    /// may be cancelled and may say things; without, it is answered soon.
    ///
    /// # Errors
    /// See [`Fault`]. After any but `Refused` the plugin is to be ended.
    pub(crate) async fn ask(
        &mut self,
        method: &str,
        params: &impl Serialize,
        ctx: Option<&StepContext>,
        terminate: Terminate<'_>,
    ) -> Result<Value, Fault> {
        self.last_id += 1;
        let id = self.last_id;
        let request = Request { jsonrpc: Two::V2, id: Id::Number(id), method: method.to_owned(), params };
        self.send(&request)?;
        let mut turn = Turn { id, method, ctx, progress: None };
        let answer = self.listen(&mut turn, terminate).await;
        self.tell_left_out(ctx);
        answer
    }

    async fn listen(&mut self, turn: &mut Turn<'_>, terminate: Terminate<'_>) -> Result<Value, Fault> {
        let mut stop = Stop::Not;
        let mut due = turn.ctx.is_none().then(|| Instant::now() + HANDSHAKE_LIMIT);
        // Anything of the last turn that is still there is said out of turn.
        loop {
            if let Some(answer) = self.take_messages(turn).await? {
                return answer.map_err(Fault::Refused);
            }
            if self.stdout.ended() {
                let terminated = due.filter(|_| stop == Stop::Terminated);
                self.hear_all(turn.ctx, terminated.unwrap_or_else(|| Instant::now() + TERM_GRACE)).await;
                return Err(if stop == Stop::Not { self.ended() } else { Fault::Stopped });
            }
            let cancelled = async {
                match turn.ctx {
                    Some(ctx) if stop == Stop::Not => ctx.cancel.cancelled().await,
                    _ => std::future::pending().await,
                }
            };
            let outbox = &self.outbox[self.written..];
            tokio::select! {
                () = cancelled => {
                    stop = Stop::Asked;
                    let params = CancelParams { call: turn.id };
                    self.send(&Notification { jsonrpc: Two::V2, method: "cancel".to_owned(), params })?;
                    due = Some(Instant::now() + if self.reads_cancel { CANCEL_GRACE } else { Duration::ZERO });
                }
                () = until(due) => match stop {
                    Stop::Not => return Err(Fault::Late(HANDSHAKE_LIMIT)),
                    Stop::Asked => {
                        terminate();
                        stop = Stop::Terminated;
                        due = Some(Instant::now() + TERM_GRACE);
                    }
                    Stop::Terminated => return Err(Fault::Stopped),
                },
                wrote = write(&mut self.stdin, outbox), if !outbox.is_empty() => match wrote {
                    Ok(count) => self.wrote(count),
                    // It reads no more; what it says, and its end, tell why.
                    Err(_) => self.hang_up(),
                },
                // Where nothing is taken from us, nothing is taken in.
                read = self.stdout.fill(), if outbox.len() < MAX_OUTBOX_BYTES => {
                    read.map_err(|error| Fault::Broken(format!("its stdout can't be read: {error}")))?;
                }
                read = self.stderr.fill(), if !self.stderr.ended() => self.hear(turn.ctx, read)?,
            }
        }
    }

    /// Says that nothing more will be asked.
    pub(crate) async fn shut_down(&mut self) {
        let goodbye = Notification { jsonrpc: Two::V2, method: "shutdown".to_owned(), params: Empty {} };
        if self.send(&goodbye).is_ok()
            && let Some(stdin) = &mut self.stdin
        {
            // It fits into the pipe, or nobody reads.
            let rest = &self.outbox[self.written..];
            let _ = tokio::time::timeout(TERM_GRACE, stdin.write_all(rest)).await;
            let _ = stdin.flush().await;
        }
        self.hang_up();
    }

    /// Takes in what comes until the plugin's stdout ends, and answers nothing.
    ///
    /// # Errors
    /// `Broken` where it goes on answering.
    pub(crate) async fn drain(&mut self, ctx: Option<&StepContext>) -> Result<(), Fault> {
        while !self.stdout.ended() {
            while let Some(line) = self.stdout.next() {
                if let Ok(Incoming { id: Some(id), method: None, .. }) = serde_json::from_slice(line) {
                    let id = clean(&self.vault.mask(&id.to_string()), SHOWN_BYTES);
                    return Err(Fault::Broken(format!("it answered request {id} twice, or was not asked")));
                }
            }
            tokio::select! {
                read = self.stdout.fill() => if read.is_err() { break },
                read = self.stderr.fill(), if !self.stderr.ended() => self.hear(ctx, read)?,
            }
            self.within_bounds()?;
        }
        self.hear_all(ctx, Instant::now() + TERM_GRACE).await;
        self.tell_left_out(ctx);
        Ok(())
    }

    fn hang_up(&mut self) {
        self.stdin = None;
        self.outbox.clear();
        self.written = 0;
    }

    fn send(&mut self, message: &impl Serialize) -> Result<(), Fault> {
        if self.stdin.is_none() {
            return Ok(());
        }
        let began = self.outbox.len();
        if let Err(error) = serde_json::to_writer(&mut self.outbox, message) {
            return Err(Fault::Refused(ErrorObject::new(
                FAILED,
                format!("failed to write as JSON: {error}"),
            )));
        }
        self.outbox.push(b'\n');
        if self.outbox.len() - began > MAX_MESSAGE_BYTES {
            self.outbox.truncate(began);
            let message = format!("what it would have to be told is longer than {MAX_MESSAGE_BYTES} bytes");
            return Err(Fault::Refused(ErrorObject::new(FAILED, message)));
        }
        Ok(())
    }

    fn wrote(&mut self, count: usize) {
        self.written += count;
        if self.written == self.outbox.len() {
            self.outbox.clear();
            self.written = 0;
        }
    }

    fn within_bounds(&self) -> Result<(), Fault> {
        if self.stdout.rest().len() >= MAX_MESSAGE_BYTES {
            return Err(Fault::Broken(format!(
                "a line of its stdout is longer than {MAX_MESSAGE_BYTES} bytes"
            )));
        }
        for (name, total) in [("stdout", self.stdout.total()), ("stderr", self.stderr.total())] {
            if total > MAX_OUTPUT_BYTES {
                return Err(Fault::Broken(format!("it wrote more than {MAX_OUTPUT_BYTES} bytes to {name}")));
            }
        }
        Ok(())
    }

    /// Stdout ended, and no answer had come.
    fn ended(&self) -> Fault {
        let rest = self.stdout.rest();
        if rest.is_empty() {
            return Fault::Ended;
        }
        Fault::Broken(format!("its stdout ended in the middle of a message: {}", self.shown(rest)))
    }

    /// Takes in all messages that have come. An answer ends it.
    async fn take_messages(
        &mut self,
        turn: &mut Turn<'_>,
    ) -> Result<Option<Result<Value, ErrorObject>>, Fault> {
        let mut answer = None;
        while let Some(line) = self.stdout.next() {
            if line.is_empty() {
                continue;
            }
            if line.len() >= MAX_MESSAGE_BYTES {
                let message = format!("a line of its stdout is longer than {MAX_MESSAGE_BYTES} bytes");
                return Err(Fault::Broken(message));
            }
            let incoming = match serde_json::from_slice::<Incoming>(line) {
                Ok(incoming) => incoming,
                Err(_) => {
                    let line = line.to_vec();
                    return Err(Fault::Broken(format!(
                        "a line of its stdout is no message: {}; stdout is for messages alone, stderr is for text",
                        self.shown(&line)
                    )));
                }
            };
            let Incoming { id, method, params, result, error, .. } = incoming;
            match (method, id) {
                (None, id) => {
                    answer = Some(self.answer(turn, id, result, error)?);
                    break;
                }
                (Some(method), Some(id)) => self.serve(turn, id, &method, params).await?,
                (Some(method), None) => self.told(turn, &method, params)?,
            }
        }
        if let (Some(progress), Some(ctx)) = (turn.progress.take(), turn.ctx) {
            ctx.progress(progress);
        }
        self.within_bounds()?;
        Ok(answer)
    }

    fn answer(
        &self,
        turn: &Turn<'_>,
        id: Option<Id>,
        result: Option<Value>,
        error: Option<ErrorObject>,
    ) -> Result<Result<Value, ErrorObject>, Fault> {
        let method = turn.method;
        let Some(id) = id else {
            let why = error.map(|error| error.message).unwrap_or_default();
            let why = clean(&self.vault.mask(&why), MAX_LINE_BYTES);
            return Err(Fault::Broken(format!("it could not read `{method}`: {why}")));
        };
        if id != Id::Number(turn.id) {
            let id = clean(&self.vault.mask(&id.to_string()), SHOWN_BYTES);
            return Err(Fault::Broken(format!("it answered request {id}, which nobody waits for")));
        }
        match (result, error) {
            (Some(result), None) => Ok(Ok(result)),
            (None, Some(error)) => Ok(Err(self.cleaned(error))),
            _ => Err(Fault::Broken(format!(
                "its answer to `{method}` has no `result` and no `error`, or both"
            ))),
        }
    }

    /// An error of the plugin as it may be shown.
    fn cleaned(&self, mut error: ErrorObject) -> ErrorObject {
        let text = |text: &mut String| *text = clean(&self.vault.mask(text), MAX_LINE_BYTES);
        text(&mut error.message);
        if let Some(data) = &mut error.data {
            data.hint.iter_mut().for_each(text);
            data.causes.iter_mut().for_each(text);
            data.causes.truncate(10);
        }
        error
    }

    /// A request of the plugin.
    async fn serve(&mut self, turn: &mut Turn<'_>, id: Id, method: &str, params: Value) -> Result<(), Fault> {
        let Some(ctx) = turn.ctx else { return Err(self.out_of_turn(turn, method)) };
        let done = match method {
            "checkpoint" | "set_handle" if turn.method != "apply" => Err(StepError::permanent(format!(
                "only `apply` has something to store, not `{}`",
                turn.method
            ))),
            "checkpoint" => {
                let CheckpointParams { cursor } = self.params(method, params)?;
                match self.vault.find(&cursor) {
                    None => ctx.checkpoint(&cursor).await.map(|()| json!({})),
                    Some(_) => Err(StepError::permanent("the cursor holds a secret")),
                }
            }
            "set_handle" => {
                let HandleParams { handle } = self.params(method, params)?;
                match self.vault.find(&Value::from(handle.as_str())) {
                    None => ctx.set_handle(handle).await.map(|()| json!({})),
                    Some(_) => Err(StepError::permanent("the handle holds a secret")),
                }
            }
            "secret" => {
                let SecretParams { reference } = self.params(method, params)?;
                self.vault.give(ctx, &reference).await.map(|given| json!({ "path": given.path }))
            }
            _ => {
                let message = format!("there is no method `{}`", clean(method, SHOWN_BYTES));
                let error = ErrorObject::new(METHOD_NOT_FOUND, message);
                return self.send(&json!({ "jsonrpc": Two::V2, "id": id, "error": error }));
            }
        };
        match done {
            Ok(result) => self.send(&json!({ "jsonrpc": Two::V2, "id": id, "result": result })),
            Err(error) => {
                self.send(&json!({ "jsonrpc": Two::V2, "id": id, "error": ErrorObject::from(&error) }))
            }
        }
    }

    /// A notification of the plugin.
    fn told(&mut self, turn: &mut Turn<'_>, method: &str, params: Value) -> Result<(), Fault> {
        let Some(ctx) = turn.ctx else { return Err(self.out_of_turn(turn, method)) };
        match method {
            "progress" => {
                let mut progress: Progress = self.params(method, params)?;
                let shown = |text: String| clean(&self.vault.mask(&text), MAX_LINE_BYTES);
                progress.message = progress.message.map(shown);
                turn.progress = Some(progress);
            }
            "log" => {
                let LogParams { level, message } = self.params(method, params)?;
                self.log(ctx, level, &message);
            }
            "artifact" => {
                let ArtifactParams { name, path } = self.params(method, params)?;
                self.log(ctx, LogLevel::Info, &format!("{name}: {path}"));
            }
            "heartbeat" => ctx.heartbeat(),
            _ if self.unknown => {}
            _ => {
                self.unknown = true;
                let method = clean(&self.vault.mask(method), SHOWN_BYTES);
                self.log(ctx, LogLevel::Warn, &format!("the plugin sends `{method}`, which means nothing"));
            }
        }
        Ok(())
    }

    fn out_of_turn(&self, turn: &Turn<'_>, method: &str) -> Fault {
        let method = clean(&self.vault.mask(method), SHOWN_BYTES);
        Fault::Broken(format!("it sent `{method}` during `{}`, where there is nothing to say", turn.method))
    }

    fn params<T: DeserializeOwned>(&self, method: &str, params: Value) -> Result<T, Fault> {
        serde_json::from_value(params).map_err(|error| {
            let error = clean(&self.vault.mask(&error.to_string()), MAX_LINE_BYTES);
            Fault::Broken(format!("the params of its `{method}` have another form: {error}"))
        })
    }

    fn log(&mut self, ctx: &StepContext, level: LogLevel, text: &str) {
        if self.passes(ctx) {
            ctx.log(level, clean(&self.vault.mask(text), MAX_LINE_BYTES));
        }
    }

    /// Whether a line for the log passes now. Tells how many did not.
    fn passes(&mut self, ctx: &StepContext) -> bool {
        let left_out = match self.lines.pass(Instant::now()) {
            Pass::No => {
                ctx.heartbeat();
                return false;
            }
            Pass::Yes { left_out } => left_out,
        };
        if left_out > 0 {
            ctx.warn(left_out_line(left_out));
        }
        true
    }

    fn tell_left_out(&mut self, ctx: Option<&StepContext>) {
        let left_out = self.lines.take_left_out();
        if let Some(ctx) = ctx.filter(|_| left_out > 0) {
            ctx.warn(left_out_line(left_out));
        }
    }

    /// Lines of stderr.
    fn hear(&mut self, ctx: Option<&StepContext>, read: std::io::Result<()>) -> Result<(), Fault> {
        if read.is_err() {
            return Err(Fault::Broken("its stderr can't be read".to_owned()));
        }
        let said = self.stderr.take(&self.vault);
        if let Some(ctx) = ctx {
            for line in said {
                if self.passes(ctx) {
                    ctx.info(line);
                }
            }
            // What is dropped is a sign of life too.
            if self.stderr.drops() {
                ctx.heartbeat();
            }
        }
        self.within_bounds()
    }

    /// What is left of stderr, once stdout has ended: the same end ends both.
    async fn hear_all(&mut self, ctx: Option<&StepContext>, deadline: Instant) {
        while !self.stderr.ended() {
            let read = tokio::time::timeout_at(deadline, self.stderr.fill()).await;
            let Ok(read) = read else { return };
            if self.hear(ctx, read).is_err() {
                return;
            }
        }
    }

    fn shown(&self, line: &[u8]) -> String {
        format!("`{}`", self.vault.show(line, SHOWN_BYTES))
    }
}

fn other_version(spoken: &[u32]) -> String {
    let spoken = spoken.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let spoken = if spoken.is_empty() { "another version".to_owned() } else { format!("version {spoken}") };
    format!("it speaks {spoken} of the protocol, and this migrate speaks version {PROTOCOL_VERSION}")
}

fn left_out_line(left_out: u64) -> String {
    format!("{left_out} lines were left out: the plugin logs more than {MAX_LINES_A_SECOND} a second")
}

async fn write(
    stdin: &mut Option<Box<dyn AsyncWrite + Send + Unpin>>,
    bytes: &[u8],
) -> std::io::Result<usize> {
    match stdin {
        Some(stdin) => match stdin.write(bytes).await {
            Ok(0) => Err(std::io::ErrorKind::WriteZero.into()),
            wrote => wrote,
        },
        None => std::future::pending().await,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
