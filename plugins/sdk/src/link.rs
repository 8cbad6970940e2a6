//! The way to the host: one line at a time on stdout, and the answers that are waited for.
//!
//! Invariants: a line is written whole and at once; what a call says is written before its answer or
//! not at all.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use migrate_plugin_api::protocol::{ErrorObject, Id, MAX_MESSAGE_BYTES};
use migrate_plugin_api::{LogLevel, Progress, Secret, SecretRef, StepError, StepHost, async_trait};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::message::{Outgoing, TEXT_BYTES};

/// Largest secret that is read: a key file, not a disk image. The host has the same limit.
const SECRET_BYTES: u64 = 64 * 1024;

type Answer = oneshot::Sender<Result<Value, StepError>>;

struct State {
    out: Box<dyn Write + Send>,
    message_bytes: usize,
    /// The call that may speak.
    call: Option<u64>,
    next_request: i64,
    waiting: HashMap<i64, Answer>,
    broken: Option<std::io::Error>,
}

/// Shared by the loop that reads and the call that runs.
pub(crate) struct Link {
    state: Mutex<State>,
}

/// A line that could not be written.
enum Unwritten {
    TooLong { limit: usize },
    Broken,
}

impl State {
    fn write(&mut self, message: &Outgoing<'_>) -> Result<(), Unwritten> {
        let mut line = serde_json::to_vec(message).map_err(|_| Unwritten::Broken)?;
        line.push(b'\n');
        if line.len() > self.message_bytes {
            return Err(Unwritten::TooLong { limit: self.message_bytes });
        }
        if self.broken.is_some() {
            return Err(Unwritten::Broken);
        }
        let written = self.out.write_all(&line).and_then(|()| self.out.flush());
        written.map_err(|e| {
            self.broken = Some(e);
            Unwritten::Broken
        })
    }

    fn reply(&mut self, id: Option<&Id>, result: Result<&Value, &ErrorObject>) -> std::io::Result<()> {
        let answer = Outgoing { id: Some(id), ..Outgoing::EMPTY };
        let message = match result {
            Ok(result) => Outgoing { result: Some(result), ..answer },
            Err(error) => Outgoing { error: Some(error), ..answer },
        };
        if let Err(Unwritten::TooLong { limit }) = self.write(&message) {
            let error = StepError::permanent(format!("the answer is longer than {limit} bytes"))
                .with_hint("write what is large to a file, and return its path");
            let error = ErrorObject::from(&error);
            // Nothing in it is long.
            let _ = self.write(&Outgoing { id: Some(id), error: Some(&error), ..Outgoing::EMPTY });
        }
        self.broken.take().map_or(Ok(()), Err)
    }
}

