//! The engine's side of a running step: what it reports goes to the dispatcher or the reader,
//! what it asks for is looked up here.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use migrate_plugin_api::{LogLevel, NodeId, Progress, RunId, Secret, SecretRef, StepError, StepHost};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::command::Input;
use super::secrets::Secrets;
use crate::ambient;
use crate::event::{EVENT_VERSION, Event, EventKind, EventSink};
use crate::store::fact::LogLine;

/// Longest log line; the rest is cut.
const MAX_LINE_BYTES: usize = 4 * 1024;

/// Most lines that one call of a step may store; later ones are only shown.
const MAX_STORED_LINES: u32 = 10_000;

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
    secrets: Secrets,
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
        secrets: Secrets,
        events: EventSink,
        dispatcher: Option<Line>,
    ) -> Self {
        let (lines, beat) = (AtomicU32::new(0), Beat::new());
        Self { run, node, secrets, events, dispatcher, lines, beat }
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

/// What names an outside thing is a line of text. PostgreSQL can't hold NUL in one, and a run must not
/// end for what one step says.
pub(crate) fn check_handle(handle: &str) -> Result<(), StepError> {
    match handle.chars().find(|c| c.is_control()) {
        None => Ok(()),
        Some(c) => {
            let message = format!("the step's handle has a control character in it (U+{:04X})", u32::from(c));
            Err(StepError::permanent(message).with_hint("this is a bug in the step"))
        }
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
        check_handle(&handle)?;
        self.store(Put::Handle(handle)).await
    }

    async fn secret(&self, reference: &SecretRef) -> Result<Secret, StepError> {
        self.secrets.resolve(reference, |warning| self.log(LogLevel::Warn, warning)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_that_only_reads_stores_nothing() {
        let (run, node) = (RunId::new("r").unwrap(), NodeId::new("n").unwrap());
        let host = Host::new(run, node, Secrets::default(), EventSink::discard(), None);
        assert!(host.checkpoint(Value::Null).await.is_err());
    }
}
