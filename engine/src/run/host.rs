//! The engine's side of a running step: what it reports goes to the dispatcher or the reader,
//! what it asks for is looked up here.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use migrate_plugin_api::{LogLevel, NodeId, Progress, RunId, Secret, SecretRef, StepError, StepHost};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::command::Input;
use crate::ambient;
use crate::event::{EVENT_VERSION, Event, EventKind, EventSink};
use crate::store::fact::LogLine;

/// Longest log line; the rest is cut.
const MAX_LINE_BYTES: usize = 4 * 1024;

/// Most lines that one call of a step may store; later ones are only shown.
const MAX_STORED_LINES: u32 = 10_000;

/// Largest secret that is read: a key file, not a disk image.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// What executors tell the dispatcher.
pub(crate) enum Message {
    Input(Box<Input>),
    Place { node: NodeId, call: u64, place: Put, done: oneshot::Sender<()> },
    Log(LogLine),
}

/// What a step stores of its place.
pub(crate) enum Put {
    Cursor(Value),
    Handle(String),
}

/// The way from one call of a step to the dispatcher.
#[derive(Clone)]
pub(crate) struct Line {
    pub sender: mpsc::Sender<Message>,
    /// Which call it is, so that nothing is taken from one that has ended.
    pub call: u64,
}

/// When a running step was last heard of. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Beat(Arc<Mutex<Instant>>);

impl Beat {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(ambient::instant())))
    }

    fn heard(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ambient::instant();
    }

    /// Returns when nothing was heard for `limit`.
    pub(crate) async fn silence(&self, limit: Duration) {
        loop {
            let due = *self.0.lock().unwrap_or_else(PoisonError::into_inner) + limit;
            if ambient::instant() >= due {
                return;
            }
            ambient::sleep_until(due).await;
        }
    }
}

/// The host of one call.
pub(crate) struct Host {
    run: RunId,
    node: NodeId,
    project_dir: PathBuf,
    events: EventSink,
    /// `None` for calls that only read: `plan`, and `verify` outside of a run.
    dispatcher: Option<Line>,
    lines: AtomicU32,
    beat: Beat,
}

impl Host {
    pub(crate) fn new(
        run: RunId,
        node: NodeId,
        project_dir: PathBuf,
        events: EventSink,
        dispatcher: Option<Line>,
    ) -> Self {
        let (lines, beat) = (AtomicU32::new(0), Beat::new());
        Self { run, node, project_dir, events, dispatcher, lines, beat }
    }

    /// When its step was last heard of.
    pub(crate) fn beat(&self) -> Beat {
        self.beat.clone()
    }

    fn emit(&self, kind: EventKind) {
        self.events.send(Event { version: EVENT_VERSION, at: ambient::now(), run: self.run.clone(), kind });
    }

    async fn store(&self, place: Put) -> Result<(), StepError> {
        let Some(Line { sender, call }) = &self.dispatcher else {
            return Err(StepError::permanent("a call that only reads has nothing to store"));
        };
        self.beat.heard();
        let ended = |_| StepError::cancelled();
        let (done, stored) = oneshot::channel();
        let (node, call) = (self.node.clone(), *call);
        let message = Message::Place { node, call, place, done };
        sender.send(message).await.map_err(|_| StepError::cancelled())?;
        stored.await.map_err(ended)
    }
}

#[async_trait]
impl StepHost for Host {
    fn progress(&self, progress: Progress) {
        self.beat.heard();
        self.emit(EventKind::NodeProgress { node: self.node.clone(), progress });
    }

    fn log(&self, level: LogLevel, mut message: String) {
        self.beat.heard();
        if message.len() > MAX_LINE_BYTES {
            let end = (0..=MAX_LINE_BYTES).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
            message.truncate(end);
            message.push('…');
        }
        if let Some(dispatcher) = &self.dispatcher
            && self.lines.fetch_add(1, Ordering::Relaxed) < MAX_STORED_LINES
        {
            let line =
                LogLine { at: ambient::now(), node: self.node.clone(), level, message: message.clone() };
            // A full queue loses a stored line, never time.
            let _ = dispatcher.sender.try_send(Message::Log(line));
        }
        self.emit(EventKind::NodeLog { node: self.node.clone(), level, message });
    }