impl Link {
    pub(crate) fn new(out: impl Write + Send + 'static) -> Self {
        let state = State {
            out: Box::new(out),
            message_bytes: MAX_MESSAGE_BYTES,
            call: None,
            next_request: 0,
            waiting: HashMap::new(),
            broken: None,
        };
        Self { state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host takes no longer lines than this.
    pub(crate) fn limit(&self, message_bytes: usize) {
        self.state().message_bytes = message_bytes.min(MAX_MESSAGE_BYTES);
    }

    /// Lets call number `call` speak.
    pub(crate) fn open(&self, call: u64) {
        self.state().call = Some(call);
    }

    /// Answers a request that is no call.
    ///
    /// # Errors
    /// When the host can't be written to any more.
    pub(crate) fn reply(&self, id: Option<&Id>, result: Result<&Value, &ErrorObject>) -> std::io::Result<()> {
        self.state().reply(id, result)
    }

    /// Answers the call that is at work; it says nothing more.
    ///
    /// # Errors
    /// When the host can't be written to any more.
    pub(crate) fn close(&self, id: Option<&Id>, result: Result<&Value, &ErrorObject>) -> std::io::Result<()> {
        let mut state = self.state();
        state.call = None;
        state.waiting.clear();
        state.reply(id, result)
    }

    /// Hands the host's answer to who waits for it; what nobody waits for is dropped.
    pub(crate) fn answered(&self, id: &Id, result: Result<Value, StepError>) {
        let Id::Number(number) = id else { return };
        let waiting = self.state().waiting.remove(number);
        if let Some(waiting) = waiting {
            let _ = waiting.send(result);
        }
    }

    fn tell(&self, call: u64, method: &str, params: &Value) {
        let mut state = self.state();
        if state.call == Some(call) {
            // What can't be written is news that is lost; the answer will say the rest.
            let _ = state.write(&Outgoing { method: Some(method), params: Some(params), ..Outgoing::EMPTY });
        }
    }

    fn request(
        &self,
        call: u64,
        method: &str,
        params: &Value,
    ) -> Result<oneshot::Receiver<Result<Value, StepError>>, StepError> {
        let mut state = self.state();
        if state.call != Some(call) {
            return Err(StepError::cancelled());
        }
        state.next_request += 1;
        let number = state.next_request;
        let id = Id::Number(number);
        let message =
            Outgoing { id: Some(Some(&id)), method: Some(method), params: Some(params), ..Outgoing::EMPTY };
        state.write(&message).map_err(|e| match e {
            Unwritten::TooLong { limit } => {
                StepError::permanent(format!("what `{method}` sends is longer than {limit} bytes"))
            }
            Unwritten::Broken => StepError::cancelled(),
        })?;
        let (sender, receiver) = oneshot::channel();
        state.waiting.insert(number, sender);
        Ok(receiver)
    }
}

/// The host of one call.
pub(crate) struct CallHost {
    pub link: Arc<Link>,
    pub call: u64,
}

impl CallHost {
    async fn ask(&self, method: &str, params: Value) -> Result<Value, StepError> {
        let answer = self.link.request(self.call, method, &params)?;
        answer.await.map_err(|_| StepError::cancelled())?
    }
}

fn short(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES));
    text
}

#[async_trait]
impl StepHost for CallHost {
    fn progress(&self, mut progress: Progress) {
        progress.message = progress.message.map(short);
        // A struct of texts and numbers is always JSON.
        let params = serde_json::to_value(progress).unwrap_or_default();
        self.link.tell(self.call, "progress", &params);
    }

    fn log(&self, level: LogLevel, message: String) {
        self.link.tell(self.call, "log", &json!({ "level": level, "message": short(message) }));
    }

    fn heartbeat(&self) {
        self.link.tell(self.call, "heartbeat", &json!({}));
    }

    async fn checkpoint(&self, cursor: Value) -> Result<(), StepError> {
        self.ask("checkpoint", json!({ "cursor": cursor })).await.map(drop)
    }

    async fn set_handle(&self, handle: String) -> Result<(), StepError> {
        self.ask("set_handle", json!({ "handle": handle })).await.map(drop)
    }

    async fn secret(&self, reference: &SecretRef) -> Result<Secret, StepError> {
        let answer = self.ask("secret", json!({ "reference": reference })).await?;
        let path = answer["path"].as_str().unwrap_or_default().to_owned();
        let named = reference.to_string();
        // The file may be a pipe, whose reading may block.
        let read = tokio::task::spawn_blocking(move || read_secret(&path)).await;
        read.unwrap_or_else(|e| Err(std::io::Error::other(e)))
            .map(Secret::new)
            .map_err(|e| StepError::auth(format!("failed to read secret `{named}`")).with_source(e))
    }
}

fn read_secret(path: &str) -> std::io::Result<String> {
    use std::io::{Error, Read};
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(SECRET_BYTES + 1).read_to_string(&mut text)?;
    if read as u64 > SECRET_BYTES {
        return Err(Error::other(format!("it is longer than {SECRET_BYTES} bytes")));
    }
    Ok(text)
}
