//! A process of the plugin, line by line: nothing is forgiven and nothing assumed.

use std::process::ExitStatus;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::ChildStdin;
use tokio::time::Instant;

use super::{PATIENCE, Suite, WORK_PATIENCE};
use crate::limits::{EXIT_GRACE, MAX_MESSAGE_BYTES, STDERR_KEPT_BYTES};
use crate::lines::{Lines, clean};
use crate::process::{Process, ending};

/// How much of a line is shown.
const SHOWN_BYTES: usize = 200;

/// How a checkpoint is answered.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Store {
    /// It is durable.
    Takes,
    /// It can't be.
    Refuses,
}

/// One process.
pub(crate) struct Wire {
    process: Process,
    stdin: Option<ChildStdin>,
    stdout: Lines,
    stderr: Lines,
    /// The end of stderr.
    words: Vec<u8>,
    last_id: i64,
    pub store: Store,
    /// What the plugin said by itself, in order.
    pub said: Vec<Value>,
}

impl Wire {
    pub(crate) fn start(suite: &Suite) -> Result<Self, String> {
        let started = Process::start(&suite.guard, &suite.launch, &suite.dir);
        let (process, streams) = started.map_err(|error| format!("it can't be started: {error}"))?;
        let (stdin, stdout) = (Some(streams.stdin), Lines::new(streams.stdout));
        let (stderr, words, said) = (Lines::new(streams.stderr), Vec::new(), Vec::new());
        Ok(Self { process, stdin, stdout, stderr, words, last_id: 0, store: Store::Takes, said })
    }

    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) -> Result<(), String> {
        let Some(stdin) = &mut self.stdin else { return Ok(()) };
        let written = tokio::time::timeout(PATIENCE, stdin.write_all(bytes)).await;
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("it can't be written to: {error}{}", self.words())),
            Err(_) => Err("it does not read its stdin".to_owned()),
        }
    }

    pub(crate) async fn send(&mut self, message: &Value) -> Result<(), String> {
        self.send_raw(format!("{message}\n").as_bytes()).await
    }

    /// Sends a request and returns its ID.
    pub(crate) async fn request(&mut self, method: &str, params: Value) -> Result<i64, String> {
        self.last_id += 1;
        let id = self.last_id;
        // In the order that the protocol promises.
        let message =
            format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":{},\"params\":{params}}}\n", json!(method));
        self.send_raw(message.as_bytes()).await?;
        Ok(id)
    }

    /// The next line, in time. `None` at the end.
    pub(crate) async fn next_line(&mut self, patience: Duration) -> Result<Option<Vec<u8>>, String> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(line) = self.stdout.next() {
                return Ok(Some(line.to_vec()));
            }
            if self.stdout.rest().len() > MAX_MESSAGE_BYTES {
                return Err(format!("a line is longer than {MAX_MESSAGE_BYTES} bytes"));
            }
            if self.stdout.ended() {
                let rest = self.stdout.rest();
                if rest.is_empty() {
                    return Ok(None);
                }
                return Err(format!("its last line has no end: {}", shown(rest)));
            }
            match tokio::time::timeout_at(deadline, self.fill()).await {
                Ok(read) => read.map_err(|error| format!("its stdout can't be read: {error}"))?,
                Err(_) => return Err(format!("nothing came in {} s{}", patience.as_secs(), self.words())),
            }
        }
    }

    /// The next message, in time. `None` at the end.
    pub(crate) async fn next(&mut self, patience: Duration) -> Result<Option<Value>, String> {
        loop {
            let Some(line) = self.next_line(patience).await? else { return Ok(None) };
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let message: Value = serde_json::from_slice(&line)
                .map_err(|error| format!("a line is no JSON ({error}): {}", shown(&line)))?;
            if message["jsonrpc"] != "2.0" {
                return Err(format!("a message has no `\"jsonrpc\":\"2.0\"`: {}", shown(&line)));
            }
            return Ok(Some(message));
        }
    }

    /// Asks and waits for the answer; serves what the plugin asks for meanwhile. Returns the whole answer.
    pub(crate) async fn ask(&mut self, method: &str, params: Value) -> Result<Value, String> {
        let patience = if params.get("context").is_some() { WORK_PATIENCE } else { PATIENCE };
        let id = self.request(method, params).await?;
        self.answer_to(id, method, patience).await
    }

    /// The answer to request `id`.
    pub(crate) async fn answer_to(
        &mut self,
        id: i64,
        method: &str,
        patience: Duration,
    ) -> Result<Value, String> {
        loop {
            let Some(message) = self.next(patience).await.map_err(|why| format!("`{method}`: {why}"))? else {
                let how = self.ended().await;
                return Err(format!("it {how} before it answered `{method}`{}", self.words()));
            };
            if message.get("method").is_some() {
                self.serve(&message).await?;
                self.said.push(message);
                continue;
            }
            if message["id"] != id {
                return Err(format!("it answered `{method}`, request {id}, as request {}", message["id"]));
            }
            return match (message.get("result"), message.get("error")) {
                (Some(_), None) => Ok(message),
                (None, Some(error)) if error["code"].is_i64() && error["message"].is_string() => Ok(message),
                (None, Some(_)) => {
                    Err(format!("its error has no integer `code` and text `message`: {message}"))
                }
                _ => Err(format!("its answer has no `result` and no `error`, or both: {message}")),
            };
        }
    }

    async fn serve(&mut self, message: &Value) -> Result<(), String> {
        let Some(id) = message.get("id") else { return Ok(()) };
        let answer = match (message["method"].as_str(), self.store) {
            (Some("checkpoint" | "set_handle"), Store::Takes) => {
                json!({ "jsonrpc": "2.0", "id": id, "result": {} })
            }
            (Some("checkpoint" | "set_handle"), Store::Refuses) => json!({
                "jsonrpc": "2.0", "id": id,
                "error": { "code": -32000, "message": "the store is full", "data": { "class": "permanent" } },
            }),
            (Some("secret"), _) => json!({
                "jsonrpc": "2.0", "id": id,
                "error": { "code": -32000, "message": "there is no secret here", "data": { "class": "auth" } },
            }),
            _ => {
                json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32601, "message": "no such method" } })
            }
        };
        self.send(&answer).await
    }

    /// The result of a request that must be done.
    pub(crate) async fn result(&mut self, method: &str, params: Value) -> Result<Value, String> {
        let mut answer = self.ask(method, params).await?;
        match answer.get("error") {
            None => Ok(answer["result"].take()),
            Some(error) => Err(format!("`{method}` was answered with an error: {error}")),
        }
    }

    /// The result of a request about a method that may be missing: `None`.
    pub(crate) async fn optional(&mut self, method: &str, params: Value) -> Result<Option<Value>, String> {
        let mut answer = self.ask(method, params).await?;
        match answer.get("error") {
            None => Ok(Some(answer["result"].take())),
            Some(error) if error["code"] == -32601 => Ok(None),
            Some(error) => Err(format!("`{method}` was answered with an error: {error}")),
        }
    }

    /// Closes the plugin's stdin.
    pub(crate) fn hang_up(&mut self) {
        self.stdin = None;
    }

    pub(crate) fn terminate(&self) {
        self.process.terminate();
    }

    /// How it ends by itself, in time: longer than the host waits, for machines that are busy with other
    /// work. What it says until then is taken in.
    pub(crate) async fn exit(&mut self) -> Result<ExitStatus, String> {
        self.exit_within(PATIENCE).await
    }

    pub(crate) async fn exit_within(&mut self, grace: Duration) -> Result<ExitStatus, String> {
        let deadline = Instant::now() + grace;
        while !self.stdout.ended() {
            while self.stdout.next().is_some() {}
            let Ok(read) = tokio::time::timeout_at(deadline, self.fill()).await else { break };
            read.map_err(|error| format!("its stdout can't be read: {error}"))?;
        }
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
        let status = self.process.wait(left).await;
        status.ok_or_else(|| format!("it still runs after {} s", grace.as_secs()))
    }

    async fn ended(&mut self) -> String {
        self.process.wait(EXIT_GRACE).await.map_or("closed its stdout".to_owned(), ending)
    }

    /// Reads on, from whichever stream has something.
    async fn fill(&mut self) -> std::io::Result<()> {
        tokio::select! {
            read = self.stdout.fill() => read,
            read = self.stderr.fill(), if !self.stderr.ended() => {
                self.words.extend_from_slice(self.stderr.rest());
                self.stderr.drop_rest();
                let excess = self.words.len().saturating_sub(STDERR_KEPT_BYTES);
                self.words.drain(..excess);
                read
            }
        }
    }

    /// The end of stderr.
    fn words(&self) -> String {
        let text = clean(String::from_utf8_lossy(&self.words).trim(), STDERR_KEPT_BYTES);
        if text.is_empty() { String::new() } else { format!("; stderr: {text}") }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // The guard ends all when nobody reads any more.
        self.stdin = None;
        self.stdout = Lines::new(tokio::io::empty());
        self.stderr = Lines::new(tokio::io::empty());
        self.process.end();
    }
}

fn shown(line: &[u8]) -> String {
    format!("`{}`", clean(&String::from_utf8_lossy(&line[..line.len().min(1024)]), SHOWN_BYTES))
}