    fn heartbeat(&self) {
        self.beat.heard();
    }

    async fn checkpoint(&self, cursor: Value) -> Result<(), StepError> {
        self.store(Put::Cursor(cursor)).await
    }

    async fn set_handle(&self, handle: String) -> Result<(), StepError> {
        self.store(Put::Handle(handle)).await
    }

    async fn secret(&self, reference: &SecretRef) -> Result<Secret, StepError> {
        match reference {
            SecretRef::Env(name) => match std::env::var(name) {
                Ok(value) if !value.is_empty() => Ok(Secret::new(value)),
                Ok(_) => Err(StepError::auth(format!("secret `{reference}`: the variable is empty"))),
                Err(std::env::VarError::NotPresent) => {
                    Err(StepError::auth(format!("secret `{reference}`: the variable is not set"))
                        .with_hint(format!("set {name} in the environment of migrate")))
                }
                Err(std::env::VarError::NotUnicode(_)) => {
                    Err(StepError::auth(format!("secret `{reference}`: the variable is not UTF-8")))
                }
            },
            SecretRef::File(path) => {
                let path = self.project_dir.join(path);
                if let Some(warning) = open_to_others(&path) {
                    self.log(LogLevel::Warn, warning);
                }
                read_secret(&path).map_err(|why| StepError::auth(format!("secret `{reference}`: {why}")))
            }
        }
    }
}

/// Resolves a secret that is the engine's own and no step's.
pub(crate) async fn resolve(project_dir: &Path, reference: &SecretRef) -> Result<Secret, StepError> {
    let named = "a plain word is a valid name";
    let (run, node) = (RunId::new("store").expect(named), NodeId::new("store").expect(named));
    Host::new(run, node, project_dir.to_owned(), EventSink::discard(), None).secret(reference).await
}

/// Small local files: read in place.
fn read_secret(path: &Path) -> Result<Secret, String> {
    let shown = path.display();
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_SECRET_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("failed to read {shown}: {error}"))?;
    if bytes.len() as u64 > MAX_SECRET_BYTES {
        return Err(format!("{shown} is larger than {MAX_SECRET_BYTES} bytes"));
    }
    let mut text = String::from_utf8(bytes).map_err(|_| format!("{shown} is not UTF-8"))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.is_empty() { Err(format!("{shown} is empty")) } else { Ok(Secret::new(text)) }
}

#[cfg(unix)]
fn open_to_others(path: &Path) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o077 != 0).then(|| {
        let shown = path.display();
        format!(
            "the secret file {shown} can be read by others (mode {:o}); try: chmod 600 {shown}",
            mode & 0o777
        )
    })
}

#[cfg(not(unix))]
fn open_to_others(_: &Path) -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn secrets_come_from_files_and_a_missing_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("password"), "hunter2\n").unwrap();
        let host = Host::new(
            RunId::new("r").unwrap(),
            NodeId::new("n").unwrap(),
            dir.path().to_owned(),
            EventSink::discard(),
            None,
        );
        let secret = host.secret(&SecretRef::File("password".to_owned())).await.unwrap();
        assert_eq!(secret.expose(), "hunter2");
        let error = host.secret(&SecretRef::File("absent".to_owned())).await.unwrap_err();
        assert!(error.message.contains("file:absent"), "{error}");
        let error = host.secret(&SecretRef::Env("MIGRATE_TEST_ABSENT".to_owned())).await.unwrap_err();
        assert_eq!(error.message, "secret `env:MIGRATE_TEST_ABSENT`: the variable is not set");
        assert!(host.checkpoint(Value::Null).await.is_err());
    }
}
